package muster

import (
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// RunnerID is Muster's own name of a runner: stable for its whole life, the tag
// on its instance and the id of its workflow. It matches [a-z0-9-]{4,40}.
type RunnerID string

var runnerID = regexp.MustCompile(`\A[a-z0-9-]{4,40}\z`)

// Valid reports whether the id can be one of ours. Providers build paths and
// names from ids, so they check it first.
func (id RunnerID) Valid() bool { return runnerID.MatchString(string(id)) }

// RunnerState is where a runner stands in its life.
type RunnerState string

// The states of a runner (S1-58…S1-62). Destroyed is terminal.
const (
	RunnerProvisioning RunnerState = "provisioning"
	RunnerRegistered   RunnerState = "registered"
	RunnerActive       RunnerState = "active"
	RunnerDraining     RunnerState = "draining"
	RunnerDestroyed    RunnerState = "destroyed"
)

// runnerMoves are the legal transitions. Every state may go to draining, the one
// way to destroyed; a provisioning runner may become active at once, because the
// in_progress event can overtake the agent's report.
var runnerMoves = map[RunnerState][]RunnerState{
	"":                 {RunnerProvisioning},
	RunnerProvisioning: {RunnerRegistered, RunnerActive, RunnerDraining},
	RunnerRegistered:   {RunnerActive, RunnerDraining},
	RunnerActive:       {RunnerDraining, RunnerRegistered}, // registered again: kept runners, many jobs
	RunnerDraining:     {RunnerDestroyed},
	RunnerDestroyed:    {},
}

// To returns the state after a move, or a CodeConflict error for an illegal one
// (S1-62). Moving to the state that one is in is legal and changes nothing.
func (s RunnerState) To(next RunnerState) (RunnerState, error) {
	if s == next {
		return s, nil
	}
	for _, m := range runnerMoves[s] {
		if m == next {
			return next, nil
		}
	}
	return s, Errorf(CodeConflict, "a runner that is %s cannot become %s", first(s, "new"), next)
}

// Live reports whether the runner may still cost something.
func (s RunnerState) Live() bool { return s != RunnerDestroyed && s != "" }

// Runner is one registration with GitHub and the machine under it.
type Runner struct {
	ID        RunnerID
	Workspace string
	Pool      string
	// Name is the runner's name on GitHub. It changes when a registration has to
	// be repeated under a new name (4-11), ID does not.
	Name     string
	Provider string
	Offering string
	// Purpose is "" for a runner that takes jobs, PurposeCheck for one that tests its
	// provider; that one is of no pool.
	Purpose string `json:",omitempty"`
	// Zones are the provider's zones in which a machine was asked for, separated by
	// spaces, the last one last; "" of a provider without zones.
	Zones string `json:",omitempty"`
	// Instance is the provider's own id of the machine, "" until created.
	Instance string
	// GitHubID is the registration's id, 0 until registered.
	GitHubID int64
	// Tries counts the names under which a registration was asked for (4-11).
	Tries int
	State RunnerState
	// Reason says in words why the runner is in its state: "job 123 finished", "agent did not
	// connect within 10s", "no job within 2m0s", …
	Reason string
	// Queued is what the platform says while the machine waits in its own queue, "" when it
	// does not or that is not known yet.
	Queued string `json:",omitempty"`
	// Failed marks a runner on the way to destroyed because something went wrong.
	Failed bool
	// Warm marks a runner made for the pool's floor rather than for a queued job.
	Warm bool
	// For is the job that the runner was made for, 0 for the floor's or when that
	// was known only by number. GitHub may give it another.
	For int64 `json:",omitempty"`
	// Job is the job that the runner took, zero until in_progress named it.
	Job JobKey
	// JobHint is the job that the agent says the runner took, while GitHub has not named one:
	// whoever controls the machine may say anything, so it decides nothing.
	JobHint JobKey `json:",omitzero"`
	// RunHint is of which run the agent says that the job is, while the books do not know
	// exactly one job that it can be. GitHub may be asked about that run first.
	RunHint RunHint `json:",omitzero"`
	// Busy is true from the moment at which the agent or GitHub said that a job
	// runs until one of them said that it ended. Unknown counts as busy (4-18).
	Busy bool
	// Drain says why the runner should go as soon as it is idle, "" if nobody asked.
	Drain   string
	TraceID string
	// Traced is set once the agent was asked to record what the job does.
	Traced bool `json:",omitempty"`

	CreatedAt  time.Time // row written, before anything was asked of a provider
	LaunchedAt time.Time // provider accepted
	// UpAt is when the machine of a provider with a queue was first seen to run; zero of
	// other providers.
	UpAt        time.Time `json:",omitzero"`
	ConnectedAt time.Time // agent traded its boot token
	StartedAt   time.Time // agent started the runner process
	ListeningAt time.Time // runner printed "Listening for Jobs"
	ActiveAt    time.Time // took a job
	FinishedAt  time.Time // runner process ended, or job completed
	// DeregisteredAt is when GitHub confirmed that the registration is gone because
	// Muster removed it; a one-job registration that was used goes by itself.
	DeregisteredAt time.Time
	DestroyedAt    time.Time // instance proven gone and registration gone
	HeartbeatAt    time.Time // last word of the agent
}

// RunHint is a run of which a runner says that it runs a job.
type RunHint struct {
	// Repository is owner/name.
	Repository string
	Run        int64
	Attempt    int `json:",omitempty"`
}

// Zone is where the machine was asked for last, "" without zones.
func (r Runner) Zone() string { return r.Zones[strings.LastIndexByte(r.Zones, ' ')+1:] }

// runnerName is what Muster gives GitHub as a runner name: the pool's name, cut
// to 32 characters, the runner's id and, after a name clash, the try. GitHub's
// limit of 64 characters is not documented (reference/github.md §12).
var runnerName = regexp.MustCompile(`\A[A-Za-z0-9_.-]{1,64}\z`)

// NewRunnerID makes an id from 10 random bytes. It sorts in no order and is
// unique for all practical purposes (80 bits).
func NewRunnerID(random [10]byte) RunnerID {
	return RunnerID("r-" + strings.ToLower(base32.StdEncoding.EncodeToString(random[:])))
}

// RegistrationName is the name under which a runner registers: deterministic per
// (id, try), so that a repeated call finds its own earlier try (4-11).
func RegistrationName(pool string, id RunnerID, try int) string {
	if len(pool) > 32 {
		pool = pool[:32]
	}
	name := fmt.Sprintf("%s-%s", pool, strings.TrimPrefix(string(id), "r-"))
	if try > 0 {
		name = fmt.Sprintf("%s-%d", name, try)
	}
	return name
}

// ValidRunnerName reports whether GitHub will take name as a runner's name.
func ValidRunnerName(name string) bool { return runnerName.MatchString(name) }
