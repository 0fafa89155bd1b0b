package compat_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/worker" //nolint:depguard // the contract is proven on the real engine

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/internal/compat"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/engine"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// runnerConfig is G2 with more: a machine that two repositories share, one whose
// entries overlap, and one whose runner is never registered.
const runnerConfig = `[
  {"repo": "owner/repo-a", "labels": ["self-hosted"], "vm_instance_name": "github-runner-a", "vm_instance_zone": "asia-northeast1-a"},
  {"repo": "owner/repo-b", "labels": ["self-hosted", "gpu"], "vm_instance_name": "github-runner-b", "vm_instance_zone": "us-central1-a"},
  {"repo": "owner/repo-c", "labels": ["self-hosted"], "vm_instance_name": "github-runner-c", "vm_instance_zone": "europe-west1-a"},
  {"repo": "owner/left", "labels": ["self-hosted"], "vm_instance_name": "shared", "vm_instance_zone": "europe-west1-a"},
  {"repo": "owner/right", "labels": ["self-hosted"], "vm_instance_name": "shared", "vm_instance_zone": "europe-west1-a"},
  {"repo": "owner/overlap", "labels": ["self-hosted"], "vm_instance_name": "first", "vm_instance_zone": "us-central1-a"},
  {"repo": "owner/overlap", "labels": ["self-hosted", "linux"], "vm_instance_name": "second", "vm_instance_zone": "us-central1-a"},
  {"repo": "org/example-repo", "labels": ["self-hosted", "linux"], "vm_instance_name": "golden", "vm_instance_zone": "us-central1-a"},
  {"repo": "owner/nobody", "labels": ["self-hosted"], "vm_instance_name": "unregistered", "vm_instance_zone": "us-central1-a"}
]`

// site is a whole runner manager: the endpoints over HTTP, the real store, engine
// and workflows, a platform in memory whose machines run a real program, and a
// simulated GitHub. Its clock can be moved forward.
type site struct {
	t       *testing.T
	dir     string
	sim     *githubsim.Server
	cloud   *fake.Cloud
	store   *store.Store
	engine  *engine.Engine
	deps    lifecycle.Deps
	client  *lifecycle.Client
	worker  worker.Worker
	manager *config.RunnerManager
	url     string
	queue   *safeQueue
	calls   *githubCalls
	ahead   atomic.Int64 // how far the clock was moved
	jobs    int64
	log     *safeBuffer
	logger  *slog.Logger
}

func (s *site) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// later is the Sink with the site's clock instead of the real one.
type later struct{ s *site }

func (l later) Job(ctx context.Context, e muster.JobEvent) (string, error) {
	e.ReceivedAt = e.ReceivedAt.Add(time.Duration(l.s.ahead.Load()))
	return l.s.client.Job(ctx, e)
}

func (l later) Installation(ctx context.Context, e muster.InstallationEvent) (string, error) {
	return l.s.client.Installation(ctx, e)
}

// safeQueue is a queue for several goroutines.
type safeQueue struct {
	mu sync.Mutex
	queue
}

func (q *safeQueue) Enqueue(ctx context.Context, t compat.Task) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queue.Enqueue(ctx, t)
}

