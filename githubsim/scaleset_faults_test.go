package githubsim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actions/scaleset"
	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// The seventeen switches that a simulator of scale sets needs, each on and off.
// The letters are those of the table in the package's documentation.

// scene is a world with one set "big" of labels linux and gpu, and its listener.
type scene struct {
	*world
	c   *scaleset.Client
	set int
	x   *scaleset.MessageSessionClient
}

func newScene(t *testing.T, cfg githubsim.Config) *scene {
	t.Helper()
	cfg = quick(cfg)
	if cfg.LongPoll == 100*time.Millisecond {
		cfg.LongPoll = 20 * time.Millisecond
	}
	w := newWorld(t, cfg)
	s := &scene{world: w, c: w.sets(org)}
	s.set = w.set(s.c, "big", "linux", "gpu")
	s.x = w.listen(s.c, s.set)
	s.poll(0, 10) // announces room for ten
	return s
}

func (s *scene) poll(last, capacity int) *scaleset.RunnerScaleSetMessage {
	s.t.Helper()
	return s.get(s.x, last, capacity)
}

// next is the next message, acknowledged; it fails if there is none.
func (s *scene) next() *scaleset.RunnerScaleSetMessage {
	s.t.Helper()
	m := s.poll(0, 10)
	if m == nil {
		s.t.Fatal("no message")
	}
	s.acknowledge(m)
	return m
}

func (s *scene) none() {
	s.t.Helper()
	if m := s.poll(0, 10); m != nil {
		s.t.Fatalf("a message: %+v", m)
	}
}

func (s *scene) acknowledge(m *scaleset.RunnerScaleSetMessage) {
	s.t.Helper()
	if err := s.x.DeleteMessage(s.t.Context(), m.MessageID); err != nil {
		s.t.Fatal(err)
	}
}

// runner makes a runner of the set and connects it.
func (s *scene) runner(name string) *bot {
	s.t.Helper()
	config, err := s.c.GenerateJitRunnerConfig(s.t.Context(), &scaleset.RunnerScaleSetJitRunnerSetting{Name: name}, s.set)
	if err != nil {
		s.t.Fatal(err)
	}
	b := s.bot(config.EncodedJITConfig)
	s.must(200, b.connect(), nil)
	return b
}

// raw is the actions service without a client in between: its address and token.
func (w *world) raw(secret string) (url, token string) {
	w.t.Helper()
	var given struct{ URL, Token string }
	w.must(201, w.rest("POST", "/orgs/"+org+"/actions/runners/registration-token", secret, nil), &given)
	w.must(200, w.rest("POST", "/actions/runner-registration", "", message.RegistrationRequest{URL: w.url + "/" + org, Event: "register"},
		"Authorization", "RemoteAuth "+given.Token), &given)
	return given.URL, given.Token
}

// onAndOff runs a test without a fault and with it.
func onAndOff(t *testing.T, test func(t *testing.T, on bool)) {
	t.Helper()
	t.Run("off", func(t *testing.T) { test(t, false) })
	t.Run("on", func(t *testing.T) { test(t, true) })
}

// (a) What is not acknowledged comes again, the same under the same id, to the
// next session, too.
func TestSetRedelivery(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		s.inject("linux")
		first := s.poll(0, 10)
		if first == nil || len(first.JobAssignedMessages) != 1 || first.Statistics.TotalAssignedJobs != 1 {
			t.Fatalf("%+v", first)
		}
		if on {
			s.Faults().RedeliverMessages(1)
		}
		s.inject("gpu") // a poll that goes on sees later messages first
		again := s.poll(first.MessageID, 10)
		if again == nil || (again.MessageID == first.MessageID) != on {
			t.Errorf("after %d came %+v", first.MessageID, again)
		}
		if err := s.x.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.x = s.listen(s.c, s.set)
		again = s.poll(0, 10)
		if again == nil || again.MessageID != first.MessageID || !cmp.Equal(again, first) {
			t.Errorf("the next session gets %+v", again)
		}
		s.acknowledge(again)
		s.next()
		s.none()
	})
}

