package muster

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var breakerTime = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// 4-52 S4-71: closed, open, half-open, closed.
func TestBreakerOpensHalfOpensCloses(t *testing.T) {
	now := breakerTime
	var b Breaker
	if b.State(now) != BreakerClosed || !b.Until().IsZero() {
		t.Errorf("a new one is %s", b.State(now))
	}
	for i, hold := range []time.Duration{2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		b = b.Failed(now, "no capacity")
		if b.State(now) != BreakerOpen || b.Failures != i+1 {
			t.Fatalf("after failure %d: %s, %+v", i+1, b.State(now), b)
		}
		// Calls that were under way fail with it and lengthen nothing.
		if again := b.Failed(now.Add(time.Second), "no capacity"); again.Until() != b.Until() {
			t.Fatalf("a failure while open moved %s to %s", b.Until(), again.Until())
		}
		if got := b.Until().Sub(now); got != hold*time.Second {
			t.Fatalf("failure %d holds %s", i+1, got)
		}
		now = b.Until()
		if b.State(now) != BreakerHalfOpen {
			t.Fatalf("at its end it is %s", b.State(now))
		}
	}
	if (Breaker{}).State(now) != BreakerClosed { // what a success makes of it
		t.Error("a success does not close it")
	}
}

// 4-52: the next zone is tried, in order, and an open one is passed over.
func TestPickZone(t *testing.T) {
	zones := []string{"a", "b", "c"}
	open := Breaker{Failures: 3, At: breakerTime}                       // until +8s
	longer := Breaker{Failures: 5, At: breakerTime}                     // until +32s
	half := Breaker{Failures: 1, At: breakerTime.Add(-3 * time.Second)} // was until -1s
	for name, c := range map[string]struct {
		tried    []string
		breakers map[string]Breaker
		want     string
		ok       bool
	}{
		"the first":                   {nil, nil, "a", true},
		"the first is open":           {nil, map[string]Breaker{"a": open}, "b", true},
		"half-open is asked":          {nil, map[string]Breaker{"a": half}, "a", true},
		"the first refused":           {[]string{"a"}, map[string]Breaker{"a": open}, "b", true},
		"two refused":                 {[]string{"a", "b"}, nil, "c", true},
		"all refused":                 {[]string{"a", "b", "c"}, nil, "", false},
		"all open, the soonest":       {nil, map[string]Breaker{"a": longer, "b": open, "c": longer}, "b", true},
		"all open, the soonest tried": {[]string{"b"}, map[string]Breaker{"a": longer, "b": open, "c": longer}, "a", true},
	} {
		if got, ok := PickZone(zones, c.tried, c.breakers, breakerTime); got != c.want || ok != c.ok {
			t.Errorf("%s: %q, %t", name, got, ok)
		}
	}
}

// A breaker is never open for longer than five minutes, and a failure never shortens it.
func TestBreakerIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, b := breakerTime, Breaker{}
		for range rapid.IntRange(1, 50).Draw(t, "failures") {
			was := b.Until()
			b = b.Failed(now, "x")
			if b.Until().Before(was) || b.Until().After(now.Add(5*time.Minute)) {
				t.Fatalf("until %s after %s at %s", b.Until(), was, now)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "pause")) * time.Second)
		}
	})
}
