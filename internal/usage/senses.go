package usage

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// DefaultSenseGrace is how long after an event a sense may tell of it before it
// counts as missed.
const DefaultSenseGrace = 5 * time.Minute

// SenseWeek is what one sense told, and did not tell, of the jobs that were first
// heard of in one week (Monday to Sunday, UTC).
//
// The unit is the event: that one attempt of a job was queued, started or
// completed. What no sense told is not known and counts nowhere. An event's time
// is GitHub's; for the end of an approval, which has none, it is the first word
// of any sense.
//
// A sense should have told an event if it has told anything in the whole report
// for the job's App (webhook) or pool (poll, scale set). Two of them owe less: a
// poll only owes states that lasted as long as the grace, since shorter ones may
// pass between two looks, and no completions; redelivery owes what the webhook
// missed. A sense that tells later than the grace has missed the event; so have
// those that never told. An event younger than the grace is not judged yet.
type SenseWeek struct {
	// Week is the Monday.
	Week  time.Time
	Sense muster.Sense
	// Jobs are the jobs of which the sense should have told something, First those
	// that it was the first to tell of, Missed those of which it missed an event.
	Jobs, First, Missed int
	// Events and Lost are the events that it should have told and those that it missed.
	Events, Lost int
	// Repaired are the lost events that another sense brought; RepairP50 and
	// RepairP95 are how long after the event the first of the others did.
	Repaired             int
	RepairP50, RepairP95 time.Duration
}

// LossRate is Lost of Events: for the webhook, the measured rate of lost webhooks.
func (w SenseWeek) LossRate() float64 {
	if w.Events == 0 {
		return 0
	}
	return float64(w.Lost) / float64(w.Events)
}

// senseOrder is the order of senses in a week.
var senseOrder = []muster.Sense{muster.SenseWebhook, muster.SenseRedelivery, muster.SensePoll, muster.SenseScaleSet}

// Senses reports how well every sense told of the jobs, the latest week first.
// A grace of 0 is DefaultSenseGrace.
func Senses(jobs []muster.SensedJob, grace time.Duration, now time.Time) []SenseWeek {
	if grace <= 0 {
		grace = DefaultSenseGrace
	}
	hooked := map[string]bool{}     // Apps with a webhook
	polled := map[string]bool{}     // pools that are polled
	assigned := map[string]bool{}   // pools with a scale set
	redelivers := map[string]bool{} // Apps whose lost webhooks are asked for
	for _, j := range jobs {
		for _, s := range j.Sightings {
			switch s.Sense {
			case muster.SenseWebhook:
				hooked[j.App] = true
			case muster.SenseRedelivery: // it proves that there is a webhook, too
				hooked[j.App], redelivers[j.App] = true, true
			case muster.SensePoll:
				polled[j.Pool] = true
			case muster.SenseScaleSet:
				assigned[j.Pool] = true
			}
		}
	}
	type key struct {
		week  time.Time
		sense muster.Sense
	}
	type sum struct {
		SenseWeek
		repairs []time.Duration
	}
	sums := map[key]*sum{}
	at := func(j muster.SensedJob, s muster.Sense) *sum {
		k := key{weekOf(j.SeenAt), s}
		if sums[k] == nil {
			sums[k] = &sum{SenseWeek: SenseWeek{Week: k.week, Sense: s}}
		}
		return sums[k]
	}
	for _, j := range jobs {
		if first, ok := firstSense(j.Sightings); ok {
			at(j, first).First++
		}
		events := eventsOf(j, now)
		for _, sense := range senseOrder {
			owed, missed := 0, 0
			for _, e := range events {
				if now.Sub(e.at) <= grace {
					continue
				}
				lostHook := hooked[j.App] && e.missedBy(muster.SenseWebhook, grace)
				owes := false
				switch sense {
				case muster.SenseWebhook:
					owes = hooked[j.App]
				case muster.SenseRedelivery:
					owes = redelivers[j.App] && lostHook
				case muster.SensePoll:
					owes = polled[j.Pool] && e.state != muster.JobCompleted && e.lasted > grace
				case muster.SenseScaleSet:
					owes = assigned[j.Pool]
				}
				if !owes {
					continue
				}
				owed++
				if !e.missedBy(sense, grace) {
					continue
				}
				missed++
				if d, ok := e.repair(sense); ok {
					s := at(j, sense)
					s.Repaired++
					s.repairs = append(s.repairs, d)
				}
			}
			if owed == 0 {
				continue
			}
			s := at(j, sense)
			s.Jobs++
			s.Events += owed
			s.Lost += missed
			if missed > 0 {
				s.Missed++
			}
		}
	}
	out := make([]SenseWeek, 0, len(sums))
	for _, s := range sums {
		s.RepairP50, s.RepairP95 = Percentile(s.repairs, 50), Percentile(s.repairs, 95)
		out = append(out, s.SenseWeek)
	}
	slices.SortFunc(out, func(a, b SenseWeek) int {
		return cmp.Or(b.Week.Compare(a.Week), cmp.Compare(slices.Index(senseOrder, a.Sense), slices.Index(senseOrder, b.Sense)))
	})
	return out
}

