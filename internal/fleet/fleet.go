package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Config is what a Fleet is made of. Pools, GitHub, Queue, VMs, Owner, URL and Key
// are required.
type Config struct {
	// Pools are the pools as the fleets file has them now; called before every
	// check. On an error those of the last good call stay.
	Pools  func() ([]muster.Pool, error)
	GitHub Provisioner
	Queue  QueueMonitor
	// Scale is muster.Plan if nil.
	Scale Autoscaler
	VMs   provider.Provider
	// Owner tags the machines; a later run of the same owner finds them again.
	Owner string
	// URL is where agents reach this process. A later run should have the same.
	URL string
	// Key makes the tokens of machines; 32 bytes, the same in a later run.
	Key []byte
	// Offering is what machines are made as.
	Offering muster.Offering
	// Memory may be nil: then a restart forgets cooldowns.
	Memory Memory
	Times  Times
	// Provisioning is how many runners may be on their way at once, all pools
	// together; 10 if 0 (S1-112).
	Provisioning int
	// Force ends busy runners, too, when Run is told to end.
	Force  bool
	Logger *slog.Logger
}

// Times are a Fleet's intervals; zero fields take their defaults.
type Times struct {
	Check     time.Duration // 60 s between looks at the queue (S1-108)
	Health    time.Duration // 120 s between looks at runners and machines (S1-110)
	Heartbeat time.Duration // 5 s between words of an agent; whole seconds
	AgentLost time.Duration // 90 s of silence: ask the platform
	Leave     time.Duration // 2 min for idle runners to go at the end
}

func (t Times) withDefaults() Times {
	return Times{
		Check: cmp.Or(t.Check, time.Minute), Health: cmp.Or(t.Health, 2*time.Minute), Heartbeat: cmp.Or(t.Heartbeat, 5*time.Second),
		AgentLost: cmp.Or(t.AgentLost, 90*time.Second), Leave: cmp.Or(t.Leave, 2*time.Minute),
	}
}

// workspace is what rows and tags carry; a fleet has one.
const workspace = "default"

// Fleet is the pools of one file and their runners. Make it with New; Run or Once
// runs it, once. The other methods are safe for concurrent use and may be called
// before, while and after it runs.
type Fleet struct {
	cfg    Config
	times  Times
	log    *slog.Logger
	tokens tokens
	// The shared executors (S1-111). Making runners waits for agents, and a platform
	// may hang, so that ending and asking have places of their own.
	provisioning, ending, asking *Executor
	nudged                       chan struct{}
	lives                        sync.WaitGroup
	scaled                       map[string]time.Time // when an earlier run last scaled each pool

	mu        sync.Mutex
	pools     []*pool
	runners   map[muster.RunnerID]*runner
	past      []muster.Runner // destroyed, the latest last
	ready     bool            // what an earlier run left has been found
	leaving   bool
	suspects  map[string]bool // what the last sweep found odd
	decisions int64
	problem   string        // what keeps the fleets file from being read, or the loop from starting
	changed   chan struct{} // closed and made anew at every change of a runner
}

// pool is one pool and what was last learned about it.
type pool struct {
	muster.Pool
	file        muster.Pool // as the file has it
	override    muster.PoolOverride
	jobs        []muster.PlanJob
	checked     time.Time // when the queue was last learned
	trouble     string    // why it was not since; "" if it was
	lastScaling time.Time
	decisions   []muster.DecisionRecord // the latest last
	// failed counts runners in a row that did not come up, heldUntil is until when no
	// other is made because of it, heldFor why (4-52).
	failed    int
	heldUntil time.Time
	heldFor   string
}

// hold leaves the platform alone for a while because a runner did not come up: 2,
// 4, 8 … seconds, at most five minutes. Runners that were made together count once.
func (p *pool) hold(why string, now time.Time) {
	if !now.Before(p.heldUntil) {
		p.failed++
	}
	p.heldUntil, p.heldFor = now.Add(min(5*time.Minute, time.Second<<min(p.failed, 9))), why
}

