package oracle_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
)

// Every REST answer has the form that GitHub describes, and so has every webhook
// that all of this causes.
func TestAnswersAndWebhooksMatchGitHubsDescription(t *testing.T) {
	packages(t)
	w := newWorld(t, githubsim.Config{Seed: 7, RecordLinger: -1, PointsPerMinute: -1, ContentPerMinute: -1, ContentPerHour: -1})
	app := w.jwt()
	w.apps(app)
	token := w.do(201, "POST", fmt.Sprintf("/app/installations/%d/access_tokens", w.inst), app, nil)["token"].(string)
	w.do(201, "POST", fmt.Sprintf("/app/installations/%d/access_tokens", w.inst), app, map[string]any{"repositories": []string{"octo-repo"}, "permissions": map[string]string{"actions": "read"}})
	w.do(422, "POST", fmt.Sprintf("/app/installations/%d/access_tokens", w.inst), app, map[string]any{"permissions": map[string]string{"packages": "admin"}})
	w.do(401, "GET", "/app", "", nil)
	w.do(404, "GET", "/app/installations/1", app, nil)
	for _, path := range []string{"/meta", "/rate_limit", "/zen", "/", "/installation/repositories", "/repos/" + repo, "/repos/octo-org/second"} {
		w.do(200, "GET", path, token, nil)
	}
	w.do(404, "GET", "/repos/octo-org/nonesuch", token, nil)
	w.do(200, "GET", "/repos/"+repo+"/contents/README.md", token, nil)
	w.do(200, "GET", "/repos/"+repo+"/contents/src", token, nil)
	w.do(404, "GET", "/repos/"+repo+"/contents/nothing", token, nil)

	admin, err := w.CreateToken("octo-admin", "admin:org", "repo", "manage_runners:enterprise", "admin:enterprise")
	w.ok(err)
	w.runners("/orgs/"+org, token)
	w.runners("/repos/"+repo, token)
	w.runners("/enterprises/octo-ent", admin)
	w.groups("/orgs/"+org, token, true)
	w.groups("/enterprises/octo-ent", admin, false)
	w.Faults().CheckRunNoise(0.5) // events of what is no job have to have the right form as well
	w.jobs(token)
	w.Faults().Off()
	w.deliveriesAPI(app)
	hooker, err := w.CreateToken("octo-hooker", "admin:repo_hook", "admin:org_hook")
	w.ok(err)
	w.hooks("/repos/"+repo, hooker)
	w.hooks("/orgs/"+org, hooker)

	w.do(204, "DELETE", "/installation/token", token, nil)
	w.do(401, "GET", "/installation/repositories", token, nil)
	w.do(204, "PUT", fmt.Sprintf("/app/installations/%d/suspended", w.inst), app, nil)
	w.do(204, "DELETE", fmt.Sprintf("/app/installations/%d/suspended", w.inst), app, nil)
	w.ok(w.SelectRepositories(w.inst, "octo-repo"))
	w.ok(w.AcceptPermissions(w.inst, map[string]string{"metadata": "read", "actions": "write", "checks": "write"}))
	w.do(204, "DELETE", fmt.Sprintf("/app/installations/%d", w.inst), app, nil)
	w.hear(1, "installation", "deleted")
	w.hear(1, "installation", "suspend")
	w.hear(1, "installation", "unsuspend")

	for _, want := range []string{"workflow_job.waiting", "workflow_job.queued", "workflow_job.in_progress", "workflow_job.completed", "workflow_run.requested",
		"workflow_run.completed", "installation.created", "installation.new_permissions_accepted", "installation_repositories.removed", "push.", "ping.", "check_run.created", "check_run.completed"} {
		event, action, _ := strings.Cut(want, ".")
		w.hear(1, event, action)
	}
	operations := w.judge()
	t.Logf("%d operations and statuses, %d deliveries", len(operations), len(w.deliveries))
	for _, want := range []string{
		"POST /orgs/{org}/actions/runners/generate-jitconfig 201", "POST /orgs/{org}/actions/runners/generate-jitconfig 409", "POST /orgs/{org}/actions/runners/generate-jitconfig 422",
		"DELETE /orgs/{org}/actions/runners/{runner_id} 204", "DELETE /orgs/{org}/actions/runners/{runner_id} 422",
		"GET /enterprises/{enterprise}/actions/runners 200", "GET /repos/{owner}/{repo}/actions/jobs/{job_id} 200", "GET /app/hook/deliveries/{delivery_id} 200",
		"POST /repos/{owner}/{repo}/actions/runs/{run_id}/pending_deployments 200", "POST /repos/{owner}/{repo}/check-runs 201",
	} {
		if !slices.Contains(operations, want) {
			t.Errorf("%s was not seen", want)
		}
	}
}

