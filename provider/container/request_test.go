package container

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func plain() Config {
	c := Defaults()
	c.Owner, c.Agent, c.Image = "muster/test", "/opt/muster-agent", "localhost/runner:1"
	return c
}

func sized(o muster.Offering) provider.Spec {
	return provider.Spec{
		Runner: "r-one", Workspace: "acme", Pool: "linux", Offering: o, TraceID: "4bf9", MaxAge: time.Hour,
		Boot: provider.Boot{URL: "http://10.0.0.1:8080", Token: providertest.Token},
	}
}

// S4-51: sizes come from the offering, and from the configuration where it has none.
func TestSizes(t *testing.T) {
	c := plain()
	c.CPUs, c.MemoryMiB, c.PIDs = 1.5, 2048, 300
	for name, tc := range map[string]struct {
		offering muster.Offering
		memory   int64
		nanos    int64
	}{
		"Offering":      {muster.Offering{CPUs: 2, MemoryMiB: 4096}, 4 << 30, 2_000_000_000},
		"Configuration": {muster.Offering{}, 2 << 30, 1_500_000_000},
		"Each":          {muster.Offering{CPUs: 0.25}, 2 << 30, 250_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.request(sized(tc.offering), "i", nil, true, false, noon).HostConfig
			if r.Memory != tc.memory || r.NanoCPUs != tc.nanos || r.PidsLimit == nil || *r.PidsLimit != 300 {
				t.Errorf("memory %d, cpus %d, pids %v", r.Memory, r.NanoCPUs, r.PidsLimit)
			}
		})
	}
	none := plain()
	none.PIDs = 0
	if r := none.request(sized(muster.Offering{}), "i", nil, true, false, noon).HostConfig; r.Memory != 0 || r.NanoCPUs != 0 || r.PidsLimit != nil {
		t.Errorf("without limits: %+v", r.Resources)
	}
}

// S4-46 S4-64: whose a container is stands in its labels, and a workspace has a network of its own.
func TestLabelsAndNetworks(t *testing.T) {
	c := plain()
	req := c.request(sized(muster.Offering{}), "i", nil, true, false, noon)
	want := map[string]string{
		labelOwner: "muster/test", labelRunner: "r-one", labelWorkspace: "acme", labelPool: "linux", labelTrace: "4bf9",
		labelPart: partRunner, labelMaxAge: "1h0m0s", labelCreated: "2026-11-21T12:00:00Z",
	}
	if d := cmp.Diff(want, req.Config.Labels); d != "" {
		t.Error(d)
	}
	for mode, want := range map[string]string{"bridge": "bridge", "none": "none", "host": "host", "isolated-vpc": "isolated-vpc"} {
		c.Network = mode
		if got := c.request(sized(muster.Offering{}), "i", nil, true, false, noon).HostConfig.NetworkMode; string(got) != want {
			t.Errorf("network %s became %s", mode, got)
		}
	}
	c.Network = networkWorkspace
	seen := map[container.NetworkMode]string{}
	for _, owner := range []string{"a", "b"} {
		for _, ws := range []string{"acme", "other", "", "../x"} {
			c.Owner = owner
			spec := sized(muster.Offering{})
			spec.Workspace = ws
			mode := c.request(spec, "i", nil, true, false, noon).HostConfig.NetworkMode
			if before, ok := seen[mode]; ok || !networkName.MatchString(string(mode)) {
				t.Errorf("workspace %q of %s has network %q, which %q has too", ws, owner, mode, before)
			}
			seen[mode] = owner + "/" + ws
		}
	}
}

