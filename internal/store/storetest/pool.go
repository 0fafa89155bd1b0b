package storetest

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// A deleted installation stays deleted whatever comes late; suspending is not
// deleting. 4-50 4-40
func installations(t *testing.T, s *store.Store) {
	ctx := t.Context()
	in := muster.Installation{ID: 7, App: "app", Workspace: ws, Account: "Octo", AccountType: "Organization", UpdatedAt: base}
	put := func(in muster.Installation) muster.Installation { return must(s.PutInstallation(ctx, in))(t) }
	got := put(in)
	if got.State != "active" {
		t.Fatalf("new: %+v", got)
	}
	got = put(muster.Installation{ID: 7, State: "suspended", UpdatedAt: at(2 * time.Second)})
	if got.State != "suspended" || got.Account != "Octo" || got.App != "app" {
		t.Fatalf("suspended: %+v", got)
	}
	if got = put(muster.Installation{ID: 7, State: "active", UpdatedAt: at(time.Second)}); got.State != "suspended" {
		t.Fatalf("older news: %+v", got)
	}
	if got = put(muster.Installation{ID: 7, State: "active", UpdatedAt: at(3 * time.Second)}); got.State != "active" {
		t.Fatalf("unsuspended: %+v", got)
	}
	if got = put(muster.Installation{ID: 7, State: "deleted", UpdatedAt: at(time.Second)}); got.State != "deleted" {
		t.Fatalf("deleted: %+v", got)
	}
	for _, state := range []string{"active", "suspended"} {
		if got = put(muster.Installation{ID: 7, State: state, UpdatedAt: at(time.Hour)}); got.State != "deleted" {
			t.Fatalf("raised from the dead: %+v", got)
		}
	}
	in.ID, in.State = 8, "active"
	put(in)
	want(t, "one", must(s.Installation(ctx, 7))(t).State, "deleted")
	list := must(s.Installations(ctx, ws))(t)
	wantLen(t, "list", list, 2)
	_, err := s.Installation(ctx, 9)
	wantCode(t, err, muster.CodeNotFound)
	_, err = s.PutInstallation(ctx, muster.Installation{})
	wantCode(t, err, muster.CodeInvalid)
	want(t, "default workspace", put(muster.Installation{ID: 10, UpdatedAt: base}).Workspace, "default")
}

// Configured pools come back as they were given, in order; what is taken out of
// the configuration is disabled and kept.
func pools(t *testing.T, s *store.Store) {
	ctx := t.Context()
	a, b, c := pool("a"), pool("b"), pool("c")
	small, big := muster.Offering{Name: "small", CPUs: 2, PriceMicroUSD: 5}, muster.Offering{Name: "big", CPUs: 0.5, Spot: true}
	ok(t, s.SyncPools(ctx, ws, []muster.Pool{c, a, b}, []muster.Offering{small, big}))
	want(t, "pools", must(s.Pools(ctx, ws))(t), []muster.Pool{c, a, b})
	want(t, "offerings", must(s.Offerings(ctx, ws))(t), []muster.Offering{small, big})
	want(t, "offering", must(s.Offering(ctx, ws, "big"))(t), big)

	b.Scaling.MaxRunners = 99
	ok(t, s.SyncPools(ctx, ws, []muster.Pool{b}, []muster.Offering{big}))
	a.Enabled, c.Enabled, a.Removed, c.Removed = false, false, true, true
	want(t, "pools after change", must(s.Pools(ctx, ws))(t), []muster.Pool{b, a, c})
	want(t, "removed pool", must(s.Pool(ctx, ws, "a"))(t), a)
	wantLen(t, "offerings are kept", must(s.Offerings(ctx, ws))(t), 2)

	a.Enabled, a.Removed = true, false
	ok(t, s.SyncPools(ctx, ws, []muster.Pool{a}, nil))
	want(t, "pool is back", must(s.Pool(ctx, ws, "a"))(t), a)
	_, err := s.Pool(ctx, ws, "none")
	wantCode(t, err, muster.CodeNotFound)
	_, err = s.Offering(ctx, ws, "none")
	wantCode(t, err, muster.CodeNotFound)
}

