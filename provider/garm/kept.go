package garm

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// machineName is what may be named to an executable as a machine that exists.
var machineName = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\z`)

// kept checks that a machine can be an operator's. A name like one of our own
// instances is none: those are never started again. Executables know no zones.
func (p *Provider) kept(m provider.Machine) error {
	if !machineName.MatchString(m.Name) || m.Zone != "" || strings.HasPrefix(m.Name, "muster-") {
		return fmt.Errorf("%w: %.60q in zone %.60q cannot be a kept machine of this provider", provider.ErrNotFound, m.Name, m.Zone)
	}
	return nil
}

func (p *Provider) machine(ctx context.Context, m provider.Machine) (instance, error) {
	if err := p.kept(m); err != nil {
		return instance{}, err
	}
	if err := ctx.Err(); err != nil {
		return instance{}, err
	}
	out, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdGet, m.Name, nil, "")
	if exited(err) == exitNotFound {
		return instance{}, fmt.Errorf("%w: %w", provider.ErrNotFound, err)
	}
	if err != nil {
		return instance{}, classed(err)
	}
	var in instance
	if err := p.decode(out, &in, ""); err != nil {
		return instance{}, err
	}
	return in, nil
}

// Start implements provider.StartStopper.
func (p *Provider) Start(ctx context.Context, m provider.Machine) (string, error) {
	return p.turn(ctx, m, cmdStart, muster.MachineRunning)
}

// Stop implements provider.StartStopper.
func (p *Provider) Stop(ctx context.Context, m provider.Machine) (string, error) {
	return p.turn(ctx, m, cmdStop, muster.MachineTerminated)
}

// turn brings a machine to a status that it does not have. Executables return when
// the platform has done it, and give the operation no name.
func (p *Provider) turn(ctx context.Context, m provider.Machine, command string, want muster.MachineStatus) (string, error) {
	if err := p.kept(m); err != nil {
		return "", err
	}
	held, err := lock(ctx, filepath.Join(p.dir, "kept-"+m.Name+".lock"))
	if err != nil {
		return "", unlessEnded(ctx, err)
	}
	defer held.Close()
	st, err := p.Status(ctx, m)
	if err != nil {
		return "", err
	}
	if st.Status == want {
		return "", nil
	}
	if st.Status == "" {
		return "", fmt.Errorf("%w: how %s stands is not known: %s", provider.ErrTransient, m.Name, st.Detail)
	}
	if _, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), command, m.Name, nil, ""); err != nil {
		if exited(err) == exitNotFound {
			return "", fmt.Errorf("%w: %w", provider.ErrNotFound, err)
		}
		return "", classed(err)
	}
	return command + " " + m.Name, nil
}

// Status implements provider.StartStopper.
func (p *Provider) Status(ctx context.Context, m provider.Machine) (provider.MachineState, error) {
	in, err := p.machine(ctx, m)
	if err != nil {
		return provider.MachineState{}, err
	}
	st := provider.MachineState{Detail: speak(in.Fault, "")}
	switch in.Status {
	case "running":
		st.Status = muster.MachineRunning
	case "stopped":
		st.Status = muster.MachineTerminated
	default:
		st.Detail = strings.TrimSpace(fmt.Sprintf("the platform says %.40q %s", in.Status, st.Detail))
	}
	return st, nil
}
