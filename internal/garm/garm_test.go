package garm_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/garm"
	"github.com/muster-ci/muster/internal/wire"
)

// lives is the life of one runner.
type lives struct {
	mu      sync.Mutex
	runner  muster.Runner
	pool    muster.Pool
	err     error // of every call
	boots   int
	nonces  map[string]bool
	check   bool
	reports []wire.Report
	session []wire.Report
}

const (
	token   = "the-boot-token"
	session = "mss_the-session-token"
)

func newLives() *lives {
	return &lives{
		runner: muster.Runner{ID: "r-one", Name: "linux-one", State: muster.RunnerProvisioning},
		pool:   muster.Pool{Name: "linux", Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "acme", Repo: "web.site"}, RunnerLabels: muster.Labels{"a"}, Registration: muster.RegistrationJIT},
		nonces: map[string]bool{},
	}
}

func (l *lives) ScriptRunner(_ context.Context, tok string) (muster.Runner, muster.Pool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tok != token {
		return muster.Runner{}, muster.Pool{}, muster.Errorf(muster.CodeUnauthenticated, "not a token")
	}
	if !l.runner.ListeningAt.IsZero() {
		return l.runner, l.pool, muster.Errorf(muster.CodeGone, "installed")
	}
	return l.runner, l.pool, l.err
}

func (l *lives) ScriptInstalls(ctx context.Context, tok string) error {
	_, _, err := l.ScriptRunner(ctx, tok)
	return err
}

func (l *lives) ScriptReport(_ context.Context, tok string, rep wire.Report) (muster.Runner, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tok != token {
		return muster.Runner{}, muster.Errorf(muster.CodeUnauthenticated, "not a token")
	}
	l.reports = append(l.reports, rep)
	if rep.Phase == wire.PhaseListening {
		l.runner.ListeningAt = rep.At
	}
	return l.runner, nil
}

func (l *lives) ScriptDownload(ctx context.Context, tok, system, arch string) (muster.RunnerDownload, error) {
	_, _, err := l.ScriptRunner(ctx, tok)
	return muster.RunnerDownload{URL: "https://github.example.com/" + system + "-" + arch + ".tar.gz"}, err
}

func (l *lives) Boot(_ context.Context, tok string, req wire.BootRequest) (wire.BootResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.boots++
	l.nonces[req.Nonce] = true
	resp := wire.BootResponse{Runner: "r-one", Name: "linux-one", SessionToken: session}
	switch {
	case l.check:
		resp.Check = &wire.Check{}
	case l.pool.Registration == muster.RegistrationToken:
		resp.Registration = &wire.Registration{Token: "registration-token", URL: "https://github.com/acme"}
	default:
		files := map[string][]byte{}
		for _, name := range []string{".runner", ".credentials", ".credentials_rsaparams"} {
			files[name] = fmt.Appendf(nil, "%s of boot %d", name, l.boots)
		}
		blob, err := json.Marshal(files)
		if err != nil {
			return resp, err
		}
		resp.JITConfig = base64.StdEncoding.EncodeToString(blob)
	}
	return resp, nil
}

func (l *lives) Report(_ context.Context, tok string, rep wire.Report) (wire.Answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tok != session {
		return wire.Answer{}, muster.Errorf(muster.CodeUnauthenticated, "unknown session token")
	}
	l.session = append(l.session, rep)
	return wire.Answer{}, nil
}

// vault is a Vault in memory.
type vault struct {
	mu   sync.Mutex
	kept map[muster.RunnerID][]byte
}

func (v *vault) Keep(_ context.Context, id muster.RunnerID, secret []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kept == nil {
		v.kept = map[muster.RunnerID][]byte{}
	}
	v.kept[id] = secret
	return nil
}

func (v *vault) Kept(_ context.Context, id muster.RunnerID) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b, ok := v.kept[id]; ok {
		return b, nil
	}
	return nil, muster.Errorf(muster.CodeNotFound, "nothing")
}

