package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

// overviewTab is the first page of a trace.
type overviewTab struct {
	Types     []share2
	Notable   []notableRow
	More      int64 // notable events that are not shown
	Refusals  []refusalRow
	Programs  []topRow
	Hosts     []topRow
	Writers   []topRow
	Sensitive []sensitiveRow
	Steps     []timelineRow
}

// share2 is one part of a whole as a bar.
type share2 struct {
	Name string
	N    int64
	W    int
}

// topRow is one line of a list of the greatest, with a bar.
type topRow struct {
	Name   clipped
	Count  int64
	Amount string
	W      int
	Link   string
}

// notableRow is one rare event.
type notableRow struct {
	view.Notable
	Say  clipped
	Link string
}

// refusalRow is one destination that a policy did not allow.
type refusalRow struct {
	view.Refusal
	Place clipped
}

// sensitiveRow is a file with a secret that was touched.
type sensitiveRow struct {
	view.SensitiveFile
	Show clipped
}

func (s *site) traceOverview(_ *http.Request, p *tracePage) (any, error) {
	const most = 8
	v := p.Views
	o := overviewTab{More: max(0, int64(len(v.Notable))-most) + v.HiddenNotable, Steps: timelineOfSteps(p)}
	for _, n := range v.Notable[:min(most, len(v.Notable))] {
		o.Notable = append(o.Notable, notableRow{n, clip(maxShown, n.Text), p.processLink(n.Process)})
	}
	for _, r := range v.Overview.Refusals {
		o.Refusals = append(o.Refusals, refusalRow{r, clip(90, placeOf(cmp.Or(r.Host, r.Address), r.Port, r.Protocol))})
	}
	for _, f := range v.FileTops.Sensitive[:min(most, len(v.FileTops.Sensitive))] {
		o.Sensitive = append(o.Sensitive, sensitiveRow{f, clipPath(80, f.Path)})
	}
	o.Programs = topRows(v.Overview.TopPrograms, func(t view.Top) int64 { return t.CPUUS }, sayUS, func(t view.Top) string { return p.With("execution", "q", t.Name) })
	o.Hosts = topRows(v.Overview.TopHosts, func(t view.Top) int64 { return t.Count }, formatNumber[int64], func(t view.Top) string { return p.With("network", "host", t.Name) })
	for i := range o.Hosts { // the count is the amount
		o.Hosts[i].Count = 0
	}
	o.Writers = topRows(v.Overview.TopWriters, func(t view.Top) int64 { return t.Bytes }, formatBytes, func(t view.Top) string { return p.With("execution", "q", t.Name) })
	most64 := int64(1)
	for _, n := range v.Overview.ByType {
		most64 = max(most64, n)
	}
	for _, t := range slices.Sorted(maps.Keys(v.Overview.ByType)) {
		n := v.Overview.ByType[t]
		o.Types = append(o.Types, share2{string(t), n, sliver(n, most64)})
	}
	slices.SortStableFunc(o.Types, func(a, b share2) int { return cmp.Compare(b.N, a.N) })
	return o, nil
}

// sliver is how wide a bar of n is beside one of most: at least enough to be seen.
func sliver(n, most int64) int {
	if n <= 0 || most <= 0 {
		return 0
	}
	return max(6, int(barWidth*(float64(n)/float64(most))))
}

func sayUS(us int64) string { return formatDuration(time.Duration(us) * time.Microsecond) }

