package githubsim_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

type jobList struct {
	Count int `json:"total_count"`
	Jobs  []struct {
		ID      int64
		Status  string
		Attempt int `json:"run_attempt"`
	}
}

// Everything that whoever has no webhook asks for: runs by state in pages with
// links, their jobs by attempt, single jobs, the installation's repositories. What
// has not changed costs nothing.
func TestPolling(t *testing.T) {
	w := newWorld(t, quick(githubsim.Config{}))
	tok := w.token()
	var first int64
	for i := range 5 {
		if id := w.inject("linux"); i == 0 {
			first = id
		}
	}
	var page struct {
		Count int `json:"total_count"`
		Runs  []struct {
			ID     int64
			Status string
		} `json:"workflow_runs"`
	}
	next, seen := "/repos/acme/web/actions/runs?status=queued&per_page=2", map[int64]bool{}
	for pages := 0; next != ""; pages++ {
		a := w.rest("GET", next, tok, nil)
		w.must(200, a, &page)
		for _, r := range page.Runs {
			seen[r.ID] = true
		}
		if pages == 0 && !strings.Contains(a.Header.Get("Link"), `rel="last"`) || page.Count != 5 || pages > 2 {
			t.Fatalf("page %d: %d runs, link %q", pages, page.Count, a.Header.Get("Link"))
		}
		next = ""
		for link := range strings.SplitSeq(a.Header.Get("Link"), ", ") {
			if url, rel, _ := strings.Cut(link, "; "); rel == `rel="next"` {
				next = strings.Trim(url, "<>")
			}
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d runs in all pages", len(seen))
	}

	run := w.job(first).RunID
	w.runOne(tok, "r", message.Failure, "linux")
	w.untilJob(first, "completed")
	w.must(200, w.rest("GET", "/repos/acme/web/actions/runs?status=queued", tok, nil), &page)
	if page.Count != 4 {
		t.Errorf("%d runs are queued", page.Count)
	}
	if err := w.Rerun(repo, run, false); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]int{
		"/jobs": {2}, "/jobs?filter=latest": {2}, "/jobs?filter=all": {1, 2}, "/attempts/1/jobs": {1}, "/attempts/2/jobs": {2},
	} {
		var jobs jobList
		at := fmt.Sprintf("/repos/acme/web/actions/runs/%d%s", run, path)
		a := w.rest("GET", at, tok, nil)
		w.must(200, a, &jobs)
		var got []int
		for _, j := range jobs.Jobs {
			got = append(got, j.Attempt)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || jobs.Count != len(want) {
			t.Errorf("%s: attempts %v, want %v", path, got, want)
		}
		same := w.rest("GET", at, tok, nil, "If-None-Match", a.Header.Get("ETag"))
		if w.must(304, same, nil); same.Header.Get("X-RateLimit-Used") != a.Header.Get("X-RateLimit-Used") {
			t.Errorf("%s: 304 cost something", path)
		}
	}
	w.must(404, w.rest("GET", fmt.Sprintf("/repos/acme/web/actions/runs/%d/attempts/3/jobs", run), tok, nil), nil)
	var one struct {
		Status string
	}
	w.must(200, w.rest("GET", fmt.Sprintf("/repos/acme/web/actions/jobs/%d", first), tok, nil), &one)
	if one.Status != "completed" {
		t.Errorf("%+v", one)
	}
	a := w.rest("GET", "/repos/acme/web/actions/runs?status=queued", tok, nil)
	w.inject("linux")
	if again := w.rest("GET", "/repos/acme/web/actions/runs?status=queued", tok, nil, "If-None-Match", a.Header.Get("ETag")); again.StatusCode != 200 {
		t.Errorf("a list that changed: %s", again.Status)
	}
	var repos struct {
		Count int `json:"total_count"`
	}
	a = w.rest("GET", "/installation/repositories?per_page=1", tok, nil)
	if w.must(200, a, &repos); repos.Count != 1 || a.Header.Get("Link") != "" {
		t.Errorf("%d repositories, link %q", repos.Count, a.Header.Get("Link"))
	}
	w.must(304, w.rest("GET", "/installation/repositories?per_page=1", tok, nil, "If-None-Match", a.Header.Get("ETag")), nil)
}

// One scope takes so many registrations within five minutes, another is not
// concerned, and later there is room again. REST and scale sets count together.
func TestRegistrationLimit(t *testing.T) {
	c := &clock{}
	w := newWorld(t, quick(githubsim.Config{Now: c.now, RegistrationsPer5Minutes: 3}))
	tok := w.token()
	url, admin := w.raw(tok)
	set := w.set(w.sets(org), "big")
	register := func(scope, name string) int {
		return w.rest("POST", scope+"/actions/runners/generate-jitconfig", tok, map[string]any{"name": name, "runner_group_id": 1, "labels": []string{"x"}}).StatusCode
	}
	inSet := func(name string) int {
		return w.rest("POST", fmt.Sprintf("%s_apis/runtime/runnerscalesets/%d/generatejitconfig", url, set), admin, map[string]any{"name": name}).StatusCode
	}
	for name, want := range map[string]int{"1": 201, "2": 201} {
		if got := register("/orgs/acme", name); got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
	if got := inSet("3"); got != 200 {
		t.Errorf("the third: %d", got)
	}
	if a, b := register("/orgs/acme", "4"), inSet("5"); a != http.StatusForbidden || b != http.StatusTooManyRequests {
		t.Errorf("the fourth: %d by REST, %d by a set", a, b)
	}
	if got := register("/repos/acme/web", "6"); got != 201 {
		t.Errorf("another scope: %d", got)
	}
	w.pass(c, 5*time.Minute)
	if got := register("/orgs/acme", "7"); got != 201 {
		t.Errorf("later: %d", got)
	}
}

// Outages and limits come in bursts: within one everything fails, beside it nothing.
func TestBursts(t *testing.T) {
	var now time.Time
	for _, c := range []struct {
		name  string
		set   func(*githubsim.Faults)
		check func(answer) bool
	}{
		{"ServerErrors", func(f *githubsim.Faults) { f.ServerErrors(1, "") }, func(a answer) bool { return a.StatusCode >= 500 }},
		{"Secondary", func(f *githubsim.Faults) { f.SecondaryLimit(1, 9*time.Second) }, func(a answer) bool {
			return a.StatusCode == 403 && a.Header.Get("Retry-After") == "9" && strings.Contains(a.message(), "secondary rate limit")
		}},
		{"SecondaryWithoutRetryAfter", func(f *githubsim.Faults) { f.SecondaryLimit(1, 9*time.Second); f.NoRetryAfter(1) }, func(a answer) bool {
			return a.StatusCode == 403 && a.Header.Get("Retry-After") == "" && strings.Contains(a.message(), "secondary rate limit")
		}},
		{"Primary", func(f *githubsim.Faults) { f.PrimaryRefusals(1, 9*time.Second) }, func(a answer) bool {
			return a.StatusCode == 403 && a.Header.Get("X-RateLimit-Remaining") == "0" && a.Header.Get("X-RateLimit-Reset") == fmt.Sprint(now.Add(9*time.Second).Unix())
		}},
		{"PrimaryAs429", func(f *githubsim.Faults) { f.PrimaryRefusals(1, 9*time.Second); f.TooManyRequests(1) }, func(a answer) bool {
			return a.StatusCode == 429 && a.Header.Get("X-RateLimit-Remaining") == "0"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now().Truncate(time.Minute).Add(time.Minute)
			now = start
			k := &clock{}
			w := newWorld(t, githubsim.Config{Now: func() time.Time { return start.Add(time.Duration(k.ahead.Load())) }})
			secret, err := w.CreateToken("admin", "admin:org")
			if err != nil {
				t.Fatal(err)
			}
			c.set(w.Faults())
			w.Faults().Bursts(time.Minute, 10*time.Second)
			for range 5 {
				if a := w.rest("GET", "/orgs/acme/actions/runners", secret, nil); !c.check(a) {
					t.Errorf("within: %s %v %s", a.Status, a.Header, a.body)
				}
			}
			w.pass(k, 10*time.Second)
			for range 5 {
				w.must(200, w.rest("GET", "/orgs/acme/actions/runners", secret, nil), nil)
			}
		})
	}
}
