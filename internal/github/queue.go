package github

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	gh "github.com/google/go-github/v88/github"
	"golang.org/x/sync/errgroup"

	"github.com/muster-ci/muster"
)

const (
	// maxSearch is how many runs GitHub shows of a list with a filter
	// (docs.github.com, "List workflow runs for a repository").
	maxSearch = 1000
	// runsPerPage is the most that GitHub gives in one page.
	runsPerPage = 100
	// maxJobPages bounds the jobs of one run: a run has at most a few matrices of
	// 256 jobs each.
	maxJobPages = 100
	// lookAhead is how many calls of one count are under way at a time.
	lookAhead = 4
)

// Runs lists the runs of a repository (owner/name) in one status, such as
// "queued", newest first. GitHub shows no more than 1,000; total says how many it
// counts, so that total > len(runs) means that the list is cut. Lists that did not
// change cost nothing of the rate limit.
func (c *Client) Runs(ctx context.Context, repository, status string) (runs []muster.WorkflowRun, total int, err error) {
	return c.runs(ctx, repository, status, "", maxSearch)
}

// RunsCreated is Runs for the runs created between two times by GitHub's clock,
// the newest of them up to most, in whole pages of 100.
func (c *Client) RunsCreated(ctx context.Context, repository, status string, from, to time.Time, most int) (runs []muster.WorkflowRun, total int, err error) {
	const layout = "2006-01-02T15:04:05Z"
	return c.runs(ctx, repository, status, from.UTC().Format(layout)+".."+to.UTC().Format(layout), min(most, maxSearch))
}

// runs lists the runs in one status, those created in a span if one is given, and
// reads pages until it has most of them.
func (c *Client) runs(ctx context.Context, repository, status, created string, most int) (runs []muster.WorkflowRun, total int, err error) {
	type run struct {
		ID         int64        `json:"id"`
		Attempt    int          `json:"run_attempt"`
		Name       string       `json:"name"`
		Status     string       `json:"status"`
		Event      string       `json:"event"`
		HeadBranch string       `json:"head_branch"`
		HeadSHA    string       `json:"head_sha"`
		CreatedAt  gh.Timestamp `json:"created_at"`
		UpdatedAt  gh.Timestamp `json:"updated_at"`
		Repository struct {
			ID      int64 `json:"id"`
			Private *bool `json:"private"`
		} `json:"repository"`
	}
	var page struct {
		Total int    `json:"total_count"`
		Runs  *[]run `json:"workflow_runs"`
	}
	s, err := repoPath(repository)
	if err != nil {
		return nil, 0, err
	}
	r := request{
		what: "list the " + status + " runs of " + repository, method: http.MethodGet, lane: Background, into: &page,
		route: route(s, "actions/runs"), path: path(s, "actions/runs?status=%s&per_page=100", url.QueryEscape(status)),
	}
	if created != "" {
		r.path += "&created=" + url.QueryEscape(created)
	}
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return nil, 0, err
	}
	runs = []muster.WorkflowRun{}
	seen := map[int64]bool{} // a page repeats what moved while we turned it
	pages, complete := 0, true
	err = c.pages(ctx, who, r, maxSearch/runsPerPage+1, func() bool {
		if complete = page.Runs != nil; !complete {
			return false
		}
		for _, one := range *page.Runs {
			if seen[one.ID] || one.ID == 0 {
				continue
			}
			seen[one.ID] = true
			runs = append(runs, muster.WorkflowRun{
				ID: one.ID, Attempt: max(1, one.Attempt), Repository: repository, RepositoryID: one.Repository.ID,
				// Not said to be private counts as public: kept machines refuse it (4-31).
				PublicRepo: one.Repository.Private == nil || !*one.Repository.Private,
				Status:     one.Status, Trigger: one.Event, Workflow: one.Name, HeadBranch: one.HeadBranch, HeadSHA: one.HeadSHA,
				CreatedAt: one.CreatedAt.UTC(), UpdatedAt: one.UpdatedAt.UTC(),
			})
		}
		total = max(total, page.Total)
		page.Runs = nil
		pages++
		return pages*runsPerPage < most
	})
	if err == nil && !complete {
		err = muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer has no list", r.what)
	}
	if err != nil {
		return nil, 0, err
	}
	if total <= most {
		total = len(runs) // all pages were read; what GitHub counted has moved meanwhile
	}
	return runs, total, nil
}

