package githubsim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// keys of workflow_job: all 23 are required (OpenAPI webhooks).
var jobKeys = []string{
	"check_run_url", "completed_at", "conclusion", "created_at", "head_branch", "head_sha", "html_url", "id", "labels", "name", "node_id", "run_attempt",
	"run_id", "run_url", "runner_group_id", "runner_group_name", "runner_id", "runner_name", "started_at", "status", "steps", "url", "workflow_name",
}

// The payload of a whole life, key by key.
func TestJobPayloads(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	id := w.inject("self-hosted", "Linux")
	w.runOne(w.token(), "worker", message.Success, "self-hosted", "linux")
	w.untilJob(id, "completed")
	job := func(action string) map[string]any {
		one := w.hook.find(t, 1, is("workflow_job", action))[0]
		for _, name := range []string{"repository", "organization", "sender", "installation"} {
			if one.json[name] == nil {
				t.Errorf("%s has no %s", action, name)
			}
		}
		j := one.json["workflow_job"].(map[string]any)
		var keys []string
		for k := range j {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if d := cmp.Diff(jobKeys, keys); d != "" {
			t.Errorf("%s: keys (-want +got)\n%s", action, d)
		}
		return j
	}
	for _, tt := range []struct {
		action string
		want   map[string]any
	}{
		{"queued", map[string]any{"status": "queued", "conclusion": nil, "runner_id": nil, "runner_name": nil, "steps": []any{}, "completed_at": nil}},
		{"in_progress", map[string]any{"status": "in_progress", "conclusion": nil, "runner_name": "worker", "runner_group_name": "Default", "runner_group_id": 1.0, "completed_at": nil}},
		{"completed", map[string]any{"status": "completed", "conclusion": "success", "runner_name": "worker"}},
	} {
		j := job(tt.action)
		for k, want := range tt.want {
			if d := cmp.Diff(want, j[k]); d != "" {
				t.Errorf("%s: %s (-want +got)\n%s", tt.action, k, d)
			}
		}
		if d := cmp.Diff([]any{"self-hosted", "Linux"}, j["labels"]); d != "" {
			t.Errorf("labels are not verbatim\n%s", d)
		}
		if j["started_at"] == nil || !strings.HasPrefix(j["node_id"].(string), "CR_kw") || !strings.HasSuffix(j["check_run_url"].(string), fmt.Sprint(id)) {
			t.Errorf("%s: %v", tt.action, j)
		}
	}
	if got := w.job(id).Events; !slices.Equal(got, []string{"queued", "in_progress", "completed"}) {
		t.Errorf("events %q", got)
	}
}

// Cancelled before anything ran: completed at once, runner 0, no in_progress.
func TestCancelBeforeStart(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	id := w.inject("nobody-has-this")
	run := w.Truth().Runs[0]
	if err := w.CancelRun(repo, run.ID); err != nil {
		t.Fatal(err)
	}
	j := w.hook.find(t, 1, is("workflow_job", "completed"))[0].json["workflow_job"].(map[string]any)
	if j["conclusion"] != "cancelled" || j["runner_id"] != 0.0 || j["started_at"] != j["completed_at"] || len(j["steps"].([]any)) != 0 {
		t.Errorf("%v", j)
	}
	if got := w.job(id).Events; !slices.Equal(got, []string{"queued", "completed"}) {
		t.Errorf("events %q", got)
	}
	if got := w.Truth().Runs[0]; got.Status != "completed" || got.Conclusion != "cancelled" {
		t.Errorf("run %+v", got)
	}
	at := fmt.Sprintf("/repos/%s/actions/runs/%d", repo, run.ID)
	w.must(409, w.rest("POST", at+"/cancel", w.token(), nil), nil)
	w.must(409, w.rest("POST", at+"/force-cancel", w.token(), nil), nil)
}

func TestCancelRunning(t *testing.T) {
	t.Run("RunnerStops", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{})
		id := w.inject("x")
		b := w.bot(w.jit(w.token(), "worker", "x").Config)
		b.connect()
		job := b.take()
		w.must(202, w.rest("POST", fmt.Sprintf("/repos/%s/actions/runs/%d/cancel", repo, w.job(id).RunID), w.token(), nil), nil)
		if m := b.next(); m.MessageType != message.TypeJobCancellation || !strings.Contains(m.Body, job.JobID) {
			t.Errorf("%+v", m)
		}
		w.must(200, b.complete(job, message.Cancelled), nil)
		if j := w.untilJob(id, "completed"); j.Conclusion != "cancelled" {
			t.Errorf("%+v", j)
		}
		if k := w.Truth().BusyKills; len(k) != 0 {
			t.Errorf("a wanted end is booked as a kill: %+v", k)
		}
	})
	t.Run("RunnerDoesNot", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{CancelGrace: 20 * time.Millisecond})
		id := w.inject("x")
		b := w.bot(w.jit(w.token(), "worker", "x").Config)
		b.connect()
		job := b.take()
		if err := w.CancelJob(id); err != nil {
			t.Fatal(err)
		}
		w.untilJob(id, "completed")
		w.must(404, b.call("renewjob", message.RenewRequest{PlanID: job.PlanID, JobID: job.JobID}), nil)
		w.must(404, b.complete(job, message.Success), nil)
		if j := w.job(id); j.Conclusion != "cancelled" || j.Completions != 0 {
			t.Errorf("%+v", j)
		}
	})
}

