package container

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// in runs a command inside a runner's container.
func in(t testing.TB, e *enginetest.Engine, name, script string) string {
	t.Helper()
	return e.Tool(t, "exec", name, "/bin/sh", "-c", script)
}

// S4-51: what the kernel enforces is what the offering says.
func TestLimitsAndPrivileges(t *testing.T) {
	t.Parallel()
	for name, start := range engines {
		t.Run(name, func(t *testing.T) { limitsAndPrivileges(t, start(t, enginetest.Options{})) })
	}
}

func limitsAndPrivileges(t *testing.T, e *enginetest.Engine) {
	c := config(t, e)
	c.PIDs, c.User = 77, "runner"
	yes := true
	c.ReadOnlyRoot = &yes
	c.Env = map[string]string{"COLOR": "green"}
	p := open(t, c)
	spec := specFor("r-limits")
	spec.Offering = muster.Offering{CPUs: 0.5, MemoryMiB: 96}
	inst := create(t, p, spec)
	status := in(t, e, inst.ID, "cat /proc/1/status")
	for _, line := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t1001\t1001"} {
		if !strings.Contains(status, line) {
			t.Errorf("the agent's process is without %q:\n%s", line, status)
		}
	}
	// The first word is of version 1 of control groups, the second of version 2.
	for what, want := range map[string]string{
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max": "100663296",
		"cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max":                  "77",
		"cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || head -c 5 /sys/fs/cgroup/cpu.max":      "50000",
		"touch /etc/x 2>/dev/null || echo read-only":                                                   "read-only",
		"touch /tmp/x && echo writable":                                                                "writable",
		"touch /home/runner/x && [ -x /home/runner/run.sh ] && echo writable":                          "writable",
		"touch /muster/agent 2>/dev/null || echo the agent is safe":                                    "the agent is safe",
		"echo $COLOR": "green",
	} {
		if got := in(t, e, inst.ID, what); got != want {
			t.Errorf("%s: %q, not %q", what, got, want)
		}
	}
	destroy(t, p, "r-limits")
	if v := e.Tool(t, "volume", "ls", "-q"); v != "" {
		t.Errorf("volumes are left: %s", v)
	}
}

// The isolation that is configured is the one that containers have, or they never start: Podman takes
// every request for a runtime and does as it likes.
func TestIsolationIsVerified(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	for _, isolation := range []string{"gvisor", "kata", "sysbox"} {
		t.Run("Without-"+isolation, func(t *testing.T) {
			c := config(t, e)
			c.Isolation = isolation
			_, err := open(t, c).Create(t.Context(), specFor("r-soft"))
			if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), `gave the container "runc"`) || !strings.Contains(err.Error(), "--runtime "+classes[isolation].usual) {
				t.Errorf("on an engine without it: %v", err)
			}
			if left := e.Containers(t); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	providertest.Survived(t, "container", "the engine gives another isolation than was asked for")
}

// Docker honours requests for runtimes and devices, or refuses them in words.
func TestDockerKnowsRuntimesAndDevices(t *testing.T) {
	t.Parallel()
	e := enginetest.Docker(t, enginetest.Options{Runtimes: map[string]string{"runsc": enginetest.GVisor(t)}})
	c := config(t, e)
	c.Isolation = "gvisor"
	p := open(t, c)
	inst := create(t, p, specFor("r-gvisor"))
	if boot := in(t, e, inst.ID, "dmesg"); !strings.Contains(boot, "gVisor") {
		t.Errorf("the kernel says\n%s", boot)
	}
	destroy(t, p, "r-gvisor")
	c.Isolation = "kata"
	if _, err := open(t, c).Create(t.Context(), specFor("r-kata")); !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "kata") {
		t.Errorf("a runtime that is not there: %v", err)
	}
	c.Isolation, c.GPUs = "runc", []string{"0"} // S4-76
	spec := specFor("r-gpu")
	spec.Offering.GPUs = 1
	if _, err := open(t, c).Create(t.Context(), spec); !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "nvidia") {
		t.Errorf("a device that is not there: %v", err)
	}
	if left := e.Containers(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// gVisor for real: the kernel that a job sees is not this machine's, and the whole contract holds on it.
func TestGVisor(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{Runtime: "runsc", Runtimes: map[string]string{"runsc": enginetest.GVisor(t)}})
	c := config(t, e)
	c.Isolation = "gvisor"
	t.Run("OtherKernel", func(t *testing.T) {
		p := open(t, c)
		inst := create(t, p, specFor("r-gvisor"))
		if boot := in(t, e, inst.ID, "dmesg"); !strings.Contains(boot, "gVisor") {
			t.Errorf("the kernel says\n%s", boot)
		}
		destroy(t, p, "r-gvisor")
	})
	t.Run("RefusesForRunc", func(t *testing.T) {
		c := c
		c.Isolation = "runc"
		if _, err := open(t, c).Create(t.Context(), specFor("r-other")); !errors.Is(err, provider.ErrInvalid) {
			t.Errorf("a runtime that was not asked for: %v", err)
		}
	})
	t.Run("Conformance", func(t *testing.T) { providertest.Run(t, harness(e, c, t)) })
}

