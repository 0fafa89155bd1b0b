//go:build !unix

package agent

import (
	"errors"
	"fmt"
	"runtime"
)

func startRunner(command) (runner, error) {
	return nil, fmt.Errorf("muster-agent does not run on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func hideToken([]string) error { return nil }
