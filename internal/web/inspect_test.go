package web_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/web"
)

// wants fails the test for every text that a page does not say.
func wants(t *testing.T, f *fake, path string, texts ...string) string {
	t.Helper()
	text := words(get(t, web.New(config(f)), path))
	for _, w := range texts {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", path, w, text)
		}
	}
	return text
}

// S4-55 S4-57: durations, success rates, queue times and failures, from receipts.
func TestInsights(t *testing.T) {
	f := newFake()
	wants(t, f, "/insights?period=1d", "jobs ran", "queue time, median", "boot, median", "What fails", "Runners without a job", "no job within 2m0s", "How Muster heard of jobs", "webhook", "redelivery", "the measured rate of lost webhooks", "acme/ledger / build")
	wants(t, f, "/insights?by=pool", "linux-small", "gpu-a100")
	wants(t, f, "/insights?by=job&period=30d", "acme/storefront / CI / lint")
	wants(t, emptyFake(), "/insights", "No job completed in this time.", "Nothing failed in this time.", "No job was heard of in this time.")
	for _, path := range []string{"/insights?by=colour", "/insights?period=2y"} {
		if w := ask(t, web.New(config(f)), request{path: path}); w.Code != 400 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	// 4-49: what never ran is in no queue time.
	few := emptyFake()
	add := func(id int64, queue time.Duration, runner muster.RunnerID, run time.Duration) {
		key := muster.JobKey{ID: id, Attempt: 1}
		few.receipts[key] = muster.Receipt{Job: key, Pool: "linux", Repository: "octo/app", Workflow: "ci", JobName: "build", Conclusion: "success", Queue: queue, Runner: runner, Run: run, CompletedAt: fakeNow.Add(-time.Hour)}
	}
	add(1, 4*time.Second, "r-1", time.Minute)
	add(2, 9*time.Hour, "", 0)
	wants(t, few, "/insights", "jobs ran 1 1 never ran", "queue time, median 4s p90 4s")
}

// S4-56: a run leads to its jobs, and they to their runners and receipts.
func TestRunPage(t *testing.T) {
	f := newFake()
	done := f.find(func(j muster.Job) bool { return j.State == muster.JobCompleted && j.Runner != "" })
	run := fmt.Sprintf("/runs/%d", done.RunID)
	page := get(t, web.New(config(f)), run)
	for _, link := range []string{path(done), "/runners/" + string(done.Runner), "/pools/" + done.Pool, fmt.Sprintf("https://github.com/%s/actions/runs/%d", done.Repository, done.RunID)} {
		if !strings.Contains(page, `href="`+link+`"`) {
			t.Errorf("%s has no link to %s", run, link)
		}
	}
	if !strings.Contains(get(t, web.New(config(f)), path(done)), `href="`+run+`"`) {
		t.Error("the job does not lead to its run")
	}
	for _, p := range []string{"/runs/1", "/runs/x"} {
		if w := ask(t, web.New(config(f)), request{path: p}); w.Code != 404 {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
}

func TestDecisionPage(t *testing.T) {
	f := newFake()
	d := &f.decisions[0]
	d.Decision = muster.Plan(d.Snapshot, d.At)
	at := fmt.Sprintf("/pools/%s/decisions/%d", d.Pool, d.ID)
	wants(t, f, at, "recorded", "again", "What there was", "First in the queue", "The planner of this version decides the same", "at least 2, at most 12")
	d.Decision.Create, d.Decision.Target = 9, 99
	wants(t, f, at, "decides otherwise", "99")
	if !strings.Contains(get(t, web.New(config(f)), "/pools/"+d.Pool), `href="`+at+`"`) {
		t.Error("the pool does not lead to its decision")
	}
	for _, p := range []string{"/pools/linux-large/decisions/900", "/pools/linux-small/decisions/1", "/pools/linux-small/decisions/x"} {
		if w := ask(t, web.New(config(f)), request{path: p}); w.Code != 404 {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
}

// S4-17: a pool is suspended and resumed from its page, and says so.
func TestSuspendFromPage(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	for _, do := range []string{"suspend", "resume"} {
		w := ask(t, h, request{path: "/pools/linux-small", form: url.Values{"do": {do}}})
		if w.Code != 303 || w.Header().Get("Location") != "/pools/linux-small?done="+do {
			t.Errorf("%s: %d %s", do, w.Code, w.Header().Get("Location"))
		}
	}
	want := []string{`set linux-small {"suspended":true}`, `set linux-small {"suspended":false}`}
	if got := f.asked(); !slices.Equal(got, want) {
		t.Errorf("asked for %v", got)
	}
	f.pools[0].Suspended = true
	wants(t, f, "/pools/linux-small", "suspended", "1 queued job waits for it", "Resume")
	wants(t, f, "/pools", "suspended")
}

// A pool's rules stand on its page in words, and its limits once.
func TestPoolRules(t *testing.T) {
	text := wants(t, newFake(), "/pools/linux-large", "Rules", "schedule at 0 8 * * 1-5 (Europe/Berlin), for 10h: at least 2 runners", "job wait a job waits 20s", "mobile: at most 2 runners for acme/mobile together",
		"jobs that waited 10m and find no room go to pool gpu-a100", "canary 10 % of new runners try offering large-next")
	if strings.Contains(text, "0 to 6 runners") || strings.Contains(text, "of 0–6") {
		t.Errorf("the limits stand there twice:\n%s", text)
	}
	if text := words(get(t, web.New(config(newFake())), "/pools/linux-small")); strings.Contains(text, " Rules ") {
		t.Error("a pool without rules has a section of them")
	}
}

func TestBudgetsShow(t *testing.T) {
	f := newFake()
	wants(t, f, "/usage", "Budgets", "storefront fine $612.40 of $900.00 68 %", "vision warned $371.90 of $400.00 92 %", "warned at 80 %, stopped at 100 %")
	wants(t, f, "/", "35 a minute, which lasts", "88 a minute, used up in 27m", "polls 5 times rarer, so that the rest serves jobs", "41 less urgent calls put off")
	f.health.Budgets = []web.Budget{{App: "ghe", Account: "token", PollStretch: 0, PausedUntil: fakeNow.Add(time.Minute)}}
	wants(t, f, "/", "GitHub names no limit", "GitHub wants no calls for 1m", "no polls")
	f.spendings = nil
	if strings.Contains(words(get(t, web.New(config(f)), "/usage")), "Budgets") {
		t.Error("no budget, and a section of them")
	}
}

// Once jobs have come, the overview does not say how to point a webhook.
func TestQuietOverview(t *testing.T) {
	f := newFake()
	f.jobs = slices.DeleteFunc(f.jobs, func(j muster.Job) bool { return j.State != muster.JobCompleted })
	text := wants(t, f, "/", "No jobs now. Jobs appear here the moment GitHub queues them.")
	if strings.Contains(text, "webhook there") {
		t.Errorf("the overview still explains the webhook:\n%s", text)
	}
}
