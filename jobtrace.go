package muster

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// TraceState is what became of the record of one job.
type TraceState string

// The states of a trace. TraceRecording is left for one of the others; of those,
// TraceComplete and TraceTruncated may become worse if the archive loses what was stored,
// and what they were if it is put back (Trace.Damaged, Trace.Mended).
const (
	TraceRecording TraceState = "recording"
	// TraceComplete: sealed by its agent, every segment there and the chain whole.
	TraceComplete TraceState = "complete"
	// TraceTruncated: some of it is there and no seal came, or the seal tells of more than is there.
	TraceTruncated TraceState = "truncated"
	// TraceLost: nothing of it is there, though it was recorded.
	TraceLost TraceState = "lost"
	// TraceAbsent: nothing was recorded; Reason says why.
	TraceAbsent TraceState = "not_recorded"
)

// TraceID names a trace: the runner that made it, and the how manieth of that runner it
// is, from 1. Runners of one job have one.
type TraceID struct {
	Runner RunnerID
	Number int
}

// String is "RUNNER", or "RUNNER.NUMBER" after the first.
func (id TraceID) String() string {
	if id.Number <= 1 {
		return string(id.Runner)
	}
	return fmt.Sprintf("%s.%d", id.Runner, id.Number)
}

// ParseTraceID reads what String wrote; the error is CodeInvalid.
func ParseTraceID(text string) (TraceID, error) {
	runner, number, several := strings.Cut(text, ".")
	id := TraceID{RunnerID(runner), 1}
	var err error
	if several {
		id.Number, err = strconv.Atoi(number)
	}
	if err != nil || id.Number < 1 || !id.Runner.Valid() {
		return TraceID{}, Errorf(CodeInvalid, "%q is not a trace; write RUNNER, or RUNNER.NUMBER for a later one of a runner that is kept", text)
	}
	return id, nil
}

// Trace is what the books say of the record of one job. The events themselves are in
// the archive.
type Trace struct {
	ID        TraceID
	Workspace string
	Pool      string
	// Job is the job on GitHub, zero until it is known which one it was.
	Job JobKey
	// JobName, Repository, RunID, Attempt, Key, Workflow, WorkflowRef and the others are what the
	// runner itself knew (internal/trace.Job).
	JobName     string
	Repository  string
	RunID       int64
	Attempt     int
	Key         string
	Workflow    string
	WorkflowRef string
	Ref         string
	SHA         string
	// Event started the run, Actor had it start; Directory is that of the checkout.
	Event     string
	Actor     string
	Directory string

	State  TraceState
	Reason string // of TraceAbsent, TraceTruncated and TraceLost
	// Segments, Events and Bytes (compressed) are in the archive; Head is the link of the
	// last segment. Lost is how many events the recorder dropped, by reason.
	Segments int
	Events   int64
	Bytes    int64
	Head     string
	Lost     map[string]int64 `json:",omitempty"`
	// Missing maps kinds of events that the machine could not record to why.
	Missing map[string]string `json:",omitempty"`
	// Egress is the mode of the policy that was in force, "" if none. Refused counts the
	// connections and lookups that it refused, WouldRefuse those that it would have; both
	// are known once the trace was analysed.
	Egress      string `json:",omitempty"`
	Refused     int64  `json:",omitempty"`
	WouldRefuse int64  `json:",omitempty"`

	StartedAt time.Time
	EndedAt   time.Time
	SealedAt  time.Time
	// ExpiresAt is when the events are deleted; zero while it is recorded.
	ExpiresAt time.Time
	// DeletedAt is when they were.
	DeletedAt time.Time
	// AnalysedAt is when its views and findings were made; zero before. AnalysisError is why
	// they could not be.
	AnalysedAt    time.Time
	AnalysisError string `json:",omitempty"`
	// Findings counts what the rules found, by severity.
	Findings map[Severity]int `json:",omitempty"`
	// Damage is what was found wrong with what the archive has, zero while nothing is. State
	// and Reason tell of it; Segments, Events, Bytes and Head stay those of what was stored.
	Damage TraceDamage `json:",omitzero"`
}

// TraceDamage is a loss that came after the end of a trace.
type TraceDamage struct {
	// Segment is the first that is not as it was stored; what comes before it is good. It is
	// missing, or else changed.
	Segment int
	Missing bool
	// At is when it was found.
	At time.Time
	// State and Reason are what they were before.
	State  TraceState
	Reason string
}

