package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
)

func (a *app) rulesCommand() *cobra.Command {
	return group("rules", "Detection rules: what is looked for in traces, and how", a.rulesList(), a.rulesShow(), a.rulesTest(), a.rulesDocs())
}

const rulesDir = "folder with rules of your own, *.yaml, which are added to the shipped ones"

// loadRules loads the shipped rules and those of a folder, which flag named.
func loadRules(flag, dir string) (*detect.Rules, error) {
	var own fs.FS
	if dir != "" {
		info, err := os.Stat(dir)
		if err != nil {
			return nil, usagef("%s%s", flag, err)
		}
		if !info.IsDir() {
			return nil, usagef("%s%s is no folder", flag, dir)
		}
		own = os.DirFS(dir)
	}
	rules, err := detect.Load(own)
	if err != nil {
		return nil, fmt.Errorf("load rules: %w", err)
	}
	return rules, nil
}

// oneRule finds a rule by its name.
func oneRule(rules *detect.Rules, name string) (detect.Rule, error) {
	all := rules.List()
	if i := slices.IndexFunc(all, func(r detect.Rule) bool { return r.Name == name }); i >= 0 {
		return all[i], nil
	}
	return detect.Rule{}, fmt.Errorf("there is no rule %q; muster rules list shows every one", name)
}

func completeRules(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	rules, err := detect.Shipped()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, r := range rules.List() {
		names = append(names, r.Name+"\t"+string(r.Severity))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) rulesList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the detection rules, the most severe first"}
	dir := c.Flags().String("dir", "", rulesDir)
	asJSON := c.Flags().Bool("json", false, "print a list of objects")
	return a.local(c, func(*cobra.Command, []string) error {
		rules, err := loadRules("--dir: ", *dir)
		if err != nil {
			return err
		}
		all := rules.List()
		slices.SortStableFunc(all, func(x, y detect.Rule) int { return cmp.Compare(rank(y.Severity), rank(x.Severity)) })
		if *asJSON {
			out := []map[string]any{}
			for _, r := range all {
				out = append(out, ruleFacts(r))
			}
			return a.printJSON(out)
		}
		t := a.table("SEVERITY", "RULE", "WHAT IT SAYS", "LOOKS AT", "FROM")
		for _, r := range all {
			what := cell{string(r.Severity), severityStyle(string(r.Severity))}
			if r.Disabled {
				what = cell{"off", dim}
			}
			t.row(what, r.Name, r.Title, strings.Join(looksAt(r), ", "), r.File)
		}
		return t.fitted(a.Stdout, "No rules.")
	})
}

func rank(s muster.Severity) int { return slices.Index(muster.Severities, s) }

func ruleFacts(r detect.Rule) map[string]any {
	return map[string]any{
		"name": r.Name, "severity": r.Severity, "title": r.Title, "looks_at": looksAt(r), "explanation": words(r.Explanation), "remedy": words(r.Remedy),
		"references": append([]string{}, r.References...), "disabled": r.Disabled, "tests": len(r.Tests), "file": r.File,
	}
}

// looksAt are the types of events that a rule is about.
func looksAt(r detect.Rule) []string {
	var out []string
	add := func(types []trace.Type) {
		for _, t := range types {
			if !slices.Contains(out, string(t)) {
				out = append(out, string(t))
			}
		}
	}
	add(r.On)
	for _, s := range r.Sequence {
		add(s.On)
	}
	return out
}

