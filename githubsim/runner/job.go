package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// cause says why a job was cancelled.
type cause int

const (
	notCancelled cause = iota
	cancelledByServer
	cancelledByTimeout
	cancelledByShutdown
	leaseLost
)

const shutdownText = "The runner has received a shutdown signal. This can happen when the runner service is stopped, or a manually started runner is canceled."

// job is one job under way. Its steps run in one goroutine, which owns every
// field that is not below mu.
type job struct {
	*program
	name    string // of the runner
	work    string // absolute work folder
	msg     message.Message
	service string
	token   string
	done    chan struct{} // closed when the job is over and reported
	log     *diag

	cancelled chan struct{} // closed by the first cancel
	forced    chan struct{} // closed when nothing more may run
	wake      chan struct{} // tells the reporter that there is something to send

	workspace, temp string
	tracking        string
	env             map[string]string // env of the file, then of GITHUB_ENV
	path            []string          // of GITHUB_PATH, latest first
	outputs         map[string]map[string]any
	secrets         map[string]any
	status          string // job.status
	posts           []int  // indexes of post steps

	mu          sync.Mutex
	why         cause
	final       string // conclusion, when over
	steps       []message.StepResult
	pending     []byte // log lines that were not sent
	sent        int64
	masks       []string
	annotations []message.Annotation
	summary     strings.Builder
	forceTimer  *time.Timer
}

func startJob(ctx context.Context, l *listener, service string, msg message.Message) *job {
	work := l.conf.settings.WorkFolder
	if work == "" {
		work = "_work"
	}
	if !filepath.IsAbs(work) {
		work = filepath.Join(l.root, work)
	}
	j := &job{
		program: l.program, name: l.conf.settings.AgentName, work: work, msg: msg, service: strings.TrimSuffix(service, "/"), token: cmp.Or(msg.Token, l.access),
		done: make(chan struct{}), cancelled: make(chan struct{}), forced: make(chan struct{}), wake: make(chan struct{}, 1),
		tracking: "github_" + newID(), env: map[string]string{}, outputs: map[string]map[string]any{}, status: message.Success,
	}
	for _, m := range append([]string{j.token}, msg.Masks...) {
		j.mask(m)
	}
	j.secrets = map[string]any{"GITHUB_TOKEN": j.token}
	// A job outlives the signal that stops the runner: it has to be reported.
	go j.run(context.WithoutCancel(ctx))
	return j
}

// cancel ends the job: the running step is stopped and only steps whose condition allows it still run.
func (j *job) cancel(why cause) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.why == notCancelled {
		j.why = why
		close(j.cancelled)
	}
}

// shutdown cancels the job because the runner is told to stop; after Knobs.Unload nothing of it runs any more.
func (j *job) shutdown() {
	j.cancel(cancelledByShutdown)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.forceTimer == nil {
		j.forceTimer = time.AfterFunc(j.knobs.Unload, func() { close(j.forced) })
	}
}

func (j *job) reason() cause {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.why
}

// result is the word that the listener prints.
func (j *job) result() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.why == leaseLost {
		return "Abandoned"
	}
	return map[string]string{message.Success: "Succeeded", message.Failure: "Failed", message.Cancelled: "Canceled"}[j.final]
}

func (j *job) run(ctx context.Context) {
	defer close(j.done)
	j.log = j.openDiag("Worker")
	defer j.log.close()
	j.log.info("Worker", "Version: %s", Version)
	j.log.info("JobRunner", "Job ID %s", j.msg.JobID)
	j.log.info("JobRunner", "Starting the job execution context.")

	background, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { j.renew(background) })
	wg.Go(func() { j.report(background) })
	timeout := time.Duration(j.msg.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = 360 * time.Minute
	}
	timer := time.AfterFunc(timeout, func() { j.cancel(cancelledByTimeout) })

	outputs := j.execute(ctx)

	timer.Stop()
	stop()
	wg.Wait()
	j.mu.Lock()
	if j.forceTimer != nil {
		j.forceTimer.Stop()
	}
	j.final = j.status
	j.mu.Unlock()
	j.complete(ctx, outputs)
	_ = os.RemoveAll(j.temp)
}

