package muster_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// S1-37 S1-38 S1-39 S1-40 S1-41 S1-42
func TestDefaultScaling(t *testing.T) {
	want := muster.Scaling{MinRunners: 0, MaxRunners: 10, JobsPerRunner: 2, ScaleUpThreshold: 2, ScaleDownThreshold: 0, Cooldown: 300 * time.Second}
	if got := muster.DefaultScaling(); got != want {
		t.Errorf("DefaultScaling() = %+v, want %+v", got, want)
	}
	if err := muster.DefaultScaling().Validate(); err != nil {
		t.Error(err)
	}
	if err := muster.OnDemandScaling().Validate(); err != nil {
		t.Error(err)
	}
}

// The decision table of the fleet whose formula this is, executed with its
// defaults: S1-43…S1-51 S1-90, and C16: 8 pending with 2 runners maintains.
func TestScalingFormula(t *testing.T) {
	withMin := func(n int) muster.Scaling {
		s := muster.DefaultScaling()
		s.MinRunners = n
		return s
	}
	for _, c := range []struct {
		name             string
		pending, current int
		scaling          muster.Scaling
		last             time.Duration // before now; 0 for never
		action           muster.ScalingAction
		target           int
		words            []string // that the reason has to hold
	}{
		{"TenPendingNoRunner", 10, 0, muster.DefaultScaling(), 0, muster.ScaleUp, 5, []string{"10", "5", "0"}},
		{"FivePendingNoRunner", 5, 0, muster.DefaultScaling(), 0, muster.ScaleUp, 3, []string{"5", "3"}},
		{"OnePending", 1, 0, muster.DefaultScaling(), 0, muster.Maintain, 0, []string{"1 pending job ", "threshold"}},
		{"TwoPending", 2, 0, muster.DefaultScaling(), 0, muster.Maintain, 0, []string{"2 pending"}},
		{"ThreePending", 3, 0, muster.DefaultScaling(), 0, muster.Maintain, 0, []string{"3 pending"}},
		{"FourPending", 4, 0, muster.DefaultScaling(), 0, muster.Maintain, 0, []string{"4 pending"}}, // C15
		{"EightPendingTwoRunners", 8, 2, muster.DefaultScaling(), 0, muster.Maintain, 2, []string{"8", "4 runners"}},
		{"MoreThanMax", 100, 0, muster.DefaultScaling(), 0, muster.ScaleUp, 10, []string{"100", "10"}},
		{"NothingPending", 0, 5, muster.DefaultScaling(), 0, muster.ScaleDown, 0, []string{"0 pending", "5"}},
		{"FewPending", 2, 5, muster.DefaultScaling(), 0, muster.ScaleDown, 1, []string{"2", "4 too many"}},
		{"FourPendingTwoRunners", 4, 2, muster.DefaultScaling(), 0, muster.Maintain, 2, []string{"4", "2"}},
		{"FivePendingTwoRunners", 5, 2, muster.DefaultScaling(), 0, muster.Maintain, 2, []string{"5", "3 runners"}},
		{"AtMax", 100, 10, muster.DefaultScaling(), 0, muster.Maintain, 10, []string{"100", "10"}},
		{"DownToMin", 0, 5, withMin(2), 0, muster.ScaleDown, 2, []string{"2"}},
		{"NothingAtAll", 0, 0, muster.DefaultScaling(), 0, muster.Maintain, 0, []string{"0 pending"}},
		{"InCooldown", 10, 0, muster.DefaultScaling(), 60 * time.Second, muster.Maintain, 0, []string{"cooldown", "5m0s", "12:04:00Z"}},
		{"InCooldownWithTooMany", 0, 5, muster.DefaultScaling(), 299 * time.Second, muster.Maintain, 5, []string{"cooldown"}},
		{"CooldownJustOver", 10, 0, muster.DefaultScaling(), 300 * time.Second, muster.ScaleUp, 5, nil},
		{"CooldownOver", 10, 0, muster.DefaultScaling(), 360 * time.Second, muster.ScaleUp, 5, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var last time.Time
			if c.last > 0 {
				last = noon.Add(-c.last)
			}
			for range 2 { // S1-45: the same input has the same output
				d, err := muster.CalculateScalingDecision(muster.QueueMetrics{PendingJobs: c.pending}, c.current, c.scaling, last, noon)
				if err != nil {
					t.Fatal(err)
				}
				if d.Action != c.action || d.Target != c.target || d.Current != c.current {
					t.Errorf("got %+v, want %s to %d", d, c.action, c.target)
				}
				if d.Reason == "" {
					t.Error("no reason")
				}
				for _, w := range c.words {
					if !strings.Contains(d.Reason, w) {
						t.Errorf("reason %q lacks %q", d.Reason, w)
					}
				}
			}
		})
	}
}

