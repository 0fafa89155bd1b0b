package muster

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

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
	// ScaleDownCooldown is how long after the last scaling in either direction a
	// pool does not scale down; 0 is Cooldown (4-26).
	ScaleDownCooldown time.Duration `json:"scale_down_cooldown,omitempty"`
	// MinRunTime is how old a runner must be before scaling down may end it; 0 is a
	// minute (4-25).
	MinRunTime time.Duration `json:"min_run_time,omitempty"`
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
	// Windows are the firings of the pool's schedules that are open or come next.
	Windows []Window `json:"windows,omitempty"`
	// Unnamed is how many more jobs wait than Jobs lists, known only by number (a
	// scale set's statistics); UnnamedSince is since when.
	Unnamed      int       `json:"unnamed,omitempty"`
	UnnamedSince time.Time `json:"unnamed_since,omitzero"`
	// Spending is how the pool's project stands with its budget.
	Spending Spending    `json:"spending,omitzero"`
	Canary   CanaryCount `json:"canary,omitzero"`
	// ProviderHeld is until when the provider is left alone, because it refused or
	// because what it made failed, and ProviderError its last words; zero if it works.
	ProviderHeld  time.Time `json:"provider_held,omitzero"`
	ProviderError string    `json:"provider_error,omitempty"`
	// ProviderRoom is how many runners may be starting while the room of a provider
	// that was full is felt for; 0 is no such limit.
	ProviderRoom int `json:"provider_room,omitempty"`
}

// PlanJob is what a decision needs to know of a job.
type PlanJob struct {
	ID       int64     `json:"id"`
	Attempt  int       `json:"attempt,omitempty"`
	State    JobState  `json:"state"`
	QueuedAt time.Time `json:"queued_at"`
	// Repository is owner/name: quotas and fair shares count by it.
	Repository string `json:"repository,omitempty"`
	// Priority is the sum of the weights of the pool's rules that match.
	Priority int `json:"priority,omitempty"`
	// Overflows is set when the pool's overflow pool could serve the job too.
	Overflows bool `json:"overflows,omitempty"`
	// Tries is how many runners that were made for the job listened in vain or were
	// taken by jobs of other pools, TriedAt when the last of them was.
	Tries   int       `json:"tries,omitempty"`
	TriedAt time.Time `json:"tried_at,omitzero"`
	// Said is the runner whose agent says that it took the job, while GitHub has not said so:
	// for a short time State is in_progress then, whatever the books have.
	Said RunnerID `json:"said,omitempty"`
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

// The rules of which one decides (Decision.Rule).
const (
	RuleFormula           = "formula"
	RuleCooldown          = "cooldown"
	RuleStarvation        = "starvation"         // C15
	RuleWarmFloor         = "warm_floor"         // min_runners
	RuleLimit             = "limit"              // max_runners
	RuleProvisioningLimit = "provisioning_limit" // S1-112
	RuleNoData            = "no_data"            // 4-27
	RuleSuspended         = "suspended"          // C34
	RuleDisabled          = "disabled"
	RuleRotation          = "rotation" // C20
	RuleMaxAge            = "max_age"
	RuleQuota             = "quota"
	RuleJobWait           = "job_wait"
	RuleNoTaker           = "no_taker"       // 4-2: runners were made for a job, and none got it
	RulePoolSuspended     = "pool_suspended" // S4-17
	RuleBudget            = "budget"
	RuleSchedule          = "schedule"
	RuleOverflow          = "overflow"
	RuleProviderRefusing  = "provider_refusing" // 4-52
)

// Decision is what to do about one pool, and why. It is recorded with its Snapshot.
type Decision struct {
	ScalingDecision
	Metrics QueueMetrics `json:"metrics"`
	// Rule names the rule that decided, one of the Rule… constants.
	Rule string `json:"rule"`
	// Create is how many runners to make for queued jobs, Warm how many for the floor.
	Create int `json:"create"`
	Warm   int `json:"warm"`
	// Drain are idle runners that should go, oldest first. Never a busy or unknown one.
	Drain []RunnerID `json:"drain,omitempty"`
	// For are the ids of the jobs that Create makes runners for, first the first:
	// one per runner, or as many as JobsPerRunner. GitHub may give the runners to
	// others. It is shorter where jobs are known only by number.
	For []int64 `json:"for,omitempty"`
	// Canary is how many of Create and Warm get the canary's offering.
	Canary int `json:"canary,omitempty"`
	// Overflow are the ids of jobs to hand to the pool's overflow pool.
	Overflow []int64 `json:"overflow,omitempty"`
	// WakeAt is when the decision may change without any event; zero for never.
	WakeAt time.Time `json:"wake_at,omitzero"`
}

// StartsCooldown reports whether the decision is a scaling action from which
// the pool's cooldown counts, so that its time becomes Snapshot.LastScaling.
// Filling the floor, rotating, and a scale-up that the provisioning limit cut
// short are none: else a pool that refills its floor could never follow its
// queue, and a cut scale-up would wait a cooldown for its rest.
func (d Decision) StartsCooldown() bool {
	return d.Action != Maintain && (d.Rule == RuleFormula || d.Rule == RuleStarvation)
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
	case s.ScaleDownCooldown < 0:
		return Errorf(CodeInvalid, "scale_down_cooldown cannot be negative")
	case s.MinRunTime < 0:
		return Errorf(CodeInvalid, "min_run_time cannot be negative")
	}
	return nil
}

