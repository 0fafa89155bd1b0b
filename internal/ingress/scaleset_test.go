package ingress_test

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/muster-ci/muster/internal/ingress"
)

// service is GitHub as one scale set sees it: its messages, its session, and the jobs
// as REST shows them.
type service struct {
	mu         sync.Mutex
	wake       chan struct{}
	queue      []muster.ScaleSetMessage // not acknowledged
	lastID     int64
	stats      muster.ScaleSetStatistics
	session    bool
	lingers    time.Time // the end of a session whose owner died
	vanished   bool
	jobs       map[int64]muster.JobEvent
	capacities []int
	acquired   []int64
	full       bool // nothing can be acquired
	asked      int  // for the jobs of a run
	ensured    int
	opened     int
	refused    int // sessions
	err        func(call string) error
}

func newService() *service {
	return &service{wake: make(chan struct{}), jobs: map[int64]muster.JobEvent{}}
}

// fault is what the test wants a call to end with. mu is held.
func (h *service) fault(call string) error {
	if h.err == nil {
		return nil
	}
	return h.err(call)
}

func (h *service) EnsureScaleSet(_ context.Context, _ muster.Scope, name string, group int64, labels muster.Labels) (muster.ScaleSet, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ensured++
	h.vanished = false
	stats := h.stats
	return muster.ScaleSet{ID: 1, Name: name, Group: group, Labels: labels, Statistics: &stats}, h.fault("ensure")
}

func (h *service) RunJobs(_ context.Context, run muster.WorkflowRun) ([]muster.JobEvent, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if err := h.fault("run jobs"); err != nil {
		return nil, err
	}
	var out []muster.JobEvent
	for _, id := range slices.Sorted(maps.Keys(h.jobs)) {
		if j := h.jobs[id]; j.RunID == run.ID {
			j.Sense, j.ReceivedAt = muster.SensePoll, time.Now()
			out = append(out, j)
		}
	}
	return out, nil
}

func (h *service) open(_ context.Context, _ muster.Scope, _, _ string) (ingress.ScaleSetSession, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.fault("open"); err != nil {
		return nil, err
	}
	switch {
	case h.vanished:
		return nil, muster.Errorf(muster.CodeNotFound, "no such set")
	case h.session || time.Now().Before(h.lingers):
		h.refused++
		return nil, muster.Errorf(muster.CodeConflict, "the set already has an active session")
	}
	h.session = true
	h.opened++
	return &serviceSession{h: h, stats: h.stats}, nil
}

// say puts a message in the queue, with the statistics of now.
func (h *service) say(jobs ...muster.ScaleSetJob) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID += 7 // ids jump
	stats := h.stats
	h.queue = append(h.queue, muster.ScaleSetMessage{ID: h.lastID, Statistics: &stats, Jobs: jobs})
	close(h.wake)
	h.wake = make(chan struct{})
}

func (h *service) set(change func(*service)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

// job makes a job known to REST; change edits what is there.
func (h *service) job(id int64, change func(*muster.JobEvent)) {
	h.set(func(h *service) {
		j, ok := h.jobs[id]
		if !ok {
			j = muster.JobEvent{ID: id, RunID: id / 10, Attempt: 1, Repository: "o/r", Name: "build", Labels: muster.Labels{"set"}, App: "app", InstallationID: 9, CreatedAt: time.Now()}
			j.Status, j.Action = muster.JobQueued, "queued"
		}
		if change != nil {
			change(&j)
		}
		j.Action = string(j.Status)
		h.jobs[id] = j
	})
}

func (h *service) runs(id int64, runner string) {
	h.job(id, func(j *muster.JobEvent) {
		j.Status, j.RunnerID, j.RunnerName, j.StartedAt = muster.JobInProgress, 5, runner, time.Now()
	})
}

func (h *service) ends(id int64, conclusion string) {
	h.job(id, func(j *muster.JobEvent) {
		j.Status, j.Conclusion, j.CompletedAt = muster.JobCompleted, conclusion, time.Now()
	})
}

type serviceSession struct {
	h     *service
	stats muster.ScaleSetStatistics
}

func (s *serviceSession) Statistics() *muster.ScaleSetStatistics { return &s.stats }

func (s *serviceSession) Message(ctx context.Context, _ int64, capacity int) (m muster.ScaleSetMessage, ok bool, err error) {
	poll := time.NewTimer(50 * time.Second)
	defer poll.Stop()
	for {
		s.h.mu.Lock()
		s.h.capacities = append(s.h.capacities, capacity)
		err, wake := s.h.fault("message"), s.h.wake
		if err == nil && s.h.vanished {
			err = muster.Errorf(muster.CodeNotFound, "no such set")
		}
		if err == nil && len(s.h.queue) > 0 {
			m, ok = s.h.queue[0], true
		}
		s.h.mu.Unlock()
		if err != nil || ok {
			return m, ok, err
		}
		select {
		case <-wake:
		case <-poll.C:
			return m, false, nil
		case <-ctx.Done():
			return m, false, ctx.Err()
		}
	}
}

func (s *serviceSession) Acknowledge(_ context.Context, id int64) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if err := s.h.fault("acknowledge"); err != nil {
		return err
	}
	s.h.queue = slices.DeleteFunc(s.h.queue, func(m muster.ScaleSetMessage) bool { return m.ID == id })
	return nil
}

