package enginetest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func untilDeadline(d time.Time) time.Duration { return max(time.Second, time.Until(d)-2*time.Second) }

// Missing skips a test for what this machine lacks, and fails it where CI=true.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Image is the image that every engine of this package has: busybox, two users, and a
// runner that does nothing.
const Image = "localhost/muster-test:1"

// Engine is a running engine.
type Engine struct {
	// Name is "podman" or "docker".
	Name string
	// Host is its address for clients.
	Host string
	// Dir is where it keeps everything.
	Dir  string
	args []string // that its command line tool needs before others
	tool string
	env  []string
	// start is the daemon's command; cmd is the running one.
	start []string
	cmd   *exec.Cmd
	log   string
}

// Options change an engine.
type Options struct {
	// Runtime is the engine's default runtime; runc if empty.
	Runtime string
	// Runtimes are further ones: name → program.
	Runtimes map[string]string
	// Insecure are registries without TLS, "127.0.0.1:5000".
	Insecure []string
	// Mirrors are images that come from elsewhere: name → where from, "registry.example.com" → "127.0.0.1:5000".
	Mirrors map[string]string
	// Size, such as "64m", bounds the disk that the engine keeps everything on.
	Size string
}

// in reports whether the test runs in namespaces of its own, and skips it if it cannot.
func in(t testing.TB) {
	t.Helper()
	if os.Getenv(stageVariable) != stageRun {
		Missing(t, "container engines are tested as root")
	}
}

func find(t testing.TB, programs ...string) (found []string) {
	t.Helper()
	for _, p := range programs {
		path, err := exec.LookPath(p)
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/podman"} {
			if err != nil {
				path = filepath.Join(dir, p)
				_, err = os.Stat(path)
			}
		}
		if err != nil {
			Missing(t, "%s is not installed; scripts/setup.sh does so", p)
		}
		found = append(found, path)
	}
	return found
}

// Podman starts a Podman service. It ends with the test, with everything that it made.
func Podman(t testing.TB, o Options) *Engine {
	t.Helper()
	in(t)
	tools := find(t, "podman", "runc", "conmon", "netavark", "busybox")
	e := &Engine{Name: "podman", Dir: dir(t), tool: tools[0]}
	if o.Size != "" {
		if err := unix.Mount("none", e.Dir, "tmpfs", 0, "size="+o.Size); err != nil {
			t.Fatal(err)
		}
	}
	if o.Runtime == "" {
		o.Runtime = "runc"
	}
	var conf strings.Builder
	// Containers may not ask for more than this process has itself: it may not raise its limits.
	fmt.Fprintf(&conf, "[containers]\ndefault_ulimits = [%q, %q]\n", ulimit("nofile", unix.RLIMIT_NOFILE, 20000), ulimit("nproc", unix.RLIMIT_NPROC, 32768))
	fmt.Fprintf(&conf, "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = %q\n[engine.runtimes]\nrunc = [%q]\n", o.Runtime, tools[1])
	for name, program := range o.Runtimes {
		fmt.Fprintf(&conf, "%s = [%q]\n", name, program)
	}
	conf.WriteString("[network]\nnetwork_backend = \"netavark\"\n")
	registries := "short-name-mode = \"disabled\"\n"
	for _, r := range o.Insecure {
		registries += fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", r)
	}
	for name, from := range o.Mirrors {
		registries += fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", name, from)
	}
	write(t, filepath.Join(e.Dir, "containers.conf"), conf.String())
	write(t, filepath.Join(e.Dir, "registries.conf"), registries)
	write(t, filepath.Join(e.Dir, "policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`)
	write(t, filepath.Join(e.Dir, "home", ".config", "containers", "policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`)
	e.env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(e.Dir, "containers.conf"), "CONTAINERS_REGISTRIES_CONF="+filepath.Join(e.Dir, "registries.conf"),
		"HOME="+filepath.Join(e.Dir, "home"), "TMPDIR="+filepath.Join(e.Dir, "home"))
	e.args = []string{"--root", filepath.Join(e.Dir, "root"), "--runroot", filepath.Join(e.Dir, "run"), "--tmpdir", filepath.Join(e.Dir, "tmp"),
		"--cgroup-manager=cgroupfs", "--network-config-dir", filepath.Join(e.Dir, "networks")}
	if err := os.MkdirAll(filepath.Join(e.Dir, "networks"), 0o755); err != nil {
		t.Fatal(err)
	}
	e.start = append(append([]string{tools[0]}, e.args...), "system", "service", "--time=0")
	e.begin(t, func(socket string) []string { return []string{"unix://" + socket} })
	archive := filepath.Join(e.Dir, "rootfs.tar")
	if err := writeRootfs(archive, tools[4]); err != nil {
		t.Fatal(err)
	}
	e.Tool(t, "import", archive, Image)
	return e
}

func ulimit(name string, which int, most uint64) string {
	var r unix.Rlimit
	if err := unix.Getrlimit(which, &r); err == nil && r.Max < most {
		most = r.Max
	}
	return fmt.Sprintf("%s=%d:%d", name, most, most)
}

// dir is like t.TempDir, with a path short enough for sockets and without mounts when it is removed.
func dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "me")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmount(d)
		if err := os.RemoveAll(d); err != nil {
			t.Errorf("remove the engine's directory: %v", err)
		}
	})
	return d
}

