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
	serve := runOneJob(jobs, done)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if boots.Add(1) > 2 {
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
	all := w.untilDestroyed(t, p, 3)
	slices.SortFunc(all, func(x, y muster.Runner) int { return x.CreatedAt.Compare(y.CreatedAt) })
	if len(all) != 3 || all[2].Job.ID != id {
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