func (s *serviceSession) Acquire(_ context.Context, ids []int64) ([]int64, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.acquired = append(s.h.acquired, ids...)
	if s.h.full {
		return nil, nil
	}
	return ids, s.h.fault("acquire")
}

func (s *serviceSession) Close(context.Context) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if err := s.h.fault("close"); err != nil {
		return err
	}
	s.h.session = false
	return nil
}

// plane is our side: the books of the scale set, and the jobs that every sense
// writes to.
type plane struct {
	mu       sync.Mutex
	ledger   map[string]muster.ScaleSetJob
	over     map[string]string // how assignments ended
	stats    muster.ScaleSetStatistics
	jobs     map[muster.JobKey]muster.Job
	told     []string // by the scale set
	advanced map[string]int
	wakes    int
	err      func(call string) error
}

func newPlane() *plane {
	return &plane{ledger: map[string]muster.ScaleSetJob{}, over: map[string]string{}, jobs: map[muster.JobKey]muster.Job{}, advanced: map[string]int{}}
}

func (p *plane) fault(call string) error {
	if p.err == nil {
		return nil
	}
	return p.err(call)
}

func (p *plane) NoteScaleSet(_ context.Context, _, _ string, news []muster.ScaleSetJob, statistics *muster.ScaleSetStatistics, at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fault("note"); err != nil {
		return err
	}
	for _, n := range news {
		j, _ := p.ledger[n.ID].Apply(n, at)
		if j.State != p.ledger[n.ID].State {
			j.Over = ""
		}
		p.ledger[n.ID] = j
	}
	if statistics != nil {
		p.stats = *statistics
	}
	return nil
}

func (p *plane) ScaleSetJobs(context.Context, string, string) ([]muster.ScaleSetJob, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []muster.ScaleSetJob
	for _, j := range p.ledger {
		if j.Over == "" {
			j.JobState = p.jobs[j.Job].State
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b muster.ScaleSetJob) int { return a.ChangedAt.Compare(b.ChangedAt) })
	return out, p.fault("list")
}

func (p *plane) UpdateScaleSetJob(_ context.Context, _, _, id string, change func(*muster.ScaleSetJob) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	j := p.ledger[id]
	if err := errors.Join(p.fault("update"), change(&j)); err != nil {
		return err
	}
	p.ledger[id], p.over[id] = j, j.Over
	return nil
}

func (p *plane) JobsOfRun(_ context.Context, _, repository string, run int64) ([]muster.Job, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []muster.Job
	for _, j := range p.jobs {
		if j.Repository == repository && j.RunID == run {
			out = append(out, j)
		}
	}
	return out, p.fault("jobs")
}

func (p *plane) Job(_ context.Context, e muster.JobEvent) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fault("sink"); err != nil {
		return "", err
	}
	j, change, err := p.jobs[e.Key()].Apply(e)
	if err != nil {
		return "", err
	}
	if j.Pool == "" {
		j.Pool = e.Pool
	}
	p.jobs[e.Key()] = j
	if change == muster.JobAdvanced {
		p.advanced[fmt.Sprint(j.Key, " ", j.State)]++
	}
	if e.Sense == muster.SenseScaleSet {
		p.told = append(p.told, fmt.Sprintf("%d %s %s", e.ID, e.Action, e.RunnerName))
	}
	return "job " + string(j.State), nil
}

func (p *plane) Installation(context.Context, muster.InstallationEvent) (string, error) {
	return "", nil
}

func (p *plane) wake(context.Context, string, string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes++
	return nil
}

func (p *plane) get(id int64) muster.Job {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.jobs[muster.JobKey{ID: id, Attempt: 1}]
}

// unnamed is what a snapshot would say.
func (p *plane) unnamed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var c muster.ScaleSetCount
	for _, j := range p.ledger {
		known := p.jobs[j.Job].State
		switch {
		case !j.Open():
		case known == muster.JobCompleted && j.State == muster.ScaleSetJobStarted:
			c.OverRunning++
		case known == muster.JobCompleted:
			c.OverWaiting++
		case j.State == muster.ScaleSetJobStarted:
			c.Running++
		default:
			c.Waiting++
			if known == muster.JobInProgress {
				c.Ahead++
			}
		}
	}
	queued := 0
	for _, j := range p.jobs {
		if j.State == muster.JobQueued {
			queued++
		}
	}
	return p.stats.Unnamed(c, queued)
}