// S1-45: what is wrong is said, not guessed around.
func TestScalingFormulaRefuses(t *testing.T) {
	for _, c := range []struct {
		current int
		change  func(*muster.Scaling)
		want    string
	}{
		{-1, func(*muster.Scaling) {}, "current_runner_count cannot be negative"},
		{0, func(s *muster.Scaling) { s.MinRunners = -1 }, "min_runners cannot be negative"},
		{0, func(s *muster.Scaling) { s.MaxRunners = -1 }, "max_runners must be >= min_runners"},
		{0, func(s *muster.Scaling) { s.JobsPerRunner = 0 }, "jobs_per_runner must be positive"},
		{0, func(s *muster.Scaling) { s.ScaleUpThreshold = -1 }, "thresholds cannot be negative"},
		{0, func(s *muster.Scaling) { s.Cooldown = -1 }, "cooldown_seconds cannot be negative"},
	} {
		s := muster.DefaultScaling()
		c.change(&s)
		_, err := muster.CalculateScalingDecision(muster.QueueMetrics{}, c.current, s, time.Time{}, noon)
		if err == nil || err.Error() != c.want || muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// S1-28
func TestNeedsScaling(t *testing.T) {
	for _, c := range []struct {
		pending, queued int
		want            bool
	}{{0, 0, false}, {1, 0, true}, {0, 1, true}, {1, 1, true}} {
		if got := (muster.QueueMetrics{PendingJobs: c.pending, QueuedJobs: c.queued, InProgressJobs: 5}).NeedsScaling(); got != c.want {
			t.Errorf("pending %d, queued %d: %t", c.pending, c.queued, got)
		}
	}
}

// snapshots of pools are put together from these.

func pool(change func(*muster.Pool)) muster.Pool {
	p := muster.Pool{Name: "ci", Enabled: true, Labels: muster.Labels{"muster"}, Provider: "process",
		Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}}
	if change != nil {
		change(&p)
	}
	return p.WithDefaults()
}

// fleetPool has the fleet's scaling: threshold 2, cooldown 300 s.
func fleetPool(change func(*muster.Pool)) muster.Pool {
	return pool(func(p *muster.Pool) {
		p.Scaling = muster.DefaultScaling()
		if change != nil {
			change(p)
		}
	})
}

func queued(n int, waited time.Duration) (jobs []muster.PlanJob) {
	for i := range n {
		jobs = append(jobs, muster.PlanJob{ID: int64(1000 + i), State: muster.JobQueued, QueuedAt: noon.Add(-waited)})
	}
	return jobs
}

func running(n int) (jobs []muster.PlanJob) {
	for i := range n {
		jobs = append(jobs, muster.PlanJob{ID: int64(5000 + i), State: muster.JobInProgress, QueuedAt: noon.Add(-time.Hour)})
	}
	return jobs
}

func runner(id string, state muster.RunnerState, idleFor time.Duration) muster.PlanRunner {
	r := muster.PlanRunner{ID: muster.RunnerID(id), State: state, CreatedAt: noon.Add(-idleFor - time.Minute)}
	switch state {
	case muster.RunnerRegistered:
		r.IdleSince = noon.Add(-idleFor)
	case muster.RunnerActive:
		r.Busy = true
	}
	return r
}

func runners(n int, state muster.RunnerState, idleFor time.Duration) (rs []muster.PlanRunner) {
	for i := range n {
		rs = append(rs, runner(fmt.Sprintf("r-%s-%02d", state, i), state, idleFor))
	}
	return rs
}

func TestPlan(t *testing.T) {
	const (
		provisioning = muster.RunnerProvisioning
		registered   = muster.RunnerRegistered
		active       = muster.RunnerActive
		draining     = muster.RunnerDraining
	)
	type want struct {
		action       muster.ScalingAction
		rule         string
		create, warm int
		drain        []muster.RunnerID
		wake         time.Duration // after noon; 0 for never
		target       int
		words        string
	}
	for name, c := range map[string]struct {
		s    muster.Snapshot
		want want
	}{
		"NothingToDo": {muster.Snapshot{Pool: pool(nil)}, want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, 0, "0 pending"}},
		// S0-11 C14: one queued job makes one runner at once, with no threshold and no cooldown.
		"OneJobOneRunner": {muster.Snapshot{Pool: pool(nil), Jobs: queued(1, 0)}, want{muster.ScaleUp, muster.RuleFormula, 1, 0, nil, 0, 1, "1 pending job "}},
		// 4-26: starting runners are capacity.
		"StartingIsCapacity": {muster.Snapshot{Pool: pool(nil), Jobs: queued(3, 0), Runners: runners(3, provisioning, 0)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, 3, ""}},
		"BusyIsNoCapacity": {muster.Snapshot{Pool: pool(nil), Jobs: append(queued(2, 0), running(3)...), Runners: runners(3, active, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, nil, 0, 5, ""}},
		// C17: five busy runners and an empty queue are not five too many.
		"NeverDrainsBusy": {muster.Snapshot{Pool: fleetPool(nil), Jobs: running(5), Runners: runners(5, active, 0)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, 5, ""}},
		// 4-18: what is not known to be idle is busy.
		"UnknownIsBusy": {muster.Snapshot{Pool: fleetPool(nil), Runners: []muster.PlanRunner{{ID: "r-1", State: "odd"}, {ID: "r-2", State: registered, Busy: true}, {ID: "r-3", State: registered}}},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, 3, "2 busy, 1 idle"}},
		"MaxIsForAllLiveRunners": {muster.Snapshot{Pool: pool(nil), Jobs: queued(20, 0), Runners: slices.Concat(runners(6, active, 0), runners(1, draining, 0))},
			want{muster.ScaleUp, muster.RuleFormula, 3, 0, nil, 0, 10, ""}},
		"AtMax": {muster.Snapshot{Pool: pool(nil), Jobs: queued(20, 0), Runners: runners(10, active, 0)},
			want{muster.Maintain, muster.RuleLimit, 0, 0, nil, 0, 10, "limit of 10 runners with 20 jobs waiting"}},
		// C15: the formula alone would leave these four waiting for ever.
		"BelowThresholdYet": {muster.Snapshot{Pool: fleetPool(nil), Jobs: queued(4, time.Minute)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 4 * time.Minute, 0, "within the thresholds"}},
		"Starvation": {muster.Snapshot{Pool: fleetPool(nil), Jobs: queued(4, 5*time.Minute)},
			want{muster.ScaleUp, muster.RuleStarvation, 2, 0, nil, 0, 2, "oldest for 5m0s"}},
		"StarvationWaitsForTheCooldown": {muster.Snapshot{Pool: fleetPool(nil), Jobs: queued(4, 5*time.Minute), LastScaling: noon.Add(-time.Minute)},
			want{muster.Maintain, muster.RuleCooldown, 0, 0, nil, 4 * time.Minute, 0, "cooldown"}},
		"NoStarvationWhileARunnerIsIdle": {muster.Snapshot{Pool: fleetPool(nil), Jobs: queued(4, time.Hour), Runners: runners(1, registered, 0)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 24*time.Hour - time.Minute, 1, ""}},
		// 4-27: no data is not the same as no demand.
		"NoData": {muster.Snapshot{Pool: fleetPool(nil), DemandUnknown: true, Runners: runners(5, registered, time.Hour)},
			want{muster.Maintain, muster.RuleNoData, 0, 0, nil, 0, 5, "5 idle"}},
		// C34
		"Suspended": {muster.Snapshot{Pool: pool(nil), Suspended: true, Jobs: queued(3, time.Hour)},
			want{muster.Maintain, muster.RuleSuspended, 0, 0, nil, 0, 0, "3 jobs wait"}},
		// A disabled pool lets its idle runners go and its busy ones finish.
		"Disabled": {muster.Snapshot{Pool: pool(func(p *muster.Pool) { p.Enabled = false; p.Scaling.MinRunners = 2; p.Scaling.MaxRunners = 5 }), Jobs: queued(3, 0),
			Runners: slices.Concat(runners(2, registered, 0), runners(1, active, 0), runners(1, provisioning, 0))},
			want{muster.ScaleDown, muster.RuleDisabled, 0, 0, []muster.RunnerID{"r-registered-00", "r-registered-01"}, 0, 2, "disabled"}},
		"WarmFloor": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 2 })},
			want{muster.ScaleUp, muster.RuleWarmFloor, 0, 2, nil, 0, 2, "floor of 2 runners lacks 2"}},
		"WarmFloorInTheCooldown": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 2 }), LastScaling: noon.Add(-time.Minute), Runners: runners(1, provisioning, 0)},
			want{muster.ScaleUp, muster.RuleWarmFloor, 0, 1, nil, 4 * time.Minute, 2, "lacks 1"}},
		"WarmFloorAndJobs": {muster.Snapshot{Pool: pool(func(p *muster.Pool) { p.Scaling = muster.OnDemandScaling(); p.Scaling.MinRunners = 5 }), Jobs: queued(3, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 3, 2, nil, 0, 5, ""}},
		"BusyCountsForTheFloor": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 2 }), Runners: runners(2, active, 0)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, 2, ""}},
		// S1-112 4-53: the rest is made when a place is free.
		"ProvisioningLimit": {muster.Snapshot{Pool: pool(func(p *muster.Pool) { p.Scaling = muster.OnDemandScaling(); p.Scaling.MaxRunners = 100 }), Jobs: queued(50, 0)},
			want{muster.ScaleUp, muster.RuleProvisioningLimit, 10, 0, nil, 0, 50, "40 of 50 wait because 0 of at most 10 are starting"}},
		"ProvisioningLimitReached": {muster.Snapshot{Pool: pool(func(p *muster.Pool) { p.Scaling = muster.OnDemandScaling(); p.Scaling.MaxRunners = 100 }), Jobs: queued(50, 0), Runners: runners(10, provisioning, 0)},
			want{muster.Maintain, muster.RuleProvisioningLimit, 0, 0, nil, 0, 50, "40 of 40 wait"}},
		// 4-25: down in the fleet's way, longest idle first, ties by name.
		"ScaleDown": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1 }),
			Runners: []muster.PlanRunner{runner("r-b", registered, time.Hour), runner("r-a", registered, time.Minute), runner("r-c", registered, 2*time.Hour), runner("r-d", active, 0)}},
			want{muster.ScaleDown, muster.RuleFormula, 0, 0, []muster.RunnerID{"r-c", "r-b", "r-a"}, 21*time.Hour + 59*time.Minute, 1, "0 pending"}},
		"ScaleDownLeavesWhatAJobCouldTake": {muster.Snapshot{Pool: fleetPool(nil), Jobs: queued(2, 0), Runners: runners(5, registered, time.Hour)},
			want{muster.ScaleDown, muster.RuleFormula, 0, 0, []muster.RunnerID{"r-registered-00", "r-registered-01", "r-registered-02"}, 22*time.Hour + 59*time.Minute, 2, ""}},
		"OnDemandIdleIsTheAgentsAffair": {muster.Snapshot{Pool: pool(nil), Runners: runners(1, registered, time.Minute)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 90 * time.Second, 1, "none can go now"}},
		// S4-54
		"OnDemandIdleOutstaysItsTimeout": {muster.Snapshot{Pool: pool(nil), Runners: runners(1, registered, 3*time.Minute)},
			want{muster.ScaleDown, muster.RuleFormula, 0, 0, []muster.RunnerID{"r-registered-00"}, 24*time.Hour - 4*time.Minute, 0, ""}},
		"KeptIdleIsItsTimersAffair": {muster.Snapshot{Pool: pool(func(p *muster.Pool) { p.Lifecycle = muster.LifecycleKept }), Runners: runners(1, registered, time.Hour)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 23*time.Hour - time.Minute, 1, ""}},
		"MaxWasLowered": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MaxRunners = 2; p.Scaling.MinRunners = 2 }), LastScaling: noon.Add(-time.Minute),
			Runners: slices.Concat(runners(2, active, 0), runners(1, registered, 0))},
			want{muster.ScaleDown, muster.RuleLimit, 0, 0, []muster.RunnerID{"r-registered-00"}, 4 * time.Minute, 2, "1 above the limit of 2"}},
		"MinAboveMax": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 20 })},
			want{muster.ScaleUp, muster.RuleWarmFloor, 0, 10, nil, 0, 10, "lacks 10"}},
		// C20 S1-56: first the new one …
		"RotationMakesTheNewOne": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1 }), Runners: runners(1, registered, 25*time.Hour)},
			want{muster.ScaleUp, muster.RuleRotation, 0, 1, nil, 120*time.Hour + time.Hour - 25*time.Hour - time.Minute, 2, "take its place"}},
		// … the old one stays until it is there …
		"RotationWaits": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1 }), LastScaling: noon.Add(-time.Second),
			Runners: slices.Concat(runners(1, registered, 25*time.Hour), runners(1, provisioning, 0))},
			want{muster.Maintain, muster.RuleCooldown, 0, 0, nil, 299 * time.Second, 2, ""}},
		// … then the old one goes, in the cooldown too.
		"RotationDrainsTheOldOne": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1 }), LastScaling: noon.Add(-time.Second),
			Runners: []muster.PlanRunner{runner("r-new", registered, 0), runner("r-old", registered, 25*time.Hour)}},
			want{muster.ScaleDown, muster.RuleRotation, 0, 0, []muster.RunnerID{"r-old"}, 299 * time.Second, 1, "1 others are ready"}},
		// S1-73: a registration is not yet a runner that listens: no drain, and no third one either.
		"RotationWaitsUntilItListens": {muster.Snapshot{Pool: pool(func(p *muster.Pool) { p.Scaling = muster.OnDemandScaling(); p.Scaling.MinRunners = 1 }),
			Runners: []muster.PlanRunner{{ID: "r-new", State: registered, CreatedAt: noon.Add(-time.Minute)}, runner("r-old", registered, 25*time.Hour)}},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 96*time.Hour - time.Minute, 2, "none can go now"}},
		// Where scaling down could end the old one as well, rotation does: it starts no cooldown.
		"RotationBeforeScalingDown": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1 }),
			Runners: []muster.PlanRunner{runner("r-new", registered, 0), runner("r-old", registered, 25*time.Hour)}},
			want{muster.ScaleDown, muster.RuleRotation, 0, 0, []muster.RunnerID{"r-old"}, 24*time.Hour - time.Minute, 1, "1 others are ready"}},
		"RotationNeedsRoom": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1; p.Scaling.MaxRunners = 1 }), Runners: runners(1, registered, 25*time.Hour)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 96*time.Hour - time.Minute, 1, ""}},
		// The same, where the rule of scaling down would be the one to err.
		"NoDrainInFavourOfAStartingRunner": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1 }),
			Runners: slices.Concat(runners(1, registered, 25*time.Hour), runners(1, provisioning, 0))},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 96*time.Hour - time.Minute, 2, "none can go now"}},
		"MaxAge": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunners = 1; p.Scaling.MaxRunners = 1 }), Runners: runners(1, registered, 121*time.Hour)},
			want{muster.ScaleDown, muster.RuleMaxAge, 0, 0, []muster.RunnerID{"r-registered-00"}, 0, 0, "above the limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := muster.Plan(c.s, noon)
			got := want{d.Action, d.Rule, d.Create, d.Warm, d.Drain, 0, d.Target, c.want.words}
			if !d.WakeAt.IsZero() {
				got.wake = d.WakeAt.Sub(noon)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v\nbecause %s", got, c.want, d.Reason)
			}
			if !strings.Contains(d.Reason, c.want.words) || d.Reason == "" {
				t.Errorf("reason %q lacks %q", d.Reason, c.want.words)
			}
		})
	}
}

