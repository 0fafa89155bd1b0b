package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// ScaleSets is what a ScaleSetListener needs of its App's GitHub client.
type ScaleSets interface {
	// EnsureScaleSet finds the set, or makes it, and gives it the labels.
	EnsureScaleSet(ctx context.Context, s muster.Scope, name string, group int64, labels muster.Labels) (muster.ScaleSet, error)
	// RunJobs lists the jobs of a run's latest attempt.
	RunJobs(ctx context.Context, run muster.WorkflowRun) ([]muster.JobEvent, error)
}

// ScaleSetSession is the one session of a scale set, used by one goroutine.
type ScaleSetSession interface {
	// Statistics are those that came with the session; nil if none did.
	Statistics() *muster.ScaleSetStatistics
	// Message waits for the message after last; ok is false if none came for long.
	Message(ctx context.Context, last int64, capacity int) (m muster.ScaleSetMessage, ok bool, err error)
	// Acknowledge ends a message, which comes again until then.
	Acknowledge(ctx context.Context, message int64) error
	// Acquire asks for available jobs by their RequestID.
	Acquire(ctx context.Context, requests []int64) ([]int64, error)
	Close(ctx context.Context) error
}

// ScaleSetLedger is the durable memory of what scale sets said. The store
// implements it.
type ScaleSetLedger interface {
	// NoteScaleSet is durable when it returns, and idempotent.
	NoteScaleSet(ctx context.Context, workspace, pool string, news []muster.ScaleSetJob, statistics *muster.ScaleSetStatistics, at time.Time) error
	// ScaleSetJobs returns the assignments that are not over, the oldest news first.
	ScaleSetJobs(ctx context.Context, workspace, pool string) ([]muster.ScaleSetJob, error)
	UpdateScaleSetJob(ctx context.Context, workspace, pool, id string, change func(*muster.ScaleSetJob) error) error
	// JobsOfRun returns what any sense told of the jobs of a run.
	JobsOfRun(ctx context.Context, workspace, repository string, runID int64) ([]muster.Job, error)
}

// ScaleSetListenerConfig is what a ScaleSetListener needs. Zero numbers mean the
// default.
type ScaleSetListenerConfig struct {
	Workspace string
	Pool      string
	// Settings reads the pool as it is now. Its Scaling.MaxRunners is what is
	// announced to GitHub.
	Settings func(ctx context.Context) (muster.Pool, error)
	// Owner names the control plane in GitHub's words to whoever is refused a
	// session because of this one. It is the same after a restart.
	Owner  string
	GitHub ScaleSets
	// Open opens the session of a set that EnsureScaleSet found. CodeConflict means
	// that another one is open, CodeNotFound that the set is gone.
	Open   func(ctx context.Context, s muster.Scope, set, owner string) (ScaleSetSession, error)
	Ledger ScaleSetLedger
	Sink   Sink
	// Wake has the pool decide anew, because what waits for it has changed. A
	// failure is of no consequence but the time until the pool decides by itself.
	Wake func(ctx context.Context, workspace, pool string) error // may be nil
	// Look is how often the pool's settings are looked at; 10 s by default.
	Look time.Duration
	// Patience is how long another sense may take to name a job before GitHub is
	// asked; 5 s by default. What has no name is served by its number meanwhile.
	Patience time.Duration
	// Grace is how long GitHub's numbers may be behind its messages; 2 min by default.
	Grace time.Duration
	// Silence is how long GitHub may say nothing, while it counts jobs, before it is
	// asked for its numbers: a last message may not come; 10 min by default.
	Silence time.Duration
	// MinRetry and MaxRetry bound the pause after a failure; 5 s and 30 s by default.
	MinRetry time.Duration
	MaxRetry time.Duration
	Logger   *slog.Logger // may be nil
}

const (
	// stepTimeout bounds what is done about one message, closeTimeout the end of a
	// session: the process wants to end.
	stepTimeout  = 30 * time.Second
	closeTimeout = 5 * time.Second
	// maxFailures in a row end a session.
	maxFailures = 8
	// maxAsked is how many runs GitHub is asked about in one pass over the books.
	maxAsked = 10
	// longestAsk is the longest time between two questions about one assignment.
	longestAsk = 5 * time.Minute
	// unknownAfter is when the search for the job of a completed assignment ends.
	unknownAfter = time.Hour
	// overAfter is when an assignment is over whatever is heard: GitHub ends jobs
	// after 5 days (docs.github.com, "Actions limits").
	overAfter = 6 * 24 * time.Hour
)

