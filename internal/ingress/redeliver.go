package ingress

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	// LookBack is how far the very first scan of the App looks back; 30 min by default.
	LookBack time.Duration
	// MaxAge is how old a delivery may be to be asked for; 3 h by default (4-7).
	MaxAge time.Duration
	// Overlap is how far each scan looks back behind the newest attempt that the
	// one before saw, because GitHub lists attempts late; 2 min by default, which is
	// more than the 10 s after which GitHub gives an attempt up.
	Overlap time.Duration
	// MaxPerScan bounds how many deliveries one scan asks for; 200 by default. The
	// rest is found again by the next one.
	MaxPerScan int
	// Unnamed says since when the runner that has been busy longest runs a job that
	// no event has named, and the zero time if there is none. While there is none, an
	// in_progress that was lost can tell nothing that matters, and is not asked for:
	// the completed of its job says the same and more. nil asks for all.
	Unnamed func(ctx context.Context) (time.Time, error)
	// Patience is how long a completed that was lost is left to those who notice the end
	// of a job anyway: its runner's agent, after which GitHub is asked about the run, and
	// the poll. 0 asks for it at once.
	Patience time.Duration
	// Open says since when the open job is queued that is queued longest, and the zero
	// time if none is open: after Patience, a completed from before it can tell nothing,
	// unless a runner is unnamed. nil asks for all.
	Open     func(ctx context.Context) (time.Time, error)
	Observer Observer     // may be nil
	Logger   *slog.Logger // may be nil
}

// Redeliverer finds the deliveries of one App that never arrived, and asks
// GitHub to send them again: GitHub does not do so by itself. What is lost and up
// to where GitHub's list was read is kept in the Inbox, so that neither an event
// that stays lost nor a restart makes a scan read the list again.
type Redeliverer struct {
	cfg RedelivererConfig

	mu sync.Mutex
	// asked holds GitHub's first attempt of every GUID that was asked for and
	// has not been seen in the inbox.
	asked map[string]time.Time

	// read are the attempts that scans have read, and when they were made, as far as the
	// next scan may meet them again; nil before the first scan of this process.
	read map[int64]time.Time
}

// NewRedeliverer makes a Redeliverer that Run starts.
func NewRedeliverer(cfg RedelivererConfig) *Redeliverer {
	orDefault(&cfg.Every, 2*time.Minute)
	orDefault(&cfg.LookBack, 30*time.Minute)
	orDefault(&cfg.MaxAge, 3*time.Hour)
	orDefault(&cfg.Overlap, 2*time.Minute)
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

// Run scans every cfg.Every until ctx ends, and returns nil. The first scan comes at
// once, or when the last one of the process before is that old: a control plane that
// is restarted again and again does not use up its rate limit. When GitHub asks for
// a longer pause, it gets it.
func (r *Redeliverer) Run(ctx context.Context) error {
	failing := false
	wait := time.Duration(0)
	if kept, err := r.kept(ctx); err == nil {
		wait = min(r.cfg.Every, r.cfg.Every-time.Since(kept.Scanned))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = r.cfg.Every
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
	}
}

// memory is what one scan leaves to the next.
type memory struct {
	// Scanned is when the last scan read GitHub's list, Seen from when on the next has to.
	Scanned time.Time `json:"scanned"`
	Seen    time.Time `json:"seen"`
	// Lost are the events that no attempt delivered, by GUID.
	Lost map[string]lost `json:"lost,omitempty"`
	// Read are the attempts since Seen that were read, and when GitHub made them in
	// seconds since 1970.
	Read map[int64]int64 `json:"read,omitempty"`
}

// lost is an event that has not arrived.
type lost struct {
	// Attempt is the last known one: what GitHub is asked to repeat.
	Attempt int64     `json:"attempt"`
	Event   string    `json:"event"`
	Action  string    `json:"action,omitempty"`
	Status  int       `json:"status,omitempty"`
	First   time.Time `json:"first"` // GitHub's first attempt
}

// maxLost bounds what is remembered. When more is lost, as after a long outage, the
// next scan reads GitHub's list from the oldest that did not fit.
const maxLost = 2000

// maxRead bounds what is remembered of attempts that were read, the newest first: of
// more than that, the first scan after a restart reads some again.
const maxRead = 3000

// event is all attempts of one GUID that the list shows.
type event struct {
	first  time.Time // of the oldest attempt
	again  bool      // all attempts are redeliveries: the true first is older than the list
	latest muster.HookDelivery
	ok     bool
}

// Scan reads what is new in GitHub's list of attempts, and asks once for every
// event that no attempt delivered and that the inbox does not have. It is Run's
// step, exported for operators and tests; scans must not overlap.
func (r *Redeliverer) Scan(ctx context.Context) error {
	now := time.Now()
	m, err := r.kept(ctx)
	if err != nil {
		return err
	}
	if m.Seen.IsZero() {
		m.Seen = now.Add(-r.cfg.LookBack)
	}
	if oldest := now.Add(-r.cfg.MaxAge); m.Seen.Before(oldest) {
		m.Seen = oldest
	}
	if r.read == nil {
		r.read = map[int64]time.Time{}
		for id, at := range m.Read {
			r.read[id] = time.Unix(at, 0)
		}
	}
	attempts, err := r.cfg.Hooks.HookDeliveries(ctx, m.Seen, func(attempt int64) bool { return !r.read[attempt].IsZero() })
	if err != nil {
		return fmt.Errorf("list deliveries of %s: %w", r.cfg.App, err)
	}
	events := map[string]*event{}
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
		if seen := a.DeliveredAt.Add(-r.cfg.Overlap); seen.After(m.Seen) {
			m.Seen = seen
		}
	}
	if err := r.sort(ctx, &m, events, now); err != nil {
		return err
	}
	for _, a := range attempts {
		r.read[a.ID] = a.DeliveredAt
	}
	maps.DeleteFunc(r.read, func(_ int64, at time.Time) bool { return at.Before(m.Seen.Truncate(time.Second)) })
	m.Read = newest(r.read, maxRead)
	m.Scanned = now
	ask, err := r.needed(ctx, &m, now)
	if err != nil {
		return err
	}
	// Kept before anything is asked for: what a process that dies here has read, the
	// next one does not read again.
	if err := r.keep(ctx, m); err != nil {
		return fmt.Errorf("keep what is lost: %w", err)
	}
	return r.ask(ctx, m, ask)
}

