package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// controlPlane is this test program as a control plane that makes a machine and is
// killed: the root is what it gets, with where its images are and its control plane.
func controlPlane(root string) {
	l := &lab{images: os.Getenv("QEMU_TEST_IMAGES")}
	c := l.config(root)
	c.domain = "tests"
	p, err := New(c)
	if err == nil {
		_, err = p.Create(context.Background(), specFor("r-orphan", os.Getenv("QEMU_TEST_URL")))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("created")
	select {}
}

// 4-51: a control plane is killed with SIGKILL. Its machine lives on, is found by a
// new one with the same identity, and its agent, whose words had nowhere to go
// meanwhile, is heard by the new one.
func TestMachineOutlivesItsControlPlane(t *testing.T) {
	l := requireLab(t)
	root := filepath.Join(l.dir, "outlives")
	api := newPlane(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "QEMU_TEST_CONTROL_PLANE="+root, "QEMU_TEST_IMAGES="+l.images, "QEMU_TEST_URL="+api.URL)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, _ := out.Read(buf)
	if got := string(buf[:n]); !strings.HasPrefix(got, "created") {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the control plane says %q", got)
	}
	api.await(t, "r-orphan", "is not listening", listening)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	c := l.config(root)
	c.domain = "tests"
	p := open(t, c)
	inst, err := p.Get(t.Context(), "r-orphan")
	if err != nil || inst.State != provider.InstanceRunning {
		t.Fatalf("after the death of its control plane: %+v, %v", inst, err)
	}
	since := time.Now()
	api.await(t, "r-orphan", "is not heard any more", func(s *said) bool {
		return len(s.reportAt) > 0 && s.reportAt[len(s.reportAt)-1].After(since.Add(time.Second))
	})
	// A third one takes over from the second in the same way, in the same program.
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	third := open(t, c)
	since = time.Now()
	api.await(t, "r-orphan", "is not heard by the third", func(s *said) bool {
		return s.reportAt[len(s.reportAt)-1].After(since.Add(time.Second))
	})
	destroy(t, third, "r-orphan")
	if left := tagged(t, third.name("r-orphan")); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	providertest.Survived(t, "qemu", "the control plane is killed while a machine works; the next one takes its port over")
}

// 4-51: the control plane dies between the start of QEMU and its record, or between
// that and the boot data. What is there is an instance that has ended, and is removed.
func TestInterruptedCreation(t *testing.T) {
	l := requireLab(t)
	c := l.config(filepath.Join(l.dir, "interrupted"))
	c.domain = "tests"
	p := open(t, c)
	for name, spoil := range map[muster.RunnerID]func(*state){
		"r-unrecorded": func(st *state) { st.Stage, st.PID, st.Start = instancedir.Starting, 0, 0 },
		"r-unborn":     func(st *state) { st.Stage = instancedir.Started },
	} {
		create(t, p, specFor(name, "http://127.0.0.1:9/"))
		st, err := readState(p.path(name))
		if err != nil {
			t.Fatal(err)
		}
		spoil(&st)
		if err := st.write(p.path(name)); err != nil {
			t.Fatal(err)
		}
		after := open(t, c)
		inst, err := after.Get(t.Context(), name)
		if err != nil || inst.State != provider.InstanceEnded || !strings.Contains(inst.Detail, "interrupted") {
			t.Errorf("%s: %+v, %v", name, inst, err)
		}
		// Create with the same id starts nothing beside it.
		if _, err := after.Create(t.Context(), specFor(name, "http://127.0.0.1:9/")); err != nil {
			t.Errorf("%s: create again: %v", name, err)
		}
		if n := len(tagged(t, p.name(name))); n != 1 {
			t.Errorf("%s: %d processes", name, n)
		}
		destroy(t, after, name)
		if left := tagged(t, p.name(name)); len(left) > 0 {
			t.Errorf("%s: processes are left: %v", name, left)
		}
	}
	// A directory that was lost with QEMU running, and one without anything in it.
	create(t, p, specFor("r-homeless", "http://127.0.0.1:9/"))
	if err := errors.Join(os.RemoveAll(p.path("r-homeless")), os.Mkdir(p.path("r-empty"), 0o700)); err != nil {
		t.Fatal(err)
	}
	seen := map[muster.RunnerID]provider.Instance{}
	for inst, err := range p.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		seen[inst.Runner] = inst
	}
	if len(seen) != 2 || seen["r-homeless"].State != provider.InstanceRunning || seen["r-empty"].State != provider.InstanceEnded {
		t.Errorf("list: %+v", seen)
	}
	destroy(t, p, "r-homeless")
	destroy(t, p, "r-empty")
	providertest.Survived(t, "qemu", "the control plane is killed between start and record, and between record and boot data")
	providertest.Survived(t, "qemu", "a machine's directory is lost while it runs")
}

