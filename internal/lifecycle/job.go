package lifecycle

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster"
)

// JobRef names one attempt of a job in workflow inputs.
type JobRef struct {
	Workspace string
	Key       muster.JobKey
	// Recheck is how long a job may run before GitHub is asked about it.
	Recheck time.Duration
	// Queued is how long it may be queued: the Poller asks about old queued jobs, a
	// few at a time (4-8), and this is for what that does not find. 0 is Recheck.
	Queued time.Duration
	// AfterRunner is how long GitHub gets to report the completion of a job whose
	// runner has ended, before it is asked. A completed event can be lost without a
	// trace, and then nothing else would tell for as long as Recheck.
	AfterRunner time.Duration
	// Checks is set for pools that report on jobs by check runs (S0-8).
	Checks bool
}

func jobWorkflowID(r JobRef) string {
	return fmt.Sprintf("job/%s/%d/%d", r.Workspace, r.Key.ID, r.Key.Attempt)
}

// signalJob carries the state that a job has entered; signalRunnerGone says that
// the runner which had the job has ended.
const (
	signalJob        = "job"
	signalRunnerGone = "runner-gone"
)

// JobLife follows one attempt of a job from the first news to its receipt
// (S4-32…S4-34). States only rise, whatever order signals come in.
func JobLife(ctx workflow.Context, ref JobRef) error {
	var (
		a      *Activities
		state  muster.JobState
		check  int64
		states = workflow.GetSignalChannel(ctx, signalJob)
		gone   = workflow.GetSignalChannel(ctx, signalRunnerGone)
		within = ref.Recheck
	)
	for state != muster.JobCompleted {
		ask := within
		if state.Rank() < muster.JobInProgress.Rank() && within == ref.Recheck && ref.Queued > 0 {
			ask = ref.Queued
		}
		timerCtx, cancel := workflow.WithCancel(ctx)
		var heard muster.JobState
		workflow.NewSelector(ctx).
			AddReceive(states, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, &heard) }).
			AddReceive(gone, func(c workflow.ReceiveChannel, _ bool) {
				c.Receive(ctx, nil)
				within = min(within, ref.AfterRunner)
			}).
			AddFuture(workflow.NewTimer(timerCtx, ask), func(f workflow.Future) {
				if f.Get(timerCtx, nil) == nil {
					// The answer comes back as an event like any other; a failure to ask
					// is repeated at the next interval.
					_ = workflow.ExecuteActivity(githubCallOnce(ctx), a.RecheckJob, ref).Get(ctx, nil)
				}
			}).
			Select(ctx)
		cancel()
		if heard.Rank() <= state.Rank() {
			continue
		}
		state = heard
		if ref.Checks {
			// A check run is a courtesy: its failure never holds the books up.
			_ = workflow.ExecuteActivity(githubCallOnce(ctx), a.ReportCheck, ref, check).Get(ctx, &check)
		}
	}
	return workflow.ExecuteLocalActivity(local(ctx), a.CloseJob, ref).Get(ctx, nil)
}

// githubCallOnce is the context of a call to GitHub that may fail.
func githubCallOnce(ctx workflow.Context) workflow.Context {
	opts := workflow.GetActivityOptions(githubCall(ctx))
	opts.RetryPolicy.MaximumAttempts = 3
	return workflow.WithActivityOptions(ctx, opts)
}
