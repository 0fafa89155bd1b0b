//go:build linux && (amd64 || arm64)

package bpf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/trace"
)

// A trick is a way in which a job tries to act unseen, or to have its acts told of
// somebody else.
type trick struct {
	name string
	// root is whether it takes root; the others are an ordinary user's.
	root bool
	// do is the trick, in the job's process.
	do func(dir string) error
	// sees are the events by which it is told: each must be there, with these fields.
	sees func(dir string) []trace.Event
	// check looks further.
	check func(t *testing.T, dir string, root int, events []trace.Event)
	// blind is what docs/traces.md says of what is not told, and unseen are the events
	// that would tell it.
	blind  string
	unseen func(dir string) []trace.Event
}

// somebody is the ordinary user of these tests.
const somebody = 12345

func exerciseEvade(args []string) error {
	if args[2] == "user" {
		if err := dropRights(); err != nil {
			return err
		}
	}
	if err := os.Chdir(args[1]); err != nil {
		return err
	}
	for _, one := range tricks() {
		if one.name == args[0] {
			return one.do(args[1])
		}
	}
	return fmt.Errorf("no trick %q", args[0])
}

func exerciseHidden(args []string) error { return hidden[args[0]](args[1:]) }

func dropRights() error {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(somebody, somebody, somebody), syscall.Setresuid(somebody, somebody, somebody)); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // so that /proc/self is its own
}

// inside is this program again, for what is inside of a trick.
func inside(attr *syscall.SysProcAttr, what string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{what}, args...)...)
	cmd.Env = append(os.Environ(), exerciseEnv+"=hidden")
	cmd.Stdin = strings.NewReader("\n")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	return cmd
}

var hidden map[string]func(args []string) error

func init() {
	hidden = map[string]func([]string) error{
		"chroot":  hiddenChroot,
		"pivot":   hiddenPivot,
		"rename":  hiddenName,
		"receive": hiddenReceive,
		"stay":    hiddenStay,
		"clone":   hiddenClone,
		"read": func(args []string) error {
			_, err := os.ReadFile(args[0])
			return err
		},
		"threads": hiddenThreads,
	}
}

// alone are namespaces of its own, which every user may make.
func alone() *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings: ids, GidMappings: ids,
	}
}

func opened(path, flags string) trace.Event {
	return trace.Event{Type: trace.FileOpen, Path: path, Flags: flags}
}

func written(path string, n int64) trace.Event {
	return trace.Event{Type: trace.FileWrite, Path: path, Bytes: n}
}

const made = "write,create,truncate"

func touch(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }

// memfd is a copy of a program that has no file.
func memfd(name, program string) (int, error) {
	fd, err := unix.MemfdCreate(name, 0)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return 0, err
	}
	_, err = unix.Write(fd, text)
	return fd, err
}

// become runs a program in this process's place, by a thread that is not its first.
func become(call func() error) error {
	failed := make(chan error)
	for range 2 { // one of two locked threads is not the first
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == unix.Getpid() {
				select {} // holds the first thread, until another runs the program
			}
			failed <- call()
		}()
	}
	return <-failed
}

func cString(s string) unsafe.Pointer { return unsafe.Pointer(&append([]byte(s), 0)[0]) }

