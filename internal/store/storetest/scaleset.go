package storetest

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"pgregory.net/rapid"
)

// assignment is what a message of a scale set says of a job.
func assignment(id string, run int64, state muster.ScaleSetJobState) muster.ScaleSetJob {
	j := muster.ScaleSetJob{ID: id, State: state, Repository: "Octo/Repo", RunID: run, Name: "build", Event: "push", Labels: muster.Labels{"a"}, QueuedAt: base, AssignedAt: base}
	if state.Rank() >= muster.ScaleSetJobStarted.Rank() {
		j.RunnerID, j.RunnerName, j.StartedAt = 5, "a-0001", at(10*time.Second)
	}
	if state == muster.ScaleSetJobCompleted {
		j.Result, j.CompletedAt = "succeeded", at(70*time.Second)
	}
	return j
}

// withScaleSet configures pools named a, which has a scale set, and b.
func withScaleSet(t *testing.T, s *store.Store) {
	t.Helper()
	a := pool("a")
	a.ScaleSet = "a"
	ok(t, s.SyncPools(t.Context(), ws, []muster.Pool{a, pool("b")}, nil))
}

func note(t *testing.T, s *store.Store, stats *muster.ScaleSetStatistics, d time.Duration, news ...muster.ScaleSetJob) {
	t.Helper()
	ok(t, s.NoteScaleSet(t.Context(), ws, "a", news, stats, at(d)))
}

// What messages say is kept per assignment, whatever comes twice, and an
// assignment leaves the list when it is settled. 4-4
func scaleSetJobs(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withScaleSet(t, s)
	stats := &muster.ScaleSetStatistics{Assigned: 2}
	for range 2 { // the message comes again
		note(t, s, stats, time.Minute, assignment("one", 7, muster.ScaleSetJobAssigned), assignment("two", 8, muster.ScaleSetJobAssigned))
	}
	note(t, s, nil, 2*time.Minute, assignment("one", 7, muster.ScaleSetJobStarted))
	note(t, s, nil, 3*time.Minute, assignment("one", 7, muster.ScaleSetJobAssigned)) // late
	list := must(s.ScaleSetJobs(ctx, ws, "a"))(t)
	wantLen(t, "assignments", list, 2)
	want(t, "order", []string{list[0].ID, list[1].ID}, []string{"two", "one"})
	one := assignment("one", 7, muster.ScaleSetJobStarted)
	one.QueuedAt, one.AssignedAt, one.StartedAt = utc(base), utc(base), utc(at(10*time.Second))
	one.SeenAt, one.ChangedAt = utc(at(time.Minute)), utc(at(2*time.Minute))
	want(t, "one", list[1], one)

	apply(t, s, event(70, "queued", ""))
	ok(t, s.UpdateScaleSetJob(ctx, ws, "a", "one", func(j *muster.ScaleSetJob) error {
		j.Job, j.Told = muster.JobKey{ID: 70, Attempt: 1}, muster.ScaleSetJobStarted
		return nil
	}))
	want(t, "state of its job", must(s.ScaleSetJobs(ctx, ws, "a"))(t)[1].JobState, muster.JobQueued)
	settle := func(id, how string) {
		t.Helper()
		ok(t, s.UpdateScaleSetJob(ctx, ws, "a", id, func(j *muster.ScaleSetJob) error { j.Over = how; return nil }))
	}
	settle("two", muster.OverLapsed)
	settle("two", muster.OverLapsed) // counted once
	r := must(s.ScaleSet(ctx, ws, "a"))(t)
	want(t, "report", r, muster.ScaleSetReport{Statistics: *stats, At: utc(at(time.Minute)), WaitingSince: utc(at(time.Minute)), Lapsed: 1})
	// It was given up, and GitHub has news of it after all.
	note(t, s, nil, 4*time.Minute, assignment("two", 8, muster.ScaleSetJobStarted))
	wantLen(t, "with the one given up", must(s.ScaleSetJobs(ctx, ws, "a"))(t), 2)
	note(t, s, &muster.ScaleSetStatistics{}, 5*time.Minute, assignment("two", 8, muster.ScaleSetJobCompleted))
	settle("two", muster.OverCompleted)
	note(t, s, nil, 6*time.Minute, assignment("two", 8, muster.ScaleSetJobCompleted))
	wantLen(t, "when one is settled", must(s.ScaleSetJobs(ctx, ws, "a"))(t), 1)
	want(t, "waits since", must(s.ScaleSet(ctx, ws, "a"))(t).WaitingSince, time.Time{})

	wantCode(t, s.UpdateScaleSetJob(ctx, ws, "a", "three", func(*muster.ScaleSetJob) error { return nil }), muster.CodeNotFound)
	n := must(s.PruneScaleSetJobs(ctx, at(5*time.Minute)))(t)
	want(t, "pruned too early", n, 0)
	n = must(s.PruneScaleSetJobs(ctx, at(time.Hour)))(t)
	want(t, "pruned", n, 1)
	wantLen(t, "what is not settled stays", must(s.ScaleSetJobs(ctx, ws, "a"))(t), 1)
}

