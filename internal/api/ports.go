package api

import (
	"context"
	"io"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/view"
	"github.com/muster-ci/muster/internal/wire"
)

// Store is what the API reads. Errors are of the muster.Error classes or count
// as internal. Implementations are safe for concurrent use.
type Store interface {
	// Pools are the effective pools in configured order.
	Pools(ctx context.Context, workspace string) ([]muster.Pool, error)
	Pool(ctx context.Context, workspace, name string) (muster.Pool, error)
	Offering(ctx context.Context, workspace, name string) (muster.Offering, error)
	Offerings(ctx context.Context, workspace string) ([]muster.Offering, error)
	PoolSnapshot(ctx context.Context, workspace, pool string) (muster.Snapshot, error)
	// Decisions are newest first, without their snapshots.
	Decisions(ctx context.Context, workspace, pool string, limit int) ([]muster.DecisionRecord, error)
	// DecisionAt is the decision that held at a time, with its snapshot.
	DecisionAt(ctx context.Context, workspace, pool string, at time.Time) (muster.DecisionRecord, error)
	// Demand are the jobs of a pool that began to wait in [since, until), Supply the
	// runners of it that lived at some time in it, each the first first.
	Demand(ctx context.Context, workspace, pool string, since, until time.Time) ([]muster.Job, error)
	Supply(ctx context.Context, workspace, pool string, since, until time.Time) ([]muster.Runner, error)
	LastDecision(ctx context.Context, workspace, pool string) (muster.DecisionRecord, bool, error)

	// Machine is what is known of a kept machine, CodeNotFound before anything is;
	// Machines are all such. MachineDemand is what speaks for and against stopping one.
	Machine(ctx context.Context, workspace string, id muster.MachineID) (muster.Machine, error)
	Machines(ctx context.Context, workspace string) ([]muster.Machine, error)
	MachineDemand(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineDemand, error)

	// Runners are newest first.
	Runners(ctx context.Context, workspace string, f RunnerFilter) ([]muster.Runner, error)
	Runner(ctx context.Context, workspace string, id muster.RunnerID) (muster.Runner, error)
	RunnerByName(ctx context.Context, workspace, name string) (muster.Runner, error)
	// RunnerEvents are oldest first.
	RunnerEvents(ctx context.Context, workspace string, id muster.RunnerID) ([]muster.RunnerEvent, error)
	RunnerLog(ctx context.Context, workspace string, id muster.RunnerID) ([]byte, error)

	// Jobs are newest (highest id) first.
	Jobs(ctx context.Context, workspace string, f JobFilter) ([]muster.Job, error)
	Job(ctx context.Context, workspace string, key muster.JobKey) (muster.Job, error)
	// JobByID is the latest attempt.
	JobByID(ctx context.Context, workspace string, id int64) (muster.Job, error)
	JobCounts(ctx context.Context, workspace string) (map[muster.JobState]int, error)
	Sightings(ctx context.Context, workspace string, key muster.JobKey) ([]muster.Sighting, error)
	// Sensed are the jobs first heard of in [since, until) with all sightings; a
	// zero until means no end.
	Sensed(ctx context.Context, workspace string, since, until time.Time) ([]muster.SensedJob, error)
	// Ahead is how many queued jobs of the pool were queued before a time.
	Ahead(ctx context.Context, workspace, pool string, queuedBefore time.Time) (int, error)

	// Receipt is CodeNotFound until it is written.
	Receipt(ctx context.Context, workspace string, key muster.JobKey) (muster.Receipt, error)
	// Receipts and Wastes are newest first.
	Receipts(ctx context.Context, workspace string, f UsageFilter) ([]muster.Receipt, error)
	Wastes(ctx context.Context, workspace string, f UsageFilter) ([]muster.Waste, error)
	// UsageSummary adds up by "workflow", "repository", "pool" or "day".
	UsageSummary(ctx context.Context, workspace string, f UsageFilter, by string) ([]UsageRow, error)

	// SpentSince is what a project spent since a time, in millionths of a dollar.
	SpentSince(ctx context.Context, workspace, project string, since time.Time) (int64, error)

	// Deliveries are newest first, without bodies. A delivery belongs to an App,
	// not to a workspace, because it is kept before its content is believed.
	Deliveries(ctx context.Context, f DeliveryFilter) ([]muster.Delivery, error)
	Delivery(ctx context.Context, guid string) (muster.Delivery, error)

	Installations(ctx context.Context, workspace string) ([]muster.Installation, error)

	// Subscribe returns changes as they are committed; the channel is closed when
	// ctx ends or the store is closed. A slow reader misses some.
	Subscribe(ctx context.Context) <-chan muster.Change
}

