package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

// nodePrograms is a directory with what is on every node of a cluster, where every user
// can read it: the agent, and the simulator's runner in actions-runner.
func nodePrograms(t *testing.T, c *slurmtest.Cluster) string {
	t.Helper()
	dir := filepath.Join(c.Dir, "node")
	program, err := os.ReadFile(filepath.Join(Programs(t), "muster-agent"))
	if err := errors.Join(err, os.Mkdir(dir, 0o755), runner.WriteDir(filepath.Join(dir, "actions-runner"), filepath.Join(Programs(t), "actions-runner"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "muster-agent"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		info, infoErr := d.Info()
		if err := errors.Join(err, infoErr); err != nil || info.Mode()&os.ModeSymlink != 0 {
			return err
		}
		return os.Chmod(path, info.Mode()|0o055)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// slurmBackend is a cluster for the chaos of providers, asked over slurmrestd, counted
// by squeue, whose jobs an administrator cancels.
func slurmBackend() backend {
	var c *slurmtest.Cluster
	return backend{
		kind: "slurm",
		ready: func(t *testing.T) Options {
			c = slurmtest.Start(t, slurmtest.Options{Nodes: 3, CPUs: 8})
			programs := nodePrograms(t, c)
			return Options{Pool: "no_job_timeout: 20s", Provider: func(*Stand) string {
				return fmt.Sprintf("kind: slurm\nconfig: {transport: rest, url: %q, user: %s, token_file: %q, partition: ci, agent: %s/muster-agent, runner_dir: %s/actions-runner, job_root: %s/jobs, log: \"%s/jobs/muster-%%j.log\", time_limit: 10m, grace: 2s}\n",
					c.URL, c.Users[0], c.Token(t, c.Users[0]), programs, programs, c.Dir, c.Dir)
			}}
		},
		count: func(t *testing.T, _ *Stand) (out []string) {
			for _, line := range c.Queue(t) {
				id, _, _ := strings.Cut(line, " ")
				out = append(out, id)
			}
			return out
		},
		kill: func(t *testing.T, _ *Stand, machine string) {
			_, _ = c.Command(t.Context(), "scancel", "--signal=KILL", "--full", machine) // it may have ended
		},
	}
}
