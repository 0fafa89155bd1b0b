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

// What is lost after the end of a trace makes its state worse, once, and put back it is what
// it was. C24
func TestTraceDamage(t *testing.T) {
	now := time.Date(2026, 11, 21, 18, 30, 0, 0, time.UTC)
	whole := muster.Trace{State: muster.TraceComplete, Segments: 5, Events: 70, ExpiresAt: now.Add(time.Hour)}
	cut := whole
	cut.State, cut.Reason = muster.TraceTruncated, "it was not sealed"
	for name, c := range map[string]struct {
		trace  muster.Trace
		n      int
		gone   bool
		empty  bool
		state  muster.TraceState
		reason string
	}{
		"Missing":   {whole, 3, true, false, muster.TraceTruncated, "segment 3 of 5 is missing in the archive, found on 2026-11-21 at 18:30 UTC"},
		"Changed":   {whole, 5, false, false, muster.TraceTruncated, "segment 5 of 5 was changed in the archive, found on 2026-11-21 at 18:30 UTC"},
		"All":       {whole, 1, true, true, muster.TraceLost, "segment 1 of 5 is missing in the archive, found on 2026-11-21 at 18:30 UTC"},
		"Truncated": {cut, 2, true, false, muster.TraceTruncated, "segment 2 of 5 is missing in the archive, found on 2026-11-21 at 18:30 UTC; before: it was not sealed"},
	} {
		got := c.trace.Damaged(c.n, c.gone, c.empty, now)
		if got.State != c.state || got.Reason != c.reason || got.Segments != 5 || got.Events != 70 {
			t.Errorf("%s: %+v", name, got)
		}
		if again := got.Damaged(c.n, c.gone, c.empty, now.Add(time.Minute)); again.Damage != got.Damage || again.Reason != got.Reason {
			t.Errorf("%s: found twice: %+v", name, again)
		}
		worse := got.Damaged(1, true, true, now.Add(time.Minute))
		if mended := worse.Mended(); worse.State != muster.TraceLost || mended.State != c.trace.State || mended.Reason != c.trace.Reason || mended.Damage != (muster.TraceDamage{}) {
			t.Errorf("%s: %+v, put back %+v", name, worse, mended)
		}
	}
	recording, expired, deleted, absent, lost := whole, whole, whole, whole, whole
	recording.State, absent.State, lost.State = muster.TraceRecording, muster.TraceAbsent, muster.TraceLost
	expired.ExpiresAt, deleted.DeletedAt = now, now
	for name, tr := range map[string]muster.Trace{"recording": recording, "expired": expired, "deleted": deleted, "absent": absent, "lost": lost} {
		if got := tr.Damaged(1, true, true, now); got.State != tr.State || got.Damage != (muster.TraceDamage{}) || got.Reason != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, n := range []int{0, 6} {
		if got := whole.Damaged(n, true, false, now); got.State != muster.TraceComplete {
			t.Errorf("segment %d: %+v", n, got)
		}
	}
	if got := cut.Mended(); got.Reason != cut.Reason {
		t.Errorf("%+v", got)
	}
}
