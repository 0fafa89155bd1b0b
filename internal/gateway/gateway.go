package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
)

// Slurm is the cluster: provider/slurm's Cluster.
type Slurm interface {
	// Create submits the job of spec.Runner as user, and returns the one that is there
	// if there is one.
	Create(ctx context.Context, spec provider.Spec, user string) (provider.Instance, error)
	Delete(ctx context.Context, owner string, runner muster.RunnerID) error
	Get(ctx context.Context, owner string, runner muster.RunnerID) (provider.Instance, error)
	List(ctx context.Context, owner string) ([]provider.Instance, error)
}

// Repository maps a place where runners register to the Slurm user that their jobs
// run as.
type Repository struct {
	// GitHubURL is the page of a repository, an organization or an enterprise.
	GitHubURL string
	SlurmUser string
}

// Config is what a Gateway needs. Everything but Previous and Logger is required.
type Config struct {
	// AppURL is the control plane's address as nodes reach it: the audience of launch
	// tokens, and the only place that they are sent to.
	AppURL string
	// AuthToken is the secret that the control plane and the gateway share; Previous
	// is taken as well while it is changed.
	AuthToken muster.Secret
	Previous  muster.Secret
	// KeysFile has the control plane's public keys, as its /gha/keys answers them.
	KeysFile     string
	Repositories []Repository
	Slurm        Slurm
	// MaxCPUs, MaxMemoryMiB and MaxGPUs bound one job; 0 means no bound.
	MaxCPUs      float64
	MaxMemoryMiB int64
	MaxGPUs      int
	Logger       *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Gateway answers the control plane. Safe for concurrent use.
type Gateway struct {
	cfg   Config
	log   *slog.Logger
	keys  *keyring
	users map[string]string // by place
	mux   *http.ServeMux
}

// New checks a configuration and makes a gateway. The error names every problem.
func New(cfg Config) (*Gateway, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.AppURL = strings.TrimRight(cfg.AppURL, "/")
	g := &Gateway{cfg: cfg, log: cfg.Logger, keys: &keyring{path: cfg.KeysFile}, users: map[string]string{}, mux: http.NewServeMux()}
	var problems []error
	if err := g.keys.load(); err != nil {
		problems = append(problems, err)
	}
	if cfg.AuthToken == "" {
		problems = append(problems, errors.New("auth_token_file: without a shared secret everybody could ask"))
	}
	for _, r := range cfg.Repositories {
		place, ok := placeOf(r.GitHubURL)
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("repositories: %q is not the page of a repository, an organization or an enterprise", r.GitHubURL))
		case r.SlurmUser == "" || r.SlurmUser == "root":
			problems = append(problems, fmt.Errorf("repositories: %s has no Slurm user that may run jobs", r.GitHubURL))
		case g.users[place] != "" && g.users[place] != r.SlurmUser:
			problems = append(problems, fmt.Errorf("repositories: %s is mapped to two users", r.GitHubURL))
		}
		g.users[place] = r.SlurmUser
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	g.route("POST "+wire.RunnerStartPath, "launchWorker", g.start)
	g.route("GET "+wire.RunnerJobsPath, "listWorkers", g.list)
	g.route("GET "+wire.RunnerJobsPath+"/{runner}", "getWorker", g.get)
	g.route("DELETE "+wire.RunnerJobsPath+"/{runner}", "cancelWorker", g.cancel)
	g.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// Whoever has no secret learns of no route either.
		if !g.known(r) {
			answer(w, http.StatusUnauthorized, wire.GatewayError{Class: "unauthenticated", Message: "auth-token missing"})
			return
		}
		answer(w, http.StatusNotFound, wire.GatewayError{Class: "invalid", Message: "there is no such route"})
	})
	return g, nil
}

// placeOf is a page's address in one spelling: GitHub does not tell capitals from
// small letters in names.
func placeOf(page string) (string, bool) {
	u, err := url.Parse(page)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", false
	}
	path := strings.Trim(u.EscapedPath(), "/")
	if n := strings.Count(path, "/"); path == "" || n > 2 || strings.Contains(path, "%") || strings.Contains(path, "..") {
		return "", false
	}
	return strings.ToLower(u.Scheme + "://" + u.Host + "/" + path), true
}

