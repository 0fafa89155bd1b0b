package github

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

// maxAnswer bounds what is read of one answer, in bytes. A page of 100 runners or
// jobs is well below 1 MiB.
const maxAnswer = 64 << 20

// Config is what a Client is made from: either an App (PrivateKey with ClientID
// or AppID) or a Token, never both (C6). Zero numbers mean the default.
type Config struct {
	// Name is the App's name in the configuration; it appears in errors and budgets.
	Name string
	// ClientID is preferred over AppID as the issuer of the App's JWTs, as GitHub
	// recommends; GitHub Enterprise Server before 3.14 knows the AppID only.
	ClientID string
	AppID    int64
	// PrivateKey is the App's key in PEM, PKCS#1 or PKCS#8. Literal \n stand for
	// line ends, so that it fits an environment variable (S3-51).
	PrivateKey muster.Secret
	// Token is a personal access token that serves every owner.
	Token muster.Secret
	// InstallationID is used for owners for which GitHub finds no installation; 0
	// for none (C5).
	InstallationID int64
	// Installations are the same for single owners, in lower case, before InstallationID.
	Installations map[string]int64
	// URL is GitHub as people open it or its API: "https://github.com" (also the
	// zero value), "https://HOST" of an Enterprise Server, "https://SUB.ghe.com", or
	// an address that ends in /api/v3. Plain http is accepted for loopback only.
	URL string
	// Timeout bounds every call with all its repetitions; 30 s by default (S1-21).
	Timeout time.Duration
	// MutationsPerMinute paces calls of one route that change something, per
	// installation. The default is 180, because GitHub allows 900 points a minute
	// and takes 5 for each. Negative means no pacing, of reads and of registrations
	// neither, which suits a server without limits.
	MutationsPerMinute int
	// Transport carries the requests; nil means a clone of the default one.
	Transport http.RoundTripper
	UserAgent string
	Observer  Observer     // may be nil
	Logger    *slog.Logger // may be nil
}

// Observer counts calls. Its methods must return at once; they are safe for
// concurrent use.
type Observer interface {
	// Called counts one request on the wire: route is one of a fixed list of
	// templates, status GitHub's answer, 0 when there was none.
	Called(app, route string, status int, took time.Duration)
	// Budget reports what is left of the limit that the last call was counted
	// against.
	Budget(app string, remaining, limit int)
}

// Client speaks to GitHub as one App, or with one token. Safe for concurrent use.
// Every error is a *muster.Error whose text holds no credential.
type Client struct {
	cfg   Config
	base  *url.URL
	gh    *gh.Client   // makes requests and classifies answers
	http  *http.Client // authenticates, follows redirects within the API's host
	plain *http.Client // for addresses that carry their own authorization
	retry failsafe.Executor[*answer]
	etags *etags

	app   *identity // speaks as the App itself; nil with a token
	token *identity // speaks with Config.Token; nil for an App
	key   *signer

	lookup        chan struct{} // held while an installation is looked up
	mu            sync.Mutex
	installed     map[string]int64     // owner in lower case → installation
	absent        map[string]time.Time // owner → when GitHub said that there is none
	installations map[int64]*identity

	registration registrations
	sets         scaleSets
	reach        reach
}

