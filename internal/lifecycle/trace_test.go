package lifecycle

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// keptTraces is the real archive in memory, which can be switched off, and an analyst that
// finds a reverse shell wherever something listens on port 4444.
type keptTraces struct {
	*archive.Archive
	store *store.Store

	mu      sync.Mutex
	down    map[string]bool // by pool
	analyse map[string]int  // how often, by trace
	fail    map[string][]error
}

func newKeptTraces(s *store.Store) (*keptTraces, error) {
	a, err := archive.Open(context.Background(), "mem://")
	return &keptTraces{Archive: a, store: s, down: map[string]bool{}, analyse: map[string]int{}, fail: map[string][]error{}}, err
}

func (k *keptTraces) away(pool string, down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down[pool] = down
}

func (k *keptTraces) PutSegment(ctx context.Context, ws string, id muster.TraceID, s trace.Segment) error {
	r, err := k.store.Runner(ctx, ws, id.Runner)
	if err != nil {
		return err
	}
	k.mu.Lock()
	down := k.down[r.Pool]
	k.mu.Unlock()
	if down {
		return &muster.Error{Code: muster.CodeUnavailable, Message: "the bucket is away", RetryAfter: time.Second}
	}
	return k.Archive.PutSegment(ctx, ws, id, s)
}

func (k *keptTraces) Analyse(ctx context.Context, ws string, id muster.TraceID) error {
	k.mu.Lock()
	k.analyse[id.String()]++
	var err error
	if errs := k.fail[id.String()]; len(errs) > 0 {
		err, k.fail[id.String()] = errs[0], errs[1:]
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	var found []muster.Detection
	for e, err := range k.Events(ctx, ws, id) {
		if err != nil {
			return err
		}
		if e.Port == 4444 {
			found = append(found, muster.Detection{Rule: "reverse-shell", Severity: muster.SeverityHigh, Title: "bash | nc <b>evil</b>:4444", Seq: []uint64{e.Seq}, Count: 1, At: e.Timestamp})
		}
	}
	if err := k.store.PutDetections(ctx, ws, id, found); err != nil {
		return err
	}
	_, err = k.store.UpdateTrace(ctx, ws, id, time.Now(), func(t *muster.Trace) error { t.AnalysedAt = time.Now(); return nil })
	return err
}

const canaryHook = muster.Secret("canary-hook-secret-9Q2B7")

// hookServer is an outgoing webhook's receiver, which is not there for the first call of each delivery.
type hookServer struct {
	*httptest.Server
	mu    sync.Mutex
	tries map[string]int // by delivery
	got   map[string]HookMessage
	wrong []string
}

func newHookServer() *hookServer {
	h := &hookServer{tries: map[string]int{}, got: map[string]HookMessage{}}
	h.Server = httptest.NewServer(h)
	return h
}

func (h *hookServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	id := r.Header.Get("X-Muster-Delivery")
	if h.tries[id]++; h.tries[id] == 1 {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	mac := hmac.New(sha256.New, []byte(canaryHook.Reveal()))
	mac.Write(body)
	var m HookMessage
	err := json.Unmarshal(body, &m)
	if want := "sha256=" + hex.EncodeToString(mac.Sum(nil)); r.Header.Get("X-Muster-Signature-256") != want || err != nil || m.Event != r.Header.Get("X-Muster-Event") {
		h.wrong = append(h.wrong, fmt.Sprint(r.Header, string(body)))
	}
	h.got[m.Trace.ID+" "+m.Event] = m
}

func (h *hookServer) message(id muster.TraceID, event string) (HookMessage, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.got[id.String()+" "+event]
	return m, ok
}

// tracer is the part of an agent that sends a trace.
type tracer struct {
	a      *agent
	number int
	job    trace.Job
	packer *trace.Packer
	chain  trace.Chain
	seq    uint64
	sent   []byte // lines
	events int64
}

func (a *agent) tracer(t testing.TB, number int) *tracer {
	p, err := trace.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	return &tracer{a: a, number: number, packer: p}
}

// next is the next segment, with one event for each port; it counts as sent.
func (r *tracer) next(ports ...int) wire.TraceSegment {
	var text []byte
	now := time.Now().UTC()
	events := []trace.Event{}
	if r.seq == 0 {
		r.seq++
		events = append(events, trace.Event{Type: trace.TraceStart, Timestamp: now, Seq: r.seq, Recorder: &trace.Recorder{Agent: "test", Egress: "audit", Missing: map[string]string{"tls_hello": "no cgroup"}}})
	}
	for _, p := range ports {
		r.seq++
		events = append(events, trace.Event{Type: trace.NetConnect, Timestamp: now, Seq: r.seq, PID: 7, Address: "192.0.2.1", Port: p, Protocol: "tcp"})
	}
	for _, e := range events {
		text, _ = trace.AppendEvent(text, e)
	}
	r.sent = append(r.sent, text...)
	r.events += int64(len(events))
	data := r.packer.Pack(text)
	s := trace.Segment{Seq: r.chain.Seq + 1, Events: len(events), First: now, Last: now, Data: data, Link: r.chain.Head.Next(r.chain.Seq+1, data)}
	_ = r.chain.Add(s.Seq, s.Link, s.Data)
	return wire.TraceSegment{Trace: r.number, Job: r.job, Segment: s}
}

func (r *tracer) send(ctx context.Context, s wire.TraceSegment) error {
	_, err := r.a.w.client.TraceSegment(ctx, r.a.session, s)
	return err
}

func (r *tracer) seal() wire.TraceSeal {
	return wire.TraceSeal{Trace: r.number, Job: r.job, Seal: trace.Seal{Segments: r.chain.Seq, Head: r.chain.Head, Events: r.events, Lost: map[string]int64{"buffer_full": 2}, StartedAt: time.Now(), EndedAt: time.Now()}}
}

// traceOne runs a job that is traced, and returns the trace once it was analysed. With check,
// it is called when the machine still stands and the trace is sealed.
func (w *world) traceOne(t *testing.T, change func(*muster.Pool), check func(*tracer)) muster.Trace {
	t.Helper()
	jobs := make(chan int64, 1)
	failed := make(chan error, 1)
	var sent []byte
	script := func(ctx context.Context, a *agent) string {
		failed <- func() error {
			if err := a.boot(ctx); err != nil {
				return err
			}
			_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
			var id int64
			select {
			case id = <-jobs:
			case <-ctx.Done():
				return ctx.Err()
			}
			a.w.github.assign(a.name, true)
			e := a.w.event(muster.Pool{Labels: muster.Labels{a.machine.Spec.Pool}}, id, "in_progress")
			e.RunnerName, e.HeadSHA = a.name, sha
			_, _ = a.w.client.Job(ctx, e)
			_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseRunning, JobName: "build", Busy: true})
			tr := a.tracer(t, 1)
			tr.job = trace.Job{Name: "build", Repository: "acme/web", RunID: id, Attempt: 1, Key: "build", Workflow: "ci"}
			if err := errors.Join(tr.send(ctx, tr.next(443)), tr.send(ctx, tr.next(80, 4444, 8080))); err != nil {
				return err
			}
			// GitHub's word comes before the trace is whole. S0-23
			e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "success", time.Now()
			a.w.github.consume(a.name)
			if _, err := a.w.client.Job(ctx, e); err != nil {
				return err
			}
			if err := tr.send(ctx, tr.next(9)); err != nil {
				return err
			}
			if _, err := a.w.client.TraceSeal(ctx, a.session, tr.seal()); err != nil {
				return err
			}
			sent = bytes.Clone(tr.sent)
			if check != nil {
				check(tr)
			}
			_, err := a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "job finished"})
			return err
		}()
		return ""
	}
	p := w.pool(t, script, func(p *muster.Pool) {
		if change != nil {
			change(p)
		}
	})
	id := w.newJob()
	e := w.event(p, id, "queued")
	e.HeadSHA = sha
	w.send(t, e)
	jobs <- id
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	runner := w.untilDestroyed(t, p, 1)[0]
	tid := muster.TraceID{Runner: runner.ID, Number: 1}
	var row muster.Trace
	w.until(t, "the analysis and who is told of it", func() bool {
		var err error
		row, err = w.store.Trace(t.Context(), defaultWorkspace, tid)
		if err != nil {
			t.Fatal(err)
		}
		_, told := w.hook.message(tid, HookFinding)
		ref := TraceRef{Workspace: defaultWorkspace, Runner: tid.Runner, Number: 1}
		d, err := w.client.temporal.DescribeWorkflowExecution(t.Context(), traceWorkflowID(ref), "")
		return told && err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
	if row.Job.ID != id || !row.SealedAt.Before(runner.DestroyedAt) {
		t.Errorf("trace of job %s sealed at %s; the machine went at %s", row.Job, row.SealedAt, runner.DestroyedAt)
	}
	var raw bytes.Buffer
	if err := w.kept.Raw(t.Context(), defaultWorkspace, tid, &raw); err != nil || !bytes.Equal(raw.Bytes(), sent) {
		t.Errorf("what was kept differs from what was sent: %v", err)
	}
	return row
}

const sha = "0123456789abcdef0123456789abcdef01234567"

// The trace of a job is stored as its agent recorded it, associated with the job, after
// `completed` and before the machine goes; what is found in it is told. S0-22 S0-23 S0-24 S0-25 S0-8
func TestTrace(t *testing.T) {
	w := theWorld(t)
	var session string
	row := w.traceOne(t, func(p *muster.Pool) {
		p.ReportChecks = true
		p.Egress = muster.Egress{Mode: "audit", Allow: []string{"example.com"}}
	}, func(tr *tracer) {
		session = tr.a.session
		s := tr.a.resp.Trace
		if s == nil || s.MaxEvents != muster.DefaultTraceEvents || s.Egress.Mode != trace.EgressAudit || !slices.Equal(s.Egress.GitHub, []string{"github.test"}) || s.SealSeconds != 1 {
			t.Errorf("settings %+v", s)
		}
		_, err := tr.a.w.client.TraceSeal(t.Context(), tr.a.session, tr.seal())
		if err != nil {
			t.Error("the same seal again:", err) // its answer was lost
		}
		if code := muster.CodeOf(tr.send(t.Context(), tr.next(1))); code != muster.CodeGone {
			t.Errorf("a segment after the seal: %q", code)
		}
	})
	if row.State != muster.TraceComplete || row.Segments != 3 || row.Events != 6 || row.Reason != "" || row.Lost["buffer_full"] != 2 || row.Egress != "audit" || row.Missing["tls_hello"] == "" ||
		row.ExpiresAt.Sub(row.SealedAt) != DefaultTraceRetention || row.Baseline() != "acme/web/ci/build" {
		t.Errorf("%+v", row)
	}
	m, _ := w.hook.message(row.ID, HookFinding)
	kept, err := json.Marshal([]any{row, m})
	if err != nil || strings.Contains(string(kept), session) || strings.Contains(string(kept), canaryHook.Reveal()) {
		t.Error("a credential is kept with the trace, or told", err)
	}
	if m.Trace.JobID != row.Job.ID || len(m.Findings) != 1 || m.Findings[0].Severity != "high" || m.URL != "http://muster.test/jobs/"+row.Job.String() {
		t.Errorf("%+v", m)
	}
	w.hook.mu.Lock()
	defer w.hook.mu.Unlock()
	if len(w.hook.wrong) > 0 {
		t.Error(w.hook.wrong)
	}
	w.github.mu.Lock()
	defer w.github.mu.Unlock()
	var checks []muster.Check
	for _, c := range w.github.checks {
		if c.ExternalID == row.Job.String() {
			checks = append(checks, c)
		}
	}
	if len(checks) != 1 || checks[0].Conclusion != "failure" || checks[0].Status != "completed" || !strings.Contains(checks[0].Title, "1 finding, the worst high") ||
		strings.Contains(checks[0].Summary, "<b>") || checks[0].DetailsURL != m.URL {
		t.Errorf("%d check runs: %+v", len(checks), checks)
	}
}

// The archive fails: the agent is told to ask again, the machine stands until the deadline,
// then goes, and the trace is lost, with the reason. S0-25 C24 4-45
func TestTraceArchiveAway(t *testing.T) {
	w := theWorld(t)
	jobs, refused := make(chan int64, 1), make(chan error, 1)
	var completed time.Time
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		id := <-jobs
		a.w.github.assign(a.name, true)
		e := a.w.event(muster.Pool{Labels: muster.Labels{a.machine.Spec.Pool}}, id, "in_progress")
		e.RunnerName = a.name
		_, _ = a.w.client.Job(ctx, e)
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseRunning, Busy: true})
		tr := a.tracer(t, 1)
		err := tr.send(ctx, tr.next(443))
		completed = time.Now()
		e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "success", completed
		a.w.github.consume(a.name)
		_, _ = a.w.client.Job(ctx, e)
		refused <- err
		<-ctx.Done() // it would ask again for as long as it may
		return ""
	})
	w.kept.away(p.Name, true)
	id := w.newJob()
	w.send(t, w.event(p, id, "queued"))
	jobs <- id
	err := <-refused
	if e, ok := errors.AsType[*muster.Error](err); !ok || e.Code != muster.CodeUnavailable || e.RetryAfter == 0 {
		t.Errorf("the agent was answered %v", err)
	}
	r := w.untilDestroyed(t, p, 1)[0]
	if waited := r.DestroyedAt.Sub(completed); waited < w.client.Times.SealedAfter-100*time.Millisecond {
		t.Errorf("the machine went %s after the job, before the deadline of %s", waited, w.client.Times.SealedAfter)
	}
	var row muster.Trace
	w.until(t, "a lost trace", func() bool {
		row, err = w.store.Trace(t.Context(), defaultWorkspace, muster.TraceID{Runner: r.ID, Number: 1})
		return err == nil && row.State != muster.TraceRecording
	})
	if row.State != muster.TraceLost || !strings.Contains(row.Reason, "the bucket is away") || row.Job.ID != id {
		t.Errorf("%+v", row)
	}
	w.until(t, "word of it", func() bool { m, ok := w.hook.message(row.ID, HookTrace); return ok && m.Trace.State == "lost" })
}

