package githubsim_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// Everything that Go can do to a server can be done over HTTP.
func TestManagement(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	do := func(status int, method, path, body string, into any) {
		t.Helper()
		rec := httptest.NewRecorder()
		w.ManagementHandler().ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
		if rec.Code != status {
			t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
		}
		if into != nil {
			if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
				t.Fatalf("%s %s: %v: %s", method, path, err, rec.Body)
			}
		}
	}
	var app githubsim.App
	do(200, "POST", "/apps", `{"name":"Over HTTP","events":["workflow_job"]}`, &app)
	do(200, "POST", "/organizations", `{"login":"umbrella"}`, nil)
	do(400, "POST", "/organizations", `{"login":"umbrella"}`, nil)
	do(400, "POST", "/organizations", `{"name":"unknown key"}`, nil)
	do(200, "POST", "/enterprises", `{"slug":"corp","organizations":["umbrella"]}`, nil)
	do(200, "POST", "/repositories", `{"name":"umbrella/app","gates":["prod"],"files":{".github/workflows/ci.yml":"on: push\njobs: {a: {runs-on: linux, environment: prod, steps: [{run: x}]}}"}}`, nil)
	var made struct{ ID, Run int64 }
	do(200, "POST", "/installations", fmt.Sprintf(`{"app":%d,"account":"umbrella"}`, app.ID), &made)
	do(200, "POST", "/trigger", `{"repo":"umbrella/app","workflow":"ci.yml","event":"push"}`, &made)
	do(200, "POST", fmt.Sprintf("/runs/%d/approve", made.Run), `{"repo":"umbrella/app","environment":"prod"}`, nil)
	do(200, "POST", fmt.Sprintf("/runs/%d/cancel", made.Run), `{"repo":"umbrella/app"}`, nil)
	do(200, "POST", fmt.Sprintf("/runs/%d/rerun", made.Run), `{"repo":"umbrella/app"}`, nil)
	do(200, "POST", fmt.Sprintf("/runs/%d/reject", made.Run), `{"repo":"umbrella/app","environment":"prod"}`, nil)
	do(400, "POST", fmt.Sprintf("/runs/%d/reject", made.Run), `{"repo":"umbrella/app","environment":"prod"}`, nil)
	var jobs struct{ Jobs []int64 }
	do(200, "POST", "/jobs", `{"repo":"acme/web","labels":["x"],"duration":"1s","count":3}`, &jobs)
	do(200, "POST", fmt.Sprintf("/jobs/%d/cancel", jobs.Jobs[0]), "", nil)
	do(200, "POST", "/tokens", `{"login":"alice","scopes":["repo"]}`, nil)
	do(200, "POST", "/webhook", fmt.Sprintf(`{"app":%d,"url":%q}`, app.ID, w.hook.url), nil)

	var set githubsim.FaultSettings
	do(200, "PATCH", "/faults", `{"drop_deliveries":0.5,"clock_skew":"-3s"}`, &set)
	do(200, "PATCH", "/faults", `{"lose_jit_answers":0.25}`, &set)
	want := githubsim.FaultSettings{DropDeliveries: 0.5, ClockSkew: githubsim.Duration(-3 * time.Second), LoseJITAnswers: 0.25}
	if d := cmp.Diff(want, set); d != "" {
		t.Errorf("faults (-want +got)\n%s", d)
	}
	do(400, "PATCH", "/faults", `{"drop":1}`, nil)
	do(200, "POST", "/faults/hostile", "", &set)
	if d := cmp.Diff(githubsim.Hostile(), set); d != "" {
		t.Errorf("hostile (-want +got)\n%s", d)
	}
	do(200, "POST", "/faults/off", "", &set)
	do(200, "PUT", "/faults", `{}`, &set)
	if d := cmp.Diff(githubsim.FaultSettings{}, set); d != "" {
		t.Errorf("off (-want +got)\n%s", d)
	}
	do(200, "POST", "/faults/expire-tokens", "", nil)

	b := w.bot(w.jit(w.token(), "logger", "x").Config)
	b.connect()
	job := b.take()
	w.must(200, b.call("log", message.LogRequest{PlanID: job.PlanID, JobID: job.JobID, Data: "hello\n"}), nil)
	b.complete(job, message.Success)
	var truth githubsim.Truth
	do(200, "GET", "/truth", "", &truth)
	states := truth.ByState()
	if states["completed"] != 4 || states["queued"] != 1 || truth.Registered != 1 {
		t.Errorf("%v, %d registered", states, truth.Registered)
	}
	var verdict []string
	do(200, "GET", "/verdict", "", &verdict)
	if len(verdict) != 0 {
		t.Errorf("%q", verdict)
	}
	rec := httptest.NewRecorder()
	w.ManagementHandler().ServeHTTP(rec, httptest.NewRequest("GET", fmt.Sprintf("/jobs/%d/log", jobs.Jobs[1]), nil))
	if rec.Body.String() != "hello\n" {
		t.Errorf("log %d %q", rec.Code, rec.Body)
	}
}