// webhook tells of a job by another sense.
func (p *plane) webhook(t *testing.T, h *service, id int64) {
	t.Helper()
	h.mu.Lock()
	e := h.jobs[id]
	h.mu.Unlock()
	e.Sense, e.ReceivedAt = muster.SenseWebhook, time.Now()
	if _, err := p.Job(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// settings is a pool that a test can change.
type settings struct {
	mu   sync.Mutex
	pool muster.Pool
}

func (s *settings) get(context.Context) (muster.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool, nil
}

func (s *settings) change(f func(*muster.Pool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.pool)
}

// scene is a listener between a service and a plane, in a bubble of its own time.
type scene struct {
	t    *testing.T
	hub  *service
	ours *plane
	pool *settings
	log  *bytes.Buffer
	l    *ingress.ScaleSetListener
	stop func()
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, hub: newService(), ours: newPlane(), log: &bytes.Buffer{}, pool: &settings{pool: muster.Pool{
		Name: "p", Workspace: "default", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "o"}, ScaleSet: "set", Labels: muster.Labels{"set"}, Enabled: true,
		Scaling: muster.Scaling{MaxRunners: 4},
	}}}
	s.begin()
	return s
}

// begin starts a listener, as a control plane does that comes up.
func (s *scene) begin() {
	s.l = ingress.NewScaleSetListener(ingress.ScaleSetListenerConfig{
		Workspace: "default", Pool: "p", Owner: "muster-test", Settings: s.pool.get, GitHub: s.hub, Open: s.hub.open, Ledger: s.ours, Sink: s.ours, Wake: s.ours.wake,
		Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan struct{})
	l := s.l
	go func() {
		defer close(ended)
		if err := l.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	s.stop = func() { cancel(); <-ended }
	synctest.Wait()
}

// crash ends the listener as SIGKILL does: nothing is closed, and GitHub keeps the
// session for a while.
func (s *scene) crash() {
	s.hub.set(func(h *service) {
		was := h.err
		h.err = func(call string) error {
			if call == "close" {
				return errors.New("killed")
			}
			if was != nil {
				return was(call)
			}
			return nil
		}
	})
	s.stop()
	s.hub.set(func(h *service) { h.err, h.session, h.lingers = nil, false, time.Now().Add(50*time.Second) })
}

// after lets time go by.
func (s *scene) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *scene) state(want muster.ScaleSetState) {
	s.t.Helper()
	if got := s.l.Status(); got.State != want {
		s.t.Errorf("the listener is %s (%s), want %s", got.State, got.Error, want)
	}
}

// settled checks that every assignment is over, and how.
func (s *scene) settled(want map[string]string) {
	s.t.Helper()
	s.ours.mu.Lock()
	defer s.ours.mu.Unlock()
	if !maps.Equal(s.ours.over, want) {
		s.t.Errorf("assignments ended as %v, want %v", s.ours.over, want)
	}
	for what, n := range s.ours.advanced {
		if n != 1 {
			s.t.Errorf("%s %d times", what, n)
		}
	}
	if n := len(s.hub.queue); n != 0 {
		s.t.Errorf("%d messages are not acknowledged", n)
	}
}

func (s *scene) told(want ...string) {
	s.t.Helper()
	s.ours.mu.Lock()
	defer s.ours.mu.Unlock()
	if !slices.Equal(s.ours.told, want) {
		s.t.Errorf("the sink was told %q, want %q", s.ours.told, want)
	}
}

// assigned, started and completed are news of a job by the name of an assignment.
func assigned(id string, job int64) muster.ScaleSetJob {
	return muster.ScaleSetJob{ID: id, State: muster.ScaleSetJobAssigned, Repository: "o/r", RunID: job / 10, Name: "build", Event: "push", Labels: muster.Labels{"set"}, QueuedAt: time.Now(), AssignedAt: time.Now()}
}

func started(id string, job int64, runner string) muster.ScaleSetJob {
	j := assigned(id, job)
	j.State, j.RunnerID, j.RunnerName, j.StartedAt = muster.ScaleSetJobStarted, 5, runner, time.Now()
	return j
}

func completed(id string, job int64, runner, result string) muster.ScaleSetJob {
	j := started(id, job, runner)
	j.State, j.Result, j.CompletedAt = muster.ScaleSetJobCompleted, result, time.Now()
	return j
}

func counts(assigned, running int) func(*service) {
	return func(h *service) { h.stats = muster.ScaleSetStatistics{Assigned: assigned, Running: running} }
}

// inBubble runs a test with time of its own.
func inBubble(t *testing.T, test func(*scene)) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		test(s)
		s.stop()
	})
}