// What an operator set survives a new configuration and a restart, but cannot
// bring back a pool that is no longer configured.
func poolOverride(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	ok(t, s.SetPoolOverride(ctx, ws, "a", muster.PoolOverride{MinRunners: new(2), MaxRunners: new(4)}))
	ok(t, s.SetPoolOverride(ctx, ws, "a", muster.PoolOverride{Enabled: new(false)}))
	check := func(enabled bool) {
		t.Helper()
		p := must(s.Pool(ctx, ws, "a"))(t)
		if p.Enabled != enabled || p.Scaling.MinRunners != 2 || p.Scaling.MaxRunners != 4 {
			t.Fatalf("pool: %+v", p)
		}
		want(t, "in the list", must(s.Pools(ctx, ws))(t)[0], p)
		want(t, "in the snapshot", must(s.PoolSnapshot(ctx, ws, "a"))(t).Pool, p)
	}
	check(false)
	withPools(t, s)
	check(false)
	ok(t, s.SetPoolOverride(ctx, ws, "a", muster.PoolOverride{Enabled: new(true)}))
	check(true)
	ok(t, s.SetPoolOverride(ctx, ws, "a", muster.PoolOverride{Suspended: new(true)})) // S4-17
	check(true)
	want(t, "suspended", must(s.Pool(ctx, ws, "a"))(t).Suspended, true)
	want(t, "override", must(s.PoolOverride(ctx, ws, "a"))(t), muster.PoolOverride{Enabled: new(true), Suspended: new(true), MinRunners: new(2), MaxRunners: new(4)})
	ok(t, s.SetPoolOverride(ctx, ws, "a", muster.PoolOverride{Suspended: new(false)}))
	want(t, "no override", must(s.PoolOverride(ctx, ws, "b"))(t), muster.PoolOverride{})

	wantCode(t, s.SetPoolOverride(ctx, ws, "a", muster.PoolOverride{MinRunners: new(5)}), muster.CodeInvalid)
	wantCode(t, s.SetPoolOverride(ctx, ws, "none", muster.PoolOverride{}), muster.CodeNotFound)
	check(true)

	ok(t, s.SyncPools(ctx, ws, []muster.Pool{pool("b")}, nil))
	if must(s.Pool(ctx, ws, "a"))(t).Enabled {
		t.Fatal("an override enabled a pool that is not configured")
	}
}

// A snapshot has the open jobs and live runners of its pool and nothing else.
func poolSnapshot(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	for id := int64(1); id <= 6; id++ {
		e := event(id, "queued", "")
		e.CreatedAt = at(-time.Duration(id) * time.Minute) // later ids are older
		apply(t, s, e)
	}
	apply(t, s, event(5, "completed", ""))
	apply(t, s, event(6, "in_progress", "foreign"))
	gated := event(7, "waiting", "")
	apply(t, s, gated)
	gated = event(8, "waiting", "")
	apply(t, s, gated)
	gated = event(8, "queued", "")
	gated.ReceivedAt = at(time.Hour)
	apply(t, s, gated)
	must(s.ApplyJobEvent(ctx, ws, event(9, "queued", ""), func(muster.Job) string { return "b" }))(t)

	addRunner(t, s, "r-0001", "a", "")
	addRunner(t, s, "r-0002", "a", "")
	update(t, s, "r-0002", func(r *muster.Runner) {
		r.State, r.Warm, r.ListeningAt = muster.RunnerRegistered, true, at(time.Minute)
	})
	addRunner(t, s, "r-0003", "a", "")
	update(t, s, "r-0003", func(r *muster.Runner) {
		r.State, r.ListeningAt, r.FinishedAt = muster.RunnerRegistered, at(time.Minute), at(time.Hour)
	})
	addRunner(t, s, "r-0004", "a", "")
	update(t, s, "r-0004", func(r *muster.Runner) { r.State, r.Busy, r.ListeningAt = muster.RunnerActive, true, at(time.Minute) })
	addRunner(t, s, "r-0005", "a", "")
	moveTo(t, s, "r-0005", muster.RunnerDraining, muster.RunnerDestroyed)
	addRunner(t, s, "r-0006", "b", "")

	snap := must(s.PoolSnapshot(ctx, ws, "a"))(t)
	want(t, "snapshot", snap, muster.Snapshot{
		Pool: pool("a"),
		Jobs: []muster.PlanJob{
			{ID: 6, Attempt: 1, State: muster.JobInProgress, QueuedAt: utc(at(-6 * time.Minute)), Repository: "octo/repo"},
			{ID: 4, Attempt: 1, State: muster.JobQueued, QueuedAt: utc(at(-4 * time.Minute)), Repository: "octo/repo"},
			{ID: 3, Attempt: 1, State: muster.JobQueued, QueuedAt: utc(at(-3 * time.Minute)), Repository: "octo/repo"},
			{ID: 2, Attempt: 1, State: muster.JobQueued, QueuedAt: utc(at(-2 * time.Minute)), Repository: "octo/repo"},
			{ID: 1, Attempt: 1, State: muster.JobQueued, QueuedAt: utc(at(-1 * time.Minute)), Repository: "octo/repo"},
			{ID: 8, Attempt: 1, State: muster.JobQueued, QueuedAt: utc(at(time.Hour)), Repository: "octo/repo"}, // 4-5 4-49: it waited for an approval before
		},
		Runners: []muster.PlanRunner{
			{ID: "r-0001", State: muster.RunnerProvisioning, CreatedAt: utc(base)},
			{ID: "r-0002", State: muster.RunnerRegistered, Warm: true, CreatedAt: utc(base), IdleSince: utc(at(time.Minute))},
			{ID: "r-0003", State: muster.RunnerRegistered, CreatedAt: utc(base), IdleSince: utc(at(time.Hour))},
			{ID: "r-0004", State: muster.RunnerActive, Busy: true, CreatedAt: utc(base)},
		},
		LastScaling: utc(base),
	})
	_, err := s.PoolSnapshot(ctx, ws, "none")
	wantCode(t, err, muster.CodeNotFound)
}

