package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// listener is a configured runner that waits for jobs.
type listener struct {
	*program
	conf    *configuration
	once    bool
	log     *diag
	access  string // access token
	session string
}

func newListener(r *program, c *configuration, once bool) *listener {
	return &listener{program: r, conf: c, once: once || c.settings.Ephemeral}
}

// codes of the listener, as far as they differ in what is printed.
const (
	codeOK              = 0
	codeTerminated      = 1
	codeSessionConflict = 5
)

const deletedText = "Failed to create a session. The runner registration has been deleted from the server, please re-configure. " +
	"Runner registrations are automatically deleted for runners that have not connected to the service recently."

// run connects, waits for jobs and runs them, until ctx is over or the runner
// has done its one job.
func (l *listener) run(ctx context.Context) int {
	l.log = l.openDiag("Runner")
	defer l.log.close()
	if code, ok := l.connect(ctx); !ok {
		return code
	}
	// The session is given back however the loop ends, also when ctx is over.
	defer func() {
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = l.call(leave, http.MethodDelete, l.conf.settings.ServerURLV2+"session?sessionId="+url.QueryEscape(l.session), "Bearer "+l.access, nil, nil)
	}()
	fmt.Fprintf(l.out, "Current runner version: '%s'\n", Version)
	l.say("Listening for Jobs")
	l.log.info("MessageListener", "Session created.")
	return l.listen(ctx)
}

// connect makes the session; ok false means that the runner ends with code.
func (l *listener) connect(ctx context.Context) (code int, ok bool) {
	fmt.Fprintln(l.out)
	host, _ := os.Hostname()
	request := message.Session{
		SessionID: newID(), OwnerName: fmt.Sprintf("%s (PID: %d)", host, os.Getpid()),
		Agent: message.Agent{ID: l.conf.settings.AgentID, Name: l.conf.settings.AgentName, Version: Version, OSDescription: runtime.GOOS + " " + runtime.GOARCH},
	}
	var conflict time.Time
	for {
		err := l.open(ctx, request)
		switch {
		case err == nil:
			fmt.Fprintf(l.out, "√ Connected to GitHub\n\n")
			return 0, true
		case ctx.Err() != nil:
			fmt.Fprintln(l.out, "Exiting...")
			return codeOK, false
		case errors.Is(err, errRegistrationGone):
			fmt.Fprintln(l.errs, deletedText)
			return codeTerminated, false
		case statusOf(err) == http.StatusConflict:
			if conflict.IsZero() {
				conflict = time.Now()
				fmt.Fprintln(l.errs, "A session for this runner already exists.")
			}
			if time.Since(conflict) >= l.knobs.Conflict {
				fmt.Fprintln(l.errs, "Stop retry on SessionConflictException after retried for", l.knobs.Conflict)
				return codeSessionConflict, false
			}
		case statusOf(err) == http.StatusForbidden || statusOf(err) == http.StatusUnauthorized || statusOf(err) == http.StatusNotFound:
			fmt.Fprintf(l.errs, "Failed to create session. %v\n", err)
			return codeTerminated, false
		default:
			l.say("Runner connect error: %v. Retrying until reconnected.", err)
		}
		l.log.info("MessageListener", "Session could not be created: %v", err)
		if !pause(ctx, l.knobs.Retry) {
			return codeOK, false
		}
	}
}

