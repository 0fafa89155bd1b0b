package muster

import (
	"cmp"
	"fmt"
	"reflect"
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
	// Trigger is the event that started the run ("push"), "" if no sense told it.
	Trigger string
	URL     string
	Labels  Labels
	State   JobState
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
	// Gated is true when the job was seen waiting for an approval; ReadyAt is when
	// Muster first heard that it was queued. GitHub has no time for the end of an
	// approval, so ReadyAt is where a gated job's queue time starts (4-49).
	Gated   bool
	ReadyAt time.Time
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

// attemptOf: a minimal body (G3) has no run_attempt, so 0 counts as 1.
func attemptOf(e JobEvent) int { return max(1, e.Attempt) }

// Key returns the key of the job that the event is about.
func (e JobEvent) Key() JobKey { return JobKey{ID: e.ID, Attempt: attemptOf(e)} }

// state is the state that an event reports. The action decides, except that a
// queued action may carry a status that says that the job is held back, by an
// approval (waiting) or by a concurrency limit (pending, requested): it must not
// get a runner (4-5).
func (e JobEvent) state() JobState {
	switch e.Action {
	case "queued":
		if held(e.Status) {
			return JobWaiting
		}
		return JobQueued
	case "waiting", "in_progress", "completed":
		return JobState(e.Action)
	case "started": // an alias that only documents use (C22)
		return JobInProgress
	}
	if held(e.Status) {
		return JobWaiting
	}
	return e.Status
}

// held reports whether a status of GitHub's means "not to be run yet". REST has
// requested and pending besides the waiting of webhooks.
func held(s JobState) bool { return s == JobWaiting || s == "pending" || s == "requested" }

// Apply folds an event into the job and says what changed. The zero Job is a job
// never heard of: any event creates it, in the state that the event reports.
// Facts are only added and states only rise, so events may come twice, late and
// in any order, and every order ends in the same job, except for TraceID, which
// stays that of the first event applied (4-3, 4-4). The error is CodeInvalid for
// an event whose state is unknown or whose key is another job's. An event that
// is NotAJob is the caller's to drop.
func (j Job) Apply(e JobEvent) (Job, JobChange, error) {
	state := e.state()
	if state.Rank() == 0 {
		return j, JobUnchanged, Errorf(CodeInvalid, "job %s: unknown action %q with status %q", e.Key(), e.Action, e.Status)
	}
	if e.ID <= 0 {
		// A zero key means "never heard of": such a job would swallow every other.
		return j, JobUnchanged, Errorf(CodeInvalid, "event %q has no job id", e.Action)
	}
	before := j
	if j.Key == (JobKey{}) {
		j.Key = e.Key()
		j.TraceID = e.TraceID
	}
	if j.Key != e.Key() {
		return before, JobUnchanged, Errorf(CodeInvalid, "event of job %s applied to job %s", e.Key(), j.Key)
	}
	j.SeenAt = earlier(j.SeenAt, e.ReceivedAt)
	j.App = first(j.App, e.App)
	j.Installation = first(j.Installation, e.InstallationID)
	j.Repository = first(j.Repository, e.Repository)
	j.PublicRepo = j.PublicRepo || e.PublicRepo
	j.RunID = first(j.RunID, e.RunID)
	j.Workflow = first(j.Workflow, e.Workflow)
	j.Name = first(j.Name, e.Name)
	j.HeadBranch = first(j.HeadBranch, e.HeadBranch)
	j.HeadSHA = first(j.HeadSHA, e.HeadSHA)
	j.Trigger = first(j.Trigger, e.Trigger)
	j.URL = first(j.URL, e.URL)
	if len(j.Labels) == 0 {
		j.Labels = e.Labels
	}
	j.CreatedAt = earlier(j.CreatedAt, e.CreatedAt)
	switch state {
	case JobWaiting:
		j.Gated = true
	case JobQueued:
		j.ReadyAt = earlier(j.ReadyAt, e.ReceivedAt)
	case JobInProgress:
		// Who took the job is a fact even when in_progress comes after completed.
		// Below in_progress a runner's name means nothing (4-1, 4-5).
		j.RunnerName = first(j.RunnerName, e.RunnerName)
		if e.RunnerName != "" {
			j.StartedAt = first(j.StartedAt, e.StartedAt)
		}
	case JobCompleted:
		j.RunnerName = first(j.RunnerName, e.RunnerName)
		if e.RunnerName != "" && j.CompletedAt.IsZero() {
			// GitHub's last word on the times is the one that is billed (4-48).
			j.StartedAt = first(e.StartedAt, j.StartedAt)
		}
		j.CompletedAt = first(j.CompletedAt, e.CompletedAt)
		j.Conclusion = first(j.Conclusion, e.Conclusion)
	}
	rises := state.Rank() > j.State.Rank()
	if stepsBeyond(e.Steps, j.Steps) {
		j.Steps = e.Steps
	}
	if rises {
		j.State = state
		return j, JobAdvanced, nil
	}
	if !reflect.DeepEqual(j, before) {
		return j, JobUpdated, nil
	}
	return j, JobUnchanged, nil
}

// stepsBeyond reports whether a tells more of the steps than b: more of them
// finished, or as many finished and more listed.
func stepsBeyond(a, b []Step) bool {
	finished := func(steps []Step) (n int) {
		for _, s := range steps {
			if s.Status == string(JobCompleted) {
				n++
			}
		}
		return n
	}
	return cmp.Or(cmp.Compare(finished(a), finished(b)), cmp.Compare(len(a), len(b))) > 0
}

// earlier returns the earlier of two times, taking zero for unknown.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// RanOnRunner reports whether the job was ever given to a runner. A completed
// job that was not is free and changes no runner (4-6).
func (j Job) RanOnRunner() bool { return j.RunnerName != "" && !j.StartedAt.IsZero() }

// QueuedAt is when the job began to wait for a runner: its creation by GitHub's
// clock or, if an approval held it back, the moment at which it was first heard
// to be queued. Zero if neither is known.
func (j Job) QueuedAt() time.Time {
	if j.Gated {
		return first(j.ReadyAt, j.CreatedAt)
	}
	return first(j.CreatedAt, j.ReadyAt)
}

// QueueTime is started − created by GitHub's clock without the wait for an
// approval, clamped at 0 (4-48, 4-49). ok is false for a job that has not
// started on a runner.
func (j Job) QueueTime() (d time.Duration, ok bool) {
	from := j.QueuedAt()
	if !j.RanOnRunner() || from.IsZero() {
		return 0, false
	}
	return max(0, j.StartedAt.Sub(from)), true
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
