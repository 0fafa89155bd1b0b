package muster

import (
	"errors"
	"regexp"
	"time"
)

// Lifecycle says how many jobs a pool's machines live for.
type Lifecycle string

// The lifecycles: one job and gone, or started and stopped for many jobs (C2).
const (
	LifecycleEphemeral Lifecycle = "ephemeral"
	LifecycleKept      Lifecycle = "kept"
)

// Registration says by what credential a pool's runners register (C4).
type Registration string

// The registration modes.
const (
	RegistrationJIT           Registration = "jit"
	RegistrationToken         Registration = "token"
	RegistrationPreregistered Registration = "preregistered"
)

// Pool is a wish: which jobs to serve, where to register, on what to run, and
// within which limits. It is configuration; what it has led to are Runners.
// Durations of zero mean the default, which WithDefaults fills in.
type Pool struct {
	Name      string `json:"name"`
	Workspace string `json:"workspace"`
	Project   string `json:"project"`
	// App names the configured GitHub App (or token) that the pool acts as.
	App   string `json:"app"`
	Scope Scope  `json:"scope"`
	// Labels trigger the pool: all of them must be among a job's labels (C8).
	Labels Labels `json:"labels"`
	// RunnerLabels are what runners register with; every label of a job must be
	// among them (C8). Empty means Labels plus self-hosted, the OS and the architecture.
	RunnerLabels Labels `json:"runner_labels"`
	// RunnerGroup is the runner group's id; 1 is GitHub's "Default".
	RunnerGroup  int64        `json:"runner_group"`
	Provider     string       `json:"provider"`
	Offering     string       `json:"offering"`
	Lifecycle    Lifecycle    `json:"lifecycle"`
	Registration Registration `json:"registration"`
	Scaling      Scaling      `json:"scaling"`
	Enabled      bool         `json:"enabled"`
	// Removed is set by the store for a pool that is no longer configured, which is
	// kept for its history only.
	Removed bool `json:"-"`
	// Repositories, when not empty, are the only ones served (owner/name, case ignored).
	Repositories []string `json:"repositories,omitempty"`
	// AllowPublic lets a kept pool serve public repositories (4-31). Ephemeral
	// pools serve them anyway.
	AllowPublic bool `json:"allow_public,omitempty"`
	// MaxJobCount is how many jobs a runner may take in its life (S1-55: 1).
	MaxJobCount int `json:"max_job_count"`
	// ReportChecks writes a GitHub check run for each provisioned job (S0-8); it
	// costs two REST calls per job.
	ReportChecks bool `json:"report_checks,omitempty"`

	NoJobTimeout     time.Duration `json:"no_job_timeout"`
	RotationInterval time.Duration `json:"rotation_interval"`
	MaxAge           time.Duration `json:"max_age"`
	// ConnectTimeout is how long the agent may take to trade its boot token,
	// counted from launch; 0 means the provider's own default.
	ConnectTimeout time.Duration `json:"connect_timeout,omitempty"`
	// Provisioning bounds how many runners may be provisioning at once (S1-112).
	Provisioning int `json:"provisioning"`

	// Suspended makes no new runners; queued jobs stay and are shown as waiting for
	// it, running ones finish (S4-17). Unlike Enabled false it drains nothing.
	Suspended bool `json:"suspended,omitempty"`
	// ScaleSet, when set, names the runner scale set by which GitHub tells of jobs
	// and by which the pool's runners register, instead of webhook and labels.
	ScaleSet string `json:"scale_set,omitempty"`
	// JobWait is how long a job waits before a runner is made for it; 0 is not at
	// all. A runner that idles may take it before.
	JobWait    time.Duration `json:"job_wait,omitempty"`
	Schedules  []Schedule    `json:"schedules,omitempty"`
	Overflow   Overflow      `json:"overflow,omitzero"`
	Quotas     []Quota       `json:"quotas,omitempty"`
	Priorities []Priority    `json:"priorities,omitempty"`
	Canary     Canary        `json:"canary,omitzero"`
	// InactiveMinutes is how long a kept machine stays up after its last job; 0 is 3 (C1).
	InactiveMinutes int `json:"inactive_minutes,omitempty"`
	// Machine and Zone name the machine that a kept pool starts and stops.
	Machine string `json:"machine,omitempty"`
	Zone    string `json:"zone,omitempty"`
	// Trace bounds the record of the pool's jobs, and Egress is what they may reach.
	Trace  PoolTrace `json:"trace,omitzero"`
	Egress Egress    `json:"egress,omitzero"`
}

var poolName = regexp.MustCompile(`\A[a-zA-Z0-9_-]+\z`) // S1-102

