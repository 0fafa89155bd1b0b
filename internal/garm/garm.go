package garm

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// The paths below which machines call, as GARM has them.
const (
	MetadataPath = "/api/v1/metadata"
	CallbackPath = "/api/v1/callbacks"
)

const (
	// maxBody is the most that is read of a report, in bytes.
	maxBody = 64 << 10
	// maxMessage is how much of a script's message is kept, in bytes.
	maxMessage = 1 << 10
	// retryAfter is what a script is told to wait, in seconds, when it should ask again.
	retryAfter = 5
)

// Lives is the life of runners; errors carry a muster.Code. See internal/lifecycle.
type Lives interface {
	// ScriptRunner says whose script calls, CodeGone when it has nothing to ask for.
	ScriptRunner(ctx context.Context, token string) (muster.Runner, muster.Pool, error)
	// ScriptInstalls notes that a script is at work.
	ScriptInstalls(ctx context.Context, token string) error
	// ScriptReport takes its word that the runner was started, or could not be, and
	// says which runner.
	ScriptReport(ctx context.Context, token string, rep wire.Report) (muster.Runner, error)
	ScriptDownload(ctx context.Context, token, system, arch string) (muster.RunnerDownload, error)
	// Boot trades a boot token, for which a nonce must always be the same, for what
	// one runner needs.
	Boot(ctx context.Context, token string, req wire.BootRequest) (wire.BootResponse, error)
	// Report takes the word of whoever has a session token.
	Report(ctx context.Context, session string, rep wire.Report) (wire.Answer, error)
}

// Vault keeps what a machine was given, sealed, for as long as it installs.
type Vault interface {
	Keep(ctx context.Context, id muster.RunnerID, secret []byte) error
	// Kept is CodeNotFound if there is nothing, or nothing any more.
	Kept(ctx context.Context, id muster.RunnerID) ([]byte, error)
	Drop(ctx context.Context, id muster.RunnerID) error
}

// Config is what a Handler needs; all but Logger and Now is required.
type Config struct {
	Lives Lives
	Vault Vault
	// URL is the control plane's as machines reach it.
	URL    string
	Now    func() time.Time
	Logger *slog.Logger
}

// Handler answers
//
//	GET  {metadata}/credentials/runner, /credentials/credentials, /credentials/credentials_rsaparams
//	GET  {metadata}/runner-registration-token   the token, in pools whose registration is token
//	GET  {metadata}/runner-metadata             name, address and labels of the runner
//	GET  {metadata}/system/service-name         the name of the machine's service
//	GET  {metadata}/system/cert-bundle          certificates to trust; none
//	GET  {metadata}/systemd/unit-file           the service, for the user in ?runAsUser=
//	GET  {metadata}/tools/runner/{os}/{arch}    the way to GitHub's runner
//	POST {callback}/status                      installing, idle, failed, terminated
//	POST {callback}/system-info
//
// with and without a slash at the end. Refusals are JSON, {"error", "details"}: 401
// and 403 for a token that is not this machine's, 410 when it has nothing to ask for
// any more, 429 and 503 with Retry-After, upon which the scripts ask again.
type Handler struct {
	cfg Config
	// busy keeps two calls of one machine apart: the second finds what the first got.
	busy [64]sync.Mutex
}

