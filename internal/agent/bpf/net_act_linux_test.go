//go:build linux && (amd64 || arm64)

package bpf

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// act is the job: it reads what to do, a line for each, and writes what came of it.
func act() {
	if once := os.Getenv(actVariable); once != "1" {
		fmt.Println(try(strings.Fields(once)))
		return
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(try(strings.Fields(lines.Text())))
	}
}

// errRefused is how an actor says EPERM.
const refused = "refused"

func try(words []string) string {
	what, err := perform(words[0], words[1:])
	switch {
	case err == nil:
		return strings.TrimSpace("ok " + what)
	case errors.Is(err, unix.EPERM):
		return refused
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}

func perform(what string, args []string) (string, error) {
	switch what {
	case "tcp":
		return "", tcp(args[0])
	case "nonblocking":
		return "", connectRaw(args[0], unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, false)
	case "mapped":
		return "", connectRaw(args[0], unix.SOCK_STREAM, 0, true)
	case "mptcp":
		return "", connectRaw(args[0], unix.SOCK_STREAM, 262, false)
	case "fastopen":
		return "", fastOpen(args[0])
	case "udp":
		return "", udp(args[0], false)
	case "udp-mapped":
		return "", udp(args[0], true)
	case "udp-connected":
		return "", connectRaw(args[0], unix.SOCK_DGRAM, 0, false)
	case "ping":
		return "", ping(args[0], unix.SOCK_DGRAM)
	case "icmp":
		return "", ping(args[0], unix.SOCK_RAW)
	case "raw":
		return "", raw(args[0])
	case "uring":
		return "", uring(args[0])
	case "packet":
		return "", packet(args[0])
	case "lookup":
		return lookup(args[0], args[1], args[2])
	case "fetch":
		return fetch(args[0], args[1])
	case "tls":
		return hello(args[0], args[1], 0)
	case "tls-mptcp":
		return sayBy(multipath, args[0], greeting(args[1], 0, 0)...)
	case "tls-long":
		return say(args[0], greeting(args[1], 0, 200)...)
	case "serve":
		in, err := net.Listen("tcp", args[0])
		if err == nil {
			go echo(in)
		}
		return "", err
	case "tls-split":
		return hello(args[0], args[1], 60)
	case "tls-records":
		return hello(args[0], args[1], -60)
	case "bytes":
		return say(args[0], []byte("GET / HTTP/1.0\r\n\r\n"))
	case "inherited":
		return "", inherited(args[0])
	case "cgroup":
		return "", intoCgroup(args[0])
	case "orphan":
		return orphan(args)
	case "storm":
		n, _ := strconv.Atoi(args[1])
		return storm(args[0], n)
	case "pour":
		n, _ := strconv.ParseInt(args[1], 10, 64)
		return pour(args[0], n)
	case "dns-gso":
		return "", dnsTogether(args[0], args[1:])
	case "serve53":
		return "", serve53(args[0], args[1])
	}
	return "", fmt.Errorf("no act %q", what)
}

func tcp(to string) error {
	c, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		return err
	}
	return c.Close()
}

func sockaddr(a netip.AddrPort, mapped bool) (int, unix.Sockaddr) {
	if a.Addr().Is4() && !mapped {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func connectRaw(to string, kind, protocol int, mapped bool) error {
	family, sa := sockaddr(netip.MustParseAddrPort(to), mapped)
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

func fastOpen(to string) error {
	family, sa := sockaddr(netip.MustParseAddrPort(to), false)
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, sa)
}

func udp(to string, mapped bool) error {
	family, sa := sockaddr(netip.MustParseAddrPort(to), mapped)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("hello"), 0, sa)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

func ping(to string, kind int) error {
	a := netip.MustParseAddr(to)
	family, sa := sockaddr(netip.AddrPortFrom(a, 0), false)
	protocol, m := unix.IPPROTO_ICMP, []byte{8, 0, 0, 0, 0, 1, 0, 1}
	if a.Is6() {
		protocol, m[0] = unix.IPPROTO_ICMPV6, 128
	} else {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, m, 0, sa)
}

// raw sends a UDP datagram whose headers it writes itself.
func raw(to string) error {
	a := netip.MustParseAddrPort(to)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, datagram(a), 0, &unix.SockaddrInet4{Addr: a.Addr().As4()})
}

func datagram(to netip.AddrPort) []byte {
	b := make([]byte, 33)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], []byte{192, 0, 2, 2})
	copy(b[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], 4444)
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
	return b
}