// files is a repository with one workflow.
func (w *world) files(name, text string, gates ...string) {
	w.t.Helper()
	files, err := githubsim.Files(map[string]string{".github/workflows/ci.yml": text})
	if err == nil {
		err = w.CreateRepository(name, githubsim.RepositoryOptions{Private: true, Files: files, Gates: gates})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) trigger(name string) int64 {
	w.t.Helper()
	id, err := w.Trigger(name, "ci.yml", "push")
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// fleet runs every queued job on a fresh runner until the run is over; result
// says how each one ends.
func (w *world) fleet(run int64, result func(name string) string) {
	w.t.Helper()
	tok := w.token()
	for {
		t := w.until("a queued job or the end", func(t githubsim.Truth) bool {
			i := slices.IndexFunc(t.Runs, func(r githubsim.RunTruth) bool { return r.ID == run })
			return t.Runs[i].Status == "completed" || slices.ContainsFunc(t.Jobs, func(j githubsim.JobTruth) bool { return j.Status == "queued" })
		})
		if !slices.ContainsFunc(t.Jobs, func(j githubsim.JobTruth) bool { return j.Status == "queued" }) {
			return
		}
		b := w.bot(w.jit(tok, fmt.Sprintf("fleet-%d", w.Truth().Registered), "linux").Config)
		b.connect()
		job := b.take()
		b.complete(job, result(job.Name))
	}
}

func (w *world) conclusions(run int64, attempt int) map[string]string {
	out := map[string]string{}
	for _, j := range w.Truth().Jobs {
		if j.RunID == run && j.Attempt == attempt {
			out[j.Name] = j.Conclusion
		}
	}
	return out
}

const pipeline = `
name: CI
on: [push, workflow_dispatch]
jobs:
  build:
    runs-on: linux
    strategy:
      fail-fast: false
      matrix: {go: ["1.25", "1.26"]}
    steps: [{run: make}]
  test:
    needs: build
    runs-on: linux
    steps: [{run: make test}]
  never:
    if: github.event_name == 'schedule'
    runs-on: linux
    steps: [{run: "true"}]
  always:
    needs: test
    if: always()
    runs-on: linux
    steps: [{run: "true"}]
`

// needs, if and a matrix decide what runs; a failed part is run again and the
// good part is copied under new ids.
func TestPipelineAndRerun(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/pipe", pipeline)
	run := w.trigger("acme/pipe")
	w.hook.find(t, 1, func(r received) bool { return r.event == "push" })
	broken := true
	w.fleet(run, func(name string) string {
		if broken && name == "build (1.26)" {
			return message.Failure
		}
		return message.Success
	})
	want := map[string]string{"build (1.25)": "success", "build (1.26)": "failure", "test": "skipped", "never": "skipped", "always": "success"}
	if d := cmp.Diff(want, w.conclusions(run, 1)); d != "" {
		t.Errorf("first attempt (-want +got)\n%s", d)
	}
	for _, j := range w.Truth().Jobs {
		if j.Conclusion == "skipped" && !slices.Equal(j.Events, []string{"completed"}) {
			t.Errorf("a skipped job had events %q", j.Events)
		}
	}
	tok := w.token()
	at := fmt.Sprintf("/repos/acme/pipe/actions/runs/%d", run)
	broken = false
	w.must(201, w.rest("POST", at+"/rerun-failed-jobs", tok, nil), nil)
	w.fleet(run, func(string) string { return message.Success })
	want = map[string]string{"build (1.25)": "success", "build (1.26)": "success", "test": "success", "never": "skipped", "always": "success"}
	if d := cmp.Diff(want, w.conclusions(run, 2)); d != "" {
		t.Errorf("second attempt (-want +got)\n%s", d)
	}
	copied := 0
	for _, j := range w.Truth().Jobs {
		if j.Attempt == 2 && j.Copied {
			copied++
			if !slices.Equal(j.Events, []string{"completed"}) || j.Executions != 0 {
				t.Errorf("a copy: %+v", j)
			}
		}
	}
	if copied != 2 { // build (1.25) and never
		t.Errorf("%d jobs were copied", copied)
	}
	var jobs struct {
		Count int `json:"total_count"`
	}
	for path, n := range map[string]int{"/jobs": 5, "/jobs?filter=latest": 5, "/jobs?filter=all": 10, "/attempts/1/jobs": 5} {
		w.must(200, w.rest("GET", at+path, tok, nil), &jobs)
		if jobs.Count != n {
			t.Errorf("%s: %d jobs, want %d", path, jobs.Count, n)
		}
	}
	w.must(404, w.rest("GET", at+"/attempts/3", tok, nil), nil)
	var second struct {
		Attempt  int    `json:"run_attempt"`
		Previous string `json:"previous_attempt_url"`
	}
	w.must(200, w.rest("GET", at, tok, nil), &second)
	if second.Attempt != 2 || !strings.HasSuffix(second.Previous, "/attempts/1") {
		t.Errorf("%+v", second)
	}
	w.must(201, w.rest("POST", at+"/rerun", tok, nil), nil)
	w.must(403, w.rest("POST", at+"/rerun", tok, nil), nil)
	w.fleet(run, func(string) string { return message.Success })
	if got := w.conclusions(run, 3); len(got) != 5 || got["test"] != "success" {
		t.Errorf("third attempt %v", got)
	}
}

func TestFailFast(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/ff", `
on: push
jobs:
  m:
    runs-on: linux
    strategy: {matrix: {n: [1, 2, 3]}, max-parallel: 2}
    steps: [{run: "true"}]
`)
	run := w.trigger("acme/ff")
	if n := len(w.conclusions(run, 1)); n != 2 {
		t.Errorf("%d of at most 2 jobs are queued", n)
	}
	w.fleet(run, func(string) string { return message.Failure })
	got := w.conclusions(run, 1)
	if got["m (1)"] != "failure" || got["m (2)"] != "cancelled" || len(got) != 2 {
		t.Errorf("%v", got)
	}
}

// A gated job waits; approval queues it.
func TestGate(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/deploy", `
on: push
jobs:
  ship:
    runs-on: linux
    environment: production
    steps: [{run: "true"}]
`, "production")
	tok := w.token()
	for _, state := range []string{"approved", "rejected"} {
		run := w.trigger("acme/deploy")
		one := w.hook.find(t, 1, func(r received) bool {
			j, ok := r.json["workflow_job"].(map[string]any)
			return ok && r.action == "waiting" && int64(j["run_id"].(float64)) == run
		})[0]
		if one.json["deployment"] == nil || one.json["workflow_job"].(map[string]any)["status"] != "waiting" {
			t.Errorf("%s", one.body)
		}
		at := fmt.Sprintf("/repos/acme/deploy/actions/runs/%d/pending_deployments", run)
		var gates []struct{ Environment struct{ ID int64 } }
		w.must(200, w.rest("GET", at, tok, nil), &gates)
		if len(gates) != 1 {
			t.Fatalf("%+v", gates)
		}
		w.must(422, w.rest("POST", at, tok, map[string]any{"environment_ids": []int64{1}, "state": state, "comment": ""}), nil)
		w.must(200, w.rest("POST", at, tok, map[string]any{"environment_ids": []int64{gates[0].Environment.ID}, "state": state, "comment": "ok"}), nil)
		w.fleet(run, func(string) string { return message.Success })
		want := map[string]string{"approved": "success", "rejected": "failure"}[state]
		if got := w.conclusions(run, 1); got["ship"] != want {
			t.Errorf("%s: %v", state, got)
		}
	}
	if got := w.Truth().Jobs[0].Events; !slices.Equal(got, []string{"waiting", "queued", "in_progress", "completed"}) {
		t.Errorf("events %q", got)
	}
}

func TestQueuedWhileWaiting(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/deploy", "on: push\njobs: {ship: {runs-on: linux, environment: prod, steps: [{run: x}]}}\n", "prod")
	w.Faults().QueuedWhileWaiting(1)
	w.trigger("acme/deploy")
	one := w.hook.find(t, 1, is("workflow_job", "queued"))[0]
	if one.json["workflow_job"].(map[string]any)["status"] != "waiting" || one.json["deployment"] == nil {
		t.Errorf("%s", one.body)
	}
}

func TestRerunOneJob(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/pipe", pipeline)
	run, tok := w.trigger("acme/pipe"), w.token()
	w.fleet(run, func(string) string { return message.Success })
	var test int64
	for _, j := range w.Truth().Jobs {
		if j.Name == "test" {
			test = j.ID
		}
	}
	at := fmt.Sprintf("/repos/acme/pipe/actions/jobs/%d/rerun", test)
	w.must(201, w.rest("POST", at, tok, nil), nil)
	w.fleet(run, func(string) string { return message.Success })
	ran := map[string]bool{}
	for _, j := range w.Truth().Jobs {
		if j.Attempt == 2 {
			ran[j.Name] = j.Executions == 1
		}
	}
	// What needs the job runs again with it; the rest is copied.
	want := map[string]bool{"build (1.25)": false, "build (1.26)": false, "test": true, "never": false, "always": true}
	if d := cmp.Diff(want, ran); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	w.must(403, w.rest("POST", at, tok, nil), nil)
}

func TestConcurrencyGroup(t *testing.T) {
	for _, cancel := range []bool{false, true} {
		w := newWorld(t, githubsim.Config{})
		w.files("acme/one", fmt.Sprintf(`
on: push
concurrency: {group: only-one, cancel-in-progress: %v}
jobs:
  j: {runs-on: linux, steps: [{run: "true"}]}
`, cancel))
		first, second, third := w.trigger("acme/one"), w.trigger("acme/one"), w.trigger("acme/one")
		state := func(id int64) string {
			for _, r := range w.Truth().Runs {
				if r.ID == id {
					return r.Status + " " + r.Conclusion
				}
			}
			return ""
		}
		got := []string{state(first), state(second), state(third)}
		want := []string{"queued ", "completed cancelled", "pending "}
		if cancel {
			want = []string{"completed cancelled", "completed cancelled", "queued "}
		}
		if !slices.Equal(got, want) {
			t.Errorf("cancel-in-progress %v: %q, want %q", cancel, got, want)
		}
		w.fleet(third, func(string) string { return message.Success })
		if got := state(third); got != "completed success" {
			t.Errorf("cancel-in-progress %v: the last run is %s", cancel, got)
		}
	}
}

func TestStartupFailure(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/bad", "on: push\njobs: {a: {needs: nothing, runs-on: x, steps: [{run: x}]}}\n")
	run := w.trigger("acme/bad")
	tr := w.Truth()
	if r := tr.Runs[0]; r.ID != run || r.Conclusion != "startup_failure" || len(tr.Jobs) != 0 {
		t.Errorf("%+v, %d jobs", r, len(tr.Jobs))
	}
}

func TestDispatchByREST(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.files("acme/pipe", pipeline)
	tok := w.token()
	at := "/repos/acme/pipe/actions/workflows/ci.yml/dispatches"
	w.must(422, w.rest("POST", at, tok, map[string]any{}), nil)
	w.must(422, w.rest("POST", at, tok, map[string]any{"ref": "nowhere"}), nil)
	w.must(404, w.rest("POST", "/repos/acme/pipe/actions/workflows/none.yml/dispatches", tok, map[string]any{"ref": "main"}), nil)
	w.must(204, w.rest("POST", at, tok, map[string]any{"ref": "main"}), nil)
	var got struct {
		Run int64 `json:"workflow_run_id"`
	}
	w.must(200, w.rest("POST", at, tok, map[string]any{"ref": "main"}, "X-GitHub-Api-Version", "2026-03-10"), &got)
	var list struct {
		Count int                  `json:"total_count"`
		Runs  []struct{ ID int64 } `json:"workflow_runs"`
	}
	for status, n := range map[string]int{"": 2, "queued": 2, "completed": 0, "success": 0} {
		w.must(200, w.rest("GET", "/repos/acme/pipe/actions/runs?status="+status, tok, nil), &list)
		if list.Count != n {
			t.Errorf("%q: %d runs, want %d", status, list.Count, n)
		}
		if n > 0 && list.Runs[0].ID != got.Run {
			t.Errorf("the newest run is not first: %+v", list)
		}
	}
	w.must(422, w.rest("GET", "/repos/acme/pipe/actions/runs?status=startup_failure", tok, nil), nil)
}
