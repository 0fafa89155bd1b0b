package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

var (
	t0         = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	testLimits = limits{
		Connect: 10 * time.Second, Register: 10 * time.Minute, NoJob: 2 * time.Minute,
		MaxAge: 5 * 24 * time.Hour, AgentLost: 90 * time.Second, Sealed: 2 * time.Minute,
	}
)

func at(d time.Duration) time.Time { return t0.Add(d) }

func TestNext(t *testing.T) {
	provisioning := muster.Runner{State: muster.RunnerProvisioning, CreatedAt: t0}
	launched := provisioning
	launched.LaunchedAt = at(time.Second)
	connected := launched
	connected.ConnectedAt, connected.HeartbeatAt, connected.GitHubID, connected.State = at(2*time.Second), at(2*time.Second), 7, muster.RunnerRegistered
	listening := connected
	listening.ListeningAt = at(3 * time.Second)
	busy := listening
	busy.Busy, busy.ActiveAt, busy.State, busy.Job.ID = true, at(4*time.Second), muster.RunnerActive, 9
	finished := busy
	finished.Busy, finished.FinishedAt, finished.Reason = false, at(9*time.Second), "job finished"
	with := func(r muster.Runner, f func(*muster.Runner)) muster.Runner { f(&r); return r }
	fresh := func(now time.Duration) func(*muster.Runner) {
		return func(r *muster.Runner) { r.HeartbeatAt = at(now) }
	}

	// GitHub says that the runner has had its job; its machine says nothing.
	ranOne := func(r *muster.Runner) { r.ActiveAt = at(4 * time.Second) }

	for name, tc := range map[string]struct {
		r       muster.Runner
		jobDone time.Time
		now     time.Duration
		want    act
		until   time.Duration // of a wait, 0 to leave unchecked
		failed  bool
	}{
		"new":                            {r: provisioning, want: actLaunch},
		"launched":                       {r: launched, now: 2 * time.Second, want: actWait, until: 11 * time.Second},
		"agent never connects":           {r: launched, now: 11 * time.Second, want: actDestroy, failed: true}, // 4-26
		"connected":                      {r: connected, now: 5 * time.Second, want: actWait},
		"agent silent after connecting":  {r: connected, now: 92 * time.Second, want: actProbe},
		"never listens":                  {r: with(connected, fresh(11*time.Minute)), now: 11 * time.Minute, want: actDeregister, failed: true},
		"listening":                      {r: listening, now: 5 * time.Second, want: actWait, until: 92 * time.Second},
		"no job, agent deals with it":    {r: with(listening, fresh(124*time.Second)), now: 124 * time.Second, want: actWait, until: 183 * time.Second},
		"no job, agent has not":          {r: with(listening, fresh(183*time.Second)), now: 183 * time.Second, want: actDeregister}, // S2-13
		"busy":                           {r: busy, now: 10 * time.Second, want: actWait},
		"busy for hours":                 {r: with(busy, fresh(100*time.Hour)), now: 100 * time.Hour, want: actWait},
		"busy and silent":                {r: busy, now: time.Hour, want: actProbe},                                                              // 4-18: unknown is busy
		"busy and asked to drain":        {r: with(busy, func(r *muster.Runner) { r.Drain = "operator" }), now: 10 * time.Second, want: actWait}, // 4-17
		"job completed, agent not done":  {r: with(busy, fresh(40*time.Second)), jobDone: at(30 * time.Second), now: 40 * time.Second, want: actWait},
		"job completed, agent overdue":   {r: with(busy, fresh(151*time.Second)), jobDone: at(30 * time.Second), now: 151 * time.Second, want: actDeregister},
		"job done, its end not told":     {r: with(with(listening, fresh(40*time.Second)), ranOne), jobDone: at(30 * time.Second), now: 40 * time.Second, want: actWait, until: 130 * time.Second},
		"job done, its end never told":   {r: with(with(listening, fresh(151*time.Second)), ranOne), jobDone: at(30 * time.Second), now: 151 * time.Second, want: actDeregister},
		"warm, its end never told":       {r: with(with(with(listening, fresh(151*time.Second)), ranOne), func(r *muster.Runner) { r.Warm, r.ListeningAt = true, time.Time{} }), jobDone: at(30 * time.Second), now: 151 * time.Second, want: actDeregister},
		"maximum age, idle":              {r: with(listening, fresh(121*time.Hour)), now: 121 * time.Hour, want: actDestroy, failed: true},
		"maximum age, busy":              {r: with(busy, fresh(121*time.Hour)), now: 121 * time.Hour, want: actDestroy, failed: true},
		"idle and asked to drain":        {r: with(listening, func(r *muster.Runner) { r.Drain = "rotation" }), now: 10 * time.Second, want: actDeregister}, // C21
		"finished":                       {r: finished, now: 10 * time.Second, want: actDestroy},
		"draining, still registered":     {r: with(listening, func(r *muster.Runner) { r.State = muster.RunnerDraining }), now: 10 * time.Second, want: actDeregister},
		"draining, deregistered":         {r: with(listening, func(r *muster.Runner) { r.State, r.DeregisteredAt = muster.RunnerDraining, at(9*time.Second) }), now: 10 * time.Second, want: actDestroy},
		"draining, was never registered": {r: with(launched, func(r *muster.Runner) { r.State = muster.RunnerDraining }), now: 10 * time.Second, want: actDestroy},
		"destroyed":                      {r: with(finished, func(r *muster.Runner) { r.State = muster.RunnerDestroyed }), want: actDone},
	} {
		t.Run(name, func(t *testing.T) {
			got := next(tc.r, tc.jobDone, testLimits, at(tc.now))
			if got.Act != tc.want || got.Failed != tc.failed {
				t.Fatalf("got %+v, want %s failed=%t", got, tc.want, tc.failed)
			}
			if tc.until != 0 && !got.Until.Equal(at(tc.until)) {
				t.Errorf("waits until %s, want %s", got.Until.Sub(t0), tc.until)
			}
			if got.Act == actWait && !got.Until.After(at(tc.now)) {
				t.Errorf("waits until %s, which is not after now %s", got.Until.Sub(t0), tc.now)
			}
			if got.BusyKill != (name == "maximum age, busy") {
				t.Errorf("BusyKill = %t", got.BusyKill)
			}
		})
	}
}

