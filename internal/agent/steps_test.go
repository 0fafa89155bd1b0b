package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// realLog has the lines of a runner's log in their order, as actions/runner 2.336 prints
// them, many others left out.
const realLog = `[2026-03-01 10:00:09Z INFO HostContext] Well known directory 'Bin': '/runner/bin'
[2026-03-01 10:00:09Z INFO Worker] Job message:
 {
  "jobDisplayName": "build",
  "steps": [ { "name": "[2026-03-01 10:00:09Z INFO StepsRunner] Processing step: DisplayName='not a step'" } ]
}
[2026-03-01 10:00:10Z INFO JobRunner] Job ID 23fa391a
[2026-03-01 10:00:12Z INFO ExecutionContext] Publish step telemetry for current step {
  "action": "setup_job",
  "type": "runner",
  "stage": "Pre",
  "result": "succeeded",
  "errorMessages": [],
  "executionTimeInSeconds": 2,
  "startTime": "2026-03-01T10:00:10.4529698Z",
  "finishTime": "2026-03-01T10:00:12.1217215Z"
}.
[2026-03-01 10:00:12Z INFO JobRunner] Total job steps: 3.
[2026-03-01 10:00:12Z INFO JobRunner] Run all job steps.
[2026-03-01 10:00:12Z INFO StepsRunner] Processing step: DisplayName='Set up runner'
[2026-03-01 10:00:12Z INFO StepsRunner] Starting the step.
[2026-03-01 10:00:12Z INFO StepsRunner] Step result: 
[2026-03-01 10:00:12Z INFO StepsRunner] No need for updating job result with current step result 'Succeeded'.
[2026-03-01 10:00:12Z INFO StepsRunner] Current state: job state = ''
[2026-03-01 10:00:12Z INFO StepsRunner] Processing step: DisplayName='Run ./.github/actions/setup'
[2026-03-01 10:00:12Z INFO StepsRunner] Evaluating: success()
[2026-03-01 10:00:12Z INFO StepsRunner] Result: true
[2026-03-01 10:00:12Z INFO StepsRunner] Starting the step.
[2026-03-01 10:00:13Z INFO CompositeActionHandler] Processing embedded step: DisplayName='inner'
[2026-03-01 10:00:13Z INFO ExecutionContext] Publish step telemetry for current step {
  "action": "sh",
  "type": "run",
  "isEmbedded": true,
  "errorMessages": []
}.
[2026-03-01 10:00:14Z INFO StepsRunner] Step result: 
[2026-03-01 10:00:14Z INFO ExecutionContext] Publish step telemetry for current step {
  "action": "./.github/actions/setup",
  "type": "composite",
  "stage": "Main",
  "result": "succeeded",
  "errorMessages": [],
  "executionTimeInSeconds": 2,
  "startTime": "2026-03-01T10:00:12.2000000Z",
  "finishTime": "2026-03-01T10:00:14.2500000Z"
}.
[2026-03-01 10:00:14Z INFO StepsRunner] No need for updating job result with current step result 'Succeeded'.
[2026-03-01 10:00:14Z INFO StepsRunner] Processing step: DisplayName='Only on Fridays'
[2026-03-01 10:00:14Z INFO StepsRunner] Evaluating: success() && false
[2026-03-01 10:00:14Z INFO StepsRunner] Skipping step due to condition evaluation.
[2026-03-01 10:00:14Z INFO StepsRunner] No need for updating job result with current step result 'Skipped'.
[2026-03-01 10:00:14Z INFO StepsRunner] Processing step: DisplayName='Test'
[2026-03-01 10:00:14Z INFO StepsRunner] Starting the step.
[2026-03-01 10:00:20Z ERR  StepsRunner] Caught exception from step: System.Exception
   at GitHub.Runner.Worker
[2026-03-01 10:00:20Z INFO StepsRunner] Step result: Failed
[2026-03-01 10:00:20Z INFO ExecutionContext] Publish step telemetry for current step {
  "action": "bash",
  "type": "run",
  "stage": "Main",
  "result": "failed",
  "errorMessages": [ "Process completed with exit code 1." ],
  "startTime": "2026-03-01T10:00:14.2600000Z",
  "finishTime": "2026-03-01T10:00:20.5000000Z"
}.
[2026-03-01 10:00:20Z INFO StepsRunner] Update job result with current step result 'Failed'.
[2026-03-01 10:00:20Z INFO JobRunner] Finalize job.
[2026-03-01 10:00:21Z INFO ExecutionContext] Publish step telemetry for current step {
  "action": "complete_joh",
  "type": "runner",
  "stage": "Post",
  "result": "succeeded",
  "startTime": "2026-03-01T10:00:20.6000000Z",
  "finishTime": "2026-03-01T10:00:21.1000000Z"
}.
[2026-03-01 10:00:21Z INFO JobRunner] Job result after all job steps finish: Failed
[2026-03-01 10:00:21Z INFO JobRunner] Completing the job execution context.
`

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, "2026-03-01T"+text+"Z")
	if err != nil {
		panic(err)
	}
	return t
}

