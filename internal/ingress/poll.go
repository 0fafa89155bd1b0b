package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// PollSource is what the Poller needs of one App's GitHub client. Lists are whole
// or an error; an error of muster.CodeUnavailable may name the time to come back.
type PollSource interface {
	// Repositories lists what the client may see below a scope.
	Repositories(ctx context.Context, s muster.Scope) ([]muster.RemoteRepository, error)
	// Runs lists a repository's runs in one status, newest first; total is how many
	// there are, which may be more than GitHub shows.
	Runs(ctx context.Context, repository, status string) (runs []muster.WorkflowRun, total int, err error)
	// RunsCreated is Runs for the runs created between two times, the newest of them
	// up to most.
	RunsCreated(ctx context.Context, repository, status string, from, to time.Time, most int) (runs []muster.WorkflowRun, total int, err error)
	// RunJobs lists the jobs of a run's latest attempt.
	RunJobs(ctx context.Context, run muster.WorkflowRun) ([]muster.JobEvent, error)
	// Job looks up one job.
	Job(ctx context.Context, repository string, id int64) (muster.JobEvent, error)
	// Stretch is by how much polls are to be spaced out now; 0 is not to poll.
	Stretch(s muster.Scope) int
}

// Books is what the Poller asks of what is known already.
type Books interface {
	// JobsOfRun returns the jobs of a run that any sense told of, of all attempts.
	JobsOfRun(ctx context.Context, repository string, run int64) ([]muster.Job, error)
	// StaleJobs returns jobs of the App that are believed to be queued since before
	// a time, oldest first.
	StaleJobs(ctx context.Context, before time.Time, limit int) ([]muster.Job, error)
	// OpenJobs returns the App's jobs of a repository that are believed to be queued
	// or in progress, in any order.
	OpenJobs(ctx context.Context, repository string) ([]muster.Job, error)
	// Unnamed returns runners, also those that are gone, that took a job between two
	// times of which nobody has said which.
	Unnamed(ctx context.Context, from, to time.Time) ([]muster.Runner, error)
}

// PollObserver counts what the Poller does. Its methods must return at once; they
// are safe for concurrent use.
type PollObserver interface {
	// Polled counts one look at the repositories of one owner and the calls that it
	// made: outcome is "done", "parked" for want of budget, or "failed".
	Polled(app, outcome string, calls int, took time.Duration)
	// Found reports a state of a job that no other sense had told, and how long
	// after GitHub's own time of it.
	Found(app, state string, after time.Duration)
}

// PollerConfig is what a Poller needs. App, GitHub, Pools and Sink are required;
// zero numbers mean the default.
type PollerConfig struct {
	// App is the configured App's (or token's) name.
	App    string
	GitHub PollSource
	// Pools returns all configured pools; the Poller picks those of its App.
	Pools func(ctx context.Context) ([]muster.Pool, error)
	Sink  Sink
	// Books may be nil: then every run is looked at, and no old job is asked for again.
	Books Books
	// TrackUnmatched hands on jobs that no pool serves too.
	TrackUnmatched bool
	// Every is the time between two looks; 60 s by default (S1-108). The budget
	// stretches it.
	Every time.Duration
	// Grace is how long other senses have to tell of a run before its jobs are asked
	// for. Zero, for an App without a webhook, is not to wait for any.
	Grace time.Duration
	// Inbox, if any, keeps when the last look was, so that a control plane that is
	// restarted again and again does not look each time. Only with a Grace: where
	// nobody else tells of jobs, the first look comes at once. It also keeps where the jobs
	// of unnamed runners were looked for.
	Inbox Inbox
	// Again is how long a run in progress is taken to be as it was while GitHub gives
	// it the same time of change; 2 Every by default, 10 min with a Grace. For a
	// queued run it is 10 min at least.
	Again time.Duration
	// Relist is how long a list of repositories is used; 5 min by default.
	Relist time.Duration
	// MaxRepositories and MaxRuns bound how many repositories one look at an owner
	// lists runs of, and how many of those runs it asks the jobs of; 100 and 200 by
	// default. The rest comes first the next time.
	MaxRepositories, MaxRuns int
	// StaleAfter is how long a job may be believed to be queued before GitHub is
	// asked about it, and asked again; 1 h by default (4-8). MaxStale is how many are
	// asked for at a time; 5 by default.
	StaleAfter time.Duration
	MaxStale   int
	// MaxOpen is how many jobs one look at an owner asks for that are believed to be
	// under way and whose runs are not; 20 by default. MaxSearch is about how many
	// calls one round makes to find the jobs of runners that nobody named; 40 by default.
	MaxOpen, MaxSearch int
	Observer           PollObserver // may be nil
	Logger             *slog.Logger // may be nil
}

