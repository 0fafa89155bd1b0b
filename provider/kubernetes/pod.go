package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Where things are in a pod.
const (
	agentDir = "/muster/bin"     // the agent, put there by the init container
	bootDir  = "/muster/boot"    // the boot token, in memory, until the agent takes it
	tokenDir = "/muster/token"   // the Secret, in the init container only
	workDir  = "/muster/work"    // the work of jobs
	sockDir  = "/muster/docker"  // the socket of the Docker sidecar
	dockDir  = "/var/lib/docker" // what that Docker stores

	tokenKey        = "token"
	runnerContainer = "runner"
	agentContainer  = "agent"
	account         = "muster-runner" // the service account of pods, which has no rights
	pullSecret      = "muster-pull"
)

// pod renders the pod of a runner.
func (c Config) pod(spec provider.Spec, ns string) (*corev1.Pod, error) {
	image := cmp.Or(spec.Offering.Image, c.Image)
	if image == "" {
		return nil, fmt.Errorf("%w: neither offering %s nor the provider names an image", provider.ErrInvalid, spec.Offering.Name)
	}
	needs := c.resources(spec.Offering)
	fence := &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	if c.User == 0 {
		// Root without capabilities cannot even read its own user's files; it keeps the engine's defaults.
		fence.Capabilities = nil
	}
	env := []corev1.EnvVar{
		{Name: "MUSTER_URL", Value: spec.Boot.URL}, {Name: "MUSTER_RUNNER", Value: string(spec.Runner)},
		{Name: "MUSTER_RUNNER_DIR", Value: c.RunnerDir}, {Name: "MUSTER_WORK_DIR", Value: workDir},
		{Name: "MUSTER_BOOT_TOKEN_FILE", Value: bootDir + "/" + tokenKey},
		{Name: "MUSTER_STOP_GRACE", Value: max(time.Second, time.Duration(c.Grace)*4/5).String()},
	}
	if c.Download {
		env = append(env, corev1.EnvVar{Name: "MUSTER_DOWNLOAD", Value: "1"})
	}
	if spec.MaxAge > 0 {
		env = append(env, corev1.EnvVar{Name: "MUSTER_MAX_AGE", Value: spec.MaxAge.String()})
	}
	work := &corev1.EmptyDirVolumeSource{}
	if c.DiskLimitMiB > 0 {
		work.SizeLimit = mib(c.DiskLimitMiB)
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: podName(spec.Owner, spec.Runner), Namespace: ns, Labels: maps.Clone(c.Labels), Annotations: maps.Clone(c.Annotations)},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: seconds(time.Duration(c.Grace)),
			ServiceAccountName:            account,
			// S4-61: nothing in a pod can speak to the cluster.
			AutomountServiceAccountToken: new(false),
			EnableServiceLinks:           new(false),
			PriorityClassName:            c.PriorityClass,
			NodeSelector:                 maps.Clone(c.NodeSelector),
			Tolerations:                  tolerations(c.Tolerations),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsUser: &c.User, RunAsGroup: &c.Group, FSGroup: &c.Group, RunAsNonRoot: new(c.User != 0),
				FSGroupChangePolicy: new(corev1.FSGroupChangeOnRootMismatch),
				SeccompProfile:      &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			InitContainers: []corev1.Container{{
				Name: agentContainer, Image: cmp.Or(c.AgentImage, image), ImagePullPolicy: corev1.PullPolicy(c.PullPolicy),
				Command:         []string{c.AgentPath, "--deliver", "/muster"},
				Env:             []corev1.EnvVar{{Name: "MUSTER_BOOT_TOKEN_FILE", Value: tokenDir + "/" + tokenKey}},
				Resources:       needs,
				SecurityContext: fence,
				VolumeMounts: []corev1.VolumeMount{
					{Name: "agent", MountPath: agentDir}, {Name: "boot", MountPath: bootDir},
					{Name: "token", MountPath: tokenDir, ReadOnly: true},
				},
			}},
			Containers: []corev1.Container{{
				Name: runnerContainer, Image: image, ImagePullPolicy: corev1.PullPolicy(c.PullPolicy),
				Command:         []string{agentDir + "/muster-agent"},
				Env:             env,
				Resources:       needs,
				SecurityContext: fence,
				VolumeMounts: []corev1.VolumeMount{
					{Name: "agent", MountPath: agentDir, ReadOnly: true}, {Name: "boot", MountPath: bootDir}, {Name: "work", MountPath: workDir},
				},
			}},
			Volumes: []corev1.Volume{
				{Name: "agent", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: mib(256)}}},
				{Name: "boot", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: mib(1)}}},
				{Name: "token", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: podName(spec.Owner, spec.Runner), DefaultMode: new(int32(0o440))}}},
				{Name: "work", VolumeSource: corev1.VolumeSource{EmptyDir: work}},
			},
		},
	}
	set(&pod.Labels, map[string]string{
		labelOwner: short(spec.Owner), labelRunner: string(spec.Runner), labelPool: labelValue(spec.Pool), labelSize: sizeOf(spec.Offering, image), labelRole: "runner",
		"app.kubernetes.io/managed-by": "muster",
	})
	set(&pod.Annotations, map[string]string{
		noteOwner: plain(spec.Owner), noteWorkspace: plain(spec.Workspace), notePool: plain(spec.Pool), noteTrace: plain(spec.TraceID), noteOffering: spec.Offering.Name,
		// Whoever tidies nodes waits for the job.
		"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true",
	})
	if spec.MaxAge > 0 {
		pod.Spec.ActiveDeadlineSeconds = seconds(spec.MaxAge)
	}
	if c.Recorder {
		c.withRecorder(pod)
	}
	if c.RuntimeClass != "" {
		pod.Spec.RuntimeClassName = &c.RuntimeClass
	}
	if len(c.Registries) > 0 {
		pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: pullSecret}}
	}
	if spec.Offering.Spot {
		set(&pod.Spec.NodeSelector, c.SpotNodeSelector)
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, tolerations(c.SpotTolerations)...)
	}
	// A silent node is given up after a minute instead of five; the agent's silence is noticed sooner.
	for _, key := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(60))})
	}
	if c.Docker == dockerSidecar {
		c.addDocker(pod)
	}
	return pod, nil
}

