package api_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
)

// access answers what it is made of.
type access struct {
	app, group, set string
	asked           int
}

func (a *access) AppProblem(_ context.Context, app, owner string) string {
	if app != "main" || owner != "octo" {
		return "asked about " + app + " at " + owner
	}
	return a.app
}

func (a *access) GroupProblem(context.Context, muster.Pool, muster.Job) string {
	a.asked++
	return a.group
}

func (a *access) ScaleSetProblem(muster.Pool) string { return a.set }

// What lies outside of the pool is among the causes, too, in the API as in the
// dashboard, which asks the same gatherer. 4-30
func TestExplainSurroundings(t *testing.T) {
	why := func(id int64, change func(*api.Config, *world)) (codes []string) {
		t.Helper()
		w := newWorld(t, change)
		resp, err := w.jobs.ExplainJob(t.Context(), &v1.ExplainJobRequest{Job: &v1.JobRef{Id: id}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.Causes {
			codes = append(codes, c.Code)
		}
		return codes
	}
	has := func(what string, codes []string, code string) {
		t.Helper()
		if !slices.Contains(codes, code) {
			t.Errorf("%s: the causes are %v, without %s", what, codes, code)
		}
	}
	has("An App that lacks something", why(104, func(c *api.Config, _ *world) { c.Access = &access{app: "App main: actions: read is needed"} }), muster.CauseApp)
	has("A runner group that refuses", why(104, func(c *api.Config, _ *world) { c.Access = &access{group: "octo/app is public"} }), muster.CauseRunnerGroup)
	has("A rate limit used up", why(104, func(c *api.Config, _ *world) {
		c.Monitor = monitor{Budgets: []api.Budget{{App: "main", Account: "Octo", Limit: 5000, ResetAt: t0.Add(time.Minute)}}}
	}), muster.CauseGitHubPaused)
	has("A pause that GitHub asked for", why(104, func(c *api.Config, _ *world) {
		c.Monitor = monitor{Budgets: []api.Budget{{App: "main", Account: "token", PausedUntil: t0.Add(time.Minute)}}}
	}), muster.CauseGitHubPaused)
	if codes := why(104, func(c *api.Config, _ *world) {
		c.Monitor = monitor{Budgets: []api.Budget{{App: "main", Account: "elsewhere", PausedUntil: t0.Add(time.Minute)}}}
	}); slices.Contains(codes, muster.CauseGitHubPaused) {
		t.Errorf("another account's limit is a cause: %v", codes)
	}
	has("A runner that is lost", why(102, func(_ *api.Config, w *world) {
		w.store.runners[0].State, w.store.runners[0].DestroyedAt, w.store.runners[0].Reason = muster.RunnerDestroyed, t0.Add(-10*time.Minute), "its machine is gone"
	}), muster.CauseRunnerLost)
	has("A project without money", why(104, func(c *api.Config, w *world) {
		c.CostBudgets = []muster.CostBudget{{Project: "default", MonthMicroUSD: 1000, StopPercent: 100}}
		w.store.receipts[0].Project = "default"
	}), muster.CauseBudget)
	has("A suspended pool", why(104, func(_ *api.Config, w *world) {
		w.store.pools[0].Suspended = true
		snap := w.store.snapshots["linux"]
		snap.Pool.Suspended = true
		w.store.snapshots["linux"] = snap
	}), muster.CausePoolSuspended)
	has("A job that a runner says it runs", why(104, func(_ *api.Config, w *world) {
		r := w.store.runners[0]
		r.ID, r.Pool, r.Job, r.JobHint, r.ActiveAt, r.FinishedAt = "r-says", "linux", muster.JobKey{}, muster.JobKey{ID: 104, Attempt: 1}, t0.Add(-10*time.Second), time.Time{}
		w.store.runners = append(w.store.runners, r)
	}), muster.CauseRunnerSays)
	// 4-53: a job that waits knows its place.
	w := newWorld(t, nil)
	resp, err := w.jobs.ExplainJob(t.Context(), &v1.ExplainJobRequest{Job: &v1.JobRef{Id: 104}})
	if err != nil || resp.Ahead != 1 {
		t.Errorf("one job is ahead of it: %v %v", resp, err)
	}
	// A job that only a poll told of says so, one that a webhook told of does not.
	key := muster.JobKey{ID: 104, Attempt: 1}
	told := func(by muster.Sense) func(*api.Config, *world) {
		return func(_ *api.Config, w *world) {
			w.store.sightings[key] = []muster.Sighting{{Sense: muster.SensePoll, State: muster.JobQueued, At: t0}, {Sense: by, State: muster.JobQueued, At: t0}}
		}
	}
	has("A job that only a poll told of", why(104, told(muster.SensePoll)), muster.CauseSeenByPollingOnly)
	if codes := why(104, told(muster.SenseRedelivery)); slices.Contains(codes, muster.CauseSeenByPollingOnly) {
		t.Errorf("a redelivery is no webhook: %v", codes)
	}
	// GitHub is not asked about a group before it could have assigned the job.
	asked := &access{}
	why(104, func(c *api.Config, w *world) {
		c.Access = asked
		w.store.jobs[0].CreatedAt = t0.Add(-20 * time.Second)
	})
	why(101, func(c *api.Config, _ *world) { c.Access = asked })
	if asked.asked != 0 {
		t.Errorf("GitHub was asked about the group %d times", asked.asked)
	}
}

// A pool shows the windows of its schedules and its canary as they stand.
func TestPoolStanding(t *testing.T) {
	least := 3
	w := newWorld(t, func(_ *api.Config, w *world) {
		p := &w.store.pools[0]
		p.Schedules = []muster.Schedule{{Cron: "* * * * *", For: time.Hour, MinRunners: &least}}
		p.Canary = muster.Canary{Offering: "next", Percent: 10, MaxFailures: 2}
		snap := w.store.snapshots["linux"]
		snap.Pool = *p
		w.store.snapshots["linux"] = snap
		w.store.decisions[0].Snapshot.Pool, w.store.decisions[0].Snapshot.Canary = *p, muster.CanaryCount{Made: 50, Canaries: 5, Failed: 1}
	})
	resp, err := w.pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, n := range resp.Pool.Status.Notes {
		texts = append(texts, n.Topic+" "+n.Text)
	}
	for _, want := range []string{"canary 10 % of new runners try offering next: 5 of 50 so far, 1 failed of at most 2"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no note says %q: %q", want, texts)
		}
	}
	if !slices.ContainsFunc(texts, func(s string) bool { return len(s) > 20 && s[:20] == "schedule now, until " }) {
		t.Errorf("no open window: %q", texts)
	}
}
