package usage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

// A known history of sightings gives known losses: what each sense told first,
// missed, and how soon another brought it.
func TestSenses(t *testing.T) {
	monday := time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return monday.Add(d) }
	now := at(6 * 24 * time.Hour)
	see := func(s muster.Sense, state muster.JobState, after time.Duration) muster.Sighting {
		return muster.Sighting{Sense: s, State: state, At: at(after)}
	}
	// job was queued at the given hour, started a minute later and ran for two.
	job := func(id int64, hours int, seen ...muster.Sighting) muster.SensedJob {
		h := time.Duration(hours) * time.Hour
		seen = slices.Clone(seen) // cases share them
		for i := range seen {
			seen[i].At = seen[i].At.Add(h)
		}
		return muster.SensedJob{Key: muster.JobKey{ID: id, Attempt: 1}, App: "main", Pool: "linux", SeenAt: at(h + time.Second), QueuedAt: at(h), StartedAt: at(h + time.Minute), CompletedAt: at(h + 3*time.Minute), Sightings: seen}
	}
	const (
		hook, again, poll, set  = muster.SenseWebhook, muster.SenseRedelivery, muster.SensePoll, muster.SenseScaleSet
		queued, running, ended  = muster.JobQueued, muster.JobInProgress, muster.JobCompleted
		second, minute          = time.Second, time.Minute
		late                    = 7 * time.Minute
		withinGrace             = 4 * time.Minute
		runningTold, endingTold = minute + second, 3*minute + second
	)
	all := []muster.Sighting{see(hook, queued, second), see(hook, running, runningTold), see(hook, ended, endingTold)}
	for _, tc := range []struct {
		name string
		jobs []muster.SensedJob
		want []usage.SenseWeek
	}{
		{"Nothing", nil, []usage.SenseWeek{}},
		{"Perfect", []muster.SensedJob{job(1, 1, all...)}, []usage.SenseWeek{{Week: monday, Sense: hook, Jobs: 1, First: 1, Events: 3}}},
		{"LostAndRedelivered", []muster.SensedJob{job(1, 1, all...), job(2, 2, see(again, queued, 130*second), see(hook, running, runningTold+2*minute), see(hook, ended, endingTold))}, []usage.SenseWeek{
			{Week: monday, Sense: hook, Jobs: 2, First: 1, Missed: 1, Events: 6, Lost: 1, Repaired: 1, RepairP50: 130 * second, RepairP95: 130 * second},
			{Week: monday, Sense: again, Jobs: 1, First: 1, Events: 1}}},
		{"LateIsLost", []muster.SensedJob{job(1, 1, see(hook, queued, late), see(hook, running, withinGrace), see(hook, ended, endingTold))}, []usage.SenseWeek{
			{Week: monday, Sense: hook, Jobs: 1, First: 1, Missed: 1, Events: 3, Lost: 1}}},
		{"ShortStatesPassBetweenPolls", []muster.SensedJob{job(1, 1, append(all, see(poll, queued, 30*second))...), job(2, 2, all...)}, []usage.SenseWeek{
			{Week: monday, Sense: hook, Jobs: 2, First: 2, Events: 6}}},
		{"ScaleSetOfThePool", []muster.SensedJob{job(1, 1, see(set, queued, second), see(set, running, runningTold), see(set, ended, endingTold)), job(2, 2, see(set, queued, 2*second), see(set, ended, endingTold), see(poll, running, runningTold+minute))}, []usage.SenseWeek{
			{Week: monday, Sense: set, Jobs: 2, First: 2, Missed: 1, Events: 6, Lost: 1, Repaired: 1, RepairP50: minute + second, RepairP95: minute + second}}},
		{"ByWeek", []muster.SensedJob{job(1, -1, all...), job(2, 1, all...)}, []usage.SenseWeek{
			{Week: monday, Sense: hook, Jobs: 1, First: 1, Events: 3}, {Week: monday.AddDate(0, 0, -7), Sense: hook, Jobs: 1, First: 1, Events: 3}}},
		{"TooYoungToJudge", []muster.SensedJob{job(1, 1, all...), {Key: muster.JobKey{ID: 2}, App: "main", Pool: "linux", SeenAt: now, QueuedAt: now.Add(-minute), Sightings: []muster.Sighting{{Sense: poll, State: queued, At: now}}}}, []usage.SenseWeek{
			{Week: monday, Sense: hook, Jobs: 1, First: 1, Events: 3}, {Week: monday, Sense: poll, First: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, usage.Senses(tc.jobs, 0, now)); d != "" {
				t.Error(d)
			}
		})
	}
	// A long wait that no poll ever saw is the poll's fault.
	waits := job(1, 1, see(hook, queued, second))
	waits.StartedAt, waits.CompletedAt = time.Time{}, time.Time{}
	got := usage.Senses([]muster.SensedJob{waits, job(2, 3, see(poll, queued, 30*second))}, 0, now)
	want := usage.SenseWeek{Week: monday, Sense: poll, Jobs: 1, First: 1, Missed: 1, Events: 1, Lost: 1, Repaired: 1, RepairP50: second, RepairP95: second}
	if d := cmp.Diff(want, got[len(got)-1]); d != "" {
		t.Error(d)
	}
	if rate := (usage.SenseWeek{Events: 8, Lost: 2}).LossRate(); rate != .25 {
		t.Errorf("loss rate %v", rate)
	}
}
