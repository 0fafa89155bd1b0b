package lifecycle

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/engine"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/usage"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// world is everything around the workflows: the real engine and the real store,
// a platform in memory, a GitHub of these tests' own, and agents that do as they
// are told. It is shared by the tests of this package, which keep apart by pool.
type world struct {
	store  *store.Store
	client *Client
	cloud  *fake.Cloud
	github *gitHub
	seen   *observer
	box    *secretbox.Box
	kept   *keptTraces
	hook   *hookServer

	syncing sync.Mutex // of the list of pools
	mu      sync.Mutex
	scripts map[string]func(context.Context, *agent) string // by pool, or by spare provider
	spare   map[string]map[string]*fake.Cloud               // by provider and zone
	jobs    int64
}

var shared struct {
	once sync.Once
	w    *world
	err  error
	stop func()
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.stop != nil {
		shared.stop()
	}
	os.Exit(code)
}

func theWorld(t *testing.T) *world {
	t.Helper()
	shared.once.Do(func() { shared.w, shared.stop, shared.err = newWorld() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.w
}

func newWorld() (*world, func(), error) {
	dir, err := os.MkdirTemp("", "muster-lifecycle-")
	if err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	box, err := secretbox.Load(filepath.Join(dir, "key"))
	if err != nil {
		return nil, nil, err
	}
	db, err := store.Open(ctx, store.Config{URL: "sqlite:" + filepath.Join(dir, "muster.db"), Secrets: box})
	if err != nil {
		return nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("MUSTER_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	eng, err := engine.Open(ctx, engine.Config{Namespace: "muster", Dir: dir, Sealer: box, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	boot, err := secretbox.NewTokens(box)
	if err != nil {
		return nil, nil, err
	}
	w := &world{store: db, cloud: fake.NewCloud(), github: newGitHub(), seen: &observer{}, box: box, scripts: map[string]func(context.Context, *agent) string{}, jobs: 1000}
	if w.kept, err = newKeptTraces(db); err != nil {
		return nil, nil, err
	}
	w.hook = newHookServer()
	full := fake.NewCloud()
	full.Fail(fake.Fault{Call: fake.Create, Err: provider.ErrCapacity})
	deps := Deps{
		Store: db, Tokens: testTokens{boot}, GitHub: map[string]GitHub{"app": w.github},
		Backends: map[string]Backend{"fake": {Provider: w.cloud.Provider("test"), Name: "fake", ConnectTimeout: 3 * time.Second}, "full": {Provider: full.Provider("test"), Name: "full"}},
		Book:     usage.Book{}, Observer: w.seen, Now: time.Now, URL: "http://muster.test", WebURL: map[string]string{"app": "https://github.test"}, Owner: "test",
		Times:   Times{Sweep: time.Hour, Health: time.Hour, SweepGrace: time.Nanosecond, AgentLost: 2 * time.Second, Poll: 2 * time.Second, SealedAfter: 2 * time.Second}.WithDefaults(),
		Tracing: Tracing{Archive: w.kept, Analyst: w.kept, Hooks: []Hook{{Name: "security", URL: w.hook.URL, Secret: canaryHook, Events: HookEvents}}},
	}
	w.addSpares(deps.Backends)
	w.client = NewClient(deps, eng.Client(), log)
	w.cloud.OnBoot(w.boot)
	wk := NewWorker(eng.Client(), deps, w.client, log)
	if err := wk.Start(); err != nil {
		return nil, nil, err
	}
	return w, func() {
		wk.Stop()
		w.hook.Close()
		w.cloud.Close()
		full.Close()
		eng.Close()
		_ = db.Close()
		_ = os.RemoveAll(dir)
	}, nil
}

// pool makes a pool of its own for a test, with a script for the agents of its machines.
func (w *world) pool(t *testing.T, script func(context.Context, *agent) string, change ...func(*muster.Pool)) muster.Pool {
	t.Helper()
	name := "p" + strings.ReplaceAll(uuid.NewString(), "-", "")[:10]
	p := muster.Pool{
		Name: name, App: "app", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"},
		Labels: muster.Labels{name}, Provider: "fake", Offering: "small", Enabled: true,
	}.WithDefaults()
	for _, c := range change {
		c(&p)
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.scripts[name] = script
	w.mu.Unlock()
	w.syncing.Lock() // parallel tests would take each other's pools out
	defer w.syncing.Unlock()
	pools, err := w.store.Pools(t.Context(), defaultWorkspace)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.SyncPools(t.Context(), defaultWorkspace, append(pools, p), []muster.Offering{{Name: "small", CPUs: 1, PriceMicroUSD: 600}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// event makes the event of a job of the pool.
func (w *world) event(p muster.Pool, id int64, action string) muster.JobEvent {
	now := time.Now()
	return muster.JobEvent{
		Action: action, App: "app", Sense: muster.SenseWebhook, ReceivedAt: now, TraceID: newTraceID(), Delivery: uuid.NewString(),
		Repository: "acme/web", ID: id, RunID: id, Attempt: 1, Workflow: "ci", Name: "build", Status: muster.JobState(action),
		Labels: p.Labels, CreatedAt: now, StartedAt: now,
	}
}

func (w *world) newJob() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs++
	return w.jobs
}

func (w *world) send(t *testing.T, e muster.JobEvent) string {
	t.Helper()
	out, err := w.client.Job(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// runners are all runners of the pool, destroyed ones included.
func (w *world) runners(t *testing.T, p muster.Pool) []muster.Runner {
	t.Helper()
	rs, err := w.store.Runners(t.Context(), defaultWorkspace, store.RunnerFilter{Pool: p.Name})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// until waits until cond holds, looking again at every change in the store.
func (w *world) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	changes := w.store.Subscribe(ctx)
	tick := time.NewTicker(100 * time.Millisecond) // what changes outside the store
	defer tick.Stop()
	for !cond() {
		select {
		case <-changes:
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (w *world) untilDestroyed(t *testing.T, p muster.Pool, n int) []muster.Runner {
	t.Helper()
	var all []muster.Runner
	w.until(t, fmt.Sprintf("%d destroyed runners of %s", n, p.Name), func() bool {
		all = w.runners(t, p)
		gone := 0
		for _, r := range all {
			if r.State == muster.RunnerDestroyed {
				gone++
			}
		}
		return gone >= n && gone == len(all)
	})
	return all
}

// boot is what runs inside every machine: the pool's script, as an agent.
func (w *world) boot(ctx context.Context, m fake.Machine) string {
	w.mu.Lock()
	script := w.scripts[m.Spec.Pool]
	w.mu.Unlock()
	if script == nil {
		<-ctx.Done()
		return ""
	}
	return script(ctx, &agent{w: w, machine: m, nonce: uuid.NewString()})
}

// agent is a muster-agent that says what a test wants it to say.
type agent struct {
	w       *world
	machine fake.Machine
	nonce   string
	session string
	name    string
	resp    wire.BootResponse
}

func (a *agent) boot(ctx context.Context) error {
	resp, err := a.w.client.Boot(ctx, a.machine.Spec.Boot.Token.Reveal(), wire.BootRequest{Nonce: a.nonce})
	if err == nil {
		a.session, a.name, a.resp = resp.SessionToken, resp.Name, resp
		a.w.github.connect(a.name)
	}
	return err
}

func (a *agent) report(ctx context.Context, r wire.Report) (wire.Answer, error) {
	return a.w.client.Report(ctx, a.session, r)
}

// runOneJob boots, listens, takes the job with the id that comes over jobs, runs
// it until its context or done ends, and finishes.
func runOneJob(jobs <-chan int64, done <-chan struct{}) func(context.Context, *agent) string {
	return func(ctx context.Context, a *agent) string {
		if err := a.boot(ctx); err != nil {
			return err.Error()
		}
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
		select {
		case id := <-jobs:
			a.w.github.assign(a.name, true)
			p := muster.Pool{Labels: muster.Labels{a.machine.Spec.Pool}}
			e := a.w.event(p, id, "in_progress")
			e.RunnerName = a.name
			_, _ = a.w.client.Job(ctx, e)
			_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseRunning, JobName: "build", Busy: true})
			select {
			case <-done:
			case <-ctx.Done():
				return "killed while it ran a job"
			}
			a.w.github.consume(a.name)
			_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseFinished, Reason: "job finished"})
			// GitHub's word comes whether or not the machine still stands.
			e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "success", time.Now()
			_, _ = a.w.client.Job(context.WithoutCancel(ctx), e)
		case <-ctx.Done():
		}
		return ""
	}
}

// idle boots and listens until its machine is deleted.
func idle(ctx context.Context, a *agent) string {
	if err := a.boot(ctx); err == nil {
		_, _ = a.report(ctx, wire.Report{Phase: wire.PhaseListening})
	}
	<-ctx.Done()
	return ""
}

// gitHub keeps registrations as GitHub does, as far as this package cares.
type gitHub struct {
	mu      sync.Mutex
	nextID  int64
	byName  map[string]*muster.RemoteRunner
	calls   map[string]int
	fail    map[string][]error // by method, used up one by one
	commit  map[string]bool    // a failing GenerateJIT registers all the same
	removed []string
	sets    []string                  // the scale sets of registrations
	jobs    map[int64]muster.JobEvent // what GitHub knows of jobs
	checks  []muster.Check
}

func newGitHub() *gitHub {
	return &gitHub{byName: map[string]*muster.RemoteRunner{}, calls: map[string]int{}, fail: map[string][]error{}, commit: map[string]bool{}, jobs: map[int64]muster.JobEvent{}}
}

func (g *gitHub) call(method string) error {
	g.calls[method]++
	if errs := g.fail[method]; len(errs) > 0 {
		g.fail[method] = errs[1:]
		return errs[0]
	}
	return nil
}

func (g *gitHub) failNext(method string, errs ...error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail[method] = append(g.fail[method], errs...)
}

func (g *gitHub) GenerateJIT(_ context.Context, _ muster.Scope, name string, _ int64, labels muster.Labels) (muster.JIT, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.call("jit")
	if _, taken := g.byName[name]; taken {
		return muster.JIT{}, muster.Errorf(muster.CodeExists, "Already exists - A runner with the name %s already exists.", name)
	}
	if err != nil && muster.MessageOf(err) != "lost" {
		return muster.JIT{}, err
	}
	g.nextID++
	g.byName[name] = &muster.RemoteRunner{ID: g.nextID, Name: name, Labels: labels, Ephemeral: true}
	return muster.JIT{RunnerID: g.nextID, Name: name, Config: "jit-" + muster.Secret(name)}, err
}

func (g *gitHub) GenerateScaleSetJIT(ctx context.Context, s muster.Scope, set, name string) (muster.JIT, error) {
	g.mu.Lock()
	g.sets = append(g.sets, set)
	g.mu.Unlock()
	return g.GenerateJIT(ctx, s, name, 0, nil)
}

func (g *gitHub) TokenRegistration(_ context.Context, s muster.Scope, _ int64) (muster.TokenRegistration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return muster.TokenRegistration{URL: "https://github.test/" + s.String(), Token: canaryToken}, g.call("token")
}

// canaryToken must never be seen but by agents.
const canaryToken = "canary-registration-token-LLBF3JGZDX3P5"

// join is what config.sh does.
func (g *gitHub) join(name string, labels muster.Labels) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nextID++
	g.byName[name] = &muster.RemoteRunner{ID: g.nextID, Name: name, Labels: labels, Ephemeral: true}
}

func (g *gitHub) RemoveRunner(_ context.Context, _ muster.Scope, id int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call("remove"); err != nil {
		return err
	}
	for name, r := range g.byName {
		if r.ID != id {
			continue
		}
		if r.Busy {
			return muster.Errorf(muster.CodeBusy, "Runner %q is currently running a job and cannot be deleted", name)
		}
		delete(g.byName, name)
		g.removed = append(g.removed, name)
		return nil
	}
	return muster.Errorf(muster.CodeNotFound, "Not Found")
}

func (g *gitHub) Runner(_ context.Context, _ muster.Scope, id int64) (muster.RemoteRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call("runner"); err != nil {
		return muster.RemoteRunner{}, err
	}
	for _, r := range g.byName {
		if r.ID == id {
			return *r, nil
		}
	}
	return muster.RemoteRunner{}, muster.Errorf(muster.CodeNotFound, "Not Found")
}

func (g *gitHub) RunnerByName(_ context.Context, _ muster.Scope, name string) (muster.RemoteRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call("by name"); err != nil {
		return muster.RemoteRunner{}, err
	}
	if r, ok := g.byName[name]; ok {
		return *r, nil
	}
	return muster.RemoteRunner{}, muster.Errorf(muster.CodeNotFound, "Not Found")
}

func (g *gitHub) Runners(context.Context, muster.Scope) (out []muster.RemoteRunner, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.byName {
		out = append(out, *r)
	}
	return out, g.call("list")
}

func (g *gitHub) Downloads(context.Context, muster.Scope) ([]muster.RunnerDownload, error) {
	return []muster.RunnerDownload{{OS: "linux", Arch: "x64", URL: "http://x/y.tar.gz", Filename: "y.tar.gz", SHA256: fmt.Sprintf("%x", sha256.Sum256(nil))}}, nil
}

func (g *gitHub) Job(_ context.Context, _ string, id int64) (muster.JobEvent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call("job"); err != nil {
		return muster.JobEvent{}, err
	}
	if e, ok := g.jobs[id]; ok {
		return e, nil
	}
	return muster.JobEvent{}, muster.Errorf(muster.CodeNotFound, "no job %d", id)
}

func (g *gitHub) RunJobs(_ context.Context, run muster.WorkflowRun) (events []muster.JobEvent, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call(fmt.Sprint("jobs of run ", run.ID)); err != nil {
		return nil, err
	}
	for _, e := range g.jobs {
		if e.RunID == run.ID && e.Attempt == run.Attempt {
			events = append(events, e)
		}
	}
	return events, nil
}

func (g *gitHub) CreateCheck(_ context.Context, _ string, c muster.Check) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call("check"); err != nil {
		return 0, err
	}
	g.checks = append(g.checks, c)
	return int64(len(g.checks)), nil
}

func (g *gitHub) UpdateCheck(_ context.Context, _ string, id int64, c muster.Check) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.call("check"); err != nil {
		return err
	}
	g.checks[id-1] = c
	return nil
}

func (g *gitHub) FindCheck(_ context.Context, _ string, c muster.Check) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, have := range g.checks {
		if have.Name == c.Name && have.ExternalID == c.ExternalID {
			return int64(i + 1), nil
		}
	}
	return 0, nil
}

func (g *gitHub) Needs(context.Context, muster.Scope) ([]string, error) {
	return []string{"github.test"}, nil
}

func (g *gitHub) Forget(string) {}

func (g *gitHub) connect(name string) { g.set(name, func(r *muster.RemoteRunner) { r.Online = true }) }

func (g *gitHub) assign(name string, busy bool) {
	g.set(name, func(r *muster.RemoteRunner) { r.Busy = busy })
}

func (g *gitHub) set(name string, f func(*muster.RemoteRunner)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, ok := g.byName[name]; ok {
		f(r)
	}
}

// consume removes a one-job registration, as GitHub does by itself.
func (g *gitHub) consume(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.byName, name)
}

func (g *gitHub) has(prefix string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.byName {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

// testTokens are the real tokens.
type testTokens struct{ boot *secretbox.Tokens }

func (t testTokens) MintBoot(b muster.BootToken, pool string) (muster.Secret, error) {
	return t.boot.Mint(secretbox.BootClaims{JTI: b.JTI, Runner: b.Runner, Workspace: b.Workspace, Pool: pool, Audience: "test", ExpiresAt: b.ExpiresAt, Build: b.Build})
}

func (t testTokens) VerifyBoot(token string, now time.Time) (muster.BootToken, error) {
	c, err := t.boot.Verify(token, "test", now)
	return muster.BootToken{JTI: c.JTI, Runner: c.Runner, Workspace: c.Workspace, ExpiresAt: c.ExpiresAt, Build: c.Build}, err
}

func (testTokens) NewSession() (muster.Secret, []byte, error) {
	token := uuid.NewString()
	return muster.Secret(token), secretbox.SessionHash(token), nil
}

func (testTokens) HashSession(token string) []byte { return secretbox.SessionHash(token) }

// observer remembers what tests ask about.
type observer struct {
	mu       sync.Mutex
	receipts []muster.Receipt
	findings []muster.Finding
	traces   []muster.Trace
	ignored  int
}

func (o *observer) JobAdvanced(muster.Applied) {}
func (o *observer) JobIgnored(muster.JobEvent, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ignored++
}
func (o *observer) Decided(string, muster.Decision)            {}
func (o *observer) RunnerChanged(muster.Runner)                {}
func (o *observer) Launched(string, error, time.Duration)      {}
func (o *observer) Booted(muster.Runner, error, time.Duration) {}
func (o *observer) AgentReported(string, error)                {}
func (o *observer) Waste(muster.Waste)                         {}
func (o *observer) TraceSegment(int, int, error)               {}
func (o *observer) TraceEnded(t muster.Trace) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.traces = append(o.traces, t)
}
func (o *observer) TraceAnalysed([]muster.Detection, time.Duration) {}
func (o *observer) Receipt(r muster.Receipt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.receipts = append(o.receipts, r)
}

func (o *observer) Finding(f muster.Finding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.findings = append(o.findings, f)
}

func (o *observer) found(kind, subject string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.findings {
		if f.Kind == kind && strings.Contains(f.Subject, subject) {
			return true
		}
	}
	return false
}

var _ provider.Provider = (*fake.Provider)(nil)
