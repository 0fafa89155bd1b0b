//go:build linux && (amd64 || arm64)

package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"github.com/muster-ci/muster/internal/trace"
)

// The types of events in the ring, as scope.h numbers them.
const (
	evExec = 1 + iota
	evExit
	evOpen
	evWrite
	evDelete
	evRename
	evMem
	evBPF
	evModule
	evSetUID
	evMount
	evCgroup
	evIOUring
	evSocket
	evUnix
	evTamper
	evFork
	evMkdir
	evLink
	evListen

	evNetFirst = 32
	evNetLast  = 47
)

// types are the types of events by number; those of net.c it has itself.
var types = map[uint16]trace.Type{
	evExec: trace.ProcessExec, evExit: trace.ProcessExit, evOpen: trace.FileOpen, evWrite: trace.FileWrite,
	evDelete: trace.FileDelete, evRename: trace.FileRename, evMem: trace.MemRead, evBPF: trace.BPFLoad,
	evModule: trace.ModuleLoad, evSetUID: trace.SetUID, evMount: trace.Mount, evCgroup: trace.CgroupMove,
	evIOUring: trace.IOUring, evSocket: trace.RawSocket, evUnix: trace.UnixConnect, evTamper: trace.Tamper,
	evFork:  "process_fork", // a process whose events are not seen
	evMkdir: "cgroup_mkdir",
	evLink:  trace.FileLink, evListen: trace.NetListen,
}

func typeOf(n uint16) trace.Type {
	if n >= evNetFirst && n <= evNetLast {
		return netType(n)
	}
	return types[n]
}

// header begins every event in the ring, as scope.h lays it out.
type header struct {
	Time, Start, ParentStart, Cgroup uint64
	Scope                            uint32
	Type, Flags                      uint16
	PID, TID, PPID, UID              uint32
	Comm                             [16]byte
	Value                            uint64
	A, B                             uint32
}

const headerSize = int(unsafe.Sizeof(header{}))

func parseHeader(raw []byte) header {
	var h header
	// No header has holes: this is its size in both languages.
	copy((*[headerSize]byte)(unsafe.Pointer(&h))[:], raw)
	return h
}

// The flags that headers of all types have in common, and that of a process whose
// number is its container's own.
const (
	flagTruncated = 1
	flagInside    = 2
)

// way says by which of several calls it was, as the type numbers them.
func (h *header) way() int { return int(h.Flags >> 8) }

// event begins a trace's event with what every header tells.
func (h *header) event(t trace.Type) trace.Event {
	return trace.Event{
		Type: t, PID: int(h.PID), Start: h.Start, PPID: int(h.PPID), ParentStart: h.ParentStart,
		UID: h.UID, Command: text(h.Comm[:]), Truncated: h.Flags&flagTruncated != 0,
	}
}

// text is what stands before the first NUL.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parts are what follows a header: the kernel says where the first four end.
func (h *header) parts(data []byte) [4][]byte {
	var parts [4][]byte
	from := 0
	for i, end := range [4]int{int(h.A & 0xffff), int(h.A >> 16), int(h.B & 0xffff), int(h.B >> 16)} {
		if end < from || end > len(data) {
			continue
		}
		parts[i] = data[from:end]
		from = end
	}
	return parts
}

// climb turns a path that was written leaf first, each name with its NUL, round.
func climb(part []byte) string {
	if len(part) == 0 {
		return "/"
	}
	out := make([]byte, len(part))
	for at := len(out); len(part) > 0; {
		n := bytes.IndexByte(part, 0)
		if n < 0 {
			n = len(part)
		}
		at -= n + 1
		if at < 0 {
			break // no NUL behind the last: the path was cut
		}
		out[at] = '/'
		copy(out[at+1:], part[:n])
		part = part[min(n+1, len(part)):]
	}
	return string(out)
}

// join resolves a path of the caller's against the directory that it began at.
func join(base []byte, name string) string {
	switch {
	case strings.HasPrefix(name, "/"): // from the root that the process had
		return path.Join(climb(base), path.Clean(name))
	case name == "":
		return climb(base)
	default:
		return path.Join(climb(base), name)
	}
}

// arguments splits what has a NUL behind each.
func arguments(b []byte) []string {
	b = bytes.TrimSuffix(b, []byte{0})
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\x00")
}

