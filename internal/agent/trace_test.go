package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// vault is a control plane's side of the protocol of traces: it checks what every control
// plane would.
type vault struct {
	traces map[int]*archived
}

type archived struct {
	chain   trace.Chain
	job     trace.Job
	data    [][]byte
	arrived []time.Time
	seal    *wire.TraceSeal
	sealed  time.Time
	events  []trace.Event
}

// take serves one call.
func (a *vault) take(path string, body []byte) (status int, message string) {
	if a.traces == nil {
		a.traces = map[int]*archived{}
	}
	of := func(n int) *archived {
		if a.traces[n] == nil {
			a.traces[n] = &archived{}
		}
		return a.traces[n]
	}
	if path == wire.TraceSealPath {
		var s wire.TraceSeal
		if err := json.Unmarshal(body, &s); err != nil {
			return http.StatusBadRequest, err.Error()
		}
		t := of(s.Trace)
		if t.seal != nil {
			return http.StatusGone, "the trace is sealed"
		}
		t.seal, t.job, t.sealed = &s, s.Job, time.Now()
		return http.StatusOK, ""
	}
	var s wire.TraceSegment
	if err := json.Unmarshal(body, &s); err != nil {
		return http.StatusBadRequest, err.Error()
	}
	t := of(s.Trace)
	switch {
	case t.seal != nil:
		return http.StatusGone, "the trace is sealed"
	case len(s.Segment.Data) > wire.MaxTraceSegment:
		return http.StatusRequestEntityTooLarge, "too large"
	case s.Segment.Seq <= t.chain.Seq:
		if bytes.Equal(t.data[s.Segment.Seq-1], s.Segment.Data) {
			return http.StatusOK, ""
		}
		return http.StatusConflict, "another one is there"
	}
	if err := t.chain.Add(s.Segment.Seq, s.Segment.Link, s.Segment.Data); err != nil {
		return http.StatusConflict, fmt.Sprintf("segment %d is not the next; %d is wanted: %v", s.Segment.Seq, t.chain.Seq+1, err)
	}
	t.job, t.data, t.arrived = s.Job, append(t.data, s.Segment.Data), append(t.arrived, time.Now())
	text, err := trace.Unpack(s.Segment.Data)
	if err != nil {
		return http.StatusBadRequest, err.Error()
	}
	n := 0
	for e, err := range trace.Events(bytes.NewReader(text)) {
		if err != nil {
			return http.StatusBadRequest, err.Error()
		}
		t.events = append(t.events, e)
		n++
	}
	if n != s.Segment.Events {
		return http.StatusBadRequest, "wrong number of events"
	}
	return http.StatusOK, ""
}

// whole checks that a trace is complete and in order, and returns its events.
func (p *plane) whole(t *testing.T, number int) []trace.Event {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.traces[number]
	if a == nil || a.seal == nil {
		t.Fatalf("trace %d was not sealed", number)
	}
	if err := a.chain.Closed(a.seal.Seal); err != nil {
		t.Fatal(err)
	}
	if int64(len(a.events)) != a.seal.Seal.Events {
		t.Fatalf("%d events, and the seal says %d", len(a.events), a.seal.Seal.Events)
	}
	counts := map[string]int64{}
	for i, e := range a.events {
		if e.Seq != uint64(i+1) || e.Timestamp.IsZero() || e.Type == "" {
			t.Fatalf("event %d: %+v", i, e)
		}
		if i < len(a.events)-1 {
			counts[string(e.Type)]++
		}
	}
	first, last := a.events[0], a.events[len(a.events)-1]
	if first.Type != trace.TraceStart || first.Recorder == nil || last.Type != trace.TraceEnd {
		t.Fatalf("it begins with %+v and ends with %+v", first, last)
	}
	if !maps.Equal(last.Counts, counts) {
		t.Errorf("it ends with the counts %v, and there are %v", last.Counts, counts)
	}
	if !maps.Equal(last.Lost, a.seal.Seal.Lost) {
		t.Errorf("it ends with %v lost, and the seal says %v", last.Lost, a.seal.Seal.Lost)
	}
	return a.events
}

