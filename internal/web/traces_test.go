package web_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
	"github.com/muster-ci/muster/internal/web"
)

// trace of a state, with the address of its pages.
func (f *fake) traceIn(state muster.TraceState) (*muster.Trace, string) {
	i := slices.IndexFunc(f.tr.traces, func(t *muster.Trace) bool { return t.State == state && t.DeletedAt.IsZero() })
	return f.tr.traces[i], "/jobs/" + f.tr.traces[i].Job.String() + "/trace"
}

// S4-56: from the run to its jobs, their runners and their traces, and back.
func TestTraceIsReachedByLinks(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	at := incidentPath(f)
	job := strings.TrimSuffix(at, "/trace")
	d := f.tr.detections[0]
	j := f.find(func(j muster.Job) bool { return "/jobs/"+j.Key.String() == job })
	for from, to := range map[string]string{
		fmt.Sprintf("/runs/%d", j.RunID): at + "/overview", job: at + "/overview", "/runners/" + string(d.Trace.Runner): at + "/overview", "/findings": at + "/overview",
		at + "/overview": job, at + "/network": fmt.Sprintf("/runs/%d", j.RunID), at + "/files": "/runners/" + string(d.Trace.Runner), "/pools/linux-small": "/pools/linux-small/egress",
	} {
		if page := get(t, h, from); !strings.Contains(page, `href="`+to+`"`) && !strings.Contains(page, `href="`+to+`#`) {
			t.Errorf("%s does not lead to %s", from, to)
		}
	}
	if w := ask(t, h, request{path: at}); w.Code != http.StatusFound || w.Header().Get("Location") != at+"/overview" {
		t.Errorf("%s: %d to %q", at, w.Code, w.Header().Get("Location"))
	}
	// A trace whose job nobody knows yet has the address of its runner.
	tr, _ := f.traceIn(muster.TraceRecording)
	tr.Job = muster.JobKey{}
	runner := "/runners/" + string(tr.ID.Runner)
	if page := get(t, h, runner); !strings.Contains(page, runner+"/trace/overview") {
		t.Error("the runner does not lead to the trace of an unknown job")
	}
	wants(t, f, runner+"/trace/overview", "test (node 22)", "recording")
}

func TestTraceTabs(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	for tab, texts := range map[string][]string{
		"overview":                            {"The egress policy refused 3 connections", "No event was lost.", "python3 read the memory of Runner.Worker", "Pin the action to a commit", "started by bash -c", "ci-metrics.collector-7f2.xyz:443", "Refused by the egress policy", "6.8.0-1021-azure", "by cgroup+tree", "muster trace verify trace.bundle --key muster-trace.pem"},
		"timeline":                            {"4 · Install dependencies", "1m 09s", "the whole width is 3m 32s", "1 critical", "3 refused", "tj-actions/changed-files@v45"},
		"timeline?step=6":                     {"Events of 6 · Run tj-actions/changed-files@v45", "memory of Runner.Worker (pid", "refused", "Connections"},
		"timeline?step=6&type=process_exec":   {"python3"},
		"execution":                           {"Runner.Worker", "git index-pack --stdin --fix-thin", "exit 1", "exit 7", "2 notable"},
		"execution?q=memdump":                 {"2 processes", "Runner.Worker › node"},
		"execution?of=0":                      {"pid 1803", "Its events", "What it started"},
		"execution?view=flame":                {"Where the CPU time went", "node ×8", "Install depen…"},
		"execution?view=flame&by=time&zoom=3": {"Where the time went", "Zoom out to all of the job"},
		"network":                             {"External Services", "3 refused", "GitHub Infrastructure", "registry.npmjs.org:443", "a long label, as tunnels have", "Who reached what"},
		"network?verdict=denied":              {"Only refused connections", "ci-metrics.collector-7f2.xyz"},
		"network?host=github.com":             {"git-remote-http", "Addresses"},
		"files":                               {"node_modules/", "SSH private key", "Largest", "2 secrets"},
		"files?kind=deletes":                  {"node.tar.gz"},
		"files?q=lcov":                        {"1 file with", "/coverage/lcov.info"},
		"files?dir=/home/runner/work/storefront/storefront/src": {"cart/", "total.ts"},
		"query": {"Was curl or wget run?", "all traces of"},
		"query?q=" + url.QueryEscape(`type == "mem_read"`):      {"1 event", "memory of Runner.Worker", "muster trace query 'type == \"mem_read\"' --job"},
		"query?q=" + url.QueryEscape(`hostnam == "x"`):          {"Undeclared reference to 'hostnam'"},
		"query?q=" + url.QueryEscape(`port == "443"`):           {"number"},
		"query?scope=workspace&q=" + url.QueryEscape("pid > 0"): {"The first 200 events", "acme/storefront", "--since 30d"},
		"diff":               {"New destinations", "gist.githubusercontent.com", "/usr/bin/sudo", "SSH private key", "added", "+29s", "cdn.playwright.dev"},
		"performance":        {"CPUs busy on average", "5 · Run tests", "5m 50s", "By CPU time"},
		"performance?step=5": {"Programs of 5 · Run tests", "all of the job"},
	} {
		wants(t, f, at+"/"+tab, texts...)
	}
}

