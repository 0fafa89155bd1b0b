package web

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// diffTab is this trace against another of the same job.
type diffTab struct {
	TraceDiff
	Problem  string // why there is nothing to compare with
	Other    traceSummary
	Choices  []diffChoice
	Hosts    []diffHost
	Programs []diffProgram
	Secrets  []sensitiveRow
	Notables []notableRow
	Gone     []diffGone
	Steps    []diffStep
	Whole    diffStep
}

// diffChoice is a trace that may be compared with.
type diffChoice struct {
	Value, Label string
	Current      bool
}

type diffHost struct {
	view.Host
	Name, Programs clipped
	Class          string
	Link           string
}

type diffProgram struct {
	view.Program
	Show clipped
	Link string
}

// diffGone is what the other trace had and this one has not.
type diffGone struct {
	What  string
	Names []clipped
	More  int
}

// diffStep is a step then and now, with bars on one scale.
type diffStep struct {
	view.StepDiff
	Title       clipped
	Now, Before time.Duration
	WNow, WThen int
	Delta       time.Duration
	Words       string
}

// Slower reports whether it took longer by more than noise.
func (d diffStep) Slower() bool { return slices.Contains(d.Why, "duration") && d.Delta > 0 }

// maxChoices is how many traces may be chosen from.
const maxChoices = 30

func (s *site) traceDiff(r *http.Request, p *tracePage) (any, error) {
	ctx := r.Context()
	var t diffTab
	var against muster.TraceID
	if name := p.params.Get("against"); name != "" {
		var err error
		if against, err = muster.ParseTraceID(name); err != nil {
			return nil, err
		}
	}
	if b := p.Baseline(); b != "" {
		list, err := s.Traces.Traces(ctx, TraceQuery{Baseline: b, States: []muster.TraceState{muster.TraceComplete, muster.TraceTruncated}, Limit: maxChoices})
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			if o.ID != p.ID {
				label := o.StartedAt.UTC().Format("2 Jan 15:04") + " · " + visible(cmp.Or(strings.TrimPrefix(o.Ref, "refs/heads/"), short(o.SHA)), 40)
				if took := o.EndedAt.Sub(o.StartedAt); took > 0 {
					label += " · " + formatTook(took)
				}
				t.Choices = append(t.Choices, diffChoice{o.ID.String(), label, o.ID == against})
			}
		}
	}
	var err error
	t.TraceDiff, err = s.Traces.TraceDiff(ctx, p.ID, against)
	switch muster.CodeOf(err) {
	case muster.CodeNotFound, muster.CodeGone, muster.CodeUnavailable, muster.CodeConflict:
		t.Problem = sentence(visible(muster.MessageOf(err), 400))
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	t.Other = summaryOf(t.Against)
	for i := range t.Choices {
		t.Choices[i].Current = t.Choices[i].Value == t.Against.ID.String()
	}
	p.diffRows(&t)
	return t, nil
}

func (p *tracePage) diffRows(t *diffTab) {
	for _, h := range t.NewHosts {
		t.Hosts = append(t.Hosts, diffHost{h, clip(90, h.Host), clip(80, strings.Join(h.Programs, ", ")), categoryClasses[h.Category], p.With("network", "host", h.Host)})
	}
	for _, x := range t.NewPrograms {
		t.Programs = append(t.Programs, diffProgram{x, clipPath(90, cmp.Or(x.Example, x.Path)), p.With("execution", "q", cmp.Or(x.Example, x.Path))})
	}
	for _, f := range t.NewSensitive {
		t.Secrets = append(t.Secrets, sensitiveRow{f, clipPath(80, f.Path)})
	}
	for _, n := range t.NewNotable {
		t.Notables = append(t.Notables, notableRow{Notable: n, Say: clip(maxShown, n.Text), Link: p.processLink(n.Process)})
	}
	for _, g := range []struct {
		what  string
		names []string
	}{{"Destinations", t.GoneHosts}, {"Programs", t.GonePrograms}, {"Files with secrets", t.GoneSensitive}} {
		if len(g.names) == 0 {
			continue
		}
		const most = 12
		out := diffGone{What: g.what, More: max(0, len(g.names)-most)}
		for _, n := range g.names[:min(most, len(g.names))] {
			out.Names = append(out.Names, clipPath(60, n))
		}
		t.Gone = append(t.Gone, out)
	}
	longest := max(t.Total.DurationUS, t.Total.BeforeDurationUS)
	for _, st := range t.Diff.Steps {
		longest = max(longest, st.DurationUS, st.BeforeDurationUS)
	}
	for _, st := range t.Diff.Steps {
		t.Steps = append(t.Steps, diffStepOf(st, longest))
	}
	t.Whole = diffStepOf(t.Total, longest)
	t.Whole.Title = clipped{Text: "The whole job"}
}

func diffStepOf(st view.StepDiff, longest int64) diffStep {
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	return diffStep{StepDiff: st, Title: clip(70, st.Name), Now: us(st.DurationUS), Before: us(st.BeforeDurationUS), Delta: us(st.DurationUS - st.BeforeDurationUS),
		WNow: sliver(st.DurationUS, longest), WThen: sliver(st.BeforeDurationUS, longest), Words: strings.Join(st.Why, ", ")}
}
