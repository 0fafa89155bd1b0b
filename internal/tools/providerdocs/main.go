// Command providerdocs writes the pages of the kinds of providers, docs/providers/KIND.md,
// from what the kinds say of themselves (cli.ProviderPage). internal/tools/generate.sh
// runs it; with --check it changes nothing and fails if a page is stale.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/muster-ci/muster/internal/cli"
	"github.com/muster-ci/muster/internal/server"
)

func main() {
	dir := flag.String("dir", "docs/providers", "where the pages are")
	check := flag.Bool("check", false, "only compare")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "providerdocs:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	pages := map[string]string{}
	for _, k := range server.Kinds() {
		pages[k.Kind+".md"] = cli.ProviderPage(k)
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	for _, name := range old {
		base := filepath.Base(name)
		if _, ok := pages[base]; ok || base == "README.md" {
			continue
		}
		if check {
			return fmt.Errorf("%s is of no kind any more: run make generate", name)
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	for base, text := range pages {
		name := filepath.Join(dir, base)
		was, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		switch {
		case bytes.Equal(was, []byte(text)):
		case check:
			return fmt.Errorf("%s is stale: run make generate", name)
		default:
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
