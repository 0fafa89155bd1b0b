//go:build linux && (amd64 || arm64)

package bpf

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/trace"
)

// The test's own binary is the job, too: with this variable it does what it is told.
const actVariable = "MUSTER_TEST_NET_ACT"

func init() {
	if os.Getenv(actVariable) != "" {
		act()
		os.Exit(0)
	}
}

// lab is two network namespaces with a wire between them: one for the job, and one that
// is the rest of the world.
type lab struct {
	t          testing.TB
	job, world int // namespaces
	resolv     string
	names      map[string][]netip.Addr
	mu         sync.Mutex
	asked      []string
	closers    []func()
}

// The addresses of the world.
const (
	resolverAt = "192.0.2.53"
	allowedAt  = "192.0.2.80"
	deniedAt   = "192.0.2.81"
	freeAt     = "192.0.2.90" // allowed by its address
	metadataAt = "169.254.169.254"
	allowed6   = "2001:db8::80"
	denied6    = "2001:db8::81"
)

func newLab(t testing.TB) *lab { return makeLab(t, false) }

// makeLab makes one. With here, the job is in the network namespace of this process, which
// must be nobody else's.
func makeLab(t testing.TB, here bool) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	l := &lab{t: t, names: map[string][]netip.Addr{
		"allowed.test":      {netip.MustParseAddr(allowedAt), netip.MustParseAddr(allowed6)},
		"a.wild.test":       {netip.MustParseAddr("192.0.2.82")},
		"ported.test":       {netip.MustParseAddr("192.0.2.83")},
		"rebind.test":       {netip.MustParseAddr(metadataAt)},
		"evil.test":         {netip.MustParseAddr(deniedAt), netip.MustParseAddr(denied6)},
		"x.tunnel.test":     {netip.MustParseAddr(deniedAt)},
		"cname.test":        {netip.MustParseAddr("192.0.2.84")},
		"many.wild.test":    manyAddresses(),
		"LONG.allowed.test": {netip.MustParseAddr("192.0.2.85")},
	}}
	if here {
		l.job = l.own()
	} else {
		l.job = l.namespace()
	}
	l.world = l.namespace()
	l.in(l.world, func() {
		l.run("ip", "link", "set", "lo", "up")
		l.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "job0")
		// A namespace is named by a thread that is in it.
		l.run("ip", "link", "set", "out0", "up")
		for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
			l.run("ip", "addr", "add", a, "dev", "out0", "nodad")
		}
		for _, a := range []string{resolverAt, allowedAt, deniedAt, freeAt, "192.0.2.82", "192.0.2.83", "192.0.2.84", "192.0.2.85", "192.0.2.149", metadataAt} {
			l.run("ip", "addr", "add", a+"/32", "dev", "lo")
		}
		for _, a := range []string{allowed6, denied6} {
			l.run("ip", "addr", "add", a+"/128", "dev", "lo", "nodad")
		}
	})
	l.move("job0")
	l.in(l.job, func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
			t.Error(err)
		}
		l.run("ip", "link", "set", "lo", "up")
		l.run("ip", "link", "set", "job0", "up")
		l.run("ip", "addr", "add", "192.0.2.2/24", "dev", "job0")
		l.run("ip", "addr", "add", "2001:db8::2/64", "dev", "job0", "nodad")
		l.run("ip", "route", "add", "default", "via", "192.0.2.1")
		for _, a := range []string{resolverAt, allowedAt, deniedAt, freeAt} {
			l.run("ip", "route", "add", a, "via", "192.0.2.1")
		}
		for _, a := range []string{allowed6, denied6} {
			l.run("ip", "-6", "route", "add", a, "via", "2001:db8::1")
		}
		for _, a := range []string{"192.0.2.82", "192.0.2.83", "192.0.2.84", "192.0.2.85", "192.0.2.149"} {
			l.run("ip", "route", "add", a, "via", "192.0.2.1")
		}
	})
	l.resolv = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(l.resolv, []byte("nameserver "+resolverAt+"\nsearch corp.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.serve()
	t.Cleanup(l.close)
	return l
}

func manyAddresses() []netip.Addr {
	var out []netip.Addr
	for i := range 50 {
		out = append(out, netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}))
	}
	return out
}

