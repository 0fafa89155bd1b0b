package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
)

// inPods makes a stand's runners pods of the cluster in which the test runs.
func inPods(max int, more string) func(*Stand) string {
	return func(s *Stand) string {
		_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
		return fmt.Sprintf("kind: kubernetes\nconfig: {kubeconfig: %q, image: %q, agent_image: %q, agent_path: %q, pull_policy: Never, max: %d, disk_mib: 1, grace: 2s, control_plane: {cidrs: [10.200.0.0/24], port: %s}%s}\n",
			kubetest.Kubeconfig(), kubetest.RunnerImage, kubetest.AgentImage, kubetest.AgentPath, max, port, more)
	}
}

// pods are the runners' pods, by the cluster's own tool.
func pods(t *testing.T, _ *Stand) []string {
	return output(t, "kubectl", "get", "pods", "-A", "--no-headers", "-l", "muster-ci.github.io/role=runner", "-o", "custom-columns=:metadata.name")
}

// enterCluster runs the test again beside a Kubernetes, with the programs that are built already.
func enterCluster(t *testing.T) (entered bool) {
	t.Helper()
	if kubetest.Host() == "" {
		t.Setenv("MUSTER_BIN", Programs(t))
	}
	return kubetest.Enter(t)
}

// S4-20 S4-35 S4-46 S4-48 S4-53 S4-54 4-14 4-51: jobs run in pods of a real Kubernetes, also when the control plane is
// killed while they do and a pod is deleted under it; each is answered for and has its receipt, and kubectl counts no
// pod and no boot token in the end.
func TestKubernetes(t *testing.T) {
	if enterCluster(t) {
		return
	}
	s := New(t, Options{
		Host: kubetest.Host(), Sim: githubsim.Config{Seed: 71, RecordLinger: 100 * time.Millisecond}, MaxRunners: 2, Provider: inPods(4, ""), Settings: quick,
		Pool: "no_job_timeout: 5s, connect_timeout: 30s",
	})
	p := s.Serve(t)
	s.Inject(t, 4, 700*time.Millisecond)
	eventually(t, 30*time.Second, func() (bool, string) {
		there := pods(t, s)
		return len(there) > 0, fmt.Sprint(there)
	})
	p.Kill()
	s.Serve(t)
	s.AwaitJobs(t, 4, time.Minute)
	truth, receipts := s.calm(t, time.Minute)
	once(t, truth, receipts, "success")
	if left := append(pods(t, s), output(t, "kubectl", "get", "secrets", "-A", "-o", "name")...); len(left) > 0 {
		t.Errorf("the cluster has %v", left)
	}
}

// Why a pod does not start, or vanished, is in the answer to why a job waits.
func TestKubernetesWhy(t *testing.T) {
	if enterCluster(t) {
		return
	}
	s := New(t, Options{
		Host: kubetest.Host(), Sim: githubsim.Config{Seed: 72}, MaxRunners: 1, Provider: inPods(4, ", node_selector: {disk: none-such}, start_timeout: 2s"), Settings: quick,
		Pool: "no_job_timeout: 5s, connect_timeout: 30s",
	})
	s.Serve(t)
	id := s.Inject(t, 1, 100*time.Millisecond)[0]
	eventually(t, time.Minute, func() (bool, string) {
		why, _, _ := s.CLI(t, "job", "why", fmt.Sprint(id))
		list, _, _ := s.CLI(t, "runner", "list", "--all", "--json")
		log, _ := os.ReadFile(s.LogFile())
		return strings.Contains(why+list, "no node has room") && strings.Contains(why, "did not start within 2s"), why + list + string(tail(log, 2000))
	})
}

// The chaos of every provider, on pods.
func TestKubernetesChaos(t *testing.T) {
	if enterCluster(t) {
		return
	}
	chaos(t, backend{
		kind: "kubernetes",
		ready: func(*testing.T) Options {
			return Options{Host: kubetest.Host(), MaxRunners: 2, Provider: inPods(6, "")}
		},
		count: pods,
		kill: func(t *testing.T, _ *Stand, machine string) {
			ns := "muster-default"
			_ = output(t, "kubectl", "delete", "pod", "-n", ns, machine, "--ignore-not-found", "--wait=false")
		},
	})
}