// readLog has every line seen some time after it was written.
func readLog(text string, late time.Duration) *worklog {
	var l worklog
	for line := range strings.Lines(text) {
		seen := at("10:00:30")
		if m := header.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			seen, _ = time.Parse("2006-01-02 15:04:05Z", m[1])
			seen = seen.Add(late)
		}
		l.line(strings.TrimSuffix(line, "\n"), seen)
	}
	return &l
}

func TestStepsOfTheRealLog(t *testing.T) { // S0-20
	l := readLog(realLog, 300*time.Millisecond)
	want := []trace.Step{
		{Number: 1, Name: "Set up job", Start: at("10:00:09.3"), End: at("10:00:12.1217215"), Result: "succeeded"},
		{Number: 2, Name: "Set up runner", Kind: "hook", Start: at("10:00:12.1217215"), End: at("10:00:12.2"), Result: "succeeded"},
		{Number: 3, Name: "Run ./.github/actions/setup", Kind: "uses", Uses: "./.github/actions/setup", Start: at("10:00:12.2"), End: at("10:00:14.25"), Result: "succeeded"},
		{Number: 4, Name: "Only on Fridays", Start: at("10:00:14.25"), End: at("10:00:14.26"), Result: "skipped"},
		{Number: 5, Name: "Test", Kind: "run", Start: at("10:00:14.26"), End: at("10:00:20.5"), Result: "failed"},
		{Number: 6, Name: "Complete job", Start: at("10:00:20.5"), End: at("10:00:21.1"), Result: "succeeded"},
	}
	if !slices.Equal(l.steps, want) {
		t.Errorf("steps:\n%+v\nwant:\n%+v", l.steps, want)
	}
	for when, number := range map[string]int{"10:00:09": 0, "10:00:10": 1, "10:00:12.15": 2, "10:00:14.25": 4, "10:00:14.26": 5, "10:00:21.05": 6, "10:00:22": 0} {
		if got := l.at(at(when)); got != number {
			t.Errorf("at %s it was step %d, want %d", when, got, number)
		}
	}
	bounds := all(l)
	if len(bounds) != 12 {
		t.Errorf("%d bounds", len(bounds))
	}
	for i, e := range bounds {
		if i > 0 && e.Timestamp.Before(bounds[i-1].Timestamp) || e.Step != i/2+1 || (e.Type == trace.StepStart) != (i%2 == 0) {
			t.Errorf("bound %d: %+v", i, e)
		}
	}
}

// all takes every bound.
func all(l *worklog) (bounds []trace.Event) {
	for {
		e, ok := l.next(at("23:59:59").Add(maxJob))
		if !ok {
			return bounds
		}
		bounds = append(bounds, e)
	}
}

