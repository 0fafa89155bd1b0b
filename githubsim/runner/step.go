package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// user runs one step of the file.
func (j *job) user(ctx context.Context, index int, s *message.Step) {
	select {
	case <-j.forced:
		j.skip(index)
		return
	default:
	}
	run, err := j.scope(s.Env).Condition(s.If)
	if err == nil && !run {
		j.record(s, nil, message.Skipped, message.Skipped)
		j.skip(index)
		return
	}
	title, titleErr := j.scope(s.Env).Interpolate(j.title(s))
	if titleErr == nil {
		j.mu.Lock()
		j.steps[index].Name = j.maskedLocked(title)
		j.mu.Unlock()
	}
	j.begin(index)
	outputs := map[string]any{}
	outcome := message.Failure
	if err != nil {
		j.fail("The condition of step %q cannot be evaluated: %v", title, err)
	} else {
		outcome = j.perform(ctx, index, s, outputs)
	}
	conclusion := outcome
	if outcome == message.Failure {
		if tolerated, err := j.boolean(s.ContinueOnError, s.Env); err != nil {
			j.fail("continue-on-error: %v", err)
		} else if tolerated {
			conclusion = message.Success
		}
	}
	if conclusion == message.Failure && j.status == message.Success {
		j.status = message.Failure
	}
	j.record(s, outputs, outcome, conclusion)
	j.end(index, conclusion, telemetryOf(s))
}

// telemetryOf is what the runner's log says of what a step is.
func telemetryOf(s *message.Step) telemetry {
	if s.Uses == "" {
		shell, _, _ := strings.Cut(s.Shell, " ")
		return telemetry{Action: cmp.Or(shell, "sh"), Type: "run", Stage: "Main"}
	}
	action, ref, _ := strings.Cut(s.Uses, "@")
	return telemetry{Action: action, Ref: ref, Type: "node20", Stage: "Main"}
}

func (j *job) maskedLocked(text string) string {
	for _, m := range j.masks {
		text = strings.ReplaceAll(text, m, "***")
	}
	return text
}

func (j *job) record(s *message.Step, outputs map[string]any, outcome, conclusion string) {
	if s.ID == "" {
		return
	}
	if outputs == nil {
		outputs = map[string]any{}
	}
	j.outputs[s.ID] = map[string]any{"outputs": outputs, "outcome": outcome, "conclusion": conclusion}
}