// CalculateScalingDecision is the scaling formula (S1-45…S1-51), exactly as
// specified and with no thought for what the runners are doing; Plan is what
// applies it safely. Inside the cooldown since lastAction (zero for never) it
// maintains. Else the target is ceil(pending / jobs per runner), clamped to the
// limits, and the action follows only if the target differs from current by more
// than the threshold. When it maintains, the target is current. The error is
// CodeInvalid, for a negative current or a Scaling that Validate refuses.
func CalculateScalingDecision(m QueueMetrics, current int, s Scaling, lastAction time.Time, now time.Time) (ScalingDecision, error) {
	if current < 0 {
		return ScalingDecision{}, Errorf(CodeInvalid, "current_runner_count cannot be negative")
	}
	if err := s.Validate(); err != nil {
		return ScalingDecision{}, err
	}
	d := ScalingDecision{Action: Maintain, Target: current, Current: current}
	if until := s.coolUntil(lastAction); now.Before(until) {
		// The end and not the rest, so that the same decision keeps the same words.
		d.Reason = fmt.Sprintf("cooldown of %s since the last scaling lasts until %s: %s stay", s.Cooldown, clock(until), count(current, "runner"))
		return d, nil
	}
	target := s.target(m.PendingJobs)
	wish := fmt.Sprintf("%s at %d per runner, limits %d…%d: %s wanted, %d there",
		count(m.PendingJobs, "pending job"), s.JobsPerRunner, s.MinRunners, s.MaxRunners, count(target, "runner"), current)
	switch {
	case target-current > s.ScaleUpThreshold:
		d.Action, d.Target = ScaleUp, target
		d.Reason = fmt.Sprintf("%s, %d missing, above the threshold of %d", wish, target-current, s.ScaleUpThreshold)
	case current-target > s.ScaleDownThreshold:
		d.Action, d.Target = ScaleDown, target
		d.Reason = fmt.Sprintf("%s, %d too many, above the threshold of %d", wish, current-target, s.ScaleDownThreshold)
	case target == current:
		d.Reason = wish
	default:
		d.Reason = fmt.Sprintf("%s, within the thresholds (%d up, %d down)", wish, s.ScaleUpThreshold, s.ScaleDownThreshold)
	}
	return d, nil
}

// target is how many runners pending jobs want, within the limits (S1-47, S1-48).
func (s Scaling) target(pending int) int {
	want := pending / s.JobsPerRunner
	if pending%s.JobsPerRunner > 0 {
		want++
	}
	return max(s.MinRunners, min(s.MaxRunners, want))
}

// coolUntil is when the cooldown after the last action ends, zero if there was none.
func (s Scaling) coolUntil(lastAction time.Time) time.Time {
	if lastAction.IsZero() {
		return time.Time{}
	}
	return lastAction.Add(s.Cooldown)
}

// settleMargin is how much longer than its no-job timeout an idle runner of an
// on-demand pool is left alone, so that normally its own agent ends it and a
// drain is the fallback.
const settleMargin = 30 * time.Second

