package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/view"
)

// tracer is an api.Traces of one workspace: traces are newest first.
type tracer struct {
	workspace string
	all       []muster.Trace
	baselines []api.Baseline
	asked     []string
	broken    error // what a download or a stream ends with after its first part
	refused   error
}

func (p *tracer) in(ws, format string, args ...any) error {
	if ws != p.workspace {
		return fmt.Errorf("asked for workspace %q", ws)
	}
	p.asked = append(p.asked, fmt.Sprintf(format, args...))
	return p.refused
}

func (p *tracer) Trace(_ context.Context, ws string, id muster.TraceID) (muster.Trace, error) {
	if err := p.in(ws, "trace %s", id); err != nil {
		return muster.Trace{}, err
	}
	return find(p.all, "trace", id, func(t muster.Trace) bool { return t.ID == id })
}
func (p *tracer) Traces(_ context.Context, ws string, f api.TraceFilter) (out []muster.Trace, err error) {
	for _, t := range p.all {
		if (f.Job.ID == 0 || f.Job == t.Job) && (f.Runner == "" || f.Runner == t.ID.Runner) && (f.RunID == 0 || f.RunID == t.RunID) && (len(f.States) == 0 || slices.Contains(f.States, t.State)) && (f.Limit == 0 || len(out) < f.Limit) {
			out = append(out, t)
		}
	}
	return out, p.in(ws, "traces pool=%s repo=%s key=%s since=%d", f.Pool, f.Repository, f.Key, f.Since.Unix())
}
func (p *tracer) Views(_ context.Context, ws string, id muster.TraceID) (*view.Views, error) {
	return &view.Views{Version: view.Version, Ended: true, Overview: view.Overview{Counts: view.Counts{Events: 12}}, Steps: []view.Step{{Number: 1, Name: "Build"}},
		Processes: []view.Process{{Parent: -1, PID: 7, Command: "go"}}, Network: view.Network{Hosts: []view.Host{{Host: "proxy.golang.org"}}}}, p.in(ws, "views %s", id)
}

var testEvent = trace.Event{Type: trace.DNSQuery, Timestamp: t0, Seq: 3, PID: 7, Hostname: "proxy.golang.org"}

