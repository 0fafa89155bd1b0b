package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

const traceArg = `JOB is a job's id (or ID/ATTEMPT), the address of its page or of its run on GitHub, a runner's name, or a trace's id.`

func (a *app) traceCommand() *cobra.Command {
	return group("trace", "Traces: what jobs really did, as their machines recorded it",
		a.traceList(), a.traceShow(), a.traceGet(), a.traceQuery(), a.traceTail(), a.traceDiff(), a.traceFindings(), a.traceBaseline(), a.traceScan(), a.traceAllowlist(), a.traceVerify(), a.traceCheck(), a.traceKey())
}

var jobNumber = regexp.MustCompile(`\A[0-9]+(/[0-9]+)?\z`)

// trace finds out which trace is meant.
func (a *app) trace(ctx context.Context, api *client, arg string) (*v1.TraceRef, error) {
	if !strings.Contains(arg, "://") && !jobNumber.MatchString(arg) {
		return &v1.TraceRef{Trace: arg}, nil
	}
	ref, err := a.job(ctx, api, arg)
	if err != nil {
		return nil, err
	}
	return &v1.TraceRef{JobId: ref.Id, JobAttempt: ref.Attempt}, nil
}

// which are the flags that select traces.
type which struct {
	job, pool, repository, key, since, until string
}

// flags adds them. since is what it is without the flag.
func (w *which) flags(a *app, c *cobra.Command, since string) {
	c.Flags().StringVar(&w.job, "job", "", "only that of one job, given as JOB")
	c.Flags().StringVar(&w.pool, "pool", "", "only those of one pool's jobs")
	c.Flags().StringVar(&w.repository, "repo", "", "only those of OWNER/NAME")
	c.Flags().StringVar(&w.key, "name", "", "only those of jobs with this key or name in their workflow")
	c.Flags().StringVar(&w.since, "since", since, "only those of jobs that began since: 24h, 30d, a date or a time")
	c.Flags().StringVar(&w.until, "until", "", "only those of jobs that began before: 24h, 30d, a date or a time")
	_ = c.RegisterFlagCompletionFunc("pool", values(a.completePools)) // the flag is there
	_ = c.RegisterFlagCompletionFunc("job", values(a.completeJobs))
}

func (w *which) selection(ctx context.Context, a *app, api *client) (s *v1.TraceSelection, err error) {
	s = &v1.TraceSelection{Pool: w.pool, Repository: w.repository, JobKey: w.key}
	if w.job != "" {
		s.Trace, err = a.trace(ctx, api, w.job)
		return s, err
	}
	if s.Since, err = a.since("since", w.since); err != nil {
		return nil, err
	}
	s.Until, err = a.since("until", w.until)
	return s, err
}

// selected are the flags of a command that were set to select something, as they were written.
func selected(c *cobra.Command) string {
	var out []string
	c.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "job", "pool", "repo", "name", "since", "until", "state", "rule", "severity":
			out = append(out, "--"+f.Name+" "+strings.Trim(f.Value.String(), "[]"))
		}
	})
	return strings.Join(out, " ")
}

// noTrace says that nothing was selected, and by what.
func noTrace(c *cobra.Command) string {
	if g := selected(c); g != "" {
		return "No trace is selected by " + g + "; muster trace list shows every one."
	}
	return "No traces. Jobs are recorded unless the configuration says otherwise (traces.off, or trace.off of a pool); a job's page and muster job show say why one was not."
}

// full says that a list ends at its limit, which is at most most.
func (a *app) full(out io.Writer, rows int, limit, most int32) error {
	if limit = min(limit, most); limit == 0 || rows < int(limit) {
		return nil
	}
	remedy := "raise --limit or narrow the search"
	if limit == most {
		remedy = "narrow the search"
	}
	_, err := fmt.Fprintln(out, a.paint(dim, "There may be more: "+remedy+"."))
	return err
}

// traceStates are the states that a trace can be in.
var traceStates = []string{"recording", "complete", "truncated", "lost", "not_recorded"}

