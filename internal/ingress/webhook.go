package ingress

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// WebhookPath is where GitHub delivers: WebhookPath + "/" + the App's name, or
// WebhookPath alone when exactly one App is configured.
const WebhookPath = "/github/webhook"

const (
	// maxBody is the most that is read of a webhook, in bytes. GitHub sends none
	// above 25 MB (docs.github.com, "Webhook events and payloads").
	maxBody = 25 << 20
	// saveTimeout leaves GitHub, which gives up after 10 s, time to hear the
	// answer (docs.github.com, "Best practices for using webhooks").
	saveTimeout = 8 * time.Second
	// readTimeout bounds how long a sender may take over a body.
	readTimeout = 10 * time.Second
	// A body above largeBody, or of unknown size, needs one of largeSlots places:
	// so many may hold up to maxBody in memory before a signature was checked.
	largeBody  = 1 << 20
	largeSlots = 4
	// maxHeader is the most that is kept of one header, in bytes.
	maxHeader = 512
)

// App is a GitHub App as far as its webhook goes.
type App struct {
	// Name is the App's name in the configuration and in its webhook's URL.
	Name string
	// Secrets all verify; there are two while a secret is being rotated.
	Secrets []muster.Secret
}

// WebhookConfig is what a Webhook needs. Apps and Inbox are required.
type WebhookConfig struct {
	Apps  []App
	Inbox Inbox
	// Nudge is called after a delivery was saved, and must not block.
	// Dispatcher.Nudge is meant for it. May be nil.
	Nudge func()
	// Asked tells whether Muster asked GitHub to send a GUID of an App again, and
	// when GitHub first tried. The Asked of that App's Redeliverer is meant for
	// it. May be nil.
	Asked    func(app, guid string) (first time.Time, asked bool)
	Observer Observer     // may be nil
	Logger   *slog.Logger // may be nil
}

// Webhook receives the webhooks of every configured App. It answers
//
//	200 {"status": "ok"} once the delivery is durable, a duplicate, or of an
//	    event that nobody knows
//	401 without a valid signature, before anything of the body is looked at
//	400 for a body that is not a JSON object, or without X-GitHub-Event
//	404 for an App that is not configured, 405 for other methods, 413 above 25 MB
//	503 with Retry-After when the delivery could not be saved
//
// and nothing else: what a signed delivery says never makes it fail.
type Webhook struct {
	cfg   WebhookConfig
	apps  map[string]App
	large chan struct{}
}

// NewWebhook checks the configuration: every App needs a name of its own and at
// least one secret.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	if cfg.Observer == nil {
		cfg.Observer = deaf{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Nudge == nil {
		cfg.Nudge = func() {}
	}
	if cfg.Asked == nil {
		cfg.Asked = func(string, string) (time.Time, bool) { return time.Time{}, false }
	}
	w := &Webhook{cfg: cfg, apps: map[string]App{}, large: make(chan struct{}, largeSlots)}
	for _, app := range cfg.Apps {
		if app.Name == "" || strings.Contains(app.Name, "/") {
			return nil, muster.Errorf(muster.CodeInvalid, "App name %q cannot be part of a webhook's URL", app.Name)
		}
		if _, twice := w.apps[app.Name]; twice {
			return nil, muster.Errorf(muster.CodeInvalid, "App %s is configured twice", app.Name)
		}
		if len(app.Secrets) == 0 {
			return nil, muster.Errorf(muster.CodeInvalid, "App %s has no webhook secret: anyone could send it events", app.Name)
		}
		for _, secret := range app.Secrets {
			if secret == "" {
				return nil, muster.Errorf(muster.CodeInvalid, "App %s has an empty webhook secret", app.Name)
			}
		}
		w.apps[app.Name] = app
	}
	return w, nil
}

