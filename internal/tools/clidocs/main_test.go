package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/cli"
)

// The committed pages are those of the commands.
func TestPagesAreFresh(t *testing.T) {
	if err := compare("../../../docs/cli", cli.Manual()); err != nil {
		t.Fatal(err)
	}
}

func TestCompareNotices(t *testing.T) {
	made := cli.Manual()
	for name, spoil := range map[string]func(dir string) error{
		"Changed": func(dir string) error { return os.WriteFile(filepath.Join(dir, "muster.md"), nil, 0o600) },
		"Missing": func(dir string) error { return os.Remove(filepath.Join(dir, "muster_job.md")) },
		"TooMany": func(dir string) error { return os.WriteFile(filepath.Join(dir, "muster_gone.md"), nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := write(dir, made); err != nil {
				t.Fatal(err)
			}
			if err := compare(dir, made); err != nil {
				t.Fatalf("fresh pages: %v", err)
			}
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			if err := compare(dir, made); err == nil || !strings.Contains(err.Error(), "make generate") {
				t.Errorf("got %v", err)
			}
		})
	}
}