func (a *app) traceList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List traces, newest first",
		Long:    "List traces, newest first. A number in brackets under REFUSED is what the egress policy would have refused if it were enforced.",
		Example: "  muster trace list --repo octo/app --since 24h\n  muster trace list --state truncated,lost"}
	var w which
	w.flags(a, c, "")
	req := &v1.ListTracesRequest{}
	c.Flags().StringSliceVar(&req.States, "state", nil, "only those in these states: "+strings.Join(traceStates, ", "))
	_ = c.RegisterFlagCompletionFunc("state", oneOf(traceStates)) // the flag is there
	c.Flags().Int32Var(&req.Limit, "limit", 50, "how many at most, up to 500")
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) (err error) {
		if req.Selection, err = w.selection(cmd.Context(), a, api); err != nil {
			return err
		}
		resp, err := api.traces.ListTraces(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(out io.Writer) error {
			t := a.table("TRACE", "JOB", "REPOSITORY", "WORKFLOW / JOB", "STATE", "EVENTS", "LOST", "REFUSED", "FINDINGS", "BEGAN", "TOOK")
			for _, r := range resp.Traces {
				t.row(r.Id, traceJob(r), r.Repository, workflowJob(r.Workflow, cmp.Or(r.JobName, r.JobKey)), traceState(r), r.Events, total(r.Lost), refused(r), severities(r.Findings), a.when(r.StartedAt), took(r))
			}
			if err := t.print(out, noTrace(cmd)); err != nil {
				return err
			}
			return a.full(out, len(resp.Traces), req.Limit, 500)
		})
	})
}

func traceJob(t *v1.Trace) string {
	if t.JobId == 0 {
		return ""
	}
	return jobRef(&v1.JobRef{Id: t.JobId, Attempt: t.JobAttempt})
}

func workflowJob(workflow, job string) string {
	if workflow == "" {
		return job
	}
	return workflow + " / " + job
}

// traceState is the state in words.
func traceState(t *v1.Trace) cell {
	if t.DeletedAt != nil {
		return cell{"deleted", dim}
	}
	return cell{strings.ReplaceAll(t.State, "_", " "), map[string]style{"recording": cyan, "complete": green, "truncated": yellow, "lost": red, "not_recorded": yellow}[t.State]}
}

func total(m map[string]int64) string {
	var n int64
	for _, v := range m {
		n += v
	}
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func refused(t *v1.Trace) cell {
	switch {
	case t.Refused > 0:
		return cell{strconv.FormatInt(t.Refused, 10), red}
	case t.WouldRefuse > 0:
		return cell{fmt.Sprintf("(%d)", t.WouldRefuse), yellow}
	}
	return cell{}
}

// bySeverity are the severities, the worst first.
var bySeverity = []string{"critical", "high", "medium", "low", "info"}

func severityStyle(s string) style {
	return map[string]style{"critical": red, "high": red, "medium": yellow}[s]
}

// severities counts findings: "1 critical, 2 low".
func severities(found map[string]int32) cell {
	var out cell
	var parts []string
	for _, s := range bySeverity {
		if n := found[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
			out.style = cmp.Or(out.style, severityStyle(s))
		}
	}
	out.text = strings.Join(parts, ", ")
	return out
}

func took(t *v1.Trace) string {
	if t.StartedAt == nil || t.EndedAt == nil || t.SealedAt == nil { // of one that was not sealed, when it was given up
		return ""
	}
	return short(t.EndedAt.AsTime().Sub(t.StartedAt.AsTime()))
}

// traceLine says in one line what became of the record of a job.
func traceLine(t *v1.Trace) cell {
	parts := []string{t.Id + ": " + traceState(t).text}
	if t.Reason != "" {
		parts = append(parts, "because "+t.Reason)
	}
	if t.Events > 0 {
		parts = append(parts, plural(int(t.Events), "event"))
	}
	if n := total(t.Lost); n != "" {
		parts = append(parts, n+" lost")
	}
	if found := severities(t.Findings); found.text != "" {
		parts = append(parts, "findings: "+found.text)
	} else if t.AnalysedAt != nil && t.Events > 0 {
		parts = append(parts, "no findings")
	}
	switch {
	case t.Refused > 0:
		parts = append(parts, fmt.Sprintf("%d refused by the egress policy", t.Refused))
	case t.WouldRefuse > 0:
		parts = append(parts, fmt.Sprintf("%d that the egress policy would refuse", t.WouldRefuse))
	}
	s := severities(t.Findings).style
	if t.Refused > 0 {
		s = red
	}
	return cell{strings.Join(parts, ", "), s}
}

func (a *app) traceShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show JOB", Short: "Show what a job did: an overview, or one of the views", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJobs,
		Long: "Show what a job did. The views are:\n\n" +
			"  overview     what was found, what was recorded, steps, and who used most\n" +
			"  timeline     the steps and what stood out in each\n" +
			"  execution    the tree of processes with durations, CPU time and memory\n" +
			"  network      who was reached, by which program, in which step\n" +
			"  files        the tree of files with how often they were read and written\n" +
			"  performance  where wall time, CPU time and I/O went, per step\n\n" +
			"Of a job that still runs it shows what has come so far.\n\n" + traceArg,
		Example: "  muster trace show 48211905223\n  muster trace show https://github.com/octo/app/actions/runs/17/job/48211905223 --view network",
	}
	name := c.Flags().String("view", "overview", "which view: overview, timeline, execution, network, files, performance")
	lines := c.Flags().Int("lines", 200, "how many lines of a tree or a list at most; 0 for all")
	_ = c.RegisterFlagCompletionFunc("view", cobra.FixedCompletions([]string{"overview", "timeline", "execution", "network", "files", "performance"}, cobra.ShellCompDirectiveNoFileComp))
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		ref, err := a.trace(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		resp, err := api.traces.GetTraceView(cmd.Context(), &v1.GetTraceViewRequest{Trace: ref, View: *name})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			var v view.Views
			if err := decodeStruct(resp.Views, &v); err != nil {
				return err
			}
			p := &viewPrinter{app: a, w: w, trace: resp.Trace, findings: resp.Findings, views: &v, lines: *lines}
			return p.print(*name)
		})
	})
}

