package lifecycle

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

func byToken(p *muster.Pool) { p.Registration = muster.RegistrationToken }

// receive waits for what an agent says, but not for ever.
func receive[T any](t *testing.T, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(2 * time.Minute): // as world.until
		t.Fatal("waited in vain for an agent")
	}
	return v
}

// C4 S1-9 S1-12 S1-64 S1-65 S1-67 S1-100: a runner that registers itself gets the token when its machine
// is there, is known by its id as soon as it has started, and leaves nothing behind, the token least of all.
func TestRunnerRegistersItself(t *testing.T) {
	w := theWorld(t)
	jobs, done := make(chan int64, 1), make(chan struct{})
	close(done)
	got := make(chan wire.BootResponse, 100)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		got <- a.resp
		a.w.github.join(a.name, a.resp.Registration.Labels)
		// GitHub cannot be asked at first: what is not learnt now is learnt with the next report.
		a.w.github.failNext("by name", muster.Errorf(muster.CodeUnavailable, "down"))
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseStarted})
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		var id int64
		select {
		case id = <-jobs:
		case <-ctx.Done():
			return ""
		}
		a.w.github.assign(a.name, true)
		e := a.w.event(muster.Pool{Labels: muster.Labels{a.machine.Spec.Pool}}, id, "in_progress")
		e.RunnerName = a.name
		_, _ = a.w.client.Job(ctx, e)
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseRunning, JobName: "build", Busy: true})
		<-done
		a.w.github.consume(a.name)
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "job finished"})
		e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "success", time.Now()
		_, _ = a.w.client.Job(context.WithoutCancel(ctx), e)
		return ""
	}, byToken)
	id := w.newJob()
	w.send(t, w.event(p, id, "queued"))
	resp := receive(t, got)
	reg := resp.Registration
	if reg == nil || resp.JITConfig != "" || reg.URL != "https://github.test/acme" || reg.Token != canaryToken || !reg.Ephemeral ||
		strings.Join(reg.Labels, ",") != p.RunnerLabels.String() || reg.RunnerGroup != "" || resp.SessionToken == "" {
		t.Errorf("boot answer %+v, %+v", resp, reg)
	}
	w.until(t, "its id", func() bool {
		r := w.runners(t, p)[0]
		return r.GitHubID != 0 && r.State == muster.RunnerRegistered && !r.ListeningAt.IsZero()
	})
	jobs <- id
	r := w.untilDestroyed(t, p, 1)[0]
	if r.Job.ID != id || r.Failed || r.Reason != "job finished" {
		t.Errorf("runner %+v", r)
	}
	w.until(t, "the receipt", func() bool {
		rec, err := w.store.Receipt(t.Context(), defaultWorkspace, muster.JobKey{ID: id, Attempt: 1})
		return err == nil && rec.Runner == r.ID && rec.Conclusion == "success"
	})
	if n := w.github.has(p.Name); n != 0 {
		t.Errorf("%d registrations left", n)
	}
	events, err := w.store.RunnerEvents(t.Context(), defaultWorkspace, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal([]any{events, r})
	if err != nil || strings.Contains(string(text), canaryToken) || !strings.Contains(string(text), "given a registration token of acme") {
		t.Errorf("history %s, %v", text, err)
	}
	var states []string
	for _, e := range events {
		if n := len(states); n == 0 || states[n-1] != string(e.State) {
			states = append(states, string(e.State))
		}
	}
	if got := strings.Join(states, " "); got != "provisioning registered active draining destroyed" {
		t.Errorf("states: %s", got)
	}
}

// S1-68 4-9: config.sh registers the runner and fails, or run.sh does not start: the registration, of
// which nobody knows the id, goes with the machine.
func TestNoGhostOfARunnerThatRegisteredItself(t *testing.T) {
	w := theWorld(t)
	for name, report := range map[string]wire.Report{
		"Reported": {Phase: wire.PhaseFinished, ExitCode: 22, Reason: "runner failed: RunnerRegistrationError: register runner x: config.sh left no settings"},
		"Vanished": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := make(chan struct{}, 100)
			p := w.pool(t, func(ctx context.Context, a *agent) string {
				if err := a.boot(ctx); err != nil {
					return err.Error()
				}
				a.w.github.join(a.name, nil)
				a.w.github.set(a.name, func(r *muster.RemoteRunner) { r.Online = false })
				tries <- struct{}{}
				if report.Phase != "" {
					_, _ = a.report(ctx, report)
				}
				return "" // the machine ends by itself
			}, byToken)
			id := w.newJob()
			e := w.event(p, id, "queued")
			w.send(t, e)
			receive(t, tries)
			e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
			w.send(t, e)
			for _, r := range w.untilDestroyed(t, p, 1) {
				if r.GitHubID != 0 || !r.Failed && report.Phase == "" {
					t.Errorf("runner %+v", r)
				}
			}
			w.until(t, "no registrations", func() bool { return w.github.has(p.Name) == 0 })
		})
	}
}

