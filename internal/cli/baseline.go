package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

const baselineArg = `JOB is a job, named as everywhere below muster trace, or a baseline's name as muster trace baseline list prints it.`

func (a *app) traceBaseline() *cobra.Command {
	return group("baseline", "Baselines: what a job usually does, and what is new in it",
		a.baselineList(), a.baselineShow(), a.baselineAccept(), a.baselineReset())
}

// baseline finds out which baseline is meant: names have slashes, and neither jobs, runners
// nor traces have any but in ID/ATTEMPT.
func (a *app) baseline(ctx context.Context, api *client, arg string) (*v1.BaselineRef, error) {
	if strings.Contains(arg, "/") && !strings.Contains(arg, "://") && !jobNumber.MatchString(arg) {
		return &v1.BaselineRef{Name: arg}, nil
	}
	ref, err := a.trace(ctx, api, arg)
	return &v1.BaselineRef{Trace: ref}, err
}

func (a *app) completeBaselines(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, api *client) (names []string, err error) {
		resp, err := api.traces.ListBaselines(ctx, &v1.ListBaselinesRequest{})
		for _, b := range resp.GetBaselines() {
			names = append(names, b.Name)
		}
		return names, err
	})
}

func (a *app) baselineList() *cobra.Command {
	c := &cobra.Command{
		Use: "list [TEXT]", Aliases: []string{"ls"}, Short: "List the jobs of which it is known what they usually do", Args: cobra.MaximumNArgs(1),
		Long:    "List the jobs of which it is known what they usually do, in the order of their names: OWNER/REPOSITORY/WORKFLOW/JOB. With TEXT, those that have\nit in their names.",
		Example: "  muster trace baseline list\n  muster trace baseline list octo/app/",
	}
	req := &v1.ListBaselinesRequest{}
	c.Flags().StringVar(&req.After, "after", "", "go on after this name")
	c.Flags().Int32Var(&req.Limit, "limit", 50, "how many at most, up to 500")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		if len(args) == 1 {
			req.Text = args[0]
		}
		resp, err := api.traces.ListBaselines(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("NAME", "STATE", "HOSTS", "PROGRAMS", "SECRETS", "NEW", "UPDATED")
			for _, b := range resp.Baselines {
				fresh := cell{}
				if b.Fresh > 0 {
					fresh = cell{fmt.Sprint(b.Fresh), yellow}
				}
				t.row(b.Name, baselineState(b), b.Hosts, b.Binaries, b.Sensitive, fresh, a.when(b.UpdatedAt))
			}
			if err := t.print(w, "No baselines. One is made when the first trace of a job was analysed; see docs/traces-reading.md."); err != nil {
				return err
			}
			if resp.Next != "" {
				fmt.Fprintf(w, "\nThere are more: --after %s\n", quoted(printable(resp.Next)))
			}
			return nil
		})
	})
}

// baselineState says how far a baseline has come.
func baselineState(b *v1.Baseline) cell {
	switch {
	case !b.Mature:
		return cell{fmt.Sprintf("learning, %d of %s", b.Runs, plural(int(b.MatureAfter), "run")), cyan}
	case b.Runs < b.MatureAfter:
		return cell{"accepted after " + plural(int(b.Runs), "run"), green}
	}
	return cell{"mature, " + plural(int(b.Runs), "run"), green}
}

func (a *app) baselineShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show JOB", Short: "Show what a job usually does", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeBaselines,
		Long: "Show what a job usually does: the hosts that its runs reached, the programs that they ran, and the files with secrets that they\n" +
			"opened, what is new first. * stands for what changes from run to run.\n\n" + baselineArg,
		Example: "  muster trace baseline show 48211905223\n  muster trace baseline show octo/app/ci/build --kind host",
	}
	kind := c.Flags().String("kind", "", "only facts of this kind: host, binary, sensitive")
	fresh := c.Flags().Bool("new", false, "only what is new")
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(factKinds, cobra.ShellCompDirectiveNoFileComp))
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		if *kind != "" && !slices.Contains(factKinds, *kind) {
			return usagef("--kind %q is unknown; use host, binary or sensitive", *kind)
		}
		ref, err := a.baseline(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		resp, err := api.traces.GetBaseline(cmd.Context(), &v1.GetBaselineRequest{Baseline: ref})
		if err != nil {
			return err
		}
		resp.Baseline.Facts = slices.DeleteFunc(resp.Baseline.Facts, func(f *v1.BaselineFact) bool { return *kind != "" && f.Kind != *kind || *fresh && !f.Fresh })
		return a.show(resp, func(w io.Writer) error { return a.printBaseline(w, resp.Baseline) })
	})
}

var factKinds = []string{"host", "binary", "sensitive"}

func (a *app) printBaseline(w io.Writer, b *v1.Baseline) error {
	refused := ""
	if b.Refused > 0 {
		refused = plural(int(b.Refused), "run") + ", for what rules found high or critical in them"
	}
	err := a.facts(w, "name", cell{b.Name, bold}, "state", baselineState(b), "accepted", a.act(b.Accepted), "begun anew", a.act(b.Forgotten), "not learnt", refused,
		"facts", fmt.Sprintf("%s, %s, %s", plural(int(b.Hosts), "host"), plural(int(b.Binaries), "program"), plural(int(b.Sensitive), "file")+" with secrets"), "version", b.Version, "updated", a.when(b.UpdatedAt))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := a.table("FACT", "STATE", "RUNS", "FIRST", "FROM", "LAST")
	for _, f := range b.Facts {
		s := cell{"usual", plain}
		switch {
		case f.Accepted != nil:
			s = cell{"accepted by " + a.act(f.Accepted), green}
		case f.Fresh:
			s = cell{fmt.Sprintf("new, %d of %s", f.Runs, plural(int(b.UsualAfter), "run")), yellow}
		}
		t.row(f.Kind+":"+f.What, s, f.Runs, a.when(f.FirstAt), f.Trace, a.when(f.LastAt))
	}
	return t.print(w, "Nothing of that is known.")
}

