//go:build linux

package agent

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider/container/enginetest"
)

// The test binary is the agent when it is started as one, so that agents have a
// process of their own: they adopt and kill all that descends from them.
func TestMain(m *testing.M) {
	if os.Getenv("MUSTER_AGENT_UNDER_TEST") == "1" {
		os.Exit(Main(os.Args[1:], "test", os.Stdout, os.Stderr))
	}
	enginetest.Enter()
	goleak.VerifyTestMain(m)
}

// stage is a real agent with a run.sh of the test's making.
type stage struct {
	*testing.T
	plane          *plane
	dir            string // the runner's
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// mount prepares an agent; env and args may still be changed.
func mount(t *testing.T, runSh string) *stage {
	t.Helper()
	s := &stage{T: t, plane: newPlane(), dir: filepath.Join(t.TempDir(), "runner")}
	srv := httptest.NewServer(s.plane)
	t.Cleanup(srv.Close)
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if runSh != "" {
		if err := os.WriteFile(filepath.Join(s.dir, "run.sh"), []byte("#!/bin/bash\n"+runSh), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(exe)
	s.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "MUSTER_AGENT_UNDER_TEST=1", "MUSTER_URL=" + srv.URL, "MUSTER_RUNNER_DIR=" + s.dir,
		"MUSTER_STOP_GRACE=2s", "MUSTER_RUNNER=r-test", "DIR=" + s.dir,
	}
	s.cmd.Stdin = strings.NewReader(bootToken + "\n")
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, &s.stderr
	return s
}

func (s *stage) env(entries ...string) { s.cmd.Env = append(s.cmd.Env, entries...) }

func (s *stage) start() {
	s.Helper()
	if !slices.ContainsFunc(s.cmd.Env, func(e string) bool { return strings.HasPrefix(e, "MUSTER_BOOT_TOKEN") }) {
		s.env("MUSTER_BOOT_TOKEN_FILE=/dev/stdin")
	}
	if err := s.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = s.cmd.Process.Kill() })
}

// end waits for the agent and checks what is true of every run.
func (s *stage) end(code int, phases ...string) {
	s.Helper()
	quit := time.AfterFunc(30*time.Second, func() { _ = s.cmd.Process.Signal(syscall.SIGQUIT) })
	defer quit.Stop()
	_ = s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.Errorf("exit code %d, want %d\n%s", got, code, s.stderr.String())
	}
	if got := s.plane.phases(); phases != nil && !slices.Equal(got, phases) {
		s.Errorf("reports:\n%q\nwant:\n%q", got, phases)
	}
	if len(s.plane.wrong) > 0 {
		s.Errorf("the control plane was given: %v", s.plane.wrong)
	}
	for place, text := range map[string]string{"stdout": s.stdout.String(), "stderr": s.stderr.String(), "shipped output": string(s.plane.logs)} {
		if strings.Contains(text, "canary") || strings.Contains(text, jitConfig) {
			s.Errorf("a secret is in %s:\n%s", place, text)
		}
	}
}

// file waits for a file that run.sh writes and renames into place.
func (s *stage) file(name string) string {
	s.Helper()
	var text []byte
	s.until("there is no "+name, func() bool {
		var err error
		text, err = os.ReadFile(filepath.Join(s.dir, name))
		return err == nil
	})
	return string(text)
}

