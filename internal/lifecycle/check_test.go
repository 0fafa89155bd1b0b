package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// spares are providers that nobody uses but the test that takes them: half of them have
// the zones a and b, with a cloud each.
const spares = 16

func (w *world) addSpares(all map[string]Backend) {
	w.spare = map[string]map[string]*fake.Cloud{}
	for i := range spares {
		b := Backend{Name: spareName(i), ConnectTimeout: 2 * time.Second}
		clouds := map[string]*fake.Cloud{}
		for _, z := range []string{"", "a", "b"} {
			if (z == "") != (i%2 == 0) {
				continue
			}
			c := fake.NewCloud()
			c.OnBoot(func(ctx context.Context, m fake.Machine) string {
				w.mu.Lock()
				script := w.scripts[b.Name]
				w.mu.Unlock()
				if script == nil {
					<-ctx.Done()
					return ""
				}
				return script(ctx, &agent{w: w, machine: m, nonce: uuid.NewString()})
			})
			clouds[z] = c
			if z == "" {
				b.Provider = c.Provider("test")
			} else {
				b.Zones = append(b.Zones, Zone{Name: z, Provider: c.Provider("test")})
			}
		}
		all[b.Name], w.spare[b.Name] = b, clouds
	}
}

func spareName(i int) string { return fmt.Sprintf("spare%d", i) }

// platform takes a spare provider, whose machines do as script says, or do nothing.
func (w *world) platform(t *testing.T, script func(context.Context, *agent) string, zones ...string) (name string, clouds map[string]*fake.Cloud) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range spares {
		name = spareName(i)
		if clouds = w.spare[name]; clouds == nil || (len(clouds) > 1) != (len(zones) > 0) {
			continue
		}
		w.spare[name], w.scripts[name] = nil, script
		for _, c := range clouds {
			t.Cleanup(c.Close)
		}
		return name, clouds
	}
	t.Fatal("there are too few spare providers")
	return "", nil
}

func machinesOf(c *fake.Cloud) (ids []muster.RunnerID) {
	for in, err := range c.Provider("test").List(context.Background()) {
		if err == nil {
			ids = append(ids, in.Runner)
		}
	}
	return ids
}

func (w *world) untilGone(t *testing.T, id muster.RunnerID) {
	t.Helper()
	w.until(t, "runner "+string(id)+" is destroyed", func() bool {
		r, err := w.store.Runner(t.Context(), defaultWorkspace, id)
		return err == nil && r.State == muster.RunnerDestroyed
	})
}

// looksAround is an agent that checks its machine.
func looksAround(steps ...wire.CheckStep) func(context.Context, *agent) string {
	return func(ctx context.Context, a *agent) string {
		resp, err := a.w.client.Boot(ctx, a.machine.Spec.Boot.Token.Reveal(), wire.BootRequest{Nonce: a.nonce})
		if err != nil {
			return err.Error()
		}
		if resp.Check == nil || resp.JITConfig != "" || resp.Registration != nil {
			return "it was given a registration"
		}
		a.session = resp.SessionToken
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseStarted})
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "check passed", Check: steps})
		return ""
	}
}

// checked waits for the end of a test and returns its steps as text.
func (w *world) checked(t *testing.T, name string) (text string, passed bool) {
	t.Helper()
	check, _, err := w.client.CheckProvider(t.Context(), defaultWorkspace, name, "")
	if err != nil {
		t.Fatal(err)
	}
	var steps []muster.CheckStep
	w.until(t, "the test of the provider ends", func() bool {
		c, r, err := w.client.ProviderCheck(t.Context(), defaultWorkspace, check.Runner)
		if err != nil {
			t.Fatal(err)
		}
		var done bool
		steps, done = c.Steps(r)
		return done
	})
	for _, s := range steps {
		text += fmt.Sprintf("%s %t %s\n", s.Name, s.OK, s.Detail)
	}
	return text, muster.Passed(steps)
}

