package container

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// TestFigures measures what a runner costs on this machine, which is whatever else
// it does: it asserts nothing about time. MUSTER_CONTAINER_RUNS changes how often.
func TestFigures(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("MUSTER_CONTAINER_RUNS"))
	if err != nil || runs < 1 {
		runs = 24
	}
	t.Run("runc", func(t *testing.T) {
		e := enginetest.Podman(t, enginetest.Options{})
		var bridge []time.Duration
		for _, network := range []string{"host", "bridge"} {
			c := config(t, e)
			c.Network = network
			bridge = connects(t, e, c, runs)
		}
		providertest.Figure(t, "container", providertest.FigureConnect, fmt.Sprintf("%d ms (n=%d)", percentile(bridge, 50).Milliseconds(), runs))
		c := config(t, e)
		c.Network = "host"
		providertest.Figure(t, "container", providertest.FigureMemory, fmt.Sprintf("%d MiB", memory(t, e, c, 5)>>20))
	})
	t.Run("gvisor", func(t *testing.T) {
		e := enginetest.Podman(t, enginetest.Options{Runtime: "runsc", Runtimes: map[string]string{"runsc": enginetest.GVisor(t)}})
		c := config(t, e)
		c.Network, c.Isolation = "bridge", "gvisor"
		connects(t, e, c, runs)
		t.Logf("gvisor: memory per idle runner %d MiB", memory(t, e, c, 5)>>20)
	})
}

// connects measures from the call of Create to the agent's first call, n times, one
// after the other, on an image that is there. Deletions are not part of it.
func connects(t *testing.T, e *enginetest.Engine, c Config, n int) []time.Duration {
	t.Helper()
	at := "127.0.0.1:0"
	if c.Network == "bridge" {
		at = "0.0.0.0:0"
	}
	control := newPlane(t, at)
	p := open(t, c)
	var all, returned []time.Duration
	for i := range n + 1 {
		spec := specFor(muster.RunnerID(fmt.Sprintf("r-fig-%d", i)))
		spec.Boot.Token = muster.Secret(fmt.Sprintf("token-%d", i))
		spec.Boot.URL = control.URL
		if c.Network == "bridge" {
			_, port, _ := strings.Cut(strings.TrimPrefix(control.Listener.Addr().String(), "[::]"), ":")
			spec.Boot.URL = "http://" + bridgeAddress(t, e) + ":" + port
		}
		began := time.Now()
		create(t, p, spec)
		back := time.Since(began)
		up := control.connected(t, spec.Boot.Token.Reveal()).Sub(began)
		destroy(t, p, spec.Runner)
		if i > 0 { // the first makes the engine's bridge, and reads its files
			all, returned = append(all, up), append(returned, back)
		}
	}
	slices.Sort(all)
	slices.Sort(returned)
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("%s %s, network %s: create to agent connected p50 %s p95 %s, Create itself p50 %s (n=%d, load %.4s)",
		e.Name, c.Isolation, c.Network, ms(percentile(all, 50)), ms(percentile(all, 95)), ms(percentile(returned, 50)), n, load)
	return all
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// percentile is of sorted values.
func percentile(sorted []time.Duration, p int) time.Duration { return sorted[(len(sorted)-1)*p/100] }

// bridgeAddress is this side's address of the engine's bridge.
func bridgeAddress(t *testing.T, e *enginetest.Engine) string {
	t.Helper()
	if e.Name == "podman" {
		return "10.88.0.1"
	}
	return e.Tool(t, "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
}

// memory is what one of n idle runners keeps: the share of all processes that were not
// there before, what several use together counted once.
func memory(t *testing.T, e *enginetest.Engine, c Config, n int) int {
	t.Helper()
	control := newPlane(t, "0.0.0.0:0")
	_, port, _ := strings.Cut(strings.TrimPrefix(control.Listener.Addr().String(), "[::]"), ":")
	p := open(t, c)
	before := processes(t)
	for i := range n {
		spec := specFor(muster.RunnerID(fmt.Sprintf("r-mem-%d", i)))
		host := "127.0.0.1"
		if c.Network == "bridge" {
			host = bridgeAddress(t, e)
		}
		spec.Boot = provider.Boot{URL: "http://" + host + ":" + port, Token: muster.Secret(fmt.Sprintf("memory-%d", i))}
		create(t, p, spec)
		control.connected(t, spec.Boot.Token.Reveal())
	}
	sum := 0
	for pid, bytes := range processes(t) {
		if _, old := before[pid]; !old {
			sum += bytes
		}
	}
	for i := range n {
		destroy(t, p, muster.RunnerID(fmt.Sprintf("r-mem-%d", i)))
	}
	return sum / n
}

// processes are all processes of this test's namespaces with their proportional share of memory in bytes.
func processes(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	files, err := filepath.Glob("/proc/[0-9]*/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		for line := range bytes.Lines(text) {
			if v, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
				kb, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(v)), "kB")))
				all[filepath.Dir(f)] = kb << 10
			}
		}
	}
	return all
}
