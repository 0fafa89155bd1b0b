package github_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/github"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Planted secrets: none of them may appear in any error (S1-107).
const (
	canaryToken  = "ghs_CANARYinstallationtoken0123456789abcdef"
	canaryPAT    = "ghp_CANARYpersonalaccesstoken0123456789abcd"
	canaryPlain  = "canary-token-of-no-known-shape"
	canaryJIT    = "Q0FOQVJZIGppdCBjb25maWd1cmF0aW9uIHdpdGggYSBwcml2YXRlIGtleQ"
	canaryRegist = "CANARY3JGZDX3P5PMEXLND6TS6FCW"
)

var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func keyPEM() muster.Secret {
	return muster.Secret(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key())}))
}

var (
	org  = muster.Scope{Kind: muster.ScopeOrganization, Owner: "Octo-Org"}
	repo = muster.Scope{Kind: muster.ScopeRepository, Owner: "octo-org", Repo: "app"}
	ent  = muster.Scope{Kind: muster.ScopeEnterprise, Owner: "corp"}
)

// stub is a GitHub that lives in the client's transport, so that it works on a
// synthetic clock. Routes not handled by the test answer for one App that is
// installed as number 9 everywhere.
type stub struct {
	t  *testing.T
	mu sync.Mutex
	// on maps "METHOD /path" to a handler; the query is not part of it.
	on    map[string]http.HandlerFunc
	calls []string
	skew  time.Duration // of its clock
	// tokens counts the installation tokens that it gave.
	tokens int
}

func newStub(t *testing.T) *stub { return &stub{t: t, on: map[string]http.HandlerFunc{}} }

func (s *stub) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	rec.Header().Set("Date", time.Now().Add(s.skew).UTC().Format(http.TimeFormat))
	name := req.Method + " " + strings.TrimPrefix(req.URL.Path, "/api/v3")
	s.mu.Lock()
	s.calls = append(s.calls, name)
	handler := s.on[name]
	s.mu.Unlock()
	if handler == nil {
		handler = s.standard
	}
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body.Close()
	}
	in := req.Clone(req.Context())
	in.Body = io.NopCloser(strings.NewReader(string(body)))
	handler(rec, in)
	if err := req.Context().Err(); err != nil { // the handler hung until the caller left
		return nil, err
	}
	return rec.Result(), nil
}

func (s *stub) standard(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/api/v3")
	switch {
	case strings.HasSuffix(path, "/installation"):
		answer(w, 200, `{"id":9}`)
	case path == "/app/installations/9/access_tokens":
		s.mu.Lock()
		s.tokens++
		n := s.tokens
		s.mu.Unlock()
		answer(w, 201, fmt.Sprintf(`{"token":"%s_%d","expires_at":%q}`, canaryToken, n, time.Now().Add(s.skew+time.Hour).UTC().Format(time.RFC3339)))
	default:
		answer(w, 404, `{"message":"Not Found","documentation_url":"https://docs.github.com/rest","status":"404"}`)
	}
}

func answer(w http.ResponseWriter, status int, body string, headers ...string) {
	for i := 0; i+1 < len(headers); i += 2 {
		w.Header().Set(headers[i], headers[i+1])
	}
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func (s *stub) seen(name string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c == name {
			n++
		}
	}
	return n
}