// decodeStruct reads an object of the API into the shape that it was made of.
func decodeStruct(from interface{ MarshalJSON() ([]byte, error) }, into any) error {
	text, err := from.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("the control plane's answer cannot be read; compare muster version on both sides: %w", err)
	}
	return nil
}

// tracePath is where a trace's downloads are.
func tracePath(t *v1.Trace, what string) string {
	return fmt.Sprintf("/v1/traces/%s/%d/%s", t.Runner, t.Number, what)
}

func (a *app) traceGet() *cobra.Command {
	c := &cobra.Command{
		Use: "get JOB", Short: "Download the events of a job as JSON Lines, or a bundle to verify", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJobs,
		Long: "Download the events of a job as its machine recorded them: JSON Lines, one event per line.\n\n" +
			"With --bundle, download what an offline check needs instead: the signed attestation and the segments as they were sealed.\nmuster trace verify checks it.\n\n" + traceArg,
		Example: "  muster trace get 48211905223 | jq 'select(.type == \"process_exec\") | .args'\n  muster trace get 48211905223 -o job.jsonl\n  muster trace get 48211905223 --bundle -o job.bundle",
	}
	file := c.Flags().StringP("output", "o", "", "write to this file instead of standard output")
	bundle := c.Flags().Bool("bundle", false, "the attestation and the segments, for muster trace verify")
	a.remoteFlags(c)
	return a.local(c, func(cmd *cobra.Command, args []string) error {
		if *bundle && *file == "" && a.IsTerminal {
			return usagef("a bundle is nothing to read; name a file with -o")
		}
		api, err := a.dial()
		if err != nil {
			return err
		}
		t, err := a.oneTrace(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		if *file == "" {
			err = a.fetch(cmd.Context(), api, t, *bundle, a.Stdout)
		} else {
			err = replaceFile(*file, func(w io.Writer) error { return a.fetch(cmd.Context(), api, t, *bundle, w) })
		}
		if err != nil {
			err = cmp.Or(a.damaged(cmd.Context(), api, t), err)
		}
		return err
	})
}

// oneTrace is the trace that an argument names.
func (a *app) oneTrace(ctx context.Context, api *client, arg string) (*v1.Trace, error) {
	ref, err := a.trace(ctx, api, arg)
	if err != nil {
		return nil, err
	}
	resp, err := api.traces.GetTrace(ctx, &v1.GetTraceRequest{Trace: ref})
	if err != nil {
		return nil, err
	}
	return resp.Trace, nil
}

// fetch writes a trace's events, or its bundle.
func (a *app) fetch(ctx context.Context, api *client, t *v1.Trace, bundle bool, w io.Writer) error {
	if bundle {
		return api.copy(ctx, tracePath(t, "bundle"), w)
	}
	resp, err := api.download(ctx, tracePath(t, "raw"), "zstd")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := &cutReader{Reader: resp.Body}
	var from io.Reader = body
	if resp.Header.Get("Content-Encoding") == "zstd" {
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer z.Close()
		from = z
	}
	if err := copied(w, from); err != nil {
		return err
	}
	return copied(io.Discard, body)
}

// cutReader keeps the error of what it reads: a decoder takes a stream that is cut between two
// frames for one that ended there.
type cutReader struct {
	io.Reader
	err error
}

func (r *cutReader) Read(p []byte) (n int, err error) {
	if r.err != nil {
		return 0, r.err
	}
	n, r.err = r.Reader.Read(p)
	return n, r.err
}

// copy writes a download.
func (c *client) copy(ctx context.Context, path string, w io.Writer) error {
	resp, err := c.download(ctx, path, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return copied(w, resp.Body)
}

func copied(w io.Writer, r io.Reader) error {
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("the download broke off: %w; the control plane's log says why, if it was its fault", err)
	}
	return nil
}

// replaceFile writes a file as a whole or not at all.
func replaceFile(name string, write func(io.Writer) error) error {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return usagef("--output: %s is a directory; name a file in it", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".muster-*")
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // of a name that nobody gave
		}
		return usagef("--output: write to %s: %s", name, err)
	}
	defer os.Remove(f.Name()) // of one that was renamed there is nothing
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func (a *app) traceQuery() *cobra.Command {
	c := &cobra.Command{
		Use: "query EXPRESSION", Short: "Search the events of one trace, or of many", Args: cobra.ExactArgs(1),
		Long: "Search for the events for which an expression is true, in one trace (--job) or in all that the other flags select. The newest\n" +
			"trace comes first. Expressions are CEL over the fields of an event; a field that an event does not have is empty or 0.\n" +
			"docs/traces.md lists the fields.\n\n" +
			"With --json, one object per line: {\"trace\": …, \"job_id\": …, \"repository\": …, \"job_name\": …, \"event\": {…}}, and at the end\n{\"stats\": {…}}.\n\nThe JOB of --job: " + strings.TrimPrefix(traceArg, "JOB is "),
		Example: "  muster trace query 'type==\"dns_query\" && hostname.endsWith(\".xyz\")' --since 30d\n" +
			"  muster trace query 'type==\"process_exec\" && args.exists(a, a.contains(\"base64 -d\"))' --repo octo/app\n" +
			"  muster trace query 'type==\"net_connect\" && port==22' --job 48211905223",
	}
	var w which
	w.flags(a, c, "7d")
	limit := c.Flags().Int32("limit", 1000, "how many events at most, up to 10000")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		sel, err := w.selection(cmd.Context(), a, api)
		if err != nil {
			return err
		}
		stream, err := api.traces.QueryTraces(cmd.Context(), &v1.QueryTracesRequest{Query: args[0], Selection: sel, Limit: *limit})
		if err != nil {
			return err
		}
		defer stream.Close()
		p := eventPrinter{app: a, several: sel.Trace == nil}
		for stream.Receive() {
			for _, e := range stream.Msg().Events {
				if err := p.event(e); err != nil {
					return err
				}
			}
			if stats := stream.Msg().Stats; stats != nil {
				if err := a.printStats(cmd, stats, "event", sel.Trace == nil); err != nil {
					return err
				}
			}
		}
		return a.explainQuery(stream.Err())
	})
}