// An agent that dies leaves what it sent, or nothing; neither is recorded for ever. 4-45
func TestTraceAgentDies(t *testing.T) {
	for name, c := range map[string]struct {
		segments int
		state    muster.TraceState
	}{"some": {2, muster.TraceTruncated}, "nothing": {0, muster.TraceLost}} {
		t.Run(name, func(t *testing.T) {
			w := theWorld(t)
			jobs := make(chan int64, 1)
			p := w.pool(t, func(ctx context.Context, a *agent) string {
				if err := a.boot(ctx); err != nil {
					return err.Error()
				}
				_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
				select {
				case <-jobs:
				case <-ctx.Done(): // one that came in the place of the first
					return "killed"
				}
				_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseRunning, Busy: true})
				tr := a.tracer(t, 1)
				for range c.segments {
					if err := tr.send(ctx, tr.next(443, 80)); err != nil {
						t.Error(err)
					}
				}
				return "killed"
			})
			id := w.newJob()
			w.send(t, w.event(p, id, "queued"))
			jobs <- id
			w.until(t, "a destroyed runner", func() bool {
				rs := w.runners(t, p)
				return len(rs) > 0 && slices.ContainsFunc(rs, func(r muster.Runner) bool { return r.State == muster.RunnerDestroyed })
			})
			w.disable(t, p)
			var rows []muster.Trace
			w.until(t, "a trace that ended", func() bool {
				var err error
				if rows, err = w.store.Traces(t.Context(), defaultWorkspace, store.TraceFilter{Pool: p.Name}); err != nil {
					t.Fatal(err)
				}
				return len(rows) > 0 && rows[len(rows)-1].State != muster.TraceRecording
			})
			row := rows[len(rows)-1]
			if row.State != c.state || row.Segments != c.segments || !strings.Contains(row.Reason, "not sealed") || row.ExpiresAt.IsZero() {
				t.Errorf("%+v", row)
			}
		})
	}
}