// An engine on another machine does not see the agent's file, and gets it by copy.
func TestEngineOnAnotherMachine(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	c := config(t, e)
	c.Host = newMiddleman(t, e, "tcp").Host
	p := open(t, c)
	inst := create(t, p, specFor("r-remote"))
	if got := in(t, e, inst.ID, "/muster/agent --version"); !strings.Contains(got, "muster-agent") {
		t.Errorf("the agent in the container: %s", got)
	}
	until(t, "the agent does not run", func() bool {
		log, err := p.Console(t.Context(), "r-remote", 1000)
		return err == nil && strings.Contains(string(log), "boot not answered")
	})
	for _, limit := range []int{0, 10, 1 << 20} {
		if log, err := p.Console(t.Context(), "r-remote", limit); err != nil || len(log) > limit {
			t.Errorf("the last %d bytes are %d, %v", limit, len(log), err)
		}
	}
	if _, err := p.Console(t.Context(), "r-nobody", 10); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("the words of nobody: %v", err)
	}
	destroy(t, p, "r-remote")
}

// A runner that the machine has reaches containers whose image has none: read-only there, and copied.
func TestRunnerFrom(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	c := config(t, e)
	c.RunnerFrom, c.RunnerDir = t.TempDir(), "/srv/runner"
	writeFile(t, c.RunnerFrom+"/run.sh", "#!/bin/sh\nexec sleep 1000000\n")
	writeFile(t, c.RunnerFrom+"/bin/Runner.Listener", "program")
	writeFile(t, c.RunnerFrom+"/externals/node", "large")
	writeFile(t, c.RunnerFrom+"/.env", "A=b")
	p := open(t, c)
	inst := create(t, p, specFor("r-from"))
	until(t, "the agent does not run", func() bool {
		log, err := p.Console(t.Context(), "r-from", 10000)
		return err == nil && strings.Contains(string(log), "boot not answered")
	})
	got := in(t, e, inst.ID, "cd /srv/runner && cat bin/Runner.Listener externals/node .env && touch .runner bin/x && ls -d /srv/runner/externals -l && (touch externals/x /muster/runner/x 2>/dev/null || echo kept)")
	for _, want := range []string{"programlargeA=b", "externals -> /muster/runner/externals", "kept"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	destroy(t, p, "r-from")
}

// S4-76: a GPU is given to one runner at a time, and an engine that ignores requests for GPUs gets no
// runner that needs one.
func TestGPUsAreExclusive(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	c := config(t, e)
	c.GPUs = []string{"0", "1"}
	e.Tool(t, "create", "--name", "other", "--label", labelOwner+"="+c.Owner, "--label", labelRunner+"=r-other", "--label", labelPart+"="+partRunner, "--label", labelGPUs+"=0", enginetest.Image, "true")
	p := open(t, c)
	spec := specFor("r-gpu")
	spec.Offering.GPUs = 2
	if _, err := p.Create(t.Context(), spec); !errors.Is(err, provider.ErrCapacity) || !strings.Contains(err.Error(), "1 of 2 GPUs are free") {
		t.Errorf("more than are free: %v", err)
	}
	spec.Offering.GPUs = 1
	_, gpus, release, err := p.admit(t.Context(), spec)
	if err != nil || !slices.Equal(gpus, []string{"1"}) {
		t.Errorf("the free one is not given: %v, %v", gpus, err)
	}
	third := specFor("r-gpu-3")
	third.Offering.GPUs = 1
	if _, err := p.Create(t.Context(), third); !errors.Is(err, provider.ErrCapacity) {
		t.Errorf("one that is promised to a runner without a container: %v", err)
	}
	release()
	if _, err := p.Create(t.Context(), third); !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "ignored the request for GPU 1") {
		t.Errorf("an engine that ignores requests: %v", err)
	}
	destroy(t, p, "r-other")
	if left := e.Containers(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