// packet puts a frame on the wire, below everything.
func packet(to string) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	link, err := net.InterfaceByName("job0")
	if err != nil {
		return err
	}
	sa := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return unix.Sendto(fd, datagram(netip.MustParseAddrPort(to)), 0, sa)
}

// exchange sends one query to a resolver.
func exchange(network, server, name string, kind dnsmessage.Type) (*dnsmessage.Message, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(time.Now().UnixNano()), RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}}}
	out, err := m.Pack()
	if err != nil {
		return nil, err
	}
	d := &net.Dialer{Timeout: patience}
	d.SetMultipathTCP(network == "mptcp")
	network = strings.TrimPrefix(network, "mp")
	network, pieces := strings.CutSuffix(network, "-split")
	c, err := d.Dial(network, net.JoinHostPort(server, "53"))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if network == "tcp" {
		out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
	}
	if pieces { // each is sent by itself: Go's connections do not wait for more
		if _, err := c.Write(out[:7]); err != nil {
			return nil, err
		}
		out = out[7:]
	}
	if _, err := c.Write(out); err != nil {
		return nil, err
	}
	in := make([]byte, 4096)
	if network == "tcp" {
		if _, err := io.ReadFull(c, in[:2]); err != nil {
			return nil, err
		}
		in = in[:binary.BigEndian.Uint16(in)]
		if _, err := io.ReadFull(c, in); err != nil {
			return nil, err
		}
	} else {
		k, err := c.Read(in)
		if err != nil {
			return nil, err
		}
		in = in[:k]
	}
	var answer dnsmessage.Message
	return &answer, answer.Unpack(in)
}

func lookup(network, server, name string) (string, error) {
	kind := dnsmessage.TypeA
	if strings.HasPrefix(name, "AAAA/") {
		kind, name = dnsmessage.TypeAAAA, name[5:]
	}
	m, err := exchange(network, server, name, kind)
	if err != nil {
		return "", err
	}
	var out []string
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA).String())
		}
	}
	if out == nil {
		return m.RCode.String(), nil
	}
	return strings.Join(out[max(0, len(out)-1):], ","), nil
}

// fetch looks a name up and connects to what it is told, at once.
func fetch(server, hostPort string) (string, error) {
	host, port, _ := net.SplitHostPort(hostPort)
	a, err := lookup("udp", server, host)
	if err != nil {
		return "lookup", err
	}
	return a, tcp(net.JoinHostPort(a, port))
}

// greeting is a ClientHello, cut into two if at is not 0: in two writes, or in two records.
// It offers so many protocols besides.
func greeting(name string, at, protocols int) [][]byte {
	var offered []string
	for i := range protocols {
		offered = append(offered, fmt.Sprintf("protocol-%04d", i))
	}
	var b bytes.Buffer
	ours, theirs := net.Pipe()
	go func() {
		_ = tls.Client(ours, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: offered}).Handshake() //nolint:gosec // it never ends
	}()
	head := make([]byte, 5)
	_, _ = io.ReadFull(theirs, head)
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, _ = io.ReadFull(theirs, body)
	_ = theirs.Close()
	switch {
	case at == 0:
		b.Write(head)
		b.Write(body)
		return [][]byte{b.Bytes()}
	case at > 0:
		b.Write(head)
		b.Write(body)
		return [][]byte{b.Bytes()[:at], b.Bytes()[at:]}
	}
	for _, part := range [][]byte{body[:-at], body[-at:]} {
		b.Write(head[:3])
		b.Write(binary.BigEndian.AppendUint16(nil, uint16(len(part))))
		b.Write(part)
	}
	return [][]byte{b.Bytes()}
}

