//go:build !linux

package recorder

import (
	"context"
	"log/slog"
)

// Shared is the recorder of the jobs of one machine; there is none on this system.
type Shared struct{}

// Socket returns "".
func (*Shared) Socket(context.Context, string, bool, *slog.Logger) string { return "" }
