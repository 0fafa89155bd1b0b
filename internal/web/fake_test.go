package web_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/web"
)

// fakeNow is when the fake world stands still.
var fakeNow = time.Date(2026, 5, 6, 14, 32, 10, 0, time.UTC)

// fake is a small organization's day: four pools, a few hundred jobs, one
// finding of the sweep. It is the same on every run.
type fake struct {
	mu         sync.Mutex
	jobs       []muster.Job // newest first
	runners    map[muster.RunnerID]muster.Runner
	events     map[muster.RunnerID][]web.RunnerEvent
	pools      []web.PoolView
	decisions  []web.DecisionRecord
	deliveries []muster.Delivery
	receipts   map[muster.JobKey]muster.Receipt
	wastes     []muster.Waste
	spendings  []web.ProjectSpending
	findingsOf []web.Finding
	health     web.Health
	machines   map[muster.MachineID]web.MachineView
	answer     muster.MachineAnswer // to wishes about machines
	tr         fakeTraces
	commands   []string
	subs       map[chan muster.Change]bool
	broken     error // returned by every read while set
}

var _ web.Reads = (*fake)(nil)

func hours(h float64) time.Duration { return time.Duration(h * float64(time.Hour)) }

func newFake() *fake {
	f := emptyFake()
	f.addPools()
	f.addJobs()
	f.addDecisions()
	f.addDeliveries()
	f.findingsOf = []web.Finding{
		{At: fakeNow.Add(-3 * time.Hour), Kind: "ghost_registration", Subject: "linux-large-4tq2hz7k", Action: "registration removed: its machine was gone for 12m"},
		{At: fakeNow.Add(-26 * time.Hour), Kind: "leaked_instance", Subject: "r-7xk2m4bq / pid 48213", Action: "machine destroyed: no runner of ours owns it"},
	}
	f.health = web.Health{
		Jobs: 18204, Since: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC),
		Providers: []web.ProviderHealth{
			{Name: "process", Kind: "process", OK: true, Detail: "build-host-2, 64 cores", Instances: 9, Max: 20, CheckedAt: fakeNow.Add(-40 * time.Second)},
			{Name: "podman", Kind: "container", OK: true, Detail: "podman 5.4 on build-host-3", Instances: 4, Max: 40, CheckedAt: fakeNow.Add(-40 * time.Second)},
			{Name: "slurm", Kind: "slurm", Detail: "partition gpu: 3 of 4 nodes are drained", Instances: 2, CheckedAt: fakeNow.Add(-65 * time.Second)},
		},
		Budgets: []web.Budget{
			{App: "muster", Account: "acme", Limit: 12500, Remaining: 11218, ResetAt: fakeNow.Add(23 * time.Minute), PerMinute: 34.6, PollStretch: 1, Lanes: []web.BudgetLane{{Lane: "critical", Calls: 812}, {Lane: "background", Calls: 4000}}},
			{App: "muster", Account: "acme-labs", Limit: 5000, Remaining: 2391, ResetAt: fakeNow.Add(41 * time.Minute), PerMinute: 88.2, Forecast: fakeNow.Add(27 * time.Minute), PollStretch: 5, Lanes: []web.BudgetLane{{Lane: "critical", Calls: 90}, {Lane: "background", Calls: 2600, Parked: 41}}},
		},
	}
	f.addTraces()
	f.spendings = []web.ProjectSpending{
		spending(muster.CostBudget{Project: "storefront", MonthMicroUSD: 900_000_000, WarnPercent: 80, LowerPercent: 95, StopPercent: 110}, 612_400_000),
		spending(muster.CostBudget{Project: "vision", MonthMicroUSD: 400_000_000, WarnPercent: 80, StopPercent: 100}, 371_900_000),
	}
	return f
}

func spending(b muster.CostBudget, spent int64) web.ProjectSpending {
	return web.ProjectSpending{CostBudget: b, Spending: b.Spend(spent)}
}

func emptyFake() *fake {
	return &fake{runners: map[muster.RunnerID]muster.Runner{}, events: map[muster.RunnerID][]web.RunnerEvent{}, receipts: map[muster.JobKey]muster.Receipt{}, subs: map[chan muster.Change]bool{}}
}

// addKept adds two pools that share a machine which is up, and one whose machine its
// platform does not start. The world without them is what the other tests count.
func (f *fake) addKept() *fake {
	kept := func(name, repo, machine string) muster.Pool {
		p := muster.Pool{
			Name: name, App: "muster", Enabled: true, Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "acme", Repo: repo}, Labels: muster.Labels{"self-hosted", "gpu"}, Provider: "cloud", Zone: "us-central1-a",
			Machine: machine, Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered, InactiveMinutes: 15,
		}.WithDefaults()
		f.pools = append(f.pools, web.PoolView{Pool: p})
		return p
	}
	vision, ledger, mobile := kept("gpu-box-vision", "vision", "gpu-box"), kept("gpu-box-ledger", "ledger", "gpu-box"), kept("build-box", "mobile", "build-box")
	running := f.newJob(rand.New(rand.NewPCG(1, 2)), 6, 61_000_000_000, fakeNow.Add(-9*time.Minute))
	running.Pool, running.State, running.StartedAt, running.RunnerName = vision.Name, muster.JobInProgress, fakeNow.Add(-8*time.Minute), "gpu-box"
	waits := f.newJob(rand.New(rand.NewPCG(1, 3)), 5, 61_000_000_001, fakeNow.Add(-3*time.Minute))
	waits.Pool = mobile.Name
	f.jobs = append([]muster.Job{waits, running}, f.jobs...)
	f.machines = map[muster.MachineID]web.MachineView{
		vision.MachineID(): {
			Machine: muster.Machine{ID: vision.MachineID(), Status: muster.MachineRunning, StatusAt: fakeNow.Add(-20 * time.Second), StartedAt: fakeNow.Add(-48 * time.Minute), UpAt: fakeNow.Add(-47 * time.Minute), DoneAt: fakeNow.Add(-26 * time.Minute),
				Work: muster.WorkBusy, WorkAt: fakeNow.Add(-40 * time.Second), AskedAt: fakeNow.Add(-40 * time.Second), Deadline: fakeNow.Add(20 * time.Second), StopAsked: fakeNow.Add(-40 * time.Second),
				Labels: map[string]muster.Labels{vision.Name: {"self-hosted", "Linux", "X64", "gpu"}}, Reason: "job 61000000000 of acme/vision runs on it"},
			Demand: muster.MachineDemand{Pools: []muster.Pool{vision, ledger}, Running: []muster.Job{running}},
		},
		mobile.MachineID(): {
			Machine: muster.Machine{ID: mobile.MachineID(), Status: muster.MachineTerminated, StatusAt: fakeNow.Add(-4 * time.Second), StartedAt: fakeNow.Add(-hours(6)), UpAt: fakeNow.Add(-hours(6)), StoppedAt: fakeNow.Add(-hours(5)), DoneAt: fakeNow.Add(-hours(5.3)),
				Refusal: "ZONE_RESOURCE_POOL_EXHAUSTED: the zone us-central1-a does not have enough resources", Refusals: 5, RefusedAt: fakeNow.Add(-15 * time.Second), Reason: "the platform refused 5 times in a row"},
			Demand: muster.MachineDemand{Pools: []muster.Pool{mobile}, Queued: []muster.Job{waits}},
		},
	}
	return f
}

