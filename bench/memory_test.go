package bench

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/e2e"
)

// BenchmarkMemory is the resident memory of the control plane as its own process:
// idle after the start, and after many jobs. MUSTER_BENCH_JOBS says how many;
// bench/results holds the figures of 5,000.
func BenchmarkMemory(b *testing.B) {
	jobs := 1000
	if text := os.Getenv("MUSTER_BENCH_JOBS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		jobs = n
	}
	cfg := quick()
	s := e2e.New(b, e2e.Options{Sim: cfg, MaxRunners: 12, AppSettings: "mutations_per_minute: -1"})
	s.Sim.Faults().Off()
	p := s.Serve(b)
	settle := func() {
		select {
		case <-time.After(10 * time.Second): // garbage is collected when it pleases
		case <-b.Context().Done():
		}
	}
	for b.Loop() {
		settle()
		b.ReportMetric(rss(b, p.PID()), "idle-MiB")
		const portion = 250
		for done := 0; done < jobs; done += portion {
			s.Inject(b, portion, 0)
			for s.Sim.Truth().ByState()["completed"] < done+portion {
				select {
				case <-time.After(250 * time.Millisecond):
				case <-b.Context().Done():
					b.Fatal(b.Context().Err())
				}
			}
			b.Logf("%d jobs: %.0f MiB", done+portion, rss(b, p.PID()))
			if done+portion == jobs/5 {
				settle()
				b.ReportMetric(rss(b, p.PID()), "fifth-MiB")
			}
		}
		settle()
		b.ReportMetric(rss(b, p.PID()), "after-MiB")
		calls := 0
		for who, routes := range s.Sim.Truth().Calls {
			for route, n := range routes {
				b.Logf("%s %s: %d", who, route, n)
				calls += n
			}
		}
		b.ReportMetric(float64(calls)/float64(jobs), "rest-calls/job")
		b.ReportMetric(float64(jobs), "jobs")
	}
	b.ReportMetric(0, "ns/op")
}

// rss is the resident memory of a process in MiB.
func rss(b *testing.B, pid int) float64 {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kb, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(kb)[0])
			if err != nil {
				b.Fatal(err)
			}
			return float64(n) / 1024
		}
	}
	b.Fatal("no VmRSS: is this Linux?")
	return 0
}
