package githubsim

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow"
)

// States of runs and jobs.
const (
	requested  = "requested"
	queued     = "queued"
	pending    = "pending"
	waiting    = "waiting"
	inProgress = "in_progress"
	completed  = "completed"
)

// run is a workflow run with all its attempts.
type run struct {
	id, suite int64
	number    int
	repo      *repository
	workflow  *workflowFile
	event     string
	payload   object
	inputs    map[string]any
	head      string
	title     string
	createdAt time.Time
	attempts  []*attempt
}

// attempt is one attempt of a run.
type attempt struct {
	number     int
	run        *run
	status     string
	conclusion string
	startedAt  time.Time
	updatedAt  time.Time
	started    bool // a job was fetched
	cancelled  bool
	jobs       []*job
	state      workflow.State
	begun      map[string]bool                // jobs of the file that are resolved
	held       map[string][]workflow.Instance // back by max-parallel
	claim      *claim                         // of the run's concurrency group
	parked     bool                           // waits for that group
}

func (r *run) latest() *attempt { return r.attempts[len(r.attempts)-1] }

// newRun starts a run. The caller holds mu.
func (s *Server) newRun(repo *repository, w *workflowFile, event string, inputs map[string]any) *run {
	w.runs++
	r := &run{
		id: s.id(&s.ids.run), suite: s.id(&s.ids.suite), number: w.runs, repo: repo, workflow: w, event: event, inputs: inputs,
		head: repo.head, title: commitMessage(repo.pushes), createdAt: s.now(), payload: s.payload(repo, event, inputs),
	}
	if event == "workflow_dispatch" {
		r.title = w.name
	}
	s.runs[r.id] = r
	s.runList = append(s.runList, r)
	a := s.newAttempt(r)
	s.emitRun(r, requested)
	if w.parsed != nil {
		s.enter(a)
	} else if w.problem != nil {
		// No job ever existed, so there is no job webhook.
		s.endAttempt(a, "startup_failure")
	}
	s.changed()
	return r
}

// enter starts an attempt, or lets it wait for its concurrency group.
func (s *Server) enter(a *attempt) {
	c, err := a.run.workflow.parsed.ConcurrencyOf(a.state.Run)
	if err != nil {
		s.endAttempt(a, "startup_failure")
		return
	}
	if c == nil {
		s.advance(a)
		return
	}
	a.parked, a.status = true, pending
	a.claim = &claim{
		begin:  func() { a.parked, a.status = false, queued; s.advance(a) },
		cancel: func() { s.cancelAttempt(a, false) },
	}
	s.claim(a.run.repo, c, a.claim)
}

func (s *Server) newAttempt(r *run) *attempt {
	now := s.now()
	a := &attempt{
		number: len(r.attempts) + 1, run: r, status: queued, startedAt: now, updatedAt: now, begun: map[string]bool{}, held: map[string][]workflow.Instance{},
	}
	a.state = workflow.State{Results: map[string]workflow.Result{}, Run: workflow.Run{
		Repository: r.repo.fullName(), RepositoryID: r.repo.id, Event: r.event, Payload: r.payload, SHA: r.head, Ref: "refs/heads/main",
		Actor: s.actor().login, ID: r.id, Number: r.number, Attempt: a.number, ServerURL: s.html(), APIURL: s.api(), DefaultBranch: "main", Inputs: r.inputs,
	}}
	r.attempts = append(r.attempts, a)
	return a
}

// endAttempt closes an attempt.
func (s *Server) endAttempt(a *attempt, conclusion string) {
	a.status, a.conclusion, a.updatedAt = completed, conclusion, s.now()
	s.emitRun(a.run, completed)
	s.leave(a.claim)
	s.changed()
}

// CancelRun asks for the end of a run, as the button does.
func (s *Server) CancelRun(repo string, runID int64) error {
	return s.changeRun(repo, runID, func(r *run) error { return s.cancelRun(r, false) })
}