// ScaleSetListener holds the session of one pool's scale set. What GitHub says is
// written down before it is acknowledged; from the books it is handed to the Sink
// once it is known which job it is about, which no message says.
type ScaleSetListener struct {
	cfg   ScaleSetListenerConfig
	nudge chan struct{}

	mu     sync.Mutex
	status muster.ScaleSetStatus

	// Used by the goroutine that holds the session only: how many jobs were offered
	// and are still to be had, and when GitHub last told its numbers.
	offers int
	heard  time.Time

	// Used by the reconciling goroutine only: when GitHub may be asked about an
	// assignment again.
	asked map[string]question
}

// canceled is GitHub's word for an assignment that was taken back, by a user or
// because no runner came.
const canceled = "canceled"

// question is when GitHub may be asked about an assignment again.
type question struct {
	tries int
	next  time.Time
	// doubted is set once GitHub said what has become of an assignment that it seems
	// not to count any more.
	doubted bool
}

// NewScaleSetListener makes a ScaleSetListener that Run starts.
func NewScaleSetListener(cfg ScaleSetListenerConfig) *ScaleSetListener {
	orDefault(&cfg.Look, 10*time.Second)
	orDefault(&cfg.Patience, 5*time.Second)
	orDefault(&cfg.Grace, 2*time.Minute)
	orDefault(&cfg.Silence, 10*time.Minute)
	orDefault(&cfg.MinRetry, 5*time.Second)
	orDefault(&cfg.MaxRetry, 30*time.Second)
	if cfg.Wake == nil {
		cfg.Wake = func(context.Context, string, string) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("pool", cfg.Pool)
	return &ScaleSetListener{
		cfg: cfg, nudge: make(chan struct{}, 1), asked: map[string]question{},
		status: muster.ScaleSetStatus{Pool: cfg.Pool, State: muster.ScaleSetStarting, Since: time.Now()},
	}
}

// Status says how the listener stands. Safe for concurrent use.
func (l *ScaleSetListener) Status() muster.ScaleSetStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// enter notes what the listener does now, and logs a change of it.
func (l *ScaleSetListener) enter(ctx context.Context, state muster.ScaleSetState, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.status.State != state
	l.status.Error = why
	if state != muster.ScaleSetListening {
		l.status.Capacity = 0
	}
	if !changed {
		return
	}
	l.status.State, l.status.Since = state, time.Now()
	level := slog.LevelInfo
	if state == muster.ScaleSetFailing {
		level = slog.LevelWarn
	}
	l.cfg.Logger.Log(ctx, level, "scale set "+string(state), "scale_set", l.status.ScaleSet, "reason", why)
}

// Run listens until ctx ends, and returns nil. It first acts on what the books
// say, because another session may keep it from opening its own for long.
func (l *ScaleSetListener) Run(ctx context.Context) error {
	l.reconcile(ctx, 0)
	var books sync.WaitGroup
	defer books.Wait()
	books.Go(func() { l.keepBooks(ctx) })

	failures := 0
	ensured := muster.Pool{}
	for ctx.Err() == nil {
		pool, err := l.cfg.Settings(ctx)
		if err == nil {
			if _, why := capacity(pool, muster.ScaleSetStatistics{}); why != "" {
				l.enter(ctx, muster.ScaleSetClosed, why)
				failures = 0
				pause(ctx, l.cfg.Look)
				continue
			}
			l.mu.Lock()
			l.status.ScaleSet = pool.ScaleSet
			l.mu.Unlock()
			if !sameSet(ensured, pool) {
				if _, err = l.cfg.GitHub.EnsureScaleSet(ctx, pool.Scope, pool.ScaleSet, pool.RunnerGroup, pool.Labels); err == nil {
					ensured = pool
				}
			}
		}
		held := false
		if err == nil {
			held, err = l.hold(ctx, pool)
		}
		if ctx.Err() != nil {
			break
		}
		if held {
			failures = 0
		}
		if err == nil {
			continue // the pool closed, or was changed
		}
		state := muster.ScaleSetFailing
		if muster.CodeOf(err) == muster.CodeConflict {
			state = muster.ScaleSetWaiting
		} else {
			ensured = muster.Pool{} // it may be that the set vanished
		}
		wait := l.backoff(failures)
		failures++
		if e, ok := errors.AsType[*muster.Error](err); ok {
			wait = max(wait, e.RetryAfter)
		}
		l.enter(ctx, state, muster.MessageOf(err))
		pause(ctx, wait)
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// backoff is the pause after a number of failures: twice as long each time, and
// up to half of it random.
func (l *ScaleSetListener) backoff(earlier int) time.Duration {
	wait := min(l.cfg.MinRetry<<min(earlier, 10), l.cfg.MaxRetry)
	return wait/2 + rand.N(wait/2+1)
}

// capacity is how many runners the pool announces, or why it must not take jobs.
// Zero is never announced: a job that is queued at that time is kept from the set
// for ever (peers.md §5.6). A pool that takes none announces what runs in it, to
// hear of the end of that, and then closes the session.
func capacity(p muster.Pool, s muster.ScaleSetStatistics) (n int, why string) {
	switch {
	case p.Removed:
		why = "the pool is no longer configured"
	case !p.Enabled:
		why = "the pool is disabled"
	case p.Suspended:
		why = "the pool is suspended"
	case p.ScaleSet == "":
		why = "the pool has no scale set"
	case p.Scaling.MaxRunners < 1:
		why = "the pool may have no runners"
	default:
		return p.Scaling.MaxRunners, ""
	}
	return s.Running, why
}

// sameSet reports whether two settings of a pool mean the same scale set.
func sameSet(a, b muster.Pool) bool {
	return a.Scope == b.Scope && a.ScaleSet == b.ScaleSet && a.RunnerGroup == b.RunnerGroup && slices.Equal(a.Labels, b.Labels)
}

// hold opens the session and takes messages until the session or ctx ends, or the
// pool wants another one. held says that it was open.
func (l *ScaleSetListener) hold(ctx context.Context, pool muster.Pool) (held bool, err error) {
	session, err := l.cfg.Open(ctx, pool.Scope, pool.ScaleSet, l.cfg.Owner)
	if err != nil {
		return false, err
	}
	defer func() {
		// Also when ctx has ended: an open session keeps the next one waiting.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := session.Close(end); err != nil {
			l.cfg.Logger.DebugContext(ctx, "session stays open", "error", err)
		}
	}()
	last, failures := int64(0), 0
	// fails deals with an error in the middle: the session goes on, or err is its end.
	fails := func(err error) (over bool) {
		switch muster.CodeOf(err) {
		case muster.CodeUnavailable, muster.CodeInternal:
		default:
			return true
		}
		wait := l.backoff(failures)
		if failures++; failures > maxFailures {
			return true // another session may do better
		}
		if e, ok := errors.AsType[*muster.Error](err); ok {
			wait = max(wait, e.RetryAfter)
		}
		l.enter(ctx, muster.ScaleSetFailing, muster.MessageOf(err))
		pause(ctx, wait)
		return ctx.Err() != nil
	}
	// The numbers of the session say what happened while nobody listened.
	for {
		err := l.note(ctx, nil, session.Statistics())
		if err == nil {
			l.offers = 1 // there may be some from before
			break
		}
		if fails(err) {
			return true, err
		}
	}
	for ctx.Err() == nil {
		if now, err := l.cfg.Settings(ctx); err == nil && ctx.Err() == nil {
			if !sameSet(now, pool) {
				return true, nil
			}
			pool = now
		}
		n, why := capacity(pool, l.Status().Statistics)
		if n < 1 {
			// What is assigned and waits goes back to GitHub; the numbers end here.
			l.enter(ctx, muster.ScaleSetClosed, why)
			return true, l.note(ctx, nil, &muster.ScaleSetStatistics{})
		}
		if failures == 0 {
			l.enter(ctx, muster.ScaleSetListening, why)
		}
		m, ok, err := l.wait(ctx, session, last, n, pool)
		if ctx.Err() != nil {
			break
		}
		if err == nil && ok {
			err = l.take(ctx, session, m)
		}
		if err == nil && !ok {
			err = l.confirm(ctx, pool)
		}
		if err == nil && l.offers > 0 {
			err = l.acquire(ctx, session)
		}
		switch {
		case err != nil && fails(err):
			return true, err
		case err != nil:
		case ok:
			last, failures = m.ID, 0
		default:
			failures = 0
		}
	}
	return true, nil
}

// wait waits for a message. It returns without one when the pool's settings
// change: what is announced has to follow, and a message that was on its way comes
// again.
func (l *ScaleSetListener) wait(ctx context.Context, session ScaleSetSession, last int64, capacityNow int, pool muster.Pool) (m muster.ScaleSetMessage, ok bool, err error) {
	l.mu.Lock()
	l.status.Capacity = capacityNow
	l.mu.Unlock()
	ctx, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			pause(ctx, l.cfg.Look)
			now, err := l.cfg.Settings(ctx)
			if err != nil {
				continue
			}
			if n, _ := capacity(now, l.Status().Statistics); n != capacityNow || !sameSet(now, pool) {
				stop()
			}
		}
	})
	m, ok, err = session.Message(ctx, last, capacityNow)
	if ctx.Err() != nil {
		ok, err = false, nil
	}
	stop()
	watch.Wait()
	return m, ok, err
}

