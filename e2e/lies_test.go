package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
)

// 4-1 4-2 4-9 4-12 4-13 4-17 4-18: GitHub lies about runners, takes them for others, forgets them. Every job of
// ours still finishes exactly once, and nothing is left over.
func TestGitHubLies(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{MaxRunners: 4, Sim: githubsim.Config{Seed: 12, PickupTimeout: 2 * time.Second}})
	s.Serve(t)
	f := s.Sim.Faults()
	for _, tc := range []struct {
		fault string
		set   githubsim.FaultSettings
	}{
		{"StatusLag", githubsim.FaultSettings{StatusLag: githubsim.Duration(time.Second)}},
		{"UnlistedRunners", githubsim.FaultSettings{UnlistedRunners: 0.7}},
		{"StuckRecords", githubsim.FaultSettings{StuckRecords: 0.7, StuckFor: githubsim.Duration(2 * time.Second)}},
		{"SessionConflicts", githubsim.FaultSettings{SessionConflicts: 0.3}},
		{"StolenRunners", githubsim.FaultSettings{StealRunners: 0.5}},
		{"GhostRunners", githubsim.FaultSettings{GhostRunners: 0.4}},
		{"CheckRunNoise", githubsim.FaultSettings{CheckRunNoise: 1}},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			began := time.Now()
			f.Set(tc.set)
			ids := s.Inject(t, 4, 200*time.Millisecond)
			eventually(t, 45*time.Second, func() (bool, string) {
				truth := s.Sim.Truth()
				for _, id := range ids {
					if j, _ := truth.Job(id); j.Status != "completed" {
						return false, fmt.Sprintf("job %d is %s; jobs %v", id, j.Status, truth.ByState())
					}
				}
				return true, ""
			})
			f.Off()
			truth, receipts := s.calm(t, 30*time.Second)
			once(t, truth, receipts, "success")
			t.Logf("%s in %s, faults %v", tc.fault, time.Since(began).Round(100*time.Millisecond), truth.Faults)
		})
	}

	// GitHub calls a busy runner idle, and an operator asks it to go meanwhile.
	t.Run("LyingBusyWhileDrained", func(t *testing.T) {
		f.LyingBusy(5 * time.Second)
		id := s.Inject(t, 1, 2*time.Second)[0]
		var runner string
		eventually(t, 20*time.Second, func() (bool, string) {
			resp, err := s.runners().ListRunners(t.Context(), &v1.ListRunnersRequest{States: []string{"active"}})
			if err != nil || len(resp.Runners) == 0 {
				return false, fmt.Sprint("no active runner: ", err)
			}
			runner = resp.Runners[0].Id
			return true, ""
		})
		if _, errs, code := s.CLI(t, "runner", "drain", runner, "--reason", "while it is busy"); code != 0 {
			t.Fatal(errs)
		}
		truth, receipts := s.calm(t, 30*time.Second)
		f.Off()
		once(t, truth, receipts, "success")
		if j, _ := truth.Job(id); !strings.Contains(j.Runner, strings.TrimPrefix(runner, "r-")) {
			t.Errorf("job ran on %s, not on the drained %s", j.Runner, runner)
		}
	})

	// GitHub removes idle runners of a warm pool; they are replaced, and jobs run.
	t.Run("IdleReaper", func(t *testing.T) {
		before := s.Sim.Truth().Registered
		f.IdleReaper(time.Second)
		if _, errs, code := s.CLI(t, "pool", "scale", "linux", "--min", "1"); code != 0 {
			t.Fatal(errs)
		}
		eventually(t, 40*time.Second, func() (bool, string) {
			n := s.Sim.Truth().Registered - before
			return n >= 3, fmt.Sprintf("%d registrations", n)
		})
		s.Inject(t, 2, 100*time.Millisecond)
		eventually(t, 30*time.Second, func() (bool, string) {
			by := s.Sim.Truth().ByState()
			return by["queued"]+by["in_progress"] == 0, fmt.Sprint(by)
		})
		f.Off()
		for _, args := range [][]string{{"pool", "scale", "linux", "--min", "0"}, {"pool", "disable", "linux"}} { // disabled, the warm one goes at once
			if _, errs, code := s.CLI(t, args...); code != 0 {
				t.Fatal(errs)
			}
		}
		truth, receipts := s.calm(t, 30*time.Second)
		once(t, truth, receipts, "success")
	})
}
