package githubsim

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// limiter keeps one caller's limits.
type limiter struct {
	reset      time.Time
	used       int
	concurrent int
	points     map[string]*window
	minute     window // content created
	hour       window
}

// window counts within one fixed span of time.
type window struct {
	end time.Time
	n   int
}

func (w *window) add(now time.Time, span time.Duration, n int) int {
	if !now.Before(w.end) {
		w.end, w.n = now.Add(span), 0
	}
	w.n += n
	return w.n
}

// budget is what an answer tells about the caller's primary limit.
type budget struct {
	limit, used int
	reset       time.Time
	resource    string
}

func (b budget) remaining() int { return max(b.limit-b.used, 0) }

const secondaryText = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."

// The link is how go-github knows a secondary limit, the text how octokit does.
const (
	secondaryDocs = "https://docs.github.com/free-pro-team@latest/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"
	primaryDocs   = "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api"
)

// take charges a request to its caller, or refuses it. The caller holds mu.
func (c *call) take() error {
	s := c.s
	l := s.limiter(c.who)
	if !s.unlimited() {
		c.budget = s.budgetOf(c.who, l, c.now)
		if c.budget.remaining() == 0 && !c.free() {
			return s.primaryError(c.who, c.budget)
		}
		if err := c.secondary(l); err != nil {
			return err
		}
		if !c.free() {
			l.used++
			c.budget.used++
		}
	}
	if set := s.faults.now(); set.SecondaryLimit+set.PrimaryRefusals > 0 && s.faults.bursting() {
		if s.chance.hit("primary", set.PrimaryRefusals) {
			s.fault("primary limit")
			limit := max(c.budget.limit, 1)
			c.budget = budget{limit: limit, used: limit, reset: c.now.Add(s.faults.retryAfter()), resource: "core"}
			return s.primaryError(c.who, c.budget)
		}
		if s.chance.hit("secondary", set.SecondaryLimit) {
			s.fault("secondary limit")
			return s.secondaryError()
		}
	}
	l.concurrent++
	c.counted = true
	return nil
}

// free says that a route costs nothing of the primary limit.
func (c *call) free() bool { return c.route.path == "/rate_limit" }

func (s *Server) unlimited() bool {
	return s.cfg.NoRateLimits && s.faults.now().PrimaryLimit == 0
}

func (s *Server) limiter(who identity) *limiter {
	l := s.limits[who.name()]
	if l == nil {
		l = &limiter{points: map[string]*window{}}
		s.limits[who.name()] = l
	}
	return l
}

func (s *Server) budgetOf(who identity, l *limiter, now time.Time) budget {
	if !now.Before(l.reset) {
		l.reset, l.used = now.Add(time.Hour).Truncate(time.Second), 0
	}
	return budget{limit: s.coreLimit(who), used: l.used, reset: l.reset, resource: "core"}
}

func (s *Server) coreLimit(who identity) int {
	if n := s.faults.now().PrimaryLimit; n > 0 {
		return n
	}
	switch {
	case who.app != nil:
		return 5000
	case who.installation != nil:
		in := who.installation
		if s.cfg.CoreLimit > 0 {
			return s.cfg.CoreLimit
		}
		if in.account.enterprise != nil {
			return 15000
		}
		return min(12500, 5000+50*max(0, len(in.repositories())-20)+50*max(0, in.users-20))
	case who.user != "":
		return 5000
	}
	return 60
}

// secondary checks the limits that no header tells about.
func (c *call) secondary(l *limiter) error {
	s, cfg := c.s, c.s.cfg
	if cfg.NoRateLimits || c.who.name() == "anonymous" {
		return nil
	}
	if cfg.ConcurrentRequests > 0 && l.concurrent >= cfg.ConcurrentRequests {
		return s.secondaryError()
	}
	write := c.r.Method != http.MethodGet && c.r.Method != http.MethodHead && c.r.Method != http.MethodOptions
	points := 1
	if write {
		points = 5
	}
	route := c.route.pattern
	if l.points[route] == nil {
		l.points[route] = &window{}
	}
	if n := l.points[route].add(c.now, time.Minute, points); cfg.PointsPerMinute > 0 && n > cfg.PointsPerMinute {
		return s.secondaryError()
	}
	if !c.route.content && (!cfg.JITIsContent || !c.route.jit()) {
		return nil
	}
	minute, hour := l.minute.add(c.now, time.Minute, 1), l.hour.add(c.now, time.Hour, 1)
	if cfg.ContentPerMinute > 0 && minute > cfg.ContentPerMinute || cfg.ContentPerHour > 0 && hour > cfg.ContentPerHour {
		return s.secondaryError()
	}
	return nil
}

func (s *Server) limitStatus() int {
	if s.chance.hit("limit status", s.faults.now().TooManyRequests) {
		return http.StatusTooManyRequests
	}
	return http.StatusForbidden
}

func (s *Server) primaryError(who identity, b budget) error {
	whose := "user ID " + who.user
	if who.installation != nil {
		whose = fmt.Sprintf("installation ID %d", who.installation.id)
	}
	if who.app != nil {
		whose = fmt.Sprintf("app ID %d", who.app.id)
	}
	e := errorf(s.limitStatus(), "API rate limit exceeded for %s.", whose)
	e.doc = primaryDocs
	s.books.Limited.Primary++
	return e
}

func (s *Server) secondaryError() error {
	e := errorf(s.limitStatus(), "%s", secondaryText)
	e.doc = secondaryDocs
	if !s.chance.hit("no retry after", s.faults.now().NoRetryAfter) {
		e.header = http.Header{"Retry-After": {strconv.Itoa(max(1, int(s.faults.retryAfter().Seconds())))}}
	}
	s.books.Limited.Secondary++
	return e
}

// release ends the request in the eyes of the concurrency limit.
func (c *call) release() {
	if c.counted {
		c.counted = false
		c.s.limiter(c.who).concurrent--
	}
}

// refund takes back the charge of a request that was answered 304.
func (c *call) refund() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.budget.limit > 0 && c.budget.used > 0 && !c.free() {
		c.s.limiter(c.who).used--
		c.budget.used--
	}
}

func (c *call) limitHeaders() {
	if c.budget.limit == 0 {
		return
	}
	h := c.w.Header()
	h.Set("X-RateLimit-Limit", strconv.Itoa(c.budget.limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(c.budget.remaining()))
	h.Set("X-RateLimit-Used", strconv.Itoa(c.budget.used))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(c.budget.reset.Unix(), 10))
	h.Set("X-RateLimit-Resource", c.budget.resource)
}

func (s *Server) getRateLimit(c *call) (reply, error) {
	if s.unlimited() {
		return reply{}, errorf(http.StatusNotFound, "Rate limiting is not enabled.")
	}
	b := s.budgetOf(c.who, s.limiter(c.who), c.now)
	view := func(limit, used int) object {
		return object{"limit": limit, "used": used, "remaining": max(limit-used, 0), "reset": b.reset.Unix()}
	}
	core := view(b.limit, b.used)
	body := object{"resources": object{
		"core": core, "search": view(30, 0), "graphql": view(5000, 0), "integration_manifest": view(5000, 0), "source_import": view(100, 0),
		"actions_runner_registration": view(10000, 0), "scim": view(15000, 0), "dependency_snapshots": view(100, 0),
		"code_search": view(10, 0), "code_scanning_autofix": view(10, 0),
	}}
	if c.version != newestVersion {
		body["rate"] = core
	}
	return ok(body)
}
