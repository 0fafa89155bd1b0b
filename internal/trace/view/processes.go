package view

import (
	"cmp"
	"path"
	"slices"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// proc is a Process while it is made.
type proc struct {
	Process
	key    trace.Process
	parent *proc
	kids   int   // that are kept
	frame  int32 // where it stands in the flame view under its present name
	exited bool

	// covered is how long, in µs, at least one child existed; liveKids do now, since coverAt.
	covered  int64
	liveKids int
	coverAt  time.Time

	// kidsRead and kidsWritten are what the kernel added to the process's own bytes when it
	// waited for its children.
	kidsRead, kidsWritten int64
}

// procs are all processes that are kept.
type procs struct {
	byKey  map[trace.Process]*proc
	latest map[int]*proc // of each pid
	all    []*proc       // in the order in which they were first seen
	foldAt int           // fold when there are more

	hidden     int64 // folded ones without a parent, and what was folded into them
	live, most int64
	programs   map[string]*Program
	more       int64 // programs that are not listed
}

func newProcs() procs {
	return procs{
		byKey: make(map[trace.Process]*proc), latest: make(map[int]*proc),
		foldAt: maxProcesses + maxProcesses/4, programs: make(map[string]*Program),
	}
}

// process finds or makes the process of an event and brings it up to date.
func (b *Builder) process(s *step, e *trace.Event) *proc {
	p := b.procs.byKey[e.Process()]
	if p != nil && p.exited && e.Start == 0 && e.Type == trace.ProcessExec {
		p = nil // the number was used again
	}
	if p == nil {
		p = b.newProcess(e.Process())
	}
	if p.Unseen {
		b.meet(s, p, e)
	}
	if p.UID == 0 {
		p.UID = e.UID
	}
	p.Container = cmp.Or(p.Container, e.Container)
	switch e.Type {
	case trace.ProcessExec:
		b.execute(s, p, e)
	case trace.ProcessExit:
		b.exit(p, e)
	}
	return p
}

// newProcess makes a process of which nothing is known but its key.
func (b *Builder) newProcess(key trace.Process) *proc {
	p := &proc{Process: Process{Parent: -1, PID: key.PID, Start: key.Start, Unseen: true}, key: key}
	b.procs.byKey[key], b.procs.latest[key.PID] = p, p
	b.procs.all = append(b.procs.all, p)
	if len(b.procs.all) > b.procs.foldAt {
		b.procs.fold()
	}
	return p
}

// meet takes the first event of a process itself.
func (b *Builder) meet(s *step, p *proc, e *trace.Event) {
	p.Unseen = false
	p.Step, p.Command, p.UID, p.StartedAt = s.number, e.Command, e.UID, e.Timestamp
	if e.Type == trace.ProcessExit && e.DurationUS > 0 {
		p.StartedAt = ago(e.Timestamp, e.DurationUS)
	}
	b.adopt(p, e)
	p.frame = b.frame(p, orUnknown(p.Command))
	s.Processes++
	b.total.Processes++
	s.live++
	s.most = max(s.most, s.live)
	b.procs.live++
	b.procs.most = max(b.procs.most, b.procs.live)
	if q := p.parent; q != nil && !q.exited {
		if q.liveKids++; q.liveKids == 1 {
			q.coverAt = p.StartedAt
		}
	}
}

// adopt finds a process's parent. One that was not seen is made, so that its children
// stand together; init is nobody's parent, it only takes in orphans.
func (b *Builder) adopt(p *proc, e *trace.Event) {
	switch {
	case e.PPID <= 0:
		return
	case e.PPID == 1:
		p.Orphan = true
		return
	}
	q := b.procs.byKey[trace.Process{PID: e.PPID, Start: e.ParentStart}]
	if q == nil && e.ParentStart == 0 {
		q = b.procs.latest[e.PPID]
	}
	if q == nil && len(b.procs.all) == 1 {
		return // the job's first process was started by the agent, who is not of the job
	}
	if q == nil {
		q = b.newProcess(trace.Process{PID: e.PPID, Start: e.ParentStart})
	}
	for a := q; a != nil; a = a.parent {
		if a == p {
			return // a lie: nobody is his own ancestor
		}
	}
	p.parent = q
	q.kids++
}

func (b *Builder) execute(s *step, p *proc, e *trace.Event) {
	s.Execs++
	b.total.Execs++
	b.program(s, e)
	args, cut := cutArgs(e.Args)
	image := Image{Path: e.Path, Args: args, Truncated: e.Truncated || cut, Dir: e.Dir, At: e.Timestamp, Seq: e.Seq}
	if n := len(p.Images); n == maxImages {
		p.Images[n-1] = image
		p.MoreImages++
	} else {
		p.Images = append(p.Images, image)
	}
	p.Main = len(p.Images) - 1
	p.frame = b.frame(p, imageName(e))
	p.Command = imageName(e)
}

func imageName(e *trace.Event) string {
	if e.Path == "" {
		return orUnknown(e.Command)
	}
	return path.Base(e.Path)
}

func cutArgs(args []string) ([]string, bool) {
	left := maxArgs
	for i, a := range args {
		if left -= len(a); left < 0 {
			kept := slices.Clone(args[:i+1])
			kept[i] = a[:max(0, len(a)+left)]
			return kept, true
		}
	}
	return args, false
}

// program counts an executable.
func (b *Builder) program(s *step, e *trace.Event) {
	if e.Path == "" {
		return
	}
	name := Normal(e.Path, b.job)
	g := b.procs.programs[name]
	if g == nil {
		if len(b.procs.programs) >= maxPrograms {
			b.procs.more++
			return
		}
		g = &Program{Path: name, First: e.Timestamp, Seq: e.Seq}
		if name != e.Path {
			g.Example = e.Path
		}
		b.procs.programs[name] = g
	}
	g.Count++
	g.Steps = appendNew(g.Steps, s.number, 16)
}

// longest is the longest that a process is believed to have run, in µs: a hundred years. More
// would not add up.
const longest = 100 * 365 * 24 * 3600 * 1_000_000

func (b *Builder) exit(p *proc, e *trace.Event) {
	if p.exited {
		return
	}
	p.exited = true
	p.EndedAt = e.Timestamp
	p.DurationUS = min(e.DurationUS, longest)
	if p.DurationUS <= 0 {
		p.DurationUS = max(0, e.Timestamp.Sub(p.StartedAt).Microseconds())
	}
	p.CPUUS, p.MemoryKiB = max(0, e.CPUUS), max(0, e.MemoryKiB)
	b.moved(p, e)
	p.ExitCode, p.Signal = e.ExitCode, e.Signal
	p.uncover(e.Timestamp)
	if q := p.parent; q != nil && !q.exited {
		q.childEnded(p)
	}
	b.account(p)
}

// mostBytes is the most that a process is believed to have moved. More would not add up.
const mostBytes = 1 << 50

// moved takes what a process alone moved from and to storage. The kernel counts for it the
// children that it waited for, and theirs: taken as they are, a shell would have moved what
// its commands did, and the sum of all be several times what the disk saw.
func (b *Builder) moved(p *proc, e *trace.Event) {
	read, written := min(max(0, e.ReadBytes), mostBytes), min(max(0, e.WrittenBytes), mostBytes)
	p.ReadBytes, p.WrittenBytes = max(0, read-p.kidsRead), max(0, written-p.kidsWritten)
	if q := b.procs.byKey[trace.Process{PID: e.PPID, Start: e.ParentStart}]; q != nil && q != p {
		q.kidsRead, q.kidsWritten = min(q.kidsRead+read, mostBytes), min(q.kidsWritten+written, mostBytes)
	}
}

// uncover ends the time in which children cover it.
func (p *proc) uncover(now time.Time) {
	if p.liveKids > 0 {
		p.covered += max(0, now.Sub(p.coverAt).Microseconds())
		p.liveKids = 0
	}
}

func (p *proc) childEnded(child *proc) {
	if p.liveKids == 0 {
		return
	}
	if p.liveKids--; p.liveKids == 0 {
		p.covered += max(0, child.EndedAt.Sub(p.coverAt).Microseconds())
	}
}

// account adds an ended process to its step and its frame.
func (b *Builder) account(p *proc) {
	s := b.step(p.Step)
	for _, c := range []*Counts{&s.Counts, &b.total.Counts} {
		c.CPUUS += p.CPUUS
		c.ReadBytes += p.ReadBytes
		c.WrittenBytes += p.WrittenBytes
		c.PeakMemoryKiB = max(c.PeakMemoryKiB, p.MemoryKiB)
		if p.ExitCode != 0 || p.Signal != 0 {
			c.Failed++
		}
	}
	s.live--
	b.procs.live--
	if p.DurationUS < shortLife {
		s.short++
		s.shortUS += p.DurationUS
	}
	t := s.top(orUnknown(p.Command))
	t.Count++
	t.WallUS += p.DurationUS
	t.CPUUS += p.CPUUS
	t.Bytes += p.ReadBytes + p.WrittenBytes
	b.flame.add(p.frame, p.DurationUS-p.covered, p.CPUUS)
}

// grace is how long after its end a process may still have events on their way.
const grace = 2 * time.Second

// fold takes the least interesting processes out of the list, those without kept children
// first, and counts them at their parents.
func (ps *procs) fold() {
	now := time.Time{}
	for _, p := range ps.all {
		if p.EndedAt.After(now) {
			now = p.EndedAt
		}
	}
	old := now.Add(-grace)
	for len(ps.all) > maxProcesses && ps.foldSome(func(p *proc) bool { return p.exited && p.EndedAt.Before(old) && p.interest() < special }) {
	}
	if len(ps.all) > 2*maxProcesses { // nothing ends: a trace without process_exit, or a flood
		for len(ps.all) > maxProcesses && ps.foldSome(func(p *proc) bool { return true }) {
		}
	}
	ps.foldAt = max(len(ps.all), maxProcesses) + maxProcesses/4
}

// foldSome folds as many as are too many of those that may be, and reports whether it
// folded any.
func (ps *procs) foldSome(may func(*proc) bool) bool {
	var leaves []*proc
	for _, p := range ps.all[:max(0, len(ps.all)-2)] { // the last two may be in the making
		if p.kids == 0 && may(p) {
			leaves = append(leaves, p)
		}
	}
	if len(leaves) == 0 {
		return false
	}
	slices.SortStableFunc(leaves, func(a, b *proc) int { return compare(a.interest(), b.interest()) })
	gone := make(map[*proc]bool)
	for _, p := range leaves[:min(len(leaves), len(ps.all)-maxProcesses)] {
		gone[p] = true
		ps.drop(p)
	}
	ps.all = slices.DeleteFunc(ps.all, func(p *proc) bool { return gone[p] })
	return true
}

func (ps *procs) drop(p *proc) {
	delete(ps.byKey, p.key)
	if ps.latest[p.PID] == p {
		delete(ps.latest, p.PID)
	}
	n := p.Hidden
	if !p.Unseen {
		n++
	}
	if p.parent == nil {
		ps.hidden += n
		return
	}
	p.parent.kids--
	p.parent.Hidden += n
	p.parent.HiddenCPUUS += p.CPUUS + p.HiddenCPUUS
}

// special is the interest from which on a process is folded only in a flood.
const special = 1e12

// interest is how much a process deserves to be listed, in µs of CPU time that it is worth.
func (p *proc) interest() int64 {
	n := p.CPUUS + p.DurationUS/10 + p.Written/1000 + p.HiddenCPUUS
	if p.ExitCode != 0 || p.Signal != 0 {
		n += 50_000
	}
	if p.Connections > 0 {
		n += 1_000_000
	}
	if p.Notable > 0 {
		n += special
	}
	if p.Refused > 0 {
		n += 1000 * special
	}
	return n
}

// listProcesses fills in the forest and returns the index of each process in it.
func (b *Builder) listProcesses(v *Views) map[trace.Process]int {
	children := make(map[*proc][]*proc)
	for _, p := range b.procs.all {
		children[p.parent] = append(children[p.parent], p)
	}
	for _, l := range children {
		slices.SortStableFunc(l, func(a, b *proc) int { return a.StartedAt.Compare(b.StartedAt) })
	}
	v.HiddenProcesses = b.procs.hidden
	v.Processes = make([]Process, 0, len(b.procs.all))
	index := make(map[trace.Process]int, len(b.procs.all))
	for _, l := range children {
		slices.Reverse(l) // they are taken from the end
	}
	for todo := children[nil]; len(todo) > 0; {
		p := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], children[p]...)
		index[p.key] = len(v.Processes)
		v.HiddenProcesses += p.Hidden
		v.Processes = append(v.Processes, b.listed(p, index))
	}
	return index
}

func (b *Builder) listed(p *proc, index map[trace.Process]int) Process {
	out := p.Process
	out.Images = slices.Clone(p.Images)
	out.Children = p.kids
	if p.parent != nil {
		out.Parent = index[p.parent.key]
	}
	if p.exited || p.Unseen {
		return out
	}
	out.DurationUS = max(0, b.last.Sub(p.StartedAt).Microseconds())
	out.Alive = b.ended && p.Step > 0
	return out
}

func (b *Builder) listPrograms(v *Views) {
	for _, g := range b.procs.programs {
		one := *g
		one.Steps = slices.Clone(g.Steps)
		v.Programs = append(v.Programs, one)
	}
	slices.SortFunc(v.Programs, func(a, b Program) int {
		return cmp.Or(compare(b.Count, a.Count), cmp.Compare(a.Path, b.Path))
	})
	v.HiddenPrograms = b.procs.more
}
