package demo

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/muster-ci/muster/githubsim"
)

//go:embed all:acme
var files embed.FS

// Organization is the login of the demo's organization.
const Organization = "acme"

// Jobs is how many jobs the script gives, over all runs and attempts.
const Jobs = 40

// Repositories are the names of the demo's repositories, without the organization.
func Repositories() []string { return []string{"api", "infra", "web"} }

// Labels are what all jobs ask for, except the one that nobody serves.
func Labels() []string { return []string{"self-hosted", "linux", "x64"} }

// Files returns the content of one repository; it panics for a name that
// Repositories does not hold.
func Files(repository string) fs.FS {
	sub, err := fs.Sub(files, "acme/"+repository)
	if err != nil || !slices.Contains(Repositories(), repository) {
		panic("demo: no repository " + repository)
	}
	return sub
}

// Setup creates the organization and its repositories. An App has to be
// installed by the caller, before Script.
func Setup(s *githubsim.Server) error {
	if err := s.CreateOrganization(Organization); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	for _, name := range Repositories() {
		opts := githubsim.RepositoryOptions{Private: true, Files: Files(name)}
		if err := s.CreateRepository(Organization+"/"+name, opts); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	return nil
}

// script is one execution of the demo.
type script struct {
	server *githubsim.Server
	say    func(string)
	runs   map[int64]bool // of this script
}

// Script triggers everything and returns when all 40 jobs are completed, or with
// ctx's error. Somebody else has to run the jobs. say hears of each act of the
// script, in words; nil is nobody. Check the outcome with Verify.
func Script(ctx context.Context, server *githubsim.Server, say func(string)) error {
	if say == nil {
		say = func(string) {}
	}
	s := &script{server: server, say: say, runs: map[int64]bool{}}
	if err := s.play(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

func (s *script) play(ctx context.Context) error {
	for _, push := range []struct{ repo, file string }{{"web", "ci.yml"}, {"web", "docs.yml"}, {"api", "ci.yml"}, {"infra", "plan.yml"}} {
		if _, err := s.trigger(push.repo, push.file, "push"); err != nil {
			return err
		}
	}

	// At once, so that the job is cancelled while it is queued.
	drift, err := s.trigger("infra", "drift.yml", "workflow_dispatch")
	if err != nil {
		return err
	}
	s.say("cancel the queued run of Drift")
	if err := s.server.CancelRun(Organization+"/infra", drift); err != nil {
		return err
	}

	train, err := s.trigger("infra", "train.yml", "workflow_dispatch")
	if err != nil {
		return err
	}
	smoke, err := s.trigger("web", "smoke.yml", "workflow_dispatch")
	if err != nil {
		return err
	}
	soak, err := s.trigger("api", "soak.yml", "workflow_dispatch")
	if err != nil {
		return err
	}
	for _, file := range []string{"nightly.yml", "release.yml"} {
		if _, err := s.trigger("api", file, "workflow_dispatch"); err != nil {
			return err
		}
	}

	if err := s.server.Wait(ctx, jobs(soak, func(j githubsim.JobTruth) bool { return j.Executions > 0 })); err != nil {
		return fmt.Errorf("wait for Soak to run: %w", err)
	}
	s.say("cancel the running job of Soak")
	if err := s.server.CancelRun(Organization+"/api", soak); err != nil {
		return err
	}

	if err := s.server.Wait(ctx, run(smoke, func(r githubsim.RunTruth) bool { return r.Status == "completed" })); err != nil {
		return fmt.Errorf("wait for Smoke to fail: %w", err)
	}
	s.say("re-run the failed jobs of Smoke")
	if err := s.server.Rerun(Organization+"/web", smoke, true); err != nil {
		return err
	}

	if err := s.server.Wait(ctx, s.settled(train)); err != nil {
		return fmt.Errorf("wait for all jobs that can run: %w", err)
	}
	s.say("cancel Train, which nobody serves")
	if err := s.server.CancelRun(Organization+"/infra", train); err != nil {
		return err
	}
	if err := s.server.Wait(ctx, s.settled(0)); err != nil {
		return fmt.Errorf("wait for the end: %w", err)
	}
	return nil
}

func (s *script) trigger(repo, file, event string) (int64, error) {
	s.say(fmt.Sprintf("%s in %s/%s starts %s", event, Organization, repo, file))
	id, err := s.server.Trigger(Organization+"/"+repo, ".github/workflows/"+file, event)
	if err == nil {
		s.runs[id] = true
	}
	return id, err
}

// settled says that all runs of the script but one are completed.
func (s *script) settled(except int64) func(githubsim.Truth) bool {
	return func(t githubsim.Truth) bool {
		return !slices.ContainsFunc(t.Runs, func(r githubsim.RunTruth) bool {
			return s.runs[r.ID] && r.ID != except && r.Status != "completed"
		})
	}
}

func jobs(id int64, ok func(githubsim.JobTruth) bool) func(githubsim.Truth) bool {
	return func(t githubsim.Truth) bool {
		return slices.ContainsFunc(t.Jobs, func(j githubsim.JobTruth) bool { return j.RunID == id && ok(j) })
	}
}

func run(id int64, ok func(githubsim.RunTruth) bool) func(githubsim.Truth) bool {
	return func(t githubsim.Truth) bool {
		return slices.ContainsFunc(t.Runs, func(r githubsim.RunTruth) bool { return r.ID == id && ok(r) })
	}
}

// Job is one expected job.
type Job struct {
	Repository string // without the organization
	Workflow   string // its name
	Name       string // display name
	Attempt    int
	Conclusion string
	// Least and Most are how often a runner has to run the job.
	Least, Most int
}

// Expected lists the 40 jobs with their outcomes, by repository and workflow.
func Expected() []Job {
	var out []Job
	add := func(repo, workflow string, names ...string) {
		for _, n := range names {
			out = append(out, Job{repo, workflow, n, 1, "success", 1, 1})
		}
	}
	add("api", "CI", "plan", "unit (client)", "unit (migrate)", "unit (server)", "unit (worker)",
		"integration (postgres, 17)", "integration (sqlite, 3)", "coverage")
	out = append(out, Job{"api", "Nightly", "fuzz", 1, "failure", 1, 1}, Job{"api", "Nightly", "report", 1, "success", 1, 1})
	add("api", "Release", "build linux/amd64", "build linux/arm64", "build darwin/amd64", "build darwin/arm64", "build windows/amd64", "publish")
	out = append(out, Job{"api", "Soak", "soak", 1, "cancelled", 1, 1})
	// A runner that was idle may have been given this one before it was cancelled.
	out = append(out, Job{"infra", "Drift", "drift", 1, "cancelled", 0, 1})
	add("infra", "Plan", "plan (dev, eu)", "plan (dev, us)", "plan (staging, eu)", "plan (staging, us)", "plan (prod, eu)", "plan (prod, us)", "summary")
	out = append(out, Job{"infra", "Train", "train", 1, "cancelled", 0, 0})
	add("web", "CI", "lint", "test (18, unit)", "test (18, browser)", "test (20, unit)", "test (20, browser)", "test (22, unit)", "test (22, browser)",
		"package", "Preview of main")
	add("web", "Docs", "render (en)", "render (de)", "render (fr)")
	out = append(out, Job{"web", "Smoke", "smoke", 1, "failure", 1, 1}, Job{"web", "Smoke", "smoke", 2, "success", 1, 1})
	return out
}

// Verify compares what happened with Expected and returns every difference in
// words; nil is success. Jobs of other organizations and jobs that faults made
// are left out.
func Verify(t githubsim.Truth) []string {
	workflows := map[int64]string{}
	for _, r := range t.Runs {
		workflows[r.ID] = r.Workflow
	}
	type key struct {
		repo, workflow, name string
		attempt              int
	}
	left := map[key]Job{}
	for _, j := range Expected() {
		left[key{j.Repository, j.Workflow, j.Name, j.Attempt}] = j
	}
	var wrong []string
	for _, j := range t.Jobs {
		repo, ours := strings.CutPrefix(j.Repo, Organization+"/")
		if !ours || j.Alien {
			continue
		}
		k := key{repo, workflows[j.RunID], j.Name, j.Attempt}
		name := fmt.Sprintf("%s / %s / %s (attempt %d)", j.Repo, k.workflow, j.Name, j.Attempt)
		want, ok := left[k]
		delete(left, k)
		switch {
		case !ok:
			wrong = append(wrong, name+": nobody expected this job")
		case j.Status != "completed":
			wrong = append(wrong, fmt.Sprintf("%s: is %s, want completed with %s", name, j.Status, want.Conclusion))
		case j.Conclusion != want.Conclusion:
			wrong = append(wrong, fmt.Sprintf("%s: ended with %s, want %s", name, j.Conclusion, want.Conclusion))
		case j.Executions < want.Least || j.Executions > want.Most:
			wrong = append(wrong, fmt.Sprintf("%s: was executed %d times", name, j.Executions))
		}
	}
	for k := range left {
		wrong = append(wrong, fmt.Sprintf("%s/%s / %s / %s (attempt %d): never existed", Organization, k.repo, k.workflow, k.name, k.attempt))
	}
	slices.Sort(wrong)
	return wrong
}
