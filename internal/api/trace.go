package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

type traces struct{ *API }

// kept is the port, or an error if this control plane keeps no traces.
func (a *API) kept() (Traces, error) {
	if a.Traces == nil {
		return nil, muster.Errorf(muster.CodeNotFound, "this control plane keeps no traces")
	}
	return a.Traces, nil
}

// named finds the trace that a request means.
func (s traces) named(ctx context.Context, ref *v1.TraceRef) (muster.Trace, error) {
	port, err := s.kept()
	switch {
	case err != nil:
		return muster.Trace{}, err
	case ref.GetTrace() != "" && ref.GetJobId() != 0:
		return muster.Trace{}, muster.Errorf(muster.CodeInvalid, "a trace is named by itself or by its job, not by both")
	case ref.GetTrace() != "":
		return s.byName(ctx, port, ref.Trace)
	case ref.GetJobId() == 0:
		return muster.Trace{}, muster.Errorf(muster.CodeInvalid, "no trace is named: give its id, its runner or its job")
	}
	j, err := jobs(s).find(ctx, &v1.JobRef{Id: ref.JobId, Attempt: ref.JobAttempt})
	if err != nil {
		return muster.Trace{}, err
	}
	found, err := port.Traces(ctx, workspaceOf(ctx), TraceFilter{Job: j.Key, Limit: 1})
	if err != nil {
		return muster.Trace{}, err
	}
	if len(found) > 0 {
		return found[0], nil
	}
	why, err := s.untraced(ctx, j)
	if err != nil {
		return muster.Trace{}, err
	}
	return muster.Trace{}, muster.Errorf(muster.CodeNotFound, "there is no trace of job %d: %s", j.Key.ID, why)
}

// byName finds a trace by its id, or the latest of a runner by the runner's name on GitHub.
func (s traces) byName(ctx context.Context, port Traces, name string) (muster.Trace, error) {
	ws := workspaceOf(ctx)
	if id, err := muster.ParseTraceID(name); err == nil {
		t, err := port.Trace(ctx, ws, id)
		if muster.CodeOf(err) != muster.CodeNotFound {
			return t, err
		}
	}
	r, err := s.Store.RunnerByName(ctx, ws, name)
	if muster.CodeOf(err) == muster.CodeNotFound {
		if r, err = s.Store.Runner(ctx, ws, muster.RunnerID(name)); muster.CodeOf(err) == muster.CodeNotFound {
			return muster.Trace{}, muster.Errorf(muster.CodeNotFound, "there is no trace %q: muster trace list shows every one", name)
		}
	}
	if err != nil {
		return muster.Trace{}, err
	}
	found, err := port.Traces(ctx, ws, TraceFilter{Runner: r.ID, Limit: 1})
	if err == nil && len(found) == 0 {
		err = muster.Errorf(muster.CodeNotFound, "there is no trace of runner %s: it ran no job, or its agent delivered nothing", r.ID)
	}
	if err != nil {
		return muster.Trace{}, err
	}
	return found[0], nil
}

// ofJob are the traces of a job, the latest first, or why there is none; nothing of a job
// that has not started.
func (s traces) ofJob(ctx context.Context, j muster.Job) (all []*v1.Trace, why string, err error) {
	found, err := s.tracesOf(ctx, TraceFilter{Job: j.Key})
	if err != nil || len(found) > 0 {
		return each(found, traceOf), "", err
	}
	if j.State == muster.JobQueued || j.State == muster.JobWaiting {
		return nil, "", nil
	}
	why, err = s.untraced(ctx, j)
	return nil, why, err
}

// untraced says why a job has no trace.
func (s traces) untraced(ctx context.Context, j muster.Job) (string, error) {
	p, err := s.Store.Pool(ctx, workspaceOf(ctx), j.Pool)
	pool := &p
	if muster.CodeOf(err) == muster.CodeNotFound {
		pool, err = nil, nil // it is history
	}
	if err != nil {
		return "", err
	}
	return cmp.Or(muster.Untraced(j, pool), "it has not started"), nil
}

// selection reads a selection: one trace, or a filter.
func (s traces) selection(ctx context.Context, sel *v1.TraceSelection) (id muster.TraceID, f TraceFilter, err error) {
	if ref := sel.GetTrace(); ref.GetTrace() != "" || ref.GetJobId() != 0 {
		t, err := s.named(ctx, ref)
		return t.ID, f, err
	}
	f = TraceFilter{Pool: sel.GetPool(), Repository: sel.GetRepository(), Key: sel.GetJobKey(), Since: when(sel.GetSince()), Until: when(sel.GetUntil())}
	return id, f, nil
}

