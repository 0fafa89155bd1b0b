package githubsim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Truth is what really happened, as the server itself keeps the books. It does not
// depend on what any client was told.
type Truth struct {
	At   time.Time  `json:"at"`
	Jobs []JobTruth `json:"jobs"` // by creation
	Runs []RunTruth `json:"runs"` // by creation
	// Runners are the registrations of this moment.
	Runners []RunnerTruth `json:"runners"`
	// ScaleSets are the scale sets of this moment, oldest first.
	ScaleSets []ScaleSetTruth `json:"scale_sets,omitempty"`
	// BusyKills are jobs whose runner was taken away while it ran them.
	BusyKills []BusyKill `json:"busy_kills"`
	// Registered and Unregistered count registrations; Unregistered is by cause.
	Registered   int            `json:"registered"`
	Unregistered map[string]int `json:"unregistered"`
	// Requeued counts assignments that the runner did not fetch in time.
	Requeued int `json:"requeued"`
	// Calls are REST calls by caller and route ("installation/7" → "POST /orgs/…").
	Calls      map[string]map[string]int `json:"calls"`
	Limited    LimitTruth                `json:"limited"`
	Deliveries DeliveryTruth             `json:"deliveries"`
	// Faults counts what Faults really did, by name.
	Faults map[string]int `json:"faults"`
}

// JobTruth is one job of one attempt.
type JobTruth struct {
	ID          int64     `json:"id"`
	RunID       int64     `json:"run_id"`
	Attempt     int       `json:"attempt"`
	Repo        string    `json:"repo"`
	Name        string    `json:"name"`
	Labels      []string  `json:"labels"`
	Status      string    `json:"status"`
	Conclusion  string    `json:"conclusion"`
	RunnerID    int64     `json:"runner_id"`
	Runner      string    `json:"runner"`
	CreatedAt   time.Time `json:"created_at"`
	QueuedAt    time.Time `json:"queued_at,omitzero"`    // zero: never queued
	StartedAt   time.Time `json:"started_at,omitzero"`   // zero: never started
	CompletedAt time.Time `json:"completed_at,omitzero"` // zero: not yet
	// Executions is how often a runner fetched the job and Completions how often
	// one reported its end: both are 1 for a job that ran well, exactly once.
	Executions  int `json:"executions"`
	Completions int `json:"completions"`
	// Events are the webhook actions in the order in which they were emitted.
	Events []string `json:"events"`
	// ScaleSet is the set that the job is given to or was completed in, and SetIDs
	// its ids in messages, one for each time that it was given away.
	ScaleSet int64    `json:"scale_set,omitempty"`
	SetIDs   []string `json:"set_ids,omitempty"`
	// Copied says that a later attempt took the job over without running it.
	Copied bool `json:"copied"`
	// Alien says that a fault made this job, to steal a runner.
	Alien bool `json:"alien"`
}

// RunTruth is one run, in its latest attempt.
type RunTruth struct {
	ID         int64  `json:"id"`
	Repo       string `json:"repo"`
	Workflow   string `json:"workflow"`
	Attempt    int    `json:"attempt"`
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
}

// RunnerTruth is one registration.
type RunnerTruth struct {
	ID        int64    `json:"id"`
	Name      string   `json:"name"`
	Scope     string   `json:"scope"` // "org", "owner/repo" or "enterprises/slug"
	Labels    []string `json:"labels"`
	Ephemeral bool     `json:"ephemeral"`
	// Connected says that a session exists and was heard of lately.
	Connected bool `json:"connected"`
	// Busy says that a job is assigned or running, whatever the API shows.
	Busy      bool      `json:"busy"`
	Job       int64     `json:"job"`
	CreatedAt time.Time `json:"created_at"`
	// ScaleSet is the set whose jobs the runner takes, 0 for none.
	ScaleSet int64 `json:"scale_set,omitempty"`
	// Leaked says that the registration has no live runner behind it and is older
	// than OfflineAfter: somebody forgot it.
	Leaked bool `json:"leaked"`
}

