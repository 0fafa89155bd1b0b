package lifecycle

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
)

// workers are one for what keeps runners and jobs going, and one for traces.
type workers struct {
	worker.Worker
	traces worker.Worker
}

// Start begins to take work.
func (w workers) Start() error {
	if err := w.Worker.Start(); err != nil {
		return err
	}
	if err := w.traces.Start(); err != nil {
		w.Worker.Stop()
		return err
	}
	return nil
}

// Run is Start, and Stop when interrupted.
func (w workers) Run(interrupted <-chan any) error {
	if err := w.Start(); err != nil {
		return err
	}
	<-interrupted
	w.Stop()
	return nil
}

// Stop returns when nothing runs any more.
func (w workers) Stop() {
	w.traces.Stop()
	w.Worker.Stop()
}

// NewWorker makes the worker of all workflows and activities. The caller starts
// and stops it.
func NewWorker(t client.Client, d Deps, c *Client, log *slog.Logger) worker.Worker {
	d.Times = d.Times.WithDefaults()
	a := &Activities{Deps: d, Log: log, wake: c}
	w := worker.New(t, TaskQueue, worker.Options{
		// Sized for two cores: enough in flight to hide the engine's commits, few
		// enough that a burst waits in the inbox rather than in memory.
		MaxConcurrentWorkflowTaskExecutionSize:  64,
		MaxConcurrentActivityExecutionSize:      64,
		MaxConcurrentLocalActivityExecutionSize: 64,
		MaxConcurrentWorkflowTaskPollers:        8,
		MaxConcurrentActivityTaskPollers:        8,
		Interceptors:                            []interceptor.WorkerInterceptor{&pulse{}},
	})
	w.RegisterWorkflow(PoolSize)
	w.RegisterWorkflow(RunnerLife)
	w.RegisterWorkflow(JobLife)
	w.RegisterWorkflow(Sweeping)
	w.RegisterWorkflow(KeptMachine)
	w.RegisterWorkflow(TraceLife) // those that began before they had a queue of their own
	w.RegisterActivity(a)
	// Traces wait in the engine for one another and keep no runner waiting: what is made of
	// them takes as much of this machine as a small job does.
	few := max(2, runtime.GOMAXPROCS(0)/2)
	traces := worker.New(t, TraceQueue, worker.Options{
		MaxConcurrentWorkflowTaskExecutionSize:  few,
		MaxConcurrentActivityExecutionSize:      few,
		MaxConcurrentLocalActivityExecutionSize: few,
		MaxConcurrentWorkflowTaskPollers:        2,
		MaxConcurrentActivityTaskPollers:        1,
		Interceptors:                            []interceptor.WorkerInterceptor{&pulse{}},
	})
	traces.RegisterWorkflow(TraceLife)
	traces.RegisterActivity(a)
	return workers{w, traces}
}

const (
	// heartbeatTimeout is how long the engine waits for a sign of life of an
	// activity before it gives it to another worker: what a kill -9 costs a call
	// that was under way.
	heartbeatTimeout = 10 * time.Second
	pulseEvery       = 3 * time.Second
)

// pulse gives every activity a heartbeat for as long as it runs, so that a worker
// that dies is noticed within heartbeatTimeout instead of at the end of the
// longest time that the call might have taken.
type pulse struct {
	interceptor.WorkerInterceptorBase
}

// InterceptActivity implements interceptor.WorkerInterceptor.
func (*pulse) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &pulseActivity{}
	i.Next = next
	return i
}

type pulseActivity struct {
	interceptor.ActivityInboundInterceptorBase
}

// ExecuteActivity implements interceptor.ActivityInboundInterceptor.
func (p *pulseActivity) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	if activity.GetInfo(ctx).IsLocalActivity {
		return p.Next.ExecuteActivity(ctx, in)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(pulseEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				activity.RecordHeartbeat(ctx)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	return p.Next.ExecuteActivity(ctx, in)
}