// topRows are lines with bars, scaled to the greatest. A list whose greatest is nothing
// has no lines.
func topRows(tops []view.Top, amount func(view.Top) int64, say func(int64) string, link func(view.Top) string) []topRow {
	var most int64
	for _, t := range tops {
		most = max(most, amount(t))
	}
	if most == 0 {
		return nil
	}
	var out []topRow
	for _, t := range tops {
		if n := amount(t); n > 0 {
			out = append(out, topRow{Name: clipPath(48, t.Name), Count: t.Count, Amount: say(n), W: sliver(n, most), Link: link(t)})
		}
	}
	return out
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

// processLink is the address of a process, "" if it is not listed.
func (p *tracePage) processLink(i int) string {
	if p.Views == nil || i < 0 || i >= len(p.Views.Processes) {
		return ""
	}
	return p.With("execution", "of", i)
}

// timelineTab is the job step by step.
type timelineTab struct {
	Rows  []timelineRow
	Marks []tickMark
	// Picked is the step whose events are shown, nil if none is.
	Picked *timelineRow
	Type   trace.Type
	Types  []typeLink
	Events []eventLine
	Next   string // address of the events after these, "" if there are none
	First  string // of the first ones, "" if these are
	Failed string // why there are no events
}

// typeLink narrows events to a type.
type typeLink struct {
	Title   string
	Link    string
	Current bool
}

// timelineRow is one step.
type timelineRow struct {
	*view.Step
	Title    clipped
	Did      clipped // what it runs: an action, or nothing
	X, W     int
	Open     bool
	D        time.Duration
	Findings []severityCount
	Link     string
	Picked   bool
	Outside  bool
}

// Verdict is the step's result or, until it has one, that it runs.
func (r timelineRow) Verdict() string {
	if r.Open {
		return "in_progress"
	}
	switch r.Result {
	case "succeeded":
		return "success"
	case "failed":
		return "failure"
	}
	return visible(r.Result, 40)
}

// jobSpan is from when to when the job ran, by the trace.
func jobSpan(v *view.Views) (from, to time.Time) {
	from, to = v.Overview.StartedAt, v.Overview.EndedAt
	for _, st := range v.Steps {
		if !st.Start.IsZero() && (from.IsZero() || st.Start.Before(from)) {
			from = st.Start
		}
		to = later(to, st.End)
	}
	return from, to
}

// placed is where [from, to] stands in the whole as a bar.
func placed(start, end, from, to time.Time) (x, w int) {
	whole := to.Sub(from)
	if start.IsZero() || whole <= 0 {
		return 0, 0
	}
	const thin = 5
	x = int(barWidth * float64(start.Sub(from)) / float64(whole))
	w = max(thin, int(barWidth*float64(end.Sub(start))/float64(whole)))
	x = min(max(x, 0), barWidth-thin)
	return x, min(w, barWidth-x)
}

// timelineOfSteps are the steps with their bars; what was outside of them comes last.
func timelineOfSteps(p *tracePage) []timelineRow {
	from, to := jobSpan(p.Views)
	byStep := map[string]map[muster.Severity]int{}
	for _, d := range p.traceSummary.Findings {
		if byStep[d.Step] == nil {
			byStep[d.Step] = map[muster.Severity]int{}
		}
		byStep[d.Step][d.Severity]++
	}
	var rows, outside []timelineRow
	for i := range p.Views.Steps {
		st := &p.Views.Steps[i]
		r := timelineRow{Step: st, Title: clip(80, st.Name), Did: clip(80, st.Uses), D: time.Duration(st.DurationUS) * time.Microsecond, Link: p.With("timeline", "step", st.Number) + "#r-events"}
		end := st.End
		if end.IsZero() && !st.Start.IsZero() {
			end, r.Open = to, !p.Views.Ended
		}
		r.X, r.W = placed(st.Start, end, from, to)
		r.Findings = traceSummary{Trace: muster.Trace{Findings: byStep[st.Name]}}.Severities()
		if st.Number == 0 {
			r.Title, r.Outside = clipped{Text: "Outside of steps"}, true
			outside = append(outside, r)
			continue
		}
		rows = append(rows, r)
	}
	return append(rows, outside...)
}

// timeMarks are labels for a bar that spans so long.
func timeMarks(span time.Duration) []tickMark {
	const n = 4
	var out []tickMark
	for i := range n + 1 {
		out = append(out, markAt(formatDuration(span*time.Duration(i)/n), float64(100*i)/n))
	}
	return out
}

// stepEvents is how many events of a step are shown at a time.
const stepEvents = 100

// eventTypes are the types that events may be narrowed to, with their words.
var eventTypes = []struct {
	Type  trace.Type
	Title string
}{
	{"", "All"}, {trace.ProcessExec, "Programs"}, {trace.NetConnect, "Connections"}, {trace.DNSQuery, "DNS"}, {trace.FileOpen, "Opens"}, {trace.FileWrite, "Writes"}, {trace.FileDelete, "Deletes"}, {trace.ProcessExit, "Exits"},
}

func (s *site) traceTimeline(r *http.Request, p *tracePage) (any, error) {
	t := timelineTab{Rows: timelineOfSteps(p)}
	if from, to := jobSpan(p.Views); to.After(from) {
		t.Marks = timeMarks(to.Sub(from))
	}
	if p.params.Get("step") == "" {
		return t, nil
	}
	n, err := strconv.Atoi(p.params.Get("step"))
	i := slices.IndexFunc(t.Rows, func(r timelineRow) bool { return r.Number == n })
	if err != nil || i < 0 {
		return nil, muster.Errorf(muster.CodeNotFound, "the trace has no step %q", text(p.params, "step"))
	}
	t.Rows[i].Picked, t.Picked = true, &t.Rows[i]
	after, err := number(p.params, "after")
	if err != nil {
		return nil, err
	}
	for _, k := range eventTypes {
		current := string(k.Type) == p.params.Get("type")
		if current {
			t.Type = k.Type
		}
		t.Types = append(t.Types, typeLink{k.Title, p.With("timeline", "step", n, "type", k.Type) + "#r-events", current})
	}
	expr := fmt.Sprintf("step == %d", n)
	if t.Type != "" {
		expr += fmt.Sprintf(" && type == %q", t.Type)
	}
	if after > 0 {
		expr += fmt.Sprintf(" && seq > %d", after)
	}
	answer, err := s.Traces.TraceEvents(r.Context(), EventQuery{Expr: expr, Trace: p.ID, Limit: stepEvents})
	switch code := muster.CodeOf(err); {
	case code == muster.CodeNotFound || code == muster.CodeGone || code == muster.CodeUnavailable:
		t.Failed = muster.MessageOf(err)
		return t, nil
	case err != nil:
		return nil, err
	}
	t.Events = p.eventLines(answer.Rows)
	if len(answer.Rows) > 0 && answer.More {
		last := answer.Rows[len(answer.Rows)-1].Event.Seq
		t.Next = p.With("timeline", "step", n, "type", t.Type, "after", last) + "#r-events"
	}
	if after > 0 {
		t.First = p.With("timeline", "step", n, "type", t.Type) + "#r-events"
	}
	return t, nil
}

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
	case trace.NetConnect, trace.RawSocket:
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
	case trace.FileRename:
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

// traceSearch is the address of a query over one trace.
func (p *tracePage) traceSearch(expr string) string {
	return p.With("query", "q", expr)
}

// Search is traceSearch for templates.
func (p *tracePage) Search(expr string) string { return p.traceSearch(expr) }