func TestHardening(t *testing.T) {
	c := plain()
	c.Capabilities = []string{"NET_BIND_SERVICE"}
	h := c.request(sized(muster.Offering{}), "i", nil, true, false, noon).HostConfig
	if !slices.Equal(h.CapDrop, []string{"ALL"}) || !slices.Equal(h.CapAdd, []string{"NET_BIND_SERVICE"}) || !slices.Equal(h.SecurityOpt, []string{"no-new-privileges"}) || h.Privileged {
		t.Errorf("privileges: %+v", h)
	}
	if h.RestartPolicy.Name != container.RestartPolicyDisabled || h.AutoRemove {
		t.Errorf("a runner must start once and stay until it is deleted: %+v", h)
	}
	for _, m := range h.Mounts {
		if m.Type == mount.TypeBind && !m.ReadOnly {
			t.Errorf("a job may change %s", m.Source)
		}
		if strings.Contains(m.Source, "docker.sock") {
			t.Errorf("the engine's socket is mounted")
		}
	}
	yes, no := true, false
	for name, tc := range map[string]struct {
		set  func(*Config)
		want bool
	}{
		"RunnerInImage": {func(*Config) {}, false},
		"RunnerFrom":    {func(c *Config) { c.RunnerFrom = "/srv/runner" }, true},
		"Download":      {func(c *Config) { c.Download = true }, true},
		"Always":        {func(c *Config) { c.ReadOnlyRoot = &yes }, true},
		"Never":         {func(c *Config) { c.RunnerFrom, c.ReadOnlyRoot = "/srv/runner", &no }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := plain()
			tc.set(&c)
			h := c.request(sized(muster.Offering{}), "i", nil, true, false, noon).HostConfig
			writable := slices.ContainsFunc(h.Mounts, func(m mount.Mount) bool { return m.Type == mount.TypeVolume && m.Target == c.RunnerDir })
			if h.ReadonlyRootfs != tc.want || writable != tc.want || (h.Tmpfs["/tmp"] != "") != tc.want {
				t.Errorf("read-only %v, runner's directory a volume %v, tmpfs %v", h.ReadonlyRootfs, writable, h.Tmpfs)
			}
		})
	}
}

// S4-76: a GPU is asked for in the engine's words, belongs to one runner, and an engine that ignores it is refused.
func TestGPUs(t *testing.T) {
	c := plain()
	req := c.request(sized(muster.Offering{GPUs: 2}), "i", []string{"0", "GPU-2"}, true, false, noon)
	want := []container.DeviceRequest{{Driver: "nvidia", DeviceIDs: []string{"0", "GPU-2"}, Capabilities: [][]string{{"gpu"}}}}
	if d := cmp.Diff(want, req.HostConfig.DeviceRequests); d != "" || req.Config.Labels[labelGPUs] != "0,GPU-2" {
		t.Errorf("labels %v, %s", req.Config.Labels, d)
	}
	if err := c.devices(req.HostConfig, req.Config); err != nil {
		t.Errorf("what was asked for is there: %v", err)
	}
	ignored := *req.HostConfig
	ignored.DeviceRequests = nil
	if err := c.devices(&ignored, req.Config); err == nil || !strings.Contains(err.Error(), "use Docker") {
		t.Errorf("an engine that ignored the request: %v", err)
	}
	cdi := []string{"nvidia.com/gpu=0"}
	if h := c.request(sized(muster.Offering{GPUs: 1}), "i", cdi, true, false, noon).HostConfig; len(h.DeviceRequests) != 1 || h.DeviceRequests[0].Driver != "cdi" {
		t.Errorf("docker and a CDI name: %+v", h.DeviceRequests)
	}
	if h := c.request(sized(muster.Offering{}), "i", nil, true, false, noon).HostConfig; len(h.DeviceRequests)+len(h.Devices) != 0 {
		t.Errorf("an offering without GPUs: %+v", h.Resources)
	}
}

// 4-14: the token is in nothing that the engine is told.
func TestTokenIsInNoRequest(t *testing.T) {
	c := plain()
	c.RunnerFrom, c.Download, c.Sidecar = "/srv/runner", true, &Sidecar{Image: "docker:dind", Privileged: true}
	for _, text := range []string{
		fmt.Sprintf("%+v %+v", c.request(sized(muster.Offering{}), "i", nil, true, false, noon).Config, c.request(sized(muster.Offering{}), "i", nil, true, false, noon).HostConfig),
		fmt.Sprintf("%+v %+v", c.sidecarRequest(sized(muster.Offering{}), "i", noon).Config, c.sidecarRequest(sized(muster.Offering{}), "i", noon).HostConfig),
	} {
		if strings.Contains(text, providertest.Token) {
			t.Errorf("the token is in %s", text)
		}
	}
}

