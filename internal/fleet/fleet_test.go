package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/fleet"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// S1-1 S1-2 S1-52 S1-93 S1-108 S1-109 S1-116: the queue is looked at every 60 s, each look is
// followed by one decision, and the pool grows with the queue by the formula of a fleet and shrinks
// again; every runner serves one job (S1-55).
func TestGrowsAndShrinks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.gh.queue(10, 90*time.Second)
		stop := w.run()
		if n := w.gh.called("queue"); n != 1 {
			t.Errorf("%d looks at the queue at the start", n)
		}
		synctest.Wait()
		if n := w.total(); n != 5 { // 10 jobs, 2 per runner
			t.Errorf("%d runners, want 5: %v", n, w.live())
		}
		last := w.decisions()[0]
		if d := last.Decision; d.Action != muster.ScaleUp || d.Target != 5 || d.Metrics.QueuedJobs != 10 || d.Rule != muster.RuleFormula {
			t.Errorf("%+v", d)
		}
		for i := 2; i <= 4; i++ {
			after(time.Minute)
			if looks := w.gh.called("queue"); looks != i {
				t.Errorf("minute %d: %d looks", i-1, looks)
			}
			taken := 0
			for _, d := range w.decisions() {
				taken += d.Count
			}
			if taken != i {
				t.Errorf("minute %d: %d decisions", i-1, taken)
			}
		}
		after(30 * time.Minute)
		if jobs, _ := w.gh.counts(); jobs["success"] != 10 || len(jobs) != 1 {
			t.Errorf("jobs: %v", jobs)
		}
		for _, r := range w.Runners() {
			if r.State != muster.RunnerDestroyed || r.Failed {
				t.Errorf("%s: %s, failed %v: %s", r.ID, r.State, r.Failed, r.Reason)
			}
		}
		if c := w.cloud.Counts(); c.Peak > 10 || c.Created < 10 {
			t.Errorf("%+v", c)
		}
		stop()
		w.clean()
	})
}

// S1-53 S1-58 S1-59 S1-60 S1-61 S1-62 S1-63 S1-64 S1-65 S1-66 S1-67 S1-92 S1-115: machine, registration
// for one job at the moment at which the agent asks, service; provisioning, registered, active,
// draining, destroyed.
func TestOneLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand)
		stop := w.run()
		w.cloud.SetDelays(fake.Delays{Boot: 5 * time.Second})
		w.gh.queue(1, 10*time.Second)
		w.Nudge()
		synctest.Wait()
		r := w.Runners()[0]
		if r.State != muster.RunnerProvisioning || r.GitHubID != 0 || w.gh.called("jit") != 0 {
			t.Errorf("before its agent asks: %+v, %v", r, w.gh.calls)
		}
		after(5 * time.Second)
		events, _ := w.History(r.ID)
		r = w.Runners()[0]
		if r.State != muster.RunnerActive || !r.Busy || r.GitHubID == 0 || r.Instance == "" || !muster.ValidRunnerName(r.Name) {
			t.Errorf("%+v", r)
		}
		var states []muster.RunnerState
		for _, e := range events {
			states = append(states, e.State)
		}
		if d := cmp.Diff([]muster.RunnerState{"provisioning", "registered", "active"}, slices.Compact(states)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff([]string{"machine", "registered", "service started"}, w.did()); d != "" {
			t.Error(d)
		}
		w.gh.mu.Lock()
		for _, m := range w.gh.runners {
			if !m.Ephemeral {
				t.Error("the registration is not for one job")
			}
		}
		w.gh.mu.Unlock()
		after(15 * time.Second)
		if r = w.Runners()[0]; r.State != muster.RunnerDestroyed || r.Reason != "job finished" || r.Failed || r.DestroyedAt.IsZero() {
			t.Errorf("%+v", r)
		}
		w.clean()
		stop()
	})
}

