package api_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/wire"
)

var t0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// store is an in-memory api.Store of one workspace. Broken makes every method
// fail, Panics makes Pools panic.
type store struct {
	workspace  string
	pools      []muster.Pool
	offerings  []muster.Offering
	snapshots  map[string]muster.Snapshot
	decisions  []muster.DecisionRecord // newest first
	runners    []muster.Runner         // newest first
	events     map[muster.RunnerID][]muster.RunnerEvent
	logs       map[muster.RunnerID]string
	jobs       []muster.Job // newest first
	sightings  map[muster.JobKey][]muster.Sighting
	receipts   []muster.Receipt
	wastes     []muster.Waste
	rows       []api.UsageRow
	deliveries []muster.Delivery // newest first
	installs   []muster.Installation
	machines   []muster.Machine
	demands    map[muster.MachineID]muster.MachineDemand
	broken     error
	panics     any

	mu      sync.Mutex
	watcher chan muster.Change
	watched chan struct{} // one receive per Subscribe
}

func missing(noun, name any) error {
	return muster.Errorf(muster.CodeNotFound, "there is no %v %v", noun, name)
}

// in fails for another workspace than the store's: every call must carry it (S4-61).
func (s *store) in(workspace string) error {
	if s.panics != nil {
		panic(s.panics)
	}
	if workspace != s.workspace {
		return fmt.Errorf("asked for workspace %q", workspace)
	}
	return s.broken
}

func find[T any](xs []T, noun, name any, is func(T) bool) (T, error) {
	if i := slices.IndexFunc(xs, is); i >= 0 {
		return xs[i], nil
	}
	var zero T
	return zero, missing(noun, name)
}

func (s *store) Pools(_ context.Context, ws string) ([]muster.Pool, error) { return s.pools, s.in(ws) }
func (s *store) Pool(_ context.Context, ws, name string) (muster.Pool, error) {
	if err := s.in(ws); err != nil {
		return muster.Pool{}, err
	}
	return find(s.pools, "pool", name, func(p muster.Pool) bool { return p.Name == name })
}
func (s *store) Offerings(_ context.Context, ws string) ([]muster.Offering, error) {
	return s.offerings, s.in(ws)
}
func (s *store) Offering(_ context.Context, ws, name string) (muster.Offering, error) {
	if err := s.in(ws); err != nil {
		return muster.Offering{}, err
	}
	return find(s.offerings, "offering", name, func(o muster.Offering) bool { return o.Name == name })
}
func (s *store) PoolSnapshot(_ context.Context, ws, pool string) (muster.Snapshot, error) {
	return s.snapshots[pool], s.in(ws)
}
func (s *store) Decisions(_ context.Context, ws, pool string, limit int) (out []muster.DecisionRecord, err error) {
	for _, d := range s.decisions {
		if d.Pool == pool && len(out) < limit {
			out = append(out, d)
		}
	}
	return out, s.in(ws)
}
func (s *store) LastDecision(ctx context.Context, ws, pool string) (muster.DecisionRecord, bool, error) {
	ds, err := s.Decisions(ctx, ws, pool, 1)
	if len(ds) == 0 {
		return muster.DecisionRecord{}, false, err
	}
	return ds[0], true, err
}
func (s *store) DecisionAt(_ context.Context, ws, pool string, at time.Time) (muster.DecisionRecord, error) {
	if err := s.in(ws); err != nil {
		return muster.DecisionRecord{}, err
	}
	return find(s.decisions, "decision", at, func(d muster.DecisionRecord) bool { return d.Pool == pool && !d.At.After(at) })
}
func (s *store) Demand(_ context.Context, ws, pool string, since, until time.Time) (out []muster.Job, err error) {
	for _, j := range slices.Backward(s.jobs) {
		if j.Pool == pool && !j.QueuedAt().Before(since) && j.QueuedAt().Before(until) {
			out = append(out, j)
		}
	}
	return out, s.in(ws)
}
func (s *store) Supply(_ context.Context, ws, pool string, since, until time.Time) (out []muster.Runner, err error) {
	for _, r := range slices.Backward(s.runners) {
		if r.Pool == pool && r.CreatedAt.Before(until) && (r.DestroyedAt.IsZero() || !r.DestroyedAt.Before(since)) {
			out = append(out, r)
		}
	}
	return out, s.in(ws)
}
func (s *store) Sensed(_ context.Context, ws string, since, until time.Time) (out []muster.SensedJob, err error) {
	for _, j := range s.jobs {
		if !j.SeenAt.Before(since) && (until.IsZero() || j.SeenAt.Before(until)) {
			out = append(out, muster.SensedJob{Key: j.Key, App: j.App, Pool: j.Pool, SeenAt: j.SeenAt, QueuedAt: j.QueuedAt(), StartedAt: j.StartedAt, CompletedAt: j.CompletedAt, Sightings: s.sightings[j.Key]})
		}
	}
	return out, s.in(ws)
}
func (s *store) SpentSince(_ context.Context, ws, project string, since time.Time) (sum int64, err error) {
	for _, r := range s.receipts {
		if r.Project == project && !r.CompletedAt.Before(since) {
			sum += r.CostMicroUSD
		}
	}
	return sum, s.in(ws)
}
func (s *store) Machine(_ context.Context, ws string, id muster.MachineID) (muster.Machine, error) {
	if err := s.in(ws); err != nil {
		return muster.Machine{}, err
	}
	return find(s.machines, "machine", id, func(m muster.Machine) bool { return m.ID == id })
}
func (s *store) Machines(_ context.Context, ws string) ([]muster.Machine, error) {
	return s.machines, s.in(ws)
}
func (s *store) MachineDemand(_ context.Context, ws string, id muster.MachineID) (muster.MachineDemand, error) {
	return s.demands[id], s.in(ws)
}

