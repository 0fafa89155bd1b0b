//go:build linux && (amd64 || arm64)

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uring connects without the system call: by a ring that the kernel reads.
func uring(to string) error {
	var params [120]byte // struct io_uring_params
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	at := func(i int) uint32 { return binary.NativeEndian.Uint32(params[i:]) }
	const sqOff, cqOff = 40, 80 // in the parameters
	sq, err := unix.Mmap(int(ring), 0, int(at(sqOff+24))+4*int(at(0)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	cq, err := unix.Mmap(int(ring), 0x8000000, int(at(cqOff+20))+16*int(at(4)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	entries, err := unix.Mmap(int(ring), 0x10000000, 64*int(at(0)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	a := netip.MustParseAddrPort(to)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], a.Port())

	entries[0] = 16 // IORING_OP_CONNECT
	binary.NativeEndian.PutUint32(entries[4:], uint32(fd))
	binary.NativeEndian.PutUint64(entries[8:], unix.SizeofSockaddrInet4) // off: the length
	binary.NativeEndian.PutUint64(entries[16:], uint64(uintptr(unsafe.Pointer(&sa))))
	binary.NativeEndian.PutUint32(sq[at(sqOff+24):], 0) // array[0]
	binary.NativeEndian.PutUint32(sq[at(sqOff+4):], 1)  // tail
	if _, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, 1, 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	if code := int32(binary.NativeEndian.Uint32(cq[at(cqOff+20)+8:])); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}
