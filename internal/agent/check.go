package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/wire"
)

// Limits of what a machine must have for a job to have a chance.
const (
	// minDisk is what GitHub's runner takes for itself, with some room to work.
	minDisk = 1 << 30
	// maxSkew is how wrong a machine's clock may be: GitHub refuses tokens that are
	// minutes off, and TLS certificates that are not valid yet.
	maxSkew = time.Minute
	// stepTimeout is how long one look may take; the download may take longer.
	stepTimeout = 15 * time.Second
)

// check looks around in the machine, reports, and leaves.
func (w *watch) check(ctx context.Context) (int, error) {
	arrived := time.Now()
	finish := w.speak(ctx)
	w.reports.add(wire.Report{Phase: wire.PhaseStarted})
	var steps []wire.CheckStep
	failed := ""
	look := func(name string, do func(context.Context) (string, error)) {
		began := time.Now()
		detail, err := do(ctx)
		if err != nil {
			detail = err.Error()
			if failed == "" {
				failed = name + ": " + detail
			}
		}
		w.log.Info("checked", "step", name, "ok", err == nil, "detail", detail)
		steps = append(steps, wire.CheckStep{Name: name, OK: err == nil, Millis: time.Since(began).Milliseconds(), Detail: detail})
	}
	c := *w.boot.Check
	look("clock", func(context.Context) (string, error) { return clockSkew(c.Now, arrived) })
	look("size", func(context.Context) (string, error) { return size(c) })
	look("disk", func(context.Context) (string, error) { return disk(w.cfg) })
	look("runner program", w.program)
	for _, address := range c.Reach {
		look("reach "+address, func(ctx context.Context) (string, error) { return reach(ctx, address) })
	}
	reason, code := "check passed", ExitDone
	switch {
	case ctx.Err() != nil:
		reason = "told to stop"
	case failed != "":
		reason, code = "check failed: "+failed, ExitRunner
	}
	finish(wire.Report{Phase: wire.PhaseFinished, ExitCode: code, Reason: reason, Check: steps})
	if code != ExitDone {
		return 0, exitf(code, "%s", reason)
	}
	return ExitDone, nil
}

// clockSkew compares the clocks. The control plane's is that of its answer, which was
// under way for an unknown part of the time until it arrived here.
func clockSkew(theirs, ours time.Time) (string, error) {
	skew := ours.Sub(theirs)
	if skew.Abs() > maxSkew {
		return "", fmt.Errorf("this machine's clock is %s off from the control plane's: let it follow a time server", skew.Round(time.Second))
	}
	return fmt.Sprintf("%s from the control plane's, the way of the answer included", skew.Round(time.Millisecond)), nil
}

// size tells what there is, and misses what was asked for and can be told.
func size(c wire.Check) (string, error) {
	text := fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if c.CPUs > 0 {
		text += fmt.Sprintf(" (%g asked for)", c.CPUs)
	}
	if mib := memoryMiB(); mib > 0 {
		text += fmt.Sprintf(", %d MiB", mib)
		if c.MemoryMiB > 0 {
			text += fmt.Sprintf(" (%d asked for)", c.MemoryMiB)
		}
	}
	gpus := visibleGPUs(os.Getenv, "/dev")
	if c.GPUs > 0 && len(gpus) == 0 {
		return "", fmt.Errorf("%s, and no GPU, of %d asked for: there is neither CUDA_VISIBLE_DEVICES nor a device of NVIDIA or AMD in /dev", text, c.GPUs)
	}
	if len(gpus) > 0 {
		text += fmt.Sprintf(", GPUs %s (%d asked for)", strings.Join(gpus, " "), c.GPUs)
	}
	return text, nil
}

// visibleGPUs names the GPUs that a job on this machine would see.
func visibleGPUs(getenv func(string) string, dev string) (out []string) {
	for _, name := range []string{"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"} {
		if v := getenv(name); v != "" && v != "void" && v != "none" {
			return strings.Split(v, ",")
		}
	}
	for _, pattern := range []string{"nvidia[0-9]*", "kfd"} {
		found, _ := filepath.Glob(filepath.Join(dev, pattern))
		out = append(out, found...)
	}
	return out
}

func disk(cfg Config) (string, error) {
	var parts []string
	for _, dir := range []string{cfg.RunnerDir, cfg.WorkDir} {
		if dir == "" {
			continue
		}
		free, err := freeBytes(dir)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return "not looked at on this system", nil
		case err != nil:
			return "", fmt.Errorf("free space of %s: %w", dir, err)
		case free < minDisk:
			return "", fmt.Errorf("%d MiB are free below %s, and a job needs %d at least", free>>20, dir, minDisk>>20)
		}
		parts = append(parts, fmt.Sprintf("%d MiB free below %s", free>>20, dir))
	}
	probe, err := os.CreateTemp(cfg.RunnerDir, ".check-")
	if err != nil {
		return "", fmt.Errorf("the runner's directory cannot be written to: %w", err)
	}
	return strings.Join(parts, ", "), errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// program makes sure that the runner is there, as before a job, and has it say its
// version if it can.
func (w *watch) program(ctx context.Context) (string, error) {
	if err := w.agent.fetch(ctx, w.boot.Download, w.version); err != nil {
		return "", err
	}
	run := filepath.Join(w.cfg.RunnerDir, "run.sh")
	info, err := os.Stat(run)
	if err != nil {
		return "", err
	}
	if info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not executable", run)
	}
	listener := filepath.Join("bin", "Runner.Listener")
	if _, err := os.Stat(filepath.Join(w.cfg.RunnerDir, listener)); err != nil {
		return run + " is there", nil // not GitHub's own program, which has its listener there
	}
	var said bytes.Buffer
	code, told, err := w.script(ctx, command{dir: w.cfg.RunnerDir, program: listener, args: []string{"--version"}, env: runnerEnviron(w.cfg.Environ, os.Getuid() == 0)}, stepTimeout, func(p []byte) { said.Write(p) })
	switch text := strings.TrimSpace(said.String()); {
	case err != nil:
		return "", err
	case told != "":
		return "", errors.New(told)
	case code != 0:
		return "", fmt.Errorf("%s --version ended with code %d: %s", listener, code, text)
	default:
		return "GitHub's runner " + text, nil
	}
}

// reach asks an address for anything. Every answer will do: it is the way that counts.
func reach(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: jobs on this machine could not reach it either", err)
	}
	_ = res.Body.Close()
	if res.StatusCode >= http.StatusInternalServerError {
		return "", fmt.Errorf("it answers %s", res.Status)
	}
	return "it answers " + res.Status, nil
}