// (b) A job that is queued while the listener announces 0 never reaches the set,
// whatever is announced later.
func TestSetCapacityZero(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().ZeroCapacityTrap(1)
		}
		s.poll(0, 0)
		id := s.inject("linux")
		if m := s.poll(0, 0); m != nil {
			t.Errorf("at capacity 0: %+v", m)
		}
		m := s.poll(0, 10)
		if (m == nil) != on {
			t.Errorf("with room again: %+v", m)
		}
		if !on {
			return
		}
		s.inject("linux")
		if m := s.next(); len(m.JobAssignedMessages) != 1 || s.job(id).ScaleSet != 0 {
			t.Errorf("a later job: %+v", m)
		}
	})
}

// The set holds no more than its listener announced, and gets the next job when
// one ends.
func TestSetCapacity(t *testing.T) {
	s := newScene(t, githubsim.Config{})
	s.poll(0, 2)
	for range 3 {
		s.inject("linux")
	}
	m := s.poll(0, 2)
	if m == nil || len(m.JobAssignedMessages) != 2 || m.Statistics.TotalAssignedJobs != 2 || m.Statistics.TotalAvailableJobs != 1 {
		t.Fatalf("%+v %+v", m, m.Statistics)
	}
	s.acknowledge(m)
	b := s.runner("r")
	b.complete(b.take(), message.Success)
	m = s.poll(0, 2)
	if m == nil || len(m.JobStartedMessages) != 1 || len(m.JobCompletedMessages) != 1 || len(m.JobAssignedMessages) != 1 || m.Statistics.TotalAssignedJobs != 2 {
		t.Errorf("%+v %+v", m, m.Statistics)
	}
}

// (c) github.com gives a job away at once, with request id 0; GitHub Enterprise
// Server offers it, and it must be acquired.
func TestSetAcquire(t *testing.T) {
	offered := func(s *scene) {
		s.t.Helper()
		id := s.inject("linux")
		m := s.next()
		if len(m.JobAvailableMessages) != 1 || len(m.JobAssignedMessages) != 0 || m.Statistics.TotalAssignedJobs != 0 || m.Statistics.TotalAvailableJobs != 1 {
			s.t.Fatalf("%+v %+v", m, m.Statistics)
		}
		one := m.JobAvailableMessages[0]
		if one.RunnerRequestID == 0 || !strings.HasSuffix(one.AcquireJobURL, "/acquirejobs") {
			s.t.Errorf("%+v", one)
		}
		url, token := s.raw(s.token())
		var list struct {
			Count int
			Value []struct {
				RunnerRequestID int64
			}
		}
		s.must(200, s.rest("GET", fmt.Sprintf("%s_apis/runtime/runnerscalesets/%d/acquirablejobs", url, s.set), token, nil), &list)
		if list.Count != 1 || list.Value[0].RunnerRequestID != one.RunnerRequestID {
			s.t.Errorf("acquirable: %+v", list)
		}
		got, err := s.x.AcquireJobs(s.t.Context(), []int64{one.RunnerRequestID, 4711})
		if err != nil || !slices.Equal(got, []int64{one.RunnerRequestID}) {
			s.t.Fatalf("acquired %v, %v", got, err)
		}
		if got, err := s.x.AcquireJobs(s.t.Context(), []int64{one.RunnerRequestID}); err != nil || len(got) != 0 {
			s.t.Errorf("acquired twice: %v, %v", got, err)
		}
		s.must(204, s.rest("GET", fmt.Sprintf("%s_apis/runtime/runnerscalesets/%d/acquirablejobs", url, s.set), token, nil), nil)
		m = s.next()
		if len(m.JobAssignedMessages) != 1 || m.JobAssignedMessages[0].RunnerRequestID != one.RunnerRequestID || m.Statistics.TotalAcquiredJobs != 1 || m.Statistics.TotalAssignedJobs != 1 {
			s.t.Errorf("%+v %+v", m, m.Statistics)
		}
		b := s.runner("r")
		b.complete(b.take(), message.Success)
		if j := s.untilJob(id, "completed"); j.Conclusion != "success" {
			s.t.Errorf("%+v", j)
		}
	}
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().AcquireFlow(1)
			offered(s)
			return
		}
		s.inject("linux")
		if m := s.next(); len(m.JobAvailableMessages) != 0 || len(m.JobAssignedMessages) != 1 || m.JobAssignedMessages[0].RunnerRequestID != 0 {
			t.Errorf("%+v", m)
		}
	})
	t.Run("EnterpriseServer", func(t *testing.T) { offered(newScene(t, githubsim.Config{EnterpriseServer: true})) })
	t.Run("TakenByAnother", func(t *testing.T) {
		s := newScene(t, githubsim.Config{})
		s.Faults().AcquireFlow(1)
		s.inject("linux")
		id := s.next().JobAvailableMessages[0].RunnerRequestID
		s.bot(s.jit(s.token(), "plain", "linux").Config).connect()
		if got, err := s.x.AcquireJobs(t.Context(), []int64{id}); err != nil || len(got) != 0 {
			t.Errorf("acquired what another runner has: %v, %v", got, err)
		}
	})
}

