package web

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// graph is a drawing of nodes in columns with lines from each column to the next. It is
// laid out here, so that a browser only draws.
type graph struct {
	Width, Height int
	Nodes         []graphNode
	Lines         []graphLine
	Heads         []graphHead
	// Label is the drawing in one sentence.
	Label string
	// Dense: there are so many lines that each is drawn lightly.
	Dense bool
}

// graphNode is one box. Column counts from 0; the other numbers are of the layout.
type graphNode struct {
	Key    string // unique within its column
	Column int
	Group  string // nodes of one group stand together, in the order in which groups came
	Fixed  bool   // stands in the order in which it came
	Last   bool   // stands at the end of its group
	Label  clipped
	Title  string // what is told about it: its text, then one line per fact
	Class  string
	Link   string // "" for none
	// Weight is how much goes through it.
	Weight int64

	X, Y, W, H int
	TextX      int
	TextY      int
	order      float64
}

// graphLine joins two nodes of neighbouring columns. Path is SVG's.
type graphLine struct {
	From, To int // indices of nodes
	Count    int64
	Class    string
	Title    string

	Path  string
	Width string
}

// graphHead is the heading of a column.
type graphHead struct {
	Text   string
	X      int
	Anchor string
}

const (
	graphRow   = 24 // from one node to the next
	graphBox   = 19 // height of a node
	graphGap   = 12 // between groups
	graphHeadH = 26
	// denseLines is how many lines can be told apart when all are drawn strongly.
	denseLines = 90
)

// graphColumn is where a column stands and how wide its nodes are.
type graphColumn struct {
	X, W int
	Head string
}

// lay orders the nodes so that few lines cross, and gives everything its place.
func (g *graph) lay(columns []graphColumn) {
	g.sortColumns(len(columns))
	heights := make([]int, len(columns))
	last := make([]int, len(columns))
	for i := range last {
		last[i], heights[i] = -1, graphHeadH
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		c := n.Column
		if last[c] >= 0 && g.Nodes[last[c]].Group != n.Group {
			heights[c] += graphGap
		}
		last[c] = i
		n.X, n.W, n.H, n.Y = columns[c].X, columns[c].W, graphBox, heights[c]
		heights[c] += graphRow
		g.Width = max(g.Width, n.X+n.W+1)
	}
	g.Height = max(slices.Max(heights), 60)
	g.spread(heights)
	for _, c := range columns {
		g.Heads = append(g.Heads, graphHead{Text: c.Head, X: c.X + 1})
		g.Width = max(g.Width, c.X+c.W+1)
	}
	// What was refused lies above the rest.
	slices.SortStableFunc(g.Lines, func(a, b graphLine) int { return cmp.Compare(btoi(a.Class != "e-fine"), btoi(b.Class != "e-fine")) })
	thickest := 3.4
	if g.Dense = len(g.Lines) > denseLines; g.Dense {
		thickest = 1.2
	}
	most := int64(1)
	for _, l := range g.Lines {
		most = max(most, l.Count)
	}
	for i := range g.Lines {
		g.Lines[i].draw(g.Nodes[g.Lines[i].From], g.Nodes[g.Lines[i].To], most, thickest)
	}
}

// spread moves the nodes of columns that are shorter than the drawing apart and to its
// middle.
func (g *graph) spread(heights []int) {
	count, at := make([]int, len(heights)), make([]int, len(heights))
	for _, n := range g.Nodes {
		count[n.Column]++
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		c := n.Column
		free := g.Height - heights[c]
		apart := min(free/max(count[c], 1), graphRow)
		n.Y += (free-apart*count[c])/2 + apart/2 + apart*at[c]
		n.TextX, n.TextY = n.X+8, n.Y+13
		at[c]++
	}
}

// draw bends the line from the right edge of one node to the left edge of another.
func (l *graphLine) draw(from, to graphNode, most int64, thickest float64) {
	x1, y1, x2, y2 := from.X+from.W, from.Y+from.H/2, to.X, to.Y+to.H/2
	mid := (x1 + x2) / 2
	l.Path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, mid, y1, mid, y2, x2, y2)
	l.Width = fmt.Sprintf("%.1f", 1.2+thickest*math.Log1p(float64(l.Count))/math.Log1p(float64(max(most, 8))))
}

// sortColumns puts every node near the middle of those that it is joined with, column by
// column, twice to the right and once back. Nodes of a group stay together.
func (g *graph) sortColumns(columns int) {
	groups := map[string]int{}
	for i := range g.Nodes {
		if _, ok := groups[g.Nodes[i].Group]; !ok {
			groups[g.Nodes[i].Group] = len(groups)
		}
		g.Nodes[i].order = float64(i)
	}
	g.rank(columns, groups, nil)
	for pass := range 3 {
		right := pass%2 == 0
		sum, n := make([]float64, len(g.Nodes)), make([]float64, len(g.Nodes))
		for _, l := range g.Lines {
			at, by := l.To, l.From
			if !right {
				at, by = l.From, l.To
			}
			sum[at] += g.Nodes[by].order
			n[at]++
		}
		g.rank(columns, groups, func(i int) (float64, bool) { return sum[i] / max(n[i], 1), n[i] > 0 })
	}
	index := make([]int, len(g.Nodes))
	for i := range index {
		index[i] = i
	}
	slices.SortStableFunc(index, func(a, b int) int {
		return cmp.Or(cmp.Compare(g.Nodes[a].Column, g.Nodes[b].Column), cmp.Compare(g.Nodes[a].order, g.Nodes[b].order))
	})
	sorted, place := make([]graphNode, len(g.Nodes)), make([]int, len(g.Nodes))
	for to, from := range index {
		sorted[to], place[from] = g.Nodes[from], to
	}
	g.Nodes = sorted
	for i := range g.Lines {
		g.Lines[i].From, g.Lines[i].To = place[g.Lines[i].From], place[g.Lines[i].To]
	}
}

// rank numbers the nodes of each column from 0 to 1, by group and then by what want says.
func (g *graph) rank(columns int, groups map[string]int, want func(int) (float64, bool)) {
	for c := range columns {
		var in []int
		for i, n := range g.Nodes {
			if n.Column == c {
				in = append(in, i)
			}
		}
		key := func(i int) float64 {
			if want != nil && !g.Nodes[i].Fixed {
				if v, ok := want(i); ok {
					return v
				}
			}
			return g.Nodes[i].order
		}
		slices.SortStableFunc(in, func(a, b int) int {
			return cmp.Or(cmp.Compare(groups[g.Nodes[a].Group], groups[g.Nodes[b].Group]), cmp.Compare(btoi(g.Nodes[a].Last), btoi(g.Nodes[b].Last)), cmp.Compare(key(a), key(b)))
		})
		for at, i := range in {
			g.Nodes[i].order = float64(at) / float64(max(len(in)-1, 1))
		}
	}
}
