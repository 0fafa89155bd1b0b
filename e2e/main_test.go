package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/store/storetest"
	"github.com/muster-ci/muster/provider/container/enginetest"
)

func TestMain(m *testing.M) {
	enginetest.Enter()
	storetest.Main(m)
}

// quick are times short enough for a test of seconds.
const quick = `
times: {redelivery_scan: 1s, sweep: 1s, health: 1s, sweep_grace: 2s, heartbeat: 1s, agent_lost: 3s, poll: 2s, api_timeout: 3s}
price_book: {rounding: second}
`

// stand is a Stand with quick times whose agents must never see a 5xx other than
// "ask again later".
func stand(t *testing.T, o Options) *Stand {
	t.Helper()
	if o.Settings == "" {
		o.Settings = quick
	}
	if o.Pool == "" {
		o.Pool = "no_job_timeout: 5s"
	}
	if o.Sim.RecordLinger == 0 {
		o.Sim.RecordLinger = 100 * time.Millisecond
	}
	see := o.WatchAgents
	var mu sync.Mutex
	var bad []string
	o.WatchAgents = func(x Exchange) {
		if x.Status >= 500 && x.Status != http.StatusServiceUnavailable {
			mu.Lock()
			bad = append(bad, fmt.Sprintf("%s %s: %d %s", x.Method, x.Path, x.Status, x.Answer))
			mu.Unlock()
		}
		if see != nil {
			see(x)
		}
	}
	s := New(t, o)
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, b := range bad {
			t.Errorf("an agent was answered %s", b)
		}
	})
	return s
}

func (s *Stand) usage() musterv1connect.UsageServiceClient {
	return musterv1connect.NewUsageServiceClient(http.DefaultClient, s.URL)
}

func (s *Stand) runners() musterv1connect.RunnerServiceClient {
	return musterv1connect.NewRunnerServiceClient(http.DefaultClient, s.URL)
}

func (s *Stand) jobs() musterv1connect.JobServiceClient {
	return musterv1connect.NewJobServiceClient(http.DefaultClient, s.URL)
}

// receipts returns all receipts, newest first.
func (s *Stand) receipts(ctx context.Context) ([]*v1.Receipt, error) {
	resp, err := s.usage().ListReceipts(ctx, &v1.ListReceiptsRequest{Filter: &v1.UsageFilter{Limit: 1000}})
	return resp.GetReceipts(), err
}

// calm waits until nothing is under way any more: every job that GitHub has
// completed has its receipt, no runner lives, no machine, no process and no
// registration is left. What is left after within is a leak.
func (s *Stand) calm(t *testing.T, within time.Duration) (githubsim.Truth, []*v1.Receipt) {
	t.Helper()
	var truth githubsim.Truth
	var receipts []*v1.Receipt
	eventually(t, within, func() (bool, string) {
		live, err := s.runners().ListRunners(t.Context(), &v1.ListRunnersRequest{})
		if err != nil {
			return false, err.Error()
		}
		if receipts, err = s.receipts(t.Context()); err != nil {
			return false, err.Error()
		}
		truth = s.Sim.Truth()
		missing := 0
		for _, j := range truth.Jobs {
			if !j.Alien && !slices.ContainsFunc(receipts, func(r *v1.Receipt) bool { return r.JobId == j.ID }) {
				missing++
			}
		}
		machines, processes := s.Machines(t), s.Processes()
		ok := truth.ByState()["completed"] == len(truth.Jobs) && missing == 0 && len(live.Runners) == 0 && len(truth.Runners) == 0 && len(machines) == 0 && len(processes) == 0
		if ok {
			return true, ""
		}
		log, _ := os.ReadFile(s.LogFile())
		return false, fmt.Sprintf("jobs %v, %d without a receipt, live runners %v, registrations %+v, machines %v, processes %v\n%s",
			truth.ByState(), missing, live.Runners, truth.Runners, machines, processes, tail(log, 6000))
	})
	return truth, receipts
}

// once demands that every job finished as conclusion, exactly once, on GitHub and
// in the books, and that no job lost its runner.
func once(t *testing.T, truth githubsim.Truth, receipts []*v1.Receipt, conclusion string) {
	t.Helper()
	count := map[int64]int{}
	for _, r := range receipts {
		count[r.JobId]++
		for name, d := range map[string]time.Duration{"queue": r.Queue.AsDuration(), "boot": r.Boot.AsDuration(), "idle": r.Idle.AsDuration(), "run": r.Run.AsDuration()} {
			if d < 0 {
				t.Errorf("receipt of job %d: %s is %s", r.JobId, name, d)
			}
		}
	}
	for _, j := range truth.Jobs {
		if j.Alien {
			continue
		}
		if j.Conclusion != conclusion || j.Executions > 1 || j.Completions > 1 || conclusion == "success" && j.Completions != 1 {
			t.Errorf("job %d: %s, executed %d times, completed %d times", j.ID, j.Conclusion, j.Executions, j.Completions)
		}
		if count[j.ID] != 1 {
			t.Errorf("job %d has %d receipts", j.ID, count[j.ID])
		}
	}
	for id, n := range count {
		if n > 1 {
			t.Errorf("job %d has %d receipts", id, n)
		}
	}
	for _, k := range truth.BusyKills {
		t.Errorf("busy kill: %+v", k)
	}
}
