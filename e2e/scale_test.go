package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/store"
)

// organizations of the big world; each has repositories and pools of its own.
var organizations = []string{"acme", "globex", "initech"}

const repositoriesEach = 3

// 4-1 4-2 4-3 4-4 4-7 4-8 4-17 4-18 4-45 4-51 4-53 S1-113 S4-52 S4-53 S4-54: a GitHub that loses a
// third of its deliveries for good or until asked again, doubles a tenth, fails and
// limits in bursts and hands runners to other jobs; agents that are killed in the
// middle of jobs; a control plane that is killed again and again; thirty pools in
// three organizations. Every job ends, or its end is explained; nothing leaks, no
// running job loses its machine to us.
//
// MUSTER_SCALE_JOBS, _POOLS and _KILLS change the size: the defaults fit into the
// suite, and 2000, 30 and 30 are what bench/results holds. MUSTER_SCALE_CALM gives a smaller
// one the intervals of that.
func TestScale(t *testing.T) {
	jobs, kills := number(t, "MUSTER_SCALE_JOBS", 90), number(t, "MUSTER_SCALE_KILLS", 3)
	pools, agents := number(t, "MUSTER_SCALE_POOLS", 6), number(t, "MUSTER_SCALE_AGENTS", 3)
	seed := uint64(number(t, "MUSTER_SCALE_SEED", 1))
	began := time.Now()
	scan, poll := "10s", "4s"
	if jobs >= 1000 || os.Getenv("MUSTER_SCALE_CALM") != "" { // it lasts long enough for less hurry
		scan, poll = "30s", "15s"
	}
	const idle = "15s" // every pool wants a machine of the forty, and 30 pools cannot keep one each
	s := New(t, Options{
		Sim: githubsim.Config{
			Seed: seed, NoRateLimits: true, RegistrationsPer5Minutes: 1 << 20, RecordLinger: 200 * time.Millisecond,
			JobLease: 20 * time.Second, HookLog: 1 << 20,
		},
		World:    bigWorld,
		Machines: 40,
		Settings: bigPools(pools, idle) + `
times: {redelivery_scan: ` + scan + `, sweep: 15s, health: 30s, sweep_grace: 30s, heartbeat: 1s, agent_lost: 10s, poll: ` + poll + `}
price_book: {rounding: second}
`,
		Pool: "no_job_timeout: " + idle,
	})
	for _, org := range organizations[1:] {
		if _, err := s.Sim.Install(s.App.ID, org); err != nil {
			t.Fatal(err)
		}
	}
	if keep := os.Getenv("MUSTER_SCALE_LOG"); keep != "" {
		t.Cleanup(func() {
			if err := os.Rename(s.LogFile(), keep); err != nil {
				t.Error(err)
			}
		})
	}
	calm := githubsim.FaultSettings{
		DropDeliveries: 0.20, LoseDeliveries: 0.10, DuplicateDeliveries: 0.10, ReorderDeliveries: 0.10, ReorderWindow: githubsim.Duration(2 * time.Second),
		StealRunners: 0.05, LoseJITAnswers: 0.02,
	}
	storm := calm
	storm.ServerErrors, storm.SecondaryLimit, storm.RetryAfter, storm.TooManyRequests = 0.30, 0.20, githubsim.Duration(2*time.Second), 0.5

	random := rand.New(rand.NewPCG(seed, 2))
	p := s.Serve(t)
	ids := map[int64]bool{} // the jobs
	killed := 0
	for k := range kills {
		weather := calm
		if k%3 == 1 {
			weather = storm
		}
		s.Sim.Faults().Set(weather)
		for share := (k + 1) * jobs / kills; len(ids) < share; {
			repo := fmt.Sprintf("%s/app-%d", organizations[len(ids)/jobsPerRun%len(organizations)], random.IntN(repositoriesEach))
			file := fmt.Sprintf(".github/workflows/pool-%d.yml", random.IntN(max(1, pools/len(organizations))))
			run, err := s.Sim.Trigger(repo, file, "workflow_dispatch")
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range s.Sim.Truth().Jobs {
				if j.RunID == run {
					ids[j.ID] = true
				}
			}
		}
		wait(t, time.Duration(random.IntN(4000))*time.Millisecond)
		if killed < agents && killAgent(s, random) {
			killed++
		}
		p.Kill()
		t.Logf("%s: kill %d: jobs %v", time.Since(began).Round(time.Second), k+1, s.Sim.Truth().ByState())
		p = s.Spawn(t)
		if random.IntN(3) > 0 {
			s.AwaitReady(t, p)
		}
		// Let some of the backlog through: with ever more of it the kills would only hit the start.
		limit := time.Now().Add(time.Duration(float64(jobs)/float64(kills)*100) * time.Millisecond)
		for completed(s.Sim.Truth(), ids) < len(ids)*2/3 && time.Now().Before(limit) {
			wait(t, 200*time.Millisecond)
		}
	}
	s.AwaitReady(t, p)
	s.Sim.Faults().Set(calm)
	eventually(t, 15*time.Minute, func() (bool, string) {
		truth := s.Sim.Truth()
		return completed(truth, ids) == len(ids), fmt.Sprintf("jobs %v", truth.ByState())
	})
	s.Sim.Faults().Off()
	took := time.Since(began)

	db := s.Books(t)
	receipts := s.settled(t, db, ids)
	truth := s.Sim.Truth()
	explained := booksAgree(t, db, truth, ids, receipts)
	if explained > killed {
		t.Errorf("%d jobs did not succeed, and only %d agents were killed", explained, killed)
	}
	for _, k := range truth.BusyKills {
		// The lease of a job whose agent was killed runs out; all else would be our doing.
		if k.Reason != "lease expired" {
			t.Errorf("busy kill: %+v", k)
		}
	}
	if len(truth.BusyKills) > killed {
		t.Errorf("%d jobs lost their machine, and only %d agents were killed: %+v", len(truth.BusyKills), killed, truth.BusyKills)
	}
	calls, byRoute := 0, map[string]int{}
	for _, routes := range truth.Calls {
		for route, n := range routes {
			calls += n
			byRoute[route] += n
		}
	}
	for _, route := range slices.Sorted(maps.Keys(byRoute)) {
		t.Logf("%6d %s", byRoute[route], route)
	}
	findings, err := db.Findings(t.Context(), "default", 1000)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, f := range findings {
		kinds[f.Kind]++
	}
	if kinds["busy_killed"] > 0 {
		t.Errorf("%d runners were ended while busy", kinds["busy_killed"])
	}
	t.Logf("%d jobs over %d pools in %d organizations, %d kills, %d agents killed: %s; %d jobs failed with their agent, %.2f calls of GitHub per job, faults %v, deliveries %+v, findings %v",
		len(ids), pools, len(organizations), kills, killed, took.Round(time.Second), explained, float64(calls)/float64(len(ids)), truth.Faults, truth.Deliveries, kinds)
	if perJob := float64(calls) / float64(jobs); jobs >= 1000 && perJob > 1.5 {
		t.Errorf("%.2f calls of GitHub per job, more than 1.5", perJob)
	}
}

