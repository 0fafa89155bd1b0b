package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
	"github.com/muster-ci/muster/internal/web"
)

// incidentViews are the views of the fake's incident.
func (f *fake) incidentViews() *view.Views { return f.tr.views[f.tr.detections[0].Trace] }

// A rule that fires forty times says once why it matters, and then only where.
func TestFindingsOfOneRuleStandTogether(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	d := f.tr.detections[0]
	for i := range 40 {
		next := d
		next.Rule, next.Severity, next.Title = "egress-refused", muster.SeverityMedium, fmt.Sprintf("curl was refused host-%d.example:443", i)
		next.Explanation = "The policy does not allow this host."
		f.tr.detections = append(f.tr.detections, next)
	}
	for _, path := range []string{at + "/overview", strings.TrimSuffix(at, "/trace")} {
		page := get(t, web.New(config(f)), path)
		if n := strings.Count(page, "The policy does not allow this host."); n > 1 {
			t.Errorf("%s says %d times why a rule fired", path, n)
		}
	}
	wants(t, f, at+"/overview", "39 more by this rule", "host-0.example:443", "host-39.example:443")
	if n := strings.Count(get(t, web.New(config(f)), at+"/overview"), `<li class="finding `); n > 6 {
		t.Errorf("%d findings in full", n)
	}
}

// A number of a process leads to that process; one that was used again, to all that had it.
func TestPIDsLeadToProcesses(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	h := web.New(config(f))
	v := f.incidentViews()
	i := slices.IndexFunc(v.Processes, func(p view.Process) bool { return p.PID == f.tr.detections[0].PID })
	if i < 0 {
		t.Fatal("the finding's process is not in the fake")
	}
	for i := range v.FileTops.Sensitive {
		v.FileTops.Sensitive[i].PID = v.Processes[3].PID
	}
	own := fmt.Sprintf("%s/execution?of=%d", at, i)
	for _, page := range []string{"/overview", "/network", "/files"} {
		if !strings.Contains(get(t, h, at+page), at+"/execution?of=") {
			t.Errorf("%s leads to no process", page)
		}
	}
	if !strings.Contains(get(t, h, at+"/overview"), own) {
		t.Errorf("a finding does not lead to %s", own)
	}
	if !strings.Contains(get(t, h, at+"/overview"), `<dd><a href="`+at+`/timeline?step=6#r-events">`) {
		t.Error("a finding does not lead to its step")
	}
	byNumber := fmt.Sprintf("%s/execution?pid=%d", at, v.Processes[i].PID)
	if page := get(t, h, strings.TrimSuffix(at, "/trace")); !strings.Contains(page, byNumber) {
		t.Errorf("the job's page does not lead to %s", byNumber)
	}
	if page := get(t, h, byNumber); !strings.Contains(page, `id="r-process"`) || !strings.Contains(page, fmt.Sprintf("pid %d", v.Processes[i].PID)) {
		t.Error("a pid does not lead to its process")
	}
	again := v.Processes[i]
	again.Command, again.Start, again.Parent = "reused", again.Start+5_000_000, -1
	again.Images = nil
	v.Processes = append(v.Processes, again)
	if page := get(t, h, byNumber); strings.Contains(page, `id="r-process"`) || !strings.Contains(page, ">reused<") || !strings.Contains(page, "2 processes") {
		t.Error("a pid that was used twice does not lead to both processes")
	}
}

