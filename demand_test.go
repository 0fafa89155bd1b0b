package muster_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

// job is a queued job of a repository, waiting for so long.
func job(id int64, repository string, waited time.Duration) muster.PlanJob {
	return muster.PlanJob{ID: id, State: muster.JobQueued, Repository: repository, QueuedAt: noon.Add(-waited)}
}

// busy are n running jobs of a repository.
func busy(from int64, repository string, n int) (jobs []muster.PlanJob) {
	for i := range n {
		jobs = append(jobs, muster.PlanJob{ID: from + int64(i), State: muster.JobInProgress, Repository: repository, QueuedAt: noon.Add(-time.Hour)})
	}
	return jobs
}

func prioritized(j muster.PlanJob, priority int) muster.PlanJob {
	j.Priority = priority
	return j
}

func overflowing(j muster.PlanJob) muster.PlanJob {
	j.Overflows = true
	return j
}

func ptr(n int) *int { return &n }

// open is a window from an hour ago until in an hour, next one from in an hour on.
func open(minRunners, maxRunners *int) muster.Window {
	return muster.Window{From: noon.Add(-time.Hour), Until: noon.Add(time.Hour), MinRunners: minRunners, MaxRunners: maxRunners}
}

func next(minRunners, maxRunners *int) muster.Window {
	return muster.Window{From: noon.Add(time.Hour), Until: noon.Add(2 * time.Hour), MinRunners: minRunners, MaxRunners: maxRunners}
}