// completed counts the jobs among ids that GitHub has completed.
func completed(truth githubsim.Truth, ids map[int64]bool) (n int) {
	for _, j := range truth.Jobs {
		if ids[j.ID] && j.Status == "completed" {
			n++
		}
	}
	return n
}

// jobsPerRun is how many jobs each run has, of one to two seconds.
const jobsPerRun = 5

const bigWorkflow = `name: CI %[1]d
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, pool-%[1]d]
    strategy:
      fail-fast: false
      matrix:
        seconds: [0.2, 0.6, 1.0, 1.4, 1.8]
    steps:
      - run: sleep ${{ matrix.seconds }}
`

func bigWorld(sim *githubsim.Server) error {
	files := fstest.MapFS{}
	for i := range 10 {
		files[fmt.Sprintf(".github/workflows/pool-%d.yml", i)] = &fstest.MapFile{Data: fmt.Appendf(nil, bigWorkflow, i)}
	}
	var errs []error
	for _, org := range organizations {
		errs = append(errs, sim.CreateOrganization(org))
		for i := range repositoriesEach {
			errs = append(errs, sim.CreateRepository(fmt.Sprintf("%s/app-%d", org, i), githubsim.RepositoryOptions{Private: true, Files: files}))
		}
	}
	return errors.Join(errs...)
}

