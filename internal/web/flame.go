package web

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/muster-ci/muster/internal/trace/view"
)

// flame is a forest of commands as nested bars: each as wide as what it and all below it
// used.
type flame struct {
	Width, Height int
	Bars          []flameBar
	Label         string
	// Thin is how many bars were too thin to draw.
	Thin int
	// Zoomed is the bar that fills the width, -1 if all of the job does. About says how much
	// it is, and Name is what its processes are looked for by, "" for a step.
	Zoomed int
	About  string
	Name   string
	// Found says how much a search found, "" without one.
	Found string
}

// flameBar is one bar.
type flameBar struct {
	X, Y, W, H   int
	TextX, TextY int
	Text         string // as much of the name as fits
	Title        string
	Class        string
	Link         string
}

const (
	flameWidth = 1200
	flameRow   = 20
	flameDeep  = 48
	// flameThin is the least width that is drawn, flameLetter that of a character.
	flameThin   = 2
	flameLetter = 7
	flameMost   = 3000
)

// flameDrawing says what is drawn and where bars lead to.
type flameDrawing struct {
	frames []view.Frame
	cpu    bool             // CPU time; otherwise the time for which processes existed
	link   func(int) string // the address of the drawing zoomed to a frame, -1 for all
	below  [][]int          // children of each frame; those of none are at the end
	sum    []int64          // of a frame and all below it
	search string           // what is looked for, in lower case; "" for nothing
}

func newFlame(frames []view.Frame, cpu bool, link func(int) string) *flameDrawing {
	d := &flameDrawing{frames: frames, cpu: cpu, link: link, below: make([][]int, len(frames)+1), sum: make([]int64, len(frames)+1)}
	for i, f := range frames {
		if f.Parent < 0 || f.Parent >= i { // parents come first
			f.Parent = len(frames)
		}
		d.below[f.Parent] = append(d.below[f.Parent], i)
	}
	for i := len(frames) - 1; i >= 0; i-- {
		d.sum[i] += d.own(i)
		for _, c := range d.below[i] {
			d.sum[i] += d.sum[c]
		}
	}
	for _, c := range d.below[len(frames)] {
		d.sum[len(frames)] += d.sum[c]
	}
	return d
}

func (d *flameDrawing) own(i int) int64 {
	if d.cpu {
		return max(d.frames[i].SelfCPUUS, 0)
	}
	return max(d.frames[i].SelfWallUS, 0)
}

// draw lays out the frame zoom over the whole width, with those that it is in above it;
// -1 draws all.
func (d *flameDrawing) draw(zoom int) flame {
	top := len(d.frames)
	if zoom < 0 || zoom >= top {
		zoom = -1
	}
	f := flame{Width: flameWidth, Zoomed: zoom}
	if d.search != "" {
		f.Found = d.found()
	}
	if zoom >= 0 {
		f.About = d.title(zoom)
		if d.frames[zoom].Parent >= 0 {
			f.Name = d.frames[zoom].Name
		}
	}
	depth, at := 0, top
	if zoom >= 0 {
		at = zoom
		var above []int
		for i := d.frames[zoom].Parent; i >= 0 && i < top && len(above) < flameDeep; i = d.frames[i].Parent {
			above = append(above, i)
		}
		f.add(d.bar(top, 0, 0, flameWidth), true)
		slices.Reverse(above)
		for _, i := range above {
			depth++
			f.add(d.bar(i, depth, 0, flameWidth), true)
		}
		depth++
	}
	type place struct {
		i, depth int
		from, to float64
	}
	whole := float64(max(d.sum[at], 1))
	work := []place{{at, depth, 0, flameWidth}}
	for len(work) > 0 {
		p := work[0]
		work = work[1:]
		if p.to-p.from < flameThin || p.depth >= depth+flameDeep || len(f.Bars) >= flameMost {
			f.Thin++
			continue
		}
		f.add(d.bar(p.i, p.depth, int(p.from), int(p.to)-int(p.from)), false)
		x := p.from
		for _, c := range d.widest(p.i) {
			w := flameWidth * float64(d.sum[c]) / whole
			work = append(work, place{c, p.depth + 1, x, x + w})
			x += w
		}
	}
	f.Label = fmt.Sprintf("%s by command, each within the one that started it: %s in all, %s drawn", d.measure(), d.amount(d.sum[at]), plural(len(f.Bars), "bar", "bars"))
	return f
}

