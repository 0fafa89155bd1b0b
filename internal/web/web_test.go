package web_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/web"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// request is what a test asks, as a browser would ask it.
type request struct {
	method, path string
	form         url.Values
	header       map[string]string
}

func ask(t *testing.T, h http.Handler, q request) *httptest.ResponseRecorder {
	t.Helper()
	var body io.Reader
	method := "GET"
	if q.form != nil {
		method, body = "POST", strings.NewReader(q.form.Encode())
	}
	if q.method != "" {
		method = q.method
	}
	r := httptest.NewRequestWithContext(t.Context(), method, "http://muster.example"+q.path, body)
	r.Header.Set("Accept", "text/html")
	if q.form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// get is the text of a page that must be there.
func get(t *testing.T, h http.Handler, path string) string {
	t.Helper()
	w := ask(t, h, request{path: path})
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, w.Code, words(w.Body.String()))
	}
	return w.Body.String()
}

var (
	tags   = regexp.MustCompile(`<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// words is a page's text without its marks.
func words(page string) string {
	text := spaces.ReplaceAllString(tags.ReplaceAllString(page, " "), " ")
	return strings.NewReplacer("&#39;", "'", "&#34;", `"`, "&lt;", "<", "&gt;", ">", "&amp;", "&", "&#43;", "+").Replace(text)
}

// quiet is a logger that a test does not show.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (f *fake) find(want func(muster.Job) bool) muster.Job {
	i := slices.IndexFunc(f.jobs, want)
	return f.jobs[i]
}

func (f *fake) runnerIn(state muster.RunnerState) muster.Runner {
	for _, id := range slices.Sorted(maps.Keys(f.runners)) {
		if f.runners[id].State == state {
			return f.runners[id]
		}
	}
	return muster.Runner{}
}

func path(j muster.Job) string { return "/jobs/" + j.Key.String() }

// C7: what an operator has to put right stands on the overview, and only then.
func TestOverviewShowsProblems(t *testing.T) {
	f := newFake()
	if page := get(t, web.New(config(f)), "/"); strings.Contains(page, "To be put right") {
		t.Error("there is nothing to be put right")
	}
	f.health.Problems = []string{"App main: permission <checks>: write is needed"}
	page := get(t, web.New(config(f)), "/")
	if !strings.Contains(page, "App main: permission &lt;checks&gt;: write is needed") || !strings.Contains(page, "To be put right") {
		t.Error("the problem is not shown")
	}
}

