package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
)

// S4-25 S4-4 4-3 4-4 4-7 4-51: jobs flow through a GitHub that drops a fifth of its deliveries,
// doubles and reorders a tenth, while the control plane is killed with SIGKILL again
// and again. Every job finishes exactly once, on GitHub and in the books, and
// nothing is left over.
//
// MUSTER_CHAOS_JOBS and MUSTER_CHAOS_KILLS change the size; the defaults fit into
// the suite, and 200 and 20 are what bench/results holds.
func TestChaos(t *testing.T) {
	jobs, kills := number(t, "MUSTER_CHAOS_JOBS", 60), number(t, "MUSTER_CHAOS_KILLS", 6)
	seed := uint64(number(t, "MUSTER_CHAOS_SEED", 1))
	s := New(t, Options{
		Sim: githubsim.Config{Seed: seed, NoRateLimits: true, RegistrationsPer5Minutes: 1 << 20, RecordLinger: 200 * time.Millisecond},
		Settings: `
times: {redelivery_scan: 2s, sweep: 5s, health: 5s, sweep_grace: 15s, heartbeat: 1s, agent_lost: 10s, poll: 5s}
price_book: {rounding: second}
`,
		Pool: "no_job_timeout: 10s",
	})
	s.Sim.Faults().DropDeliveries(0.20)
	s.Sim.Faults().DuplicateDeliveries(0.10)
	s.Sim.Faults().ReorderDeliveries(0.10, 2*time.Second)

	if keep := os.Getenv("MUSTER_CHAOS_LOG"); keep != "" {
		t.Cleanup(func() {
			if err := os.Rename(s.LogFile(), keep); err != nil {
				t.Error(err)
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 2))
	p := s.Serve(t)
	queued := 0
	for k := range kills {
		for share := (k + 1) * jobs / kills; queued < share; queued++ {
			if _, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: Labels, Duration: time.Duration(random.IntN(1500)) * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
		}
		// A random moment: mostly in the middle of work, sometimes while it starts.
		after := time.Duration(random.IntN(3000)) * time.Millisecond
		wait(t, after)
		p.Kill()
		t.Logf("kill %d after %s: jobs %v", k+1, after, s.Sim.Truth().ByState())
		p = s.Spawn(t)
		if random.IntN(3) > 0 {
			s.AwaitReady(t, p)
		}
	}
	s.AwaitReady(t, p)
	truth := s.AwaitJobs(t, jobs, 5*time.Minute)
	s.Sim.Faults().DropDeliveries(0) // what was dropped so far has to come by redelivery

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	db := s.Books(t)
	var receipts []muster.Receipt
	for {
		live, err := db.LiveRunners(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if receipts, err = db.Receipts(ctx, "default", store.UsageFilter{}); err != nil {
			t.Fatal(err)
		}
		if truth = s.Sim.Truth(); len(live) == 0 && len(receipts) >= jobs && len(truth.Runners) == 0 && len(s.Machines(t)) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(s.LogFile())
			diagnose(t, db, truth, receipts)
			for _, r := range live {
				t.Logf("live: %+v", r)
				if events, err := db.RunnerEvents(t.Context(), "default", r.ID); err == nil {
					t.Logf("  %+v", events)
				}
			}
			t.Fatalf("not settled: %d live runners, %d receipts of %d, registrations %+v, machines %v\n%s", len(live), len(receipts), jobs, truth.Runners, s.Machines(t), tail(log, 5000))
		case <-time.After(250 * time.Millisecond):
		}
	}
	seen := map[int64]bool{}
	for _, r := range receipts {
		if seen[r.Job.ID] {
			t.Errorf("job %d has two receipts", r.Job.ID)
		}
		seen[r.Job.ID] = true
	}
	for _, j := range truth.Jobs {
		if j.Conclusion != "success" || j.Executions != 1 || j.Completions != 1 {
			t.Errorf("job %d: %s, executed %d times, completed %d times", j.ID, j.Conclusion, j.Executions, j.Completions)
		}
		if !seen[j.ID] {
			t.Errorf("job %d has no receipt", j.ID)
		}
	}
	if len(truth.BusyKills) > 0 {
		t.Errorf("busy kills: %+v", truth.BusyKills)
	}
	findings, err := db.Findings(ctx, "default", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Logf("finding: %s %s %s", f.Kind, f.Subject, f.Action)
	}
	t.Logf("%d jobs, %d kills, faults %v, deliveries %+v, registered %d", jobs, kills, truth.Faults, truth.Deliveries, truth.Registered)
}

func number(t *testing.T, env string, standard int) int {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", env, err))
	}
	return n
}

// wait lets real time pass: the moment of a kill is what this test is about.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// Books opens the database of the stand's control plane, beside it.
func (s *Stand) Books(t testing.TB) *store.Store {
	t.Helper()
	box, err := secretbox.Load(filepath.Join(s.Dir, "data", "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{URL: "sqlite:" + filepath.Join(s.Dir, "data", "muster.db"), Secrets: box})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// diagnose tells what is known of the jobs without a receipt.
func diagnose(t *testing.T, db *store.Store, truth githubsim.Truth, receipts []muster.Receipt) {
	booked := map[int64]bool{}
	for _, r := range receipts {
		booked[r.Job.ID] = true
	}
	all, err := db.Deliveries(t.Context(), store.DeliveryFilter{Limit: 10000})
	if err != nil {
		t.Log(err)
	}
	for _, j := range truth.Jobs {
		if booked[j.ID] {
			continue
		}
		ours, err := db.JobByID(t.Context(), "default", j.ID)
		t.Logf("no receipt: job %d %s %v on GitHub; ours %s runner %q, %v", j.ID, j.Status, j.Events, ours.State, ours.Runner, err)
		for _, d := range all {
			if full, err := db.Delivery(t.Context(), d.GUID); err == nil && strings.Contains(string(full.Body), strconv.FormatInt(j.ID, 10)) {
				t.Logf("  delivery %s %s received %s dispatched %s outcome %q attempts %d error %q", d.GUID, d.Action, d.ReceivedAt, d.DispatchedAt, d.Outcome, d.Attempts, d.Error)
			}
		}
	}
}