// Another sense names the job: the scale set adds what it saw, and asks nobody.
func TestScaleSetBesideAWebhook(t *testing.T) { // C3 4-4
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.ours.webhook(t, s.hub, 10)
		s.hub.set(counts(1, 0))
		s.hub.say(assigned("a", 10))
		s.after(0)
		s.state(muster.ScaleSetListening)
		s.told("10 queued ")
		if n := s.ours.unnamed(); n != 0 {
			t.Errorf("%d jobs by number beside the one by name", n)
		}
		s.hub.runs(10, "r-1")
		s.hub.set(counts(1, 1))
		s.hub.say(started("a", 10, "r-1"))
		s.after(time.Second)
		s.hub.ends(10, "success")
		s.ours.webhook(t, s.hub, 10)
		s.hub.set(counts(0, 0))
		s.hub.say(completed("a", 10, "r-1", "succeeded"))
		s.after(time.Second)
		s.told("10 queued ", "10 in_progress r-1", "10 completed r-1")
		s.settled(map[string]string{"a": muster.OverCompleted})
		if j := s.ours.get(10); j.State != muster.JobCompleted || j.Conclusion != "success" || j.RunnerName != "r-1" || j.Trigger != "push" || j.Pool != "p" {
			t.Errorf("%+v", j)
		}
		if s.hub.asked != 0 {
			t.Errorf("GitHub was asked %d times for what was known", s.hub.asked)
		}
	})
}

// Without any other sense the job is served by its number until GitHub is asked
// for its name, and its books are those of a webhook.
func TestScaleSetAlone(t *testing.T) { // C3 4-1 4-3
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.set(counts(1, 0))
		s.hub.say(assigned("a", 10))
		s.after(time.Second)
		if n := s.ours.unnamed(); n != 1 || s.ours.wakes == 0 {
			t.Errorf("%d jobs by number, %d wakes", n, s.ours.wakes)
		}
		s.after(5 * time.Second)
		s.told("10 queued ")
		if n := s.ours.unnamed(); n != 0 {
			t.Errorf("%d jobs by number beside the one by name", n)
		}
		s.hub.runs(10, "stolen") // not the runner that was made for it
		s.hub.set(counts(1, 1))
		s.hub.say(started("a", 10, "stolen"))
		s.after(time.Minute)
		if j := s.ours.get(10); j.State != muster.JobInProgress || j.RunnerName != "stolen" {
			t.Errorf("%+v", j)
		}
		s.hub.ends(10, "failure")
		s.hub.set(counts(0, 0))
		s.hub.say(completed("a", 10, "stolen", "failed"))
		s.after(10 * time.Second)
		s.settled(map[string]string{"a": muster.OverCompleted})
		want := s.hub.jobs[10]
		if j := s.ours.get(10); j.State != muster.JobCompleted || j.Conclusion != "failure" || !j.StartedAt.Equal(want.StartedAt) || !j.CompletedAt.Equal(want.CompletedAt) || j.Installation != 9 {
			t.Errorf("%+v, want the times of %+v", j, want)
		}
		if s.hub.asked > 2 {
			t.Errorf("GitHub was asked %d times about one job", s.hub.asked)
		}
	})
}

// The process dies between writing down and acknowledging: the message comes
// again and changes nothing; the new session waits for the old one to end.
func TestScaleSetCrashBeforeAcknowledging(t *testing.T) { // 4-3 4-4
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.ours.webhook(t, s.hub, 10)
		s.hub.set(func(h *service) {
			h.err = func(call string) error {
				if call == "acknowledge" {
					return muster.Errorf(muster.CodeUnavailable, "the process dies here")
				}
				return nil
			}
		})
		s.hub.set(counts(1, 0))
		s.hub.say(assigned("a", 10))
		s.after(0)
		s.crash()
		if len(s.hub.queue) != 1 || len(s.ours.ledger) != 1 {
			t.Fatalf("%d messages, %d entries", len(s.hub.queue), len(s.ours.ledger))
		}
		s.begin()
		s.state(muster.ScaleSetWaiting)
		s.after(2 * time.Minute)
		s.state(muster.ScaleSetListening)
		if len(s.hub.queue) != 0 || len(s.ours.ledger) != 1 || s.ours.unnamed() != 0 {
			t.Errorf("%d messages, %d entries, %d by number", len(s.hub.queue), len(s.ours.ledger), s.ours.unnamed())
		}
		s.told("10 queued ")
	})
}

// What was written down and not told when the process died is told while the new
// session is refused still.
func TestScaleSetReconcilesBeforeTheSession(t *testing.T) {
	inBubble(t, func(s *scene) {
		s.ours.mu.Lock()
		s.ours.err = func(call string) error {
			if call == "sink" {
				return errors.New("the engine is down")
			}
			return nil
		}
		s.ours.mu.Unlock()
		s.hub.job(10, nil)
		s.hub.set(counts(1, 0))
		s.hub.say(assigned("a", 10))
		s.after(0)
		s.crash()
		s.ours.mu.Lock()
		s.ours.err = nil
		s.ours.mu.Unlock()
		s.ours.webhook(t, s.hub, 10)
		s.begin()
		s.state(muster.ScaleSetWaiting)
		s.told("10 queued ")
		if s.hub.asked != 0 {
			t.Error("GitHub was asked although another session is open")
		}
	})
}

