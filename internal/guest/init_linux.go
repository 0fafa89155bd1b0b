package guest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Booting reports whether this program is a guest's first process and Init has to run.
func Booting() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// Init prepares the guest, waits for its boot data and returns the environment with
// which this program goes on, and which it has by then. rehearse is called before the
// wait, for what copies of a template may have in common.
//
// The program goes on and does not start anew, which takes as long as all the rest. It
// can, because random numbers come from the kernel, and the kernel from the seed:
// crypto/rand keeps none of its own (package crypto/internal/sysrand calls getrandom, of
// which the vDSO's buffer is void after a reseed). What the Go runtime keeps since
// its start is the same in all copies: the order of maps and selects, and the global
// functions of math/rand, which the agent therefore does not use.
func Init(rehearse func()) ([]string, error) {
	if err := prepare(); err != nil {
		return nil, err
	}
	rehearse()
	line, err := readBoot()
	if err != nil {
		return nil, err
	}
	b, err := ParseBoot(line)
	clear(line)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stir(b.Seed), setClock(b.Now)); err != nil {
		return nil, err
	}
	env, err := b.become()
	if err != nil {
		return nil, err
	}
	os.Clearenv()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("environment: %w", err)
		}
	}
	return env, nil
}

// prepare does all that is the same for every machine of an image. A template is made
// after it.
func prepare() error {
	if err := mounts(""); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if device := word(string(line), "muster.root="); device != "" {
		if err := enterRoot("/dev/" + filepath.Base(device)); err != nil {
			return err
		}
	}
	if err := up("lo"); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	for path, text := range map[string]string{"/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n", "/etc/resolv.conf": ""} {
		if _, err := os.Stat(path); err != nil {
			_ = os.WriteFile(path, []byte(text), 0o644) // a root without /etc does without
		}
	}
	_ = os.MkdirAll("/root", 0o700)
	if err := os.WriteFile(bootID, []byte("template\n"), 0o444); err != nil {
		return err
	}
	if err := syscall.Mount(bootID, "/proc/sys/kernel/random/boot_id", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("replace the boot id: %w", err)
	}
	warm(RunnerDir)
	return nil
}

// Template reports whether this machine is made to be copied, so that what takes long is better
// done now.
func Template() bool {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false
	}
	return slices.Contains(strings.Fields(string(line)), TemplateWord)
}

// bootID lies over the kernel's own, which copies of a template share.
const bootID = "/run/boot_id"

// word returns what follows a prefix in a line of words.
func word(line, prefix string) string {
	for w := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(w, prefix); ok {
			return v
		}
	}
	return ""
}