// defaultMinRunTime is Scaling.MinRunTime where it is not set: platforms charge
// for a minute at least.
const defaultMinRunTime = time.Minute

// Plan decides what to do about one pool at one time. It is pure: the same
// snapshot and time give the same decision, and the decision with its snapshot
// can be replayed. docs/scaling.md tells operators the same with examples.
//
// Of the runners, the draining are leaving, the provisioning are starting, the
// registered that are not busy are idle, and all others are busy: what is not
// known to be idle counts as busy (4-18). Idle and starting runners are the
// supply for jobs that wait.
//
// Of the queued jobs, those that are younger than JobWait and those that a quota
// has no room for are held, and those that several runners in a row were made for
// in vain, until their next try: they may take an idle runner and make none. The others
// are in line (see demand for the order), and the supply serves the first of them.
//
// The scaling formula is fed with the jobs in line as its pending jobs and the
// supply as its current count, so that starting runners count as capacity (4-26)
// and a busy runner is neither capacity for a waiting job nor removable (C17). Its
// limits are what the pool's limits leave: max minus busy and draining runners, so
// that all live runners together stay within max; min minus busy runners. The
// pool's limits are those of its open windows where these set any: the largest
// min and the smallest max of them. Metrics.PendingJobs is what the supply does
// not cover (C19).
//
// Around the formula, in this order:
//
//   - A disabled pool drains every idle runner. One whose installation is
//     suspended, one that is suspended itself (S4-17), and one whose demand is
//     unknown (4-27) change nothing.
//   - A lowered budget takes the floor away and lets jobs wait for five minutes; a
//     stopped one lets nothing new be made.
//   - Starvation (C15): outside the cooldown, when jobs are in line, no runner is
//     idle or starting and the oldest job has waited a cooldown, the target is
//     made at once, whatever the threshold says.
//   - The warm floor: a supply below min is filled at once, whatever threshold and
//     cooldown say. Runners beyond what the queue wants are counted as Warm.
//   - Nothing is made while the provider is held, and few at a time while its room
//     is felt for. The provisioning limit cuts what
//     is created so that starting runners stay within Pool.Provisioning; jobs are
//     served before the floor.
//   - Scaling down drains idle runners only, longest idle first and none younger
//     than MinRunTime (4-25), and keeps as many ready as the floor wants and as
//     queued jobs, held ones too, could take at this moment. An on-demand pool
//     (Cooldown 0) drains only runners that outstayed their no-job timeout; a kept
//     one leaves that to its inactivity timer.
//   - Idle runners above max (it was lowered) are drained at once.
//   - If nothing else is to do: one idle runner above MaxAge is drained. One above
//     RotationInterval is drained when enough others listen; else, if max has room
//     and nothing starts or drains, one is made to take its place (C20).
//   - Of what is made, a share gets the canary's offering.
//   - Jobs that waited for Overflow.After and have no runner that idles, starts or
//     is made now are handed over, in whatever state the pool is, unless its demand
//     is unknown.
//
// Decision.Current counts all live runners and Target what they should become,
// before the provisioning limit; Create, Warm and Drain are what to do now.
func Plan(s Snapshot, now time.Time) Decision {
	p := s.Pool.WithDefaults()
	window := s.window(p.Scaling, now)
	p.Scaling = window.Scaling
	sc := p.Scaling
	q := s.demand(p, now)
	f := countRunners(s.Runners)
	supply := f.idle + f.starting
	unmet := len(q.line) > sc.served(supply, len(q.line))

	d := Decision{
		ScalingDecision: ScalingDecision{Action: Maintain, Target: f.live(), Current: f.live()},
		Metrics: QueueMetrics{
			PendingJobs:    max(0, q.queued-supply),
			InProgressJobs: q.running,
			QueuedJobs:     q.queued,
			TotalJobs:      q.queued + q.running,
			Timestamp:      now,
		},
	}
	switch {
	case !p.Enabled:
		d.Rule = RuleDisabled
		d.Reason = fmt.Sprintf("the pool is disabled: %s, %s", waits(q.queued), f)
		d.drain(f.ready)
		d.overflow(p, q, 0, now)
		return d
	case s.Suspended:
		d.Rule = RuleSuspended
		d.Reason = fmt.Sprintf("the installation is suspended: %s and nothing is added, %s", waits(q.queued), f)
		d.overflow(p, q, supply, now)
		return d
	case p.Suspended:
		d.Rule = RulePoolSuspended
		d.Reason = fmt.Sprintf("the pool is suspended: %s and nothing is added, %s", waits(q.queued), f)
		d.overflow(p, q, supply, now)
		return d
	case s.DemandUnknown:
		d.Rule = RuleNoData
		d.Reason = fmt.Sprintf("the queue could not be learned, so nothing changes: %s", f)
		return d
	}

	// What the limits leave for waiting jobs. An operator's override can put min
	// above max; max wins.
	left := sc
	left.MaxRunners = max(0, sc.MaxRunners-f.busy-f.draining)
	stopped := s.Spending.State == SpendingStopped && left.MaxRunners > supply
	if stopped {
		left.MaxRunners = supply
	}
	left.MinRunners = min(max(0, sc.MinRunners-f.busy), left.MaxRunners)
	formula, err := CalculateScalingDecision(QueueMetrics{PendingJobs: len(q.line)}, supply, left, s.LastScaling, now)
	if err != nil { // Only a pool that was never validated comes here.
		d.Rule, d.Reason = RuleNoData, "the pool's scaling is not usable: "+MessageOf(err)
		return d
	}
	cooling := now.Before(sc.coolUntil(s.LastScaling))
	d.wake(sc.coolUntil(s.LastScaling), now)
	if sc.ScaleDownCooldown > 0 {
		// The other direction is the formula with the other cooldown.
		down := sc
		down.Cooldown = sc.ScaleDownCooldown
		d.wake(down.coolUntil(s.LastScaling), now)
		rest := left
		rest.Cooldown = sc.ScaleDownCooldown
		fall, _ := CalculateScalingDecision(QueueMetrics{PendingJobs: len(q.line)}, supply, rest, s.LastScaling, now) // its numbers are those from above
		if fall.Action == ScaleDown || formula.Action == ScaleDown {
			formula, cooling = fall, now.Before(down.coolUntil(s.LastScaling))
		}
	}
	for _, w := range s.Windows {
		d.wake(w.From, now)
		d.wake(w.Until, now)
	}
	d.wake(q.ripe, now)
	d.wake(q.impatient, now)
	d.wake(s.ProviderHeld, now)

	floor, want := left.MinRunners, left.target(len(q.line))
	d.Rule, d.Reason = RuleFormula, formula.Reason
	if cooling {
		d.Rule = RuleCooldown
	}

	up := 0
	starved := len(q.line) > 0 && supply == 0 && want > 0
	switch {
	case formula.Action == ScaleUp:
		up = want - supply
	case starved && !cooling && !now.Before(q.oldest.Add(sc.Cooldown)):
		up = want
		d.Rule = RuleStarvation
		d.Reason = fmt.Sprintf("%s, the oldest for %s, and no runner is idle or starting: %s made although the threshold is %d",
			waits(len(q.line)), age(q.oldest, now), count(want, "runner"), sc.ScaleUpThreshold)
	case starved:
		d.wake(q.oldest.Add(sc.Cooldown), now)
	}
	create := 0 // of these, how many for jobs and not for the floor
	if up > 0 {
		forJobs := left
		forJobs.MinRunners = 0
		create = min(up, max(0, forJobs.target(len(q.line))-supply))
	}
	up = max(up, floor-supply)
	if up > 0 && create == 0 {
		// The floor alone asks for these; a job that comes takes one all the same.
		d.Rule = RuleWarmFloor
		if !window.minUntil.IsZero() {
			d.Rule = RuleSchedule
		}
		d.Reason = fmt.Sprintf("the floor of %s%s lacks %d: %s", count(sc.MinRunners, "runner"), byWindow(window.minUntil), up, f)
	}
	if up == 0 && supply >= left.MaxRunners && unmet {
		d.Rule = RuleLimit
		d.Reason = fmt.Sprintf("at the limit of %s%s with %s waiting: %s", count(sc.MaxRunners, "runner"), byWindow(window.maxUntil), count(q.queued, "job"), f)
		if stopped {
			d.Rule = RuleBudget
			d.Reason = fmt.Sprintf("%s: %s, %s", s.Spending, waits(q.queued), f)
		}
	}
	if up > 0 {
		d.Target = d.Current + up
		slots := max(0, p.Provisioning-f.starting)
		switch {
		case now.Before(s.ProviderHeld):
			d.Rule, d.Target = RuleProviderRefusing, d.Current
			d.Reason = fmt.Sprintf("%d wanted, but the provider is left alone until %s: %s", up, clock(s.ProviderHeld), first(s.ProviderError, "it refused"))
			up = 0
		case s.ProviderRoom > 0 && up > max(0, s.ProviderRoom-f.starting) && s.ProviderRoom-f.starting < slots:
			slots = max(0, s.ProviderRoom-f.starting)
			d.Rule = RuleProviderRefusing
			d.Reason = fmt.Sprintf("%s; %d of %d wait because the provider refused before and is asked for %d at a time", d.Reason, up-slots, up, s.ProviderRoom)
			up = slots
		case up > slots:
			d.Rule = RuleProvisioningLimit
			d.Reason = fmt.Sprintf("%s; %d of %d wait because %d of at most %d are starting", d.Reason, up-slots, up, f.starting, p.Provisioning)
			up = slots
		}
		create = min(create, up)
		d.Create, d.Warm = create, up-create
		if up > 0 {
			d.Action = ScaleUp
		}
	}

	settle := time.Duration(0)
	if sc.Cooldown == 0 {
		settle = p.NoJobTimeout + settleMargin
	}
	keep := max(floor, min(f.idle, q.queued)) // ready runners that the floor or a queued job needs
	if formula.Action == ScaleDown && (sc.Cooldown > 0 || p.Lifecycle != LifecycleKept) {
		// A runner that is registered and does not listen yet replaces nobody.
		spare := max(0, min(supply-formula.Target, len(f.ready)-keep))
		var settled []PlanRunner
		for _, r := range f.ready {
			since := r.IdleSince.Add(settle)
			if young := first(r.CreatedAt, r.IdleSince).Add(first(sc.MinRunTime, defaultMinRunTime)); young.After(since) {
				since = young
			}
			if now.Before(since) {
				d.wake(since, now)
			} else {
				settled = append(settled, r)
			}
		}
		n := min(spare, len(settled))
		if n == 1 && f.draining == 0 && f.oldest().outlived(p.RotationInterval, now) {
			n = 0 // One that was made to take another's place: renew ends the older one.
		}
		d.drain(settled[:n])
	}
	if formula.Action == ScaleDown && len(d.Drain) == 0 {
		d.Reason += "; none can go now: " + f.String()
	}
	if over := f.live() - f.draining - sc.MaxRunners; over > len(d.Drain) {
		d.Rule = RuleLimit
		d.Reason = fmt.Sprintf("%d above the limit of %s%s: %s", over, count(sc.MaxRunners, "runner"), byWindow(window.maxUntil), f)
		d.drain(f.ready[:min(over, len(f.ready))])
	}
	d.renew(p, f, max(want, keep), s.Spending.State != SpendingStopped && !now.Before(s.ProviderHeld), now)
	if d.Action == Maintain && !unmet {
		d.held(s, p, q)
	}
	if s.Spending.State != SpendingFine && d.Rule != RuleBudget {
		d.Reason += "; " + s.Spending.String()
	}
	d.Canary = p.Canary.share(s.Canary, d.Create+d.Warm)
	if from := sc.served(supply, len(q.line)); d.Create > 0 {
		for _, j := range q.line[from : from+sc.served(d.Create, len(q.line)-from)] {
			if j.id != 0 {
				d.For = append(d.For, j.id)
			}
		}
	}
	d.overflow(p, q, supply+d.Create, now)
	return d
}