// S1-28 S1-89 C8 C18: what is counted of a queue: jobs that are queued or in progress, of runs in any
// state, whose labels are all among the runner's and hold all of the pool's; each for the first pool that
// serves it; and a runner that GitHub says has a job counts as busy.
func TestQueueStates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		second := ci()
		second.Name, second.Labels, second.RunnerLabels = "linux-only", muster.Labels{"linux"}, nil
		second.Scaling = muster.Scaling{JobsPerRunner: 1}
		w.pools = append(w.pools, second.WithDefaults())
		w.pools[0].Scaling.MaxRunners, w.pools[0].Scaling.MinRunners = 1, 1
		w.again()
		w.script = func(ctx context.Context, m fake.Machine) string { // listens, and says nothing of a job
			resp, err := w.boot(ctx, m)
			if err != nil {
				return err.Error()
			}
			_, _ = w.fleet().Report(ctx, resp.SessionToken, wire.Report{Phase: wire.PhaseListening})
			<-ctx.Done()
			return ""
		}
		stop := w.run()
		after(time.Second)
		var mine muster.Runner
		for _, r := range w.Runners() {
			if r.Pool == "ci-workers" {
				mine = r
			}
		}
		for _, j := range []struct {
			labels []string
			state  muster.JobState
			runner string
		}{
			{[]string{"linux"}, muster.JobQueued, ""},
			{[]string{"LINUX", "Docker"}, muster.JobQueued, ""},
			{[]string{"docker"}, muster.JobQueued, ""},
			{[]string{"linux", "docker", "self-hosted", "x64"}, muster.JobQueued, ""},
			{[]string{"linux", "docker", "gpu"}, muster.JobQueued, ""},
			{[]string{"windows"}, muster.JobQueued, ""},
			{nil, muster.JobQueued, ""},
			{[]string{"linux", "docker"}, muster.JobInProgress, mine.Name},
			{[]string{"linux"}, muster.JobInProgress, "somebody else's"},
			{[]string{"linux", "docker"}, muster.JobCompleted, ""},
			{[]string{"linux", "docker"}, muster.JobWaiting, ""},
		} {
			w.gh.queue(1, time.Hour, append(j.labels, "")[:len(j.labels)]...)
			w.gh.mu.Lock()
			last := w.gh.jobs[len(w.gh.jobs)-1]
			last.Labels, last.Status, last.RunnerName = j.labels, j.state, j.runner
			w.gh.mu.Unlock()
		}
		after(time.Minute)
		for name, want := range map[string][2]int{"ci-workers": {2, 1}, "linux-only": {1, 1}} {
			d, err := w.Decisions(name, 1)
			if err != nil {
				t.Fatal(err)
			}
			if m := d[0].Decision.Metrics; m.QueuedJobs != want[0] || m.InProgressJobs != want[1] || m.TotalJobs != want[0]+want[1] || !m.NeedsScaling() {
				t.Errorf("%s: %+v, want %v", name, m, want)
			}
		}
		for _, r := range w.Runners() {
			if r.ID == mine.ID && (r.State != muster.RunnerActive || !r.Busy || r.Job.ID == 0) {
				t.Errorf("%+v", r)
			}
		}
		w.cloud.End("fleet", mine.ID, "done")
		w.gh.mu.Lock()
		w.gh.jobs = nil
		w.gh.mu.Unlock()
		stop()
	})
}

// S1-68 S1-88 S1-91 4-51: each step fails in turn, and nothing is left of those before it.
func TestUndo(t *testing.T) {
	refuse := func(code muster.Code) func(*world) {
		return func(w *world) {
			w.gh.breaks(func(call string) error {
				if strings.HasPrefix(call, "jit ") {
					return muster.Errorf(code, "refused %s", code)
				}
				return nil
			})
		}
	}
	for _, tc := range []struct {
		situation string
		breaks    func(*world)
		reason    string
	}{
		{"NoRoom", func(w *world) { w.cloud.Fail(fake.Fault{Call: fake.Create, Err: provider.ErrCapacity}) }, "provider refused: injected fault: no capacity"},
		{"PlatformDown", func(w *world) { w.cloud.Fail(fake.Fault{Call: fake.Create}) }, "provider refused"},
		{"MachineMadeAnswerLost", func(w *world) {
			w.cloud.Fail(fake.Fault{Call: fake.Create, After: true, Err: provider.ErrQuota})
			w.script = func(ctx context.Context, _ fake.Machine) string { <-ctx.Done(); return "" }
		}, "provider refused"},
		{"Garbage", func(w *world) { w.cloud.Fail(fake.Fault{Call: fake.Create, Garbage: true}) }, "provider refused"},
		{"AgentNeverComes", func(w *world) {
			w.script = func(ctx context.Context, _ fake.Machine) string { <-ctx.Done(); return "" }
		}, "agent did not connect within 10s"},
		{"MachineDies", func(w *world) {
			w.script = func(context.Context, fake.Machine) string { return "kernel panic" }
		}, "agent did not connect within 10s"},
		{"Forbidden", refuse(muster.CodeForbidden), "GitHub refuses the registration: refused forbidden"},
		{"EveryNameTaken", refuse(muster.CodeExists), "GitHub refuses the registration: every name that was tried is taken"},
		{"NeverListens", func(w *world) {
			w.script = func(ctx context.Context, m fake.Machine) string {
				if _, err := w.boot(ctx, m); err != nil {
					return err.Error()
				}
				<-ctx.Done()
				return ""
			}
		}, "runner did not listen within 10m0s of connecting"},
		{"RunnerBroken", func(w *world) {
			w.script = func(ctx context.Context, m fake.Machine) string {
				resp, err := w.boot(ctx, m)
				if err == nil {
					_, err = w.fleet().Report(ctx, resp.SessionToken, wire.Report{Phase: wire.PhaseFinished, Reason: "runner failed: it ended with code 1 before it listened for jobs"})
				}
				return fmt.Sprint(err)
			}
		}, "runner failed: it ended with code 1"},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, onDemand)
				w.mu.Lock()
				tc.breaks(w)
				w.mu.Unlock()
				stop := w.run()
				if err := w.SetPool("ci-workers", muster.PoolOverride{MaxRunners: new(1)}); err != nil {
					t.Fatal(err)
				}
				w.gh.queue(1, time.Second)
				w.Nudge()
				after(12 * time.Minute)
				stop()
				after(5 * time.Minute)
				w.clean()
				all := w.Runners()
				if len(all) == 0 || !all[len(all)-1].Failed || !strings.Contains(all[len(all)-1].Reason, tc.reason) {
					t.Errorf("%+v\nwant %q", all, tc.reason)
				}
			})
		})
	}
}