func (l *listener) open(ctx context.Context, request message.Session) (err error) {
	if l.access, err = l.accessToken(ctx, l.conf); err != nil {
		return err
	}
	var answer message.Session
	if _, err := l.call(ctx, http.MethodPost, l.conf.settings.ServerURLV2+"session", "Bearer "+l.access, request, &answer); err != nil {
		return err
	}
	if l.session = answer.SessionID; l.session == "" {
		l.session = request.SessionID
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type polled struct {
	msg *message.Broker // nil: nothing came
	err error
}

func (l *listener) listen(ctx context.Context) int {
	var current *job
	var done <-chan struct{} // of current, nil when idle
	failures := 0
	for {
		status := "Online"
		if current != nil {
			status = "Busy"
		}
		pollCtx, stop := context.WithCancel(ctx)
		results := make(chan polled, 1)
		go func() { m, err := l.poll(pollCtx, status); results <- polled{m, err} }()

		// A change of status ends the poll: that is how the server learns of it.
		var got polled
		over, finished := false, false
		select {
		case got = <-results:
		case <-done:
			finished = true
		case <-ctx.Done():
			over = true
		}
		stop()
		if finished || over {
			got = <-results
		}
		if over || ctx.Err() != nil {
			if current != nil {
				current.shutdown()
				<-done
				l.finish(current)
			}
			fmt.Fprintln(l.out, "Exiting...")
			return codeOK
		}
		if finished {
			l.finish(current)
			if l.once {
				return codeOK
			}
			current, done = nil, nil
		}
		switch {
		case got.err != nil && errors.Is(got.err, context.Canceled):
		case got.err != nil:
			code, again := l.pollFailed(ctx, got.err, &failures)
			if !again {
				if current != nil {
					current.shutdown()
					<-done
					l.finish(current)
				}
				return code
			}
		case got.msg != nil:
			failures = 0
			if j := l.handle(ctx, *got.msg, current); j != nil {
				current, done = j, j.done
			}
		default:
			failures = 0
		}
	}
}

// finish prints how a job ended. An ephemeral runner forgets its registration,
// which the server has removed as well.
func (l *listener) finish(j *job) {
	l.say("Job %s completed with result: %s", j.msg.Name, j.result())
	if l.conf.settings.Ephemeral {
		l.forget()
	}
}

func (l *listener) poll(ctx context.Context, status string) (*message.Broker, error) {
	q := url.Values{"sessionId": {l.session}, "status": {status}, "runnerVersion": {Version}, "os": {osName()}, "architecture": {archName()}, "disableUpdate": {"true"}}
	var m message.Broker
	code, err := l.call(ctx, http.MethodGet, l.conf.settings.ServerURLV2+"message?"+q.Encode(), "Bearer "+l.access, nil, &m)
	if err != nil || code == http.StatusAccepted || m.MessageType == "" {
		return nil, err
	}
	return &m, nil
}

// pollFailed says whether to go on after a poll that failed.
func (l *listener) pollFailed(ctx context.Context, err error, failures *int) (code int, again bool) {
	l.log.info("BrokerMessageListener", "Message could not be read: %v", err)
	if e, ok := errors.AsType[*answerError](err); ok {
		switch {
		case e.kind == message.KindRunnerNotFound:
			fmt.Fprintln(l.errs, "The runner no longer exists on the server. Cleaning up local configuration.")
			l.forget()
			return codeOK, false
		case e.kind == message.KindRunnerVersionTooOld:
			fmt.Fprintln(l.errs, e.text)
			return codeTerminated, false
		case e.status == http.StatusUnauthorized:
			if l.access, err = l.accessToken(ctx, l.conf); errors.Is(err, errRegistrationGone) {
				fmt.Fprintln(l.errs, deletedText)
				return codeTerminated, false
			}
			if err == nil && *failures == 0 {
				*failures++
				return codeOK, true // at once, with the new token
			}
		}
	}
	// The real listener waits 15 to 30 s, and gives up after ten errors in a row.
	if *failures++; *failures > 10 {
		fmt.Fprintln(l.errs, "An error occurred: ", err)
		return codeTerminated, false
	}
	return codeOK, pause(ctx, l.knobs.Retry/2)
}

// handle acts on a message; a job that began is returned.
func (l *listener) handle(ctx context.Context, m message.Broker, current *job) *job {
	switch m.MessageType {
	case message.TypeJobRequest:
		var offer message.JobRequest
		if err := json.Unmarshal([]byte(m.Body), &offer); err != nil {
			l.log.info("Runner", "Skipping message Job. The offer cannot be read: %v", err)
			return nil
		}
		if current != nil {
			l.log.info("Runner", "Skipping message Job. A job is running.")
			return nil
		}
		return l.acquire(ctx, offer)
	case message.TypeJobCancellation:
		var c message.JobCancellation
		if err := json.Unmarshal([]byte(m.Body), &c); err == nil && current != nil && (c.JobID == "" || c.JobID == current.msg.JobID) {
			l.log.info("JobDispatcher", "Job cancellation request for %s.", c.JobID)
			current.cancel(cancelledByServer)
		}
	case message.TypeForceTokenRefresh:
		if token, err := l.accessToken(ctx, l.conf); err == nil {
			l.access = token
		}
	default:
		l.log.info("Runner", "Received message %d with unsupported message type %s.", m.MessageID, m.MessageType)
	}
	return nil
}

// acquire claims an offered job. A lost claim leaves the runner listening, even
// where its registration was consumed by the offer (actions/runner#4617).
func (l *listener) acquire(ctx context.Context, offer message.JobRequest) *job {
	if offer.ShouldAcknowledge {
		quick, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := l.call(quick, http.MethodPost, l.conf.settings.ServerURLV2+"acknowledge?sessionId="+url.QueryEscape(l.session), "Bearer "+l.access,
			map[string]string{"runnerRequestId": offer.RunnerRequestID}, nil)
		cancel()
		if err != nil {
			l.log.info("Runner", "Best-effort acknowledge failed: %v", err)
		}
	}
	request := message.AcquireRequest{JobMessageID: offer.RunnerRequestID, RunnerOS: osName(), BillingOwnerID: offer.BillingOwnerID}
	for try := 0; ; try++ {
		var msg message.Message
		_, err := l.call(ctx, http.MethodPost, offer.RunServiceURL+"/acquirejob", "Bearer "+l.access, request, &msg)
		switch status := statusOf(err); {
		case err == nil:
			l.say("Running job: %s", msg.Name)
			l.log.info("JobDispatcher", "Job request %s for plan %s job %s received.", offer.RunnerRequestID, msg.PlanID, msg.JobID)
			return startJob(ctx, l, offer.RunServiceURL, msg)
		case status == http.StatusNotFound || status == http.StatusConflict || status == http.StatusUnprocessableEntity || ctx.Err() != nil || try == 4:
			l.log.info("Runner", "Skipping message Job. %v", err)
			fmt.Fprintf(l.errs, "Skipping message Job. %v\n", err)
			return nil
		}
		if !pause(ctx, min(l.knobs.Retry, time.Second<<try)) {
			return nil
		}
	}
}
