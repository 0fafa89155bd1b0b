package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

func receipt(id int64, conclusion string) muster.Receipt {
	return muster.Receipt{Job: muster.JobKey{ID: id, Attempt: 1}, Workspace: ws, Project: "default", Pool: "a", Repository: "Octo/Repo",
		Workflow: "ci", JobName: "build", Runner: "r-0001", Offering: "small", Conclusion: conclusion, Queue: time.Duration(id) * time.Second,
		Boot: time.Second, Run: time.Minute, Billed: time.Minute, PriceMicroUSD: 5, CostMicroUSD: 5,
		CompletedAt: at(time.Duration(id) * time.Hour), WrittenAt: at(time.Duration(id) * time.Hour)}
}

// A job's attempt has one receipt, ever, and it never changes. 4-48 S4-34
func receipts(t *testing.T, s *store.Store) {
	ctx := t.Context()
	r := receipt(1, "success")
	if !must(s.WriteReceipt(ctx, r))(t) {
		t.Fatal("the first receipt is not fresh")
	}
	changed := r
	changed.CostMicroUSD = 1_000_000
	if must(s.WriteReceipt(ctx, changed))(t) {
		t.Fatal("the second receipt is fresh")
	}
	r.CompletedAt, r.WrittenAt = utc(r.CompletedAt), utc(r.WrittenAt)
	want(t, "receipt", must(s.Receipt(ctx, ws, r.Job))(t), r)
	rerun := receipt(1, "success")
	rerun.Job.Attempt = 2
	if !must(s.WriteReceipt(ctx, rerun))(t) {
		t.Fatal("another attempt's receipt is not fresh")
	}
	b := receipt(5, "failure")
	b.Pool, b.Repository = "b", "octo/other"
	must(s.WriteReceipt(ctx, b))(t)

	ids := func(f store.UsageFilter) (out []string) {
		for _, r := range must(s.Receipts(ctx, ws, f))(t) {
			out = append(out, r.Job.String())
		}
		return out
	}
	want(t, "all", ids(store.UsageFilter{}), []string{"5", "1/2", "1"})
	want(t, "pool", ids(store.UsageFilter{Pool: "b"}), []string{"5"})
	want(t, "repository", ids(store.UsageFilter{Repository: "OCTO/repo"}), []string{"1/2", "1"})
	want(t, "since is inside", ids(store.UsageFilter{Since: at(5 * time.Hour)}), []string{"5"})
	want(t, "until is outside", ids(store.UsageFilter{Until: at(5 * time.Hour)}), []string{"1/2", "1"})
	want(t, "limit", ids(store.UsageFilter{Limit: 1}), []string{"5"})
	_, err := s.Receipt(ctx, ws, muster.JobKey{ID: 99})
	wantCode(t, err, muster.CodeNotFound)
}

func waste(id muster.RunnerID, of string, after time.Duration) muster.Waste {
	return muster.Waste{Runner: id, Workspace: ws, Project: "default", Pool: of, Offering: "small", Reason: "no job within 2m0s",
		Lived: time.Minute, PriceMicroUSD: 5, CostMicroUSD: 7, At: at(after)}
}

func wastes(t *testing.T, s *store.Store) {
	ctx := t.Context()
	w := waste("r-0001", "a", time.Hour)
	if !must(s.WriteWaste(ctx, w))(t) || must(s.WriteWaste(ctx, w))(t) {
		t.Fatal("a runner's waste is not written once")
	}
	must(s.WriteWaste(ctx, waste("r-0002", "b", 2*time.Hour)))(t)
	got := must(s.Wastes(ctx, ws, store.UsageFilter{}))(t)
	wantLen(t, "wastes", got, 2)
	w.At = utc(w.At)
	want(t, "waste", got[1], w)
	wantLen(t, "by pool", must(s.Wastes(ctx, ws, store.UsageFilter{Pool: "b"}))(t), 1)
	wantLen(t, "window", must(s.Wastes(ctx, ws, store.UsageFilter{Since: at(time.Hour), Until: at(2 * time.Hour)}))(t), 1)
	wantLen(t, "of a repository", must(s.Wastes(ctx, ws, store.UsageFilter{Repository: "Octo/Repo"}))(t), 0)
}