func (f *fake) addPools() {
	add := func(p muster.Pool, o muster.Offering, overridden bool) {
		p.Offering = o.Name
		p.Enabled = p.Name != "windows-trial"
		p.App = "muster"
		p.Scope = muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}
		f.pools = append(f.pools, web.PoolView{Pool: p.WithDefaults(), Offer: o, Overridden: overridden})
	}
	add(muster.Pool{Name: "linux-small", Egress: muster.Egress{Mode: "learn", Allow: []string{"registry.npmjs.org:443", "nodejs.org:443"}}, Labels: muster.Labels{"linux-small"}, Provider: "process", Scaling: muster.Scaling{MinRunners: 2, MaxRunners: 12, JobsPerRunner: 1}},
		muster.Offering{Name: "small", CPUs: 2, MemoryMiB: 8192, PriceMicroUSD: 6000}, false)
	add(muster.Pool{Name: "linux-large", Labels: muster.Labels{"linux-large"}, Provider: "podman", Scaling: muster.Scaling{MaxRunners: 6, JobsPerRunner: 1},
		JobWait: 20 * time.Second, Overflow: muster.Overflow{Pool: "gpu-a100", After: 10 * time.Minute}, Schedules: []muster.Schedule{{Cron: "0 8 * * 1-5", TimeZone: "Europe/Berlin", For: 10 * time.Hour, MinRunners: new(2)}},
		Quotas: []muster.Quota{{Name: "mobile", Repositories: []string{"acme/mobile"}, MaxRunners: 2}}, Canary: muster.Canary{Offering: "large-next", Percent: 10, MaxFailures: 3}},
		muster.Offering{Name: "large", CPUs: 16, MemoryMiB: 65536, PriceMicroUSD: 42000}, true)
	add(muster.Pool{Name: "gpu-a100", Labels: muster.Labels{"gpu", "a100"}, Provider: "slurm", Scaling: muster.Scaling{MaxRunners: 4, JobsPerRunner: 1, Cooldown: 5 * time.Minute}},
		muster.Offering{Name: "a100", CPUs: 12, MemoryMiB: 131072, GPUs: 1, PriceMicroUSD: 55000}, false)
	add(muster.Pool{Name: "windows-trial", Labels: muster.Labels{"windows"}, Provider: "podman", Scaling: muster.Scaling{MaxRunners: 2, JobsPerRunner: 1}},
		muster.Offering{Name: "win", CPUs: 4, MemoryMiB: 16384, PriceMicroUSD: 12000}, false)
}

// kinds of job that the organization runs.
var kinds = []struct {
	repo, workflow, name, pool string
	labels                     muster.Labels
	run                        time.Duration
	weight                     int
}{
	{"acme/storefront", "CI", "test (node 22)", "linux-small", muster.Labels{"self-hosted", "linux-small"}, 3 * time.Minute, 8},
	{"acme/storefront", "CI", "lint", "linux-small", muster.Labels{"self-hosted", "linux-small"}, 50 * time.Second, 8},
	{"acme/storefront", "Deploy", "deploy to staging", "linux-small", muster.Labels{"linux-small"}, 2 * time.Minute, 2},
	{"acme/ledger", "build", "integration (postgres)", "linux-large", muster.Labels{"self-hosted", "linux-large"}, 11 * time.Minute, 4},
	{"acme/ledger", "build", "unit", "linux-small", muster.Labels{"linux-small"}, 95 * time.Second, 6},
	{"acme/mobile", "Release", "assemble (arm64)", "linux-large", muster.Labels{"linux-large"}, 17 * time.Minute, 2},
	{"acme/vision", "train-smoke", "evaluate resnet-50", "gpu-a100", muster.Labels{"self-hosted", "gpu", "a100"}, 24 * time.Minute, 1},
}

func (f *fake) addJobs() {
	rng := rand.New(rand.NewPCG(7, 11))
	var deck []int
	for i, k := range kinds {
		for range k.weight {
			deck = append(deck, i)
		}
	}
	id := int64(51_204_880_000)
	at := fakeNow.Add(-24 * time.Hour)
	for at.Before(fakeNow.Add(-9 * time.Minute)) {
		busy := 1.0
		if h := at.Hour(); h < 6 || h > 20 {
			busy = 5
		}
		at = at.Add(time.Duration(rng.ExpFloat64() * busy * float64(3*time.Minute)))
		id += 1 + int64(rng.IntN(4000))
		f.addDone(rng, deck[rng.IntN(len(deck))], id, at)
	}
	f.addActive(rng, id)
	slices.SortFunc(f.jobs, func(a, b muster.Job) int { return cmp.Compare(b.Key.ID, a.Key.ID) })
}

