//go:build unix

package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// runHook runs the hook as GitHub's runner does, and returns its exit code and output.
func runHook(t *testing.T, env []string) (code int, out string) {
	t.Helper()
	script := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, hookVariable+"="); ok {
			script = v
		}
	}
	cmd := exec.Command("bash", "-e", script)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "GITHUB_REPOSITORY=octo/app", "GITHUB_RUN_ID=42", "GITHUB_RUN_ATTEMPT=1", "GITHUB_JOB=build",
		"GITHUB_WORKFLOW=it's $(a) \"name\"; `x`", "GITHUB_TOKEN=canary", "GITHUB_WORKSPACE=/w")
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

func TestJobHook(t *testing.T) {
	want := trace.Job{Repository: "octo/app", RunID: 42, Attempt: 1, Key: "build", Workflow: "it's $(a) \"name\"; `x`", Workspace: "/w"}
	write := func(t *testing.T, name, text string) string {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	// A directory whose name a shell would take apart.
	directory := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "it's a $(runner)")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Run("Alone", func(t *testing.T) {
		dir := directory(t)
		h, env, err := newHook(dir, []string{"A=b"})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := h.word(time.Time{}); ok {
			t.Error("it speaks before it ran")
		}
		if code, out := runHook(t, env); code != 0 || out != "" {
			t.Errorf("code %d: %s", code, out)
		}
		said := h.said(time.Time{})
		if len(said) != 1 {
			t.Fatalf("it has said %q", said)
		}
		if text, _ := os.ReadFile(said[0]); strings.Contains(string(text), "canary") {
			t.Error("a token is in what the hook says")
		}
		if _, ok := h.word(time.Now().Add(-time.Hour)); ok {
			t.Error("it speaks for a job before")
		}
		if got, ok := h.word(time.Time{}); !ok || got != want {
			t.Errorf("it says %+v, %v", got, ok)
		}
		if _, ok := h.word(time.Time{}); ok {
			t.Error("it speaks twice")
		}
		if err := h.restore(); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%v is left", left)
		}
	})
	t.Run("OperatorsOwn", func(t *testing.T) {
		dir := directory(t)
		theirs := write(t, filepath.Join(dir, "own hook.sh"), "echo \"own of $GITHUB_JOB\"; false; echo never")
		_, env, err := newHook(dir, []string{hookVariable + "=/first", hookVariable + "=" + theirs})
		if err != nil {
			t.Fatal(err)
		}
		if code, out := runHook(t, env); code != 1 || out != "own of build\n" {
			t.Errorf("code %d: %q", code, out)
		}
	})
	t.Run("CannotSpeak", func(t *testing.T) { // the job goes on
		dir := directory(t)
		h, _, err := newHook(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(h.dir, hookScript))
		if err != nil {
			t.Fatal(err)
		}
		env := []string{hookVariable + "=" + write(t, filepath.Join(t.TempDir(), "moved.sh"), string(text))}
		if err := os.RemoveAll(h.dir); err != nil {
			t.Fatal(err)
		}
		if code, out := runHook(t, env); code != 0 || out != "" {
			t.Errorf("code %d: %q", code, out)
		}
		if _, ok := h.word(time.Time{}); ok {
			t.Error("nothing is no word")
		}
	})
	t.Run("EnvironmentFile", func(t *testing.T) { // which the runner reads over its environment
		dir := directory(t)
		theirs := write(t, filepath.Join(dir, "own.sh"), "exit 3")
		before := "LANG=C.UTF-8\n" + hookVariable + "=" + theirs + "\nX=y\n"
		dotEnv := write(t, filepath.Join(dir, ".env"), before)
		named := func() []string {
			text, err := os.ReadFile(dotEnv)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Split(string(text), "\n")
		}
		for range 2 { // the second one finds what an agent that was killed has left
			h, env, err := newHook(dir, []string{hookVariable + "=/other"})
			if err != nil {
				t.Fatal(err)
			}
			if code, _ := runHook(t, append(env, named()...)); code != 3 {
				t.Errorf("code %d", code)
			}
			if got, ok := h.word(time.Time{}); !ok || got != want {
				t.Errorf("it says %+v, %v", got, ok)
			}
		}
		h, _, err := newHook(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.restore(); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(dotEnv); string(after) != before {
			t.Errorf(".env is now %q", after)
		}
	})
}
