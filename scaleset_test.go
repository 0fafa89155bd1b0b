package muster_test

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"pgregory.net/rapid"
)

func TestUnnamed(t *testing.T) { // 4-3 4-27
	for what, test := range map[string]struct {
		stats  muster.ScaleSetStatistics
		count  muster.ScaleSetCount
		queued int
		want   int
	}{
		"Nothing":                 {},
		"ByNumberOnly":            {stats: muster.ScaleSetStatistics{Assigned: 3, Running: 1}, want: 2},
		"AllNamed":                {stats: muster.ScaleSetStatistics{Assigned: 3, Running: 1}, count: muster.ScaleSetCount{Waiting: 2, Running: 1}, queued: 2},
		"NumbersBehind":           {count: muster.ScaleSetCount{Waiting: 2}, want: 2}, // ARC issue 3204
		"NumbersBehindAndNamed":   {count: muster.ScaleSetCount{Waiting: 2}, queued: 2},
		"MessagesBehind":          {stats: muster.ScaleSetStatistics{Assigned: 4}, count: muster.ScaleSetCount{Waiting: 1}, queued: 1, want: 3},
		"StartedSaysTheWebhook":   {stats: muster.ScaleSetStatistics{Assigned: 2}, count: muster.ScaleSetCount{Waiting: 2, Ahead: 1}, queued: 1},
		"StartedSaysTheMessage":   {stats: muster.ScaleSetStatistics{Assigned: 2}, count: muster.ScaleSetCount{Waiting: 1, Running: 1}, queued: 1},
		"OverSaysTheWebhook":      {stats: muster.ScaleSetStatistics{Assigned: 2, Running: 1}, count: muster.ScaleSetCount{Waiting: 1, OverRunning: 1}, queued: 1},
		"OverAndAnotherWaits":     {stats: muster.ScaleSetStatistics{Assigned: 2, Running: 1}, count: muster.ScaleSetCount{Waiting: 1, OverRunning: 1}, want: 1},
		"CanceledAndAnotherWaits": {stats: muster.ScaleSetStatistics{Assigned: 2}, count: muster.ScaleSetCount{Waiting: 1, OverWaiting: 1}, want: 1},
		"MoreQueuedThanAssigned":  {stats: muster.ScaleSetStatistics{Assigned: 1}, queued: 9},
	} {
		if got := test.stats.Unnamed(test.count, test.queued); got != test.want {
			t.Errorf("%s: %d, want %d", what, got, test.want)
		}
	}
}

// Whatever the order and the number of messages, an assignment ends in the same
// state with the same facts.
func TestScaleSetJobApply(t *testing.T) { // 4-4
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	base := muster.ScaleSetJob{ID: "a", State: muster.ScaleSetJobAssigned, Repository: "o/r", RunID: 7, Name: "build"}
	started, completed := base, base
	started.State, started.RunnerID, started.RunnerName, started.StartedAt = muster.ScaleSetJobStarted, 5, "r", at
	completed.State, completed.RunnerID, completed.RunnerName, completed.StartedAt, completed.CompletedAt, completed.Result = muster.ScaleSetJobCompleted, 5, "r", at, at.Add(time.Minute), "succeeded"
	rapid.Check(t, func(t *rapid.T) {
		order := rapid.Permutation([]muster.ScaleSetJob{base, started, completed, base, started, completed}).Draw(t, "order")
		var j muster.ScaleSetJob
		for _, news := range order {
			rank := j.State.Rank()
			after, changed := j.Apply(news, at)
			if after.State.Rank() < rank || !changed && after.State != j.State {
				t.Fatalf("from %s to %s, changed %t", j.State, after.State, changed)
			}
			j = after
		}
		if _, changed := j.Apply(completed, at.Add(time.Hour)); changed || j.State != muster.ScaleSetJobCompleted || j.Result != "succeeded" || j.RunnerName != "r" || j.Open() {
			t.Fatalf("%+v", j)
		}
	})
}

func TestValidScaleSetName(t *testing.T) {
	for name, want := range map[string]bool{"linux-set": true, "a.b_C9": true, "": false, "a b": false, "a&b=c": false, "ä": false, "a\n": false, string(make([]byte, 65)): false} {
		if muster.ValidScaleSetName(name) != want {
			t.Errorf("%q", name)
		}
	}
}