// 4-52: a platform that refuses is asked less and less often, and at once again when it works.
func TestRefusalsAreHeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand)
		w.cfg.Times.Check = time.Second
		w.again()
		w.cloud.Fail(fake.Fault{Call: fake.Create, Err: provider.ErrQuota})
		w.gh.queue(1, time.Second)
		stop := w.run()
		after(20 * time.Minute)
		if n := w.cloud.Counts().Calls[fake.Create]; n < 8 || n > 15 {
			t.Errorf("asked %d times in 20 minutes", n)
		}
		if r := w.decisions()[0].Decision.Reason; !strings.Contains(r, "no capacity") && !strings.Contains(r, "quota exceeded") {
			t.Error(r)
		}
		w.cloud.Heal()
		after(6 * time.Minute)
		if jobs, _ := w.gh.counts(); jobs["success"] != 1 {
			t.Errorf("%v\n%s", jobs, w.log)
		}
		stop()
		w.clean()
	})
}

// A GitHub that is out of order for a while costs no runner: its agent asks again.
func TestRegistrationLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand)
		failed := 0
		w.gh.breaks(func(call string) error {
			if strings.HasPrefix(call, "jit ") && failed < 5 {
				failed++
				return errors.New("502 " + marker)
			}
			return nil
		})
		w.gh.queue(1, time.Second)
		stop := w.run()
		after(30 * time.Second)
		if jobs, _ := w.gh.counts(); jobs["success"] != 1 || failed != 5 {
			t.Errorf("%v after %d failures\n%s", jobs, failed, w.log)
		}
		stop()
		w.clean()
	})
}

// 4-10 4-11: a boot token works for the agent that came first, again and again, and for no other.
func TestBootAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand)
		codes := map[string]muster.Code{}
		w.script = func(ctx context.Context, m fake.Machine) string {
			token := m.Spec.Boot.Token.Reveal()
			try := func(name, token, nonce string) wire.BootResponse {
				resp, err := w.fleet().Boot(ctx, token, wire.BootRequest{Nonce: nonce, Download: true, OS: "linux", Arch: "amd64"})
				codes[name] = muster.CodeOf(err)
				return resp
			}
			try("no nonce", token, "")
			try("forged", token+"x", "a")
			first := try("first", token, "a")
			second := try("same nonce", token, "a")
			try("other nonce", token, "b")
			if first.Name == second.Name || second.JITConfig == "" || second.Download == nil {
				t.Errorf("%+v, then %+v", first, second)
			}
			_, err := w.fleet().Report(ctx, token, wire.Report{}) // a boot token is no session
			codes["session"] = muster.CodeOf(err)
			return w.listen(ctx, second)
		}
		w.gh.queue(1, time.Second)
		stop := w.run()
		after(10 * time.Second)
		want := map[string]muster.Code{"no nonce": muster.CodeInvalid, "forged": muster.CodeUnauthenticated, "first": "", "same nonce": "", "other nonce": muster.CodeConflict, "session": muster.CodeUnauthenticated}
		if d := cmp.Diff(want, codes); d != "" {
			t.Error(d)
		}
		stop()
		w.clean()
	})
}

func idleRunners(n int) func(*muster.Pool) {
	return func(p *muster.Pool) { p.Scaling.MinRunners = n }
}