func tricks() []trick {
	all := []trick{
		{name: "a program without a file", do: func(string) error {
			fd, err := memfd("innocent", "/bin/true")
			if err != nil {
				return err
			}
			argv := []unsafe.Pointer{cString("sshd"), cString("-D"), nil}
			_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(cString("")), uintptr(unsafe.Pointer(&argv[0])), 0, unix.AT_EMPTY_PATH, 0)
			return errno
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.ProcessExec, Path: "/memfd:innocent", Args: []string{"sshd", "-D"}}}
		}},
		{name: "a program that another thread runs", do: func(dir string) error {
			return become(func() error { return syscall.Exec("/bin/sh", []string{"sh", "-c", "echo x > thread; exit 0"}, nil) })
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.ProcessExec, Args: []string{"sh", "-c", "echo x > thread; exit 0"}}, opened(dir+"/thread", made), {Type: trace.ProcessExit, Command: "sh"}}
		}, check: onlyRoot},
		{name: "a child of the parent", do: func(string) error {
			return beside(&syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT}, "echo x > sibling")
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.ProcessExec, Args: []string{"sh", "-c", "echo x > sibling"}, PPID: os.Getpid()}, opened(dir+"/sibling", made)}
		}},
		{name: "a session of its own under another name", do: func(string) error {
			return inside(&syscall.SysProcAttr{Setsid: true}, "rename", "kworker/0:1", "daemon").Start() // and its parent ends
		}, sees: func(dir string) []trace.Event {
			e := opened(dir+"/daemon", made)
			e.Command = "kworker/0:1"
			return []trace.Event{e}
		}},
		{name: "namespaces", do: func(dir string) error {
			cmd := exec.Command("/bin/sh", "-c", "echo x > apart; exec /bin/true")
			cmd.SysProcAttr = alone()
			return cmd.Run()
		}, sees: func(dir string) []trace.Event {
			e := opened(dir+"/apart", made)
			e.UID = somebody
			return []trace.Event{e, {Type: trace.ProcessExec, Args: []string{"/bin/true"}, UID: somebody}}
		}},
		{name: "chroot", do: func(dir string) error { return inside(alone(), "chroot", dir+"/jail").Run() }, sees: func(dir string) []trace.Event {
			return []trace.Event{
				opened(dir+"/jail/x", made), {Type: trace.FileRename, Path: dir + "/jail/x", NewPath: dir + "/jail/y"},
				{Type: trace.FileDelete, Path: dir + "/jail/y"},
			}
		}},
		{name: "pivot_root", do: func(dir string) error { return inside(alone(), "pivot", dir+"/world").Run() }, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.Mount, Path: dir + "/world", FileSystem: "tmpfs"}, opened("/new", made), {Type: trace.FileDelete, Path: "/new"}}
		}},
		{name: "one program after another", do: func(string) error {
			return exec.Command("/bin/sh", "-c", `n=200; [ -n "$1" ] && n=$1; [ "$n" = 0 ] && exit 0; exec /bin/sh -c "$0" "$0" $((n-1))`, stormScript).Run()
		}, check: func(t *testing.T, _ string, _ int, events []trace.Event) {
			atLeast(t, events, trace.ProcessExec, 200)
		}},
		{name: "more processes than may be", do: func(string) error {
			cmd := exec.Command("/bin/sh", "-c", `ulimit -u 60; i=0; while [ $i -lt 400 ]; do (exit 9) & i=$((i+1)); [ $((i%20)) = 0 ] && wait; done 2>/dev/null; wait; echo done > end`)
			return cmd.Run()
		}, sees: func(dir string) []trace.Event { return []trace.Event{opened(dir+"/end", made)} }, check: func(t *testing.T, _ string, _ int, events []trace.Event) {
			n := 0
			for _, e := range events {
				if e.Type == trace.ProcessExit && e.ExitCode == 9 {
					n++
				}
			}
			if n != 400 {
				t.Errorf("%d ends of 400 processes", n)
			}
		}},
		{name: "threads that end at once", do: func(string) error {
			for range 500 { // of a hundred, one was told of twice
				if err := inside(nil, "threads").Run(); err != nil {
					return err
				}
			}
			return nil
		}, check: func(t *testing.T, _ string, _ int, events []trace.Event) {
			ends := map[trace.Process]int{}
			for _, e := range events {
				if e.Type == trace.ProcessExit {
					ends[e.Process()]++
				}
			}
			for p, n := range ends {
				if n != 1 {
					t.Errorf("process %v ended %d times", p, n)
				}
			}
			if len(ends) < 501 {
				t.Errorf("%d processes ended, of 501", len(ends))
			}
		}},
		{name: "arguments that are too many", do: func(string) error {
			return exec.Command("/bin/true", slices.Repeat([]string{strings.Repeat("a", 1000)}, 200)...).Run()
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.ProcessExec, Path: realPath("/bin/true"), Truncated: true}}
		}},
		{name: "a false name", do: func(string) error {
			cmd := exec.Command("/bin/sleep", "0")
			cmd.Args[0] = "[kthreadd]"
			return cmd.Run()
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.ProcessExec, Path: realPath("/bin/sleep"), Args: []string{"[kthreadd]", "0"}}}
		}},
		{name: "names that are no text", do: func(dir string) error {
			return errors.Join(touch(dir+"/a\nb\xff\x1b[2J"), os.Remove(dir+"/a\nb\xff\x1b[2J"))
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{opened(dir+"/a\nb\xff\x1b[2J", made), {Type: trace.FileDelete, Path: dir + "/a\nb\xff\x1b[2J"}}
		}, check: func(t *testing.T, _ string, _ int, events []trace.Event) {
			for _, e := range events {
				if text, err := trace.AppendEvent(nil, e); err != nil || bytes.Count(bytes.TrimSpace(text), []byte("\n")) > 0 {
					t.Errorf("%q %v", text, err)
				}
			}
		}},
		{name: "openat2", do: func(string) error {
			at, err := unix.Open("sub", unix.O_PATH, 0)
			if err != nil {
				return err
			}
			_, err = unix.Openat2(at, "secret", &unix.OpenHow{Flags: unix.O_RDONLY, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
			return err
		}, sees: readSecret},
		{name: "a path that is opened again", do: func(string) error {
			at, err := unix.Open("sub/secret", unix.O_PATH, 0)
			if err != nil {
				return err
			}
			_, err = os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", at))
			return err
		}, sees: readSecret},
		{name: "through the root of a process", do: func(dir string) error {
			_, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/sub/secret", os.Getpid(), dir))
			return err
		}, sees: readSecret},
		{name: "through a link", do: func(dir string) error {
			if err := os.Symlink("sub/secret", "harmless"); err != nil {
				return err
			}
			_, err := os.ReadFile("harmless")
			return err
		}, sees: readSecret},
		{name: "through a further name", do: func(dir string) error {
			if err := os.Link("sub/secret", "harmless"); err != nil {
				return err
			}
			_, err := os.ReadFile("harmless")
			return err
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.FileLink, Path: dir + "/sub/secret", NewPath: dir + "/harmless"}, opened(dir+"/harmless", "read")}
		}},
		{name: "a further name for what is open", do: func(dir string) error {
			at, err := unix.Open("sub/secret", unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", at), unix.AT_FDCWD, "harmless", unix.AT_SYMLINK_FOLLOW)
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.FileLink, NewPath: dir + "/harmless"}}
		}},
		{name: "two files that change places", do: func(string) error {
			if err := touch("other"); err != nil {
				return err
			}
			return unix.Renameat2(unix.AT_FDCWD, "other", unix.AT_FDCWD, "sub/secret", unix.RENAME_EXCHANGE)
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{
				{Type: trace.FileRename, Path: dir + "/other", NewPath: dir + "/sub/secret"},
				{Type: trace.FileRename, Path: dir + "/sub/secret", NewPath: dir + "/other"},
			}
		}},
		{name: "a directory with another name", do: func(string) error {
			if err := os.Rename("sub", "lib"); err != nil {
				return err
			}
			_, err := os.ReadFile("lib/secret")
			return err
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.FileRename, Path: dir + "/sub", NewPath: dir + "/lib"}, opened(dir+"/lib/secret", "read")}
		}},
		{name: "vmsplice and splice", do: func(string) error {
			var p [2]int
			if err := unix.Pipe(p[:]); err != nil {
				return err
			}
			text := make([]byte, 4096)
			v := unix.Iovec{Base: &text[0], Len: 4096}
			if _, err := unix.Vmsplice(p[1], []unix.Iovec{v}, 0); err != nil {
				return err
			}
			f, err := os.Create("spliced")
			if err != nil {
				return err
			}
			_, err = unix.Splice(p[0], nil, int(f.Fd()), nil, 4096, 0)
			return err
		}, sees: func(dir string) []trace.Event { return []trace.Event{written(dir+"/spliced", 4096)} }},
		{name: "truncate", do: func(string) error { return os.Truncate("sub/secret", 0) }, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.FileOpen, Path: dir + "/sub/secret", Flags: "write,truncate", Method: "truncate"}}
		}},
		{name: "ftruncate and a hole", do: func(string) error {
			f, err := os.OpenFile("sub/secret", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4); err != nil {
				return err
			}
			return f.Truncate(0)
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{
				opened(dir+"/sub/secret", "read,write"),
				{Type: trace.FileOpen, Path: dir + "/sub/secret", Flags: "write,truncate", Method: "fallocate"},
				{Type: trace.FileOpen, Path: dir + "/sub/secret", Flags: "write,truncate", Method: "ftruncate"},
			}
		}},
		{name: "a mapping that is written to", do: func(string) error {
			f, err := os.OpenFile("sub/secret", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err == nil {
				copy(m, "hack")
			}
			return err
		}, sees: func(dir string) []trace.Event { return []trace.Event{opened(dir+"/sub/secret", "read,write")} },
			blind: "**Writes through `mmap`**",
			unseen: func(dir string) []trace.Event {
				return []trace.Event{{Type: trace.FileWrite, Path: dir + "/sub/secret"}}
			}},
		{name: "a file that one of the job hands another", do: func(string) error {
			f, err := os.OpenFile("sub/secret", os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
				return err
			}
			cmd := inside(nil, "receive")
			cmd.Args[0] = "hidden"
			cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "")}
			return cmd.Run()
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{opened(dir+"/sub/secret", "write"), written(dir+"/sub/secret", 5)}
		}, check: func(t *testing.T, dir string, root int, events []trace.Event) {
			for _, e := range events {
				if e.Type == trace.FileWrite && e.Path == dir+"/sub/secret" && e.PID == root {
					t.Error("not told of whoever wrote")
				}
			}
		}},
		{name: "a file from outside of the job", do: func(dir string) error {
			c, err := net.Dial("unix", filepath.Join(filepath.Dir(dir), "giver"))
			if err != nil {
				return err
			}
			f, err := c.(*net.UnixConn).File()
			if err != nil {
				return err
			}
			fd, err := receive(int(f.Fd()))
			if err != nil {
				return err
			}
			if _, err := unix.Read(fd, make([]byte, 4)); err != nil {
				return err
			}
			_, err = unix.Write(fd, []byte("hello"))
			return err
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.UnixConnect, Path: filepath.Join(filepath.Dir(dir), "giver")}, written(filepath.Join(filepath.Dir(dir), "given"), 5)}
		}, blind: "**Files that others have opened**", unseen: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.FileOpen, Path: filepath.Join(filepath.Dir(dir), "given")}}
		}},
		{name: "an open file of another process's", do: func(string) error {
			victim, err := staying()
			if err != nil {
				return err
			}
			defer victim.end()
			pidfd, err := unix.PidfdOpen(victim.cmd.Process.Pid, 0)
			if err != nil {
				return err
			}
			_, err = unix.PidfdGetfd(pidfd, 0, 0)
			return err
		}, sees: func(string) []trace.Event { return []trace.Event{{Type: trace.MemRead, Method: "pidfd_getfd"}} }, check: aimed},
		{name: "the memory of another process", do: func(string) error {
			victim, err := staying()
			if err != nil {
				return err
			}
			defer victim.end()
			pid := victim.cmd.Process.Pid
			text := []byte("x")
			if _, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &text[0], Len: 1}}, []unix.RemoteIovec{{Base: 8, Len: 1}}, 0); !errors.Is(err, unix.EFAULT) {
				return fmt.Errorf("process_vm_writev: %w", err)
			}
			f, err := os.OpenFile(fmt.Sprintf("/proc/%d/task/%d/mem", pid, pid), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			f.Close()
			runtime.LockOSThread()
			if err := unix.PtraceAttach(pid); err != nil {
				return err
			}
			if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
				return err
			}
			return unix.PtraceDetach(pid)
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.MemRead, Method: "process_vm_writev"}, {Type: trace.MemRead, Method: "proc_mem"}, {Type: trace.MemRead, Method: "ptrace"}}
		}, check: aimed},
		{name: "a socket by a link", do: func(dir string) error {
			l, err := net.Listen("unix", dir+"/engine.sock")
			if err != nil {
				return err
			}
			defer l.Close()
			if err := os.Symlink("engine.sock", "harmless"); err != nil {
				return err
			}
			c, err := net.Dial("unix", "harmless")
			if err == nil {
				c.Close()
			}
			return err
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.UnixConnect, Path: dir + "/engine.sock"}}
		}},
		{name: "a socket whose name is changed meanwhile", do: liar, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.UnixConnect, Path: dir + "/engine.sock"}}
		}, check: func(t *testing.T, dir string, _ int, events []trace.Event) {
			for _, e := range events {
				if e.Type == trace.UnixConnect && e.Path != dir+"/engine.sock" {
					t.Errorf("told of %q", e.Path)
				}
			}
		}},
		{name: "an abstract socket", do: func(dir string) error {
			l, err := net.Listen("unix", "@evade")
			if err != nil {
				return err
			}
			defer l.Close()
			c, err := net.Dial("unix", "@evade")
			if err == nil {
				c.Close()
			}
			return err
		}, sees: func(dir string) []trace.Event { return []trace.Event{{Type: trace.UnixConnect, Path: "@evade"}} }},
		{name: "a datagram to a socket's name", do: func(dir string) error {
			in, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/log", Net: "unixgram"})
			if err != nil {
				return err
			}
			defer in.Close()
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrUnix{Name: dir + "/log"})
		}, blind: "**Datagrams to sockets of the file system**", unseen: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.UnixConnect}}
		}},
		{name: "a shell that waits", do: func(string) error {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()
			l6, err := net.Listen("tcp", "[::]:0")
			if err != nil {
				return err
			}
			defer l6.Close()
			c, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			in, err := l.Accept()
			if err != nil {
				return err
			}
			in.Close()
			return os.WriteFile("ports", fmt.Appendf(nil, "%d %d", l.Addr().(*net.TCPAddr).Port, l6.Addr().(*net.TCPAddr).Port), 0o644)
		}, check: func(t *testing.T, dir string, _ int, events []trace.Event) {
			var p, p6 int
			text, err := os.ReadFile(dir + "/ports")
			if err == nil {
				_, err = fmt.Sscan(string(text), &p, &p6)
			}
			if err != nil {
				t.Fatal(err)
			}
			seen(t, events, trace.Event{Type: trace.NetListen, Address: "127.0.0.1", Port: p, Protocol: "tcp"})
			seen(t, events, trace.Event{Type: trace.NetListen, Address: "::", Port: p6, Protocol: "tcp"})
		}, blind: "**Who connects to a job**"},
		{name: "a port that nobody chose", do: func(string) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			return unix.Listen(fd, 1)
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.NetListen, Address: "0.0.0.0", Protocol: "tcp"}}
		}},
		{name: "datagrams that are waited for", do: func(string) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrInet4{Port: 40053, Addr: [4]byte{127, 0, 0, 3}})
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.NetListen, Address: "127.0.0.3", Port: 40053, Protocol: "udp"}}
		}},
		{name: "a datagram that is connected again", do: func(string) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			none := [16]byte{} // AF_UNSPEC
			for _, port := range []int{40001, 40002} {
				if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 4}}); err != nil {
					return err
				}
				if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), 16); errno != 0 {
					return errno
				}
			}
			return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 40003, Addr: [4]byte{127, 0, 0, 4}})
		}, sees: func(string) (all []trace.Event) {
			for _, port := range []int{40001, 40002, 40003} {
				all = append(all, trace.Event{Type: trace.NetConnect, Address: "127.0.0.4", Port: port, Protocol: "udp"})
			}
			return all
		}},
		{name: "many datagrams in one call", do: manyDatagrams, sees: func(string) (all []trace.Event) {
			for _, port := range []int{40011, 40012, 40013} {
				all = append(all, trace.Event{Type: trace.NetConnect, Address: "127.0.0.5", Port: port, Protocol: "udp"})
			}
			return all
		}},
		{name: "names by multicast", do: func(string) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			_ = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 5353, Addr: [4]byte{224, 0, 0, 251}}) // there may be no way there
			return nil
		}, sees: func(string) []trace.Event {
			return []trace.Event{{Type: trace.NetConnect, Address: "224.0.0.251", Port: 5353, Protocol: "udp"}}
		}},
		{name: "a socket to the host", do: func(string) error {
			fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				return fmt.Errorf("%w: its kernel has no vsock", errMissing)
			}
			_ = unix.Close(fd)
			return err
		}, sees: func(string) []trace.Event { return []trace.Event{{Type: trace.RawSocket, Method: "vsock"}} }},
		{name: "a call that is refused by a filter", do: func(string) error {
			runtime.LockOSThread()
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return err
			}
			// Every unlinkat fails with EACCES, and is not done.
			code := []unix.SockFilter{
				{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_UNLINKAT},
				{Code: unix.BPF_RET, K: 0x00050000 | uint32(unix.EACCES)}, {Code: unix.BPF_RET, K: 0x7fff0000},
			}
			program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
			if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
				return err
			}
			if err := unix.Unlinkat(unix.AT_FDCWD, "sub/secret", 0); !errors.Is(err, unix.EACCES) {
				return fmt.Errorf("unlinkat: %w", err)
			}
			return touch("after")
		}, sees: func(dir string) []trace.Event { return []trace.Event{opened(dir+"/after", made)} },
			check: func(t *testing.T, dir string, _ int, events []trace.Event) {
				notSeen(t, events, trace.Event{Type: trace.FileDelete})
			}},

		{name: "another cgroup from the start", root: true, do: func(dir string) error {
			at, err := os.ReadFile(dir + "/cgroup")
			if err != nil {
				return err
			}
			fd, err := unix.Open(string(at), unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			cmd := exec.Command("/bin/sh", "-c", "echo x > elsewhere")
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
			return cmd.Run()
		}, sees: func(dir string) []trace.Event {
			at, _ := os.ReadFile(dir + "/cgroup")
			return []trace.Event{{Type: trace.CgroupMove, Path: strings.TrimPrefix(string(at), cgroupMount())}, opened(dir+"/elsewhere", made)}
		}},
		{name: "a file by its handle", root: true, do: func(dir string) error {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "sub/secret", 0)
			if err != nil {
				return err
			}
			at, err := unix.Open(dir, unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			_, err = unix.OpenByHandleAt(at, h, unix.O_RDONLY)
			return err
		}, sees: readSecret},
		{name: "a tree that is mounted nowhere", root: true, do: func(dir string) error {
			return inside(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, "clone", dir+"/sub").Run()
		}, sees: func(dir string) []trace.Event {
			return []trace.Event{{Type: trace.Mount, Method: "open_tree", Source: dir + "/sub"}, opened("/secret", "read")}
		}},
		{name: "the number of a process that has ended", root: true, do: again, check: func(t *testing.T, dir string, _ int, events []trace.Event) {
			if n := len(like(events, opened(dir+"/sub/secret", "read"))); n != 2 {
				t.Errorf("%d processes read it, told of 2\n%s", n, show(events))
			}
		}},
	}
	// Kernels without CONFIG_PROC_KCORE have nothing to open there.
	if _, err := os.Stat("/proc/kcore"); err == nil {
		all = append(all, trick{name: "the kernel's memory", root: true, do: func(string) error {
			f, err := os.Open("/proc/kcore")
			if err == nil {
				f.Close()
			}
			return err
		}, sees: func(string) []trace.Event { return []trace.Event{opened("/proc/kcore", "read")} }})
	}
	return append(all, machineTricks()...)
}

