package view

import (
	"fmt"
	"slices"
)

// Noise: what a step may change by without having changed.
const (
	noiseRatio     = 1.5 // durations and CPU time
	noiseTimeUS    = 5e6 // and at least by this
	noiseProcesses = 1.2 // numbers of processes
	noiseCount     = 10  // and at least by this
)

// Compare says what is different now from before. Hosts are compared by NormalHost, programs
// and files by Normal; connections within the machine do not count.
func Compare(now, before *Views) Diff {
	var d Diff
	d.hosts(now, before)
	d.programs(now, before)
	d.sensitive(now, before)
	d.notable(now, before)
	d.steps(now, before)
	d.Total = totalDiff(now, before)
	d.Partial = append(partial("this job", now), partial("the earlier job", before)...)
	return d
}

// added are those of now whose name before has none of, the first of each name.
func added[T any](now, before []T, name func(T) string) []T {
	seen := make(map[string]bool)
	for _, one := range before {
		seen[name(one)] = true
	}
	var out []T
	for _, one := range now {
		if n := name(one); n != "" && !seen[n] {
			seen[n] = true
			out = append(out, one)
		}
	}
	return out
}

func names[T any](list []T, name func(T) string) []string {
	var out []string
	for _, one := range list {
		out = append(out, name(one))
	}
	slices.Sort(out)
	return out
}

// hostName is "" of what says nothing: this machine itself, and reverse DNS.
func hostName(h Host) string {
	if h.Service == "this machine" || h.Service == "reverse DNS" {
		return ""
	}
	return NormalHost(h.Host)
}

func (d *Diff) hosts(now, before *Views) {
	d.NewHosts = added(now.Network.Hosts, before.Network.Hosts, hostName)
	d.GoneHosts = names(added(before.Network.Hosts, now.Network.Hosts, hostName), hostName)
}

func (d *Diff) programs(now, before *Views) {
	name := func(p Program) string { return p.Path }
	d.NewPrograms = added(now.Programs, before.Programs, name)
	d.GonePrograms = names(added(before.Programs, now.Programs, name), name)
}

// sensitive compares the file, the program and whether it was changed.
func (d *Diff) sensitive(now, before *Views) {
	name := func(v *Views) func(SensitiveFile) string {
		return func(s SensitiveFile) string {
			return Normal(s.Path, v.Job) + " (" + s.Kind + " by " + normalPart(s.Program) + ")"
		}
	}
	n, b := name(now), name(before)
	seen := make(map[string]bool)
	for _, s := range before.FileTops.Sensitive {
		seen[b(s)] = true
	}
	for _, s := range now.FileTops.Sensitive {
		if !seen[n(s)] {
			seen[n(s)] = true
			d.NewSensitive = append(d.NewSensitive, s)
		}
	}
	seen = make(map[string]bool)
	for _, s := range now.FileTops.Sensitive {
		seen[n(s)] = true
	}
	for _, s := range before.FileTops.Sensitive {
		if !seen[b(s)] {
			seen[b(s)] = true
			d.GoneSensitive = append(d.GoneSensitive, b(s))
		}
	}
	slices.Sort(d.GoneSensitive)
}

func (d *Diff) notable(now, before *Views) {
	d.NewNotable = added(now.Notable, before.Notable, func(n Notable) string {
		return string(n.Type) + " " + normalPart(n.Program)
	})
}

// steps compares steps of the same name, the first with the first and so on.
func (d *Diff) steps(now, before *Views) {
	type nth struct {
		name string
		n    int
	}
	number := func(list []Step) func(Step) nth {
		count := make(map[string]int)
		return func(s Step) nth {
			count[s.Name]++
			return nth{s.Name, count[s.Name]}
		}
	}
	old := make(map[nth]Step)
	key := number(before.Steps)
	for _, s := range before.Steps {
		old[key(s)] = s
	}
	key = number(now.Steps)
	for _, s := range now.Steps {
		k := key(s)
		was, ok := old[k]
		delete(old, k)
		if one := stepDiff(s, was, ok); one.Change != StepSame {
			d.Steps = append(d.Steps, one)
		}
	}
	key = number(before.Steps)
	for _, s := range before.Steps {
		if _, left := old[key(s)]; left {
			d.Steps = append(d.Steps, StepDiff{Name: s.Name, Change: StepGone, BeforeDurationUS: s.DurationUS, BeforeCPUUS: s.CPUUS, BeforeProcesses: s.Processes, BeforeResult: s.Result})
		}
	}
}

func stepDiff(now, was Step, there bool) StepDiff {
	d := StepDiff{
		Name: now.Name, Change: StepAdded, DurationUS: now.DurationUS, BeforeDurationUS: was.DurationUS, CPUUS: now.CPUUS,
		BeforeCPUUS: was.CPUUS, Processes: now.Processes, BeforeProcesses: was.Processes, Result: now.Result, BeforeResult: was.Result,
	}
	if there {
		d.judge()
	}
	return d
}

func (d *StepDiff) judge() {
	if differs(d.DurationUS, d.BeforeDurationUS, noiseRatio, noiseTimeUS) {
		d.Why = append(d.Why, "duration")
	}
	if differs(d.CPUUS, d.BeforeCPUUS, noiseRatio, noiseTimeUS) {
		d.Why = append(d.Why, "cpu")
	}
	if differs(d.Processes, d.BeforeProcesses, noiseProcesses, noiseCount) {
		d.Why = append(d.Why, "processes")
	}
	if d.Result != "" && d.BeforeResult != "" && d.Result != d.BeforeResult {
		d.Why = append(d.Why, "result")
	}
	d.Change = StepSame
	if len(d.Why) > 0 {
		d.Change = StepChanged
	}
}

// differs reports whether two numbers are further apart than noise.
func differs(a, b int64, ratio float64, least int64) bool {
	high, low := max(a, b), min(a, b)
	return high-low >= least && float64(high) > ratio*float64(low)
}

func totalDiff(now, before *Views) StepDiff {
	whole := func(v *Views) Step {
		return Step{Name: "Whole job", DurationUS: v.Overview.DurationUS, Counts: v.Overview.Counts}
	}
	return stepDiff(whole(now), whole(before), true)
}

// partial are the reasons why a comparison with these views may be wrong.
func partial(which string, v *Views) []string {
	var out []string
	if why := incompleteText(&v.Overview, ""); why != "" {
		out = append(out, which+" is incomplete: "+why)
	}
	if !v.Ended {
		out = append(out, which+" has no end")
	}
	hidden := v.Network.HiddenHosts + v.HiddenPrograms + v.FileTops.HiddenSensitive + v.HiddenNotable
	if hidden > 0 {
		out = append(out, fmt.Sprintf("%s has %s beyond the limits of what is listed", which, number(hidden, "thing")))
	}
	return out
}
