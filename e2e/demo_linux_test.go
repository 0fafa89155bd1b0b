package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

// zeros is what every demo has to print.
var zeros = regexp.MustCompile(`(?m)^jobs lost 0, runners leaked 0, busy runners killed 0   \(40 jobs, `)

// playDemo runs `muster demo` to its end and returns what it printed.
func playDemo(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // pods take two seconds each on two busy processors
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(Programs(t), "muster"), append([]string{"demo", "--once"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// played is a demo that has to keep its promise.
func played(t *testing.T, env []string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	out, err := playDemo(t, env, append(args, "--data-dir", dir)...)
	if err != nil || !zeros.MatchString(out) {
		log, _ := os.ReadFile(filepath.Join(dir, "muster.log"))
		t.Errorf("the demo ended with %v:\n%s\n%s", err, out, tail(log, 3000))
	}
	t.Log(out)
}

// interrupted runs the demo until its platform is at work, and interrupts it.
func interrupted(t *testing.T, env []string, working func() bool, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(Programs(t), "muster"), append([]string{"demo", "--once"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() (bool, string) { return working(), "the platform has nothing to do" })
	_ = cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the interrupted demo ended with %v:\n%s", err, out.String())
	}
}

// The demo on a real engine leaves neither container nor image.
func TestDemoOnContainers(t *testing.T) {
	if !enginetest.Isolate(t) {
		return
	}
	e := enginetest.Podman(t, enginetest.Options{})
	before := e.Tool(t, "images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}")
	env := []string{"DOCKER_HOST=" + e.Host}
	played(t, env, "--provider", "container", "--runners", "3", "--listen", freeAddress(t))
	if left := e.Containers(t); len(left) > 0 {
		t.Errorf("the engine has %v", left)
	}
	if after := e.Tool(t, "images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}"); after != before {
		t.Errorf("the engine has images %s; before it had %s", after, before)
	}
	// Nor does one that is interrupted while it looks around, or while jobs run.
	for _, busy := range []int{1, 3} {
		interrupted(t, env, func() bool { return len(e.Containers(t)) >= busy }, "--provider", "container", "--listen", freeAddress(t))
		if left := e.Containers(t); len(left) > 0 {
			t.Errorf("interrupted with %d containers, it leaves %v", busy, left)
		}
		if after := e.Tool(t, "images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}"); after != before {
			t.Errorf("interrupted with %d containers, it leaves images %s", busy, after)
		}
	}
	// Without an engine it says what to do.
	e.Stop()
	out, err := playDemo(t, env, "--provider", "container", "--listen", freeAddress(t))
	if err == nil || !strings.Contains(out, "does not answer") || !strings.Contains(out, "DOCKER_HOST") {
		t.Errorf("without an engine: %v: %s", err, out)
	}
}

// The demo on a real Slurm leaves no job, and nothing on its nodes.
func TestDemoOnSlurm(t *testing.T) {
	t.Parallel()
	c := slurmtest.Start(t, slurmtest.Options{CPUs: 8})
	env := []string{"SLURM_CONF=" + c.Conf}
	played(t, env, "--provider", "slurm", "--runners", "4", "--listen", freeAddress(t))
	if q := c.Queue(t); len(q) > 0 {
		t.Errorf("squeue shows %v", q)
	}
	interrupted(t, env, func() bool { return len(c.Queue(t)) > 3 }, "--provider", "slurm", "--listen", freeAddress(t))
	if q := c.Queue(t); len(q) > 0 {
		t.Errorf("after an interruption squeue shows %v", q)
	}
	// A cluster that takes no jobs, and none at all.
	own := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(own, []byte("partition: none-such\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := playDemo(t, env, "--provider", "slurm", "--provider-config", own, "--listen", freeAddress(t))
	if err == nil || !strings.Contains(out, "does not run a job") || !strings.Contains(out, "invalid partition") {
		t.Errorf("on a partition that does not exist: %v: %s", err, out)
	}
	out, err = playDemo(t, []string{"SLURM_CONF=/none-such/slurm.conf"}, "--provider", "slurm", "--listen", freeAddress(t))
	if err == nil || !strings.Contains(out, "SLURM_CONF") {
		t.Errorf("without a cluster: %v: %s", err, out)
	}
}

// The demo on a real Kubernetes, whose node got the image by hand, leaves no pod and no namespace.
func TestDemoOnKubernetes(t *testing.T) {
	if enterCluster(t) {
		return
	}
	const host = "10.200.0.1" // the node's own address, as other machines see it
	address := func() string {
		_, port, _ := strings.Cut(freeAddress(t), ":")
		return host + ":" + port
	}
	env := []string{"KUBECONFIG=" + kubetest.Kubeconfig()}
	for _, refused := range []struct{ listen, says string }{{freeAddress(t), "with --listen"}, {address(), "--write-image"}} {
		out, err := playDemo(t, env, "--provider", "kubernetes", "--listen", refused.listen)
		if err == nil || !strings.Contains(out, refused.says) {
			t.Errorf("on %s: %v: %s", refused.listen, err, out)
		}
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	if out, err := playDemo(t, nil, "--write-image", archive); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_ = output(t, "ctr", "-n", "k8s.io", "images", "import", archive)
	namespaces := func() string {
		return strings.Join(output(t, "kubectl", "get", "namespaces", "--no-headers", "-o", "custom-columns=:metadata.name"), " ")
	}
	before := namespaces()
	played(t, env, "--provider", "kubernetes", "--runners", "6", "--listen", address())
	if left := append(pods(t, nil), output(t, "kubectl", "get", "pods", "-A", "-o", "name")...); len(left) > 0 {
		t.Errorf("the cluster has %v", left)
	}
	if after := namespaces(); after != before {
		t.Errorf("the cluster has namespaces %s; before it had %s", after, before)
	}
}