func (s *store) Runners(_ context.Context, ws string, f api.RunnerFilter) (out []muster.Runner, err error) {
	for _, r := range s.runners {
		if (f.Pool == "" || f.Pool == r.Pool) && (!f.Live || r.State.Live()) && (len(f.States) == 0 || slices.Contains(f.States, r.State)) && (f.Limit == 0 || len(out) < f.Limit) {
			out = append(out, r)
		}
	}
	return out, s.in(ws)
}
func (s *store) Runner(_ context.Context, ws string, id muster.RunnerID) (muster.Runner, error) {
	if err := s.in(ws); err != nil {
		return muster.Runner{}, err
	}
	return find(s.runners, "runner", id, func(r muster.Runner) bool { return r.ID == id })
}
func (s *store) RunnerByName(_ context.Context, ws, name string) (muster.Runner, error) {
	if err := s.in(ws); err != nil {
		return muster.Runner{}, err
	}
	return find(s.runners, "runner", name, func(r muster.Runner) bool { return r.Name == name })
}
func (s *store) RunnerEvents(_ context.Context, ws string, id muster.RunnerID) ([]muster.RunnerEvent, error) {
	return s.events[id], s.in(ws)
}
func (s *store) RunnerLog(_ context.Context, ws string, id muster.RunnerID) ([]byte, error) {
	return []byte(s.logs[id]), s.in(ws)
}
func (s *store) Jobs(_ context.Context, ws string, f api.JobFilter) (out []muster.Job, err error) {
	for _, j := range s.jobs {
		if (f.Pool == "" || f.Pool == j.Pool) && (f.Repository == "" || strings.EqualFold(f.Repository, j.Repository)) && (f.RunID == 0 || f.RunID == j.RunID) &&
			(len(f.States) == 0 || slices.Contains(f.States, j.State)) && (f.BeforeID == 0 || j.Key.ID < f.BeforeID) && !j.SeenAt.Before(f.Since) && len(out) < f.Limit {
			out = append(out, j)
		}
	}
	return out, s.in(ws)
}
func (s *store) Job(_ context.Context, ws string, key muster.JobKey) (muster.Job, error) {
	if err := s.in(ws); err != nil {
		return muster.Job{}, err
	}
	return find(s.jobs, "job", key, func(j muster.Job) bool { return j.Key == key })
}
func (s *store) JobByID(_ context.Context, ws string, id int64) (muster.Job, error) {
	if err := s.in(ws); err != nil {
		return muster.Job{}, err
	}
	return find(s.jobs, "job", id, func(j muster.Job) bool { return j.Key.ID == id })
}
func (s *store) JobCounts(_ context.Context, ws string) (map[muster.JobState]int, error) {
	out := map[muster.JobState]int{}
	for _, j := range s.jobs {
		out[j.State]++
	}
	return out, s.in(ws)
}
func (s *store) Sightings(_ context.Context, ws string, key muster.JobKey) ([]muster.Sighting, error) {
	return s.sightings[key], s.in(ws)
}
func (s *store) Ahead(_ context.Context, ws, pool string, before time.Time) (n int, err error) {
	for _, j := range s.jobs {
		if j.Pool == pool && j.State == muster.JobQueued && j.CreatedAt.Before(before) {
			n++
		}
	}
	return n, s.in(ws)
}
func (s *store) Receipt(_ context.Context, ws string, key muster.JobKey) (muster.Receipt, error) {
	if err := s.in(ws); err != nil {
		return muster.Receipt{}, err
	}
	return find(s.receipts, "receipt", key, func(r muster.Receipt) bool { return r.Job == key })
}
func (s *store) Receipts(_ context.Context, ws string, f api.UsageFilter) (out []muster.Receipt, err error) {
	for _, r := range s.receipts {
		if (f.Pool == "" || f.Pool == r.Pool) && (f.Limit == 0 || len(out) < f.Limit) && !r.CompletedAt.Before(f.Since) {
			out = append(out, r)
		}
	}
	return out, s.in(ws)
}
func (s *store) Wastes(_ context.Context, ws string, f api.UsageFilter) ([]muster.Waste, error) {
	return s.wastes[:min(len(s.wastes), f.Limit)], s.in(ws)
}
func (s *store) UsageSummary(_ context.Context, ws string, _ api.UsageFilter, by string) ([]api.UsageRow, error) {
	return s.rows, s.in(ws)
}
func (s *store) Deliveries(_ context.Context, f api.DeliveryFilter) (out []muster.Delivery, err error) {
	for _, d := range s.deliveries {
		if (f.Event == "" || f.Event == d.Event) && strings.Contains(d.Outcome, f.Outcome) && (f.Before == 0 || d.Seq < f.Before) && len(out) < f.Limit {
			d.Body = nil
			out = append(out, d)
		}
	}
	return out, s.broken
}
func (s *store) Delivery(_ context.Context, guid string) (muster.Delivery, error) {
	return find(s.deliveries, "delivery", guid, func(d muster.Delivery) bool { return d.GUID == guid })
}
func (s *store) Installations(_ context.Context, ws string) ([]muster.Installation, error) {
	return s.installs, s.in(ws)
}
func (s *store) Subscribe(ctx context.Context) <-chan muster.Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watcher = make(chan muster.Change, 8)
	select {
	case s.watched <- struct{}{}:
	default:
	}
	return s.watcher
}

