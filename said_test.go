package muster_test

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// Whose word counts, and for how long.
func TestHear(t *testing.T) { // 4-2 S1-113
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	hint := muster.JobKey{ID: 7, Attempt: 2}
	for name, c := range map[string]struct {
		runner muster.Runner
		want   int64
	}{
		"Runs":           {muster.Runner{JobHint: hint, ActiveAt: ago(time.Minute)}, 7},
		"RunsForLong":    {muster.Runner{JobHint: hint, ActiveAt: ago(muster.SaidFor)}, 0},
		"Ended":          {muster.Runner{JobHint: hint, ActiveAt: ago(time.Hour), FinishedAt: ago(30 * time.Second)}, 7},
		"EndedLongAgo":   {muster.Runner{JobHint: hint, ActiveAt: ago(time.Hour), FinishedAt: ago(muster.SaidAfter)}, 0},
		"AnotherAttempt": {muster.Runner{JobHint: muster.JobKey{ID: 7, Attempt: 1}, ActiveAt: noon}, 0},
		"GitHubSpoke":    {muster.Runner{JobHint: hint, Job: muster.JobKey{ID: 5}, ActiveAt: noon}, 0},
		"NotYetBusy":     {muster.Runner{For: 5}, 0},
		"SaysNothingYet": {muster.Runner{For: 5, ActiveAt: ago(time.Second)}, 5},
		"SaysNothing":    {muster.Runner{For: 5, ActiveAt: ago(muster.SayWithin)}, 0},
		"Stolen":         {muster.Runner{For: 5, ActiveAt: noon, RunHint: muster.RunHint{Repository: "a/b", Run: 1}}, 0},
		"StolenToGitHub": {muster.Runner{For: 5, ActiveAt: noon, Job: hint}, 0},
		"EndedInSilence": {muster.Runner{For: 5, ActiveAt: noon, FinishedAt: noon}, 0},
		"Warm":           {muster.Runner{ActiveAt: noon}, 0},
		"OfAJobThatRuns": {muster.Runner{JobHint: muster.JobKey{ID: 9, Attempt: 1}, ActiveAt: noon}, 0},
	} {
		c.runner.ID = "r"
		s := muster.Snapshot{Pool: pool(nil), Jobs: []muster.PlanJob{
			{ID: 5, State: muster.JobQueued}, {ID: 7, Attempt: 2, State: muster.JobQueued}, {ID: 9, Attempt: 1, State: muster.JobInProgress},
		}}
		if !s.Listens() {
			t.Fatal("nobody listens")
		}
		s.Hear([]muster.Runner{c.runner}, noon)
		for _, j := range s.Jobs {
			if taken := j.Said == "r" && j.State == muster.JobInProgress; taken != (j.ID == c.want) || !taken && j.Said != "" {
				t.Errorf("%s: %+v", name, j)
			}
		}
	}
	kept := pool(func(p *muster.Pool) { p.Lifecycle = muster.LifecycleKept })
	for _, s := range []muster.Snapshot{
		{Pool: pool(nil), Jobs: []muster.PlanJob{{ID: 9, State: muster.JobInProgress}}},
		{Pool: kept, Jobs: []muster.PlanJob{{ID: 5, State: muster.JobQueued}}},
	} {
		if s.Listens() {
			t.Errorf("%+v", s)
		}
	}
}
