package inspect

import (
	"context"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// Diff is what a trace has that Against has not.
type Diff struct {
	view.Diff
	Trace, Against muster.Trace
}

// Diff compares a trace with another one, or, if against is zero, with the last good one
// of the same job before it. CodeNotFound if there is none.
func (i *Inspector) Diff(ctx context.Context, ws string, id, against muster.TraceID) (Diff, error) {
	t, err := i.readable(ctx, ws, id)
	if err != nil {
		return Diff{}, err
	}
	var before muster.Trace
	if against == (muster.TraceID{}) {
		before, err = i.lastGood(ctx, ws, t)
	} else {
		before, err = i.readable(ctx, ws, against)
	}
	if err != nil {
		return Diff{}, err
	}
	now, err := i.Views(ctx, ws, id)
	if err != nil {
		return Diff{}, err
	}
	then, err := i.Views(ctx, ws, before.ID)
	if err != nil {
		return Diff{}, err
	}
	return Diff{view.Compare(now, then), t, before}, nil
}

// maxLookBack is how many earlier traces of a job are considered when a good one is wanted.
const maxLookBack = 200

// lastGood is the newest trace of the same job in an earlier run that is complete, whose
// job succeeded, and in which no rule found anything high or critical.
func (i *Inspector) lastGood(ctx context.Context, ws string, t muster.Trace) (muster.Trace, error) {
	name := t.Baseline()
	if name == "" {
		return muster.Trace{}, muster.Errorf(muster.CodeNotFound, "the runner did not tell which job of which workflow %s is of: name the trace to compare it with", Name(t))
	}
	all, err := i.Books.Traces(ctx, ws, TraceFilter{Baseline: name, States: []muster.TraceState{muster.TraceComplete}, Until: t.StartedAt, Limit: maxLookBack})
	if err != nil {
		return muster.Trace{}, err
	}
	for _, c := range all {
		if c.ID == t.ID || !c.DeletedAt.IsZero() || c.AnalysedAt.IsZero() || alarming(c.Findings) {
			continue
		}
		good, err := i.succeeded(ctx, ws, c)
		if err != nil {
			return muster.Trace{}, err
		}
		if good {
			return c, nil
		}
	}
	return muster.Trace{}, muster.Errorf(muster.CodeNotFound,
		"there is no good earlier trace of %s to compare %s with: one that is complete, of a run that succeeded, without findings that are high or critical (%d were looked at); name one", name, Name(t), len(all))
}

// alarming reports whether there is a finding that keeps a trace from being an example.
func alarming(findings map[muster.Severity]int) bool {
	return findings[muster.SeverityHigh]+findings[muster.SeverityCritical] > 0
}

// succeeded reports whether GitHub said that the job of a trace succeeded.
func (i *Inspector) succeeded(ctx context.Context, ws string, t muster.Trace) (bool, error) {
	if t.Job == (muster.JobKey{}) {
		return false, nil // not known
	}
	j, err := i.Books.Job(ctx, ws, t.Job)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return false, nil
	}
	return j.Conclusion == "success", err
}
