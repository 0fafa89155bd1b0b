package github_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/github"
)

const secondary = `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.","documentation_url":"https://docs.github.com/free-pro-team@latest/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`

func TestErrorsHaveClasses(t *testing.T) { // S1-14 S1-15 S1-22 S1-23 S1-24 S1-25 4-11 4-12 4-16 4-17 S1-91
	ctx := context.Background()
	remove := func(c *github.Client) error { return c.RemoveRunner(ctx, org, 5) }
	look := func(c *github.Client) error { _, err := c.Runner(ctx, org, 5); return err }
	register := func(c *github.Client) error { _, err := generate(ctx, c); return err }
	token := func(c *github.Client) error { _, _, err := c.RegistrationToken(ctx, org); return err }
	const (
		removeRoute = "DELETE /orgs/Octo-Org/actions/runners/5"
		lookRoute   = "GET /orgs/Octo-Org/actions/runners/5"
		tokenRoute  = "POST /orgs/Octo-Org/actions/runners/registration-token"
	)
	for name, c := range map[string]struct {
		call   func(*github.Client) error
		route  string
		status int
		body   string
		header []string
		code   muster.Code
		class  error
		wait   time.Duration // -1: any
		times  int           // requests on the route
		says   string
	}{
		"NameTaken":        {register, jitRoute, 409, `{"message":"Already exists - A runner with the name ci-1 already exists."}`, nil, muster.CodeExists, github.ErrRegistration, 0, 1, "already exists"},
		"NoGroup":          {register, jitRoute, 422, `{"message":"Invalid input: object is missing required key: runner_group_id."}`, nil, muster.CodeInvalid, github.ErrRegistration, 0, 1, "runner_group_id"},
		"GroupNotYours":    {register, jitRoute, 403, `{"message":"Forbidden"}`, nil, muster.CodeForbidden, github.ErrRegistration, 0, 1, "Forbidden"},
		"GroupUnknown":     {register, jitRoute, 404, `{"message":"Not Found"}`, nil, muster.CodeNotFound, github.ErrRegistration, 0, 1, "Not Found"},
		"NoPermission":     {register, jitRoute, 403, `{"message":"Resource not accessible by integration"}`, []string{"X-Accepted-GitHub-Permissions", "organization_self_hosted_runners=write"}, muster.CodeForbidden, github.ErrRegistration, 0, 1, "organization_self_hosted_runners=write"},
		"AnswerLost":       {register, jitRoute, 502, `<html>`, nil, muster.CodeUnavailable, github.ErrRegistration, 0, 1, "502"},
		"AnswerEmpty":      {register, jitRoute, 201, ``, nil, muster.CodeUnavailable, github.ErrRegistration, 0, 1, "empty"},
		"AnswerWithoutJIT": {register, jitRoute, 201, `{"runner":{"id":1}}`, nil, muster.CodeUnavailable, github.ErrRegistration, 0, 1, "no configuration"},
		"ValidationDetail": {register, jitRoute, 422, `{"message":"Validation Failed","errors":[{"resource":"Runner","field":"labels","code":"invalid"},"plain words"]}`, nil, muster.CodeInvalid, github.ErrRegistration, 0, 1, "(Runner labels invalid) (plain words)"},

		"RemoveBusy":      {remove, removeRoute, 422, `{"message":"Bad request - Runner \"x\" is still running a job"}`, nil, muster.CodeBusy, github.ErrDeregistration, 0, 1, "still running"},
		"RemoveBusyNewer": {remove, removeRoute, 422, `{"message":"Runner \"x\" is currently running a job and cannot be deleted"}`, nil, muster.CodeBusy, github.ErrDeregistration, 0, 1, ""},
		"RemoveGone":      {remove, removeRoute, 404, `{"message":"Not Found"}`, nil, muster.CodeNotFound, github.ErrDeregistration, 0, 1, ""},
		"RemoveFails":     {remove, removeRoute, 500, `{}`, nil, muster.CodeUnavailable, github.ErrDeregistration, 0, 3, "500"},

		"LookGone":  {look, lookRoute, 404, `{"message":"Not Found"}`, nil, muster.CodeNotFound, github.ErrProvisioning, 0, 1, ""},
		"LookFails": {look, lookRoute, 503, `{}`, nil, muster.CodeUnavailable, github.ErrProvisioning, 0, 3, ""},
		"LookLater": {look, lookRoute, 503, `{}`, []string{"Retry-After", "120"}, muster.CodeUnavailable, github.ErrProvisioning, 2 * time.Minute, 1, ""},
		"LookEmpty": {look, lookRoute, 200, `{}`, nil, muster.CodeUnavailable, nil, 0, 1, "no id"},

		"TokenForbidden":  {token, tokenRoute, 403, `{"message":"Must have admin rights to Repository."}`, nil, muster.CodeForbidden, github.ErrRegistrationToken, 0, 1, "admin rights"},
		"TokenNotFound":   {token, tokenRoute, 404, `{"message":"Not Found"}`, nil, muster.CodeNotFound, github.ErrRegistrationToken, 0, 1, ""},
		"TokenFails":      {token, tokenRoute, 500, `{}`, nil, muster.CodeUnavailable, github.ErrRegistrationToken, 0, 1, ""},
		"TokenIncomplete": {token, tokenRoute, 201, `{}`, nil, muster.CodeUnavailable, github.ErrRegistrationToken, 0, 1, "no token"},

		"PrimaryLimit403":        {register, jitRoute, 403, `{"message":"API rate limit exceeded for installation ID 9."}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Limit", "5000", "X-RateLimit-Reset", "+600"}, muster.CodeUnavailable, github.ErrRegistration, 601 * time.Second, 1, "used up"},
		"PrimaryLimit429":        {register, jitRoute, 429, `{"message":"API rate limit exceeded"}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "+60"}, muster.CodeUnavailable, github.ErrRegistration, 61 * time.Second, 1, ""},
		"SecondaryWithTime":      {register, jitRoute, 403, secondary, []string{"Retry-After", "90"}, muster.CodeUnavailable, github.ErrRegistration, 90 * time.Second, 1, "too many requests"},
		"SecondaryWithoutTime":   {register, jitRoute, 403, secondary, nil, muster.CodeUnavailable, github.ErrRegistration, time.Minute, 1, ""},
		"SecondaryByTextOnly":    {register, jitRoute, 403, `{"message":"You have exceeded a secondary rate limit."}`, nil, muster.CodeUnavailable, github.ErrRegistration, time.Minute, 1, ""},
		"TooManyWithoutAnything": {look, lookRoute, 429, ``, nil, muster.CodeUnavailable, github.ErrProvisioning, time.Minute, 1, ""},
		"AbsurdRetryAfter":       {look, lookRoute, 429, ``, []string{"Retry-After", "99999999"}, muster.CodeUnavailable, github.ErrProvisioning, 65 * time.Minute, 1, ""},
		"AbsurdReset":            {look, lookRoute, 403, ``, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "99999999999"}, muster.CodeUnavailable, github.ErrProvisioning, 65 * time.Minute, 1, ""},

		"Suspended": {register, "POST /app/installations/9/access_tokens", 403, `{"message":"This installation has been suspended"}`, nil, muster.CodeForbidden, nil, 0, 1, "suspended"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t)
				s.on[c.route] = func(w http.ResponseWriter, _ *http.Request) {
					for i, h := range c.header {
						if strings.HasPrefix(h, "+") { // seconds from now
							var seconds int64
							fmt.Sscan(h[1:], &seconds)
							c.header[i] = fmt.Sprint(time.Now().Unix() + seconds)
						}
					}
					answer(w, c.status, c.body, c.header...)
				}
				err := c.call(newClient(t, s))
				e, ok := errors.AsType[*muster.Error](err)
				if !ok || e.Code != c.code {
					t.Fatalf("error %v of class %s, want %s", err, muster.CodeOf(err), c.code)
				}
				if c.class != nil && (!errors.Is(err, c.class) || !errors.Is(err, github.ErrProvisioning)) {
					t.Errorf("%v is not %v", err, c.class)
				}
				if (e.RetryAfter - c.wait).Abs() > time.Second {
					t.Errorf("retry after %s, want %s", e.RetryAfter, c.wait)
				}
				if n := s.seen(c.route); n != c.times {
					t.Errorf("%d requests, want %d", n, c.times)
				}
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%q does not say %q", err, c.says)
				}
			})
		})
	}
}