// RunJobs lists the jobs of a run's latest attempt, whatever their state, as
// events of the poll that know what started the run. A list that cannot be read to
// its end is an error, never a shorter list.
func (c *Client) RunJobs(ctx context.Context, run muster.WorkflowRun) ([]muster.JobEvent, error) {
	var page struct {
		Jobs *[]gh.WorkflowJob `json:"jobs"`
	}
	s, err := repoPath(run.Repository)
	if err != nil {
		return nil, err
	}
	r := request{
		what: "list the jobs of a run of " + run.Repository, method: http.MethodGet, lane: Background, into: &page,
		route: route(s, "actions/runs/{run_id}/jobs"), path: path(s, "actions/runs/%d/jobs?filter=latest&per_page=100", run.ID),
	}
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return nil, err
	}
	events := []muster.JobEvent{}
	seen := map[int64]bool{}
	complete := true
	err = c.pages(ctx, who, r, maxJobPages, func() bool {
		if complete = page.Jobs != nil; !complete {
			return false
		}
		now := time.Now()
		for i := range *page.Jobs {
			e := jobEvent(&(*page.Jobs)[i])
			if seen[e.ID] || e.ID == 0 {
				continue
			}
			seen[e.ID] = true
			e.App, e.InstallationID, e.ReceivedAt = c.cfg.Name, who.installation, now
			e.Repository, e.RepositoryID, e.PublicRepo, e.Trigger = run.Repository, run.RepositoryID, run.PublicRepo, run.Trigger
			e.RunID = cmp.Or(e.RunID, run.ID)
			e.Workflow, e.HeadBranch, e.HeadSHA = cmp.Or(e.Workflow, run.Workflow), cmp.Or(e.HeadBranch, run.HeadBranch), cmp.Or(e.HeadSHA, run.HeadSHA)
			events = append(events, e)
		}
		page.Jobs = nil
		return true
	})
	if err == nil && !complete {
		err = muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer has no list", r.what)
	}
	if err != nil {
		return nil, err
	}
	return events, nil
}

