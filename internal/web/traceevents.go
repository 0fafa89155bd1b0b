package web

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// eventLine is one event as a line of a table.
type eventLine struct {
	trace.Event
	Kind    string // the type in words
	Say     clipped
	Program clipped
	Of      clipped // the step
	Tone    string
	Link    string // the process, "" if it is not listed
	// Where is the trace, for lists over several.
	Where *traceSummary
}

// eventLines are the events of this trace.
func (p *tracePage) eventLines(rows []EventRow) []eventLine {
	index := map[trace.Process]int{}
	for i, pr := range p.Views.Processes {
		index[trace.Process{PID: pr.PID, Start: pr.Start}] = i
	}
	out := make([]eventLine, len(rows))
	for i, r := range rows {
		out[i] = lineOf(r.Event)
		out[i].Of = p.Step(r.Event.Step)
		if at, ok := index[r.Event.Process()]; ok && r.Event.PID != 0 {
			out[i].Link = p.processLink(at)
			if out[i].Program.Text == "" {
				out[i].Program = clip(24, p.Views.Processes[at].Command)
			}
		}
	}
	return out
}

func lineOf(e trace.Event) eventLine {
	l := eventLine{Event: e, Kind: word(string(e.Type)), Say: clip(maxShown, sayEvent(e)), Program: clip(24, e.Command), Of: clipped{Text: "step " + strconv.Itoa(e.Step)}}
	switch {
	case e.Verdict == trace.VerdictDenied || e.Type == trace.Tamper || e.Type == trace.MemRead:
		l.Tone = "bad"
	case e.Verdict == trace.VerdictWouldDeny || e.Type == trace.Dropped:
		l.Tone = "wait"
	}
	return l
}

// sayEvent says an event in one line.
func sayEvent(e trace.Event) string {
	count := ""
	if e.Count > 1 {
		count = " ×" + formatNumber(e.Count)
	}
	switch e.Type {
	case trace.ProcessExec:
		if len(e.Args) > 0 {
			return commandLine(e.Args)
		}
		return e.Path
	case trace.ProcessExit:
		return sayExit(e)
	case trace.NetConnect, trace.RawSocket, trace.NetListen:
		return sayConnect(e) + count
	case trace.DNSQuery:
		s := e.Hostname + " " + e.QueryType
		if len(e.Addresses) > 0 {
			s += " → " + strings.Join(e.Addresses, ", ")
		}
		return s + sayVerdict(e.Verdict) + count
	case trace.TLSHello:
		return e.Hostname + count
	case trace.FileOpen:
		return e.Path + " (" + e.Flags + ")" + count
	case trace.FileWrite:
		return e.Path + ", " + formatBytes(e.Bytes) + count
	case trace.FileRename, trace.FileLink:
		return e.Path + " → " + e.NewPath
	case trace.MemRead:
		return fmt.Sprintf("memory of %s (pid %d) by %s", cmp.Or(e.TargetCommand, "another process"), e.Target, e.Method) + count
	case trace.SetUID:
		return fmt.Sprintf("to user %d", e.TargetUID)
	case trace.Mount:
		return fmt.Sprintf("%s on %s (%s)", e.Source, e.Path, e.FileSystem)
	case trace.BPFLoad, trace.ModuleLoad:
		return strings.TrimSpace(e.Method + " " + e.Name + " " + e.Path)
	case trace.Tamper:
		return strings.TrimSpace(fmt.Sprintf("%s %s%s", e.Method, sayTarget(e), e.Path))
	case trace.Dropped:
		return fmt.Sprintf("%s of %s are missing: %s", formatNumber(max(e.Count, 1)), cmp.Or(e.Name, "events"), cmp.Or(lostWords[e.Method], e.Method))
	case trace.StepStart, trace.StepEnd:
		return strings.TrimSpace(e.Name + " " + e.Result)
	}
	return cmp.Or(e.Path, e.Name) + count
}

func sayTarget(e trace.Event) string {
	if e.Target == 0 {
		return ""
	}
	s := fmt.Sprintf("to %s (pid %d) ", cmp.Or(e.TargetCommand, "a process"), e.Target)
	if e.Signal > 0 {
		return fmt.Sprintf("%d %s", e.Signal, s)
	}
	return s
}

func sayExit(e trace.Event) string {
	s := fmt.Sprintf("code %d", e.ExitCode)
	if e.Signal > 0 {
		s = fmt.Sprintf("by signal %d", e.Signal)
	}
	return fmt.Sprintf("%s after %s, %s CPU, %s memory", s, sayUS(e.DurationUS), sayUS(e.CPUUS), formatBytes(e.MemoryKiB<<10))
}

func sayConnect(e trace.Event) string {
	s := placeOf(e.Address, e.Port, e.Protocol)
	if e.Hostname != "" {
		s = placeOf(e.Hostname, e.Port, e.Protocol) + " at " + e.Address
	}
	return s + sayVerdict(e.Verdict)
}

func sayVerdict(v string) string {
	switch v {
	case trace.VerdictDenied:
		return ", refused"
	case trace.VerdictWouldDeny:
		return ", would be refused"
	}
	return ""
}

// placeOf is a destination as people write it: "host:443", or "host:53 udp".
func placeOf(host string, port int, protocol string) string {
	s := host
	if strings.Contains(s, ":") && port > 0 {
		s = "[" + s + "]"
	}
	if port > 0 {
		s += ":" + strconv.Itoa(port)
	}
	if protocol != "" && protocol != "tcp" {
		s += " " + protocol
	}
	return s
}