// userFor is whom a runner runs as, by where it registers. A repository without an
// entry of its own has its owner's. An organization's runner may be given any
// of its jobs, so that it never has a single repository's.
func (g *Gateway) userFor(page string) (string, bool) {
	place, ok := placeOf(page)
	if !ok {
		return "", false
	}
	if user := g.users[place]; user != "" {
		return user, true
	}
	u, err := url.Parse(place)
	if err != nil {
		return "", false
	}
	owner, _, isRepository := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if !isRepository || owner == "enterprises" {
		return "", false
	}
	user := g.users[u.Scheme+"://"+u.Host+"/"+owner]
	return user, user != ""
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// known reports whether a request carries the shared secret. What is compared are
// hashes, so that not even its length shows.
func (g *Gateway) known(r *http.Request) bool {
	got := sha256.Sum256([]byte(r.Header.Get(wire.AuthToken)))
	ok := 0
	for _, secret := range []muster.Secret{g.cfg.AuthToken, g.cfg.Previous} {
		want := sha256.Sum256([]byte(secret.Reveal()))
		if secret != "" {
			ok |= subtle.ConstantTimeCompare(got[:], want[:])
		}
	}
	return ok == 1
}

// refusals are the status and the word for each class of errors.
var refusals = []struct {
	class  error
	status int
	word   string
}{
	{provider.ErrNotFound, http.StatusNotFound, "not_found"},
	{provider.ErrInvalid, http.StatusBadRequest, "invalid"},
	{provider.ErrQuota, http.StatusTooManyRequests, "quota"},
	{provider.ErrCapacity, http.StatusServiceUnavailable, "capacity"},
}

func (g *Gateway) route(pattern, operation string, do func(ctx context.Context, w http.ResponseWriter, r *http.Request) (status int, body any, err error)) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if !g.known(r) {
			g.log.Warn("call without the shared secret", "operation", operation, "remote", r.RemoteAddr)
			answer(w, http.StatusUnauthorized, wire.GatewayError{Class: "unauthenticated", Message: "auth-token missing"})
			return
		}
		status, body, err := do(r.Context(), w, r)
		if err == nil {
			answer(w, status, body)
			return
		}
		refusal := wire.GatewayError{Class: "transient", Message: err.Error()}
		if gone, ok := errors.AsType[*provider.GoneError](err); ok {
			refusal.Detail = gone.Detail
		}
		status = http.StatusBadGateway
		switch muster.CodeOf(err) {
		case muster.CodeUnauthenticated:
			status, refusal.Class = http.StatusUnauthorized, "forbidden" // asking again with this token is in vain
		case muster.CodeForbidden:
			status, refusal.Class = http.StatusForbidden, "forbidden"
		case muster.CodeInvalid:
			status, refusal.Class = http.StatusBadRequest, "invalid"
		default:
			for _, c := range refusals {
				if errors.Is(err, c.class) {
					status, refusal.Class = c.status, c.word
					break
				}
			}
		}
		if refusal.Class != "not_found" {
			g.log.Warn("refused", "operation", operation, "class", refusal.Class, "error", err)
		}
		answer(w, status, refusal)
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller went away: nobody to tell
}

// maxBody is the most that is read of a request: a token and some words.
const maxBody = 64 << 10

