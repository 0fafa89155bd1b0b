package githubsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

const runSource = "actions-run-service"

// maxLog is how much of one job's log is kept, in bytes.
const maxLog = 16 << 20

// runService reads the body, finds the caller, and runs do with mu held.
func (s *Server) runService(do func(w http.ResponseWriter, one *runner, body []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			return
		}
		late(func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if one := s.worker(r); one != nil {
				do(w, one, body)
			} else {
				refuse(w, runSource, http.StatusUnauthorized, "", "The access token is not valid.")
			}
		})(w, r)
	}
}

// late lets a handler answer while it holds mu: what it writes is sent when it is
// done.
func late(do http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kept := &lateWriter{header: w.Header()}
		do(kept, r)
		if kept.status != 0 {
			w.WriteHeader(kept.status)
		}
		_, _ = w.Write(kept.body.Bytes())
	}
}

// lateWriter keeps an answer.
type lateWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (l *lateWriter) Header() http.Header         { return l.header }
func (l *lateWriter) WriteHeader(status int)      { l.status = status }
func (l *lateWriter) Write(b []byte) (int, error) { return l.body.Write(b) }

// worker is the runner behind an access token or a job's own token.
func (s *Server) worker(r *http.Request) *runner {
	_, secret := credentials(r)
	if j := s.jobTokens[secret]; j != nil && j.assigned != nil {
		return j.assigned
	}
	return s.oauth[secret]
}

// mine finds the running job that a request names, or refuses.
func (s *Server) mine(w http.ResponseWriter, one *runner, body []byte, in any, id *string) *job {
	if err := json.Unmarshal(body, in); err != nil {
		refuse(w, runSource, http.StatusBadRequest, "", "The request cannot be read: %v", err)
		return nil
	}
	j := s.jobsByID[*id]
	if j == nil || j.assigned != one || j.status != inProgress {
		refuse(w, runSource, http.StatusNotFound, "", "The job %s is not valid any more.", *id)
		return nil
	}
	if one.session != nil {
		one.session.seen = s.now()
	}
	return j
}

// serveAcquire is a runner's claim to the job that it was offered.
func (s *Server) serveAcquire(w http.ResponseWriter, one *runner, body []byte) {
	var in message.AcquireRequest
	if err := json.Unmarshal(body, &in); err != nil {
		refuse(w, runSource, http.StatusBadRequest, "", "The request cannot be read: %v", err)
		return
	}
	j := s.jobsByID[in.JobMessageID]
	switch {
	case j == nil:
		refuse(w, runSource, http.StatusNotFound, "", "The job %s does not exist.", in.JobMessageID)
		return
	case j.status == completed:
		refuse(w, runSource, http.StatusUnprocessableEntity, "", "The job %s is over.", in.JobMessageID)
		return
	case j.assigned != one || j.status != queued:
		refuse(w, runSource, http.StatusConflict, "", "The job %s was assigned to another runner.", in.JobMessageID)
		return
	}
	s.start(j, one)
	answer(w, http.StatusOK, s.jobMessage(j))
}

func (s *Server) serveRenew(w http.ResponseWriter, one *runner, body []byte) {
	var in message.RenewRequest
	if j := s.mine(w, one, body, &in, &in.JobID); j != nil {
		answer(w, http.StatusOK, message.RenewAnswer{LockedUntil: s.renew(j)})
	}
}

func (s *Server) serveSteps(w http.ResponseWriter, one *runner, body []byte) {
	var in message.StepsRequest
	j := s.mine(w, one, body, &in, &in.JobID)
	if j == nil {
		return
	}
	j.steps = in.Steps
	answer(w, http.StatusOK, object{})
}

func (s *Server) serveLog(w http.ResponseWriter, one *runner, body []byte) {
	var in message.LogRequest
	j := s.mine(w, one, body, &in, &in.JobID)
	if j == nil {
		return
	}
	// A repeated request brings what is known already.
	known := int64(len(j.log)) - in.Offset
	if known >= 0 && known < int64(len(in.Data)) && len(j.log) < maxLog {
		j.log = append(j.log, in.Data[known:]...)
	}
	answer(w, http.StatusOK, object{})
}

