package githubsim

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// advance starts or skips whatever an attempt's finished jobs allow, and closes
// the attempt when nothing is left. The caller holds mu.
func (s *Server) advance(a *attempt) {
	if a.status == completed || a.parked {
		return
	}
	if w := a.run.workflow.parsed; w != nil {
		for again := true; again; {
			again = false
			for _, spec := range w.Jobs {
				if !a.begun[spec.Key] && s.begin(a, w, spec) {
					again = true
				}
			}
		}
	}
	open := slices.ContainsFunc(a.jobs, func(j *job) bool { return j.status != completed })
	if !open && !a.holds() {
		s.endAttempt(a, a.verdict())
		return
	}
	s.setAttemptStatus(a)
}

func (a *attempt) holds() bool {
	for _, held := range a.held {
		if len(held) > 0 {
			return true
		}
	}
	return false
}

// setAttemptStatus derives a run's state from its jobs.
func (s *Server) setAttemptStatus(a *attempt) {
	status := waiting
	for _, j := range a.jobs {
		if j.status == queued || j.status == pending && status == waiting {
			status = j.status
		}
	}
	if a.started {
		status = inProgress
	}
	if status != a.status {
		a.status, a.updatedAt = status, s.now()
	}
}

// verdict is a run's conclusion.
func (a *attempt) verdict() string {
	if a.cancelled {
		return message.Cancelled
	}
	var all []workflow.InstanceResult
	for _, j := range a.jobs {
		all = append(all, j.result())
	}
	return workflow.Combine(all...).Conclusion
}

// begin resolves one job of the file; it reports whether that was possible.
func (s *Server) begin(a *attempt, w *workflow.Workflow, spec *workflow.Job) bool {
	got, err := w.Resolve(spec.Key, a.state)
	if err == nil && got.Verdict == workflow.Wait {
		return false
	}
	a.begun[spec.Key] = true
	switch {
	case err != nil:
		j := s.newJob(a, workflow.Instance{Key: spec.Key, Name: spec.Key, Total: 1})
		j.annotations = append(j.annotations, message.Annotation{Level: "failure", Message: err.Error()})
		s.finish(j, message.Failure)
	case got.Verdict == workflow.Skip:
		for _, in := range got.Instances {
			s.finish(s.newJob(a, in), message.Skipped)
		}
	case len(got.Instances) == 0:
		a.state.Results[spec.Key] = workflow.Result{Conclusion: message.Skipped}
	default:
		a.held[spec.Key] = got.Instances
		s.release(a, spec.Key)
	}
	return true
}

// release queues the held instances of a job, as many as max-parallel allows.
func (s *Server) release(a *attempt, key string) {
	for len(a.held[key]) > 0 {
		in := a.held[key][0]
		if in.MaxParallel > 0 && a.active(key) >= in.MaxParallel {
			return
		}
		a.held[key] = a.held[key][1:]
		j := s.newJob(a, in)
		m, err := a.run.workflow.parsed.Message(in, a.state)
		if err != nil {
			j.annotations = append(j.annotations, message.Annotation{Level: "failure", Message: err.Error()})
			s.finish(j, message.Failure)
			continue
		}
		j.message = m
		s.admit(j)
	}
}

func (a *attempt) active(key string) int {
	n := 0
	for _, j := range a.jobs {
		if j.key == key && j.status != completed {
			n++
		}
	}
	return n
}

// newJob adds a job to an attempt; nobody hears of it yet.
func (s *Server) newJob(a *attempt, in workflow.Instance) *job {
	now := s.now()
	j := &job{
		id: s.id(&s.ids.job), run: a.run, attempt: a, key: in.Key, name: in.Name, labels: in.Labels, group: in.Group, instance: in,
		status: queued, createdAt: now, startedAt: now, plan: s.chance.uuid("plan"), uuid: s.chance.uuid("job"),
	}
	a.jobs = append(a.jobs, j)
	s.jobs[j.id] = j
	s.jobsByID[j.uuid] = j
	s.jobOrder = append(s.jobOrder, j)
	return j
}

// admit lets a job wait for its concurrency group and its gate, or queues it.
func (s *Server) admit(j *job) {
	c := j.instance.Concurrency
	if c == nil {
		s.gate(j)
		return
	}
	j.status = pending
	s.setAttemptStatus(j.attempt)
	j.claim = &claim{begin: func() { s.gate(j) }, cancel: func() { s.cancelJob(j) }}
	s.claim(j.run.repo, c, j.claim)
}

