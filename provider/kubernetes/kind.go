package kubernetes

import (
	_ "embed"
	"encoding/json"
	"errors"
	"time"

	"github.com/muster-ci/muster/provider"
)

//go:embed guide.md
var guide string

// Kind is this platform for the configuration and the documentation.
func Kind() provider.Kind { return provider.Kind{Description: description(), Read: read} }

func description() provider.Description {
	return provider.Description{
		Kind:      "kubernetes",
		Summary:   "Runners as pods, one for each job, in a namespace of their workspace.",
		Isolation: "That of a container without privileges and without a network towards its neighbours, on nodes that workspaces share; a runtime class such as gVisor or Kata puts more between.",
		Needs: []string{
			"Kubernetes 1.29 or newer, on nodes with Linux.",
			"The rights in `deploy/kubernetes`, which the Helm chart grants as well.",
			"A network plugin that enforces network policies: where there is none, the API server takes them and nothing happens.",
			"An image with GitHub's runner, and one with muster-agent.",
		},
		// From when the pod runs; until then Config.StartTimeout is the limit, and what it
		// waits for is told meanwhile.
		ConnectTimeout: 2 * time.Minute, Queues: true,
		Settings: provider.Settings(Defaults(), map[string]string{
			"kubeconfig":         "a file with the cluster's address and credentials; empty means the service account of the control plane's own pod",
			"context":            "one of the contexts in `kubeconfig`; empty means its current one",
			"qps":                "how many requests to the API server are made each second, over time",
			"burst":              "how many may be made at once",
			"timeout":            "bounds one request",
			"namespace":          "the name of the namespace of a workspace; `{workspace}` stands for the workspace",
			"namespaces":         "workspaces whose namespace exists already: `{team-a: ci-team-a}`; nothing but pods and Secrets is made in them",
			"create_namespaces":  "make the namespaces of other workspaces, with everything that fences them, and keep them so",
			"role":               "the ClusterRole that is bound to the control plane in a namespace that it made; empty binds none",
			"max":                "how many pods a namespace may have, those that ended and are not yet deleted included; 0 means no limit",
			"quota":              "further limits of a namespace, as in a ResourceQuota: `{requests.cpu: \"64\", requests.nvidia.com/gpu: \"4\"}`",
			"container_max":      "the most that one container may ask for, as in a LimitRange: `{cpu: \"16\", memory: 64Gi}`",
			"network_policy":     "let nothing into pods, and out only what is listed",
			"control_plane":      "where agents find the control plane: `cidrs`, or `namespace` with `labels` of its pods, and `port`",
			"egress":             "what jobs may reach besides DNS and the control plane: `{cidr: 192.0.2.0/24, except: [], ports: [443]}`",
			"image":              "the runner's image where the offering names none",
			"agent_image":        "an image that has muster-agent; empty means that the runner's image has it",
			"agent_path":         "where muster-agent is in that image",
			"runner_dir":         "where `run.sh` is in the runner's image",
			"download":           "let the agent download the version of the runner that GitHub names, if the image has none or another",
			"pull_policy":        "`Always`, `IfNotPresent` or `Never`",
			"registries":         "registries that want a password: `kind` custom (`username`, `password_file`), gcp (`key_file`) or aws (`access_key_id`, `secret_key_file`), each with `server`",
			"user":               "the number of the user that containers run as; 0 is root",
			"group":              "the number of the group",
			"recorder":           "lets pods use the recorder of their node (`deploy/kubernetes/recorder.yaml`), by a hostPath of /run/muster, so that their jobs have traces; the namespace must admit that, and no RuntimeClass with a kernel of its own be set",
			"runtime_class":      "the RuntimeClass of pods, such as gvisor or kata; empty is the nodes' own",
			"node_selector":      "labels that a node must have",
			"tolerations":        "taints that a node may have: `{key: ci, value: \"true\", effect: NoSchedule}`; without a value any will do",
			"spot_node_selector": "further labels for offerings with `spot`",
			"spot_tolerations":   "further taints for offerings with `spot`",
			"priority_class":     "the PriorityClass of pods; empty is the cluster's own default",
			"gpu_resource":       "the resource that an offering's `gpus` are asked as",
			"limit_cpu":          "hold a pod to the processors of its offering; otherwise it may use what is idle",
			"disk_mib":           "the disk of a node that a pod asks for; 0 asks for none",
			"disk_limit_mib":     "a pod that uses more is evicted; 0 means no limit",
			"docker":             "`none`, or `privileged-sidecar` for a Docker daemon beside the runner, by which a job can take over the node",
			"docker_image":       "the image of that daemon",
			"labels":             "further labels of pods",
			"annotations":        "further annotations of pods",
			"grace":              "how long a pod may take to end when it is deleted",
			"start_timeout":      "how long a pod may take to start, waiting for a node and pulling images included, before it is given up",
			"capacity_after":     "how long a pod may find no node before no more of its size are made",
			"room":               "placeholders for pools whose offering has `is_autoscale`: `max` of them for each, by the external `metric`, with `image` and `priority_class`",
		}),
		Example: `providers:
  - name: cluster
    kind: kubernetes
    config:
      image: ghcr.io/actions/actions-runner:latest
      max: 50
      node_selector: {kubernetes.io/os: linux}

offerings:
  - {name: medium, cpus: 2, memory_mib: 8192, price_usd_per_minute: "0.008"}
  - {name: gpu, cpus: 8, memory_mib: 32768, gpus: 1, is_autoscale: true, price_usd_per_minute: "0.07"}

pools:
  - name: linux
    scope: your-organization
    labels: [muster]
    provider: cluster
    offering: medium
    scaling: {max_runners: 40}
`,
		Guide: guide,
	}
}

func read(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	err := provider.DecodeConfig(section, &cfg)
	cfg.Kubeconfig = env.Path(cfg.Kubeconfig)
	for i := range cfg.Registries {
		r := &cfg.Registries[i]
		for _, file := range []*string{&r.PasswordFile, &r.KeyFile, &r.SecretKeyFile} {
			*file = env.Path(*file)
		}
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.Owner, env.Logger
	return func() (provider.Provider, error) { return New(cfg) }, nil
}