// From a step to what it ran and reached, and nothing else.
func TestStepsLeadToTheirPart(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	h := web.New(config(f))
	timeline := get(t, h, at+"/timeline")
	for _, link := range []string{at + "/execution?step=6", at + "/network?step=6"} {
		if !strings.Contains(timeline, link) {
			t.Errorf("the timeline does not lead to %s", link)
		}
	}
	v := f.incidentViews()
	rows := regexp.MustCompile(`<li id="p-(\d+)">`)
	wants(t, f, at+"/execution?step=6", "Processes of 6 · Run tj-actions/changed-files@v45", "all of the job")
	found := rows.FindAllString(get(t, h, at+"/execution?step=6"), -1)
	want := 0
	for _, p := range v.Processes {
		if p.Step == 6 {
			want++
		}
	}
	if len(found) != want || want == 0 {
		t.Errorf("%d processes are shown of a step that has %d", len(found), want)
	}
	// In the tree of all, the first process of each step names it.
	if all := get(t, h, at+"/execution"); !strings.Contains(all, `class="tag step" href="`+at+`/timeline?step=6#r-events"`) {
		t.Error("the tree does not say which step a process belongs to")
	}
	page := wants(t, f, at+"/network?step=6", "connections of 6 · Run tj-actions/changed-files@v45", "ci-metrics.collector-7f2.xyz")
	if strings.Contains(page, "registry.npmjs.org:443") {
		t.Error("connections of another step are shown")
	}
	// The filters keep each other.
	if !strings.Contains(get(t, h, at+"/network?step=6"), "step=6&amp;verdict=denied") {
		t.Error("a verdict forgets the step")
	}
	for _, path := range []string{"/execution?step=99", "/network?step=x"} {
		if w := ask(t, h, request{path: at + path}); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// The flame view finds a command, says how much it is, and keeps what was looked for while
// one zooms.
func TestFlameSearch(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	v := f.incidentViews()
	v.Flame = []view.Frame{
		{Parent: -1, Name: "node is no command here"}, {Parent: 0, Name: "npm", Count: 1, SelfCPUUS: 500_000},
		{Parent: 1, Name: "node", Count: 2, SelfCPUUS: 200_000}, {Parent: 2, Name: "node-gyp", Count: 1, SelfCPUUS: 100_000}, {Parent: 0, Name: "make", Count: 1, SelfCPUUS: 200_000},
	}
	wants(t, f, at+"/execution?view=flame&q=NODE", "“NODE” is in 2 bars of 3 processes: 300ms, 30% of all.", "In the tree")
	page := get(t, web.New(config(f)), at+"/execution?view=flame&q=NODE")
	if n := strings.Count(page, "f-miss"); n != 3 { // the step, npm and make
		t.Errorf("%d bars are dimmed", n)
	}
	if !strings.Contains(page, "q=NODE&amp;view=flame&amp;zoom=2") {
		t.Error("zooming in forgets what was looked for")
	}
	wants(t, f, at+"/execution?view=flame&zoom=2", "node ×2: 300ms, 30% of all; 200ms of it by itself.", "Its processes")
	wants(t, f, at+"/execution?view=flame&q=nothing", "“nothing” is in no bar.")
}

// A trace that was cut off has no step that still runs, and says once why it ends.
func TestCutOffTrace(t *testing.T) {
	f := newFake()
	tr, at := f.traceIn(muster.TraceTruncated)
	tr.Lost = nil
	v := f.tr.views[tr.ID]
	v.Ended = false
	last := &v.Steps[len(v.Steps)-1]
	last.End, last.Result = time.Time{}, ""
	v.Judge(view.Known{Incomplete: tr.Reason})
	page := wants(t, f, at+"/timeline", "cut off", "Truncated, because")
	if strings.Contains(page, "running") {
		t.Error("a step runs in a trace that has ended")
	}
	page = wants(t, f, at+"/overview", "No event before the cut was lost.", tr.Reason)
	if n := strings.Count(page, tr.Reason); n != 1 {
		t.Errorf("the overview says %d times why the trace ends", n)
	}
}

// What was created was written too.
func TestWrittenFiles(t *testing.T) {
	f := newFake()
	at := incidentPath(f)
	v := f.incidentViews()
	v.Files = &view.Dir{Name: "/", Distinct: 500_118, Total: view.FileCounts{Creates: 3, Bytes: 90}, Files: []view.File{{Name: "made.o", FileCounts: view.FileCounts{Creates: 3, Bytes: 90}}}}
	v.Overview.Counts.Files, v.Overview.Counts.FileCounts = 500_118, v.Files.Total
	wants(t, f, at+"/files?kind=writes", "made.o")
	// More files than are counted one by one are not told to the last.
	wants(t, f, at+"/files", "≈ 500,000: 0 read, 3 written, 3 of them created")
	wants(t, f, at+"/overview", "≈ 500,000", "3 writes")
}

// One process that does a rare thing sixty times leaves room for the others.
func TestRareEventsStandTogether(t *testing.T) {
	f := newFake()
	v := f.incidentViews()
	one := v.Notable[0]
	other := one
	other.Text, other.PID, other.Process = "sudo became root", one.PID+1, -1
	v.Notable = nil
	for range 60 {
		v.Notable = append(v.Notable, one)
	}
	v.Notable = append(v.Notable, other)
	wants(t, f, incidentPath(f)+"/overview", one.Text+" and 59 more like it", "sudo became root")
}

// Names from GitHub are chosen by whoever opens a pull request: nothing in them reorders
// what is read, on no page.
func TestNamesFromGitHubStayInOrder(t *testing.T) {
	f := newFake()
	name := "\u2699\ufe0f build \u202egnp.exe"
	j := f.find(func(j muster.Job) bool { return j.State == muster.JobCompleted && len(j.Steps) > 0 && j.RunID != 0 })
	i := slices.IndexFunc(f.jobs, func(x muster.Job) bool { return x.Key == j.Key })
	f.jobs[i].Name, f.jobs[i].Workflow, f.jobs[i].HeadBranch, f.jobs[i].Steps[0].Name = name, name, name, name
	h := web.New(config(f))
	for _, path := range []string{path(j), fmt.Sprintf("/runs/%d", j.RunID), "/jobs?repository=" + url.QueryEscape(j.Repository)} {
		page := get(t, h, path)
		if at := strings.IndexRune(page, '\u202e'); at >= 0 {
			t.Errorf("%s has a mark of direction: %s", path, page[max(0, at-120):at])
		}
		wants(t, f, path, "\u2699\ufe0f build ⟨U+202E⟩gnp.exe")
	}
}
