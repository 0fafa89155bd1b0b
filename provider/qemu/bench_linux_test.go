package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// BenchmarkConnect measures from the call of Create to the arrival of the agent's first
// request, one machine at a time, for machines that are copied and machines that boot;
// then the memory of eight copies that wait for a job, as the kernel accounts for pages
// that they share.
func BenchmarkConnect(b *testing.B) {
	l := requireLab(b)
	api := newPlane(b)
	p50 := map[bool]time.Duration{}
	for _, warm := range []bool{true, false} {
		name, runs := "cold", 20
		if warm {
			name, runs = "warm", 40
		}
		b.Run(name, func(b *testing.B) {
			c := l.config(filepath.Join(l.dir, "bench"))
			c.Warm, c.MemoryMiB = warm, 256
			p := open(b, c)
			var times []time.Duration
			for i := range runs + 1 {
				id := muster.RunnerID(fmt.Sprintf("r-%s-%d-%d", name, i, time.Now().UnixNano()%1e6))
				began := time.Now()
				create(b, p, specFor(id, api.URL))
				s := api.await(b, string(id), "does not connect", booted)
				if i > 0 { // the first one makes the template
					times = append(times, s.bootAt.Sub(began))
				}
				destroy(b, p, id)
			}
			slices.Sort(times)
			p50[warm] = times[len(times)/2]
			b.ReportMetric(float64(times[len(times)/2].Milliseconds()), "p50-ms")
			b.ReportMetric(float64(times[len(times)*95/100].Milliseconds()), "p95-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
	if p50[true] > 0 && p50[false] > 0 {
		b.Logf("warm is %.1f times as fast as cold", float64(p50[false])/float64(p50[true]))
	}
	b.Run("memory", func(b *testing.B) {
		c := l.config(filepath.Join(l.dir, "bench"))
		c.MemoryMiB = 256
		p := open(b, c)
		const clones = 8
		var total int64
		for i := range clones {
			id := muster.RunnerID(fmt.Sprintf("r-memory-%d-%d", i, time.Now().UnixNano()%1e6))
			create(b, p, specFor(id, api.URL))
			api.await(b, string(id), "is not listening", listening)
		}
		for inst, err := range p.List(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
			st, err := readState(p.path(inst.Runner))
			if err != nil {
				b.Fatal(err)
			}
			total += pss(b, st.PID)
		}
		b.ReportMetric(float64(total)/clones/1024, "PSS-MiB/machine")
		b.ReportMetric(0, "ns/op")
	})
}

// pss is a process's memory in KiB, shared pages counted in part.
func pss(b *testing.B, pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("the kernel does not tell the memory of a process")
	return 0
}