// last is the newest task about a machine.
func (q *safeQueue) last(name string) (t compat.Task, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, one := range q.tasks {
		if strings.HasSuffix(one.Name, "-stop-"+name) {
			t = one
			n++
		}
	}
	return t, n
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// githubCalls counts what GitHub was asked, by route, and can cut the line.
type githubCalls struct {
	mu     sync.Mutex
	routes map[string]int
	down   atomic.Bool
}

func (c *githubCalls) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.routes[r.Method+" "+r.URL.Path]++
	c.mu.Unlock()
	if c.down.Load() {
		return nil, errors.New("no route to GitHub")
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (c *githubCalls) count(part string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for route, times := range c.routes {
		if strings.Contains(route, part) {
			n += times
		}
	}
	return n
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), cloud: fake.NewCloud(), queue: &safeQueue{}, calls: &githubCalls{routes: map[string]int{}}, jobs: 500_000_000, log: &safeBuffer{}}
	t.Cleanup(s.cloud.Close)
	s.cloud.SetClock(s.now)
	s.logger = slog.New(metrics.LogHandler(slog.NewJSONHandler(s.log, nil)))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)

	// The address is known before anything listens on it.
	var handler atomic.Pointer[http.Handler]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := handler.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	s.sim = githubsim.New(githubsim.Config{Seed: 3})
	simURL, err := s.sim.Start(ctx, "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { _ = s.sim.Close() })
	app, err := s.sim.CreateApp(githubsim.AppOptions{
		Name: "manager", Key: key, WebhookURL: s.url + "/github/webhook", WebhookSecret: shared, Events: []string{"workflow_job"},
		// S3-36: what the busy check needs, and nothing else.
		Permissions: map[string]string{"administration": "read", "actions": "read"},
	})
	check(t, err, s.sim.CreateOrganization("owner"), s.sim.CreateOrganization("org"))
	for _, repo := range []string{"owner/repo-a", "owner/repo-b", "owner/repo-c", "owner/left", "owner/right", "owner/overlap", "owner/nobody", "owner/unconfigured", "org/example-repo"} {
		check(t, s.sim.CreateRepository(repo, githubsim.RepositoryOptions{Private: true}))
	}
	inst, err := s.sim.Install(app.ID, "owner")
	check(t, err)
	_, err = s.sim.Install(app.ID, "org")
	check(t, err)

	env := map[string]string{
		"GCP_PROJECT_ID": "my-project", "CLOUD_TASK_LOCATION": "asia-northeast1", "CLOUD_TASK_QUEUE_NAME": "runner-manager",
		"CLOUD_RUN_SERVICE_URL": s.url + "/", "RUNNER_MANAGER_SECRET": shared, "RUNNER_CONFIG": runnerConfig,
		"GITHUB_APP_ID": fmt.Sprint(app.ID), "GITHUB_APP_PRIVATE_KEY": strings.ReplaceAll(app.PEM, "\n", `\n`), "GITHUB_APP_INSTALLATION_ID": fmt.Sprint(inst),
		"GITHUB_API_URL": simURL, "MUSTER_DATA_DIR": s.dir,
	}
	cfg, err := config.LoadRunnerConfig(func(name string) string { return env[name] })
	check(t, err)
	s.manager = cfg.RunnerManager

	box, err := secretbox.Load(filepath.Join(s.dir, "key"))
	check(t, err)
	s.store, err = store.Open(ctx, store.Config{URL: "sqlite:" + filepath.Join(s.dir, "muster.db"), Secrets: box})
	check(t, err)
	t.Cleanup(func() { _ = s.store.Close() })
	check(t, s.store.SyncPools(ctx, "default", cfg.Pools, nil))
	s.engine, err = engine.Open(ctx, engine.Config{Namespace: "muster", Dir: s.dir, Sealer: box, Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	t.Cleanup(s.engine.Close)
	a := cfg.Apps[0]
	gh, err := github.New(github.Config{Name: a.Name, AppID: a.ID, PrivateKey: a.PrivateKey, URL: a.APIURL, InstallationID: a.InstallationID, Timeout: 2 * time.Second, Transport: s.calls, Logger: s.logger})
	check(t, err)

	secrets := compat.Secrets(s.manager.Secrets)
	reg := metrics.New("test")
	s.deps = lifecycle.Deps{
		Store: s.store, GitHub: map[string]lifecycle.GitHub{"default": gh}, Observer: reg, Now: s.now, URL: s.url, Owner: "test",
		Backends: map[string]lifecycle.Backend{s.manager.Provider: {Provider: reg.Provider("machines", s.cloud.Provider("test")), Name: s.manager.Provider, ConnectTimeout: 10 * time.Second}},
		Alarms:   compat.NewTasks(s.manager.ServiceURL, secrets, s.queue),
	}
	for _, p := range cfg.Pools {
		s.cloud.AddMachine(provider.Machine{Name: p.Machine, Zone: p.Zone}, muster.MachineTerminated)
	}
	s.restart()
	t.Cleanup(func() { s.worker.Stop() })

	dispatcher := ingress.NewDispatcher(ingress.DispatcherConfig{Inbox: s.store, Sink: later{s}, Observer: reg, Logger: s.logger, Tick: 200 * time.Millisecond})
	dispatched := make(chan error, 1)
	go func() { dispatched <- dispatcher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-dispatched
	})
	hook, err := ingress.NewWebhook(ingress.WebhookConfig{Apps: []ingress.App{{Name: a.Name, Secrets: secrets.Webhooks()}}, Inbox: s.store, Nudge: dispatcher.Nudge, Observer: reg, Logger: s.logger})
	check(t, err)
	var entries []compat.Entry
	for _, e := range s.manager.Entries {
		entries = append(entries, compat.Entry{Repo: e.Repo, Labels: e.Labels, Name: e.Name, Zone: e.Zone})
	}
	m, err := compat.NewManager(compat.Config{
		Entries: entries, InactiveMinutes: s.manager.InactiveMinutes, Provider: s.manager.Provider, Workspace: "default", Secrets: secrets,
		Machines: machinesOf{s}, Webhook: hook, Now: s.now, Logger: s.logger,
	})
	check(t, err)
	var h http.Handler = m
	handler.Store(&h)
	return s
}

// machinesOf is the client of the moment.
type machinesOf struct{ s *site }

func (m machinesOf) StartMachine(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineAnswer, error) {
	return m.s.client.StartMachine(ctx, workspace, id)
}

func (m machinesOf) StopMachine(ctx context.Context, workspace string, id muster.MachineID, generation int64) (muster.MachineAnswer, error) {
	return m.s.client.StopMachine(ctx, workspace, id, generation)
}

// restart ends the workers of one control plane and starts those of the next.
func (s *site) restart() {
	s.t.Helper()
	if s.worker != nil {
		s.worker.Stop()
	}
	s.client = lifecycle.NewClient(s.deps, s.engine.Client(), s.logger)
	s.worker = lifecycle.NewWorker(s.engine.Client(), s.deps, s.client, s.logger)
	check(s.t, s.worker.Start(), s.client.Start(s.t.Context()))
}

// pass moves the clock, and wakes every machine as its timer would.
func (s *site) pass(d time.Duration) {
	s.t.Helper()
	s.ahead.Add(int64(d))
	check(s.t, s.client.Start(s.t.Context()))
}

func (s *site) until(what string, done func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	hurry := time.NewTicker(400 * time.Millisecond) // what takes seconds need not
	defer hurry.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-hurry.C:
			s.pass(2 * time.Second)
		case <-deadline.C:
			s.t.Fatalf("waited in vain for: %s\n%s", what, s.tail())
		}
	}
}

func (s *site) tail() string {
	text := s.log.String()
	return text[max(0, len(text)-4000):]
}

func (s *site) id(name string) muster.MachineID {
	for _, e := range s.manager.Entries {
		if e.Name == name {
			return muster.MachineID{Provider: s.manager.Provider, Zone: e.Zone, Name: name}
		}
	}
	s.t.Fatalf("there is no machine %s", name)
	return muster.MachineID{}
}