// renew keeps the job's lease. A lease that the server does not know ends the job.
func (j *job) renew(ctx context.Context) {
	for {
		var answer message.RenewAnswer
		_, err := j.call(ctx, http.MethodPost, j.service+"/renewjob", "Bearer "+j.token, message.RenewRequest{PlanID: j.msg.PlanID, JobID: j.msg.JobID}, &answer)
		if statusOf(err) == http.StatusNotFound {
			j.log.info("JobDispatcher", "TaskAgentJobNotFoundException received, job is no longer valid.")
			j.cancel(leaseLost)
			return
		}
		if err != nil && ctx.Err() == nil {
			j.log.info("JobDispatcher", "Job could not be renewed: %v", err)
		}
		if !pause(ctx, j.knobs.Renew) {
			return
		}
	}
}

// report sends what changed, gathered for Knobs.Flush, until ctx is over.
func (j *job) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.wake:
		}
		if !pause(ctx, j.knobs.Flush) {
			return
		}
		// A request under way is not cut off: the server may have taken it already.
		sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), j.knobs.Unload)
		err := j.flush(sending)
		cancel()
		if err != nil && ctx.Err() == nil {
			j.log.info("JobServerQueue", "Progress could not be sent: %v", err)
			j.changed() // again after the next pause
		}
	}
}

func (j *job) changed() {
	select {
	case j.wake <- struct{}{}:
	default: // the reporter will see this change, too
	}
}

// flush sends steps and log lines. The offset makes a repetition harmless.
func (j *job) flush(ctx context.Context) error {
	j.mu.Lock()
	steps, data, offset := slices.Clone(j.steps), string(j.pending), j.sent
	j.mu.Unlock()
	authorization := "Bearer " + j.token
	if _, err := j.call(ctx, http.MethodPost, j.service+"/steps", authorization, message.StepsRequest{PlanID: j.msg.PlanID, JobID: j.msg.JobID, Steps: steps}, nil); err != nil {
		return err
	}
	if data == "" {
		return nil
	}
	if _, err := j.call(ctx, http.MethodPost, j.service+"/log", authorization, message.LogRequest{PlanID: j.msg.PlanID, JobID: j.msg.JobID, Offset: offset, Data: data}, nil); err != nil {
		return err
	}
	j.mu.Lock()
	j.pending, j.sent = j.pending[len(data):], offset+int64(len(data))
	j.mu.Unlock()
	return nil
}

// complete sends the rest of the log and the end of the job, five times if it has to.
func (j *job) complete(ctx context.Context, outputs map[string]string) {
	if j.reason() == leaseLost {
		return // the server gave the job up; it takes no result any more
	}
	j.mu.Lock()
	request := message.CompleteRequest{PlanID: j.msg.PlanID, JobID: j.msg.JobID, Conclusion: j.final, Outputs: outputs,
		StepResults: slices.Clone(j.steps), Annotations: slices.Clone(j.annotations), Summary: j.summary.String()}
	if j.final == message.Cancelled {
		request.Reason = map[cause]string{cancelledByServer: message.ReasonServer, cancelledByTimeout: message.ReasonTimeout, cancelledByShutdown: message.ReasonShutdown}[j.why]
	}
	j.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, j.knobs.Unload)
	defer cancel()
	for try := range 5 {
		err := j.flush(ctx)
		if status := statusOf(err); err == nil || status >= 400 && status < 500 {
			_, err = j.call(ctx, http.MethodPost, j.service+"/completejob", "Bearer "+j.token, request, nil)
		}
		if status := statusOf(err); err == nil || status >= 400 && status < 500 {
			j.log.info("JobRunner", "Job completed with %s. %v", request.Conclusion, err)
			return
		}
		j.log.info("JobRunner", "Job completion could not be sent: %v", err)
		if !pause(ctx, min(j.knobs.Retry, time.Second<<try)) {
			return
		}
	}
}

// execute runs all steps and returns the job's outputs.
func (j *job) execute(ctx context.Context) map[string]string {
	j.plan()
	hooks := j.hooks()
	j.log.info("JobRunner", "Initialize job. Getting all job steps.")
	j.own(0, "setup_job", func() string { return j.setUp(hooks) })
	j.log.info("JobRunner", "Total job steps: %d.", len(j.steps)-2)
	j.log.info("JobRunner", "Run all job steps.")
	index := 1
	if hooks.started != "" {
		j.step(index, telemetry{}, func() string { return j.hook(hooks.started) })
		index++
	}
	for i := range j.msg.Steps {
		j.user(ctx, index, &j.msg.Steps[i])
		index++
	}
	for _, i := range j.posts {
		j.postCheckout(i)
		index = i + 1
	}
	if hooks.completed != "" {
		if j.reason() == cancelledByShutdown {
			j.skip(index) // the real runner leaves without it (actions/runner#2595)
		} else {
			j.step(index, telemetry{}, func() string { return j.hook(hooks.completed) })
		}
		index++
	}
	j.log.info("JobRunner", "Finalize job.")
	outputs := j.evaluateOutputs()
	j.own(index, "complete_joh", func() string { return j.tidy() })
	if j.reason() != notCancelled {
		j.status = message.Cancelled
	}
	j.log.info("JobRunner", "Job result after all job steps finish: %s", resultWord(j.status))
	j.log.info("JobRunner", "Completing the job execution context.")
	return outputs
}

