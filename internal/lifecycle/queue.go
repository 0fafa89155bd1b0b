package lifecycle

import (
	"context"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// A machine of some platforms waits in the platform's own queue first, for a day
// perhaps. This is what is remembered of that wait, and what the machine is launched
// with so that it needs nothing that expires in it.

// noteQueue keeps what the platform says of a machine that has not called yet: why it
// waits, for operators, and when it was first seen to run, from when it has
// Backend.ConnectTimeout to call.
func (a *Activities) noteQueue(ctx context.Context, r muster.Runner, in provider.Instance) error {
	if !a.Backends[r.Provider].Queues || !r.ConnectedAt.IsZero() || !r.UpAt.IsZero() {
		return nil
	}
	if in.State == provider.InstanceStarting && a.unwanted(ctx, r) {
		return a.askToDrain(ctx, r.Workspace, r.ID, "no job waits for it any more")
	}
	reason := "waits at provider " + r.Provider + ": " + in.Detail
	note := reason
	if in.State == provider.InstanceRunning {
		reason, note = "machine runs since "+a.Now().UTC().Format("15:04:05"), "machine runs: "+in.Detail
	} else if r.Reason == reason {
		return nil
	}
	_, err := a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), note, func(r *muster.Runner) error {
		if r.State != muster.RunnerProvisioning || !r.ConnectedAt.IsZero() {
			return nil
		}
		r.Reason, r.Queued = reason, in.Detail
		if in.State == provider.InstanceRunning {
			r.UpAt, r.Queued = a.Now(), ""
		}
		return nil
	})
	return err
}

// unwanted reports whether a machine that still waits in its platform's queue is to be
// taken out of it (4-42): the job that it was made for waits no more, and there are more
// runners without a job than jobs that wait. What cannot be learnt keeps it.
func (a *Activities) unwanted(ctx context.Context, r muster.Runner) bool {
	if r.Warm || r.For == 0 || r.Drain != "" || r.Purpose != "" {
		return false
	}
	j, err := a.Store.JobByID(ctx, r.Workspace, r.For)
	if err != nil || j.State == muster.JobQueued || j.State == muster.JobWaiting {
		return false
	}
	snap, err := a.Store.PoolSnapshot(ctx, r.Workspace, r.Pool)
	if err != nil {
		return false
	}
	wait, free := snap.Unnamed, 0
	for _, j := range snap.Jobs {
		if j.State == muster.JobQueued {
			wait++
		}
	}
	for _, other := range snap.Runners {
		if !other.Busy && other.State != muster.RunnerActive && other.State != muster.RunnerDraining {
			free++
		}
	}
	return wait < free
}

// build is the build request that a runner is launched with. A runner of the floor is
// for no job, and one whose job is not known any more is for its place alone.
func (a *Activities) build(ctx context.Context, r muster.Runner, pool muster.Pool) muster.BuildRequest {
	web := strings.TrimRight(a.WebURL[pool.App], "/")
	b := muster.BuildRequest{Owner: pool.Scope.Owner, GitHubURL: web + "/" + pool.Scope.String(), Labels: strings.Join(pool.Labels, ",")}
	if pool.Scope.Kind == muster.ScopeRepository {
		b.Repository, b.RepositoryURL = pool.Scope.Repo, b.GitHubURL
	}
	if r.For == 0 {
		return b
	}
	j, err := a.Store.JobByID(ctx, r.Workspace, r.For)
	if err != nil {
		return b // the token says less of why; what it allows is the same
	}
	b.Job, b.Labels = r.For, strings.Join(j.Labels, ",")
	if owner, name, ok := strings.Cut(j.Repository, "/"); ok {
		b.Owner, b.Repository, b.RepositoryURL = owner, name, web+"/"+j.Repository
	}
	return b
}
