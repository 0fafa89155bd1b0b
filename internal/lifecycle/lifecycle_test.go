package lifecycle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// S0-11 S0-12 S0-14 S0-16 S0-19 S0-22 S1-53 S1-55 S4-44 S4-45: one queued job makes exactly one
// machine and one registration; when it has run, both are gone and one receipt is
// written.
func TestMainJob(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	p := w.pool(t, runOneJob(jobs, done))
	id := w.newJob()
	if out := w.send(t, w.event(p, id, "queued")); out != "job queued" {
		t.Errorf("outcome %q", out)
	}
	w.until(t, "a registered runner", func() bool {
		rs := w.runners(t, p)
		return len(rs) == 1 && rs[0].State == muster.RunnerRegistered && !rs[0].ListeningAt.IsZero()
	})
	if n := w.github.has(p.Name); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
	jobs <- id
	w.until(t, "an active runner", func() bool { return w.runners(t, p)[0].State == muster.RunnerActive })
	close(done)
	r := w.untilDestroyed(t, p, 1)[0]
	if r.Job.ID != id || r.Failed || r.Reason != "job finished" {
		t.Errorf("runner %+v", r)
	}
	key := muster.JobKey{ID: id, Attempt: 1}
	w.until(t, "the receipt", func() bool {
		_, err := w.store.Receipt(t.Context(), defaultWorkspace, key)
		return err == nil
	})
	rec, err := w.store.Receipt(t.Context(), defaultWorkspace, key)
	if err != nil || rec.Runner != r.ID || rec.Offering != "small" || rec.Conclusion != "success" {
		t.Errorf("receipt %+v, %v", rec, err)
	}
	if n := w.github.has(p.Name); n != 0 {
		t.Errorf("%d registrations left", n)
	}
	events, err := w.store.RunnerEvents(t.Context(), defaultWorkspace, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	// S1-58 S1-59 S1-60 S1-61 S1-62 S1-63 S1-64 S1-65 S1-67: the states, in order; the
	// credential only after the machine is there.
	var states, notes []string
	for _, e := range events {
		notes = append(notes, e.Note)
		if n := len(states); n == 0 || states[n-1] != string(e.State) {
			states = append(states, string(e.State))
		}
	}
	if got := strings.Join(states, " "); got != "provisioning registered active draining destroyed" {
		t.Errorf("states: %s (%v)", got, notes)
	}
}

// S0-4 S0-5 S0-15: a job that no pool wants causes no call and leaves no row, only a count.
func TestUnmatchedJobIsOnlyCounted(t *testing.T) {
	w := theWorld(t)
	w.pool(t, nil)
	before, calls := w.cloud.Counts(), w.github.total()
	w.seen.mu.Lock()
	ignored := w.seen.ignored
	w.seen.mu.Unlock()
	id := w.newJob()
	e := w.event(muster.Pool{Labels: muster.Labels{"ubuntu-latest"}}, id, "queued")
	out := w.send(t, e)
	if out != "ignored: no pool wants [ubuntu-latest]" {
		t.Errorf("outcome %q", out)
	}
	if _, err := w.store.JobByID(t.Context(), defaultWorkspace, id); muster.CodeOf(err) != muster.CodeNotFound {
		t.Errorf("the job was stored: %v", err)
	}
	w.seen.mu.Lock()
	defer w.seen.mu.Unlock()
	if w.seen.ignored != ignored+1 || w.cloud.Counts().Created != before.Created || w.github.total() != calls {
		t.Error("an ignored job did something")
	}
}

// 4-6 S2-14: a job that is cancelled before it started is free; its runner goes
// home unused and leaves a line of waste.
func TestCancelledWhileQueued(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		// The agent's own no-job rule, shortened.
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "no job within 2m0s"})
		return ""
	})
	id := w.newJob()
	e := w.event(p, id, "queued")
	w.send(t, e)
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
	w.send(t, e)
	w.until(t, "the receipt", func() bool {
		rec, err := w.store.Receipt(t.Context(), defaultWorkspace, muster.JobKey{ID: id, Attempt: 1})
		return err == nil && rec.CostMicroUSD == 0 && rec.Billed == 0 && rec.Conclusion == "cancelled"
	})
	if len(w.runners(t, p)) > 0 { // the decision may have come before or after the cancellation
		r := w.untilDestroyed(t, p, 1)[0]
		w.until(t, "its waste", func() bool {
			wastes, err := w.store.Wastes(t.Context(), defaultWorkspace, store.UsageFilter{Pool: p.Name})
			return err == nil && len(wastes) == 1 && wastes[0].Runner == r.ID
		})
	}
	w.until(t, "no registrations", func() bool { return w.github.has(p.Name) == 0 })
}

