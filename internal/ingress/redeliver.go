package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// RedelivererConfig is what a Redeliverer needs. App, Hooks and Inbox are
// required; zero numbers mean the default.
type RedelivererConfig struct {
	// App is the configured App's name.
	App   string
	Hooks Hooks
	Inbox Inbox
	// Every is the time between two scans; 2 min by default.
	Every time.Duration
	// LookBack is how far the first scan of this process looks back at least; 30
	// min by default.
	LookBack time.Duration
	// MaxAge is how old a delivery may be to be asked for; 3 h by default (4-7).
	MaxAge time.Duration
	// Overlap is how far each scan looks back behind the newest attempt that the
	// one before saw, because GitHub lists attempts late; 5 min by default.
	Overlap time.Duration
	// MaxPerScan bounds how many deliveries one scan asks for; 200 by default. The
	// rest is found again by the next one.
	MaxPerScan int
	Observer   Observer     // may be nil
	Logger     *slog.Logger // may be nil
}

// Redeliverer finds the deliveries of one App that never arrived, and asks
// GitHub to send them again: GitHub does not do so by itself.
type Redeliverer struct {
	cfg RedelivererConfig

	mu sync.Mutex
	// asked holds GitHub's first attempt of every GUID that was asked for and
	// has not been seen in the inbox.
	asked map[string]time.Time
	// begun is set by the first scan that read GitHub's list.
	begun bool
}

