package schedule_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/schedule"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCheck(t *testing.T) {
	for _, good := range []struct{ cron, zone string }{
		{"0 8 * * MON-FRI", ""}, {"*/15 0-6,22-23 1,15 jan-jun *", "Europe/Berlin"}, {" 0 0 29 2 * ", "UTC"}, {"0 0 * * sun", "America/Argentina/Buenos_Aires"},
	} {
		if err := schedule.Check(good.cron, good.zone); err != nil {
			t.Errorf("%q in %q: %v", good.cron, good.zone, err)
		}
	}
	for _, bad := range []struct {
		cron, zone string
		words      []string
	}{
		{"", "", []string{"empty", "0 8 * * MON-FRI"}},
		{"0 8 * *", "", []string{`"0 8 * *" cannot be read`, "minute, hour, day, month and weekday"}},
		{"0 0 8 * * *", "", []string{"cannot be read"}},
		{"60 8 * * *", "", []string{"cannot be read", "60"}},
		{"0 8 * * MON-FRY", "", []string{"cannot be read"}},
		{"*/0 * * * *", "", []string{"cannot be read"}},
		{"@every 5m", "", []string{"is a name"}},
		{"@daily", "", []string{"is a name"}},
		{"TZ=UTC", "", []string{"time_zone"}},
		{"CRON_TZ=Europe/Berlin 0 8 * * *", "", []string{"time_zone"}},
		{"0 0 30 2 *", "", []string{"never fires"}},
		{"0 8 * * *", "Europe/Bärlin", []string{"unknown", "IANA"}},
		{"0 8 * * *", "Local", []string{"unknown"}},
		{"0 8 * * *", "../../etc/passwd", []string{"unknown"}},
		{"x", "CEST+2", []string{`"x" cannot be read`, `"CEST+2" is unknown`}},
	} {
		err := schedule.Check(bad.cron, bad.zone)
		if err == nil {
			t.Errorf("%q in %q is taken", bad.cron, bad.zone)
			continue
		}
		if muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%q in %q: class %s", bad.cron, bad.zone, muster.CodeOf(err))
		}
		for _, w := range bad.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q in %q: %q lacks %q", bad.cron, bad.zone, err, w)
			}
		}
	}
}

