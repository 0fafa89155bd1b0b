package lifecycle

import (
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster"
)

// Signals of a runner's workflow. They say only that something changed; what
// changed is in the runner's row.
const signalLook = "look"

// RunnerRef names a runner in workflow inputs.
type RunnerRef struct {
	Workspace string
	ID        muster.RunnerID
}

func runnerWorkflowID(id muster.RunnerID) string { return "runner/" + string(id) }

// launchAttempts is how often a provider that fails for now is asked for one
// machine before the runner is given up and the pool decides anew.
const launchAttempts = 3

// stepsPerRun bounds one run's history; a long-lived runner continues as new.
const stepsPerRun = 200

// RunnerLife is the life of one runner: launch, wait, probe, deregister, destroy.
// Each turn looks at the runner's row, and a pure function says what to do; every
// way out passes through destroy. It ends when the machine is proven gone.
func RunnerLife(ctx workflow.Context, ref RunnerRef) error {
	looks := workflow.GetSignalChannel(ctx, signalLook)
	var a *Activities
	// The first step is known: nothing but this workflow launches the runner, and
	// Launch does nothing when an earlier run has done it.
	s := step{Act: actLaunch}
	for range stepsPerRun {
		switch s.Act {
		case actDone:
			return nil
		case actWait:
			awaitSignal(ctx, looks, s.Until)
		case actLaunch:
			// A failure has been written to the row by the activity; looking again
			// decides what follows from it.
			_ = workflow.ExecuteActivity(providerCall(ctx, launchAttempts), a.Launch, ref).Get(ctx, nil)
		case actProbe:
			var ended bool
			if err := workflow.ExecuteActivity(providerCall(ctx, 3), a.Probe, ref).Get(ctx, &ended); err != nil || !ended {
				// Alive, or unknown, which counts as alive and busy (4-18).
				awaitSignal(ctx, looks, s.Until)
			}
		case actDeregister:
			_ = workflow.ExecuteActivity(githubCall(ctx), a.Deregister, ref, s).Get(ctx, nil)
		case actDestroy:
			// Unlimited attempts: a machine that costs something is never given up.
			err := workflow.ExecuteActivity(providerCall(ctx, 0), a.Destroy, ref, s).Get(ctx, nil)
			drainSignals(looks) // news of a runner that is gone
			return err
		}
		drainSignals(looks)
		if err := workflow.ExecuteLocalActivity(local(ctx), a.LookAtRunner, ref).Get(ctx, &s); err != nil {
			return err
		}
	}
	return workflow.NewContinueAsNewError(ctx, RunnerLife, ref)
}

// awaitSignal returns at a signal or at a time, whichever is first.
func awaitSignal(ctx workflow.Context, ch workflow.ReceiveChannel, until time.Time) {
	timerCtx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	sel := workflow.NewSelector(ctx).AddReceive(ch, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) })
	if !until.IsZero() {
		sel.AddFuture(workflow.NewTimer(timerCtx, max(0, until.Sub(workflow.Now(ctx)))), func(workflow.Future) {})
	}
	sel.Select(ctx)
}

// drainSignals takes the signals that have already arrived: one look answers them all.
func drainSignals(ch workflow.ReceiveChannel) {
	for ch.ReceiveAsync(nil) {
	}
}

// local is the context of short, idempotent steps on the store.
func local(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout: 20 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
	})
}

// providerCall is the context of a call to a platform; attempts 0 means for ever.
func providerCall(ctx workflow.Context, attempts int32) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 5 * time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute,
			MaximumAttempts: attempts, NonRetryableErrorTypes: []string{finalError},
		},
	})
}

// githubCall is the context of a call to GitHub that is repeated for as long as
// it takes: rate limits and outages park it (S1-106).
func githubCall(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 2 * time.Minute,
			NonRetryableErrorTypes: []string{finalError},
		},
	})
}

// finalError is the Temporal error type of what no retry can change.
const finalError = "final"

// final marks err as one that Temporal does not retry.
func final(err error) error {
	return temporal.NewNonRetryableApplicationError(err.Error(), finalError, err)
}

// idReuse for workflows that must run once in their life.
const once = enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
