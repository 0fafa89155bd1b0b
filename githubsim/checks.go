package githubsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// check is a check run: one that an App made, or the one behind a job.
type check struct {
	id          int64
	repo        *repository
	app         *app // nil: GitHub Actions itself
	suite       int64
	name        string
	head        string
	externalID  string
	detailsURL  string
	status      string
	conclusion  string
	startedAt   time.Time
	completedAt time.Time
	title       string
	summary     string
	text        string
	annotations int
}

// checkOfJob is a job seen as a check run: they share their id.
func (s *Server) checkOfJob(j *job) *check {
	status := j.status
	if status == waiting {
		status = queued
	}
	return &check{
		id: j.id, repo: j.run.repo, suite: j.run.suite, name: j.name, head: j.run.head, detailsURL: s.runPage(j.run), status: status,
		conclusion: j.conclusion, startedAt: j.startedAt, completedAt: j.completedAt, annotations: len(j.annotations), externalID: j.uuid,
	}
}

func (s *Server) checkRoutes() []*route {
	const checks = "/repos/{owner}/{repo}/check-runs"
	read, write, personal := []string{"checks=read"}, []string{"checks=write"}, []string{"repo"}
	return []*route{
		{pattern: "POST " + checks, who: tokens, needs: write, scopes: personal, content: true, do: s.createCheck},
		{pattern: "GET " + checks + "/{check}", who: tokens, needs: read, scopes: personal, do: s.withCheck(func(c *call, k *check) (reply, error) { return ok(s.checkView(k)) })},
		{pattern: "PATCH " + checks + "/{check}", who: tokens, needs: write, scopes: personal, do: s.withCheck(s.updateCheck)},
		{pattern: "GET " + checks + "/{check}/annotations", who: tokens, needs: read, scopes: personal, do: s.listAnnotations},
		{pattern: "GET /repos/{owner}/{repo}/commits/{ref}/check-runs", who: tokens, needs: read, scopes: personal, do: s.listChecks},
	}
}

// checkInput is what POST and PATCH take.
type checkInput struct {
	Name        *string    `json:"name"`
	HeadSHA     string     `json:"head_sha"`
	DetailsURL  *string    `json:"details_url"`
	ExternalID  *string    `json:"external_id"`
	Status      *string    `json:"status"`
	Conclusion  *string    `json:"conclusion"`
	StartedAt   *time.Time `json:"started_at"`
	CompletedAt *time.Time `json:"completed_at"`
	Output      *struct {
		Title       string            `json:"title"`
		Summary     *string           `json:"summary"`
		Text        string            `json:"text"`
		Annotations []json.RawMessage `json:"annotations"`
	} `json:"output"`
}

var conclusions = []string{"action_required", "cancelled", "failure", "neutral", "success", "skipped", "stale", "timed_out"}

func (s *Server) createCheck(c *call) (reply, error) {
	var in checkInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if c.who.installation == nil {
		return reply{}, errorf(http.StatusForbidden, "You must authenticate via a GitHub App.")
	}
	if in.Name == nil || in.HeadSHA == "" {
		return reply{}, errorf(http.StatusUnprocessableEntity, "Invalid request.\n\n\"name\", \"head_sha\" weren't supplied.")
	}
	k := &check{
		id: s.id(&s.ids.job), repo: c.repo, app: c.who.installation.app, suite: s.id(&s.ids.suite), head: in.HeadSHA, status: queued, startedAt: c.now,
	}
	if err := k.edit(in, c.now); err != nil {
		return reply{}, err
	}
	s.checks[k.id] = k
	s.checkList = append(s.checkList, k)
	s.changed()
	return created(s.checkView(k))
}

func (k *check) edit(in checkInput, now time.Time) error {
	for _, f := range []struct{ to, from *string }{
		{&k.name, in.Name}, {&k.detailsURL, in.DetailsURL}, {&k.externalID, in.ExternalID}, {&k.status, in.Status},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if !slices.Contains([]string{queued, inProgress, completed, waiting, requested, pending}, k.status) {
		return invalid("status", "invalid")
	}
	if in.Conclusion != nil {
		if !slices.Contains(conclusions, *in.Conclusion) {
			return invalid("conclusion", "invalid")
		}
		k.conclusion, k.status = *in.Conclusion, completed
		k.completedAt = now
	}
	if k.status == completed && k.conclusion == "" {
		return invalid("conclusion", "missing_field")
	}
	if in.StartedAt != nil {
		k.startedAt = *in.StartedAt
	}
	if in.CompletedAt != nil {
		k.completedAt = *in.CompletedAt
	}
	if o := in.Output; o != nil {
		if o.Summary == nil {
			return invalid("output", "missing_field")
		}
		k.title, k.summary, k.text = o.Title, *o.Summary, o.Text
		k.annotations += len(o.Annotations)
	}
	return nil
}

func (s *Server) withCheck(do func(*call, *check) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		id, err := c.number("check")
		if err != nil {
			return reply{}, err
		}
		k := s.checks[id]
		if j := s.jobs[id]; j != nil {
			k = s.checkOfJob(j)
		}
		if k == nil || k.repo != c.repo {
			return reply{}, notFound()
		}
		return do(c, k)
	}
}

