package githubsim_test

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// A runner of an enterprise serves the organizations that its group is open to.
func TestEnterpriseRunners(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	if err := w.CreateEnterprise("corp", org, "umbrella"); err != nil {
		t.Fatal(err)
	}
	if err := w.CreateRepository("umbrella/app", githubsim.RepositoryOptions{}); err != nil {
		t.Fatal(err)
	}
	admin, err := w.CreateToken("alice", "manage_runners:enterprise", "admin:org")
	if err != nil {
		t.Fatal(err)
	}
	base := "/enterprises/corp/actions/runner-groups"
	var g struct{ ID int64 }
	w.must(201, w.rest("POST", base, admin, map[string]any{"name": "shared", "visibility": "selected", "allows_public_repositories": true}), &g)
	at := fmt.Sprintf("%s/%d", base, g.ID)
	var made jitAnswer
	w.must(201, w.rest("POST", "/enterprises/corp/actions/runners/generate-jitconfig", admin, map[string]any{"name": "e", "runner_group_id": g.ID, "labels": []string{"big"}}), &made)
	w.bot(made.Config).connect()
	id, err := w.InjectJob(githubsim.JobOptions{Repo: "umbrella/app", Labels: []string{"big"}, Group: "Shared"})
	if err != nil {
		t.Fatal(err)
	}
	if w.Truth().Runners[0].Busy {
		t.Error("a group that is open to nobody serves a job")
	}
	var org struct {
		Organization struct{ ID int64 }
	}
	w.must(200, w.rest("GET", "/repos/umbrella/app", func() string { s, _ := w.CreateToken("bob", "repo"); return s }(), nil), &org)
	member := fmt.Sprintf("%s/organizations/%d", at, org.Organization.ID)
	w.must(204, w.rest("PUT", member, admin, nil), nil)
	if got := w.Truth().Runners[0].Job; got != id {
		t.Errorf("the runner has job %d, want %d", got, id)
	}
	var list struct {
		Count  int `json:"total_count"`
		Groups []struct {
			ID        int64
			Inherited bool
		} `json:"runner_groups"`
	}
	w.must(200, w.rest("GET", at+"/organizations", admin, nil), &list)
	if list.Count != 1 {
		t.Errorf("%d organizations", list.Count)
	}
	w.must(200, w.rest("GET", "/orgs/umbrella/actions/runner-groups", admin, nil), &list)
	if list.Count != 2 || !list.Groups[1].Inherited || list.Groups[1].ID != g.ID {
		t.Errorf("%+v", list)
	}
	w.must(200, w.rest("GET", fmt.Sprintf("/orgs/umbrella/actions/runner-groups/%d", g.ID), admin, nil), nil)
	w.must(404, w.rest("GET", fmt.Sprintf("/orgs/acme/actions/runner-groups/%d", g.ID), admin, nil), nil)
	w.must(204, w.rest("DELETE", member, admin, nil), nil)
	w.must(204, w.rest("PUT", at+"/organizations", admin, map[string]any{"selected_organization_ids": []int64{org.Organization.ID}}), nil)
	w.must(200, w.rest("GET", "/orgs/umbrella/actions/runner-groups", admin, nil), &list)
	if list.Count != 2 {
		t.Errorf("%+v", list)
	}
}

// A group may be closed to all but some repositories, or some workflows.
func TestGroupRestrictions(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	var r struct{ ID int64 }
	w.must(200, w.rest("GET", "/repos/acme/web", tok, nil), &r)
	var g struct{ ID int64 }
	w.must(201, w.rest("POST", "/orgs/acme/actions/runner-groups", tok, map[string]any{
		"name": "careful", "visibility": "selected", "selected_repository_ids": []int64{r.ID}, "restricted_to_workflows": true,
		"selected_workflows": []string{"acme/web/.github/workflows/trusted.yml@refs/heads/main"},
	}), &g)
	at := fmt.Sprintf("/orgs/acme/actions/runner-groups/%d", g.ID)
	one := w.jit(tok, "c", "x")
	w.must(204, w.rest("PUT", fmt.Sprintf("%s/runners/%d", at, one.Runner.ID), tok, nil), nil)
	w.bot(one.Config).connect()
	w.inject("x")
	if w.Truth().Runners[0].Busy {
		t.Error("a workflow that is not selected got the runner")
	}
	trusted, err := w.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"x"}, Workflow: "Trusted"})
	if err != nil || w.Truth().Runners[0].Job != trusted {
		t.Errorf("the selected workflow did not: %v", err)
	}
	var list struct {
		Count int `json:"total_count"`
	}
	w.must(200, w.rest("GET", at+"/repositories", tok, nil), &list)
	if list.Count != 1 {
		t.Errorf("%d repositories", list.Count)
	}
	w.must(204, w.rest("PUT", at+"/repositories", tok, map[string]any{"selected_repository_ids": []int64{}}), nil)
	w.must(204, w.rest("PUT", at+"/runners", tok, map[string]any{"runners": []int64{}}), nil)
	w.must(200, w.rest("GET", at+"/runners", tok, nil), &list)
	if list.Count != 0 {
		t.Errorf("%d runners", list.Count)
	}
	w.must(409, w.rest("PUT", "/orgs/acme/actions/runner-groups/1/repositories", tok, map[string]any{"selected_repository_ids": []int64{}}), nil)
	w.must(409, w.rest("PUT", fmt.Sprintf("/orgs/acme/actions/runner-groups/1/repositories/%d", r.ID), tok, nil), nil)
	w.must(422, w.rest("PATCH", "/orgs/acme/actions/runner-groups/1", tok, map[string]any{"name": "other"}), nil)
}

