package api

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type jobs struct{ *API }

func (s jobs) ListJobs(ctx context.Context, req *v1.ListJobsRequest) (*v1.ListJobsResponse, error) {
	limit, err := pageSize(req.PageSize, 50, 500)
	if err != nil {
		return nil, err
	}
	f := JobFilter{Pool: req.Pool, Repository: req.Repository, RunID: req.RunId, Since: when(req.Since), Limit: limit + 1}
	for _, state := range req.States {
		if muster.JobState(state).Rank() == 0 {
			return nil, muster.Errorf(muster.CodeInvalid, "state %q is unknown: use waiting, queued, in_progress or completed", state)
		}
		f.States = append(f.States, muster.JobState(state))
	}
	if f.BeforeID, err = cursor(req.PageToken); err != nil {
		return nil, err
	}
	all, err := s.Store.Jobs(ctx, workspaceOf(ctx), f)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListJobsResponse{}
	if len(all) > limit {
		// The cursor is an id, and attempts share theirs: end the page where the id changes.
		end := limit
		for end > 1 && all[end-1].Key.ID == all[end].Key.ID {
			end--
		}
		all = all[:end]
		resp.NextPageToken = strconv.FormatInt(all[end-1].Key.ID, 10)
	}
	resp.Jobs = each(all, jobOf)
	return resp, nil
}

// cursor reads a page token: the id or number after which the list goes on.
func cursor(token string) (int64, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(token, 10, 64)
	if err != nil || n <= 0 {
		return 0, muster.Errorf(muster.CodeInvalid, "page_token %q is not one that a page gave", token)
	}
	return n, nil
}

func (s jobs) find(ctx context.Context, ref *v1.JobRef) (muster.Job, error) {
	if ref.GetId() <= 0 || ref.GetAttempt() < 0 {
		return muster.Job{}, muster.Errorf(muster.CodeInvalid, "no job is named: give its id")
	}
	var j muster.Job
	var err error
	if ref.Attempt > 0 {
		j, err = s.Store.Job(ctx, workspaceOf(ctx), muster.JobKey{ID: ref.Id, Attempt: int(ref.Attempt)})
	} else {
		j, err = s.Store.JobByID(ctx, workspaceOf(ctx), ref.Id)
	}
	if muster.CodeOf(err) == muster.CodeNotFound && ref.Attempt > 0 {
		if last, err := s.Store.JobByID(ctx, workspaceOf(ctx), ref.Id); err == nil {
			return j, muster.Errorf(muster.CodeNotFound, "job %d has no attempt %d here; the last is %d", ref.Id, ref.Attempt, last.Key.Attempt)
		}
	}
	if muster.CodeOf(err) == muster.CodeNotFound {
		return j, muster.Errorf(muster.CodeNotFound, "there is no job %d here: either its labels match no pool (such jobs are counted, not kept), or GitHub has not told of it; muster delivery list shows what arrived", ref.Id)
	}
	return j, err
}

func (s jobs) GetJob(ctx context.Context, req *v1.GetJobRequest) (*v1.GetJobResponse, error) {
	j, err := s.find(ctx, req.Job)
	if err != nil {
		return nil, err
	}
	resp := &v1.GetJobResponse{Job: jobOf(j)}
	sightings, err := s.Store.Sightings(ctx, j.Workspace, j.Key)
	if err != nil {
		return nil, err
	}
	resp.Sightings = each(sightings, sightingOf)
	receipt, err := s.Store.Receipt(ctx, j.Workspace, j.Key)
	switch {
	case err == nil:
		resp.Receipt = receiptOf(receipt)
	case muster.CodeOf(err) != muster.CodeNotFound:
		return nil, err
	}
	var runner muster.Runner
	if j.Runner != "" {
		if runner, err = s.Store.Runner(ctx, j.Workspace, j.Runner); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return nil, err
		}
	}
	var decision muster.DecisionRecord
	if j.Pool != "" {
		recent, err := s.Store.Decisions(ctx, j.Workspace, j.Pool, 500)
		if err != nil {
			return nil, err
		}
		decision = firstAnswer(recent, j)
	}
	resp.Timeline = timeline(j, runner, decision)
	if s.Traces != nil {
		resp.Traces, resp.NoTrace, err = traces(s).ofJob(ctx, j)
	}
	return resp, err
}

// firstAnswer is the first decision to create a runner while the job was queued;
// zero if there was none. The job started within the second that GitHub names.
func firstAnswer(newestFirst []muster.DecisionRecord, j muster.Job) muster.DecisionRecord {
	for _, d := range slices.Backward(newestFirst) {
		if d.Decision.Create > 0 && !d.At.Before(j.SeenAt) && (j.StartedAt.IsZero() || d.At.Before(j.StartedAt.Add(time.Second))) {
			return d
		}
	}
	return muster.DecisionRecord{}
}

// within is GitHub's time t, which has no fractions of a second, or the later
// moment of that same second before which it cannot have been.
func within(t, notBefore time.Time) time.Time {
	if notBefore.After(t) && notBefore.Before(t.Add(time.Second)) {
		return notBefore
	}
	return t
}

