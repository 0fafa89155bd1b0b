package githubsim_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// A job goes to a runner that has all its labels, whatever their case.
func TestMatching(t *testing.T) {
	for _, tt := range []struct {
		name        string
		job, runner []string
		match       bool
	}{
		{"Same", []string{"linux"}, []string{"linux"}, true},
		{"Case", []string{"Self-Hosted", "LINUX"}, []string{"self-hosted", "linux"}, true},
		{"RunnerHasMore", []string{"linux"}, []string{"linux", "x64", "gpu"}, true},
		{"RunnerHasLess", []string{"linux", "gpu"}, []string{"linux"}, false},
		{"NothingAsked", nil, []string{"linux"}, true},
		{"NoDefaults", []string{"self-hosted"}, []string{"linux"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, githubsim.Config{})
			// Once with the runner first, once with the job first.
			w.bot(w.jit(w.token(), "early", tt.runner...).Config).connect()
			w.inject(tt.job...)
			if got := w.Truth().Runners[0].Busy; got != tt.match {
				t.Errorf("waiting runner busy: %v, want %v", got, tt.match)
			}
			w.inject(tt.job...)
			late := w.jit(w.token(), "late", tt.runner...)
			w.bot(late.Config).connect()
			if got := w.Truth().Runners[1].Busy; got != tt.match {
				t.Errorf("late runner busy: %v, want %v", got, tt.match)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	for order, want := range map[githubsim.Order]int{githubsim.OldestFirst: 0, githubsim.NewestFirst: 2} {
		w := newWorld(t, githubsim.Config{Order: order})
		ids := []int64{w.inject("a"), w.inject("a", "b"), w.inject("a")}
		b := w.bot(w.jit(w.token(), "r", "a", "b").Config)
		b.connect()
		if got := w.Truth().Runners[0].Job; got != ids[want] {
			t.Errorf("%s: job %d of %v", order, got, ids)
		}
	}
}

// An assignment that nobody fetches is queued again; the one-job registration is
// gone, and its listener is a ghost.
func TestMissedAssignment(t *testing.T) {
	w := newWorld(t, githubsim.Config{PickupTimeout: 20 * time.Millisecond, LongPoll: time.Millisecond})
	tok := w.token()
	dead := w.bot(w.jit(tok, "dead", "x").Config)
	dead.connect() // and never polls
	id := w.inject("x")
	w.until("queued again", func(t githubsim.Truth) bool { return t.Requeued == 1 && len(t.Runners) == 0 })
	if j := w.job(id); j.Status != "queued" || j.Executions != 0 || !slices.Equal(j.Events, []string{"queued"}) {
		t.Errorf("%+v", j)
	}
	if a := dead.poll(); a.StatusCode != 202 {
		t.Errorf("a ghost's poll: %s %s", a.Status, a.body)
	}
	w.runOne(tok, "alive", message.Success, "x")
	if j := w.untilJob(id, "completed"); j.Executions != 1 || j.Runner != "alive" {
		t.Errorf("%+v", j)
	}
}

func TestGhostRunner(t *testing.T) {
	w := newWorld(t, githubsim.Config{PickupTimeout: 20 * time.Millisecond, LongPoll: 5 * time.Millisecond})
	tok := w.token()
	b := w.bot(w.jit(tok, "ghost", "x").Config)
	b.connect()
	w.Faults().GhostRunners(1)
	w.inject("x")
	for range 3 {
		if a := b.poll(); a.StatusCode != 202 {
			t.Fatalf("%s %s", a.Status, a.body)
		}
	}
	w.until("forgotten", func(t githubsim.Truth) bool { return len(t.Runners) == 0 && t.Faults["ghost runner"] == 1 })
	if a := b.poll(); a.StatusCode != 202 {
		t.Errorf("%s %s", a.Status, a.body)
	}
}

// A runner that dies under its job fails it after the lease; that is a kill in the
// books.
func TestLostRunner(t *testing.T) {
	w := newWorld(t, githubsim.Config{JobLease: 50 * time.Millisecond, OfflineAfter: 10 * time.Millisecond})
	id := w.inject("x")
	r := w.jit(w.token(), "doomed", "x")
	b := w.bot(r.Config)
	b.connect()
	b.take()
	w.until("offline and busy", func(t githubsim.Truth) bool {
		return len(t.Runners) == 1 && !t.Runners[0].Connected && t.Runners[0].Busy
	})
	a := w.rest("DELETE", fmt.Sprintf("/orgs/acme/actions/runners/%d", r.Runner.ID), w.token(), nil)
	if a.StatusCode != 422 || a.message() != `Runner "doomed" is currently running a job and cannot be deleted.` {
		t.Errorf("delete: %s %s", a.Status, a.message())
	}
	if j := w.untilJob(id, "completed"); j.Conclusion != "failure" || j.Completions != 0 {
		t.Errorf("%+v", j)
	}
	tr := w.Truth()
	if len(tr.BusyKills) != 1 || tr.BusyKills[0].Reason != "lease expired" || len(tr.Verdict()) != 1 {
		t.Errorf("%+v %q", tr.BusyKills, tr.Verdict())
	}
	var notes []struct{ Message string }
	w.must(200, w.rest("GET", fmt.Sprintf("/repos/%s/check-runs/%d/annotations", repo, id), w.token(), nil), &notes)
	if len(notes) != 1 || !strings.Contains(notes[0].Message, "lost communication") {
		t.Errorf("%+v", notes)
	}
}

func TestRenewalKeepsTheJob(t *testing.T) {
	w := newWorld(t, githubsim.Config{JobLease: 300 * time.Millisecond})
	id := w.inject("x")
	b := w.bot(w.jit(w.token(), "steady", "x").Config)
	b.connect()
	job := b.take()
	var last message.RenewAnswer
	for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); {
		w.must(200, b.call("renewjob", message.RenewRequest{PlanID: job.PlanID, JobID: job.JobID}), &last)
	}
	b.complete(job, message.Success)
	if j := w.untilJob(id, "completed"); j.Conclusion != "success" {
		t.Errorf("%+v", j)
	}
}

// A job that nobody takes ends by itself.
func TestQueueTimeout(t *testing.T) {
	w := newWorld(t, githubsim.Config{QueueTimeout: 10 * time.Millisecond})
	id := w.inject("nobody")
	if j := w.untilJob(id, "completed"); j.Conclusion != "cancelled" {
		t.Errorf("%+v", j)
	}
}

// After its job a record lingers: it cannot be deleted and its name is taken.
func TestLingeringRecord(t *testing.T) {
	w := newWorld(t, githubsim.Config{RecordLinger: time.Hour})
	tok := w.token()
	id := w.inject("x")
	w.runOne(tok, "linger", message.Success, "x")
	w.untilJob(id, "completed")
	r := w.Truth().Runners[0]
	w.must(422, w.rest("DELETE", fmt.Sprintf("/orgs/acme/actions/runners/%d", r.ID), tok, nil), nil)
	w.must(409, w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, map[string]any{"name": "linger", "runner_group_id": 1, "labels": []string{"x"}}), nil)
}

// The clock removes runners that were not connected for a day.
func TestAbsentRunners(t *testing.T) {
	var ahead atomic.Int64
	w := newWorld(t, githubsim.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	w.jit(w.token(), "forgotten", "x")
	ahead.Store(int64(23 * time.Hour))
	w.ClockChanged()
	if tr := w.Truth(); len(tr.Runners) != 1 || !tr.Runners[0].Leaked {
		t.Errorf("%+v", tr.Runners)
	}
	ahead.Store(int64(25 * time.Hour))
	w.ClockChanged()
	tr := w.until("removed", func(t githubsim.Truth) bool { return len(t.Runners) == 0 })
	if tr.Unregistered["not connected for too long"] != 1 {
		t.Errorf("%v", tr.Unregistered)
	}
}

func TestIdleReaper(t *testing.T) {
	w := newWorld(t, githubsim.Config{IdleReaper: 10 * time.Millisecond})
	b := w.bot(w.jit(w.token(), "idle", "x").Config)
	b.connect()
	w.until("reaped", func(t githubsim.Truth) bool { return len(t.Runners) == 0 })
	if a := b.poll(); a.StatusCode != 403 {
		t.Errorf("%s %s", a.Status, a.body)
	}
}

// A fault that is switched on later strikes whoever is idle already.
func TestReaperSwitchedOn(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.bot(w.jit(w.token(), "idle", "x").Config).connect()
	w.Faults().IdleReaper(time.Millisecond)
	w.until("reaped", func(t githubsim.Truth) bool { return len(t.Runners) == 0 && t.Faults["idle runner reaped"] == 1 })
}

// A job that outlives timeout-minutes and the grace is ended by the server.
func TestTimeoutMinutes(t *testing.T) {
	w := newWorld(t, githubsim.Config{CancelGrace: 10 * time.Millisecond})
	id, err := w.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"x"}, Timeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	b := w.bot(w.jit(w.token(), "endless", "x").Config)
	b.connect()
	if job := b.take(); job.TimeoutSeconds != 1 {
		t.Errorf("the runner is told %d seconds", job.TimeoutSeconds)
	}
	if j := w.untilJob(id, "completed"); j.Conclusion != "cancelled" || j.Completions != 0 {
		t.Errorf("%+v", j)
	}
}

func TestLies(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	w.inject("x")
	r := w.jit(tok, "liar", "x")
	b := w.bot(r.Config)
	b.connect()
	b.take()
	at := fmt.Sprintf("/orgs/acme/actions/runners/%d", r.Runner.ID)
	view := func() (got struct {
		Status string
		Busy   bool
	}) {
		w.must(200, w.rest("GET", at, tok, nil), &got)
		return got
	}
	if got := view(); !got.Busy || got.Status != "online" {
		t.Errorf("the truth: %+v", got)
	}
	w.Faults().LyingBusy(time.Hour)
	w.Faults().StatusLag(time.Hour)
	if got := view(); got.Busy || got.Status != "offline" {
		t.Errorf("the lie: %+v", got)
	}
	// What GitHub does is not what it shows.
	w.must(422, w.rest("DELETE", at, tok, nil), nil)
	w.Faults().UnlistedRunners(1)
	var list struct {
		Count int `json:"total_count"`
	}
	w.must(200, w.rest("GET", "/orgs/acme/actions/runners", tok, nil), &list)
	if list.Count != 0 || !w.Truth().Runners[0].Busy {
		t.Errorf("%+v", list)
	}
}

// Somebody else's job takes the runner; the intended one is still queued.
func TestStolenRunner(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	id := w.inject("self-hosted", "mine")
	w.Faults().StealRunners(1)
	b := w.bot(w.jit(w.token(), "victim", "self-hosted", "mine").Config)
	b.connect()
	job := b.take()
	if job.Name != "somebody else's job" || w.job(id).Status != "queued" {
		t.Errorf("took %q, the intended job is %s", job.Name, w.job(id).Status)
	}
	b.complete(job, message.Success)
	w.until("the thief is done", func(t githubsim.Truth) bool {
		return slices.ContainsFunc(t.Jobs, func(j githubsim.JobTruth) bool { return j.Alien && j.Conclusion == "success" && len(j.Labels) == 1 })
	})
}

// A runner that is not ephemeral does job after job.
func TestKeptRunner(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	var reg struct{ Token string }
	w.must(201, w.rest("POST", "/orgs/acme/actions/runners/registration-token", tok, nil), &reg)
	k := key()
	b := &bot{w: w, key: k}
	var answer message.RegisterAnswer
	w.must(200, w.rest("POST", "/api/v3/actions/runners/register", "", message.RegisterRequest{
		URL: w.url + "/acme", Name: "kept", Labels: []string{"x"}, PublicKey: publicKey(k),
	}, "Authorization", "RemoteAuth "+reg.Token), &answer)
	b.cred.Data = map[string]string{"clientId": answer.Authorization.ClientID, "authorizationUrl": answer.Authorization.AuthorizationURL}
	b.settings.ServerURLV2, b.settings.AgentID = answer.Authorization.ServerURL, answer.ID
	b.connect()
	for range 3 {
		id := w.inject("x")
		b.complete(b.take(), message.Success)
		if j := w.untilJob(id, "completed"); j.RunnerID != answer.ID {
			t.Errorf("%+v", j)
		}
	}
	if r := w.Truth().Runners; len(r) != 1 || r[0].Busy || r[0].Ephemeral {
		t.Errorf("%+v", r)
	}
	// The name is taken, unless it is replaced.
	w.must(409, w.rest("POST", "/actions/runners/register", "", message.RegisterRequest{URL: w.url + "/acme", Name: "kept", PublicKey: publicKey(k)},
		"Authorization", "RemoteAuth "+reg.Token), nil)
	w.must(200, w.rest("POST", "/actions/runners/register", "", message.RegisterRequest{URL: w.url + "/acme", Name: "kept", Replace: true, PublicKey: publicKey(k)},
		"Authorization", "RemoteAuth "+reg.Token), nil)
	w.must(404, w.rest("POST", "/actions/runners/register", "", message.RegisterRequest{URL: w.url + "/other", Name: "x", PublicKey: publicKey(k)},
		"Authorization", "RemoteAuth "+reg.Token), nil)
}
