package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

// diskImage is an image with a disk, made once.
func (l *lab) diskImage(t providertest.T) string {
	t.Helper()
	order := l.order("disk")
	order.DiskMiB = 256
	if img, err := readImage(l.images, "disk"); err == nil && img.State == ImageReady {
		return "disk"
	}
	if _, err := BuildImage(t.Context(), order, testLog{}); err != nil {
		t.Fatalf("%v", err)
	}
	return "disk"
}

// 4-51 S3-1: the contract, on real machines.
func TestConformance(t *testing.T) {
	l := requireLab(t)
	root := filepath.Join(l.dir, "conformance")
	cfg := func(owner string) Config {
		c := l.config(root)
		// All machines of these tests trust each other: one template serves them.
		c.Owner, c.domain, c.MachinesDir = owner, "conformance", filepath.Join(l.dir, "machines")
		c.Grace = provider.Duration(time.Second)
		return c
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "machines"), 0o755); err != nil {
		t.Fatal(err)
	}
	instance := func(t providertest.T, owner string, id muster.RunnerID) *Provider { return open(t, cfg(owner)) }
	providertest.Run(t, providertest.Harness{
		Patience: time.Minute,
		Open:     func(t providertest.T, owner string) provider.Provider { return open(t, cfg(owner)) },
		OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
			c := cfg(owner)
			c.Max = max
			return open(t, c)
		},
		End: func(t providertest.T, owner string, id muster.RunnerID) {
			p := instance(t, owner, id)
			for _, q := range tagged(t, p.name(id)) {
				_ = q.Signal(syscall.SIGTERM)
			}
		},
		Remains: func(t providertest.T, owner string, id muster.RunnerID) (left []string) {
			p := instance(t, owner, id)
			if _, err := os.Lstat(p.path(id)); err == nil {
				left = append(left, p.path(id))
			}
			for _, q := range tagged(t, p.name(id)) {
				left = append(left, fmt.Sprintf("pid %d", q.PID))
			}
			return left
		},
		Exposed: func(t providertest.T, owner string, id muster.RunnerID) map[string]string {
			p := instance(t, owner, id)
			places := map[string]string{}
			for _, q := range tagged(t, p.name(id)) {
				for _, file := range []string{"cmdline", "environ"} {
					path := filepath.Join("/proc", strconv.Itoa(q.PID), file)
					text, _ := os.ReadFile(path)
					places[path] = string(text)
				}
			}
			ps, err := exec.Command("ps", "auxwwe").Output()
			if err != nil {
				t.Fatalf("ps: %v", err)
			}
			places["ps"] = string(ps)
			// The directories of machines, and the template.
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					text, _ := os.ReadFile(path)
					places[path] = string(text)
				}
				return nil
			})
			return places
		},
		Machine: func(t providertest.T, owner string) provider.Machine {
			image := l.diskImage(t)
			name := fmt.Sprintf("box-%d", time.Now().UnixNano())
			home := filepath.Join(l.dir, "machines", "zone-a", name)
			err := errors.Join(os.MkdirAll(home, 0o755), copyFile(filepath.Join(l.images, image, diskPart), filepath.Join(home, diskPart), 0o644))
			if err != nil {
				t.Fatalf("%v", err)
			}
			return provider.Machine{Name: name, Zone: "zone-a"}
		},
	})
}
