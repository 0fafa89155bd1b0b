// Command clidocs writes the manual pages of the command line, docs/cli/*.md,
// from the commands themselves: one page per noun. internal/tools/generate.sh
// runs it; with --check it changes nothing and fails if a page is stale.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

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
	if err := run(*dir, pages(cli.Command(cli.Env{}, cli.Programs{}))); err != nil {
		fmt.Fprintln(os.Stderr, "clidocs:", err)
		os.Exit(1)
	}
}

// pages are the files by name: the root with its list of nouns, and a page for
// each noun with all of its commands.
func pages(root *cobra.Command) map[string]string {
	root.InitDefaultHelpFlag()
	var index strings.Builder
	fmt.Fprintf(&index, "# %s\n\nGenerated from the commands by `make generate`.\n\n%s\n\n", root.Name(), escape(root.Long))
	out := map[string]string{}
	for _, c := range root.Commands() {
		if !documented(c) {
			continue
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "_") + ".md"
		fmt.Fprintf(&index, "- [%s](%s): %s\n", c.CommandPath(), name, escape(c.Short))
		var page strings.Builder
		describe(&page, c, "#")
		out[name] = page.String()
	}
	out[root.Name()+".md"] = index.String()
	return out
}

func describe(out *strings.Builder, c *cobra.Command, level string) {
	text := c.Long
	if text == "" {
		text = c.Short
	}
	fmt.Fprintf(out, "%s %s\n\n%s\n", level, c.CommandPath(), escape(text))
	if c.HasParent() && (c.Run != nil || c.RunE != nil) && !c.HasAvailableSubCommands() {
		fmt.Fprintf(out, "\n    %s\n", c.UseLine())
	}
	if c.Example != "" {
		fmt.Fprintf(out, "\nFor example:\n\n%s\n", indent(c.Example))
	}
	if flags := c.LocalFlags().FlagUsages(); flags != "" && !c.HasAvailableSubCommands() {
		fmt.Fprintf(out, "\nFlags:\n\n%s\n", indent(strings.TrimRight(flags, "\n")))
	}
	for _, sub := range c.Commands() {
		if documented(sub) {
			out.WriteString("\n")
			describe(out, sub, "##")
		}
	}
}

func documented(c *cobra.Command) bool {
	return c.IsAvailableCommand() && c.Name() != "help" && c.Name() != "completion"
}

// escape keeps words in angle brackets from being read as HTML.
func escape(s string) string { return strings.ReplaceAll(s, "<", "&lt;") }

// indent makes a block of code of lines that cobra indented by two.
func indent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight("    "+strings.TrimPrefix(l, "  "), " ")
	}
	return strings.Join(lines, "\n")
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