// namespace makes a network namespace and returns it open.
func (l *lab) namespace() int {
	l.t.Helper()
	var fd int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // its thread ends with it
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	}()
	<-done
	if err != nil {
		l.t.Fatalf("make a network namespace: %v", err)
	}
	return fd
}

// own is the namespace of this process, before any of its threads is in another.
func (l *lab) own() int {
	l.t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	return fd
}

// in runs f in a namespace.
func (l *lab) in(ns int, f func()) {
	l.t.Helper()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err == nil {
			f()
		}
	}()
	<-done
	if err != nil {
		l.t.Fatalf("enter a network namespace: %v", err)
	}
}

// move gives a link of the world to the job.
func (l *lab) move(name string) {
	held, release := make(chan int), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(l.job, unix.CLONE_NEWNET); err != nil {
			l.t.Error(err)
		}
		held <- unix.Gettid()
		<-release
	}()
	tid := <-held
	l.in(l.world, func() { l.run("ip", "link", "set", name, "netns", fmt.Sprint(tid)) })
	close(release)
}

func (l *lab) run(name string, args ...string) {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// serve answers to everything on the ports 22, 80, 443 and 8443, and to names.
func (l *lab) serve() {
	l.in(l.world, func() {
		for _, port := range []int{22, 80, 443, 8443} {
			in, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
			if err != nil {
				l.t.Error(err)
				continue
			}
			l.closers = append(l.closers, func() { in.Close() })
			go echo(in)
		}
		sink, err := net.Listen("tcp", "[::]:9")
		if err != nil {
			l.t.Error(err)
			return
		}
		l.closers = append(l.closers, func() { sink.Close() })
		go swallow(sink)
		for _, a := range []string{resolverAt, freeAt} {
			in, err := net.ListenPacket("udp", net.JoinHostPort(a, "53"))
			if err != nil {
				l.t.Error(err)
				continue
			}
			l.closers = append(l.closers, func() { in.Close() })
			go l.resolve(in)
		}
		in, err := net.Listen("tcp", "0.0.0.0:53")
		if err != nil {
			l.t.Error(err)
			return
		}
		l.closers = append(l.closers, func() { in.Close() })
		go l.resolveTCP(in)
	})
}

func echo(in net.Listener) {
	for {
		c, err := in.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func swallow(in net.Listener) {
	b := make([]byte, 256<<10)
	for {
		c, err := in.Accept()
		if err != nil {
			return
		}
		for err == nil {
			_, err = c.Read(b)
		}
		c.Close()
	}
}

func (l *lab) resolve(in net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := in.ReadFrom(b)
		if err != nil {
			return
		}
		if out := l.answer(b[:n]); out != nil {
			_, _ = in.WriteTo(out, from)
		}
	}
}

func (l *lab) resolveTCP(in net.Listener) {
	for {
		c, err := in.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				var n [2]byte
				if _, err := io.ReadFull(c, n[:]); err != nil {
					return
				}
				b := make([]byte, binary.BigEndian.Uint16(n[:]))
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				out := l.answer(b)
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
			}
		}()
	}
}

// answer is the world's resolver.
func (l *lab) answer(b []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(b) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	l.mu.Lock()
	l.asked = append(l.asked, name)
	l.mu.Unlock()
	m.Response, m.Additionals = true, nil
	addresses := l.names[name]
	if addresses == nil {
		addresses = l.names[trace.CleanName(name)]
	}
	if addresses == nil {
		m.RCode = dnsmessage.RCodeNameError
	}
	owner := q.Name
	if name == "cname.test" {
		owner = dnsmessage.MustNewName("somewhere.else.example.")
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.CNAMEResource{CNAME: owner},
		})
	}
	for _, a := range addresses {
		h := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: 60}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// wasAsked reports whether a name came as far as the resolver.
func (l *lab) wasAsked(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.asked, name)
}

func (l *lab) close() {
	for _, c := range l.closers {
		c()
	}
	_ = unix.Close(l.job)
	_ = unix.Close(l.world)
}