// S1-69 S1-70 S1-71 S1-94 C21 4-25: an idle runner is deregistered, its service stopped, its machine deleted,
// in this order; GitHub's 404 and 5xx do not keep the machine.
func TestScaleDown(t *testing.T) {
	for _, tc := range []struct {
		situation string
		removal   error
	}{
		{"Removed", nil},
		{"AlreadyGone", muster.Errorf(muster.CodeNotFound, "404")},
		{"GitHubDown", muster.Errorf(muster.CodeUnavailable, "502")},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, idleRunners(3))
				stop := w.run()
				after(time.Minute)
				if n := w.live()[muster.RunnerRegistered]; n != 3 {
					t.Fatalf("%v\n%s", w.live(), w.log)
				}
				w.gh.breaks(func(call string) error {
					if strings.HasPrefix(call, "remove ") {
						w.step("deregistered")
						return tc.removal
					}
					return nil
				})
				w.mu.Lock()
				w.steps = nil
				w.mu.Unlock()
				if err := w.SetPool("ci-workers", muster.PoolOverride{MinRunners: new(2)}); err != nil {
					t.Fatal(err)
				}
				after(2 * time.Minute)
				if n := w.total(); n != 2 || w.cloud.Counts().Live != 2 {
					t.Errorf("%v, %d machines\n%s", w.live(), w.cloud.Counts().Live, w.log)
				}
				if d := cmp.Diff([]string{"deregistered", "service stopped"}, slices.Compact(w.did())[:2]); d != "" {
					t.Error(d)
				}
				w.gh.breaks(nil)
				stop()
				after(5 * time.Minute)
				if w.total() != 0 || w.cloud.Counts().Live != 0 {
					t.Errorf("%v", w.live())
				}
			})
		})
	}
}

// 4-17 4-18 4-25: a runner that got a job between the decision and its end stays: GitHub's 422 says so,
// and so does the agent when GitHub does not.
func TestNeverKillsABusyRunner(t *testing.T) {
	for _, vanished := range []bool{false, true} {
		t.Run(fmt.Sprintf("Vanished=%t", vanished), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, idleRunners(2))
				stop := w.run()
				after(time.Minute)
				// Each gets a job at the moment at which it is to go.
				w.gh.queue(2, 10*time.Minute, "elsewhere")
				given := 0
				w.gh.breaks(func(call string) error {
					name, removal := strings.CutPrefix(call, "remove ")
					switch {
					case call == "queue":
						return muster.Errorf(muster.CodeUnavailable, "not now")
					case removal && given < 2:
						w.gh.assign(name, w.gh.jobs[given])
						if given++; vanished {
							return muster.Errorf(muster.CodeNotFound, "the job consumed it")
						}
					}
					return nil
				})
				for _, r := range w.Runners() {
					if err := w.DrainRunner(r.ID, "test"); err != nil {
						t.Fatal(err)
					}
				}
				after(2 * time.Second)
				stop()
				after(15 * time.Minute)
				if jobs, _ := w.gh.counts(); jobs["success"] != 2 {
					t.Errorf("%v\n%s", jobs, w.log)
				}
			})
		})
	}
}

// S1-56 S1-72 S1-73 S1-74 S1-95 C20: after 24 h an idle runner is replaced: first the new one, which has
// to be online on GitHub, then the old one goes. While no new one comes up, the old one stays.
func TestRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(p *muster.Pool) {
			onDemand(p)
			p.Scaling.MinRunners, p.Scaling.MaxRunners = 1, 3
		})
		stop := w.run()
		after(time.Minute)
		old := w.Runners()[0].ID
		listed := func() (ids []muster.RunnerID) {
			for _, r := range w.Runners() {
				if r.State == muster.RunnerRegistered {
					ids = append(ids, r.ID)
				}
			}
			return ids
		}
		after(23 * time.Hour)
		if d := cmp.Diff([]muster.RunnerID{old}, listed()); d != "" {
			t.Fatal(d)
		}
		// A new one that never connects leaves the old one where it is.
		w.mu.Lock()
		w.script = func(ctx context.Context, _ fake.Machine) string { <-ctx.Done(); return "" }
		w.mu.Unlock()
		after(2 * time.Hour)
		if got := listed(); !slices.Contains(got, old) {
			t.Fatalf("the old runner went without a new one: %v", got)
		}
		// One that listens and that GitHub does not list as online does, too.
		w.mu.Lock()
		w.script = nil
		w.mu.Unlock()
		w.gh.mu.Lock()
		oldName := ""
		for _, r := range w.gh.runners {
			oldName = r.Name
		}
		w.gh.offline = func(name string) bool { return name != oldName }
		w.gh.mu.Unlock()
		after(3 * time.Minute)
		if got := listed(); len(got) != 2 || !slices.Contains(got, old) || !strings.Contains(w.decisions()[0].Decision.Reason, "as online") {
			t.Fatalf("%v: %s", got, w.decisions()[0].Decision.Reason)
		}
		w.gh.mu.Lock()
		w.gh.offline = nil
		w.gh.mu.Unlock()
		after(10 * time.Minute)
		if got := listed(); len(got) != 1 || got[0] == old {
			t.Errorf("after the rotation: %v\n%s", got, w.log)
		}
		stop()
		after(10 * time.Minute)
		w.clean()
	})
}