func (s *Server) updateCheck(c *call, k *check) (reply, error) {
	var in checkInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if k.app == nil || c.who.installation == nil || k.app != c.who.installation.app {
		return reply{}, errorf(http.StatusForbidden, "Invalid app_id `%d` - check run can only be modified by the GitHub App that created it.", k.appID())
	}
	edited := *k
	if err := edited.edit(in, c.now); err != nil {
		return reply{}, err
	}
	*k = edited
	s.changed()
	return ok(s.checkView(k))
}

// actionsApp is the id of GitHub's own App.
const actionsApp = 15368

func (k *check) appID() int64 {
	if k.app == nil {
		return actionsApp
	}
	return k.app.id
}

func (s *Server) listChecks(c *call) (reply, error) {
	var all []*check
	ref := c.r.PathValue("ref")
	for _, j := range s.jobOrder {
		if j.run.repo == c.repo && (j.run.head == ref || ref == "main" && j.run.head == c.repo.head) {
			all = append(all, s.checkOfJob(j))
		}
	}
	for _, k := range s.checkList {
		if k.repo == c.repo && (k.head == ref || ref == "main" && k.head == c.repo.head) {
			all = append(all, k)
		}
	}
	return list(c, "check_runs", all, s.checkView)
}

func (s *Server) listAnnotations(c *call) (reply, error) {
	id, err := c.number("check")
	if err != nil {
		return reply{}, err
	}
	out := []object{}
	if j := s.jobs[id]; j != nil && j.run.repo == c.repo {
		for _, a := range j.annotations {
			file, line := a.Path, max(a.StartLine, 1)
			if file == "" {
				file = ".github"
			}
			out = append(out, object{
				"path": file, "start_line": line, "end_line": line, "start_column": nil, "end_column": nil, "annotation_level": a.Level,
				"title": a.Title, "message": a.Message, "raw_details": "", "blob_href": fmt.Sprintf("%s/%s/blob/%s/%s", s.html(), c.repo.fullName(), j.run.head, file),
			})
		}
	}
	return ok(out)
}

func (s *Server) checkView(k *check) object {
	self := s.checkURL(k.repo, k.id)
	v := object{
		"id": k.id, "name": k.name, "node_id": nodeID("CR", k.id), "head_sha": k.head, "external_id": k.externalID, "url": self,
		"html_url": fmt.Sprintf("%s/%s/runs/%d", s.html(), k.repo.fullName(), k.id), "details_url": k.detailsURL, "status": k.status,
		"conclusion": orNull(k.conclusion), "started_at": stamp(k.startedAt), "completed_at": maybe(k.completedAt),
		"output": object{
			"title": orNull(k.title), "summary": orNull(k.summary), "text": orNull(k.text), "annotations_count": k.annotations, "annotations_url": self + "/annotations",
		},
		"check_suite": object{"id": k.suite}, "pull_requests": []object{}, "app": s.actionsAppView(),
	}
	if k.app != nil {
		v["app"] = s.appView(k.app)
	}
	return v
}

func (s *Server) actionsAppView() object {
	return object{
		"id": actionsApp, "slug": "github-actions", "client_id": "Iv1.05c79e9ad1f6bdfa", "node_id": nodeID("A", actionsApp), "owner": s.accountView(s.actor()),
		"name": "GitHub Actions", "description": "Automate your workflow from idea to production", "external_url": s.html() + "/features/actions",
		"html_url": s.html() + "/apps/github-actions", "created_at": "2018-07-30T09:30:17Z", "updated_at": "2024-04-10T20:33:16Z",
		"permissions": object{"actions": "write", "checks": "write", "metadata": "read"}, "events": []string{"check_run", "workflow_run"},
	}
}
