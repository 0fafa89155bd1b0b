package githubsim_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v88/github"
	"go.uber.org/goleak"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key is shared by all Apps of the tests, because making one is slow.
var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// world is a started server with one App on one organization.
type world struct {
	*githubsim.Server
	t    *testing.T
	url  string
	app  githubsim.App
	inst int64
	hook *receiver
}

const org, repo = "acme", "acme/web"

func newWorld(t *testing.T, cfg githubsim.Config) *world {
	t.Helper()
	return newWorldWith(t, cfg, githubsim.AppOptions{Events: []string{"workflow_job", "workflow_run", "check_run", "push"}})
}

func newWorldWith(t *testing.T, cfg githubsim.Config, opts githubsim.AppOptions) *world {
	t.Helper()
	cfg.RunnerKey = cmp.Or(cfg.RunnerKey, key())
	w := &world{Server: githubsim.New(cfg), t: t, hook: newReceiver(t)}
	t.Cleanup(func() { w.Close() })
	url, err := w.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = url
	opts.Name, opts.WebhookURL, opts.WebhookSecret, opts.Key = "Muster test", w.hook.url, "It's a Secret to Everybody", key()
	if w.app, err = w.CreateApp(opts); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{w.CreateOrganization(org), w.CreateRepository(repo, githubsim.RepositoryOptions{Private: true})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if w.inst, err = w.Install(w.app.ID, org); err != nil {
		t.Fatal(err)
	}
	return w
}

// until waits for the books to say so, for at most a generous while.
func (w *world) until(what string, done func(githubsim.Truth) bool) githubsim.Truth {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	var last githubsim.Truth
	if err := w.Wait(ctx, func(t githubsim.Truth) bool { last = t; return done(t) }); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	return last
}

func (w *world) job(id int64) githubsim.JobTruth {
	j, ok := w.Truth().Job(id)
	if !ok {
		w.t.Fatalf("job %d does not exist", id)
	}
	return j
}

func (w *world) untilJob(id int64, status string) githubsim.JobTruth {
	w.t.Helper()
	w.until(fmt.Sprintf("job %d %s", id, status), func(t githubsim.Truth) bool {
		j, ok := t.Job(id)
		return ok && j.Status == status
	})
	return w.job(id)
}

func (w *world) inject(labels ...string) int64 {
	w.t.Helper()
	id, err := w.InjectJob(githubsim.JobOptions{Repo: repo, Labels: labels})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// jwt is an App JWT with the claims changed by edit.
func (w *world) jwt(edit func(map[string]any)) string {
	now := time.Now()
	claims := map[string]any{"iat": now.Add(-60 * time.Second).Unix(), "exp": now.Add(9 * time.Minute).Unix(), "iss": w.app.ClientID}
	if edit != nil {
		edit(claims)
	}
	return signJWT(key(), claims)
}

func signJWT(k *rsa.PrivateKey, claims map[string]any) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := part(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (w *world) token() string {
	w.t.Helper()
	var out struct{ Token string }
	w.must(201, w.rest("POST", fmt.Sprintf("/app/installations/%d/access_tokens", w.inst), w.jwt(nil), nil), &out)
	return out.Token
}

// answer is a REST answer with its body read.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) message() string {
	var e struct{ Message string }
	json.Unmarshal(a.body, &e)
	return e.Message
}

// rest sends one request; body is JSON, a string as it is, or nil.
func (w *world) rest(method, path, secret string, body any, header ...string) answer {
	w.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		r = bytes.NewReader(data)
	}
	if !strings.HasPrefix(path, "http") {
		path = w.url + path
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, path, r)
	if err != nil {
		w.t.Fatal(err)
	}
	if secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header[http.CanonicalHeaderKey(header[i])] = []string{header[i+1]}
	}
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp, data}
}

// client follows no redirects and keeps no connections, so that nothing leaks.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (w *world) must(status int, a answer, into any) {
	w.t.Helper()
	if a.StatusCode != status {
		w.t.Fatalf("%s %s: %s, want %d: %s", a.Request.Method, a.Request.URL.Path, a.Status, status, a.body)
	}
	if into != nil {
		if err := json.Unmarshal(a.body, into); err != nil {
			w.t.Fatalf("%s: %v: %s", a.Request.URL.Path, err, a.body)
		}
	}
}

