package lifecycle

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
)

// S2-11: twenty hours in a platform's queue are no fault; from when the machine runs, its agent has
// the platform's time to connect, and its age counts.
func TestNextOfAMachineInAQueue(t *testing.T) {
	l := testLimits
	l.Queues = true
	waits := muster.Runner{State: muster.RunnerProvisioning, CreatedAt: t0, LaunchedAt: at(time.Second)}
	up := waits
	up.UpAt = at(20 * time.Hour)
	old := up
	old.ConnectedAt, old.ListeningAt, old.GitHubID, old.State = at(20*time.Hour), at(20*time.Hour), 7, muster.RunnerRegistered
	old.Busy, old.ActiveAt, old.Job.ID = true, at(20*time.Hour), 9
	for name, c := range map[string]struct {
		r    muster.Runner
		now  time.Duration
		want act
	}{
		"waits":               {waits, 3 * time.Second, actWait},
		"waits, first look":   {waits, 4 * time.Second, actProbe},
		"waits for long":      {waits, 20 * time.Hour, actProbe},
		"runs":                {up, 20*time.Hour + l.Connect - time.Second, actProbe},
		"runs, never calls":   {up, 20*time.Hour + l.Connect, actDestroy},
		"busy for its age":    {old, 20*time.Hour + l.MaxAge - time.Second, actProbe},
		"busy beyond its age": {old, 20*time.Hour + l.MaxAge, actDestroy},
	} {
		if got := next(c.r, time.Time{}, l, at(c.now)); got.Act != c.want {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
}

// Looks into a platform's queue become rarer as the wait grows, up to the silence after which
// any machine is asked about.
func TestLooksInAQueue(t *testing.T) {
	l := testLimits
	l.Queues = true
	r := muster.Runner{State: muster.RunnerProvisioning, CreatedAt: t0, LaunchedAt: t0}
	var looks []time.Duration
	for now := time.Duration(0); now < 10*time.Minute; {
		s := next(r, time.Time{}, l, at(now))
		if s.Act == actProbe {
			looks = append(looks, now.Round(time.Second))
		}
		if !s.Until.After(at(now)) {
			t.Fatalf("at %s: %+v does not go on", now, s)
		}
		now = s.Until.Sub(t0)
	}
	want := []time.Duration{3, 6, 9, 14, 20, 30, 46, 68, 103, 154, 231, 321, 411, 501, 591}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(looks, want) {
		t.Errorf("looks at %v, want %v", looks, want)
	}
}

// Why a machine waits is written down once for each reason, and so is when it began to run.
func TestQueueIsNoted(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, func(ctx context.Context, _ *agent) string { <-ctx.Done(); return "" }, func(p *muster.Pool) { p.ConnectTimeout = time.Hour })
	w.send(t, w.event(p, w.newJob(), "queued"))
	w.until(t, "a machine", func() bool { rs := w.runners(t, p); return len(rs) == 1 && !rs[0].LaunchedAt.IsZero() })
	r := w.runners(t, p)[0]
	d := w.client.Deps
	d.Backends = map[string]Backend{"fake": {Name: "fake", Queues: true}}
	a := &Activities{Deps: d, Log: w.client.log}
	note := func(in provider.Instance) muster.Runner {
		t.Helper()
		if err := a.noteQueue(t.Context(), w.runners(t, p)[0], in); err != nil {
			t.Fatal(err)
		}
		return w.runners(t, p)[0]
	}
	const priority = "PENDING (Priority): jobs of higher priority are before it"
	for range 3 {
		if got := note(provider.Instance{Runner: r.ID, State: provider.InstanceStarting, Detail: priority}); got.Reason != "waits at provider fake: "+priority || got.Queued != priority || !got.UpAt.IsZero() {
			t.Fatalf("%+v", got)
		}
	}
	if got := note(provider.Instance{Runner: r.ID, State: provider.InstanceRunning, Detail: "RUNNING on n1"}); got.UpAt.IsZero() || got.Queued != "" {
		t.Errorf("%+v", got)
	}
	first := w.runners(t, p)[0].UpAt
	if got := note(provider.Instance{Runner: r.ID, State: provider.InstanceRunning, Detail: "RUNNING on n1"}); !got.UpAt.Equal(first) {
		t.Errorf("%s, then %s", first, got.UpAt)
	}
	events, err := w.store.RunnerEvents(t.Context(), defaultWorkspace, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range events {
		count[e.Note]++
	}
	if count["waits at provider fake: "+priority] != 1 || count["machine runs: RUNNING on n1"] != 1 {
		t.Errorf("history %v", count)
	}
}

// What a platform ended by itself says so, behind what the agent said, and once. A platform
// without a queue is not believed: there, Muster's own deletion looks the same.
func TestEndByThePlatformIsKept(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, func(ctx context.Context, _ *agent) string { <-ctx.Done(); return "" }, func(p *muster.Pool) { p.ConnectTimeout = time.Hour })
	w.send(t, w.event(p, w.newJob(), "queued"))
	w.until(t, "a machine", func() bool { rs := w.runners(t, p); return len(rs) == 1 && !rs[0].LaunchedAt.IsZero() })
	r, err := w.store.UpdateRunner(t.Context(), defaultWorkspace, w.runners(t, p)[0].ID, time.Now(), "", func(r *muster.Runner) error { r.Reason = "told to stop"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	d := w.client.Deps
	a := &Activities{Deps: d, Log: w.client.log}
	for _, c := range []struct {
		queues    bool
		why, want string
	}{
		{false, "TIMEOUT: too long", "told to stop"},
		{true, "", "told to stop"},
		{true, "TIMEOUT: too long", "told to stop; machine was ended: TIMEOUT: too long"},
		{true, "TIMEOUT: too long", "told to stop; machine was ended: TIMEOUT: too long"},
	} {
		a.Backends = map[string]Backend{"fake": {Name: "fake", Queues: c.queues}}
		if r, err = a.endedBy(t.Context(), r, c.why); err != nil || r.Reason != c.want || r.Failed != strings.Contains(c.want, "ended") {
			t.Errorf("%+v: %q, failed %t, %v", c, r.Reason, r.Failed, err)
		}
	}
}

// S2-6 S2-8 S2-9 S2-10 S2-18 S2-19 4-9 4-10: a node trades its launch token for a registration token, which GitHub is asked
// for only then; each reason to refuse has its own code.
func TestGHARunner(t *testing.T) {
	w := theWorld(t)
	born := make(chan *agent, 10)
	p := w.pool(t, func(ctx context.Context, a *agent) string { born <- a; <-ctx.Done(); return "" }, byToken, func(p *muster.Pool) { p.ConnectTimeout = time.Hour })
	asked := func() int {
		w.github.mu.Lock()
		defer w.github.mu.Unlock()
		return w.github.calls["token"]
	}
	before := asked()
	id := w.newJob()
	w.send(t, w.event(p, id, "queued"))
	a := receive(t, born)
	token := a.machine.Spec.Boot.Token.Reveal()
	claims, err := w.client.Tokens.VerifyBoot(token, time.Now())
	want := muster.BuildRequest{
		Owner: "acme", Repository: "web", RepositoryURL: "https://github.test/acme/web", GitHubURL: "https://github.test/acme", Labels: p.Labels.String(), Job: id,
	}
	if err != nil || claims.Build != want || a.machine.Spec.Build != want {
		t.Fatalf("claims %+v, spec %+v, %v", claims.Build, a.machine.Spec.Build, err)
	}
	w.until(t, "its instance", func() bool { return w.runners(t, p)[0].Instance != "" })
	job := w.runners(t, p)[0].Instance
	if n := asked() - before; n != 0 {
		t.Errorf("GitHub was asked %d times before the node called", n)
	}
	ask := func(token, job string) (wire.GHARunner, muster.Code) {
		out, err := w.client.GHARunner(t.Context(), token, job)
		return out, muster.CodeOf(err)
	}
	for name, c := range map[string]struct {
		token, job string
		want       muster.Code
	}{
		"tampered":          {token[:len(token)-4] + "AAAA", job, muster.CodeUnauthenticated},
		"no token":          {"", job, muster.CodeUnauthenticated},
		"no job":            {token, "", muster.CodeInvalid},
		"another Slurm job": {token, "other", muster.CodeForbidden},
	} {
		if _, code := ask(c.token, c.job); code != c.want {
			t.Errorf("%s: %s instead of %s", name, code, c.want)
		}
	}
	w.github.failNext("token", muster.Errorf(muster.CodeUnavailable, "rate limit"))
	if _, code := ask(token, job); code != muster.CodeUnavailable {
		t.Errorf("GitHub is down: %s", code)
	}
	for range 2 { // the answer may be lost: the same job may ask again
		got, code := ask(token, job)
		if code != "" || got.Token != canaryToken || got.URL != "https://github.test/acme" || !got.Ephemeral || got.Name != w.runners(t, p)[0].Name || got.Labels != p.RunnerLabels.String() || got.NoJobSeconds != int(p.NoJobTimeout/time.Second) {
			t.Errorf("%s %+v", code, got)
		}
	}
	// It was drained meanwhile, as when its job was cancelled: no longer needed.
	if _, err := w.store.UpdateRunner(t.Context(), defaultWorkspace, w.runners(t, p)[0].ID, time.Now(), "", func(r *muster.Runner) error { r.Drain = "its job was cancelled"; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, code := ask(token, job); code != muster.CodeGone {
		t.Errorf("drained: %s", code)
	}
}

// A pool that registers its runners by JIT gives no registration token away, and one that
// was pointed elsewhere while the job waited none of the new place.
func TestGHARunnerOfAnotherPool(t *testing.T) {
	w := theWorld(t)
	born := make(chan *agent, 10)
	p := w.pool(t, func(ctx context.Context, a *agent) string { born <- a; <-ctx.Done(); return "" }, func(p *muster.Pool) { p.ConnectTimeout = time.Hour })
	w.send(t, w.event(p, w.newJob(), "queued"))
	a := receive(t, born)
	w.until(t, "its instance", func() bool { return w.runners(t, p)[0].Instance != "" })
	job := w.runners(t, p)[0].Instance
	if _, err := w.client.GHARunner(t.Context(), a.machine.Spec.Boot.Token.Reveal(), job); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("a JIT pool: %v", err)
	}
	d := w.client.Deps
	d.WebURL = map[string]string{"app": "https://elsewhere.test"}
	c := &Client{Deps: d, log: w.client.log}
	if _, err := c.GHARunner(t.Context(), a.machine.Spec.Boot.Token.Reveal(), job); muster.CodeOf(err) != muster.CodeForbidden {
		t.Errorf("another place: %v", err)
	}
}
