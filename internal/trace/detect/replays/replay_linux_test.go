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
	"sync"
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

// perform runs a play under the recorder and returns its trace, and what was lost of it.
func perform(t *testing.T, r *bpf.Recorder, p play) ([]trace.Event, map[string]int64) {
	t.Helper()
	file := filepath.Join(t.TempDir(), p.Name+".sh")
	if err := os.WriteFile(file, []byte(p.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", file)
	cmd.SysProcAttr = namespaces()
	cmd.Env = append(os.Environ(), roleVariable+"=stage", fmt.Sprint("MUSTER_REPLAY_MAP=", ownMap(t)))
	if out, err := exec.Command("go", "env", "GOCACHE").Output(); err == nil {
		cmd.Env = append(cmd.Env, "MUSTER_REPLAY_GOCACHE="+strings.TrimSpace(string(out)))
	}
	for tool, variable := range map[string]string{"go": "GO", "rustc": "CARGO"} {
		if dir := toolFolder(tool); dir != "" {
			cmd.Env = append(cmd.Env, "MUSTER_REPLAY_"+variable+"="+dir)
		}
	}
	engines := bpf.EnginesNone
	if p.Facts["engine"] == "docker" {
		cmd.Env = append(cmd.Env, "MUSTER_REPLAY_DOCKER="+filepath.Join(dockerFolder(t), "bin"))
		engines = bpf.EnginesNetwork // the stage's, and for this play alone
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
	pid, agent := members(t, cmd.Process.Pid, lines.Text())
	mode, allow, _ := strings.Cut(p.Facts["egress"], " ")
	scope, err := r.Follow(t.Context(), bpf.Follow{
		Root: pid, Protect: []int{agent}, Engines: engines,
		Egress: trace.Egress{Mode: trace.EgressMode(mode), Allow: strings.Fields(allow), NoGitHub: true},
	})
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
	return told(p, bounds, events, r.Describe()), scope.Lost()
}

// dockerFolder has bin and sbin of Docker.
func dockerFolder(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	where, err := exec.Command(filepath.Join(strings.TrimSpace(string(root)), "internal", "tools", "engines", "docker.sh")).Output()
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("Docker's daemon is not here and cannot be fetched: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(where))
}

// members are the pids of the stage's worker and of its agent in this machine's own
// numbering; line has them in that of the stage.
func members(t *testing.T, stage int, line string) (worker, agent int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", stage))
	if err != nil {
		t.Fatal(err)
	}
	outside := map[string]int{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // a thread of the stage that has ended
		}
		for pid := range strings.FieldsSeq(string(text)) {
			status, err := os.ReadFile("/proc/" + pid + "/status")
			if err != nil {
				t.Fatal(err)
			}
			_, after, _ := strings.Cut(string(status), "NSpid:")
			of, _, _ := strings.Cut(after, "\n")
			own := strings.Fields(of)
			outside[own[len(own)-1]], err = strconv.Atoi(own[0])
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	inside := strings.Fields(line)
	if len(inside) != 2 || outside[inside[0]] == 0 || outside[inside[1]] == 0 {
		t.Fatalf("the stage has the processes %v, and says %q", outside, line)
	}
	return outside[inside[0]], outside[inside[1]]
}

// ownMap is the number of one of the recorder's own maps in the kernel.
func ownMap(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, _ := os.ReadFile(f)
		if _, after, ok := strings.Cut(string(text), "map_id:"); ok {
			return strings.Fields(after)[0]
		}
	}
	t.Fatal("the recorder has no maps")
	return ""
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

// found runs the shipped rules over a play. One that wants a baseline comes after as many
// runs of an ordinary build as make one, and begins as that build does.
func found(t *testing.T, r *bpf.Recorder, rules *detect.Rules, p play) []muster.Detection {
	t.Helper()
	var base *detect.Baseline
	if name := p.Facts["baseline"]; name != "" {
		build, err := read(filepath.Join("testdata", "builds", name+".sh"))
		if err != nil {
			t.Fatal(err)
		}
		need(t, build.Facts["needs"])
		base = &detect.Baseline{}
		for !base.Mature() {
			report := examine(t, r, rules, build, base)
			if !base.Learn(report.Facts, fmt.Sprint("run ", base.Runs), time.Now()) {
				t.Fatalf("an ordinary build teaches nothing: %v", report.Detections)
			}
		}
		p.Steps = append(slices.Clone(build.Steps), p.Steps...)
	}
	return examine(t, r, rules, p, base).Detections
}

func examine(t *testing.T, r *bpf.Recorder, rules *detect.Rules, p play, base *detect.Baseline) detect.Report {
	t.Helper()
	began := time.Now()
	p.Steps = append([]step{checkout}, p.Steps...)
	events, lost := perform(t, r, p)
	for again := 0; len(lost) > 0 && again < 2 && !t.Failed(); again++ {
		t.Logf("played again, as events were lost on a machine with much else to do: %v", lost)
		events, lost = perform(t, r, p)
	}
	if len(lost) > 0 {
		t.Errorf("events were lost: %v", lost)
	}
	t.Logf("%d events in %v", len(events), time.Since(began).Round(time.Millisecond))
	if *keep != "" {
		write(t, filepath.Join(*keep, p.Name+".jsonl"), events)
	}
	report, err := rules.Examine(trace.Job{Workspace: workspace, Repository: "octo/app", Key: p.Name}, base, each(events))
	if err != nil {
		t.Fatal(err)
	}
	return report
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
	var (
		mu                sync.Mutex
		incidents, builds []result
	)
	for _, folder := range []struct {
		name, prefix string
		to           *[]result
		judge        func(*testing.T, play, []muster.Detection)
	}{
		{"incidents", "incident/", &incidents, caught},
		{"builds", "build/", &builds, quiet},
	} {
		t.Run(folder.name, func(t *testing.T) {
			for _, p := range plays(t, folder.name) {
				t.Run(folder.prefix+p.Name, func(t *testing.T) {
					need(t, p.Facts["needs"])
					t.Parallel() // most of a play is waiting
					of := found(t, r, rules, p)
					folder.judge(t, p, of)
					if t.Failed() {
						return
					}
					mu.Lock()
					defer mu.Unlock()
					*folder.to = append(*folder.to, result{p, fired(of)})
				})
			}
		})
	}
	if len(incidents) < len(plays(t, "incidents")) || len(builds) < len(plays(t, "builds")) {
		return // some were chosen by name, or failed or were skipped and have said so
	}
	page(t, rules, sorted(incidents), sorted(builds))
}

// caught wants every rule that the play names.
func caught(t *testing.T, p play, of []muster.Detection) {
	t.Helper()
	rules := fired(of)
	for _, rule := range p.rules() {
		if !slices.Contains(rules, rule) {
			t.Errorf("%s did not fire, only %v did", rule, rules)
		}
	}
	for _, d := range of {
		t.Logf("%s %s in %q: %s", d.Severity, d.Rule, d.Step, d.Title)
	}
}

// quiet wants nothing.
func quiet(t *testing.T, _ play, of []muster.Detection) {
	t.Helper()
	for _, d := range of {
		t.Errorf("%s %s: %s (%s)", d.Severity, d.Rule, d.Title, cmp.Or(d.Process, d.Step))
	}
}

func sorted(of []result) []result {
	slices.SortFunc(of, func(a, b result) int { return strings.Compare(a.play.Name, b.play.Name) })
	return of
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
