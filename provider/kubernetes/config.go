package kubernetes

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/muster-ci/muster/provider"
)

// Config is the provider's section of the configuration. Start from Defaults.
type Config struct {
	// Kubeconfig is the file with the cluster's address and our credentials; "" means
	// the service account of the pod that the control plane runs in.
	Kubeconfig string `json:"kubeconfig"`
	// Context is one of the file's contexts; "" means its current one.
	Context string `json:"context"`
	// QPS and Burst bound our requests to the API server.
	QPS   int `json:"qps"`
	Burst int `json:"burst"`
	// Timeout bounds one request.
	Timeout provider.Duration `json:"timeout"`

	// Namespace names the namespace of a workspace; {workspace} stands for its name.
	Namespace string `json:"namespace"`
	// Namespaces gives workspaces a namespace that exists already.
	Namespaces map[string]string `json:"namespaces"`
	// CreateNamespaces lets us make namespaces and what fences them.
	CreateNamespaces bool `json:"create_namespaces"`
	// Role is the ClusterRole that we bind to ourselves in a namespace that we made; "" binds none.
	Role string `json:"role"`
	// Max is how many pods may exist in a namespace; 0 means no limit.
	Max int `json:"max"`
	// Quota are further limits of a namespace, as of a ResourceQuota.
	Quota map[string]string `json:"quota"`
	// ContainerMax is the most that one container may ask for, as of a LimitRange.
	ContainerMax map[string]string `json:"container_max"`
	// NetworkPolicy isolates the pods of a namespace.
	NetworkPolicy bool `json:"network_policy"`
	// ControlPlane is where agents find the control plane.
	ControlPlane ControlPlane `json:"control_plane"`
	// Egress is what jobs may reach besides DNS and the control plane.
	Egress []Egress `json:"egress"`

	// Image is the runner's image where the offering names none.
	Image string `json:"image"`
	// AgentImage has the agent; "" means that the runner's image has it.
	AgentImage string `json:"agent_image"`
	// AgentPath is the agent's path in that image.
	AgentPath string `json:"agent_path"`
	// RunnerDir is the directory of run.sh in the runner's image.
	RunnerDir string `json:"runner_dir"`
	// Download lets the agent download GitHub's runner.
	Download   bool       `json:"download"`
	PullPolicy string     `json:"pull_policy"`
	Registries []Registry `json:"registries"`

	// Recorder mounts the socket of the node's recorder into pods.
	Recorder bool `json:"recorder"`

	// User and Group are whom containers run as; 0 is root.
	User         int64             `json:"user"`
	Group        int64             `json:"group"`
	RuntimeClass string            `json:"runtime_class"`
	NodeSelector map[string]string `json:"node_selector"`
	Tolerations  []Toleration      `json:"tolerations"`
	// SpotNodeSelector and SpotTolerations are added for offerings with spot.
	SpotNodeSelector map[string]string `json:"spot_node_selector"`
	SpotTolerations  []Toleration      `json:"spot_tolerations"`
	PriorityClass    string            `json:"priority_class"`
	GPUResource      string            `json:"gpu_resource"`
	// LimitCPU caps a pod at the processors of its offering.
	LimitCPU bool `json:"limit_cpu"`
	// DiskMiB is the disk that a pod asks for, DiskLimitMiB where it is evicted.
	DiskMiB      int64             `json:"disk_mib"`
	DiskLimitMiB int64             `json:"disk_limit_mib"`
	Docker       string            `json:"docker"`
	DockerImage  string            `json:"docker_image"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`

	// Grace is what a pod gets to end.
	Grace provider.Duration `json:"grace"`
	// StartTimeout is how long a pod may take to start.
	StartTimeout provider.Duration `json:"start_timeout"`
	// CapacityAfter is how long a pod may find no node before others of its size are refused.
	CapacityAfter provider.Duration `json:"capacity_after"`
	Room          Room              `json:"room"`

	// Owner is the control plane whose instances these are; required, and not a setting.
	Owner string `json:"-"`
	// Logger gets a line about whatever had to be given up. nil discards.
	Logger *slog.Logger `json:"-"`
}

// ControlPlane is where pods find the control plane: addresses, or pods of a namespace.
type ControlPlane struct {
	CIDRs     []string          `json:"cidrs,omitempty"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Port      int               `json:"port,omitempty"`
}

// Egress is one destination that pods may reach; no port means every port.
type Egress struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
	Ports  []int    `json:"ports,omitempty"`
}

// Toleration lets pods onto nodes with a taint.
type Toleration struct {
	Key    string `json:"key,omitempty"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect,omitempty"`
}

// Room are the placeholders of offerings with is_autoscale (C28).
type Room struct {
	// Max is how many placeholders a pool may have; 0 keeps none.
	Max int `json:"max,omitempty"`
	// Metric is an external metric that counts a pool's runners by state: the control
	// plane's own, through an adapter.
	Metric string `json:"metric,omitempty"`
	Image  string `json:"image,omitempty"`
	// PriorityClass must be below that of runners, which push placeholders out.
	PriorityClass string `json:"priority_class,omitempty"`
}

