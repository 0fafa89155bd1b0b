package dryrun

import (
	"fmt"
	"slices"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

// Recorded makes a workload of what was recorded of a pool, and tells what was
// measured of it and what a simulation of it assumes. jobs began to wait and
// runners lived in [since, until); to is the pool's overflow pool, zero if it
// has none.
func Recorded(p, to muster.Pool, jobs []muster.Job, runners []muster.Runner, since, until time.Time, terms Terms) (w Workload, measured Result, assumed []string) {
	w = Workload{Since: since, Until: until}
	var waits, runs []time.Duration
	var open []int // jobs whose duration is not known yet
	neverRan := 0
	for _, j := range jobs {
		run, done := j.RunTime()
		switch {
		case done:
			runs = append(runs, run)
		case j.State == muster.JobCompleted:
			neverRan++
			continue
		case j.RanOnRunner():
			run = max(0, until.Sub(j.StartedAt)) // at least
		default:
			measured.Unserved++
		}
		if wait, ok := j.QueueTime(); ok {
			waits = append(waits, wait)
		}
		if !done && !j.RanOnRunner() {
			open = append(open, len(w.Jobs))
		}
		w.Jobs = append(w.Jobs, Job{ID: j.Key.ID, Repository: j.Repository, Queued: j.QueuedAt(), Run: run,
			Priority: p.PriorityOf(j), Overflows: to.Name != "" && to.CanTake(j)})
	}
	for _, i := range open {
		w.Jobs[i].Run = usage.Percentile(runs, 50)
	}
	slices.SortStableFunc(w.Jobs, func(a, b Job) int { return a.Queued.Compare(b.Queued) })

	type change struct {
		at time.Time
		by int
	}
	var changes []change
	price := terms.Book.Price(terms.Offering)
	for _, r := range runners {
		if boot := r.ListeningAt.Sub(r.CreatedAt); !r.ListeningAt.IsZero() && boot >= 0 {
			w.Boots = append(w.Boots, boot)
		}
		end := r.DestroyedAt
		if end.IsZero() || end.After(until) {
			end = until
		}
		from := r.CreatedAt
		if from.Before(since) {
			from = since
		}
		lived := max(0, end.Sub(from))
		measured.RunnerTime += lived
		measured.CostMicroUSD += usage.Cost(terms.Book.Bill(lived), price)
		changes = append(changes, change{from, 1}, change{end, -1})
		if r.Job == (muster.JobKey{}) && !r.Busy && !r.DestroyedAt.IsZero() {
			measured.Wasted++
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by
	})
	live := 0
	for _, c := range changes {
		live += c.by
		measured.Peak = max(measured.Peak, live)
	}
	measured.Runners = len(runners)
	measured.Jobs = len(waits)
	measured.WaitP50, measured.WaitP95, measured.WaitMax = usage.Percentile(waits, 50), usage.Percentile(waits, 95), usage.Percentile(waits, 100)
	return w, measured, assumptions(p, w, neverRan, len(open))
}

// assumptions is what a reader has to know before believing the numbers.
func assumptions(p muster.Pool, w Workload, neverRan, open int) []string {
	out := []string{
		fmt.Sprintf("%s as queued from %s to %s, each running as long as it did; one that still runs, as long as it has so far", counted(len(w.Jobs), "job"), stamp(w.Since), stamp(w.Until)),
	}
	if open > 0 {
		out = append(out, fmt.Sprintf("what still waits (%s) is taken to run as long as the median of the others", counted(open, "job")))
	}
	if neverRan > 0 {
		out = append(out, fmt.Sprintf("left out: %s that ended without a runner", counted(neverRan, "job")))
	}
	if len(w.Boots) > 0 {
		out = append(out, fmt.Sprintf("runners boot as the %s measured in that time did, median %s, one after the other", counted(len(w.Boots), "runner"), usage.Percentile(w.Boots, 50).Round(time.Millisecond)))
	} else {
		out = append(out, fmt.Sprintf("no boot was measured in that time: runners are taken to boot in %s", DefaultBoot))
	}
	out = append(out,
		"the pool starts empty, GitHub gives a free runner to the job that was queued first, and a machine is gone the moment it leaves",
		"the provider refuses nothing, nobody steals runners, no budget of GitHub's or of money runs out",
		"cost is what the machines' time costs by the price book, busy or not; receipts bill jobs instead")
	if p.Overflow.Pool != "" {
		out = append(out, fmt.Sprintf("jobs handed to pool %s leave the simulation", p.Overflow.Pool))
	}
	if p.Canary.Offering != "" {
		out = append(out, "canaries are priced and boot like the others")
	}
	return out
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }
