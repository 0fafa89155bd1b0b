package detect

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"golang.org/x/net/publicsuffix"

	"github.com/muster-ci/muster/internal/trace"
)

// scene is one event with all that rules can ask about it. It resolves the names in
// their expressions, and works out only what is asked for.
type scene struct {
	run  *run
	e    *trace.Event
	node *node
}

// variable is a name in expressions and titles. get returns a string, int64, bool or
// []string, always the same; about says what it is.
type variable struct {
	about string
	get   func(*scene) any
}

func (v variable) celType() *cel.Type {
	switch v.get(&scene{run: &run{}, e: &trace.Event{}}).(type) {
	case int64:
		return cel.IntType
	case bool:
		return cel.BoolType
	case []string:
		return cel.ListType(cel.StringType)
	default:
		return cel.StringType
	}
}

func field[T any](about string, get func(*trace.Event) T) variable {
	return variable{about, func(s *scene) any { return get(s.e) }}
}

func number[T int | int64 | uint32 | uint64](about string, get func(*trace.Event) T) variable {
	return variable{about, func(s *scene) any { return int64(get(s.e)) }} //nolint:gosec // event counters
}

// variables are all there are: the fields of events under the names of their text, and
// what is derived from them.
var variables = map[string]variable{
	"type":           field("the event's type", func(e *trace.Event) string { return string(e.Type) }),
	"seq":            number("number of the event in its trace", func(e *trace.Event) uint64 { return e.Seq }),
	"step":           number("number of the step", func(e *trace.Event) int { return e.Step }),
	"pid":            number("process id", func(e *trace.Event) int { return e.PID }),
	"start":          number("when the process began, µs since boot", func(e *trace.Event) uint64 { return e.Start }),
	"ppid":           number("parent's process id", func(e *trace.Event) int { return e.PPID }),
	"parent_start":   number("when the parent began", func(e *trace.Event) uint64 { return e.ParentStart }),
	"uid":            number("user id", func(e *trace.Event) uint32 { return e.UID }),
	"command":        field("the kernel's name of the process", func(e *trace.Event) string { return e.Command }),
	"container":      field("id of the process's container", func(e *trace.Event) string { return e.Container }),
	"path":           field("the event's path", func(e *trace.Event) string { return e.Path }),
	"new_path":       field("what a file was renamed to", func(e *trace.Event) string { return e.NewPath }),
	"args":           field("arguments of an exec", func(e *trace.Event) []string { return e.Args }),
	"truncated":      field("arguments were cut", func(e *trace.Event) bool { return e.Truncated }),
	"exit_code":      number("exit code", func(e *trace.Event) int { return e.ExitCode }),
	"signal":         number("signal", func(e *trace.Event) int { return e.Signal }),
	"duration_us":    number("how long it ran, µs", func(e *trace.Event) int64 { return e.DurationUS }),
	"cpu_us":         number("CPU time, µs", func(e *trace.Event) int64 { return e.CPUUS }),
	"address":        field("IP address", func(e *trace.Event) string { return e.Address }),
	"port":           number("port", func(e *trace.Event) int { return e.Port }),
	"protocol":       field("tcp, udp, …", func(e *trace.Event) string { return e.Protocol }),
	"hostname":       field("name asked for, or by which the address was learnt", func(e *trace.Event) string { return e.Hostname }),
	"query_type":     field("A, AAAA, TXT, …", func(e *trace.Event) string { return e.QueryType }),
	"addresses":      field("what a DNS answer said", func(e *trace.Event) []string { return e.Addresses }),
	"verdict":        field("allowed, denied, would_deny", func(e *trace.Event) string { return e.Verdict }),
	"flags":          field("flags of an open", func(e *trace.Event) string { return e.Flags }),
	"bytes":          number("bytes written", func(e *trace.Event) int64 { return e.Bytes }),
	"count":          number("how many events this one stands for", func(e *trace.Event) int64 { return e.Count }),
	"method":         field("how it was done", func(e *trace.Event) string { return e.Method }),
	"target":         number("process id aimed at", func(e *trace.Event) int { return e.Target }),
	"target_command": field("name of the process aimed at", func(e *trace.Event) string { return e.TargetCommand }),
	"target_uid":     number("user changed to", func(e *trace.Event) uint32 { return e.TargetUID }),
	"source":         field("source of a mount", func(e *trace.Event) string { return e.Source }),
	"file_system":    field("file system of a mount", func(e *trace.Event) string { return e.FileSystem }),
	"name":           field("name of a program, module, …", func(e *trace.Event) string { return e.Name }),
	"limited":        number("at the end of a trace: events left out because the pool's limit was reached, or the machine's disk was full", func(e *trace.Event) int64 { return e.Lost["job_limit"] + e.Lost["disk_full"] }),
	"flooded":        number("at the end of a trace: events that came faster than they could be taken", func(e *trace.Event) int64 { return e.Lost["buffer_full"] + e.Lost["rate_limit"] }),

	"program":        {"name of the process's program: bash, npm", func(s *scene) any { return s.program() }},
	"exe":            {"path of the process's program", func(s *scene) any { return s.of(func(n *node) string { return n.exe }) }},
	"line":           {"command line of the process", func(s *scene) any { return s.of(func(n *node) string { return n.line }) }},
	"dir":            {"working directory", func(s *scene) any { return s.of(func(n *node) string { return n.dir }) }},
	"parent_program": {"name of the parent's program", func(s *scene) any { return s.of(func(n *node) string { return n.parent.program() }) }},
	"parent_line":    {"command line of the parent", func(s *scene) any { return s.of(parentLine) }},
	"runs":           {"the file that an exec runs: the script of an interpreter, or the program", func(s *scene) any { return runs(s.e) }},
	"runs_from":      {"the host that the file of runs was downloaded from", func(s *scene) any { return s.run.marked.origin("downloaded", runs(s.e)) }},
	"script":         {"the file that the process runs: the script of an interpreter, or its program", func(s *scene) any { return s.of((*node).script) }},
	"forked":         {"the process never ran a program of its own", func(s *scene) any { return s.node != nil && s.node.forked }},
	"born_step":      {"number of the step in which the process, or what it came from, began", func(s *scene) any { return s.bornStep() }},
	"last_host":      {"last host outside that the process connected to", func(s *scene) any { return s.of(func(n *node) string { return n.host }) }},
	"copied":         {"the process's program was copied by hand into a folder for temporary files, or is in memory only", func(s *scene) any { return s.node != nil && s.node.copied }},
	"began_uid":      {"user id with which the process's program began", func(s *scene) any { return s.began() }},
	"before_uid":     {"user id of the program before it, or of the parent's; the process's own below the runner", func(s *scene) any { return s.before() }},
	"target_program": {"program of the process aimed at", func(s *scene) any { return s.run.target(s.e).program() }},
	"relation":       {"what the process aimed at is to this one: self, ancestor, descendant, same_program, other", func(s *scene) any { return s.relation() }},
	"writes":         {"the event changes a file", func(s *scene) any { return changes(s.e) }},
	"reads":          {"the event opens a file to read it", func(s *scene) any { return reads(s.e) }},
	"changed":        {"the path that was written, renamed to or added as a link", func(s *scene) any { return changed(s.e) }},
	"host":           {"hostname, or the address where no name is known", func(s *scene) any { return host(s.e) }},
	"destination":    {"the host with the port, the name alone of a question for it", func(s *scene) any { return destination(s.e) }},
	"external":       {"the host is not this machine, nor in a private network without a name", func(s *scene) any { return external(s.e) }},
	"domain":         {"the part of hostname that somebody registered", func(s *scene) any { return domain(s.e.Hostname) }},
	"label_length":   {"letters of hostname before its domain", func(s *scene) any { return int64(len(labels(s.e.Hostname))) }},
	"step_name":      {"name of the step", func(s *scene) any { return s.run.step(s.e).name }},
	"step_kind":      {"uses, run, hook", func(s *scene) any { return s.run.step(s.e).kind }},
	"uses":           {"action of the step", func(s *scene) any { return s.run.step(s.e).uses }},
	"workspace":      {"folder of the checkout", func(s *scene) any { return s.run.job.Workspace }},
	"runner_root":    {"folder of the runner, once it was seen", func(s *scene) any { return s.run.runnerRoot }},
	"new_host":       {"the host, if a mature baseline does not know it", func(s *scene) any { return s.run.unknown(factHost, s) }},
	"new_binary":     {"the program, if a mature baseline does not know it", func(s *scene) any { return s.run.unknown(factBinary, s) }},
	"new_sensitive":  {"the sensitive path, if a mature baseline does not know it", func(s *scene) any { return s.run.unknown(factSensitive, s) }},
}