func hello(to, name string, at int) (string, error) { return say(to, greeting(name, at, 0)...) }

// say sends parts and waits until as much has come back.
func say(to string, parts ...[]byte) (string, error) {
	return sayBy(&net.Dialer{Timeout: patience}, to, parts...)
}

// multipath dials MPTCP.
var multipath = func() *net.Dialer {
	d := &net.Dialer{Timeout: patience}
	d.SetMultipathTCP(true)
	return d
}()

func sayBy(d *net.Dialer, to string, parts ...[]byte) (string, error) {
	c, err := d.Dial("tcp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	total := 0
	for _, p := range parts {
		if _, err := c.Write(p); err != nil {
			return "", err
		}
		total += len(p)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, total)); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "", errors.New("silence")
		}
		return "", errors.New("cut")
	}
	return "", nil
}

// inherited uses a socket that somebody else has made: 3 is connected, 4 is not.
func inherited(to string) error {
	if to == "connected" {
		_, err := unix.Write(3, []byte("hello"))
		return err
	}
	_, sa := sockaddr(netip.MustParseAddrPort(to), false)
	return unix.Connect(4, sa)
}

func intoCgroup(dir string) error {
	return os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0)
}

// orphan does something in a session of its own by a process whose parent has ended.
func orphan(words []string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", "/proc/"+strconv.Itoa(os.Getpid())+"/exe & exit 0")
	cmd.Env = append(os.Environ(), actVariable+"="+strings.Join(words, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout = w
	err = cmd.Run()
	_ = w.Close()
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	out := strings.TrimSpace(string(text))
	if out == refused {
		return "", unix.EPERM
	}
	return out, err
}

// used is how many microseconds of CPU time this process has had.
func used() int64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return u.Utime.Nano()/1000 + u.Stime.Nano()/1000
}

// spent is the microseconds that went by since, and those of CPU time.
func spent(at time.Time, cpu int64) string {
	return fmt.Sprint(time.Since(at).Microseconds(), used()-cpu)
}

// storm connects so many times and tells what it took.
func storm(to string, n int) (string, error) {
	family, sa := sockaddr(netip.MustParseAddrPort(to), false)
	at, cpu := time.Now(), used()
	for range n {
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			return "", err
		}
		// It ends with a reset, so that ports do not run out.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		err = unix.Connect(fd, sa)
		_ = unix.Close(fd)
		if err != nil {
			return "", err
		}
	}
	return spent(at, cpu), nil
}

// pour sends so many bytes and tells what it took.
func pour(to string, n int64) (string, error) {
	c, err := net.Dial("tcp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 256<<10)
	at, cpu := time.Now(), used()
	for left := n; left > 0; left -= int64(len(b)) {
		if _, err := c.Write(b); err != nil {
			return "", err
		}
	}
	return spent(at, cpu), nil
}

// dnsTogether sends several queries as one send that the kernel cuts up (UDP_SEGMENT).
func dnsTogether(server string, names []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var all []byte
	size := 0
	for _, name := range names {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		b, err := m.Pack()
		if err != nil {
			return err
		}
		size = len(b)
		all = append(all, b...)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size); err != nil {
		return err
	}
	_, sa := sockaddr(netip.AddrPortFrom(netip.MustParseAddr(server), 53), false)
	return unix.Sendto(fd, all, 0, sa)
}

// serve53 answers in the place of the resolver: it sends, from the resolver's address, what
// would make an address allowed.
func serve53(resolver, name string) error {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
		Body:   &dnsmessage.AResource{A: netip.MustParseAddr(deniedAt).As4()},
	}}
	b, err := m.Pack()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 53, Addr: netip.MustParseAddr(resolver).As4()}); err != nil {
		return err
	}
	to, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer to.Close()
	return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Port: to.LocalAddr().(*net.UDPAddr).Port, Addr: [4]byte{127, 0, 0, 1}})
}
