package e2e

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
)

// The README's installation of two terminals runs its job, and the first trace that somebody
// sees, of a job that says hello, is whole and accuses nobody: the simulator's runner is
// known for the runner.
func TestTwoTerminals(t *testing.T) {
	t.Parallel()
	dir, github, management, plane := filepath.Join(t.TempDir(), "muster-sim"), freeAddress(t), freeAddress(t), freeAddress(t)
	muster := filepath.Join(Programs(t), "muster")
	start := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, muster, args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 30 * time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cancel()
			_ = cmd.Wait() // it was told to end
			if t.Failed() {
				t.Logf("muster %s:\n%s", args[0], tail(out.Bytes(), 3000))
			}
		})
	}
	answers := func(url string) func() (bool, string) {
		return func() (bool, string) {
			resp, err := http.Get(url)
			if err != nil {
				return false, err.Error()
			}
			return resp.StatusCode == http.StatusOK, resp.Status + errText(resp.Body.Close())
		}
	}
	start("sim", "--demo", "acme", "--dir", dir, "--listen", github, "--management", management, "--webhook", "http://"+plane+"/github/webhook/main")
	eventually(t, 30*time.Second, answers("http://"+management+"/truth"))
	eventually(t, 30*time.Second, func() (bool, string) {
		_, err := os.Stat(filepath.Join(dir, "actions-runner", "run.sh")) // the last that is written
		return err == nil, "there is no runner"
	})
	config, err := os.ReadFile(filepath.Join(dir, "muster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "own.yaml") // at another address than the README's, which may be taken
	if err := os.WriteFile(own, append([]byte("listen: "+plane+"\n"), config...), 0o600); err != nil {
		t.Fatal(err)
	}
	start("serve", "--config", own)
	eventually(t, time.Minute, answers("http://"+plane+"/readyz"))
	resp, err := http.Post("http://"+management+"/trigger", "application/json", strings.NewReader(`{"repo": "acme/hello", "workflow": ".github/workflows/hello.yml", "event": "workflow_dispatch"}`))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
	traces := musterv1connect.NewTraceServiceClient(http.DefaultClient, "http://"+plane)
	var ended *v1.Trace
	eventually(t, time.Minute, func() (bool, string) {
		resp, err := traces.ListTraces(t.Context(), &v1.ListTracesRequest{})
		if err != nil {
			return false, err.Error()
		}
		for _, one := range resp.Traces {
			if one.JobName == "hello" && one.State != "recording" && (one.AnalysedAt != nil || one.State != "complete") {
				ended = one
			}
		}
		return ended != nil, "the job has no trace that was looked at"
	})
	if ended.State == "not_recorded" && os.Getuid() != 0 {
		return // it says so, which is all that a user can have
	}
	if ended.State != "complete" || len(ended.Findings) != 0 {
		found, err := traces.ListFindings(t.Context(), &v1.ListFindingsRequest{})
		t.Errorf("the trace is %s, and of a job that says hello it was found: %v %v", ended.State, found, err)
	}
}

func errText(err error) string {
	if err != nil {
		return ": " + err.Error()
	}
	return ""
}
