//go:build linux && (amd64 || arm64)

package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/trace"
)

// The figures of bench/results/*-trace-overhead.txt. Each turn is a pair, the same work
// once recorded and once not, in changing order. CPU time is what counts, that of the
// work with all its children and that of the recorder, who encodes and packs what he
// sees as the agent does: other work on the machine makes wall times worthless.

// usage is CPU time, user and system.
type usage struct{ job, recorder, open time.Duration }

func (s usage) all() time.Duration { return s.job + s.recorder }

func cpuOf(who int) time.Duration {
	var u unix.Rusage
	if unix.Getrusage(who, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run does the work of cmd once its process is followed, or just so.
func runOnce(b *testing.B, recorded bool, make func() *exec.Cmd) (s usage, events int, lost map[string]int64) {
	b.Helper()
	cmd := make()
	// The shell waits for a line, and then becomes the work.
	cmd.Args = append([]string{"sh", "-c", `read go; exec "$@"`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	before := cpuOf(unix.RUSAGE_SELF)
	var r *Recorder
	if recorded {
		if r, err = Open(Options{Rate: 1 << 30}); err != nil {
			b.Fatal(err)
		}
		defer r.Close()
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	opened := cpuOf(unix.RUSAGE_SELF)
	s.open = opened - before
	var scope *Scope
	packed := func() {}
	if recorded {
		scope = follow(b, r, cmd.Process.Pid)
		packed = pack(b, scope, &events)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v: %s", err, &out)
	}
	if recorded {
		if err := scope.Close(); err != nil {
			b.Fatal(err)
		}
		packed()
		lost = scope.Lost()
	}
	s.recorder = cpuOf(unix.RUSAGE_SELF) - opened
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	s.job = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return s, events, lost
}

// pack encodes and packs what a scope tells, as an agent does.
func pack(b *testing.B, s *Scope, n *int) (wait func()) {
	p, err := trace.NewPacker()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var lines []byte
		for batch := range s.Events() {
			for _, e := range batch {
				*n += int(max(1, e.Count))
				lines, _ = trace.AppendEvent(lines, e)
			}
			if len(lines) > 256<<10 {
				p.Pack(lines)
				lines = lines[:0]
			}
		}
		p.Pack(lines)
	}()
	return func() { <-done }
}

// overhead compares pairs and tells their ratios.
func overhead(b *testing.B, make func() *exec.Cmd) {
	var ratios, shares []float64
	events, opens := 0, time.Duration(0)
	var with, without time.Duration
	lostAny := map[string]int64{}
	for i := 0; b.Loop(); i++ {
		var pair [2]usage
		for j := range 2 {
			recorded := (i+j)%2 == 1
			s, n, lost := runOnce(b, recorded, make)
			if recorded {
				pair[1], events, opens = s, n, s.open
				for why, k := range lost {
					lostAny[why] += k
				}
			} else {
				pair[0] = s
			}
		}
		ratios = append(ratios, pair[1].all().Seconds()/pair[0].all().Seconds())
		shares = append(shares, pair[1].job.Seconds()/pair[0].job.Seconds())
		with, without = pair[1].all(), pair[0].all()
	}
	slices.Sort(ratios)
	slices.Sort(shares)
	at := func(of []float64, i int) string { return strconv.FormatFloat(of[i], 'f', 3, 64) }
	b.Logf("%d pairs; CPU with/without, recorder and job: median %s [%s..%s]; the job alone: median %s [%s..%s]",
		len(ratios), at(ratios, len(ratios)/2), at(ratios, 0), at(ratios, len(ratios)-1), at(shares, len(shares)/2), at(shares, 0), at(shares, len(shares)-1))
	b.Logf("last pair %.2f s and %.2f s; %d events; lost %v; load and attach %.2f s of CPU, once", with.Seconds(), without.Seconds(), events, lostAny, opens.Seconds())
	b.ReportMetric(ratios[len(ratios)/2], "cpu-ratio")
}

// BenchmarkOverheadForks starts 1,000 programs, one after the other.
func BenchmarkOverheadForks(b *testing.B) {
	overhead(b, func() *exec.Cmd {
		return exec.Command("sh", "-c", `i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done`)
	})
}

// BenchmarkOverheadBuild builds a command and all that it needs of the standard library,
// from an empty cache.
func BenchmarkOverheadBuild(b *testing.B) {
	overhead(b, func() *exec.Cmd {
		cache := b.TempDir()
		cmd := exec.Command("go", "build", "-o", filepath.Join(cache, "out"), "../../tools/requirements")
		cmd.Env = append(os.Environ(), "GOCACHE="+cache, "GOFLAGS=-p=2", "CGO_ENABLED=0")
		return cmd
	})
}

// openStorm has writers open files for writing, and says how many of their events came.
func openStorm(b *testing.B, writers, each, perSecond, names int) {
	for b.Loop() {
		r, err := Open(Options{Rate: 1 << 30})
		if err != nil {
			b.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			b.Fatal(err)
		}
		var scripts []string
		for range writers {
			scripts = append(scripts, strings.Join([]string{exerciseEnv + "=opens", self, b.TempDir(), strconv.Itoa(each), strconv.Itoa(perSecond), strconv.Itoa(names), "</dev/zero &"}, " "))
		}
		cmd := exec.Command("sh", "-c", "read go; "+strings.Join(scripts, " ")+" wait")
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		s := follow(b, r, cmd.Process.Pid)
		n := 0
		packed := pack(b, s, &n)
		cpu, began := cpuOf(unix.RUSAGE_SELF), time.Now()
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		packed()
		b.Logf("%d opens in %.1f s, %.0f a second: %d events, lost %v, %.1f s of the recorder's CPU, %.0f µs an event", writers*each, took.Seconds(), float64(writers*each)/took.Seconds(), n, s.Lost(), (cpuOf(unix.RUSAGE_SELF) - cpu).Seconds(), float64((cpuOf(unix.RUSAGE_SELF)-cpu).Microseconds())/float64(n))
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSustained is a little over 20,000 events a second for 10 s, each of another file.
func BenchmarkSustained(b *testing.B) { openStorm(b, 1, 210_000, 21_000, 50_000) }

// BenchmarkMost is as many as two writers can make.
func BenchmarkMost(b *testing.B) { openStorm(b, 2, 300_000, 0, 50_000) }
