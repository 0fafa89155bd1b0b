package dryrun_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/dryrun"
	"github.com/muster-ci/muster/internal/schedule"
	"github.com/muster-ci/muster/internal/usage"
)

var start = time.Date(2026, 11, 18, 9, 0, 0, 0, time.UTC)

// onDemand makes one runner per queued job at once, at most so many.
func onDemand(most int) muster.Pool {
	return muster.Pool{Name: "linux", Enabled: true, Labels: muster.Labels{"linux"}, Provisioning: 100, Scaling: muster.Scaling{MaxRunners: most, JobsPerRunner: 1}}.WithDefaults()
}

// perSecond prices a machine's second at a thousandth of a dollar.
var perSecond = dryrun.Terms{Book: usage.Book{Rounding: usage.PerSecond}, Offering: muster.Offering{Name: "small", PriceMicroUSD: 60_000}, Windows: schedule.Windows}

func jobs(n int, every, run time.Duration) (out []dryrun.Job) {
	for i := range n {
		out = append(out, dryrun.Job{ID: int64(i + 1), Repository: "octo/app", Queued: start.Add(time.Duration(i) * every), Run: run})
	}
	return out
}

func simulate(t *testing.T, p muster.Pool, w dryrun.Workload) dryrun.Result {
	t.Helper()
	r, err := dryrun.Simulate(t.Context(), p, w, perSecond)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Workloads whose answers can be reckoned on paper.
func TestKnownAnswers(t *testing.T) {
	const s = time.Second
	boot := []time.Duration{10 * s}
	hour := func(js []dryrun.Job) dryrun.Workload {
		return dryrun.Workload{Jobs: js, Boots: boot, Since: start, Until: start.Add(time.Hour)}
	}
	for _, tc := range []struct {
		name string
		pool muster.Pool
		work dryrun.Workload
		want dryrun.Result
	}{
		{"Nothing", onDemand(2), hour(nil), dryrun.Result{}},
		// Two runners boot for 10 s and run for 60 s, then two others the same.
		{"TwoByTwo", onDemand(2), hour(jobs(4, 0, 60*s)), dryrun.Result{Jobs: 4, WaitP50: 10 * s, WaitP95: 80 * s, WaitMax: 80 * s, Runners: 4, Peak: 2, RunnerTime: 280 * s, CostMicroUSD: 280_000}},
		{"AllAtOnce", onDemand(4), hour(jobs(4, 0, 60*s)), dryrun.Result{Jobs: 4, WaitP50: 10 * s, WaitP95: 10 * s, WaitMax: 10 * s, Runners: 4, Peak: 4, RunnerTime: 280 * s, CostMicroUSD: 280_000}},
		{"NoRunnersAllowed", onDemand(0), hour(jobs(3, 0, 60*s)), dryrun.Result{Unserved: 3}},
		// The second boot time is used for the second runner.
		{"BootsInTurn", onDemand(2), dryrun.Workload{Jobs: jobs(2, 100*s, 20*s), Boots: []time.Duration{10 * s, 30 * s}, Since: start, Until: start.Add(time.Hour)},
			dryrun.Result{Jobs: 2, WaitP50: 10 * s, WaitP95: 30 * s, WaitMax: 30 * s, Runners: 2, Peak: 1, RunnerTime: 80 * s, CostMicroUSD: 80_000}},
		{"DefaultBoot", onDemand(1), dryrun.Workload{Jobs: jobs(1, 0, 20*s), Since: start, Until: start.Add(time.Hour)},
			dryrun.Result{Jobs: 1, WaitP50: 30 * s, WaitP95: 30 * s, WaitMax: 30 * s, Runners: 1, Peak: 1, RunnerTime: 50 * s, CostMicroUSD: 50_000}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := simulate(t, tc.pool, tc.work)
			got.Decisions = 0
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// busy is a day of jobs in bursts, the same on every run.
func busy(n int) dryrun.Workload {
	rng := rand.New(rand.NewPCG(3, 5))
	w := dryrun.Workload{Since: start, Until: start.Add(24 * time.Hour)}
	at := start
	for i := range n {
		if rng.IntN(20) == 0 {
			at = at.Add(time.Duration(rng.ExpFloat64() * float64(24*time.Hour) * 20 / float64(n)))
		}
		w.Jobs = append(w.Jobs, dryrun.Job{ID: int64(i + 1), Repository: []string{"octo/app", "octo/api", "octo/web"}[rng.IntN(3)], Queued: at, Run: time.Duration(20+rng.IntN(600)) * time.Second})
	}
	for range 50 {
		w.Boots = append(w.Boots, time.Duration(8+rng.IntN(40))*time.Second)
	}
	return w
}

// More runners never make the wait longer, and every job is accounted for.
func TestRaisingMaxLowersWait(t *testing.T) {
	w := busy(1500)
	last := dryrun.Result{WaitP50: 1 << 60, WaitP95: 1 << 60}
	for _, most := range []int{5, 10, 20, 40, 80} {
		r := simulate(t, onDemand(most), w)
		if r.WaitP50 > last.WaitP50 || r.WaitP95 > last.WaitP95 {
			t.Errorf("with %d runners the wait is p50 %s, p95 %s; it was %s, %s with fewer", most, r.WaitP50, r.WaitP95, last.WaitP50, last.WaitP95)
		}
		if r.Peak > most || r.Jobs+r.Unserved != len(w.Jobs) {
			t.Errorf("with %d runners: %+v", most, r)
		}
		last = r
	}
	if one := simulate(t, onDemand(5), w); one.WaitP95 <= last.WaitP95 {
		t.Errorf("5 runners wait p95 %s, 80 wait %s", one.WaitP95, last.WaitP95)
	}
}

// A floor shortens waits and costs idle time.
func TestFloorShows(t *testing.T) {
	w := dryrun.Workload{Jobs: jobs(40, 5*time.Minute, time.Minute), Boots: []time.Duration{40 * time.Second}, Since: start, Until: start.Add(4 * time.Hour)}
	plain := simulate(t, onDemand(5), w)
	floor := simulate(t, change(t, onDemand(5), map[string]string{"min": "2"}), w)
	if floor.WaitP95 >= plain.WaitP95 || floor.RunnerTime <= plain.RunnerTime || floor.Wasted == 0 {
		t.Errorf("a floor of 2: %+v, without: %+v", floor, plain)
	}
}

func change(t *testing.T, p muster.Pool, changes map[string]string) muster.Pool {
	t.Helper()
	p, err := dryrun.Set(p, changes)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The same records give the same answer, and ten thousand jobs take under two
// seconds, also when they come in one burst.
func TestDeterminismAndSpeed(t *testing.T) {
	for name, w := range map[string]dryrun.Workload{"Day": busy(10_000), "Burst": {Jobs: jobs(10_000, 0, 3*time.Minute), Boots: []time.Duration{15 * time.Second}, Since: start, Until: start.Add(time.Hour)}} {
		t.Run(name, func(t *testing.T) {
			var first dryrun.Result
			took := time.Duration(1 << 62)
			for try := range 5 { // the quickest counts: the machine may be busy otherwise
				began := time.Now()
				r := simulate(t, onDemand(50), w)
				took = min(took, time.Since(began))
				if try == 0 {
					first = r
				}
				if d := cmp.Diff(first, r); d != "" {
					t.Error(d)
				}
				if try > 0 && took < 2*time.Second {
					break
				}
			}
			t.Logf("%d jobs, %d decisions in %s", len(w.Jobs), first.Decisions, took)
			if took > 2*time.Second {
				t.Errorf("%d jobs took %s", len(w.Jobs), took)
			}
			if first.Jobs != len(w.Jobs) {
				t.Errorf("%+v", first)
			}
		})
	}
}

func TestSimulateEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dryrun.Simulate(ctx, onDemand(50), busy(5000), perSecond); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestSet(t *testing.T) {
	got := change(t, onDemand(5), map[string]string{"max": "20", "min_runners": "1", "job-wait": "30s", "cooldown": "300", "enabled": "false", "quotas": "none"})
	if got.Scaling.MaxRunners != 20 || got.Scaling.MinRunners != 1 || got.JobWait != 30*time.Second || got.Scaling.Cooldown != 5*time.Minute || got.Enabled {
		t.Errorf("%+v", got)
	}
	for _, tc := range []struct{ key, value, want string }{
		{"colour", "red", `setting "colour" cannot be tried: use one of cooldown`},
		{"max", "many", `setting max: "many" is not a number`},
		{"max", "-1", "not a number"},
		{"min", "9", "max_runners must be >= min_runners"},
		{"job_wait", "soon", "not a time"},
		{"quotas", "x", "only none"},
		{"enabled", "perhaps", "neither true nor false"},
		{"provisioning", "0", "at least 1"},
	} {
		_, err := dryrun.Set(onDemand(5), map[string]string{tc.key: tc.value})
		if muster.CodeOf(err) != muster.CodeInvalid || !strings.Contains(muster.MessageOf(err), tc.want) {
			t.Errorf("%s=%s: %v", tc.key, tc.value, err)
		}
	}
}

// Records become a workload: jobs that never ran are left out, open ones run on,
// and what was measured is told beside what is assumed.
func TestRecorded(t *testing.T) {
	const m = time.Minute
	at := func(d time.Duration) time.Time { return start.Add(d) }
	job := func(id int64, state muster.JobState, queued, started, completed time.Duration) muster.Job {
		j := muster.Job{Key: muster.JobKey{ID: id, Attempt: 1}, State: state, Repository: "octo/app", Labels: muster.Labels{"linux"}, CreatedAt: at(queued)}
		if started > 0 {
			j.StartedAt, j.RunnerName = at(started), "r"
		}
		if completed > 0 {
			j.CompletedAt = at(completed)
		}
		return j
	}
	p := onDemand(5)
	p.Priorities = []muster.Priority{{Repository: "octo/*", Weight: 7}}
	records := []muster.Job{
		job(1, muster.JobCompleted, 0, m, 3*m), job(2, muster.JobCompleted, m, 2*m, 6*m), job(3, muster.JobCompleted, 2*m, 0, 3*m),
		job(4, muster.JobInProgress, 50*m, 52*m, 0), job(5, muster.JobQueued, 55*m, 0, 0),
	}
	runners := []muster.Runner{
		{ID: "r-1", CreatedAt: at(0), ListeningAt: at(30 * time.Second), DestroyedAt: at(10 * m), Job: muster.JobKey{ID: 1, Attempt: 1}},
		{ID: "r-2", CreatedAt: at(5 * m), DestroyedAt: at(7 * m)},
		{ID: "r-3", CreatedAt: at(-m), ListeningAt: at(-30 * time.Second), Job: muster.JobKey{ID: 4, Attempt: 1}, Busy: true},
	}
	w, measured, assumed := dryrun.Recorded(p, muster.Pool{}, records, runners, at(0), at(60*m), perSecond)
	want := dryrun.Workload{Since: at(0), Until: at(60 * m), Boots: []time.Duration{30 * time.Second, 30 * time.Second}, Jobs: []dryrun.Job{
		{ID: 1, Repository: "octo/app", Queued: at(0), Run: 2 * m, Priority: 7}, {ID: 2, Repository: "octo/app", Queued: at(m), Run: 4 * m, Priority: 7},
		{ID: 4, Repository: "octo/app", Queued: at(50 * m), Run: 8 * m, Priority: 7}, {ID: 5, Repository: "octo/app", Queued: at(55 * m), Run: 2 * m, Priority: 7}}}
	if d := cmp.Diff(want, w); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(dryrun.Result{Jobs: 3, Unserved: 1, WaitP50: m, WaitP95: 2 * m, WaitMax: 2 * m, Runners: 3, Peak: 3, Wasted: 1, RunnerTime: 72 * m, CostMicroUSD: 72 * 60_000}, measured); d != "" {
		t.Error(d)
	}
	text := strings.Join(assumed, "\n")
	for _, part := range []string{"4 jobs as queued from 2026-11-18 09:00Z", "what still waits (1 job)", "left out: 1 job that ended without a runner", "2 runners measured in that time did, median 30s", "the pool starts empty"} {
		if !strings.Contains(text, part) {
			t.Errorf("the assumptions do not say %q:\n%s", part, text)
		}
	}
}