func (v *vault) Drop(_ context.Context, id muster.RunnerID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.kept, id)
	return nil
}

func handler(t *testing.T, l *lives, v *vault) http.Handler {
	t.Helper()
	h, err := garm.New(garm.Config{Lives: l, Vault: v, URL: "https://muster.example.com/", Now: func() time.Time { return time.Unix(1e9, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	h.Register(mux)
	return mux
}

func call(h http.Handler, method, path, tok, body string) *http.Response {
	r := httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
	if tok != "" {
		r.Header.Set("Authorization", "Bearer "+tok)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // what curl -d says
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// 4-9 4-14: one registration, at the moment when the script asks, for three files,
// with and without a slash at the end, though the control plane starts anew in
// between; nothing once the runner listens.
func TestCredentials(t *testing.T) {
	l, v := newLives(), &vault{}
	for name, want := range map[string]string{
		"runner": ".runner of boot 1", "credentials/": ".credentials of boot 1", "credentials_rsaparams": ".credentials_rsaparams of boot 1",
	} {
		r := call(handler(t, l, v), http.MethodGet, "/api/v1/metadata/credentials/"+name, token, "") // a handler each
		if got := text(t, r); r.StatusCode != 200 || got != want || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %q", name, r.StatusCode, got)
		}
	}
	if l.boots != 1 {
		t.Errorf("%d registrations", l.boots)
	}
	h := handler(t, l, v)
	if r := call(h, http.MethodPost, "/api/v1/callbacks/status", token, `{"status": "idle", "message": "runner successfully installed", "agent_id": null}`); r.StatusCode != 200 {
		t.Errorf("idle: %d", r.StatusCode)
	}
	if len(v.kept) > 0 {
		t.Error("the credentials are kept")
	}
	for _, path := range []string{"credentials/runner", "systemd/unit-file", "system/service-name", "tools/runner/linux/x64", "runner-metadata", "runner-registration-token/"} {
		if r := call(h, http.MethodGet, "/api/v1/metadata/"+path, token, ""); r.StatusCode != http.StatusGone {
			t.Errorf("%s of an installed runner: %d", path, r.StatusCode)
		}
	}
	if l.boots != 1 {
		t.Errorf("%d registrations", l.boots)
	}
}

// Calls at once register once; a boot whose outcome was lost is repeated with the
// same nonce.
func TestCredentialsAtOnce(t *testing.T) {
	l, v := newLives(), &vault{}
	h := handler(t, l, v)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			r := call(h, http.MethodGet, "/api/v1/metadata/credentials/runner", token, "")
			defer r.Body.Close()
			if r.StatusCode != 200 {
				t.Errorf("%d", r.StatusCode)
			}
		})
	}
	wg.Wait()
	if l.boots != 1 {
		t.Errorf("%d registrations", l.boots)
	}
	_ = v.Drop(t.Context(), "r-one") // as if the process had died before Keep
	call(h, http.MethodGet, "/api/v1/metadata/credentials/runner", token, "").Body.Close()
	if l.boots != 2 || len(l.nonces) != 1 {
		t.Errorf("%d registrations, %d nonces", l.boots, len(l.nonces))
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		method, path, token, body string
		err                       error
		want                      int
	}{
		"no token":          {"GET", "/metadata/credentials/runner", "", "", nil, 401},
		"another token":     {"GET", "/metadata/credentials/runner", "x", "", nil, 401},
		"elsewhere":         {"GET", "/metadata/credentials/runner", token, "", muster.Errorf(muster.CodeForbidden, "elsewhere"), 403},
		"not needed":        {"GET", "/metadata/system/service-name/", token, "", muster.Errorf(muster.CodeGone, "gone"), 410},
		"later":             {"GET", "/metadata/credentials/runner", token, "", &muster.Error{Code: muster.CodeUnavailable, Message: "later", RetryAfter: 3 * time.Second}, 503},
		"broken":            {"GET", "/metadata/credentials/runner", token, "", fmt.Errorf("secret detail"), 500},
		"cut off":           {"GET", "/metadata/credentials/runner", token, "", fmt.Errorf("read: %w", context.DeadlineExceeded), 503},
		"no such file":      {"GET", "/metadata/credentials/..%2frunner", token, "", nil, 404},
		"other file":        {"GET", "/metadata/credentials/shadow", token, "", nil, 404},
		"wrong method":      {"POST", "/metadata/credentials/runner", token, "", nil, 405},
		"get of a report":   {"GET", "/callbacks/status", token, "", nil, 405},
		"unknown status":    {"POST", "/callbacks/status", token, `{"status": "online"}`, nil, 400},
		"no JSON":           {"POST", "/callbacks/status/", token, `status=idle`, nil, 400},
		"too long":          {"POST", "/callbacks/status", token, `{"status": "idle", "message": "` + strings.Repeat("x", 1<<20) + `"}`, nil, 400},
		"jit, not token":    {"GET", "/metadata/runner-registration-token/", token, "", nil, 409},
		"hostile user":      {"GET", "/metadata/systemd/unit-file?runAsUser=root%0AExecStart=/bin/evil", token, "", nil, 400},
		"session's token":   {"GET", "/metadata/credentials/runner", session, "", nil, 401},
		"session says idle": {"POST", "/callbacks/status", session, `{"status": "idle"}`, nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLives()
			l.err = c.err
			r := call(handler(t, l, &vault{}), c.method, "/api/v1"+c.path, c.token, c.body)
			got := text(t, r)
			if r.StatusCode != c.want || strings.Contains(got, "secret detail") || len(l.reports) > 0 {
				t.Errorf("%d %s %v", r.StatusCode, got, l.reports)
			}
			if c.want == 503 && r.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if c.want == 400 || c.want == 401 || c.want == 410 {
				var body map[string]string
				if err := json.Unmarshal([]byte(got), &body); err != nil || body["error"] == "" {
					t.Errorf("%s: %v", got, err)
				}
			}
		})
	}
}

func TestStatus(t *testing.T) {
	for status, want := range map[string]wire.Report{
		"idle":       {Phase: wire.PhaseListening},
		"failed":     {Phase: wire.PhaseFinished, ExitCode: 1, Reason: "runner failed: no space left on device"},
		"terminated": {Phase: wire.PhaseFinished, Reason: "runner ended before it listened"},
	} {
		l := newLives()
		r := call(handler(t, l, &vault{}), http.MethodPost, "/api/v1/callbacks/status", token, `{"status": "`+status+`", "message": "no  space\u001b left\non \u202edevice"}`)
		defer r.Body.Close()
		want.At = time.Unix(1e9, 0)
		if r.StatusCode != 200 || len(l.reports) != 1 || fmt.Sprint(l.reports[0]) != fmt.Sprint(want) {
			t.Errorf("%s: %d %+v", status, r.StatusCode, l.reports)
		}
	}
	l := newLives()
	h := handler(t, l, &vault{})
	for _, body := range []string{`{"status": "installing", "message": "downloading"}`, `{"os_name": "Debian", "os_version": "12", "agent_id": null}`} {
		path := map[bool]string{true: "status", false: "system-info/"}[strings.Contains(body, "status")]
		if r := call(h, http.MethodPost, "/api/v1/callbacks/"+path, token, body); r.StatusCode != 200 || len(l.reports) > 0 {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	if r := call(h, http.MethodPost, "/api/v1/callbacks/status", session, `{"status": "terminated"}`); r.StatusCode != 200 || len(l.session) != 1 || l.session[0].Phase != wire.PhaseFinished {
		t.Errorf("terminated: %d %v", r.StatusCode, l.session)
	}
}

// 4-14 4-32: the unit is one that systemd takes, starts the runner as the user that
// was named, and tells its end with a token that is no process's argument.
func TestUnitFile(t *testing.T) {
	l := newLives()
	h := handler(t, l, &vault{})
	unit := text(t, call(h, http.MethodGet, "/api/v1/metadata/systemd/unit-file?runAsUser=builder", token, ""))
	if strings.Contains(unit, token) || !strings.Contains(unit, "\nUser=builder\n") || !strings.Contains(unit, "ExecStart=/home/builder/actions-runner/runsvc.sh") ||
		!strings.Contains(unit, "https://muster.example.com/api/v1/callbacks/status") {
		t.Errorf("%s", unit)
	}
	for line := range strings.Lines(unit) {
		if strings.HasPrefix(line, "Exec") && strings.Contains(line, "mss_") {
			t.Errorf("the token is an argument: %s", line)
		}
	}
	name := text(t, call(h, http.MethodGet, "/api/v1/metadata/system/service-name", token, ""))
	if name != "actions.runner.acme-web-site.linux-one" {
		t.Errorf("service %q", name)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no systemd-analyze to verify the unit with: run scripts/setup.sh")
		}
		t.Skip("there is no systemd-analyze to verify the unit with; its text was checked")
	}
	file := filepath.Join(t.TempDir(), name+".service")
	unit = strings.ReplaceAll(unit, "/home/builder/actions-runner/runsvc.sh", "/bin/true") // it has to exist
	unit = strings.ReplaceAll(strings.ReplaceAll(unit, "User=builder", "User=root"), "/home/builder/actions-runner", "/")
	if err := os.WriteFile(file, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), filepath.Base(file)) {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// Pools that register by token serve scripts that run config.sh, and tell others why
// they cannot.
func TestRegistrationToken(t *testing.T) {
	l := newLives()
	l.pool.Registration = muster.RegistrationToken
	h := handler(t, l, &vault{})
	if got := text(t, call(h, http.MethodGet, "/api/v1/metadata/runner-registration-token/", token, "")); got != "registration-token" {
		t.Errorf("%q", got)
	}
	r := call(h, http.MethodGet, "/api/v1/metadata/credentials/runner", token, "")
	if got := text(t, r); r.StatusCode != 409 || !strings.Contains(got, "registration: jit") || len(l.reports) != 1 || !strings.Contains(l.reports[0].Reason, "runner failed") {
		t.Errorf("%d %s %+v", r.StatusCode, got, l.reports)
	}
	var meta map[string]any
	if err := json.Unmarshal([]byte(text(t, call(h, http.MethodGet, "/api/v1/metadata/runner-metadata/", token, ""))), &meta); err != nil || meta["runner_name"] != "linux-one" {
		t.Errorf("%v, %v", meta, err)
	}
	var bundle map[string]map[string]string
	if err := json.Unmarshal([]byte(text(t, call(h, http.MethodGet, "/api/v1/metadata/system/cert-bundle", token, ""))), &bundle); err != nil || bundle["root_certificates"] == nil {
		t.Errorf("%v, %v", bundle, err)
	}
	d := call(h, http.MethodGet, "/api/v1/metadata/tools/runner/win/arm64", token, "")
	if d.StatusCode != http.StatusFound || d.Header.Get("Location") != "https://github.example.com/win-arm64.tar.gz" {
		t.Errorf("%d %v", d.StatusCode, d.Header)
	}
}

// The test of a provider ends with the script's first call for credentials.
func TestProviderCheck(t *testing.T) {
	l := newLives()
	l.check = true
	r := call(handler(t, l, &vault{}), http.MethodGet, "/api/v1/metadata/credentials/runner", token, "")
	defer r.Body.Close()
	if r.StatusCode != http.StatusGone || len(l.reports) != 1 || len(l.reports[0].Check) != 1 || !l.reports[0].Check[0].OK {
		t.Errorf("%d %+v", r.StatusCode, l.reports)
	}
}
