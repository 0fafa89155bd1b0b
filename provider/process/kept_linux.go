package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

// A kept machine is a runner that somebody has registered by hand: a directory
// below Config.MachinesDir with run.sh in it. Starting it runs run.sh, in a session
// of its own, for as many jobs as GitHub gives it; stopping it ends all that
// descends from it. What is known of it lies beside the runners' directories, in
// ".machines", and outlives a control plane as theirs does.

var _ provider.StartStopper = (*Provider)(nil)

// keptState is the file of a kept machine.
type keptState struct {
	instancedir.State
	UpAt time.Time `json:"up_at,omitzero"`
}

// kept is one kept machine, with its state and the lock on it.
type kept struct {
	instancedir.Kept

	p  *Provider
	st keptState
}

// machine finds a kept machine and locks it until Close.
func (p *Provider) machine(ctx context.Context, m provider.Machine) (*kept, error) {
	at, err := p.set.Kept(ctx, p.cfg.MachinesDir, "run.sh", m)
	if err != nil {
		return nil, err
	}
	k := &kept{Kept: at, p: p}
	err = instancedir.ReadJSON(filepath.Join(k.Dir, instancedir.StateFile), &k.st)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.begin() // the disk lost it: look for anything
	}
	return k, nil
}

// begin is the state in which a process may exist.
func (k *kept) begin() {
	k.st = keptState{State: instancedir.State{Stage: instancedir.Starting, Boot: proc.BootID()}}
}

func (k *kept) write() error {
	return instancedir.WriteJSON(filepath.Join(k.Dir, instancedir.StateFile), k.st)
}

// settle ends what a machine left behind whose first process has ended, and reports
// whether anything of it still runs.
func (k *kept) settle() (left bool, err error) {
	if k.st.Stage == "" {
		return false, nil
	}
	if k.st.Boot == proc.BootID() {
		k.st.Reap(k.Dir, "run.sh")
		if k.p.killTagged(k.Tag, nil) {
			return true, nil
		}
	}
	k.st = keptState{}
	return false, k.write()
}

// state looks at the machine, and ends one that took too long to end.
func (k *kept) state() (provider.MachineState, error) {
	first, running := k.st.Running(k.Tag)
	switch {
	case running && k.st.Told.IsZero():
		return provider.MachineState{Status: muster.MachineRunning, UpAt: k.st.UpAt, Detail: fmt.Sprintf("pid %d", first.PID)}, nil
	case running && time.Since(k.st.Told) < time.Duration(k.p.cfg.Grace):
		return provider.MachineState{Status: muster.MachineStopping}, nil
	case running:
		k.p.log.Warn("machine killed", "machine", k.Home, "reason", "did not end in time", "grace", time.Duration(k.p.cfg.Grace))
		if k.p.killTagged(k.Tag, k.p.victims(k.Tag, first)) {
			return provider.MachineState{Status: muster.MachineStopping}, nil
		}
	}
	left, err := k.settle()
	if left {
		return provider.MachineState{Status: muster.MachineStopping}, nil
	}
	return provider.MachineState{Status: muster.MachineTerminated}, err
}

// Start runs a kept machine's run.sh; see provider.StartStopper.
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
	if err := k.launch(); err != nil {
		return "", instancedir.Classify(fmt.Errorf("start machine %s: %w", m.Name, err))
	}
	p.log.Info("machine started", "machine", m.Name, "zone", m.Zone, "pid", k.st.PID)
	return fmt.Sprintf("operation-start-%d", k.st.PID), nil
}

func (k *kept) launch() error {
	out, err := os.OpenFile(filepath.Join(k.Dir, "run.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	k.begin()
	k.st.UpAt = time.Now().UTC()
	if err := k.write(); err != nil {
		return err
	}
	run := filepath.Join(k.Home, "run.sh")
	process, err := os.StartProcess(run, []string{run}, &os.ProcAttr{
		Dir: k.Home, Env: k.environment(), Files: []*os.File{null, out, out}, Sys: &syscall.SysProcAttr{Setsid: true, Credential: k.p.cred},
	})
	if err != nil {
		k.st = keptState{}
		return errors.Join(err, k.write())
	}
	id, err := proc.Read(process.Pid) // our child, and nobody waits for it: it is there, if only as a zombie
	if err == nil {
		k.st.Stage, k.st.PID, k.st.Start = instancedir.Started, id.PID, id.Start
		err = k.write()
	}
	if err != nil {
		_ = process.Kill()
		_, _ = process.Wait()
		return err
	}
	_ = process.Release() // never fails for a process that nobody waited for
	return nil
}

// environment is what the runner of a kept machine gets to see.
func (k *kept) environment() []string {
	home := os.Getenv("HOME")
	if k.p.who != nil {
		home = k.p.who.HomeDir
	}
	env := []string{
		"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
		"LANG=" + cmp.Or(os.Getenv("LANG"), "C.UTF-8"), "HOME=" + home,
		// run.sh hands SIGTERM to the listener, which then lets a job report its end.
		"RUNNER_MANUALLY_TRAP_SIG=1", instancedir.Tag + "=" + k.Tag,
	}
	if k.p.who != nil {
		env = append(env, "USER="+k.p.who.Username, "LOGNAME="+k.p.who.Username)
	}
	for _, name := range k.p.cfg.Env {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// Stop asks a kept machine to end; what has not ended after Config.Grace is killed
// by the next look at it; see provider.StartStopper.
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
	first, running := k.st.Running(k.Tag)
	if st.Status != muster.MachineRunning || !running {
		return "", nil
	}
	k.st.Stage, k.st.PID, k.st.Start, k.st.Told = instancedir.Started, first.PID, first.Start, time.Now().UTC()
	if err := k.write(); err != nil {
		return "", instancedir.Classify(err)
	}
	p.signalGroup(first, syscall.SIGTERM)
	p.log.Info("machine told to stop", "machine", m.Name, "zone", m.Zone, "pid", first.PID)
	return fmt.Sprintf("operation-stop-%d", first.PID), nil
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
