package muster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

func TestTraceID(t *testing.T) {
	for _, id := range []muster.TraceID{{Runner: "r-abcdefghijklmnop", Number: 1}, {Runner: "r-abcdefghijklmnop", Number: 12}} {
		if got, err := muster.ParseTraceID(id.String()); err != nil || got != id {
			t.Errorf("%s was read as %v: %v", id, got, err)
		}
	}
	for _, text := range []string{"", "7", "r-abcdefghijklmnop.", "r-abcdefghijklmnop.0", "r-abcdefghijklmnop.-1", "r-abcdefghijklmnop.x", "x.1", "R.1"} {
		if id, err := muster.ParseTraceID(text); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%q was read as %v: %v", text, id, err)
		}
	}
}

// Every job that ran has a trace or a reason. 4-45
func TestUntraced(t *testing.T) {
	pool := muster.Pool{Name: "linux"}.WithDefaults()
	off, kept := pool, pool
	off.Trace.Off, kept.Lifecycle = true, muster.LifecycleKept
	ran := muster.Job{State: muster.JobCompleted, RunnerName: "linux-1", Runner: "r-abcdefghijklmnop", StartedAt: time.Unix(1, 0)}
	foreign, runs, never, waits := ran, ran, ran, ran
	foreign.Runner, foreign.RunnerName = "", "theirs"
	runs.State = muster.JobInProgress
	never.Runner, never.RunnerName, never.StartedAt = "", "", time.Time{}
	waits.State = muster.JobQueued
	for _, c := range []struct {
		name string
		job  muster.Job
		pool *muster.Pool
		want string
	}{
		{"SilentAgent", ran, &pool, "not recorded, because its agent delivered nothing"},
		{"PoolIsHistory", ran, nil, "muster runner log r-abcdefghijklmnop"},
		{"Off", ran, &off, "pool linux does not record its jobs"},
		{"OffAndRuns", runs, &off, "pool linux does not record its jobs"},
		{"Runs", runs, &pool, "not delivered anything yet"},
		{"Foreign", foreign, &pool, "it ran on theirs, which is no runner of Muster's"},
		{"Kept", foreign, &kept, "a kept machine starts its runner by itself"},
		{"NeverRan", never, &kept, "it never ran on a runner"},
	} {
		if got := muster.Untraced(c.job, c.pool); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := muster.Untraced(waits, &pool); got != "" {
		t.Errorf("a job that waits: %q", got)
	}
}
