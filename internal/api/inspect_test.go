package api_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
)

// What the planner saw is shown and decided upon again; where the planner has
// changed since, every field that differs is named.
func TestReplayDecision(t *testing.T) {
	w := newWorld(t, nil)
	at := t0.Add(-time.Minute)
	truth := w.store.decisions[0]
	truth.Decision = muster.Plan(truth.Snapshot, at)
	w.store.decisions[0] = truth
	resp, err := w.pools.ReplayDecision(t.Context(), &v1.ReplayDecisionRequest{Pool: "linux"})
	if err != nil || len(resp.Differences) != 0 || resp.Recorded.Id != 2 || resp.Recomputed.Reason != resp.Recorded.Reason || resp.Snapshot != nil {
		t.Fatalf("%v %v", resp, err)
	}
	if s := resp.Pool.Status; s.JobsQueued != 2 || s.RunnersBusy != 1 || resp.Pool.Scaling.MaxRunners != 10 {
		t.Errorf("what there was: %v", resp.Pool)
	}
	truth.Decision.Create, truth.Decision.Rule, truth.Decision.For = 7, "guesswork", nil
	w.store.decisions[0] = truth
	resp, err = w.pools.ReplayDecision(t.Context(), &v1.ReplayDecisionRequest{Pool: "linux", At: timestamppb.New(at), Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(resp.Differences, "\n")
	for _, want := range []string{"create was 7 and is 2 now", `rule was "guesswork" and is "formula" now`} {
		if !strings.Contains(all, want) {
			t.Errorf("the differences do not say %q:\n%s", want, all)
		}
	}
	snap := resp.Snapshot.AsMap()
	if jobs, _ := snap["jobs"].([]any); len(jobs) != 3 {
		t.Errorf("snapshot: %v", snap)
	}
	// Before the last decision the first one held.
	if resp, err = w.pools.ReplayDecision(t.Context(), &v1.ReplayDecisionRequest{Pool: "linux", At: timestamppb.New(at.Add(-time.Second))}); err != nil || resp.Recorded.Id != 1 {
		t.Errorf("%v %v", resp, err)
	}
	for _, req := range []*v1.ReplayDecisionRequest{{Pool: "nope"}, {Pool: "linux", At: timestamppb.New(t0.Add(-48 * time.Hour))}} {
		if _, err := w.pools.ReplayDecision(t.Context(), req); codeOf(err) != connect.CodeNotFound {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestDryRun(t *testing.T) {
	w := newWorld(t, nil)
	set := map[string]string{"max_runners": "20", "min_runners": "1"}
	resp, err := w.pools.DryRun(t.Context(), &v1.DryRunRequest{Pool: "linux", Set: set})
	if err != nil {
		t.Fatal(err)
	}
	// One job ended after 10 s of queue, one runs since 5 s of queue, two wait.
	if m := resp.Measured; m.Jobs != 2 || m.Unserved != 2 || m.WaitP95.AsDuration() != 10*time.Second || m.Runners != 2 {
		t.Errorf("measured: %v", m)
	}
	if resp.Before.Jobs != 4 || resp.After.Jobs != 4 || resp.After.WaitP50.AsDuration() >= resp.Before.WaitP50.AsDuration() || resp.After.RunnerTime.AsDuration() <= resp.Before.RunnerTime.AsDuration() || resp.Before.CostMicroUsd == 0 {
		t.Errorf("before: %v\nafter: %v", resp.Before, resp.After)
	}
	if len(resp.Assumptions) < 4 || !resp.Since.AsTime().Equal(t0.Add(-24*time.Hour)) {
		t.Errorf("%v", resp)
	}
	if again, err := w.pools.DryRun(t.Context(), &v1.DryRunRequest{Pool: "linux", Set: set}); err != nil || cmp.Diff(resp, again, protocmp.Transform()) != "" {
		t.Errorf("the same question has another answer: %v %v", again, err)
	}
	hour := timestamppb.New(t0.Add(-90 * time.Minute))
	for _, tc := range []struct {
		situation string
		req       *v1.DryRunRequest
		code      connect.Code
	}{
		{"UnknownPool", &v1.DryRunRequest{Pool: "nope"}, connect.CodeNotFound},
		{"UnknownSetting", &v1.DryRunRequest{Pool: "linux", Set: map[string]string{"colour": "red"}}, connect.CodeInvalidArgument},
		{"BadNumber", &v1.DryRunRequest{Pool: "linux", Set: map[string]string{"max": "many"}}, connect.CodeInvalidArgument},
		{"NoTime", &v1.DryRunRequest{Pool: "linux", Since: hour, Until: hour}, connect.CodeInvalidArgument},
		{"TooLong", &v1.DryRunRequest{Pool: "linux", Since: timestamppb.New(t0.Add(-32 * 24 * time.Hour))}, connect.CodeInvalidArgument},
		{"NoDemand", &v1.DryRunRequest{Pool: "linux", Until: hour}, connect.CodeNotFound},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			if _, err := w.pools.DryRun(t.Context(), tc.req); codeOf(err) != tc.code {
				t.Errorf("got %v", err)
			}
		})
	}
}

// S4-17: a pool is suspended and resumed by the API; its jobs stay queued.
func TestSuspendPool(t *testing.T) {
	w := newWorld(t, nil)
	on, off := true, false
	resp, err := w.pools.SetPool(t.Context(), &v1.SetPoolRequest{Name: "linux", Suspended: &on})
	if err != nil || !resp.Pool.Suspended || !resp.Pool.Enabled || resp.Pool.Status.JobsQueued != 2 {
		t.Fatalf("%v %v", resp, err)
	}
	if resp, err = w.pools.SetPool(t.Context(), &v1.SetPoolRequest{Name: "linux", Suspended: &off}); err != nil || resp.Pool.Suspended {
		t.Fatalf("%v %v", resp, err)
	}
}

// Every setting of a pool reaches the API, and its rules in words do, too.
func TestPoolSettings(t *testing.T) {
	w := newWorld(t, nil)
	two := 2
	p := &w.store.pools[0]
	p.JobWait, p.ScaleSet, p.InactiveMinutes, p.Suspended = 30*time.Second, "set", 7, true
	p.Schedules = []muster.Schedule{{Cron: "0 8 * * 1-5", TimeZone: "Europe/Berlin", For: 10 * time.Hour, MinRunners: &two}}
	p.Overflow = muster.Overflow{Pool: "cloud", After: time.Minute}
	p.Quotas = []muster.Quota{{Name: "mobile", Repositories: []string{"octo/m*"}, MaxRunners: 3, Each: true}}
	p.Priorities = []muster.Priority{{Label: "fast", Branch: "main", Repository: "octo/*", Event: "push", Weight: -4}}
	p.Canary = muster.Canary{Offering: "next", Percent: 10, MaxFailures: 2}
	p.Scaling.ScaleDownCooldown, p.Scaling.MinRunTime = 10*time.Minute, 5*time.Minute
	snap := w.store.snapshots["linux"]
	snap.Pool = *p
	w.store.snapshots["linux"] = snap
	resp, err := w.pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	least := int32(2)
	want := &v1.Pool{Suspended: true, ScaleSet: "set", JobWait: durationpb.New(30 * time.Second), InactiveMinutes: 7,
		Schedules: []*v1.Schedule{{Cron: "0 8 * * 1-5", TimeZone: "Europe/Berlin", For: durationpb.New(10 * time.Hour), MinRunners: &least}},
		Overflow:  &v1.Overflow{Pool: "cloud", After: durationpb.New(time.Minute)}, Quotas: []*v1.Quota{{Name: "mobile", Repositories: []string{"octo/m*"}, Each: true, MaxRunners: 3}},
		Priorities: []*v1.Priority{{Label: "fast", Branch: "main", Repository: "octo/*", Event: "push", Weight: -4}}, Canary: &v1.Canary{Offering: "next", Percent: 10, MaxFailures: 2}}
	got := resp.Pool
	if sc := got.Scaling; sc.ScaleDownCooldown.AsDuration() != 10*time.Minute || sc.MinRunTime.AsDuration() != 5*time.Minute {
		t.Errorf("scaling %v", sc)
	}
	only := &v1.Pool{Suspended: got.Suspended, ScaleSet: got.ScaleSet, JobWait: got.JobWait, InactiveMinutes: got.InactiveMinutes, Schedules: got.Schedules, Overflow: got.Overflow, Quotas: got.Quotas, Priorities: got.Priorities, Canary: got.Canary}
	if d := cmp.Diff(want, only, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	topics := map[string]bool{}
	for _, n := range got.Status.Notes {
		topics[n.Topic] = n.Text != ""
	}
	for _, topic := range []string{"suspended", "schedule", "overflow", "quota", "priority", "canary", "job_wait", "scale_set"} {
		if !topics[topic] {
			t.Errorf("no word about %s: %v", topic, got.Status.Notes)
		}
	}
}

// S4-56: from a run to its jobs, the runners that took them and their receipts.
func TestGetRun(t *testing.T) {
	w := newWorld(t, nil)
	resp, err := w.runs.GetRun(t.Context(), &v1.GetRunRequest{Id: 7})
	if err != nil || resp.Run.Repository != "octo/app" || resp.Run.State != "in_progress" || len(resp.Jobs) != 4 || resp.Run.CostMicroUsd != 8000 {
		t.Fatalf("%v %v", resp, err)
	}
	by := map[int64]*v1.RunJob{}
	for _, j := range resp.Jobs {
		by[j.Job.Id] = j
	}
	if j := by[101]; j.Runner.GetId() != "r-old" || j.Runner.Cpu != "2" || j.Receipt.GetCostMicroUsd() != 8000 {
		t.Errorf("the finished job: %v", j)
	}
	if j := by[102]; j.Runner.GetId() != "r-busy" || j.Receipt != nil {
		t.Errorf("the running job: %v", j)
	}
	if j := by[104]; j.Runner != nil || j.Receipt != nil {
		t.Errorf("the queued job: %v", j)
	}
	w.store.runners = nil // pruned
	if resp, err = w.runs.GetRun(t.Context(), &v1.GetRunRequest{Id: 7}); err != nil || resp.Jobs[0].Runner != nil {
		t.Errorf("%v %v", resp, err)
	}
	// C25: jobs that no pool wants are counted and not kept, and the answer says so.
	if _, err := w.runs.GetRun(t.Context(), &v1.GetRunRequest{Id: 8}); codeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "such jobs are counted, not kept") {
		t.Errorf("an unknown run: %v", err)
	}
	if _, err := w.runs.GetRun(t.Context(), &v1.GetRunRequest{}); codeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("no run: %v", err)
	}
}

func TestSenseReport(t *testing.T) {
	w := newWorld(t, nil)
	resp, err := w.senses.GetSenseReport(t.Context(), &v1.GetSenseReportRequest{})
	if err != nil || len(resp.Weeks) == 0 || resp.Grace.AsDuration() != 5*time.Minute {
		t.Fatalf("%v %v", resp, err)
	}
	// Job 101 was told of by the webhook when it queued and by a poll when it ended.
	var hook *v1.SenseWeek
	for _, week := range resp.Weeks {
		if week.Sense == "webhook" {
			hook = week
		}
	}
	if hook.GetFirst() != 1 || hook.GetEvents() != 2 || hook.GetLost() != 1 || math.Abs(hook.GetLossRate()-.5) > 1e-9 || hook.GetRepaired() != 1 {
		t.Errorf("webhook: %v", hook)
	}
	if resp, err = w.senses.GetSenseReport(t.Context(), &v1.GetSenseReportRequest{Since: timestamppb.New(t0)}); err != nil || len(resp.Weeks) != 0 {
		t.Errorf("a time without jobs: %v %v", resp, err)
	}
	for _, req := range []*v1.GetSenseReportRequest{{Since: timestamppb.New(t0), Until: timestamppb.New(t0)}, {Grace: durationpb.New(-1)}} {
		if _, err := w.senses.GetSenseReport(t.Context(), req); codeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
}

// S4-55 S4-57 4-49
func TestGetLatency(t *testing.T) {
	w := newWorld(t, nil)
	failed, never := w.store.receipts[0], w.store.receipts[0]
	failed.Job, failed.Conclusion, failed.Queue = muster.JobKey{ID: 201, Attempt: 1}, "failure", 30*time.Second
	never.Job, never.Conclusion, never.Runner, never.Run, never.Billed, never.Queue = muster.JobKey{ID: 202, Attempt: 1}, "cancelled", "", 0, 0, 9*time.Hour
	w.store.receipts = append(w.store.receipts, failed, never)
	resp, err := w.usage.GetLatency(t.Context(), &v1.GetLatencyRequest{By: "repository"})
	if err != nil || len(resp.Rows) != 1 {
		t.Fatalf("%v %v", resp, err)
	}
	if r := resp.Rows[0]; r.Key != "octo/app" || r.Jobs != 2 || r.NeverRan != 1 || r.FailureRate != .5 || r.Queue.P50.AsDuration() != 10*time.Second || r.Queue.Max.AsDuration() != 30*time.Second {
		t.Errorf("%v", r)
	}
	if len(resp.Failures) != 1 || resp.Failures[0].LastJobId != 201 || resp.Failures[0].Conclusions["failure"] != 1 || len(resp.Waste) != 1 || resp.Waste[0].Runners != 1 {
		t.Errorf("%v", resp)
	}
	if _, err := w.usage.GetLatency(t.Context(), &v1.GetLatencyRequest{By: "colour"}); codeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("by colour: %v", err)
	}
}

func TestCostBudgets(t *testing.T) {
	w := newWorld(t, func(c *api.Config, w *world) {
		c.CostBudgets = []muster.CostBudget{{Project: "web", MonthMicroUSD: 10_000, WarnPercent: 50, StopPercent: 100}, {Project: "default", MonthMicroUSD: 10_000, WarnPercent: 50}}
		w.store.receipts[0].Project = "default"
	})
	resp, err := w.usage.ListCostBudgets(t.Context(), &v1.ListCostBudgetsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := []*v1.CostBudget{
		{Project: "web", MonthMicroUsd: 10_000, State: "fine", WarnPercent: 50, StopPercent: 100},
		{Project: "default", MonthMicroUsd: 10_000, SpentMicroUsd: 8000, State: "warned", WarnPercent: 50, Pools: []string{"linux"}},
	}
	if d := cmp.Diff(want, resp.Budgets, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if resp.Month.AsTime().Day() != 1 {
		t.Errorf("month %v", resp.Month.AsTime())
	}
}
