package usage_test

import (
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func after(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }

var (
	pool     = muster.Pool{Name: "ci", Workspace: "default", Project: "core", Labels: muster.Labels{"muster"}}
	offering = muster.Offering{Name: "small", PriceMicroUSD: 6000} // 0.6 cents per minute
)

// ran is a job that waited 40 s and ran 95 s on our runner; GitHub's clock.
func ran() muster.Job {
	return muster.Job{
		Key: muster.JobKey{ID: 7, Attempt: 2}, Workspace: "default", Pool: "ci", Repository: "acme/app", Workflow: "ci", Name: "test",
		State: muster.JobCompleted, Conclusion: "success", Runner: "r-1", RunnerName: "ci-1",
		CreatedAt: noon, StartedAt: after(40), CompletedAt: after(135),
	}
}

// its is the runner of ran; Muster's clock.
func its() *muster.Runner {
	return &muster.Runner{ID: "r-1", Workspace: "default", Pool: "ci", State: muster.RunnerDestroyed, Job: muster.JobKey{ID: 7, Attempt: 2},
		CreatedAt: after(2), LaunchedAt: after(3), ConnectedAt: after(20), ListeningAt: after(32), ActiveAt: after(41), FinishedAt: after(136), DestroyedAt: after(150)}
}

// S4-34 S4-45 4-48 S4-21: a receipt equals the timestamps of the events.
func TestReceipt(t *testing.T) {
	got := usage.Receipt(ran(), its(), pool, offering, usage.Book{}, after(140))
	want := muster.Receipt{
		Job: muster.JobKey{ID: 7, Attempt: 2}, Workspace: "default", Project: "core", Pool: "ci", Repository: "acme/app", Workflow: "ci", JobName: "test",
		Runner: "r-1", Offering: "small", Conclusion: "success",
		Queue: 40 * time.Second, Boot: 30 * time.Second, Idle: 8 * time.Second, Run: 95 * time.Second,
		Billed: 2 * time.Minute, PriceMicroUSD: 6000, CostMicroUSD: 12000,
		CompletedAt: after(135), WrittenAt: after(140),
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if again := usage.Receipt(ran(), its(), pool, offering, usage.Book{}, after(140)); again != got {
		t.Error("not the same receipt from the same facts")
	}
}

func TestReceiptCases(t *testing.T) {
	for name, c := range map[string]struct {
		job    func(*muster.Job)
		runner func(*muster.Runner) *muster.Runner
		book   usage.Book
		// queue, boot, idle, run, billed in seconds, cost in millionths
		want    [6]int64
		runner0 bool // the receipt names no runner
	}{
		// 4-6: it ended before a runner took it.
		"CancelledBeforeStart": {job: func(j *muster.Job) { j.Conclusion, j.Runner, j.RunnerName = "cancelled", "", "" }, want: [6]int64{}, runner0: true},
		"Skipped": {job: func(j *muster.Job) {
			j.Conclusion, j.Runner, j.RunnerName, j.StartedAt = "skipped", "", "", time.Time{}
		}, want: [6]int64{}, runner0: true},
		"CancelledWhileRunning": {job: func(j *muster.Job) { j.Conclusion = "cancelled" }, want: [6]int64{40, 30, 8, 95, 120, 12000}},
		// 4-22: somebody else's runner costs us nothing, but the times are known.
		"OtherRunner":           {job: func(j *muster.Job) { j.Runner = "" }, runner: func(*muster.Runner) *muster.Runner { return nil }, want: [6]int64{40, 0, 0, 95, 0, 0}, runner0: true},
		"OurRunnerForgotten":    {runner: func(*muster.Runner) *muster.Runner { return nil }, want: [6]int64{40, 0, 0, 95, 120, 12000}},
		"RunnerOfAnotherJob":    {runner: func(r *muster.Runner) *muster.Runner { r.ID = "r-9"; return r }, want: [6]int64{40, 0, 0, 95, 120, 12000}},
		"LinkedByTheCallerOnly": {job: func(j *muster.Job) { j.Runner = "" }, want: [6]int64{40, 30, 8, 95, 120, 12000}},
		// 4-48: odd times are clamped; what ran costs at least a minute.
		"EndBeforeStart":   {job: func(j *muster.Job) { j.CompletedAt = after(10) }, want: [6]int64{40, 30, 8, 0, 60, 6000}},
		"StartBeforeQueue": {job: func(j *muster.Job) { j.CreatedAt = after(60) }, want: [6]int64{0, 30, 8, 95, 120, 12000}},
		"ClocksDisagree":   {runner: func(r *muster.Runner) *muster.Runner { r.ListeningAt = after(50); return r }, want: [6]int64{40, 48, 0, 95, 120, 12000}},
		"NeverListened":    {runner: func(r *muster.Runner) *muster.Runner { r.ListeningAt = time.Time{}; return r }, want: [6]int64{40, 0, 0, 95, 120, 12000}},
		// 4-49: the wait for an approval is no queue time.
		"Approved":              {job: func(j *muster.Job) { j.Gated, j.ReadyAt = true, after(30) }, want: [6]int64{10, 30, 8, 95, 120, 12000}},
		"KeptRunnerBetweenJobs": {runner: func(r *muster.Runner) *muster.Runner { r.ListeningAt, r.FinishedAt = after(10), after(35); return r }, want: [6]int64{40, 8, 5, 95, 120, 12000}},
		"PerSecond":             {job: func(j *muster.Job) { j.CompletedAt = after(135).Add(time.Millisecond) }, book: usage.Book{Rounding: usage.PerSecond}, want: [6]int64{40, 30, 8, 95, 96, 9600}},
		"BookOverrules":         {book: usage.Book{Prices: map[string]int64{"small": 1}}, want: [6]int64{40, 30, 8, 95, 120, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			job, runner := ran(), its()
			if c.job != nil {
				c.job(&job)
			}
			if c.runner != nil {
				runner = c.runner(runner)
			}
			r := usage.Receipt(job, runner, pool, offering, c.book, after(140))
			got := [6]int64{secs(r.Queue), secs(r.Boot), secs(r.Idle), secs(r.Run), secs(r.Billed), r.CostMicroUSD}
			if got != c.want || (r.Runner == "") != c.runner0 {
				t.Errorf("got %v for runner %q, want %v", got, r.Runner, c.want)
			}
			if r.Job != job.Key || r.Conclusion != job.Conclusion || r.Pool != "ci" {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func secs(d time.Duration) int64 { return int64(d / time.Second) }

// 4-48: rounding is a property of the plan.
func TestRounding(t *testing.T) {
	for _, c := range []struct {
		rounding    usage.Rounding
		run, billed time.Duration
	}{
		{"", 0, time.Minute},
		{usage.PerMinute, time.Nanosecond, time.Minute},
		{usage.PerMinute, time.Minute, time.Minute},
		{usage.PerMinute, time.Minute + 1, 2 * time.Minute},
		{usage.PerMinute, -time.Hour, time.Minute},
		{usage.PerSecond, 0, 0},
		{usage.PerSecond, 1, time.Second},
		{usage.PerSecond, time.Second, time.Second},
		{usage.PerSecond, -time.Second, 0},
		{usage.PerSecond, math.MaxInt64, math.MaxInt64 / time.Second * time.Second},
	} {
		if got := (usage.Book{Rounding: c.rounding}).Bill(c.run); got != c.billed {
			t.Errorf("%q of %s: %s, want %s", c.rounding, c.run, got, c.billed)
		}
	}
}

func TestCost(t *testing.T) {
	for _, c := range []struct {
		billed time.Duration
		price  int64
		want   int64
	}{
		{time.Minute, 6000, 6000},
		{time.Second, 6000, 100},
		{time.Second, 29, 0}, // 0.483
		{time.Second, 30, 1}, // 0.5, half up
		{5 * 24 * time.Hour, 1_000_000_000, 7_200_000_000_000},
		{-time.Minute, 6000, 0},
		{time.Minute, -1, 0},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64, 0, 0},
	} {
		if got := usage.Cost(c.billed, c.price); got != c.want {
			t.Errorf("%s at %d: %d, want %d", c.billed, c.price, got, c.want)
		}
	}
}

func TestBook(t *testing.T) {
	b := usage.Book{Prices: map[string]int64{"small": 5}}
	if b.Price(offering) != 5 || b.Price(muster.Offering{Name: "x", PriceMicroUSD: 3}) != 3 || b.Price(muster.Offering{PriceMicroUSD: -3}) != 0 {
		t.Error("prices")
	}
	if b.Label() != "USD" || (usage.Book{Currency: "EUR"}).Label() != "EUR" {
		t.Error("currency")
	}
	if b.Validate() != nil || (usage.Book{Rounding: usage.PerSecond}).Validate() != nil {
		t.Error("a good book is refused")
	}
	for _, bad := range []usage.Book{{Rounding: "hour"}, {Prices: map[string]int64{"a": -1}}} {
		if muster.CodeOf(bad.Validate()) != muster.CodeInvalid {
			t.Errorf("%+v is valid", bad)
		}
	}
}

// S4-54: what a runner cost that never ran a job.
func TestWaste(t *testing.T) {
	idle := func(change func(*muster.Runner)) muster.Runner {
		r := *its()
		r.Job, r.ActiveAt, r.FinishedAt, r.Reason = muster.JobKey{}, time.Time{}, time.Time{}, "no job within 2m0s"
		if change != nil {
			change(&r)
		}
		return r
	}
	w, ok := usage.Waste(idle(nil), pool, offering, usage.Book{}, after(160))
	want := muster.Waste{Runner: "r-1", Workspace: "default", Project: "core", Pool: "ci", Offering: "small", Reason: "no job within 2m0s",
		Lived: 147 * time.Second, PriceMicroUSD: 6000, CostMicroUSD: 18000, At: after(160)}
	if !ok || !reflect.DeepEqual(w, want) {
		t.Errorf("got %+v, %t\nwant %+v", w, ok, want)
	}
	for name, c := range map[string]struct {
		change func(*muster.Runner)
		lived  int64 // seconds; -1 for no waste
	}{
		"RanAJob":          {func(r *muster.Runner) { r.Job.ID = 7 }, -1},
		"WasActive":        {func(r *muster.Runner) { r.ActiveAt = after(41) }, -1},
		"PerhapsBusy":      {func(r *muster.Runner) { r.Busy = true }, -1}, // 4-18
		"NeverLaunched":    {func(r *muster.Runner) { r.LaunchedAt, r.Instance = time.Time{}, "" }, -1},
		"LaunchNotNoted":   {func(r *muster.Runner) { r.LaunchedAt, r.Instance = time.Time{}, "i-1" }, 148}, // 4-51
		"NotYetDestroyed":  {func(r *muster.Runner) { r.DestroyedAt = time.Time{} }, 157},
		"DestroyedEarlier": {func(r *muster.Runner) { r.DestroyedAt = noon }, 0},
	} {
		w, ok := usage.Waste(idle(c.change), pool, offering, usage.Book{}, after(160))
		if ok != (c.lived >= 0) || ok && secs(w.Lived) != c.lived {
			t.Errorf("%s: %+v, %t", name, w, ok)
		}
	}
}

// S4-57 4-49: exact on known data, and only jobs that ran belong to it.
func TestPercentile(t *testing.T) {
	var ds []time.Duration
	for i := 100; i >= 1; i-- {
		ds = append(ds, time.Duration(i)*time.Second)
	}
	for p, want := range map[int]int{-5: 1, 0: 1, 1: 1, 50: 50, 55: 55, 90: 90, 99: 99, 100: 100, 200: 100} {
		if got := usage.Percentile(ds, p); got != time.Duration(want)*time.Second {
			t.Errorf("p%d of 1…100: %s", p, got)
		}
	}
	if ds[0] != 100*time.Second {
		t.Error("the data was sorted in place")
	}
	// The textbook's example of nearest rank.
	book := []time.Duration{15, 20, 35, 40, 50}
	for p, want := range map[int]time.Duration{5: 15, 30: 20, 40: 20, 50: 35, 100: 50} {
		if got := usage.Percentile(book, p); got != want {
			t.Errorf("p%d: %d", p, got)
		}
	}
	if usage.Percentile(nil, 50) != 0 || usage.Percentile([]time.Duration{7}, 90) != 7 {
		t.Error("none or one")
	}

	skipped := ran()
	skipped.Conclusion, skipped.Runner, skipped.RunnerName, skipped.StartedAt = "skipped", "", "", noon
	var queue []time.Duration
	for _, j := range []muster.Job{ran(), skipped, skipped, skipped} {
		if q, ok := j.QueueTime(); ok {
			queue = append(queue, q)
		}
	}
	if got := usage.Percentile(queue, 50); got != 40*time.Second {
		t.Errorf("median queue time with skipped jobs around: %s", got)
	}
}

func TestPercentileProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ds := rapid.SliceOfN(rapid.Map(rapid.Int64Range(-5, 50), func(n int64) time.Duration { return time.Duration(n) }), 1, 40).Draw(t, "ds")
		p := rapid.IntRange(0, 100).Draw(t, "p")
		got := usage.Percentile(ds, p)
		notAbove, below := 0, 0
		for _, d := range ds {
			if d <= got {
				notAbove++
			}
			if d < got {
				below++
			}
		}
		if !slices.Contains(ds, got) || notAbove*100 < p*len(ds) || below > 0 && below*100 >= p*len(ds) {
			t.Fatalf("p%d of %v is %d", p, ds, got)
		}
	})
}
