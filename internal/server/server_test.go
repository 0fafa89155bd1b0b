package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
	"github.com/muster-ci/muster/provider/process"
)

const hookSecret = "server-test-webhook-secret"

// stand is a whole control plane on a simulated GitHub and a platform in memory,
// whose machines do nothing but show the test what they were started with.
type stand struct {
	*Server
	sim      *githubsim.Server
	cfg      config.Config
	url      string
	log      *syncBuffer
	machines chan fake.Machine
}

var clouds struct {
	sync.Mutex
	byOwner map[string]*fake.Cloud
}

func init() {
	clouds.byOwner = map[string]*fake.Cloud{}
	kinds = append(kinds, provider.Kind{
		Description: provider.Description{Kind: "fake"},
		Read: func(_ json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
			return func() (provider.Provider, error) {
				clouds.Lock()
				defer clouds.Unlock()
				return clouds.byOwner[env.Owner].Provider(env.Owner), nil
			}, nil
		},
	})
}

// newStand starts one. Its App may not write checks, although a pool wants to.
func newStand(t *testing.T) *stand {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends after the cleanups that need it
	s := &stand{sim: githubsim.New(githubsim.Config{NoRateLimits: true}), log: &syncBuffer{}, machines: make(chan fake.Machine, 100)}
	api, err := s.sim.Start(ctx, "127.0.0.1:0")
	must(err)
	t.Cleanup(func() {
		if err := s.sim.Close(); err != nil {
			t.Error(err)
		}
	})
	must(s.sim.CreateOrganization("acme"))
	for _, repo := range []string{"acme/web", "acme/lib", "acme/infra"} {
		must(s.sim.CreateRepository(repo, githubsim.RepositoryOptions{Private: true}))
	}
	app, err := s.sim.CreateApp(githubsim.AppOptions{
		Name: "muster-test", Owner: "acme", WebhookSecret: hookSecret, Events: []string{"workflow_job"},
		Permissions: map[string]string{"actions": "read", "metadata": "read", "organization_self_hosted_runners": "write"},
	})
	must(err)
	_, err = s.sim.Install(app.ID, "acme")
	must(err)

	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")[:10]
	cloud := fake.NewCloud()
	cloud.OnBoot(func(ctx context.Context, m fake.Machine) string {
		s.machines <- m
		<-ctx.Done()
		return ""
	})
	t.Cleanup(cloud.Close)
	clouds.Lock()
	clouds.byOwner[name] = cloud
	clouds.Unlock()

	dir := t.TempDir()
	must(os.WriteFile(filepath.Join(dir, "app.pem"), []byte(app.PEM), 0o600))
	must(os.WriteFile(filepath.Join(dir, "hook"), []byte(hookSecret), 0o600))
	file := filepath.Join(dir, "muster.yaml")
	must(os.WriteFile(file, fmt.Appendf(nil, `name: %s
data_dir: data
listen: 127.0.0.1:0
apps:
  - name: main
    id: %d
    private_key_file: app.pem
    webhook_secret_file: hook
    api_url: %s/api/v3
providers:
  - name: cloud
    kind: fake
offerings:
  - name: small
    cpus: 1
pools:
  - name: linux
    scope: acme
    labels: [linux]
    provider: cloud
    offering: small
    connect_timeout: 5m
    scaling: {mode: on_demand, max_runners: 50}
  - name: checked
    scope: acme
    labels: [checked]
    provider: cloud
    offering: small
    report_checks: true
`, name, app.ID, api), 0o600))
	s.cfg, err = config.Load(file, func(string) string { return "" })
	must(err)
	s.Server, err = Open(ctx, s.cfg, Options{Version: "v0.0.0-test", LogOutput: s.log})
	must(err)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("the control plane ended: %v\n%s", err, s.log)
	}
	s.url = "http://" + s.Addr()
	must(s.sim.SetWebhook(app.ID, s.url+"/github/webhook/main"))
	return s
}

