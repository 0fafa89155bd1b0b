package muster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// Why a job waits for a kept machine: its row answers, since it has no runner's
// row. The job is queued for ten minutes. 4-20 4-30 4-43 4-52 4-53 C8 C34
func TestExplainKept(t *testing.T) {
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	kept := pool(func(p *muster.Pool) {
		p.Lifecycle, p.Registration, p.Machine, p.Zone, p.Provider = muster.LifecycleKept, muster.RegistrationPreregistered, "box", "z1", "cloud"
	})
	busy := muster.Job{Key: muster.JobKey{ID: 7, Attempt: 1}, Name: "train", Repository: "acme/app", State: muster.JobInProgress, StartedAt: ago(3 * time.Minute), RunnerName: "box"}
	for name, c := range map[string]struct {
		m      muster.Machine
		change func(*muster.Situation)
		codes  string
		words  []string // of the first cause
		never  string
	}{
		"Starting": {m: muster.Machine{Status: muster.MachineStaging, StartedAt: ago(30 * time.Second)},
			codes: "starting", words: []string{"machine box", "STAGING", "11:59:30Z", "30s ago"}},
		"Stopping": {m: muster.Machine{Status: muster.MachineStopping, StartedAt: ago(time.Hour), StoppedAt: ago(20 * time.Second)},
			codes: "machine_stopping", words: []string{"machine box is STOPPING", "20s ago", "as soon as it has stopped"}},
		"PlatformRefuses": {m: muster.Machine{Status: muster.MachineTerminated, Refusal: "ZONE_RESOURCE_POOL_EXHAUSTED: no n1 in z1", Refusals: 4, RefusedAt: ago(time.Minute)},
			codes: "provider_refusing", words: []string{"provider cloud refused 4 times", "machine box", "1m0s ago", "ZONE_RESOURCE_POOL_EXHAUSTED: no n1 in z1"}},
		"PlatformDoesNotSay": {m: muster.Machine{StatusError: "403: compute.instances.get is needed", StatusErrorAt: ago(time.Second)},
			codes: "provider_refusing", words: []string{"how machine box stands", "403: compute.instances.get is needed"}},
		// C8
		"RunnerLacksLabels": {m: muster.Machine{Status: muster.MachineTerminated, Labels: map[string]muster.Labels{"ci": {"self-hosted", "muster"}}},
			change: func(s *muster.Situation) { s.Job.Labels = muster.Labels{"muster", "gpu"} },
			codes:  "not_eligible", words: []string{"pool ci", "machine box", "without [gpu]", "with [self-hosted,muster] only", "not started"}},
		"LabelsUnknown": {m: muster.Machine{Status: muster.MachineProvisioning},
			change: func(s *muster.Situation) { s.Job.Labels = muster.Labels{"muster", "gpu"} },
			codes:  "starting", words: []string{"machine box"}},
		"RunsAnotherJob": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(time.Hour)},
			change: func(s *muster.Situation) { s.OnMachine, s.Ahead = []muster.Job{busy}, 2 },
			codes:  "machine_busy", words: []string{"machine box is up and runs job", "7", "train of acme/app", "3m0s ago", "number 3 in the queue of pool ci"}},
		"RunsAJobBeforeThePlatformSaysSo": {m: muster.Machine{Status: muster.MachineProvisioning, StartedAt: ago(10 * time.Second)},
			change: func(s *muster.Situation) { s.OnMachine = []muster.Job{busy} },
			codes:  "machine_busy", words: []string{"runs job"}},
		"BusyWithWhatNobodyTold": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(time.Hour), Work: muster.WorkBusy, WorkAt: ago(2 * time.Minute)},
			codes: "machine_busy", words: []string{"GitHub says that its runner is busy", "2m0s ago", "not told of"}},
		// 4-30 4-43
		"IdleNotAssigned": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(8 * time.Minute), Work: muster.WorkIdle, WorkAt: ago(time.Minute)},
			codes: "idle_runner_not_assigned", words: []string{"machine box is up", "has not assigned the job for 8m0s", "idle (asked at", "runner's service", "acme/app"}},
		"NobodySays": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(time.Hour), DoneAt: ago(5 * time.Minute), Work: muster.WorkUnknown, Unknowns: 3, WorkAt: ago(time.Minute)},
			codes: "idle_runner_not_assigned", words: []string{"did not say whether its runner is idle, 3 times", "for 5m0s"}},
		"JustUp": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(20 * time.Second)},
			codes: "starting", words: []string{"came up at", "20s ago", "once it listens"}},
		"JustFree": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(time.Hour), DoneAt: ago(5 * time.Second), Work: muster.WorkBusy, WorkAt: ago(time.Minute)},
			codes: "starting", words: []string{"within seconds"}},
		// C33
		"NoRunner": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(9 * time.Minute), Work: muster.WorkMissing, WorkAt: ago(time.Minute), MissingAt: ago(4 * time.Minute)},
			codes: "runner_missing", words: []string{"knows no runner box in acme", "register it"}},
		"SuspendedByItsPlatform": {m: muster.Machine{Status: muster.MachineSuspended}, codes: "machine_suspended", words: []string{"resume it there"}},
		"Stopped": {m: muster.Machine{Status: muster.MachineTerminated, StartedAt: ago(2 * time.Hour), StoppedAt: ago(time.Hour), Reason: "inactive since its last job ended at 10:40:00"},
			codes: "deciding", words: []string{"machine box is stopped", "1h0m0s ago", "about to be started", "inactive since its last job ended"}},
		"NeverLookedAt": {codes: "deciding", words: []string{"nothing is known of machine box yet", "provider cloud is asked"}},
		// C34
		"Held": {m: muster.Machine{Status: muster.MachineStopping}, change: func(s *muster.Situation) { s.Pools[0].Suspended = true },
			codes: "pool_suspended", words: []string{"muster pool resume ci"}, never: "as soon as"},
		"Installation": {m: muster.Machine{Status: muster.MachineTerminated}, change: func(s *muster.Situation) { s.Snapshot.Suspended = true },
			codes: "suspended", words: []string{"machine box is not started"}},
		"AppLacks": {m: muster.Machine{Status: muster.MachineRunning, UpAt: ago(10 * time.Second)}, change: func(s *muster.Situation) { s.AppProblem = "App main: actions: read is needed" },
			codes: "app_problem starting", words: []string{"actions: read"}},
		"GitHubPaused": {m: muster.Machine{Status: muster.MachineStaging}, change: func(s *muster.Situation) { s.GitHubPaused = noon.Add(time.Minute) },
			codes: "github_paused starting", words: []string{"in 1m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := muster.Situation{Pools: []muster.Pool{kept}, Job: muster.Job{
				Key: muster.JobKey{ID: 1, Attempt: 1}, State: muster.JobQueued, Repository: "acme/app", Labels: muster.Labels{"muster"}, Pool: "ci", CreatedAt: ago(10 * time.Minute), SeenAt: ago(10 * time.Minute),
			}}
			c.m.ID = kept.MachineID()
			s.Machines = []muster.Machine{{ID: muster.MachineID{Provider: "cloud", Name: "another"}, Status: muster.MachineSuspended}, c.m}
			if c.change != nil {
				c.change(&s)
			}
			causes := muster.Explain(s, noon)
			var codes []string
			for _, cause := range causes {
				codes = append(codes, cause.Code)
			}
			if got := strings.Join(codes, " "); got != c.codes {
				t.Fatalf("causes %q, want %q: %+v", got, c.codes, causes)
			}
			for _, w := range c.words {
				if !strings.Contains(causes[0].Text, w) {
					t.Errorf("%q lacks %q", causes[0].Text, w)
				}
			}
			if c.never != "" && strings.Contains(causes[0].Text, c.never) {
				t.Errorf("%q says %q", causes[0].Text, c.never)
			}
		})
	}
}