func (s *Server) gate(j *job) {
	env := j.instance.Environment
	if env == nil {
		s.queue(j)
		return
	}
	e := s.environment(j.run.repo, env.Name)
	now := s.now()
	j.deployment = &deployment{id: s.id(&s.ids.deployment), repo: j.run.repo, environment: e, head: j.run.head, createdAt: now, updatedAt: now}
	if !e.gated {
		s.queue(j)
		return
	}
	j.status = waiting
	s.setAttemptStatus(j.attempt)
	s.emitJob(j, "waiting")
	if s.chance.hit("queued while waiting", s.faults.now().QueuedWhileWaiting) {
		s.fault("queued while waiting")
		s.emitJob(j, "queued")
	}
	j.expiry = s.after(s.cfg.GateTimeout, func() {
		if j.status == waiting {
			s.finish(j, message.Failure)
		}
	})
}

// queue tells everyone of a job and looks for a runner.
func (s *Server) queue(j *job) {
	s.agenda.cancel(j.expiry)
	j.status, j.queuedAt = queued, s.now()
	s.setAttemptStatus(j.attempt)
	s.emitJob(j, "queued")
	j.expiry = s.after(s.cfg.QueueTimeout, func() {
		if j.status == queued {
			s.finish(j, message.Cancelled)
		}
	})
	s.enqueue(j)
	s.changed()
}

// open lets the jobs behind a gate go, or fails them.
func (s *Server) open(r *run, e *environment, approved bool) []*deployment {
	var out []*deployment
	for _, j := range slices.Clone(r.latest().jobs) {
		if j.status != waiting || j.deployment.environment != e {
			continue
		}
		j.deployment.updatedAt = s.now()
		out = append(out, j.deployment)
		if approved {
			s.queue(j)
		} else {
			s.finish(j, message.Failure)
		}
	}
	return out
}

// finish ends a job, whatever it was doing, and lets its attempt go on.
func (s *Server) finish(j *job, conclusion string) {
	if j.status == completed {
		return
	}
	now := s.now()
	ran := j.status == inProgress
	for _, e := range []*entry{j.pickup, j.expiry, j.lease, j.grace, j.timeout} {
		s.agenda.cancel(e)
	}
	if j.token != "" {
		s.after(time.Hour, func() { delete(s.jobTokens, j.token) })
	}
	s.dequeue(j)
	j.status, j.conclusion, j.completedAt = completed, conclusion, now
	if !ran {
		// Never dispatched: started and completed at once, on runner 0.
		j.startedAt, j.steps = now, nil
	}
	if r := j.assigned; r != nil {
		s.releaseRunner(r, j, ran)
	}
	s.cfg.Logger.Debug("job completed", "job", j.id, "conclusion", conclusion)
	s.emitJob(j, "completed")
	s.completedInSet(j)
	s.leave(j.claim)
	s.settle(j)
	s.changed()
}

// releaseRunner frees the runner of a finished job, or ends its registration.
func (s *Server) releaseRunner(r *runner, j *job, ran bool) {
	r.job = nil
	if r.removed {
		return
	}
	if !ran && r.session != nil {
		r.session.forget(j)
	}
	if !r.consumed && (!r.ephemeral || !ran) {
		s.offer(r)
		return
	}
	r.consumed = true
	linger := s.cfg.RecordLinger
	if s.chance.hit("stuck record", s.faults.now().StuckRecords) {
		s.fault("stuck record")
		r.stuck, linger = true, s.faults.stuckFor()
	}
	if linger <= 0 {
		s.removeRunner(r, "one job done")
		return
	}
	r.lingering = true
	s.after(linger, func() { r.lingering = false; s.removeRunner(r, "one job done") })
}

// settle books a finished job with its attempt: results for the jobs that need
// it, fail-fast, the next of a held matrix.
func (s *Server) settle(j *job) {
	a := j.attempt
	failed := j.conclusion != message.Success && j.conclusion != message.Skipped && j.conclusion != message.Cancelled
	if failed && j.instance.FailFast && !j.instance.ContinueOnError {
		a.held[j.key] = nil
		for _, other := range slices.Clone(a.jobs) {
			if other.key == j.key && other.status != completed {
				s.cancelJob(other)
			}
		}
	}
	if a.run.workflow.parsed != nil {
		s.release(a, j.key)
	}
	if a.active(j.key) == 0 && len(a.held[j.key]) == 0 {
		var all []workflow.InstanceResult
		for _, other := range a.jobs {
			if other.key == j.key {
				all = append(all, other.result())
			}
		}
		a.state.Results[j.key] = workflow.Combine(all...)
	}
	s.advance(a)
}

// CancelJob ends one job of a run; the others go on.
func (s *Server) CancelJob(jobID int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[jobID]
	if j == nil {
		return errors.New("cancel: the job does not exist")
	}
	if n := s.injected(jobID); n > 0 {
		s.act(Act{CancelJob: n})
	}
	s.cancelJob(j)
	s.changed()
	return nil
}

