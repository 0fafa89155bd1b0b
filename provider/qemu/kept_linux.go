package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

// A kept machine is a disk of the operator's, below Config.MachinesDir, on which a
// runner is registered. Starting it boots the disk with the kernel of Config.Image,
// and what it writes stays. machine.json beside the disk may give it another size or
// image. What is known of it lies beside the runners' directories, in ".machines",
// and outlives a control plane as theirs does.

var _ provider.StartStopper = (*Provider)(nil)

// keptSettings is machine.json.
type keptSettings struct {
	CPUs      int    `json:"cpus"`
	MemoryMiB int64  `json:"memory_mib"`
	Image     string `json:"image"`
}

// kept is one kept machine, with its state and the lock on it.
type kept struct {
	instancedir.Kept

	p    *Provider
	name string
	st   state
}

// machine finds a kept machine and locks it until Close.
func (p *Provider) machine(ctx context.Context, m provider.Machine) (*kept, error) {
	at, err := p.set.Kept(ctx, p.cfg.MachinesDir, diskPart, m)
	if err != nil {
		return nil, err
	}
	k := &kept{Kept: at, p: p, name: m.Name}
	if k.st, err = readState(k.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.st.State = instancedir.State{Stage: instancedir.Starting, Boot: proc.BootID()} // the disk lost it: look for anything
	}
	return k, nil
}

// state looks at the machine, and ends one that took too long to end or whose start
// was interrupted.
func (k *kept) state() (provider.MachineState, error) {
	qemu, running := k.st.Running(k.Tag)
	if running {
		switch {
		case k.st.Stage == born && k.st.Told.IsZero():
			return provider.MachineState{Status: muster.MachineRunning, UpAt: k.st.UpAt, Detail: fmt.Sprintf("QEMU has pid %d, %s", qemu.PID, k.p.accel)}, nil
		case k.st.Stage == born && time.Since(k.st.Told) < time.Duration(k.p.cfg.Grace):
			return provider.MachineState{Status: muster.MachineStopping}, nil
		}
		k.p.log.Warn("machine killed", "machine", k.Home, "stage", k.st.Stage, "grace", time.Duration(k.p.cfg.Grace))
	}
	if k.st.Stage == "" {
		return provider.MachineState{Status: muster.MachineTerminated, Detail: k.st.Ended}, nil
	}
	var known []proc.Process
	if running {
		known = append(known, qemu)
	}
	if k.p.killTagged(k.Tag, known) {
		return provider.MachineState{Status: muster.MachineStopping}, nil
	}
	how := k.st.Reap(k.Dir, "QEMU")
	k.st = state{Ended: cmp.Or(howEnded(k.Dir), how, "QEMU was killed")}
	return provider.MachineState{Status: muster.MachineTerminated, Detail: k.st.Ended}, k.st.write(k.Dir)
}

// Start boots a kept machine; see provider.StartStopper.
func (p *Provider) Start(ctx context.Context, m provider.Machine) (operation string, err error) {
	k, err := p.machine(ctx, m)
	if err != nil {
		return "", err
	}
	defer k.Close()
	switch st, err := k.state(); {
	case err != nil:
		return "", instancedir.Classify(err)
	case st.Status == muster.MachineRunning:
		return "", nil
	case st.Status != muster.MachineTerminated:
		return "", fmt.Errorf("%w: machine %s is %s", provider.ErrTransient, m.Name, st.Status)
	}
	if err := k.launch(ctx); err != nil {
		if k.p.killTagged(k.Tag, nil) {
			err = errors.Join(err, errAlive)
		}
		k.st = state{Ended: err.Error()}
		return "", instancedir.Classify(fmt.Errorf("start machine %s: %w", m.Name, errors.Join(err, k.st.write(k.Dir))))
	}
	p.log.Info("machine started", "machine", m.Name, "zone", m.Zone, "pid", k.st.PID)
	return fmt.Sprintf("operation-start-%d", k.st.PID), nil
}

func (k *kept) launch(ctx context.Context) error {
	p := k.p
	var set keptSettings
	if err := instancedir.ReadJSON(filepath.Join(k.Home, "machine.json"), &set); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	img, err := readImage(p.cfg.Images, cmp.Or(set.Image, p.cfg.Image))
	if err != nil {
		return fmt.Errorf("%w: image: %w", provider.ErrInvalid, err)
	}
	if img.State != ImageReady {
		return fmt.Errorf("%w: image %s is %s", provider.ErrInvalid, img.Name, img.State)
	}
	for _, old := range []string{qmpSocket, agentSocket, eventsFile, instancedir.EndedFile, logFile} {
		if err := os.Remove(filepath.Join(k.Dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	k.st = state{State: instancedir.State{Owner: p.cfg.Owner, Boot: proc.BootID()}, UpAt: time.Now().UTC(), Image: img.Name, Digest: img.Digest}
	return p.start(ctx, run{
		shape: shape{CPUs: cmp.Or(set.CPUs, p.cfg.CPUs), MemoryMiB: cmp.Or(set.MemoryMiB, p.cfg.MemoryMiB), Accel: p.accel, Disk: true},
		dir:   k.Dir, tag: k.Tag, image: img, disk: filepath.Join(k.Home, diskPart), keep: true,
	}, &k.st, guest.Boot{Hostname: k.name, Kept: true, Listen: p.rules.listen(), Proxy: p.rules.proxy()})
}

// Stop presses a kept machine's power button; what has not ended after Config.Grace is
// killed by the next look at it; see provider.StartStopper.
func (p *Provider) Stop(ctx context.Context, m provider.Machine) (operation string, err error) {
	k, err := p.machine(ctx, m)
	if err != nil {
		return "", err
	}
	defer k.Close()
	st, err := k.state()
	if err != nil {
		return "", instancedir.Classify(err)
	}
	qemu, running := k.st.Running(k.Tag)
	if st.Status != muster.MachineRunning || !running {
		return "", nil
	}
	k.st.Told = time.Now().UTC()
	if err := k.st.write(k.Dir); err != nil {
		return "", instancedir.Classify(err)
	}
	p.press(ctx, k.Dir, qemu)
	p.log.Info("machine told to stop", "machine", m.Name, "zone", m.Zone, "pid", qemu.PID)
	return fmt.Sprintf("operation-stop-%d", qemu.PID), nil
}

// Status looks at a kept machine; see provider.StartStopper.
func (p *Provider) Status(ctx context.Context, m provider.Machine) (provider.MachineState, error) {
	k, err := p.machine(ctx, m)
	if err != nil {
		return provider.MachineState{}, err
	}
	defer k.Close()
	st, err := k.state()
	if err != nil {
		return provider.MachineState{}, instancedir.Classify(err)
	}
	return st, nil
}