const runnerPID = 4242

// tape is a recorder that the test plays.
type tape struct {
	mu      sync.Mutex
	about   trace.Recorder
	refuse  error // of Follow
	roots   []int
	events  chan []trace.Event
	lost    map[string]int64
	closed  bool
	ended   bool
	closing []trace.Event // handed over by Close
}

func newTape() *tape {
	return &tape{about: trace.Recorder{Kernel: "6.18", Scope: "tree"}}
}

func (r *tape) Describe() trace.Recorder { return r.about }
func (r *tape) Follow(_ context.Context, root int, _ trace.Egress) (scope, error) {
	if r.refuse != nil {
		return nil, r.refuse
	}
	r.roots = append(r.roots, root)
	return (*tapeScope)(r), nil
}
func (r *tape) Close() error { r.closed = true; return nil }

// lose drops events, and says so or not.
func (r *tape) lose(reason string, n int64, says bool) {
	if says {
		r.events <- []trace.Event{{Type: trace.Dropped, Timestamp: time.Now(), Method: reason, Count: n}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost == nil {
		r.lost = map[string]int64{}
	}
	r.lost[reason] += n
}

// over ends the recorder before its scope is closed.
func (r *tape) over() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	close(r.events)
}

type tapeScope tape

func (s *tapeScope) Describe() trace.Recorder { return s.about }

func (s *tapeScope) Events() <-chan []trace.Event { return s.events }
func (s *tapeScope) Lost() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.lost)
}
func (s *tapeScope) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	if s.closing != nil {
		s.events <- s.closing
	}
	close(s.events)
	return nil
}

// traced prepares a scene with a recorder.
func traced(r *tape, more ...func(*scene)) func(*scene) {
	return func(s *scene) {
		r.events = make(chan []trace.Event, 64)
		s.plane.boot.Trace = &wire.TraceSettings{SealSeconds: 60}
		s.cfg.record = func(context.Context, recordOptions) (recorder, error) { return r, nil }
		for _, m := range more {
			m(s)
		}
	}
}

// ran is an event of a program, now.
func ran(path string, args ...string) trace.Event {
	return trace.Event{Type: trace.ProcessExec, Timestamp: time.Now(), PID: 100, Start: 7, Path: path, Args: args}
}

// logged appends lines to the worker's log, with the time of now.
func (s *scene) logged(words ...string) {
	s.Helper()
	dir := filepath.Join(s.cfg.RunnerDir, "_diag")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "Worker_20260301-100000-utc.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	for _, w := range words {
		fmt.Fprintf(f, "[%s INFO %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), w)
	}
	// The bubble's clock is not that of the file system.
	if err := os.Chtimes(f.Name(), time.Now(), time.Now()); err != nil {
		s.Fatal(err)
	}
}

// telemetry is what the runner prints at the end of a step.
func telemetry(action, kind, result string, from, to time.Time) string {
	return fmt.Sprintf("ExecutionContext] Publish step telemetry for current step {\n  \"action\": %q,\n  \"ref\": \"v4\",\n  \"type\": %q,\n  \"result\": %q,\n  \"startTime\": %q,\n  \"finishTime\": %q\n}.",
		action, kind, result, from.UTC().Format("2006-01-02T15:04:05.0000000Z"), to.UTC().Format("2006-01-02T15:04:05.0000000Z"))
}

// story is a trace in words: types, with paths or names, and the number of the step.
func story(events []trace.Event) (words []string) {
	for _, e := range events {
		w := string(e.Type)
		if what := e.Path + e.Name; what != "" {
			w += " " + what
		}
		if e.Step > 0 {
			w += fmt.Sprintf(" (%d)", e.Step)
		}
		words = append(words, w)
	}
	return words
}

