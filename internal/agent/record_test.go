//go:build linux

package agent

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
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

	"github.com/muster-ci/muster/internal/trace"
)

// reel is a recorder whose scopes the test plays; each Follow makes a new one.
type reel struct {
	mu     sync.Mutex
	scopes []*tape
	roots  []int
	refuse error
}

func (r *reel) Describe() trace.Recorder {
	return trace.Recorder{Kernel: "6.18", Extras: []string{"lsm"}}
}
func (r *reel) Close() error { return nil }
func (r *reel) Follow(_ context.Context, root int, e trace.Egress) (scope, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	s := newTape()
	s.events = make(chan []trace.Event, 64)
	s.about.Egress = string(e.Mode)
	r.scopes, r.roots = append(r.scopes, s), append(r.roots, root)
	return (*tapeScope)(s), nil
}

// scope is the one that was made as the i-th, and the process that it follows.
func (r *reel) scope(i int) (*tape, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.scopes[i], r.roots[i]
}

// desk starts a node's recorder in this process.
func desk(t *testing.T, l lending) (rec *reel, socket string) {
	t.Helper()
	rec = &reel{}
	return rec, serving(t, l, rec)
}

// serving has a recorder serve agents until the test ends.
func serving(t *testing.T, l lending, rec recorder) (socket string) {
	t.Helper()
	l.socket, l.mode = filepath.Join(t.TempDir(), "sub", "trace.sock"), 0o600
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.serve(ctx, rec, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	await(t, l.socket)
	return l.socket
}

// await waits until somebody listens.
func await(t *testing.T, socket string) {
	t.Helper()
	for range 1000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatal("it does not listen")
}

// child starts a process that waits for its end.
func child(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func TestLentRecorder(t *testing.T) {
	rec, socket := desk(t, lending{perUser: 2, scopes: 3})
	dial := func() recorder {
		t.Helper()
		r, err := dialRecorder(t.Context(), socket, recordOptions{agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	pid := child(t)
	one := dial()
	if d := one.Describe(); d.Kernel != "6.18" || !slices.Equal(d.Extras, []string{"lsm", lentExtra}) {
		t.Errorf("it says of itself %+v", d)
	}
	// The policy is longer than one piece of the socket's.
	policy := trace.Egress{Mode: trace.EgressAudit}
	for i := range 5000 {
		policy.Allow = append(policy.Allow, fmt.Sprintf("host-%d.example.com", i))
	}
	s, err := one.Follow(t.Context(), pid, policy)
	if err != nil {
		t.Fatal(err)
	}
	played, root := rec.scope(0)
	if root != pid || s.Describe().Egress != "audit" {
		t.Errorf("it follows %d: %+v", root, s.Describe())
	}
	sent := trace.Event{Type: trace.ProcessExec, Timestamp: time.Now().UTC(), PID: 9, Start: 1 << 60, Path: "/p", Args: []string{"a", ""}, Lost: map[string]int64{"x": 1}}
	played.events <- []trace.Event{sent, {Type: trace.FileOpen, Timestamp: time.Now().UTC()}}
	got := <-s.Events()
	if len(got) != 2 || got[0].PID != 9 || got[0].Start != 1<<60 || !slices.Equal(got[0].Args, sent.Args) || !got[0].Timestamp.Equal(sent.Timestamp) || !maps.Equal(got[0].Lost, sent.Lost) {
		t.Errorf("got %+v", got)
	}

	// Another job of the same user, and then no more of them.
	two, three := dial(), dial()
	if _, err := two.Follow(t.Context(), pid, trace.Egress{}); err != nil {
		t.Fatal(err)
	}
	if _, err := three.Follow(t.Context(), pid, trace.Egress{}); err == nil || !strings.Contains(err.Error(), "2 jobs of user") {
		t.Errorf("a third job: %v", err)
	}
	// An agent that is gone gives its place free.
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	second, _ := rec.scope(1)
	if _, open := <-second.events; open {
		t.Error("the scope of an agent that is gone goes on")
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		again, err := dial().Follow(t.Context(), pid, trace.Egress{})
		if err == nil {
			_ = again.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}

	// The rest comes after Close, and then the end.
	played.lose("buffer_full", 4, false)
	played.closing = []trace.Event{{Type: trace.ProcessExit, Timestamp: time.Now().UTC(), PID: 9}}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var rest []trace.Event
	for batch := range s.Events() {
		rest = append(rest, batch...)
	}
	if len(rest) != 1 || rest[0].Type != trace.ProcessExit || s.Lost()["buffer_full"] != 4 {
		t.Errorf("the rest: %+v, lost %v", rest, s.Lost())
	}
}

func TestLentRecorderRefuses(t *testing.T) {
	rec, socket := desk(t, lending{perUser: 9, scopes: 9})
	own := child(t)
	raw := func(t *testing.T, text string, pids ...int) string {
		t.Helper()
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conn := c.(*net.UnixConn)
		defer conn.Close()
		in := gob.NewDecoder(conn)
		var f lentFrame
		if err := in.Decode(&f); err != nil || f.About == nil {
			t.Fatalf("greeting: %+v, %v", f, err)
		}
		var fds []int
		for _, pid := range pids {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		var oob []byte
		if fds != nil {
			oob = unix.UnixRights(fds...)
		}
		if _, _, err := conn.WriteMsgUnix([]byte(text), oob, nil); err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseWrite()
		f = lentFrame{}
		if err := in.Decode(&f); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		return f.Refused
	}
	good := `{"protocol":1}` + "\n"
	for name, c := range map[string]struct {
		text string
		pids []int
		want string
	}{
		"SomebodyElses":  {good, []int{1}, "does not descend"},
		"ItsParent":      {good, []int{os.Getppid()}, "does not descend"},
		"Itself":         {good, []int{os.Getpid()}, "does not descend"},
		"Nobody":         {good, nil, "no process came"},
		"Two":            {good, []int{own, own}, "no process came"},
		"AnotherVersion": {`{"protocol":2}` + "\n", []int{own}, "protocol 2"},
		"NoJSON":         {"GET / HTTP/1.1\r\n", []int{own}, "invalid character"},
		"CutShort":       {`{"protocol":1`, []int{own}, "cut short"},
		"TooLong":        {strings.Repeat(" ", 100<<10), []int{own}, "cut short"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := raw(t, c.text, c.pids...); !strings.Contains(got, c.want) {
				t.Errorf("refused with %q, want %q", got, c.want)
			}
		})
	}
	rec.mu.Lock()
	if len(rec.roots) != 0 {
		t.Errorf("it followed %v", rec.roots)
	}
	rec.refuse = errors.New("the table is full")
	rec.mu.Unlock()
	if got := raw(t, good, own); got != "the table is full" {
		t.Errorf("refused with %q", got)
	}
}

func TestRecorderSocket(t *testing.T) {
	rec, socket := desk(t, lending{perUser: 1, scopes: 1})
	if err := (lending{socket: socket}).serve(t.Context(), rec, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another recorder") {
		t.Errorf("a second one: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (lending{socket: file}).serve(t.Context(), rec, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("where a file is: %v", err)
	}
	// One that was killed has left its socket.
	stale := filepath.Join(t.TempDir(), "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if err := vacant(t.Context(), stale); err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{{"--per-user", "0"}, {"surplus"}, {"--mode", "9999"}, {"--unknown"}} {
		if code := recordMain(t.Context(), args, "test", slog.New(slog.DiscardHandler), io.Discard); code != ExitUsage {
			t.Errorf("%q: code %d", args, code)
		}
	}
}

// unprivileged has an agent run as nobody, from a place that nobody may read.
func (s *stage) unprivileged() {
	s.Helper()
	const nobody = 65534
	exe := filepath.Join(s.TempDir(), "muster-agent")
	from, err := os.Open(s.cmd.Path)
	if err != nil {
		s.Fatal(err)
	}
	defer from.Close()
	if err := place(exe, from, 0o755); err != nil {
		s.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(filepath.Dir(exe)), filepath.Dir(exe)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			s.Fatal(err)
		}
	}
	err = filepath.WalkDir(s.dir, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(name, nobody, nobody))
	})
	if err != nil {
		s.Fatal(err)
	}
	s.cmd.Path, s.cmd.Args[0] = exe, exe
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	s.env("HOME=/", "TMPDIR=/tmp")
}

// node starts a real recorder of this machine, and returns its socket.
func node(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "trace.sock")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// No more than deploy/recorder gives it.
	const caps = "-all,+bpf,+perfmon,+net_admin,+sys_ptrace,+dac_read_search"
	cmd := exec.Command("setpriv", "--bounding-set", caps, "--inh-caps", caps, exe, "record", "--socket", socket)
	cmd.Env = []string{"MUSTER_AGENT_UNDER_TEST=1"}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("recorder: %v\n%s", err, said.String())
		}
		if t.Failed() {
			t.Logf("the recorder said:\n%s", said.String())
		}
		if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	for range 2000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return socket
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("the recorder does not listen:\n%s", said.String())
	return ""
}

func TestTraceUnprivileged(t *testing.T) {
	work := fmt.Sprintf(stepped, `'/bin/echo first'`, `'/bin/echo second'`)
	t.Run("WithoutRecorder", func(t *testing.T) { // 4-46
		s := mount(t, fmt.Sprintf(job, work))
		s.traced()
		s.unprivileged()
		s.start()
		s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
		seal := s.plane.traces[1].seal
		if seal == nil || seal.Seal.Missing == "" || seal.Recorder.Missing["all"] == "" || seal.Job.RunID != 7 {
			t.Errorf("sealed with %+v", seal)
		}
		if n := strings.Count(s.stderr.String(), "trace: not recorded, because "); n != 1 {
			t.Errorf("said %d times:\n%s", n, s.stderr.String())
		}
	})
	t.Run("NodesRecorder", func(t *testing.T) {
		socket := node(t)
		var all sync.WaitGroup
		for i := range 3 {
			s := mount(t, fmt.Sprintf(job, strings.ReplaceAll(work, "first", fmt.Sprintf("first-of-%d", i))))
			s.traced()
			s.unprivileged()
			s.env("MUSTER_TRACE_SOCKET=" + socket)
			s.start()
			all.Go(func() {
				s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
				events := s.plane.whole(t, 1)
				in := ranIn(events)
				for k := range 3 {
					want := []string(nil)
					if k == i {
						want = []string{"one"}
					}
					if got := in[fmt.Sprintf("/bin/echo first-of-%d", k)]; !slices.Equal(got, want) {
						t.Errorf("job %d: the program of job %d ran in %q", i, k, got)
					}
				}
				if r := events[0].Recorder; r == nil || !slices.Contains(r.Extras, lentExtra) {
					t.Errorf("recorder: %+v", r)
				}
				for _, e := range events {
					if e.Type == trace.ProcessExec && e.UID != 65534 {
						t.Errorf("somebody else's: %+v", e)
					}
				}
			})
		}
		all.Wait()
	})
}

// contained has the agent run in a container of podman's, as root without any capability
// that recording takes, and with the socket where agents look for it by themselves.
func (s *stage) contained(socket string) (ok bool) {
	s.Helper()
	podman, err := exec.LookPath("podman")
	if err != nil {
		if os.Getenv("CI") != "" {
			s.Fatal(err)
		}
		s.Log("not tried: ", err)
		return false
	}
	home := s.TempDir()
	for _, dir := range []string{"rootfs/usr", "rootfs/bin", "rootfs/lib", "rootfs/lib64", "rootfs/etc", "rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/tmp", "rootfs/run/muster", "rootfs" + s.dir, "rootfs/agent", "root", "run"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o755); err != nil {
			s.Fatal(err)
		}
	}
	conf := "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n"
	if err := os.WriteFile(filepath.Join(home, "containers.conf"), []byte(conf), 0o644); err != nil {
		s.Fatal(err)
	}
	args := []string{"unshare", "-m", "sh", "-c", `mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"`, podman,
		"--root", filepath.Join(home, "root"), "--runroot", filepath.Join(home, "run"), "run", "--rm", "-i", "--pids-limit=0", "--network=host", "--log-driver=none"}
	for _, v := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		args = append(args, "-v", v+":"+v+":ro")
	}
	args = append(args, "-v", s.dir+":"+s.dir, "-v", filepath.Dir(s.cmd.Path)+":/agent:ro", "-v", socket+":"+recorderSocket)
	for _, e := range s.cmd.Env {
		args = append(args, "-e", e)
	}
	args = append(args, "-e", "MUSTER_BOOT_TOKEN_FILE=/dev/stdin", "--rootfs", filepath.Join(home, "rootfs"), "/agent/"+filepath.Base(s.cmd.Path))
	s.cmd.Path, err = exec.LookPath(args[0])
	if err != nil {
		s.Fatal(err)
	}
	s.cmd.Args = args
	s.cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(home, "containers.conf"), "MUSTER_BOOT_TOKEN_FILE=")
	return true
}

