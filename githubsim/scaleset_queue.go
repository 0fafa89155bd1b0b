package githubsim

import (
	"encoding/json"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// setSession is the one listener that a scale set may have.
type setSession struct {
	id      string
	owner   string
	set     *scaleSet
	polling int       // long polls under way
	seen    time.Time // last sign of life
	tokens  []string
}

// queueToken is a session's key to its messages.
type queueToken struct {
	session *setSession
	expires time.Time
}

// setMessage is one message of a scale set's queue. It is the same each time that
// it is handed out.
type setMessage struct {
	id   int64
	text object
}

// listening reports whether a session still keeps others out.
func (s *Server) listening(x *setSession) bool {
	linger := s.cfg.SetSessionLinger
	if d := time.Duration(s.faults.now().SessionLinger); d > 0 {
		linger = d
	}
	return x.polling > 0 || s.now().Sub(x.seen) < linger
}

// present reports whether a set's listener was heard of lately, so that jobs may be
// given to it.
func (s *Server) present(set *scaleSet) bool {
	x := set.session
	return x != nil && (x.polling > 0 || s.cfg.OfflineAfter == 0 || s.now().Sub(x.seen) < s.cfg.OfflineAfter)
}

func (s *Server) createSetSession(c *serviceCall) (any, error) {
	var in struct {
		Owner string `json:"ownerName"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	set := c.set
	if old := set.session; old != nil {
		if s.listening(old) {
			s.books.Faults["scale set session conflict"]++
			return nil, exceptionf(http.StatusConflict, runtimeErrors+"RunnerScaleSetSessionConflictException",
				"The actions runner scaleset %s already has an active session for owner %s.", set.name, old.owner)
		}
		s.endSetSession(set)
	}
	x := &setSession{id: s.chance.uuid("set session"), owner: in.Owner, set: set, seen: s.now()}
	set.session, set.capacity = x, -1
	s.changed()
	return s.setSessionView(x), nil
}

// setSession finds the session that a request names.
func (s *Server) setSession(c *serviceCall) (*setSession, error) {
	id := c.r.PathValue("session")
	if x := c.set.session; x != nil && x.id == id {
		return x, nil
	}
	return nil, exceptionf(http.StatusBadRequest, runtimeErrors+"RunnerScaleSetSessionExpiredException", "The session identifier %s is not valid.", id)
}

func (s *Server) refreshSetSession(c *serviceCall) (any, error) {
	x, err := s.setSession(c)
	if err != nil {
		return nil, err
	}
	x.seen = s.now()
	return s.setSessionView(x), nil
}

func (s *Server) deleteSetSession(c *serviceCall) (any, error) {
	if _, err := s.setSession(c); err != nil {
		return nil, err
	}
	s.endSetSession(c.set)
	s.changed()
	return nil, nil
}

// endSetSession frees the set for another listener. Messages that were not
// acknowledged stay for it.
func (s *Server) endSetSession(set *scaleSet) {
	x := set.session
	if x == nil {
		return
	}
	set.session, set.capacity = nil, -1
	for _, secret := range x.tokens {
		delete(s.queueTokens, secret)
	}
	set.notify()
}

// setSessionView answers a session with a new token.
func (s *Server) setSessionView(x *setSession) object {
	expires := s.now().Add(s.cfg.QueueTokenLifetime)
	secret := s.opaqueJWT("queue", expires)
	s.queueTokens[secret] = &queueToken{x, expires}
	x.tokens = append(x.tokens, secret)
	address := s.base + "/_services/scalesets/message"
	if s.chance.hit("empty queue url", s.faults.now().EmptyQueueURLs) {
		s.fault("empty queue url")
		address = ""
	}
	return object{
		"sessionId": x.id, "ownerName": x.owner, "runnerScaleSet": s.setView(x.set), "messageQueueUrl": address, "messageQueueAccessToken": secret,
		"statistics": s.statistics(x.set),
	}
}

func (s *Server) setQueueRoutes(mux *http.ServeMux) {
	poll := &route{method: http.MethodGet, path: "/scalesets/message"}
	mux.HandleFunc("GET /_services/scalesets/message", s.serveSetMessage(poll))
	acknowledge := &route{method: http.MethodDelete, path: "/scalesets/message/{message}"}
	mux.HandleFunc("DELETE /_services/scalesets/message/{message}", s.serveService(acknowledge, s.sessionOf, s.acknowledge))
	acquire := &route{method: http.MethodPost, path: "/_apis/runtime/runnerscalesets/{set}/acquirejobs"}
	for _, owner := range []string{"/{owner}", "/{owner}/{repo}"} {
		mux.HandleFunc("POST /_services/pipelines"+owner+acquire.path, s.serveService(acquire, s.sessionOf, s.acquireJobs))
	}
}

// sessionOf finds out who calls by the token of a session. The caller holds mu.
func (s *Server) sessionOf(c *serviceCall) error {
	_, secret := credentials(c.r)
	t := s.queueTokens[secret]
	expired := exceptionf(http.StatusUnauthorized, runtimeErrors+"RunnerScaleSetMessageQueueTokenExpiredException", "The message queue token is not valid or has expired.")
	if t == nil || !s.now().Before(t.expires) || t.session.set.session != t.session {
		return expired
	}
	if s.chance.hit("queue unauthorized", s.faults.now().QueueUnauthorized) {
		s.fault("queue unauthorized")
		return expired
	}
	c.set = t.session.set
	c.token = &registrationToken{scope: c.set.scope}
	t.session.seen = s.now()
	return nil
}

// serveSetMessage is the listener's long poll.
func (s *Server) serveSetMessage(rt *route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		slow, broken, _ := s.faults.strike(rt)
		if slow > 0 && !s.pause(r.Context(), slow) {
			return
		}
		last, _ := strconv.ParseInt(r.URL.Query().Get("lastMessageId"), 10, 64)
		c := &serviceCall{r: r}
		x, again, err := s.enterSetPoll(c, rt, broken)
		if err != nil {
			s.answerService(w, nil, err)
			return
		}
		if again {
			last = 0
		}
		defer s.leaveSetPoll(x)
		limit := time.NewTimer(max(s.cfg.LongPoll, time.Millisecond))
		defer limit.Stop()
		for over := false; ; {
			m, wake, err := s.nextSetMessage(r, x, last, over)
			switch {
			case err != nil:
				s.answerService(w, nil, err)
				return
			case m != nil:
				s.answerService(w, m.text, nil)
				return
			case over:
				w.WriteHeader(http.StatusAccepted)
				return
			}
			select {
			case <-wake:
			case <-limit.C:
				over = true
			case <-r.Context().Done():
				return
			case <-s.stopping.Done():
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		}
	}
}

func (s *Server) enterSetPoll(c *serviceCall, rt *route, broken int) (x *setSession, again bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.sessionOf(c)
	caller := ""
	if c.token != nil {
		caller = "scaleset/" + c.token.scope.path()
	}
	s.books.call(rt, caller)
	if broken != 0 {
		s.fault("server error")
		return nil, false, &exception{status: broken}
	}
	if err != nil {
		return nil, false, err
	}
	x = c.set.session
	x.polling++
	// Clients that are older than the header hold what they like.
	capacity := math.MaxInt32
	if text := c.r.Header.Get("X-ScaleSetMaxCapacity"); text != "" {
		if capacity, err = strconv.Atoi(text); err != nil || capacity < 0 {
			x.polling--
			return nil, false, exceptionf(http.StatusBadRequest, runtimeErrors+"InvalidCapacityException", "The capacity %q is not valid.", text)
		}
	}
	c.set.capacity = capacity
	s.fillSet(c.set)
	again = len(c.set.queue) > 0 && s.chance.hit("redeliver message", s.faults.now().RedeliverMessages)
	return x, again, nil
}

func (s *Server) leaveSetPoll(x *setSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.polling--
	x.seen = s.now()
}

// nextSetMessage is the first message after last, or what to wait for. over says
// that the poll has waited long enough.
func (s *Server) nextSetMessage(r *http.Request, x *setSession, last int64, over bool) (*setMessage, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := x.set
	if set.session != x {
		return nil, nil, exceptionf(http.StatusUnauthorized, runtimeErrors+"RunnerScaleSetSessionExpiredException", "The session identifier %s is not valid.", x.id)
	}
	if r.Context().Err() != nil {
		return nil, set.wake, nil
	}
	for _, m := range set.queue {
		if m.id > last {
			return m, nil, nil
		}
	}
	switch {
	case len(set.pending) > 0:
		return s.packMessage(set), nil, nil
	case over && set.capacity > 0 && s.chance.hit("statistics only", s.faults.now().StatisticsOnly):
		s.fault("message without a body")
		return s.packMessage(set), nil, nil
	}
	return nil, set.wake, nil
}

// packMessage makes a message of what waits to be told, as much as one may hold.
func (s *Server) packMessage(set *scaleSet) *setMessage {
	n := len(set.pending)
	if most := s.cfg.MessageBatch; most > 0 {
		n = min(n, most)
	}
	body := ""
	if n > 0 {
		body = string(encode(set.pending[:n]))
	}
	set.pending = slices.Clone(set.pending[n:])
	statistics := s.statistics(set)
	if s.chance.hit("zero statistics", s.faults.now().ZeroStatistics) {
		s.fault("zero statistics")
		statistics = setStatistics{}
	}
	m := &setMessage{id: s.id(&s.ids.setMessage)}
	m.text = object{"messageId": m.id, "messageType": "RunnerScaleSetJobMessages", "body": body, "statistics": statistics}
	set.queue = append(set.queue, m)
	s.changed()
	return m
}

func (s *Server) acknowledge(c *serviceCall) (any, error) {
	id, _ := strconv.ParseInt(c.r.PathValue("message"), 10, 64)
	c.set.queue = slices.DeleteFunc(c.set.queue, func(m *setMessage) bool { return m.id == id })
	s.changed()
	return nil, nil
}

func (s *Server) acquireJobs(c *serviceCall) (any, error) {
	var ids []int64
	if err := c.decode(&ids); err != nil {
		return nil, err
	}
	got := []int64{}
	for _, id := range ids {
		j := c.set.offered[id]
		if j == nil || j.set != nil || j.assigned != nil || j.status != queued || len(c.set.jobs) >= c.set.capacity {
			continue
		}
		got = append(got, id)
		s.own(j, c.set)
	}
	return object{"count": len(got), "value": got}, nil
}

func (s *Server) listAcquirable(c *serviceCall) (any, error) {
	var out []object
	for _, id := range slices.Sorted(maps.Keys(c.set.offered)) {
		var view object
		if err := json.Unmarshal(s.setJobMessage(c.set.offered[id], "JobAvailable", nil), &view); err != nil {
			return nil, err
		}
		out = append(out, view)
	}
	if out == nil {
		return nil, nil
	}
	return counted(out), nil
}