// clock is a clock that tests move.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (w *world) pass(c *clock, d time.Duration) {
	c.ahead.Add(int64(d))
	w.ClockChanged()
}

// (d) A listener that died without a word keeps the next one out for a while.
func TestSetSessionConflict(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		c := &clock{}
		s := newScene(t, githubsim.Config{Now: c.now, SetSessionLinger: 50 * time.Second})
		if on {
			s.Faults().SessionLinger(3 * time.Minute)
		}
		again := func() error {
			_, err := s.c.MessageSessionClient(t.Context(), s.set, "the next", scaleset.WithRetryMax(1))
			return err
		}
		if err := again(); err == nil || !strings.Contains(err.Error(), "RunnerScaleSetSessionConflictException") || !strings.Contains(err.Error(), "409") {
			t.Errorf("at once: %v", err)
		}
		s.pass(c, 51*time.Second)
		if err := again(); (err != nil) != on {
			t.Errorf("after 51 s: %v", err)
		}
		s.pass(c, 3*time.Minute)
		if err := again(); err != nil {
			t.Errorf("at last: %v", err)
		}
		// The one that was thought dead is told so.
		if _, err := s.x.GetMessage(t.Context(), 0, 1); err == nil || !strings.Contains(err.Error(), "RunnerScaleSetSessionExpiredException") {
			t.Errorf("the old session: %v", err)
		}
	})
	t.Run("CleanEnd", func(t *testing.T) {
		s := newScene(t, githubsim.Config{SetSessionLinger: time.Hour})
		if err := s.x.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.listen(s.c, s.set)
	})
}

// (e) Both tokens may be refused or run out at any time; the client gets new ones.
func TestSetTokens(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		before := s.x.Session().MessageQueueAccessToken
		if on {
			s.Faults().ExpireQueueTokens()
		}
		s.inject("linux")
		s.next()
		if (s.x.Session().MessageQueueAccessToken != before) != on {
			t.Error("the token of the queue is the old one")
		}
		if on {
			s.Faults().QueueUnauthorized(1)
		}
		if _, err := s.x.GetMessage(t.Context(), 0, 1); errors.Is(err, scaleset.MessageQueueTokenExpiredError) != on {
			t.Errorf("%v", err)
		}
		if on {
			s.Faults().AdminUnauthorized(1)
		}
		if _, err := s.c.GetRunnerScaleSetByID(t.Context(), s.set); (err != nil) != on {
			t.Errorf("%v", err)
		}
		s.Faults().Off()
		if on {
			s.Faults().ExpireAdminTokens()
		}
		if _, err := s.c.GetRunnerScaleSetByID(t.Context(), s.set); (err != nil) != on {
			t.Errorf("%v", err)
		}
	})
	t.Run("Lifetimes", func(t *testing.T) {
		c := &clock{}
		s := newScene(t, githubsim.Config{Now: c.now, AdminTokenLifetime: 30 * time.Second, QueueTokenLifetime: time.Minute})
		before := s.Truth().Calls["installation/"+fmt.Sprint(s.inst)]["POST /orgs/{org}/actions/runners/registration-token"]
		s.pass(c, 2*time.Minute)
		s.inject("linux")
		s.next()
		after := s.Truth().Calls["installation/"+fmt.Sprint(s.inst)]["POST /orgs/{org}/actions/runners/registration-token"]
		if after <= before {
			t.Error("the token of the actions service was not renewed")
		}
	})
}

