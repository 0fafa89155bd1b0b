package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// Config is what the dashboard is built from.
type Config struct {
	// Reads answers every page. Required.
	Reads Reads
	// Commands carries out the forms. nil makes the dashboard read-only: no form is shown.
	Commands Commands
	// JobLogs fetches logs from GitHub on demand. nil hides the link.
	JobLogs JobLogs
	// Traces answers the pages about what jobs did. nil leaves these pages out.
	Traces Traces
	// Subscribe returns a channel of what changes, closed when ctx ends. It may
	// lose changes for a slow reader. nil means that pages are not live.
	Subscribe func(ctx context.Context) <-chan muster.Change
	// Stopping, when closed, ends all live streams, so that a server that shuts
	// down need not wait for them. nil means never.
	Stopping <-chan struct{}
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Guard wraps everything but the static files and the sign-in page, for
	// authentication of the server's own. nil means none.
	Guard func(http.Handler) http.Handler
	// Token, when set, is the operator's token: pages then need a cookie that
	// /login gives for it, or the token itself as a bearer token.
	Token muster.Secret
	// MaxStreams bounds the number of live streams; 0 means 256.
	MaxStreams int
	// About is what the about page says.
	About About
	// Logger takes what went wrong inside; nil means slog.Default().
	Logger *slog.Logger
}

// About is what the about page says of this control plane.
type About struct {
	Version   string
	Engine    string // in words: "embedded, SQLite", "temporal.example:7233, namespace muster"
	Store     string // in words and without credentials
	Workspace string
	StartedAt time.Time
	Apps      []AppInfo
	Links     []Link
}

// AppInfo is one configured GitHub App.
type AppInfo struct {
	Name string
	// WebhookURL is where the App's webhook has to point.
	WebhookURL string
	// PageURL is the App's page on GitHub, "" if unknown.
	PageURL string
}

// Link is a place outside the dashboard: metrics, the workflow engine's own pages.
type Link struct{ Label, URL, Hint string }

// site is the handler's state. It is safe for concurrent use.
type site struct {
	Config
	tmpl    *templates
	login   *login // nil without a token
	traffic cached[traffic]
	insight map[string]*cached[insights] // by period
	allow   sync.Map                     // of *cached[Allowlist], by pool
	streams chan struct{}
}

// New returns the dashboard. It panics if the embedded templates are broken,
// which the package's own tests rule out.
func New(cfg Config) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 256
	}
	s := &site{Config: cfg, tmpl: mustParse(), streams: make(chan struct{}, cfg.MaxStreams)}
	s.insight = map[string]*cached[insights]{}
	for period := range periodDays {
		s.insight[period] = &cached[insights]{}
	}
	pages := s.pages()
	if cfg.Guard != nil {
		pages = cfg.Guard(pages)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /static/{file}", serveStatic)
	if cfg.Token != "" {
		s.login = newLogin(cfg.Token, cfg.Now)
		pages = s.login.guard(pages)
		mux.HandleFunc("GET /login", s.showLogin)
		mux.HandleFunc("POST /login", s.doLogin)
		mux.HandleFunc("POST /logout", s.doLogout)
	}
	mux.Handle("/", pages)
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

// pages are the routes behind the guards.
func (s *site) pages() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h handler) { mux.Handle("GET "+path, s.handle(h)) }
	post := func(path string, h handler) {
		if s.Commands != nil {
			mux.Handle("POST "+path, s.handle(h))
		}
	}
	get("/{$}", s.overview)
	get("/jobs", s.jobs)
	get("/jobs/{id}", s.job)
	get("/jobs/{id}/{attempt}", s.job)
	get("/jobs/{id}/log", s.jobLog)
	get("/runners", s.runners)
	get("/runners/{id}", s.runner)
	get("/runners/{id}/log", s.runnerLog)
	post("/runners/{id}/drain", s.drainRunner)
	get("/pools", s.pools)
	get("/pools/{name}", s.pool)
	post("/pools/{name}", s.setPool)
	post("/pools/{name}/nudge", s.nudgePool)
	post("/pools/{name}/machine", s.doMachine)
	get("/pools/{name}/decisions/{id}", s.decision)
	if s.Traces != nil {
		get("/pools/{name}/egress", s.egress)
	}
	get("/runs/{id}", s.run)
	get("/insights", s.insights)
	get("/deliveries", s.deliveries)
	get("/deliveries/{guid}", s.delivery)
	get("/deliveries/{guid}/body", s.deliveryBody)
	post("/deliveries/{guid}/redispatch", s.redispatch)
	get("/usage", s.usage)
	get("/providers", s.providers)
	post("/providers/{name}/check", s.checkProvider)
	get("/findings", s.findings)
	get("/findings/sweep", s.sweep)
	s.traceRoutes(get)
	if s.Traces != nil {
		get("/baselines", s.baselines)
		get("/baseline", s.baseline)
		post("/baseline/accept", s.acceptBaseline)
		post("/baseline/reset", s.resetBaseline)
	}
	get("/about", s.about)
	mux.HandleFunc("GET /events", s.events)
	mux.Handle("/", s.handle(func(w http.ResponseWriter, r *http.Request) error {
		return muster.Errorf(muster.CodeNotFound, "there is no page at %s", r.URL.Path)
	}))
	return mux
}