// New checks the configuration and makes a Client. It makes no request.
func New(cfg Config) (*Client, error) {
	base, err := apiURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.MutationsPerMinute == 0 {
		cfg.MutationsPerMinute = 180
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "muster"
	}
	if cfg.Observer == nil {
		cfg.Observer = deaf{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 64
		t.ResponseHeaderTimeout = cfg.Timeout
		cfg.Transport = t
	}
	c := &Client{
		cfg:           cfg,
		base:          base,
		plain:         &http.Client{Transport: cfg.Transport, CheckRedirect: secureRedirect},
		etags:         newETags(),
		lookup:        make(chan struct{}, 1),
		installed:     map[string]int64{},
		absent:        map[string]time.Time{},
		installations: map[int64]*identity{},
		registration:  registrations{tokens: map[muster.Scope]registration{}},
	}
	c.http = &http.Client{Transport: &transport{client: c, base: cfg.Transport}, CheckRedirect: c.redirect}
	ours := base.String()
	if c.gh, err = gh.NewClient(gh.WithURLs(&ours, nil), gh.WithUserAgent(cfg.UserAgent), gh.WithDisableRateLimitCheck()); err != nil {
		return nil, muster.Errorf(muster.CodeInvalid, "GitHub's address %q cannot be used", cfg.URL)
	}
	c.retry = failsafe.With(retrypolicy.NewBuilder[*answer]().
		HandleIf(func(_ *answer, err error) bool {
			f, ok := errors.AsType[*failure](err)
			return ok && f.transient
		}).
		WithMaxRetries(2).
		WithBackoff(250*time.Millisecond, 2*time.Second).
		WithJitterFactor(0.25).
		ReturnLastFailure().
		Build())

	switch {
	case cfg.Token != "" && cfg.PrivateKey != "":
		return nil, muster.Errorf(muster.CodeInvalid, "%s has both a token and an App's private key: give one", c.name())
	case cfg.Token != "":
		if !tokenText.MatchString(cfg.Token.Reveal()) {
			return nil, muster.Errorf(muster.CodeInvalid, "the GitHub token of %s is malformed", c.name())
		}
		c.token = c.newIdentity(0, "token")
		c.token.credential = cfg.Token
	default:
		if c.key, err = newSigner(cfg); err != nil {
			return nil, err
		}
		c.app = c.newIdentity(0, "app")
	}
	return c, nil
}

func (c *Client) name() string {
	if c.cfg.Name == "" {
		return "the GitHub client"
	}
	return c.cfg.Name
}

// URL returns the address of the API that the client speaks to, with a slash at its end.
func (c *Client) URL() string { return c.base.String() }

// apiURL finds the API that belongs to an address of GitHub.
func apiURL(address string) (*url.URL, error) {
	if address == "" {
		address = "https://api.github.com"
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, muster.Errorf(muster.CodeInvalid, "GitHub's address is not a URL like https://github.com")
	}
	if !secure(u) {
		return nil, muster.Errorf(muster.CodeInvalid, "GitHub's address %q must begin with https: tokens are sent there", address) // S1-17
	}
	host := strings.ToLower(u.Host)
	path := strings.Trim(u.Path, "/")
	switch {
	case host == "github.com" || host == "www.github.com":
		u.Host, path = "api.github.com", ""
	case strings.HasPrefix(host, "api.") || path != "":
	case strings.HasSuffix(host, ".ghe.com"):
		u.Host = "api." + host
	default:
		path = "api/v3"
	}
	u.Path, u.RawQuery, u.Fragment = "/", "", ""
	if path != "" {
		u.Path = "/" + path + "/"
	}
	return u, nil
}

// secure reports whether a credential may be sent to the address: https, or the
// own machine (S1-17).
func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	host := u.Hostname()
	ip := net.ParseIP(host)
	return u.Scheme == "http" && (host == "localhost" || ip != nil && ip.IsLoopback())
}

func secureRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > 5 || !secure(req.URL) {
		return http.ErrUseLastResponse
	}
	return nil
}

// redirect follows what GitHub answers for renamed repositories, and leaves to
// the caller what it must not follow: another method, another host, or a file.
func (c *Client) redirect(req *http.Request, via []*http.Request) error {
	if of := req.Context().Value(callKey{}).(*call); of.file && req.Response.StatusCode == http.StatusFound {
		return http.ErrUseLastResponse
	}
	if req.Method != via[0].Method || req.URL.Host != c.base.Host {
		return http.ErrUseLastResponse
	}
	return secureRedirect(req, via)
}

// request is one call of the API.
type request struct {
	// what completes "could not …" in errors; class is the error's further class, may be nil.
	what  string
	class error
	// method and route are counted; path is the route filled in, relative to the
	// API's address, or an absolute address that GitHub gave.
	method string
	route  string
	path   string
	body   any
	// into receives the answer's JSON; nil if the answer is of no interest.
	into any
	lane Lane
	// refused is the class of a status that means more on this route than elsewhere.
	refused map[int]muster.Code
	// nested calls are made while another call waits for them: they are as urgent as can be.
	nested bool
	// registers is set for a call that makes a runner at scope.
	registers bool
	scope     muster.Scope
}

// answer is what GitHub said to a request that succeeded.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes a call as who. It admits the call by budget and lane, repeats what
// may be repeated, and renews a credential that was refused.
func (c *Client) send(ctx context.Context, who *identity, r request) (*answer, error) {
	if lane, ok := ctx.Value(laneKey{}).(Lane); ok && !r.nested {
		r.lane = lane
	}
	// The caller's own end is told apart from the timeout in fail.
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()

	// First what cannot succeed at all.
	if err := who.admit(r.lane, time.Now()); err != nil {
		return nil, c.refuse(r, err)
	}
	// Before a place is taken and the call is counted against the minute: a call
	// without a credential costs GitHub nothing and must not cost others.
	if _, err := c.credential(ctx, who); err != nil {
		return nil, c.refuse(r, asError(err))
	}
	if err := c.enter(ctx, who, r); err != nil {
		if caller.Err() != nil {
			return nil, c.broken(caller, r, err)
		}
		return nil, c.refuse(r, err)
	}
	defer who.gate.leave()
	try := func() (*answer, error) { return c.authenticated(ctx, caller, who, r) }
	if r.method != http.MethodGet && r.method != http.MethodDelete {
		return unwrap(try()) // what may have made something is never repeated blindly (4-11)
	}
	return unwrap(c.retry.WithContext(ctx).Get(try))
}

