package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// runnerImage is an image with the simulator's runner where GitHub's image has its own.
const runnerImage = "localhost/muster-runner:1"

// podman starts an engine with the runner's image.
func podman(t *testing.T) *enginetest.Engine {
	t.Helper()
	e := enginetest.Podman(t, enginetest.Options{})
	files := []enginetest.File{{Name: "/home/runner/bin/Runner.Listener", Mode: 0o755, UID: 1001, From: filepath.Join(Programs(t), "actions-runner")}}
	for name, text := range runner.Scripts("") {
		files = append(files, enginetest.File{Name: "/home/runner/" + name, Mode: 0o755, UID: 1001, Text: text})
	}
	e.AddImage(t, runnerImage, files...)
	return e
}

// inContainers is a stand whose runners are containers of an engine, as an
// unprivileged user. The network is the engine's machine's, because the control plane
// and GitHub are on its loopback interface.
func inContainers(e *enginetest.Engine, max int) func(*Stand) string {
	return func(s *Stand) string {
		return fmt.Sprintf("kind: container\nconfig: {host: %q, agent: %q, image: %q, pull: never, user: runner, network: host, max: %d, grace: 1s}\n", e.Host, filepath.Join(s.bin, "muster-agent"), runnerImage, max)
	}
}

// S4-46 S4-51 4-14 4-51: jobs run in containers, also when the control plane is killed while they do and the
// engine's service is killed beside them; each runs once, has its receipt, and the engine's own tool counts no
// container in the end. The tokens are in no argument and in nothing that the engine shows.
func TestContainers(t *testing.T) {
	if !enginetest.Isolate(t) {
		return
	}
	e := podman(t)
	h := &hoard{secrets: map[string]string{}}
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 61}, MaxRunners: 3, Provider: inContainers(e, 3), Settings: "log: {level: debug}\n" + quick,
		Pool:        "no_job_timeout: 5s, connect_timeout: 30s",
		WatchAgents: func(x Exchange) { h.bearer("a token of an agent", x) },
	})
	argv := arguments(t)
	p := s.Serve(t)
	s.Inject(t, 5, 700*time.Millisecond)
	var shown strings.Builder
	eventually(t, 30*time.Second, func() (bool, string) {
		names := e.Containers(t)
		for _, n := range names {
			text, _ := e.Try("inspect", n) // it may be gone meanwhile
			shown.WriteString(text)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(names) > 0 && len(h.secrets) > 0, fmt.Sprintf("containers %v", names)
	})
	p.Kill()
	e.Kill()
	e.Start(t)
	s.Serve(t)
	s.AwaitJobs(t, 5, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	// The test has a pid namespace of its own, in which nothing can be recorded; it is told.
	resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range resp.Traces {
		if tr.State != "not_recorded" || tr.Reason == "" {
			t.Errorf("%v", tr)
		}
	}
	if len(resp.Traces) != 5 {
		t.Errorf("%d traces of 5 jobs", len(resp.Traces))
	}
	if left := e.Containers(t); len(left) > 0 {
		t.Errorf("the engine has %v", left)
	}
	h.find(t, "the engine's inspection", []byte(shown.String()))
	for line := range argv() {
		h.find(t, "the arguments of a process", []byte(line))
	}
}

// The chaos of every provider, on containers.
func TestContainersChaos(t *testing.T) {
	if !enginetest.Isolate(t) {
		return
	}
	e := podman(t)
	chaos(t, backend{
		kind: "container",
		ready: func(*testing.T) Options {
			return Options{Provider: inContainers(e, 12), Pool: "no_job_timeout: 20s, connect_timeout: 30s"}
		},
		count: func(t *testing.T, _ *Stand) []string { return e.Containers(t) },
		kill: func(_ *testing.T, _ *Stand, machine string) {
			_, _ = e.Try("kill", machine) // it may have ended
		},
	})
	if left := e.Containers(t); len(left) > 0 {
		t.Errorf("the engine has %v", left)
	}
	if v := strings.Fields(e.Tool(t, "volume", "ls", "-q")); len(v) > 0 {
		t.Errorf("the engine has volumes %v", slices.Clip(v))
	}
	providertest.Survived(t, "container", "every fifth call to the engine goes wrong while control plane and machines are killed")
}

// recordedWorkflow is what a job does in a container. %d is a port that it reaches.
const recordedWorkflow = `name: recorded
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, linux]
    steps:
      - name: Make
        run: |
          mkdir -p /tmp/out
          echo made > /tmp/out/first
          mv /tmp/out/first /tmp/out/second
      - name: Leave
        run: |
          setsid sh -c '(echo far > /tmp/out/daemon) &'
          while [ ! -s /tmp/out/daemon ]; do :; done
          wget -q -O /tmp/out/page http://127.0.0.1:%[1]d/
`

// S0-20 S4-46 S4-56: what a job does in a container is recorded whole, by a recorder of the machine's that the
// provider starts: the paths are the container's, the numbers of processes the machine's, and every event names the
// container. Where no recorder can be started, the job runs all the same and its trace says why it has none.
func TestContainersAreRecorded(t *testing.T) {
	if !enginetest.IsolateOnNode(t) {
		return
	}
	e := podman(t)
	reached := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
	defer reached.Close()
	port := reached.Listener.Addr().(*net.TCPAddr).Port
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 67}, MaxRunners: 1, Provider: inContainers(e, 1), World: repositoryWith(fmt.Sprintf(recordedWorkflow, port)),
		Pool: "no_job_timeout: 20s, connect_timeout: 30s",
	})
	s.Serve(t)
	run := func(n int) {
		t.Helper()
		if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
			t.Fatal(err)
		}
		s.AwaitJobs(t, n, time.Minute)
	}
	run(1)
	tr := s.analysed(t, 1)["build"]
	if tr == nil || tr.State != "complete" || tr.JobId == 0 || len(tr.Lost) > 0 || tr.AnalysisError != "" {
		t.Fatalf("trace: %v", tr)
	}
	text, stderr, code := s.CLI(t, "trace", "get", fmt.Sprint(tr.JobId))
	if code != 0 {
		t.Fatalf("trace get: %s", stderr)
	}
	steps, at, containers := map[int]string{}, map[string]string{}, map[string]int{}
	for e, err := range trace.Events(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		if e.PID > 0 {
			containers[e.Container]++
			if e.UID != 1001 && e.Method != "running" {
				t.Errorf("user %d: %+v", e.UID, e)
			}
		}
		switch {
		case e.Type == trace.TraceStart:
			if len(e.Recorder.Missing) > 0 || !slices.Contains(e.Recorder.Extras, "node") {
				t.Errorf("recorder %+v", e.Recorder)
			}
		case e.Type == trace.StepStart:
			steps[e.Step] = e.Name
		case e.Type == trace.FileOpen && e.Path == "/tmp/out/first" && e.Opened("create"):
			at["open"] = steps[e.Step]
		case e.Type == trace.FileWrite && e.Path == "/tmp/out/first" && e.Bytes == 5:
			at["write"] = steps[e.Step]
		case e.Type == trace.FileRename && e.Path == "/tmp/out/first" && e.NewPath == "/tmp/out/second":
			at["rename"] = steps[e.Step]
		case e.Type == trace.FileWrite && e.Path == "/tmp/out/daemon" && e.Bytes == 4:
			at["daemon"] = steps[e.Step]
		case e.Type == trace.NetConnect && e.Address == "127.0.0.1" && e.Port == port:
			at["connect"] = steps[e.Step]
		case e.Type == trace.ProcessExec && slices.Contains(e.Args, "wget") && e.Path == "/bin/busybox":
			at["exec"] = steps[e.Step]
		}
	}
	for what, step := range map[string]string{"open": "Make", "write": "Make", "rename": "Make", "daemon": "Leave", "connect": "Leave", "exec": "Leave"} {
		if at[what] != step {
			t.Errorf("%s happened in step %q, which is %q", what, at[what], step)
		}
	}
	for id := range containers {
		if len(id) != 64 {
			t.Errorf("events of containers %v", containers)
		}
	}
	if len(containers) != 1 {
		t.Errorf("events of containers %v", containers)
	}
	if t.Failed() {
		t.Log(text)
	}

	// Nobody can listen there any more.
	endRecorders(t)
	if err := unix.Mount("none", "/run/muster", "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	run(2)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, tr := range resp.Traces {
		states[tr.State] = tr.Reason
	}
	if _, whole := states["complete"]; !whole || len(resp.Traces) != 2 || !strings.Contains(states["not_recorded"], "capabilities") {
		t.Errorf("traces %v", resp.Traces)
	}
}

// endRecorders ends the recorders of this test's namespaces, and waits until they are gone.
func endRecorders(t *testing.T) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	ours := func() (found []int) {
		args, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, at := range args {
			text, _ := os.ReadFile(at) // it may have ended
			dir := filepath.Dir(at)
			if mounts, _ := os.Readlink(dir + "/ns/mnt"); mounts != own || !strings.Contains(string(text), "\x00record\x00") {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
				found = append(found, pid)
			}
		}
		return found
	}
	if len(ours()) == 0 {
		t.Error("no recorder is running")
	}
	eventually(t, 10*time.Second, func() (bool, string) {
		left := ours()
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0, fmt.Sprintf("recorders %v", left)
	})
}
