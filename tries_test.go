package muster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// 4-2: a job whose runners other jobs took gets others, three at once, and then
// one after a growing wait: what GitHub never gives to such runners must not cost
// one after the other for ever. Other jobs are served meanwhile.
func TestJobsThatNoRunnerGets(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	pool := muster.Pool{Name: "p", Enabled: true, Labels: muster.Labels{"p"}, Provider: "x"}.WithDefaults()
	for tries, wait := range map[int]time.Duration{0: 0, 2: 0, 3: 10 * time.Minute, 4: 20 * time.Minute, 5: 40 * time.Minute, 6: time.Hour, 500: time.Hour} {
		t.Run(fmt.Sprint(tries), func(t *testing.T) {
			job := muster.PlanJob{ID: 1, State: muster.JobQueued, QueuedAt: now.Add(-time.Hour), Tries: tries}
			if tries > 0 {
				job.TriedAt = now
			}
			s := muster.Snapshot{Pool: pool, Jobs: []muster.PlanJob{job}}
			if wait > 0 {
				early := muster.Plan(s, now.Add(wait-time.Second))
				if early.Create != 0 || early.Rule != muster.RuleNoTaker || !early.WakeAt.Equal(now.Add(wait)) || !strings.Contains(early.Reason, "GitHub gave to none") {
					t.Errorf("a second before: %+v", early)
				}
				other := s
				other.Jobs = append(other.Jobs, muster.PlanJob{ID: 2, State: muster.JobQueued, QueuedAt: now})
				if d := muster.Plan(other, now.Add(wait-time.Second)); d.Create != 1 || len(d.For) != 1 || d.For[0] != 2 {
					t.Errorf("another job beside it: %+v", d)
				}
			}
			if d := muster.Plan(s, now.Add(wait)); d.Create != 1 || len(d.For) != 1 || d.For[0] != 1 {
				t.Errorf("when its time has come: %+v", d)
			}
		})
	}
}

// A job that no runner got is told so, and not that a quota is full.
func TestExplainJobsThatNoRunnerGets(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	pool := muster.Pool{Name: "p", Enabled: true, Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}, Labels: muster.Labels{"p"}, Provider: "x"}.WithDefaults()
	s := muster.Situation{
		Job:   muster.Job{Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"p"}, Pool: "p", CreatedAt: now.Add(-time.Hour)},
		Pools: []muster.Pool{pool},
		Snapshot: muster.Snapshot{Pool: pool, Jobs: []muster.PlanJob{
			{ID: 1, Attempt: 1, State: muster.JobQueued, QueuedAt: now.Add(-time.Hour), Repository: "acme/app", Tries: 3, TriedAt: now.Add(-4 * time.Minute)},
		}},
	}
	got := muster.Explain(s, now)
	if len(got) != 1 || got[0].Code != muster.CauseNoTaker || !strings.Contains(got[0].Text, "3 runners were made for this job") || !strings.Contains(got[0].Text, "(in 6m0s)") {
		t.Errorf("%+v", got)
	}
	if got := muster.Explain(s, now.Add(7*time.Minute)); got[0].Code == muster.CauseNoTaker {
		t.Errorf("when its time has come: %+v", got)
	}
}

// A scale set that tells nothing is said before what follows from it.
func TestExplainSilentScaleSet(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	pool := muster.Pool{Name: "p", Enabled: true, ScaleSet: "set", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}, Labels: muster.Labels{"p"}, Provider: "x"}.WithDefaults()
	got := muster.Explain(muster.Situation{
		Job:      muster.Job{Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"p"}, Pool: "p", CreatedAt: now.Add(-time.Hour)},
		Pools:    []muster.Pool{pool},
		Snapshot: muster.Snapshot{Pool: pool}, ScaleSetProblem: "that fails since noon: 503",
	}, now)
	if got[0].Code != muster.CauseScaleSet || !strings.Contains(got[0].Text, "by scale set set, and that fails since noon: 503") {
		t.Errorf("%+v", got)
	}
}
