package muster

import "time"

// Cause is one reason why a job waits.
type Cause struct {
	// Code is a fixed word for machines: "no_pool", "not_eligible", "refused",
	// "waiting_approval", "pool_disabled", "pool_at_max", "starting", "cooldown",
	// "provider_refusing", "provisioning_limit", "stolen", "suspended",
	// "idle_runner_not_assigned", "deciding", "not_waiting".
	Code string `json:"code"`
	// Text says it in words, with the numbers and, where there is one, the remedy.
	Text string `json:"text"`
	// Since is when it began, if known.
	Since time.Time `json:"since,omitzero"`
}

// Situation is everything that Explain looks at.
type Situation struct {
	Job   Job
	Pools []Pool
	// Snapshot and Decision are those of the job's pool; zero if it has none.
	Snapshot Snapshot
	Decision Decision
	// DecidedAt is when Decision was taken.
	DecidedAt time.Time
	// StolenBy is the job that took the runner which was made for this one, "" if none did.
	StolenBy string
	// ProviderError is the provider's last refusal, in its own words, "" if it works.
	ProviderError   string
	ProviderErrorAt time.Time
	// Ahead is how many queued jobs of the pool are older.
	Ahead int
}
