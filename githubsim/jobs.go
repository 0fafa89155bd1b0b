package githubsim

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// job is one job of one attempt.
type job struct {
	id       int64
	run      *run
	attempt  *attempt
	key      string
	name     string
	labels   []string
	group    string
	instance workflow.Instance
	message  message.Message

	status, conclusion     string
	createdAt, queuedAt    time.Time
	startedAt, completedAt time.Time
	steps                  []message.StepResult
	outputs                map[string]string
	annotations            []message.Annotation
	log                    []byte
	deployment             *deployment

	// what GitHub shows of the runner; kept when the runner is gone
	runnerID, groupID     int64
	runnerName, groupName string

	plan, uuid string // names towards the run service
	token      string
	messageID  int64
	assigned   *runner
	arrival    int64
	claim      *claim // of its concurrency group
	demand     *demand
	cancelling bool
	copied     bool // into an attempt that did not repeat it
	alien      bool // a thief's

	pickup, expiry, lease, grace, timeout *entry

	// of the scale set that the job was given to
	set                         *scaleSet
	setAssigned, runnerAssigned time.Time
	setIDs                      []string // one for each time that it was given away
	requestID                   int64    // when it must be acquired
	drawn, requested            bool
	trapped                     map[int64]bool // by the id of the set
	lapse                       *entry
	lapses                      int
	toldCompleted               bool

	emitted             []string
	acquires, completes int
}

func (j *job) result() workflow.InstanceResult {
	return workflow.InstanceResult{Conclusion: j.conclusion, ContinueOnError: j.instance.ContinueOnError, Outputs: j.outputs}
}

// JobOptions describe one job that is queued without a workflow file.
type JobOptions struct {
	Repo     string   // owner/name
	Labels   []string // of runs-on
	Group    string   // runner group of runs-on, empty for any
	Name     string   // empty: "build"
	Workflow string   // display name of the workflow, empty: "Injected"
	// Duration is how long the job sleeps on its runner, in whole milliseconds;
	// ignored when Steps are given.
	Duration time.Duration
	// Steps are what the runner does.
	Steps []workflow.Step
	// Fail makes the sleeping job end with an error.
	Fail bool
	// Timeout is timeout-minutes; 0 is GitHub's default.
	Timeout time.Duration
	// Environment makes the job wait for approval if the environment is gated.
	Environment string
}

// InjectJob queues one job in a run of its own and returns the job's id.
func (s *Server) InjectJob(opts JobOptions) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.needRepository(opts.Repo)
	if err != nil {
		return 0, fmt.Errorf("inject job: %w", err)
	}
	j := s.injectJob(r, opts, true)
	kept := opts
	kept.Labels, kept.Steps = slices.Clone(opts.Labels), slices.Clone(opts.Steps)
	s.act(Act{Job: &kept})
	s.injectedJobs = append(s.injectedJobs, j.id)
	return j.id, nil
}

// injectJob makes the job and its run. A thief's job is announced but not put on
// the market: its runner is chosen already.
func (s *Server) injectJob(repo *repository, opts JobOptions, offer bool) *job {
	name, title := opts.Name, opts.Workflow
	if name == "" {
		name = "build"
	}
	if title == "" {
		title = "Injected"
	}
	file := workflowFolder + "/" + strings.Trim(notSlug.ReplaceAllString(strings.ToLower(title), "-"), "-") + ".yml"
	r := s.newRun(repo, s.workflowFile(repo, file, title), "workflow_dispatch", nil)
	in := workflow.Instance{Key: "build", Name: name, Labels: slices.Clone(opts.Labels), Group: opts.Group, Total: 1, Timeout: opts.Timeout}
	if opts.Environment != "" {
		in.Environment = &workflow.Environment{Name: opts.Environment}
	}
	j := s.newJob(r.latest(), in)
	j.message = message.Message{Steps: opts.steps(), TimeoutSeconds: int64(math.Ceil(opts.Timeout.Seconds())), Contexts: message.Contexts{GitHub: s.githubContext(r)}}
	if offer {
		s.admit(j)
		return j
	}
	j.queuedAt = s.now()
	s.market.arrivals++
	j.arrival = s.market.arrivals
	s.emitJob(j, "queued")
	return j
}

func (o JobOptions) steps() []workflow.Step {
	if o.Steps != nil {
		return slices.Clone(o.Steps)
	}
	script := fmt.Sprintf("sleep %.3f", o.Duration.Seconds())
	if o.Fail {
		script += "\nexit 1"
	}
	return []workflow.Step{{Name: "Work", Run: script}}
}

// githubContext is the github context of a job without a workflow file.
func (s *Server) githubContext(r *run) map[string]any {
	owner, _, _ := strings.Cut(r.repo.fullName(), "/")
	return map[string]any{
		"repository": r.repo.fullName(), "repository_owner": owner, "repository_id": fmt.Sprint(r.repo.id), "event_name": r.event, "sha": r.head,
		"ref": "refs/heads/main", "ref_name": "main", "ref_type": "branch", "actor": s.actor().login, "triggering_actor": s.actor().login,
		"run_id": fmt.Sprint(r.id), "run_number": fmt.Sprint(r.number), "run_attempt": fmt.Sprint(len(r.attempts)), "workflow": r.workflow.name,
		"workflow_ref": r.repo.fullName() + "/" + r.workflow.path + "@refs/heads/main", "workflow_sha": r.head, "job": "build",
		"server_url": s.html(), "api_url": s.api(), "event": r.payload,
	}
}

