package muster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// Every rule that a pool follows is said in words, with how it stands. S4-17 4-53
func TestNotes(t *testing.T) {
	now := time.Date(2026, 11, 18, 9, 0, 0, 0, time.UTC)
	two, nine := 2, 9
	p := muster.Pool{Name: "linux", Project: "web", Suspended: true, JobWait: 30 * time.Second, ScaleSet: "muster-linux",
		Overflow:   muster.Overflow{Pool: "cloud", After: 5 * time.Minute},
		Quotas:     []muster.Quota{{Name: "mobile", Repositories: []string{"octo/m*"}, MaxRunners: 4}, {Name: "fair", Each: true, MaxRunners: 3}},
		Priorities: []muster.Priority{{Branch: "main", Event: "push", Weight: 10}, {Weight: -1}},
		Canary:     muster.Canary{Offering: "next", Percent: 10, MaxFailures: 3},
	}
	s := muster.Snapshot{Pool: p, Unnamed: 1, Canary: muster.CanaryCount{Made: 40, Canaries: 4, Failed: 1},
		Spending: muster.Spending{State: muster.SpendingLowered, SpentMicroUSD: 95_500_000, MonthMicroUSD: 100_000_000},
		Windows:  []muster.Window{{From: now.Add(-time.Hour), Until: now.Add(time.Hour), MinRunners: &two}, {From: now.Add(23 * time.Hour), Until: now.Add(25 * time.Hour), MaxRunners: &nine}},
		Jobs: []muster.PlanJob{
			{ID: 1, State: muster.JobInProgress, Repository: "octo/mobile"}, {ID: 2, State: muster.JobInProgress, Repository: "Octo/App"}, {ID: 3, State: muster.JobInProgress, Repository: "octo/app"},
			{ID: 4, State: muster.JobQueued, QueuedAt: now.Add(-10 * time.Second), Overflows: true}, {ID: 5, State: muster.JobQueued, QueuedAt: now.Add(-6 * time.Minute), Overflows: true}},
	}
	var got []string
	for _, n := range muster.Notes(s, now) {
		got = append(got, n.Topic+": "+n.Text)
	}
	want := []string{
		"suspended: suspended by an operator: running jobs finish, queued ones wait, no runner is made",
		"schedule: now, until 2026-11-18 10:00:00Z: at least 2 runners",
		"schedule: from 2026-11-19 08:00:00Z until 2026-11-19 10:00:00Z: at most 9 runners",
		"quota: mobile: at most 4 runners for octo/m* together; 1 in use",
		"quota: fair: at most 3 runners for all repositories each; 2 in use by octo/app",
		"priority: branch main and event push: +10",
		"priority: every job: -1",
		"overflow: jobs that waited 5m and find no room go to pool cloud; 1 job waits so long now",
		"job_wait: a job waits 30s before a runner is made for it; 1 job waits for that now",
		"canary: 10 % of new runners try offering next: 4 of 40 so far, 1 failed of at most 3",
		"budget: project web spent $95.50 of $100.00 this month: its jobs wait for others and no floor is kept",
		"scale_set: GitHub tells of jobs by the scale set muster-linux instead of by webhooks",
		"unnamed: 1 job waits known only by number",
	}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
	s.Pool.Canary.MaxFailures = 0 // not set: the default
	if notes := muster.Notes(s, now); !slices.ContainsFunc(notes, func(n muster.Note) bool { return strings.HasSuffix(n.Text, "1 failed of at most 3") }) {
		t.Errorf("without a limit of its own: %+v", notes)
	}
	s.Canary.Reverted = true
	for _, n := range muster.Notes(s, now) {
		if n.Topic == "canary" && n.Text != "offering next was given up after 1 runner of it failed" {
			t.Error(n.Text)
		}
	}
	if notes := muster.Notes(muster.Snapshot{Pool: muster.Pool{Name: "plain"}}, now); len(notes) != 0 {
		t.Errorf("a plain pool: %v", notes)
	}
}
