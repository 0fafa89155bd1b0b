package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// history is what Fill writes and what every later Muster must read out of an
// old database. Fields that an old schema did not have are zero there.
type history struct {
	Pools         []muster.Pool
	Override      muster.PoolOverride
	Offerings     []muster.Offering
	Installations []muster.Installation
	Undispatched  []muster.Delivery
	Deliveries    []muster.Delivery
	Jobs          []muster.Job
	Sightings     []muster.Sighting
	Runners       []muster.Runner
	RunnerEvents  []muster.RunnerEvent
	RunnerLog     string
	Snapshot      muster.Snapshot
	Decisions     []muster.DecisionRecord
	Replayed      muster.DecisionRecord
	Spent         int64
	Receipts      []muster.Receipt
	Wastes        []muster.Waste
	Usage         []store.UsageRow
	Findings      []muster.Finding
	Watermark     string
}

// Fill writes something of everything into an empty database.
func Fill(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	withPools(t, s)
	ok(t, s.SetPoolOverride(ctx, ws, "b", muster.PoolOverride{MaxRunners: new(3)}))
	must(s.PutInstallation(ctx, muster.Installation{ID: 7, App: "app", Workspace: ws, Account: "Octo", AccountType: "Organization", State: "active", UpdatedAt: base}))(t)
	dispatched := save(t, s, delivery("one"))
	ok(t, s.MarkDispatched(ctx, dispatched, "job queued", at(time.Second)))
	deferred := save(t, s, delivery("two"))
	ok(t, s.DeferDelivery(ctx, deferred, "sink is down", at(time.Minute)))
	addRunner(t, s, "r-0001", "a", "a-0001")
	addRunner(t, s, "r-0002", "b", "")
	for _, action := range []string{"queued", "in_progress", "completed"} {
		apply(t, s, event(1, action, "a-0001"))
	}
	apply(t, s, event(2, "queued", ""))
	moveTo(t, s, "r-0001", muster.RunnerActive, muster.RunnerDraining, muster.RunnerDestroyed)
	ok(t, s.AppendRunnerLog(ctx, ws, "r-0001", 0, []byte("Listening for Jobs\n")))
	ok(t, s.SaveBootToken(ctx, muster.BootToken{JTI: "jti", Runner: "r-0002", Workspace: ws, ExpiresAt: at(time.Hour)}))
	ok(t, s.PutSession(ctx, ws, "r-0002", make([]byte, 32)))
	must(s.RecordDecision(ctx, decision(muster.Maintain, "formula", "0 jobs", time.Minute)))(t)
	must(s.RecordDecision(ctx, decision(muster.Maintain, "formula", "0 jobs", 2*time.Minute)))(t)
	must(s.WriteReceipt(ctx, receipt(1, "success")))(t)
	must(s.WriteWaste(ctx, waste("r-0009", "a", time.Hour)))(t)
	ok(t, s.RecordFinding(ctx, muster.Finding{At: base, Workspace: ws, Kind: "leaked_instance", Subject: "i-1", Action: "deleted"}))
	ok(t, s.SetWatermark(ctx, "redelivery", "5"))
}

// read is everything that Fill wrote, as s tells it.
func read(t *testing.T, s *store.Store) history {
	t.Helper()
	ctx := t.Context()
	return history{
		Pools:         must(s.Pools(ctx, ws))(t),
		Override:      must(s.PoolOverride(ctx, ws, "b"))(t),
		Offerings:     must(s.Offerings(ctx, ws))(t),
		Installations: must(s.Installations(ctx, ws))(t),
		Undispatched:  must(s.Undispatched(ctx, at(time.Hour), 10))(t),
		Deliveries:    must(s.Deliveries(ctx, store.DeliveryFilter{}))(t),
		Jobs:          must(s.Jobs(ctx, ws, store.JobFilter{}))(t),
		Sightings:     must(s.Sightings(ctx, ws, muster.JobKey{ID: 1}))(t),
		Runners:       must(s.Runners(ctx, ws, store.RunnerFilter{}))(t),
		RunnerEvents:  must(s.RunnerEvents(ctx, ws, "r-0001"))(t),
		RunnerLog:     string(must(s.RunnerLog(ctx, ws, "r-0001"))(t)),
		Snapshot:      must(s.PoolSnapshot(ctx, ws, "a"))(t),
		Decisions:     must(s.Decisions(ctx, ws, "", 0))(t),
		Replayed:      must(s.DecisionAt(ctx, ws, "a", at(time.Hour)))(t),
		Spent:         must(s.SpentSince(ctx, ws, receipt(1, "").Project, base.Add(-1000*time.Hour)))(t),
		Receipts:      must(s.Receipts(ctx, ws, store.UsageFilter{}))(t),
		Wastes:        must(s.Wastes(ctx, ws, store.UsageFilter{}))(t),
		Usage:         must(s.UsageSummary(ctx, ws, store.UsageFilter{}, "pool"))(t),
		Findings:      must(s.Findings(ctx, ws, 0))(t),
		Watermark:     must(s.Watermark(ctx, "redelivery"))(t),
	}
}

// VerifyFilled compares an upgraded database with one that today's Muster
// filled, and has work go on in it.
func VerifyFilled(t *testing.T, upgraded, fresh *store.Store) {
	t.Helper()
	if diff := cmp.Diff(read(t, fresh), read(t, upgraded), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("the upgraded database differs (-fresh +upgraded):\n%s", diff)
	}
	ctx := t.Context()
	save(t, upgraded, delivery("three"))
	if _, again, err := upgraded.SaveDelivery(ctx, delivery("one")); err != nil || again {
		t.Fatalf("an old delivery is fresh: %v, %v", again, err)
	}
	if a := apply(t, upgraded, event(2, "in_progress", "foreign")); a.Before != muster.JobQueued {
		t.Fatalf("an old job: %+v", a)
	}
	if must(upgraded.WriteReceipt(ctx, receipt(1, "success")))(t) {
		t.Fatal("an old receipt is written twice")
	}
	note(t, upgraded, &muster.ScaleSetStatistics{Assigned: 1}, time.Minute, assignment("one", 7, muster.ScaleSetJobAssigned))
	wantLen(t, "scale set's jobs", must(upgraded.ScaleSetJobs(ctx, ws, "a"))(t), 1)
	want(t, "the job of a trace on an old runner", addTrace(t, upgraded, recorded("r-0001", 1, 0)).Job, muster.JobKey{ID: 1, Attempt: 1})
	_, _, err := upgraded.UseBootToken(ctx, "jti", "nonce", base, time.Minute)
	ok(t, err)
	want(t, "old session", must(upgraded.RunnerBySession(ctx, make([]byte, 32)))(t).ID, "r-0002")
	moveTo(t, upgraded, "r-0002", muster.RunnerRegistered)
	must(upgraded.RecordDecision(ctx, decision(muster.ScaleUp, "formula", "1 job", time.Hour)))(t)
}
