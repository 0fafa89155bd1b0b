//go:build linux && (amd64 || arm64)

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// cut ends a connection whose greeting was refused, so that its process hears of it at
// once: the kernel alone could only drop what it sends until it gives up. One in another
// network namespace is not found, and gives up.
func (n *network) cut(h header, p peer, data []byte) {
	if len(data) < wireAt+selfAt+16 {
		return
	}
	self := netip.AddrPortFrom(netip.AddrFrom16([16]byte(data[wireAt+selfAt:])).Unmap(), uint16(h.A>>16))
	if err := destroy(self, netip.AddrPortFrom(p.address, p.port), h.Value); err != nil {
		n.r.log.Debug("cut a connection", "error", err)
	}
}

// destroy ends a TCP connection of this network namespace; the cookie makes sure that it
// is the one that is meant.
func destroy(self, peer netip.AddrPort, cookie uint64) error {
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // an IPv6 socket may have an IPv4 peer
		if family == unix.AF_INET && peer.Addr().Is6() {
			continue
		}
		err := diag(destroyRequest(family, self, peer, cookie))
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("end %s to %s: %w", self, peer, errors.Join(errs...))
}

// destroyRequest is a message of sock_diag: SOCK_DESTROY of one socket (struct
// inet_diag_req_v2).
func destroyRequest(family uint8, self, peer netip.AddrPort, cookie uint64) []byte {
	const size = unix.SizeofNlMsghdr + 8 + 48
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b, size)
	binary.NativeEndian.PutUint16(b[4:], 21) // SOCK_DESTROY
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], 0xffffffff) // in any state
	binary.BigEndian.PutUint16(r[8:], self.Port())
	binary.BigEndian.PutUint16(r[10:], peer.Port())
	put := func(at int, a netip.Addr) {
		if family == unix.AF_INET {
			copy(r[at:], a.AsSlice())
			return
		}
		b := a.As16()
		copy(r[at:], b[:])
	}
	put(12, self.Addr())
	put(28, peer.Addr())
	binary.NativeEndian.PutUint64(r[48:], cookie)
	return b
}

// diag sends one message to sock_diag and returns what the kernel says to it.
func diag(request []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return unix.EBADMSG
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
