package container

import (
	"errors"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// A sidecar has the runner's network and files, lives as long as the runner, and counts as part of it.
func TestSidecar(t *testing.T) {
	for name, start := range engines {
		t.Run(name, func(t *testing.T) { sidecar(t, start(t, enginetest.Options{})) })
	}
}

func sidecar(t *testing.T, e *enginetest.Engine) {
	c := config(t, e)
	c.Network, c.User = "bridge", "runner"
	// Not an engine, but what an engine is to a runner: a socket, a port and the work's files.
	c.Sidecar = &Sidecar{Image: enginetest.Image, MemoryMiB: 64, Command: []string{"/bin/sh", "-c", "touch /run/muster-docker/here; while :; do echo hello | nc -l -p 2222; done"}}
	p := open(t, c)
	inst := create(t, p, specFor("r-car"))
	until(t, "the runner does not see its engine", func() bool {
		return reaches(t, e, inst.ID, "127.0.0.1:2222") && in(t, e, inst.ID, "ls /run/muster-docker") == "here"
	})
	if got := in(t, e, inst.ID, "echo $DOCKER_HOST; touch /home/runner/work"); got != "unix://"+Socket {
		t.Errorf("DOCKER_HOST is %q", got)
	}
	if got := in(t, e, inst.ID+sidecarSuffix, "ls /home/runner"); !strings.Contains(got, "work") {
		t.Errorf("the engine sees %q of the work", got)
	}
	if got := e.Tool(t, "inspect", "--format", "{{.HostConfig.Privileged}} {{.HostConfig.Memory}}", inst.ID+sidecarSuffix); got != "false 67108864" {
		t.Errorf("the sidecar is privileged and limited: %s", got)
	}
	n := 0
	for got, err := range p.List(t.Context()) {
		if n++; err != nil || got.ID != inst.ID || got.State != provider.InstanceRunning {
			t.Errorf("list: %+v, %v", got, err)
		}
	}
	if n != 1 {
		t.Errorf("a runner with a sidecar is listed %d times", n)
	}
	destroy(t, p, "r-car")
	nothing := func(t *testing.T) {
		t.Helper()
		if left := e.Containers(t); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		if v := e.Tool(t, "volume", "ls", "-q"); v != "" {
			t.Errorf("volumes are left: %s", v)
		}
	}
	nothing(t)

	t.Run("FoundAloneAndRemoved", func(t *testing.T) {
		plain := c
		plain.Sidecar = nil // as after a change of the configuration
		e.Tool(t, "create", "--name", "stray", "--label", labelOwner+"="+c.Owner, "--label", labelRunner+"=r-stray", "--label", labelPart+"="+partSidecar, enginetest.Image, "true")
		p := open(t, plain)
		if inst, err := p.Get(t.Context(), "r-stray"); err != nil || inst.State != provider.InstanceEnded {
			t.Errorf("get: %+v, %v", inst, err)
		}
		destroy(t, p, "r-stray")
		nothing(t)
	})
	t.Run("ImageMissing", func(t *testing.T) {
		c := c
		c.Sidecar = &Sidecar{Image: "localhost/nothing:1"}
		p := open(t, c)
		if inst, err := p.Create(t.Context(), specFor("r-nocar")); !errors.Is(err, provider.ErrInvalid) {
			t.Errorf("%+v, %v", inst, err)
		}
		destroy(t, p, "r-nocar")
		nothing(t)
	})
	t.Run("Privileged", func(t *testing.T) {
		c := c
		c.Sidecar = &Sidecar{Image: enginetest.Image, Privileged: true, Command: []string{"sleep", "1000"}}
		p := open(t, c)
		inst, err := p.Create(t.Context(), specFor("r-priv"))
		if err != nil && strings.Contains(err.Error(), "unable to apply caps") {
			// This machine's root has not every capability itself, and its engine can give
			// none that it has not: then the refusal is what is to be proven.
			destroy(t, p, "r-priv")
			nothing(t)
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if got := e.Tool(t, "inspect", "--format", "{{.HostConfig.Privileged}}", inst.ID, inst.ID+sidecarSuffix); got != "false\ntrue" {
			t.Errorf("runner and sidecar are privileged: %q", got)
		}
		destroy(t, p, muster.RunnerID("r-priv"))
		nothing(t)
	})
	providertest.Survived(t, "container", "sidecar left without its runner")
}