// act is who did something and when, "" if nobody did.
func (a *app) act(by *v1.OperatorAct) string {
	if by == nil {
		return ""
	}
	out := by.By + " " + a.when(by.At)
	if by.Reason != "" {
		out += ": " + by.Reason
	}
	return out
}

func (a *app) baselineAccept() *cobra.Command {
	c := &cobra.Command{
		Use: "accept JOB [FACT...]", Short: "Say that something new in a job is expected", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeBaselines,
		Long: "Say that something new in a job is expected: its next runs have no findings for it. FACT is host:NAME, binary:PATH or sensitive:PATH,\n" +
			"as findings and muster trace baseline show print it, or as a run had it; also before any did.\n\n" +
			"With --new, all that findings of JOB say was new or, of a baseline named by itself, all that is new in it. With --all, all that the\n" +
			"baseline holds; one that still learns is mature at once. Findings that are there already stay, marked as accepted.\n\n" + baselineArg,
		Example: "  muster trace baseline accept 48211905223 host:mirror.example.com --reason 'our new mirror'\n  muster trace baseline accept 48211905223 --new\n  muster trace baseline accept octo/app/ci/build --all --version 12",
	}
	req := &v1.AcceptBaselineRequest{}
	c.Flags().BoolVar(&req.Fresh, "new", false, "all that is new in the job, or in the baseline")
	c.Flags().BoolVar(&req.All, "all", false, "all that the baseline holds; it is mature at once")
	changeFlags(c, &req.Version, &req.Reason)
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) (err error) {
		req.Facts = args[1:]
		switch {
		case len(req.Facts) == 0 && !req.Fresh && !req.All:
			return usagef("nothing is named that is to be accepted; name facts such as host:mirror.example.com, or use --new or --all (muster trace baseline show %s lists what is known)", printable(quoted(args[0])))
		case len(req.Facts) > 0 && (req.Fresh || req.All):
			return usagef("use facts, --new or --all, and not two of them")
		}
		if req.Baseline, err = a.baseline(cmd.Context(), api, args[0]); err != nil {
			return err
		}
		resp, err := api.traces.AcceptBaseline(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			for _, f := range resp.Accepted {
				fmt.Fprintln(w, "accepted", printable(f))
			}
			if len(resp.Accepted) == 0 && !req.All {
				fmt.Fprintln(w, "Nothing of that was new: it is usual already, or was accepted before.")
			}
			return a.facts(w, "baseline", resp.Baseline.Name, "state", baselineState(resp.Baseline), "still new", resp.Baseline.Fresh, "version", resp.Baseline.Version)
		})
	})
}

func changeFlags(c *cobra.Command, version *int64, reason *string) {
	c.Flags().Int64Var(version, "version", 0, "only if the baseline still has this version, which show prints")
	c.Flags().StringVar(reason, "reason", "", "kept with the baseline")
}

func (a *app) baselineReset() *cobra.Command {
	c := &cobra.Command{
		Use: "reset JOB", Aliases: []string{"forget"}, Short: "Forget what a job usually does, and learn it anew", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeBaselines,
		Long:    "Forget what a job usually does, and learn it anew: also what was accepted is forgotten. Until enough runs were learnt, nothing new is\na finding. Runs that were learnt before do not teach it again.\n\n" + baselineArg,
		Example: "  muster trace baseline reset octo/app/ci/build --reason 'learnt while the mirror was hijacked'",
	}
	req := &v1.ForgetBaselineRequest{}
	changeFlags(c, &req.Version, &req.Reason)
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) (err error) {
		if req.Baseline, err = a.baseline(cmd.Context(), api, args[0]); err != nil {
			return err
		}
		resp, err := api.traces.ForgetBaseline(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s is learnt anew: nothing new in it is a finding until %s were learnt.\n", printable(resp.Baseline.Name), plural(int(resp.Baseline.MatureAfter), "run"))
			return err
		})
	})
}

var plainWord = regexp.MustCompile(`\A[A-Za-z0-9_@%+=:,./-]+\z`)

// quoted is a word as a shell reads it. Jobs choose what stands in facts.
func quoted(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// acceptance says of a finding that asks a baseline who accepted it, or what would.
func (a *app) acceptance(f *v1.Finding) []any {
	job := cmp.Or(traceJob(&v1.Trace{JobId: f.JobId, JobAttempt: f.JobAttempt}), f.Trace)
	switch {
	case f.Fact == "":
		return nil
	case f.Accepted != nil:
		return []any{"accepted", a.act(f.Accepted)}
	case printable(f.Fact) != f.Fact: // what is shown is not what would be pasted
		return []any{"if expected", "muster trace baseline accept " + job + " --new"}
	}
	return []any{"if expected", "muster trace baseline accept " + job + " " + quoted(f.Fact)}
}