func TestTransientFailuresAreRepeatedForReads(t *testing.T) { // S4-70
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		n := 0
		s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) {
			if n++; n < 3 {
				answer(w, 502, `<html>`)
				return
			}
			answer(w, 200, `{"id":5}`)
		}
		begun := time.Now()
		if _, err := newClient(t, s).Runner(t.Context(), org, 5); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); n != 3 || took < 500*time.Millisecond || took > 2*time.Second {
			t.Errorf("%d requests in %s", n, took)
		}
	})
}

func TestJITIsNeverRepeatedBlindly(t *testing.T) { // 4-11
	// The transport breaks after GitHub made the runner.
	broken := &failing{stub: newStub(t), on: jitRoute}
	_, err := generate(t.Context(), newClient(t, broken))
	if muster.CodeOf(err) != muster.CodeUnavailable || !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("error %v", err)
	}
	if n := broken.stub.seen(jitRoute); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// failing loses the answers of one route.
type failing struct {
	stub *stub
	on   string
}

func (f *failing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.stub.RoundTrip(req)
	if f.on == req.Method+" "+strings.TrimPrefix(req.URL.Path, "/api/v3") {
		return nil, errors.New("read: connection reset by peer")
	}
	return resp, err
}

func TestTimeout(t *testing.T) { // S1-21 S1-105
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		s.on[jitRoute] = hang
		s.on["GET /repos/octo-org/app/actions/jobs/7"] = hang
		s.on["POST /app/installations/9/access_tokens"] = hang
		s.on["GET /repos/octo-org/app/actions/jobs/7/logs"] = hang
		c := newClient(t, s)
		for name, call := range map[string]func() error{
			"Token": func() error { _, err := generate(t.Context(), c); return err },
			"Job":   func() error { _, err := c.Job(t.Context(), "octo-org/app", 7); return err },
			"Log":   func() error { _, err := c.JobLog(t.Context(), "octo-org/app", 7); return err },
		} {
			begun := time.Now()
			err := call()
			if took := time.Since(begun); took != 30*time.Second || muster.CodeOf(err) != muster.CodeUnavailable {
				t.Errorf("%s: %v after %s", name, err, took)
			}
		}
	})
}

