package muster_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

func TestExplain(t *testing.T) {
	const (
		registered   = muster.RunnerRegistered
		active       = muster.RunnerActive
		provisioning = muster.RunnerProvisioning
	)
	job := func(change func(*muster.Job)) muster.Job {
		j := muster.Job{Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"muster"},
			CreatedAt: noon.Add(-10 * time.Minute), SeenAt: noon.Add(-10 * time.Minute), Pool: "ci"}
		if change != nil {
			change(&j)
		}
		return j
	}
	ci := pool(nil)
	named := func(name string, change func(*muster.Pool)) muster.Pool {
		return pool(func(p *muster.Pool) { p.Name = name; change(p) })
	}
	for name, c := range map[string]struct {
		s     muster.Situation
		codes string
		words []string // of the first cause
	}{
		"Running": {muster.Situation{Job: job(func(j *muster.Job) { j.State = muster.JobInProgress; j.RunnerName = "ci-1" })},
			"not_waiting", []string{"running", "ci-1"}},
		"Finished": {muster.Situation{Job: job(func(j *muster.Job) { j.State = muster.JobCompleted; j.Conclusion = "cancelled" })},
			"not_waiting", []string{"cancelled", "without a runner"}},
		// 4-5
		"Approval": {muster.Situation{Job: job(func(j *muster.Job) { j.State = muster.JobWaiting }), Pools: []muster.Pool{ci}},
			"waiting_approval", []string{"approval", "30 days"}},
		"NoPoolAtAll": {muster.Situation{Job: job(nil)}, "no_pool", []string{"[muster]", "no pool is configured"}},
		// C8: the nearest pool, and what is missing either way.
		"NearestPool": {muster.Situation{Job: job(func(j *muster.Job) { j.Labels = muster.Labels{"linux", "arm64"} }), Pools: []muster.Pool{
			named("far", func(p *muster.Pool) { p.Labels = muster.Labels{"windows", "gpu", "big"} }),
			named("near", func(p *muster.Pool) { p.Labels = muster.Labels{"linux", "docker"} })}},
			"no_pool", []string{"[linux,arm64]", "nearest is pool near", "ask for [docker]", "lack [arm64]"}},
		"NoLabels": {muster.Situation{Job: job(func(j *muster.Job) { j.Labels = nil }), Pools: []muster.Pool{ci}},
			"no_pool", []string{"no label", "group"}},
		"NotEligible": {muster.Situation{Job: job(func(j *muster.Job) { j.Labels = muster.Labels{"muster", "gpu"} }), Pools: []muster.Pool{ci}},
			"not_eligible", []string{"pool ci", "[gpu]", "runner_labels"}},
		// Those of other repositories do not hide the one that is meant.
		"NotEligibleBesideOthers": {muster.Situation{Job: job(func(j *muster.Job) { j.Labels, j.Pool = muster.Labels{"muster", "gpu"}, "" }), Pools: []muster.Pool{
			named("theirs", func(p *muster.Pool) { p.Scope.Owner, p.RunnerLabels = "other", muster.Labels{"muster", "gpu"} }), ci}},
			"not_eligible", []string{"pool ci", "[gpu]"}},
		// 4-31
		"Refused": {muster.Situation{Job: job(func(j *muster.Job) { j.PublicRepo = true }), Pools: []muster.Pool{named("ci", func(p *muster.Pool) { p.Lifecycle = muster.LifecycleKept })}},
			"refused", []string{"public", "allow_public"}},
		"OtherScope": {muster.Situation{Job: job(func(j *muster.Job) { j.Repository = "other/app" }), Pools: []muster.Pool{ci}},
			"refused", []string{"acme", "other/app"}},
		"Disabled": {muster.Situation{Job: job(nil), Pools: []muster.Pool{named("ci", func(p *muster.Pool) { p.Enabled = false }), named("b", func(*muster.Pool) {})}},
			"pool_disabled", []string{"pool ci is disabled", "muster pool enable ci"}},
		// C34
		"Suspended": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, Snapshot: muster.Snapshot{Pool: ci, Suspended: true}},
			"suspended", []string{"suspended", "Unsuspend"}},
		// 4-30 4-43
		"IdleNotAssigned": {muster.Situation{Job: job(func(j *muster.Job) { j.PublicRepo = true }), Pools: []muster.Pool{ci},
			Snapshot: muster.Snapshot{Pool: ci, Jobs: queued(1, 10*time.Minute), Runners: runners(1, registered, 4*time.Minute)}},
			"idle_runner_not_assigned", []string{"1 runner is", "4m0s", "runner group 1", "acme/app", "Allow public"}},
		"IdleForAMoment": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci},
			Snapshot: muster.Snapshot{Pool: ci, Jobs: queued(1, 10*time.Minute), Runners: runners(1, registered, 10*time.Second)}},
			"deciding", []string{"within seconds"}},
		// 4-53: the limit, and the place in the queue.
		"AtMax": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, Ahead: 3,
			Snapshot: muster.Snapshot{Pool: ci, Jobs: queued(7, 10*time.Minute), Runners: runners(10, active, 0)}},
			"pool_at_max", []string{"10 of 10 runners live", "10 busy", "number 4 of 7", "max_runners"}},
		// 4-52: the provider's own words.
		"ProviderRefuses": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, ProviderError: "QUOTA_EXCEEDED: 8 of 8 CPUs", ProviderErrorAt: noon.Add(-time.Minute),
			Snapshot: muster.Snapshot{Pool: ci, Runners: runners(1, provisioning, 0)}},
			"provider_refusing starting", []string{"QUOTA_EXCEEDED: 8 of 8 CPUs", "process"}},
		// S1-112
		"ProvisioningLimit": {muster.Situation{Job: job(nil), Pools: []muster.Pool{named("ci", func(p *muster.Pool) { p.Scaling = muster.Scaling{MaxRunners: 50, JobsPerRunner: 1} })}, Ahead: 20,
			Snapshot: muster.Snapshot{Runners: runners(10, provisioning, 0)}, Decision: muster.Decision{Rule: muster.RuleProvisioningLimit}, DecidedAt: noon},
			"provisioning_limit starting", []string{"10 runners", "at most 10", "number 21"}},
		// S1-46
		"Cooldown": {muster.Situation{Job: job(nil), Pools: []muster.Pool{named("ci", func(p *muster.Pool) { p.Scaling = muster.DefaultScaling() })},
			Snapshot: muster.Snapshot{LastScaling: noon.Add(-time.Minute)}},
			"cooldown", []string{"12:04:00Z", "in 4m0s"}},
		"Starting": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, Snapshot: muster.Snapshot{Pool: ci, Runners: runners(2, provisioning, 30*time.Second)}},
			"starting", []string{"2 runners", "11:58:30Z", "1m30s ago", "number 1"}},
		// S2-11: the platform's own words for the wait, of the runner that was made for this job.
		"PlatformQueue": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, Snapshot: muster.Snapshot{Pool: ci, Jobs: queued(1, 10*time.Minute), Runners: runners(1, provisioning, 4*time.Minute)},
			Queued: inQueue(1)},
			"platform_queue", []string{"pool ci made runner r-provisioning-00 for this job", "waits in the platform's queue", "provider slurm", "PENDING (Resources): no node has enough free", "since 2026-03-04 11:56:00Z (4m0s ago)"}},
		"PlatformQueueOfAnother": {muster.Situation{Job: job(func(j *muster.Job) { j.Key.ID = 77 }), Pools: []muster.Pool{ci}, Snapshot: muster.Snapshot{Pool: ci, Runners: runners(3, provisioning, 4*time.Minute)},
			Queued: inQueue(2)},
			"platform_queue starting", []string{"made a runner that waits", "PENDING (Resources)", "1 other runner is in it too"}},
		// What the books say of a runner that has moved on since is not repeated.
		"PlatformQueueLeft": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, Snapshot: muster.Snapshot{Pool: ci, Jobs: queued(1, 10*time.Minute), Runners: runners(1, active, 0)},
			Queued: inQueue(1)},
			"deciding", []string{"has not decided"}},
		"PlatformQueueAtMax": {muster.Situation{Job: job(func(j *muster.Job) { j.Key.ID = 77 }), Pools: []muster.Pool{ci}, Ahead: 10, Snapshot: muster.Snapshot{Pool: ci, Jobs: queued(11, 10*time.Minute), Runners: runners(10, provisioning, time.Minute)},
			Queued: inQueue(10)},
			"pool_at_max platform_queue", []string{"10 of 10 runners live"}},
		// 4-1 4-2
		"Stolen": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, StolenBy: "acme/app 99", Snapshot: muster.Snapshot{Pool: ci, Runners: runners(1, provisioning, 0)}},
			"starting stolen", []string{"1 runner"}},
		"JustArrived": {muster.Situation{Job: job(func(j *muster.Job) { j.Pool = "" }), Pools: []muster.Pool{ci}},
			"deciding", []string{"has not decided"}},
		"BelowThreshold": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, DecidedAt: noon.Add(-time.Minute),
			Decision: muster.Decision{ScalingDecision: muster.ScalingDecision{Action: muster.Maintain, Reason: "3 of 5"}, WakeAt: noon.Add(time.Minute)}},
			"deciding", []string{"3 of 5", "1m0s ago", "at the latest in 1m0s"}},
		// 4-27
		"NoData": {muster.Situation{Job: job(nil), Pools: []muster.Pool{ci}, Snapshot: muster.Snapshot{DemandUnknown: true}},
			"deciding", []string{"could not be read"}},
	} {
		t.Run(name, func(t *testing.T) {
			causes := muster.Explain(c.s, noon)
			var codes []string
			for _, cause := range causes {
				codes = append(codes, cause.Code)
			}
			if got := strings.Join(codes, " "); got != c.codes {
				t.Fatalf("causes %q, want %q: %+v", got, c.codes, causes)
			}
			for _, w := range c.words {
				if !strings.Contains(causes[0].Text, w) {
					t.Errorf("%q lacks %q", causes[0].Text, w)
				}
			}
		})
	}
}