func TestPagesSayWhatIsKnown(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	failed := f.find(func(j muster.Job) bool { return j.Conclusion == "failure" })
	gpu := f.find(func(j muster.Job) bool { return j.Pool == "gpu-a100" && j.State == muster.JobQueued })
	approval := f.find(func(j muster.Job) bool { return j.State == muster.JobWaiting })
	running := f.find(func(j muster.Job) bool { return j.State == muster.JobInProgress })
	busy, gone := f.runnerIn(muster.RunnerActive), f.runners[failed.Runner]
	delivery := f.deliveries[slices.IndexFunc(f.deliveries, func(d muster.Delivery) bool { return d.Action == "completed" })]
	pending := f.deliveries[slices.IndexFunc(f.deliveries, func(d muster.Delivery) bool { return d.DispatchedAt.IsZero() })]
	for _, tc := range []struct {
		name, path string
		want       []string
	}{
		{"Overview", "/", []string{"0 jobs lost", "0 runners leaked", "0 busy runners killed", "Kept over 18,204 jobs since 2 March 2026", "queued 3", "running 7", "6m 20s evaluate resnet-50",
			"slurm refuses: partition gpu has 1 of 4 nodes in service", "median", "p90", "linux-small 7 → 8", "partition gpu: 3 of 4 nodes are drained", "11,218 of 12,500 calls", "fills up again in 23m"}},
		{"Jobs", "/jobs", []string{"All 3", "Waiting 1", "Queued 3", "Running 7", "deploy to production", "evaluate resnet-50", "queue boot idle run", "Older jobs"}},
		{"FinishedJob", path(failed), []string{"failed", "Where the time went", "Created on GitHub", "Seen queued by webhook 380ms later", "Runner decided", "Accepted by " + gone.Provider, "Agent connected", "Runner listening",
			"Job started", "Seen running by webhook 520ms later", "Job completed", "Machine destroyed", "Receipt written", "Run tests", "skipped", "Billed", "a minute", failed.TraceID, "Running job: " + failed.Name, "Fetch the log from GitHub"}},
		{"JobLogOnDemand", path(failed) + "?log=github", []string{"##[group]Set up job"}},
		{"WaitingJobSaysWhy", path(gpu), []string{"Why it waits 6m 20s", "slurm refuses", "provider refusing", "gpu-a100 was scaled 4m 10s ago", "Seen queued by poll 22s later"}},
		{"ApprovalSaysWhy", path(approval), []string{"Why it waits", "approval of a deployment to production"}},
		{"RunningJob", path(running), []string{"Where the time goes", "Set up job", "queued"}},
		{"Runners", "/runners", []string{"running a job", "listening", "provisioning", "draining", "warm", "for the pool's minimum"}},
		{"DestroyedRunners", "/runners?state=destroyed", []string{"destroyed", "finished"}},
		{"Runner", "/runners/" + string(busy.ID), []string{busy.Name, busy.Instance, "took a job", "agent traded its boot token", "Listening for Jobs", "Drain this runner", "It runs a job and leaves after it"}},
		{"DestroyedRunner", "/runners/" + string(gone.ID), []string{"Lived", "proven gone"}},
		{"Pools", "/pools", []string{"linux-small", "8 of 2–12", "changed", "disabled", "1 queued job is not covered"}},
		{"Pool", "/pools/linux-small", []string{"at least 2, at most 12", "scale up", "7 → 8", "formula", "31 times", "1 queued, 1 of them not covered, 4 in progress · 1 to make", "linux-small self-hosted Linux X64", "2 vCPU, 8192 MiB, $0.0060 a minute", "Set limits", "Disable", "test (node 22)"}},
		{"Deliveries", "/deliveries", []string{"workflow_job · queued", "job queued in linux-small", "ignored: no pool wants [ubuntu-latest]", "redelivery", "failing signal pool linux-small: the engine did not answer within 10s"}},
		{"Delivery", "/deliveries/" + delivery.GUID, []string{"job completed", "When each sense saw the job", "completed webhook this delivery 610ms", "X-Github-Hook-Installation-Target-Type", `"run_attempt": 1`, "Dispatch again", "as it came"}},
		{"PendingDelivery", "/deliveries/" + pending.GUID, []string{"failing", "not acted on yet", "Failed tries 2", "the engine did not answer"}},
		{"Usage", "/usage", []string{"cost", "waste", "runners without a job", "acme/ledger · build", "Queue p50", "p90", "Total"}},
		{"UsageByRepository", "/usage?by=repository&period=30d", []string{"Repository Jobs", "acme/storefront"}},
		{"UsageByDay", "/usage?by=day&period=7d", []string{"2026-05-06", "2026-04-30"}},
		{"Findings", "/findings", []string{"python3 read the memory of Runner.Worker", "runner-memory-read", "critical", "acme/storefront"}},
		{"Sweep", "/findings/sweep", []string{"ghost registration", "registration removed", "leaked instance", "machine destroyed"}},
		{"About", "/about", []string{"0.4.0 (83ebcb7)", "embedded, SQLite", "https://ci.acme.example/webhooks/muster", "Metrics", "Workflows", "2d 13h"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			page := get(t, h, tc.path)
			text := words(page)
			for _, w := range tc.want {
				if !strings.Contains(text, w) {
					t.Errorf("%s does not say %q:\n%s", tc.path, w, text)
				}
			}
			for _, bad := range []string{"ZgotmplZ", "%!", "<no value>", "&lt;nil&gt;", "0001-01-01", "style=", "<script>"} {
				if strings.Contains(page, bad) {
					t.Errorf("%s has %q in it", tc.path, bad)
				}
			}
			if n := strings.Count(page, "<h1"); n != 1 {
				t.Errorf("%s has %d first headings", tc.path, n)
			}
		})
	}
}

