package lifecycle

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

func TestMeant(t *testing.T) {
	job := func(id int64, attempt int, name string, state muster.JobState, runner muster.RunnerID) muster.Job {
		return muster.Job{Key: muster.JobKey{ID: id, Attempt: attempt}, Name: name, State: state, Runner: runner}
	}
	jobs := []muster.Job{
		job(1, 1, "build", muster.JobCompleted, ""), job(2, 2, "build", muster.JobQueued, ""), job(3, 2, "test (1)", muster.JobInProgress, "r-other"),
		job(4, 2, "test (2)", muster.JobInProgress, ""), job(5, 2, "same", muster.JobQueued, ""), job(6, 2, "same", muster.JobQueued, ""),
	}
	for _, c := range []struct {
		said trace.Job
		want int64
	}{
		{trace.Job{Name: "build"}, 2}, {trace.Job{Name: "build", Attempt: 2}, 2}, {trace.Job{Name: "build", Attempt: 1}, 0}, {trace.Job{Name: "test (1)"}, 0},
		{trace.Job{Name: "test (2)"}, 4}, {trace.Job{Name: "same"}, 0}, {trace.Job{}, 0}, {trace.Job{Name: "none"}, 0},
	} {
		if key, ok := meant(jobs, c.said); key.ID != c.want || ok != (c.want != 0) {
			t.Errorf("%+v: %v, %v, want %d", c.said, key, ok, c.want)
		}
	}
}

// A run is remembered while the books do not know the one job of it that is meant; the runner
// stays unnamed until they do, and the run is asked for instead of all others.
func TestHintOfARun(t *testing.T) { // 4-7 S1-113
	w := theWorld(t)
	a, stop := w.enrolled(t)
	defer stop()
	ctx := t.Context()
	p := muster.Pool{Labels: muster.Labels{a.machine.Spec.Pool}}
	job := w.newJob()
	says := func() muster.Runner {
		t.Helper()
		if _, err := a.report(ctx, wire.Report{Phase: wire.PhaseRunning, Busy: true, Job: &trace.Job{Repository: "acme/web", RunID: job, Attempt: 1, Name: "build"}}); err != nil {
			t.Fatal(err)
		}
		r, err := w.store.Runner(ctx, defaultWorkspace, muster.RunnerID(a.resp.Runner))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := says(); r.RunHint != (muster.RunHint{Repository: "acme/web", Run: job, Attempt: 1}) || r.JobHint.ID != 0 {
		t.Errorf("nobody knows the job: run %+v, job %s", r.RunHint, r.JobHint)
	}
	unnamed, err := w.store.UnnamedRunners(ctx, defaultWorkspace, time.Now().Add(-time.Hour), time.Now(), 500)
	if err != nil || !slices.ContainsFunc(unnamed, func(r muster.Runner) bool { return string(r.ID) == a.resp.Runner }) {
		t.Errorf("it is named: %v", err)
	}
	w.send(t, w.event(p, job, "queued"))
	if r := says(); r.RunHint.Run != 0 || r.JobHint.ID != job {
		t.Errorf("the job is known: run %+v, job %s", r.RunHint, r.JobHint)
	}
	e := w.event(p, job, "completed")
	e.RunnerName, e.Conclusion, e.CompletedAt = a.name, "success", time.Now()
	w.send(t, e)
}

// in_progress is lost: no other runner is made for a job while its runner says that it has it, nor
// when that has ended and GitHub is about to be asked; and what an agent says does not last.
func TestARunnersWordSavesARunner(t *testing.T) { // 4-2 4-18 S1-113
	w := theWorld(t)
	ctx := t.Context()
	jobs, running, done := make(chan int64, 1), make(chan struct{}), make(chan struct{})
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		var id int64
		select {
		case id = <-jobs:
		case <-ctx.Done():
			return ""
		}
		a.w.github.assign(a.name, true)
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseRunning, JobName: "build", Busy: true, Job: &trace.Job{Repository: "acme/web", RunID: id, Name: "build"}})
		close(running)
		<-done
		a.w.github.consume(a.name)
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "job finished"})
		return ""
	}, func(p *muster.Pool) { p.Scaling.MaxRunners = 5 })
	job := w.newJob()
	w.send(t, w.event(p, job, "queued"))
	jobs <- job
	<-running
	a := Activities{Deps: w.client.Deps, Log: w.client.log, wake: w.client}
	decided := func(now time.Time) muster.Decision {
		t.Helper()
		snap, err := a.snapshot(ctx, PoolRef{defaultWorkspace, p.Name}, now)
		if err != nil {
			t.Fatal(err)
		}
		return muster.Plan(snap, now)
	}
	if d := decided(time.Now()); d.Create != 0 {
		t.Errorf("a runner says that it has the job, and: %+v", d)
	}
	if d := decided(time.Now().Add(muster.SaidFor)); d.Create != 1 {
		t.Errorf("it has said so for long, and GitHub has not: %+v", d)
	}
	close(done)
	made := w.untilDestroyed(t, p, 1)
	if d := decided(time.Now()); d.Create != 0 || len(made) != 1 || made[0].JobHint.ID != job {
		t.Errorf("it has ended, and GitHub was not asked yet: %d runners, %+v", len(made), d)
	}
	if d := decided(time.Now().Add(muster.SaidAfter)); d.Create != 1 {
		t.Errorf("it has ended long ago: %+v", d)
	}
	if j, err := w.store.JobByID(ctx, defaultWorkspace, job); err != nil || j.State != muster.JobQueued || j.Runner != "" {
		t.Errorf("the books take the runner's word for GitHub's: %+v, %v", j, err)
	}
	e := w.event(p, job, "completed")
	e.RunnerName, e.Conclusion, e.CompletedAt = made[0].Name, "success", time.Now()
	w.send(t, e)
}