// ResolveName implements cel.Activation.
func (s *scene) ResolveName(name string) (any, bool) {
	switch name {
	case "process":
		return opaque{kind: processType, value: s.node}, true
	case "marks":
		return opaque{kind: marksType, value: &s.run.marked}, true
	}
	v, ok := variables[name]
	if !ok {
		return nil, false
	}
	return v.get(s), true
}

// Parent implements cel.Activation: there is none.
func (s *scene) Parent() cel.Activation { return nil }

// text is a variable for people.
func (s *scene) text(name string) string {
	switch v := variables[name].get(s).(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case []string:
		return strings.Join(v, " ")
	default:
		return fmt.Sprint(v)
	}
}

func (s *scene) of(get func(*node) string) string {
	if s.node == nil {
		return ""
	}
	return get(s.node)
}

func parentLine(n *node) string {
	if n.parent == nil {
		return ""
	}
	return n.parent.line
}

func (s *scene) program() string {
	if p := s.node.program(); p != "" {
		return p
	}
	return s.e.Command
}

func (s *scene) began() int64 {
	if s.node == nil {
		return int64(s.e.UID)
	}
	return int64(s.node.uid)
}

// before takes a parent that is the runner's own for none: orphans of anybody are given to
// it where it is the first process of a container.
func (s *scene) before() int64 {
	if s.node == nil || s.node.parent == nil || s.node.parent.own != notOwn {
		return s.began()
	}
	return int64(s.node.parent.uid)
}