// S1-75 S1-110: runners are looked at every 120 s. Healthy means online; an idle one that GitHub calls
// offline twice is replaced, and no answer changes nothing (4-27).
func TestHealth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, idleRunners(1))
		stop := w.run()
		after(time.Second)
		first := w.Runners()[0]
		if !w.Healthy(t.Context(), first.ID) {
			t.Error("online is not healthy")
		}
		w.gh.breaks(func(call string) error {
			if strings.HasPrefix(call, "runner ") || call == "list" {
				return muster.Errorf(muster.CodeUnavailable, "500")
			}
			return nil
		})
		if w.Healthy(t.Context(), first.ID) || w.Healthy(t.Context(), "r-nobody") {
			t.Error("unknown is healthy")
		}
		before := w.gh.called("list")
		after(10 * time.Minute)
		if n := w.gh.called("list") - before; n != 5 {
			t.Errorf("%d looks in 10 minutes", n)
		}
		if r := w.Runners()[0]; r.ID != first.ID || r.State != muster.RunnerRegistered {
			t.Errorf("%+v", r)
		}
		w.gh.breaks(nil)
		offline := true
		w.gh.mu.Lock()
		w.gh.offline = func(name string) bool { return offline && name == first.Name }
		w.gh.mu.Unlock()
		if w.Healthy(t.Context(), first.ID) {
			t.Error("offline is healthy")
		}
		after(2 * time.Minute)
		if r := w.Runners()[0]; r.ID != first.ID {
			t.Error("one look was enough")
		}
		after(4 * time.Minute)
		if r := w.Runners()[0]; r.ID == first.ID || r.State != muster.RunnerRegistered {
			t.Errorf("not replaced: %+v\n%s", r, w.log)
		}
		stop()
		after(time.Minute)
		w.clean()
	})
}

// S1-111 S1-112: of 50 runners at most 10 are on their way at a time, over all pools.
func TestAtMostTenAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		second := ci()
		second.Name, second.Labels, second.RunnerLabels = "other", muster.Labels{"gpu"}, nil
		second = second.WithDefaults()
		w.pools = append(w.pools, second)
		for i := range w.pools {
			w.pools[i].Scaling = muster.Scaling{MaxRunners: 25, JobsPerRunner: 1}
			w.pools[i].Provisioning = 25
		}
		w.again()
		w.gh.queue(25, time.Hour)
		w.gh.queue(25, time.Hour, "gpu")
		w.cloud.SetDelays(fake.Delays{Create: time.Second, Boot: 3 * time.Second})
		stop := w.run()
		peak := 0
		for range 60 {
			after(500 * time.Millisecond)
			on := 0
			for _, r := range w.Runners() {
				if r.State == muster.RunnerProvisioning && !r.LaunchedAt.IsZero() {
					on++
				}
			}
			peak = max(peak, on)
		}
		if peak != 10 || w.live()[muster.RunnerActive] != 50 {
			t.Errorf("at most %d at once, %v in the end", peak, w.live())
		}
		stop()
	})
}

func TestExecutor(t *testing.T) { // S1-111 S1-112
	bubble(t, func(t *testing.T) {
		e := fleet.NewExecutor(10)
		var group sync.WaitGroup
		var mu sync.Mutex
		now, peak := 0, 0
		for range 50 {
			group.Go(func() {
				_ = e.Do(t.Context(), func() error {
					mu.Lock()
					now++
					peak = max(peak, now)
					mu.Unlock()
					<-time.After(time.Second)
					mu.Lock()
					now--
					mu.Unlock()
					return nil
				})
			})
		}
		group.Wait()
		if peak != 10 {
			t.Errorf("peak %d", peak)
		}
		ended, cancel := context.WithCancel(t.Context())
		full := fleet.NewExecutor(0)
		cancel()
		if err := full.Do(ended, func() error { return nil }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// S1-113 4-27: ten minutes without an answer from GitHub: it is asked less often, nothing is destroyed,
// and afterwards everything goes on.
func TestRateLimitedForTenMinutes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, idleRunners(3))
		stop := w.run()
		after(30 * time.Minute)
		before := w.Runners()
		if len(before) != 3 {
			t.Fatalf("%v", w.live())
		}
		// What would be scaled down, if no answer were read as no jobs.
		if err := w.SetPool("ci-workers", muster.PoolOverride{MinRunners: new(0)}); err != nil {
			t.Fatal(err)
		}
		w.gh.breaks(func(string) error {
			return &muster.Error{Code: muster.CodeUnavailable, Message: "rate limited until 10 minutes from now", RetryAfter: 30 * time.Second}
		})
		asked := w.gh.called("queue")
		after(10 * time.Minute)
		if n := w.gh.called("queue") - asked; n > 6 {
			t.Errorf("asked %d times", n)
		}
		if d := cmp.Diff(before, w.Runners(), cmp.Comparer(func(a, b time.Time) bool { return true })); d != "" {
			t.Errorf("runners changed: %s", d)
		}
		if d := w.decisions()[0].Decision; d.Rule != muster.RuleNoData || d.Action != muster.Maintain {
			t.Errorf("%+v", d)
		}
		if p := w.Problems(); len(p) != 1 || !strings.Contains(p[0], "rate limited") {
			t.Errorf("%q", p)
		}
		w.gh.breaks(nil)
		after(20 * time.Minute)
		if w.total() != 0 || len(w.Problems()) != 0 {
			t.Errorf("%v %v", w.live(), w.Problems())
		}
		stop()
		w.clean()
	})
}

