package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
)

// asServiceAccount makes a configuration use a service account's own token, as in a pod of it.
func asServiceAccount(t *testing.T, c Config, ns, name string) Config {
	t.Helper()
	token, err := admin(t).CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), name, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: new(int64(3600))}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.LoadFromFile(kubetest.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range cfg.AuthInfos {
		u.ClientCertificateData, u.ClientKeyData, u.Token = nil, nil, token.Status.Token
	}
	c.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, c.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	return c
}

// tool runs one of the cluster's programs in the repository's deploy directory.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), args[0], args[1:]...)
	cmd.Dir = filepath.Join("..", "..", "deploy")
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// S4-48 S4-61: what deploy/kubernetes grants is enough to make a workspace and run in it, and
// for nothing else. C28: placeholders included. Not parallel: it owns the cluster's roles.
func TestRights(t *testing.T) {
	c := own(t, "rights")
	c.Room.Max, c.Room.Image = 3, "local.test/pause:1"
	for _, verb := range []string{"apply", "delete"} {
		if verb == "delete" {
			t.Cleanup(func() { tool(t, "kubectl", "delete", "-f", "kubernetes/", "--wait=false") })
			continue
		}
		tool(t, "kubectl", verb, "-f", "kubernetes/")
	}
	c = asServiceAccount(t, c, "muster", "muster")
	p := open(t, c)
	spec := specFor(c, "r-rights")
	spec.Offering.Autoscale = true
	create(t, p, spec)
	becomes(t, p, spec.Runner, provider.InstanceRunning, time.Minute)
	// The Secret's removal and the watches work with these rights too.
	until(t, time.Minute, func() (bool, string) {
		left := kubectl(t, "get", "secrets", "-n", "rights-default", "-o", "name")
		return left == "", left
	})
	// S4-20 S4-35 C28 S4-52: one scaler for runners, one object that scales only placeholders.
	hpa := decode[struct {
		Spec struct {
			MaxReplicas    int
			ScaleTargetRef struct{ Kind, Name string }
			Metrics        []struct {
				External struct{ Metric struct{ Name string } }
			}
		}
	}](t, kubectl(t, "get", "hpa", "-n", "rights-default", "muster-room-linux", "-o", "json"))
	if hpa.Spec.MaxReplicas != 3 || hpa.Spec.ScaleTargetRef.Kind != "Deployment" || hpa.Spec.ScaleTargetRef.Name != "muster-room-linux" || hpa.Spec.Metrics[0].External.Metric.Name != "muster_runners" {
		t.Errorf("autoscaler: %+v", hpa)
	}
	kubectl(t, "scale", "deployment", "-n", "rights-default", "muster-room-linux", "--replicas=2")
	until(t, time.Minute, func() (bool, string) {
		n := kubectl(t, "get", "pods", "-n", "rights-default", "-l", labelRole+"=room", "--field-selector=status.phase=Running", "-o", "name")
		return len(strings.Fields(n)) == 2, "placeholders: " + n
	})
	n := 0
	for inst, err := range p.List(t.Context()) {
		if n++; err != nil || inst.Runner != spec.Runner {
			t.Errorf("a placeholder is listed as a runner: %+v, %v", inst, err)
		}
	}
	if n != 1 {
		t.Errorf("%d runners", n)
	}
	// An offering that is no longer to be scaled loses its objects.
	spec2 := specFor(c, "r-rights-2")
	create(t, p, spec2)
	if left := kubectl(t, "get", "hpa,deployments", "-n", "rights-default", "-o", "name"); left != "" {
		t.Errorf("left: %s", left)
	}

	// S4-61: what is not granted is refused.
	access, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	us, err := client.NewForConfig(access)
	if err != nil {
		t.Fatal(err)
	}
	for what, try := range map[string]func() error{
		"read secrets of the workspace": func() error {
			_, err := us.CoreV1().Secrets("rights-default").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"read secrets elsewhere": func() error {
			_, err := us.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"list pods elsewhere": func() error {
			_, err := us.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"list nodes": func() error { _, err := us.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); return err },
		"exec": func() error {
			return us.CoreV1().RESTClient().Post().Namespace("rights-default").Resource("pods").Name(podName(c.Owner, spec.Runner)).SubResource("exec").Param("command", "id").Do(t.Context()).Error()
		},
		"bind another role": func() error {
			b := c.binding("rights-default", "system:serviceaccount:muster:muster")
			b.Name, b.RoleRef.Name = "up", "cluster-admin"
			_, err := us.RbacV1().RoleBindings("rights-default").Create(t.Context(), b, metav1.CreateOptions{})
			return err
		},
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), "forbidden") {
			t.Errorf("%s: %v", what, err)
		}
	}

	// A right that is missing is named, and is no reason to try again.
	role, err := admin(t).RbacV1().ClusterRoles().Get(t.Context(), "muster-workspace", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	full := role.DeepCopy()
	role.Rules = append([]rbacv1.PolicyRule(nil), role.Rules[1:]...)
	if role, err = admin(t).RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, func() (bool, string) {
		_, err := p.Create(t.Context(), specFor(c, "r-refused"))
		return errors.Is(err, provider.ErrInvalid) && strings.Contains(err.Error(), `cannot create resource "pods"`) && strings.Contains(err.Error(), "deploy/kubernetes"), fmt.Sprint(err)
	})
	full.ResourceVersion = role.ResourceVersion
	if _, err = admin(t).RbacV1().ClusterRoles().Update(t.Context(), full, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, func() (bool, string) { _, err := p.Get(t.Context(), spec.Runner); return err == nil, fmt.Sprint(err) })

	// S4-61: pods carry no credential of the cluster.
	for pid := range processes(c.Owner, spec.Runner) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/var/run/secrets/kubernetes.io", pid)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a service account's token is mounted: %v", err)
		}
	}
}