// explainQuery prints what is wrong with an expression as it was answered, on several lines:
// they point at the place.
func (a *app) explainQuery(err error) error {
	e, ok := errors.AsType[*connect.Error](err)
	if !ok || e.Code() != connect.CodeInvalidArgument || !strings.Contains(e.Message(), "\n") {
		return err
	}
	for i, line := range strings.Split(strings.TrimRight(e.Message(), "\n"), "\n") {
		if i == 0 {
			line = "muster: " + line
		}
		fmt.Fprintln(a.Stderr, printable(line))
	}
	return errMistake
}

// printStats ends a search: what was looked at, and what was not.
func (a *app) printStats(c *cobra.Command, s *v1.TraceStats, noun string, several bool) error {
	if a.json {
		return a.statsJSON(s)
	}
	if several && s.Traces == 0 && len(s.Skipped) == 0 && s.Failed == 0 {
		_, err := fmt.Fprintln(a.Stdout, noTrace(c))
		return err
	}
	line := plural(int(s.Matched), noun)
	if several {
		line += fmt.Sprintf(" in %d of %s", s.Affected, plural(int(s.Traces), "trace"))
	}
	line += ", " + span(s.Took)
	if s.Limited {
		line += "; there are or may be more: raise --limit or narrow the search"
	}
	if s.Unindexed > 0 && several {
		line += fmt.Sprintf("; %d without an index", s.Unindexed)
	}
	for _, why := range slices.Sorted(maps.Keys(s.Skipped)) {
		line += fmt.Sprintf("; %s not looked at: %s", plural(int(s.Skipped[why]), "trace"), strings.ReplaceAll(why, "_", " "))
	}
	fmt.Fprintln(a.Stdout, a.paint(dim, line))
	if s.Failed == 0 {
		return nil
	}
	for _, problem := range s.Errors {
		fmt.Fprintf(a.Stderr, "muster: %s\n", oneLine(problem))
	}
	fmt.Fprintf(a.Stderr, "muster: %s could not be read\n", plural(int(s.Failed), "trace"))
	return errReported
}

