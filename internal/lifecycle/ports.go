package lifecycle

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
	"github.com/muster-ci/muster/provider"
)

// Store is what this package needs of the database. Every method is one
// transaction, and errors carry a muster.Code.
type Store interface {
	KeptStore
	TraceStore

	ApplyJobEvent(ctx context.Context, workspace string, e muster.JobEvent, route func(muster.Job) string) (muster.Applied, error)
	Job(ctx context.Context, workspace string, key muster.JobKey) (muster.Job, error)
	// JobByID is the last attempt of a job.
	JobByID(ctx context.Context, workspace string, id int64) (muster.Job, error)
	// JobsOfRun are the jobs of a workflow run, all attempts.
	JobsOfRun(ctx context.Context, workspace, repository string, run int64) ([]muster.Job, error)
	// OldestQueued is when the first of a pool's queued jobs was queued; ok is false
	// if none is.
	OldestQueued(ctx context.Context, workspace, pool string) (at time.Time, ok bool, err error)
	// MoveJobs hands those of the jobs that still wait in one pool to another.
	MoveJobs(ctx context.Context, workspace, from, to string, ids []int64) (moved int, err error)

	Pool(ctx context.Context, workspace, name string) (muster.Pool, error)
	Pools(ctx context.Context, workspace string) ([]muster.Pool, error)
	SetPoolOverride(ctx context.Context, workspace, pool string, o muster.PoolOverride) error
	Offering(ctx context.Context, workspace, name string) (muster.Offering, error)
	PoolSnapshot(ctx context.Context, workspace, pool string) (muster.Snapshot, error)
	RecordDecision(ctx context.Context, d muster.DecisionRecord) (int64, error)

	Runner(ctx context.Context, workspace string, id muster.RunnerID) (muster.Runner, error)
	RunnerByName(ctx context.Context, workspace, name string) (muster.Runner, error)
	// NewestRunners returns a pool's newest runners, destroyed ones included.
	NewestRunners(ctx context.Context, workspace, pool string, limit int) ([]muster.Runner, error)
	LiveRunners(ctx context.Context) ([]muster.Runner, error)
	// AddRunner writes a runner that no decision asked for.
	AddRunner(ctx context.Context, r muster.Runner) error
	UpdateRunner(ctx context.Context, workspace string, id muster.RunnerID, at time.Time, note string, change func(*muster.Runner) error) (muster.Runner, error)
	AppendRunnerLog(ctx context.Context, workspace string, id muster.RunnerID, offset int64, data []byte) error

	SaveBootToken(ctx context.Context, t muster.BootToken) error
	UseBootToken(ctx context.Context, jti, nonce string, now time.Time, window time.Duration) (t muster.BootToken, replay bool, err error)
	PutSession(ctx context.Context, workspace string, id muster.RunnerID, tokenHash []byte) error
	RunnerBySession(ctx context.Context, tokenHash []byte) (muster.Runner, error)

	// Unreceipted returns completed jobs of pools which have no receipt, those first
	// heard of from one time until another.
	Unreceipted(ctx context.Context, workspace string, from, to time.Time, limit int) ([]muster.Job, error)
	// TriedJob counts a runner that was made for a job and did not get it.
	TriedJob(ctx context.Context, workspace string, id int64, at time.Time) error
	// SpentSince is what a project's jobs and wastes cost since a time.
	SpentSince(ctx context.Context, workspace, project string, since time.Time) (microUSD int64, err error)
	WriteReceipt(ctx context.Context, r muster.Receipt) (fresh bool, err error)
	WriteWaste(ctx context.Context, w muster.Waste) (fresh bool, err error)
	RecordFinding(ctx context.Context, f muster.Finding) error

	PutInstallation(ctx context.Context, in muster.Installation) (muster.Installation, error)
	Installation(ctx context.Context, id int64) (muster.Installation, error)
	Watermark(ctx context.Context, name string) (string, error)
	SetWatermark(ctx context.Context, name, value string) error
}

// GitHub is what this package needs of one App's client. Errors carry a
// muster.Code: exists, busy, not_found, forbidden, unavailable with RetryAfter.
type GitHub interface {
	GenerateJIT(ctx context.Context, scope muster.Scope, name string, group int64, labels muster.Labels) (muster.JIT, error)
	// GenerateScaleSetJIT registers a runner with a scale set, which has its labels
	// and its group.
	GenerateScaleSetJIT(ctx context.Context, scope muster.Scope, set, name string) (muster.JIT, error)
	// TokenRegistration is what a runner of the scope and group registers itself with.
	TokenRegistration(ctx context.Context, scope muster.Scope, group int64) (muster.TokenRegistration, error)
	RemoveRunner(ctx context.Context, scope muster.Scope, id int64) error
	Runner(ctx context.Context, scope muster.Scope, id int64) (muster.RemoteRunner, error)
	RunnerByName(ctx context.Context, scope muster.Scope, name string) (muster.RemoteRunner, error)
	Runners(ctx context.Context, scope muster.Scope) ([]muster.RemoteRunner, error)
	Downloads(ctx context.Context, scope muster.Scope) ([]muster.RunnerDownload, error)
	Job(ctx context.Context, repository string, id int64) (muster.JobEvent, error)
	// RunJobs are the jobs of a run's latest attempt.
	RunJobs(ctx context.Context, run muster.WorkflowRun) ([]muster.JobEvent, error)
	CreateCheck(ctx context.Context, repository string, c muster.Check) (int64, error)
	UpdateCheck(ctx context.Context, repository string, id int64, c muster.Check) error
	// FindCheck is the id of the check run of c's name and ExternalID at its commit, 0 if
	// there is none.
	FindCheck(ctx context.Context, repository string, c muster.Check) (int64, error)
	// Needs are the hosts and networks that runners and actions need of GitHub, asked as the
	// App at a scope; with an error, what was known last.
	Needs(ctx context.Context, scope muster.Scope) ([]string, error)
	// Forget drops what is cached about an owner whose installation changed.
	Forget(owner string)
}

