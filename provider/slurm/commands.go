package slurm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster/provider"
)

// commands speaks to Slurm by its programs.
type commands struct {
	dir  string // where they are; "" is PATH
	conf string // SLURM_CONF; "" is Slurm's own
	user string // whom jobs run as unless told otherwise; "" is this process's
}

// standardPath is the PATH of a job, and of Slurm's programs.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (c *commands) run(ctx context.Context, env []string, stdin string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.dir, program), args...)
	if c.dir == "" {
		cmd = exec.CommandContext(ctx, program, args...)
	}
	// Nothing of the control plane's own environment reaches Slurm, or a job.
	cmd.Env = env
	if c.conf != "" {
		cmd.Env = append(cmd.Env, "SLURM_CONF="+c.conf)
	}
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("%s: %w", program, ctx.Err())
		}
		if words := strings.TrimSpace(errs.String()); words != "" {
			return "", classified(program, words)
		}
		return "", fmt.Errorf("%w: %s: %w", provider.ErrTransient, program, err)
	}
	return out.String(), nil
}

func (c *commands) submit(ctx context.Context, s submission) (int64, []string, error) {
	args := []string{
		"--parsable", "--export=ALL", "--no-requeue", "--dependency=singleton", "--chdir=/", "--ntasks=1",
		"--job-name=" + s.name, "--comment=" + s.comment, "--output=" + s.output, "--error=" + s.output,
		"--time=" + strconv.FormatInt(s.minutes, 10),
	}
	for flag, v := range map[string]string{
		"partition": s.partition, "qos": s.qos, "account": s.account, "constraint": s.features, "reservation": s.reserved, "gres": s.gres,
	} {
		if v != "" {
			args = append(args, "--"+flag+"="+v)
		}
	}
	if s.cpus > 0 {
		args = append(args, fmt.Sprintf("--cpus-per-task=%d", s.cpus))
	}
	if s.memoryMiB > 0 {
		args = append(args, fmt.Sprintf("--mem=%d", s.memoryMiB))
	}
	if s.nice != 0 {
		args = append(args, fmt.Sprintf("--nice=%d", s.nice))
	}
	if s.user != "" && s.user != c.user {
		args = append(args, "--uid="+s.user) // root only
	}
	slices.Sort(args)
	// The token is in the environment of sbatch, which only this process's own user can
	// read, for as long as sbatch runs. An argument could be read by everybody.
	env := make([]string, 0, len(s.environment)+1)
	for name, v := range s.environment {
		env = append(env, name+"="+v.Reveal())
	}
	out, err := c.run(ctx, env, s.script, "sbatch", args...)
	if err != nil {
		return 0, nil, err
	}
	id, _, _ := strings.Cut(strings.TrimSpace(out), ";") // "17;cluster"
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: sbatch printed %.100q instead of a job's number", provider.ErrTransient, out)
	}
	return n, nil, nil
}

func (c *commands) jobs(ctx context.Context) ([]job, error) {
	out, err := c.run(ctx, []string{"PATH=" + standardPath}, "", "squeue", "--json", "--states=all")
	if err != nil {
		return nil, err
	}
	var l listing
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		return nil, fmt.Errorf("%w: squeue --json printed something else: %w", provider.ErrTransient, err)
	}
	if len(l.Errors) > 0 {
		return nil, fmt.Errorf("%w: squeue: %s", provider.ErrTransient, join(l.Errors))
	}
	return l.ours(), nil
}

func (c *commands) cancel(ctx context.Context, j job) error {
	_, err := c.run(ctx, []string{"PATH=" + standardPath}, "", "scancel", strconv.FormatInt(j.id, 10))
	if err != nil && strings.Contains(err.Error(), "Invalid job id") {
		return nil
	}
	return err
}
