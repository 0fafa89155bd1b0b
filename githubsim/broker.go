package githubsim

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// session is a connected runner program.
type session struct {
	id      string
	runner  *runner
	owner   string
	queue   []message.Broker
	wake    chan struct{}
	polling int // long polls under way
	turn    int // of the latest of them, which alone is told anything
	fetched message.Broker
	seen    time.Time // last sign of life
	lost    bool      // did not fetch a job in time
	ghost   bool      // its registration was consumed without a job
	offline *entry
}

// notify wakes the session's long poll.
func (x *session) notify() {
	close(x.wake)
	x.wake = make(chan struct{})
}

func (x *session) put(m message.Broker) {
	x.queue = append(x.queue, m)
	x.notify()
}

// forget drops the offer of a job that was not fetched yet.
func (x *session) forget(j *job) {
	x.queue = slices.DeleteFunc(x.queue, func(m message.Broker) bool {
		return m.MessageID == j.messageID && m.MessageType == message.TypeJobRequest
	})
}

func (s *Server) brokerURL() string        { return s.base + "/_services/broker/" }
func (s *Server) authorizationURL() string { return s.base + "/_services/oauth/token" }
func (s *Server) runServiceURL() string    { return s.base + "/_services/run" }
func (s *Server) pipelinesURL(sc *scope) string {
	return s.base + "/_services/pipelines/" + sc.path() + "/"
}

func (s *Server) brokerRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /_services/oauth/token", late(s.serveOAuth))
	mux.HandleFunc("POST /_services/broker/session", late(s.serveSession))
	mux.HandleFunc("DELETE /_services/broker/session", late(s.serveSessionEnd))
	mux.HandleFunc("GET /_services/broker/message", s.serveMessage)
	mux.HandleFunc("POST /_services/broker/acknowledge", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("POST /_services/run/acquirejob", s.runService(s.serveAcquire))
	mux.HandleFunc("POST /_services/run/renewjob", s.runService(s.serveRenew))
	mux.HandleFunc("POST /_services/run/steps", s.runService(s.serveSteps))
	mux.HandleFunc("POST /_services/run/log", s.runService(s.serveLog))
	mux.HandleFunc("POST /_services/run/completejob", s.runService(s.serveComplete))
	mux.HandleFunc("GET /_services/checkout/{repository}", s.serveCheckout)
	s.registrationRoutes(mux)
	s.scaleSetRoutes(mux)
}

// serveOAuth trades a runner's signed assertion for an access token.
func (s *Server) serveOAuth(w http.ResponseWriter, r *http.Request) {
	signed, signature, claims, err := splitJWT(r.PostFormValue("client_assertion"))
	if err != nil || r.PostFormValue("grant_type") != "client_credentials" {
		answer(w, http.StatusBadRequest, message.OAuthError{Error: "invalid_request", Description: "A client assertion is needed."})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _ := claims["iss"].(string)
	one := s.clients[id]
	if one == nil || claims["sub"] != claims["iss"] || one.key == nil || !verifyRS256(one.key, signed, signature) {
		answer(w, http.StatusBadRequest, message.OAuthError{Error: "invalid_client", Description: "The client is not registered."})
		return
	}
	now := s.now()
	exp, ok := seconds(claims["exp"])
	if !ok || exp <= now.Unix() || claims["aud"] != s.authorizationURL() {
		answer(w, http.StatusBadRequest, message.OAuthError{Error: "invalid_grant", Description: "The assertion has expired or is not meant for this service."})
		return
	}
	secret := rand.Text() + rand.Text()
	s.oauth[secret] = one
	one.access = append(one.access, secret)
	answer(w, http.StatusOK, message.TokenAnswer{AccessToken: secret, ExpiresIn: 3600, TokenType: "Bearer"})
}

// answer writes JSON.
func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if body != nil {
		_, _ = w.Write(encode(body)) // a client that went away is its own loss
	}
}

func refuse(w http.ResponseWriter, source string, status int, kind, format string, args ...any) {
	answer(w, status, message.ServiceError{Source: source, ErrorKind: kind, StatusCode: status, ErrorMessage: fmt.Sprintf(format, args...)})
}

const brokerSource = "actions-broker-listener"

// caller is the runner whose access token a request carries.
func (s *Server) caller(w http.ResponseWriter, r *http.Request) *runner {
	_, secret := credentials(r)
	one := s.oauth[secret]
	if one == nil {
		refuse(w, brokerSource, http.StatusUnauthorized, "", "The access token is not valid.")
	}
	return one
}

const goneText = "The runner no longer exists on the server. Cleaning up local configuration."

func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	var in message.Session
	if !read(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.caller(w, r)
	if one == nil {
		return
	}
	if one.removed || one.consumed && one.job == nil {
		refuse(w, brokerSource, http.StatusForbidden, message.KindRunnerNotFound, goneText)
		return
	}
	now := s.now()
	if s.chance.hit("session conflict", s.faults.now().SessionConflicts) {
		s.fault("session conflict")
		refuse(w, brokerSource, http.StatusConflict, "", "The actions runner %s already has an active session for owner %s.", one.name, in.OwnerName)
		return
	}
	if old := one.session; old != nil {
		if s.heard(old) {
			refuse(w, brokerSource, http.StatusConflict, "", "The actions runner %s already has an active session for owner %s.", one.name, old.owner)
			return
		}
		s.endSession(old)
	}
	if one.connectedAt.IsZero() {
		one.connectedAt = now
	}
	one.os, one.version = osOf(in.Agent.OSDescription), in.Agent.Version
	x := &session{id: s.chance.uuid("session"), runner: one, owner: in.OwnerName, wake: make(chan struct{}), seen: now}
	s.sessions[x.id] = x
	one.session = x
	s.agenda.cancel(one.absence)
	s.watchOffline(x)
	s.offer(one)
	s.changed()
	answer(w, http.StatusOK, message.Session{SessionID: x.id, OwnerName: in.OwnerName, Agent: in.Agent})
}

