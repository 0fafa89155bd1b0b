package usage

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// Groupings are what latencies can be told by.
var Groupings = []string{"repository", "workflow", "job", "pool"}

// LatencyRow is how the jobs of one repository, workflow, job or pool fared. Its
// populations are kept apart (4-49): jobs that never ran on a runner have no
// queue time and no run time and did not fail on a runner; cancelled ones ran,
// but say nothing of success; how runners boot is known of our own only. The
// wait for an approval is in no queue time.
type LatencyRow struct {
	Key string
	// Jobs ran on a runner; each is one of succeeded, failed and cancelled.
	// NeverRan completed without one.
	Jobs, Succeeded, Failed, Cancelled, NeverRan int
	Queue, Boot, Run                             Spread
}

// FailureRate is failed of succeeded and failed, 0 if there was neither.
func (r LatencyRow) FailureRate() float64 {
	if r.Succeeded+r.Failed == 0 {
		return 0
	}
	return float64(r.Failed) / float64(r.Succeeded+r.Failed)
}

// Spread is a duration over those who have it, by nearest rank: each number is
// one that occurred.
type Spread struct {
	Count         int
	P50, P90, Max time.Duration
}

func spreadOf(ds []time.Duration) Spread {
	return Spread{Count: len(ds), P50: Percentile(ds, 50), P90: Percentile(ds, 90), Max: Percentile(ds, 100)}
}

// Latency tells how jobs fared by "repository", "workflow" (with its repository),
// "job" (with both) or "pool", those with most jobs first, and over all of them.
// CodeInvalid for another word.
func Latency(receipts []muster.Receipt, by string) (rows []LatencyRow, total LatencyRow, err error) {
	key := keyOf(by)
	if key == nil {
		return nil, total, muster.Errorf(muster.CodeInvalid, "latency by %q is unknown: use repository, workflow, job or pool", by)
	}
	groups := map[string][]muster.Receipt{}
	for _, r := range receipts {
		groups[key(r)] = append(groups[key(r)], r)
	}
	for k, rs := range groups {
		rows = append(rows, latencyOf(k, rs))
	}
	slices.SortFunc(rows, func(a, b LatencyRow) int {
		return cmp.Or(cmp.Compare(b.Jobs+b.NeverRan, a.Jobs+a.NeverRan), cmp.Compare(a.Key, b.Key))
	})
	return rows, latencyOf("", receipts), nil
}

func keyOf(by string) func(muster.Receipt) string {
	switch by {
	case "repository":
		return func(r muster.Receipt) string { return r.Repository }
	case "workflow":
		return func(r muster.Receipt) string { return r.Repository + " / " + r.Workflow }
	case "job":
		return func(r muster.Receipt) string { return r.Repository + " / " + r.Workflow + " / " + r.JobName }
	case "pool":
		return func(r muster.Receipt) string { return r.Pool }
	}
	return nil
}

func latencyOf(key string, rs []muster.Receipt) LatencyRow {
	row := LatencyRow{Key: key}
	var queue, boot, run []time.Duration
	for _, r := range rs {
		switch Outcome(r) {
		case NeverRan:
			row.NeverRan++
			continue
		case Succeeded:
			row.Succeeded++
		case Cancelled:
			row.Cancelled++
		default:
			row.Failed++
		}
		row.Jobs++
		queue, run = append(queue, r.Queue), append(run, r.Run)
		if r.Runner != "" && r.Boot > 0 {
			boot = append(boot, r.Boot)
		}
	}
	row.Queue, row.Boot, row.Run = spreadOf(queue), spreadOf(boot), spreadOf(run)
	return row
}

// What a job came to.
const (
	Succeeded = "succeeded"
	Failed    = "failed"
	Cancelled = "cancelled"
	NeverRan  = "never_ran"
)

// Outcome is what a receipt's job came to.
func Outcome(r muster.Receipt) string {
	switch {
	case r.Runner == "" && r.Run == 0 && r.Billed == 0:
		return NeverRan
	case r.Conclusion == "success" || r.Conclusion == "neutral" || r.Conclusion == "skipped":
		return Succeeded
	case r.Conclusion == "cancelled":
		return Cancelled
	}
	return Failed
}

// FailureRow is one job of a workflow that failed, or whose runs did not agree.
type FailureRow struct {
	Repository, Workflow, Job string
	// Runs are all that succeeded or failed; Failed of them did.
	Runs, Failed int
	// Conclusions count the failures by GitHub's word ("failure", "timed_out").
	Conclusions map[string]int
	// Lost is the run time of the failures, and CostMicroUSD what it cost.
	Lost         time.Duration
	CostMicroUSD int64
	// Last is the last failed attempt.
	Last   muster.JobKey
	LastAt time.Time
	// Retried counts the failures that a later attempt of the same run turned into a
	// success: what fails and then succeeds unchanged is unreliable.
	Retried int
}

// Failures lists the jobs that failed, those that failed most first.
func Failures(receipts []muster.Receipt) []FailureRow {
	type key struct{ repository, workflow, job string }
	rows := map[key]*FailureRow{}
	// A re-run's jobs have ids of their own: run and name say that it is the same job.
	type same struct {
		run int64
		job string
	}
	saved := map[same]int{} // the last attempt that succeeded
	for _, r := range receipts {
		if k := (same{r.RunID, r.JobName}); r.RunID != 0 && Outcome(r) == Succeeded {
			saved[k] = max(saved[k], r.Job.Attempt)
		}
	}
	for _, r := range receipts {
		outcome := Outcome(r)
		if outcome != Succeeded && outcome != Failed {
			continue
		}
		k := key{r.Repository, r.Workflow, r.JobName}
		row := rows[k]
		if row == nil {
			row = &FailureRow{Repository: k.repository, Workflow: k.workflow, Job: k.job, Conclusions: map[string]int{}}
			rows[k] = row
		}
		row.Runs++
		if outcome == Succeeded {
			continue
		}
		row.Failed++
		row.Conclusions[cmp.Or(r.Conclusion, "unknown")]++
		row.Lost += r.Run
		row.CostMicroUSD += r.CostMicroUSD
		if r.CompletedAt.After(row.LastAt) || row.Last == (muster.JobKey{}) {
			row.Last, row.LastAt = r.Job, r.CompletedAt
		}
		if saved[same{r.RunID, r.JobName}] > r.Job.Attempt {
			row.Retried++
		}
	}
	var out []FailureRow
	for _, row := range rows {
		if row.Failed > 0 {
			out = append(out, *row)
		}
	}
	slices.SortFunc(out, func(a, b FailureRow) int {
		return cmp.Or(cmp.Compare(b.Failed, a.Failed), cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Workflow, b.Workflow), cmp.Compare(a.Job, b.Job))
	})
	return out
}

// Share is one part of a whole, such as a reason and how often it was given.
type Share struct {
	Key          string
	Count        int
	CostMicroUSD int64
}

// WasteReasons counts runners that never ran a job by why they went, the most
// frequent first.
func WasteReasons(wastes []muster.Waste) []Share {
	sums := map[string]Share{}
	for _, w := range wastes {
		s := sums[w.Reason]
		sums[w.Reason] = Share{Key: w.Reason, Count: s.Count + 1, CostMicroUSD: s.CostMicroUSD + w.CostMicroUSD}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key))
	})
}
