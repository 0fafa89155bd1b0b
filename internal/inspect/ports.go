package inspect

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// Archive keeps the segments of traces and what is made of them. Errors are CodeNotFound
// for what is not there. It is safe for concurrent use.
type Archive interface {
	// Segment is not checked against the chain.
	Segment(ctx context.Context, workspace string, id muster.TraceID, seq int) (trace.Segment, error)
	// Segments yields what is there, in order, as far as the chain holds. An error comes once
	// and last; it matches trace.ErrBroken if the trace was changed.
	Segments(ctx context.Context, workspace string, id muster.TraceID) iter.Seq2[trace.Segment, error]
	// Has returns the numbers of the segments that are there, in order, and their size.
	Has(ctx context.Context, workspace string, id muster.TraceID) (seqs []int, size int64, err error)
	// Traces lists the traces of a workspace that have any object.
	Traces(ctx context.Context, workspace string) iter.Seq2[muster.TraceID, error]
	// Written is when the newest object of a trace was written.
	Written(ctx context.Context, workspace string, id muster.TraceID) (time.Time, error)
	// Check reports whether the archive can be reached.
	Check(ctx context.Context) error
	// Put keeps something under a name, in the place of what was there; nothing if from fails.
	Put(ctx context.Context, workspace string, id muster.TraceID, name string, from io.Reader) error
	Get(ctx context.Context, workspace string, id muster.TraceID, name string) (io.ReadCloser, error)
	ReaderAt(ctx context.Context, workspace string, id muster.TraceID, name string) (io.ReaderAt, int64, io.Closer, error)
}

// What is kept beside the segments.
const (
	viewsName       = "views.json.zst"
	indexName       = "index.parquet"
	sealName        = "seal.json" // whoever took the seal put it there
	attestationName = "attestation.json"
	// baselineName is the baseline as it was when the trace was first analysed: with it, an
	// analysis that is repeated finds the same.
	baselineName = "baseline.json"
)

// Books are what is known of traces beside their events. Errors are CodeNotFound for what
// is not there. It is safe for concurrent use.
type Books interface {
	Trace(ctx context.Context, workspace string, id muster.TraceID) (muster.Trace, error)
	// Traces are newest first.
	Traces(ctx context.Context, workspace string, f TraceFilter) ([]muster.Trace, error)
	// TracesAfter are those after one, in the order of their ids.
	TracesAfter(ctx context.Context, workspace string, f TraceFilter, after muster.TraceID) ([]muster.Trace, error)
	// UpdateTrace changes a trace in a transaction; change may run more than once.
	UpdateTrace(ctx context.Context, workspace string, id muster.TraceID, now time.Time, change func(*muster.Trace) error) (muster.Trace, error)
	// PutDetections keeps the findings of a trace in the place of those that there were.
	PutDetections(ctx context.Context, workspace string, id muster.TraceID, all []muster.Detection) error
	// Detections are newest first.
	Detections(ctx context.Context, workspace string, f DetectionFilter) ([]muster.Detection, error)
	// Baseline is what was learnt under a name; nothing, and version 0, before anything was.
	Baseline(ctx context.Context, workspace, name string) (doc []byte, version int64, err error)
	// PutBaseline is CodeConflict if the version is not that of what is there.
	PutBaseline(ctx context.Context, workspace, name string, doc []byte, version int64) error
	// BaselineNames are those under which something was learnt, in their order: those after a
	// name that contain a text, case ignored, and at most limit.
	BaselineNames(ctx context.Context, workspace, text, after string, limit int) ([]string, error)
	Job(ctx context.Context, workspace string, key muster.JobKey) (muster.Job, error)
	// Egress is the policy of a pool as its next job would get it, with GitHub's own needs.
	Egress(ctx context.Context, workspace, pool string) (trace.Egress, error)
}

// TraceFilter selects traces. Zero fields select everything.
type TraceFilter struct {
	Job muster.JobKey // Attempt 0 is every attempt
	// Runner and RunID select a runner's traces and a workflow run's.
	Runner muster.RunnerID
	RunID  int64
	Pool   string
	// Repository is OWNER/NAME, case ignored; Key the job's key or name in the workflow.
	Repository string
	Key        string
	// Baseline is muster.Trace.Baseline.
	Baseline string
	States   []muster.TraceState
	// Since and Until bound StartedAt: [Since, Until).
	Since, Until time.Time
	Limit        int // 0 is no limit
}

// DetectionFilter selects findings. Zero fields select everything.
type DetectionFilter struct {
	Trace      muster.TraceID
	Job        muster.JobKey
	Pool       string
	Repository string
	Rule       string
	// Severity is the least.
	Severity muster.Severity
	// Since and Until bound At: [Since, Until).
	Since, Until time.Time
	Limit        int // 0 is no limit
}
