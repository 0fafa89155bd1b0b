package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// DispatcherConfig is what a Dispatcher needs. Inbox and Sink are required; zero
// numbers mean the default.
type DispatcherConfig struct {
	Inbox Inbox
	Sink  Sink
	// MaxInFlight is how many deliveries the Sink is given at once; 32 by default.
	// What is beyond it waits in the inbox.
	MaxInFlight int
	// Tick is how often the inbox is looked at without a nudge, as a safety net
	// and for deliveries that another process deferred; 5 s by default.
	Tick time.Duration
	// Timeout bounds one call of the Sink; 30 s by default.
	Timeout time.Duration
	// MinBackoff and MaxBackoff bound how long a delivery that failed is put off;
	// 1 s and 5 min by default.
	MinBackoff time.Duration
	MaxBackoff time.Duration
	Observer   Observer     // may be nil
	Logger     *slog.Logger // may be nil
}

// Dispatcher hands the deliveries of the inbox to the Sink, oldest first. A
// delivery leaves the inbox only when the Sink took it or can never take it;
// until then it is offered again, ever more slowly.
type Dispatcher struct {
	cfg   DispatcherConfig
	nudge chan struct{}
}

// NewDispatcher makes a Dispatcher that Run starts.
func NewDispatcher(cfg DispatcherConfig) *Dispatcher {
	orDefault(&cfg.MaxInFlight, 32)
	orDefault(&cfg.Tick, 5*time.Second)
	orDefault(&cfg.Timeout, 30*time.Second)
	orDefault(&cfg.MinBackoff, time.Second)
	orDefault(&cfg.MaxBackoff, 5*time.Minute)
	if cfg.Observer == nil {
		cfg.Observer = deaf{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Dispatcher{cfg: cfg, nudge: make(chan struct{}, 1)}
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Nudge says that the inbox has something new. It never blocks, and is safe for
// concurrent use.
func (d *Dispatcher) Nudge() {
	select {
	case d.nudge <- struct{}{}:
	default: // one nudge is pending, and it will find everything
	}
}

// settled is what became of one delivery in flight.
type settled struct {
	seq int64
	// due is when a deferred delivery may be offered again; zero for one that is done.
	due time.Time
	// err is set when the inbox could not note down what became of it: the
	// delivery will be found again, and the Sink does not mind (it is idempotent).
	err error
}

// Run dispatches until ctx ends, then waits for what is in flight and returns
// nil. It is called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	var (
		queue    []muster.Delivery // read from the inbox, not yet in flight
		inFlight = map[int64]bool{}
		look     = true // the inbox may hold something that is not in queue
		failures int    // of the inbox, in a row
		done     = make(chan settled, d.cfg.MaxInFlight)
		tick     = time.NewTimer(d.cfg.Tick)
		work     sync.WaitGroup
	)
	defer work.Wait()
	defer tick.Stop()
	// After a failure of the inbox nothing is read until the pause is over;
	// nudges do not shorten it.
	var paused <-chan time.Time
	pause := func(err error) {
		failures++
		wait := d.backoff(failures - 1)
		paused = time.After(wait)
		if failures == 1 {
			d.cfg.Logger.ErrorContext(ctx, "inbox failed", "error", err, "wait", wait)
		}
	}
	// The next tick comes early for what is due before it. What is due later is
	// found by a later tick, so dues stays short.
	var dues []time.Time
	schedule := func() {
		wait := d.cfg.Tick
		dues = slices.DeleteFunc(dues, func(due time.Time) bool { return time.Until(due) <= 0 })
		for _, due := range dues {
			wait = min(wait, time.Until(due))
		}
		tick.Reset(wait)
	}

	for {
		if look && len(queue) == 0 && paused == nil && ctx.Err() == nil {
			found, more, err := d.read(ctx, inFlight)
			switch {
			case err == nil:
				failures = 0
				queue, look = found, more
			case ctx.Err() == nil:
				pause(err)
			}
		}
		for len(queue) > 0 && len(inFlight) < d.cfg.MaxInFlight && ctx.Err() == nil {
			delivery := queue[0]
			queue = queue[1:]
			inFlight[delivery.Seq] = true
			work.Go(func() { done <- d.dispatch(ctx, delivery) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.nudge:
			look = true
		case <-tick.C:
			look = true
			schedule()
		case <-paused:
			paused = nil
		case s := <-done:
			delete(inFlight, s.seq)
			switch {
			case s.err != nil:
				look = true
				pause(s.err)
			case !s.due.IsZero() && time.Until(s.due) < d.cfg.Tick:
				dues = append(dues, s.due)
				schedule()
			}
		}
	}
}

// read returns the oldest deliveries that are not in flight, and whether there
// may be more behind them; of later ones a nudge will tell.
func (d *Dispatcher) read(ctx context.Context, inFlight map[int64]bool) (found []muster.Delivery, more bool, err error) {
	now := time.Now()
	// Those in flight are undispatched too: one page is twice what fits, so a
	// full one always has others in it.
	limit := 2 * d.cfg.MaxInFlight
	page, err := d.cfg.Inbox.Undispatched(ctx, now, limit)
	if err != nil {
		return nil, false, err
	}
	for _, delivery := range page {
		if !inFlight[delivery.Seq] {
			found = append(found, delivery)
		}
	}
	var oldest time.Duration
	if len(found) > 0 {
		oldest = max(0, now.Sub(found[0].ReceivedAt))
	}
	d.cfg.Observer.Waiting(oldest)
	return found, len(page) == limit, nil
}

// dispatch offers one delivery and notes down what became of it. It finishes
// even when ctx ends, within the timeout.
func (d *Dispatcher) dispatch(ctx context.Context, delivery muster.Delivery) settled {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Timeout)
	defer cancel()
	ctx = muster.WithTrace(ctx, delivery.TraceID)
	log := d.cfg.Logger.With("delivery", delivery.GUID, "app", delivery.App, "event", delivery.Event)

	outcome, err := d.Offer(ctx, delivery)

	// The note gets its own time: the Sink may have used up all of the other.
	noteCtx, cancelNote := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Timeout)
	defer cancelNote()
	now := time.Now()
	class := classOf(outcome)
	s := settled{seq: delivery.Seq}
	switch {
	case err != nil && muster.CodeOf(err) == muster.CodeInvalid:
		class = "poison"
		log.WarnContext(ctx, "delivery cannot be understood", "error", err)
		s.err = d.cfg.Inbox.MarkDispatched(noteCtx, delivery.Seq, "poison: "+muster.MessageOf(err), now)
	case err != nil:
		class = "deferred"
		wait := d.backoff(delivery.Attempts)
		if e, ok := errors.AsType[*muster.Error](err); ok {
			wait = max(wait, e.RetryAfter)
		}
		s.due = now.Add(wait)
		log.WarnContext(ctx, "delivery deferred", "error", err, "attempt", delivery.Attempts+1, "wait", wait)
		s.err = d.cfg.Inbox.DeferDelivery(noteCtx, delivery.Seq, err.Error(), s.due)
	default:
		s.err = d.cfg.Inbox.MarkDispatched(noteCtx, delivery.Seq, outcome, now)
	}
	d.cfg.Observer.Dispatched(delivery.Event, class, max(0, now.Sub(delivery.ReceivedAt)))
	return s
}

// Offer parses a delivery and hands it to the Sink, without looking at or
// changing the inbox. It returns what became of it in a few words. Operators use
// it to repeat a delivery; the Sink is idempotent.
func (d *Dispatcher) Offer(ctx context.Context, delivery muster.Delivery) (outcome string, err error) {
	// One delivery must not take the process down, whatever is in it.
	defer func() {
		if p := recover(); p != nil {
			d.cfg.Logger.ErrorContext(ctx, "dispatch panicked", "delivery", delivery.GUID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("dispatch %s panicked", delivery.GUID)
		}
	}()
	event, err := Parse(delivery)
	switch {
	case err != nil:
		return "", err
	case event.Job != nil:
		return d.cfg.Sink.Job(ctx, *event.Job)
	case event.Installation != nil:
		return d.cfg.Sink.Installation(ctx, *event.Installation)
	}
	return event.Note, nil
}

// backoff is how long to wait after the given number of earlier failures: twice
// as long each time, and up to half of it random, so that deliveries which
// failed together do not come back together.
func (d *Dispatcher) backoff(earlier int) time.Duration {
	wait := d.cfg.MinBackoff
	for range earlier {
		if wait >= d.cfg.MaxBackoff {
			break
		}
		wait *= 2
	}
	wait = min(wait, d.cfg.MaxBackoff)
	return wait/2 + rand.N(wait/2+1)
}

// classOf reduces an outcome to one word of a fixed list, for counting.
func classOf(outcome string) string {
	switch {
	case outcome == "counted":
		return "counted"
	case strings.HasPrefix(outcome, "ignored"):
		return "ignored"
	}
	return "done"
}