// limits are those that hold at one time: of a window until it closes, or else,
// with a zero time, the pool's own.
type limits struct {
	Scaling
	minUntil, maxUntil time.Time
}

// window lays the limits of the open windows over those of the pool: the largest
// min and the smallest max that any of them sets. Where two say the same, the one
// that closes later counts.
func (s Snapshot) window(sc Scaling, now time.Time) (l limits) {
	l.Scaling = sc
	for _, w := range s.Windows {
		if now.Before(w.From) || !now.Before(w.Until) {
			continue
		}
		if n := w.MinRunners; n != nil && (l.minUntil.IsZero() || *n > l.MinRunners || *n == l.MinRunners && w.Until.After(l.minUntil)) {
			l.MinRunners, l.minUntil = *n, w.Until
		}
		if n := w.MaxRunners; n != nil && (l.maxUntil.IsZero() || *n < l.MaxRunners || *n == l.MaxRunners && w.Until.After(l.maxUntil)) {
			l.MaxRunners, l.maxUntil = *n, w.Until
		}
	}
	if s.Spending.State == SpendingLowered || s.Spending.State == SpendingStopped {
		l.MinRunners, l.minUntil = 0, time.Time{}
	}
	return l
}

// Limits are the scaling that holds at a time: with the limits of the windows that
// are open then.
func (s Snapshot) Limits(sc Scaling, now time.Time) Scaling { return s.window(sc, now).Scaling }

