package agent

import (
	"context"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/trace"
)

// kernel is the recorder of this machine's kernel.
type kernel struct{ rec *bpf.Recorder }

// openKernel opens the recorder of this machine's kernel.
func openKernel(o recordOptions) (recorder, error) {
	rec, err := bpf.Open(bpf.Options{Logger: o.log, Agent: o.agent, Protect: o.protect, Egress: o.egress})
	if err != nil {
		return nil, err
	}
	return kernel{rec}, nil
}

func (k kernel) Describe() trace.Recorder { return k.rec.Describe() }
func (k kernel) Close() error             { return k.rec.Close() }

func (k kernel) Follow(ctx context.Context, root int, egress trace.Egress) (scope, error) {
	f := bpf.Follow{Root: root, Egress: egress}
	if info, err := proc.Read(root); err == nil && info.PPID > 1 {
		f.Protect = []int{info.PPID} // the agent, here or at the other end of a socket
	}
	s, err := k.rec.Follow(ctx, f)
	if err != nil {
		return nil, err // not s: a nil pointer in an interface is not nil
	}
	return s, nil
}
