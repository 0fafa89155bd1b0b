package web

import (
	"context"
	"io"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/view"
)

// Reads is everything that the dashboard asks about. An implementation is bound
// to one workspace. Every method may be called concurrently and returns errors
// of package muster; CodeNotFound becomes a page that says so.
type Reads interface {
	JobReads
	RunnerReads
	PoolReads
	DeliveryReads
	BookReads
	// Health is the state of what Muster stands on. It is read on every view of
	// the overview, so it must not call GitHub or a provider.
	Health(ctx context.Context) (Health, error)
	// Providers are the configured providers as they were last found; it calls none.
	Providers(ctx context.Context) ([]muster.ProviderStatus, error)
}

// JobReads are the questions about jobs.
type JobReads interface {
	// JobCounts is how many jobs are in each state.
	JobCounts(ctx context.Context) (map[muster.JobState]int, error)
	// Jobs are the jobs that match q, newest (highest id) first, at most q.Limit.
	Jobs(ctx context.Context, q JobQuery) ([]muster.Job, error)
	// Job is one attempt of one job; Attempt 0 means the latest.
	Job(ctx context.Context, key muster.JobKey) (muster.Job, error)
	// Sightings say when each sense first saw the job in each state, oldest first.
	Sightings(ctx context.Context, key muster.JobKey) ([]Sighting, error)
	// Explain is muster.Explain over the job's present situation: the ranked
	// causes of its wait, most important first. It is asked only for jobs that
	// have not started.
	Explain(ctx context.Context, key muster.JobKey) ([]muster.Cause, error)
}

// RunnerReads are the questions about runners.
type RunnerReads interface {
	// Runners are the runners that match q, newest first, at most q.Limit.
	Runners(ctx context.Context, q RunnerQuery) ([]muster.Runner, error)
	Runner(ctx context.Context, id muster.RunnerID) (muster.Runner, error)
	// RunnerEvents are the runner's changes of state and notes, oldest first.
	RunnerEvents(ctx context.Context, id muster.RunnerID) ([]RunnerEvent, error)
	// RunnerLog is what the runner's agent sent of the runner's output; empty if nothing.
	RunnerLog(ctx context.Context, id muster.RunnerID) ([]byte, error)
}

// PoolReads are the questions about pools and what was decided for them.
type PoolReads interface {
	// Pools are the effective pools in configured order.
	Pools(ctx context.Context) ([]PoolView, error)
	// PoolSnapshot is what the next decision about the pool would be taken from.
	PoolSnapshot(ctx context.Context, pool string) (muster.Snapshot, error)
	// Decisions are the pool's decisions, newest first; pool "" means all pools.
	// They may be without their snapshots.
	Decisions(ctx context.Context, pool string, limit int) ([]DecisionRecord, error)
	// Machine is a kept machine as it is known; one that nothing was ever written
	// about has its name and pools only.
	Machine(ctx context.Context, id muster.MachineID) (MachineView, error)
	// Decision is one decision with its snapshot.
	Decision(ctx context.Context, id int64) (DecisionRecord, error)
}

// DeliveryReads are the questions about webhooks.
type DeliveryReads interface {
	// Deliveries are the deliveries that match q, newest first, without bodies.
	Deliveries(ctx context.Context, q DeliveryQuery) ([]muster.Delivery, error)
	// Delivery is one delivery with its body.
	Delivery(ctx context.Context, guid string) (muster.Delivery, error)
}

// BookReads are the questions about what jobs cost and what the sweep found.
type BookReads interface {
	// Receipt is the receipt of one attempt; CodeNotFound until it is written.
	Receipt(ctx context.Context, key muster.JobKey) (muster.Receipt, error)
	// Receipts are those of jobs completed in [since, until), in any order, at
	// most limit, the latest if there are more.
	Receipts(ctx context.Context, since, until time.Time, limit int) ([]muster.Receipt, error)
	// Usage sums the receipts and wastes of q by "workflow", "repository", "pool"
	// or "day" (Key is then YYYY-MM-DD in UTC), in any order.
	Usage(ctx context.Context, q UsageQuery, by string) ([]UsageRow, error)
	// Wastes are those of runners that ended in [since, until), in any order, at
	// most limit.
	Wastes(ctx context.Context, since, until time.Time, limit int) ([]muster.Waste, error)
	// Spendings are the projects that have a budget and how they stand this month.
	Spendings(ctx context.Context) ([]ProjectSpending, error)
	// Sensed are the jobs first heard of in [since, until) with all sightings.
	Sensed(ctx context.Context, since, until time.Time) ([]muster.SensedJob, error)
	// Findings are what the sweep found, newest first.
	Findings(ctx context.Context, limit int) ([]Finding, error)
}

