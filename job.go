package muster

import (
	"fmt"
	"time"
)

// JobState is where one attempt of a job stands on GitHub.
type JobState string

// The states of a job, in the order of their rank (4-4).
const (
	JobWaiting    JobState = "waiting"
	JobQueued     JobState = "queued"
	JobInProgress JobState = "in_progress"
	JobCompleted  JobState = "completed"
)

// Rank orders states: a job never goes back to a lower rank, whatever order its
// events arrive in (4-4). Unknown states rank 0, below all others.
func (s JobState) Rank() int {
	switch s {
	case JobWaiting:
		return 1
	case JobQueued:
		return 2
	case JobInProgress:
		return 3
	case JobCompleted:
		return 4
	}
	return 0
}

// JobKey names one attempt of one job. GitHub gives a re-run new job ids, so the
// id alone would do; the attempt is kept because receipts are per attempt (4-48).
type JobKey struct {
	ID      int64
	Attempt int
}

// String is "ID/ATTEMPT", or just the ID for the first attempt.
func (k JobKey) String() string {
	if k.Attempt <= 1 {
		return fmt.Sprint(k.ID)
	}
	return fmt.Sprintf("%d/%d", k.ID, k.Attempt)
}

// Job is one attempt of one workflow job, put together from every event about it.
type Job struct {
	Key          JobKey
	Workspace    string
	App          string
	Installation int64
	// Repository is owner/name.
	Repository string
	PublicRepo bool
	RunID      int64
	Workflow   string
	Name       string
	HeadBranch string
	HeadSHA    string
	URL        string
	Labels     Labels
	State      JobState
	// Conclusion is GitHub's, empty until completed.
	Conclusion string
	// Pool is the pool that the job was routed to.
	Pool string
	// Runner is our runner that took the job, "" if none of ours did.
	Runner RunnerID
	// RunnerName is what in_progress reported, ours or not.
	RunnerName string
	// CreatedAt, StartedAt and CompletedAt are GitHub's. StartedAt is zero until
	// the job is in progress (on a queued event GitHub sends the creation time).
	CreatedAt   time.Time
	StartedAt   time.Time
	CompletedAt time.Time
	// SeenAt is when Muster first heard of the job, by any sense.
	SeenAt  time.Time
	TraceID string
	Steps   []Step
}

// JobChange says what an event did to a job.
type JobChange string

// What Apply may answer.
const (
	// JobUnchanged: the event told nothing new (a duplicate, or late news of a lower rank).
	JobUnchanged JobChange = "unchanged"
	// JobUpdated: the state stayed, some fact was filled in.
	JobUpdated JobChange = "updated"
	// JobAdvanced: the job entered a higher state.
	JobAdvanced JobChange = "advanced"
)

// Covered by Apply's table test: G3 has no run_attempt, so 0 counts as 1.
func attemptOf(e JobEvent) int { return max(1, e.Attempt) }

// Key returns the key of the job that the event is about.
func (e JobEvent) Key() JobKey { return JobKey{ID: e.ID, Attempt: attemptOf(e)} }

// state is the state that an event reports. The action decides, except that a
// queued action may carry the status waiting: the job is behind an approval and
// must not get a runner (4-5).
func (e JobEvent) state() JobState {
	if e.Action == "queued" && e.Status == JobWaiting {
		return JobWaiting
	}
	switch e.Action {
	case "waiting", "queued", "in_progress", "completed":
		return JobState(e.Action)
	case "started": // an alias that only documents use (C22)
		return JobInProgress
	}
	return e.Status
}

// Apply folds an event into the job and says what changed. The zero Job is a job
// never heard of: any event creates it, in the state that the event reports.
// Facts are only added and states only rise, so events may come twice, late and
// in any order (4-4). The error is CodeInvalid for an event whose state is
// unknown or whose key is another job's.
func (j Job) Apply(e JobEvent) (Job, JobChange, error) {
	state := e.state()
	if state.Rank() == 0 {
		return j, JobUnchanged, Errorf(CodeInvalid, "job %s: unknown action %q with status %q", e.Key(), e.Action, e.Status)
	}
	fresh := j.Key == JobKey{}
	if fresh {
		j.Key = e.Key()
		j.SeenAt = e.ReceivedAt
		j.TraceID = e.TraceID
	}
	if j.Key != e.Key() {
		return j, JobUnchanged, Errorf(CodeInvalid, "event of job %s applied to job %s", e.Key(), j.Key)
	}
	before := j.facts()
	j.App = first(j.App, e.App)
	j.Installation = first(j.Installation, e.InstallationID)
	j.Repository = first(j.Repository, e.Repository)
	j.PublicRepo = j.PublicRepo || e.PublicRepo
	j.RunID = first(j.RunID, e.RunID)
	j.Workflow = first(j.Workflow, e.Workflow)
	j.Name = first(j.Name, e.Name)
	j.HeadBranch = first(j.HeadBranch, e.HeadBranch)
	j.HeadSHA = first(j.HeadSHA, e.HeadSHA)
	j.URL = first(j.URL, e.URL)
	if len(j.Labels) == 0 {
		j.Labels = e.Labels
	}
	if j.CreatedAt.IsZero() {
		j.CreatedAt = e.CreatedAt
	}
	rises := state.Rank() > j.State.Rank()
	// Who took the job is a fact even when in_progress comes after completed.
	j.RunnerName = first(j.RunnerName, e.RunnerName)
	if state.Rank() >= JobInProgress.Rank() && e.RunnerName != "" && j.StartedAt.IsZero() {
		j.StartedAt = e.StartedAt
	}
	if state == JobCompleted && j.CompletedAt.IsZero() {
		j.CompletedAt = e.CompletedAt
		j.Conclusion = e.Conclusion
	}
	if len(e.Steps) > 0 && state.Rank() >= j.State.Rank() {
		j.Steps = e.Steps
	}
	if rises {
		j.State = state
		return j, JobAdvanced, nil
	}
	if j.facts() != before {
		return j, JobUpdated, nil
	}
	return j, JobUnchanged, nil
}

// facts is a digest of what Apply may fill in without a change of state.
func (j Job) facts() string {
	return fmt.Sprint(j.RunnerName, j.StartedAt.UnixNano(), j.CompletedAt.UnixNano(), j.Conclusion, j.Workflow, j.CreatedAt.UnixNano(), len(j.Labels), len(j.Steps), j.RunID)
}

// RanOnRunner reports whether the job was ever given to a runner. A completed
// job that was not is free and changes no runner (4-6).
func (j Job) RanOnRunner() bool { return j.RunnerName != "" && !j.StartedAt.IsZero() }

// QueueTime is started − created by GitHub's clock, clamped at 0 (4-48, 4-49).
// ok is false for a job that has not started.
func (j Job) QueueTime() (d time.Duration, ok bool) {
	if !j.RanOnRunner() || j.CreatedAt.IsZero() {
		return 0, false
	}
	return max(0, j.StartedAt.Sub(j.CreatedAt)), true
}

// RunTime is completed − started by GitHub's clock, clamped at 0 (4-48). ok is
// false until the job has completed on a runner.
func (j Job) RunTime() (d time.Duration, ok bool) {
	if !j.RanOnRunner() || j.CompletedAt.IsZero() {
		return 0, false
	}
	return max(0, j.CompletedAt.Sub(j.StartedAt)), true
}

// first returns a unless it is the zero value.
func first[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}