// Tokens makes and checks the credentials of machines.
type Tokens interface {
	// MintBoot makes a single-use boot token for a runner.
	MintBoot(t muster.BootToken, pool string) (muster.Secret, error)
	// VerifyBoot checks signature, audience and expiry, and returns what the token says.
	VerifyBoot(token string, now time.Time) (muster.BootToken, error)
	// NewSession makes a session token and the hash that may be stored.
	NewSession() (token muster.Secret, hash []byte, err error)
	// HashSession is the hash of a session token that an agent presented.
	HashSession(token string) []byte
}

// Observer counts changes of state. Its methods return at once and are safe for
// concurrent use.
type Observer interface {
	JobAdvanced(a muster.Applied)
	JobIgnored(e muster.JobEvent, reason string)
	Decided(pool string, d muster.Decision)
	RunnerChanged(r muster.Runner)
	Launched(providerName string, err error, took time.Duration)
	Booted(r muster.Runner, err error, took time.Duration)
	// AgentReported counts a report; the phase is "" for one without a session.
	AgentReported(phase string, err error)
	Receipt(r muster.Receipt)
	Waste(w muster.Waste)
	Finding(f muster.Finding)
	// TraceSegment counts a segment that was taken or, with an error, refused.
	TraceSegment(bytes, events int, err error)
	// TraceEnded counts a trace that is recorded no more.
	TraceEnded(t muster.Trace)
	TraceAnalysed(found []muster.Detection, took time.Duration)
}

// Backend is a configured provider.
type Backend struct {
	// Provider makes the machines of a provider without zones.
	provider.Provider
	Name string
	// Zones, in the order in which they are tried, make the machines of a provider
	// that has any.
	Zones []Zone
	// ConnectTimeout is how long an agent may take to connect after launch.
	ConnectTimeout time.Duration
	// Queues says that ConnectTimeout counts from when the machine was seen to run: until
	// then it waits in the platform's own queue, for as long as that takes.
	Queues bool
	// CreateTimeout is how long one Create may take; 0 means createTimeout.
	CreateTimeout time.Duration
}

// Times are the intervals that are settings (design §7). Zero fields take their
// defaults.
type Times struct {
	Sweep       time.Duration // 120 s: compare platforms with the store
	Health      time.Duration // 120 s: compare GitHub's runners with the store (S1-110)
	SweepGrace  time.Duration // 5 min: nothing younger is touched by the sweep
	Heartbeat   time.Duration // 10 s
	AgentLost   time.Duration // 90 s without a heartbeat: ask the provider
	Poll        time.Duration // 60 s: a pool decides at least this often (S1-108)
	JobRecheck  time.Duration // 1 h: ask GitHub about a job that still runs
	JobExpired  time.Duration // 25 h: ask about one that is still queued; GitHub ends it after 24 h (4-8)
	AfterRunner time.Duration // 30 s: ask GitHub about a job whose runner has ended
	BootExpiry  time.Duration // 7 days: the longest queue time of any backend, plus margin
	BootWindow  time.Duration // 10 min: how long a boot token may be repeated with its nonce
	SealedAfter time.Duration // 2 min after the job's completion the agent must have finished
}

// WithDefaults returns t with every zero field set.
func (t Times) WithDefaults() Times {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Sweep, 120*time.Second)
	set(&t.Health, 120*time.Second)
	set(&t.SweepGrace, 5*time.Minute)
	set(&t.Heartbeat, 10*time.Second)
	set(&t.AgentLost, 90*time.Second)
	set(&t.Poll, 60*time.Second)
	set(&t.JobRecheck, time.Hour)
	set(&t.JobExpired, 25*time.Hour)
	set(&t.AfterRunner, 30*time.Second)
	set(&t.BootExpiry, 7*24*time.Hour)
	set(&t.BootWindow, 10*time.Minute)
	set(&t.SealedAfter, 2*time.Minute)
	return t
}

// Deps is everything that the activities and the client act through.
type Deps struct {
	Store  Store
	Tokens Tokens
	// GitHub by the name of the configured App.
	GitHub map[string]GitHub
	// Backends by the name of the configured provider.
	Backends map[string]Backend
	Book     usage.Book
	Times    Times
	// URL is the base URL of this control plane as machines reach it.
	URL string
	// Reach are the addresses that machines have to reach besides this control plane:
	// GitHub's.
	Reach []string
	// WebURL is the base of GitHub's pages by the name of the configured App.
	WebURL map[string]string
	// Owner tags every instance of this control plane.
	Owner string
	// TrackUnmatched stores jobs that no pool wants (C25).
	TrackUnmatched bool
	// Tracing is how traces of jobs are kept; the zero value records none.
	Tracing Tracing
	// Alarms is told the deadlines of kept machines; nil for none.
	Alarms Alarms
	// Budgets are the cost budgets of projects.
	Budgets []muster.CostBudget
	// DemandKnown says whether a pool's queue is known at a time; nil means always.
	// A pool that only polling tells of has no data while polling fails (4-27).
	DemandKnown func(ctx context.Context, p muster.Pool, now time.Time) bool
	Observer    Observer
	Now         func() time.Time
}
