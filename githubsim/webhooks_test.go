package githubsim_test

import (
	"fmt"
	"testing"

	"github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster/githubsim"
)

// A repository and an organization have webhooks of their own, which need no App:
// their secret signs, their deliveries are theirs alone, and no event names an
// installation. go-github drives them.
func TestHooksWithoutApp(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	if err := w.CreateRepository("acme/other", githubsim.RepositoryOptions{Private: true}); err != nil {
		t.Fatal(err)
	}
	secret, err := w.CreateToken("admin", "admin:repo_hook", "admin:org_hook")
	if err != nil {
		t.Fatal(err)
	}
	gh, err := github.NewClient(github.WithAuthToken(secret), github.WithTransport(client.Transport), github.WithEnterpriseURLs(w.url, w.url))
	if err != nil {
		t.Fatal(err)
	}
	ctx, mine, ours := t.Context(), newReceiver(t), newReceiver(t)
	config := func(to *receiver, secret string) *github.Hook {
		return &github.Hook{Events: []string{"workflow_job"}, Config: &github.HookConfig{
			URL: github.Ptr(to.url), ContentType: github.Ptr("json"), Secret: github.Ptr(secret), InsecureSSL: github.Ptr("0"),
		}}
	}
	one, _, err := gh.Repositories.CreateHook(ctx, org, "web", config(mine, "repository secret"))
	if err != nil || one.GetType() != "Repository" || one.Config.GetSecret() == "repository secret" {
		t.Fatalf("%v, %v", one, err)
	}
	if _, _, err := gh.Repositories.CreateHook(ctx, org, "web", config(mine, "repository secret")); err == nil {
		t.Error("the same hook twice")
	}
	all, _, err := gh.Organizations.CreateHook(ctx, org, config(ours, "organization secret"))
	if err != nil || all.GetType() != "Organization" {
		t.Fatalf("%v, %v", all, err)
	}
	mine.find(t, 1, is("ping", ""))
	ours.find(t, 1, is("ping", ""))

	mine.answer(500)
	id := w.inject("linux")
	if _, err := w.InjectJob(githubsim.JobOptions{Repo: "acme/other", Labels: []string{"linux"}}); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		to     *receiver
		n      int
		secret string
		kind   string
	}{{mine, 1, "repository secret", "repository"}, {ours, 2, "organization secret", "organization"}} {
		for _, got := range at.to.find(t, at.n, is("workflow_job", "queued")) {
			if err := github.ValidateSignature(got.header.Get(github.SHA256SignatureHeader), got.body, []byte(at.secret)); err != nil {
				t.Error(err)
			}
			if got.json["installation"] != nil || got.header.Get("X-GitHub-Hook-Installation-Target-Type") != at.kind {
				t.Errorf("%v %v", got.json["installation"], got.header)
			}
		}
	}
	w.hook.find(t, 2, is("workflow_job", "queued")) // the App's, too
	w.until("all are logged", func(t githubsim.Truth) bool { return t.Deliveries.Attempts == t.Deliveries.Events })

	log, _, err := gh.Repositories.ListHookDeliveries(ctx, org, "web", one.GetID(), nil)
	if err != nil || len(log) != 2 || log[0].GetStatusCode() != 500 || log[1].GetEvent() != "ping" {
		t.Fatalf("%v, %v", log, err)
	}
	mine.answer(200)
	if a := w.rest("POST", fmt.Sprintf("/repos/acme/web/hooks/%d/deliveries/%d/attempts", one.GetID(), log[0].GetID()), secret, nil); a.StatusCode != 202 {
		t.Fatalf("%s %s", a.Status, a.body)
	}
	if both := mine.find(t, 2, is("workflow_job", "queued")); both[0].guid != both[1].guid || int64(both[1].json["workflow_job"].(map[string]any)["id"].(float64)) != id {
		t.Error("sent again, it is another delivery")
	}
	log, _, err = gh.Organizations.ListHookDeliveries(ctx, org, all.GetID(), nil)
	if err != nil || len(log) != 3 {
		t.Fatalf("%v, %v", log, err)
	}

	if _, _, err := gh.Organizations.EditHook(ctx, org, all.GetID(), &github.Hook{Active: github.Ptr(false)}); err != nil {
		t.Error(err)
	}
	if _, err := gh.Repositories.DeleteHook(ctx, org, "web", one.GetID()); err != nil {
		t.Error(err)
	}
	if left, _, err := gh.Repositories.ListHooks(ctx, org, "web", nil); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	silent := w.inject("linux")
	w.hook.find(t, 3, is("workflow_job", "queued"))
	if len(mine.actions(silent))+len(ours.actions(silent)) != 0 {
		t.Error("a hook that is gone or off was called")
	}
	if _, err := w.CreateHook(githubsim.HookOptions{Target: "acme/nowhere", URL: mine.url}); err == nil {
		t.Error("a hook of a repository that does not exist")
	}
	if _, err := w.CreateHook(githubsim.HookOptions{Target: org, URL: mine.url}); err != nil {
		t.Error(err)
	}
	mine.find(t, 2, is("ping", ""))
}
