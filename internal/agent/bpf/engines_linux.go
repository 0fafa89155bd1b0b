//go:build linux && (amd64 || arm64)

package bpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/muster-ci/muster/internal/trace"
)

// A container engine runs what a job asks it for outside of the job's tree and cgroup. Where
// it works for one job alone, its daemons are put into the scope of that job. What descends from them
// is followed as all else is; the kernel's programs know by a mark what is still the engine
// and what a container. A daemon that begins later is known by its name, in the kernel, when it
// begins; one by another name when the job connects to its socket.

// engine marks processes in the tree that are an engine's and no container's; marks are this and
// another of the kernel's programs. c/scope.h has them too.
const (
	engine = 1 << 31
	marks  = engine | 1<<30
)

// byEngine is a flag of evCgroup, as process.h has it.
const byEngine = 1 << 8

// enginesExtra is what a recorder says of a scope whose engines are followed, and what is missing if
// they cannot be.
const enginesExtra = "engines"

// enginePrograms are the daemons by the names that the kernel gives them, which have 15 bytes.
var enginePrograms = []string{"dockerd", "containerd", "containerd-shim", "buildkitd", "podman", "conmon"}

// engineSockets are the last names of the sockets on which engines listen.
var engineSockets = []string{"docker.sock", "podman.sock", "containerd.sock", "buildkitd.sock"}

func engineSocket(name string) bool { return slices.Contains(engineSockets, path.Base(name)) }

type engineKey struct {
	Comm   [16]byte
	Net, _ uint32
}

func keyOfEngine(program string, network uint32) (k engineKey) {
	k.Net = network
	copy(k.Comm[:15], program)
	return k
}

// engage takes the engines that work for the scope into it, and has those that begin later
// taken by the kernel.
func (s *Scope) engage(ctx context.Context) ([]trace.Event, error) {
	if s.engines == EnginesNone {
		return nil, nil
	}
	if s.engines == EnginesNetwork {
		all, err := s.r.tasks(ctx)
		if err != nil {
			return nil, err
		}
		own, theirs := networkOf(all, kthreadd), networkOf(all, s.root)
		if own == 0 || theirs == 0 {
			s.unengaged = "nobody knows the network namespace of the job or of the machine"
			return nil, nil
		}
		if theirs == own {
			s.unengaged = "the job is in the network namespace of the machine, whose engines are not its own"
			return nil, nil
		}
		s.network = theirs
	}
	s.r.mu.Lock()
	taken := s.r.engines[s.network] != nil
	if !taken {
		s.r.engines[s.network] = s
		s.engaged = true
	}
	s.r.mu.Unlock()
	if taken {
		s.unengaged = "another job has the engines of this machine"
		return nil, nil
	}
	for _, program := range enginePrograms {
		if err := s.r.maps["engines"].Put(keyOfEngine(program, s.network), s.id|engine); err != nil {
			return nil, fmt.Errorf("follow engines: %w", err)
		}
	}
	if err := s.r.levels(s); err != nil {
		return nil, err
	}
	return s.seize(ctx)
}

// kthreadd is the parent of the kernel's threads, which are in the first of all namespaces.
const kthreadd = 2

// networkOf is the number of a process's network namespace, 0 if it is not known.
func networkOf(all []listed, pid int) uint32 {
	i := slices.IndexFunc(all, func(t listed) bool { return t.PID == uint32(pid) })
	if i < 0 {
		return 0
	}
	return all[i].Net
}

// disengage lets the engines go.
func (s *Scope) disengage() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.looks.Wait()
	s.mu.Lock()
	adopted := s.adopted
	s.adopted, s.deep = nil, 0
	s.mu.Unlock()
	for _, id := range adopted {
		_ = s.r.maps["cgroups"].Delete(id)
	}
	if !s.engaged {
		return
	}
	for _, program := range enginePrograms {
		_ = s.r.maps["engines"].Delete(keyOfEngine(program, s.network))
	}
	s.r.mu.Lock()
	delete(s.r.engines, s.network)
	s.r.mu.Unlock()
}

