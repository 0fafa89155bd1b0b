package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/query"
	"github.com/muster-ci/muster/internal/trace/view"
)

// Analyse reads a trace that has ended once, and makes of it its views, its index, its
// findings and its attestation; what the job did is learnt. It may be repeated: it
// then finds the same and learns nothing twice. It returns the trace as the books have it
// afterwards. CodeConflict of a trace that is still recorded.
//
// A trace that was changed in the archive is analysed as far as its chain holds, and the
// row says so (State, Damage, AnalysisError); an error is returned only of what may pass.
func (i *Inspector) Analyse(ctx context.Context, ws string, id muster.TraceID) (muster.Trace, error) {
	t, err := i.Books.Trace(ctx, ws, id)
	if err != nil {
		return t, err
	}
	switch {
	case t.State == muster.TraceRecording:
		return t, muster.Errorf(muster.CodeConflict, "%s is still recorded", Name(t))
	case t.Damage != muster.TraceDamage{} && !t.AnalysedAt.IsZero() && t.AnalysisError == "":
		return t, nil // what was made of all of it is better than what can be made now
	case Readable(t) != nil:
		return i.analysed(ctx, t, outcome{})
	}
	base, err := i.baselineFor(ctx, t)
	if err != nil {
		return t, err
	}
	out, err := i.read(ctx, t, base)
	if err != nil {
		return t, fmt.Errorf("analyse %s: %w", Name(t), err)
	}
	if err := i.attest(ctx, t, out); err != nil {
		return t, err
	}
	if err := i.Books.PutDetections(ctx, ws, id, out.report.Detections); err != nil {
		return t, fmt.Errorf("keep the findings of %s: %w", Name(t), err)
	}
	if t.State == muster.TraceComplete && out.broken == nil {
		if err := i.learn(ctx, t, out.report.Facts); err != nil {
			return t, err
		}
	}
	return i.analysed(ctx, t, out)
}

// outcome is what one reading of a trace gave.
type outcome struct {
	views  *view.Views
	report detect.Report
	broken error // what ended the reading before the end
}

