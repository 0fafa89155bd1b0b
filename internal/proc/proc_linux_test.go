package proc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	// 4-47: a command name may imitate the fields that follow it.
	line := "4242 (evil) S 1 (x) R 17 4200 4100 34816 4200 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2 3"
	p, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Process{PID: 4242, PPID: 17, Group: 4200, Session: 4100, Start: 987654}); p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	for _, bad := range []string{"", "1", "1 (a", "1 (a) S 1 2", "x (a) Z q w e r t y u i o p a s d f g h j k"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 5 1 1")
	f.Fuzz(func(t *testing.T, line string) { _, _ = parseStat([]byte(line)) })
}

func TestSignalSparesTheNextOwnerOfAPid(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	cmd.Env = []string{"MUSTER_RUNNER=r-proc"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	p, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if p.PPID != os.Getpid() || !p.Alive() || !p.HasEnv("MUSTER_RUNNER=r-proc") || p.Env("MUSTER_RUNNER") != "r-proc" || p.HasEnv("MUSTER_RUNNER=r-pro") {
		t.Fatalf("read of a child: %+v", p)
	}

	// 4-47: the same number with another start time is somebody else.
	other := p
	other.Start++
	if err := other.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal to an earlier owner of the pid: %v", err)
	}
	if !p.Alive() {
		t.Fatal("the present owner of the pid was killed")
	}

	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, d := range Descendants(all, os.Getpid()) {
		found = found || d.PID == p.PID && d.Start == p.Start
	}
	if !found {
		t.Error("a child is not among the descendants")
	}

	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if p.Alive() || !errors.Is(p.Signal(syscall.SIGTERM), os.ErrProcessDone) {
		t.Error("a process that was waited for is alive")
	}
}

// A process that is in the middle of an execve has no environment to be seen; it
// is found by its environment none the less, or it would be left behind. 4-47
func TestEnvironmentInTheMiddleOfAnExec(t *testing.T) {
	script := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	cmd.Env = []string{"TAG=of-this-test"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := Process{PID: cmd.Process.Pid}
	for i := range 3000 {
		if !p.HasEnv("TAG=of-this-test") {
			t.Fatalf("look %d: the process was not seen to have its environment", i)
		}
	}

	empty := exec.Command("/bin/sleep", "60")
	empty.Env = []string{}
	if err := empty.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = empty.Process.Kill()
		_ = empty.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); inExec("/proc/" + strconv.Itoa(empty.Process.Pid)); {
		if time.Now().After(deadline) {
			t.Fatal("a process with an empty environment reads as one in an execve for ever")
		}
	}
}