// newClient makes a client that speaks to s as an App.
func newClient(t *testing.T, s http.RoundTripper, edit ...func(*github.Config)) *github.Client {
	t.Helper()
	cfg := github.Config{Name: "main", ClientID: "Iv23liCANARYCLIENT", AppID: 4711, PrivateKey: keyPEM(), URL: "https://ghes.example", Transport: s}
	for _, e := range edit {
		e(&cfg)
	}
	c, err := github.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func withToken(token muster.Secret) func(*github.Config) {
	return func(cfg *github.Config) { cfg.Token, cfg.PrivateKey = token, "" }
}

const jitAnswer = `{"runner":{"id":23,"runner_group_id":1,"name":"ci-1","os":"unknown","status":"offline","busy":false,"labels":[],"ephemeral":true,"version":null},"encoded_jit_config":"` + canaryJIT + `"}`

const jitRoute = "POST /orgs/Octo-Org/actions/runners/generate-jitconfig"

func generate(ctx context.Context, c *github.Client) (github.JIT, error) {
	return c.GenerateJIT(ctx, org, "ci-1", 0, muster.Labels{"self-hosted", "linux"})
}

func TestGenerateJIT(t *testing.T) { // S0-16 S1-3 4-12
	s := newStub(t)
	var sent map[string]any
	var auth string
	s.on[jitRoute] = func(w http.ResponseWriter, r *http.Request) {
		json.NewDecoder(r.Body).Decode(&sent)
		auth = r.Header.Get("Authorization")
		answer(w, 201, jitAnswer)
	}
	jit, err := generate(t.Context(), newClient(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if jit.RunnerID != 23 || jit.Name != "ci-1" || jit.Config.Reveal() != canaryJIT {
		t.Errorf("%+v", jit)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", jit, jit, jit), canaryJIT) {
		t.Error("printing shows the configuration")
	}
	want := map[string]any{"name": "ci-1", "runner_group_id": 1.0, "labels": []any{"self-hosted", "linux"}}
	if fmt.Sprint(sent) != fmt.Sprint(want) {
		t.Errorf("sent %v, want %v", sent, want)
	}
	if auth != "Bearer "+canaryToken+"_1" {
		t.Errorf("authorization %q", auth)
	}
}

func TestBadInputIsRefusedBeforeAnyRequest(t *testing.T) { // S1-18 S1-20 S1-99 S1-101 4-32
	s := newStub(t)
	c := newClient(t, s)
	ctx := t.Context()
	labels := muster.Labels{"linux"}
	for name, call := range map[string]func() error{
		"RepositoryWithSpace": func() error {
			_, err := c.Runners(ctx, muster.Scope{Kind: muster.ScopeRepository, Owner: "a b", Repo: "c"})
			return err
		},
		"RepositoryClimbs":      func() error { _, err := c.Job(ctx, "../x", 1); return err },
		"RepositoryInjects":     func() error { _, err := c.Job(ctx, "o/$(id)", 1); return err },
		"RepositoryNewline":     func() error { _, err := c.JobLog(ctx, "o/r\n", 1); return err },
		"RepositoryWithoutName": func() error { _, err := c.CreateCheck(ctx, "o", github.Check{Name: "x"}); return err },
		"Organization": func() error {
			_, _, err := c.RegistrationToken(ctx, muster.Scope{Kind: muster.ScopeOrganization, Owner: "o/../../app"})
			return err
		},
		"ZeroScope":          func() error { return c.RemoveRunner(ctx, muster.Scope{}, 1) },
		"LabelInjects":       func() error { _, err := c.GenerateJIT(ctx, org, "n", 1, muster.Labels{"a b"}); return err },
		"NoLabels":           func() error { _, err := c.GenerateJIT(ctx, org, "n", 1, nil); return err },
		"RunnerName":         func() error { _, err := c.GenerateJIT(ctx, org, "a/b", 1, labels); return err },
		"RunnerNameTooLong":  func() error { _, err := c.GenerateJIT(ctx, org, strings.Repeat("n", 65), 1, labels); return err },
		"RunnerNameSearched": func() error { _, err := c.RunnerByName(ctx, org, "a&b=c"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			if err := call(); muster.CodeOf(err) != muster.CodeInvalid {
				t.Errorf("error %v", err)
			}
		})
	}
	if len(s.calls) != 0 {
		t.Errorf("requests were made: %v", s.calls)
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) { // S1-17 S1-18 S1-97 S1-99 S3-51 C6
	for name, edit := range map[string]func(*github.Config){
		"PlainHTTP":      func(c *github.Config) { c.URL = "http://ghes.example" },
		"HTTPLookalike":  func(c *github.Config) { c.URL = "http://localhost.evil.example" },
		"NoURL":          func(c *github.Config) { c.URL = "ghes.example" },
		"URLWithSecret":  func(c *github.Config) { c.URL = "https://user:" + canaryPlain + "@ghes.example" },
		"NoKey":          func(c *github.Config) { c.PrivateKey = "" },
		"KeyIsNoPEM":     func(c *github.Config) { c.PrivateKey = canaryPlain },
		"NoIssuer":       func(c *github.Config) { c.ClientID, c.AppID = "", 0 },
		"BothWays":       func(c *github.Config) { c.Token = canaryPAT },
		"MalformedToken": func(c *github.Config) { c.PrivateKey, c.Token = "", "two words"+canaryPlain },
		"TokenNewline":   func(c *github.Config) { c.PrivateKey, c.Token = "", canaryPlain+"\n" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := github.Config{Name: "main", AppID: 1, PrivateKey: keyPEM(), URL: "https://ghes.example"}
			edit(&cfg)
			_, err := github.New(cfg)
			if muster.CodeOf(err) != muster.CodeInvalid {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), canaryPlain) || strings.Contains(err.Error(), canaryPAT) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	for _, kind := range []string{"PKCS1", "PKCS8", "EscapedNewlines"} {
		t.Run(kind, func(t *testing.T) {
			cfg := github.Config{AppID: 1, PrivateKey: keyPEM()}
			switch kind {
			case "PKCS8":
				der, err := x509.MarshalPKCS8PrivateKey(key())
				if err != nil {
					t.Fatal(err)
				}
				cfg.PrivateKey = muster.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
			case "EscapedNewlines":
				cfg.PrivateKey = muster.Secret(strings.ReplaceAll(cfg.PrivateKey.Reveal(), "\n", `\n`))
			}
			if _, err := github.New(cfg); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAddressOfTheAPI(t *testing.T) { // S1-17
	for in, want := range map[string]string{
		"":                                "https://api.github.com/",
		"https://github.com":              "https://api.github.com/",
		"https://www.github.com/":         "https://api.github.com/",
		"https://api.github.com":          "https://api.github.com/",
		"https://octo.ghe.com":            "https://api.octo.ghe.com/",
		"https://ghes.example":            "https://ghes.example/api/v3/",
		"https://ghes.example/api/v3":     "https://ghes.example/api/v3/",
		"http://127.0.0.1:8081":           "http://127.0.0.1:8081/api/v3/",
		"http://[::1]:8081":               "http://[::1]:8081/api/v3/",
		"http://localhost:8081/api/v3/?x": "http://localhost:8081/api/v3/",
	} {
		c, err := github.New(github.Config{URL: in, Token: canaryPAT})
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if c.URL() != want {
			t.Errorf("%s: %s, want %s", in, c.URL(), want)
		}
	}
}

func TestAppJWT(t *testing.T) { // 4-15
	for name, c := range map[string]struct {
		edit   func(*github.Config)
		issuer string
	}{
		"ClientID": {func(*github.Config) {}, "Iv23liCANARYCLIENT"},
		"AppID":    {func(c *github.Config) { c.ClientID = "" }, "4711"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t)
				var claims jwt.RegisteredClaims
				var header map[string]any
				s.on["GET /app"] = func(w http.ResponseWriter, r *http.Request) {
					token, err := jwt.ParseWithClaims(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), &claims,
						func(*jwt.Token) (any, error) { return &key().PublicKey, nil }, jwt.WithoutClaimsValidation())
					if err != nil {
						t.Error(err)
					} else {
						header = token.Header
					}
					answer(w, 200, `{"id":4711,"slug":"muster","permissions":{"actions":"read"},"events":["workflow_job"]}`)
				}
				info, err := newClient(t, s, c.edit).App(t.Context())
				if err != nil || info.Slug != "muster" || info.Permissions["actions"] != "read" {
					t.Fatalf("%+v, %v", info, err)
				}
				now := time.Now()
				if claims.Issuer != c.issuer || header["alg"] != "RS256" {
					t.Errorf("issuer %q, header %v", claims.Issuer, header)
				}
				if got := now.Sub(claims.IssuedAt.Time); got != time.Minute {
					t.Errorf("issued %s ago", got)
				}
				if got := claims.ExpiresAt.Sub(now); got > 9*time.Minute || got < 5*time.Minute {
					t.Errorf("expires in %s", got)
				}
			})
		})
	}
}

func TestAppJWTIsRenewed(t *testing.T) { // 4-15
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		used := map[string]bool{}
		s.on["GET /app"] = func(w http.ResponseWriter, r *http.Request) {
			var claims jwt.RegisteredClaims
			token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			jwt.NewParser().ParseUnverified(token, &claims)
			if time.Until(claims.ExpiresAt.Time) < time.Minute {
				t.Errorf("a JWT was used %s before its end", time.Until(claims.ExpiresAt.Time))
			}
			used[token] = true
			answer(w, 200, `{"id":1}`)
		}
		c := newClient(t, s)
		for range 120 {
			if _, err := c.App(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
		}
		if len(used) < 10 || len(used) > 20 {
			t.Errorf("%d JWTs in an hour", len(used))
		}
	})
}

func TestClockSkew(t *testing.T) { // 4-15
	synctest.Test(t, func(t *testing.T) {
		for _, skew := range []time.Duration{-25 * time.Minute, 25 * time.Minute} {
			s := newStub(t)
			s.skew = skew
			s.on["GET /app"] = func(w http.ResponseWriter, r *http.Request) {
				var claims jwt.RegisteredClaims
				jwt.NewParser().ParseUnverified(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), &claims)
				now := time.Now().Add(skew)
				switch {
				case claims.IssuedAt.After(now):
					answer(w, 401, `{"message":"'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"}`)
				case claims.ExpiresAt.Before(now) || claims.ExpiresAt.Sub(now) > 10*time.Minute:
					answer(w, 401, `{"message":"'Expiration time' claim ('exp') is too far in the future"}`)
				default:
					answer(w, 200, `{"id":1}`)
				}
			}
			c := newClient(t, s)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if _, err := c.App(t.Context()); err != nil {
						t.Errorf("skew %s: %v", skew, err)
					}
				})
			}
			all.Wait()
			before := s.seen("GET /app")
			for range 3 {
				if _, err := c.App(t.Context()); err != nil {
					t.Errorf("skew %s: %v", skew, err)
				}
			}
			if n := s.seen("GET /app") - before; n != 3 {
				t.Errorf("skew %s: %d requests for 3 calls once the clock is known", skew, n)
			}
			// Installation tokens live by GitHub's clock as well.
			s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"id":5}`) }
			for range 10 {
				if _, err := c.Runner(t.Context(), org, 5); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Minute)
			}
			if s.tokens != 1 {
				t.Errorf("skew %s: %d tokens in 50 min", skew, s.tokens)
			}
		}
	})
}

func TestWrongKeyIsNotRetriedForEver(t *testing.T) {
	s := newStub(t)
	s.on["GET /app"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 401, `{"message":"A JSON web token could not be decoded"}`)
	}
	_, err := newClient(t, s).App(t.Context())
	if muster.CodeOf(err) != muster.CodeUnauthenticated || s.seen("GET /app") != 1 {
		t.Errorf("%v after %d requests", err, s.seen("GET /app"))
	}
}

func TestInstallationTokenIsSharedAndRefreshedEarly(t *testing.T) { // 4-15 S4-60
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		ages := map[string]time.Time{}
		s.on["GET /orgs/Octo-Org/actions/runners/5"] = func(w http.ResponseWriter, r *http.Request) {
			token := r.Header.Get("Authorization")
			s.mu.Lock()
			if _, ok := ages[token]; !ok {
				ages[token] = time.Now()
			}
			if age := time.Since(ages[token]); age > 56*time.Minute {
				t.Errorf("a token was used at the age of %s", age)
			}
			s.mu.Unlock()
			answer(w, 200, `{"id":5,"name":"n","status":"online","busy":false}`)
		}
		c := newClient(t, s)
		for range 100 {
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if _, err := c.Runner(t.Context(), org, 5); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			time.Sleep(2 * time.Minute)
		}
		if s.tokens != 4 { // 200 minutes at 55 minutes each
			t.Errorf("%d tokens", s.tokens)
		}
		if n := s.seen("GET /orgs/Octo-Org/installation"); n != 1 {
			t.Errorf("%d look-ups of the installation", n)
		}
	})
}

func TestRevokedTokenIsReplaced(t *testing.T) { // 4-15
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		revoked := "none"
		s.on[jitRoute] = func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.Header.Get("Authorization"), revoked) {
				answer(w, 401, `{"message":"Bad credentials"}`)
				return
			}
			answer(w, 201, jitAnswer)
		}
		c := newClient(t, s)
		if _, err := generate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		revoked = "_1"
		if _, err := generate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if s.tokens != 2 {
			t.Errorf("%d tokens", s.tokens)
		}
		revoked = "" // every token is refused
		time.Sleep(10 * time.Minute)
		if _, err := generate(t.Context(), c); muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Errorf("error %v", err)
		}
		if s.tokens > 5 {
			t.Errorf("%d tokens", s.tokens)
		}
	})
}

func TestNewTokenMayBeUnknownForSeconds(t *testing.T) { // reference §1.2
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		var first time.Time
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) {
			if first.IsZero() {
				first = time.Now()
			}
			if time.Since(first) < 3*time.Second {
				answer(w, 401, `{"message":"Bad credentials"}`)
				return
			}
			answer(w, 201, jitAnswer)
		}
		if _, err := generate(t.Context(), newClient(t, s)); err != nil {
			t.Fatal(err)
		}
		if s.tokens != 1 {
			t.Errorf("%d tokens", s.tokens)
		}
	})
}

func TestInstallationLookup(t *testing.T) { // 4-15 C5
	runners := func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"total_count":0,"runners":[]}`) }
	t.Run("PerKindOfScope", func(t *testing.T) {
		s := newStub(t)
		c := newClient(t, s)
		for scope, want := range map[muster.Scope]string{
			{Kind: muster.ScopeOrganization, Owner: "a"}:          "GET /orgs/a/installation",
			{Kind: muster.ScopeRepository, Owner: "b", Repo: "r"}: "GET /repos/b/r/installation",
			ent: "GET /enterprises/corp/installation",
		} {
			s.on["GET /"+scope.Path()+"/actions/runners"] = runners
			for range 2 {
				if _, err := c.Runners(t.Context(), scope); err != nil {
					t.Errorf("%s: %v", scope, err)
				}
			}
			if n := s.seen(want); n != 1 {
				t.Errorf("%s: %d times %s", scope, n, want)
			}
		}
	})
	t.Run("OneForAllOfAnOwner", func(t *testing.T) {
		s := newStub(t)
		c := newClient(t, s)
		s.on["GET /orgs/Octo-Org/actions/runners"], s.on["GET /repos/octo-org/app/actions/runners"] = runners, runners
		c.Runners(t.Context(), org)
		c.Runners(t.Context(), repo)
		if n := s.seen("GET /repos/octo-org/app/installation"); n != 0 || s.tokens != 1 {
			t.Errorf("%d more look-ups, %d tokens", n, s.tokens)
		}
		c.Forget("octo-ORG") // as installation events ask for
		c.Runners(t.Context(), repo)
		if n := s.seen("GET /repos/octo-org/app/installation"); n != 1 || s.tokens != 2 {
			t.Errorf("after Forget: %d look-ups, %d tokens", n, s.tokens)
		}
	})
	t.Run("OfAUser", func(t *testing.T) {
		s := newStub(t)
		s.on["GET /orgs/Octo-Org/installation"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 404, `{"message":"Not Found"}`) }
		s.on["GET /orgs/Octo-Org/actions/runners"] = runners
		if _, err := newClient(t, s).Runners(t.Context(), org); err != nil || s.seen("GET /users/Octo-Org/installation") != 1 {
			t.Errorf("%v, %v", err, s.calls)
		}
	})
	t.Run("NotInstalled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStub(t)
			missing := func(w http.ResponseWriter, _ *http.Request) { answer(w, 404, `{"message":"Not Found"}`) }
			s.on["GET /orgs/Octo-Org/installation"], s.on["GET /users/Octo-Org/installation"] = missing, missing
			s.on["GET /orgs/Octo-Org/actions/runners"] = runners
			c := newClient(t, s)
			for range 10 {
				_, err := c.Runners(t.Context(), org)
				if muster.CodeOf(err) != muster.CodeNotFound || !strings.Contains(err.Error(), "main is not installed on octo-org") {
					t.Fatalf("error %v", err)
				}
			}
			if n := s.seen("GET /orgs/Octo-Org/installation"); n != 1 {
				t.Errorf("GitHub was asked %d times", n)
			}
			delete(s.on, "GET /orgs/Octo-Org/installation")
			c.Forget("octo-org") // installation.created
			if _, err := c.Runners(t.Context(), org); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("Fallback", func(t *testing.T) { // S3-52
		s := newStub(t)
		missing := func(w http.ResponseWriter, _ *http.Request) { answer(w, 404, `{"message":"Not Found"}`) }
		s.on["GET /repos/octo-org/app/installation"] = missing
		s.on["GET /repos/octo-org/app/actions/runners"] = runners
		c := newClient(t, s, func(cfg *github.Config) { cfg.InstallationID = 9 })
		if _, err := c.Runners(t.Context(), repo); err != nil {
			t.Error(err)
		}
	})
	t.Run("Uninstalled", func(t *testing.T) { // 4-50
		synctest.Test(t, func(t *testing.T) {
			s := newStub(t)
			s.on["GET /orgs/Octo-Org/actions/runners"] = runners
			c := newClient(t, s)
			c.Runners(t.Context(), org)
			time.Sleep(2 * time.Hour)
			s.on["POST /app/installations/9/access_tokens"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 404, `{"message":"Not Found"}`) }
			if _, err := c.Runners(t.Context(), org); muster.CodeOf(err) != muster.CodeNotFound {
				t.Errorf("error %v", err)
			}
			// It was installed anew, under another number.
			s.on["GET /orgs/Octo-Org/installation"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"id":10}`) }
			s.on["POST /app/installations/10/access_tokens"] = func(w http.ResponseWriter, _ *http.Request) {
				answer(w, 201, `{"token":"ghs_0123456789012345678901234567890123456789","expires_at":"2100-01-01T00:00:00Z"}`)
			}
			if _, err := c.Runners(t.Context(), org); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestToken(t *testing.T) { // C6 S1-97 S1-98
	s := newStub(t)
	var auth string
	s.on["GET /repos/octo-org/app/actions/runners/5"] = func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header.Get("Authorization")
		answer(w, 200, `{"id":5,"name":"n","status":"online","busy":true,"labels":[{"name":"linux"}]}`)
	}
	c := newClient(t, s, withToken(canaryPAT))
	got, err := c.Runner(t.Context(), repo, 5)
	if err != nil || !got.Online || !got.Busy || !slices.Equal(got.Labels, muster.Labels{"linux"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if auth != "Bearer "+canaryPAT || len(s.calls) != 1 {
		t.Errorf("authorization %q, calls %v", auth, s.calls)
	}
	if _, err := c.HookDeliveries(t.Context(), time.Now(), nil); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("only an App can list its deliveries: %v", err)
	}
	s.on["GET /repos/octo-org/app/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 401, `{"message":"Bad credentials"}`)
	}
	if _, err := c.Runner(t.Context(), repo, 5); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("error %v", err)
	}
}

// Every route of a registration by token at repository level, and none besides (S1-16).
func TestRepositoryRoutes(t *testing.T) { // S1-7 S1-14 S1-15 S1-16
	s := newStub(t)
	s.on["POST /repos/octo-org/app/actions/runners/registration-token"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"2020-01-22T12:13:35.123-08:00"}`)
	}
	s.on["DELETE /repos/octo-org/app/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
	s.on["GET /repos/octo-org/app/actions/runners/5"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"id":5,"status":"strange","busy":false}`)
	}
	c := newClient(t, s, withToken(canaryPAT))
	if token, _, err := c.RegistrationToken(t.Context(), repo); err != nil || token.Reveal() != canaryRegist {
		t.Errorf("%s, %v", token, err)
	}
	if got, err := c.Runner(t.Context(), repo, 5); err != nil || got.Online { // S1-6: unknown counts as offline
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.RemoveRunner(t.Context(), repo, 5); err != nil {
		t.Error(err)
	}
	if want := []string{
		"POST /repos/octo-org/app/actions/runners/registration-token",
		"GET /repos/octo-org/app/actions/runners/5",
		"DELETE /repos/octo-org/app/actions/runners/5",
	}; !slices.Equal(s.calls, want) {
		t.Errorf("calls %v", s.calls)
	}
}

func TestRegistrationTokenIsKeptUntilShortlyBeforeItsEnd(t *testing.T) { // S1-8 S1-100
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		n := 0
		s.on["POST /orgs/Octo-Org/actions/runners/registration-token"] = func(w http.ResponseWriter, _ *http.Request) {
			n++
			answer(w, 201, fmt.Sprintf(`{"token":"LLBF3JGZDX3P5PMEXLND6TS6FCWO%d","expires_at":%q}`, n, time.Now().Add(time.Hour).Format("2006-01-02T15:04:05.000-07:00")))
		}
		c := newClient(t, s)
		begun := time.Now()
		for range 54 {
			token, expires, err := c.RegistrationToken(t.Context(), org)
			if err != nil || token.Reveal() != "LLBF3JGZDX3P5PMEXLND6TS6FCWO1" || expires.Sub(begun).Round(time.Second) != time.Hour {
				t.Fatalf("%s, expires %s, %v", token.Reveal(), expires, err)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Minute)
		if token, _, err := c.RegistrationToken(t.Context(), org); err != nil || token.Reveal() != "LLBF3JGZDX3P5PMEXLND6TS6FCWO2" {
			t.Errorf("%s, %v", token.Reveal(), err)
		}
		if n != 2 {
			t.Errorf("%d tokens were asked for", n)
		}
	})
}

func TestRunners(t *testing.T) { // 4-28 4-18
	t.Run("AllPages", func(t *testing.T) {
		s := newStub(t)
		s.on["GET /orgs/Octo-Org/actions/runners"] = func(w http.ResponseWriter, r *http.Request) {
			page := 1
			fmt.Sscan(r.URL.Query().Get("page"), &page)
			var list []string
			for i := range 100 {
				if id := (page-1)*99 + i + 1; id <= 250 { // the last of a page has moved to the next
					list = append(list, fmt.Sprintf(`{"id":%d,"name":"r%d","status":"online","ephemeral":true}`, id, id))
				}
			}
			if page < 3 {
				w.Header().Set("Link", fmt.Sprintf(`<https://ghes.example/api/v3/orgs/Octo-Org/actions/runners?page=1>; rel="prev", <https://ghes.example/api/v3/orgs/Octo-Org/actions/runners?per_page=100&page=%d>; rel="next", <https://x>; rel="last"`, page+1))
			}
			answer(w, 200, `{"total_count":250,"runners":[`+strings.Join(list, ",")+`]}`)
		}
		got, err := newClient(t, s).Runners(t.Context(), org)
		if err != nil || len(got) != 250 {
			t.Fatalf("%d runners, %v", len(got), err)
		}
		if !got[0].Busy || !got[0].Ephemeral { // "busy" was not said: not idle
			t.Errorf("%+v", got[0])
		}
	})
	broken := map[string]http.HandlerFunc{
		"EmptyAnswer": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
		"EmptyObject": func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{}`) },
		"HTML":        func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `<html>maintenance</html>`) },
		"LinkElsewhere": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `{"runners":[]}`, "Link", `<https://evil.example/x>; rel="next"`)
		},
		"EndlessPages": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `{"runners":[]}`, "Link", `</api/v3/orgs/Octo-Org/actions/runners?page=2>; rel="next"`)
		},
		"SecondPageFails": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page") != "" {
				answer(w, 500, `{}`)
				return
			}
			answer(w, 200, `{"runners":[{"id":1}]}`, "Link", `</api/v3/orgs/Octo-Org/actions/runners?page=2>; rel="next"`)
		},
	}
	for name, handler := range broken {
		t.Run(name, func(t *testing.T) { // a list that is not whole reads as if runners were gone (4-27)
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t)
				s.on["GET /orgs/Octo-Org/actions/runners"] = handler
				got, err := newClient(t, s).Runners(t.Context(), org)
				if muster.CodeOf(err) != muster.CodeUnavailable || got != nil {
					t.Errorf("%v, %v", got, err)
				}
			})
		})
	}
	t.Run("ByName", func(t *testing.T) { // 4-11
		s := newStub(t)
		s.on["GET /orgs/Octo-Org/actions/runners"] = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("name") != "ci-1" {
				t.Errorf("query %s", r.URL.RawQuery)
			}
			answer(w, 200, `{"total_count":2,"runners":[{"id":1,"name":"ci-10"},{"id":2,"name":"ci-1"}]}`)
		}
		c := newClient(t, s)
		if got, err := c.RunnerByName(t.Context(), org, "ci-1"); err != nil || got.ID != 2 {
			t.Errorf("%+v, %v", got, err)
		}
		s.on["GET /orgs/Octo-Org/actions/runners"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `{"total_count":1,"runners":[{"id":1,"name":"ci-10"}]}`)
		}
		if _, err := c.RunnerByName(t.Context(), org, "ci-1"); muster.CodeOf(err) != muster.CodeNotFound {
			t.Errorf("error %v", err)
		}
	})
}

