package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/muster-ci/muster"
)

// TaskQueue is the engine's queue of all workflows and activities, except that TraceQueue is the
// one of what follows the end of a trace.
const (
	TaskQueue  = "muster"
	TraceQueue = "muster-traces"
)

// Client is how the rest of the program reaches the workflows. It implements
// ingress's Sink, the agents' port and the commands of API and dashboard. It is
// safe for concurrent use.
type Client struct {
	Deps
	log      *slog.Logger
	temporal client.Client
	nudges   trailing[PoolRef]
}

// NewClient makes a client on an open engine.
func NewClient(d Deps, t client.Client, log *slog.Logger) *Client {
	d.Times = d.Times.WithDefaults()
	return &Client{Deps: d, temporal: t, log: log}
}

// Start makes sure that the sweep and every pool's workflow run, and wakes them.
func (c *Client) Start(ctx context.Context) error {
	pools, err := c.Store.Pools(ctx, defaultWorkspace)
	if err != nil {
		return fmt.Errorf("list pools: %w", err)
	}
	for _, p := range pools {
		if err := c.pool(ctx, PoolRef{p.Workspace, p.Name}); err != nil {
			return err
		}
	}
	// A new interval in the configuration takes effect by starting anew; the
	// suspects of the old one are found again.
	_, err = c.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: sweepWorkflowID, TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
	}, Sweeping, min(c.Times.Sweep, c.Times.Health), Suspects{})
	if err != nil {
		return fmt.Errorf("start sweep: %w", err)
	}
	return nil
}

// Job takes an event from any sense: it records the job, and wakes what the news
// concerns. It is idempotent; an event may be offered again after any error.
func (c *Client) Job(ctx context.Context, e muster.JobEvent) (outcome string, err error) {
	if e.NotAJob() {
		return "ignored: a check run, not a job", nil
	}
	workspace, known, err := c.workspaceOf(ctx, e.InstallationID)
	if err != nil {
		return "", err
	}
	if !known {
		return "ignored: the installation was deleted", nil
	}
	pools, err := c.Store.Pools(ctx, workspace)
	if err != nil {
		return "", fmt.Errorf("list pools: %w", err)
	}
	keeping, err := c.keeping(ctx, workspace, pools)
	if err != nil {
		return "", err
	}
	route := func(j muster.Job) string {
		if p, ok := poolNamed(pools, e.Pool); ok && !p.Removed {
			return p.Name // GitHub gave it to the pool's scale set, and to nobody else
		}
		p, ok := muster.Route(keeping(j), j)
		if !ok {
			return ""
		}
		return p.Name
	}
	if reason, ignored, err := c.ignores(ctx, workspace, e, route); err != nil || ignored {
		return reason, err
	}
	applied, err := c.Store.ApplyJobEvent(ctx, workspace, e, route)
	if err != nil {
		return "", fmt.Errorf("apply %s of job %s: %w", e.Action, e.Key(), err)
	}
	j := applied.Job
	if applied.Change == muster.JobAdvanced {
		c.Observer.JobAdvanced(applied)
		c.log.Info("job "+string(j.State), "job", j.Key.String(), "repository", j.Repository, "name", j.Name, "pool", j.Pool,
			"runner", applied.Runner, "conclusion", j.Conclusion, "sense", e.Sense, "delivery", e.Delivery, "trace_id", j.TraceID)
	}
	if applied.Stolen && applied.Change == muster.JobAdvanced && j.State == muster.JobInProgress {
		if r, err := c.Store.Runner(ctx, workspace, applied.Runner); err == nil && r.For != 0 {
			c.countTry(ctx, c.log, r)
		}
	}
	if j.Pool == "" && applied.Runner == "" {
		return fmt.Sprintf("job %s: no pool wants [%s]", j.State, j.Labels), nil
	}
	// An event that changed nothing still wakes: the process may have died between
	// recording the job and waking its workflows.
	if err := c.keptNews(ctx, applied, e, pools); err != nil {
		return "", err
	}
	if err := c.wakeFor(ctx, applied, pools); err != nil {
		return "", err
	}
	return fmt.Sprintf("job %s", j.State), nil
}