// errMissing is what a trick needs and this machine lacks. It is an error where all is to be tried.
var errMissing = errors.New("this machine cannot play it")

const stormScript = `[ "$1" = 0 ] && exit 0; exec /bin/sh -c "$0" "$0" $(($1-1))`

func readSecret(dir string) []trace.Event { return []trace.Event{opened(dir+"/sub/secret", "read")} }

func realPath(path string) string {
	at, _ := filepath.EvalSymlinks(path)
	return at
}

// onlyRoot: everything is told of one process, which began and ended once.
func onlyRoot(t *testing.T, _ string, root int, events []trace.Event) {
	ends := 0
	for _, e := range events {
		if e.PID != root {
			t.Errorf("process %d: %+v", e.PID, e)
		}
		if e.Type == trace.ProcessExit {
			ends++
		}
	}
	if ends != 1 {
		t.Errorf("it ended %d times", ends)
	}
}

// aimed: at another process, whose name is told.
func aimed(t *testing.T, _ string, root int, events []trace.Event) {
	for _, e := range events {
		if e.Type == trace.MemRead && (e.Target == 0 || e.Target == root || e.PID != root) {
			t.Errorf("%+v", e)
		}
	}
}

func atLeast(t *testing.T, events []trace.Event, kind trace.Type, n int) {
	t.Helper()
	got := 0
	for _, e := range events {
		if e.Type == kind {
			got++
		}
	}
	if got < n {
		t.Errorf("%d of %d %s", got, n, kind)
	}
}