// perform does what a step says and returns its outcome.
func (j *job) perform(ctx context.Context, index int, s *message.Step, outputs map[string]any) string {
	env, err := j.evaluate(s.Env, nil)
	if err != nil {
		return j.fail("env: %v", err)
	}
	if s.Uses != "" {
		if isCheckout(s.Uses) {
			return j.checkout(ctx, s, env)
		}
		j.line("##[warning]uses: %s is not executed by the simulated runner, the step is skipped", s.Uses)
		return message.Skipped
	}
	scope := j.scope(env)
	script, err := scope.Interpolate(s.Run)
	if err != nil {
		return j.fail("run: %v", err)
	}
	var shell, dir string
	for into, choice := range map[*string][2]string{&shell: {s.Shell, j.msg.Defaults.Shell}, &dir: {s.WorkingDirectory, j.msg.Defaults.WorkingDirectory}} {
		text := choice[0]
		if text == "" {
			text = choice[1]
		}
		if *into, err = scope.Interpolate(text); err != nil {
			return j.fail("shell or working-directory: %v", err)
		}
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(j.workspace, dir)
	}
	minutes, err := j.float(s.TimeoutMinutes, env)
	if err != nil {
		return j.fail("timeout-minutes: %v", err)
	}
	file := filepath.Join(j.temp, newID()+extension(shell))
	if err := os.WriteFile(file, []byte(strings.TrimRight(script, "\n")+"\n"), 0o755); err != nil {
		return j.fail("cannot write the script: %v", err)
	}
	args, err := command(shell, file)
	if err != nil {
		return j.fail("%v", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(script), "\n")
	j.line("##[group]Run %s", first)
	j.line("%s", strings.TrimSpace(script))
	j.line("shell: %s", strings.Replace(strings.Join(args, " "), file, "{0}", 1))
	if len(env) > 0 {
		j.line("env:")
		for _, k := range slices.Sorted(maps.Keys(env)) {
			j.line("  %s: %s", k, env[k])
		}
	}
	j.line("##[endgroup]")
	return j.process(process{index: index, args: args, dir: dir, env: env, condition: s.If, stepEnv: s.Env,
		timeout: time.Duration(minutes * float64(time.Minute)), minutes: minutes, outputs: outputs})
}

func (j *job) boolean(text string, env map[string]string) (bool, error) {
	if text == "" {
		return false, nil
	}
	v, err := j.scope(env).Value(text)
	if t, ok := v.(string); ok {
		return strings.EqualFold(t, "true"), err
	}
	return expr.Truthy(v), err
}

func (j *job) float(text string, env map[string]string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	v, err := j.scope(env).Value(text)
	if err != nil {
		return 0, err
	}
	n := expr.Number(v)
	if math.IsNaN(n) || n < 0 || n > 1e7 {
		return 0, fmt.Errorf("%q is not a number of minutes", expr.Text(v))
	}
	return n, nil
}

func extension(shell string) string {
	switch strings.Fields(shell + " bash")[0] {
	case "python":
		return ".py"
	case "pwsh", "powershell":
		return ".ps1"
	}
	return ".sh"
}

// command is the command line of a shell, as documented under "Workflow syntax",
// jobs.<job_id>.steps[*].shell.
func command(shell, file string) ([]string, error) {
	template := ""
	switch shell {
	case "":
		template = "bash -e {0}"
		if _, err := exec.LookPath("bash"); err != nil {
			template = "sh -e {0}"
		}
	case "bash":
		template = "bash --noprofile --norc -e -o pipefail {0}"
	case "sh":
		template = "sh -e {0}"
	case "python":
		template = "python {0}"
	case "pwsh":
		template = "pwsh -command . '{0}'"
	default:
		if template = shell; !strings.Contains(shell, "{0}") {
			return nil, errors.New("Invalid shell option. Shell must be a valid built-in (bash, sh, cmd, powershell, pwsh) or a format string containing '{0}'") //nolint:staticcheck // the real runner's words
		}
	}
	args := strings.Fields(template)
	path, err := exec.LookPath(args[0])
	if err != nil && args[0] == "python" {
		path, err = exec.LookPath("python3")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: command not found", args[0])
	}
	args[0] = path
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "{0}", file)
	}
	return args, nil
}

// hooks are the two scripts that an operator may set.
type hooks struct {
	started, completed string
	err                error
}

// hooks reads ACTIONS_RUNNER_HOOK_JOB_STARTED and _COMPLETED. A script that is
// not there fails the job.
func (j *job) hooks() hooks {
	h := hooks{started: j.program.env["ACTIONS_RUNNER_HOOK_JOB_STARTED"], completed: j.program.env["ACTIONS_RUNNER_HOOK_JOB_COMPLETED"]}
	for _, path := range []string{h.started, h.completed} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil || !filepath.IsAbs(path) {
			h.err = fmt.Errorf("The path to the hook script %q is not valid: it has to be an absolute path of an existing file", path) //nolint:staticcheck // the real runner's words
		}
	}
	return h
}

// hook runs a hook as a step. It has no time limit of its own.
func (j *job) hook(path string) string {
	if ext := filepath.Ext(path); ext != ".sh" {
		return j.fail("%s is not a valid hook script: only .sh is supported here", path)
	}
	if _, err := os.Stat(path); err != nil {
		return j.fail("hook script %s: %v", path, err)
	}
	args, err := command("", path)
	if err != nil {
		return j.fail("%v", err)
	}
	j.line("##[group]Run '%s'", path)
	j.line("shell: %s", strings.Join(args, " "))
	j.line("##[endgroup]")
	return j.process(process{args: args, dir: j.workspace, condition: "always()", outputs: map[string]any{}})
}