// Poller finds jobs by asking GitHub for them: all that a pool without a webhook
// hears, and what webhooks lost for the others. It looks at queued runs and at
// runs in progress, which hold queued jobs too (4-28). What it cannot learn leaves
// everything as it was: it never tells that there are no jobs (4-27).
type Poller struct {
	cfg PollerConfig

	// owners are visited one by one or each by one goroutine; polls do not overlap.
	owners map[string]*owner
	// rechecked is when old jobs were last asked for.
	rechecked map[muster.JobKey]time.Time
	// hunt is the search for jobs that nobody named, huntKept what the Inbox has of it;
	// remembered is whether it was asked.
	hunt       hunt
	huntKept   string
	remembered bool

	mu     sync.Mutex
	sights map[muster.Scope]sight
}

// sight is the last look at a scope.
type sight struct {
	at  time.Time // of the last whole one
	err error     // of the last one
}

// owner is an account of GitHub, whose scopes share a rate limit.
type owner struct {
	scopes    []muster.Scope
	pools     []muster.Pool // of those scopes
	notBefore time.Time
	lists     map[muster.Scope]*listing
	repos     map[string]*repo // by lower-case name
	failing   bool
}

type listing struct {
	at    time.Time
	repos []muster.RemoteRepository
}

// repo is what the Poller remembers of one repository.
type repo struct {
	name   string
	pushed time.Time
	scopes []muster.Scope // whose pools want it
	looked time.Time
	runs   map[int64]*run // seen active and not yet seen ended
	asked  map[muster.JobKey]respite
	cut    bool // GitHub showed only some of them the last time
	failed bool // the last look did
}

// run is what the Poller remembers of one run.
type run struct {
	muster.WorkflowRun
	// looked is when its jobs were last asked for, zero if never; of is the run as it
	// was then.
	looked time.Time
	of     muster.WorkflowRun
	// waits is since when it waits for its turn.
	waits   time.Time
	empty   bool // it had no jobs then
	foreign bool // it had jobs then, and none concerned anybody here
	gone    bool // it is in no list any more: its jobs have ended
}

