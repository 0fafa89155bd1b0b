package web

import (
	"context"
	"net/http"
	"time"

	"github.com/muster-ci/muster"
)

const (
	// trafficTTL bounds how often the last day's receipts are summed anew.
	trafficTTL = 5 * time.Second
	// maxReceipts bounds how many of them are read for it.
	maxReceipts = 20_000
)

type overviewView struct {
	Health   Health
	Counts   jobCounts
	Fleet    fleet
	Traffic  traffic
	Oldest   *waitingJob
	Jobs     []jobRow
	More     int // active jobs that are not in Jobs
	Pools    []poolRow
	Decision []DecisionRecord
}

// fleet is the runners of all pools by what they do.
type fleet struct {
	Capacity capacity
	States   []count
}

type count struct {
	Name  string
	N     int
	Class string
}

// waitingJob is a job that waits, with the first of its causes.
type waitingJob struct {
	Job   muster.Job
	Since time.Time
	Cause muster.Cause
}

// Promised reports whether all three of the promise's numbers are zero.
func (h Health) Promised() bool { return h.JobsLost == 0 && h.RunnersLeaked == 0 && h.BusyKilled == 0 }

func (s *site) overview(w http.ResponseWriter, r *http.Request) error {
	ctx, now := r.Context(), s.Now()
	var v overviewView
	var err error
	if v.Health, err = s.Reads.Health(ctx); err != nil {
		return err
	}
	if v.Counts, err = s.jobCounts(ctx); err != nil {
		return err
	}
	if v.Pools, err = s.poolRows(ctx); err != nil {
		return err
	}
	v.Fleet = fleetOf(v.Pools)
	if v.Oldest, err = s.oldestWaiting(ctx, v.Pools); err != nil {
		return err
	}
	v.Traffic, err = s.traffic.get(now, trafficTTL, func() (traffic, error) {
		receipts, err := s.Reads.Receipts(ctx, now.Add(-trafficSpan), now, maxReceipts)
		return trafficOf(receipts, now), err
	})
	if err != nil {
		return err
	}
	const shown = 8
	active, err := s.Reads.Jobs(ctx, JobQuery{States: []muster.JobState{muster.JobQueued, muster.JobInProgress}, Limit: shown})
	if err != nil {
		return err
	}
	if v.Jobs, err = s.jobRows(ctx, active, now); err != nil {
		return err
	}
	v.More = v.Counts.Of("queued") + v.Counts.Of("in_progress") - len(v.Jobs)
	if v.Decision, err = s.Reads.Decisions(ctx, "", 6); err != nil {
		return err
	}
	return s.show(w, r, "overview", page{Title: "Overview", Section: "overview", Body: v})
}

func fleetOf(pools []poolRow) fleet {
	var sum capacity
	for _, p := range pools {
		c := p.Capacity
		sum.Busy += c.Busy
		sum.Idle += c.Idle
		sum.Starting += c.Starting
		sum.Leaving += c.Leaving
		sum.Min += c.Min
		sum.Max += c.Max
	}
	sum.lay()
	return fleet{Capacity: sum, States: []count{
		{"busy", sum.Busy, "k-busy"}, {"listening", sum.Idle, "k-idle"}, {"starting", sum.Starting, "k-starting"}, {"leaving", sum.Leaving, "k-leaving"},
	}}
}

// oldestWaiting is the job that has waited longest in any pool, nil if none waits.
func (s *site) oldestWaiting(ctx context.Context, pools []poolRow) (*waitingJob, error) {
	var oldest muster.PlanJob
	for _, p := range pools {
		for _, j := range p.queue {
			if oldest.ID == 0 || j.QueuedAt.Before(oldest.QueuedAt) {
				oldest = j
			}
		}
	}
	if oldest.ID == 0 {
		return nil, nil
	}
	job, err := optional(s.Reads.Job(ctx, muster.JobKey{ID: oldest.ID}))
	if err != nil || job == nil { // pruned since the snapshot
		return nil, err
	}
	causes, err := s.Reads.Explain(ctx, job.Key)
	if err != nil {
		return nil, err
	}
	w := &waitingJob{Job: *job, Since: oldest.QueuedAt}
	if len(causes) > 0 {
		w.Cause = causes[0]
	}
	return w, nil
}

// Parked is how many calls of any lane were not made, so that others could be.
func (b Budget) Parked() (n int64) {
	for _, l := range b.Lanes {
		n += l.Parked
	}
	return n
}
