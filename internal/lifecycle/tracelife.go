package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster"
)

// TraceRef names a trace in workflow inputs.
type TraceRef struct {
	Workspace string
	Runner    muster.RunnerID
	Number    int
	// Small is set if the trace is looked into in less time than it takes the engine to hand
	// that to somebody.
	Small bool
}

// smallTrace is up to how many bytes a trace counts as small: some 5,000 events.
const smallTrace = 64 << 10

func (r TraceRef) id() muster.TraceID { return muster.TraceID{Runner: r.Runner, Number: r.Number} }

func traceWorkflowID(ref TraceRef) string {
	return fmt.Sprintf("trace/%s/%s/%d", ref.Workspace, ref.Runner, ref.Number)
}

// TraceLife is what follows the end of a trace, and outlives its runner: views and findings
// are made of it, and then GitHub and whoever else wants to know is told. It runs once per
// trace.
func TraceLife(ctx workflow.Context, ref TraceRef) error {
	var a *Activities
	var err error
	if ref.Small {
		err = workflow.ExecuteLocalActivity(glance(ctx), a.AnalyseTrace, ref).Get(ctx, nil)
	}
	if !ref.Small || mayPass(err) {
		err = workflow.ExecuteActivity(analysis(ctx), a.AnalyseTrace, ref).Get(ctx, nil)
	}
	if err != nil {
		if err := workflow.ExecuteLocalActivity(local(ctx), a.NoteAnalysisFailed, ref, clip(reasonOf(err))).Get(ctx, nil); err != nil {
			return err
		}
	}
	var tell Tell
	if err := workflow.ExecuteLocalActivity(local(ctx), a.WhoToTell, ref).Get(ctx, &tell); err != nil {
		return err
	}
	var told []workflow.Future
	if tell.Check {
		told = append(told, workflow.ExecuteActivity(workflow.WithTaskQueue(githubCallOften(ctx), TaskQueue), a.ReportTrace, ref))
	}
	for _, h := range tell.Hooks {
		told = append(told, workflow.ExecuteActivity(workflow.WithTaskQueue(hookCall(ctx), TaskQueue), a.CallHook, ref, h))
	}
	var errs []error
	for _, f := range told {
		errs = append(errs, f.Get(ctx, nil)) // one that does not listen keeps nothing from the others
	}
	return errors.Join(errs...)
}

// Tell is who wants to know about a trace.
type Tell struct {
	// Check is set if a check run tells GitHub of it.
	Check bool
	// Hooks are what goes to the outgoing webhooks.
	Hooks []HookCall
}

// analysis is the context of the analysis of a trace: a million events take a while, and the
// archive may be away for hours.
func analysis(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 30 * time.Minute,
		HeartbeatTimeout:    3 * heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 2 * time.Second, BackoffCoefficient: 2, MaximumInterval: 15 * time.Minute, MaximumAttempts: 40,
			NonRetryableErrorTypes: []string{finalError},
		},
	})
}

// glance is the context of the first try to analyse a small trace, in the workflow's own step. A
// process that dies takes the step with it, and the engine gives it to another.
func glance(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout: 20 * time.Second, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	})
}

// mayPass reports whether an activity failed of something that may pass.
func mayPass(err error) bool {
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	return err != nil && (!ok || !app.NonRetryable())
}

// githubCallOften is the context of a call to GitHub that waits until the job is known.
func githubCallOften(ctx workflow.Context) workflow.Context {
	opts := workflow.GetActivityOptions(githubCall(ctx))
	opts.RetryPolicy.MaximumAttempts = 12
	return workflow.WithActivityOptions(ctx, opts)
}

// reasonOf is the text of what an activity failed of, without the engine's words about it.
func reasonOf(err error) string {
	if app, ok := errors.AsType[*temporal.ApplicationError](err); ok {
		return app.Message()
	}
	return err.Error()
}

// traceLife starts what follows the end of a trace, once. Of a trace without events nothing
// follows but that those are told who want to know.
func (c *Client) traceLife(ctx context.Context, t muster.Trace) error {
	ref := TraceRef{Workspace: t.Workspace, Runner: t.ID.Runner, Number: t.ID.Number, Small: t.Bytes <= smallTrace}
	_, err := c.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: traceWorkflowID(ref), TaskQueue: TraceQueue, WorkflowTaskTimeout: taskTimeout, WorkflowIDReusePolicy: once, EnableEagerStart: true,
	}, TraceLife, ref)
	if started, ok := errors.AsType[*serviceerror.WorkflowExecutionAlreadyStarted](err); ok && started != nil {
		return nil
	}
	if err != nil {
		return &muster.Error{Code: muster.CodeUnavailable, Message: "the trace is kept, and its analysis cannot be started now", RetryAfter: time.Second, Err: err}
	}
	return nil
}

