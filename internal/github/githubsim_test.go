package github_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/github"
)

// simulator starts a GitHub with an organization, two repositories and an App
// that is installed there.
func simulator(t *testing.T, cfg githubsim.Config, edit ...func(*github.Config)) (*githubsim.Server, *github.Client) {
	t.Helper()
	sim := githubsim.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	url, err := sim.Start(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(sim.CreateOrganization("octo-org"))
	must(sim.CreateRepository("octo-org/app", githubsim.RepositoryOptions{Private: true}))
	must(sim.CreateRepository("octo-org/lib", githubsim.RepositoryOptions{}))
	app, err := sim.CreateApp(githubsim.AppOptions{
		Name: "muster", Key: key(),
		Permissions: map[string]string{"actions": "write", "checks": "write", "metadata": "read", "organization_self_hosted_runners": "write", "administration": "write"},
	})
	must(err)
	_, err = sim.Install(app.ID, "octo-org")
	must(err)
	conf := github.Config{Name: "main", ClientID: app.ClientID, PrivateKey: muster.Secret(app.PEM), URL: url}
	for _, e := range edit {
		e(&conf)
	}
	c, err := github.New(conf)
	must(err)
	return sim, c
}

var simOrg = muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo-org"}

func TestAgainstTheSimulator(t *testing.T) { // S0-16 S1-3 S1-7 S1-14 S1-15 S0-8 4-11 4-17
	sim, c := simulator(t, githubsim.Config{})
	ctx := t.Context()

	t.Run("Needs", func(t *testing.T) {
		if needs, err := c.Needs(ctx, simOrg); err != nil || !slices.Equal(needs, []string{"127.0.0.1"}) {
			t.Fatal(needs, err) // a server of its own
		}
	})
	t.Run("App", func(t *testing.T) {
		info, err := c.App(ctx)
		if err != nil || info.Slug == "" || info.ClientID == "" {
			t.Fatalf("%+v, %v", info, err)
		}
		if missing := github.MissingPermissions(info.Permissions, github.TracedProfile); missing != nil {
			t.Errorf("missing %q", missing)
		}
		if missing := github.MissingPermissions(info.Permissions, []github.Feature{github.FeatureWorkflowFiles}); len(missing) != 1 {
			t.Errorf("missing %q", missing)
		}
		ins, err := c.Installations(ctx)
		if err != nil || len(ins) != 1 || ins[0].Account != "octo-org" || ins[0].State != "active" {
			t.Errorf("%+v, %v", ins, err)
		}
	})

	for _, scope := range []muster.Scope{simOrg, {Kind: muster.ScopeRepository, Owner: "octo-org", Repo: "app"}} {
		t.Run(string(scope.Kind), func(t *testing.T) {
			name := "ci-" + string(scope.Kind)
			jit, err := c.GenerateJIT(ctx, scope, name, 1, muster.Labels{"self-hosted", "Linux", "gpu"})
			if err != nil {
				t.Fatal(err)
			}
			blob, err := base64.StdEncoding.DecodeString(jit.Config.Reveal())
			var files map[string]string
			if err != nil || json.Unmarshal(blob, &files) != nil || files[".credentials_rsaparams"] == "" {
				t.Errorf("the configuration is not one: %v", err)
			}
			// The answer was lost and the caller asks again (4-11).
			if _, err := c.GenerateJIT(ctx, scope, name, 1, muster.Labels{"gpu"}); muster.CodeOf(err) != muster.CodeExists {
				t.Errorf("second registration: %v", err)
			}
			found, err := c.RunnerByName(ctx, scope, name)
			if err != nil || found.ID != jit.RunnerID || found.Online || found.Busy || !found.Labels.Has("gpu") || !found.Ephemeral {
				t.Errorf("%+v, %v", found, err)
			}
			if one, err := c.Runner(ctx, scope, jit.RunnerID); err != nil || one.Name != name {
				t.Errorf("%+v, %v", one, err)
			}
			if all, err := c.Runners(ctx, scope); err != nil || len(all) != 1 {
				t.Errorf("%+v, %v", all, err)
			}
			if err := c.RemoveRunner(ctx, scope, jit.RunnerID); err != nil {
				t.Error(err)
			}
			if err := c.RemoveRunner(ctx, scope, jit.RunnerID); muster.CodeOf(err) != muster.CodeNotFound {
				t.Errorf("second removal: %v", err)
			}
			if _, err := c.RunnerByName(ctx, scope, name); muster.CodeOf(err) != muster.CodeNotFound {
				t.Error(err)
			}
			token, expires, err := c.RegistrationToken(ctx, scope)
			if err != nil || token == "" || time.Until(expires) < 50*time.Minute {
				t.Errorf("token until %s, %v", expires, err)
			}
			if again, _, err := c.RegistrationToken(ctx, scope); err != nil || again != token {
				t.Errorf("another token, %v", err)
			}
			if _, err := c.GenerateJIT(ctx, scope, "x", 99999, muster.Labels{"gpu"}); muster.CodeOf(err) != muster.CodeNotFound && muster.CodeOf(err) != muster.CodeForbidden && scope.Kind == muster.ScopeOrganization {
				t.Errorf("unknown group: %v", err)
			}
		})
	}

	t.Run("Job", func(t *testing.T) {
		id, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"self-hosted", "gpu"}})
		if err != nil {
			t.Fatal(err)
		}
		e, err := c.Job(ctx, "octo-org/app", id)
		if err != nil || e.Action != "queued" || e.ID != id || e.InstallationID == 0 || !slices.Equal(e.Labels, muster.Labels{"self-hosted", "gpu"}) || e.CreatedAt.IsZero() {
			t.Fatalf("%+v, %v", e, err)
		}
		if job, _, err := (muster.Job{}).Apply(e); err != nil || job.State != muster.JobQueued {
			t.Errorf("%+v, %v", job, err)
		}
		if _, err := c.JobLog(ctx, "octo-org/app", id); muster.CodeOf(err) != muster.CodeNotFound {
			t.Errorf("a queued job has a log: %v", err)
		}
		if err := sim.CancelJob(id); err != nil {
			t.Fatal(err)
		}
		e, err = c.Job(ctx, "octo-org/app", id)
		if err != nil || e.Action != "completed" || e.Conclusion != "cancelled" {
			t.Errorf("%+v, %v", e, err)
		}
		if body, err := c.JobLog(ctx, "octo-org/app", id); err == nil {
			if _, err := io.ReadAll(body); err != nil {
				t.Error(err)
			}
			body.Close()
		} else if muster.CodeOf(err) != muster.CodeNotFound {
			t.Error(err)
		}
	})

	t.Run("Check", func(t *testing.T) {
		id, err := c.CreateCheck(ctx, "octo-org/app", github.Check{Name: "muster / ci", HeadSHA: strings.Repeat("ab", 20), Status: "in_progress", Title: "Starting", Summary: "A runner is on its way."})
		if err != nil {
			t.Fatal(err)
		}
		one := github.Check{Name: "muster: build", HeadSHA: strings.Repeat("ab", 20), Status: "queued", Title: "Queued", Summary: "…", ExternalID: "7/1", DetailsURL: "https://muster.example.com/jobs/7"}
		other := one
		other.ExternalID = "8"
		if found, err := c.FindCheck(ctx, "octo-org/app", one); err != nil || found != 0 {
			t.Fatalf("found %d, %v before it was made", found, err)
		}
		for _, check := range []github.Check{one, other} {
			made, err := c.CreateCheck(ctx, "octo-org/app", check)
			if err != nil {
				t.Fatal(err)
			}
			if found, err := c.FindCheck(ctx, "octo-org/app", check); err != nil || found != made {
				t.Fatalf("found %d instead of %d, %v", found, made, err)
			}
		}
		if err := c.UpdateCheck(ctx, "octo-org/app", id, github.Check{Status: "completed", Conclusion: "success", Title: "Done", Summary: "…"}); err != nil {
			t.Error(err)
		}
	})

	t.Run("NotOurs", func(t *testing.T) {
		if err := sim.CreateOrganization("stranger"); err != nil {
			t.Fatal(err)
		}
		_, err := c.Runners(ctx, muster.Scope{Kind: muster.ScopeOrganization, Owner: "stranger"})
		if muster.CodeOf(err) != muster.CodeNotFound || !strings.Contains(err.Error(), "not installed") {
			t.Error(err)
		}
	})

	t.Run("Budget", func(t *testing.T) {
		views := c.Budget()
		if len(views) != 2 {
			t.Fatalf("%+v", views)
		}
		for _, v := range views {
			if v.Account == "octo-org" && (v.Limit < 5000 || v.Remaining >= v.Limit || v.Remaining < v.Limit-100 || v.Stretch != 1) {
				t.Errorf("%+v", v)
			}
		}
		// Our count of calls is GitHub's.
		for caller, routes := range sim.Truth().Calls {
			if !strings.HasPrefix(caller, "installation") {
				continue
			}
			theirs, ours := 0, int64(0)
			for _, n := range routes {
				theirs += n
			}
			for _, v := range views {
				if v.Installation != 0 {
					for _, n := range v.Calls {
						ours += n
					}
				}
			}
			if int64(theirs) != ours {
				t.Errorf("we counted %d calls, GitHub %d: %v", ours, theirs, routes)
			}
		}
	})
}

