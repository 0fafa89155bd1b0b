package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/muster-ci/muster/internal/trace"
)

const (
	// PredicateType says that a statement is about what ran.
	PredicateType = "https://in-toto.io/attestation/runtime-trace/v0.1"
	// PayloadType is the media type of statements in envelopes.
	PayloadType = "application/vnd.in-toto+json"
	// MonitorType names the recorder in statements.
	MonitorType = "https://github.com/muster-ci/muster/trace/v1"
	// processType is what is monitored: a job of GitHub Actions.
	processType = "https://actions.github.io/buildtypes/workflow/v1"
)

// Facts are what a statement is made of.
type Facts struct {
	// Trace is the trace's id as text; Runner the runner's name, the same if it is "".
	Trace  string
	Runner string
	// Job is what the runner knew, Server GitHub's address ("https://github.com" if it is
	// ""), JobID the job's number on GitHub, 0 if it is not known.
	Job    trace.Job
	Server string
	JobID  int64
	// State is the trace's, such as "complete".
	State    string
	Seal     trace.Seal
	Recorder trace.Recorder
	// Network are the hosts that were contacted, Programs what ran, Files the files with
	// secrets that were opened. They are a summary: the trace is what is attested.
	Network  []Contact
	Programs []Program
	Files    []string
	Findings []Finding
}

// Contact is a host and what was said to it.
type Contact struct {
	Host    string `json:"host"`
	Count   int    `json:"count"`
	Verdict string `json:"verdict,omitempty"`
}

// Program is a program that ran, and how often.
type Program struct {
	Path  string `json:"path"`
	Count int    `json:"count"`
}

// Finding is a rule that fired.
type Finding struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	Count    int    `json:"count"`
}

// predicate is runtime-trace/v0.1, with Muster's own fields under names that no other
// producer has.
type predicate struct {
	Monitor          monitor    `json:"monitor"`
	MonitoredProcess monitored  `json:"monitoredProcess"`
	MonitorLog       monitorLog `json:"monitorLog"`
	Metadata         metadata   `json:"metadata"`
	Job              trace.Job  `json:"musterJob"`
	Trace            sealed     `json:"musterTrace"`
	Findings         []Finding  `json:"musterFindings"`
}

type monitor struct {
	Type        string         `json:"type"`
	TracePolicy trace.Recorder `json:"tracePolicy"`
}

type monitored struct {
	HostID string `json:"hostID"`
	Type   string `json:"type"`
	Event  string `json:"event"`
}

type monitorLog struct {
	Process    []Program    `json:"process"`
	Network    []Contact    `json:"network"`
	FileAccess []descriptor `json:"fileAccess"`
}

type descriptor struct {
	Name string `json:"name"`
}

type metadata struct {
	StartedOn  time.Time `json:"buildStartedOn,omitzero"`
	FinishedOn time.Time `json:"buildFinishedOn,omitzero"`
}

type sealed struct {
	ID    string     `json:"id"`
	State string     `json:"state,omitempty"`
	Seal  trace.Seal `json:"seal"`
}

// ErrNothing is a trace without a segment: there is nothing to attest.
var ErrNothing = errors.New("nothing was recorded, so there is nothing to attest")

// Statement returns the text of the statement about a sealed trace.
func Statement(f Facts) ([]byte, error) {
	if f.Seal.Segments == 0 || f.Seal.Head == "" || !f.Seal.Head.Valid() {
		return nil, fmt.Errorf("attest trace %s: %w", f.Trace, ErrNothing)
	}
	about, err := structOf(f.predicate())
	if err != nil {
		return nil, fmt.Errorf("attest trace %s: %w", f.Trace, err)
	}
	s := &intoto.Statement{
		Type: intoto.StatementTypeUri, PredicateType: PredicateType, Predicate: about,
		Subject: []*intoto.ResourceDescriptor{{Name: "trace/" + f.Trace, Digest: map[string]string{"sha256": string(f.Seal.Head)}}},
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("attest trace %s: %w", f.Trace, err)
	}
	text, err := protojson.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("attest trace %s: %w", f.Trace, err)
	}
	var same bytes.Buffer // protojson spaces its output at random
	if err := json.Compact(&same, text); err != nil {
		return nil, fmt.Errorf("attest trace %s: %w", f.Trace, err)
	}
	return same.Bytes(), nil
}

func (f Facts) predicate() predicate {
	p := predicate{
		Monitor:          monitor{MonitorType, f.Recorder},
		MonitoredProcess: monitored{HostID: "urn:muster:runner:" + or(f.Runner, f.Trace), Type: processType, Event: f.event()},
		MonitorLog:       monitorLog{Process: f.Programs, Network: f.Network},
		Metadata:         metadata{f.Seal.StartedAt, f.Seal.EndedAt},
		Job:              f.Job, Trace: sealed{f.Trace, f.State, f.Seal}, Findings: f.Findings,
	}
	for _, name := range f.Files {
		p.MonitorLog.FileAccess = append(p.MonitorLog.FileAccess, descriptor{name})
	}
	return p
}

// event names the job: its page on GitHub if the number is known, its run otherwise.
func (f Facts) event() string {
	if f.Job.Repository == "" || f.Job.RunID == 0 {
		return or(f.Job.Name, f.Trace)
	}
	run := fmt.Sprintf("%s/%s/actions/runs/%d", or(f.Server, "https://github.com"), f.Job.Repository, f.Job.RunID)
	if f.JobID != 0 {
		return fmt.Sprintf("%s/job/%d", run, f.JobID)
	}
	return fmt.Sprintf("%s/attempts/%d#%s", run, max(1, f.Job.Attempt), f.Job.Key)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func structOf(v any) (*structpb.Struct, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	s := &structpb.Struct{}
	return s, protojson.Unmarshal(text, s)
}
