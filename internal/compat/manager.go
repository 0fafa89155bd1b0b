package compat

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// The paths of the manager (S3-6).
const (
	webhookPath = "/github/webhook"
	startPath   = "/runner/start"
	stopPath    = "/runner/stop"
	healthPath  = "/health"
)

// SecretHeader is the header of the manager's shared secret (S3-22).
const SecretHeader = secretHeader

const (
	secretHeader = "X-Runner-Secret" // S3-22
	serviceName  = "GitHub Runner Manager"
	// maxBody is the most that is read of a control call: two names.
	maxBody = 64 << 10
	// answerWithin is how long a platform may take to accept a start or a stop while
	// somebody waits for the answer.
	answerWithin = 25 * time.Second
)

// Entry is one line of the configuration, in the words of its source.
type Entry struct {
	Repo   string   `json:"repo"`
	Labels []string `json:"labels"`
	Name   string   `json:"vm_instance_name"`
	Zone   string   `json:"vm_instance_zone"`
}

// Machines is what starts and stops kept machines.
type Machines interface {
	StartMachine(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineAnswer, error)
	// StopMachine with a generation is the task of that deadline; 0 is a wish.
	StopMachine(ctx context.Context, workspace string, id muster.MachineID, generation int64) (muster.MachineAnswer, error)
}

// Config is what a Manager needs. Machines, Webhook, Secrets.Shared and at least
// one entry are required.
type Config struct {
	// Entries are in the order of the configuration, which is the order of matching.
	Entries []Entry
	// InactiveMinutes is shown by GET /.
	InactiveMinutes int
	// Provider is the configured provider that the machines are of.
	Provider  string
	Workspace string
	Secrets   Secrets
	Machines  Machines
	// Webhook makes deliveries durable: it reads the raw body, verifies it by
	// Secrets.Webhooks, and answers 200 {"status": "ok"}.
	Webhook http.Handler
	// HideIndex shows the entries of GET / only to those with the secret (4-38).
	HideIndex bool
	Now       func() time.Time
	Logger    *slog.Logger // may be nil
}

// Manager answers
//
//	POST /github/webhook  200 {"status": "ok"}; 401 {"detail": "Invalid signature"}
//	POST /runner/start    200 {"status": "starting", "operation": …} or already_running
//	POST /runner/stop     200 {"status": "stopping", "operation": …}, already_stopped or busy
//	GET /health           200 {"status": "healthy"}
//	GET /                 200 what is configured
//
// and 405 for other methods. Control calls are proven by X-Runner-Secret: 401
// without it. They name a configured machine in a JSON body, or none if there is one
// only: 400 and 404 otherwise. Errors are {"detail": …, "trace_id": …} and hold
// nothing of the platform's or GitHub's own text (4-37).
type Manager struct {
	cfg      Config
	machines []muster.MachineID // each once, in the order of the entries
	mux      *http.ServeMux
}

// NewManager checks the configuration.
func NewManager(cfg Config) (*Manager, error) {
	if cfg.Secrets.Shared == "" {
		return nil, muster.Errorf(muster.CodeInvalid, "the runner manager has no secret: anyone could start and stop machines")
	}
	if len(cfg.Entries) == 0 || cfg.Machines == nil || cfg.Webhook == nil {
		return nil, muster.Errorf(muster.CodeInvalid, "the runner manager needs entries, machines and a webhook")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: cfg, mux: http.NewServeMux()}
	seen := map[muster.MachineID]bool{}
	for _, e := range cfg.Entries {
		if id := m.id(e.Name, e.Zone); !seen[id] {
			seen[id] = true
			m.machines = append(m.machines, id)
		}
	}
	m.Register(m.mux)
	return m, nil
}

func (m *Manager) id(name, zone string) muster.MachineID {
	return muster.MachineID{Provider: m.cfg.Provider, Zone: zone, Name: name}
}

// ServeHTTP serves the manager's paths alone.
func (m *Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.mux.ServeHTTP(w, r) }

