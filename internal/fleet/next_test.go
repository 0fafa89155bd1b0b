package fleet

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

// 4-17 4-18: whatever is known of a runner, one that is or may be busy is destroyed only by force, by its
// maximum age, or after its process has ended; and one that nobody touches always has a next look.
func TestBusyIsNeverDestroyed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
		at := func(name string) time.Time {
			if !rapid.Bool().Draw(t, name) {
				return time.Time{}
			}
			return now.Add(-time.Duration(rapid.IntRange(0, 2000).Draw(t, name+" ago")) * time.Second)
		}
		r := &runner{Runner: muster.Runner{
			State: rapid.SampledFrom([]muster.RunnerState{muster.RunnerProvisioning, muster.RunnerRegistered, muster.RunnerActive, muster.RunnerDraining}).Draw(t, "state"),
			Busy:  rapid.Bool().Draw(t, "busy"), CreatedAt: now.Add(-time.Hour), LaunchedAt: at("launched"), ConnectedAt: at("connected"), ListeningAt: at("listening"),
			FinishedAt: at("finished"), DeregisteredAt: at("deregistered"), HeartbeatAt: at("heartbeat"), GitHubID: int64(rapid.IntRange(0, 1).Draw(t, "github")),
			Drain: rapid.SampledFrom([]string{"", "told"}).Draw(t, "drain"), ActiveAt: at("active"),
		}, taken: rapid.Bool().Draw(t, "taken"), adopted: at("adopted"), vanished: rapid.Bool().Draw(t, "vanished"), again: at("again")}
		if r.State == muster.RunnerDraining && r.GitHubID == 0 && r.adopted.IsZero() {
			r.Busy, r.taken = false, false // what never registered was never given a job
		}
		l := limits{Connect: 10 * time.Second, Register: registerWithin, NoJob: 2 * time.Minute, MaxAge: 24 * time.Hour, AgentLost: 90 * time.Second}
		s := next(r, l, now)
		if r.busy() && r.FinishedAt.IsZero() && (s.Act == actDestroy || s.Act == actDeregister) {
			t.Fatalf("%+v", s)
		}
		if (s.Act == actWait || s.Act == actProbe) && (s.Until.IsZero() || !s.Until.After(now)) {
			t.Fatalf("it would look at it without a pause: %+v", s)
		}
		r.forced = true
		if s := next(r, l, now); s.Act != actDestroy {
			t.Fatalf("forced: %+v", s)
		}
		r.forced = false
		l.MaxAge = time.Minute
		if s := next(r, l, now); s.Act != actDestroy {
			t.Fatalf("too old: %+v", s)
		}
		r.State = muster.RunnerDestroyed
		if s := next(r, l, now); s.Act != actDone {
			t.Fatalf("destroyed: %+v", s)
		}
	})
}

// S1-18 4-14: tokens are bound to kind, pool and runner, and to the key.
func TestTokens(t *testing.T) {
	a, b := tokens{bytes.Repeat([]byte{1}, 32)}, tokens{bytes.Repeat([]byte{2}, 32)}
	token := a.mint(bootToken, "ci-workers", "r-abcd")
	if pool, id, err := a.verify(bootToken, token.Reveal()); err != nil || pool != "ci-workers" || id != "r-abcd" {
		t.Error(pool, id, err)
	}
	for _, bad := range []string{"", "x", token.Reveal() + "A", strings.Replace(token.Reveal(), "workers", "others", 1), strings.Replace(token.Reveal(), "boot.", "session.", 1), "boot.p.R!.x", "boot.p.r-abcd.!"} {
		for _, kind := range []string{bootToken, sessionToken} {
			if _, _, err := a.verify(kind, bad); muster.CodeOf(err) != muster.CodeUnauthenticated || bad != "" && strings.Contains(err.Error(), bad) && len(bad) > 4 {
				t.Errorf("%q as %s: %v", bad, kind, err)
			}
		}
	}
	if _, _, err := b.verify(bootToken, token.Reveal()); err == nil {
		t.Error("another fleet's token is taken")
	}
	if a.mark() == b.mark() {
		t.Error("two fleets have one mark")
	}
	if token.String() != "***" {
		t.Error("a token is shown")
	}
}

// Names on GitHub are told apart: whose runner, and whose fleet.
func TestNamed(t *testing.T) {
	f := &Fleet{tokens: tokens{bytes.Repeat([]byte{1}, 32)}}
	id := f.newID()
	name := muster.RegistrationName(strings.Repeat("p", 40), id, 0)
	for _, tc := range []struct {
		name string
		want bool
	}{{name, true}, {name + "-1", true}, {name + "-x", false}, {name + "1", false}, {"q-" + name, false}, {"", false}} {
		if named(tc.name, strings.Repeat("p", 40), id) != tc.want {
			t.Errorf("%q: %t", tc.name, !tc.want)
		}
	}
	if got, ok := f.mine(name + "-2"); !ok || got != id {
		t.Error(got, ok)
	}
	other := &Fleet{tokens: tokens{bytes.Repeat([]byte{2}, 32)}}
	if _, ok := other.mine(name); ok {
		t.Error("another fleet's runner is taken for one of ours")
	}
}
