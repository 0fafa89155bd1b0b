package web

import (
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// phases is where one job's time went, from its creation on GitHub to its end
// or to now. The four phases do not overlap: queue is the wait before a runner
// was made, boot from there until it listened, idle from there until the job
// started. A runner made before the job spends only the job's own time.
type phases struct {
	Segments []segment
	Total    time.Duration
	// Open is true while the job has not ended.
	Open bool
}

// segment is one phase. X and W are its place in a bar of barWidth units.
type segment struct {
	Kind string // queue, boot, idle, run
	D    time.Duration
	X, W int
	Open bool
}

// barWidth is the width of every bar in units of its own.
const barWidth = 1000

// Labels of the phases, in the order of a job's life.
var phaseKinds = []struct{ Kind, Label, Hint string }{
	{"queue", "queue", "waiting before a runner was made"},
	{"boot", "boot", "from the decision to a listening runner"},
	{"idle", "idle", "runner listening, GitHub had not assigned the job yet"},
	{"run", "run", "the job itself"},
}

// phasesOf splits a job's time. r is the runner that took it, zero if none did.
func phasesOf(j muster.Job, r muster.Runner, now time.Time) phases {
	start := j.CreatedAt
	if start.IsZero() {
		start = j.SeenAt
	}
	end := now
	if !j.CompletedAt.IsZero() {
		end = j.CompletedAt
	}
	started := end
	if j.RanOnRunner() {
		started = j.StartedAt
	}
	started = later(start, started)
	end = later(started, end)
	made, listening := started, started
	if r.ID != "" {
		made = between(start, r.CreatedAt, started)
		if !r.ListeningAt.IsZero() {
			listening = between(made, r.ListeningAt, started)
		}
	}
	p := phases{Total: end.Sub(start), Open: j.CompletedAt.IsZero()}
	cuts := []time.Time{start, made, listening, started, end}
	for i, k := range phaseKinds {
		if d := cuts[i+1].Sub(cuts[i]); d > 0 {
			p.Segments = append(p.Segments, segment{Kind: k.Kind, D: d})
		}
	}
	p.lay()
	return p
}

// lay gives every segment its place, at least a sliver.
func (p *phases) lay() {
	const sliver = 8
	spare := barWidth - sliver*len(p.Segments)
	x := 0
	for i := range p.Segments {
		s := &p.Segments[i]
		s.X, s.W = x, sliver+int(float64(spare)*float64(s.D)/float64(p.Total))
		x += s.W
	}
	if n := len(p.Segments); n > 0 {
		p.Segments[n-1].W = barWidth - p.Segments[n-1].X
		p.Segments[n-1].Open = p.Open
	}
}

// Title says the phases in words, for pointers and for readers of the screen.
func (p phases) Title() string {
	var parts []string
	for _, s := range p.Segments {
		parts = append(parts, s.Kind+" "+formatDuration(s.D))
	}
	if len(parts) == 0 {
		return "no time yet"
	}
	return fmt.Sprintf("%s (%s in all)", strings.Join(parts, ", "), formatDuration(p.Total))
}

// Of is the share of the segment in the whole, as a percentage in words.
func (p phases) Of(s segment) string { return formatPercent(float64(s.D), float64(p.Total)) }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func between(lo, t, hi time.Time) time.Time {
	if t.After(hi) {
		return hi
	}
	return later(lo, t)
}
