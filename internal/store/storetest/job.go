package storetest

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"pgregory.net/rapid"
)

// A job goes from queued to completed, and each word about it is kept with the
// time at which each sense first said so.
func jobEvents(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	a := apply(t, s, event(100, "queued", ""))
	if a.Change != muster.JobAdvanced || a.Before != "" || a.Job.Pool != "a" || a.Job.Workspace != ws || a.Runner != "" || a.Stolen {
		t.Fatalf("queued: %+v", a)
	}
	polled := event(100, "queued", "")
	polled.Sense, polled.Delivery, polled.ReceivedAt = muster.SensePoll, "", at(30*time.Second)
	if a = apply(t, s, polled); a.Change != muster.JobUnchanged || a.Before != muster.JobQueued {
		t.Fatalf("polled: %+v", a)
	}
	if a = apply(t, s, event(100, "in_progress", "foreign")); a.Change != muster.JobAdvanced || a.Job.RunnerName != "foreign" {
		t.Fatalf("in progress: %+v", a)
	}
	a = apply(t, s, event(100, "completed", "foreign"))
	if a.Change != muster.JobAdvanced || a.Before != muster.JobInProgress {
		t.Fatalf("completed: %+v", a)
	}
	want(t, "stored job", must(s.Job(ctx, ws, muster.JobKey{ID: 100, Attempt: 1}))(t), a.Job)
	if a.Job.CreatedAt != utc(base) || a.Job.Steps[0].StartedAt != utc(at(11*time.Second)) {
		t.Fatalf("times are not UTC with microseconds: %v %v", a.Job.CreatedAt, a.Job.Steps[0].StartedAt)
	}
	// A late word of a lower rank changes nothing.
	if a = apply(t, s, event(100, "queued", "")); a.Change != muster.JobUnchanged || a.Job.State != muster.JobCompleted {
		t.Fatalf("late queued: %+v", a)
	}
	got := must(s.Sightings(ctx, ws, muster.JobKey{ID: 100}))(t)
	want(t, "sightings", got, []muster.Sighting{
		{Sense: muster.SenseWebhook, State: muster.JobCompleted, At: utc(at(time.Second)), Delivery: "completed-guid"},
		{Sense: muster.SenseWebhook, State: muster.JobInProgress, At: utc(at(time.Second)), Delivery: "in_progress-guid"},
		{Sense: muster.SenseWebhook, State: muster.JobQueued, At: utc(at(time.Second)), Delivery: "queued-guid"},
		{Sense: muster.SensePoll, State: muster.JobQueued, At: utc(at(30 * time.Second))},
	})
	bad := event(101, "exploded", "")
	bad.Status = "exploded"
	_, err := s.ApplyJobEvent(ctx, ws, bad, toA)
	wantCode(t, err, muster.CodeInvalid)
	_, err = s.JobByID(ctx, ws, 101)
	wantCode(t, err, muster.CodeNotFound)
}

// Whatever the order and the number of a job's events, the store ends with the
// same job and tells each state's advance once at most. 4-4
func jobEventsAnyOrder(t *testing.T, s *store.Store) {
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	id := int64(1000)
	rapid.Check(t, func(rt *rapid.T) {
		id++
		all := []muster.JobEvent{event(id, "waiting", ""), event(id, "queued", ""), event(id, "in_progress", "elsewhere"), event(id, "completed", "elsewhere")}
		order := rapid.SliceOfN(rapid.SampledFrom(all), 1, 12).Draw(rt, "order")
		advanced := map[muster.JobState]int{}
		rank := 0
		for _, e := range order {
			a, err := s.ApplyJobEvent(t.Context(), ws, e, toA)
			if err != nil {
				rt.Fatal(err)
			}
			if a.Change == muster.JobAdvanced {
				advanced[a.Job.State]++
			}
			if a.Job.State.Rank() < rank {
				rt.Fatalf("the job went back to %s", a.Job.State)
			}
			rank = a.Job.State.Rank()
		}
		for state, n := range advanced {
			if n != 1 {
				rt.Fatalf("%s was entered %d times", state, n)
			}
		}
	})
}

// Only a job without a pool is routed, and a route that finds none may find one later.
func jobRouting(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	calls := 0
	route := func(to string) func(muster.Job) string {
		return func(j muster.Job) string {
			if calls++; j.Repository != "Octo/Repo" || j.Workspace != ws {
				t.Errorf("routed job is %+v", j)
			}
			return to
		}
	}
	a := must(s.ApplyJobEvent(ctx, ws, event(5, "queued", ""), route("")))(t)
	want(t, "unrouted", a.Job.Pool, "")
	a = must(s.ApplyJobEvent(ctx, ws, event(5, "queued", ""), route("b")))(t)
	want(t, "routed", a.Job.Pool, "b")
	a = must(s.ApplyJobEvent(ctx, ws, event(5, "in_progress", "x"), route("a")))(t)
	want(t, "stays", a.Job.Pool, "b")
	want(t, "calls", calls, 2)
	want(t, "stored", must(s.JobByID(ctx, ws, 5))(t).Pool, "b")
	must(s.ApplyJobEvent(ctx, ws, event(6, "queued", ""), nil))(t)
}

