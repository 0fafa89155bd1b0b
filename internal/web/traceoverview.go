package web

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/muster-ci/muster/internal/trace/view"
)

// overviewTab is the first page of a trace.
type overviewTab struct {
	Types     []typeRow
	Notable   []notableRow
	More      int64 // notable events that are not shown
	Refusals  []refusalRow
	Programs  []topRow
	Hosts     []topRow
	Writers   []topRow
	Sensitive []sensitiveRow
	Steps     []timelineRow
}

// typeRow is one type of events and how many there are.
type typeRow struct {
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
	More int // others that the same process did right after it
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
	o := overviewTab{More: v.HiddenNotable, Steps: timelineOfSteps(p)}
	for _, n := range v.Notable {
		if last := len(o.Notable) - 1; last >= 0 && alike(o.Notable[last].Notable, n) {
			o.Notable[last].More++
			continue
		}
		if len(o.Notable) == most {
			o.More += int64(len(v.Notable))
			for _, r := range o.Notable {
				o.More -= int64(1 + r.More)
			}
			break
		}
		o.Notable = append(o.Notable, notableRow{Notable: n, Say: clip(maxShown, n.Text), Link: p.processLink(n.Process)})
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
		o.Types = append(o.Types, typeRow{string(t), n, sliver(n, most64)})
	}
	slices.SortStableFunc(o.Types, func(a, b typeRow) int { return cmp.Compare(b.N, a.N) })
	return o, nil
}

// alike reports whether two rare events are of one kind, process and step.
func alike(a, b view.Notable) bool {
	return a.Type == b.Type && a.PID == b.PID && a.Process == b.Process && a.Step == b.Step
}

// sliver is how wide a bar of n is beside one of most: at least enough to be seen.
func sliver(n, most int64) int {
	if n <= 0 || most <= 0 {
		return 0
	}
	return max(6, int(barWidth*(float64(n)/float64(most))))
}

func sayUS(us int64) string { return formatTook(time.Duration(us) * time.Microsecond) }

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
