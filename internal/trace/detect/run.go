package detect

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

const (
	// maxPerRule is how many findings one rule may make of a trace; further subjects
	// are counted in one last finding.
	maxPerRule = 50
	// maxSeqs is how many event numbers a finding holds.
	maxSeqs = 10
	// maxOpen is how many unfinished sequences, or groups, of a rule are kept.
	maxOpen = 4096
	// maxText bounds titles, command lines and subjects in bytes.
	maxText = 512
)

// Report is what one trace gave.
type Report struct {
	// Detections, the most severe first, then in order of time. Workspace and Trace are
	// for the caller to fill in.
	Detections []muster.Detection
	// Facts are what the job did, for a baseline to learn.
	Facts Facts
}

// Run returns what the rules find in a trace. base may be nil: then nothing is new. It
// stops with the error of events.
func (r *Rules) Run(j trace.Job, base *Baseline, events iter.Seq2[trace.Event, error]) ([]muster.Detection, error) {
	report, err := r.Examine(j, base, events)
	return report.Detections, err
}

// Examine is Run, and says what a baseline can learn from the trace as well.
func (r *Rules) Examine(j trace.Job, base *Baseline, events iter.Seq2[trace.Event, error]) (Report, error) {
	x := newRun(r, j, base)
	for e, err := range events {
		if err != nil {
			return Report{}, fmt.Errorf("examine trace: %w", err)
		}
		x.add(&e)
	}
	x.cut()
	return x.report(), nil
}

// stepInfo is what is known of a step.
type stepInfo struct{ name, kind, uses string }

// run is one trace under examination.
type run struct {
	rules      *Rules
	job        trace.Job
	base       *Baseline
	normal     normaliser
	procs      *processes
	marked     marks
	facts      Facts
	steps      map[int]stepInfo
	runnerRoot string
	// exitsSeen and not lost: an exit that was not seen did not happen.
	exitsSeen, lost bool
	// open is whether the trace has begun and not ended, latest says of its last event what
	// TraceCut takes from it.
	open   bool
	latest struct {
		at   time.Time
		seq  uint64
		step int
	}
	sequences map[*compiled]*sequences
	groups    map[*compiled]*groups
	found     map[string]*findings // by rule
	scene     scene
}

func newRun(r *Rules, j trace.Job, base *Baseline) *run {
	x := &run{
		rules: r, job: j, base: base, normal: newNormaliser(j), procs: newProcesses(), marked: newMarks(r.stays), facts: newFacts(),
		steps: map[int]stepInfo{}, sequences: map[*compiled]*sequences{}, groups: map[*compiled]*groups{}, found: map[string]*findings{},
	}
	x.scene.run = x
	return x
}

func (x *run) add(e *trace.Event) {
	x.note(e)
	x.scene.e, x.scene.node = e, x.procs.see(e)
	if e.Type == trace.ProcessExec && x.scene.node != nil && loose(e.Path) {
		x.scene.node.copied = strings.HasPrefix(e.Path, "/memfd:") || x.marked.has(markCopied, e.Path)
	}
	x.connected(e)
	x.apply()
	x.learn()
	x.files(e)
	switch e.Type {
	case trace.ProcessExit:
		x.exitsSeen = true
		if x.scene.node != nil {
			x.scene.node.ended = e.Start + uint64(max(0, e.DurationUS)) //nolint:gosec // not negative
		}
		x.procs.exit(e.Process())
	case trace.TraceEnd:
		x.left(e)
	}
}

// note keeps what later events are understood by.
func (x *run) note(e *trace.Event) {
	x.latest.at, x.latest.seq, x.latest.step = e.Timestamp, e.Seq, e.Step
	switch e.Type {
	case trace.TraceStart:
		x.open = true
		if e.Recorder != nil {
			x.facts.Unseen = unseen(e.Recorder)
		}
	case trace.TraceEnd:
		x.open = false
	case trace.StepStart:
		x.steps[e.Step] = stepInfo{e.Name, e.StepKind, e.Uses}
	case trace.Dropped:
		x.lost = true
	case trace.ProcessExec:
		if strings.HasPrefix(path.Base(e.Path), "Runner.") {
			x.runnerRoot = path.Dir(path.Dir(e.Path))
		}
	}
}

// connected remembers whom a process talks to.
func (x *run) connected(e *trace.Event) {
	if x.scene.node == nil {
		return
	}
	switch e.Type {
	case trace.NetConnect, trace.TLSHello:
		if e.Port != 53 && external(e) {
			x.scene.node.host = host(e)
		}
	}
}

// files moves marks with their files, and sets new ones after the rules have seen the event.
func (x *run) files(e *trace.Event) {
	switch e.Type {
	case trace.FileRename:
		x.marked.rename(e.Path, e.NewPath)
	case trace.FileLink:
		x.marked.link(e.Path, e.NewPath)
	case trace.FileDelete:
		x.marked.remove(e.Path)
		return
	}
	for _, m := range x.rules.marks[e.Type] {
		if m.when.yes(&x.scene) {
			x.marked.set(m.name, changed(e), x.scene.of(func(n *node) string { return n.host }))
		}
	}
}

func (x *run) apply() {
	for _, c := range x.rules.byType[x.scene.e.Type] {
		if len(c.stages) > 1 {
			x.sequence(c)
			continue
		}
		if !c.stages[0].when.yes(&x.scene) || x.excepted(c) {
			continue
		}
		if c.Group != nil {
			x.group(c)
			continue
		}
		x.fire(c, nil, nil)
	}
}