// 4-45, C24: what became of a trace is said in one line, and what is lost always.
func TestTraceStates(t *testing.T) {
	f := newFake()
	for state, texts := range map[muster.TraceState][]string{
		muster.TraceComplete:  {"No event was lost."},
		muster.TraceTruncated: {"Truncated, because the runner's machine went away", "1,235 events were lost: 1,204 because the ring buffer was full, 31 because the machine's disk was full."},
		muster.TraceLost:      {"Lost, because the machine was destroyed before a segment arrived. Nothing of it is there."},
		muster.TraceAbsent:    {"Not recorded, because the agent runs without CAP_BPF."},
		muster.TraceRecording: {"Recording now:", "running"},
	} {
		_, at := f.traceIn(state)
		wants(t, f, at+"/overview", texts...)
		if state != muster.TraceComplete {
			wants(t, f, strings.TrimSuffix(at, "/trace"), texts[0])
		}
	}
	i := slices.IndexFunc(f.tr.traces, func(t *muster.Trace) bool { return !t.DeletedAt.IsZero() })
	wants(t, f, "/jobs/"+f.tr.traces[i].Job.String()+"/trace/timeline", "Its 31,000 events were deleted on 6 May 2026", "There is nothing to look at.")
}

func TestTraceErrors(t *testing.T) {
	f := newFake()
	cfg := config(f)
	cfg.Logger = quiet()
	h := web.New(cfg)
	at := incidentPath(f)
	for path, want := range map[string]int{
		at + "/nothing": 404, at + "/timeline?step=99": 404, at + "/timeline?step=x": 404, at + "/timeline?step=6&after=x": 400, at + "/execution?of=99999": 404, at + "/execution?of=-1": 404, at + "/execution?of=x": 404, at + "/execution?view=flame&zoom=x": 404,
		at + "/files?kind=x": 400, at + "/files?dir=/nowhere": 404, at + "/files?from=-1": 400, at + "/query?q=true&since=9y": 400, at + "/diff?against=x": 400, "/jobs/404404/trace/overview": 404, "/jobs/x/trace/overview": 404,
		"/runners/r-aaaaaaaaaaaaaaaa/trace/overview": 404, "/findings?severity=worst": 400, "/findings?before=x": 400, "/pools/none/egress": 404,
		at + "/execution?from=99999": 200, at + "/files?from=99999": 200, at + "/performance?step=99": 200, at + "/network?category=none": 200, at + "/network?host=none": 200,
	} {
		if w := ask(t, h, request{path: path}); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	f.broken = muster.Errorf(muster.CodeUnavailable, "the store is away")
	if w := ask(t, h, request{path: at + "/overview"}); w.Code != http.StatusServiceUnavailable {
		t.Errorf("with a broken store: %d", w.Code)
	}
}

func TestWithoutTraces(t *testing.T) {
	f := newFake()
	cfg := config(f)
	cfg.Traces = nil
	h := web.New(cfg)
	if page := get(t, h, "/findings"); !strings.Contains(page, "ghost registration") || strings.Contains(page, "What jobs did") {
		t.Error("without traces the findings are not the sweep's")
	}
	at := incidentPath(f)
	if w := ask(t, h, request{path: at + "/overview"}); w.Code != 404 {
		t.Errorf("a trace's page: %d", w.Code)
	}
	if page := get(t, h, strings.TrimSuffix(at, "/trace")); strings.Contains(page, "What it did") {
		t.Error("the job's page has a section about its trace")
	}
	get(t, h, "/pools/linux-small")
}

// A job that ran and has no trace says why. 4-45
func TestJobWithoutTrace(t *testing.T) {
	f := newFake().addKept()
	h := web.New(config(f))
	page := words(get(t, h, "/jobs/61000000000"))
	for _, want := range []string{"There is no trace: not recorded, because a kept machine starts its runner by itself", "a machine that is kept: it was there before the job"} {
		if !strings.Contains(page, want) {
			t.Errorf("a job of a kept machine lacks %q: %s", want, page)
		}
	}
	if page := words(get(t, h, "/jobs/61000000001")); strings.Contains(page, "There is no trace") {
		t.Errorf("a job that waits tells of a trace: %s", page)
	}
	f.jobs[1].Pool = "gone"
	if page := words(get(t, h, "/jobs/61000000000")); !strings.Contains(page, "There is no trace: it ran on gpu-box, which is no runner of Muster's") {
		t.Errorf("a job of somebody else's runner: %s", page)
	}
}

// what a trace may say to deceive: markup, characters that reorder, that are not seen,
// that move the cursor, and length.
const deceit = "\"><script>window.hacked=1</script>\u202egpj.exe\u2066 \u200b\u00ad\x1b[2J\x07\r\n\t\u2028\u3164\U000e0041</title></svg>'`{{.}}"

func TestHostileTraceStaysText(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	var tr *muster.Trace
	for _, x := range f.tr.traces {
		if x.ID == f.tr.detections[0].Trace {
			tr = x
		}
	}
	spoil(f, tr)
	h := web.New(config(f))
	pages := []string{"/findings", "/pools/linux-small/egress", strings.TrimSuffix(at, "/trace"), "/runners/" + string(tr.ID.Runner), fmt.Sprintf("/runs/%d", tr.RunID)}
	for _, tab := range []string{"overview", "timeline", "timeline?step=6", "execution", "execution?of=3", "execution?q=script", "execution?view=flame", "execution?view=flame&by=time&zoom=4", "network", "network?verdict=denied", "files", "files?q=script", "query?q=true", "query?scope=workspace&q=pid>0", "diff", "performance", "performance?step=5"} {
		pages = append(pages, at+"/"+tab)
	}
	for _, p := range pages {
		w := ask(t, h, request{path: p})
		page := w.Body.String()
		if w.Code != 200 {
			t.Errorf("%s: %d %s", p, w.Code, words(page))
		}
		for _, bad := range []string{"<script>", "<img", "javascript:", "</title></svg>"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: hostile text became markup: %s", p, bad)
			}
		}
		for i, r := range page {
			if r != '\n' && r != ' ' && r != '\t' && (unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) || r == 0x3164 || r >= 0xe0000 && r < 0xe0fff) {
				t.Errorf("%s has the unseen character %U: …%q…", p, r, page[max(0, i-60):i])
				break
			}
		}
		if len(page) > 2<<20 {
			t.Errorf("%s is %d bytes long", p, len(page))
		}
	}
}

