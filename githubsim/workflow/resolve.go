package workflow

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// MaxMatrix is how many instances a matrix may have (docs.github.com, "Actions limits").
const MaxMatrix = 256

// DefaultTimeout is timeout-minutes where a file sets none.
const DefaultTimeout = 360 * time.Minute

// Resolve says what becomes of one job now, given the jobs that are completed.
// An error means that the job cannot start, as with an expression that fails:
// GitHub then ends the job as failed.
func (w *Workflow) Resolve(key string, st State) (Resolution, error) {
	job := w.Job(key)
	if job == nil {
		return Resolution{}, fmt.Errorf("no job %q in %s", key, w.Path)
	}
	for _, need := range job.Needs {
		if _, done := st.result(need); !done {
			return Resolution{Verdict: Wait}, nil
		}
	}
	scope := w.scope(job, st)
	ok, err := scope.Condition(job.If)
	if err != nil {
		return Resolution{}, fmt.Errorf("if of job %s: %w", job.Key, err)
	}
	if !ok {
		return Resolution{Skip, []Instance{{Key: job.Key, Name: cmp.Or(job.Name, job.Key), Total: 1, Labels: slices.Clone(job.RunsOn.Labels)}}}, nil
	}
	instances, err := w.expand(job, st)
	if err != nil {
		return Resolution{}, fmt.Errorf("job %s: %w", job.Key, err)
	}
	return Resolution{Start, instances}, nil
}

// Combine gives the result of a job from its instances: failure before
// cancelled before success; skipped only if all are. A failure with
// continue-on-error counts as success for the jobs that need it. Outputs of
// later instances win, as on GitHub.
func Combine(instances ...InstanceResult) Result {
	out := Result{Conclusion: message.Skipped, Outputs: map[string]string{}}
	rank := map[string]int{message.Skipped: 0, message.Success: 1, message.Cancelled: 2, message.Failure: 3}
	for _, in := range instances {
		c := in.Conclusion
		if c == message.Failure && in.ContinueOnError {
			c = message.Success
		}
		if _, known := rank[c]; !known {
			c = message.Failure // timed_out, action_required: not a success for whoever needs it
		}
		if rank[c] > rank[out.Conclusion] {
			out.Conclusion = c
		}
		for k, v := range in.Outputs {
			if v != "" {
				out.Outputs[k] = v
			}
		}
	}
	return out
}

func (st State) result(key string) (Result, bool) {
	if r, ok := st.Results[key]; ok {
		return r, true
	}
	for k, r := range st.Results {
		if strings.EqualFold(k, key) {
			return r, true
		}
	}
	return Result{}, false
}

// ancestors are all jobs that must be over before this one, direct or not.
func (w *Workflow) ancestors(job *Job) []*Job {
	var out []*Job
	seen := map[*Job]bool{}
	var add func(j *Job)
	add = func(j *Job) {
		for _, key := range j.Needs {
			if n := w.Job(key); n != nil && !seen[n] {
				seen[n] = true
				out = append(out, n)
				add(n)
			}
		}
	}
	add(job)
	return out
}

// scope is what the expressions of a job may refer to before it runs.
func (w *Workflow) scope(job *Job, st State) *expr.Scope {
	c := w.contexts(job, st)
	return &expr.Scope{
		Contexts: map[string]any{
			"github": c.GitHub, "needs": c.Needs, "inputs": c.Inputs, "vars": c.Vars,
			"secrets": map[string]any{}, "strategy": map[string]any{}, "matrix": map[string]any{},
		},
		Status: func(function string) bool {
			switch function {
			case "always":
				return true
			case "cancelled":
				return st.Cancelled
			case "failure":
				return !st.Cancelled && slices.ContainsFunc(w.ancestors(job), func(j *Job) bool {
					r, _ := st.result(j.Key)
					return r.Conclusion == message.Failure
				})
			}
			// success() looks at all ancestors: a skipped one skips what follows (actions/runner#491).
			return !st.Cancelled && !slices.ContainsFunc(w.ancestors(job), func(j *Job) bool {
				r, _ := st.result(j.Key)
				return r.Conclusion != message.Success
			})
		},
	}
}

// contexts are what the server knows for one job.
func (w *Workflow) contexts(job *Job, st State) Contexts {
	needs := map[string]any{}
	for _, key := range job.Needs {
		r, _ := st.result(key)
		outputs := map[string]any{}
		for k, v := range r.Outputs {
			outputs[k] = v
		}
		needs[key] = map[string]any{"result": r.Conclusion, "outputs": outputs}
	}
	vars := map[string]any{}
	for k, v := range st.Run.Vars {
		vars[k] = v
	}
	inputs := w.inputs(st.Run)
	return Contexts{GitHub: w.github(job.Key, st.Run, inputs), Needs: needs, Inputs: inputs, Vars: vars}
}