// decode turns an event of record.c into that of a trace. It returns false for one
// that makes no sense.
func decode(h header, data []byte) (trace.Event, bool) {
	e := h.event(types[h.Type])
	p := h.parts(data)
	switch h.Type {
	case evExec:
		e.Path, e.Dir, e.Args = climb(p[0]), climb(p[1]), trace.RedactArgs(arguments(p[2]))
	case evExit:
		return decodeExit(e, h, data)
	case evOpen:
		decodeOpen(&e, h, p)
	case evWrite:
		e.Path, e.Bytes = climb(p[0]), int64(h.Value)
	case evDelete:
		e.Path = join(p[0], text(p[1]))
	case evRename, evLink:
		e.Path, e.NewPath = join(p[0], text(p[1])), join(p[2], text(p[3]))
	case evMem:
		e.Method, e.Target = memMethods[h.Value>>32], int(uint32(h.Value))
		if len(p[0]) > 0 {
			e.Path, e.TargetCommand = climb(p[0]), text(p[1])
		}
	case evBPF:
		return decodeBPF(e, h, data), true
	case evModule:
		if len(p[0]) > 0 {
			e.Path = climb(p[0])
			e.Name = moduleName(e.Path)
		}
	case evSetUID:
		e.TargetUID = uint32(h.Value)
	case evMount:
		if h.way() == 1 { // mounted nowhere
			e.Method, e.Source = "open_tree", join(p[0], text(p[1]))
			break
		}
		e.Path, e.Source, e.FileSystem = join(p[0], text(p[1])), trace.RedactText(text(p[2])), text(p[3])
	case evCgroup:
		e.Path = text(p[0])
	case evIOUring:
	case evSocket:
		decodeSocket(&e, h)
	case evListen:
		return decodeListen(e, h, data)
	case evUnix:
		e.Path = unixPath(p[0], p[1])
	case evTamper:
		e.Method, e.Target, e.Signal = "signal", int(uint32(h.Value)), int(h.A)
	default:
		return trace.Event{}, false
	}
	return e, true
}

// decodeExit reads what process.h calls struct exit.
func decodeExit(e trace.Event, h header, data []byte) (trace.Event, bool) {
	if len(data) < 32 {
		return trace.Event{}, false
	}
	at := func(i int) int64 { return int64(binary.LittleEndian.Uint64(data[8*i:])) }
	e.DurationUS = int64(h.Value / 1000)
	e.CPUUS = at(0) / 1000
	e.MemoryKiB = at(1) * int64(pageSize/1024)
	e.ReadBytes, e.WrittenBytes = at(2), at(3)
	if e.Signal = int(h.A & 0x7f); e.Signal == 0 {
		e.ExitCode = int(h.A >> 8 & 0xff)
	}
	return e, true
}

// openMethods are the ways to change a file without a write, as file.h numbers them.
var openMethods = [4]string{"", "truncate", "ftruncate", "fallocate"}

func decodeOpen(e *trace.Event, h header, p [4][]byte) {
	e.Path = climb(p[0])
	way := h.way() & 3
	switch e.Method = openMethods[way]; way {
	case 0:
		e.Flags = openFlags(uint32(h.Value))
		return
	case 1:
		e.Path = join(p[0], text(p[1]))
	}
	e.Flags = "write,truncate"
}

// decodeListen reads what socket.h calls struct listening.
func decodeListen(e trace.Event, h header, data []byte) (trace.Event, bool) {
	if len(data) < 16 {
		return trace.Event{}, false
	}
	e.Truncated = false
	e.Address = netip.AddrFrom16([16]byte(data)).Unmap().String()
	e.Port, e.Protocol = int(h.Value), protocol(h.A)
	return e, true
}

// openFlags puts open(2)'s flags into words, in the order that trace.Event documents.
func openFlags(f uint32) string {
	var words []string
	add := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	access := f & 3
	add(access == 0 || access == 2, "read")
	add(access == 1 || access == 2, "write")
	add(f&0o100 != 0, "create")
	add(f&0o1000 != 0, "truncate")
	add(f&0o2000 != 0, "append")
	return strings.Join(words, ",")
}

// memMethods are the ways into a process's memory, as file.h numbers them.
var memMethods = map[uint64]string{
	1: "proc_mem", 2: "proc_environ", 3: "process_vm_readv", 4: "process_vm_writev", 5: "ptrace", 7: "pidfd_getfd",
}

// bpfMethods are the commands of bpf(2) that are told of.
var bpfMethods = map[uint64]string{5: "prog_load", 8: "prog_attach", 9: "prog_detach", 28: "link_create", 29: "link_update", 34: "link_detach"}

// decodeBPF makes it tampering if it was aimed at what is attached, or at the
// recorder's own.
func decodeBPF(e trace.Event, h header, data []byte) trace.Event {
	e.Truncated = false
	switch h.A {
	case 2:
		e.Type, e.Method = trace.Tamper, "bpf_detach"
		return e
	case 3:
		e.Type, e.Method = trace.Tamper, "bpf_open"
		return e
	}
	e.Method = bpfMethods[h.Value]
	if h.Value == 5 {
		e.Name = text(data)
	}
	return e
}

// moduleName is how the kernel calls the module of a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// decodeSocket says what kind of socket it is, in Method, and its protocol.
func decodeSocket(e *trace.Event, h header) {
	switch h.A {
	case 17:
		e.Method = "packet"
	case 40:
		e.Method = "vsock"
	case 44:
		e.Method = "xdp"
	default:
		e.Method = "raw"
		e.Protocol = protocol(h.B)
	}
}

// protocol names a protocol of the internet's.
func protocol(n uint32) string {
	switch n {
	case 1, 58:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(int(n))
}

// unixPath is the path of a socket; an abstract name has an @ in front.
func unixPath(base, name []byte) string {
	if len(name) > 0 && name[0] == 0 {
		return "@" + strings.TrimRight(string(name[1:]), "\x00")
	}
	return join(base, text(name))
}
