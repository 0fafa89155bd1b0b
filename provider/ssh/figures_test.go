package ssh

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider/providertest"
)

// realAgent returns the real agent: the one in MUSTER_BIN, as make test does, or one
// built for the test.
func realAgent(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("MUSTER_BIN"); dir != "" {
		return filepath.Join(dir, "muster-agent")
	}
	file := filepath.Join(t.TempDir(), "muster-agent")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, "github.com/muster-ci/muster/cmd/muster-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	return file
}

// plane is as much of a control plane as an agent needs to start a runner.
func plane(t testing.TB) (url string, booted func() <-chan time.Time) {
	calls := make(chan time.Time, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/v1/agent/boot" {
			calls <- time.Now()
			_ = json.NewEncoder(w).Encode(map[string]any{"runner": "r-any", "name": "any", "jit_config": "config", "session_token": "session", "heartbeat_seconds": 60})
			return
		}
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() <-chan time.Time { return calls }
}

// TestFigures measures what a runner costs over a loopback sshd on a machine that does
// whatever else it does: it asserts nothing about time. MUSTER_SSH_RUNS changes how often.
func TestFigures(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("MUSTER_SSH_RUNS"))
	if err != nil || runs < 1 {
		runs = 20
	}
	s := newSite(t, "#!/bin/sh\ntrap 'exit 0' INT\nwhile :; do sleep 1000; done\n")
	s.agent = realAgent(t)
	url, booted := plane(t)
	p := open(t, s.config("figures"))
	var connected, returned []time.Duration
	var first time.Duration
	for i := range runs + 1 {
		spec := specFor(muster.RunnerID(fmt.Sprintf("r-figure-%d", i)))
		spec.Boot.URL = url
		begun := time.Now()
		create(t, p, spec)
		back := time.Since(begun)
		at := (<-booted()).Sub(begun)
		if i == 0 {
			first = at // with the handshake, and with the agent sent
		} else {
			connected, returned = append(connected, at), append(returned, back)
		}
	}
	// What is the machine's because of them: shared pages count once (PSS).
	until(t, "they do not run", func() bool { return len(s.processes(t)) >= 3*(runs+1) })
	var pages int64
	for _, proc := range s.processes(t) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", proc.PID))
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(text), "\nPss:")
		var kib int64
		_, _ = fmt.Sscan(after, &kib)
		pages += kib
	}
	kib := pages / int64(runs+1)
	// One more call of each kind, for the proportions.
	look := time.Now()
	if _, err := list(t, p); err != nil {
		t.Fatal(err)
	}
	listed := time.Since(look)
	begun := time.Now()
	for i := range runs + 1 {
		destroy(t, p, muster.RunnerID(fmt.Sprintf("r-figure-%d", i)))
	}
	deleted := time.Since(begun) / time.Duration(runs+1)
	slices.Sort(connected)
	slices.Sort(returned)
	p50 := connected[len(connected)/2]
	t.Logf("create→connected: p50 %d ms, p90 %d ms, best %d ms (n=%d); the first on a new host %d ms, ×%.1f of p50",
		p50.Milliseconds(), connected[len(connected)*9/10].Milliseconds(), connected[0].Milliseconds(), runs, first.Milliseconds(), float64(first)/float64(p50))
	t.Logf("Create returns after %.0f %% of that; a list of %d takes %d ms, ×%.1f; a deletion %d ms, ×%.1f",
		100*float64(returned[len(returned)/2])/float64(p50), runs+1, listed.Milliseconds(), float64(listed)/float64(p50), deleted.Milliseconds(), float64(deleted)/float64(p50))
	t.Logf("memory per idle runner on the host: %.1f MiB (PSS of the agent, with a shell in place of GitHub's runner)", float64(kib)/1024)
	providertest.Figure(t, "ssh", providertest.FigureConnect, fmt.Sprintf("%d ms (n=%d)", p50.Milliseconds(), runs))
	providertest.Figure(t, "ssh", providertest.FigureMemory, fmt.Sprintf("%d MiB", (kib+512)/1024))
}
