package lifecycle

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/wire"
)

// deciding returns activities that decide about pools whose workflow nobody has
// started, at a time that the test sets.
func (w *world) deciding(now *time.Time, change func(*Deps)) *Activities {
	deps := w.client.Deps
	deps.Now = func() time.Time { return *now }
	change(&deps)
	return &Activities{Deps: deps, Log: w.client.log, wake: w.client}
}

// queue records jobs of a pool that nobody is told of.
func (w *world) queue(t *testing.T, p muster.Pool, n int, at time.Time) (ids []int64) {
	t.Helper()
	for range n {
		id := w.newJob()
		e := w.event(p, id, "queued")
		e.CreatedAt, e.ReceivedAt = at, at
		if _, err := w.store.ApplyJobEvent(t.Context(), defaultWorkspace, e, func(muster.Job) string { return p.Name }); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func (w *world) last(t *testing.T, p muster.Pool) muster.Decision {
	t.Helper()
	d, ok, err := w.store.LastDecision(t.Context(), defaultWorkspace, p.Name)
	if err != nil || !ok {
		t.Fatalf("no decision: %v", err)
	}
	return d.Decision
}

// A schedule's window raises the floor when it opens, and the decision is taken
// anew at its edges. S4-54: outside of it the pool has no runners.
func TestScheduleFillsTheFloor(t *testing.T) {
	w := theWorld(t)
	now := time.Date(2026, 11, 23, 7, 59, 0, 0, time.UTC) // a Monday
	a := w.deciding(&now, func(*Deps) {})
	p := w.pool(t, nil, func(p *muster.Pool) {
		p.Schedules = []muster.Schedule{{Cron: "0 9 * * MON-FRI", TimeZone: "Europe/Berlin", For: 8 * time.Hour, MinRunners: new(2)}}
	})
	ref := PoolRef{defaultWorkspace, p.Name}
	out, err := a.Decide(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if d := w.last(t, p); d.Create+d.Warm != 0 || !d.WakeAt.Equal(now.Add(time.Minute)) {
		t.Errorf("a minute before it opens: %+v", d)
	}
	if out.Wait > time.Minute {
		t.Errorf("decides again in %s", out.Wait)
	}
	now = now.Add(time.Minute)
	if _, err := a.Decide(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if d := w.last(t, p); d.Warm != 2 {
		t.Errorf("while it is open: %+v", d)
	}
	w.disable(t, p)
	w.untilDestroyed(t, p, 2)
}

// A project that has spent its budget of the month gets no new runners; the next
// month it does.
func TestBudgetStopsAProject(t *testing.T) {
	w := theWorld(t)
	now := time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)
	a := w.deciding(&now, func(d *Deps) {
		d.Budgets = []muster.CostBudget{{Project: "broke", MonthMicroUSD: 1_000_000, WarnPercent: 80, LowerPercent: 90, StopPercent: 100}}
	})
	p := w.pool(t, nil, func(p *muster.Pool) { p.Project = "broke" })
	if _, err := w.store.WriteReceipt(t.Context(), muster.Receipt{
		Job: muster.JobKey{ID: w.newJob(), Attempt: 1}, Workspace: defaultWorkspace, Project: "broke", Pool: p.Name,
		CompletedAt: now.Add(-time.Hour), CostMicroUSD: 1_200_000,
	}); err != nil {
		t.Fatal(err)
	}
	w.queue(t, p, 1, now.Add(-time.Minute))
	ref := PoolRef{defaultWorkspace, p.Name}
	if _, err := a.Decide(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if d := w.last(t, p); d.Create != 0 || d.Rule != muster.RuleBudget {
		t.Errorf("at 120 %% of the budget: %+v", d)
	}
	if !w.seen.found("budget_stopped", "broke") {
		t.Errorf("no finding says so: %+v", w.seen.findings)
	}
	now = now.Add(time.Hour)
	if _, err := a.Decide(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if d := w.last(t, p); d.Create != 1 {
		t.Errorf("in the next month: %+v", d)
	}
	w.disable(t, p)
	w.untilDestroyed(t, p, 1)
}

// A canary gets its share of new runners and is given up for good when they fail;
// naming another offering starts anew.
func TestCanaryIsReverted(t *testing.T) {
	w := theWorld(t)
	now := time.Now()
	a := w.deciding(&now, func(*Deps) {})
	p := w.pool(t, nil, func(p *muster.Pool) {
		p.Scaling.MaxRunners = 20
		p.Canary = muster.Canary{Offering: "new-image", Percent: 25, MaxFailures: 2}
	})
	ref := PoolRef{defaultWorkspace, p.Name}
	snap := func() muster.Snapshot {
		t.Helper()
		s, err := a.snapshot(t.Context(), ref, now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	make := func(n int) (canaries []muster.RunnerID) {
		t.Helper()
		s := snap()
		d := muster.Decision{Create: n, Canary: n / 4}
		d.Action, d.Reason, d.Rule = muster.ScaleUp, "test", muster.RuleFormula
		rows, err := a.newRunners(t.Context(), s, d, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.RecordDecision(t.Context(), muster.DecisionRecord{Workspace: ref.Workspace, Pool: ref.Pool, At: now, Snapshot: s, Decision: d, Runners: rows}); err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Offering == "new-image" {
				canaries = append(canaries, r.ID)
			}
		}
		return canaries
	}
	if c := snap().Canary; c != (muster.CanaryCount{}) {
		t.Errorf("at the beginning: %+v", c)
	}
	now = now.Add(time.Second)
	ids := make(8)
	if c := snap().Canary; c != (muster.CanaryCount{Made: 8, Canaries: 2}) || len(ids) != 2 {
		t.Fatalf("after 8 runners: %+v, canaries %v", c, ids)
	}
	for _, id := range ids {
		if _, err := w.store.UpdateRunner(t.Context(), defaultWorkspace, id, now, "", func(r *muster.Runner) error {
			r.State, r.Failed, r.Reason = muster.RunnerDraining, true, "the image does not boot"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if c := snap().Canary; !c.Reverted {
		t.Errorf("after two failures: %+v", c)
	}
	findings, err := w.store.Findings(t.Context(), defaultWorkspace, 100)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(findings, func(f muster.Finding) bool {
		return f.Kind == "canary_reverted" && f.Subject == p.Name && strings.Contains(f.Action, "the image does not boot")
	}) {
		t.Errorf("no finding says so: %+v", findings)
	}
	now = now.Add(time.Hour)
	if c := snap().Canary; !c.Reverted {
		t.Error("an hour later it is tried again")
	}
	p.Canary.Offering = "newer-image"
	if c, err := a.canary(t.Context(), p, now); err != nil || c.Reverted || c.Made != 0 {
		t.Errorf("another offering: %+v, %v", c, err)
	}
}

// 4-52 4-53: jobs that a pool cannot take in time go to its overflow pool, also
// when it is the provider that refuses.
func TestJobsOverflow(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 4), make(chan struct{})
	close(done)
	for _, tc := range []struct {
		name   string
		change func(*muster.Pool)
	}{
		{"at the limit", func(p *muster.Pool) { p.Scaling.MaxRunners = 0 }},
		{"provider refuses", func(p *muster.Pool) { p.Provider = "full" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			big := w.pool(t, runOneJob(jobs, done))
			small := w.pool(t, nil, tc.change, func(p *muster.Pool) {
				p.Overflow = muster.Overflow{Pool: big.Name, After: 500 * time.Millisecond}
			})
			pools, err := w.store.Pools(t.Context(), defaultWorkspace)
			if err != nil {
				t.Fatal(err)
			}
			for i := range pools {
				if pools[i].Name == big.Name {
					pools[i].RunnerLabels = append(pools[i].RunnerLabels, small.Labels...)
				}
			}
			if err := w.store.SyncPools(t.Context(), defaultWorkspace, pools, nil); err != nil {
				t.Fatal(err)
			}
			id := w.newJob()
			jobs <- id
			w.send(t, w.event(small, id, "queued"))
			w.until(t, "the job in the other pool", func() bool {
				j, err := w.store.JobByID(t.Context(), defaultWorkspace, id)
				return err == nil && j.Pool == big.Name
			})
			w.untilDestroyed(t, big, 1)
			if rs := w.runners(t, big); len(rs) != 1 || rs[0].Job.ID != id {
				t.Errorf("runners of the other pool: %+v", rs)
			}
		})
	}
}

// A pool with a scale set registers its runners with it.
func TestScaleSetRegistration(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	p := w.pool(t, runOneJob(jobs, done), func(p *muster.Pool) { p.ScaleSet = "set-of-this-test" })
	id := w.newJob()
	jobs <- id
	w.send(t, w.event(p, id, "queued"))
	w.untilDestroyed(t, p, 1)
	w.github.mu.Lock()
	defer w.github.mu.Unlock()
	if !slices.Contains(w.github.sets, "set-of-this-test") {
		t.Errorf("registered with %v", w.github.sets)
	}
}

// 4-27 S1-113: while nothing tells of a pool's queue, nothing changes.
func TestUnknownDemandChangesNothing(t *testing.T) {
	w := theWorld(t)
	now := time.Now()
	known := false
	a := w.deciding(&now, func(d *Deps) { d.DemandKnown = func(context.Context, muster.Pool, time.Time) bool { return known } })
	p := w.pool(t, nil, func(p *muster.Pool) { p.Scaling.MinRunners = 1 })
	ref := PoolRef{defaultWorkspace, p.Name}
	for _, known = range []bool{false, true} {
		if _, err := a.Decide(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if d := w.last(t, p); (d.Rule == muster.RuleNoData) == known || (d.Warm > 0) != known {
			t.Errorf("known %v: %+v", known, d)
		}
	}
	w.disable(t, p)
	w.untilDestroyed(t, p, 1)
}

// 4-2: a runner that idled in vain counts as a try for the job that it was made
// for; one that another job of the pool took does not.
func TestTriesAreCounted(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 2), make(chan struct{})
	close(done)
	var idle atomic.Bool
	serve := runOneJob(jobs, done)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if !idle.Load() {
			return serve(ctx, a)
		}
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "no job within 2m0s"})
		idle.Store(false)
		return ""
	}, func(p *muster.Pool) { p.Scaling.MaxRunners = 1 })
	tries := func(id int64) int {
		s, err := w.store.PoolSnapshot(t.Context(), defaultWorkspace, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range s.Jobs {
			if j.ID == id {
				return j.Tries
			}
		}
		return -1
	}
	first, second := w.newJob(), w.newJob()
	a, b := w.event(p, first, "queued"), w.event(p, second, "queued")
	a.CreatedAt = a.CreatedAt.Add(-time.Minute) // the first runner is made for it
	w.send(t, a)
	w.send(t, b)
	jobs <- second // and GitHub gives it to the other
	w.until(t, "the other job on the runner", func() bool {
		j, err := w.store.JobByID(t.Context(), defaultWorkspace, second)
		return err == nil && j.Runner != ""
	})
	if n := tries(first); n != 0 {
		t.Errorf("a runner that another job of the pool took counts: %d", n)
	}
	jobs <- first
	w.untilDestroyed(t, p, 2)

	idle.Store(true)
	third := w.newJob()
	w.send(t, w.event(p, third, "queued"))
	w.until(t, "a try", func() bool { return tries(third) == 1 })
	jobs <- third
	w.untilDestroyed(t, p, 4)
}

// 4-51: a completion that was recorded, and of which no workflow was told before the
// process died, gets its receipt by the sweep.
func TestSweepClosesForgottenJobs(t *testing.T) {
	w := theWorld(t)
	now := time.Now().Add(2 * time.Minute)
	p := w.pool(t, nil, noRunners)
	id := w.newJob()
	e := w.event(p, id, "completed")
	e.Conclusion, e.CompletedAt, e.RunnerName = "success", e.StartedAt.Add(time.Second), "somebody-elses"
	if _, err := w.store.ApplyJobEvent(t.Context(), defaultWorkspace, e, func(muster.Job) string { return p.Name }); err != nil {
		t.Fatal(err)
	}
	has := func() bool {
		rs, err := w.store.Receipts(t.Context(), defaultWorkspace, store.UsageFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(rs, func(r muster.Receipt) bool { return r.Job.ID == id })
	}
	if has() {
		t.Fatal("the receipt is there already")
	}
	w.deciding(&now, func(*Deps) {}).closeForgotten(t.Context(), now)
	w.until(t, "the receipt", has)
}