// enrolled is an agent with a session, whose machine waits.
func (w *world) enrolled(t *testing.T) (_ *agent, stop func()) {
	t.Helper()
	here := make(chan *agent, 1)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		select {
		case here <- a:
		case <-ctx.Done():
			return "killed"
		}
		<-ctx.Done()
		return ""
	})
	w.send(t, w.event(p, w.newJob(), "queued"))
	return <-here, func() { w.disable(t, p) }
}

// What a hostile or confused agent sends is refused by its class, and leaves no mark. 4-45
func TestTraceSegments(t *testing.T) {
	w := theWorld(t)
	a, stop := w.enrolled(t)
	defer stop()
	ctx := t.Context()
	tr := a.tracer(t, 1)
	first, second, third := tr.next(1), tr.next(2), tr.next(3)
	want := func(what string, err error, code muster.Code, text string) {
		t.Helper()
		if muster.CodeOf(err) != code || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q with %q", what, err, code, text)
		}
	}
	want("the second first", tr.send(ctx, second), muster.CodeConflict, "1 is wanted")
	want("the first", tr.send(ctx, first), "", "")
	want("the first again", tr.send(ctx, first), "", "")
	want("the third", tr.send(ctx, third), muster.CodeConflict, "2 is wanted")
	want("the second", tr.send(ctx, second), "", "")
	want("the first once more", tr.send(ctx, first), "", "")
	changed := first
	changed.Segment.Data, changed.Segment.Events = second.Segment.Data, second.Segment.Events
	want("another first", tr.send(ctx, changed), muster.CodeConflict, "another segment 1; 3 is wanted")

	p, err := trace.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	bomb := p.Pack(bytes.Repeat([]byte("{}\n"), 30<<20))
	noise := make([]byte, wire.MaxTraceSegment+1)
	_, _ = rand.Read(noise)
	for name, change := range map[string]func(*trace.Segment){
		"number 0":           func(s *trace.Segment) { s.Seq = 0 },
		"no data":            func(s *trace.Segment) { s.Data = nil },
		"too much":           func(s *trace.Segment) { s.Data = noise },
		"noise":              func(s *trace.Segment) { s.Data = noise[:100] },
		"a bomb":             func(s *trace.Segment) { s.Data = bomb },
		"events":             func(s *trace.Segment) { s.Events = 99 },
		"no link":            func(s *trace.Segment) { s.Link = "" },
		"a word":             func(s *trace.Segment) { s.Link = "link" },
		"other link":         func(s *trace.Segment) { s.Link = first.Segment.Link },
		"data of the second": func(s *trace.Segment) { s.Data = second.Segment.Data },
	} {
		bad := third
		change(&bad.Segment)
		want(name, tr.send(ctx, bad), muster.CodeInvalid, "")
	}
	bad := third
	bad.Trace = 0
	want("trace 0", tr.send(ctx, bad), muster.CodeInvalid, "")
	_, err = w.client.TraceSegment(ctx, "forged", third)
	want("a forged session", err, muster.CodeUnauthenticated, "")
	seal := tr.seal()
	seal.Seal.Head = "head"
	_, err = w.client.TraceSeal(ctx, a.session, seal)
	want("a seal without a hash", err, muster.CodeInvalid, "")

	row, err := w.store.Trace(ctx, defaultWorkspace, muster.TraceID{Runner: muster.RunnerID(a.resp.Runner), Number: 1})
	if err != nil || row.Segments != 2 || row.Events != 3 || row.State != muster.TraceRecording {
		t.Errorf("%+v, %v", row, err)
	}
	// The seal tells of a third that never came.
	if _, err := w.client.TraceSeal(ctx, a.session, tr.seal()); err != nil {
		t.Error(err)
	}
	row, err = w.store.Trace(ctx, defaultWorkspace, row.ID)
	if err != nil || row.State != muster.TraceTruncated || !strings.Contains(row.Reason, "3 segments") || !strings.Contains(row.Reason, "2 are there") {
		t.Errorf("%+v, %v", row, err)
	}
	// Nothing was recorded at all, and the agent says why. The one before it is not left open.
	if _, err := w.client.TraceSeal(ctx, a.session, wire.TraceSeal{Trace: 2, Seal: trace.Seal{Missing: "no privileges"}}); err != nil {
		t.Error(err)
	}
	row, err = w.store.Trace(ctx, defaultWorkspace, muster.TraceID{Runner: row.ID.Runner, Number: 2})
	if err != nil || row.State != muster.TraceAbsent || row.Reason != "no privileges" {
		t.Errorf("%+v, %v", row, err)
	}
}

