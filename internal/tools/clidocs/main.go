// Command clidocs writes the manual pages of the command line, docs/cli/*.md,
// from the commands themselves (cli.Manual). internal/tools/generate.sh
// runs it; with --check it changes nothing and fails if a page is stale.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/muster-ci/muster/internal/cli"
)

func main() {
	dir := flag.String("dir", "docs/cli", "where the pages are")
	check := flag.Bool("check", false, "only compare")
	flag.Parse()
	run := write
	if *check {
		run = compare
	}
	if err := run(*dir, cli.Manual()); err != nil {
		fmt.Fprintln(os.Stderr, "clidocs:", err)
		os.Exit(1)
	}
}

func write(dir string, pages map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compare names the first page that is not what the commands yield.
func compare(dir string, pages map[string]string) error {
	there, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	for _, name := range there {
		if _, ok := pages[filepath.Base(name)]; !ok {
			return fmt.Errorf("%s is of a command that is gone: run make generate", name)
		}
	}
	for name, text := range pages {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, []byte(text)) {
			return fmt.Errorf("%s is stale: run make generate", filepath.Join(dir, name))
		}
	}
	return nil
}
