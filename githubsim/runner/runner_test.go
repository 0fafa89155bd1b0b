package runner_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// S0-18 S0-21 S2-12
func TestOneJob(t *testing.T) {
	g := newGitHub(t)
	g.files = map[string]string{"README.md": "hello\n", "sub/x.txt": "deep\n"}
	done, box := runJob(t, g, message.Message{
		Checkout: &message.Checkout{URL: g.url + "/tar"},
		Contexts: message.Contexts{GitHub: map[string]any{"repository": "acme/web", "sha": "abc", "run_id": "5"}, Matrix: map[string]any{"go": 1.22}},
		Event:    []byte(`{"ref":"refs/heads/main"}`),
		Env:      []map[string]string{{"A": "workflow", "B": "workflow"}, {"B": "job ${{ matrix.go }}"}},
		Masks:    []string{"planted-secret"},
		Outputs:  map[string]string{"version": "${{ steps.one.outputs.version }}", "leak": "${{ steps.one.outputs.leak }}"},
		Steps: []message.Step{
			{Uses: "actions/checkout@v4"},
			{ID: "one", Name: "Say ${{ matrix.go }}", Env: map[string]string{"C": "step ${{ env.B }}"}, Run: `
				echo "A=$A B=$B C=$C token=${{ github.token }} mine=planted-secret"
				cat README.md sub/x.txt "$GITHUB_EVENT_PATH"; echo
				echo "version=7" >> "$GITHUB_OUTPUT"
				printf 'leak=planted-secret\n' >> "$GITHUB_OUTPUT"
				printf 'MULTI<<END\nline1\nline2\nEND\n' >> "$GITHUB_ENV"
				mkdir -p bin && printf '#!/bin/sh\necho from tool\n' > bin/tool && chmod +x bin/tool
				echo "$PWD/bin" >> "$GITHUB_PATH"
				echo "### Summary" >> "$GITHUB_STEP_SUMMARY"
				echo "::add-mask::late-$((40+2))"
				echo "::group::A group"
				echo "late-$((40+2))"
				echo "::endgroup::"
				echo "::warning file=a.go,line=3,title=Odd::watch%0Aout"`},
			{Run: `test "$MULTI" = "line1
line2"; tool; env | grep -c INPUT_JITCONFIG || true; echo "$RUNNER_NAME $GITHUB_REPOSITORY $GITHUB_JOB"; case "$PWD" in */_work/web/web) ;; *) exit 1;; esac`},
		},
	})
	if done.Conclusion != message.Success {
		t.Fatalf("conclusion %s; log:\n%s", done.Conclusion, g.log.String())
	}
	if d := cmp.Diff(map[string]string{"version": "7"}, done.Outputs); d != "" {
		t.Errorf("outputs (-want +got)\n%s", d)
	}
	var names []string
	for i, s := range done.StepResults {
		names = append(names, s.Name)
		if s.Number != i+1 || s.Status != message.Completed || s.Conclusion != message.Success || s.StartedAt.IsZero() || s.CompletedAt.Before(s.StartedAt) {
			t.Errorf("step: %+v", s)
		}
	}
	if d := cmp.Diff([]string{"Set up job", "Run actions/checkout@v4", "Say 1.22", names[3], "Post Run actions/checkout@v4", "Complete job"}, names); d != "" {
		t.Errorf("steps (-want +got)\n%s", d)
	}
	log := g.log.String()
	for _, want := range []string{"A=workflow B=job 1.22 C=step job 1.22 token=*** mine=***", "hello", "deep", `{"ref":"refs/heads/main"}`, "from tool", "box-1 acme/web build",
		"##[group]A group", "##[warning]watch", "Z 0\n", "##[warning]Skip output 'leak' since it may contain secret."} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if !regexp.MustCompile(`(?m)\A(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z .*\n)+\z`).MatchString(log) {
		t.Errorf("a line of the log has no time stamp:\n%s", log)
	}
	for _, secret := range []string{"planted-secret", "late-42", "job-token-secret"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q:\n%s", secret, log)
		}
	}
	if d := cmp.Diff([]message.Annotation{{Level: "warning", Message: "watch\nout", Title: "Odd", Path: "a.go", StartLine: 3, Step: 3}}, done.Annotations); d != "" {
		t.Errorf("annotations (-want +got)\n%s", d)
	}
	if done.Summary != "### Summary\n" {
		t.Errorf("summary %q", done.Summary)
	}

	out := box.stdout.String()
	if !regexp.MustCompile(`(?s)√ Connected to GitHub\n.*Current runner version: '2\.\d+\.\d+'\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: Listening for Jobs\n` +
		`\S+ \S+Z: Running job: build \(1\)\n\S+ \S+Z: Job build \(1\) completed with result: Succeeded\n`).MatchString(out) {
		t.Errorf("markers are wrong:\n%s", out)
	}
	for _, name := range []string{".runner", ".credentials", ".credentials_rsaparams", "_work/_temp"} {
		if exists(box.dir, name) {
			t.Errorf("%s is still there", name)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessionsOpen != 0 || g.renewals == 0 || !slices.Contains(g.statuses, "Busy") || g.statuses[0] != "Online" {
		t.Errorf("sessions %d, renewals %d, statuses %v", g.sessionsOpen, g.renewals, g.statuses)
	}
}

func TestConditions(t *testing.T) {
	g := newGitHub(t)
	done, box := runJob(t, g, message.Message{
		Contexts: message.Contexts{Needs: map[string]any{"a": map[string]any{"result": "success"}}, GitHub: map[string]any{"repository": "acme/web"}},
		Steps: []message.Step{
			{Name: "tolerated", ID: "t", Run: "exit 3", ContinueOnError: "true"},
			{Name: "after tolerated", If: "steps.t.outcome == 'failure' && steps.t.conclusion == 'success'", Run: "true"},
			{Name: "foreign", Uses: "docker://alpine"},
			{Name: "fails", ID: "f", Run: "false; echo unreachable"},
			{Name: "skipped", Run: "true"},
			{Name: "on failure", If: "${{ failure() && needs.a.result == 'success' }}", Run: "true"},
			{Name: "always", If: "always()", Run: "echo status is ${{ job.status }} ${{ steps.f.outcome }}"},
			{Name: "cancelled", If: "cancelled()", Run: "true"},
			{Name: "bad expression", If: "always() && nosuch.thing", Run: "true"},
			{Name: "sh", If: "always()", Shell: "sh", Run: "test -z \"$BASH_VERSION\" || true; echo shell ok"},
			{Name: "own shell", If: "always()", Shell: "cat {0}", Run: "printed by cat"},
			{Name: "no shell", If: "always()", Shell: "nonesuch-shell {0}", Run: "true"},
		},
	})
	want := map[string]string{"Set up job": "success", "tolerated": "success", "after tolerated": "success", "foreign": "skipped", "fails": "failure", "skipped": "skipped",
		"on failure": "success", "always": "success", "cancelled": "skipped", "bad expression": "failure", "sh": "success", "own shell": "success", "no shell": "failure", "Complete job": "success"}
	if d := cmp.Diff(want, conclusions(done.StepResults)); d != "" || done.Conclusion != message.Failure {
		t.Errorf("conclusion %s, steps (-want +got)\n%s", done.Conclusion, d)
	}
	for _, want := range []string{"uses: docker://alpine is not executed", "Process completed with exit code 3.", "status is failure failure", `unrecognized named-value: "nosuch"`, "printed by cat", "nonesuch-shell: command not found"} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, g.log.String())
		}
	}
	if strings.Contains(g.log.String(), "Z unreachable") {
		t.Error("a failed step went on")
	}
	if !strings.Contains(box.stdout.String(), "completed with result: Failed") {
		t.Errorf("output:\n%s", box.stdout)
	}
}

