package oracle_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "It's a Secret to Everybody"
	org    = "octo-org"
	repo   = "octo-org/octo-repo"
)

// seen is one REST exchange.
type seen struct {
	method, path string
	status       int
	contentType  string
	body         []byte
}

// delivery is one webhook as it arrived.
type delivery struct {
	header http.Header
	body   []byte
}

// world is a simulator behind a recorder, with one App and its webhook receiver.
type world struct {
	*githubsim.Server
	t    *testing.T
	url  string // of the REST API, with /api/v3
	root string
	app  githubsim.App
	inst int64

	mu         sync.Mutex
	seen       []seen
	deliveries []delivery
	arrived    chan struct{}
	respond    http.Handler // of the webhook receiver; nil answers 200
}

// quiet are answers that are not recorded because they are no REST answers.
func quiet(path string) bool {
	return strings.HasPrefix(path, "/_") || !strings.HasPrefix(path, "/api/v3/") ||
		strings.HasPrefix(path, "/api/v3/actions/") // registration, which GitHub does not describe
}

func newWorld(t *testing.T, cfg githubsim.Config) *world {
	t.Helper()
	w := &world{Server: githubsim.New(cfg), t: t, arrived: make(chan struct{})}
	hooks := httptest.NewServer(http.HandlerFunc(w.receive))
	rest := httptest.NewServer(http.HandlerFunc(w.record))
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		rest.CloseClientConnections()
		rest.Close()
		hooks.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	w.root, w.url = rest.URL, rest.URL+"/api/v3"
	w.SetBaseURL(rest.URL)
	var err error
	w.app, err = w.CreateApp(githubsim.AppOptions{Name: "Oracle App", WebhookURL: hooks.URL, WebhookSecret: secret,
		Events: []string{"workflow_job", "workflow_run", "check_run", "push", "workflow_dispatch"},
		Permissions: map[string]string{"organization_self_hosted_runners": "write", "administration": "write", "actions": "write", "checks": "write",
			"contents": "write", "metadata": "read", "deployments": "write"}})
	w.ok(err)
	w.ok(w.CreateOrganization(org))
	w.ok(w.CreateEnterprise("octo-ent", org))
	w.ok(w.CreateRepository(repo, githubsim.RepositoryOptions{Private: true, Gates: []string{"production"}, Files: fstest.MapFS{
		"README.md":                   {Data: []byte("# Octo\n")},
		"src/a.sh":                    {Data: []byte("echo a\n")},
		".github/workflows/ci.yml":    {Data: []byte(ciFile)},
		".github/workflows/gate.yml":  {Data: []byte(gateFile)},
		".github/workflows/wrong.yml": {Data: []byte("on: workflow_dispatch\njobs: 7\n")},
	}}))
	w.ok(w.CreateRepository("octo-org/second", githubsim.RepositoryOptions{}))
	w.inst, err = w.Install(w.app.ID, org)
	w.ok(err)
	return w
}

const ciFile = `name: CI
on: [push, workflow_dispatch]
jobs:
  build:
    runs-on: [self-hosted, linux]
    strategy: {matrix: {n: [1, 2]}}
    steps:
      - uses: actions/checkout@v4
      - run: cat README.md
  flaky:
    runs-on: [self-hosted, linux]
    steps:
      - run: test "$GITHUB_RUN_ATTEMPT" -gt 1
  after:
    needs: flaky
    runs-on: [self-hosted, linux]
    steps:
      - run: "true"
`

const gateFile = `name: Gate
on: workflow_dispatch
jobs:
  deploy:
    runs-on: [self-hosted, linux]
    environment: production
    steps:
      - run: "true"
`

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// record passes a request on to the simulator and keeps the answer.
func (w *world) record(rw http.ResponseWriter, r *http.Request) {
	if quiet(r.URL.Path) {
		w.Handler().ServeHTTP(rw, r)
		return
	}
	keep := httptest.NewRecorder()
	w.Handler().ServeHTTP(keep, r)
	for k, v := range keep.Header() {
		rw.Header()[k] = v
	}
	rw.WriteHeader(keep.Code)
	_, _ = rw.Write(keep.Body.Bytes())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, seen{r.Method, strings.TrimPrefix(r.URL.Path, "/api/v3"), keep.Code, keep.Header().Get("Content-Type"), bytes.Clone(keep.Body.Bytes())})
}

func (w *world) receive(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	w.deliveries = append(w.deliveries, delivery{r.Header.Clone(), body})
	close(w.arrived)
	w.arrived = make(chan struct{})
	respond := w.respond
	w.mu.Unlock()
	if respond != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		respond.ServeHTTP(rw, r)
	}
}