// What an operator is shown of a machine's row.
func TestMachineWords(t *testing.T) {
	up, down := noon.Add(-time.Hour), noon.Add(-time.Minute)
	for _, c := range []struct {
		m     muster.Machine
		since time.Time
	}{
		{muster.Machine{Status: muster.MachineRunning, UpAt: up}, up},
		{muster.Machine{Status: muster.MachineProvisioning, StartedAt: down, StoppedAt: up}, down},
		{muster.Machine{Status: muster.MachineProvisioning, StartedAt: up, StoppedAt: down}, time.Time{}}, // somebody else starts it
		{muster.Machine{Status: muster.MachineTerminated, StartedAt: up, StoppedAt: down}, down},
		{muster.Machine{Status: muster.MachineTerminated, StoppedAt: up, UpAt: down}, time.Time{}}, // its platform ended it
		{muster.Machine{Status: muster.MachineSuspended, UpAt: up}, time.Time{}},
	} {
		if got := c.m.Since(); !got.Equal(c.since) {
			t.Errorf("%+v since %s, want %s", c.m, got, c.since)
		}
	}
	m := muster.Machine{Status: muster.MachineRunning, Work: muster.WorkIdle}
	if m.Occupation(nil) != muster.WorkIdle || m.Occupation(make([]muster.Job, 1)) != muster.WorkBusy || (muster.Machine{Status: muster.MachineTerminated, Work: muster.WorkIdle}).Occupation(nil) != "" {
		t.Error("a job that is known to run counts more than GitHub's word, and a machine that is down has neither")
	}
	if m.Next() != "" {
		t.Errorf("no deadline, and then %q", m.Next())
	}
	if m.Deadline = noon; !strings.Contains(m.Next(), "stopped if so") {
		t.Errorf("%q", m.Next())
	}
	m.Refusal, m.RefusedAt, m.StatusError, m.StatusErrorAt = "no room", down, "forbidden", up
	if words, at := m.Trouble(); words != "no room" || !at.Equal(down) {
		t.Errorf("the last trouble is %q at %s", words, at)
	}
	m.StatusErrorAt = noon
	if words, _ := m.Trouble(); words != "forbidden" {
		t.Errorf("the last trouble is %q", words)
	}
}