// Windows of one schedule at one time, as "from…until" in UTC.
func TestWindows(t *testing.T) {
	for name, c := range map[string]struct {
		cron, zone string
		hold       time.Duration
		now        string
		want       string
	}{
		"Closed":       {"0 8 * * *", "", time.Hour, "2026-03-04T07:59:59Z", "08:00…09:00"},
		"Opens":        {"0 8 * * *", "", time.Hour, "2026-03-04T08:00:00Z", "08:00…09:00 05T08:00…05T09:00"},
		"StillOpen":    {"0 8 * * *", "", time.Hour, "2026-03-04T08:59:59Z", "08:00…09:00 05T08:00…05T09:00"},
		"Over":         {"0 8 * * *", "", time.Hour, "2026-03-04T09:00:00Z", "05T08:00…05T09:00"},
		"OverMidnight": {"0 22 * * *", "", 10 * time.Hour, "2026-03-04T03:00:00Z", "03T22:00…08:00 22:00…05T08:00"},
		"Weekend":      {"0 8 * * MON-FRI", "", 9 * time.Hour, "2026-03-06T20:00:00Z", "09T08:00…09T17:00"}, // the 6th is a Friday
		// Firings that overlap count as the latest of them.
		"Overlapping": {"0 * * * *", "", 3 * time.Hour, "2026-03-04T12:30:00Z", "12:00…15:00 13:00…16:00"},
		"EveryMinute": {"* * * * *", "", 240 * time.Hour, "2026-03-04T12:30:30Z", "12:30…14T12:30 12:31…14T12:31"},
		"Zone":        {"0 8 * * *", "Asia/Kolkata", time.Hour, "2026-03-04T03:00:00Z", "02:30…03:30 05T02:30…05T03:30"},
		// Berlin, 29 March 2026: 02:00 becomes 03:00.
		"SkippedHourFiresAtTheChange": {"30 2 * * *", "Europe/Berlin", time.Hour, "2026-03-29T01:30:00Z", "29T01:00…29T02:00 30T00:30…30T01:30"},
		"BeforeTheSkippedHour":        {"30 2 * * *", "Europe/Berlin", time.Hour, "2026-03-29T00:59:59Z", "29T01:00…29T02:00"},
		"MorningOfTheSkippedHour":     {"0 8 * * *", "Europe/Berlin", time.Hour, "2026-03-28T12:00:00Z", "29T06:00…29T07:00"},
		"HourlyOverTheSkippedHour":    {"0 * * * *", "Europe/Berlin", time.Hour, "2026-03-29T00:30:00Z", "29T00:00…29T01:00 29T01:00…29T02:00"},
		// Elapsed time, not the clock's: ten hours from 22:00 end at 09:00.
		"NightOfTheSkippedHour": {"0 22 * * *", "Europe/Berlin", 10 * time.Hour, "2026-03-29T05:00:00Z", "28T21:00…29T07:00 29T20:00…30T06:00"},
		// Berlin, 25 October 2026: 03:00 becomes 02:00, so 02:30 comes twice.
		"RepeatedHourFirst":         {"30 2 * * *", "Europe/Berlin", time.Hour, "2026-10-25T00:30:00Z", "25T00:30…25T01:30 25T01:30…25T02:30"},
		"RepeatedHourSecond":        {"30 2 * * *", "Europe/Berlin", time.Hour, "2026-10-25T01:30:00Z", "25T01:30…25T02:30 26T01:30…26T02:30"},
		"HourlyInTheRepeatedHour":   {"0 * * * *", "Europe/Berlin", time.Hour, "2026-10-25T00:59:00Z", "25T00:00…25T01:00 25T01:00…25T02:00"},
		"EarlierInTheRepeatedHour":  {"10 2 * * *", "Europe/Berlin", time.Minute, "2026-10-25T00:30:00Z", "25T01:10…25T01:11"},
		"MorningOfTheRepeatedHour":  {"0 8 * * *", "Europe/Berlin", time.Hour, "2026-10-24T12:00:00Z", "25T07:00…25T08:00"},
		"MidnightThatDoesNotExist":  {"0 0 * * FRI", "Africa/Cairo", time.Hour, "2026-04-23T12:00:00Z", "23T22:00…23T23:00"}, // Friday, 24 April 2026: 00:00 becomes 01:00
		"DayWithoutAMidnight":       {"0 8 * * FRI", "Africa/Cairo", time.Hour, "2026-04-23T12:00:00Z", "24T05:00…24T06:00"},
		"HalfAnHourOfDaylightSaved": {"15 2 * * *", "Australia/Lord_Howe", time.Hour, "2026-10-03T12:00:00Z", "03T15:30…03T16:30"}, // 4 October 2026: 02:00 becomes 02:30
	} {
		t.Run(name, func(t *testing.T) {
			now := at(t, c.now)
			windows, err := schedule.Windows([]muster.Schedule{{Cron: c.cron, TimeZone: c.zone, For: c.hold}}, now)
			if err != nil {
				t.Fatal(err)
			}
			short := func(v time.Time) string {
				if v.Location() != time.UTC {
					t.Errorf("%s is not in UTC", v)
				}
				s := v.Format("02T15:04")
				if !strings.Contains(c.want, "29T") && !strings.Contains(c.want, "25T") {
					s = strings.TrimPrefix(s, "04T")
				}
				return s
			}
			var got []string
			for _, w := range windows {
				got = append(got, short(w.From)+"…"+short(w.Until))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
}

// Limits go with their windows, in the order of the schedules, and one that cannot
// be read does not take the others with it.
func TestWindowsOfSeveral(t *testing.T) {
	five, ten := 5, 10
	now := at(t, "2026-03-04T08:30:00Z")
	windows, err := schedule.Windows([]muster.Schedule{
		{Cron: "0 8 * * *", For: time.Hour, MinRunners: &five},
		{Cron: "nonsense", For: time.Hour},
		{Cron: "0 9 * * *", For: time.Hour, MaxRunners: &ten},
	}, now)
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
	if len(windows) != 3 || windows[0].MinRunners != &five || windows[1].MinRunners != &five || windows[2].MaxRunners != &ten {
		t.Errorf("windows %+v", windows)
	}
	if windows, err := schedule.Windows(nil, now); windows != nil || err != nil {
		t.Errorf("no schedules: %v, %v", windows, err)
	}
}

// Whatever the expression, zone and time: what is open holds now, what comes next
// comes later, and at the moment at which it comes it is open.
func TestWindowsAgreeWithThemselves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := muster.Schedule{
			Cron:     rapid.SampledFrom([]string{"* * * * *", "0 * * * *", "30 2 * * *", "15 1,3 * * *", "0 0 * * *", "0 8 * * FRI", "*/7 2 1-7 * *", "0 0 29 2 *"}).Draw(t, "cron"),
			TimeZone: rapid.SampledFrom([]string{"", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago", "Pacific/Apia"}).Draw(t, "zone"),
			For:      time.Duration(rapid.IntRange(1, 3*24*60).Draw(t, "for")) * time.Minute,
		}
		now := time.Unix(rapid.Int64Range(1.2e9, 1.9e9).Draw(t, "now"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanos"))
		windows, err := schedule.Windows([]muster.Schedule{s}, now)
		if err != nil || len(windows) == 0 {
			t.Fatalf("%+v at %s: %v, %v", s, now, windows, err)
		}
		next := windows[len(windows)-1]
		if !next.From.After(now) || next.Until.Sub(next.From) != s.For {
			t.Fatalf("next %+v at %s", next, now)
		}
		if len(windows) == 2 && (windows[0].From.After(now) || !windows[0].Until.After(now)) {
			t.Fatalf("open %+v at %s", windows[0], now)
		}
		then, err := schedule.Windows([]muster.Schedule{s}, next.From)
		if err != nil || len(then) != 2 || !then[0].From.Equal(next.From) {
			t.Fatalf("at %s, when %+v was to open: %+v, %v", next.From, next, then, err)
		}
		before, err := schedule.Windows([]muster.Schedule{s}, next.From.Add(-1))
		if err != nil || !before[len(before)-1].From.Equal(next.From) {
			t.Fatalf("just before: %+v, %v", before, err)
		}
	})
}

// Nothing that stands in a configuration makes the parser of cron fall over.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{"0 8 * * MON-FRI", "TZ=", "@every", "*/5/5 1-2-3 ,, ? *", "0-99999999999999999999 * * * *", "* * * * * *"} {
		f.Add(s, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, cron, zone string) {
		if schedule.Check(cron, zone) != nil {
			return
		}
		now := time.Unix(1_770_000_000, 0)
		if w, err := schedule.Windows([]muster.Schedule{{Cron: cron, TimeZone: zone, For: time.Hour}}, now); err != nil || len(w) == 0 {
			t.Errorf("%q in %q passed the check and has no window: %v, %v", cron, zone, w, err)
		}
	})
}