// C19 S1-26 S1-27: pending are the queued jobs that no idle or starting runner covers.
// 4-3: a job listed twice, as after a re-run's repeated events, counts once.
// 4-5: a waiting job is no demand.
func TestPlanMetrics(t *testing.T) {
	jobs := append(queued(5, 0), running(2)...)
	jobs = append(jobs, jobs...)
	jobs = append(jobs,
		muster.PlanJob{ID: 5000, State: muster.JobQueued, QueuedAt: noon.Add(-time.Hour)}, // late news of a running job
		muster.PlanJob{ID: 1, State: muster.JobWaiting, QueuedAt: noon.Add(-72 * time.Hour)},
		muster.PlanJob{ID: 2, State: muster.JobCompleted},
		muster.PlanJob{ID: 3, State: "odd"})
	rs := slices.Concat(runners(1, muster.RunnerRegistered, 0), runners(2, muster.RunnerProvisioning, 0), runners(2, muster.RunnerActive, 0))
	d := muster.Plan(muster.Snapshot{Pool: pool(nil), Jobs: jobs, Runners: rs}, noon)
	want := muster.QueueMetrics{PendingJobs: 2, QueuedJobs: 5, InProgressJobs: 2, TotalJobs: 7, Timestamp: noon}
	if d.Metrics != want {
		t.Errorf("metrics %+v, want %+v", d.Metrics, want)
	}
	if d.Create != 2 {
		t.Errorf("creates %d, want 2", d.Create)
	}
}