func mounts(root string) error {
	for _, m := range []struct{ kind, dir, options string }{
		{"devtmpfs", "/dev", ""}, {"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"tmpfs", "/run", "mode=755"}, {"tmpfs", "/tmp", "mode=1777"},
		{"devpts", "/dev/pts", ""}, {"tmpfs", "/dev/shm", "mode=1777"}, {"cgroup2", "/sys/fs/cgroup", ""}, {"tracefs", "/sys/kernel/tracing", ""},
	} {
		if err := os.MkdirAll(root+m.dir, 0o755); err != nil && !strings.HasPrefix(m.dir, "/sys/") {
			return err
		}
		err := syscall.Mount(m.kind, root+m.dir, m.kind, 0, m.options)
		if err != nil && !errors.Is(err, syscall.EBUSY) && m.dir[0] == '/' && strings.Count(m.dir, "/") == 1 {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// loadModules loads what the kernel needs to see the ports and the disk.
func loadModules() error {
	order, err := os.ReadFile(filepath.Join(ModulesDir, "order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel that has all built in
	}
	if err != nil {
		return err
	}
	number := uintptr(313) // finit_module
	if runtime.GOARCH != "amd64" {
		number = 273
	}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open(filepath.Join(ModulesDir, name))
		if err != nil {
			return err
		}
		var none byte
		_, _, errno := syscall.Syscall(number, f.Fd(), uintptr(unsafe.Pointer(&none)), 0)
		f.Close()
		if errno != 0 && errno != syscall.EEXIST {
			// A device that this machine lacks is no reason to stop: what is needed is
			// missed below, with its name.
			fmt.Fprintf(os.Stderr, "muster: module %s: %v\n", name, errno)
		}
	}
	return os.RemoveAll(ModulesDir) // it lies in memory
}

// enterRoot makes a disk's file system the root.
func enterRoot(device string) error {
	const root = "/newroot"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	err := error(nil)
	for range 500 {
		if err = syscall.Mount(device, root, "ext4", syscall.MS_NOATIME, ""); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) // the disk is still being found
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run", "/tmp"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(dir, root+dir, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return errors.Join(syscall.Chroot("."), os.Chdir("/"))
}

// warm reads the runner's programs, so that a template has them in memory.
func warm(dir string) {
	budget := int64(64 << 20)
	_ = filepath.WalkDir(filepath.Join(dir, "bin"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || budget <= 0 {
			return nil
		}
		if f, err := os.Open(path); err == nil {
			n, _ := io.Copy(io.Discard, io.LimitReader(f, budget))
			budget -= n
			f.Close()
		}
		return nil
	})
}

// ifreq is the kernel's struct ifreq: a name and a union of 24 bytes.
type ifreq [40]byte

func control(number uintptr, req *ifreq) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), number, uintptr(unsafe.Pointer(req))); errno != 0 {
		return errno
	}
	return nil
}

func up(device string) error {
	var req ifreq
	copy(req[:15], device)
	if err := control(syscall.SIOCGIFFLAGS, &req); err != nil {
		return err
	}
	binary.NativeEndian.PutUint16(req[16:], binary.NativeEndian.Uint16(req[16:])|syscall.IFF_UP)
	return control(syscall.SIOCSIFFLAGS, &req)
}

// PortPath finds the device of a port by its name.
func PortPath(name string) (string, error) {
	all, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, path := range all {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", fmt.Errorf("this machine has no virtio port %q", name)
}

// readBoot waits for the line of boot data. It is a plain read: a template is made
// while it waits, and a copy of it goes on here.
func readBoot() ([]byte, error) {
	path, err := PortPath(BootPort)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer syscall.Close(fd)
	var line []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := syscall.Read(fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR), err == nil && n == 0: // the host is not there yet
			time.Sleep(time.Millisecond)
			continue
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		line = append(line, buf[:n]...)
		clear(buf[:n])
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return line[:i], nil
		}
		if len(line) > 1<<20 {
			return nil, errors.New("read boot data: no end of line within 1 MiB")
		}
	}
}

// stir mixes the seed into the kernel's random numbers and makes it use them at once.
func stir(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("seed random numbers: %w", err)
	}
	defer f.Close()
	const addEntropy, reseed = 0x40085203, 0x5207 // RNDADDENTROPY, RNDRESEEDCRNG
	pool := make([]byte, 8, 8+len(seed))
	binary.NativeEndian.PutUint32(pool, uint32(8*len(seed)))
	binary.NativeEndian.PutUint32(pool[4:], uint32(len(seed)))
	pool = append(pool, seed...)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), addEntropy, uintptr(unsafe.Pointer(&pool[0]))); errno != 0 {
		return fmt.Errorf("seed random numbers: %w", errno)
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), reseed, 0); errno != 0 {
		return fmt.Errorf("use the new random numbers: %w", errno)
	}
	return nil
}

