package lifecycle

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// 4-52: refusals of one burst count once, and only repeated ones double the wait.
func TestRefusalsOfABurstCountOnce(t *testing.T) {
	w := theWorld(t)
	now := t0
	a := &Activities{Deps: w.client.Deps, Log: w.client.log}
	a.Now = func() time.Time { return now }
	ref := PoolRef{defaultWorkspace, "burst"}
	for i, want := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second} {
		for range 10 {
			a.noteRefusal(t.Context(), ref, refusal{Text: "full", Full: true})
		}
		r := a.refusal(t.Context(), ref)
		if r.Count != i+1 || r.until().Sub(now) != want {
			t.Errorf("burst %d: counted %d, held for %s, want %s", i+1, r.Count, r.until().Sub(now), want)
		}
		now = r.until()
	}
}

// 4-52: runners that break at their start are not made in a hot loop; the job is served once they
// no longer do.
func TestRunnersThatBreakAreHeldOff(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	var boots atomic.Int32
	var seen atomic.Bool // what an operator sees goes away when a runner no longer breaks
	serve := runOneJob(jobs, done)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if boots.Add(1) > 2 && seen.Load() {
			return serve(ctx, a)
		}
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "runner ended with status 1", ExitCode: 1})
		return ""
	})
	id := w.newJob()
	jobs <- id
	w.send(t, w.event(p, id, "queued"))
	w.until(t, "the reason where an operator looks", func() bool {
		text, _ := w.client.ProviderRefusal(t.Context(), defaultWorkspace, p.Name)
		last, _, err := w.store.LastDecision(t.Context(), defaultWorkspace, p.Name)
		return err == nil && strings.Contains(text, "runner ended with status 1") && strings.Contains(last.Decision.Reason, text)
	})
	seen.Store(true)
	var all []muster.Runner
	w.until(t, "the end of the runner that serves the job", func() bool {
		all = w.runners(t, p)
		slices.SortFunc(all, func(x, y muster.Runner) int { return x.CreatedAt.Compare(y.CreatedAt) })
		last := all[len(all)-1]
		return last.Job.ID == id && last.State == muster.RunnerDestroyed
	})
	if len(all) < 3 {
		t.Fatalf("%d runners: %+v", len(all), all)
	}
	for i, want := range []time.Duration{2 * time.Second, 4 * time.Second} {
		// The wait counts from the end of the runner that broke.
		if pause := all[i+1].CreatedAt.Sub(all[i].DestroyedAt); pause < want-100*time.Millisecond {
			t.Errorf("runner %d was made %s after the end of the one before, want at least %s", i+2, pause, want)
		}
	}
	if text, _ := w.client.ProviderRefusal(t.Context(), defaultWorkspace, p.Name); text != "" {
		t.Errorf("a runner listened, and %q is still shown", text)
	}
}

// asleep is a waker that leaves pools alone.
type asleep struct{ waker }

func (asleep) pool(context.Context, PoolRef) error { return nil }

// 4-52 4-53: many pools share a platform that is full. A machine that goes lets the
// pool ask whose jobs wait longest, for one machine, and not all of them at once. A
// platform that takes machines after a while is asked for twice as many each time.
func TestRoomIsFeltFor(t *testing.T) {
	w := theWorld(t)
	now := time.Now()
	a := w.deciding(&now, func(*Deps) {})
	a.wake = asleep{}
	var pools []muster.Pool
	for i := range 5 {
		p := w.pool(t, nil, func(p *muster.Pool) { p.Provider = "shared"; p.Scaling.MaxRunners = 50 })
		w.queue(t, p, 20, now.Add(-time.Duration(i)*time.Minute)) // later pools wait longer
		a.noteRefusal(t.Context(), PoolRef{defaultWorkspace, p.Name}, refusal{Text: "full", Full: true})
		pools = append(pools, p)
	}
	room := func(p muster.Pool) (held bool, room int) {
		t.Helper()
		s, err := a.snapshot(t.Context(), PoolRef{defaultWorkspace, p.Name}, now)
		if err != nil {
			t.Fatal(err)
		}
		return !s.ProviderHeld.IsZero(), s.ProviderRoom
	}
	if err := a.roomMade(t.Context(), muster.Runner{Workspace: defaultWorkspace, Provider: "shared"}); err != nil {
		t.Fatal(err)
	}
	for i, p := range pools {
		if held, n := room(p); held != (i < 4) || n != 0 && held || n != 1 && !held {
			t.Errorf("pool %d: held %v, room %d", i, held, n)
		}
	}
	oldest := pools[4]
	ref := PoolRef{defaultWorkspace, oldest.Name}
	if err := a.noteAccepted(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if held, _ := room(oldest); !held {
		t.Error("one place was free, and the pool asks for more")
	}
	now = now.Add(10 * time.Minute)
	for _, want := range []int{2, 4, 8, 16, 0} {
		if err := a.noteAccepted(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if _, n := room(oldest); n != want {
			t.Errorf("room for %d, want %d", n, want)
		}
	}
	a.noteRefusal(t.Context(), ref, refusal{Text: "full", Full: true})
	now = now.Add(10 * time.Minute)
	if held, n := room(oldest); held || n != 1 {
		t.Errorf("after the hold: %v, room %d", held, n)
	}
	s, err := a.snapshot(t.Context(), ref, now)
	if err != nil {
		t.Fatal(err)
	}
	if d := muster.Plan(s, now); d.Create != 1 || !strings.Contains(d.Reason, "asked for 1 at a time") {
		t.Errorf("%+v", d)
	}
}
