package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

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

// timelineRow is one step.
type timelineRow struct {
	*view.Step
	Title    clipped
	Did      clipped // what it runs: an action, or nothing
	X, W     int
	Open     bool
	Cut      bool // the trace ends before the step does
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
	if r.Cut && r.Result == "" {
		return "cut_off"
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
	for _, d := range p.Findings {
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
			end, r.Open, r.Cut = to, !p.Views.Ended && p.Recording(), !p.Views.Ended && !p.Recording()
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

// stepOf is the index of the step that an address names, -1 if it names none.
func stepOf(params url.Values, rows []timelineRow) (int, error) {
	if params.Get("step") == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(params.Get("step"))
	i := slices.IndexFunc(rows, func(r timelineRow) bool { return r.Number == n })
	if err != nil || i < 0 {
		return -1, muster.Errorf(muster.CodeNotFound, "the trace has no step %q", text(params, "step"))
	}
	return i, nil
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
	i, err := stepOf(p.params, t.Rows)
	if err != nil || i < 0 {
		return t, err
	}
	n := t.Rows[i].Number
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