func (w *world) apps(app string) {
	for _, path := range []string{"/app", "/app/installations", fmt.Sprintf("/app/installations/%d", w.inst), "/app/installation-requests", "/orgs/" + org + "/installation",
		"/repos/" + repo + "/installation", "/app/hook/config"} {
		w.do(200, "GET", path, app, nil)
	}
	w.do(404, "GET", "/users/nobody/installation", app, nil)
	w.do(200, "PATCH", "/app/hook/config", app, map[string]any{"content_type": "json"})
	w.do(404, "POST", "/app-manifests/0123456789012345678901234567890123456789/conversions", "", nil)
}

// runners uses all runner routes of one scope.
func (w *world) runners(at, token string) {
	w.t.Helper()
	base := at + "/actions/runners"
	jit := map[string]any{"name": "jit-1", "runner_group_id": 1, "labels": []string{"self-hosted", "linux", "X64", "no-gpu"}, "work_folder": "_work"}
	made := w.do(201, "POST", base+"/generate-jitconfig", token, jit)
	id := made.id("runner", "id")
	w.do(409, "POST", base+"/generate-jitconfig", token, jit)
	w.do(422, "POST", base+"/generate-jitconfig", token, map[string]any{"name": "x", "labels": []string{"a"}})
	w.do(404, "POST", base+"/generate-jitconfig", token, map[string]any{"name": "x", "labels": []string{"a"}, "runner_group_id": 99999})
	w.do(200, "GET", base, token, nil)
	w.do(200, "GET", base+"?name=jit-1", token, nil)
	one := fmt.Sprintf("%s/%d", base, id)
	w.do(200, "GET", one, token, nil)
	w.do(404, "GET", base+"/999999", token, nil)
	w.do(200, "GET", base+"/downloads", token, nil)
	w.do(201, "POST", base+"/registration-token", token, nil)
	w.do(201, "POST", base+"/remove-token", token, nil)
	w.do(200, "GET", one+"/labels", token, nil)
	w.do(200, "POST", one+"/labels", token, map[string]any{"labels": []string{"fast"}})
	w.do(200, "PUT", one+"/labels", token, map[string]any{"labels": []string{"slow", "gpu"}})
	w.do(200, "DELETE", one+"/labels/slow", token, nil)
	w.do(404, "DELETE", one+"/labels/slow", token, nil)
	w.do(200, "DELETE", one+"/labels", token, nil)
	w.do(204, "DELETE", one, token, nil)
	w.do(404, "DELETE", one, token, nil)
}

// hooks uses all routes of the webhooks of a repository or an organization.
func (w *world) hooks(at, token string) {
	w.t.Helper()
	base := at + "/hooks"
	made := w.do(201, "POST", base, token, map[string]any{"name": "web", "config": map[string]any{"url": "http://127.0.0.1:1/hook", "content_type": "json"}, "events": []string{"workflow_job"}})
	one := fmt.Sprintf("%s/%d", base, made.id("id"))
	w.do(422, "POST", base, token, map[string]any{"name": "web", "config": map[string]any{}})
	w.do(200, "GET", base, token, nil)
	w.do(200, "GET", one, token, nil)
	w.do(200, "PATCH", one, token, map[string]any{"active": true})
	w.do(204, "POST", one+"/pings", token, nil)
	w.do(200, "GET", one+"/deliveries", token, nil)
	w.do(204, "DELETE", one, token, nil)
	w.do(404, "GET", one, token, nil)
}

func (w *world) groups(at, token string, organization bool) {
	w.t.Helper()
	base := at + "/actions/runner-groups"
	made := w.do(201, "POST", base, token, map[string]any{"name": "Fast machines", "visibility": "selected"})
	id := made.id("id")
	one := fmt.Sprintf("%s/%d", base, id)
	w.do(200, "GET", base, token, nil)
	w.do(200, "GET", one, token, nil)
	w.do(200, "PATCH", one, token, map[string]any{"name": "Faster machines"})
	runner := w.do(201, "POST", at+"/actions/runners/generate-jitconfig", token, map[string]any{"name": "grouped", "runner_group_id": 1, "labels": []string{"a"}}).id("runner", "id")
	w.do(204, "PUT", fmt.Sprintf("%s/runners/%d", one, runner), token, nil)
	w.do(200, "GET", one+"/runners", token, nil)
	w.do(204, "DELETE", fmt.Sprintf("%s/runners/%d", one, runner), token, nil)
	w.do(204, "PUT", one+"/runners", token, map[string]any{"runners": []int64{runner}})
	if organization {
		second := w.do(200, "GET", "/repos/octo-org/second", token, nil).id("id")
		w.do(204, "PUT", one+"/repositories", token, map[string]any{"selected_repository_ids": []int64{second}})
		w.do(200, "GET", one+"/repositories", token, nil)
		w.do(204, "DELETE", fmt.Sprintf("%s/repositories/%d", one, second), token, nil)
		w.do(204, "PUT", fmt.Sprintf("%s/repositories/%d", one, second), token, nil)
	} else {
		w.do(200, "GET", one+"/organizations", token, nil)
	}
	w.do(204, "DELETE", fmt.Sprintf("%s/actions/runners/%d", at, runner), token, nil)
	w.do(204, "DELETE", one, token, nil)
}

