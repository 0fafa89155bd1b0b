package fake_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	for name, delays := range map[string]fake.Delays{
		"AtOnce": {},
		"Slow":   {Create: 5 * time.Millisecond, Boot: 5 * time.Millisecond, Delete: 5 * time.Millisecond, Start: 10 * time.Millisecond, Stop: 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			cloud := fake.NewCloud()
			defer cloud.Close()
			cloud.SetDelays(delays)
			providertest.Run(t, providertest.Harness{
				Open: func(t providertest.T, owner string) provider.Provider {
					return cloud.Provider(owner)
				},
				OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
					cloud.SetCapacity(max)
					t.Cleanup(func() { cloud.SetCapacity(0) })
					return cloud.Provider(owner)
				},
				End: func(t providertest.T, owner string, runner muster.RunnerID) {
					cloud.End(owner, runner, "job finished")
				},
				Machine: func(t providertest.T, owner string) provider.Machine {
					m := provider.Machine{Name: "vm-" + owner, Zone: "zone-a"}
					cloud.AddMachine(m, muster.MachineTerminated)
					return m
				},
				Exposed: func(t providertest.T, owner string, runner muster.RunnerID) map[string]string {
					return map[string]string{"counts": fmt.Sprintf("%+v", cloud.Counts())}
				},
			})
		})
	}
}

func spec(id muster.RunnerID) provider.Spec {
	return provider.Spec{Runner: id, Owner: "o", Boot: provider.Boot{URL: "http://control/", Token: "canary"}}
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := fake.NewCloud()
		defer cloud.Close()
		p := cloud.Provider("o")
		ctx := t.Context()

		cloud.Fail(fake.Fault{Call: fake.Create, Times: 1, Err: provider.ErrQuota})
		if _, err := p.Create(ctx, spec("r-one")); !errors.Is(err, provider.ErrQuota) {
			t.Errorf("error class: %v", err)
		}
		if _, err := p.Get(ctx, "r-one"); !errors.Is(err, provider.ErrNotFound) {
			t.Errorf("a failed create made something: %v", err)
		}

		// 4-51: created, and the answer was lost. The retry finds it.
		cloud.Fail(fake.Fault{Call: fake.Create, Times: 1, After: true})
		if _, err := p.Create(ctx, spec("r-one")); !errors.Is(err, provider.ErrTransient) {
			t.Errorf("lost answer: %v", err)
		}
		if _, err := p.Create(ctx, spec("r-one")); err != nil || cloud.Counts().Created != 1 {
			t.Errorf("retry: %v, %+v", err, cloud.Counts())
		}

		cloud.Fail(fake.Fault{Call: fake.Get, Runner: "r-one", Hang: true})
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		began := time.Now()
		if _, err := p.Get(short, "r-one"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("hang: %v after %s", err, time.Since(began))
		}
		cloud.Heal()

		cloud.Fail(fake.Fault{Call: fake.Get, Garbage: true, Times: 1})
		if inst, err := p.Get(ctx, "r-one"); err != nil || inst.Runner == "r-one" {
			t.Errorf("garbage: %+v, %v", inst, err)
		}
		if _, err := p.Create(ctx, spec("r-two")); err != nil {
			t.Fatal(err)
		}
		cloud.Fail(fake.Fault{Call: fake.List, After: true, Times: 1})
		n, failed := 0, error(nil)
		for _, err := range p.List(ctx) {
			if err != nil {
				failed = err
			} else {
				n++
			}
		}
		if n != 1 || !errors.Is(failed, provider.ErrTransient) {
			t.Errorf("a list that broke off: %d, %v", n, failed)
		}
		cloud.Fail(fake.Fault{})
		for range 3 {
			if err := p.Delete(ctx, "r-one"); !errors.Is(err, provider.ErrTransient) {
				t.Errorf("the zero Fault: %v", err)
			}
		}
	})
}

func TestLifeOfAMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := fake.NewCloud()
		defer cloud.Close()
		cloud.SetDelays(fake.Delays{Create: time.Second, Boot: 30 * time.Second, Delete: 10 * time.Second})
		stopped := make(chan time.Duration, 1)
		cloud.OnBoot(func(ctx context.Context, m fake.Machine) string {
			began := time.Now()
			if m.Spec.Boot.Token.Reveal() != "canary" || m.State != provider.InstanceRunning {
				t.Errorf("the hook got %+v", m)
			}
			<-ctx.Done()
			stopped <- time.Since(began)
			return ""
		})
		p := cloud.Provider("o")
		began := time.Now()
		if _, err := p.Create(t.Context(), spec("r-life")); err != nil || time.Since(began) != time.Second {
			t.Fatalf("create: %v after %s", err, time.Since(began))
		}
		state := func() provider.InstanceState {
			synctest.Wait()
			inst, err := p.Get(t.Context(), "r-life")
			if err != nil {
				return provider.InstanceState(err.Error())
			}
			return inst.State
		}
		pass := func(d time.Duration) { <-time.After(d) }
		if s := state(); s != provider.InstanceStarting {
			t.Errorf("after create: %s", s)
		}
		pass(30 * time.Second)
		if s := state(); s != provider.InstanceRunning {
			t.Errorf("after boot: %s", s)
		}
		pass(time.Minute)
		if err := p.Delete(t.Context(), "r-life"); err != nil {
			t.Error(err)
		}
		if d := <-stopped; d != time.Minute {
			t.Errorf("the hook ran for %s", d)
		}
		if s := state(); s != provider.InstanceEnded {
			t.Errorf("while it goes: %s", s)
		}
		if err := p.Delete(t.Context(), "r-life"); err != nil {
			t.Errorf("a repeated delete while it goes: %v", err)
		}
		pass(10 * time.Second)
		synctest.Wait()
		if err := p.Delete(t.Context(), "r-life"); !errors.Is(err, provider.ErrNotFound) {
			t.Errorf("when it is gone: %v", err)
		}
		if c := cloud.Counts(); c.Created != 1 || c.Live != 0 || c.Peak != 1 || c.Calls[fake.Delete] != 3 {
			t.Errorf("counts: %+v", c)
		}
	})
}

func TestHookEndsTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := fake.NewCloud()
		defer cloud.Close()
		cloud.OnBoot(func(context.Context, fake.Machine) string { return "job finished" })
		p := cloud.Provider("o")
		if _, err := p.Create(t.Context(), spec("r-hook")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if inst, err := p.Get(t.Context(), "r-hook"); err != nil || inst.State != provider.InstanceEnded || inst.Detail != "job finished" {
			t.Errorf("%+v, %v", inst, err)
		}
	})
}

// 4-20: a start in the wrong moment is refused, and what somebody does by the
// platform's console is seen.
func TestKeptMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := fake.NewCloud()
		defer cloud.Close()
		cloud.SetDelays(fake.Delays{Start: time.Minute, Stop: 30 * time.Second})
		p, ctx := cloud.Provider("o"), t.Context()
		vm := provider.Machine{Name: "vm", Zone: "z"}
		cloud.AddMachine(vm, muster.MachineTerminated)
		inside := make(chan string, 2)
		cloud.OnStart(func(ctx context.Context, m provider.Machine) {
			inside <- "up " + m.Name
			<-ctx.Done()
			inside <- "down"
		})
		is := func(want muster.MachineStatus) {
			t.Helper()
			synctest.Wait()
			if st, err := p.Status(ctx, vm); err != nil || st.Status != want {
				t.Errorf("%s, %v; want %s", st.Status, err, want)
			}
		}
		if _, err := p.Start(ctx, vm); err != nil {
			t.Fatal(err)
		}
		is(muster.MachineProvisioning)
		<-time.After(31 * time.Second)
		is(muster.MachineStaging)
		<-time.After(30 * time.Second)
		is(muster.MachineRunning)
		if got := <-inside; got != "up vm" {
			t.Error(got)
		}
		if _, err := p.Stop(ctx, vm); err != nil {
			t.Fatal(err)
		}
		is(muster.MachineStopping)
		if got := <-inside; got != "down" {
			t.Error(got)
		}
		if _, err := p.Start(ctx, vm); !errors.Is(err, provider.ErrTransient) {
			t.Errorf("start while stopping: %v", err)
		}
		<-time.After(31 * time.Second)
		is(muster.MachineTerminated)
		cloud.SetMachine(vm, muster.MachineSuspended)
		if _, err := p.Start(ctx, vm); !errors.Is(err, provider.ErrTransient) {
			t.Errorf("start while suspended: %v", err)
		}
		cloud.Fail(fake.Fault{Call: fake.Status, Runner: "vm", Times: 1})
		if _, err := p.Status(ctx, vm); !errors.Is(err, provider.ErrTransient) {
			t.Errorf("a fault: %v", err)
		}
		cloud.Fail(fake.Fault{Call: fake.Status, Garbage: true, Times: 1})
		is("CONFUSED")
		if got := cloud.Machine(vm); got.Starts != 1 || got.Stops != 1 || got.Status != muster.MachineSuspended {
			t.Errorf("%+v", got)
		}
	})
}