func (a *app) rulesShow() *cobra.Command {
	c := &cobra.Command{Use: "show RULE", Short: "Show a rule as it is written: conditions, exceptions, tests", Args: cobra.ExactArgs(1), ValidArgsFunction: completeRules,
		Long: "Show a rule as it is written, in YAML: its conditions, exceptions and tests. A file with a rule of the same name replaces it;\nan override in a file of your own changes its severity, turns it off, or adds exceptions."}
	dir := c.Flags().String("dir", "", rulesDir)
	asJSON := c.Flags().Bool("json", false, "print an object")
	return a.local(c, func(_ *cobra.Command, args []string) error {
		rules, err := loadRules("--dir: ", *dir)
		if err != nil {
			return err
		}
		r, err := oneRule(rules, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(ruleFacts(r))
		}
		text, err := yaml.MarshalWithOptions(map[string]any{"rules": []detect.Rule{r}}, yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
		if err != nil {
			return fmt.Errorf("write rule %s: %w", r.Name, err)
		}
		_, err = a.Stdout.Write(text)
		return err
	})
}

func (a *app) rulesTest() *cobra.Command {
	c := &cobra.Command{
		Use: "test [DIR]", Short: "Run the tests beside the rules, or try the rules on a trace", Args: cobra.MaximumNArgs(1),
		Long: "Run the tests that stand beside the rules: the shipped ones and those in a folder of your own. Every rule needs a test in which it fires\n" +
			"and one in which it does not.\n\nWith --trace, run the rules over the events of a job instead, as muster trace get downloads them, and list what they find.",
		Example: "  muster rules test ./rules\n  muster trace get 48211905223 -o job.jsonl && muster rules test ./rules --trace job.jsonl",
	}
	file := c.Flags().String("trace", "", "JSON Lines of a trace to try the rules on; - for standard input")
	checkout := c.Flags().String("workspace", "", "directory of the job's checkout, with --trace")
	return a.local(c, func(_ *cobra.Command, args []string) error {
		dir := ""
		if len(args) > 0 {
			dir = args[0]
		}
		rules, err := loadRules("", dir)
		if err != nil {
			return err
		}
		if *file != "" {
			return a.tryRules(rules, *file, *checkout)
		}
		failed := rules.Check()
		for _, err := range failed {
			fmt.Fprintln(a.Stdout, a.paint(red, "failed: ")+err.Error())
		}
		tests := 0
		for _, r := range rules.List() {
			tests += len(r.Tests)
		}
		if len(failed) > 0 {
			fmt.Fprintf(a.Stdout, "%s of %s of %s\n", plural(len(failed), "failure"), plural(tests, "test"), plural(len(rules.List()), "rule"))
			return errReported
		}
		_, err = fmt.Fprintf(a.Stdout, "%s of %s passed\n", plural(tests, "test"), plural(len(rules.List()), "rule"))
		return err
	})
}

// tryRules runs rules over the events in a file.
func (a *app) tryRules(rules *detect.Rules, file, checkout string) error {
	from := a.Stdin
	if file != "-" {
		f, err := os.Open(filepath.Clean(file))
		if err != nil {
			return usagef("--trace: %s", err)
		}
		defer f.Close()
		from = f
	}
	n := 0
	found, err := rules.Run(trace.Job{Workspace: checkout}, nil, counted(trace.Events(bufio.NewReader(from)), &n))
	if err != nil {
		return err
	}
	for _, d := range found {
		fmt.Fprintf(a.Stdout, "%s  %s  %s\n", a.paint(severityStyle(string(d.Severity)), string(d.Severity)), d.Rule, printable(words(d.Title)))
	}
	_, err = fmt.Fprintf(a.Stdout, "%s in %s\n", plural(len(found), "finding"), plural(n, "event"))
	return err
}

func counted(events iter.Seq2[trace.Event, error], n *int) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		for e, err := range events {
			*n++
			if !yield(e, err) {
				return
			}
		}
	}
}

func (a *app) rulesDocs() *cobra.Command {
	c := &cobra.Command{Use: "docs [RULE]", Short: "Explain a rule, or all of them, in Markdown", Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeRules,
		Long: "Explain a rule, or all of them, in Markdown: why what it finds matters, what to do, when it keeps quiet, and where it is known from."}
	dir := c.Flags().String("dir", "", rulesDir)
	return a.local(c, func(_ *cobra.Command, args []string) error {
		rules, err := loadRules("--dir: ", *dir)
		if err != nil {
			return err
		}
		all := rules.List()
		if len(args) == 1 {
			r, err := oneRule(rules, args[0])
			if err != nil {
				return err
			}
			all = []detect.Rule{r}
		}
		var b bytes.Buffer
		for i, r := range all {
			if i > 0 {
				b.WriteByte('\n')
			}
			describeRule(&b, r)
		}
		_, err = a.Stdout.Write(b.Bytes())
		return err
	})
}

func describeRule(w io.Writer, r detect.Rule) {
	fmt.Fprintf(w, "## %s\n\n%s: `%s`\n\n%s\n\n%s\n", r.Name, r.Severity, r.Title, words(r.Explanation), words(r.Remedy))
	if len(r.Except) > 0 {
		fmt.Fprintln(w, "\nIt keeps quiet:")
		fmt.Fprintln(w)
		for _, e := range r.Except {
			fmt.Fprintf(w, "- %s\n", words(cmp.Or(e.Because, e.When)))
		}
	}
	if len(r.References) > 0 {
		fmt.Fprintf(w, "\nKnown from: %s.\n", strings.Join(r.References, "; "))
	}
	if r.Disabled {
		fmt.Fprintln(w, "\nIt is turned off.")
	}
}
