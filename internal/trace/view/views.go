package view

import (
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// Version is that of the JSON text of Views. A reader refuses a greater one; a lesser
// one is made again from the events.
const Version = 1

// Views are all views of one trace. Lists are never nil-checked by readers: an absent
// one is empty. All durations are microseconds, all sizes bytes unless their names say
// otherwise. A Views is not changed once it is made, except by Judge.
type Views struct {
	Version int       `json:"version"`
	Job     trace.Job `json:"job"`
	// Ended: the trace's last event was seen. Without it the job still runs, or its end is missing.
	Ended bool `json:"ended,omitempty"`

	Overview Overview `json:"overview"`
	// Steps are in the order of their numbers. The one numbered 0, if there, is what
	// happened outside of all steps: the runner itself and its hooks.
	Steps []Step `json:"steps,omitempty"`
	// Processes are a forest: Parent is an index into it. They are in the order of a walk: a
	// process, then its first child with all below it, then the next. Children of one parent
	// are in the order in which they began.
	Processes []Process `json:"processes,omitempty"`
	// HiddenProcesses is how many are counted but not listed.
	HiddenProcesses int64 `json:"hidden_processes,omitempty"`
	// Programs are what was executed, by normalised path (see Normal), the most often first.
	Programs       []Program `json:"programs,omitempty"`
	HiddenPrograms int64     `json:"hidden_programs,omitempty"`
	// Flame is a forest like Processes: one frame for every chain of commands. The first
	// level are the steps.
	Flame []Frame `json:"flame,omitempty"`

	Network Network `json:"network"`
	// Files is the root of the tree of files, named "/"; nil if no file was touched.
	Files *Dir `json:"files,omitempty"`
	// FileTops are the lists beside the tree.
	FileTops FileTops `json:"file_tops"`

	Performance Performance `json:"performance"`

	// Notable are the rare events that a reader wants to see each: reads of other
	// processes' memory, mounts, changes of user, tampering, …; the first 100 of each type.
	Notable       []Notable `json:"notable,omitempty"`
	HiddenNotable int64     `json:"hidden_notable,omitempty"`
}

// Counts are numbers over a part of a trace: a step, or all of it.
type Counts struct {
	Events    int64 `json:"events"`
	Processes int64 `json:"processes"`
	// Execs is how many programs were started: a process may start several in turn.
	Execs int64 `json:"execs"`
	// Connections counts attempts, Hosts distinct destinations, Queries DNS questions.
	Connections int64 `json:"connections"`
	Hosts       int64 `json:"hosts"`
	Queries     int64 `json:"queries"`
	// Files is how many distinct files were touched (exact up to 65,536, within 2 % above).
	Files int64 `json:"files"`
	FileCounts
	// Sensitive counts accesses to files that hold secrets (see Sensitive).
	Sensitive int64 `json:"sensitive,omitempty"`
	// Refused counts what an egress policy denied, WouldDeny what it would have.
	Refused   int64 `json:"refused,omitempty"`
	WouldDeny int64 `json:"would_deny,omitempty"`
	// CPUUS, ReadBytes and WrittenBytes are of processes that ended, and count for the
	// step in which the process began. Failed is how many ended with a code or a signal.
	CPUUS        int64 `json:"cpu_us"`
	ReadBytes    int64 `json:"read_bytes"`
	WrittenBytes int64 `json:"written_bytes"`
	Failed       int64 `json:"failed,omitempty"`
	// PeakMemoryKiB is the greatest of one process.
	PeakMemoryKiB int64 `json:"peak_memory_kib,omitempty"`
}

// FileCounts are accesses by kind. An open to read and write counts as both; one that
// creates counts as Creates and not as Writes.
type FileCounts struct {
	Reads   int64 `json:"reads,omitempty"`
	Writes  int64 `json:"writes,omitempty"`
	Creates int64 `json:"creates,omitempty"`
	Deletes int64 `json:"deletes,omitempty"`
	Renames int64 `json:"renames,omitempty"`
	// Bytes were written through the file system, whether or not they reached storage.
	Bytes int64 `json:"bytes,omitempty"`
}

// Word is the verdict in one word.
type Word string

// The words, the worst first. A trace has the worst that fits it.
const (
	// VerdictRefused: an egress policy denied a connection.
	VerdictRefused Word = "refused"
	// VerdictFindings: rules found something of medium severity or more.
	VerdictFindings Word = "findings"
	// VerdictIncomplete: events are missing, so that nothing found means less.
	VerdictIncomplete Word = "incomplete"
	// VerdictClean: everything was recorded and nothing was found.
	VerdictClean Word = "clean"
	// VerdictRunning: the job has not ended.
	VerdictRunning Word = "running"
)

// Verdict is the first line that a reader sees.
type Verdict struct {
	Word Word `json:"word"`
	// Text is one sentence that says why, with numbers.
	Text string `json:"text"`
	// Why are all reasons, also those that a worse one covers.
	Why []string `json:"why,omitempty"`
}

// Overview is the first page.
type Overview struct {
	Verdict    Verdict   `json:"verdict"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	EndedAt    time.Time `json:"ended_at,omitzero"` // of the last event while it runs
	DurationUS int64     `json:"duration_us"`
	Counts     Counts    `json:"counts"`
	// ByType is how many events there are of each type.
	ByType map[trace.Type]int64 `json:"by_type,omitempty"`
	// AliveAfter is how many processes that a step began were still there at the end.
	AliveAfter int64 `json:"alive_after,omitempty"`

	// TopPrograms are by CPU time, TopHosts by connections, TopWriters by bytes, each at most 10.
	TopPrograms []Top `json:"top_programs,omitempty"`
	TopHosts    []Top `json:"top_hosts,omitempty"`
	TopWriters  []Top `json:"top_writers,omitempty"`
	// Refusals are the destinations that a policy denied or would have, at most 100.
	Refusals []Refusal `json:"refusals,omitempty"`

	Recorder *trace.Recorder `json:"recorder,omitempty"`
	// Missing maps kinds of events that were not recorded to why; Lost is how many events
	// were dropped, by reason.
	Missing map[string]string `json:"missing,omitempty"`
	Lost    map[string]int64  `json:"lost,omitempty"`
}

// Top is one line of a list of the greatest.
type Top struct {
	Name string `json:"name"`
	// Count is how many processes, connections or accesses are behind it.
	Count  int64 `json:"count"`
	WallUS int64 `json:"wall_us,omitempty"`
	CPUUS  int64 `json:"cpu_us,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"`
}

// Refusal is a destination that an egress policy did not allow.
type Refusal struct {
	Verdict string `json:"verdict"` // trace.VerdictDenied or trace.VerdictWouldDeny
	Host    string `json:"host,omitempty"`
	Address string `json:"address,omitempty"`
	Port    int    `json:"port,omitempty"`
	// Protocol is as in trace.Event; "dns" for a question that was refused.
	Protocol string    `json:"protocol,omitempty"`
	Program  string    `json:"program"`
	PID      int       `json:"pid"`
	Step     int       `json:"step"`
	Count    int64     `json:"count"`
	First    time.Time `json:"first"`
	Seq      uint64    `json:"seq"`
}

// Step is one step of the job and what happened in it.
type Step struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Kind   string `json:"kind,omitempty"` // "uses", "run", "hook", ""
	Uses   string `json:"uses,omitempty"`
	// Start is zero of step 0, End of one that has not ended.
	Start      time.Time `json:"start,omitzero"`
	End        time.Time `json:"end,omitzero"`
	DurationUS int64     `json:"duration_us"`
	Result     string    `json:"result,omitempty"`
	ExitCode   int       `json:"exit_code,omitempty"`
	Counts
}

// Image is one program that a process ran. A process that executes several in turn
// (sh, then env, then node) is one Process with several.
type Image struct {
	Path string `json:"path"`
	// Args are the arguments with the name first, cut to 1,024 bytes together; Truncated
	// says that they were cut, here or by the recorder.
	Args      []string  `json:"args,omitempty"`
	Truncated bool      `json:"truncated,omitempty"`
	Dir       string    `json:"dir,omitempty"`
	At        time.Time `json:"at"`
	Seq       uint64    `json:"seq"` // of the process_exec
}

// Process is one process of the job.
type Process struct {
	// Parent is the index in Views.Processes, -1 of a root.
	Parent int    `json:"parent"`
	PID    int    `json:"pid"`
	Start  uint64 `json:"start,omitempty"` // as trace.Event.Start
	// Command is the name to show: of the program that it ran last, which is what the others
	// led to ("sh", then "env", then "node"), and the same in every run.
	Command string `json:"command"`
	// Images are the programs that it ran, in order: none if it only forked. At most 8,
	// the first ones and the last; MoreImages is how many are left out.
	Images     []Image `json:"images,omitempty"`
	MoreImages int64   `json:"more_images,omitempty"`
	// Main is the index in Images of the one that Command names and that all of the process's
	// CPU time counts for: the last.
	Main      int    `json:"main,omitempty"`
	Step      int    `json:"step"`
	UID       uint32 `json:"uid,omitempty"`
	Container string `json:"container,omitempty"`

	StartedAt time.Time `json:"started_at,omitzero"`
	// EndedAt is zero of a process whose end was not seen.
	EndedAt    time.Time `json:"ended_at,omitzero"`
	DurationUS int64     `json:"duration_us"` // until the end of the trace if its end was not seen
	CPUUS      int64     `json:"cpu_us,omitempty"`
	MemoryKiB  int64     `json:"memory_kib,omitempty"`
	// ReadBytes and WrittenBytes went from and to storage, without those of children.
	ReadBytes    int64 `json:"read_bytes,omitempty"`
	WrittenBytes int64 `json:"written_bytes,omitempty"`
	ExitCode     int   `json:"exit_code,omitempty"`
	Signal       int   `json:"signal,omitempty"`

	// Unseen: nothing but its children were seen; it began before the recorder, or its
	// events were lost. Orphan: its parent was gone when it was first seen, so that it
	// stands where the kernel put it.
	Unseen bool `json:"unseen,omitempty"`
	Orphan bool `json:"orphan,omitempty"`
	// Alive: a step began it, and it was still there when the job had ended.
	Alive bool `json:"alive,omitempty"`

	// What it did itself, without its children.
	Connections int64 `json:"connections,omitempty"`
	Files       int64 `json:"files,omitempty"`   // accesses
	Written     int64 `json:"written,omitempty"` // bytes, through the file system
	Refused     int64 `json:"refused,omitempty"`
	Notable     int64 `json:"notable,omitempty"`

	// Children is how many are listed; Hidden how many of its descendants are not, with
	// their CPU time.
	Children    int   `json:"children,omitempty"`
	Hidden      int64 `json:"hidden,omitempty"`
	HiddenCPUUS int64 `json:"hidden_cpu_us,omitempty"`
}

// Program is an executable file, under its normalised path.
type Program struct {
	Path string `json:"path"`
	// Example is the path as it was, if it is another.
	Example string    `json:"example,omitempty"`
	Count   int64     `json:"count"`
	Steps   []int     `json:"steps,omitempty"` // at most 16
	First   time.Time `json:"first"`
	Seq     uint64    `json:"seq"`
}

// Frame is a chain of commands in the flame view: all processes with the same commands
// from the step down. A process whose parent was not seen before it (a shell's copy of itself
// that only forked) stands right below its step.
type Frame struct {
	Parent int    `json:"parent"` // index in Views.Flame, -1 of a step
	Name   string `json:"name"`
	Step   int    `json:"step"`
	Count  int64  `json:"count"`
	// Wall is the time that processes existed, added up: several at once count each. Self
	// is without the time in which one of their children existed.
	SelfWallUS  int64 `json:"self_wall_us"`
	TotalWallUS int64 `json:"total_wall_us"`
	// CPU: Self is of the processes, Total with their descendants.
	SelfCPUUS  int64 `json:"self_cpu_us"`
	TotalCPUUS int64 `json:"total_cpu_us"`
}

// Category is what kind of place a connection went to.
type Category string

// The four categories.
const (
	External   Category = "External Services"
	GitHub     Category = "GitHub Infrastructure"
	Registries Category = "Package Registries"
	Runner     Category = "Runner Infrastructure"
)

// Categories are the four in the order in which they are shown.
var Categories = []Category{External, GitHub, Registries, Runner}

// Network is who talked to whom.
type Network struct {
	// Categories are always four, in the order of the variable.
	Categories []CategoryTotal `json:"categories"`
	// Hosts are the destinations and the names asked for, refused ones first, then by number
	// of connections. Beyond 100 different names below one domain, which is how data leaves in
	// names, the rest are one host "*.DOMAIN". Hidden* count events of what is not listed.
	Hosts       []Host `json:"hosts,omitempty"`
	HiddenHosts int64  `json:"hidden_hosts,omitempty"`
	// Connections are aggregated by destination, port, protocol, program, step and verdict, in
	// the order of their first.
	Connections       []Connection `json:"connections,omitempty"`
	HiddenConnections int64        `json:"hidden_connections,omitempty"`
	// Queries are the questions to DNS by name, type, program and step.
	Queries       []Query `json:"queries,omitempty"`
	HiddenQueries int64   `json:"hidden_queries,omitempty"`
	Graph         Graph   `json:"graph"`
}

// CategoryTotal is one category's sum.
type CategoryTotal struct {
	Category    Category `json:"category"`
	Hosts       int64    `json:"hosts"`
	Connections int64    `json:"connections"`
	Refused     int64    `json:"refused,omitempty"`
}

// Host is one destination: a name, or an address whose name the job never asked for.
type Host struct {
	Host     string   `json:"host"`
	Category Category `json:"category"`
	// Service is what the table of known hosts calls it ("npm", "PyPI", "GitHub API"), "" if it
	// is not in it.
	Service     string    `json:"service,omitempty"`
	Addresses   []string  `json:"addresses,omitempty"` // at most 16
	Ports       []int     `json:"ports,omitempty"`     // at most 16, ascending
	Connections int64     `json:"connections"`
	Queries     int64     `json:"queries,omitempty"`
	Refused     int64     `json:"refused,omitempty"`
	WouldDeny   int64     `json:"would_deny,omitempty"`
	Programs    []string  `json:"programs,omitempty"` // at most 16
	Steps       []int     `json:"steps,omitempty"`    // at most 16
	First       time.Time `json:"first"`
}

// How a connection's host became known.
const (
	ByRecorder = "recorder" // the recorder said so in the event
	ByTLS      = "tls"      // the client named it at the start of TLS
	ByDNS      = "dns"      // an answer had the address
)

// Connection is a set of like connections.
type Connection struct {
	// Host is the name, or the address if it has none; By is how the name is known.
	Host      string   `json:"host"`
	By        string   `json:"by,omitempty"`
	Category  Category `json:"category"`
	Addresses []string `json:"addresses,omitempty"` // at most 16
	Port      int      `json:"port,omitempty"`
	// Protocol is as in trace.Event; "unix" of sockets in the file system, whose path is Host.
	Protocol string `json:"protocol,omitempty"`
	// Program is the command; Process the index of the first process in Views.Processes, -1
	// if it is not listed; PID its number.
	Program string    `json:"program"`
	Process int       `json:"process"`
	PID     int       `json:"pid"`
	Step    int       `json:"step"`
	Verdict string    `json:"verdict,omitempty"`
	Count   int64     `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Seq     uint64    `json:"seq"` // of the first
}

// Query is a set of like questions to DNS.
type Query struct {
	Hostname  string    `json:"hostname"`
	Type      string    `json:"type,omitempty"`
	Category  Category  `json:"category"`
	Addresses []string  `json:"addresses,omitempty"` // at most 16
	Program   string    `json:"program"`
	PID       int       `json:"pid"` // of the first
	Step      int       `json:"step"`
	Verdict   string    `json:"verdict,omitempty"`
	Count     int64     `json:"count"`
	First     time.Time `json:"first"`
	Seq       uint64    `json:"seq"`
}

// Graph is which program reached which host, at most 40 programs and 120 hosts with the
// most connections; the refused are always in it.
type Graph struct {
	Nodes []Node `json:"nodes,omitempty"`
	Edges []Edge `json:"edges,omitempty"`
	// HiddenEdges is how many pairs of program and host are not in it.
	HiddenEdges int64 `json:"hidden_edges,omitempty"`
}

// Node is a program or a host.
type Node struct {
	Kind     string   `json:"kind"` // "program" or "host"
	Name     string   `json:"name"`
	Category Category `json:"category,omitempty"` // of a host
	Weight   int64    `json:"weight"`             // connections
}

// Edge joins the node of a program to that of a host.
type Edge struct {
	From    int   `json:"from"` // indices in Nodes
	To      int   `json:"to"`
	Weight  int64 `json:"weight"`
	Refused int64 `json:"refused,omitempty"`
}

// Dir is a directory with all that is below it counted.
type Dir struct {
	Name string `json:"name"`
	// Total is of everything below, the folded included. Distinct is the number of files
	// below, those folded included once each time that they were met after folding.
	Total    FileCounts `json:"total"`
	Distinct int64      `json:"distinct"`
	// Sensitive is how many files below are marked.
	Sensitive int64  `json:"sensitive,omitempty"`
	Dirs      []*Dir `json:"dirs,omitempty"`  // by name
	Files     []File `json:"files,omitempty"` // by name
	// Folded is how many files here are only counted: FoldedCounts.
	Folded       int64      `json:"folded,omitempty"`
	FoldedCounts FileCounts `json:"folded_counts,omitzero"`
}

// File is one file in a Dir.
type File struct {
	Name string `json:"name"`
	FileCounts
	// Sensitive is why the file is marked: "SSH private key"; "" if it is not.
	Sensitive string `json:"sensitive,omitempty"`
	// Programs touched it, at most 4, the first ones; Step is of the first access.
	Programs []string `json:"programs,omitempty"`
	Step     int      `json:"step"`
	Seq      uint64   `json:"seq"` // of the first access
}

// FileTops are lists beside the tree of files.
type FileTops struct {
	// Writers are programs by bytes written, at most 50.
	Writers []Top `json:"writers,omitempty"`
	// Largest are files by bytes written, at most 50. Exact while few files are folded.
	Largest []Top `json:"largest,omitempty"`
	// Sensitive are accesses to files that hold secrets, at most 500.
	Sensitive       []SensitiveFile `json:"sensitive,omitempty"`
	HiddenSensitive int64           `json:"hidden_sensitive,omitempty"`
	// Renamed are renames onto another directory or name, at most 200, the first ones.
	Renamed       []Rename `json:"renamed,omitempty"`
	HiddenRenamed int64    `json:"hidden_renamed,omitempty"`
}

// SensitiveFile is a set of like accesses to a file that holds secrets.
type SensitiveFile struct {
	Path string `json:"path"`
	What string `json:"what"` // as Sensitive says
	// Kind is the strongest: "write", "create", "rename", "delete", "connect" (to a socket), "read".
	Kind    string    `json:"kind"`
	Program string    `json:"program"`
	PID     int       `json:"pid"`
	Step    int       `json:"step"`
	Count   int64     `json:"count"`
	First   time.Time `json:"first"`
	Seq     uint64    `json:"seq"`
}

// Rename is one file that got another name.
type Rename struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Program string `json:"program"`
	Step    int    `json:"step"`
	Seq     uint64 `json:"seq"`
}