// New checks the configuration.
func New(cfg Config) (*Handler, error) {
	if cfg.Lives == nil || cfg.Vault == nil || cfg.URL == "" {
		return nil, errors.New("the routes of GARM's machines need the lives of runners, a vault and the control plane's URL")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	return &Handler{cfg: cfg}, nil
}

// Register puts the paths on a listener that serves others too.
func (h *Handler) Register(mux *http.ServeMux) {
	get := func(path string, answer func(http.ResponseWriter, *http.Request, string) error) {
		for _, slash := range []string{"", "/{$}"} {
			mux.Handle(MetadataPath+path+slash, h.route(http.MethodGet, answer))
		}
	}
	post := func(path string, answer func(http.ResponseWriter, *http.Request, string) error) {
		for _, slash := range []string{"", "/{$}"} {
			mux.Handle(CallbackPath+path+slash, h.route(http.MethodPost, answer))
		}
	}
	get("/credentials/{file}", h.credentials)
	get("/runner-registration-token", h.registrationToken)
	get("/runner-metadata", h.metadata)
	get("/system/service-name", h.serviceName)
	get("/system/cert-bundle", h.certBundle)
	get("/systemd/unit-file", h.unitFile)
	get("/tools/runner/{os}/{arch}", h.download)
	post("/status", h.status)
	post("/system-info", h.systemInfo)
}

// refusal is the body of every error.
type refusal struct {
	Error   string `json:"error"`
	Details string `json:"details"`
}

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

// route reads the token and answers errors.
func (h *Handler) route(method string, answer func(http.ResponseWriter, *http.Request, string) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // most of it is secret
		if r.Method != method {
			w.Header().Set("Allow", method)
			reply(w, http.StatusMethodNotAllowed, refusal{"Method Not Allowed", "use " + method})
			return
		}
		err := error(muster.Errorf(muster.CodeUnauthenticated, "no bearer token in the Authorization header"))
		if token, ok := bearer(r); ok {
			err = answer(w, r, token)
		}
		if err == nil {
			return
		}
		status, known := statuses[muster.CodeOf(err)]
		text := muster.MessageOf(err)
		switch {
		case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
			status, text = http.StatusServiceUnavailable, "the control plane cannot answer now; ask again"
		case !known:
			status, text = http.StatusInternalServerError, "internal error"
			h.cfg.Logger.Error("call of a machine failed", "path", r.URL.Path, "error", err)
		default:
			h.cfg.Logger.Info("call of a machine refused", "path", r.URL.Path, "status", status, "error", err)
		}
		if status == http.StatusServiceUnavailable {
			wait := retryAfter
			if e, ok := errors.AsType[*muster.Error](err); ok && e.RetryAfter > 0 {
				wait = int(e.RetryAfter.Seconds()) + 1
			}
			w.Header().Set("Retry-After", strconv.Itoa(wait))
		}
		reply(w, status, refusal{http.StatusText(status), text})
	})
}

func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return token, ok && strings.EqualFold(scheme, "bearer") && token != ""
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the machine went away: nobody to tell
}

func text(w http.ResponseWriter, body []byte) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(body) // the machine went away: nobody to tell
	return nil
}

// given is what a machine was given, as the vault keeps it.
type given struct {
	Name    string            `json:"name"`
	Session string            `json:"session"`
	Files   map[string][]byte `json:"files,omitempty"`
	Token   string            `json:"token,omitempty"`
	URL     string            `json:"url,omitempty"`
	Labels  []string          `json:"labels,omitempty"`
}

// give returns what the machine was given before, or asks for it: what GitHub
// registers is asked for once, at the moment when the script wants it (4-9).
func (h *Handler) give(ctx context.Context, token string) (muster.Runner, muster.Pool, given, error) {
	r, pool, err := h.cfg.Lives.ScriptRunner(ctx, token)
	if err != nil {
		return r, pool, given{}, err
	}
	sum := fnv.New32a()
	_, _ = io.WriteString(sum, string(r.ID))
	own := &h.busy[sum.Sum32()%uint32(len(h.busy))]
	own.Lock()
	defer own.Unlock()
	var g given
	switch kept, err := h.cfg.Vault.Kept(ctx, r.ID); {
	case err == nil:
		if err := json.Unmarshal(kept, &g); err != nil {
			return r, pool, g, fmt.Errorf("what was given to %s: %w", r.ID, err)
		}
		return r, pool, g, nil
	case muster.CodeOf(err) != muster.CodeNotFound:
		return r, pool, g, err
	}
	nonce := sha256.Sum256([]byte("garm " + token))
	boot, err := h.cfg.Lives.Boot(ctx, token, wire.BootRequest{Nonce: hex.EncodeToString(nonce[:]), AgentVersion: "garm", OS: "linux"})
	if err != nil {
		return r, pool, g, err
	}
	if boot.Check != nil {
		return r, pool, g, h.checked(ctx, token)
	}
	g = given{Name: boot.Name, Session: boot.SessionToken}
	if boot.Registration != nil {
		g.Token, g.URL, g.Labels = boot.Registration.Token, boot.Registration.URL, boot.Registration.Labels
	} else if g.Files, err = files(boot.JITConfig); err != nil {
		return r, pool, g, err
	}
	kept, err := json.Marshal(g)
	if err == nil {
		err = h.cfg.Vault.Keep(ctx, r.ID, kept)
	}
	return r, pool, g, err
}

// checked ends the test of a provider: that the script has come this far is all that
// can be seen of a machine without an agent.
func (h *Handler) checked(ctx context.Context, token string) error {
	_, err := h.cfg.Lives.ScriptReport(ctx, token, wire.Report{
		Phase: wire.PhaseFinished, At: h.cfg.Now(), Reason: "check passed",
		Check: []wire.CheckStep{{Name: "machine's script", OK: true, Detail: "it runs, and it reaches the control plane; there is no agent to look around"}},
	})
	if err != nil {
		return err
	}
	return muster.Errorf(muster.CodeGone, "the provider is only tested: there is no runner to install")
}

