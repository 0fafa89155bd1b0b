package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestDescription(t *testing.T) { providertest.Describe(t, Kind()) }

func plainConfig() Config {
	c := Defaults()
	c.Owner = "muster/test"
	return c
}

func plainSpec() provider.Spec {
	return provider.Spec{
		Runner: "r-abcd", Owner: "muster/test", Workspace: "team-a", Pool: "linux", TraceID: "4bf9",
		Offering: muster.Offering{Name: "gpu", CPUs: 2.5, MemoryMiB: 4096, GPUs: 2, Spot: true, Image: "registry.example/runner@sha256:" + strings.Repeat("ab", 32)},
		Boot:     provider.Boot{URL: "http://muster.muster:8080", Token: providertest.Token}, MaxAge: 90*time.Second + 1,
	}
}

// S4-51 S4-76 S4-61 4-14: an offering becomes requests and limits, GPUs and spot nodes; the
// pod has no privilege, no credential, and nowhere the boot token.
func TestPod(t *testing.T) {
	c := plainConfig()
	c.LimitCPU, c.RuntimeClass, c.PriorityClass = true, "gvisor", "ci"
	c.NodeSelector, c.SpotNodeSelector = map[string]string{"pool": "ci"}, map[string]string{"lifecycle": "spot"}
	c.Tolerations, c.SpotTolerations = []Toleration{{Key: "ci", Value: "true", Effect: "NoSchedule"}}, []Toleration{{Key: "spot"}}
	c.Registries = []Registry{{Kind: "custom"}}
	pod, err := c.pod(plainSpec(), "muster-team-a")
	if err != nil {
		t.Fatal(err)
	}
	s, runner := pod.Spec, pod.Spec.Containers[0]
	for what, got := range map[string][2]string{
		"cpu":             {runner.Resources.Requests.Cpu().String() + "/" + runner.Resources.Limits.Cpu().String(), "2500m/2500m"},
		"memory":          {runner.Resources.Requests.Memory().String() + "/" + runner.Resources.Limits.Memory().String(), "4Gi/4Gi"},
		"disk":            {runner.Resources.Requests.StorageEphemeral().String() + "/" + runner.Resources.Limits.StorageEphemeral().String(), "2Gi/20Gi"},
		"gpus":            {fmt.Sprint(runner.Resources.Limits.Name("nvidia.com/gpu", "").Value()), "2"},
		"nodes":           {fmt.Sprint(s.NodeSelector), "map[lifecycle:spot pool:ci]"},
		"taints":          {fmt.Sprintf("%d %s %s %s", len(s.Tolerations), s.Tolerations[0].Operator, s.Tolerations[1].Key, s.Tolerations[1].Operator), "4 Equal spot Exists"},
		"classes":         {*s.RuntimeClassName + " " + s.PriorityClassName, "gvisor ci"},
		"restart":         {string(s.RestartPolicy), "Never"},
		"deadline":        {fmt.Sprint(*s.ActiveDeadlineSeconds), "91"},
		"pull":            {fmt.Sprint(s.ImagePullSecrets), "[{muster-pull}]"},
		"image":           {runner.Image, plainSpec().Offering.Image},
		"no token":        {fmt.Sprintf("%t %s", *s.AutomountServiceAccountToken, s.ServiceAccountName), "false muster-runner"},
		"non-root":        {fmt.Sprintf("%t %d %s", *s.SecurityContext.RunAsNonRoot, *s.SecurityContext.RunAsUser, s.SecurityContext.SeccompProfile.Type), "true 1001 RuntimeDefault"},
		"no privilege":    {fmt.Sprint(*runner.SecurityContext.AllowPrivilegeEscalation, runner.SecurityContext.Capabilities.Drop, runner.SecurityContext.Privileged), "false [ALL] <nil>"},
		"one init":        {fmt.Sprintf("%d %s", len(s.InitContainers), s.InitContainers[0].Name), "1 agent"},
		"host":            {fmt.Sprint(s.HostNetwork, s.HostPID, s.HostIPC), "false false false"},
		"token in memory": {string(s.Volumes[1].EmptyDir.Medium), "Memory"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, wanted %s", what, got[0], got[1])
		}
	}
	for _, m := range runner.VolumeMounts {
		if m.Name == "token" {
			t.Error("the job's container mounts the boot Secret")
		}
	}
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), providertest.Token) {
		t.Error("the boot token is in the pod")
	}
	sec := secret(pod, providertest.Token)
	if sec.OwnerReferences[0].Kind != "Pod" || !*sec.Immutable || string(sec.Data[tokenKey]) != providertest.Token {
		t.Errorf("secret: %+v", sec.ObjectMeta)
	}
}

