package message

import (
	"encoding/json"
	"time"
)

// Conclusions of jobs and steps, in the words of GitHub's REST API.
const (
	Success   = "success"
	Failure   = "failure"
	Cancelled = "cancelled"
	Skipped   = "skipped"
)

// States of jobs and steps, in the words of GitHub's REST API.
const (
	Queued     = "queued"
	InProgress = "in_progress"
	Completed  = "completed"
)

// Types of broker messages.
const (
	// TypeJobRequest offers a job; the body is a JobRequest.
	TypeJobRequest = "RunnerJobRequest"
	// TypeJobCancellation ends a running job; the body is a JobCancellation.
	TypeJobCancellation = "JobCancellation"
	// TypeForceTokenRefresh asks the runner for a new access token; no body.
	TypeForceTokenRefresh = "ForceTokenRefresh"
)

// Message is one job as a runner gets it from acquirejob. Strings of Steps, Env
// and Outputs may hold ${{ }} expressions: the runner evaluates them, as the
// real one does. Expressions at the level of the job (runs-on, if, matrix,
// timeout-minutes, environment) were evaluated by the server.
type Message struct {
	// PlanID and JobID name the job towards the run service. JobID is a UUID, not
	// the number of the REST API.
	PlanID string `json:"planId"`
	JobID  string `json:"jobId"`
	// Name is the display name, as in "build (1.22, linux)".
	Name string `json:"jobDisplayName"`
	// Key is the job's key in the workflow file; GITHUB_JOB.
	Key string `json:"jobName"`
	// Token is the job's own bearer token, also github.token and GITHUB_TOKEN. It is
	// masked in logs. Empty: the runner uses its access token.
	Token string `json:"token,omitempty"`
	// Contexts are the contexts that the server knows.
	Contexts Contexts `json:"contexts"`
	// Event is the webhook payload that started the run; it becomes the file GITHUB_EVENT_PATH.
	Event json.RawMessage `json:"event,omitempty"`
	// Env are the layers of `env:` from the workflow inwards to the job.
	Env []map[string]string `json:"environmentVariables,omitempty"`
	// Defaults are defaults.run, the job's over the workflow's.
	Defaults Defaults `json:"defaults,omitzero"`
	// Steps are the job's steps in order.
	Steps []Step `json:"steps"`
	// Outputs are the job's outputs as written in the file; evaluated by the runner when the steps are done.
	Outputs map[string]string `json:"jobOutputs,omitempty"`
	// TimeoutSeconds is timeout-minutes in seconds; 0 means GitHub's default of 360 minutes.
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// Checkout is where actions/checkout finds the repository; nil means that there is nothing to check out.
	Checkout *Checkout `json:"checkout,omitempty"`
	// Masks are values that must read *** in logs, besides Token.
	Masks []string `json:"masks,omitempty"`
	// Unsupported names what the file asks for and the simulator does not do, for the job's log.
	Unsupported []string `json:"unsupported,omitempty"`
}

// Contexts are what expressions may refer to, as far as the server knows it. The
// runner adds env, job, runner and steps; secrets is always empty.
type Contexts struct {
	GitHub   map[string]any `json:"github,omitempty"`
	Needs    map[string]any `json:"needs,omitempty"`
	Matrix   map[string]any `json:"matrix,omitempty"`
	Strategy map[string]any `json:"strategy,omitempty"`
	Inputs   map[string]any `json:"inputs,omitempty"`
	Vars     map[string]any `json:"vars,omitempty"`
}

// Defaults are the values of defaults.run.
type Defaults struct {
	Shell            string `json:"shell,omitempty"`
	WorkingDirectory string `json:"workingDirectory,omitempty"`
}

// Step is one step as written in the file. Exactly one of Run and Uses is set.
type Step struct {
	ID               string            `json:"id,omitempty"`
	Name             string            `json:"displayName,omitempty"`
	If               string            `json:"condition,omitempty"`
	Run              string            `json:"run,omitempty"`
	Uses             string            `json:"uses,omitempty"`
	With             map[string]string `json:"with,omitempty"`
	Env              map[string]string `json:"environment,omitempty"`
	Shell            string            `json:"shell,omitempty"`
	WorkingDirectory string            `json:"workingDirectory,omitempty"`
	// ContinueOnError and TimeoutMinutes are a literal or an expression; empty means false and none.
	ContinueOnError string `json:"continueOnError,omitempty"`
	TimeoutMinutes  string `json:"timeoutInMinutes,omitempty"`
}