// FuzzSteps: whatever a job writes into the log, bounds come in pairs, in the order of
// time, and are bounded.
func FuzzSteps(f *testing.F) {
	f.Add(realLog, int64(0))
	f.Add("[2026-03-01 10:00:12Z INFO StepsRunner] Processing step: DisplayName='a'\n[2026-03-01 09:00:12Z INFO StepsRunner] Processing step: DisplayName='b'\n", int64(5000))
	f.Add("[2026-03-01 10:00:12Z INFO ExecutionContext] Publish step telemetry for current step {\n"+strings.Repeat("x", 70000), int64(-1))
	f.Fuzz(func(t *testing.T, text string, late int64) {
		l := readLog(text, time.Duration(late%10_000)*time.Millisecond)
		l.end("", at("11:00:00"))
		var before trace.Event
		for i, e := range all(l) {
			if e.Timestamp.Before(before.Timestamp) || len(e.Name) > maxStepName || (e.Type == trace.StepStart) != (i%2 == 0) || e.Step != i/2+1 || e.Step > maxSteps {
				t.Fatalf("after %+v comes %+v", before, e)
			}
			before = e
		}
	})
}

func TestDiagnosticsFollow(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	d := &diagnostics{dir: dir, began: now.Add(-time.Minute)}
	defer d.close()
	var got []string
	read := func() {
		now = now.Add(lookAgain)
		d.read(now, func(line string, _ time.Time) { got = append(got, line) })
	}
	write := func(name, text string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	read() // there is nothing
	write("Worker_20250101-000000-utc.log", "of another agent's time\n")
	old := now.Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "Worker_20250101-000000-utc.log"), old, old); err != nil {
		t.Fatal(err)
	}
	write("Runner_20260301-100000-utc.log", "of the listener\n")
	read()
	write("Worker_20260301-100000-utc.log", "one\r\ntwo\nthr")
	read()
	write("Worker_20260301-100000-utc.log", "ee\n"+strings.Repeat("x", 3*maxLogLine)+"\nfour\n")
	read()
	// The log grew long, and goes on in another file; then another job has its own.
	write("Worker_20260301-100000-utc.log", "five\n")
	write("Worker_20260301-110000-utc.log", "six\n")
	write("Worker_20260301-120000-utc.log", "seven\n")
	read()
	read()
	read()
	// Not a file: nobody waits for it.
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "Worker_20260301-130000-utc.log")); err != nil {
		t.Fatal(err)
	}
	read()
	write("Worker_20260301-140000-utc.log", "eight\n")
	read()
	read()
	if want := []string{"one", "two", "three", "four", "five", "six", "seven", "eight"}; !slices.Equal(got, want) {
		t.Errorf("read %q", got)
	}
}

// A log that is read late tells of steps when they began: programs that ran meanwhile belong to
// the step that ran them.
func TestDiagnosticsReadLate(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "Worker_20260301-100000-utc.log")
	now := time.Now()
	for _, c := range []struct {
		written, want time.Duration // before now
	}{{700 * time.Millisecond, 700*time.Millisecond - fileClock}, {0, 0}, {-time.Hour, 0}} { // a clock that is ahead is not believed
		if err := os.WriteFile(file, []byte("line\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, now, now.Add(-c.written)); err != nil {
			t.Fatal(err)
		}
		d := &diagnostics{dir: dir, began: now.Add(-time.Minute)}
		var there []time.Time
		d.read(now, func(_ string, at time.Time) { there = append(there, at) })
		d.close()
		if len(there) != 1 || there[0].Sub(now.Add(-c.want)).Abs() > time.Millisecond {
			t.Errorf("written %s before: there at %v, now is %s", c.written, there, now)
		}
	}
}