// Another session may stay for as long as it likes: no deadline, one line in the log.
func TestScaleSetWaitsForTheSession(t *testing.T) {
	inBubble(t, func(s *scene) {
		s.crash()
		s.hub.set(func(h *service) { h.lingers = time.Now().Add(40 * time.Minute) })
		s.begin()
		s.after(35 * time.Minute)
		s.state(muster.ScaleSetWaiting)
		if n := strings.Count(s.log.String(), `msg="scale set waiting"`); n != 1 {
			t.Errorf("%d lines say that it waits:\n%s", n, s.log)
		}
		if st := s.l.Status(); !strings.Contains(st.Error, "active session") || time.Since(st.Since) < 34*time.Minute {
			t.Errorf("%+v", st)
		}
		s.hub.set(func(h *service) {
			if n := h.refused; n < 35*2 || n > 35*6 {
				t.Errorf("asked %d times in 35 minutes", n)
			}
		})
		s.after(6 * time.Minute)
		s.state(muster.ScaleSetListening)
		if s.hub.ensured != 2 { // once by each process
			t.Errorf("the set was looked for %d times", s.hub.ensured)
		}
	})
}

// Zero is never announced: a pool that takes no jobs lets what runs end and closes
// its session, and opens it again when it does.
func TestScaleSetNeverAnnouncesZero(t *testing.T) { // S4-17
	for what, off := range map[string]func(*muster.Pool){
		"Disabled":  func(p *muster.Pool) { p.Enabled = false },
		"Suspended": func(p *muster.Pool) { p.Suspended = true },
		"NoRunners": func(p *muster.Pool) { p.Scaling.MaxRunners = 0 },
		"Removed":   func(p *muster.Pool) { p.Removed = true },
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(s *scene) {
				s.hub.job(10, nil)
				s.hub.runs(10, "r-1")
				s.hub.set(counts(2, 1))
				s.hub.say(started("a", 10, "r-1"), assigned("b", 20))
				s.after(time.Second)
				before, _ := s.pool.get(t.Context())
				s.pool.change(off)
				s.after(15 * time.Second)
				s.state(muster.ScaleSetListening)
				if st := s.l.Status(); st.Capacity != 1 || st.Error == "" {
					t.Errorf("while one runs: %+v", st)
				}
				s.hub.ends(10, "success")
				s.hub.set(counts(1, 0))
				s.hub.say(completed("a", 10, "r-1", "succeeded"))
				s.after(15 * time.Second)
				s.state(muster.ScaleSetClosed)
				if j := s.ours.get(10); j.State != muster.JobCompleted || s.hub.session {
					t.Errorf("%+v, session %t", j, s.hub.session)
				}
				s.pool.change(func(p *muster.Pool) { *p = before; p.Scaling.MaxRunners = 7 })
				s.after(15 * time.Second)
				s.state(muster.ScaleSetListening)
				if slices.Contains(s.hub.capacities, 0) || slices.Max(s.hub.capacities) != 7 || s.hub.capacities[0] != 4 {
					t.Errorf("announced %v", s.hub.capacities)
				}
			})
		})
	}
}

// What is announced follows the pool within seconds, not when the long poll ends.
func TestScaleSetCapacityFollows(t *testing.T) {
	inBubble(t, func(s *scene) {
		s.after(time.Second)
		s.pool.change(func(p *muster.Pool) { p.Scaling.MaxRunners = 9 })
		s.after(15 * time.Second)
		if got := s.l.Status().Capacity; got != 9 {
			t.Errorf("announced %d", got)
		}
		s.pool.change(func(p *muster.Pool) { p.Labels = muster.Labels{"set", "gpu"} })
		s.after(15 * time.Second)
		s.state(muster.ScaleSetListening)
		if s.hub.ensured != 2 {
			t.Errorf("the set was changed %d times", s.hub.ensured-1)
		}
	})
}

// No runner came in time: GitHub takes the job back as "canceled" and gives it
// anew under another name. It is one job, queued all the time.
func TestScaleSetLapse(t *testing.T) { // 4-3 4-6
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone=%t", alone), func(t *testing.T) {
			inBubble(t, func(s *scene) {
				s.hub.job(10, nil)
				if !alone {
					s.ours.webhook(t, s.hub, 10)
				}
				s.hub.set(counts(1, 0))
				s.hub.say(assigned("a", 10))
				s.after(time.Minute)
				s.hub.set(counts(0, 0))
				s.hub.say(completed("a", 10, "", "canceled"))
				s.after(30 * time.Second)
				if j := s.ours.get(10); j.State != muster.JobQueued {
					t.Fatalf("the job is %s", j.State)
				}
				s.hub.set(counts(1, 0))
				s.hub.say(assigned("b", 10))
				s.after(10 * time.Second)
				if n := s.ours.unnamed(); n != 0 {
					t.Errorf("%d by number", n)
				}
				s.hub.runs(10, "r-2")
				s.hub.set(counts(1, 1))
				s.hub.say(started("b", 10, "r-2"))
				s.after(time.Second)
				s.hub.ends(10, "success")
				s.hub.set(counts(0, 0))
				s.hub.say(completed("b", 10, "r-2", "succeeded"))
				s.after(20 * time.Second)
				s.settled(map[string]string{"a": muster.OverLapsed, "b": muster.OverCompleted})
				if j := s.ours.get(10); j.State != muster.JobCompleted || j.RunnerName != "r-2" {
					t.Errorf("%+v", j)
				}
			})
		})
	}
}

