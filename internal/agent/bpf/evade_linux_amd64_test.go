package bpf

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

// machineTricks are those of this architecture: calls by the numbers of 32-bit programs,
// which every program may make.
func machineTricks() []trick {
	return []trick{{name: "calls of another kind", do: func(dir string) error {
		if err := os.WriteFile("old", oldCalls("old-made\x00"), 0o755); err != nil {
			return err
		}
		return exec.Command(dir + "/old").Run()
	}, sees: func(dir string) []trace.Event {
		return []trace.Event{{Type: trace.ProcessExec, Path: dir + "/old"}}
	}, check: func(t *testing.T, dir string, _ int, _ []trace.Event) {
		if text, err := os.ReadFile(dir + "/old-made"); err != nil || string(text) != "o" {
			t.Errorf("it did not write: %q, %v", text, err)
		}
	}, blind: "**32-bit calls.**", unseen: func(dir string) []trace.Event {
		return []trace.Event{{Type: trace.FileOpen, Path: dir + "/old-made"}, {Type: trace.FileWrite, Path: dir + "/old-made"}}
	}}}
}

// oldCalls is a 64-bit program that makes a file, writes the first byte of its name to it and ends, by
// int 0x80.
func oldCalls(path string) []byte {
	const base, begins = 0x10000, 64 + 56
	var code bytes.Buffer
	const size = 55
	at := func() uint32 { return base + begins + size }
	put := func(op byte, v uint32) {
		code.WriteByte(op)
		_ = binary.Write(&code, binary.LittleEndian, v)
	}
	const eax, ecx, edx, ebx = 0xb8, 0xb9, 0xba, 0xbb
	call := func() { code.Write([]byte{0xcd, 0x80}) }
	put(eax, 5)
	put(ebx, at())
	put(ecx, 0x42) // O_RDWR|O_CREAT
	put(edx, 0o600)
	call()
	code.Write([]byte{0x89, 0xc3}) // the descriptor
	put(eax, 4)
	put(ecx, at())
	put(edx, 1)
	call()
	put(eax, 1)
	code.Write([]byte{0x31, 0xdb})
	call()
	for code.Len() < size {
		code.WriteByte(0x90)
	}
	code.WriteString(path)
	var out bytes.Buffer
	out.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	_ = binary.Write(&out, binary.LittleEndian, struct {
		Kind, Machine                                      uint16
		Version                                            uint32
		Entry, Programs, Sections                          uint64
		Flags                                              uint32
		Size, ProgramSize, ProgramCount, _, _, _           uint16
		Type, Access                                       uint32
		Offset, Virtual, Physical, InFile, InMemory, Align uint64
	}{
		2, 62, 1, base + begins, 64, 0, 0, 64, 56, 1, 0, 0, 0,
		1, 5, 0, base, base, uint64(begins + code.Len()), uint64(begins + code.Len()), 0x1000,
	})
	out.Write(code.Bytes())
	return out.Bytes()
}