// (f) What is told of running jobs comes late, twice, never, too early, or without
// the runner.
func TestSetMessagesGoWrong(t *testing.T) {
	// ran runs one job and returns what was told of it within a few polls.
	ran := func(t *testing.T, set func(*githubsim.Faults)) (started []*scaleset.JobStarted, completed []*scaleset.JobCompleted, early bool) {
		s := newScene(t, githubsim.Config{})
		set(s.Faults())
		s.inject("linux")
		b := s.runner("r")
		job := b.take()
		collect := func() {
			for m := s.poll(0, 10); m != nil; m = s.poll(0, 10) {
				s.acknowledge(m)
				started, completed = append(started, m.JobStartedMessages...), append(completed, m.JobCompletedMessages...)
			}
		}
		collect()
		early = len(completed) > 0
		b.complete(job, message.Success)
		collect()
		return started, completed, early
	}
	for _, c := range []struct {
		name               string
		set                func(*githubsim.Faults)
		started, completed int
		early              bool
		runner             string
	}{
		{"off", func(*githubsim.Faults) {}, 1, 1, false, "r"},
		{"late", func(f *githubsim.Faults) { f.LateMessages(time.Hour) }, 0, 0, false, ""},
		{"duplicate", func(f *githubsim.Faults) { f.DuplicateMessages(1) }, 2, 2, false, "r"},
		{"lost", func(f *githubsim.Faults) { f.LoseMessages(1) }, 0, 0, false, ""},
		{"nameless", func(f *githubsim.Faults) { f.NamelessMessages(1) }, 1, 1, false, ""},
		{"early", func(f *githubsim.Faults) { f.EarlyCompleted(1) }, 1, 1, true, "r"},
	} {
		t.Run(c.name, func(t *testing.T) {
			started, completed, early := ran(t, c.set)
			if len(started) != c.started || len(completed) != c.completed || early != c.early {
				t.Fatalf("%d started, %d completed, early %v", len(started), len(completed), early)
			}
			if c.started > 0 && (started[0].RunnerName != c.runner || completed[0].RunnerName != c.runner || (started[0].RunnerID == 0) != (c.runner == "")) {
				t.Errorf("%+v %+v", started[0], completed[0])
			}
		})
	}
	t.Run("LateComesAtLast", func(t *testing.T) {
		c := &clock{}
		s := newScene(t, githubsim.Config{Now: c.now})
		s.Faults().LateMessages(time.Minute)
		s.inject("linux")
		b := s.runner("r")
		b.complete(b.take(), message.Failure)
		s.next() // assigned
		s.pass(c, time.Minute)
		s.until("told", func(t githubsim.Truth) bool { return t.ScaleSets[0].Untold == 2 })
		if m := s.next(); len(m.JobStartedMessages) != 1 || m.JobCompletedMessages[0].Result != "failed" {
			t.Errorf("%+v", m)
		}
	})
}

// (g) An assignment that no runner takes lapses: canceled, and given away under
// another id, three times. Webhooks see one job that waits.
func TestSetLapse(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().LapseAssignments(5 * time.Millisecond)
		}
		id := s.inject("linux")
		times := 1
		if on {
			times = 4
		}
		s.until("it lapsed", func(t githubsim.Truth) bool { j, _ := t.Job(id); return len(j.SetIDs) == times && j.ScaleSet != 0 })
		var assigned, canceled []string
		for m := s.poll(0, 10); m != nil; m = s.poll(0, 10) {
			s.acknowledge(m)
			for _, a := range m.JobAssignedMessages {
				assigned = append(assigned, a.JobID)
			}
			for _, c := range m.JobCompletedMessages {
				if c.Result != "canceled" || c.RunnerID != 0 || c.WorkflowRunID != s.job(id).RunID {
					t.Errorf("%+v", c)
				}
				canceled = append(canceled, c.JobID)
			}
		}
		if j := s.job(id); !slices.Equal(assigned, j.SetIDs) || !slices.Equal(canceled, j.SetIDs[:times-1]) || len(slices.Compact(slices.Sorted(slices.Values(assigned)))) != times {
			t.Errorf("assigned %q, canceled %q, truth %q", assigned, canceled, j.SetIDs)
		}
		b := s.runner("r")
		b.complete(b.take(), message.Success)
		if j := s.untilJob(id, "completed"); !slices.Equal(j.Events, []string{"queued", "in_progress", "completed"}) {
			t.Errorf("webhooks %v", j.Events)
		}
	})
}