func TestCancellation(t *testing.T) {
	for name, c := range map[string]struct{ script, logs string }{
		"Interrupt":        {`trap 'echo got INT; exit 1' INT; echo begun; sleep 30 >/dev/null 2>&1 & wait`, "got INT"},
		"TerminateNext":    {`trap '' INT; trap 'echo got TERM; exit 1' TERM; echo begun; while :; do sleep 0.05; done`, "got TERM"},
		"KillLast":         {`trap '' INT TERM; echo begun; while :; do sleep 0.05; done`, "The operation was canceled."},
		"WholeProcessTree": {`echo begun; sh -c 'sleep 30; echo survived'`, "The operation was canceled."},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGitHub(t)
			go func() {
				g.wait("the step's first line", func() bool { return strings.Contains(g.log.String(), "Z begun") })
				g.cancel()
			}()
			done, box := runJob(t, g, message.Message{Steps: []message.Step{
				{Name: "long", Run: c.script},
				{Name: "next", Run: "true"},
				{Name: "always", If: "always()", Run: "echo cleaning; echo ${{ job.status }}"},
				{Name: "if cancelled", If: "cancelled()", Run: "true"},
			}})
			want := map[string]string{"Set up job": "success", "long": "cancelled", "next": "skipped", "always": "success", "if cancelled": "success", "Complete job": "success"}
			if d := cmp.Diff(want, conclusions(done.StepResults)); d != "" || done.Conclusion != message.Cancelled {
				t.Errorf("conclusion %s, steps (-want +got)\n%s", done.Conclusion, d)
			}
			if !strings.Contains(g.log.String(), c.logs) || strings.Contains(g.log.String(), "Z survived") {
				t.Errorf("log:\n%s", g.log.String())
			}
			if !strings.Contains(box.stdout.String(), "completed with result: Canceled") {
				t.Errorf("output:\n%s", box.stdout)
			}
		})
	}
}