func (p *tracer) QueryTraces(_ context.Context, ws, expr string, id muster.TraceID, f api.TraceFilter, limit int, yield func(api.TraceHit) bool) (api.TraceStats, error) {
	if err := p.in(ws, "query %s of %q repo=%s limit=%d", expr, id.Runner, f.Repository, limit); err != nil {
		return api.TraceStats{}, err
	}
	n := 0
	for n < 600 && yield(api.TraceHit{Trace: p.all[0], Event: testEvent}) {
		n++
	}
	return api.TraceStats{Traces: 2, Skipped: map[string]int{"deleted": 1}, Matched: int64(n), Took: time.Second}, p.broken
}
func (p *tracer) ScanTraces(_ context.Context, ws, indicators string, id muster.TraceID, f api.TraceFilter, limit int, yield func(muster.Trace, []api.TraceHit) bool) (api.TraceStats, error) {
	if err := p.in(ws, "scan %s of %q limit=%d", indicators, id.Runner, limit); err != nil {
		return api.TraceStats{}, err
	}
	yield(p.all[0], []api.TraceHit{{Trace: p.all[0], Event: testEvent, Indicator: "golang.org"}})
	return api.TraceStats{Traces: 2, Affected: 1, Matched: 1}, nil
}
func (p *tracer) TailTrace(ctx context.Context, ws string, id muster.TraceID, after uint64, expr string, yield func(muster.Trace, []trace.Event) bool) error {
	if err := p.in(ws, "tail %s after %d %s", id, after, expr); err != nil {
		return err
	}
	if !yield(p.all[0], nil) || !yield(p.all[0], []trace.Event{testEvent, testEvent}) {
		return nil
	}
	if p.broken != nil {
		<-ctx.Done()
		return ctx.Err()
	}
	yield(p.all[0], nil)
	return nil
}
func (p *tracer) DiffTraces(_ context.Context, ws string, id, against muster.TraceID) (view.Diff, muster.Trace, muster.Trace, error) {
	return view.Diff{GoneHosts: []string{"a.example"}}, p.all[0], p.all[1], p.in(ws, "diff %s against %q", id, against.Runner)
}
func (p *tracer) TraceFindings(_ context.Context, ws string, f api.FindingFilter) ([]api.TraceFinding, error) {
	low := api.TraceFinding{Detection: muster.Detection{Trace: p.all[0].ID, Rule: "a", Severity: muster.SeverityLow, At: t0}, Of: p.all[0]}
	high := low
	high.Rule, high.Severity, high.At = "b", muster.SeverityHigh, t0.Add(time.Second)
	high.Fact, high.Accepted = "host:evil.example", &detect.Act{By: "operator", At: t0}
	return []api.TraceFinding{low, high}, p.in(ws, "findings of %q rule=%s severity=%s limit=%d", f.Trace.Runner, f.Rule, f.Severity, f.Limit)
}
func (p *tracer) Baselines(_ context.Context, ws, text, after string, limit int) (out []api.Baseline, err error) {
	for _, b := range p.baselines {
		if strings.Contains(b.Name, text) && b.Name > after && len(out) < limit {
			out = append(out, b)
		}
	}
	return out, p.in(ws, "baselines %q after %q limit=%d", text, after, limit)
}
func (p *tracer) BaselineOf(_ context.Context, ws, name string) (api.Baseline, error) {
	if err := p.in(ws, "baseline %s", name); err != nil {
		return api.Baseline{}, err
	}
	return find(p.baselines, "baseline", name, func(b api.Baseline) bool { return b.Name == name })
}
func (p *tracer) AcceptBaseline(_ context.Context, ws, name string, a api.Acceptance, by detect.Act) (api.Baseline, []detect.Fact, error) {
	return p.baselines[0], a.Facts, p.in(ws, "accept %s %v fresh=%t all=%t version=%d by %s at %s because %q", name, a.Facts, a.Fresh, a.All, a.Version, by.By, by.At.Sub(t0), by.Reason)
}
func (p *tracer) ForgetBaseline(_ context.Context, ws, name string, version int64, by detect.Act) (api.Baseline, error) {
	return p.baselines[0], p.in(ws, "forget %s version=%d by %s because %q", name, version, by.By, by.Reason)
}
func (p *tracer) ProposeEgress(_ context.Context, ws, pool string, since time.Time) (api.EgressProposal, error) {
	return api.EgressProposal{Policy: trace.Egress{Mode: trace.EgressLearn, NoGitHub: true}, Traces: 3, Unused: []string{"x.example"}, Entries: []api.EgressEntry{{Allow: "proxy.golang.org:443", Jobs: 3, Known: true}, {Allow: "192.0.2.7:22", Jobs: 1, Warning: "without a look-up"}}}, p.in(ws, "egress of %s since %s", pool, t0.Sub(since))
}
func (p *tracer) Attestation(_ context.Context, ws string, id muster.TraceID) (muster.Trace, []byte, error) {
	return p.all[0], []byte(`{"payload":""}`), p.in(ws, "attestation of %s", id)
}
func (p *tracer) VerifyTrace(_ context.Context, ws string, id muster.TraceID) (api.TraceCheck, error) {
	return api.TraceCheck{Trace: p.all[0], Problem: "the trace was changed", KeyID: "k"}, p.in(ws, "verify %s", id)
}
func (p *tracer) RawTrace(_ context.Context, ws string, id muster.TraceID, packed bool, w io.Writer, ready func(muster.Trace)) error {
	if err := p.in(ws, "raw %s packed=%t", id, packed); err != nil {
		return err
	}
	ready(p.all[0])
	_, err := io.WriteString(w, strings.Repeat("{}\n", 10_000))
	return errors.Join(err, p.broken)
}
func (p *tracer) TraceBundle(_ context.Context, ws string, id muster.TraceID, w io.Writer, ready func(muster.Trace)) error {
	if err := p.in(ws, "bundle %s", id); err != nil {
		return err
	}
	ready(p.all[0])
	_, err := io.WriteString(w, "bundle")
	return err
}
func (p *tracer) TraceKeys() ([]byte, error) { return []byte("PEM"), p.refused }

