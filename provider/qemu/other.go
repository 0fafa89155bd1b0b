//go:build !linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/muster-ci/muster/internal/instancedir"
)

// Provider exists on Linux only.
type Provider struct{ instancedir.Elsewhere }

var errSystem = fmt.Errorf("the qemu provider needs Linux and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)

// New returns an error on this system.
func New(Config) (*Provider, error) { return nil, errSystem }

// Images returns an error on this system.
func Images(string) ([]Image, error) { return nil, errSystem }

// VerifyImage returns an error on this system.
func VerifyImage(context.Context, string, string) (Image, error) { return Image{}, errSystem }

// BuildImage returns an error on this system.
func BuildImage(context.Context, ImageOrder, io.Writer) (Image, error) { return Image{}, errSystem }