func (x *run) excepted(c *compiled) bool {
	return slices.ContainsFunc(c.except, func(w condition) bool { return w.yes(&x.scene) })
}

// left asks the rules about the processes that never ended, unless ends were missed.
func (x *run) left(end *trace.Event) {
	if !x.exitsSeen || x.lost || len(end.Lost) > 0 {
		return
	}
	ended := map[trace.Process]bool{}
	for _, key := range x.procs.ended {
		ended[key] = true
	}
	living := slices.DeleteFunc(slices.Clone(x.procs.order), func(k trace.Process) bool { return ended[k] || x.procs.byKey[k] == nil })
	for _, key := range living {
		n := x.procs.byKey[key]
		e := trace.Event{Type: ProcessLeft, Timestamp: end.Timestamp, Seq: n.born, Step: n.step, PID: key.PID, Start: key.Start, UID: n.uid}
		x.scene.e, x.scene.node = &e, n
		x.apply()
	}
}

// cut asks the rules about a trace that stops before its end.
func (x *run) cut() {
	if !x.open {
		return
	}
	e := trace.Event{Type: TraceCut, Timestamp: x.latest.at, Seq: x.latest.seq, Step: x.latest.step}
	x.scene.e, x.scene.node = &e, nil
	x.apply()
}

func (x *run) step(e *trace.Event) stepInfo { return x.steps[e.Step] }

// target is the process that an event is aimed at, nil if it is not known.
func (x *run) target(e *trace.Event) *node {
	if e.Target == 0 || x.procs == nil {
		return nil
	}
	return x.procs.byPID[e.Target]
}

// findings are those of one rule, in order of their coming.
type findings struct {
	bySubject map[string]int
	list      []muster.Detection
	more      int // index of the one that counts the rest, from 1; 0 if there is none
}

// fire makes a finding, or counts one more of its kind.
func (x *run) fire(c *compiled, kept []map[string]string, before []uint64) {
	s := &x.scene
	f := x.found[c.Name]
	if f == nil {
		f = &findings{bySubject: map[string]int{}}
		x.found[c.Name] = f
	}
	subject := ""
	if len(c.subject.parts) > 0 {
		subject = c.subject.fill(s, kept)
	} else {
		subject = ownSubject(s)
	}
	subject = cut(subject)
	i, ok := f.bySubject[subject]
	if !ok {
		i = f.put(x.finding(c, subject, kept))
		if f.more == 0 {
			f.bySubject[subject] = i
		}
	}
	d := &f.list[i]
	d.Count += int(max(1, s.e.Count))
	for _, seq := range append(slices.Clone(before), s.e.Seq) {
		if seq != 0 && len(d.Seq) < maxSeqs && !slices.Contains(d.Seq, seq) {
			d.Seq = append(d.Seq, seq)
		}
	}
}

// put returns the place of a new finding, or of the one that counts those that are too many.
func (f *findings) put(d muster.Detection) int {
	if len(f.list) < maxPerRule {
		f.list = append(f.list, d)
		return len(f.list) - 1
	}
	if f.more == 0 {
		d.Title, d.Subject, d.Fact = "more of the same: "+d.Title, "…", ""
		f.list = append(f.list, d)
		f.more = len(f.list)
	}
	return f.more - 1
}

func (x *run) finding(c *compiled, subject string, kept []map[string]string) muster.Detection {
	s := &x.scene
	d := muster.Detection{
		Rule: c.Name, Severity: c.Severity, Title: cut(c.title.fill(s, kept)), Explanation: strings.TrimSpace(c.Explanation), Remedy: strings.TrimSpace(c.Remedy),
		Step: s.run.step(s.e).name, PID: s.e.PID, Subject: subject, At: s.e.Timestamp,
	}
	for _, k := range c.stages[len(c.stages)-1].asks {
		if what := x.unknown(k, s); what != "" {
			d.Fact = Fact{kindWords[k], what}.String()
			break
		}
	}
	if s.node == nil {
		return d
	}
	d.Process = cut(cmp.Or(s.node.line, s.node.exe))
	for n, i := s.node.parent, 0; n != nil && i < 16; n, i = n.parent, i+1 {
		d.Ancestry = append(d.Ancestry, cut(cmp.Or(n.line, n.exe)))
	}
	return d
}

// cut shortens text for people, and takes line ends out of it.
func cut(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' || r == 0 }), " ")
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText-3], "") + "…"
}

func (x *run) report() Report {
	out := Report{Facts: x.facts}
	for _, c := range x.rules.rules {
		if f := x.found[c.Name]; f != nil {
			out.Detections = append(out.Detections, f.list...)
		}
	}
	slices.SortStableFunc(out.Detections, func(a, b muster.Detection) int {
		return cmp.Or(cmp.Compare(rank(b.Severity), rank(a.Severity)), a.At.Compare(b.At))
	})
	for _, d := range out.Detections {
		if rank(d.Severity) > rank(out.Facts.Worst) && !fromBaseline(d.Rule) {
			out.Facts.Worst = d.Severity
		}
	}
	return out
}

func rank(s muster.Severity) int { return slices.Index(muster.Severities, s) }

// within reports whether two events are near enough in time, in either order: kernels
// deliver events of different processors a little out of order.
func within(a, b time.Time, d Duration) bool {
	return b.Sub(a).Abs() <= time.Duration(d)
}