// withTraces is a world in which jobs 101 and 102 have traces.
func withTraces(t *testing.T, change func(*api.Config)) (*world, *tracer) {
	t.Helper()
	trace := func(runner muster.RunnerID, number int, job muster.JobKey, state muster.TraceState) muster.Trace {
		return muster.Trace{ID: muster.TraceID{Runner: runner, Number: number}, Workspace: "default", Pool: "linux", Job: job, JobName: "build", Repository: "octo/app", RunID: 7, State: state, StartedAt: t0, Events: 12, Segments: 1,
			Findings: map[muster.Severity]int{muster.SeverityHigh: 1}, Lost: map[string]int64{"rate_limit": 2}}
	}
	p := &tracer{workspace: "default", all: []muster.Trace{
		trace("r-old", 2, muster.JobKey{ID: 101, Attempt: 1}, muster.TraceComplete), trace("r-old", 1, muster.JobKey{ID: 99, Attempt: 1}, muster.TraceTruncated),
	}}
	w := newWorld(t, func(c *api.Config, _ *world) {
		c.Traces = p
		if change != nil {
			change(c)
		}
	})
	return w, p
}

// S4-56: from a run to its jobs, from a job and a runner to the trace, and from a job's
// number to its trace; a job without one says why.
func TestTracesAreFound(t *testing.T) {
	w, p := withTraces(t, nil)
	for _, ref := range []*v1.TraceRef{{JobId: 101}, {JobId: 101, JobAttempt: 1}, {Trace: "r-old.2"}, {Trace: "linux-old"}} {
		got, err := w.traces.GetTrace(t.Context(), &v1.GetTraceRequest{Trace: ref})
		if err != nil || got.Trace.Id != "r-old.2" || got.Trace.JobId != 101 || got.Trace.Findings["high"] != 1 || len(got.Findings) != 2 || got.Findings[0].Severity != "high" || got.Findings[0].JobId != 101 {
			t.Errorf("%v: %v %v", ref, got, err)
		}
	}
	if got, err := w.traces.GetTrace(t.Context(), &v1.GetTraceRequest{Trace: &v1.TraceRef{Trace: "r-old"}}); err != nil || got.Trace.Id != "r-old" || got.Trace.State != "truncated" {
		t.Errorf("%v %v", got, err)
	}
	run, err := w.runs.GetRun(t.Context(), &v1.GetRunRequest{Id: 7})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range run.Jobs {
		if want := j.Job.Id == 101; (j.Trace != nil) != want {
			t.Errorf("job %d of the run: trace %v", j.Job.Id, j.Trace)
		}
	}
	r, err := w.runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: "r-old"})
	if err != nil || len(r.Traces) != 2 {
		t.Errorf("%v %v", r, err)
	}
	j, err := w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 101}})
	if err != nil || len(j.Traces) != 1 || j.NoTrace != "" {
		t.Errorf("%v %v", j, err)
	}
	for job, why := range map[int64]string{102: "its agent has not delivered anything yet", 103: "it has not started"} {
		_, err := w.traces.GetTrace(t.Context(), &v1.GetTraceRequest{Trace: &v1.TraceRef{JobId: job}})
		if codeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), fmt.Sprintf("there is no trace of job %d: %s", job, why)) {
			t.Error(err)
		}
	}
	w.store.pools[0].Trace.Off = true
	p.all = p.all[1:]
	if j, err = w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 101}}); err != nil || !strings.Contains(j.NoTrace, "pool linux does not record its jobs") {
		t.Errorf("%v %v", j, err)
	}
	if j, err = w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 103}}); err != nil || j.NoTrace != "" {
		t.Errorf("a job that has not started: %v %v", j, err)
	}
}