// commands records what was asked for and does it to the store.
type commands struct {
	*store
	mu        sync.Mutex
	asked     []string
	err       error
	refusal   string
	refusedAt time.Time
	answer    muster.MachineAnswer
}

func (c *commands) note(format string, args ...any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, fmt.Sprintf(format, args...))
	return c.err
}
func (c *commands) DrainRunner(_ context.Context, ws string, id muster.RunnerID, reason string) error {
	for i, r := range c.runners {
		if r.ID == id {
			c.runners[i].State, c.runners[i].Reason = muster.RunnerDraining, reason
		}
	}
	return c.note("drain %s/%s: %s", ws, id, reason)
}
func (c *commands) SetPool(_ context.Context, ws, pool string, o muster.PoolOverride) error {
	for i, p := range c.pools {
		if p.Name == pool {
			c.pools[i] = p.Override(o)
		}
	}
	return c.note("set %s/%s", ws, pool)
}
func (c *commands) RedispatchDelivery(_ context.Context, guid string) error {
	return c.note("redispatch %s", guid)
}
func (c *commands) StartMachine(_ context.Context, ws string, id muster.MachineID) (muster.MachineAnswer, error) {
	return c.answer, c.note("start %s/%s", ws, id)
}
func (c *commands) StopMachine(_ context.Context, ws string, id muster.MachineID, generation int64) (muster.MachineAnswer, error) {
	return c.answer, c.note("stop %s/%s %d", ws, id, generation)
}
func (c *commands) CheckProvider(_ context.Context, ws, name, offering string) (muster.ProviderCheck, muster.Runner, error) {
	if name != "local" {
		return muster.ProviderCheck{}, muster.Runner{}, muster.Errorf(muster.CodeNotFound, "there is no provider %q", name)
	}
	check, r := tested()
	return check, r, c.note("check %s of %s in %s", name, offering, ws)
}
func (c *commands) ProviderCheck(_ context.Context, ws string, id muster.RunnerID) (muster.ProviderCheck, muster.Runner, error) {
	check, r := tested()
	if id != r.ID {
		return check, r, missing("runner", id)
	}
	return check, r, c.in(ws)
}
func (c *commands) Healthy(_ context.Context, ws string, id muster.RunnerID) bool {
	return c.note("health of %s/%s", ws, id) == nil && id == "r-busy"
}
func (c *commands) ProviderRefusal(context.Context, string, string) (string, time.Time) {
	return c.refusal, c.refusedAt
}

