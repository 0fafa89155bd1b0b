package dryrun

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

// Workload is what a pool was asked for in a time, and how its machines boot.
type Workload struct {
	Jobs []Job // the first queued first
	// Boots are the measured times from the decision to a listening runner, used
	// one after the other and again from the start. Empty means DefaultBoot.
	Boots        []time.Duration
	Since, Until time.Time
}

// Job is one attempt of a job that ran.
type Job struct {
	ID         int64
	Repository string
	Queued     time.Time
	Run        time.Duration
	// Priority and Overflows are as in muster.PlanJob.
	Priority  int
	Overflows bool
}

// DefaultBoot is how long a runner takes to listen where none was measured.
const DefaultBoot = 30 * time.Second

// Terms are what a pool's machines cost and when its schedules fire.
type Terms struct {
	Book     usage.Book
	Offering muster.Offering
	// Windows are the windows of schedules that are open at a time or come next;
	// nil means that schedules are left out.
	Windows func([]muster.Schedule, time.Time) ([]muster.Window, error)
}

// Result is what came of a workload.
type Result struct {
	// Jobs are those that got a runner, Unserved those that got none until the end,
	// HandedOver those that went to the overflow pool.
	Jobs, Unserved, HandedOver int
	// WaitP50, WaitP95 and WaitMax are over the jobs that got a runner.
	WaitP50, WaitP95, WaitMax time.Duration
	// Runners is how many were made, Peak how many there were at most at once,
	// Wasted how many of them never ran a job.
	Runners, Peak, Wasted int
	// RunnerTime is how long all runners lived together, and CostMicroUSD what
	// that costs: each life rounded and priced by the book.
	RunnerTime   time.Duration
	CostMicroUSD int64
	// Decisions is how often Plan was asked.
	Decisions int
}

// The pace of the simulation. Within one step any number of events lead to one
// decision, as any number of nudges do in the control plane. While many jobs
// wait, the steps are longer and Plan sees the first of the queue by name and
// the rest as a number: neither changes a wait of minutes by much.
const (
	step      = time.Second
	longStep  = 5 * time.Second
	longQueue = 200
	maxNamed  = 1000
	// overtime is how long after the end of the demand a backlog may go on.
	overtime = 7 * 24 * time.Hour
)

// Simulate runs the workload through a pool. It starts with an empty pool at
// Since and ends when no job waits or runs, at Until at the earliest. It returns
// ctx's error when ctx ends first, and else an error only of Windows.
func Simulate(ctx context.Context, p muster.Pool, w Workload, terms Terms) (Result, error) {
	s := &simulation{pool: p.WithDefaults(), w: w, terms: terms, now: w.Since}
	s.limit = w.Until.Add(overtime)
	for _, j := range w.Jobs {
		s.at(j.Queued, event{job: &j})
	}
	s.at(w.Since, event{decide: true})
	for len(s.events) > 0 {
		if s.steps++; s.steps%1024 == 0 && ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		now := s.events[0].at
		if now.After(s.limit) || s.finished(now) {
			break
		}
		s.now = now
		decide := false
		for len(s.events) > 0 && s.events[0].at.Equal(now) {
			e := heap.Pop(&s.events).(event)
			decide = s.apply(e) || decide
		}
		s.assign()
		if !decide {
			continue
		}
		if next := s.decided.Add(s.pace()); s.result.Decisions > 0 && now.Before(next) {
			s.wake(next)
			continue
		}
		if err := s.decide(); err != nil {
			return Result{}, err
		}
	}
	return s.sum(), nil
}

// simulation is the state of one run.
type simulation struct {
	pool  muster.Pool
	w     Workload
	terms Terms

	now     time.Time
	limit   time.Time
	events  events
	seq     int
	steps   int
	arrived int
	queue   []*Job // the first queued first
	running int
	runners []*machine // live ones, the first made first
	gone    []life
	made    int

	lastScaling time.Time
	decided     time.Time
	wakeAt      time.Time // the next decision that is planned
	windows     []muster.Window
	windowsTill time.Time // until when windows hold; zero for never looked at

	waits  []time.Duration
	result Result

	// jobs and fleet are the memory of the last snapshot, of which Plan keeps nothing.
	jobs  []muster.PlanJob
	fleet []muster.PlanRunner
}