// row is what is known of a machine.
func (s *site) row(name string) muster.Machine {
	s.t.Helper()
	m, err := s.store.Machine(s.t.Context(), "default", s.id(name))
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		s.t.Fatal(err)
	}
	return m
}

// vm is what happened to a machine at its platform.
func (s *site) vm(name string) fake.MachineCounts {
	id := s.id(name)
	return s.cloud.Machine(provider.Machine{Name: id.Name, Zone: id.Zone})
}

func (s *site) set(name string, status muster.MachineStatus) {
	id := s.id(name)
	s.cloud.SetMachine(provider.Machine{Name: id.Name, Zone: id.Zone}, status)
}

func (s *site) send(method, path, body string, header ...string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	check(s.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	check(s.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(s.t, err)
	return resp.StatusCode, string(text)
}

func (s *site) control(verb, name string) (int, string) {
	s.t.Helper()
	body := ""
	if name != "" {
		body = fmt.Sprintf(`{"vm_instance_name": %q, "vm_instance_zone": %q}`, name, s.id(name).Zone)
	}
	return s.send("POST", "/runner/"+verb, body, "X-Runner-Secret", shared)
}

func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// hook delivers a webhook with the fields of G3 and no others.
func (s *site) hook(action string, id int64, repo, runnerName string, labels ...string) (int, string) {
	s.t.Helper()
	name := any(nil)
	if runnerName != "" {
		name = runnerName
	}
	_, short, _ := strings.Cut(repo, "/")
	body, err := json.Marshal(map[string]any{
		"action": action,
		"workflow_job": map[string]any{
			"id": id, "run_id": id + 1, "status": action, "labels": labels,
			"runner_id": nil, "runner_name": name, "runner_group_id": nil, "runner_group_name": nil,
		},
		"repository": map[string]string{"name": short, "full_name": repo},
	})
	check(s.t, err)
	return s.send("POST", "/github/webhook", string(body), "X-GitHub-Event", "workflow_job", "X-GitHub-Delivery", uuid.NewString(), "X-Hub-Signature-256", sign(shared, string(body)))
}

func (s *site) ok(action string, id int64, repo, runnerName string, labels ...string) {
	s.t.Helper()
	if code, body := s.hook(action, id, repo, runnerName, labels...); code != 200 || body != `{"status": "ok"}` { // S3-32
		s.t.Fatalf("%s of job %d: %d %s", action, id, code, body)
	}
}

func (s *site) nextJob() int64 {
	s.jobs += 10
	return s.jobs
}

// settled waits until everything that was delivered has been taken.
func (s *site) settled() {
	s.t.Helper()
	s.until("the inbox to be empty", func() bool {
		left, err := s.store.Undispatched(s.t.Context(), time.Now().Add(time.Hour), 10)
		return err == nil && len(left) == 0
	})
}

// register registers a machine's runner at a repository by hand, as config.sh does.
func (s *site) register(repo, name, labels string) (dir string) {
	s.t.Helper()
	token, err := s.sim.CreateToken("admin-of-"+strings.ReplaceAll(repo, "/", "-"), "repo")
	check(s.t, err)
	req, err := http.NewRequestWithContext(s.t.Context(), "POST", s.sim.URL()+"/repos/"+repo+"/actions/runners/registration-token", nil)
	check(s.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	check(s.t, err)
	defer resp.Body.Close()
	var out struct{ Token string }
	check(s.t, json.NewDecoder(resp.Body).Decode(&out))
	dir = filepath.Join(s.dir, "vm", name, repo)
	check(s.t, os.MkdirAll(dir, 0o755))
	var said bytes.Buffer
	code := runner.Main(s.t.Context(), runner.Program{Args: []string{"configure", "--unattended", "--url", s.sim.URL() + "/" + repo, "--token", out.Token, "--name", name, "--labels", labels}, Dir: dir, Stdout: &said, Stderr: &said})
	if code != 0 {
		s.t.Fatalf("configure: %d %s", code, said.String())
	}
	return dir
}

// TestContract replays the exchange of every row of S3 over HTTP.
func TestContract(t *testing.T) {
	s := newSite(t)
	dirs := map[string][]string{
		"github-runner-a": {s.register("owner/repo-a", "github-runner-a", "x64")},
		"github-runner-b": {s.register("owner/repo-b", "github-runner-b", "gpu")},
		"github-runner-c": {s.register("owner/repo-c", "github-runner-c", "x64")},
		"shared":          {s.register("owner/left", "shared", "x64"), s.register("owner/right", "shared", "x64")},
		"first":           {s.register("owner/overlap", "first", "x64")},
		"second":          {},
		"golden":          {s.register("org/example-repo", "golden", "x64")},
	}
	// A machine that is up runs the runners that were installed in it, for many jobs.
	s.cloud.OnStart(func(ctx context.Context, m provider.Machine) {
		var all sync.WaitGroup
		for _, dir := range dirs[m.Name] {
			all.Go(func() {
				runner.Main(ctx, runner.Program{
					Args: []string{"run"}, Dir: dir, Stdout: io.Discard, Stderr: io.Discard, Env: []string{"PATH=" + os.Getenv("PATH")},
					Knobs: runner.Knobs{Retry: 100 * time.Millisecond, Unload: time.Second, Interrupt: 50 * time.Millisecond, Terminate: 50 * time.Millisecond},
				})
			})
		}
		all.Wait()
	})
	steps := []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"OneJob", oneJob}, {"Restart", restarted}, {"Signatures", signatures}, {"Events", events}, {"Matching", matching}, {"Golden", golden},
		{"SharedMachine", sharedMachine}, {"StartAndStop", startAndStop}, {"StopWaits", stopWaits}, {"NotFound", notFound}, {"FailsClosed", failsClosed}, {"Endpoints", endpoints},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			s.t = t
			step.run(t, s)
		})
	}
	s.t = t
	for _, secret := range []string{shared, "BEGIN RSA"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has a secret: %.20s", secret)
		}
	}
}

