package github

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// Lane is how urgent a call is. A call waits while more urgent ones need the room
// that GitHub leaves, and refuses itself while what is left of the hour is kept
// for them.
type Lane int

// The lanes. Background calls refuse themselves below 10 % of the rate limit and
// Normal ones below 2 %, so that what is left serves jobs.
const (
	Critical   Lane = iota // a job or a machine waits for it: registering, removing
	Normal                 // the sweep and what operators ask for
	Background             // polls, redelivery, reports
)

// String is the lane in one word.
func (l Lane) String() string { return [...]string{"critical", "normal", "background"}[l] }

// BudgetView is what is known about one identity's rate limit.
type BudgetView struct {
	// App is the configured name. Account is the owner of the installation, "app"
	// for the App itself, "token" for a token.
	App          string
	Account      string
	Installation int64
	// Limit is 0 as long as GitHub has named none, as an Enterprise Server
	// without limits never does; Used, Remaining, ResetAt and Forecast then say nothing.
	Limit     int
	Used      int
	Remaining int
	ResetAt   time.Time
	// PerMinute is how many calls that count against the limit were made per minute
	// of the last ten, Forecast when the rest would be used up at that pace. It is
	// zero when it lasts until the reset.
	PerMinute float64
	Forecast  time.Time
	// PointsThisMinute are those of the last 60 s against the secondary limit, over
	// all routes; GitHub allows 900 for each.
	PointsThisMinute int
	// PausedUntil is set while GitHub wants no calls at all.
	PausedUntil time.Time
	// Stretch is the factor by which polls should be spaced out: 1, 5 under 50 % of
	// the limit, 0 (do not poll) under 10 % and while paused.
	Stretch int
	// Calls counts requests on the wire by route since the client was made.
	Calls map[string]int64
	// PerLane is by Lane.String.
	PerLane map[string]LaneView
	// Registrations are the runners registered at each scope in the last five
	// minutes, by Scope.String, of RegistrationLimit; 0 is no limit.
	Registrations     map[string]int
	RegistrationLimit int
}

// LaneView is what became of the calls of one lane since the client was made.
type LaneView struct {
	// Calls were made, Unchanged of them answered from memory and free.
	Calls     int64
	Unchanged int64
	// Parked were not made, so that others could be or because GitHub wanted none.
	Parked int64
	// Waiting are in front of the gate now.
	Waiting int
}

// Budget returns a view per identity, ordered by account.
func (c *Client) Budget() []BudgetView {
	who := []*identity{}
	if c.app != nil {
		who = append(who, c.app)
	}
	if c.token != nil {
		who = append(who, c.token)
	}
	c.mu.Lock()
	who = slices.AppendSeq(who, maps.Values(c.installations))
	c.mu.Unlock()
	now := time.Now()
	var views []BudgetView
	for _, w := range who {
		v := w.view(now)
		v.App, v.Account, v.Installation = c.cfg.Name, w.account, w.installation
		views = append(views, v)
	}
	slices.SortFunc(views, func(a, b BudgetView) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Installation, b.Installation))
	})
	return views
}

// Stretch is BudgetView.Stretch of whoever speaks for the scope, 1 while nothing
// is known. It makes no call.
func (c *Client) Stretch(s muster.Scope) int {
	who := c.remembered(s)
	if who == nil {
		return 1
	}
	who.state.Lock()
	defer who.state.Unlock()
	return who.look(time.Now()).Stretch
}

// remembered is who speaks for the scope, nil while GitHub would have to be asked.
func (c *Client) remembered(s muster.Scope) *identity {
	if c.token != nil {
		return c.token
	}
	who, _ := c.known(ownerKey(s))
	return who
}

// budget is the account of one rate limit.
type budget struct {
	gate *gate
	// registrable is how many runners a scope may register in registrationWindow; 0
	// is no limit.
	registrable int

	state      *sync.Mutex
	limit      int
	left       int
	reset      time.Time
	paused     time.Time
	strikes    int
	calls      map[string]int64
	lanes      [Background + 1]LaneView
	spent      ledger
	registered map[muster.Scope][]time.Time // oldest first
}

func newBudget(cfg Config) budget {
	b := budget{
		gate:  &gate{changes: cfg.MutationsPerMinute, routes: map[string]*bucket{}},
		state: &sync.Mutex{}, calls: map[string]int64{}, registered: map[muster.Scope][]time.Time{},
	}
	if cfg.MutationsPerMinute >= 0 {
		b.registrable = maxRegistrations
	}
	return b
}

// GitHub lets 1,500 runners register at one repository, organization or enterprise
// within five minutes (docs.github.com, "Actions limits").
const (
	maxRegistrations   = 1500
	registrationWindow = 5 * time.Minute
)

