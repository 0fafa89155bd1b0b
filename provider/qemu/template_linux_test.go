package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/provider/providertest"
)

// Copies of one template share nothing that must differ: not the kernel's random
// numbers, not the Go runtime's, not an id, not a name; and all know what time it is,
// although the template believes in the hour of its making.
func TestClonesShareNeitherRandomnessNorTime(t *testing.T) {
	l := requireLab(t)
	api := newPlane(t)
	c := l.config(filepath.Join(l.dir, "clones"))
	p := open(t, c)
	// On a busy machine, the first ones would rather boot than wait for the template.
	img, err := readImage(l.images, "small")
	if err == nil {
		_, err = p.template(t.Context(), img, shape{CPUs: 1, MemoryMiB: c.MemoryMiB, Accel: "tcg"}, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	const clones = 8
	seen := map[string]string{}
	for i := range clones {
		id := muster.RunnerID(fmt.Sprintf("r-clone-%d", i))
		inst := create(t, p, specFor(id, api.URL))
		s := api.await(t, string(id), "is not listening", listening)
		values := map[string]string{"nonce": s.boot.Nonce}
		for _, name := range []string{"random", "uuid", "boot", "machine", "host"} {
			values[name] = s.words(name)
		}
		for name, v := range values {
			if len(v) < 8 {
				t.Errorf("%s: %s is %q", inst.ID, name, v)
			}
			if other := seen[name+v]; other != "" {
				t.Errorf("%s and %s share %s %s", id, other, name, v)
			}
			seen[name+v] = string(id)
		}
		if st, err := readState(p.path(id)); err != nil || st.Template == "" {
			t.Errorf("%s is no copy: %+v, %v", id, st, err)
		}
		// The output took a second at most to come, and has whole seconds.
		clock, err := strconv.ParseInt(s.words("clock"), 10, 64)
		if off := time.Since(time.Unix(clock, 0)); err != nil || off < -time.Second || off > 10*time.Second {
			t.Errorf("%s believes that it is %s, which is %s off: %v", id, time.Unix(clock, 0), off, err)
		}
		for k, r := range s.reports {
			if off := s.reportAt[k].Sub(r.At); off < -200*time.Millisecond || off > 2*time.Second {
				t.Errorf("%s reported at %s of its clock what came at %s", id, r.At, s.reportAt[k])
			}
		}
		destroy(t, p, id)
	}
}

// A template is used only for exactly what it was made of.
func TestTemplateIsRejectedWhenAnyPartChanges(t *testing.T) {
	l := requireLab(t)
	c := l.config(t.TempDir())
	// An image of our own, whose files can be spoiled.
	c.Images, c.Image = filepath.Join(t.TempDir(), "images"), "own"
	if err := errors.Join(os.MkdirAll(c.Images, 0o755), os.CopyFS(filepath.Join(c.Images, "own"), os.DirFS(filepath.Join(l.images, "small")))); err != nil {
		t.Fatal(err)
	}
	p := open(t, c)
	img, err := readImage(c.Images, "own")
	if err != nil {
		t.Fatal(err)
	}
	s := shape{CPUs: 1, MemoryMiB: 128, Accel: "tcg"}
	base, err := p.key(img, s, "default")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.key(img, s, "default"); err != nil || again != base {
		t.Fatalf("the same things have two keys: %+v, %v", again, err)
	}
	differs := func(what string, k templateKey, err error) {
		t.Helper()
		if err != nil || k.String() == base.String() {
			t.Errorf("%s: the key stays the same: %v", what, err)
		}
	}
	for what, other := range map[string]shape{
		"memory": {1, 256, "tcg", false}, "processors": {2, 128, "tcg", false}, "accelerator": {1, 128, "kvm", false}, "disk": {1, 128, "tcg", true},
	} {
		k, err := p.key(img, other, "default")
		differs(what, k, err)
	}
	k, err := p.key(img, s, "another workspace")
	differs("workspace", k, err)
	newer := &Provider{cfg: p.cfg, program: p.program, version: "99"}
	k, err = newer.key(img, s, "default")
	differs("QEMU", k, err)
	for _, part := range []string{kernelPart, initrdPart} {
		path := img.path(part)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, info.ModTime().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		k, err := p.key(img, s, "default")
		differs(part, k, err)
		if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}

	// On the real thing: made once, used again, made anew after it was spoiled.
	dir, err := p.template(t.Context(), img, s, "default")
	if err != nil {
		t.Fatal(err)
	}
	made := func() time.Time {
		var rec templateRecord
		if err := instancedir.ReadJSON(filepath.Join(dir, templateFile), &rec); err != nil {
			t.Fatal(err)
		}
		return rec.MadeAt
	}
	first := made()
	if again, err := p.template(t.Context(), img, s, "default"); err != nil || again != dir || !made().Equal(first) {
		t.Errorf("a template that is there is made again: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, memoryPart), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("spoiled"), 4096); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := p.template(t.Context(), img, s, "default"); err != nil || !made().After(first) {
		t.Errorf("a spoiled template is used: %v", err)
	}
	if left := tagged(t, p.set.Other(templateKind, base.String())); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}

	// An image whose content was changed behind its record is used for nothing.
	f, err = os.OpenFile(img.path(initrdPart), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := p.template(t.Context(), img, s, "default"); err == nil {
		t.Error("a template was made of an image that has changed")
	}
	providertest.Survived(t, "qemu", "a template or an image is changed behind its record")
}
