package githubsim_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
)

// A runner for many jobs ends its poll whenever a job ends, just when the next one
// is offered to it: none of them waits for the time in which a runner has to fetch
// its job.
func TestPersistentRunnerTakesJobAfterJob(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	var reg struct{ Token string }
	w.must(201, w.rest("POST", "/orgs/acme/actions/runners/registration-token", w.token(), nil), &reg)
	dir := t.TempDir()
	program := runner.Program{Args: []string{"configure", "--unattended", "--url", w.url + "/acme", "--token", reg.Token, "--name", "many"}, Dir: dir, Stdout: io.Discard, Stderr: io.Discard}
	if code := runner.Main(t.Context(), program); code != 0 {
		t.Fatalf("configure: %d", code)
	}
	program.Args, program.Env = []string{"run"}, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home")}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() { ended <- runner.Main(ctx, program) }()
	t.Cleanup(func() { cancel(); <-ended })

	const jobs = 8
	for range jobs {
		w.inject("self-hosted")
	}
	wait, stop := context.WithTimeout(t.Context(), 40*time.Second)
	defer stop()
	if err := w.Wait(wait, func(truth githubsim.Truth) bool { return truth.ByState()["completed"] == jobs }); err != nil {
		t.Fatal(err)
	}
}