// ignores says whether a job is only counted: no pool wants it, nothing of it is
// stored, and full tracking is off (C25, S0-4).
func (c *Client) ignores(ctx context.Context, workspace string, e muster.JobEvent, route func(muster.Job) string) (reason string, ignored bool, err error) {
	if c.TrackUnmatched && len(e.Labels) > 0 {
		return "", false, nil
	}
	fresh, _, err := muster.Job{}.Apply(e)
	if err != nil {
		return "", false, err
	}
	fresh.Workspace = workspace
	if route(fresh) != "" {
		return "", false, nil
	}
	_, err = c.Store.Job(ctx, workspace, e.Key())
	if muster.CodeOf(err) != muster.CodeNotFound {
		return "", false, err
	}
	if e.RunnerName != "" {
		// A job that no pool wants may still have taken one of our runners.
		if _, err := c.Store.RunnerByName(ctx, workspace, e.RunnerName); muster.CodeOf(err) != muster.CodeNotFound {
			return "", false, err
		}
	}
	reason = fmt.Sprintf("ignored: no pool wants [%s]", e.Labels)
	c.Observer.JobIgnored(e, reason)
	return reason, true, nil
}

// workspaceOf maps an installation to its workspace (4-40). One that was never
// heard of belongs to the default workspace: Muster may have been set up after
// the App was installed. known is false for a deleted one (4-50).
func (c *Client) workspaceOf(ctx context.Context, id int64) (workspace string, known bool, err error) {
	in, err := c.Store.Installation(ctx, id)
	switch {
	case muster.CodeOf(err) == muster.CodeNotFound:
		return defaultWorkspace, true, nil
	case err != nil:
		return "", false, fmt.Errorf("look up installation %d: %w", id, err)
	}
	return in.Workspace, in.State != "deleted", nil
}

// wakeFor wakes the workflows that a job's news concerns: its pool first, since a
// user waits for that; then the job's own, and the runner's when the job is over.
func (c *Client) wakeFor(ctx context.Context, applied muster.Applied, pools []muster.Pool) error {
	j := applied.Job
	if j.Pool != "" {
		if err := c.pool(ctx, PoolRef{j.Workspace, j.Pool}); err != nil {
			return err
		}
	}
	pool, _ := poolNamed(pools, j.Pool)
	ref := JobRef{Workspace: j.Workspace, Key: j.Key, Recheck: c.Times.JobRecheck, Queued: c.Times.JobExpired, AfterRunner: c.Times.AfterRunner, Checks: pool.ReportChecks}
	_, err := c.temporal.SignalWithStartWorkflow(ctx, jobWorkflowID(ref), signalJob, j.State,
		client.StartWorkflowOptions{TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout, WorkflowIDReusePolicy: once}, JobLife, ref)
	if err != nil && !alreadyRan(err) {
		return fmt.Errorf("signal workflow of job %s: %w", j.Key, err)
	}
	if applied.Runner == "" || j.State != muster.JobCompleted {
		return nil
	}
	err = c.temporal.SignalWorkflow(ctx, runnerWorkflowID(applied.Runner), "", signalLook, nil)
	if _, over := errors.AsType[*serviceerror.NotFound](err); over {
		return nil
	}
	return err
}

// Installation records what became of an App's installation.
func (c *Client) Installation(ctx context.Context, e muster.InstallationEvent) (outcome string, err error) {
	state := map[string]string{
		"created": "active", "unsuspend": "active", "new_permissions_accepted": "active", "added": "active", "removed": "active",
		"suspend": "suspended", "deleted": "deleted",
	}[e.Action]
	if state == "" {
		return "counted", nil
	}
	in, err := c.Store.PutInstallation(ctx, muster.Installation{
		ID: e.ID, App: e.App, Workspace: defaultWorkspace, Account: e.Account, AccountType: e.AccountType, State: state, UpdatedAt: e.ReceivedAt,
	})
	if err != nil {
		return "", fmt.Errorf("record installation %d: %w", e.ID, err)
	}
	if gh, ok := c.GitHub[e.App]; ok {
		gh.Forget(e.Account) // 4-15
	}
	c.log.Info("installation "+in.State, "installation", in.ID, "account", in.Account, "action", e.Action)
	pools, err := c.Store.Pools(ctx, defaultWorkspace)
	if err != nil {
		return "", fmt.Errorf("list pools: %w", err)
	}
	for _, p := range pools {
		if p.App == e.App && strings.EqualFold(p.Scope.Owner, e.Account) {
			if err := c.pool(ctx, PoolRef{p.Workspace, p.Name}); err != nil {
				return "", err
			}
		}
	}
	return "installation " + in.State, nil
}

// DrainRunner asks a runner to go as soon as it is idle. A busy one finishes its job.
func (c *Client) DrainRunner(ctx context.Context, workspace string, id muster.RunnerID, reason string) error {
	a := Activities{Deps: c.Deps, Log: c.log, wake: c}
	return a.askToDrain(ctx, workspace, id, reason)
}

// NudgePool makes a pool decide now.
func (c *Client) NudgePool(ctx context.Context, workspace, pool string) error {
	if _, err := c.Store.Pool(ctx, workspace, pool); err != nil {
		return err
	}
	return c.pool(ctx, PoolRef{workspace, pool})
}

