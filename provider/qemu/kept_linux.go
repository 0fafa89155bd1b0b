package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/guest"
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

// machineWord is what names and zones are made of. It has no separator, so that it
// is one element of a path.
var machineWord = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z`)

// kept is one kept machine, with its state and the lock on it.
type kept struct {
	p    *Provider
	name string
	home string // the operator's directory
	dir  string // what we know, and where QEMU works
	tag  string
	held *os.File
	st   state
}

// machine finds a kept machine and locks it until close.
func (p *Provider) machine(ctx context.Context, m provider.Machine) (*kept, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	missing := fmt.Errorf("%w: there is no machine %q in zone %q", provider.ErrNotFound, m.Name, m.Zone)
	if p.cfg.MachinesDir == "" || !machineWord.MatchString(m.Name) || m.Zone != "" && !machineWord.MatchString(m.Zone) {
		return nil, missing
	}
	id := m.Zone + "@" + m.Name
	k := &kept{p: p, name: m.Name, home: filepath.Join(p.cfg.MachinesDir, m.Zone, m.Name), dir: filepath.Join(p.dir, ".machines", id), tag: "kept." + id + ".k" + p.mark}
	if info, err := os.Stat(filepath.Join(k.home, diskPart)); err != nil || info.IsDir() {
		return nil, missing
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, p.classify(err)
	}
	held, err := proc.Lock(ctx, k.dir, syscall.LOCK_EX, true)
	if err != nil {
		return nil, p.classify(err)
	}
	k.held = held
	if k.st, err = readState(k.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.st = state{Stage: starting, Boot: proc.BootID()} // the disk lost it: look for anything
	}
	return k, nil
}

func (k *kept) close() { k.held.Close() }

// state looks at the machine, and ends one that took too long to end or whose start
// was interrupted.
func (k *kept) state() (provider.MachineState, error) {
	qemu, running := k.p.qemu(k.tag, k.st)
	if running {
		switch {
		case k.st.Stage == born && k.st.Told.IsZero():
			return provider.MachineState{Status: muster.MachineRunning, UpAt: k.st.UpAt, Detail: fmt.Sprintf("QEMU has pid %d, %s", qemu.PID, k.p.accel)}, nil
		case k.st.Stage == born && time.Since(k.st.Told) < time.Duration(k.p.cfg.Grace):
			return provider.MachineState{Status: muster.MachineStopping}, nil
		}
		k.p.log.Warn("machine killed", "machine", k.home, "stage", k.st.Stage, "grace", time.Duration(k.p.cfg.Grace))
	}
	if k.st.Stage == "" {
		return provider.MachineState{Status: muster.MachineTerminated, Detail: k.st.Ended}, nil
	}
	var known []proc.Process
	if running {
		known = append(known, qemu)
	}
	if k.p.killTagged(k.tag, known) {
		return provider.MachineState{Status: muster.MachineStopping}, nil
	}
	how := k.p.reap(k.dir, k.st)
	k.st = state{Ended: cmp.Or(howEnded(k.dir), how)}
	return provider.MachineState{Status: muster.MachineTerminated, Detail: k.st.Ended}, k.st.write(k.dir)
}

// Start boots a kept machine; see provider.StartStopper.
func (p *Provider) Start(ctx context.Context, m provider.Machine) (operation string, err error) {
	k, err := p.machine(ctx, m)
	if err != nil {
		return "", err
	}
	defer k.close()
	switch st, err := k.state(); {
	case err != nil:
		return "", p.classify(err)
	case st.Status == muster.MachineRunning:
		return "", nil
	case st.Status != muster.MachineTerminated:
		return "", fmt.Errorf("%w: machine %s is %s", provider.ErrTransient, m.Name, st.Status)
	}
	if err := k.launch(ctx); err != nil {
		if k.p.killTagged(k.tag, nil) {
			err = errors.Join(err, errAlive)
		}
		k.st = state{Ended: err.Error()}
		return "", p.classify(fmt.Errorf("start machine %s: %w", m.Name, errors.Join(err, k.st.write(k.dir))))
	}
	p.log.Info("machine started", "machine", m.Name, "zone", m.Zone, "pid", k.st.PID)
	return fmt.Sprintf("operation-start-%d", k.st.PID), nil
}

func (k *kept) launch(ctx context.Context) error {
	p := k.p
	var set keptSettings
	if err := readJSON(filepath.Join(k.home, "machine.json"), &set); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	img, err := readImage(p.cfg.Images, cmp.Or(set.Image, p.cfg.Image))
	if err != nil {
		return fmt.Errorf("%w: image: %w", provider.ErrInvalid, err)
	}
	if img.State != ImageReady {
		return fmt.Errorf("%w: image %s is %s", provider.ErrInvalid, img.Name, img.State)
	}
	for _, old := range []string{qmpSocket, agentSocket, eventsFile, endedFile, logFile} {
		if err := os.Remove(filepath.Join(k.dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	k.st = state{Owner: p.cfg.Owner, Boot: proc.BootID(), UpAt: time.Now().UTC(), Image: img.Name, Digest: img.Digest}
	return p.start(ctx, run{
		shape: shape{CPUs: cmp.Or(set.CPUs, p.cfg.CPUs), MemoryMiB: cmp.Or(set.MemoryMiB, p.cfg.MemoryMiB), Accel: p.accel, Disk: true},
		dir:   k.dir, tag: k.tag, image: img, disk: filepath.Join(k.home, diskPart), keep: true,
	}, &k.st, guest.Boot{Hostname: k.name, Kept: true, Listen: p.rules.listen(), Proxy: p.rules.proxy()})
}

// Stop presses a kept machine's power button; what has not ended after Config.Grace is
// killed by the next look at it; see provider.StartStopper.
func (p *Provider) Stop(ctx context.Context, m provider.Machine) (operation string, err error) {
	k, err := p.machine(ctx, m)
	if err != nil {
		return "", err
	}
	defer k.close()
	st, err := k.state()
	if err != nil {
		return "", p.classify(err)
	}
	qemu, running := p.qemu(k.tag, k.st)
	if st.Status != muster.MachineRunning || !running {
		return "", nil
	}
	k.st.Told = time.Now().UTC()
	if err := k.st.write(k.dir); err != nil {
		return "", p.classify(err)
	}
	p.press(ctx, k.dir, qemu)
	p.log.Info("machine told to stop", "machine", m.Name, "zone", m.Zone, "pid", qemu.PID)
	return fmt.Sprintf("operation-stop-%d", qemu.PID), nil
}

// Status looks at a kept machine; see provider.StartStopper.
func (p *Provider) Status(ctx context.Context, m provider.Machine) (provider.MachineState, error) {
	k, err := p.machine(ctx, m)
	if err != nil {
		return provider.MachineState{}, err
	}
	defer k.close()
	st, err := k.state()
	if err != nil {
		return provider.MachineState{}, p.classify(err)
	}
	return st, nil
}
