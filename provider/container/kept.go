package container

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// kept looks at a container that the operator has made and labelled for us.
func (p *Provider) kept(ctx context.Context, m provider.Machine) (*container.InspectResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	unknown := fmt.Errorf("%w: the engine has no container %q with the label %s=%s", provider.ErrNotFound, m.Name, labelKept, p.cfg.Owner)
	if m.Zone != "" {
		return nil, fmt.Errorf("%w: an engine has no zones, and %q is asked for", provider.ErrNotFound, m.Zone)
	}
	if !networkName.MatchString(m.Name) { // the rule is the same for containers
		return nil, unknown
	}
	in, err := p.engine.ContainerInspect(ctx, m.Name, inspectAll)
	if errdefs.IsNotFound(err) {
		return nil, unknown
	}
	if err != nil {
		return nil, p.classify("look at "+m.Name, err)
	}
	c := in.Container
	// By name only: an id, or its beginning, is nobody's word for a machine.
	if c.Config == nil || c.State == nil || c.Config.Labels[labelKept] != p.cfg.Owner || strings.TrimPrefix(c.Name, "/") != m.Name {
		return nil, unknown
	}
	return &c, nil
}

func machineState(c *container.InspectResponse) provider.MachineState {
	st := provider.MachineState{Detail: string(c.State.Status)}
	switch state(c.State.Status) {
	case container.StateRunning:
		st.Status = muster.MachineRunning
	case container.StateRestarting:
		st.Status = muster.MachineProvisioning
	case container.StatePaused:
		st.Status = muster.MachineSuspended
	case container.StateRemoving:
		st.Status = muster.MachineStopping
	case container.StateCreated, container.StateExited, container.StateDead:
		st.Status = muster.MachineTerminated
	}
	if c.State.Status == "stopping" {
		st.Status = muster.MachineStopping
	}
	if st.Status == muster.MachineTerminated && c.State.ExitCode != 0 {
		st.Detail = fmt.Sprintf("%s with code %d", c.State.Status, c.State.ExitCode)
	}
	if at, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err == nil && at.Year() > 1 && st.Status == muster.MachineRunning {
		st.UpAt = at
	}
	return st
}

// Status looks at a kept container; see provider.StartStopper.
func (p *Provider) Status(ctx context.Context, m provider.Machine) (provider.MachineState, error) {
	c, err := p.kept(ctx, m)
	if err != nil {
		return provider.MachineState{}, err
	}
	return machineState(c), nil
}

// Start starts a kept container; see provider.StartStopper.
func (p *Provider) Start(ctx context.Context, m provider.Machine) (string, error) {
	if err := p.keeping.lock(ctx); err != nil {
		return "", err
	}
	defer p.keeping.unlock()
	c, err := p.kept(ctx, m)
	if err != nil {
		return "", err
	}
	switch st := machineState(c); {
	case st.Status == muster.MachineRunning || st.Status.Starting():
		return "", nil
	case st.Status != muster.MachineTerminated:
		return "", fmt.Errorf("%w: %s is %s", provider.ErrTransient, m.Name, st.Detail)
	}
	if _, err := p.engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		return "", p.startFailed("start "+m.Name, err)
	}
	return "start " + m.Name, nil
}

// Stop stops a kept container, and kills it after Config.Grace; see provider.StartStopper.
func (p *Provider) Stop(ctx context.Context, m provider.Machine) (string, error) {
	if err := p.keeping.lock(ctx); err != nil {
		return "", err
	}
	defer p.keeping.unlock()
	c, err := p.kept(ctx, m)
	if err != nil {
		return "", err
	}
	if st := machineState(c); st.Status == muster.MachineTerminated || st.Status.Stopping() {
		return "", nil
	}
	seconds := int((time.Duration(p.cfg.Grace) + time.Second - 1) / time.Second)
	if _, err := p.engine.ContainerStop(ctx, c.ID, client.ContainerStopOptions{Timeout: &seconds}); err != nil && !errdefs.IsNotFound(err) {
		return "", p.classify("stop "+m.Name, err)
	}
	return "stop " + m.Name, nil
}
