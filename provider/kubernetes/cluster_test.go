package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestMain(m *testing.M) {
	os.Exit(kubetest.Main(m, func(m *testing.M) int {
		code := m.Run()
		// The one connection that a client keeps for its next call.
		if err := goleak.Find(goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("net/http/internal/http2.(*ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}))
}

// ofTheCluster is a configuration that runs on the tests' cluster.
func ofTheCluster(t providertest.T, owner string) Config {
	c := Defaults()
	c.Kubeconfig = kubetest.Kubeconfig()
	c.Owner = owner
	c.Image, c.AgentImage, c.AgentPath, c.PullPolicy = kubetest.RunnerImage, kubetest.AgentImage, kubetest.AgentPath, "Never"
	c.ControlPlane = ControlPlane{CIDRs: []string{"10.200.0.0/24"}, Port: 8080}
	c.DiskMiB, c.DiskLimitMiB = 1, 512
	c.Grace = provider.Duration(5 * time.Second)
	c.QPS, c.Burst = 500, 1000
	_ = t
	return c
}

func open(t providertest.T, c Config) *Provider {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// admin is the cluster as its administrator sees it, beside the provider.
func admin(t providertest.T) client.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubetest.Kubeconfig())
	if err != nil {
		t.Fatalf("%v", err)
	}
	cfg.QPS, cfg.Burst = 1000, 2000
	c, err := client.NewForConfig(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return c
}

// kubectl asks the backend's own tool.
func kubectl(t providertest.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "kubectl", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// processes are those of a runner's pod: their pids, and what everyone can read of them.
func processes(owner string, id muster.RunnerID) map[int]string {
	found := map[int]string{}
	all, _ := proc.All() // this is Linux, which has them
	for _, p := range all {
		env := proc.Environ(p.PID)
		if !bytes.Contains(env, []byte("HOSTNAME="+podName(owner, id)+"\x00")) {
			continue // ended meanwhile, or somebody else's
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		found[p.PID] = string(line) + "\n" + string(env)
	}
	return found
}

// remains names what is left of a runner, found without the provider.
func remains(t providertest.T, owner string, id muster.RunnerID) (left []string) {
	for _, kind := range []string{"pods", "secrets"} {
		out := kubectl(t, "get", kind, "-A", "-o", "name", "-l", labelRunner+"="+string(id)+","+labelOwner+"="+short(owner))
		left = append(left, strings.Fields(out)...)
	}
	for pid, line := range processes(owner, id) {
		left = append(left, fmt.Sprintf("process %d: %.60q", pid, line))
	}
	return left
}

// exposed is everything about a runner that others can read.
func exposed(t providertest.T, owner string, id muster.RunnerID) map[string]string {
	// The Secret is there until it has been delivered, and then no more.
	until(t, time.Minute, func() (bool, string) {
		left := kubectl(t, "get", "secrets", "-A", "-o", "name", "-l", labelRunner+"="+string(id))
		return left == "", "the boot Secret stays: " + left
	})
	places := map[string]string{}
	for _, kind := range []string{"pods", "events", "configmaps", "secrets", "serviceaccounts", "namespaces"} {
		places[kind] = kubectl(t, "get", kind, "-A", "-o", "yaml", "--show-managed-fields")
	}
	ns := strings.Fields(kubectl(t, "get", "pods", "-A", "--no-headers", "-l", labelRunner+"="+string(id)+","+labelOwner+"="+short(owner)))[0]
	places["logs"] = kubectl(t, "logs", "-n", ns, podName(owner, id), "--all-containers")
	// The job's own container, in which the agent has taken the token by now.
	for _, dir := range []string{bootDir, "/muster"} {
		places["files in "+dir] = kubectl(t, "exec", "-n", ns, podName(owner, id), "-c", runnerContainer, "--", "/bin/sh", "-c", "ls -lR "+dir+"; cat "+dir+"/* 2>/dev/null || true")
	}
	for pid, text := range processes(owner, id) {
		places["process "+strconv.Itoa(pid)] = text
	}
	logs, _ := filepath.Glob(filepath.Join(kubetest.Work(), "log", "*.log"))
	for _, name := range logs {
		if text, err := os.ReadFile(name); err == nil {
			places[filepath.Base(name)] = string(text)
		}
	}
	return places
}

// until polls a cluster that changes by itself.
func until(t providertest.T, within time.Duration, done func() (bool, string)) {
	t.Helper()
	deadline := time.After(within)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		ok, what := done()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %s: %s", within, what)
		case <-time.After(pause):
		}
	}
}

// The conformance suite on a real API server, kubelet and container engine. S4-20 S4-35 S4-51 4-51 4-52
func TestConformance(t *testing.T) {
	kubetest.Need(t)
	providertest.Run(t, providertest.Harness{
		Open: func(t providertest.T, owner string) provider.Provider { return open(t, ofTheCluster(t, owner)) },
		OpenWith: func(t providertest.T, owner string, most int) provider.Provider {
			c := ofTheCluster(t, owner)
			c.Namespace, c.Max = "few-{workspace}", most
			return open(t, c)
		},
		Offering: muster.Offering{Name: "tiny", CPUs: 0.01, MemoryMiB: 64},
		End: func(t providertest.T, owner string, id muster.RunnerID) {
			until(t, time.Minute, func() (bool, string) {
				for pid, line := range processes(owner, id) {
					if strings.HasPrefix(line, agentDir) {
						return syscall.Kill(pid, syscall.SIGTERM) == nil, "the agent cannot be ended"
					}
				}
				return false, "the agent does not run"
			})
		},
		Remains:  remains,
		Exposed:  exposed,
		Patience: time.Minute,
	})
}

// specFor is a runner of the tests' cluster.
func specFor(c Config, id muster.RunnerID) provider.Spec {
	return provider.Spec{
		Runner: id, Owner: c.Owner, Workspace: "default", Pool: "linux", Offering: muster.Offering{Name: "tiny", CPUs: 0.01, MemoryMiB: 64},
		Boot: provider.Boot{URL: "http://127.0.0.1:9/", Token: providertest.Token},
	}
}

// create makes a runner's pod and removes it after the test.
func create(t *testing.T, p *Provider, spec provider.Spec) provider.Instance {
	t.Helper()
	inst, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("create %s: %v", spec.Runner, err)
	}
	t.Cleanup(func() { destroy(t, p, spec.Runner) })
	return inst
}

func destroy(t *testing.T, p *Provider, id muster.RunnerID) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	until(t, time.Minute, func() (bool, string) {
		err := p.Delete(ctx, id)
		return errors.Is(err, provider.ErrNotFound), fmt.Sprintf("%s is not gone: %v", id, err)
	})
}

// becomes waits until a runner's pod is in a state and its words have all of these.
func becomes(t *testing.T, p *Provider, id muster.RunnerID, state provider.InstanceState, within time.Duration, has ...string) provider.Instance {
	t.Helper()
	var inst provider.Instance
	until(t, within, func() (bool, string) {
		var err error
		inst, err = p.Get(t.Context(), id)
		ok := err == nil && inst.State == state
		for _, h := range has {
			ok = ok && strings.Contains(inst.Detail, h)
		}
		return ok, fmt.Sprintf("%s is %+v, %v; wanted %s with %q", id, inst, err, state, has)
	})
	return inst
}

// getPod reads a runner's pod beside the provider.
func getPod(t *testing.T, inst provider.Instance) *corev1.Pod {
	t.Helper()
	ns, name, _ := strings.Cut(inst.ID, "/")
	pod, err := admin(t).CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// decode reads what kubectl printed.
func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %.300s", err, text)
	}
	return v
}