// github is go-github as the installation, appGitHub as the App.
func (w *world) github() *github.Client {
	w.t.Helper()
	tr, err := ghinstallation.New(client.Transport, w.app.ID, w.inst, []byte(w.app.PEM))
	if err != nil {
		w.t.Fatal(err)
	}
	tr.BaseURL = w.url + "/api/v3"
	return w.goGitHub(tr)
}

func (w *world) appGitHub() *github.Client {
	w.t.Helper()
	tr, err := ghinstallation.NewAppsTransport(client.Transport, w.app.ID, []byte(w.app.PEM))
	if err != nil {
		w.t.Fatal(err)
	}
	tr.BaseURL = w.url + "/api/v3"
	return w.goGitHub(tr)
}

// jit makes a JIT runner and returns it with its configuration.
type jitAnswer struct {
	Runner struct {
		ID     int64
		Name   string
		Status string
		Busy   bool
		Labels []struct{ Name, Type string }
	}
	Config string `json:"encoded_jit_config"`
}

func (w *world) jit(token, name string, labels ...string) jitAnswer {
	w.t.Helper()
	var out jitAnswer
	w.must(201, w.rest("POST", "/orgs/"+org+"/actions/runners/generate-jitconfig", token, map[string]any{
		"name": name, "runner_group_id": 1, "labels": labels,
	}), &out)
	return out
}

// receiver is a webhook endpoint that remembers what it got.
type receiver struct {
	url    string
	mu     sync.Mutex
	got    []received
	more   chan struct{}
	status int
	handle func(http.ResponseWriter, *http.Request) bool
}

type received struct {
	header http.Header
	body   []byte
	event  string
	guid   string
	action string
	json   map[string]any
}

func newReceiver(t *testing.T) *receiver {
	h := &receiver{more: make(chan struct{}), status: http.StatusOK}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	h.url = srv.URL + "/hook"
	return h
}

func (h *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	handle, status := h.handle, h.status
	h.mu.Unlock()
	if handle != nil && handle(w, r) {
		return
	}
	one := received{header: r.Header, body: body, event: r.Header.Get("X-GitHub-Event"), guid: r.Header.Get("X-GitHub-Delivery")}
	text := body
	if r.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
		form, _ := url.ParseQuery(string(body))
		text = []byte(form.Get("payload"))
	}
	json.Unmarshal(text, &one.json)
	one.action, _ = one.json["action"].(string)
	h.mu.Lock()
	h.got = append(h.got, one)
	close(h.more)
	h.more = make(chan struct{})
	h.mu.Unlock()
	w.WriteHeader(status)
}

func (h *receiver) answer(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

// find waits until at least n deliveries match and returns them.
func (h *receiver) find(t *testing.T, n int, match func(received) bool) []received {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		h.mu.Lock()
		var out []received
		for _, r := range h.got {
			if match(r) {
				out = append(out, r)
			}
		}
		more := h.more
		h.mu.Unlock()
		if len(out) >= n {
			return out
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("%d deliveries match, want %d", len(out), n)
		}
	}
}

func is(event, action string) func(received) bool {
	return func(r received) bool { return r.event == event && r.action == action }
}

// actions are the workflow_job actions of one job, as they arrived.
func (h *receiver) actions(job int64) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, r := range h.got {
		if j, ok := r.json["workflow_job"].(map[string]any); ok && int64(j["id"].(float64)) == job {
			out = append(out, r.action)
		}
	}
	return out
}

// bot is a runner in a goroutine: it speaks the protocol and runs nothing.
type bot struct {
	w        *world
	settings message.Settings
	cred     message.Credentials
	key      *rsa.PrivateKey
	access   string
	session  string
}

func (w *world) bot(config string) *bot {
	w.t.Helper()
	b := &bot{w: w}
	raw, err := base64.StdEncoding.DecodeString(config)
	if err != nil {
		w.t.Fatal(err)
	}
	var files map[string]string
	var params message.RSAParams
	if err := json.Unmarshal(raw, &files); err != nil {
		w.t.Fatal(err)
	}
	for name, into := range map[string]any{message.FileSettings: &b.settings, message.FileCredentials: &b.cred, message.FileRSAParams: &params} {
		data, err := base64.StdEncoding.DecodeString(files[name])
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
	}
	num := func(s string) *big.Int {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			w.t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	b.key = &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: num(params.Modulus), E: int(num(params.Exponent).Int64())}, D: num(params.D), Primes: []*big.Int{num(params.P), num(params.Q)},
	}
	if err := b.key.Validate(); err != nil {
		w.t.Fatal(err)
	}
	return b
}

