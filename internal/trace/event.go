package trace

import (
	"strings"
	"time"
)

// Type is what an event is about.
type Type string

// The types of events. docs/traces.md describes every field of each.
const (
	// TraceStart is the first event of every trace: what is recorded, and what is not.
	TraceStart Type = "trace_start"
	// TraceEnd is the last event of a trace that was sealed by its agent.
	TraceEnd Type = "trace_end"
	// StepStart and StepEnd are the bounds of a workflow step.
	StepStart Type = "step_start"
	StepEnd   Type = "step_end"

	ProcessExec Type = "process_exec"
	ProcessExit Type = "process_exit"

	NetConnect Type = "net_connect"
	// NetListen is a socket by which others can reach a process.
	NetListen Type = "net_listen"
	DNSQuery  Type = "dns_query"
	// TLSHello is a server's name that a client asked for in clear at the start of TLS.
	TLSHello Type = "tls_hello"
	// UnixConnect is a connection to a socket in the file system, such as a container engine's.
	UnixConnect Type = "unix_connect"
	// RawSocket is a socket by which packets pass around the rules of egress.
	RawSocket Type = "raw_socket"

	FileOpen   Type = "file_open"
	FileWrite  Type = "file_write"
	FileDelete Type = "file_delete"
	FileRename Type = "file_rename"
	// FileLink is a further name of a file: a hard link.
	FileLink Type = "file_link"

	MemRead    Type = "mem_read"
	BPFLoad    Type = "bpf_load"
	ModuleLoad Type = "module_load"
	SetUID     Type = "setuid"
	Mount      Type = "mount"
	// CgroupMove is a process that left the job's cgroup.
	CgroupMove Type = "cgroup_move"
	// IOUring is a process that set up an io_uring, by which files can be opened unseen.
	IOUring Type = "io_uring"
	// Tamper is an attempt on the recorder: a signal to the agent, for example.
	Tamper Type = "tamper"

	// Dropped says how many events are missing, of what kind, and why.
	Dropped Type = "dropped"
)

