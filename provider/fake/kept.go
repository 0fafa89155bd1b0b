package fake

import (
	"context"
	"fmt"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// keptMachine is a machine that is started and stopped. No call ever waits for it:
// it changes by itself.
type keptMachine struct {
	status muster.MachineStatus
	upAt   time.Time
	halt   context.CancelFunc // ends a start or a run that is under way
	starts int
	stops  int
}

// AddMachine makes a kept machine, of all owners, in a status. One that is RUNNING
// counts as started an hour ago, and what OnStart set does not run in it.
func (c *Cloud) AddMachine(m provider.Machine, status muster.MachineStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &keptMachine{status: status, halt: func() {}}
	if status == muster.MachineRunning {
		k.upAt = c.now().UTC().Add(-time.Hour)
	}
	c.kept[m] = k
}

// SetMachine changes the status of a kept machine as somebody else would, by the
// platform's own console.
func (c *Cloud) SetMachine(m provider.Machine, status muster.MachineStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kept[m]; k != nil {
		k.halt()
		k.status = status
		if status == muster.MachineRunning {
			k.upAt = c.now().UTC()
		}
	}
}

// SetClock sets the clock by which kept machines tell when they came up.
func (c *Cloud) SetClock(now func() time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// OnStart sets what runs inside every kept machine that is started from now on, in
// a goroutine of its own. Its context ends when the machine is stopped.
func (c *Cloud) OnStart(run func(context.Context, provider.Machine)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onStart = run
}

// MachineCounts is what happened to one kept machine.
type MachineCounts struct {
	Status muster.MachineStatus
	// Starts and Stops are how often it was really started and stopped.
	Starts, Stops int
}

// Machine returns what happened to a kept machine so far.
func (c *Cloud) Machine(m provider.Machine) MachineCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kept[m]
	if k == nil {
		return MachineCounts{}
	}
	return MachineCounts{Status: k.status, Starts: k.starts, Stops: k.stops}
}

var (
	_ provider.StartStopper = (*Provider)(nil)

	errNoMachine = fmt.Errorf("%w: there is no such machine", provider.ErrNotFound)
)

// machine makes a call about a kept machine with the faults that are due. act runs
// under the lock.
func (p *Provider) machine(ctx context.Context, call Call, m provider.Machine, act func(*keptMachine) error) error {
	c := p.cloud
	f, _ := c.begin(call, muster.RunnerID(m.Name))
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.act(ctx, false); err != nil {
		return err
	}
	if f.garbage() {
		return nil
	}
	c.mu.Lock()
	k := c.kept[m]
	err := errNoMachine
	if k != nil && !c.closed {
		err = act(k)
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return f.act(ctx, true)
}

// operation names the next operation; the caller holds the lock.
func (c *Cloud) operation() string {
	c.ops++
	return fmt.Sprintf("operation-%d", c.ops)
}

// Start starts a kept machine; see provider.StartStopper.
func (p *Provider) Start(ctx context.Context, m provider.Machine) (operation string, err error) {
	c := p.cloud
	err = p.machine(ctx, Start, m, func(k *keptMachine) error {
		switch k.status {
		case muster.MachineTerminated:
		case muster.MachineRunning, muster.MachineProvisioning, muster.MachineStaging, muster.MachineRepairing:
			return nil
		default:
			return fmt.Errorf("%w: the machine is %s", provider.ErrTransient, k.status)
		}
		operation = c.operation()
		k.starts++
		k.status = muster.MachineProvisioning
		var run context.Context
		run, k.halt = context.WithCancel(context.WithoutCancel(ctx))
		c.running.Add(1)
		go c.up(run, m, k, c.delays.Start)
		return nil
	})
	return operation, err
}

// up is a kept machine's life from a start to the next stop.
func (c *Cloud) up(ctx context.Context, m provider.Machine, k *keptMachine, boot time.Duration) {
	defer c.running.Done()
	for _, status := range []muster.MachineStatus{muster.MachineStaging, muster.MachineRunning} {
		if wait(ctx, boot/2) != nil {
			return
		}
		c.mu.Lock()
		if ctx.Err() != nil { // stopped meanwhile: the status is not ours any more
			c.mu.Unlock()
			return
		}
		k.status = status
		if status == muster.MachineRunning {
			k.upAt = c.now().UTC()
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	run := c.onStart
	c.mu.Unlock()
	if run != nil {
		run(ctx, m)
	}
}

// Stop stops a kept machine; see provider.StartStopper.
func (p *Provider) Stop(ctx context.Context, m provider.Machine) (operation string, err error) {
	c := p.cloud
	err = p.machine(ctx, Stop, m, func(k *keptMachine) error {
		switch k.status {
		case muster.MachineTerminated, muster.MachineSuspended, muster.MachineStopping, muster.MachineSuspending:
			return nil
		}
		operation = c.operation()
		k.stops++
		k.halt()
		k.status = muster.MachineStopping
		var down context.Context
		down, k.halt = context.WithCancel(context.WithoutCancel(ctx))
		delay := c.delays.Stop
		c.running.Go(func() {
			_ = wait(down, delay)
			c.mu.Lock()
			defer c.mu.Unlock()
			if down.Err() == nil || c.closed {
				k.status = muster.MachineTerminated
			}
		})
		return nil
	})
	return operation, err
}

// Status looks at a kept machine; see provider.StartStopper. A fault with Garbage
// answers a status that no platform has.
func (p *Provider) Status(ctx context.Context, m provider.Machine) (provider.MachineState, error) {
	st := provider.MachineState{Status: "CONFUSED"}
	err := p.machine(ctx, Status, m, func(k *keptMachine) error {
		st = provider.MachineState{Status: k.status, UpAt: k.upAt}
		if k.status != muster.MachineRunning {
			st.UpAt = time.Time{}
		}
		return nil
	})
	if err != nil {
		return provider.MachineState{}, err
	}
	return st, nil
}