// A pool's rules that look at jobs see them in the snapshot, and waiting jobs can
// be handed to another pool, once.
func jobsOverflow(t *testing.T, s *store.Store) {
	ctx := t.Context()
	a, b := pool("a"), pool("b")
	b.RunnerLabels = append(b.RunnerLabels, "a")
	a.Overflow = muster.Overflow{Pool: "b", After: time.Minute}
	a.Priorities = []muster.Priority{{Branch: "main", Weight: 7}}
	ok(t, s.SyncPools(ctx, ws, []muster.Pool{a, b}, nil))
	for id := int64(1); id <= 3; id++ {
		e := event(id, "queued", "")
		e.HeadBranch, e.Labels = "main", a.Labels
		if id == 2 {
			e.HeadBranch, e.Labels = "topic", append(muster.Labels{"nobody-has-this"}, a.Labels...) // the runners of b lack it
		}
		must(s.ApplyJobEvent(ctx, ws, e, func(muster.Job) string { return "a" }))(t)
	}
	type seen struct {
		Priority  int
		Overflows bool
	}
	got := map[int64]seen{}
	for _, j := range must(s.PoolSnapshot(ctx, ws, "a"))(t).Jobs {
		got[j.ID] = seen{j.Priority, j.Overflows}
	}
	want(t, "jobs of the snapshot", got, map[int64]seen{1: {7, true}, 2: {0, false}, 3: {7, true}})

	tried := func(pool string) []int {
		var n []int
		for _, j := range must(s.PoolSnapshot(ctx, ws, pool))(t).Jobs {
			n = append(n, j.Tries)
		}
		return n
	}
	for range 2 {
		ok(t, s.TriedJob(ctx, ws, 1, at(time.Hour)))
	}
	ok(t, s.TriedJob(ctx, ws, 99, at(time.Hour)))
	want(t, "tries", tried("a"), []int{2, 0, 0})

	apply(t, s, event(3, "in_progress", "foreign"))
	ok(t, s.TriedJob(ctx, ws, 3, at(time.Hour)))
	want(t, "moved", must(s.MoveJobs(ctx, ws, "a", "b", []int64{1, 3, 99}))(t), 1)
	want(t, "moved again", must(s.MoveJobs(ctx, ws, "a", "b", []int64{1}))(t), 0)
	want(t, "pool of the moved job", must(s.JobByID(ctx, ws, 1))(t).Pool, "b")
	want(t, "pool of the started job", must(s.JobByID(ctx, ws, 3))(t).Pool, "a")
	late := event(1, "queued", "")
	late.Labels = a.Labels
	must(s.ApplyJobEvent(ctx, ws, late, func(muster.Job) string { return "a" }))(t)
	want(t, "pool after late news", must(s.JobByID(ctx, ws, 1))(t).Pool, "b")
	want(t, "tries in another pool", tried("b"), []int{0})
	want(t, "tries of a started job", tried("a"), []int{0, 0})
}

