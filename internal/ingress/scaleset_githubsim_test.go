package ingress_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/store/storetest"
)

// shop is a control plane in small: a real store, GitHub's simulator, the real
// runner program for every job that the store says is waiting.
type shop struct {
	t      *testing.T
	ctx    context.Context //nolint:containedctx // of the test, which the shop is a part of
	sim    *githubsim.Server
	app    githubsim.App
	github *github.Client
	store  *store.Store
	pool   muster.Pool
	work   sync.WaitGroup
	// listens is the last listener.
	listens *ingress.ScaleSetListener

	mu   sync.Mutex
	live map[string]bool
	made int
}

const shopSpace = "default"

func newShop(t *testing.T, cfg githubsim.Config, scaleSet string) *shop {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	cfg.LongPoll, cfg.RecordLinger = 300*time.Millisecond, -1
	if cfg.SetSessionLinger == 0 {
		cfg.SetSessionLinger = 200 * time.Millisecond
	}
	s := &shop{t: t, ctx: ctx, sim: githubsim.New(cfg), live: map[string]bool{}}
	url, err := s.sim.Start(context.WithoutCancel(ctx), "127.0.0.1:0")
	s.must(err)
	t.Cleanup(func() {
		cancel()
		s.work.Wait()
		if err := s.sim.Close(); err != nil {
			t.Error(err)
		}
	})
	s.must(s.sim.CreateOrganization("octo-org"))
	s.must(s.sim.CreateRepository("octo-org/app", githubsim.RepositoryOptions{Private: true}))
	s.app, err = s.sim.CreateApp(githubsim.AppOptions{Name: "muster", WebhookSecret: secret})
	s.must(err)
	_, err = s.sim.Install(s.app.ID, "octo-org")
	s.must(err)
	s.github, err = github.New(github.Config{Name: "main", AppID: s.app.ID, PrivateKey: muster.Secret(s.app.PEM), URL: url, MutationsPerMinute: -1})
	s.must(err)
	s.store = storetest.Open(t, storetest.SQLite(t))
	s.pool = muster.Pool{
		Name: "p", App: "main", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo-org"}, Labels: muster.Labels{"set"}, RunnerLabels: muster.Labels{"set"},
		Provider: "fake", Offering: "small", Enabled: true, ScaleSet: scaleSet, Scaling: muster.Scaling{MaxRunners: 4, JobsPerRunner: 1},
	}.WithDefaults()
	s.must(s.store.SyncPools(ctx, shopSpace, []muster.Pool{s.pool}, []muster.Offering{{Name: "small"}}))
	return s
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Job and Installation are the Sink.
func (s *shop) Job(ctx context.Context, e muster.JobEvent) (string, error) {
	if e.NotAJob() {
		return "ignored", nil
	}
	a, err := s.store.ApplyJobEvent(ctx, shopSpace, e, func(muster.Job) string { return "p" })
	return "job " + string(a.Job.State), err
}

func (s *shop) Installation(context.Context, muster.InstallationEvent) (string, error) {
	return "", nil
}

// serve keeps a runner for each job that waits or runs, until ctx ends.
func (s *shop) serve(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		snap, err := s.store.PoolSnapshot(ctx, shopSpace, "p")
		if err == nil {
			s.mu.Lock()
			want := min(len(snap.Jobs)+snap.Unnamed, s.pool.Scaling.MaxRunners) - len(s.live)
			s.mu.Unlock()
			for range want {
				s.run(ctx)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// run registers one runner and starts it.
func (s *shop) run(ctx context.Context) {
	s.mu.Lock()
	s.made++
	name := fmt.Sprint("r-", s.made)
	s.live[name] = true
	s.mu.Unlock()
	var jit muster.JIT
	var err error
	if s.pool.ScaleSet != "" {
		jit, err = s.github.GenerateScaleSetJIT(ctx, s.pool.Scope, s.pool.ScaleSet, name)
	} else {
		jit, err = s.github.GenerateJIT(ctx, s.pool.Scope, name, 1, s.pool.RunnerLabels)
	}
	gone := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.live, name)
	}
	if err != nil {
		gone()
		return
	}
	dir := s.t.TempDir()
	s.work.Go(func() {
		defer gone()
		var out bytes.Buffer
		runner.Main(ctx, runner.Program{
			Args: []string{"run"}, Env: append(os.Environ(), "ACTIONS_RUNNER_INPUT_JITCONFIG="+jit.Config.Reveal(), "RUNNER_ALLOW_RUNASROOT=1"),
			Dir: dir, Stdout: &out, Stderr: &out, Knobs: runner.Knobs{Retry: 100 * time.Millisecond},
		})
	})
}

// listener makes one for the pool, in a hurry. A session that dies is not closed.
func (s *shop) listener(dies bool) *ingress.ScaleSetListener {
	s.listens = ingress.NewScaleSetListener(ingress.ScaleSetListenerConfig{
		Workspace: shopSpace, Pool: "p", Owner: "muster-test", GitHub: s.github, Ledger: s.store, Sink: s,
		Settings: func(ctx context.Context) (muster.Pool, error) { return s.store.Pool(ctx, shopSpace, "p") },
		Open: func(ctx context.Context, scope muster.Scope, set, owner string) (ingress.ScaleSetSession, error) {
			session, err := s.github.OpenScaleSetSession(ctx, scope, set, owner)
			if err != nil {
				return nil, err
			}
			if dies {
				return undead{session}, nil
			}
			return session, nil
		},
		Look: 100 * time.Millisecond, Patience: 100 * time.Millisecond, Grace: 300 * time.Millisecond, Silence: 500 * time.Millisecond, MinRetry: 20 * time.Millisecond, MaxRetry: 200 * time.Millisecond,
	})
	return s.listens
}

// undead is a session whose owner is killed: nobody closes it.
type undead struct{ ingress.ScaleSetSession }

func (undead) Close(context.Context) error { return errors.New("killed") }

// begin runs a role until the function that it returns is called.
func (s *shop) begin(role func(ctx context.Context) error) (end func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := role(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// until waits for something that the store will tell.
func (s *shop) until(what string, ok func(jobs []muster.Job) bool) {
	s.t.Helper()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		jobs, err := s.store.Jobs(s.ctx, shopSpace, store.JobFilter{})
		if err == nil && ok(jobs) {
			return
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			for _, j := range jobs {
				s.t.Logf("job %s is %s on %q", j.Key, j.State, j.RunnerName)
			}
			for _, j := range s.sim.Truth().Jobs {
				s.t.Logf("truth: job %d is %s on %q, executions %d, set ids %v", j.ID, j.Status, j.Runner, j.Executions, j.SetIDs)
			}
			left, _ := s.store.ScaleSetJobs(context.WithoutCancel(s.ctx), shopSpace, "p")
			if s.listens != nil {
				s.t.Logf("the listener: %+v", s.listens.Status())
			}
			s.t.Fatalf("waited for %s in vain; assignments left: %+v", what, left)
		}
	}
}

func allDone(n int) func([]muster.Job) bool {
	return func(jobs []muster.Job) bool {
		return len(jobs) == n && !slices.ContainsFunc(jobs, func(j muster.Job) bool { return j.State != muster.JobCompleted })
	}
}

// books are what is kept of a job that does not depend on by which way it came.
func (s *shop) books() (lines []string) {
	s.t.Helper()
	jobs, err := s.store.Jobs(s.ctx, shopSpace, store.JobFilter{})
	s.must(err)
	for _, j := range jobs {
		truth, err := s.github.Job(s.ctx, j.Repository, j.Key.ID)
		s.must(err)
		if j.State != truth.Status || j.Conclusion != truth.Conclusion || j.RunnerName != truth.RunnerName || !j.StartedAt.Equal(truth.StartedAt) || !j.CompletedAt.Equal(truth.CompletedAt) || !j.CreatedAt.Equal(truth.CreatedAt) {
			s.t.Errorf("the books have %+v, GitHub %+v", j, truth)
		}
		lines = append(lines, fmt.Sprint(j.Repository, j.Key.Attempt, j.Workflow, j.Name, j.Labels, j.State, j.Conclusion, j.Pool, j.App, j.Installation != 0, j.RanOnRunner()))
	}
	slices.Sort(lines)
	return lines
}

// The same workload, by each sense alone and by all of them: one table, the same
// books, each job once.
func TestEverySenseWritesTheSameBooks(t *testing.T) { // C3 4-1 4-3 4-4 4-6
	const jobs = 8
	var first []string
	for _, senses := range [][]muster.Sense{{muster.SenseScaleSet}, {muster.SenseWebhook}, {muster.SensePoll}, {muster.SenseScaleSet, muster.SenseWebhook, muster.SensePoll}} {
		t.Run(fmt.Sprint(senses), func(t *testing.T) {
			set := ""
			if slices.Contains(senses, muster.SenseScaleSet) {
				set = "set"
			}
			s := newShop(t, githubsim.Config{Seed: 5, NoRateLimits: true}, set)
			var ends []func()
			for _, sense := range senses {
				switch sense {
				case muster.SenseScaleSet:
					ends = append(ends, s.begin(s.listener(false).Run))
				case muster.SensePoll:
					p := ingress.NewPoller(ingress.PollerConfig{
						App: "main", GitHub: s.github, Sink: s, Every: 200 * time.Millisecond,
						Pools: func(ctx context.Context) ([]muster.Pool, error) { return s.store.Pools(ctx, shopSpace) },
					})
					ends = append(ends, s.begin(p.Run))
				case muster.SenseWebhook:
					d := ingress.NewDispatcher(ingress.DispatcherConfig{Inbox: s.store, Sink: s})
					hook, err := ingress.NewWebhook(ingress.WebhookConfig{Apps: []ingress.App{{Name: "main", Secrets: []muster.Secret{secret}}}, Inbox: s.store, Nudge: d.Nudge})
					s.must(err)
					server := httptest.NewServer(hook)
					t.Cleanup(server.Close)
					s.must(s.sim.SetWebhook(s.app.ID, server.URL+"/github/webhook/main"))
					ends = append(ends, s.begin(d.Run))
				}
			}
			ends = append(ends, s.begin(func(ctx context.Context) error { s.serve(ctx); return nil }))
			for i := range jobs {
				_, err := s.sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"set"}, Name: fmt.Sprint("job ", i), Fail: i%4 == 3, Duration: 300 * time.Millisecond})
				s.must(err)
			}
			s.until("all jobs to be done", allDone(jobs))
			// One sense may have told of everything before another told of anything.
			unseen := func() (n int) {
				for _, j := range s.sim.Truth().Jobs {
					seen, err := s.store.Sightings(s.ctx, shopSpace, muster.JobKey{ID: j.ID})
					s.must(err)
					for _, sense := range senses {
						if sense != muster.SensePoll && !slices.ContainsFunc(seen, func(v muster.Sighting) bool { return v.Sense == sense }) {
							n++
						}
					}
				}
				return n
			}
			s.until("all jobs to be seen by every sense", func([]muster.Job) bool { return unseen() == 0 })
			for _, end := range slices.Backward(ends) {
				end()
			}
			truth := s.sim.Truth()
			for _, j := range truth.Jobs {
				if j.Executions != 1 {
					t.Errorf("job %d ran %d times", j.ID, j.Executions)
				}
			}
			if v := truth.Verdict(); v != nil {
				t.Errorf("verdict %q", v)
			}
			books := s.books()
			if first == nil {
				first = books
			}
			if !slices.Equal(books, first) {
				t.Errorf("the books are\n%q, by the first sense\n%q", books, first)
			}
		})
	}
}

