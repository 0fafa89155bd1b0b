package usage_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

// known is a set of receipts whose numbers can be counted by hand: ten jobs of
// one repository that queued for 1…10 s and ran for 10…100 s, of which the last
// two failed and the eighth was cancelled; one of another; and three that never
// ran, whose "wait" of hours must be in no percentile.
func known() (rs []muster.Receipt) {
	done := time.Date(2026, 11, 18, 9, 0, 0, 0, time.UTC)
	for i := range 10 {
		n := time.Duration(i + 1)
		r := muster.Receipt{Job: muster.JobKey{ID: int64(i + 1), Attempt: 1}, Pool: "linux", Repository: "octo/app", Workflow: "ci", JobName: "build", Runner: "r-1", Conclusion: "success",
			Queue: n * time.Second, Boot: 2 * n * time.Second, Run: 10 * n * time.Second, Billed: time.Minute, CostMicroUSD: 100, CompletedAt: done.Add(n * time.Minute)}
		switch i {
		case 7:
			r.Conclusion = "cancelled"
		case 8:
			r.Conclusion = "failure"
		case 9:
			r.Conclusion, r.JobName = "timed_out", "test"
		}
		rs = append(rs, r)
	}
	again := rs[8] // the failed one succeeds when it is run again
	rs[8].RunID, again.RunID, again.Job.ID = 77, 77, 1009
	again.Job.Attempt, again.Conclusion, again.Queue, again.Run, again.Boot = 2, "success", 9*time.Second, 90*time.Second, 18*time.Second
	foreign := muster.Receipt{Job: muster.JobKey{ID: 50, Attempt: 1}, Pool: "gpu", Repository: "octo/ml", Workflow: "train", JobName: "fit", Runner: "", Conclusion: "success", Queue: time.Minute, Run: time.Hour, CompletedAt: done}
	rs = append(rs, again, foreign)
	for i := range 3 {
		rs = append(rs, muster.Receipt{Job: muster.JobKey{ID: int64(100 + i), Attempt: 1}, Pool: "linux", Repository: "octo/app", Workflow: "ci", JobName: "build", Conclusion: []string{"skipped", "cancelled", "failure"}[i], Queue: 5 * time.Hour, CompletedAt: done})
	}
	return rs
}

// S4-55 S4-57 4-49: durations, success rates and queue times of a known data set,
// with those that never ran apart.
func TestLatency(t *testing.T) {
	const s = time.Second
	app := usage.LatencyRow{Key: "octo/app", Jobs: 11, Succeeded: 8, Failed: 2, Cancelled: 1, NeverRan: 3,
		Queue: usage.Spread{Count: 11, P50: 6 * s, P90: 9 * s, Max: 10 * s}, Boot: usage.Spread{Count: 11, P50: 12 * s, P90: 18 * s, Max: 20 * s}, Run: usage.Spread{Count: 11, P50: 60 * s, P90: 90 * s, Max: 100 * s}}
	ml := usage.LatencyRow{Key: "octo/ml", Jobs: 1, Succeeded: 1, Queue: usage.Spread{Count: 1, P50: 60 * s, P90: 60 * s, Max: 60 * s}, Run: usage.Spread{Count: 1, P50: time.Hour, P90: time.Hour, Max: time.Hour}}
	rows, total, err := usage.Latency(known(), "repository")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]usage.LatencyRow{app, ml}, rows); d != "" {
		t.Error(d)
	}
	if app.FailureRate() != .2 || ml.FailureRate() != 0 || (usage.LatencyRow{}).FailureRate() != 0 {
		t.Errorf("failure rates %v, %v", app.FailureRate(), ml.FailureRate())
	}
	if total.Jobs != 12 || total.NeverRan != 3 || total.Queue.Max != time.Minute || total.Boot.Count != 11 {
		t.Errorf("total: %+v", total)
	}
	for by, want := range map[string]string{"workflow": "octo/app / ci", "job": "octo/app / ci / build", "pool": "linux"} {
		rows, _, err := usage.Latency(known(), by)
		if err != nil || rows[0].Key != want {
			t.Errorf("by %s: %v, %v", by, rows, err)
		}
	}
	if _, _, err := usage.Latency(nil, "colour"); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("by colour: %v", err)
	}
	if rows, total, err := usage.Latency(nil, "pool"); err != nil || len(rows) != 0 || total.Jobs != 0 {
		t.Errorf("of nothing: %v %v %v", rows, total, err)
	}
}

// S4-57: which jobs fail, how, what that cost, and which of them a retry mends.
func TestFailures(t *testing.T) {
	done := time.Date(2026, 11, 18, 9, 0, 0, 0, time.UTC)
	want := []usage.FailureRow{
		{Repository: "octo/app", Workflow: "ci", Job: "build", Runs: 9, Failed: 1, Conclusions: map[string]int{"failure": 1}, Lost: 90 * time.Second, CostMicroUSD: 100, Last: muster.JobKey{ID: 9, Attempt: 1}, LastAt: done.Add(9 * time.Minute), Retried: 1},
		{Repository: "octo/app", Workflow: "ci", Job: "test", Runs: 1, Failed: 1, Conclusions: map[string]int{"timed_out": 1}, Lost: 100 * time.Second, CostMicroUSD: 100, Last: muster.JobKey{ID: 10, Attempt: 1}, LastAt: done.Add(10 * time.Minute)},
	}
	if d := cmp.Diff(want, usage.Failures(known())); d != "" {
		t.Error(d)
	}
}

func TestWasteReasons(t *testing.T) {
	got := usage.WasteReasons([]muster.Waste{{Reason: "no job within 2m0s", CostMicroUSD: 5}, {Reason: "agent did not connect", CostMicroUSD: 1}, {Reason: "no job within 2m0s", CostMicroUSD: 7}})
	if d := cmp.Diff([]usage.Share{{Key: "no job within 2m0s", Count: 2, CostMicroUSD: 12}, {Key: "agent did not connect", Count: 1, CostMicroUSD: 1}}, got); d != "" {
		t.Error(d)
	}
}