// files takes a JIT configuration apart: base64 of a JSON object whose values are
// files in base64.
func files(jit string) (map[string][]byte, error) {
	blob, err := base64.StdEncoding.DecodeString(jit)
	if err != nil {
		return nil, errors.New("GitHub's JIT configuration is not base64")
	}
	var out map[string][]byte
	if err := json.Unmarshal(blob, &out); err != nil {
		return nil, errors.New("GitHub's JIT configuration is not an object of files")
	}
	return out, nil
}

// credentials answers the three files of a JIT registration.
func (h *Handler) credentials(w http.ResponseWriter, r *http.Request, token string) error {
	name := r.PathValue("file")
	switch name {
	case "runner", "credentials", "credentials_rsaparams":
	default:
		return muster.Errorf(muster.CodeNotFound, "there is no file %.60q", name)
	}
	runner, _, g, err := h.give(r.Context(), token)
	if err != nil {
		return err
	}
	file, ok := g.Files["."+name]
	if !ok {
		why := muster.Errorf(muster.CodeConflict, "the pool %s registers by token: its machines need a script that runs config.sh, or registration: jit", runner.Pool)
		if _, err := h.cfg.Lives.ScriptReport(r.Context(), token, wire.Report{Phase: wire.PhaseFinished, At: h.cfg.Now(), ExitCode: 1, Reason: "runner failed: " + why.Error()}); err != nil {
			return err
		}
		return why
	}
	return text(w, file)
}

// registrationToken answers what config.sh takes, for scripts that run it.
func (h *Handler) registrationToken(w http.ResponseWriter, r *http.Request, token string) error {
	_, pool, g, err := h.give(r.Context(), token)
	if err != nil {
		return err
	}
	if g.Token == "" {
		return muster.Errorf(muster.CodeConflict, "the pool %s registers by jit: ask for the files below credentials", pool.Name)
	}
	return text(w, []byte(g.Token))
}

// metadata tells a script of its own which runner it installs.
func (h *Handler) metadata(w http.ResponseWriter, r *http.Request, token string) error {
	runner, pool, err := h.cfg.Lives.ScriptRunner(r.Context(), token)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, map[string]any{
		"runner_name": runner.Name, "runner_labels": pool.RunnerLabels, "runner_id": runner.ID, "pool": pool.Name, "scope": pool.Scope.String(),
		"registration": pool.Registration, "metadata_url": h.cfg.URL + MetadataPath, "callback_url": h.cfg.URL + CallbackPath,
	})
	return nil
}

var notInUnits = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// serviceName is what GitHub's own scripts call a runner's service.
func serviceName(scope muster.Scope, runner string) string {
	place := notInUnits.ReplaceAllString(scope.String(), "-")
	return "actions.runner." + place[:min(len(place), 80)] + "." + notInUnits.ReplaceAllString(runner, "-")
}

func (h *Handler) serviceName(w http.ResponseWriter, r *http.Request, token string) error {
	runner, pool, err := h.cfg.Lives.ScriptRunner(r.Context(), token)
	if err != nil {
		return err
	}
	return text(w, []byte(serviceName(pool.Scope, runner.Name)))
}

// certBundle answers that there are no certificates beyond those in the machine's
// user data. Scripts for Windows ask.
func (h *Handler) certBundle(w http.ResponseWriter, r *http.Request, token string) error {
	if _, _, err := h.cfg.Lives.ScriptRunner(r.Context(), token); err != nil {
		return err
	}
	reply(w, http.StatusOK, map[string]any{"root_certificates": map[string]string{}})
	return nil
}

// user is what a system's user may be called: it becomes a part of the unit (4-32).
var user = regexp.MustCompile(`\A[a-z_][a-z0-9_-]{0,31}\z`)

