package view

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/muster-ci/muster/internal/trace"
)

// notables are the rare events, at most maxNotable of each type.
type notables struct {
	all    []noted
	counts map[trace.Type]int
	hidden int64
}

type noted struct {
	Notable
	key trace.Process
}

// note keeps an event that is of none of the frequent types.
func (b *Builder) note(p *proc, e *trace.Event) {
	text := describe(e)
	if text == "" || b.routine(p, e) {
		return // "" is of a type of a later version
	}
	n := &b.notable
	if p != nil {
		p.Notable++
	}
	if n.counts == nil {
		n.counts = make(map[trace.Type]int)
	}
	if n.counts[e.Type]++; n.counts[e.Type] > maxNotable {
		n.hidden++
		return
	}
	n.all = append(n.all, noted{Notable{Type: e.Type, Text: text, At: e.Timestamp, Seq: e.Seq, PID: e.PID, Program: programOf(p, e), Step: e.Step}, e.Process()})
}

// programOf is the name of the program that an event is of.
func programOf(p *proc, e *trace.Event) string {
	if p != nil && len(p.Images) > 0 {
		return p.Command
	}
	return orUnknown(e.Command)
}

func describe(e *trace.Event) string {
	switch e.Type {
	case trace.MemRead:
		return fmt.Sprintf(readOf(e.Method), orUnknown(e.TargetCommand), e.Target)
	case trace.BPFLoad:
		return fmt.Sprintf("BPF %s %s", e.Method, e.Name)
	case trace.ModuleLoad:
		return "loaded the kernel module " + cmp.Or(e.Name, e.Path)
	case trace.SetUID:
		return fmt.Sprintf("became the user %d", e.TargetUID)
	case trace.Mount:
		if e.Path == "" {
			return fmt.Sprintf("mounted %s nowhere (%s)", orUnknown(e.Source), e.Method)
		}
		return fmt.Sprintf("mounted %s (%s) on %s", orUnknown(e.Source), orUnknown(e.FileSystem), e.Path)
	case trace.CgroupMove:
		return "left the job's cgroup for " + e.Path
	case trace.IOUring:
		return "set up an io_uring, by which files can be opened unseen"
	case trace.NetListen:
		if a, err := netip.ParseAddr(e.Address); err == nil && a.IsLoopback() {
			return "" // only the machine itself can connect to it
		}
		return fmt.Sprintf("waits for connections from outside on %s (%s)", net.JoinHostPort(e.Address, strconv.Itoa(e.Port)), e.Protocol)
	case trace.RawSocket:
		return "opened a raw socket, by which packets pass around the egress policy"
	case trace.Tamper:
		return fmt.Sprintf("touched the recorder: %s", e.Method)
	}
	return ""
}

// readOf says what was done to a process, whose name and number are to be filled in.
func readOf(method string) string {
	switch method {
	case "proc_environ":
		return "read the environment of %s (process %d)"
	case "pidfd_getfd":
		return "took an open file of %s (process %d)"
	case "process_vm_writev":
		return "wrote to the memory of %s (process %d)"
	case "ptrace":
		return "took hold of %s (process %d) by ptrace"
	}
	return "read the memory of %s (process %d)"
}

// routine reports what every runner does: at the end of a job it looks into the environments of
// all processes for those that a step left behind. The runner began before the first step did,
// which nothing of a step can have.
func (b *Builder) routine(p *proc, e *trace.Event) bool {
	return e.Type == trace.MemRead && e.Method == "proc_environ" && p != nil && !p.Unseen && !b.firstStep.IsZero() && p.StartedAt.Before(b.firstStep)
}

func (n *notables) list(v *Views, index map[trace.Process]int) {
	v.HiddenNotable = n.hidden
	for _, one := range n.all {
		out := one.Notable
		out.Process = indexOf(index, one.key)
		v.Notable = append(v.Notable, out)
	}
	slices.SortStableFunc(v.Notable, func(a, b Notable) int { return cmp.Compare(a.Seq, b.Seq) })
}

func indexOf(index map[trace.Process]int, key trace.Process) int {
	if i, ok := index[key]; ok {
		return i
	}
	return -1
}