// gate makes a job that runs until the gate is opened.
func (s *site) gate(repo string, labels ...string) (id int64, open func()) {
	s.t.Helper()
	path := filepath.Join(s.dir, "gate-"+uuid.NewString())
	id, err := s.sim.InjectJob(githubsim.JobOptions{Repo: repo, Labels: labels, Steps: []workflow.Step{{Run: "until [ -e '" + path + "' ]; do sleep 0.05; done"}}})
	check(s.t, err)
	return id, func() { check(s.t, os.WriteFile(path, nil, 0o600)) }
}

func (s *site) untilJob(id int64, status string) {
	s.t.Helper()
	s.until(fmt.Sprintf("job %d %s", id, status), func() bool {
		j, ok := s.sim.Truth().Job(id)
		return ok && j.Status == status
	})
}

func (s *site) untilStatus(name string, want muster.MachineStatus) {
	s.t.Helper()
	s.until(fmt.Sprintf("machine %s %s", name, want), func() bool { return s.vm(name).Status == want })
}

// The whole life, with real deliveries and a real runner: S3-1 S3-2 S3-3 S3-5 S3-7 S3-8
// S3-15 S3-16 S3-23 S3-29 S3-33 S3-36 S3-37 S3-66 4-17 4-19 C32.
func oneJob(t *testing.T, s *site) {
	const vm = "github-runner-a"
	id, open := s.gate("owner/repo-a", "self-hosted")
	s.untilJob(id, "in_progress")
	if c := s.vm(vm); c.Starts != 1 || c.Stops != 0 {
		t.Errorf("%+v", c)
	}
	s.until("the job's start to be known", func() bool {
		d, err := s.store.MachineDemand(t.Context(), "default", s.id(vm))
		return err == nil && len(d.Running) == 1
	})
	// S3-37: busy, and looked at again in a minute.
	before := s.calls.count("/repos/owner/repo-a/actions/runners")
	asked := s.now()
	code, body := s.control("stop", vm)
	if code != 200 || body != `{"status": "busy", "message": "Runner is busy, scheduled another stop task in 1 minute"}` {
		t.Errorf("%d %s", code, body)
	}
	if s.calls.count("/repos/owner/repo-a/actions/runners") == before || s.calls.count("/access_tokens") == 0 {
		t.Error("GitHub was not asked as the App") // S3-36
	}
	s.until("the next look", func() bool { return !s.row(vm).Deadline.IsZero() })
	if d := s.row(vm).Deadline.Sub(asked); d < time.Minute-time.Second || d > time.Minute+45*time.Second {
		t.Errorf("looked at again after %s", d)
	}
	open()
	s.untilJob(id, "completed")
	// The stop that was asked for comes as soon as it is idle, at the next minute.
	s.until("the job's end to be known", func() bool { return !s.row(vm).DoneAt.IsZero() })
	s.pass(time.Minute)
	s.untilStatus(vm, muster.MachineTerminated)

	// The next job: without a wish to stop, it stays up for three minutes (S3-33).
	id, open = s.gate("owner/repo-a", "self-hosted")
	s.untilJob(id, "in_progress")
	open()
	s.untilJob(id, "completed")
	s.until("a deadline", func() bool {
		m := s.row(vm)
		return !m.Deadline.IsZero() && m.DoneAt.After(m.StartedAt)
	})
	m := s.row(vm)
	if got := m.Deadline.Sub(m.DoneAt); got != 3*time.Minute {
		t.Errorf("scheduled %s after the job's end", got)
	}
	// S3-7 S3-23: as a task that calls /runner/stop.
	task, n := s.queue.last(vm)
	if n == 0 || !task.At.Equal(m.Deadline) || task.URL != s.url+"/runner/stop" || task.Method != "POST" || task.Header["X-Runner-Secret"] == "" || task.Header["X-Runner-Secret"] == shared ||
		string(task.Body) != `{"vm_instance_name": "github-runner-a", "vm_instance_zone": "asia-northeast1-a"}` {
		t.Errorf("%d tasks, %+v", n, task)
	}
	call := func() (int, string) {
		t.Helper()
		return s.send(task.Method, "/runner/stop", string(task.Body), "X-Runner-Secret", task.Header["X-Runner-Secret"], "Content-Type", task.Header["Content-Type"])
	}
	if code, body := call(); code != 200 || !strings.Contains(body, `"status": "skipped"`) { // too early
		t.Errorf("%d %s", code, body)
	}
	if s.vm(vm).Stops != 1 {
		t.Errorf("%+v", s.vm(vm))
	}
	// 4-19: a job that comes meanwhile moves the deadline, and the old task does nothing.
	id, open = s.gate("owner/repo-a", "self-hosted")
	s.untilJob(id, "in_progress")
	s.until("the deadline to be taken back", func() bool { return s.row(vm).Deadline.IsZero() })
	s.ahead.Add(int64(4 * time.Minute))
	if code, body := call(); code != 200 || !strings.Contains(body, `"status": "skipped"`) {
		t.Errorf("%d %s", code, body)
	}
	ended := s.row(vm).DoneAt
	open()
	s.untilJob(id, "completed")
	s.until("the deadline of this job's end, and its task", func() bool {
		m := s.row(vm)
		task, _ := s.queue.last(vm)
		return m.DoneAt.After(ended) && !m.Deadline.IsZero() && task.At.Equal(m.Deadline)
	})
	if s.vm(vm).Stops != 1 || s.vm(vm).Starts != 2 {
		t.Errorf("%+v", s.vm(vm))
	}
	// And when the time has come, the task of the current deadline stops it (S3-5, S3-39).
	s.ahead.Add(int64(3 * time.Minute))
	task, _ = s.queue.last(vm)
	// The workflow may have been woken by late news right after the clock moved, and
	// then has stopped the machine before the task does.
	if code, body := call(); code != 200 || !strings.HasPrefix(body, `{"status": "stopping", "operation": "operation-`) && !strings.Contains(body, `"status": "skipped"`) {
		t.Errorf("%d %s", code, body)
	}
	s.untilStatus(vm, muster.MachineTerminated)
	if code, body := call(); code != 200 || !strings.Contains(body, `"status": "skipped"`) { // twice
		t.Errorf("%d %s", code, body)
	}
	for _, other := range []string{"github-runner-b", "github-runner-c", "shared"} { // S3-16
		if c := s.vm(other); c.Starts+c.Stops != 0 {
			t.Errorf("%s: %+v", other, c)
		}
	}
	for _, j := range s.sim.Truth().Jobs {
		if j.Conclusion != "success" || j.Executions != 1 {
			t.Errorf("job %d: %s, executed %d times", j.ID, j.Conclusion, j.Executions)
		}
	}
	decisions, err := s.store.Decisions(t.Context(), "default", "github-runner-a-owner-repo-a", 0)
	if err != nil || len(decisions) != 4 {
		t.Errorf("%d decisions, %v", len(decisions), err)
	}
}

