package web

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/muster-ci/muster"
)

// bar is one rectangle of a chart, in the chart's own units.
type bar struct {
	Class      string
	X, Y, W, H int
	Title      string
}

// chart is a drawing of barWidth × Height units; labels stand beside it as text,
// because the drawing is stretched to its place.
type chart struct {
	Height int
	Bars   []bar
	Top    string // the value at the top edge
	X      []tickMark
	Label  string // the chart in one sentence
}

// tickMark is a label along the bottom of a chart, at a percentage of its width.
type tickMark struct {
	Text   string
	At     string // in percent
	Anchor string // start, middle or end: labels at the edges stay inside
}

func markAt(text string, percent float64) tickMark {
	m := tickMark{Text: text, At: strconv.FormatFloat(percent, 'f', 2, 64), Anchor: "middle"}
	switch {
	case percent < 4:
		m.Anchor = "start"
	case percent > 96:
		m.Anchor = "end"
	}
	return m
}

// traffic is what the last hours were like.
type traffic struct {
	Throughput, QueueTime chart
	Jobs, Failed          int
	P50, P90              time.Duration // of the whole time
	HourJobs              int
	HourP50, HourP90      time.Duration
	Empty                 bool
}

const (
	trafficStep = 30 * time.Minute
	trafficSpan = 24 * time.Hour
)

// trafficOf sums the receipts of the last day in steps of half an hour.
func trafficOf(receipts []muster.Receipt, now time.Time) traffic {
	const n = int(trafficSpan / trafficStep)
	start := now.Truncate(trafficStep).Add(trafficStep - trafficSpan)
	var done, failed [n]int
	var waits [n][]time.Duration
	var all, hour []time.Duration
	t := traffic{Empty: true}
	for _, r := range receipts {
		i := int(r.CompletedAt.Sub(start) / trafficStep)
		if r.CompletedAt.Before(start) || i >= n {
			continue
		}
		t.Empty = false
		t.Jobs++
		done[i]++
		if tone(r.Conclusion) == "bad" {
			failed[i]++
			t.Failed++
		}
		if r.Runner == "" && r.Run == 0 {
			continue // never ran: its wait is not a queue time
		}
		waits[i] = append(waits[i], r.Queue)
		all = append(all, r.Queue)
		if now.Sub(r.CompletedAt) <= time.Hour {
			hour = append(hour, r.Queue)
		}
	}
	t.P50, t.P90 = percentile(all, 50), percentile(all, 90)
	t.HourJobs, t.HourP50, t.HourP90 = len(hour), percentile(hour, 50), percentile(hour, 90)
	t.Throughput = throughputChart(done[:], failed[:], start)
	t.Throughput.Label = fmt.Sprintf("%s in the last 24 hours, %d failed", plural(t.Jobs, "job", "jobs"), t.Failed)
	t.QueueTime = queueChart(waits[:], start)
	t.QueueTime.Label = fmt.Sprintf("Queue time in the last 24 hours: median %s, 90th percentile %s", formatDuration(t.P50), formatDuration(t.P90))
	return t
}

func throughputChart(done, failed []int, start time.Time) chart {
	const height = 100
	top := max(slices.Max(done), 1)
	c := chart{Height: height, Top: plural(top, "job", "jobs"), X: hours(start)}
	for i := range done {
		x, w := slot(i, len(done))
		h := height * done[i] / top
		if done[i] == 0 {
			c.Bars = append(c.Bars, bar{Class: "c-none", X: x, Y: height - 1, W: w, H: 1, Title: span(start, i) + ": no jobs"})
			continue
		}
		title := fmt.Sprintf("%s: %s, %d failed", span(start, i), plural(done[i], "job", "jobs"), failed[i])
		fh := height * failed[i] / top
		c.Bars = append(c.Bars, bar{Class: "c-done", X: x, Y: height - h, W: w, H: h - fh, Title: title})
		if fh > 0 {
			c.Bars = append(c.Bars, bar{Class: "c-failed", X: x, Y: height - fh, W: w, H: fh, Title: title})
		}
	}
	return c
}

// queueChart draws the 90th percentile of each step as a bar with the median in it.
func queueChart(waits [][]time.Duration, start time.Time) chart {
	const height = 100
	top := time.Second
	for _, w := range waits {
		top = max(top, percentile(w, 90))
	}
	c := chart{Height: height, Top: formatDuration(top), X: hours(start)}
	for i, ws := range waits {
		x, w := slot(i, len(waits))
		if len(ws) == 0 {
			c.Bars = append(c.Bars, bar{Class: "c-none", X: x, Y: height - 1, W: w, H: 1, Title: span(start, i) + ": no jobs"})
			continue
		}
		p50, p90 := percentile(ws, 50), percentile(ws, 90)
		title := fmt.Sprintf("%s: median %s, 90th percentile %s", span(start, i), formatDuration(p50), formatDuration(p90))
		h90, h50 := max(1, int(height*p90/top)), int(height*p50/top)
		c.Bars = append(c.Bars, bar{Class: "c-p90", X: x, Y: height - h90, W: w, H: h90 - h50, Title: title})
		if h50 > 0 {
			c.Bars = append(c.Bars, bar{Class: "c-p50", X: x, Y: height - h50, W: w, H: h50, Title: title})
		}
	}
	return c
}