// (h) Statistics may be 0 although the body has a job.
func TestSetZeroStatistics(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().ZeroStatistics(1)
		}
		s.inject("linux")
		m := s.next()
		if len(m.JobAssignedMessages) != 1 || (*m.Statistics == scaleset.RunnerScaleSetStatistic{}) != on {
			t.Errorf("%+v %+v", m, m.Statistics)
		}
	})
}

// Beside jobs: polls that end with numbers alone, sessions without an address,
// settings that are not kept.
func TestSetOddAnswers(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().StatisticsOnly(1)
			s.Faults().EmptyQueueURLs(1)
			s.Faults().IgnoreDisableUpdate(1)
		}
		if m := s.poll(0, 10); (m != nil) != on || on && m.Statistics == nil {
			t.Errorf("%+v", m)
		}
		set, err := s.c.UpdateRunnerScaleSet(t.Context(), s.set, &scaleset.RunnerScaleSet{Name: "bigger", RunnerSetting: scaleset.RunnerSetting{DisableUpdate: true}})
		if err != nil || set.Name != "bigger" || set.RunnerSetting.DisableUpdate == on {
			t.Errorf("%+v, %v", set, err)
		}
		if err := s.x.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.x = s.listen(s.c, s.set)
		if (s.x.Session().MessageQueueURL == "") != on {
			t.Errorf("%q", s.x.Session().MessageQueueURL)
		}
	})
}

// (i) One message tells of at most 50 jobs.
func TestSetMessageLimit(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		cfg := githubsim.Config{}
		want := []int{50, 10}
		if !on {
			cfg.MessageBatch, want = -1, []int{60}
		}
		s := newScene(t, cfg)
		s.poll(0, 200)
		for range 60 {
			s.inject("linux")
		}
		var got []int
		for m := s.poll(0, 200); m != nil; m = s.poll(0, 200) {
			s.acknowledge(m)
			got = append(got, len(m.JobAssignedMessages))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// (j) A runner is not bound to the job that it was made for.
func TestSetCrossover(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().Crossover(1)
		}
		config, err := s.c.GenerateJitRunnerConfig(t.Context(), &scaleset.RunnerScaleSetJitRunnerSetting{Name: "for-the-first"}, s.set)
		if err != nil {
			t.Fatal(err)
		}
		first, second := s.inject("linux"), s.inject("linux", "gpu")
		b := s.bot(config.EncodedJITConfig)
		b.connect()
		b.take()
		if s.job(first).Status == "in_progress" == on || s.job(second).Status == "in_progress" != on {
			t.Errorf("%+v %+v", s.job(first), s.job(second))
		}
	})
}

// A runner of a set takes what was given to the set and nothing else; a job that
// was given away is not for others.
func TestSetRunnersKeepToTheirSet(t *testing.T) {
	s := newScene(t, githubsim.Config{})
	given := s.inject("linux")
	s.poll(0, 0)
	open := s.inject("linux")
	b := s.runner("r")
	b.take()
	plain := s.bot(s.jit(s.token(), "plain", "linux").Config)
	plain.connect()
	plain.take()
	if s.job(given).Runner != "r" || s.job(open).Runner != "plain" {
		t.Errorf("%+v %+v", s.job(given), s.job(open))
	}
	if c, p := b.settings, plain.settings; c.AgentName != "r" || p.AgentName != "plain" {
		t.Errorf("%+v %+v", c, p)
	}
}

// (k) Where several sets fit, any may get the job.
func TestSetOverlap(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{Seed: 3})
		small := s.set0("small", "linux")
		if on {
			s.Faults().ArbitrarySets(1)
		}
		at := map[int64]int{}
		for range 8 {
			at[s.job(s.inject("linux")).ScaleSet]++
		}
		if at[int64(small)] == 0 || (at[int64(s.set)] > 0) != on || at[0] != 0 {
			t.Errorf("%v", at)
		}
		if only := s.job(s.inject("gpu")).ScaleSet; only != int64(s.set) {
			t.Errorf("a job that one set fits went to %d", only)
		}
	})
}

