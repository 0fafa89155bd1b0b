package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

// printable makes of what a job wrote a text that a terminal takes for text: characters
// that would steer it are spelled out.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// fit cuts a line to the terminal's width. Colours do not count.
func (a *app) fit(line string) string {
	if a.Width <= 0 {
		return line
	}
	columns, escape, styled := 0, false, false
	for i, r := range line {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape, styled = true, true
		case columns == a.Width-1 && utf8.RuneCountInString(line[i:]) > 1 && strings.TrimSuffix(line[i+utf8.RuneLen(r):], "\x1b[0m") != "":
			if styled {
				return line[:i] + "…\x1b[0m"
			}
			return line[:i] + "…"
		default:
			columns++
		}
	}
	return line
}

// inWords says what an event is about, and how alarming that is in itself.
func inWords(e trace.Event) (style, string) {
	s := plain
	switch e.Verdict {
	case trace.VerdictDenied:
		s = red
	case trace.VerdictWouldDeny:
		s = yellow
	}
	text := e.Path
	switch e.Type {
	case trace.ProcessExec:
		text = commandLine(e.Path, e.Args)
	case trace.ProcessExit:
		text = fmt.Sprintf("exit %d", e.ExitCode)
		if e.Signal != 0 {
			text = fmt.Sprintf("signal %d", e.Signal)
		}
		text += fmt.Sprintf(" after %s, cpu %s, %s", micros(e.DurationUS), micros(e.CPUUS), kib(e.MemoryKiB))
	case trace.NetConnect:
		text = target(cmp.Or(e.Hostname, e.Address), e.Port)
		if e.Hostname != "" {
			text += " (" + e.Address + ")"
		}
		text += " " + e.Protocol
	case trace.DNSQuery:
		text = strings.TrimSpace(e.Hostname + " " + e.QueryType)
		if len(e.Addresses) > 0 {
			text += " = " + strings.Join(e.Addresses, ", ")
		}
	case trace.TLSHello:
		text = target(e.Hostname, e.Port)
	case trace.FileOpen:
		text += " (" + e.Flags + ")"
	case trace.FileWrite:
		text += " (" + size(e.Bytes) + ")"
	case trace.NetListen:
		text = target(e.Address, e.Port) + " " + e.Protocol
	case trace.FileRename, trace.FileLink:
		text += " → " + e.NewPath
	case trace.StepStart, trace.StepEnd:
		s, text = bold, strings.Join(slices.DeleteFunc([]string{e.Name, e.Uses, e.Result}, func(s string) bool { return s == "" }), ", ")
	case trace.MemRead, trace.Tamper:
		s, text = red, fmt.Sprintf("%s of %s[%d]", e.Method, e.TargetCommand, e.Target)
	case trace.SetUID:
		text = fmt.Sprintf("%d → %d", e.UID, e.TargetUID)
	case trace.Mount:
		text = fmt.Sprintf("%s on %s (%s)", e.Source, e.Path, e.FileSystem)
	case trace.BPFLoad, trace.ModuleLoad:
		s, text = yellow, strings.TrimSpace(e.Method+" "+cmp.Or(e.Name, e.Path))
	case trace.TraceEnd:
		var n int64
		for _, c := range e.Counts {
			n += c
		}
		text = plural(int(n), "event")
		n = 0
		for _, c := range e.Lost {
			n += c
		}
		if n > 0 {
			s, text = yellow, fmt.Sprintf("%s, %d lost", text, n)
		}
	case trace.Dropped:
		s, text = yellow, fmt.Sprintf("%d %s: %s", e.Count, cmp.Or(e.Name, "events"), e.Method)
	case trace.TraceStart:
		text = ""
		if r := e.Recorder; r != nil {
			text = strings.TrimSpace("muster-agent " + r.Agent + " on " + r.Kernel + " " + r.Scope)
		}
	}
	switch e.Verdict {
	case trace.VerdictDenied:
		text += ", refused"
	case trace.VerdictWouldDeny:
		text += ", would be refused"
	}
	if e.Count > 1 && e.Type != trace.Dropped {
		text += fmt.Sprintf(", %d times", e.Count)
	}
	return s, printable(text)
}

