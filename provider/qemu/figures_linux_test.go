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
	"github.com/muster-ci/muster/provider/providertest"
)

// TestFigures measures from the call of Create to the arrival of the agent's first
// request, one machine at a time, for machines that are copied and machines that boot;
// then the memory of eight copies that wait for a job, as the kernel accounts for pages
// that they share. It takes minutes with MUSTER_FIGURES, and is short without.
func TestFigures(t *testing.T) {
	runs, clones := 1, 2
	if os.Getenv("MUSTER_FIGURES") != "" {
		runs, clones = 20, 8
	}
	l := requireLab(t)
	api := newPlane(t)
	c := l.config(filepath.Join(l.dir, "figures"))
	c.MemoryMiB = 256
	p50 := map[bool]time.Duration{}
	for _, warm := range []bool{true, false} {
		c.Warm = warm
		p := open(t, c)
		var accepted, connected []time.Duration
		var cpu []int64
		for i := range runs + 1 {
			id := muster.RunnerID(fmt.Sprintf("r-figure-%t-%d", warm, i))
			began := time.Now()
			create(t, p, specFor(id, api.URL))
			took := time.Since(began)
			s := api.await(t, string(id), "does not connect", booted)
			st, err := readState(p.path(id))
			if err != nil {
				t.Fatal(err)
			}
			ticks, err := cpuTicks(st.PID)
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 { // the first one makes the template
				accepted, connected, cpu = append(accepted, took), append(connected, s.bootAt.Sub(began)), append(cpu, ticks)
			}
			destroy(t, p, id)
		}
		slices.Sort(accepted)
		slices.Sort(connected)
		slices.Sort(cpu)
		p50[warm] = connected[runs/2]
		t.Logf("warm %t, n=%d: Create returns after p50 %s; agent connected p50 %s, p95 %s, worst %s; CPU of QEMU until then p50 %d ms",
			warm, runs, accepted[runs/2].Round(time.Millisecond), connected[runs/2].Round(time.Millisecond),
			connected[runs*95/100].Round(time.Millisecond), connected[runs-1].Round(time.Millisecond), cpu[runs/2]*10)
	}
	if p50[true] >= p50[false] {
		t.Errorf("a copy connects after %s, and a machine that boots after %s: the template is for nothing", p50[true], p50[false])
	}
	t.Logf("a copy connects %.1f times as fast as a machine that boots", float64(p50[false])/float64(p50[true]))
	c.Warm = true
	p := open(t, c)
	for i := range clones {
		id := muster.RunnerID(fmt.Sprintf("r-memory-%d", i))
		create(t, p, specFor(id, api.URL))
		api.await(t, string(id), "is not listening", listening)
	}
	var kib int64
	for inst, err := range p.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		st, err := readState(p.path(inst.Runner))
		if err != nil {
			t.Fatal(err)
		}
		kib += pss(t, st.PID)
	}
	t.Logf("PSS of a copy that waits for a job, one of %d: %d MiB", clones, kib/int64(clones)/1024)
	providertest.Figure(t, "qemu", providertest.FigureConnect, fmt.Sprintf("%d ms (n=%d, %s, from a template; booted %d ms)", p50[true].Milliseconds(), runs, p.accel, p50[false].Milliseconds()))
	providertest.Figure(t, "qemu", providertest.FigureMemory, fmt.Sprintf("%d MiB", kib/int64(clones)/1024))
}

// pss is a process's memory in KiB, shared pages counted in part.
func pss(t *testing.T, pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel does not tell the memory of a process")
	return 0
}
