// Command actions-runner is the runner program of the simulated GitHub: what
// run.sh and config.sh of a directory made by runner.WriteDir start.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/muster-ci/muster/githubsim/runner"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := os.Environ()
	for _, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "ACTIONS_RUNNER_INPUT_") {
			_ = os.Unsetenv(name) // fails only for a name that is none
		}
	}
	code := runner.Main(ctx, runner.Program{Args: os.Args[1:], Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	stop()
	os.Exit(code)
}
