package agent

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// cgroupName is the last part of the cgroup that a process is in.
func cgroupName(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Base(at)
		}
	}
	t.Fatalf("process %d is in no cgroup of version 2: %s", pid, text)
	return ""
}

// scripted starts a run.sh in a place, and returns the name of the cgroup in which it began and
// what it printed.
func scripted(t *testing.T, place, text string, follow func(pid int) error) (began, said string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := startRunner(command{dir: dir, place: place, env: os.Environ(), follow: func(pid int) error {
		began = cgroupName(t, pid)
		return follow(pid)
	}})
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan string)
	go func() {
		text, _ := io.ReadAll(r.output()) // it ends with kill at the latest
		out <- string(text)
	}()
	if code := <-r.exited(); code != 0 {
		t.Errorf("run.sh ended with %d", code)
	}
	r.kill()
	return began, <-out
}

// opened is the recorder of this machine's kernel.
func opened(t testing.TB) *kernel {
	t.Helper()
	rec, missing := checked(openKernel(recordOptions{log: slog.New(slog.DiscardHandler), agent: "test"}))
	if missing != "" {
		t.Fatal("these tests need root and a kernel with BTF: " + missing)
	}
	t.Cleanup(func() {
		if err := rec.Close(); err != nil {
			t.Error(err)
		}
	})
	return rec.(*kernel)
}

// S0-20: a runner is born in the cgroup by which it is followed, is recorded as one that was
// moved there, and leaves no cgroup behind.
func TestRunnerIsBornInItsPlace(t *testing.T) {
	rec := opened(t)
	dir, leave := rec.Place(os.Getpid())
	if dir == "" {
		t.Fatal("there is no place")
	}
	defer leave()
	var s scope
	began, said := scripted(t, dir, "/bin/echo $$; sed -n 's/^0:://p' /proc/self/cgroup", func(pid int) (err error) {
		s, err = rec.Follow(t.Context(), pid, trace.Egress{})
		return err
	})
	if began != filepath.Base(dir) {
		t.Errorf("it began in %s, and its place is %s", began, dir)
	}
	if got := s.Describe().Scope; got != "cgroup+tree" {
		t.Errorf("its scope is %q", got)
	}
	if !strings.Contains(said, "/"+filepath.Base(dir)+"\n") {
		t.Errorf("it ran elsewhere:\n%s", said)
	}
	var programs []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		for batch := range s.Events() {
			for _, e := range batch {
				if e.Type == trace.ProcessExec {
					programs = append(programs, strings.Join(e.Args, " "))
				}
				if e.Type == trace.CgroupMove {
					t.Errorf("it was moved: %+v", e)
				}
			}
		}
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-read
	if all := strings.Join(programs, "\n"); !strings.Contains(all, "/bin/echo ") || !strings.Contains(all, "run.sh") {
		t.Errorf("recorded of it:\n%s", all)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its cgroup: %v", err)
	}
}

// A place that cannot be used keeps no runner from starting, and is taken away again.
func TestRunnerWithoutItsPlace(t *testing.T) {
	rec := opened(t)
	here := cgroupName(t, os.Getpid())
	dir, leave := rec.Place(os.Getpid())
	// Beside one for threads, another may hold no process (cgroup-v2.rst, "domain invalid").
	invalid := filepath.Join(dir, "invalid")
	for _, below := range []string{filepath.Join(dir, "threads"), invalid} {
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "threads", "cgroup.type"), []byte("threaded"), 0); err != nil {
		t.Fatal(err)
	}
	for name, place := range map[string]string{"None": "", "NotThere": "/sys/fs/cgroup/nobody-made-it", "NoCgroup": t.TempDir(), "Refused": invalid} {
		t.Run(name, func(t *testing.T) {
			var s scope
			began, said := scripted(t, place, "echo done", func(pid int) (err error) {
				s, err = rec.Follow(t.Context(), pid, trace.Egress{})
				return err
			})
			if began != here || said != "done\n" {
				t.Errorf("it began in %s and said %q", began, said)
			}
			if got := s.Describe().Scope; got != "cgroup+tree" {
				t.Errorf("its scope is %q: it was not moved", got)
			}
			go func() {
				for range s.Events() { //nolint:revive // nobody wants them
				}
			}()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	leave()
	leave()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a place that was left: %v", err)
	}
}

// seats is a recorder with a place for each that asks.
type seats struct {
	*reel
	left chan string
}

func (s seats) Place(parent int) (dir string, leave func()) {
	dir = "/place/of/" + strconv.Itoa(parent)
	return dir, func() { s.left <- dir }
}

// A recorder makes the place of who asks it, and takes it back when the connection ends.
func TestLentPlace(t *testing.T) {
	rec := seats{&reel{}, make(chan string, 8)}
	socket := serving(t, lending{perUser: 9, scopes: 9}, rec)
	want := "/place/of/" + strconv.Itoa(os.Getpid())
	if got := <-rec.left; got != want { // of await
		t.Errorf("left %q, want %q", got, want)
	}
	r, err := dialRecorder(t.Context(), socket, recordOptions{agent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := r.(placer).Place(os.Getpid()); got != want {
		t.Errorf("place %q, want %q", got, want)
	}
	if _, err := r.Follow(t.Context(), child(t), trace.Egress{}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-rec.left:
		t.Errorf("%q was left while its scope is open", got)
	default:
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-rec.left; got != want {
		t.Errorf("left %q, want %q", got, want)
	}
}

// BenchmarkFollowedStart is the time from asking for the runner's process to its first instruction,
// for one that is born in its place and for one that is moved there. The two alternate.
func BenchmarkFollowedStart(b *testing.B) {
	rec := opened(b)
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		b.Fatal(err)
	}
	one := func(place string) time.Duration {
		var s scope
		began := time.Now()
		r, err := startRunner(command{dir: dir, place: place, env: os.Environ(), follow: func(pid int) (err error) {
			s, err = rec.Follow(b.Context(), pid, trace.Egress{})
			return err
		}})
		took := time.Since(began)
		if err != nil {
			b.Fatal(err)
		}
		<-r.exited()
		r.kill()
		go func() {
			for range s.Events() { //nolint:revive // nobody wants them
			}
		}()
		if err := s.Close(); err != nil {
			b.Error(err)
		}
		return took
	}
	var born, moved []time.Duration
	for b.Loop() {
		place, leave := rec.Place(os.Getpid())
		born = append(born, one(place))
		leave()
		moved = append(moved, one(""))
	}
	slices.Sort(born)
	slices.Sort(moved)
	b.ReportMetric(float64(born[len(born)/2].Microseconds())/1000, "born-p50-ms")
	b.ReportMetric(float64(moved[len(moved)/2].Microseconds())/1000, "moved-p50-ms")
	b.ReportMetric(0, "ns/op")
}
