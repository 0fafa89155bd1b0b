//go:build linux

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/muster-ci/muster/githubsim"
	simrunner "github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// simulated has the stage's runner be that of a simulated GitHub, which has the given
// steps for it.
func (s *stage) simulated(steps ...workflow.Step) {
	s.Helper()
	sim, ask := s.github()
	s.plane.boot.Registration = nil
	s.plane.boot.JITConfig = ask("generate-jitconfig", `{"name":"r","runner_group_id":1,"labels":["linux"]}`, "encoded_jit_config")
	s.queue(sim, steps...)
}

// queue has the simulated GitHub wait for a runner with a job.
func (s *stage) queue(sim *githubsim.Server, steps ...workflow.Step) {
	s.Helper()
	if _, err := sim.InjectJob(githubsim.JobOptions{Repo: "acme/web", Labels: []string{"linux"}, Steps: steps}); err != nil {
		s.Fatal(err)
	}
}

// github starts a simulated GitHub and makes the stage's directory that of its runner. ask posts
// to a route of its runners and returns one member of the answer.
func (s *stage) github() (sim *githubsim.Server, ask func(path, body, member string) string) {
	s.Helper()
	sim = githubsim.New(githubsim.Config{Seed: 1, RecordLinger: -1, OfflineAfter: time.Second})
	s.Cleanup(func() {
		if err := sim.Close(); err != nil {
			s.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	url, err := sim.Start(context.Background(), "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	for _, err := range []error{sim.CreateOrganization("acme"), sim.CreateRepository("acme/web", githubsim.RepositoryOptions{Files: fstest.MapFS{"hello.txt": {Data: []byte("hello\n")}}})} {
		if err != nil {
			s.Fatal(err)
		}
	}
	token, err := sim.CreateToken("acme", "admin:org")
	if err != nil {
		s.Fatal(err)
	}
	ask = func(path, body, member string) string {
		s.Helper()
		req, err := http.NewRequest(http.MethodPost, url+"/api/v3/orgs/acme/actions/runners/"+path, strings.NewReader(body))
		if err != nil {
			s.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			s.Fatal(err)
		}
		defer res.Body.Close()
		var answer map[string]any
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != http.StatusCreated {
			s.Fatalf("%s: %v %v", res.Status, answer, err)
		}
		return answer[member].(string)
	}
	s.plane.boot.Registration = &wire.Registration{URL: url + "/acme", Labels: []string{"linux"}}
	program := filepath.Join(s.TempDir(), "actions-runner")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "github.com/muster-ci/muster/githubsim/actions-runner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("build: %v\n%s", err, out)
	}
	if err := simrunner.WriteDir(s.dir, program); err != nil {
		s.Fatal(err)
	}
	return sim, ask
}

// TestTracesOfAKeptRunner runs short jobs one after another on one runner: each has a trace
// of its own, with its own programs and its own name.
func TestTracesOfAKeptRunner(t *testing.T) { // S0-20 S0-24
	s := mount(t, "")
	s.traced()
	sim, ask := s.github()
	s.plane.boot.Registration.Token = ask("registration-token", "{}", "token")
	s.plane.boot.JITConfig = ""
	s.env("GITHUBSIM_RUNNER_FLUSH=1ms")
	for i := range 3 {
		s.queue(sim, workflow.Step{Name: "the only one", Run: fmt.Sprintf("/bin/echo of-job-%d", i)})
	}
	s.start()
	s.until("three traces are not sealed", func() bool {
		s.plane.mu.Lock()
		defer s.plane.mu.Unlock()
		return s.plane.traces[3] != nil && s.plane.traces[3].seal != nil
	})
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	s.end(ExitDone)
	if len(s.plane.traces) != 3 {
		t.Errorf("%d traces", len(s.plane.traces))
	}
	runs := map[int64]bool{}
	for i := range 3 {
		in := ranIn(s.plane.whole(t, i+1))
		for k := range 3 {
			want := []string(nil)
			if k == i {
				want = []string{"the only one"}
			}
			if got := in[fmt.Sprintf("/bin/echo of-job-%d", k)]; !slices.Equal(got, want) {
				t.Errorf("trace %d: the program of job %d ran in %q", i+1, k, got)
			}
		}
		runs[s.plane.traces[i+1].job.RunID] = true
	}
	if len(runs) != 3 || runs[0] {
		t.Errorf("the traces are of the runs %v", runs)
	}
}

// TestTraceOfASimulatedJob runs a job of many short steps on a runner that behaves as
// GitHub's: every program is in the step that started it, however short that is.
func TestTraceOfASimulatedJob(t *testing.T) { // S0-20 S0-21 S0-23
	s := mount(t, "")
	s.traced()
	own := filepath.Join(t.TempDir(), "own.sh")
	if err := os.WriteFile(own, []byte("/bin/echo the operator\\'s own hook\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.env("ACTIONS_RUNNER_HOOK_JOB_STARTED="+own, "GITHUBSIM_RUNNER_FLUSH=1ms")
	var steps []workflow.Step
	for i := range 20 {
		steps = append(steps, workflow.Step{Name: fmt.Sprintf("It's step %d — \"ü\"", i), Run: fmt.Sprintf("/bin/echo of-%d\n(/bin/true of-%d)\nsh -c '/bin/ls /etc/hostname of-%d || /bin/true'", i, i, i)})
	}
	steps = append(steps,
		workflow.Step{Uses: "actions/checkout@v4"},
		workflow.Step{Name: "fails", Run: "exit 3", ContinueOnError: "true"},
		workflow.Step{Name: "skipped", Run: "/bin/echo never", If: "false"})
	s.simulated(steps...)
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	events := s.plane.whole(t, 1)
	in := ranIn(events)
	for i := range 20 {
		for _, args := range []string{"/bin/echo of-%d", "/bin/true of-%d", "/bin/ls /etc/hostname of-%d"} {
			if got := in[fmt.Sprintf(args, i)]; !slices.Equal(got, []string{fmt.Sprintf("It's step %d — \"ü\"", i)}) {
				t.Errorf(args+" ran in %q", i, got)
			}
		}
	}
	if got := in["/bin/echo the operator's own hook"]; !slices.Equal(got, []string{"Set up runner"}) {
		t.Errorf("the operator's own hook ran in %q", got)
	}
	var names, results []string
	var last time.Time
	for _, e := range events {
		if e.Type == trace.StepEnd {
			names, results = append(names, e.Name), append(results, e.StepKind+" "+e.Result)
		}
		if e.Type == trace.StepStart && e.Timestamp.Before(last) {
			t.Errorf("a step began before the one before: %+v", e)
		}
		if e.Type == trace.StepStart {
			last = e.Timestamp
		}
	}
	n := len(names)
	if n != 27 || names[0] != "Set up job" || names[1] != "Set up runner" || names[2] != steps[0].Name || names[n-1] != "Complete job" || names[n-2] != "Post Run actions/checkout@v4" {
		t.Errorf("%d steps: %q", n, names)
	}
	if results[1] != "hook succeeded" || results[2] != "run succeeded" || results[22] != "uses succeeded" || results[24] != " skipped" {
		t.Errorf("kinds and results: %q", results)
	}
	job := s.plane.traces[1].job
	if job.Repository != "acme/web" || job.RunID == 0 || job.Attempt != 1 || job.Key == "" || job.SHA == "" || job.Workspace != filepath.Join(s.dir, "_work", "web", "web") {
		t.Errorf("job: %+v", job)
	}
	known := slices.ContainsFunc(s.plane.reports, func(r wire.Report) bool { return r.Job != nil && r.Job.RunID == job.RunID && r.Busy })
	if !known {
		t.Error("no report says which job runs while it does")
	}
	if r := events[0].Recorder; bytes.Contains(s.stderr.Bytes(), []byte("not recorded")) || r.Kernel == "" || r.Scope == "" || r.Agent != "test" {
		t.Errorf("recorder: %+v\n%s", r, s.stderr.String())
	}
}