// unwrap shows callers the *muster.Error alone.
func unwrap(a *answer, err error) (*answer, error) {
	if f, ok := errors.AsType[*failure](err); ok {
		return nil, f.err
	}
	if err != nil { // the context ended while a repetition was waited for
		return nil, &muster.Error{Code: muster.CodeUnavailable, Message: "GitHub did not answer in time", Err: err}
	}
	return a, nil
}

// authenticated makes the call once, and again when GitHub refused the
// credential before it looked at the call: such a repetition is safe for every method.
func (c *Client) authenticated(ctx, caller context.Context, who *identity, r request) (*answer, error) {
	for renewals := 0; ; {
		credential, err := c.credential(ctx, who)
		if err != nil {
			return nil, &failure{err: c.refuse(r, asError(err))}
		}
		a, failed := c.once(ctx, caller, who, credential, r)
		if failed == nil {
			who.accepted(credential)
			return a, nil
		}
		if failed.status != http.StatusUnauthorized {
			return nil, failed
		}
		switch c.renew(ctx, who, credential, failed.header) {
		case giveUp:
			return nil, failed
		case renewed:
			if renewals++; renewals > 2 {
				return nil, failed
			}
		}
	}
}

// once makes one exchange.
func (c *Client) once(ctx, caller context.Context, who *identity, credential muster.Secret, r request) (*answer, *failure) {
	req, err := c.gh.NewRequest(withCall(ctx, &call{who: who, lane: r.lane, route: r.method + " /" + r.route, credential: credential}), r.method, r.path, r.body)
	if err != nil {
		return nil, &failure{err: muster.Errorf(muster.CodeInvalid, "%s: the request cannot be made", r.what)}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &failure{err: c.broken(caller, r, err), transient: true}
	}
	defer resp.Body.Close()
	if err := gh.CheckResponse(resp); err != nil {
		if _, accepted := errors.AsType[*gh.AcceptedError](err); !accepted {
			return nil, c.fail(who, credential, r, resp, err)
		}
	}
	who.succeeded()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, &failure{err: c.broken(caller, r, err), transient: true}
	}
	if r.into != nil {
		if err := decode(body, r.into); err != nil {
			// GitHub did it and the answer is lost, or a proxy answered for it.
			return nil, &failure{err: c.broken(caller, r, err), transient: true}
		}
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// decode is strict about one thing: an empty answer is no answer. Read as an
// empty list it would make every runner a lost one.
func decode(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return errors.New("the answer is empty")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return errors.New("the answer is not the JSON that GitHub documents")
	}
	return nil
}

// pages makes a GET and follows the links to further pages, calling more after
// each until it returns false. At most limit pages are read; it is an error if
// there are more, because a list that ends early reads as if things were gone.
func (c *Client) pages(ctx context.Context, who *identity, r request, limit int, more func() bool) error {
	for range limit {
		a, err := c.send(ctx, who, r)
		if err != nil {
			return err
		}
		if !more() {
			return nil
		}
		next := nextPage(a.header)
		if next == "" {
			return nil
		}
		u, err := c.base.Parse(next)
		if err != nil || u.Host != c.base.Host || u.Scheme != c.base.Scheme {
			return muster.Errorf(muster.CodeUnavailable, "%s: GitHub's link to the next page leads elsewhere", r.what)
		}
		r.path = u.String()
	}
	return muster.Errorf(muster.CodeUnavailable, "%s: the list has more than %d pages", r.what, limit)
}

// nextPage reads the Link header (RFC 8288) as GitHub writes it.
func nextPage(h http.Header) string {
	for link := range strings.SplitSeq(h.Get("Link"), ",") {
		target, params, _ := strings.Cut(link, ";")
		if !strings.Contains(params, `rel="next"`) {
			continue
		}
		target = strings.TrimSpace(target)
		return strings.TrimSuffix(strings.TrimPrefix(target, "<"), ">")
	}
	return ""
}

// laneKey carries a Lane in a context.
type laneKey struct{}

// WithLane returns a context whose calls use lane instead of their own.
func WithLane(ctx context.Context, lane Lane) context.Context {
	return context.WithValue(ctx, laneKey{}, lane)
}

// repoPath checks a repository's name and returns its path in the API.
func repoPath(repository string) (muster.Scope, error) {
	owner, repo, _ := strings.Cut(repository, "/")
	s := muster.Scope{Kind: muster.ScopeRepository, Owner: owner, Repo: repo}
	return s, s.Validate()
}

// route is the template of a route below a scope, in GitHub's own spelling.
func route(s muster.Scope, rest string) string {
	switch s.Kind {
	case muster.ScopeRepository:
		return "repos/{owner}/{repo}/" + rest
	case muster.ScopeEnterprise:
		return "enterprises/{enterprise}/" + rest
	}
	return "orgs/{org}/" + rest
}

func path(s muster.Scope, format string, args ...any) string {
	return s.Path() + "/" + fmt.Sprintf(format, args...)
}