// 4-7: while the budget is short, the queue is looked at less often.
func TestBudgetStretchesChecks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.gh.stretch = 5
		stop := w.run()
		after(30 * time.Minute)
		if n := w.gh.called("queue"); n != 7 {
			t.Errorf("%d looks", n)
		}
		stop()
	})
}

// 4-51: a run that was killed in the middle leaves nothing behind for ever: the next one finds its
// runners, keeps those that have jobs or wait for one, and ends what is of no use.
func TestRestartWithLeftovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand, idleRunners(4))
		w.cfg.Memory = fleet.File(filepath.Join(t.TempDir(), "state.json"))
		w.again()
		w.gh.queue(2, 20*time.Minute)
		ctx, kill := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			w.fleet().RunUntilKilled(ctx)
			close(ended)
		}()
		after(90 * time.Second) // two busy, two idle
		if l := w.live(); l[muster.RunnerActive] != 2 || l[muster.RunnerRegistered] != 2 {
			t.Fatalf("%v\n%s", l, w.log)
		}
		// Two more that are on their way when it dies: one has its machine, one its registration.
		w.cloud.SetDelays(fake.Delays{Boot: time.Hour})
		w.gh.queue(4, time.Minute)
		after(time.Minute)
		kill()
		<-ended
		machines := w.cloud.Counts().Live
		w.cloud.SetDelays(fake.Delays{})
		// One ended while nobody looked, and a registration was left by it.
		var idle muster.Runner
		for _, r := range w.Runners() {
			if r.State == muster.RunnerRegistered && !r.Busy {
				idle = r
			}
		}
		if idle.ID != "" {
			w.cloud.End("fleet", idle.ID, "power cut")
		}
		synctest.Wait()

		w.again()
		stop := w.run()
		after(time.Second)
		if n := w.gh.called("jit"); n < 4 {
			t.Errorf("%d registrations", n)
		}
		after(30 * time.Minute)
		jobs, _ := w.gh.counts()
		if jobs["success"] != 6 || len(jobs) != 1 {
			t.Errorf("jobs %v; %d machines were left\n%s", jobs, machines, w.log)
		}
		if w.total() != 4 || w.cloud.Counts().Live != 4 {
			t.Errorf("%v, %d machines\n%s", w.live(), w.cloud.Counts().Live, w.log)
		}
		stop()
		after(10 * time.Minute)
		w.clean()
	})
}

// What other fleets have registered, and what people did by hand, is left alone; what this one has
// left is removed at the second look, unless it is online or busy.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		other := newWorld(t)
		other.cfg.Key = []byte(strings.Repeat("x", 32))
		other.again()
		leave := func(w *world) (name string) {
			w.gh.queue(1, time.Second)
			if err := w.SetPool("ci-workers", muster.PoolOverride{MinRunners: new(1)}); err != nil {
				t.Fatal(err)
			}
			stop := w.run()
			after(time.Second)
			name = w.Runners()[0].Name
			stop()
			after(time.Minute)
			return name
		}
		ours, theirs := leave(w), leave(other)
		w.again()
		for i, name := range []string{ours, theirs, "ci-workers-abcdefghijklmnop", "by-hand", ours + "-1", ours + "-2"} {
			w.gh.runners[int64(100+i)] = &muster.RemoteRunner{ID: int64(100 + i), Name: name, Online: strings.HasSuffix(name, "-1"), Busy: strings.HasSuffix(name, "-2")}
		}
		// A machine that appeared from nowhere, old enough to be a stray.
		stop := w.run()
		_, err := w.cloud.Provider("fleet").Create(t.Context(), provider.Spec{Runner: "r-stray", Owner: "fleet", Boot: provider.Boot{URL: "http://x", Token: "x"}})
		if err != nil {
			t.Fatal(err)
		}
		after(2*time.Minute + time.Second)
		if w.gh.called("remove "+ours) > 1 {
			t.Error("removed at the first look")
		}
		after(10 * time.Minute)
		var left []string
		w.gh.mu.Lock()
		for _, r := range w.gh.runners {
			left = append(left, r.Name)
		}
		w.gh.mu.Unlock()
		slices.Sort(left)
		want := []string{theirs, "ci-workers-abcdefghijklmnop", "by-hand", ours + "-1", ours + "-2"}
		slices.Sort(want)
		if d := cmp.Diff(want, left); d != "" {
			t.Error(d)
		}
		if n := w.cloud.Counts().Live; n != 0 {
			t.Errorf("%d machines", n)
		}
		stop()
	})
}