// The rules that operators write: what is decided, by which rule, for whom, until when.
func TestPlanRules(t *testing.T) {
	small := func(maxRunners int, change func(*muster.Pool)) muster.Pool {
		return pool(func(p *muster.Pool) {
			p.Scaling = muster.Scaling{MaxRunners: maxRunners, JobsPerRunner: 1}
			if change != nil {
				change(p)
			}
		})
	}
	spent := func(state muster.SpendingState, percent int64) muster.Spending {
		return muster.Spending{State: state, SpentMicroUSD: percent * 1e6, MonthMicroUSD: 100e6}
	}
	type want struct {
		action       muster.ScalingAction
		rule         string
		create, warm int
		for_         []int64
		drain        int
		overflow     []int64
		wake         time.Duration // after noon; 0 for never
		words        string
	}
	const (
		registered   = muster.RunnerRegistered
		active       = muster.RunnerActive
		provisioning = muster.RunnerProvisioning
	)
	for name, c := range map[string]struct {
		s    muster.Snapshot
		want want
	}{
		// Schedules.
		"WindowRaisesTheFloor": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{open(ptr(3), nil), next(ptr(3), nil)}},
			want{muster.ScaleUp, muster.RuleSchedule, 0, 3, nil, 0, nil, time.Hour, "floor of 3 runners (by schedule until 2026-03-04 13:00:00Z) lacks 3"}},
		"WindowToCome": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{next(ptr(3), nil)}},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, time.Hour, "0 pending"}},
		"WindowIsOver": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{{From: noon.Add(-time.Hour), Until: noon, MinRunners: ptr(3)}}},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, 0, "0 pending"}},
		"WindowLowersTheFloor": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Scaling.MinRunners = 5 }), Windows: []muster.Window{open(ptr(0), nil)}},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, time.Hour, "limits 0…10"}},
		"LargestMinOfTheWindows": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{open(ptr(1), nil), open(ptr(4), nil), open(ptr(2), nil)}},
			want{muster.ScaleUp, muster.RuleSchedule, 0, 4, nil, 0, nil, time.Hour, "floor of 4 runners"}},
		"SmallestMaxOfTheWindows": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{open(nil, ptr(2)), open(nil, ptr(20))}, Jobs: queued(5, 0), Runners: runners(1, active, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 1, 0, []int64{1000}, 0, nil, time.Hour, ""}},
		"WindowRaisesTheLimit": {muster.Snapshot{Pool: small(1, nil), Windows: []muster.Window{open(nil, ptr(3))}, Jobs: queued(5, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 3, 0, []int64{1000, 1001, 1002}, 0, nil, time.Hour, ""}},
		"WindowIsFull": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{open(nil, ptr(1))}, Jobs: queued(5, 0), Runners: runners(1, active, 0)},
			want{muster.Maintain, muster.RuleLimit, 0, 0, nil, 0, nil, time.Hour, "limit of 1 runner (by schedule until"}},
		"WindowMaxBelowMin": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Scaling.MinRunners = 5 }), Windows: []muster.Window{open(nil, ptr(2))}},
			want{muster.ScaleUp, muster.RuleWarmFloor, 0, 2, nil, 0, nil, time.Hour, "lacks 2"}},
		"WindowLowersTheLimit": {muster.Snapshot{Pool: small(10, nil), Windows: []muster.Window{open(nil, ptr(0))}, Runners: runners(2, registered, time.Minute)},
			want{muster.ScaleDown, muster.RuleLimit, 0, 0, nil, 2, nil, 90 * time.Second, "2 above the limit of 0 runners (by schedule"}},

		// S4-17: no new runners, running ones finish, nothing is drained, jobs stay.
		"PoolSuspended": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Suspended = true; p.Scaling.MinRunners = 5 }), Jobs: append(queued(3, time.Hour), running(1)...),
			Runners: slices.Concat(runners(1, active, 0), runners(1, registered, time.Hour))},
			want{muster.Maintain, muster.RulePoolSuspended, 0, 0, nil, 0, nil, 0, "the pool is suspended: 3 jobs wait"}},
		// S4-17: resumed, it picks them up.
		"PoolResumed": {muster.Snapshot{Pool: small(10, nil), Jobs: append(queued(3, time.Hour), running(1)...),
			Runners: slices.Concat(runners(1, active, 0), runners(1, registered, time.Minute))},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{1001, 1002}, 0, nil, 24*time.Hour - 2*time.Minute, ""}},

		// The wait of a job.
		"YoungJobsMakeNothing": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.JobWait = time.Minute }), Jobs: []muster.PlanJob{job(1, "a/a", 20*time.Second), job(2, "a/a", 40*time.Second)}},
			want{muster.Maintain, muster.RuleJobWait, 0, 0, nil, 0, nil, 20 * time.Second, "2 waiting jobs younger than 1m0s, the first until 2026-03-04 12:00:20Z"}},
		"RipeJobsDo": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.JobWait = time.Minute }), Jobs: []muster.PlanJob{job(1, "a/a", 20*time.Second), job(2, "a/a", time.Minute)}},
			want{muster.ScaleUp, muster.RuleFormula, 1, 0, []int64{2}, 0, nil, 40 * time.Second, ""}},
		// Scaling down leaves the idle runner that a young job may take.
		"YoungJobsMayTakeAnIdleRunner": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.JobWait = time.Minute }), Jobs: []muster.PlanJob{job(1, "a/a", 0)}, Runners: runners(3, registered, time.Hour)},
			want{muster.ScaleDown, muster.RuleFormula, 0, 0, nil, 2, nil, time.Minute, ""}},

		// Quotas.
		"Quota": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) {
			p.Quotas = []muster.Quota{{Name: "payments", Repositories: []string{"acme/pay-*"}, MaxRunners: 3}}
		}), Jobs: slices.Concat(busy(1, "acme/pay-api", 2), []muster.PlanJob{job(10, "acme/pay-web", 3*time.Minute), job(11, "ACME/Pay-Api", 2*time.Minute), job(12, "acme/app", time.Minute)}), Runners: runners(2, active, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{10, 12}, 0, nil, 0, ""}}, // of the two of the team, the one of whose repository nothing runs
		"QuotaIsFull": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Quotas = []muster.Quota{{Name: "each", Each: true, MaxRunners: 1}} }),
			Jobs: slices.Concat(busy(1, "a/a", 1), busy(2, "b/b", 1), []muster.PlanJob{job(10, "a/a", 0), job(11, "b/b", 0)}), Runners: runners(2, active, 0)},
			want{muster.Maintain, muster.RuleQuota, 0, 0, nil, 0, nil, 0, "2 waiting jobs over a quota: each for a/a 1 of 1, each for b/b 1 of 1"}},
		"QuotaOfEverything": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Quotas = []muster.Quota{{Name: "all", MaxRunners: 2}} }), Jobs: []muster.PlanJob{job(1, "a/a", 0), job(2, "b/b", 0), job(3, "", 0)}},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{1, 2}, 0, nil, 0, ""}},
		"QuotaOfNothing": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) {
			p.Quotas = []muster.Quota{{Name: "none", Repositories: []string{"a/*"}, MaxRunners: 0}}
		}), Jobs: []muster.PlanJob{job(1, "a/a", time.Hour)}},
			want{muster.Maintain, muster.RuleQuota, 0, 0, nil, 0, nil, 0, "none 0 of 0"}},

		// Who goes first.
		"FairShare": {muster.Snapshot{Pool: small(4, nil), Jobs: slices.Concat(busy(1, "a/a", 1), []muster.PlanJob{job(10, "a/a", 50*time.Minute), job(11, "a/a", 40*time.Minute), job(12, "b/b", 3*time.Minute), job(13, "b/b", 2*time.Minute), job(14, "c/c", time.Minute)}), Runners: runners(1, active, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 3, 0, []int64{12, 14, 10}, 0, nil, 0, ""}},
		"PriorityBeforeFairShare": {muster.Snapshot{Pool: small(2, nil), Jobs: []muster.PlanJob{job(1, "a/a", time.Minute), prioritized(job(2, "b/b", 0), 5), prioritized(job(3, "b/b", 0), 5)}},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{2, 3}, 0, nil, 59 * time.Minute, ""}},
		// C15: priority delays, and never for more than an hour.
		"PriorityLosesToPatience": {muster.Snapshot{Pool: small(2, nil), Jobs: []muster.PlanJob{job(1, "a/a", time.Hour), prioritized(job(2, "b/b", 0), 5), prioritized(job(3, "b/b", 0), 5)}},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{1, 2}, 0, nil, 0, ""}},
		"SupplyServesTheFirst": {muster.Snapshot{Pool: small(4, nil), Jobs: []muster.PlanJob{job(1, "a/a", time.Minute), prioritized(job(2, "b/b", 0), 5), job(3, "c/c", 2*time.Minute)}, Runners: runners(1, provisioning, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{3, 1}, 0, nil, 58 * time.Minute, ""}},
		"TwoJobsPerRunner": {muster.Snapshot{Pool: small(2, func(p *muster.Pool) { p.Scaling.JobsPerRunner = 2 }), Jobs: queued(5, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, []int64{1000, 1001, 1002, 1003}, 0, nil, 0, ""}},

		// Jobs of which a scale set tells the number only.
		"Unnamed": {muster.Snapshot{Pool: small(10, nil), Unnamed: 3, UnnamedSince: noon.Add(-time.Minute), Jobs: []muster.PlanJob{job(7, "a/a", 0)}, Runners: runners(1, provisioning, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 3, 0, []int64{7}, 0, nil, 0, "4 pending jobs"}},
		"UnnamedAreYoung": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.JobWait = 2 * time.Minute }), Unnamed: 3, UnnamedSince: noon.Add(-time.Minute)},
			want{muster.Maintain, muster.RuleJobWait, 0, 0, nil, 0, nil, time.Minute, "3 waiting jobs younger"}},
		"UnnamedNonsense": {muster.Snapshot{Pool: small(2, nil), Unnamed: 1 << 40},
			want{muster.ScaleUp, muster.RuleFormula, 2, 0, nil, 0, nil, 0, ""}},
		"UnnamedNegative": {muster.Snapshot{Pool: small(2, nil), Unnamed: -3},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, 0, "0 pending"}},

		// Overflow.
		"OverflowAtMax": {muster.Snapshot{Pool: small(1, func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big", After: 30 * time.Second} }), Runners: runners(1, active, 0),
			Jobs: []muster.PlanJob{overflowing(job(3, "a/a", 40*time.Second)), overflowing(job(2, "b/b", 50*time.Second)), job(1, "c/c", time.Minute), overflowing(job(4, "a/a", 10*time.Second))}},
			want{muster.Maintain, muster.RuleOverflow, 0, 0, nil, 0, []int64{2, 3}, 20 * time.Second, "at the limit of 1 runner with 4 jobs waiting: 1 live runner: 1 busy, 0 idle, 0 starting, 0 draining; 2 jobs to pool big after 30s"}},
		"OverflowOnlyOfWhatIsNotServed": {muster.Snapshot{Pool: small(2, func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big", After: 30 * time.Second} }), Runners: runners(1, provisioning, 0),
			Jobs: []muster.PlanJob{overflowing(job(1, "a/a", 3*time.Minute)), overflowing(job(2, "a/a", 2*time.Minute)), overflowing(job(3, "a/a", time.Minute))}},
			want{muster.ScaleUp, muster.RuleFormula, 1, 0, []int64{2}, 0, []int64{3}, 0, "1 job to pool big"}},
		"OverflowOfASuspendedPool": {muster.Snapshot{Pool: small(2, func(p *muster.Pool) {
			p.Suspended = true
			p.Overflow = muster.Overflow{Pool: "big", After: 30 * time.Second}
		}), Jobs: []muster.PlanJob{overflowing(job(1, "a/a", 3*time.Minute)), overflowing(job(2, "a/a", 0))}},
			want{muster.Maintain, muster.RuleOverflow, 0, 0, nil, 0, []int64{1}, 30 * time.Second, "suspended"}},
		"OverflowOverAQuota": {muster.Snapshot{Pool: small(2, func(p *muster.Pool) {
			p.Quotas = []muster.Quota{{Name: "q", MaxRunners: 1}}
			p.Overflow = muster.Overflow{Pool: "big", After: time.Minute}
		}), Jobs: []muster.PlanJob{overflowing(job(1, "a/a", 3*time.Minute)), overflowing(job(2, "a/a", 2*time.Minute))}},
			want{muster.ScaleUp, muster.RuleFormula, 1, 0, []int64{1}, 0, []int64{2}, 0, ""}},
		// 4-52: the platform is full, and another pool may have room.
		"OverflowWhileTheProviderIsHeld": {muster.Snapshot{Pool: small(2, func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big", After: time.Minute} }), Jobs: []muster.PlanJob{overflowing(job(1, "a/a", 3*time.Minute))},
			ProviderHeld: noon.Add(time.Minute), ProviderError: "QUOTA_EXCEEDED"},
			want{muster.Maintain, muster.RuleOverflow, 0, 0, nil, 0, []int64{1}, time.Minute, "1 wanted, but the provider is left alone until 2026-03-04 12:01:00Z: QUOTA_EXCEEDED"}},
		// 4-27: what is not known to wait is not handed on.
		"NoOverflowWithoutData": {muster.Snapshot{Pool: small(1, func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big"} }), DemandUnknown: true, Jobs: []muster.PlanJob{overflowing(job(1, "a/a", time.Hour))}},
			want{muster.Maintain, muster.RuleNoData, 0, 0, nil, 0, nil, 0, ""}},

		// Budgets.
		"Warned": {muster.Snapshot{Pool: small(2, nil), Jobs: queued(1, 0), Spending: spent(muster.SpendingWarned, 81)},
			want{muster.ScaleUp, muster.RuleFormula, 1, 0, []int64{1000}, 0, nil, 0, "81 % of the month's budget is spent"}},
		"LoweredHasNoFloor": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Scaling.MinRunners = 5 }), Windows: []muster.Window{open(ptr(7), nil)}, Spending: spent(muster.SpendingLowered, 92)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, time.Hour, "no floor"}},
		"LoweredWaits": {muster.Snapshot{Pool: small(10, nil), Jobs: []muster.PlanJob{job(1, "a/a", 4*time.Minute)}, Spending: spent(muster.SpendingLowered, 92)},
			want{muster.Maintain, muster.RuleBudget, 0, 0, nil, 0, nil, time.Minute, "92 % of the month's budget is spent, so that there is no floor and jobs wait 5m0s: 1 waiting job younger than 5m0s"}},
		"LoweredWaitIsOver": {muster.Snapshot{Pool: small(10, nil), Jobs: []muster.PlanJob{job(1, "a/a", 5*time.Minute)}, Spending: spent(muster.SpendingLowered, 92)},
			want{muster.ScaleUp, muster.RuleFormula, 1, 0, []int64{1}, 0, nil, 0, ""}},
		"StoppedMakesNothing": {muster.Snapshot{Pool: small(10, func(p *muster.Pool) { p.Scaling.MinRunners = 5 }), Jobs: append(queued(2, time.Hour), running(1)...), Runners: runners(1, active, 0), Spending: spent(muster.SpendingStopped, 100)},
			want{muster.Maintain, muster.RuleBudget, 0, 0, nil, 0, nil, 0, "100 % of the month's budget is spent, so that nothing new is made: 2 jobs wait"}},
		"StoppedRotatesNothing": {muster.Snapshot{Pool: fleetPool(nil), Jobs: queued(1, 0), Runners: runners(1, registered, 25*time.Hour), Spending: spent(muster.SpendingStopped, 100)},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, 96*time.Hour - time.Minute, "nothing new"}},

		// 4-26: up and down have their own cooldowns.
		"DownCooldownIsLonger": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.ScaleDownCooldown = time.Hour }), LastScaling: noon.Add(-10 * time.Minute), Runners: runners(3, registered, 15*time.Minute)},
			want{muster.Maintain, muster.RuleCooldown, 0, 0, nil, 0, nil, 50 * time.Minute, "cooldown of 1h0m0s"}},
		"UpIsNotHeldByTheDownCooldown": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.ScaleDownCooldown = time.Hour }), LastScaling: noon.Add(-10 * time.Minute), Jobs: queued(6, 0)},
			want{muster.ScaleUp, muster.RuleFormula, 3, 0, []int64{1000, 1001, 1002, 1003, 1004, 1005}, 0, nil, 50 * time.Minute, ""}},
		"DownCooldownIsShorter": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.ScaleDownCooldown = time.Minute }), LastScaling: noon.Add(-2 * time.Minute), Runners: runners(3, registered, 15*time.Minute)},
			want{muster.ScaleDown, muster.RuleFormula, 0, 0, nil, 3, nil, 3 * time.Minute, "3 too many"}},
		"UpIsHeldByItsOwnCooldown": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.ScaleDownCooldown = time.Minute }), LastScaling: noon.Add(-2 * time.Minute), Jobs: queued(6, 0)},
			want{muster.Maintain, muster.RuleCooldown, 0, 0, nil, 0, nil, 3 * time.Minute, "cooldown of 5m0s"}},
		// 4-25: a runner that has hardly started is not ended.
		"MinRunTime": {muster.Snapshot{Pool: fleetPool(func(p *muster.Pool) { p.Scaling.MinRunTime = 10 * time.Minute }), Runners: []muster.PlanRunner{runner("r-old", registered, 20*time.Minute), runner("r-new", registered, 3*time.Minute)}},
			want{muster.ScaleDown, muster.RuleFormula, 0, 0, nil, 1, nil, 6 * time.Minute, ""}},
		"MinRunTimeByDefault": {muster.Snapshot{Pool: fleetPool(nil), Runners: []muster.PlanRunner{{ID: "r-new", State: registered, CreatedAt: noon.Add(-20 * time.Second), IdleSince: noon}}},
			want{muster.Maintain, muster.RuleFormula, 0, 0, nil, 0, nil, 40 * time.Second, "none can go now"}},

		// 4-52 S1-112
		"ProviderHeld": {muster.Snapshot{Pool: small(2, nil), Jobs: queued(5, 0), ProviderHeld: noon.Add(30 * time.Second)},
			want{muster.Maintain, muster.RuleProviderRefusing, 0, 0, nil, 0, nil, 30 * time.Second, "2 wanted, but the provider is left alone"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := muster.Plan(c.s, noon)
			got := want{d.Action, d.Rule, d.Create, d.Warm, d.For, len(d.Drain), d.Overflow, 0, c.want.words}
			if !d.WakeAt.IsZero() {
				got.wake = d.WakeAt.Sub(noon)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v\nbecause %s", got, c.want, d.Reason)
			}
			if !strings.Contains(d.Reason, c.want.words) {
				t.Errorf("reason %q lacks %q", d.Reason, c.want.words)
			}
		})
	}
}

