package container

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/muster-ci/muster/provider"
)

// class is what stands between a job and the engine's machine.
type class struct {
	// usual is the name under which engines know the class's runtime.
	usual string
	// runtimes are the names of runtimes that give this class, without a version:
	// "io.containerd.runsc.v1" is "runsc". A name with a dash and more belongs too.
	runtimes []string
	says     string
}

// classes are the values of Config.Isolation.
var classes = map[string]class{
	"runc":   {"runc", []string{"runc", "crun"}, "namespaces and control groups of a shared kernel"},
	"gvisor": {"runsc", []string{"runsc", "gvisor"}, "a kernel of its own in user space"},
	"kata":   {"kata", []string{"kata"}, "a virtual machine"},
	"sysbox": {"sysbox-runc", []string{"sysbox"}, "a user namespace with virtual procfs and sysfs"},
}

// runtime is the name to ask the engine for: "" leaves the choice to the engine,
// whose default has the class already or is refused afterwards.
func (c Config) runtime() string {
	if c.Runtime != "" || c.Isolation == "runc" {
		return c.Runtime
	}
	return classes[c.Isolation].usual
}

// classOf is the class that a runtime's name stands for, "" for one that Muster does not know.
func classOf(runtime string) string {
	name := path.Base(strings.TrimSpace(runtime))
	// A shim's name: io.containerd.kata.v2.
	if short, ok := strings.CutPrefix(name, "io.containerd."); ok {
		name, _, _ = strings.Cut(short, ".")
	}
	for word, c := range classes {
		for _, r := range c.runtimes {
			if name == r || strings.HasPrefix(name, r+"-") {
				return word
			}
		}
	}
	return ""
}

// isolates returns nil if a container with this runtime, in the engine's own word,
// has the class that is configured. An unknown word is another class, unless the
// operator has named it.
func (c Config) isolates(got string) error {
	if c.Runtime != "" && got == c.Runtime || c.Runtime == "" && classOf(got) == c.Isolation {
		return nil
	}
	want := c.runtime()
	if want == "" {
		want = strings.Join(classes[c.Isolation].runtimes, " or ")
	}
	return fmt.Errorf("%w: isolation %s needs the runtime %s, and the engine gave the container %q; "+
		"register the runtime with the engine, or, for Podman, which takes no runtime by request, run its service with --runtime %s",
		provider.ErrInvalid, c.Isolation, want, got, want)
}

// verify asks the engine which runtime a container has, and whether it got the devices
// that it was meant to have. It is asked before the container starts, and whatever is
// not known is a refusal.
func (p *Provider) verify(ctx context.Context, id string) error {
	got := ""
	if p.engine.podman() {
		// Podman's Docker interface says "oci" to every question.
		var err error
		if got, err = p.engine.libpodRuntime(ctx, id); err != nil {
			return err
		}
		if err := p.cfg.isolates(got); err != nil || len(p.cfg.GPUs) == 0 {
			return err
		}
	}
	in, err := p.engine.ContainerInspect(ctx, id, inspectAll)
	if err != nil {
		return p.classify("inspect container", err)
	}
	if in.Container.HostConfig == nil {
		return fmt.Errorf("%w: the engine says nothing about the container's isolation", provider.ErrTransient)
	}
	if err := p.cfg.isolates(cmp.Or(got, in.Container.HostConfig.Runtime)); err != nil {
		return err
	}
	return p.cfg.devices(in.Container.HostConfig, in.Container.Config)
}

// libpodRuntime is the runtime of a container in Podman's own interface.
func (e *engine) libpodRuntime(ctx context.Context, id string) (string, error) {
	text, err := e.raw(ctx, "/v4.0.0/libpod/containers/"+id+"/json")
	if err != nil {
		return "", err
	}
	var answer struct{ OCIRuntime string }
	if err := json.Unmarshal(text, &answer); err != nil {
		return "", fmt.Errorf("%w: Podman's answer about the runtime of %s: %w", provider.ErrTransient, id, err)
	}
	return answer.OCIRuntime, nil
}
