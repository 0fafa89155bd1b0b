package web

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

func TestDurationsAndMoney(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 300 * time.Microsecond: "<1ms", 420 * time.Millisecond: "420ms", 8290 * time.Millisecond: "8.2s", 59 * time.Second: "59s", 192 * time.Second: "3m 12s",
		time.Hour: "1h 00m", 125 * time.Minute: "2h 05m", 99 * time.Hour: "4d 3h", -time.Second: "−1s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 300 * time.Microsecond: "<1ms", 907_758 * time.Microsecond: "908ms", 999_600 * time.Microsecond: "1s", 3349 * time.Millisecond: "3.3s", 15_890 * time.Millisecond: "15.9s",
		59_960 * time.Millisecond: "1m 00s", 119_600 * time.Millisecond: "2m 00s", -9440 * time.Millisecond: "−9.4s", 2 * time.Hour: "2h 00m",
	} {
		if got := formatTook(d); got != want {
			t.Errorf("%s took %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "0s", 50 * time.Second: "50s", 3 * time.Minute: "3m", 47 * time.Hour: "47h", 49 * time.Hour: "2d"} {
		if got := formatCoarse(d); got != want {
			t.Errorf("%s is coarsely %q, want %q", d, got, want)
		}
	}
	for m, want := range map[int64]string{0: "$0", 50: "<$0.0001", 12_000: "$0.0120", 99_999: "$0.1000", 100_000: "$0.10", 1_384_636_000: "$1,384.64", 1_234_567_890_123: "$1,234,567.89", -500_000: "−$0.50"} {
		if got := formatMoney(m); got != want {
			t.Errorf("%d is %q, want %q", m, got, want)
		}
	}
}

func TestPhases(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 5, 6, 12, 0, s, 0, time.UTC) }
	runner := muster.Runner{ID: "r-1", CreatedAt: at(2), ListeningAt: at(10)}
	job := muster.Job{CreatedAt: at(0), RunnerName: "x", StartedAt: at(12), CompletedAt: at(52), Runner: "r-1"}
	queued := muster.Job{CreatedAt: at(0)}
	for _, tc := range []struct {
		name   string
		job    muster.Job
		runner muster.Runner
		want   string
	}{
		{"OnDemand", job, runner, "queue 2s, boot 8s, idle 2s, run 40s (52s in all)"},
		{"WarmRunnerSpendsOnlyTheJobsTime", job, muster.Runner{ID: "r-1", CreatedAt: at(-900), ListeningAt: at(-890)}, "idle 12s, run 40s (52s in all)"},
		{"RunnerOfSomebodyElse", job, muster.Runner{}, "queue 12s, run 40s (52s in all)"},
		{"Queued", queued, muster.Runner{}, "queue 30s (30s in all)"},
		{"ClockWentBack", muster.Job{CreatedAt: at(20), RunnerName: "x", StartedAt: at(10), CompletedAt: at(5)}, muster.Runner{}, "no time yet"},
		{"NeverRan", muster.Job{CreatedAt: at(0), CompletedAt: at(9)}, muster.Runner{}, "queue 9s (9s in all)"},
	} {
		p := phasesOf(tc.job, tc.runner, at(30))
		if got := p.Title(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Whatever the times are, a bar is full, in order and without gaps, and its
// phases add up.
func TestPhasesFillTheBar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := time.Date(2026, 5, 6, 12, 0, 0, 0, time.UTC)
		at := func(name string) time.Time {
			if rapid.Bool().Draw(t, name+" known") {
				return base.Add(time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, name)))
			}
			return time.Time{}
		}
		j := muster.Job{CreatedAt: at("created"), SeenAt: base, StartedAt: at("started"), CompletedAt: at("completed"), RunnerName: "x"}
		r := muster.Runner{ID: "r-1", CreatedAt: at("made"), ListeningAt: at("listening")}
		p := phasesOf(j, r, base)
		var sum time.Duration
		x := 0
		for _, s := range p.Segments {
			if s.X != x || s.W < 1 || s.D <= 0 {
				t.Fatalf("segment %+v at %d of %+v", s, x, p)
			}
			x += s.W
			sum += s.D
		}
		if len(p.Segments) > 0 && (x != barWidth || sum != p.Total) {
			t.Fatalf("bar of %d units, %s of %s", x, sum, p.Total)
		}
	})
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[32m√\x1b[0m Connected":         "√ Connected",
		"a\x1b]8;;http://evil\x07link":       "alink",
		"a\x1b]0;title\x1b\\b":               "ab",
		"progress 1%\rprogress 2%\n":         "progress 1%progress 2%\n",
		"bell\a null\x00 tab\t":              "bell null tab\t",
		"\xff\xfe bytes":                     "\uFFFD bytes",
		"safe \u202egnp.exe":                 "safe gnp.exe",
		"ends in \x1b":                       "ends in ",
		"\x1b]never ends\nbut the line does": "\nbut the line does",
	} {
		if got := printable([]byte(in)); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add([]byte("\x1b[32m√\x1b[0m Connected\n"))
	f.Add([]byte("\x1b]0;t\x1b\\\x1b["))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := printable(b)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && r != '\t' && (r < 0x20 || r == 0x7f || bidi(r)) }) {
			t.Errorf("%q becomes %q", b, got)
		}
	})
}

