package schedule

import (
	"errors"
	"strings"
	"time"
	_ "time/tzdata" // a machine without zone files has the same zones

	"github.com/robfig/cron/v3"

	"github.com/muster-ci/muster"
)

// fields is cron's own set of five, without seconds, @daily or @every: what
// fires "every 90 minutes since the start" cannot be replayed.
var fields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// Check returns a CodeInvalid error with the remedy for an expression that cannot
// be read or never fires, and for an unknown time zone ("" is UTC); both joined
// if both are wrong.
func Check(expression, timeZone string) error {
	_, err := parse(expression, timeZone)
	return err
}

// Windows returns, for each schedule in its order, the window that is open at now,
// if there is one, and the one that opens next. A window is open from a firing
// until For has passed, in elapsed time and not by the clock on the wall. Where
// firings follow each other sooner than that, the latest counts: those before it
// set the same limits and end earlier. The error joins those of Check; the
// windows of the schedules that could be read are returned with it.
//
// On a day on which clocks are put forward, a firing in the hour that is left
// out happens at the moment of the change; when they are put back, one in the
// hour that comes twice happens twice.
func Windows(schedules []muster.Schedule, now time.Time) ([]muster.Window, error) {
	var out []muster.Window
	var errs []error
	for _, s := range schedules {
		t, err := parse(s.Cron, s.TimeZone)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		window := func(from time.Time) {
			if !from.IsZero() {
				out = append(out, muster.Window{From: from.UTC(), Until: from.Add(s.For).UTC(), MinRunners: s.MinRunners, MaxRunners: s.MaxRunners})
			}
		}
		window(t.last(now, s.For))
		window(t.next(now))
	}
	return out, errors.Join(errs...)
}

// table is a cron expression in a time zone.
type table struct {
	spec *cron.SpecSchedule
	loc  *time.Location
}

func parse(expression, timeZone string) (t table, err error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, muster.Errorf(muster.CodeInvalid, format, args...))
	}
	switch expression = strings.TrimSpace(expression); {
	case expression == "":
		bad(`the cron expression is empty: write minute, hour, day, month and weekday, such as "0 8 * * MON-FRI"`)
	case strings.HasPrefix(expression, "@"):
		bad(`cron %q is a name: write minute, hour, day, month and weekday, such as "0 8 * * MON-FRI"`, expression)
	case strings.Contains(expression, "="): // the library would take TZ=… and stumble over some
		bad("cron %q sets a variable: write the five fields only and the zone in time_zone", expression)
	default:
		s, err := fields.Parse(expression)
		spec, ok := s.(*cron.SpecSchedule)
		if err != nil || !ok {
			bad(`cron %q cannot be read (%v): write minute, hour, day, month and weekday, such as "0 8 * * MON-FRI"`, expression, err)
			break
		}
		t.spec = spec
		if spec.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() { // a leap year, for the 29th of February
			bad("cron %q never fires: no month has such a day", expression)
		}
	}
	if t.loc, err = time.LoadLocation(timeZone); err != nil || strings.EqualFold(timeZone, "local") {
		bad("time zone %q is unknown: use a name of the IANA database, such as Europe/Berlin or UTC", timeZone)
	}
	return t, errors.Join(errs...)
}

// next is the first firing after t, zero if there is none within five years. The
// library is asked within stretches of one offset from UTC only, since it skips
// firings, and some whole days, around changes of the offset.
func (t table) next(after time.Time) time.Time {
	for at := after.In(t.loc); ; {
		_, offset := at.Zone()
		_, end := at.ZoneBounds()
		firing := t.spec.Next(after.In(time.FixedZone("", offset)))
		if firing.IsZero() || end.IsZero() || firing.Before(end) {
			return firing
		}
		if _, then := end.Zone(); firing.Before(end.Add(time.Duration(then-offset) * time.Second)) {
			return end // its time of day is left out
		}
		at, after = end, end.Add(-time.Second)
	}
}

// last is the latest firing of those that are at most back before now, zero if
// there is none. Cron runs forwards only, so it looks ever further back.
func (t table) last(now time.Time, back time.Duration) (firing time.Time) {
	for step := time.Minute; back > 0; step *= 2 {
		step = min(step, back)
		for f := t.next(now.Add(-step)); !f.IsZero() && !f.After(now); f = t.next(f) {
			firing = f
		}
		if !firing.IsZero() || step == back {
			break
		}
	}
	return firing
}
