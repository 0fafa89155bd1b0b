// Package kubetest runs tests beside a real Kubernetes: API server, controllers,
// scheduler, kubelet, containerd and runc, in namespaces of their own, which end with
// the tests. It starts the test program again inside of them; internal/tools/kube has
// the cluster itself. Only tests import it.
package kubetest

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The images that every cluster of tests has.
const (
	RunnerImage = "local.test/runner:1" // /home/runner/run.sh, a shell, and the agent at AgentPath
	AgentImage  = "local.test/agent:1"  // nothing but the agent
	AgentPath   = "/muster-agent"
)

// Host is the address by which pods reach what listens beside the cluster, "" outside of one.
func Host() string { return os.Getenv("KUBE_HOST") }

// Work is the cluster's directory, with log/ and pid/.
func Work() string { return os.Getenv("KUBE_WORK") }

// Main is for TestMain: it runs all tests inside a cluster if this machine can have
// one, and without otherwise; then Need tells each test that wants one.
func Main(m *testing.M, run func(*testing.M) int) int {
	if Host() != "" {
		return run(m)
	}
	c, err := prepare()
	if err != nil {
		errLack = err
		return run(m)
	}
	defer c.remove()
	return c.run(os.Args[1:], os.Stdout, os.Stderr)
}

var errLack = errors.New("these tests were not started in a cluster")

// Need skips a test that has no cluster, or fails it where there has to be one.
func Need(t testing.TB) {
	t.Helper()
	if Host() != "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("there is no Kubernetes: %v", errLack)
	}
	t.Skipf("there is no Kubernetes: %v", errLack)
}

// Enter is for a test of a package whose others need no cluster: it runs the test alone
// inside one and returns true, to be called first. Inside it returns false.
func Enter(t *testing.T) bool {
	t.Helper()
	if Host() != "" {
		return false
	}
	c, err := prepare()
	if err != nil {
		errLack = err
		Need(t)
	}
	defer c.remove()
	args := []string{"-test.run=^" + strings.Join(strings.Split(t.Name(), "/"), "$/^") + "$", "-test.count=1", "-test.timeout=10m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	var out strings.Builder
	if code := c.run(args, &out, &out); code != 0 {
		t.Errorf("inside the cluster, code %d:\n%s", code, out.String())
	} else if testing.Verbose() {
		t.Log(out.String())
	}
	return true
}

// cluster is what is needed to start one.
type cluster struct {
	script, kube, images string
}

func (c *cluster) remove() { _ = os.RemoveAll(c.images) } // a directory for temporary files

func (c *cluster) run(args []string, stdout, stderr interface{ Write([]byte) (int, error) }) int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	// Whoever stops the test stops the cluster, which cleans up.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := exec.CommandContext(ctx, c.script, append([]string{c.kube, c.images, self}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, stdout, stderr
	cmd.Env = os.Environ()
	err = cmd.Run()
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		return max(1, e.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	return 0
}

// prepare finds the programs and makes the images, or says what is missing.
func prepare() (*cluster, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("it has to mount and to make control groups, which only root may")
	}
	var missing []string
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "unshare", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join("/usr/lib/cni", plugin)); err != nil {
			missing = append(missing, "/usr/lib/cni/"+plugin)
		}
	}
	shell, err := staticShell()
	if err != nil {
		missing = append(missing, err.Error())
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("run scripts/setup.sh; it lacks %s", strings.Join(missing, ", "))
	}
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..", "..")
	tools := filepath.Join(root, "internal", "tools", "kube")
	out, err := exec.CommandContext(context.Background(), filepath.Join(tools, "build.sh"), "--path").Output()
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		return nil, errors.New(strings.TrimSpace(string(e.Stderr)))
	}
	if err != nil {
		return nil, err
	}
	c := &cluster{script: filepath.Join(tools, "cluster.sh"), kube: strings.TrimSpace(string(out))}
	if c.images, err = os.MkdirTemp("", "muster-images-"); err != nil {
		return nil, err
	}
	if err := c.makeImages(root, shell); err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

// staticShell finds a busybox that needs no library: an image of its own has none.
func staticShell() (string, error) {
	for _, name := range []string{"busybox", "busybox.static"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		static := !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
		_ = f.Close() // it was only read
		if static {
			return path, nil
		}
	}
	return "", errors.New("busybox-static")
}

func (c *cluster) makeImages(root, shell string) error {
	bin := os.Getenv("MUSTER_BIN")
	if bin == "" {
		bin = filepath.Join(c.images, "bin")
		cmd := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/muster-agent", "./githubsim/actions-runner")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the agent and the simulator's runner: %w\n%s", err, out)
		}
	}
	agent, listener := filepath.Join(bin, "muster-agent"), filepath.Join(bin, "actions-runner")
	home := filepath.Join(c.images, "home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	// As GitHub's own: run.sh and config.sh start bin/Runner.Listener beside them.
	for name, command := range map[string]string{"run.sh": "run", "config.sh": "configure"} {
		text := "#!/bin/sh\ncd \"${0%/*}\" || exit 1\nexec ./bin/Runner.Listener " + command + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	lab := filepath.Join(c.kube, "bin", "lab")
	runner := []string{"-o", filepath.Join(c.images, "runner.tar"), "-t", RunnerImage, "-user", "1001",
		"/tmp/", "/home/runner=" + home, "/home/runner/bin/Runner.Listener=" + listener, AgentPath + "=" + agent, "/bin/busybox=" + shell}
	for _, applet := range []string{"sh", "cat", "dd", "env", "false", "head", "id", "ls", "nc", "sleep", "stat", "touch", "true", "wget"} {
		runner = append(runner, "/bin/"+applet+"@/bin/busybox")
	}
	for _, args := range [][]string{
		{"-o", filepath.Join(c.images, "pause.tar"), "-t", "local.test/pause:1", "-entrypoint", "/lab pause", "/lab=" + lab},
		{"-o", filepath.Join(c.images, "agent.tar"), "-t", AgentImage, "-user", "1001", AgentPath + "=" + agent},
		runner,
	} {
		if out, err := exec.CommandContext(context.Background(), lab, append([]string{"image"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("make an image: %w: %s", err, out)
		}
	}
	return nil
}

// Kubeconfig is an administrator's.
func Kubeconfig() string { return cmp.Or(os.Getenv("KUBECONFIG"), "/nonexistent") }
