package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/gateway"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
)

// cluster remembers what was asked of it.
type cluster struct {
	mu      sync.Mutex
	started []string // "runner user"
	err     error
}

func (c *cluster) Create(_ context.Context, s provider.Spec, user string) (provider.Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return provider.Instance{}, c.err
	}
	c.started = append(c.started, string(s.Runner)+" "+user)
	return provider.Instance{ID: "17", Runner: s.Runner, State: provider.InstanceStarting, CreatedAt: noon, Detail: "PENDING (Priority)"}, nil
}

func (c *cluster) Delete(context.Context, string, muster.RunnerID) error { return c.err }

func (c *cluster) Get(_ context.Context, _ string, r muster.RunnerID) (provider.Instance, error) {
	return provider.Instance{ID: "17", Runner: r, State: provider.InstanceRunning, CreatedAt: noon}, c.err
}

func (c *cluster) List(context.Context, string) ([]provider.Instance, error) { return nil, c.err }

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	app    = "https://muster.example.com"
	secret = "planted-gateway-secret"
)

// stand is a gateway and the control plane that it trusts.
type stand struct {
	*gateway.Gateway
	cluster *cluster
	tokens  *secretbox.Tokens
	keys    string // the file
	log     *strings.Builder
	now     time.Time
}

func keysOf(t *testing.T, b byte) *secretbox.Tokens {
	t.Helper()
	box, err := secretbox.New([]byte(strings.Repeat(string(rune(b)), secretbox.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := secretbox.NewTokens(box)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func newStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{cluster: &cluster{}, tokens: keysOf(t, 'a'), keys: filepath.Join(t.TempDir(), "keys.json"), log: &strings.Builder{}, now: noon}
	if err := os.WriteFile(s.keys, s.tokens.PublicKeys(), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	s.Gateway, err = gateway.New(gateway.Config{
		AppURL: app, AuthToken: secret, Previous: "the-one-before", KeysFile: s.keys, Slurm: s.cluster, MaxCPUs: 8,
		Repositories: []gateway.Repository{
			{GitHubURL: "https://github.com/acme/web", SlurmUser: "ci-web"}, {GitHubURL: "https://github.com/Globex/", SlurmUser: "ci-globex"},
		},
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: func() time.Time { return s.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func claims(page string) secretbox.BootClaims {
	return secretbox.BootClaims{
		JTI: "jti-1", Runner: "r-aaaaaaaaaaaaaaaa", Workspace: "default", Pool: "hpc", Audience: app, ExpiresAt: noon.Add(7 * 24 * time.Hour),
		Build: muster.BuildRequest{Owner: "acme", Repository: "web", RepositoryURL: "https://github.com/acme/web", GitHubURL: page, Labels: "self-hosted,hpc", Job: 9},
	}
}

func (s *stand) token(t *testing.T, c secretbox.BootClaims) string {
	t.Helper()
	token, err := s.tokens.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return token.Reveal()
}

func request(token, page string) wire.StartRequest {
	return wire.StartRequest{GitHubURL: page, LauncherToken: token, RunnerLabels: "self-hosted,hpc", TokenURL: app + "/gha/runner", Owner: "muster", CPUs: 2}
}

func (s *stand) call(method, path, header string, body any) *httptest.ResponseRecorder {
	var text []byte
	if body != nil {
		text, _ = json.Marshal(body)
	}
	r := httptest.NewRequest(method, path, strings.NewReader(string(text)))
	if header != "" {
		r.Header.Set(wire.AuthToken, header)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// S2-7 S2-16 S2-17: POST /runner/start, with the shared secret in auth-token and the
// launch token in the body, launches a worker. 4-36: as the user that the gateway's own map says.
func TestLaunchWorker(t *testing.T) {
	s := newStand(t)
	const page = "https://github.com/acme/web"
	w := s.call("POST", "/runner/start", secret, request(s.token(t, claims(page)), page))
	var in wire.GatewayInstance
	if err := json.Unmarshal(w.Body.Bytes(), &in); err != nil || w.Code != http.StatusOK || in.Status != "OK!" || in.JobID != "17" || in.State != "starting" || in.Detail == "" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	// S2-11: the token outlives twenty hours in a queue.
	s.now = noon.Add(20 * time.Hour)
	if w := s.call("POST", "/runner/start", "the-one-before", request(s.token(t, claims(page)), "https://GitHub.com/ACME/web/")); w.Code != http.StatusOK {
		t.Errorf("after 20 h, with the secret of before: %d %s", w.Code, w.Body)
	}
	if got := strings.Join(s.cluster.started, "; "); got != "r-aaaaaaaaaaaaaaaa ci-web; r-aaaaaaaaaaaaaaaa ci-web" {
		t.Errorf("started %s", got)
	}
}

// S2-9 4-10 4-36: what is not signed by the control plane for this place and time starts
// nothing, whoever has the shared secret.
func TestRefusals(t *testing.T) {
	const page = "https://github.com/acme/web"
	good := func(t *testing.T, s *stand) wire.StartRequest { return request(s.token(t, claims(page)), page) }
	with := func(change func(*secretbox.BootClaims)) func(*testing.T, *stand) wire.StartRequest {
		return func(t *testing.T, s *stand) wire.StartRequest {
			c := claims(page)
			change(&c)
			return request(s.token(t, c), c.Build.GitHubURL)
		}
	}
	for name, c := range map[string]struct {
		make   func(*testing.T, *stand) wire.StartRequest
		status int
		class  string
	}{
		"no token": {func(*testing.T, *stand) wire.StartRequest { return request("", page) }, 401, "forbidden"},
		"another key": {func(t *testing.T, s *stand) wire.StartRequest {
			token, err := keysOf(t, 'b').Mint(claims(page))
			if err != nil {
				t.Fatal(err)
			}
			return request(token.Reveal(), page)
		}, 401, "forbidden"},
		"tampered": {func(t *testing.T, s *stand) wire.StartRequest {
			parts := strings.Split(s.token(t, claims(page)), ".")
			other := strings.Split(s.token(t, claims("https://github.com/globex/x")), ".")
			return request(parts[0]+"."+other[1]+"."+parts[2], "https://github.com/globex/x")
		}, 401, "forbidden"},
		"no signature": {func(t *testing.T, s *stand) wire.StartRequest {
			tok := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": "muster"})
			text, err := tok.SignedString(jwt.UnsafeAllowNoneSignatureType)
			if err != nil {
				t.Fatal(err)
			}
			return request(text, page)
		}, 401, "forbidden"},
		"public key as secret": {func(t *testing.T, s *stand) wire.StartRequest {
			var set struct{ Keys []struct{ Kid, X string } }
			if err := json.Unmarshal(s.tokens.PublicKeys(), &set); err != nil {
				t.Fatal(err)
			}
			tok := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": "muster", "aud": app})
			tok.Header["kid"] = set.Keys[0].Kid
			text, err := tok.SignedString([]byte(set.Keys[0].X))
			if err != nil {
				t.Fatal(err)
			}
			return request(text, page)
		}, 401, "forbidden"},
		"expired":                 {with(func(c *secretbox.BootClaims) { c.ExpiresAt = noon }), 401, "forbidden"},
		"another control plane":   {with(func(c *secretbox.BootClaims) { c.Audience = "https://other.example.com" }), 403, "forbidden"},
		"no launch token":         {with(func(c *secretbox.BootClaims) { c.Build = muster.BuildRequest{} }), 403, "forbidden"},
		"a repository not mapped": {with(func(c *secretbox.BootClaims) { c.Build.GitHubURL = "https://github.com/acme/other" }), 403, "forbidden"},
		// The job's repository is mapped, but the runner would serve all of the organization (4-1).
		"an organization not mapped": {with(func(c *secretbox.BootClaims) { c.Build.GitHubURL = "https://github.com/acme" }), 403, "forbidden"},
		"another host":               {with(func(c *secretbox.BootClaims) { c.Build.GitHubURL = "https://ghes.example.com/acme/web" }), 403, "forbidden"},
		"a place that is not signed": {func(t *testing.T, s *stand) wire.StartRequest {
			return request(s.token(t, claims(page)), "https://github.com/globex/x")
		}, 403, "forbidden"},
		"the token sent elsewhere": {func(t *testing.T, s *stand) wire.StartRequest {
			r := good(t, s)
			r.TokenURL = app + ".evil.example/gha/runner"
			return r
		}, 403, "forbidden"},
		"too large": {func(t *testing.T, s *stand) wire.StartRequest { r := good(t, s); r.CPUs = 9; return r }, 400, "invalid"},
	} {
		s := newStand(t)
		req := c.make(t, s)
		w := s.call("POST", "/runner/start", secret, req)
		var refusal wire.GatewayError
		if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || w.Code != c.status || refusal.Class != c.class || refusal.Message == "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if len(s.cluster.started) != 0 {
			t.Errorf("%s: started %v", name, s.cluster.started)
		}
		if all := s.log.String() + w.Body.String(); req.LauncherToken != "" && strings.Contains(all, req.LauncherToken) || strings.Contains(all, secret) {
			t.Errorf("%s: a secret is told", name)
		}
	}
}

// An owner's entry serves each of its repositories.
func TestOwnersEntry(t *testing.T) {
	s := newStand(t)
	for page, want := range map[string]int{"https://github.com/globex": 200, "https://github.com/globex/any.thing": 200, "https://github.com/enterprises/globex": 403, "https://github.com/globexx/a": 403} {
		if w := s.call("POST", "/runner/start", secret, request(s.token(t, claims(page)), page)); w.Code != want {
			t.Errorf("%s: %d %s", page, w.Code, w.Body)
		}
	}
}

// 4-35: every route asks for the secret, those that are not there too, and a wrong
// one is neither repeated nor logged.
func TestEveryRouteIsAuthenticated(t *testing.T) {
	s := newStand(t)
	for _, route := range []string{"POST /runner/start", "GET /runner/jobs", "GET /runner/jobs/r-a", "DELETE /runner/jobs/r-a", "GET /", "POST /api/reload", "GET /config/repos", "PUT /runner/start"} {
		method, path, _ := strings.Cut(route, " ")
		for _, header := range []string{"", "wrong-secret-canary", secret + "x", secret[:len(secret)-1]} {
			w := s.call(method, path, header, nil)
			if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "auth-token missing") {
				t.Errorf("%s with %q: %d %s", route, header, w.Code, w.Body)
			}
		}
	}
	if strings.Contains(s.log.String(), "canary") || strings.Contains(s.log.String(), secret) {
		t.Errorf("the log has a secret:\n%s", s.log)
	}
}

// Errors of the cluster keep their class on the way.
func TestClasses(t *testing.T) {
	const page = "https://github.com/acme/web"
	for _, c := range []struct {
		err    error
		status int
		class  string
	}{
		{provider.ErrInvalid, 400, "invalid"}, {provider.ErrNotFound, 404, "not_found"}, {provider.ErrQuota, 429, "quota"},
		{provider.ErrCapacity, 503, "capacity"}, {provider.ErrTransient, 502, "transient"}, {context.DeadlineExceeded, 502, "transient"},
	} {
		s := newStand(t)
		s.cluster.err = fmt.Errorf("%w: in Slurm's own words", c.err)
		for _, w := range []*httptest.ResponseRecorder{
			s.call("POST", "/runner/start", secret, request(s.token(t, claims(page)), page)), s.call("GET", "/runner/jobs?owner=o", secret, nil),
			s.call("GET", "/runner/jobs/r-a?owner=o", secret, nil), s.call("DELETE", "/runner/jobs/r-a?owner=o", secret, nil),
		} {
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.class) || !strings.Contains(w.Body.String(), "Slurm's own words") {
				t.Errorf("%v: %d %s", c.err, w.Code, w.Body)
			}
		}
	}
}

// 4-10: keys are rotated under a running gateway, by its file.
func TestKeyRotation(t *testing.T) {
	s := newStand(t)
	const page = "https://github.com/acme/web"
	old := s.token(t, claims(page))
	s.tokens = keysOf(t, 'z')
	fresh := s.token(t, claims(page))
	if w := s.call("POST", "/runner/start", secret, request(fresh, page)); w.Code != 401 || !strings.Contains(w.Body.String(), "keys_file") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	put := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(s.keys, text, 0o644); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(s.keys, later, later); err != nil {
			t.Fatal(err)
		}
	}
	put(s.tokens.PublicKeys())
	for token, want := range map[string]int{fresh: 200, old: 401} {
		if w := s.call("POST", "/runner/start", secret, request(token, page)); w.Code != want {
			t.Errorf("%d instead of %d: %s", w.Code, want, w.Body)
		}
	}
	// A file that is being written does not stop the gateway.
	put([]byte("{"))
	later := time.Now().Add(2 * time.Hour)
	if err := os.Chtimes(s.keys, later, later); err != nil {
		t.Fatal(err)
	}
	if w := s.call("POST", "/runner/start", secret, request(fresh, page)); w.Code != 200 {
		t.Errorf("with a broken file: %d %s", w.Code, w.Body)
	}
}

// C12: beside the runner manager, whose POST /runner/start is another operation, the
// header of the credential decides, never the body; below the prefix it is always the gateway.
func TestDispatch(t *testing.T) {
	s := newStand(t)
	const page, others = "https://github.com/acme/web", "X-Runner-Secret"
	manager := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	h := s.Dispatch(manager, others)
	body, err := json.Marshal(request(s.token(t, claims(page)), page))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path    string
		headers []string
		want    int
	}{
		"ours":                {"/runner/start", []string{wire.AuthToken, secret}, 200},
		"ours, wrong":         {"/runner/start", []string{wire.AuthToken, "wrong"}, 401},
		"theirs":              {"/runner/start", []string{others, "x"}, http.StatusTeapot},
		"nobody's":            {"/runner/start", nil, http.StatusTeapot},
		"both":                {"/runner/start", []string{wire.AuthToken, secret, others, "x"}, 400},
		"prefix":              {"/slurm/runner/start", []string{wire.AuthToken, secret}, 200},
		"prefix, nobody's":    {"/slurm/runner/start", nil, 401},
		"prefix, theirs":      {"/slurm/runner/start", []string{others, "x"}, 401},
		"another path":        {"/runner/stop", []string{wire.AuthToken, secret}, http.StatusTeapot},
		"the dashboard":       {"/", []string{wire.AuthToken, secret}, http.StatusTeapot},
		"list, by the header": {"/runner/jobs", []string{wire.AuthToken, "wrong"}, 401},
	} {
		r := httptest.NewRequest(http.MethodPost, c.path, strings.NewReader(string(body)))
		for i := 0; i < len(c.headers); i += 2 {
			r.Header.Set(c.headers[i], c.headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d instead of %d: %s", name, w.Code, c.want, w.Body)
		}
	}
}

// Everything that is wrong with a configuration is told at once.
func TestNewTellsEverything(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(bad, []byte(`{"keys":[{"kty":"RSA","kid":"k"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := gateway.New(gateway.Config{KeysFile: bad, Repositories: []gateway.Repository{
		{"acme/web", "a"}, {"https://github.com/acme", ""}, {"https://github.com/x", "root"}, {"https://github.com/y", "a"}, {"https://github.com/Y/", "b"},
	}})
	for _, want := range []string{"Ed25519", "auth_token_file", `"acme/web"`, "https://github.com/acme has no", "https://github.com/x has no", "two users"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %q in %v", want, err)
		}
	}
}