// TestTraceInAContainer: processes are named as the node names them, whatever they are
// called inside.
func TestTraceInAContainer(t *testing.T) { // 4-47
	socket := node(t)
	s := mount(t, fmt.Sprintf(job, fmt.Sprintf(stepped, `'echo $BASHPID > "$DIR/inside"; /bin/echo first'`, `'/bin/echo second'`)))
	s.traced()
	if !s.contained(socket) {
		return
	}
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	events := s.plane.whole(t, 1)
	in := ranIn(events)
	if !slices.Equal(in["/bin/echo first"], []string{"one"}) || !slices.Equal(in["/bin/echo second"], []string{"two"}) {
		t.Errorf("programs ran in %q", in)
	}
	r := events[0].Recorder
	if r == nil || !slices.Contains(r.Extras, lentExtra) {
		t.Errorf("recorder: %+v", r)
	}
	inside := strings.TrimSpace(s.file("inside"))
	for _, e := range events {
		if e.Type == trace.ProcessExec && slices.Equal(e.Args, []string{"/bin/echo", "first"}) {
			t.Logf("inside it is process %s, and for the node %d in container %q", inside, e.PID, e.Container)
			if fmt.Sprint(e.PPID) == inside || fmt.Sprint(e.PID) == inside || e.PID < 100 {
				t.Errorf("process %d is not the node's number", e.PID)
			}
		}
	}
}