func TestJob(t *testing.T) { // 4-8 4-5
	s := newStub(t)
	status := "queued"
	s.on["GET /repos/octo-org/app/actions/jobs/77"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"id":77,"run_id":5,"run_attempt":2,"status":"`+status+`","conclusion":null,"created_at":"2026-01-01T00:00:00Z",
			"started_at":"2026-01-01T00:00:00Z","completed_at":null,"name":"build","labels":["x"],"runner_id":null,"runner_name":null,
			"workflow_name":"CI","head_branch":"main","steps":[{"name":"s","number":1,"status":"queued","conclusion":null}]}`)
	}
	c := newClient(t, s)
	got, err := c.Job(t.Context(), "octo-org/app", 77)
	if err != nil {
		t.Fatal(err)
	}
	if got.Action != "queued" || got.Key() != (muster.JobKey{ID: 77, Attempt: 2}) || got.Sense != muster.SensePoll || got.InstallationID != 9 ||
		got.Repository != "octo-org/app" || got.App != "main" || !got.CompletedAt.IsZero() || got.CreatedAt.Year() != 2026 || len(got.Steps) != 1 {
		t.Errorf("%+v", got)
	}
	for _, held := range []string{"pending", "requested", "waiting"} {
		status = held
		if got, err := c.Job(t.Context(), "octo-org/app", 77); err != nil || got.Action != "waiting" {
			t.Errorf("%s: %+v, %v", held, got, err)
		}
	}
	if _, err := c.Job(t.Context(), "octo-org/app", 78); muster.CodeOf(err) != muster.CodeNotFound {
		t.Errorf("error %v", err)
	}
}

func TestJobLog(t *testing.T) {
	s := newStub(t)
	s.on["GET /repos/octo-org/app/actions/jobs/77/logs"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 302, "", "Location", "https://blobs.example/log?sig="+canaryPlain)
	}
	var auth []string
	s.on["GET /log"] = func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header["Authorization"]
		answer(w, 200, "hello\n")
	}
	c := newClient(t, s)
	body, err := c.JobLog(t.Context(), "octo-org/app", 77)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(body)
	if err != nil || string(text) != "hello\n" {
		t.Errorf("%q, %v", text, err)
	}
	body.Close()
	if auth != nil {
		t.Errorf("the credential went to another host: %v", auth)
	}
	for location, code := range map[string]muster.Code{
		"http://blobs.example/log":                      muster.CodeUnavailable, // S1-17
		"https://blobs.example/gone?sig=" + canaryPlain: muster.CodeNotFound,
	} {
		s.on["GET /repos/octo-org/app/actions/jobs/77/logs"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 302, "", "Location", location) }
		if _, err := c.JobLog(t.Context(), "octo-org/app", 77); muster.CodeOf(err) != code || strings.Contains(err.Error(), canaryPlain) {
			t.Errorf("%s: %v", location, err)
		}
	}
}

func TestHookDeliveries(t *testing.T) { // 4-7
	s := newStub(t)
	now := time.Now().Truncate(time.Second)
	pages := 0
	s.on["GET /app/hook/deliveries"] = func(w http.ResponseWriter, r *http.Request) {
		pages++
		at := func(ago time.Duration) string { return now.Add(-ago).UTC().Format(time.RFC3339) }
		switch r.URL.Query().Get("cursor") {
		case "":
			answer(w, 200, `[{"id":3,"guid":"c","delivered_at":"`+at(time.Minute)+`","redelivery":true,"status":"OK","status_code":200,"event":"workflow_job","action":"queued","installation_id":9},
				{"id":2,"guid":"b","delivered_at":"`+at(2*time.Minute)+`","redelivery":false,"status":"failed to connect","status_code":0,"event":"ping","action":null}]`,
				"Link", `<https://ghes.example/api/v3/app/hook/deliveries?per_page=100&cursor=v1_12>; rel="next"`)
		case "v1_12":
			answer(w, 200, `[{"id":1,"guid":"a","delivered_at":"`+at(time.Hour)+`","status":"OK","event":"push"}]`,
				"Link", `<https://ghes.example/api/v3/app/hook/deliveries?per_page=100&cursor=v1_13>; rel="next"`)
		default:
			t.Errorf("page %s was read though all of it is older", r.URL)
		}
	}
	s.on["POST /app/hook/deliveries/2/attempts"] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 202, `{}`) }
	c := newClient(t, s)
	got, err := c.HookDeliveries(t.Context(), now.Add(-10*time.Minute), nil)
	if err != nil || len(got) != 2 || pages != 2 {
		t.Fatalf("%+v from %d pages, %v", got, pages, err)
	}
	if !got[0].Succeeded() || !got[0].Redelivery || got[0].Action != "queued" || got[1].Succeeded() || !got[1].DeliveredAt.Equal(now.Add(-2*time.Minute)) {
		t.Errorf("%+v", got)
	}
	// A page that was read before ends the list, and one with something new does not.
	for want, known := range map[int][]int64{1: {2, 3}, 2: {3}} {
		pages = 0
		got, err := c.HookDeliveries(t.Context(), now.Add(-10*time.Minute), func(id int64) bool { return slices.Contains(known, id) })
		if err != nil || len(got) != 2 || pages != want {
			t.Errorf("with %v known: %+v from %d pages, %v", known, got, pages, err)
		}
	}
	if err := c.Redeliver(t.Context(), 2); err != nil {
		t.Error(err)
	}
	if err := c.Redeliver(t.Context(), 3); muster.CodeOf(err) != muster.CodeNotFound {
		t.Errorf("error %v", err)
	}
}

