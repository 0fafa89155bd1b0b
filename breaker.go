package muster

import (
	"fmt"
	"time"
)

// BreakerState says whether a platform is asked.
type BreakerState string

// The states of a breaker: everything is asked, nothing is, or one to find out.
const (
	BreakerClosed   BreakerState = "closed"
	BreakerOpen     BreakerState = "open"
	BreakerHalfOpen BreakerState = "half_open"
)

// Breaker counts the failures in a row of something that is asked again and again, and
// says when it may be asked next (4-52, S4-71): after 2, 4, 8 … seconds, five minutes at
// the most. The zero Breaker is closed.
type Breaker struct {
	// Failures is how many in a row; those that come while it is open count once, since
	// they were asked for together.
	Failures int `json:"failures,omitempty"`
	// At is when the last failure that counted was, Words what was said.
	At    time.Time `json:"at,omitzero"`
	Words string    `json:"words,omitempty"`
}

// maxBreak is the longest that a breaker stays open.
const maxBreak = 5 * time.Minute

// Until is when it may be asked again; zero for a closed one.
func (b Breaker) Until() time.Time {
	if b.Failures == 0 {
		return time.Time{}
	}
	return b.At.Add(min(maxBreak, time.Second<<min(b.Failures, 9)))
}

// State is the breaker's at a time.
func (b Breaker) State(now time.Time) BreakerState {
	switch {
	case b.Failures == 0:
		return BreakerClosed
	case now.Before(b.Until()):
		return BreakerOpen
	}
	return BreakerHalfOpen
}

// Failed is the breaker after one more failure. Asked for together, failures count
// once: a burst of them must not close a platform for minutes.
func (b Breaker) Failed(now time.Time, words string) Breaker {
	if b.State(now) != BreakerOpen {
		b.Failures, b.At = b.Failures+1, now
	}
	b.Words = words
	return b
}

// String says how the breaker stands, and why: "open until …: no capacity".
func (b Breaker) String() string {
	if b.Failures == 0 {
		return string(BreakerClosed)
	}
	return fmt.Sprintf("%s failed, the next is asked at %s: %s", count(b.Failures, "call"), clock(b.Until()), b.Words)
}

// ProviderBreaker is a breaker that is not closed: a pool's, or that of a zone and a size.
type ProviderBreaker struct {
	Breaker
	Pool     string
	Zone     string
	Offering string
	State    BreakerState
	// Room is how many machines may be starting while it is half open; 0 is no limit.
	Room int
}

// PickZone chooses where to ask for a machine: the first zone in configured order that
// is not open, or else, because whoever asks has waited already, the one that opens up
// first. Zones in tried are passed over; "" and false if none is left.
func PickZone(zones []string, tried []string, breakers map[string]Breaker, now time.Time) (zone string, ok bool) {
	var soonest time.Time
	for _, z := range zones {
		if (Labels(tried)).Has(z) {
			continue
		}
		b := breakers[z]
		if b.State(now) != BreakerOpen {
			return z, true
		}
		if until := b.Until(); !ok || until.Before(soonest) {
			zone, soonest, ok = z, until, true
		}
	}
	return zone, ok
}
