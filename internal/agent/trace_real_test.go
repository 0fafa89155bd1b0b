//go:build linux

package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// stepped is a job of two steps, with the log that the runner's worker keeps of it: %s are
// the commands of the steps.
const stepped = `
	mkdir -p "$DIR/_diag"
	log() { printf '[%%s INFO %%s\n' "$(date -u '+%%Y-%%m-%%d %%H:%%M:%%SZ')" "$1" >> "$DIR/_diag/Worker_20260301-100000-utc.log"; }
	log 'JobRunner] Job ID 1'
	[ -z "$ACTIONS_RUNNER_HOOK_JOB_STARTED" ] || GITHUB_REPOSITORY=octo/app GITHUB_RUN_ID=7 GITHUB_RUN_ATTEMPT=1 GITHUB_JOB=build bash -e "$ACTIONS_RUNNER_HOOK_JOB_STARTED" || echo "the hook failed"
	sleep 0.1
	step() {
		log "StepsRunner] Processing step: DisplayName='$1'"
		log 'StepsRunner] Starting the step.'
		sleep 0.4
		bash -c "$2"
		log 'StepsRunner] Step result: '
		log "StepsRunner] No need for updating job result with current step result 'Succeeded'."
	}
	step one %s
	step two %s
	log 'JobRunner] Finalize job.'
`

func (s *stage) traced() {
	s.plane.boot.Trace = &wire.TraceSettings{SealSeconds: 20}
}

// ranIn are the names of steps in which each program ran.
func ranIn(events []trace.Event) map[string][]string {
	names := map[int]string{}
	in := map[string][]string{}
	for _, e := range events {
		switch e.Type {
		case trace.StepStart:
			names[e.Step] = e.Name
		case trace.ProcessExec:
			key := strings.Join(e.Args, " ")
			if !slices.Contains(in[key], names[e.Step]) {
				in[key] = append(in[key], names[e.Step])
			}
		}
	}
	return in
}

func TestTraceReal(t *testing.T) { // S0-20 S0-23 4-47
	s := mount(t, fmt.Sprintf(job, fmt.Sprintf(stepped, `'/bin/echo first; (/bin/sleep 0.01 &) ; cat /etc/hostname'`, `'setsid sh -c "sleep 0.02; /bin/echo second --token=abcdef123456"'`)))
	s.traced()
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	events := s.plane.whole(t, 1)
	in := ranIn(events)
	for args, want := range map[string]string{
		"/bin/echo first": "one", "/bin/sleep 0.01": "one", "cat /etc/hostname": "one", "sleep 0.02": "two", "/bin/echo second --token=***": "two",
	} {
		if !slices.Equal(in[args], []string{want}) {
			t.Errorf("%s ran in %q, want %s", args, in[args], want)
		}
	}
	first := slices.IndexFunc(events, func(e trace.Event) bool { return e.Type == trace.ProcessExec && e.Method == "" })
	if first < 0 || !strings.HasSuffix(strings.Join(events[first].Args, " "), "/run.sh") {
		t.Errorf("the first program is not run.sh: %+v", events[first])
	}
	for _, e := range events {
		if e.Type == trace.ProcessExec && (e.PID == 0 || e.Start == 0 || e.Path == "") {
			t.Errorf("whose is it? %+v", e)
		}
		if e.Timestamp.IsZero() || time.Since(e.Timestamp) > time.Minute {
			t.Errorf("when was it? %+v", e)
		}
	}
	if job := s.plane.traces[1].job; job.Repository != "octo/app" || job.RunID != 7 || job.Name != "build" {
		t.Errorf("job: %+v", job)
	}
	if strings.Contains(s.stdout.String(), "the hook failed") {
		t.Error("the hook failed")
	}
}