// 4-17 4-18 S1-71: whatever the row says, a busy runner is never deleted before
// its maximum age, and every wait ends.
func TestNextNeverEndsABusyRunner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moment := func(name string) time.Time {
			if rapid.Bool().Draw(t, name+" set") {
				return at(time.Duration(rapid.Int64Range(0, int64(6*24*time.Hour)).Draw(t, name)))
			}
			return time.Time{}
		}
		r := muster.Runner{
			State: rapid.SampledFrom([]muster.RunnerState{muster.RunnerProvisioning, muster.RunnerRegistered, muster.RunnerActive}).Draw(t, "state"),
			Busy:  true, CreatedAt: t0, LaunchedAt: at(time.Second), GitHubID: 7, Drain: rapid.SampledFrom([]string{"", "rotation"}).Draw(t, "drain"),
			ConnectedAt: moment("connected"), ListeningAt: moment("listening"), ActiveAt: moment("active"), HeartbeatAt: moment("heartbeat"),
		}
		now := at(time.Duration(rapid.Int64Range(0, int64(7*24*time.Hour)).Draw(t, "now")))
		got := next(r, moment("job done"), testLimits, now)
		if got.Act == actDestroy && now.Before(t0.Add(testLimits.MaxAge)) {
			t.Fatalf("a busy runner would be destroyed at age %s: %+v", now.Sub(t0), got)
		}
		if (got.Act == actWait || got.Act == actProbe) && (got.Until.IsZero() || !got.Until.After(now)) {
			t.Fatalf("a wait that does not end: %+v", got)
		}
	})
}

// S1-71: a runner that nobody touches reaches destroy by itself, whatever it got stuck in.
func TestNextAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := muster.Runner{State: muster.RunnerProvisioning, CreatedAt: t0, LaunchedAt: at(time.Second)}
		stuck := rapid.IntRange(0, 3).Draw(t, "stuck after")
		if stuck > 0 {
			r.ConnectedAt, r.HeartbeatAt, r.GitHubID, r.State = at(2*time.Second), at(2*time.Second), 7, muster.RunnerRegistered
		}
		if stuck > 1 {
			r.ListeningAt = at(3 * time.Second)
		}
		if stuck > 2 {
			r.Busy, r.ActiveAt, r.State = true, at(4*time.Second), muster.RunnerActive
		}
		now := at(time.Second)
		for range 100_000 {
			switch s := next(r, time.Time{}, testLimits, now); s.Act {
			case actWait, actProbe:
				now = s.Until
			case actDeregister:
				r.State, r.DeregisteredAt = muster.RunnerDraining, now
			case actDestroy:
				return
			default:
				t.Fatalf("unexpected %+v", s)
			}
		}
		t.Fatal("the runner never ends")
	})
}

// Callers who come while a turn runs share the next one, which begins after all of
// them asked.
func TestTrailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trailing[string]
		release := make(chan struct{})
		runs := 0 // only one run at a time, so no lock
		f := func() error {
			runs++
			<-release
			return nil
		}
		const callers = 50
		done := make(chan error, callers)
		go func() { done <- tr.do("k", f) }()
		synctest.Wait() // the first runs and is held
		for range callers - 1 {
			go func() { done <- tr.do("k", f) }()
		}
		synctest.Wait() // all of them wait for the next turn
		if runs != 1 {
			t.Errorf("%d runs at once", runs)
		}
		close(release)
		for range callers {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if runs != 2 {
			t.Errorf("%d callers caused %d runs, want 2", callers, runs)
		}
		if len(tr.m) != 0 {
			t.Errorf("%d keys left behind", len(tr.m))
		}
	})
}

func TestRefusalUntil(t *testing.T) { // 4-52
	for count, want := range map[int]time.Duration{1: 2 * time.Second, 3: 8 * time.Second, 40: 5 * time.Minute} {
		if until := (refusal{Count: count, At: t0}).until(); until.Sub(t0) != want {
			t.Errorf("%d refusals hold for %s, want %s", count, until.Sub(t0), want)
		}
	}
	if until := (refusal{}).until(); !until.IsZero() {
		t.Errorf("no refusal holds until %s", until)
	}
}
