//go:build linux && (amd64 || arm64)

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Place is a cgroup for a process that is still to be started (Recorder.Place). Close removes
// it once nobody follows it.
type Place struct {
	Dir   string
	mount string
}

// Place makes a cgroup below that of a process whose child is to be followed. A child that is
// started in it (CLONE_INTO_CGROUP) is followed with Follow.Cgroup and need not be moved:
// before a move the kernel waits until no thread of the machine is about to start another, a
// grace period of 10 to 30 ms. Should this program be killed, the next recorder removes it.
func (r *Recorder) Place(pid int) (Place, error) {
	if !r.live {
		return Place{}, ErrNotRecording
	}
	if r.mount == "" {
		return Place{}, errors.New("no cgroup hierarchy of version 2 is mounted")
	}
	at, err := cgroupOf(r.mount, pid)
	if err != nil {
		return Place{}, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	r.mu.Lock()
	r.next++ // no scope gets the number
	n := r.next
	r.mu.Unlock()
	p := Place{filepath.Join(at, ownName(n)), r.mount}
	if err := os.Mkdir(p.Dir, 0o755); err != nil {
		return Place{}, fmt.Errorf("make a cgroup: %w", err)
	}
	return p, nil
}

// Holds reports whether a process is in it.
func (p Place) Holds(pid int) bool {
	at, err := cgroupOf(p.mount, pid)
	return err == nil && at == p.Dir
}

// Close removes it, and with it what was made below. It kills nothing: who is still there goes to
// the cgroup above.
func (p Place) Close() error {
	return removeCgroup(p.Dir, time.Now().Add(2*time.Second))
}
