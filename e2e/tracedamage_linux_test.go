package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
)

// C24 4-45: a segment that is lost after the seal is told: by whoever reads the trace first, on
// its page, in its state, in a metric and in the check of all traces, also after a restart; and
// put back from a backup, the trace is what it was.
func TestLossAfterTheSealIsTold(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 75}, World: repositoryWith(`name: two
on: workflow_dispatch
jobs:
  kept:
    runs-on: [self-hosted, linux]
    steps: [{run: /bin/true}]
  hurt:
    runs-on: [self-hosted, linux]
    steps: [{run: for i in 1 2 3; do /bin/true; sleep 1; done}]
`), Settings: quick})
	p := s.Serve(t)
	if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
		t.Fatal(err)
	}
	s.AwaitJobs(t, 2, time.Minute)
	hurt := s.analysed(t, 2)["hurt"]
	if hurt.GetState() != "complete" || hurt.Segments < 2 {
		t.Fatalf("%v", hurt)
	}
	job := fmt.Sprint(hurt.JobId)
	said := func(code int, texts []string, args ...string) string {
		t.Helper()
		stdout, stderr, got := s.CLI(t, args...)
		for _, text := range texts {
			if !strings.Contains(stdout+stderr, text) {
				t.Errorf("muster %s does not say %q: %s%s", strings.Join(args, " "), text, stdout, stderr)
			}
		}
		if got != code {
			t.Errorf("muster %s ended with %d: %s%s", strings.Join(args, " "), got, stdout, stderr)
		}
		return stdout
	}
	fetched := func(path string) string {
		t.Helper()
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, err)
		}
		return string(text)
	}
	said(0, []string{"2 traces checked", "no problems"}, "trace", "check")
	said(0, []string{"verified"}, "trace", "verify", job)

	paths, err := filepath.Glob(filepath.Join(s.Dir, "data", "traces", "*", hurt.Runner, "1", "segments", "*.zst"))
	if err != nil || len(paths) != int(hurt.Segments) {
		t.Fatalf("%v of %d segments, %v", paths, hurt.Segments, err)
	}
	last := paths[len(paths)-1]
	backup, err := os.ReadFile(last)
	if err == nil {
		err = os.Remove(last)
	}
	if err != nil {
		t.Fatal(err)
	}
	missing := fmt.Sprintf("segment %d of %d is missing in the archive", hurt.Segments, hurt.Segments)
	said(1, []string{"does not hold", missing}, "trace", "verify", job)
	again := func() {
		t.Helper()
		said(1, []string{missing}, "trace", "get", job)
		said(0, []string{"truncated: " + missing, "The trace is damaged"}, "trace", "show", job)
		said(1, []string{"damaged      " + hurt.Id, missing, "2 traces checked", "problems: 1 damaged"}, "trace", "check")
		if page := fetched("/jobs/" + job); !strings.Contains(page, "Damaged since it was stored: "+missing) {
			t.Error("its page does not say that the trace is damaged")
		}
	}
	again()
	if metrics := fetched("/metrics"); !strings.Contains(metrics, `muster_traces_damaged_total{pool="linux",what="missing"} 1`) {
		t.Error("it is not counted, or twice")
	}
	p.Kill()
	s.Serve(t)
	again()
	log, err := os.ReadFile(s.LogFile())
	if n := bytes.Count(log, []byte("trace damaged")); err != nil || n != 1 {
		t.Errorf("told %d times, %v", n, err)
	}
	if err := os.WriteFile(last, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	said(0, []string{"1 that were damaged are whole again", "no problems"}, "trace", "check")
	said(0, []string{"complete"}, "trace", "show", job)
	said(0, []string{"verified"}, "trace", "verify", job)
}
