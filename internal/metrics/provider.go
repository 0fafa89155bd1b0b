package metrics

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Provider returns p with its calls counted under name. Start and Stop are
// counted too where p has them; look for optional interfaces with provider.As.
func (r *Registry) Provider(name string, p provider.Provider) provider.Provider {
	counted := &countedProvider{registry: r, name: r.set.provider.of(name), Provider: p}
	if kept, ok := provider.As[provider.StartStopper](p); ok {
		return &countedKept{countedProvider: counted, kept: kept}
	}
	return counted
}

type countedProvider struct {
	provider.Provider
	registry *Registry
	name     string
}

// Unwrap implements provider.Unwrapper.
func (c *countedProvider) Unwrap() provider.Provider { return c.Provider }

func (c *countedProvider) count(method string, start time.Time, err error) {
	c.registry.providerCalls.WithLabelValues(c.name, method, outcomeOf(err)).Inc()
	c.registry.providerTime.WithLabelValues(c.name, method).Observe(time.Since(start).Seconds())
}

// Create implements provider.Provider.
func (c *countedProvider) Create(ctx context.Context, spec provider.Spec) (in provider.Instance, err error) {
	defer func(start time.Time) { c.count("create", start, err) }(time.Now())
	return c.Provider.Create(ctx, spec)
}

// Delete implements provider.Provider.
func (c *countedProvider) Delete(ctx context.Context, runner muster.RunnerID) (err error) {
	defer func(start time.Time) { c.count("delete", start, err) }(time.Now())
	return c.Provider.Delete(ctx, runner)
}

// Get implements provider.Provider.
func (c *countedProvider) Get(ctx context.Context, runner muster.RunnerID) (in provider.Instance, err error) {
	defer func(start time.Time) { c.count("get", start, err) }(time.Now())
	return c.Provider.Get(ctx, runner)
}

// List implements provider.Provider. A list counts once, with its last error.
func (c *countedProvider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		var last error
		defer func(start time.Time) { c.count("list", start, last) }(time.Now())
		for in, err := range c.Provider.List(ctx) {
			if err != nil {
				last = err
			}
			if !yield(in, err) {
				return
			}
		}
	}
}

// countedKept is a countedProvider whose machines can be kept.
type countedKept struct {
	*countedProvider
	kept provider.StartStopper
}

// Start implements provider.StartStopper.
func (c *countedKept) Start(ctx context.Context, m provider.Machine) (operation string, err error) {
	defer func(start time.Time) { c.count("start", start, err) }(time.Now())
	return c.kept.Start(ctx, m)
}

// Stop implements provider.StartStopper.
func (c *countedKept) Stop(ctx context.Context, m provider.Machine) (operation string, err error) {
	defer func(start time.Time) { c.count("stop", start, err) }(time.Now())
	return c.kept.Stop(ctx, m)
}

// Status implements provider.StartStopper.
func (c *countedKept) Status(ctx context.Context, m provider.Machine) (st provider.MachineState, err error) {
	defer func(start time.Time) { c.count("status", start, err) }(time.Now())
	return c.kept.Status(ctx, m)
}

// outcomeOf is the class of a provider's error in one word.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, provider.ErrNotFound):
		return "not_found"
	case errors.Is(err, provider.ErrCapacity):
		return "capacity"
	case errors.Is(err, provider.ErrQuota):
		return "quota"
	case errors.Is(err, provider.ErrInvalid):
		return "invalid"
	}
	return "transient"
}