// Repositories lists the repositories below a scope that the client may see, those
// pushed to most recently first. For an App these are the repositories that it is
// installed on; an enterprise's are those of all the App's installations, as GitHub
// lets nobody look at an enterprise's repositories as a whole.
func (c *Client) Repositories(ctx context.Context, s muster.Scope) ([]muster.RemoteRepository, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	var found []muster.RemoteRepository
	var err error
	switch {
	case s.Kind == muster.ScopeRepository:
		// One more call would only tell what the runs tell too.
		return []muster.RemoteRepository{{Name: s.Owner + "/" + s.Repo}}, nil
	case c.token != nil && s.Kind == muster.ScopeOrganization:
		found, err = c.repositories(ctx, c.token, s, "orgs/{org}/repos", s.Path()+"/repos?type=all&sort=pushed&direction=desc&per_page=100")
		if muster.CodeOf(err) == muster.CodeNotFound { // a user's account
			found, err = c.repositories(ctx, c.token, s, "user/repos", "user/repos?affiliation=owner&sort=pushed&direction=desc&per_page=100")
		}
	case c.token != nil:
		found, err = c.repositories(ctx, c.token, s, "user/repos", "user/repos?affiliation=owner,collaborator,organization_member&sort=pushed&direction=desc&per_page=100")
	case s.Kind == muster.ScopeOrganization:
		found, err = c.repositoriesOf(ctx, s)
	default:
		found, err = c.repositoriesOfAll(ctx)
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found, func(a, b muster.RemoteRepository) int {
		return cmp.Or(b.PushedAt.Compare(a.PushedAt), cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}

const installedRepositories = "installation/repositories"

// repositoriesOf lists what the App is installed on in one account.
func (c *Client) repositoriesOf(ctx context.Context, s muster.Scope) ([]muster.RemoteRepository, error) {
	who, err := c.scopedAs(ctx, s, request{what: "list the repositories of " + s.String()})
	if err != nil {
		return nil, err
	}
	return c.repositories(ctx, who, s, installedRepositories, installedRepositories+"?per_page=100")
}

// repositoriesOfAll lists what the App is installed on anywhere.
func (c *Client) repositoriesOfAll(ctx context.Context) ([]muster.RemoteRepository, error) {
	installations, err := c.Installations(WithLane(ctx, Background))
	if err != nil {
		return nil, err
	}
	var all []muster.RemoteRepository
	for _, in := range installations {
		s := muster.Scope{Kind: muster.ScopeOrganization, Owner: in.Account}
		if in.State != "active" || in.AccountType == "Enterprise" || s.Validate() != nil {
			continue // an enterprise's own installation has no repositories
		}
		some, err := c.repositoriesOf(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// repositories reads one of GitHub's lists of repositories, which come as an array
// or as an object around it, and leaves out what the scope does not cover and what
// is archived, where nothing can run.
func (c *Client) repositories(ctx context.Context, who *identity, s muster.Scope, route, path string) ([]muster.RemoteRepository, error) {
	var page repositoryPage
	r := request{what: "list the repositories of " + s.String(), method: http.MethodGet, lane: Background, route: route, path: path, into: &page}
	found := []muster.RemoteRepository{}
	seen := map[string]bool{}
	complete := true
	err := c.pages(ctx, who, r, maxListPages, func() bool {
		if complete = page.list != nil; !complete {
			return false
		}
		for _, one := range page.list {
			if seen[one.Name] || one.Archived || one.Disabled || !s.Covers(one.Name) {
				continue
			}
			seen[one.Name] = true
			found = append(found, muster.RemoteRepository{Name: one.Name, Public: !one.Private, PushedAt: one.PushedAt.UTC()})
		}
		page.list = nil
		return true
	})
	if err == nil && !complete {
		err = muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer has no list", r.what)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

type repositoryPage struct {
	list []struct {
		Name     string       `json:"full_name"`
		Private  bool         `json:"private"`
		Archived bool         `json:"archived"`
		Disabled bool         `json:"disabled"`
		PushedAt gh.Timestamp `json:"pushed_at"`
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *repositoryPage) UnmarshalJSON(b []byte) error {
	if trimmed := bytes.TrimSpace(b); len(trimmed) > 0 && trimmed[0] == '[' {
		return json.Unmarshal(b, &p.list)
	}
	around := struct {
		Repositories any `json:"repositories"`
	}{&p.list}
	return json.Unmarshal(b, &around)
}

// ActiveJobs lists the jobs of every queued and in-progress run of a repository,
// as events of the poll: a run in progress holds queued jobs too (C18). Jobs of
// those runs that are completed or wait for an approval are among them. It fails
// as a whole rather than leave a run out; runs beyond the 1,000 that GitHub shows
// are missing, and the log says so.
func (c *Client) ActiveJobs(ctx context.Context, repository string) ([]muster.JobEvent, error) {
	active := map[int64]muster.WorkflowRun{} // a run may begin while we turn from one list to the other
	for _, status := range []string{"queued", "in_progress"} {
		runs, total, err := c.Runs(ctx, repository, status)
		if err != nil {
			return nil, err
		}
		if total > len(runs) {
			c.cfg.Logger.WarnContext(ctx, "GitHub shows only some of the runs", "repository", repository, "status", status, "shown", len(runs), "total", total)
		}
		for _, run := range runs {
			active[run.ID] = run
		}
	}
	var (
		mu     sync.Mutex
		events []muster.JobEvent
	)
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(lookAhead)
	for _, run := range active {
		calls.Go(func() error {
			some, err := c.RunJobs(ctx, run)
			if muster.CodeOf(err) == muster.CodeNotFound {
				return nil // deleted since
			}
			mu.Lock()
			defer mu.Unlock()
			events = append(events, some...)
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(events, func(a, b muster.JobEvent) int { return cmp.Compare(a.ID, b.ID) })
	return events, nil
}

// QueueMetrics counts the jobs of a repository that are queued and in progress
// (S1-29). With labels only those are counted that a runner with these labels and
// the automatic ones would serve: all labels among the job's, and all of the job's
// among the runner's (C8); without, all. GitHub knows no pools, so that no runner
// covers a job here and PendingJobs is QueuedJobs; muster.Plan is who takes away
// what idle and starting runners cover (C19).
func (c *Client) QueueMetrics(ctx context.Context, repository string, labels muster.Labels) (muster.QueueMetrics, error) {
	if err := labels.Validate(); err != nil {
		return muster.QueueMetrics{}, err
	}
	events, err := c.ActiveJobs(ctx, repository)
	if err != nil {
		return muster.QueueMetrics{}, err
	}
	m := muster.QueueMetrics{Timestamp: time.Now()}
	runner := muster.Pool{Labels: labels}.WithDefaults().RunnerLabels
	for _, e := range events {
		if len(labels) > 0 && !muster.MatchLabels(labels, runner, e.Labels).Serves() {
			continue
		}
		switch e.Status {
		case muster.JobQueued:
			m.QueuedJobs++
		case muster.JobInProgress:
			m.InProgressJobs++
		}
	}
	m.PendingJobs, m.TotalJobs = m.QueuedJobs, m.QueuedJobs+m.InProgressJobs
	return m, nil
}

// PendingJobCount is PendingJobs of QueueMetrics (S1-34).
func (c *Client) PendingJobCount(ctx context.Context, repository string, labels muster.Labels) (int, error) {
	m, err := c.QueueMetrics(ctx, repository, labels)
	return m.PendingJobs, err
}