func TestCanaryShare(t *testing.T) {
	for _, c := range []struct {
		name    string
		percent int
		count   muster.CanaryCount
		jobs    int
		want    int
	}{
		{"TheFirstIsOne", 10, muster.CanaryCount{}, 1, 1},
		{"ThenNineAreNot", 10, muster.CanaryCount{Made: 1, Canaries: 1}, 9, 0},
		{"TheEleventhIs", 10, muster.CanaryCount{Made: 10, Canaries: 1}, 1, 1},
		{"ManyAtOnce", 25, muster.CanaryCount{}, 8, 2},
		{"CatchesUp", 50, muster.CanaryCount{Made: 10}, 4, 4},
		{"All", 100, muster.CanaryCount{Made: 5, Canaries: 5}, 3, 3},
		{"Reverted", 100, muster.CanaryCount{Reverted: true}, 3, 0},
		{"Failing", 100, muster.CanaryCount{Made: 2, Canaries: 2, Failed: 2}, 3, 0},
		{"FailingLess", 100, muster.CanaryCount{Made: 2, Canaries: 2, Failed: 1}, 3, 3},
	} {
		p := pool(func(p *muster.Pool) { p.Canary = muster.Canary{Offering: "new", Percent: c.percent, MaxFailures: 2} })
		if d := muster.Plan(muster.Snapshot{Pool: p, Jobs: queued(c.jobs, 0), Canary: c.count}, noon); d.Canary != c.want || d.Create != c.jobs {
			t.Errorf("%s: %d canaries of %d, want %d", c.name, d.Canary, d.Create, c.want)
		}
	}
	if d := muster.Plan(muster.Snapshot{Pool: pool(nil), Jobs: queued(3, 0)}, noon); d.Canary != 0 {
		t.Errorf("without a canary: %d", d.Canary)
	}
	for _, c := range []struct {
		canary muster.Canary
		failed int
		want   bool
	}{
		{muster.Canary{}, 100, false}, {muster.Canary{Offering: "new"}, 2, false}, {muster.Canary{Offering: "new"}, 3, true},
		{muster.Canary{Offering: "new", MaxFailures: 1}, 0, false}, {muster.Canary{Offering: "new", MaxFailures: 1}, 1, true},
	} {
		if got := muster.CanaryFailing(c.canary, muster.CanaryCount{Failed: c.failed}); got != c.want {
			t.Errorf("%+v after %d failures: %t", c.canary, c.failed, got)
		}
	}
}

