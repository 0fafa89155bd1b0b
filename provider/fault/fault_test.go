package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
	"github.com/muster-ci/muster/provider/providertest"
)

// Without faults it is the provider behind it.
func TestTransparent(t *testing.T) {
	cloud := fake.NewCloud()
	t.Cleanup(cloud.Close)
	providertest.Run(t, providertest.Harness{
		Open: func(_ providertest.T, owner string) provider.Provider { return New(cloud.Provider(owner), Config{}) },
		OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
			cloud.SetCapacity(max)
			t.Cleanup(func() { cloud.SetCapacity(0) })
			return New(cloud.Provider(owner), Config{})
		},
		End: func(_ providertest.T, owner string, id muster.RunnerID) { cloud.End(owner, id, "done") },
		Exposed: func(_ providertest.T, _ string, _ muster.RunnerID) map[string]string {
			return map[string]string{"counts": fmt.Sprintf("%+v", cloud.Counts())}
		},
		Machine: func(_ providertest.T, owner string) provider.Machine {
			m := provider.Machine{Name: "vm-" + owner, Zone: "zone-a"}
			cloud.AddMachine(m, muster.MachineTerminated)
			return m
		},
	})
}

func spec(id muster.RunnerID) provider.Spec {
	return provider.Spec{Runner: id, Owner: "muster", Boot: provider.Boot{URL: "http://127.0.0.1:9", Token: "t"}}
}

// one makes a provider every call of which has the fault.
func one(t *testing.T, k Kind, seed uint64) (*Provider, *fake.Provider) {
	t.Helper()
	cloud := fake.NewCloud()
	t.Cleanup(cloud.Close)
	behind := cloud.Provider("muster")
	return New(behind, Config{Seed: seed, Rate: 1, Kinds: []Kind{k}, Hang: time.Minute}), behind
}

func listed(p provider.Provider) (ids []muster.RunnerID, err error) {
	for in, e := range p.List(context.Background()) {
		if e != nil {
			return ids, e
		}
		ids = append(ids, in.Runner)
	}
	return ids, nil
}

func TestFaultsOfCreate(t *testing.T) {
	for k, c := range map[Kind]struct {
		classes []error
		exists  bool
	}{
		Refused:   {[]error{provider.ErrCapacity, provider.ErrQuota}, false},
		Transient: {[]error{provider.ErrTransient}, false},
		Lost:      {[]error{provider.ErrTransient}, true},
	} {
		for seed := range uint64(8) {
			p, behind := one(t, k, seed)
			_, err := p.Create(t.Context(), spec("r-one"))
			if !slices.ContainsFunc(c.classes, func(class error) bool { return errors.Is(err, class) }) {
				t.Errorf("%s: %v", k, err)
			}
			if ids, _ := listed(behind); (len(ids) == 1) != c.exists {
				t.Errorf("%s: there are %v", k, ids)
			}
		}
	}
	p, behind := one(t, Garbage, 1)
	in, err := p.Create(t.Context(), spec("r-one"))
	if err != nil || in.Runner == "r-one" {
		t.Errorf("garbage: %+v, %v", in, err)
	}
	if ids, _ := listed(behind); len(ids) != 1 {
		t.Errorf("garbage: there are %v", ids)
	}
}

// No fault may claim that a machine is gone which is there.
func TestDeleteNeverLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := fake.NewCloud()
		defer cloud.Close()
		behind := cloud.Provider("muster")
		p := New(behind, Config{Seed: 7, Rate: 0.7})
		for i := range 200 {
			id := muster.RunnerID(fmt.Sprintf("r-%d-abc", i))
			if _, err := behind.Create(t.Context(), spec(id)); err != nil {
				t.Fatal(err)
			}
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := p.Delete(ctx, id)
				cancel()
				if errors.Is(err, provider.ErrNotFound) {
					break
				}
			}
			if _, err := behind.Get(t.Context(), id); !errors.Is(err, provider.ErrNotFound) {
				t.Fatalf("%s was said to be gone: %v", id, err)
			}
		}
		if c := p.Counts(); len(c) != len(Kinds) {
			t.Errorf("faults %v, not all of %v", c, Kinds)
		}
	})
}

func TestHangRespectsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := one(t, Hang, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := p.Get(ctx, "r-one"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		began = time.Now()
		if err := p.Delete(t.Context(), "r-one"); !errors.Is(err, provider.ErrTransient) || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

func TestListBreaksOff(t *testing.T) {
	p, behind := one(t, Garbage, 1)
	for i := range 3 {
		if _, err := behind.Create(t.Context(), spec(muster.RunnerID(fmt.Sprintf("r-%d-abc", i)))); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := listed(p); len(ids) != 1 || !errors.Is(err, provider.ErrTransient) {
		t.Errorf("%v, %v", ids, err)
	}
}

func TestSameSeedSameFaults(t *testing.T) {
	play := func(seed uint64) (out []Kind) {
		p, _ := one(t, Lost, seed)
		p.cfg.Rate, p.cfg.Kinds = 0.5, Kinds
		for range 100 {
			k, _ := p.next()
			out = append(out, k)
		}
		return out
	}
	if !slices.Equal(play(3), play(3)) || slices.Equal(play(3), play(4)) {
		t.Error("the seed does not decide")
	}
}

func TestRate(t *testing.T) {
	p, _ := one(t, Transient, 1)
	p.cfg.Rate = 0.2
	for range 10000 {
		p.next()
	}
	if n := p.Counts()[Transient]; n < 1800 || n > 2200 {
		t.Errorf("%d of 10000 at 20 %%", n)
	}
}

func TestParse(t *testing.T) {
	c, err := Parse("seed=5, rate=0.2, hang=3s, kinds=lost+hang")
	if err != nil || c.Seed != 5 || c.Rate != 0.2 || c.Hang != 3*time.Second || !slices.Equal(c.Kinds, []Kind{Lost, Hang}) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{"", "seed=1", "rate=2", "rate=0", "rate=-1", "rate=x", "rate=0.1,kinds=tea", "rate=0.1,hang=soon", "rate=0.1,often"} {
		if c, err := Parse(bad); err == nil {
			t.Errorf("%q is taken: %+v", bad, c)
		}
	}
	if len(maps.Clone(New(nil, Config{}).Counts())) != 0 {
		t.Error("there were faults before any call")
	}
}