// The filters. Zero fields select everything.
type (
	// RunnerFilter selects runners.
	RunnerFilter struct {
		States []muster.RunnerState
		Pool   string
		Live   bool // leaves out destroyed runners
		Limit  int
	}
	// JobFilter selects jobs.
	JobFilter struct {
		States     []muster.JobState
		Pool       string
		Repository string
		RunID      int64
		Since      time.Time // leaves out jobs that Muster first heard of before
		BeforeID   int64     // only jobs with a lower id
		Limit      int
	}
	// UsageFilter selects receipts and wastes of [Since, Until).
	UsageFilter struct {
		Since, Until time.Time
		Pool         string
		Repository   string
		Limit        int
	}
	// DeliveryFilter selects deliveries.
	DeliveryFilter struct {
		Event   string
		Outcome string // a part of the outcome's text
		Before  int64  // only deliveries with a lower Seq
		Limit   int
	}
)

// UsageRow is one line of a summary.
type UsageRow struct {
	Key                                          string
	Jobs, Succeeded, Failed, Cancelled, NeverRan int
	QueueP50, QueueP90                           time.Duration
	Run, Billed                                  time.Duration
	CostMicroUSD                                 int64
	WasteMicroUSD                                int64
	Wasted                                       int // runners that never ran a job
}

// Commands is what operators may ask for. The methods return when the wish is
// durable, not when it is fulfilled, and are safe to repeat.
type Commands interface {
	DrainRunner(ctx context.Context, workspace string, id muster.RunnerID, reason string) error
	SetPool(ctx context.Context, workspace, pool string, o muster.PoolOverride) error
	RedispatchDelivery(ctx context.Context, guid string) error
	// StartMachine and StopMachine say what a wish about a kept machine comes to.
	// Generation 0 is an operator's wish.
	StartMachine(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineAnswer, error)
	StopMachine(ctx context.Context, workspace string, id muster.MachineID, generation int64) (muster.MachineAnswer, error)
	// Healthy asks GitHub whether the runner is online; not to be known is no.
	Healthy(ctx context.Context, workspace string, id muster.RunnerID) bool
	// ProviderRefusal is the provider's last refusal to a pool in its own words
	// and when it was, "" if the provider works.
	ProviderRefusal(ctx context.Context, workspace, pool string) (text string, at time.Time)
	// CheckProvider begins a test of a provider, ProviderCheck tells how far it has come.
	CheckProvider(ctx context.Context, workspace, provider, offering string) (muster.ProviderCheck, muster.Runner, error)
	ProviderCheck(ctx context.Context, workspace string, id muster.RunnerID) (muster.ProviderCheck, muster.Runner, error)
}

// Platforms tells how the configured providers stand. It asks every platform, for a few
// seconds at the most; one that does not answer is no error.
type Platforms interface {
	Providers(ctx context.Context, workspace string) ([]muster.ProviderStatus, error)
}

// Agents is the control plane's side of the agent's protocol. Errors of the
// muster.Error classes become the statuses of statusOf.
type Agents interface {
	Boot(ctx context.Context, token string, req wire.BootRequest) (wire.BootResponse, error)
	Report(ctx context.Context, sessionToken string, r wire.Report) (wire.Answer, error)
	Log(ctx context.Context, sessionToken string, c wire.LogChunk) (wire.Answer, error)
}

// JobLogs fetches a job's log from GitHub as the job's App. The caller closes it.
type JobLogs interface {
	JobLog(ctx context.Context, app, repository string, id int64) (io.ReadCloser, error)
}

// Monitor knows how the control plane as a whole is doing. Health must be quick:
// it calls neither GitHub nor a provider.
type Monitor interface {
	Health(ctx context.Context, workspace string) (Health, error)
}

// Health is the promise in numbers, and what may still be asked of GitHub.
type Health struct {
	// JobsLost, MachinesLeaked and BusyKilled are counted from Since.
	JobsLost, MachinesLeaked, BusyKilled int
	Since                                time.Time
	Budgets                              []Budget
	// Problems are what an operator has to put right, one sentence each.
	Problems []string
}