// Damaged is what a trace is once a segment of it was found to be missing or changed: lost if
// nothing is left of it, else truncated. It is the same trace if that is known already, or
// says nothing: while it is recorded, once its events are deleted or about to be, and of
// one that has no such segment.
func (t Trace) Damaged(segment int, missing, nothing bool, now time.Time) Trace {
	d := TraceDamage{Segment: segment, Missing: missing, At: now, State: t.State, Reason: t.Reason}
	known := t.Damage != TraceDamage{}
	if known {
		d.State, d.Reason = t.Damage.State, t.Damage.Reason
	}
	switch {
	case d.State != TraceComplete && d.State != TraceTruncated, segment < 1 || segment > t.Segments,
		!t.DeletedAt.IsZero(), !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return t
	}
	state, what := TraceTruncated, "was changed in the archive"
	if missing {
		what = "is missing in the archive"
	}
	if nothing {
		state = TraceLost
	}
	if known && t.State == state && t.Damage.Segment == segment && t.Damage.Missing == missing {
		return t
	}
	t.State, t.Damage = state, d
	t.Reason = fmt.Sprintf("segment %d of %d %s, found on %s", segment, t.Segments, what, now.UTC().Format("2006-01-02 at 15:04 UTC"))
	if d.Reason != "" {
		t.Reason += "; before: " + d.Reason
	}
	return t
}

// Mended is what a trace is once all that was stored of it was found to be there again.
func (t Trace) Mended() Trace {
	if t.Damage == (TraceDamage{}) {
		return t
	}
	t.State, t.Reason, t.Damage = t.Damage.State, t.Damage.Reason, TraceDamage{}
	return t
}

// Baseline names the same job in every run: what a baseline is learnt for. "" if the runner
// did not tell.
func (t Trace) Baseline() string {
	if t.Repository == "" || cmp.Or(t.Key, t.JobName) == "" {
		return ""
	}
	return t.Repository + "/" + cmp.Or(t.Workflow, "?") + "/" + cmp.Or(t.Key, t.JobName)
}

// Severity is how much a finding matters.
type Severity string

// The severities, least first.
const (
	SeverityInfo     Severity = "info"
	SeverityLow      Severity = "low"
	SeverityMedium   Severity = "medium"
	SeverityHigh     Severity = "high"
	SeverityCritical Severity = "critical"
)

// Severities are all of them, the least first.
var Severities = []Severity{SeverityInfo, SeverityLow, SeverityMedium, SeverityHigh, SeverityCritical}

// Detection is one thing that a rule found in a trace. The users' word for it is finding.
type Detection struct {
	Workspace string
	Trace     TraceID
	// Rule is the rule's name, Title its one line with what was found in it.
	Rule     string
	Severity Severity
	Title    string
	// Explanation says why it matters, Remedy what to do.
	Explanation string
	Remedy      string
	// Step is the name of the step, Process the command line, with its ancestors in Ancestry,
	// the nearest first.
	Step     string
	Process  string
	PID      int
	Ancestry []string `json:",omitempty"`
	// Subject is what it is about and makes it one of its kind: the path, the host, ….
	Subject string
	// Fact is what a mature baseline of the job did not know, as "host:evil.example", "" for a
	// rule that asks no baseline. Whoever expects it accepts it by this text.
	Fact string `json:",omitempty"`
	// Seq are the events that made the rule fire, the first ones if there are many; Count
	// is how many there were.
	Seq   []uint64
	Count int
	At    time.Time // of the first event
}

// Untraced says why there is no trace of a job. p is the job's pool, nil if it is not
// known any more. "" stands for a job that may still get one: it waits.
func Untraced(j Job, p *Pool) string {
	kept := p != nil && p.Lifecycle == LifecycleKept
	switch {
	case j.State == JobQueued || j.State == JobWaiting:
		return ""
	case !j.RanOnRunner() && j.State != JobInProgress:
		return "it never ran on a runner"
	case kept:
		return "not recorded, because a kept machine starts its runner by itself, and no agent of Muster's is beside it"
	case j.Runner == "":
		return fmt.Sprintf("it ran on %s, which is no runner of Muster's", cmp.Or(j.RunnerName, "another runner"))
	case p != nil && p.Trace.Off:
		return fmt.Sprintf("not recorded, because pool %s does not record its jobs: its configuration has trace off", p.Name)
	case j.State == JobInProgress:
		return "its agent has not delivered anything yet"
	}
	return "not recorded, because its agent delivered nothing: it is older than traces, or was gone before it could; muster runner log " + string(j.Runner) + " shows what the runner printed"
}
