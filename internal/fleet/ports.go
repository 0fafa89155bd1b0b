package fleet

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
)

// Provisioner is GitHub's side of a runner: registering and deregistering.
// Errors carry a muster.Code: exists, busy, not_found, unavailable with RetryAfter.
type Provisioner interface {
	// GenerateJIT registers a runner for one job and returns what it starts with.
	GenerateJIT(ctx context.Context, scope muster.Scope, name string, group int64, labels muster.Labels) (muster.JIT, error)
	// RemoveRunner deregisters; CodeBusy while a job runs.
	RemoveRunner(ctx context.Context, scope muster.Scope, id int64) error
	Runner(ctx context.Context, scope muster.Scope, id int64) (muster.RemoteRunner, error)
	RunnerByName(ctx context.Context, scope muster.Scope, name string) (muster.RemoteRunner, error)
	// Runners is the whole list or an error, never a part of it.
	Runners(ctx context.Context, scope muster.Scope) ([]muster.RemoteRunner, error)
	Downloads(ctx context.Context, scope muster.Scope) ([]muster.RunnerDownload, error)
}

// QueueMonitor tells the demand on a repository.
type QueueMonitor interface {
	// ActiveJobs are all jobs that are queued or in progress, perhaps with others
	// of the same runs, or an error: a part of them would read as less demand (4-27).
	ActiveJobs(ctx context.Context, repository string) ([]muster.JobEvent, error)
	// Stretch is by how much checks should be spaced out to spare the rate limit:
	// 1, more, or 0 for not now. It makes no call.
	Stretch(scope muster.Scope) int
}

// Autoscaler decides from a snapshot and the time, and from nothing else.
// muster.Plan is one.
type Autoscaler func(muster.Snapshot, time.Time) muster.Decision

// Memory keeps the little that neither GitHub nor a platform can tell.
type Memory interface {
	// Load returns when each pool was last scaled; empty if nothing was saved.
	Load() (map[string]time.Time, error)
	Save(map[string]time.Time) error
}