// take makes a message durable and acknowledges it, in this order: a crash between
// the two brings it again, and the second time changes nothing. It finishes even
// when ctx ends, within its own time.
func (l *ScaleSetListener) take(ctx context.Context, session ScaleSetSession, m muster.ScaleSetMessage) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	news := slices.Clone(m.Jobs)
	offered := false
	for i, j := range news {
		offered = offered || j.State == muster.ScaleSetJobAvailable
		if j.ID == "" {
			// Servers from before the id; the number is unique there.
			news[i].ID = fmt.Sprint("request/", j.RequestID)
		}
	}
	if err := l.note(ctx, news, m.Statistics); err != nil {
		return err
	}
	if offered {
		if err := l.acquire(ctx, session); err != nil {
			return err
		}
	}
	return session.Acknowledge(ctx, m.ID)
}

// confirm notes that GitHub's last numbers hold still, which a poll without a
// message says, so that every control plane knows that somebody listens. After a
// long silence it asks for the numbers.
func (l *ScaleSetListener) confirm(ctx context.Context, pool muster.Pool) error {
	s := l.Status().Statistics
	if time.Since(l.heard) >= l.cfg.Silence && s.Assigned+s.Running+s.Available > 0 {
		set, err := l.cfg.GitHub.EnsureScaleSet(ctx, pool.Scope, pool.ScaleSet, pool.RunnerGroup, pool.Labels)
		if err != nil {
			return err
		}
		return l.note(ctx, nil, set.Statistics)
	}
	now := time.Now()
	if err := l.cfg.Ledger.NoteScaleSet(ctx, l.cfg.Workspace, l.cfg.Pool, nil, &s, now); err != nil {
		return fmt.Errorf("write down that the scale set is silent: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.StatisticsAt = now
	return nil
}

// acquire asks for the jobs that were offered and that nobody has. What the set
// does not get, because it is full or another one was quicker, is not offered
// again: it is asked for later, as long as GitHub counts available jobs.
func (l *ScaleSetListener) acquire(ctx context.Context, session ScaleSetSession) error {
	list, err := l.cfg.Ledger.ScaleSetJobs(ctx, l.cfg.Workspace, l.cfg.Pool)
	if err != nil {
		return fmt.Errorf("read the books of the scale set: %w", err)
	}
	var offers []int64
	for _, j := range list {
		if j.State == muster.ScaleSetJobAvailable {
			offers = append(offers, j.RequestID)
		}
	}
	l.offers = len(offers)
	if l.offers == 0 {
		return nil
	}
	got, err := session.Acquire(ctx, offers)
	switch muster.CodeOf(err) {
	case "":
	case muster.CodeInvalid, muster.CodeNotFound, muster.CodeConflict, muster.CodeGone:
		// They cannot be had, and the message must not come for ever.
		l.cfg.Logger.WarnContext(ctx, "scale set's jobs not acquired", "count", len(offers), "error", err)
		got = offers
	default:
		return err
	}
	none := l.Status().Statistics.Available == 0
	for _, j := range list {
		gone := none && time.Since(j.ChangedAt) > l.cfg.Grace
		if j.State != muster.ScaleSetJobAvailable || !gone && !slices.Contains(got, j.RequestID) {
			continue
		}
		err := l.cfg.Ledger.UpdateScaleSetJob(ctx, l.cfg.Workspace, l.cfg.Pool, j.ID, func(j *muster.ScaleSetJob) error {
			if j.State == muster.ScaleSetJobAvailable {
				j.Over = muster.OverAcquired
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("write the books of the scale set: %w", err)
		}
		l.offers--
	}
	return nil
}

// note writes down what GitHub said and has it acted upon.
func (l *ScaleSetListener) note(ctx context.Context, news []muster.ScaleSetJob, statistics *muster.ScaleSetStatistics) error {
	if len(news) == 0 && statistics == nil {
		return nil
	}
	now := time.Now()
	if err := l.cfg.Ledger.NoteScaleSet(ctx, l.cfg.Workspace, l.cfg.Pool, news, statistics, now); err != nil {
		return fmt.Errorf("write down what the scale set said: %w", err)
	}
	l.heard = now
	l.mu.Lock()
	if statistics != nil {
		l.status.Statistics, l.status.StatisticsAt = *statistics, now
	}
	l.mu.Unlock()
	select {
	case l.nudge <- struct{}{}:
	default:
	}
	l.wake(ctx)
	return nil
}

func (l *ScaleSetListener) wake(ctx context.Context) {
	if err := l.cfg.Wake(ctx, l.cfg.Workspace, l.cfg.Pool); err != nil {
		l.cfg.Logger.DebugContext(ctx, "pool was not woken", "error", err)
	}
}

// keepBooks reconciles whenever there is news, and by itself as long as something
// is open.
func (l *ScaleSetListener) keepBooks(ctx context.Context) {
	for ctx.Err() == nil {
		asks := 0
		// While another control plane may hold the session, that one asks GitHub.
		if s := l.Status().State; s == muster.ScaleSetListening || s == muster.ScaleSetClosed {
			asks = maxAsked
		}
		next := l.reconcile(ctx, asks)
		select {
		case <-ctx.Done():
		case <-l.nudge:
		case <-time.After(next):
		}
	}
}

// runRef names a workflow run.
type runRef struct {
	repository string
	id         int64
}

// books is one pass over the assignments that are not over.
type books struct {
	l    *ScaleSetListener
	now  time.Time
	asks int // questions that are left for GitHub
	// surplus is how many more assignments are open in the books than GitHub
	// counts; 0 if GitHub's number is not known.
	surplus int
	// taken are the jobs that open assignments are about.
	taken  map[muster.JobKey]bool
	known  map[runRef][]muster.JobEvent
	remote map[runRef]answer
	next   time.Duration
	// waiting are the doubtful assignments whose job waits, unsure that others were
	// not looked into yet.
	waiting []*muster.ScaleSetJob
	unsure  bool
}

type answer struct {
	jobs []muster.JobEvent
	err  error
}

// reconcile hands to the Sink what the books have and it was not told, finds out
// which jobs that is about, and ends what GitHub does not count any more. asks
// bounds the questions to GitHub. It returns when to look again.
func (l *ScaleSetListener) reconcile(ctx context.Context, asks int) time.Duration {
	list, err := l.cfg.Ledger.ScaleSetJobs(ctx, l.cfg.Workspace, l.cfg.Pool)
	if err != nil {
		if ctx.Err() == nil {
			l.cfg.Logger.WarnContext(ctx, "read the books of the scale set", "error", err)
		}
		return l.cfg.MinRetry
	}
	b := &books{l: l, now: time.Now(), asks: asks, taken: map[muster.JobKey]bool{}, known: map[runRef][]muster.JobEvent{}, remote: map[runRef]answer{}, next: time.Minute}
	open, listed := 0, map[string]bool{}
	list = slices.DeleteFunc(list, func(e muster.ScaleSetJob) bool { return e.State == muster.ScaleSetJobAvailable })
	for _, e := range list {
		listed[e.ID] = true
		if e.Open() {
			open++
			if e.Job.ID != 0 {
				b.taken[e.Job] = true
			}
		}
	}
	for id := range l.asked {
		if !listed[id] {
			delete(l.asked, id)
		}
	}
	if s := l.Status(); s.State == muster.ScaleSetListening {
		b.surplus = max(0, open-s.Statistics.Assigned)
	}
	before := slices.Clone(list)
	for i := range list {
		if ctx.Err() != nil {
			break
		}
		e := &list[i]
		if err := b.entry(ctx, e); err != nil {
			if ctx.Err() == nil {
				l.cfg.Logger.WarnContext(ctx, "scale set's job waits", "job_id", e.ID, "repository", e.Repository, "run", e.RunID, "error", err)
			}
			b.next = min(b.next, l.cfg.MinRetry)
		}
	}
	// What is left over lapsed without a word. The job waits on, by its name.
	for _, e := range b.waiting {
		if b.surplus > 0 && !b.unsure {
			b.end(e, muster.OverLapsed)
		}
	}
	for i, e := range list {
		was := before[i]
		if was.Job == e.Job && was.Told == e.Told && was.Over == e.Over {
			continue
		}
		err := l.cfg.Ledger.UpdateScaleSetJob(ctx, l.cfg.Workspace, l.cfg.Pool, e.ID, func(j *muster.ScaleSetJob) error {
			j.Job = e.Job
			if e.Told.Rank() > j.Told.Rank() {
				j.Told = e.Told
			}
			if j.State == e.State { // else there is news
				j.Over = cmp.Or(j.Over, e.Over)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			// Told again in the next pass, which the Sink does not mind.
			l.cfg.Logger.WarnContext(ctx, "write the books of the scale set", "error", err)
			b.next = min(b.next, l.cfg.MinRetry)
		}
		if e.Over != "" && e.Over != muster.OverCompleted {
			l.cfg.Logger.InfoContext(ctx, "scale set's job "+e.Over, "job_id", e.ID, "job", e.Job.String(), "repository", e.Repository, "run", e.RunID, "name", e.Name)
			l.wake(ctx)
		}
	}
	return max(b.next, 100*time.Millisecond)
}

// entry does what can be done about one assignment now.
func (b *books) entry(ctx context.Context, e *muster.ScaleSetJob) error {
	age := b.now.Sub(e.ChangedAt)
	if age > overAfter {
		e.Over = muster.OverMissed
		return nil
	}
	if err := b.tell(ctx, e); err != nil || e.Over != "" {
		return err
	}
	switch {
	case e.State == muster.ScaleSetJobCompleted:
		if e.Job.ID == 0 && age > unknownAfter {
			e.Over = muster.OverUnknown
		}
	case b.surplus > 0 && age > b.l.cfg.Grace:
		return b.doubt(ctx, e)
	case b.surplus > 0:
		b.next = min(b.next, b.l.cfg.Grace-age+time.Millisecond)
	}
	return nil
}

// tell hands the assignment's state to the Sink, if it was not told and the job is
// known. It asks GitHub when nobody else has said it in time.
func (b *books) tell(ctx context.Context, e *muster.ScaleSetJob) error {
	if e.Told == e.State && e.State != muster.ScaleSetJobCompleted {
		return nil
	}
	jobs, err := b.ofRun(ctx, e)
	if err != nil {
		return err
	}
	c, found := b.match(*e, jobs)
	ready := found && b.enough(*e, c, jobs)
	if !ready {
		wait := b.l.cfg.Patience - b.now.Sub(e.ChangedAt)
		if wait > 0 {
			b.next = min(b.next, wait+time.Millisecond)
			return b.give(ctx, e, c, found)
		}
		told, err := b.ask(ctx, e)
		if err != nil || told == nil {
			return errors.Join(err, b.give(ctx, e, c, found))
		}
		if r, ok := b.match(*e, told); ok {
			c, found = r, true
			ready = b.enough(*e, c, told)
		} else {
			found = false
		}
		switch {
		case !ready && e.State == muster.ScaleSetJobCompleted && e.Result == canceled && e.RunnerName == "":
			// No runner took it in time: the job is queued anew, as another assignment, and
			// must not be completed. GitHub is asked twice, as its answers can be a moment old.
			if b.l.asked[e.ID].tries < 2 {
				return nil
			}
			if found {
				e.Job = c.Key()
			}
			e.Over = muster.OverLapsed
			return nil
		case !ready:
			return b.give(ctx, e, c, found)
		}
	}
	e.Job = c.Key()
	b.taken[e.Job] = b.taken[e.Job] || e.Open()
	if err := b.offer(ctx, *e, c); err != nil {
		return err
	}
	e.Told = e.State
	if e.State == muster.ScaleSetJobCompleted {
		e.Over = muster.OverCompleted
	}
	return nil
}

// give tells less than the state, as soon as the job is known and whatever else has
// to be found out: that it is assigned, or that it still runs.
func (b *books) give(ctx context.Context, e *muster.ScaleSetJob, c muster.JobEvent, found bool) error {
	if !found || e.Told != "" {
		return nil
	}
	less := *e
	less.State = muster.ScaleSetJobAssigned
	if e.State == muster.ScaleSetJobCompleted && c.Status == muster.JobInProgress && c.RunnerName != "" {
		less.State = muster.ScaleSetJobStarted
	}
	e.Job = c.Key()
	b.taken[e.Job] = b.taken[e.Job] || e.Open()
	if err := b.offer(ctx, less, c); err != nil {
		return err
	}
	e.Told = less.State
	return nil
}

// enough reports whether what is known of the job is enough to tell the Sink of
// the assignment's state. That it is completed only GitHub's own word on the job
// or another sense tells: messages were seen of jobs that still ran
// (actions/runner issue 4492), and say the same when an assignment lapses. Who
// runs it a message tells only if no other job has its name.
func (b *books) enough(e muster.ScaleSetJob, c muster.JobEvent, jobs []muster.JobEvent) bool {
	switch e.State {
	case muster.ScaleSetJobCompleted:
		return c.Status == muster.JobCompleted
	case muster.ScaleSetJobStarted:
		if c.RunnerName != "" && c.Status.Rank() >= muster.JobInProgress.Rank() {
			return true
		}
		alike := 0
		for _, j := range jobs {
			if j.Name == e.Name && j.Attempt == c.Attempt {
				alike++
			}
		}
		return e.RunnerName != "" && alike == 1
	}
	return true
}

// offer hands an event to the Sink: what the assignment's state says of the job,
// or what GitHub just said of it if that is more.
func (b *books) offer(ctx context.Context, e muster.ScaleSetJob, c muster.JobEvent) error {
	state := map[muster.ScaleSetJobState]muster.JobState{
		muster.ScaleSetJobAssigned: muster.JobQueued, muster.ScaleSetJobStarted: muster.JobInProgress, muster.ScaleSetJobCompleted: muster.JobCompleted,
	}[e.State]
	event := c
	event.ReceivedAt = e.ChangedAt
	if c.Sense == muster.SensePoll && c.Status.Rank() > state.Rank() {
		state, event.ReceivedAt = c.Status, b.now
	}
	event.Action, event.Status = string(state), state
	event.Sense, event.Pool = muster.SenseScaleSet, b.l.cfg.Pool
	event.Trigger = cmp.Or(event.Trigger, e.Event)
	if len(event.Labels) == 0 {
		event.Labels = e.Labels
	}
	if c.Status.Rank() < muster.JobInProgress.Rank() {
		event.RunnerID, event.RunnerName, event.StartedAt = 0, "", time.Time{}
	}
	switch state {
	case muster.JobQueued:
		event.RunnerID, event.RunnerName, event.RunnerGroup, event.StartedAt = 0, "", "", time.Time{}
	case muster.JobInProgress, muster.JobCompleted:
		if event.RunnerName == "" {
			event.RunnerID, event.RunnerName = e.RunnerID, e.RunnerName
		}
		event.StartedAt = cmp.Or(event.StartedAt, e.StartedAt)
	}
	if state != muster.JobCompleted {
		event.CompletedAt, event.Conclusion, event.Steps = time.Time{}, "", nil
	}
	_, err := b.l.cfg.Sink.Job(ctx, event)
	if muster.CodeOf(err) == muster.CodeInvalid {
		b.l.cfg.Logger.WarnContext(ctx, "scale set's job cannot be understood", "job_id", e.ID, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("tell of job %s: %w", c.Key(), err)
	}
	return nil
}

// doubt looks into an assignment that is open in the books while GitHub counts
// fewer: its end was not told, or came before this listener.
func (b *books) doubt(ctx context.Context, e *muster.ScaleSetJob) error {
	if e.JobState == muster.JobCompleted {
		b.end(e, muster.OverMissed)
		return nil
	}
	jobs, err := b.ask(ctx, e)
	if err != nil || jobs == nil {
		b.unsure = b.unsure || !b.l.asked[e.ID].doubted
		return err
	}
	q := b.l.asked[e.ID]
	q.doubted = true
	b.l.asked[e.ID] = q
	var c muster.JobEvent
	found := false
	for _, j := range jobs {
		if e.Job.ID != 0 && j.ID == e.Job.ID {
			c, found = j, true
		}
	}
	if e.Job.ID == 0 {
		c, found = b.match(*e, jobs)
	}
	switch {
	case !found:
		b.end(e, muster.OverUnknown)
	case c.Status == muster.JobCompleted:
		over := *e
		over.State, over.ChangedAt = muster.ScaleSetJobCompleted, b.now
		if err := b.offer(ctx, over, c); err != nil {
			return err
		}
		e.Job = c.Key()
		b.end(e, muster.OverMissed)
	case c.Status == muster.JobInProgress:
		// It runs, and GitHub will count it again or tell its end.
	default:
		e.Job = c.Key()
		b.waiting = append(b.waiting, e)
	}
	return nil
}

func (b *books) end(e *muster.ScaleSetJob, how string) {
	e.Over = how
	b.surplus--
}

// ofRun is what the store knows of the jobs of the assignment's run.
func (b *books) ofRun(ctx context.Context, e *muster.ScaleSetJob) ([]muster.JobEvent, error) {
	of := runRef{e.Repository, e.RunID}
	if jobs, ok := b.known[of]; ok {
		return jobs, nil
	}
	list, err := b.l.cfg.Ledger.JobsOfRun(ctx, b.l.cfg.Workspace, e.Repository, e.RunID)
	if err != nil {
		return nil, fmt.Errorf("look up jobs of run %d: %w", e.RunID, err)
	}
	jobs := []muster.JobEvent{}
	for _, j := range list {
		jobs = append(jobs, muster.JobEvent{
			Action: string(j.State), Status: j.State, App: j.App, InstallationID: j.Installation, Repository: j.Repository, PublicRepo: j.PublicRepo,
			ID: j.Key.ID, RunID: j.RunID, Attempt: j.Key.Attempt, Workflow: j.Workflow, Name: j.Name, HeadBranch: j.HeadBranch, HeadSHA: j.HeadSHA,
			URL: j.URL, Conclusion: j.Conclusion, Labels: j.Labels, RunnerName: j.RunnerName, Trigger: j.Trigger,
			CreatedAt: j.CreatedAt, StartedAt: j.StartedAt, CompletedAt: j.CompletedAt, TraceID: j.TraceID,
		})
	}
	b.known[of] = jobs
	return jobs, nil
}

// ask asks GitHub for the jobs of the assignment's run; nil if it is not the time.
// One answer serves all assignments of the run in this pass.
func (b *books) ask(ctx context.Context, e *muster.ScaleSetJob) ([]muster.JobEvent, error) {
	q := b.l.asked[e.ID]
	if wait := q.next.Sub(b.now); wait > 0 {
		b.next = min(b.next, wait)
		return nil, nil
	}
	of := runRef{e.Repository, e.RunID}
	a, ok := b.remote[of]
	if !ok {
		if b.asks < 1 {
			b.next = min(b.next, b.l.cfg.Patience)
			return nil, nil
		}
		b.asks--
		a.jobs, a.err = b.l.cfg.GitHub.RunJobs(ctx, muster.WorkflowRun{ID: e.RunID, Repository: e.Repository, Trigger: e.Event})
		if muster.CodeOf(a.err) == muster.CodeNotFound {
			a.err = nil // it is gone, or was never to be seen
		}
		if a.jobs == nil {
			a.jobs = []muster.JobEvent{}
		}
		b.remote[of] = a
	}
	wait := min(b.l.cfg.Patience<<min(q.tries, 10), longestAsk)
	if err, ok := errors.AsType[*muster.Error](a.err); ok {
		wait = max(wait, err.RetryAfter)
	}
	q.tries, q.next = q.tries+1, b.now.Add(wait)
	b.l.asked[e.ID] = q
	b.next = min(b.next, wait)
	if a.err != nil {
		return nil, fmt.Errorf("ask for the jobs of run %d: %w", e.RunID, a.err)
	}
	return a.jobs, nil
}

// match finds the job that an assignment is about among those of its run. The
// runner decides where it is known; else the job has the same name, belongs to no
// other open assignment, and stands as near as possible to where the assignment does.
func (b *books) match(e muster.ScaleSetJob, jobs []muster.JobEvent) (best muster.JobEvent, found bool) {
	bestScore := -1
	for _, j := range jobs {
		if e.RunnerName != "" && j.RunnerName == e.RunnerName {
			return j, true
		}
		mine := j.Key() == e.Job
		if j.Name != e.Name || b.taken[j.Key()] && !mine || e.RunnerName != "" && j.RunnerName != "" {
			continue
		}
		score := 0
		switch s := j.Status; {
		case s == standing(e):
			score = 3
		case s != muster.JobCompleted:
			score = 2
		}
		if mine {
			score += 10
		}
		// Of equals the latest attempt; within it the first, as GitHub gives them.
		better := score > bestScore || score == bestScore && (j.Attempt > best.Attempt || j.Attempt == best.Attempt && j.ID < best.ID)
		if better {
			best, found, bestScore = j, true, score
		}
	}
	return best, found
}

// standing is the state of a job of which the assignment is the last news.
func standing(e muster.ScaleSetJob) muster.JobState {
	switch e.State {
	case muster.ScaleSetJobStarted:
		return muster.JobInProgress
	case muster.ScaleSetJobCompleted:
		if e.RunnerName != "" {
			return muster.JobCompleted
		}
	}
	return muster.JobQueued
}