// A hint keeps the runner from being searched for, changes nothing about the job that it
// names, and gives way to GitHub's word.
func TestHint(t *testing.T) {
	w := theWorld(t)
	a, stop := w.enrolled(t)
	defer stop()
	ctx := t.Context()
	id := muster.RunnerID(a.resp.Runner)
	p := muster.Pool{Labels: muster.Labels{a.machine.Spec.Pool}}
	victim, own := w.newJob(), w.newJob()
	w.send(t, w.event(p, victim, "queued"))
	w.send(t, w.event(p, own, "queued"))
	_, err := a.report(ctx, wire.Report{Phase: wire.PhaseRunning, Busy: true, Job: &trace.Job{Repository: "acme/web", RunID: victim, Name: "build"}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.store.Runner(ctx, defaultWorkspace, id)
	if err != nil || r.JobHint.ID != victim || r.Job.ID != 0 {
		t.Fatalf("hint %s, job %s, %v", r.JobHint, r.Job, err)
	}
	unnamed, err := w.store.UnnamedRunners(ctx, defaultWorkspace, time.Now().Add(-time.Hour), time.Now(), 500)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range unnamed {
		if u.ID == id {
			t.Error("the runner is still searched for")
		}
	}
	if j, err := w.store.JobByID(ctx, defaultWorkspace, victim); err != nil || j.State != muster.JobQueued || j.Runner != "" {
		t.Errorf("the job that it named: %+v, %v", j, err)
	}
	e := w.event(p, own, "in_progress")
	e.RunnerName = a.name
	w.send(t, e)
	if r, err = w.store.Runner(ctx, defaultWorkspace, id); err != nil || r.JobHint.ID != 0 || r.Job.ID != own {
		t.Errorf("after GitHub's word: hint %s, job %s, %v", r.JobHint, r.Job, err)
	}
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "success", time.Now()
	w.send(t, e)
	for _, job := range []int64{victim} {
		e := w.event(p, job, "completed")
		e.Conclusion, e.CompletedAt = "cancelled", time.Now()
		w.send(t, e)
	}
}
