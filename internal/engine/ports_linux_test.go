package engine

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
)

// A port that was found for the server is not given away before the server has it.
func TestReservedPorts(t *testing.T) {
	ports, release, err := reservePorts(4)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, port := range ports {
		if err := bindAny(port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("who asks for any port gets %d: %v", port, err)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Errorf("who asks for it does not: %v", err)
			continue
		}
		defer l.Close()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Errorf("nobody reaches it: %v", err)
			continue
		}
		conn.Close()
	}
	release()
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0])); err != nil {
		t.Errorf("after the release: %v", err)
	} else {
		c.Close()
	}
}

// bindAny asks for any port, of which there is but one.
func bindAny(port int) error {
	const ipLocalPortRange = 51 // ip(7), since Linux 6.3
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, ipLocalPortRange, port<<16|port); errors.Is(err, syscall.ENOPROTOOPT) {
		return fmt.Errorf("this kernel cannot say: %w", syscall.EADDRINUSE)
	} else if err != nil {
		return err
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
}
