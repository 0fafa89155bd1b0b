package slurm

import (
	"context"
	"fmt"
	"iter"
	"log/slog"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// backend is what stands behind a Provider: a Cluster, or a gateway with one.
type backend interface {
	Create(ctx context.Context, spec provider.Spec, user string) (provider.Instance, error)
	Delete(ctx context.Context, owner string, runner muster.RunnerID) error
	Get(ctx context.Context, owner string, runner muster.RunnerID) (provider.Instance, error)
	List(ctx context.Context, owner string) ([]provider.Instance, error)
}

// Provider runs the runners of one owner as Slurm jobs.
type Provider struct {
	owner   string
	backend backend
}

// New makes a provider. It calls nobody.
func New(cfg Config) (*Provider, error) {
	if cfg.Owner == "" {
		return nil, fmt.Errorf("%w: a provider needs an owner", provider.ErrInvalid)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Provider{owner: cfg.Owner}
	if cfg.Transport == TransportGateway {
		p.backend = newGateway(cfg)
		return p, nil
	}
	cfg.SubmitAs = false
	c, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	p.backend = c
	return p, nil
}

// Describe is what this kind of provider is.
func (p *Provider) Describe() provider.Description { return description() }

// Create submits the runner's job; see provider.Provider.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if spec.Owner != p.owner {
		return provider.Instance{}, fmt.Errorf("%w: this provider is %s's and not %.80q's", provider.ErrInvalid, p.owner, spec.Owner)
	}
	return p.backend.Create(ctx, spec, "")
}

// Delete cancels the runner's job; see provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	return p.backend.Delete(ctx, p.owner, runner)
}

// Get finds the runner's job; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	return p.backend.Get(ctx, p.owner, runner)
}

// List yields the owner's jobs; see provider.Provider.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		all, err := p.backend.List(ctx, p.owner)
		if err != nil {
			yield(provider.Instance{}, err)
			return
		}
		for _, in := range all {
			if !yield(in, nil) {
				return
			}
		}
	}
}