// byWindow says that a schedule set a limit; "" for a zero time.
func byWindow(until time.Time) string {
	if until.IsZero() {
		return ""
	}
	return " (by schedule until " + clock(until) + ")"
}

// held says why jobs that wait make no runner, where that alone keeps the pool from growing.
func (d *Decision) held(s Snapshot, p Pool, q demand) {
	switch wait, budget := s.wait(p); {
	case q.over > 0:
		var full []string
		for _, r := range q.quotas {
			if r.held > 0 {
				full = append(full, r.String())
			}
		}
		if more := len(full) - 3; more > 0 {
			full = append(full[:3], fmt.Sprintf("%d more", more))
		}
		d.Rule = RuleQuota
		d.Reason = fmt.Sprintf("%s over a quota: %s", count(q.over, "waiting job"), strings.Join(full, ", "))
	case q.tried > 0:
		d.Rule = RuleNoTaker
		d.Reason = fmt.Sprintf("%s that GitHub gave to none of at least %d runners made for it; the next is made at %s", count(q.tried, "waiting job"), freeTries, clock(q.ripe))
	case q.young > 0:
		d.Rule = RuleJobWait
		d.Reason = fmt.Sprintf("%s younger than %s, the first until %s", count(q.young, "waiting job"), wait, clock(q.ripe))
		if budget {
			d.Rule = RuleBudget
			d.Reason = s.Spending.String() + ": " + d.Reason
		}
	}
}