func TestLimitsStopEveryCall(t *testing.T) { // 4-16 S1-106 S1-113
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		limited := true
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) {
			if limited {
				answer(w, 403, secondary)
				return
			}
			answer(w, 201, jitAnswer)
		}
		c := newClient(t, s)
		// Without a time from GitHub the pauses are a minute, two, four, …
		for i, want := range []time.Duration{1, 2, 4, 8} {
			_, err := generate(t.Context(), c)
			e, _ := errors.AsType[*muster.Error](err)
			if e == nil || e.RetryAfter != want*time.Minute {
				t.Fatalf("limit %d: %v", i, err)
			}
			// Meanwhile nothing goes out, however urgent it is.
			for range 5 {
				time.Sleep(10 * time.Second)
				_, err := generate(t.Context(), c)
				if e, _ := errors.AsType[*muster.Error](err); e == nil || e.RetryAfter <= 0 || e.RetryAfter > want*time.Minute {
					t.Fatalf("during pause %d: %v", i, err)
				}
			}
			if n := s.seen(jitRoute); n != i+1 {
				t.Fatalf("%d requests after %d limits", n, i+1)
			}
			time.Sleep(want * time.Minute)
		}
		limited = false
		if _, err := generate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		limited = true // a success has made the count begin anew
		_, err := generate(t.Context(), c)
		if e, _ := errors.AsType[*muster.Error](err); e == nil || e.RetryAfter != time.Minute {
			t.Errorf("after a success: %v", err)
		}
		if views := c.Budget(); !slices.ContainsFunc(views, func(v github.BudgetView) bool { return v.Installation == 9 && !v.PausedUntil.IsZero() }) {
			t.Errorf("the pause is not shown: %+v", views)
		}
	})
}

func TestLimitOfOneInstallationLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		other := muster.Scope{Kind: muster.ScopeOrganization, Owner: "other"}
		s.on["GET /orgs/other/installation"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"id":10}`) }
		s.on["POST /app/installations/10/access_tokens"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 201, `{"token":"ghs_0123456789012345678901234567890123456789","expires_at":"2100-01-01T00:00:00Z"}`)
		}
		s.on["GET /orgs/other/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"id":5}`) }
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 403, secondary) }
		c := newClient(t, s)
		generate(t.Context(), c)
		if _, err := c.Runner(t.Context(), other, 5); err != nil {
			t.Error(err)
		}
	})
}