// AnalyseTrace has views and findings made of a trace.
func (a *Activities) AnalyseTrace(ctx context.Context, ref TraceRef) error {
	t, err := a.Store.Trace(ctx, ref.Workspace, ref.id())
	if err != nil {
		return notFoundIsFinal(err)
	}
	if a.Tracing.Analyst == nil || t.Segments == 0 || !t.DeletedAt.IsZero() {
		return nil
	}
	began := a.Now()
	if err = a.Tracing.Analyst.Analyse(ctx, ref.Workspace, ref.id()); err != nil {
		switch muster.CodeOf(err) {
		case muster.CodeUnavailable, muster.CodeInternal, muster.CodeConflict:
			return fmt.Errorf("analyse trace %s: %w", ref.id(), err)
		}
		return final(fmt.Errorf("analyse trace %s: %w", ref.id(), err))
	}
	found, err := a.Store.DetectionsOf(ctx, ref.Workspace, ref.id())
	if err != nil {
		return fmt.Errorf("read the findings of trace %s: %w", ref.id(), err)
	}
	a.Observer.TraceAnalysed(found, a.Now().Sub(began))
	return nil
}

// NoteAnalysisFailed keeps with a trace why nothing could be made of it.
func (a *Activities) NoteAnalysisFailed(ctx context.Context, ref TraceRef, why string) error {
	a.logger(ctx).Error("trace not analysed", "trace", ref.id().String(), "error", why)
	_, err := a.Store.UpdateTrace(ctx, ref.Workspace, ref.id(), a.Now(), func(t *muster.Trace) error {
		t.AnalysisError = why
		return nil
	})
	return notFoundIsFinal(err)
}

// WhoToTell says who wants to know about a trace.
func (a *Activities) WhoToTell(ctx context.Context, ref TraceRef) (tell Tell, err error) {
	t, err := a.Store.Trace(ctx, ref.Workspace, ref.id())
	if err != nil {
		return tell, notFoundIsFinal(err)
	}
	found, err := a.Store.DetectionsOf(ctx, ref.Workspace, ref.id())
	if err != nil {
		return tell, err
	}
	pool, err := a.Store.Pool(ctx, ref.Workspace, t.Pool)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return tell, err
	}
	tell.Check = pool.ReportChecks && len(found) > 0
	tell.Hooks = calls(a.Tracing.Hooks, t, len(found) > 0)
	return tell, nil
}

// ReportTrace tells of findings in the check run of the job.
func (a *Activities) ReportTrace(ctx context.Context, ref TraceRef) error {
	t, err := a.Store.Trace(ctx, ref.Workspace, ref.id())
	if err != nil {
		return notFoundIsFinal(err)
	}
	if t.Job.ID == 0 {
		return muster.Errorf(muster.CodeUnavailable, "GitHub has not said yet which job trace %s is of", t.ID)
	}
	j, err := a.Store.Job(ctx, ref.Workspace, t.Job)
	if err != nil {
		return notFoundIsFinal(err)
	}
	gh, ok := a.GitHub[j.App]
	if !ok || j.HeadSHA == "" {
		return nil
	}
	if j.State != muster.JobCompleted {
		// A check run that has ended would say that the job has; JobLife writes it when it does,
		// with what is found by then.
		return muster.Errorf(muster.CodeUnavailable, "job %s has not completed yet", j.Key)
	}
	c, err := a.check(ctx, j)
	if err != nil {
		return err
	}
	id, err := gh.FindCheck(ctx, j.Repository, c)
	if err != nil {
		return err
	}
	if id == 0 {
		_, err = gh.CreateCheck(ctx, j.Repository, c)
		return err
	}
	return gh.UpdateCheck(ctx, j.Repository, id, c)
}

// closeForgottenTraces ends the traces of runners that are gone, and has those analysed that
// nobody began with: the process may have died between two steps (4-45).
func (a *Activities) closeForgottenTraces(ctx context.Context, now time.Time) {
	if a.Tracing.Archive == nil {
		return
	}
	open, err := a.Store.OpenTraces(ctx, now.Add(-a.Times.SealedAfter), maxSuspects)
	if err != nil {
		a.logger(ctx).Warn("sweep: traces that are recorded", "error", err)
		return
	}
	for _, t := range open {
		r, err := a.Store.Runner(ctx, t.Workspace, t.ID.Runner)
		if err != nil || r.State.Live() {
			continue // the end of the runner will end it
		}
		if err := a.wake.closeTraces(ctx, r, math.MaxInt, ended(r)); err != nil {
			a.logger(ctx).Warn("sweep: close a trace", "trace", t.ID.String(), "error", err)
		}
	}
	waiting, err := a.Store.UnanalysedTraces(ctx, now.Add(-forgottenFor), now.Add(-forgottenAfter), maxSuspects)
	if err != nil {
		a.logger(ctx).Warn("sweep: traces without an analysis", "error", err)
		return
	}
	for _, t := range waiting {
		if err := a.wake.traceLife(ctx, t); err != nil {
			a.logger(ctx).Warn("sweep: have a trace analysed", "trace", t.ID.String(), "error", err)
			return
		}
	}
}
