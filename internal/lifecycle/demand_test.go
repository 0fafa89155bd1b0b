package lifecycle

import (
	"context"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// noRunners keeps a pool from making machines, so that only its demand moves.
func noRunners(p *muster.Pool) { p.Scaling.MaxRunners = 0 }

// S1-52: each look at the queue is followed by a decision, without any news: one per poll interval,
// and a job that no signal told of is served by the next one.
func TestDecisionAtEveryPoll(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	p := w.pool(t, runOneJob(jobs, done))
	if err := w.client.NudgePool(t.Context(), defaultWorkspace, p.Name); err != nil {
		t.Fatal(err)
	}
	poll := w.client.Times.Poll
	var idle muster.DecisionRecord
	w.until(t, "three decisions without news", func() bool {
		var err error
		idle, _, err = w.store.LastDecision(t.Context(), defaultWorkspace, p.Name)
		return err == nil && idle.Count >= 3
	})
	if idle.Decision.Action != muster.Maintain {
		t.Errorf("without jobs: %+v", idle.Decision)
	}
	// The first two may follow each other at once: one from the start, one from its signal.
	if span, most := idle.LastAt.Sub(idle.At), time.Duration(idle.Count-1)*poll+5*time.Second; span < time.Duration(idle.Count-2)*poll || span > most {
		t.Errorf("%d decisions in %s, want one per %s", idle.Count, span, poll)
	}
	// A job that is recorded and of which nobody told the pool.
	id := w.newJob()
	jobs <- id
	if _, err := w.store.ApplyJobEvent(t.Context(), defaultWorkspace, w.event(p, id, "queued"), func(muster.Job) string { return p.Name }); err != nil {
		t.Fatal(err)
	}
	heard := time.Now()
	w.until(t, "a decision for the job", func() bool { return len(w.runners(t, p)) > 0 })
	if late := time.Since(heard); late > poll+5*time.Second {
		t.Errorf("decided %s after the job was queued, want at most %s", late, poll)
	}
	w.untilDestroyed(t, p, 1)
}

// S2-22 S4-11: events are of single jobs. in_progress takes its job, and no other of the same run,
// out of the waiting set: neither the snapshot nor the decision counts it as queued any more.
func TestInProgressLeavesTheWaitingSet(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, nil, noRunners)
	a, b := w.newJob(), w.newJob()
	events := map[int64]muster.JobEvent{a: w.event(p, a, "queued"), b: w.event(p, b, "queued")}
	for id, e := range events {
		e.RunID = a // both are jobs of one run
		events[id] = e
		w.send(t, e)
	}
	waiting := func(want ...int64) {
		t.Helper()
		snap, err := w.store.PoolSnapshot(t.Context(), defaultWorkspace, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		have := map[int64]bool{}
		for _, j := range snap.Jobs {
			if j.State == muster.JobQueued {
				have[j.ID] = true
			}
		}
		for _, id := range want {
			if !have[id] {
				t.Errorf("job %d does not wait: %+v", id, snap.Jobs)
			}
		}
		if m := muster.Plan(snap, time.Now()).Metrics; len(have) != len(want) || m.QueuedJobs != len(want) || m.PendingJobs != len(want) {
			t.Errorf("waiting are %v, counted %+v; want %v", have, m, want)
		}
		w.until(t, "the pool's own decision from this queue", func() bool {
			last, ok, err := w.store.LastDecision(t.Context(), defaultWorkspace, p.Name)
			return err == nil && ok && last.Decision.Metrics.QueuedJobs == len(want)
		})
	}
	waiting(a, b)
	started := events[a]
	started.Action, started.Status, started.RunnerName = "in_progress", muster.JobInProgress, "somebody-elses"
	w.send(t, started)
	waiting(b)
	started.Action, started.Status, started.Conclusion, started.CompletedAt = "completed", muster.JobCompleted, "success", time.Now()
	w.send(t, started)
	waiting(b)
	if j, err := w.store.JobByID(t.Context(), defaultWorkspace, b); err != nil || j.State != muster.JobQueued {
		t.Errorf("the other job of the run: %+v, %v", j, err)
	}
	w.disable(t, p)
}

// 4-8: a job of which nothing is heard any more is asked about. What GitHub says is taken as news; a
// job that it does not know any more ended without a runner and costs nothing.
func TestJobRecheck(t *testing.T) {
	w := theWorld(t)
	deps := w.client.Deps
	deps.Times.JobRecheck, deps.Times.JobExpired = 500*time.Millisecond, 500*time.Millisecond
	impatient := NewClient(deps, w.client.temporal, w.client.log)
	for name, c := range map[string]struct {
		answer     func(queued muster.JobEvent) (muster.JobEvent, bool)
		conclusion string
		run        time.Duration
	}{
		"CompletedMeanwhile": {func(e muster.JobEvent) (muster.JobEvent, bool) {
			e.Action, e.Status, e.Conclusion, e.RunnerName = "completed", muster.JobCompleted, "success", "somebody-elses"
			e.CompletedAt = e.StartedAt.Add(90 * time.Second)
			return e, true
		}, "success", 90 * time.Second},
		"Unknown": {func(e muster.JobEvent) (muster.JobEvent, bool) { return e, false }, "cancelled", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.pool(t, nil, noRunners)
			e := w.event(p, w.newJob(), "queued")
			if answer, known := c.answer(e); known {
				w.github.mu.Lock()
				w.github.jobs[e.ID] = answer
				w.github.mu.Unlock()
			}
			// A failure to ask is asked again.
			w.github.failNext("job", muster.Errorf(muster.CodeUnavailable, "GitHub answered 502"))
			if _, err := impatient.Job(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			key := muster.JobKey{ID: e.ID, Attempt: 1}
			var rec muster.Receipt
			w.until(t, "the receipt", func() (ok bool) {
				var err error
				rec, err = w.store.Receipt(t.Context(), defaultWorkspace, key)
				return err == nil
			})
			if rec.Conclusion != c.conclusion || rec.Run != c.run || rec.CostMicroUSD != 0 || rec.Runner != "" {
				t.Errorf("receipt %+v", rec)
			}
			sightings, err := w.store.Sightings(t.Context(), defaultWorkspace, key)
			if n := len(sightings); err != nil || n != 2 || sightings[n-1].Sense != muster.SensePoll || sightings[n-1].State != muster.JobCompleted {
				t.Errorf("sightings %+v, %v", sightings, err)
			}
			if w.seen.found("job_expired", key.String()) {
				t.Error("a job that waited for seconds is counted as lost")
			}
		})
	}
}

// A job of ours that GitHub gave up after a day without a runner is a lost one, and is counted.
func TestExpiredJobIsAFinding(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, nil, noRunners)
	e := w.event(p, w.newJob(), "queued")
	e.CreatedAt = time.Now().Add(-24 * time.Hour)
	w.send(t, e)
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
	w.send(t, e)
	key := muster.JobKey{ID: e.ID, Attempt: 1}
	w.until(t, "the receipt", func() bool {
		_, err := w.store.Receipt(t.Context(), defaultWorkspace, key)
		return err == nil
	})
	findings, err := w.store.Findings(t.Context(), defaultWorkspace, 100)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range findings {
		if f.Kind == "job_expired" && f.Subject == key.String() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d findings of %s in %+v, want 1", n, key, findings)
	}
}