// Register puts the manager's paths on a listener that serves others too.
func (m *Manager) Register(mux *http.ServeMux) {
	mux.HandleFunc(webhookPath, only(http.MethodPost, m.webhook))
	mux.HandleFunc(startPath, only(http.MethodPost, m.control(m.start)))
	mux.HandleFunc(stopPath, only(http.MethodPost, m.control(m.stop)))
	mux.HandleFunc(healthPath, only(http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, map[string]string{"status": "healthy"})
	}))
	mux.HandleFunc("/{$}", only(http.MethodGet, m.index))
}

// only answers 405 for other methods (S3-6); GET has HEAD with it.
func only(method string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", method)
			write(w, http.StatusMethodNotAllowed, problem{Detail: "Method Not Allowed"})
			return
		}
		h(w, r)
	}
}

// problem is the body of every error.
type problem struct {
	Detail  string `json:"detail"`
	TraceID string `json:"trace_id,omitempty"`
}

// index is GET /: S3-43, and 4-38 where it is configured.
func (m *Manager) index(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Service  string  `json:"service"`
		Inactive int     `json:"inactive_minutes"`
		Configs  []Entry `json:"runner_configs"`
	}{serviceName, m.cfg.InactiveMinutes, []Entry{}}
	if value, one := secretOf(r.Header); !m.cfg.HideIndex || one && anyOf(m.cfg.Secrets.controls(), value) {
		for _, e := range m.cfg.Entries {
			if e.Labels == nil {
				e.Labels = []string{}
			}
			body.Configs = append(body.Configs, e)
		}
	}
	write(w, http.StatusOK, body)
}

// webhook hands a delivery to what makes it durable; only the words of a refused
// signature are the manager's own (S3-21).
func (m *Manager) webhook(w http.ResponseWriter, r *http.Request) {
	m.cfg.Webhook.ServeHTTP(&refusal{ResponseWriter: w}, r)
}

// refusal replaces the body of a 401.
type refusal struct {
	http.ResponseWriter
	replaced bool
}

// Unwrap lets http.ResponseController through.
func (f *refusal) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (f *refusal) WriteHeader(status int) {
	if status == http.StatusUnauthorized {
		f.replaced = true
		write(f.ResponseWriter, status, problem{Detail: "Invalid signature"})
		return
	}
	f.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (f *refusal) Write(b []byte) (int, error) {
	if f.replaced {
		return len(b), nil
	}
	return f.ResponseWriter.Write(b)
}

// secretOf reads the one value of the header.
func secretOf(h http.Header) (value string, one bool) {
	values := h.Values(secretHeader)
	if len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// call is a control call that has proven itself.
type call struct {
	machine    muster.MachineID
	generation int64
}

// control proves a call before anything of it is read (S3-35), finds the machine
// that it is about, and answers.
func (m *Manager) control(act func(context.Context, call) (muster.MachineAnswer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		trace := newTraceID()
		ctx, cancel := context.WithTimeout(muster.WithTrace(r.Context(), trace), answerWithin)
		defer cancel()
		refuse := func(status int, detail string) { write(w, status, problem{detail, trace}) }
		value, one := secretOf(r.Header)
		if value == "" && len(r.Header.Values(secretHeader)) < 2 {
			refuse(http.StatusUnauthorized, "Missing X-Runner-Secret header")
			return
		}
		var task claims
		byHand := one && anyOf(m.cfg.Secrets.controls(), value)
		if !byHand {
			valid := false
			if one && r.URL.Path == stopPath {
				task, valid = open(m.cfg.Secrets.tasks(), value, m.cfg.Now())
			}
			if !valid {
				m.cfg.Logger.WarnContext(ctx, "control call refused", "path", r.URL.Path, "remote", r.RemoteAddr)
				refuse(http.StatusUnauthorized, "Invalid secret")
				return
			}
		}
		id, err := m.machineOf(w, r)
		if err == nil && !byHand && id != m.id(task.Name, task.Zone) {
			err = muster.Errorf(muster.CodeForbidden, "The task is about another machine")
		}
		var answer muster.MachineAnswer
		if err == nil {
			answer, err = act(ctx, call{id, task.Generation})
		}
		if err != nil {
			status := statusOf(err)
			m.cfg.Logger.WarnContext(ctx, "control call failed", "path", r.URL.Path, "machine", id.Name, "status", status, "error", err)
			if e, ok := errors.AsType[*muster.Error](err); ok && e.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())+1))
			}
			refuse(status, muster.MessageOf(err))
			return
		}
		m.cfg.Logger.InfoContext(ctx, "control call answered", "path", r.URL.Path, "machine", id.Name, "zone", id.Zone, "generation", task.Generation, "answer", answer.Status, "operation", answer.Operation)
		write(w, http.StatusOK, answer)
	}
}

