package lifecycle

import (
	"log/slog"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
)

// NewWorker makes the worker of all workflows and activities. The caller starts
// and stops it.
func NewWorker(t client.Client, d Deps, c *Client, log *slog.Logger) worker.Worker {
	d.Times = d.Times.WithDefaults()
	w := worker.New(t, TaskQueue, worker.Options{
		// Sized for two cores: enough in flight to hide the engine's commits, few
		// enough that a burst waits in the inbox rather than in memory.
		MaxConcurrentWorkflowTaskExecutionSize:  64,
		MaxConcurrentActivityExecutionSize:      64,
		MaxConcurrentLocalActivityExecutionSize: 64,
		MaxConcurrentWorkflowTaskPollers:        8,
		MaxConcurrentActivityTaskPollers:        8,
	})
	w.RegisterWorkflow(PoolSize)
	w.RegisterWorkflow(RunnerLife)
	w.RegisterWorkflow(JobLife)
	w.RegisterWorkflow(Sweeping)
	w.RegisterActivity(&Activities{Deps: d, Log: log, wake: c})
	return w
}
