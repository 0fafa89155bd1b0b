//go:build linux && (amd64 || arm64)

package bpf

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// open opens a recorder; a machine that cannot record cannot run these tests, and says
// so.
func open(t testing.TB, o Options) *Recorder {
	t.Helper()
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if missing := r.Describe().Missing; missing["all"] != "" {
		t.Fatal("these tests need root and a kernel with BTF: " + missing["all"])
	}
	return r
}

func follow(t testing.TB, r *Recorder, pid int) *Scope {
	t.Helper()
	s, err := r.Follow(t.Context(), Follow{Root: pid})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// collect ends a scope and returns all that it has told.
func collect(t testing.TB, s *Scope) []trace.Event {
	t.Helper()
	var all []trace.Event
	read := make(chan struct{})
	go func() {
		defer close(read)
		for b := range s.Events() {
			all = append(all, b...)
		}
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-read
	return all
}

// record follows an exercise from its begin to its end.
func record(t *testing.T, name string, args ...string) (*job, []trace.Event) {
	t.Helper()
	r := open(t, Options{Agent: "test"})
	j := start(t, name, args...)
	s := follow(t, r, j.cmd.Process.Pid)
	j.begin(t)
	j.finish(t)
	return j, collect(t, s)
}

func show(events []trace.Event) string {
	var b strings.Builder
	for _, e := range events {
		text, _ := json.Marshal(e)
		b.Write(append(text, '\n'))
	}
	return b.String()
}

// want fails unless the events of a type are those, in this order, as tell puts them.
func want(t *testing.T, events []trace.Event, tell func(trace.Event) string, want ...string) {
	t.Helper()
	var got []string
	for _, e := range events {
		if line := tell(e); line != "" {
			got = append(got, line)
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s\nall:\n%s", g, w, show(events))
	}
}

// Whatever it is about, an event says whose it is and when it was.
func common(t *testing.T, events []trace.Event, since time.Time) {
	t.Helper()
	for _, e := range events {
		if e.Timestamp.Before(since.Add(-time.Second)) || e.Timestamp.After(time.Now().Add(time.Second)) || e.Timestamp.Location() != time.UTC {
			t.Errorf("time of %+v", e)
		}
		if e.Type != trace.Dropped && (e.PID == 0 || e.Start == 0 || e.PPID == 0 || e.ParentStart == 0 || e.Command == "") {
			t.Errorf("incomplete: %+v", e)
		}
	}
}

// S0-20, 4-47: the process tree with arguments, ends and times.
func TestProcesses(t *testing.T) {
	began := time.Now()
	r := open(t, Options{})
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `read go; cd "$1"; sh -c 'exit 3'; (exec -a other /bin/sleep 0.01 --token=geheim12); sh -c 'kill -9 $$'; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done`, "sh", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := follow(t, r, cmd.Process.Pid)
	if got := s.Describe().Scope; got != "cgroup+tree" {
		t.Errorf("scope %q", got)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	events := collect(t, s)
	common(t, events, began)
	root := trace.Process{PID: events[0].PID, Start: events[0].Start}
	if e := events[0]; e.Type != trace.ProcessExec || e.Method != "running" || e.PID != cmd.Process.Pid || e.Path == "" || len(e.Args) != 5 {
		t.Errorf("first: %+v", e)
	}
	want(t, events[1:], func(e trace.Event) string {
		switch e.Type {
		case trace.ProcessExec:
			if e.Process() == root {
				return "" // its own, which it was about when it was followed
			}
			parent := "of another"
			if e.PPID == root.PID && e.ParentStart == root.Start {
				parent = "of the root"
			}
			return fmt.Sprint("exec ", filepath.Base(e.Path), " ", strings.Join(e.Args, " "), " in ", e.Dir == dir, " ", parent)
		case trace.ProcessExit:
			return fmt.Sprint("exit ", e.ExitCode, " ", e.Signal)
		}
		return ""
	},
		"exec dash sh -c exit 3 in true of the root", "exit 3 0",
		"exit 127 0", // dash knows no exec -a
		"exec dash sh -c kill -9 $$ in true of the root", "exit 0 9",
		"exit 0 0")
	last := events[len(events)-1]
	ru := cmd.ProcessState
	if used := ru.UserTime() + ru.SystemTime(); last.Process() != root || last.CPUUS < used.Microseconds()*8/10-2000 || last.CPUUS > used.Microseconds()*12/10+2000 {
		t.Errorf("the root used %d µs, the kernel says %s", last.CPUUS, used)
	}
	if last.DurationUS < last.CPUUS || last.MemoryKiB < 500 {
		t.Errorf("the root's end: %+v", last)
	}
	if lost := s.Lost(); len(lost) != 0 {
		t.Errorf("lost %v", lost)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, events := record(t, "files", dir)
	common(t, events, began)
	want(t, events, func(e trace.Event) string {
		if !strings.HasPrefix(e.Path, dir) {
			return ""
		}
		rest := strings.TrimPrefix(e.Path, dir)
		switch e.Type {
		case trace.FileOpen:
			return "open " + rest + " " + e.Flags
		case trace.FileWrite:
			return fmt.Sprint("write ", rest, " ", e.Bytes)
		case trace.FileDelete:
			return "delete " + rest
		case trace.FileRename:
			return "rename " + rest + " " + strings.TrimPrefix(e.NewPath, dir)
		}
		return ""
	},
		"open /a write,create,truncate", "write /a 5", "rename /a /b", "rename /b /sub/c",
		"open /sub/c write,append", // the link's target
		"delete /sub/c", "delete /link", "delete /sub")
}

// Every byte is told, in few events, however it was written and the file closed.
func TestWrites(t *testing.T) {
	dir := t.TempDir()
	_, events := record(t, "writes", dir)
	got, n := map[string]int64{}, 0
	for _, e := range events {
		if e.Type == trace.FileWrite {
			got[filepath.Base(e.Path)] += e.Bytes
			n++
		}
	}
	for name, bytes := range map[string]int64{"many": 10_000, "ways": 10 + 20 + 10 + 100 + 1000, "dup": 30} {
		if got[name] != bytes {
			t.Errorf("%s: %d bytes, want %d\n%s", name, got[name], bytes, show(events))
		}
	}
	if n > 12 {
		t.Errorf("%d events", n)
	}
}

func TestReads(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		reads Reads
		want  string
	}{
		{ReadsFirst, "one two"}, {ReadsSensitive, ""}, {ReadsNone, ""},
		{ReadsAll, "one two one+49 two+49"},
	} {
		r := open(t, Options{Reads: c.reads})
		j := start(t, "reads", dir)
		s := follow(t, r, j.cmd.Process.Pid)
		j.begin(t)
		j.finish(t)
		events := collect(t, s)
		got, quiet := map[string]int64{}, ""
		for _, e := range events {
			if e.Type != trace.FileOpen {
				continue
			}
			if filepath.Dir(e.Path) == dir {
				got[filepath.Base(e.Path)] += max(e.Count, 1)
			} else if e.Path != "/etc/localtime" {
				quiet += e.Path + " "
			}
		}
		wantN := map[Reads]int64{ReadsFirst: 1, ReadsAll: 50}[c.reads]
		if got["one"] != wantN || got["two"] != wantN {
			t.Errorf("%q: %v, want %d of each\n%s", c.reads, got, wantN, show(events))
		}
		if c.reads != ReadsAll && quiet != "" {
			t.Errorf("%q told of %s", c.reads, quiet)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// S0-20: reading another process's memory, by all its ways, with whose it was.
func TestMemory(t *testing.T) {
	victim := start(t, "stay")
	_, events := record(t, "memory", strconv.Itoa(victim.cmd.Process.Pid))
	self, _ := os.Executable()
	comm := filepath.Base(self)
	comm = comm[:min(15, len(comm))]
	want(t, events, func(e trace.Event) string {
		switch {
		case e.Type == trace.MemRead:
			return fmt.Sprint(e.Method, " ", e.Target == victim.cmd.Process.Pid, " ", e.TargetCommand == comm, " ", filepath.Base(e.Path))
		case e.Type == trace.FileOpen && strings.HasPrefix(e.Path, "/proc/"):
			return "open " + filepath.Base(e.Path)
		}
		return ""
	},
		"proc_mem true true mem", "proc_environ true true environ", "open maps",
		"process_vm_readv true true .", "ptrace true true .")
}

func TestKernel(t *testing.T) {
	_, events := record(t, "kernel")
	lines := []string{"bpf_load prog_load harmless ", "module_load   ", "module_load  hostname /etc/hostname", "io_uring   "}
	if _, err := os.Stat("/proc/modules"); err != nil { // a kernel without modules
		lines = []string{lines[0], lines[3]}
	}
	want(t, events, func(e trace.Event) string {
		switch e.Type {
		case trace.BPFLoad, trace.ModuleLoad, trace.IOUring, trace.Tamper:
			return fmt.Sprint(e.Type, " ", e.Method, " ", e.Name, " ", e.Path)
		}
		return ""
	}, lines...)
}

func TestUsers(t *testing.T) {
	_, events := record(t, "users")
	want(t, events, func(e trace.Event) string {
		if e.Type == trace.SetUID && e.Count == 0 { // Go asks for each of its threads
			return fmt.Sprint(e.UID, " ", e.TargetUID)
		}
		return ""
	}, "0 12345")
}

func TestSockets(t *testing.T) {
	at := filepath.Join(t.TempDir(), "socket")
	abstract := "@muster-bpf-test-" + strconv.Itoa(os.Getpid())
	for _, name := range []string{at, abstract} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	_, events := record(t, "sockets", at, abstract)
	want(t, events, func(e trace.Event) string {
		switch e.Type {
		case trace.RawSocket:
			return fmt.Sprint("raw ", e.Method, " ", e.Protocol)
		case trace.UnixConnect:
			return fmt.Sprint("unix ", e.Path, " ", e.Count)
		}
		return ""
	}, "raw raw icmp", "raw packet ", "unix "+at+" 0", "unix "+abstract+" 0", "unix "+at+" 1")
}

// An attempt on the recorder is told, whether it comes to anything or not.
func TestTamper(t *testing.T) {
	victim := start(t, "stay")
	pid := victim.cmd.Process.Pid
	r := open(t, Options{Protect: []int{pid}})
	j := start(t, "tamper", strconv.Itoa(pid))
	s := follow(t, r, j.cmd.Process.Pid)
	j.begin(t)
	j.finish(t)
	want(t, collect(t, s), func(e trace.Event) string {
		if e.Type == trace.Tamper {
			return fmt.Sprint(e.Method, " ", e.Signal, " ", e.Target == pid, " ", e.TargetCommand != "")
		}
		return ""
	}, "signal 19 true true", "signal 9 true true")
}

func TestTamperWithPrograms(t *testing.T) {
	if _, err := exec.LookPath("bpftool"); err != nil {
		t.Fatal("this test needs bpftool")
	}
	r := open(t, Options{})
	cmd := exec.Command("sh", "-c", `read go; bpftool link list >/dev/null 2>&1; id=$(bpftool link list | sed -n 's/^\([0-9]*\): raw_tracepoint.*/\1/p' | head -1); bpftool link detach id "$id"`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := follow(t, r, cmd.Process.Pid)
	in.Close()
	_ = cmd.Wait() // detaching tracing is refused by the kernel
	methods := map[string]bool{}
	for _, e := range collect(t, s) {
		if e.Type == trace.Tamper {
			methods[e.Method] = true
		}
	}
	if !methods["bpf_open"] || !methods["bpf_detach"] {
		t.Errorf("told of %v", methods)
	}
}

func TestMount(t *testing.T) {
	dir := t.TempDir()
	_, events := record(t, "mount", dir)
	want(t, events, func(e trace.Event) string {
		switch {
		case e.Type == trace.Mount && e.Path == dir:
			return fmt.Sprint("mount ", e.Source, " ", e.FileSystem)
		case e.Type == trace.FileOpen && strings.HasPrefix(e.Path, dir):
			return "open " + strings.TrimPrefix(e.Path, dir)
		}
		return ""
	}, "mount a-name tmpfs", "open /inside")
}

// S0-20: a process that leaves the job's cgroup is still the job's.
func TestEscape(t *testing.T) {
	mount := cgroupMount()
	if mount == "" {
		t.Fatal("this test needs a hierarchy of cgroup version 2")
	}
	other, err := os.MkdirTemp(mount, "muster-bpf-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeCgroup(other, time.Now().Add(time.Second)) })
	_, events := record(t, "escape", other)
	want(t, events, func(e trace.Event) string {
		switch {
		case e.Type == trace.CgroupMove:
			return "moved to " + filepath.Base(e.Path)
		case e.Type == trace.ProcessExec && len(e.Args) == 2 && e.Args[1] == "escaped":
			return "ran"
		}
		return ""
	}, "moved to "+filepath.Base(other), "ran")
}

// S0-20: so is one that leaves its session and outlives its parent.
func TestDaemon(t *testing.T) {
	r := open(t, Options{})
	j := start(t, "daemon")
	s := follow(t, r, j.cmd.Process.Pid)
	j.begin(t)
	j.finish(t)
	deadline := time.After(10 * time.Second)
	for {
		select {
		case b := <-s.Events():
			for _, e := range b {
				if e.Type == trace.ProcessExec && strings.Join(e.Args, " ") == "/bin/true far away" {
					return
				}
			}
		case <-deadline:
			t.Fatal("the daemon's program was not told of")
		}
	}
}

// Processes that are there already belong to the scope, and what a cgroup that was
// asked for starts does too.
func TestRunning(t *testing.T) {
	r := open(t, Options{})
	cmd := exec.Command("sh", "-c", `sh -c 'read go; /bin/true child'; :`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForChild(t, cmd.Process.Pid)
	s := follow(t, r, cmd.Process.Pid)
	in.Close()
	_ = cmd.Wait()
	running, ran := 0, false
	for _, e := range collect(t, s) {
		if e.Type == trace.ProcessExec && e.Method == "running" {
			running++
		}
		ran = ran || e.Type == trace.ProcessExec && strings.Join(e.Args, " ") == "/bin/true child"
	}
	if running != 2 || !ran {
		t.Errorf("%d were running; its child was told of: %t", running, ran)
	}
}

func waitForChild(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if len(strings.Fields(string(text))) > 0 {
			return
		}
	}
	t.Fatal("no child")
}

func TestCgroupOfItsOwn(t *testing.T) {
	mount := cgroupMount()
	dir, err := os.MkdirTemp(mount, "muster-bpf-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeCgroup(dir, time.Now().Add(time.Second)) })
	r := open(t, Options{})
	root := start(t, "stay")
	s, err := r.Follow(t.Context(), Follow{Root: root.cmd.Process.Pid, Cgroup: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// Started by nobody of the tree's, as an engine starts a container.
	cmd := exec.Command("sh", "-c", `echo 0 > "$1/cgroup.procs"; mkdir "$1/below"; echo 0 > "$1/below/cgroup.procs"; /bin/true contained; echo 0 > "$1/../cgroup.procs"; rmdir "$1/below"; /bin/true later`, "sh", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want(t, collect(t, s), func(e trace.Event) string {
		switch {
		case e.Type == trace.ProcessExec && e.Args[0] == "/bin/true":
			return e.Args[1]
		case e.Type == trace.CgroupMove:
			return "left"
		}
		return ""
	}, "contained", "left", "later")
	root.begin(t)
	root.finish(t)
	if _, err := os.Stat(dir); err != nil {
		t.Error("a cgroup that was somebody else's is gone")
	}
}

// Two jobs of one recorder do not mix, and the end of one is nothing to the other.
func TestScopesApart(t *testing.T) {
	r := open(t, Options{})
	var jobs [3]*job
	var scopes [3]*Scope
	for i := range jobs {
		jobs[i] = start(t, "pulse", "job-"+strconv.Itoa(i))
		scopes[i] = follow(t, r, jobs[i].cmd.Process.Pid)
	}
	for _, j := range jobs {
		j.begin(t)
	}
	var all [3][]trace.Event
	var wg sync.WaitGroup
	enough := make(chan struct{}, len(jobs))
	for i, s := range scopes {
		wg.Go(func() {
			n := 0
			for b := range s.Events() {
				all[i] = append(all[i], b...)
				if before := n; before < 50 {
					if n += len(b); n >= 50 {
						enough <- struct{}{}
					}
				}
			}
		})
	}
	for range jobs {
		<-enough
	}
	for i, j := range jobs {
		j.finish(t)
		if err := scopes[i].Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	for i, events := range all {
		ran := 0
		for _, e := range events {
			if e.Type == trace.ProcessExec && e.Args[0] == "/bin/true" {
				ran++
				if e.Args[1] != "job-"+strconv.Itoa(i) {
					t.Errorf("job %d was told of %v", i, e.Args)
				}
			}
		}
		if ran == 0 {
			t.Errorf("job %d: nothing", i)
		}
	}
}

// 4-46: what does not fit is counted to the last one, and told.
func TestLossIsExact(t *testing.T) {
	r := open(t, Options{Rate: 1 << 30})
	j := start(t, "opens", t.TempDir(), "150000")
	s := follow(t, r, j.cmd.Process.Pid)
	// The reader is held up: this scope's lock is what it needs for every event.
	r.mu.Lock()
	j.begin(t)
	err := j.cmd.Wait()
	r.mu.Unlock()
	if err != nil {
		t.Fatalf("%v: %s", err, j.out)
	}
	events := collect(t, s)
	var told, dropped int64
	for _, e := range events {
		switch {
		case e.Type == trace.FileOpen && strings.HasPrefix(filepath.Base(e.Path), "f"):
			told += max(1, e.Count)
		case e.Type == trace.Dropped && e.Name == string(trace.FileOpen) && e.Method == "buffer_full":
			dropped += e.Count
		}
	}
	if told+dropped < 150_000 || told+dropped > 150_010 || dropped == 0 {
		t.Errorf("%d told and %d dropped are not 150000", told, dropped)
	}
	var sum int64
	for _, e := range events {
		if e.Type == trace.Dropped {
			sum += e.Count
		}
	}
	if lost := s.Lost(); lost["buffer_full"] != sum {
		t.Errorf("lost %v, told %d", lost, sum)
	}
}

// 4-46: a job above its rate loses what is more, exactly counted.
func TestRateLimit(t *testing.T) {
	r := open(t, Options{Rate: 50}) // whatever else the machine does, it opens more files than that
	j := start(t, "opens", t.TempDir(), "30000")
	s := follow(t, r, j.cmd.Process.Pid)
	j.begin(t)
	j.finish(t)
	var told, dropped int64
	for _, e := range collect(t, s) {
		switch {
		case e.Type == trace.FileOpen && strings.HasPrefix(filepath.Base(e.Path), "f"):
			told += max(1, e.Count)
		case e.Type == trace.Dropped && e.Name == string(trace.FileOpen):
			dropped += e.Count
		}
	}
	if told+dropped < 30_000 || told+dropped > 30_010 || s.Lost()["rate_limit"] == 0 {
		t.Errorf("%d told and %d dropped are not 30000; lost %v", told, dropped, s.Lost())
	}
}

// Nobody reading one scope's events is no other's concern.
func TestDeafReader(t *testing.T) {
	r := open(t, Options{})
	deaf, heard := start(t, "opens", t.TempDir(), "20000"), start(t, "files", dirWithSub(t))
	s1, s2 := follow(t, r, deaf.cmd.Process.Pid), follow(t, r, heard.cmd.Process.Pid)
	deaf.begin(t)
	deaf.finish(t)
	heard.begin(t)
	heard.finish(t)
	if n := len(collect(t, s2)); n < 8 {
		t.Errorf("the other job's %d events", n)
	}
	if err := s1.Close(); err != nil {
		t.Error(err)
	}
}

func dirWithSub(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A recorder that is killed leaves a cgroup; the next one removes it, and lets whoever
// is in it live.
func TestKilledRecorder(t *testing.T) {
	mount := cgroupMount()
	left := filepath.Join(mount, ownPrefix+"4194303-1-1")
	if err := os.MkdirAll(filepath.Join(left, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeCgroup(left, time.Now().Add(time.Second)) })
	stray := start(t, "stay")
	if err := os.WriteFile(filepath.Join(left, "below", "cgroup.procs"), []byte(strconv.Itoa(stray.cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	open(t, Options{})
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	stray.begin(t)
	stray.finish(t)
}

// One that is killed in the middle takes its programs with it; the job goes on.
func TestKilledInTheMiddle(t *testing.T) {
	pulse := start(t, "pulse", "on")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	recorder := exec.Command(self, strconv.Itoa(pulse.cmd.Process.Pid))
	recorder.Env = append(os.Environ(), exerciseEnv+"=recorder")
	recorder.Stdin = strings.NewReader("\n")
	out, err := recorder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := recorder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(line)
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	pulse.begin(t)
	if err := recorder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = recorder.Wait()
	r := open(t, Options{})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("cgroup %s: %v", dir, err)
	}
	// The next one records the same job.
	s := follow(t, r, pulse.cmd.Process.Pid)
	for ran := false; !ran; {
		for _, e := range <-s.Events() {
			ran = ran || e.Type == trace.ProcessExec && strings.Join(e.Args, " ") == "/bin/true on"
		}
	}
	pulse.finish(t)
}

// S0-20: a container that the job starts is the job's, with its id.
func TestContainer(t *testing.T) {
	for _, tool := range []string{"podman", "runc", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s", tool)
		}
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev", "sys", "etc", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	box, _ := exec.LookPath("busybox")
	text, err := os.ReadFile(box)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	r := open(t, Options{})
	cmd := exec.Command("sh", "-c", `read go; exec podman --runtime runc --cgroup-manager cgroupfs run --rm --network none --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --rootfs "$1" /bin/sh -c 'echo x > /tmp/inside'`, "sh", root)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := follow(t, r, cmd.Process.Pid)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	found := map[string]string{}
	for _, e := range collect(t, s) {
		switch {
		case e.Type == trace.ProcessExec && strings.HasPrefix(strings.Join(e.Args, " "), "/bin/sh -c echo x"):
			found["exec"] = e.Container
		case e.Type == trace.FileOpen && e.Path == "/tmp/inside":
			found["open"] = e.Container
		case e.Type == trace.CgroupMove && e.Command != "conmon" && strings.Contains(e.Path, "libpod-"):
			found["move"] = filepath.Base(e.Path)[len("libpod-"):]
		}
	}
	if id := found["exec"]; len(id) != 64 || found["open"] != id || found["move"] != id {
		t.Errorf("found %v", found)
	}
}

// The numbers of a container's processes are its own; a trace has the machine's.
func TestMemoryInside(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, Options{})
	cmd := exec.Command("sh", "-c", `read go; exec unshare --pid --fork --mount-proc sh -c 'sleep 60 & echo | `+exerciseEnv+`=memory "$0" $!; status=$?; kill $!; exit $status' "$1"`, "sh", self)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := follow(t, r, cmd.Process.Pid)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	sleep := 0
	events := collect(t, s)
	for _, e := range events {
		if e.Type == trace.ProcessExec && e.Command == "sleep" {
			sleep = e.PID
		}
	}
	want(t, events, func(e trace.Event) string {
		if e.Type != trace.MemRead || e.Count > 0 {
			return ""
		}
		return fmt.Sprint(e.Method, " ", e.Target == sleep)
	}, "proc_mem true", "proc_environ true", "process_vm_readv true", "ptrace true")
}

// What is recorded ends with Close, nothing is left, and processes go on.
func TestNothingIsLeft(t *testing.T) {
	r := open(t, Options{})
	j := start(t, "pulse", "still")
	s := follow(t, r, j.cmd.Process.Pid)
	dir := s.cgroup
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	j.begin(t)
	<-s.Events()
	collect(t, s)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("cgroup %s: %v", dir, err)
	}
	for _, name := range []string{"tree", "cgroups", "writes", "writers", "lost"} {
		var key [32]byte
		m := r.maps[name]
		k := key[:m.KeySize()]
		if err := m.NextKey(nil, k); err == nil {
			t.Errorf("map %s still has %v", name, k)
		}
	}
	j.finish(t)
	if err := s.Close(); err != nil {
		t.Error("closing again:", err)
	}
}

// S0-20: without rights nothing is recorded, and it is said why.
func TestUnprivileged(t *testing.T) {
	j := start(t, "stay")
	j.begin(t)
	j.finish(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "test")
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(copied); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", copied)
	cmd.Env = append(os.Environ(), exerciseEnv+"=describe")
	cmd.Stdin = strings.NewReader("\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "neither root nor the capabilities") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFollowNobody(t *testing.T) {
	r := open(t, Options{})
	if _, err := r.Follow(t.Context(), Follow{Root: 1 << 22}); err == nil {
		t.Error("a process that does not exist is followed")
	}
	var k, v uint32
	if r.maps["tree"].Iterate().Next(&k, &v) {
		t.Error("it is in the tree")
	}
}