func TestManyRunnersAgainstTheSimulator(t *testing.T) { // 4-28
	_, c := simulator(t, githubsim.Config{NoRateLimits: true}, func(cfg *github.Config) { cfg.MutationsPerMinute = -1 })
	ctx := t.Context()
	var all sync.WaitGroup
	for i := range 230 {
		all.Go(func() {
			if _, err := c.GenerateJIT(ctx, simOrg, fmt.Sprint("ci-", i), 1, muster.Labels{"x"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	runners, err := c.Runners(ctx, simOrg)
	if err != nil || len(runners) != 230 {
		t.Errorf("%d runners, %v", len(runners), err)
	}
}

// Whatever GitHub does, every registration is found again: by its answer, or by
// its name after an answer that was lost. None is left over, none exists twice.
func TestHostileSimulator(t *testing.T) { // 4-11 4-16 4-15 S1-106 S4-70
	sim, c := simulator(t, githubsim.Config{Seed: 7}, func(cfg *github.Config) { cfg.Timeout = 10 * time.Second })
	sim.Faults().Set(githubsim.FaultSettings{
		ServerErrors: 0.1, LoseAnswers: 0.05, LoseJITAnswers: 0.3, EmptyAnswers: 0.05, SecondaryLimit: 0.02,
		RetryAfter: githubsim.Duration(time.Second), TokenReplication: githubsim.Duration(100 * time.Millisecond), ClockSkew: githubsim.Duration(-20 * time.Minute),
	})
	ctx := t.Context()
	// until repeats what may be repeated, as a workflow would.
	until := func(call func() error) error {
		for {
			err := call()
			e, ok := errors.AsType[*muster.Error](err)
			if !ok || e.Code != muster.CodeUnavailable || ctx.Err() != nil {
				return err
			}
			select {
			case <-time.After(min(e.RetryAfter, 2*time.Second) + 10*time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			name := fmt.Sprint("ci-", i)
			var id int64
			err := until(func() error {
				jit, err := c.GenerateJIT(ctx, simOrg, name, 1, muster.Labels{"x"})
				id = jit.RunnerID
				return err
			})
			if muster.CodeOf(err) == muster.CodeExists {
				err = until(func() error {
					found, err := c.RunnerByName(ctx, simOrg, name)
					id = found.ID
					return err
				})
			}
			if err != nil || id == 0 {
				t.Errorf("%s: %d, %v", name, id, err)
				return
			}
			if i == 10 {
				sim.Faults().ExpireTokens()
			}
			err = until(func() error { return c.RemoveRunner(ctx, simOrg, id) })
			if err != nil && muster.CodeOf(err) != muster.CodeNotFound { // its first removal's answer was lost
				t.Errorf("remove %s: %v", name, err)
			}
		})
	}
	all.Wait()
	truth := sim.Truth()
	if truth.Registered != 30 || len(truth.Runners) != 0 {
		t.Errorf("%d registrations were made and %d are left", truth.Registered, len(truth.Runners))
	}
	if truth.Limited.Primary != 0 {
		t.Errorf("the primary limit was hit %d times", truth.Limited.Primary)
	}
}

func TestTokenAgainstTheSimulator(t *testing.T) { // C6 S1-97
	sim, _ := simulator(t, githubsim.Config{})
	pat, err := sim.CreateToken("hubot", "repo", "admin:org", "manage_runners:enterprise")
	if err != nil {
		t.Fatal(err)
	}
	c, err := github.New(github.Config{Name: "pat", Token: muster.Secret(pat), URL: sim.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.CreateEnterprise("corp", "octo-org"); err != nil {
		t.Fatal(err)
	}
	for _, scope := range []muster.Scope{simOrg, {Kind: muster.ScopeEnterprise, Owner: "corp"}} {
		jit, err := c.GenerateJIT(t.Context(), scope, "ci-1", 1, muster.Labels{"x"})
		if err != nil {
			t.Errorf("%s: %v", scope, err)
			continue
		}
		if err := c.RemoveRunner(t.Context(), scope, jit.RunnerID); err != nil {
			t.Errorf("%s: %v", scope, err)
		}
	}
}
