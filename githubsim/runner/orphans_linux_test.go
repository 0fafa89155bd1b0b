package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// A process that is in the middle of an execve shows no environment: the end of a
// job must find it none the less.
func TestOrphansInTheMiddleOfAnExec(t *testing.T) {
	script := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	cmd.Env = []string{"RUNNER_TRACKING_ID=github_of-this-test"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for look := range 300 {
		found := orphans("github_of-this-test")
		if !slices.ContainsFunc(found, func(o orphan) bool { return o.pid == cmd.Process.Pid }) {
			t.Fatalf("look %d: not found among %v", look, found)
		}
	}
}
