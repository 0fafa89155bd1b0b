package lifecycle

import (
	"time"

	"go.temporal.io/sdk/workflow"
)

// PoolRef names a pool in workflow inputs.
type PoolRef struct {
	Workspace string
	Pool      string
}

func poolWorkflowID(p PoolRef) string { return "pool/" + p.Workspace + "/" + p.Pool }

// decisionsPerRun bounds one run's history.
const decisionsPerRun = 300

// PoolSize is the single writer of a pool's size. Signals and the poll interval
// wake it; each time it takes one decision from the state of the store (4-3), and
// a thousand signals that arrived meanwhile are answered by one.
func PoolSize(ctx workflow.Context, ref PoolRef) error {
	looks := workflow.GetSignalChannel(ctx, signalLook)
	var a *Activities
	for range decisionsPerRun {
		drainSignals(looks)
		var out Decided
		if err := workflow.ExecuteLocalActivity(local(ctx), a.Decide, ref).Get(ctx, &out); err != nil {
			return err
		}
		if out.Gone {
			return nil
		}
		awaitSignal(ctx, looks, workflow.Now(ctx).Add(out.Wait))
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			break
		}
	}
	// Signals that are not yet received would be lost with this run; the next run
	// decides first thing, so they are answered by its first decision.
	drainSignals(looks)
	return workflow.NewContinueAsNewError(ctx, PoolSize, ref)
}

// Decided is what a decision tells the pool's workflow.
type Decided struct {
	// Wait is how long the decision holds without news.
	Wait time.Duration
	// Gone is set when the pool no longer exists and has no runners.
	Gone bool
}
