package muster_test

import (
	"testing"

	"github.com/muster-ci/muster"
)

func TestPriorityOf(t *testing.T) {
	pool := muster.Pool{Priorities: []muster.Priority{
		{Branch: "main", Weight: 10},
		{Branch: "release/*", Weight: 5},
		{Repository: "acme/*", Event: "schedule", Weight: -20},
		{Label: "urgent", Weight: 100},
	}}
	for _, tc := range []struct {
		job  muster.Job
		want int
	}{
		{muster.Job{Repository: "acme/app", HeadBranch: "main"}, 10},
		{muster.Job{Repository: "acme/app", HeadBranch: "main", Labels: muster.Labels{"Urgent"}}, 110},
		{muster.Job{Repository: "Acme/App", HeadBranch: "release/1.2/rc", Trigger: "schedule"}, -15},
		{muster.Job{Repository: "acme/app", HeadBranch: "mainline"}, 0},
		{muster.Job{Repository: "other/app", Trigger: "schedule"}, 0},
	} {
		if got := pool.PriorityOf(tc.job); got != tc.want {
			t.Errorf("%+v has priority %d, want %d", tc.job, got, tc.want)
		}
	}
}

func TestQuotaCovers(t *testing.T) {
	for _, tc := range []struct {
		patterns   []string
		repository string
		want       bool
	}{
		{nil, "acme/app", true},
		{[]string{"acme/app"}, "Acme/App", true},
		{[]string{"acme/app"}, "acme/app2", false},
		{[]string{"acme/*"}, "acme/app", true},
		{[]string{"acme/pay-*", "acme/bank"}, "acme/pay-api", true},
		{[]string{"*/infra*x"}, "acme/infra-xx", true},
		{[]string{"a*a"}, "a", false},
		{[]string{"acme/*"}, "acme2/app", false},
	} {
		if got := (muster.Quota{Repositories: tc.patterns}).Covers(tc.repository); got != tc.want {
			t.Errorf("%v covers %s: %v, want %v", tc.patterns, tc.repository, got, tc.want)
		}
	}
}

func TestSpend(t *testing.T) {
	b := muster.CostBudget{Project: "ci", MonthMicroUSD: 100_000_000, WarnPercent: 80, LowerPercent: 90, StopPercent: 100}
	for spent, want := range map[int64]muster.SpendingState{
		0: muster.SpendingFine, 79_999_999: muster.SpendingFine, 80_000_000: muster.SpendingWarned,
		90_000_000: muster.SpendingLowered, 100_000_000: muster.SpendingStopped, 500_000_000: muster.SpendingStopped,
	} {
		if got := b.Spend(spent); got.State != want || got.SpentMicroUSD != spent || got.MonthMicroUSD != b.MonthMicroUSD {
			t.Errorf("after %d: %+v, want %q", spent, got, want)
		}
	}
	if got := (muster.CostBudget{MonthMicroUSD: 1}).Spend(10); got.State != muster.SpendingFine {
		t.Errorf("a budget without shares: %+v", got)
	}
}

// An overflow pool need not be asked for by its own labels, but its runners must fit.
func TestCanTake(t *testing.T) {
	scope, err := muster.ParseScope("acme")
	if err != nil {
		t.Fatal(err)
	}
	big := muster.Pool{Name: "big", Enabled: true, Scope: scope, Labels: muster.Labels{"big"}, RunnerLabels: muster.Labels{"big", "linux", "self-hosted"}}
	job := muster.Job{Repository: "acme/app", Labels: muster.Labels{"self-hosted", "Linux"}}
	if !big.CanTake(job) {
		t.Error("a job whose labels the runners have is not taken")
	}
	job.Labels = muster.Labels{"self-hosted", "gpu"}
	if big.CanTake(job) {
		t.Error("a job is taken that GitHub would never give to these runners")
	}
	job = muster.Job{Repository: "elsewhere/app", Labels: muster.Labels{"linux"}}
	if big.CanTake(job) {
		t.Error("a job of another scope is taken")
	}
}
