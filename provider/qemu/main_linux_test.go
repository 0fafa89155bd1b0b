package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestMain(m *testing.M) {
	if root := os.Getenv("QEMU_TEST_CONTROL_PLANE"); root != "" {
		controlPlane(root)
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if labDir != "" {
			_ = os.RemoveAll(labDir) // machines and templates; what runs in it is ended by its test
		}
		os.Exit(code)
	}))
}

// labDir is the directory of theLab, once that is made.
var labDir string

// runScript is what the images of these tests run for a runner: it tells what a copy
// of a machine could have in common with another, then waits for a job that never comes.
const runScript = `#!/bin/sh
echo "random $(head -c 16 /dev/urandom | hexdump -ve '1/1 "%02x"')"
echo "uuid $(cat /proc/sys/kernel/random/uuid)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "machine $(cat /etc/machine-id)"
echo "host $(hostname)"
echo "clock $(date +%s)"
echo "cpus $(nproc)"
echo "memory $(head -n 1 /proc/meminfo)"
if [ -n "$TRY" ]; then sh -c "$TRY"; fi
echo "√ Connected to GitHub"
echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Listening for Jobs"
trap 'exit 0' INT TERM
while :; do sleep 1000 & wait $!; done
`

// need returns the path of a program, and skips the test where it is not installed –
// or fails it in CI, where everything has to be.
func need(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if _, err := os.Stat("/usr/sbin/" + name); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed: run scripts/setup.sh", name)
		}
		t.Skipf("%s is not installed: run scripts/setup.sh", name)
	}
}

// lab is what all tests of this package share: the image, and the templates that are
// made of it, so that a machine has to boot once per shape only.
type lab struct {
	dir    string
	images string
	kernel string
	agent  string
	err    error
}

var theLab = sync.OnceValue(func() *lab {
	l := &lab{}
	l.err = l.make()
	return l
})

func (l *lab) make() error {
	ctx := context.Background()
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	// The kernel is 26 MB and the same for every run.
	store := filepath.Join(cache, "muster-test", "qemu")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return err
	}
	if l.dir, err = os.MkdirTemp("", "muster-qemu-"); err != nil {
		return err
	}
	labDir = l.dir
	l.images, l.agent = filepath.Join(l.dir, "images"), filepath.Join(l.dir, "muster-agent")
	if l.kernel, err = cachedKernel(ctx, store); err != nil {
		return err
	}
	_, file, _, _ := runtime.Caller(0)
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", l.agent, "./cmd/muster-agent")
	build.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	_, err = BuildImage(ctx, l.order("small"), testLog{})
	return err
}

// order makes the small image of the tests.
func (l *lab) order(name string) ImageOrder {
	runner := filepath.Join(l.dir, "runner")
	_ = os.MkdirAll(runner, 0o755)
	_ = os.WriteFile(filepath.Join(runner, "run.sh"), []byte(runScript), 0o755)
	return ImageOrder{Images: l.images, Name: name, Kernel: l.kernel, Runner: runner, Agent: l.agent, Version: "test"}
}

type testLog struct{}

func (testLog) Write(p []byte) (int, error) {
	if testing.Verbose() {
		return os.Stderr.Write(p)
	}
	return len(p), nil
}

// cachedKernel downloads the kernel's package unless it was before.
func cachedKernel(ctx context.Context, store string) (string, error) {
	find := func() string {
		found, _ := filepath.Glob(filepath.Join(store, "linux-image-*.deb"))
		if len(found) > 0 {
			return found[len(found)-1]
		}
		return ""
	}
	if path := find(); path != "" {
		return path, nil
	}
	b := builder{work: store}
	path, err := b.fetchKernel(ctx)
	return path, err
}

// requireLab returns the lab.
func requireLab(t testing.TB) *lab {
	t.Helper()
	need(t, "qemu-system-x86_64", "qemu-img", "busybox", "dpkg-deb", "mke2fs")
	l := theLab()
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l
}

// config is of machines of the small image. Machines of one root share a template.
func (l *lab) config(root string) Config {
	c := Defaults()
	c.Accel, c.Images, c.Image, c.Root, c.Owner = "tcg", l.images, "small", root, "muster/test"
	c.MemoryMiB, c.Max, c.Grace = 128, 50, provider.Duration(2*time.Second)
	return c
}

func open(t providertest.T, c Config) *Provider {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func specFor(id muster.RunnerID, url string) provider.Spec {
	return provider.Spec{Runner: id, Boot: provider.Boot{URL: url, Token: providertest.Token}}
}

func create(t testing.TB, p *Provider, spec provider.Spec) provider.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inst, err := p.Create(ctx, spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { destroy(t, p, spec.Runner) })
	return inst
}

func destroy(t testing.TB, p *Provider, id muster.RunnerID) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	until(t, "the instance is not gone", func() bool {
		err := p.Delete(ctx, id)
		if err != nil && !errors.Is(err, provider.ErrNotFound) {
			t.Fatalf("delete: %v", err)
		}
		return err != nil
	})
}

// until polls real processes.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-deadline:
			t.Fatal(what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tagged returns every QEMU of an instance, found without the provider.
func tagged(t providertest.T, name string) []proc.Process {
	all, err := proc.All()
	if err != nil {
		t.Fatalf("%v", err)
	}
	var found []proc.Process
	for _, a := range all {
		if !a.Zombie && a.Env(instancedir.Tag) == name {
			found = append(found, a)
		}
	}
	return found
}