// At the end idle runners go and busy ones stay, to finish by themselves; with Force they go, too.
func TestEnd(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprintf("Force=%t", force), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, onDemand, idleRunners(3))
				w.cfg.Force = force
				w.again()
				w.gh.queue(1, time.Hour)
				stop := w.run()
				after(90 * time.Second)
				w.cloud.SetDelays(fake.Delays{Boot: time.Minute}) // and one is on its way
				w.gh.queue(3, time.Hour)
				w.Nudge()
				after(2 * time.Second)
				began := time.Now()
				busy := stop()
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %s", took)
				}
				want := 3
				if force {
					want = 0
				}
				if l := w.cloud.Counts().Live; busy != want || l != want {
					t.Errorf("%d busy, %d machines, want %d\n%s", busy, l, want, w.log)
				}
			})
		})
	}
}

// --once: one look, one decision, and the end when its runners have registered; the next one finds
// them, and the cooldown, again.
func TestOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Memory = fleet.File(filepath.Join(t.TempDir(), "state.json"))
		w.again()
		w.gh.queue(10, 2*time.Minute)
		w.cloud.SetDelays(fake.Delays{Boot: 3 * time.Second})
		if err := w.fleet().Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, n := w.gh.counts(); n != 5 || w.gh.called("queue") != 1 {
			t.Errorf("%d registrations, %d looks", n, w.gh.called("queue"))
		}
		after(4 * time.Minute)
		w.again()
		if err := w.fleet().Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := w.decisions()[0].Decision; d.Rule != muster.RuleCooldown {
			t.Errorf("%+v", d)
		}
		after(10 * time.Minute)
		w.again()
		w.cloud.Fail(fake.Fault{Call: fake.Create, Err: provider.ErrQuota})
		w.gh.breaks(nil)
		if err := w.fleet().Once(t.Context()); err == nil || !strings.Contains(err.Error(), "quota") { // 4-55
			t.Errorf("%v", err)
		}
		w.again()
		w.gh.breaks(func(string) error { return muster.Errorf(muster.CodeUnauthenticated, "GitHub refused the token") })
		if err := w.fleet().Once(t.Context()); err == nil || !strings.Contains(err.Error(), "GitHub refused the token") {
			t.Errorf("%v", err)
		}
	})
}

// The file is read before every check: a fleet that is disabled or gone is drained, one that is
// new is served, one that cannot be read stays as it was. What was asked for meanwhile holds until
// the entry changes.
func TestFileChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, idleRunners(2))
		change := func(f func()) {
			w.mu.Lock()
			f()
			w.mu.Unlock()
			after(2 * time.Minute)
		}
		stop := w.run()
		change(func() {})
		if w.total() != 2 {
			t.Fatalf("%v", w.live())
		}
		change(func() { w.broken = errors.New("fleets.json:3: invalid character") })
		if w.total() != 2 || len(w.Problems()) != 1 {
			t.Errorf("%v %v", w.live(), w.Problems())
		}
		if err := w.SetPool("ci-workers", muster.PoolOverride{MinRunners: new(4)}); err != nil {
			t.Fatal(err)
		}
		change(func() { w.broken = nil })
		if w.total() != 4 || len(w.Problems()) != 0 {
			t.Errorf("%v %v", w.live(), w.Problems())
		}
		if err := w.SetPool("ci-workers", muster.PoolOverride{MinRunners: new(40)}); muster.CodeOf(err) != muster.CodeInvalid {
			t.Error(err)
		}
		if err := w.SetPool("nope", muster.PoolOverride{}); muster.CodeOf(err) != muster.CodeNotFound {
			t.Error(err)
		}
		change(func() { w.pools[0].Scaling.MinRunners = 1 })
		after(10 * time.Minute)
		if w.total() != 1 {
			t.Errorf("%v", w.live())
		}
		change(func() { w.pools[0].Enabled = false })
		if w.total() != 0 || len(w.Pools()) != 1 { // S1-82
			t.Errorf("%v", w.live())
		}
		change(func() { w.pools[0].Enabled = true })
		after(10 * time.Minute)
		if w.total() != 1 {
			t.Errorf("%v", w.live())
		}
		change(func() { w.pools = nil })
		after(2 * time.Minute)
		if w.total() != 0 || len(w.Pools()) != 0 {
			t.Errorf("%v %v", w.live(), w.Pools())
		}
		stop()
		w.clean()
	})
}

// A start without GitHub waits for it, and tells agents of an earlier run to wait, too.
func TestStartWithoutGitHub(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand)
		w.gh.queue(1, time.Minute)
		stop := w.run()
		after(2 * time.Second)
		stop()
		w.again()
		w.gh.breaks(func(string) error { return errors.New("connection refused") })
		stop = w.run()
		after(10 * time.Second)
		if p := w.Problems(); len(p) != 1 || len(w.Runners()) != 0 {
			t.Errorf("%q %v", p, w.Runners())
		}
		w.gh.breaks(nil)
		after(5 * time.Minute)
		if jobs, _ := w.gh.counts(); jobs["success"] != 1 {
			t.Errorf("%v\n%s", jobs, w.log)
		}
		stop()
		w.clean()
	})
}