// A user canceled it before a runner came: that is an end.
func TestScaleSetCanceled(t *testing.T) { // 4-6
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.set(counts(1, 0))
		s.hub.say(assigned("a", 10))
		s.after(10 * time.Second)
		s.hub.ends(10, "cancelled")
		s.hub.set(counts(0, 0))
		s.hub.say(completed("a", 10, "", "canceled"))
		s.after(10 * time.Second)
		s.settled(map[string]string{"a": muster.OverCompleted})
		if j := s.ours.get(10); j.State != muster.JobCompleted || j.Conclusion != "cancelled" || j.RanOnRunner() {
			t.Errorf("%+v", j)
		}
	})
}

// The statistics are all zero while a job is assigned (ARC issue 3204): the
// message counts.
func TestScaleSetStatisticsZero(t *testing.T) { // 4-27
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.say(assigned("a", 10))
		s.after(time.Second)
		if n := s.ours.unnamed(); n != 1 {
			t.Errorf("%d by number", n)
		}
		s.after(time.Hour) // and stay so
		if j := s.ours.get(10); j.State != muster.JobQueued {
			t.Errorf("the job is %q", j.State)
		}
		s.hub.runs(10, "r-1")
		s.hub.say(started("a", 10, "r-1"))
		s.after(time.Second)
		s.hub.ends(10, "success")
		s.hub.say(completed("a", 10, "r-1", "succeeded"))
		s.after(10 * time.Second)
		s.settled(map[string]string{"a": muster.OverCompleted})
	})
}

// After a restart the numbers tell what messages told another process.
func TestScaleSetNumbersWithoutMessages(t *testing.T) { // 4-3
	inBubble(t, func(s *scene) {
		s.crash()
		s.hub.set(counts(3, 1))
		s.begin()
		s.after(2 * time.Minute)
		s.state(muster.ScaleSetListening)
		if n := s.ours.unnamed(); n != 2 {
			t.Errorf("%d by number", n)
		}
	})
}

// JobStarted and JobCompleted do not come: GitHub's numbers tell that something
// ended, and the job itself what.
func TestScaleSetMissedMessages(t *testing.T) { // 4-4 4-8
	inBubble(t, func(s *scene) {
		for _, id := range []int64{10, 20, 30} {
			s.hub.job(id, nil)
		}
		s.hub.set(counts(3, 0))
		s.hub.say(assigned("a", 10), assigned("b", 20), assigned("c", 30))
		s.after(10 * time.Second)
		s.hub.runs(10, "r-1")
		s.hub.ends(10, "success") // nothing is said of it
		s.hub.runs(20, "r-2")     // it runs on
		s.hub.set(counts(2, 1))
		s.hub.say(started("b", 20, "r-2"))
		s.after(5 * time.Minute)
		if j := s.ours.get(10); j.State != muster.JobCompleted || j.RunnerName != "r-1" {
			t.Errorf("%+v", j)
		}
		if a, b := s.ours.get(20), s.ours.get(30); a.State != muster.JobInProgress || b.State != muster.JobQueued {
			t.Errorf("the others are %s and %s", a.State, b.State)
		}
		if s.ours.over["a"] != muster.OverMissed || s.ours.over["b"]+s.ours.over["c"] != "" {
			t.Errorf("assignments ended as %v", s.ours.over)
		}
		// It comes after all, late.
		s.hub.say(completed("a", 10, "r-1", "succeeded"))
		s.after(time.Second)
		if s.ours.over["a"] != muster.OverCompleted {
			t.Errorf("after the late message: %v", s.ours.over)
		}
	})
}

// Not even another message comes: GitHub is asked for its numbers, once in a while
// and only as long as it seems to count jobs.
func TestScaleSetSilence(t *testing.T) { // 4-8
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.runs(10, "r-1")
		s.hub.set(counts(1, 1))
		s.hub.say(started("a", 10, "r-1"))
		s.after(time.Minute)
		s.hub.ends(10, "success")
		s.hub.set(counts(0, 0))
		s.after(20 * time.Minute)
		s.settled(map[string]string{"a": muster.OverMissed})
		if j := s.ours.get(10); j.State != muster.JobCompleted || s.l.Status().Statistics.Running != 0 {
			t.Errorf("%+v", j)
		}
		s.after(3 * time.Hour)
		if at := s.l.Status().StatisticsAt; time.Since(at) > time.Minute {
			t.Errorf("the numbers are known to hold since %s only", time.Since(at))
		}
		if s.hub.ensured != 2 {
			t.Errorf("GitHub was asked %d times for its numbers", s.hub.ensured-1)
		}
	})
}