// set0 makes another set with a listener that has room.
func (s *scene) set0(name string, labels ...string) int {
	id := s.world.set(s.c, name, labels...)
	s.get(s.listen(s.c, id), 0, 10)
	return id
}

// (l) The typed errors: a runner that works cannot be removed, a name is taken, what
// is gone is not found.
func TestSetErrors(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		ctx := t.Context()
		if on {
			s.inject("linux")
		}
		b := s.runner("r")
		if on {
			b.take()
		}
		if err := s.c.RemoveRunner(ctx, b.settings.AgentID); errors.Is(err, scaleset.JobStillRunningError) != on || (err != nil) != on {
			t.Errorf("remove: %v", err)
		}
		_, err := s.c.GenerateJitRunnerConfig(ctx, &scaleset.RunnerScaleSetJitRunnerSetting{Name: "r"}, s.set)
		if errors.Is(err, scaleset.RunnerExistsError) != on || (err != nil) != on {
			t.Errorf("the same name: %v", err)
		}
		if _, err := s.c.GetRunner(ctx, int(b.settings.AgentID)); errors.Is(err, scaleset.RunnerNotFoundError) == on {
			t.Errorf("get: %v", err)
		}
	})
	t.Run("LostAnswer", func(t *testing.T) {
		// The record is there, its config is not: the next attempt finds the name taken.
		s := newScene(t, githubsim.Config{})
		s.Faults().LoseJITAnswers(1)
		_, err := s.c.GenerateJitRunnerConfig(t.Context(), &scaleset.RunnerScaleSetJitRunnerSetting{Name: "r"}, s.set)
		if !errors.Is(err, scaleset.RunnerExistsError) && err == nil || len(s.Truth().Runners) != 1 {
			t.Errorf("%v", err)
		}
	})
	t.Run("Sets", func(t *testing.T) {
		s := newScene(t, githubsim.Config{})
		if _, err := s.c.CreateRunnerScaleSet(t.Context(), &scaleset.RunnerScaleSet{Name: "BIG", RunnerGroupID: 1}); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("the same name: %v", err)
		}
		if _, err := s.c.CreateRunnerScaleSet(t.Context(), &scaleset.RunnerScaleSet{Name: "x", RunnerGroupID: 77}); err == nil {
			t.Error("a set in a group that does not exist")
		}
		if err := s.VanishScaleSet(int64(s.set)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.c.GetRunnerScaleSetByID(t.Context(), s.set); err == nil || !strings.Contains(err.Error(), "RunnerScaleSetNotFoundException") {
			t.Errorf("a set that vanished: %v", err)
		}
		if s.VanishScaleSet(int64(s.set)) == nil {
			t.Error("it vanished twice")
		}
	})
}

// A set that vanishes leaves its waiting jobs to others, and runs what runs.
func TestSetVanishes(t *testing.T) {
	s := newScene(t, githubsim.Config{})
	running, left := s.inject("linux"), s.inject("linux")
	b := s.runner("r")
	job := b.take()
	idle := s.set0("other", "linux")
	if err := s.VanishScaleSet(int64(s.set)); err != nil {
		t.Fatal(err)
	}
	if got := s.job(left).ScaleSet; got != int64(idle) {
		t.Errorf("the waiting job went to %d", got)
	}
	b.complete(job, message.Success)
	if j := s.untilJob(running, "completed"); j.Conclusion != "success" {
		t.Errorf("%+v", j)
	}
}