// The share never leaves Percent by more than one runner, however runners come.
func TestCanaryShareHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := pool(func(p *muster.Pool) {
			p.Canary = muster.Canary{Offering: "new", Percent: rapid.IntRange(1, 100).Draw(t, "percent")}
		})
		var n muster.CanaryCount
		for range rapid.IntRange(1, 20).Draw(t, "rounds") {
			d := muster.Plan(muster.Snapshot{Pool: p, Jobs: queued(rapid.IntRange(0, 10).Draw(t, "jobs"), 0), Canary: n}, noon)
			n.Made += d.Create + d.Warm
			n.Canaries += d.Canary
			if due := (n.Made*p.Canary.Percent + 99) / 100; n.Canaries != due {
				t.Fatalf("%d canaries of %d at %d %%, want %d", n.Canaries, n.Made, p.Canary.Percent, due)
			}
		}
	})
}

// 4-3: whatever GitHub says again about what is over, a re-run's job is queued and gets its runner.
func TestPlanNeverStarvesARerun(t *testing.T) {
	rerun := muster.PlanJob{ID: 7, Attempt: 2, State: muster.JobQueued, Repository: "a/a", QueuedAt: noon}
	rapid.Check(t, func(t *rapid.T) {
		jobs := []muster.PlanJob{rerun}
		for range rapid.IntRange(0, 8).Draw(t, "echoes") {
			jobs = append(jobs, muster.PlanJob{
				ID: rapid.SampledFrom([]int64{5, 6, 7}).Draw(t, "id"), Attempt: rapid.IntRange(0, 1).Draw(t, "attempt"), Repository: "a/a",
				State: rapid.SampledFrom([]muster.JobState{muster.JobCompleted, muster.JobWaiting}).Draw(t, "state"),
			})
		}
		d := muster.Plan(muster.Snapshot{Pool: pool(nil), Jobs: rapid.Permutation(jobs).Draw(t, "order")}, noon)
		if d.Create != 1 || !slices.Equal(d.For, []int64{7}) || d.Metrics.QueuedJobs != 1 {
			t.Fatalf("%+v", d)
		}
	})
}