func (f *fake) newJob(rng *rand.Rand, kind int, id int64, at time.Time) muster.Job {
	k := kinds[kind]
	branches := []string{"main", "main", "fix/rounding", "feat/checkout-v2", "dependabot/npm_and_yarn/vite-7", "release/2026.5"}
	return muster.Job{
		Key: muster.JobKey{ID: id, Attempt: 1}, Workspace: "default", App: "muster", Repository: k.repo, RunID: 15_800_000_000 + at.Unix()/300,
		Workflow: k.workflow, Name: k.name, HeadBranch: branches[rng.IntN(len(branches))], HeadSHA: fmt.Sprintf("%016x%016x%08x", rng.Uint64(), rng.Uint64(), rng.Uint32()),
		URL: fmt.Sprintf("https://github.com/%s/actions/runs/%d/job/%d", k.repo, 15_800_000_000+at.Unix()/300, id), Labels: k.labels,
		State: muster.JobQueued, Pool: k.pool, CreatedAt: at, SeenAt: at.Add(400 * time.Millisecond), TraceID: fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()),
	}
}

func (f *fake) newRunner(rng *rand.Rand, pool string, at time.Time) muster.Runner {
	var random [10]byte
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	id := muster.NewRunnerID(random)
	p := f.findPool(pool)
	return muster.Runner{
		ID: id, Workspace: "default", Pool: pool, Name: muster.RegistrationName(pool, id, 0), Provider: p.Provider, Offering: p.Offering,
		Instance: fmt.Sprintf("%s-%d", p.Provider, 40_000+rng.IntN(9999)), GitHubID: int64(9000 + rng.IntN(999)), State: muster.RunnerProvisioning, CreatedAt: at,
		TraceID: fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()),
	}
}

func (f *fake) findPool(name string) muster.Pool {
	for _, p := range f.pools {
		if p.Name == name {
			return p.Pool
		}
	}
	return muster.Pool{}
}

// boots is how long each provider takes from launch to listening.
var boots = map[string]time.Duration{"process": 4 * time.Second, "podman": 9 * time.Second, "slurm": 75 * time.Second}

func (f *fake) addDone(rng *rand.Rand, kind int, id int64, at time.Time) {
	j := f.newJob(rng, kind, id, at)
	k := kinds[kind]
	spread := func(d time.Duration) time.Duration { return time.Duration(float64(d) * (0.6 + 0.9*rng.Float64())) }
	wait := 600*time.Millisecond + time.Duration(rng.ExpFloat64()*float64(2*time.Second))
	if k.pool != "linux-small" && rng.IntN(5) == 0 {
		wait += time.Duration(rng.ExpFloat64() * float64(70*time.Second))
	}
	r := f.newRunner(rng, k.pool, at.Add(wait))
	r.LaunchedAt = r.CreatedAt.Add(spread(300 * time.Millisecond))
	r.ConnectedAt = r.LaunchedAt.Add(spread(boots[r.Provider] / 2))
	r.ListeningAt = r.ConnectedAt.Add(spread(boots[r.Provider] / 2))
	j.State, j.Conclusion = muster.JobCompleted, "success"
	j.StartedAt = r.ListeningAt.Add(spread(1500 * time.Millisecond))
	j.CompletedAt = j.StartedAt.Add(spread(k.run))
	if j.CompletedAt.After(fakeNow.Add(-8 * time.Second)) {
		return
	}
	j.Runner, j.RunnerName = r.ID, r.Name
	switch n := rng.IntN(40); {
	case n < 3:
		j.Conclusion = "failure"
	case n == 3:
		j.Conclusion = "cancelled"
	}
	j.Steps = f.steps(j, fakeNow)
	r.State, r.Job, r.ActiveAt, r.FinishedAt, r.HeartbeatAt = muster.RunnerDestroyed, j.Key, j.StartedAt, j.CompletedAt, j.CompletedAt
	r.DestroyedAt = j.CompletedAt.Add(spread(3 * time.Second))
	r.Reason = fmt.Sprintf("job %d finished", id)
	f.runners[r.ID] = r
	f.jobs = append(f.jobs, j)
	price := f.offering(k.pool).PriceMicroUSD
	run := j.CompletedAt.Sub(j.StartedAt)
	billed := run.Truncate(time.Minute) + time.Minute
	f.receipts[j.Key] = muster.Receipt{
		Job: j.Key, Workspace: "default", Project: "platform", Pool: k.pool, Repository: k.repo, Workflow: k.workflow, JobName: k.name, Runner: r.ID,
		Offering: r.Offering, Conclusion: j.Conclusion, Queue: j.StartedAt.Sub(j.CreatedAt), Boot: r.ListeningAt.Sub(r.CreatedAt), Idle: j.StartedAt.Sub(r.ListeningAt),
		Run: run, Billed: billed, PriceMicroUSD: price, CostMicroUSD: price * int64(billed/time.Minute), CompletedAt: j.CompletedAt, WrittenAt: r.DestroyedAt.Add(200 * time.Millisecond),
	}
	if rng.IntN(30) == 0 {
		f.wastes = append(f.wastes, muster.Waste{Runner: "r-" + muster.RunnerID(fmt.Sprint(id)), Pool: k.pool, Reason: "no job within 2m0s", CostMicroUSD: 3 * price, At: j.CompletedAt})
	}
}

func (f *fake) offering(pool string) muster.Offering {
	for _, p := range f.pools {
		if p.Name == pool {
			return p.Offer
		}
	}
	return muster.Offering{}
}

// steps splits a job's run into steps; those after until have not begun.
func (f *fake) steps(j muster.Job, until time.Time) []muster.Step {
	parts := []struct {
		name  string
		share float64
	}{{"Set up job", .02}, {"Run actions/checkout@v5", .05}, {"Install dependencies", .28}, {"Run tests", .55}, {"Upload artifacts", .07}, {"Complete job", .03}}
	whole := 3 * time.Minute
	if !j.CompletedAt.IsZero() {
		whole = j.CompletedAt.Sub(j.StartedAt)
	}
	at := j.StartedAt
	var out []muster.Step
	for i, p := range parts {
		st := muster.Step{Number: i + 1, Name: p.name, Status: "queued"}
		end := at.Add(time.Duration(p.share * float64(whole)))
		if at.Before(until) {
			st.Status, st.StartedAt = "in_progress", at
			if !end.After(until) {
				st.Status, st.CompletedAt, st.Conclusion = "completed", end, "success"
			}
		}
		if p.name == "Run tests" && j.Conclusion == "failure" {
			st.Conclusion = "failure"
		}
		if p.name == "Upload artifacts" && j.Conclusion == "failure" {
			st.Conclusion, st.CompletedAt, end = "skipped", st.StartedAt, at
		}
		out = append(out, st)
		at = end
	}
	return out
}

