package api

import (
	"context"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type providers struct{ *API }

func (s providers) ListProviders(ctx context.Context, _ *v1.ListProvidersRequest) (*v1.ListProvidersResponse, error) {
	if s.Platforms == nil {
		return &v1.ListProvidersResponse{}, nil
	}
	all, err := s.Platforms.Providers(ctx, workspaceOf(ctx))
	if err != nil {
		return nil, err
	}
	return &v1.ListProvidersResponse{Providers: each(all, providerOf)}, nil
}

func (s providers) CheckProvider(ctx context.Context, req *v1.CheckProviderRequest) (*v1.CheckProviderResponse, error) {
	if req.Provider == "" {
		return nil, muster.Errorf(muster.CodeInvalid, "a provider is named by its name: set provider")
	}
	c, r, err := s.Commands.CheckProvider(ctx, workspaceOf(ctx), req.Provider, req.Offering)
	if err != nil {
		return nil, err
	}
	return &v1.CheckProviderResponse{Check: checkOf(c, r)}, nil
}

func (s providers) GetProviderCheck(ctx context.Context, req *v1.GetProviderCheckRequest) (*v1.GetProviderCheckResponse, error) {
	c, r, err := s.Commands.ProviderCheck(ctx, workspaceOf(ctx), muster.RunnerID(req.Runner))
	if err != nil {
		return nil, err
	}
	return &v1.GetProviderCheckResponse{Check: checkOf(c, r)}, nil
}

func providerOf(p muster.ProviderStatus) *v1.Provider {
	out := &v1.Provider{
		Name: p.Name, Kind: p.Kind, Summary: p.Summary, Isolation: p.Isolation, State: p.State, Detail: p.Detail, Abilities: p.Abilities,
		Instances: map[string]int32{}, AnsweredIn: span(p.AnsweredIn), ConnectTimeout: span(p.ConnectTimeout), Pools: p.Pools, Offerings: each(p.Offerings, offeringOf), Zones: p.Zones,
		Breakers: each(p.Breakers, func(b muster.ProviderBreaker) *v1.ProviderBreaker {
			return &v1.ProviderBreaker{
				Pool: b.Pool, Zone: b.Zone, Offering: b.Offering, State: string(b.State), Failures: int32(b.Failures), LastFailureAt: stamp(b.At), Until: stamp(b.Until()), Words: b.Words, Room: int32(b.Room),
			}
		}),
	}
	for state, n := range p.Instances {
		out.Instances[state] = int32(n)
	}
	if p.Check != nil {
		out.LastCheck = checkOf(*p.Check, p.Tester)
	}
	return out
}

func checkOf(c muster.ProviderCheck, r muster.Runner) *v1.ProviderCheck {
	steps, done := c.Steps(r)
	return &v1.ProviderCheck{
		Runner: string(c.Runner), Provider: c.Provider, Offering: c.Offering, At: stamp(c.At), Done: done, Passed: done && muster.Passed(steps),
		Steps: each(steps, func(s muster.CheckStep) *v1.ProviderCheckStep {
			return &v1.ProviderCheckStep{Name: s.Name, Ok: s.OK, Took: span(s.Took), Detail: s.Detail}
		}),
	}
}
