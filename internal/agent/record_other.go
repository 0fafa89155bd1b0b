//go:build !linux

package agent

import (
	"context"
	"errors"
	"log/slog"
)

func (l lending) serve(context.Context, recorder, *slog.Logger) error { return errors.ErrUnsupported }

func (l lending) detach(context.Context) error { return errors.ErrUnsupported }

func dialRecorder(context.Context, string, recordOptions) (recorder, error) {
	return nil, errors.New("recorders of nodes are for Linux")
}
