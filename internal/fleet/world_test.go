package fleet_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/fleet"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider/fake"
)

// marker is in every secret of these tests; it may not show anywhere.
const marker = "planted-secret"

var repo = muster.Scope{Kind: muster.ScopeRepository, Owner: "myorg", Repo: "myrepo"}

// github is GitHub's side in memory: registrations and jobs.
type github struct {
	mu      sync.Mutex
	next    int64
	runners map[int64]*muster.RemoteRunner
	jobs    []*job
	// fail, if set, is asked before every call, by "METHOD name-or-id".
	fail  func(call string) error
	calls []string
	// offline keeps runners from being listed as online; lag keeps busy ones idle.
	offline func(name string) bool
	lag     bool
	stretch int
}

type job struct {
	muster.JobEvent
	takes time.Duration
}

func (g *github) ask(call string) error {
	g.calls = append(g.calls, call)
	if g.fail != nil {
		return g.fail(call)
	}
	return nil
}

func (g *github) GenerateJIT(_ context.Context, s muster.Scope, name string, _ int64, labels muster.Labels) (muster.JIT, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ask("jit " + name); err != nil {
		return muster.JIT{}, err
	}
	for _, r := range g.runners {
		if r.Name == name {
			return muster.JIT{}, muster.Errorf(muster.CodeExists, "the name %s is taken", name)
		}
	}
	g.next++
	g.runners[g.next] = &muster.RemoteRunner{ID: g.next, Name: name, Labels: labels, Ephemeral: true}
	return muster.JIT{RunnerID: g.next, Name: name, Config: marker + "-jit"}, nil
}

func (g *github) RemoveRunner(_ context.Context, _ muster.Scope, id int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := fmt.Sprint(id)
	if r := g.runners[id]; r != nil {
		name = r.Name
	}
	if err := g.ask("remove " + name); err != nil {
		return err
	}
	switch r := g.runners[id]; {
	case r == nil:
		return muster.Errorf(muster.CodeNotFound, "no such runner")
	case r.Busy:
		return muster.Errorf(muster.CodeBusy, "it runs a job")
	}
	delete(g.runners, id)
	return nil
}

func (g *github) shown(r *muster.RemoteRunner) muster.RemoteRunner {
	out := *r
	if g.offline != nil && g.offline(r.Name) {
		out.Online = false
	}
	out.Busy = out.Busy && !g.lag
	return out
}

func (g *github) Runner(_ context.Context, _ muster.Scope, id int64) (muster.RemoteRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ask(fmt.Sprint("runner ", id)); err != nil {
		return muster.RemoteRunner{}, err
	}
	if r := g.runners[id]; r != nil {
		return g.shown(r), nil
	}
	return muster.RemoteRunner{}, muster.Errorf(muster.CodeNotFound, "no such runner")
}

func (g *github) RunnerByName(_ context.Context, _ muster.Scope, name string) (muster.RemoteRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ask("lookup " + name); err != nil {
		return muster.RemoteRunner{}, err
	}
	for _, r := range g.runners {
		if r.Name == name {
			return g.shown(r), nil
		}
	}
	return muster.RemoteRunner{}, muster.Errorf(muster.CodeNotFound, "no such runner")
}

func (g *github) Runners(context.Context, muster.Scope) ([]muster.RemoteRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ask("list"); err != nil {
		return nil, err
	}
	var out []muster.RemoteRunner
	for _, id := range slices.Sorted(maps.Keys(g.runners)) {
		out = append(out, g.shown(g.runners[id]))
	}
	return out, nil
}

func (g *github) Downloads(context.Context, muster.Scope) ([]muster.RunnerDownload, error) {
	return []muster.RunnerDownload{{OS: "linux", Arch: "x64", URL: "https://example.com/runner.tar.gz", SHA256: "00"}}, nil
}

func (g *github) ActiveJobs(context.Context, string) ([]muster.JobEvent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ask("queue"); err != nil {
		return nil, err
	}
	var out []muster.JobEvent
	for _, j := range g.jobs {
		out = append(out, j.JobEvent) // completed ones of the same run are among them
	}
	return out, nil
}

func (g *github) Stretch(muster.Scope) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stretch
}

// queue adds n jobs that take d each.
func (g *github) queue(n int, d time.Duration, labels ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(labels) == 0 {
		labels = []string{"linux", "docker"}
	}
	for range n {
		g.jobs = append(g.jobs, &job{takes: d, JobEvent: muster.JobEvent{ID: int64(1000 + len(g.jobs)), Attempt: 1, Status: muster.JobQueued, Repository: repo.String(), Labels: labels, CreatedAt: time.Now()}})
	}
}