// like are the events that agree with one in every field that it has.
func like(events []trace.Event, want trace.Event) []trace.Event {
	var out []trace.Event
	w := reflect.ValueOf(want)
	for _, e := range events {
		v, same := reflect.ValueOf(e), true
		for i := range w.NumField() {
			same = same && (w.Field(i).IsZero() || reflect.DeepEqual(w.Field(i).Interface(), v.Field(i).Interface()))
		}
		if same {
			out = append(out, e)
		}
	}
	return out
}

func seen(t *testing.T, events []trace.Event, want trace.Event) {
	t.Helper()
	if len(like(events, want)) == 0 {
		t.Errorf("not seen: %s", show([]trace.Event{want}))
	}
}

func notSeen(t *testing.T, events []trace.Event, want trace.Event) {
	t.Helper()
	if found := like(events, want); len(found) > 0 {
		t.Errorf("seen: %s", show(found))
	}
}

// S0-20 S4-56: a job that does not want to be seen. What is told of each trick is in the table;
// what is not is in the documentation.
func TestEvasion(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/traces.md")
	if err != nil {
		t.Fatal(err)
	}
	_, cannot, _ := strings.Cut(string(doc), "## What cannot be seen")
	cannot, _, _ = strings.Cut(cannot, "\n## ")
	r := open(t, Options{Agent: "test"})
	t.Logf("missing: %v", r.Describe().Missing)
	for _, one := range tricks() {
		t.Run(strings.ReplaceAll(one.name, " ", "_"), func(t *testing.T) {
			dir := stage(t, one)
			who := "user"
			if one.root {
				who = "root"
			}
			j := start(t, "evade", one.name, dir, who)
			s := follow(t, r, j.cmd.Process.Pid)
			j.begin(t)
			j.in.Close()
			err := j.cmd.Wait()
			if err != nil && strings.Contains(j.out.String(), errMissing.Error()) && os.Getenv("CI") != "true" {
				t.Skip(strings.TrimSpace(j.out.String()))
			}
			events := collect(t, s)
			if err != nil {
				t.Fatalf("%v: %s", err, j.out)
			}
			if one.sees != nil {
				for _, e := range one.sees(dir) {
					seen(t, events, e)
				}
			}
			if one.check != nil {
				one.check(t, dir, j.cmd.Process.Pid, events)
			}
			if one.blind != "" && !strings.Contains(cannot, one.blind) {
				t.Errorf("docs/traces.md does not say %q", one.blind)
			}
			if one.unseen != nil {
				for _, e := range one.unseen(dir) {
					notSeen(t, events, e)
				}
			}
			notSeen(t, events, trace.Event{Type: trace.Dropped})
			if t.Failed() {
				t.Log(show(events))
			}
		})
	}
}