// agents answers with err, or with what it was given.
type agents struct {
	err   error
	token string
	boot  wire.BootRequest
	// hold, when not nil, keeps Boot until it is closed; entered tells of each.
	hold    chan struct{}
	entered chan struct{}
	log     wire.LogChunk
	panics  any
}

func (a *agents) Boot(_ context.Context, token string, req wire.BootRequest) (wire.BootResponse, error) {
	if a.hold != nil {
		a.entered <- struct{}{}
		<-a.hold
		return wire.BootResponse{}, a.err
	}
	if a.panics != nil {
		panic(a.panics)
	}
	a.token, a.boot = token, req
	return wire.BootResponse{Runner: "r-1", JITConfig: "jit"}, a.err
}
func (a *agents) Report(_ context.Context, token string, r wire.Report) (wire.Answer, error) {
	a.token = token
	return wire.Answer{Command: wire.CommandDrain, Reason: string(r.Phase)}, a.err
}
func (a *agents) Log(_ context.Context, token string, c wire.LogChunk) (wire.Answer, error) {
	a.token, a.log = token, c
	return wire.Answer{}, a.err
}

type jobLogs map[int64]string

func (l jobLogs) JobLog(_ context.Context, app, repository string, id int64) (io.ReadCloser, error) {
	text, ok := l[id]
	if !ok {
		return nil, muster.Errorf(muster.CodeNotFound, "GitHub keeps no log of job %d of %s", id, repository)
	}
	return io.NopCloser(strings.NewReader(app + ":" + text)), nil
}

type monitor api.Health

func (m monitor) Health(context.Context, string) (api.Health, error) { return api.Health(m), nil }

type counter struct {
	mu    sync.Mutex
	calls []string
}

func (c *counter) Called(procedure, code string, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, procedure+" "+code)
}

// world is an API over fakes, served for real.
type world struct {
	store    *store
	commands *commands
	agents   *agents
	counter  *counter
	log      *bytes.Buffer
	url      string

	pools         musterv1connect.PoolServiceClient
	runners       musterv1connect.RunnerServiceClient
	jobs          musterv1connect.JobServiceClient
	deliveries    musterv1connect.DeliveryServiceClient
	usage         musterv1connect.UsageServiceClient
	installations musterv1connect.InstallationServiceClient
	system        musterv1connect.SystemServiceClient
	runs          musterv1connect.RunServiceClient
	senses        musterv1connect.SenseServiceClient
	machines      musterv1connect.MachineServiceClient
	providers     musterv1connect.ProviderServiceClient
	traces        musterv1connect.TraceServiceClient
}

