package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// onSlurm plays in jobs of the cluster that this machine's commands reach, as the
// user who runs the demo.
var onSlurm = stage{
	programs: []string{"sbatch", "squeue", "scancel"},
	remedy:   "run the demo where jobs are submitted from (Debian: apt-get install slurm-client, with the cluster's slurm.conf)",
	build:    buildSlurm,
}

// How long the cluster may take to answer, and to start a job.
const (
	slurmAnswer = 20 * time.Second
	slurmStart  = time.Minute
)

// cluster is the stage on Slurm.
type cluster struct {
	owner     string
	dir, conf string // of the commands; "" is PATH, and Slurm's own
}

func buildSlurm(ctx context.Context, set props) (built, error) {
	c := cluster{owner: set.name, dir: set.word("commands"), conf: cmp.Or(set.word("slurm_conf"), os.Getenv("SLURM_CONF"))}
	if _, err := c.run(ctx, slurmAnswer, "squeue", "--noheader", "--states=RUNNING", "--format=%i"); err != nil {
		return built{}, fmt.Errorf("the cluster does not answer: %w: run the demo where squeue works, or name slurm.conf in SLURM_CONF", err)
	}
	jobs := filepath.Join(set.dir, "jobs")
	if err := os.MkdirAll(jobs, 0o700); err != nil {
		return built{}, err
	}
	if err := c.probe(ctx, set); err != nil {
		return built{}, errors.Join(err, undo(ctx, c.end))
	}
	return built{
		section: fmt.Sprintf("transport: commands\nslurm_conf: %q\nagent: %q\nrunner_dir: %q\njob_root: %q\nlog: %q\ntime_limit: 10m\ngrace: 2s\nmax: %d\n",
			c.conf, set.agent, set.runnerDir, jobs, filepath.Join(jobs, "muster-%j.log"), 2*set.runners),
		end: c.end,
	}, nil
}

// probe runs one job that looks for what runners need on a node.
func (c cluster) probe(ctx context.Context, set props) error {
	args := []string{"--wait", "--quiet", "--no-requeue", "--time=1", "--ntasks=1", "--chdir=/", "--output=/dev/null", "--error=/dev/null", "--job-name=" + c.owner, "--comment=" + c.comment()}
	for _, option := range []string{"partition", "qos", "account", "constraint", "reservation"} {
		if v := set.word(option); v != "" {
			args = append(args, "--"+option+"="+v)
		}
	}
	script := fmt.Sprintf("test -x '%s' && test -x '%s' || exit 3; bash -c '%s' || exit 4", set.agent, filepath.Join(set.runnerDir, "run.sh"), dial(set.github))
	_, err := c.run(ctx, slurmStart, "sbatch", append(args, "--wrap="+script)...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		return fmt.Errorf("the nodes do not have %s and %s, or this user may not run them there: put the programs and --data-dir on a file system that the nodes share", set.agent, set.runnerDir)
	case errors.As(err, &exit) && exit.ExitCode() == 4:
		return fmt.Errorf("the nodes do not reach %s, where the simulated GitHub listens: name an address of this machine that they reach with --listen", set.github)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the cluster did not run a job within %s: wait until a node is free, or choose a partition with --provider-config", slurmStart)
	}
	return fmt.Errorf("the cluster does not run a job: %w", err)
}

// comment marks a job as one of the demo's control plane.
func (c cluster) comment() string {
	text, _ := json.Marshal(map[string]string{"muster": c.owner}) // a map of texts
	return string(text)
}

// end cancels what is left of an interrupted demo, and waits until it is gone.
func (c cluster) end(ctx context.Context) error {
	for {
		out, err := c.run(ctx, slurmAnswer, "squeue", "--noheader", "--states=all", "--format=%i %t %k")
		if err != nil {
			return err
		}
		left := []string{"--quiet"}
		for line := range strings.Lines(out) {
			id, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			state, comment, _ := strings.Cut(rest, " ")
			var tag struct{ Muster string }
			live := state == "PD" || state == "R" || state == "CF" || state == "S" || state == "CG"
			if live && json.Unmarshal([]byte(comment), &tag) == nil && tag.Muster == c.owner {
				left = append(left, id)
			}
		}
		if len(left) == 1 {
			return nil
		}
		if _, err := c.run(ctx, slurmAnswer, "scancel", left...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster still has jobs %s: %w", strings.Join(left[1:], " "), context.Cause(ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (c cluster) run(ctx context.Context, limit time.Duration, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.dir != "" {
		program = filepath.Join(c.dir, program)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	if c.conf != "" {
		cmd.Env = append(os.Environ(), "SLURM_CONF="+c.conf)
	}
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %.300s", filepath.Base(program), err, strings.TrimSpace(words.String()))
	}
	return string(out), err
}
