package runner_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// testKey is made once: RSA keys are slow.
var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// github is a tiny server of the runner's protocol for one runner.
type github struct {
	t   *testing.T
	url string

	mu           sync.Mutex
	gone         bool // the registration
	conflicts    int  // how many session requests answer 409
	lost         bool // acquirejob answers 409
	leaseLost    bool // renewjob answers 404
	job          message.Message
	statuses     []string
	renewals     int
	log          bytes.Buffer
	steps        [][]message.StepResult
	done         *message.CompleteRequest
	sessionsOpen int
	registered   *message.RegisterRequest
	removed      bool
	files        map[string]string // of the repository

	broker  chan message.Broker
	changed chan struct{} // closed and replaced at every change
}

func newGitHub(t *testing.T) *github {
	g := &github{t: t, broker: make(chan message.Broker, 10), changed: make(chan struct{})}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// wait blocks until ok holds, which is checked at every request that the runner makes.
func (g *github) wait(what string, ok func() bool) {
	g.t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	for {
		g.mu.Lock()
		if ok() {
			g.mu.Unlock()
			return
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-deadline.C:
			g.mu.Lock()
			defer g.mu.Unlock()
			g.t.Fatalf("%s did not happen; log:\n%s", what, g.log.String())
		}
	}
}

func (g *github) offer(job message.Message) {
	g.mu.Lock()
	g.job = job
	g.mu.Unlock()
	body, _ := json.Marshal(message.JobRequest{RunnerRequestID: "r1", RunServiceURL: g.url + "/run/1"})
	g.broker <- message.Broker{MessageID: 1, MessageType: message.TypeJobRequest, Body: string(body)}
}

func (g *github) cancel() {
	body, _ := json.Marshal(message.JobCancellation{JobID: "j1", Timeout: "00:05:00"})
	g.broker <- message.Broker{MessageID: 2, MessageType: message.TypeJobCancellation, Body: string(body)}
}

func (g *github) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if strings.HasSuffix(r.URL.Path, "/message") {
		g.poll(w, r)
		return
	}
	g.mu.Lock()
	defer func() {
		close(g.changed)
		g.changed = make(chan struct{})
		g.mu.Unlock()
	}()
	answer := func(status int, v any) { w.WriteHeader(status); _ = json.NewEncoder(w).Encode(v) }
	read := func(v any) {
		if err := json.Unmarshal(body, v); err != nil {
			g.t.Errorf("%s: %v", r.URL.Path, err)
		}
	}
	want := "Bearer access"
	if strings.HasPrefix(r.URL.Path, "/run/") && !strings.HasSuffix(r.URL.Path, "/acquirejob") || r.URL.Path == "/tar" {
		want = "Bearer job-token-secret"
	}
	switch r.URL.Path {
	case "/token":
		if g.gone {
			answer(http.StatusBadRequest, message.OAuthError{Error: "invalid_client"})
			return
		}
		g.checkAssertion(r)
		answer(http.StatusOK, message.TokenAnswer{AccessToken: "access", ExpiresIn: 3600, TokenType: "bearer"})
		return
	case "/api/v3/actions/runner-registration":
		if r.Header.Get("Authorization") != "RemoteAuth REG" {
			answer(http.StatusUnauthorized, map[string]string{"message": "bad token"})
			return
		}
		answer(http.StatusOK, message.Registration{URL: g.url + "/service/", Token: "admin", UseV2Flow: true})
		return
	case "/api/v3/actions/runners/register":
		var in message.RegisterRequest
		read(&in)
		if g.registered != nil && !in.Replace {
			answer(http.StatusConflict, map[string]string{"message": "Already exists"})
			return
		}
		g.registered = &in
		answer(http.StatusOK, message.RegisterAnswer{ID: 9, Name: in.Name, Authorization: message.Authorization{AuthorizationURL: g.url + "/token", ServerURL: g.url + "/v2/", ClientID: "client"}})
		return
	case "/service/_apis/distributedtask/pools/0/agents/9":
		if r.Method == http.MethodDelete && r.Header.Get("Authorization") == "Bearer admin" {
			g.removed = true
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if got := r.Header.Get("Authorization"); got != want {
		g.t.Errorf("%s with authorization %q, want %q", r.URL.Path, got, want)
	}
	switch r.URL.Path {
	case "/v2/session":
		if r.Method == http.MethodDelete {
			g.sessionsOpen--
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if g.conflicts > 0 {
			g.conflicts--
			answer(http.StatusConflict, message.ServiceError{Source: "actions-broker-listener", StatusCode: 409, ErrorMessage: "conflict"})
			return
		}
		g.sessionsOpen++
		var in message.Session
		read(&in)
		answer(http.StatusOK, in)
	case "/run/1/acquirejob":
		if g.lost {
			answer(http.StatusConflict, message.ServiceError{Source: "actions-run-service", StatusCode: 409, ErrorMessage: "taken"})
			g.lost = false
			return
		}
		answer(http.StatusOK, g.job)
	case "/run/1/renewjob":
		g.renewals++
		if g.leaseLost {
			answer(http.StatusNotFound, message.ServiceError{Source: "actions-run-service", StatusCode: 404, ErrorMessage: "gone"})
			return
		}
		answer(http.StatusOK, message.RenewAnswer{LockedUntil: time.Now().Add(10 * time.Minute)})
	case "/run/1/steps":
		var in message.StepsRequest
		read(&in)
		g.steps = append(g.steps, in.Steps)
	case "/run/1/log":
		var in message.LogRequest
		read(&in)
		have := g.log.Len() - int(in.Offset)
		if have < 0 {
			g.t.Errorf("log at %d, have %d", in.Offset, g.log.Len())
		} else if have < len(in.Data) {
			g.log.WriteString(in.Data[have:])
		}
	case "/run/1/completejob":
		g.done = new(message.CompleteRequest)
		read(g.done)
	case "/tar":
		zip := gzip.NewWriter(w)
		archive := tar.NewWriter(zip)
		for name, text := range g.files {
			_ = archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
			_, _ = archive.Write([]byte(text))
		}
		_ = archive.Close()
		_ = zip.Close()
	default:
		g.t.Errorf("unexpected request %s %s", r.Method, r.URL.Path)
	}
}

func (g *github) poll(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.statuses = append(g.statuses, r.URL.Query().Get("status"))
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
	select {
	case m := <-g.broker:
		_ = json.NewEncoder(w).Encode(m)
	case <-r.Context().Done():
	}
}

func (g *github) checkAssertion(r *http.Request) {
	_ = r.ParseForm()
	parts := strings.Split(r.Form.Get("client_assertion"), ".")
	if len(parts) != 3 || r.Form.Get("grant_type") != "client_credentials" {
		g.t.Errorf("token request: %v", r.Form)
		return
	}
	if g.registered != nil {
		return // a key of config.sh
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&testKey().PublicKey, crypto.SHA256, sum[:], signature); err != nil {
		g.t.Errorf("assertion: %v", err)
	}
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var c map[string]any
	if json.Unmarshal(claims, &c) != nil || c["iss"] != "client" || c["sub"] != "client" || c["aud"] != g.url+"/token" {
		g.t.Errorf("claims: %s", claims)
	}
}

// jit is the blob of a one-job runner.
func (g *github) jit() string {
	k := testKey()
	b := func(i *big.Int) string { return base64.StdEncoding.EncodeToString(i.Bytes()) }
	files := map[string]string{}
	for name, v := range map[string]any{
		".runner":      message.Settings{AgentID: 7, AgentName: "box-1", ServerURL: g.url, ServerURLV2: g.url + "/v2/", WorkFolder: "_work", Ephemeral: true, UseV2Flow: true},
		".credentials": message.Credentials{Scheme: "OAuth", Data: map[string]string{"clientId": "client", "authorizationUrl": g.url + "/token"}},
		".credentials_rsaparams": message.RSAParams{D: b(k.D), DP: b(k.Precomputed.Dp), DQ: b(k.Precomputed.Dq), InverseQ: b(k.Precomputed.Qinv),
			Exponent: b(big.NewInt(int64(k.E))), Modulus: b(k.N), P: b(k.Primes[0]), Q: b(k.Primes[1])},
	} {
		data, _ := json.Marshal(v)
		files[name] = base64.StdEncoding.EncodeToString(data)
	}
	data, _ := json.Marshal(files)
	return base64.StdEncoding.EncodeToString(data)
}

// box is a runner under way.
type box struct {
	dir    string
	stdout *buffer
	stderr *buffer
	stop   context.CancelFunc
	exit   chan int
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

var quick = runner.Knobs{Renew: 20 * time.Millisecond, Interrupt: 200 * time.Millisecond, Terminate: 200 * time.Millisecond,
	Retry: 5 * time.Millisecond, Conflict: 100 * time.Millisecond, Flush: time.Millisecond, Unload: 5 * time.Second}

func startRunner(t *testing.T, g *github, env ...string) *box {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	b := &box{dir: t.TempDir(), stdout: &buffer{}, stderr: &buffer{}, stop: stop, exit: make(chan int, 1)}
	env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+b.dir, "ACTIONS_RUNNER_INPUT_JITCONFIG="+g.jit())
	go func() {
		b.exit <- runner.Main(ctx, runner.Program{Args: []string{"run"}, Env: env, Dir: b.dir, Stdout: b.stdout, Stderr: b.stderr, Knobs: quick})
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-b.exit:
		default:
		}
	})
	return b
}

func (b *box) wait(t *testing.T) int {
	t.Helper()
	timer := time.NewTimer(2 * time.Minute)
	defer timer.Stop()
	select {
	case code := <-b.exit:
		b.exit <- code
		return code
	case <-timer.C:
		t.Fatalf("the runner did not end; output:\n%s%s", b.stdout, b.stderr)
		return -1
	}
}

// runJob lets a fresh runner do one job and returns what it reported.
func runJob(t *testing.T, g *github, job message.Message, env ...string) (*message.CompleteRequest, *box) {
	t.Helper()
	if job.JobID == "" {
		job.JobID, job.PlanID, job.Token = "j1", "p1", "job-token-secret"
	}
	if job.Name == "" {
		job.Name, job.Key = "build (1)", "build"
	}
	if job.Contexts.GitHub == nil {
		job.Contexts.GitHub = map[string]any{"repository": "acme/web", "sha": "abc", "run_id": "5"}
	}
	b := startRunner(t, g, env...)
	g.offer(job)
	b.wait(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done == nil {
		t.Fatalf("no completion; output:\n%s%s", b.stdout, b.stderr)
	}
	return g.done, b
}

func conclusions(list []message.StepResult) map[string]string {
	out := map[string]string{}
	for _, s := range list {
		out[s.Name] = s.Conclusion
	}
	return out
}

func exists(path ...string) bool {
	_, err := os.Lstat(filepath.Join(path...))
	return err == nil
}