// WithDefaults returns the pool with every unset field set. The scaling of an
// ephemeral pool defaults to one runner per queued job at once (S0-11, C14);
// Scaling's own zero value is not a wish for zero runners.
func (p Pool) WithDefaults() Pool {
	p.Workspace = first(p.Workspace, "default")
	p.Project = first(p.Project, "default")
	p.RunnerGroup = first(p.RunnerGroup, 1)
	p.Lifecycle = first(p.Lifecycle, LifecycleEphemeral)
	p.Registration = first(p.Registration, RegistrationJIT)
	p.MaxJobCount = first(p.MaxJobCount, 1)
	p.NoJobTimeout = first(p.NoJobTimeout, DefaultNoJobTimeout)
	p.RotationInterval = first(p.RotationInterval, DefaultRotationInterval)
	p.MaxAge = first(p.MaxAge, DefaultMaxAge)
	p.Provisioning = first(p.Provisioning, DefaultProvisioning)
	if p.Scaling == (Scaling{}) {
		p.Scaling = OnDemandScaling()
	}
	if p.Scaling.JobsPerRunner == 0 && p.MaxJobCount == 1 {
		p.Scaling.JobsPerRunner = 1 // one-job runners: one per job (C14)
	}
	p.Scaling.JobsPerRunner = first(p.Scaling.JobsPerRunner, DefaultScaling().JobsPerRunner)
	if len(p.Labels) == 0 && p.ScaleSet != "" {
		p.Labels = Labels{p.ScaleSet} // what workflows name in runs-on
	}
	p.Labels = p.Labels.Unique()
	if len(p.RunnerLabels) == 0 {
		p.RunnerLabels = append(append(Labels{}, p.Labels...), "self-hosted", "Linux", "X64")
	}
	p.RunnerLabels = p.RunnerLabels.Unique()
	return p
}

// Validate returns every problem of the pool joined in one error, each of
// CodeInvalid with a remedy; nil if there is none.
func (p Pool) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, Errorf(CodeInvalid, "pool %q: "+format, append([]any{p.Name}, args...)...))
	}
	if !poolName.MatchString(p.Name) {
		bad("the name may have letters, digits, '-' and '_' only")
	}
	if err := p.Scope.Validate(); err != nil {
		bad("%s", MessageOf(err))
	}
	if len(p.Labels) == 0 {
		bad("it has no labels and would want every job: give it at least one label")
	}
	if err := errors.Join(p.Labels.Validate(), p.RunnerLabels.Validate()); err != nil {
		bad("%s", err)
	}
	if missing := p.Labels.Missing(p.RunnerLabels); len(missing) > 0 {
		bad("runner_labels lack %s: a job that triggers the pool could never run on it", missing)
	}
	if p.Provider == "" {
		bad("no provider: name one of the configured providers")
	}
	switch p.Lifecycle {
	case LifecycleEphemeral, LifecycleKept:
	default:
		bad("lifecycle %q is unknown: use ephemeral or kept", p.Lifecycle)
	}
	switch p.Registration {
	case RegistrationJIT, RegistrationToken, RegistrationPreregistered:
	default:
		bad("registration %q is unknown: use jit, token or preregistered", p.Registration)
	}
	for _, r := range p.Repositories {
		if !validRepository(r) {
			bad("repository %q is not owner/name", r)
		}
	}
	if p.MaxJobCount < 1 || p.Provisioning < 1 {
		bad("max_job_count and provisioning must be at least 1")
	}
	if p.NoJobTimeout < 0 || p.RotationInterval < 0 || p.MaxAge < 0 || p.ConnectTimeout < 0 {
		bad("times must not be negative")
	}
	if err := p.Scaling.Validate(); err != nil {
		bad("%s", MessageOf(err))
	}
	p.validateRules(bad)
	p.Trace.validate(bad)
	p.Egress.validate(bad)
	return errors.Join(errs...)
}

// pattern is what repositories in quotas and priorities are written in.
var pattern = regexp.MustCompile(`\A[a-zA-Z0-9._/*-]+\z`)

