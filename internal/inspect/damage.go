package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// segments reads the segments of a trace, in order: of one that has ended those that the
// books know of, of one that is recorded those that are there. An error comes last, and
// what came before it is good. If it matches trace.ErrBroken a segment is missing or was
// changed, and the books say so from then on; any other may pass and changes nothing. A
// trace that was damaged and is read to its end is whole again, and the books say that too.
func (i *Inspector) segments(ctx context.Context, t muster.Trace) iter.Seq2[trace.Segment, error] {
	if t.State == muster.TraceRecording {
		return i.Archive.Segments(ctx, t.Workspace, t.ID)
	}
	return func(yield func(trace.Segment, error) bool) {
		var chain trace.Chain
		for s, err := range i.Archive.Segments(ctx, t.Workspace, t.ID) {
			if chain.Seq == t.Segments {
				break // what came too late is no part of it
			}
			if err == nil {
				err = add(&chain, t, s)
			}
			if err != nil {
				yield(trace.Segment{}, i.broken(ctx, t, chain, err))
				return
			}
			if !yield(s, nil) {
				return
			}
		}
		if chain.Seq < t.Segments {
			yield(trace.Segment{}, i.broken(ctx, t, chain, trace.ErrBroken))
			return
		}
		if t.Damage != (muster.TraceDamage{}) {
			if err := i.mended(ctx, t); err != nil {
				yield(trace.Segment{}, err)
			}
		}
	}
}

// next reads the segment of a trace that comes next in a chain. Errors are those of segments,
// and CodeNotFound of one that has not come yet.
func (i *Inspector) next(ctx context.Context, t muster.Trace, chain *trace.Chain) (trace.Segment, error) {
	s, err := i.Archive.Segment(ctx, t.Workspace, t.ID, chain.Seq+1)
	if err == nil {
		err = add(chain, t, s)
	}
	if err != nil && t.State != muster.TraceRecording {
		err = i.broken(ctx, t, *chain, err)
	}
	return s, err
}

// add takes the next segment of a trace into a chain, the last one of a trace that has ended
// only if it is the one that the books know.
func add(chain *trace.Chain, t muster.Trace, s trace.Segment) error {
	next := *chain
	if err := next.Add(s.Seq, s.Link, s.Data); err != nil {
		return err
	}
	if t.State != muster.TraceRecording && next.Seq == t.Segments && string(next.Head) != t.Head {
		return fmt.Errorf("%w: it ends with the hash %s instead of %s", trace.ErrBroken, next.Head, t.Head)
	}
	*chain = next
	return nil
}

// events reads the events of a trace, in order. Errors are those of segments, or of a line
// that is no event.
func (i *Inspector) events(ctx context.Context, t muster.Trace) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		for s, err := range i.segments(ctx, t) {
			var text []byte
			if err == nil {
				text, err = trace.Unpack(s.Data)
			}
			if err != nil {
				yield(trace.Event{}, err)
				return
			}
			for e, err := range trace.Events(bytes.NewReader(text)) {
				if err != nil {
					err = fmt.Errorf("segment %d: %w", s.Seq, err)
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// broken looks into why a trace that has ended cannot be read beyond what is in a chain. If a
// segment is missing or changed, the books say so from then on, and it returns an error
// that matches trace.ErrBroken. What may pass it returns as it is: a bucket that does not
// answer, or that is not the one that has the traces, takes nothing from a trace.
func (i *Inspector) broken(ctx context.Context, t muster.Trace, chain trace.Chain, cause error) error {
	if !errors.Is(cause, trace.ErrBroken) && muster.CodeOf(cause) != muster.CodeNotFound {
		return cause
	}
	seq := chain.Seq + 1
	s, err := i.Archive.Segment(ctx, t.Workspace, t.ID, seq) // a second look
	missing := muster.CodeOf(err) == muster.CodeNotFound
	switch {
	case err == nil:
		if add(&chain, t, s) == nil {
			return &muster.Error{Code: muster.CodeUnavailable, Message: fmt.Sprintf("segment %d of %s could not be read once, and is there; ask again", seq, Name(t)), Err: notBroken(cause)}
		}
	case !missing && !errors.Is(err, trace.ErrBroken):
		return err
	}
	nothing := false
	if missing {
		if nothing, err = i.nothing(ctx, t); err != nil {
			return err
		}
	}
	var before muster.Trace
	now := i.Now()
	after, err := i.Books.UpdateTrace(ctx, t.Workspace, t.ID, now, func(t *muster.Trace) error {
		before = *t
		*t = t.Damaged(seq, missing, nothing, now)
		return nil
	})
	if err != nil {
		return fmt.Errorf("note that segment %d of %s is damaged: %w", seq, Name(t), err)
	}
	if after.Damage == (muster.TraceDamage{}) { // its time was over meanwhile
		return muster.Errorf(muster.CodeGone, "the events of %s are being deleted, for their time is over; its findings are kept", Name(t))
	}
	if after.Damage != before.Damage {
		i.Logger.ErrorContext(ctx, "trace damaged", "trace", t.ID.String(), "pool", t.Pool, "job", t.Job.String(), "state", string(after.State), "before", string(before.State), "segment", seq, "missing", missing, "reason", after.Reason)
		if i.Damaged != nil {
			i.Damaged(after)
		}
	}
	return &muster.Error{Code: muster.CodeConflict, Message: fmt.Sprintf("%s does not hold: %s", Name(t), after.Reason), Err: trace.ErrBroken}
}

// notBroken is a cause without what it is taken for.
func notBroken(cause error) error { return errors.New(cause.Error()) }

// nothing reports whether no segment of a trace is there any more. Where there is neither
// its seal nor another trace it is CodeUnavailable: then a folder is not mounted, or the
// bucket is another one, and no trace is lost by that.
func (i *Inspector) nothing(ctx context.Context, t muster.Trace) (bool, error) {
	if err := i.Archive.Check(ctx); err != nil {
		return false, err
	}
	_, known, err := i.seal(ctx, t.Workspace, t.ID)
	if err != nil {
		return false, err
	}
	for id, err := range i.Archive.Traces(ctx, t.Workspace) {
		if err != nil {
			return false, err
		}
		if known = known || id != t.ID; known {
			break
		}
	}
	if !known {
		return false, muster.Errorf(muster.CodeUnavailable, "the archive has nothing at all of workspace %s: see that traces.bucket names the right one, and that its folder is mounted", t.Workspace)
	}
	seqs, _, err := i.Archive.Has(ctx, t.Workspace, t.ID)
	return len(seqs) == 0, err
}

// mended writes down that all of a trace was read that was damaged before.
func (i *Inspector) mended(ctx context.Context, t muster.Trace) error {
	after, err := i.Books.UpdateTrace(ctx, t.Workspace, t.ID, i.Now(), func(now *muster.Trace) error {
		if now.Damage == t.Damage { // or else it was damaged anew
			*now = now.Mended()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note that %s is whole again: %w", Name(t), err)
	}
	i.Logger.InfoContext(ctx, "trace is whole again", "trace", t.ID.String(), "state", string(after.State), "damage", t.Reason)
	return nil
}
