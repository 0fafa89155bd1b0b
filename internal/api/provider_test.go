package api_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
)

// tested is a test of provider local that has passed, with its runner.
func tested() (muster.ProviderCheck, muster.Runner) {
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	return muster.ProviderCheck{
			Provider: "local", Offering: "gpu", Runner: "r-check", At: at(0),
			Inside: []muster.CheckStep{{Name: "disk", OK: true, Took: 5 * time.Millisecond, Detail: "9000 MiB free"}},
			After:  []muster.CheckStep{{Name: "nothing left", OK: true}},
		}, muster.Runner{
			ID: "r-check", Purpose: muster.PurposeCheck, State: muster.RunnerDestroyed, Instance: "4711", Reason: "check passed",
			CreatedAt: at(0), LaunchedAt: at(1), ConnectedAt: at(3), FinishedAt: at(4), DestroyedAt: at(5),
		}
}

type platforms struct{ all []muster.ProviderStatus }

func (p platforms) Providers(_ context.Context, ws string) ([]muster.ProviderStatus, error) {
	if ws != "default" {
		return nil, muster.Errorf(muster.CodeInternal, "asked for workspace %q", ws)
	}
	return p.all, nil
}

// S4-51 S4-71 S4-76: what is known of a provider reaches whoever asks: its size with GPUs,
// spot and price, its breakers in the platform's own words, its last test.
func TestListProviders(t *testing.T) {
	check, r := tested()
	w := newWorld(t, func(c *api.Config, _ *world) {
		c.Platforms = platforms{[]muster.ProviderStatus{{
			Name: "local", Kind: "process", Summary: "Runners as processes.", Isolation: "None.", State: muster.ProviderRefusing, Detail: "linux: no capacity", Abilities: []string{"keep"},
			Instances: map[string]int{"running": 3}, AnsweredIn: 12 * time.Millisecond, ConnectTimeout: 10 * time.Second, Pools: []string{"linux"}, Zones: []string{"a", "b"},
			Offerings: []muster.Offering{{Name: "gpu", CPUs: 8, MemoryMiB: 65536, GPUs: 2, Spot: true, PriceMicroUSD: 52000}},
			Breakers: []muster.ProviderBreaker{
				{Breaker: muster.Breaker{Failures: 2, At: t0, Words: "no capacity"}, Pool: "linux", Offering: "gpu", State: muster.BreakerOpen, Room: 1},
				{Breaker: muster.Breaker{Failures: 1, At: t0, Words: "503"}, Zone: "a", Offering: "gpu", State: muster.BreakerHalfOpen},
			},
			Check: &check, Tester: r,
		}}}
	})
	resp, err := w.providers.ListProviders(t.Context(), &v1.ListProvidersRequest{})
	if err != nil || len(resp.Providers) != 1 {
		t.Fatal(resp, err)
	}
	p := resp.Providers[0]
	if o := p.Offerings[0]; o.Gpus != 2 || !o.Spot || o.PriceMicroUsdPerMinute != 52000 || o.Cpu != "8" {
		t.Errorf("offering %v", o)
	}
	if b := p.Breakers[0]; b.State != "open" || b.Words != "no capacity" || b.Until.AsTime() != t0.Add(4*time.Second) || b.Room != 1 {
		t.Errorf("breaker %v", b)
	}
	if b := p.Breakers[1]; b.Zone != "a" || b.State != "half_open" {
		t.Errorf("breaker %v", b)
	}
	if p.State != "refusing" || p.Instances["running"] != 3 || p.AnsweredIn.AsDuration() != 12*time.Millisecond || strings.Join(p.Zones, "") != "ab" {
		t.Errorf("%v", p)
	}
	if c := p.LastCheck; !c.Done || !c.Passed || len(c.Steps) != 6 || c.Steps[1].Took.AsDuration() != 2*time.Second {
		t.Errorf("last check %v", c)
	}
}

func TestCheckProvider(t *testing.T) {
	w := newWorld(t, nil)
	begun, err := w.providers.CheckProvider(t.Context(), &v1.CheckProviderRequest{Provider: "local", Offering: "gpu"})
	if err != nil || begun.Check.Runner != "r-check" {
		t.Fatal(begun, err)
	}
	got, err := w.providers.GetProviderCheck(t.Context(), &v1.GetProviderCheckRequest{Runner: begun.Check.Runner})
	if err != nil || !got.Check.Passed || got.Check.Steps[2].Name != "disk" || got.Check.Offering != "gpu" {
		t.Error(got, err)
	}
	if _, err := w.providers.CheckProvider(t.Context(), &v1.CheckProviderRequest{Provider: "cloud"}); codeOf(err) != connect.CodeNotFound {
		t.Errorf("an unknown provider: %v", err)
	}
	if _, err := w.providers.CheckProvider(t.Context(), &v1.CheckProviderRequest{}); codeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("no provider: %v", err)
	}
	if _, err := w.providers.GetProviderCheck(t.Context(), &v1.GetProviderCheckRequest{Runner: "r-other"}); codeOf(err) != connect.CodeNotFound {
		t.Errorf("an unknown test: %v", err)
	}
	if list, err := w.providers.ListProviders(t.Context(), &v1.ListProvidersRequest{}); err != nil || len(list.Providers) != 0 {
		t.Errorf("no platforms: %v, %v", list, err)
	}
}