func (a *app) traceTail() *cobra.Command {
	c := &cobra.Command{
		Use: "tail JOB [EXPRESSION]", Short: "Follow the events of a job as they happen", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeJobs,
		Long: "Follow the events of a job as they happen, until it ends. An expression leaves out those for which it is not true. With --json,\nthe events themselves, one per line.\n\n" + traceArg,
		Example: "  muster trace tail 48211905223\n" +
			"  muster trace tail 48211905223 'type in [\"net_connect\", \"dns_query\"]'",
	}
	last := c.Flags().Int32("last", 20, "begin with this many of the events that are there; 0 for all")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		ref, err := a.trace(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		req := &v1.TailTraceRequest{Trace: ref, Last: *last}
		if len(args) > 1 {
			req.Query = args[1]
		}
		stream, err := api.traces.TailTrace(cmd.Context(), req)
		if err != nil {
			return err
		}
		defer stream.Close()
		p := eventPrinter{app: a}
		var end *v1.Trace
		for stream.Receive() {
			for _, line := range stream.Msg().Events {
				if err := p.line("", line); err != nil {
					return err
				}
			}
			end = cmp.Or(stream.Msg().Trace, end)
		}
		if cmd.Context().Err() != nil {
			return nil // interrupted: what was to see was seen
		}
		if err := a.explainQuery(stream.Err()); err != nil {
			return err
		}
		if end != nil && end.State != "recording" && !a.json {
			_, err = fmt.Fprintln(a.Stdout, a.paint(dim, "the trace is "+traceState(end).text))
		}
		return err
	})
}

func (a *app) traceFindings() *cobra.Command {
	c := &cobra.Command{
		Use: "findings [JOB]", Short: "List what the detection rules found, in one job or in all", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeJobs,
		Long:    "List what the detection rules found, newest first. Findings are kept longer than the events that they were found in.\nmuster rules docs RULE tells more of a rule.\n\n" + traceArg,
		Example: "  muster trace findings --severity high --since 7d\n  muster trace findings 48211905223 --explain",
	}
	var w which
	w.flags(a, c, "30d")
	req := &v1.ListFindingsRequest{}
	c.Flags().StringVar(&req.Rule, "rule", "", "only those of one rule")
	c.Flags().StringVar(&req.Severity, "severity", "", "only those that matter at least this much: info, low, medium, high, critical")
	c.Flags().Int32Var(&req.Limit, "limit", 100, "how many at most, up to 1000")
	_ = c.RegisterFlagCompletionFunc("rule", values(completeRules)) // the flags are there
	_ = c.RegisterFlagCompletionFunc("severity", oneOf(bySeverity))
	explain := c.Flags().Bool("explain", false, "say why each matters and what to do")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) (err error) {
		if len(args) == 1 {
			if w.job != "" && w.job != args[0] {
				return usagef("two jobs are named, %s and --job %s; name one", args[0], w.job)
			}
			w.job = args[0]
		}
		if req.Selection, err = w.selection(cmd.Context(), a, api); err != nil {
			return err
		}
		resp, err := api.traces.ListFindings(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(out io.Writer) error {
			if *explain && len(resp.Findings) > 0 {
				return a.explainFindings(out, resp.Findings, true)
			}
			t := a.table("SEVERITY", "RULE", "JOB", "REPOSITORY", "STEP", "WHAT", "TIMES", "WHEN")
			for _, f := range resp.Findings {
				severity := cell{f.Severity, severityStyle(f.Severity)}
				if f.Accepted != nil {
					severity = cell{f.Severity + ", accepted", dim}
				}
				t.row(severity, f.Rule, cmp.Or(traceJob(&v1.Trace{JobId: f.JobId, JobAttempt: f.JobAttempt}), f.Trace), f.Repository, f.Step, words(f.Title), f.Count, a.when(f.At))
			}
			none := "No findings"
			if g := selected(cmd); g != "" {
				none += " with " + g
			}
			if err := t.fitted(out, none+"."); err != nil {
				return err
			}
			return a.full(out, len(resp.Findings), req.Limit, 1000)
		})
	})
}