func (s *Server) serveComplete(w http.ResponseWriter, one *runner, body []byte) {
	var in message.CompleteRequest
	j := s.mine(w, one, body, &in, &in.JobID)
	if j == nil {
		return
	}
	j.completes++
	j.outputs, j.annotations = in.Outputs, in.Annotations
	if in.StepResults != nil {
		j.steps = in.StepResults
	}
	conclusion := in.Conclusion
	if !slices.Contains([]string{message.Success, message.Failure, message.Cancelled, message.Skipped}, conclusion) {
		conclusion = message.Failure
	}
	if conclusion == message.Cancelled && !j.cancelling && in.Reason != message.ReasonTimeout {
		// Nobody asked for it: the machine was taken away under the job.
		s.books.kill(one, j, "runner shut down", s.now())
	}
	if conclusion == message.Success && s.chance.hit("false lost", s.faults.now().FalseLost) {
		s.fault("false lost communication")
		conclusion = message.Failure
		j.annotations = append(j.annotations, message.Annotation{Level: "failure", Message: lostText})
	}
	s.finish(j, conclusion)
	answer(w, http.StatusOK, object{})
}

const lostText = "The self-hosted runner lost communication with the server. Verify the machine is running and has a healthy network connection."

// start begins a job on its runner.
func (s *Server) start(j *job, r *runner) {
	now := s.now()
	j.acquires++
	j.status, j.startedAt = inProgress, now
	j.runnerID, j.runnerName, j.groupID, j.groupName = r.id, r.name, r.group.id, r.group.name
	j.steps = []message.StepResult{{Number: 1, Name: "Set up job", Status: inProgress, StartedAt: now}}
	s.agenda.cancel(j.pickup)
	s.agenda.cancel(j.expiry)
	s.watchTimeout(j)
	s.renew(j)
	s.cfg.Logger.Debug("job started", "job", j.id, "runner", r.name)
	if a := j.attempt; !a.started {
		a.started = true
		a.status, a.updatedAt = inProgress, now
		s.emitRun(j.run, "in_progress")
	}
	s.emitJob(j, "in_progress")
	s.startedInSet(j, r)
	s.changed()
}

// watchTimeout ends a job whose runner does not heed timeout-minutes. The runner
// has the grace of a cancellation to do it by itself.
func (s *Server) watchTimeout(j *job) {
	limit := j.instance.Timeout
	if limit <= 0 {
		limit = workflow.DefaultTimeout
	}
	j.timeout = s.after(limit+s.cfg.CancelGrace, func() {
		j.annotations = append(j.annotations, message.Annotation{
			Level: "failure", Message: fmt.Sprintf("The job has exceeded the maximum execution time of %s", limit),
		})
		s.finish(j, message.Cancelled)
	})
}

// renew extends a running job's lease and returns its new end.
func (s *Server) renew(j *job) time.Time {
	s.agenda.cancel(j.lease)
	j.lease = s.after(s.cfg.JobLease, func() {
		if j.status != inProgress {
			return
		}
		s.books.kill(j.assigned, j, "lease expired", s.now())
		j.annotations = append(j.annotations, message.Annotation{Level: "failure", Message: lostText})
		s.finish(j, message.Failure)
	})
	return s.now().Add(s.cfg.JobLease)
}

// jobMessage is the job as its runner gets it.
func (s *Server) jobMessage(j *job) message.Message {
	m := j.message
	m.PlanID, m.JobID, m.Name, m.Key = j.plan, j.uuid, j.name, j.key
	if j.token == "" {
		j.token = "ghs_" + s.chance.text("job token", 36, alphaNumeric)
		s.jobTokens[j.token] = j
	}
	m.Token = j.token
	m.Masks = append(slices.Clone(m.Masks), j.token)
	if j.run.repo.files != nil {
		m.Checkout = &message.Checkout{URL: s.base + "/_services/checkout/" + strconv.FormatInt(j.run.repo.id, 10)}
	}
	if m.Event == nil {
		m.Event = encode(j.run.payload)
	}
	return m
}

// serveCheckout sends a repository's files to a job that runs there.
func (s *Server) serveCheckout(w http.ResponseWriter, r *http.Request) {
	_, secret := credentials(r)
	s.mu.Lock()
	j := s.jobTokens[secret]
	id, _ := strconv.ParseInt(r.PathValue("repository"), 10, 64)
	repo := s.repositoryIDs[id]
	s.mu.Unlock()
	if j == nil || repo == nil || repo.files == nil || j.run.repo != repo {
		refuse(w, runSource, http.StatusNotFound, "", "Not Found")
		return
	}
	w.Header().Set("Content-Type", "application/gzip")
	if err := writeArchive(w, repo.files); err != nil {
		s.cfg.Logger.Warn("checkout", "repository", repo.fullName(), "error", fmt.Sprint(err))
	}
}