// The choices of Config.Docker.
const (
	dockerNone    = "none"
	dockerSidecar = "privileged-sidecar"
)

// Defaults is the configuration of an empty section: the service account of our
// own pod, a namespace for each workspace that is made when needed, GitHub's own
// runner image as its user 1001, no Docker, and the Internet without private
// networks. Owner is missing in it.
func Defaults() Config {
	return Config{
		QPS: 50, Burst: 100, Timeout: provider.Duration(30 * time.Second),
		Namespace: "muster-{workspace}", CreateNamespaces: true, Role: "muster-workspace",
		NetworkPolicy: true, ControlPlane: ControlPlane{Namespace: "muster", Port: 8080},
		Egress: []Egress{{CIDR: "0.0.0.0/0", Except: slices.Clone(private4), Ports: []int{80, 443}}, {CIDR: "::/0", Except: slices.Clone(private6), Ports: []int{80, 443}}},
		Image:  "ghcr.io/actions/actions-runner:latest", AgentImage: "ghcr.io/muster-ci/muster:latest", AgentPath: "/usr/local/bin/muster-agent",
		RunnerDir: "/home/runner", PullPolicy: "IfNotPresent",
		User: 1001, Group: 1001, GPUResource: "nvidia.com/gpu", DiskMiB: 2048, DiskLimitMiB: 20480,
		Docker: dockerNone, DockerImage: "docker:dind",
		Grace: provider.Duration(30 * time.Second), StartTimeout: provider.Duration(10 * time.Minute), CapacityAfter: provider.Duration(2 * time.Minute),
		Room: Room{Metric: "muster_runners", Image: "registry.k8s.io/pause:3.10", PriorityClass: "muster-room"},
	}
}

