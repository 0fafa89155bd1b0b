package proc

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
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
	// exec returns to the parent shortly before the kernel shows the new environment.
	for deadline := time.Now().Add(5 * time.Second); !p.HasEnv("MUSTER_RUNNER=r-proc") && time.Now().Before(deadline); {
		runtime.Gosched()
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
