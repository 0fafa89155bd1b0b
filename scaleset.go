package muster

import (
	"regexp"
	"time"
)

// ScaleSet is a runner scale set as GitHub has it: a name under which it hands
// jobs to whoever holds the set's one session.
type ScaleSet struct {
	ID    int64
	Name  string
	Group int64
	// Labels are what jobs may ask for: a job goes to a set that has all of the
	// job's labels. Nothing is added to them, not even self-hosted.
	Labels Labels
	// Statistics are of now; nil if GitHub did not tell.
	Statistics *ScaleSetStatistics
}

var scaleSetName = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,64}\z`)

// ValidScaleSetName reports whether a scale set may have the name. GitHub's own
// client writes it into addresses as it is, hence the few characters.
func ValidScaleSetName(name string) bool { return scaleSetName.MatchString(name) }

// ScaleSetStatistics is how GitHub counts a scale set's jobs and runners.
type ScaleSetStatistics struct {
	// Available jobs could be acquired, Acquired ones were and are not assigned yet.
	Available int `json:"available"`
	Acquired  int `json:"acquired"`
	// Assigned jobs wait for a runner or run; Running ones are a part of them.
	Assigned int `json:"assigned"`
	Running  int `json:"running"`
	// Registered runners are Busy, Idle, or not connected.
	Registered int `json:"registered"`
	Busy       int `json:"busy"`
	Idle       int `json:"idle"`
}

// ScaleSetMessage is what GitHub says in one message to the holder of a session.
// It comes again, word for word, until it is acknowledged.
type ScaleSetMessage struct {
	ID int64
	// Statistics are of the time of the message; nil if it has none.
	Statistics *ScaleSetStatistics
	// Jobs are news of jobs; GitHub sends at most 50 at once.
	Jobs []ScaleSetJob
}

// ScaleSetJobState is how far an assignment has come.
type ScaleSetJobState string

// The states of an assignment. Available ones are offered, and have to be
// acquired, by Enterprise Servers; github.com assigns at once.
const (
	ScaleSetJobAvailable ScaleSetJobState = "available"
	ScaleSetJobAssigned  ScaleSetJobState = "assigned"
	ScaleSetJobStarted   ScaleSetJobState = "started"
	ScaleSetJobCompleted ScaleSetJobState = "completed"
)

// Rank orders the states; an assignment never goes back (4-4).
func (s ScaleSetJobState) Rank() int {
	switch s {
	case ScaleSetJobAvailable:
		return 1
	case ScaleSetJobAssigned:
		return 2
	case ScaleSetJobStarted:
		return 3
	case ScaleSetJobCompleted:
		return 4
	}
	return 0
}

// How an assignment came to its end in our books (ScaleSetJob.Over).
const (
	// OverCompleted: the job is completed, and the Sink knows.
	OverCompleted = "completed"
	// OverAcquired: it was only an offer, and the set got it or nobody can any more.
	OverAcquired = "acquired"
	// OverLapsed: no runner took it in time. The job is queued anew, as another assignment.
	OverLapsed = "lapsed"
	// OverMissed: it ended, and GitHub's message about that did not come.
	OverMissed = "missed"
	// OverUnknown: no job could be found that it is about.
	OverUnknown = "unknown"
)

// ScaleSetJob is one assignment of a job to a scale set, put together from every
// message about it, or what one message says of it.
type ScaleSetJob struct {
	// ID is GitHub's jobId. It names the assignment, not the job: when no runner
	// comes in time the same job gets another one. It is not a workflow_job's id,
	// which no message holds.
	ID    string           `json:"id"`
	State ScaleSetJobState `json:"state"`
	// RequestID is what an available job is acquired by; 0 otherwise.
	RequestID int64 `json:"request_id,omitempty"`
	// Repository is owner/name.
	Repository string `json:"repository"`
	RunID      int64  `json:"run_id"`
	// Name is the job's as GitHub shows it.
	Name string `json:"name"`
	// Event is what triggered the run ("push").
	Event  string `json:"event,omitempty"`
	Labels Labels `json:"labels,omitempty"`
	// The times are GitHub's: StartedAt is when a runner got the job.
	QueuedAt    time.Time `json:"queued_at,omitzero"`
	AssignedAt  time.Time `json:"assigned_at,omitzero"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	CompletedAt time.Time `json:"completed_at,omitzero"`
	RunnerID    int64     `json:"runner_id,omitempty"`
	RunnerName  string    `json:"runner_name,omitempty"`
	// Result is GitHub's word: succeeded, failed, canceled.
	Result string `json:"result,omitempty"`

	// The rest is ours. SeenAt is when the assignment was first heard of, ChangedAt
	// when it last rose.
	SeenAt    time.Time `json:"seen_at,omitzero"`
	ChangedAt time.Time `json:"changed_at,omitzero"`
	// Job is the job that it is about; the zero key until that is found.
	Job JobKey `json:"job,omitzero"`
	// Told is the last state that the Sink was told.
	Told ScaleSetJobState `json:"told,omitempty"`
	// Over says how it ended in our books; "" as long as there is something to do.
	Over string `json:"over,omitempty"`
	// JobState is the state of Job when this was read; "" if it is not known.
	JobState JobState `json:"-"`
}

