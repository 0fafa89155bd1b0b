package inspect

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

// cachedViews is how many traces' views are kept in memory, the last ones asked for. The
// views of a large trace take some 20 MiB.
const cachedViews = 8

// viewCache keeps views that were made or read lately. Its zero value is empty.
type viewCache struct {
	mu      sync.Mutex
	entries []*cachedView // the last one asked for first
}

type viewKey struct {
	workspace string
	id        muster.TraceID
}

// cachedView is one trace's. Its own lock keeps several readers from doing the same work.
type cachedView struct {
	key viewKey
	mu  sync.Mutex
	// stamp says what the views were made of.
	stamp viewStamp
	views *view.Views
	// builder has the segments of chain; nil of views that were read.
	builder *view.Builder
	chain   trace.Chain
}

// viewStamp changes when the views of a trace do.
type viewStamp struct {
	state      muster.TraceState
	segments   int
	analysedAt time.Time
	damage     muster.TraceDamage
}

func stampOf(t muster.Trace) viewStamp { return viewStamp{t.State, t.Segments, t.AnalysedAt, t.Damage} }

func (c *viewCache) entry(key viewKey) *cachedView {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, e := range c.entries {
		if e.key == key {
			copy(c.entries[1:n+1], c.entries[:n])
			c.entries[0] = e
			return e
		}
	}
	e := &cachedView{key: key}
	c.entries = append([]*cachedView{e}, c.entries...)
	if len(c.entries) > cachedViews {
		c.entries = c.entries[:cachedViews]
	}
	return e
}

// Views are all views of a trace: those that its analysis made, or, before that, of the
// segments that have come so far. The error is CodeNotFound or CodeGone if there is
// nothing to look at. Callers share the result and do not change it.
func (i *Inspector) Views(ctx context.Context, ws string, id muster.TraceID) (*view.Views, error) {
	t, err := i.readable(ctx, ws, id)
	if err != nil {
		return nil, err
	}
	e := i.views.entry(viewKey{ws, id})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.views != nil && e.stamp == stampOf(t) {
		return e.views, nil
	}
	v, err := i.storedViews(ctx, ws, t)
	if err != nil {
		return nil, err
	}
	if v != nil {
		e.builder, e.chain = nil, trace.Chain{}
	} else {
		if v, err = i.buildViews(ctx, t, e); err != nil {
			return nil, err
		}
		if t.State != muster.TraceRecording && e.chain.Seq < t.Segments { // it was found to be damaged
			if t, err = i.readable(ctx, ws, id); err != nil {
				return nil, err
			}
		}
	}
	judge(v, t)
	e.views, e.stamp = v, stampOf(t)
	return v, nil
}

// storedViews are those that an analysis made; nil if there are none that can be read.
func (i *Inspector) storedViews(ctx context.Context, ws string, t muster.Trace) (*view.Views, error) {
	if t.AnalysedAt.IsZero() {
		return nil, nil
	}
	r, err := i.Archive.Get(ctx, ws, t.ID, viewsName)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	v, err := view.Decode(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		i.Logger.WarnContext(ctx, "views are made again", "trace", t.ID.String(), "error", err)
		return nil, nil
	}
	return v, nil
}

// buildViews adds what has come since to the builder of an entry. A chain that breaks
// ends what is shown; of a trace that has ended the books tell of it then.
func (i *Inspector) buildViews(ctx context.Context, t muster.Trace, e *cachedView) (*view.Views, error) {
	if e.builder == nil {
		e.builder, e.chain = view.NewBuilder(jobOf(t)), trace.Chain{}
	}
	for e.chain.Seq < t.Segments {
		next := e.chain
		s, err := i.next(ctx, t, &next)
		if errors.Is(err, trace.ErrBroken) || muster.CodeOf(err) == muster.CodeNotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		text, err := trace.Unpack(s.Data)
		if err != nil {
			return nil, err
		}
		e.chain = next // events that follow an error in the text are not shown, and not twice either
		for ev, err := range trace.Events(bytes.NewReader(text)) {
			if err != nil {
				break
			}
			e.builder.Add(ev)
		}
	}
	return e.builder.Views(), nil
}