func (s *Server) serveSessionEnd(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.caller(w, r)
	if one == nil {
		return
	}
	if x := s.sessions[r.URL.Query().Get("sessionId")]; x != nil && x.runner == one {
		s.endSession(x)
	} else if one.session != nil && r.URL.Query().Get("sessionId") == "" {
		s.endSession(one.session)
	}
	s.changed()
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) endSession(x *session) {
	delete(s.sessions, x.id)
	s.agenda.cancel(x.offline)
	x.notify()
	r := x.runner
	if r.session != x {
		return
	}
	r.session, r.idleSince = nil, time.Time{}
	s.withdraw(r)
	s.agenda.cancel(r.reaper)
	if !r.removed {
		s.watchAbsence(r)
	}
}

// watchOffline takes a runner that fell silent out of the market.
func (s *Server) watchOffline(x *session) {
	s.agenda.cancel(x.offline)
	x.offline = s.after(s.cfg.OfflineAfter, func() {
		if x.polling > 0 || x.runner.session != x {
			return
		}
		s.withdraw(x.runner)
		s.watchAbsence(x.runner)
		s.changed()
	})
}

// serveMessage is the runner's long poll.
func (s *Server) serveMessage(w http.ResponseWriter, r *http.Request) {
	x, turn, problem := s.enterPoll(r)
	if problem != nil {
		refuse(w, brokerSource, problem.status, problem.doc, "%s", problem.message)
		return
	}
	defer s.leavePoll(x)
	limit := time.NewTimer(max(s.cfg.LongPoll, time.Millisecond))
	defer limit.Stop()
	for {
		m, wake, problem := s.fetch(r, x, turn)
		switch {
		case problem != nil:
			refuse(w, brokerSource, problem.status, problem.doc, "%s", problem.message)
			return
		case m != nil:
			answer(w, http.StatusOK, m)
			return
		}
		select {
		case <-wake:
		case <-limit.C:
			w.WriteHeader(http.StatusAccepted)
			return
		case <-r.Context().Done():
			return
		case <-s.stopping.Done():
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
}

func brokerError(status int, kind, text string) *apiError {
	return &apiError{status: status, doc: kind, message: text}
}

func (s *Server) enterPoll(r *http.Request) (*session, int, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, secret := credentials(r)
	one, x := s.oauth[secret], s.sessions[r.URL.Query().Get("sessionId")]
	switch {
	case one == nil:
		return nil, 0, brokerError(http.StatusUnauthorized, "", "The access token is not valid.")
	case one.removed && (x == nil || !x.ghost):
		return nil, 0, brokerError(http.StatusForbidden, message.KindRunnerNotFound, goneText)
	case x == nil || x.runner != one:
		return nil, 0, brokerError(http.StatusBadRequest, message.KindRunnerSessionInvalid, "The session is not valid.")
	}
	x.polling++
	x.seen, x.lost = s.now(), false
	s.agenda.cancel(x.offline)
	s.agenda.cancel(one.absence)
	x.turn++
	// A runner ends its poll when its job ends. What was just being told then has
	// not arrived: who polls again without having acquired its job never heard of it.
	if j := one.job; j != nil && j.assigned == one && j.status == queued && x.fetched.MessageID != 0 && x.fetched.MessageID == j.messageID {
		x.queue = append([]message.Broker{x.fetched}, x.queue...)
		x.fetched = message.Broker{}
	}
	s.offer(one)
	return x, x.turn, nil
}

func (s *Server) leavePoll(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.polling--
	x.seen = s.now()
	if x.polling == 0 && x.runner.session == x {
		s.watchOffline(x)
	}
}

// fetch takes the session's next message, or says what to wait for.
func (s *Server) fetch(r *http.Request, x *session, turn int) (*message.Broker, <-chan struct{}, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case x.runner.removed && !x.ghost:
		return nil, nil, brokerError(http.StatusForbidden, message.KindRunnerNotFound, goneText)
	case s.sessions[x.id] != x:
		return nil, nil, brokerError(http.StatusBadRequest, message.KindRunnerSessionInvalid, "The session is not valid.")
	case len(x.queue) == 0 || r.Context().Err() != nil || turn != x.turn:
		return nil, x.wake, nil
	}
	m := x.queue[0]
	x.fetched = m
	x.queue = x.queue[1:]
	return &m, nil, nil
}

// offerMessage tells a runner of its job.
func (s *Server) offerMessage(j *job) message.Broker {
	j.messageID = s.id(&s.ids.message)
	return message.Broker{
		MessageID: j.messageID, MessageType: message.TypeJobRequest,
		Body: string(encode(message.JobRequest{
			ID: strconv.FormatInt(j.messageID, 10), RunnerRequestID: j.uuid, RunServiceURL: s.runServiceURL(), BillingOwnerID: strconv.FormatInt(j.run.repo.owner.id, 10),
		})),
	}
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		refuse(w, brokerSource, http.StatusBadRequest, "", "The request cannot be read: %v", err)
		return false
	}
	return true
}

// opaqueJWT is a token that parses as a JWT with an expiry and means nothing else.
func (s *Server) opaqueJWT(purpose string, expires time.Time) string {
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString(encode(v)) }
	return part(object{"alg": "RS256", "typ": "JWT"}) + "." + part(object{"exp": expires.Unix(), "jti": s.chance.uuid(purpose)}) + "." + s.chance.text(purpose, 86, alphaNumeric)
}