// A page that is empty because the machine could not record says so.
func TestPagesOfWhatWasNotRecorded(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	v := f.tr.views[f.tr.detections[0].Trace]
	wants(t, f, at+"/network", "connections, ")
	v.Overview.Missing = map[string]string{"net_connect": "no cgroup hierarchy is mounted", "file_open": "tracefs is not mounted"}
	wants(t, f, at+"/network", "Connections were not recorded, because: no cgroup hierarchy is mounted.")
	tr := f.tr.traces[slices.IndexFunc(f.tr.traces, func(t *muster.Trace) bool { return t.ID == f.tr.detections[0].Trace })]
	tr.Egress, tr.Refused, tr.WouldRefuse, tr.Missing = "audit", 0, 0, map[string]string{"egress": "no cgroup hierarchy is mounted"}
	wants(t, f, strings.TrimSuffix(at, "/trace"), "The egress policy (audit) was not watched, because: no cgroup hierarchy is mounted.")
	wants(t, f, at+"/files", "Files were not recorded, because: tracefs is not mounted.")
}

// Who asks why a job is slow asks since when: its latest runs are beside each other, with the way
// to what each did otherwise.
func TestPerformanceSaysSinceWhen(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	page := wants(t, f, at+"/performance", "Since when", "this run", "compare")
	if n := strings.Count(page, "compare"); n != 3 {
		t.Errorf("%d other runs:\n%s", n, page)
	}
	for _, tr := range f.tr.traces {
		if tr.ID != f.tr.detections[0].Trace {
			tr.Repository = "acme/other"
		}
	}
	if page := wants(t, f, at+"/performance", "By CPU time"); strings.Contains(page, "Since when") {
		t.Error("a single run is compared with itself")
	}
}

