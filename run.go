package muster

import (
	"slices"
	"time"
)

// Run is one workflow run as its jobs tell it: GitHub's own runs are not kept.
type Run struct {
	ID         int64
	Workspace  string
	Repository string
	Workflow   string
	HeadBranch string
	HeadSHA    string
	Trigger    string
	// Attempts is the highest attempt of any job.
	Attempts int
	// State is completed when all jobs of the last attempt are, in_progress when one
	// of them runs or has run while others wait, else queued or waiting. Jobs that
	// Muster does not know, because no pool wants them, are not in it.
	State JobState
	// Conclusion is the worst of the last attempt's jobs once all have completed.
	Conclusion string
	// CreatedAt is the first job's, StartedAt the first start, CompletedAt the last
	// end, zero until all have completed.
	CreatedAt, StartedAt, CompletedAt time.Time
	// Jobs are all attempts, in the order of attempt and creation.
	Jobs []Job
}

// conclusions from good to bad; what is not listed is as bad as a failure.
var conclusions = []string{"", "skipped", "neutral", "success", "cancelled", "stale", "action_required", "timed_out", "failure"}

// RunOf puts the jobs of one run together. ok is false if there are none.
func RunOf(jobs []Job) (r Run, ok bool) {
	if len(jobs) == 0 {
		return Run{}, false
	}
	r.Jobs = slices.Clone(jobs)
	slices.SortStableFunc(r.Jobs, func(a, b Job) int {
		if a.Key.Attempt != b.Key.Attempt {
			return a.Key.Attempt - b.Key.Attempt
		}
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return int(max(-1, min(1, a.Key.ID-b.Key.ID)))
	})
	started, open := false, false
	lowest := JobCompleted
	for _, j := range r.Jobs {
		r.ID, r.Workspace = j.RunID, first(r.Workspace, j.Workspace)
		r.Repository, r.Workflow = first(r.Repository, j.Repository), first(r.Workflow, j.Workflow)
		r.HeadBranch, r.HeadSHA, r.Trigger = first(r.HeadBranch, j.HeadBranch), first(r.HeadSHA, j.HeadSHA), first(r.Trigger, j.Trigger)
		r.Attempts = max(r.Attempts, j.Key.Attempt)
		r.CreatedAt, r.StartedAt = earlier(r.CreatedAt, j.CreatedAt), earlier(r.StartedAt, j.StartedAt)
	}
	for _, j := range r.Jobs {
		if j.Key.Attempt != r.Attempts {
			continue
		}
		started = started || j.State.Rank() >= JobInProgress.Rank()
		if j.State != JobCompleted {
			open = true
		}
		if j.State.Rank() < lowest.Rank() {
			lowest = j.State
		}
		if severity(j.Conclusion) > severity(r.Conclusion) {
			r.Conclusion = j.Conclusion
		}
		if j.CompletedAt.After(r.CompletedAt) {
			r.CompletedAt = j.CompletedAt
		}
	}
	r.State = lowest
	if open {
		r.Conclusion, r.CompletedAt = "", time.Time{}
		if started {
			r.State = JobInProgress
		}
	}
	return r, true
}

func severity(conclusion string) int {
	if i := slices.Index(conclusions, conclusion); i >= 0 {
		return i
	}
	return len(conclusions)
}
