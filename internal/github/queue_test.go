package github_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/github"
)

// actions is the part of a GitHub that lists runs and jobs of octo-org/app. Its
// answers have ETags and cost one of the limit, unless nothing changed.
type actions struct {
	*stub
	runs    []fakeRun // oldest first
	queries []string
	cost    int
}

type fakeRun struct {
	id     int64
	status string
	event  string
	jobs   []fakeJob
}

type fakeJob struct {
	id     int64
	status string
	labels []string
}

// unpaced is for tests that count and do not wait.
func unpaced(cfg *github.Config) { cfg.MutationsPerMinute = -1 }

func newActions(t *testing.T) *actions {
	a := &actions{stub: newStub(t)}
	a.on["GET /repos/octo-org/app/actions/runs"] = a.listRuns
	return a
}

func (a *actions) add(run fakeRun) {
	a.runs = append(a.runs, run)
	id := run.id
	a.on[fmt.Sprintf("GET /repos/octo-org/app/actions/runs/%d/jobs", id)] = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("filter") != "latest" {
			a.t.Errorf("jobs are asked for by %s", r.URL.RawQuery)
		}
		i := slices.IndexFunc(a.runs, func(r fakeRun) bool { return r.id == id })
		var jobs []map[string]any
		for _, j := range a.runs[i].jobs {
			jobs = append(jobs, map[string]any{"id": j.id, "run_id": id, "run_attempt": 1, "status": j.status, "labels": j.labels, "created_at": "2026-01-01T00:00:00Z"})
		}
		a.page(w, r, "jobs", jobs)
	}
}

func (a *actions) listRuns(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.queries = append(a.queries, r.URL.RawQuery)
	a.mu.Unlock()
	var runs []map[string]any
	for _, run := range slices.Backward(a.runs) {
		if run.status == r.URL.Query().Get("status") {
			runs = append(runs, map[string]any{"id": run.id, "run_attempt": 1, "status": run.status, "event": run.event, "name": "CI", "head_branch": "main",
				"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:01:00Z", "repository": map[string]any{"id": 77, "private": true}})
		}
	}
	a.page(w, r, "workflow_runs", runs)
}

// page answers one page of a list, at most 1,000 of it, as GitHub does.
func (a *actions) page(w http.ResponseWriter, r *http.Request, name string, all []map[string]any) {
	total := len(all)
	all = all[:min(total, 1000)]
	size, _ := strconv.Atoi(r.URL.Query().Get("per_page"))
	number := 1
	fmt.Sscan(r.URL.Query().Get("page"), &number)
	from := min((number-1)*size, len(all))
	some := all[from:min(from+size, len(all))]
	if from+size < len(all) {
		q := r.URL.Query()
		q.Set("page", fmt.Sprint(number+1))
		w.Header().Set("Link", fmt.Sprintf(`<https://ghes.example%s?%s>; rel="next"`, r.URL.Path, q.Encode()))
	}
	if some == nil {
		some = []map[string]any{}
	}
	body, _ := json.Marshal(map[string]any{"total_count": total, name: some})
	tag := fmt.Sprintf(`"%x"`, body[:min(len(body), 4000)])
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(304)
		return
	}
	a.mu.Lock()
	a.cost++ // jobs of several runs are listed at a time
	a.mu.Unlock()
	answer(w, 200, string(body))
}