// explainFindings prints findings one below the other.
func (a *app) explainFindings(w io.Writer, all []*v1.Finding, where bool) error {
	for i, f := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s  %s\n", a.paint(severityStyle(f.Severity), f.Severity), a.paint(bold, words(f.Title)))
		at := f.Step
		if where {
			at = strings.TrimSpace(fmt.Sprintf("%s %s %s", cmp.Or(traceJob(&v1.Trace{JobId: f.JobId, JobAttempt: f.JobAttempt}), f.Trace), f.Repository, f.JobName))
			if f.Step != "" {
				at += ", step " + f.Step
			}
		}
		count := ""
		if f.Count > 1 {
			count = strconv.Itoa(int(f.Count))
		}
		var seqs []string
		for _, s := range f.Seq {
			seqs = append(seqs, strconv.FormatUint(s, 10))
		}
		pairs := []any{"rule", f.Rule, "where", at, "when", a.when(f.At), "times", count, "process", words(f.Process), "started by", ancestry(f.Ancestry),
			"why", words(f.Explanation), "what to do", words(f.Remedy)}
		if err := a.facts(indented{w}, append(append(pairs, a.acceptance(f)...), "events", strings.Join(seqs, ", "))...); err != nil {
			return err
		}
	}
	return nil
}

// ancestry is who started a process, the nearest first. A long command line is cut: the
// events have it.
func ancestry(lines []string) string {
	const longest = 100
	var out []string
	for _, line := range lines {
		if line = words(line); utf8.RuneCountInString(line) > longest {
			line = string([]rune(line)[:longest-1]) + "…"
		}
		out = append(out, line)
	}
	return strings.Join(out, " ← ")
}

// indented moves lines to the right.
type indented struct{ w io.Writer }

func (i indented) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if _, err := i.w.Write(append([]byte("  "), line...)); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (a *app) traceScan() *cobra.Command {
	c := &cobra.Command{
		Use: "scan --ioc FILE", Short: "Look for indicators of compromise in stored traces",
		Long: "Look for indicators of compromise in stored traces, and list the jobs that have any: for the day on which a dependency or an action\n" +
			"turns out to have been malicious. The file has one indicator per line: a host (evil.example, *.evil.example), an address or a\n" +
			"network, a path, or a command pattern; lines that begin with # are comments. \"-\" reads standard input.",
		Example: "  muster trace scan --ioc tj-actions.txt --since 90d\n  echo gist.githubusercontent.com | muster trace scan --ioc - --repo octo/app",
	}
	var w which
	w.flags(a, c, "30d")
	file := c.Flags().String("ioc", "", "file with indicators, one per line; - for standard input")
	limit := c.Flags().Int32("limit", 10, "how many events per job at most, up to 1000")
	exitStatus := c.Flags().Bool("exit-status", false, "exit with status 1 if any job is affected")
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		text, err := a.indicators(*file)
		if err != nil {
			return err
		}
		sel, err := w.selection(cmd.Context(), a, api)
		if err != nil {
			return err
		}
		stream, err := api.traces.ScanTraces(cmd.Context(), &v1.ScanTracesRequest{Indicators: text, Selection: sel, Limit: *limit})
		if err != nil {
			return err
		}
		defer stream.Close()
		affected := false
		for stream.Receive() {
			m := stream.Msg()
			switch {
			case m.Stats != nil:
				err = a.printStats(cmd, m.Stats, "event", true)
			case a.json:
				affected = true
				err = a.scanJSON(m)
			default:
				affected = true
				err = a.printAffected(m)
			}
			if err != nil {
				return err
			}
		}
		if err := stream.Err(); err != nil {
			return err
		}
		if affected && *exitStatus {
			return errReported
		}
		return nil
	})
}

