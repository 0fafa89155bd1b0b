//go:build linux

package main_test

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/process"
)

// build makes the agent as it is released.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "muster-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func TestAgentIsSmallAndStatic(t *testing.T) {
	path := build(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 20<<20 {
		t.Errorf("muster-agent has %d bytes, and machines wait for it", info.Size())
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("needs %v (%v), which an image may not have", libs, err)
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil || string(out) != "muster-agent 1.2.3\n" {
		t.Errorf("version: %q, %v", out, err)
	}
	// S0-13: no server, no database, no App key inside the machine.
	deps, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(deps)) {
		dep = strings.TrimSpace(dep)
		first, _, _ := strings.Cut(dep, "/")
		switch dep {
		case "github.com/muster-ci/muster", "github.com/muster-ci/muster/cmd/muster-agent",
			"github.com/muster-ci/muster/internal/agent", "github.com/muster-ci/muster/internal/wire", "github.com/muster-ci/muster/internal/proc",
			"github.com/muster-ci/muster/internal/guest",                                                   // the agent of a virtual machine without a network
			"github.com/muster-ci/muster/internal/trace", "github.com/muster-ci/muster/internal/agent/bpf": // what it records
		default:
			if strings.Contains(first, ".") && !carried(dep) || dep == "database/sql" {
				t.Errorf("the agent depends on %s", dep)
			}
		}
	}
}

// carried reports whether a package is of a library that the recording of jobs needs: to
// compress, to load programs into the kernel, and to read and compare names of hosts.
func carried(dep string) bool {
	for _, library := range []string{"github.com/klauspost/compress", "github.com/cilium/ebpf", "golang.org/x/net/", "golang.org/x/text/", "golang.org/x/sys/"} {
		if strings.HasPrefix(dep, library) {
			return true
		}
	}
	return false
}

// TestJobOnProcessProvider runs the released agent on the process provider, from
// Create to proven gone.
func TestJobOnProcessProvider(t *testing.T) { // S0-18 S1-67 S1-69
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "template"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/bash
unset ACTIONS_RUNNER_INPUT_JITCONFIG
echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Listening for Jobs"
echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Running job: build"
touch .runner; env -i setsid sleep 3001 &
echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Job build completed with result: Succeeded"
`
	if err := os.WriteFile(filepath.Join(dir, "template", "run.sh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var reports []wire.Report
	var seal wire.TraceSeal
	finished := make(chan struct{})
	var began, booted time.Time
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case wire.BootPath:
			booted = time.Now()
			if r.Header.Get("Authorization") != "Bearer boot-token" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(wire.BootResponse{Runner: "r-real", SessionToken: "session-token", JITConfig: "jit-config", NoJobSeconds: 120, HeartbeatSeconds: 5, Trace: &wire.TraceSettings{}})
		case wire.TraceSealPath:
			if err := json.NewDecoder(r.Body).Decode(&seal); err != nil || len(reports) > 0 && reports[len(reports)-1].Phase == wire.PhaseFinished {
				t.Errorf("the seal came after the last report, or not whole: %v", err)
			}
			_, _ = w.Write([]byte("{}"))
		default:
			var rep wire.Report
			if r.URL.Path == wire.ReportPath && json.NewDecoder(r.Body).Decode(&rep) == nil {
				reports = append(reports, rep)
				if rep.Phase == wire.PhaseFinished {
					close(finished)
				}
			}
			_, _ = w.Write([]byte("{}"))
		}
	}))
	defer srv.Close()

	c := process.Defaults()
	c.Agent, c.RunnerDir, c.Root, c.Owner, c.Cgroup = build(t), filepath.Join(dir, "template"), filepath.Join(dir, "runners"), "test", "muster-test"
	p, err := process.New(c)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	began = time.Now()
	mu.Unlock()
	spec := provider.Spec{Runner: "r-real", Boot: provider.Boot{URL: srv.URL, Token: "boot-token"}, MaxAge: time.Hour, Trace: true}
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	select {
	case <-finished:
	case <-time.After(time.Minute):
		text, _ := p.Console(t.Context(), "r-real", 4096)
		t.Errorf("it did not finish:\n%s", text)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		inst, err := p.Get(t.Context(), "r-real")
		if err != nil {
			t.Fatal(err)
		}
		if inst.State == provider.InstanceEnded {
			if inst.Detail != "its agent ended with code 0" {
				t.Errorf("detail: %s", inst.Detail)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not end")
		}
		<-time.After(5 * time.Millisecond)
	}
	text, err := p.Console(t.Context(), "r-real", 1<<20)
	if err != nil || !strings.Contains(string(text), "Running job: build") || strings.Contains(string(text), "-token") || strings.Contains(string(text), "jit-config") {
		t.Errorf("console: %v\n%s", err, text)
	}
	if err := p.Delete(t.Context(), "r-real"); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "template", ".runner")); !os.IsNotExist(err) {
		t.Error("the runner wrote into the template")
	}
	mu.Lock()
	defer mu.Unlock()
	if last := reports[len(reports)-1]; last.Reason != "job finished" || last.Result != "Succeeded" {
		t.Errorf("last report: %+v", last)
	}
	// S0-20 S0-23: it was recorded, in whatever control group the provider has put it.
	if seal.Seal.Missing != "" || seal.Seal.Segments == 0 || seal.Seal.Events == 0 || len(seal.Seal.Lost) != 0 {
		t.Errorf("the trace: %+v", seal)
	}
	if os.Geteuid() == 0 && !slices.Contains(seal.Recorder.Extras, "node") {
		t.Errorf("the agent has a recorder of its own: %+v", seal.Recorder)
	}
	t.Logf("recorder: %+v", seal.Recorder)
	t.Logf("from Create to the boot request: %s", booted.Sub(began))
}

// A machine's agents share one recorder: it is started once, outlives who started it, and ends
// when it has nothing to record.
func TestRecorderIsShared(t *testing.T) {
	agent, socket := build(t), filepath.Join(t.TempDir(), "shared.sock")
	start := func() {
		t.Helper()
		cmd := exec.Command(agent, "record", "--detach", "--socket", socket, "--idle", "6s")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	start()
	first, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	start()
	second, err := os.Stat(socket)
	if err != nil || !os.SameFile(first, second) {
		t.Errorf("a second one was started: %v", err)
	}
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		left, err := filepath.Glob(socket + "*")
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not end, or leaves %v", left)
		}
	}
	// One that cannot record says why at once.
	cmd := exec.Command("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", agent, "record", "--detach", "--socket", socket, "--idle", "2s")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "nothing can be recorded") {
		t.Errorf("without rights: %v\n%s", err, out)
	}
}