func TestAStepThatAlwaysRunsIsNotInterrupted(t *testing.T) {
	g := newGitHub(t)
	go func() {
		g.wait("the step's first line", func() bool { return strings.Contains(g.log.String(), "Z begun") })
		g.cancel()
	}()
	done, _ := runJob(t, g, message.Message{Steps: []message.Step{{Name: "tidy", If: "always()", Run: "echo begun; sleep 0.4; echo ended"}}})
	if conclusions(done.StepResults)["tidy"] != message.Success || done.Conclusion != message.Cancelled {
		t.Errorf("got %s, %+v", done.Conclusion, done.StepResults)
	}
}

func TestTimeouts(t *testing.T) {
	g := newGitHub(t)
	done, _ := runJob(t, g, message.Message{Steps: []message.Step{
		{Name: "slow", Run: "sleep 30", TimeoutMinutes: "${{ 0.005 }}"}, {Name: "always", If: "failure()", Run: "true"}}})
	want := map[string]string{"Set up job": "success", "slow": "failure", "always": "success", "Complete job": "success"}
	if d := cmp.Diff(want, conclusions(done.StepResults)); d != "" || done.Conclusion != message.Failure {
		t.Errorf("conclusion %s, steps (-want +got)\n%s", done.Conclusion, d)
	}
	if !strings.Contains(g.log.String(), "The action 'slow' has timed out after 0.005 minutes.") {
		t.Errorf("log:\n%s", g.log.String())
	}

	g = newGitHub(t)
	done, _ = runJob(t, g, message.Message{TimeoutSeconds: 1, Steps: []message.Step{{Name: "slow", Run: "sleep 30"}}})
	if done.Conclusion != message.Cancelled || done.Reason != message.ReasonTimeout || !strings.Contains(done.Annotations[0].Message, "has exceeded the maximum execution time of 1 minutes.") {
		t.Errorf("got %s, %+v", done.Conclusion, done.Annotations)
	}
}