// inQueue are n runners of the pool that wait in a platform's queue, the first for job 1.
func inQueue(n int) (out []muster.QueuedRunner) {
	for i := range n {
		out = append(out, muster.QueuedRunner{ID: muster.RunnerID(fmt.Sprintf("r-provisioning-%02d", i)), For: int64(i + 1), Provider: "slurm",
			Words: "PENDING (Resources): no node has enough free", Since: noon.Add(-4 * time.Minute)})
	}
	return out
}

// The rules that operators write, and what the callers know: the causes in their
// order, and what the first says. The job of each situation is number 1 of acme/app,
// queued for ten minutes.
func TestExplainRules(t *testing.T) {
	const (
		active       = muster.RunnerActive
		provisioning = muster.RunnerProvisioning
	)
	ten := 10 * time.Minute
	mine := muster.Job{Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"muster"},
		CreatedAt: noon.Add(-ten), SeenAt: noon.Add(-ten), Pool: "ci"}
	four := func(change func(*muster.Pool)) muster.Pool {
		return pool(func(p *muster.Pool) {
			p.Scaling = muster.Scaling{MaxRunners: 4, JobsPerRunner: 1}
			if change != nil {
				change(p)
			}
		})
	}
	spent := func(state muster.SpendingState, percent int64) muster.Spending {
		return muster.Spending{State: state, SpentMicroUSD: percent * 1_234_500, MonthMicroUSD: 123_450_000}
	}
	one := []muster.PlanJob{job(1, "acme/app", ten)}
	for name, c := range map[string]struct {
		snap  muster.Snapshot
		add   func(*muster.Situation)
		codes string
		words []string
	}{
		"PoolSuspended": {muster.Snapshot{Pool: four(func(p *muster.Pool) { p.Suspended = true }), Jobs: one}, nil, // S4-17
			"pool_suspended", []string{"pool ci is suspended", "1 job waits", "muster pool resume ci"}},
		"AppLacksAPermission": {muster.Snapshot{Pool: four(nil), Jobs: one}, func(s *muster.Situation) {
			s.AppProblem = "App main lacks the permission organization_self_hosted_runners: write"
		},
			"app_problem", []string{"App main lacks"}},
		"RunnerGroup": {muster.Snapshot{Pool: four(nil), Jobs: one, Runners: runners(1, muster.RunnerRegistered, ten)}, func(s *muster.Situation) { s.GroupProblem = "it is limited to other repositories" }, // 4-30
			"runner_group", []string{"runner group 1", "limited to other repositories", "runner_group"}},
		"BudgetStopped": {muster.Snapshot{Pool: four(nil), Jobs: one, Spending: spent(muster.SpendingStopped, 101)}, nil,
			"budget", []string{"$124.68 of its month's $123.45", "nothing new is made", "stop_percent", "month_usd"}},
		"BudgetLowered": {muster.Snapshot{Pool: four(nil), Jobs: []muster.PlanJob{job(1, "acme/app", 3*time.Minute)}, Spending: spent(muster.SpendingLowered, 91)}, nil,
			"budget", []string{"only 5m0s after", "12:02:00Z", "lower_percent"}},
		"BudgetLoweredIsOver": {muster.Snapshot{Pool: four(nil), Jobs: one, Spending: spent(muster.SpendingLowered, 91)}, nil,
			"deciding", nil},
		"Quota": {muster.Snapshot{Pool: four(func(p *muster.Pool) {
			p.Quotas = []muster.Quota{{Name: "app team", Repositories: []string{"acme/app*"}, MaxRunners: 2}}
		}), Jobs: slices.Concat(one, busy(10, "acme/app", 1), []muster.PlanJob{job(2, "acme/app2", 0)}), Runners: runners(1, active, 0)}, nil,
			"quota", []string{"quota is full (app team 2 of 2,", "acme/app", "max_runners of the quota"}},
		"QuotaOfEach": {muster.Snapshot{Pool: four(func(p *muster.Pool) {
			p.Quotas = []muster.Quota{{Name: "fair", Each: true, MaxRunners: 1}}
		}), Jobs: slices.Concat(one, busy(10, "acme/app", 1)), Runners: runners(1, active, 0)}, nil,
			"quota", []string{"fair for acme/app 1 of 1"}},
		"JobWait": {muster.Snapshot{Pool: four(func(p *muster.Pool) { p.JobWait = 15 * time.Minute }), Jobs: one}, nil,
			"job_wait", []string{"15m0s (job_wait)", "12:05:00Z (in 5m0s)"}},
		"Schedule": {muster.Snapshot{Pool: four(nil), Jobs: one, Windows: []muster.Window{open(nil, ptr(1))}, Runners: runners(1, active, 0)}, nil,
			"schedule pool_at_max", []string{"limit to 1 runner until", "13:00:00Z (in 1h0m0s)"}},
		"ScheduleOfTomorrow": {muster.Snapshot{Pool: four(nil), Jobs: one, Windows: []muster.Window{next(nil, ptr(1))}, Runners: runners(4, active, 0)}, nil,
			"pool_at_max", []string{"4 of 4 runners live"}},
		"GitHubPaused": {muster.Snapshot{Pool: four(nil), Jobs: one}, func(s *muster.Situation) {
			s.GitHubPaused, s.GitHubWords = noon.Add(7*time.Minute), "5,000 of 5,000 points used"
		},
			"github_paused", []string{"12:07:00Z (in 7m0s): 5,000 of 5,000 points used"}},
		"GitHubWasPaused": {muster.Snapshot{Pool: four(nil), Jobs: one}, func(s *muster.Situation) { s.GitHubPaused = noon },
			"deciding", nil},
		"Priority": {muster.Snapshot{Pool: four(nil), Runners: runners(4, active, 0), Jobs: []muster.PlanJob{job(1, "acme/app", ten), prioritized(job(2, "acme/app", time.Minute), 5), prioritized(job(3, "b/b", 0), 5), job(4, "b/b", time.Minute)}}, nil,
			"pool_at_max priority", []string{"number 3 of 4"}},
		"FairShare": {muster.Snapshot{Pool: four(nil), Runners: runners(4, active, 0), Jobs: slices.Concat(one, busy(10, "acme/app", 3), []muster.PlanJob{job(2, "b/b", 0), job(3, "c/c", 0)})}, nil,
			"pool_at_max fair_share", []string{"number 3 of 3"}},
		"OverflowLater": {muster.Snapshot{Pool: four(func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big", After: 12 * time.Minute} }), Runners: runners(4, active, 0), Jobs: []muster.PlanJob{overflowing(one[0])}}, nil,
			"pool_at_max overflow", nil},
		"OverflowAlone": {muster.Snapshot{Pool: four(func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big", After: 12 * time.Minute} }), Jobs: []muster.PlanJob{overflowing(one[0])}}, nil,
			"overflow deciding", []string{"goes to pool big at", "12:02:00Z (in 2m0s)"}},
		"OverflowNow": {muster.Snapshot{Pool: four(func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "big", After: time.Minute} }), Jobs: []muster.PlanJob{overflowing(one[0])}}, nil,
			"overflow deciding", []string{"waited for 10m0s", "pool big with the next decision"}},
		"Polling": {muster.Snapshot{Pool: four(nil), Jobs: one, Runners: runners(1, provisioning, 0)}, func(s *muster.Situation) { s.SeenOnlyByPoll, s.Job.SeenAt = true, noon.Add(-8*time.Minute) },
			"starting seen_by_polling_only", nil},
		"Expiring": {muster.Snapshot{Pool: four(nil)}, func(s *muster.Situation) { s.Job.CreatedAt = noon.Add(-25 * time.Hour) },
			"expired deciding", []string{"queued for 25h0m0s", "after a day"}},
		"Expired": {muster.Snapshot{}, func(s *muster.Situation) {
			s.Job.State, s.Job.Conclusion, s.Job.CreatedAt, s.Job.CompletedAt = muster.JobCompleted, "cancelled", noon.Add(-25*time.Hour), noon.Add(-time.Hour)
		},
			"expired", []string{"cancelled, without a runner", "after 24h0m0s"}},
		"RunnerLost": {muster.Snapshot{}, func(s *muster.Situation) {
			s.Job.State, s.Job.RunnerName, s.RunnerLost = muster.JobInProgress, "ci-7", "its machine is gone since 11:58"
		},
			"runner_lost", []string{"ci-7", "its machine is gone since 11:58", "run it again"}},
		// The line of 4-30 goes by GitHub's order, which is not ours.
		"IdleThoughOthersGoFirst": {muster.Snapshot{Pool: four(nil), Jobs: []muster.PlanJob{one[0], prioritized(job(2, "b/b", 0), 5)}, Runners: runners(1, muster.RunnerRegistered, 2*time.Minute)}, nil,
			"idle_runner_not_assigned priority", []string{"1 runner is, online and idle"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := muster.Situation{Job: mine, Snapshot: c.snap}
			if c.snap.Pool.Name != "" {
				s.Pools = []muster.Pool{c.snap.Pool}
			}
			if c.add != nil {
				c.add(&s)
			}
			causes := muster.Explain(s, noon)
			var codes []string
			for _, cause := range causes {
				codes = append(codes, cause.Code)
			}
			if got := strings.Join(codes, " "); got != c.codes {
				t.Fatalf("causes %q, want %q: %+v", got, c.codes, causes)
			}
			for _, w := range c.words {
				if !strings.Contains(causes[0].Text, w) {
					t.Errorf("%q lacks %q", causes[0].Text, w)
				}
			}
		})
	}
}

// A job that GitHub still shows as queued and a runner says that it runs.
func TestExplainWhatARunnerSays(t *testing.T) {
	p := pool(nil)
	taken := job(1, "acme/app", time.Minute)
	taken.State, taken.Said = muster.JobInProgress, "r-says"
	s := muster.Situation{
		Job:   muster.Job{Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"muster"}, CreatedAt: noon.Add(-time.Minute), Pool: "ci"},
		Pools: []muster.Pool{p}, Snapshot: muster.Snapshot{Pool: p, Runners: runners(1, muster.RunnerActive, 0), Jobs: []muster.PlanJob{taken}},
	}
	got := muster.Explain(s, noon)
	if len(got) != 1 || got[0].Code != muster.CauseRunnerSays || !strings.Contains(got[0].Text, "runner r-says says") {
		t.Errorf("%+v", got)
	}
	s.Snapshot.Jobs[0].State, s.Snapshot.Jobs[0].Said = muster.JobQueued, ""
	for _, c := range muster.Explain(s, noon) {
		if c.Code == muster.CauseRunnerSays {
			t.Errorf("its word has lapsed: %+v", c)
		}
	}
}