// Rerun starts a new attempt of a finished run: of all its jobs, or of those that
// failed and what depends on them.
func (s *Server) Rerun(repo string, runID int64, onlyFailed bool) error {
	return s.changeRun(repo, runID, func(r *run) error { return s.rerun(r, onlyFailed, nil) })
}

// ApproveDeployment opens the gate of an environment for a run that waits for it.
func (s *Server) ApproveDeployment(repo string, runID int64, environment string) error {
	return s.review(repo, runID, environment, true)
}

// RejectDeployment fails the jobs of a run that wait for an environment.
func (s *Server) RejectDeployment(repo string, runID int64, environment string) error {
	return s.review(repo, runID, environment, false)
}

func (s *Server) review(repo string, runID int64, environment string, approved bool) error {
	return s.changeRun(repo, runID, func(r *run) error {
		gates := s.gatesOf(r)
		for _, g := range gates {
			if strings.EqualFold(g.name, environment) {
				s.open(r, g, approved)
				return nil
			}
		}
		return fmt.Errorf("no job waits for %q", environment)
	})
}

func (s *Server) changeRun(repo string, id int64, change func(*run) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[id]
	if r == nil || !strings.EqualFold(r.repo.fullName(), repo) {
		return fmt.Errorf("run %d of %s does not exist", id, repo)
	}
	if err := change(r); err != nil {
		return fmt.Errorf("run %d of %s: %w", id, repo, err)
	}
	s.changed()
	return nil
}

func (s *Server) runRoutes() []*route {
	const runs = "/repos/{owner}/{repo}/actions/runs"
	read, write, personal := []string{"actions=read"}, []string{"actions=write"}, []string{"repo"}
	get := func(rest string, do func(*call) (reply, error)) *route {
		return &route{pattern: "GET " + runs + rest, who: tokens, needs: read, scopes: personal, do: do}
	}
	post := func(rest string, do func(*call) (reply, error)) *route {
		return &route{pattern: "POST " + runs + rest, who: tokens, needs: write, scopes: personal, do: do}
	}
	return []*route{
		get("", s.listRuns),
		get("/{run}", s.withRun(func(c *call, r *run) (reply, error) { return ok(s.runView(r, r.latest())) })),
		get("/{run}/attempts/{attempt}", s.withAttempt(func(c *call, a *attempt) (reply, error) { return ok(s.runView(a.run, a)) })),
		get("/{run}/attempts/{attempt}/jobs", s.withAttempt(func(c *call, a *attempt) (reply, error) { return list(c, "jobs", a.jobs, s.jobView) })),
		get("/{run}/jobs", s.withRun(s.listRunJobs)),
		get("/{run}/pending_deployments", s.withRun(s.listPendingDeployments)),
		post("/{run}/cancel", s.withRun(func(c *call, r *run) (reply, error) { return accepted(s.cancelRun(r, false)) })),
		post("/{run}/force-cancel", s.withRun(func(c *call, r *run) (reply, error) { return accepted(s.cancelRun(r, true)) })),
		post("/{run}/rerun", s.withRun(func(c *call, r *run) (reply, error) { return started(s.rerun(r, false, nil)) })),
		post("/{run}/rerun-failed-jobs", s.withRun(func(c *call, r *run) (reply, error) { return started(s.rerun(r, true, nil)) })),
		post("/{run}/pending_deployments", s.withRun(s.reviewDeployments)),
		{pattern: "GET /repos/{owner}/{repo}/actions/workflows", who: tokens, needs: read, scopes: personal, prepare: s.prepareWorkflows, do: s.listWorkflows},
		{pattern: "GET /repos/{owner}/{repo}/actions/workflows/{workflow}", who: tokens, needs: read, scopes: personal, prepare: s.prepareWorkflows, do: func(c *call) (reply, error) {
			w, err := c.workflow()
			if err != nil {
				return reply{}, err
			}
			return ok(s.workflowView(c.repo, w))
		}},
		{pattern: "POST /repos/{owner}/{repo}/actions/workflows/{workflow}/dispatches", who: tokens, needs: write, scopes: personal,
			content: true, prepare: s.prepareWorkflows, do: s.dispatchWorkflow},
	}
}

