package tracegen_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/bench/tracegen"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/query"
	"github.com/muster-ci/muster/internal/trace/view"
)

// events is how many a job of these benchmarks has; MUSTER_BENCH_EVENTS says another number.
func events(b *testing.B) int {
	b.Helper()
	text := os.Getenv("MUSTER_BENCH_EVENTS")
	if text == "" {
		return 1_000_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkTraceViews is what it takes to make the views of a job of a million events, and
// to open them again, which is what a page waits for.
func BenchmarkTraceViews(b *testing.B) {
	o := tracegen.Options{Events: events(b), Run: 1, Incident: true}
	for b.Loop() {
		began, n := cpu(b), 0
		for range tracegen.Events(o) {
			n++
		}
		making := cpu(b) - began
		began = cpu(b)
		v := view.NewBuilder(tracegen.Job(o))
		for e := range tracegen.Events(o) {
			v.Add(e)
		}
		views := v.Views()
		b.ReportMetric((cpu(b) - began - making).Seconds(), "build-cpu-s")
		b.ReportMetric(float64(n), "events")
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "held-MiB")
		runtime.KeepAlive(v)
		var text bytes.Buffer
		began = cpu(b)
		if err := view.Encode(&text, views); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpu(b) - began).Seconds(), "encode-cpu-s")
		b.ReportMetric(float64(text.Len())/(1<<10), "stored-KiB")
		began, wall := cpu(b), time.Now()
		back, err := view.Decode(&text)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpu(b) - began).Seconds(), "open-cpu-s")
		b.ReportMetric(time.Since(wall).Seconds(), "open-s")
		b.ReportMetric(float64(len(back.Processes)), "processes")
		b.ReportMetric(float64(back.HiddenProcesses), "hidden-processes")
		began = cpu(b)
		view.Compare(back, views)
		b.ReportMetric((cpu(b) - began).Seconds(), "diff-cpu-s")
		b.ReportMetric(peak(b), "peak-MiB")
	}
}

// cpu is the time that this process has used of all CPUs. On a machine that does other work
// it is the figure to trust.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the most memory that this process ever had, in MiB.
func peak(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Maxrss) / 1024
}

// questions are what people ask, and two that the index cannot help with.
var questions = []struct{ name, expr string }{
	{"dns-xyz", `type == "dns_query" && hostname.endsWith(".xyz")`},
	{"read-key", `type == "file_open" && path.glob("/home/*/.ssh/**") && flags.hasFlag("read")`},
	{"download", `type == "process_exec" && args.exists(a, a.contains("http")) && path.base() in ["curl", "wget"]`},
	{"outside", `type == "net_connect" && address.isPublic() && !hostname.inDomain(["github.com", "githubusercontent.com", "npmjs.org", "golang.org"])`},
	{"step-and-time", `step == 3 && bytes > 60000 && timestamp > timestamp("2026-11-21T08:01:00Z")`},
	{"regex-path", `path.matches("node_modules/[a-z-]*crypto[a-z-]*/lib/file[0-9]\\.js$") && type == "file_write"`},
	{"any-process", `pid == 4242`},
	{"rows-text", `command + ":" + path == "node:/etc/shadow"`}, // every pair of values is asked
	{"rows-number", `(seq + pid) % 1000003 == 7`},               // every row is asked
	{"all-connects", `type == "net_connect"`},                   // every match is put together
}

// BenchmarkTraceIndex is what it takes to index a million events, and to ask a hundred
// such traces a question on two cores. MUSTER_BENCH_TRACES says another number than a hundred.
// The traces are four different builds, each opened 25 times: the operating system has the
// files in memory, and nothing is shared between two scans.
func BenchmarkTraceIndex(b *testing.B) {
	traces := 100
	if n, err := strconv.Atoi(os.Getenv("MUSTER_BENCH_TRACES")); err == nil {
		traces = n
	}
	var files []string
	for run := range uint64(4) {
		o := tracegen.Options{Events: events(b), Run: run, Incident: run == 2}
		name := filepath.Join(b.TempDir(), fmt.Sprintf("%d.parquet", run))
		file, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		began := cpu(b)
		n, err := query.WriteIndex(file, tracegen.Seq2(tracegen.Events(o)))
		if err != nil {
			b.Fatal(err)
		}
		info, err := file.Stat()
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("index of run %d: %d events, %.1f CPU s with making them, %.1f MiB, %.1f bytes an event, peak memory %.0f MiB", run, n, (cpu(b) - began).Seconds(), float64(info.Size())/(1<<20), float64(info.Size())/float64(n), peak(b))
		if err := file.Close(); err != nil {
			b.Fatal(err)
		}
		files = append(files, name)
	}
	for _, question := range questions {
		b.Run(question.name, func(b *testing.B) {
			q, err := query.Compile(question.expr)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				began, wall := cpu(b), time.Now()
				total := ask(b, q, files, traces)
				b.ReportMetric(time.Since(wall).Seconds(), "wall-s")
				b.ReportMetric((cpu(b) - began).Seconds(), "cpu-s")
				b.ReportMetric(float64(total.Rows), "events")
				b.ReportMetric(float64(total.Matched), "matched")
				b.ReportMetric(float64(total.Skipped)/float64(total.Groups), "skipped")
				b.ReportMetric(float64(total.Asked), "asked")
			}
			b.ReportMetric(peak(b), "peak-MiB")
		})
	}
}

// ask scans many traces, two at once.
func ask(b *testing.B, q *query.Query, files []string, traces int) query.Stats {
	b.Helper()
	var next atomic.Int64
	var mu sync.Mutex
	var total query.Stats
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(traces); i = next.Add(1) - 1 {
				stats, err := scan(q, files[i%int64(len(files))])
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				total.Rows += stats.Rows
				total.Matched += stats.Matched
				total.Groups += stats.Groups
				total.Skipped += stats.Skipped
				total.Asked += stats.Asked
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return total
}

func scan(q *query.Query, name string) (query.Stats, error) {
	file, err := os.Open(name)
	if err != nil {
		return query.Stats{}, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return query.Stats{}, err
	}
	return q.Scan(context.Background(), file, info.Size(), 0, func(trace.Event) bool { return true })
}