// config.sh registers a runner and removes it again.
func TestConfigureAndRemove(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok, dir := w.token(), t.TempDir()
	secret := func(kind string) string {
		var got struct{ Token string }
		w.must(201, w.rest("POST", "/repos/acme/web/actions/runners/"+kind, tok, nil), &got)
		return got.Token
	}
	run := func(args ...string) {
		t.Helper()
		var out bytes.Buffer
		if code := runner.Main(t.Context(), runner.Program{Args: args, Dir: dir, Stdout: &out, Stderr: &out}); code != 0 {
			t.Fatalf("%q: %d\n%s", args, code, out.String())
		}
	}
	run("configure", "--unattended", "--url", w.url+"/acme/web", "--token", secret("registration-token"), "--name", "kept", "--labels", "extra")
	r := w.Truth().Runners
	if len(r) != 1 || r[0].Name != "kept" || r[0].Scope != "acme/web" || !contains(r[0].Labels, "extra") || !contains(r[0].Labels, "self-hosted") {
		t.Fatalf("%+v", r)
	}
	run("remove", "--token", secret("remove-token"))
	if r := w.Truth().Runners; len(r) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestJobConcurrency(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/one", `
on: push
jobs:
  a: {runs-on: linux, concurrency: lock, steps: [{run: x}]}
  b: {runs-on: linux, concurrency: lock, steps: [{run: x}]}
`)
	run := w.trigger("acme/one")
	states := w.Truth().ByState()
	if states["queued"] != 1 || states["pending"] != 1 {
		t.Errorf("%v", states)
	}
	w.fleet(run, func(string) string { return message.Success })
	if got := w.conclusions(run, 1); got["a"] != "success" || got["b"] != "success" {
		t.Errorf("%v", got)
	}
}

func TestSmallRoutes(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	var meta struct{ Hooks []string }
	w.must(200, w.rest("GET", "/meta", "", nil), &meta)
	if len(meta.Hooks) == 0 {
		t.Error("no hook addresses")
	}
	var root map[string]any
	w.must(200, w.rest("GET", "/", tok, nil), &root)
	if root["hub_url"] == nil {
		t.Errorf("%v", root)
	}
	var installations []struct{ ID int64 }
	w.must(200, w.rest("GET", "/app/installations", w.jwt(nil), nil), &installations)
	if len(installations) != 1 || installations[0].ID != w.inst {
		t.Errorf("%+v", installations)
	}
	w.must(200, w.rest("GET", "/app/installation-requests", w.jwt(nil), nil), nil)
	w.must(403, w.rest("GET", "/installation/repositories", func() string { s, _ := w.CreateToken("bob", "repo"); return s }(), nil), nil)
	w.inject("x")
	var list struct {
		Count int `json:"total_count"`
	}
	for path, want := range map[string]int{
		"/repos/acme/web/commits/main/check-runs": 1, "/repos/acme/web/actions/workflows": 1, "/installation/repositories": 1,
		"/repos/acme/web/actions/runs?branch=main&event=workflow_dispatch":   1,
		"/repos/acme/web/actions/runs?created=%3E2020-01-01":                 1,
		"/repos/acme/web/actions/runs?branch=other":                          0,
		"/repos/acme/web/actions/workflows?page=5":                           1,
		"/repos/acme/web/actions/runners?name=nobody":                        0,
		"/repos/acme/web/actions/runs?created=2020-01-01..2020-01-02&page=1": 0,
	} {
		w.must(200, w.rest("GET", path, tok, nil), &list)
		if list.Count != want {
			t.Errorf("%s: %d, want %d", path, list.Count, want)
		}
	}
	w.must(404, w.rest("GET", "/actions/runner/releases/download/v1/none.tar.gz", "", nil), nil)
	w.must(404, w.rest("GET", "/apps/none/installations/new", "", nil), nil)
	page := w.rest("GET", "/apps/muster-test/installations/new", "", nil)
	if page.StatusCode != 200 || !strings.Contains(string(page.body), "<option>acme</option>") {
		t.Errorf("%s %s", page.Status, page.body)
	}
	again := w.rest("POST", "/apps/muster-test/installations", "", url.Values{"account": {"acme"}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	w.must(422, again, nil)
}

func TestWaitEndsWithTheServer(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	ended := make(chan error, 1)
	go func() { ended <- w.Wait(t.Context(), func(githubsim.Truth) bool { return false }) }()
	w.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestDelaysAndLostAnswers(t *testing.T) {
	w := newWorld(t, githubsim.Config{Seed: 3})
	w.Faults().DelayDeliveries(20 * time.Millisecond)
	for range 10 {
		w.inject("x")
	}
	w.hook.find(t, 10, is("workflow_job", "queued"))
	tok := w.token()
	w.Faults().LoseAnswers(1, "/check-runs")
	w.must(502, w.rest("POST", "/repos/acme/web/check-runs", tok, map[string]any{"name": "twice", "head_sha": "abc"}), nil)
	w.Faults().Off()
	var list struct {
		Checks []struct {
			Name string
		} `json:"check_runs"`
	}
	w.must(200, w.rest("GET", "/repos/acme/web/commits/abc/check-runs", tok, nil), &list)
	if len(list.Checks) != 1 || list.Checks[0].Name != "twice" {
		t.Errorf("%+v", list)
	}
	if got := w.Truth().Faults; got["lost answer"] != 1 || got["server error"] != 0 {
		t.Errorf("%v", got)
	}
}