func TestRedactionOfTheAgentsOwn(t *testing.T) { // 4-46 4-14
	hide := newRedaction("the-agent's-own-secret", "short", "another-secret")
	e := trace.Event{Args: []string{"x", "--url=http://the-agent's-own-secret@x/another-secret", "short"}, Path: "/tmp/the-agent's-own-secret"}
	shared := e.Args
	hide.event(&e)
	if want := []string{"x", "--url=http://***@x/***", "short"}; !slices.Equal(e.Args, want) || e.Path != "/tmp/***" {
		t.Errorf("got %q, %s", e.Args, e.Path)
	}
	if !strings.Contains(shared[1], "own-secret") {
		t.Error("the recorder's slice was changed")
	}
}

func TestWordOfAJob(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want trace.Job
		ok   bool
	}{
		"Empty":   {"", trace.Job{}, false},
		"Noise":   {"\x00\x00=\x00GITHUB_REPOSITORY\x00", trace.Job{}, false},
		"NoRun":   {"GITHUB_REPOSITORY=o/r\x00GITHUB_RUN_ID=-3\x00", trace.Job{Repository: "o/r"}, false},
		"Strange": {"GITHUB_REPOSITORY=o/r\x00GITHUB_RUN_ID=3\x00GITHUB_RUN_ATTEMPT=99999999\x00GITHUB_JOB=a b\x00GITHUB_WORKFLOW=a\x1b[31m\nb\xff\x00GITHUB_WORKSPACE=../x\x00", trace.Job{Repository: "o/r", RunID: 3, Workflow: "a[31mb\uFFFD"}, true},
		"Long":    {"GITHUB_REPOSITORY=o/r\x00GITHUB_RUN_ID=3\x00GITHUB_REF=" + strings.Repeat("é", 1000) + "\x00", trace.Job{Repository: "o/r", RunID: 3, Ref: strings.Repeat("é", 256)}, true},
	} {
		if got, ok := parseWord([]byte(c.text)); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v; want %+v", name, got, ok, c.want)
		}
	}
}

func TestSegmentsStaySmall(t *testing.T) {
	packer, err := trace.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	tr := &tracer{packer: packer, box: newTraceBox(nil, nil, t.TempDir())}
	tr.now = tr.fresh(time.Now())
	tr.now.number = 1
	for range 400 { // what cannot be compressed
		noise := make([]byte, 0, 4000)
		for len(noise) < 4000 {
			noise = fmt.Appendf(noise, "%x", below(1<<60))
		}
		tr.put(trace.Event{Type: trace.ProcessExec, Timestamp: time.Now(), Args: []string{string(noise)}}, time.Now())
	}
	tr.close()
	var chain trace.Chain
	events := 0
	for _, p := range tr.box.queue {
		data := p.segment.Data
		if p.file != "" {
			data, _ = os.ReadFile(p.file)
		}
		events += p.segment.Events
		if err := chain.Add(p.segment.Seq, p.segment.Link, data); err != nil || len(data) > maxPacked {
			t.Errorf("segment %d with %d bytes: %v", p.segment.Seq, len(data), err)
		}
	}
	if events != 400 || chain.Head != tr.now.chain.Head {
		t.Errorf("%d events", events)
	}
}

func TestTraceBoxIsBounded(t *testing.T) { // 4-46
	dir := t.TempDir()
	b := newTraceBox(nil, nil, dir)
	data := make([]byte, 1<<20)
	n := 0
	for b.room() {
		n++
		if err := b.add(1, trace.Segment{Seq: n, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	if n != (maxTraceMemory+maxTraceDisk)>>20 {
		t.Errorf("%d MiB are kept", n)
	}
	for i := range n {
		p, _, ok := b.head()
		if !ok || p.segment.Seq != i+1 || len(p.segment.Data) != len(data) {
			t.Fatalf("segment %d: %v %d %d", i+1, ok, p.segment.Seq, len(p.segment.Data))
		}
		b.pop(p.segment.Data)
	}
	if left, _ := os.ReadDir(dir); b.memory != 0 || b.disk != 0 || len(left) != 0 || !b.room() || b.kept > maxTaken {
		t.Errorf("%d bytes in memory, %d on disk, %d files left", b.memory, b.disk, len(left))
	}
}