// What is kept for those who look: the latest of each.
const (
	maxDecisions = 100
	maxPast      = 200
	maxNotes     = 50
	maxLog       = 64 << 10
)

// New makes a Fleet. Nothing runs yet.
func New(cfg Config) (*Fleet, error) {
	if len(cfg.Key) < 32 {
		return nil, errors.New("a fleet's key has at least 32 bytes")
	}
	if cfg.Scale == nil {
		cfg.Scale = muster.Plan
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := cmp.Or(cfg.Provisioning, muster.DefaultProvisioning)
	f := &Fleet{
		cfg: cfg, times: cfg.Times.withDefaults(), log: cfg.Logger, tokens: tokens{cfg.Key},
		provisioning: NewExecutor(n), ending: NewExecutor(n), asking: NewExecutor(n), nudged: make(chan struct{}, 1),
		runners: map[muster.RunnerID]*runner{}, suspects: map[string]bool{}, changed: make(chan struct{}),
	}
	if cfg.Memory != nil {
		scaled, err := cfg.Memory.Load()
		if err != nil {
			f.log.Warn("cooldowns of an earlier run are not known", "error", err)
		}
		f.scaled = scaled
	}
	return f, f.reload()
}

// Run drives the pools until ctx ends. Then idle runners are drained and removed,
// and busy ones are left to finish their jobs by themselves, unless Config.Force;
// a later run takes up what is left. It returns how many were left busy.
func (f *Fleet) Run(ctx context.Context) (busy int, err error) {
	work, stop := f.begin(ctx)
	defer stop()
	if err := f.find(ctx, work); err != nil {
		if ctx.Err() != nil {
			return 0, nil // nothing was begun
		}
		return 0, err
	}
	var loops sync.WaitGroup
	loops.Go(func() { f.checks(ctx, work) })
	loops.Go(func() { f.healths(ctx) })
	loops.Wait()
	return f.leave(work), nil
}

// Once looks at everything once, decides, and returns when what was decided is
// done: runners that were made have registered, what had ended is gone. Runners
// stay and go on by themselves. The error joins all that went wrong.
func (f *Fleet) Once(ctx context.Context) error {
	work, stop := f.begin(ctx)
	defer stop()
	if err := f.recoverOnce(ctx, work); err != nil {
		return err
	}
	errs := []error{f.check(ctx, work), f.health(ctx)}
	if err := f.settle(ctx); err != nil {
		return errors.Join(append(errs, err)...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.past {
		if r.Failed {
			errs = append(errs, fmt.Errorf("runner %s of pool %s: %s", r.ID, r.Pool, r.Reason))
		}
	}
	return errors.Join(errs...)
}

// begin returns the context of runners' lives, which outlasts ctx: what ends with
// ctx is the making of decisions. stop ends them and waits.
func (f *Fleet) begin(ctx context.Context) (work context.Context, stop func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return work, func() {
		cancel()
		f.lives.Wait()
	}
}

// find recovers what an earlier run left, again and again until it is known:
// without that, every decision would be taken without the runners that are there.
// It gives up on a credential that GitHub refuses.
func (f *Fleet) find(ctx, work context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, f.times.Check) {
		err := f.recoverOnce(ctx, work)
		if code := muster.CodeOf(err); err == nil || code == muster.CodeUnauthenticated || code == muster.CodeForbidden {
			return err
		}
		f.setProblem("what an earlier run left could not be found: " + muster.MessageOf(err))
		f.log.Warn("not started yet: what an earlier run left could not be found", "error", err, "again_in", wait)
		if err := pause(ctx, max(wait, retryAfter(err))); err != nil {
			return err
		}
	}
}

// leave ends what is idle and waits for it, for a while.
func (f *Fleet) leave(work context.Context) (busy int) {
	f.mu.Lock()
	f.leaving = true
	for _, r := range f.runners {
		if r.Drain == "" {
			r.Drain = leavingReason
		}
		r.forced = r.forced || f.cfg.Force
		r.look()
	}
	f.mu.Unlock()
	limit, cancel := context.WithTimeout(work, f.times.Leave)
	defer cancel()
	for {
		left, busy, changed := f.left()
		if left == busy {
			return f.say(busy)
		}
		select {
		case <-changed:
		case <-limit.Done():
			f.log.Warn("runners are left that did not end in time; the next run takes them up", "runners", left-busy)
			return f.say(busy)
		}
	}
}

const leavingReason = "the fleet's run was told to end"

func (f *Fleet) say(busy int) int {
	if busy > 0 {
		f.log.Info("busy runners finish their jobs by themselves; the next run takes them up", "runners", busy)
	}
	return busy
}

// left counts the runners that are there and those of them that have a job.
// changed is closed at the next change of any.
func (f *Fleet) left() (all, busy int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.runners {
		if r.busy() && r.FinishedAt.IsZero() && !r.forced {
			busy++
		}
	}
	return len(f.runners), busy, f.changes()
}

// settle waits until nothing is on its way: every runner is registered, has a
// job, or is gone.
func (f *Fleet) settle(ctx context.Context) error {
	for {
		f.mu.Lock()
		moving := 0
		for _, r := range f.runners {
			if f.moving(r) {
				moving++
			}
		}
		changed := f.changes()
		f.mu.Unlock()
		if moving == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// moving reports whether a runner will change without a job: it comes up, or it
// goes. The caller holds the lock.
func (f *Fleet) moving(r *runner) bool {
	switch s := f.next(r, time.Now()); {
	case s.Act == actDeregister || s.Act == actDestroy:
		return true
	case r.State == muster.RunnerProvisioning:
		return r.adopted.IsZero()
	case r.State == muster.RunnerRegistered:
		return r.ListeningAt.IsZero() && r.adopted.IsZero()
	}
	return r.State == muster.RunnerDraining && !r.busy()
}

// newID makes the id of a runner. It begins with the fleet's mark; the other 64
// bits are random.
func (f *Fleet) newID() muster.RunnerID {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	mark := f.tokens.mark()
	copy(b[:], mark[:])
	return muster.NewRunnerID(b)
}

// Nudge makes the next check come at once.
func (f *Fleet) Nudge() {
	select {
	case f.nudged <- struct{}{}:
	default:
	}
}

// reload reads the fleets file. A pool that is no longer there is disabled until
// its runners are gone.
func (f *Fleet) reload() error {
	read, err := f.cfg.Pools()
	if err != nil {
		f.setProblem(err.Error())
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problem = ""
	known := map[string]*pool{}
	for _, p := range f.pools {
		known[p.Name] = p
	}
	var pools []*pool
	for _, p := range read {
		p.Workspace = workspace
		p = p.WithDefaults()
		now, ok := known[p.Name]
		if !ok {
			now = &pool{lastScaling: f.scaled[p.Name]}
		}
		if !reflect.DeepEqual(now.file, p) {
			now.file, now.override = p, muster.PoolOverride{} // what the file says now is newer than what was asked for before
		}
		now.Pool = now.file.Override(now.override)
		pools = append(pools, now)
		delete(known, p.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		p := known[name]
		p.Enabled, p.Removed, p.jobs = false, true, nil
		if slices.ContainsFunc(slices.Collect(maps.Values(f.runners)), func(r *runner) bool { return r.Pool == name }) {
			pools = append(pools, p)
		}
	}
	f.pools = pools
	return nil
}

func (f *Fleet) setProblem(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problem = text
}

// pool finds a pool; the caller holds the lock.
func (f *Fleet) pool(name string) *pool {
	for _, p := range f.pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// scopes are where pools register, each once, in the file's order. The caller
// holds the lock.
func (f *Fleet) scopes() (out []muster.Scope) {
	for _, p := range f.pools {
		if !slices.Contains(out, p.Scope) {
			out = append(out, p.Scope)
		}
	}
	for _, r := range f.runners {
		if r.scope.Kind != "" && !slices.Contains(out, r.scope) {
			out = append(out, r.scope) // the file names another repository now
		}
	}
	return out
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*muster.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}