// spoil puts deceit into everything that a job may choose.
func spoil(f *fake, tr *muster.Trace) {
	long := deceit + strings.Repeat("A", 100_000)
	v := f.tr.views[tr.ID]
	tr.Reason, tr.JobName, tr.Workflow, tr.Key, tr.Egress, tr.AnalysisError, tr.State = deceit, deceit, deceit, deceit, deceit, deceit, muster.TraceTruncated
	tr.Missing, tr.Lost = map[string]string{deceit: deceit}, map[string]int64{deceit: 4}
	v.Overview.Verdict.Text = deceit
	v.Overview.Recorder = &trace.Recorder{Agent: deceit, Kernel: deceit, Scope: deceit, Extras: []string{deceit}}
	for i := range v.Steps {
		v.Steps[i].Name, v.Steps[i].Uses, v.Steps[i].Kind, v.Steps[i].Result = long, deceit, deceit, deceit
		v.Performance.Steps[i].Name = deceit
	}
	for i := range v.Processes {
		p := &v.Processes[i]
		p.Command, p.Container = deceit, deceit
		for k := range p.Images {
			p.Images[k].Path, p.Images[k].Dir, p.Images[k].Args = long, deceit, []string{deceit, long, ""}
		}
	}
	for i := range v.Flame {
		v.Flame[i].Name = deceit
	}
	for i := range v.Network.Connections {
		c := &v.Network.Connections[i]
		c.Host, c.Program, c.Addresses, c.Protocol = deceit+fmt.Sprint(i), deceit, []string{deceit}, deceit
		if i == 3 {
			c.Host = long
		}
	}
	for i := range v.Network.Queries {
		q := &v.Network.Queries[i]
		q.Hostname, q.Program, q.Type, q.Addresses = deceit, deceit, deceit, []string{long}
	}
	for i := range v.Network.Hosts {
		v.Network.Hosts[i].Host = deceit + fmt.Sprint(i)
	}
	for i := range v.Overview.Refusals {
		r := &v.Overview.Refusals[i]
		r.Host, r.Program, r.Address = deceit, deceit, deceit
	}
	for _, list := range [][]view.Top{v.Overview.TopHosts, v.Overview.TopPrograms, v.Overview.TopWriters, v.FileTops.Largest} {
		for i := range list {
			list[i].Name = long
		}
	}
	for i := range v.Notable {
		v.Notable[i].Text, v.Notable[i].Program = deceit, deceit
	}
	v.Files.Dirs = append(v.Files.Dirs, &view.Dir{Name: deceit, Total: view.FileCounts{Reads: 9}, Dirs: []*view.Dir{{Name: long, Total: view.FileCounts{Reads: 9}, Files: []view.File{{Name: deceit, FileCounts: view.FileCounts{Reads: 9}, Sensitive: deceit, Programs: []string{deceit}}}}}})
	for i := range v.FileTops.Sensitive {
		s := &v.FileTops.Sensitive[i]
		s.Path, s.What, s.Program = long, deceit, deceit
	}
	for i := range v.FileTops.Renamed {
		r := &v.FileTops.Renamed[i]
		r.From, r.To, r.Program = long, deceit, deceit
	}
	for i := range f.tr.detections {
		d := &f.tr.detections[i]
		d.Title, d.Explanation, d.Remedy, d.Step, d.Process, d.Subject, d.Rule, d.Ancestry = deceit, deceit, deceit, deceit, long, long, deceit, []string{deceit, long}
	}
	for i := range f.tr.events[tr.ID] {
		e := &f.tr.events[tr.ID][i]
		e.Command, e.Hostname, e.Path, e.NewPath, e.Name, e.Method, e.TargetCommand, e.Address, e.Args, e.Flags = deceit, deceit, long, deceit, deceit, deceit, deceit, deceit, []string{long}, deceit
	}
	d := f.tr.diff[tr.ID]
	d.NewSensitive, d.NewNotable, d.GoneHosts, d.Partial = v.FileTops.Sensitive, v.Notable, []string{long}, []string{deceit}
	for i := range d.NewHosts {
		d.NewHosts[i].Host, d.NewHosts[i].Programs = deceit, []string{long}
	}
	for i := range d.NewPrograms {
		d.NewPrograms[i].Path = long
	}
	for i := range d.Steps {
		d.Steps[i].Name, d.Steps[i].Result, d.Steps[i].BeforeResult = long, deceit, deceit+"2"
	}
	f.tr.diff[tr.ID] = d
	a := &f.tr.allow
	for i := range a.Proposed {
		a.Proposed[i].Entry, a.Proposed[i].Warning, a.Proposed[i].Hosts, a.Proposed[i].Programs = deceit, deceit, []string{long}, []string{deceit}
	}
	for i := range a.Refused {
		a.Refused[i].Host, a.Refused[i].Protocol, a.Refused[i].Trace = long, deceit, *tr
	}
	a.Notes = []string{deceit}
}

