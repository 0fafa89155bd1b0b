package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The pages in the repository are those of the kinds in the program.
func TestPagesAreFresh(t *testing.T) {
	if err := run(filepath.Join("..", "..", "..", "docs", "providers"), true); err != nil {
		t.Error(err)
	}
}

func TestStaleAndStrangePages(t *testing.T) {
	dir := t.TempDir()
	if err := run(dir, true); err == nil {
		t.Error("missing pages are no problem")
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err != nil {
		t.Errorf("just written: %v", err)
	}
	for name, text := range map[string]string{"process.md": "old", "vanished.md": "of a kind that is gone"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(dir, true); err == nil {
			t.Errorf("%s is no problem", name)
		}
		if err := run(dir, false); err != nil {
			t.Fatal(err)
		}
	}
}
