package query

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// kind is how a field is held in an expression and in the index.
type kind uint8

const (
	text  kind = iota // string
	whole             // int
	truth             // bool, 0 or 1 in the index
	stamp             // timestamp, nanoseconds since 1970 in the index
	list              // list of strings, JSON text in the index
	tally             // map of string to int, JSON text in the index
	open              // any JSON object, JSON text in the index
)

// field is one field of an event. Those with a text in the index have str and setStr, the
// others num and setNum.
type field struct {
	name   string
	kind   kind
	about  string
	str    func(*trace.Event) string
	setStr func(*trace.Event, string)
	num    func(*trace.Event) int64
	setNum func(*trace.Event, int64)
}

func (f *field) textual() bool { return f.str != nil }

// Field describes one variable of an expression.
type Field struct {
	Name  string
	Type  string // as CEL writes it: "string", "int", "bool", "timestamp", "list(string)", …
	About string
}

// Fields are all variables, in the order of the event's fields.
func Fields() []Field {
	out := make([]Field, len(fields))
	for i, f := range fields {
		out[i] = Field{f.name, celType(f.kind).String(), f.about}
	}
	return out
}

func strField(name, about string, at func(*trace.Event) *string) field {
	return field{name: name, kind: text, about: about,
		str:    func(e *trace.Event) string { return *at(e) },
		setStr: func(e *trace.Event, s string) { *at(e) = s }}
}

func numField[T int | int64 | uint32 | uint64](name, about string, at func(*trace.Event) *T) field {
	return field{name: name, kind: whole, about: about,
		num:    func(e *trace.Event) int64 { return int64(*at(e)) },
		setNum: func(e *trace.Event, n int64) { *at(e) = T(n) }}
}

// jsonField is a field whose text in the index is JSON, "" of an empty one.
func jsonField[T any](name, about string, k kind, empty func(T) bool, at func(*trace.Event) *T) field {
	return field{name: name, kind: k, about: about,
		str: func(e *trace.Event) string {
			if empty(*at(e)) {
				return ""
			}
			return toJSON(*at(e))
		},
		setStr: func(e *trace.Event, s string) {
			if s != "" {
				fromJSON(s, at(e))
			}
		}}
}

