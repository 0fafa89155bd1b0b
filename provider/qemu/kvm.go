//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A device named /dev/kvm is no proof that machines run fast: it may be emulated, may
// lack permission, or may fail at the first instruction that it does not know. So a
// machine of one page is run. Its firmware counts to six and a half million and then
// leaves through a debugging port: a processor that really virtualizes needs some ten
// milliseconds, QEMU's own translation some fifty, an emulated KVM seconds.

// probeTime is how long QEMU may take for it, its own start included.
const probeTime = 1200 * time.Millisecond

// probeExit is QEMU's exit code when the firmware got to its end: 2*0x21+1.
const probeExit = 0x43

// firmware is 64 KiB that end where the processor begins, 16 bytes before their end.
func firmware() []byte {
	rom := make([]byte, 64<<10)
	copy(rom, []byte{
		0xbb, 0x64, 0x00, // mov bx, 100
		0xb9, 0xff, 0xff, // again: mov cx, 65535
		0xe2, 0xfe, // loop $
		0x4b,       // dec bx
		0x75, 0xf8, // jnz again
		0xba, 0x01, 0x05, // mov dx, 0x501
		0xb0, 0x21, // mov al, 0x21
		0xee,       // out dx, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp hlt
	})
	copy(rom[len(rom)-16:], []byte{0xe9, 0x0d, 0x00}) // jmp to the beginning: 0xfff0 + 3 + 0x000d = 0x10000
	return rom
}

var probes sync.Map // of QEMU's path → error

// kvmWorks returns nil where KVM really runs machines, and in words why not
// otherwise. It looks once in the life of the program.
func kvmWorks(ctx context.Context, program string) error {
	if known, ok := probes.Load(program); ok {
		err, _ := known.(error)
		return err
	}
	err := probe(ctx, program, "kvm")
	if ctx.Err() == nil {
		if err == nil {
			probes.Store(program, true)
		} else {
			probes.Store(program, err)
		}
	}
	return err
}

func probe(ctx context.Context, program, accel string) error {
	if accel == "kvm" {
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return errors.New("this machine has no /dev/kvm")
		case err != nil:
			return fmt.Errorf("this user may not use KVM: %w", err)
		}
		f.Close()
	}
	dir, err := os.MkdirTemp("", "muster-kvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, firmware(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-M", "pc", "-accel", accel, "-m", "1M", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-bios", rom, "-device", "isa-debug-exit,iobase=0x501,iosize=1")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == probeExit:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("/dev/kvm is there and does not run a machine of ten instructions within %s: it is emulated", probeTime)
	}
	return fmt.Errorf("/dev/kvm is there and does not work: %w: %s", err, strings.TrimSpace(string(out)))
}
