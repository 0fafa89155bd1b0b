package runner_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func output(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
	return string(out)
}

// program builds the real program once per benchmark or test that needs a process.
func program(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "actions-runner")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/muster-ci/muster/githubsim/actions-runner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// The runner has to start within milliseconds: no parser of workflow files and
// nothing of the control plane may be linked into it.
func TestProgramIsSmall(t *testing.T) {
	out := output(t, "go", "list", "-deps", "github.com/muster-ci/muster/githubsim/actions-runner")
	for pkg := range strings.Lines(out) {
		pkg = strings.TrimSpace(pkg)
		ours := strings.HasPrefix(pkg, "github.com/muster-ci/muster/githubsim/")
		if strings.Contains(strings.SplitN(pkg, "/", 2)[0], ".") && !ours && !strings.HasPrefix(pkg, "vendor/") {
			t.Errorf("the runner program links %s", pkg)
		}
	}
}