// plan names all steps, so that the server shows them before they run.
func (j *job) plan() {
	names := []string{"Set up job"}
	hooks := j.hooks()
	if hooks.started != "" {
		names = append(names, "Set up runner")
	}
	first := len(names)
	for i := range j.msg.Steps {
		names = append(names, j.title(&j.msg.Steps[i]))
	}
	for i := len(j.msg.Steps) - 1; i >= 0; i-- {
		if isCheckout(j.msg.Steps[i].Uses) {
			j.posts = append(j.posts, len(names))
			names = append(names, "Post "+names[first+i])
		}
	}
	if hooks.completed != "" {
		names = append(names, "Complete runner")
	}
	names = append(names, "Complete job")
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, name := range names {
		j.steps = append(j.steps, message.StepResult{ExternalID: newID(), Number: i + 1, Name: name, Status: message.Queued})
	}
}

// title is a step's name as the file has it; expressions in it are evaluated when it starts.
func (j *job) title(s *message.Step) string {
	switch {
	case s.Name != "":
		return s.Name
	case s.Uses != "":
		return "Run " + s.Uses
	}
	first, _, _ := strings.Cut(strings.TrimSpace(s.Run), "\n")
	return "Run " + strings.TrimSpace(first)
}

func isCheckout(uses string) bool {
	return strings.HasPrefix(strings.ToLower(uses), "actions/checkout@")
}

// own runs "Set up job" or "Complete job", which the real runner does outside of its
// steps: its log tells of them by telemetry only. The misspelt action is the real one's.
func (j *job) own(index int, action string, do func() string) {
	j.start(index)
	j.finish(index, do(), telemetry{Action: action, Type: "runner"})
}

// step runs a hook or a post step; its conclusion counts for the job.
func (j *job) step(index int, t telemetry, do func() string) {
	j.begin(index)
	j.end(index, do(), t)
}

// start notes that a step has begun.
func (j *job) start(index int) {
	j.mu.Lock()
	s := &j.steps[index]
	s.Status, s.StartedAt = message.InProgress, time.Now().UTC()
	j.mu.Unlock()
	j.changed()
}

// begin starts a step with the words of the real runner's StepsRunner.
func (j *job) begin(index int) {
	j.log.info("StepsRunner", "Processing step: DisplayName='%s'", j.masked(j.titleOf(index)))
	j.start(index)
	j.log.info("StepsRunner", "Starting the step.")
}

// end ends a step that was begun. The real runner leaves the word for success out.
func (j *job) end(index int, conclusion string, t telemetry) {
	word := resultWord(conclusion)
	if conclusion == message.Success {
		word = ""
	}
	j.log.info("StepsRunner", "Step result: %s", word)
	j.finish(index, conclusion, t)
	j.conclude(conclusion)
}

// conclude says what a step's conclusion does to the job's.
func (j *job) conclude(conclusion string) {
	if conclusion == message.Failure {
		j.log.info("StepsRunner", "Update job result with current step result '%s'.", resultWord(conclusion))
	} else {
		j.log.info("StepsRunner", "No need for updating job result with current step result '%s'.", resultWord(conclusion))
	}
}

// finish notes a step's conclusion, and what it means for the job.
func (j *job) finish(index int, conclusion string, t telemetry) {
	if conclusion == message.Failure && j.status == message.Success {
		j.status = message.Failure
	}
	j.mu.Lock()
	s := &j.steps[index]
	s.Status, s.Conclusion, s.CompletedAt = message.Completed, conclusion, time.Now().UTC()
	if s.StartedAt.IsZero() {
		s.StartedAt = s.CompletedAt
	}
	t.StepID, t.Result, t.StartTime, t.FinishTime = s.ExternalID, strings.ToLower(resultWord(conclusion)), stamp(s.StartedAt), stamp(s.CompletedAt)
	t.Errors = []string{} // the real one's are in the log anyway
	t.Seconds = int(math.Ceil(s.CompletedAt.Sub(s.StartedAt).Seconds()))
	j.mu.Unlock()
	if text, err := json.MarshalIndent(t, "", "  "); err == nil && t.Type != "" {
		j.log.info("ExecutionContext", "Publish step telemetry for current step %s.", text)
	}
	j.changed()
}