// machine is a runner.
type machine struct {
	muster.PlanRunner
	job    *Job
	served int
}

// life is what a runner has left behind.
type life struct {
	lived  time.Duration
	served int
}

// event is one thing that happens: a job is queued, a runner is ready, has
// finished or has waited in vain, or a decision is due.
type event struct {
	at     time.Time
	seq    int
	job    *Job
	boots  *machine
	ends   *machine
	leaves *machine
	since  time.Time // of leaves: the idleness that is meant
	decide bool
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if c := e[i].at.Compare(e[j].at); c != 0 {
		return c < 0
	}
	return e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

func (s *simulation) at(t time.Time, e event) {
	s.seq++
	e.at, e.seq = t, s.seq
	heap.Push(&s.events, e)
}

// wake plans a decision, unless one is planned that is no later.
func (s *simulation) wake(t time.Time) {
	if s.wakeAt.After(s.now) && !t.Before(s.wakeAt) {
		return
	}
	s.wakeAt = t
	s.at(t, event{decide: true})
}

func (s *simulation) pace() time.Duration {
	if len(s.queue) > longQueue {
		return longStep
	}
	return step
}

// finished reports whether nothing is left to learn.
func (s *simulation) finished(now time.Time) bool {
	return s.arrived == len(s.w.Jobs) && len(s.queue) == 0 && s.running == 0 && !now.Before(s.w.Until)
}

// apply does what an event says and reports whether it asks for a decision.
func (s *simulation) apply(e event) bool {
	switch {
	case e.job != nil:
		s.arrived++
		s.queue = append(s.queue, e.job)
	case e.boots != nil:
		if e.boots.State != muster.RunnerProvisioning {
			return false
		}
		s.idle(e.boots)
	case e.ends != nil:
		m := e.ends
		m.job, m.Busy = nil, false
		s.running--
		if m.served < s.pool.MaxJobCount || s.pool.Lifecycle == muster.LifecycleKept {
			s.idle(m)
		} else {
			s.destroy(m)
		}
	case e.leaves != nil:
		if e.leaves.State != muster.RunnerRegistered || !e.leaves.IdleSince.Equal(e.since) {
			return false // it found a job meanwhile
		}
		s.destroy(e.leaves)
	}
	return true
}

// idle makes a runner listen from now on.
func (s *simulation) idle(m *machine) {
	m.State, m.IdleSince = muster.RunnerRegistered, s.now
	patience := s.pool.NoJobTimeout
	if s.pool.Lifecycle == muster.LifecycleKept {
		patience = time.Duration(max(s.pool.InactiveMinutes, 0)) * time.Minute
		if patience == 0 {
			patience = 3 * time.Minute
		}
	}
	s.at(s.now.Add(patience), event{leaves: m, since: s.now})
}

func (s *simulation) destroy(m *machine) {
	m.State = muster.RunnerDestroyed
	s.gone = append(s.gone, life{s.now.Sub(m.CreatedAt), m.served})
	s.runners = slices.DeleteFunc(s.runners, func(o *machine) bool { return o == m })
}

// assign gives waiting jobs to idle runners as GitHub does: the job that was
// queued first, whatever the pool thinks of it.
func (s *simulation) assign() {
	for _, m := range s.runners {
		if len(s.queue) == 0 {
			return
		}
		if m.State != muster.RunnerRegistered {
			continue
		}
		j := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		m.State, m.Busy, m.IdleSince, m.job = muster.RunnerActive, true, time.Time{}, j
		m.served++
		s.running++
		s.waits = append(s.waits, s.now.Sub(j.Queued))
		s.at(s.now.Add(j.Run), event{ends: m})
	}
}

// decide asks Plan and does what it says.
func (s *simulation) decide() error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	d := muster.Plan(snap, s.now)
	s.result.Decisions++
	s.decided = s.now
	if d.StartsCooldown() {
		s.lastScaling = s.now
	}
	for i := range d.Create + d.Warm {
		boot := DefaultBoot
		if n := len(s.w.Boots); n > 0 {
			boot = s.w.Boots[s.made%n]
		}
		s.made++
		m := &machine{PlanRunner: muster.PlanRunner{ID: muster.RunnerID(fmt.Sprintf("r-%08d", s.made)), State: muster.RunnerProvisioning, Warm: i >= d.Create, CreatedAt: s.now}}
		s.runners = append(s.runners, m)
		s.at(s.now.Add(max(0, boot)), event{boots: m})
	}
	s.result.Peak = max(s.result.Peak, len(s.runners))
	for _, id := range d.Drain {
		if i := slices.IndexFunc(s.runners, func(m *machine) bool { return m.ID == id }); i >= 0 && s.runners[i].State == muster.RunnerRegistered {
			s.destroy(s.runners[i])
		}
	}
	s.handOver(d.Overflow)
	if d.WakeAt.After(s.now) {
		s.wake(d.WakeAt)
	}
	return nil
}