// jobs uses everything about runs, jobs, gates and checks, with real runner programs.
func (w *world) jobs(token string) {
	w.t.Helper()
	base := "/repos/" + repo
	w.do(204, "POST", base+"/actions/workflows/ci.yml/dispatches", token, map[string]any{"ref": "main"})
	w.do(200, "GET", base+"/actions/workflows", token, nil)
	w.do(200, "GET", base+"/actions/workflows/ci.yml", token, nil)
	_, err := w.Trigger(repo, ".github/workflows/wrong.yml", "workflow_dispatch")
	w.ok(err)
	push, err := w.Trigger(repo, ".github/workflows/ci.yml", "push")
	w.ok(err)
	runs := w.do(200, "GET", base+"/actions/runs", token, nil)
	w.do(200, "GET", base+"/actions/runs?status=queued&per_page=1", token, nil)
	w.do(422, "GET", base+"/actions/runs?status=nonsense", token, nil)
	run := fmt.Sprintf("%s/actions/runs/%d", base, push)
	if runs.id("workflow_runs", "id") == 0 {
		w.t.Error("no runs are listed")
	}
	for i := range 6 { // two runs with three jobs that can start
		w.run(token, fmt.Sprintf("ci-%d", i))
	}
	w.until("both runs of CI to end", func(t githubsim.Truth) bool {
		return !slices.ContainsFunc(t.Runs, func(r githubsim.RunTruth) bool { return r.Workflow == "CI" && r.Status != "completed" })
	})
	w.do(200, "GET", run, token, nil)
	w.do(200, "GET", run+"/attempts/1", token, nil)
	w.do(200, "GET", run+"/attempts/1/jobs", token, nil)
	w.do(404, "GET", run+"/attempts/9", token, nil)
	list := w.do(200, "GET", run+"/jobs", token, nil)
	job := list.id("jobs", "id")
	w.do(200, "GET", fmt.Sprintf("%s/actions/jobs/%d", base, job), token, nil)
	w.do(302, "GET", fmt.Sprintf("%s/actions/jobs/%d/logs", base, job), token, nil)
	w.do(404, "GET", base+"/actions/jobs/7", token, nil)
	w.do(409, "POST", run+"/cancel", token, nil)
	w.do(201, "POST", run+"/rerun-failed-jobs", token, nil)
	w.run(token, "ci-again")
	w.run(token, "ci-after")
	w.until("the second attempt", func(t githubsim.Truth) bool {
		return slices.ContainsFunc(t.Runs, func(r githubsim.RunTruth) bool {
			return r.ID == push && r.Attempt == 2 && r.Conclusion == "success"
		})
	})
	w.do(200, "GET", run+"/jobs?filter=all", token, nil)
	w.do(201, "POST", run+"/rerun", token, nil)
	w.do(202, "POST", run+"/cancel", token, nil)
	w.until("the cancelled attempt", func(t githubsim.Truth) bool {
		return slices.ContainsFunc(t.Runs, func(r githubsim.RunTruth) bool { return r.ID == push && r.Conclusion == "cancelled" })
	})
	w.do(403, "POST", fmt.Sprintf("%s/actions/jobs/%d/rerun", base, list.id("jobs", "id")), token, nil)
	list = w.do(200, "GET", run+"/jobs", token, nil)
	w.do(201, "POST", fmt.Sprintf("%s/actions/jobs/%d/rerun", base, list.id("jobs", "id")), token, nil)
	w.do(202, "POST", run+"/force-cancel", token, nil)

	gate, err := w.Trigger(repo, ".github/workflows/gate.yml", "workflow_dispatch")
	w.ok(err)
	pending := fmt.Sprintf("%s/actions/runs/%d/pending_deployments", base, gate)
	waiting := w.do(200, "GET", pending, token, nil)
	w.do(200, "POST", pending, token, map[string]any{"environment_ids": []int64{waiting.id("list", "environment", "id")}, "state": "approved", "comment": "go"})
	w.do(202, "POST", fmt.Sprintf("%s/actions/runs/%d/force-cancel", base, gate), token, nil)

	w.busy(token)

	head := w.do(200, "GET", run, token, nil)["head_sha"]
	check := w.do(201, "POST", base+"/check-runs", token, map[string]any{"name": "muster", "head_sha": head, "status": "in_progress", "external_id": "7",
		"output": map[string]any{"title": "Waiting", "summary": "for a runner"}})
	one := fmt.Sprintf("%s/check-runs/%d", base, check.id("id"))
	w.do(200, "PATCH", one, token, map[string]any{"status": "completed", "conclusion": "success"})
	w.do(200, "GET", one, token, nil)
	w.do(200, "GET", fmt.Sprintf("%s/commits/%s/check-runs", base, head), token, nil)
}

