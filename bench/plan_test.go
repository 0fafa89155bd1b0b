package bench

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// noon is when the snapshots below are looked at.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// planSnapshot is a pool of that many runners and queued jobs (and half as many
// running ones as there are runners), in 500 repositories, with every rule in
// use and far more jobs than room.
func planSnapshot(runners, jobs int, shuffled bool) muster.Snapshot {
	two, many := 2, 2*runners
	s := muster.Snapshot{
		Pool: muster.Pool{
			Name: "large", Enabled: true, Labels: muster.Labels{"large"}, Provider: "fake",
			Scaling:  muster.Scaling{MaxRunners: runners, JobsPerRunner: 1},
			Overflow: muster.Overflow{Pool: "other", After: time.Hour}, JobWait: 10 * time.Second,
			Quotas: []muster.Quota{
				{Name: "each", Each: true, MaxRunners: 100}, {Name: "team", Repositories: []string{"acme/team-*"}, MaxRunners: runners / 4},
				{Name: "everyone", MaxRunners: 2 * runners},
			},
			Canary: muster.Canary{Offering: "new", Percent: 5}, Provisioning: runners,
		}.WithDefaults(),
		Windows: []muster.Window{{From: noon.Add(-time.Hour), Until: noon.Add(time.Hour), MinRunners: &two, MaxRunners: &many}},
		Unnamed: 100, UnnamedSince: noon.Add(-time.Minute),
		Spending: muster.Spending{State: muster.SpendingWarned, SpentMicroUSD: 8, MonthMicroUSD: 10},
	}
	repositories := make([]string, 500)
	for i := range repositories {
		repositories[i] = fmt.Sprintf("acme/%s-%03d", []string{"team", "app", "lib"}[i%3], i)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range jobs {
		s.Jobs = append(s.Jobs, muster.PlanJob{
			ID: int64(i+1) * 7919, State: muster.JobQueued, QueuedAt: noon.Add(time.Duration(i-jobs) * 100 * time.Millisecond),
			Repository: repositories[random.IntN(len(repositories))], Priority: random.IntN(3), Overflows: i%2 == 0,
		})
	}
	for i := range runners / 2 {
		s.Jobs = append(s.Jobs, muster.PlanJob{ID: int64(-i - 1), State: muster.JobInProgress, QueuedAt: noon.Add(-time.Hour), Repository: repositories[random.IntN(len(repositories))]})
	}
	states := []muster.RunnerState{muster.RunnerActive, muster.RunnerRegistered, muster.RunnerActive, muster.RunnerProvisioning}
	for i := range runners {
		r := muster.PlanRunner{ID: muster.RunnerID(fmt.Sprintf("r-%06d", i)), State: states[i%len(states)], CreatedAt: noon.Add(-time.Duration(i) * time.Second)}
		r.Busy = r.State == muster.RunnerActive
		if r.State == muster.RunnerRegistered {
			r.IdleSince = r.CreatedAt.Add(time.Second)
		}
		s.Runners = append(s.Runners, r)
	}
	if shuffled {
		random.Shuffle(len(s.Jobs), func(i, j int) { s.Jobs[i], s.Jobs[j] = s.Jobs[j], s.Jobs[i] })
		random.Shuffle(len(s.Runners), func(i, j int) { s.Runners[i], s.Runners[j] = s.Runners[j], s.Runners[i] })
	}
	return s
}

// BenchmarkPlan is one decision from a snapshot of 10,000 runners and 50,000
// queued jobs, in the order in which the store lists them and in any order.
func BenchmarkPlan(b *testing.B) {
	for _, order := range []string{"stored", "shuffled"} {
		b.Run(order, func(b *testing.B) {
			s := planSnapshot(10_000, 50_000, order == "shuffled")
			if d := muster.Plan(s, noon); d.Metrics.QueuedJobs != 50_100 || d.Current != 10_000 {
				b.Fatalf("decided %+v", d.Metrics)
			}
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				muster.Plan(s, noon)
			}
			// Other work beside it lengthens the time by the clock, and this much less.
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpuTime is the processor's time that this process has used, the collector's too.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Ten times as many of everything take about ten times as long: no part of Plan
// is quadratic, which would be a hundred times. The best of several tries counts
// and the bound is wide, since other work runs beside it.
func TestPlanGrowsWithItsInput(t *testing.T) {
	best := func(s muster.Snapshot) time.Duration {
		least := time.Duration(1 << 62)
		for range 7 {
			start := cpuTime(t)
			muster.Plan(s, noon)
			least = min(least, cpuTime(t)-start)
		}
		return max(least, time.Microsecond)
	}
	few, many := best(planSnapshot(1000, 5000, true)), best(planSnapshot(10_000, 50_000, true))
	t.Logf("%s for 5,000 jobs, %s for 50,000: %.1f times as long", few, many, float64(many)/float64(few))
	if many > 40*few {
		t.Errorf("50,000 jobs take %s, 5,000 take %s", many, few)
	}
}