// widest are the children of a frame, the widest first; steps stay in their order.
func (d *flameDrawing) widest(i int) []int {
	if i == len(d.frames) {
		return d.below[i]
	}
	return slices.SortedStableFunc(slices.Values(d.below[i]), func(a, b int) int { return int(min(max(d.sum[b]-d.sum[a], -1), 1)) })
}

// hit reports whether a search finds a frame. Steps are not looked for.
func (d *flameDrawing) hit(i int) bool {
	return i < len(d.frames) && d.frames[i].Parent >= 0 && strings.Contains(strings.ToLower(d.frames[i].Name), d.search)
}

// found says how much of the job is of the frames that a search finds. What is within
// another that it finds counts once.
func (d *flameDrawing) found() string {
	var bars int
	var processes, sum int64
	within := make([]bool, len(d.frames))
	for i, f := range d.frames {
		inside := f.Parent >= 0 && f.Parent < i && within[f.Parent]
		hit := d.hit(i)
		within[i] = inside || hit
		if hit {
			bars, processes = bars+1, processes+f.Count
			if !inside {
				sum += d.sum[i]
			}
		}
	}
	if bars == 0 {
		return "is in no bar"
	}
	return fmt.Sprintf("is in %s of %s: %s, %s of all", plural(bars, "bar", "bars"), plural(int(processes), "process", "processes"), d.amount(sum), formatPercent(float64(sum), float64(d.sum[len(d.frames)])))
}

func (d *flameDrawing) measure() string {
	if d.cpu {
		return "CPU time"
	}
	return "Time of processes"
}

func (d *flameDrawing) amount(us int64) string {
	return sayUS(us)
}

func (f *flame) add(b flameBar, above bool) {
	if above {
		b.Class += " f-above"
	}
	f.Bars = append(f.Bars, b)
	f.Height = max(f.Height, b.Y+b.H+1)
}

func (d *flameDrawing) bar(i, depth, x, w int) flameBar {
	b := flameBar{X: x, Y: depth * flameRow, W: max(w-1, 1), H: flameRow - 2, TextX: x + 5, TextY: depth*flameRow + 13}
	name, count := "job", int64(1)
	if i < len(d.frames) {
		name, count = d.frames[i].Name, d.frames[i].Count
		b.Class, b.Link = flameClass(name), d.link(i)
		if d.frames[i].Parent < 0 {
			b.Class = "f-step"
		}
	} else {
		b.Class, b.Link = "f-step", d.link(-1)
	}
	if d.search != "" && i < len(d.frames) && !d.hit(i) {
		b.Class += " f-miss"
	}
	text := name
	if count > 1 {
		text = fmt.Sprintf("%s ×%s", name, formatNumber(count))
	}
	if room := (w - 8) / flameLetter; room >= 3 {
		b.Text = clip(room, text).Text
	}
	b.Title = d.title(i)
	return b
}

// title says of a frame what it used; of the number after the last, what all did.
func (d *flameDrawing) title(i int) string {
	text, self := "job", int64(0)
	if i < len(d.frames) {
		text, self = d.frames[i].Name, d.own(i)
		if n := d.frames[i].Count; n > 1 {
			text = fmt.Sprintf("%s ×%s", text, formatNumber(n))
		}
	}
	s := fmt.Sprintf("%s: %s, %s of all", clip(maxShown, text).Text, d.amount(d.sum[i]), formatPercent(float64(d.sum[i]), float64(d.sum[len(d.frames)])))
	if self > 0 && self < d.sum[i] {
		s += fmt.Sprintf("; %s of it by itself", d.amount(self))
	}
	return s
}

// flameClass gives every name one of a few colours, the same on each page.
func flameClass(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return fmt.Sprintf("f-%d", h.Sum32()%6)
}