// 4-17 S1-68: a runner that is to go before its id is known is taken off GitHub by its name first, and
// stays as long as GitHub says that a job runs.
func TestDrainBeforeTheIDIsKnown(t *testing.T) {
	w := theWorld(t)
	booted := make(chan string, 100)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		a.w.github.join(a.name, nil)
		a.w.github.assign(a.name, true)
		booted <- a.name
		<-ctx.Done()
		return ""
	}, byToken, func(p *muster.Pool) { p.Scaling.MinRunners, p.Scaling.MaxRunners = 0, 1 })
	id := w.newJob()
	e := w.event(p, id, "queued")
	w.send(t, e)
	name := receive(t, booted)
	r := w.runners(t, p)[0]
	w.github.mu.Lock()
	refusals := w.github.calls["remove"]
	w.github.mu.Unlock()
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
	w.send(t, e)
	if err := w.client.DrainRunner(t.Context(), defaultWorkspace, r.ID, "test"); err != nil {
		t.Fatal(err)
	}
	w.until(t, "GitHub's refusal", func() bool {
		w.github.mu.Lock()
		defer w.github.mu.Unlock()
		return w.github.calls["remove"] > refusals
	})
	if r := w.runners(t, p)[0]; r.State == muster.RunnerDraining || r.State == muster.RunnerDestroyed {
		t.Errorf("a busy runner is %s: %s", r.State, r.Reason)
	}
	w.github.assign(name, false)
	if r := w.untilDestroyed(t, p, 1)[0]; r.DeregisteredAt.IsZero() || r.GitHubID != 0 {
		t.Errorf("runner %+v", r)
	}
	if n := w.github.has(p.Name); n != 0 {
		t.Errorf("%d registrations left", n)
	}
}

// S1-12: a runner that listens and that GitHub does not list goes, and says why.
func TestRunnerThatGitHubDoesNotList(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		beat := time.NewTicker(100 * time.Millisecond)
		defer beat.Stop()
		for phase := wire.PhaseListening; ; phase = wire.PhaseHeartbeat {
			if answer, err := a.report(ctx, wire.Report{Phase: phase}); err == nil && answer.Command != wire.CommandNone {
				_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "told to drain"})
				return ""
			}
			select {
			case <-beat.C:
			case <-ctx.Done():
				return ""
			}
		}
	}, byToken)
	id := w.newJob()
	e := w.event(p, id, "queued")
	w.send(t, e)
	w.until(t, "a failed runner", func() bool {
		rs := w.runners(t, p)
		return len(rs) > 0 && rs[len(rs)-1].Failed
	})
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
	w.send(t, e)
	all := w.runners(t, p)
	if r := all[len(all)-1]; !strings.Contains(r.Drain+r.Reason, "RunnerRegistrationError: it listens, but acme lists no runner "+r.Name) {
		t.Errorf("runner %+v", r)
	}
	for _, r := range all {
		if err := w.client.DrainRunner(t.Context(), defaultWorkspace, r.ID, "test"); err != nil {
			t.Error(err)
		}
	}
	w.untilDestroyed(t, p, 1)
}

// S1-23 4-10: no token for now means "ask again", under the same name; no token for good ends the runner.
func TestNoRegistrationToken(t *testing.T) {
	w := theWorld(t)
	answers, release := make(chan error, 100), make(chan struct{})
	p := w.pool(t, func(ctx context.Context, a *agent) string {
		a.w.github.failNext("token", muster.Errorf(muster.CodeUnavailable, "down"), nil, muster.Errorf(muster.CodeForbidden, "Resource not accessible by integration"))
		for range 3 {
			answers <- a.boot(ctx)
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ""
	}, byToken)
	id := w.newJob()
	e := w.event(p, id, "queued")
	w.send(t, e)
	for i, want := range []muster.Code{muster.CodeUnavailable, "", muster.CodeGone} {
		if err := receive(t, answers); muster.CodeOf(err) != want {
			t.Errorf("answer %d: %v, want %q", i+1, err, want)
		}
	}
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
	w.send(t, e)
	close(release)
	r := w.untilDestroyed(t, p, 1)[0]
	if !r.Failed || !strings.Contains(r.Reason, "Resource not accessible") || r.Name != muster.RegistrationName(p.Name, r.ID, 0) {
		t.Errorf("runner %+v", r)
	}
}