func (s traces) ListTraces(ctx context.Context, req *v1.ListTracesRequest) (*v1.ListTracesResponse, error) {
	port, err := s.kept()
	if err != nil {
		return nil, err
	}
	id, f, err := s.selection(ctx, req.Selection)
	if err != nil {
		return nil, err
	}
	if id != (muster.TraceID{}) {
		t, err := port.Trace(ctx, workspaceOf(ctx), id)
		return &v1.ListTracesResponse{Traces: []*v1.Trace{traceOf(t)}}, err
	}
	if f.Limit, err = pageSize(req.Limit, 50, 500); err != nil {
		return nil, err
	}
	for _, state := range req.States {
		switch st := muster.TraceState(state); st {
		case muster.TraceRecording, muster.TraceComplete, muster.TraceTruncated, muster.TraceLost, muster.TraceAbsent:
			f.States = append(f.States, st)
		default:
			return nil, muster.Errorf(muster.CodeInvalid, "state %q is unknown: use recording, complete, truncated, lost or not_recorded", state)
		}
	}
	all, err := port.Traces(ctx, workspaceOf(ctx), f)
	return &v1.ListTracesResponse{Traces: each(all, traceOf)}, err
}

func (s traces) GetTrace(ctx context.Context, req *v1.GetTraceRequest) (*v1.GetTraceResponse, error) {
	t, err := s.named(ctx, req.Trace)
	if err != nil {
		return nil, err
	}
	found, err := s.findings(ctx, t)
	return &v1.GetTraceResponse{Trace: traceOf(t), Findings: found}, err
}

// findings are those of one trace, the most severe first.
func (s traces) findings(ctx context.Context, t muster.Trace) ([]*v1.Finding, error) {
	all, err := s.Traces.TraceFindings(ctx, t.Workspace, FindingFilter{Trace: t.ID})
	slices.SortStableFunc(all, func(a, b TraceFinding) int {
		return cmp.Or(slices.Index(muster.Severities, b.Severity)-slices.Index(muster.Severities, a.Severity), a.At.Compare(b.At))
	})
	return each(all, findingOf), err
}

// viewMembers are the members of all views that each view needs.
var viewMembers = map[string][]string{
	"overview":    {"steps", "notable", "hidden_notable"},
	"timeline":    {"steps", "notable", "hidden_notable"},
	"execution":   {"steps", "processes", "hidden_processes", "programs", "hidden_programs", "flame"},
	"network":     {"steps", "network"},
	"files":       {"steps", "files", "file_tops"},
	"performance": {"steps", "performance"},
}

func (s traces) GetTraceView(ctx context.Context, req *v1.GetTraceViewRequest) (*v1.GetTraceViewResponse, error) {
	members, known := viewMembers[req.View]
	if !known && req.View != "" {
		return nil, muster.Errorf(muster.CodeInvalid, "view %q is unknown: use overview, timeline, execution, network, files or performance", req.View)
	}
	t, err := s.named(ctx, req.Trace)
	if err != nil {
		return nil, err
	}
	v, err := s.Traces.Views(ctx, t.Workspace, t.ID)
	if err != nil {
		return nil, err
	}
	resp := &v1.GetTraceViewResponse{Trace: traceOf(t)}
	if resp.Views, err = object(part(v, req.View)); err != nil {
		return nil, err
	}
	for name := range resp.Views.GetFields() { // members of a part that has none
		always := []string{"version", "job", "ended", "overview"}
		if known && !slices.Contains(members, name) && !slices.Contains(always, name) {
			delete(resp.Views.Fields, name)
		}
	}
	resp.Findings, err = s.findings(ctx, t)
	return resp, err
}

// part is what one view needs of all, so that nobody encodes the rest.
func part(v *view.Views, name string) *view.Views {
	if name == "" {
		return v
	}
	out := &view.Views{Version: v.Version, Job: v.Job, Ended: v.Ended, Overview: v.Overview, Steps: v.Steps}
	switch name {
	case "overview", "timeline":
		out.Notable, out.HiddenNotable = v.Notable, v.HiddenNotable
	case "execution":
		out.Processes, out.HiddenProcesses, out.Programs, out.HiddenPrograms, out.Flame = v.Processes, v.HiddenProcesses, v.Programs, v.HiddenPrograms, v.Flame
	case "network":
		out.Network = v.Network
	case "files":
		out.Files, out.FileTops = v.Files, v.FileTops
	case "performance":
		out.Performance = v.Performance
	}
	return out
}