// indicators reads the list of a scan.
func (a *app) indicators(file string) (string, error) {
	var data []byte
	var err error
	switch file {
	case "":
		return "", usagef("no indicators; name a file with --ioc, or - for standard input")
	case "-":
		data, err = io.ReadAll(a.Stdin)
	default:
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return "", usagef("--ioc: %s", err)
	}
	return string(data), nil
}

func (a *app) printAffected(m *v1.ScanTracesResponse) error {
	t := m.Trace
	fmt.Fprintf(a.Stdout, "%s  %s  %s  %s\n", a.paint(red, cmp.Or(traceJob(t), t.Id)), t.Repository, workflowJob(t.Workflow, cmp.Or(t.JobName, t.JobKey)), a.when(t.StartedAt))
	p := eventPrinter{app: a, indent: "  "}
	for _, h := range m.Hits {
		if err := p.line(h.Indicator, h.Event); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) traceAllowlist() *cobra.Command {
	c := &cobra.Command{
		Use: "allowlist POOL", Short: "Propose an egress allow list from what a pool's jobs reached", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools,
		Long: "Propose an egress allow list for a pool from what its jobs reached, and say which entries of the present list nobody needed. Let the\n" +
			"pool's policy be audit or learn while the list grows: nothing is refused then.\n\n" +
			"With --yaml, print the section egress as the pool's configuration takes it: what is allowed now and was needed, and what was reached\n" +
			"beyond. Entries that nobody needed, and those that something speaks against (metadata services, addresses that were reached without a\n" +
			"look-up), are comments with the reason. A change of the configuration takes effect when the control plane is restarted.",
		Example: "  muster trace allowlist linux --since 30d\n  muster trace allowlist linux --yaml",
	}
	since := c.Flags().String("since", "30d", "of jobs that began since: 24h, 30d, a date or a time")
	asYAML := c.Flags().Bool("yaml", false, "print the egress section of the pool's configuration")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		from, err := a.since("since", *since)
		if err != nil {
			return err
		}
		resp, err := api.traces.ProposeEgress(cmd.Context(), &v1.ProposeEgressRequest{Pool: args[0], Since: from})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			if *asYAML {
				return printEgress(w, resp)
			}
			return a.printAllowlist(w, resp)
		})
	})
}

func (a *app) printAllowlist(w io.Writer, p *v1.ProposeEgressResponse) error {
	fmt.Fprintf(w, "pool %s: egress %s; %s looked at.\n\n", p.Pool, cmp.Or(p.Mode, "without a policy"), plural(int(p.Jobs), "job"))
	t := a.table("ALLOW", "STATE", "JOBS", "LAST", "BY", "FOR")
	for _, e := range p.Entries {
		state := cell{"new", yellow}
		if e.Known {
			state = cell{"allowed", green}
		}
		t.row(e.Allow, state, e.Jobs, a.when(e.LastAt), strings.Join(e.Processes, ", "), strings.Join(e.Hosts, ", "))
	}
	for _, u := range p.Unused {
		t.row(u, cell{"unused", dim}, 0, "", "", "")
	}
	none := "Nothing was reached that has to be allowed."
	if p.Jobs == 0 {
		none = "What jobs reached is not known."
	}
	if err := t.print(w, none); err != nil {
		return err
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
	return nil
}

// printEgress is the section for the configuration: what is allowed and used, and what is
// new. What nobody needed, and what something speaks against, is a comment, and so is what the
// list cannot know.
func printEgress(w io.Writer, p *v1.ProposeEgressResponse) error {
	beside := func(n string) bool { // it stands beside its entry
		return slices.ContainsFunc(p.Entries, func(e *v1.EgressEntry) bool { return e.Warning != "" && n == e.Allow+": "+e.Warning })
	}
	for _, n := range p.Notes {
		if !beside(n) {
			fmt.Fprintf(w, "# %s\n", printable(words(n)))
		}
	}
	lines := map[string]string{}
	for _, e := range p.Entries {
		if e.Warning != "" && !e.Known {
			lines[e.Allow] = fmt.Sprintf("    # - %q  # %s\n", e.Allow, printable(words(e.Warning)))
		} else {
			lines[e.Allow] = fmt.Sprintf("    - %q\n", e.Allow)
		}
	}
	for _, u := range p.Unused {
		lines[u] = fmt.Sprintf("    # - %q  # nobody needed it\n", u)
	}
	fmt.Fprintf(w, "egress:\n  mode: %s\n", cmp.Or(p.Mode, "learn"))
	if p.NoGithub {
		fmt.Fprintln(w, "  no_github: true")
	}
	none := true
	var list strings.Builder
	for _, entry := range slices.Sorted(maps.Keys(lines)) {
		list.WriteString(lines[entry])
		none = none && strings.HasPrefix(lines[entry], "    #")
	}
	if none {
		_, err := fmt.Fprintf(w, "  allow: []\n%s", &list)
		return err
	}
	_, err := fmt.Fprintf(w, "  allow:\n%s", &list)
	return err
}

func (a *app) traceDiff() *cobra.Command {
	c := &cobra.Command{
		Use: "diff JOB [OTHER]", Short: "Show what a job did that an earlier run of it did not", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeJobs,
		Long: "Show what a job did that an earlier run of the same job did not: new hosts, programs and sensitive files, and steps that took\n" +
			"longer. Without OTHER it is compared with its last good run: one that was recorded as a whole, succeeded, and has no findings\nthat are high or critical.\n\n" + traceArg,
		Example: "  muster trace diff 48211905223\n  muster trace diff 48211905223 48150000111",
	}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) (err error) {
		req := &v1.DiffTracesRequest{}
		if req.Trace, err = a.trace(cmd.Context(), api, args[0]); err != nil {
			return err
		}
		if len(args) > 1 {
			if req.Against, err = a.trace(cmd.Context(), api, args[1]); err != nil {
				return err
			}
		}
		resp, err := api.traces.DiffTraces(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			var d view.Diff
			if err := decodeStruct(resp.Diff, &d); err != nil {
				return err
			}
			return a.printDiff(w, resp, d)
		})
	})
}