func TestTraceOfAJob(t *testing.T) { // S0-20 S0-21 S0-23 C24
	rec := newTape()
	var end *scene
	play(t, traced(rec), func(s *scene) {
		end = s
		s.pass(time.Second)
		rec.events <- []trace.Event{ran("/runner/run.sh", "run.sh")}
		s.puppet.say(listening)
		s.pass(10 * time.Second)
		if len(s.plane.traces) > 0 {
			s.Error("something was shipped before a job ran")
		}
		s.puppet.say(running)
		s.logged("JobRunner] Job ID 1", "StepsRunner] Processing step: DisplayName='Run actions/checkout@v4'", "StepsRunner] Starting the step.")
		s.pass(100 * time.Millisecond)
		began := time.Now()
		rec.events <- []trace.Event{ran("/usr/bin/git", "git", "clone", "https://x:"+sessionToken+"@example.com/r")}
		s.pass(700 * time.Millisecond)
		// The next step begins, and its first process before the log is read: it goes by the exact time.
		first := ran("/bin/bash", "bash", "-e", "script.sh")
		over := first.Timestamp
		first.Timestamp = over.Add(time.Microsecond)
		rec.events <- []trace.Event{first}
		s.pass(120 * time.Millisecond)
		s.logged("StepsRunner] Step result: ", telemetry("actions/checkout", "node20", "succeeded", began, over),
			"StepsRunner] No need for updating job result with current step result 'Succeeded'.",
			"StepsRunner] Processing step: DisplayName='It's \"quoted\" – ünïcode'", "StepsRunner] Starting the step.")
		s.pass(2 * time.Second)
		if n := len(s.plane.traces[1].events); n < 5 {
			s.Errorf("%d events were shipped while the job ran", n)
		}
		s.logged("StepsRunner] Step result: Failed", "StepsRunner] Update job result with current step result 'Failed'.", "JobRunner] Finalize job.")
		s.pass(200 * time.Millisecond)
		rec.closing = []trace.Event{ran("/bin/late", "late")} // handed over long after
		s.pass(time.Second)
		s.puppet.say(completed)
		s.puppet.exit(0)
	})
	end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
	events := end.plane.whole(t, 1)
	want := []string{
		"trace_start", "process_exec /runner/run.sh", "step_start Set up job (1)", "step_end Set up job (1)", "step_start Run actions/checkout@v4 (2)",
		"process_exec /usr/bin/git (2)", "step_end Run actions/checkout@v4 (2)", "step_start It's \"quoted\" – ünïcode (3)", "process_exec /bin/bash (3)",
		"step_end It's \"quoted\" – ünïcode (3)", "step_start Complete job (4)", "process_exec /bin/late (4)", "step_end Complete job (4)", "trace_end",
	}
	if got := story(events); !slices.Equal(got, want) {
		t.Errorf("the trace says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, e := range events {
		switch {
		case strings.Contains(fmt.Sprint(e.Args), sessionToken):
			t.Errorf("a secret is in %v", e.Args)
		case e.Type == trace.StepEnd && e.Step == 2 && (e.StepKind != "uses" || e.Uses != "actions/checkout@v4" || e.Result != "succeeded" || e.DurationUS <= 0):
			t.Errorf("the end of a step: %+v", e)
		case e.Type == trace.StepEnd && e.Step == 3 && e.Result != "failed":
			t.Errorf("the end of a step: %+v", e)
		}
	}
	// The machine may be destroyed on the last report, which comes after the seal.
	p := end.plane
	if at := p.times[len(p.times)-1]; at.Before(p.traces[1].sealed) {
		t.Error("the end was reported before the trace was sealed")
	}
	if !rec.closed || !slices.Equal(rec.roots, []int{runnerPID}) {
		t.Errorf("recorder: closed %v, followed %v", rec.closed, rec.roots)
	}
	if env := strings.Join(end.puppet.cmd.env, "\n"); !strings.Contains(env, hookVariable+"="+filepath.Join(end.cfg.RunnerDir, hookDir, hookScript)) {
		t.Errorf("environment of run.sh: %s", env)
	}
	if _, err := os.Stat(filepath.Join(end.cfg.RunnerDir, hookDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the hook is still there: %v", err)
	}
}

func TestTraceWithoutAJob(t *testing.T) {
	var end *scene
	rec := newTape()
	play(t, traced(rec), func(s *scene) {
		end = s
		s.puppet.onInterrupt = func() { s.puppet.exit(0) }
		rec.events <- []trace.Event{ran("/runner/run.sh")}
		s.puppet.say(listening)
	})
	end.want(ExitDone, "started", "listening", "finished no job within 2m0s")
	if len(end.plane.traces) > 0 || end.ended > 125*time.Second {
		t.Errorf("%d traces, after %s", len(end.plane.traces), end.ended)
	}
}

func TestTraceOfAKeptRunner(t *testing.T) { // S0-20
	var end *scene
	rec := newTape()
	play(t, traced(rec, func(s *scene) {
		s.plane.boot.JITConfig = ""
		s.plane.boot.Registration = &wire.Registration{URL: "https://github.com/o/r", Token: "canary-registration", Labels: []string{"x"}}
		for name, text := range map[string]string{"config.sh": "", ".runner": `{"agentId": 7}`} {
			if err := os.WriteFile(filepath.Join(s.cfg.RunnerDir, name), []byte(text), 0o755); err != nil {
				s.Fatal(err)
			}
		}
		inner := s.cfg.start
		s.cfg.start = func(c command) (runner, error) {
			if c.program == "config.sh" {
				p := &puppet{done: make(chan int, 1)}
				p.r, p.w = io.Pipe()
				p.exit(0)
				return p, nil
			}
			return inner(c)
		}
	}), func(s *scene) {
		end = s
		for i := range 3 {
			s.pass(time.Second)
			rec.events <- []trace.Event{ran(fmt.Sprintf("/idle/%d", i))}
			s.pass(time.Second)
			s.puppet.say(listening + strings.ReplaceAll(running, "build", fmt.Sprint("job", i)))
			s.pass(time.Second)
			if i == 1 {
				rec.lose("buffer_full", 3, true)
			}
			rec.events <- []trace.Event{ran(fmt.Sprintf("/job/%d", i))}
			s.pass(time.Second)
			// What the recorder hands over a moment later belongs where its time says.
			late := ran(fmt.Sprintf("/late/%d", i))
			s.pass(10 * time.Millisecond)
			s.puppet.say(strings.ReplaceAll(completed, "build", fmt.Sprint("job", i)))
			s.pass(10 * time.Millisecond)
			rec.events <- []trace.Event{late, ran(fmt.Sprintf("/after/%d", i))}
			// On a busy machine it goes on for longer than events are held back.
			for k := range 8 {
				s.pass(100 * time.Millisecond)
				behind := late
				behind.Path = fmt.Sprintf("/behind/%d", k)
				rec.events <- []trace.Event{behind}
			}
			s.pass(time.Second)
			s.plane.mu.Lock()
			if a := s.plane.traces[i+1]; a == nil || a.seal == nil {
				s.Errorf("trace %d was not sealed when its job ended", i+1)
			}
			s.plane.mu.Unlock()
		}
		s.puppet.exit(0)
	})
	if len(end.plane.traces) != 3 {
		t.Fatalf("%d traces", len(end.plane.traces))
	}
	for i := range 3 {
		events := end.plane.whole(t, i+1)
		want := []string{"trace_start", fmt.Sprintf("process_exec /idle/%d", i), fmt.Sprintf("process_exec /job/%d", i), fmt.Sprintf("process_exec /late/%d", i), "trace_end"}
		for k := range 8 {
			want = slices.Insert(want, len(want)-1, fmt.Sprintf("process_exec /behind/%d", k))
		}
		if i == 1 {
			want = slices.Insert(want, 2, "dropped")
		}
		if i > 0 {
			want = slices.Insert(want, 1, fmt.Sprintf("process_exec /after/%d", i-1))
		}
		if got := story(events); !slices.Equal(got, want) {
			t.Errorf("trace %d says %q", i+1, got)
		}
		if a := end.plane.traces[i+1]; a.job.Name != fmt.Sprintf("job%d (linux)", i) {
			t.Errorf("job of trace %d: %+v", i+1, a.job)
		}
	}
}

func TestTraceNotRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*tape, *scene)
		why     string
	}{
		"NothingWorks": {func(r *tape, _ *scene) {
			r.about.Missing = map[string]string{"all": "it has no right to load programs"}
		}, "it has no right to load programs"},
		"NoFollowing": {func(r *tape, _ *scene) { r.refuse = errors.New("the map is full") }, "the map is full"},
		"NoRecorder": {func(_ *tape, s *scene) {
			s.cfg.record = func(context.Context, recordOptions) (recorder, error) { return nil, errors.New("no BTF") }
		}, "no BTF"},
	} {
		t.Run(name, func(t *testing.T) {
			var end *scene
			rec := newTape()
			play(t, traced(rec, func(s *scene) { c.prepare(rec, s) }), func(s *scene) {
				end = s
				s.puppet.say(listening + running)
				s.pass(time.Minute)
				s.plane.mu.Lock()
				if a := s.plane.traces[1]; a == nil || a.seal == nil {
					s.Error("it was not sealed while the job ran")
				}
				s.plane.mu.Unlock()
				s.puppet.say(completed)
				s.puppet.exit(0)
			})
			end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
			seal := end.plane.traces[1].seal
			if seal.Seal.Missing != c.why || seal.Seal.Segments != 0 || seal.Job.Name != "build (linux)" {
				t.Errorf("sealed with %+v", seal)
			}
			if n := strings.Count(end.log.String(), "trace: not recorded, because "+c.why); n != 1 {
				t.Errorf("said %d times:\n%s", n, end.log.String())
			}
		})
	}
}

