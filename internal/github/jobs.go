package github

import (
	"context"
	"io"
	"net/http"
	"time"

	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

// Check is muster.Check.
type Check = muster.Check

// Job asks GitHub for a job as it is now, as an event of the poll. CodeNotFound
// means that the job, or the App's access to it, is gone.
func (c *Client) Job(ctx context.Context, repository string, id int64) (muster.JobEvent, error) {
	s, err := repoPath(repository)
	if err != nil {
		return muster.JobEvent{}, err
	}
	var j gh.WorkflowJob
	r := request{
		what:   "look up a job of " + repository,
		method: http.MethodGet,
		route:  route(s, "actions/jobs/{job_id}"),
		path:   path(s, "actions/jobs/%d", id),
		into:   &j,
		lane:   Background,
	}
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return muster.JobEvent{}, err
	}
	if _, err = c.send(ctx, who, r); err != nil {
		return muster.JobEvent{}, err
	}
	if j.GetID() != id {
		return muster.JobEvent{}, muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer is about another job", r.what)
	}
	e := jobEvent(&j)
	e.Repository, e.App, e.InstallationID, e.ReceivedAt = repository, c.cfg.Name, who.installation, time.Now()
	return e, nil
}

// jobEvent converts a job as REST shows it.
func jobEvent(j *gh.WorkflowJob) muster.JobEvent {
	e := muster.JobEvent{
		Sense:       muster.SensePoll,
		ID:          j.GetID(),
		RunID:       j.GetRunID(),
		Attempt:     int(j.GetRunAttempt()),
		Workflow:    j.GetWorkflowName(),
		Name:        j.GetName(),
		HeadBranch:  j.GetHeadBranch(),
		HeadSHA:     j.GetHeadSHA(),
		URL:         j.GetHTMLURL(),
		Conclusion:  j.GetConclusion(),
		Labels:      j.Labels,
		RunnerID:    j.GetRunnerID(),
		RunnerName:  j.GetRunnerName(),
		RunnerGroup: j.GetRunnerGroupName(),
		CreatedAt:   j.GetCreatedAt().UTC(),
		StartedAt:   j.GetStartedAt().UTC(),
		CompletedAt: j.GetCompletedAt().UTC(),
	}
	switch status := muster.JobState(j.GetStatus()); status {
	case "requested", "pending":
		// Not yet up for a runner: created and not queued, or held back by a
		// concurrency limit.
		e.Status = muster.JobWaiting
	default:
		e.Status = status
	}
	e.Action = string(e.Status)
	for _, s := range j.Steps {
		e.Steps = append(e.Steps, muster.Step{
			Number: int(s.GetNumber()), Name: s.GetName(), Status: s.GetStatus(), Conclusion: s.GetConclusion(),
			StartedAt: s.GetStartedAt().UTC(), CompletedAt: s.GetCompletedAt().UTC(),
		})
	}
	return e
}

// JobLog opens the log of a completed job. The caller closes it. CodeNotFound
// until there is one, CodeGone when GitHub has deleted it. The stream ends with an
// error when nothing comes for the client's timeout.
func (c *Client) JobLog(ctx context.Context, repository string, id int64) (io.ReadCloser, error) {
	s, err := repoPath(repository)
	if err != nil {
		return nil, err
	}
	r := request{
		what:   "get the log of a job of " + repository,
		method: http.MethodGet,
		route:  route(s, "actions/jobs/{job_id}/logs"),
		path:   path(s, "actions/jobs/%d/logs", id),
		lane:   Normal,
	}
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return nil, err
	}
	return c.download(ctx, who, r)
}

// CreateCheck writes a check run on a commit and returns its id (S0-8).
func (c *Client) CreateCheck(ctx context.Context, repository string, check Check) (id int64, err error) {
	return c.check(ctx, repository, http.MethodPost, 0, check)
}

// UpdateCheck replaces the status and the text of a check run.
func (c *Client) UpdateCheck(ctx context.Context, repository string, id int64, check Check) error {
	_, err := c.check(ctx, repository, http.MethodPatch, id, check)
	return err
}

func (c *Client) check(ctx context.Context, repository, method string, id int64, check Check) (int64, error) {
	s, err := repoPath(repository)
	if err != nil {
		return 0, err
	}
	type output struct {
		Title   string `json:"title"`
		Summary string `json:"summary"`
	}
	body := struct {
		Name       string  `json:"name,omitempty"`
		HeadSHA    string  `json:"head_sha,omitempty"`
		Status     string  `json:"status,omitempty"`
		Conclusion string  `json:"conclusion,omitempty"`
		ExternalID string  `json:"external_id,omitempty"`
		DetailsURL string  `json:"details_url,omitempty"`
		Output     *output `json:"output,omitempty"`
	}{Name: check.Name, HeadSHA: check.HeadSHA, Status: check.Status, Conclusion: check.Conclusion, ExternalID: check.ExternalID, DetailsURL: check.DetailsURL}
	if check.Title != "" {
		body.Output = &output{check.Title, check.Summary}
	}
	var out struct {
		ID int64 `json:"id"`
	}
	r := request{
		what: "report a check on " + repository, method: method, lane: Background, body: body, into: &out,
		route: route(s, "check-runs"), path: path(s, "check-runs"),
	}
	if id != 0 {
		r.route, r.path = route(s, "check-runs/{check_run_id}"), path(s, "check-runs/%d", id)
		body.HeadSHA = "" // a check run never moves
		r.body = body
	}
	_, err = c.scoped(ctx, s, r)
	return out.ID, err
}
