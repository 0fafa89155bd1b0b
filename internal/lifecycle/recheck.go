package lifecycle

import (
	"context"
	"fmt"
	"slices"

	"github.com/muster-ci/muster"
)

// RecheckJob asks GitHub about a job that has been in one state for long (4-8).
// The answer goes the way of every event; a job that GitHub no longer knows has
// ended without a runner. While other jobs of its run are open too, GitHub is asked for
// the run: what was lost of one was often lost of others, and it is one call for all.
func (a *Activities) RecheckJob(ctx context.Context, ref JobRef) error {
	j, err := a.Store.Job(ctx, ref.Workspace, ref.Key)
	if err != nil {
		return notFoundIsFinal(err)
	}
	gh, ok := a.GitHub[j.App]
	if !ok || j.State == muster.JobCompleted {
		return nil
	}
	if told, err := a.recheckRun(ctx, gh, j); told || err != nil {
		return err
	}
	e, err := gh.Job(ctx, j.Repository, j.Key.ID)
	if muster.CodeOf(err) == muster.CodeNotFound {
		e = muster.JobEvent{Action: "completed", ID: j.Key.ID, Attempt: j.Key.Attempt, Status: muster.JobCompleted, Conclusion: "cancelled", CompletedAt: a.Now()}
		err = nil
	}
	if err != nil {
		return fmt.Errorf("ask GitHub about job %s: %w", ref.Key, err)
	}
	return a.rechecked(ctx, j, e)
}

// onePage is how many jobs GitHub lists in one call.
const onePage = 100

// recheckRun asks about all jobs of a job's run; told is false where that would tell
// nothing of others, or did not tell of the job itself.
func (a *Activities) recheckRun(ctx context.Context, gh GitHub, j muster.Job) (told bool, err error) {
	if j.RunID == 0 {
		return false, nil
	}
	known, err := a.Store.JobsOfRun(ctx, j.Workspace, j.Repository, j.RunID)
	if err != nil {
		return false, fmt.Errorf("look up the jobs of run %d: %w", j.RunID, err)
	}
	other := slices.ContainsFunc(known, func(k muster.Job) bool { return k.Key != j.Key && k.State != muster.JobCompleted })
	later := slices.ContainsFunc(known, func(k muster.Job) bool { return k.Key.Attempt > j.Key.Attempt }) // GitHub lists the latest
	if !other || later || len(known) > onePage {
		return false, nil
	}
	events, err := gh.RunJobs(ctx, muster.WorkflowRun{
		ID: j.RunID, Attempt: j.Key.Attempt, Repository: j.Repository, PublicRepo: j.PublicRepo,
		Trigger: j.Trigger, Workflow: j.Workflow, HeadBranch: j.HeadBranch, HeadSHA: j.HeadSHA,
	})
	if muster.CodeOf(err) == muster.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask GitHub about run %d: %w", j.RunID, err)
	}
	pools, err := a.Store.Pools(ctx, j.Workspace)
	if err != nil {
		return false, fmt.Errorf("list pools: %w", err)
	}
	for _, e := range events {
		i := slices.IndexFunc(known, func(k muster.Job) bool { return k.Key == e.Key() })
		of := muster.Job{App: j.App, Installation: j.Installation, Repository: j.Repository}
		switch {
		case i >= 0 && known[i].Key != j.Key && known[i].State.Rank() >= e.Status.Rank():
			continue // nothing new of it
		case i >= 0:
			of = known[i]
		default: // no event of it came
			fresh, _, err := muster.Job{}.Apply(e)
			if _, wanted := muster.Route(pools, fresh); err != nil || !wanted || e.NotAJob() {
				continue
			}
		}
		if err := a.rechecked(ctx, of, e); err != nil {
			return false, err
		}
		told = told || e.Key() == j.Key
	}
	return told, nil
}

// rechecked hands on what GitHub answered about a job.
func (a *Activities) rechecked(ctx context.Context, j muster.Job, e muster.JobEvent) error {
	e.Sense, e.ReceivedAt, e.TraceID = muster.SensePoll, a.Now(), j.TraceID
	e.App, e.InstallationID, e.Repository = j.App, j.Installation, j.Repository
	return a.wake.sink(ctx, e)
}