// ledger adds up what was spent in the last ten minutes, in slots of ten seconds.
type ledger struct {
	slots [10 * 6]struct{ at, calls, points int64 }
	begun time.Time
}

const slot = 10 * time.Second

func (l *ledger) add(now time.Time, calls, points int64) {
	if l.begun.IsZero() {
		l.begun = now
	}
	at := now.UnixNano() / int64(slot)
	s := &l.slots[at%int64(len(l.slots))]
	if s.at != at {
		*s = struct{ at, calls, points int64 }{at: at}
	}
	s.calls += calls
	s.points += points
}

// since adds up the last span, in whole slots.
func (l *ledger) since(now time.Time, span time.Duration) (calls, points int64) {
	at := now.UnixNano() / int64(slot)
	for _, s := range l.slots {
		if at-s.at < int64(span/slot) {
			calls += s.calls
			points += s.points
		}
	}
	return calls, points
}

// perMinute is the pace of the last ten minutes, or of the time since the first
// call if that is shorter; one minute at least, so that a start is no storm.
func (l *ledger) perMinute(now time.Time) float64 {
	calls, _ := l.since(now, 10*time.Minute)
	return float64(calls) / min(10, max(1, now.Sub(l.begun).Minutes()))
}

// note reads the headers of an answer. Answers overtake each other: within one
// window what is left only falls.
func (b *budget) note(of *call, method string, resp *http.Response, now time.Time) (remaining, limit int) {
	b.state.Lock()
	defer b.state.Unlock()
	b.calls[of.route]++
	lane := &b.lanes[of.lane]
	lane.Calls++
	charged := int64(1)
	if resp.StatusCode == http.StatusNotModified {
		lane.Unchanged++
		charged = 0 // of the primary limit
	}
	b.spent.add(now, charged, int64(points(method)))
	h := resp.Header
	if resource := h.Get("X-RateLimit-Resource"); resource != "" && resource != "core" {
		return 0, 0
	}
	limit, err1 := strconv.Atoi(h.Get("X-RateLimit-Limit"))
	left, err2 := strconv.Atoi(h.Get("X-RateLimit-Remaining"))
	if err1 != nil || err2 != nil || limit <= 0 {
		return 0, 0
	}
	reset := now.Add(min(untilReset(h, now), longestPause))
	newWindow := !now.Before(b.reset) || reset.Sub(b.reset) > time.Minute
	if newWindow || left < b.left {
		b.left = left
	}
	if newWindow {
		b.reset = reset
	}
	b.limit = limit
	return b.left, b.limit
}

// points is what a request costs of the secondary limit.
func points(method string) int {
	if method == http.MethodGet || method == http.MethodHead {
		return 1
	}
	return changePoints
}

func (b *budget) view(now time.Time) BudgetView {
	waiting := b.gate.queued()
	b.state.Lock()
	defer b.state.Unlock()
	v := b.look(now)
	v.Calls, v.PerLane = maps.Clone(b.calls), map[string]LaneView{}
	for lane, of := range b.lanes {
		of.Waiting = waiting[lane]
		v.PerLane[Lane(lane).String()] = of
	}
	v.PerMinute = b.spent.perMinute(now)
	_, points := b.spent.since(now, time.Minute)
	v.PointsThisMinute = int(points)
	if v.Limit > 0 && v.PerMinute > 0 {
		end := now.Add(time.Duration(float64(v.Remaining) / v.PerMinute * float64(time.Minute)))
		if end.Before(v.ResetAt) {
			v.Forecast = end
		}
	}
	v.Registrations, v.RegistrationLimit = map[string]int{}, b.registrable
	for s := range b.registered {
		if n := len(b.recent(s, now)); n > 0 {
			v.Registrations[s.String()] = n
		}
	}
	return v
}

// look is the part of the view that decisions need. b.state is held.
func (b *budget) look(now time.Time) BudgetView {
	v := BudgetView{Limit: b.limit, Remaining: b.left, ResetAt: b.reset, Stretch: 1}
	if !now.Before(b.reset) {
		v.Remaining = b.limit // a new window began, nothing of it is used
	}
	v.Used = v.Limit - v.Remaining
	switch {
	case b.limit == 0:
	case v.Remaining*10 < b.limit:
		v.Stretch = 0
	case v.Remaining*2 < b.limit:
		v.Stretch = 5
	}
	if now.Before(b.paused) {
		v.PausedUntil, v.Stretch = b.paused, 0
	}
	return v
}

