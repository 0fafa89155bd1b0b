package inspect_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/inspect"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/view"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("database/sql.(*DB).connectionOpener"))
}

const ws = "default"

var t0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// books is a real store with the inspector's filters.
type books struct {
	*store.Store
	policy trace.Egress
}

func (b *books) Traces(ctx context.Context, workspace string, f inspect.TraceFilter) ([]muster.Trace, error) {
	return b.Store.Traces(ctx, workspace, store.TraceFilter(f))
}

func (b *books) TracesAfter(ctx context.Context, workspace string, f inspect.TraceFilter, after muster.TraceID) ([]muster.Trace, error) {
	return b.Store.TracesAfter(ctx, workspace, store.TraceFilter(f), after)
}

func (b *books) Detections(ctx context.Context, workspace string, f inspect.DetectionFilter) ([]muster.Detection, error) {
	return b.Store.Detections(ctx, workspace, store.DetectionFilter(f))
}

func (b *books) Egress(ctx context.Context, workspace, pool string) (trace.Egress, error) {
	_, err := b.Pool(ctx, workspace, pool)
	return b.policy, err
}

// world is an inspector over a real store and an archive in memory.
type world struct {
	*inspect.Inspector
	books   *books
	archive *archive.Archive
	keys    []ed25519.PrivateKey
	now     time.Time
	jobs    int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	box, err := secretbox.New(bytes.Repeat([]byte{1}, secretbox.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{URL: "sqlite://" + filepath.Join(t.TempDir(), "muster.db"), Secrets: box})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	pool := muster.Pool{Name: "linux", App: "main", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo"}, Labels: muster.Labels{"muster"},
		Provider: "fake", Offering: "small", Enabled: true, Workspace: ws}.WithDefaults()
	if err := s.SyncPools(t.Context(), ws, []muster.Pool{pool}, []muster.Offering{{Name: "small", CPUs: 2}}); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	rules, err := detect.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{books: &books{Store: s}, archive: a, now: t0, jobs: 100}
	for _, of := range []byte{7, 8} {
		k, err := attest.Key(bytes.Repeat([]byte{of}, 32))
		if err != nil {
			t.Fatal(err)
		}
		w.keys = append(w.keys, k)
	}
	w.Inspector = inspect.New(inspect.Config{Archive: a, Books: w.books, Rules: rules, Keys: w.keys, Changes: s.Subscribe, Workers: 2, Now: func() time.Time { return w.now }})
	return w
}

// job is a trace in the making.
type job struct {
	*world
	id     muster.TraceID
	number int64
	chain  trace.Chain
	seq    uint64
	at     time.Time
	packer *trace.Packer
}

// begin adds a runner that takes the next job, and its trace.
func (w *world) begin(t *testing.T, repository string) *job {
	t.Helper()
	w.jobs++
	id := muster.RunnerID(fmt.Sprintf("r-%04d", w.jobs))
	w.now = w.now.Add(time.Hour)
	err := w.books.AddRunner(t.Context(), muster.Runner{ID: id, Workspace: ws, Pool: "linux", Name: string(id), Provider: "fake", Offering: "small", State: muster.RunnerProvisioning, CreatedAt: w.now})
	if err != nil {
		t.Fatal(err)
	}
	packer, err := trace.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	j := &job{world: w, id: muster.TraceID{Runner: id, Number: 1}, number: w.jobs, at: w.now, packer: packer}
	j.tell(t, repository, "in_progress", "")
	_, _, err = w.books.AddTrace(t.Context(), muster.Trace{ID: j.id, Workspace: ws, Pool: "linux", JobName: "build", Key: "build", Repository: repository, RunID: j.number + 1000, Attempt: 1, Workflow: "ci",
		Directory: "/w/app/app", State: muster.TraceRecording, StartedAt: w.now}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// tell has GitHub say something about the job.
func (j *job) tell(t *testing.T, repository, action, conclusion string) {
	t.Helper()
	e := muster.JobEvent{Action: action, Status: muster.JobState(action), Conclusion: conclusion, App: "main", Sense: muster.SenseWebhook, ReceivedAt: j.now, Repository: repository, ID: j.number, RunID: j.number + 1000,
		Attempt: 1, Workflow: "ci", Name: "build", URL: fmt.Sprintf("https://github.com/%s/actions/runs/%d/job/%d", repository, j.number+1000, j.number), Labels: muster.Labels{"muster"},
		RunnerName: string(j.id.Runner), CreatedAt: j.now, StartedAt: j.now}
	if action == "completed" {
		e.CompletedAt = j.now
	}
	if _, err := j.books.ApplyJobEvent(t.Context(), ws, e, func(muster.Job) string { return "linux" }); err != nil {
		t.Fatal(err)
	}
}

// send delivers events as one segment.
func (j *job) send(t *testing.T, events ...trace.Event) {
	t.Helper()
	var lines []byte
	for _, e := range events {
		j.seq++
		j.at = j.at.Add(time.Second)
		e.Seq, e.Timestamp = j.seq, j.at
		var err error
		if lines, err = trace.AppendEvent(lines, e); err != nil {
			t.Fatal(err)
		}
	}
	s := trace.Segment{Seq: j.chain.Seq + 1, Events: len(events), First: j.at, Last: j.at, Data: j.packer.Pack(lines)}
	s.Link = j.chain.Head.Next(s.Seq, s.Data)
	j.chain = trace.Chain{Seq: s.Seq, Head: s.Link}
	if err := j.archive.PutSegment(t.Context(), ws, j.id, s); err != nil {
		t.Fatal(err)
	}
	j.update(t, func(tr *muster.Trace) {
		tr.Segments, tr.Head, tr.Bytes = s.Seq, string(s.Link), tr.Bytes+int64(len(s.Data))
		tr.Events += int64(len(events))
	})
}

func (j *job) update(t *testing.T, change func(*muster.Trace)) muster.Trace {
	t.Helper()
	tr, err := j.books.UpdateTrace(t.Context(), ws, j.id, j.now, func(tr *muster.Trace) error { change(tr); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// seal ends the trace, and GitHub says how the job ended.
func (j *job) seal(t *testing.T, conclusion string) {
	t.Helper()
	text, err := json.Marshal(trace.Seal{Segments: j.chain.Seq, Events: int64(j.seq), Head: j.chain.Head, StartedAt: j.now, EndedAt: j.at})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.archive.Put(t.Context(), ws, j.id, "seal.json", bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	j.update(t, func(tr *muster.Trace) { tr.State, tr.EndedAt, tr.SealedAt = muster.TraceComplete, j.at, j.at })
	tr, err := j.books.Trace(t.Context(), ws, j.id)
	if err != nil {
		t.Fatal(err)
	}
	j.tell(t, tr.Repository, "completed", conclusion)
}

// build are the events of an ordinary job that reaches some hosts.
func build(hosts ...string) []trace.Event {
	sh := trace.Event{Type: trace.ProcessExec, Step: 1, PID: 100, Start: 1, PPID: 10, ParentStart: 1, Command: "bash", Path: "/usr/bin/bash", Args: []string{"bash", "-e", "run.sh"}}
	out := []trace.Event{
		{Type: trace.TraceStart, Recorder: &trace.Recorder{Agent: "v1", Kernel: "6.1", Scope: "cgroup"}},
		{Type: trace.StepStart, Step: 1, Name: "Build", StepKind: "run"}, sh,
	}
	for i, h := range hosts {
		pid := 200 + i
		p := trace.Event{Step: 1, PID: pid, Start: uint64(pid), PPID: 100, ParentStart: 1, Command: "go"}
		exec, dns, connect, exit := p, p, p, p
		exec.Type, exec.Path, exec.Args = trace.ProcessExec, "/usr/local/go/bin/go", []string{"go", "build", "./..."}
		dns.Type, dns.Hostname, dns.QueryType, dns.Addresses = trace.DNSQuery, h, "A", []string{fmt.Sprintf("198.51.100.%d", i+1)}
		connect.Type, connect.Hostname, connect.Address, connect.Port, connect.Protocol = trace.NetConnect, h, fmt.Sprintf("198.51.100.%d", i+1), 443, "tcp"
		exit.Type, exit.DurationUS, exit.CPUUS = trace.ProcessExit, 1_000_000, 500_000
		out = append(out, exec, dns, connect, exit)
	}
	return append(out, trace.Event{Type: trace.StepEnd, Step: 1, Result: "succeeded"}, trace.Event{Type: trace.TraceEnd})
}

// attack is a read of the runner's memory.
func attack() []trace.Event {
	return []trace.Event{{Type: trace.MemRead, Step: 1, PID: 300, Start: 300, PPID: 100, ParentStart: 1, Command: "python3", Method: "proc_mem", Target: 10, TargetCommand: "Runner.Worker"}}
}

// done is a whole job.
func (w *world) done(t *testing.T, repository, conclusion string, events ...trace.Event) *job {
	t.Helper()
	j := w.begin(t, repository)
	half := len(events) / 2
	j.send(t, events[:half]...)
	j.send(t, events[half:]...)
	j.seal(t, conclusion)
	if _, err := w.Analyse(t.Context(), ws, j.id); err != nil {
		t.Fatal(err)
	}
	return j
}

func wantCode(t *testing.T, err error, code muster.Code, words string) {
	t.Helper()
	if muster.CodeOf(err) != code || !strings.Contains(muster.MessageOf(err), words) {
		t.Errorf("the error is %q (%s), not %q with %q", err, muster.CodeOf(err), code, words)
	}
}

// S0-24: what was recorded is read back as it was, in the words and frames of the agent.
func TestRaw(t *testing.T) {
	w := newWorld(t)
	j := w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	var plain, packed bytes.Buffer
	ready := 0
	for _, c := range []struct {
		out    *bytes.Buffer
		packed bool
	}{{&plain, false}, {&packed, true}} {
		if err := w.Raw(t.Context(), ws, j.id, c.packed, c.out, func(tr muster.Trace) { ready++ }); err != nil {
			t.Fatal(err)
		}
	}
	text, err := trace.Unpack(packed.Bytes())
	if err != nil || !bytes.Equal(text, plain.Bytes()) || ready != 2 {
		t.Errorf("%v: %s", err, text)
	}
	var got []trace.Type
	for e, err := range trace.Events(&plain) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Type)
	}
	var want []trace.Type
	for _, e := range build("proxy.golang.org") {
		want = append(want, e.Type)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// An analysis makes views, an index, findings and an attestation, and may be repeated.
func TestAnalyse(t *testing.T) {
	w := newWorld(t)
	j := w.begin(t, "octo/app")
	j.send(t, append(build("proxy.golang.org"), attack()...)...)
	if _, err := w.Analyse(t.Context(), ws, j.id); muster.CodeOf(err) != muster.CodeConflict {
		t.Errorf("a trace that is recorded is analysed: %v", err)
	}
	j.seal(t, "success")
	var before []muster.Detection
	for n := range 2 {
		tr, err := w.Analyse(t.Context(), ws, j.id)
		if err != nil {
			t.Fatal(err)
		}
		found, err := w.books.Detections(t.Context(), ws, inspect.DetectionFilter{Trace: j.id})
		if err != nil || len(found) == 0 {
			t.Fatal(found, err)
		}
		sum := 0
		for _, n := range tr.Findings {
			sum += n
		}
		if tr.AnalysedAt.IsZero() || tr.AnalysisError != "" || sum != len(found) {
			t.Errorf("%+v", tr)
		}
		if n == 1 {
			if d := cmp.Diff(before, found); d != "" {
				t.Error(d)
			}
		}
		before = found
	}
	v, err := w.Views(t.Context(), ws, j.id)
	if err != nil || v.Overview.Counts.Connections != 1 || v.Overview.Verdict.Word != view.VerdictFindings {
		t.Errorf("%+v %v", v.Overview, err)
	}
	again, err := w.Views(t.Context(), ws, j.id)
	if err != nil || again != v {
		t.Error("views that did not change are read twice")
	}
}

// What every run of a job does is learnt, once per run; what one does for the first time is
// found then, and is found again when its analysis is repeated.
func TestLearning(t *testing.T) {
	w := newWorld(t)
	for range detect.MatureAfter {
		j := w.done(t, "octo/app", "success", build("proxy.golang.org")...)
		if _, err := w.Analyse(t.Context(), ws, j.id); err != nil { // learns nothing twice
			t.Fatal(err)
		}
	}
	doc, version, err := w.books.Baseline(t.Context(), ws, "octo/app/ci/build")
	if err != nil || version != detect.MatureAfter || !bytes.Contains(doc, []byte(fmt.Sprintf(`"runs":%d`, detect.MatureAfter))) {
		t.Errorf("%s %d %v", doc, version, err)
	}
	j := w.done(t, "octo/app", "success", build("proxy.golang.org", "evil.example")...)
	for n := range 2 {
		found, err := w.books.Detections(t.Context(), ws, inspect.DetectionFilter{Trace: j.id})
		if err != nil || !slices.ContainsFunc(found, func(d muster.Detection) bool {
			return d.Rule == "new-host" && strings.Contains(d.Subject, "evil.example")
		}) {
			t.Errorf("analysis %d: %+v %v", n+1, found, err)
		}
		if _, err := w.Analyse(t.Context(), ws, j.id); err != nil {
			t.Fatal(err)
		}
	}
}

// fresh are the facts that rules found new in a job, the last first, with who accepted each.
func (j *job) fresh(t *testing.T) (out []string) {
	t.Helper()
	all, err := j.Findings(t.Context(), ws, inspect.DetectionFilter{Trace: j.id}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.Fact == "" {
			continue
		}
		by := ""
		if f.Accepted != nil {
			by = " by " + f.Accepted.By
		}
		out = append(out, f.Fact+by)
	}
	return out
}

// The story of a baseline: what is new to a mature one is a finding until somebody accepts it
// or it is usual, a run with an attack in it teaches nothing, and what was forgotten is learnt
// anew.
func TestBaselineStory(t *testing.T) {
	w := newWorld(t)
	const name = "octo/app/ci/build"
	_, err := w.Baseline(t.Context(), ws, name)
	wantCode(t, err, muster.CodeNotFound, "muster trace baseline list")
	for n := range detect.MatureAfter {
		if b, err := w.Baseline(t.Context(), ws, name); n > 0 && (err != nil || b.Mature() || b.Runs != n) {
			t.Fatalf("%+v %v", b, err)
		}
		w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	}
	first := w.done(t, "octo/app", "success", build("proxy.golang.org", "evil.example", "mirror.example")...)
	if d := cmp.Diff([]string{"host:evil.example", "host:mirror.example"}, first.fresh(t)); d != "" {
		t.Fatal(d)
	}
	before, err := w.Trace(t.Context(), ws, first.id)
	if err != nil || before.Findings[muster.SeverityMedium] < 2 {
		t.Fatalf("%+v %v", before, err)
	}
	second := w.done(t, "octo/app", "success", build("proxy.golang.org", "mirror.example")...)
	if d := cmp.Diff([]string{"host:mirror.example"}, second.fresh(t)); d != "" {
		t.Errorf("nobody accepted it, and it is not usual: %s", d)
	}
	b, err := w.Baseline(t.Context(), ws, name)
	if err != nil || len(b.Fresh()) != 2 || b.Hosts["mirror.example"].Trace != first.id.String() || b.Hosts["mirror.example"].Runs != 2 {
		t.Fatalf("%+v %v", b, err)
	}
	by := detect.Act{By: "operator", At: w.now, Reason: "our mirror"}
	mirror := detect.Fact{Kind: "host", What: "mirror.example"}
	_, _, err = w.AcceptBaseline(t.Context(), ws, name, inspect.Acceptance{Facts: []detect.Fact{mirror}, Version: b.Version - 1}, by)
	wantCode(t, err, muster.CodeConflict, fmt.Sprintf("has version %d and not %d any more", b.Version, b.Version-1))
	_, _, err = w.AcceptBaseline(t.Context(), "elsewhere", name, inspect.Acceptance{Facts: []detect.Fact{mirror}}, by)
	wantCode(t, err, muster.CodeNotFound, "there is no baseline")
	after, accepted, err := w.AcceptBaseline(t.Context(), ws, name, inspect.Acceptance{Facts: []detect.Fact{mirror}, Version: b.Version}, by)
	if err != nil || len(accepted) != 1 || after.Version != b.Version+1 || len(after.Fresh()) != 1 {
		t.Fatalf("%+v %v %v", after, accepted, err)
	}
	if again, accepted, err := w.AcceptBaseline(t.Context(), ws, name, inspect.Acceptance{Facts: []detect.Fact{mirror}}, by); err != nil || len(accepted) != 0 || again.Version != after.Version {
		t.Errorf("accepted twice: %+v %v %v", again, accepted, err)
	}
	// What was found stays found, also when it is found again, and tells that it was accepted.
	for range 2 {
		if d := cmp.Diff([]string{"host:evil.example", "host:mirror.example by operator"}, first.fresh(t)); d != "" {
			t.Error(d)
		}
		if tr, err := w.Analyse(t.Context(), ws, first.id); err != nil || !cmp.Equal(tr.Findings, before.Findings) {
			t.Errorf("%+v %v", tr.Findings, err)
		}
	}
	if got := w.done(t, "octo/app", "success", build("proxy.golang.org", "mirror.example")...).fresh(t); got != nil {
		t.Errorf("what was accepted is found: %v", got)
	}
	w.done(t, "octo/app", "success", append(build("late.example"), attack()...)...)
	if b, err = w.Baseline(t.Context(), ws, name); err != nil || b.Refused != 1 || b.Knows("host", "late.example") || len(b.Fresh()) != 1 {
		t.Errorf("%+v %v", b, err)
	}
	if _, accepted, err = w.AcceptBaseline(t.Context(), ws, name, inspect.Acceptance{Fresh: true}, by); err != nil || len(accepted) != 1 || accepted[0].What != "evil.example" {
		t.Errorf("%v %v", accepted, err)
	}
	_, err = w.ForgetBaseline(t.Context(), ws, name, 1, by)
	wantCode(t, err, muster.CodeConflict, "has version")
	if b, err = w.ForgetBaseline(t.Context(), ws, name, 0, by); err != nil || b.Runs != 0 || b.Forgotten == nil || len(b.Facts()) != 0 {
		t.Fatalf("%+v %v", b, err)
	}
	if _, err := w.Analyse(t.Context(), ws, second.id); err != nil { // teaches nothing again
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"host:evil.example", "host:mirror.example"}, first.fresh(t)); d != "" {
		t.Errorf("what is forgotten is not accepted: %s", d)
	}
	for n := range detect.MatureAfter {
		if got := w.done(t, "octo/app", "success", build(fmt.Sprintf("host-%c.example", 'a'+n))...).fresh(t); got != nil {
			t.Errorf("found while it is learnt anew: %v", got)
		}
	}
	if got := w.done(t, "octo/app", "success", build("mirror.example")...).fresh(t); len(got) != 1 {
		t.Errorf("%v", got)
	}
	// Somebody looks at a young one and calls it right.
	w.done(t, "octo/lib", "success", build("proxy.golang.org")...)
	if b, _, err = w.AcceptBaseline(t.Context(), ws, "octo/lib/ci/build", inspect.Acceptance{All: true}, by); err != nil || !b.Mature() || b.Runs != 1 {
		t.Errorf("%+v %v", b, err)
	}
	if got := w.done(t, "octo/lib", "success", build("mirror.example")...).fresh(t); len(got) != 1 {
		t.Errorf("%v", got)
	}
	all, err := w.Baselines(t.Context(), ws, "OCTO/", "octo/app/", 10)
	if err != nil || len(all) != 2 || all[0].Name != name || all[1].Name != "octo/lib/ci/build" || all[1].Runs != 2 || all[1].Version == 0 {
		t.Errorf("%+v %v", all, err)
	}
}

// Whoever accepts while jobs are learnt loses nothing of them, nor they of it.
func TestAcceptingWhileLearning(t *testing.T) {
	w := newWorld(t)
	w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	var all []*job
	for range 4 {
		j := w.begin(t, "octo/app")
		j.send(t, build("proxy.golang.org")...)
		j.seal(t, "success")
		all = append(all, j)
	}
	errs := make(chan error)
	for n, j := range all {
		go func() {
			_, err := w.Analyse(context.Background(), ws, j.id)
			errs <- err
		}()
		go func() {
			f := detect.Fact{Kind: "host", What: fmt.Sprintf("%c.example", 'a'+n)}
			_, _, err := w.AcceptBaseline(context.Background(), ws, "octo/app/ci/build", inspect.Acceptance{Facts: []detect.Fact{f}}, detect.Act{By: "operator", At: w.now})
			errs <- err
		}()
	}
	for range 2 * len(all) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	b, err := w.Baseline(t.Context(), ws, "octo/app/ci/build")
	if err != nil || b.Runs != 5 || !b.Knows("host", "a.example") || !b.Knows("host", "d.example") || b.Version != 9 {
		t.Errorf("%+v %v", b, err)
	}
}

// Several control planes may analyse traces of one job at once: each is learnt.
func TestLearningAtOnce(t *testing.T) {
	w := newWorld(t)
	var all []*job
	for range 6 {
		j := w.begin(t, "octo/app")
		j.send(t, build("proxy.golang.org")...)
		j.seal(t, "success")
		all = append(all, j)
	}
	errs := make(chan error)
	for _, j := range all {
		go func() {
			_, err := w.Analyse(context.Background(), ws, j.id)
			errs <- err
		}()
	}
	for range all {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if doc, _, err := w.books.Baseline(t.Context(), ws, "octo/app/ci/build"); err != nil || !bytes.Contains(doc, []byte(`"runs":6`)) {
		t.Errorf("%s %v", doc, err)
	}
}

// The views of a live trace grow with it.
func TestLiveViews(t *testing.T) {
	w := newWorld(t)
	j := w.begin(t, "octo/app")
	events := build("proxy.golang.org", "evil.example")
	for n, e := range events {
		j.send(t, e)
		v, err := w.Views(t.Context(), ws, j.id)
		if err != nil || v.Overview.Counts.Events != int64(n+1) {
			t.Fatalf("after %d events: %+v %v", n+1, v.Overview.Counts, err)
		}
	}
	j.seal(t, "success")
	if v, err := w.Views(t.Context(), ws, j.id); err != nil || len(v.Network.Hosts) != 2 { // not analysed yet
		t.Errorf("%+v %v", v, err)
	}
}

// S4-56 S0-24: events are found across traces, by their index or without, the newest first.
func TestQuery(t *testing.T) {
	w := newWorld(t)
	first := w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	second := w.done(t, "octo/lib", "success", build("proxy.golang.org", "evil.example")...)
	live := w.begin(t, "octo/app")
	live.send(t, build("evil.example")...)
	gone := w.done(t, "octo/app", "success", build("evil.example")...)
	gone.update(t, func(tr *muster.Trace) { tr.DeletedAt = w.now })
	absent := w.begin(t, "octo/app")
	absent.update(t, func(tr *muster.Trace) { tr.State, tr.Reason = muster.TraceAbsent, "the kernel is too old" })

	ask := func(expr string, where inspect.Where, limit int) (hits []string, stats inspect.Stats) {
		t.Helper()
		stats, err := w.Query(t.Context(), ws, expr, where, limit, func(h inspect.Hit) bool {
			hits = append(hits, fmt.Sprintf("%s %s", h.Trace.ID, h.Event.Hostname))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return hits, stats
	}
	const evil = `type == "dns_query" && hostname.endsWith(".example")`
	hits, stats := ask(evil, inspect.Where{}, 0)
	if d := cmp.Diff([]string{live.id.String() + " evil.example", second.id.String() + " evil.example"}, hits); d != "" {
		t.Error(d)
	}
	if stats.Traces != 3 || stats.Unindexed != 1 || stats.Affected != 2 || stats.Matched != 2 || stats.Limited || stats.Failed != 0 || stats.Skipped["deleted"] != 1 || stats.Skipped["not_recorded"] != 1 {
		t.Errorf("%+v", stats)
	}
	if hits, _ := ask(evil, inspect.Where{TraceFilter: inspect.TraceFilter{Repository: "octo/lib"}}, 0); len(hits) != 1 {
		t.Error(hits)
	}
	if hits, _ := ask(evil, inspect.Where{Trace: first.id}, 0); len(hits) != 0 {
		t.Error(hits)
	}
	if hits, stats := ask(`type == "net_connect"`, inspect.Where{}, 2); len(hits) != 2 || !stats.Limited {
		t.Error(hits, stats)
	}
	_, err := w.Query(t.Context(), ws, `hostnam == "x"`, inspect.Where{}, 0, nil)
	wantCode(t, err, muster.CodeInvalid, "hostname")
	_, err = w.Query(t.Context(), ws, evil, inspect.Where{Trace: absent.id}, 0, nil)
	wantCode(t, err, muster.CodeNotFound, "not recorded, because the kernel is too old")
	_, err = w.Query(t.Context(), ws, evil, inspect.Where{Trace: gone.id}, 0, nil)
	wantCode(t, err, muster.CodeGone, "were deleted")
	_, err = w.Query(t.Context(), "elsewhere", evil, inspect.Where{Trace: first.id}, 0, nil) // S4-61
	wantCode(t, err, muster.CodeNotFound, "")
}

// A trace that was changed in the archive is told, and the others are searched.
func TestQueryBrokenTrace(t *testing.T) {
	w := newWorld(t)
	w.done(t, "octo/app", "success", build("evil.example")...)
	bad := w.begin(t, "octo/app")
	bad.send(t, build("evil.example")...)
	bad.chain.Head = trace.Link(strings.Repeat("ab", 32))
	bad.send(t, build("evil.example")...)
	n := 0
	stats, err := w.Query(t.Context(), ws, `type == "dns_query"`, inspect.Where{}, 0, func(inspect.Hit) bool { n++; return true })
	if err != nil || n != 2 || stats.Failed != 1 || !strings.Contains(stats.Errors[0], "the trace was changed") {
		t.Errorf("%d %+v %v", n, stats, err)
	}
	wantCode(t, w.Raw(t.Context(), ws, bad.id, false, io.Discard, func(muster.Trace) {}), muster.CodeConflict, "the trace was changed")
	bad.seal(t, "success")
	tr, err := w.Analyse(t.Context(), ws, bad.id)
	if err != nil || tr.State != muster.TraceTruncated || !strings.Contains(tr.AnalysisError, "segment 2 of 2 was changed in the archive") {
		t.Errorf("%+v %v", tr, err)
	}
	if _, _, err := w.Attestation(t.Context(), ws, bad.id); muster.CodeOf(err) != muster.CodeNotFound {
		t.Error(err)
	}
}

// A job is compared with its last good run: not with one that failed, has findings, is
// another job's, or came later.
func TestDiff(t *testing.T) {
	w := newWorld(t)
	good := w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	w.done(t, "octo/app", "failure", build("a.example")...)
	w.done(t, "octo/app", "success", append(build("b.example"), attack()...)...)
	w.done(t, "octo/lib", "success", build("c.example")...)
	bad := w.done(t, "octo/app", "success", build("proxy.golang.org", "evil.example")...)
	w.done(t, "octo/app", "success", build("proxy.golang.org", "evil.example")...)
	d, err := w.Diff(t.Context(), ws, bad.id, muster.TraceID{})
	if err != nil || d.Against.ID != good.id || len(d.NewHosts) != 1 || d.NewHosts[0].Host != "evil.example" {
		t.Errorf("%+v %v", d, err)
	}
	if d, err = w.Diff(t.Context(), ws, good.id, bad.id); err != nil || len(d.GoneHosts) != 1 || !d.Empty() {
		t.Errorf("%+v %v", d, err)
	}
	_, err = w.Diff(t.Context(), ws, good.id, muster.TraceID{})
	wantCode(t, err, muster.CodeNotFound, "there is no good earlier trace of octo/app/ci/build")
}

// What was signed is verified from the bundle alone, also after the key was rotated, and a
// changed trace is told.
func TestAttestation(t *testing.T) {
	w := newWorld(t)
	j := w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	var bundle bytes.Buffer
	if err := w.Bundle(t.Context(), ws, j.id, &bundle, func(muster.Trace) {}); err != nil {
		t.Fatal(err)
	}
	envelope, segments, err := attest.ReadBundle(&bundle)
	if err != nil {
		t.Fatal(err)
	}
	v, err := attest.Verify(t.Context(), envelope, w.keys[0].Public().(ed25519.PublicKey), segments)
	if err != nil || v.Trace != j.id.String() || v.Event != fmt.Sprintf("https://github.com/octo/app/actions/runs/%d/job/%d", j.number+1000, j.number) {
		t.Errorf("%+v %v", v, err)
	}
	w.Keys = []ed25519.PrivateKey{w.keys[1], w.keys[0]} // rotated
	if c, err := w.Verify(t.Context(), ws, j.id); err != nil || c.Problem != "" || c.Verdict.KeyID != attest.KeyID(w.keys[0].Public().(ed25519.PublicKey)) {
		t.Errorf("%+v %v", c, err)
	}
	if keys, err := w.PublicKeys(); err != nil || bytes.Count(keys, []byte("BEGIN PUBLIC KEY")) != 2 {
		t.Errorf("%s %v", keys, err)
	}
	w.Keys = w.keys[1:]
	if c, err := w.Verify(t.Context(), ws, j.id); err != nil || !strings.Contains(c.Problem, "signature") {
		t.Errorf("%+v %v", c, err)
	}
	w.Keys = w.keys
	other := w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	_, foreign, err := w.Attestation(t.Context(), ws, other.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.archive.Put(t.Context(), ws, j.id, "attestation.json", bytes.NewReader(foreign)); err != nil {
		t.Fatal(err)
	}
	if c, err := w.Verify(t.Context(), ws, j.id); err != nil || c.Problem == "" {
		t.Errorf("the attestation of another trace is taken: %+v %v", c, err)
	}
}

// A tail begins where it is told, tells what comes, and ends with the trace.
func TestTail(t *testing.T) {
	w := newWorld(t)
	j := w.begin(t, "octo/app")
	events := build("proxy.golang.org", "evil.example")
	j.send(t, events[:4]...)
	var got []uint64
	var last muster.Trace
	calls := 0
	err := w.Tail(t.Context(), ws, j.id, 2, "", func(b inspect.Batch) bool {
		last = b.Trace
		for _, e := range b.Events {
			got = append(got, e.Seq)
		}
		switch calls++; calls {
		case 2: // what was there has come
			j.send(t, events[4:]...)
		case 3:
			j.seal(t, "success")
		}
		return true
	})
	if err != nil || last.State != muster.TraceComplete {
		t.Fatal(last.State, err)
	}
	var want []uint64
	for n := 3; n <= len(events); n++ {
		want = append(want, uint64(n))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	n := 0
	if err := w.Tail(t.Context(), ws, j.id, 0, `type == "dns_query"`, func(b inspect.Batch) bool { n += len(b.Events); return true }); err != nil || n != 2 {
		t.Error(n, err)
	}
	wantCode(t, w.Tail(t.Context(), ws, j.id, 0, "(", nil), muster.CodeInvalid, "")
}

func TestTailEndsWithItsReader(t *testing.T) {
	w := newWorld(t)
	j := w.begin(t, "octo/app")
	ctx, cancel := context.WithCancel(t.Context())
	err := w.Tail(ctx, ws, j.id, 0, "", func(inspect.Batch) bool { cancel(); return true })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The allow list is what was reached and is not allowed yet, with who needs it.
func TestAllowlist(t *testing.T) {
	w := newWorld(t)
	w.books.policy = trace.Egress{Mode: trace.EgressLearn, Allow: []string{"proxy.golang.org:443", "registry.npmjs.org"}, NoGitHub: true}
	for range 3 {
		w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	}
	j := w.done(t, "octo/app", "success", build("proxy.golang.org", "sum.golang.org")...)
	refused := build("proxy.golang.org", "evil.example")
	for i := range refused {
		if refused[i].Hostname == "evil.example" && refused[i].Type == trace.NetConnect {
			refused[i].Verdict = trace.VerdictWouldDeny
		}
	}
	w.done(t, "octo/app", "success", refused...)
	a, err := w.Allowlist(t.Context(), ws, "linux", t0)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(entries []inspect.Entry) (out []string) {
		for _, e := range entries {
			out = append(out, fmt.Sprintf("%s jobs=%d %v", e.Entry, e.Jobs, e.Programs))
		}
		return out
	}
	if d := cmp.Diff([]string{"evil.example:443 jobs=1 [go]", "sum.golang.org:443 jobs=1 [go]"}, lines(a.Proposed)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"proxy.golang.org:443 jobs=5 [go]", "registry.npmjs.org jobs=0 []"}, lines(a.Present)); d != "" {
		t.Error(d)
	}
	if len(a.Refused) != 1 || a.Refused[0].Host != "evil.example" || a.Refused[0].Denied || a.Refused[0].Jobs != 1 || a.Traces != 5 || a.Stable != 0 || len(a.Notes) == 0 {
		t.Errorf("%+v", a)
	}
	if a, err = w.Allowlist(t.Context(), ws, "linux", j.at.Add(time.Minute)); err != nil || a.Traces != 1 {
		t.Errorf("%+v %v", a, err)
	}
	_, err = w.Allowlist(t.Context(), ws, "mac", t0)
	wantCode(t, err, muster.CodeNotFound, "")
}

// What only jobs reached in which something grave was found is proposed with a warning, so that
// nobody allows an attacker's host with the rest; and what was not recorded proves nothing.
func TestAllowlistIsNotLearntFromAttacks(t *testing.T) {
	w := newWorld(t)
	w.books.policy = trace.Egress{Mode: trace.EgressAudit, NoGitHub: true}
	for range 2 {
		w.done(t, "octo/app", "success", build("proxy.golang.org", "m1.example.org", "m2.example.org", "m3.example.org", "m4.example.org")...)
	}
	w.done(t, "octo/app", "success", append(build("proxy.golang.org", "cdn.evil.example", "m5.example.org"), attack()...)...)
	blind := build("sum.golang.org")
	blind[0].Recorder = &trace.Recorder{Missing: map[string]string{"net_connect": "no cgroup hierarchy is mounted"}}
	w.done(t, "octo/app", "success", blind...)
	a, err := w.Allowlist(t.Context(), ws, "linux", t0)
	if err != nil {
		t.Fatal(err)
	}
	const grave = "reached only by jobs in which the rules found something high or critical"
	warnings := map[string]string{}
	for _, e := range a.Proposed {
		warnings[e.Entry] = e.Warning
	}
	want := map[string]string{"proxy.golang.org:443": "", "cdn.evil.example:443": grave, "*.example.org:443": "m5.example.org was " + grave}
	for entry, warning := range want {
		if got, ok := warnings[entry]; !ok || got != warning {
			t.Errorf("%s: %q among %q", entry, got, warnings)
		}
	}
	if _, ok := warnings["sum.golang.org:443"]; ok || a.Traces != 3 {
		t.Errorf("%d traces, %q", a.Traces, warnings)
	}
	if !slices.Contains(a.Notes, "Not looked at: 1 of the jobs, whose connections were not recorded, because: no cgroup hierarchy is mounted.") {
		t.Errorf("%q", a.Notes)
	}
}

// An entry is needed by who only looks its name up: without it, that is refused.
func TestAllowlistKeepsWhatIsLookedUp(t *testing.T) {
	w := newWorld(t)
	w.books.policy = trace.Egress{Mode: trace.EgressLearn, Allow: []string{"sum.golang.org:443", "registry.npmjs.org"}}
	w.done(t, "octo/app", "success", slices.DeleteFunc(build("sum.golang.org"), func(e trace.Event) bool { return e.Type == trace.NetConnect })...)
	a, err := w.Allowlist(t.Context(), ws, "linux", t0)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]int{}
	for _, e := range a.Present {
		used[e.Entry] = e.Jobs
	}
	if d := cmp.Diff(map[string]int{"sum.golang.org:443": 1, "registry.npmjs.org": 0}, used); d != "" {
		t.Error(d)
	}
}

// Every job reaches loopback and a resolver, which no entry is needed for: they are nobody's
// use of an entry, and nothing new, whatever their port.
func TestAllowlistLeavesOutWhatIsAlwaysAllowed(t *testing.T) {
	w := newWorld(t)
	w.books.policy = trace.Egress{Mode: trace.EgressLearn, Allow: []string{"registry.npmjs.org", "192.0.2.0/24"}}
	for n := range 6 {
		events := build("sum.golang.org")
		local, resolver := events[5], events[5]
		local.Command, local.Hostname, local.Address, local.Port = "muster", "", "127.0.0.1", 40000+n
		resolver.Hostname, resolver.Address, resolver.Port, resolver.Protocol, resolver.Verdict = "", fmt.Sprintf("10.0.0.%d", n), 53, "udp", trace.VerdictAllowed
		if local.Type != trace.NetConnect {
			t.Fatalf("%+v is no connection", local)
		}
		w.done(t, "octo/app", "success", slices.Concat(events[:6], []trace.Event{local, resolver}, events[6:])...)
	}
	a, err := w.Allowlist(t.Context(), ws, "linux", t0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range a.Present {
		if e.Jobs != 0 || e.Count != 0 || len(e.Programs) != 0 {
			t.Errorf("nobody needed %s: %+v", e.Entry, e)
		}
	}
	if len(a.Proposed) != 1 || !slices.Equal(a.Proposed[0].Programs, []string{"go"}) || a.Proposed[0].Jobs != 6 {
		t.Errorf("%+v", a.Proposed)
	}
	if a.Stable != 5 || len(a.Notes) != 0 {
		t.Errorf("stable for %d jobs: %q", a.Stable, a.Notes)
	}
}

func TestFindings(t *testing.T) {
	w := newWorld(t)
	w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	j := w.done(t, "octo/app", "success", append(build("proxy.golang.org"), attack()...)...)
	all, err := w.Findings(t.Context(), ws, inspect.DetectionFilter{Severity: muster.SeverityHigh}, "build")
	if err != nil || len(all) == 0 || all[0].Of.ID != j.id || all[0].Of.Job.ID != j.number {
		t.Errorf("%+v %v", all, err)
	}
	if all, err = w.Findings(t.Context(), ws, inspect.DetectionFilter{}, "lint"); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
}

// A list of indicators names the jobs that have any, in their indexes or without.
func TestScan(t *testing.T) {
	w := newWorld(t)
	w.done(t, "octo/app", "success", build("proxy.golang.org")...)
	bad := w.done(t, "octo/app", "success", build("proxy.golang.org", "cdn.evil.example")...)
	live := w.begin(t, "octo/lib")
	live.send(t, build("evil.example")...)
	scan := func(list string, where inspect.Where, limit int) (out []string, stats inspect.Stats) {
		t.Helper()
		stats, err := w.Scan(t.Context(), ws, list, where, limit, func(tr muster.Trace, hits []inspect.Hit) bool {
			for _, h := range hits {
				out = append(out, fmt.Sprintf("%s %s %s", tr.ID, h.Event.Type, h.Indicator))
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return out, stats
	}
	of := func(j *job, what ...string) (out []string) {
		for _, w := range what {
			out = append(out, j.id.String()+" "+w)
		}
		return out
	}
	for _, c := range []struct {
		list  string
		limit int
		want  []string
	}{
		{"evil[.]example # the advisory", 0, append(of(live, "dns_query evil.example (the advisory)", "net_connect evil.example (the advisory)"), of(bad, "dns_query evil.example (the advisory)", "net_connect evil.example (the advisory)")...)},
		{"evil.example", 1, append(of(live, "dns_query evil.example"), of(bad, "dns_query evil.example")...)},
		{"198.51.100.2", 0, of(bad, "dns_query 198.51.100.2", "net_connect 198.51.100.2")},
		{"path:/usr/bin/bash", 0, append(of(live, "process_exec /usr/bin/bash"), append(of(bad, "process_exec /usr/bin/bash"), "r-0101 process_exec /usr/bin/bash")...)},
		{"path:/usr/bin/ba*\nother.example", 1, append(of(live, "process_exec /usr/bin/ba*"), append(of(bad, "process_exec /usr/bin/ba*"), "r-0101 process_exec /usr/bin/ba*")...)},
		{"command:go build ./...", 1, append(of(live, "process_exec go build ./..."), append(of(bad, "process_exec go build ./..."), "r-0101 process_exec go build ./...")...)},
		{"other.example", 0, nil},
	} {
		if got, _ := scan(c.list, inspect.Where{}, c.limit); cmp.Diff(c.want, got) != "" {
			t.Errorf("%s: %s", c.list, cmp.Diff(c.want, got))
		}
	}
	if got, stats := scan("evil.example", inspect.Where{TraceFilter: inspect.TraceFilter{Repository: "octo/app"}}, 0); len(got) != 2 || stats.Traces != 2 || stats.Affected != 1 || stats.Matched != 2 {
		t.Errorf("%v %+v", got, stats)
	}
	for list, words := range map[string]string{"# nothing": "there are none in it", "sha256:" + strings.Repeat("ab", 32): "hashes cannot be looked for"} {
		_, err := w.Scan(t.Context(), ws, list, inspect.Where{}, 0, nil)
		wantCode(t, err, muster.CodeInvalid, words)
	}
}