// What those behind the first say.
func TestExplainWhyLater(t *testing.T) {
	p := pool(func(p *muster.Pool) { p.Scaling = muster.Scaling{MaxRunners: 4, JobsPerRunner: 1} })
	s := muster.Situation{
		Job:   muster.Job{Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"muster"}, CreatedAt: noon.Add(-10 * time.Minute), SeenAt: noon.Add(-8 * time.Minute), Pool: "ci"},
		Pools: []muster.Pool{p}, SeenOnlyByPoll: true,
		Snapshot: muster.Snapshot{Pool: p, Runners: runners(4, muster.RunnerActive, 0), Jobs: slices.Concat(busy(10, "acme/app", 3), []muster.PlanJob{
			job(1, "acme/app", 10*time.Minute), prioritized(job(2, "acme/lib", time.Minute), 5), job(3, "b/b", 0), job(4, "b/b", time.Minute), job(5, "acme/app", time.Hour-time.Second)})},
	}
	want := map[string][]string{
		muster.CausePriority:          {"number 5 of 5 in line and would be number 2 by age", "1 younger job has a higher priority in pool ci (its own is 0)", "After 1h0m0s"},
		muster.CauseFairShare:         {"2 younger jobs come before it from other repositories", "than acme/app with its 3 and 2"},
		muster.CauseSeenByPollingOnly: {"not a webhook", "muster delivery list", "this one 2m0s"},
	}
	for _, c := range muster.Explain(s, noon) {
		for _, w := range want[c.Code] {
			if !strings.Contains(c.Text, w) {
				t.Errorf("%s: %q lacks %q", c.Code, c.Text, w)
			}
		}
		delete(want, c.Code)
	}
	if len(want) > 0 {
		t.Errorf("not said: %v", want)
	}
}