func toJSON(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "" // strings, numbers and maps of them always encode
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// fromJSON leaves the zero value where an index was made by something else.
func fromJSON(s string, to any) { _ = json.Unmarshal([]byte(s), to) }

func emptyList(l []string) bool          { return len(l) == 0 }
func emptyTally(m map[string]int64) bool { return len(m) == 0 }
func noRecorder(r *trace.Recorder) bool  { return r == nil }

// nanos is t as it stands in the index. What nanoseconds since 1970 cannot hold (before
// 1677 and after 2262: a machine without a clock, or a lie) is moved to the nearest that they can.
func nanos(t time.Time) int64 {
	switch s := t.Unix(); {
	case s < -9223372036:
		return -9223372036 * 1e9
	case s > 9223372035:
		return 9223372035 * 1e9
	}
	return t.UnixNano()
}

// fields are in the order of trace.Event.
var fields = []field{
	{name: "type", kind: text, about: "what the event is about: \"process_exec\", \"net_connect\", …",
		str:    func(e *trace.Event) string { return string(e.Type) },
		setStr: func(e *trace.Event, s string) { e.Type = trace.Type(s) }},
	{name: "timestamp", kind: stamp, about: "when it happened",
		num:    func(e *trace.Event) int64 { return nanos(e.Timestamp) },
		setNum: func(e *trace.Event, n int64) { e.Timestamp = time.Unix(0, n).UTC() }},
	numField("seq", "the number of the event in its trace, from 1", func(e *trace.Event) *uint64 { return &e.Seq }),
	numField("step", "the number of the step, 0 outside of steps", func(e *trace.Event) *int { return &e.Step }),
	numField("pid", "the process", func(e *trace.Event) *int { return &e.PID }),
	numField("start", "when the process began, in µs since the machine booted", func(e *trace.Event) *uint64 { return &e.Start }),
	numField("ppid", "the parent process", func(e *trace.Event) *int { return &e.PPID }),
	numField("parent_start", "when the parent began", func(e *trace.Event) *uint64 { return &e.ParentStart }),
	numField("uid", "the user", func(e *trace.Event) *uint32 { return &e.UID }),
	strField("command", "the process's name, at most 15 bytes", func(e *trace.Event) *string { return &e.Command }),
	strField("container", "the container's id", func(e *trace.Event) *string { return &e.Container }),
	strField("path", "the program, file, socket or mount point", func(e *trace.Event) *string { return &e.Path }),
	strField("new_path", "what a file was renamed to", func(e *trace.Event) *string { return &e.NewPath }),
	jsonField("args", "a program's arguments, its name first", list, emptyList, func(e *trace.Event) *[]string { return &e.Args }),
	{name: "truncated", kind: truth, about: "arguments or path were longer than is recorded",
		num: func(e *trace.Event) int64 {
			if e.Truncated {
				return 1
			}
			return 0
		},
		setNum: func(e *trace.Event, n int64) { e.Truncated = n != 0 }},
	strField("dir", "the working directory of a program", func(e *trace.Event) *string { return &e.Dir }),
	numField("exit_code", "of a process or step that ended", func(e *trace.Event) *int { return &e.ExitCode }),
	numField("signal", "that ended the process, or was sent", func(e *trace.Event) *int { return &e.Signal }),
	numField("duration_us", "how long a process or step ran, in µs", func(e *trace.Event) *int64 { return &e.DurationUS }),
	numField("cpu_us", "CPU time of a process, in µs", func(e *trace.Event) *int64 { return &e.CPUUS }),
	numField("memory_kib", "greatest resident memory of a process", func(e *trace.Event) *int64 { return &e.MemoryKiB }),
	numField("read_bytes", "what a process and its children read from storage", func(e *trace.Event) *int64 { return &e.ReadBytes }),
	numField("written_bytes", "what a process and its children wrote to storage", func(e *trace.Event) *int64 { return &e.WrittenBytes }),
	strField("address", "the IP address of a connection", func(e *trace.Event) *string { return &e.Address }),
	numField("port", "the port of a connection", func(e *trace.Event) *int { return &e.Port }),
	strField("protocol", "\"tcp\", \"udp\", \"icmp\" or a number", func(e *trace.Event) *string { return &e.Protocol }),
	strField("hostname", "the name asked for, or by which an address was learnt", func(e *trace.Event) *string { return &e.Hostname }),
	strField("query_type", "\"A\", \"AAAA\", \"TXT\", …", func(e *trace.Event) *string { return &e.QueryType }),
	jsonField("addresses", "what DNS answered", list, emptyList, func(e *trace.Event) *[]string { return &e.Addresses }),
	strField("verdict", "of the egress policy: \"allowed\", \"denied\", \"would_deny\"", func(e *trace.Event) *string { return &e.Verdict }),
	strField("flags", "how a file was opened: \"read\", \"write,create\", …", func(e *trace.Event) *string { return &e.Flags }),
	numField("bytes", "written to a file", func(e *trace.Event) *int64 { return &e.Bytes }),
	numField("count", "how many like it the event stands for, 0 for one", func(e *trace.Event) *int64 { return &e.Count }),
	strField("method", "how memory was read, a program loaded, …", func(e *trace.Event) *string { return &e.Method }),
	numField("target", "the process that it was aimed at", func(e *trace.Event) *int { return &e.Target }),
	strField("target_command", "that process's name", func(e *trace.Event) *string { return &e.TargetCommand }),
	numField("target_uid", "the user changed to", func(e *trace.Event) *uint32 { return &e.TargetUID }),
	strField("source", "of a mount", func(e *trace.Event) *string { return &e.Source }),
	strField("file_system", "of a mount", func(e *trace.Event) *string { return &e.FileSystem }),
	strField("name", "of a step, module or BPF program; of dropped events their type", func(e *trace.Event) *string { return &e.Name }),
	strField("step_kind", "\"uses\", \"run\" or \"hook\"", func(e *trace.Event) *string { return &e.StepKind }),
	strField("uses", "the step's action", func(e *trace.Event) *string { return &e.Uses }),
	strField("result", "of a step: \"succeeded\", …", func(e *trace.Event) *string { return &e.Result }),
	jsonField("recorder", "what is recorded, in a trace_start", open, noRecorder, func(e *trace.Event) **trace.Recorder { return &e.Recorder }),
	jsonField("counts", "events by type, in a trace_end", tally, emptyTally, func(e *trace.Event) *map[string]int64 { return &e.Counts }),
	jsonField("lost", "events dropped by reason, in a trace_end", tally, emptyTally, func(e *trace.Event) *map[string]int64 { return &e.Lost }),
}

// fieldOf finds a field by its name.
var fieldOf = func() map[string]int {
	m := make(map[string]int, len(fields))
	for i, f := range fields {
		m[f.name] = i
	}
	return m
}()
