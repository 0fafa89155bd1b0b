package detect

import (
	"strconv"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// sequences are the unfinished sequences of one rule, the oldest first.
type sequences struct {
	open []*partial
	byID map[partialID]*partial
	done map[partialID]bool
	// at counts the open ones by how far they are, so that an event that nobody waits
	// for costs nothing.
	at []int
}

// partial is a sequence that has come as far as stage.
type partial struct {
	id    partialID
	stage int // stages that have matched
	first time.Time
	node  *node
	seqs  []uint64
	kept  []map[string]string
	gone  bool
}

// partialID is what makes two beginnings the same.
type partialID struct {
	by   string
	proc trace.Process // of a tree
}

// sequence offers the event to a rule's stages, the last first, so that one event is
// never two stages of one sequence.
func (x *run) sequence(c *compiled) {
	q := x.sequences[c]
	if q == nil {
		q = &sequences{byID: map[partialID]*partial{}, done: map[partialID]bool{}, at: make([]int, len(c.stages))}
		x.sequences[c] = q
	}
	for i := len(c.stages) - 1; i > 0; i-- {
		if q.at[i] > 0 && c.stages[i].takes(x) {
			x.advance(c, q, i)
		}
	}
	if c.stages[0].takes(x) && !x.excepted(c) {
		x.begin(c, q)
	}
}

func (s *stage) takes(x *run) bool {
	for _, t := range s.on {
		if t == x.scene.e.Type {
			return s.when.yes(&x.scene)
		}
	}
	return false
}

func (x *run) begin(c *compiled, q *sequences) {
	id := partialID{by: c.stages[0].by.fill(&x.scene, nil)}
	if c.stages[1].tree {
		id.proc = x.scene.e.Process()
	}
	if old := q.byID[id]; old != nil && !old.gone && within(old.first, x.scene.e.Timestamp, c.Within) {
		if old.stage == 1 { // the later beginning gives the longer time
			old.first, old.node, old.seqs, old.kept = x.scene.e.Timestamp, x.scene.node, []uint64{x.scene.e.Seq}, x.keep(c, 0, nil)
		}
		return
	}
	p := &partial{id: id, stage: 1, first: x.scene.e.Timestamp, node: x.scene.node, seqs: []uint64{x.scene.e.Seq}, kept: x.keep(c, 0, nil)}
	if old := q.byID[id]; old != nil {
		q.drop(old)
	}
	q.byID[id] = p
	q.open = append(q.open, p)
	q.at[1]++
	q.bound()
}

// keep adds to kept what titles will ask about this stage.
func (x *run) keep(c *compiled, stage int, kept []map[string]string) []map[string]string {
	values := map[string]string{}
	for _, name := range c.keeps[stage] {
		values[name] = x.scene.text(name)
	}
	return append(kept[:len(kept):len(kept)], values)
}

// advance takes every open sequence that waits for stage i and goes with the event.
func (x *run) advance(c *compiled, q *sequences, i int) {
	by := c.stages[i].by.fill(&x.scene, nil)
	for _, p := range q.waiting(c, i, by, x.scene.node) {
		if p.gone || p.stage != i || !within(p.first, x.scene.e.Timestamp, c.Within) {
			continue
		}
		if by != "" && p.id.by != "" && by != p.id.by {
			continue
		}
		if c.stages[i].tree && !x.scene.node.within(p.node) {
			continue
		}
		if c.stages[i].beside && !overlap(p.node, x.scene.node) {
			continue
		}
		if x.excepted(c) {
			return
		}
		if i == len(c.stages)-1 {
			x.fire(c, p.kept, p.seqs)
			q.drop(p)
			continue
		}
		q.at[p.stage]--
		p.stage++
		q.at[p.stage]++
		p.seqs = append(p.seqs, x.scene.e.Seq)
		p.kept = x.keep(c, i, p.kept)
		if c.stages[i].tree {
			p.node = x.scene.node
		}
	}
}

// waiting finds the sequences that may go with an event: by their key if there is one,
// by the processes above in a tree, and otherwise all.
func (q *sequences) waiting(c *compiled, i int, by string, n *node) []*partial {
	keyed := by != "" || len(c.stages[0].by.parts) == 0
	if !keyed || c.stages[1].tree && !c.stages[i].tree {
		return q.open
	}
	if !c.stages[1].tree {
		if p := q.byID[partialID{by: by}]; p != nil {
			return []*partial{p}
		}
		return nil
	}
	var out []*partial
	for d := 0; n != nil && d <= maxDepth; n, d = n.parent, d+1 {
		if p := q.byID[partialID{by, n.key}]; p != nil && (len(out) == 0 || out[len(out)-1] != p) {
			out = append(out, p)
		}
	}
	return out
}

func (q *sequences) drop(p *partial) {
	if p.gone {
		return
	}
	p.gone = true
	q.at[p.stage]--
	if q.byID[p.id] == p {
		delete(q.byID, p.id)
	}
}

// bound lets the oldest go when there are too many, and forgets what is done.
func (q *sequences) bound() {
	if len(q.open) <= maxOpen {
		return
	}
	kept := q.open[:0]
	for _, p := range q.open {
		if !p.gone {
			kept = append(kept, p)
		}
	}
	q.open = kept
	for len(q.open) > maxOpen*3/4 {
		q.drop(q.open[0])
		q.open = q.open[1:]
	}
}

// groups are the counts of one rule.
type groups struct {
	byKey map[string]*tally
	order []string
}

// tally holds the different values that came under one key, with when each came last.
type tally struct {
	seen map[string]time.Time
	seqs []uint64
	full bool
	n    int
}

func (x *run) group(c *compiled) {
	g := x.groups[c]
	if g == nil {
		g = &groups{byKey: map[string]*tally{}}
		x.groups[c] = g
	}
	key := c.by.fill(&x.scene, nil)
	t := g.byKey[key]
	if t == nil {
		if len(g.order) >= maxOpen {
			delete(g.byKey, g.order[0])
			g.order = g.order[1:]
		}
		t = &tally{seen: map[string]time.Time{}}
		g.byKey[key], g.order = t, append(g.order, key)
	}
	if t.full || t.add(c, x) {
		x.fire(c, nil, t.seqs)
		t.seqs = nil
	}
}

// add reports whether the group is full with this event.
func (t *tally) add(c *compiled, x *run) bool {
	value := ""
	if len(c.distinct.parts) > 0 {
		value = c.distinct.fill(&x.scene, nil)
	} else {
		t.n++
		value = strconv.Itoa(t.n) // every event is one of its own
	}
	if _, again := t.seen[value]; !again && len(t.seqs) < maxSeqs {
		t.seqs = append(t.seqs, x.scene.e.Seq)
	}
	t.seen[value] = x.scene.e.Timestamp
	if len(t.seen) < c.Group.Over {
		return false
	}
	for v, at := range t.seen {
		if !within(at, x.scene.e.Timestamp, c.Within) {
			delete(t.seen, v)
		}
	}
	t.full = len(t.seen) >= c.Group.Over
	if t.full {
		t.seen = nil
	}
	return t.full
}