func newWorld(t *testing.T, change func(*api.Config, *world), opts ...connect.ClientOption) *world {
	w := &world{store: fixture(), agents: &agents{}, counter: &counter{}, log: &bytes.Buffer{}}
	w.commands = &commands{store: w.store}
	cfg := api.Config{
		Store: w.store, Commands: w.commands, Agents: w.agents, JobLogs: jobLogs{101: "first line\n" + strings.Repeat("x", 100<<10)},
		Monitor: monitor{Problems: []string{"App main: permission checks: write is needed"}, Since: t0, Budgets: []api.Budget{{App: "main", Account: "octo", Limit: 5000, Remaining: 4321, ResetAt: t0}}},
		Version: "v1.2.3", Observer: w.counter, Logger: slog.New(slog.NewTextHandler(w.log, nil)), Now: func() time.Time { return t0 },
	}
	if change != nil {
		change(&cfg, w)
	}
	srv := httptest.NewServer(api.New(cfg).Handler())
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.pools = musterv1connect.NewPoolServiceClient(srv.Client(), srv.URL, opts...)
	w.runners = musterv1connect.NewRunnerServiceClient(srv.Client(), srv.URL, opts...)
	w.jobs = musterv1connect.NewJobServiceClient(srv.Client(), srv.URL, opts...)
	w.deliveries = musterv1connect.NewDeliveryServiceClient(srv.Client(), srv.URL, opts...)
	w.usage = musterv1connect.NewUsageServiceClient(srv.Client(), srv.URL, opts...)
	w.installations = musterv1connect.NewInstallationServiceClient(srv.Client(), srv.URL, opts...)
	w.system = musterv1connect.NewSystemServiceClient(srv.Client(), srv.URL, opts...)
	w.runs = musterv1connect.NewRunServiceClient(srv.Client(), srv.URL, opts...)
	w.machines = musterv1connect.NewMachineServiceClient(srv.Client(), srv.URL, opts...)
	w.providers = musterv1connect.NewProviderServiceClient(srv.Client(), srv.URL, opts...)
	w.senses = musterv1connect.NewSenseServiceClient(srv.Client(), srv.URL, opts...)
	w.traces = musterv1connect.NewTraceServiceClient(srv.Client(), srv.URL, opts...)
	return w
}