// busy looks at a runner and its job while it runs, and cancels it.
func (w *world) busy(token string) {
	w.t.Helper()
	id, err := w.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"slow"}, Duration: time.Minute})
	w.ok(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(token, "busy", "slow")
	}()
	w.until("the slow job to run", func(t githubsim.Truth) bool { j, _ := t.Job(id); return j.Executions == 1 })
	w.do(200, "GET", fmt.Sprintf("/repos/%s/actions/jobs/%d", repo, id), token, nil)
	runner := w.do(200, "GET", "/orgs/"+org+"/actions/runners?name="+url.QueryEscape("busy"), token, nil).id("runners", "id")
	w.do(200, "GET", fmt.Sprintf("/orgs/%s/actions/runners/%d", org, runner), token, nil)
	w.do(422, "DELETE", fmt.Sprintf("/orgs/%s/actions/runners/%d", org, runner), token, nil)
	w.ok(w.CancelJob(id))
	<-done
}

func (w *world) deliveriesAPI(app string) {
	w.t.Helper()
	w.hear(1, "ping", "")
	list := w.do(200, "GET", "/app/hook/deliveries?per_page=5", app, nil)
	w.do(200, "GET", "/app/hook/deliveries?status=success", app, nil)
	w.do(200, "GET", "/app/hook/deliveries?status=failure", app, nil)
	one := fmt.Sprintf("/app/hook/deliveries/%d", list.id("list", "id"))
	w.do(200, "GET", one, app, nil)
	w.do(202, "POST", one+"/attempts", app, nil)
	w.do(404, "GET", "/app/hook/deliveries/1", app, nil)
}

// An oracle that accepts everything proves nothing.
func TestTheOracleRefuses(t *testing.T) {
	public, hooks := describe(t, "openapi", "api.github.com.json"), describe(t, "openapi-webhooks", "api.github.com.json")
	good := `{"id":1,"name":"x","os":"linux","status":"online","busy":false,"labels":[{"name":"a"}]}`
	for name, c := range map[string]struct {
		method, path string
		status       int
		body         string
		ok           bool
	}{
		"Good":            {"GET", "/orgs/o/actions/runners/1", 200, good, true},
		"MissingProperty": {"GET", "/orgs/o/actions/runners/1", 200, `{"id":1,"name":"x","os":"linux","status":"online","labels":[]}`, false},
		"WrongType":       {"GET", "/orgs/o/actions/runners", 200, `{"total_count":"1","runners":[]}`, false},
		"NullWhereNone":   {"GET", "/orgs/o/actions/runners", 200, `{"total_count":1,"runners":null}`, false},
		"WrongStatus":     {"GET", "/orgs/o/actions/runners", 201, `{}`, false},
		"UnknownRoute":    {"GET", "/orgs/o/actions/walkers", 200, `{}`, false},
		"BodyOf204":       {"DELETE", "/orgs/o/actions/runners/1", 204, `{}`, false},
		"ErrorForm":       {"GET", "/orgs/o/actions/runners", 500, `{"message":7}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, wrong := public.check(c.method, c.path, c.status, "application/json; charset=utf-8", []byte(c.body)); (wrong == "") != c.ok {
				t.Errorf("got %q", wrong)
			}
		})
	}
	for event, body := range map[string]string{"workflow_job": `{"action":"queued","workflow_job":{"id":1}}`, "nonesuch": `{}`, "ping": `[]`} {
		if hooks.webhook(event, []byte(body)) == "" {
			t.Errorf("%s with %s is accepted", event, body)
		}
	}
}
