//go:build linux && (amd64 || arm64)

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/provider/container/enginetest"
)

// An exercise is what a job does in these tests, in a process of its own: this test's
// program, called with the exercise's name. It waits until it is followed.
const exerciseEnv = "MUSTER_BPF_EXERCISE"

func TestMain(m *testing.M) {
	enginetest.Enter()
	if name := os.Getenv(exerciseEnv); name != "" {
		os.Unsetenv(exerciseEnv)
		_, _ = os.Stdin.Read(make([]byte, 1))
		if err := exercises[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var exercises map[string]func(args []string) error

func init() {
	exercises = map[string]func(args []string) error{
		"files":    exerciseFiles,
		"engine":   exerciseEngine,
		"writes":   exerciseWrites,
		"reads":    exerciseReads,
		"memory":   exerciseMemory,
		"kernel":   exerciseKernel,
		"users":    exerciseUsers,
		"sockets":  exerciseSockets,
		"tamper":   exerciseTamper,
		"mount":    exerciseMount,
		"escape":   exerciseEscape,
		"daemon":   exerciseDaemon,
		"opens":    exerciseOpens,
		"stay":     exerciseStay,
		"pulse":    exercisePulse,
		"describe": exerciseDescribe,
		"recorder": exerciseRecorder,
		"matrix":   exerciseMatrix,
		"network":  exerciseNetwork,
		"evade":    exerciseEvade,
		"hidden":   exerciseHidden,
	}
}

func exerciseFiles(args []string) error {
	if err := os.Chdir(args[0]); err != nil {
		return err
	}
	dir, err := unix.Open("sub", unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return os.WriteFile("../"+filepath.Base(args[0])+"/a", []byte("hello"), 0o600) },
		func() error { return os.Rename("a", "b") },
		func() error { return unix.Renameat2(unix.AT_FDCWD, "b", dir, "c", 0) },
		func() error { return os.Symlink("sub/c", "link") },
		func() error {
			f, err := os.OpenFile("link", os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		},
		func() error { return unix.Unlinkat(dir, "c", 0) },
		func() error { return unix.Unlink(filepath.Join(args[0], "link")) },
		func() error { return unix.Rmdir("sub") },
		func() error { // what fails is no event
			_ = unix.Unlink("nowhere")
			_ = unix.Rename("nowhere", "elsewhere")
			_, _ = os.Open("nowhere")
			return nil
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// exerciseWrites writes 1000 times 10 bytes by every way there is.
func exerciseWrites(args []string) error {
	f, err := os.Create(filepath.Join(args[0], "many"))
	if err != nil {
		return err
	}
	for range 1000 {
		if _, err := f.WriteString("0123456789"); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	g, err := os.Create(filepath.Join(args[0], "ways"))
	if err != nil {
		return err
	}
	fd := int(g.Fd())
	from, err := os.Open(filepath.Join(args[0], "many"))
	if err != nil {
		return err
	}
	text := []byte("0123456789")
	if _, err := unix.Pwrite(fd, text, 0); err != nil {
		return err
	}
	if _, err := unix.Writev(fd, [][]byte{text, text}); err != nil {
		return err
	}
	if _, err := unix.Pwritev(fd, [][]byte{text}, 40); err != nil {
		return err
	}
	if _, err := unix.Sendfile(fd, int(from.Fd()), nil, 100); err != nil {
		return err
	}
	if _, err := unix.CopyFileRange(int(from.Fd()), nil, fd, nil, 1000, 0); err != nil {
		return err
	}
	// Left open: the end of the process closes it. And one that dup2 closes.
	h, err := os.Create(filepath.Join(args[0], "dup"))
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := h.WriteString("0123456789"); err != nil {
			return err
		}
	}
	return unix.Dup3(int(g.Fd()), int(h.Fd()), 0)
}

func exerciseReads(args []string) error {
	for range 50 {
		for _, name := range []string{"one", "two"} {
			if _, err := os.ReadFile(filepath.Join(args[0], name)); err != nil {
				return err
			}
		}
	}
	for _, quiet := range []string{"/usr/lib/os-release", "/proc/self/status", "/dev/null", "/sys/kernel/notes"} {
		_, _ = os.ReadFile(quiet)
	}
	return nil
}

// exerciseMemory looks at the process whose number is given.
func exerciseMemory(args []string) error {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for _, name := range []string{"mem", "environ", "maps"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			return err
		}
		f.Close()
	}
	own, err := os.Open("/proc/self/environ") // nobody else's
	if err != nil {
		return err
	}
	own.Close()
	into := make([]byte, 1)
	_, err = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &into[0], Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0)
	if err != nil && !errors.Is(err, unix.EFAULT) {
		return err
	}
	return unix.PtraceSeize(pid)
}

// bpfProgram is the beginning of what bpf(2) takes to load a program.
type bpfProgram struct {
	kind, count    uint32
	code, license  uint64
	level, size    uint32
	buffer         uint64
	version, flags uint32
	name           [16]byte
}

func exerciseKernel([]string) error {
	// A socket filter that returns 0.
	code := [2]uint64{0x00000000000000b7, 0x0000000000000095}
	license := []byte("GPL\x00")
	p := bpfProgram{kind: 1, count: 2, code: uint64(uintptr(unsafe.Pointer(&code))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	copy(p.name[:], "harmless")
	fd, _, errno := unix.Syscall(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&p)), unsafe.Sizeof(p))
	if errno != 0 {
		return fmt.Errorf("load program: %w", errno)
	}
	unix.Close(int(fd))
	_, _, _ = unix.Syscall(unix.SYS_INIT_MODULE, 0, 0, 0) // refused: it is none
	if f, err := os.Open("/etc/hostname"); err == nil {
		_ = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
	}
	var params [120]byte
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("set up io_uring: %w", errno)
	}
	return unix.Close(int(ring))
}

func exerciseUsers([]string) error {
	if err := unix.Setreuid(-1, -1); err != nil { // nothing changes
		return err
	}
	if err := syscall.Setresuid(-1, 12345, -1); err != nil {
		return err
	}
	return nil
}

func exerciseSockets(args []string) error {
	for _, s := range []struct{ family, kind, protocol int }{
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {unix.AF_PACKET, unix.SOCK_RAW, 0}, {unix.AF_INET, unix.SOCK_STREAM, 0},
		{unix.AF_NETLINK, unix.SOCK_RAW, 0},
	} {
		fd, err := unix.Socket(s.family, s.kind, s.protocol)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	if err := os.Chdir(filepath.Dir(args[0])); err != nil {
		return err
	}
	for _, at := range []string{args[0], filepath.Base(args[0]), args[1]} {
		c, err := net.Dial("unix", at)
		if err != nil {
			return err
		}
		c.Close()
	}
	return nil
}

func exerciseTamper(args []string) error {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return err
	}
	// Refused to whom has no rights.
	if err := syscall.Setresuid(12345, 12345, 12345); err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != unix.EPERM {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}

func exerciseMount(args []string) error {
	runtime.LockOSThread() // the namespace is the thread's
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("a-name", args[0], "tmpfs", 0, ""); err != nil {
		return err
	}
	// A file below the mount point has the path that leads over it.
	return os.WriteFile(filepath.Join(args[0], "inside"), []byte("x"), 0o600)
}

// exerciseEscape leaves for the cgroup that is given and goes on there.
func exerciseEscape(args []string) error {
	if err := os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	return exec.Command("/bin/true", "escaped").Run()
}

// exerciseDaemon leaves its session and its parent, who ends first.
func exerciseDaemon([]string) error {
	return exec.Command("sh", "-c", `setsid sh -c '(sleep 0.2; exec /bin/true far away) &'`).Run()
}

// exerciseOpens opens as many files as is said, each another.
func exerciseOpens(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := os.Chdir(args[0]); err != nil {
		return err
	}
	// How many a second, 0 for as many as can be, and how many different names.
	perSecond, names := 0, 1000
	if len(args) > 3 {
		perSecond, _ = strconv.Atoi(args[2])
		names, _ = strconv.Atoi(args[3])
	}
	started := time.Now()
	name := make([]byte, 0, 32)
	for i := range n {
		name = append(strconv.AppendInt(append(name[:0], 'f'), int64(i%names), 10), 0)
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(&name[0])), unix.O_WRONLY|unix.O_CREAT, 0o600, 0, 0)
		if errno != 0 {
			return errno
		}
		unix.Close(int(fd))
		if perSecond > 0 && i%100 == 99 {
			if ahead := time.Duration(i)*time.Second/time.Duration(perSecond) - time.Since(started); ahead > 0 {
				time.Sleep(ahead)
			}
		}
	}
	return nil
}

func exerciseStay([]string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// exercisePulse runs a program with its own argument again and again until it is told
// to end.
func exercisePulse(args []string) error {
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for {
		select {
		case <-end:
			return nil
		default:
		}
		if err := exec.Command("/bin/true", args...).Run(); err != nil {
			return err
		}
	}
}

// exerciseDescribe opens a recorder with what rights it has and prints what is missing.
func exerciseDescribe([]string) error {
	r, err := Open(Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	fmt.Println(r.Describe().Missing["all"])
	return nil
}

// exerciseRecorder records the process whose number is given until it is killed, and
// says once it does.
func exerciseRecorder(args []string) error {
	r, err := Open(Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	s, err := r.Follow(context.Background(), Follow{Root: pid})
	if err != nil {
		return err
	}
	fmt.Println(s.cgroup)
	for range s.Events() {
	}
	return nil
}

// job is an exercise that has been started and waits.
type job struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *strings.Builder
}

func start(t *testing.T, name string, args ...string) *job {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	j := &job{cmd: exec.Command(self, args...), out: &strings.Builder{}}
	j.cmd.Env = append(os.Environ(), exerciseEnv+"="+name)
	j.cmd.Stdout, j.cmd.Stderr = j.out, j.out
	if j.in, err = j.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if j.cmd.ProcessState == nil {
			_ = j.cmd.Process.Kill()
			_ = j.cmd.Wait()
		}
	})
	return j
}

// begin lets the exercise begin, finish waits for its end.
func (j *job) begin(t *testing.T) {
	t.Helper()
	if _, err := j.in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
}

func (j *job) finish(t *testing.T) {
	t.Helper()
	j.in.Close()
	if err := j.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, j.out)
	}
}

// exerciseEngine is a daemon that starts a program for whoever connects to its socket.
func exerciseEngine(args []string) error {
	in, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := in.Accept()
		if err != nil {
			return err
		}
		err = exec.Command("/bin/true", "asked").Run()
		c.Close()
		if err != nil {
			return err
		}
	}
}