// take gives the runner a queued job, if there is one.
func (g *github) take(name string) *job {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.runners {
		if r.Name != name {
			continue
		}
		for _, j := range g.jobs {
			if j.Status == muster.JobInProgress && j.RunnerName == name {
				return j // GitHub had assigned it already
			}
			if j.Status == muster.JobQueued && muster.Labels(j.Labels).SubsetOf(r.Labels) {
				j.Status, j.RunnerName, r.Busy = muster.JobInProgress, name, true
				return j
			}
		}
	}
	return nil
}

// done ends a job and with it the one-job registration.
func (g *github) done(j *job, conclusion string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j.Status, j.Conclusion = muster.JobCompleted, conclusion
	for id, r := range g.runners {
		if r.Name == j.RunnerName {
			delete(g.runners, id)
		}
	}
}

// assign gives the runner a job before anybody hears of it; the caller holds the lock.
func (g *github) assign(name string, j *job) {
	j.Status, j.RunnerName = muster.JobInProgress, name
	for _, r := range g.runners {
		if r.Name == name {
			r.Busy = true
		}
	}
}

// assigned reports whether a job is on its way to the runner: the real one goes on with it.
func (g *github) assigned(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.jobs, func(j *job) bool { return j.Status == muster.JobInProgress && j.RunnerName == name })
}

func (g *github) set(name string, change func(*muster.RemoteRunner)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.runners {
		if r.Name == name {
			change(r)
		}
	}
}

// counts is jobs by state, and how many registrations there are.
func (g *github) counts() (jobs map[string]int, registrations int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	jobs = map[string]int{}
	for _, j := range g.jobs {
		jobs[cmp.Or(j.Conclusion, string(j.Status))]++
	}
	return jobs, len(g.runners)
}

func (g *github) called(prefix string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (g *github) breaks(fail func(call string) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = fail
}

// world is a fleet among fakes.
type world struct {
	*fleet.Fleet
	t      *testing.T
	gh     *github
	cloud  *fake.Cloud
	log    *bytes.Buffer
	logMu  sync.Mutex
	mu     sync.Mutex
	pools  []muster.Pool
	broken error
	cfg    fleet.Config
	// script, if set, replaces the agent's life.
	script func(ctx context.Context, m fake.Machine) string
	steps  []string
}

func (w *world) Write(p []byte) (int, error) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.Write(p)
}

func (w *world) step(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, fmt.Sprintf(format, args...))
}

// did is what was done so far.
func (w *world) did() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.steps)
}

// ci is the pool of G1 with the defaults of a fleet.
func ci() muster.Pool {
	p := muster.Pool{Name: "ci-workers", Scope: repo, Labels: muster.Labels{"linux", "docker"}, Provider: "fake", Enabled: true, Scaling: muster.DefaultScaling()}
	return p.WithDefaults()
}

// on demand: a runner per job, at once.
func onDemand(p *muster.Pool) { p.Scaling = muster.OnDemandScaling() }

// newWorld makes a fleet of one pool; call it inside a bubble.
func newWorld(t *testing.T, change ...func(*muster.Pool)) *world {
	w := &world{t: t, log: &bytes.Buffer{}, gh: &github{runners: map[int64]*muster.RemoteRunner{}, stretch: 1}, cloud: fake.NewCloud()}
	p := ci()
	for _, c := range change {
		c(&p)
	}
	w.pools = []muster.Pool{p}
	w.cfg = fleet.Config{
		GitHub: w.gh, Queue: w.gh, VMs: w.cloud.Provider("fleet"), Owner: "fleet", URL: "http://127.0.0.1:1",
		Key: bytes.Repeat([]byte{7}, 32), Times: fleet.Times{Heartbeat: time.Second}, Logger: slog.New(slog.NewTextHandler(w, nil)),
		Pools: func() ([]muster.Pool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.pools), w.broken
		},
	}
	w.again()
	w.cloud.OnBoot(func(ctx context.Context, m fake.Machine) string {
		w.mu.Lock()
		script := w.script
		w.mu.Unlock()
		if script != nil {
			return script(ctx, m)
		}
		return w.agent(ctx, m)
	})
	t.Cleanup(w.cloud.Close)
	t.Cleanup(func() {
		if strings.Contains(w.log.String(), marker) { // S1-100 S1-107
			t.Errorf("a secret is in the log:\n%s", w.log)
		}
	})
	return w
}

// again makes a fleet anew, as a restart does.
func (w *world) again() {
	f, err := fleet.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Fleet = f
}

func (w *world) fleet() *fleet.Fleet {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Fleet
}