func accepted(err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted, body: object{}}, nil
}

func started(err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	return created(object{})
}

func (s *Server) withRun(do func(*call, *run) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		id, err := c.number("run")
		if err != nil {
			return reply{}, err
		}
		r := s.runs[id]
		if r == nil || r.repo != c.repo {
			return reply{}, notFound()
		}
		return do(c, r)
	}
}

func (s *Server) withAttempt(do func(*call, *attempt) (reply, error)) func(*call) (reply, error) {
	return s.withRun(func(c *call, r *run) (reply, error) {
		n, err := c.number("attempt")
		if err != nil || n > int64(len(r.attempts)) {
			return reply{}, notFound()
		}
		return do(c, r.attempts[n-1])
	})
}

// runFilters are what the status parameter may be: states and conclusions share it.
var runFilters = []string{
	"completed", "action_required", "cancelled", "failure", "neutral", "skipped", "stale", "success", "timed_out",
	"in_progress", "queued", "requested", "waiting", "pending",
}

// maxSearch is how many runs a filtered list shows at most.
const maxSearch = 1000

func (s *Server) listRuns(c *call) (reply, error) {
	q := c.r.URL.Query()
	status := q.Get("status")
	if status != "" && !slices.Contains(runFilters, status) {
		return reply{}, invalid("status", "invalid")
	}
	filtered := status != ""
	var all []*run
	for i := len(s.runList) - 1; i >= 0; i-- {
		r := s.runList[i]
		if r.repo != c.repo || status != "" && r.latest().status != status && r.latest().conclusion != status {
			continue
		}
		keep := true
		for _, f := range []struct{ name, value string }{
			{"branch", "main"}, {"event", r.event}, {"head_sha", r.head}, {"actor", s.actor().login}, {"check_suite_id", fmt.Sprint(r.suite)},
		} {
			if want := q.Get(f.name); want != "" {
				filtered = true
				keep = keep && want == f.value
			}
		}
		if created := q.Get("created"); created != "" {
			filtered = true
			keep = keep && within(created, r.createdAt)
		}
		if keep {
			all = append(all, r)
		}
	}
	if filtered && len(all) > maxSearch {
		all = all[:maxSearch]
	}
	return list(c, "workflow_runs", all, func(r *run) object { return s.runView(r, r.latest()) })
}

// within reads GitHub's date ranges: >=T, <T, T..T, or one day.
func within(text string, t time.Time) bool {
	parse := func(text string) (time.Time, bool) {
		for _, layout := range []string{time.RFC3339, "2006-01-02"} {
			if v, err := time.Parse(layout, text); err == nil {
				return v, true
			}
		}
		return time.Time{}, false
	}
	if from, to, isRange := strings.Cut(text, ".."); isRange {
		a, okA := parse(from)
		b, okB := parse(to)
		return (from == "*" || okA && !t.Before(a)) && (to == "*" || okB && !t.After(b))
	}
	for _, op := range []string{">=", "<=", ">", "<"} {
		rest, found := strings.CutPrefix(text, op)
		if !found {
			continue
		}
		v, ok := parse(rest)
		switch t = t.Truncate(time.Second); op {
		case ">=":
			return ok && !t.Before(v)
		case "<=":
			return ok && !t.After(v)
		case ">":
			return ok && t.After(v)
		}
		return ok && t.Before(v)
	}
	day, ok := parse(text)
	return ok && !t.Before(day) && t.Before(day.Add(24*time.Hour))
}

func (s *Server) listRunJobs(c *call, r *run) (reply, error) {
	jobs := r.latest().jobs
	if c.r.URL.Query().Get("filter") == "all" {
		jobs = nil
		for _, a := range r.attempts {
			jobs = append(jobs, a.jobs...)
		}
	}
	return list(c, "jobs", jobs, s.jobView)
}

// gatesOf are the environments that jobs of the run wait for.
func (s *Server) gatesOf(r *run) []*environment {
	var out []*environment
	for _, j := range r.latest().jobs {
		if j.status == waiting && !slices.Contains(out, j.deployment.environment) {
			out = append(out, j.deployment.environment)
		}
	}
	return out
}