// stage is what a trick finds: a directory of the user's, and some without.
func stage(t *testing.T, one trick) string {
	t.Helper()
	top, err := os.MkdirTemp("", "evade") // where others may go, and short enough for sockets
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(top) })
		top, err = filepath.EvalSymlinks(top)
	}
	if err = errors.Join(err, os.Chmod(top, 0o755)); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "d")
	for _, d := range []string{dir, dir + "/sub", dir + "/jail", dir + "/world"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/sub/secret", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if mount := cgroupMount(); one.root && mount != "" {
		at, err := os.MkdirTemp(mount, "muster-evade-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = removeCgroup(at, time.Now().Add(time.Second)) })
		if err := os.WriteFile(dir+"/cgroup", []byte(at), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	give(t, top)
	if one.root {
		return dir
	}
	err = filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(p, somebody, somebody))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// give hands whoever connects a file that it cannot open.
func give(t *testing.T, dir string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "giver"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := errors.Join(os.Chmod(filepath.Join(dir, "giver"), 0o666), os.WriteFile(filepath.Join(dir, "given"), []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		f, err := os.OpenFile(filepath.Join(dir, "given"), os.O_RDWR, 0)
		if err != nil {
			return
		}
		defer f.Close()
		_, _, _ = c.(*net.UnixConn).WriteMsgUnix([]byte("x"), unix.UnixRights(int(f.Fd())), nil)
	}()
}

func receive(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, 0)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return 0, fmt.Errorf("no descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

func hiddenReceive([]string) error {
	fd, err := receive(3)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("hello"))
	return err
}

func hiddenChroot(args []string) error {
	if err := unix.Chroot(args[0]); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return errors.Join(touch("/x"), os.Rename("/x", "/../y"), os.Remove("/y"))
}

func hiddenPivot(args []string) error {
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", args[0], "tmpfs", 0, ""), os.Chdir(args[0]), os.Mkdir("old", 0o755),
		unix.PivotRoot(".", "old"), os.Chdir("/"), touch("/new"), os.Remove("/new"))
}

func hiddenName(args []string) error {
	runtime.LockOSThread()
	name := append([]byte(args[0]), 0)
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
		return err
	}
	return touch(args[1])
}

func hiddenStay([]string) error {
	fmt.Println("here")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func hiddenClone(args []string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, args[0], unix.OPEN_TREE_CLONE)
	if err != nil {
		return err
	}
	_, err = unix.Openat(fd, "secret", unix.O_RDONLY, 0)
	return err
}

// hiddenThreads has threads that all end at the same moment.
func hiddenThreads([]string) error {
	var at sync.WaitGroup
	for range 16 {
		at.Add(1)
		go func() {
			runtime.LockOSThread()
			at.Done()
			select {}
		}()
	}
	at.Wait()
	return nil // and exit_group ends them
}

// still is a process that stays until it is ended.
type still struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func staying() (*still, error) {
	cmd := inside(nil, "stay")
	cmd.Stdin, cmd.Stdout = nil, nil
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		return nil, err
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	return &still{cmd, in}, err
}

func (s *still) end() {
	s.in.Close()
	_ = s.cmd.Wait()
}

// beside runs a shell whose parent is not this process, and waits until it has ended.
func beside(attr *syscall.SysProcAttr, script string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	_, err = os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Files: []*os.File{nil, w, w}, Sys: attr})
	w.Close()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// liar connects to a socket and changes the name while the kernel waits for room in the