// addActive adds what is queued and running now.
func (f *fake) addActive(rng *rand.Rand, id int64) {
	running := func(kind int, ago time.Duration) {
		id += 700
		j := f.newJob(rng, kind, id, fakeNow.Add(-ago))
		r := f.newRunner(rng, j.Pool, j.CreatedAt.Add(900*time.Millisecond))
		boot := boots[r.Provider]
		r.LaunchedAt, r.ConnectedAt, r.ListeningAt = r.CreatedAt.Add(200*time.Millisecond), r.CreatedAt.Add(boot/2), r.CreatedAt.Add(boot)
		j.State, j.StartedAt, j.Runner, j.RunnerName = muster.JobInProgress, r.ListeningAt.Add(1200*time.Millisecond), r.ID, r.Name
		j.Steps = f.steps(j, fakeNow)
		r.State, r.Busy, r.Job, r.ActiveAt, r.HeartbeatAt = muster.RunnerActive, true, j.Key, j.StartedAt, fakeNow.Add(-3*time.Second)
		r.Reason = "took job " + fmt.Sprint(id)
		f.jobs = append(f.jobs, j)
		f.runners[r.ID] = r
	}
	queued := func(kind int, ago time.Duration) {
		id += 500
		f.jobs = append(f.jobs, f.newJob(rng, kind, id, fakeNow.Add(-ago)))
	}
	running(6, 14*time.Minute)
	queued(6, 6*time.Minute+20*time.Second)
	running(3, 5*time.Minute)
	running(5, 4*time.Minute)
	waiting := f.newJob(rng, 2, id+1, fakeNow.Add(-3*time.Minute))
	waiting.State, waiting.Name = muster.JobWaiting, "deploy to production"
	f.jobs = append(f.jobs, waiting)
	running(0, 2*time.Minute)
	running(4, 70*time.Second)
	running(0, 55*time.Second)
	running(1, 30*time.Second)
	queued(3, 4*time.Second)
	queued(0, 2*time.Second)
	for i, s := range []muster.RunnerState{muster.RunnerRegistered, muster.RunnerRegistered, muster.RunnerProvisioning, muster.RunnerProvisioning, muster.RunnerDraining} {
		pool := []string{"linux-small", "linux-small", "linux-large", "linux-small", "linux-small"}[i]
		r := f.newRunner(rng, pool, fakeNow.Add(-time.Duration(90-20*i)*time.Second))
		r.State, r.Warm, r.Reason = s, i < 2, []string{"for the pool's minimum", "for the pool's minimum", "for a queued job", "for a queued job", "no job within 2m0s"}[i]
		if s != muster.RunnerProvisioning {
			r.LaunchedAt, r.ConnectedAt, r.ListeningAt, r.HeartbeatAt = r.CreatedAt.Add(300*time.Millisecond), r.CreatedAt.Add(2*time.Second), r.CreatedAt.Add(4*time.Second), fakeNow.Add(-2*time.Second)
		}
		f.runners[r.ID] = r
	}
}

func (f *fake) addDecisions() {
	add := func(ago time.Duration, pool string, d muster.Decision, count int) {
		snap, _ := f.PoolSnapshot(context.Background(), pool)
		at := fakeNow.Add(-ago)
		for _, j := range snap.Jobs {
			d.Metrics.TotalJobs++
			if j.State == muster.JobQueued {
				d.Metrics.QueuedJobs++
				d.Metrics.PendingJobs++
			} else {
				d.Metrics.InProgressJobs++
			}
		}
		f.decisions = append(f.decisions, web.DecisionRecord{ID: int64(900 - len(f.decisions)), Pool: pool, At: at, LastAt: at, Count: count, Snapshot: snap, Decision: d})
	}
	dec := func(a muster.ScalingAction, cur, target int, rule, reason string) muster.Decision {
		return muster.Decision{ScalingDecision: muster.ScalingDecision{Action: a, Current: cur, Target: target, Reason: reason}, Rule: rule, Create: max(0, target-cur)}
	}
	add(2*time.Second, "linux-small", dec(muster.ScaleUp, 7, 8, "formula", "1 queued job is not covered by an idle or starting runner: 7 runners become 8, of at most 12"), 1)
	add(4*time.Second, "linux-large", dec(muster.ScaleUp, 2, 3, "formula", "1 queued job is not covered: 2 runners become 3, of at most 6"), 1)
	add(50*time.Second, "gpu-a100", dec(muster.Maintain, 1, 1, "cooldown", "1 job is queued, but the last scaling was 4m 10s ago and the cooldown is 5m 0s; decided again in 50s"), 14)
	add(2*time.Minute, "linux-small", dec(muster.ScaleDown, 8, 7, "formula", "3 idle runners for a minimum of 2 and nothing queued: the oldest idle runner goes home"), 1)
	add(6*time.Minute, "linux-small", dec(muster.Maintain, 6, 6, "formula", "4 jobs run on 4 of 6 runners, 2 idle ones are the minimum: nothing to do"), 31)
	add(9*time.Minute, "linux-large", dec(muster.ScaleUp, 1, 2, "starvation", "job 51204990112 has waited 1m 40s, longer than 1m 0s: one runner beyond the formula"), 1)
	add(hours(2), "windows-trial", dec(muster.Maintain, 0, 0, "disabled", "the pool is disabled"), 204)
}