// actor is a process that does what it is told: a job, or a bystander.
type actor struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts one in the job's network namespace.
func (l *lab) start(files ...*os.File) *actor {
	l.t.Helper()
	a := &actor{t: l.t, cmd: exec.Command("/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), actVariable+"=1")
	a.cmd.Stderr = os.Stderr
	a.cmd.ExtraFiles = files
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		l.t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	a.out = bufio.NewScanner(out)
	l.in(l.job, func() { err = a.cmd.Start() })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { a.end() })
	return a
}

func (a *actor) end() {
	_ = a.in.Close()
	_ = a.cmd.Wait()
}

// do has it do one thing and returns what came of it: "ok …" or an error.
func (a *actor) do(words ...string) string {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.in, strings.Join(words, " ")); err != nil {
		a.t.Fatalf("%v: %v", words, err)
	}
	if !a.out.Scan() {
		a.t.Fatalf("%v: the actor has ended: %v", words, a.out.Err())
	}
	return a.out.Text()
}

// watched is a scope and what it told.
type watched struct {
	t      testing.TB
	scope  *Scope
	mu     sync.Mutex
	events []trace.Event
	done   chan struct{}
}

func watch(t testing.TB, r *Recorder, a *actor, policy trace.Egress) *watched {
	t.Helper()
	s, err := r.Follow(t.Context(), Follow{Root: a.cmd.Process.Pid, Egress: policy})
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, scope: s, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for batch := range s.Events() {
			w.mu.Lock()
			w.events = append(w.events, batch...)
			w.mu.Unlock()
		}
	}()
	return w
}

// end closes the scope and returns all events.
func (w *watched) end() []trace.Event {
	w.t.Helper()
	if err := w.scope.Close(); err != nil {
		w.t.Error(err)
	}
	<-w.done
	if testing.Verbose() {
		for _, e := range w.events {
			if netEvent(e) {
				text, _ := json.Marshal(e)
				w.t.Logf("%s", text)
			}
		}
	}
	return w.events
}

func netEvent(e trace.Event) bool {
	switch e.Type {
	case trace.NetConnect, trace.DNSQuery, trace.TLSHello, trace.RawSocket, trace.Dropped:
		return true
	}
	return false
}

// find returns the events that are like this one in every field that it has.
func find(events []trace.Event, like trace.Event) []trace.Event {
	var out []trace.Event
	for _, e := range events {
		if e.Type == like.Type && (like.Address == "" || e.Address == like.Address) && (like.Port == 0 || e.Port == like.Port) &&
			(like.Hostname == "" || e.Hostname == like.Hostname) && (like.Verdict == "" || e.Verdict == like.Verdict) &&
			(like.Protocol == "" || e.Protocol == like.Protocol) && (like.Method == "" || e.Method == like.Method) &&
			(like.QueryType == "" || e.QueryType == like.QueryType) {
			out = append(out, e)
		}
	}
	return out
}

func openRecorder(t testing.TB, l *lab, more ...func(*Options)) *Recorder {
	t.Helper()
	o := Options{Agent: "test"}
	o.ResolvConf, o.Hosts = []string{l.resolv}, "/dev/null"
	o.Always = []string{"192.0.2.149:8443"}
	o.NSSwitch = "/dev/null"
	for _, m := range more {
		m(&o)
	}
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if d := r.Describe(); len(d.Missing) > 0 {
		t.Fatalf("this machine cannot record everything: %v", d.Missing)
	}
	return r
}

// patience is how long an actor waits for anything.
const patience = 2 * time.Second

func mkdir(dir string) error { return os.Mkdir(dir, 0o755) }

// sockets are two that were made by somebody else: one connected, one not.
func (l *lab) sockets(to string) (connected, fresh *os.File) {
	l.t.Helper()
	l.in(l.job, func() {
		c, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			l.t.Error(err)
			return
		}
		defer c.Close()
		if connected, err = c.(*net.TCPConn).File(); err != nil {
			l.t.Error(err)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			l.t.Error(err)
		}
		fresh = os.NewFile(uintptr(fd), "socket")
	})
	if l.t.Failed() {
		l.t.FailNow()
	}
	return connected, fresh
}
