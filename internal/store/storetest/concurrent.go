package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// Two control planes on one database are told everything about 20 jobs, twice
// and in any order, by 16 goroutines at once: every state of every job is entered
// once, each job ends linked to its runner, and there is one receipt. 4-4 4-48 4-51
func twoControlPlanes(t *testing.T, a, b *store.Store) {
	const jobs, workers = 20, 16
	ctx := t.Context()
	withPools(t, a)
	var events []muster.JobEvent
	for id := int64(1); id <= jobs; id++ {
		runner := fmt.Sprintf("a-%04d", id)
		// Half of the runners learn their names while the events come in.
		name := ""
		if id%2 == 0 {
			name = runner
		}
		addRunner(t, a, muster.RunnerID(fmt.Sprintf("r-%04d", id)), "a", name)
		events = append(events, event(id, "waiting", ""), event(id, "queued", ""), event(id, "in_progress", runner), event(id, "completed", runner))
	}
	var advanced [jobs + 1][5]atomic.Int32 // by job and rank
	var receipts [jobs + 1]atomic.Int32
	var wg sync.WaitGroup
	for w := range workers {
		s := []*store.Store{a, b}[w%2]
		random := rand.New(rand.NewPCG(1, uint64(w)))
		// Every worker has its share of the events twice, plus some of the others'.
		var mine []muster.JobEvent
		for i, e := range events {
			if i%(workers/2) == w%(workers/2) || random.IntN(4) == 0 {
				mine = append(mine, e, e)
			}
		}
		random.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		wg.Go(func() {
			for _, e := range mine {
				got, err := s.ApplyJobEvent(ctx, ws, e, toA)
				if err != nil {
					t.Error(err)
					return
				}
				if got.Change == muster.JobAdvanced {
					advanced[e.ID][got.Job.State.Rank()].Add(1)
				}
				if got.Job.State == muster.JobCompleted {
					fresh, err := s.WriteReceipt(ctx, receipt(e.ID, "success"))
					if err != nil {
						t.Error(err)
						return
					}
					if fresh {
						receipts[e.ID].Add(1)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for id := 1; id <= jobs; id += 2 {
			if _, err := b.UpdateRunner(ctx, ws, muster.RunnerID(fmt.Sprintf("r-%04d", id)), base, "", func(r *muster.Runner) error {
				r.Name = fmt.Sprintf("a-%04d", id)
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	for id := int64(1); id <= jobs; id++ {
		for rank := range advanced[id] {
			if n := advanced[id][rank].Load(); n > 1 || rank == muster.JobCompleted.Rank() && n != 1 {
				t.Errorf("job %d entered rank %d %d times", id, rank, n)
			}
		}
		if n := receipts[id].Load(); n != 1 {
			t.Errorf("job %d has %d receipts", id, n)
		}
		j := must(b.JobByID(ctx, ws, id))(t)
		r := must(b.Runner(ctx, ws, muster.RunnerID(fmt.Sprintf("r-%04d", id))))(t)
		if j.State != muster.JobCompleted || j.Runner != r.ID || r.Job != j.Key || r.Busy {
			t.Errorf("job %d ended as %s on %q; its runner has job %s, busy %v", id, j.State, j.Runner, r.Job, r.Busy)
		}
		wantLen(t, "sightings", must(a.Sightings(ctx, ws, j.Key))(t), 4)
	}
	wantLen(t, "receipts", must(a.Receipts(ctx, ws, store.UsageFilter{}))(t), jobs)
}

// The job's word about a runner's name and the runner's own word about it come
// at the same moment to two control planes: however they interleave, they meet.
func twoControlPlanesName(t *testing.T, a, b *store.Store) {
	ctx := t.Context()
	withPools(t, a)
	for id := int64(1); id <= 40; id++ {
		runner, name := muster.RunnerID(fmt.Sprintf("r-%04d", id)), fmt.Sprintf("a-%04d", id)
		addRunner(t, a, runner, "a", "")
		start := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			<-start
			if _, err := a.ApplyJobEvent(ctx, ws, event(id, "in_progress", name), toA); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			<-start
			if _, err := b.UpdateRunner(ctx, ws, runner, base, "", func(r *muster.Runner) error { r.Name = name; return nil }); err != nil {
				t.Error(err)
			}
		})
		close(start)
		wg.Wait()
		j, r := must(a.JobByID(ctx, ws, id))(t), must(a.Runner(ctx, ws, runner))(t)
		if j.Runner != runner || r.Job != j.Key || !r.Busy {
			t.Fatalf("job %d is on %q; the runner has job %s, busy %v", id, j.Runner, r.Job, r.Busy)
		}
	}
}

// A subscriber hears of every commit, after it, by noun and name, and nothing of
// what was rolled back.
func subscribe(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	changes := s.Subscribe(ctx)
	next := func() muster.Change {
		t.Helper()
		timer := time.NewTimer(30 * time.Second)
		defer timer.Stop()
		select {
		case c := <-changes:
			return c
		case <-timer.C:
			t.Fatal("no change was told")
			panic("unreachable")
		}
	}
	seq := save(t, s, delivery("one"))
	want(t, "delivery", next(), muster.Change{Kind: "delivery", ID: "one"})
	ok(t, s.MarkDispatched(ctx, seq, "done", base))
	want(t, "dispatched", next(), muster.Change{Kind: "delivery", ID: "one"})
	d := decision(muster.ScaleUp, "", "", 0)
	d.Runners = []muster.Runner{{ID: "r-0001", Name: "a-0001"}}
	must(s.RecordDecision(ctx, d))(t)
	want(t, "decision", next(), muster.Change{Kind: "decision", Workspace: ws, ID: "a"})
	want(t, "runner", next(), muster.Change{Kind: "runner", Workspace: ws, ID: "r-0001"})
	_, err := s.RecordDecision(ctx, d) // fails: the runner is there
	wantCode(t, err, muster.CodeConflict)
	apply(t, s, event(1, "in_progress", "a-0001"))
	want(t, "runner takes job", next(), muster.Change{Kind: "runner", Workspace: ws, ID: "r-0001"})
	want(t, "job", next(), muster.Change{Kind: "job", Workspace: ws, ID: "1"})
	apply(t, s, event(1, "in_progress", "a-0001")) // tells nothing new
	must(s.WriteReceipt(ctx, receipt(1, "success")))(t)
	must(s.WriteReceipt(ctx, receipt(1, "success")))(t)
	want(t, "usage", next(), muster.Change{Kind: "usage", Workspace: ws, ID: "1"})
	select {
	case c := <-changes:
		t.Fatalf("one too many: %+v", c)
	default:
	}
	ok(t, s.Close())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range changes {
		}
	}()
	within(t, "closing a subscription with its store", done)
	if _, open := <-s.Subscribe(ctx); open {
		t.Fatal("a closed store tells something")
	}
}