func TestTraceOfAKilledAgent(t *testing.T) { // 4-45
	s := mount(t, fmt.Sprintf(job, `echo $$ > "$DIR/group.new"; mv "$DIR/group.new" "$DIR/group"; while :; do /bin/true "$((i++))"; sleep 0.01; done`))
	s.traced()
	s.start()
	group, err := strconv.Atoi(strings.TrimSpace(s.file("group")))
	if err != nil {
		t.Fatal(err)
	}
	// What the agent would have ended ends with the test.
	t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
	s.until("nothing is shipped", func() bool {
		s.plane.mu.Lock()
		defer s.plane.mu.Unlock()
		return s.plane.traces[1] != nil && len(s.plane.traces[1].events) > 200
	})
	killed := time.Now()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	a := s.plane.traces[1]
	last := a.events[len(a.events)-1].Timestamp
	if lost := killed.Sub(last); lost > time.Second || a.seal != nil {
		t.Errorf("%s of it is lost; sealed: %v", lost, a.seal != nil)
	}
	t.Logf("lost: %s of the trace", killed.Sub(last))
}

// TestTraceOfAStorm: a job that starts programs as fast as it can loses nothing.
func TestTraceOfAStorm(t *testing.T) { // 4-46
	const programs = 3000
	s := mount(t, fmt.Sprintf(job, fmt.Sprintf(`for i in $(seq 4); do ( for k in $(seq %d); do /bin/true; done ) & done; wait`, programs/4)))
	s.traced()
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	events := s.plane.whole(t, 1)
	var execs, exits int
	for _, e := range events {
		switch {
		case e.Type == trace.ProcessExec && strings.HasSuffix(e.Path, "/true"):
			execs += int(max(e.Count, 1))
		case e.Type == trace.ProcessExit && e.Command == "true":
			exits += int(max(e.Count, 1))
		}
	}
	if execs != programs || exits != programs || len(s.plane.traces[1].seal.Seal.Lost) != 0 {
		t.Errorf("%d programs began and %d ended, of %d; lost: %v", execs, exits, programs, s.plane.traces[1].seal.Seal.Lost)
	}
}

// TestTraceOfAStoppedAgent: a job stops the agent, does something, and lets it go on.
func TestTraceOfAStoppedAgent(t *testing.T) { // 4-45
	s := mount(t, fmt.Sprintf(job, `agent=$PPID; sleep 1; kill -STOP $agent; sleep 3; /bin/echo while it slept; kill -CONT $agent; sleep 0.5`))
	s.traced()
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	var stopped, signals, seen int
	for _, e := range s.plane.whole(t, 1) {
		switch {
		case e.Type == trace.Tamper && e.Method == "stopped":
			stopped++
			if e.DurationUS < 2_000_000 || e.Target != s.cmd.Process.Pid {
				t.Errorf("stopped: %+v", e)
			}
		case e.Type == trace.Tamper && e.Signal == int(syscall.SIGSTOP):
			signals++
			if e.Target != s.cmd.Process.Pid || e.PID == 0 {
				t.Errorf("signal: %+v", e)
			}
		case e.Type == trace.ProcessExec && slices.Equal(e.Args, []string{"/bin/echo", "while", "it", "slept"}):
			seen++
		}
	}
	if stopped != 1 || signals != 1 || seen != 1 {
		t.Errorf("%d stops, %d signals, what happened meanwhile was seen %d times", stopped, signals, seen)
	}
}

// TestTraceOfAJobThatKillsItsAgent: the last that is known is who did it, and no seal
// says that this is all.
func TestTraceOfAJobThatKillsItsAgent(t *testing.T) { // 4-45
	s := mount(t, fmt.Sprintf(job, `echo $$ > "$DIR/group.new"; mv "$DIR/group.new" "$DIR/group"; agent=$PPID; sleep 1; kill -STOP $agent; kill -CONT $agent; sleep 1; kill -KILL $agent; sleep 1000`))
	s.traced()
	s.start()
	group, err := strconv.Atoi(strings.TrimSpace(s.file("group")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
	_ = s.cmd.Wait()
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	a := s.plane.traces[1]
	if a == nil || a.seal != nil {
		t.Fatal("sealed, or nothing arrived")
	}
	if !slices.ContainsFunc(a.events, func(e trace.Event) bool {
		return e.Type == trace.Tamper && e.Target == s.cmd.Process.Pid && e.Signal == int(syscall.SIGSTOP)
	}) {
		t.Errorf("the attempt before is not there:\n%s", strings.Join(story(a.events), "\n"))
	}
	if last := a.events[len(a.events)-1].Timestamp; time.Since(last) > 20*time.Second {
		t.Errorf("the last event is of %s", last)
	}
}
