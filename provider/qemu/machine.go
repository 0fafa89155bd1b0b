//go:build linux

package qemu

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
)

// shape is all that decides what devices and memory a machine has. A machine's saved
// state fits machines of the same shape only.
type shape struct {
	CPUs      int    `json:"cpus"`
	MemoryMiB int64  `json:"memory_mib"`
	Accel     string `json:"accel"`
	Disk      bool   `json:"disk"`
}

// run is one start of QEMU.
type run struct {
	shape
	dir   string // where QEMU works
	tag   string
	image Image
	// disk is a qcow2 file, "" for the image's. keep writes the changes to it;
	// otherwise they are gone with QEMU.
	disk string
	keep bool
	// memory is the file of a template: made by the machine (share) or mapped
	// privately. "" has memory without a file.
	memory string
	share  bool
	// incoming waits for the saved state of a template in this file.
	incoming *os.File
	tap, mac string
}

// kernelLine is what the kernel is told; none of it is secret.
const kernelLine = "console=ttyS0 loglevel=4 panic=-1 reboot=t no_timer_check random.trust_cpu=on i8042.noaux i8042.nokbd cryptomgr.notests rcupdate.rcu_expedited=1 net.ifnames=0"

// Files that QEMU inherits.
const (
	fdState = 3 + iota
	fdBoot
	fdBootHost
	fdEvents
	fdEventsHost
)

func (r run) arguments() []string {
	// Translated, a fast copy of strings is one byte at a time, and QEMU 7.2 gets cmpxchg16b
	// wrong at times, upon which the kernel stops.
	cpu := "max,-erms,-cx16"
	accel := "tcg,thread=multi,tb-size=64"
	if r.Accel == "kvm" {
		cpu, accel = "host", "kvm"
	}
	args := []string{
		"-name", r.tag, "-M", "q35,vmport=off,smbus=off", "-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(r.CPUs), "-m", fmt.Sprintf("%dM", r.MemoryMiB),
		"-nodefaults", "-no-user-config", "-nographic", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		// Opened for appending, so that whoever shortens the file has shortened it.
		"-chardev", "file,id=console,path=" + consoleFile + ",append=on", "-serial", "chardev:console", "-monitor", "none",
		"-chardev", "socket,id=qmp,path=" + qmpSocket + ",server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		// A second monitor that nobody reads: what it says lands in a file, so that the
		// reason of an end is known to whoever looks later.
		"-chardev", fmt.Sprintf("socket,id=events,fd=%d,logfile=%s", fdEvents, eventsFile), "-mon", "chardev=events,mode=control",
		"-device", "virtio-serial-pci,id=ports,max_ports=4",
		"-chardev", fmt.Sprintf("socket,id=boot,fd=%d", fdBoot), "-device", "virtserialport,bus=ports.0,nr=1,chardev=boot,id=boot,name=" + guest.BootPort,
		"-chardev", "socket,id=agent,path=" + agentSocket + ",server=on,wait=off", "-device", "virtserialport,bus=ports.0,nr=2,chardev=agent,id=agent,name=" + guest.AgentPort,
	}
	line := kernelLine
	if r.Accel == "tcg" {
		// The counter of the processor is the host's, and its speed is measured at boot
		// against a clock of QEMU's: on a busy host, the measure is several times wrong,
		// and every copy of a template would live at that speed.
		line += " clocksource=hpet tsc=unstable"
	}
	if r.memory != "" {
		share := "off"
		if r.share {
			share = "on"
		}
		args = append(args, "-object", fmt.Sprintf("memory-backend-file,id=ram0,size=%dM,share=%s,mem-path=%s", r.MemoryMiB, share, escape(r.memory)), "-machine", "memory-backend=ram0")
	}
	if r.Disk {
		snapshot := "on"
		if r.keep {
			snapshot = "off"
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,snapshot=%s,file=%s", snapshot, escape(cmp.Or(r.disk, r.image.path(diskPart)))),
			"-device", "virtio-blk-pci,drive=disk,id=disk0")
		line += " muster.root=vda"
	}
	if r.tap != "" {
		args = append(args, "-netdev", "tap,id=net,ifname="+escape(r.tap)+",script=no,downscript=no", "-device", "virtio-net-pci,netdev=net,mac="+r.mac+",romfile=")
	}
	if r.share {
		line += " " + guest.TemplateWord
	}
	if r.incoming != nil {
		// The kernel runs already. QEMU would read it and the initrd, and keep both.
		return append(args, "-incoming", "defer")
	}
	return append(args, "-kernel", r.image.path(kernelPart), "-initrd", r.image.path(initrdPart), "-append", line)
}

// escape doubles the commas of a value, as QEMU's options want it.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// launched is a QEMU that was just started, and our end of its boot port.
type launched struct {
	process *os.Process
	id      proc.Process
	boot    *os.File
}