// A message says that a job is over that still runs (actions/runner issue 4492):
// the job is over when GitHub says so of the job.
func TestScaleSetCompletedTooEarly(t *testing.T) { // 4-17
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.runs(10, "r-1")
		s.hub.say(started("a", 10, "r-1"), completed("a", 10, "r-1", "failed"))
		s.after(20 * time.Minute)
		if j := s.ours.get(10); j.State != muster.JobInProgress {
			t.Errorf("the job is %s", j.State)
		}
		if s.hub.asked > 15 {
			t.Errorf("GitHub was asked %d times in 20 minutes", s.hub.asked)
		}
		s.hub.ends(10, "success")
		s.after(6 * time.Minute)
		s.settled(map[string]string{"a": muster.OverCompleted})
		if j := s.ours.get(10); j.State != muster.JobCompleted || j.Conclusion != "success" {
			t.Errorf("%+v", j)
		}
	})
}

// Messages without the runner's name bind to nobody until GitHub tells who it is.
func TestScaleSetNameless(t *testing.T) { // 4-5
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.say(started("a", 10, ""))
		s.after(6 * time.Second)
		if j := s.ours.get(10); j.RunnerName != "" || j.State == muster.JobInProgress {
			t.Errorf("%+v", j)
		}
		s.hub.runs(10, "r-1")
		s.after(time.Minute)
		if j := s.ours.get(10); j.RunnerName != "r-1" || j.State != muster.JobInProgress {
			t.Errorf("%+v", j)
		}
		s.hub.ends(10, "success")
		s.hub.say(completed("a", 10, "", "succeeded"))
		s.after(time.Minute)
		s.settled(map[string]string{"a": muster.OverCompleted})
	})
}

// Two jobs of a run have one name, and each took the other's runner: the runner
// tells them apart.
func TestScaleSetCrossoverOfEqualNames(t *testing.T) { // 4-1 4-2
	inBubble(t, func(s *scene) {
		for _, id := range []int64{10, 11} {
			s.hub.job(id, nil)
			s.ours.webhook(t, s.hub, id)
		}
		s.hub.set(counts(2, 0))
		s.hub.say(assigned("a", 10), assigned("b", 11))
		s.after(time.Second)
		s.hub.runs(10, "for-b")
		s.hub.runs(11, "for-a")
		s.hub.set(counts(2, 2))
		s.hub.say(started("a", 10, "for-a"), started("b", 11, "for-b"))
		s.after(10 * time.Second)
		if a, b := s.ours.get(10), s.ours.get(11); a.RunnerName != "for-b" || b.RunnerName != "for-a" {
			t.Errorf("%s and %s", a.RunnerName, b.RunnerName)
		}
		s.hub.ends(10, "success")
		s.hub.ends(11, "failure")
		s.hub.set(counts(0, 0))
		s.hub.say(completed("b", 11, "for-b", "succeeded"), completed("a", 10, "for-a", "failed"))
		s.after(10 * time.Second)
		s.settled(map[string]string{"a": muster.OverCompleted, "b": muster.OverCompleted})
		if a, b := s.ours.get(10), s.ours.get(11); a.Conclusion != "success" || b.Conclusion != "failure" {
			t.Errorf("%s and %s", a.Conclusion, b.Conclusion)
		}
	})
}

// Every message comes twice, the second time after all others.
func TestScaleSetDuplicates(t *testing.T) { // 4-3 4-4
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.ours.webhook(t, s.hub, 10)
		for range 2 {
			s.hub.say(assigned("a", 10), assigned("a", 10))
			s.after(time.Second)
			s.hub.runs(10, "r-1")
			s.hub.say(started("a", 10, "r-1"), started("a", 10, "r-1"))
			s.after(time.Second)
			s.hub.ends(10, "success")
			s.hub.say(completed("a", 10, "r-1", "succeeded"), completed("a", 10, "r-1", "succeeded"))
			s.after(10 * time.Second)
		}
		s.settled(map[string]string{"a": muster.OverCompleted})
		s.told("10 queued ", "10 in_progress r-1", "10 completed r-1")
	})
}

// The end is the first that is heard of a job.
func TestScaleSetOnlyTheEnd(t *testing.T) { // 4-4
	inBubble(t, func(s *scene) {
		s.hub.job(10, nil)
		s.hub.runs(10, "r-1")
		s.hub.ends(10, "success")
		s.hub.say(completed("a", 10, "r-1", "succeeded"))
		s.hub.say(completed("gone", 990, "", "canceled")) // of a run that nobody knows
		s.hub.say(completed("lost", 980, "r-9", "succeeded"))
		s.after(2 * time.Hour)
		s.settled(map[string]string{"a": muster.OverCompleted, "gone": muster.OverLapsed, "lost": muster.OverUnknown})
		if j := s.ours.get(10); j.State != muster.JobCompleted || j.RunnerName != "r-1" {
			t.Errorf("%+v", j)
		}
	})
}