// slot is the place of bar i of n, with a quarter of it left free.
func slot(i, n int) (x, w int) {
	x = barWidth * i / n
	next := barWidth * (i + 1) / n
	return x, max(1, (next-x)*3/4)
}

func span(start time.Time, i int) string {
	from := start.Add(time.Duration(i) * trafficStep).UTC()
	return from.Format("15:04") + "–" + from.Add(trafficStep).Format("15:04")
}

// hours are five times, each where its bar begins.
func hours(start time.Time) []tickMark {
	var out []tickMark
	for i := range 5 {
		out = append(out, markAt(start.UTC().Add(time.Duration(i)*trafficSpan/4).Format("15:04"), float64(25*i)))
	}
	return out
}

// costChart draws cost and waste per day of the time [since, until).
func costChart(rows []UsageRow, since, until time.Time) chart {
	const height = 160
	byDay := map[string]UsageRow{}
	for _, r := range rows {
		byDay[r.Key] = r
	}
	var days []time.Time
	for d := since.UTC().Truncate(24 * time.Hour); d.Before(until); d = d.Add(24 * time.Hour) {
		days = append(days, d)
	}
	var top, total, waste int64 = 1, 0, 0
	for _, d := range days {
		r := byDay[d.Format(time.DateOnly)]
		top = max(top, r.CostMicroUSD+r.WasteMicroUSD)
		total += r.CostMicroUSD
		waste += r.WasteMicroUSD
	}
	c := chart{Height: height, Top: formatMoney(top), X: dayLabels(days)}
	c.Label = fmt.Sprintf("Cost per day over %s: %s in all, of which %s waste", plural(len(days), "day", "days"), formatMoney(total+waste), formatMoney(waste))
	for i, d := range days {
		x, w := slot(i, len(days))
		r := byDay[d.Format(time.DateOnly)]
		title := fmt.Sprintf("%s: %s, %s cost, %s waste", d.Format("Mon 2 Jan"), plural(r.Jobs, "job", "jobs"), formatMoney(r.CostMicroUSD), formatMoney(r.WasteMicroUSD))
		h, wh := int(height*r.CostMicroUSD/top), int(height*r.WasteMicroUSD/top)
		if h+wh == 0 {
			c.Bars = append(c.Bars, bar{Class: "c-none", X: x, Y: height - 1, W: w, H: 1, Title: title})
			continue
		}
		c.Bars = append(c.Bars, bar{Class: "c-done", X: x, Y: height - h, W: w, H: h, Title: title})
		if wh > 0 {
			c.Bars = append(c.Bars, bar{Class: "c-waste", X: x, Y: height - h - wh, W: w, H: wh, Title: title})
		}
	}
	return c
}

// dayLabels name at most seven days, each under the middle of its bar.
func dayLabels(days []time.Time) []tickMark {
	n := min(7, len(days))
	var out []tickMark
	for i := range n {
		at := 0
		if n > 1 {
			at = i * (len(days) - 1) / (n - 1)
		}
		x, w := slot(at, len(days))
		out = append(out, markAt(days[at].Format("2 Jan"), float64(2*x+w)*50/barWidth))
	}
	return out
}

// capacity is how a pool's runners stand against its limits, as a bar from 0 to
// its maximum (or to the number there is, should that be more).
type capacity struct {
	Busy, Idle, Starting, Leaving int
	Min, Max                      int
	Queued, Running               int
	Bars                          []bar
	MinX, MaxX                    int // -1 when not drawn
}

// Live is how many runners there are.
func (c capacity) Live() int { return c.Busy + c.Idle + c.Starting + c.Leaving }

// Title says the bar in words.
func (c capacity) Title() string {
	return fmt.Sprintf("%d busy, %d idle, %d starting, %d leaving; at least %d, at most %d", c.Busy, c.Idle, c.Starting, c.Leaving, c.Min, c.Max)
}

func capacityOf(s muster.Snapshot) capacity {
	c := capacity{Min: s.Pool.Scaling.MinRunners, Max: s.Pool.Scaling.MaxRunners}
	if s.Pool.Keeps() { // it has a machine and no size
		c.Min, c.Max = 0, 0
	}
	for _, j := range s.Jobs {
		switch j.State {
		case muster.JobQueued:
			c.Queued++
		case muster.JobInProgress:
			c.Running++
		}
	}
	for _, r := range s.Runners {
		switch {
		case r.State == muster.RunnerDraining:
			c.Leaving++
		case r.Busy || r.State == muster.RunnerActive:
			c.Busy++
		case r.State == muster.RunnerRegistered:
			c.Idle++
		default:
			c.Starting++
		}
	}
	c.lay()
	return c
}

// lay makes the bar of the numbers.
func (c *capacity) lay() {
	c.MinX, c.MaxX, c.Bars = -1, -1, nil
	whole := max(c.Max, c.Live(), 1)
	x := 0
	for _, p := range []struct {
		class string
		n     int
	}{{"k-busy", c.Busy}, {"k-idle", c.Idle}, {"k-starting", c.Starting}, {"k-leaving", c.Leaving}} {
		if p.n == 0 {
			continue
		}
		w := barWidth * p.n / whole
		c.Bars = append(c.Bars, bar{Class: p.class, X: x, W: w})
		x += w
	}
	if c.Min > 0 {
		c.MinX = barWidth * c.Min / whole
	}
	if c.Max < whole {
		c.MaxX = barWidth * c.Max / whole
	}
}