// A provider is tested with a machine of its own, which GitHub never hears of and which
// is gone afterwards.
func TestProviderCheck(t *testing.T) {
	w := theWorld(t)
	name, clouds := w.platform(t, looksAround(wire.CheckStep{Name: "disk", OK: true, Millis: 3, Detail: "plenty"}))
	text, passed := w.checked(t, name)
	for _, want := range []string{"machine accepted true", "agent connected true", "disk true plenty", "agent left true", "machine gone true", "nothing left true"} {
		if !strings.Contains(text, want) {
			t.Errorf("no step %q:\n%s", want, text)
		}
	}
	if !passed {
		t.Errorf("not passed:\n%s", text)
	}
	if n := clouds[""].Counts().Calls[fake.Create]; n != 1 {
		t.Errorf("%d machines were made", n)
	}
	if _, r, err := w.client.LastProviderCheck(t.Context(), defaultWorkspace, name); err != nil || r.GitHubID != 0 || r.Tries != 0 {
		t.Errorf("the runner of the test: %+v, %v", r, err)
	}
	_, r, err := w.client.LastProviderCheck(t.Context(), defaultWorkspace, name)
	if err != nil {
		t.Fatal(err)
	}
	wastes, err := w.store.Wastes(t.Context(), defaultWorkspace, store.UsageFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range wastes {
		if v.Runner == r.ID {
			t.Errorf("a waste was written for it: %+v", v)
		}
	}
}

func TestProviderCheckFails(t *testing.T) {
	w := theWorld(t)
	t.Run("refused", func(t *testing.T) {
		name, clouds := w.platform(t, nil)
		clouds[""].Fail(fake.Fault{Call: fake.Create, Err: provider.ErrQuota})
		text, passed := w.checked(t, name)
		if passed || !strings.Contains(text, "machine accepted false") || !strings.Contains(text, "quota exceeded") {
			t.Errorf("passed %t:\n%s", passed, text)
		}
	})
	t.Run("silent", func(t *testing.T) {
		name, _ := w.platform(t, nil)
		text, passed := w.checked(t, name)
		if passed || !strings.Contains(text, "agent connected false agent did not connect within 2s") || !strings.Contains(text, "machine gone true") {
			t.Errorf("passed %t:\n%s", passed, text)
		}
	})
	t.Run("inside", func(t *testing.T) {
		name, _ := w.platform(t, looksAround(wire.CheckStep{Name: "clock", Detail: "an hour off"}))
		if text, passed := w.checked(t, name); passed || !strings.Contains(text, "clock false an hour off") {
			t.Errorf("passed %t:\n%s", passed, text)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		if _, _, err := w.client.CheckProvider(t.Context(), defaultWorkspace, "nowhere", ""); muster.CodeOf(err) != muster.CodeNotFound || !strings.Contains(err.Error(), "fake") {
			t.Errorf("%v", err)
		}
		name, _ := w.platform(t, nil)
		if _, _, err := w.client.CheckProvider(t.Context(), defaultWorkspace, name, "no-such-offering"); muster.CodeOf(err) != muster.CodeNotFound {
			t.Errorf("%v", err)
		}
	})
}

// 4-51: a test that is under way is not begun twice, and one whose workflow was lost
// with the process is taken up by the sweep.
func TestProviderCheckOfALostProcess(t *testing.T) {
	w := theWorld(t)
	stay := make(chan struct{})
	name, _ := w.platform(t, func(ctx context.Context, a *agent) string {
		<-stay
		return looksAround(wire.CheckStep{Name: "disk", OK: true})(ctx, a)
	})
	first, _, err := w.client.CheckProvider(t.Context(), defaultWorkspace, name, "")
	if err != nil {
		t.Fatal(err)
	}
	if second, _, err := w.client.CheckProvider(t.Context(), defaultWorkspace, name, ""); err != nil || second.Runner != first.Runner {
		t.Errorf("a second test %s beside %s, %v", second.Runner, first.Runner, err)
	}
	close(stay)
	w.untilGone(t, first.Runner)

	r := muster.Runner{ID: muster.RunnerID("r-lost-" + name), Workspace: defaultWorkspace, Name: "lost-" + name, Purpose: muster.PurposeCheck, Provider: name,
		State: muster.RunnerProvisioning, CreatedAt: time.Now().Add(-time.Minute)}
	if err := w.store.AddRunner(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	a := &Activities{Deps: w.client.Deps, Log: w.client.log, wake: w.client}
	a.wakeSilent(t.Context(), []muster.Runner{r})
	w.untilGone(t, r.ID)
}

// 4-52 S4-71: a zone without room is left for the next at once, and not asked first
// again until its breaker lets it; when none has room the pool is held off.
func TestZones(t *testing.T) {
	w := theWorld(t)
	name, clouds := w.platform(t, idle, "a", "b")
	clouds["a"].Fail(fake.Fault{Call: fake.Create, Err: provider.ErrCapacity})
	p := w.pool(t, idle, func(p *muster.Pool) { p.Provider = name; p.Offering = "small" })
	w.send(t, w.event(p, w.newJob(), "queued"))
	first := w.untilListening(t, p)
	if first.Zones != "a b" || first.Zone() != "b" {
		t.Errorf("asked in %q", first.Zones)
	}
	if text, _ := w.client.ProviderRefusal(t.Context(), defaultWorkspace, p.Name); text != "" {
		t.Errorf("the pool is held off although a zone had room: %s", text)
	}
	breakers, err := w.client.Breakers(t.Context(), defaultWorkspace, name)
	if err != nil || len(breakers) != 1 || breakers[0].Zone != "a" || !strings.Contains(breakers[0].Words, "no capacity") {
		t.Errorf("breakers %+v, %v", breakers, err)
	}
	asked := clouds["a"].Counts().Calls[fake.Create]
	w.send(t, w.event(p, w.newJob(), "queued"))
	w.until(t, "the second runner has a machine", func() bool { return len(machinesOf(clouds["b"])) == 2 })
	n := clouds["a"].Counts().Calls[fake.Create]
	// On a slow machine the hold may have run out meanwhile, and then it may be asked.
	now, err := w.client.Breakers(t.Context(), defaultWorkspace, name)
	if err != nil || len(now) != 1 {
		t.Fatalf("breakers %+v, %v", now, err)
	}
	if now[0].State == muster.BreakerOpen && now[0].At.Equal(breakers[0].At) && n != asked {
		t.Errorf("a zone whose breaker is open was asked %d times more", n-asked)
	}

	// It has room again: half-open, asked, closed.
	clouds["a"].Heal()
	w.until(t, "the breaker is half open", func() bool {
		b, err := w.client.Breakers(t.Context(), defaultWorkspace, name)
		return err == nil && len(b) == 1 && b[0].State == muster.BreakerHalfOpen
	})
	w.send(t, w.event(p, w.newJob(), "queued"))
	w.until(t, "zone a is used", func() bool { return len(machinesOf(clouds["a"])) == 1 })
	w.until(t, "the breaker is closed", func() bool {
		b, err := w.client.Breakers(t.Context(), defaultWorkspace, name)
		return err == nil && len(b) == 0
	})

	// None has room: the pool is held off, with the words of all.
	for _, c := range clouds {
		c.Fail(fake.Fault{Call: fake.Create, Err: provider.ErrQuota})
	}
	w.send(t, w.event(p, w.newJob(), "queued"))
	w.until(t, "the pool is held off", func() bool {
		text, _ := w.client.ProviderRefusal(t.Context(), defaultWorkspace, p.Name)
		return strings.Contains(text, "zone a:") && strings.Contains(text, "zone b:")
	})
	for _, c := range clouds {
		c.Heal()
	}
	w.disable(t, p)
	w.until(t, "every machine of every zone is gone", func() bool {
		return len(machinesOf(clouds["a"]))+len(machinesOf(clouds["b"])) == 0
	})
}

// 4-51: after a lost answer the same zone is asked again, because the machine may be there.
func TestZoneOfALostAnswer(t *testing.T) {
	w := theWorld(t)
	name, clouds := w.platform(t, idle, "a", "b")
	clouds["a"].Fail(fake.Fault{Call: fake.Create, After: true, Times: 1})
	p := w.pool(t, idle, func(p *muster.Pool) { p.Provider = name })
	w.send(t, w.event(p, w.newJob(), "queued"))
	r := w.untilListening(t, p)
	if r.Zones != "a" || clouds["b"].Counts().Calls[fake.Create] != 0 || len(machinesOf(clouds["a"])) != 1 {
		t.Errorf("asked in %q, machines %v and %v", r.Zones, machinesOf(clouds["a"]), machinesOf(clouds["b"]))
	}
	w.disable(t, p)
	w.until(t, "the machine is gone", func() bool { return len(machinesOf(clouds["a"])) == 0 })
}

// S4-71: a platform that fails is asked by one runner at a time once its hold is over,
// whatever waits, and by all again as soon as that one has its machine.
func TestHalfOpenAsksForOne(t *testing.T) {
	w := theWorld(t)
	name, clouds := w.platform(t, idle)
	clouds[""].Fail(fake.Fault{Call: fake.Create, Err: provider.ErrQuota})
	p := w.pool(t, idle, func(p *muster.Pool) { p.Provider = name })
	for range 4 {
		w.send(t, w.event(p, w.newJob(), "queued"))
	}
	held := func() *muster.ProviderBreaker {
		all, err := w.client.Breakers(t.Context(), defaultWorkspace, name)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			return nil
		}
		return &all[0]
	}
	w.until(t, "the breaker opens", func() bool { b := held(); return b != nil && b.State == muster.BreakerOpen && b.Room == 1 })
	w.until(t, "and opens for longer", func() bool { b := held(); return b != nil && b.Failures >= 2 })
	opened := *held()
	w.until(t, "it was asked again, for one", func() bool { return held() == nil || held().Failures > opened.Failures })
	clouds[""].Heal()
	w.until(t, "all have their machines", func() bool { return len(machinesOf(clouds[""])) == 4 })
	if b := held(); b != nil {
		t.Errorf("still %+v", b)
	}
	w.disable(t, p)
	w.until(t, "the machines are gone", func() bool { return len(machinesOf(clouds[""])) == 0 })
}

func TestDefinitelyRefused(t *testing.T) {
	for err, want := range map[error]bool{
		provider.ErrCapacity: true, provider.ErrQuota: true, provider.ErrInvalid: true,
		provider.ErrTransient: false, context.DeadlineExceeded: false, errors.New("what"): false,
	} {
		if refusedForCertain(fmt.Errorf("create: %w", err)) != want {
			t.Errorf("%v: %t", err, !want)
		}
	}
}