func (s *stage) until(what string, done func() bool) {
	s.Helper()
	deadline := time.After(2 * time.Minute)
	for !done() {
		select {
		case <-deadline:
			s.Fatalf("%s\n%s", what, s.stderr.String())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// job is the skeleton of a run.sh that takes one job; %s is the job.
const job = `
jit=$ACTIONS_RUNNER_INPUT_JITCONFIG; unset ACTIONS_RUNNER_INPUT_JITCONFIG
[ -n "$jit" ] || { echo "no configuration"; exit 1; }
now() { date -u '+%%Y-%%m-%%d %%H:%%M:%%SZ'; }
printf '\n√ Connected to GitHub\n\nCurrent runner version: '"'2.336.0'"'\n'
echo "$(now): Listening for Jobs"
echo "$(now): Running job: build"
( %s )
echo "$(now): Job build completed with result: Succeeded"
exit 0
`

func TestRealJob(t *testing.T) { // S0-18
	s := mount(t, fmt.Sprintf(job, `cd "$DIR"; env -0 > env.new; mv env.new job-env; ps auxwwe > ps.new; mv ps.new job-ps
		echo "$jit"; cat < /dev/stdin | wc -c > stdin`))
	s.env("ACTIONS_RUNNER_INPUT_TOKEN=outer", "ACTIONS_RUNTIME_TOKEN=outer", "GITHUB_TOKEN=outer", "RUNNER_TRACKING_ID=outer",
		"ACTIONS_RUNNER_HOOK_JOB_STARTED=/opt/hook.sh", "MUSTER_SOMETHING=outer", "PASSED=on")
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")

	env := "\x00" + s.file("job-env")
	for _, never := range []string{"canary", "outer", "MUSTER_BOOT", "MUSTER_URL", jitConfig} { // 4-14
		if strings.Contains(env, never) {
			t.Errorf("the job sees %q", never)
		}
	}
	for _, want := range []string{"PASSED=on", "MUSTER_RUNNER=r-test", "ACTIONS_RUNNER_HOOK_JOB_STARTED=/opt/hook.sh", "ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1"} {
		if !strings.Contains(env, "\x00"+want+"\x00") {
			t.Errorf("the job does not see %s", want)
		}
	}
	if os.Getuid() == 0 && !strings.Contains(env, "\x00RUNNER_ALLOW_RUNASROOT=1\x00") {
		t.Error("root may not run the runner")
	}
	if ps := s.file("job-ps"); strings.Contains(ps, bootToken) || strings.Contains(ps, sessionToken) {
		t.Error("a token is in the list of processes")
	}
	if n := strings.TrimSpace(s.file("stdin")); n != "0" {
		t.Errorf("the job reads %s bytes of the agent's input", n)
	}
	if !strings.Contains(s.stdout.String(), "***") || !strings.Contains(s.stdout.String(), "√ Connected to GitHub") {
		t.Errorf("stdout: %q", s.stdout.String())
	}
}

func TestStrayProcessesEnd(t *testing.T) { // 4-41
	s := mount(t, fmt.Sprintf(job, `cd "$DIR"
		sleep 2001 & echo $! > pid1
		setsid sleep 2002 & echo $! > pid2
		env -i setsid bash -c 'echo $$ > pid3; trap "" TERM INT HUP; exec sleep 2003' &
		(setsid bash -c 'sleep 2004 & echo $! > pid4; exit' &)
		while [ ! -s pid3 ] || [ ! -s pid4 ]; do sleep 0.01; done`))
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	for i := range 4 {
		pid, err := strconv.Atoi(strings.TrimSpace(s.file(fmt.Sprintf("pid%d", i+1))))
		if err != nil {
			t.Fatal(err)
		}
		// Their parent, the agent, is gone; whoever inherits them may not have collected them yet.
		if p, err := proc.Read(pid); err == nil && !p.Zombie {
			t.Errorf("process %d of the job lives on: %+v", i+1, p)
			_ = p.Signal(syscall.SIGKILL)
		}
	}
}

func TestOrphansAreCollected(t *testing.T) {
	s := mount(t, fmt.Sprintf(job, `cd "$DIR"; for i in 1 2 3 4 5; do (true & ) ; done
		while ps -o stat= --ppid $(awk '/PPid/{print $2}' /proc/$PPID/status) | grep -q Z; do sleep 0.05; done; touch collected`))
	s.start()
	s.end(ExitDone)
	s.file("collected")
}

func TestNoJobReal(t *testing.T) { // S2-13 4-43
	s := mount(t, `trap 'echo Exiting...; exit 0' INT
		sleep 1.2; echo "Listening for Jobs"; sleep 1000 & wait`)
	s.plane.boot.NoJobSeconds = 1
	began := time.Now()
	s.start()
	s.end(ExitDone, "started", "listening", "finished no job within 1s")
	if d := time.Since(began); d < 2200*time.Millisecond {
		t.Errorf("ended after %s: the time was counted from the start", d)
	}
}

func TestSignalReal(t *testing.T) {
	t.Run("Willing", func(t *testing.T) {
		s := mount(t, `trap 'echo interrupted > "$DIR/int.new"; mv "$DIR/int.new" "$DIR/interrupted"; exit 0' INT
			echo "Listening for Jobs"; touch "$DIR/ready"; sleep 1000 & wait`)
		s.start()
		s.file("ready")
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.end(ExitDone)
		s.file("interrupted")
		if got := s.plane.phases(); got[len(got)-1] != "finished told to stop" {
			t.Errorf("reports: %q", got)
		}
	})
	t.Run("Deaf", func(t *testing.T) {
		s := mount(t, `trap '' INT TERM; touch "$DIR/ready"; while :; do sleep 1000; done`)
		s.env("MUSTER_STOP_GRACE=200ms")
		s.start()
		s.file("ready")
		began := time.Now()
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.end(ExitDone)
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("took %s", d)
		}
		if got := s.plane.phases(); got[len(got)-1] != "finished told to stop" {
			t.Errorf("reports: %q", got)
		}
	})
}

func TestExitCodesReal(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		code   int
		reason string
	}{
		"Deprecated":    {"exit 7", ExitDeprecated, "finished runner failed: GitHub refuses its version as deprecated"},
		"Crash":         {"kill -SEGV $$", ExitRunner, "finished runner failed: it ended with code 139 before it listened for jobs"},
		"WithoutNoting": {"echo Listening for Jobs", ExitDone, "finished runner ended without a job"},
	} {
		t.Run(name, func(t *testing.T) {
			s := mount(t, c.script)
			s.start()
			s.end(c.code)
			if got := s.plane.phases(); got[len(got)-1] != c.reason {
				t.Errorf("reports: %q", got)
			}
		})
	}
}

func TestTokenReal(t *testing.T) { // 4-14
	wait := `touch "$DIR/ready"; echo "Listening for Jobs"; sleep 1000`
	t.Run("File", func(t *testing.T) {
		s := mount(t, wait)
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(bootToken), 0o600); err != nil {
			t.Fatal(err)
		}
		s.env("MUSTER_BOOT_TOKEN_FILE=" + file)
		s.start()
		s.file("ready")
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the token's file is there: %v", err)
		}
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.end(ExitDone)
	})
	t.Run("Environment", func(t *testing.T) {
		s := mount(t, wait)
		s.env("MUSTER_BOOT_TOKEN=" + bootToken)
		s.start()
		s.file("ready")
		// Also in the memory that /proc shows, which os.Unsetenv does not change.
		for _, file := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.cmd.Process.Pid, file))
			if err != nil || bytes.Contains(text, []byte(bootToken)) {
				t.Errorf("%s of the agent shows the token (%v)", file, err)
			}
		}
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.end(ExitDone)
	})
	t.Run("InheritedPipe", func(t *testing.T) {
		s := mount(t, wait)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close() // stays open: one line is the token
		_, _ = w.WriteString(bootToken + "\n")
		s.cmd.ExtraFiles = []*os.File{r}
		s.env("MUSTER_BOOT_TOKEN_FILE=/dev/fd/3")
		s.start()
		s.file("ready")
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.end(ExitDone)
	})
	t.Run("Never", func(t *testing.T) {
		s := mount(t, wait)
		s.cmd.Stdin = nil // the provider died before it handed the token over
		s.start()
		s.end(ExitUsage)
		if len(s.plane.boots) > 0 {
			t.Error("it booted without a token")
		}
	})
}