// environ is the environment of a process of this job.
func (j *job) environ(step map[string]string, files map[string]string) []string {
	env := environment(maps.Clone(j.program.env))
	for k := range env {
		if strings.HasPrefix(k, "GITHUBSIM_RUNNER_") || strings.HasPrefix(k, "ACTIONS_RUNNER_HOOK_") {
			delete(env, k)
		}
	}
	if _, ok := env["CI"]; !ok {
		env["CI"] = "true"
	}
	maps.Copy(env, j.env)
	maps.Copy(env, step)
	if len(j.path) > 0 {
		env["PATH"] = strings.Join(j.path, string(os.PathListSeparator)) + string(os.PathListSeparator) + env["PATH"]
	}
	for _, name := range []string{"actor", "actor_id", "api_url", "base_ref", "event_name", "graphql_url", "head_ref", "ref", "ref_name", "ref_protected", "ref_type",
		"repository", "repository_id", "repository_owner", "repository_owner_id", "retention_days", "run_attempt", "run_id", "run_number", "server_url", "sha",
		"triggering_actor", "workflow", "workflow_ref", "workflow_sha"} {
		if v, ok := j.msg.Contexts.GitHub[name]; ok {
			env["GITHUB_"+strings.ToUpper(name)] = expr.Text(v)
		}
	}
	maps.Copy(env, map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_JOB": j.msg.Key, "GITHUB_WORKSPACE": j.workspace,
		"GITHUB_EVENT_PATH": filepath.Join(j.temp, "_github_workflow", "event.json"),
		"RUNNER_NAME":       j.name, "RUNNER_OS": osName(), "RUNNER_ARCH": archName(), "RUNNER_ENVIRONMENT": "self-hosted", "RUNNER_TEMP": j.temp,
		"RUNNER_TOOL_CACHE": filepath.Join(j.work, "_tool"), "RUNNER_WORKSPACE": filepath.Dir(j.workspace), "RUNNER_TRACKING_ID": j.tracking,
	})
	maps.Copy(env, files)
	return env.list()
}

// process is a command of a step.
type process struct {
	index     int
	args      []string
	dir       string
	env       map[string]string // of the step, evaluated
	stepEnv   map[string]string // of the step, as written, for its condition
	condition string
	timeout   time.Duration // 0: none
	minutes   float64
	outputs   map[string]any
}

// process runs a command with its environment files and workflow commands and returns the outcome.
func (j *job) process(p process) string {
	files := map[string]string{}
	for _, name := range []string{"ENV", "PATH", "OUTPUT", "STATE", "STEP_SUMMARY"} {
		file := filepath.Join(j.temp, "_runner_file_commands", strings.ToLower(name)+"_"+newID())
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return j.fail("cannot make the file GITHUB_%s: %v", name, err)
		}
		files["GITHUB_"+name] = file
	}
	if err := os.MkdirAll(j.workspace, 0o755); err != nil {
		return j.fail("cannot make the workspace: %v", err)
	}
	commands := &commands{job: j, step: p.index + 1, outputs: p.outputs}
	// A step whose condition also holds for a cancelled job goes on (github.com, "Workflow cancellation").
	stop := make(chan struct{})
	over := make(chan struct{})
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case <-over:
			return
		case <-j.cancelled:
		}
		if goesOn, err := j.frozenCondition(p.condition, p.stepEnv); err != nil || !goesOn || j.reason() == leaseLost {
			close(stop)
			return
		}
		select {
		case <-over:
		case <-j.forced:
			close(stop)
		}
	}()
	code, ended, err := j.spawn(p, j.environ(p.env, files), commands.line, stop)
	close(over)
	<-watcher

	outcome := message.Success
	switch {
	case err != nil:
		outcome = j.fail("%v", err)
	case ended == endedByTimeout:
		outcome = j.fail("The action '%s' has timed out after %s minutes.", j.titleOf(p.index), strconv.FormatFloat(p.minutes, 'f', -1, 64))
	case ended == endedByCancel:
		j.line("##[error]The operation was canceled.")
		outcome = message.Cancelled
	case code != 0:
		outcome = j.fail("Process completed with exit code %d.", code)
	}
	if err := j.readFiles(files, p.outputs); err != nil {
		return j.fail("%v", err)
	}
	return outcome
}

func (j *job) titleOf(index int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.steps[index].Name
}

// frozenCondition evaluates a condition while the step's goroutine waits for its
// process: nothing else changes the job's contexts then.
func (j *job) frozenCondition(condition string, env map[string]string) (bool, error) {
	return j.scope(env).Condition(condition)
}
