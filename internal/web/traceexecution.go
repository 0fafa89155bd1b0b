package web

import (
	"cmp"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// executionTab is the tree of processes, what a search found in it, or the flame view.
type executionTab struct {
	View  string // "tree" or "flame"
	Query string
	// Rows are the top of the tree, or what is below Of.
	Rows  []processRow
	More  int    // brothers after the last of Rows
	Next  string // address of these
	Marks []tickMark
	// Of is the process whose page this is, nil on the page of all.
	Of *processFacts
	// Found is what a search found; Cut says that there is more.
	Found []processRow
	Cut   bool
	Flame *flame
	// CPU says what the flame view's bars stand for; ByCPU and ByTime are the addresses.
	CPU           bool
	ByCPU, ByTime string
	Tree, Whole   string // addresses
	Clear         string // of the same without the search
	Total, Hidden int64
	// Step is the step whose processes alone are shown, nil of all.
	Step *timelineRow
}

// Part is what the script asks for when a process is unfolded.
func (executionTab) Part() string { return "processes" }

// processRow is one process in the tree.
type processRow struct {
	*view.Process
	Index   int
	Name    clipped
	Line    clipped // its command line
	StepOf  clipped
	Enters  string // address of its step, "" if its parent is of the same one
	Ended   string // how it ended, "" if as it should
	Tone    string
	X, W    int
	D, CPU  time.Duration
	Memory  string
	Kids    []processRow
	More    int    // children after the last of Kids
	Next    string // address of these
	Lazy    bool   // children are fetched when it is unfolded
	Link    string
	Path    []processName // of a search: those above it, the highest first
	Current bool
}

// processName is a process by its name only.
type processName struct {
	Name clipped
	Link string
}

// processFacts is everything about one process.
type processFacts struct {
	processRow
	Images []imageRow
	Above  []processName
	Events string // address of its events
	Conns  []connectionRow
}

// imageRow is one program that a process ran.
type imageRow struct {
	view.Image
	File, Line, In clipped
	Main           bool
}

const (
	// treeBudget is how many processes a page of the tree shows unfolded, treeKids how
	// many brothers at a time.
	treeBudget = 70
	treeKids   = 100
	maxFound   = 200
)

// forest is a trace's processes with the children of each; roots are those of -1.
type forest struct {
	p     *tracePage
	below map[int][]int
	from  time.Time
	to    time.Time
}

func newForest(p *tracePage) *forest {
	f := &forest{p: p, below: make(map[int][]int, len(p.Views.Processes)/4)}
	for i, pr := range p.Views.Processes {
		parent := pr.Parent
		if parent >= i { // a parent comes before its children
			parent = -1
		}
		f.below[max(parent, -1)] = append(f.below[max(parent, -1)], i)
	}
	f.from, f.to = jobSpan(p.Views)
	return f
}

// row is one process, without its children.
func (f *forest) row(i int) processRow {
	pr := &f.p.Views.Processes[i]
	r := processRow{Process: pr, Index: i, Name: clip(40, cmp.Or(pr.Command, "?")), StepOf: f.p.Step(pr.Step), Link: f.p.processLink(i)}
	if pr.Step > 0 && (pr.Parent < 0 || pr.Parent >= i || f.p.Views.Processes[pr.Parent].Step != pr.Step) {
		r.Enters = f.p.With("timeline", "step", pr.Step) + "#r-events"
	}
	if line := mainLine(pr); line != "" {
		r.Line = clip(maxShown, line)
	}
	end := pr.EndedAt
	if end.IsZero() {
		end = f.to
	}
	if !pr.StartedAt.IsZero() {
		r.X, r.W = placed(pr.StartedAt, end, f.from, f.to)
	}
	r.D, r.CPU = time.Duration(pr.DurationUS)*time.Microsecond, time.Duration(pr.CPUUS)*time.Microsecond
	if pr.MemoryKiB > 0 {
		r.Memory = formatBytes(pr.MemoryKiB << 10)
	}
	switch {
	case pr.Signal > 0:
		r.Ended, r.Tone = fmt.Sprintf("signal %d", pr.Signal), "bad"
	case pr.ExitCode != 0:
		r.Ended, r.Tone = fmt.Sprintf("exit %d", pr.ExitCode), "bad"
	case pr.Alive:
		r.Ended, r.Tone = "still there at the end", "wait"
	case pr.Unseen:
		r.Ended, r.Tone = "before the recorder", "mute"
	case pr.EndedAt.IsZero() && !f.p.Views.Ended:
		r.Ended, r.Tone = "running", "info"
	}
	return r
}

// mainLine is the command line of the program that ran longest in a process.
func mainLine(pr *view.Process) string {
	if len(pr.Images) == 0 {
		return ""
	}
	im := pr.Images[min(max(pr.Main, 0), len(pr.Images)-1)]
	if len(im.Args) == 0 {
		return im.Path
	}
	line := commandLine(im.Args)
	if im.Truncated {
		line += " …"
	}
	return line
}

// rows are the children of a process from the nth on, as a page of them, each unfolded
// as far as the budget goes. -1 stands for the roots.
func (f *forest) rows(of, nth, budget int) (rows []processRow, more int) {
	kids := f.below[of]
	nth = min(max(nth, 0), len(kids))
	page := kids[nth:min(nth+treeKids, len(kids))]
	rows = make([]processRow, len(page))
	var queue []*processRow
	for i, k := range page {
		rows[i] = f.row(k)
		queue = append(queue, &rows[i])
	}
	budget -= len(page)
	for len(queue) > 0 {
		r := queue[0]
		queue = queue[1:]
		n := len(f.below[r.Index])
		if n == 0 {
			continue
		}
		if n > budget || n > treeKids {
			r.Lazy = true
			continue
		}
		budget -= n
		r.Kids = make([]processRow, n)
		for i, k := range f.below[r.Index] {
			r.Kids[i] = f.row(k)
			queue = append(queue, &r.Kids[i])
		}
	}
	return rows, len(kids) - nth - len(page)
}

func (s *site) traceExecution(_ *http.Request, p *tracePage) (any, error) {
	v := p.Views
	t := executionTab{View: "tree", Query: text(p.params, "q"), Total: int64(len(v.Processes)) + v.HiddenProcesses, Hidden: v.HiddenProcesses, Tree: p.With("execution"), Clear: p.With("execution"), Whole: p.With("execution", "view", "flame")}
	if p.params.Get("view") == "flame" {
		return p.flameTab(t)
	}
	f := newForest(p)
	if f.to.After(f.from) {
		t.Marks = timeMarks(f.to.Sub(f.from))
	}
	if t.Query != "" {
		t.Found, t.Cut = f.find(t.Query)
		return t, nil
	}
	of, nth, step := -1, 0, ""
	if pid, err := strconv.Atoi(p.params.Get("pid")); err == nil {
		var one bool
		if of, one = ofPID(v.Processes, pid); !one {
			t.Query = strconv.Itoa(pid)
			t.Found, t.Cut = f.find(t.Query)
			return t, nil
		}
		t.Of = f.facts(of)
	}
	if text := p.params.Get("of"); text != "" {
		var err error
		if of, err = strconv.Atoi(text); err != nil || of < 0 || of >= len(v.Processes) {
			return nil, muster.Errorf(muster.CodeNotFound, "the trace has no process %q in its list", clip(20, text).Text)
		}
		t.Of = f.facts(of)
	} else if t.Of == nil {
		rows := timelineOfSteps(p)
		switch i, err := stepOf(p.params, rows); {
		case err != nil:
			return nil, err
		case i >= 0:
			t.Step, step = &rows[i], strconv.Itoa(rows[i].Number)
			f.only(rows[i].Number)
		}
	}
	if n, err := strconv.Atoi(p.params.Get("from")); err == nil {
		nth = n
	}
	t.Rows, t.More = f.rows(of, nth, treeBudget)
	if t.More > 0 {
		t.Next = p.With("execution", "of", ofText(of), "step", step, "from", max(nth, 0)+len(t.Rows))
	}
	return t, nil
}

// only leaves the trees that a step began.
func (f *forest) only(step int) {
	var roots []int
	for i, pr := range f.p.Views.Processes {
		if pr.Step == step && (pr.Parent < 0 || pr.Parent >= i || f.p.Views.Processes[pr.Parent].Step != step) {
			roots = append(roots, i)
		}
	}
	f.below[-1] = roots
}

// ofText names a process in an address; "" stands for all.
func ofText(of int) string {
	if of < 0 {
		return ""
	}
	return strconv.Itoa(of)
}

// above are the processes that one descends from, the highest first.
func (f *forest) above(i int) []processName {
	var out []processName
	list := f.p.Views.Processes
	for at := list[i].Parent; at >= 0 && at < i && len(out) < 40; i, at = at, list[at].Parent {
		out = append(out, processName{clip(30, cmp.Or(list[at].Command, "?")), f.p.processLink(at)})
	}
	slices.Reverse(out)
	return out
}

// facts is everything about a process.
func (f *forest) facts(i int) *processFacts {
	pf := &processFacts{processRow: f.row(i), Above: f.above(i)}
	pr := pf.Process
	for n, im := range pr.Images {
		pf.Images = append(pf.Images, imageRow{Image: im, File: clipPath(120, im.Path), Line: clip(2000, commandLine(im.Args)), In: clipPath(120, im.Dir), Main: n == pr.Main && len(pr.Images) > 1})
	}
	expr := fmt.Sprintf("pid == %d", pr.PID)
	if pr.Start > 0 {
		expr += fmt.Sprintf(" && start == %d", pr.Start)
	}
	pf.Events = f.p.traceSearch(expr)
	for _, c := range f.p.Views.Network.Connections {
		if c.Process == i && len(pf.Conns) < 50 {
			pf.Conns = append(pf.Conns, f.p.connection(c))
		}
	}
	return pf
}

// find are the processes whose command, arguments, program or number has a text, case
// ignored.
func (f *forest) find(q string) (rows []processRow, cut bool) {
	q = strings.ToLower(q)
	for i := range f.p.Views.Processes {
		if !mentions(&f.p.Views.Processes[i], q) {
			continue
		}
		if len(rows) == maxFound {
			return rows, true
		}
		r := f.row(i)
		r.Path = f.above(i)
		rows = append(rows, r)
	}
	return rows, false
}

func mentions(pr *view.Process, q string) bool {
	if strings.Contains(strings.ToLower(pr.Command), q) || strconv.Itoa(pr.PID) == q {
		return true
	}
	for _, im := range pr.Images {
		if strings.Contains(strings.ToLower(im.Path), q) || strings.Contains(strings.ToLower(path.Base(im.Path)), q) {
			return true
		}
		if strings.Contains(strings.ToLower(strings.Join(im.Args, " ")), q) {
			return true
		}
	}
	return false
}

// flameTab is the flame view, zoomed to the frame that the address names.
func (p *tracePage) flameTab(t executionTab) (any, error) {
	t.View, t.CPU = "flame", p.params.Get("by") != "time"
	by := ""
	if !t.CPU {
		by = "time"
	}
	zoom := -1
	if text := p.params.Get("zoom"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n >= len(p.Views.Flame) {
			return nil, muster.Errorf(muster.CodeNotFound, "the flame view has no bar %q", clip(20, text).Text)
		}
		zoom = n
	}
	link := func(i int) string {
		return p.With("execution", "view", "flame", "by", by, "zoom", ofText(i), "q", t.Query)
	}
	d := newFlame(p.Views.Flame, t.CPU, link)
	d.search = strings.ToLower(t.Query)
	drawn := d.draw(zoom)
	t.Flame = &drawn
	t.Whole = link(-1)
	t.Clear = p.With("execution", "view", "flame", "by", by, "zoom", ofText(zoom))
	t.ByCPU, t.ByTime = p.With("execution", "view", "flame", "zoom", ofText(zoom), "q", t.Query), p.With("execution", "view", "flame", "by", "time", "zoom", ofText(zoom), "q", t.Query)
	return t, nil
}