// A job of a million events has its pages within a second: what is shown is bounded,
// whatever there is. It is a second of work: what others do on the machine counts for nothing.
func TestLargeTraceIsQuick(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	id := f.tr.detections[0].Trace
	f.tr.views[id] = largeViews(f.tr.views[id])
	h := web.New(config(f))
	for _, tab := range []string{"overview", "timeline", "execution", "execution?of=1", "execution?of=1&from=9000", "execution?q=cc1plus", "execution?view=flame", "network", "files", "files?dir=/home/d3", "files?q=file7", "diff", "performance"} {
		began := worked(t)
		page := get(t, h, at+"/"+tab)
		took := worked(t) - began
		if took > time.Second || len(page) > 900<<10 {
			t.Errorf("%s took %s and is %d KiB long", tab, took, len(page)>>10)
		}
		t.Logf("%-28s %8s %5d KiB", tab, took.Round(time.Millisecond), len(page)>>10)
	}
}

// worked is how long this process has used a processor.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// largeViews are of 20,000 processes, 50,000 files, 5,000 frames and 400 hosts.
func largeViews(small *view.Views) *view.Views {
	v := *small
	v.Processes, v.Flame = nil, nil
	start := v.Overview.StartedAt
	v.Network.Connections, v.Network.Hosts = nil, nil
	for i := range 20_000 {
		parent := i / 9
		if i < 12_000 {
			parent = 1 // a make with very many children
		}
		parent = min(parent, i-1)
		p := view.Process{Parent: parent, PID: 1000 + i, Command: "cc1plus", Step: 1 + i%7, StartedAt: start.Add(time.Duration(i) * 5 * time.Millisecond), DurationUS: 90_000, CPUUS: 80_000, MemoryKiB: 90_000}
		p.EndedAt = p.StartedAt.Add(90 * time.Millisecond)
		p.Images = []view.Image{{Path: "/usr/lib/gcc/x86_64-linux-gnu/13/cc1plus", Args: []string{"cc1plus", "-quiet", "-O2", "-Wall", "-I", "include", fmt.Sprintf("src/module%05d.cc", i), "-o", "/tmp/ccX.s"}, At: p.StartedAt}}
		v.Processes = append(v.Processes, p)
	}
	for i := range v.Processes {
		if p := v.Processes[i].Parent; p >= 0 {
			v.Processes[p].Children++
		}
	}
	for i := range 5_000 {
		v.Flame = append(v.Flame, view.Frame{Parent: (i - 1) / 4, Name: fmt.Sprintf("cmd%d", i%200), Count: 3, SelfCPUUS: int64(1000 + i%77*500), SelfWallUS: 4000})
	}
	v.Flame[0].Parent = -1
	v.Files = &view.Dir{Name: "/", Dirs: []*view.Dir{{Name: "home"}}}
	home := v.Files.Dirs[0]
	for d := range 50 {
		dir := &view.Dir{Name: fmt.Sprintf("d%d", d), Distinct: 1000, Total: view.FileCounts{Reads: 1000}}
		for i := range 1000 {
			dir.Files = append(dir.Files, view.File{Name: fmt.Sprintf("file%d", i), FileCounts: view.FileCounts{Reads: 1}, Programs: []string{"cc1plus"}, Step: 5})
		}
		home.Dirs = append(home.Dirs, dir)
		home.Total.Reads, home.Distinct = home.Total.Reads+1000, home.Distinct+1000
	}
	v.Files.Total, v.Files.Distinct = home.Total, home.Distinct
	for i := range 4000 {
		c := view.Connection{Host: fmt.Sprintf("host-%03d.example.net", i%400), Category: view.Categories[i%4], Port: 443, Protocol: "tcp", Program: fmt.Sprintf("prog%d", i%60), Process: i, PID: 1000 + i, Step: 1 + i%7, Count: int64(1 + i%9), First: start}
		v.Network.Connections = append(v.Network.Connections, c)
		if i < 400 {
			v.Network.Hosts = append(v.Network.Hosts, view.Host{Host: c.Host, Category: c.Category, Connections: 10})
		}
	}
	return &v
}

