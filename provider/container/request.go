package container

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Labels of everything that is made: they are the provider's memory.
const (
	labelOwner     = "muster.owner"
	labelRunner    = "muster.runner"
	labelWorkspace = "muster.workspace"
	labelPool      = "muster.pool"
	labelCreated   = "muster.created"
	labelMaxAge    = "muster.max-age"
	labelTrace     = "muster.trace"
	labelGPUs      = "muster.gpus"
	labelPart      = "muster.part"
	// labelKept is on containers that the operator has made, with the owner as value.
	labelKept = "muster.kept"
)

// The parts of a runner: its own container, and the sidecar's.
const (
	partRunner  = "runner"
	partSidecar = "sidecar"
)

// Where the agent and the runner's files are mounted in containers.
const (
	mountDir    = "/muster"
	agentPath   = mountDir + "/agent"
	runnerFiles = mountDir + "/runner"
	traceSocket = mountDir + "/trace.sock"
)

// networkWorkspace is the value of Config.Network for a network per workspace.
const networkWorkspace = "workspace"

// copyRunner is what a container with RunnerFrom runs before the agent: small files
// and programs are copied, because the runner finds its directory by them, and the
// large externals are linked.
const copyRunner = `set -e
mkdir -p "$MUSTER_RUNNER_DIR"
for f in ` + runnerFiles + `/* ` + runnerFiles + `/.[!.]*; do
	[ -e "$f" ] || continue
	case ${f##*/} in
	externals) ln -sfn "$f" "$MUSTER_RUNNER_DIR/externals" ;;
	*) cp -RP "$f" "$MUSTER_RUNNER_DIR/" ;;
	esac
done
exec ` + agentPath

// request is everything that the engine is asked for, for one runner. It depends on
// nothing but its arguments: what is not in it, no container gets.
func (c Config) request(spec provider.Spec, image string, gpus []string, local, podman bool, now time.Time) client.ContainerCreateOptions {
	host := &container.HostConfig{
		NetworkMode:   container.NetworkMode(c.network(spec.Workspace)),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled}, // a runner is for one job, and for one start
		LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "16m"}},
		CapDrop:       []string{"ALL"},
		CapAdd:        slices.Clone(c.Capabilities),
		IpcMode:       container.IPCModePrivate,
		Runtime:       c.runtime(),
		ExtraHosts:    slices.Clone(c.Hosts),
		Resources:     c.limits(spec.Offering),
	}
	if podman && host.IpcMode == container.IPCModePrivate {
		host.IpcMode = "" // its default, and older versions know no word for it
	}
	if !c.AllowPrivilegeEscalation {
		host.SecurityOpt = []string{"no-new-privileges"}
	}
	host.ReadonlyRootfs = c.readOnly(local)
	if host.ReadonlyRootfs {
		// A job may write and run programs in both; "exec" is not the engine's default.
		host.Tmpfs = map[string]string{"/tmp": "rw,exec,nosuid,nodev,mode=1777", "/run": "rw,nosuid,nodev,mode=0755"}
		// On disk, unlike tmpfs, and filled with what the image has there.
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Target: c.RunnerDir})
	}
	if local {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: c.Agent, Target: agentPath, ReadOnly: true})
	}
	entry := []string{agentPath}
	if c.RunnerFrom != "" {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: c.RunnerFrom, Target: runnerFiles, ReadOnly: true})
		entry = []string{"/bin/sh", "-c", copyRunner}
	}
	c.askForDevices(host, gpus)
	if c.Sidecar != nil {
		// Both containers see the work under one path, so that what a job mounts into a
		// container of its own is there.
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Target: path.Dir(Socket)})
		if !host.ReadonlyRootfs {
			host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Target: c.RunnerDir})
		}
	}
	name := c.name(spec.Runner)
	labels := c.labels(spec, partRunner, now)
	if len(gpus) > 0 {
		labels[labelGPUs] = strings.Join(gpus, ",")
	}
	return client.ContainerCreateOptions{
		Name: name,
		Config: &container.Config{
			Hostname:    string(spec.Runner),
			User:        c.User,
			Image:       image,
			Entrypoint:  entry,
			Env:         c.environment(spec),
			Labels:      labels,
			OpenStdin:   true,
			StdinOnce:   true,
			AttachStdin: true,
			StopSignal:  "SIGTERM",
		},
		HostConfig: host,
	}
}

// sharedKernel is the isolation whose processes the machine's kernel runs, and can record.
const sharedKernel = "runc"

// withRecorder lets a container's agent ask a recorder of the machine, by its socket; "" is
// none. Whoever asks there is told of his own processes and no others.
func withRecorder(req *client.ContainerCreateOptions, socket string) {
	if socket == "" {
		return
	}
	req.HostConfig.Mounts = append(req.HostConfig.Mounts, mount.Mount{Type: mount.TypeBind, Source: socket, Target: traceSocket, ReadOnly: true})
	req.Config.Env = append(req.Config.Env, "MUSTER_TRACE_SOCKET="+traceSocket)
}

// limits are the sizes of an offering, and the configuration's where it has none (S4-51).
func (c Config) limits(o muster.Offering) container.Resources {
	r := container.Resources{
		Memory:   cmp.Or(o.MemoryMiB, c.MemoryMiB) << 20,
		NanoCPUs: int64(cmp.Or(o.CPUs, c.CPUs) * 1e9),
	}
	if c.PIDs > 0 {
		r.PidsLimit = &c.PIDs
		r.Ulimits = []*units.Ulimit{}
	}
	return r
}