// spawn starts QEMU in a session of its own. It lives through the end of this program.
func (p *Provider) spawn(r run) (l launched, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return l, err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(r.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return l, err
	}
	defer log.Close()
	bootQEMU, boot, err := pair()
	if err != nil {
		return l, err
	}
	defer bootQEMU.Close()
	eventsQEMU, events, err := pair()
	if err != nil {
		return l, errors.Join(err, boot.Close())
	}
	defer eventsQEMU.Close()
	defer events.Close()
	if _, err = events.WriteString(`{"execute":"qmp_capabilities"}` + "\n"); err != nil {
		return l, errors.Join(err, boot.Close())
	}
	state := r.incoming
	if state == nil {
		state = null
	}
	l.process, err = os.StartProcess(p.program, append([]string{p.program}, r.arguments()...), &os.ProcAttr{
		Dir: r.dir,
		// TMPDIR is where QEMU puts the disk's changes, into a file without a name.
		Env: []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + r.dir, "HOME=" + r.dir, instancedir.Tag + "=" + r.tag},
		// QEMU holds both ends of the boot port and of the events: what is written to
		// them waits for its reader also when this program has ended.
		Files: []*os.File{null, log, log, state, bootQEMU, boot, eventsQEMU, events},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return l, errors.Join(fmt.Errorf("start QEMU: %w", err), boot.Close())
	}
	l.boot = boot
	l.id, err = proc.Read(l.process.Pid) // our child, and nobody waits for it: it is there, if only as a zombie
	if err != nil {
		l.end()
	}
	return l, err
}

// end kills a QEMU that was just started.
func (l launched) end() {
	_ = l.boot.Close()
	_ = l.process.Kill()
	_, _ = l.process.Wait() // no zombie stays
}

// release lets QEMU go its own way.
func (l launched) release() {
	_ = l.boot.Close()
	_ = l.process.Release() // never fails for a process that nobody waited for
}

// pair returns two connected sockets.
func pair() (a, b *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// restore loads a template's state into a machine that waits for it, and lets it run.
func restore(ctx context.Context, m *monitor) error {
	if err := m.ignoreShared(ctx); err != nil {
		return err
	}
	if _, err := m.do(ctx, "migrate-incoming", map[string]string{"uri": fmt.Sprintf("fd:%d", fdState)}); err != nil {
		return err
	}
	return m.migrated(ctx)
}

// newSeed returns fresh random bytes for a machine.
func newSeed() []byte {
	seed := make([]byte, guest.SeedBytes)
	_, _ = rand.Read(seed) // never fails
	return seed
}

// newMAC returns an address that is locally administered.
func newMAC() string {
	b := make([]byte, 5)
	_, _ = rand.Read(b) // never fails
	h := hex.EncodeToString(b)
	return "02:" + h[0:2] + ":" + h[2:4] + ":" + h[4:6] + ":" + h[6:8] + ":" + h[8:10]
}

// howEnded reads from what QEMU left why it ended; "" if that is not known.
func howEnded(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, eventsFile)) // none is as good as empty
	reason := ""
	for line := range bytes.Lines(text) {
		var e event
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		switch e.Name {
		case "SHUTDOWN":
			reason = map[string]string{
				"guest-shutdown": "the machine powered itself off",
				"guest-reset":    "the machine reset itself: its kernel or its first process failed",
				"guest-panic":    "the machine's kernel failed",
				"host-qmp-quit":  "it was told to end",
				"host-signal":    "QEMU was told to end by a signal",
			}[e.Data.Reason]
			reason = cmp.Or(reason, "QEMU says: "+e.Data.Reason)
		case "GUEST_PANICKED":
			reason = "the machine's kernel failed"
		}
	}
	return reason
}

// agentUp reports whether the machine's agent has its port open: before that, nothing
// in the machine hears the power button.
func agentUp(dir string) bool {
	text, _ := os.ReadFile(filepath.Join(dir, eventsFile)) // none is as good as empty
	up := false
	for line := range bytes.Lines(text) {
		var e event
		if json.Unmarshal(line, &e) == nil && e.Name == "VSERPORT_CHANGE" && e.Data.ID == "agent" {
			up = e.Data.Open
		}
	}
	return up
}

// complaint is the end of what QEMU printed.
func complaint(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, logFile))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	last := lines[len(lines)-1]
	return last[:min(len(last), 300)]
}

// trimConsole keeps a machine from filling the disk by what it prints.
func trimConsole(dir string) {
	const most, keep = 4 << 20, 256 << 10
	path := filepath.Join(dir, consoleFile)
	info, err := os.Stat(path)
	if err != nil || info.Size() < most {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	end := make([]byte, keep)
	n, _ := f.ReadAt(end, info.Size()-keep)
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(end[:n], 0) // QEMU appends behind it
	}
}

// bootData is the line for a machine.
func bootData(b guest.Boot) ([]byte, error) {
	b.Seed = newSeed()
	return b.Line()
}

// quiet waits until a process has nothing to do, for at most some seconds.
func quiet(ctx context.Context, pid int) error {
	const step = 50 * time.Millisecond
	last, calm := int64(-1), 0
	for range 200 {
		if err := instancedir.Sleep(ctx, step); err != nil {
			return err
		}
		now, err := cpuTicks(pid)
		if err != nil {
			return err
		}
		if calm++; now-last > 0 {
			calm = 0
		}
		if last = now; calm >= 3 {
			return nil
		}
	}
	return nil // a machine of which something runs all the time is a template, too
}

// cpuTicks is the time that a process has had, in hundredths of a second.
func cpuTicks(pid int) (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("read process state %q", text)
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return user + system, errors.Join(err1, err2)
}