func TestQueueMetrics(t *testing.T) { // S1-26 S1-27 S1-29 S1-30 S1-31 S1-34 S1-35 C18 C19 4-5 4-28
	a := newActions(t)
	a.add(fakeRun{id: 1, status: "queued", jobs: []fakeJob{{11, "queued", []string{"linux"}}, {12, "queued", []string{"gpu"}}}})
	a.add(fakeRun{id: 2, status: "in_progress", event: "push", jobs: []fakeJob{
		{21, "completed", []string{"linux"}}, {22, "in_progress", []string{"linux"}}, {23, "queued", []string{"linux"}}, {24, "waiting", []string{"linux"}},
	}})
	a.add(fakeRun{id: 3, status: "completed", jobs: []fakeJob{{31, "completed", []string{"linux"}}}})
	a.add(fakeRun{id: 4, status: "queued"}) // no job was ever made
	c := newClient(t, a, withToken(canaryPAT))
	for _, labels := range []muster.Labels{nil, {}} {
		m, err := c.QueueMetrics(t.Context(), "octo-org/app", labels)
		want := muster.QueueMetrics{PendingJobs: 3, QueuedJobs: 3, InProgressJobs: 1, TotalJobs: 4, Timestamp: m.Timestamp}
		if err != nil || m != want || time.Since(m.Timestamp) > time.Minute || !m.NeedsScaling() {
			t.Errorf("%+v, %v", m, err)
		}
		if n, err := c.PendingJobCount(t.Context(), "octo-org/app", labels); err != nil || n != m.PendingJobs {
			t.Errorf("%d pending, %v", n, err)
		}
	}
	for _, want := range []string{"status=queued&per_page=100", "status=in_progress&per_page=100"} {
		if !slices.Contains(a.queries, want) {
			t.Errorf("%s was not asked for: %v", want, a.queries)
		}
	}
	if n := a.seen("GET /repos/octo-org/app/actions/runs/3/jobs"); n != 0 {
		t.Error("a completed run was looked at")
	}
	text, err := json.Marshal(muster.QueueMetrics{PendingJobs: 1, InProgressJobs: 2, QueuedJobs: 3, TotalJobs: 5, Timestamp: time.Unix(0, 0).UTC()})
	if err != nil || string(text) != `{"pending_jobs":1,"in_progress_jobs":2,"queued_jobs":3,"total_jobs":5,"timestamp":"1970-01-01T00:00:00Z"}` {
		t.Errorf("%s, %v", text, err)
	}
	var read muster.QueueMetrics
	if err := json.Unmarshal(text, &read); err != nil || read.QueuedJobs != 3 || !read.Timestamp.Equal(time.Unix(0, 0)) {
		t.Errorf("%+v, %v", read, err)
	}
	for m, want := range map[muster.QueueMetrics]bool{{}: false, {InProgressJobs: 1, TotalJobs: 1}: false, {PendingJobs: 1}: true, {QueuedJobs: 1}: true, {PendingJobs: 1, QueuedJobs: 1}: true} { // S1-28
		if m.NeedsScaling() != want {
			t.Errorf("%+v needs scaling: %v", m, !want)
		}
	}
}

// Both rules hold for what is counted: all labels asked for are among the job's,
// and a runner with them could run it.
func TestQueueMetricsByLabels(t *testing.T) { // S1-33 S1-36 C8 4-29
	a := newActions(t)
	a.add(fakeRun{id: 1, status: "queued", jobs: []fakeJob{
		{1, "queued", []string{"linux"}}, {2, "queued", []string{"linux", "docker"}}, {3, "queued", []string{"docker"}},
		{4, "queued", []string{"Self-Hosted", "LINUX", "Docker"}}, {5, "queued", []string{"linux", "docker", "gpu"}}, {6, "queued", nil},
		{7, "in_progress", []string{"docker", "linux"}},
	}})
	c := newClient(t, a, withToken(canaryPAT))
	for labels, want := range map[string][2]int{ // queued, in progress
		"linux,docker":     {2, 1}, // 2 and 4
		"linux":            {1, 0}, // 1: the others need docker, which such a runner lacks
		"docker":           {3, 1}, // 2, 3 and 4: linux is one of the automatic labels
		"linux,docker,gpu": {1, 0},
		"gpu":              {0, 0},
		"windows":          {0, 0},
		"":                 {6, 1},
	} {
		ls, err := muster.ParseLabels(labels)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.QueueMetrics(t.Context(), "octo-org/app", ls)
		if err != nil || m.QueuedJobs != want[0] || m.InProgressJobs != want[1] {
			t.Errorf("%s: %+v, %v", labels, m, err)
		}
	}
	if _, err := c.QueueMetrics(t.Context(), "octo-org/app", muster.Labels{"$(id)"}); muster.CodeOf(err) != muster.CodeInvalid {
		t.Error(err)
	}
}

func TestAllPagesOfRunsAreCounted(t *testing.T) { // S1-32 4-28
	a := newActions(t)
	for i := range int64(250) {
		a.add(fakeRun{id: 1000 + i, status: "queued", jobs: []fakeJob{{5000 + i, "queued", []string{"linux"}}}})
	}
	c := newClient(t, a, withToken(canaryPAT), unpaced)
	m, err := c.QueueMetrics(t.Context(), "octo-org/app", nil)
	if err != nil || m.QueuedJobs != 250 {
		t.Fatalf("%+v, %v", m, err)
	}
	pages := 0
	for _, q := range a.queries {
		if strings.Contains(q, "status=queued") && strings.Contains(q, "per_page=100") {
			pages++
		}
	}
	if pages != 3 {
		t.Errorf("%d pages", pages)
	}
	// Nothing has changed, so nothing of it costs anything.
	a.cost = 0
	if m, err := c.QueueMetrics(t.Context(), "octo-org/app", nil); err != nil || m.QueuedJobs != 250 || a.cost != 0 {
		t.Errorf("%+v, %v, %d answers were charged", m, err, a.cost)
	}
}