func TestTail(t *testing.T) {
	if got, before := tail("a\nb\nc\n", 2); got != "b\nc" || before != 1 {
		t.Errorf("%q after %d", got, before)
	}
	if got, before := tail("a\n", 2); got != "a" || before != 0 {
		t.Errorf("%q after %d", got, before)
	}
}

func TestPercentile(t *testing.T) {
	ds := []time.Duration{4, 1, 3, 2}
	if got := [3]time.Duration{percentile(ds, 50), percentile(ds, 90), percentile(nil, 50)}; got != [3]time.Duration{2, 4, 0} {
		t.Error(got)
	}
}

// 4-49 S4-57
func TestTraffic(t *testing.T) {
	now := time.Date(2026, 5, 6, 14, 32, 10, 0, time.UTC)
	rec := func(ago, queue time.Duration, conclusion string) muster.Receipt {
		return muster.Receipt{Runner: "r-1", CompletedAt: now.Add(-ago), Queue: queue, Conclusion: conclusion, Run: time.Second}
	}
	got := trafficOf([]muster.Receipt{
		rec(time.Minute, 2*time.Second, "success"), rec(2*time.Minute, 4*time.Second, "failure"), rec(3*time.Hour, 9*time.Second, "success"),
		rec(30*time.Hour, time.Hour, "success"),
		{CompletedAt: now.Add(-time.Minute), Queue: time.Hour, Conclusion: "cancelled"}, // never ran: no queue time
	}, now)
	if got.Jobs != 4 || got.Failed != 1 || got.P50 != 4*time.Second || got.P90 != 9*time.Second || got.HourJobs != 2 || got.HourP50 != 2*time.Second {
		t.Errorf("%d jobs, %d failed, %s, %s, %d in the last hour at %s", got.Jobs, got.Failed, got.P50, got.P90, got.HourJobs, got.HourP50)
	}
	for _, c := range []chart{got.Throughput, got.QueueTime} {
		for _, b := range c.Bars {
			if b.Y < 0 || b.H < 0 || b.Y+b.H > c.Height || b.X+b.W > barWidth {
				t.Errorf("bar %+v leaves the chart", b)
			}
		}
	}
	if !trafficOf(nil, now).Empty {
		t.Error("no receipts are not empty")
	}
}

func TestCapacity(t *testing.T) {
	s := muster.Snapshot{Pool: muster.Pool{Scaling: muster.Scaling{MinRunners: 1, MaxRunners: 4}}, Runners: []muster.PlanRunner{
		{State: muster.RunnerActive, Busy: true}, {State: muster.RunnerRegistered}, {State: muster.RunnerProvisioning}, {State: muster.RunnerDraining, Busy: true}, {State: muster.RunnerActive},
	}}
	c := capacityOf(s)
	if c.Busy != 2 || c.Idle != 1 || c.Starting != 1 || c.Leaving != 1 || c.MinX != 200 || c.MaxX != 800 {
		t.Errorf("%+v", c)
	}
}

func TestCachedAsksOnce(t *testing.T) {
	var c cached[int]
	now := time.Date(2026, 5, 6, 12, 0, 0, 0, time.UTC)
	asked := 0
	ask := func() (int, error) { asked++; return asked, nil }
	for _, at := range []time.Time{now, now.Add(time.Second), now.Add(6 * time.Second)} {
		if _, err := c.get(at, 5*time.Second, ask); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	if _, err := new(cached[int]).get(now, time.Second, func() (int, error) { return 0, muster.Errorf(muster.CodeUnavailable, "no") }); err == nil {
		t.Error("an error was swallowed")
	}
}