// run runs the fleet until the function that it returns is called.
func (w *world) run() (stop func() (busy int)) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan int, 1)
	f := w.fleet()
	go func() {
		busy, err := f.Run(ctx)
		if err != nil {
			w.t.Error(err)
		}
		ended <- busy
	}()
	synctest.Wait()
	stop = sync.OnceValue(func() int {
		cancel()
		return <-ended
	})
	w.t.Cleanup(func() { stop() })
	return stop
}

// boot trades the token as an agent does, again and again.
func (w *world) boot(ctx context.Context, m fake.Machine) (wire.BootResponse, error) {
	for {
		resp, err := w.fleet().Boot(ctx, m.Spec.Boot.Token.Reveal(), wire.BootRequest{Nonce: m.ID, OS: "linux", Arch: "amd64"})
		if muster.CodeOf(err) != muster.CodeUnavailable {
			return resp, err
		}
		if !sleep(ctx, time.Second) {
			return resp, ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// agent is the life of an agent and its runner, as internal/agent lives it.
func (w *world) agent(ctx context.Context, m fake.Machine) string {
	w.step("machine")
	resp, err := w.boot(ctx, m)
	if err != nil {
		return "not booted: " + err.Error()
	}
	w.step("registered")
	return w.listen(ctx, resp)
}

// listen is the part of agent after the registration.
func (w *world) listen(ctx context.Context, resp wire.BootResponse) string {
	report := func(r wire.Report) wire.Answer {
		a, err := w.fleet().Report(ctx, resp.SessionToken, r)
		if muster.CodeOf(err) == muster.CodeGone {
			return wire.Answer{Command: wire.CommandDrain}
		}
		return a
	}
	report(wire.Report{Phase: wire.PhaseStarted})
	w.step("service started")
	w.gh.set(resp.Name, func(r *muster.RemoteRunner) { r.Online = true })
	report(wire.Report{Phase: wire.PhaseListening})
	beat := time.NewTicker(time.Duration(resp.HeartbeatSeconds) * time.Second)
	defer beat.Stop()
	patience := time.NewTimer(time.Duration(resp.NoJobSeconds) * time.Second)
	if resp.NoJobSeconds == 0 {
		patience.Stop()
	}
	defer patience.Stop()
	for {
		if j := w.gh.take(resp.Name); j != nil {
			report(wire.Report{Phase: wire.PhaseRunning, Busy: true, JobName: "build"})
			end := time.NewTimer(j.takes)
			for running := true; running; {
				select {
				case <-end.C:
					running = false
				case <-beat.C:
					report(wire.Report{Phase: wire.PhaseHeartbeat, Busy: true}) // a drain is refused
				case <-ctx.Done():
					w.gh.done(j, "failure")
					return "killed while it ran a job"
				}
			}
			w.gh.done(j, "success")
			report(wire.Report{Phase: wire.PhaseFinished, Result: "Succeeded", Reason: "job finished"})
			return "job finished"
		}
		select {
		case <-beat.C:
			if report(wire.Report{Phase: wire.PhaseHeartbeat}).Command == wire.CommandDrain && !w.gh.assigned(resp.Name) {
				w.step("service stopped")
				w.gh.set(resp.Name, func(r *muster.RemoteRunner) { r.Online = false })
				report(wire.Report{Phase: wire.PhaseFinished, Reason: "told to drain"})
				return "told to drain"
			}
		case <-patience.C:
			report(wire.Report{Phase: wire.PhaseFinished, Reason: "no job within 2m0s"})
			return "no job"
		case <-ctx.Done():
			w.step("service stopped")
			return "deleted"
		}
	}
}

// live are the runners that are not destroyed, by state.
func (w *world) live() map[muster.RunnerState]int {
	out := map[muster.RunnerState]int{}
	for _, r := range w.fleet().Runners() {
		if r.State.Live() {
			out[r.State]++
		}
	}
	return out
}

func (w *world) total() (n int) {
	for _, c := range w.live() {
		n += c
	}
	return n
}

// clean demands that nothing is left anywhere (S1-68).
func (w *world) clean() {
	w.t.Helper()
	if _, registrations := w.gh.counts(); registrations != 0 || w.cloud.Counts().Live != 0 || w.total() != 0 {
		w.t.Errorf("left: %d registrations, %d machines, runners %v\n%s", registrations, w.cloud.Counts().Live, w.live(), w.log)
	}
}

func (w *world) decisions() []muster.DecisionRecord {
	w.t.Helper()
	d, err := w.fleet().Decisions("ci-workers", 100)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// after lets time pass, and everything that is due.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// bubble is a test under fake time.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}