func TestEmptyPagesSayWhatToDo(t *testing.T) {
	h := web.New(config(emptyFake()))
	for p, want := range map[string]string{
		"/":           "Deliveries of muster arrive at https://ci.acme.example/webhooks/muster . Point your App's webhook there",
		"/jobs":       "No jobs yet. Deliveries of muster arrive at https://ci.acme.example/webhooks/muster",
		"/runners":    "A runner is made when a job queues that a pool serves",
		"/pools":      "Add one under pools: in the configuration",
		"/deliveries": "No deliveries yet. Deliveries of muster arrive at",
		"/usage":      "A receipt is written for every job",
		"/findings":   "Nothing found.",
	} {
		if text := words(get(t, h, p)); !strings.Contains(text, want) {
			t.Errorf("%s does not say %q:\n%s", p, want, text)
		}
	}
	cfg := config(emptyFake())
	cfg.About = web.About{}
	if text := words(get(t, web.New(cfg), "/jobs")); !strings.Contains(text, "No GitHub App is configured") {
		t.Errorf("without an App: %s", text)
	}
}

func TestFilters(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	rows := func(p string) []string {
		var out []string
		for _, m := range regexp.MustCompile(`<tr id="([^"]*)"`).FindAllStringSubmatch(get(t, h, p), -1) {
			out = append(out, m[1])
		}
		return out
	}
	count := func(want func(muster.Job) bool) int {
		n := 0
		for _, j := range f.jobs {
			if want(j) {
				n++
			}
		}
		return min(n, 50)
	}
	for p, want := range map[string]int{
		"/jobs":                                      50,
		"/jobs?state=queued":                         count(func(j muster.Job) bool { return j.State == muster.JobQueued }),
		"/jobs?state=in_progress":                    count(func(j muster.Job) bool { return j.State == muster.JobInProgress }),
		"/jobs?pool=gpu-a100":                        count(func(j muster.Job) bool { return j.Pool == "gpu-a100" }),
		"/jobs?repository=ACME/vision":               count(func(j muster.Job) bool { return j.Repository == "acme/vision" }),
		"/jobs?q=RESNET":                             count(func(j muster.Job) bool { return strings.Contains(j.Name, "resnet") }),
		fmt.Sprintf("/jobs?run=%d", f.jobs[0].RunID): count(func(j muster.Job) bool { return j.RunID == f.jobs[0].RunID }), // S4-37
		"/jobs?q=nothing":                            0,
		"/runners?pool=gpu-a100":                     1,
		"/deliveries?event=ping":                     1,
		"/deliveries?q=no+pool+wants":                1,
		"/jobs?state=queued&pool=linux-all":          0,
	} {
		if got := rows(p); len(got) != want {
			t.Errorf("%s: %d rows, want %d", p, len(got), want)
		}
	}
	// Every job is on exactly one page of the list.
	seen := map[string]int{}
	next := regexp.MustCompile(`<a href="([^"]*)" rel="next"`)
	for p := "/jobs"; p != ""; {
		for _, id := range rows(p) {
			seen[id]++
		}
		m := next.FindStringSubmatch(get(t, h, p))
		p = ""
		if m != nil {
			p = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	for _, n := range seen {
		if n != 1 {
			t.Fatal("a job is on two pages")
		}
	}
	if len(seen) != len(f.jobs) {
		t.Errorf("%d jobs on all pages, want %d", len(seen), len(f.jobs))
	}
}

func TestHostileTextStaysText(t *testing.T) {
	const bad = `"><script>alert(1)</script><img src=x onerror=alert(1)>` + "\x1b[31m"
	f := newFake()
	for i := range f.jobs {
		if f.jobs[i].State != muster.JobCompleted || f.jobs[i].Conclusion == "failure" {
			j := &f.jobs[i]
			j.Name, j.Workflow, j.HeadBranch, j.Labels, j.URL, j.TraceID = bad, bad, bad, muster.Labels{bad}, "javascript:alert(1)", bad
			if len(j.Steps) > 0 {
				j.Steps[0].Name = bad
			}
			if r, ok := f.runners[j.Runner]; ok {
				r.Name, r.Reason, r.Instance = bad, bad, bad
				j.RunnerName = bad
				f.runners[j.Runner] = r
			}
		}
	}
	f.deliveries[0].Outcome, f.deliveries[0].Event, f.deliveries[0].Body, f.deliveries[0].Headers = bad, bad, []byte(bad), map[string]string{bad: bad}
	f.decisions[0].Decision.Reason = bad
	f.findingsOf[0].Subject = bad
	h := web.New(config(f))
	for _, p := range append(paths(f), "/jobs?q="+url.QueryEscape(bad), "/jobs?pool="+url.QueryEscape(bad), "/deliveries?q="+url.QueryEscape(bad), "/usage?repository="+url.QueryEscape(bad), "/"+url.PathEscape(bad), "/pools/"+url.PathEscape(bad)) {
		page := ask(t, h, request{path: p}).Body.String()
		if strings.Contains(page, "<script>") || strings.Contains(page, "<img") || strings.Contains(page, "javascript:") {
			t.Errorf("%s: hostile text became markup", p)
		}
	}
}

func TestErrorPagesHelp(t *testing.T) {
	f := newFake()
	var logged bytes.Buffer
	cfg := config(f)
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	h := web.New(cfg)
	for _, tc := range []struct {
		path, want string
		status     int
	}{
		{"/nowhere", "there is no page at /nowhere", 404},
		{"/jobs/404404", "there is no job 404404", 404},
		{"/jobs/abc", "a job's id is a number", 404},
		{"/jobs/12/x", "has no attempt", 404},
		{"/runners/r-none", `there is no runner "r-none"`, 404},
		{"/pools/none", `there is no pool "none"`, 404},
		{"/deliveries/none", `there is no delivery "none"`, 404},
		{"/jobs?state=sleeping", `there is no job state "sleeping"`, 400},
		{"/jobs?before=x", "start again from the list", 400},
		{"/runners?state=asleep", `there is no runner state "asleep"`, 400},
		{"/usage?period=1y", `there is no period "1y"`, 400},
		{"/usage?by=phase", "usage cannot be grouped by", 400},
	} {
		w := ask(t, h, request{path: tc.path})
		if text := words(w.Body.String()); w.Code != tc.status || !strings.Contains(text, tc.want) || !strings.Contains(text, "Go to") {
			t.Errorf("%s: %d %s; want %d and %q", tc.path, w.Code, text, tc.status, tc.want)
		}
	}

	// 4-37
	f.broken = fmt.Errorf("open /var/lib/muster/secret.db: disk I/O error")
	w := ask(t, h, request{path: "/jobs"})
	text := words(w.Body.String())
	if w.Code != 500 || strings.Contains(text, "secret.db") || !strings.Contains(text, "Reference") {
		t.Errorf("internal error: %d %s", w.Code, text)
	}
	ref := regexp.MustCompile(`Reference\s+([0-9a-f]{10})`).FindStringSubmatch(text)
	if ref == nil || !strings.Contains(logged.String(), ref[1]) || !strings.Contains(logged.String(), "secret.db") {
		t.Errorf("the log does not explain the reference on the page: %s", logged.String())
	}
	f.broken = muster.Errorf(muster.CodeUnavailable, "the database is locked")
	if w := ask(t, h, request{path: "/"}); w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(words(w.Body.String()), "the database is locked") {
		t.Errorf("unavailable: %d %s", w.Code, words(w.Body.String()))
	}
}

func TestForms(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	busy := f.runnerIn(muster.RunnerActive)
	guid := f.deliveries[2].GUID
	post := func(path string, form url.Values, wantStatus int, wantWord string) {
		t.Helper()
		w := ask(t, h, request{path: path, form: form})
		if w.Code != wantStatus || !strings.Contains(w.Header().Get("Location")+words(w.Body.String()), wantWord) {
			t.Errorf("POST %s %v: %d %q %s; want %d and %q", path, form, w.Code, w.Header().Get("Location"), words(w.Body.String()), wantStatus, wantWord)
		}
	}
	post("/runners/"+string(busy.ID)+"/drain", url.Values{"reason": {"kernel update"}}, 303, "?done=drain")
	post("/pools/linux-small", url.Values{"do": {"scale"}, "min": {"1"}, "max": {"4"}}, 303, "?done=scale")
	post("/pools/linux-small", url.Values{"do": {"disable"}}, 303, "?done=disable")
	post("/pools/linux-small/nudge", url.Values{}, 303, "?done=nudge")
	post("/deliveries/"+guid+"/redispatch", url.Values{}, 303, "?done=redispatch")
	post("/pools/linux-small", url.Values{"do": {"scale"}, "min": {"9"}, "max": {"4"}}, 400, "max_runners must be >= min_runners")
	post("/pools/linux-small", url.Values{"do": {"scale"}, "min": {"many"}, "max": {"4"}}, 400, "is not a number")
	post("/pools/linux-small", url.Values{"do": {"explode"}}, 400, "a pool can be enabled, disabled, suspended, resumed or scaled")
	post("/pools/none", url.Values{"do": {"enable"}}, 404, "there is no pool")
	post("/deliveries/none/redispatch", url.Values{}, 404, "there is no delivery")
	want := []string{
		"drain " + string(busy.ID) + ": kernel update", `set linux-small {"min_runners":1,"max_runners":4}`, `set linux-small {"enabled":false}`,
		"nudge linux-small", "redispatch " + guid,
	}
	if got := f.asked(); !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	if text := words(get(t, h, "/pools/linux-small?done=disable")); !strings.Contains(text, "The pool is disabled. Running jobs finish") {
		t.Errorf("the notice is missing: %s", text)
	}

	// Another site's form is refused, and a dashboard without commands has none.
	w := ask(t, h, request{path: "/pools/linux-small/nudge", form: url.Values{}, header: map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}})
	if w.Code != http.StatusForbidden {
		t.Errorf("cross-site form: %d", w.Code)
	}
	cfg := config(f)
	cfg.Commands = nil
	h = web.New(cfg)
	if w := ask(t, h, request{path: "/pools/linux-small/nudge", form: url.Values{}}); w.Code != 404 {
		t.Errorf("read-only dashboard took a form: %d", w.Code)
	}
	for _, p := range paths(f) {
		if strings.Contains(ask(t, h, request{path: p}).Body.String(), `method="post"`) {
			t.Errorf("%s: a read-only page has a form that changes something", p)
		}
	}
	if got := f.asked(); len(got) != len(want) {
		t.Errorf("refused forms acted: %q", got)
	}
}

func TestHeaders(t *testing.T) {
	h := web.New(config(newFake()))
	for _, p := range []string{"/", "/jobs/404404", "/static/app.css", "/static/none"} {
		head := ask(t, h, request{path: p}).Header()
		csp := head.Get("Content-Security-Policy")
		if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %q", p, csp)
		}
		if head.Get("X-Content-Type-Options") != "nosniff" || head.Get("X-Frame-Options") != "DENY" || head.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("%s: headers %v", p, head)
		}
	}
	page := get(t, h, "/")
	for _, m := range regexp.MustCompile(`/static/[^"]*`).FindAllString(page, -1) {
		w := ask(t, h, request{path: m})
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", m, w.Code, w.Header())
		}
		again := ask(t, h, request{path: m, header: map[string]string{"If-None-Match": w.Header().Get("ETag")}})
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s asked again: %d", m, again.Code)
		}
	}
	raw := ask(t, h, request{path: "/runners/" + string(newFake().runnerIn(muster.RunnerActive).ID) + "/log"})
	if got := raw.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("a log is served as %q", got)
	}
	fragment := ask(t, h, request{path: "/jobs", header: map[string]string{"Muster-Fragment": "1"}})
	if strings.Contains(fragment.Body.String(), "<nav") || !strings.Contains(fragment.Body.String(), `id="r-jobs"`) || fragment.Header().Get("Vary") != "Muster-Fragment" {
		t.Error("a fragment is not the page's main part")
	}
}