// skip passes a step over.
func (j *job) skip(index int) {
	j.log.info("StepsRunner", "Processing step: DisplayName='%s'", j.masked(j.titleOf(index)))
	j.log.info("StepsRunner", "Skipping step due to condition evaluation.")
	j.finish(index, message.Skipped, telemetry{})
	j.conclude(message.Skipped)
}

// telemetry is what the real runner's log says of a step that is over, and the only place
// of its exact times.
type telemetry struct {
	Action     string   `json:"action,omitempty"`
	Ref        string   `json:"ref,omitempty"`
	Type       string   `json:"type"`
	Stage      string   `json:"stage,omitempty"`
	StepID     string   `json:"stepId"`
	Result     string   `json:"result"`
	Errors     []string `json:"errorMessages"`
	Seconds    int      `json:"executionTimeInSeconds"`
	StartTime  string   `json:"startTime"`
	FinishTime string   `json:"finishTime"`
}

// stamp is a time in the real runner's JSON.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

func resultWord(conclusion string) string {
	return map[string]string{message.Success: "Succeeded", message.Failure: "Failed", message.Cancelled: "Canceled", message.Skipped: "Skipped"}[conclusion]
}

// setUp makes the folders and the environment of the job.
func (j *job) setUp(hooks hooks) string {
	repository := expr.Text(j.msg.Contexts.GitHub["repository"])
	_, name, ok := strings.Cut(repository, "/")
	if !ok || !filepath.IsLocal(name) || strings.ContainsAny(name, "/\\") {
		name = "workspace"
	}
	j.workspace = filepath.Join(j.work, name, name)
	j.temp = filepath.Join(j.work, "_temp")
	host, _ := os.Hostname()
	j.line("Current runner version: '%s'", Version)
	j.line("Runner name: '%s'", j.name)
	j.line("Machine name: '%s'", host)
	_ = os.RemoveAll(j.temp) // of a job before, as on a kept runner
	for _, dir := range []string{j.workspace, j.temp, filepath.Join(j.work, "_tool"), filepath.Join(j.temp, "_github_workflow"), filepath.Join(j.temp, "_runner_file_commands")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return j.fail("cannot make the work folder: %v", err)
		}
	}
	event := j.msg.Event
	if len(event) == 0 {
		event = []byte("{}")
	}
	if err := os.WriteFile(filepath.Join(j.temp, "_github_workflow", "event.json"), event, 0o644); err != nil {
		return j.fail("cannot write the event: %v", err)
	}
	for _, what := range j.msg.Unsupported {
		j.line("##[warning]%s is not supported by the simulated runner", what)
	}
	// A layer may refer to the ones around it, so each is evaluated before it is added.
	for _, layer := range j.msg.Env {
		values, err := j.evaluate(layer, nil)
		if err != nil {
			return j.fail("env: %v", err)
		}
		maps.Copy(j.env, values)
	}
	if hooks.err != nil {
		return j.fail("%v", hooks.err)
	}
	j.line("Complete job name: %s", j.msg.Name)
	return message.Success
}

// tidy is "Complete job".
func (j *job) tidy() string {
	j.line("Cleaning up orphan processes")
	// What an orphan started while it was looked for is found by the next look.
	for seen, more := map[int]bool{}, true; more; {
		more = false
		for _, o := range orphans(j.tracking) {
			if seen[o.pid] {
				continue // it is ending
			}
			seen[o.pid], more = true, true
			j.line("Terminate orphan process: pid (%d) (%s)", o.pid, o.name)
			o.kill()
		}
	}
	switch j.reason() {
	case cancelledByShutdown:
		j.annotate(message.Annotation{Level: "failure", Message: shutdownText})
		j.line("##[error]%s", shutdownText)
	case cancelledByTimeout:
		text := fmt.Sprintf("The job running on runner %s has exceeded the maximum execution time of %d minutes.", j.name, int(math.Ceil(float64(j.msg.TimeoutSeconds)/60)))
		j.annotate(message.Annotation{Level: "failure", Message: text})
		j.line("##[error]%s", text)
	}
	return message.Success
}

