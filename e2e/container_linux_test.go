package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
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