// Event is one line of a trace. Which fields are set depends on Type; a field that
// is absent from the text has its zero value. Every Event has Type and Timestamp.
// All text is valid UTF-8: bytes that are not are replaced when it is encoded.
type Event struct {
	Type Type `json:"type"`
	// Timestamp is the wall clock of the machine, UTC, RFC 3339 with up to nanoseconds.
	Timestamp time.Time `json:"timestamp"`
	// Seq numbers the events of a trace from 1, in the order in which they were written.
	Seq uint64 `json:"seq,omitempty"`
	// Step is the number of the step in which it happened, as StepStart numbers it; 0
	// is before the first or unknown.
	Step int `json:"step,omitempty"`

	// PID is the process (thread group) in the machine's own numbering; Start is when it
	// began, in microseconds since the machine booted. Both together name it: the kernel
	// uses numbers again (4-47).
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
	// PPID is the parent's pid and ParentStart its start, at the time of the event.
	PPID        int    `json:"ppid,omitempty"`
	ParentStart uint64 `json:"parent_start,omitempty"`
	UID         uint32 `json:"uid,omitempty"`
	// Command is the kernel's name of the process (comm), at most 15 bytes.
	Command string `json:"command,omitempty"`
	// Container is the id of the container that the process runs in, from its cgroup; ""
	// if none is known.
	Container string `json:"container,omitempty"`

	// Path: of ProcessExec the program; of file events the file; of UnixConnect the
	// socket; of Mount the mount point; of ModuleLoad the module's file; of CgroupMove
	// the cgroup entered. Absolute, links resolved where the kernel did.
	Path string `json:"path,omitempty"`
	// NewPath is what FileRename renamed Path to, and the name that FileLink added.
	NewPath string `json:"new_path,omitempty"`
	// Args are a program's arguments with its name first, secrets replaced by "***".
	Args []string `json:"args,omitempty"`
	// Truncated: arguments (or a path) were longer than is recorded.
	Truncated bool `json:"truncated,omitempty"`
	// Dir is the working directory of a ProcessExec.
	Dir string `json:"dir,omitempty"`
	// ExitCode is that of a ProcessExit or of a step's script; Signal is the number of the
	// signal that ended the process, or that Tamper sent.
	ExitCode int `json:"exit_code,omitempty"`
	Signal   int `json:"signal,omitempty"`
	// DurationUS is how long a process or step ran, CPUUS how much CPU time a process
	// used (user and system, without children), in microseconds.
	DurationUS int64 `json:"duration_us,omitempty"`
	CPUUS      int64 `json:"cpu_us,omitempty"`
	// MemoryKiB is a process's greatest resident memory.
	MemoryKiB int64 `json:"memory_kib,omitempty"`
	// ReadBytes and WrittenBytes are what a process, and the children that it waited for,
	// moved from and to storage.
	ReadBytes    int64 `json:"read_bytes,omitempty"`
	WrittenBytes int64 `json:"written_bytes,omitempty"`

	// Address is an IP address in text, without port or zone; Port is 1…65535; Protocol is
	// "tcp", "udp", "icmp" or a number.
	Address  string `json:"address,omitempty"`
	Port     int    `json:"port,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	// Hostname is what a DNSQuery asked for or a TLSHello named, lower case without the
	// final dot; of a NetConnect the name by which the job had learnt the address, "" if none.
	Hostname string `json:"hostname,omitempty"`
	// QueryType is "A", "AAAA", "TXT", …; Addresses is what the answer said, if it came.
	QueryType string   `json:"query_type,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	// Verdict of a NetConnect, DNSQuery or TLSHello under an egress policy: VerdictAllowed,
	// VerdictDenied, or VerdictWouldDeny; "" without a policy.
	Verdict string `json:"verdict,omitempty"`

	// Flags of a FileOpen, in words joined by commas: "read", "write", "create",
	// "truncate", "append", "exec", "directory", in this order.
	Flags string `json:"flags,omitempty"`
	// Bytes is how much was written to a file since its last FileWrite event.
	Bytes int64 `json:"bytes,omitempty"`
	// Count is how many events a Dropped stands for, or how many like this one were seen
	// when repetitions are told in one; 0 counts as 1.
	Count int64 `json:"count,omitempty"`

	// Method: how a MemRead was made ("proc_mem", "proc_environ", "process_vm_readv",
	// "ptrace", "pidfd_getfd"); how a FileOpen changed a file without a write ("truncate", …); the command of a BPFLoad ("prog_load", …); what a Tamper did ("signal",
	// "bpf_detach", "cgroup_move", "stopped" for DurationUS, …); why events were Dropped ("buffer_full", "job_limit",
	// "rate_limit", "disk_full", "recorder_gone").
	Method string `json:"method,omitempty"`
	// Target is the process that a MemRead, SetUID or Tamper was aimed at.
	Target        int    `json:"target,omitempty"`
	TargetCommand string `json:"target_command,omitempty"`
	// TargetUID is the user that SetUID changed to.
	TargetUID uint32 `json:"target_uid,omitempty"`
	// Source and FileSystem of a Mount.
	Source     string `json:"source,omitempty"`
	FileSystem string `json:"file_system,omitempty"`

	// Name: a step's name, a BPF program's, a module's; of Dropped the type of the events.
	Name string `json:"name,omitempty"`
	// StepKind is "uses", "run", "hook" or "" if it is not known; Uses is the action
	// ("actions/checkout@v4").
	StepKind string `json:"step_kind,omitempty"`
	Uses     string `json:"uses,omitempty"`
	// Result of a StepEnd: GitHub's word, such as "succeeded".
	Result string `json:"result,omitempty"`

	// Recorder, in a TraceStart, says what is recorded; Counts, in a TraceEnd, how many
	// events of each type were written and how many were dropped.
	Recorder *Recorder        `json:"recorder,omitempty"`
	Counts   map[string]int64 `json:"counts,omitempty"`
	Lost     map[string]int64 `json:"lost,omitempty"`
}

// The verdicts of an egress policy.
const (
	VerdictAllowed   = "allowed"
	VerdictDenied    = "denied"
	VerdictWouldDeny = "would_deny" // audit and learn let it pass
)

// Opened reports whether a FileOpen's flags have a word.
func (e Event) Opened(word string) bool {
	for w := range strings.SplitSeq(e.Flags, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// Process names the process that the event is of.
func (e Event) Process() Process { return Process{e.PID, e.Start} }

// Process is one process for ever: its pid and when it began.
type Process struct {
	PID   int
	Start uint64
}

// Recorder says what a machine can record and how.
type Recorder struct {
	Agent  string `json:"agent"`  // the agent's version
	Kernel string `json:"kernel"` // release
	// Scope is how processes are known to be the job's: "cgroup", "tree" or "cgroup+tree".
	Scope string `json:"scope,omitempty"`
	// Missing maps what is not recorded to why: "file_open" → "…". A recorder that
	// cannot run at all has the entry "all".
	Missing map[string]string `json:"missing,omitempty"`
	// Extras are optional hooks that are active: "lsm", "fentry", …
	Extras []string `json:"extras,omitempty"`
	// Egress is the mode of the policy that is in force, "" if none.
	Egress string `json:"egress,omitempty"`
}
