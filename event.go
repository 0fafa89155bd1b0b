package muster

import "time"

// Sense is a way by which Muster learns about a job. The store keeps when each
// sense saw each job, so that what one of them missed is a number.
type Sense string

// The four senses.
const (
	SenseWebhook    Sense = "webhook"
	SenseRedelivery Sense = "redelivery"
	SensePoll       Sense = "poll"
	SenseScaleSet   Sense = "scaleset"
)

// Delivery is one webhook as it was received: the raw body and the headers
// worth keeping, before anything is believed about its content.
type Delivery struct {
	// GUID is X-GitHub-Delivery: unique per event, the same on a redelivery.
	GUID string
	// App is the name of the configured App whose secret verified the delivery.
	App string
	// Event is X-GitHub-Event.
	Event string
	// Action is the "action" member of the body; empty if it has none.
	Action string
	// Headers are the request's X-GitHub-*, X-Hub-*, User-Agent and Content-Type
	// headers (S4-8), by canonical name.
	Headers map[string]string
	// Body is the raw body, byte for byte.
	Body []byte
	// Sense is SenseRedelivery when GitHub sent it because Muster asked again.
	Sense      Sense
	ReceivedAt time.Time
	// Seq orders deliveries by arrival; the store assigns it.
	Seq int64
	// DispatchedAt is zero until the Sink took it.
	DispatchedAt time.Time
	// Outcome says in a few words what became of it: "job queued", "ignored: no
	// pool wants [ubuntu-latest]", "counted", … Empty until dispatched.
	Outcome string
	// Attempts counts how often dispatch failed; Error is the last failure's text.
	Attempts int
	Error    string
	// TraceID follows the job through every log line (S4-69).
	TraceID string
}

// JobEvent is what any sense reports about one attempt of one job. Times are
// GitHub's own; fields that GitHub leaves null are zero.
type JobEvent struct {
	// Action is queued, waiting, in_progress or completed. Poll and scale-set
	// senses set it from the state that they saw.
	Action string
	// Delivery is the GUID of the webhook, "" for other senses.
	Delivery       string
	App            string
	Sense          Sense
	ReceivedAt     time.Time
	TraceID        string
	InstallationID int64
	// Repository is owner/name.
	Repository    string
	RepositoryID  int64
	PublicRepo    bool
	ID            int64
	RunID         int64
	Attempt       int
	Workflow      string
	Name          string
	HeadBranch    string
	HeadSHA       string
	URL           string
	Status        JobState
	Conclusion    string
	Labels        Labels
	RunnerID      int64
	RunnerName    string
	RunnerGroup   string
	HasDeployment bool
	// Pool is the pool whose scale set GitHub gave the job to, "" for other senses.
	// A job that has no pool yet gets this one, whatever its labels are.
	Pool string
	// Trigger is the event that started the run ("push", "pull_request"); webhooks
	// about jobs do not carry it.
	Trigger     string
	CreatedAt   time.Time
	StartedAt   time.Time
	CompletedAt time.Time
	Steps       []Step
}

// Step is one step of a job as GitHub reports it.
type Step struct {
	Number      int       `json:"number"`
	Name        string    `json:"name"`
	Status      string    `json:"status"`
	Conclusion  string    `json:"conclusion,omitempty"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	CompletedAt time.Time `json:"completed_at,omitzero"`
}

// NotAJob reports whether the event is the completion of a check run that a
// step created: GitHub sends it as a workflow_job without labels and without a
// runner, and it must change nothing (reference: ARC issues 1370 and 2118).
func (e JobEvent) NotAJob() bool {
	return e.Action == "completed" && e.Conclusion == "success" && e.RunnerID == 0 && e.RunnerName == "" && len(e.Labels) == 0
}

// InstallationEvent is what GitHub reports about an App's installation (S4-3).
type InstallationEvent struct {
	// Action is created, deleted, suspend, unsuspend, new_permissions_accepted,
	// or added and removed for installation_repositories.
	Action     string
	Delivery   string
	App        string
	ReceivedAt time.Time
	ID         int64
	// Account is the organization's or user's login; AccountType Organization or User.
	Account     string
	AccountType string
	Added       []string
	Removed     []string
}

// Installation is one installation of one configured App (S4-40).
type Installation struct {
	ID          int64
	App         string
	Workspace   string
	Account     string
	AccountType string
	// State is active, suspended or deleted; deleted is a tombstone that late events do not lift (4-50).
	State     string
	UpdatedAt time.Time
}

// RemoteRunner is a runner as GitHub lists it.
type RemoteRunner struct {
	ID     int64
	Name   string
	Online bool
	Busy   bool
	Labels Labels
	// Ephemeral is true for JIT registrations and --ephemeral ones.
	Ephemeral bool
}

// Change tells a reader that something in the store is new: Kind is the noun
// ("job", "runner", "trace", "decision", "delivery", "usage"), ID its name. It carries no content.
type Change struct {
	Kind      string
	Workspace string
	ID        string
}
