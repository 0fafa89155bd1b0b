package process

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

// TestFigures measures, often when MUSTER_FIGURES is set, how long a machine takes from Create
// to the real agent's first call, and what an agent that waits keeps of the memory.
func TestFigures(t *testing.T) {
	runs := 3
	if os.Getenv("MUSTER_FIGURES") != "" {
		runs = 20
	}
	bin := os.Getenv("MUSTER_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin")
	}
	agent, err := filepath.Abs(filepath.Join(bin, "muster-agent"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(agent); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: run make build, or set MUSTER_BIN", err)
		}
		t.Skipf("%v: run make build, or set MUSTER_BIN", err)
	}
	arrived := make(chan time.Time, 100)
	plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/boot") {
			select {
			case arrived <- time.Now():
			default:
			}
		}
		w.Header().Set("Retry-After", "60") // it stays, and idles
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(plane.Close)
	root := t.TempDir()
	cfg := config(t, root, waitForEver)
	cfg.Agent = agent
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	memory := 0
	for i := range runs {
		id := muster.RunnerID(fmt.Sprintf("r-figure-%d", i))
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if _, err := p.Create(ctx, provider.Spec{Runner: id, Owner: cfg.Owner, Boot: provider.Boot{URL: plane.URL, Token: "figure"}}); err != nil {
			t.Fatal(err)
		}
		select {
		case at := <-arrived:
			took = append(took, at.Sub(began))
		case <-ctx.Done():
			t.Fatal("the agent never came")
		}
		memory = max(memory, shareOf(t, root))
		for {
			if err := p.Delete(ctx, id); err != nil {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatal("it does not go")
			case <-time.After(5 * time.Millisecond):
			}
		}
		cancel()
		for len(arrived) > 0 {
			<-arrived
		}
	}
	slices.Sort(took)
	providertest.Figure(t, "process", providertest.FigureConnect, fmt.Sprintf("%s (n=%d)", took[runs/2].Round(time.Millisecond), runs))
	providertest.Figure(t, "process", providertest.FigureMemory, fmt.Sprintf("%d MiB for the agent; GitHub's runner comes on top", memory>>10))
}

// shareOf adds up the proportional share of memory, in KiB, of all that lives below root.
func shareOf(t *testing.T, root string) (kib int) {
	t.Helper()
	all, err := proc.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if !bytes.Contains(proc.Environ(p.PID), []byte("HOME="+root+"/")) {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				if n, err := strconv.Atoi(strings.Fields(rest)[0]); err == nil {
					kib += n
				}
			}
		}
	}
	return kib
}