// SetPool changes what an operator may change over the configuration.
func (c *Client) SetPool(ctx context.Context, workspace, pool string, o muster.PoolOverride) error {
	p, err := c.Store.Pool(ctx, workspace, pool)
	if err != nil {
		return err
	}
	if err := p.Override(o).Scaling.Validate(); err != nil {
		return err
	}
	if err := c.Store.SetPoolOverride(ctx, workspace, pool, o); err != nil {
		return err
	}
	c.log.Info("pool changed by operator", "pool", pool)
	return c.pool(ctx, PoolRef{workspace, pool})
}

// ProviderRefusal returns the words and the time of the provider's last refusal
// to a pool, "" if it works.
func (c *Client) ProviderRefusal(ctx context.Context, workspace, pool string) (text string, at time.Time) {
	a := Activities{Deps: c.Deps, Log: c.log}
	r := a.refusal(ctx, PoolRef{workspace, pool})
	return r.Text, r.At
}

// The methods below are the waker of the activities.

func (c *Client) pool(ctx context.Context, ref PoolRef) error {
	err := c.nudges.do(ref, func() error {
		// Others wait for this signal too: it must not die with the caller's context.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signalTimeout)
		defer cancel()
		_, err := c.temporal.SignalWithStartWorkflow(ctx, poolWorkflowID(ref), signalLook, nil,
			client.StartWorkflowOptions{TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout}, PoolSize, ref)
		return err
	})
	if err != nil {
		return fmt.Errorf("signal workflow of pool %s: %w", ref.Pool, err)
	}
	return nil
}

// taskTimeout is how long the engine waits for a worker that took a step of a
// workflow before it gives the step to another: what a kill -9 costs a workflow.
// Steps are short, and long local activities keep their step alive.
const taskTimeout = 5 * time.Second

// signalTimeout bounds one call to the engine.
const signalTimeout = 20 * time.Second

func (c *Client) runner(ctx context.Context, ref RunnerRef) error {
	_, err := c.temporal.SignalWithStartWorkflow(ctx, runnerWorkflowID(ref.ID), signalLook, nil,
		client.StartWorkflowOptions{TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout}, RunnerLife, ref)
	return err
}

func (c *Client) startRunner(ctx context.Context, ref RunnerRef) error {
	_, err := c.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: runnerWorkflowID(ref.ID), TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout, WorkflowIDReusePolicy: once, EnableEagerStart: true,
	}, RunnerLife, ref)
	if err != nil && !alreadyRan(err) {
		return err
	}
	return nil
}

func (c *Client) runnerGone(ctx context.Context, ref JobRef) error {
	err := c.temporal.SignalWorkflow(ctx, jobWorkflowID(ref), "", signalRunnerGone, nil)
	if _, over := errors.AsType[*serviceerror.NotFound](err); over {
		return nil
	}
	return err
}

func (c *Client) sink(ctx context.Context, e muster.JobEvent) error {
	_, err := c.Job(ctx, e)
	return err
}

// alreadyRan reports whether a workflow that may run once has run or runs.
func alreadyRan(err error) bool {
	_, ok := errors.AsType[*serviceerror.WorkflowExecutionAlreadyStarted](err)
	return ok
}

// trailing runs a function per key, one at a time, so that a caller who returns
// knows that a run began after its call. Callers who come while one runs share
// the next. Five hundred jobs queued at once thus cost their pool a few signals,
// not five hundred. The zero value is ready.
type trailing[K comparable] struct {
	mu sync.Mutex
	m  map[K]*turn
}

type turn struct {
	done chan struct{}
	err  error // valid once done is closed
	next *turn
}

func (t *trailing[K]) do(key K, f func() error) error {
	t.mu.Lock()
	if t.m == nil {
		t.m = map[K]*turn{}
	}
	cur := t.m[key]
	if cur == nil {
		mine := &turn{done: make(chan struct{})}
		t.m[key] = mine
		t.mu.Unlock()
		return t.run(key, mine, f)
	}
	if cur.next != nil {
		shared := cur.next
		t.mu.Unlock()
		<-shared.done
		return shared.err
	}
	mine := &turn{done: make(chan struct{})}
	cur.next = mine
	t.mu.Unlock()
	<-cur.done
	t.mu.Lock()
	t.m[key] = mine
	t.mu.Unlock()
	return t.run(key, mine, f)
}

func (t *trailing[K]) run(key K, mine *turn, f func() error) error {
	mine.err = f()
	t.mu.Lock()
	if mine.next == nil {
		delete(t.m, key)
	}
	t.mu.Unlock()
	close(mine.done)
	return mine.err
}
