package muster

import "time"

// Receipt is what one attempt of one job cost and where its time went. There is
// one per (job id, attempt), ever (4-48).
type Receipt struct {
	Job        JobKey
	Workspace  string
	Project    string
	Pool       string
	Repository string
	Workflow   string
	JobName    string
	// RunID is the workflow run's; 0 on receipts that were written without it.
	RunID      int64 `json:",omitempty"`
	Runner     RunnerID
	Offering   string
	Conclusion string
	// Queue, Run: from GitHub's own timestamps. Boot: from the runner's row to
	// listening. Idle: listening to job start. All clamped at 0; Boot and Idle are
	// 0 when the job ran on a runner that is not ours.
	Queue time.Duration
	Boot  time.Duration
	Idle  time.Duration
	Run   time.Duration
	// Billed is Run after the price book's rounding; 0 for a job that never ran (4-6).
	Billed        time.Duration
	PriceMicroUSD int64 // per minute, as it was then
	CostMicroUSD  int64
	CompletedAt   time.Time
	WrittenAt     time.Time
}

// Waste is what a runner cost that never ran a job: one line per runner, ever.
type Waste struct {
	Runner        RunnerID
	Workspace     string
	Project       string
	Pool          string
	Offering      string
	Reason        string
	Lived         time.Duration
	PriceMicroUSD int64
	CostMicroUSD  int64
	At            time.Time
}
