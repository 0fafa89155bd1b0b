package inspect

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/query"
)

// tailTick is how often a live trace is looked at although nothing was told of it: other
// processes' commits are not, and the feed may lose a word.
const tailTick = 2 * time.Second

// Batch is what a Tail gives at a time: events in order. Trace is as the books have it then.
type Batch struct {
	Events []trace.Event
	Trace  muster.Trace
}

// Tail yields the events of a trace after a number, first those that are there and then
// those that come, until the trace is at its end, ctx ends or yield returns false. Every
// call of yield may hold no event at all: the first tells that it has begun, the last that
// the trace has ended.
//
// expr leaves out the events for which it does not hold, unless it is ""; the error is
// CodeInvalid if it is no expression.
func (i *Inspector) Tail(ctx context.Context, ws string, id muster.TraceID, after uint64, expr string, yield func(Batch) bool) error {
	keep, err := filter(expr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var changes <-chan muster.Change
	if i.Changes != nil {
		changes = i.Changes(ctx) // before the first look, so that nothing falls between
	}
	tick := time.NewTicker(tailTick)
	defer tick.Stop()
	var chain trace.Chain
	for began := false; ; began = true {
		t, err := i.readable(ctx, ws, id)
		if err != nil {
			return err
		}
		if !began && !yield(Batch{Trace: t}) {
			return nil
		}
		for chain.Seq < t.Segments {
			events, err := i.follow(ctx, t, &chain)
			if muster.CodeOf(err) == muster.CodeNotFound && t.State == muster.TraceRecording {
				break // the books were quicker
			}
			if err != nil {
				return told(t, err)
			}
			for after > 0 && len(events) > 0 && events[0].Seq <= after {
				events = events[1:]
			}
			if events = slices.DeleteFunc(events, func(e trace.Event) bool { return !keep(e) }); len(events) > 0 && !yield(Batch{events, t}) {
				return nil
			}
		}
		if t.State != muster.TraceRecording {
			yield(Batch{Trace: t})
			return nil
		}
		if changes, err = wait(ctx, changes, tick.C, id); err != nil {
			return err
		}
	}
}

// filter is what an expression lets pass. An event for which it has no value does not.
func filter(expr string) (func(trace.Event) bool, error) {
	if expr == "" {
		return func(trace.Event) bool { return true }, nil
	}
	q, err := query.Compile(expr)
	if err != nil {
		return nil, &muster.Error{Code: muster.CodeInvalid, Message: err.Error(), Err: err}
	}
	return func(e trace.Event) bool {
		ok, err := q.Match(e)
		return ok && err == nil
	}, nil
}

// wait returns when something about a trace may have changed.
func wait(ctx context.Context, changes <-chan muster.Change, tick <-chan time.Time, id muster.TraceID) (<-chan muster.Change, error) {
	for {
		select {
		case <-ctx.Done():
			return changes, context.Cause(ctx)
		case <-tick:
			return changes, nil
		case c, open := <-changes:
			if !open {
				changes = nil // from now on the clock has to do
			} else if c.Kind == "trace" && c.ID == id.String() {
				return changes, nil
			}
		}
	}
}

// follow reads the segment that comes next in a chain.
func (i *Inspector) follow(ctx context.Context, t muster.Trace, chain *trace.Chain) ([]trace.Event, error) {
	s, err := i.next(ctx, t, chain)
	if err != nil {
		return nil, err
	}
	text, err := trace.Unpack(s.Data)
	if err != nil {
		return nil, fmt.Errorf("%w: segment %d: %w", trace.ErrBroken, s.Seq, err)
	}
	events := make([]trace.Event, 0, s.Events)
	for e, err := range trace.Events(bytes.NewReader(text)) {
		if err != nil {
			return nil, fmt.Errorf("%w: segment %d: %w", trace.ErrBroken, s.Seq, err)
		}
		events = append(events, e)
	}
	return events, nil
}