// admit refuses a call that must not be made now. Nobody waits in here: the
// caller has a better place to wait, and may find that the call is not needed.
func (b *budget) admit(lane Lane, now time.Time) *muster.Error {
	b.state.Lock()
	defer b.state.Unlock()
	v := b.look(now)
	park := func(wait time.Duration, format string, args ...any) *muster.Error {
		b.lanes[lane].Parked++
		e := muster.Errorf(muster.CodeUnavailable, format, args...)
		e.RetryAfter = wait
		return e
	}
	kept := false // for more urgent lanes
	if v.Limit > 0 {
		switch lane {
		case Background:
			kept = v.Remaining*10 < v.Limit
		case Normal:
			kept = v.Remaining*50 < v.Limit
		}
	}
	switch {
	case !v.PausedUntil.IsZero():
		return park(v.PausedUntil.Sub(now), "GitHub wants no calls before %s", v.PausedUntil.UTC().Format(time.TimeOnly))
	case v.Limit > 0 && v.Remaining <= 0: // to go on asking can get an installation banned (4-16)
		return park(v.ResetAt.Sub(now), "all %d calls are used until %s", v.Limit, v.ResetAt.UTC().Format(time.TimeOnly))
	case kept:
		return park(v.ResetAt.Sub(now), "%d of %d calls are left until %s, kept for jobs", v.Remaining, v.Limit, v.ResetAt.UTC().Format(time.TimeOnly))
	}
	return nil
}

// parked counts a call that was not made.
func (b *budget) parked(lane Lane) {
	b.state.Lock()
	defer b.state.Unlock()
	b.lanes[lane].Parked++
}

// register counts a runner against its scope, or refuses it until there is room.
func (b *budget) register(s muster.Scope, now time.Time) *muster.Error {
	s.Owner, s.Repo = strings.ToLower(s.Owner), strings.ToLower(s.Repo)
	b.state.Lock()
	defer b.state.Unlock()
	recent := b.recent(s, now)
	if b.registrable > 0 && len(recent) >= b.registrable {
		b.lanes[Critical].Parked++
		e := muster.Errorf(muster.CodeUnavailable, "%d runners were registered at %s within %s, GitHub's limit", len(recent), s, registrationWindow)
		e.RetryAfter = recent[0].Add(registrationWindow).Sub(now)
		return e
	}
	b.registered[s] = append(recent, now)
	return nil
}

// recent are the registrations that still count. b.state is held.
func (b *budget) recent(s muster.Scope, now time.Time) []time.Time {
	all := b.registered[s]
	i, _ := slices.BinarySearchFunc(all, now.Add(-registrationWindow), func(at, edge time.Time) int {
		if at.After(edge) {
			return 1
		}
		return -1
	})
	if i > 0 {
		all = slices.Clone(all[i:])
		if b.registered[s] = all; len(all) == 0 {
			delete(b.registered, s)
		}
	}
	return all
}

// enter admits a call by budget, waits for its turn and counts what it registers.
// Unless it returns an error, the gate must be left when the call is over.
func (c *Client) enter(ctx context.Context, who *identity, r request) *muster.Error {
	if err := who.admit(r.lane, time.Now()); err != nil {
		return err
	}
	wait, err := who.gate.enter(ctx, r.lane, r.method+" "+r.route, float64(points(r.method)))
	if err != nil {
		who.parked(r.lane)
		e := muster.Errorf(muster.CodeUnavailable, "too many calls are under way")
		if wait > 0 {
			e = muster.Errorf(muster.CodeUnavailable, "GitHub allows %d points a minute for such calls, and they are used", pointsPerMinute)
		}
		e.RetryAfter, e.Err = wait, err
		return e
	}
	// Things may have changed while it waited.
	refused := who.admit(r.lane, time.Now())
	if refused == nil && r.registers {
		refused = who.register(r.scope, time.Now())
	}
	if refused != nil {
		who.gate.leave()
	}
	return refused
}

// nextStrike is the pause for a limit that came without a time: a minute, and
// twice as long each time until a call succeeds.
func (b *budget) nextStrike() time.Duration {
	b.state.Lock()
	defer b.state.Unlock()
	wait := time.Minute << min(b.strikes, 6)
	b.strikes++
	return wait
}

func (b *budget) succeeded() {
	b.state.Lock()
	defer b.state.Unlock()
	b.strikes = 0
}

func (b *budget) pause(until time.Time) {
	b.state.Lock()
	defer b.state.Unlock()
	if until.After(b.paused) {
		b.paused = until
	}
}

// deaf is the Observer of those who gave none.
type deaf struct{}

func (deaf) Called(string, string, int, time.Duration) {}
func (deaf) Budget(string, int, int)                   {}