// readOnly reports whether containers get their image read-only.
func (c Config) readOnly(local bool) bool {
	if c.ReadOnlyRoot != nil {
		return *c.ReadOnlyRoot
	}
	return local && (c.RunnerFrom != "" || c.Download)
}

func (c Config) network(workspace string) string {
	if c.Network == networkWorkspace {
		return c.workspaceNetwork(workspace)
	}
	return c.Network
}

// askForDevices adds GPUs to a request (S4-76).
func (c Config) askForDevices(host *container.HostConfig, gpus []string) {
	var cdi, nvidia []string
	for _, g := range gpus {
		if isCDI(g) {
			cdi = append(cdi, g)
		} else {
			nvidia = append(nvidia, g)
		}
	}
	if len(nvidia) > 0 {
		host.DeviceRequests = append(host.DeviceRequests, container.DeviceRequest{Driver: "nvidia", DeviceIDs: nvidia, Capabilities: [][]string{{"gpu"}}})
	}
	if len(cdi) > 0 {
		host.DeviceRequests = append(host.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: cdi})
	}
}

// isCDI reports whether a device has a name of the container device interface: VENDOR/CLASS=NAME.
func isCDI(device string) bool {
	kind, name, ok := strings.Cut(device, "=")
	return ok && name != "" && strings.Contains(kind, "/")
}

// devices returns nil if the container was given the GPUs that its label names:
// an engine that knows no such request may ignore it.
func (c Config) devices(host *container.HostConfig, cfg *container.Config) error {
	if cfg == nil || cfg.Labels[labelGPUs] == "" {
		return nil
	}
	var got []string
	for _, r := range host.DeviceRequests {
		got = append(got, r.DeviceIDs...)
	}
	for g := range strings.SplitSeq(cfg.Labels[labelGPUs], ",") {
		if !slices.Contains(got, g) {
			return fmt.Errorf("%w: the engine ignored the request for GPU %s, as Podman's Docker interface does; use Docker for offerings with GPUs", provider.ErrInvalid, g)
		}
	}
	return nil
}

// labels are the memory of one part of a runner.
func (c Config) labels(spec provider.Spec, part string, now time.Time) map[string]string {
	l := map[string]string{
		labelOwner: c.Owner, labelRunner: string(spec.Runner), labelPart: part, labelCreated: now.UTC().Format(time.RFC3339Nano),
		labelWorkspace: spec.Workspace, labelPool: spec.Pool, labelTrace: spec.TraceID,
	}
	if spec.MaxAge > 0 {
		l[labelMaxAge] = spec.MaxAge.String()
	}
	return l
}

// environment is what the agent needs to know, and nothing that is secret.
func (c Config) environment(spec provider.Spec) []string {
	vars := maps.Clone(c.Env)
	if vars == nil {
		vars = map[string]string{}
	}
	vars["MUSTER_RUNNER"] = string(spec.Runner)
	vars["MUSTER_INSTANCE"] = c.name(spec.Runner)
	vars["MUSTER_URL"] = spec.Boot.URL
	vars["MUSTER_BOOT_TOKEN_FILE"] = "/dev/stdin"
	vars["MUSTER_RUNNER_DIR"] = c.RunnerDir
	// The agent must be done, its last report included, before the engine turns to SIGKILL.
	vars["MUSTER_STOP_GRACE"] = (time.Duration(c.Grace) * 3 / 5).String()
	if c.Download {
		vars["MUSTER_DOWNLOAD"] = "1"
	}
	if c.Sidecar != nil {
		vars["DOCKER_HOST"] = "unix://" + Socket
		vars["MUSTER_ENGINES"] = "network" // the sidecar is in it, and works for nobody else
	}
	if spec.MaxAge > 0 {
		vars["MUSTER_MAX_AGE"] = spec.MaxAge.String()
	}
	if spec.TraceID != "" && !strings.ContainsAny(spec.TraceID, "\x00\r\n") {
		vars["MUSTER_TRACE_ID"] = spec.TraceID
	}
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}

// sidecarRequest is the second container of a runner: it lives in the first one's
// network and sees its volumes.
func (c Config) sidecarRequest(spec provider.Spec, image string, now time.Time) client.ContainerCreateOptions {
	name := c.name(spec.Runner)
	host := &container.HostConfig{
		NetworkMode:   container.NetworkMode("container:" + name),
		VolumesFrom:   []string{name},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "16m"}},
		Privileged:    c.Sidecar.Privileged,
		Runtime:       c.runtime(),
		Resources:     container.Resources{Memory: c.Sidecar.MemoryMiB << 20},
	}
	return client.ContainerCreateOptions{
		Name: name + sidecarSuffix,
		Config: &container.Config{
			Image:  image,
			Cmd:    slices.Clone(c.Sidecar.Command),
			Env:    []string{"DOCKER_HOST=unix://" + Socket, "DOCKER_TLS_CERTDIR="}, // without, the official image listens with TLS on a port
			Labels: c.labels(spec, partSidecar, now),
		},
		HostConfig: host,
	}
}
