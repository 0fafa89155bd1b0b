package github

import (
	"context"
	"sync"
	"time"
)

// GitHub's secondary limits (docs.github.com, "Rate limits for the REST API"):
// 100 requests at once, and per minute and endpoint 900 points, of which a read
// costs one and a change five.
const (
	pointsPerMinute = 900
	changePoints    = 5
	// places leave room for what does not pass the gate: files, and what somebody
	// else does with the same token. A less urgent lane may use fewer of them, so
	// that a sweep never keeps a job waiting.
	criticalPlaces   = 90
	normalPlaces     = 60
	backgroundPlaces = 20
)

// gate lets the calls of one identity out: so many at once, so many points a
// minute for each route. While there is no room for all, the more urgent lane
// goes first, and within a lane who came first.
type gate struct {
	// changes is how many calls a minute a route that changes something gets; 0 and
	// below is no limit.
	changes int

	mu      sync.Mutex
	running int
	waiting [Background + 1][]*waiter
	routes  map[string]*bucket
	timer   *time.Timer
}

// waiter is a call in front of the gate.
type waiter struct {
	route string
	cost  float64
	open  chan struct{} // closed when it may go
}

// bucket holds the points that a route may spend now.
type bucket struct {
	points, burst, perSecond float64
	at                       time.Time
}

// newBucket lets a third of a minute's points go at once and the rest follow
// evenly, so that no minute sees more than perMinute.
func newBucket(perMinute, cost float64, now time.Time) *bucket {
	burst := max(cost, perMinute/3)
	return &bucket{points: burst, burst: burst, perSecond: max(cost, perMinute-burst) / 60, at: now}
}

func (b *bucket) refill(now time.Time) {
	b.points = min(b.burst, b.points+b.perSecond*now.Sub(b.at).Seconds())
	b.at = now
}

// until is how long it takes until the bucket has so many points.
func (b *bucket) until(points float64) time.Duration {
	if points <= b.points {
		return 0
	}
	// Rounded up: a timer must not fire a moment too early, over and over.
	return time.Duration((points-b.points)/b.perSecond*float64(time.Second)) + time.Millisecond
}

// enter waits until the call may go out. It returns at once, with how long it
// would take, when that is beyond the context's deadline. Unless err is set, leave
// must be called when the call is over.
func (g *gate) enter(ctx context.Context, lane Lane, route string, cost float64) (wait time.Duration, err error) {
	g.mu.Lock()
	now := time.Now()
	if wait := g.estimate(lane, route, cost, now); wait > 0 {
		if deadline, ok := ctx.Deadline(); ok && deadline.Sub(now) < wait {
			g.mu.Unlock()
			return wait, context.DeadlineExceeded
		}
	}
	w := &waiter{route: route, cost: cost, open: make(chan struct{})}
	g.waiting[lane] = append(g.waiting[lane], w)
	g.let(now)
	g.mu.Unlock()
	select {
	case <-w.open:
		return 0, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.open: // in the same moment
		g.running--
	default:
		for i, other := range g.waiting[lane] {
			if other == w {
				g.waiting[lane] = append(g.waiting[lane][:i:i], g.waiting[lane][i+1:]...)
				break
			}
		}
	}
	g.let(time.Now())
	return g.estimate(lane, route, cost, time.Now()), ctx.Err()
}

// leave makes room for the next call.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	g.let(time.Now())
}

// let opens the gate for those who may go. g.mu is held.
func (g *gate) let(now time.Time) {
	var next time.Duration // until a route has points for who waits for them
	short := map[string]bool{}
	for lane, places := range [...]int{Critical: criticalPlaces, Normal: normalPlaces, Background: backgroundPlaces} {
		var stay []*waiter
		for i, w := range g.waiting[lane] {
			if g.running >= places {
				// The next call that ends opens the gate again.
				stay = append(stay, g.waiting[lane][i:]...)
				break
			}
			b := g.bucket(w.route, w.cost, now)
			if b != nil && !short[w.route] && b.points < w.cost {
				short[w.route] = true
				if wait := b.until(w.cost); next == 0 || wait < next {
					next = wait
				}
			}
			if short[w.route] {
				// Whoever comes later or is less urgent must not take the points from it.
				stay = append(stay, w)
				continue
			}
			if b != nil {
				b.points -= w.cost
			}
			g.running++
			close(w.open)
		}
		g.waiting[lane] = stay
	}
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	if next > 0 {
		g.timer = time.AfterFunc(next, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.let(time.Now())
		})
	}
}

// estimate is how long the points for a call have to be waited for, behind those
// who wait already. g.mu is held.
func (g *gate) estimate(lane Lane, route string, cost float64, now time.Time) time.Duration {
	b := g.bucket(route, cost, now)
	if b == nil {
		return 0
	}
	need := cost
	for l := range g.waiting[:lane+1] {
		for _, w := range g.waiting[l] {
			if w.route == route {
				need += w.cost
			}
		}
	}
	return b.until(need)
}

// bucket returns the route's points, nil if they are not limited. g.mu is held.
func (g *gate) bucket(route string, cost float64, now time.Time) *bucket {
	if g.changes <= 0 {
		return nil
	}
	b := g.routes[route]
	if b == nil {
		perMinute := float64(pointsPerMinute)
		if cost > 1 {
			perMinute = float64(g.changes) * cost
		}
		b = newBucket(perMinute, cost, now)
		g.routes[route] = b
	}
	b.refill(now)
	return b
}

// queued is how many calls of each lane wait.
func (g *gate) queued() (n [Background + 1]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for lane := range g.waiting {
		n[lane] = len(g.waiting[lane])
	}
	return n
}
