package bench

import (
	"slices"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/e2e"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/server"
	"github.com/muster-ci/muster/internal/store"
)

// quick is a GitHub that answers at once and limits nothing, so that only
// Muster's own time is measured.
func quick() githubsim.Config {
	return githubsim.Config{Seed: 1, NoRateLimits: true, RegistrationsPer5Minutes: 1 << 20, RecordLinger: time.Millisecond}
}

// BenchmarkIdle is the time from a delivery's arrival to the start of the runner
// process when nothing else happens.
func BenchmarkIdle(b *testing.B) {
	s := e2e.New(b, e2e.Options{Sim: quick()})
	srv := s.Open(b, server.Options{MutationsPerMinute: -1})
	const jobs = 30
	n := 0
	one := func() {
		s.Inject(b, 1, 0)
		n++
		s.AwaitJobs(b, n, time.Minute)
		awaitGone(b, srv)
	}
	for range 5 {
		one() // warm
	}
	for b.Loop() {
		for range jobs {
			one()
		}
	}
	report(b, srv, 5)
}

// BenchmarkTwenty is the same while twenty jobs of three seconds run at any time:
// about seven jobs a second come and go, and the first twenty come at once.
func BenchmarkTwenty(b *testing.B) {
	const at, jobs, lasts = 20, 200, 3 * time.Second
	s := e2e.New(b, e2e.Options{Sim: quick(), MaxRunners: 2 * at})
	srv := s.Open(b, server.Options{MutationsPerMinute: -1})
	for range 5 {
		s.Inject(b, 1, 0)
	}
	s.AwaitJobs(b, 5, time.Minute)
	for b.Loop() {
		done := 5
		s.Inject(b, at, lasts)
		for queued := at; queued < jobs; {
			t := s.AwaitJobs(b, done+1, time.Minute)
			fresh := t.ByState()["completed"] - done
			done += fresh
			fresh = min(fresh, jobs-queued)
			s.Inject(b, fresh, lasts)
			queued += fresh
		}
		s.AwaitJobs(b, 5+jobs, time.Minute)
	}
	report(b, srv, 5)
}

// BenchmarkBurst queues five hundred jobs in one second: none may be lost or fail.
// It also tells how many REST calls a job costs.
func BenchmarkBurst(b *testing.B) {
	const jobs = 500
	s := e2e.New(b, e2e.Options{Sim: quick(), MaxRunners: 20})
	srv := s.Open(b, server.Options{MutationsPerMinute: -1})
	for b.Loop() {
		began := time.Now()
		s.Inject(b, jobs, 0)
		queued := time.Since(began)
		t := s.AwaitJobs(b, jobs, 10*time.Minute)
		b.ReportMetric(queued.Seconds(), "queued-s")
		b.ReportMetric(float64(jobs)/time.Since(began).Seconds(), "jobs/s")
		failed, doubled := 0, 0
		for _, j := range t.Jobs {
			if j.Conclusion != "success" {
				failed++
			}
			if j.Executions != 1 {
				doubled++
			}
		}
		b.ReportMetric(float64(failed), "failed")
		b.ReportMetric(float64(doubled), "not-run-once")
		b.ReportMetric(float64(len(t.BusyKills)), "busy-kills")
		calls := 0
		for who, routes := range t.Calls {
			for route, c := range routes {
				b.Logf("%s %s: %d", who, route, c)
				calls += c
			}
		}
		b.ReportMetric(float64(calls)/jobs, "rest-calls/job")
		awaitGone(b, srv)
	}
	report(b, srv, 0)
}

// awaitGone waits until no runner is live.
func awaitGone(b *testing.B, srv *server.Server) {
	b.Helper()
	changes := srv.Store().Subscribe(b.Context())
	for {
		live, err := srv.Store().LiveRunners(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if len(live) == 0 {
			return
		}
		select {
		case <-changes:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// report prints the percentiles of delivery received → runner process started,
// leaving out the first jobs.
func report(b *testing.B, srv *server.Server, warm int) {
	b.Helper()
	ctx := b.Context()
	runners, err := srv.Store().Runners(ctx, "default", store.RunnerFilter{})
	if err != nil {
		b.Fatal(err)
	}
	slices.SortFunc(runners, func(x, y muster.Runner) int { return x.CreatedAt.Compare(y.CreatedAt) })
	var ds []time.Duration
	for _, r := range runners {
		if r.Job.ID == 0 || r.StartedAt.IsZero() {
			continue
		}
		j, err := srv.Store().Job(ctx, "default", r.Job)
		if err != nil {
			b.Fatal(err)
		}
		ds = append(ds, r.StartedAt.Sub(j.SeenAt))
	}
	ds = ds[min(len(ds), warm):]
	slices.Sort(ds)
	b.ReportMetric(float64(len(ds)), "jobs")
	b.ReportMetric(ms(percentile(ds, 50)), "p50-ms")
	b.ReportMetric(ms(percentile(ds, 90)), "p90-ms")
	b.ReportMetric(ms(percentile(ds, 99)), "p99-ms")
	b.ReportMetric(0, "ns/op")
}
