package muster

import (
	"testing"
	"time"
)

func TestCheckSteps(t *testing.T) {
	at := func(s int) time.Time { return breakerTime.Add(time.Duration(s) * time.Second) }
	inside := []CheckStep{{Name: "disk", OK: true}}
	gone := []CheckStep{{Name: "nothing listed", OK: true}}
	for name, c := range map[string]struct {
		runner Runner
		check  ProviderCheck
		steps  int
		done   bool
		passed bool
	}{
		"just begun": {Runner{State: RunnerProvisioning, CreatedAt: at(0)}, ProviderCheck{}, 0, false, false},
		"launched":   {Runner{State: RunnerProvisioning, CreatedAt: at(0), LaunchedAt: at(1)}, ProviderCheck{}, 1, false, true},
		"refused":    {Runner{State: RunnerDestroyed, Failed: true, Reason: "no capacity", CreatedAt: at(0), DestroyedAt: at(1)}, ProviderCheck{After: gone}, 3, true, false},
		"silent":     {Runner{State: RunnerDestroyed, Failed: true, Reason: "agent did not connect", CreatedAt: at(0), LaunchedAt: at(1), DestroyedAt: at(9)}, ProviderCheck{After: gone}, 4, true, false},
		"inside":     {Runner{State: RunnerProvisioning, CreatedAt: at(0), LaunchedAt: at(1), ConnectedAt: at(2)}, ProviderCheck{Inside: inside}, 3, false, true},
		"vanished":   {Runner{State: RunnerDestroyed, Failed: true, Reason: "machine vanished", CreatedAt: at(0), LaunchedAt: at(1), ConnectedAt: at(2), FinishedAt: at(4), DestroyedAt: at(5)}, ProviderCheck{After: gone}, 5, true, false},
		"no proof":   {Runner{State: RunnerDestroyed, Reason: "check passed", CreatedAt: at(0), LaunchedAt: at(1), ConnectedAt: at(2), FinishedAt: at(4), DestroyedAt: at(5)}, ProviderCheck{Inside: inside}, 5, false, true},
		"passed":     {Runner{State: RunnerDestroyed, Reason: "check passed", CreatedAt: at(0), LaunchedAt: at(1), ConnectedAt: at(2), FinishedAt: at(4), DestroyedAt: at(5)}, ProviderCheck{Inside: inside, After: gone}, 6, true, true},
	} {
		steps, done := c.check.Steps(c.runner)
		if len(steps) != c.steps || done != c.done || Passed(steps) != c.passed {
			t.Errorf("%s: done %t, passed %t, %+v", name, done, Passed(steps), steps)
		}
		for _, s := range steps {
			if s.Took < 0 || !s.OK && s.Detail == "" {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
}