func TestUsage(t *testing.T) {
	s := mount(t, "exit 0")
	s.env("MUSTER_URL=ftp://x", "MUSTER_RUNNER_DIR=", "MUSTER_MAX_AGE=old", "MUSTER_DOWNLOAD=perhaps")
	s.cmd.Args = append(s.cmd.Args, "surplus")
	s.start()
	s.end(ExitUsage)
	for _, word := range []string{"MUSTER_URL", "MUSTER_RUNNER_DIR", "MUSTER_MAX_AGE", "MUSTER_DOWNLOAD", "surplus"} {
		if !strings.Contains(s.stderr.String(), word) {
			t.Errorf("no word of %s in %s", word, s.stderr.String())
		}
	}
	for flag, want := range map[string]string{"--version": "muster-agent test", "--help": "Exit codes:"} {
		s := mount(t, "exit 0")
		s.cmd.Args = append(s.cmd.Args, flag)
		s.start()
		s.end(ExitDone)
		if out := s.stdout.String() + s.stderr.String(); !strings.Contains(out, want) {
			t.Errorf("%s: %s", flag, out)
		}
	}
}

func TestDownloadReal(t *testing.T) {
	text, sum := good(t) // its run.sh does nothing
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(text) }))
	t.Cleanup(files.Close)
	s := mount(t, "")
	s.plane.boot.Download = &wire.Download{URL: files.URL, Filename: "runner.tar.gz", SHA256: sum}
	s.cmd.Args = append(s.cmd.Args, "--download", "--work-dir", filepath.Join(t.TempDir(), "work"))
	s.start()
	s.end(ExitRunner, "started", "finished runner failed: it ended with code 0 before it listened for jobs")
	if target, err := os.Readlink(filepath.Join(s.dir, "_work")); err != nil || !strings.HasSuffix(target, "/work") {
		t.Errorf("_work → %q, %v", target, err)
	}

	s = mount(t, "")
	s.plane.boot.Download = &wire.Download{URL: files.URL, Filename: "runner.tar.gz"}
	s.cmd.Args = append(s.cmd.Args, "--download")
	s.start()
	s.end(ExitDownload, `finished runner failed: download of "runner.tar.gz" has no SHA-256 checksum and is refused`)
}