func (s *scene) bornStep() int64 {
	if s.node == nil {
		return int64(s.e.Step)
	}
	return int64(s.node.root)
}

func (s *scene) relation() string {
	t := s.run.target(s.e)
	switch {
	case s.e.Target != 0 && s.e.Target == s.e.PID:
		return "self"
	case t == nil || s.node == nil:
		return "other"
	case t.within(s.node):
		return "descendant"
	case t.exe != "" && t.exe == s.node.exe:
		return "same_program"
	case s.node.within(t):
		return "ancestor"
	}
	return "other"
}

// runs is the script of an exec, as a path, or its program.
func runs(e *trace.Event) string {
	if e.Type != trace.ProcessExec {
		return ""
	}
	return ranFile(e.Path, e.Dir, e.Args)
}

func reads(e *trace.Event) bool { return e.Type == trace.FileOpen && e.Opened("read") }

func changes(e *trace.Event) bool {
	switch e.Type {
	case trace.FileWrite, trace.FileRename, trace.FileLink:
		return true
	case trace.FileOpen:
		return e.Opened("write") || e.Opened("truncate") || e.Opened("append") || e.Opened("create")
	}
	return false
}

func changed(e *trace.Event) string {
	if e.Type == trace.FileRename || e.Type == trace.FileLink {
		return e.NewPath
	}
	return e.Path
}

func host(e *trace.Event) string {
	if e.Hostname != "" {
		return e.Hostname
	}
	return e.Address
}

// destination is the host and the port; the port of a question for a name is the resolver's.
func destination(e *trace.Event) string {
	if e.Type == trace.DNSQuery || e.Port == 0 {
		return host(e)
	}
	return net.JoinHostPort(host(e), strconv.Itoa(e.Port))
}

// external: a connection that leaves the machine, to an address that is public or to
// a name; or a question for a name that a server of this machine would not answer.
func external(e *trace.Event) bool {
	if e.Type == trace.NetConnect && e.Port == 53 && e.Protocol == "udp" {
		return false // the question that follows is told by itself
	}
	if e.Address != "" && e.Type != trace.DNSQuery {
		a, err := netip.ParseAddr(e.Address)
		if err != nil {
			return false
		}
		a = a.Unmap()
		if a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			return false
		}
		if e.Hostname == "" {
			return !a.IsPrivate()
		}
	}
	return e.Hostname != "" && e.Hostname != "localhost" && strings.Contains(e.Hostname, ".") &&
		!strings.HasSuffix(e.Hostname, ".arpa") && !strings.HasSuffix(e.Hostname, ".local") && !strings.HasSuffix(e.Hostname, ".localhost") && !strings.HasSuffix(e.Hostname, ".internal")
}

func domain(name string) string {
	if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return d
	}
	return name
}

func labels(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, domain(name)), ".")
}

// ownSubject is what an event is about.
func ownSubject(s *scene) string {
	e := s.e
	switch e.Type {
	case trace.NetConnect, trace.DNSQuery, trace.TLSHello:
		return host(e)
	case trace.FileRename, trace.FileLink:
		return e.NewPath
	case trace.MemRead, trace.Tamper:
		if p := s.run.target(e).program(); p != "" {
			return p
		}
		return e.TargetCommand
	case trace.TraceEnd, trace.Dropped, TraceCut:
		return "trace"
	case ProcessLeft, trace.SetUID, trace.RawSocket, trace.IOUring, trace.CgroupMove, trace.NetListen:
		return s.program()
	case trace.BPFLoad:
		return s.program() + " " + e.Name
	case trace.ModuleLoad:
		if e.Path == "" {
			return e.Name
		}
	}
	return path.Clean("/" + e.Path)
}