// Docker beside the runner is asked for in so many words, and then nothing else is privileged.
func TestPodWithDocker(t *testing.T) {
	c := plainConfig()
	pod, err := c.pod(plainSpec(), "ns")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(pod); strings.Contains(string(text), "docker") {
		t.Error("Docker without being asked for")
	}
	if l := c.namespaceObject("ns", "w").Labels["pod-security.kubernetes.io/enforce"]; l != "restricted" {
		t.Errorf("level %s", l)
	}
	c.Docker = dockerSidecar
	if pod, err = c.pod(plainSpec(), "ns"); err != nil {
		t.Fatal(err)
	}
	d := pod.Spec.InitContainers[1]
	if d.Name != "docker" || !*d.SecurityContext.Privileged || *d.RestartPolicy != corev1.ContainerRestartPolicyAlways || d.StartupProbe == nil {
		t.Errorf("sidecar: %+v", d)
	}
	if pod.Spec.Containers[0].SecurityContext.Privileged != nil || !slices.ContainsFunc(pod.Spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "DOCKER_HOST" }) {
		t.Error("the runner's container is privileged or does not find Docker")
	}
	if !slices.Contains(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: "MUSTER_ENGINES", Value: "network"}) {
		t.Error("its agent does not know whose Docker it is")
	}
	if l := c.namespaceObject("ns", "w").Labels["pod-security.kubernetes.io/enforce"]; l != "privileged" {
		t.Errorf("level %s", l)
	}
}

// S0-20: pods find the recorder of their node where agents look for it, if they are to, and may
// write nothing there.
func TestPodWithRecorder(t *testing.T) {
	c := plainConfig()
	c.Recorder = true
	pod, err := c.pod(plainSpec(), "ns")
	if err != nil {
		t.Fatal(err)
	}
	mounted := func(m corev1.VolumeMount) bool {
		return m.MountPath == "/run/muster" && m.ReadOnly && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name && v.HostPath != nil && v.HostPath.Path == "/run/muster"
		})
	}
	runner := pod.Spec.Containers[0]
	if !slices.ContainsFunc(runner.VolumeMounts, mounted) {
		t.Errorf("mounts %+v", runner.VolumeMounts)
	}
	if sc := runner.SecurityContext; sc.Privileged != nil || len(sc.Capabilities.Add) > 0 {
		t.Errorf("rights %+v", sc)
	}
	// Kubernetes' own levels admit no hostPath below this one.
	if l := c.namespaceObject("ns", "w").Labels["pod-security.kubernetes.io/enforce"]; l != "privileged" {
		t.Errorf("level %s", l)
	}
}

// reaches evaluates a policy as a network plugin would, for addresses.
func reaches(np *netv1.NetworkPolicy, to string, port int, protocol corev1.Protocol) bool {
	addr := netip.MustParseAddr(to)
	for _, rule := range np.Spec.Egress {
		open := len(rule.Ports) == 0
		for _, p := range rule.Ports {
			open = open || p.Port.IntValue() == port && *p.Protocol == protocol
		}
		there := len(rule.To) == 0
		for _, peer := range rule.To {
			if peer.IPBlock == nil || !netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(addr) {
				continue
			}
			there = there || !slices.ContainsFunc(peer.IPBlock.Except, func(x string) bool { return netip.MustParsePrefix(x).Contains(addr) })
		}
		if open && there {
			return true
		}
	}
	return false
}

