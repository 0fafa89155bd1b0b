package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
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
	Stage stage     `json:"stage,omitempty"`
	PID   int       `json:"pid,omitempty"`
	Start uint64    `json:"start,omitempty"`
	Boot  string    `json:"boot,omitempty"`
	UpAt  time.Time `json:"up_at,omitzero"`
	// Told is when it was asked to end.
	Told time.Time `json:"told,omitzero"`
}

// machineWord is what names and zones are made of. It has no separator, so that it
// is one element of a path.
var machineWord = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z`)

// kept is one kept machine, with its state and the lock on it.
type kept struct {
	p    *Provider
	run  string // the directory with run.sh
	dir  string // what we know
	tag  string
	held *os.File
	st   keptState
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
	k := &kept{p: p, run: filepath.Join(p.cfg.MachinesDir, m.Zone, m.Name), dir: filepath.Join(p.dir, ".machines", id), tag: "kept." + id + ".k" + p.mark}
	if info, err := os.Stat(filepath.Join(k.run, "run.sh")); err != nil || info.IsDir() {
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
	text, err := os.ReadFile(filepath.Join(k.dir, stateFile))
	if err == nil {
		err = json.Unmarshal(text, &k.st)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.st = keptState{Stage: starting, Boot: proc.BootID()} // the disk lost it: look for anything
	}
	return k, nil
}

func (k *kept) close() { k.held.Close() }

func (k *kept) write() error {
	text, err := json.Marshal(k.st)
	if err != nil {
		return err
	}
	tmp := filepath.Join(k.dir, stateFile+".new")
	if err := os.WriteFile(tmp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(k.dir, stateFile))
}

// process finds the machine's first process. When the control plane died between
// its start and its record, the tag in its environment tells.
func (k *kept) process() (proc.Process, bool) {
	if k.st.Boot != proc.BootID() {
		return proc.Process{}, false
	}
	switch k.st.Stage {
	case started:
		if now, err := proc.Read(k.st.PID); err == nil && now.Start == k.st.Start && !now.Zombie {
			return now, true
		}
	case starting:
		all, _ := proc.All() // unreadable reads as "not running", and the next look sees more
		for _, a := range all {
			if !a.Zombie && a.Session == a.PID && a.HasEnv(tagVariable+"="+k.tag) {
				return a, true
			}
		}
	}
	return proc.Process{}, false
}

// settle ends what a machine left behind whose first process has ended, and reports
// whether anything of it still runs.
func (k *kept) settle() (left bool, err error) {
	if k.st.Stage == "" {
		return false, nil
	}
	if k.st.Boot == proc.BootID() {
		if last, err := proc.Read(k.st.PID); err == nil && last.Start == k.st.Start && last.PPID == os.Getpid() {
			// It is our child and has ended; no zombie stays.
			_, _ = syscall.Wait4(k.st.PID, nil, syscall.WNOHANG, nil)
		}
		if k.p.killTagged(k.tag, nil) {
			return true, nil
		}
	}
	k.st = keptState{}
	return false, k.write()
}

// state looks at the machine, and ends one that took too long to end.
func (k *kept) state() (provider.MachineState, error) {
	first, running := k.process()
	switch {
	case running && k.st.Told.IsZero():
		return provider.MachineState{Status: muster.MachineRunning, UpAt: k.st.UpAt, Detail: fmt.Sprintf("pid %d", first.PID)}, nil
	case running && time.Since(k.st.Told) < time.Duration(k.p.cfg.Grace):
		return provider.MachineState{Status: muster.MachineStopping}, nil
	case running:
		k.p.log.Warn("machine killed", "machine", k.run, "reason", "did not end in time", "grace", time.Duration(k.p.cfg.Grace))
		if k.p.killTagged(k.tag, k.p.victims(k.tag, first)) {
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
	defer k.close()
	switch st, err := k.state(); {
	case err != nil:
		return "", p.classify(err)
	case st.Status == muster.MachineRunning:
		return "", nil
	case st.Status != muster.MachineTerminated:
		return "", fmt.Errorf("%w: machine %s is %s", provider.ErrTransient, m.Name, st.Status)
	}
	if err := k.launch(); err != nil {
		return "", p.classify(fmt.Errorf("start machine %s: %w", m.Name, err))
	}
	p.log.Info("machine started", "machine", m.Name, "zone", m.Zone, "pid", k.st.PID)
	return fmt.Sprintf("operation-start-%d", k.st.PID), nil
}

func (k *kept) launch() error {
	out, err := os.OpenFile(filepath.Join(k.dir, "run.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	k.st = keptState{Stage: starting, Boot: proc.BootID(), UpAt: time.Now().UTC()}
	if err := k.write(); err != nil {
		return err
	}
	run := filepath.Join(k.run, "run.sh")
	process, err := os.StartProcess(run, []string{run}, &os.ProcAttr{
		Dir: k.run, Env: k.environment(), Files: []*os.File{null, out, out}, Sys: &syscall.SysProcAttr{Setsid: true, Credential: k.p.cred},
	})
	if err != nil {
		k.st = keptState{}
		return errors.Join(err, k.write())
	}
	id, err := proc.Read(process.Pid) // our child, and nobody waits for it: it is there, if only as a zombie
	if err == nil {
		k.st.Stage, k.st.PID, k.st.Start = started, id.PID, id.Start
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
		"RUNNER_MANUALLY_TRAP_SIG=1", tagVariable + "=" + k.tag,
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
	defer k.close()
	st, err := k.state()
	if err != nil {
		return "", p.classify(err)
	}
	first, running := k.process()
	if st.Status != muster.MachineRunning || !running {
		return "", nil
	}
	k.st.Stage, k.st.PID, k.st.Start, k.st.Told = started, first.PID, first.Start, time.Now().UTC()
	if err := k.write(); err != nil {
		return "", p.classify(err)
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
	defer k.close()
	st, err := k.state()
	if err != nil {
		return provider.MachineState{}, p.classify(err)
	}
	return st, nil
}
