package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
)

// needQEMU skips the test where virtual machines cannot be made, and fails it in CI.
func needQEMU(tb testing.TB) {
	tb.Helper()
	for _, name := range []string{"qemu-system-x86_64", "qemu-img", "busybox", "dpkg-deb", "apt-get"} {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			tb.Fatalf("%s is not installed: run scripts/setup.sh", name)
		}
		tb.Skipf("%s is not installed: run scripts/setup.sh", name)
	}
}

// guestKernel returns a kernel package, from the cache that provider/qemu's tests share;
// "" lets the build fetch it.
func guestKernel() string {
	cache, _ := os.UserCacheDir()
	found, _ := filepath.Glob(filepath.Join(cache, "muster-test", "qemu", "linux-image-*.deb"))
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// guestRunner makes a directory of the simulator's runner as it lies in a machine.
func guestRunner(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "runner")
	if err := runner.WriteDir(dir, "/opt/actions-runner/bin/Runner.Listener"); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(Programs(t), "actions-runner"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "Runner.Listener"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// readyQEMU makes an image for the chaos of providers. Machines are translated here
// and share two processors, so there are fewer of them at once.
func readyQEMU(t *testing.T) Options {
	needQEMU(t)
	images := filepath.Join(t.TempDir(), "images")
	build := exec.CommandContext(t.Context(), filepath.Join(Programs(t), "muster"), "image", "build", "runner", "--dir", images, "--quiet", "--runner", guestRunner(t), "--kernel", guestKernel())
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("image build: %v\n%s", err, out)
	}
	return Options{
		// A runner that is translated on a busy machine renews its job late.
		Sim:        githubsim.Config{JobLease: 30 * time.Second},
		MaxRunners: 5, Machines: 6, Pool: "no_job_timeout: 20s, connect_timeout: 60s",
		Provider: func(s *Stand) string {
			return fmt.Sprintf("kind: qemu\nconfig:\n  accel: tcg\n  images: %s\n  image: runner\n  max: 6\n  grace: 2s\n  egress: [%q]\n",
				images, strings.TrimPrefix(s.Sim.URL(), "http://"))
		},
	}
}

// countQEMU asks ps for everything that lives in the stand's folder, templates under
// way included. When nothing does, what still lies there counts: directories of
// machines and of templates that were never finished.
func countQEMU(t *testing.T, s *Stand) []string {
	if all := countProcesses(t, s); len(all) > 0 {
		return all
	}
	left, err := filepath.Glob(filepath.Join(s.Dir, "data", "machines", "local", "owner-*", "[a-z]*"))
	if err != nil {
		t.Fatal(err)
	}
	unfinished, err := filepath.Glob(filepath.Join(s.Dir, "data", "machines", "local", ".templates", ".?*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(left, unfinished...)
}

// 4-14 4-51 S4-50 S4-51 S4-65: jobs of the simulator run in virtual machines that have no network card.
// `muster image build` makes the image, `muster serve` copies the machines from a
// template and is killed between jobs, and nothing is left.
func TestJobsInVirtualMachines(t *testing.T) {
	needQEMU(t)
	runnerDir := guestRunner(t)
	var images string
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 77}, MaxRunners: 3,
		Settings: quick, Pool: "no_job_timeout: 20s, connect_timeout: 60s",
		Provider: func(s *Stand) string {
			images = filepath.Join(s.Dir, "data", "images")
			// The simulator is on this host's loopback, which no machine reaches unless the
			// address is written down.
			return fmt.Sprintf("kind: qemu\nconfig:\n  accel: tcg\n  image: runner\n  max: 3\n  grace: 2s\n  egress: [%q]\n",
				strings.TrimPrefix(s.Sim.URL(), "http://"))
		},
	})
	out, errs, code := s.CLI(t, "image", "build", "runner", "--dir", images, "--quiet", "--runner", runnerDir, "--kernel", guestKernel())
	if code != 0 || !strings.Contains(out, "image runner is ready: sha256:") {
		t.Fatalf("image build: %s%s", out, errs)
	}
	if list, _, _ := s.CLI(t, "image", "list", "--dir", images); !strings.Contains(list, "ready") {
		t.Errorf("image list: %s", list)
	}
	if out, errs, code := s.CLI(t, "image", "verify", "runner", "--dir", images); code != 0 {
		t.Errorf("image verify: %s%s", out, errs)
	}
	if _, _, code := s.CLI(t, "image", "build", "runner", "--dir", images, "--quiet", "--runner", runnerDir); code == 0 {
		t.Error("an image that is there was built again")
	}

	argv := arguments(t)
	p := s.Serve(t)
	s.Inject(t, 2, time.Second)
	s.AwaitJobs(t, 1, 2*time.Minute)
	// One machine is at work, or about to be. It outlives the control plane.
	p.Kill()
	p = s.Serve(t)
	s.Inject(t, 1, 200*time.Millisecond)
	s.AwaitJobs(t, 3, 2*time.Minute)
	truth, receipts := s.calm(t, time.Minute)
	once(t, truth, receipts, "success")
	s.traced(t, 3) // by the kernel of each machine
	if err := p.Stop(); err != nil {
		t.Errorf("muster serve: %v", err)
	}
	ran := 0
	for line := range argv() {
		if strings.Contains(line, "qemu-system") && strings.Contains(line, s.Dir) {
			ran++
		}
	}
	if ran < 3 {
		t.Errorf("%d machines ran", ran)
	}
	left, _ := filepath.Glob(filepath.Join(s.Dir, "data", "machines", "local", "owner-*", "[a-z]*"))
	if ps, err := exec.Command("ps", "axww", "-o", "args").Output(); err != nil || strings.Contains(string(ps), images) || len(left) > 0 {
		t.Errorf("machines are left: %v, %v", left, err)
	}
}