// S4-64 S4-65: nothing comes in; out goes what is listed, and nothing else. No plugin here
// enforces a policy, so this is what the policy means, not what a network does.
func TestNetworkPolicy(t *testing.T) {
	c := plainConfig()
	c.ControlPlane.CIDRs = []string{"10.9.0.0/24"}
	np := c.networkPolicy("ns")
	if len(np.Spec.Ingress) != 0 || !slices.Contains(np.Spec.PolicyTypes, netv1.PolicyTypeIngress) || !slices.Contains(np.Spec.PolicyTypes, netv1.PolicyTypeEgress) || len(np.Spec.PodSelector.MatchLabels) != 0 {
		t.Errorf("policy: %+v", np.Spec)
	}
	for _, tt := range []struct {
		to   string
		port int
		want bool
	}{
		{"140.82.112.3", 443, true}, {"140.82.112.3", 22, false}, {"140.82.112.3", 80, true}, {"2606:50c0::1", 443, true},
		{"10.9.0.7", 8080, true}, {"10.9.0.7", 22, false}, {"10.9.1.7", 8080, false}, // the control plane and its neighbours
		{"10.0.0.1", 443, false}, {"192.168.1.1", 443, false}, {"172.20.0.1", 443, false}, {"100.64.0.1", 443, false}, {"fd00::1", 443, false},
		{"169.254.169.254", 80, false}, {"169.254.20.10", 53, true},
	} {
		if got := reaches(np, tt.to, tt.port, corev1.ProtocolTCP); got != tt.want {
			t.Errorf("%s:%d is reached: %t", tt.to, tt.port, got)
		}
	}
	c.Egress = []Egress{{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.128/25"}, Ports: []int{443}}}
	np = c.networkPolicy("ns")
	for to, want := range map[string]bool{"192.0.2.5": true, "192.0.2.200": false, "140.82.112.3": false} {
		if got := reaches(np, to, 443, corev1.ProtocolTCP); got != want {
			t.Errorf("with a list of its own %s is reached: %t", to, got)
		}
	}
}

// S4-46 S4-48: no two workspaces share a namespace, whatever they are called.
func TestNamespaces(t *testing.T) {
	c := plainConfig()
	seen := map[string]string{}
	for _, w := range []string{"a", "b", "A", "a.b", "a-b", "a/b", "", "-", "ä", "a\n", strings.Repeat("x", 60), strings.Repeat("x", 61), "../x", "$(x)", "default"} {
		ns, given, ok := c.namespaceOf(w)
		if !ok || given || len(ns) > 63 || !strings.HasPrefix(ns, "muster-") {
			t.Errorf("workspace %q: %q", w, ns)
		}
		if other, twice := seen[ns]; twice {
			t.Errorf("workspaces %q and %q share %s", w, other, ns)
		}
		seen[ns] = w
	}
	c.Namespaces = map[string]string{"a": "ci-a"}
	if ns, given, ok := c.namespaceOf("a"); ns != "ci-a" || !given || !ok {
		t.Errorf("given: %s", ns)
	}
	c.CreateNamespaces = false
	if ns, _, ok := c.namespaceOf("b"); ok {
		t.Errorf("neither given nor to be made: %s", ns)
	}
}

// Every problem of a section is told at once, with its key.
func TestConfig(t *testing.T) {
	for _, ok := range []string{``, `{"namespaces": {"a": "ci-a"}, "create_namespaces": false}`, `{"egress": [], "network_policy": false, "docker": "privileged-sidecar"}`} {
		c := Defaults()
		if err := c.Decode([]byte(ok)); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	c := Defaults()
	err := c.Decode([]byte(`{"kubeconfig": "/nowhere/kubeconfig", "qps": 0, "timeout": "1ms", "namespace": "fixed", "namespaces": {"a": "ci", "b": "ci", "c": "Not A Name"}, "max": -1,
		"quota": {"pods": "many"}, "egress": [{"cidr": "10.0.0.1/8"}], "control_plane": {"port": 0}, "image": "a b", "agent_path": "bin", "pull_policy": "Sometimes", "docker": "please",
		"user": -1, "disk_mib": 9, "disk_limit_mib": 3, "gpu_resource": "/", "runtime_class": "NO", "labels": {"muster-ci.github.io/owner": "x"}, "tolerations": [{"effect": "Maybe"}],
		"registries": [{"kind": "other", "server": "https://x"}, {"kind": "aws", "server": "ghcr.io"}], "room": {"max": 1}, "nonsense": 1}`))
	for _, want := range []string{"kubeconfig:", "qps, burst:", "timeout:", "namespace:", "share ci", `"Not A Name"`, "max:", "quota:", "egress:", "control_plane:", "image:", "agent_path:", "pull_policy:", "docker:",
		"user, group:", "disk_mib", "gpu_resource:", "runtime_class:", "labels:", "tolerations:", "registries: entry 1: kind", "registries: entry 2: server", "nonsense: unknown key"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("nothing is said of %s", want)
		}
	}
	if _, err := New(Defaults()); err == nil {
		t.Error("a provider without owner or cluster")
	}
}

// S4-49: three kinds of credentials become the one pull secret that a kubelet understands.
func TestRegistries(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	status := http.StatusOK
	ecr := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		if r.Header.Get("X-Amz-Target") != "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" || !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") || !strings.Contains(auth, "/eu-west-1/ecr/aws4_request") {
			t.Errorf("request: %v", r.Header)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"authorizationData": [{"authorizationToken": "`+base64.StdEncoding.EncodeToString([]byte("AWS:from-ecr"))+`"}]}`)
	}))
	defer ecr.Close()
	c := plainConfig()
	c.Registries = []Registry{
		{Kind: "custom", Server: "registry.example:5000", Username: "me", PasswordFile: file("password", "secret\n")},
		{Kind: "gcp", Server: "europe-docker.pkg.dev", KeyFile: file("key.json", `{"type": "service_account"}`)},
		{Kind: "aws", Server: "123456789012.dkr.ecr.eu-west-1.amazonaws.com", AccessKeyID: "AKIDEXAMPLE", SecretKeyFile: file("aws", "key"), Endpoint: ecr.URL},
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := c.pullSecretOf(t.Context(), "ns")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if err := json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &got); err != nil || s.Type != corev1.SecretTypeDockerConfigJson {
		t.Fatalf("%s: %v", s.Type, err)
	}
	for server, want := range map[string]string{"registry.example:5000": "me:secret", "europe-docker.pkg.dev": `_json_key:{"type": "service_account"}`, "123456789012.dkr.ecr.eu-west-1.amazonaws.com": "AWS:from-ecr"} {
		if a := got.Auths[server]; a.Username+":"+a.Password != want || a.Auth != base64.StdEncoding.EncodeToString([]byte(want)) {
			t.Errorf("%s: %+v", server, a)
		}
	}
	for code, class := range map[int]error{http.StatusForbidden: provider.ErrInvalid, http.StatusInternalServerError: provider.ErrTransient, http.StatusTooManyRequests: provider.ErrTransient} {
		status = code
		if _, err := c.pullSecretOf(t.Context(), "ns"); !errors.Is(err, class) || strings.Contains(err.Error(), "from-ecr:") {
			t.Errorf("ECR answers %d: %v", code, err)
		}
	}
	c.Registries[1].KeyFile = file("empty", "")
	if _, err := c.pullSecretOf(t.Context(), "ns"); !errors.Is(err, provider.ErrInvalid) {
		t.Errorf("an empty key: %v", err)
	}
}

// The signature of AWS's own documented example of a key's derivation and a request, so
// that a real ECR would take it. The signature was computed independently.
func TestSignature(t *testing.T) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "https://api.ecr.us-east-1.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
	sign(req, []byte("{}"), "ecr", "us-east-1", "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	const want = "527a2155e9afc2426cb4c659023df9c031e8103458f349819615ff25111f5de0"
	if got := req.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+want) {
		t.Errorf("signature: %s", got)
	}
}

// What a pod's object says, in the order of certainty: states that a real node takes long to reach.
func TestStand(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ended := func(name, reason string, code int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}}
	}
	disrupted := func(reason string) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: "m"}}
	}
	waiting := corev1.ContainerStatus{Name: runnerContainer, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}
	for _, tt := range []struct {
		name   string
		status corev1.PodStatus
		warn   warning
		gone   bool
		state  provider.InstanceState
		words  string
	}{
		{"evicted while its container waits", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory.", Conditions: disrupted("TerminationByKubelet"), ContainerStatuses: []corev1.ContainerStatus{waiting}}, warning{}, false, provider.InstanceEnded, "ran short"},
		{"refused, without containers", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Node didn't have enough resource"}, warning{}, false, provider.InstanceEnded, "refused by the node"},
		{"refused for pressure", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "Pod was rejected: The node had condition: [DiskPressure]"}, warning{}, false, provider.InstanceEnded, "refused by the node"},
		{"its node is gone while it runs", corev1.PodStatus{Phase: corev1.PodFailed, Conditions: disrupted("DeletionByPodGC"), ContainerStatuses: []corev1.ContainerStatus{{Name: runnerContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}, warning{}, true, provider.InstanceEnded, "its node is gone"},
		{"137 of a node that shuts down", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Terminated", Conditions: disrupted("TerminationByKubelet"), ContainerStatuses: []corev1.ContainerStatus{ended(runnerContainer, "Error", 137)}}, warning{}, false, provider.InstanceEnded, "shuts down"},
		{"drained, exit code 0", corev1.PodStatus{Phase: corev1.PodSucceeded, Conditions: disrupted("EvictionByEvictionAPI"), ContainerStatuses: []corev1.ContainerStatus{ended(runnerContainer, "Completed", 0)}}, warning{}, true, provider.InstanceEnded, "being drained"},
		{"survived a disruption", corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, Reason: "PreemptionByScheduler"}}}, warning{}, false, provider.InstanceRunning, ""},
		{"records lost", corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{ended(runnerContainer, "ContainerStatusUnknown", 137)}}, warning{}, false, provider.InstanceEnded, "lost its records"},
		{"memory", corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{ended(runnerContainer, "OOMKilled", 7)}}, warning{}, false, provider.InstanceEnded, "out of memory"},
		{"sidecar's code does not count", corev1.PodStatus{Phase: corev1.PodSucceeded, InitContainerStatuses: []corev1.ContainerStatus{ended(agentContainer, "Completed", 0)}, ContainerStatuses: []corev1.ContainerStatus{ended(runnerContainer, "Completed", 0)}}, warning{}, false, provider.InstanceEnded, "agent ended"},
		{"gated", corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated}}}, warning{}, false, provider.InstanceStarting, "scheduling gate"},
		{"volume", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{waiting}}, warning{"FailedMount", `secret "x" not found`}, false, provider.InstanceStarting, "volume is missing: secret"},
		{"sandbox", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{waiting}}, warning{"FailedCreatePodSandBox", `no runtime for "kata" is configured`}, false, provider.InstanceStarting, "sandbox cannot be made"},
		{"silent node", corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}}, warning{}, false, provider.InstanceRunning, "the node is silent"},
		{"configuration", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: runnerContainer, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: "image will run as root"}}}}}, warning{}, false, provider.InstanceEnded, "image will run as root"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-time.Minute))}, Status: tt.status}
		if tt.gone {
			pod.DeletionTimestamp = new(metav1.NewTime(now))
		}
		got := stand(pod, tt.warn, patience{time.Hour, now})
		if got.state != tt.state || !strings.Contains(got.detail, tt.words) || tt.words == "" && got.detail != "" {
			t.Errorf("%s: %s, %q", tt.name, got.state, got.detail)
		}
	}
	stuck := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: new(metav1.NewTime(now.Add(-5 * time.Minute)))}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if got := stand(stuck, warning{}, patience{time.Hour, now}); !strings.Contains(got.detail, "node n1 has not confirmed the end") {
		t.Errorf("stuck: %q", got.detail)
	}
	if got := words("a\nb", strings.Repeat("x", 2000), "\x1b[31m"); strings.ContainsAny(got, "\n\x1b") || len(got) > 600 {
		t.Errorf("words: %.80q", got)
	}
}