// overflow notes the jobs that have waited long enough and have none of so many
// runners, which are those that idle, start or are made now.
func (d *Decision) overflow(p Pool, q demand, runners int, now time.Time) {
	if p.Overflow.Pool == "" {
		return
	}
	d.wake(q.ripe, now) // the runners there are may serve others then
	d.wake(q.impatient, now)
	var due []waiting
	later := instant(math.MaxInt64)
	for _, jobs := range [][]waiting{q.line[p.Scaling.served(runners, len(q.line)):], q.held} {
		for _, j := range jobs {
			if !j.overflows {
				continue
			}
			if at := j.at.add(p.Overflow.After); at <= instantOf(now) {
				due = append(due, j)
			} else {
				later = min(later, at)
			}
		}
	}
	if later < math.MaxInt64 {
		d.wake(later.time(), now)
	}
	if len(due) == 0 {
		return
	}
	slices.SortFunc(due, func(a, b waiting) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id))
	})
	d.Overflow = make([]int64, len(due))
	for i, j := range due {
		d.Overflow[i] = j.id
	}
	if d.Action == Maintain {
		d.Rule = RuleOverflow
	}
	d.Reason += fmt.Sprintf("; %s to pool %s after %s", count(len(due), "job"), p.Overflow.Pool, p.Overflow.After)
}