func (s *Server) cancelJob(j *job) {
	switch j.status {
	case queued, waiting, pending:
		s.finish(j, message.Cancelled)
	case inProgress:
		if j.cancelling {
			return
		}
		j.cancelling = true
		if r := j.assigned; r != nil && r.session != nil {
			r.session.put(message.Broker{
				MessageID: s.id(&s.ids.message), MessageType: message.TypeJobCancellation,
				Body: string(encode(message.JobCancellation{JobID: j.uuid, Timeout: s.cfg.CancelGrace.String()})),
			})
		}
		j.grace = s.after(max(s.cfg.CancelGrace, time.Millisecond), func() { s.finish(j, message.Cancelled) })
	}
}

// cancelRun ends all jobs of a run; force does not wait for the runners.
func (s *Server) cancelRun(r *run, force bool) error {
	if r.latest().status == completed {
		return errorf(http.StatusConflict, "Cannot cancel a workflow run that is completed.")
	}
	s.cancelAttempt(r.latest(), force)
	return nil
}

func (s *Server) cancelAttempt(a *attempt, force bool) {
	if a.parked {
		// It never began, so there are no jobs.
		a.cancelled = true
		s.endAttempt(a, message.Cancelled)
		return
	}
	a.cancelled, a.state.Cancelled = true, true
	clear(a.held)
	for _, j := range slices.Clone(a.jobs) {
		if force {
			s.finish(j, message.Cancelled)
		} else {
			s.cancelJob(j)
		}
	}
	s.advance(a)
	s.changed()
}

// rerun starts a new attempt. Of a finished one it repeats everything, what
// failed, or one job; what it does not repeat it copies under new ids.
func (s *Server) rerun(r *run, onlyFailed bool, only *job) error {
	old := r.latest()
	if old.status != completed {
		return errorf(http.StatusForbidden, "This workflow run is already running.")
	}
	if old.conclusion == "startup_failure" {
		return errorf(http.StatusForbidden, "The workflow run cannot be retried: it failed to start.")
	}
	a := s.newAttempt(r)
	s.emitRun(r, requested)
	w := r.workflow.parsed
	if w == nil {
		for _, j := range old.jobs {
			if onlyFailed && j.conclusion == message.Success || only != nil && j != only {
				s.copyJob(a, j)
			} else {
				s.repeat(a, j)
			}
		}
		s.advance(a)
		return nil
	}
	again := map[string]bool{} // jobs of the file that run again, in part or in whole
	for _, spec := range w.Jobs {
		if !onlyFailed && only == nil {
			break
		}
		s.rerunKey(a, old, spec, only, again)
	}
	if onlyFailed || only != nil {
		s.advance(a)
	} else {
		s.enter(a)
	}
	return nil
}

// rerunKey copies or repeats the jobs of one key of the file. Keys that depend on
// a repeated one are left to advance.
func (s *Server) rerunKey(a, old *attempt, spec *workflow.Job, only *job, again map[string]bool) {
	if slices.ContainsFunc(spec.Needs, func(need string) bool { return again[need] }) {
		again[spec.Key] = true
		return
	}
	repeat := func(j *job) bool {
		if only != nil {
			return j == only
		}
		return j.conclusion != message.Success && j.conclusion != message.Skipped
	}
	var mine []*job
	for _, j := range old.jobs {
		if j.key == spec.Key {
			mine = append(mine, j)
		}
	}
	a.begun[spec.Key] = true
	again[spec.Key] = slices.ContainsFunc(mine, repeat)
	var copies []*job
	for _, j := range mine {
		if repeat(j) {
			s.repeat(a, j)
		} else {
			copies = append(copies, s.copyJob(a, j))
		}
	}
	if !again[spec.Key] && len(copies) > 0 {
		var all []workflow.InstanceResult
		for _, j := range copies {
			all = append(all, j.result())
		}
		a.state.Results[spec.Key] = workflow.Combine(all...)
	}
}

// repeat queues a job of an earlier attempt again, under a new id.
func (s *Server) repeat(a *attempt, old *job) *job {
	j := s.newJob(a, old.instance)
	j.message, j.alien = old.message, old.alien
	if w := a.run.workflow.parsed; w != nil {
		// What the job needs is as it was, but the attempt has a new number.
		if m, err := w.Message(old.instance, a.state); err == nil {
			j.message.Contexts.GitHub = m.Contexts.GitHub
		}
	}
	s.admit(j)
	return j
}

// copyJob takes a finished job over into a new attempt: a new id, the old times,
// and a completed event at once.
func (s *Server) copyJob(a *attempt, old *job) *job {
	j := s.newJob(a, old.instance)
	j.copied, j.message = true, old.message
	j.status, j.conclusion = completed, old.conclusion
	j.createdAt, j.startedAt, j.completedAt = old.createdAt, old.startedAt, old.completedAt
	j.runnerID, j.runnerName, j.groupID, j.groupName = old.runnerID, old.runnerName, old.groupID, old.groupName
	j.steps, j.outputs, j.log = old.steps, old.outputs, old.log
	s.emitJob(j, "completed")
	return j
}