// event is that a job entered a state.
type event struct {
	state  muster.JobState
	at     time.Time
	lasted time.Duration
	told   map[muster.Sense]time.Time
}

// missedBy reports whether the sense told of the event too late or never.
func (e event) missedBy(s muster.Sense, grace time.Duration) bool {
	told, ok := e.told[s]
	return !ok || told.Sub(e.at) > grace
}

// repair is how long after the event the first sense other than s told of it.
func (e event) repair(s muster.Sense) (d time.Duration, ok bool) {
	for other, told := range e.told {
		if other != s && (!ok || told.Sub(e.at) < d) {
			d, ok = told.Sub(e.at), true
		}
	}
	return max(0, d), ok
}

// eventsOf are the events of a job that any sense told, in their order.
func eventsOf(j muster.SensedJob, now time.Time) []event {
	byState := map[muster.JobState]*event{}
	for _, s := range j.Sightings {
		if s.State != muster.JobQueued && s.State != muster.JobInProgress && s.State != muster.JobCompleted {
			continue // the wait for an approval concerns nobody
		}
		e := byState[s.State]
		if e == nil {
			e = &event{state: s.State, at: s.At, told: map[muster.Sense]time.Time{}}
			byState[s.State] = e
		}
		if s.At.Before(e.at) {
			e.at = s.At
		}
		if t, ok := e.told[s.Sense]; !ok || s.At.Before(t) {
			e.told[s.Sense] = s.At
		}
	}
	known := map[muster.JobState]time.Time{muster.JobQueued: j.QueuedAt, muster.JobInProgress: j.StartedAt, muster.JobCompleted: j.CompletedAt}
	events := slices.Collect(maps.Values(byState))
	out := make([]event, 0, len(events))
	for _, e := range events {
		if t := known[e.state]; !t.IsZero() {
			e.at = t
		}
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b event) int { return cmp.Compare(a.state.Rank(), b.state.Rank()) })
	for i := range out {
		end := now
		for _, t := range []time.Time{j.CompletedAt, j.StartedAt} {
			if t.After(out[i].at) {
				end = t // the last to be looked at is the nearest
			}
		}
		out[i].lasted = end.Sub(out[i].at)
	}
	return out
}

// firstSense is the sense that told of the job before all others.
func firstSense(seen []muster.Sighting) (s muster.Sense, ok bool) {
	var at time.Time
	for _, v := range seen {
		if !ok || v.At.Before(at) {
			s, at, ok = v.Sense, v.At, true
		}
	}
	return s, ok
}

// weekOf is the Monday of a time's week.
func weekOf(t time.Time) time.Time {
	day := t.UTC().Truncate(24 * time.Hour)
	return day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
}