// contest is a snapshot in which repositories want more than the pool's limit, in
// line behind no supply, so that Decision.For is the choice itself.
func contest(t *rapid.T, quotas func(*rapid.T) []muster.Quota) muster.Snapshot {
	s := muster.Snapshot{Pool: muster.Pool{Name: "p", Enabled: true, Provisioning: 100, Quotas: quotas(t)}}
	repos := []string{"o/a", "o/b", "o/c", "x/d"}
	spread := rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "spread")
	for i := range rapid.IntRange(1, 10).Draw(t, "jobs") {
		j := job(int64(i+1), rapid.SampledFrom(repos).Draw(t, "repository"), time.Duration(rapid.IntRange(0, 59).Draw(t, "minutes"))*time.Minute)
		j.Priority = rapid.IntRange(-spread, spread).Draw(t, "priority")
		if rapid.IntRange(0, 9).Draw(t, "old") == 0 {
			j.QueuedAt = noon.Add(-2 * time.Hour)
		}
		s.Jobs = append(s.Jobs, j)
	}
	for i, repo := range repos {
		s.Jobs = append(s.Jobs, busy(int64(100+10*i), repo, rapid.IntRange(0, 3).Draw(t, "running"))...)
	}
	s.Pool.Scaling = muster.Scaling{MaxRunners: rapid.IntRange(0, 12).Draw(t, "max"), JobsPerRunner: 1}
	return s
}