func (s *Server) listPendingDeployments(c *call, r *run) (reply, error) {
	return ok(views(s.gatesOf(r), func(e *environment) object {
		name := s.api() + "/repos/" + r.repo.fullName() + "/environments/" + e.name
		return object{
			"environment": object{"id": e.id, "node_id": nodeID("EN", e.id), "name": e.name, "url": name,
				"html_url": s.html() + "/" + r.repo.fullName() + "/deployments/activity_log?environments_filter=" + e.name},
			"wait_timer": 0, "wait_timer_started_at": nil, "current_user_can_approve": true,
			"reviewers": []object{{"type": "User", "reviewer": s.accountView(s.actor())}},
		}
	}))
}

func (s *Server) reviewDeployments(c *call, r *run) (reply, error) {
	var in struct {
		IDs     []int64 `json:"environment_ids"`
		State   string  `json:"state"`
		Comment *string `json:"comment"`
	}
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if in.State != "approved" && in.State != "rejected" || in.Comment == nil || len(in.IDs) == 0 {
		return reply{}, errorf(http.StatusUnprocessableEntity, "Invalid request.\n\nenvironment_ids, state and comment are needed.")
	}
	out := []object{}
	for _, g := range s.gatesOf(r) {
		if slices.Contains(in.IDs, g.id) {
			for _, d := range s.open(r, g, in.State == "approved") {
				out = append(out, s.deploymentView(d))
			}
		}
	}
	if len(out) == 0 {
		return reply{}, errorf(http.StatusUnprocessableEntity, "There are no pending deployments for these environments.")
	}
	return ok(out)
}

func (s *Server) runURL(r *run) string {
	return fmt.Sprintf("%s/repos/%s/actions/runs/%d", s.api(), r.repo.fullName(), r.id)
}

func (s *Server) runPage(r *run) string {
	return fmt.Sprintf("%s/%s/actions/runs/%d", s.html(), r.repo.fullName(), r.id)
}

func (s *Server) runView(r *run, a *attempt) object {
	api := s.runURL(r)
	var previous any
	if a.number > 1 {
		previous = fmt.Sprintf("%s/attempts/%d", api, a.number-1)
	}
	person := object{"name": s.actor().login, "email": s.actor().login + "@example.com"}
	repo := s.minimalRepositoryView(r.repo)
	return object{
		"id": r.id, "name": r.workflow.name, "node_id": nodeID("WFR", r.id), "check_suite_id": r.suite, "check_suite_node_id": nodeID("CS", r.suite),
		"head_branch": "main", "head_sha": r.head, "path": r.workflow.path, "run_number": r.number, "run_attempt": a.number, "event": r.event,
		"display_title": r.title, "status": a.status, "conclusion": orNull(a.conclusion), "workflow_id": r.workflow.id, "url": api, "html_url": s.runPage(r),
		"pull_requests": []object{}, "created_at": stamp(r.createdAt), "updated_at": stamp(a.updatedAt), "run_started_at": stamp(a.startedAt),
		"actor": s.accountView(s.actor()), "triggering_actor": s.accountView(s.actor()), "referenced_workflows": []object{},
		"jobs_url": api + "/jobs", "logs_url": api + "/logs", "artifacts_url": api + "/artifacts", "cancel_url": api + "/cancel", "rerun_url": api + "/rerun",
		"check_suite_url":      fmt.Sprintf("%s/repos/%s/check-suites/%d", s.api(), r.repo.fullName(), r.suite),
		"previous_attempt_url": previous, "workflow_url": fmt.Sprintf("%s/repos/%s/actions/workflows/%d", s.api(), r.repo.fullName(), r.workflow.id),
		"head_commit": object{"id": r.head, "tree_id": s.treeOf(r.head), "message": r.title, "timestamp": stamp(r.createdAt), "author": person, "committer": person},
		"repository":  repo, "head_repository": repo,
	}
}