func (f *fake) addDeliveries() {
	seq := int64(88_000)
	add := func(at time.Time, event, action string, body any, outcome string) *muster.Delivery {
		seq++
		raw, _ := json.Marshal(body)
		guid := fmt.Sprintf("%08x-4a51-11f1-9d0a-%012x", 0x6b2f0000+seq, seq*7919)
		f.deliveries = append(f.deliveries, muster.Delivery{
			GUID: guid, App: "muster", Event: event, Action: action, Body: raw, Sense: muster.SenseWebhook, ReceivedAt: at, Seq: seq,
			DispatchedAt: at.Add(time.Duration(4+seq%9) * time.Millisecond), Outcome: outcome, TraceID: fmt.Sprintf("%032x", seq*104729),
			Headers: map[string]string{"X-Github-Event": event, "X-Github-Delivery": guid, "User-Agent": "GitHub-Hookshot/8d33975", "Content-Type": "application/json", "X-Github-Hook-Installation-Target-Type": "integration"},
		})
		return &f.deliveries[len(f.deliveries)-1]
	}
	add(fakeNow.Add(-25*time.Hour), "ping", "", map[string]any{"zen": "Keep it logically awesome."}, "counted")
	add(fakeNow.Add(-24*time.Hour), "installation", "created", map[string]any{"installation": map[string]any{"id": 4711, "account": map[string]any{"login": "acme"}}}, "installation active")
	for _, j := range slices.Backward(f.jobs[:120]) {
		body := func(action string) any {
			return map[string]any{"action": action, "workflow_job": map[string]any{"id": j.Key.ID, "run_id": j.RunID, "run_attempt": 1, "name": j.Name, "labels": j.Labels, "status": j.State, "head_branch": j.HeadBranch, "workflow_name": j.Workflow},
				"repository": map[string]any{"full_name": j.Repository, "private": true}}
		}
		add(j.CreatedAt.Add(380*time.Millisecond), "workflow_job", "queued", body("queued"), "job queued in "+j.Pool)
		if !j.StartedAt.IsZero() {
			add(j.StartedAt.Add(520*time.Millisecond), "workflow_job", "in_progress", body("in_progress"), "job started on "+j.RunnerName)
		}
		if !j.CompletedAt.IsZero() {
			add(j.CompletedAt.Add(610*time.Millisecond), "workflow_job", "completed", body("completed"), "job completed: "+j.Conclusion)
		}
	}
	d := add(fakeNow.Add(-11*time.Second), "workflow_job", "queued", map[string]any{"action": "queued", "workflow_job": map[string]any{"id": 1, "labels": []string{"ubuntu-latest"}}}, "ignored: no pool wants [ubuntu-latest]")
	d.Sense = muster.SenseRedelivery
	d = add(fakeNow.Add(-6*time.Second), "workflow_run", "requested", map[string]any{"action": "requested"}, "")
	d.DispatchedAt, d.Attempts, d.Error = time.Time{}, 2, "signal pool linux-small: the engine did not answer within 10s"
	slices.SortStableFunc(f.deliveries, func(a, b muster.Delivery) int { return b.ReceivedAt.Compare(a.ReceivedAt) })
	for i := range f.deliveries {
		f.deliveries[i].Seq = int64(90_000 - i)
	}
}

// Subscribe is a port of web.Config.
func (f *fake) Subscribe(ctx context.Context) <-chan muster.Change {
	ch := make(chan muster.Change, 64)
	f.mu.Lock()
	f.subs[ch] = true
	f.mu.Unlock()
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, ch)
		close(ch)
	})
	return ch
}

// change runs do and then tells every subscriber.
func (f *fake) change(c muster.Change, do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	for ch := range f.subs {
		select {
		case ch <- c:
		default:
		}
	}
}

func (f *fake) subscribers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

func (f *fake) lock() (func(), error) {
	f.mu.Lock()
	return f.mu.Unlock, f.broken
}

func (f *fake) Health(context.Context) (web.Health, error) {
	unlock, err := f.lock()
	defer unlock()
	return f.health, err
}

func (f *fake) JobCounts(context.Context) (map[muster.JobState]int, error) {
	unlock, err := f.lock()
	defer unlock()
	out := map[muster.JobState]int{}
	for _, j := range f.jobs {
		out[j.State]++
	}
	return out, err
}

func (f *fake) Jobs(_ context.Context, q web.JobQuery) ([]muster.Job, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []muster.Job
	for _, j := range f.jobs {
		words := strings.ToLower(fmt.Sprint(j.Name, j.Workflow, j.HeadBranch, j.Repository, j.RunnerName, j.Labels, j.Conclusion, j.Key.ID))
		switch {
		case len(q.States) > 0 && !slices.Contains(q.States, j.State):
		case q.Pool != "" && j.Pool != q.Pool:
		case q.Repository != "" && !strings.EqualFold(q.Repository, j.Repository):
		case q.RunID != 0 && j.RunID != q.RunID:
		case !strings.Contains(words, strings.ToLower(q.Text)):
		case q.Before > 0 && j.Key.ID >= q.Before:
		case len(out) < q.Limit:
			out = append(out, j)
		}
	}
	return out, err
}

func (f *fake) Job(_ context.Context, key muster.JobKey) (muster.Job, error) {
	unlock, err := f.lock()
	defer unlock()
	for _, j := range f.jobs {
		if j.Key.ID == key.ID && (key.Attempt == 0 || key.Attempt == j.Key.Attempt) {
			return j, err
		}
	}
	return muster.Job{}, muster.Errorf(muster.CodeNotFound, "there is no job %s", key)
}

func (f *fake) Sightings(ctx context.Context, key muster.JobKey) ([]web.Sighting, error) {
	j, err := f.Job(ctx, key)
	if err != nil {
		return nil, err
	}
	unlock, err := f.lock()
	defer unlock()
	out := []web.Sighting{{Sense: muster.SenseWebhook, State: muster.JobQueued, At: j.CreatedAt.Add(380 * time.Millisecond), Delivery: f.guidOf(j.Key.ID, "queued")}}
	if fakeNow.Sub(j.CreatedAt) > 30*time.Second {
		out = append(out, web.Sighting{Sense: muster.SensePoll, State: muster.JobQueued, At: j.CreatedAt.Add(22 * time.Second)})
	}
	if !j.StartedAt.IsZero() {
		out = append(out, web.Sighting{Sense: muster.SenseWebhook, State: muster.JobInProgress, At: j.StartedAt.Add(520 * time.Millisecond), Delivery: f.guidOf(j.Key.ID, "in_progress")})
	}
	if !j.CompletedAt.IsZero() {
		out = append(out, web.Sighting{Sense: muster.SenseWebhook, State: muster.JobCompleted, At: j.CompletedAt.Add(610 * time.Millisecond), Delivery: f.guidOf(j.Key.ID, "completed")})
	}
	return out, err
}