func ownQuotas(t *rapid.T) (quotas []muster.Quota) {
	for i, q := range []muster.Quota{
		{Each: true}, {Repositories: []string{"o/a"}}, {Repositories: []string{"o/a", "o/b"}}, {Repositories: []string{"o/*"}}, {},
	} {
		if rapid.IntRange(0, 2).Draw(t, "quota") == 0 {
			q.Name, q.MaxRunners = fmt.Sprint(i), rapid.IntRange(0, 6).Draw(t, "quotaMax")
			quotas = append(quotas, q)
		}
	}
	return quotas
}

// anyQuotas may overlap, so that one repository's share is another's in part.
func anyQuotas(t *rapid.T) []muster.Quota {
	quotas := ownQuotas(t)
	for i, repos := range [][]string{{"o/b", "o/c"}, {"o/c", "x/d"}, {"o/a", "x/d"}} {
		if rapid.Bool().Draw(t, "overlap") {
			quotas = append(quotas, muster.Quota{Name: fmt.Sprint("o", i), Repositories: repos, MaxRunners: rapid.IntRange(0, 6).Draw(t, "overlapMax")})
		}
	}
	return quotas
}

// tenants is what the tests below count per repository.
type tenants map[string]int

func running0(s muster.Snapshot) tenants {
	n := tenants{}
	for _, j := range s.Jobs {
		if j.State == muster.JobInProgress {
			n[j.Repository]++
		}
	}
	return n
}

