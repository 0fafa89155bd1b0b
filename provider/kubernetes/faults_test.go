package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// own is a configuration of this test alone: its owner, and namespaces that nobody else uses.
func own(t *testing.T, name string) Config {
	kubetest.Need(t)
	c := ofTheCluster(t, "owner-of-"+name)
	c.Namespace = name + "-{workspace}"
	return c
}

// Every way in which a pod does not start has its words, on a real scheduler, kubelet and engine. S4-35
func TestWhyAPodDoesNotStart(t *testing.T) {
	kubetest.Need(t)
	for _, tt := range []struct {
		name  string
		spoil func(*Config, *provider.Spec)
		state provider.InstanceState
		has   []string
	}{
		{"no room", func(_ *Config, s *provider.Spec) { s.Offering.CPUs = 500 }, provider.InstanceStarting, []string{"no node has room", "Insufficient cpu"}},
		{"no gpu", func(_ *Config, s *provider.Spec) { s.Offering.GPUs = 1 }, provider.InstanceStarting, []string{"no node has room", "Insufficient nvidia.com/gpu"}}, // S4-76
		{"no such node", func(c *Config, _ *provider.Spec) { c.NodeSelector = map[string]string{"disk": "ssd"} }, provider.InstanceStarting, []string{"no node has room", "node affinity/selector"}},
		{"given up", func(c *Config, s *provider.Spec) {
			s.Offering.CPUs = 500
			c.StartTimeout = provider.Duration(time.Second)
		}, provider.InstanceEnded, []string{"did not start within 1s", "Insufficient cpu"}},
		{"never pulled", func(_ *Config, s *provider.Spec) { s.Offering.Image = "local.test/absent:1" }, provider.InstanceEnded, []string{"may not be pulled", "ErrImageNeverPull"}},
		{"no such name", func(c *Config, s *provider.Spec) { s.Offering.Image, c.PullPolicy = "a:b:c", "IfNotPresent" }, provider.InstanceEnded, []string{"image name is invalid", "a:b:c"}},
		{"not pulled", func(c *Config, s *provider.Spec) {
			s.Offering.Image, c.PullPolicy = "127.0.0.1:9/absent:1", "IfNotPresent"
		}, provider.InstanceStarting, []string{"image cannot be pulled", "connection refused"}},
		{"no agent in the image", func(c *Config, _ *provider.Spec) { c.AgentPath = "/nowhere" }, provider.InstanceEnded, []string{"agent was not delivered", "/nowhere"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := own(t, "start-"+short(tt.name))
			spec := specFor(c, "r-start")
			tt.spoil(&c, &spec)
			p := open(t, c)
			create(t, p, spec)
			inst := becomes(t, p, spec.Runner, tt.state, time.Minute, tt.has...)
			t.Log(inst.Detail)
		})
	}
}

// What the API server refuses at once has its class and its words (4-52).
func TestWhatIsRefused(t *testing.T) {
	kubetest.Need(t)
	for _, tt := range []struct {
		name  string
		spoil func(*Config, *provider.Spec)
		class error
		has   string
	}{
		{"runtime class", func(c *Config, _ *provider.Spec) { c.RuntimeClass = "gvisor-none" }, provider.ErrInvalid, `RuntimeClass "gvisor-none" not found`},
		{"priority class", func(c *Config, _ *provider.Spec) { c.PriorityClass = "nope" }, provider.ErrInvalid, "no PriorityClass with name nope was found"},
		{"container too big", func(c *Config, s *provider.Spec) {
			c.ContainerMax = map[string]string{"memory": "1Gi"}
			s.Offering.MemoryMiB = 2048
		}, provider.ErrInvalid, "maximum memory usage per Container is 1Gi"},
		{"quota of memory", func(c *Config, s *provider.Spec) { c.Quota = map[string]string{"requests.memory": "1Mi"} }, provider.ErrQuota, "exceeded quota: muster"},
		{"no image", func(c *Config, s *provider.Spec) { c.Image = "" }, provider.ErrInvalid, "names an image"},
		{"no namespace", func(c *Config, s *provider.Spec) {
			c.CreateNamespaces, c.Namespaces = false, map[string]string{"other": "other-ci"}
		}, provider.ErrInvalid, "workspace default has no namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := own(t, "refuse-"+short(tt.name))
			spec := specFor(c, "r-refused")
			tt.spoil(&c, &spec)
			p := open(t, c)
			inst, err := p.Create(t.Context(), spec)
			if !errors.Is(err, tt.class) || !strings.Contains(fmt.Sprint(err), tt.has) {
				t.Errorf("%+v, %v", inst, err)
			}
			if _, err := p.Get(t.Context(), spec.Runner); !errors.Is(err, provider.ErrNotFound) {
				t.Errorf("a refused create left %v", err)
			}
			providertest.Survived(t, "kubernetes", "creation refused: %s", tt.name)
		})
	}
}