func TestExpired(t *testing.T) {
	job := func(change func(*muster.Job)) muster.Job {
		j := muster.Job{State: muster.JobCompleted, Pool: "p", Conclusion: "cancelled", CreatedAt: t0, CompletedAt: at(24 * time.Hour)}
		if change != nil {
			change(&j)
		}
		return j
	}
	for name, c := range map[string]struct {
		job  muster.Job
		want bool
	}{
		"ADay":            {job(nil), true},
		"AMinuteEarly":    {job(func(j *muster.Job) { j.CompletedAt = at(24*time.Hour - time.Minute) }), true},
		"CancelledByHand": {job(func(j *muster.Job) { j.CompletedAt = at(23 * time.Hour) }), false},
		"Failure":         {job(func(j *muster.Job) { j.Conclusion = "failure" }), true},
		"TimedOut":        {job(func(j *muster.Job) { j.Conclusion = "timed_out" }), true},
		"Skipped":         {job(func(j *muster.Job) { j.Conclusion = "skipped" }), false},
		"NotOurs":         {job(func(j *muster.Job) { j.Pool = "" }), false},
		"Ran":             {job(func(j *muster.Job) { j.RunnerName, j.StartedAt = "r", at(time.Hour) }), false},
		"StillQueued":     {job(func(j *muster.Job) { j.State = muster.JobQueued }), false},
		// An approval that took days is nobody's wait for a runner (4-49).
		"Gated": {job(func(j *muster.Job) { j.Gated, j.ReadyAt = true, at(23*time.Hour) }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, lost := expired(c.job); lost != c.want {
				t.Errorf("lost = %t, want %t", lost, c.want)
			}
		})
	}
}

// 4-7 4-8: GitHub's word that a job ended is lost without a trace. The runner has
// ended, so GitHub is asked soon, not after an hour.
func TestLostCompletion(t *testing.T) {
	w := theWorld(t)
	deps := w.client.Deps
	deps.Times.AfterRunner = 300 * time.Millisecond
	eager := NewClient(deps, w.client.temporal, w.client.log)
	jobs := make(chan muster.JobEvent, 1)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		e := <-jobs
		e.Action, e.Status, e.RunnerName = "in_progress", muster.JobInProgress, a.name
		_, _ = eager.Job(ctx, e) // may come first, and starts the job's workflow then
		w.github.consume(a.name)
		e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "success", e.StartedAt.Add(time.Second)
		w.github.mu.Lock()
		w.github.jobs[e.ID] = e
		w.github.mu.Unlock()
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "job finished"})
		return ""
	})
	e := w.event(p, w.newJob(), "queued")
	jobs <- e
	if _, err := eager.Job(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the receipt", func() bool {
		rec, err := w.store.Receipt(t.Context(), defaultWorkspace, muster.JobKey{ID: e.ID, Attempt: 1})
		return err == nil && rec.Conclusion == "success" && rec.Runner != ""
	})
	w.untilDestroyed(t, p, 1)
}
