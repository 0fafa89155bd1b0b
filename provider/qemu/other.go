//go:build !linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Provider exists on Linux only.
type Provider struct{}

var (
	_ provider.Provider = (*Provider)(nil)

	errSystem = fmt.Errorf("the qemu provider needs Linux and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
)

// New returns an error on this system.
func New(Config) (*Provider, error) { return nil, errSystem }

// Create returns an error on this system.
func (*Provider) Create(context.Context, provider.Spec) (provider.Instance, error) {
	return provider.Instance{}, errors.Join(provider.ErrInvalid, errSystem)
}

// Delete returns an error on this system.
func (*Provider) Delete(context.Context, muster.RunnerID) error { return errSystem }

// Get returns an error on this system.
func (*Provider) Get(context.Context, muster.RunnerID) (provider.Instance, error) {
	return provider.Instance{}, errSystem
}

// List yields an error on this system.
func (*Provider) List(context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) { yield(provider.Instance{}, errSystem) }
}

// Images returns an error on this system.
func Images(string) ([]Image, error) { return nil, errSystem }

// VerifyImage returns an error on this system.
func VerifyImage(context.Context, string, string) (Image, error) { return Image{}, errSystem }

// BuildImage returns an error on this system.
func BuildImage(context.Context, ImageOrder, io.Writer) (Image, error) { return Image{}, errSystem }