// seize puts the engines that run into the tree, with all that descends from them, and tells
// of those that were not there. It looks again until it finds nobody new.
func (s *Scope) seize(ctx context.Context) ([]trace.Event, error) {
	s.looking.Lock()
	defer s.looking.Unlock()
	var events []trace.Event
	for range 100 {
		s.mu.Lock()
		over := s.over
		s.mu.Unlock()
		if over {
			return nil, nil
		}
		all, err := s.r.tasks(ctx)
		if err != nil {
			return nil, err
		}
		more := false
		for _, daemon := range s.daemons(all) {
			home := containerOfProcess(int(daemon.PID)) // an engine may be in a container itself
			for _, t := range descendants(all, daemon.PID) {
				is, container := s.id|engine, containerOfProcess(int(t.PID))
				if t.Depth > daemon.Depth || container != home {
					is = s.id
				}
				if container != home {
					s.adopt(t.Cgroup, t.Level)
				}
				err := s.r.maps["tree"].Update(t.PID, is, ebpf.UpdateNoExist)
				if errors.Is(err, ebpf.ErrKeyExist) {
					continue
				}
				if err != nil {
					return nil, fmt.Errorf("add to tree: %w", err)
				}
				more = true
				e := running(t)
				e.Container = container
				events = append(events, e)
			}
		}
		if !more {
			break
		}
	}
	return events, nil
}

// containerOfProcess is the container that a process is in by any of its cgroups, those of
// version 1 as well.
func containerOfProcess(pid int) string {
	all, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // it may have ended
	for line := range strings.Lines(string(all)) {
		if id := containerOf(strings.TrimSpace(line)); id != "" {
			return id
		}
	}
	return ""
}

// daemons are the engines among the processes of the machine: by their names, and by the
// sockets on which they listen.
func (s *Scope) daemons(all []listed) []listed {
	above := map[uint32]bool{uint32(os.Getpid()): true, 1: true}
	parents := map[uint32]uint32{}
	for _, t := range all {
		parents[t.PID] = t.PPID
	}
	for at := uint32(s.root); at > 1 && !above[at]; at = parents[at] {
		above[at] = true
	}
	sockets := s.listening()
	var found []listed
	for _, t := range all {
		name := text(t.Comm[:])
		if above[t.PID] || strings.HasPrefix(name, "systemd") || s.network != 0 && t.Net != s.network {
			continue
		}
		if slices.Contains(enginePrograms, name) || len(sockets) > 0 && holds(t.PID, sockets) {
			found = append(found, t)
		}
	}
	return found
}

// listening are the sockets of engines that somebody listens on, as the links in /proc/PID/fd
// name them.
func (s *Scope) listening() map[string]bool {
	whose := "self"
	if s.network != 0 {
		whose = fmt.Sprint(s.root)
	}
	table, err := os.ReadFile("/proc/" + whose + "/net/unix")
	if err != nil {
		return nil // daemons are known by their names, too
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		// Num RefCount Protocol Flags Type St Inode Path
		if f := strings.Fields(line); len(f) > 7 && f[3] == "00010000" && engineSocket(f[7]) {
			found["socket:["+f[6]+"]"] = true
		}
	}
	return found
}

func holds(pid uint32, sockets map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		if at, _ := os.Readlink(dir + name); sockets[at] {
			return true
		}
	}
	return false
}

// maxAdopted bounds the cgroups of one scope's containers; of the oldest only what descends
// from the engine is followed.
const maxAdopted = 512

// adopt puts a container's cgroup into the kernel's table: what is in it is the scope's,
// wherever it comes from.
func (s *Scope) adopt(id uint64, level uint32) {
	if id == 0 || level == 0 || level >= 12 {
		return
	}
	s.mu.Lock()
	if s.over || slices.Contains(s.adopted, id) || s.r.maps["cgroups"].Put(id, s.id) != nil {
		s.mu.Unlock()
		return
	}
	if s.adopted = append(s.adopted, id); len(s.adopted) > maxAdopted {
		_ = s.r.maps["cgroups"].Delete(s.adopted[0])
		s.adopted = s.adopted[1:]
	}
	fresh := s.deep&(1<<level) == 0
	s.deep |= 1 << level
	s.mu.Unlock()
	if fresh {
		if err := s.r.levels(nil); err != nil {
			s.r.log.Warn("cgroups of containers are not followed", "error", err)
		}
	}
}

// lookAgain looks for engines that the job has just connected to, at most once a second.
// disengage waits for it.
func (s *Scope) lookAgain() {
	if !s.engaged || s.r.now.Sub(s.lookedAt) < time.Second {
		return
	}
	s.lookedAt = s.r.now
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.looks.Go(func() {
		events, err := s.seize(context.Background())
		if err != nil {
			s.r.log.Warn("look for engines", "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.early = append(s.early, events...)
	})
}