// object is a value as the JSON object that it encodes to.
func object(v any) (*structpb.Struct, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode an answer: %w", err)
	}
	out := &structpb.Struct{}
	if err := protojson.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("encode an answer: %w", err)
	}
	return out, nil
}

// Messages of a stream hold at most this many events, so that the first come early.
const eventsPerMessage = 256

func (s traces) QueryTraces(ctx context.Context, req *v1.QueryTracesRequest, stream *connect.ServerStream[v1.QueryTracesResponse]) error {
	port, err := s.kept()
	if err != nil {
		return err
	}
	id, f, err := s.selection(ctx, req.Selection)
	if err != nil {
		return err
	}
	limit, err := pageSize(req.Limit, 1000, 10_000)
	if err != nil {
		return err
	}
	ctx, stop := s.untilStopping(ctx)
	defer stop()
	resp := &v1.QueryTracesResponse{}
	var failed error
	stats, err := port.QueryTraces(ctx, workspaceOf(ctx), req.Query, id, f, limit, func(h TraceHit) bool {
		e, err := eventOf(h)
		if err != nil {
			failed = err
			return false
		}
		resp.Events = append(resp.Events, e)
		if len(resp.Events) == eventsPerMessage {
			failed = stream.Send(resp)
			resp = &v1.QueryTracesResponse{}
		}
		return failed == nil
	})
	if err = cmp.Or(failed, whyEnded(ctx, err)); err != nil {
		return err
	}
	resp.Stats = traceStatsOf(stats)
	return stream.Send(resp)
}

func (s traces) ScanTraces(ctx context.Context, req *v1.ScanTracesRequest, stream *connect.ServerStream[v1.ScanTracesResponse]) error {
	port, err := s.kept()
	if err != nil {
		return err
	}
	id, f, err := s.selection(ctx, req.Selection)
	if err != nil {
		return err
	}
	limit, err := pageSize(req.Limit, 10, 1000)
	if err != nil {
		return err
	}
	ctx, stop := s.untilStopping(ctx)
	defer stop()
	var failed error
	stats, err := port.ScanTraces(ctx, workspaceOf(ctx), req.Indicators, id, f, limit, func(t muster.Trace, hits []TraceHit) bool {
		resp := &v1.ScanTracesResponse{Trace: traceOf(t)}
		for _, h := range hits {
			var e *v1.TraceEvent
			if e, failed = eventOf(h); failed != nil {
				return false
			}
			resp.Hits = append(resp.Hits, &v1.ScanHit{Indicator: h.Indicator, Event: e.Event})
		}
		failed = stream.Send(resp)
		return failed == nil
	})
	if err = cmp.Or(failed, whyEnded(ctx, err)); err != nil {
		return err
	}
	return stream.Send(&v1.ScanTracesResponse{Stats: traceStatsOf(stats)})
}

func (s traces) TailTrace(ctx context.Context, req *v1.TailTraceRequest, stream *connect.ServerStream[v1.TailTraceResponse]) error {
	t, err := s.named(ctx, req.Trace)
	if err != nil {
		return err
	}
	after := req.After
	if last := int64(req.Last); last > 0 && t.Events > last {
		after = max(after, uint64(t.Events-last))
	}
	ctx, stop := s.untilStopping(ctx)
	defer stop()
	var failed error
	err = s.Traces.TailTrace(ctx, t.Workspace, t.ID, after, req.Query, func(t muster.Trace, events []trace.Event) bool {
		if len(events) == 0 {
			failed = stream.Send(&v1.TailTraceResponse{Trace: traceOf(t)})
		}
		for part := range slices.Chunk(events, eventsPerMessage) {
			resp := &v1.TailTraceResponse{}
			for _, e := range part {
				var text string
				if text, failed = line(e); failed != nil {
					return false
				}
				resp.Events = append(resp.Events, text)
			}
			if failed = stream.Send(resp); failed != nil {
				return false
			}
		}
		return failed == nil
	})
	return cmp.Or(failed, whyEnded(ctx, err))
}

// untilStopping is a context that ends when the control plane begins to stop.
func (a *API) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.Stopping:
			cancel(muster.Errorf(muster.CodeUnavailable, "the control plane is stopping"))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// whyEnded is the error of a call whose context may have ended, with the reason for that.
func whyEnded(ctx context.Context, err error) error {
	if err != nil && errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s traces) DiffTraces(ctx context.Context, req *v1.DiffTracesRequest) (*v1.DiffTracesResponse, error) {
	t, err := s.named(ctx, req.Trace)
	if err != nil {
		return nil, err
	}
	var against muster.Trace
	if req.Against != nil {
		if against, err = s.named(ctx, req.Against); err != nil {
			return nil, err
		}
	}
	d, t, against, err := s.Traces.DiffTraces(ctx, t.Workspace, t.ID, against.ID)
	if err != nil {
		return nil, err
	}
	resp := &v1.DiffTracesResponse{Trace: traceOf(t), Against: traceOf(against)}
	resp.Diff, err = object(d)
	return resp, err
}