// unmount unmounts what is mounted below a directory; what stays fails its removal.
func unmount(dir string) {
	mounts, _ := os.ReadFile("/proc/thread-self/mountinfo") // a recorder may have left the first thread in a namespace of its own
	var below []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && within(f[4], dir) {
			below = append(below, f[4])
		}
	}
	slices.Sort(below)
	for _, m := range slices.Backward(below) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// begin starts the daemon and sees to its end.
func (e *Engine) begin(t testing.TB, address func(socket string) []string) {
	t.Helper()
	socket := filepath.Join(e.Dir, "sock")
	e.Host, e.log = "unix://"+socket, filepath.Join(e.Dir, "log")
	e.start = append(e.start, address(socket)...)
	e.Start(t)
	t.Cleanup(func() {
		if e.cmd == nil {
			e.Start(t)
		}
		e.Continue()
		e.clear(t)
		e.Stop()
		e.left(t)
		if t.Failed() {
			text, _ := os.ReadFile(e.log)
			t.Logf("the engine's log:\n%s", text[max(0, len(text)-3000):])
		}
	})
}

// clear removes whatever a test has left. One container may need another to be gone first.
func (e *Engine) clear(t testing.TB) {
	for try := 0; ; try++ {
		out := strings.Fields(e.Tool(t, "ps", "-aq"))
		if len(out) == 0 {
			return
		}
		if _, err := e.Try(append([]string{"rm", "-f", "-v"}, out...)...); err != nil && try == 3 {
			t.Error(err)
			return
		}
	}
}

// left waits for what the daemon had started. When a container ends, its monitor starts a
// tool that cleans up, and mounts the storage for it, even if the container is gone by then.
func (e *Engine) left(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(10 * time.Millisecond) {
		all := e.processes()
		if len(all) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("the engine has ended, and these have not: %q", all)
			return
		}
	}
}