// NewPoller makes a Poller that Run starts.
func NewPoller(cfg PollerConfig) *Poller {
	orDefault(&cfg.Every, 60*time.Second)
	again := 2 * cfg.Every
	if cfg.Grace > 0 {
		again = 10 * time.Minute
	}
	orDefault(&cfg.Again, again)
	orDefault(&cfg.Relist, 5*time.Minute)
	orDefault(&cfg.MaxRepositories, 100)
	orDefault(&cfg.MaxRuns, 200)
	orDefault(&cfg.StaleAfter, time.Hour)
	orDefault(&cfg.MaxStale, 5)
	orDefault(&cfg.MaxOpen, 20)
	orDefault(&cfg.MaxSearch, 40)
	if cfg.Observer == nil {
		cfg.Observer = deafPoll{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Poller{cfg: cfg, owners: map[string]*owner{}, rechecked: map[muster.JobKey]time.Time{}, sights: map[muster.Scope]sight{}}
}

// Run polls every cfg.Every until ctx ends, and returns nil. The first look comes at
// once, or when the last one of the process before is that old.
func (p *Poller) Run(ctx context.Context) error {
	wait := time.Duration(0)
	remembers := p.cfg.Inbox != nil && p.cfg.Grace > 0
	if remembers {
		value, err := p.cfg.Inbox.Watermark(ctx, p.name())
		if last, bad := time.Parse(time.RFC3339Nano, value); err == nil && bad == nil {
			wait = min(p.cfg.Every, p.cfg.Every-time.Since(last))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		begun := time.Now()
		// What went wrong was logged where it changed; the next look is the remedy.
		if err := p.Poll(ctx); err == nil && remembers {
			if err := p.cfg.Inbox.SetWatermark(ctx, p.name(), begun.UTC().Format(time.RFC3339Nano)); err != nil && ctx.Err() == nil {
				p.cfg.Logger.WarnContext(ctx, "time of the last poll was not kept", "app", p.cfg.App, "error", err)
			}
		}
		wait = max(p.cfg.Every-time.Since(begun), p.cfg.Every/10)
	}
}

func (p *Poller) name() string { return "poll/" + p.cfg.App }

// Fresh says when the scope was last looked at as a whole, zero if never, and what
// was wrong with the last look. A pool that hears of its jobs by polling alone
// knows its demand only while that time is recent.
func (p *Poller) Fresh(s muster.Scope) (at time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, ok := p.sights[s]
	if !ok {
		return time.Time{}, muster.Errorf(muster.CodeUnavailable, "%s has not been polled yet", s)
	}
	return seen.at, seen.err
}

func (p *Poller) saw(s muster.Scope, at time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.sights[s]
	if seen.err = err; err == nil {
		seen.at = at
	}
	p.sights[s] = seen
}

// concurrentOwners is how many owners are visited at a time; each has a rate limit
// of its own.
const concurrentOwners = 4

// Poll looks once at every owner whose time has come, and asks for a few old jobs.
// It is Run's step, exported for operators and tests; polls must not overlap.
func (p *Poller) Poll(ctx context.Context) error {
	pools, err := p.cfg.Pools(ctx)
	if err != nil {
		return fmt.Errorf("list pools to poll for: %w", err)
	}
	p.assign(pools)
	var (
		mu       sync.Mutex
		problems []error
		all      sync.WaitGroup
	)
	places := make(chan struct{}, concurrentOwners)
	for _, o := range p.owners {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if err := p.visit(ctx, o, pools); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
		})
	}
	all.Wait()
	if err := p.recheck(ctx); err != nil {
		problems = append(problems, fmt.Errorf("ask again for old jobs: %w", err))
	}
	if err := p.search(ctx, pools); err != nil {
		problems = append(problems, fmt.Errorf("look for the jobs that runners took: %w", err))
	}
	return errors.Join(problems...)
}

// assign tells the owners which pools they are polled for. Pools that a scale set
// tells of their jobs are not polled for.
func (p *Poller) assign(pools []muster.Pool) {
	for _, o := range p.owners {
		o.scopes, o.pools = nil, nil
	}
	for _, pool := range pools {
		if pool.Removed || !pool.Enabled || pool.ScaleSet != "" || pool.App != p.cfg.App && pool.App != "" {
			continue
		}
		key := ownerKey(pool.Scope)
		o := p.owners[key]
		if o == nil {
			o = &owner{lists: map[muster.Scope]*listing{}, repos: map[string]*repo{}}
			p.owners[key] = o
		}
		o.pools = append(o.pools, pool)
		if !slices.Contains(o.scopes, pool.Scope) {
			o.scopes = append(o.scopes, pool.Scope)
		}
	}
	for key, o := range p.owners {
		if len(o.pools) == 0 {
			delete(p.owners, key)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.sights {
		wanted := false
		for _, o := range p.owners {
			wanted = wanted || slices.Contains(o.scopes, s)
		}
		if !wanted {
			delete(p.sights, s)
		}
	}
}

// ownerKey tells owners apart; an enterprise may be named like an organization.
func ownerKey(s muster.Scope) string {
	if s.Kind == muster.ScopeEnterprise {
		return strings.ToLower(s.String())
	}
	return strings.ToLower(s.Owner)
}

// visit looks at one owner, if its time has come.
func (p *Poller) visit(ctx context.Context, o *owner, pools []muster.Pool) error {
	begun := time.Now()
	if begun.Before(o.notBefore) {
		return nil
	}
	stretch := p.cfg.GitHub.Stretch(o.scopes[0])
	v := &look{Poller: p, owner: o, pools: pools, begun: begun, failed: map[muster.Scope]error{}}
	var err error
	if stretch <= 0 {
		err = muster.Errorf(muster.CodeUnavailable, "what is left of the rate limit is kept for jobs")
	} else {
		err = v.all(ctx)
	}
	if ctx.Err() != nil {
		return nil // the process ends; that says nothing about GitHub
	}
	// Half an interval early, so that the round it belongs to finds it ready.
	o.notBefore = begun.Add(p.cfg.Every*time.Duration(max(1, stretch)) - p.cfg.Every/2)
	outcome := "done"
	if err != nil {
		outcome = "failed"
		if e, ok := errors.AsType[*muster.Error](err); ok && e.RetryAfter > 0 {
			outcome = "parked"
			if until := time.Now().Add(e.RetryAfter); until.After(o.notBefore) {
				o.notBefore = until
			}
		}
		if stretch <= 0 {
			outcome = "parked"
		}
		err = fmt.Errorf("poll %s as %s: %w", o.scopes[0].Owner, p.cfg.App, err)
		if !o.failing {
			p.cfg.Logger.WarnContext(ctx, "polling is held up; what is known of jobs stays", "app", p.cfg.App, "owner", o.scopes[0].Owner, "error", err, "next", o.notBefore)
		}
	}
	o.failing = err != nil
	for _, s := range o.scopes {
		p.saw(s, begun, cmp.Or(v.failed[s], err))
	}
	p.cfg.Observer.Polled(p.cfg.App, outcome, v.calls, time.Since(begun))
	return err
}

// look is one look at one owner.
type look struct {
	*Poller
	owner *owner
	pools []muster.Pool // all, for the jobs' sake
	begun time.Time
	calls int
	// failed is what is wrong with a scope alone.
	failed map[muster.Scope]error
	// missed counts calls in a row that got no answer; trouble is what came of one.
	missed  int
	trouble error
}

// all looks at the repositories whose turn it is. An error means that not all of
// what was to be learned was.
func (v *look) all(ctx context.Context) error {
	if err := v.repositories(ctx); err != nil {
		return err
	}
	var due []*repo
	seen := map[muster.Scope]bool{}
	hidden := map[muster.Scope]error{}
	for _, r := range v.turn() {
		err := v.runs(ctx, r)
		if r.failed = err != nil; r.failed {
			r.looked = v.begun
			if err := v.stop(err); err != nil {
				return err
			}
			for _, s := range r.scopes {
				hidden[s] = err
			}
			continue
		}
		v.missed = 0
		for _, s := range r.scopes {
			seen[s] = true
		}
		due = append(due, r)
	}
	// One repository that was renamed, deleted or has Actions switched off says
	// nothing about the others; that none can be seen does.
	for s, err := range hidden {
		if !seen[s] {
			v.failed[s] = err
		}
	}
	if err := v.jobs(ctx, due); err != nil {
		return err
	}
	if err := v.open(ctx, due); err != nil {
		return err
	}
	return v.trouble
}

// maxMissed is how many calls in a row may go without an answer before the rest is
// left for the next look.
const maxMissed = 3

// stop returns the error if it ends the look. What concerns one repository or run
// alone does not, nor does an answer that failed to come once or twice.
func (v *look) stop(err error) error {
	if !stops(err) {
		return nil
	}
	e, _ := errors.AsType[*muster.Error](err)
	if v.missed++; e == nil || e.Code != muster.CodeUnavailable || e.RetryAfter > 0 || v.missed == maxMissed {
		return err
	}
	v.trouble = err
	return nil
}

// stops reports whether an error concerns more than what was asked for.
func stops(err error) bool {
	switch muster.CodeOf(err) {
	case muster.CodeNotFound, muster.CodeForbidden, muster.CodeGone, muster.CodeInvalid, muster.CodeConflict:
		return false
	}
	return true
}

// repositories brings up to date which repositories the pools want.
func (v *look) repositories(ctx context.Context) error {
	o := v.owner
	for _, r := range o.repos {
		r.scopes = nil
	}
	want := func(name string, pushed time.Time, s muster.Scope) {
		key := strings.ToLower(name)
		r := o.repos[key]
		if r == nil {
			r = &repo{name: name, runs: map[int64]*run{}}
			o.repos[key] = r
		}
		if pushed.After(r.pushed) {
			r.pushed = pushed
		}
		if !slices.Contains(r.scopes, s) {
			r.scopes = append(r.scopes, s)
		}
	}
	for _, pool := range o.pools {
		switch {
		case pool.Scope.Kind == muster.ScopeRepository:
			want(pool.Scope.String(), time.Time{}, pool.Scope)
		case len(pool.Repositories) > 0:
			for _, name := range pool.Repositories {
				if pool.Scope.Covers(name) {
					want(name, time.Time{}, pool.Scope)
				}
			}
		default:
			list, err := v.list(ctx, pool.Scope)
			if err != nil && stops(err) {
				return err
			}
			if err != nil {
				v.failed[pool.Scope] = err
				continue
			}
			for _, r := range list {
				want(r.Name, r.PushedAt, pool.Scope)
			}
		}
	}
	for key, r := range o.repos {
		if len(r.scopes) == 0 {
			delete(o.repos, key)
		}
	}
	return nil
}

// list returns the repositories of a scope, asking GitHub when the list is old.
func (v *look) list(ctx context.Context, s muster.Scope) ([]muster.RemoteRepository, error) {
	l := v.owner.lists[s]
	if l != nil && v.begun.Sub(l.at) < v.cfg.Relist {
		return l.repos, nil
	}
	v.calls++
	repos, err := v.cfg.GitHub.Repositories(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("list repositories of %s: %w", s, err)
	}
	v.owner.lists[s] = &listing{at: v.begun, repos: repos}
	return repos, nil
}

// recentPush is how long after a push a repository is taken to be active.
const recentPush = time.Hour

// turn picks the repositories to look at, the most active ones first. When there
// are too many, a quarter of the places goes to those that were quiet, and within
// each group who was not looked at for longest is first, so that everyone has a turn.
func (v *look) turn() []*repo {
	var active, quiet []*repo
	for _, r := range v.owner.repos {
		if len(r.runs) > 0 || v.begun.Sub(r.pushed) < recentPush {
			active = append(active, r)
		} else {
			quiet = append(quiet, r)
		}
	}
	waiting := func(a, b *repo) int {
		return cmp.Or(a.looked.Compare(b.looked), b.pushed.Compare(a.pushed), cmp.Compare(a.name, b.name))
	}
	slices.SortFunc(active, waiting)
	slices.SortFunc(quiet, waiting)
	most := v.cfg.MaxRepositories
	if len(active)+len(quiet) > most {
		forQuiet := min(len(quiet), max(most/4, most-len(active), 1))
		active, quiet = active[:min(len(active), max(0, most-forQuiet))], quiet[:forQuiet]
	}
	slices.SortStableFunc(active, func(a, b *repo) int { return b.pushed.Compare(a.pushed) })
	all := append(active, quiet...)
	// Those that failed come last: they must not use up the patience every time.
	slices.SortStableFunc(all, func(a, b *repo) int {
		switch {
		case a.failed == b.failed:
			return 0
		case a.failed:
			return 1
		}
		return -1
	})
	return all
}

// runs lists the repository's active runs.
func (v *look) runs(ctx context.Context, r *repo) error {
	found := map[int64]bool{}
	// hidden is the oldest run shown of a list that is cut: what is older may be there.
	hidden := int64(0)
	// Queued first: a run that begins meanwhile is in the second list.
	for _, status := range []string{"queued", "in_progress"} {
		v.calls++
		list, total, err := v.cfg.GitHub.Runs(ctx, r.name, status)
		if err != nil {
			return fmt.Errorf("list %s runs of %s: %w", status, r.name, err)
		}
		for _, one := range list {
			found[one.ID] = true
			known := r.runs[one.ID]
			if known == nil {
				known = &run{waits: v.begun}
				r.runs[one.ID] = known
			}
			known.WorkflowRun, known.gone = one, false
			if total > len(list) && (hidden == 0 || one.ID < hidden) {
				hidden = one.ID
			}
		}
		if total > len(list) && !r.cut {
			v.cfg.Logger.WarnContext(ctx, "GitHub shows only some of the runs; the others follow when these have ended", "app", v.cfg.App, "repository", r.name,
				"status", status, "shown", len(list), "total", total)
		}
	}
	r.looked, r.cut = v.begun, hidden > 0
	for id, one := range r.runs {
		switch {
		case found[id] || id < hidden:
		case one.empty || one.looked.IsZero() && v.cfg.Books == nil:
			delete(r.runs, id) // nothing was told of it, so nothing is to be ended
		case !one.gone:
			one.gone, one.UpdatedAt, one.waits = true, v.begun, v.begun
		}
	}
	return nil
}

// jobs asks for the jobs of the runs whose turn it is, in turns over the
// repositories, so that one with a thousand runs does not hold up the others.
func (v *look) jobs(ctx context.Context, repos []*repo) error {
	queues := make([][]*run, 0, len(repos))
	for _, r := range repos {
		var queue []*run
		for id, one := range r.runs {
			ask, err := v.due(ctx, one)
			if err != nil {
				return err
			}
			switch {
			case ask:
				queue = append(queue, one)
			case one.gone:
				if v.begun.Sub(one.UpdatedAt) >= v.cfg.Grace {
					delete(r.runs, id) // the books know how it ended
				}
			}
		}
		slices.SortFunc(queue, func(a, b *run) int { // what is new, then who waits for longest, then the oldest
			return cmp.Or(cmp.Compare(a.rank(), b.rank()), a.waits.Compare(b.waits), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		})
		queues = append(queues, queue)
	}
	for asked := 0; asked < v.cfg.MaxRuns; {
		before := asked
		for i, queue := range queues {
			if len(queue) == 0 || asked == v.cfg.MaxRuns {
				continue
			}
			one := queue[0]
			queues[i] = queue[1:]
			asked++
			one.waits = v.begun
			if err := v.ask(ctx, one); err != nil {
				if err := v.stop(err); err != nil {
					return err
				}
				continue
			}
			v.missed = 0
			if one.gone {
				delete(repos[i].runs, one.ID)
			}
		}
		if asked == before {
			break
		}
	}
	return nil
}

const (
	// settle is how long after a change GitHub's lists may lag behind it, and two
	// changes may bear the same time, which is in whole seconds.
	settle = 10 * time.Second
	// youth is how long a run without jobs may still be getting some.
	youth = 10 * time.Minute
	// patience is how long a queued run with jobs is taken to be as it was.
	patience = 10 * time.Minute
)

// due says whether a run's jobs are to be asked for.
func (v *look) due(ctx context.Context, one *run) (bool, error) {
	if v.cfg.Books != nil && v.cfg.Grace > 0 {
		return v.lost(ctx, one)
	}
	switch {
	case one.looked.IsZero(), one.gone, changed(one), one.looked.Sub(one.of.UpdatedAt) < settle:
		return true, nil
	case one.empty && v.begun.Sub(one.CreatedAt) < youth:
		return true, nil
	case one.empty:
		return false, nil // nothing became of it
	case v.begun.Sub(one.looked) >= v.again(one):
		return true, nil // later jobs of a run are queued while its own time may stand still
	}
	return false, nil
}

// rank orders runs that have news before those that are looked at to make sure.
func (r *run) rank() int {
	if r.looked.IsZero() || r.gone || changed(r) {
		return 0
	}
	return 1
}

// again is how long a run is taken to be as it was while GitHub shows no change.
func (v *look) again(one *run) time.Duration {
	if one.Status == string(muster.JobQueued) {
		return max(v.cfg.Again, patience)
	}
	return v.cfg.Again
}

func changed(one *run) bool {
	return one.Status != one.of.Status || one.Attempt != one.of.Attempt || !one.UpdatedAt.Equal(one.of.UpdatedAt)
}

// lost is due for an App with a webhook: what other senses tell is not asked for.
func (v *look) lost(ctx context.Context, one *run) (bool, error) {
	again := one.Status != string(muster.JobQueued) && v.begun.Sub(one.looked) >= v.cfg.Again
	switch {
	case v.begun.Sub(one.UpdatedAt) < v.cfg.Grace:
		return false, nil // they may still tell
	case one.looked.IsZero(), one.gone, again, changed(one) && !one.foreign, one.empty && v.begun.Sub(one.CreatedAt) < youth:
	default:
		return false, nil
	}
	jobs, err := v.cfg.Books.JobsOfRun(ctx, one.Repository, one.ID)
	if err != nil {
		return false, fmt.Errorf("look up the jobs of run %d: %w", one.ID, err)
	}
	open := slices.ContainsFunc(jobs, func(j muster.Job) bool { return j.State != muster.JobCompleted })
	switch {
	case one.gone:
		return open, nil // nobody told how it ended
	case !open:
		return true, nil // nobody told of it, or of what goes on in it now
	case one.looked.IsZero() || one.Status == string(muster.JobQueued):
		// It is known. What it does later is looked at after a while only.
		one.looked, one.of = v.begun, one.WorkflowRun
		return false, nil
	}
	return again, nil
}

// ask asks for the jobs of a run and hands on what concerns the pools.
func (v *look) ask(ctx context.Context, one *run) error {
	v.calls++
	events, err := v.cfg.GitHub.RunJobs(ctx, one.WorkflowRun)
	if err != nil && !stops(err) {
		one.gone = true // it was deleted
		return nil
	}
	if err != nil {
		return fmt.Errorf("list jobs of run %d of %s: %w", one.ID, one.Repository, err)
	}
	var known []muster.Job
	if v.cfg.Books != nil && len(events) > 0 {
		if known, err = v.cfg.Books.JobsOfRun(ctx, one.Repository, one.ID); err != nil {
			return fmt.Errorf("look up the jobs of run %d: %w", one.ID, err)
		}
	}
	concerned := 0
	for _, e := range events {
		if !v.concerns(e, known) {
			continue
		}
		concerned++
		if _, err := v.cfg.Sink.Job(ctx, e); err != nil {
			if muster.CodeOf(err) != muster.CodeInvalid {
				return fmt.Errorf("hand on job %s: %w", e.Key(), err) // offered again by the next look
			}
			v.cfg.Logger.WarnContext(ctx, "polled job is refused", "app", v.cfg.App, "job", e.Key().String(), "repository", e.Repository, "error", err)
			continue
		}
		v.found(e, known)
	}
	one.looked, one.of = v.begun, one.WorkflowRun
	one.empty, one.foreign = len(events) == 0, len(events) > 0 && concerned == 0
	return nil
}

// concerns reports whether a job is anybody's business: of a pool that serves it
// by its labels, both ways (C8), of the books, or of a runner that may be ours.
func (v *look) concerns(e muster.JobEvent, known []muster.Job) bool {
	switch {
	case e.NotAJob():
		return false
	case v.cfg.TrackUnmatched:
		return true
	case slices.ContainsFunc(known, func(j muster.Job) bool { return j.Key == e.Key() }):
		return true
	case e.RunnerName != "" && e.RunnerGroup != hosted:
		return true // a job that no pool wants may have taken a runner of ours (4-2)
	}
	j, _, err := muster.Job{}.Apply(e)
	if err != nil {
		return false
	}
	_, ok := muster.Route(v.pools, j)
	return ok
}

// hosted is the group in which GitHub shows its own runners.
const hosted = "GitHub Actions"

// found counts what the books did not know.
func (v *look) found(e muster.JobEvent, known []muster.Job) {
	if v.cfg.Books == nil {
		return
	}
	now, _, err := muster.Job{}.Apply(e)
	if err != nil {
		return
	}
	for _, j := range known {
		if j.Key == now.Key && j.State.Rank() >= now.State.Rank() {
			return
		}
	}
	at := e.CreatedAt
	switch now.State {
	case muster.JobInProgress:
		at = cmp.Or(e.StartedAt, at)
	case muster.JobCompleted:
		at = cmp.Or(e.CompletedAt, at)
	}
	after := time.Duration(0)
	if !at.IsZero() {
		after = max(0, time.Since(at))
	}
	v.cfg.Observer.Found(v.cfg.App, string(now.State), after)
}

// recheck asks GitHub about a few of the jobs that are believed to be queued for
// long: what no list shows any more has ended, or was never told of (4-8).
func (p *Poller) recheck(ctx context.Context) error {
	if p.cfg.Books == nil || p.cfg.MaxStale < 0 {
		return nil
	}
	now := time.Now()
	for key, at := range p.rechecked {
		if now.Sub(at) >= p.cfg.StaleAfter {
			delete(p.rechecked, key)
		}
	}
	jobs, err := p.cfg.Books.StaleJobs(ctx, now.Add(-p.cfg.StaleAfter), len(p.rechecked)+p.cfg.MaxStale)
	if err != nil {
		return err
	}
	asked := 0
	for _, j := range jobs {
		if _, recent := p.rechecked[j.Key]; recent || asked == p.cfg.MaxStale {
			continue
		}
		asked++
		if answered, err := p.lookUp(ctx, []muster.Job{j}); err != nil && (answered || stops(err)) {
			return err
		}
		p.rechecked[j.Key] = now // also one that is not to be had: the next one may be
	}
	return nil
}

// lookUp asks GitHub about jobs of one attempt of one run, and hands on what became
// of them. answered is true if GitHub said so, and then an error is the Sink's.
func (p *Poller) lookUp(ctx context.Context, jobs []muster.Job) (answered bool, err error) {
	if len(jobs) == 1 {
		e, err := p.cfg.GitHub.Job(ctx, jobs[0].Repository, jobs[0].Key.ID)
		if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return false, err
		}
		return true, p.became(ctx, jobs[0], e, err == nil)
	}
	first := jobs[0]
	events, err := p.cfg.GitHub.RunJobs(ctx, muster.WorkflowRun{
		ID: first.RunID, Attempt: first.Key.Attempt, Repository: first.Repository, PublicRepo: first.PublicRepo,
		Trigger: first.Trigger, Workflow: first.Workflow, HeadBranch: first.HeadBranch, HeadSHA: first.HeadSHA,
	})
	gone := muster.CodeOf(err) == muster.CodeNotFound
	if err != nil && !gone {
		return false, err
	}
	for _, j := range jobs {
		i := slices.IndexFunc(events, func(e muster.JobEvent) bool { return e.Key() == j.Key })
		switch {
		case i >= 0:
			err = p.became(ctx, j, events[i], true)
		case gone:
			err = p.became(ctx, j, muster.JobEvent{}, false)
		default: // the run has a later attempt, and GitHub lists that one's jobs
			answered, err = p.lookUp(ctx, []muster.Job{j})
			if err != nil && !answered {
				return false, err
			}
		}
		if err != nil {
			return true, err
		}
	}
	return true, nil
}

// became hands on what GitHub says of a job, if that is news. A job that GitHub does
// not have any more was cancelled.
func (p *Poller) became(ctx context.Context, j muster.Job, e muster.JobEvent, there bool) error {
	now := time.Now()
	if !there {
		e = muster.JobEvent{Action: "completed", ID: j.Key.ID, Attempt: j.Key.Attempt, Status: muster.JobCompleted, Conclusion: "cancelled", CompletedAt: now}
	}
	e.App, e.Sense, e.InstallationID, e.Repository, e.ReceivedAt, e.TraceID = p.cfg.App, muster.SensePoll, j.Installation, j.Repository, now, j.TraceID
	if e.Status.Rank() <= j.State.Rank() {
		return nil
	}
	if _, err := p.cfg.Sink.Job(ctx, e); err != nil && muster.CodeOf(err) != muster.CodeInvalid {
		return fmt.Errorf("hand on job %s: %w", j.Key, err)
	}
	p.cfg.Observer.Found(p.cfg.App, string(e.Status), now.Sub(j.QueuedAt()))
	p.cfg.Logger.InfoContext(ctx, "job was believed to be "+string(j.State), "app", p.cfg.App, "job", j.Key.String(), "repository", j.Repository, "is", e.Status, "conclusion", e.Conclusion)
	return nil
}

// deafPoll is the PollObserver of those who gave none.
type deafPoll struct{}

func (deafPoll) Polled(string, string, int, time.Duration) {}
func (deafPoll) Found(string, string, time.Duration)       {}