// 4-18 4-51: after a restart whose agents cannot reach it, what GitHub and the platform say decides: an
// idle runner is deregistered and goes, one whose machine has ended is cleared away, one that GitHub calls busy
// stays until its machine has ended.
func TestRestartWithoutItsAgents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand, idleRunners(3))
		w.script = func(ctx context.Context, m fake.Machine) string {
			resp, err := w.boot(ctx, m)
			if err != nil {
				return err.Error()
			}
			if _, err := w.fleet().Report(ctx, resp.SessionToken, wire.Report{Phase: wire.PhaseListening}); err != nil {
				return err.Error()
			}
			w.gh.set(resp.Name, func(r *muster.RemoteRunner) { r.Online = true })
			<-ctx.Done()
			return "power cut"
		}
		ctx, kill := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			w.fleet().RunUntilKilled(ctx)
			close(ended)
		}()
		after(time.Second)
		kill()
		<-ended
		runners := w.Runners()
		busy, listed, lost := runners[0], runners[1], runners[2]
		w.gh.queue(1, time.Hour, "elsewhere")
		w.gh.mu.Lock()
		w.gh.assign(busy.Name, w.gh.jobs[0])
		delete(w.gh.runners, lost.GitHubID) // consumed, or GitHub has lost it
		w.gh.mu.Unlock()
		w.pools[0].Enabled = false
		w.again()
		stop := w.run()
		after(10 * time.Minute)
		states := map[muster.RunnerID]muster.RunnerState{}
		for _, r := range w.Runners() {
			states[r.ID] = r.State
		}
		want := map[muster.RunnerID]muster.RunnerState{busy.ID: muster.RunnerActive, listed.ID: muster.RunnerDestroyed, lost.ID: muster.RunnerDraining}
		if d := cmp.Diff(want, states); d != "" {
			t.Errorf("%s\n%s", d, w.log)
		}
		snap, err := w.Snapshot("ci-workers")
		if err != nil || len(snap.Runners) != 1 || !snap.Runners[0].Busy {
			t.Errorf("%+v %v", snap, err)
		}
		// Both machines lose power; the platform proves it.
		w.cloud.End("fleet", busy.ID, "power cut")
		w.cloud.End("fleet", lost.ID, "power cut")
		w.gh.done(w.gh.jobs[0], "failure")
		after(5 * time.Minute)
		if w.total() != 0 || w.cloud.Counts().Live != 0 {
			t.Errorf("%v\n%s", w.live(), w.log)
		}
		stop()
		w.clean()
	})
}

// S1-104: ids of a fleet never repeat, although they begin with its mark.
func TestNames(t *testing.T) {
	w := newWorld(t)
	seen := map[muster.RunnerID]bool{}
	for range 100_000 {
		id := w.NewID()
		if seen[id] || !id.Valid() || !muster.ValidRunnerName(muster.RegistrationName(strings.Repeat("p", 60), id, 9)) {
			t.Fatal(id)
		}
		seen[id] = true
	}
}

// What a runner printed is kept, the last of it, and pieces may come twice.
func TestLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, onDemand)
		w.script = func(ctx context.Context, m fake.Machine) string {
			resp, err := w.boot(ctx, m)
			if err != nil {
				return err.Error()
			}
			for _, c := range []wire.LogChunk{{Offset: 0, Data: []byte("Listening ")}, {Offset: 0, Data: []byte("Listening ")}, {Offset: 5, Data: []byte("ning for Jobs\n")}} {
				if _, err := w.fleet().Log(ctx, resp.SessionToken, c); err != nil {
					return err.Error()
				}
			}
			return w.listen(ctx, resp)
		}
		w.gh.queue(1, time.Minute)
		stop := w.run()
		after(time.Second)
		if _, log := w.History(w.Runners()[0].ID); string(log) != "Listening for Jobs\n" {
			t.Errorf("%q", log)
		}
		if _, err := w.fleet().Log(t.Context(), "session.x.r-none.AAAA", wire.LogChunk{}); muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Error(err)
		}
		after(2 * time.Minute)
		stop()
		w.clean()
	})
}

func TestMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	m := fleet.File(path)
	if got, err := m.Load(); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	want := map[string]time.Time{"ci-workers": time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	if err := m.Save(want); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Load(); err != nil || cmp.Diff(want, got) != "" {
		t.Error(got, err)
	}
	if err := fleet.File(filepath.Join(path, "x")).Save(want); err == nil {
		t.Error("saved below a file")
	}
	if _, err := fleet.New(fleet.Config{Key: []byte("short")}); err == nil {
		t.Error("a short key")
	}
}
