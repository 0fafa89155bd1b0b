package muster

import "time"

// Applied is what became of a JobEvent in the store.
type Applied struct {
	Job    Job
	Change JobChange
	// Before is the state before the event, "" for a job never heard of.
	Before JobState
	// Runner is our runner that the job runs or ran on, "" if none.
	Runner RunnerID
	// Stolen is set when the job took a runner of a pool that it was not routed to.
	Stolen bool
}

// Sighting is the first time that a sense saw a job in a state.
type Sighting struct {
	Sense    Sense
	State    JobState
	At       time.Time
	Delivery string
}

// SensedJob is a job with everything that any sense saw of it, oldest first.
// QueuedAt, StartedAt and CompletedAt are zero if they are not known.
type SensedJob struct {
	Key                              JobKey
	App                              string
	Pool                             string
	SeenAt                           time.Time
	QueuedAt, StartedAt, CompletedAt time.Time
	Sightings                        []Sighting
}

// DecisionRecord is a decision with its inputs, as kept for explanation and replay.
type DecisionRecord struct {
	ID        int64
	Workspace string
	Pool      string
	At        time.Time
	Snapshot  Snapshot
	Decision  Decision
	// Runners are the rows that the decision made.
	Runners []Runner
	// Count is how many consecutive decisions of the same kind were folded into
	// this record; LastAt is when the last of them was taken.
	Count  int
	LastAt time.Time
}

// RunnerEvent is one line of a runner's history.
type RunnerEvent struct {
	At    time.Time
	State RunnerState
	Note  string
}

// BootToken is what the control plane remembers of a boot token: never the token.
type BootToken struct {
	JTI       string
	Runner    RunnerID
	Workspace string
	ExpiresAt time.Time
	// Build is what the machine is launched for.
	Build BuildRequest
}

// BuildRequest says what a machine is asked for: the job that made Muster want it,
// and where its runner will register. GitHub may give the runner another job of that
// place, so that GitHubURL, and not the repository, says whose code may run (4-1).
type BuildRequest struct {
	// Owner and Repository name the job's repository; Repository is without the owner
	// and "" when the machine is for no job, as those of a pool's floor are.
	Owner      string
	Repository string
	// RepositoryURL is the page of the repository, "" without one.
	RepositoryURL string
	// GitHubURL is the page of the repository, organization or enterprise that the
	// runner registers with.
	GitHubURL string
	// Labels are those that the job asks for, joined by commas.
	Labels string
	// Job is the id of the job, 0 for none.
	Job int64
}

// Finding is something that the sweep found and put right, or an accident that
// must be counted. Kind is "leaked_instance", "ghost_registration",
// "lost_runner", "busy_killed" or "job_expired".
type Finding struct {
	At        time.Time
	Workspace string
	Kind      string
	Subject   string
	Action    string
}