// start submits a runner's job: operation launchWorker.
func (g *Gateway) start(ctx context.Context, w http.ResponseWriter, r *http.Request) (int, any, error) {
	var req wire.StartRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		return 0, nil, muster.Errorf(muster.CodeInvalid, "the body is not the JSON that %s takes", wire.RunnerStartPath)
	}
	l, err := g.keys.verify(req.LauncherToken, g.cfg.AppURL, g.cfg.Now())
	if err != nil {
		return 0, nil, err
	}
	asked, ok := placeOf(req.GitHubURL)
	signed, ok2 := placeOf(l.Build.GitHubURL)
	if !ok || !ok2 || asked != signed {
		return 0, nil, muster.Errorf(muster.CodeForbidden, "the launch token is for another repository")
	}
	if !strings.HasPrefix(req.TokenURL, g.cfg.AppURL+"/") {
		return 0, nil, muster.Errorf(muster.CodeForbidden, "the launch token would be sent to %.200q, which is not below app_url", req.TokenURL)
	}
	user, ok := g.userFor(l.Build.GitHubURL)
	if !ok {
		return 0, nil, muster.Errorf(muster.CodeForbidden, "%s is mapped to no Slurm user: add it to repositories on the gateway", l.Build.GitHubURL)
	}
	if g.cfg.MaxCPUs > 0 && req.CPUs > g.cfg.MaxCPUs || g.cfg.MaxMemoryMiB > 0 && req.MemoryMiB > g.cfg.MaxMemoryMiB || g.cfg.MaxGPUs > 0 && req.GPUs > g.cfg.MaxGPUs {
		return 0, nil, muster.Errorf(muster.CodeInvalid, "the offering is larger than the gateway lets through")
	}
	in, err := g.cfg.Slurm.Create(ctx, provider.Spec{
		Runner: l.Runner, Owner: req.Owner, Workspace: l.Workspace, Pool: l.Pool, Build: l.Build,
		Offering: muster.Offering{CPUs: req.CPUs, MemoryMiB: req.MemoryMiB, GPUs: req.GPUs},
		Boot:     provider.Boot{URL: g.cfg.AppURL, Token: muster.Secret(req.LauncherToken)},
		MaxAge:   time.Duration(req.MaxMilliseconds) * time.Millisecond, TraceID: req.TraceID,
	}, user)
	if err != nil {
		return 0, nil, err
	}
	g.log.Info("job of a runner", "runner", l.Runner, "job", in.ID, "user", user, "for", l.Build.GitHubURL, "repository", cmp.Or(l.Build.RepositoryURL, "none"), "github_job", l.Build.Job, "owner", req.Owner, "trace_id", req.TraceID)
	return http.StatusOK, told(in, "OK!"), nil
}

func told(in provider.Instance, status string) wire.GatewayInstance {
	return wire.GatewayInstance{Status: status, JobID: in.ID, Runner: string(in.Runner), State: string(in.State), Detail: in.Detail, CreatedAt: in.CreatedAt}
}

func (g *Gateway) list(ctx context.Context, _ http.ResponseWriter, r *http.Request) (int, any, error) {
	all, err := g.cfg.Slurm.List(ctx, r.URL.Query().Get("owner"))
	if err != nil {
		return 0, nil, err
	}
	l := wire.GatewayList{Jobs: []wire.GatewayInstance{}}
	for _, in := range all {
		l.Jobs = append(l.Jobs, told(in, ""))
	}
	slices.SortFunc(l.Jobs, func(a, b wire.GatewayInstance) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return http.StatusOK, l, nil
}

func (g *Gateway) get(ctx context.Context, _ http.ResponseWriter, r *http.Request) (int, any, error) {
	in, err := g.cfg.Slurm.Get(ctx, r.URL.Query().Get("owner"), muster.RunnerID(r.PathValue("runner")))
	return http.StatusOK, told(in, ""), err
}

func (g *Gateway) cancel(ctx context.Context, _ http.ResponseWriter, r *http.Request) (int, any, error) {
	err := g.cfg.Slurm.Delete(ctx, r.URL.Query().Get("owner"), muster.RunnerID(r.PathValue("runner")))
	return http.StatusAccepted, map[string]string{"status": "OK!"}, err
}

// Dispatch serves the gateway beside another handler that has a /runner/start of its
// own (C12): below wire.GatewayPrefix, and at its own paths for those who show the
// header of its secret. Nothing is guessed from a body; a request that shows the
// credentials of both is refused.
func (g *Gateway) Dispatch(other http.Handler, othersHeader string) http.Handler {
	below := http.StripPrefix(wire.GatewayPrefix, g)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		ours := path == wire.RunnerStartPath || path == wire.RunnerJobsPath || strings.HasPrefix(path, wire.RunnerJobsPath+"/")
		shows := r.Header.Get(wire.AuthToken) != ""
		switch {
		case strings.HasPrefix(path, wire.GatewayPrefix+"/"):
			below.ServeHTTP(w, r)
		case ours && shows && r.Header.Get(othersHeader) != "":
			answer(w, http.StatusBadRequest, wire.GatewayError{Class: "invalid", Message: "the request shows the credentials of two services"})
		case ours && shows:
			g.ServeHTTP(w, r)
		default:
			other.ServeHTTP(w, r)
		}
	})
}
