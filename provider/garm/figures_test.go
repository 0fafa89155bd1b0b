package garm

import (
	"cmp"
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

// TestFigures measures what the host adds to an executable, and how long a machine
// takes whose cloud costs nothing: it asserts nothing about time. MUSTER_GARM_RUNS
// changes how often.
func TestFigures(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("machines need namespaces, and this user may make none")
		}
		t.Skip("machines need namespaces, and this user may make none")
	}
	runs, _ := strconv.Atoi(cmp.Or(os.Getenv("MUSTER_GARM_RUNS"), "20"))
	l := newLocal(t)
	image := t.TempDir() // GitHub's runner, which the image has
	for name, text := range map[string]string{"bin/runsvc.sh": "#!/bin/sh\nexec sleep 600\n", "run.sh": "#!/bin/sh\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(image, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(image, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	type said struct {
		status string
		at     time.Time
	}
	calls := make(chan said, 64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		if strings.HasSuffix(r.URL.Path, "/callbacks/status") {
			var rep struct{ Status string }
			_ = json.NewDecoder(r.Body).Decode(&rep) // what is no report has no status
			calls <- said{rep.Status, at}
			return
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/service-name"):
			fmt.Fprint(w, "actions.runner.test")
		case strings.HasSuffix(r.URL.Path, "/unit-file"):
			fmt.Fprint(w, "[Service]\nExecStart=/home/runner/actions-runner/runsvc.sh\nWorkingDirectory=/home/runner/actions-runner\n")
		default:
			fmt.Fprint(w, "{}")
		}
	}))
	t.Cleanup(srv.Close)
	p := open(t, l.config(t, "tests", settings{"user_data": true, "runner": image}))
	var plain, created, connected, listening, deleted []time.Duration
	memory := 0
	for i := range runs {
		// What the executable itself takes, called by nobody but the kernel.
		began := time.Now()
		cmd := exec.CommandContext(t.Context(), l.exe)
		cmd.Env = []string{"GARM_COMMAND=" + cmdList, "GARM_CONTROLLER_ID=" + p.controller, "GARM_POOL_ID=" + p.pool, "GARM_PROVIDER_CONFIG_FILE=" + p.cfg.ConfigFile}
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		plain = append(plain, time.Since(began))
		id := muster.RunnerID(fmt.Sprintf("r-figure-%d", i))
		s := spec(id)
		s.Boot.URL = srv.URL
		began = time.Now()
		if _, err := p.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		created = append(created, time.Since(began))
		for first := true; ; first = false {
			one := <-calls
			if first {
				connected = append(connected, one.at.Sub(began))
			}
			if one.status == "idle" {
				listening = append(listening, one.at.Sub(began))
				break
			}
			if one.status != "installing" {
				console, _ := os.ReadFile(filepath.Join(l.of(t, p, id)[0].dir, "console.log"))
				t.Fatalf("the script says %q\n%s", one.status, console)
			}
		}
		if i == 0 {
			info, err := os.Stat(p.recordPath(p.prefix + string(id)))
			if err != nil {
				t.Fatal(err)
			}
			memory = int(info.Size())
		}
		began = time.Now()
		cleared(t, p, id)
		deleted = append(deleted, time.Since(began))
	}
	p50 := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	one := p50(plain)
	ratio := func(d []time.Duration) float64 { return float64(p50(d)) / float64(one) }
	t.Logf("one call of an executable that does nothing much: p50 %.1f ms (n=%d); a creation, which is two and the start of the machine: ×%.1f; a deletion with its proofs, which is three and the end of the machine: ×%.1f", one.Seconds()*1e3, runs, ratio(created), ratio(deleted))
	t.Logf("create→first call of the machine's script: p50 %d ms, best %d ms (n=%d); create→idle: p50 %d ms", p50(connected).Milliseconds(), connected[0].Milliseconds(), runs, p50(listening).Milliseconds())
	t.Logf("of a machine there is a record of %d bytes on the control plane's host, and no memory", memory)
	providertest.Figure(t, "garm", providertest.FigureConnect, fmt.Sprintf("%d ms (n=%d), and the cloud's own time", p50(connected).Milliseconds(), runs))
	providertest.Figure(t, "garm", providertest.FigureMemory, "0 MiB: the machine is the cloud's")
}