// timeline is what happened to a job, oldest first. GitHub's times are whole
// seconds: within one, cause stands before effect. Otherwise its clock and ours
// are believed, so that neighbours may be out of order by their difference.
func timeline(j muster.Job, r muster.Runner, d muster.DecisionRecord) []*v1.Moment {
	type moment struct {
		at         time.Time
		what, text string
	}
	var ms []moment
	add := func(at time.Time, what, format string, args ...any) {
		if !at.IsZero() {
			ms = append(ms, moment{at, what, fmt.Sprintf(format, args...)})
		}
	}
	add(j.CreatedAt, "created", "GitHub created the job")
	add(j.SeenAt, "seen", "Muster first heard of it")
	add(d.At, "decided", "pool %s decided: %s", d.Pool, d.Decision.Reason)
	add(r.CreatedAt, "runner_created", "runner %s was asked for", r.ID)
	add(r.LaunchedAt, "runner_launched", "provider %s accepted", r.Provider)
	add(r.ConnectedAt, "runner_connected", "its agent connected")
	add(r.ListeningAt, "runner_listening", "it listened for jobs")
	if j.RanOnRunner() {
		add(within(j.StartedAt, r.ListeningAt), "started", "runner %s took the job", j.RunnerName)
	}
	add(within(j.CompletedAt, within(j.StartedAt, r.ListeningAt)), "completed", "the job ended: %s", cmp.Or(j.Conclusion, "no conclusion"))
	add(r.FinishedAt, "runner_finished", "runner %s ended", r.ID)
	add(r.DestroyedAt, "runner_destroyed", "its machine and registration were gone")
	slices.SortStableFunc(ms, func(a, b moment) int { return a.at.Compare(b.at) })
	return each(ms, func(m moment) *v1.Moment { return &v1.Moment{At: stamp(m.at), What: m.what, Text: m.text} })
}

func (s jobs) ExplainJob(ctx context.Context, req *v1.ExplainJobRequest) (*v1.ExplainJobResponse, error) {
	j, err := s.find(ctx, req.Job)
	if err != nil {
		return nil, err
	}
	sit, last, err := s.Situation(ctx, j)
	if err != nil {
		return nil, err
	}
	resp := &v1.ExplainJobResponse{Job: jobOf(j), Causes: each(muster.Explain(sit, s.Now()), causeOf), Ahead: int32(sit.Ahead)}
	if !last.At.IsZero() {
		resp.LastDecision = decisionOf(last)
	}
	return resp, nil
}

// Situation gathers all that muster.Explain looks at, and the last decision of
// the job's pool (zero if there is none).
func (a *API) Situation(ctx context.Context, j muster.Job) (sit muster.Situation, last muster.DecisionRecord, err error) {
	sit.Job = j
	if sit.Pools, err = a.Store.Pools(ctx, j.Workspace); err != nil {
		return sit, last, err
	}
	if err := a.keptOf(ctx, &sit); err != nil {
		return sit, last, err
	}
	if j.Pool == "" {
		return sit, last, a.surroundings(ctx, &sit)
	}
	if sit.Snapshot, err = a.Snapshot(ctx, j.Workspace, j.Pool); err != nil {
		return sit, last, err
	}
	if last, _, err = a.Store.LastDecision(ctx, j.Workspace, j.Pool); err != nil {
		return sit, last, err
	}
	sit.Decision, sit.DecidedAt = last.Decision, last.At
	if last.LastAt.After(last.At) {
		sit.DecidedAt = last.LastAt
	}
	if sit.Ahead, err = a.Store.Ahead(ctx, j.Workspace, j.Pool, j.CreatedAt); err != nil {
		return sit, last, err
	}
	sit.ProviderError, sit.ProviderErrorAt = a.Commands.ProviderRefusal(ctx, j.Workspace, j.Pool)
	if j.State == muster.JobQueued {
		made, err := a.Store.Runners(ctx, j.Workspace, RunnerFilter{Pool: j.Pool, Live: true, Limit: 50})
		if err != nil {
			return sit, last, err
		}
		sit.Queued = queued(made)
		if sit.StolenBy, err = a.stolenBy(ctx, j, made); err != nil {
			return sit, last, err
		}
	}
	return sit, last, a.surroundings(ctx, &sit)
}

// queued are those of a pool's runners whose machines wait in their platform's own queue.
func queued(made []muster.Runner) (out []muster.QueuedRunner) {
	for _, r := range made {
		if r.Queued != "" && r.State == muster.RunnerProvisioning && r.ConnectedAt.IsZero() {
			out = append(out, muster.QueuedRunner{ID: r.ID, For: r.For, Provider: r.Provider, Words: r.Queued, Since: r.LaunchedAt})
		}
	}
	return out
}

// stolenBy names the job that took one of the pool's live runners which was made after j
// was queued, although j was first: a younger job of the same pool, or a job of another
// pool (4-1, 4-2). "" if there is none.
func (a *API) stolenBy(ctx context.Context, j muster.Job, made []muster.Runner) (string, error) {
	for _, r := range made {
		if r.Job == (muster.JobKey{}) || r.Job == j.Key || r.CreatedAt.Before(j.SeenAt) {
			continue
		}
		other, err := a.Store.Job(ctx, j.Workspace, r.Job)
		switch {
		case muster.CodeOf(err) == muster.CodeNotFound:
		case err != nil:
			return "", err
		case other.Pool != j.Pool || other.CreatedAt.After(j.CreatedAt):
			return fmt.Sprintf("%s (%s of %s)", other.Key, other.Name, other.Repository), nil
		}
	}
	return "", nil
}

func (s jobs) GetJobLog(ctx context.Context, req *v1.GetJobLogRequest, stream *connect.ServerStream[v1.GetJobLogResponse]) error {
	j, err := s.find(ctx, req.Job)
	if err != nil {
		return err
	}
	if j.State != muster.JobCompleted {
		return muster.Errorf(muster.CodeNotFound, "job %s is %s: GitHub gives a log when the job has completed; muster runner log %s shows what its runner prints", j.Key, j.State, cmp.Or(string(j.Runner), "RUNNER"))
	}
	log, err := s.JobLogs.JobLog(ctx, j.App, j.Repository, j.Key.ID)
	if err != nil {
		return err
	}
	defer log.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if err := stream.Send(&v1.GetJobLogResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log of job %s: %w", j.Key, err)
		}
	}
}
