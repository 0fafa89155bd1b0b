// Package qemu runs every runner in a virtual machine of this host, one machine for
// one job, with QEMU: with KVM where a trial shows that KVM works, with QEMU's own
// translation elsewhere.
//
// A machine needs no network to be managed. Its boot data are one line on a
// virtio-serial port, and its agent speaks HTTP to the control plane over another,
// whose end on this host (relay.go) passes on the agent's routes and nothing else.
// What a job reaches beyond that goes the same way, where the configuration lists it
// (egress.go). Machines are copied from a template, memory and disk, that was saved
// while it waited for its boot data (template.go); each copy gets a seed, the time and
// names of its own before anything runs in it (package guest).
//
// It owns one directory per owner below Config.Root, with one directory per machine
// (package instancedir).
// What it knows, it knows from there and from the processes of this host: state.json is
// written before anything is started, QEMU carries the instance's name in its
// environment, and a process is identified by pid and start time. A control plane that
// was killed therefore finds, lists and deletes the machines of the one before it, and
// they live through its end; the new one takes their ports over. Locks are flock(2) on
// the directories, so that several control planes may share a host.
//
// It also makes images (build.go), which `muster image` calls, and keeps machines: disks
// of the operator's that it starts and stops and never removes (kept_linux.go).
//
// It never talks to GitHub. internal/server builds it, internal/lifecycle calls it, and
// Close ends its goroutines. It works on Linux; elsewhere New returns an error.
package qemu