func jobQueries(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	for id := int64(10); id < 20; id++ {
		e := event(id, "queued", "")
		e.CreatedAt = at(time.Duration(id) * time.Minute)
		e.ReceivedAt = e.CreatedAt
		apply(t, s, e)
	}
	other := event(15, "queued", "")
	other.Attempt, other.Repository, other.RunID, other.Name = 2, "octo/OTHER", 77, "Lint 50%"
	other.ReceivedAt = at(16 * time.Minute)
	must(s.ApplyJobEvent(ctx, ws, other, func(muster.Job) string { return "b" }))(t)
	apply(t, s, event(12, "completed", ""))

	ids := func(f store.JobFilter) (out []int64) {
		for _, j := range must(s.Jobs(ctx, ws, f))(t) {
			out = append(out, j.Key.ID)
		}
		return out
	}
	want(t, "all", ids(store.JobFilter{}), []int64{19, 18, 17, 16, 15, 15, 14, 13, 12, 11, 10})
	want(t, "page", ids(store.JobFilter{BeforeID: 13, Limit: 2}), []int64{12, 11})
	want(t, "states", ids(store.JobFilter{States: []muster.JobState{muster.JobCompleted, muster.JobWaiting}}), []int64{12})
	want(t, "pool", ids(store.JobFilter{Pool: "b"}), []int64{15})
	want(t, "repository", ids(store.JobFilter{Repository: "Octo/Other"}), []int64{15})
	want(t, "run", ids(store.JobFilter{RunID: 77}), []int64{15})
	want(t, "since", ids(store.JobFilter{Since: at(17 * time.Minute)}), []int64{19, 18, 17})
	want(t, "text", ids(store.JobFilter{Text: "lINT 50%"}), []int64{15})
	want(t, "text limited", ids(store.JobFilter{Text: "build", Limit: 2}), []int64{19, 18})
	want(t, "text nowhere", ids(store.JobFilter{Text: "attempt"}), nil)
	want(t, "latest attempt", must(s.JobByID(ctx, ws, 15))(t).Key, muster.JobKey{ID: 15, Attempt: 2})
	want(t, "first attempt", must(s.Job(ctx, ws, muster.JobKey{ID: 15}))(t).Key, muster.JobKey{ID: 15, Attempt: 1})
	want(t, "counts", must(s.JobCounts(ctx, ws))(t), map[muster.JobState]int{muster.JobQueued: 10, muster.JobCompleted: 1})
	want(t, "ahead", must(s.Ahead(ctx, ws, "a", at(14*time.Minute)))(t), 3) // 10, 11, 13
	_, err := s.Job(ctx, ws, muster.JobKey{ID: 15, Attempt: 3})
	wantCode(t, err, muster.CodeNotFound)
}

// A job that runs on a runner of ours is linked to it both ways, and the runner
// is busy for exactly as long. 4-1 4-22
func jobTakesRunner(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	bystander := addRunner(t, s, "r-0002", "a", "a-0002")
	apply(t, s, event(1, "queued", ""))
	a := apply(t, s, event(1, "in_progress", "a-0001"))
	if a.Runner != "r-0001" || a.Job.Runner != "r-0001" || a.Stolen {
		t.Fatalf("in progress: %+v", a)
	}
	r := must(s.Runner(ctx, ws, "r-0001"))(t)
	if r.Job != (muster.JobKey{ID: 1, Attempt: 1}) || !r.Busy || r.ActiveAt != utc(at(time.Second)) || r.State != muster.RunnerProvisioning {
		t.Fatalf("runner: %+v", r)
	}
	// The agent says that the job ended; a repeated in_progress must not make the runner busy again.
	update(t, s, "r-0001", func(r *muster.Runner) { r.Busy = false })
	apply(t, s, event(1, "in_progress", "a-0001"))
	if must(s.Runner(ctx, ws, "r-0001"))(t).Busy {
		t.Fatal("a repeated event made the runner busy")
	}
	a = apply(t, s, event(1, "completed", "a-0001"))
	if a.Runner != "r-0001" || a.Change != muster.JobAdvanced {
		t.Fatalf("completed: %+v", a)
	}
	want(t, "bystander", must(s.Runner(ctx, ws, "r-0002"))(t), bystander)

	// completed overtakes in_progress: linked, never busy.
	apply(t, s, event(2, "completed", "a-0002"))
	a = apply(t, s, event(2, "in_progress", "a-0002"))
	r = must(s.Runner(ctx, ws, "r-0002"))(t)
	if a.Runner != "r-0002" || r.Job.ID != 2 || r.Busy {
		t.Fatalf("overtaken: %+v, runner %+v", a, r)
	}

	// Destroyed runners get their history, not a new life.
	addRunner(t, s, "r-0003", "a", "a-0003")
	moveTo(t, s, "r-0003", muster.RunnerDraining, muster.RunnerDestroyed)
	apply(t, s, event(3, "in_progress", "a-0003"))
	if r = must(s.Runner(ctx, ws, "r-0003"))(t); r.Busy || r.Job.ID != 3 {
		t.Fatalf("destroyed runner: %+v", r)
	}
}