func (f *fake) guidOf(id int64, action string) string {
	for _, d := range f.deliveries {
		if d.Action == action && strings.Contains(string(d.Body), fmt.Sprintf(`"id":%d,`, id)) {
			return d.GUID
		}
	}
	return ""
}

func (f *fake) Explain(ctx context.Context, key muster.JobKey) ([]muster.Cause, error) {
	j, err := f.Job(ctx, key)
	if err != nil {
		return nil, err
	}
	switch {
	case j.State == muster.JobWaiting:
		return []muster.Cause{{Code: "waiting_approval", Text: "It waits for the approval of a deployment to production. Approve it on GitHub; it then gets a runner at once.", Since: j.CreatedAt}}, nil
	case j.Pool == "gpu-a100":
		return []muster.Cause{
			{Code: "provider_refusing", Text: "slurm refuses: partition gpu has 1 of 4 nodes in service, all allocated. Return nodes to service, or allow another partition.", Since: fakeNow.Add(-5 * time.Minute)},
			{Code: "cooldown", Text: "gpu-a100 was scaled 4m 10s ago and waits 5m 0s between changes; decided again in 50s.", Since: fakeNow.Add(-4*time.Minute - 10*time.Second)},
		}, nil
	}
	return []muster.Cause{{Code: "starting", Text: "A runner for it is starting: launched 2s ago, ready in about 3s.", Since: fakeNow.Add(-2 * time.Second)}}, nil
}

func (f *fake) Receipt(_ context.Context, key muster.JobKey) (muster.Receipt, error) {
	unlock, err := f.lock()
	defer unlock()
	if r, ok := f.receipts[key]; ok {
		return r, err
	}
	return muster.Receipt{}, muster.Errorf(muster.CodeNotFound, "job %s has no receipt", key)
}