// fail writes an error to the log and to the annotations.
func (j *job) fail(format string, args ...any) string {
	text := fmt.Sprintf(format, args...)
	j.line("##[error]%s", text)
	j.annotate(message.Annotation{Level: "failure", Message: text})
	return message.Failure
}

func (j *job) annotate(a message.Annotation) {
	a.Message, a.Title = j.masked(a.Message), j.masked(a.Title)
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.annotations) < 50 { // as many as GitHub keeps per job
		j.annotations = append(j.annotations, a)
	}
}

// mask makes a value unreadable in everything the job prints.
func (j *job) mask(value string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for part := range strings.Lines(value) {
		if part = strings.TrimRight(part, "\r\n"); part != "" && !slices.Contains(j.masks, part) {
			j.masks = append(j.masks, part)
		}
	}
	// The longest first, so that one that contains another is not torn.
	slices.SortFunc(j.masks, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
}

func (j *job) masked(text string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, m := range j.masks {
		text = strings.ReplaceAll(text, m, "***")
	}
	return text
}

// maxPending is how much of a log waits for a server that does not answer, in bytes.
const maxPending = 16 << 20

// line adds one or more lines to the job's log, masked, each with GitHub's time stamp.
func (j *job) line(format string, args ...any) {
	text := j.masked(fmt.Sprintf(format, args...))
	now := time.Now().UTC().Format("2006-01-02T15:04:05.0000000Z")
	j.mu.Lock()
	for l := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if len(j.pending) < maxPending {
			j.pending = append(j.pending, now+" "+strings.TrimRight(l, "\r")+"\n"...)
		}
	}
	j.mu.Unlock()
	if j.printsLog() {
		fmt.Fprintln(j.out, strings.TrimSuffix(text, "\n"))
	}
	j.changed()
}

// scope is what expressions may refer to; step is the env of the step itself.
func (j *job) scope(step map[string]string) *expr.Scope {
	env := map[string]any{}
	for k, v := range j.env {
		env[k] = v
	}
	for k, v := range step {
		env[k] = v
	}
	github := map[string]any{}
	maps.Copy(github, j.msg.Contexts.GitHub)
	github["token"], github["workspace"], github["job"] = j.token, j.workspace, j.msg.Key
	github["event_path"] = filepath.Join(j.temp, "_github_workflow", "event.json")
	steps := map[string]any{}
	for id, s := range j.outputs {
		steps[id] = s
	}
	c := j.msg.Contexts
	return &expr.Scope{
		Contexts: map[string]any{
			"github": github, "env": env, "steps": steps, "secrets": j.secrets, "job": map[string]any{"status": j.status},
			"needs": orEmpty(c.Needs), "matrix": orEmpty(c.Matrix), "strategy": orEmpty(c.Strategy), "inputs": orEmpty(c.Inputs), "vars": orEmpty(c.Vars),
			"runner": map[string]any{"name": j.name, "os": osName(), "arch": archName(), "environment": "self-hosted", "debug": "",
				"temp": j.temp, "tool_cache": filepath.Join(j.work, "_tool"), "workspace": filepath.Dir(j.workspace)},
		},
		Status: func(function string) bool {
			cancelled := j.reason() != notCancelled
			switch function {
			case "always":
				return true
			case "cancelled":
				return cancelled
			case "failure":
				return !cancelled && j.status == message.Failure
			}
			return !cancelled && j.status == message.Success
		},
		HashFiles: func(patterns []string) (string, error) { return hashFiles(j.workspace, patterns) },
	}
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// evaluate interpolates every value of an env.
func (j *job) evaluate(env map[string]string, step map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(env))
	scope := j.scope(step)
	for k, v := range env {
		text, err := scope.Interpolate(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		out[k] = text
	}
	return out, nil
}

func (j *job) evaluateOutputs() map[string]string {
	out := map[string]string{}
	for name, text := range j.msg.Outputs {
		value, err := j.scope(nil).Interpolate(text)
		if err != nil {
			j.fail("output %s: %v", name, err)
			continue
		}
		if j.masked(value) != value {
			j.line("##[warning]Skip output '%s' since it may contain secret.", name)
			continue
		}
		out[name] = value
	}
	return out
}