// 4-1 4-2: the runner made for one job was taken by another; the first counts as
// uncovered again, with nobody having to know which runner was whose.
func TestPlanReplacesAStolenRunner(t *testing.T) {
	s := muster.Snapshot{Pool: pool(nil), Jobs: queued(1, 0), Runners: runners(1, muster.RunnerRegistered, 0)}
	if d := muster.Plan(s, noon); d.Create != 0 {
		t.Fatalf("an idle runner is there, yet %d are created", d.Create)
	}
	s.Jobs = append(s.Jobs, running(1)...) // a job that nobody announced took it
	s.Runners = runners(1, muster.RunnerActive, 0)
	if d := muster.Plan(s, noon); d.Create != 1 {
		t.Fatalf("the stolen runner is not replaced: %+v", d)
	}
}

func TestStartsCooldown(t *testing.T) {
	for _, c := range []struct {
		action muster.ScalingAction
		rule   string
		want   bool
	}{
		{muster.ScaleUp, muster.RuleFormula, true},
		{muster.ScaleDown, muster.RuleFormula, true},
		{muster.ScaleUp, muster.RuleStarvation, true},
		{muster.Maintain, muster.RuleFormula, false},
		{muster.ScaleUp, muster.RuleWarmFloor, false},
		{muster.ScaleUp, muster.RuleRotation, false},
		{muster.ScaleUp, muster.RuleProvisioningLimit, false}, // its rest is still due
	} {
		d := muster.Decision{ScalingDecision: muster.ScalingDecision{Action: c.action}, Rule: c.rule}
		if d.StartsCooldown() != c.want {
			t.Errorf("%s by %s: %t", c.action, c.rule, !c.want)
		}
	}
}