// rate answers with rate limit headers.
func rate(w http.ResponseWriter, left int, body string) {
	answer(w, 200, body, "X-RateLimit-Limit", "5000", "X-RateLimit-Remaining", fmt.Sprint(left),
		"X-RateLimit-Reset", fmt.Sprint(time.Now().Add(30*time.Minute).Unix()), "X-RateLimit-Resource", "core")
}

func TestBudgetKeepsTheRestForJobs(t *testing.T) { // 4-7 S1-113
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		left := 5000
		s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) { rate(w, left, `{"id":5}`) }
		s.on["GET /repos/octo-org/app/actions/jobs/7"] = func(w http.ResponseWriter, _ *http.Request) { rate(w, left, `{"id":7,"status":"queued"}`) }
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 201, jitAnswer) }
		c := newClient(t, s)
		poll := func() error { _, err := c.Job(t.Context(), "octo-org/app", 7); return err }
		for _, step := range []struct{ left, stretch int }{{4000, 1}, {2500, 1}, {2499, 5}, {500, 5}, {499, 0}} {
			left = step.left
			if _, err := c.Runner(t.Context(), org, 5); err != nil {
				t.Fatal(err)
			}
			if got := c.Stretch(repo); got != step.stretch {
				t.Errorf("with %d left the stretch is %d, want %d", left, got, step.stretch)
			}
			err := poll()
			if refused := err != nil; refused != (step.stretch == 0) {
				t.Errorf("with %d left a poll got %v", left, err)
			}
		}
		e, _ := errors.AsType[*muster.Error](poll())
		if e == nil || e.Code != muster.CodeUnavailable || e.RetryAfter < 29*time.Minute || e.RetryAfter > 31*time.Minute {
			t.Errorf("%v, retry after %s", e, e.RetryAfter)
		}
		if _, err := generate(t.Context(), c); err != nil {
			t.Errorf("what is left is not there for jobs: %v", err)
		}
		if _, err := c.Runner(t.Context(), org, 5); err != nil {
			t.Errorf("the sweep is refused: %v", err)
		}
		if _, err := c.Runner(github.WithLane(t.Context(), github.Background), org, 5); muster.CodeOf(err) != muster.CodeUnavailable {
			t.Errorf("a call that was put into the background: %v", err)
		}
		if _, err := c.Job(github.WithLane(t.Context(), github.Critical), "octo-org/app", 7); err != nil {
			t.Errorf("a call that was made urgent: %v", err)
		}
		time.Sleep(31 * time.Minute) // the window is over, and nothing of the next is used
		if err := poll(); err != nil {
			t.Errorf("after the reset: %v", err)
		}
	})
}

func TestBudgetView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		left := []int{4990, 4995, 4980} // the second answer was overtaken
		s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) {
			rate(w, left[0], `{"id":5}`)
			left = left[1:]
		}
		s.on["GET /orgs/Octo-Org/actions/runners/6"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `{"id":6}`, "X-RateLimit-Limit", "10000", "X-RateLimit-Remaining", "3", "X-RateLimit-Resource", "actions_runner_registration")
		}
		observer := &calls{}
		c := newClient(t, s, func(cfg *github.Config) { cfg.Observer = observer })
		for _, want := range []int{4990, 4990, 4980} {
			c.Runner(t.Context(), org, 5)
			views := c.Budget()
			if v := views[len(views)-1]; v.Remaining != want || v.Limit != 5000 || v.Installation != 9 || v.Account != "octo-org" || v.App != "main" {
				t.Errorf("%+v, want %d left", v, want)
			}
		}
		c.Runner(t.Context(), org, 6)
		views := c.Budget()
		v := views[len(views)-1]
		if v.Remaining != 4980 {
			t.Errorf("another resource's limit was taken for this one: %+v", v)
		}
		if v.Calls["GET /orgs/{org}/actions/runners/{runner_id}"] != 4 {
			t.Errorf("calls %v", v.Calls)
		}
		if app := views[0]; app.Account != "app" || app.Calls["POST /app/installations/{installation_id}/access_tokens"] != 1 || app.Limit != 0 || app.Stretch != 1 {
			t.Errorf("the App's view %+v", app)
		}
		if !slices.Contains(observer.seen, "main GET /orgs/{org}/actions/runners/{runner_id} 200") {
			t.Errorf("observer saw %v", observer.seen)
		}
	})
}

