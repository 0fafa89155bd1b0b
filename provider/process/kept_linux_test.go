package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

var keptNames int

// keptDir makes the directory of a kept machine whose run.sh is a script.
func keptDir(t providertest.T, c Config, zone, script string) provider.Machine {
	t.Helper()
	keptNames++
	// Other runs of these tests may be on this machine, or have left something when they were killed.
	m := provider.Machine{Name: fmt.Sprintf("vm-%d-%d", os.Getpid(), keptNames), Zone: zone}
	t.Cleanup(func() {
		for _, left := range ofMachine(t, m) {
			_ = left.Signal(syscall.SIGKILL) // a test that failed before it could
		}
	})
	dir := filepath.Join(c.MachinesDir, m.Zone, m.Name)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\n"+script), 0o755)); err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// ofMachine returns everything that runs and carries the machine's tag.
func ofMachine(t providertest.T, m provider.Machine) (out []proc.Process) {
	t.Helper()
	all, err := proc.All()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, a := range all {
		if !a.Zombie && strings.HasPrefix(a.Env(instancedir.Tag), "kept."+m.Zone+"@"+m.Name+".") {
			out = append(out, a)
		}
	}
	return out
}

func keptStatus(t *testing.T, p *Provider, m provider.Machine) provider.MachineState {
	t.Helper()
	st, err := p.Status(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// What a machine's jobs leave behind ends with it, also what left its session; one
// that does not end is killed after its grace.
func TestKeptMachineEndsWhole(t *testing.T) {
	c := config(t, t.TempDir(), waitForEver)
	c.Cgroup, c.Grace = "none", provider.Duration(time.Minute)
	p := open(t, c)
	m := keptDir(t, c, "", "trap '' TERM\nsetsid sleep 1000 &\necho up > up\nwhile :; do sleep 0.05; done\n")
	if op, err := p.Start(t.Context(), m); err != nil || !strings.HasPrefix(op, "operation-") {
		t.Fatalf("%q, %v", op, err)
	}
	until(t, "it does not come up", func() bool {
		_, err := os.Stat(filepath.Join(c.MachinesDir, m.Name, "up"))
		return err == nil && len(ofMachine(t, m)) >= 2
	})
	if st := keptStatus(t, p, m); st.Status != muster.MachineRunning || time.Since(st.UpAt) > time.Minute {
		t.Errorf("%+v", st)
	}
	for range p.List(t.Context()) {
		t.Error("a kept machine is listed, and the sweep would destroy it")
	}
	// The control plane's own environment does not reach it.
	for _, one := range ofMachine(t, m) {
		if one.Env("GOCACHE") != "" || one.Env("MUSTER_BOOT_TOKEN_FILE") != "" {
			t.Error("it sees the control plane's environment")
		}
	}
	if _, err := p.Stop(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if st := keptStatus(t, p, m); st.Status != muster.MachineStopping {
		t.Errorf("%+v", st)
	}
	if _, err := p.Start(t.Context(), m); !errors.Is(err, provider.ErrTransient) { // 4-20
		t.Errorf("start while stopping: %v", err)
	}
	p.cfg.Grace = provider.Duration(time.Millisecond)
	until(t, "it does not end", func() bool { return keptStatus(t, p, m).Status == muster.MachineTerminated })
	if left := ofMachine(t, m); len(left) != 0 {
		t.Errorf("there remain %v", left)
	}
}

// A machine that ends by itself is seen to have ended, and what it left is cleared.
func TestKeptMachineEndsByItself(t *testing.T) {
	c := config(t, t.TempDir(), waitForEver)
	c.Cgroup = "none"
	p := open(t, c)
	m := keptDir(t, c, "zone-b", "setsid sleep 1000 &\nexit 0\n")
	if _, err := p.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	until(t, "it is not seen to have ended", func() bool { return keptStatus(t, p, m).Status == muster.MachineTerminated })
	if left := ofMachine(t, m); len(left) != 0 {
		t.Errorf("there remain %v", left)
	}
	if op, err := p.Stop(t.Context(), m); err != nil || op != "" {
		t.Errorf("%q, %v", op, err)
	}
}

// A control plane that died between a start and its record left a process, which the
// next one finds by its tag and does not start twice.
func TestKeptMachineUnrecorded(t *testing.T) {
	c := config(t, t.TempDir(), waitForEver)
	c.Cgroup = "none"
	p := open(t, c)
	m := keptDir(t, c, "z", waitForEver)
	if _, err := p.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	until(t, "it does not run", func() bool { return len(ofMachine(t, m)) == 1 })
	state := filepath.Join(p.set.Dir, ".machines", "z@"+m.Name, instancedir.StateFile)
	for what, text := range map[string]string{"unrecorded": `{"stage":"starting","boot":"` + proc.BootID() + `"}`, "broken": "{"} {
		if err := os.WriteFile(state, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		after := open(t, c)
		if st := keptStatus(t, after, m); st.Status != muster.MachineRunning {
			t.Errorf("%s: %+v", what, st)
		}
		if op, err := after.Start(t.Context(), m); err != nil || op != "" || len(ofMachine(t, m)) != 1 {
			t.Errorf("%s: started again: %q, %v", what, op, err)
		}
	}
	if _, err := p.Stop(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	until(t, "it does not end", func() bool { return keptStatus(t, p, m).Status == muster.MachineTerminated })
}