// A snapshot of any shape, also of shapes that validation would refuse.
func genSnapshot(t *rapid.T) muster.Snapshot {
	ago := func(name string, most int) time.Time {
		return noon.Add(-time.Duration(rapid.IntRange(-60, most).Draw(t, name)) * time.Second)
	}
	s := muster.Snapshot{
		Pool: muster.Pool{
			Name:    "p",
			Enabled: rapid.IntRange(0, 9).Draw(t, "enabled") > 0,
			Scaling: muster.Scaling{
				MinRunners:         rapid.IntRange(0, 6).Draw(t, "min"),
				MaxRunners:         rapid.IntRange(0, 12).Draw(t, "max"),
				JobsPerRunner:      rapid.IntRange(1, 4).Draw(t, "jobsPerRunner"),
				ScaleUpThreshold:   rapid.IntRange(0, 4).Draw(t, "up"),
				ScaleDownThreshold: rapid.IntRange(0, 4).Draw(t, "down"),
				Cooldown:           time.Duration(rapid.SampledFrom([]int{0, 60, 300}).Draw(t, "cooldown")) * time.Second,
			},
			Lifecycle:    rapid.SampledFrom([]muster.Lifecycle{muster.LifecycleEphemeral, muster.LifecycleKept}).Draw(t, "lifecycle"),
			Provisioning: rapid.IntRange(1, 5).Draw(t, "provisioning"),
		},
		Suspended:     rapid.IntRange(0, 19).Draw(t, "suspended") == 0,
		DemandUnknown: rapid.IntRange(0, 19).Draw(t, "unknown") == 0,
	}
	rare := func(name string) bool { return rapid.IntRange(0, 4).Draw(t, name) == 0 }
	s.Pool.Suspended = rapid.IntRange(0, 19).Draw(t, "poolSuspended") == 0
	if rare("wait") {
		s.Pool.JobWait = time.Duration(rapid.IntRange(0, 900).Draw(t, "jobWait")) * time.Second
	}
	if rare("down") {
		s.Pool.Scaling.ScaleDownCooldown = time.Duration(rapid.IntRange(0, 900).Draw(t, "downCooldown")) * time.Second
		s.Pool.Scaling.MinRunTime = time.Duration(rapid.IntRange(0, 900).Draw(t, "minRunTime")) * time.Second
	}
	if rare("overflow") {
		s.Pool.Overflow = muster.Overflow{Pool: "other", After: time.Duration(rapid.IntRange(0, 900).Draw(t, "overflowAfter")) * time.Second}
	}
	if rare("quotas") {
		s.Pool.Quotas = ownQuotas(t)
	}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "windows") {
		w := muster.Window{From: ago("windowFrom", 900)}
		w.Until = w.From.Add(time.Duration(rapid.IntRange(1, 1800).Draw(t, "windowFor")) * time.Second)
		if rapid.Bool().Draw(t, "windowMin") {
			w.MinRunners = ptr(rapid.IntRange(0, 8).Draw(t, "windowMinRunners"))
		}
		if rapid.Bool().Draw(t, "windowMax") {
			w.MaxRunners = ptr(rapid.IntRange(0, 14).Draw(t, "windowMaxRunners"))
		}
		s.Windows = append(s.Windows, w)
	}
	if rare("unnamed") {
		s.Unnamed, s.UnnamedSince = rapid.IntRange(-1, 5).Draw(t, "unnamedJobs"), ago("unnamedSince", 900)
	}
	if rare("spending") {
		s.Spending = muster.Spending{State: rapid.SampledFrom([]muster.SpendingState{muster.SpendingWarned, muster.SpendingLowered, muster.SpendingStopped}).Draw(t, "spendingState"), SpentMicroUSD: 9, MonthMicroUSD: 10}
	}
	if rare("held") {
		s.ProviderHeld = ago("providerHeld", 60)
	}
	if rapid.Bool().Draw(t, "scaled") {
		s.LastScaling = ago("lastScaling", 600)
	}
	states := []muster.JobState{muster.JobQueued, muster.JobQueued, muster.JobInProgress, muster.JobWaiting, muster.JobCompleted}
	for range rapid.IntRange(0, 12).Draw(t, "jobs") {
		s.Jobs = append(s.Jobs, muster.PlanJob{ID: int64(rapid.IntRange(1, 20).Draw(t, "job")), State: rapid.SampledFrom(states).Draw(t, "jobState"), QueuedAt: ago("queued", 900),
			Attempt: rapid.IntRange(0, 2).Draw(t, "attempt"), Repository: rapid.SampledFrom([]string{"", "o/a", "o/b", "O/B", "x/d"}).Draw(t, "repository"),
			Priority: rapid.SampledFrom([]int{0, 0, 1, -1}).Draw(t, "priority"), Overflows: rapid.Bool().Draw(t, "overflows")})
	}
	moves := []muster.RunnerState{muster.RunnerProvisioning, muster.RunnerRegistered, muster.RunnerRegistered, muster.RunnerActive, muster.RunnerDraining, muster.RunnerDestroyed, "odd"}
	for i := range rapid.IntRange(0, 15).Draw(t, "runners") {
		r := muster.PlanRunner{ID: muster.RunnerID(fmt.Sprintf("r-%02d", i)), State: rapid.SampledFrom(moves).Draw(t, "state"), Warm: rapid.Bool().Draw(t, "warm")}
		r.Busy = r.State == muster.RunnerActive || rapid.IntRange(0, 4).Draw(t, "busy") == 0
		r.CreatedAt = ago("created", 6*24*3600)
		if r.State == muster.RunnerRegistered && !r.Busy && rapid.IntRange(0, 9).Draw(t, "known") > 0 {
			r.IdleSince = ago("idle", 600)
		}
		s.Runners = append(s.Runners, r)
	}
	return s
}