// (m) A burst of registrations meets the secondary limit, by REST and by sets; the
// answer says how long to wait, or does not.
func TestSetRegistrationLimit(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		cfg := githubsim.Config{PointsPerMinute: -1}
		if on {
			cfg.PointsPerMinute = 10
		}
		s := newScene(t, cfg)
		s.Faults().SecondaryLimit(0, 7*time.Second)
		tok := s.token()
		url, token := s.raw(tok)
		status := map[int]int{}
		for i := range 4 {
			a := s.rest("POST", fmt.Sprintf("%s_apis/runtime/runnerscalesets/%d/generatejitconfig", url, s.set), token, map[string]any{"name": fmt.Sprint("r", i)})
			status[a.StatusCode]++
			if a.StatusCode == http.StatusTooManyRequests && a.Header.Get("Retry-After") != "7" {
				t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
			}
		}
		if on && (status[200] != 2 || status[429] != 2) || !on && status[200] != 4 {
			t.Errorf("%v", status)
		}
		rest := map[int]int{}
		for i := range 4 {
			a := s.rest("POST", "/orgs/"+org+"/actions/runners/generate-jitconfig", tok, map[string]any{"name": fmt.Sprint("rest", i), "runner_group_id": 1, "labels": []string{"x"}})
			rest[a.StatusCode]++
			if a.StatusCode == http.StatusForbidden && (a.Header.Get("Retry-After") != "7" || !strings.Contains(a.message(), "secondary rate limit")) {
				t.Errorf("%v %s", a.Header, a.body)
			}
		}
		if on && (rest[201] != 2 || rest[403] != 2) || !on && rest[201] != 4 {
			t.Errorf("%v", rest)
		}
		if !on {
			return
		}
		s.Faults().NoRetryAfter(1)
		a := s.rest("POST", fmt.Sprintf("%s_apis/runtime/runnerscalesets/%d/generatejitconfig", url, s.set), token, map[string]any{"name": "one more"})
		if a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") != "" {
			t.Errorf("%s, Retry-After %q", a.Status, a.Header.Get("Retry-After"))
		}
	})
}

// (n) Webhooks of the same jobs: with a wrong signature, of an installation that
// never was. Lost, doubled and out of order are in TestDelivery….
func TestForgedDeliveries(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		w := newWorldWith(t, githubsim.Config{}, githubsim.AppOptions{})
		if on {
			w.Faults().UnknownInstallations(1)
		}
		n := 1
		if on {
			n = 2
		}
		w.inject("linux")
		known := 0
		for _, got := range w.hook.find(t, n, is("workflow_job", "queued")) {
			if int64(got.json["installation"].(map[string]any)["id"].(float64)) == w.inst {
				known++
			}
		}
		if known != 1 {
			t.Errorf("%d of %d deliveries are of the installation", known, n)
		}
		w.Faults().Off()
		if on {
			w.Faults().BadSignatures(1)
		}
		w.inject("linux")
		got := w.hook.find(t, n+1, is("workflow_job", "queued"))[n]
		right := "sha256=" + hmacHex(sha256New, "It's a Secret to Everybody", got.body)
		if (got.header.Get("X-Hub-Signature-256") == right) == on {
			t.Error("the signature")
		}
		w.Faults().Off()
		var log []struct {
			ID   int64
			GUID string
		}
		w.until("logged", func(t githubsim.Truth) bool { return t.Deliveries.Attempts == t.Deliveries.Events+n-1 })
		w.must(200, w.rest("GET", "/app/hook/deliveries", w.jwt(nil), nil), &log)
		i := slices.IndexFunc(log, func(d struct {
			ID   int64
			GUID string
		}) bool {
			return d.GUID == got.guid
		})
		w.must(202, w.rest("POST", fmt.Sprintf("/app/hook/deliveries/%d/attempts", log[i].ID), w.jwt(nil), nil), nil)
		again := w.hook.find(t, n+2, is("workflow_job", "queued"))[n+1]
		if again.guid != got.guid || again.header.Get("X-Hub-Signature-256") != right {
			t.Error("sent again, it is signed wrongly")
		}
	})
}

// (p) busy reads false for a while after an assignment, and now and then.
func TestBusyLies(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*githubsim.Faults)
		want bool
	}{
		{"off", func(*githubsim.Faults) {}, true},
		{"lag", func(f *githubsim.Faults) { f.LyingBusy(time.Hour) }, false},
		{"glitch", func(f *githubsim.Faults) { f.BusyGlitches(1) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, githubsim.Config{})
			c.set(s.Faults())
			s.inject("linux")
			b := s.runner("r")
			b.take()
			var r struct{ Busy bool }
			s.must(200, s.rest("GET", fmt.Sprintf("/orgs/%s/actions/runners/%d", org, b.settings.AgentID), s.token(), nil), &r)
			if r.Busy != c.want || !s.Truth().Runners[0].Busy {
				t.Errorf("busy reads %v", r.Busy)
			}
			if a := s.rest("DELETE", fmt.Sprintf("/orgs/%s/actions/runners/%d", org, b.settings.AgentID), s.token(), nil); a.StatusCode != 422 {
				t.Errorf("a busy runner was removed: %s", a.Status)
			}
		})
	}
}