func (s *Server) jobRoutes() []*route {
	const jobs = "/repos/{owner}/{repo}/actions/jobs/{job}"
	read, write, personal := []string{"actions=read"}, []string{"actions=write"}, []string{"repo"}
	return []*route{
		{pattern: "GET " + jobs, who: tokens, needs: read, scopes: personal, do: s.withJob(func(c *call, j *job) (reply, error) { return ok(s.jobView(j)) })},
		{pattern: "GET " + jobs + "/logs", who: tokens, needs: read, scopes: personal, do: s.withJob(s.getJobLog)},
		{pattern: "POST " + jobs + "/rerun", who: tokens, needs: write, scopes: personal, do: s.withJob(func(c *call, j *job) (reply, error) {
			if j.attempt != j.run.latest() {
				return reply{}, errorf(http.StatusForbidden, "Unable to re-run this job: it does not belong to the latest attempt.")
			}
			return started(s.rerun(j.run, false, j))
		})},
	}
}

func (s *Server) withJob(do func(*call, *job) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		id, err := c.number("job")
		if err != nil {
			return reply{}, err
		}
		j := s.jobs[id]
		if j == nil || j.run.repo != c.repo {
			return reply{}, notFound()
		}
		return do(c, j)
	}
}

// logLink is the short-lived address of a log.
type logLink struct {
	job     *job
	expires time.Time
}

func (s *Server) getJobLog(c *call, j *job) (reply, error) {
	if j.status != completed {
		return reply{}, notFound()
	}
	key := s.chance.text("log link", 40, alphaNumeric)
	s.logLinks[key] = &logLink{j, c.now.Add(s.cfg.LogLinkLifetime)}
	s.after(s.cfg.LogLinkLifetime+time.Second, func() { delete(s.logLinks, key) })
	return reply{status: http.StatusFound, location: s.base + "/_services/logs/" + key}, nil
}

func (s *Server) serveLogLink(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	link := s.logLinks[r.PathValue("key")]
	var text []byte
	if link != nil && s.now().Before(link.expires) {
		// Only ever appended to, and not any more: the job is completed.
		text = link.job.log
	} else {
		link = nil
	}
	s.mu.Unlock()
	if link == nil {
		http.Error(w, "The link has expired.", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text)
}

func (s *Server) jobURL(r *repository, id int64) string {
	return fmt.Sprintf("%s/repos/%s/actions/jobs/%d", s.api(), r.fullName(), id)
}

func (s *Server) checkURL(r *repository, id int64) string {
	return fmt.Sprintf("%s/repos/%s/check-runs/%d", s.api(), r.fullName(), id)
}

// jobView is a job as REST and webhooks show it.
func (s *Server) jobView(j *job) object {
	v := object{
		"id": j.id, "run_id": j.run.id, "workflow_name": j.run.workflow.name, "head_branch": "main", "run_url": s.runURL(j.run), "run_attempt": j.attempt.number,
		"node_id": nodeID("CR", j.id), "head_sha": j.run.head, "url": s.jobURL(j.run.repo, j.id), "html_url": fmt.Sprintf("%s/job/%d", s.runPage(j.run), j.id),
		"status": j.status, "conclusion": orNull(j.conclusion), "created_at": stamp(j.createdAt), "started_at": stamp(j.startedAt),
		"completed_at": maybe(j.completedAt), "name": j.name, "steps": views(j.steps, stepView), "check_run_url": s.checkURL(j.run.repo, j.id),
		"labels": append([]string{}, j.labels...), "runner_id": nil, "runner_name": nil, "runner_group_id": nil, "runner_group_name": nil,
	}
	switch {
	case j.runnerID != 0:
		v["runner_id"], v["runner_name"], v["runner_group_id"], v["runner_group_name"] = j.runnerID, j.runnerName, j.groupID, j.groupName
	case j.conclusion == message.Cancelled:
		// Cancelled before anything ran: GitHub shows runner 0 without a name.
		v["runner_id"], v["runner_name"], v["runner_group_id"], v["runner_group_name"] = 0, "", 0, ""
	}
	return v
}

func stepView(st message.StepResult) object {
	return object{
		"name": st.Name, "status": st.Status, "conclusion": orNull(st.Conclusion), "number": st.Number,
		"started_at": maybe(st.StartedAt), "completed_at": maybe(st.CompletedAt),
	}
}

func (s *Server) deploymentView(d *deployment) object {
	api := s.api() + "/repos/" + d.repo.fullName()
	self := fmt.Sprintf("%s/deployments/%d", api, d.id)
	return object{
		"url": self, "id": d.id, "node_id": nodeID("DE", d.id), "task": "deploy", "original_environment": d.environment.name, "environment": d.environment.name,
		"description": nil, "created_at": stamp(d.createdAt), "updated_at": stamp(d.updatedAt), "statuses_url": self + "/statuses", "repository_url": api,
		"creator": s.accountView(s.actor()), "sha": d.head, "ref": "main", "payload": object{}, "transient_environment": false,
		"production_environment": false, "performed_via_github_app": nil,
	}
}