func TestSignIn(t *testing.T) {
	now := fakeNow
	cfg := config(newFake())
	cfg.Now = func() time.Time { return now }
	cfg.Token, cfg.Logger = "correct-horse-battery", quiet()
	h := web.New(cfg)
	if w := ask(t, h, request{path: "/jobs?state=queued"}); w.Code != 303 || w.Header().Get("Location") != "/login?next=%2Fjobs%3Fstate%3Dqueued" {
		t.Errorf("without a session: %d to %s", w.Code, w.Header().Get("Location"))
	}
	for _, q := range []request{{path: "/events", header: map[string]string{"Accept": "text/event-stream"}}, {path: "/pools/linux-small/nudge", form: url.Values{}}, {path: "/", header: map[string]string{"Muster-Fragment": "1"}}, {path: "/", header: map[string]string{"Accept": "*/*"}}} {
		if w := ask(t, h, q); w.Code != 401 {
			t.Errorf("%s without a session: %d", q.path, w.Code)
		}
	}
	if w := ask(t, h, request{path: "/login", form: url.Values{"token": {"guess"}, "next": {"/jobs"}}}); w.Code != 401 || w.Header().Get("Set-Cookie") != "" || !strings.Contains(w.Body.String(), `value="/jobs"`) {
		t.Errorf("a wrong token: %d %v", w.Code, w.Header())
	}
	w := ask(t, h, request{path: "/login", form: url.Values{"token": {"correct-horse-battery"}, "next": {"/jobs"}}})
	cookies := w.Result().Cookies()
	if w.Code != 303 || w.Header().Get("Location") != "/jobs" || len(cookies) != 1 {
		t.Fatalf("the right token: %d %v", w.Code, w.Header())
	}
	c := cookies[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, "correct") {
		t.Errorf("cookie: %v", c)
	}
	with := func(value string) int {
		return ask(t, h, request{path: "/", header: map[string]string{"Cookie": c.Name + "=" + value}}).Code
	}
	if got := with(c.Value); got != 200 {
		t.Errorf("signed in: %d", got)
	}
	expiry, sig, _ := strings.Cut(c.Value, ".")
	n, _ := strconv.ParseInt(expiry, 10, 64)
	for _, forged := range []string{"", "x", expiry, expiry + ".", fmt.Sprint(n+3600) + "." + sig, expiry + "." + strings.Repeat("A", len(sig))} {
		if got := with(forged); got != 303 {
			t.Errorf("forged cookie %q: %d", forged, got)
		}
	}
	other := cfg
	other.Token = "another-token"
	if w := ask(t, web.New(other), request{path: "/", header: map[string]string{"Cookie": c.Name + "=" + c.Value}}); w.Code != 303 {
		t.Errorf("a session outlived its token: %d", w.Code)
	}
	if w := ask(t, h, request{path: "/", header: map[string]string{"Authorization": "Bearer correct-horse-battery"}}); w.Code != 200 {
		t.Errorf("bearer: %d", w.Code)
	}
	if w := ask(t, h, request{path: "/", header: map[string]string{"Authorization": "Bearer nope"}}); w.Code == 200 {
		t.Error("a wrong bearer token was let in")
	}
	if w := ask(t, h, request{path: "/static/app.css"}); w.Code != 200 {
		t.Errorf("the sign-in page has no style: %d", w.Code)
	}
	for next, want := range map[string]string{"https://evil.example/": "/", "//evil.example": "/", "/\\evil.example": "/", "javascript:alert(1)": "/", "/pools?x=1": "/pools?x=1", "": "/"} {
		now = now.Add(2 * time.Second) // a try a second is always free
		w := ask(t, h, request{path: "/login", form: url.Values{"token": {"correct-horse-battery"}, "next": {next}}})
		if got := w.Header().Get("Location"); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
	now = fakeNow.Add(13 * time.Hour)
	if got := with(c.Value); got != 303 {
		t.Errorf("after 13 hours: %d", got)
	}
	refused := 0
	for range 30 {
		if ask(t, h, request{path: "/login", form: url.Values{"token": {"guess"}}}).Code == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused < 15 {
		t.Errorf("%d of 30 guesses in one moment were refused", refused)
	}
}

func TestGuardWrapsPages(t *testing.T) {
	cfg := config(newFake())
	cfg.Guard = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Operator") == "" {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	h := web.New(cfg)
	for _, p := range []string{"/", "/jobs", "/events", "/nowhere"} {
		if w := ask(t, h, request{path: p}); w.Code != 403 {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
	if w := ask(t, h, request{path: "/jobs", header: map[string]string{"X-Operator": "ann"}}); w.Code != 200 {
		t.Errorf("operator: %d", w.Code)
	}
	if w := ask(t, h, request{path: "/static/app.css"}); w.Code != 200 {
		t.Errorf("static: %d", w.Code)
	}
}

// stream is one reader of /events.
type stream struct {
	mu   sync.Mutex
	head http.Header
	code int
	text strings.Builder
	at   []time.Time // when each message came
}

func (s *stream) Header() http.Header { return s.head }
func (s *stream) WriteHeader(c int)   { s.code = c }
func (s *stream) Flush()              {}
func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.HasPrefix(b, []byte("data:")) {
		s.at = append(s.at, time.Now())
	}
	return s.text.Write(b)
}

func (s *stream) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// listen opens a stream in the background and returns it with what ends it.
func listen(h http.Handler) (*stream, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{head: http.Header{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(s, httptest.NewRequestWithContext(ctx, "GET", "/events", nil))
	}()
	return s, func() { cancel(); <-done }
}

func TestEventsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := emptyFake()
		h := web.New(config(f))
		s, stop := listen(h)
		defer stop()
		synctest.Wait()
		if !strings.Contains(s.said(), ": connected") || s.head.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("at once: %q %v", s.said(), s.head)
		}
		for i := range 40 { // ten a second for four seconds, each twice
			for range 2 {
				f.change(muster.Change{Kind: "job", ID: fmt.Sprint(i)}, func() {})
			}
			time.Sleep(100 * time.Millisecond) // synthetic time
		}
		time.Sleep(time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.at); n < 12 || n > 17 {
			t.Errorf("%d messages in four seconds, want about 16", n)
		}
		for i := 1; i < len(s.at); i++ {
			if gap := s.at[i].Sub(s.at[i-1]); gap < 250*time.Millisecond {
				t.Errorf("messages %s apart", gap)
			}
		}
		for i := range 40 {
			if got := strings.Count(s.text.String(), fmt.Sprintf(`"id":"%d"}`, i)); got != 1 {
				t.Errorf("change %d was told %d times", i, got)
			}
		}
	})
}

func TestEventsInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := emptyFake()
		s, stop := listen(web.New(config(f)))
		defer stop()
		synctest.Wait()
		for i := range 200 {
			f.change(muster.Change{Kind: "job", ID: fmt.Sprint(i)}, func() {})
			synctest.Wait()
		}
		time.Sleep(time.Second)
		if !strings.Contains(s.said(), `data: [{"kind":"*"}]`) {
			t.Errorf("a flood is told as %q", s.said())
		}
	})
}

// Traces that are recorded change every second: many at once are told as one.
func TestEventsOfManyTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := emptyFake()
		s, stop := listen(web.New(config(f)))
		defer stop()
		synctest.Wait()
		f.change(muster.Change{Kind: "job", ID: "7"}, func() {})
		for i := range 200 {
			f.change(muster.Change{Kind: "trace", ID: fmt.Sprint(i)}, func() {})
			synctest.Wait()
		}
		time.Sleep(time.Second)
		if !strings.Contains(s.said(), `data: [{"kind":"job","id":"7"},{"kind":"trace"}]`) {
			t.Errorf("many traces are told as %q", s.said())
		}
	})
}

func TestEventsBeatAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := emptyFake()
		cfg := config(f)
		stopping := make(chan struct{})
		cfg.Stopping, cfg.MaxStreams = stopping, 3
		h := web.New(cfg)
		var stops []func()
		var streams []*stream
		for range 3 {
			s, stop := listen(h)
			streams, stops = append(streams, s), append(stops, stop)
		}
		synctest.Wait()
		if n := f.subscribers(); n != 3 {
			t.Fatalf("%d subscribers", n)
		}
		over, stop := listen(h)
		stop()
		if over.code != http.StatusServiceUnavailable || over.head.Get("Retry-After") == "" {
			t.Errorf("one stream too many: %d", over.code)
		}
		time.Sleep(31 * time.Second)
		if n := strings.Count(streams[0].said(), ": still here"); n != 2 {
			t.Errorf("%d heartbeats in 31 seconds", n)
		}
		stops[0]() // the reader leaves
		synctest.Wait()
		if n := f.subscribers(); n != 2 {
			t.Errorf("%d subscribers after one left", n)
		}
		close(stopping) // the server stops: the rest ends by itself
		synctest.Wait()
		if n := f.subscribers(); n != 0 {
			t.Errorf("%d subscribers after the end", n)
		}
		stops[1]()
		stops[2]()
	})
}