// S2-21 4-1 4-2: two jobs, two runners, assignments swapped: both finish, and each is
// accounted to the runner that really took it.
func TestSwappedAssignments(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 2), make(chan struct{})
	p := w.pool(t, runOneJob(jobs, done))
	a, b := w.newJob(), w.newJob()
	w.send(t, w.event(p, a, "queued"))
	w.send(t, w.event(p, b, "queued"))
	w.until(t, "two runners that listen", func() bool {
		n := 0
		for _, r := range w.runners(t, p) {
			if !r.ListeningAt.IsZero() {
				n++
			}
		}
		return n == 2
	})
	jobs <- b
	jobs <- a
	close(done)
	all := w.untilDestroyed(t, p, 2)
	if len(all) != 2 || all[0].Job == all[1].Job {
		t.Fatalf("runners %+v", all)
	}
	for _, r := range all {
		w.until(t, "receipt of "+r.Job.String(), func() bool {
			rec, err := w.store.Receipt(t.Context(), defaultWorkspace, r.Job)
			return err == nil && rec.Runner == r.ID
		})
	}
}

// 4-26 S1-68: an agent that never connects: the machine goes, and a new one is made for the job.
func TestAgentNeverConnects(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	tries := make(chan struct{}, 10)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		tries <- struct{}{}
		if len(tries) == 1 {
			<-ctx.Done()
			return ""
		}
		return runOneJob(jobs, done)(ctx, a)
	})
	id := w.newJob()
	jobs <- id
	w.send(t, w.event(p, id, "queued"))
	all := w.untilDestroyed(t, p, 2)
	failed := 0
	for _, r := range all {
		if r.Failed {
			failed++
			if !strings.Contains(r.Reason, "did not connect within 3s") {
				t.Errorf("reason %q", r.Reason)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d failed runners of %d, want 1", failed, len(all))
	}
}

// S1-68 4-51 4-52: whatever a provider does wrong, the job gets its machine in the end and
// nothing is left over.
func TestProviderFaults(t *testing.T) {
	for name, fault := range map[string]fake.Fault{
		"Transient":    {Call: fake.Create, Times: 1},
		"AnswerLost":   {Call: fake.Create, Times: 1, After: true},
		"Garbage":      {Call: fake.Create, Times: 1, Garbage: true},
		"NoCapacity":   {Call: fake.Create, Times: 1, Err: provider.ErrCapacity},
		"DeleteFails":  {Call: fake.Delete, Times: 2},
		"DeleteIsDeaf": {Call: fake.Delete, Times: 2, Garbage: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := theWorld(t)
			jobs, done := make(chan int64, 1), make(chan struct{})
			close(done)
			p := w.pool(t, runOneJob(jobs, done))
			w.cloud.Fail(fault)
			t.Cleanup(w.cloud.Heal)
			id := w.newJob()
			jobs <- id
			w.send(t, w.event(p, id, "queued"))
			w.until(t, "the receipt", func() bool {
				rec, err := w.store.Receipt(t.Context(), defaultWorkspace, muster.JobKey{ID: id, Attempt: 1})
				return err == nil && rec.Conclusion == "success"
			})
			for _, r := range w.untilDestroyed(t, p, 1) {
				if _, err := w.cloud.Provider("test").Get(t.Context(), r.ID); !errors.Is(err, provider.ErrNotFound) {
					t.Errorf("machine of %s is still there: %v", r.ID, err)
				}
			}
		})
	}
}

