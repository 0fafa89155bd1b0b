package storetest

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// A decision that held at a time comes back with all that was decided on, also
// when it was folded, and when there was very much of it.
func decisionAt(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	_, err := s.DecisionAt(ctx, ws, "a", at(time.Hour))
	wantCode(t, err, muster.CodeNotFound)
	first := decision(muster.Maintain, "formula", "0 jobs", 0)
	first.ID = must(s.RecordDecision(ctx, first))(t)
	must(s.RecordDecision(ctx, decision(muster.Maintain, "formula", "0 jobs", 2*time.Minute)))(t)
	first.At, first.Count, first.LastAt = utc(base), 2, utc(at(2*time.Minute))
	big := decision(muster.ScaleUp, "formula", "many jobs", 5*time.Minute)
	for id := range int64(50_000) {
		big.Snapshot.Jobs = append(big.Snapshot.Jobs, muster.PlanJob{ID: 51_204_880_000 + 37*id, Attempt: 1, State: muster.JobQueued, QueuedAt: utc(at(time.Duration(id) * time.Second)), Repository: "octo/repo"})
	}
	big.ID = must(s.RecordDecision(ctx, big))(t)
	big.At, big.Count, big.LastAt = utc(big.At), 1, utc(big.At)
	onB := decision(muster.Maintain, "formula", "0 jobs", 6*time.Minute)
	onB.Pool = "b"
	must(s.RecordDecision(ctx, onB))(t)

	want(t, "at the folded one", must(s.DecisionAt(ctx, ws, "a", at(4*time.Minute)))(t), first)
	want(t, "at its first moment", must(s.DecisionAt(ctx, ws, "a", base))(t), first)
	want(t, "at the big one", must(s.DecisionAt(ctx, ws, "a", at(time.Hour)))(t), big)
	want(t, "by its number", must(s.Decision(ctx, ws, first.ID))(t), first)
	_, err = s.DecisionAt(ctx, ws, "a", at(-time.Second))
	wantCode(t, err, muster.CodeNotFound)
	_, err = s.DecisionAt(ctx, other, "a", at(time.Hour))
	wantCode(t, err, muster.CodeNotFound)
	_, err = s.Decision(ctx, other, first.ID)
	wantCode(t, err, muster.CodeNotFound)
	wantLen(t, "no list carries snapshots", must(s.Decisions(ctx, ws, "a", 1))(t)[0].Snapshot.Jobs, 0)
}

// What every sense saw of the jobs first heard of in a time.
func sensed(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	tell := func(id int64, action string, by muster.Sense, after time.Duration) {
		e := event(id, action, "foreign")
		e.Sense, e.ReceivedAt = by, at(after)
		apply(t, s, e)
	}
	tell(1, "queued", muster.SenseWebhook, time.Second)
	tell(2, "queued", muster.SensePoll, time.Minute)
	tell(2, "queued", muster.SenseRedelivery, 2*time.Minute)
	tell(2, "in_progress", muster.SenseWebhook, 3*time.Minute)
	tell(3, "queued", muster.SenseWebhook, time.Hour)

	got := must(s.Sensed(ctx, ws, at(time.Second), at(time.Hour)))(t)
	want(t, "sensed", got, []muster.SensedJob{
		{Key: muster.JobKey{ID: 2, Attempt: 1}, App: "app", Pool: "a", SeenAt: utc(at(time.Minute)), QueuedAt: utc(base), StartedAt: utc(at(10 * time.Second)), Sightings: []muster.Sighting{
			{Sense: muster.SensePoll, State: muster.JobQueued, At: utc(at(time.Minute))},
			{Sense: muster.SenseRedelivery, State: muster.JobQueued, At: utc(at(2 * time.Minute))},
			{Sense: muster.SenseWebhook, State: muster.JobInProgress, At: utc(at(3 * time.Minute))}}},
		{Key: muster.JobKey{ID: 1, Attempt: 1}, App: "app", Pool: "a", SeenAt: utc(at(time.Second)), QueuedAt: utc(base), Sightings: []muster.Sighting{
			{Sense: muster.SenseWebhook, State: muster.JobQueued, At: utc(at(time.Second))}}},
	})
	wantLen(t, "without an end", must(s.Sensed(ctx, ws, at(2*time.Second), time.Time{}))(t), 2)
	wantLen(t, "elsewhere", must(s.Sensed(ctx, other, base, time.Time{}))(t), 0)
}

// A project has spent its receipts and its wastes since a time.
func spentSince(t *testing.T, s *store.Store) {
	ctx := t.Context()
	write := func(id int64, project string, cost int64, after time.Duration) {
		r := receipt(id, "success")
		r.Project, r.CostMicroUSD, r.CompletedAt = project, cost, at(after)
		must(s.WriteReceipt(ctx, r))(t)
	}
	write(1, "web", 100, 0)
	write(2, "web", 20, time.Hour)
	write(3, "ml", 7_000_000_000_000, time.Hour)
	w := waste("r-0001", "a", time.Hour)
	w.Project, w.CostMicroUSD = "web", 3
	must(s.WriteWaste(ctx, w))(t)
	want(t, "all", must(s.SpentSince(ctx, ws, "web", base))(t), 123)
	want(t, "since", must(s.SpentSince(ctx, ws, "web", at(time.Minute)))(t), 23)
	want(t, "of another project", must(s.SpentSince(ctx, ws, "ml", base))(t), 7_000_000_000_000)
	want(t, "of none", must(s.SpentSince(ctx, ws, "none", base))(t), 0)
	want(t, "of another workspace", must(s.SpentSince(ctx, other, "web", base))(t), 0)
}

// What a pool was asked for and what served it, in a time.
func demandAndSupply(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	for id := int64(1); id <= 4; id++ {
		e := event(id, "queued", "")
		e.CreatedAt = at(time.Duration(id) * time.Minute)
		apply(t, s, e)
	}
	apply(t, s, event(2, "completed", "foreign"))
	must(s.ApplyJobEvent(ctx, ws, event(9, "queued", ""), func(muster.Job) string { return "b" }))(t)
	var ids []int64
	for _, j := range must(s.Demand(ctx, ws, "a", at(0), at(4*time.Minute)))(t) {
		ids = append(ids, j.Key.ID)
	}
	want(t, "demand", ids, []int64{2, 1, 3}) // 2 was created at the start, as its completion told
	wantLen(t, "of another workspace", must(s.Demand(ctx, other, "a", base, at(time.Hour)))(t), 0)

	addRunner(t, s, "r-0001", "a", "")
	addRunner(t, s, "r-0002", "a", "")
	addRunner(t, s, "r-0003", "b", "")
	update(t, s, "r-0001", func(r *muster.Runner) { r.State = muster.RunnerDraining })
	update(t, s, "r-0001", func(r *muster.Runner) {
		r.State, r.DestroyedAt = muster.RunnerDestroyed, at(time.Hour)
	})
	wantLen(t, "supply", must(s.Supply(ctx, ws, "a", base, at(time.Minute)))(t), 2)
	wantLen(t, "those that still live", must(s.Supply(ctx, ws, "a", at(2*time.Hour), at(3*time.Hour)))(t), 1)
	wantLen(t, "before the first", must(s.Supply(ctx, ws, "a", at(-time.Hour), base))(t), 0)
	wantLen(t, "of another workspace", must(s.Supply(ctx, other, "a", base, at(time.Hour)))(t), 0)
}
