package muster

import "time"

// JIT is a just-in-time registration: GitHub has made the runner already, and
// Config lets one process be it, once.
type JIT struct {
	RunnerID int64
	Name     string
	// Config is the encoded configuration for run.sh. It holds a private key.
	Config Secret
}

// HookDelivery is one attempt of GitHub to deliver one webhook of an App, as
// GitHub's own list shows it.
type HookDelivery struct {
	// ID names the attempt, GUID the event: every attempt has the same GUID.
	ID     int64
	GUID   string
	Event  string
	Action string
	// Status is GitHub's text, "OK" for an attempt that succeeded.
	Status string
	// StatusCode is what was answered, 0 when nothing was.
	StatusCode  int
	DeliveredAt time.Time
	// Redelivery is true for an attempt that somebody asked for.
	Redelivery bool
}

// Succeeded reports whether the attempt was answered with a 2xx or 3xx status,
// as GitHub counts success.
func (d HookDelivery) Succeeded() bool {
	return d.Status == "OK" || d.StatusCode >= 200 && d.StatusCode < 400
}

// TokenRegistration is what a runner registers itself with (registration: token).
type TokenRegistration struct {
	// URL is the page of the repository, organization or enterprise.
	URL string
	// Token serves any number of runners until ExpiresAt. It is used at once, for
	// one runner, and never stored (S1-100).
	Token     Secret
	ExpiresAt time.Time
	// Group is the runner group's name, "" for the default one.
	Group string
}

// RunnerDownload is one archive of the official runner.
type RunnerDownload struct {
	// OS is linux, osx or win; Arch x64, arm or arm64, in GitHub's spelling.
	OS       string
	Arch     string
	URL      string
	Filename string
	// SHA256 is in hex; "" when GitHub gives none, and then the archive must not be trusted.
	SHA256 string
}

// Check is a check run on a commit, by which a pool reports on a job (S0-8).
type Check struct {
	Name    string
	HeadSHA string
	// Status is queued, in_progress or completed; Conclusion is set with completed only.
	Status     string
	Conclusion string
	Title      string
	Summary    string
	// ExternalID is our own name of what the check reports on.
	ExternalID string
	// DetailsURL is the page that tells more, "" for none.
	DetailsURL string
}

// WorkflowRun is a run of a workflow as GitHub lists it.
type WorkflowRun struct {
	ID      int64
	Attempt int
	// Repository is owner/name.
	Repository   string
	RepositoryID int64
	PublicRepo   bool
	// Status is GitHub's own word, such as queued or in_progress.
	Status string
	// Trigger is the event that started the run ("push").
	Trigger    string
	Workflow   string
	HeadBranch string
	HeadSHA    string
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// RemoteRepository is a repository as GitHub lists it.
type RemoteRepository struct {
	// Name is owner/name.
	Name   string
	Public bool
	// PushedAt is when somebody last pushed to it; zero if nobody has.
	PushedAt time.Time
}