// Whatever goes wrong with a scale set, and however often the control plane is
// killed, every job runs once and ends in the books as GitHub has it.
func TestScaleSetAgainstAHostileGitHub(t *testing.T) { // 4-1 4-2 4-3 4-4 4-15 S4-70
	const jobs = 24
	for name, faults := range map[string]githubsim.FaultSettings{
		"Messages": {RedeliverMessages: 0.3, DuplicateMessages: 0.5, LoseMessages: 0.2, NamelessMessages: 0.3, LateMessages: githubsim.Duration(300 * time.Millisecond), StatisticsOnly: 0.3, Crossover: 0.5},
		"Lies":     {ZeroStatistics: 0.4, EarlyCompleted: 0.3, LoseMessages: 0.1, Crossover: 0.5},
		"Lapses":   {LapseAssignments: githubsim.Duration(250 * time.Millisecond), DuplicateMessages: 0.3},
		"Network":  {ServerErrors: 0.1, LoseAnswers: 0.05, LoseJITAnswers: 0.1, QueueUnauthorized: 0.1, AdminUnauthorized: 0.1, EmptyQueueURLs: 0.1, AcquireFlow: 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, githubsim.Config{Seed: 11, NoRateLimits: true}, "set")
			s.sim.Faults().Set(faults)
			defer s.begin(func(ctx context.Context) error { s.serve(ctx); return nil })()
			listen := s.begin(s.listener(true).Run)
			defer func() { listen() }()
			for i := range jobs {
				_, err := s.sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"set"}, Name: fmt.Sprint("job ", i%3), Fail: i%5 == 4, Duration: 100 * time.Millisecond})
				s.must(err)
				if i%6 == 5 { // the control plane is killed when that many are done
					s.until("some jobs to be done", func(list []muster.Job) bool {
						done := 0
						for _, j := range list {
							if j.State == muster.JobCompleted {
								done++
							}
						}
						return done >= i/2
					})
					listen()
					listen = s.begin(s.listener(true).Run)
				}
			}
			s.until("all jobs to be done", allDone(jobs))
			s.sim.Faults().Set(githubsim.FaultSettings{})
			s.books()
			truth := s.sim.Truth()
			for _, j := range truth.Jobs {
				if j.Executions != 1 || j.Completions != 1 {
					t.Errorf("job %d ran %d times and ended %d times", j.ID, j.Executions, j.Completions)
				}
			}
			if len(truth.BusyKills) != 0 {
				t.Errorf("busy kills %+v", truth.BusyKills)
			}
			s.until("nothing to be left open", func([]muster.Job) bool {
				left, err := s.store.ScaleSetJobs(s.ctx, shopSpace, "p")
				return err == nil && len(left) == 0
			})
			r, err := s.store.ScaleSet(s.ctx, shopSpace, "p")
			s.must(err)
			t.Logf("faults %v; %d lapsed, %d missed, %d unknown; %d runners for %d jobs", truth.Faults, r.Lapsed, r.Missed, r.Unknown, s.made, jobs)
		})
	}
}