func TestRunsBeyondWhatGitHubShows(t *testing.T) { // 4-28
	a := newActions(t)
	for i := range int64(1100) {
		a.runs = append(a.runs, fakeRun{id: 1 + i, status: "queued"})
	}
	var log strings.Builder
	c := newClient(t, a, withToken(canaryPAT), unpaced, func(cfg *github.Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	runs, total, err := c.Runs(t.Context(), "octo-org/app", "queued")
	if err != nil || len(runs) != 1000 || total != 1100 || runs[0].ID != 1100 {
		t.Fatalf("%d of %d runs, %v", len(runs), total, err)
	}
	for _, run := range a.runs {
		a.add(run)
	}
	a.runs = a.runs[:1100]
	if jobs, err := c.ActiveJobs(t.Context(), "octo-org/app"); err != nil || len(jobs) != 0 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
	if !strings.Contains(log.String(), "shown=1000 total=1100") {
		t.Errorf("the cut is not told: %s", log.String())
	}
}

func TestRunJobs(t *testing.T) { // C18 4-5
	a := newActions(t)
	run := fakeRun{id: 2, status: "in_progress", event: "pull_request"}
	for i := range int64(130) {
		run.jobs = append(run.jobs, fakeJob{100 + i, "pending", []string{"linux"}})
	}
	a.add(run)
	c := newClient(t, a)
	runs, _, err := c.Runs(t.Context(), "octo-org/app", "in_progress")
	if err != nil || len(runs) != 1 {
		t.Fatalf("%+v, %v", runs, err)
	}
	if r := runs[0]; r.Trigger != "pull_request" || r.PublicRepo || r.RepositoryID != 77 || r.UpdatedAt.Sub(r.CreatedAt) != time.Minute || r.Repository != "octo-org/app" {
		t.Errorf("%+v", r)
	}
	jobs, err := c.RunJobs(t.Context(), runs[0])
	if err != nil || len(jobs) != 130 {
		t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	e := jobs[0]
	if e.Sense != muster.SensePoll || e.Trigger != "pull_request" || e.Repository != "octo-org/app" || e.RepositoryID != 77 || e.PublicRepo || e.InstallationID != 9 ||
		e.App != "main" || e.RunID != 2 || e.Workflow != "CI" || e.HeadBranch != "main" || e.Action != "waiting" || e.ReceivedAt.IsZero() {
		t.Errorf("%+v", e)
	}
	runs[0].PublicRepo = true
	if jobs, err := c.RunJobs(t.Context(), runs[0]); err != nil || !jobs[0].PublicRepo {
		t.Errorf("%v", err)
	}
}

// An answer that is not a list must never read as an empty queue.
func TestBrokenListsAreNoEmptyQueue(t *testing.T) { // 4-27 S1-113
	for name, body := range map[string]string{"Empty": ``, "Object": `{}`, "Null": `{"total_count":0,"workflow_runs":null,"jobs":null,"repositories":null}`, "HTML": `<html>`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t)
				odd := func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, body) }
				s.on["GET /repos/octo-org/app/actions/runs"] = odd
				s.on["GET /repos/octo-org/app/actions/runs/1/jobs"] = odd
				s.on["GET /installation/repositories"] = odd
				c := newClient(t, s)
				_, _, runs := c.Runs(t.Context(), "octo-org/app", "queued")
				_, jobs := c.RunJobs(t.Context(), muster.WorkflowRun{ID: 1, Repository: "octo-org/app"})
				_, repositories := c.Repositories(t.Context(), org)
				_, metrics := c.QueueMetrics(t.Context(), "octo-org/app", nil)
				for what, err := range map[string]error{"runs": runs, "jobs": jobs, "repositories": repositories, "metrics": metrics} {
					if muster.CodeOf(err) != muster.CodeUnavailable {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		})
	}
}