func TestTraceMistakes(t *testing.T) {
	w, _ := withTraces(t, nil)
	call := func(err error) error { return err }
	get := func(ref *v1.TraceRef) error {
		_, err := w.traces.GetTrace(t.Context(), &v1.GetTraceRequest{Trace: ref})
		return call(err)
	}
	_, badView := w.traces.GetTraceView(t.Context(), &v1.GetTraceViewRequest{Trace: &v1.TraceRef{JobId: 101}, View: "aura"})
	_, badState := w.traces.ListTraces(t.Context(), &v1.ListTracesRequest{States: []string{"odd"}})
	_, badSeverity := w.traces.ListFindings(t.Context(), &v1.ListFindingsRequest{Severity: "odd"})
	_, noPool := w.traces.ProposeEgress(t.Context(), &v1.ProposeEgressRequest{})
	for _, c := range []struct {
		err  error
		code connect.Code
		text string
	}{
		{get(nil), connect.CodeInvalidArgument, "no trace is named"},
		{get(&v1.TraceRef{Trace: "r-old", JobId: 101}), connect.CodeInvalidArgument, "not by both"},
		{get(&v1.TraceRef{Trace: "r-none"}), connect.CodeNotFound, `there is no trace "r-none": muster trace list`},
		{get(&v1.TraceRef{Trace: "linux-busy"}), connect.CodeNotFound, "there is no trace of runner r-busy"},
		{get(&v1.TraceRef{JobId: 12345}), connect.CodeNotFound, "there is no job 12345 here"},
		{badView, connect.CodeInvalidArgument, "use overview, timeline"},
		{badState, connect.CodeInvalidArgument, "use recording, complete"},
		{badSeverity, connect.CodeInvalidArgument, "use info, low"},
		{noPool, connect.CodeInvalidArgument, "no pool is named"},
	} {
		if codeOf(c.err) != c.code || !strings.Contains(fmt.Sprint(c.err), c.text) {
			t.Errorf("%v, and not %s with %q", c.err, c.code, c.text)
		}
	}
	bare := newWorld(t, nil) // a control plane that keeps none
	if _, err := bare.traces.ListTraces(t.Context(), &v1.ListTracesRequest{}); codeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}
	if j, err := bare.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 101}}); err != nil || j.NoTrace != "" || len(j.Traces) != 0 {
		t.Error(j, err)
	}
}

// A view has the members that it needs, and no others.
func TestTraceViews(t *testing.T) {
	w, _ := withTraces(t, nil)
	for name, want := range map[string][]string{
		"":          {"ended", "file_tops", "job", "network", "overview", "performance", "processes", "steps", "version"},
		"execution": {"ended", "job", "overview", "processes", "steps", "version"},
		"network":   {"ended", "job", "network", "overview", "steps", "version"},
	} {
		got, err := w.traces.GetTraceView(t.Context(), &v1.GetTraceViewRequest{Trace: &v1.TraceRef{JobId: 101}, View: name})
		if err != nil {
			t.Fatal(err)
		}
		var members []string
		for m := range got.Views.Fields {
			members = append(members, m)
		}
		slices.Sort(members)
		if d := cmp.Diff(want, members); d != "" {
			t.Errorf("%q: %s", name, d)
		}
		if n := got.Views.Fields["overview"].GetStructValue().Fields["counts"].GetStructValue().Fields["events"].GetNumberValue(); n != 12 || len(got.Findings) != 2 {
			t.Errorf("%q: %v events, %v", name, n, got.Findings)
		}
	}
}

