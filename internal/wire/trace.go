package wire

import "github.com/muster-ci/muster/internal/trace"

// Routes of traces, with the session token like reports. A segment may be sent again: one
// that is there already is taken for delivered if it is the same (200), and refused
// otherwise (409). Segments come in order; one that leaves a gap is refused with 409 and
// the message names the number that is wanted. After the seal nothing is taken (410).
//
//	POST /v1/agent/trace       TraceSegment → Answer
//	POST /v1/agent/trace/seal  TraceSeal    → Answer
const (
	TracePath     = "/v1/agent/trace"
	TraceSealPath = "/v1/agent/trace/seal"
)

// MaxTraceSegment is the most bytes that the data of one segment may have. In base64
// it fits into what the control plane reads of a request, 1 MiB.
const MaxTraceSegment = 640 << 10

// TraceSettings is what an agent records, in a BootResponse; without them it records nothing.
type TraceSettings struct {
	// MaxEvents and MaxBytes (of text before compression) end the recording of a job's
	// ordinary events; 0 means no limit. What a limit leaves out is counted.
	MaxEvents int64 `json:"max_events,omitempty"`
	MaxBytes  int64 `json:"max_bytes,omitempty"`
	// SealSeconds is how long the agent may take to deliver the rest after the job.
	SealSeconds int          `json:"seal_seconds,omitempty"`
	Egress      trace.Egress `json:"egress,omitzero"`
}

// TraceSegment carries one segment. Trace counts the traces of this runner from 1: a kept
// runner makes one per job. Job is what is known by now.
type TraceSegment struct {
	Trace   int           `json:"trace"`
	Job     trace.Job     `json:"job,omitzero"`
	Segment trace.Segment `json:"segment"`
}

// TraceSeal ends a trace. Of one that was not recorded, Seal.Missing says why.
type TraceSeal struct {
	Trace    int            `json:"trace"`
	Job      trace.Job      `json:"job,omitzero"`
	Seal     trace.Seal     `json:"seal"`
	Recorder trace.Recorder `json:"recorder"`
}