// queue of whoever listens.
func liar(dir string) error {
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(l, &unix.SockaddrUnix{Name: dir + "/engine.sock"}), unix.Listen(l, 0)); err != nil {
		return err
	}
	for { // until there is no room
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: dir + "/engine.sock"}); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			return err
		}
	}
	name := unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	put := func(path string) {
		for i := range len(path) + 1 {
			name.Path[i] = 0
			if i < len(path) {
				name.Path[i] = int8(path[i])
			}
		}
	}
	put(dir + "/engine.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	tid, done := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name)), unsafe.Sizeof(name))
		if errno != 0 {
			done <- errno
		}
		done <- nil
	}()
	if err := asleep(<-tid); err != nil {
		return err
	}
	put(dir + "/nothing")
	if _, _, err := unix.Accept(l); err != nil {
		return err
	}
	return <-done
}

// asleep waits until a thread of this process is in connect.
func asleep(tid int) error {
	want := strconv.Itoa(unix.SYS_CONNECT) + " "
	for range 5000 {
		at, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", tid))
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(at), want) {
			return nil
		}
		<-time.After(time.Millisecond)
	}
	return errors.New("the thread does not wait")
}

func manyDatagrams(string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	type message struct {
		unix.Msghdr
		n uint32
		_ uint32
	}
	text := []byte("x")
	v := unix.Iovec{Base: &text[0], Len: 1}
	var to [3]unix.RawSockaddrInet4
	var all [3]message
	for i := range all {
		port := 40011 + i
		to[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: uint16(port>>8 | port&0xff<<8), Addr: [4]byte{127, 0, 0, 5}}
		all[i].Name, all[i].Namelen, all[i].Iov, all[i].Iovlen = (*byte)(unsafe.Pointer(&to[i])), 16, &v, 1
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&all[0])), 3, 0, 0, 0)
	if errno != 0 || n != 3 {
		return fmt.Errorf("sendmmsg: %d, %w", n, errno)
	}
	return nil
}

// again has two processes read a file, of which the second has the number of the first.
func again(string) error {
	first := 0
	for range 200 {
		if first > 0 {
			if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", strconv.AppendInt(nil, int64(first-1), 10), 0); err != nil {
				return err
			}
		}
		// The shell tells its number and waits; only one that has the right one reads on.
		cmd := exec.Command("/bin/sh", "-c", `read go && [ -n "$go" ] && read secret < sub/secret`)
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if first == 0 || cmd.Process.Pid == first {
			if _, err := in.Write([]byte("go\n")); err != nil {
				return err
			}
		}
		in.Close()
		_ = cmd.Wait() // the file has no line end: read says no
		if cmd.Process.Pid == first {
			return nil
		}
		if first == 0 {
			first = cmd.Process.Pid
		}
	}
	return fmt.Errorf("%w: the number of a process did not come again", errMissing)
}