func setClock(now time.Time) error {
	if now.IsZero() {
		return nil
	}
	tv := syscall.NsecToTimeval(now.UnixNano())
	if err := syscall.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// become gives the machine its own identity and returns the agent's environment.
func (b Boot) become() ([]string, error) {
	if err := syscall.Sethostname([]byte(b.Hostname)); err != nil {
		return nil, fmt.Errorf("set the host's name: %w", err)
	}
	if err := b.identify(); err != nil {
		return nil, err
	}
	env := append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "USER=root", "LOGNAME=root",
		"MUSTER_URL=" + URLScheme + AgentPort, "MUSTER_RUNNER_DIR=" + RunnerDir, "MUSTER_RUNNER=" + b.Runner,
		ListenVariable + "=" + strings.Join(b.Listen, ","), ProxyVariable + "=" + b.Proxy,
	}, b.Environ...)
	if b.MAC != "" {
		if err := network(b.MAC); err != nil {
			return nil, err
		}
	}
	if b.Kept {
		return append(env, Mark+"="+KeptMark), nil
	}
	// A pipe keeps the token out of the environment, which every process may read.
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	if _, err := syscall.Write(pipe[1], []byte(b.Token+"\n")); err != nil {
		return nil, err
	}
	if err := syscall.Close(pipe[1]); err != nil {
		return nil, err
	}
	return append(env, Mark+"=1", fmt.Sprintf("MUSTER_BOOT_TOKEN_FILE=/dev/fd/%d", pipe[0])), nil
}

// identify replaces the numbers by which copies of one template could be taken for
// the same machine. They come after the seed, from it.
func (b Boot) identify() error {
	id := make([]byte, 16)
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, id); err != nil {
		return err
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	h := hex.EncodeToString(id)
	if err := os.WriteFile(bootID, []byte(h[:8]+"-"+h[8:12]+"-"+h[12:16]+"-"+h[16:20]+"-"+h[20:]+"\n"), 0o444); err != nil {
		return err
	}
	if b.Kept {
		return nil // it has an identity of its own, on its disk
	}
	_ = os.WriteFile("/etc/machine-id", []byte(h+"\n"), 0o444) // a root without /etc does without
	return nil
}

// network brings the first card up with an address of its own and asks for an
// address by DHCP, with whichever client the image has.
func network(mac string) error {
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	var req ifreq
	copy(req[:15], "eth0")
	binary.NativeEndian.PutUint16(req[16:], 1) // ARPHRD_ETHER
	copy(req[18:], hardware)
	const setHardware = 0x8924
	if err := errors.Join(control(setHardware, &req), up("eth0")); err != nil {
		return fmt.Errorf("network card: %w", err)
	}
	for _, client := range [][]string{{"udhcpc", "-i", "eth0", "-n", "-q"}, {"dhclient", "-1", "eth0"}, {"dhcpcd", "-1", "eth0"}} {
		if path, err := exec.LookPath(client[0]); err == nil {
			out, err := exec.Command(path, client[1:]...).CombinedOutput() //nolint:noctx // the client has a deadline of its own
			if err != nil {
				fmt.Fprintf(os.Stderr, "muster: %s: %v: %s\n", client[0], err, out)
			}
			return nil
		}
	}
	fmt.Fprintln(os.Stderr, "muster: the image has no DHCP client")
	return nil
}

// OpenPort opens the guest's end of a port. Its reads wait while the host is away.
func OpenPort(name string) (io.ReadWriteCloser, error) {
	path, err := PortPath(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &port{File: f}, nil
}

type port struct{ *os.File }

// Read never ends: a port whose host is away reads as empty.
func (p *port) Read(b []byte) (int, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		n, err := p.File.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(wait)
	}
}

// PowerOff ends the machine.
func PowerOff() {
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the kernel is at it
}

// OnPowerButton calls pressed when the host asks the machine to end. It watches for
// as long as the program runs.
func OnPowerButton(pressed func()) {
	all, _ := filepath.Glob("/dev/input/event*")
	for _, path := range all {
		go func() {
			f, err := os.Open(path)
			if err != nil {
				return
			}
			defer f.Close()
			const size, key, power = 24, 1, 116 // struct input_event; EV_KEY, KEY_POWER
			for event := make([]byte, size); ; {
				if _, err := io.ReadFull(f, event); err != nil {
					return
				}
				if binary.NativeEndian.Uint16(event[16:]) == key && binary.NativeEndian.Uint16(event[18:]) == power && event[20] == 1 {
					pressed()
				}
			}
		}()
	}
}