// 4-8: the longest waiting jobs of an App, a few at a time.
func staleJobs(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	for id := int64(1); id <= 5; id++ {
		e := event(id, "queued", "")
		e.CreatedAt = at(-time.Duration(id) * time.Hour) // later ids are older
		if id == 4 {
			e.App = "other"
		}
		apply(t, s, e)
	}
	apply(t, s, event(5, "in_progress", "foreign"))
	stale := func(before time.Time, limit int) (ids []int64) {
		for _, j := range must(s.StaleJobs(ctx, ws, "app", before, limit))(t) {
			ids = append(ids, j.Key.ID)
		}
		return ids
	}
	want(t, "all", stale(at(0), 9), []int64{3, 2, 1})
	want(t, "two", stale(at(0), 2), []int64{3, 2})
	apply(t, s, event(5, "completed", "foreign"))
	forgotten := func() (ids []int64) {
		for _, j := range must(s.Unreceipted(ctx, ws, at(-24*time.Hour), at(24*time.Hour), 9))(t) {
			ids = append(ids, j.Key.ID)
		}
		return ids
	}
	want(t, "without a receipt", forgotten(), []int64{5})
	must(s.WriteReceipt(ctx, receipt(5, "")))(t)
	want(t, "with a receipt", len(forgotten()), 0)
	first, ok, err := s.OldestQueued(ctx, ws, "a")
	if err != nil || !ok || !first.Equal(utc(at(-4*time.Hour))) {
		t.Errorf("the oldest is of %s, %v, %v", first, ok, err)
	}
	if _, ok, err := s.OldestQueued(ctx, ws, "b"); ok || err != nil {
		t.Errorf("an empty pool: %v, %v", ok, err)
	}
	want(t, "older than two hours", stale(at(-2*time.Hour), 9), []int64{3})
}

// A pool is suspended while every installation of its App at its owner is. C34
func snapshotSuspended(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	check := func(want bool) {
		t.Helper()
		if got := must(s.PoolSnapshot(ctx, ws, "a"))(t).Suspended; got != want {
			t.Fatalf("suspended is %v, want %v", got, want)
		}
	}
	put := func(id int64, app, account, state string) {
		t.Helper()
		must(s.PutInstallation(ctx, muster.Installation{ID: id, App: app, Workspace: ws, Account: account, State: state, UpdatedAt: base}))(t)
	}
	check(false) // nothing is known
	put(1, "app", "somebody", "suspended")
	put(2, "other-app", "octo", "suspended")
	check(false)
	put(3, "app", "OCTO", "suspended")
	check(true)
	put(3, "app", "octo", "active")
	check(false)
	put(3, "app", "octo", "deleted")
	check(true)
	put(4, "app", "octo", "active") // installed anew
	check(false)
}

// decision is a decision about pool a.
func decision(action muster.ScalingAction, rule, reason string, after time.Duration) muster.DecisionRecord {
	return muster.DecisionRecord{Workspace: ws, Pool: "a", At: at(after),
		Snapshot: muster.Snapshot{Pool: pool("a"), Jobs: []muster.PlanJob{{ID: int64(after), State: muster.JobQueued}}},
		Decision: muster.Decision{ScalingDecision: muster.ScalingDecision{Action: action, Reason: reason}, Rule: rule}}
}

