package qemu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
)

// S4-50: an image is queued, building, ready or failed, all of which can be seen while
// it happens; it has a digest, and a file that changes is noticed.
func TestImageRecord(t *testing.T) {
	l := requireLab(t)
	order := l.order("record")
	order.Images = filepath.Join(t.TempDir(), "images")
	state := func() Image {
		t.Helper()
		all, err := Images(order.Images)
		if err != nil || len(all) != 1 {
			t.Fatalf("images: %+v, %v", all, err)
		}
		return all[0]
	}
	// Another image is being built.
	queue := filepath.Join(order.Images, ".queue")
	if err := os.MkdirAll(queue, 0o755); err != nil {
		t.Fatal(err)
	}
	turn, err := proc.Lock(t.Context(), queue, syscall.LOCK_EX, true)
	if err != nil {
		t.Fatal(err)
	}
	// What the tools say comes while it is built.
	seen := make(chan ImageState, 64)
	built := make(chan error, 1)
	go func() {
		_, err := BuildImage(context.WithoutCancel(t.Context()), order, writerFunc(func(p []byte) (int, error) {
			if all, err := Images(order.Images); err == nil && len(all) == 1 {
				select {
				case seen <- all[0].State:
				default:
				}
			}
			return len(p), nil
		}))
		built <- err
	}()
	until(t, "it is not queued", func() bool {
		all, _ := Images(order.Images)
		return len(all) == 1 && all[0].State == ImageQueued
	})
	if _, err := BuildImage(t.Context(), order, testLog{}); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("the same image at once: %v", err)
	}
	turn.Close()
	if err := <-built; err != nil {
		t.Fatal(err)
	}
	if s := <-seen; s != ImageBuilding {
		t.Errorf("while it was built, it was %s", s)
	}
	img := state()
	if img.State != ImageReady || !strings.HasPrefix(img.Digest, "sha256:") || len(img.Parts) != 2 || img.Kernel == "" || img.EndedAt.Before(img.StartedAt) || img.StartedAt.Before(img.QueuedAt) {
		t.Errorf("ready: %+v", img)
	}
	if _, err := VerifyImage(t.Context(), order.Images, "record"); err != nil {
		t.Errorf("verify: %v", err)
	}
	if _, err := BuildImage(t.Context(), order, testLog{}); err == nil || !strings.Contains(err.Error(), "do not change") {
		t.Errorf("an image that is ready was built again: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(order.Images, "record", ".*")); len(left) > 0 {
		t.Errorf("the build left %v", left)
	}
	if err := os.WriteFile(img.path(kernelPart), []byte("another kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyImage(t.Context(), order.Images, "record"); err == nil || !strings.Contains(err.Error(), "kernel has changed") {
		t.Errorf("verify of a changed image: %v", err)
	}

	// A build that nobody is at any more has failed, and is built again.
	img.State = ImageBuilding
	if err := instancedir.WriteJSON(filepath.Join(img.dir, manifestFile), img); err != nil {
		t.Fatal(err)
	}
	if img := state(); img.State != ImageFailed || !strings.Contains(img.Error, "interrupted") {
		t.Errorf("an interrupted build: %+v", img)
	}
	if _, err := VerifyImage(t.Context(), order.Images, "record"); err == nil {
		t.Error("an image that has failed was verified")
	}
	bad := order
	bad.Runner = t.TempDir() // without run.sh
	if _, err := BuildImage(t.Context(), bad, testLog{}); err == nil || !strings.Contains(err.Error(), "run.sh") {
		t.Errorf("an image without a runner: %v", err)
	}
	if img := state(); img.State != ImageFailed || !strings.Contains(img.Error, "run.sh") {
		t.Errorf("a failed build: %+v", img)
	}
	if _, err := BuildImage(t.Context(), order, testLog{}); err != nil {
		t.Errorf("after a failure: %v", err)
	}

	// Every mistake at once.
	_, err = BuildImage(t.Context(), ImageOrder{Name: "../x", Root: "/no/such/root", Debian: "bookworm", DiskMiB: 3}, testLog{})
	for _, want := range []string{"name:", "images:", "root:", "agent:", "runner:", "choose one", "disk:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in %v", want, err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The trial machine gets to its end under QEMU's own translation, so that where it does
// not under KVM, KVM is to blame.
func TestProbe(t *testing.T) {
	requireLab(t)
	p := &Provider{cfg: Defaults()}
	if err := p.tools(); err != nil {
		t.Fatal(err)
	}
	if err := probe(t.Context(), p.program, "tcg"); err != nil {
		t.Errorf("under tcg: %v", err)
	}
	t.Logf("auto is %s here: %s", p.accel, p.accelWhy)
	if p.accel != "kvm" && (p.accel != "tcg" || p.accelWhy == "") {
		t.Errorf("auto is %q because %q", p.accel, p.accelWhy)
	}
	p.cfg.Accel = "kvm"
	if err := p.tools(); (err == nil) != (kvmWorks(t.Context(), p.program) == nil) {
		t.Errorf("kvm, asked for: %v", err)
	}
	if d := p.Describe(); !strings.Contains(d.Summary, "KVM") || d.ConnectTimeout == 0 {
		t.Errorf("describe: %+v", d)
	}
}
