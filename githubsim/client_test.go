package githubsim_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

func (w *world) goGitHub(tr http.RoundTripper) *github.Client {
	w.t.Helper()
	c, err := github.NewClient(github.WithTransport(tr), github.WithEnterpriseURLs(w.url, w.url))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// TestThirdPartyClient drives the whole life of a job with clients that we did not
// write: an App's JWT, a token, a JIT runner, its webhooks, the job in REST, and
// the end of the runner.
func TestThirdPartyClient(t *testing.T) {
	w := newWorld(t, githubsim.Config{Seed: 1})
	ctx, gh := t.Context(), w.github()

	me, _, err := w.appGitHub().Apps.Get(ctx, "")
	if err != nil || me.GetSlug() != "muster-test" || me.GetID() != w.app.ID {
		t.Fatalf("app %v, %v", me, err)
	}
	id := w.inject("self-hosted", "linux")
	cfg, _, err := gh.Actions.GenerateOrgJITConfig(ctx, org, &github.GenerateJITConfigRequest{Name: "one", RunnerGroupID: 1, Labels: []string{"self-hosted", "Linux", "x64"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := cfg.GetRunner(); r.GetStatus() != "offline" || r.GetOS() != "unknown" || r.GetBusy() || r.Labels[0].GetType() != "read-only" {
		t.Errorf("a fresh runner: %v", r)
	}
	list, _, err := gh.Actions.ListOrganizationRunners(ctx, org, &github.ListRunnersOptions{Name: github.Ptr("one")})
	if err != nil || list.TotalCount != 1 {
		t.Fatalf("list %v, %v", list, err)
	}

	b := w.bot(cfg.GetEncodedJITConfig())
	b.connect()
	job := b.take()
	if r, _, err := gh.Actions.GetOrganizationRunner(ctx, org, cfg.GetRunner().GetID()); err != nil || r.GetStatus() != "online" || !r.GetBusy() || r.GetOS() != "linux" {
		t.Errorf("a running runner: %v, %v", r, err)
	}
	if _, err := gh.Actions.RemoveOrganizationRunner(ctx, org, cfg.GetRunner().GetID()); statusOf(err) != 422 {
		t.Errorf("delete while busy: %v", err)
	}
	j, _, err := gh.Actions.GetWorkflowJobByID(ctx, org, "web", id)
	if err != nil || j.GetStatus() != "in_progress" || j.GetRunnerName() != "one" {
		t.Errorf("job %v, %v", j, err)
	}
	runs, _, err := gh.Actions.ListRepositoryWorkflowRuns(ctx, org, "web", &github.ListWorkflowRunsOptions{Status: "in_progress"})
	if err != nil || runs.GetTotalCount() != 1 {
		t.Fatalf("runs %v, %v", runs, err)
	}
	jobs, _, err := gh.Actions.ListWorkflowJobs(ctx, org, "web", runs.WorkflowRuns[0].GetID(), nil)
	if err != nil || jobs.GetTotalCount() != 1 || jobs.Jobs[0].GetID() != id {
		t.Errorf("jobs %v, %v", jobs, err)
	}
	b.complete(job, message.Success)

	done := w.until("completed", func(t githubsim.Truth) bool { return len(t.Runners) == 0 && t.Runs[0].Status == "completed" })
	if jt, _ := done.Job(id); jt.Conclusion != "success" || jt.Executions != 1 || jt.Completions != 1 {
		t.Errorf("truth %+v", jt)
	}
	if v := done.Verdict(); v != nil {
		t.Errorf("verdict %q", v)
	}
	for _, action := range []string{"queued", "in_progress", "completed"} {
		one := w.hook.find(t, 1, is("workflow_job", action))[0]
		event, err := github.ParseWebHook("workflow_job", one.body)
		if err != nil {
			t.Fatal(err)
		}
		e := event.(*github.WorkflowJobEvent)
		if e.GetAction() != action || e.GetWorkflowJob().GetID() != id || e.GetInstallation().GetID() != w.inst || e.GetRepo().GetFullName() != repo || e.GetOrg().GetLogin() != org {
			t.Errorf("%s: %v", action, e)
		}
		if err := github.ValidateSignature(one.header.Get(github.SHA256SignatureHeader), one.body, []byte("It's a Secret to Everybody")); err != nil {
			t.Error(err)
		}
	}
}

// TestThirdPartyRedelivery finds a failed delivery in the log and has it sent
// again.
func TestThirdPartyRedelivery(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.until("ping and installation", func(t githubsim.Truth) bool { return t.Deliveries.OK == 2 })
	w.hook.answer(500)
	id := w.inject("linux")
	failed := w.hook.find(t, 1, is("workflow_job", "queued"))[0]
	w.until("logged", func(t githubsim.Truth) bool { return t.Deliveries.Failed == 3 })
	w.hook.answer(200)

	app := w.appGitHub()
	var found *github.HookDelivery
	for opts := (&github.ListCursorOptions{PerPage: 2}); ; {
		page, resp, err := app.Apps.ListHookDeliveries(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			if d.GetGUID() == failed.guid {
				found = d
			}
		}
		if resp.Cursor == "" || found != nil {
			break
		}
		opts.Cursor = resp.Cursor
	}
	if found == nil || found.GetStatusCode() != 500 || found.GetStatus() != "Invalid HTTP Response: 500" || found.GetEvent() != "workflow_job" || found.GetAction() != "queued" {
		t.Fatalf("delivery %v", found)
	}
	_, _, err := app.Apps.RedeliverHookDelivery(t.Context(), found.GetID())
	var accepted *github.AcceptedError
	if !errors.As(err, &accepted) {
		t.Fatalf("redeliver: %v", err)
	}
	both := w.hook.find(t, 2, func(r received) bool { return r.guid == failed.guid })
	if string(both[0].body) != string(both[1].body) {
		t.Error("the second attempt has another body")
	}
	w.until("logged again", func(t githubsim.Truth) bool { return t.Deliveries.Redelivered == 1 && t.Deliveries.OK == 3 })
	all, _, err := app.Apps.ListHookDeliveries(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again := all[0]; again.GetGUID() != failed.guid || !again.GetRedelivery() || again.GetID() == found.GetID() || again.GetStatus() != "OK" {
		t.Errorf("the new delivery: %v", again)
	}
	if w.job(id).Status != "queued" {
		t.Error("a delivery changed a job")
	}
}

// TestThirdPartyLimits: go-github knows both limits by their shape.
func TestThirdPartyLimits(t *testing.T) {
	w := newWorld(t, githubsim.Config{CoreLimit: 3})
	gh := w.github()
	var primary *github.RateLimitError
	for range 4 {
		_, _, err := gh.Actions.ListOrganizationRunners(t.Context(), org, nil)
		if errors.As(err, &primary) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if primary == nil || primary.Rate.Limit != 3 || primary.Rate.Remaining != 0 || time.Until(primary.Rate.Reset.Time) > time.Hour {
		t.Fatalf("primary limit: %v", primary)
	}
	w.Faults().SecondaryLimit(1, 7*time.Second)
	_, _, err := w.appGitHub().Apps.ListInstallations(t.Context(), nil)
	var secondary *github.AbuseRateLimitError
	if !errors.As(err, &secondary) || *secondary.RetryAfter != 7*time.Second {
		t.Fatalf("secondary limit: %v", err)
	}
}

// statusOf is the status that GitHub refused with, 0 if it did not.
func statusOf(err error) int {
	if e, ok := errors.AsType[*github.ErrorResponse](err); ok {
		return e.Response.StatusCode
	}
	return 0
}