// A snapshot counts each waiting job once: by name, or by number as long as its
// name is not known. 4-3 4-4
func scaleSetUnnamed(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withScaleSet(t, s)
	snapshot := func(what string, n int, since time.Time) {
		t.Helper()
		snap := must(s.PoolSnapshot(ctx, ws, "a"))(t)
		want(t, what, snap.Unnamed, n)
		want(t, what+": since", snap.UnnamedSince, since)
	}
	snapshot("nothing heard", 0, time.Time{})
	// After a restart there are numbers only.
	note(t, s, &muster.ScaleSetStatistics{Assigned: 3, Running: 1}, time.Minute)
	snapshot("by number", 2, utc(at(time.Minute)))
	// GitHub's numbers are behind its messages.
	note(t, s, &muster.ScaleSetStatistics{}, 2*time.Minute, assignment("one", 7, muster.ScaleSetJobAssigned))
	snapshot("statistics zero", 1, utc(at(2*time.Minute)))
	// Another sense names it.
	apply(t, s, event(70, "queued", ""))
	snapshot("named by a webhook", 0, time.Time{})
	name := func(id string, job int64) {
		t.Helper()
		ok(t, s.UpdateScaleSetJob(ctx, ws, "a", id, func(j *muster.ScaleSetJob) error { j.Job = muster.JobKey{ID: job, Attempt: 1}; return nil }))
	}
	name("one", 70)
	snapshot("named", 0, time.Time{})
	// It starts, which the webhook tells before the scale set does.
	note(t, s, &muster.ScaleSetStatistics{Assigned: 2}, 3*time.Minute, assignment("two", 8, muster.ScaleSetJobAssigned))
	apply(t, s, event(70, "in_progress", "foreign"))
	snapshot("one runs, the other is not named", 1, utc(at(3*time.Minute)))
	// It ends, and GitHub still counts it.
	apply(t, s, event(70, "completed", "foreign"))
	snapshot("one is over", 1, utc(at(3*time.Minute)))
	apply(t, s, event(80, "queued", ""))
	snapshot("the other is named", 0, time.Time{})
	// A job of another pool does not count.
	must(s.ApplyJobEvent(ctx, ws, event(90, "queued", ""), func(muster.Job) string { return "b" }))(t)
	note(t, s, &muster.ScaleSetStatistics{Assigned: 3}, 4*time.Minute)
	snapshot("one more by number", 1, utc(at(3*time.Minute)))
	note(t, s, &muster.ScaleSetStatistics{Assigned: 3, Running: 3}, 5*time.Minute)
	snapshot("all run", 0, time.Time{})
	want(t, "a pool without a scale set", must(s.PoolSnapshot(ctx, ws, "b"))(t).Unnamed, 0)
}

// Whatever the order and the number of the messages, the books end the same. 4-4
func scaleSetAnyOrder(t *testing.T, s *store.Store) {
	withScaleSet(t, s)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		id := key(n)
		all := []muster.ScaleSetJob{assignment(id, 7, muster.ScaleSetJobAssigned), assignment(id, 7, muster.ScaleSetJobStarted), assignment(id, 7, muster.ScaleSetJobCompleted)}
		order := rapid.SliceOfN(rapid.SampledFrom(all), 1, 8).Draw(rt, "order")
		most := muster.ScaleSetJobState("")
		for _, news := range order {
			note(t, s, nil, time.Minute, news)
			if news.State.Rank() > most.Rank() {
				most = news.State
			}
		}
		list, err := s.ScaleSetJobs(t.Context(), ws, "a")
		if err != nil || len(list) != 1 || list[0].State != most {
			rt.Fatalf("%+v, %v, want %s", list, err, most)
		}
		if most == muster.ScaleSetJobCompleted && (list[0].RunnerName == "" || list[0].Result == "") {
			rt.Fatalf("facts are lost: %+v", list[0])
		}
		ok(t, s.UpdateScaleSetJob(t.Context(), ws, "a", id, func(j *muster.ScaleSetJob) error { j.Over = muster.OverCompleted; return nil }))
	})
}

func key(n int) string { return time.Duration(n).String() }
