package web

import (
	"fmt"
	"net/http"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// performanceTab is where the job's time went.
type performanceTab struct {
	Total costRow
	Rows  []costRow
	// Picked is the step whose programs are shown; all of the job if none was picked.
	Picked costRow
	ByCPU  []topRow
	ByWall []topRow
	ByIO   []topRow
	All    string // address of the page for all of the job
	Hints  []string
	// Runs are the latest recorded runs of the same job, the newest first, this one among
	// them if it is not too old: since when it takes what it takes. Fewer than two are none.
	Runs []runTook
}

// runTook is how long one run of a job took.
type runTook struct {
	traceSummary
	Took time.Duration
	Bar  bar
	This bool
	Diff string // address of the comparison of this page's run with it
}

// maxRuns is how many runs a performance page compares.
const maxRuns = 15

// costRow is what one step cost.
type costRow struct {
	view.StepPerformance
	Title     clipped
	Wall, CPU bar // bars on one scale each
	IO        []bar
	Busy      string // how many CPUs on average
	Link      string
	Current   bool
	IOWord    string
}

// Moved is what went from and to storage, in bytes.
func (r costRow) Moved() int64 { return r.ReadBytes + r.WrittenBytes }

func (s *site) tracePerformance(r *http.Request, p *tracePage) (any, error) {
	perf := p.Views.Performance
	t := performanceTab{All: p.With("performance")}
	var wall, cpu, io int64
	for _, st := range perf.Steps {
		wall, cpu, io = max(wall, st.WallUS), max(cpu, st.CPUUS), max(io, st.ReadBytes+st.WrittenBytes)
	}
	pick := p.params.Get("step")
	t.Total = p.cost(perf.Total, 0, 0, 0)
	t.Total.Title, t.Total.Current, t.Total.Link = clipped{Text: "The whole job"}, pick == "", t.All
	t.Picked = t.Total
	for _, st := range perf.Steps {
		row := p.cost(st, wall, cpu, io)
		if pick != "" && fmt.Sprint(st.Number) == pick {
			row.Current = true
			t.Picked = row
		}
		t.Rows = append(t.Rows, row)
	}
	toProcess := func(x view.Top) string { return p.With("execution", "q", x.Name) }
	t.ByCPU = topRows(t.Picked.ByCPU, func(x view.Top) int64 { return x.CPUUS }, sayUS, toProcess)
	t.ByWall = topRows(t.Picked.ByWall, func(x view.Top) int64 { return x.WallUS }, sayUS, toProcess)
	t.ByIO = topRows(t.Picked.ByIO, func(x view.Top) int64 { return x.Bytes }, formatBytes, toProcess)
	t.Hints = costHints(t.Rows)
	if b := p.Baseline(); b != "" {
		list, err := s.Traces.Traces(r.Context(), TraceQuery{Baseline: b, States: []muster.TraceState{muster.TraceComplete, muster.TraceTruncated}, Limit: maxRuns})
		if err != nil {
			return nil, err
		}
		t.Runs = p.runs(list)
	}
	return t, nil
}

// runs puts runs of one job on one scale.
func (p *tracePage) runs(list []muster.Trace) (out []runTook) {
	var most int64
	for _, o := range list {
		if took := o.EndedAt.Sub(o.StartedAt); took > 0 {
			most = max(most, took.Microseconds())
			out = append(out, runTook{traceSummary: summaryOf(o), Took: took, This: o.ID == p.ID, Diff: p.With("diff", "against", o.ID.String())})
		}
	}
	if len(out) < 2 {
		return nil
	}
	for i := range out {
		out[i].Bar = bar{Class: "p-idle", W: sliver(out[i].Took.Microseconds(), most)}
		if out[i].This {
			out[i].Bar.Class = "p-run"
		}
	}
	return out
}

func (p *tracePage) cost(st view.StepPerformance, wall, cpu, io int64) costRow {
	r := costRow{StepPerformance: st, Title: p.Step(st.Number), Link: p.With("performance", "step", st.Number), Busy: fmt.Sprintf("%.1f", st.Parallelism)}
	r.Wall = bar{Class: "p-run", W: sliver(st.WallUS, wall)}
	r.CPU = bar{Class: "p-boot", W: sliver(st.CPUUS, cpu)}
	if read := sliver(st.ReadBytes, io); read > 0 {
		r.IO = append(r.IO, bar{Class: "c-p50", W: read})
	}
	if written := sliver(st.WrittenBytes, io); written > 0 {
		x := 0
		if len(r.IO) > 0 {
			x = r.IO[0].W
		}
		r.IO = append(r.IO, bar{Class: "c-waste", X: x, W: min(written, barWidth-x)})
	}
	r.IOWord = fmt.Sprintf("read %s, written %s", formatBytes(st.ReadBytes), formatBytes(st.WrittenBytes))
	return r
}

// costHints say in words what the figures of steps speak for, at most three.
func costHints(rows []costRow) []string {
	const second = 1_000_000
	var out []string
	for _, r := range rows {
		switch {
		case len(out) == 3:
			return out
		case r.WallUS < 5*second || r.Number == 0:
		case r.Short > 1000 && r.ShortUS*4 > r.CPUUS:
			out = append(out, fmt.Sprintf("%s started %s processes that lived less than 10 ms: starting them is a good part of what it does.", r.Title.Text, formatNumber(r.Short)))
		case r.Idle > .7 && r.Share > .1:
			out = append(out, fmt.Sprintf("%s waited for %s of its time: for the network, a disk or a timer, not for a CPU.", r.Title.Text, formatPercent(r.Idle, 1)))
		case r.Parallelism > .85 && r.Parallelism < 1.15 && r.Share > .2:
			out = append(out, fmt.Sprintf("%s kept one CPU busy and no more: on a larger machine it would take as long.", r.Title.Text))
		}
	}
	return out
}