// login gets an access token; it returns the OAuth error's code or "".
func (b *bot) login() string {
	b.w.t.Helper()
	now := time.Now()
	id, at := b.cred.Data["clientId"], b.cred.Data["authorizationUrl"]
	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion": {signJWT(b.key, map[string]any{
		"iss": id, "sub": id, "aud": at, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})}}
	a := b.w.rest("POST", at, "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if a.StatusCode == http.StatusBadRequest {
		var e message.OAuthError
		json.Unmarshal(a.body, &e)
		return e.Error
	}
	var out message.TokenAnswer
	b.w.must(200, a, &out)
	b.access = out.AccessToken
	return ""
}

func (b *bot) connect() answer {
	b.w.t.Helper()
	if e := b.login(); e != "" {
		b.w.t.Fatalf("login: %s", e)
	}
	a := b.w.rest("POST", b.settings.ServerURLV2+"session", b.access, message.Session{
		OwnerName: "bot", Agent: message.Agent{ID: b.settings.AgentID, Name: b.settings.AgentName, Version: "2.336.0", OSDescription: "Linux"},
	})
	if a.StatusCode == 200 {
		var s message.Session
		b.w.must(200, a, &s)
		b.session = s.SessionID
	}
	return a
}

func (b *bot) poll() answer {
	b.w.t.Helper()
	return b.w.rest("GET", b.settings.ServerURLV2+"message?status=Online&sessionId="+b.session, b.access, nil)
}

// next polls until there is a message.
func (b *bot) next() message.Broker {
	b.w.t.Helper()
	for {
		a := b.poll()
		if a.StatusCode == http.StatusAccepted {
			continue
		}
		var m message.Broker
		b.w.must(200, a, &m)
		return m
	}
}

func (b *bot) call(verb string, body any) answer {
	b.w.t.Helper()
	return b.w.rest("POST", b.w.url+"/_services/run/"+verb, b.access, body)
}

// take fetches the next job.
func (b *bot) take() message.Message {
	b.w.t.Helper()
	m := b.next()
	if m.MessageType != message.TypeJobRequest {
		b.w.t.Fatalf("message %s, want a job", m.MessageType)
	}
	var req message.JobRequest
	if err := json.Unmarshal([]byte(m.Body), &req); err != nil {
		b.w.t.Fatal(err)
	}
	var job message.Message
	b.w.must(200, b.call("acquirejob", message.AcquireRequest{JobMessageID: req.RunnerRequestID}), &job)
	return job
}

func (b *bot) complete(job message.Message, conclusion string) answer {
	b.w.t.Helper()
	now := time.Now()
	return b.call("completejob", message.CompleteRequest{PlanID: job.PlanID, JobID: job.JobID, Conclusion: conclusion, StepResults: []message.StepResult{
		{Number: 1, Name: "Set up job", Status: "completed", Conclusion: "success", StartedAt: now, CompletedAt: now},
		{Number: 2, Name: "Work", Status: "completed", Conclusion: conclusion, StartedAt: now, CompletedAt: now},
	}})
}

// runOne connects a fresh JIT runner and lets it do one job.
func (w *world) runOne(token, name, conclusion string, labels ...string) {
	w.t.Helper()
	b := w.bot(w.jit(token, name, labels...).Config)
	b.connect()
	b.complete(b.take(), conclusion)
}

func contains(all []string, one string) bool { return slices.Contains(all, one) }

func publicKey(k *rsa.PrivateKey) message.PublicKey {
	return message.PublicKey{
		Modulus: base64.StdEncoding.EncodeToString(k.N.Bytes()), Exponent: base64.StdEncoding.EncodeToString(big.NewInt(int64(k.E)).Bytes()),
	}
}

var sha256New, sha1New = sha256.New, sha1.New

func hmacHex(h func() hash.Hash, secret string, body []byte) string {
	m := hmac.New(h, []byte(secret))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}
