package inspect

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/view"
)

// Config is what an Inspector is made of. Archive, Books and Rules are required.
type Config struct {
	Archive Archive
	Books   Books
	Rules   *detect.Rules
	// Keys sign attestations: the first does, and all of them have. Without any, none are made.
	Keys []ed25519.PrivateKey
	// Changes tells of what is committed, and is closed when ctx ends; it may miss some. Nil
	// means that live traces are looked at on a clock only.
	Changes func(ctx context.Context) <-chan muster.Change
	// Damaged is told of a trace that was found to be damaged, once; it may be nil.
	Damaged func(muster.Trace)
	// Workers is how many traces a search reads at once; 0 means as many as there are CPUs.
	Workers int
	// Logger and Now may be nil.
	Logger *slog.Logger
	Now    func() time.Time
}

// Inspector answers questions about traces. It is safe for concurrent use, and starts no
// goroutine that outlives a call.
type Inspector struct {
	Config
	views viewCache
}

// New returns an inspector.
func New(c Config) *Inspector {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Inspector{Config: c}
}

// Trace is one trace as the books have it.
func (i *Inspector) Trace(ctx context.Context, ws string, id muster.TraceID) (muster.Trace, error) {
	return i.Books.Trace(ctx, ws, id)
}

// Traces are those that a filter selects, newest first.
func (i *Inspector) Traces(ctx context.Context, ws string, f TraceFilter) ([]muster.Trace, error) {
	return i.Books.Traces(ctx, ws, f)
}

// Found is a finding and the trace that it is of.
type Found struct {
	muster.Detection
	Of muster.Trace
	// Accepted is who said that the fact that was new is expected, nil if nobody did: as the
	// baseline of the job has it now.
	Accepted *detect.Act
}

// Findings are what rules found, newest first; of jobs with a key or name in their workflow
// only, if key is not "".
func (i *Inspector) Findings(ctx context.Context, ws string, f DetectionFilter, key string) ([]Found, error) {
	limit := f.Limit
	if key != "" {
		f.Limit = 0 // the others are sorted out below
	}
	all, err := i.Books.Detections(ctx, ws, f)
	if err != nil {
		return nil, err
	}
	traces := map[muster.TraceID]muster.Trace{}
	accepted := acceptances{i, map[string]*detect.Baseline{}}
	out := make([]Found, 0, len(all))
	for _, d := range all {
		t, ok := traces[d.Trace]
		if !ok {
			if t, err = i.Books.Trace(ctx, ws, d.Trace); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
				return nil, err
			}
			traces[d.Trace] = t
		}
		if key != "" && t.Key != key && t.JobName != key {
			continue
		}
		by, err := accepted.of(ctx, ws, t, d)
		if err != nil {
			return nil, err
		}
		if out = append(out, Found{d, t, by}); len(out) == limit {
			break
		}
	}
	return out, nil
}

// readable is the trace if there are events to read, else an error that says why not.
func (i *Inspector) readable(ctx context.Context, ws string, id muster.TraceID) (muster.Trace, error) {
	t, err := i.Books.Trace(ctx, ws, id)
	if err != nil {
		return t, err
	}
	return t, Readable(t)
}

// Readable is nil if a trace has events to read, also if they are not all of them, and
// else says why not: CodeGone if they were deleted, CodeNotFound if there never were any.
func Readable(t muster.Trace) error {
	switch {
	case !t.DeletedAt.IsZero():
		return muster.Errorf(muster.CodeGone, "the events of %s were deleted on %s, when their time was over; its findings are kept", Name(t), t.DeletedAt.UTC().Format(time.DateOnly))
	case t.State == muster.TraceAbsent:
		return muster.Errorf(muster.CodeNotFound, "%s has no events: not recorded, because %s", Name(t), cmp.Or(t.Reason, "its agent did not say why"))
	case t.State == muster.TraceLost && (t.Damage == muster.TraceDamage{} || t.AnalysedAt.IsZero()): // else there is what was made of it
		return muster.Errorf(muster.CodeNotFound, "%s has no events: they are lost, because %s", Name(t), cmp.Or(t.Reason, "none of them arrived"))
	}
	return nil
}

// told makes of the discovery that a trace was changed an error that may be told: CodeConflict.
// Other errors stay what they are.
func told(t muster.Trace, err error) error {
	if muster.CodeOf(err) == muster.CodeInternal && (errors.Is(err, trace.ErrBroken) || errors.Is(err, trace.ErrTooLarge)) {
		return &muster.Error{Code: muster.CodeConflict, Message: fmt.Sprintf("%s does not hold: %s", Name(t), err), Err: err}
	}
	return err
}

// Name is what a trace is called in a sentence.
func Name(t muster.Trace) string {
	if t.Job.ID != 0 {
		return fmt.Sprintf("the trace of job %d (%s)", t.Job.ID, t.ID)
	}
	return "trace " + t.ID.String()
}

// jobOf is what the runner knew, as the books kept it.
func jobOf(t muster.Trace) trace.Job {
	return trace.Job{
		Name: t.JobName, Repository: t.Repository, RunID: t.RunID, Attempt: t.Attempt, Key: t.Key,
		Workflow: t.Workflow, WorkflowRef: t.WorkflowRef, Ref: t.Ref, SHA: t.SHA,
		Event: t.Event, Actor: t.Actor, Workspace: t.Directory,
	}
}

// judge gives views their verdict with what the books know.
func judge(v *view.Views, t muster.Trace) {
	k := view.Known{Findings: map[string]int{}}
	for s, n := range t.Findings {
		k.Findings[string(s)] = n
	}
	switch {
	case t.Damage != muster.TraceDamage{}:
		k.Incomplete = "the trace is damaged: " + t.Reason
	case t.State == muster.TraceTruncated:
		k.Incomplete = "the trace was cut off: " + cmp.Or(t.Reason, "no seal came")
	case t.AnalysisError != "":
		k.Incomplete = "the trace could not be analysed: " + strings.TrimSuffix(t.AnalysisError, ".")
	}
	v.Judge(k)
}