func TestPagesWithoutStreamAreNotLive(t *testing.T) {
	cfg := config(newFake())
	cfg.Subscribe = nil
	h := web.New(cfg)
	if strings.Contains(get(t, h, "/"), "data-events") {
		t.Error("the page asks for a stream that is not there")
	}
	if w := ask(t, h, request{path: "/events"}); w.Code != 404 {
		t.Errorf("/events: %d", w.Code)
	}
}

// TestContrast measures every pair of text and ground that the style uses, in
// both themes, by the formula of WCAG 2.
func TestContrast(t *testing.T) {
	css, err := os.ReadFile("static/app.css")
	if err != nil {
		t.Fatal(err)
	}
	colours := map[string][2]string{}
	for _, m := range regexp.MustCompile(`--([a-z0-9-]+): light-dark\((#[0-9a-fA-F]{6}), (#[0-9a-fA-F]{6})\)`).FindAllStringSubmatch(string(css), -1) {
		colours[m[1]] = [2]string{m[2], m[3]}
	}
	grounds := []string{"bg", "surface", "sunken", "hover", "mute-bg"}
	pairs := map[string][]string{
		"ink": append(grounds, "warn-bg"), "ink-2": grounds, "ink-3": {"bg", "surface", "sunken", "hover"}, "accent": {"bg", "surface", "hover"}, "on-accent": {"accent"},
		"ok": {"bg", "ok-bg"}, "bad": {"bg", "surface", "bad-bg"}, "warn": {"warn-bg", "surface", "hover"}, "info": {"info-bg", "surface", "hover"},
	}
	for i, theme := range []string{"light", "dark"} {
		for text, on := range pairs {
			for _, ground := range on {
				if got := contrast(t, colours[text][i], colours[ground][i]); got < 4.5 {
					t.Errorf("%s: %s on %s has a contrast of %.2f", theme, text, ground, got)
				}
			}
		}
		for _, fill := range []string{"c-queue", "c-boot", "c-run", "c-bad", "c-ok", "c-idle"} {
			if got := contrast(t, colours[fill][i], colours["surface"][i]); got < 2 {
				t.Errorf("%s: %s on surface has a contrast of %.2f", theme, fill, got)
			}
		}
	}
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	light := func(hex string) float64 {
		n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
		if err != nil {
			t.Fatalf("colour %q: %v", hex, err)
		}
		var sum float64
		for i, weight := range []float64{.2126, .7152, .0722} {
			c := float64(n>>(16-8*i)&255) / 255
			if c <= .04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := light(a), light(b)
	return (max(x, y) + .05) / (min(x, y) + .05)
}
