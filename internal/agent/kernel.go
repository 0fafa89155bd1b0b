package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/trace"
)

// kernel is the recorder of this machine's kernel.
type kernel struct {
	rec     *bpf.Recorder
	engines bpf.Engines // of whoever is followed

	mu     sync.Mutex
	places []bpf.Place // nobody is followed in them yet
}

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
	return &kernel{rec: rec, engines: o.engines}, nil
}

func (k *kernel) Describe() trace.Recorder { return k.rec.Describe() }

// Close removes places, too, that nobody was followed in.
func (k *kernel) Close() error {
	k.mu.Lock()
	places := k.places
	k.places = nil
	k.mu.Unlock()
	var errs []error
	for _, p := range places {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, k.rec.Close())...)
}

// Place implements placer.
func (k *kernel) Place(parent int) (dir string, leave func()) {
	p, err := k.rec.Place(parent)
	if err != nil {
		return "", func() {} // what is started is moved then, if the machine has cgroups at all
	}
	k.mu.Lock()
	k.places = append(k.places, p)
	k.mu.Unlock()
	return p.Dir, func() {
		if k.take(func(other bpf.Place) bool { return other == p }) != nil {
			_ = p.Close() // the next recorder removes it
		}
	}
}

// take takes away the first place that fits, nil if none does.
func (k *kernel) take(fits func(bpf.Place) bool) *bpf.Place {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := slices.IndexFunc(k.places, fits)
	if n < 0 {
		return nil
	}
	p := k.places[n]
	k.places = slices.Delete(k.places, n, n+1)
	return &p
}

func (k *kernel) Follow(ctx context.Context, root int, egress trace.Egress) (scope, error) {
	return k.FollowEngines(ctx, root, egress, k.engines)
}

// FollowEngines implements engineFollower.
func (k *kernel) FollowEngines(ctx context.Context, root int, egress trace.Egress, engines bpf.Engines) (scope, error) {
	f := bpf.Follow{Root: root, Egress: egress, Engines: engines}
	if info, err := proc.Read(root); err == nil && info.PPID > 1 {
		f.Protect = []int{info.PPID} // the agent, here or at the other end of a socket
	}
	at := k.take(func(p bpf.Place) bool { return p.Holds(root) })
	if at != nil {
		f.Cgroup = at.Dir
	}
	s, err := k.rec.Follow(ctx, f)
	if err != nil {
		if at != nil {
			err = errors.Join(err, at.Close())
		}
		return nil, err // not s: a nil pointer in an interface is not nil
	}
	if at != nil {
		return &placed{s, *at}, nil
	}
	return s, nil
}

// placed is a scope whose process was started in a place.
type placed struct {
	*bpf.Scope
	at bpf.Place
}

// Close removes the place, too.
func (p *placed) Close() error { return errors.Join(p.Scope.Close(), p.at.Close()) }

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
