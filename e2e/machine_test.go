package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
)

// pid reads the id of a machine's agent from the provider's own record.
func pid(t *testing.T, machine string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(machine, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ PID int }
	if err := json.Unmarshal(text, &state); err != nil || state.PID == 0 {
		t.Fatalf("%s: %v", text, err)
	}
	return state.PID
}

// 4-18 4-19: an agent is killed in the middle of a job. GitHub's own lease ends the job, its receipt
// is written, the machine goes with everything on it, and other jobs are served.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{MaxRunners: 1, Sim: githubsim.Config{Seed: 13, JobLease: 2 * time.Second}})
	s.Serve(t)
	victim := s.Inject(t, 1, time.Minute)[0]
	eventually(t, 20*time.Second, func() (bool, string) {
		j, _ := s.Sim.Truth().Job(victim)
		return j.Executions > 0, j.Status
	})
	other := s.Inject(t, 1, 100*time.Millisecond)[0]
	if err := syscall.Kill(pid(t, s.Machines(t)[0]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.AwaitJobs(t, 2, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	for id, want := range map[int64]string{victim: "failure", other: "success"} {
		if j, _ := truth.Job(id); j.Conclusion != want || j.Executions != 1 {
			t.Errorf("job %d: %s, executed %d times, want %s", id, j.Conclusion, j.Executions, want)
		}
		n := 0
		for _, r := range receipts {
			if r.JobId == id && r.Conclusion == want && r.Runner != "" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("job %d has %d receipts that say %s: %v", id, n, want, receipts)
		}
	}
}

// 4-43 4-52: a runner program that does not work costs no job: the agent's own words say
// what is wrong, the platform is not asked in a hot loop, and once the program is
// repaired the jobs run.
func TestRunnerProgramBroken(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "runner")
	if err := runner.WriteDir(dir, filepath.Join(Programs(t), "actions-runner")); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "run.sh")
	good, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	s := stand(t, Options{MaxRunners: 2, RunnerDir: dir, Sim: githubsim.Config{Seed: 14}})
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(program, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Serve(t)

	t.Run("ExitsAtOnce", func(t *testing.T) {
		write([]byte("#!/bin/sh\necho 'dotnet is missing'\nexit 3\n"))
		before := s.Sim.Truth().Registered
		id := s.Inject(t, 1, 100*time.Millisecond)[0]
		eventually(t, 20*time.Second, func() (bool, string) {
			n := s.Sim.Truth().Registered - before
			return n >= 2, fmt.Sprintf("%d registrations", n)
		})
		began := time.Now()
		eventually(t, 10*time.Second, func() (bool, string) { // let it fail for a while
			return time.Since(began) > 4*time.Second, ""
		})
		if n := s.Sim.Truth().Registered - before; n > 8 {
			t.Errorf("%d runners were registered in some seconds for a program that exits at once", n)
		}
		why, _, _ := s.CLI(t, "job", "why", fmt.Sprint(id))
		if !strings.Contains(why, "ended with code 3 before it listened") {
			t.Errorf("job why does not say that the runner program ends at once:\n%s", why)
		}
		write(good)
		truth, receipts := s.calm(t, time.Minute)
		once(t, truth, receipts, "success")
	})

	t.Run("NeverListens", func(t *testing.T) {
		write([]byte("#!/bin/sh\nexec sleep 600\n"))
		id := s.Inject(t, 1, 100*time.Millisecond)[0]
		var live []*v1.Runner
		eventually(t, 20*time.Second, func() (bool, string) {
			resp, err := s.runners().ListRunners(t.Context(), &v1.ListRunnersRequest{States: []string{"registered"}})
			live = resp.GetRunners()
			return len(live) == 1, fmt.Sprint(live, err)
		})
		why, _, _ := s.CLI(t, "job", "why", fmt.Sprint(id))
		if !strings.Contains(why, "starting") {
			t.Errorf("job why:\n%s", why)
		}
		write(good)
		if _, errs, code := s.CLI(t, "runner", "drain", live[0].Id); code != 0 {
			t.Fatal(errs)
		}
		truth, receipts := s.calm(t, time.Minute)
		once(t, truth, receipts, "success")
	})
}

// 4-53: the machine takes one runner at a time and five jobs come at once. They wait
// inside, oldest first, and none is dropped.
func TestProviderFull(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{MaxRunners: 5, Machines: 1, Sim: githubsim.Config{Seed: 15}})
	s.Serve(t)
	began := time.Now()
	ids := s.Inject(t, 5, 300*time.Millisecond)
	s.AwaitJobs(t, 5, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	for i := 1; i < len(ids); i++ {
		a, _ := truth.Job(ids[i-1])
		b, _ := truth.Job(ids[i])
		if b.StartedAt.Before(a.StartedAt) {
			t.Errorf("job %d started before %d, which is older", b.ID, a.ID)
		}
	}
	t.Logf("5 jobs, one at a time, in %s", time.Since(began).Round(100*time.Millisecond))
}