// until waits until cond holds, looking again at every change in the store.
func (s *stand) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	changes := s.Store().Subscribe(ctx)
	tick := time.NewTicker(100 * time.Millisecond) // what changes outside the store
	defer tick.Stop()
	for !cond() {
		select {
		case <-changes:
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for: %s\n%s", what, s.log)
		}
	}
}

func (s *stand) do(t *testing.T, method, path, token, contentType, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// boot presents a boot token as an agent with the nonce does.
func (s *stand) boot(t *testing.T, token, nonce string) (int, wire.BootResponse) {
	t.Helper()
	status, text := s.do(t, http.MethodPost, wire.BootPath, token, "application/json", fmt.Sprintf(`{"nonce":%q,"os":"linux","arch":"amd64"}`, nonce))
	var resp wire.BootResponse
	if err := json.Unmarshal([]byte(text), &resp); err != nil {
		t.Errorf("answer %d is not JSON: %v\n%s", status, err, text)
	}
	return status, resp
}

// 4-10 S2-9 S1-66: what an agent presents over HTTP has the status that wire documents, and nothing
// that it can send is an internal error. What it gets registers a runner for one job only.
func TestAgentOverHTTP(t *testing.T) {
	s := newStand(t)
	machine := func() (fake.Machine, string) {
		t.Helper()
		if _, err := s.sim.InjectJob(githubsim.JobOptions{Repo: "acme/web", Labels: []string{"linux"}}); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-s.machines:
			return m, m.Spec.Boot.Token.Reveal()
		case <-time.After(30 * time.Second):
			t.Fatalf("no machine for the job\n%s", s.log)
		}
		panic("unreachable")
	}
	one, token := machine()
	two, other := machine()
	box, err := secretbox.Load(s.cfg.SecretKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := secretbox.NewTokens(box)
	if err != nil {
		t.Fatal(err)
	}
	// mint makes a token with this control plane's own key.
	mint := func(change func(*secretbox.BootClaims)) string {
		t.Helper()
		c := secretbox.BootClaims{JTI: uuid.NewString(), Runner: one.Spec.Runner, Workspace: workspace, Pool: "linux", Audience: s.cfg.PublicURL, ExpiresAt: time.Now().Add(time.Hour)}
		change(&c)
		minted, err := tokens.Mint(c)
		if err != nil {
			t.Fatal(err)
		}
		return minted.Reveal()
	}
	stranger, err := secretbox.Load(filepath.Join(t.TempDir(), "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	forger, err := secretbox.NewTokens(stranger)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := forger.Mint(secretbox.BootClaims{JTI: "x", Runner: one.Spec.Runner, Workspace: workspace, Pool: "linux", Audience: s.cfg.PublicURL, ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	saved := muster.BootToken{JTI: uuid.NewString(), Runner: two.Spec.Runner, Workspace: workspace, ExpiresAt: time.Now().Add(time.Hour)}
	if err := s.Store().SaveBootToken(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	expect := func(name string, want int, token, nonce string) {
		t.Helper()
		if status, _ := s.boot(t, token, nonce); status != want {
			t.Errorf("%s: status %d, want %d", name, status, want)
		}
	}
	parts := strings.Split(token, ".")
	expect("no token", 401, "", "n")
	expect("not a token", 401, "hello", "n")
	expect("tampered claims", 401, parts[0]+"."+parts[1]+"A."+parts[2], "n")
	expect("tampered signature", 401, parts[0]+"."+parts[1]+"."+strings.Repeat("A", len(parts[2])), "n")
	expect("another's key", 401, forged.Reveal(), "n")
	expect("expired", 401, mint(func(c *secretbox.BootClaims) { c.ExpiresAt = time.Now().Add(-time.Minute) }), "n")
	expect("for another control plane", 403, mint(func(c *secretbox.BootClaims) { c.Audience = "https://other.example" }), "n")
	expect("never given out", 403, mint(func(*secretbox.BootClaims) {}), "n")
	expect("of another runner", 403, mint(func(c *secretbox.BootClaims) { c.JTI = saved.JTI }), "n")
	expect("no nonce", 400, token, "")
	expect("unused", 200, other, "process-2")

	status, got := s.boot(t, token, "process-1")
	if status != 200 || got.Runner != string(one.Spec.Runner) || got.SessionToken == "" || got.NoJobSeconds != 120 {
		t.Fatalf("boot: %d %+v", status, got)
	}
	ephemeral(t, got.JITConfig)
	remote, err := s.Apps()["main"].RunnerByName(t.Context(), muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}, got.Name)
	if err != nil || !remote.Ephemeral {
		t.Errorf("GitHub has %+v, %v; want an ephemeral runner", remote, err)
	}
	expect("used by another process", 409, token, "process-3")
	expect("an answer that was lost", 200, token, "process-1")

	// Anything at all, in every place that an agent fills in.
	for _, path := range []string{wire.BootPath, wire.ReportPath, wire.LogPath} {
		for _, token := range []string{"", "x", token, got.SessionToken, strings.Repeat("A", 5000), "a.b.c", `{"alg":"none"}`} {
			for _, body := range []string{"", "null", "[]", "{", `{"nonce":1}`, `{"nonce":"n","phase":"dance","offset":-1,"data":"%%%"}`, `{"phase":"heartbeat","busy":"yes"}`, "\x00\xff"} {
				if status, text := s.do(t, http.MethodPost, path, token, "application/json", body); status >= 500 {
					t.Errorf("%s with body %q: %d %s", path, body, status, text)
				}
			}
		}
		if status, _ := s.do(t, http.MethodGet, path, token, "application/json", ""); status != 405 {
			t.Errorf("GET %s: %d", path, status)
		}
	}

	status, text := s.do(t, http.MethodPost, wire.ReportPath, got.SessionToken, "application/json", `{"phase":"finished","reason":"no job within 2m0s"}`)
	if status != 200 {
		t.Fatalf("report: %d %s", status, text)
	}
	expect("after the runner has finished", 410, token, "process-1")
	s.until(t, "the runner's end", func() bool {
		r, err := s.Store().Runner(t.Context(), workspace, one.Spec.Runner)
		return err == nil && r.State == muster.RunnerDestroyed
	})
	expect("after the runner was destroyed", 410, token, "process-1")

	_, page := s.do(t, http.MethodGet, "/metrics", "", "", "")
	for _, want := range []string{`muster_api_calls_total{code="409",procedure="/v1/agent/boot"} `, `muster_agent_reports_total{outcome="ok",phase="finished"} 1`, `muster_build_info{`, `version="v0.0.0-test"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// ephemeral fails if a JIT configuration is not one of a runner for one job.
func ephemeral(t *testing.T, config string) {
	t.Helper()
	blob, err := base64.StdEncoding.DecodeString(config)
	if err != nil {
		t.Fatal(err)
	}
	var files map[string]string
	if err := json.Unmarshal(blob, &files); err != nil {
		t.Fatal(err)
	}
	text, err := base64.StdEncoding.DecodeString(files[".runner"])
	if err != nil {
		t.Fatal(err)
	}
	var settings struct{ Ephemeral any }
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &settings); err != nil || fmt.Sprint(settings.Ephemeral) != "true" && fmt.Sprint(settings.Ephemeral) != "True" {
		t.Errorf("the runner's settings are not of an ephemeral runner: %s, %v", text, err)
	}
}

// S0-2 S4-11: every job event of the organization is taken, whatever repository it is of and whoever
// wants it, and each is acted upon by itself.
func TestEveryRepositoryIsHeard(t *testing.T) {
	s := newStand(t)
	wanted, foreign := map[int64]string{}, map[int64]bool{}
	for _, repo := range []string{"acme/web", "acme/lib", "acme/infra"} {
		for range 2 {
			id, err := s.sim.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"linux"}})
			if err != nil {
				t.Fatal(err)
			}
			wanted[id] = repo
		}
		id, err := s.sim.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"ubuntu-latest"}})
		if err != nil {
			t.Fatal(err)
		}
		foreign[id] = true
	}
	var cancelled int64
	for id := range wanted {
		cancelled = id
		break
	}
	if err := s.sim.CancelJob(cancelled); err != nil {
		t.Fatal(err)
	}
	s.until(t, "every delivery taken and acted upon", func() bool {
		d := s.sim.Truth().Deliveries
		if d.OK < d.Events || d.Events < len(wanted)+len(foreign)+1 {
			return false
		}
		list, err := s.Store().Deliveries(t.Context(), store.DeliveryFilter{Event: "workflow_job", Limit: 100})
		return err == nil && len(list) == len(wanted)+len(foreign)+1 && !slices.ContainsFunc(list, func(d muster.Delivery) bool { return d.DispatchedAt.IsZero() })
	})
	if d := s.sim.Truth().Deliveries; d.Failed != 0 {
		t.Errorf("GitHub got other answers than 2xx: %+v", d)
	}
	for id, repo := range wanted {
		want := muster.JobQueued
		if id == cancelled {
			want = muster.JobCompleted
		}
		if j, err := s.Store().JobByID(t.Context(), workspace, id); err != nil || j.Repository != repo || j.State != want || j.Pool != "linux" {
			t.Errorf("job %d of %s: %+v, %v", id, repo, j, err)
		}
	}
	for id := range foreign {
		if _, err := s.Store().JobByID(t.Context(), workspace, id); muster.CodeOf(err) != muster.CodeNotFound {
			t.Errorf("job %d, which no pool wants, is kept: %v", id, err)
		}
	}
	// The same by hand, of repositories that nobody announced.
	for i, repo := range []string{"acme/new", "acme/.github", "acme/with-a-long-name_and.dots"} {
		body := fmt.Sprintf(`{"action":"queued","workflow_job":{"id":%d,"run_id":1,"run_attempt":1,"status":"queued","labels":["self-hosted"],"name":"x"},"repository":{"id":%d,"full_name":%q,"private":true},"organization":{"login":"acme"}}`, 900+i, i, repo)
		mac := hmac.New(sha256.New, []byte(hookSecret))
		mac.Write([]byte(body))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/github/webhook/main", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-GitHub-Event", "workflow_job")
		req.Header.Set("X-GitHub-Delivery", uuid.NewString())
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Errorf("%s: %s", repo, resp.Status)
		}
	}
}

// C7: a permission that an App lacks is named when the control plane starts, with the pools' feature
// that needs it and what to do, in the log, in muster status and on the dashboard.
func TestMissingPermissionIsToldAtTheStart(t *testing.T) {
	s := newStand(t)
	s.until(t, "the App's problems", func() bool { return len(s.checks.Problems()) > 0 })
	problems := s.checks.Problems()
	if len(problems) != 1 {
		t.Fatalf("%q", problems)
	}
	for _, want := range []string{"App main", "permission checks: write", "[checks]", "nothing is granted", "Permissions & events"} {
		if !strings.Contains(problems[0], want) {
			t.Errorf("%q lacks %q", problems[0], want)
		}
	}
	if !strings.Contains(s.log.String(), "permission checks: write") {
		t.Errorf("the log does not tell:\n%s", s.log)
	}
	o, err := musterv1connect.NewSystemServiceClient(http.DefaultClient, s.url, connect.WithProtoJSON()).GetOverview(t.Context(), &v1.GetOverviewRequest{})
	if err != nil || !slices.Equal(o.Problems, problems) {
		t.Errorf("overview of the API: %v, %v", o.GetProblems(), err)
	}
	if status, page := s.do(t, http.MethodGet, "/", "", "", ""); status != 200 || !strings.Contains(page, "permission checks: write") {
		t.Errorf("the dashboard does not tell: %d", status)
	}
}

// asker answers for an App from a script.
type asker struct {
	answers []func() (github.AppInfo, error)
	at      []time.Time
}

func (a *asker) App(context.Context) (github.AppInfo, error) {
	i := len(a.at)
	a.at = append(a.at, time.Now())
	return a.answers[min(i, len(a.answers)-1)]()
}

// C7: GitHub is asked until it answered, with growing pauses, and again while something is missing.
func TestAppChecksAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		org := muster.Pool{App: "main", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}}
		full := github.AppInfo{Slug: "m", Permissions: github.Permissions(github.FeaturesOf(org)), Events: []string{"workflow_job"}}
		deaf := full
		deaf.Events = nil
		fails := func(code muster.Code) func() (github.AppInfo, error) {
			return func() (github.AppInfo, error) {
				return github.AppInfo{}, muster.Errorf(code, "look up the App: refused")
			}
		}
		ask := &asker{answers: []func() (github.AppInfo, error){
			fails(muster.CodeUnavailable), fails(muster.CodeUnauthenticated),
			func() (github.AppInfo, error) { return deaf, nil },
			func() (github.AppInfo, error) { return full, nil },
		}}
		c := &appChecks{
			apps:   []appCheck{{name: "main", ask: ask, features: github.FeaturesOf(org), hooks: true}},
			logger: slog.New(slog.DiscardHandler), problems: map[string][]string{},
		}
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- c.run(t.Context()) }()
		for i, want := range []string{"it is asked again", "check id and private_key_file", "subscribe to workflow_job"} {
			synctest.Wait()
			if p := c.Problems(); len(p) != 1 || !strings.Contains(p[0], want) {
				t.Errorf("after look %d: %q, want %q", i+1, p, want)
			}
			time.Sleep([]time.Duration{appRetry, 2 * appRetry, appAgain}[i])
		}
		if err := <-done; err != nil || len(c.Problems()) != 0 {
			t.Errorf("%v, %q", err, c.Problems())
		}
		var at []time.Duration
		for _, a := range ask.at {
			at = append(at, a.Sub(began))
		}
		if want := []time.Duration{0, appRetry, 3 * appRetry, 3*appRetry + appAgain}; !slices.Equal(at, want) {
			t.Errorf("asked at %s, want %s", at, want)
		}
	})
}

// Relative paths of the process provider start at the configuration file, as all paths in it do.
func TestProcessPathsStartAtTheFile(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"muster-agent": 0o755, "runner/run.sh": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	env := provider.Env{Name: "local", Owner: "test", DataDir: filepath.Join(dir, "data"), Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	section := json.RawMessage(`{"agent":"muster-agent","runner_dir":"runner","root":"machines","cgroup":"none"}`)
	if _, err := process.Kind().Read(section, env); err != nil {
		t.Error(err)
	}
	env.Dir = t.TempDir()
	if _, err := process.Kind().Read(section, env); err == nil || !strings.Contains(err.Error(), filepath.Join(env.Dir, "runner")) {
		t.Errorf("elsewhere: %v", err)
	}
}

func TestShownIsShortAndPlain(t *testing.T) {
	for in, want := range map[string]string{
		"quota exceeded":                     "quota exceeded",
		"first\nsecond\x1b[31m\tthird":       "first second [31m third",
		strings.Repeat("é", maxShown) + "xy": strings.Repeat("é", maxShown) + "…",
	} {
		if got := shown(fmt.Errorf("%s", in)); got != want {
			t.Errorf("%q is shown as %q", in, got)
		}
	}
	if got := shown(&muster.Error{Code: muster.CodeUnavailable, Message: "ask again", Err: fmt.Errorf("cause")}); got != "ask again" {
		t.Errorf("shown %q", got)
	}
}

// syncBuffer is a log that a test may read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
