package providertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// T is the part of *testing.T that checks and harnesses use.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

// Harness is what the suite needs to know of a platform. Open is required;
// whatever else is missing must be declared in Cannot.
type Harness struct {
	// Open returns a provider of an owner, connected to the platform of this test
	// run. Opening an owner twice stands for a restart of the control plane: the
	// second provider must not get anything from the first one's memory.
	Open func(t T, owner string) provider.Provider
	// OpenWith is Open with room for at most max instances of this owner.
	OpenWith func(t T, owner string, max int) provider.Provider
	// Offering is what the checks ask for; the zero Offering if the platform has a default.
	Offering muster.Offering
	// End makes the machine of a runner end by itself, as when its job is done.
	End func(t T, owner string, runner muster.RunnerID)
	// Remains looks at the platform beside the provider and names everything that
	// is left of a runner: processes, directories, disks, addresses.
	Remains func(t T, owner string, runner muster.RunnerID) []string
	// Exposed returns, by place, everything about a runner's machine that somebody
	// other than the machine itself can read: arguments, environment, metadata,
	// files, labels. The boot token must be in none of it.
	Exposed func(t T, owner string, runner muster.RunnerID) map[string]string
	// Machine returns a machine that is kept, stopped, which nobody else uses; nil for
	// a platform that keeps none, and then every check of machines is passed over.
	Machine func(t T, owner string) provider.Machine
	// Patience is how long the platform may take for one change; 0 means 10 s.
	Patience time.Duration
	// Cannot declares the checks that this platform cannot pass, by name, with the reason.
	Cannot map[string]string
}

// Token is the boot token of every instance that the suite creates: a canary.
const Token = "canary-boot-token-7f3a9d1c55e04b"

// check is one promise of the contract.
type check struct {
	name string
	run  func(*suite)
}

var checks = []check{
	{"CreateShowsTheInstance", (*suite).createShowsTheInstance},
	{"CreateTwiceIsOneInstance", (*suite).createTwiceIsOneInstance},
	{"CreateAtOnceIsOneInstance", (*suite).createAtOnceIsOneInstance},
	{"RestartForgetsNothing", (*suite).restartForgetsNothing},
	{"DeleteUntilGone", (*suite).deleteUntilGone},
	{"DeleteUnknown", (*suite).deleteUnknown},
	{"DeleteAtOnce", (*suite).deleteAtOnce},
	{"CreateAgainAfterDelete", (*suite).createAgainAfterDelete},
	{"ListOnlyTheOwners", (*suite).listOnlyTheOwners},
	{"ListStopsEarly", (*suite).listStopsEarly},
	{"EndedContext", (*suite).endedContext},
	{"Capacity", (*suite).capacity},
	{"Invalid", (*suite).invalid},
	{"HostileNames", (*suite).hostileNames},
	{"NoSecrets", (*suite).noSecrets},
	{"EndsByItself", (*suite).endsByItself},
	{"MaxAge", (*suite).maxAge},
	{"MachineStartStop", (*suite).machineStartStop},
	{"MachineIdempotent", (*suite).machineIdempotent},
	{"MachineUnknown", (*suite).machineUnknown},
	{"MachineIsNobodysInstance", (*suite).machineIsNobodysInstance},
	{"MachineRestart", (*suite).machineRestart},
}

// Run runs every check as a subtest. Checks that the harness cannot are told of and passed over
// by its declaration, which is a property of the platform and the same everywhere;
// a name in Cannot that no check has is an error.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for name := range h.Cannot {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			t.Errorf("Cannot declares %q, which is no check", name)
		}
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if why, ok := h.Cannot[c.name]; ok {
				t.Logf("not applicable to this platform: %s", why)
				return
			}
			if strings.HasPrefix(c.name, "Machine") && h.Machine == nil {
				t.Log("not applicable to this platform: no machine is kept")
				return
			}
			newSuite(t, h, t.Name()).do(c)
		})
	}
}

// suite is one check in progress.
type suite struct {
	T
	h     Harness
	owner string
	p     provider.Provider
	ids   int
}

