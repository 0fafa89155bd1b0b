package agent

import (
	"context"
	"log/slog"
	"os"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/trace"
)

// recordOptions is what a recorder is opened with.
type recordOptions struct {
	log    *slog.Logger
	agent  string // the agent's version
	egress trace.Egress
	// protect are processes that nobody is to touch, besides this one.
	protect []int
	// engines are the container engines that work for what is followed alone.
	engines bpf.Engines
}

// engineFollower is a recorder that serves several, whose engines are not the same.
type engineFollower interface {
	FollowEngines(ctx context.Context, root int, egress trace.Egress, engines bpf.Engines) (scope, error)
}

// recorderSocket is where a node's recorder listens (muster-agent record).
const recorderSocket = "/run/muster/trace.sock"

// openRecorder opens the recorder of this machine: the node's, if MUSTER_TRACE_SOCKET names
// its socket and it answers; its own otherwise, and the node's where that can record nothing. missing is
// why there is none, in words.
func (c Config) openRecorder(ctx context.Context, version string, egress trace.Egress, log *slog.Logger) (rec recorder, missing string) {
	o := recordOptions{log: log, agent: version, egress: egress, engines: c.Engines}
	if c.record != nil {
		return checked(c.record(ctx, o))
	}
	if c.warm != nil {
		if k, ok := c.warm.(*kernel); ok {
			k.engines = c.Engines
		}
		return c.warm, ""
	}
	socket, named := c.TraceSocket, c.TraceSocket != ""
	var lent string // why the node's recorder is not used
	if named {
		if rec, lent = checked(dialRecorder(ctx, socket, o)); lent == "" {
			return rec, ""
		}
	}
	if rec, missing = checked(openKernel(o)); missing == "" {
		return rec, ""
	}
	if named {
		return nil, lent + "; and " + missing
	}
	if _, err := os.Stat(recorderSocket); err == nil {
		if lent, why := checked(dialRecorder(ctx, recorderSocket, o)); why == "" {
			return lent, ""
		} else {
			missing += "; and the node's recorder cannot be used: " + why
		}
	}
	return nil, missing
}

// checked closes a recorder that records nothing.
func checked(rec recorder, err error) (recorder, string) {
	if err != nil {
		return nil, err.Error()
	}
	if why := rec.Describe().Missing["all"]; why != "" {
		_ = rec.Close() // it holds nothing
		return nil, why
	}
	return rec, ""
}