// The process died between the archive and the books, or after them: nothing is lost by it,
// and the sweep finishes what nobody else does. 4-51
func TestTraceForgotten(t *testing.T) {
	w := theWorld(t)
	a, stop := w.enrolled(t)
	defer stop()
	ctx := t.Context()
	id := muster.TraceID{Runner: muster.RunnerID(a.resp.Runner), Number: 1}
	tr := a.tracer(t, 1)
	first, second := tr.next(1), tr.next(2, 3)
	if err := tr.send(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := w.kept.PutSegment(ctx, defaultWorkspace, id, second.Segment); err != nil {
		t.Fatal(err) // the row was never told
	}
	_, err := w.store.UpdateRunner(ctx, defaultWorkspace, id.Runner, time.Now(), "", func(r *muster.Runner) error { r.ActiveAt = time.Now(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	w.cloud.End("test", id.Runner, "gone")
	var row muster.Trace
	w.until(t, "a trace that ended", func() bool {
		row, err = w.store.Trace(ctx, defaultWorkspace, id)
		return err == nil && row.State != muster.TraceRecording
	})
	if row.State != muster.TraceTruncated || row.Segments != 2 || row.Events != 4 || row.Head != string(second.Segment.Link) {
		t.Errorf("%+v", row)
	}
	// A row that is left recording by a runner that is gone long since.
	left := muster.Trace{ID: muster.TraceID{Runner: id.Runner, Number: 2}, Workspace: defaultWorkspace, State: muster.TraceRecording, StartedAt: time.Now()}
	if _, _, err := w.store.AddTrace(ctx, left, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the runner's end", func() bool {
		r, err := w.store.Runner(ctx, defaultWorkspace, id.Runner)
		return err == nil && r.State == muster.RunnerDestroyed
	})
	acts := &Activities{Deps: w.client.Deps, Log: w.client.log, wake: w.client}
	acts.closeForgottenTraces(ctx, time.Now())
	if row, err = w.store.Trace(ctx, defaultWorkspace, left.ID); err != nil || row.State != muster.TraceLost {
		t.Errorf("%+v, %v", row, err)
	}
}

// An analysis that cannot be made is told, and what may pass is tried again.
func TestTraceAnalysisFails(t *testing.T) {
	w := theWorld(t)
	a, stop := w.enrolled(t)
	defer stop()
	ctx := t.Context()
	for number, errs := range map[int][]error{1: {muster.Errorf(muster.CodeInvalid, "no such rule")}, 2: {muster.Errorf(muster.CodeUnavailable, "later")}} {
		id := muster.TraceID{Runner: muster.RunnerID(a.resp.Runner), Number: number}
		w.kept.mu.Lock()
		w.kept.fail[id.String()] = errs
		w.kept.mu.Unlock()
		tr := a.tracer(t, number)
		if err := tr.send(ctx, tr.next(1)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.TraceSeal(ctx, a.session, tr.seal()); err != nil {
			t.Fatal(err)
		}
		w.until(t, "an end of the analysis", func() bool {
			row, err := w.store.Trace(ctx, defaultWorkspace, id)
			return err == nil && (number == 1 && strings.Contains(row.AnalysisError, "no such rule") || number == 2 && !row.AnalysedAt.IsZero())
		})
	}
}

func TestCheckOf(t *testing.T) {
	j := muster.Job{Name: "build", State: muster.JobCompleted, Conclusion: "success", Pool: "a", RunnerName: "r"}
	found := func(s ...muster.Severity) (out []muster.Detection) {
		for _, s := range s {
			out = append(out, muster.Detection{Rule: "rule", Severity: s, Title: "found"})
		}
		return out
	}
	for _, c := range []struct {
		conclusion string
		found      []muster.Detection
		want       string
	}{
		{"success", nil, "success"}, {"success", found(muster.SeverityInfo), "success"}, {"success", found(muster.SeverityMedium, muster.SeverityLow), "neutral"},
		{"success", found(muster.SeverityCritical), "failure"}, {"cancelled", found(muster.SeverityHigh), "cancelled"},
	} {
		j.Conclusion = c.conclusion
		if got := checkOf(j, nil, c.found, ""); got.Conclusion != c.want {
			t.Errorf("%s with %d findings: %s, want %s", c.conclusion, len(c.found), got.Conclusion, c.want)
		}
	}
	many := checkOf(j, []muster.Trace{{State: muster.TraceTruncated, Reason: "its agent *died*"}}, found(make([]muster.Severity, 500)...), "https://m/jobs/1")
	if len(many.Summary) > 60_000 || !strings.Contains(many.Summary, "450 more") || strings.Contains(many.Summary, "*died*") {
		t.Error(len(many.Summary))
	}
	j.State = muster.JobInProgress
	if c := checkOf(j, nil, nil, ""); c.Conclusion != "" || c.Status != "in_progress" {
		t.Errorf("%+v", c)
	}
}

// What is new in a job is told with the command that accepts it, which holds nothing that a
// job chose: in the check run and in deliveries.
func TestNewIsToldWithItsCommand(t *testing.T) {
	j := muster.Job{Key: muster.JobKey{ID: 101, Attempt: 2}, Name: "build", State: muster.JobCompleted, Conclusion: "success"}
	old := []muster.Detection{{Rule: "reverse-shell", Severity: muster.SeverityHigh, Title: "a shell"}}
	fresh := append(old, muster.Detection{Rule: "new-host", Severity: muster.SeverityMedium, Title: "node reached evil.example", Subject: "evil.example", Fact: "host:evil.example`; id"})
	const command = "muster trace baseline accept 101/2 --new"
	if c := checkOf(j, nil, fresh, ""); !strings.Contains(c.Summary, "`"+command+"`") || strings.Contains(c.Summary, "; id") {
		t.Error(c.Summary)
	}
	if c := checkOf(j, nil, old, ""); strings.Contains(c.Summary, "baseline") {
		t.Error(c.Summary)
	}
	tr := muster.Trace{ID: muster.TraceID{Runner: "r-1", Number: 2}, Job: j.Key}
	a := &Activities{}
	if m := a.message(HookFinding, tr, fresh); m.Accept != command || m.Findings[1].Fact != fresh[1].Fact {
		t.Errorf("%+v", m)
	}
	if m := a.message(HookFinding, tr, old); m.Accept != "" {
		t.Errorf("%+v", m)
	}
	tr.Job = muster.JobKey{}
	if m := a.message(HookFinding, tr, fresh); m.Accept != "muster trace baseline accept r-1.2 --new" {
		t.Errorf("%+v", m)
	}
}

// A trace whose seal comes after an outage took as long as its agent says.
func TestEndOfTrace(t *testing.T) {
	began := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	now := began.Add(time.Minute)
	elsewhere := began.Add(-72 * time.Hour) // by a clock that is wrong
	for name, c := range map[string]struct {
		seal trace.Seal
		want time.Time
	}{
		"outage":      {trace.Seal{StartedAt: began, EndedAt: began.Add(3 * time.Second)}, began.Add(3 * time.Second)},
		"wrong clock": {trace.Seal{StartedAt: elsewhere, EndedAt: elsewhere.Add(4 * time.Second)}, began.Add(4 * time.Second)},
		"in future":   {trace.Seal{StartedAt: began, EndedAt: began.Add(time.Hour)}, now},
		"backwards":   {trace.Seal{StartedAt: began, EndedAt: began.Add(-time.Second)}, now},
		"not told":    {trace.Seal{}, now},
	} {
		if got := endOf(began, c.seal, now); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestClip(t *testing.T) {
	long := strings.Repeat("ä", maxText)
	if s := clip(long); len(s) > maxText+4 || !strings.HasPrefix(long, strings.TrimSuffix(s, "…")) {
		t.Error(len(s))
	}
	if s := clip("\xff"); s != "\uFFFD" {
		t.Errorf("%q", s)
	}
}
