package githubsim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// hook is a webhook with its queue and its log: an App's, a repository's or an
// organization's.
type hook struct {
	id int64
	// target is the id of what the hook belongs to, kind GitHub's word for that:
	// integration, repository or organization.
	target int64
	kind   string
	// of repositories and organizations
	path      string // of the owner, below the API's base
	events    []string
	active    bool
	createdAt time.Time
	updatedAt time.Time

	url         string
	secret      string
	contentType string // json or form
	insecureSSL string

	queue    []*delivery // due, not under way
	inFlight int
	nextSlot time.Time // when throttling lets the next one go
	woken    bool      // a timer will pump at nextSlot
	log      []*delivery
}

func (h *hook) config() object {
	c := object{"url": h.url, "content_type": h.contentType, "insecure_ssl": h.insecureSSL}
	if h.secret != "" {
		c["secret"] = "********"
	}
	return c
}

// event is one webhook payload. Its members are shared between events, so an
// event costs little memory however long the log is.
type event struct {
	name, action string
	members      []member
	installation int64
	repository   int64
}

type member struct {
	name string
	raw  json.RawMessage
}

func (e *event) body() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range e.members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(m.name))
		b.WriteByte(':')
		b.Write(m.raw)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// delivery is one attempt to deliver an event.
type delivery struct {
	id          int64
	guid        string
	hook        *hook
	event       *event
	redelivery  bool
	throttledAt time.Time
	deliveredAt time.Time
	duration    time.Duration
	status      string
	code        int
	url         string
	request     map[string]string
	response    map[string]string
	answer      string
	drop        bool
	forged      bool // signed with a wrong secret
}

func newHookClient(cfg Config) *http.Client {
	return &http.Client{
		Timeout: cfg.HookTimeout,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: cfg.HookTimeout}).DialContext,
			MaxIdleConnsPerHost: cfg.HookConcurrency,
			IdleConnTimeout:     30 * time.Second,
			TLSHandshakeTimeout: cfg.HookTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// publish sends an event to a hook, with the faults of the day. The caller holds mu.
func (s *Server) publish(h *hook, e *event) {
	if h.url == "" || s.closed {
		return
	}
	s.books.Deliveries.Events++
	set := s.faults.now()
	if s.chance.hit("lose delivery", set.LoseDeliveries) ||
		e.name == "workflow_job" && e.action == "completed" && s.chance.hit("lose completed", set.LoseCompleted) {
		s.books.Deliveries.Lost++
		s.fault("lost delivery")
		return
	}
	d := s.newDelivery(h, e, s.chance.guid(s.now()))
	d.drop = s.chance.hit("drop delivery", set.DropDeliveries)
	if s.chance.hit("bad signature", set.BadSignatures) {
		s.fault("bad signature")
		d.forged = true
	}
	s.send(d)
	if e.installation != 0 && s.chance.hit("unknown installation", set.UnknownInstallations) {
		s.fault("unknown installation")
		s.send(s.newDelivery(h, s.strange(e), s.chance.guid(s.now())))
	}
	if s.chance.hit("duplicate delivery", set.DuplicateDeliveries) {
		s.books.Deliveries.Duplicated++
		s.fault("duplicate delivery")
		s.send(s.newDelivery(h, e, d.guid))
	}
	if s.chance.hit("other GUID", set.DuplicateOtherGUID) {
		s.books.Deliveries.Duplicated++
		s.fault("duplicate delivery, other GUID")
		s.send(s.newDelivery(h, e, s.chance.guid(s.now())))
	}
}

// strange is an event as if another installation, which never was, had caused it.
func (s *Server) strange(e *event) *event {
	other := *e
	other.installation = s.id(&s.ids.installation)
	other.members = slices.Clone(e.members)
	for i, m := range other.members {
		var v object
		if m.name == "installation" && json.Unmarshal(m.raw, &v) == nil {
			v["id"] = other.installation
			other.members[i].raw = encode(v)
		}
	}
	return &other
}

func (s *Server) newDelivery(h *hook, e *event, guid string) *delivery {
	return &delivery{id: s.id(&s.ids.delivery), guid: guid, hook: h, event: e}
}

// send puts a delivery into the queue, at once or after a delay.
func (s *Server) send(d *delivery) {
	set := s.faults.now()
	delay := s.chance.upTo("delay delivery", time.Duration(set.DelayDeliveries))
	if s.chance.hit("reorder delivery", set.ReorderDeliveries) {
		s.books.Deliveries.Reordered++
		s.fault("reordered delivery")
		delay += s.chance.upTo("reorder window", time.Duration(set.ReorderWindow))
	}
	put := func() {
		d.hook.queue = append(d.hook.queue, d)
		s.pump(d.hook)
	}
	if delay <= 0 {
		put()
		return
	}
	s.after(delay, put)
}