// Performance is where the time went.
type Performance struct {
	// Total is over all steps and what was outside of them.
	Total StepPerformance   `json:"total"`
	Steps []StepPerformance `json:"steps,omitempty"`
}

// StepPerformance is where the time of one step went.
type StepPerformance struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	WallUS int64  `json:"wall_us"`
	CPUUS  int64  `json:"cpu_us"`
	// Share is of the whole job's wall time, 0…1.
	Share float64 `json:"share"`
	// Parallelism is CPU time over wall time: how many CPUs were busy on average. Idle is
	// the share of the wall time in which not one was, on average: 0…1.
	Parallelism float64 `json:"parallelism"`
	Idle        float64 `json:"idle"`
	// MaxProcesses is the most that existed at once (of those that were seen).
	MaxProcesses int64 `json:"max_processes"`
	ReadBytes    int64 `json:"read_bytes"`
	WrittenBytes int64 `json:"written_bytes"`
	// FileBytes were written through the file system; Connections were tried.
	FileBytes   int64 `json:"file_bytes"`
	Connections int64 `json:"connections"`
	Processes   int64 `json:"processes"`
	// Short is how many processes lived less than 10 ms, ShortUS their time together: what
	// the starting of processes costs.
	Short   int64 `json:"short"`
	ShortUS int64 `json:"short_us"`
	// ByCPU, ByWall and ByIO are the programs that took most, at most 8 each.
	ByCPU  []Top `json:"by_cpu,omitempty"`
	ByWall []Top `json:"by_wall,omitempty"`
	ByIO   []Top `json:"by_io,omitempty"` // Bytes is read and written, from and to storage
}

// Notable is one event that is rare enough to be shown by itself.
type Notable struct {
	Type trace.Type `json:"type"`
	// Text says what happened in one line.
	Text    string    `json:"text"`
	At      time.Time `json:"at"`
	Seq     uint64    `json:"seq"`
	PID     int       `json:"pid,omitempty"`
	Program string    `json:"program,omitempty"`
	Step    int       `json:"step"`
	// Process is the index in Views.Processes, -1 if it is not listed.
	Process int `json:"process"`
}
