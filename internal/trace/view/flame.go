package view

import "slices"

// flame is the frames while they are made.
type flame struct {
	nodes []Frame // totals are made by frames
	depth []int32
	index map[frameKey]int32
}

type frameKey struct {
	parent int32 // -1-step of a step's own frame
	name   string
}

// frame is where a process stands under a name: below its parent's current program if
// both began in the same step, else below its step.
func (b *Builder) frame(p *proc, name string) int32 {
	parent := b.flame.child(-1-int32(p.Step), "", p.Step)
	if q := p.parent; q != nil && !q.Unseen && q.Step == p.Step {
		parent = q.frame
	}
	return b.flame.child(parent, name, p.Step)
}

// child finds or makes a frame. Beyond the limits it is the parent itself.
func (f *flame) child(parent int32, name string, step int) int32 {
	key := frameKey{parent, name}
	if i, ok := f.index[key]; ok {
		return i
	}
	depth := int32(0)
	if parent >= 0 {
		depth = f.depth[parent] + 1
		if depth > maxDepth || len(f.nodes) >= maxFrames+maxSteps {
			return parent
		}
	}
	if f.index == nil {
		f.index = make(map[frameKey]int32)
	}
	i := int32(len(f.nodes))
	f.index[key] = i
	f.depth = append(f.depth, depth)
	f.nodes = append(f.nodes, Frame{Parent: int(max(parent, -1)), Name: name, Step: step})
	return i
}

func (f *flame) add(i int32, wall, cpu int64) {
	n := &f.nodes[i]
	n.Count++
	n.SelfWallUS += max(0, wall)
	n.SelfCPUUS += cpu
}

// frames are the frames with their totals, the processes that have not ended included.
func (b *Builder) frames() []Frame {
	f := flame{nodes: slices.Clone(b.flame.nodes)}
	for _, p := range b.procs.all {
		if p.exited || p.Unseen {
			continue
		}
		covered := p.covered
		if p.liveKids > 0 {
			covered += max(0, b.last.Sub(p.coverAt).Microseconds())
		}
		f.add(p.frame, b.last.Sub(p.StartedAt).Microseconds()-covered, 0)
	}
	for i := len(f.nodes) - 1; i >= 0; i-- { // children come after their parents
		n := &f.nodes[i]
		n.TotalWallUS += n.SelfWallUS
		n.TotalCPUUS += n.SelfCPUUS
		if n.Parent >= 0 {
			f.nodes[n.Parent].TotalWallUS += n.TotalWallUS
			f.nodes[n.Parent].TotalCPUUS += n.TotalCPUUS
		} else if s := b.steps[n.Step]; n.Step > 0 && s != nil {
			n.Name = s.name
		} else {
			n.Name = "Outside of steps"
		}
	}
	return f.nodes
}