// Commands are what an operator may ask for. They return when the wish is
// durable, not when it is fulfilled; they are safe to repeat.
type Commands interface {
	// DrainRunner sends a runner home: an idle one at once, a busy one after its job.
	DrainRunner(ctx context.Context, id muster.RunnerID, reason string) error
	// SetPool changes a pool over its configuration and has it decided anew.
	SetPool(ctx context.Context, pool string, o muster.PoolOverride) error
	// NudgePool has the pool decided anew.
	NudgePool(ctx context.Context, pool string) error
	// StartMachine and StopMachine say what a wish about a kept machine comes to; a
	// busy one is stopped as soon as it is idle.
	StartMachine(ctx context.Context, id muster.MachineID) (muster.MachineAnswer, error)
	StopMachine(ctx context.Context, id muster.MachineID) (muster.MachineAnswer, error)
	// CheckProvider begins a test of a provider with a machine of its own.
	CheckProvider(ctx context.Context, name string) error
	// RedispatchDelivery acts on a stored delivery once more; repeats are harmless.
	RedispatchDelivery(ctx context.Context, guid string) error
	// AcceptBaseline takes things that a job does for expected, ResetBaseline has it learnt
	// anew. CodeConflict if the baseline has another version than the one that was looked at.
	AcceptBaseline(ctx context.Context, name string, a Acceptance) error
	ResetBaseline(ctx context.Context, name, reason string) error
}

// Acceptance is what an operator says is expected of a job: facts, or all that is known of
// it. Version 0 is whatever is known now.
type Acceptance struct {
	Facts   []detect.Fact
	All     bool
	Version int64
	Reason  string
}

// JobLogs fetches a job's log from GitHub. The caller closes it.
type JobLogs interface {
	JobLog(ctx context.Context, repository string, id int64) (io.ReadCloser, error)
}

// JobQuery selects jobs. Zero fields select everything.
type JobQuery struct {
	States     []muster.JobState
	Pool       string
	Repository string // owner/name, case ignored
	RunID      int64
	// Text is looked for, ignoring case, in the job's name, workflow, branch,
	// repository, runner name, labels, conclusion and id.
	Text string
	// Before is the id after which to go on, exclusive; 0 means from the newest.
	Before int64
	Limit  int
}

// RunnerQuery selects runners. Zero fields select everything.
type RunnerQuery struct {
	// IDs, when not empty, are the only runners wanted; unknown ones are left out.
	IDs    []muster.RunnerID
	States []muster.RunnerState
	Pool   string
	// Live leaves out destroyed runners.
	Live  bool
	Limit int
}

// DeliveryQuery selects deliveries. Zero fields select everything.
type DeliveryQuery struct {
	Event   string
	Outcome string // a part of the outcome's text
	// Before is the sequence number after which to go on, exclusive; 0 means from the newest.
	Before int64
	Limit  int
}

// UsageQuery selects receipts and wastes of the time [Since, Until).
type UsageQuery struct {
	Since, Until time.Time
	Pool         string
	Repository   string
}

// Sighting is muster.Sighting.
type Sighting = muster.Sighting

// RunnerEvent is muster.RunnerEvent.
type RunnerEvent = muster.RunnerEvent

// DecisionRecord is muster.DecisionRecord; Runners may be empty.
type DecisionRecord = muster.DecisionRecord

// UsageRow is the sum over one workflow, repository, pool or day.
type UsageRow struct {
	Key                                          string
	Jobs, Succeeded, Failed, Cancelled, NeverRan int
	QueueP50, QueueP90                           time.Duration
	Run, Billed                                  time.Duration
	CostMicroUSD, WasteMicroUSD                  int64
	Wasted                                       int // runners that never ran a job
}

// Finding is muster.Finding.
type Finding = muster.Finding

// PoolView is an effective pool, the offering it runs on (zero if unknown), and
// whether an operator changed it over its configuration.
type PoolView struct {
	muster.Pool
	Offer      muster.Offering
	Overridden bool
}

// MachineView is a kept machine and what speaks for and against stopping it.
type MachineView struct {
	muster.Machine
	Demand muster.MachineDemand
}

// Health is the state of what Muster stands on.
type Health struct {
	// JobsLost, RunnersLeaked and BusyKilled are the promise in numbers, counted
	// from Since: jobs that GitHub queued and nobody acted upon, machines that
	// outlived their runner beyond the grace period, runners destroyed while they
	// ran a job. Jobs is how many jobs completed in that time.
	JobsLost, RunnersLeaked, BusyKilled int
	Jobs                                int
	Since                               time.Time
	// Problems are what an operator has to put right, one sentence each, with its
	// remedy: permissions that an App lacks.
	Problems  []string
	Providers []ProviderHealth
	Budgets   []Budget
}

// ProviderHealth is how a provider answered last.
type ProviderHealth struct {
	Name, Kind string
	OK         bool
	// Detail says what is wrong or, if nothing is, what it runs on.
	Detail string
	// Instances is how many machines it has; Max its limit, 0 if it has none.
	Instances, Max int
	CheckedAt      time.Time
}

// Budget is what an installation may still ask of GitHub. A Limit of 0 means that
// GitHub has named none.
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
	// Lanes are the most urgent first.
	Lanes []BudgetLane
}

