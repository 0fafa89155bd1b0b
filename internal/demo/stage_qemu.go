package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/server"
)

// kernelVariable names a kernel package, or a directory that one was unpacked to, for
// machines without apt or without its mirrors.
const kernelVariable = "MUSTER_DEMO_KERNEL"

// onQEMU plays in virtual machines of this host.
var onQEMU = stage{
	programs: []string{"qemu-system-x86_64", "qemu-img", "busybox", "dpkg-deb"},
	remedy:   "apt-get install qemu-system-x86 qemu-utils busybox-static",
	build: func(ctx context.Context, set props) (built, error) {
		section, err := qemuSection(ctx, set)
		return built{section: section, end: func(ctx context.Context) error { return endMachines(ctx, set.dir) }}, err
	},
	// Without KVM, a machine needs a while when many of them start at once.
	pool: "connect_timeout: 2m",
}

// qemuSection builds an image with the simulated GitHub's runner in it.
func qemuSection(ctx context.Context, set props) (string, error) {
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		if _, err := exec.LookPath("apt-get"); err != nil {
			return "", fmt.Errorf("the machines need a kernel and there is no apt-get to fetch Debian's: name a kernel package (.deb), or the directory that one was unpacked to, in %s", kernelVariable)
		}
	}
	from, err := guestRunner(set)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	images := filepath.Join(set.dir, "images")
	if err := os.RemoveAll(filepath.Join(images, "demo")); err != nil { // of an earlier demo in this directory
		return "", err
	}
	_, err = server.BuildImage(ctx, config.ImageOrder{Images: images, Name: "demo", Kernel: kernel, Runner: from, Agent: set.agent}, io.Discard)
	if err != nil {
		return "", fmt.Errorf("build an image: %w (a kernel package that is here already can be named in %s)", err, kernelVariable)
	}
	// The simulated GitHub is on this host's loopback, which no machine reaches unless
	// the address is written down.
	return fmt.Sprintf("images: %s\nimage: demo\nmax: %d\ngrace: 5s\negress: [%q]\n", images, set.runners, set.github), nil
}

// endMachines kills what an interrupted demo has left: machines live through the end of
// their control plane. They are known by their home, below the demo's directory.
func endMachines(ctx context.Context, dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // as the provider does
	if err != nil {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		all, err := proc.All()
		if err != nil {
			return err
		}
		left := 0
		for _, p := range all {
			if !p.Zombie && strings.HasPrefix(p.Env("HOME"), dir+"/") && strings.Contains(p.Env("MUSTER_INSTANCE"), ".") {
				left++
				_ = p.Signal(syscall.SIGKILL) // it may have ended
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%d machines are still ending: %w", left, ctx.Err())
		}
	}
}

// guestRunner makes a directory of the simulated GitHub's runner as it lies in a
// machine, where the program is not at the path that it has here.
func guestRunner(set props) (dir string, err error) {
	dir = filepath.Join(set.dir, "guest-runner")
	const inside = "bin/Runner.Listener"
	if err := runner.WriteDir(dir, "/opt/actions-runner/"+inside); err != nil {
		return "", err
	}
	in, err := os.Open(filepath.Join(filepath.Dir(set.agent), "actions-runner"))
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, inside), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return dir, errors.Join(err, out.Close())
}
