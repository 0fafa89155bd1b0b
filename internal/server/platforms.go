package server

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/provider"
)

// platforms tells how the configured providers stand.
type platforms struct {
	cfg      config.Config
	store    *store.Store
	client   *lifecycle.Client
	backends map[string]lifecycle.Backend
}

// answerWithin is how long a platform may take to list its machines for somebody who
// waits for the answer.
const answerWithin = 5 * time.Second

// Providers asks every platform at once, in configured order.
func (p platforms) Providers(ctx context.Context, workspace string) ([]muster.ProviderStatus, error) {
	out := make([]muster.ProviderStatus, len(p.cfg.Providers))
	errs := make([]error, len(out))
	var wg sync.WaitGroup
	for i, v := range p.cfg.Providers {
		wg.Go(func() { out[i], errs[i] = p.one(ctx, workspace, v, answerWithin) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// one is a provider's status. A platform that does not answer is a status, not an error.
func (p platforms) one(ctx context.Context, workspace string, v config.Provider, within time.Duration) (muster.ProviderStatus, error) {
	b := p.backends[v.Name]
	s := muster.ProviderStatus{
		Name: v.Name, Kind: v.Kind, State: muster.ProviderOK, Instances: map[string]int{},
		LookedAt: time.Now(), ConnectTimeout: b.ConnectTimeout, Abilities: abilities(v.Kind, b),
	}
	if k, ok := kindNamed(v.Kind); ok {
		s.Summary, s.Isolation = k.Summary, k.Isolation
	}
	for _, z := range v.Zones {
		s.Zones = append(s.Zones, z.Name)
	}
	pools, err := p.store.Pools(ctx, workspace)
	if err != nil {
		return s, err
	}
	offers, err := p.store.Offerings(ctx, workspace)
	if err != nil {
		return s, err
	}
	for _, pool := range pools {
		if pool.Provider != v.Name || pool.Removed {
			continue
		}
		s.Pools = append(s.Pools, pool.Name)
		for _, o := range offers {
			if (o.Name == pool.Offering || o.Name == pool.Canary.Offering) && !slices.Contains(s.Offerings, o) {
				s.Offerings = append(s.Offerings, o)
			}
		}
	}
	if s.Breakers, err = p.client.Breakers(ctx, workspace, v.Name); err != nil {
		return s, err
	}
	if check, r, err := p.client.LastProviderCheck(ctx, workspace, v.Name); err == nil {
		s.Check, s.Tester = &check, r
	}
	p.look(ctx, b, &s, within)
	return s, nil
}

// look counts what the platform lists and says what is wrong with it.
func (p platforms) look(ctx context.Context, b lifecycle.Backend, s *muster.ProviderStatus, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var problems []string
	for _, z := range b.Everywhere() {
		for in, err := range z.List(ctx) {
			if err != nil {
				text := shown(err)
				if z.Name != "" {
					text = "zone " + z.Name + ": " + text
				}
				problems = append(problems, text)
				s.State = muster.ProviderUnreachable
				break
			}
			s.Instances[string(in.State)]++
		}
	}
	s.AnsweredIn = time.Since(s.LookedAt)
	for _, r := range s.Breakers {
		if r.Pool == "" || r.Words == "" {
			continue
		}
		problems = append(problems, r.Pool+": "+r.Words)
		if s.State == muster.ProviderOK {
			s.State = muster.ProviderRefusing
		}
	}
	s.Detail = strings.Join(problems, "; ")
}

// abilities are what a provider can do beyond making machines.
func abilities(kind string, b lifecycle.Backend) (out []string) {
	any := b.Everywhere()[0].Provider
	if _, ok := provider.As[provider.Consoler](any); ok {
		out = append(out, "console")
	}
	if _, ok := provider.As[provider.Pricer](any); ok {
		out = append(out, "price")
	}
	if _, ok := provider.As[provider.StartStopper](any); ok {
		out = append(out, "keep")
	}
	if k, ok := kindNamed(kind); ok {
		if k.NoGPUs == "" {
			out = append(out, "gpu")
		}
		if k.NoSpot == "" {
			out = append(out, "spot")
		}
	}
	return out
}
