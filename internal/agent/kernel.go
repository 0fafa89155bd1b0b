package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/trace"
)

// kernel is the recorder of this machine's kernel.
type kernel struct{ rec *bpf.Recorder }

// recorderMemory is what a recorder needs to be loaded without harm to the machine, in MiB: its
// own memory, the kernel's buffers, and what the verifier takes for a moment.
const recorderMemory = 200

// openKernel opens the recorder of this machine's kernel.
func openKernel(o recordOptions) (recorder, error) {
	if free := availableMemory(); free > 0 && free < recorderMemory {
		return nil, fmt.Errorf("the machine has %d MiB of memory left, and a recorder needs %d: give it more", free, recorderMemory)
	}
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

// availableMemory is what the kernel calls available, in MiB; 0 if it does not say.
func availableMemory() int {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			return kib >> 10
		}
	}
	return 0
}