func TestInstallations(t *testing.T) {
	s := newStub(t)
	s.on["GET /app/installations"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `[{"id":1,"account":{"login":"o","type":"Organization"},"suspended_at":null,"updated_at":1700000000},
			{"id":2,"account":{"slug":"corp"},"target_type":"Enterprise","suspended_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}]`)
	}
	got, err := newClient(t, s).Installations(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got[0].State != "active" || got[0].Account != "o" || got[0].App != "main" || got[0].Workspace != "" || got[1].State != "suspended" || got[1].Account != "corp" || got[1].AccountType != "Enterprise" {
		t.Errorf("%+v", got)
	}
}

func TestChecks(t *testing.T) { // S0-8
	s := newStub(t)
	var sent []string
	record := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent = append(sent, strings.TrimSpace(string(body)))
		answer(w, 201, `{"id":88}`)
	}
	s.on["POST /repos/octo-org/app/check-runs"] = record
	s.on["PATCH /repos/octo-org/app/check-runs/88"] = record
	c := newClient(t, s)
	check := github.Check{Name: "muster / ci", HeadSHA: "abc", Status: "in_progress", Title: "Starting", Summary: "…", ExternalID: "77"}
	id, err := c.CreateCheck(t.Context(), "octo-org/app", check)
	if err != nil || id != 88 {
		t.Fatalf("%d, %v", id, err)
	}
	check.Status, check.Conclusion, check.Title = "completed", "success", ""
	if err := c.UpdateCheck(t.Context(), "octo-org/app", id, check); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"name":"muster / ci","head_sha":"abc","status":"in_progress","external_id":"77","output":{"title":"Starting","summary":"…"}}`,
		`{"name":"muster / ci","status":"completed","conclusion":"success","external_id":"77"}`,
	}
	if !slices.Equal(sent, want) {
		t.Errorf("sent %q", sent)
	}
}

func TestDownloads(t *testing.T) {
	s := newStub(t)
	s.on["GET /orgs/Octo-Org/actions/runners/downloads"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `[{"os":"linux","architecture":"x64","download_url":"https://d/x.tgz","filename":"x.tgz","sha256_checksum":"ABCDEF"},{"os":"win","architecture":"x64","download_url":"u","filename":"f"}]`)
	}
	got, err := newClient(t, s).Downloads(t.Context(), org)
	if err != nil || len(got) != 2 || got[0] != (github.Download{OS: "linux", Arch: "x64", URL: "https://d/x.tgz", Filename: "x.tgz", SHA256: "abcdef"}) || got[1].SHA256 != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRedirects(t *testing.T) {
	t.Run("RenamedRepositoryIsFollowed", func(t *testing.T) {
		s := newStub(t)
		s.on["GET /repos/octo-org/app/actions/jobs/77"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 301, `{"message":"Moved Permanently"}`, "Location", "https://ghes.example/api/v3/repositories/1/actions/jobs/77")
		}
		s.on["GET /repositories/1/actions/jobs/77"] = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				answer(w, 404, `{}`)
				return
			}
			answer(w, 200, `{"id":77,"status":"queued"}`)
		}
		if _, err := newClient(t, s).Job(t.Context(), "octo-org/app", 77); err != nil {
			t.Error(err)
		}
	})
	t.Run("OtherHostIsNot", func(t *testing.T) {
		s := newStub(t)
		s.on["GET /repos/octo-org/app/actions/jobs/77"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 302, ``, "Location", "https://evil.example/steal")
		}
		if _, err := newClient(t, s).Job(t.Context(), "octo-org/app", 77); err == nil || s.seen("GET /steal") != 0 {
			t.Errorf("%v, %v", err, s.calls)
		}
	})
	t.Run("APostIsNotTurnedIntoAGet", func(t *testing.T) {
		s := newStub(t)
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 301, ``, "Location", "https://ghes.example/api/v3/organizations/1/actions/runners/generate-jitconfig")
		}
		if _, err := generate(t.Context(), newClient(t, s)); err == nil || s.seen("GET /organizations/1/actions/runners/generate-jitconfig") != 0 {
			t.Errorf("%v, %v", err, s.calls)
		}
	})
}

func TestCallerLeaves(t *testing.T) {
	s := newStub(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.on[jitRoute] = func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }
	_, err := generate(ctx, newClient(t, s))
	if muster.CodeOf(err) != muster.CodeUnavailable || !errors.Is(err, context.Canceled) || !errors.Is(err, github.ErrRegistration) {
		t.Errorf("error %v", err)
	}
}
