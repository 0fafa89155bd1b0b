//go:build linux && (amd64 || arm64)

package bpf

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/trace"
)

// The matrix of docs/traces.md: one job that does everything once, and which kinds of
// events a machine makes of it. internal/tools/kernel-matrix.sh runs it on other
// kernels, and on this one with less.

// matrixTypes are the kinds that a recorder makes, in the order of the table.
var matrixTypes = []trace.Type{
	trace.ProcessExec, trace.ProcessExit, trace.FileOpen, trace.FileWrite, trace.FileDelete, trace.FileRename, trace.FileLink,
	trace.NetConnect, trace.NetListen, trace.DNSQuery, trace.TLSHello, trace.UnixConnect, trace.RawSocket,
	trace.MemRead, trace.BPFLoad, trace.ModuleLoad, trace.SetUID, trace.Mount, trace.CgroupMove, trace.IOUring, trace.Tamper,
}

// exerciseMatrix does everything once. What a machine refuses it does not do.
func exerciseMatrix(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, victim := args[0], args[1]
	at := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", at)
	if err != nil {
		return err
	}
	defer l.Close()
	abstract, err := net.Listen("unix", "@muster-matrix-"+strconv.Itoa(os.Getpid()))
	if err != nil {
		return err
	}
	defer abstract.Close()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		return err
	}
	if err := os.Link(at, filepath.Join(dir, "again")); err != nil {
		return err
	}
	run := func(flags uintptr, name string, args ...string) {
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), exerciseEnv+"="+name)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		in, err := cmd.StdinPipe()
		if err == nil {
			in.Close()
			cmd.Stderr = os.Stderr
			err = cmd.Run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, name, err)
		}
	}
	run(0, "files", dir)
	run(unix.CLONE_NEWNET, "network")
	run(0, "memory", victim)
	run(0, "sockets", at, abstract.Addr().String())
	run(0, "mount", dir)
	run(0, "kernel")
	run(0, "users")
	if len(args) > 2 {
		run(0, "escape", args[2])
	}
	run(0, "tamper", victim)
	return nil
}

// exerciseNetwork asks for a name, connects and says hello, all in a network of its own.
func exerciseNetwork([]string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	request := struct {
		name   [16]byte
		family uint16
		port   uint16
		at     [4]byte
		_      [16]byte
	}{family: unix.AF_INET, at: [4]byte{192, 0, 2, 1}}
	copy(request.name[:], "lo")
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("give lo an address: %w", errno)
	}
	up := struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}{flags: unix.IFF_UP}
	copy(up.name[:], "lo")
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&up))); errno != 0 {
		return fmt.Errorf("bring lo up: %w", errno)
	}
	dns, err := net.Dial("udp", "192.0.2.1:53")
	if err != nil {
		return err
	}
	// A question for example.org's A record.
	if _, err := dns.Write([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01")); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "192.0.2.1:443")
	if err != nil {
		return err
	}
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", "192.0.2.1:443")
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_ = tls.Client(c, &tls.Config{ServerName: "example.org"}).Handshake() // nobody answers it
	return nil
}

// TestMatrix prints a column of the table. It fails if an event is missing that the
// recorder does not say is.
func TestMatrix(t *testing.T) {
	victim := start(t, "stay")
	args := []string{t.TempDir(), strconv.Itoa(victim.cmd.Process.Pid)}
	if mount := cgroupMount(); mount != "" {
		if other, err := os.MkdirTemp(mount, "muster-bpf-test-"); err == nil {
			t.Cleanup(func() { _ = removeCgroup(other, time.Now().Add(time.Second)) })
			args = append(args, other)
		}
	}
	j := start(t, "matrix", args...)
	// The job keeps what rights it has; the recorder is to do with less.
	if only := os.Getenv("MUSTER_MATRIX_CAPABILITIES"); only != "" {
		keepCapabilities(t, only)
	}
	r, err := Open(Options{Protect: []int{victim.cmd.Process.Pid}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := r.Describe()
	seen := map[trace.Type]bool{}
	if d.Missing["all"] == "" {
		s := follow(t, r, j.cmd.Process.Pid)
		d = s.Describe()
		j.begin(t)
		j.finish(t)
		t.Log(j.out)
		for _, e := range collect(t, s) {
			seen[e.Type] = seen[e.Type] || e.Method != "running"
		}
		if len(args) < 3 {
			seen[trace.CgroupMove] = true // there is nothing to move between
		}
	}
	fmt.Printf("MATRIX kernel\t%s\n", d.Kernel)
	fmt.Printf("MATRIX scope\t%s\n", d.Scope)
	for _, kind := range append(slices.Clone(matrixTypes), "egress") {
		why := d.Missing[string(kind)]
		if why == "" {
			why = d.Missing["all"]
		}
		switch {
		case why != "":
			fmt.Printf("MATRIX %s\tno\t%s\n", kind, why)
		case seen[kind] || kind == "egress":
			fmt.Printf("MATRIX %s\tyes\n", kind)
		case kind == trace.ModuleLoad && !modules():
			fmt.Printf("MATRIX %s\tno\tthis kernel has no modules\n", kind)
		default:
			fmt.Printf("MATRIX %s\tmissed\n", kind)
			t.Errorf("%s was not told of, and not said to be missing", kind)
		}
	}
}

// keepCapabilities gives up all but those whose numbers are given, in every thread.
func keepCapabilities(t *testing.T, only string) {
	t.Helper()
	var data [2]unix.CapUserData
	for number := range strings.SplitSeq(only, ",") {
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		data[n/32].Effective |= 1 << (n % 32)
		data[n/32].Permitted |= 1 << (n % 32)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		t.Fatal(errno)
	}
}

func modules() bool {
	_, err := os.Stat("/proc/modules")
	return err == nil
}