func (s traces) ListFindings(ctx context.Context, req *v1.ListFindingsRequest) (*v1.ListFindingsResponse, error) {
	port, err := s.kept()
	if err != nil {
		return nil, err
	}
	id, sel, err := s.selection(ctx, req.Selection)
	if err != nil {
		return nil, err
	}
	severity := muster.Severity(req.Severity)
	if severity != "" && !slices.Contains(muster.Severities, severity) {
		return nil, muster.Errorf(muster.CodeInvalid, "severity %q is unknown: use info, low, medium, high or critical", severity)
	}
	f := FindingFilter{Trace: id, Pool: sel.Pool, Repository: sel.Repository, Key: sel.Key, Since: sel.Since, Until: sel.Until, Rule: req.Rule, Severity: severity}
	if f.Limit, err = pageSize(req.Limit, 100, 1000); err != nil {
		return nil, err
	}
	all, err := port.TraceFindings(ctx, workspaceOf(ctx), f)
	return &v1.ListFindingsResponse{Findings: each(all, findingOf)}, err
}

func (s traces) ProposeEgress(ctx context.Context, req *v1.ProposeEgressRequest) (*v1.ProposeEgressResponse, error) {
	port, err := s.kept()
	if err != nil {
		return nil, err
	}
	if req.Pool == "" {
		return nil, muster.Errorf(muster.CodeInvalid, "no pool is named")
	}
	since := when(req.Since)
	if since.IsZero() {
		since = s.Now().AddDate(0, 0, -30)
	}
	p, err := port.ProposeEgress(ctx, workspaceOf(ctx), req.Pool, since)
	if err != nil {
		return nil, err
	}
	return &v1.ProposeEgressResponse{
		Pool: req.Pool, Mode: string(p.Policy.Mode), Unused: p.Unused, Jobs: int32(p.Traces), Notes: p.Notes, NoGithub: p.Policy.NoGitHub,
		Entries: each(p.Entries, func(e EgressEntry) *v1.EgressEntry {
			return &v1.EgressEntry{Allow: e.Allow, Hosts: e.Hosts, Jobs: int32(e.Jobs), FirstAt: stamp(e.First), LastAt: stamp(e.Last), Processes: e.Programs, Known: e.Known, Warning: e.Warning}
		}),
	}, nil
}

func (s traces) GetAttestation(ctx context.Context, req *v1.GetAttestationRequest) (*v1.GetAttestationResponse, error) {
	t, err := s.named(ctx, req.Trace)
	if err != nil {
		return nil, err
	}
	t, envelope, err := s.Traces.Attestation(ctx, t.Workspace, t.ID)
	return &v1.GetAttestationResponse{Trace: traceOf(t), Envelope: string(envelope)}, err
}

func (s traces) VerifyTrace(ctx context.Context, req *v1.VerifyTraceRequest) (*v1.VerifyTraceResponse, error) {
	t, err := s.named(ctx, req.Trace)
	if err != nil {
		return nil, err
	}
	c, err := s.Traces.VerifyTrace(ctx, t.Workspace, t.ID)
	return &v1.VerifyTraceResponse{Trace: traceOf(c.Trace), Ok: c.Problem == "", Problem: c.Problem, KeyId: c.KeyID, Segments: int32(c.Segments), Events: c.Events}, err
}

// tellEvery is how often a check says how far it is.
const tellEvery = time.Second

func (s traces) CheckTraces(ctx context.Context, req *v1.CheckTracesRequest, stream *connect.ServerStream[v1.CheckTracesResponse]) error {
	port, err := s.kept()
	if err != nil {
		return err
	}
	id, f, err := s.selection(ctx, req.Selection)
	if err != nil {
		return err
	}
	ctx, stop := s.untilStopping(ctx)
	defer stop()
	var failed error
	var told time.Duration
	tally, err := port.CheckTraces(ctx, workspaceOf(ctx), id, f, func(p *TraceProblem, t TraceTally) bool {
		if p == nil && t.Took-told < tellEvery {
			return true
		}
		told = t.Took
		resp := &v1.CheckTracesResponse{Stats: tallyOf(t)}
		if p != nil {
			resp.Problems = []*v1.TraceProblem{{Trace: traceOf(p.Trace), Kind: p.Kind, Text: p.Text}}
		}
		failed = stream.Send(resp)
		return failed == nil
	})
	if err = cmp.Or(failed, whyEnded(ctx, err)); err != nil {
		return err
	}
	return stream.Send(&v1.CheckTracesResponse{Stats: tallyOf(tally), Done: true})
}