// Decisions are kept with their inputs; one that changes nothing and repeats
// the last is counted; scaling is remembered.
func decisions(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	_, found, err := s.LastDecision(ctx, ws, "a")
	ok(t, err)
	if found {
		t.Fatal("a decision out of nothing")
	}
	record := func(d muster.DecisionRecord) int64 {
		t.Helper()
		return must(s.RecordDecision(ctx, d))(t)
	}
	first := record(decision(muster.Maintain, "formula", "0 jobs", 0))
	for i := range 3 {
		if id := record(decision(muster.Maintain, "formula", "0 jobs", time.Duration(i+1)*time.Minute)); id != first {
			t.Fatalf("decision %d was not folded into %d", id, first)
		}
	}
	last, _, err := s.LastDecision(ctx, ws, "a")
	ok(t, err)
	wanted := decision(muster.Maintain, "formula", "0 jobs", 0)
	wanted.ID, wanted.At, wanted.Count, wanted.LastAt = first, utc(base), 4, utc(at(3*time.Minute))
	wanted.Snapshot = muster.Snapshot{} // DecisionAt has it
	want(t, "folded", last, wanted)

	up := decision(muster.ScaleUp, "formula", "1 job", 4*time.Minute)
	up.Runners = []muster.Runner{{ID: "r-0001", Name: "a-0001", TraceID: "trace"}, {ID: "r-0002", Warm: true}}
	second := record(up)
	r := must(s.Runner(ctx, ws, "r-0001"))(t)
	want(t, "new runner", r, muster.Runner{ID: "r-0001", Name: "a-0001", TraceID: "trace", Workspace: ws, Pool: "a",
		State: muster.RunnerProvisioning, CreatedAt: utc(at(4 * time.Minute))})
	wantLen(t, "history", must(s.RunnerEvents(ctx, ws, "r-0001"))(t), 1)
	want(t, "last scaling", must(s.PoolSnapshot(ctx, ws, "a"))(t).LastScaling, utc(at(4*time.Minute)))

	// Not folded: after another decision, with another reason or rule, or when it drains.
	ids := map[int64]bool{first: true, second: true}
	drain := decision(muster.Maintain, "rotation", "old", 7*time.Minute)
	drain.Decision.Drain = []muster.RunnerID{"r-0001"}
	for _, d := range []muster.DecisionRecord{decision(muster.Maintain, "formula", "0 jobs", 5*time.Minute), decision(muster.Maintain, "formula", "1 job", 6*time.Minute),
		decision(muster.Maintain, "cooldown", "1 job", 6*time.Minute), drain, drain, decision(muster.ScaleDown, "formula", "none", 8*time.Minute)} {
		if id := record(d); ids[id] {
			t.Fatalf("decision %+v was folded", d.Decision)
		} else {
			ids[id] = true
		}
	}
	want(t, "last scaling", must(s.PoolSnapshot(ctx, ws, "a"))(t).LastScaling, utc(at(8*time.Minute)))
	onB := decision(muster.Maintain, "formula", "0 jobs", 9*time.Minute)
	onB.Pool = "b"
	record(onB)
	list := must(s.Decisions(ctx, ws, "a", 0))(t)
	if len(list) != 8 || list[0].Decision.Action != muster.ScaleDown || list[7].ID != first {
		t.Fatalf("list: %v", list)
	}
	wantLen(t, "limited", must(s.Decisions(ctx, ws, "a", 3))(t), 3)
	wantLen(t, "of all pools", must(s.Decisions(ctx, ws, "", 0))(t), 9)

	n, err := s.PruneDecisions(ctx, at(4*time.Minute))
	ok(t, err)
	want(t, "pruned", n, 1)
	wantLen(t, "left", must(s.Decisions(ctx, ws, "a", 0))(t), 7)
}

// A decision whose runners cannot be written leaves no trace. 4-51
func decisionIsAtomic(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "b", "b-0001")
	d := decision(muster.ScaleUp, "formula", "2 jobs", time.Minute)
	d.Runners = []muster.Runner{{ID: "r-0002"}, {ID: "r-0001"}}
	_, err := s.RecordDecision(ctx, d)
	wantCode(t, err, muster.CodeConflict)
	_, err = s.Runner(ctx, ws, "r-0002")
	wantCode(t, err, muster.CodeNotFound)
	wantLen(t, "decisions", must(s.Decisions(ctx, ws, "a", 0))(t), 0)
	want(t, "the other's runner", must(s.Runner(ctx, ws, "r-0001"))(t).Pool, "b")
	d.Pool = "none"
	_, err = s.RecordDecision(ctx, d)
	wantCode(t, err, muster.CodeNotFound)
}