func TestTraceKnowsItsJob(t *testing.T) {
	var end *scene
	play(t, traced(newTape()), func(s *scene) {
		end = s
		s.puppet.say(listening + running)
		s.pass(time.Second)
		word := filepath.Join(s.cfg.RunnerDir, hookDir, hookWord+".1")
		text := "GITHUB_REPOSITORY=octo/app\x00GITHUB_RUN_ID=77\x00GITHUB_RUN_ATTEMPT=2\x00GITHUB_JOB=build\x00GITHUB_WORKFLOW=CI\x00GITHUB_SHA=../../x\x00GITHUB_WORKSPACE=/w/app\x00GITHUB_TOKEN=canary-no\x00"
		if err := os.WriteFile(word, []byte(text), 0o600); err != nil {
			s.Fatal(err)
		}
		s.pass(time.Second)
		// A later word is a job's own.
		if err := os.WriteFile(word, []byte(strings.ReplaceAll(text, "octo", "evil")), 0o600); err != nil {
			s.Fatal(err)
		}
		s.pass(time.Minute)
		s.puppet.say(completed)
		s.puppet.exit(0)
	})
	want := trace.Job{Name: "build (linux)", Repository: "octo/app", RunID: 77, Attempt: 2, Key: "build", Workflow: "CI", Workspace: "/w/app"}
	known := 0
	for i, r := range end.plane.reports {
		switch {
		case r.Job == nil && known > 0:
			t.Errorf("report %d says nothing of the job", r.Seq)
		case r.Job != nil && *r.Job != want:
			t.Errorf("report %d: %+v", r.Seq, *r.Job)
		case r.Job != nil:
			if known++; known == 1 && end.plane.times[i].Sub(end.began) > 2500*time.Millisecond {
				t.Errorf("said %s after the start", end.plane.times[i].Sub(end.began))
			}
		}
	}
	if a := end.plane.traces[1]; known < 3 || a.job != want || a.seal.Job != want {
		t.Errorf("%d reports know the job; the trace: %+v", known, a.job)
	}
}