// ServeHTTP implements http.Handler for WebhookPath and everything below it.
func (w *Webhook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	app, ok := w.app(r.URL.Path)
	event := clip(r.Header.Get("X-GitHub-Event"))
	answer := func(status int, outcome, text string) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, text)
		w.cfg.Observer.Received(app.Name, event, outcome, time.Since(start))
	}
	refuse := func(status int, outcome, why string) {
		body, _ := json.Marshal(map[string]string{"error": why})
		answer(status, outcome, string(body))
	}
	switch {
	case !ok:
		refuse(http.StatusNotFound, "unknown_app", "no App of that name is configured")
		return
	case r.Method != http.MethodPost:
		rw.Header().Set("Allow", http.MethodPost)
		refuse(http.StatusMethodNotAllowed, "invalid", "webhooks are POSTed")
		return
	}
	claimed, ok := signature(r.Header)
	if !ok {
		refuse(http.StatusUnauthorized, "unauthorized", "the X-Hub-Signature-256 header is missing or malformed")
		return
	}
	body, err := w.read(rw, r)
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			refuse(http.StatusRequestEntityTooLarge, "too_large", "the body is larger than 25 MB")
			return
		}
		refuse(http.StatusBadRequest, "invalid", "the body could not be read")
		return
	}
	if !verify(app.Secrets, claimed, body) {
		refuse(http.StatusUnauthorized, "unauthorized", "the signature does not match the body")
		return
	}

	// From here on the delivery is GitHub's own.
	if event == "" {
		refuse(http.StatusBadRequest, "invalid", "the X-GitHub-Event header is missing")
		return
	}
	d := muster.Delivery{
		App:        app.Name,
		Event:      event,
		GUID:       clip(r.Header.Get("X-GitHub-Delivery")),
		Headers:    keep(r.Header),
		Body:       body,
		Sense:      muster.SenseWebhook,
		ReceivedAt: start,
		TraceID:    newTraceID(),
	}
	if d.Action, err = actionOf(d); err != nil {
		refuse(http.StatusBadRequest, "invalid", "the body is not a JSON object")
		return
	}
	if d.GUID == "" {
		// Without GitHub's name for it, a delivery is known by what it says.
		sum := sha256.Sum256(append([]byte(event+"\n"), body...))
		d.GUID = "body-" + hex.EncodeToString(sum[:16])
	}
	firstTried, asked := w.cfg.Asked(app.Name, d.GUID)
	if asked {
		d.Sense = muster.SenseRedelivery
	}

	// The save outlives the request: GitHub does not send a delivery again only
	// because it hung up a moment too early.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), saveTimeout)
	defer cancel()
	_, fresh, err := w.cfg.Inbox.SaveDelivery(ctx, d)
	if err != nil {
		w.cfg.Logger.ErrorContext(muster.WithTrace(ctx, d.TraceID), "delivery not saved", "app", d.App, "event", d.Event, "delivery", d.GUID, "error", err)
		rw.Header().Set("Retry-After", "30")
		refuse(http.StatusServiceUnavailable, "unavailable", "the delivery could not be saved; send it again")
		return
	}
	outcome := "duplicate"
	if fresh {
		outcome = "accepted"
		w.cfg.Logger.DebugContext(muster.WithTrace(ctx, d.TraceID), "delivery accepted", "app", d.App, "event", d.Event, "action", d.Action, "delivery", d.GUID)
		w.cfg.Nudge()
		if asked {
			w.cfg.Observer.Repaired(app.Name, start.Sub(firstTried))
		}
	}
	answer(http.StatusOK, outcome, `{"status": "ok"}`) // S3-32
}

// read returns the raw body, the bytes that the signature is about.
func (w *Webhook) read(rw http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, &http.MaxBytesError{Limit: maxBody}
	}
	if r.ContentLength < 0 || r.ContentLength > largeBody {
		select {
		case w.large <- struct{}{}:
			defer func() { <-w.large }()
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	// Not every ResponseWriter can do this; those of a server can.
	_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(readTimeout))
	return io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
}

// app finds the App that the path names.
func (w *Webhook) app(path string) (App, bool) {
	rest, ok := strings.CutPrefix(path, WebhookPath)
	if !ok {
		return App{}, false
	}
	if name, named := strings.CutPrefix(rest, "/"); named {
		app, ok := w.apps[name]
		return app, ok
	}
	if rest != "" || len(w.cfg.Apps) != 1 {
		return App{}, false
	}
	return w.cfg.Apps[0], true
}

// signature reads the one accepted form of the header: "sha256=" and 64 hex digits.
func signature(h http.Header) (sum [sha256.Size]byte, ok bool) {
	values := h["X-Hub-Signature-256"]
	if len(values) != 1 {
		return sum, false
	}
	digits, ok := strings.CutPrefix(values[0], "sha256=")
	if !ok || len(digits) != hex.EncodedLen(len(sum)) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(digits))
	return sum, err == nil
}

// verify compares in constant time, against every secret whatever the others gave.
func verify(secrets []muster.Secret, claimed [sha256.Size]byte, body []byte) bool {
	valid := false
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret.Reveal()))
		mac.Write(body)
		if hmac.Equal(mac.Sum(nil), claimed[:]) {
			valid = true
		}
	}
	return valid
}

// keep returns the headers that are stored with a delivery (S4-8).
func keep(h http.Header) map[string]string {
	kept := map[string]string{}
	for name, values := range h {
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case strings.HasPrefix(name, "X-Github-"), strings.HasPrefix(name, "X-Hub-"), name == "User-Agent", name == "Content-Type":
			kept[name] = clip(values[0])
		}
	}
	return kept
}

// clip bounds what a header may put into the store and replaces what a database
// or a log line could stumble over.
func clip(s string) string {
	if len(s) > maxHeader {
		s = s[:maxHeader]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return -1
		}
		return c
	}, s)
}

// actionOf reads the "action" member of a delivery: "" if there is none or it is
// no string. The error says that the body is not a JSON object.
func actionOf(d muster.Delivery) (string, error) {
	payload, err := payloadOf(d)
	if err != nil {
		return "", err
	}
	if payload = bytes.TrimSpace(payload); len(payload) == 0 || payload[0] != '{' {
		return "", errors.New("not an object")
	}
	var body struct {
		Action text `json:"action"`
	}
	if err := unmarshal(payload, &body); err != nil {
		return "", err
	}
	return clip(string(body.Action)), nil
}

// newTraceID makes 16 random bytes in hex, the form that OpenTelemetry uses.
func newTraceID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}