// S4-46 S4-48: the chart passes Helm's own checks, installs on a real API server, and makes
// namespaces in which the control plane runs pods without a right outside of them.
func TestChart(t *testing.T) {
	c := own(t, "chart")
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(`
controlPlane: {enabled: true, image: "local.test/agent:1", pullPolicy: Never}
config: {data_dir: /data}
createNamespaces: false
workspaces:
  - {workspace: default, namespace: chart-default, create: true, maxPods: 2, controlPlaneCIDRs: [10.200.0.0/24]}
  - {workspace: other, namespace: chart-other, create: true, quota: {requests.cpu: "4"}, egress: [{cidr: 192.0.2.0/24, ports: [443]}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "helm", "lint", "--strict", "helm/muster", "--values", values)
	tool(t, "helm", "install", "plane", "helm/muster", "--namespace", "chart-plane", "--create-namespace", "--values", values)
	t.Cleanup(func() {
		tool(t, "helm", "uninstall", "plane", "--namespace", "chart-plane")
		if left := kubectl(t, "get", "clusterroles,clusterrolebindings,priorityclasses", "-o", "name"); strings.Contains(left, "muster") {
			t.Errorf("uninstalling left %s", left)
		}
	})
	c.CreateNamespaces, c.Namespaces = false, map[string]string{"default": "chart-default", "other": "chart-other"}
	p := open(t, asServiceAccount(t, c, "chart-plane", "plane"))
	create(t, p, specFor(c, "r-one"))
	other := specFor(c, "r-two")
	other.Workspace = "other"
	inst := create(t, p, other)
	if inst.ID != "chart-other/"+podName(c.Owner, other.Runner) {
		t.Errorf("workspace other runs as %s", inst.ID)
	}
	becomes(t, p, "r-one", provider.InstanceRunning, time.Minute)
	becomes(t, p, "r-two", provider.InstanceRunning, time.Minute)
	create(t, p, specFor(c, "r-three"))
	if _, err := p.Create(t.Context(), specFor(c, "r-four")); !errors.Is(err, provider.ErrQuota) {
		t.Errorf("the third of two: %v", err)
	}
	// The chart fences a namespace as the provider does. S4-64 S4-65
	same := ofTheCluster(t, c.Owner)
	same.ControlPlane.Port = 8080
	a, err := admin(t).NetworkingV1().NetworkPolicies("chart-default").Get(t.Context(), fenceName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got, want := text(a.Spec), text(same.networkPolicy("chart-default").Spec); got != want {
		t.Errorf("network policy of the chart:\n%s\nof the provider:\n%s", got, want)
	}
}