func tallyOf(t TraceTally) *v1.TraceCheckStats {
	return &v1.TraceCheckStats{
		Traces: int32(t.Traces), Total: int32(t.Total), Whole: int32(t.Whole), Mended: int32(t.Mended), Unsigned: int32(t.Unsigned),
		Problems: counted(t.Problems), Skipped: counted(t.Skipped), Bytes: t.Bytes, Took: span(t.Took),
	}
}

// counted is a table of counts, nil if it is empty.
func counted(m map[string]int) map[string]int32 {
	var out map[string]int32
	for k, n := range m {
		if out == nil {
			out = map[string]int32{}
		}
		out[k] = int32(n)
	}
	return out
}

// traceOf converts what the books know.
func traceOf(t muster.Trace) *v1.Trace {
	out := &v1.Trace{
		Id: t.ID.String(), Runner: string(t.ID.Runner), Number: int32(t.ID.Number), Workspace: t.Workspace, Pool: t.Pool, JobId: t.Job.ID, JobAttempt: int32(t.Job.Attempt),
		JobName: t.JobName, Repository: t.Repository, RunId: t.RunID, RunAttempt: int32(t.Attempt), JobKey: t.Key, Workflow: t.Workflow, WorkflowRef: t.WorkflowRef, Ref: t.Ref, Sha: t.SHA,
		State: string(t.State), Reason: t.Reason, Segments: int32(t.Segments), Events: t.Events, Bytes: t.Bytes, Head: t.Head, Lost: t.Lost, Missing: t.Missing,
		Egress: t.Egress, Refused: t.Refused, WouldRefuse: t.WouldRefuse, StartedAt: stamp(t.StartedAt), EndedAt: stamp(t.EndedAt), SealedAt: stamp(t.SealedAt),
		ExpiresAt: stamp(t.ExpiresAt), DeletedAt: stamp(t.DeletedAt), AnalysedAt: stamp(t.AnalysedAt), AnalysisError: t.AnalysisError,
		DamagedSegment: int32(t.Damage.Segment), DamagedAt: stamp(t.Damage.At),
	}
	for severity, n := range t.Findings {
		if out.Findings == nil {
			out.Findings = map[string]int32{}
		}
		out.Findings[string(severity)] = int32(n)
	}
	return out
}

func findingOf(f TraceFinding) *v1.Finding {
	return &v1.Finding{
		Trace: f.Trace.String(), JobId: f.Of.Job.ID, JobAttempt: int32(f.Of.Job.Attempt), Rule: f.Rule, Severity: string(f.Severity), Title: f.Title, Explanation: f.Explanation, Remedy: f.Remedy,
		Step: f.Step, Process: f.Process, Pid: int32(f.PID), Ancestry: f.Ancestry, Subject: f.Subject, Seq: f.Seq, Count: int32(f.Count), At: stamp(f.At), Repository: f.Of.Repository, JobName: f.Of.JobName,
		Fact: f.Fact, Accepted: actOf(f.Accepted),
	}
}

// line is the text of an event, without the end of the line.
func line(e trace.Event) (string, error) {
	text, err := trace.AppendEvent(nil, e)
	if err != nil {
		return "", err
	}
	return string(text[:len(text)-1]), nil
}

func eventOf(h TraceHit) (*v1.TraceEvent, error) {
	text, err := line(h.Event)
	return &v1.TraceEvent{Trace: h.Trace.ID.String(), JobId: h.Trace.Job.ID, Repository: h.Trace.Repository, JobName: h.Trace.JobName, Event: text}, err
}

func traceStatsOf(s TraceStats) *v1.TraceStats {
	return &v1.TraceStats{
		Traces: int32(s.Traces), Unindexed: int32(s.Unindexed), Failed: int32(s.Failed), Errors: s.Errors, Events: s.Events, Matched: s.Matched,
		Affected: int32(s.Affected), Limited: s.Limited, Took: span(s.Took), Skipped: counted(s.Skipped),
	}
}

// tracesOf are the traces that a filter selects; none where none are kept.
func (a *API) tracesOf(ctx context.Context, f TraceFilter) ([]muster.Trace, error) {
	if a.Traces == nil {
		return nil, nil
	}
	return a.Traces.Traces(ctx, workspaceOf(ctx), f)
}
