package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Manual returns the pages of the command line's manual in Markdown by file name:
// one with the list of nouns, and one for each noun with all of its commands.
func Manual() map[string]string {
	root := (&app{}).root()
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
		fmt.Fprintf(out, "\nFor example:\n\n%s\n", block(c.Example))
	}
	if flags := c.LocalFlags().FlagUsages(); flags != "" && !c.HasAvailableSubCommands() {
		fmt.Fprintf(out, "\nFlags:\n\n%s\n", block(strings.TrimRight(flags, "\n")))
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

// block makes a block of code of lines that cobra indented by two.
func block(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight("    "+strings.TrimPrefix(l, "  "), " ")
	}
	return strings.Join(lines, "\n")
}