func (m *Manager) start(ctx context.Context, c call) (muster.MachineAnswer, error) {
	return m.cfg.Machines.StartMachine(ctx, m.cfg.Workspace, c.machine)
}

func (m *Manager) stop(ctx context.Context, c call) (muster.MachineAnswer, error) {
	return m.cfg.Machines.StopMachine(ctx, m.cfg.Workspace, c.machine, c.generation)
}

// machineBody is the body of a control call.
type machineBody struct {
	Name string `json:"vm_instance_name"`
	Zone string `json:"vm_instance_zone"`
}

// machineOf finds the configured machine that a call names (4-33). Without a body it
// is the only one there is (S3-25, C10).
func (m *Manager) machineOf(w http.ResponseWriter, r *http.Request) (muster.MachineID, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return muster.MachineID{}, muster.Errorf(muster.CodeInvalid, "The body could not be read: send vm_instance_name and vm_instance_zone as JSON, or nothing")
	}
	var b machineBody
	if text = bytes.TrimSpace(text); len(text) > 0 {
		if err := json.Unmarshal(text, &b); err != nil {
			return muster.MachineID{}, muster.Errorf(muster.CodeInvalid, "The body is not a JSON object: send vm_instance_name and vm_instance_zone, or nothing")
		}
	}
	var fits []muster.MachineID
	for _, id := range m.machines {
		if (b.Name == "" || b.Name == id.Name) && (b.Zone == "" || b.Zone == id.Zone) {
			fits = append(fits, id)
		}
	}
	switch {
	case len(fits) == 1:
		return fits[0], nil
	case len(fits) == 0:
		return muster.MachineID{}, muster.Errorf(muster.CodeNotFound, "No such VM is configured; configured are %s", names(m.machines))
	}
	return muster.MachineID{}, muster.Errorf(muster.CodeInvalid, "Several VMs are configured: name one by vm_instance_name and vm_instance_zone: %s", names(fits))
}

func names(ids []muster.MachineID) string {
	var out []string
	for _, id := range ids {
		out = append(out, fmt.Sprintf("%s (%s)", id.Name, id.Zone))
	}
	return strings.Join(out, ", ")
}

func statusOf(err error) int {
	switch muster.CodeOf(err) {
	case muster.CodeInvalid:
		return http.StatusBadRequest
	case muster.CodeForbidden:
		return http.StatusForbidden
	case muster.CodeNotFound:
		return http.StatusNotFound
	case muster.CodeConflict, muster.CodeBusy, muster.CodeExists, muster.CodeGone:
		return http.StatusConflict
	case muster.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func write(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // of texts and numbers: it cannot fail
		status, text = http.StatusInternalServerError, []byte(`{"detail":"Internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(spaced(text)) // the caller went away: nobody to tell
}

// spaced puts a space behind every ':' and ',' between values, as the documented
// bodies have it.
func spaced(text []byte) []byte {
	out := make([]byte, 0, len(text)+len(text)/8)
	inside, escaped := false, false
	for _, c := range text {
		out = append(out, c)
		switch {
		case escaped:
			escaped = false
		case inside && c == '\\':
			escaped = true
		case c == '"':
			inside = !inside
		case !inside && (c == ':' || c == ','):
			out = append(out, ' ')
		}
	}
	return out
}

// newTraceID makes 16 random bytes in hex, the form that OpenTelemetry uses.
func newTraceID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}