// An Enterprise Server offers jobs. One that cannot be had does not stop the others.
func TestScaleSetAcquires(t *testing.T) {
	inBubble(t, func(s *scene) {
		offer := func(n int64) {
			o := assigned("", 10)
			o.State, o.RequestID = muster.ScaleSetJobAvailable, n
			s.hub.set(func(h *service) { h.stats.Available = 1 })
			s.hub.say(o)
			s.after(time.Second)
		}
		offer(42)
		// The set is full: the message is acknowledged, and the job asked for again.
		s.hub.set(func(h *service) { h.full = true })
		offer(43)
		s.after(2 * time.Minute)
		if got := len(s.hub.acquired); len(s.hub.queue) != 0 || got < 3 || got > 6 {
			t.Errorf("%d messages, acquired %v", len(s.hub.queue), s.hub.acquired)
		}
		s.crash()
		s.begin()
		s.hub.set(func(h *service) { h.full = false })
		s.after(3 * time.Minute)
		if n := s.hub.acquired[len(s.hub.acquired)-1]; n != 43 || s.ours.over["request/43"] != muster.OverAcquired {
			t.Errorf("acquired %v, %v", s.hub.acquired, s.ours.over)
		}
		s.hub.set(func(h *service) {
			h.err = func(call string) error {
				if call == "acquire" {
					return muster.Errorf(muster.CodeInvalid, "no such request")
				}
				return nil
			}
		})
		offer(44)
		s.settled(map[string]string{"request/42": muster.OverAcquired, "request/43": muster.OverAcquired, "request/44": muster.OverAcquired})
		if n := s.ours.unnamed(); n != 0 {
			t.Errorf("%d by number", n)
		}
		// It is assigned by its number, as old servers do.
		given := assigned("", 10)
		given.RequestID = 42
		s.hub.job(10, nil)
		s.hub.say(given)
		s.after(10 * time.Second)
		s.told("10 queued ")
	})
}

// Whatever cannot be written down is not acknowledged; what cannot be told is, and
// told later.
func TestScaleSetAcknowledgesWhatIsDurable(t *testing.T) { // S4-70
	inBubble(t, func(s *scene) {
		broken := ""
		s.ours.err = func(call string) error {
			if call == broken {
				return errors.New("down")
			}
			return nil
		}
		is := func(call string) { s.ours.mu.Lock(); defer s.ours.mu.Unlock(); broken = call }
		s.hub.job(10, nil)
		s.ours.webhook(t, s.hub, 10)
		is("note")
		s.hub.set(counts(1, 0))
		s.hub.say(assigned("a", 10))
		s.after(time.Minute)
		s.state(muster.ScaleSetFailing)
		if len(s.hub.queue) != 1 || strings.Contains(s.l.Status().Error, "down") {
			t.Errorf("%d messages, %q", len(s.hub.queue), s.l.Status().Error)
		}
		is("sink")
		s.after(time.Minute)
		s.state(muster.ScaleSetListening)
		if len(s.hub.queue) != 0 {
			t.Errorf("%d messages", len(s.hub.queue))
		}
		s.told()
		for _, call := range []string{"list", "jobs", "update"} {
			is(call)
			s.after(time.Minute)
		}
		is("")
		s.after(time.Minute)
		s.told(slices.Repeat([]string{"10 queued "}, len(s.ours.told))...)
		if len(s.ours.told) == 0 || s.ours.ledger["a"].Told != muster.ScaleSetJobAssigned {
			t.Errorf("told %v, %+v", s.ours.told, s.ours.ledger)
		}
	})
}

// The set vanishes, the session ends, GitHub is away: each is one change of state,
// and it goes on.
func TestScaleSetComesBack(t *testing.T) { // 4-16
	inBubble(t, func(s *scene) {
		s.hub.set(func(h *service) { h.vanished = true; h.session = false })
		s.hub.say() // wakes the poll
		s.after(time.Minute)
		s.state(muster.ScaleSetListening)
		if s.hub.ensured != 2 {
			t.Errorf("the set was made %d times", s.hub.ensured-1)
		}
		for _, code := range []muster.Code{muster.CodeGone, muster.CodeUnauthenticated, muster.CodeUnavailable} {
			failed := false
			s.hub.set(func(h *service) {
				h.err = func(call string) error {
					if call == "message" && !failed {
						failed = true
						return &muster.Error{Code: code, Message: "no", RetryAfter: 40 * time.Second}
					}
					return nil
				}
			})
			s.hub.say()
			s.after(time.Second)
			s.state(muster.ScaleSetFailing)
			s.after(30 * time.Second)
			s.state(muster.ScaleSetFailing) // GitHub wanted 40 s
			s.after(30 * time.Second)
			s.state(muster.ScaleSetListening)
		}
		if s.hub.opened != 4 { // the last error did not end the session
			t.Errorf("%d sessions", s.hub.opened)
		}
	})
}

// A shutdown closes the session, so that the next process need not wait.
func TestScaleSetShutdown(t *testing.T) { // S4-73
	inBubble(t, func(s *scene) {
		s.after(time.Second)
		s.stop()
		if s.hub.session {
			t.Error("the session is open")
		}
		s.begin()
		s.state(muster.ScaleSetListening)
	})
}
