package enginetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nodeVariable is set where the processes are to be the machine's own, with its numbers.
const nodeVariable = "MUSTER_ENGINETEST_NODE"

// stageVariable says how far a process of a test is on its way into its namespaces.
const stageVariable = "MUSTER_ENGINETEST_STAGE"

const (
	stageInit = "init" // process 1 of the namespaces: makes them usable, and reaps
	stageRun  = "run"  // the test itself
)

// Main runs the tests of a package in namespaces of their own, if this user may make
// some. Call it from TestMain.
func Main(m *testing.M) {
	enter()
	if os.Getenv(stageVariable) == stageRun || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	code, err := spawn(os.Args[1:], os.Stdout, false)
	if err != nil {
		fmt.Fprintln(os.Stderr, "enginetest:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// Isolate is Main for one test of a package: it runs the test again in namespaces of
// its own and returns false when that has been done. The package's TestMain has to
// call Enter first.
func Isolate(t *testing.T) bool {
	t.Helper()
	return isolate(t, false)
}

// IsolateOnNode is Isolate for tests that record what containers do: their processes have the
// machine's own numbers, without which no recorder works. When the test ends, so does
// every process that descends from it. /run/muster is the test's own.
func IsolateOnNode(t *testing.T) bool {
	t.Helper()
	return isolate(t, true)
}

func isolate(t *testing.T, node bool) bool {
	t.Helper()
	if os.Getenv(stageVariable) == stageRun {
		return true
	}
	if os.Getuid() != 0 {
		Missing(t, "container engines are tested as root")
	}
	args := []string{"-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$", "-test.v=true"}
	if d, ok := t.Deadline(); ok {
		args = append(args, fmt.Sprintf("-test.timeout=%s", untilDeadline(d)))
	}
	var out strings.Builder
	code, err := spawn(args, &out, node)
	t.Log(out.String())
	switch {
	case err != nil:
		t.Fatal(err)
	case code != 0:
		t.Fatalf("in its namespaces, the test ended with code %d", code)
	case strings.Contains(out.String(), "--- SKIP: "+t.Name()):
		Missing(t, "skipped in its namespaces, for the reason above")
	}
	return false
}

// Enter goes on with what Isolate has begun, in the new process, and does nothing
// elsewhere.
func Enter() { enter() }

// spawn runs this program in new namespaces and returns its exit code.
func spawn(args []string, out interface{ Write([]byte) (int, error) }, node bool) (int, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(context.Background(), exe, args...)
	cmd.Env = append(os.Environ(), stageVariable+"="+stageInit)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, os.Stderr
	if out != os.Stdout {
		cmd.Stderr = out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if node {
		cmd.Env = append(cmd.Env, nodeVariable+"=1")
		cmd.SysProcAttr.Cloneflags &^= syscall.CLONE_NEWPID
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM // it has processes to end
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make namespaces: %w", err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	err = cmd.Wait()
	signal.Stop(signals)
	close(signals)
	<-done
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// enter is what the first process of the namespaces does; it does not return there.
func enter() {
	if os.Getenv(stageVariable) != stageInit {
		return
	}
	code, err := first()
	if err != nil {
		fmt.Fprintln(os.Stderr, "enginetest: first process:", err)
		code = 1
	}
	os.Exit(code)
}

func first() (int, error) {
	node := os.Getenv(nodeVariable) != ""
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if node {
		err = errors.Join(err, os.MkdirAll("/run/muster", 0o755), unix.Mount("none", "/run/muster", "tmpfs", 0, "mode=755"),
			unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		defer endDescendants()
	} else {
		err = errors.Join(err, unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	}
	if err := errors.Join(err, loopback()); err != nil {
		return 1, err
	}
	if err := os.Setenv(stageVariable, stageRun); err != nil {
		return 1, err
	}
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	test, err := os.StartProcess(exe, os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = test.Signal(s)
			if node {
				endDescendants() // the test may not get to it
			}
		}
	}()
	// Whatever loses its parent is ours. When this process ends, so does all the rest.
	for {
		var how syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &how, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, err
		case pid == test.Pid && how.Signaled():
			return 128 + int(how.Signal()), nil
		case pid == test.Pid:
			return how.ExitStatus(), nil
		}
	}
}

// endDescendants ends every process that descends from this one, which adopts those that lose
// their parents, until there is none.
func endDescendants() {
	for range 1000 {
		parents := map[int]int{}
		dirs, _ := os.ReadDir("/proc")
		for _, d := range dirs {
			pid, err := strconv.Atoi(d.Name())
			if err != nil {
				continue
			}
			// The name may have anything in it, parentheses too; state and parent follow it.
			text, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "stat"))
			if i := strings.LastIndexByte(string(text), ')'); i > 0 {
				if f := strings.Fields(string(text[i+1:])); len(f) > 1 {
					parents[pid], _ = strconv.Atoi(f[1])
				}
			}
		}
		left := false
		for pid := range parents {
			at := pid
			for depth := 0; at > 1 && at != os.Getpid() && depth < 1000; depth++ {
				at = parents[at]
			}
			if at == os.Getpid() && pid != at {
				left = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		if !left {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

// loopback brings the new network's own interface up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
