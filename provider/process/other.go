//go:build !linux

package process

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/muster-ci/muster/internal/instancedir"
)

// Provider exists on Linux only.
type Provider struct{ instancedir.Elsewhere }

// New returns an error on this system.
func New(Config) (*Provider, error) {
	return nil, fmt.Errorf("the process provider needs Linux and this is %s: use the container provider: %w", runtime.GOOS, errors.ErrUnsupported)
}