func TestShutdownSignal(t *testing.T) {
	g := newGitHub(t)
	dir := t.TempDir()
	hook := filepath.Join(dir, "hook.sh")
	if err := os.WriteFile(hook, []byte("echo hook ran for $GITHUB_JOB\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	box := startRunner(t, g, "ACTIONS_RUNNER_HOOK_JOB_COMPLETED="+hook)
	g.offer(message.Message{PlanID: "p1", JobID: "j1", Token: "job-token-secret", Name: "long", Steps: []message.Step{{Name: "long", Run: "echo begun; sleep 30"}}})
	g.wait("the step's first line", func() bool { return strings.Contains(g.log.String(), "Z begun") })
	box.stop()
	if code := box.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	got := conclusions(g.done.StepResults)
	if g.done.Conclusion != message.Cancelled || g.done.Reason != message.ReasonShutdown || got["long"] != message.Cancelled || got["Complete runner"] != message.Skipped {
		t.Errorf("got %s, %v", g.done.Conclusion, got)
	}
	if !strings.Contains(g.log.String(), "The runner has received a shutdown signal.") {
		t.Errorf("log:\n%s", g.log.String())
	}
	if g.sessionsOpen != 0 || exists(box.dir, ".runner") {
		t.Error("the session or the configuration is still there")
	}
}

func TestHooks(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	started := write("started.sh", "echo started on $RUNNER_NAME; echo FROM_HOOK=yes >> $GITHUB_ENV\n")
	for name, c := range map[string]struct {
		completed string
		want      string
	}{"Good": {"test $FROM_HOOK = yes\n", "success"}, "Bad": {"exit 4\n", "failure"}} {
		t.Run(name, func(t *testing.T) {
			g := newGitHub(t)
			done, _ := runJob(t, g, message.Message{Steps: []message.Step{{Name: "user", Run: `test "$FROM_HOOK" = yes`}}},
				"ACTIONS_RUNNER_HOOK_JOB_STARTED="+started, "ACTIONS_RUNNER_HOOK_JOB_COMPLETED="+write("completed.sh", c.completed))
			var names []string
			for _, s := range done.StepResults {
				names = append(names, s.Name)
			}
			if d := cmp.Diff([]string{"Set up job", "Set up runner", "user", "Complete runner", "Complete job"}, names); d != "" {
				t.Error(d)
			}
			if done.Conclusion != c.want || conclusions(done.StepResults)["Complete runner"] != c.want || !strings.Contains(g.log.String(), "started on box-1") {
				t.Errorf("got %s; log:\n%s", done.Conclusion, g.log.String())
			}
		})
	}
	g := newGitHub(t)
	done, _ := runJob(t, g, message.Message{Steps: []message.Step{{Name: "user", Run: "true"}}}, "ACTIONS_RUNNER_HOOK_JOB_STARTED="+filepath.Join(dir, "missing.sh"))
	if got := conclusions(done.StepResults); done.Conclusion != "failure" || got["Set up job"] != "failure" || got["user"] != "skipped" {
		t.Errorf("missing hook: %s %v", done.Conclusion, got)
	}
}

func TestRegistrationGone(t *testing.T) {
	g := newGitHub(t)
	g.gone = true
	box := startRunner(t, g)
	if code := box.wait(t); code != 0 || !strings.Contains(box.stderr.String(), "The runner registration has been deleted from the server, please re-configure.") {
		t.Errorf("code %d, output:\n%s%s", code, box.stdout, box.stderr)
	}
	if strings.Contains(box.stdout.String(), "Listening") {
		t.Error("it listens")
	}
}

func TestSessionConflict(t *testing.T) {
	g := newGitHub(t)
	g.conflicts = 2
	done, box := runJob(t, g, message.Message{Steps: []message.Step{{Run: "true"}}})
	if done.Conclusion != message.Success || !strings.Contains(box.stderr.String(), "A session for this runner already exists.") {
		t.Errorf("got %s, output %s", done.Conclusion, box.stderr)
	}
	g = newGitHub(t)
	g.conflicts = 1 << 30
	box = startRunner(t, g)
	if code := box.wait(t); code != 0 || strings.Contains(box.stdout.String(), "Listening") {
		t.Errorf("code %d, output:\n%s", code, box.stdout)
	}
}

// A lost claim leaves a listener behind, even without registration (actions/runner#4617).
func TestLostClaimKeepsListening(t *testing.T) {
	g := newGitHub(t)
	g.lost = true
	box := startRunner(t, g)
	g.offer(message.Message{PlanID: "p1", JobID: "j1", Token: "job-token-secret", Name: "x"})
	g.wait("two polls", func() bool { return len(g.statuses) >= 2 })
	select {
	case <-box.exit:
		t.Fatal("the runner ended")
	default:
	}
	g.offer(message.Message{PlanID: "p1", JobID: "j1", Token: "job-token-secret", Name: "second", Steps: []message.Step{{Run: "true"}}})
	box.wait(t)
	if !strings.Contains(box.stdout.String(), "Job second completed with result: Succeeded") || !strings.Contains(box.stderr.String(), "Skipping message Job.") {
		t.Errorf("output:\n%s%s", box.stdout, box.stderr)
	}
}

func TestLostLeaseStopsTheJob(t *testing.T) {
	g := newGitHub(t)
	g.leaseLost = true
	box := startRunner(t, g)
	g.offer(message.Message{PlanID: "p1", JobID: "j1", Token: "job-token-secret", Name: "x", Steps: []message.Step{{Run: "sleep 30"}}})
	box.wait(t)
	if g.done != nil || !strings.Contains(box.stdout.String(), "completed with result: Abandoned") {
		t.Errorf("reported %+v, output:\n%s", g.done, box.stdout)
	}
}

func TestBackgroundProcessesEndWithTheJob(t *testing.T) {
	g := newGitHub(t)
	done, box := runJob(t, g, message.Message{Steps: []message.Step{{Run: `setsid sh -c 'sleep 60' >/dev/null 2>&1 & echo $! > pid`}}})
	if done.Conclusion != message.Success || !strings.Contains(g.log.String(), "Terminate orphan process: pid") {
		t.Errorf("got %s; log:\n%s", done.Conclusion, g.log.String())
	}
	if !exists(box.dir, "_work/web/web/pid") {
		t.Error("the workspace is gone")
	}
}

func TestLogOnStandardOutput(t *testing.T) {
	g := newGitHub(t)
	_, box := runJob(t, g, message.Message{Steps: []message.Step{{Name: "talk", Run: "echo words of a step"}}}, "ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1")
	for _, want := range []string{"words of a step", "Processing step: DisplayName='talk'", "Starting the step.", "current step result 'Succeeded'", `"action": "setup_job"`} {
		if !strings.Contains(box.stdout.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, box.stdout)
		}
	}
	files, _ := filepath.Glob(filepath.Join(box.dir, "_diag", "*_*-utc.log"))
	if len(files) != 2 {
		t.Errorf("diagnostic files: %v", files)
	}
}

func TestConfigure(t *testing.T) {
	g := newGitHub(t)
	dir := t.TempDir()
	call := func(args ...string) (int, string) {
		out := &buffer{}
		code := runner.Main(context.Background(), runner.Program{Args: append([]string{"configure"}, args...), Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: dir, Stdout: out, Stderr: out, Knobs: quick})
		return code, out.String()
	}
	if code, out := call("--unattended", "--token", "REG"); code == 0 {
		t.Errorf("configured without a URL: %s", out)
	}
	args := []string{"--url", g.url + "/acme", "--token", "REG", "--name", "kept-1", "--labels", "gpu, big", "--runnergroup", "Fast", "--work", "w", "--unattended"}
	if code, out := call(append(args, "--ephemeral")...); code != 0 || !strings.Contains(out, "Runner successfully added") {
		t.Fatalf("code %d: %s", code, out)
	}
	if r := g.registered; r.Name != "kept-1" || r.Group != "Fast" || !r.Ephemeral || !slices.Equal(r.Labels, []string{"self-hosted", "Linux", "X64", "gpu", "big"}) {
		t.Errorf("registered %+v", r)
	}
	if code, out := call(args...); code == 0 || !strings.Contains(out, "already configured") {
		t.Errorf("code %d: %s", code, out)
	}
	if code, out := call("remove", "--token", "REG"); code != 0 || !g.removed || exists(dir, ".runner") {
		t.Errorf("code %d, removed %v: %s", code, g.removed, out)
	}
	if code, out := call(args...); code == 0 || !strings.Contains(out, "A runner exists with the same name kept-1.") {
		t.Errorf("code %d: %s", code, out)
	}
	if code, out := call(append(args, "--replace")...); code != 0 {
		t.Errorf("replace: code %d: %s", code, out)
	}
}

func TestBadJITConfigurations(t *testing.T) {
	for name, blob := range map[string]string{
		"NotBase64": "!!", "NotJSON": "eHh4", "OtherFile": "eyIuLi9ldmlsIjoieHgifQ==", "Empty": "e30=",
	} {
		t.Run(name, func(t *testing.T) {
			dir, out := t.TempDir(), &buffer{}
			if code := runner.Main(t.Context(), runner.Program{Args: []string{"run", "--jitconfig", blob}, Dir: dir, Stdout: out, Stderr: out}); code != 0 || out.String() == "" {
				t.Errorf("code %d, output %q", code, out)
			}
			if exists(filepath.Dir(dir), "evil") {
				t.Error("a file was written outside of the runner's directory")
			}
		})
	}
}

func TestWriteDir(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "it's a program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$PWD\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "runner dir")
	if err := runner.WriteDir(home, program); err != nil {
		t.Fatal(err)
	}
	// A link elsewhere makes that place the runner's root.
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(home, "run.sh"), filepath.Join(other, "run.sh")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(home, "run.sh"):    home + " run --jitconfig x y\n",
		filepath.Join(other, "run.sh"):   other + " run --jitconfig x y\n",
		filepath.Join(home, "config.sh"): home + " configure --jitconfig x y\n",
	} {
		if got := output(t, path, "--jitconfig", "x y"); got != want {
			t.Errorf("%s printed %q, want %q", path, got, want)
		}
	}
}
