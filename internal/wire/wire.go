// Package wire is what the agent and the control plane say to each other: JSON
// over HTTP, five routes: three here and two for traces. It holds shapes and nothing else, and imports the
// standard library and internal/trace only, so that the agent stays small.
//
//	POST /v1/agent/boot    Authorization: Bearer BOOT-TOKEN     BootRequest → BootResponse
//	POST /v1/agent/report  Authorization: Bearer SESSION-TOKEN  Report      → Answer
//	POST /v1/agent/log     Authorization: Bearer SESSION-TOKEN  LogChunk    → Answer
//
// Refusals of all three carry an Error body: 401 for a token that is malformed,
// forged or expired; 403 for one that is genuine and belongs elsewhere (another
// runner, audience or control plane); 409 for one that was used; 410 when the
// runner is no longer needed, upon which the agent ends cleanly; 429 and 503 with
// Retry-After when the agent should ask again (4-10). Never 500 for anything that
// the caller sent.
package wire

import (
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// Routes of the agent's protocol.
const (
	BootPath   = "/v1/agent/boot"
	ReportPath = "/v1/agent/report"
	LogPath    = "/v1/agent/log"
)

// BootRequest is what an agent says of itself when it is ready to listen.
type BootRequest struct {
	// Nonce is chosen once per agent process. A boot token that was used may be
	// presented again with the same nonce for a short while, because the first
	// answer may have been lost; with another nonce it is refused (409).
	Nonce        string `json:"nonce"`
	AgentVersion string `json:"agent_version"`
	OS           string `json:"os"`
	Arch         string `json:"arch"`
	Hostname     string `json:"hostname"`
	// Download asks for the address of GitHub's official runner.
	Download bool `json:"download,omitempty"`
}

// BootResponse is all that an agent needs to run one runner, which is registered
// already (JITConfig) or registers itself (Registration), or to look around (Check): one
// of the three is set.
// JITConfig, Registration.Token and SessionToken are secrets: never logged, never
// passed as an argument where the runner takes it another way.
type BootResponse struct {
	Runner       string `json:"runner"`
	Name         string `json:"name"`
	SessionToken string `json:"session_token"`
	// JITConfig is the encoded just-in-time configuration for run.sh.
	JITConfig string `json:"jit_config,omitempty"`
	// Registration is what config.sh registers the runner with.
	Registration *Registration `json:"registration,omitempty"`
	// Check asks the agent to look around in its machine, to report what it sees, and
	// to leave, instead of running a runner.
	Check *Check `json:"check,omitempty"`
	// NoJobSeconds is how long the runner may listen without a job before the
	// agent ends it; 0 means for ever. It counts from "Listening for Jobs" (4-43).
	NoJobSeconds int `json:"no_job_seconds"`
	// HeartbeatSeconds is the interval between heartbeats.
	HeartbeatSeconds int `json:"heartbeat_seconds"`
	// MaxSeconds is the longest that the runner may live; 0 means no limit.
	MaxSeconds int `json:"max_seconds"`
	// Download tells where the official runner is, when the pool asks the agent to fetch it.
	Download *Download `json:"download,omitempty"`
	// Trace tells the agent to record what the job does; nil means not to.
	Trace *TraceSettings `json:"trace,omitempty"`
}

// Registration is how a runner registers itself with config.sh, under the name of
// the BootResponse.
type Registration struct {
	// URL is the page of the repository, organization or enterprise.
	URL string `json:"url"`
	// Token is good for an hour and for any number of runners, so it is used at
	// once and kept nowhere.
	Token string `json:"token"`
	// Labels are all that the runner gets; GitHub's usual ones are not added.
	Labels []string `json:"labels"`
	// RunnerGroup is a group's name, "" for the default one.
	RunnerGroup string `json:"runner_group,omitempty"`
	// Ephemeral runners have one job.
	Ephemeral bool `json:"ephemeral"`
}

// Check is what an agent is to look at when a provider is tested.
type Check struct {
	// Now is the control plane's clock when it answered.
	Now time.Time `json:"now"`
	// Reach are addresses that a runner on the machine has to reach: GitHub's.
	Reach []string `json:"reach,omitempty"`
	// CPUs, MemoryMiB and GPUs are what was asked for; 0 is whatever there is.
	CPUs      float64 `json:"cpus,omitempty"`
	MemoryMiB int64   `json:"memory_mib,omitempty"`
	GPUs      int     `json:"gpus,omitempty"`
}

// CheckStep is one thing that an agent looked at.
type CheckStep struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Millis int64  `json:"millis"`
	Detail string `json:"detail,omitempty"`
}

// Download is one archive of the official runner, from GitHub's downloads route.
type Download struct {
	URL      string `json:"url"`
	Filename string `json:"filename"`
	// SHA256 is the archive's checksum in hex; the agent refuses an archive that
	// has none or differs.
	SHA256 string `json:"sha256"`
}

// Phase is what a report is about.
type Phase string

// The phases, in the order in which a runner goes through them. PhaseHeartbeat
// may come at any time.
const (
	PhaseStarted   Phase = "started"   // run.sh was started
	PhaseListening Phase = "listening" // it printed "Listening for Jobs"
	PhaseRunning   Phase = "running"   // it printed "Running job: …"
	PhaseFinished  Phase = "finished"  // it ended, and its whole process group with it
	PhaseHeartbeat Phase = "heartbeat"
)

// Report is one word from the agent. Reports may be repeated; Seq orders them.
type Report struct {
	Seq   int       `json:"seq"`
	Phase Phase     `json:"phase"`
	At    time.Time `json:"at"`
	// JobName is the display name that "Running job: …" showed.
	JobName string `json:"job_name,omitempty"`
	// Job is what the runner itself knows of the job; nil until it is known.
	Job *trace.Job `json:"job,omitempty"`
	// Busy is whether a job runs now, as far as the agent can tell.
	Busy bool `json:"busy"`
	// Result is GitHub's word in "completed with result: …", if it was printed.
	Result string `json:"result,omitempty"`
	// ExitCode and Reason are set with PhaseFinished. Reason is one of "job
	// finished", "no job within N", "told to drain", "told to stop", "maximum age",
	// "runner ended without a job", "runner failed: …", "check passed", "check failed: …".
	ExitCode int    `json:"exit_code,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Check is what was seen, with PhaseFinished of an agent that was asked to look around.
	Check []CheckStep `json:"check,omitempty"`
}

// Command is what the control plane wants of the agent.
type Command string

// The commands. The agent refuses CommandDrain while a job runs and says so by
// Busy in its next report; CommandStop ends the runner whatever it does.
const (
	CommandNone  Command = ""
	CommandDrain Command = "drain"
	CommandStop  Command = "stop"
)

// Answer is the control plane's reply to a report.
type Answer struct {
	Command Command `json:"command,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// LogChunk is a piece of the runner's own output. Offset is the position of its
// first byte, so that a repeated chunk is recognized.
type LogChunk struct {
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"`
}

// Error is the body of every refusal.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}