// 4-52: while pods of a size wait for a node, no more of that size are made, and others are.
func TestNoMoreOfASizeWithoutRoom(t *testing.T) {
	c := own(t, "room")
	c.CapacityAfter = provider.Duration(time.Second)
	p := open(t, c)
	big, more, small := specFor(c, "r-big"), specFor(c, "r-more"), specFor(c, "r-small")
	big.Offering.CPUs, more.Offering.CPUs = 500, 500
	create(t, p, big)
	becomes(t, p, big.Runner, provider.InstanceStarting, time.Minute, "no node has room")
	until(t, time.Minute, func() (bool, string) {
		why, full := p.noRoom("room-default", sizeOf(big.Offering, c.Image))
		return full, why
	})
	if _, err := p.Create(t.Context(), more); !errors.Is(err, provider.ErrCapacity) || !strings.Contains(fmt.Sprint(err), "Insufficient cpu") {
		t.Errorf("another one: %v", err)
	}
	if again, err := p.Create(t.Context(), big); err != nil || again.Runner != big.Runner {
		t.Errorf("the one that is there: %+v, %v", again, err)
	}
	create(t, p, small)
	destroy(t, p, big.Runner)
	until(t, time.Minute, func() (bool, string) {
		_, full := p.noRoom("room-default", sizeOf(big.Offering, c.Image))
		return !full, "the room is still missing"
	})
	create(t, p, more)
	providertest.Survived(t, "kubernetes", "no capacity")
}

// How a pod ends has its words: by its memory, its disk, its age, its program.
func TestWhyAPodEnded(t *testing.T) {
	kubetest.Need(t)
	for _, tt := range []struct {
		name, run string
		spoil     func(*Config, *provider.Spec)
		has       []string
	}{
		{name: "program", run: "exit 7", has: []string{"agent failed", "exit code 7"}},
		{name: "done", run: "exit 0", has: []string{"agent ended", "exit code 0"}},
		{name: "memory", run: "exec dd if=/dev/zero of=/dev/null bs=512M count=1", has: []string{"out of memory"}},
		{name: "age", run: "exec sleep 600", spoil: func(_ *Config, s *provider.Spec) { s.MaxAge = 2 * time.Second }, has: []string{"maximum age reached", "DeadlineExceeded"}},
		{name: "disk", run: "dd if=/dev/zero of=" + workDir + "/fat bs=1M count=32; exec sleep 600", spoil: func(c *Config, _ *provider.Spec) { c.DiskLimitMiB = 8 }, has: []string{"used more disk than it may", "Evicted"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := own(t, "end-"+tt.name)
			spec := specFor(c, "r-end")
			if tt.spoil != nil {
				tt.spoil(&c, &spec)
			}
			p := openRunning(t, c, tt.run)
			create(t, p, spec)
			inst := becomes(t, p, spec.Runner, provider.InstanceEnded, 2*time.Minute, tt.has...)
			t.Log(inst.Detail)
		})
	}
}

// openRunning is open with an API server on the way that makes the runner's container run a
// script in place of the agent. All else of the pod is as the provider rendered it.
func openRunning(t *testing.T, c Config, text string) *Provider {
	t.Helper()
	x := throughProxy(t, &c)
	x.rewrite(func(pod *corev1.Pod) { pod.Spec.Containers[0].Command = []string{"/bin/sh", "-c", text} })
	return open(t, c)
}

// vanished waits until a runner's pod is gone, and returns the words about its end.
func vanished(t *testing.T, p *Provider, id muster.RunnerID, within time.Duration) string {
	t.Helper()
	var words string
	until(t, within, func() (bool, string) {
		_, err := p.Get(t.Context(), id)
		if e := (*provider.GoneError)(nil); errors.As(err, &e) {
			words = e.Detail
		}
		return errors.Is(err, provider.ErrNotFound) && words != "", fmt.Sprint(err)
	})
	return words
}

// S4-77 C28: a pod of higher priority takes the place of one that keeps room, or runs.
func TestPreempted(t *testing.T) {
	c := own(t, "preempt")
	a := admin(t)
	for name, value := range map[string]int32{"preempt-low": -5, "preempt-high": 1000} {
		class := &schedv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
		if _, err := a.SchedulingV1().PriorityClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	c.PriorityClass = "preempt-low"
	p := open(t, c)
	node, err := a.CoreV1().Nodes().Get(t.Context(), "kube-node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	most := node.Status.Allocatable.Memory().Value() >> 20
	victim := specFor(c, "r-victim")
	victim.Offering.MemoryMiB = most * 7 / 10
	inst := create(t, p, victim)
	becomes(t, p, victim.Runner, provider.InstanceRunning, time.Minute)
	ns, _, _ := strings.Cut(inst.ID, "/")
	strong := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "strong", Namespace: ns}, Spec: corev1.PodSpec{
		PriorityClassName: "preempt-high", TerminationGracePeriodSeconds: new(int64(0)),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(1)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{Name: "c", Image: "local.test/pause:1", ImagePullPolicy: corev1.PullNever,
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			Resources:       corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(most*7/10<<20, resource.BinarySI)}}}},
	}}
	if _, err := a.CoreV1().Pods(ns).Create(t.Context(), strong, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.CoreV1().Pods(ns).Delete(context.WithoutCancel(t.Context()), "strong", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	})
	if words := vanished(t, p, victim.Runner, time.Minute); !strings.Contains(words, "preempted by a pod of higher priority") {
		t.Errorf("words: %s", words)
	}
	providertest.Survived(t, "kubernetes", "machine preempted")
}

