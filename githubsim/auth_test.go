package githubsim_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
)

// The texts of the 401 answers are what clients recognise clock skew by.
func TestAppJWT(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	now := time.Now()
	at := func(name string, value any) func(map[string]any) { return func(c map[string]any) { c[name] = value } }
	for _, tt := range []struct {
		name   string
		edit   func(map[string]any)
		status int
		text   string
	}{
		{"ClientID", nil, 200, ""},
		{"AppIDAsString", at("iss", fmt.Sprint(w.app.ID)), 200, ""},
		{"AppIDAsNumber", at("iss", w.app.ID), 200, ""},
		{"TenMinutes", at("exp", now.Add(10*time.Minute).Unix()), 200, ""},
		{"TooFar", at("exp", now.Add(11*time.Minute).Unix()), 401, "'Expiration time' claim ('exp') is too far in the future"},
		{"Expired", at("exp", now.Add(-time.Second).Unix()), 401, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"},
		{"ExpiryIsText", at("exp", "soon"), 401, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"},
		{"IssuedInTheFuture", at("iat", now.Add(time.Minute).Unix()), 401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"},
		{"IssuedIsText", at("iat", "now"), 401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"},
		{"NoIssuer", func(c map[string]any) { delete(c, "iss") }, 401, "'Issuer' claim ('iss') must be an Integer"},
		{"UnknownApp", at("iss", "999"), 404, "Integration not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.rest("GET", "/app", w.jwt(tt.edit), nil)
			if a.StatusCode != tt.status || a.message() != tt.text {
				t.Errorf("%s %q, want %d %q", a.Status, a.message(), tt.status, tt.text)
			}
			if date, err := http.ParseTime(a.Header.Get("Date")); err != nil || now.Sub(date).Abs() > time.Minute {
				t.Errorf("Date %q: %v", a.Header.Get("Date"), err)
			}
		})
	}
	for name, secret := range map[string]string{
		"NoToken":           "",
		"NotAJWT":           "x.y.z",
		"InstallationToken": w.token(),
		"OtherAlgorithm":    base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + w.jwt(nil)[strings.IndexByte(w.jwt(nil), '.'):],
		"BrokenSignature":   w.jwt(nil)[:len(w.jwt(nil))-8] + "AAAAAAAA",
	} {
		if a := w.rest("GET", "/app", secret, nil); a.StatusCode != 401 || a.message() == "" {
			t.Errorf("%s: %s %s", name, a.Status, a.body)
		}
	}
	// The scheme's case does not matter; octokit writes it small.
	if a := w.rest("GET", "/app", "", nil, "Authorization", "bearer "+w.jwt(nil)); a.StatusCode != 200 {
		t.Errorf("small bearer: %s", a.Status)
	}
}

func TestClockSkew(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	w.Faults().ClockSkew(-5 * time.Minute)
	a := w.rest("GET", "/app", w.jwt(nil), nil)
	if a.StatusCode != 401 || !strings.Contains(a.message(), "('iat')") {
		t.Fatalf("%s %s", a.Status, a.body)
	}
	date, err := http.ParseTime(a.Header.Get("Date"))
	if skew := time.Until(date); err != nil || skew > -4*time.Minute || skew < -6*time.Minute {
		t.Errorf("Date is off by %s, %v", skew, err)
	}
	// What auth-app does: compute the claims from the server's own clock.
	a = w.rest("GET", "/app", w.jwt(func(c map[string]any) {
		c["iat"], c["exp"] = date.Add(-time.Minute).Unix(), date.Add(9*time.Minute).Unix()
	}), nil)
	w.must(200, a, nil)
}

func TestInstallationToken(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	for _, private := range []string{"acme/two", "acme/three"} {
		if err := w.CreateRepository(private, githubsim.RepositoryOptions{Private: true}); err != nil {
			t.Fatal(err)
		}
	}
	path := fmt.Sprintf("/app/installations/%d/access_tokens", w.inst)
	type granted struct {
		Token       string
		ExpiresAt   time.Time `json:"expires_at"`
		Permissions map[string]string
		Selection   string `json:"repository_selection"`
		Repos       []struct {
			Name string
			ID   int64
		} `json:"repositories"`
	}
	create := func(status int, body any, header ...string) granted {
		t.Helper()
		var out granted
		a := w.rest("POST", path, w.jwt(nil), body, header...)
		w.must(status, a, nil)
		if status == 201 {
			w.must(201, a, &out)
		}
		return out
	}

	t.Run("Shapes", func(t *testing.T) {
		classic, stateless := regexp.MustCompile(`\Aghs_[A-Za-z0-9]{36}\z`), regexp.MustCompile(`\Aghs_\d+_[^.]+\.[^.]+\.[^.]+\z`)
		if tok := create(201, nil).Token; !stateless.MatchString(tok) || len(tok) < 500 || len(tok) > 560 {
			t.Errorf("default token of %d characters: %s", len(tok), tok)
		}
		if tok := create(201, nil, "X-GitHub-Stateless-S2S-Token", "disabled").Token; !classic.MatchString(tok) {
			t.Errorf("classic token: %s", tok)
		}
		if tok := create(201, nil, "X-GitHub-Stateless-S2S-Token", "maybe").Token; !stateless.MatchString(tok) {
			t.Errorf("an unknown value is ignored: %s", tok)
		}
	})
	t.Run("Everything", func(t *testing.T) {
		got := create(201, nil)
		if got.Selection != "all" || got.Repos != nil || got.Permissions["metadata"] != "read" || time.Until(got.ExpiresAt).Round(time.Minute) != time.Hour {
			t.Errorf("%+v", got)
		}
	})
	t.Run("Narrowed", func(t *testing.T) {
		got := create(201, map[string]any{"repositories": []string{"two"}, "permissions": map[string]string{"actions": "read"}})
		if got.Selection != "selected" || len(got.Repos) != 1 || got.Repos[0].Name != "two" || len(got.Permissions) != 2 {
			t.Fatalf("%+v", got)
		}
		w.must(200, w.rest("GET", "/repos/acme/two/actions/runs", got.Token, nil), nil)
		if a := w.rest("GET", "/repos/acme/web/actions/runs", got.Token, nil); a.StatusCode != 404 {
			t.Errorf("another repository: %s", a.Status)
		}
		if a := w.rest("GET", "/repos/acme/two/actions/runners", got.Token, nil); a.StatusCode != 403 || a.message() != "Resource not accessible by integration" ||
			a.Header.Get("X-Accepted-GitHub-Permissions") != "administration=read" {
			t.Errorf("another permission: %s %v", a.Status, a.Header)
		}
	})
	t.Run("TooMuch", func(t *testing.T) {
		create(422, map[string]any{"permissions": map[string]string{"organization_administration": "write"}})
		create(422, map[string]any{"repositories": []string{"nowhere"}})
		create(422, map[string]any{"repository_ids": make([]int64, 501)})
		create(400, `{"repositories":`)
		create(400, `[]`)
	})
	t.Run("Revoked", func(t *testing.T) {
		tok := create(201, nil).Token
		w.must(204, w.rest("DELETE", "/installation/token", tok, nil), nil)
		w.must(401, w.rest("GET", "/installation/repositories", tok, nil), nil)
	})
	t.Run("Suspended", func(t *testing.T) {
		tok, at := create(201, nil).Token, fmt.Sprintf("/app/installations/%d/suspended", w.inst)
		w.must(204, w.rest("PUT", at, w.jwt(nil), nil), nil)
		w.must(403, w.rest("GET", "/installation/repositories", tok, nil), nil)
		create(403, nil)
		w.must(204, w.rest("DELETE", at, w.jwt(nil), nil), nil)
		w.must(200, w.rest("GET", "/installation/repositories", tok, nil), nil)
	})
	t.Run("ExpiredByFault", func(t *testing.T) {
		tok := create(201, nil).Token
		w.Faults().ExpireTokens()
		w.must(401, w.rest("GET", "/installation/repositories", tok, nil), nil)
	})
	t.Run("Replicating", func(t *testing.T) {
		w.Faults().TokenReplication(time.Hour)
		w.must(401, w.rest("GET", "/installation/repositories", create(201, nil).Token, nil), nil)
		w.Faults().TokenReplication(0)
	})
}

// A token dies after an hour of the injected clock.
func TestTokenExpiry(t *testing.T) {
	var ahead atomic.Int64
	w := newWorld(t, githubsim.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	tok := w.token()
	w.must(200, w.rest("GET", "/installation/repositories", tok, nil), nil)
	ahead.Store(int64(61 * time.Minute))
	w.ClockChanged()
	if a := w.rest("GET", "/installation/repositories", tok, nil); a.StatusCode != 401 || a.message() != "Bad credentials" {
		t.Errorf("%s %s", a.Status, a.body)
	}
}

func TestInstallationLookups(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	for _, err := range []error{w.CreateUser("hubot"), w.CreateRepository("hubot/tool", githubsim.RepositoryOptions{}), w.CreateRepository("acme/other", githubsim.RepositoryOptions{})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mine, err := w.Install(w.app.ID, "hubot", "hubot/tool")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int64{
		"/orgs/acme/installation": w.inst, "/repos/acme/other/installation": w.inst, "/users/hubot/installation": mine,
		"/users/acme/installation": w.inst, "/repos/hubot/tool/installation": mine, fmt.Sprintf("/app/installations/%d", mine): mine,
	} {
		var got struct {
			ID      int64
			Account struct{ Login string }
		}
		w.must(200, w.rest("GET", path, w.jwt(nil), nil), &got)
		if got.ID != want {
			t.Errorf("%s: %+v", path, got)
		}
	}
	for _, path := range []string{"/orgs/hubot/installation", "/repos/acme/none/installation", "/users/nobody/installation", "/app/installations/1"} {
		w.must(404, w.rest("GET", path, w.jwt(nil), nil), nil)
	}
	// A version of the API changes the answer of a deletion.
	w.must(202, w.rest("DELETE", fmt.Sprintf("/app/installations/%d", mine), w.jwt(nil), nil, "X-GitHub-Api-Version", "2026-03-10"), nil)
	w.hook.find(t, 1, is("installation", "deleted"))
	w.must(404, w.rest("GET", "/users/hubot/installation", w.jwt(nil), nil), nil)
	w.must(204, w.rest("DELETE", fmt.Sprintf("/app/installations/%d", w.inst), w.jwt(nil), nil), nil)
}

func TestRequestRules(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	runners := "/orgs/acme/actions/runners"
	for _, tt := range []struct {
		name, method, path string
		header             []string
		body               any
		status             int
	}{
		{"Plain", "GET", runners, nil, nil, 200},
		{"EnterprisePrefix", "GET", "/api/v3" + runners, nil, nil, 200},
		{"TrailingSlash", "GET", runners + "/", nil, nil, 404},
		{"OtherMethod", "PATCH", runners, nil, nil, 404},
		{"UnknownRoute", "GET", "/orgs/acme/nothing", nil, nil, 404},
		{"UnknownOrganization", "GET", "/orgs/none/actions/runners", nil, nil, 404},
		{"NoUserAgent", "GET", runners, []string{"User-Agent", ""}, nil, 403},
		{"KnownVersion", "GET", runners, []string{"X-GitHub-Api-Version", "2026-03-10"}, nil, 200},
		{"UnknownVersion", "GET", runners, []string{"X-GitHub-Api-Version", "2020-01-01"}, nil, 400},
		{"BrokenJSON", "POST", runners + "/generate-jitconfig", nil, `{"name":`, 400},
		{"ArrayBody", "POST", runners + "/generate-jitconfig", nil, `[1]`, 400},
		{"WrongType", "POST", runners + "/generate-jitconfig", nil, `{"name":7}`, 422},
		{"EnterpriseNeedsAPerson", "GET", "/enterprises/none/actions/runners", nil, nil, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.rest(tt.method, tt.path, tok, tt.body, tt.header...)
			w.must(tt.status, a, nil)
			want := "2022-11-28"
			if tt.name == "KnownVersion" {
				want = "2026-03-10"
			}
			if got := a.Header.Get("X-GitHub-Api-Version-Selected"); got != want {
				t.Errorf("selected version %q", got)
			}
			if tt.status >= 400 {
				var e map[string]any
				w.must(tt.status, a, &e)
				if e["message"] == "" || e["documentation_url"] == "" || e["status"] != fmt.Sprint(tt.status) {
					t.Errorf("error body %s", a.body)
				}
			}
		})
	}
}

func TestConditionalRequestIsFree(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	get := func(tag string) answer {
		return w.rest("GET", "/orgs/acme/actions/runners", tok, nil, "If-None-Match", tag)
	}
	first := get("")
	w.must(200, first, nil)
	used := first.Header.Get("X-RateLimit-Used")
	for range 3 {
		same := get(first.Header.Get("ETag"))
		w.must(304, same, nil)
		if len(same.body) != 0 || same.Header.Get("X-RateLimit-Used") != used {
			t.Errorf("304 cost something: %v", same.Header)
		}
	}
	w.jit(tok, "new", "linux")
	changed := get(first.Header.Get("ETag"))
	w.must(200, changed, nil)
	if changed.Header.Get("X-RateLimit-Used") != "3" || changed.Header.Get("X-RateLimit-Resource") != "core" {
		t.Errorf("after a change: %v", changed.Header)
	}
	// The tag belongs to the token.
	if a := w.rest("GET", "/orgs/acme/actions/runners", w.token(), nil, "If-None-Match", changed.Header.Get("ETag")); a.StatusCode != 200 {
		t.Errorf("another token: %s", a.Status)
	}
}

func TestRateLimits(t *testing.T) {
	t.Run("Secondary", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{PointsPerMinute: 10})
		tok := w.token()
		w.jit(tok, "a", "x")
		w.jit(tok, "b", "x")
		a := w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, map[string]any{"name": "c", "runner_group_id": 1, "labels": []string{"x"}})
		if a.StatusCode != 403 || !strings.Contains(strings.ToLower(a.message()), "secondary rate") || a.Header.Get("Retry-After") != "60" ||
			!strings.HasSuffix(string(a.body[:strings.Index(string(a.body), `","message"`)]), "secondary-rate-limits") {
			t.Errorf("%s %v %s", a.Status, a.Header, a.body)
		}
		// Another route has points of its own.
		w.must(200, w.rest("GET", "/orgs/acme/actions/runners", tok, nil), nil)
	})
	t.Run("ContentPerMinute", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{ContentPerMinute: 1})
		tok := w.token()
		check := map[string]any{"name": "x", "head_sha": "abc"}
		w.must(201, w.rest("POST", "/repos/acme/web/check-runs", tok, check), nil)
		w.must(403, w.rest("POST", "/repos/acme/web/check-runs", tok, check), nil)
	})
	t.Run("Concurrent", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{ConcurrentRequests: 1})
		tok := w.token()
		w.Faults().SlowAnswers(1, time.Hour)
		done := make(chan struct{})
		go func() {
			defer close(done)
			req, _ := http.NewRequest("GET", w.url+"/orgs/acme/actions/runners", nil)
			req.Header.Set("Authorization", "Bearer "+tok)
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		w.until("a slow request", func(t githubsim.Truth) bool { return t.Faults["slow answer"] == 1 })
		w.Faults().Off()
		deadline := time.Now().Add(10 * time.Second)
		for w.rest("GET", "/orgs/acme/actions/runners", tok, nil).StatusCode != 403 {
			if time.Now().After(deadline) {
				t.Fatal("two requests at once were served")
			}
		}
		w.Close()
		<-done
	})
	t.Run("RuleByRepositories", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{})
		for i := range 24 { // 25 with the first
			if err := w.CreateRepository(fmt.Sprintf("acme/r%d", i), githubsim.RepositoryOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		a := w.rest("GET", "/rate_limit", w.token(), nil)
		var got struct {
			Resources map[string]struct{ Limit, Used, Remaining int }
			Rate      *struct{ Limit int }
		}
		w.must(200, a, &got)
		if core := got.Resources["core"]; core.Limit != 5250 || core.Used != 0 || got.Rate == nil || got.Resources["actions_runner_registration"].Limit != 10000 {
			t.Errorf("%s", a.body)
		}
		got.Rate = nil
		w.must(200, w.rest("GET", "/rate_limit", w.token(), nil, "X-GitHub-Api-Version", "2026-03-10"), &got)
		if got.Rate != nil {
			t.Error("the new version still has rate")
		}
	})
	t.Run("EnterpriseServerHasNone", func(t *testing.T) {
		w := newWorld(t, githubsim.Config{EnterpriseServer: true})
		tok := w.token()
		if len(tok) != 40 {
			t.Errorf("token %s", tok)
		}
		a := w.rest("GET", "/orgs/acme/actions/runners", tok, nil)
		if a.Header.Get("X-RateLimit-Limit") != "" || a.Header.Get("X-GitHub-Enterprise-Version") == "" {
			t.Errorf("%v", a.Header)
		}
	})
}

func TestPersonalTokens(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	if err := w.CreateEnterprise("megacorp", org); err != nil {
		t.Fatal(err)
	}
	admin, err := w.CreateToken("alice", "manage_runners:enterprise")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := w.CreateToken("bob", "repo")
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"name": "ent-1", "runner_group_id": 1, "labels": []string{"linux"}}
	w.must(201, w.rest("POST", "/enterprises/megacorp/actions/runners/generate-jitconfig", admin, body), nil)
	if a := w.rest("POST", "/enterprises/megacorp/actions/runners/generate-jitconfig", plain, body); a.StatusCode != 403 || a.Header.Get("X-Accepted-OAuth-Scopes") == "" {
		t.Errorf("%s %v", a.Status, a.Header)
	}
	w.must(403, w.rest("GET", "/orgs/acme/actions/runners", plain, nil), nil)
	w.must(200, w.rest("GET", "/repos/acme/web/actions/runners", plain, nil), nil)
	w.must(200, w.rest("GET", "/enterprises/megacorp/actions/runners/deprecations/2.300.0", admin, nil), nil)
}