type tally struct{ live, busy, starting, draining int }

func tallyOf(s muster.Snapshot) (n tally) {
	for _, r := range s.Runners {
		switch {
		case !r.State.Live():
			continue
		case r.State == muster.RunnerDraining:
			n.draining++
		case r.Busy || r.State != muster.RunnerProvisioning && r.State != muster.RunnerRegistered:
			n.busy++
		case r.State == muster.RunnerProvisioning:
			n.starting++
		}
		n.live++
	}
	return n
}

// acts is what a decision does; its words may differ.
func acts(d muster.Decision) string {
	return fmt.Sprint(d.Action, d.Target, d.Create, d.Warm, d.Drain, d.Rule, d.For, d.Overflow, d.Canary)
}

func net(d muster.Decision) int { return d.Create + d.Warm - len(d.Drain) }

// S1-45 S1-48 C17 4-25 4-26 4-27: what holds of every decision.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		before := fmt.Sprintf("%+v", s)
		n := tallyOf(s)
		d := muster.Plan(s, noon)
		if again := muster.Plan(s, noon); !reflect.DeepEqual(d, again) {
			t.Fatalf("not a function: %+v and %+v", d, again)
		}
		if fmt.Sprintf("%+v", s) != before {
			t.Fatal("the snapshot was changed")
		}
		if d.Reason == "" || d.Rule == "" || d.Action == "" {
			t.Fatalf("unexplained: %+v", d)
		}
		if d.Create < 0 || d.Warm < 0 {
			t.Fatalf("negative: %+v", d)
		}
		limit := limitOf(s)
		if made := d.Create + d.Warm; made > 0 && n.live+made > limit {
			t.Fatalf("%d live, %d more, above max %d: %+v", n.live, made, limit, d)
		}
		if d.Target > max(limit, n.live) {
			t.Fatalf("target above max %d: %+v", limit, d)
		}
		if d.Target < n.busy+n.starting || d.Current != n.live {
			t.Fatalf("target below busy and starting %+v: %+v", n, d)
		}
		if made := d.Create + d.Warm; made > 0 && n.starting+made > s.Pool.Provisioning {
			t.Fatalf("%d starting, %d more, above the limit of %d", n.starting, made, s.Pool.Provisioning)
		}
		for _, id := range d.Drain {
			i := slices.IndexFunc(s.Runners, func(r muster.PlanRunner) bool { return r.ID == id })
			if r := s.Runners[i]; r.State != muster.RunnerRegistered || r.Busy || r.IdleSince.IsZero() {
				t.Fatalf("drains %+v", r)
			} else if least := max(s.Pool.Scaling.MinRunTime, time.Second); d.Rule == muster.RuleFormula && noon.Sub(r.CreatedAt) < least {
				t.Fatalf("drains %+v, which has not run for %s", r, least)
			}
		}
		if s.Pool.Enabled && (s.Suspended || s.DemandUnknown || s.Pool.Suspended) && (d.Action != muster.Maintain || net(d) != 0 || len(d.Drain) > 0) {
			t.Fatalf("changes without data: %+v", d)
		}
		switch {
		case net(d) > 0 && d.Action != muster.ScaleUp, net(d) < 0 && d.Action != muster.ScaleDown, net(d) == 0 && d.Action != muster.Maintain:
			t.Fatalf("the action is not what is done: %+v", d)
		}
		if !d.WakeAt.IsZero() && !d.WakeAt.After(noon) {
			t.Fatalf("wakes at %s, not after now", d.WakeAt)
		}
	})
}