// Budget is what one installation may still ask of GitHub.
type Budget struct {
	App, Account     string
	Limit, Remaining int
	ResetAt          time.Time
	// PerMinute is the pace of the last minutes, Forecast when the rest is used up
	// at it; zero when it lasts until ResetAt.
	PerMinute float64
	Forecast  time.Time
	// PausedUntil is set while GitHub wants no calls.
	PausedUntil time.Time
	// PollStretch is the factor by which polls are spaced out, 0 for no polls.
	PollStretch int
	// PointsThisMinute count against the secondary limit.
	PointsThisMinute int
	// Lanes are the most urgent first.
	Lanes []BudgetLane
	// Registrations are the most of any scope in the last five minutes, of at most
	// RegistrationLimit; 0 is no limit.
	Registrations, RegistrationLimit int
}

// BudgetLane is what became of the calls of one urgency.
type BudgetLane struct {
	Lane                     string
	Calls, Unchanged, Parked int64
	Waiting                  int
}

// Access knows what stands on GitHub's side between a pool and a job. Its methods
// answer "" when nothing speaks against it, and when they cannot know.
type Access interface {
	// AppProblem is what the App lacks to serve an owner, with the remedy. It calls
	// neither GitHub nor a provider.
	AppProblem(ctx context.Context, app, owner string) string
	// GroupProblem is why the pool's runner group does not serve the job. It may
	// ask GitHub, but not for long and not often.
	GroupProblem(ctx context.Context, p muster.Pool, j muster.Job) string
	// ScaleSetProblem is why the pool's scale set tells of no jobs. It calls nobody.
	ScaleSetProblem(p muster.Pool) string
}

// Traces answers questions about what jobs did. Errors are of the muster.Error classes or
// count as internal. Implementations are safe for concurrent use.
type Traces interface {
	Trace(ctx context.Context, workspace string, id muster.TraceID) (muster.Trace, error)
	// Traces are newest first.
	Traces(ctx context.Context, workspace string, f TraceFilter) ([]muster.Trace, error)
	// Views are shared: nobody changes them. CodeNotFound or CodeGone says why there are none.
	Views(ctx context.Context, workspace string, id muster.TraceID) (*view.Views, error)
	// QueryTraces yields the events for which an expression holds, of one trace or, if id
	// is zero, of all that f selects; the newest trace first.
	QueryTraces(ctx context.Context, workspace, expr string, id muster.TraceID, f TraceFilter, limit int, yield func(TraceHit) bool) (TraceStats, error)
	// ScanTraces yields, per trace that has any, events with one of the indicators in a text.
	ScanTraces(ctx context.Context, workspace, indicators string, id muster.TraceID, f TraceFilter, limit int, yield func(muster.Trace, []TraceHit) bool) (TraceStats, error)
	// TailTrace yields events after a number for which an expression ("" for all) holds, as
	// they come, until the trace is at its end. The first batch and the last may be empty.
	TailTrace(ctx context.Context, workspace string, id muster.TraceID, after uint64, expr string, yield func(muster.Trace, []trace.Event) bool) error
	// DiffTraces compares with the last good trace of the same job if against is zero.
	DiffTraces(ctx context.Context, workspace string, id, against muster.TraceID) (view.Diff, muster.Trace, muster.Trace, error)
	// TraceFindings are newest first.
	TraceFindings(ctx context.Context, workspace string, f FindingFilter) ([]TraceFinding, error)
	// ProposeEgress makes an allow list of what a pool's jobs reached since a time.
	ProposeEgress(ctx context.Context, workspace, pool string, since time.Time) (EgressProposal, error)
	// Attestation is a DSSE envelope in JSON.
	Attestation(ctx context.Context, workspace string, id muster.TraceID) (muster.Trace, []byte, error)
	VerifyTrace(ctx context.Context, workspace string, id muster.TraceID) (TraceCheck, error)
	// Baselines are those whose names contain a text and come after a name, in the order of
	// their names; BaselineOf is one of them, with its version: CodeNotFound if there is none.
	Baselines(ctx context.Context, workspace, text, after string, limit int) ([]Baseline, error)
	BaselineOf(ctx context.Context, workspace, name string) (Baseline, error)
	// AcceptBaseline takes things for expected, and returns the facts that were not accepted
	// before; ForgetBaseline has the job learnt anew. CodeConflict if the version is neither 0
	// nor that of what is there.
	AcceptBaseline(ctx context.Context, workspace, name string, a Acceptance, by detect.Act) (Baseline, []detect.Fact, error)
	ForgetBaseline(ctx context.Context, workspace, name string, version int64, by detect.Act) (Baseline, error)
	// CheckTraces checks stored traces, one if id is not zero. It yields every problem, and in
	// between, with none, how far it is.
	CheckTraces(ctx context.Context, workspace string, id muster.TraceID, f TraceFilter, yield func(*TraceProblem, TraceTally) bool) (TraceTally, error)
	// RawTrace writes the JSON Lines of a trace, or, packed, zstd frames of them; TraceBundle
	// its attestation and its segments for an offline check. ready is called before the first byte.
	RawTrace(ctx context.Context, workspace string, id muster.TraceID, packed bool, w io.Writer, ready func(muster.Trace)) error
	TraceBundle(ctx context.Context, workspace string, id muster.TraceID, w io.Writer, ready func(muster.Trace)) error
	// TraceKeys are the public keys of attestations in PEM, the one that signs first.
	TraceKeys() ([]byte, error)
}