// The networks that jobs of the default egress list do not reach: neighbours, and
// the address where clouds hand out a machine's credentials.
var (
	private4 = []string{"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}
	private6 = []string{"fc00::/7", "fe80::/10"}
)

// Decode reads the section over c, strictly. The error names every problem, those
// of single keys and those of their values.
func (c *Config) Decode(section []byte) error {
	return errors.Join(provider.DecodeConfig(section, c), c.Validate())
}

var imageReference = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._/:@-]*\z`)

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Kubeconfig != "" {
		if info, err := os.Stat(c.Kubeconfig); err != nil || info.IsDir() {
			add("kubeconfig: %q is not a file; leave it empty inside a cluster", c.Kubeconfig)
		}
	} else if c.Context != "" {
		add("context: %q needs a kubeconfig", c.Context)
	}
	if c.QPS < 1 || c.Burst < c.QPS {
		add("qps, burst: %d and %d must be at least 1, and burst not below qps", c.QPS, c.Burst)
	}
	for key, d := range map[string]struct{ is, least, most time.Duration }{
		"timeout": {time.Duration(c.Timeout), time.Second, 10 * time.Minute}, "grace": {time.Duration(c.Grace), time.Second, time.Hour},
		"start_timeout": {time.Duration(c.StartTimeout), time.Second, 24 * time.Hour}, "capacity_after": {time.Duration(c.CapacityAfter), time.Second, 24 * time.Hour},
	} {
		if d.is < d.least || d.is > d.most {
			add("%s: %s must be between %s and %s", key, d.is, d.least, d.most)
		}
	}
	c.validateNamespaces(add)
	c.validateNetwork(add)
	c.validatePod(add)
	for i, r := range c.Registries {
		r.validate(func(format string, args ...any) {
			add("registries: entry %d: %s", i+1, fmt.Sprintf(format, args...))
		})
	}
	if c.Room.Max < 0 || c.Room.Max > 0 && (c.Room.Metric == "" || c.Room.PriorityClass == "" || !imageReference.MatchString(c.Room.Image)) {
		add("room: max must not be negative, and placeholders need metric, image and priority_class")
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

func (c Config) validateNamespaces(add func(string, ...any)) {
	if name := strings.Replace(c.Namespace, "{workspace}", "w", 1); len(c.Namespace)-len("{workspace}") > 40 || len(validation.IsDNS1123Label(name)) > 0 || strings.Count(c.Namespace, "{workspace}") != 1 {
		add(`namespace: %q must be a name with {workspace} once in it, such as "muster-{workspace}", so that no two workspaces share one`, c.Namespace)
	}
	taken := map[string]string{}
	for workspace, ns := range c.Namespaces {
		if len(validation.IsDNS1123Label(ns)) > 0 {
			add("namespaces: %q of workspace %s is not the name of a namespace", ns, workspace)
		}
		if other, ok := taken[ns]; ok {
			add("namespaces: workspaces %s and %s share %s; give each one of its own", min(workspace, other), max(workspace, other), ns)
		}
		taken[ns] = workspace
	}
	if !c.CreateNamespaces && len(c.Namespaces) == 0 {
		add("namespaces: without create_namespaces every workspace needs one here, e.g. {default: ci}")
	}
	if c.Max < 0 {
		add("max: %d must not be negative", c.Max)
	}
	for key, list := range map[string]map[string]string{"quota": c.Quota, "container_max": c.ContainerMax} {
		for name, v := range list {
			if _, err := resource.ParseQuantity(v); err != nil {
				add(`%s: %q of %s is not a quantity such as "8" or "64Gi"`, key, v, name)
			}
		}
	}
}

func (c Config) validateNetwork(add func(string, ...any)) {
	cidr := func(key, text string) {
		if p, err := netip.ParsePrefix(text); err != nil || p.Masked() != p {
			add(`%s: %q is not a network such as "192.0.2.0/24"`, key, text)
		}
	}
	port := func(key string, n int) {
		if n < 1 || n > 65535 {
			add("%s: port %d must be between 1 and 65535", key, n)
		}
	}
	for _, e := range c.Egress {
		cidr("egress", e.CIDR)
		for _, x := range e.Except {
			cidr("egress", x)
		}
		for _, n := range e.Ports {
			port("egress", n)
		}
	}
	for _, x := range c.ControlPlane.CIDRs {
		cidr("control_plane", x)
	}
	port("control_plane", c.ControlPlane.Port)
	if c.NetworkPolicy && len(c.ControlPlane.CIDRs) == 0 && c.ControlPlane.Namespace == "" {
		add("control_plane: name its cidrs or its namespace, or agents will not reach it through the network policy")
	}
}

func (c Config) validatePod(add func(string, ...any)) {
	for key, ref := range map[string]string{"image": c.Image, "agent_image": c.AgentImage, "docker_image": c.DockerImage} {
		if ref == "" && (key == "agent_image" || key == "image" || c.Docker != dockerSidecar) {
			continue // the offering names one, or nobody needs it
		}
		if !imageReference.MatchString(ref) {
			add("%s: %q is not the name of an image", key, ref)
		}
	}
	for key, p := range map[string]string{"agent_path": c.AgentPath, "runner_dir": c.RunnerDir} {
		if !filepath.IsAbs(p) {
			add("%s: %q must be an absolute path in the image", key, p)
		}
	}
	if !slices.Contains([]string{"Always", "IfNotPresent", "Never"}, c.PullPolicy) {
		add("pull_policy: %q must be Always, IfNotPresent or Never", c.PullPolicy)
	}
	if !slices.Contains([]string{dockerNone, dockerSidecar}, c.Docker) {
		add("docker: %q must be %s or %s", c.Docker, dockerNone, dockerSidecar)
	}
	if c.User < 0 || c.Group < 0 {
		add("user, group: %d and %d must not be negative", c.User, c.Group)
	}
	if c.DiskMiB < 0 || c.DiskLimitMiB < 0 || c.DiskLimitMiB > 0 && c.DiskLimitMiB < c.DiskMiB {
		add("disk_mib, disk_limit_mib: %d and %d must not be negative, and the limit not below the request", c.DiskMiB, c.DiskLimitMiB)
	}
	if len(validation.IsQualifiedName(c.GPUResource)) > 0 {
		add(`gpu_resource: %q is not the name of a resource such as "nvidia.com/gpu"`, c.GPUResource)
	}
	for key, name := range map[string]string{"runtime_class": c.RuntimeClass, "priority_class": c.PriorityClass, "role": c.Role} {
		if name != "" && len(validation.IsDNS1123Subdomain(name)) > 0 {
			add("%s: %q is not a name", key, name)
		}
	}
	for key, labels := range map[string]map[string]string{"labels": c.Labels, "node_selector": c.NodeSelector, "spot_node_selector": c.SpotNodeSelector} {
		for k, v := range labels {
			if len(validation.IsQualifiedName(k)) > 0 || len(validation.IsValidLabelValue(v)) > 0 || key == "labels" && strings.HasPrefix(k, label) {
				add("%s: %s: %s is not a label that can be set", key, k, v)
			}
		}
	}
	for k := range c.Annotations {
		if len(validation.IsQualifiedName(k)) > 0 || strings.HasPrefix(k, label) {
			add("annotations: %s is not an annotation that can be set", k)
		}
	}
	for key, list := range map[string][]Toleration{"tolerations": c.Tolerations, "spot_tolerations": c.SpotTolerations} {
		for _, t := range list {
			if !slices.Contains([]string{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}, t.Effect) || t.Key != "" && len(validation.IsQualifiedName(t.Key)) > 0 || t.Key == "" && t.Value != "" {
				add("%s: key %q, value %q, effect %q is no toleration; effects are NoSchedule, PreferNoSchedule and NoExecute", key, t.Key, t.Value, t.Effect)
			}
		}
	}
}