// calls is an Observer that notes down.
type calls struct {
	mu   sync.Mutex
	seen []string
}

func (c *calls) Called(app, route string, status int, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, fmt.Sprint(app, " ", route, " ", status))
}

func (c *calls) Budget(string, int, int) {}

func TestMutationsArePaced(t *testing.T) { // 4-16: 900 points a minute, 5 for each
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		var at []time.Time
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) {
			s.mu.Lock()
			at = append(at, time.Now())
			s.mu.Unlock()
			answer(w, 201, jitAnswer)
		}
		c := newClient(t, s)
		ok, refused := 0, 0
		begun := time.Now()
		for time.Since(begun) < 3*time.Minute {
			var all sync.WaitGroup
			results := make(chan error, 40)
			for range 40 {
				all.Go(func() { _, err := generate(t.Context(), c); results <- err })
			}
			all.Wait()
			close(results)
			for err := range results {
				switch {
				case err == nil:
					ok++
				case muster.CodeOf(err) == muster.CodeUnavailable:
					refused++
				default:
					t.Error(err)
				}
			}
		}
		for i := range at {
			if j := i + 180; j < len(at) && at[j].Sub(at[i]) < time.Minute {
				t.Fatalf("181 calls within %s", at[j].Sub(at[i]))
			}
		}
		if ok < 400 {
			t.Errorf("only %d calls in 3 min, %d refused", ok, refused)
		}
		if at[59].Sub(at[0]) > time.Second {
			t.Error("the first jobs had to wait")
		}
	})
}

func TestETags(t *testing.T) { // 4-28
	s := newStub(t)
	body, tag, full, unchanged := `{"total_count":1,"runners":[{"id":1,"busy":false}]}`, `W/"one"`, 0, 0
	s.on["GET /orgs/Octo-Org/actions/runners"] = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		w.Header().Set("Link", `</api/v3/orgs/Octo-Org/actions/more>; rel="next"`)
		if r.Header.Get("If-None-Match") == tag {
			unchanged++
			w.WriteHeader(304)
			return
		}
		full++
		answer(w, 200, body)
	}
	s.on["GET /orgs/Octo-Org/actions/more"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"runners":[{"id":2}]}`) }
	c := newClient(t, s)
	for range 5 {
		if got, err := c.Runners(t.Context(), org); err != nil || len(got) != 2 || got[0].Busy {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if full != 1 || unchanged != 4 {
		t.Errorf("%d full answers, %d unchanged", full, unchanged)
	}
	tag, body = `W/"two"`, `{"total_count":1,"runners":[{"id":1,"busy":true}]}`
	if got, err := c.Runners(t.Context(), org); err != nil || !got[0].Busy {
		t.Errorf("%+v, %v: the old answer was given", got, err)
	}
}

// An answer that came without its content must not come back with every "not
// modified" from then on.
func TestBrokenAnswersAreNotKept(t *testing.T) { // 4-27 4-28
	for name, body := range map[string]string{"Empty": "", "Space": " \n", "Object": "{}", "Null": "null", "Cut": `{"id":5,"na`, "Page": "<html>"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t)
				broken := true
				s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("ETag", `"x"`)
					switch {
					case r.Header.Get("If-None-Match") != "":
						w.WriteHeader(304)
					case broken:
						answer(w, 200, body)
					default:
						answer(w, 200, `{"id":5}`)
					}
				}
				c := newClient(t, s)
				if _, err := c.Runner(t.Context(), org, 5); err == nil {
					t.Error("no error")
				}
				broken = false
				if got, err := c.Runner(t.Context(), org, 5); err != nil || got.ID != 5 {
					t.Errorf("%+v, %v", got, err)
				}
			})
		})
	}
}

func TestLargeAnswersAreNotKept(t *testing.T) {
	s := newStub(t)
	asked := 0
	pad := strings.Repeat("x", 4<<20)
	s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, r *http.Request) {
		if asked++; r.Header.Get("If-None-Match") != "" {
			t.Error("a large answer was kept")
		}
		answer(w, 200, `{"id":5,"pad":"`+pad+`"}`, "ETag", `"x"`)
	}
	c := newClient(t, s)
	for range 2 {
		if got, err := c.Runner(t.Context(), org, 5); err != nil || got.ID != 5 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if asked != 2 {
		t.Errorf("%d requests", asked)
	}
}

