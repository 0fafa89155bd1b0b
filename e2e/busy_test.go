package e2e

import (
	"cmp"
	"fmt"
	"os"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
)

// 4-17 4-18 4-25 C17 C21: for as long as jobs run, GitHub calls their runners idle
// and tells of no job that has started, while everything wants the runners gone: the pool is disabled, an
// operator drains each of them, the sweep looks every second, and the control
// plane is killed in between. No job loses its machine.
//
// MUSTER_BUSY_LIE is how long GitHub lies and jobs run; bench/results has 12m.
func TestBusyFlagLies(t *testing.T) {
	t.Parallel()
	lie, err := time.ParseDuration(cmp.Or(os.Getenv("MUSTER_BUSY_LIE"), "12s"))
	if err != nil {
		t.Fatal(err)
	}
	s := stand(t, Options{MaxRunners: 4, Sim: githubsim.Config{Seed: 17, NoRateLimits: true}, Settings: quick, Pool: "no_job_timeout: 5s"})
	p := s.Serve(t)
	s.Sim.Faults().Set(githubsim.FaultSettings{LyingBusy: githubsim.Duration(lie + time.Minute)})
	s.Inject(t, 4, lie)
	// From here on nothing tells that the jobs have started, except the agents.
	eventually(t, 20*time.Second, func() (bool, string) {
		n := s.Sim.Truth().Registered
		if n > 0 {
			s.Sim.Faults().Set(githubsim.FaultSettings{LyingBusy: githubsim.Duration(lie + time.Minute), DropDeliveries: 1})
		}
		return n > 0, "no runner yet"
	})
	eventually(t, 20*time.Second, func() (bool, string) {
		by := s.Sim.Truth().ByState()
		return by["in_progress"] == 4, fmt.Sprint(by)
	})
	began := time.Now()
	if _, errs, code := s.CLI(t, "pool", "disable", "linux"); code != 0 {
		t.Fatal(errs)
	}
	drained := map[string]bool{}
	eventually(t, 20*time.Second, func() (bool, string) {
		resp, err := s.runners().ListRunners(t.Context(), &v1.ListRunnersRequest{})
		if err != nil {
			return false, err.Error()
		}
		for _, r := range resp.Runners {
			if drained[r.Id] || r.Status == "destroyed" {
				continue
			}
			if _, errs, code := s.CLI(t, "runner", "drain", r.Id, "--reason", "GitHub says that it is idle"); code != 0 {
				return false, errs
			}
			drained[r.Id] = true
		}
		return len(drained) >= 4, fmt.Sprintf("%d runners drained", len(drained))
	})
	wait(t, lie/3)
	p.Kill()
	s.Serve(t)
	eventually(t, lie+time.Minute, func() (bool, string) {
		truth := s.Sim.Truth()
		by := truth.ByState()
		return by["completed"] == 4, fmt.Sprintf("%v, busy kills %v", by, truth.BusyKills)
	})
	s.Sim.Faults().Off()
	truth, receipts := s.calm(t, time.Minute)
	once(t, truth, receipts, "success")
	if len(truth.BusyKills) > 0 {
		t.Errorf("busy kills: %+v", truth.BusyKills)
	}
	t.Logf("GitHub called 4 busy runners idle for %s; %d of them were drained by hand, the pool disabled, the control plane killed once: %d busy kills",
		time.Since(began).Round(time.Second), len(drained), len(truth.BusyKills))
}