// commandLine is a program with its arguments.
func commandLine(program string, args []string) string {
	line := program
	for i, arg := range args {
		if i == 0 {
			continue // the name by which it was called
		}
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'") {
			arg = strconv.Quote(arg)
		}
		line += " " + arg
	}
	return line
}

func target(host string, port int) string {
	if port == 0 {
		return host
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// micros is a duration of a trace.
func micros(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case d <= 0:
		return "0s"
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", us)
	}
	return short(d)
}

// size is an amount of bytes in binary units.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", f, []string{"B", "KiB", "MiB", "GiB", "TiB"}[unit])
}

func kib(n int64) string { return size(n << 10) }

// some is a size, "" if there is none.
func some(n int64) string {
	if n == 0 {
		return ""
	}
	return size(n)
}

// count is a number, "" for none.
func count(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// viewPrinter prints one view.
type viewPrinter struct {
	*app
	w        io.Writer
	trace    *v1.Trace
	findings []*v1.Finding
	views    *view.Views
	lines    int
	printed  int
}

func (p *viewPrinter) print(name string) error {
	switch name {
	case "timeline":
		return p.timeline()
	case "execution":
		return p.execution()
	case "network":
		return p.network()
	case "files":
		return p.files()
	case "performance":
		return p.performance()
	}
	return p.overview()
}

// more reports whether another line of a long list may be printed, and counts it.
func (p *viewPrinter) more() bool {
	p.printed++
	return p.lines <= 0 || p.printed <= p.lines
}

// left says what was not printed.
func (p *viewPrinter) left(hidden int64, noun string) {
	if p.lines > 0 && p.printed > p.lines {
		fmt.Fprintln(p.w, p.fit(p.paint(dim, fmt.Sprintf("… and %s more; --lines 0 prints all", plural(p.printed-p.lines, noun)))))
	}
	if hidden > 0 {
		fmt.Fprintln(p.w, p.fit(p.paint(dim, fmt.Sprintf("… and %s that are only counted; muster trace query finds them", plural(int(hidden), noun)))))
	}
}

func (p *viewPrinter) heading(text string) { fmt.Fprintf(p.w, "\n%s\n", p.paint(bold, text)) }

// step is a step's name by its number.
func (p *viewPrinter) step(n int) string {
	for _, s := range p.views.Steps {
		if s.Number == n && n != 0 {
			return fmt.Sprintf("%d %s", n, s.Name)
		}
	}
	return ""
}

func (p *viewPrinter) steps(ns []int) string {
	var out []string
	for _, n := range slices.Sorted(slices.Values(ns)) {
		if n != 0 { // outside of steps
			out = append(out, strconv.Itoa(n))
		}
	}
	return strings.Join(out, ",")
}

func verdictStyle(w view.Word) style {
	return map[view.Word]style{view.VerdictRefused: red, view.VerdictFindings: red, view.VerdictIncomplete: yellow, view.VerdictClean: green, view.VerdictRunning: cyan}[w]
}

func (p *viewPrinter) overview() error {
	t, o := p.trace, p.views.Overview
	lost := ""
	for _, why := range slices.Sorted(maps.Keys(o.Lost)) {
		lost += fmt.Sprintf(", %d (%s)", o.Lost[why], strings.ReplaceAll(why, "_", " "))
	}
	missing := ""
	for _, kind := range slices.Sorted(maps.Keys(o.Missing)) {
		missing += fmt.Sprintf("; %s: %s", strings.ReplaceAll(kind, "_", " "), o.Missing[kind])
	}
	recorder := ""
	if r := o.Recorder; r != nil {
		recorder = strings.TrimSpace(fmt.Sprintf("muster-agent %s on Linux %s, %s", r.Agent, r.Kernel, r.Scope))
	}
	c := o.Counts
	err := p.facts(p.w,
		"trace", cell{t.Id, bold}, "job", strings.TrimSpace(fmt.Sprintf("%s  %s of %s", traceJob(t), workflowJob(t.Workflow, cmp.Or(t.JobName, t.JobKey)), t.Repository)),
		"verdict", cell{o.Verdict.Text, verdictStyle(o.Verdict.Word)}, "state", strings.TrimSuffix(traceState(t).text+": "+t.Reason, ": "),
		"began", p.when(timestamp(o.StartedAt)), "took", micros(o.DurationUS), "recorded", fmt.Sprintf("%s in %s, %s", plural(int(c.Events), "event"), plural(int(t.Segments), "segment"), size(t.Bytes)),
		"lost", cell{strings.TrimPrefix(lost, ", "), yellow}, "not recorded", cell{strings.TrimPrefix(missing, "; "), yellow}, "by", recorder,
		"egress", p.egress(), "processes", fmt.Sprintf("%d, %s started, %d failed, cpu %s, at most %s", c.Processes, plural(int(c.Execs), "program"), c.Failed, micros(c.CPUUS), kib(c.PeakMemoryKiB)),
		"network", fmt.Sprintf("%s to %s, %s", plural(int(c.Connections), "connection"), plural(int(c.Hosts), "host"), plural(int(c.Queries), "DNS question")),
		"files", fmt.Sprintf("%d; %d read, %d written, %d created, %d deleted; %s; %s to secrets", c.Files, c.Reads, c.Writes, c.Creates, c.Deletes, size(c.Bytes), plural(int(c.Sensitive), "access")),
		"analysis", cell{t.AnalysisError, red})
	if err != nil {
		return err
	}
	if len(p.findings) > 0 {
		p.heading("Findings")
		if err := p.foundSorted(); err != nil {
			return err
		}
	}
	if len(o.Refusals) > 0 {
		p.heading("Refusals")
		if err := p.refusals(); err != nil {
			return err
		}
	}
	if err := p.stepTable(); err != nil {
		return err
	}
	return p.tops()
}

// foundSorted explains what was found, and only lists what is no more than news.
func (p *viewPrinter) foundSorted() error {
	news := slices.DeleteFunc(slices.Clone(p.findings), func(f *v1.Finding) bool { return f.Severity != string(muster.SeverityInfo) })
	rest := slices.DeleteFunc(slices.Clone(p.findings), func(f *v1.Finding) bool { return f.Severity == string(muster.SeverityInfo) })
	if err := p.explainFindings(p.w, rest, false); err != nil || len(news) == 0 {
		return err
	}
	if len(rest) > 0 {
		fmt.Fprintln(p.w)
	}
	t := p.table()
	for _, f := range news {
		times := ""
		if f.Count > 1 {
			times = fmt.Sprintf("%d times", f.Count)
		}
		t.row(f.Severity, f.Rule, words(f.Title), times, f.Step)
	}
	return t.fitted(p.w, "")
}

func (p *viewPrinter) egress() cell {
	t := p.trace
	switch {
	case t.Egress == "":
		return cell{}
	case p.views.Overview.Counts.Refused > 0:
		return cell{fmt.Sprintf("%s: %d refused", t.Egress, p.views.Overview.Counts.Refused), red}
	case p.views.Overview.Counts.WouldDeny > 0:
		return cell{fmt.Sprintf("%s: %d would be refused", t.Egress, p.views.Overview.Counts.WouldDeny), yellow}
	}
	if why, ok := p.views.Overview.Missing["egress"]; ok {
		return cell{t.Egress + ": not watched, because " + why, yellow}
	}
	return cell{t.Egress + ": nothing refused", green}
}

func (p *viewPrinter) refusals() error {
	t := p.table("WHAT", "TO", "PROTOCOL", "PROGRAM", "STEP", "TIMES", "FIRST")
	for _, r := range p.views.Overview.Refusals {
		what := cell{"refused", red}
		if r.Verdict == trace.VerdictWouldDeny {
			what = cell{"would be refused", yellow}
		}
		port := r.Port
		if r.Protocol == "dns" {
			port = 0 // the resolver's
		}
		t.row(what, target(cmp.Or(r.Host, r.Address), port), r.Protocol, fmt.Sprintf("%s[%d]", r.Program, r.PID), p.step(r.Step), r.Count, p.clock(timestamp(r.First)))
	}
	return t.print(p.w, "")
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func (p *viewPrinter) stepTable() error {
	if len(p.views.Steps) == 0 {
		return nil
	}
	p.heading("Steps")
	t := p.table("STEP", "NAME", "RESULT", "TOOK", "CPU", "PROCESSES", "HOSTS", "FILES", "SECRETS", "REFUSED")
	for _, s := range p.views.Steps {
		number, name := strconv.Itoa(s.Number), s.Name
		if s.Number == 0 {
			number, name = "", cmp.Or(s.Name, "outside of steps")
		}
		if s.Uses != "" && !strings.Contains(name, s.Uses) {
			name += " (" + s.Uses + ")"
		}
		t.row(number, name, stepResult(s), micros(s.DurationUS), micros(s.CPUUS), s.Processes, s.Hosts, s.Files, cell{count(s.Sensitive), yellow}, refusedOf(s.Refused, s.WouldDeny))
	}
	return t.print(p.w, "")
}

// refusedOf is how often something was refused, or would have been, in brackets.
func refusedOf(denied, would int64) cell {
	if denied == 0 && would > 0 {
		return cell{fmt.Sprintf("(%d)", would), yellow}
	}
	return cell{count(denied), red}
}

func stepResult(s view.Step) cell {
	switch {
	case s.Result != "":
		return cell{s.Result, map[string]style{"succeeded": green, "success": green, "failed": red, "failure": red, "cancelled": yellow, "canceled": yellow, "skipped": dim}[s.Result]}
	case s.End.IsZero() && s.Number != 0:
		return cell{"running", cyan}
	}
	return cell{}
}

// tops prints who used most.
func (p *viewPrinter) tops() error {
	o := p.views.Overview
	for _, l := range []struct {
		title string
		heads []any
		all   []view.Top
		row   func(view.Top) []any
	}{
		{"Most CPU time", []any{"PROGRAM", "PROCESSES", "CPU", "EXISTED"}, o.TopPrograms, func(t view.Top) []any { return []any{t.Name, t.Count, micros(t.CPUUS), micros(t.WallUS)} }},
		{"Most connections", []any{"HOST", "CONNECTIONS"}, o.TopHosts, func(t view.Top) []any { return []any{t.Name, t.Count} }},
		{"Most written", []any{"PROGRAM", "TIMES", "BYTES"}, o.TopWriters, func(t view.Top) []any { return []any{t.Name, t.Count, size(t.Bytes)} }},
	} {
		if len(l.all) == 0 {
			continue
		}
		p.heading(l.title)
		var heads []string
		for _, h := range l.heads {
			heads = append(heads, h.(string))
		}
		t := p.table(heads...)
		for _, top := range l.all {
			t.row(l.row(top)...)
		}
		if err := t.print(p.w, ""); err != nil {
			return err
		}
	}
	return nil
}

// fewAlike is how many events of one type of one process a step's timeline shows. A runner looks
// at every process of the machine when its job ends.
const fewAlike = 5

func (p *viewPrinter) timeline() error {
	for _, s := range p.views.Steps {
		name := s.Name
		if s.Number == 0 {
			name = cmp.Or(s.Name, "outside of steps")
		} else {
			name = fmt.Sprintf("step %d  %s", s.Number, name)
		}
		result := stepResult(s)
		line := fmt.Sprintf("%-12s  %s  %s  %s", p.clock(timestamp(s.Start)), p.paint(bold, printable(name)), micros(s.DurationUS), p.paint(result.style, result.text))
		fmt.Fprintln(p.w, p.fit(strings.TrimRight(line, " ")))
		fmt.Fprintln(p.w, p.fit(p.paint(dim, fmt.Sprintf("%14s%s, %s to %s, %s, %s written", "", plural(int(s.Processes), "process"), plural(int(s.Connections), "connection"), plural(int(s.Hosts), "host"), plural(int(s.Files), "file"), size(s.Bytes)))))
		alike := map[string]int{}
		for _, n := range p.views.Notable {
			if n.Step != s.Number {
				continue
			}
			kind := fmt.Sprintf("%s by %s[%d]", strings.ReplaceAll(string(n.Type), "_", " "), n.Program, n.PID)
			if alike[kind]++; alike[kind] > fewAlike || !p.more() {
				continue
			}
			after := ""
			if !s.Start.IsZero() {
				after = "+" + short(max(0, n.At.Sub(s.Start)))
			}
			fmt.Fprintln(p.w, p.fit(fmt.Sprintf("%12s  %s  %s", after, p.paint(yellow, strings.ReplaceAll(string(n.Type), "_", " ")), printable(n.Text))))
		}
		for _, kind := range slices.Sorted(maps.Keys(alike)) {
			if n := alike[kind] - fewAlike; n > 0 {
				fmt.Fprintln(p.w, p.fit(p.paint(dim, fmt.Sprintf("%14s… and %d more: %s", "", n, printable(kind)))))
			}
		}
	}
	if len(p.views.Steps) == 0 {
		fmt.Fprintln(p.w, "No step has begun.")
	}
	p.left(p.views.HiddenNotable, "event")
	return nil
}

func (p *viewPrinter) execution() error {
	all := p.views.Processes
	children := map[int][]int{}
	for n, proc := range all {
		children[proc.Parent] = append(children[proc.Parent], n)
	}
	t := p.table("PROCESS", "TOOK", "CPU", "MEMORY", "STEP", "EXIT", "DID")
	step := -1
	var walk func(n int, lead, branch string)
	walk = func(n int, lead, branch string) {
		proc := all[n]
		if p.more() {
			where := ""
			if proc.Step != step {
				step = proc.Step
				where = p.step(step)
			}
			t.row(lead+branch+p.process(proc), micros(proc.DurationUS), micros(proc.CPUUS), some(proc.MemoryKiB<<10), where, exitOf(proc), didOf(proc))
		}
		below := children[n]
		next := lead
		switch branch {
		case "├─ ":
			next += "│  "
		case "└─ ":
			next += "   "
		}
		for i, c := range below {
			if i == len(below)-1 && proc.Hidden == 0 {
				walk(c, next, "└─ ")
			} else {
				walk(c, next, "├─ ")
			}
		}
		if proc.Hidden > 0 && p.more() {
			t.row(fmt.Sprintf("%s└─ … %d more", next, proc.Hidden), "", micros(proc.HiddenCPUUS), "", "", "", "")
		}
	}
	for _, root := range children[-1] {
		walk(root, "", "")
	}
	if err := t.fitted(p.w, "No process was recorded."); err != nil {
		return err
	}
	p.left(p.views.HiddenProcesses, "process")
	return nil
}

// process is a process in a tree: its number and the program that ran longest in it.
func (p *viewPrinter) process(proc view.Process) string {
	line := proc.Command
	if proc.Main < len(proc.Images) {
		img := proc.Images[proc.Main]
		line = commandLine(path.Base(img.Path), img.Args)
	}
	if line == "" {
		line = "unknown"
	}
	const longest = 70
	if line = printable(words(line)); utf8.RuneCountInString(line) > longest {
		line = string([]rune(line)[:longest-1]) + "…"
	}
	return fmt.Sprintf("%s [%d]", line, proc.PID)
}

func exitOf(proc view.Process) cell {
	switch {
	case proc.Signal != 0:
		return cell{fmt.Sprintf("signal %d", proc.Signal), red}
	case proc.ExitCode != 0:
		return cell{strconv.Itoa(proc.ExitCode), yellow}
	case proc.Alive:
		return cell{"still there", yellow}
	}
	return cell{}
}

// didOf says what a process did itself.
func didOf(proc view.Process) cell {
	var parts []string
	s := plain
	if proc.Refused > 0 {
		s = red
		parts = append(parts, fmt.Sprintf("%d refused", proc.Refused))
	}
	if proc.Connections > 0 {
		parts = append(parts, plural(int(proc.Connections), "connection"))
	}
	if proc.Written > 0 {
		parts = append(parts, size(proc.Written)+" written")
	}
	if proc.Container != "" {
		parts = append(parts, "container "+proc.Container[:min(12, len(proc.Container))])
	}
	return cell{strings.Join(parts, ", "), s}
}

// notRecorded says that a view is empty because the machine could not fill it.
func (p *viewPrinter) notRecorded(kind trace.Type, what string) {
	if why, ok := p.views.Overview.Missing[string(kind)]; ok {
		fmt.Fprintf(p.w, "%s were not recorded, because: %s\n\n", what, why)
	}
}

func (p *viewPrinter) network() error {
	n := p.views.Network
	p.notRecorded(trace.NetConnect, "Connections")
	t := p.table("CATEGORY", "HOSTS", "CONNECTIONS", "REFUSED")
	refused := p.refusedHosts()
	for _, c := range n.Categories {
		var denied, would int64
		for _, h := range n.Hosts {
			if h.Category == c.Category {
				denied, would = denied+h.Refused+refused[h.Host].denied, would+h.WouldDeny+refused[h.Host].would
			}
		}
		t.row(string(c.Category), c.Hosts, c.Connections, refusedOf(max(denied, c.Refused), would))
	}
	if err := t.print(p.w, ""); err != nil {
		return err
	}
	for _, category := range view.Categories {
		hosts := slices.DeleteFunc(slices.Clone(n.Hosts), func(h view.Host) bool { return h.Category != category })
		if len(hosts) == 0 {
			continue
		}
		p.heading(string(category))
		t := p.table("HOST", "PORTS", "CONNECTIONS", "REFUSED", "PROGRAMS", "STEPS", "WHAT", "ADDRESSES")
		for _, h := range hosts {
			if !p.more() {
				continue
			}
			t.row(h.Host, p.steps(h.Ports), h.Connections, refusedOf(h.Refused+refused[h.Host].denied, h.WouldDeny+refused[h.Host].would), strings.Join(h.Programs, ", "), p.steps(h.Steps), h.Service, addresses(h))
		}
		if err := t.fitted(p.w, ""); err != nil {
			return err
		}
	}
	p.left(n.HiddenHosts, "host")
	if len(p.views.Overview.Refusals) > 0 {
		p.heading("Refusals")
		return p.refusals()
	}
	return nil
}

type refusals struct{ denied, would int64 }

// refusedHosts is how often a host's name was refused to be looked up, which is no connection
// to it.
func (p *viewPrinter) refusedHosts() map[string]refusals {
	out := map[string]refusals{}
	for _, r := range p.views.Overview.Refusals {
		if r.Protocol != "dns" {
			continue
		}
		n := out[r.Host]
		if r.Verdict == trace.VerdictDenied {
			n.denied += r.Count
		} else {
			n.would += r.Count
		}
		out[r.Host] = n
	}
	return out
}

func addresses(h view.Host) string {
	if len(h.Addresses) == 1 && h.Addresses[0] == h.Host {
		return ""
	}
	shown := h.Addresses[:min(3, len(h.Addresses))]
	text := strings.Join(shown, ", ")
	if more := len(h.Addresses) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (p *viewPrinter) files() error {
	p.notRecorded(trace.FileOpen, "Files")
	if p.views.Files == nil {
		_, err := fmt.Fprintln(p.w, "No file was touched.")
		return err
	}
	if tops := p.views.FileTops; len(tops.Sensitive) > 0 {
		t := p.table("SECRETS", "WHAT", "HOW", "PROGRAM", "STEP", "TIMES")
		for _, f := range tops.Sensitive {
			t.row(cell{f.Path, yellow}, f.What, f.Kind, fmt.Sprintf("%s[%d]", f.Program, f.PID), p.step(f.Step), f.Count)
		}
		if err := t.fitted(p.w, ""); err != nil {
			return err
		}
		fmt.Fprintln(p.w)
	}
	t := p.table("PATH", "FILES", "READ", "WRITTEN", "CREATED", "DELETED", "RENAMED", "BYTES")
	p.dir(t, p.views.Files, "", "", "/")
	if err := t.fitted(p.w, ""); err != nil {
		return err
	}
	p.left(0, "line")
	if len(p.views.FileTops.Largest) > 0 {
		p.heading("Most written")
		t := p.table("FILE", "TIMES", "BYTES")
		for _, f := range p.views.FileTops.Largest[:min(10, len(p.views.FileTops.Largest))] {
			t.row(f.Name, f.Count, size(f.Bytes))
		}
		return t.fitted(p.w, "")
	}
	return nil
}

// dir adds a directory and what is below it. A directory that holds only another is one
// line with it.
func (p *viewPrinter) dir(t *table, d *view.Dir, lead, branch, name string) {
	for len(d.Dirs) == 1 && len(d.Files) == 0 && d.Folded == 0 {
		d = d.Dirs[0]
		name = path.Join(name, d.Name)
	}
	if p.more() {
		files := cell{strconv.FormatInt(d.Distinct, 10), plain}
		if d.Sensitive > 0 {
			files = cell{fmt.Sprintf("%d, %d secret", d.Distinct, d.Sensitive), yellow}
		}
		t.row(append([]any{lead + branch + name, files}, fileCounts(d.Total)...)...)
	}
	next := lead
	switch branch {
	case "├─ ":
		next += "│  "
	case "└─ ":
		next += "   "
	}
	last := len(d.Dirs) + len(d.Files)
	if d.Folded > 0 {
		last++
	}
	n := 0
	arm := func() string {
		if n++; n == last {
			return "└─ "
		}
		return "├─ "
	}
	for _, sub := range d.Dirs {
		p.dir(t, sub, next, arm(), sub.Name)
	}
	for _, f := range d.Files {
		if b := arm(); p.more() {
			s := plain
			if f.Sensitive != "" {
				s = yellow
			}
			t.row(append([]any{cell{next + b + f.Name, s}, ""}, fileCounts(f.FileCounts)...)...)
		}
	}
	if d.Folded > 0 {
		if b := arm(); p.more() {
			t.row(append([]any{fmt.Sprintf("%s%s… %d more", next, b, d.Folded), ""}, fileCounts(d.FoldedCounts)...)...)
		}
	}
}

func fileCounts(c view.FileCounts) []any {
	return []any{count(c.Reads), count(c.Writes), count(c.Creates), count(c.Deletes), count(c.Renames), some(c.Bytes)}
}

func (p *viewPrinter) performance() error {
	perf := p.views.Performance
	t := p.table("STEP", "NAME", "TOOK", "SHARE", "CPU", "BUSY CPUS", "IDLE", "PROCESSES", "AT ONCE", "SHORT-LIVED", "READ", "WRITTEN", "CONNECTIONS")
	for _, s := range append(slices.Clone(perf.Steps), perf.Total) {
		number, name := strconv.Itoa(s.Number), s.Name
		if s.Number == 0 {
			number = ""
			name = cmp.Or(name, "outside of steps")
		}
		lived := ""
		if s.Short > 0 {
			lived = fmt.Sprintf("%d in %s", s.Short, micros(s.ShortUS))
		}
		t.row(number, name, micros(s.WallUS), fmt.Sprintf("%.0f %%", 100*s.Share), micros(s.CPUUS), fmt.Sprintf("%.2f", s.Parallelism), fmt.Sprintf("%.0f %%", 100*s.Idle),
			s.Processes, s.MaxProcesses, lived, some(s.ReadBytes), some(s.WrittenBytes), count(s.Connections))
	}
	if len(t.rows) > 0 {
		t.rows[len(t.rows)-1][1] = cell{"all", bold}
	}
	if err := t.fitted(p.w, ""); err != nil {
		return err
	}
	for _, s := range perf.Steps {
		if len(s.ByCPU)+len(s.ByIO) == 0 || !p.more() {
			continue
		}
		p.heading(cmp.Or(p.step(s.Number), s.Name, "outside of steps"))
		t := p.table("PROGRAM", "PROCESSES", "CPU", "EXISTED", "I/O")
		io := map[string]int64{}
		for _, top := range s.ByIO {
			io[top.Name] = top.Bytes
		}
		for _, top := range s.ByCPU {
			t.row(top.Name, top.Count, micros(top.CPUUS), micros(top.WallUS), some(io[top.Name]))
		}
		if err := t.fitted(p.w, ""); err != nil {
			return err
		}
	}
	return nil
}

// narrow cuts the widest columns, none to less than least, until the table fits the
// terminal: a column of long texts must not push the others out of sight.
func (t *table) narrow() {
	const least = 8
	var widths []int
	for _, r := range append([][]cell{headOf(t)}, t.rows...) {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 1) // of the "-" of an empty cell
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	over := 2*(len(widths)-1) - t.app.Width
	for _, w := range widths {
		over += w
	}
	cut := map[int]bool{}
	for ; over > 0; over-- {
		widest := slices.Index(widths, slices.Max(widths))
		if widths[widest] <= least {
			break
		}
		widths[widest]--
		cut[widest] = true
	}
	for _, r := range t.rows {
		for i := range r {
			if text := []rune(r[i].text); cut[i] && len(text) > widths[i] {
				r[i].text = string(text[:widths[i]-1]) + "…"
			}
		}
	}
}

func headOf(t *table) (out []cell) {
	for _, h := range t.head {
		out = append(out, cell{text: h})
	}
	return out
}

// fitted prints the table cut to the terminal's width: first its widest columns, then lines.
func (t *table) fitted(w io.Writer, none string) error {
	if len(t.rows) == 0 && none == "" {
		return nil
	}
	if t.app.Width > 0 && len(t.rows) > 0 {
		t.narrow()
	}
	var b bytes.Buffer
	if err := t.print(&b, none); err != nil {
		return err
	}
	for line := range bytes.Lines(b.Bytes()) {
		if _, err := fmt.Fprintln(w, t.app.fit(strings.TrimRight(string(line), " \n"))); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printDiff(w io.Writer, resp *v1.DiffTracesResponse, d view.Diff) error {
	before := resp.Against
	fmt.Fprintf(w, "compared with %s%s, %s\n", before.Id, strings.TrimSuffix(" of job "+traceJob(before), " of job "), a.when(before.StartedAt))
	for _, why := range d.Partial {
		fmt.Fprintln(w, a.paint(yellow, "it may show too much or too little: "+why))
	}
	if d.Empty() {
		fmt.Fprintln(w, a.paint(green, "nothing is new: no host, no program, no sensitive file"))
	}
	list := func(title string, s style, n int, row func(i int) string) {
		if n == 0 {
			return
		}
		fmt.Fprintf(w, "\n%s\n", a.paint(bold, title))
		for i := range n {
			fmt.Fprintln(w, a.fit(a.paint(s, "  "+printable(row(i)))))
		}
	}
	list("New hosts", yellow, len(d.NewHosts), func(i int) string {
		h := d.NewHosts[i]
		what := plural(int(h.Connections), "connection")
		if h.Connections == 0 {
			what = "asked for"
		}
		return fmt.Sprintf("+ %s  %s, %s by %s", h.Host, h.Category, what, strings.Join(h.Programs, ", "))
	})
	list("New programs", yellow, len(d.NewPrograms), func(i int) string {
		p := d.NewPrograms[i]
		return fmt.Sprintf("+ %s  %s", cmp.Or(p.Example, p.Path), plural(int(p.Count), "time"))
	})
	list("New accesses to secrets", red, len(d.NewSensitive), func(i int) string {
		f := d.NewSensitive[i]
		return fmt.Sprintf("+ %s  %s, %s by %s[%d]", f.Path, f.What, f.Kind, f.Program, f.PID)
	})
	list("New kinds of events", red, len(d.NewNotable), func(i int) string { return "+ " + d.NewNotable[i].Text })
	list("Hosts that were not reached any more", dim, len(d.GoneHosts), func(i int) string { return "- " + d.GoneHosts[i] })
	list("Programs that did not run any more", dim, len(d.GonePrograms), func(i int) string { return "- " + d.GonePrograms[i] })
	list("Secrets that were not touched any more", dim, len(d.GoneSensitive), func(i int) string { return "- " + d.GoneSensitive[i] })
	t := a.table("STEP", "CHANGE", "TOOK", "BEFORE", "CPU", "BEFORE", "PROCESSES", "BEFORE", "WHY")
	for _, s := range append(slices.Clone(d.Steps), d.Total) {
		now, before := []string{micros(s.DurationUS), micros(s.CPUUS), strconv.FormatInt(s.Processes, 10)}, []string{micros(s.BeforeDurationUS), micros(s.BeforeCPUUS), strconv.FormatInt(s.BeforeProcesses, 10)}
		switch s.Change { // what is not there took no 0 s
		case view.StepAdded:
			clear(before)
		case view.StepGone:
			clear(now)
		}
		t.row(s.Name, s.Change, now[0], before[0], now[1], before[1], now[2], before[2], strings.Join(s.Why, ", "))
	}
	t.rows[len(t.rows)-1][0] = cell{"all", bold}
	fmt.Fprintln(w)
	return t.fitted(w, "")
}

// wrapped prints a message on one line under a name.
func (a *app) wrapped(name string, m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	return a.jsonLine(map[string]json.RawMessage{name: text})
}

// scanJSON prints an affected trace on one line, its events as objects.
func (a *app) scanJSON(m *v1.ScanTracesResponse) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m.Trace)
	if err != nil {
		return err
	}
	type hit struct {
		Indicator string          `json:"indicator"`
		Event     json.RawMessage `json:"event"`
	}
	out := struct {
		Trace json.RawMessage `json:"trace"`
		Hits  []hit           `json:"hits"`
	}{Trace: text}
	for _, h := range m.Hits {
		out.Hits = append(out.Hits, hit{h.Indicator, json.RawMessage(h.Event)})
	}
	return a.jsonLine(out)
}