// The service answers nobody without a token, and a message of a set only to its
// own listener.
func TestSetAccess(t *testing.T) {
	s := newScene(t, githubsim.Config{})
	url, token := s.raw(s.token())
	sets := url + "_apis/runtime/runnerscalesets"
	for path, status := range map[string]int{
		sets: 401, strings.Replace(sets, "/acme/", "/umbrella/", 1): 401, s.x.Session().MessageQueueURL: 401,
	} {
		if a := s.rest("GET", path, "wrong", nil); a.StatusCode != status {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	for path, status := range map[string]int{sets + "/77": 404, sets + "/x": 404, strings.Replace(sets, "/acme/", "/umbrella/", 1): 401} {
		if a := s.rest("GET", path, token, nil); a.StatusCode != status {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	var list struct {
		Count int
		Value []json.RawMessage
	}
	s.must(200, s.rest("GET", sets, token, nil), &list)
	if list.Count != 1 || len(list.Value) != 1 {
		t.Errorf("%+v", list)
	}
	if a := s.rest("GET", s.x.Session().MessageQueueURL, s.x.Session().MessageQueueAccessToken, nil, "X-ScaleSetMaxCapacity", "many"); a.StatusCode != 400 {
		t.Errorf("a capacity in words: %s", a.Status)
	}
}

// (j) A stolen runner of a set is told of like any other: the thief's job is given
// to the set first.
func TestSetStolenRunner(t *testing.T) {
	onAndOff(t, func(t *testing.T, on bool) {
		s := newScene(t, githubsim.Config{})
		if on {
			s.Faults().StealRunners(1)
		}
		mine := s.inject("linux", "gpu")
		s.runner("r").take()
		s.next()
		alien := slices.ContainsFunc(s.Truth().Jobs, func(j githubsim.JobTruth) bool {
			return j.Alien && j.Status == "in_progress" && j.ScaleSet == int64(s.set) && len(j.SetIDs) == 1
		})
		if alien != on || (s.job(mine).Status == "queued") != on {
			t.Errorf("%+v", s.Truth().Jobs)
		}
	})
}

// Whoever runs the simulator has hooks, replays and vanished sets by HTTP, too.
func TestManagementOfScaleSets(t *testing.T) {
	s := newScene(t, githubsim.Config{})
	m := httptest.NewServer(s.ManagementHandler())
	defer m.Close()
	if s.must(200, s.rest("POST", m.URL+"/hooks", "", map[string]any{"target": org, "url": s.hook.url, "secret": "x"}), nil); s.hook.find(t, 2, is("ping", "")) == nil {
		t.Error("no ping")
	}
	s.must(400, s.rest("POST", m.URL+"/hooks", "", map[string]any{"target": "nobody", "url": s.hook.url}), nil)
	s.inject("linux")
	var acts []githubsim.Act
	s.must(200, s.rest("GET", m.URL+"/acts", "", nil), &acts)
	s.must(200, s.rest("POST", m.URL+"/replay", "", map[string]any{"acts": acts}), nil)
	s.must(400, s.rest("POST", m.URL+"/replay", "", map[string]any{"acts": []object{{}}}), nil)
	if n := len(s.Truth().Jobs); n != 2 {
		t.Errorf("%d jobs after a replay", n)
	}
	for _, kind := range []string{"queue", "admin"} {
		s.must(200, s.rest("POST", m.URL+"/faults/expire-"+kind+"-tokens", "", nil), nil)
	}
	if _, err := s.c.GetRunnerScaleSetByID(t.Context(), s.set); err == nil {
		t.Error("an expired token is good")
	}
	at := fmt.Sprintf("%s/scale-sets/%d/vanish", m.URL, s.set)
	s.must(200, s.rest("POST", at, "", nil), nil)
	s.must(400, s.rest("POST", at, "", nil), nil)
}

type object = map[string]any