// allowed reports whether so many chosen jobs of each repository, besides what
// runs, keep to the quotas. What runs above a quota already is not Plan's doing.
func allowed(quotas []muster.Quota, running, chosen tenants) bool {
	for _, q := range quotas {
		shared, sharedChosen := 0, 0
		for repo := range maps.Keys(chosen) {
			if !q.Covers(repo) || chosen[repo] == 0 {
				continue
			}
			if q.Each && running[repo]+chosen[repo] > q.MaxRunners {
				return false
			}
			sharedChosen += chosen[repo]
		}
		for repo, n := range running {
			if q.Covers(repo) {
				shared += n
			}
		}
		if !q.Each && sharedChosen > 0 && shared+sharedChosen > q.MaxRunners {
			return false
		}
	}
	return true
}

// weight is a job's priority with the rule of patience, written down anew.
func weight(s muster.Snapshot, j muster.PlanJob) int {
	if noon.Sub(j.QueuedAt) < time.Hour {
		return j.Priority
	}
	top := j.Priority
	for _, o := range s.Jobs {
		if o.State == muster.JobQueued {
			top = max(top, o.Priority)
		}
	}
	return top
}

// What Plan adds keeps to every quota, is chosen by priority, within one priority
// by fair shares, and within a repository by age; and nothing that could be
// chosen as well is left out.
func TestPlanChoosesFairly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := contest(t, anyQuotas)
		d := muster.Plan(s, noon)
		running := running0(s)
		chosen, isChosen := tenants{}, map[int64]bool{}
		for _, id := range d.For {
			isChosen[id] = true
		}
		if len(d.For) != d.Create || len(isChosen) != d.Create || d.Create > s.Pool.Scaling.MaxRunners {
			t.Fatalf("%d runners for %v", d.Create, d.For)
		}
		var in, out []muster.PlanJob
		for _, j := range s.Jobs {
			switch {
			case isChosen[j.ID]:
				chosen[j.Repository]++
				in = append(in, j)
			case j.State == muster.JobQueued:
				out = append(out, j)
			}
		}
		if !allowed(s.Pool.Quotas, running, chosen) {
			t.Fatalf("%v chosen beside %v breaks the quotas %+v", chosen, running, s.Pool.Quotas)
		}
		with := func(more, less string) bool { // one more of this repository for one less of that
			c := maps.Clone(chosen)
			c[more]++
			if less != "" {
				c[less]--
			}
			return allowed(s.Pool.Quotas, running, c)
		}
		for _, o := range out {
			if d.Create < s.Pool.Scaling.MaxRunners && with(o.Repository, "") {
				t.Fatalf("%+v is left out, with %d of %d made", o, d.Create, s.Pool.Scaling.MaxRunners)
			}
			for _, i := range in {
				swap := with(o.Repository, i.Repository)
				share := func(repo string) int { // with what was chosen no later than i
					n := running[repo]
					for _, c := range in {
						if c.Repository == repo && weight(s, c) >= weight(s, i) {
							n++
						}
					}
					return n
				}
				switch wo, wi := weight(s, o), weight(s, i); {
				case wo > wi && swap:
					t.Fatalf("%+v goes before %+v of a higher priority", i, o)
				case wo == wi && swap && share(i.Repository) > share(o.Repository)+1:
					t.Fatalf("unfair: %s has %d, %s has %d and could have more", i.Repository, share(i.Repository), o.Repository, share(o.Repository))
				case wo == wi && o.Repository == i.Repository && o.QueuedAt.Before(i.QueuedAt):
					t.Fatalf("%+v goes before the older %+v", i, o)
				}
			}
		}
	})
}

