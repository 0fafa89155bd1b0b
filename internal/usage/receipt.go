package usage

import (
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// Receipt is what a completed job cost and where its time went. Queue and Run
// come from GitHub's timestamps alone (4-48); Boot and Idle are the runner's own
// and 0 without one. runner is the runner that the job ran on, nil if it is not
// ours or not known; a runner that took another job is ignored.
//
// A job that never ran has no times and costs nothing (4-6). Neither does one
// that ran on somebody else's runner: its Run is known, its Billed is 0.
func Receipt(job muster.Job, runner *muster.Runner, pool muster.Pool, offering muster.Offering, book Book, now time.Time) muster.Receipt {
	r := muster.Receipt{
		Job:           job.Key,
		Workspace:     job.Workspace,
		Project:       pool.Project,
		Pool:          job.Pool,
		Repository:    job.Repository,
		Workflow:      job.Workflow,
		JobName:       job.Name,
		RunID:         job.RunID,
		Runner:        job.Runner,
		Offering:      offering.Name,
		Conclusion:    job.Conclusion,
		PriceMicroUSD: book.Price(offering),
		CompletedAt:   job.CompletedAt,
		WrittenAt:     now,
	}
	if r.Pool == "" {
		r.Pool = pool.Name
	}
	if r.Workspace == "" {
		r.Workspace = pool.Workspace
	}
	run, ran := job.RunTime()
	if !ran {
		if !job.RanOnRunner() {
			r.Runner = ""
		}
		return r
	}
	r.Run = run
	r.Queue, _ = job.QueueTime()
	if runner != nil && r.Runner == "" {
		r.Runner = runner.ID
	}
	if r.Runner == "" {
		return r
	}
	r.Billed = book.Bill(run)
	r.CostMicroUSD = Cost(r.Billed, r.PriceMicroUSD)
	if runner == nil || runner.ID != r.Runner || runner.ListeningAt.IsZero() {
		return r
	}
	r.Boot = max(0, runner.ListeningAt.Sub(runner.CreatedAt))
	ready := runner.ListeningAt
	if runner.FinishedAt.After(ready) && runner.FinishedAt.Before(job.StartedAt) {
		ready = runner.FinishedAt // a kept runner's earlier job ended there
	}
	r.Idle = max(0, job.StartedAt.Sub(ready))
	return r
}

// Waste is what a runner cost that never ran a job; ok is false for one that did
// or may have, and for one that no provider ever started. Lived ends when the
// runner was destroyed, or now if it was not yet, so write it once, at the end.
func Waste(runner muster.Runner, pool muster.Pool, offering muster.Offering, book Book, now time.Time) (w muster.Waste, ok bool) {
	if runner.Job != (muster.JobKey{}) || !runner.ActiveAt.IsZero() || runner.Busy {
		return muster.Waste{}, false
	}
	from := runner.LaunchedAt
	if from.IsZero() && runner.Instance != "" {
		from = runner.CreatedAt // launched, but the control plane died before it noted when
	}
	if from.IsZero() {
		return muster.Waste{}, false
	}
	until := runner.DestroyedAt
	if until.IsZero() {
		until = now
	}
	w = muster.Waste{
		Runner:        runner.ID,
		Workspace:     runner.Workspace,
		Project:       pool.Project,
		Pool:          runner.Pool,
		Offering:      offering.Name,
		Reason:        runner.Reason,
		Lived:         max(0, until.Sub(from)),
		PriceMicroUSD: book.Price(offering),
		At:            now,
	}
	w.CostMicroUSD = Cost(book.Bill(w.Lived), w.PriceMicroUSD)
	return w, true
}

// Percentile is the p-th percentile of ds by nearest rank: the smallest of them
// that at least p percent do not exceed; 0 for none. p is clamped to 0…100, and
// 0 gives the smallest. ds is not changed.
//
// What belongs in ds is the caller's to know: only jobs that ran have a queue
// time and a run time, which is what Job.QueueTime's and Job.RunTime's ok says (4-49).
func Percentile(ds []time.Duration, p int) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	p = min(100, max(0, p))
	rank := (p*len(ds) + 99) / 100 // in integers, because 0.55 × 100 is not 55
	return sorted[max(1, rank)-1]
}