// What an engine calls a runtime, and which classes it stands for: nothing unknown passes.
func TestIsolationClasses(t *testing.T) {
	for _, tc := range []struct {
		isolation, runtime, got string
		ok                      bool
	}{
		{"runc", "", "runc", true},
		{"runc", "", "crun", true},
		{"runc", "", "io.containerd.runc.v2", true},
		{"runc", "nvidia", "nvidia", true},
		{"runc", "nvidia", "runc", false},
		{"runc", "", "runsc", false},
		{"runc", "", "oci", false},
		{"runc", "", "", false},
		{"gvisor", "", "runsc", true},
		{"gvisor", "", "runsc-kvm", true},
		{"gvisor", "", "/usr/local/bin/runsc", true},
		{"gvisor", "", "io.containerd.runsc.v1", true},
		{"gvisor", "", "runc", false},
		{"gvisor", "", "oci", false},
		{"gvisor", "", "", false},
		{"gvisor", "strict", "strict", true},
		{"gvisor", "strict", "runsc", false},
		{"kata", "", "io.containerd.kata.v2", true},
		{"kata", "", "kata-fc", true},
		{"kata", "", "runc", false},
		{"sysbox", "", "sysbox-runc", true},
		{"sysbox", "", "runc", false},
	} {
		c := plain()
		c.Isolation, c.Runtime = tc.isolation, tc.runtime
		if err := c.isolates(tc.got); (err == nil) != tc.ok {
			t.Errorf("isolation %s, runtime %q, got %q: %v", tc.isolation, tc.runtime, tc.got, err)
		}
	}
}

func TestWhatASpecMayBe(t *testing.T) {
	p := &Provider{cfg: plain()}
	p.cfg.GPUs = []string{"0"}
	for name, spoil := range map[string]func(*provider.Spec){
		"MoreGPUsThanThereAre": func(s *provider.Spec) { s.Offering.GPUs = 2 },
		"NoImage":              func(*provider.Spec) { p.cfg.Image = "" },
		"NoImagesName":         func(s *provider.Spec) { s.Offering.Image = "UPPER case" },
		"NegativeMemory":       func(s *provider.Spec) { s.Offering.MemoryMiB = -1 },
	} {
		spec := sized(muster.Offering{})
		spoil(&spec)
		if err := p.check(spec); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The engine of a sidecar works for its runner alone, and the recorder is told so.
func TestSidecarIsTheRunners(t *testing.T) {
	c := plain()
	const own = "MUSTER_ENGINES=network"
	if env := c.request(sized(muster.Offering{}), "i", nil, true, false, noon).Config.Env; slices.Contains(env, own) {
		t.Errorf("without a sidecar: %q", env)
	}
	c.Sidecar = &Sidecar{Image: "docker:dind"}
	if env := c.request(sized(muster.Offering{}), "i", nil, true, false, noon).Config.Env; !slices.Contains(env, own) {
		t.Errorf("with a sidecar: %q", env)
	}
}

// A container of this kernel gets the socket of the machine's recorder, and nothing else of it.
func TestWithRecorder(t *testing.T) {
	c := plain()
	without, with := c.request(sized(muster.Offering{}), "i", nil, true, false, noon), c.request(sized(muster.Offering{}), "i", nil, true, false, noon)
	withRecorder(&with, "")
	if !reflect.DeepEqual(without, with) {
		t.Error("without a recorder something has changed")
	}
	withRecorder(&with, "/run/muster/agents-1.sock")
	last := with.HostConfig.Mounts[len(with.HostConfig.Mounts)-1]
	if len(with.HostConfig.Mounts) != len(without.HostConfig.Mounts)+1 || last.Source != "/run/muster/agents-1.sock" || last.Target != traceSocket || !last.ReadOnly {
		t.Errorf("mounts %+v", with.HostConfig.Mounts)
	}
	if !slices.Contains(with.Config.Env, "MUSTER_TRACE_SOCKET="+traceSocket) || len(with.Config.Env) != len(without.Config.Env)+1 {
		t.Errorf("environment %q", with.Config.Env)
	}
	if len(with.HostConfig.CapAdd) > 0 {
		t.Error("it was given capabilities")
	}
}