// 4-11: JIT answers that are lost, names that are taken: a new name is used, and no ghost is left.
func TestLostJITAnswer(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	inner := runOneJob(jobs, done)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		// The first answer is lost between GitHub and us, after GitHub registered.
		w.github.failNext("jit", &muster.Error{Code: muster.CodeUnavailable, Message: "lost"})
		if err := a.boot(ctx); muster.CodeOf(err) != muster.CodeUnavailable {
			t.Errorf("first boot: %v", err)
		}
		return inner(ctx, a) // asks again with the same nonce
	})
	id := w.newJob()
	jobs <- id
	w.send(t, w.event(p, id, "queued"))
	r := w.untilDestroyed(t, p, 1)[0]
	if r.Job.ID != id || r.Tries < 2 || !strings.HasSuffix(r.Name, "-1") {
		t.Errorf("runner %+v", r)
	}
	w.until(t, "no registrations", func() bool { return w.github.has(p.Name) == 0 })
}

// 4-10 S2-9: a boot token is used once; another process that presents it is refused, and so are
// forged and foreign ones, each with its own class.
func TestBootRefusals(t *testing.T) {
	w := theWorld(t)
	type boots struct {
		token string
		again error
		late  error
	}
	got := make(chan boots, 1)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		b := boots{token: a.machine.Spec.Boot.Token.Reveal()}
		if err := a.boot(ctx); err != nil {
			b.again = err
			got <- b
			return ""
		}
		_, b.again = w.client.Boot(ctx, b.token, wire.BootRequest{Nonce: "another process"})
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "no job within 2m0s"})
		_, b.late = w.client.Boot(ctx, b.token, wire.BootRequest{Nonce: a.nonce})
		got <- b
		return ""
	})
	w.send(t, w.event(p, w.newJob(), "queued"))
	b := <-got
	if muster.CodeOf(b.again) != muster.CodeConflict {
		t.Errorf("another nonce: %v", b.again)
	}
	if muster.CodeOf(b.late) != muster.CodeGone {
		t.Errorf("after the runner finished: %v", b.late)
	}
	for name, token := range map[string]string{"empty": "", "text": "hello", "tampered": b.token[:len(b.token)-4] + "AAAA"} {
		if _, err := w.client.Boot(t.Context(), token, wire.BootRequest{Nonce: "n"}); muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Errorf("%s token: %v", name, err)
		}
	}
	if _, err := w.client.Report(t.Context(), "no such session", wire.Report{Phase: wire.PhaseHeartbeat}); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("unknown session: %v", err)
	}
	w.disable(t, p)
}

// 4-17 S1-69 S1-70 S1-71 C21: draining deregisters first; GitHub's 422 stops it while a job runs.
func TestDrain(t *testing.T) {
	w := theWorld(t)
	t.Run("Idle", func(t *testing.T) {
		p := w.pool(t, idle)
		w.send(t, w.event(p, w.newJob(), "queued"))
		r := w.untilListening(t, p)
		w.disable(t, p)
		if err := w.client.DrainRunner(t.Context(), defaultWorkspace, r.ID, "operator"); err != nil {
			t.Fatal(err)
		}
		r = w.untilDestroyed(t, p, 1)[0]
		if r.DeregisteredAt.IsZero() || r.DestroyedAt.Before(r.DeregisteredAt) {
			t.Errorf("deregistered %s, destroyed %s", r.DeregisteredAt, r.DestroyedAt)
		}
	})
	t.Run("BusyOnGitHubOnly", func(t *testing.T) {
		p := w.pool(t, idle)
		w.send(t, w.event(p, w.newJob(), "queued"))
		r := w.untilListening(t, p)
		w.disable(t, p)
		w.github.assign(r.Name, true) // the agent has not noticed yet
		if err := w.client.DrainRunner(t.Context(), defaultWorkspace, r.ID, "operator"); err != nil {
			t.Fatal(err)
		}
		calls := w.github.count("remove")
		w.until(t, "two refused deregistrations", func() bool { return w.github.count("remove") >= calls+2 })
		if r := w.runners(t, p)[0]; r.State != muster.RunnerRegistered {
			t.Fatalf("a busy runner became %s", r.State)
		}
		w.github.assign(r.Name, false)
		w.untilDestroyed(t, p, 1)
	})
}