// analysed writes down that a trace was analysed.
func (i *Inspector) analysed(ctx context.Context, t muster.Trace, out outcome) (muster.Trace, error) {
	findings := map[muster.Severity]int{}
	for _, d := range out.report.Detections {
		findings[d.Severity]++
	}
	now := i.Now()
	done, err := i.Books.UpdateTrace(ctx, t.Workspace, t.ID, now, func(t *muster.Trace) error {
		t.AnalysedAt, t.AnalysisError, t.Findings = now, "", findings
		if out.broken != nil {
			t.AnalysisError = muster.MessageOf(told(*t, out.broken))
		}
		if out.views != nil {
			counts := out.views.Overview.Counts
			t.Refused, t.WouldRefuse = counts.Refused, counts.WouldDeny
		}
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("note the analysis of %s: %w", Name(t), err)
	}
	return done, nil
}

// read streams the events of a trace once, to all who make something of them.
func (i *Inspector) read(ctx context.Context, t muster.Trace, base *detect.Baseline) (outcome, error) {
	var out outcome
	builder := view.NewBuilder(jobOf(t))
	parent := ctx
	group, ctx := errgroup.WithContext(parent)
	toRules, forRules := pipe(ctx)
	toIndex, forIndex := pipe(ctx)
	index, indexEnd := io.Pipe()
	group.Go(func() (err error) {
		out.report, err = i.Rules.Examine(jobOf(t), base, forRules)
		return err
	})
	group.Go(func() error {
		_, err := query.WriteIndex(indexEnd, forIndex)
		indexEnd.CloseWithError(err) // nil is the end
		return err
	})
	group.Go(func() error {
		err := i.Archive.Put(ctx, t.Workspace, t.ID, indexName, index)
		index.CloseWithError(err) // whoever writes must not wait for us
		return err
	})
	group.Go(func() error {
		defer close(toRules)
		defer close(toIndex)
		for batch, err := range batches(i.events(ctx, t)) {
			for _, e := range batch {
				builder.Add(e)
			}
			for _, to := range []chan<- []trace.Event{toRules, toIndex} {
				select {
				case to <- batch:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if errors.Is(err, trace.ErrBroken) || errors.Is(err, trace.ErrTooLarge) {
				out.broken = err // what came before is good
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return out, err
	}
	out.views = builder.Views()
	var packed bytes.Buffer
	if err := view.Encode(&packed, out.views); err != nil {
		return out, err
	}
	return out, i.Archive.Put(parent, t.Workspace, t.ID, viewsName, &packed)
}

// batchSize is how many events are handed on at a time.
const batchSize = 512

// batches gathers events, so that handing them to another goroutine costs little. An
// error comes with what came before it.
func batches(events iter.Seq2[trace.Event, error]) iter.Seq2[[]trace.Event, error] {
	return func(yield func([]trace.Event, error) bool) {
		batch := make([]trace.Event, 0, batchSize)
		for e, err := range events {
			if err != nil {
				yield(batch, err)
				return
			}
			if batch = append(batch, e); len(batch) == batchSize {
				if !yield(batch, nil) {
					return
				}
				batch = make([]trace.Event, 0, batchSize)
			}
		}
		if len(batch) > 0 {
			yield(batch, nil)
		}
	}
}

// pipe hands batches from one goroutine to a reader of events in another. The reader ends
// with the channel, or with the error of ctx.
func pipe(ctx context.Context) (chan<- []trace.Event, iter.Seq2[trace.Event, error]) {
	c := make(chan []trace.Event, 4)
	return c, func(yield func(trace.Event, error) bool) {
		for {
			select {
			case <-ctx.Done():
				yield(trace.Event{}, context.Cause(ctx))
				return
			case batch, open := <-c:
				if !open {
					return
				}
				for _, e := range batch {
					if !yield(e, nil) {
						return
					}
				}
			}
		}
	}
}

// knowledge is a baseline as the books keep it.
type knowledge struct {
	Baseline json.RawMessage `json:"baseline,omitempty"` // of detect.Baseline
	// Traces are the last ones that it was learnt from, so that none is learnt twice.
	Traces []string `json:"traces,omitempty"`
}

// maxLearnt is how many traces a baseline remembers to have learnt from.
const maxLearnt = 256

// baselineFor is what had been learnt of the same job when the trace was first analysed;
// nil if nothing can be. The first analysis keeps it beside the trace.
func (i *Inspector) baselineFor(ctx context.Context, t muster.Trace) (*detect.Baseline, error) {
	name := t.Baseline()
	if name == "" {
		return nil, nil
	}
	text, err := i.object(ctx, t.Workspace, t.ID, baselineName)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return nil, err
	}
	if err == nil {
		base, err := detect.ParseBaseline(text)
		if err == nil {
			return base, nil
		}
		i.Logger.WarnContext(ctx, "the baseline beside a trace cannot be read", "trace", t.ID.String(), "error", err)
	}
	base, _, _, err := i.known(ctx, t.Workspace, name)
	if err != nil {
		return nil, err
	}
	doc, err := base.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode what was learnt of %s: %w", name, err)
	}
	return base, i.Archive.Put(ctx, t.Workspace, t.ID, baselineName, bytes.NewReader(doc))
}

// known is what was learnt under a name, and of which traces.
func (i *Inspector) known(ctx context.Context, ws, name string) (base *detect.Baseline, traces []string, version int64, err error) {
	doc, version, err := i.Books.Baseline(ctx, ws, name)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("read what was learnt of %s: %w", name, err)
	}
	var k knowledge
	if len(doc) > 0 {
		err = json.Unmarshal(doc, &k)
	}
	if err == nil {
		base, err = detect.ParseBaseline(k.Baseline)
	}
	if err != nil {
		i.Logger.WarnContext(ctx, "what was learnt cannot be read and is learnt anew", "baseline", name, "error", err)
		return &detect.Baseline{}, nil, version, nil
	}
	return base, k.Traces, version, nil
}

// learnTries is how often learning is begun again because another trace of the same job
// was learnt meanwhile.
const learnTries = 20

// learn adds what a job did to what is known of it.
func (i *Inspector) learn(ctx context.Context, t muster.Trace, facts detect.Facts) error {
	name := t.Baseline()
	if name == "" {
		return nil
	}
	var err error
	for range learnTries {
		if err = i.learnOnce(ctx, t, name, facts); muster.CodeOf(err) != muster.CodeConflict {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("learn from %s: %w", Name(t), err)
	}
	return nil
}

// learnOnce is CodeConflict if another trace of the same job was learnt meanwhile.
func (i *Inspector) learnOnce(ctx context.Context, t muster.Trace, name string, facts detect.Facts) error {
	base, traces, version, err := i.known(ctx, t.Workspace, name)
	if err != nil || slices.Contains(traces, t.ID.String()) {
		return err
	}
	base.Learn(facts, t.ID.String(), t.EndedAt)
	traces = append(traces, t.ID.String())
	return i.keep(ctx, t.Workspace, name, base, traces[max(0, len(traces)-maxLearnt):], version)
}

// keep writes what is known under a name; CodeConflict if the version is not the last.
func (i *Inspector) keep(ctx context.Context, ws, name string, base *detect.Baseline, traces []string, version int64) error {
	text, err := base.Encode()
	if err != nil {
		return fmt.Errorf("encode the baseline of %s: %w", name, err)
	}
	doc, err := json.Marshal(knowledge{text, traces})
	if err != nil {
		return fmt.Errorf("encode the baseline of %s: %w", name, err)
	}
	return i.Books.PutBaseline(ctx, ws, name, doc, version)
}