func (a *app) traceKey() *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "Print the public keys that attestations are signed with, in PEM",
		Long: "Print the public keys that attestations are signed with, the present one first and then those that signed before, in PEM. Keep them\nwhere nobody who can change traces can change them: muster trace verify --key checks with them.",
	}
	a.remoteFlags(c)
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		api, err := a.dial()
		if err != nil {
			return err
		}
		return api.copy(cmd.Context(), "/v1/traces/keys", a.Stdout)
	})
}

// eventPrinter prints events, one per line.
type eventPrinter struct {
	*app
	// several: the events are of several traces, so that each says of which.
	several bool
	indent  string
	day     string
}

// event prints one that says where it is from.
func (p *eventPrinter) event(e *v1.TraceEvent) error {
	if p.json {
		return p.jsonLine(struct {
			Trace      string          `json:"trace"`
			JobID      int64           `json:"job_id,omitempty"`
			Repository string          `json:"repository,omitempty"`
			JobName    string          `json:"job_name,omitempty"`
			Event      json.RawMessage `json:"event"`
		}{e.Trace, e.JobId, e.Repository, e.JobName, json.RawMessage(e.Event)})
	}
	from := ""
	if p.several {
		from = cmp.Or(traceJob(&v1.Trace{JobId: e.JobId}), e.Trace)
	}
	return p.line(from, e.Event)
}

// line prints an event with what it belongs to.
func (p *eventPrinter) line(of, text string) error {
	if p.json {
		_, err := fmt.Fprintln(p.Stdout, text)
		return err
	}
	var e trace.Event
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return fmt.Errorf("an event of the control plane cannot be read: %w", err)
	}
	at := e.Timestamp.In(p.Now().Location())
	if day := at.Format(time.DateOnly); day != p.day && day != p.Now().Format(time.DateOnly) {
		p.day = day
		fmt.Fprintln(p.Stdout, p.indent+p.paint(dim, day))
	}
	parts := []string{p.indent + at.Format("15:04:05.000")}
	if of != "" {
		parts = append(parts, of)
	}
	if e.Step > 0 {
		parts = append(parts, fmt.Sprintf("step %d", e.Step))
	}
	s, what := inWords(e)
	parts = append(parts, string(e.Type), p.paint(s, what))
	if e.PID > 0 {
		parts = append(parts, p.paint(dim, strings.TrimSpace(fmt.Sprintf("%s[%d]", e.Command, e.PID))))
	}
	_, err := fmt.Fprintln(p.Stdout, p.fit(strings.Join(parts, "  ")))
	return err
}

// jsonLine prints a value on one line.
func (a *app) jsonLine(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = a.Stdout.Write(append(text, '\n'))
	return err
}

func (a *app) statsJSON(s *v1.TraceStats) error {
	return a.wrapped("stats", s)
}