// The books: a runner that shuts down under its job is a kill, whatever it reports.
func TestShutDownIsAKill(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	id := w.inject("x")
	b := w.bot(w.jit(w.token(), "spot", "x").Config)
	b.connect()
	b.complete(b.take(), message.Cancelled)
	w.untilJob(id, "completed")
	tr := w.Truth()
	if len(tr.BusyKills) != 1 || tr.BusyKills[0].Job != id || tr.BusyKills[0].Runner != "spot" || len(tr.Verdict()) != 1 {
		t.Errorf("%+v", tr.BusyKills)
	}
}

// A job is executed once: whoever claims it second is refused.
func TestExactlyOnce(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	id := w.inject("x")
	tok := w.token()
	winner, other := w.bot(w.jit(tok, "winner", "x").Config), w.bot(w.jit(tok, "other", "y").Config)
	winner.connect()
	other.connect()
	job := winner.take()
	for name, a := range map[string]answer{
		"Again":   winner.call("acquirejob", message.AcquireRequest{JobMessageID: job.JobID}),
		"Another": other.call("acquirejob", message.AcquireRequest{JobMessageID: job.JobID}),
	} {
		if a.StatusCode != 409 {
			t.Errorf("%s: %s %s", name, a.Status, a.body)
		}
	}
	w.must(404, other.complete(job, message.Success), nil)
	w.must(200, winner.complete(job, message.Success), nil)
	w.must(404, winner.complete(job, message.Success), nil)
	w.must(422, other.call("acquirejob", message.AcquireRequest{JobMessageID: job.JobID}), nil)
	w.must(404, other.call("acquirejob", message.AcquireRequest{JobMessageID: "nothing"}), nil)
	if j := w.job(id); j.Executions != 1 || j.Completions != 1 {
		t.Errorf("%+v", j)
	}
}

func TestFalseLost(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.Faults().FalseLost(1)
	id := w.inject("x")
	w.runOne(w.token(), "good", message.Success, "x")
	if j := w.untilJob(id, "completed"); j.Conclusion != "failure" || j.Completions != 1 {
		t.Errorf("%+v", j)
	}
}

func TestServerFaults(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	w.Faults().ServerErrors(1, "GET /orgs")
	if a := w.rest("GET", "/orgs/acme/actions/runners", tok, nil); a.StatusCode < 500 || a.message() != "Server Error" {
		t.Errorf("%s %s", a.Status, a.body)
	}
	w.must(200, w.rest("GET", "/repos/acme/web/actions/runs", tok, nil), nil)
	w.Faults().Off()
	w.Faults().EmptyAnswers(1)
	if a := w.rest("GET", "/orgs/acme/actions/runners", tok, nil); a.StatusCode != 200 || len(a.body) != 0 {
		t.Errorf("%s %s", a.Status, a.body)
	}
	w.Faults().Off()
	w.Faults().PrimaryLimit(1)
	if a := w.rest("GET", "/orgs/acme/actions/runners", tok, nil); a.StatusCode != 403 || a.Header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("%s %v", a.Status, a.Header)
	}
	w.Faults().Off()
	w.Faults().SessionConflicts(1)
	b := w.bot(w.jit(tok, "twin", "x").Config)
	w.must(409, b.connect(), nil)
	w.Faults().Off()
	w.Faults().StuckRecords(1, time.Hour)
	w.must(200, b.connect(), nil)
	w.inject("x")
	b.complete(b.take(), message.Success)
	var list struct {
		Runners []struct {
			Status string
			Busy   bool
		}
	}
	w.must(200, w.rest("GET", "/orgs/acme/actions/runners", tok, nil), &list)
	if len(list.Runners) != 1 || list.Runners[0].Status != "offline" || !list.Runners[0].Busy {
		t.Errorf("%+v", list)
	}
}
