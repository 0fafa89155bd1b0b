package bpf

import (
	"log/slog"

	"github.com/muster-ci/muster/internal/trace"
)

// Reads says which files that are opened only to be read are told of.
type Reads string

// Which reads are told of. Whatever the policy, those of another process's memory and
// environment are events of their own (trace.MemRead).
const (
	// ReadsFirst is the first time that a process opens a file since it began its
	// program, without the system's own libraries, headers and data (/usr/lib*,
	// /usr/share, /usr/include, /lib*, /sys, /proc). The zero value.
	ReadsFirst Reads = ""
	// ReadsSensitive is those of ReadsFirst that Sensitive knows.
	ReadsSensitive Reads = "sensitive"
	ReadsAll       Reads = "all"
	ReadsNone      Reads = "none"
)

// Options is how a machine is recorded. The zero value records everything.
type Options struct {
	Logger *slog.Logger // nil for none
	Agent  string       // the agent's version
	// Protect are the processes that a job must not touch, besides the one that records.
	Protect []int
	Reads   Reads
	// Rate is how many events of one scope are let through in a second, with as many
	// again in a burst. 0 is DefaultRate; what is more is counted as rate_limit.
	Rate int
	// Egress is the policy of scopes that bring none.
	Egress trace.Egress
	netOptions
}

// DefaultRate is well above what builds do and below what would fill a disk in minutes.
const DefaultRate = 100_000

// Follow says what a scope is.
type Follow struct {
	// Root is the process whose descendants belong to it, and it itself.
	Root int
	// Cgroup is a directory of the cgroup-v2 hierarchy all of whose processes belong to it
	// too. "" makes one below Root's own, if the machine allows, puts Root and its
	// descendants into it, and removes it in the end.
	Cgroup string
	// Egress is what it may reach; the zero value stands for the one of Options.
	Egress trace.Egress
	// Engines are the container engines that work for this scope alone: what they do, and
	// every container of theirs, is its own.
	Engines Engines
	// Protect are processes that a job must not touch while this is followed, such as the
	// agent that asks for it.
	Protect []int
}

// Engines says which container engines work for one job alone.
type Engines string

const (
	// EnginesNone: the machine's engines work for others too. The zero value.
	EnginesNone Engines = ""
	// EnginesNetwork are those in the network namespace of the job, if that is not the
	// machine's own: a sidecar's.
	EnginesNetwork Engines = "network"
	// EnginesMachine are all of the machine: it is there for one job at a time.
	EnginesMachine Engines = "machine"
)

// Why events are dropped, as Event.Method and Scope.Lost have it.
const (
	lostFull = "buffer_full"
	lostRate = "rate_limit"
)

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