func TestTraceDelivery(t *testing.T) {
	// shoot runs a job of a minute with an event every 100 ms.
	shoot := func(t *testing.T, rec *tape, prepare func(*scene), during func(*scene, int)) *scene {
		var end *scene
		play(t, traced(rec, prepare), func(s *scene) {
			end = s
			s.puppet.say(listening + running)
			for i := range 300 {
				s.pass(100 * time.Millisecond)
				rec.events <- []trace.Event{ran(fmt.Sprintf("/p/%d", i))}
				if during != nil {
					during(s, i)
				}
			}
			s.puppet.say(completed)
			s.puppet.exit(0)
		})
		return end
	}
	execs := func(events []trace.Event) (n int) {
		for _, e := range events {
			if e.Type == trace.ProcessExec {
				n++
			}
		}
		return n
	}
	t.Run("AnswersLostAndErrors", func(t *testing.T) {
		end := shoot(t, newTape(), func(s *scene) {
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if path == wire.TracePath && try%4 == 1 || path == wire.TraceSealPath && try < 3 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				}
				return false
			}
			s.plane.lose = func(path string, try int) bool { return path == wire.TracePath && try%4 == 2 }
		}, nil)
		if n := execs(end.plane.whole(t, 1)); n != 300 {
			t.Errorf("%d programs", n)
		}
	})
	t.Run("ControlPlaneForgets", func(t *testing.T) { // restored from a backup
		end := shoot(t, newTape(), func(*scene) {}, func(s *scene, i int) {
			if i != 150 {
				return
			}
			s.plane.mu.Lock()
			defer s.plane.mu.Unlock()
			a := s.plane.traces[1]
			again := archived{}
			for n, data := range a.data[:len(a.data)-5] {
				if err := again.chain.Add(n+1, again.chain.Head.Next(n+1, data), data); err != nil {
					s.Error(err)
				}
				text, _ := trace.Unpack(data)
				for e := range trace.Events(bytes.NewReader(text)) {
					again.events = append(again.events, e)
				}
				again.data = append(again.data, data)
			}
			*a = again
		})
		if n := execs(end.plane.whole(t, 1)); n != 300 {
			t.Errorf("%d programs", n)
		}
	})
	t.Run("NotWanted", func(t *testing.T) {
		end := shoot(t, newTape(), func(s *scene) {
			s.plane.before = func(path string, _ int, w http.ResponseWriter) bool {
				if path != wire.TracePath && path != wire.TraceSealPath {
					return false
				}
				w.WriteHeader(http.StatusGone)
				return true
			}
		}, nil)
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
		if n := end.plane.tries[wire.TracePath]; n != 1 {
			t.Errorf("%d tries", n)
		}
	})
	t.Run("Refused", func(t *testing.T) {
		end := shoot(t, newTape(), func(s *scene) {
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if path != wire.TracePath || try < 10 {
					return false
				}
				w.WriteHeader(http.StatusBadRequest)
				return true
			}
		}, nil)
		a := end.plane.traces[1]
		if a.seal == nil || a.seal.Seal.Segments <= a.chain.Seq || end.plane.tries[wire.TracePath] != 10 {
			t.Errorf("after %d tries: %+v", end.plane.tries[wire.TracePath], a.seal)
		}
	})
	t.Run("DeadlineWithoutControlPlane", func(t *testing.T) { // S0-25
		end := shoot(t, newTape(), func(s *scene) {
			s.plane.before = func(path string, _ int, w http.ResponseWriter) bool {
				if path != wire.TracePath && path != wire.TraceSealPath {
					return false
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		}, nil)
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
		if end.ended < 90*time.Second || end.ended > 95*time.Second { // 30 s and 60 s
			t.Errorf("ended after %s", end.ended)
		}
	})
	t.Run("OutageOnDisk", func(t *testing.T) {
		// More waits than memory takes: arguments that hardly shrink.
		noise := strings.Repeat("0123456789abcdef", 8)
		rec := newTape()
		end := shoot(t, rec, func(s *scene) {
			s.plane.before = func(path string, _ int, w http.ResponseWriter) bool {
				if path != wire.TracePath || time.Since(s.began) > 29*time.Second {
					return false
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		}, func(s *scene, i int) {
			batch := make([]trace.Event, 100)
			for k := range batch {
				batch[k] = ran(fmt.Sprintf("/x/%d-%x", k, below(1<<60)), noise, fmt.Sprintf("%x%x%x%x", below(1<<60), below(1<<60), below(1<<60), below(1<<60)))
			}
			rec.events <- batch
		})
		if n := execs(end.plane.whole(t, 1)); n != 300*101 {
			t.Errorf("%d programs", n)
		}
	})
}

func TestTraceIsBounded(t *testing.T) { // 4-46
	rec := newTape()
	var end *scene
	play(t, traced(rec, func(s *scene) { s.plane.boot.Trace.MaxEvents = 500 }), func(s *scene) {
		end = s
		s.puppet.say(listening + running)
		s.pass(time.Second)
		for range 100 {
			var batch []trace.Event
			for range 50 {
				batch = append(batch, trace.Event{Type: trace.FileOpen, Timestamp: time.Now(), Path: "/etc/passwd"})
			}
			rec.events <- batch
			s.pass(100 * time.Millisecond)
		}
		rec.events <- []trace.Event{
			ran("/new/program"), {Type: trace.MemRead, Timestamp: time.Now(), Method: "proc_mem"},
			{Type: trace.NetConnect, Timestamp: time.Now(), Verdict: trace.VerdictDenied}, {Type: trace.NetConnect, Timestamp: time.Now()},
		}
		s.pass(time.Second)
		rec.lose("buffer_full", 10, true)
		rec.lose("buffer_full", 2, false)
		s.puppet.say(completed)
		s.puppet.exit(0)
	})
	events := end.plane.whole(t, 1)
	if len(events) > 520 {
		t.Errorf("%d events", len(events))
	}
	dropped, at := map[string]int64{}, -1
	var after []trace.Event
	for i, e := range events {
		if e.Type == trace.Dropped {
			dropped[e.Method+" "+e.Name] += e.Count
			if at < 0 {
				at = i
			}
		} else if at >= 0 {
			after = append(after, e)
		}
	}
	if at != 500 {
		t.Errorf("the marker is at %d", at)
	}
	if want := map[string]int64{"job_limit file_open": 5000 - 499, "job_limit net_connect": 1, "buffer_full ": 12}; !maps.Equal(dropped, want) {
		t.Errorf("dropped: %v, want %v", dropped, want)
	}
	if want := map[string]int64{"job_limit": 5000 - 499 + 1, "buffer_full": 12}; !maps.Equal(end.plane.traces[1].seal.Seal.Lost, want) {
		t.Errorf("lost: %v, want %v", end.plane.traces[1].seal.Seal.Lost, want)
	}
	if want := []string{"process_exec /new/program", "mem_read", "net_connect", "trace_end"}; !slices.Equal(story(after), want) {
		t.Errorf("after the limit: %q", story(after))
	}
}

// What has no room while the control plane is away is left out and counted, but for what tells
// of the trace itself; so is a segment that the disk does not take. 4-46
func TestTraceWithoutRoom(t *testing.T) {
	for name, full := range map[string]func(b *traceBox){
		"memory and disk are used up": func(b *traceBox) { b.memory, b.disk = maxTraceMemory, maxTraceDisk },
		"the disk refuses":            func(b *traceBox) { b.memory, b.dir = maxTraceMemory, filepath.Join(b.dir, "gone") },
	} {
		t.Run(name, func(t *testing.T) {
			packer, err := trace.NewPacker()
			if err != nil {
				t.Fatal(err)
			}
			log := slog.New(slog.DiscardHandler)
			tr := &tracer{packer: packer, box: newTraceBox(nil, log, t.TempDir()), log: log, hide: newRedaction(bootToken), told: map[string]int64{}, settings: wire.TraceSettings{MaxEvents: 1 << 40}}
			now := time.Now()
			tr.now = tr.fresh(now)
			tr.now.number = 1
			full(tr.box)
			for range 3 {
				tr.write(trace.Event{Type: trace.FileOpen, Timestamp: now, Path: "/x", Flags: "read", Count: 2}, now)
			}
			own := tr.box.room() // else only the trace's own events are written
			tr.write(trace.Event{Type: trace.StepStart, Timestamp: now, Step: 1}, now)
			if written := tr.now.count; own && written != 4 || !own && written != 1 {
				t.Errorf("%d events were written, with room %v", written, own)
			}
			tr.close()
			want := int64(6) // what three events stand for
			if own {
				want = 4 // all of the segment
			}
			if got := tr.now.lost[lostDisk]; got != want {
				t.Errorf("counted %d as lost, want %d", got, want)
			}
		})
	}
}

func TestTraceWithoutItsRecorder(t *testing.T) { // the node's was restarted, or the job has ended it
	rec := newTape()
	var end *scene
	play(t, traced(rec), func(s *scene) {
		end = s
		s.puppet.say(listening + running)
		s.pass(time.Second)
		rec.events <- []trace.Event{ran("/before")}
		s.pass(time.Second)
		rec.over()
		s.pass(time.Minute)
		s.puppet.say(completed)
		s.puppet.exit(0)
	})
	if got := story(end.plane.whole(t, 1)); !slices.Equal(got, []string{"trace_start", "process_exec /before", "dropped", "trace_end"}) {
		t.Errorf("the trace says %q", got)
	}
	if lost := end.plane.traces[1].seal.Seal.Lost; !maps.Equal(lost, map[string]int64{lostRecorder: 1}) {
		t.Errorf("lost: %v", lost)
	}
}

func TestControlPlaneIsReached(t *testing.T) {
	for address, want := range map[string][]string{
		"https://muster.example.com/": {"a", "muster.example.com:443"}, "http://127.0.0.1:8080": {"a", "127.0.0.1:8080"}, "http://[::1]": {"a", "[::1]:80"}, "virtio:x": {"a"},
	} {
		before := []string{"a", "b"}[:1]
		got := reaching(wire.TraceSettings{Egress: trace.Egress{Mode: trace.EgressEnforce, Allow: before}}, address)
		if !slices.Equal(got.Egress.Allow, want) || !slices.Equal(before[:2], []string{"a", "b"}) {
			t.Errorf("%s: %q", address, got.Egress.Allow)
		}
	}
}

func TestTraceEveryWayOut(t *testing.T) {
	for name, out := range map[string]func(*scene){
		"Signal": func(s *scene) { s.cancel() },
		"Stop": func(s *scene) {
			s.plane.mu.Lock()
			s.plane.answer = on(wire.PhaseHeartbeat, wire.CommandStop)
			s.plane.mu.Unlock()
		},
		"Crash":   func(s *scene) { s.puppet.exit(139) },
		"MaxAge":  func(*scene) {},
		"Deleted": func(s *scene) { s.puppet.say("The runner registration has been deleted\n"); s.puppet.exit(1) },
	} {
		t.Run(name, func(t *testing.T) {
			rec := newTape()
			var end *scene
			play(t, traced(rec, func(s *scene) { s.plane.boot.MaxSeconds = 600 }), func(s *scene) {
				end = s
				s.puppet.onInterrupt = func() { s.puppet.exit(0) }
				s.puppet.say(listening + running)
				s.pass(time.Second)
				rec.events <- []trace.Event{ran("/job")}
				s.pass(time.Second)
				out(s)
			})
			if got := story(end.plane.whole(t, 1)); !slices.Equal(got, []string{"trace_start", "process_exec /job", "trace_end"}) {
				t.Errorf("the trace says %q", got)
			}
			p := end.plane
			if last := p.reports[len(p.reports)-1]; last.Phase != wire.PhaseFinished || p.times[len(p.times)-1].Before(p.traces[1].sealed) {
				t.Errorf("last report: %+v", last)
			}
		})
	}
}

func TestTraceLosesLessThanASecond(t *testing.T) { // 4-45
	rec := newTape()
	play(t, traced(rec), func(s *scene) {
		s.puppet.say(listening + running)
		s.pass(time.Second)
		for range 100 {
			rec.events <- []trace.Event{ran("/x")}
			s.pass(50 * time.Millisecond)
			s.plane.mu.Lock()
			if a := s.plane.traces[1]; a != nil && time.Since(s.began) > 3*time.Second {
				if old := time.Since(a.events[len(a.events)-1].Timestamp); old >= time.Second {
					s.Errorf("what is newest at the control plane is %s old", old)
				}
			}
			s.plane.mu.Unlock()
		}
		s.puppet.say(completed)
		s.puppet.exit(0)
	})
}