// NewRedeliverer makes a Redeliverer that Run starts.
func NewRedeliverer(cfg RedelivererConfig) *Redeliverer {
	orDefault(&cfg.Every, 2*time.Minute)
	orDefault(&cfg.LookBack, 30*time.Minute)
	orDefault(&cfg.MaxAge, 3*time.Hour)
	orDefault(&cfg.Overlap, 5*time.Minute)
	orDefault(&cfg.MaxPerScan, 200)
	if cfg.Observer == nil {
		cfg.Observer = deaf{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Redeliverer{cfg: cfg, asked: map[string]time.Time{}}
}

// Asked reports whether this process asked for the GUID and it has not arrived
// since, and when GitHub first tried to deliver it. Safe for concurrent use.
func (r *Redeliverer) Asked(guid string) (first time.Time, asked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, asked = r.asked[guid]
	return first, asked
}

// Run scans at once and then every cfg.Every until ctx ends, and returns nil.
// When GitHub asks for a longer pause, it gets it.
func (r *Redeliverer) Run(ctx context.Context) error {
	failing := false
	for {
		wait := r.cfg.Every
		err := r.Scan(ctx)
		if err != nil && ctx.Err() == nil {
			if e, ok := errors.AsType[*muster.Error](err); ok {
				wait = max(wait, e.RetryAfter)
			}
			if !failing {
				r.cfg.Logger.WarnContext(ctx, "redelivery scan failed", "app", r.cfg.App, "error", err, "wait", wait)
			}
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// event is all attempts of one GUID that the list shows.
type event struct {
	first  time.Time // of the oldest attempt
	again  bool      // all attempts are redeliveries: the true first is older than the list
	latest muster.HookDelivery
	ok     bool
}

// Scan reads GitHub's list of attempts since the watermark, asks once for every
// event that no attempt delivered and that the inbox does not have, and moves
// the watermark to where the next scan must begin. It is Run's step, exported
// for operators and tests; scans must not overlap.
func (r *Redeliverer) Scan(ctx context.Context) error {
	now := time.Now()
	since, err := r.watermark(ctx, now)
	if err != nil {
		return err
	}
	attempts, err := r.cfg.Hooks.HookDeliveries(ctx, since)
	if err != nil {
		return fmt.Errorf("list deliveries of %s: %w", r.cfg.App, err)
	}
	r.begun = true
	events := map[string]*event{}
	next := since
	for _, a := range attempts {
		if a.GUID == "" || a.Event == "ping" {
			continue // a ping says nothing that could be lost
		}
		e := events[a.GUID]
		if e == nil {
			e = &event{first: a.DeliveredAt, again: a.Redelivery, latest: a}
			events[a.GUID] = e
		}
		e.ok = e.ok || a.Succeeded()
		e.again = e.again && a.Redelivery
		if a.DeliveredAt.Before(e.first) {
			e.first = a.DeliveredAt
		}
		if a.DeliveredAt.After(e.latest.DeliveredAt) {
			e.latest = a
		}
		if seen := a.DeliveredAt.Add(-r.cfg.Overlap); seen.After(next) {
			next = seen
		}
	}
	have, err := r.have(ctx, events)
	if err != nil {
		return err
	}
	lost := r.lost(events, have, now)
	// Until an event arrived or grew too old, scans have to see its attempts: this
	// is how a redelivery that fails too is noticed.
	if len(lost) > 0 && lost[0].first.Before(next) {
		next = lost[0].first
	}
	problem := r.ask(ctx, lost)
	if next.After(since) {
		if err := r.cfg.Inbox.SetWatermark(ctx, r.name(), next.UTC().Format(time.RFC3339Nano)); err != nil {
			problem = errors.Join(problem, fmt.Errorf("keep watermark: %w", err))
		}
	}
	return problem
}

// lost returns the events to ask for, oldest first, and forgets those asked for
// earlier that have arrived or grown too old.
func (r *Redeliverer) lost(events map[string]*event, have map[string]bool, now time.Time) []*event {
	r.mu.Lock()
	defer r.mu.Unlock()
	for guid, first := range r.asked {
		e := events[guid]
		if have[guid] || e != nil && e.ok || now.Sub(first) > r.cfg.MaxAge {
			delete(r.asked, guid)
		} else if e != nil {
			e.first, e.again = first, false
		}
	}
	var lost []*event
	for guid, e := range events {
		// Attempts that we caused must not make an event look young for ever.
		if !e.ok && !have[guid] && !e.again && now.Sub(e.first) <= r.cfg.MaxAge {
			lost = append(lost, e)
		}
	}
	slices.SortFunc(lost, func(a, b *event) int {
		return cmp.Or(a.first.Compare(b.first), cmp.Compare(a.latest.ID, b.latest.ID))
	})
	return lost
}

func (r *Redeliverer) ask(ctx context.Context, lost []*event) error {
	for i, e := range lost {
		if i == r.cfg.MaxPerScan {
			break
		}
		// Noted down before the call: the delivery can be here before its answer.
		r.mu.Lock()
		r.asked[e.latest.GUID] = e.first
		r.mu.Unlock()
		if err := r.cfg.Hooks.Redeliver(ctx, e.latest.ID); err != nil {
			r.cfg.Observer.Asked(r.cfg.App, "failed")
			switch muster.CodeOf(err) {
			case muster.CodeNotFound, muster.CodeInvalid, muster.CodeGone:
				continue // this one cannot be had any more; the others can
			}
			return fmt.Errorf("ask again for %s of %s: %w", e.latest.GUID, r.cfg.App, err)
		}
		r.cfg.Observer.Asked(r.cfg.App, "asked")
		r.cfg.Logger.InfoContext(ctx, "lost delivery asked for again", "app", r.cfg.App, "delivery", e.latest.GUID, "event", e.latest.Event,
			"status", e.latest.StatusCode, "first_tried", e.first)
	}
	return nil
}

// have asks the inbox in portions that suit an SQL statement.
func (r *Redeliverer) have(ctx context.Context, events map[string]*event) (map[string]bool, error) {
	var guids []string
	for guid, e := range events {
		if !e.ok {
			guids = append(guids, guid)
		}
	}
	r.mu.Lock()
	for guid := range r.asked {
		if events[guid] == nil {
			guids = append(guids, guid)
		}
	}
	r.mu.Unlock()
	slices.Sort(guids)
	have := map[string]bool{}
	for portion := range slices.Chunk(guids, 200) {
		found, err := r.cfg.Inbox.HaveDeliveries(ctx, r.cfg.App, portion)
		if err != nil {
			return nil, fmt.Errorf("look for deliveries: %w", err)
		}
		for guid, is := range found {
			have[guid] = have[guid] || is
		}
	}
	return have, nil
}

func (r *Redeliverer) name() string { return "redelivery/" + r.cfg.App }

// watermark is where the scan begins: where the last one said, for the first of a
// process also cfg.LookBack, but never longer ago than what may still be asked for.
func (r *Redeliverer) watermark(ctx context.Context, now time.Time) (time.Time, error) {
	value, err := r.cfg.Inbox.Watermark(ctx, r.name())
	if err != nil {
		return time.Time{}, fmt.Errorf("read watermark: %w", err)
	}
	oldest, first := now.Add(-r.cfg.MaxAge), now.Add(-r.cfg.LookBack)
	since, err := time.Parse(time.RFC3339Nano, value)
	if err != nil || !r.begun && since.After(first) {
		since = first
	}
	if since.Before(oldest) {
		since = oldest
	}
	return since, nil
}