func TestRepositories(t *testing.T) { // C5
	const list = `[{"full_name":"Octo-Org/old","private":true,"pushed_at":"2020-01-01T00:00:00Z"},{"full_name":"octo-org/new","private":false,"pushed_at":"2026-01-01T00:00:00Z"},
		{"full_name":"octo-org/museum","archived":true,"pushed_at":"2026-01-01T00:00:00Z"},{"full_name":"octo-org/off","disabled":true},{"full_name":"other/x","private":true}]`
	names := func(all []muster.RemoteRepository) (out []string) {
		for _, r := range all {
			out = append(out, r.Name)
		}
		return out
	}
	t.Run("App", func(t *testing.T) {
		s := newStub(t)
		asked, unchanged := 0, 0
		s.on["GET /installation/repositories"] = func(w http.ResponseWriter, r *http.Request) {
			asked++
			if w.Header().Set("ETag", `"r"`); r.Header.Get("If-None-Match") == `"r"` {
				unchanged++
				w.WriteHeader(304)
				return
			}
			answer(w, 200, `{"total_count":5,"repositories":`+list+`}`)
		}
		c := newClient(t, s)
		for range 3 {
			got, err := c.Repositories(t.Context(), org)
			if err != nil || !slices.Equal(names(got), []string{"octo-org/new", "Octo-Org/old"}) || !got[0].Public || got[1].Public {
				t.Fatalf("%+v, %v", got, err)
			}
		}
		if asked != 3 || unchanged != 2 {
			t.Errorf("%d times asked, %d unchanged", asked, unchanged)
		}
	})
	t.Run("AppOfAnEnterprise", func(t *testing.T) {
		s := newStub(t)
		s.on["GET /app/installations"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `[{"id":9,"account":{"login":"octo-org","type":"Organization"}},{"id":8,"account":{"slug":"corp"},"target_type":"Enterprise"},
				{"id":7,"account":{"login":"gone","type":"Organization"},"suspended_at":"2026-01-01T00:00:00Z"}]`)
		}
		s.on["GET /installation/repositories"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"repositories":`+list+`}`) }
		got, err := newClient(t, s).Repositories(t.Context(), ent)
		if err != nil || !slices.Equal(names(got), []string{"octo-org/new", "Octo-Org/old"}) {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("Token", func(t *testing.T) {
		s := newStub(t)
		s.on["GET /orgs/Octo-Org/repos"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, list) }
		s.on["GET /user/repos"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, list) }
		c := newClient(t, s, withToken(canaryPAT))
		for scope, want := range map[muster.Scope]int{org: 2, ent: 3, {Kind: muster.ScopeOrganization, Owner: "other"}: 1, repo: 1} {
			if got, err := c.Repositories(t.Context(), scope); err != nil || len(got) != want {
				t.Errorf("%s: %+v, %v", scope, got, err)
			}
		}
	})
	if _, err := newClient(t, newStub(t)).Repositories(t.Context(), muster.Scope{}); muster.CodeOf(err) != muster.CodeInvalid {
		t.Error(err)
	}
}

func TestQueueAgainstTheSimulator(t *testing.T) { // S1-3 S1-29 S1-32 C18
	sim, c := simulator(t, githubsim.Config{NoRateLimits: true}, unpaced)
	for i := range 230 {
		labels := []string{"self-hosted", "linux"}
		if i%10 == 0 {
			labels = append(labels, "gpu")
		}
		if _, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: labels}); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := c.QueueMetrics(t.Context(), "octo-org/app", nil); err != nil || m.QueuedJobs != 230 {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := c.QueueMetrics(t.Context(), "octo-org/app", muster.Labels{"gpu"}); err != nil || m.QueuedJobs != 23 {
		t.Errorf("%+v, %v", m, err)
	}
	got, err := c.Repositories(t.Context(), simOrg)
	if err != nil || len(got) != 2 || got[0].Public == got[1].Public || got[0].PushedAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.TokenRegistration(t.Context(), muster.Scope{Kind: muster.ScopeRepository, Owner: "octo-org", Repo: "app"}, 0); err != nil {
		t.Error(err)
	}
}

// The runs around a time: what a job that was never heard of is looked for in.
func TestRunsCreated(t *testing.T) { // 4-7 4-28
	sim, c := simulator(t, githubsim.Config{NoRateLimits: true}, unpaced)
	for range 230 {
		if _, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"linux"}}); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	for _, tt := range []struct {
		from, to    time.Duration
		most        int
		runs, total int
	}{
		{-time.Hour, time.Hour, 1000, 230, 230},
		{-time.Hour, time.Hour, 150, 200, 230}, // whole pages
		{-time.Hour, time.Hour, 230, 230, 230},
		{-2 * time.Hour, -time.Hour, 1000, 0, 0},
		{time.Hour, 2 * time.Hour, 1000, 0, 0},
	} {
		runs, total, err := c.RunsCreated(t.Context(), "octo-org/app", "queued", now.Add(tt.from), now.Add(tt.to), tt.most)
		if err != nil || len(runs) != tt.runs || total != tt.total {
			t.Errorf("%+v: %d of %d runs, %v", tt, len(runs), total, err)
		}
		if len(runs) > 1 && runs[0].ID < runs[1].ID {
			t.Errorf("%+v: not the newest first", tt)
		}
	}
}