// BudgetLane is what became of the calls of one urgency: made, and not made so
// that others could be.
type BudgetLane struct {
	Lane          string
	Calls, Parked int64
	Waiting       int
}

// ProjectSpending is a project's budget and how it stands.
type ProjectSpending struct {
	muster.CostBudget
	Spending muster.Spending
}

// Traces is everything that the dashboard asks about the records of what jobs did. As
// Reads, it is bound to one workspace, may be called concurrently and returns errors of
// package muster.
type Traces interface {
	// Traces are the traces that match q, newest first, at most q.Limit.
	Traces(ctx context.Context, q TraceQuery) ([]muster.Trace, error)
	// Views are the views of a trace; of one that is still recorded, those of what has
	// come so far. CodeNotFound if there is nothing to look at, CodeGone once it was
	// deleted. The caller does not change them.
	Views(ctx context.Context, id muster.TraceID) (*view.Views, error)
	// TraceDiff compares a trace with another one of the same job, or with the last good
	// one before it if against is zero. CodeNotFound if there is none to compare with.
	TraceDiff(ctx context.Context, id, against muster.TraceID) (TraceDiff, error)
	// TraceEvents are the events that match q.Expr. CodeInvalid, in the words of
	// query.Compile, if the expression is none.
	TraceEvents(ctx context.Context, q EventQuery) (EventAnswer, error)
	// Detections are what rules found in traces, the latest first, at most q.Limit.
	Detections(ctx context.Context, q DetectionQuery) ([]DetectionRow, error)
	// Baselines are what is known of jobs whose names contain a text and come after a name, in
	// the order of their names; Baseline is one of them, CodeNotFound if there is none.
	Baselines(ctx context.Context, text, after string, limit int) ([]Baseline, error)
	Baseline(ctx context.Context, name string) (Baseline, error)
	// Allowlist is what a pool's egress policy is, what it refuses, and what it would have
	// to allow for the jobs that ran.
	Allowlist(ctx context.Context, pool string) (Allowlist, error)
}

// TraceQuery selects traces. Zero fields select everything.
type TraceQuery struct {
	Job    muster.JobKey // of one attempt; Attempt 0 means any
	Runner muster.RunnerID
	RunID  int64
	// Baseline is that of muster.Trace.Baseline: the same job in every run.
	Baseline string
	States   []muster.TraceState
	Limit    int
}

// TraceDiff is what a trace has that Against has not.
type TraceDiff struct {
	view.Diff
	Against muster.Trace
}

// EventQuery asks for events.
type EventQuery struct {
	// Expr is an expression of internal/trace/query.
	Expr string
	// Trace is the one trace to look at; zero means all of the workspace.
	Trace muster.TraceID
	// Since leaves out traces that ended before it; zero means as far back as there are any.
	Since time.Time
	// Limit is the most events that are wanted.
	Limit int
}

// EventAnswer is what an EventQuery found.
type EventAnswer struct {
	Rows []EventRow
	// More: there are or may be others after the last.
	More bool
	// Scanned is how many events were looked at, in Traces traces, within Took.
	Scanned int64
	Traces  int
	Took    time.Duration
}

// EventRow is one event and where it is from.
type EventRow struct {
	Event trace.Event
	Trace muster.Trace // ID, Job, JobName and Repository at least
}

// DetectionQuery selects what rules found. Zero fields select everything.
type DetectionQuery struct {
	Trace muster.TraceID
	// Severity is the least.
	Severity   muster.Severity
	Rule       string
	Repository string // owner/name, case ignored
	// Before is the time before which to go on; zero means from the latest.
	Before time.Time
	Limit  int
}

// DetectionRow is one finding and the trace that it was found in.
type DetectionRow struct {
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

// Allowlist is the egress of a pool: what its jobs reached, and what they would need.
type Allowlist struct {
	// Policy is the pool's present one; Mode "" is none.
	Policy trace.Egress
	// Proposed are the entries that would allow what Traces reached and the policy does
	// not, the most jobs first; Present are the policy's own, with who needed them.
	Proposed, Present []AllowEntry
	// Refused is what the policy refused or would have, the latest first, at most 200.
	Refused []RefusedHost
	// Traces is how many traces that is taken from, since when.
	Traces int
	Since  time.Time
	// Stable is how many of the latest traces in a row brought nothing that was not known.
	Stable int
	// Full: there were more destinations than are learnt. Notes say in sentences what the
	// lists cannot know.
	Full  bool
	Notes []string
}

// AllowEntry is one line of an allow list and what it allows.
type AllowEntry struct {
	trace.EgressProposal
	// Jobs is how many traces reached it; Programs are some of those that did.
	Jobs     int
	Programs []string
}

// RefusedHost is one destination that a pool's policy refused or would have.
type RefusedHost struct {
	Host     string // a name, or an address that had none
	Port     int
	Protocol string
	// Denied: it was refused; otherwise it would have been.
	Denied bool
	// Jobs is how many traces tried, Count how often.
	Jobs  int
	Count int64
	Last  time.Time
	// Trace is the last that tried.
	Trace muster.Trace
}