func TestQueryExamplesAreUnderstood(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	page := get(t, web.New(config(f)), at+"/query")
	n := 0
	for _, part := range strings.Split(page, `<li><a href="`+at+`/query?q=`)[1:] {
		n++
		address, _, _ := strings.Cut(part, `"`)
		if answer := get(t, web.New(config(f)), at+"/query?q="+html.UnescapeString(address)); strings.Contains(answer, `id="problem"`) {
			t.Errorf("an example is not understood: %s", words(answer))
		}
	}
	if n < 6 {
		t.Errorf("%d examples", n)
	}
}

// A part is what the script asks for: rows, and nothing else.
func TestTraceParts(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	at := incidentPath(f)
	for path, want := range map[string]string{at + "/execution?of=0": "checkout/v5/dist/index.js", at + "/files?dir=/home/runner": "storefront"} {
		w := ask(t, h, request{path: path, header: map[string]string{"Muster-Fragment": "part"}})
		page := strings.TrimSpace(w.Body.String())
		if !strings.HasPrefix(page, `<ul class="tree">`) || !strings.HasSuffix(page, "</ul>") || !strings.Contains(page, want) {
			t.Errorf("%s: %.200s", path, page)
		}
		if w := ask(t, h, request{path: path, header: map[string]string{"Muster-Fragment": "1"}}); !strings.Contains(w.Body.String(), "<h1>") {
			t.Errorf("%s as a fragment is not the page's main part", path)
		}
	}
}

