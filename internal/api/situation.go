package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/schedule"
)

const (
	// groupAfter is how long a job waits before its runner group is asked about,
	// which costs one of GitHub's calls.
	groupAfter = time.Minute
	// lostAfter is how long after its runner's end a job may still be told to run:
	// the news that it completed may be on its way.
	lostAfter = time.Minute
)

// Snapshot is what the next decision about a pool would be taken from: the
// store's, with the windows of its schedules, what its project spent, and how
// its canary stood at the last decision.
func (a *API) Snapshot(ctx context.Context, workspace, pool string) (muster.Snapshot, error) {
	snap, err := a.Store.PoolSnapshot(ctx, workspace, pool)
	if err != nil {
		return snap, err
	}
	now := a.Now()
	if snap.Listens() {
		runners, err := a.Store.Runners(ctx, workspace, RunnerFilter{Pool: pool, Limit: muster.Sayers})
		if err != nil {
			return snap, err
		}
		snap.Hear(runners, now)
	}
	if len(snap.Pool.Schedules) > 0 {
		if snap.Windows, err = schedule.Windows(snap.Pool.Schedules, now); err != nil {
			return snap, fmt.Errorf("schedules of pool %s: %w", pool, err)
		}
	}
	for _, b := range a.CostBudgets {
		if b.Project != snap.Pool.Project {
			continue
		}
		spent, err := a.Store.SpentSince(ctx, workspace, b.Project, monthOf(now))
		if err != nil {
			return snap, err
		}
		snap.Spending = b.Spend(spent)
		break
	}
	if snap.Pool.Canary.Offering != "" {
		last, err := a.Store.DecisionAt(ctx, workspace, pool, now)
		switch {
		case err == nil && last.Snapshot.Pool.Canary == snap.Pool.Canary:
			snap.Canary = last.Snapshot.Canary
		case err != nil && muster.CodeOf(err) != muster.CodeNotFound:
			return snap, err
		}
	}
	return snap, nil
}

// monthOf is the first moment of a time's month, UTC.
func monthOf(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// keptOf adds what is known of kept machines: all of them, because the labels of
// their runners decide which pool a job is for, and what runs on the job's own.
func (a *API) keptOf(ctx context.Context, sit *muster.Situation) (err error) {
	if !slices.ContainsFunc(sit.Pools, muster.Pool.Keeps) {
		return nil
	}
	if sit.Machines, err = a.Store.Machines(ctx, sit.Job.Workspace); err != nil {
		return err
	}
	for _, p := range sit.Pools {
		if p.Name != sit.Job.Pool || !p.Keeps() {
			continue
		}
		d, err := a.Store.MachineDemand(ctx, sit.Job.Workspace, p.MachineID())
		if err != nil {
			return err
		}
		sit.OnMachine = d.Running
	}
	return nil
}

// surroundings adds to a situation what lies outside of the pool: how GitHub
// treats us, what the App and the runner group allow, what became of the runner,
// and who told of the job.
func (a *API) surroundings(ctx context.Context, sit *muster.Situation) error {
	j, now := sit.Job, a.Now()
	if j.State == muster.JobCompleted {
		return nil
	}
	if err := a.lost(ctx, sit); err != nil {
		return err
	}
	seen, err := a.Store.Sightings(ctx, j.Workspace, j.Key)
	if err != nil {
		return err
	}
	sit.SeenOnlyByPoll = len(seen) > 0
	for _, s := range seen {
		sit.SeenOnlyByPoll = sit.SeenOnlyByPoll && s.Sense == muster.SensePoll
	}
	health, err := a.Monitor.Health(ctx, j.Workspace)
	if err != nil {
		return err
	}
	owner, _, _ := strings.Cut(j.Repository, "/")
	for _, b := range health.Budgets {
		if b.App != j.App || b.Account != "token" && !strings.EqualFold(b.Account, owner) {
			continue
		}
		switch {
		case b.PausedUntil.After(now):
			sit.GitHubPaused = b.PausedUntil
		case b.Limit > 0 && b.Remaining == 0 && b.ResetAt.After(now):
			sit.GitHubPaused = b.ResetAt
		default:
			continue
		}
		if b.Limit > 0 {
			sit.GitHubWords = fmt.Sprintf("%d of %d calls used", b.Limit-b.Remaining, b.Limit)
		}
	}
	if a.Access == nil {
		return nil
	}
	sit.AppProblem = a.Access.AppProblem(ctx, j.App, owner)
	sit.ScaleSetProblem = a.Access.ScaleSetProblem(sit.Snapshot.Pool)
	// The runner of a kept machine is in the group that its operator registered it in.
	if queued := j.QueuedAt(); j.State == muster.JobQueued && j.Pool != "" && !sit.Snapshot.Pool.Keeps() && !queued.IsZero() && now.Sub(queued) >= groupAfter {
		sit.GroupProblem = a.Access.GroupProblem(ctx, sit.Snapshot.Pool, j)
	}
	return nil
}

// lost says what became of the runner of a job that is told to run on it.
func (a *API) lost(ctx context.Context, sit *muster.Situation) error {
	j := sit.Job
	if j.State != muster.JobInProgress || j.Runner == "" {
		return nil
	}
	r, err := a.Store.Runner(ctx, j.Workspace, j.Runner)
	switch {
	case muster.CodeOf(err) == muster.CodeNotFound:
		sit.RunnerLost = "nothing is known of it any more"
	case err != nil:
		return err
	case r.State == muster.RunnerDestroyed && a.Now().Sub(r.DestroyedAt) >= lostAfter, r.Failed:
		sit.RunnerLost = r.Reason
		if sit.RunnerLost == "" {
			sit.RunnerLost = "it is " + string(r.State)
		}
	}
	return nil
}
