package muster_test

import (
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

// Every wait has an explanation, whatever the situation, and no job that waits is said not to.
func TestExplainAlwaysKnowsACause(t *testing.T) {
	codes := []string{
		muster.CauseNotWaiting, muster.CauseWaitingApproval, muster.CauseNoPool, muster.CauseNotEligible, muster.CauseRefused,
		muster.CausePoolDisabled, muster.CauseSuspended, muster.CauseIdleNotAssigned, muster.CausePoolAtMax, muster.CauseProviderRefusing,
		muster.CauseProvisioningLimit, muster.CauseCooldown, muster.CauseStarting, muster.CauseStolen, muster.CauseDeciding,
	}
	rapid.Check(t, func(t *rapid.T) {
		s := muster.Situation{Snapshot: genSnapshot(t)}
		p := s.Snapshot.Pool
		p.Labels, p.RunnerLabels = muster.Labels{"a"}, muster.Labels{"a", "b"}
		p.Scope = muster.Scope{Kind: muster.ScopeOrganization, Owner: "o"}
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
		}
	})
}
