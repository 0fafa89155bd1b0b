package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The demo plays in virtual machines, ends in three zeros and leaves none of them.
// It takes minutes where machines are translated, so it runs when it is asked to; the
// refusal is checked always.
func TestDemoOnQEMU(t *testing.T) {
	muster := filepath.Join(Programs(t), "muster")
	bare := exec.CommandContext(t.Context(), muster, "demo", "--provider", "qemu", "--once", "--listen", freeAddress(t))
	bare.Env = []string{"PATH=" + t.TempDir(), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	if out, err := bare.CombinedOutput(); err == nil || !strings.Contains(string(out), "qemu-system-x86_64") || !strings.Contains(string(out), "apt-get install") {
		t.Errorf("without QEMU: %v\n%s", err, out)
	}
	needQEMU(t)
	dir := filepath.Join(t.TempDir(), "demo")
	play := exec.CommandContext(t.Context(), muster, "demo", "--provider", "qemu", "--once", "--runners", "4", "--listen", freeAddress(t), "--data-dir", dir)
	play.Env = append(os.Environ(), "MUSTER_DEMO_KERNEL="+guestKernel())
	out, err := play.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("jobs lost 0, runners leaked 0, busy runners killed 0")) {
		t.Errorf("%v\n%s", err, out)
	}
	if ps := output(t, "ps", "axeww", "-o", "pid=,command="); strings.Contains(strings.Join(ps, "\n"), "HOME="+dir+"/") {
		t.Errorf("machines are left:\n%s", strings.Join(ps, "\n"))
	}
	t.Logf("%s", tail(out, 200))
}