// A drain is refused while a runner lives. If somebody takes the budget away, or deletes the
// pod, the end has its words.
func TestDrainedAndDeleted(t *testing.T) {
	c := own(t, "drain")
	p, a := open(t, c), admin(t)
	inst := create(t, p, specFor(c, "r-drained"))
	becomes(t, p, "r-drained", provider.InstanceRunning, time.Minute)
	ns, name, _ := strings.Cut(inst.ID, "/")
	evict := func() error {
		return a.PolicyV1().Evictions(ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}})
	}
	until(t, 30*time.Second, func() (bool, string) {
		err := evict()
		return apierrors.IsTooManyRequests(err) && strings.Contains(err.Error(), "disruption budget"), fmt.Sprintf("an eviction was answered: %v", err)
	})
	if err := a.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), fenceName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, func() (bool, string) { err := evict(); return err == nil, fmt.Sprint(err) })
	if words := vanished(t, p, "r-drained", time.Minute); !strings.Contains(words, "its node is being drained") {
		t.Errorf("drained: %s", words)
	}
	inst = create(t, p, specFor(c, "r-deleted"))
	becomes(t, p, "r-deleted", provider.InstanceRunning, time.Minute)
	_, name, _ = strings.Cut(inst.ID, "/")
	if err := a.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if words := vanished(t, p, "r-deleted", time.Minute); !strings.Contains(words, "deleted from outside") {
		t.Errorf("deleted: %s", words)
	}
	providertest.Survived(t, "kubernetes", "node drained")
	providertest.Survived(t, "kubernetes", "machine killed from outside")
}

// A node that goes silent says nothing but that; its pods are given up when another node
// proves that the control plane is not to blame, and stay until the node is removed.
func TestNodeLost(t *testing.T) {
	c := own(t, "node")
	t.Parallel() // after all others, with TestTwoThousandPods: the node is of no use meanwhile
	a := admin(t)
	lease := secondNode(t)
	p := open(t, c)
	spec := specFor(c, "r-silent")
	create(t, p, spec)
	becomes(t, p, spec.Runner, provider.InstanceRunning, time.Minute)
	pid := kubeletPID(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGCONT)
		until(t, time.Minute, func() (bool, string) {
			node, err := a.CoreV1().Nodes().Get(context.WithoutCancel(t.Context()), "kube-node", metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			for _, cond := range node.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0 {
					return true, ""
				}
			}
			return false, "the node is not ready again"
		})
		lease()
	})
	inst := becomes(t, p, spec.Runner, provider.InstanceRunning, time.Minute, "the node is silent", "kube-node")
	t.Log(inst.Detail)
	// The pod's own minute of toleration runs now.
	inst = becomes(t, p, spec.Runner, provider.InstanceEnded, 3*time.Minute, "its node went silent or was tainted")
	t.Log(inst.Detail)
	if err := p.Delete(t.Context(), spec.Runner); err != nil {
		t.Errorf("delete on a silent node must not say that the pod is gone: %v", err)
	}
	providertest.Survived(t, "kubernetes", "node lost during the job")
}

func kubeletPID(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kubetest.Work(), "pid", "kubelet"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// secondNode makes a node that is an object and a heart that beats, until the function that it returns is called.
func secondNode(t *testing.T) (remove func()) {
	t.Helper()
	a, ctx := admin(t), context.WithoutCancel(t.Context())
	name := "quiet-neighbour"
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: true}}
	if _, err := a.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	beat := func() error {
		now := metav1.Now()
		n, err := a.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: n.CreationTimestamp}}
		if _, err := a.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
			return err
		}
		leases := a.CoordinationV1().Leases("kube-node-lease")
		spec := coordv1.LeaseSpec{HolderIdentity: new(name), LeaseDurationSeconds: new(int32(8)), RenewTime: new(metav1.NewMicroTime(now.Time))}
		lease, err := leases.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = leases.Create(ctx, &coordv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		} else if err == nil {
			lease.Spec = spec
			_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		}
		return err
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if err := beat(); err != nil && !apierrors.IsConflict(err) {
				t.Errorf("second node: %v", err)
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
		_ = a.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
	}
}
