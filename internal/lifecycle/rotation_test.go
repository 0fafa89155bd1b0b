package lifecycle

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

func warm(rotation time.Duration) func(*muster.Pool) {
	return func(p *muster.Pool) {
		p.Scaling = muster.OnDemandScaling()
		p.Scaling.MinRunners, p.Scaling.MaxRunners = 1, 3
		p.RotationInterval = rotation
	}
}

// S1-56 S1-72 S1-73 S1-74 C20: a runner that waits for work is replaced when it is old. The new one
// comes first; one that never connects, that is registered but does not listen, or that GitHub does
// not list as online leaves the old one where it is.
func TestRotation(t *testing.T) {
	w := theWorld(t)
	var boots atomic.Int32
	listen := make(chan struct{})
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		switch boots.Add(1) {
		case 2: // the first replacement never connects
			<-ctx.Done()
			return ""
		case 3: // the second listens when it is told to
			if err := a.boot(ctx); err != nil {
				return err.Error()
			}
			w.github.set(a.name, func(r *muster.RemoteRunner) { r.Online = false })
			select {
			case <-listen:
				_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
			case <-ctx.Done():
			}
			<-ctx.Done()
			return ""
		}
		return idle(ctx, a)
	}, warm(4*time.Second))
	if err := w.client.NudgePool(t.Context(), defaultWorkspace, p.Name); err != nil {
		t.Fatal(err)
	}
	old := w.untilListening(t, p)
	if !old.Warm {
		t.Errorf("the floor's runner is not warm: %+v", old)
	}
	// stays fails if the old runner was touched; it returns the runner that is to replace it.
	stays := func(when string) (next muster.Runner) {
		t.Helper()
		for _, r := range w.runners(t, p) {
			switch {
			case r.ID == old.ID:
				if r.State != muster.RunnerRegistered || r.Drain != "" || !r.DeregisteredAt.IsZero() {
					t.Errorf("%s: the old runner is %s, asked to drain: %q", when, r.State, r.Drain)
				}
			case r.State.Live():
				if next.ID != "" {
					t.Errorf("%s: %s and %s are both made to replace it", when, next.ID, r.ID)
				}
				next = r
			}
		}
		return next
	}
	w.until(t, "a replacement that failed", func() bool {
		for _, r := range w.runners(t, p) {
			if r.Failed && r.State == muster.RunnerDestroyed {
				return true
			}
		}
		return false
	})
	stays("after a replacement that never connected")

	w.until(t, "a replacement that is registered", func() bool {
		for _, r := range w.runners(t, p) {
			if r.ID != old.ID && r.State == muster.RunnerRegistered {
				return true
			}
		}
		return false
	})
	decide := func() muster.Decision {
		t.Helper()
		last, _, err := w.store.LastDecision(t.Context(), defaultWorkspace, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.client.NudgePool(t.Context(), defaultWorkspace, p.Name); err != nil {
			t.Fatal(err)
		}
		next := last
		w.until(t, "another decision", func() bool {
			next, _, err = w.store.LastDecision(t.Context(), defaultWorkspace, p.Name)
			return err == nil && (next.ID != last.ID || next.Count > last.Count)
		})
		return next.Decision
	}
	decide()
	replacement := stays("while the replacement does not listen")
	close(listen)
	w.until(t, "the replacement to listen", func() bool {
		r, err := w.store.Runner(t.Context(), defaultWorkspace, replacement.ID)
		return err == nil && !r.ListeningAt.IsZero()
	})
	if d := decide(); d.Rule != muster.RuleRotation || !strings.Contains(d.Reason, "as online") {
		t.Errorf("while GitHub says offline: %s: %s", d.Rule, d.Reason)
	}
	stays("while GitHub says offline")

	w.github.connect(replacement.Name)
	if err := w.client.NudgePool(t.Context(), defaultWorkspace, p.Name); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the old runner's end", func() bool {
		r, err := w.store.Runner(t.Context(), defaultWorkspace, old.ID)
		old = r
		return err == nil && r.State == muster.RunnerDestroyed
	})
	replacement, err := w.store.Runner(t.Context(), defaultWorkspace, replacement.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !old.CreatedAt.Before(replacement.CreatedAt) || !replacement.ListeningAt.Before(old.DeregisteredAt) || old.DeregisteredAt.After(old.DestroyedAt) {
		t.Errorf("order: new one made %s, listening %s; old one deregistered %s, destroyed %s",
			replacement.CreatedAt, replacement.ListeningAt, old.DeregisteredAt, old.DestroyedAt)
	}
	if old.Failed || !strings.HasPrefix(old.Reason, muster.RuleRotation) {
		t.Errorf("the old runner went because %q", old.Reason)
	}
	w.disable(t, p)
}

// S1-55: the floor is kept while jobs come and go, and every runner serves one job.
func TestWarmFloor(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64), make(chan struct{})
	close(done)
	p := w.pool(t, runOneJob(jobs, done), warm(24*time.Hour))
	if err := w.client.NudgePool(t.Context(), defaultWorkspace, p.Name); err != nil {
		t.Fatal(err)
	}
	served := map[muster.RunnerID]bool{}
	for range 3 {
		var ready muster.Runner
		w.until(t, "one runner that waits for work", func() bool {
			live := 0
			for _, r := range w.runners(t, p) {
				if r.State.Live() {
					live++
					ready = r
				}
			}
			return live == 1 && ready.State == muster.RunnerRegistered && !ready.ListeningAt.IsZero()
		})
		if served[ready.ID] || !ready.Warm {
			t.Fatalf("the floor's runner: %+v", ready)
		}
		served[ready.ID] = true
		id := w.newJob()
		w.send(t, w.event(p, id, "queued"))
		jobs <- id
		w.until(t, "the job's receipt", func() bool {
			rec, err := w.store.Receipt(t.Context(), defaultWorkspace, muster.JobKey{ID: id, Attempt: 1})
			return err == nil && rec.Runner == ready.ID
		})
	}
	w.until(t, "the floor's next runner", func() bool {
		rs := w.runners(t, p)
		return len(rs) == 4 && rs[0].State == muster.RunnerRegistered
	})
	w.disable(t, p)
}

// S1-75: healthy means that GitHub says online; everything else is no.
func TestHealthy(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, idle)
	w.send(t, w.event(p, w.newJob(), "queued"))
	r := w.untilListening(t, p)
	for _, c := range []struct {
		name   string
		online bool
		err    error
		want   bool
	}{
		{"Online", true, nil, true},
		{"Offline", false, nil, false},
		{"NotFound", true, muster.Errorf(muster.CodeNotFound, "Not Found"), false},
		{"ServerError", true, muster.Errorf(muster.CodeUnavailable, "GitHub answered 500"), false},
		{"Forbidden", true, muster.Errorf(muster.CodeForbidden, "Resource not accessible by integration"), false},
		{"OnlineAgain", true, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.github.set(r.Name, func(r *muster.RemoteRunner) { r.Online = c.online })
			if c.err != nil {
				w.github.failNext("runner", c.err)
			}
			if got := w.client.Healthy(t.Context(), defaultWorkspace, r.ID); got != c.want {
				t.Errorf("healthy = %t, want %t", got, c.want)
			}
		})
	}
	if w.client.Healthy(t.Context(), defaultWorkspace, "r-nobody") || w.client.Healthy(t.Context(), "elsewhere", r.ID) {
		t.Error("a runner that is not there is healthy")
	}
	w.disable(t, p)
}