// unitFile is the runner's service. That the runner has ended is told with a session
// token, which is good for reports of this one runner, and which is no argument of a
// process: curl reads it from its standard input. It is told twice, because curl
// repeats a call that was refused, and not one that was cut off.
func (h *Handler) unitFile(w http.ResponseWriter, r *http.Request, token string) error {
	as := r.URL.Query().Get("runAsUser")
	if as == "" {
		as = "runner"
	}
	if !user.MatchString(as) {
		return muster.Errorf(muster.CodeInvalid, "runAsUser: %.60q is not a user's name", as)
	}
	runner, pool, g, err := h.give(r.Context(), token)
	if err != nil {
		return err
	}
	return text(w, fmt.Appendf(nil, `[Unit]
Description=GitHub Actions Runner (%[1]s)
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/home/%[2]s/actions-runner/runsvc.sh
ExecStopPost=-/usr/bin/env curl --silent --retry 30 --retry-delay 5 --retry-connrefused --max-time 15 --config - --request POST --data '{"status": "terminated", "message": "the runner has ended"}' %[3]s
ExecStopPost=-/usr/bin/env curl --silent --retry 30 --retry-delay 5 --retry-connrefused --max-time 15 --config - --request POST --data '{"status": "terminated", "message": "the runner has ended"}' %[3]s
StandardInput=data
StandardInputText=oauth2-bearer = %[4]s
User=%[2]s
WorkingDirectory=/home/%[2]s/actions-runner
KillMode=process
KillSignal=SIGTERM
TimeoutStopSec=5min

[Install]
WantedBy=multi-user.target
`, serviceName(pool.Scope, runner.Name), as, strings.ReplaceAll(h.cfg.URL, "%", "%%")+CallbackPath+"/status", g.Session))
}

// download sends a script on to GitHub's archive of the day.
func (h *Handler) download(w http.ResponseWriter, r *http.Request, token string) error {
	d, err := h.cfg.Lives.ScriptDownload(r.Context(), token, r.PathValue("os"), r.PathValue("arch"))
	if err != nil {
		return err
	}
	w.Header().Set("Location", d.URL)
	w.WriteHeader(http.StatusFound)
	return nil
}

// report is a script's word. Scripts label it as a form and send JSON.
type report struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func read(w http.ResponseWriter, r *http.Request, into any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into); err != nil {
		return muster.Errorf(muster.CodeInvalid, "the body is not the JSON of a report, of at most %d bytes", maxBody)
	}
	return nil
}

// sessionPrefix begins session tokens, and no boot token.
const sessionPrefix = "mss_"

// status takes a report. Of idle on, what was given is given no more.
func (h *Handler) status(w http.ResponseWriter, r *http.Request, token string) error {
	ctx := r.Context()
	var rep report
	if err := read(w, r, &rep); err != nil {
		return err
	}
	rep.Message = plain(rep.Message)
	word := wire.Report{At: h.cfg.Now()}
	session := strings.HasPrefix(token, sessionPrefix)
	switch {
	case session && rep.Status == "terminated":
		word.Phase, word.Reason = wire.PhaseFinished, "runner ended"
		_, err := h.cfg.Lives.Report(ctx, token, word)
		return h.taken(w, err)
	case session:
		return muster.Errorf(muster.CodeForbidden, "this token is for the report terminated alone")
	}
	switch rep.Status {
	case "installing":
		h.cfg.Logger.Debug("machine installs", "message", rep.Message)
		return h.taken(w, h.cfg.Lives.ScriptInstalls(ctx, token))
	case "idle":
		word.Phase = wire.PhaseListening
	case "failed":
		word.Phase, word.ExitCode, word.Reason = wire.PhaseFinished, 1, "runner failed: "+rep.Message
	case "terminated":
		word.Phase, word.Reason = wire.PhaseFinished, "runner ended before it listened"
	default:
		return muster.Errorf(muster.CodeInvalid, "status %.40q is unknown: it is installing, idle, failed or terminated", rep.Status)
	}
	runner, err := h.cfg.Lives.ScriptReport(ctx, token, word)
	if err != nil {
		return err
	}
	if err := h.cfg.Vault.Drop(ctx, runner.ID); err != nil {
		h.cfg.Logger.Warn("what a machine was given is kept until it is too old", "runner", runner.ID, "error", err)
	}
	h.cfg.Logger.Info("machine reported", "runner", runner.ID, "status", rep.Status, "message", rep.Message, "trace_id", runner.TraceID)
	return h.taken(w, nil)
}

func (h *Handler) taken(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// plain makes a script's message fit for a log and a page: it may repeat whatever a
// mirror or a tool answered.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u202e' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	s = strings.Join(strings.Fields(s), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxMessage)], "")
}

// systemInfo takes what a machine says of its system, and notes it.
func (h *Handler) systemInfo(w http.ResponseWriter, r *http.Request, token string) error {
	var info struct {
		Name    string `json:"os_name"`
		Version string `json:"os_version"`
	}
	if err := read(w, r, &info); err != nil {
		return err
	}
	runner, _, err := h.cfg.Lives.ScriptRunner(r.Context(), token)
	if muster.CodeOf(err) == muster.CodeGone { // its job has begun: nothing is lost
		return h.taken(w, nil)
	}
	if err == nil {
		h.cfg.Logger.Info("machine's system", "runner", runner.ID, "os", plain(info.Name), "version", plain(info.Version))
	}
	return h.taken(w, err)
}