// Every wait has an explanation, whatever the situation, and no job that waits is said not to.
func TestExplainAlwaysKnowsACause(t *testing.T) {
	codes := []string{
		muster.CauseNotWaiting, muster.CauseExpired, muster.CauseRunnerLost, muster.CauseWaitingApproval, muster.CauseNoPool, muster.CauseNotEligible,
		muster.CauseRefused, muster.CausePoolDisabled, muster.CauseSuspended, muster.CauseApp, muster.CausePoolSuspended, muster.CauseRunnerGroup,
		muster.CauseIdleNotAssigned, muster.CauseBudget, muster.CauseQuota, muster.CauseJobWait, muster.CauseMachineBusy, muster.CauseMachineStopping,
		muster.CauseMachineSuspended, muster.CauseRunnerMissing, muster.CauseSchedule, muster.CausePoolAtMax,
		muster.CauseProviderRefusing, muster.CauseGitHubPaused, muster.CauseProvisioningLimit, muster.CauseCooldown, muster.CausePriority,
		muster.CauseFairShare, muster.CauseStarting, muster.CauseOverflow, muster.CauseStolen, muster.CauseDeciding, muster.CauseSeenByPollingOnly,
	}
	rapid.Check(t, func(t *rapid.T) {
		s := muster.Situation{Snapshot: genSnapshot(t)}
		p := s.Snapshot.Pool
		p.Labels, p.RunnerLabels = muster.Labels{"a"}, muster.Labels{"a", "b"}
		p.Scope = muster.Scope{Kind: muster.ScopeOrganization, Owner: "o"}
		if rapid.IntRange(0, 3).Draw(t, "kept") == 0 {
			p.Lifecycle, p.Machine, p.AllowPublic = muster.LifecycleKept, "vm", true
			s.Machines = []muster.Machine{{
				ID: p.MachineID(), Status: rapid.SampledFrom([]muster.MachineStatus{"", "RUNNING", "STAGING", "STOPPING", "TERMINATED", "SUSPENDED", "LOST"}).Draw(t, "status"),
				Work: rapid.SampledFrom([]muster.MachineWork{"", muster.WorkIdle, muster.WorkBusy, muster.WorkMissing, muster.WorkUnknown}).Draw(t, "work"), WorkAt: noon.Add(-time.Minute),
				Refusal: "no", Refusals: rapid.IntRange(0, 2).Draw(t, "refusals"), StatusError: rapid.SampledFrom([]string{"", "down"}).Draw(t, "dark"),
			}}
			if rapid.Bool().Draw(t, "labels known") {
				s.Machines[0].Labels = map[string]muster.Labels{p.Name: {"a", "b"}}
			}
		}
		s.Snapshot.Pool = p
		if rapid.Bool().Draw(t, "pools") {
			s.Pools = []muster.Pool{p}
		}
		if rapid.Bool().Draw(t, "decided") {
			s.Decision, s.DecidedAt = muster.Plan(s.Snapshot, noon), noon
		}
		s.Job = muster.Job{
			Repository: rapid.SampledFrom([]string{"o/r", "x/r", ""}).Draw(t, "repository"),
			State:      rapid.SampledFrom([]muster.JobState{"", muster.JobQueued, muster.JobWaiting, muster.JobInProgress, muster.JobCompleted}).Draw(t, "state"),
			Labels:     rapid.SampledFrom([]muster.Labels{nil, {"a"}, {"a", "b"}, {"a", "c"}, {"z"}}).Draw(t, "labels"),
			Pool:       rapid.SampledFrom([]string{"", "p", "gone"}).Draw(t, "pool"),
		}
		s.Ahead = rapid.IntRange(0, 20).Draw(t, "ahead")
		s.StolenBy = rapid.SampledFrom([]string{"", "j"}).Draw(t, "stolen")
		s.ProviderError = rapid.SampledFrom([]string{"", "no"}).Draw(t, "provider")
		s.AppProblem = rapid.SampledFrom([]string{"", "not installed"}).Draw(t, "app")
		s.GroupProblem = rapid.SampledFrom([]string{"", "not its repository"}).Draw(t, "group")
		s.RunnerLost = rapid.SampledFrom([]string{"", "gone"}).Draw(t, "lost")
		s.SeenOnlyByPoll = rapid.Bool().Draw(t, "poll")
		if rapid.Bool().Draw(t, "paused") {
			s.GitHubPaused = noon.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "pause")) * time.Minute)
		}
		if rapid.Bool().Draw(t, "created") {
			s.Job.CreatedAt = noon.Add(-time.Duration(rapid.IntRange(0, 48).Draw(t, "hours")) * time.Hour)
		}
		if n := len(s.Snapshot.Jobs); n > 0 && rapid.IntRange(0, 3).Draw(t, "listed") > 0 {
			j := s.Snapshot.Jobs[rapid.IntRange(0, n-1).Draw(t, "which")]
			s.Job.Key = muster.JobKey{ID: j.ID, Attempt: j.Attempt}
		}
		causes := muster.Explain(s, noon)
		if len(causes) == 0 {
			t.Fatal("no cause")
		}
		last := -1
		for _, c := range causes {
			rank := slices.Index(codes, c.Code)
			if rank < 0 || c.Text == "" {
				t.Fatalf("%+v", c)
			}
			if rank < last {
				t.Fatalf("%s is ranked too low: %+v", c.Code, causes)
			}
			last = rank
			if waits := s.Job.State == muster.JobQueued || s.Job.State == ""; waits && c.Code == muster.CauseNotWaiting {
				t.Fatalf("a job that is %q does not wait: %s", s.Job.State, c.Text)
			}
			if strings.Contains(c.Text, "%!") {
				t.Fatalf("words that went wrong: %q", c.Text)
			}
		}
		if causes[0].Code == muster.CauseSeenByPollingOnly {
			t.Fatalf("why the job waits is not said: %+v", causes)
		}
	})
}