// limitOf is the most that may live by the pool's settings and its windows.
func limitOf(s muster.Snapshot) int {
	limit, scheduled := s.Pool.Scaling.MaxRunners, false
	if s.Pool.Scaling == (muster.Scaling{}) {
		limit = muster.OnDemandScaling().MaxRunners
	}
	for _, w := range s.Windows {
		if w.MaxRunners != nil && !w.From.After(noon) && w.Until.After(noon) {
			if !scheduled || *w.MaxRunners < limit {
				limit = *w.MaxRunners
			}
			scheduled = true
		}
	}
	return limit
}

// More demand never means fewer runners. Quotas of which none cuts through another
// do not change that.
func TestPlanIsMonotoneInDemand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		few := muster.Plan(s, noon)
		s.Jobs = append(slices.Clone(s.Jobs), muster.PlanJob{ID: 999, State: muster.JobQueued,
			QueuedAt: noon.Add(-time.Duration(rapid.IntRange(0, 900).Draw(t, "waited")) * time.Second)})
		many := muster.Plan(s, noon)
		if net(many) < net(few) || many.Target < few.Target {
			t.Fatalf("one job more: %+v\nafter %+v", many, few)
		}
	})
}

// WakeAt is no later than the first change that comes by time alone.
func TestPlanWakesInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		d := muster.Plan(s, noon)
		later := noon.Add(time.Duration(rapid.IntRange(1, 6*24*3600).Draw(t, "later")) * time.Second)
		if rapid.Bool().Draw(t, "soon") {
			later = noon.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "soonLater")) * time.Second)
		}
		if !d.WakeAt.IsZero() && !later.Before(d.WakeAt) {
			later = d.WakeAt.Add(-1)
		}
		if l := muster.Plan(s, later); acts(l) != acts(d) {
			t.Fatalf("by %s it becomes %+v, but it was to wake at %s from %+v", later.Sub(noon), l, d.WakeAt, d)
		}
	})
}