func newSuite(t T, h Harness, name string) *suite {
	if h.Patience == 0 {
		h.Patience = 10 * time.Second
	}
	// Owners are words that an operator may choose; they are not all tame.
	return &suite{T: t, h: h, owner: "conformance/" + name}
}

func (s *suite) do(c check) {
	s.p = s.h.Open(s.T, s.owner)
	s.Cleanup(func() { s.sweep(s.p) })
	c.run(s)
}

// sweep removes what a check left behind.
func (s *suite) sweep(p provider.Provider) {
	ctx, cancel := s.call()
	defer cancel()
	for inst, err := range p.List(ctx) {
		if err != nil {
			s.Errorf("list for the final sweep: %v", err)
			return
		}
		s.gone(p, inst.Runner)
	}
}

// id returns a new runner id.
func (s *suite) id() muster.RunnerID {
	s.ids++
	return muster.RunnerID(fmt.Sprintf("r-conf-%d-%d", time.Now().UnixNano()%1e9, s.ids))
}

func (s *suite) spec(id muster.RunnerID) provider.Spec {
	return provider.Spec{
		Runner: id, Owner: s.owner, Workspace: "default", Pool: "linux", Offering: s.h.Offering,
		Boot:    provider.Boot{URL: "http://127.0.0.1:9/", Token: Token},
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
	}
}

// call returns the context of one call. It outlives the test's own context,
// which ends before the clean-up runs.
func (s *suite) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.Context()), s.h.Patience)
}

func (s *suite) create(p provider.Provider, spec provider.Spec) provider.Instance {
	s.Helper()
	ctx, cancel := s.call()
	defer cancel()
	inst, err := p.Create(ctx, spec)
	if err != nil {
		s.Fatalf("create %s: %v", spec.Runner, err)
	}
	if inst.Runner != spec.Runner || inst.ID == "" {
		s.Fatalf("create %s answered %+v", spec.Runner, inst)
	}
	if inst.State != provider.InstanceStarting && inst.State != provider.InstanceRunning {
		s.Errorf("a new instance is %q", inst.State)
	}
	if age := time.Since(inst.CreatedAt); age < -time.Minute || age > time.Hour {
		s.Errorf("a new instance was created at %s", inst.CreatedAt)
	}
	return inst
}

func (s *suite) get(p provider.Provider, id muster.RunnerID) (provider.Instance, error) {
	ctx, cancel := s.call()
	defer cancel()
	return p.Get(ctx, id)
}

// list returns the instances of the owner by runner.
func (s *suite) list(p provider.Provider) map[muster.RunnerID]provider.Instance {
	s.Helper()
	ctx, cancel := s.call()
	defer cancel()
	all := map[muster.RunnerID]provider.Instance{}
	for inst, err := range p.List(ctx) {
		if err != nil {
			s.Fatalf("list: %v", err)
		}
		if _, twice := all[inst.Runner]; twice {
			s.Errorf("list yielded %s twice", inst.Runner)
		}
		all[inst.Runner] = inst
	}
	return all
}

// until polls a platform that changes by itself.
func (s *suite) until(what string, done func() bool) {
	s.Helper()
	deadline := time.NewTimer(s.h.Patience)
	defer deadline.Stop()
	for pause := time.Millisecond; !done(); pause = min(2*pause, 200*time.Millisecond) {
		select {
		case <-deadline.C:
			s.Fatalf("after %s: %s", s.h.Patience, what)
		case <-time.After(pause):
		}
	}
}

