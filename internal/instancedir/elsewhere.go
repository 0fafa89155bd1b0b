package instancedir

import (
	"context"
	"errors"
	"iter"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Elsewhere stands for a provider on a system that it does not work on: every call
// returns Err.
type Elsewhere struct{ Err error }

var _ provider.Provider = Elsewhere{}

// Create returns Err, as one that no repetition cures.
func (e Elsewhere) Create(context.Context, provider.Spec) (provider.Instance, error) {
	return provider.Instance{}, errors.Join(provider.ErrInvalid, e.Err)
}

// Delete returns Err.
func (e Elsewhere) Delete(context.Context, muster.RunnerID) error { return e.Err }

// Get returns Err.
func (e Elsewhere) Get(context.Context, muster.RunnerID) (provider.Instance, error) {
	return provider.Instance{}, e.Err
}

// List yields Err.
func (e Elsewhere) List(context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) { yield(provider.Instance{}, e.Err) }
}