// BusyKill is a job that lost its runner.
type BusyKill struct {
	Job      int64     `json:"job"`
	RunnerID int64     `json:"runner_id"`
	Runner   string    `json:"runner"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

// LimitTruth counts requests that a rate limit refused.
type LimitTruth struct {
	Primary   int `json:"primary"`
	Secondary int `json:"secondary"`
}

// DeliveryTruth counts webhooks.
type DeliveryTruth struct {
	Events      int `json:"events"`   // emitted, once per App
	Attempts    int `json:"attempts"` // really or seemingly sent
	OK          int `json:"ok"`
	Failed      int `json:"failed"`
	Lost        int `json:"lost"` // by fault, without a trace in the log
	Duplicated  int `json:"duplicated"`
	Reordered   int `json:"reordered"`
	Redelivered int `json:"redelivered"` // asked for
}

// ByState counts jobs by status.
func (t Truth) ByState() map[string]int {
	out := map[string]int{}
	for _, j := range t.Jobs {
		out[j.Status]++
	}
	return out
}

// Job returns the job with that id; ok is false if there is none.
func (t Truth) Job(id int64) (j JobTruth, ok bool) {
	for _, j := range t.Jobs {
		if j.ID == id {
			return j, true
		}
	}
	return JobTruth{}, false
}

// Verdict lists everything that should not have happened: jobs executed more than
// once or twice completed, jobs killed under way, forgotten registrations. Nil is a
// clean bill.
func (t Truth) Verdict() []string {
	var out []string
	for _, j := range t.Jobs {
		if j.Executions > 1 || j.Completions > 1 {
			out = append(out, fmt.Sprintf("job %d was fetched %d times and completed %d times", j.ID, j.Executions, j.Completions))
		}
	}
	for _, k := range t.BusyKills {
		out = append(out, fmt.Sprintf("job %d lost runner %s: %s", k.Job, k.Runner, k.Reason))
	}
	for _, r := range t.Runners {
		if r.Leaked {
			out = append(out, fmt.Sprintf("runner %s of %s is registered with nobody behind it", r.Name, r.Scope))
		}
	}
	return out
}

// books is what Truth is made of, as far as the state itself does not tell.
type books struct {
	Kills        []BusyKill
	Registered   int
	Unregistered map[string]int
	Requeued     int
	Calls        map[string]map[string]int
	Limited      LimitTruth
	Deliveries   DeliveryTruth
	Faults       map[string]int
}

func newBooks() books {
	return books{Unregistered: map[string]int{}, Calls: map[string]map[string]int{}, Faults: map[string]int{}}
}

// fault books that a fault struck. The caller holds mu.
func (s *Server) fault(name string) {
	s.books.Faults[name]++
	s.changed()
}

func (b *books) call(rt *route, caller string) {
	if caller == "" {
		caller = "nobody"
	}
	if b.Calls[caller] == nil {
		b.Calls[caller] = map[string]int{}
	}
	b.Calls[caller][rt.method+" "+rt.path]++
}

func (b *books) registered(*runner) { b.Registered++ }

func (b *books) unregistered(_ *runner, why string, _ time.Time) { b.Unregistered[why]++ }

func (b *books) kill(r *runner, j *job, reason string, at time.Time) {
	b.Kills = append(b.Kills, BusyKill{Job: j.id, RunnerID: r.id, Runner: r.name, Reason: reason, At: at})
}

func (b *books) delivered(d *delivery) {
	b.Deliveries.Attempts++
	if d.drop {
		b.Faults["dropped delivery"]++
	}
	if d.code >= 200 && d.code < 300 {
		b.Deliveries.OK++
	} else {
		b.Deliveries.Failed++
	}
}

// Truth returns the books of this moment.
func (s *Server) Truth() Truth {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.truth()
}

func (s *Server) truth() Truth {
	t := Truth{
		At: s.now(), BusyKills: slices.Clone(s.books.Kills), Registered: s.books.Registered, Unregistered: maps.Clone(s.books.Unregistered),
		Requeued: s.books.Requeued, Limited: s.books.Limited, Deliveries: s.books.Deliveries, Faults: maps.Clone(s.books.Faults),
		Calls: map[string]map[string]int{}, Jobs: make([]JobTruth, len(s.jobOrder)), Runs: make([]RunTruth, len(s.runList)),
	}
	for caller, routes := range s.books.Calls {
		t.Calls[caller] = maps.Clone(routes)
	}
	for i, j := range s.jobOrder {
		t.Jobs[i] = j.truth()
	}
	for i, r := range s.runList {
		a := r.latest()
		t.Runs[i] = RunTruth{ID: r.id, Repo: r.repo.fullName(), Workflow: r.workflow.name, Attempt: a.number, Status: a.status, Conclusion: a.conclusion}
	}
	for _, set := range s.setList {
		t.ScaleSets = append(t.ScaleSets, s.setTruth(set))
	}
	for _, r := range s.runners {
		t.Runners = append(t.Runners, s.runnerTruth(r))
	}
	slices.SortFunc(t.Runners, func(a, b RunnerTruth) int { return int(a.ID - b.ID) })
	return t
}

func (j *job) truth() JobTruth {
	t := JobTruth{
		ID: j.id, RunID: j.run.id, Attempt: j.attempt.number, Repo: j.run.repo.fullName(), Name: j.name, Labels: j.labels, Status: j.status,
		Conclusion: j.conclusion, RunnerID: j.runnerID, Runner: j.runnerName, CreatedAt: j.createdAt, QueuedAt: j.queuedAt, CompletedAt: j.completedAt,
		Executions: j.acquires, Completions: j.completes, Copied: j.copied, Alien: j.alien,
		// Only ever appended to, so that the part which is there can be shared.
		Events: j.emitted[:len(j.emitted):len(j.emitted)],
	}
	t.SetIDs = j.setIDs[:len(j.setIDs):len(j.setIDs)]
	if j.set != nil {
		t.ScaleSet = j.set.id
	}
	if j.acquires > 0 {
		t.StartedAt = j.startedAt
	}
	return t
}

func (s *Server) runnerTruth(r *runner) RunnerTruth {
	t := RunnerTruth{
		ID: r.id, Name: r.name, Scope: r.scope.path(), Labels: views(r.labels, func(l label) string { return l.name }), Ephemeral: r.ephemeral,
		Connected: r.session != nil && s.heard(r.session), Busy: r.really(), CreatedAt: r.createdAt,
	}
	if r.set != nil {
		t.ScaleSet = r.set.id
	}
	if r.job != nil {
		t.Job = r.job.id
	}
	t.Leaked = !t.Connected && !t.Busy && s.now().Sub(r.createdAt) > s.cfg.OfflineAfter
	return t
}

// Wait returns when done says true, which it is asked at once and after changes,
// or with ctx's error. Changes that follow each other closely are asked about
// together, so that looking at a large world does not slow it down.
func (s *Server) Wait(ctx context.Context, done func(Truth) bool) error {
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
		case <-ctx.Done():
		}
		began := time.Now()
		s.mu.Lock()
		change, t, closed := s.change, s.truth(), s.closed
		s.mu.Unlock()
		rest.Reset(4 * time.Since(began))
		if done(t) {
			return nil
		}
		if closed {
			return fmt.Errorf("wait: the server is closed; jobs %v", t.ByState())
		}
		select {
		case <-change:
		case <-ctx.Done():
			return fmt.Errorf("wait: %w; jobs %v, %d runners", context.Cause(ctx), t.ByState(), len(t.Runners))
		}
	}
}

// JobLog returns what a job's runner has written so far.
func (s *Server) JobLog(jobID int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[jobID]
	if j == nil {
		return nil, fmt.Errorf("job %d does not exist", jobID)
	}
	return slices.Clone(j.log), nil
}