// secure sets the headers that hold for every answer. Styles and scripts come
// from our own files only, so that no text out of a webhook can become either.
func secure(next http.Handler) http.Handler {
	const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "private, no-cache")
		next.ServeHTTP(w, r)
	})
}

// handler answers a request or returns why it cannot; it writes nothing before
// it knows that it can.
type handler func(w http.ResponseWriter, r *http.Request) error

// handle turns a handler's error into a page that helps.
func (s *site) handle(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil || errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			return
		}
		s.fail(w, r, err)
	})
}

// statuses maps the classes of errors to HTTP; what is missing is 500.
var statuses = map[muster.Code]int{
	muster.CodeInvalid:         http.StatusBadRequest,
	muster.CodeUnauthenticated: http.StatusUnauthorized,
	muster.CodeForbidden:       http.StatusForbidden,
	muster.CodeNotFound:        http.StatusNotFound,
	muster.CodeConflict:        http.StatusConflict,
	muster.CodeExists:          http.StatusConflict,
	muster.CodeBusy:            http.StatusConflict,
	muster.CodeGone:            http.StatusGone,
	muster.CodeUnavailable:     http.StatusServiceUnavailable,
}

// errorView is what an error page shows. Internal errors are logged under Ref
// and not shown.
type errorView struct {
	Status         int
	Message, Hint  string
	Ref            string
	Back, BackText string
}

var errorHints = map[int]string{
	http.StatusNotFound:            "It may have been pruned, or belong to another workspace. Lists hold everything that is still known.",
	http.StatusConflict:            "The page you came from may have been out of date. Go back, look again, and repeat if it still makes sense.",
	http.StatusGone:                "It has finished and will not come back.",
	http.StatusServiceUnavailable:  "Nothing was lost. The page can simply be loaded again in a moment.",
	http.StatusBadRequest:          "Go back and correct what you entered.",
	http.StatusInternalServerError: "Nothing you did caused this. The control plane's log has the details under the reference below.",
}

