package container

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(t.Context()), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// harness is the contract's suite on a real engine.
func harness(e *enginetest.Engine, base Config, t testing.TB) providertest.Harness {
	cfg := func(owner string) Config {
		c := base
		c.Owner = owner
		return c
	}
	return providertest.Harness{
		Open: func(t providertest.T, owner string) provider.Provider { return open(t, cfg(owner)) },
		OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
			c := cfg(owner)
			c.Max = max
			return open(t, c)
		},
		End: func(pt providertest.T, owner string, id muster.RunnerID) {
			e.Tool(t, "kill", "--signal", "TERM", cfg(owner).name(id))
		},
		Remains: func(pt providertest.T, owner string, id muster.RunnerID) (left []string) {
			name := cfg(owner).name(id)
			for _, c := range e.Containers(t) {
				if strings.HasPrefix(c, name) {
					left = append(left, c)
				}
			}
			if len(e.Containers(t)) == 0 {
				if v := e.Tool(t, "volume", "ls", "-q"); v != "" {
					left = append(left, "volumes "+v)
				}
			}
			return left
		},
		Exposed: func(pt providertest.T, owner string, id muster.RunnerID) map[string]string {
			name := cfg(owner).name(id)
			places := map[string]string{
				"inspect": e.Tool(t, "inspect", name),
				"ps":      e.Tool(t, "ps", "-a", "--no-trunc"),
				"logs":    e.Tool(t, "logs", name),
				"image":   e.Tool(t, "history", "--no-trunc", enginetest.Image),
			}
			files, _ := filepath.Glob("/proc/[0-9]*/*")
			for _, f := range files {
				if base := filepath.Base(f); base == "cmdline" || base == "environ" {
					text, _ := os.ReadFile(f)
					places[f] = string(text)
				}
			}
			// The engine's own files about the container.
			_ = filepath.WalkDir(e.Dir, func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() && (d.Name() == "merged" || d.Name() == "diff" || d.Name() == "proc") {
					return filepath.SkipDir
				}
				if info, err := d.Info(); err == nil && info.Mode().IsRegular() && info.Size() < 1<<20 {
					text, _ := os.ReadFile(path)
					places[path] = string(text)
				}
				return nil
			})
			return places
		},
		Machine: func(pt providertest.T, owner string) provider.Machine {
			name := fmt.Sprintf("kept-%d", time.Now().UnixNano())
			e.Tool(t, "create", "--name", name, "--network", "none", "--label", labelKept+"="+owner, "--entrypoint", "/bin/sh", enginetest.Image, "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
			pt.Cleanup(func() { e.Tool(t, "rm", "-f", name) })
			return provider.Machine{Name: name}
		},
		Patience: 30 * time.Second,
	}
}

// engines are those that the provider is for.
var engines = map[string]func(testing.TB, enginetest.Options) *enginetest.Engine{"podman": enginetest.Podman, "docker": enginetest.Docker}

func TestConformance(t *testing.T) { // 4-51 4-52 4-14
	t.Parallel()
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			e := start(t, enginetest.Options{})
			providertest.Run(t, harness(e, config(t, e), t))
		})
	}
}

// 4-51: Docker lists a container before it answers questions about it, so that a call that found one of another
// call's must wait, and must not remove it.
func TestManyCallsForOneRunner(t *testing.T) {
	t.Parallel()
	e := enginetest.Docker(t, enginetest.Options{})
	for round := range 8 {
		providers := []*Provider{open(t, config(t, e)), open(t, config(t, e))}
		spec := specFor(muster.RunnerID(fmt.Sprintf("r-many-%d", round)))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := providers[i%2].Create(t.Context(), spec); err != nil {
					t.Errorf("round %d, call %d: %v", round, i, err)
				}
			})
		}
		wg.Wait()
		if n := len(e.Containers(t)); n != 1 {
			t.Errorf("round %d: %d containers", round, n)
		}
		destroy(t, providers[0], spec.Runner)
	}
}