func (f *fake) Receipts(_ context.Context, since, until time.Time, limit int) ([]muster.Receipt, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []muster.Receipt
	for _, r := range f.receipts {
		if !r.CompletedAt.Before(since) && r.CompletedAt.Before(until) && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, err
}

func (f *fake) Runners(_ context.Context, q web.RunnerQuery) ([]muster.Runner, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []muster.Runner
	for _, r := range f.runners {
		if (len(q.IDs) > 0 && !slices.Contains(q.IDs, r.ID)) || (len(q.States) > 0 && !slices.Contains(q.States, r.State)) ||
			(q.Pool != "" && r.Pool != q.Pool) || (q.Live && !r.State.Live()) {
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b muster.Runner) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out[:min(len(out), q.Limit)], err
}

func (f *fake) Runner(_ context.Context, id muster.RunnerID) (muster.Runner, error) {
	unlock, err := f.lock()
	defer unlock()
	if r, ok := f.runners[id]; ok {
		return r, err
	}
	return muster.Runner{}, muster.Errorf(muster.CodeNotFound, "there is no runner %q", id)
}

func (f *fake) RunnerEvents(ctx context.Context, id muster.RunnerID) ([]web.RunnerEvent, error) {
	r, err := f.Runner(ctx, id)
	if err != nil {
		return nil, err
	}
	out := f.events[id]
	add := func(at time.Time, s muster.RunnerState, note string) {
		if !at.IsZero() {
			out = append(out, web.RunnerEvent{At: at, State: s, Note: note})
		}
	}
	add(r.CreatedAt, muster.RunnerProvisioning, "decided")
	add(r.LaunchedAt, muster.RunnerProvisioning, r.Provider+" accepted: "+r.Instance)
	add(r.ConnectedAt, muster.RunnerProvisioning, "agent traded its boot token")
	add(r.ListeningAt, muster.RunnerRegistered, "Listening for Jobs")
	if r.Job.ID != 0 {
		add(r.ActiveAt, muster.RunnerActive, "took job "+r.Job.String())
	}
	add(r.FinishedAt, muster.RunnerDraining, r.Reason)
	add(r.DestroyedAt, muster.RunnerDestroyed, "proven gone")
	return out, nil
}

func (f *fake) RunnerLog(_ context.Context, id muster.RunnerID) ([]byte, error) {
	unlock, err := f.lock()
	defer unlock()
	r := f.runners[id]
	if r.ConnectedAt.IsZero() {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("\x1b[32m√\x1b[0m Connected to GitHub\n\nCurrent runner version: '2.334.0'\n")
	if !r.ListeningAt.IsZero() {
		fmt.Fprintf(&b, "%s: Listening for Jobs\n", r.ListeningAt.Format("2006-01-02 15:04:05Z"))
	}
	for _, j := range f.jobs {
		if j.Runner == id && !j.StartedAt.IsZero() {
			fmt.Fprintf(&b, "%s: Running job: %s\n", j.StartedAt.Format("2006-01-02 15:04:05Z"), j.Name)
			if !j.CompletedAt.IsZero() {
				fmt.Fprintf(&b, "%s: Job %s completed with result: %s\n", j.CompletedAt.Format("2006-01-02 15:04:05Z"), j.Name, map[string]string{"success": "Succeeded", "failure": "Failed", "cancelled": "Canceled"}[j.Conclusion])
			}
		}
	}
	return []byte(b.String()), err
}

func (f *fake) Pools(context.Context) ([]web.PoolView, error) {
	unlock, err := f.lock()
	defer unlock()
	return slices.Clone(f.pools), err
}

func (f *fake) PoolSnapshot(_ context.Context, pool string) (muster.Snapshot, error) {
	unlock, err := f.lock()
	defer unlock()
	s := muster.Snapshot{Pool: f.findPool(pool)}
	for _, j := range f.jobs {
		if j.Pool == pool && (j.State == muster.JobQueued || j.State == muster.JobInProgress) {
			s.Jobs = append(s.Jobs, muster.PlanJob{ID: j.Key.ID, State: j.State, QueuedAt: j.CreatedAt})
		}
	}
	for _, r := range f.runners {
		if r.Pool == pool && r.State.Live() {
			s.Runners = append(s.Runners, muster.PlanRunner{ID: r.ID, State: r.State, Busy: r.Busy, Warm: r.Warm, CreatedAt: r.CreatedAt})
		}
	}
	return s, err
}

func (f *fake) Machine(_ context.Context, id muster.MachineID) (web.MachineView, error) {
	unlock, err := f.lock()
	defer unlock()
	v := f.machines[id]
	v.ID = id
	return v, err
}

func (f *fake) Decisions(_ context.Context, pool string, limit int) ([]web.DecisionRecord, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []web.DecisionRecord
	for _, d := range f.decisions {
		if (pool == "" || d.Pool == pool) && len(out) < limit {
			out = append(out, d)
		}
	}
	return out, err
}

func (f *fake) Deliveries(_ context.Context, q web.DeliveryQuery) ([]muster.Delivery, error) {
	unlock, err := f.lock()
	defer unlock()
	var out []muster.Delivery
	for _, d := range f.deliveries {
		if (q.Event != "" && d.Event != q.Event) || !strings.Contains(d.Outcome, q.Outcome) || (q.Before > 0 && d.Seq >= q.Before) || len(out) == q.Limit {
			continue
		}
		d.Body = nil
		out = append(out, d)
	}
	return out, err
}

func (f *fake) Delivery(_ context.Context, guid string) (muster.Delivery, error) {
	unlock, err := f.lock()
	defer unlock()
	for _, d := range f.deliveries {
		if d.GUID == guid {
			return d, err
		}
	}
	return muster.Delivery{}, muster.Errorf(muster.CodeNotFound, "there is no delivery %q", guid)
}

// Usage repeats the fake's one day over the period, at a pace that differs by weekday.
func (f *fake) Usage(_ context.Context, q web.UsageQuery, by string) ([]web.UsageRow, error) {
	unlock, err := f.lock()
	defer unlock()
	rows := map[string]*web.UsageRow{}
	row := func(key string) *web.UsageRow {
		if rows[key] == nil {
			rows[key] = &web.UsageRow{Key: key, QueueP50: 6200 * time.Millisecond, QueueP90: time.Duration(14+len(key)) * time.Second}
		}
		return rows[key]
	}
	days := max(1, int(q.Until.Sub(q.Since)/(24*time.Hour))+1)
	for d := range days {
		day := q.Since.Add(time.Duration(d) * 24 * time.Hour)
		pace := []int{1, 6, 7, 8, 7, 6, 1}[day.Weekday()]
		for key, r := range f.receipts {
			if (q.Pool != "" && q.Pool != r.Pool) || (q.Repository != "" && q.Repository != r.Repository) || int(key.ID%8) >= pace {
				continue
			}
			u := row(map[string]string{"workflow": r.Repository + " · " + r.Workflow, "repository": r.Repository, "pool": r.Pool, "day": day.UTC().Format(time.DateOnly)}[by])
			u.Jobs++
			switch r.Conclusion {
			case "success":
				u.Succeeded++
			case "failure":
				u.Failed++
			default:
				u.Cancelled++
			}
			u.Run += r.Run
			u.Billed += r.Billed
			u.CostMicroUSD += r.CostMicroUSD
			if key.ID%29 == 0 {
				u.Wasted++
				u.WasteMicroUSD += 3 * r.PriceMicroUSD
			}
		}
	}
	var out []web.UsageRow
	for _, u := range rows {
		out = append(out, *u)
	}
	return out, err
}

func (f *fake) Decision(_ context.Context, id int64) (web.DecisionRecord, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return web.DecisionRecord{}, err
	}
	for _, d := range f.decisions {
		if d.ID == id {
			return d, nil
		}
	}
	return web.DecisionRecord{}, muster.Errorf(muster.CodeNotFound, "there is no decision %d", id)
}

func (f *fake) Wastes(_ context.Context, since, until time.Time, limit int) (out []muster.Waste, err error) {
	unlock, err := f.lock()
	defer unlock()
	for _, w := range f.wastes {
		if !w.At.Before(since) && w.At.Before(until) && len(out) < limit {
			out = append(out, w)
		}
	}
	return out, err
}

func (f *fake) Spendings(context.Context) ([]web.ProjectSpending, error) {
	unlock, err := f.lock()
	defer unlock()
	return slices.Clone(f.spendings), err
}

// Sensed tells that the webhook told everything but what it lost, which a poll
// or a redelivery brought.
func (f *fake) Sensed(_ context.Context, since, until time.Time) (out []muster.SensedJob, err error) {
	unlock, err := f.lock()
	defer unlock()
	for _, j := range f.jobs {
		if j.SeenAt.Before(since) || !j.SeenAt.Before(until) {
			continue
		}
		s := muster.SensedJob{Key: j.Key, App: j.App, Pool: j.Pool, SeenAt: j.SeenAt, QueuedAt: j.QueuedAt(), StartedAt: j.StartedAt, CompletedAt: j.CompletedAt}
		told := muster.Sighting{Sense: muster.SenseWebhook, State: muster.JobQueued, At: j.SeenAt}
		if j.Key.ID%23 == 0 {
			told.Sense, told.At = muster.SenseRedelivery, j.CreatedAt.Add(time.Duration(90+j.Key.ID%100)*time.Second)
		}
		s.Sightings = append(s.Sightings, told)
		if !j.CompletedAt.IsZero() {
			s.Sightings = append(s.Sightings, muster.Sighting{Sense: muster.SenseWebhook, State: muster.JobCompleted, At: j.CompletedAt.Add(time.Second)})
		}
		out = append(out, s)
	}
	return out, err
}

func (f *fake) Findings(_ context.Context, limit int) ([]web.Finding, error) {
	unlock, err := f.lock()
	defer unlock()
	return f.findingsOf[:min(limit, len(f.findingsOf))], err
}

// The fake's commands remember what they were asked and act on the fake's rows.

func (f *fake) DrainRunner(_ context.Context, id muster.RunnerID, reason string) error {
	f.change(muster.Change{Kind: "runner", ID: string(id)}, func() {
		f.commands = append(f.commands, fmt.Sprintf("drain %s: %s", id, reason))
		r := f.runners[id]
		r.State, r.Reason = muster.RunnerDraining, reason
		f.runners[id] = r
	})
	return nil
}

func (f *fake) SetPool(_ context.Context, pool string, o muster.PoolOverride) error {
	f.change(muster.Change{Kind: "pool", ID: pool}, func() {
		b, _ := json.Marshal(o)
		f.commands = append(f.commands, "set "+pool+" "+string(b))
		for i, p := range f.pools {
			if p.Name == pool {
				f.pools[i].Pool, f.pools[i].Overridden = p.Override(o), true
			}
		}
	})
	return nil
}

// Providers are one that works and was tested, one that is held off, and one that is away.
func (f *fake) Providers(context.Context) ([]muster.ProviderStatus, error) {
	unlock, err := f.lock()
	defer unlock()
	at := func(s int) time.Time { return fakeNow.Add(-time.Hour + time.Duration(s)*time.Second) }
	return []muster.ProviderStatus{
		{Name: "local", Kind: "process", Summary: "Runners as processes.", Isolation: "That of a process.", State: muster.ProviderOK, Instances: map[string]int{"running": 2}, AnsweredIn: 4 * time.Millisecond,
			Pools: []string{"linux-small"}, Offerings: []muster.Offering{{Name: "small", CPUs: 2, MemoryMiB: 4096}}, Abilities: []string{"keep"},
			Check:  &muster.ProviderCheck{Provider: "local", Runner: "r-check", At: at(0), Inside: []muster.CheckStep{{Name: "disk", OK: true, Detail: "plenty"}}, After: []muster.CheckStep{{Name: "nothing left", OK: true}}},
			Tester: muster.Runner{ID: "r-check", State: muster.RunnerDestroyed, Reason: "check passed", CreatedAt: at(0), LaunchedAt: at(1), ConnectedAt: at(2), FinishedAt: at(3), DestroyedAt: at(4)}},
		{Name: "cloud", Kind: "garm", Summary: "Any cloud.", Isolation: "A machine.", State: muster.ProviderRefusing, Detail: "gpu: <no> capacity", Zones: []string{"a", "b"}, Abilities: []string{"gpu", "spot"},
			Offerings: []muster.Offering{{Name: "gpu", CPUs: 8, MemoryMiB: 65536, GPUs: 2, Spot: true, PriceMicroUSD: 52000}},
			Breakers: []muster.ProviderBreaker{
				{Breaker: muster.Breaker{Failures: 3, At: fakeNow, Words: "no capacity"}, Pool: "linux-large", Offering: "gpu", State: muster.BreakerOpen, Room: 1},
				{Zone: "a", Offering: "gpu", State: muster.BreakerHalfOpen},
			},
			Check:  &muster.ProviderCheck{Provider: "cloud", Runner: "r-bad", At: at(0), After: []muster.CheckStep{{Name: "nothing left", OK: true}}},
			Tester: muster.Runner{ID: "r-bad", State: muster.RunnerDestroyed, Failed: true, Reason: "quota exceeded", CreatedAt: at(0), DestroyedAt: at(4)}},
		{Name: "rack", Kind: "ssh", State: muster.ProviderUnreachable, Detail: "connection refused"},
	}, err
}

func (f *fake) CheckProvider(_ context.Context, name string) error {
	f.change(muster.Change{Kind: "runner", ID: name}, func() { f.commands = append(f.commands, "check "+name) })
	return nil
}

func (f *fake) NudgePool(_ context.Context, pool string) error {
	f.change(muster.Change{Kind: "decision", ID: pool}, func() { f.commands = append(f.commands, "nudge "+pool) })
	return nil
}

func (f *fake) RedispatchDelivery(_ context.Context, guid string) error {
	f.change(muster.Change{Kind: "delivery", ID: guid}, func() { f.commands = append(f.commands, "redispatch "+guid) })
	return nil
}

func (f *fake) StartMachine(_ context.Context, id muster.MachineID) (muster.MachineAnswer, error) {
	f.change(muster.Change{Kind: "machine", ID: id.String()}, func() { f.commands = append(f.commands, "start "+id.String()) })
	return f.answer, f.broken
}

func (f *fake) StopMachine(_ context.Context, id muster.MachineID) (muster.MachineAnswer, error) {
	f.change(muster.Change{Kind: "machine", ID: id.String()}, func() { f.commands = append(f.commands, "stop "+id.String()) })
	return f.answer, f.broken
}

func (f *fake) AcceptBaseline(_ context.Context, name string, a web.Acceptance) error {
	f.change(muster.Change{Kind: "baseline", ID: name}, func() {
		f.commands = append(f.commands, fmt.Sprintf("accept %v all=%t version=%d of %s: %s", a.Facts, a.All, a.Version, name, a.Reason))
		by := detect.Act{By: "operator", At: fakeNow, Reason: a.Reason}
		b := f.tr.baselines[name]
		for _, fact := range a.Facts {
			b.Accept(fact, by)
		}
		if a.All {
			b.AcceptAll(by)
		}
	})
	return f.broken
}

func (f *fake) ResetBaseline(_ context.Context, name, reason string) error {
	f.change(muster.Change{Kind: "baseline", ID: name}, func() {
		f.commands = append(f.commands, "reset "+name+": "+reason)
		f.tr.baselines[name].Forget(detect.Act{By: "operator", At: fakeNow, Reason: reason})
	})
	return f.broken
}

func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.commands)
}

// JobLog is the port to GitHub's logs.
func (f *fake) JobLog(_ context.Context, repository string, id int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(fmt.Sprintf("2026-05-06T14:00:00.0000000Z ##[group]Set up job %d of %s\n2026-05-06T14:00:01.0000000Z Runner name: 'linux-small'\n", id, repository))), nil
}

// config is the dashboard over f with a fixed clock.
func config(f *fake) web.Config {
	return web.Config{
		Reads: f, Traces: f, Commands: f, JobLogs: f, Subscribe: f.Subscribe, Now: func() time.Time { return fakeNow },
		About: web.About{
			Version: "0.4.0 (83ebcb7)", Engine: "embedded, SQLite", Store: "SQLite, muster.db", Workspace: "default", StartedAt: fakeNow.Add(-hours(61)),
			Apps:  []web.AppInfo{{Name: "muster", WebhookURL: "https://ci.acme.example/webhooks/muster", PageURL: "https://github.com/organizations/acme/settings/apps/muster"}},
			Links: []web.Link{{Label: "Metrics", URL: "http://127.0.0.1:8080/metrics", Hint: "Prometheus"}, {Label: "Workflows", URL: "http://127.0.0.1:8233", Hint: "Temporal's own pages"}},
		},
	}
}
