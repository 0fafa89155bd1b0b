package github

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/muster-ci/muster"
)

// Lane is how urgent a call is.
type Lane int

// The lanes. Under 10 % of the rate limit Background calls refuse themselves, so
// that what is left serves jobs.
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
	// without limits never does; the other numbers then say nothing.
	Limit     int
	Remaining int
	ResetAt   time.Time
	// PausedUntil is set while GitHub wants no calls at all.
	PausedUntil time.Time
	// Stretch is the factor by which polls should be spaced out: 1, 5 under 50 %
	// of the limit, 0 (do not poll) under 10 %.
	Stretch int
	// Calls counts requests on the wire by route since the client was made.
	Calls map[string]int64
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
	who := c.token
	if who == nil {
		if who, _ = c.known(ownerKey(s)); who == nil {
			return 1
		}
	}
	return who.view(time.Now()).Stretch
}

// budget is the account of one rate limit.
type budget struct {
	perMinute int

	state    *sync.Mutex
	limit    int
	left     int
	reset    time.Time
	paused   time.Time
	strikes  int
	calls    map[string]int64
	limiters map[string]*rate.Limiter
}

func newBudget(perMinute int) budget {
	return budget{perMinute: perMinute, state: &sync.Mutex{}, calls: map[string]int64{}, limiters: map[string]*rate.Limiter{}}
}

// note reads the headers of an answer. Answers overtake each other: within one
// window what is left only falls.
func (b *budget) note(route string, h http.Header, now time.Time) (remaining, limit int) {
	b.state.Lock()
	defer b.state.Unlock()
	b.calls[route]++
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

func (b *budget) view(now time.Time) BudgetView {
	b.state.Lock()
	defer b.state.Unlock()
	v := BudgetView{Limit: b.limit, Remaining: b.left, ResetAt: b.reset, Stretch: 1, Calls: maps.Clone(b.calls)}
	if !now.Before(b.reset) {
		v.Remaining = b.limit // a new window began, nothing of it is used
	}
	if now.Before(b.paused) {
		v.PausedUntil = b.paused
	}
	switch {
	case b.limit == 0:
	case v.Remaining*10 < b.limit:
		v.Stretch = 0
	case v.Remaining*2 < b.limit:
		v.Stretch = 5
	}
	return v
}

// admit refuses a call that must not be made now. Nobody waits in here: the
// caller has a better place to wait, and may find that the call is not needed.
func (b *budget) admit(lane Lane, now time.Time) *muster.Error {
	v := b.view(now)
	switch {
	case !v.PausedUntil.IsZero():
		e := muster.Errorf(muster.CodeUnavailable, "GitHub wants no calls before %s", v.PausedUntil.UTC().Format(time.TimeOnly))
		e.RetryAfter = v.PausedUntil.Sub(now)
		return e
	case lane == Background && v.Stretch == 0:
		e := muster.Errorf(muster.CodeUnavailable, "%d of %d calls are left until %s, kept for jobs", v.Remaining, v.Limit, v.ResetAt.UTC().Format(time.TimeOnly))
		e.RetryAfter = v.ResetAt.Sub(now)
		return e
	}
	return nil
}

// pace spreads calls that change something over the minute. It waits for as long
// as the call's own time allows.
func (c *Client) pace(ctx context.Context, who *identity, r request) *muster.Error {
	if r.method == http.MethodGet || c.cfg.MutationsPerMinute < 0 {
		return nil
	}
	if err := who.limiter(r.method + " " + r.route).Wait(ctx); err != nil {
		e := muster.Errorf(muster.CodeUnavailable, "more than %d such calls in this minute", c.cfg.MutationsPerMinute)
		e.RetryAfter = time.Minute / 2
		return e
	}
	return nil
}

// limiter lets a third of a minute's calls go at once and the rest follow evenly,
// so that no minute sees more than perMinute.
func (b *budget) limiter(route string) *rate.Limiter {
	b.state.Lock()
	defer b.state.Unlock()
	l := b.limiters[route]
	if l == nil {
		burst := max(1, b.perMinute/3)
		l = rate.NewLimiter(rate.Every(time.Minute/time.Duration(max(1, b.perMinute-burst))), burst)
		b.limiters[route] = l
	}
	return l
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