// Sums and percentiles are exact; queue times are those of the jobs that ran. 4-6 4-49
func usageSummary(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	// Ten jobs that ran, queued for 1 s to 10 s, and one that never did, queued for an hour.
	for id := int64(1); id <= 10; id++ {
		r := receipt(id, map[bool]string{true: "success", false: "timed_out"}[id <= 7])
		if id == 10 {
			r.Conclusion, r.Run, r.Billed, r.Runner = "cancelled", 0, 0, "" // it ran for under a second on a runner that is not ours
			e := event(id, "completed", "foreign")
			e.CompletedAt = e.StartedAt
			apply(t, s, e)
		}
		r.CompletedAt = at(time.Duration(id) * 2 * time.Hour)
		must(s.WriteReceipt(ctx, r))(t)
	}
	never := receipt(11, "cancelled")
	never.Runner, never.Queue, never.Run, never.Billed, never.CostMicroUSD = "", time.Hour, 0, 0, 0
	never.CompletedAt = at(2 * time.Hour)
	apply(t, s, event(11, "completed", ""))
	must(s.WriteReceipt(ctx, never))(t)
	onB := receipt(12, "success")
	onB.Pool, onB.Workflow, onB.Repository, onB.CompletedAt = "b", "release", "octo/other", at(30*24*time.Hour)
	must(s.WriteReceipt(ctx, onB))(t)
	must(s.WriteWaste(ctx, waste("r-0007", "a", 2*time.Hour)))(t)
	must(s.WriteWaste(ctx, waste("r-0008", "c", 2*time.Hour)))(t)

	sum := func(f store.UsageFilter, by string) []store.UsageRow { return must(s.UsageSummary(ctx, ws, f, by))(t) }
	inA := store.UsageRow{Key: "a", Jobs: 11, Succeeded: 7, Failed: 2, Cancelled: 1, NeverRan: 1, QueueP50: 5 * time.Second, QueueP90: 9 * time.Second,
		Run: 9 * time.Minute, Billed: 9 * time.Minute, CostMicroUSD: 50, Wasted: 1, WasteMicroUSD: 7}
	inB := store.UsageRow{Key: "b", Jobs: 1, Succeeded: 1, QueueP50: 12 * time.Second, QueueP90: 12 * time.Second, Run: time.Minute, Billed: time.Minute, CostMicroUSD: 5}
	want(t, "by pool", sum(store.UsageFilter{}, "pool"), []store.UsageRow{inA, inB, {Key: "c", Wasted: 1, WasteMicroUSD: 7}})
	want(t, "one pool", sum(store.UsageFilter{Pool: "b"}, "pool"), []store.UsageRow{inB})
	inB.Key = "release"
	inA.Key, inA.Wasted, inA.WasteMicroUSD = "ci", 0, 0
	want(t, "by workflow", sum(store.UsageFilter{}, "workflow"), []store.UsageRow{{Wasted: 2, WasteMicroUSD: 14}, inA, inB})
	inB.Key = "octo/other"
	want(t, "by repository", sum(store.UsageFilter{Repository: "Octo/Other"}, "repository"), []store.UsageRow{inB})
	var days []string
	for _, row := range sum(store.UsageFilter{}, "day") {
		days = append(days, fmt.Sprint(row.Key, " ", row.Jobs, " ", row.Wasted))
	}
	want(t, "by day", days, []string{"2026-03-04 10 2", "2026-03-05 1 0", "2026-04-03 1 0"})
	want(t, "nothing", sum(store.UsageFilter{Since: at(365 * 24 * time.Hour)}, "day"), nil)
	_, err := s.UsageSummary(ctx, ws, store.UsageFilter{}, "moon")
	wantCode(t, err, muster.CodeInvalid)
}

func findings(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for i := range 3 {
		ok(t, s.RecordFinding(ctx, muster.Finding{At: at(time.Duration(i) * time.Minute), Workspace: ws, Kind: "leaked_instance", Subject: fmt.Sprint("i-", i), Action: "deleted"}))
	}
	got := must(s.Findings(ctx, ws, 2))(t)
	want(t, "findings", got, []muster.Finding{
		{At: utc(at(2 * time.Minute)), Workspace: ws, Kind: "leaked_instance", Subject: "i-2", Action: "deleted"},
		{At: utc(at(1 * time.Minute)), Workspace: ws, Kind: "leaked_instance", Subject: "i-1", Action: "deleted"},
	})
}