// Open reports whether the assignment waits for a runner or runs, as far as
// messages tell.
func (j ScaleSetJob) Open() bool {
	return j.Over == "" && (j.State == ScaleSetJobAssigned || j.State == ScaleSetJobStarted)
}

// Apply folds news, received at a time, into what is known of an assignment, and
// says whether they told anything. The zero ScaleSetJob is one never heard of.
// Facts are only added and states only rise, so that messages may come twice,
// late and in any order (4-4).
func (j ScaleSetJob) Apply(news ScaleSetJob, at time.Time) (after ScaleSetJob, changed bool) {
	rises := news.State.Rank() > j.State.Rank()
	more := j.RunnerName == "" && news.RunnerName != "" || j.Result == "" && news.Result != ""
	if !rises && !more {
		return j, false
	}
	j.ID = first(j.ID, news.ID)
	j.RequestID = first(j.RequestID, news.RequestID)
	j.Repository = first(j.Repository, news.Repository)
	j.RunID = first(j.RunID, news.RunID)
	j.Name = first(j.Name, news.Name)
	j.Event = first(j.Event, news.Event)
	if len(j.Labels) == 0 {
		j.Labels = news.Labels
	}
	j.QueuedAt = first(j.QueuedAt, news.QueuedAt)
	j.AssignedAt = first(j.AssignedAt, news.AssignedAt)
	j.StartedAt = first(j.StartedAt, news.StartedAt)
	j.CompletedAt = first(j.CompletedAt, news.CompletedAt)
	j.RunnerID = first(j.RunnerID, news.RunnerID)
	j.RunnerName = first(j.RunnerName, news.RunnerName)
	j.Result = first(j.Result, news.Result)
	j.SeenAt = earlier(j.SeenAt, at)
	if rises {
		j.State, j.ChangedAt = news.State, at
	}
	return j, true
}

// ScaleSetCount is what the books say of the assignments of a scale set that are
// open.
type ScaleSetCount struct {
	// Waiting and Running are by messages, without those whose job is known to be over.
	Waiting, Running int
	// Ahead of Waiting are those whose job is known to run already.
	Ahead int
	// OverWaiting and OverRunning are those whose job is known to be over although
	// no message said so: GitHub's numbers may still have them.
	OverWaiting, OverRunning int
}

// Unnamed is how many jobs wait for a runner of a scale set beyond the queued ones
// that are known by name. What is assigned is GitHub's number or, when that is
// behind its own messages, what those add up to (ARC issue 3204: all zero while a
// job is assigned).
func (s ScaleSetStatistics) Unnamed(c ScaleSetCount, queued int) int {
	assigned := max(s.Assigned-c.OverWaiting-c.OverRunning, c.Waiting+c.Running)
	running := max(s.Running-c.OverRunning, c.Running) + c.Ahead
	return max(0, assigned-running-queued)
}

// ScaleSetReport is what is kept of a pool's scale set.
type ScaleSetReport struct {
	Statistics ScaleSetStatistics `json:"statistics"`
	// At is when the statistics last held. While a listener holds the session, of
	// whichever control plane, this is about a minute ago at most.
	At time.Time `json:"at,omitzero"`
	// WaitingSince is since when more jobs are assigned than run; zero if none are.
	WaitingSince time.Time `json:"waiting_since,omitzero"`
	// Lapsed, Missed and Unknown count assignments that ended in these ways.
	Lapsed  int64 `json:"lapsed,omitempty"`
	Missed  int64 `json:"missed,omitempty"`
	Unknown int64 `json:"unknown,omitempty"`
}

// ScaleSetState says what the listener of a scale set is doing.
type ScaleSetState string

// The states of a listener.
const (
	// ScaleSetStarting: it looks for the set, or makes it.
	ScaleSetStarting ScaleSetState = "starting"
	// ScaleSetWaiting: another session is open, that of another control plane or
	// of a process that died; GitHub ends the latter within about a minute.
	ScaleSetWaiting ScaleSetState = "waiting"
	// ScaleSetListening: it holds the session.
	ScaleSetListening ScaleSetState = "listening"
	// ScaleSetClosed: the pool takes no jobs, and so no session is held.
	ScaleSetClosed ScaleSetState = "closed"
	// ScaleSetFailing: GitHub cannot be reached or refuses; it is tried again.
	ScaleSetFailing ScaleSetState = "failing"
)

// ScaleSetStatus is how the listener of a pool's scale set stands.
type ScaleSetStatus struct {
	Pool     string
	ScaleSet string
	State    ScaleSetState
	// Since is when it entered the state.
	Since time.Time
	// Error says why it waits or fails, "" otherwise. It may be shown.
	Error string
	// Capacity is how many runners were last announced; 0 without a session.
	Capacity int
	// Statistics are those of the last message; they held still at StatisticsAt.
	Statistics   ScaleSetStatistics
	StatisticsAt time.Time
}