func (w *Workflow) inputs(run Run) map[string]any {
	out := map[string]any{}
	for _, t := range w.Triggers {
		if t.Event != "workflow_dispatch" || run.Event != "workflow_dispatch" {
			continue
		}
		for name, in := range t.Inputs {
			out[name] = in.Default
			if in.Type == "boolean" {
				out[name] = in.Default == "true"
			}
		}
	}
	maps.Copy(out, run.Inputs)
	return out
}

func (w *Workflow) github(jobKey string, run Run, inputs map[string]any) map[string]any {
	owner, name, _ := strings.Cut(run.Repository, "/")
	refName, refType := run.Ref, "branch"
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/pull/"} {
		refName = strings.TrimPrefix(refName, prefix)
	}
	if strings.HasPrefix(run.Ref, "refs/tags/") {
		refType = "tag"
	}
	event := map[string]any{}
	maps.Copy(event, run.Payload)
	if run.Event == "workflow_dispatch" && event["inputs"] == nil {
		event["inputs"] = inputs
	}
	headRef, baseRef := "", ""
	if pr, ok := event["pull_request"].(map[string]any); ok {
		headRef, baseRef = refOf(pr["head"]), refOf(pr["base"])
	}
	return map[string]any{
		"repository": run.Repository, "repository_owner": owner, "repository_id": fmt.Sprint(run.RepositoryID),
		"repositoryUrl": "git://" + strings.TrimPrefix(strings.TrimPrefix(run.ServerURL, "https://"), "http://") + "/" + owner + "/" + name + ".git",
		"event_name":    run.Event, "event": event, "sha": run.SHA, "ref": run.Ref, "ref_name": refName, "ref_type": refType,
		"head_ref": headRef, "base_ref": baseRef,
		"actor": run.Actor, "triggering_actor": cmp.Or(run.TriggeringActor, run.Actor),
		"run_id": fmt.Sprint(run.ID), "run_number": fmt.Sprint(run.Number), "run_attempt": fmt.Sprint(max(run.Attempt, 1)),
		"workflow": w.Name, "workflow_ref": run.Repository + "/" + w.Path + "@" + run.Ref, "workflow_sha": run.SHA,
		"job": jobKey, "server_url": run.ServerURL, "api_url": run.APIURL, "graphql_url": strings.TrimSuffix(run.APIURL, "/v3") + "/graphql",
		"retention_days": "90", "secret_source": "Actions",
	}
}

func refOf(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["ref"].(string)
	return s
}

// expand multiplies a job by its matrix.
func (w *Workflow) expand(job *Job, st State) ([]Instance, error) {
	scope := w.scope(job, st)
	cells := []combination{{}}
	if job.Matrix != nil {
		var err error
		if cells, err = job.Matrix.combinations(scope); err != nil {
			return nil, err
		}
		if len(cells) == 0 {
			return nil, errors.New("matrix must define at least one vector")
		}
		if len(cells) > MaxMatrix {
			return nil, fmt.Errorf("matrix has %d jobs, at most %d are allowed", len(cells), MaxMatrix)
		}
	}
	failFast, err := truth(scope, job.FailFast, true)
	if err != nil {
		return nil, fmt.Errorf("fail-fast: %w", err)
	}
	parallel, err := amount(scope, job.MaxParallel)
	if err != nil {
		return nil, fmt.Errorf("max-parallel: %w", err)
	}
	out := make([]Instance, len(cells))
	for i, cell := range cells {
		in := Instance{Key: job.Key, Index: i, Total: len(cells), FailFast: failFast, MaxParallel: int(parallel)}
		if job.Matrix != nil {
			in.Matrix = cell.values()
		}
		if err := w.fill(&in, job, cell, in.scope(scope)); err != nil {
			return nil, err
		}
		out[i] = in
	}
	return out, nil
}

// scope adds what differs between instances.
func (in Instance) scope(of *expr.Scope) *expr.Scope {
	contexts := maps.Clone(of.Contexts)
	contexts["strategy"] = in.strategy()
	contexts["matrix"] = in.Matrix
	if in.Matrix == nil {
		contexts["matrix"] = map[string]any{}
	}
	return &expr.Scope{Contexts: contexts, Status: of.Status}
}

func (in Instance) strategy() map[string]any {
	parallel := in.MaxParallel
	if parallel == 0 {
		parallel = in.Total
	}
	return map[string]any{"fail-fast": in.FailFast, "job-index": float64(in.Index), "job-total": float64(in.Total), "max-parallel": float64(parallel)}
}