// validateRules says what is wrong with the rules of rules.go.
func (p Pool) validateRules(bad func(format string, args ...any)) {
	if p.JobWait < 0 || p.Overflow.After < 0 || p.InactiveMinutes < 0 {
		bad("job_wait, overflow and inactive_minutes must not be negative")
	}
	if p.ScaleSet != "" {
		switch {
		case !labelText.MatchString(p.ScaleSet):
			bad("scale_set %q has a character that is not allowed: use letters, digits, '.', '_' and '-'", p.ScaleSet)
		case p.Lifecycle == LifecycleKept || p.Registration != RegistrationJIT:
			bad("runners of a scale set have one job each and register by jit: leave lifecycle and registration at ephemeral and jit")
		}
	}
	for i, s := range p.Schedules {
		switch {
		case s.Cron == "":
			bad("schedule %d has no cron expression", i+1)
		case s.For <= 0:
			bad("schedule %d (%s) needs for: how long its limits hold after each firing", i+1, s.Cron)
		case s.MinRunners == nil && s.MaxRunners == nil:
			bad("schedule %d (%s) changes nothing: set min_runners or max_runners", i+1, s.Cron)
		case s.MinRunners != nil && *s.MinRunners < 0 || s.MaxRunners != nil && *s.MaxRunners < 0:
			bad("schedule %d (%s) has a negative limit", i+1, s.Cron)
		case s.MinRunners != nil && s.MaxRunners != nil && *s.MinRunners > *s.MaxRunners:
			bad("schedule %d (%s): max_runners must be >= min_runners", i+1, s.Cron)
		}
	}
	switch {
	case p.Overflow.Pool == "" && p.Overflow.After != 0:
		bad("overflow names no pool")
	case p.Overflow.Pool != "" && p.Overflow.Pool == p.Name:
		bad("it overflows into itself")
	}
	names := map[string]bool{}
	for i, q := range p.Quotas {
		switch {
		case q.Name == "":
			bad("quota %d has no name", i+1)
		case names[q.Name]:
			bad("two quotas are named %q", q.Name)
		case q.MaxRunners < 0:
			bad("quota %q: max_runners cannot be negative", q.Name)
		}
		names[q.Name] = true
		for _, r := range q.Repositories {
			if !pattern.MatchString(r) {
				bad("quota %q: %q is not owner/name with * for any characters", q.Name, r)
			}
		}
	}
	for i, r := range p.Priorities {
		switch {
		case r.Label == "" && r.Branch == "" && r.Repository == "" && r.Event == "":
			bad("priority %d has no condition and would move every job alike: set label, branch, repository or event", i+1)
		case r.Weight == 0:
			bad("priority %d has no weight and would move nothing", i+1)
		case r.Repository != "" && !pattern.MatchString(r.Repository):
			bad("priority %d: %q is not owner/name with * for any characters", i+1, r.Repository)
		}
	}
	switch c := p.Canary; {
	case c == Canary{}:
	case c.Offering == "":
		bad("canary names no offering")
	case c.Offering == p.Offering:
		bad("canary names the pool's own offering %q", c.Offering)
	case c.Percent < 1 || c.Percent > 100:
		bad("canary percent %d is not a share: write 1 to 100", c.Percent)
	case c.MaxFailures < 0:
		bad("canary max_failures cannot be negative")
	}
}

// Refusal says why the pool would not serve the job for a reason other than
// labels, in words with the remedy; "" if it would.
func (p Pool) Refusal(j Job) string {
	switch {
	case !p.Enabled:
		return "pool " + p.Name + " is disabled"
	case !p.Scope.Covers(j.Repository):
		return "pool " + p.Name + " registers runners at " + p.Scope.String() + ", which " + j.Repository + " cannot use"
	case len(p.Repositories) > 0 && !Labels(p.Repositories).Has(j.Repository):
		return "pool " + p.Name + " is limited to other repositories"
	case p.App != "" && j.App != "" && p.App != j.App:
		return "pool " + p.Name + " acts as another GitHub App"
	case p.Lifecycle == LifecycleKept && j.PublicRepo && !p.AllowPublic:
		return "pool " + p.Name + " keeps its machines and refuses public repositories; set allow_public to accept the risk"
	}
	return ""
}

// Route picks the pool that a job is counted for: the first, in the order given,
// that serves its labels and does not refuse it; or else the first that would if
// it were enabled, so that the job waits there and is served when it is. ok is
// false if there is none.
func Route(pools []Pool, j Job) (p Pool, ok bool) {
	var asleep Pool
	for _, p := range pools {
		if p.Removed || !MatchLabels(p.Labels, p.RunnerLabels, j.Labels).Serves() {
			continue
		}
		awake := p
		awake.Enabled = true
		switch {
		case awake.Refusal(j) != "":
		case p.Enabled:
			return p, true
		case !ok:
			asleep, ok = p, true
		}
	}
	return asleep, ok
}

// PoolOverride is what an operator changed over the configuration. Nil fields
// leave the configuration's value.
type PoolOverride struct {
	Enabled    *bool `json:"enabled,omitempty"`
	Suspended  *bool `json:"suspended,omitempty"`
	MinRunners *int  `json:"min_runners,omitempty"`
	MaxRunners *int  `json:"max_runners,omitempty"`
}

// Override returns the pool with o applied.
func (p Pool) Override(o PoolOverride) Pool {
	if o.Enabled != nil {
		p.Enabled = *o.Enabled
	}
	if o.Suspended != nil {
		p.Suspended = *o.Suspended
	}
	if o.MinRunners != nil {
		p.Scaling.MinRunners = *o.MinRunners
	}
	if o.MaxRunners != nil {
		p.Scaling.MaxRunners = *o.MaxRunners
	}
	return p
}