func (s *site) fail(w http.ResponseWriter, r *http.Request, err error) {
	v := errorView{Status: statuses[muster.CodeOf(err)], Message: muster.MessageOf(err), Back: "/", BackText: "Overview"}
	if v.Status == 0 {
		v.Status = http.StatusInternalServerError
		v.Message = "Something went wrong inside Muster."
	}
	v.Hint = errorHints[v.Status]
	if v.Status >= 500 {
		v.Ref = reference()
		s.Logger.ErrorContext(r.Context(), "dashboard page failed", "reference", v.Ref, "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if v.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	if noun, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); navTitles[noun] != "" {
		v.Back, v.BackText = "/"+noun, navTitles[noun]
	}
	if err := s.write(w, r, v.Status, "error", page{Title: http.StatusText(v.Status), Body: v}); err != nil {
		s.Logger.ErrorContext(r.Context(), "error page failed", "error", err)
		http.Error(w, http.StatusText(v.Status), v.Status)
	}
}

// reference is a short name under which a failure is found in the log.
func reference() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// page is what every template gets. Now, Nav and the rest of the frame are
// filled in by write.
type page struct {
	Title string
	// Section is the entry of the navigation that the page belongs to.
	Section string
	Body    any
	Notice  string // what a form has just done

	Now      time.Time
	Nav      []navItem
	Fragment bool // the script asks: leave out the frame
	// Part is the template of what the script may ask for alone, "" if there is none.
	Part     string
	Live     bool
	ReadOnly bool
	SignedIn bool
	Door     bool // the sign-in page: no navigation, no stream
	About    *About
}

type navItem struct {
	Path, Title, Key string
	Section          string
}

var navigation = []navItem{
	{"/", "Overview", "g o", "overview"},
	{"/jobs", "Jobs", "g j", "jobs"},
	{"/runners", "Runners", "g r", "runners"},
	{"/pools", "Pools", "g p", "pools"},
	{"/providers", "Providers", "g v", "providers"},
	{"/deliveries", "Deliveries", "g d", "deliveries"},
	{"/usage", "Usage", "g u", "usage"},
	{"/insights", "Insights", "g i", "insights"},
	{"/findings", "Findings", "g f", "findings"},
	{"/about", "About", "g a", "about"},
}

var navTitles = map[string]string{
	"jobs": "Jobs", "runners": "Runners", "pools": "Pools", "providers": "Providers", "deliveries": "Deliveries", "usage": "Usage", "insights": "Insights", "findings": "Findings",
}

// show writes a page with status 200.
func (s *site) show(w http.ResponseWriter, r *http.Request, name string, p page) error {
	p.Notice = notices[r.URL.Query().Get("done")]
	return s.write(w, r, http.StatusOK, name, p)
}

// write renders into memory first, so that a failure half-way is still an error page.
func (s *site) write(w http.ResponseWriter, r *http.Request, status int, name string, p page) error {
	p.Title = visible(p.Title, maxShown)
	p.Now = s.Now()
	p.Nav = navigation
	p.Fragment = isFragment(r)
	if r.Header.Get(fragmentHeader) != fragmentPart {
		p.Part = ""
	}
	p.Live = s.Subscribe != nil
	p.ReadOnly = s.Commands == nil
	p.SignedIn = s.login != nil
	p.About = &s.About
	var buf bytes.Buffer
	if err := s.tmpl.execute(&buf, name, p); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Add("Vary", fragmentHeader)
	w.WriteHeader(status)
	_, _ = buf.WriteTo(w) // the reader went away: nobody is left to tell
	return nil
}

// fragmentHeader is set by the script when it refreshes a page that is open.
const fragmentHeader = "Muster-Fragment"

// fragmentPart is its value where the script wants the page's Part alone.
const fragmentPart = "part"

func isFragment(r *http.Request) bool { return r.Header.Get(fragmentHeader) != "" }

// notices are what forms may say after they are done, by the word in the
// address: the address itself is never shown.
var notices = map[string]string{
	"drain":      "The runner is going home. If it is busy, it finishes its job first.",
	"enable":     "The pool is enabled and is being decided anew.",
	"disable":    "The pool is disabled. Running jobs finish; no runner will be added.",
	"suspend":    "The pool is suspended. Running jobs finish, queued ones wait, no runner will be made.",
	"resume":     "The pool makes runners again and is being decided anew.",
	"scale":      "The limits are changed and the pool is being decided anew.",
	"nudge":      "The pool is being decided anew.",
	"check":      "The provider is being tested with a machine of its own.",
	"redispatch": "The delivery is being dispatched again.",
	"accept":     "It is expected from now on: the next runs of the job have no finding for it.",
	"reset":      "What the job usually does is forgotten and learnt anew.",

	"machine-" + muster.MachineAnswerStarting: "The machine is being started. One that is still stopping is started once it has stopped.",
	"machine-" + muster.MachineAnswerRunning:  "The machine is up already.",
	"machine-" + muster.MachineAnswerStopping: "The machine is being stopped.",
	"machine-" + muster.MachineAnswerStopped:  "The machine is stopped already.",
	"machine-" + muster.MachineAnswerBusy:     "A job runs on the machine or waits for it, or GitHub does not say: it is stopped at the first minute at which it is idle.",
}

// done answers a form: back to the page, with the notice.
func done(w http.ResponseWriter, r *http.Request, path, notice string) error {
	http.Redirect(w, r, path+"?done="+notice, http.StatusSeeOther)
	return nil
}
