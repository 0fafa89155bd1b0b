package storetest

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// 4-4 4-7: what is believed to be queued or to run in one repository.
func openJobs(t *testing.T, s *store.Store) {
	withPools(t, s)
	for id := int64(1); id <= 7; id++ {
		e := event(id, "queued", "")
		e.ReceivedAt = at(-time.Duration(id) * time.Minute) // later ids were heard of earlier
		switch id {
		case 4:
			e.App = "other"
		case 5:
			e.Repository = "octo/elsewhere"
		case 6:
			e.Status = muster.JobWaiting // an approval holds it back
		}
		apply(t, s, e)
	}
	apply(t, s, event(2, "in_progress", "foreign"))
	apply(t, s, event(3, "completed", ""))
	open := func(repository string) (ids []int64) {
		for _, j := range must(s.OpenJobs(t.Context(), ws, "app", repository))(t) {
			ids = append(ids, j.Key.ID)
		}
		return ids
	}
	want(t, "open", open("octo/REPO"), []int64{7, 2, 1})
	want(t, "elsewhere", open("Octo/elsewhere"), []int64{5})
	want(t, "nowhere", open("octo/none"), nil)

	oldest := func() time.Time { return must(s.OldestOpen(t.Context(), ws))(t) }
	first := must(s.JobByID(t.Context(), ws, 1))(t)
	want(t, "the oldest", oldest(), first.QueuedAt())
	for id := int64(1); id <= 7; id++ {
		apply(t, s, event(id, "completed", ""))
	}
	want(t, "the oldest of none", oldest(), time.Time{})
}

// 4-7 4-18: runners that took a job which nobody has named, alive or gone.
func unnamedRunners(t *testing.T, s *store.Store) {
	withPools(t, s)
	for i, id := range []muster.RunnerID{"r-0001", "r-0002", "r-0003", "r-0004", "r-0005", "r-0006"} {
		addRunner(t, s, id, "a", string("a"+id[1:]))
		if i < 4 {
			update(t, s, id, func(r *muster.Runner) { r.ActiveAt = at(-time.Duration(i) * time.Minute) })
		}
	}
	moveTo(t, s, "r-0002", muster.RunnerActive, muster.RunnerDraining, muster.RunnerDestroyed)
	died := func(r *muster.Runner) { r.FinishedAt, r.Failed = at(-time.Hour), true }
	update(t, s, "r-0005", died) // never registered, so that no job can have got it
	update(t, s, "r-0006", func(r *muster.Runner) { died(r); r.GitHubID = 6 })
	unnamed := func(from, to time.Duration, limit int) (ids []muster.RunnerID) {
		for _, r := range must(s.UnnamedRunners(t.Context(), ws, at(from), at(to), limit))(t) {
			ids = append(ids, r.ID)
		}
		return ids
	}
	want(t, "all", unnamed(-2*time.Hour, 0, 9), []muster.RunnerID{"r-0006", "r-0004", "r-0003", "r-0002", "r-0001"})
	want(t, "two", unnamed(-2*time.Hour, 0, 2), []muster.RunnerID{"r-0006", "r-0004"})
	want(t, "some", unnamed(-150*time.Second, -time.Second, 9), []muster.RunnerID{"r-0003", "r-0002"})

	// The end of a job that was never heard of names it, also for a runner that is gone.
	a := apply(t, s, event(7, "completed", "a-0002"))
	if a.Runner != "r-0002" || a.Change != muster.JobAdvanced || !a.Job.RanOnRunner() || a.Job.QueuedAt().IsZero() {
		t.Fatalf("completed: %+v", a)
	}
	want(t, "the runner's job", must(s.Runner(t.Context(), ws, "r-0002"))(t).Job, a.Job.Key)
	want(t, "the others", unnamed(-2*time.Hour, 0, 9), []muster.RunnerID{"r-0006", "r-0004", "r-0003", "r-0001"})
}