// fixture is a workspace with one pool, two runners and four jobs.
func fixture() *store {
	pool := muster.Pool{
		Name: "linux", App: "main", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo"}, Labels: muster.Labels{"muster"},
		Provider: "local", Offering: "small", Enabled: true, Repositories: []string{"octo/app"},
	}.WithDefaults()
	job := func(id int64, state muster.JobState, age time.Duration) muster.Job {
		return muster.Job{
			Key: muster.JobKey{ID: id, Attempt: 1}, Workspace: "default", App: "main", Repository: "octo/app", RunID: 7, Workflow: "ci", Name: fmt.Sprint("build-", id),
			Labels: muster.Labels{"muster", "self-hosted"}, State: state, Pool: "linux", CreatedAt: t0.Add(-age), SeenAt: t0.Add(-age + time.Second),
		}
	}
	done := job(101, muster.JobCompleted, time.Hour)
	done.StartedAt, done.CompletedAt = done.CreatedAt.Add(10*time.Second), done.CreatedAt.Add(70*time.Second)
	done.Conclusion, done.Runner, done.RunnerName = "success", "r-old", "linux-old"
	running := job(102, muster.JobInProgress, 30*time.Minute)
	running.StartedAt, running.Runner, running.RunnerName = running.CreatedAt.Add(5*time.Second), "r-busy", "linux-busy"
	queued, later := job(103, muster.JobQueued, 20*time.Minute), job(104, muster.JobQueued, 10*time.Minute)
	old := muster.Runner{
		ID: "r-old", Workspace: "default", Pool: "linux", Name: "linux-old", Provider: "local", Offering: "small", State: muster.RunnerDestroyed, Reason: "job 101 finished",
		Job: done.Key, CreatedAt: done.SeenAt.Add(time.Second), LaunchedAt: done.SeenAt.Add(2 * time.Second), ConnectedAt: done.SeenAt.Add(3 * time.Second),
		ListeningAt: done.SeenAt.Add(4 * time.Second), ActiveAt: done.StartedAt, FinishedAt: done.CompletedAt.Add(time.Second), DestroyedAt: done.CompletedAt.Add(2 * time.Second),
	}
	busy := muster.Runner{ID: "r-busy", Workspace: "default", Pool: "linux", Name: "linux-busy", Provider: "local", Offering: "small", State: muster.RunnerActive, Busy: true, Job: running.Key, GitHubID: 9, CreatedAt: running.SeenAt}
	snap := muster.Snapshot{
		Pool:    pool,
		Jobs:    []muster.PlanJob{{ID: 102, State: muster.JobInProgress, QueuedAt: running.CreatedAt}, {ID: 103, State: muster.JobQueued, QueuedAt: queued.CreatedAt}, {ID: 104, State: muster.JobQueued, QueuedAt: later.CreatedAt}},
		Runners: []muster.PlanRunner{{ID: "r-busy", State: muster.RunnerActive, Busy: true, CreatedAt: busy.CreatedAt}},
	}
	decide := func(id int64, at time.Time, action muster.ScalingAction, create int, reason string) muster.DecisionRecord {
		d := muster.Decision{Rule: "formula", Create: create}
		d.Action, d.Target, d.Current, d.Reason = action, create, 0, reason
		return muster.DecisionRecord{ID: id, Workspace: "default", Pool: "linux", At: at, LastAt: at, Count: 1, Decision: d, Snapshot: snap}
	}
	first := decide(1, done.SeenAt.Add(500*time.Millisecond), muster.ScaleUp, 1, "1 pending job, 0 runners")
	first.Runners = []muster.Runner{old}
	return &store{
		workspace: "default", pools: []muster.Pool{pool},
		offerings: []muster.Offering{{Name: "small", CPUs: 2, MemoryMiB: 4096, Image: "ghcr.io/octo/ci:1", PriceMicroUSD: 8000}},
		snapshots: map[string]muster.Snapshot{"linux": snap},
		decisions: []muster.DecisionRecord{decide(2, t0.Add(-time.Minute), muster.Maintain, 0, "at max"), first},
		runners:   []muster.Runner{busy, old},
		events:    map[muster.RunnerID][]muster.RunnerEvent{"r-old": {{At: old.CreatedAt, State: muster.RunnerProvisioning, Note: "asked for"}, {At: old.DestroyedAt, State: muster.RunnerDestroyed}}},
		logs:      map[muster.RunnerID]string{"r-old": "Listening for Jobs\n"},
		jobs:      []muster.Job{later, queued, running, done},
		sightings: map[muster.JobKey][]muster.Sighting{done.Key: {{Sense: muster.SenseWebhook, State: muster.JobQueued, At: done.SeenAt, Delivery: "guid-1"}, {Sense: muster.SensePoll, State: muster.JobCompleted, At: done.CompletedAt}}},
		receipts: []muster.Receipt{{Job: done.Key, Workspace: "default", Pool: "linux", Repository: "octo/app", Workflow: "ci", JobName: done.Name, Runner: "r-old", Conclusion: "success",
			Queue: 10 * time.Second, Boot: 4 * time.Second, Idle: time.Second, Run: time.Minute, Billed: time.Minute, PriceMicroUSD: 8000, CostMicroUSD: 8000, CompletedAt: done.CompletedAt}},
		wastes: []muster.Waste{{Runner: "r-gone", Workspace: "default", Pool: "linux", Reason: "no job within 2m0s", Lived: 2 * time.Minute, CostMicroUSD: 16000, At: t0}},
		rows:   []api.UsageRow{{Key: "ci", Jobs: 1, Succeeded: 1, QueueP50: 10 * time.Second, QueueP90: 10 * time.Second, Run: time.Minute, Billed: time.Minute, CostMicroUSD: 8000}},
		deliveries: []muster.Delivery{
			{GUID: "guid-2", App: "main", Event: "push", Outcome: "counted", Seq: 2, ReceivedAt: t0, Body: []byte(`{}`)},
			{GUID: "guid-1", App: "main", Event: "workflow_job", Action: "queued", Outcome: "job queued", Seq: 1, ReceivedAt: t0, Headers: map[string]string{"X-Github-Event": "workflow_job"}, Body: []byte("{\"action\": \"queued\"}\n")},
		},
		installs: []muster.Installation{
			{ID: 5, App: "main", Workspace: "default", Account: "octo", AccountType: "Organization", State: "active", UpdatedAt: t0},
			{ID: 6, App: "main", Workspace: "default", Account: "acme", AccountType: "Organization", State: "suspended", UpdatedAt: t0},
		},
		watched: make(chan struct{}, 1),
	}
}

func codeOf(err error) connect.Code {
	if err == nil {
		return 0
	}
	return connect.CodeOf(err)
}

// meta is a header of a refusal.
func meta(err error, name string) string {
	var e *connect.Error
	if ok := asConnect(err, &e); !ok {
		return ""
	}
	return cmp.Or(e.Meta().Get(name))
}

func asConnect(err error, into **connect.Error) bool {
	for err != nil {
		if e, ok := err.(*connect.Error); ok { //nolint:errorlint // it unwraps by itself
			*into = e
			return true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		err = u.Unwrap()
	}
	return false
}
