package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// What an engine had started may outlive it, and uses its directory: the end of a test
// waits for it.
func TestEngineEndsWithAllThatItStarted(t *testing.T) {
	var line string
	t.Run("Engine", func(t *testing.T) {
		e := Podman(t, Options{})
		cmd := exec.CommandContext(context.Background(), "sh", "-c", "sleep 2; :", e.Dir+"/root")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line = fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid)
		go func() { _ = cmd.Wait() }()
	})
	if text, err := os.ReadFile(line); err == nil && bytes.Contains(text, []byte("sleep 2")) {
		t.Errorf("it still runs: %q", text)
	}
}