// newest are the attempts that were made last, at most so many.
func newest(read map[int64]time.Time, most int) map[int64]int64 {
	ids := slices.SortedFunc(maps.Keys(read), func(a, b int64) int { return cmp.Or(read[b].Compare(read[a]), cmp.Compare(b, a)) })
	out := make(map[int64]int64, min(len(ids), most))
	for _, id := range ids[:min(len(ids), most)] {
		out[id] = read[id].Unix()
	}
	return out
}

// sort brings what is lost up to date with what GitHub lists and what has arrived.
func (r *Redeliverer) sort(ctx context.Context, m *memory, events map[string]*event, now time.Time) error {
	have, err := r.have(ctx, *m, events)
	if err != nil {
		return err
	}
	for guid, e := range events {
		was, known := m.Lost[guid]
		switch {
		case e.ok:
			delete(m.Lost, guid)
		case known:
			was.Attempt, was.Status = e.latest.ID, e.latest.StatusCode
			m.Lost[guid] = was
		case !e.again && !have[guid]: // attempts that we caused do not make an event young again
			m.Lost[guid] = lost{Attempt: e.latest.ID, Event: e.latest.Event, Action: e.latest.Action, Status: e.latest.StatusCode, First: e.first}
		}
	}
	for guid, l := range m.Lost {
		if have[guid] || now.Sub(l.First) > r.cfg.MaxAge {
			delete(m.Lost, guid)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for guid := range r.asked {
		if _, still := m.Lost[guid]; !still {
			delete(r.asked, guid)
		}
	}
	return nil
}

// urgency orders what is lost: GitHub lets nobody write often, and a job of which
// nobody knows waits for all those before it. A completed is waited for by books alone.
func (l lost) urgency() int {
	switch {
	case l.Event != "workflow_job":
		return 0
	case l.Action == string(muster.JobCompleted):
		return 2
	case l.Action == string(muster.JobInProgress):
		return 1
	}
	return 0
}

// oldestFirst lists the GUIDs of what is lost.
func (m memory) oldestFirst() []string {
	return slices.SortedFunc(maps.Keys(m.Lost), func(a, b string) int {
		return cmp.Or(m.Lost[a].First.Compare(m.Lost[b].First), cmp.Compare(m.Lost[a].Attempt, m.Lost[b].Attempt))
	})
}

// heard is how long an agent may take to tell that its runner has a job.
const heard = time.Minute

// needed returns the GUIDs to ask for, in the order in which somebody waits for them,
// and forgets those that can tell nothing any more.
func (r *Redeliverer) needed(ctx context.Context, m *memory, now time.Time) ([]string, error) {
	is := func(guid string, s muster.JobState) bool {
		return m.Lost[guid].Event == "workflow_job" && m.Lost[guid].Action == string(s)
	}
	ask := m.oldestFirst()
	slices.SortStableFunc(ask, func(a, b string) int { return cmp.Compare(m.Lost[a].urgency(), m.Lost[b].urgency()) })
	some := func(s muster.JobState) bool {
		return slices.ContainsFunc(ask, func(guid string) bool { return is(guid, s) })
	}
	named, ended := r.cfg.Unnamed != nil && some(muster.JobInProgress), r.cfg.Open != nil && some(muster.JobCompleted)
	var since, open time.Time
	var err error
	if r.cfg.Unnamed != nil && (named || ended) {
		if since, err = r.cfg.Unnamed(ctx); err != nil {
			return nil, fmt.Errorf("look for runners with a job that nobody named: %w", err)
		}
	}
	if ended {
		if open, err = r.cfg.Open(ctx); err != nil {
			return nil, fmt.Errorf("look for open jobs: %w", err)
		}
	}
	return slices.DeleteFunc(ask, func(guid string) bool {
		l := m.Lost[guid]
		old := now.Sub(l.First)
		names := !since.IsZero() && l.First.After(since.Add(-heard))
		switch {
		case is(guid, muster.JobInProgress) && named:
			if !names && old > heard {
				delete(m.Lost, guid)
			}
			return !names
		case is(guid, muster.JobCompleted) && old < r.cfg.Patience:
			return true
		case is(guid, muster.JobCompleted) && ended:
			if ends := !open.IsZero() && l.First.After(open.Add(-heard)); names || ends {
				return false
			}
			delete(m.Lost, guid)
			return true
		}
		return false
	}), nil
}

func (r *Redeliverer) ask(ctx context.Context, m memory, guids []string) error {
	for _, guid := range guids[:min(len(guids), r.cfg.MaxPerScan)] {
		l := m.Lost[guid]
		// Noted down before the call: the delivery can be here before its answer.
		r.mu.Lock()
		r.asked[guid] = l.First
		r.mu.Unlock()
		if err := r.cfg.Hooks.Redeliver(ctx, l.Attempt); err != nil {
			r.cfg.Observer.Asked(r.cfg.App, "failed")
			switch muster.CodeOf(err) {
			case muster.CodeNotFound, muster.CodeInvalid, muster.CodeGone:
				continue // this one cannot be had any more; the others can
			}
			return fmt.Errorf("ask again for %s of %s: %w", guid, r.cfg.App, err)
		}
		r.cfg.Observer.Asked(r.cfg.App, "asked")
		r.cfg.Logger.InfoContext(ctx, "lost delivery asked for again", "app", r.cfg.App, "delivery", guid, "event", l.Event, "action", l.Action,
			"status", l.Status, "first_tried", l.First)
	}
	return nil
}

// have asks the inbox in portions that suit an SQL statement.
func (r *Redeliverer) have(ctx context.Context, m memory, events map[string]*event) (map[string]bool, error) {
	guids := slices.Collect(maps.Keys(m.Lost))
	for guid, e := range events {
		if _, known := m.Lost[guid]; !known && !e.ok {
			guids = append(guids, guid)
		}
	}
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

// kept reads what the last scan left; all zero if there was none.
func (r *Redeliverer) kept(ctx context.Context) (memory, error) {
	value, err := r.cfg.Inbox.Watermark(ctx, r.name())
	if err != nil {
		return memory{}, fmt.Errorf("read what is lost: %w", err)
	}
	m := memory{}
	if json.Unmarshal([]byte(value), &m) != nil {
		m = memory{}
		m.Seen, _ = time.Parse(time.RFC3339Nano, value) // as earlier releases wrote it
	}
	if m.Lost == nil {
		m.Lost = map[string]lost{}
	}
	return m, nil
}

func (r *Redeliverer) keep(ctx context.Context, m memory) error {
	if guids := m.oldestFirst(); len(guids) > maxLost {
		m.Lost = maps.Clone(m.Lost)
		if first := m.Lost[guids[maxLost]].First; first.Before(m.Seen) {
			m.Seen = first
		}
		for _, guid := range guids[maxLost:] {
			delete(m.Lost, guid)
		}
		r.read, m.Read = map[int64]time.Time{}, nil // a list that ended at what is known would not show them
	}
	value, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return r.cfg.Inbox.SetWatermark(ctx, r.name(), string(value))
}