// Checkout says where a job's repository is.
type Checkout struct {
	// URL answers a tar.gz of the repository at the job's commit to a GET with the job's token.
	URL string `json:"url"`
}

// StepResult is the state of one step as the runner reports it. Number counts
// from 1, which is "Set up job".
type StepResult struct {
	ExternalID  string    `json:"external_id"`
	Number      int       `json:"number"`
	Name        string    `json:"name"`
	Status      string    `json:"status"`
	Conclusion  string    `json:"conclusion,omitempty"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	CompletedAt time.Time `json:"completed_at,omitzero"`
}

// Annotation is a notice, warning or error of a job, from a workflow command or from the runner itself.
type Annotation struct {
	Level     string `json:"level"` // "notice", "warning", "failure"
	Message   string `json:"message"`
	Title     string `json:"title,omitempty"`
	Path      string `json:"path,omitempty"`
	StartLine int    `json:"startLine,omitempty"`
	Step      int    `json:"stepNumber,omitempty"`
}

// Agent describes a runner to the broker.
type Agent struct {
	ID            int64  `json:"id"`
	Name          string `json:"name"`
	Version       string `json:"version"`
	OSDescription string `json:"osDescription"`
}

// Session is both the request for a session and its answer.
type Session struct {
	SessionID string `json:"sessionId"`
	OwnerName string `json:"ownerName"`
	Agent     Agent  `json:"agent"`
}

// Broker is one message of the long poll. Body is JSON in a string.
type Broker struct {
	MessageID   int64  `json:"messageId"`
	MessageType string `json:"messageType"`
	Body        string `json:"body"`
}

// JobRequest offers a job to a runner.
type JobRequest struct {
	ID                string `json:"id,omitempty"`
	RunnerRequestID   string `json:"runner_request_id"`
	ShouldAcknowledge bool   `json:"should_acknowledge,omitempty"`
	RunServiceURL     string `json:"run_service_url"`
	BillingOwnerID    string `json:"billing_owner_id,omitempty"`
}

// JobCancellation asks a runner to end the job with that id.
type JobCancellation struct {
	JobID   string `json:"jobId"`
	Timeout string `json:"timeout,omitempty"` // hh:mm:ss, how long until the server stops waiting
}

// AcquireRequest claims the offered job; JobMessageID is the JobRequest's RunnerRequestID.
type AcquireRequest struct {
	JobMessageID   string `json:"jobMessageId"`
	RunnerOS       string `json:"runnerOS,omitempty"`
	BillingOwnerID string `json:"billingOwnerId,omitempty"`
}

// RenewRequest keeps the lease of a running job.
type RenewRequest struct {
	PlanID string `json:"planId"`
	JobID  string `json:"jobId"`
}

// RenewAnswer says until when the lease holds.
type RenewAnswer struct {
	LockedUntil time.Time `json:"lockedUntil"`
}

// StepsRequest reports progress: all steps known so far.
type StepsRequest struct {
	PlanID string       `json:"planId"`
	JobID  string       `json:"jobId"`
	Steps  []StepResult `json:"steps"`
}

// LogRequest appends to the job's log. Offset is the number of bytes before Data;
// a request that was repeated after a lost answer may begin before the end of
// what the server has, which keeps what it has and appends only the rest. Data is whole lines, each with GitHub's
// timestamp prefix.
type LogRequest struct {
	PlanID string `json:"planId"`
	JobID  string `json:"jobId"`
	Offset int64  `json:"offset"`
	Data   string `json:"data"`
}

// Reasons of a cancelled job.
const (
	// ReasonServer is a JobCancellation.
	ReasonServer = "server"
	// ReasonTimeout is the job's own time limit, which the runner watches.
	ReasonTimeout = "timeout"
	// ReasonShutdown is a runner that was told to stop while it ran the job.
	ReasonShutdown = "shutdown"
)

// CompleteRequest ends a job. Conclusion is success, failure or cancelled; for
// the last, Reason says who wanted it.
type CompleteRequest struct {
	PlanID      string            `json:"planId"`
	JobID       string            `json:"jobId"`
	Conclusion  string            `json:"conclusion"`
	Reason      string            `json:"reason,omitempty"`
	Outputs     map[string]string `json:"outputs,omitempty"`
	StepResults []StepResult      `json:"stepResults"`
	Annotations []Annotation      `json:"annotations,omitempty"`
	Summary     string            `json:"stepSummary,omitempty"`
}

// ServiceError is the body of an error of the broker and of the run service.
type ServiceError struct {
	Source       string `json:"source"` // "actions-broker-listener" or "actions-run-service"
	ErrorKind    string `json:"errorKind,omitempty"`
	StatusCode   int    `json:"statusCode"`
	ErrorMessage string `json:"errorMessage"`
}

// Kinds of ServiceError that a runner acts upon.
const (
	KindRunnerNotFound       = "RunnerNotFound"
	KindRunnerVersionTooOld  = "RunnerVersionTooOld"
	KindRunnerSessionInvalid = "RunnerSessionInvalid"
)

// RegistrationRequest trades a registration or removal token for access to the
// actions service. Event is "register" or "remove".
type RegistrationRequest struct {
	URL   string `json:"url"`
	Event string `json:"runner_event"`
}

// Registration is the answer to RegistrationRequest.
type Registration struct {
	URL         string `json:"url"`
	Token       string `json:"token"`
	TokenSchema string `json:"token_schema,omitempty"`
	UseV2Flow   bool   `json:"use_v2_flow"`
}

// RegisterRequest registers a runner from config.sh. The server gives the
// runner the labels as they are sent: config.sh itself adds self-hosted, the
// operating system and the architecture unless --no-default-labels.
type RegisterRequest struct {
	URL             string    `json:"url"`
	Group           string    `json:"group_name,omitempty"` // empty: the default group
	Name            string    `json:"name"`
	Version         string    `json:"version"`
	UpdatesDisabled bool      `json:"updates_disabled"`
	Ephemeral       bool      `json:"ephemeral"`
	Replace         bool      `json:"replace"`
	Labels          []string  `json:"labels"`
	PublicKey       PublicKey `json:"public_key"`
}

// PublicKey is an RSA public key, both parts base64 of the big-endian bytes.
type PublicKey struct {
	Modulus  string `json:"modulus"`
	Exponent string `json:"exponent"`
}

// RegisterAnswer is the registered runner. A taken name is 409 unless Replace.
type RegisterAnswer struct {
	ID            int64         `json:"id"`
	Name          string        `json:"name"`
	Authorization Authorization `json:"authorization"`
}

// Authorization says how a registered runner gets its access token and where its broker is.
type Authorization struct {
	AuthorizationURL string `json:"authorization_url"`
	ServerURL        string `json:"server_url"` // becomes ServerUrlV2; ends with a slash
	ClientID         string `json:"client_id"`
}

// TokenAnswer is the answer of the authorization URL.
type TokenAnswer struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int64  `json:"expires_in"` // seconds
	TokenType   string `json:"token_type"`
}

// OAuthError is the 400 answer of the authorization URL; "invalid_client" means
// that the registration is gone.
type OAuthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// Settings is the file .runner, a key of the JIT blob.
type Settings struct {
	AgentID       int64  `json:"AgentId"`
	AgentName     string `json:"AgentName"`
	PoolID        int64  `json:"PoolId,omitempty"`
	PoolName      string `json:"PoolName,omitempty"`
	DisableUpdate bool   `json:"DisableUpdate,omitempty"`
	Ephemeral     bool   `json:"Ephemeral,omitempty"`
	GitHubURL     string `json:"GitHubUrl"`
	ServerURL     string `json:"ServerUrl"`
	WorkFolder    string `json:"WorkFolder"`
	UseV2Flow     bool   `json:"UseV2Flow,omitempty"`
	ServerURLV2   string `json:"ServerUrlV2,omitempty"`
}

// Credentials is the file .credentials, a key of the JIT blob. Data holds
// clientId and authorizationUrl, all values are strings.
type Credentials struct {
	Scheme string            `json:"Scheme"` // "OAuth"
	Data   map[string]string `json:"Data"`
}

// RSAParams is the file .credentials_rsaparams, a key of the JIT blob: an RSA
// key, each part base64 of its big-endian bytes.
type RSAParams struct {
	D        string `json:"d"`
	DP       string `json:"dp"`
	DQ       string `json:"dq"`
	Exponent string `json:"exponent"`
	InverseQ string `json:"inverseQ"`
	Modulus  string `json:"modulus"`
	P        string `json:"p"`
	Q        string `json:"q"`
}

// Names of the files in a JIT blob.
const (
	FileSettings    = ".runner"
	FileCredentials = ".credentials"
	FileRSAParams   = ".credentials_rsaparams"
)