// addDocker puts a Docker daemon beside the runner. It is privileged: whoever has
// its socket has the node, unless the runtime class puts a machine between.
func (c Config) addDocker(pod *corev1.Pod) {
	sock := corev1.VolumeMount{Name: "docker-socket", MountPath: sockDir}
	socket := "unix://" + sockDir + "/docker.sock"
	pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{
		Name: "docker", Image: c.DockerImage, ImagePullPolicy: corev1.PullPolicy(c.PullPolicy),
		// With this policy it runs beside the runner and is ended after it.
		RestartPolicy:   new(corev1.ContainerRestartPolicyAlways),
		Command:         []string{"dockerd"},
		Args:            []string{"--host=" + socket, "--group=" + strconv.FormatInt(c.Group, 10)},
		SecurityContext: &corev1.SecurityContext{Privileged: new(true), RunAsUser: new(int64(0)), RunAsGroup: new(int64(0)), RunAsNonRoot: new(false)},
		StartupProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"docker", "--host", socket, "version"}}},
			PeriodSeconds: 1, FailureThreshold: 120,
		},
		// A job's own containers work where the runner works.
		VolumeMounts: []corev1.VolumeMount{sock, {Name: "docker-data", MountPath: dockDir}, {Name: "work", MountPath: workDir}},
	})
	runner := &pod.Spec.Containers[0]
	runner.VolumeMounts = append(runner.VolumeMounts, sock)
	runner.Env = append(runner.Env, corev1.EnvVar{Name: "DOCKER_HOST", Value: socket},
		corev1.EnvVar{Name: "MUSTER_ENGINES", Value: "network"}) // of the pod's network, and for this runner alone
	for _, name := range []string{"docker-socket", "docker-data"} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
}

// resources are what an offering stands for (S4-51, S4-76).
func (c Config) resources(o muster.Offering) corev1.ResourceRequirements {
	r := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	if o.CPUs > 0 {
		cpu := resource.NewMilliQuantity(int64(o.CPUs*1000+0.5), resource.DecimalSI)
		r.Requests[corev1.ResourceCPU] = *cpu
		if c.LimitCPU {
			r.Limits[corev1.ResourceCPU] = *cpu
		}
	}
	if o.MemoryMiB > 0 {
		// Memory that is not all there when it is needed kills a neighbour: the request is the limit.
		r.Requests[corev1.ResourceMemory], r.Limits[corev1.ResourceMemory] = *mib(o.MemoryMiB), *mib(o.MemoryMiB)
	}
	if c.DiskMiB > 0 {
		r.Requests[corev1.ResourceEphemeralStorage] = *mib(c.DiskMiB)
	}
	if c.DiskLimitMiB > 0 {
		r.Limits[corev1.ResourceEphemeralStorage] = *mib(c.DiskLimitMiB)
	}
	if o.GPUs > 0 {
		// Kubernetes wants the same number in both, and copies it.
		r.Limits[corev1.ResourceName(c.GPUResource)] = *resource.NewQuantity(int64(o.GPUs), resource.DecimalSI)
	}
	return r
}

// secret renders the Secret with a pod's boot token. It goes with the pod.
func secret(pod *corev1.Pod, token muster.Secret) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace,
			Labels:          map[string]string{labelOwner: pod.Labels[labelOwner], labelRunner: pod.Labels[labelRunner], labelRole: "runner"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		// The kubelet does not look again for what cannot change, so that it may be removed while the pod runs.
		Immutable: new(true),
		Data:      map[string][]byte{tokenKey: []byte(token)},
	}
}

// sizeOf tells which pods need the same place.
func sizeOf(o muster.Offering, image string) string {
	return short(fmt.Sprint(o.CPUs, o.MemoryMiB, o.GPUs, o.Spot, image))
}

func tolerations(list []Toleration) []corev1.Toleration {
	var out []corev1.Toleration
	for _, t := range list {
		op := corev1.TolerationOpEqual
		if t.Value == "" {
			op = corev1.TolerationOpExists
		}
		out = append(out, corev1.Toleration{Key: t.Key, Operator: op, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	return slices.Clip(out)
}

// set adds entries to a map that may be nil.
func set(to *map[string]string, from map[string]string) {
	if *to == nil {
		*to = map[string]string{}
	}
	maps.Copy(*to, from)
}

func mib(n int64) *resource.Quantity { return resource.NewQuantity(n<<20, resource.BinarySI) }

// seconds rounds up: a pod lives no shorter than it was told.
func seconds(d time.Duration) *int64 { return new(int64((d + time.Second - 1) / time.Second)) }

// recorderDir is where a node's recorder listens, and where agents look for it.
const recorderDir = "/run/muster"

// withRecorder shows the runner's container the socket of its node's recorder. On a node
// without one the folder is empty, and the agent says why it records nothing.
func (c Config) withRecorder(pod *corev1.Pod) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "recorder", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: recorderDir, Type: new(corev1.HostPathDirectoryOrCreate)},
	}})
	runner := &pod.Spec.Containers[0]
	runner.VolumeMounts = append(runner.VolumeMounts, corev1.VolumeMount{Name: "recorder", MountPath: recorderDir, ReadOnly: true})
}