func (w *Workflow) fill(in *Instance, job *Job, cell combination, scope *expr.Scope) (err error) {
	if in.Name, err = scope.Interpolate(cmp.Or(job.Name, job.Key)); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	// GitHub appends the cell only where the name does not mention the matrix itself.
	if suffix := cell.display(); suffix != "" && !mentionsMatrix(job.Name) {
		in.Name += " (" + suffix + ")"
	}
	if in.Labels, err = job.RunsOn.labels(scope); err != nil {
		return fmt.Errorf("runs-on: %w", err)
	}
	if in.Group, err = scope.Interpolate(job.RunsOn.Group); err != nil {
		return fmt.Errorf("runs-on group: %w", err)
	}
	minutes, err := amount(scope, job.TimeoutMinutes)
	if err != nil {
		return fmt.Errorf("timeout-minutes: %w", err)
	}
	in.Timeout = DefaultTimeout
	if minutes > 0 {
		in.Timeout = time.Duration(minutes * float64(time.Minute))
	}
	if in.ContinueOnError, err = truth(scope, job.ContinueOnError, false); err != nil {
		return fmt.Errorf("continue-on-error: %w", err)
	}
	if e := job.Environment; e != nil {
		name, err := scope.Interpolate(e.Name)
		if err != nil {
			return fmt.Errorf("environment: %w", err)
		}
		if name != "" {
			in.Environment = &Environment{Name: name, URL: e.URL} // its URL may refer to steps
		}
	}
	if in.Concurrency, err = job.Concurrency.evaluate(scope); err != nil {
		return fmt.Errorf("concurrency: %w", err)
	}
	return nil
}

func mentionsMatrix(name string) bool {
	return strings.Contains(name, "${{") && strings.Contains(strings.ToLower(name), "matrix")
}

func (c *Concurrency) evaluate(scope *expr.Scope) (*Concurrency, error) {
	if c == nil {
		return nil, nil
	}
	group, err := scope.Interpolate(c.Group)
	if err != nil {
		return nil, err
	}
	cancel, err := truth(scope, c.CancelInProgress, false)
	if err != nil {
		return nil, err
	}
	return &Concurrency{Group: group, CancelInProgress: fmt.Sprint(cancel)}, nil
}

// ConcurrencyOf evaluates the workflow's own concurrency group for a run; nil if it has none.
func (w *Workflow) ConcurrencyOf(run Run) (*Concurrency, error) {
	return w.Concurrency.evaluate(w.scope(&Job{}, State{Run: run}))
}

// RunTitle evaluates run-name for a run; empty if the file has none.
func (w *Workflow) RunTitle(run Run) (string, error) {
	return w.scope(&Job{}, State{Run: run}).Interpolate(w.RunName)
}

func (r RunsOn) labels(scope *expr.Scope) ([]string, error) {
	if r.Expression == "" {
		out := make([]string, 0, len(r.Labels))
		for _, l := range r.Labels {
			// A label that is one expression may be a list: runs-on: ${{ matrix.labels }}.
			v, err := scope.Value(l)
			if err != nil {
				return nil, err
			}
			out = append(out, texts(v)...)
		}
		return out, nil
	}
	v, err := scope.Value(r.Expression)
	if err != nil {
		return nil, err
	}
	out := texts(v)
	if len(out) == 0 {
		return nil, errors.New("the expression gives no label")
	}
	return out, nil
}

func texts(v any) []string {
	if list, ok := v.([]any); ok {
		var out []string
		for _, e := range list {
			if t := expr.Text(e); t != "" {
				out = append(out, t)
			}
		}
		return out
	}
	if t := expr.Text(v); t != "" {
		return []string{t}
	}
	return nil
}

func truth(scope *expr.Scope, text string, empty bool) (bool, error) {
	if text == "" {
		return empty, nil
	}
	v, err := scope.Value(text)
	if s, ok := v.(string); ok {
		return strings.EqualFold(s, "true"), err
	}
	return expr.Truthy(v), err
}

// amount evaluates a number that is not negative; empty is 0.
func amount(scope *expr.Scope, text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	v, err := scope.Value(text)
	if err != nil {
		return 0, err
	}
	n := expr.Number(v)
	if math.IsNaN(n) || n < 0 || n > 1e9 {
		return 0, fmt.Errorf("%q is not a number between 0 and 1e9", expr.Text(v))
	}
	return n, nil
}

// Message makes what a runner is told of an instance: everything but PlanID,
// JobID, Token, Checkout and Event, which the server adds.
func (w *Workflow) Message(in Instance, st State) (Message, error) {
	job := w.Job(in.Key)
	if job == nil {
		return Message{}, fmt.Errorf("no job %q in %s", in.Key, w.Path)
	}
	contexts := w.contexts(job, st)
	contexts.Matrix, contexts.Strategy = in.Matrix, in.strategy()
	msg := Message{
		Name: in.Name, Key: job.Key, Contexts: contexts, Steps: slices.Clone(job.Steps), Outputs: maps.Clone(job.Outputs),
		TimeoutSeconds: int64(math.Ceil(in.Timeout.Seconds())), Unsupported: slices.Clone(job.unsupported),
		Defaults: Defaults{
			Shell:            cmp.Or(job.Defaults.Shell, w.Defaults.Shell),
			WorkingDirectory: cmp.Or(job.Defaults.WorkingDirectory, w.Defaults.WorkingDirectory),
		},
	}
	for _, layer := range []map[string]string{w.Env, job.Env} {
		if len(layer) > 0 {
			msg.Env = append(msg.Env, maps.Clone(layer))
		}
	}
	return msg, nil
}
