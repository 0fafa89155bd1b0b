package lifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

var keptNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func minutes(n float64) time.Time { return keptNow.Add(time.Duration(n * float64(time.Minute))) }

var keptDefaults = keptLimits{
	Inactive: 3 * time.Minute, Boot: 5 * time.Minute, Recheck: time.Minute, Rotation: 24 * time.Hour, MaxAge: muster.DefaultMaxAge,
}

// keptPools are a machine's pools, one per repository.
func keptPools(names ...string) (d muster.MachineDemand) {
	for _, n := range names {
		d.Pools = append(d.Pools, muster.Pool{
			Name: n, App: "app", Provider: "cloud", Zone: "z", Machine: "vm", Lifecycle: muster.LifecycleKept, Enabled: true,
			Registration: muster.RegistrationPreregistered, Labels: muster.Labels{"self-hosted"},
			Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "octo", Repo: n},
		}.WithDefaults())
	}
	return d
}

func waiting(pool string, labels ...string) muster.Job {
	return muster.Job{Key: muster.JobKey{ID: 7, Attempt: 1}, Pool: pool, Repository: "octo/" + pool, State: muster.JobQueued, Labels: labels, SeenAt: minutes(-1)}
}

// up is a machine that came up an hour ago and was seen running just now; its last
// job ended at done.
func up(done time.Time) muster.Machine {
	return muster.Machine{Status: muster.MachineRunning, StatusAt: keptNow, UpAt: minutes(-60), DoneAt: done, AskedAt: minutes(-2)}
}

func down(at time.Time) muster.Machine {
	return muster.Machine{Status: muster.MachineTerminated, StatusAt: at, AskedAt: minutes(-2)}
}