// S0-24: events come as the lines of the trace, in parts, with what was looked at last.
func TestQueryTraces(t *testing.T) {
	w, p := withTraces(t, nil)
	stream, err := w.traces.QueryTraces(t.Context(), &v1.QueryTracesRequest{Query: "true", Selection: &v1.TraceSelection{Repository: "octo/app", Since: timestamppb.New(t0)}, Limit: 700})
	if err != nil {
		t.Fatal(err)
	}
	n, parts := 0, 0
	var stats *v1.TraceStats
	for stream.Receive() {
		parts++
		for _, e := range stream.Msg().Events {
			n++
			if want := `{"type":"dns_query","timestamp":"2026-11-20T12:00:00Z","seq":3,"pid":7,"hostname":"proxy.golang.org"}`; e.Event != want || e.Trace != "r-old.2" || e.JobId != 101 {
				t.Fatalf("%v", e)
			}
		}
		stats = stream.Msg().Stats
	}
	if err := stream.Err(); err != nil || n != 600 || parts != 3 || stats.GetSkipped()["deleted"] != 1 || stats.GetMatched() != 600 {
		t.Errorf("%d events in %d parts, %v, %v", n, parts, stats, err)
	}
	if d := cmp.Diff([]string{`query true of "" repo=octo/app limit=700`}, p.asked); d != "" {
		t.Error(d)
	}
	p.broken = muster.Errorf(muster.CodeInvalid, "this is no expression")
	if stream, err = w.traces.QueryTraces(t.Context(), &v1.QueryTracesRequest{Query: "(", Selection: &v1.TraceSelection{Trace: &v1.TraceRef{JobId: 101}}}); err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
	}
	if codeOf(stream.Err()) != connect.CodeInvalidArgument {
		t.Error(stream.Err())
	}
}

func TestScanAndTail(t *testing.T) {
	w, p := withTraces(t, nil)
	scan, err := w.traces.ScanTraces(t.Context(), &v1.ScanTracesRequest{Indicators: "golang.org"})
	if err != nil {
		t.Fatal(err)
	}
	var hits []string
	for scan.Receive() {
		for _, h := range scan.Msg().Hits {
			hits = append(hits, scan.Msg().Trace.Id+" "+h.Indicator)
		}
	}
	if d := cmp.Diff([]string{"r-old.2 golang.org"}, hits); d != "" || scan.Err() != nil {
		t.Error(d, scan.Err())
	}
	p.asked = nil
	tail, err := w.traces.TailTrace(t.Context(), &v1.TailTraceRequest{Trace: &v1.TraceRef{JobId: 101}, Last: 5, Query: "true"})
	if err != nil {
		t.Fatal(err)
	}
	events, marks := 0, 0
	for tail.Receive() {
		events += len(tail.Msg().Events)
		if tail.Msg().Trace != nil {
			marks++
		}
	}
	if tail.Err() != nil || events != 2 || marks != 2 || p.asked[len(p.asked)-1] != "tail r-old.2 after 7 true" {
		t.Errorf("%d events, %d marks, %v, %v", events, marks, p.asked, tail.Err())
	}
}

// A tail ends when the control plane stops: it would hold the end up.
func TestTailEndsWithTheControlPlane(t *testing.T) {
	stopping := make(chan struct{})
	w, p := withTraces(t, func(c *api.Config) { c.Stopping = stopping })
	p.broken = errors.New("not reached")
	tail, err := w.traces.TailTrace(t.Context(), &v1.TailTraceRequest{Trace: &v1.TraceRef{JobId: 101}})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; tail.Receive(); n++ {
		if n == 1 {
			close(stopping)
		}
	}
	if codeOf(tail.Err()) != connect.CodeUnavailable || !strings.Contains(tail.Err().Error(), "is stopping") {
		t.Error(tail.Err())
	}
}