// processes are the command lines of all processes that name the engine's directory.
func (e *Engine) processes() (all []string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		if line, err := os.ReadFile(name); err == nil && bytes.Contains(line, []byte(e.Dir+"/")) {
			all = append(all, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return all
}

// Start starts the daemon after Stop or Kill, and waits until it answers.
func (e *Engine) Start(t testing.TB) {
	t.Helper()
	socket := strings.TrimPrefix(e.Host, "unix://")
	_ = os.Remove(socket) // of one that was killed
	log, err := os.OpenFile(e.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	e.cmd = exec.CommandContext(context.Background(), e.start[0], e.start[1:]...)
	e.cmd.Env, e.cmd.Stdout, e.cmd.Stderr = e.env, log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	deadline := time.Now().Add(60 * time.Second)
	for {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://engine/_ping", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) || syscall.Kill(e.cmd.Process.Pid, 0) != nil {
			text, _ := os.ReadFile(e.log)
			t.Fatalf("%s does not answer: %v\n%s", e.Name, err, text[max(0, len(text)-3000):])
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Stop ends the daemon in order; Kill does so without.
func (e *Engine) Stop() { e.end(syscall.SIGTERM) }

// Kill ends the daemon at once. Podman's containers live on.
func (e *Engine) Kill() { e.end(syscall.SIGKILL) }

func (e *Engine) end(s syscall.Signal) {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Signal(s)
	_ = e.cmd.Wait()
	e.cmd = nil
}

// Hang makes the daemon answer nothing until Continue.
func (e *Engine) Hang() { _ = e.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends Hang.
func (e *Engine) Continue() { _ = e.cmd.Process.Signal(syscall.SIGCONT) }

// Command is the engine's own command line tool, with what it needs before other arguments,
// and Environ its environment.
func (e *Engine) Command() []string { return append([]string{e.tool}, e.args...) }

// Environ is what Command needs.
func (e *Engine) Environ() []string { return slices.Clone(e.env) }

// Try runs the engine's own command line tool.
func (e *Engine) Try(args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), e.tool, append(slices.Clone(e.args), args...)...)
	cmd.Env = e.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", e.Name, strings.Join(args, " "), err, out.Bytes(), errs.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

// Tool is Try for what must succeed. It returns what was printed.
func (e *Engine) Tool(t testing.TB, args ...string) string {
	t.Helper()
	out, err := e.Try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Containers are the names of all containers, as the engine's own tool counts them.
func (e *Engine) Containers(t testing.TB, filters ...string) []string {
	t.Helper()
	args := []string{"ps", "-a", "--format", "{{.Names}}"}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	return strings.Fields(e.Tool(t, args...))
}

// AddImage makes an image of the test image and further files.
func (e *Engine) AddImage(t testing.TB, name string, files ...File) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := writeRootfs(archive, find(t, "busybox")[0], files...); err != nil {
		t.Fatal(err)
	}
	e.Tool(t, "import", archive, name)
}

// File is something to put into an image.
type File struct {
	Name string // absolute
	Mode int64
	Text string
	From string // a file of this machine, instead of Text
	UID  int
}

// writeRootfs writes the root of an image.
func writeRootfs(archive, busybox string, files ...File) (err error) {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	all := []File{
		{Name: "/bin/busybox", Mode: 0o755, From: busybox},
		{Name: "/etc/passwd", Mode: 0o644, Text: "root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:1001::/home/runner:/bin/sh\n"},
		{Name: "/etc/group", Mode: 0o644, Text: "root:x:0:\nrunner:x:1001:\n"},
	}
	const script = "/home/runner/run.sh"
	if !slices.ContainsFunc(files, func(f File) bool { return f.Name == script }) {
		all = append(all, File{Name: script, Mode: 0o755, UID: 1001, Text: "#!/bin/sh\nexec sleep 1000000\n"})
	}
	for _, d := range []File{{Name: "tmp", Mode: 0o1777}, {Name: "root", Mode: 0o700}, {Name: "home", Mode: 0o755}, {Name: "home/runner", Mode: 0o755, UID: 1001}, {Name: "proc", Mode: 0o555}, {Name: "sys", Mode: 0o555}, {Name: "dev", Mode: 0o755}, {Name: "run", Mode: 0o755}, {Name: "usr/bin", Mode: 0o755}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d.Name + "/", Mode: d.Mode, Uid: d.UID, Gid: d.UID}); err != nil {
			return err
		}
	}
	for _, link := range []string{"sh", "cat", "cp", "mkdir", "ln", "ls", "rm", "touch", "sleep", "id", "grep", "wget", "nc", "env", "uname", "ip", "dd", "true", "dmesg", "kill", "head", "tail", "date", "sed", "stat", "mount", "ps"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + link, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/bin/env", Linkname: "/bin/busybox", Mode: 0o777}); err != nil {
		return err
	}
	for _, file := range append(all, files...) {
		text := []byte(file.Text)
		if file.From != "" {
			if text, err = os.ReadFile(file.From); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(file.Name, "/"), Mode: file.Mode, Size: int64(len(text)), Uid: file.UID, Gid: file.UID}); err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return w.Close()
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Cache is a directory that outlives tests, for what takes minutes to make. The key
// names what it was made from.
func Cache(t testing.TB, name, key string) string {
	t.Helper()
	root, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(key))
	d := filepath.Join(root, "muster-test", name+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

// Build builds a program with the Go tool, for machines and images: static.
func Build(t testing.TB, dir, pkg string) string {
	t.Helper()
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, text)
	}
	return out
}

// daemon is held by the one Docker daemon: two of them fight over the chains of one network.
var daemon sync.Mutex

// Docker starts a Docker daemon. It ends with the test, with everything that it made.
// Tests that want one at the same time wait for each other.
func Docker(t testing.TB, o Options) *Engine {
	t.Helper()
	in(t)
	daemon.Lock()
	t.Cleanup(daemon.Unlock)
	find(t, "containerd", "runc", "iptables")
	where, err := exec.CommandContext(context.Background(), script(t, "docker.sh")).Output()
	if err != nil {
		Missing(t, "Docker's daemon is not here and cannot be fetched: %v", err)
	}
	usr := strings.TrimSpace(string(where))
	e := &Engine{Name: "docker", Dir: dir(t), tool: filepath.Join(usr, "bin", "docker")}
	e.env = append(os.Environ(), "PATH="+filepath.Join(usr, "sbin")+":"+filepath.Join(usr, "bin")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"HOME="+filepath.Join(e.Dir, "home"))
	e.args = []string{"-H", "unix://" + filepath.Join(e.Dir, "sock")}
	e.start = []string{
		filepath.Join(usr, "sbin", "dockerd"), "--data-root", filepath.Join(e.Dir, "root"), "--exec-root", filepath.Join(e.Dir, "run"), "--pidfile", filepath.Join(e.Dir, "pid"),
		"--default-ulimit", ulimit("nofile", unix.RLIMIT_NOFILE, 20000), "--config-file", filepath.Join(e.Dir, "daemon.json"), "--live-restore",
		"--cgroup-parent", "/" + filepath.Base(e.Dir),
	}
	t.Cleanup(func() { removeCgroups(filepath.Base(e.Dir)) }) // after the daemon's end
	write(t, filepath.Join(e.Dir, "daemon.json"), "{}")
	for name, program := range o.Runtimes {
		e.start = append(e.start, "--add-runtime", name+"="+program)
	}
	if o.Runtime != "" {
		e.start = append(e.start, "--default-runtime", o.Runtime)
	}
	e.begin(t, func(socket string) []string { return []string{"-H", "unix://" + socket} })
	archive := filepath.Join(e.Dir, "rootfs.tar")
	if err := writeRootfs(archive, find(t, "busybox")[0]); err != nil {
		t.Fatal(err)
	}
	e.Tool(t, "import", archive, Image)
	return e
}

// removeCgroups removes empty cgroups of that name below the root of every hierarchy, and
// what is in them.
func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		for _, below := range []string{"/*/*", "/*", ""} {
			dirs, _ := filepath.Glob(pattern + name + below)
			for _, dir := range dirs {
				_ = unix.Rmdir(dir) // files are none of it
			}
		}
	}
}

// script is the path of one of the scripts beside the tools' module.
func script(t testing.TB, name string) string {
	t.Helper()
	root, err := exec.CommandContext(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		Missing(t, "the Go tool, to build and fetch tools: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "internal", "tools", "engines", name)
}

// Tools is the directory of runsc and registry, built from the Go module proxy. The first
// call on a machine takes minutes.
func Tools(t testing.TB) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), script(t, "build.sh"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		Missing(t, "runsc and registry cannot be built: %v\n%s", err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// GVisor writes a program that is gVisor's runtime as it works anywhere: with the
// platform that needs no KVM, and without control groups of its own, which it can
// only make where nobody else has the root. Limits are then not enforced.
func GVisor(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runsc")
	script := fmt.Sprintf("#!/bin/sh\nexec %s/runsc --platform=systrap --ignore-cgroups --network=sandbox \"$@\"\n", Tools(t))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Registry starts a registry of images on the loopback interface and returns its address.
func Registry(t testing.TB) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), filepath.Join(Tools(t), "registry"), "--port", "0")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	ended := make(chan struct{})
	port := make(chan string, 1)
	go func() {
		defer close(ended)
		for lines.Scan() {
			if _, p, ok := strings.Cut(lines.Text(), "on port "); ok {
				select {
				case port <- p:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	select {
	case p := <-port:
		return "127.0.0.1:" + strings.TrimSpace(p)
	case <-ended:
		t.Fatal("the registry ended")
	case <-time.After(30 * time.Second):
		t.Fatal("the registry does not say where it is")
	}
	return ""
}

// Elsewhere starts another machine, as the internet has them, which containers reach only
// through this one, and returns where it says hello to whoever connects.
func Elsewhere(t testing.TB) string {
	t.Helper()
	in(t)
	busybox := find(t, "busybox", "ip")[0]
	const ns, there, port = "elsewhere", "192.0.2.2", "7007" // addresses for documentation, and nobody's
	for _, args := range []string{
		"netns add " + ns, "link add else0 type veth peer name else1 netns " + ns, "address add 192.0.2.1/30 dev else0", "link set else0 up",
		"-n " + ns + " address add " + there + "/30 dev else1", "-n " + ns + " link set else1 up",
	} {
		if out, err := exec.CommandContext(context.Background(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			Missing(t, "ip %s: %v\n%s", args, err, out)
		}
	}
	server := exec.CommandContext(context.Background(), "ip", "netns", "exec", ns, busybox, "nc", "-ll", "-p", port, "-e", busybox, "echo", "hello")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		_ = exec.CommandContext(context.Background(), "ip", "link", "del", "else0").Run()
		_ = exec.CommandContext(context.Background(), "ip", "netns", "del", ns).Run()
	})
	return there + ":" + port
}