// bigPools continues the configuration's list of pools.
func bigPools(n int, idle string) string {
	var b strings.Builder
	for i := range n {
		org := organizations[i%len(organizations)]
		fmt.Fprintf(&b, "  - {name: %s-%d, scope: %s, labels: [self-hosted, pool-%d], provider: local, offering: small, no_job_timeout: %s, scaling: {mode: on_demand, max_runners: 6}}\n",
			org, i/len(organizations), org, i/len(organizations), idle)
	}
	return b.String()
}

// killAgent kills one agent with its runner, so that its machine dies in the
// middle of a job if it has one.
func killAgent(s *Stand, random *rand.Rand) bool {
	pids := s.Processes()
	if len(pids) == 0 {
		return false
	}
	victim := pids[random.IntN(len(pids))]
	group, err := syscall.Getpgid(victim)
	return err == nil && syscall.Kill(-group, syscall.SIGKILL) == nil
}

// settled waits until nothing is left of any runner and every job has its receipt.
func (s *Stand) settled(t *testing.T, db *store.Store, ids map[int64]bool) (receipts []muster.Receipt) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		live, err := db.LiveRunners(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if receipts, err = db.Receipts(ctx, "default", store.UsageFilter{}); err != nil {
			t.Fatal(err)
		}
		missing := maps.Clone(ids)
		for _, r := range receipts {
			delete(missing, r.Job.ID)
		}
		truth := s.Sim.Truth()
		if len(live) == 0 && len(missing) == 0 && len(truth.Runners) == 0 && len(s.Machines(t)) == 0 {
			return receipts
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(s.LogFile())
			diagnose(t, db, truth, receipts)
			for _, r := range live {
				t.Logf("live: %+v", r)
			}
			t.Fatalf("not settled: %d live runners, %d jobs without a receipt, registrations %+v, machines %v\n%s", len(live), len(missing), truth.Runners, s.Machines(t), tail(log, 5000))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// booksAgree compares the books with GitHub's truth about the jobs of the test
// (others are those that took runners from them): one receipt for each job, and
// for each job that did not succeed a reason with its runner. It returns how many
// those are.
func booksAgree(t *testing.T, db *store.Store, truth githubsim.Truth, ids map[int64]bool, receipts []muster.Receipt) (explained int) {
	t.Helper()
	seen := map[int64]bool{}
	for _, r := range receipts {
		if seen[r.Job.ID] {
			t.Errorf("job %d has two receipts", r.Job.ID)
		}
		seen[r.Job.ID] = true
	}
	for _, j := range truth.Jobs {
		if !ids[j.ID] {
			continue
		}
		if !seen[j.ID] {
			t.Errorf("job %d has no receipt", j.ID)
		}
		if j.Executions > 1 || j.Completions > 1 {
			t.Errorf("job %d: executed %d times, completed %d times", j.ID, j.Executions, j.Completions)
		}
		if j.Conclusion == "success" {
			continue
		}
		explained++
		ours, err := db.JobByID(t.Context(), "default", j.ID)
		if err != nil || ours.Conclusion != j.Conclusion || ours.Runner == "" {
			t.Errorf("job %d ended as %s on GitHub; ours %+v, %v", j.ID, j.Conclusion, ours, err)
			continue
		}
		if r, err := db.Runner(t.Context(), "default", ours.Runner); err != nil || r.Reason == "" {
			t.Errorf("job %d ended as %s and its runner does not say why: %+v, %v", j.ID, j.Conclusion, r, err)
		} else {
			t.Logf("job %d ended as %s: runner %s: %s", j.ID, j.Conclusion, r.ID, r.Reason)
		}
	}
	return explained
}
