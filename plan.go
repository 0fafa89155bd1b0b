package muster

import "time"

// Scaling is how a pool's size follows its queue (S1-37…S1-42).
type Scaling struct {
	MinRunners int `json:"min_runners"`
	MaxRunners int `json:"max_runners"`
	// JobsPerRunner is the target ratio of pending jobs to runners.
	JobsPerRunner int `json:"jobs_per_runner"`
	// ScaleUpThreshold and ScaleDownThreshold are counted in runners, not jobs (C15).
	ScaleUpThreshold   int           `json:"scale_up_threshold"`
	ScaleDownThreshold int           `json:"scale_down_threshold"`
	Cooldown           time.Duration `json:"cooldown"`
}

// DefaultScaling is the fleet's scaling: 0 to 10 runners, 2 jobs per runner, up
// from a difference of more than 2 runners, 300 s between actions (S1-37…S1-42).
func DefaultScaling() Scaling {
	return Scaling{MaxRunners: 10, JobsPerRunner: 2, ScaleUpThreshold: 2, Cooldown: DefaultCooldown}
}

// OnDemandScaling makes one runner per queued job at once (S0-11, C14).
func OnDemandScaling() Scaling { return Scaling{MaxRunners: 10, JobsPerRunner: 1} }

// ScalingAction is what a decision does to the number of runners (S1-44).
type ScalingAction string

// The three actions.
const (
	ScaleUp   ScalingAction = "scale_up"
	ScaleDown ScalingAction = "scale_down"
	Maintain  ScalingAction = "maintain"
)

// QueueMetrics is the demand on a pool at one time (S1-27, C19).
type QueueMetrics struct {
	// PendingJobs are the queued jobs that no idle or starting runner covers.
	PendingJobs    int `json:"pending_jobs"`
	InProgressJobs int `json:"in_progress_jobs"`
	// QueuedJobs are the jobs that GitHub reports as queued.
	QueuedJobs int `json:"queued_jobs"`
	// TotalJobs is queued plus in progress.
	TotalJobs int       `json:"total_jobs"`
	Timestamp time.Time `json:"timestamp"`
}

// NeedsScaling reports whether any job waits (S1-28).
func (m QueueMetrics) NeedsScaling() bool { return m.PendingJobs > 0 || m.QueuedJobs > 0 }

// ScalingDecision is the answer of the scaling formula (S1-43).
type ScalingDecision struct {
	Action  ScalingAction `json:"action"`
	Target  int           `json:"target_runner_count"`
	Current int           `json:"current_runner_count"`
	// Reason is never empty and names the numbers.
	Reason string `json:"reason"`
}

// Snapshot is everything that a decision about one pool is taken from.
type Snapshot struct {
	Pool Pool `json:"pool"`
	// Jobs are the pool's jobs that are queued or in progress, as last heard.
	Jobs []PlanJob `json:"jobs"`
	// Runners are the pool's runners that are not destroyed.
	Runners []PlanRunner `json:"runners"`
	// LastScaling is when the pool was last scaled up or down; zero for never.
	LastScaling time.Time `json:"last_scaling,omitzero"`
	// DemandUnknown is set when the queue could not be learned: then nothing is
	// scaled (4-27).
	DemandUnknown bool `json:"demand_unknown,omitempty"`
	// Suspended is set while the App's installation is suspended: running jobs
	// finish, no capacity is added (C34).
	Suspended bool `json:"suspended,omitempty"`
}

// PlanJob is what a decision needs to know of a job.
type PlanJob struct {
	ID       int64     `json:"id"`
	State    JobState  `json:"state"`
	QueuedAt time.Time `json:"queued_at"`
}

// PlanRunner is what a decision needs to know of a runner.
type PlanRunner struct {
	ID    RunnerID    `json:"id"`
	State RunnerState `json:"state"`
	Busy  bool        `json:"busy,omitempty"`
	Warm  bool        `json:"warm,omitempty"`
	// CreatedAt orders runners by age and, with the pool's limits, tells rotation and maximum age.
	CreatedAt time.Time `json:"created_at"`
	// IdleSince is when the runner was last ready without a job; zero if it is not idle.
	IdleSince time.Time `json:"idle_since,omitzero"`
}

// Decision is what to do about one pool, and why. It is recorded with its Snapshot.
type Decision struct {
	ScalingDecision
	Metrics QueueMetrics `json:"metrics"`
	// Rule names the rule that decided: "cooldown", "formula", "starvation",
	// "warm_floor", "limit", "provisioning_limit", "no_data", "suspended",
	// "disabled", "rotation", "max_age".
	Rule string `json:"rule"`
	// Create is how many runners to make for queued jobs, Warm how many for the floor.
	Create int `json:"create"`
	Warm   int `json:"warm"`
	// Drain are idle runners that should go, oldest first. Never a busy or unknown one.
	Drain []RunnerID `json:"drain,omitempty"`
	// WakeAt is when the decision may change without any event; zero for never.
	WakeAt time.Time `json:"wake_at,omitzero"`
}

// Validate returns a CodeInvalid error that names the first bad number, or nil.
func (s Scaling) Validate() error {
	switch {
	case s.MinRunners < 0:
		return Errorf(CodeInvalid, "min_runners cannot be negative")
	case s.MaxRunners < s.MinRunners:
		return Errorf(CodeInvalid, "max_runners must be >= min_runners")
	case s.JobsPerRunner < 1:
		return Errorf(CodeInvalid, "jobs_per_runner must be positive")
	case s.ScaleUpThreshold < 0 || s.ScaleDownThreshold < 0:
		return Errorf(CodeInvalid, "thresholds cannot be negative")
	case s.Cooldown < 0:
		return Errorf(CodeInvalid, "cooldown_seconds cannot be negative")
	}
	return nil
}
