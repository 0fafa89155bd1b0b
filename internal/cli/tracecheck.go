package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

// progressEvery is how often a long command says how far it is.
const progressEvery = 5 * time.Second

func (a *app) traceCheck() *cobra.Command {
	c := &cobra.Command{
		Use: "check [JOB]", Short: "Check that all stored traces are still what was stored", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeJobs,
		Long: "Read all stored traces, or those that the flags select, and check the chain of hashes, the seal and the signature of each. Without JOB and\n" +
			"flags also find objects in the archive that belong to no trace; those are deleted by themselves when they are a week old.\n\n" +
			"A problem is one of:\n\n" +
			"  damaged      a segment is missing or was changed; the trace is truncated or lost from then on\n" +
			"  seal         the seal is missing, or is of something else\n" +
			"  attestation  the signed statement is not of this trace, or not signed with the control plane's key\n" +
			"  extra        there are segments beyond the seal; nobody reads them\n" +
			"  orphan       objects in the archive that belong to no trace\n" +
			"  unread       it could not be checked now: ask again\n\n" +
			"What was damaged and is whole again, from a backup say, is what it was. How far the check is goes to standard error. The exit status is 1 if\n" +
			"there is a problem. With --json, one object per problem and line, {\"problem\": {…}}, and at the end {\"stats\": {…}}.\n\n" + traceArg,
		Example: "  muster trace check\n  muster trace check --since 7d --json | jq .problem.trace.id",
	}
	var w which
	w.flags(a, c, "")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		if len(args) > 0 {
			if w.job != "" && w.job != args[0] {
				return usagef("the job is named twice, as %s and by --job", args[0])
			}
			w.job = args[0]
		}
		sel, err := w.selection(cmd.Context(), a, api)
		if err != nil {
			return err
		}
		stream, err := api.traces.CheckTraces(cmd.Context(), &v1.CheckTracesRequest{Selection: sel})
		if err != nil {
			return err
		}
		defer stream.Close()
		var last *v1.CheckTracesResponse
		said := time.Duration(0)
		for stream.Receive() {
			last = stream.Msg()
			for _, p := range last.Problems {
				if err := a.printProblem(p); err != nil {
					return err
				}
			}
			if took := last.Stats.GetTook().AsDuration(); !last.Done && took-said >= progressEvery {
				said = took
				fmt.Fprintln(a.Stderr, checkProgress(last.Stats))
			}
		}
		if err := stream.Err(); err != nil {
			return err
		}
		if !last.GetDone() {
			return fmt.Errorf("the check broke off; ask again")
		}
		if err := a.printTally(last.Stats); err != nil {
			return err
		}
		if len(last.Stats.Problems) > 0 {
			return errReported
		}
		return nil
	})
}

func checkProgress(s *v1.TraceCheckStats) string {
	var skipped, found int32
	for _, n := range s.Skipped {
		skipped += n
	}
	for _, n := range s.Problems {
		found += n
	}
	of := plural(int(s.Traces+skipped), "trace")
	if s.Total > 0 {
		of = fmt.Sprintf("%d of %s", s.Traces+skipped, plural(int(s.Total), "trace"))
	}
	return fmt.Sprintf("%s looked at, %s read, %s, %s", of, size(s.Bytes), plural(int(found), "problem"), span(s.Took))
}

func (a *app) printProblem(p *v1.TraceProblem) error {
	if a.json {
		return a.wrapped("problem", p)
	}
	of := p.Trace.GetId()
	if job := traceJob(p.Trace); job != "" {
		of += " (job " + job + ")"
	}
	s := red
	if p.Kind == "orphan" || p.Kind == "extra" || p.Kind == "unread" {
		s = yellow
	}
	_, err := fmt.Fprintf(a.Stdout, "%s  %s  %s\n", a.paint(s, fmt.Sprintf("%-11s", printable(p.Kind))), printable(of), printable(oneLine(p.Text)))
	return err
}

// printTally ends a check.
func (a *app) printTally(s *v1.TraceCheckStats) error {
	if a.json {
		return a.wrapped("stats", s)
	}
	var bad, mended []string
	for _, kind := range []string{"damaged", "seal", "attestation", "extra", "orphan", "unread"} {
		if n := s.Problems[kind]; n > 0 {
			bad = append(bad, fmt.Sprintf("%d %s", n, kind))
		}
	}
	if s.Mended > 0 {
		mended = append(mended, fmt.Sprintf("%d that were damaged are whole again", s.Mended))
	}
	if s.Unsigned > 0 {
		mended = append(mended, fmt.Sprintf("%d without an attestation", s.Unsigned))
	}
	for _, why := range []string{"recording", "deleted", "lost", "not_recorded"} {
		if n := s.Skipped[why]; n > 0 {
			mended = append(mended, fmt.Sprintf("%d not checked: %s", n, strings.ReplaceAll(why, "_", " ")))
		}
	}
	style, verdict := green, "no problems"
	if len(bad) > 0 {
		style, verdict = red, "problems: "+strings.Join(bad, ", ")
	}
	line := fmt.Sprintf("%s checked, %s, %s", plural(int(s.Traces), "trace"), size(s.Bytes), cmp.Or(span(s.Took), "0s"))
	if len(mended) > 0 {
		line += "; " + strings.Join(mended, ", ")
	}
	_, err := fmt.Fprintf(a.Stdout, "%s; %s\n", line, a.paint(style, verdict))
	return err
}