// gone deletes until the instance is proven gone, and checks the proof.
func (s *suite) gone(p provider.Provider, id muster.RunnerID) {
	s.Helper()
	s.until(fmt.Sprintf("%s is not gone", id), func() bool {
		ctx, cancel := s.call()
		defer cancel()
		err := p.Delete(ctx, id)
		if err != nil && !errors.Is(err, provider.ErrNotFound) && !errors.Is(err, provider.ErrTransient) {
			s.Fatalf("delete %s: %v", id, err)
		}
		return errors.Is(err, provider.ErrNotFound)
	})
	if inst, err := s.get(p, id); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("get after delete said gone: %+v, %v", inst, err)
	}
	if s.h.Remains != nil {
		if left := s.h.Remains(s.T, s.owner, id); len(left) > 0 {
			s.Errorf("delete said that %s is gone, and there remain %s", id, strings.Join(left, ", "))
		}
	}
}

func (s *suite) createShowsTheInstance() { // 4-51
	inst := s.create(s.p, s.spec(s.id()))
	got, err := s.get(s.p, inst.Runner)
	if err != nil || got.ID != inst.ID || got.Runner != inst.Runner || !got.CreatedAt.Equal(inst.CreatedAt) {
		s.Errorf("get after create: %+v, %v; created was %+v", got, err, inst)
	}
	if l := s.list(s.p)[inst.Runner]; l.ID != inst.ID {
		s.Errorf("list after create: %+v", l)
	}
	s.until("the instance does not run", func() bool {
		got, err := s.get(s.p, inst.Runner)
		if err != nil || got.State == provider.InstanceEnded {
			s.Fatalf("an instance that nobody ended: %+v, %v", got, err)
		}
		return got.State == provider.InstanceRunning
	})
}

func (s *suite) createTwiceIsOneInstance() {
	spec := s.spec(s.id())
	first := s.create(s.p, spec)
	spec.Boot.Token += "-of-the-second-try"
	if second := s.create(s.p, spec); second.ID != first.ID || !second.CreatedAt.Equal(first.CreatedAt) {
		s.Errorf("created twice: %+v, then %+v", first, second)
	}
	if n := len(s.list(s.p)); n != 1 {
		s.Errorf("%d instances exist", n)
	}
}

func (s *suite) createAtOnceIsOneInstance() { // 4-51
	spec := s.spec(s.id())
	other := s.h.Open(s.T, s.owner)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]int{}
	for i := range 8 {
		wg.Go(func() {
			ctx, cancel := s.call()
			defer cancel()
			p := s.p
			if i%2 == 1 {
				p = other
			}
			inst, err := p.Create(ctx, spec)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.Errorf("create at once: %v", err)
				return
			}
			ids[inst.ID]++
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		s.Errorf("create at once made several: %v", ids)
	}
	if n := len(s.list(s.p)); n != 1 {
		s.Errorf("%d instances exist", n)
	}
}

func (s *suite) restartForgetsNothing() { // 4-51
	inst := s.create(s.p, s.spec(s.id()))
	after := s.h.Open(s.T, s.owner)
	if got := s.create(after, s.spec(inst.Runner)); got.ID != inst.ID {
		s.Errorf("after a restart create made another: %+v, then %+v", inst, got)
	}
	if got, err := s.get(after, inst.Runner); err != nil || got.ID != inst.ID || !got.CreatedAt.Equal(inst.CreatedAt) {
		s.Errorf("get after a restart: %+v, %v; created was %+v", got, err, inst)
	}
	if l := s.list(after); len(l) != 1 || l[inst.Runner].ID != inst.ID {
		s.Errorf("list after a restart: %v", l)
	}
	s.gone(after, inst.Runner)
	if _, err := s.get(s.p, inst.Runner); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("what another deleted is still there: %v", err)
	}
}

func (s *suite) deleteUntilGone() {
	inst := s.create(s.p, s.spec(s.id()))
	keep := s.create(s.p, s.spec(s.id()))
	s.gone(s.p, inst.Runner)
	ctx, cancel := s.call()
	defer cancel()
	if err := s.p.Delete(ctx, inst.Runner); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("delete of what is gone: %v", err)
	}
	l := s.list(s.p)
	if _, ok := l[inst.Runner]; ok {
		s.Errorf("list yields what is gone")
	}
	if _, ok := l[keep.Runner]; !ok {
		s.Errorf("delete took another instance with it")
	}
	s.gone(s.p, keep.Runner)
}