func TestNextKept(t *testing.T) {
	one := keptPools("a")
	queued := func(labels ...string) muster.MachineDemand {
		d := keptPools("a")
		d.Queued = []muster.Job{waiting("a", append([]string{"self-hosted"}, labels...)...)}
		return d
	}
	running := keptPools("a")
	running.Running = []muster.Job{{Key: muster.JobKey{ID: 8, Attempt: 1}, Repository: "octo/a", State: muster.JobInProgress, StartedAt: minutes(-10), RunnerName: "vm"}}
	held := queued()
	held.Held = []string{"a"}
	with := func(m muster.Machine, change func(*muster.Machine)) muster.Machine {
		change(&m)
		return m
	}
	asked := func(work muster.MachineWork, ago float64, done time.Time) muster.Machine {
		return with(up(done), func(m *muster.Machine) { m.Work, m.WorkAt, m.AskedAt = work, minutes(-ago), minutes(-ago) })
	}
	never := time.Time{}
	for _, c := range []struct {
		name     string
		m        muster.Machine
		d        muster.MachineDemand
		l        keptLimits
		act      keptAct
		until    time.Time
		deadline time.Time
		reason   string
	}{
		{"NobodysAnyMore", up(never), muster.MachineDemand{}, keptDefaults, keptGone, never, never, "no pool"},
		{"NeverLookedAt", muster.Machine{}, one, keptDefaults, keptObserve, never, never, ""},
		// S3-2 S3-29: a queued job starts a stopped machine.
		{"QueuedStarts", down(keptNow), queued(), keptDefaults, keptStart, never, never, "job 7 of octo/a"},
		{"QueuedLooksFirst", down(minutes(-1)), queued(), keptDefaults, keptObserve, never, never, ""},
		// S3-30: and nothing is done about one that is up.
		{"QueuedOnRunning", up(minutes(-60)), queued(), keptDefaults, keptWait, minutes(1), never, "1 job waits"},
		// 4-20: in between there is nothing to do but look again.
		{"QueuedWhileProvisioning", with(down(keptNow), func(m *muster.Machine) { m.Status = muster.MachineProvisioning }), queued(), keptDefaults, keptWait, keptNow.Add(5 * time.Second), never, "PROVISIONING"},
		{"QueuedWhileStaging", with(down(keptNow), func(m *muster.Machine) { m.Status = muster.MachineStaging }), queued(), keptDefaults, keptWait, keptNow.Add(5 * time.Second), never, "STAGING"},
		{"QueuedWhileStopping", with(down(keptNow), func(m *muster.Machine) { m.Status = muster.MachineStopping }), queued(), keptDefaults, keptWait, keptNow.Add(5 * time.Second), never, "once it has stopped"},
		{"StoppingIsLookedAtAgain", with(down(minutes(-1)), func(m *muster.Machine) { m.Status = muster.MachineStopping }), queued(), keptDefaults, keptObserve, never, never, ""},
		{"QueuedWhileSuspended", with(down(keptNow), func(m *muster.Machine) { m.Status = muster.MachineSuspended }), queued(), keptDefaults, keptWait, minutes(1), never, "resume"},
		{"UnknownWord", with(down(keptNow), func(m *muster.Machine) { m.Status = "DEPROVISIONING" }), queued(), keptDefaults, keptWait, minutes(1), never, "DEPROVISIONING"},
		{"WishIsKept", with(down(keptNow), func(m *muster.Machine) { m.StartBy = minutes(3) }), one, keptDefaults, keptStart, never, never, "by hand"},
		{"WishExpires", with(down(keptNow), func(m *muster.Machine) { m.StartBy = minutes(-1) }), one, keptDefaults, keptWait, minutes(5), never, "no job waits"},
		{"RefusedWaits", with(down(keptNow), func(m *muster.Machine) { m.Refusals, m.RefusedAt, m.Refusal = 3, minutes(0), "no room" }), queued(), keptDefaults, keptWait, keptNow.Add(8 * time.Second), never, "no room"},
		{"RefusedTriesAgain", with(down(keptNow), func(m *muster.Machine) { m.Refusals, m.RefusedAt = 3, minutes(-1) }), queued(), keptDefaults, keptStart, never, never, ""},
		// C34: a suspended pool starts nothing.
		{"HeldPool", down(keptNow), held, keptDefaults, keptWait, minutes(5), never, "may not start it now"},
		// C8 S3-12: the labels of the registered runner decide, once they are known.
		{"OtherLabels", with(down(keptNow), func(m *muster.Machine) { m.Labels = map[string]muster.Labels{"a": {"self-hosted", "Linux"}} }), queued("gpu"), keptDefaults, keptWait, minutes(5), never, "not registered with their labels"},
		{"SameLabels", with(down(keptNow), func(m *muster.Machine) { m.Labels = map[string]muster.Labels{"a": {"self-hosted", "GPU"}} }), queued("gpu"), keptDefaults, keptStart, never, never, ""},
		{"UnknownLabels", down(keptNow), queued("gpu"), keptDefaults, keptStart, never, never, ""},
		{"LabelsAreLearned", with(down(keptNow), func(m *muster.Machine) { m.AskedAt = never }), one, keptDefaults, keptAsk, never, never, "labels"},
		{"LabelsAreLearnedWhileJobsWait", with(up(never), func(m *muster.Machine) { m.AskedAt = never }), queued(), keptDefaults, keptAsk, never, never, ""},
		// S3-4 S3-33 C1: N minutes after the last job, by default 3; 15 suits bursts.
		{"Inactive3", up(minutes(-1)), one, keptDefaults, keptWait, minutes(2), minutes(2), "inactive since its last job ended at 11:59:00"},
		{"Inactive15", up(minutes(-1)), one, keptLimits{Inactive: 15 * time.Minute, Recheck: time.Minute}, keptWait, minutes(14), minutes(14), ""},
		{"InactiveIsOver", up(minutes(-3)), one, keptDefaults, keptAsk, never, minutes(0), ""},
		// S3-8 S3-37 4-18: busy and unknown are looked at again in a minute.
		{"Busy", asked(muster.WorkBusy, 0.5, minutes(-10)), one, keptDefaults, keptWait, minutes(0.5), minutes(0.5), "busy"},
		{"BusyIsAskedAgain", asked(muster.WorkBusy, 1, minutes(-10)), one, keptDefaults, keptAsk, never, minutes(0), ""},
		{"Unknown", asked(muster.WorkUnknown, 0.5, minutes(-10)), one, keptDefaults, keptWait, minutes(0.5), minutes(0.5), "did not say"},
		// S3-5 S3-39: idle is stopped, if that was said just now.
		{"Idle", asked(muster.WorkIdle, 0, minutes(-10)), one, keptDefaults, keptStop, never, minutes(-7), ""},
		{"IdleLongAgo", asked(muster.WorkIdle, 0.5, minutes(-10)), one, keptDefaults, keptAsk, never, minutes(-7), ""},
		{"IdleBeforeItsTime", asked(muster.WorkIdle, 0, minutes(-1)), one, keptDefaults, keptWait, minutes(2), minutes(2), ""},
		{"StopRefused", with(asked(muster.WorkIdle, 0, minutes(-10)), func(m *muster.Machine) { m.Refusals, m.RefusedAt, m.Deadline = 2, keptNow, minutes(-7) }), one, keptDefaults, keptWait, keptNow.Add(4 * time.Second), minutes(-7), "refused"},
		// S3-38 C33: not found is believed at the second look, and after the boot grace.
		{"MissingOnce", with(asked(muster.WorkMissing, 0, minutes(-10)), func(m *muster.Machine) { m.MissingAt = keptNow }), one, keptDefaults, keptWait, minutes(1), minutes(1), "before it is believed"},
		{"MissingTwice", with(asked(muster.WorkMissing, 0, minutes(-10)), func(m *muster.Machine) { m.MissingAt = minutes(-1) }), one, keptDefaults, keptStop, never, minutes(-7), ""},
		{"MissingWhileBooting", with(asked(muster.WorkMissing, 0, never), func(m *muster.Machine) { m.UpAt, m.StopAsked, m.MissingAt = minutes(-2), minutes(-2), minutes(-1.5) }), one, keptDefaults, keptWait, minutes(3), minutes(3), "before it is believed"},
		// 4-19: a queued job, a running one, a machine that has just come up.
		{"QueuedHolds", asked(muster.WorkIdle, 0, minutes(-10)), queued(), keptDefaults, keptWait, minutes(1), never, "waits"},
		{"RunningHolds", asked(muster.WorkIdle, 0, minutes(-10)), running, keptDefaults, keptWait, minutes(1), never, "runs on it"},
		{"BootGrace", with(up(never), func(m *muster.Machine) { m.UpAt = minutes(-2) }), one, keptDefaults, keptWait, minutes(3), minutes(3), "no job since it came up"},
		{"StartedCounts", with(up(never), func(m *muster.Machine) { m.UpAt, m.StartedAt = never, minutes(-2) }), one, keptDefaults, keptWait, minutes(3), minutes(3), ""},
		{"RunsForNobody", up(never), one, keptDefaults, keptAsk, never, minutes(-55), ""},
		// A wish to have it stopped does not wait for the inactive minutes.
		{"AskedToStop", with(up(minutes(-1)), func(m *muster.Machine) { m.StopAsked = minutes(0) }), one, keptDefaults, keptAsk, never, keptNow, "asked to stop"},
		{"AskedToStopBusy", with(asked(muster.WorkBusy, 0, minutes(-1)), func(m *muster.Machine) { m.StopAsked = minutes(0) }), running, keptDefaults, keptWait, minutes(1), minutes(1), "runs on it"},
		// C20: rotated at the first idle moment after a day.
		{"Rotation", with(up(minutes(-1)), func(m *muster.Machine) { m.UpAt = minutes(-24 * 60) }), one, keptDefaults, keptAsk, never, keptNow, ""},
		{"RotationWaitsForJobs", with(up(minutes(-1)), func(m *muster.Machine) { m.UpAt = minutes(-25 * 60) }), queued(), keptDefaults, keptWait, minutes(1), never, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := nextKept(c.m, c.d, c.l, keptNow)
			if s.Act != c.act || !s.Deadline.Equal(c.deadline) || !strings.Contains(s.Reason, c.reason) || s.Forced {
				t.Errorf("%+v", s)
			}
			if c.act == keptWait && !s.Until.Equal(c.until) {
				t.Errorf("until %s, want %s: %s", s.Until, c.until, s.Reason)
			}
		})
	}
}