// C15 S4-52 S4-53 S4-54: a simulation in which runners boot, take the oldest job, end and
// are replaced. Whatever the scaling, every job runs, and no two scaling actions
// are closer than the cooldown. S1-46
func TestPlanStarvesNobodyAndDoesNotFlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := muster.Pool{
			Name: "p", Enabled: true,
			Scaling: muster.Scaling{
				MinRunners:         rapid.IntRange(0, 2).Draw(t, "min"),
				MaxRunners:         rapid.IntRange(2, 5).Draw(t, "max"),
				JobsPerRunner:      rapid.IntRange(1, 3).Draw(t, "jobsPerRunner"),
				ScaleUpThreshold:   rapid.IntRange(0, 5).Draw(t, "up"),
				ScaleDownThreshold: rapid.IntRange(0, 2).Draw(t, "down"),
				Cooldown:           time.Duration(rapid.SampledFrom([]int{0, 60, 300}).Draw(t, "cooldown")) * time.Second,
				ScaleDownCooldown:  time.Duration(rapid.SampledFrom([]int{0, 30, 600}).Draw(t, "downCooldown")) * time.Second,
			},
			JobWait:      time.Duration(rapid.SampledFrom([]int{0, 0, 45}).Draw(t, "jobWait")) * time.Second,
			Provisioning: rapid.IntRange(1, 3).Draw(t, "provisioning"),
		}
		if rapid.Bool().Draw(t, "quotas") {
			p.Quotas = []muster.Quota{{Name: "each", Each: true, MaxRunners: rapid.IntRange(1, 2).Draw(t, "each")}}
		}
		// GitHub gives an idle runner to any job, not to the one that Plan meant.
		newestFirst := rapid.Bool().Draw(t, "newestFirst")
		boot := time.Duration(rapid.IntRange(1, 120).Draw(t, "boot")) * time.Second
		work := time.Duration(rapid.IntRange(1, 200).Draw(t, "work")) * time.Second
		type machine struct {
			muster.PlanRunner
			until time.Time
			job   int64
		}
		var (
			jobs     []muster.PlanJob
			machines []*machine
			last     time.Time
			serial   int
			finished int
		)
		total := rapid.IntRange(1, 12).Draw(t, "jobs")
		for i := range total {
			at := noon.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "at")) * time.Second)
			jobs = append(jobs, muster.PlanJob{ID: int64(i + 1), State: muster.JobWaiting, QueuedAt: at,
				Repository: rapid.SampledFrom([]string{"o/a", "o/b"}).Draw(t, "repository"), Priority: rapid.SampledFrom([]int{0, 0, 7}).Draw(t, "priority")})
		}
		// In the worst case one runner at a time serves one job per round.
		end := noon.Add(10*time.Minute + time.Duration(total+1)*(2*p.Scaling.Cooldown+p.JobWait+boot+work+2*time.Second))
		for now := noon; finished < total; now = now.Add(time.Second) {
			if now.After(end) {
				t.Fatalf("%d of %d jobs finished by %s", finished, total, end.Sub(noon))
			}
			for i := range jobs {
				if jobs[i].State == muster.JobWaiting && !jobs[i].QueuedAt.After(now) {
					jobs[i].State = muster.JobQueued
				}
			}
			var alive []*machine
			for _, m := range machines {
				switch {
				case m.State == muster.RunnerProvisioning && !now.Before(m.until):
					m.State, m.IdleSince = muster.RunnerRegistered, now
				case m.State == muster.RunnerActive && !now.Before(m.until):
					jobs[m.job-1].State = muster.JobCompleted
					finished++
					continue
				case m.State == muster.RunnerDraining:
					continue
				}
				if m.State == muster.RunnerRegistered {
					for i := range jobs {
						if newestFirst {
							i = len(jobs) - 1 - i
						}
						if jobs[i].State == muster.JobQueued {
							jobs[i].State = muster.JobInProgress
							m.State, m.Busy, m.job, m.until, m.IdleSince = muster.RunnerActive, true, jobs[i].ID, now.Add(work), time.Time{}
							break
						}
					}
				}
				alive = append(alive, m)
			}
			machines = alive
			s := muster.Snapshot{Pool: p, Jobs: jobs, LastScaling: last}
			for _, m := range machines {
				s.Runners = append(s.Runners, m.PlanRunner)
			}
			d := muster.Plan(s, now)
			if d.StartsCooldown() {
				rest := p.Scaling.Cooldown
				if d.Action == muster.ScaleDown && p.Scaling.ScaleDownCooldown > 0 { // 4-26
					rest = p.Scaling.ScaleDownCooldown
				}
				if !last.IsZero() && now.Sub(last) < rest {
					t.Fatalf("scaled %s after the last time, within the cooldown of %s: %+v", now.Sub(last), rest, d)
				}
				last = now
			}
			for range d.Create + d.Warm {
				serial++
				machines = append(machines, &machine{until: now.Add(boot), PlanRunner: muster.PlanRunner{
					ID: muster.RunnerID(fmt.Sprintf("r-%d", serial)), State: muster.RunnerProvisioning, CreatedAt: now}})
			}
			for _, m := range machines {
				if slices.Contains(d.Drain, m.ID) {
					m.State, m.IdleSince = muster.RunnerDraining, time.Time{}
				}
			}
		}
	})
}

func large() muster.Snapshot {
	s := muster.Snapshot{Pool: pool(func(p *muster.Pool) {
		p.Scaling = muster.Scaling{MaxRunners: 20000, JobsPerRunner: 1}
		p.Provisioning = 1000
	})}
	for i := range 50_000 {
		st := muster.JobQueued
		if i%5 == 0 {
			st = muster.JobInProgress
		}
		s.Jobs = append(s.Jobs, muster.PlanJob{ID: int64(i) * 7919, State: st, QueuedAt: noon.Add(-time.Duration(i) * time.Millisecond)})
	}
	states := []muster.RunnerState{muster.RunnerRegistered, muster.RunnerActive, muster.RunnerProvisioning, muster.RunnerRegistered}
	for i := range 10_000 {
		s.Runners = append(s.Runners, runner(fmt.Sprintf("r-%05d", i), states[i%4], time.Duration(i*7919%10_000)*time.Second))
	}
	return s
}

// BenchmarkPlan: 10,000 runners and 50,000 jobs are to be far under 20 ms.
func BenchmarkPlan(b *testing.B) {
	s := large()
	b.ReportAllocs()
	for b.Loop() {
		muster.Plan(s, noon)
	}
}