// TraceProblem is what is wrong with a stored trace; of an orphan there is only the id.
type TraceProblem struct {
	Trace muster.Trace
	Kind  string
	Text  string
}

// TraceTally is what a check of stored traces has looked at so far, of Total.
type TraceTally struct {
	Total, Traces, Whole, Mended, Unsigned int
	Problems, Skipped                      map[string]int
	Bytes                                  int64
	Took                                   time.Duration
}

// TraceFilter selects traces. Zero fields select everything.
type TraceFilter struct {
	Job          muster.JobKey // Attempt 0 is every attempt
	Runner       muster.RunnerID
	RunID        int64
	Pool         string
	Repository   string
	Key          string // the job's key or name in the workflow
	States       []muster.TraceState
	Since, Until time.Time // of the job's start
	Limit        int
}

// FindingFilter selects findings. Zero fields select everything.
type FindingFilter struct {
	Trace        muster.TraceID
	Pool         string
	Repository   string
	Key          string
	Rule         string
	Severity     muster.Severity // the least
	Since, Until time.Time
	Limit        int
}

// TraceHit is an event and the trace that it is in; Indicator is what a scan found it by.
type TraceHit struct {
	Trace     muster.Trace
	Event     trace.Event
	Indicator string
}

// TraceStats says what a search looked at.
type TraceStats struct {
	Traces, Unindexed int
	Skipped           map[string]int
	Failed            int
	Errors            []string
	Events            int64
	Matched           int64
	Affected          int
	Limited           bool
	Took              time.Duration
}

// TraceFinding is a finding and the trace that it is of.
type TraceFinding struct {
	muster.Detection
	Of muster.Trace
	// Accepted is who said that what was new is expected, nil if nobody did.
	Accepted *detect.Act
}

// Baseline is what a job usually does, and which of its versions that is.
type Baseline struct {
	Name    string
	Version int64
	*detect.Baseline
}

// Acceptance is what somebody says is expected of a job: facts, all that is fresh, or all
// that there is. Version 0 is whatever the baseline holds now.
type Acceptance struct {
	Facts      []detect.Fact
	Fresh, All bool
	Version    int64
}

// EgressProposal is an allow list for a pool.
type EgressProposal struct {
	Policy  trace.Egress // the present one
	Entries []EgressEntry
	Unused  []string // entries of the present list that no job needed
	Traces  int
	Notes   []string
}

// EgressEntry is a line of an allow list.
type EgressEntry struct {
	Allow       string
	Hosts       []string // what it stands for, if that is more than itself
	Jobs        int
	First, Last time.Time
	Programs    []string
	Known       bool
	Warning     string // why it should be looked at twice
}

// TraceCheck is what came of reading a trace again.
type TraceCheck struct {
	Trace    muster.Trace
	Problem  string // "" if all of it holds
	KeyID    string
	Segments int
	Events   int64
}

// Observer counts calls. Called runs after every call, on its goroutine, and
// must return at once: procedure is "/muster.v1.JobService/ListJobs" or a path of
// the agent's protocol, code "ok" or one of Connect's codes, or the HTTP status.
type Observer interface {
	Called(procedure, code string, took time.Duration)
}