// renew is the rule of age: it acts only when nothing else is to be done, on one
// runner at a time. ready is how many listening runners have to remain, and
// mayMake whether a new one may be made.
func (d *Decision) renew(p Pool, f fleet, ready int, mayMake bool, now time.Time) {
	for _, r := range f.ready {
		if !r.CreatedAt.IsZero() {
			d.wake(r.CreatedAt.Add(p.RotationInterval), now)
			d.wake(r.CreatedAt.Add(p.MaxAge), now)
		}
	}
	oldest := f.oldest()
	if oldest.ID == "" || d.Create+d.Warm+len(d.Drain) > 0 || d.Target > d.Current {
		return
	}
	settled := f.starting == 0 && f.idle == len(f.ready) // nobody is on the way to listening
	switch room := mayMake && f.live() < p.Scaling.MaxRunners; {
	case oldest.outlived(p.MaxAge, now):
		d.drain([]PlanRunner{oldest})
		d.Rule = RuleMaxAge
		d.Reason = fmt.Sprintf("runner %s is %s old, above the limit of %s", oldest.ID, age(oldest.CreatedAt, now), p.MaxAge)
	case !oldest.outlived(p.RotationInterval, now) || f.draining > 0:
	case len(f.ready) > ready:
		d.drain([]PlanRunner{oldest})
		d.Rule = RuleRotation
		d.Reason = fmt.Sprintf("runner %s is %s old (rotation every %s) and %d others are ready", oldest.ID, age(oldest.CreatedAt, now), p.RotationInterval, len(f.ready)-1)
	case settled && room:
		d.Action, d.Target, d.Warm = ScaleUp, d.Current+1, 1
		d.Rule = RuleRotation
		d.Reason = fmt.Sprintf("runner %s is %s old (rotation every %s): one is made to take its place", oldest.ID, age(oldest.CreatedAt, now), p.RotationInterval)
	}
}

// drain makes runners the ones to go.
func (d *Decision) drain(runners []PlanRunner) {
	if len(runners) == 0 {
		return
	}
	d.Drain = make([]RunnerID, len(runners))
	for i, r := range runners {
		d.Drain[i] = r.ID
	}
	d.Action, d.Target = ScaleDown, d.Current-len(runners)
}

// wake notes that the decision may change at t by time alone.
func (d *Decision) wake(t, now time.Time) {
	if t.After(now) {
		d.WakeAt = earlier(d.WakeAt, t)
	}
}

// fleet is a pool's runners in numbers. ready are the idle ones of which it is
// known since when, the longest idle first: only they may be drained.
type fleet struct {
	idle, starting, busy, draining int
	ready                          []PlanRunner
}

func countRunners(runners []PlanRunner) (f fleet) {
	for _, r := range runners {
		switch {
		case !r.State.Live():
		case r.State == RunnerDraining:
			f.draining++
		case r.State == RunnerProvisioning && !r.Busy:
			f.starting++
		case r.State == RunnerRegistered && !r.Busy:
			f.idle++
			if !r.IdleSince.IsZero() {
				f.ready = append(f.ready, r)
			}
		default:
			f.busy++
		}
	}
	slices.SortFunc(f.ready, func(a, b PlanRunner) int {
		if c := a.IdleSince.Compare(b.IdleSince); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return f
}

// oldest is the ready runner that was made first, zero if there is none of known
// age: the agent and the sweep bound the life of the others.
func (f fleet) oldest() (oldest PlanRunner) {
	for _, r := range f.ready {
		if !r.CreatedAt.IsZero() && (oldest.ID == "" || r.CreatedAt.Before(oldest.CreatedAt)) {
			oldest = r
		}
	}
	return oldest
}

// outlived reports whether the runner is at least that old; never for one of
// unknown age.
func (r PlanRunner) outlived(limit time.Duration, now time.Time) bool {
	return !r.CreatedAt.IsZero() && now.Sub(r.CreatedAt) >= limit
}

func (f fleet) live() int { return f.idle + f.starting + f.busy + f.draining }

// String is "10 live runners: 7 busy, 1 idle, 2 starting, 0 draining".
func (f fleet) String() string {
	return fmt.Sprintf("%s: %d busy, %d idle, %d starting, %d draining", count(f.live(), "live runner"), f.busy, f.idle, f.starting, f.draining)
}

// count is a number with its noun: "1 runner", "2 runners".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// clock is a time as reasons and causes show it.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// age is how long ago t was, in whole seconds; zero t is "ever".
func age(t, now time.Time) string {
	if t.IsZero() {
		return "ever"
	}
	return max(0, now.Sub(t)).Truncate(time.Second).String()
}
