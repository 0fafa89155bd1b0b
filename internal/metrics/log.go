package metrics

import (
	"io"
	"log/slog"

	"github.com/muster-ci/muster"
)

// LogFormat is how log lines look.
type LogFormat string

// The formats of log lines.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
	// LogCloud is JSON as Google Cloud Logging reads it, with severity and
	// message; it is chosen where K_SERVICE is set (S3-59, S3-60).
	LogCloud LogFormat = "cloud"
)

// LogConfig is how to log. The zero value is text at level info.
type LogConfig struct {
	Format LogFormat
	Level  slog.Level
}

// NewLogger makes the process's logger: lines carry trace_id where there is one,
// and secrets show as "***".
func NewLogger(w io.Writer, cfg LogConfig) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: cfg.Level}
	var h slog.Handler
	switch cfg.Format {
	case LogText, "":
		h = slog.NewTextHandler(w, options)
	case LogJSON:
		h = slog.NewJSONHandler(w, options)
	case LogCloud:
		options.ReplaceAttr = cloudAttr
		h = slog.NewJSONHandler(w, options)
	default:
		return nil, muster.Errorf(muster.CodeInvalid, "log format %q is unknown: use text, json or cloud", cfg.Format)
	}
	return slog.New(LogHandler(h)), nil
}

// cloudAttr renames the top-level members that Cloud Logging has its own words for.
func cloudAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.MessageKey:
		a.Key = "message"
	case slog.LevelKey:
		a.Key = "severity"
		if level, ok := a.Value.Any().(slog.Level); ok && level >= slog.LevelWarn && level < slog.LevelError {
			a.Value = slog.StringValue("WARNING")
		}
	}
	return a
}
