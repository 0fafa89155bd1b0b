package wire

import "time"

// Routes of the Slurm gateway. Every request carries the header AuthToken, and every
// refusal is a GatewayError with the status of its class.
//
//	POST   /runner/start              StartRequest → GatewayInstance, operation launchWorker
//	GET    /runner/jobs?owner=O       → GatewayList
//	GET    /runner/jobs/RUNNER?owner=O    → GatewayInstance
//	DELETE /runner/jobs/RUNNER?owner=O    202: asked; 404: proven gone
const (
	RunnerStartPath = "/runner/start"
	RunnerJobsPath  = "/runner/jobs"
	// GatewayPrefix is where the routes are as well when another service of the same
	// process has a /runner/start of its own (C12).
	GatewayPrefix = "/slurm"
	// AuthToken is the header with the secret that the control plane and the gateway share.
	AuthToken = "auth-token"
	// GHARunnerPath is where a node trades its launch token for a registration token.
	GHARunnerPath = "/gha/runner"
	// LaunchKeysPath publishes the keys that launch tokens are signed with.
	LaunchKeysPath = "/gha/keys"
	// SlurmJobHeader names the Slurm job that a launch token is presented by.
	SlurmJobHeader = "Slurm-Job-Id"
)

// StartRequest asks the gateway for a Slurm job that runs one runner. The first four
// members are all that a launch needs; the gateway takes who may run what from the
// token alone.
type StartRequest struct {
	// GitHubURL is where the runner registers; it must be the one in the token.
	GitHubURL     string `json:"gitHubURL"`
	LauncherToken string `json:"launcherToken"`
	// RunnerLabels are joined by commas.
	RunnerLabels string `json:"runnerLabels"`
	// TokenURL is where the node trades the token, below the control plane's address.
	TokenURL string `json:"tokenURL"`

	// Owner is the control plane's own name. What follows sizes the job.
	Owner     string  `json:"owner"`
	Workspace string  `json:"workspace,omitempty"`
	Pool      string  `json:"pool,omitempty"`
	CPUs      float64 `json:"cpus,omitempty"`
	MemoryMiB int64   `json:"memoryMiB,omitempty"`
	GPUs      int     `json:"gpus,omitempty"`
	// MaxMilliseconds is the longest that the runner may live; 0 means no limit.
	MaxMilliseconds int64  `json:"maxMilliseconds,omitempty"`
	TraceID         string `json:"traceID,omitempty"`
}

// GatewayInstance is a Slurm job of a runner.
type GatewayInstance struct {
	// Status is "OK!".
	Status    string    `json:"status,omitempty"`
	JobID     string    `json:"job_id"`
	Runner    string    `json:"runner"`
	State     string    `json:"state"`
	Detail    string    `json:"detail,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// GatewayList is every Slurm job of one owner that still runs, waits, or was not
// yet seen to have ended.
type GatewayList struct {
	Jobs []GatewayInstance `json:"jobs"`
}

// GatewayError is the body of a refusal. Class is one of "invalid", "unauthenticated",
// "forbidden", "not_found", "conflict", "capacity", "quota", "transient".
type GatewayError struct {
	Class   string `json:"class"`
	Message string `json:"message"`
	// Detail is why a job is gone, where Slurm ended it by itself.
	Detail string `json:"detail,omitempty"`
}

// GHARunner answers a node that registers its runner itself. Token is the
// registration token; the rest is what config.sh has to be given with it.
type GHARunner struct {
	Token     string `json:"token"`
	URL       string `json:"url"`
	Name      string `json:"name"`
	Labels    string `json:"labels"`
	Group     string `json:"runner_group,omitempty"`
	Ephemeral bool   `json:"ephemeral"`
	// NoJobSeconds is how long the runner may listen without a job.
	NoJobSeconds int `json:"no_job_seconds"`
}