// Every way to fail, with a GitHub that repeats everything it was sent: no error
// shows a credential.
func TestCanary(t *testing.T) { // S1-107 S1-100 4-14 4-37 4-32
	for _, mode := range []string{"App", "PAT", "OddToken"} {
		for _, status := range []int{200, 201, 202, 301, 304, 400, 401, 403, 404, 409, 410, 418, 422, 429, 500, 503, 0} {
			t.Run(fmt.Sprint(mode, status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var jwts []string
					echo := echoing{status: status, jwts: &jwts, stub: newStub(t)}
					c := newClient(t, &echo, func(cfg *github.Config) {
						switch mode {
						case "PAT":
							withToken(canaryPAT)(cfg)
						case "OddToken":
							withToken(canaryPlain)(cfg)
						}
					})
					ctx := t.Context()
					var errs []error
					note := func(err error) { errs = append(errs, err) }
					_, err := generate(ctx, c)
					note(err)
					_, _, err = c.RegistrationToken(ctx, org)
					note(err)
					note(c.RemoveRunner(ctx, org, 5))
					_, err = c.Runner(ctx, org, 5)
					note(err)
					_, err = c.Runners(ctx, org)
					note(err)
					_, err = c.Downloads(ctx, org)
					note(err)
					_, err = c.Job(ctx, "octo-org/app", 7)
					note(err)
					_, err = c.JobLog(ctx, "octo-org/app", 7)
					note(err)
					_, err = c.CreateCheck(ctx, "octo-org/app", github.Check{Name: "x"})
					note(err)
					_, err = c.App(ctx)
					note(err)
					_, err = c.Installations(ctx)
					note(err)
					_, err = c.HookDeliveries(ctx, time.Now(), nil)
					note(err)
					note(c.Redeliver(ctx, 5))
					failed := 0
					for _, err := range errs {
						if err == nil {
							continue
						}
						failed++
						if _, ok := errors.AsType[*muster.Error](err); !ok {
							t.Errorf("%T %v is no *muster.Error", err, err)
						}
						text := fmt.Sprintf("%s %v %+v %#v", err, err, err, err)
						for _, secret := range append([]string{"CANARYinst", canaryPAT, canaryPlain, canaryJIT, canaryRegist, "PRIVATE KEY"}, jwts...) {
							if strings.Contains(text, secret) {
								t.Errorf("an error shows %q: %s", secret[:min(len(secret), 20)], text)
							}
						}
					}
					if status >= 400 && failed != len(errs) {
						t.Errorf("%d of %d calls failed", failed, len(errs))
					}
				})
			})
		}
	}
}

// echoing answers with one status and all that it knows.
type echoing struct {
	status int
	jwts   *[]string
	stub   *stub
}

func (e *echoing) RoundTrip(req *http.Request) (*http.Response, error) {
	auth := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	path := strings.TrimPrefix(req.URL.Path, "/api/v3")
	if strings.HasPrefix(path, "/app") || strings.HasSuffix(path, "/installation") {
		if strings.HasPrefix(auth, "eyJ") {
			*e.jwts = append(*e.jwts, auth)
		}
	}
	if strings.HasSuffix(path, "/installation") || strings.HasSuffix(path, "/access_tokens") {
		return e.stub.RoundTrip(req) // so that the calls themselves come to pass
	}
	if e.status == 0 {
		return nil, fmt.Errorf("proxy says no to %q at %s", req.Header.Get("Authorization"), req.URL)
	}
	rec := httptest.NewRecorder()
	all := auth + " " + canaryToken + " " + canaryJIT + canaryJIT + " " + canaryRegist
	answer(rec, e.status, fmt.Sprintf(`{"message":%q,"errors":[{"message":%q},%q],"documentation_url":%q,"encoded_jit_config":%q,"token":%q,"runners":%q}`,
		all, all, all, all, canaryJIT, canaryRegist, all), "Location", "https://elsewhere.example/?token="+auth, "X-Accepted-GitHub-Permissions", all)
	return rec.Result(), nil
}