// A control plane that ends keeps every deadline, and the next one keeps it. 4-19 4-24
func restarted(t *testing.T, s *site) {
	const vm = "github-runner-c"
	id, open := s.gate("owner/repo-c", "self-hosted")
	s.untilJob(id, "in_progress")
	open()
	s.untilJob(id, "completed")
	s.until("a deadline", func() bool { m := s.row(vm); return !m.Deadline.IsZero() && m.DoneAt.After(m.StartedAt) })
	before := s.row(vm)
	s.restart()
	s.pass(2 * time.Minute)
	if after := s.row(vm); !after.Deadline.Equal(before.Deadline) || after.Generation != before.Generation || s.vm(vm).Stops != 0 {
		t.Errorf("deadline %s of generation %d became %s of %d; %+v", before.Deadline, before.Generation, after.Deadline, after.Generation, s.vm(vm))
	}
	s.pass(2 * time.Minute)
	s.untilStatus(vm, muster.MachineTerminated)
}

// S3-18 S3-19 S3-20 S3-21 S3-26 4-39: who may deliver.
func signatures(t *testing.T, s *site) {
	body := `{"action":"queued","workflow_job":{"id":1,"run_id":2,"status":"queued","labels":["self-hosted"]},"repository":{"name":"repo-b","full_name":"owner/repo-b"}}`
	good := sign(shared, body)
	for name, c := range map[string]struct {
		body      string
		signature []string
		want      int
	}{
		"Good":         {body, []string{good}, 200},
		"Derived":      {body, []string{sign(compat.Derive(shared, "webhook").Reveal(), body)}, 200}, // C13
		"Missing":      {body, nil, 401},
		"Empty":        {body, []string{""}, 401},
		"Wrong":        {body, []string{sign("other", body)}, 401},
		"OtherBody":    {body + " ", []string{good}, 401},
		"NoPrefix":     {body, []string{strings.TrimPrefix(good, "sha256=")}, 401},
		"SHA1":         {body, []string{"sha1=" + good[7:47]}, 401},
		"SHA512":       {body, []string{"sha512=" + good[7:] + good[7:]}, 401},
		"ExtraEquals":  {body, []string{good + "=x"}, 401},
		"DoubleEquals": {body, []string{"sha256==" + good[7:]}, 401},
		"Short":        {body, []string{good[:20]}, 401},
		"NotHex":       {body, []string{"sha256=" + strings.Repeat("z", 64)}, 401},
		"Twice":        {body, []string{good, good}, 401},
		"ControlKey":   {body, []string{sign(compat.Derive(shared, "control").Reveal(), body)}, 401},
		"NotParsed":    {"{", []string{good}, 401}, // S3-21: a broken body is not what is complained about
	} {
		header := []string{"X-GitHub-Event", "ping", "X-GitHub-Delivery", uuid.NewString()}
		for _, v := range c.signature {
			header = append(header, "X-Hub-Signature-256", v)
		}
		code, answer := s.send("POST", "/github/webhook", c.body, header...)
		if code != c.want || code == 401 && answer != `{"detail": "Invalid signature"}` {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	// S3-26: documented: a signed delivery without its event is refused.
	if code, _ := s.send("POST", "/github/webhook", body, "X-Hub-Signature-256", good); code != 400 {
		t.Errorf("without an event: %d", code)
	}
	huge := strings.Repeat(" ", 26<<20)
	if code, _ := s.send("POST", "/github/webhook", huge, "X-GitHub-Event", "ping", "X-Hub-Signature-256", sign(shared, huge)); code != 413 {
		t.Errorf("26 MB: %d", code)
	}
	s.settled()
	if c := s.vm("github-runner-b"); c.Starts != 0 {
		t.Errorf("%+v", c)
	}
}

// S3-6 S3-14 S3-17 S3-30 S3-31 S3-32 S3-34 4-22: what is delivered and changes nothing.
func events(t *testing.T, s *site) {
	const vm = "github-runner-b"
	s.set(vm, muster.MachineRunning)
	for _, event := range []string{"ping", "push", "workflow_run", "check_run"} {
		body := `{"zen":"x","action":"queued"}`
		if code, answer := s.send("POST", "/github/webhook", body, "X-GitHub-Event", event, "X-GitHub-Delivery", uuid.NewString(), "X-Hub-Signature-256", sign(shared, body)); code != 200 || answer != `{"status": "ok"}` {
			t.Errorf("%s: %d %s", event, code, answer)
		}
	}
	s.ok("waiting", s.nextJob(), "owner/repo-b", "", "self-hosted", "gpu")
	s.ok("unheard-of", s.nextJob(), "owner/repo-b", "", "self-hosted", "gpu")
	s.ok("queued", s.nextJob(), "owner/unconfigured", "", "self-hosted", "gpu") // S3-31
	s.ok("queued", s.nextJob(), "owner/repo-b", "", "self-hosted")              // S3-12: gpu is missing
	s.ok("queued", s.nextJob(), "owner/repo-b", "", "ubuntu-latest")            // S3-14
	s.ok("completed", s.nextJob(), "owner/unconfigured", "x", "self-hosted")    // S3-34
	s.settled()
	if code, body := s.control("start", vm); code != 200 || body != `{"status": "already_running"}` {
		t.Errorf("%d %s", code, body)
	}
	s.until("a deadline of its own", func() bool { return !s.row(vm).Deadline.IsZero() })
	before := s.row(vm)
	// S3-30: one that is up is left alone; and the end of a job that ran elsewhere is no
	// end of ours (4-22).
	job := s.nextJob()
	s.ok("queued", job, "owner/repo-b", "", "self-hosted", "gpu")
	s.until("the job to hold it", func() bool { return s.row(vm).Deadline.IsZero() })
	s.ok("in_progress", job, "owner/repo-b", "GitHub Actions 7", "self-hosted", "gpu")
	s.ok("completed", job, "owner/repo-b", "GitHub Actions 7", "self-hosted", "gpu")
	s.until("the job to let go", func() bool { return !s.row(vm).Deadline.IsZero() })
	if after := s.row(vm); !after.DoneAt.IsZero() || !after.Deadline.Equal(before.Deadline) {
		t.Errorf("done %s, deadline %s, was %s", after.DoneAt, after.Deadline, before.Deadline)
	}
	if c := s.vm(vm); c.Starts+c.Stops != 0 {
		t.Errorf("%+v", c)
	}
	s.pass(5 * time.Minute)
	s.untilStatus(vm, muster.MachineTerminated) // nobody needs it: S3-5
}

// S3-9 S3-10 S3-11 S3-12 S3-13 4-29 C8: which entry a job starts.
func matching(t *testing.T, s *site) {
	starts := func(name string) int { return s.vm(name).Starts }
	a, b, first, second := starts("github-runner-a"), starts("github-runner-b"), starts("first"), starts("second")
	job := s.nextJob()
	s.ok("queued", job, "Owner/Repo-B", "", "Self-Hosted", "GPU", "linux") // case is no difference, and more labels are none
	s.until("machine b", func() bool { return starts("github-runner-b") == b+1 })
	overlap := s.nextJob()
	s.ok("queued", overlap, "owner/overlap", "", "self-hosted", "linux") // both entries match: the first
	s.until("the first machine", func() bool { return starts("first") == first+1 })
	// C8: it would be started in vain for a job that its runner, as it is registered,
	// cannot run. What was learned of it decides.
	s.until("the labels to be known", func() bool { return len(s.row("github-runner-a").Labels) > 0 })
	s.ok("queued", s.nextJob(), "owner/repo-a", "", "self-hosted", "windows")
	s.settled()
	s.pass(0)
	if starts("second") != second || starts("github-runner-a") != a {
		t.Errorf("second %d, a %d", starts("second"), starts("github-runner-a"))
	}
	s.ok("completed", job, "owner/repo-b", "", "self-hosted")
	s.ok("completed", overlap, "owner/overlap", "", "self-hosted")
	s.settled()
	s.pass(20 * time.Minute)
	s.untilStatus("github-runner-b", muster.MachineTerminated)
	s.untilStatus("first", muster.MachineTerminated)
}

// S3-27 S3-28: the documented payload, to the byte.
func golden(t *testing.T, s *site) {
	const body = `{
  "action": "queued",
  "workflow_job": {
    "id": 123456789, "run_id": 987654321, "status": "queued",
    "labels": ["self-hosted", "linux", "x64"],
    "runner_id": null, "runner_name": null, "runner_group_id": null, "runner_group_name": null
  },
  "repository": {"name": "example-repo", "full_name": "org/example-repo"}
}`
	code, answer := s.send("POST", "/github/webhook", body, "X-GitHub-Event", "workflow_job", "X-Hub-Signature-256", sign(shared, body))
	if code != 200 || answer != `{"status": "ok"}` {
		t.Fatalf("%d %s", code, answer)
	}
	s.untilStatus("golden", muster.MachineRunning)
	j, err := s.store.JobByID(t.Context(), "default", 123456789)
	if err != nil || j.RunID != 987654321 || j.RunnerName != "" || j.Runner != "" || j.Repository != "org/example-repo" || j.Labels.String() != "self-hosted,linux,x64" {
		t.Errorf("%+v, %v", j, err)
	}
	// A delivery that comes twice, as GitHub sends it again, starts nothing twice.
	s.ok("queued", 123456789, "org/example-repo", "", "self-hosted", "linux", "x64")
	s.ok("in_progress", 123456789, "org/example-repo", "golden", "self-hosted", "linux", "x64")
	s.ok("completed", 123456789, "org/example-repo", "golden", "self-hosted", "linux", "x64")
	s.ok("completed", 123456789, "org/example-repo", "golden", "self-hosted", "linux", "x64")
	s.until("a deadline", func() bool {
		m := s.row("golden")
		return !m.DoneAt.IsZero() && m.Deadline.Equal(m.DoneAt.Add(3*time.Minute))
	})
	s.pass(3 * time.Minute)
	s.untilStatus("golden", muster.MachineTerminated)
	if c := s.vm("golden"); c.Starts != 1 || c.Stops != 1 {
		t.Errorf("%+v", c)
	}
}

// S3-15 4-21: a machine of two repositories is idle only if it is for both.
func sharedMachine(t *testing.T, s *site) {
	left, openLeft := s.gate("owner/left", "self-hosted")
	s.untilJob(left, "in_progress")
	right, openRight := s.gate("owner/right", "self-hosted")
	s.untilJob(right, "in_progress")
	if c := s.vm("shared"); c.Starts != 1 {
		t.Errorf("%+v", c)
	}
	openLeft()
	s.untilJob(left, "completed")
	s.until("the end of the left job", func() bool { return !s.row("shared").DoneAt.IsZero() })
	s.pass(10 * time.Minute)
	before := [2]int{s.calls.count("/repos/owner/left/actions/runners"), s.calls.count("/repos/owner/right/actions/runners")}
	if code, body := s.control("stop", "shared"); code != 200 || !strings.HasPrefix(body, `{"status": "busy"`) {
		t.Errorf("%d %s", code, body)
	}
	if s.calls.count("/repos/owner/left/actions/runners") == before[0] || s.calls.count("/repos/owner/right/actions/runners") == before[1] {
		t.Error("not every registration was looked up")
	}
	if s.vm("shared").Stops != 0 {
		t.Error("one repository's end stopped the other's job")
	}
	openRight()
	s.untilJob(right, "completed")
	s.until("the end of the right job", func() bool {
		d, err := s.store.MachineDemand(t.Context(), "default", s.id("shared"))
		return err == nil && len(d.Running) == 0
	})
	s.pass(3 * time.Minute)
	s.untilStatus("shared", muster.MachineTerminated)
	if j, _ := s.sim.Truth().Job(right); j.Conclusion != "success" {
		t.Errorf("the right job: %+v", j)
	}
}

// S3-22 S3-24 S3-25 S3-38 S3-39 S3-40 S3-41 4-20 C11: the manual doors.
func startAndStop(t *testing.T, s *site) {
	const vm = "github-runner-c"
	starts := s.vm(vm).Starts
	if code, body := s.control("start", vm); code != 200 || !strings.HasPrefix(body, `{"status": "starting", "operation": "operation-`) || strings.Contains(body, "pending") {
		t.Errorf("%d %s", code, body)
	}
	s.untilStatus(vm, muster.MachineRunning)
	if code, body := s.control("start", vm); code != 200 || body != `{"status": "already_running"}` {
		t.Errorf("%d %s", code, body)
	}
	if code, body := s.control("stop", vm); code != 200 || !strings.HasPrefix(body, `{"status": "stopping", "operation": "operation-`) || strings.Contains(body, "message") {
		t.Errorf("%d %s", code, body)
	}
	s.untilStatus(vm, muster.MachineTerminated)
	if code, body := s.control("stop", vm); code != 200 || body != `{"status": "already_stopped"}` {
		t.Errorf("%d %s", code, body)
	}
	// 4-20: a start while it stops is kept as a wish, and comes true.
	s.cloud.SetDelays(fake.Delays{Stop: 600 * time.Millisecond})
	defer s.cloud.SetDelays(fake.Delays{})
	s.control("start", vm)
	s.untilStatus(vm, muster.MachineRunning)
	s.control("stop", vm)
	if code, body := s.control("start", vm); code != 200 || !strings.HasPrefix(body, `{"status": "starting", "operation": "operation-pending", "message": "the machine is STOPPING`) {
		t.Errorf("%d %s", code, body)
	}
	s.untilStatus(vm, muster.MachineTerminated)
	s.pass(6 * time.Second)
	s.untilStatus(vm, muster.MachineRunning)
	if got := s.vm(vm).Starts - starts; got != 3 {
		t.Errorf("%d starts", got)
	}
	// S3-5: what was started by hand is stopped when it has had nothing to do.
	s.pass(10 * time.Minute)
	s.untilStatus(vm, muster.MachineTerminated)
	// C10: with several machines, a call without a body names them.
	if code, body := s.control("stop", ""); code != 400 || !strings.Contains(body, "github-runner-a (asia-northeast1-a)") {
		t.Errorf("%d %s", code, body)
	}
	// 4-33: no machine of the platform but those that are configured.
	if code, _ := s.send("POST", "/runner/stop", `{"vm_instance_name":"database","vm_instance_zone":"us-central1-a"}`, "X-Runner-Secret", shared); code != 404 {
		t.Errorf("%d", code)
	}
	// S3-35: nothing is asked of anybody without the secret.
	asked, looked := s.calls.count(""), s.cloud.Counts().Calls[fake.Status]
	if code, _ := s.send("POST", "/runner/stop", ""); code != 401 {
		t.Errorf("%d", code)
	}
	if s.calls.count("") != asked || s.cloud.Counts().Calls[fake.Status] != looked {
		t.Error("something was asked before the secret was checked")
	}
}

// 4-19: a wish to stop does not take a machine from a job that waits for it.
func stopWaits(t *testing.T, s *site) {
	const vm = "second"
	// Its runner is not registered, so that the job waits.
	job := s.nextJob()
	check(t, s.store.SetPoolOverride(t.Context(), "default", "first-owner-overlap", muster.PoolOverride{Enabled: new(false)}))
	defer func() {
		check(t, s.store.SetPoolOverride(t.Context(), "default", "first-owner-overlap", muster.PoolOverride{Enabled: new(true)}))
	}()
	s.ok("queued", job, "owner/overlap", "", "self-hosted", "linux")
	s.untilStatus(vm, muster.MachineRunning)
	if code, body := s.control("stop", vm); code != 200 || body != `{"status": "busy", "message": "1 job waits for it, scheduled another stop task in 1 minute"}` {
		t.Errorf("%d %s", code, body)
	}
	s.ok("completed", job, "owner/overlap", "", "self-hosted", "linux")
	s.settled()
	s.pass(time.Minute)
	s.pass(time.Minute)
	s.until("two looks", func() bool { s.pass(time.Minute); return s.vm(vm).Status == muster.MachineTerminated })
}

// S3-38 C33: a runner that GitHub does not know is believed to be away at the second look.
func notFound(t *testing.T, s *site) {
	const vm = "unregistered"
	s.set(vm, muster.MachineRunning)
	s.pass(20 * time.Second) // its boot grace is over; its inactive minutes are not
	if code, body := s.control("stop", vm); code != 200 || !strings.HasPrefix(body, `{"status": "busy"`) {
		t.Errorf("at the first look: %d %s", code, body)
	}
	s.ahead.Add(int64(time.Minute))
	if code, body := s.control("stop", vm); code != 200 || !strings.HasPrefix(body, `{"status": "stopping"`) {
		t.Errorf("at the second look: %d %s", code, body)
	}
	s.untilStatus(vm, muster.MachineTerminated)
}

// 4-18: when GitHub gives no answer, nothing is stopped, and it is told after a while.
func failsClosed(t *testing.T, s *site) {
	const vm = "github-runner-a"
	s.control("start", vm)
	s.untilStatus(vm, muster.MachineRunning)
	s.pass(time.Minute)
	stops := s.vm(vm).Stops
	s.calls.down.Store(true)
	if code, body := s.control("stop", vm); code != 200 || body != `{"status": "busy", "message": "GitHub did not say whether the runner is busy, scheduled another stop task in 1 minute"}` {
		t.Errorf("%d %s", code, body)
	}
	s.until("a finding", func() bool {
		s.pass(time.Minute)
		findings, err := s.store.Findings(t.Context(), "default", 0)
		for _, f := range findings {
			if f.Kind == "machine_unknown" && strings.Contains(f.Subject, vm) {
				return true
			}
		}
		return err != nil
	})
	if s.vm(vm).Stops != stops {
		t.Error("it was stopped")
	}
	s.calls.down.Store(false)
	s.until("GitHub to answer again", func() bool { s.pass(time.Minute); return s.vm(vm).Status == muster.MachineTerminated })
	// 4-37: the platform's own words stay in the log.
	s.cloud.Fail(fake.Fault{Call: fake.Start, Runner: muster.RunnerID(vm), Err: fmt.Errorf("%w: quota of my-project is used up", provider.ErrQuota)})
	defer s.cloud.Heal()
	if code, body := s.control("start", vm); code != 503 || strings.Contains(body, "my-project") || !strings.Contains(body, `"trace_id": "`) {
		t.Errorf("%d %s", code, body)
	}
	// An operator reads them in the machine's row, and those of a platform that does
	// not say how the machine stands. 4-52
	if words, _ := s.row(vm).Trouble(); !strings.Contains(words, "quota of my-project is used up") {
		t.Errorf("the row says %q", words)
	}
	s.cloud.Heal()
	s.cloud.Fail(fake.Fault{Call: fake.Status, Runner: muster.RunnerID(vm), Err: fmt.Errorf("%w: compute.instances.get is needed", provider.ErrTransient)})
	s.control("start", vm)
	if m := s.row(vm); !strings.Contains(m.StatusError, "compute.instances.get is needed") || m.StatusErrorAt.IsZero() {
		t.Errorf("the row says %q since %s", m.StatusError, m.StatusErrorAt)
	}
	s.cloud.Heal()
	s.control("start", vm)
	if m := s.row(vm); m.StatusError != "" {
		t.Errorf("the platform answers again, and the row says %q", m.StatusError)
	}
}

// S3-42 S3-43 S3-44: what anybody may see.
func endpoints(t *testing.T, s *site) {
	if code, body := s.send("GET", "/health", ""); code != 200 || body != `{"status": "healthy"}` {
		t.Errorf("%d %s", code, body)
	}
	code, body := s.send("GET", "/", "")
	const begins = `{"service": "GitHub Runner Manager", "inactive_minutes": 3, "runner_configs": [{"repo": "owner/repo-a", "labels": ["self-hosted"], "vm_instance_name": "github-runner-a", "vm_instance_zone": "asia-northeast1-a"}, {"repo": "owner/repo-b", "labels": ["self-hosted", "gpu"], `
	if code != 200 || !strings.HasPrefix(body, begins) || strings.Contains(body, shared) || strings.Contains(body, "my-project") {
		t.Errorf("%d %s", code, body)
	}
}