func (s *suite) deleteUnknown() {
	ctx, cancel := s.call()
	defer cancel()
	id := s.id()
	if err := s.p.Delete(ctx, id); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("delete of an unknown runner: %v", err)
	}
	if _, err := s.p.Get(ctx, id); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("get of an unknown runner: %v", err)
	}
}

func (s *suite) deleteAtOnce() {
	inst := s.create(s.p, s.spec(s.id()))
	other := s.h.Open(s.T, s.owner)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			ctx, cancel := s.call()
			defer cancel()
			p := s.p
			if i%2 == 1 {
				p = other
			}
			err := p.Delete(ctx, inst.Runner)
			if err != nil && !errors.Is(err, provider.ErrNotFound) && !errors.Is(err, provider.ErrTransient) {
				s.Errorf("delete at once: %v", err)
			}
		})
	}
	wg.Wait()
	s.gone(s.p, inst.Runner)
}

func (s *suite) createAgainAfterDelete() {
	id := s.id()
	s.create(s.p, s.spec(id))
	s.gone(s.p, id)
	s.create(s.p, s.spec(id))
	s.gone(s.p, id)
}

func (s *suite) listOnlyTheOwners() {
	mine := s.create(s.p, s.spec(s.id()))
	theirs := newSuite(s.T, s.h, "somebody-else")
	theirs.owner = s.owner + "-of-somebody-else"
	theirs.p = s.h.Open(s.T, theirs.owner)
	s.Cleanup(func() { theirs.sweep(theirs.p) })
	// The same runner id under another owner is another instance.
	other := theirs.create(theirs.p, theirs.spec(mine.Runner))
	if other.ID == mine.ID {
		s.Errorf("two owners share instance %s", mine.ID)
	}
	second := theirs.create(theirs.p, theirs.spec(theirs.id()))
	if l := s.list(s.p); len(l) != 1 || l[mine.Runner].ID != mine.ID {
		s.Errorf("list is not ours alone: %v", slices.Collect(maps.Keys(l)))
	}
	ctx, cancel := s.call()
	defer cancel()
	if err := s.p.Delete(ctx, second.Runner); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("delete of another owner's instance: %v", err)
	}
	if _, err := s.p.Get(ctx, second.Runner); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("get of another owner's instance: %v", err)
	}
	if spec := s.spec(s.id()); true {
		spec.Owner = theirs.owner
		if inst, err := s.p.Create(ctx, spec); !errors.Is(err, provider.ErrInvalid) {
			s.Errorf("create for another owner: %+v, %v", inst, err)
		}
	}
	s.gone(s.p, mine.Runner)
	if l := theirs.list(theirs.p); len(l) != 2 {
		s.Errorf("the other owner has %d of 2 instances left", len(l))
	}
}

func (s *suite) listStopsEarly() {
	for range 3 {
		s.create(s.p, s.spec(s.id()))
	}
	ctx, cancel := s.call()
	defer cancel()
	seen := 0
	for _, err := range s.p.List(ctx) {
		if err != nil {
			s.Fatalf("list: %v", err)
		}
		if seen++; seen == 1 {
			break // a provider that yields after this panics
		}
	}
	seq := s.p.List(ctx)
	for range 2 { // a sequence can be read again, and reads afresh
		n := 0
		for _, err := range seq {
			if err != nil {
				s.Fatalf("list: %v", err)
			}
			n++
		}
		if n != 3 {
			s.Errorf("list yielded %d of 3", n)
		}
	}
}