// hear waits until a delivery of that event and action has arrived n times.
func (w *world) hear(n int, event, action string) delivery {
	w.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		w.mu.Lock()
		arrived, left := w.arrived, n
		for _, d := range w.deliveries {
			var top struct{ Action string }
			if d.header.Get("X-GitHub-Event") == event && json.Unmarshal(d.body, &top) == nil && top.Action == action {
				if left--; left == 0 {
					w.mu.Unlock()
					return d
				}
			}
		}
		w.mu.Unlock()
		select {
		case <-arrived:
		case <-deadline.C:
			w.t.Fatalf("%d × %s.%s did not arrive", n, event, action)
		}
	}
}

func (w *world) until(what string, done func(githubsim.Truth) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	if err := w.Wait(ctx, done); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// jwt is an App's JWT as GitHub documents it.
func (w *world) jwt() string {
	block, _ := pem.Decode([]byte(w.app.PEM))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	w.ok(err)
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(9 * time.Minute).Unix(), "iss": w.app.ClientID})
	w.ok(err)
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	w.ok(err)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// body is a decoded answer.
type body map[string]any

func (b body) id(path ...string) int64 {
	var at any = map[string]any(b)
	for _, p := range path {
		if list, ok := at.([]any); ok && len(list) > 0 {
			at = list[0]
		}
		at = object(at)[p]
	}
	n, _ := at.(json.Number)
	i, _ := n.Int64()
	return i
}

// do sends a request and wants a status.
func (w *world) do(want int, method, path, token string, in any) body {
	w.t.Helper()
	var r io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		w.ok(err)
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, r)
	w.ok(err)
	req.Header.Set("User-Agent", "oracle")
	req.Header.Set("Accept", "application/vnd.github+json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	w.ok(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	w.ok(err)
	if resp.StatusCode != want {
		w.t.Errorf("%s %s: status %d, want %d: %.300s", method, path, resp.StatusCode, want, data)
	}
	out := body{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) == nil {
		if list, ok := v.([]any); ok {
			v = map[string]any{"list": list}
		}
		out = body(object(v))
	}
	return out
}

// run lets one one-job runner do one job.
func (w *world) run(token, name string, labels ...string) {
	w.t.Helper()
	if len(labels) == 0 {
		labels = []string{"self-hosted", "linux"}
	}
	made := w.do(201, "POST", "/orgs/"+org+"/actions/runners/generate-jitconfig", token, map[string]any{"name": name, "runner_group_id": 1, "labels": labels})
	dir := w.t.TempDir()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	runner.Main(ctx, runner.Program{Args: []string{"run", "--jitconfig", fmt.Sprint(made["encoded_jit_config"])}, Dir: dir,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, Stdout: &out, Stderr: &out})
	if !strings.Contains(out.String(), "completed with result") {
		w.t.Fatalf("runner %s did no job:\n%s", name, &out)
	}
}

// judge checks everything that was recorded.
func (w *world) judge() (operations []string) {
	w.t.Helper()
	public, cloud := describe(w.t, "openapi", "api.github.com.json"), describe(w.t, "openapi", "ghec.json")
	hooks := describe(w.t, "openapi-webhooks", "api.github.com.json")
	w.mu.Lock()
	defer w.mu.Unlock()
	complained := map[string]bool{}
	for _, s := range w.seen {
		d := public
		if strings.HasPrefix(s.path, "/enterprises/") {
			d = cloud
		}
		name, wrong := d.check(s.method, s.path, s.status, s.contentType, s.body)
		if name != "" {
			name = fmt.Sprintf("%s %d", name, s.status)
			if !slices.Contains(operations, name) {
				operations = append(operations, name)
			}
		}
		if wrong != "" && !complained[name] {
			complained[name] = true
			w.t.Errorf("%s %s: %s", s.method, s.path, wrong)
		}
	}
	for _, h := range w.deliveries {
		event := h.header.Get("X-GitHub-Event")
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(h.body)
		if got, want := h.header.Get("X-Hub-Signature-256"), "sha256="+hex.EncodeToString(mac.Sum(nil)); got != want {
			w.t.Errorf("%s: signature %q, want %q", event, got, want)
		}
		for _, name := range []string{"User-Agent", "X-GitHub-Delivery", "X-GitHub-Hook-ID", "X-GitHub-Hook-Installation-Target-ID", "X-GitHub-Hook-Installation-Target-Type"} {
			if h.header.Get(name) == "" {
				w.t.Errorf("%s: no header %s", event, name)
			}
		}
		if wrong := hooks.webhook(event, h.body); wrong != "" && !complained[wrong[:min(60, len(wrong))]] {
			complained[wrong[:min(60, len(wrong))]] = true
			w.t.Errorf("webhook %s", wrong)
		}
	}
	slices.Sort(operations)
	return operations
}
