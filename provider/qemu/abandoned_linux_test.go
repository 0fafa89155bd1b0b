package qemu

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/provider/providertest"

	"github.com/muster-ci/muster/internal/proc"
)

// 4-51: a control plane that was killed while it made a template leaves a QEMU and a
// directory, and the next one clears them away, but not what another is at work on.
func TestAbandonedTemplates(t *testing.T) {
	l := requireLab(t)
	c := l.config(t.TempDir())
	p := open(t, c)
	if err := os.MkdirAll(p.templates, 0o700); err != nil {
		t.Fatal(err)
	}
	var held *os.File
	for _, name := range []string{"dead", "live"} {
		gate, err := os.Create(filepath.Join(p.templates, name+".lock"))
		if err != nil {
			t.Fatal(err)
		}
		gate.Close()
		if err := os.Mkdir(filepath.Join(p.templates, "."+name), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "live" {
			if held, err = proc.Lock(t.Context(), gate.Name(), syscall.LOCK_EX, false); err != nil {
				t.Fatal(err)
			}
		}
		// In place of a QEMU, which is known by nothing but its tag.
		maker := exec.Command("sleep", "1000")
		maker.Env = []string{"PATH=" + os.Getenv("PATH"), instancedir.Tag + "=" + p.set.Other(templateKind, name)}
		if err := maker.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = maker.Process.Kill()
			_ = maker.Wait()
		})
	}
	open(t, c)
	for name, want := range map[string]int{"dead": 0, "live": 1} {
		if n := len(tagged(t, p.set.Other(templateKind, name))); n != want {
			t.Errorf("%s: %d processes, want %d", name, n, want)
		}
		_, err := os.Stat(filepath.Join(p.templates, "."+name))
		if gone := errors.Is(err, fs.ErrNotExist); gone != (want == 0) {
			t.Errorf("%s: its directory: %v", name, err)
		}
	}
	held.Close()
	providertest.Survived(t, "qemu", "the control plane is killed while it makes a template")
}
