package replays

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
)

var (
	update = flag.Bool("update", false, "write docs/detections.md instead of checking it")
	keep   = flag.String("keep", "", "a folder to write the traces of the plays to")
)

// plays reads every script of a folder.
func plays(t *testing.T, folder string) []play {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.sh"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", folder, err)
	}
	var all []play
	for _, f := range files {
		p, err := read(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// need tells that a tool is not there: a failure in CI, where every one has to be.
func need(t *testing.T, tools string) {
	t.Helper()
	for tool := range strings.FieldsSeq(tools) {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
}

func recorder(t *testing.T) *bpf.Recorder {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+resolver+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := bpf.Options{Agent: "replay"}
	o.ResolvConf = []string{resolv}
	r, err := bpf.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if why := r.Describe().Missing["all"]; why != "" {
		t.Fatalf("plays need root and a kernel that lets itself be recorded: %s", why)
	}
	return r
}

// perform runs a play under the recorder and returns its trace.
func perform(t *testing.T, r *bpf.Recorder, p play, file string) []trace.Event {
	t.Helper()
	file, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", file)
	cmd.SysProcAttr = namespaces()
	cmd.Env = append(os.Environ(), roleVariable+"=stage")
	if out, err := exec.Command("go", "env", "GOCACHE").Output(); err == nil {
		cmd.Env = append(cmd.Env, "MUSTER_REPLAY_GOCACHE="+strings.TrimSpace(string(out)))
	}
	for tool, variable := range map[string]string{"go": "GO", "rustc": "CARGO"} {
		if dir := toolFolder(tool); dir != "" {
			cmd.Env = append(cmd.Env, "MUSTER_REPLAY_"+variable+"="+dir)
		}
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // with it ends whatever it has left
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the stage was not set")
	}
	pid := workerOf(t, cmd.Process.Pid)
	scope, err := r.Follow(t.Context(), bpf.Follow{Root: pid})
	if err != nil {
		t.Fatal(err)
	}
	var events []trace.Event
	read := make(chan struct{})
	go func() {
		defer close(read)
		for batch := range scope.Events() {
			events = append(events, batch...)
		}
	}()
	if _, err := fmt.Fprintln(in, "go"); err != nil {
		t.Fatal(err)
	}
	var bounds []bound
	for lines.Scan() {
		var b bound
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if b.Failed != "" {
			t.Error(b.Failed)
		}
		bounds = append(bounds, b)
		if !b.Begin && (b.Number == len(p.Steps) || b.Failed != "") {
			break
		}
	}
	in.Close()
	ended(t, pid)
	if err := scope.Close(); err != nil {
		t.Error(err)
	}
	<-read
	for why, n := range scope.Lost() {
		t.Errorf("%d events were lost: %s", n, why)
	}
	return told(p, bounds, events, r.Describe())
}

// workerOf is the worker's pid in this machine's own numbering: the stage's only child.
func workerOf(t *testing.T, stage int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", stage, stage))
	if err != nil {
		t.Fatal(err)
	}
	pids := strings.Fields(string(text))
	if len(pids) == 0 { // another thread of the stage has started it
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", stage))
		for _, f := range tasks {
			text, _ := os.ReadFile(f)
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("the stage has the children %v", pids)
	}
	pid, err := strconv.Atoi(pids[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// ended waits for the worker's end.
func ended(t *testing.T, pid int) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the worker did not end")
		}
	}
}

// told is the trace as the agent writes it: numbered, with steps and both ends.
func told(p play, bounds []bound, events []trace.Event, about trace.Recorder) []trace.Event {
	all := []trace.Event{{Type: trace.TraceStart, Recorder: &about}}
	for _, b := range bounds {
		if b.Begin {
			s := p.Steps[b.Number-1]
			kind := "run"
			if s.Uses != "" {
				kind = "uses"
			}
			all = append(all, trace.Event{Type: trace.StepStart, Timestamp: b.At.UTC(), Step: b.Number, Name: s.Name, StepKind: kind, Uses: s.Uses})
		}
	}
	all = append(all, events...)
	slices.SortStableFunc(all[1:], func(a, b trace.Event) int { return a.Timestamp.Compare(b.Timestamp) })
	step := 0
	for i := range all {
		if all[i].Type == trace.StepStart {
			step = all[i].Step
		}
		all[i].Step, all[i].Seq = step, uint64(i+1)
	}
	all[0].Timestamp = all[min(1, len(all)-1)].Timestamp
	return append(all, trace.Event{Type: trace.TraceEnd, Timestamp: all[len(all)-1].Timestamp, Seq: uint64(len(all) + 1)})
}

func each(events []trace.Event) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// found runs the shipped rules over a play.
func found(t *testing.T, r *bpf.Recorder, rules *detect.Rules, folder string, p play) ([]muster.Detection, []trace.Event) {
	t.Helper()
	p.Steps = append([]step{checkout}, p.Steps...)
	began := time.Now()
	events := perform(t, r, p, filepath.Join("testdata", folder, p.Name+".sh"))
	t.Logf("%d events in %v", len(events), time.Since(began).Round(time.Millisecond))
	if *keep != "" {
		write(t, filepath.Join(*keep, p.Name+".jsonl"), events)
	}
	of, err := rules.Run(trace.Job{Workspace: workspace, Repository: "octo/app", Key: p.Name}, nil, each(events))
	if err != nil {
		t.Fatal(err)
	}
	return of, events
}

func write(t *testing.T, file string, events []trace.Event) {
	t.Helper()
	var text []byte
	for _, e := range events {
		var err error
		if text, err = trace.AppendEvent(text, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// result is one line of the tables in docs/detections.md.
type result struct {
	play  play
	rules []string // that fired, the most severe first
}

// Each published incident, played again without harm, is caught by the rules that its
// script names; each ordinary build raises nothing.
func TestReplays(t *testing.T) { // S0-20
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("plays make namespaces and load programs into the kernel: run them as root")
		}
		t.Skip("plays make namespaces and load programs into the kernel: run them as root")
	}
	rules, err := detect.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	r := recorder(t)
	var incidents, builds []result
	whole := true
	for _, p := range plays(t, "incidents") {
		whole = t.Run("incident/"+p.Name, func(t *testing.T) {
			of, _ := found(t, r, rules, "incidents", p)
			res := result{p, fired(of)}
			for rule := range strings.SplitSeq(p.Facts["rule"], ", ") {
				if !slices.Contains(res.rules, rule) {
					t.Errorf("%s did not fire, only %v did", rule, res.rules)
				}
			}
			for _, d := range of {
				t.Logf("%s %s: %s", d.Severity, d.Rule, d.Title)
			}
			incidents = append(incidents, res)
		}) && whole
	}
	for _, p := range plays(t, "builds") {
		whole = t.Run("build/"+p.Name, func(t *testing.T) {
			need(t, p.Facts["needs"])
			of, _ := found(t, r, rules, "builds", p)
			for _, d := range of {
				t.Errorf("%s %s: %s (%s)", d.Severity, d.Rule, d.Title, cmp.Or(d.Process, d.Step))
			}
			builds = append(builds, result{p, fired(of)})
		}) && whole
	}
	if len(incidents) < 12 || len(builds) < 10 || !whole {
		return // some were chosen by name, or failed and have said so
	}
	page(t, rules, incidents, builds)
}

func fired(of []muster.Detection) []string {
	var names []string
	for _, d := range of {
		if !slices.Contains(names, d.Rule) {
			names = append(names, d.Rule)
		}
	}
	return names
}

// toolFolder is where a tool is installed, if that is not where everything is.
func toolFolder(tool string) string {
	var args []string
	switch tool {
	case "go":
		args = []string{"go", "env", "GOROOT"}
	case "rustc":
		args = []string{"rustc", "--print", "sysroot"}
	}
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		return ""
	}
	return filepath.Join(strings.TrimSpace(string(out)), "bin")
}