// A runner of one pool that runs a job of another was stolen.
func jobTakesRunnerOfOtherPool(t *testing.T, s *store.Store) {
	withPools(t, s)
	addRunner(t, s, "r-0001", "b", "b-0001")
	apply(t, s, event(1, "queued", ""))
	for _, action := range []string{"in_progress", "in_progress", "completed"} {
		if a := apply(t, s, event(1, action, "b-0001")); !a.Stolen || a.Runner != "r-0001" {
			t.Fatalf("%s: %+v", action, a)
		}
	}
}

// in_progress may come before the runner's row has its name: the name links them. 4-4
func jobBeforeRunnerName(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "")
	if a := apply(t, s, event(1, "in_progress", "late-name")); a.Runner != "" {
		t.Fatalf("linked too early: %+v", a)
	}
	r := update(t, s, "r-0001", func(r *muster.Runner) { r.Name = "late-name" })
	if r.Job.ID != 1 || !r.Busy {
		t.Fatalf("runner: %+v", r)
	}
	want(t, "stored runner", must(s.Runner(ctx, ws, "r-0001"))(t), r)
	want(t, "job's runner", must(s.JobByID(ctx, ws, 1))(t).Runner, "r-0001")

	// The same for a runner that is made with a name that a job has told already.
	apply(t, s, event(2, "in_progress", "early-name"))
	if r = addRunner(t, s, "r-0002", "a", "early-name"); r.Job.ID != 2 || !r.Busy {
		t.Fatalf("runner: %+v", r)
	}
	// A job that was already over leaves the runner idle.
	apply(t, s, event(3, "completed", "over"))
	if r = addRunner(t, s, "r-0003", "a", "over"); r.Job.ID != 3 || r.Busy {
		t.Fatalf("runner: %+v", r)
	}
}

// A registration that was repeated under a new name may still get a job under
// its old one.
func jobOnFormerName(t *testing.T, s *store.Store) {
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	update(t, s, "r-0001", func(r *muster.Runner) { r.Name = "a-0001-1" })
	if a := apply(t, s, event(1, "in_progress", "a-0001")); a.Runner != "r-0001" {
		t.Fatalf("under the former name: %+v", a)
	}
	for _, name := range []string{"a-0001", "a-0001-1"} {
		want(t, "by name "+name, must(s.RunnerByName(t.Context(), ws, name))(t).ID, "r-0001")
	}
}

// A job on a runner that is not ours, or without any, touches no runner. 4-5 4-6 4-22
func jobOnForeignRunner(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	nameless := addRunner(t, s, "r-0001", "a", "")
	named := addRunner(t, s, "r-0002", "a", "a-0002")
	apply(t, s, event(1, "waiting", ""))
	apply(t, s, event(1, "in_progress", "hosted-42"))
	apply(t, s, event(1, "completed", "hosted-42"))
	cancelled := event(2, "completed", "")
	cancelled.Conclusion = "cancelled"
	if a := apply(t, s, cancelled); a.Runner != "" || a.Stolen {
		t.Fatalf("cancelled: %+v", a)
	}
	for _, r := range []muster.Runner{nameless, named} {
		want(t, "runner", must(s.Runner(ctx, ws, r.ID))(t), r)
	}
}

// A kept runner goes from job to job; an old job's late news do not disturb the
// new one.
func keptRunnerManyJobs(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-kept", "a", "kept")
	apply(t, s, event(1, "in_progress", "kept"))
	apply(t, s, event(1, "completed", "kept"))
	apply(t, s, event(2, "in_progress", "kept"))
	r := must(s.Runner(ctx, ws, "r-kept"))(t)
	if r.Job.ID != 2 || !r.Busy {
		t.Fatalf("second job: %+v", r)
	}
	apply(t, s, event(1, "completed", "kept"))
	if r = must(s.Runner(ctx, ws, "r-kept"))(t); r.Job.ID != 2 || !r.Busy {
		t.Fatalf("after the first job's late news: %+v", r)
	}
	// The second's completion was lost; the third began later, so it is over.
	third := event(3, "in_progress", "kept")
	third.StartedAt = at(time.Hour)
	apply(t, s, third)
	if r = must(s.Runner(ctx, ws, "r-kept"))(t); r.Job.ID != 3 || !r.Busy {
		t.Fatalf("third job: %+v", r)
	}
	apply(t, s, event(2, "completed", "kept"))
	if r = must(s.Runner(ctx, ws, "r-kept"))(t); r.Job.ID != 3 || !r.Busy {
		t.Fatalf("after the second job's late end: %+v", r)
	}
}