func (s *simulation) handOver(ids []int64) {
	if len(ids) == 0 {
		return
	}
	going := make(map[int64]bool, len(ids))
	for _, id := range ids {
		going[id] = true
	}
	before := len(s.queue)
	s.queue = slices.DeleteFunc(s.queue, func(j *Job) bool { return going[j.ID] })
	s.result.HandedOver += before - len(s.queue)
}

func (s *simulation) snapshot() (muster.Snapshot, error) {
	snap := muster.Snapshot{Pool: s.pool, LastScaling: s.lastScaling}
	named := min(len(s.queue), maxNamed)
	s.jobs, s.fleet = s.jobs[:0], s.fleet[:0]
	for _, m := range s.runners {
		s.fleet = append(s.fleet, m.PlanRunner)
		if m.job != nil {
			s.jobs = append(s.jobs, planJob(m.job, muster.JobInProgress))
		}
	}
	for _, j := range s.queue[:named] {
		s.jobs = append(s.jobs, planJob(j, muster.JobQueued))
	}
	snap.Jobs, snap.Runners = s.jobs, s.fleet
	if rest := s.queue[named:]; len(rest) > 0 {
		snap.Unnamed, snap.UnnamedSince = len(rest), rest[0].Queued
	}
	var err error
	snap.Windows, err = s.openWindows()
	return snap, err
}

func planJob(j *Job, state muster.JobState) muster.PlanJob {
	return muster.PlanJob{ID: j.ID, Attempt: 1, State: state, QueuedAt: j.Queued, Repository: j.Repository, Priority: j.Priority, Overflows: j.Overflows}
}

// openWindows asks the schedules only when one of the windows known begins or ends.
func (s *simulation) openWindows() ([]muster.Window, error) {
	if s.terms.Windows == nil || len(s.pool.Schedules) == 0 || !s.windowsTill.IsZero() && s.now.Before(s.windowsTill) {
		return s.windows, nil
	}
	all, err := s.terms.Windows(s.pool.Schedules, s.now)
	if err != nil {
		return nil, fmt.Errorf("schedules of pool %s at %s: %w", s.pool.Name, s.now.UTC().Format(time.RFC3339), err)
	}
	s.windows, s.windowsTill = all, s.now.Add(24*time.Hour)
	for _, w := range all {
		for _, t := range []time.Time{w.From, w.Until} {
			if t.After(s.now) && t.Before(s.windowsTill) {
				s.windowsTill = t
			}
		}
	}
	return all, nil
}

// sum closes the books.
func (s *simulation) sum() Result {
	r := s.result
	end := s.now
	if end.Before(s.w.Until) {
		end = s.w.Until
	}
	lives := s.gone
	for _, m := range s.runners {
		lives = append(lives, life{end.Sub(m.CreatedAt), m.served})
	}
	price := s.terms.Book.Price(s.terms.Offering)
	for _, l := range lives {
		r.RunnerTime += l.lived
		r.CostMicroUSD += usage.Cost(s.terms.Book.Bill(l.lived), price)
		if l.served == 0 {
			r.Wasted++
		}
	}
	r.Runners = s.made
	r.Jobs, r.Unserved = len(s.waits), len(s.queue)+len(s.w.Jobs)-s.arrived
	r.WaitP50, r.WaitP95, r.WaitMax = usage.Percentile(s.waits, 50), usage.Percentile(s.waits, 95), usage.Percentile(s.waits, 100)
	return r
}