// pump starts as many deliveries as may be under way. The caller holds mu.
func (s *Server) pump(h *hook) {
	for len(h.queue) > 0 && h.inFlight < s.cfg.HookConcurrency && !s.closed && s.slot(h) {
		d := h.queue[0]
		h.queue[0] = nil
		h.queue = h.queue[1:]
		d.url, d.deliveredAt = h.url, s.now()
		secret, contentType := h.secret, h.contentType
		h.inFlight++
		s.work.Add(1)
		go s.deliver(d, secret, contentType)
	}
}

// slot reports whether throttling lets one more delivery go now.
func (s *Server) slot(h *hook) bool {
	rate := s.cfg.HookThrottle
	if n := s.faults.now().ThrottleDeliveries; n > 0 {
		rate = n
	}
	if rate <= 0 {
		return true
	}
	now := s.now()
	if now.Before(h.nextSlot) {
		for _, d := range h.queue {
			if d.throttledAt.IsZero() {
				d.throttledAt = now
			}
		}
		if !h.woken {
			h.woken = true
			s.after(h.nextSlot.Sub(now), func() { h.woken = false; s.pump(h) })
		}
		return false
	}
	h.nextSlot = now.Add(time.Second / time.Duration(rate))
	return true
}

// deliver sends one delivery and logs what came of it.
func (s *Server) deliver(d *delivery, secret, contentType string) {
	defer s.work.Done()
	body, mime := d.event.body(), "application/json"
	if contentType == "form" {
		body, mime = []byte(url.Values{"payload": {string(body)}}.Encode()), "application/x-www-form-urlencoded"
	}
	header := s.hookHeader(d, mime)
	if d.forged {
		secret = "not the " + secret
	}
	if secret != "" {
		header.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(sign1(secret, body)))
		header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign256(secret, body)))
	}
	began := time.Now()
	var status, answer string
	var code int
	var back http.Header
	if d.drop {
		status = "failed to connect"
	} else {
		status, code, back, answer = s.post(d.url, header, body)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	d.duration, d.status, d.code, d.answer = time.Since(began), status, code, answer
	d.request, d.response = scrub(header), scrub(back)
	s.logDelivery(d)
	d.hook.inFlight--
	s.pump(d.hook)
	s.changed()
}

func (s *Server) post(to string, header http.Header, body []byte) (status string, code int, back http.Header, answer string) {
	req, err := http.NewRequestWithContext(s.stopping, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return "invalid url", 0, nil, ""
	}
	req.Header = header
	resp, err := s.hooks.Do(req)
	var slow net.Error
	switch {
	case errors.As(err, &slow) && slow.Timeout() || errors.Is(err, context.DeadlineExceeded):
		return "timed out", 0, nil, ""
	case err != nil:
		return "failed to connect", 0, nil, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil && errors.As(err, &slow) && slow.Timeout() {
		return "timed out", 0, nil, ""
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return "OK", resp.StatusCode, resp.Header, string(text)
	}
	return fmt.Sprintf("Invalid HTTP Response: %d", resp.StatusCode), resp.StatusCode, resp.Header, string(text)
}

func (s *Server) hookHeader(d *delivery, mime string) http.Header {
	h := http.Header{
		"User-Agent":                             {"GitHub-Hookshot/7c6d2a1"},
		"Accept":                                 {"*/*"},
		"Content-Type":                           {mime},
		"X-GitHub-Event":                         {d.event.name},
		"X-GitHub-Delivery":                      {d.guid},
		"X-GitHub-Hook-ID":                       {strconv.FormatInt(d.hook.id, 10)},
		"X-GitHub-Hook-Installation-Target-ID":   {strconv.FormatInt(d.hook.target, 10)},
		"X-GitHub-Hook-Installation-Target-Type": {d.hook.kind},
	}
	if s.cfg.EnterpriseServer {
		h["X-GitHub-Enterprise-Version"] = []string{enterpriseVersion}
		if u, err := url.Parse(s.URL()); err == nil {
			h["X-GitHub-Enterprise-Host"] = []string{u.Host}
		}
	}
	return h
}

func sign256(secret string, body []byte) []byte {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	return m.Sum(nil)
}

func sign1(secret string, body []byte) []byte {
	m := hmac.New(sha1.New, []byte(secret))
	m.Write(body)
	return m.Sum(nil)
}

// logDelivery appends to the hook's log and drops what is too old or too much.
func (s *Server) logDelivery(d *delivery) {
	s.books.delivered(d)
	h := d.hook
	h.log = append(h.log, d)
	if n := s.cfg.HookLog; n > 0 && len(h.log) > n+n/10 {
		h.log = slices.Clone(h.log[len(h.log)-n:])
	}
	s.cfg.Logger.Debug("delivered", "delivery", d.guid, "event", d.event.name, "action", d.event.action, "status", d.status)
}