func (s *suite) endedContext() {
	inst := s.create(s.p, s.spec(s.id()))
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	late, cancel := context.WithDeadline(s.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for name, ctx := range map[string]context.Context{"cancelled": ended, "late": late} {
		never := s.id()
		if _, err := s.p.Create(ctx, s.spec(never)); !errors.Is(err, ctx.Err()) {
			s.Errorf("create with a %s context: %v", name, err)
		}
		if _, err := s.get(s.p, never); !errors.Is(err, provider.ErrNotFound) {
			s.Errorf("create with a %s context made something: %v", name, err)
		}
		if err := s.p.Delete(ctx, inst.Runner); !errors.Is(err, ctx.Err()) {
			s.Errorf("delete with a %s context: %v", name, err)
		}
		if _, err := s.p.Get(ctx, inst.Runner); !errors.Is(err, ctx.Err()) {
			s.Errorf("get with a %s context: %v", name, err)
		}
		n, failed := 0, error(nil)
		for _, err := range s.p.List(ctx) {
			if n++; err != nil {
				failed = err
			}
		}
		// An empty list without an error would read as "everything is gone".
		if !errors.Is(failed, ctx.Err()) {
			s.Errorf("list with a %s context: %d items, %v", name, n, failed)
		}
	}
	if got, err := s.get(s.p, inst.Runner); err != nil || got.State == provider.InstanceEnded {
		s.Errorf("calls with ended contexts harmed the instance: %+v, %v", got, err)
	}
}

func (s *suite) capacity() { // 4-52
	p := s.h.OpenWith(s.T, s.owner, 2)
	a, _ := s.create(p, s.spec(s.id())), s.create(p, s.spec(s.id()))
	third := s.spec(s.id())
	ctx, cancel := s.call()
	defer cancel()
	if _, err := p.Create(ctx, third); !errors.Is(err, provider.ErrCapacity) && !errors.Is(err, provider.ErrQuota) {
		s.Fatalf("the third of two: %v", err)
	}
	if _, err := s.get(p, third.Runner); !errors.Is(err, provider.ErrNotFound) {
		s.Errorf("a refused create left something: %v", err)
	}
	s.create(p, s.spec(a.Runner)) // one that is there needs no room
	s.gone(p, a.Runner)
	s.create(p, third)

	// Many at once must not slip through together.
	s.gone(p, third.Runner)
	var wg sync.WaitGroup
	for range 6 {
		spec := s.spec(s.id())
		wg.Go(func() {
			if _, err := p.Create(ctx, spec); err != nil && !errors.Is(err, provider.ErrCapacity) && !errors.Is(err, provider.ErrQuota) {
				s.Errorf("one of many: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(s.list(p)); n != 2 {
		s.Errorf("%d instances with room for 2", n)
	}
}

func (s *suite) invalid() {
	for name, spoil := range map[string]func(*provider.Spec){
		"no runner":      func(p *provider.Spec) { p.Runner = "" },
		"no token":       func(p *provider.Spec) { p.Boot.Token = "" },
		"no url":         func(p *provider.Spec) { p.Boot.URL = "" },
		"negative age":   func(p *provider.Spec) { p.MaxAge = -1 },
		"path as runner": func(p *provider.Spec) { p.Runner = "../../../tmp/r" },
	} {
		spec := s.spec(s.id())
		spoil(&spec)
		ctx, cancel := s.call()
		inst, err := s.p.Create(ctx, spec)
		cancel()
		if !errors.Is(err, provider.ErrInvalid) {
			s.Errorf("%s: %+v, %v", name, inst, err)
		}
	}
	if l := s.list(s.p); len(l) != 0 {
		s.Errorf("invalid parameters left %v", l)
	}
}

// hostile is text that is harmless only where it is never text: in shells, paths,
// queries, templates, headers and terminals.
var hostile = []string{
	"$(touch /tmp/muster-owned)", "`id`; rm -rf .", "../../../../etc", "a\nMUSTER_URL=http://evil/", "%s%n{{.}}${HOME}",
	"\x1b[31mred", strings.Repeat("long", 4000), "ünïcödé-\u202eright-to-left", "'\"\\", "-rf", "",
}

func (s *suite) hostileNames() { // 4-32
	for _, name := range hostile {
		spec := s.spec(s.id())
		spec.Pool, spec.Workspace, spec.TraceID = name, name, name
		ctx, cancel := s.call()
		inst, err := s.p.Create(ctx, spec)
		cancel()
		switch {
		case errors.Is(err, provider.ErrInvalid):
		case err != nil:
			s.Errorf("pool %.40q: %v", name, err)
		case inst.Runner != spec.Runner:
			s.Errorf("pool %.40q: %+v", name, inst)
		default:
			s.gone(s.p, spec.Runner)
		}
	}
	victim := s.create(s.p, s.spec(s.id()))
	for _, id := range []muster.RunnerID{"", ".", "..", "../" + victim.Runner, "/", "*", victim.Runner + "\x00", victim.Runner + "/", "R-UPPER", "r-%2e%2e"} {
		ctx, cancel := s.call()
		if inst, err := s.p.Get(ctx, id); !errors.Is(err, provider.ErrNotFound) && !errors.Is(err, provider.ErrInvalid) {
			s.Errorf("get %q: %+v, %v", id, inst, err)
		}
		if err := s.p.Delete(ctx, id); !errors.Is(err, provider.ErrNotFound) && !errors.Is(err, provider.ErrInvalid) {
			s.Errorf("delete %q: %v", id, err)
		}
		cancel()
	}
	if got, err := s.get(s.p, victim.Runner); err != nil || got.State == provider.InstanceEnded {
		s.Errorf("a hostile name harmed another instance: %+v, %v", got, err)
	}
}

func (s *suite) noSecrets() { // 4-14 S0-17
	inst := s.create(s.p, s.spec(s.id()))
	s.until("the instance does not run", func() bool {
		inst, err := s.get(s.p, inst.Runner)
		return err == nil && inst.State == provider.InstanceRunning
	})
	places := s.h.Exposed(s.T, s.owner, inst.Runner)
	if len(places) == 0 {
		s.Errorf("the harness looked nowhere")
	}
	got, err := s.get(s.p, inst.Runner)
	places["Get"] = fmt.Sprintf("%+v %v", got, err)
	bad := s.spec(s.id())
	bad.MaxAge = -1
	ctx, cancel := s.call()
	defer cancel()
	_, err = s.p.Create(ctx, bad)
	places["the error of Create"] = fmt.Sprintf("%+v", err)
	for place, text := range places {
		if strings.Contains(text, Token) {
			s.Errorf("the boot token is readable in %s", place)
		}
	}
}

func (s *suite) endsByItself() {
	inst := s.create(s.p, s.spec(s.id()))
	other := s.create(s.p, s.spec(s.id()))
	s.h.End(s.T, s.owner, inst.Runner)
	s.until("the instance has not ended", func() bool {
		got, err := s.get(s.p, inst.Runner)
		if err != nil {
			s.Fatalf("an instance that ended must stay visible until it is deleted: %v", err)
		}
		return got.State == provider.InstanceEnded
	})
	// Until it is removed it is the sweep's to find, also after a restart.
	if l := s.list(s.h.Open(s.T, s.owner)); l[inst.Runner].State != provider.InstanceEnded || l[other.Runner].State == provider.InstanceEnded {
		s.Errorf("list: %v", l)
	}
	ctx, cancel := s.call()
	defer cancel()
	if again, err := s.p.Create(ctx, s.spec(inst.Runner)); err != nil || again.ID != inst.ID || again.State != provider.InstanceEnded {
		s.Errorf("create started a runner again that had ended: %+v, %v", again, err)
	}
	s.gone(s.p, inst.Runner)
}

func (s *suite) maxAge() {
	spec := s.spec(s.id())
	spec.MaxAge = time.Second
	s.create(s.p, spec)
	young := s.create(s.p, s.spec(s.id()))
	s.until("the instance is older than its maximum age and runs", func() bool {
		got, err := s.get(s.p, spec.Runner)
		return errors.Is(err, provider.ErrNotFound) || err == nil && got.State == provider.InstanceEnded
	})
	if got, err := s.get(s.p, young.Runner); err != nil || got.State == provider.InstanceEnded {
		s.Errorf("an instance without a maximum age: %+v, %v", got, err)
	}
	s.gone(s.p, spec.Runner)
}
