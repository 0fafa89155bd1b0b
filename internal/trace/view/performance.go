package view

import "maps"

// shortLife is the life, in µs, below which a process counts as short.
const shortLife = 10_000

func (b *Builder) perform(v *Views) {
	whole := b.last.Sub(b.first).Microseconds()
	all := StepPerformance{Name: "Whole job", WallUS: whole}
	for _, listed := range v.Steps {
		s := b.steps[listed.Number]
		p := StepPerformance{
			Number: listed.Number, Name: listed.Name, WallUS: listed.DurationUS, CPUUS: s.CPUUS, MaxProcesses: s.most,
			ReadBytes: s.ReadBytes, WrittenBytes: s.WrittenBytes, FileBytes: s.Bytes, Connections: s.Connections,
			Processes: s.Processes, Short: s.short, ShortUS: s.shortUS,
		}
		p.tops(s.programs)
		p.ratios(whole)
		v.Performance.Steps = append(v.Performance.Steps, p)
		all.Short += p.Short
		all.ShortUS += p.ShortUS
	}
	c := &b.total.Counts
	all.CPUUS, all.ReadBytes, all.WrittenBytes, all.FileBytes = c.CPUUS, c.ReadBytes, c.WrittenBytes, c.Bytes
	all.Connections, all.Processes, all.MaxProcesses = c.Connections, c.Processes, b.procs.most
	all.tops(b.programTotals())
	all.ratios(whole)
	v.Performance.Total = all
}

func (p *StepPerformance) tops(programs map[string]*Top) {
	p.ByCPU = greatest(maps.Values(programs), 8, func(t *Top) int64 { return t.CPUUS })
	p.ByWall = greatest(maps.Values(programs), 8, func(t *Top) int64 { return t.WallUS })
	p.ByIO = greatest(maps.Values(programs), 8, func(t *Top) int64 { return t.Bytes })
}

func (p *StepPerformance) ratios(whole int64) {
	if whole > 0 {
		p.Share = float64(p.WallUS) / float64(whole)
	}
	if p.WallUS > 0 {
		p.Parallelism = float64(p.CPUUS) / float64(p.WallUS)
		p.Idle = max(0, 1-p.Parallelism)
	}
}