func TestOtherTraceCalls(t *testing.T) {
	w, p := withTraces(t, nil)
	ref := &v1.TraceRef{JobId: 101}
	d, err := w.traces.DiffTraces(t.Context(), &v1.DiffTracesRequest{Trace: ref, Against: &v1.TraceRef{Trace: "r-old.1"}})
	if err != nil || d.Against.Id != "r-old" || d.Diff.Fields["gone_hosts"].GetListValue().Values[0].GetStringValue() != "a.example" {
		t.Errorf("%v %v", d, err)
	}
	e, err := w.traces.ProposeEgress(t.Context(), &v1.ProposeEgressRequest{Pool: "linux"})
	if err != nil || e.Mode != "learn" || e.Jobs != 3 || !e.NoGithub || len(e.Entries) != 2 || !e.Entries[0].Known || e.Entries[1].Warning != "without a look-up" || p.asked[len(p.asked)-1] != "egress of linux since 720h0m0s" {
		t.Errorf("%v %v %v", e, p.asked, err)
	}
	v, err := w.traces.VerifyTrace(t.Context(), &v1.VerifyTraceRequest{Trace: ref})
	if err != nil || v.Ok || v.Problem != "the trace was changed" || v.KeyId != "k" {
		t.Errorf("%v %v", v, err)
	}
	if a, err := w.traces.GetAttestation(t.Context(), &v1.GetAttestationRequest{Trace: ref}); err != nil || a.Envelope != `{"payload":""}` {
		t.Errorf("%v %v", a, err)
	}
	if f, err := w.traces.ListFindings(t.Context(), &v1.ListFindingsRequest{Rule: "a", Severity: "low"}); err != nil || len(f.Findings) != 2 || p.asked[len(p.asked)-1] != `findings of "" rule=a severity=low limit=100` {
		t.Errorf("%v %v %v", f, p.asked, err)
	}
	if l, err := w.traces.ListTraces(t.Context(), &v1.ListTracesRequest{States: []string{"complete"}}); err != nil || len(l.Traces) != 1 {
		t.Errorf("%v %v", l, err)
	}
}

// S0-24: a download is authorized and counted like a call, is packed for whom takes it so, and
// is cut off where it breaks.
func TestTraceDownloads(t *testing.T) {
	w, p := withTraces(t, func(c *api.Config) { c.OperatorToken = "secret" })
	get := func(path, token, accept string) (*http.Response, string, error) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		req.Header.Set("Accept-Encoding", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}
	for _, c := range []struct{ path, accept, encoding, asked, body string }{
		{"/v1/traces/r-old/2/raw", "identity", "", "raw r-old.2 packed=false", strings.Repeat("{}\n", 10_000)},
		{"/v1/traces/r-old/2/raw", "gzip, zstd;q=0.5", "zstd", "raw r-old.2 packed=true", strings.Repeat("{}\n", 10_000)},
		{"/v1/traces/r-old/2/raw", "zstd;q=0", "", "raw r-old.2 packed=false", strings.Repeat("{}\n", 10_000)},
		{"/v1/traces/r-old/1/bundle", "", "", "bundle r-old", "bundle"},
		{"/v1/traces/keys", "", "", "", "PEM"},
	} {
		p.asked = nil
		resp, body, err := get(c.path, "secret", c.accept)
		if err != nil || resp.StatusCode != http.StatusOK || body != c.body || resp.Header.Get("Content-Encoding") != c.encoding || resp.Header.Get(api.TraceHeader) == "" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %v %v", c.path, resp.Status, resp.Header, err)
		}
		if c.asked != "" && (len(p.asked) != 1 || p.asked[0] != c.asked) {
			t.Errorf("%s: %v", c.path, p.asked)
		}
	}
	for _, token := range []string{"", "wrong"} {
		if resp, body, _ := get("/v1/traces/r-old/2/raw", token, ""); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "operator token") {
			t.Errorf("%q: %s %s", token, resp.Status, body)
		}
	}
	p.broken = errors.New("the bucket went away")
	if resp, body, err := get("/v1/traces/r-old/2/raw", "secret", "identity"); err == nil {
		t.Errorf("half of a trace is taken for all of it: %s, %d bytes", resp.Status, len(body))
	}
	p.broken, p.refused = nil, muster.Errorf(muster.CodeGone, "the events were deleted")
	if resp, body, err := get("/v1/traces/r-old/2/raw", "secret", "zstd"); err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "the events were deleted") || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %s %v", resp.Status, body, err)
	}
	w.counter.mu.Lock()
	defer w.counter.mu.Unlock()
	if !slices.Contains(w.counter.calls, "/v1/traces/{runner}/{number}/raw ok") || !slices.Contains(w.counter.calls, "/v1/traces/{runner}/{number}/raw unauthenticated") || !slices.Contains(w.counter.calls, "/v1/traces/{runner}/{number}/raw internal") {
		t.Errorf("%v", w.counter.calls)
	}
}
