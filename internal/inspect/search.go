package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/query"
)

// Where says which traces a search looks at: one, or those that a filter selects.
type Where struct {
	Trace muster.TraceID
	TraceFilter
}

// Stats says what a search looked at.
type Stats struct {
	// Traces were read, Unindexed of them event by event.
	Traces, Unindexed int
	// Skipped had nothing to read, by why: "deleted", "lost" or "not_recorded".
	Skipped map[string]int
	// Failed could not be read, or not to their end; Errors are the first few reasons, and
	// events that the expression has no value for.
	Failed int
	Errors []string
	// Events are all of the traces that were read; an index rules out most of them unseen.
	Events int64
	// Matched events were found in Affected traces.
	Matched  int64
	Affected int
	// Limited: a limit ended the search of a trace or of all.
	Limited bool
	Took    time.Duration
}

// maxErrors is how many reasons are told.
const maxErrors = 5

// Hit is an event that was searched for, and the trace that it is in.
type Hit struct {
	Trace muster.Trace
	Event trace.Event
	// Indicator is what it has in common with a list of indicators, in a Scan.
	Indicator string
}

// Limits of searches.
const (
	DefaultLimit = 1_000
	MaxLimit     = 10_000
)

// Query yields the events for which an expression holds, of the newest trace first and in
// each in their order, at most limit. The error is CodeInvalid if the expression is none.
func (i *Inspector) Query(ctx context.Context, ws, expr string, where Where, limit int, yield func(Hit) bool) (Stats, error) {
	q, err := query.Compile(expr)
	if err != nil {
		return Stats{}, &muster.Error{Code: muster.CodeInvalid, Message: err.Error(), Err: err}
	}
	limit = min(cmp.Or(max(limit, 0), DefaultLimit), MaxLimit)
	left := limit
	look := func(ctx context.Context, t muster.Trace) (hits []Hit, seen looked, err error) {
		seen, err = i.scan(ctx, ws, t, q, limit, func(e trace.Event) bool {
			hits = append(hits, Hit{Trace: t, Event: e})
			return true
		})
		return hits, seen, err
	}
	return i.search(ctx, ws, where, look, func(_ muster.Trace, hits []Hit, s *Stats) bool {
		for _, h := range hits {
			if left == 0 {
				s.Limited = true
				return false
			}
			left--
			s.Matched++
			if !yield(h) {
				return false
			}
		}
		return true
	})
}

// looked is what one trace took.
type looked struct {
	events    int64
	unindexed bool
	limited   bool
	// faults is how many events the expression had no value for, fault why.
	faults int64
	fault  error
}

// scan looks at one trace, by its index if it has one that can be read.
func (i *Inspector) scan(ctx context.Context, ws string, t muster.Trace, q *query.Query, limit int, yield func(trace.Event) bool) (looked, error) {
	if !t.AnalysedAt.IsZero() {
		r, size, closer, err := i.Archive.ReaderAt(ctx, ws, t.ID, indexName)
		if err == nil {
			s, err := q.Scan(ctx, r, size, limit, yield)
			_ = closer.Close() // nothing was written
			if !errors.Is(err, query.ErrIndex) {
				return looked{events: s.Rows, limited: limit > 0 && s.Matched >= int64(limit), faults: s.Faults, fault: s.Fault}, err
			}
		} else if muster.CodeOf(err) != muster.CodeNotFound {
			return looked{}, err
		}
	}
	seen := looked{unindexed: true}
	n := 0
	for e, err := range i.events(ctx, t) {
		if err != nil {
			return seen, err
		}
		if seen.events++; seen.events%1024 == 0 && ctx.Err() != nil {
			return seen, ctx.Err()
		}
		ok, err := q.Match(e)
		if err != nil {
			if seen.faults++; seen.fault == nil {
				seen.fault = err
			}
			continue
		}
		if !ok {
			continue
		}
		if n++; !yield(e) || n == limit {
			seen.limited = n == limit
			break
		}
	}
	return seen, nil
}

// found is what was seen of one trace.
type found struct {
	trace muster.Trace
	hits  []Hit
	seen  looked
	err   error
}

// search looks at traces, several at once, and hands on what it found in the order of the
// traces. Of a trace that cannot be read the statistics tell; the error is one of the
// search as a whole.
func (i *Inspector) search(ctx context.Context, ws string, where Where, look func(context.Context, muster.Trace) ([]Hit, looked, error), take func(muster.Trace, []Hit, *Stats) bool) (Stats, error) {
	began := i.Now()
	stats := Stats{Skipped: map[string]int{}}
	traces, err := i.selected(ctx, ws, where, &stats)
	if err != nil {
		return stats, err
	}
	all := inOrder(ctx, cmp.Or(i.Workers, runtime.GOMAXPROCS(0)), traces, func(ctx context.Context, t muster.Trace) found {
		hits, seen, err := look(ctx, t)
		return found{t, hits, seen, err}
	})
	for f := range all {
		if err := ctx.Err(); err != nil {
			return stats, err
		}
		stats.Traces++
		stats.Events += f.seen.events
		stats.Limited = stats.Limited || f.seen.limited
		if f.seen.unindexed {
			stats.Unindexed++
		}
		if f.err != nil {
			stats.Failed++
			if len(stats.Errors) < maxErrors {
				stats.Errors = append(stats.Errors, muster.MessageOf(told(f.trace, f.err)))
			}
			if muster.CodeOf(f.err) == muster.CodeInternal && !errors.Is(f.err, trace.ErrBroken) {
				i.Logger.WarnContext(ctx, "trace not searched", "trace", f.trace.ID.String(), "error", f.err)
			}
		}
		if f.seen.faults > 0 && len(stats.Errors) < maxErrors {
			stats.Errors = append(stats.Errors, fmt.Sprintf("%s: the expression has no value for %d events, which are left out: %s", Name(f.trace), f.seen.faults, f.seen.fault))
		}
		if len(f.hits) > 0 {
			stats.Affected++
		}
		if !take(f.trace, f.hits, &stats) {
			break
		}
	}
	stats.Took = i.Now().Sub(began)
	return stats, ctx.Err()
}

// selected are the traces that a search looks at. Naming one that cannot be read is an
// error; of a filter's they are counted.
func (i *Inspector) selected(ctx context.Context, ws string, where Where, stats *Stats) ([]muster.Trace, error) {
	if where.Trace != (muster.TraceID{}) {
		t, err := i.readable(ctx, ws, where.Trace)
		return []muster.Trace{t}, err
	}
	all, err := i.Books.Traces(ctx, ws, where.TraceFilter)
	if err != nil {
		return nil, err
	}
	readable := all[:0:0]
	for _, t := range all {
		switch {
		case !t.DeletedAt.IsZero():
			stats.Skipped["deleted"]++
		case Readable(t) != nil:
			stats.Skipped[string(t.State)]++
		default:
			readable = append(readable, t)
		}
	}
	return readable, nil
}

// inOrder looks at traces in up to workers goroutines and yields what they found in the
// order of the traces, holding at most as many results as there are workers. No goroutine
// is left once it returns.
func inOrder[T any](ctx context.Context, workers int, traces []muster.Trace, look func(context.Context, muster.Trace) T) iter.Seq[T] {
	return func(yield func(T) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		var running []chan T
		for next := 0; ; {
			for ; next < len(traces) && len(running) < workers; next++ {
				t, c := traces[next], make(chan T, 1)
				running = append(running, c)
				wg.Go(func() { c <- look(ctx, t) })
			}
			if len(running) == 0 {
				return
			}
			f := <-running[0]
			running = running[1:]
			if !yield(f) {
				return
			}
		}
	}
}