func TestEgressPage(t *testing.T) {
	f := newFake()
	wants(t, f, "/pools/linux-small/egress", "an allow list is proposed", "The last 61 in a row brought nothing that was not known: the list has settled", "would be refused", "only one job reached it", "unused", "1 entry is left out as a comment")
	page := get(t, web.New(config(f)), "/pools/linux-small/egress")
	for _, line := range []string{"    - &#34;fonts.googleapis.com:443&#34;", "    # - &#34;ci-metrics.collector-7f2.xyz:443&#34; # only one job"} {
		if !strings.Contains(page, line) {
			t.Errorf("the configuration lacks %q", line)
		}
	}
	f.tr.allow = web.Allowlist{}
	wants(t, f, "/pools/gpu-a100/egress", "No policy: jobs reach whatever the network lets them.", "No job of the pool was recorded in this time.", "mode: learn")
	wants(t, f, "/pools/linux-small", "Egress", "learn", "registry.npmjs.org:443")
}

func TestFindingsPage(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	if page := get(t, h, "/findings?severity=high"); strings.Contains(page, "credential-file-read") || !strings.Contains(page, "download-and-execute") {
		t.Error("the severity does not narrow the list")
	}
	if page := get(t, h, "/findings?rule=egress-refused&repository=ACME/storefront"); strings.Contains(page, "download-and-execute") || !strings.Contains(page, "egress-refused") {
		t.Error("the rule does not narrow the list")
	}
	wants(t, f, "/findings?repository=acme/none", "Nothing found.", "Show all findings")
	first := f.tr.detections[0]
	for i := range 120 {
		d := first
		d.Title, d.At = fmt.Sprintf("finding number %d.", i), first.At.Add(-time.Duration(i+1)*time.Hour)
		f.tr.detections = append(f.tr.detections, d)
	}
	seen, path := map[string]bool{}, "/findings"
	for n := 0; path != "" && n < 5; n++ {
		page := get(t, h, path)
		for i := range 120 {
			if title := fmt.Sprintf("finding number %d.", i); strings.Contains(page, title) {
				if seen[title] {
					t.Errorf("%s is on two pages", title)
				}
				seen[title] = true
			}
		}
		_, after, more := strings.Cut(page, `>Newest</a>`)
		if !more {
			after = page
		}
		path = ""
		if before, _, ok := strings.Cut(after, `">Older</a>`); ok {
			path = strings.ReplaceAll(before[strings.LastIndexByte(before, '"')+1:], "&amp;", "&")
		}
	}
	if len(seen) != 120 {
		t.Errorf("%d of 120 findings are on the pages", len(seen))
	}
}

// What the real builder makes of events has all pages.
func TestTabsOfBuiltViews(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	id := f.tr.detections[0].Trace
	b := view.NewBuilder(f.tr.views[id].Job)
	events := slices.Clone(f.tr.events[id])
	slices.SortStableFunc(events, func(a, b trace.Event) int { return a.Timestamp.Compare(b.Timestamp) })
	for _, e := range events {
		b.Add(e)
	}
	b.Add(trace.Event{Type: trace.FileOpen, Timestamp: fakeNow, PID: events[3].PID, Start: events[3].Start, Path: "/home/runner/.ssh/id_rsa", Flags: "read", Step: 2})
	f.tr.views[id] = b.Views()
	for tab, text := range map[string]string{"overview": "processes", "timeline": "Run tests", "execution": "vitest", "execution?view=flame": "Run tests", "network": "registry.npmjs.org:443", "files": ".ssh/", "performance": "Install dependencies", "query?q=pid>0": "looked at"} {
		wants(t, f, at+"/"+tab, text)
	}
}