// The fair share against every possible choice: of all that keep to the limit and
// to quotas of which none cuts through another, the smallest share is as large as
// can be, then the second smallest, and so on.
func TestFairShareAgainstEveryChoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := contest(t, ownQuotas)
		for i := range s.Jobs {
			s.Jobs[i].Priority = 0
		}
		running, want := running0(s), tenants{}
		repo := map[int64]string{}
		for _, j := range s.Jobs {
			if j.State == muster.JobQueued {
				want[j.Repository]++
				repo[j.ID] = j.Repository
			}
		}
		names := slices.Sorted(maps.Keys(want))
		shares := func(c tenants) []int {
			var v []int
			for _, n := range names {
				v = append(v, running[n]+c[n])
			}
			slices.Sort(v)
			return v
		}
		var best []int
		var try func(i, rest int, c tenants)
		try = func(i, rest int, c tenants) {
			if i == len(names) {
				if v := shares(c); allowed(s.Pool.Quotas, running, c) && slices.Compare(v, best) > 0 {
					best = v
				}
				return
			}
			for n := 0; n <= min(rest, want[names[i]]); n++ {
				c[names[i]] = n
				try(i+1, rest-n, c)
			}
			delete(c, names[i])
		}
		try(0, s.Pool.Scaling.MaxRunners, tenants{})
		got := tenants{}
		for _, id := range muster.Plan(s, noon).For {
			got[repo[id]]++
		}
		if v := shares(got); !slices.Equal(v, best) {
			t.Fatalf("shares %v, but %v is possible: %v of %v beside %v", v, best, got, want, running)
		}
	})
}

// C15: with a stream of better jobs that never ends, and with one repository that
// floods the pool, the oldest job is chosen within a bounded time, even where a
// runner takes exactly the job for which it was made.
func TestPlanStarvesNobodyBehindOthers(t *testing.T) {
	for name, rival := range map[string]muster.PlanJob{
		"HigherPriority":             {Repository: "o/rival", Priority: 10},
		"HigherPriorityOfItsOwn":     {Repository: "o/poor", Priority: 10},
		"Flood":                      {Repository: "o/rival"},
		"FloodOfManyRepositories":    {Repository: ""}, // each its own, below
		"HigherPriorityFromManyMore": {Repository: "", Priority: 10},
	} {
		t.Run(name, func(t *testing.T) {
			const slots, work = 3, 4 * time.Minute
			p := pool(func(p *muster.Pool) { p.Scaling = muster.Scaling{MaxRunners: slots, JobsPerRunner: 1} })
			jobs := map[int64]*muster.PlanJob{}
			ends := map[int64]time.Time{}
			add := func(j muster.PlanJob, at time.Time) {
				j.ID, j.State, j.QueuedAt = int64(len(jobs)+1), muster.JobQueued, at
				if j.Repository == "" {
					j.Repository = fmt.Sprint("o/r", j.ID)
				}
				jobs[j.ID] = &j
			}
			for range 5 {
				add(rival, noon.Add(-time.Minute))
			}
			poor := int64(len(jobs) + 1)
			add(muster.PlanJob{Repository: "o/poor"}, noon)
			for now := noon; jobs[poor].State == muster.JobQueued; now = now.Add(time.Minute) {
				if now.Sub(noon) > time.Hour+30*time.Minute {
					t.Fatalf("still waiting after %s", now.Sub(noon))
				}
				for range 2 { // twice what three slots can do
					add(rival, now)
				}
				s := muster.Snapshot{Pool: p}
				for id := range int64(len(jobs)) {
					j := jobs[id+1]
					if end, ok := ends[j.ID]; ok && !now.Before(end) {
						j.State = muster.JobCompleted
					}
					if j.State == muster.JobInProgress {
						s.Runners = append(s.Runners, muster.PlanRunner{ID: muster.RunnerID(fmt.Sprint("r-", j.ID)), State: muster.RunnerActive, Busy: true, CreatedAt: now})
					}
					s.Jobs = append(s.Jobs, *j)
				}
				for _, id := range muster.Plan(s, now).For {
					jobs[id].State = muster.JobInProgress
					ends[id] = now.Add(work)
				}
			}
		})
	}
}

// The order in which jobs, runners, windows and quotas are listed says nothing.
func TestPlanIgnoresTheOrderOfItsInputs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		d := muster.Plan(s, noon)
		s.Jobs = rapid.Permutation(s.Jobs).Draw(t, "jobs")
		s.Runners = rapid.Permutation(s.Runners).Draw(t, "runners")
		s.Windows = rapid.Permutation(s.Windows).Draw(t, "windows")
		s.Pool.Priorities = rapid.Permutation(s.Pool.Priorities).Draw(t, "priorities")
		if again := muster.Plan(s, noon); !reflect.DeepEqual(d, again) && strings.Count(d.Reason, "over a quota") == 0 {
			t.Fatalf("%+v\nin another order %+v", d, again)
		} else if acts(d) != acts(again) {
			t.Fatalf("%+v\nin another order %+v", d, again)
		}
	})
}
