package bench

import (
	"slices"
	"syscall"
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

// untraced are settings under which nothing is recorded.
const untraced = "traces: {off: true}\n"

// BenchmarkIdle is the time from a delivery's arrival to the start of the runner
// process when nothing else happens, with a trace of every job and without. Jobs of the two
// alternate, so that whatever else the machine does slows both; ratio is that of the medians.
func BenchmarkIdle(b *testing.B) {
	const jobs, warm = 30, 5
	one := func(settings string) (run func(), srv *server.Server) {
		s := e2e.New(b, e2e.Options{Sim: quick(), Settings: settings})
		srv = s.Open(b, server.Options{MutationsPerMinute: -1})
		n := 0
		return func() {
			s.Inject(b, 1, 0)
			n++
			s.AwaitJobs(b, n, time.Minute)
			awaitGone(b, srv)
		}, srv
	}
	traced, with := one("")
	plain, without := one(untraced)
	for range warm {
		traced()
		plain()
	}
	for b.Loop() {
		for range jobs {
			traced()
			plain()
		}
	}
	report(b, with, warm)
	ds, os := starts(b, with, warm), starts(b, without, warm)
	b.ReportMetric(ms(percentile(os, 50)), "untraced-p50-ms")
	b.ReportMetric(float64(percentile(ds, 50))/float64(percentile(os, 50)), "ratio")
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
// It also tells how many REST calls a job costs, and with and without a trace of every job
// how much CPU time all of it takes.
func BenchmarkBurst(b *testing.B) {
	b.Run("traced", func(b *testing.B) { burst(b, "") })
	b.Run("untraced", func(b *testing.B) { burst(b, untraced) })
}

func burst(b *testing.B, settings string) {
	const jobs = 500
	s := e2e.New(b, e2e.Options{Sim: quick(), MaxRunners: 20, Settings: settings})
	srv := s.Open(b, server.Options{MutationsPerMinute: -1})
	for b.Loop() {
		began, spent := time.Now(), ownCPU(b)
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
		b.ReportMetric(ms(ownCPU(b)-spent)/jobs, "cpu-ms/job")
	}
	report(b, srv, 0)
}

// ownCPU is the CPU time that this process has used, GitHub's simulator and the control plane
// in it; agents and runners are processes of their own.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
	ds := starts(b, srv, warm)
	b.ReportMetric(float64(len(ds)), "jobs")
	b.ReportMetric(ms(percentile(ds, 50)), "p50-ms")
	b.ReportMetric(ms(percentile(ds, 90)), "p90-ms")
	b.ReportMetric(ms(percentile(ds, 99)), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// starts are the times from delivery received → runner process started, sorted, leaving out
// the first jobs.
func starts(b *testing.B, srv *server.Server, warm int) []time.Duration {
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
	return ds
}