// 4-18 4-24: what GitHub says is busy for longer than a job can be is stopped, and
// only that.
func TestKeptMaxAge(t *testing.T) {
	busy := func(up, done time.Duration) muster.Machine {
		m := muster.Machine{Status: muster.MachineRunning, StatusAt: keptNow, UpAt: keptNow.Add(-up), Work: muster.WorkBusy, WorkAt: keptNow, AskedAt: keptNow}
		if done > 0 {
			m.DoneAt = keptNow.Add(-done)
		}
		return m
	}
	const week = 7 * 24 * time.Hour
	job := keptPools("a")
	job.Running = []muster.Job{{Repository: "octo/a", State: muster.JobInProgress, SeenAt: keptNow.Add(-4 * 24 * time.Hour)}}
	for name, c := range map[string]struct {
		m      muster.Machine
		d      muster.MachineDemand
		forced bool
	}{
		"BusyForAWeek":        {busy(week, 0), keptPools("a"), true},
		"BusyForADay":         {busy(24*time.Hour, 0), keptPools("a"), false},
		"JobYesterday":        {busy(week, 24*time.Hour), keptPools("a"), false},
		"LongJob":             {busy(week, 0), job, false},
		"JobOfLastWeekIsNone": {busy(2*week, week), keptPools("a"), true},
	} {
		if s := nextKept(c.m, c.d, keptDefaults, keptNow); s.Forced != c.forced || s.Forced != (s.Act == keptStop) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if s := nextKept(busy(week, 0), keptPools("a"), keptLimits{Recheck: time.Minute}, keptNow); s.Forced {
		t.Errorf("without a maximum age: %+v", s)
	}
}

// Whatever is known, a machine is stopped only after GitHub said of it, just now,
// that nothing runs there, with no job that waits or runs; and it is started only
// from the stopped state, for a job or a wish. Waiting ends, and deciding twice is
// deciding once. 4-17 4-18 4-19 4-20 4-21
func TestKeptProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		when := func(name string) time.Time {
			n := rapid.IntRange(-200, 20).Draw(t, name)
			if n < -190 {
				return time.Time{}
			}
			return keptNow.Add(time.Duration(n) * 10 * time.Second)
		}
		m := muster.Machine{
			Status: rapid.SampledFrom([]muster.MachineStatus{"", muster.MachineProvisioning, muster.MachineStaging, muster.MachineRunning, muster.MachineStopping,
				muster.MachineTerminated, muster.MachineSuspending, muster.MachineSuspended, muster.MachineRepairing, "ODD"}).Draw(t, "status"),
			StatusAt: when("seen"), UpAt: when("up"), StartedAt: when("started"), StartBy: when("wish"), StopAsked: when("stop"), DoneAt: when("done"),
			Work:   rapid.SampledFrom([]muster.MachineWork{"", muster.WorkIdle, muster.WorkBusy, muster.WorkMissing, muster.WorkUnknown}).Draw(t, "work"),
			WorkAt: when("asked"), AskedAt: when("labels"), MissingAt: when("missing"), Refusals: rapid.IntRange(0, 5).Draw(t, "refusals"), RefusedAt: when("refused"),
		}
		d := keptPools("a", "b")
		for i := range rapid.IntRange(0, 2).Draw(t, "queued") {
			d.Queued = append(d.Queued, waiting([]string{"a", "b"}[i], "self-hosted"))
		}
		if rapid.Bool().Draw(t, "runs") {
			d.Running = []muster.Job{{Repository: "octo/b", State: muster.JobInProgress, SeenAt: when("running")}}
		}
		if rapid.Bool().Draw(t, "held") {
			d.Held = []string{"b"}
		}
		s := nextKept(m, d, keptDefaults, keptNow)
		wanting := runnable(m, d)
		switch s.Act {
		case keptStop:
			idle := m.Work == muster.WorkIdle || away(m, keptDefaults, cameUp(m))
			if m.Status != muster.MachineRunning || !s.Forced && (!idle || keptNow.Sub(m.WorkAt) >= keptFresh || len(wanting)+len(d.Running) > 0) {
				t.Fatalf("stopped: %+v from %+v", s, m)
			}
		case keptStart:
			if m.Status != muster.MachineTerminated || len(wanting) == 0 && !keptNow.Before(m.StartBy) || keptNow.Sub(m.StatusAt) >= keptFresh {
				t.Fatalf("started: %+v from %+v", s, m)
			}
		case keptWait:
			if !s.Until.After(keptNow) {
				t.Fatalf("waits for the past: %+v from %+v", s, m)
			}
		}
		if len(wanting)+len(d.Running) > 0 && !s.Deadline.IsZero() && m.StopAsked.IsZero() && !s.Forced && m.Refusals == 0 {
			t.Fatalf("a deadline while a job holds it: %+v", s)
		}
		if fmt.Sprint(nextKept(m, d, keptDefaults, keptNow)) != fmt.Sprint(s) {
			t.Fatal("decided otherwise the second time")
		}
	})
}