// 4-18 4-45: a machine that vanishes is noticed by asking the provider, and its runner is closed.
func TestMachineVanishes(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, idle)
	w.send(t, w.event(p, w.newJob(), "queued"))
	r := w.untilListening(t, p)
	w.cloud.End("test", r.ID, "spot reclaimed")
	w.until(t, "the runner closed", func() bool {
		var err error
		r, err = w.store.Runner(t.Context(), defaultWorkspace, r.ID)
		return err == nil && r.State == muster.RunnerDestroyed
	})
	w.disable(t, p) // its job would get machine after machine
	if !r.Failed || !strings.Contains(r.Reason, "spot reclaimed") {
		t.Errorf("reason %q", r.Reason)
	}
}

// 4-51 S1-68: the sweep deletes machines and registrations that nobody owns, at the second look.
func TestSweep(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, nil)
	prov := w.cloud.Provider("test")
	var random [10]byte
	copy(random[:], p.Name)
	id := muster.NewRunnerID(random)
	if _, err := prov.Create(t.Context(), provider.Spec{Runner: id, Owner: "test", Pool: p.Name, Boot: provider.Boot{URL: "http://muster.test", Token: "t"}}); err != nil {
		t.Fatal(err)
	}
	// A registration whose runner is long gone, by a name in our book.
	gone := muster.Runner{ID: id + "x", Workspace: defaultWorkspace, Pool: p.Name, Name: p.Name + "-ghost", Provider: "fake", State: muster.RunnerProvisioning, CreatedAt: time.Now()}
	if _, err := w.store.RecordDecision(t.Context(), muster.DecisionRecord{Workspace: defaultWorkspace, Pool: p.Name, At: time.Now(), Runners: []muster.Runner{gone}, Decision: muster.Decision{ScalingDecision: muster.ScalingDecision{Action: muster.ScaleUp, Reason: "test"}}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []muster.RunnerState{muster.RunnerDraining, muster.RunnerDestroyed} {
		if _, err := w.store.UpdateRunner(t.Context(), defaultWorkspace, gone.ID, time.Now(), "", func(r *muster.Runner) error { r.State = s; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.github.GenerateJIT(t.Context(), p.Scope, gone.Name, 1, p.RunnerLabels); err != nil {
		t.Fatal(err)
	}
	// Somebody else's registration is never touched.
	if _, err := w.github.GenerateJIT(t.Context(), p.Scope, p.Name+"-not-ours", 1, p.RunnerLabels); err != nil {
		t.Fatal(err)
	}
	a := &Activities{Deps: w.client.Deps, Log: w.client.log, wake: w.client}
	first, err := a.Sweep(t.Context(), Suspects{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prov.Get(t.Context(), id); err != nil {
		t.Errorf("deleted at the first look: %v", err)
	}
	// S1-110: a look that comes too early looks at nothing, and forgets nothing.
	if early, err := a.Sweep(t.Context(), first); err != nil || !slices.Equal(early.Instances, first.Instances) || !early.RemoteAt.Equal(first.RemoteAt) {
		t.Errorf("an early look: %+v, want %+v; %v", early, first, err)
	}
	if _, err := prov.Get(t.Context(), id); err != nil {
		t.Errorf("deleted by an early look: %v", err)
	}
	a.Now = func() time.Time { return time.Now().Add(a.Times.Sweep) }
	if _, err := a.Sweep(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the leaked machine's end after the second look", func() bool { // Delete is accepted first
		_, err := prov.Get(t.Context(), id)
		return errors.Is(err, provider.ErrNotFound)
	})
	if !w.seen.found("leaked_instance", string(id)) || !w.seen.found("ghost_registration", gone.Name) {
		t.Errorf("findings %+v", w.seen.findings)
	}
	if n := w.github.has(p.Name); n != 1 {
		t.Errorf("%d registrations left, want the one that is not ours", n)
	}
}

// S4-25 4-51: the process dies between recording a runner and starting its workflow; the next
// decision starts it.
func TestRowWithoutWorkflow(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	p := w.pool(t, runOneJob(jobs, done))
	id := w.newJob()
	jobs <- id
	route := func(muster.Job) string { return p.Name }
	if _, err := w.store.ApplyJobEvent(t.Context(), defaultWorkspace, w.event(p, id, "queued"), route); err != nil {
		t.Fatal(err)
	}
	var random [10]byte
	copy(random[:], p.Name[1:])
	lost := muster.NewRunnerID(random)
	row := muster.Runner{ID: lost, Workspace: defaultWorkspace, Pool: p.Name, Name: muster.RegistrationName(p.Name, lost, 0), Provider: "fake", Offering: "small", State: muster.RunnerProvisioning, CreatedAt: time.Now().Add(-time.Minute)}
	if _, err := w.store.RecordDecision(t.Context(), muster.DecisionRecord{Workspace: defaultWorkspace, Pool: p.Name, At: time.Now(), Runners: []muster.Runner{row}, Decision: muster.Decision{ScalingDecision: muster.ScalingDecision{Action: muster.ScaleUp, Reason: "test"}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.NudgePool(t.Context(), defaultWorkspace, p.Name); err != nil {
		t.Fatal(err)
	}
	all := w.untilDestroyed(t, p, 1)
	if len(all) != 1 || all[0].ID != lost || all[0].Job.ID != id {
		t.Errorf("runners %+v", all)
	}
}

// S0-8: a pool that asks for it reports its jobs as check runs.
func TestChecks(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	p := w.pool(t, runOneJob(jobs, done), func(p *muster.Pool) { p.ReportChecks = true })
	before := w.github.count("check")
	id := w.newJob()
	jobs <- id
	e := w.event(p, id, "queued")
	e.HeadSHA = "0123456789abcdef0123456789abcdef01234567"
	w.send(t, e)
	w.untilDestroyed(t, p, 1)
	w.until(t, "a check run created and completed", func() bool { return w.github.count("check") >= before+2 })
}

// S4-32: one workflow per attempt of a job, and receipts are written once, however often and in
// whatever order events come.
func TestDuplicatesAndDisorder(t *testing.T) { // S4-33 S4-34 4-3 4-4
	w := theWorld(t)
	p := w.pool(t, nil, func(p *muster.Pool) { p.Enabled = true; p.Scaling.MaxRunners = 0 })
	id := w.newJob()
	queued := w.event(p, id, "queued")
	progress := w.event(p, id, "in_progress")
	progress.RunnerName = "somebody-elses"
	completed := progress
	completed.Action, completed.Status, completed.Conclusion, completed.CompletedAt = "completed", muster.JobCompleted, "success", time.Now()
	for _, e := range []muster.JobEvent{completed, queued, progress, completed, queued, completed} {
		w.send(t, e)
	}
	w.until(t, "the receipt", func() bool {
		_, err := w.store.Receipt(t.Context(), defaultWorkspace, muster.JobKey{ID: id, Attempt: 1})
		return err == nil
	})
	w.send(t, completed)
	w.seen.mu.Lock()
	defer w.seen.mu.Unlock()
	n := 0
	for _, r := range w.seen.receipts {
		if r.Job.ID == id {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d receipts, want 1", n)
	}
	if rs := w.runners(t, p); len(rs) != 0 {
		t.Errorf("a finished job made runners: %+v", rs)
	}
}

func (w *world) untilListening(t *testing.T, p muster.Pool) (r muster.Runner) {
	t.Helper()
	w.until(t, "a runner that listens", func() bool {
		for _, r = range w.runners(t, p) {
			if !r.ListeningAt.IsZero() {
				return true
			}
		}
		return false
	})
	return r
}

// disable ends a pool's demand, so that a test's leftovers make no more machines.
func (w *world) disable(t *testing.T, p muster.Pool) {
	t.Helper()
	off := false
	if err := w.client.SetPool(t.Context(), defaultWorkspace, p.Name, muster.PoolOverride{Enabled: &off}); err != nil {
		t.Fatal(err)
	}
}

func (g *gitHub) count(method string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[method]
}

func (g *gitHub) total() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.calls {
		n += c
	}
	return n
}