// Every way in which a machine can end is told from the others.
func TestEndReasons(t *testing.T) {
	l := requireLab(t)
	api := newPlane(t)
	c := l.config(filepath.Join(l.dir, "ends"))
	c.domain = "tests"
	p := open(t, c)
	monitored := func(id muster.RunnerID, command string) {
		dir, err := os.Open(p.path(id))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		m, err := dialMonitor(t.Context(), dir, func() bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		_, _ = m.do(t.Context(), command, nil)
	}
	for id, try := range map[muster.RunnerID]struct {
		end  func(id muster.RunnerID, qemu proc.Process)
		want string
	}{
		"r-off":   {func(id muster.RunnerID, _ proc.Process) { monitored(id, "system_powerdown") }, "powered itself off"},
		"r-reset": {func(id muster.RunnerID, _ proc.Process) { monitored(id, "inject-nmi"); monitored(id, "system_reset") }, "QEMU says: host-qmp-system-reset"},
		"r-quit":  {func(id muster.RunnerID, _ proc.Process) { monitored(id, "quit") }, "told to end"},
		"r-term":  {func(_ muster.RunnerID, q proc.Process) { _ = q.Signal(syscall.SIGTERM) }, "by a signal"},
		"r-kill":  {func(_ muster.RunnerID, q proc.Process) { _ = q.Signal(syscall.SIGKILL) }, `the signal "killed"`},
	} {
		create(t, p, specFor(id, api.URL))
		api.await(t, string(id), "is not listening", listening)
		st, err := readState(p.path(id))
		if err != nil {
			t.Fatal(err)
		}
		try.end(id, st.Process())
		var inst provider.Instance
		until(t, "it does not end", func() bool {
			inst, err = p.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return inst.State == provider.InstanceEnded
		})
		if !strings.Contains(inst.Detail, try.want) {
			t.Errorf("%s ended because %q, want %q", id, inst.Detail, try.want)
		}
	}
	providertest.Survived(t, "qemu", "a machine powers itself off, is reset, or its QEMU quits, is terminated or killed: told apart")
}

// A QEMU that hangs does not hang its callers, and is deleted.
func TestHangingQEMU(t *testing.T) {
	l := requireLab(t)
	api := newPlane(t)
	c := l.config(filepath.Join(l.dir, "hangs"))
	c.domain, c.Grace = "tests", provider.Duration(500*time.Millisecond)
	p := open(t, c)
	create(t, p, specFor("r-hangs", api.URL))
	api.await(t, "r-hangs", "is not there", booted)
	st, err := readState(p.path("r-hangs"))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if inst, err := p.Get(t.Context(), "r-hangs"); err != nil || inst.State != provider.InstanceRunning {
		t.Errorf("get: %+v, %v", inst, err)
	}
	destroy(t, p, "r-hangs")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
	providertest.Survived(t, "qemu", "QEMU hangs")
}

// Refusals have the right class, leave nothing, and say what to do.
func TestRefusals(t *testing.T) {
	l := requireLab(t)
	root := filepath.Join(l.dir, "refusals")
	broken := filepath.Join(t.TempDir(), "qemu")
	script := "#!/bin/sh\n[ \"$1\" = --version ] && { echo QEMU emulator version 1; exit; }\necho cannot set up guest memory: Cannot allocate memory >&2\nexit 1\n"
	if err := os.WriteFile(broken, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	hanging := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(hanging, bytes.Replace([]byte(script), []byte("echo cannot"), []byte("exec sleep 1000; echo cannot"), 1), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		spoil func(*Config, *provider.Spec)
		want  error
		text  string
	}{
		"no such image": {func(_ *Config, s *provider.Spec) { s.Offering.Image = "nothing" }, provider.ErrInvalid, "muster image build"},
		"a path":        {func(_ *Config, s *provider.Spec) { s.Offering.Image = "../small" }, provider.ErrInvalid, "no name of an image"},
		"GPUs":          {func(_ *Config, s *provider.Spec) { s.Offering.GPUs = 1 }, provider.ErrInvalid, "GPU"},
		"too small":     {func(_ *Config, s *provider.Spec) { s.Offering.MemoryMiB = 32 }, provider.ErrInvalid, "needs 96"},
		"no memory":     {func(c *Config, _ *provider.Spec) { c.QEMU, c.Warm = broken, false }, provider.ErrCapacity, "Cannot allocate memory"},
		"hangs":         {func(c *Config, _ *provider.Spec) { c.QEMU, c.Warm = hanging, false }, context.DeadlineExceeded, "control socket"},
	} {
		t.Run(name, func(t *testing.T) {
			c, spec := l.config(root), specFor("r-refused", "http://127.0.0.1:9/")
			c.domain = "tests"
			try.spoil(&c, &spec)
			p := open(t, c)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := p.Create(ctx, spec)
			if !errors.Is(err, try.want) || !strings.Contains(err.Error(), try.text) {
				t.Errorf("create: %v", err)
			}
			if _, err := p.Get(t.Context(), "r-refused"); !errors.Is(err, provider.ErrNotFound) {
				t.Errorf("a refused create left something: %v", err)
			}
			if left := tagged(t, p.name("r-refused")); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
		})
	}
	providertest.Survived(t, "qemu", "creation refused: no image, no memory, QEMU that never answers")
}

// 4-51: every machine has a network device to itself, one whose creation was interrupted
// and begun again, too.
func TestTapsAreKeptApart(t *testing.T) {
	l := requireLab(t)
	c := l.config(filepath.Join(l.dir, "taps"))
	c.Max, c.Taps = 2, []string{"lo", "lo2"} // nothing is started on them
	p := open(t, c)
	for range 2 {
		taken := map[string]bool{}
		for _, id := range []muster.RunnerID{"r-one", "r-two"} {
			held, st, err := p.admit(t.Context(), specFor(id, "http://127.0.0.1:9/"))
			if err != nil {
				t.Fatal(err)
			}
			taken[st.Tap] = true
			if was, err := readState(p.path(id)); err != nil || was.Tap != st.Tap {
				t.Errorf("%s: recorded %q, given %q, %v", id, was.Tap, st.Tap, err)
			}
			held.Close() // as a control plane that dies here
		}
		if !taken["lo"] || !taken["lo2"] || len(taken) != 2 {
			t.Errorf("devices: %v", taken)
		}
	}
	if _, _, err := p.admit(t.Context(), specFor("r-three", "http://127.0.0.1:9/")); !errors.Is(err, provider.ErrCapacity) {
		t.Errorf("a third: %v", err)
	}
}
