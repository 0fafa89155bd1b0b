package view

import (
	"maps"
	"slices"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// Limits of what is listed. What is beyond is folded into counts.
const (
	maxSteps       = 2_000
	maxProcesses   = 20_000
	maxImages      = 8
	maxArgs        = 1_024 // bytes of one image
	maxPrograms    = 5_000
	maxFrames      = 5_000
	maxDepth       = 64
	maxHosts       = 5_000
	maxBelow       = 100 // different names below one domain
	maxConnections = 10_000
	maxQueries     = 5_000
	maxAddresses   = 16
	maxFiles       = 20_000 // directories included
	maxSensitive   = 500
	maxRenames     = 200
	maxNotable     = 100 // of one type
	maxRefusals    = 100
	maxNames       = 5_000 // programs of one step, by name
)

// Builder makes the views of one trace from its events, in the order of their numbers. It is
// not safe for concurrent use. Its memory is bounded, whatever the events are.
type Builder struct {
	job         trace.Job
	first, last time.Time
	firstStep   time.Time // when the first of the steps began
	ended       bool
	recorder    *trace.Recorder
	missing     map[string]string
	lost        map[string]int64
	byType      map[trace.Type]int64

	steps   map[int]*step
	total   tally
	procs   procs
	flame   flame
	net     network
	files   files
	notable notables
}

// NewBuilder returns a builder for a job.
func NewBuilder(j trace.Job) *Builder {
	return &Builder{
		job: j, byType: make(map[trace.Type]int64), lost: make(map[string]int64),
		steps: make(map[int]*step), procs: newProcs(), net: newNetwork(), files: newFiles(),
	}
}

// times is how many events one stands for.
func times(e *trace.Event) int64 { return max(e.Count, 1) }

// Add takes the next event.
func (b *Builder) Add(e trace.Event) {
	b.byType[trace.Type(capped(b.byType, e.Type, 64))]++
	if b.first.IsZero() || e.Timestamp.Before(b.first) {
		b.first = e.Timestamp
	}
	if e.Timestamp.After(b.last) {
		b.last = e.Timestamp
	}
	s := b.step(e.Step)
	s.Events++
	b.total.Events++
	switch e.Type {
	case trace.TraceStart:
		b.begin(&e)
	case trace.TraceEnd:
		b.end(&e)
	case trace.StepStart, trace.StepEnd:
		b.stepEvent(s, &e)
	case trace.Dropped:
		b.lost[string(capped(b.lost, orUnknown(e.Method), 64))] += times(&e)
	default:
		b.act(s, &e)
	}
}

// act is what a process did.
func (b *Builder) act(s *step, e *trace.Event) {
	var p *proc
	if e.PID > 0 {
		p = b.process(s, e)
	}
	switch e.Type {
	case trace.ProcessExec, trace.ProcessExit: // process saw to it
	case trace.NetConnect, trace.DNSQuery, trace.TLSHello, trace.UnixConnect:
		b.network(s, p, e)
	case trace.FileOpen, trace.FileWrite, trace.FileDelete, trace.FileRename, trace.FileLink:
		b.file(s, p, e)
	default:
		b.note(p, e)
	}
}

func (b *Builder) begin(e *trace.Event) {
	if e.Recorder == nil {
		return
	}
	b.recorder = e.Recorder
	b.missing = maps.Clone(e.Recorder.Missing)
}

func (b *Builder) end(e *trace.Event) {
	b.ended = true
	for why, n := range e.Lost { // the last word on what Dropped events told so far
		b.lost[string(capped(b.lost, why, 64))] = max(n, b.lost[why])
	}
}

// capped is key, or "other" if a map has its fill of keys.
func capped[K ~string, V any](m map[K]V, key K, limit int) K {
	if _, ok := m[key]; ok || len(m) < limit {
		return key
	}
	return "other"
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// tally is Counts while they are made.
type tally struct {
	Counts
	hosts, files distinct
}

func (t *tally) counts() Counts {
	c := t.Counts
	c.Hosts, c.Files = t.hosts.count(), t.files.count()
	return c
}

// step is a Step while it is made.
type step struct {
	tally
	number     int
	name       string
	kind, uses string
	start, end time.Time
	result     string
	exit       int

	live, most     int64 // processes that exist
	short, shortUS int64
	programs       map[string]*Top // by name; Bytes from and to storage
}

func (b *Builder) step(n int) *step {
	if s, ok := b.steps[n]; ok {
		return s
	}
	if n < 0 || n > 0 && len(b.steps) >= maxSteps {
		return b.step(0)
	}
	s := &step{number: n, programs: make(map[string]*Top)}
	b.steps[n] = s
	return s
}

func (b *Builder) stepEvent(s *step, e *trace.Event) {
	if e.Name != "" {
		s.name = e.Name
	}
	if e.StepKind != "" {
		s.kind = e.StepKind
	}
	if e.Uses != "" {
		s.uses = e.Uses
	}
	if e.Type == trace.StepStart {
		s.start = e.Timestamp
		if b.firstStep.IsZero() {
			b.firstStep = e.Timestamp
		}
		return
	}
	s.end, s.result, s.exit = e.Timestamp, e.Result, e.ExitCode
	if s.start.IsZero() && e.DurationUS > 0 {
		s.start = ago(e.Timestamp, e.DurationUS)
	}
}

// ago is the time some µs before another, or that one where there is no such time.
func ago(t time.Time, us int64) time.Time {
	const years = 100 * 365 * 24 * time.Hour
	began := t.Add(-time.Duration(min(us, years.Microseconds())) * time.Microsecond)
	if began.Year() < 1 {
		return t
	}
	return began
}

// wall is how long a step took, until now if it has not ended.
func (s *step) wall(now time.Time) int64 {
	if s.start.IsZero() {
		return 0
	}
	end := s.end
	if end.IsZero() {
		end = now
	}
	return max(0, end.Sub(s.start).Microseconds())
}

// top is a program's line in a step's list.
func (s *step) top(name string) *Top {
	name = capped(s.programs, name, maxNames)
	t := s.programs[name]
	if t == nil {
		t = &Top{Name: name}
		s.programs[name] = t
	}
	return t
}

// Views makes the views of what was added. More can be added after, and Views be
// called again.
func (b *Builder) Views() *Views {
	v := &Views{Version: Version, Job: b.job, Ended: b.ended}
	index := b.listProcesses(v)
	b.listPrograms(v)
	v.Flame = b.frames()
	b.listNetwork(v, index)
	v.Files, v.FileTops = b.files.view()
	b.notable.list(v, index)
	b.listSteps(v)
	b.perform(v)
	b.overview(v)
	v.Judge(Known{})
	return v
}

func (b *Builder) listSteps(v *Views) {
	for _, n := range slices.Sorted(maps.Keys(b.steps)) {
		s := b.steps[n]
		out := Step{Number: n, Name: s.name, Kind: s.kind, Uses: s.uses, Start: s.start, End: s.end, DurationUS: s.wall(b.last), Result: s.result, ExitCode: s.exit, Counts: s.counts()}
		if n == 0 {
			if quiet(s) {
				continue
			}
			out.Name = "Outside of steps"
		}
		v.Steps = append(v.Steps, out)
	}
	b.outside(v)
}

// quiet reports whether nothing but the bounds of the trace was outside of steps.
func quiet(s *step) bool {
	return s.Processes+s.Connections+s.Queries+s.Reads+s.Writes+s.Creates == 0 && len(s.programs) == 0
}

// outside gives step 0 the time in which no step ran.
func (b *Builder) outside(v *Views) {
	if len(v.Steps) == 0 || v.Steps[0].Number != 0 {
		return
	}
	rest := b.last.Sub(b.first).Microseconds()
	for _, s := range v.Steps[1:] {
		rest -= s.DurationUS
	}
	v.Steps[0].DurationUS = max(0, rest)
}

func (b *Builder) overview(v *Views) {
	o := &v.Overview
	o.StartedAt, o.EndedAt = b.first, b.last
	o.DurationUS = b.last.Sub(b.first).Microseconds()
	o.Counts = b.total.counts()
	o.ByType = maps.Clone(b.byType)
	o.Recorder = b.recorder
	o.Missing = maps.Clone(b.missing)
	if len(b.lost) > 0 {
		o.Lost = maps.Clone(b.lost)
	}
	for i := range v.Processes {
		if v.Processes[i].Alive {
			o.AliveAfter++
		}
	}
	o.Refusals = slices.Clone(b.net.refusals)
	o.TopPrograms = greatest(maps.Values(b.programTotals()), 10, func(t *Top) int64 { return t.CPUUS })
	o.TopWriters = v.FileTops.Writers[:min(10, len(v.FileTops.Writers))]
	for _, h := range v.Network.Hosts {
		if h.Connections > 0 {
			o.TopHosts = append(o.TopHosts, Top{Name: h.Host, Count: h.Connections})
		}
	}
	slices.SortStableFunc(o.TopHosts, func(a, b Top) int { return compare(b.Count, a.Count) })
	o.TopHosts = o.TopHosts[:min(10, len(o.TopHosts))]
}

// programTotals adds up the steps' programs.
func (b *Builder) programTotals() map[string]*Top {
	all := make(map[string]*Top)
	for _, s := range b.steps {
		for name, t := range s.programs {
			a := all[name]
			if a == nil {
				a = &Top{Name: name}
				all[name] = a
			}
			a.Count += t.Count
			a.CPUUS += t.CPUUS
			a.WallUS += t.WallUS
			a.Bytes += t.Bytes
		}
	}
	return all
}
