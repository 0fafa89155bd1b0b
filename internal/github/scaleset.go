package github

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/actions/scaleset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/muster-ci/muster"
)

// messageTimeout bounds one wait for a message. GitHub answers after 50 s when
// there is none; a connection that died in silence must not hold up longer.
const messageTimeout = 90 * time.Second

// scaleSets are the clients of the scale-set protocol by set.
type scaleSets struct {
	mu      sync.Mutex
	clients map[scaleSetKey]*scaleSetClient
	wire    http.RoundTripper
}

type scaleSetKey struct {
	scope muster.Scope // in lower case
	name  string
}

// scaleSetClient speaks the scale-set protocol about one set, by GitHub's own
// client. That authenticates itself and repeats what failed, both in ways that
// know nothing of the App's budget, of clocks that are wrong, or of what must not
// be repeated; so this is the transport below it, and does both in its place.
type scaleSetClient struct {
	client *Client
	scope  muster.Scope
	name   string
	wire   http.RoundTripper
	set    *scaleset.Client
	// turn is held during a call: GitHub's client lets one call go at a time, and
	// whoever waits for it there cannot give up.
	turn chan struct{}

	mu     sync.Mutex
	id     int64 // of the set, 0 if not known
	paused time.Time
	// given is the token of the actions service that GitHub's client has, admin the
	// one that is sent for it.
	given, admin string
}

// scaleSet returns the client of a set.
func (c *Client) scaleSet(s muster.Scope, name string) (*scaleSetClient, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if !muster.ValidScaleSetName(name) {
		return nil, muster.Errorf(muster.CodeInvalid, "scale set name %q may have up to 64 letters, digits, '.', '-' and '_' only", clean(name))
	}
	key := scaleSetKey{scope: muster.Scope{Kind: s.Kind, Owner: strings.ToLower(s.Owner), Repo: strings.ToLower(s.Repo)}, name: strings.ToLower(name)}
	c.sets.mu.Lock()
	defer c.sets.mu.Unlock()
	if k := c.sets.clients[key]; k != nil {
		return k, nil
	}
	if c.sets.wire == nil {
		c.sets.wire = c.cfg.Transport
		if t, ok := c.cfg.Transport.(*http.Transport); ok {
			t = t.Clone()
			t.ResponseHeaderTimeout = 0 // a message may be waited for longer
			c.sets.wire = t
		}
		c.sets.clients = map[scaleSetKey]*scaleSetClient{}
	}
	k := &scaleSetClient{client: c, scope: s, name: name, wire: c.sets.wire, turn: make(chan struct{}, 1)}
	var err error
	// The token is never sent: RoundTrip answers the one request that would have it.
	k.set, err = scaleset.NewClientWithPersonalAccessToken(scaleset.NewClientWithPersonalAccessTokenConfig{
		GitHubConfigURL: webURL(c.base, s), PersonalAccessToken: "unused",
		SystemInfo: scaleset.SystemInfo{System: c.cfg.UserAgent, Subsystem: "listener"},
	}, k.option())
	if err != nil {
		return nil, muster.Errorf(muster.CodeInvalid, "no scale set can be at %s: %s", s, clean(err.Error()))
	}
	c.sets.clients[key] = k
	return k, nil
}

// option makes GitHub's client send everything through RoundTrip, once. Each of
// its parts needs an http client of its own: it changes what it is given.
func (k *scaleSetClient) option() scaleset.HTTPOption {
	r := retryablehttp.NewClient()
	r.RetryMax = 0
	r.ErrorHandler = func(resp *http.Response, err error, _ int) (*http.Response, error) {
		if err != nil {
			return nil, err // the call was given up when the answer came
		}
		return resp, nil // with its status, which a 5xx would not have otherwise
	}
	// It takes nothing but an *http.Transport, which can be told to leave all to another.
	t := &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	t.RegisterProtocol("http", k)
	t.RegisterProtocol("https", k)
	// Each call has its own time; a timeout here would cost a timer that outlives
	// answers that come when a call was just given up.
	r.HTTPClient = &http.Client{Transport: t, Timeout: -1}
	return scaleset.WithRetryableHTTPClint(r)
}

// webURL is where people see the scope: GitHub's client finds the API by it.
func webURL(api *url.URL, s muster.Scope) string {
	host := api.Host
	if strings.HasSuffix(host, ".ghe.com") || host == "api.github.com" {
		host = strings.TrimPrefix(host, "api.")
	}
	return (&url.URL{Scheme: api.Scheme, Host: host, Path: "/" + s.String()}).String()
}

// exchange is what is noted of the requests of one call.
type exchange struct {
	// reached is set when one went to the actions service or a queue; until then
	// the call can be repeated whatever it is.
	reached bool
	// The rest is of the last answer: kind and text are what a refusal says.
	status     int
	header     http.Header
	kind, text string
	// err is why no request could be made.
	err error
}

type exchangeKey struct{}

// RoundTrip implements http.RoundTripper for GitHub's client: it counts requests,
// answers for the registration of the client what the App's own calls bring, and
// renews a token that is refused.
func (k *scaleSetClient) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		x = &exchange{}
	}
	switch {
	case strings.HasSuffix(req.URL.Path, "/actions/runners/registration-token"):
		// register gets it when it needs one.
		return reply(req, http.StatusCreated, []byte(`{"token":"unused","expires_at":"9999-12-31T00:00:00Z"}`)), nil
	case strings.HasSuffix(req.URL.Path, "/actions/runner-registration"):
		body, token, err := k.register(req.Context(), x)
		if err != nil {
			x.err = err
			return nil, err
		}
		k.mu.Lock()
		k.given, k.admin = token, token
		k.mu.Unlock()
		return reply(req, http.StatusOK, body), nil
	}
	if !secure(req.URL) { // S1-17
		x.err = muster.Errorf(muster.CodeUnavailable, "GitHub's address of the scale set is not https: no token is sent there")
		return nil, x.err
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	x.reached = true
	for renewed := false; ; renewed = true {
		used, isAdmin := k.bearer(req.Header.Get("Authorization"))
		out := req.Clone(req.Context())
		if body != nil {
			out.Body = io.NopCloser(bytes.NewReader(body))
		}
		if isAdmin {
			out.Header.Set("Authorization", "Bearer "+used)
		}
		resp, err := k.exchange(out, x)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || !isAdmin || renewed {
			return resp, err
		}
		// GitHub's client renews the token by its end only; refused earlier, it would
		// use it for the rest of the hour. A 401 says that nothing was done.
		if err := k.renew(req.Context(), x, used); err != nil {
			x.err = err
			return nil, err
		}
	}
}

// bearer tells the token to send for the one that GitHub's client set. isAdmin is
// false for the tokens of queues, which it renews itself.
func (k *scaleSetClient) bearer(header string) (token string, isAdmin bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.admin, k.given != "" && header == "Bearer "+k.given
}

// renew gets another token for the actions service, unless somebody else did.
func (k *scaleSetClient) renew(ctx context.Context, x *exchange, refused string) error {
	k.mu.Lock()
	current := k.admin
	k.mu.Unlock()
	if current != refused {
		return nil
	}
	// A registration token of the same age may be refused as well.
	k.client.registration.forget(ownerKey(k.scope))
	_, token, err := k.register(ctx, x)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.admin = token
	return nil
}

// register makes the client known to the actions service. The answer names the
// service's address and the token for it.
func (k *scaleSetClient) register(ctx context.Context, x *exchange) (answer []byte, token string, err error) {
	c := k.client
	for try := 0; ; try++ {
		t, ok := c.registration.get(k.scope, time.Now())
		if !ok {
			t, err = c.configToken(ctx, k.scope, request{
				what: "get a registration token for " + k.scope.String(), class: ErrRegistrationToken,
				route: route(k.scope, "actions/runners/registration-token"), path: path(k.scope, "actions/runners/registration-token"),
			})
			if err != nil {
				return nil, "", err
			}
			c.registration.put(k.scope, t)
		}
		body, err := json.Marshal(map[string]string{"url": webURL(c.base, k.scope), "runner_event": "register"})
		if err != nil {
			return nil, "", err
		}
		to := c.base.JoinPath("actions/runner-registration")
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
		if err != nil {
			return nil, "", err
		}
		req.Header.Set("Authorization", "RemoteAuth "+t.token.Reveal())
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("User-Agent", c.cfg.UserAgent)
		resp, err := k.exchange(req, x)
		if err != nil {
			return nil, "", err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, "", err
		}
		if resp.StatusCode/100 == 2 {
			token, err := adminToken(answer)
			return answer, token, err
		}
		refused := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
		if refused {
			c.registration.forget(ownerKey(k.scope)) // it was taken back, or comes from before
		}
		// A new token is not known everywhere at once.
		if try == 2 || !refused && resp.StatusCode < 500 {
			return nil, "", k.refusal("register with the scale sets of "+k.scope.String(), nil, x)
		}
		if err := sleep(ctx, time.Duration(try+1)*500*time.Millisecond); err != nil {
			return nil, "", err
		}
	}
}

// adminToken checks an answer before GitHub's client reads it: a token without an
// end would make it panic.
func adminToken(answer []byte) (string, error) {
	var out struct {
		URL   string `json:"url"`
		Token string `json:"token"`
	}
	var claims jwt.RegisteredClaims
	if err := json.Unmarshal(bytes.TrimPrefix(answer, []byte("\xef\xbb\xbf")), &out); err != nil {
		return "", muster.Errorf(muster.CodeUnavailable, "GitHub's answer to the registration of the scale set is not the JSON that its own client reads")
	}
	if _, _, err := jwt.NewParser().ParseUnverified(out.Token, &claims); err != nil || claims.ExpiresAt == nil || out.URL == "" {
		return "", muster.Errorf(muster.CodeUnavailable, "GitHub's answer to the registration of the scale set has no usable token")
	}
	return out.Token, nil
}

// exchange sends one request and notes what came of it.
func (k *scaleSetClient) exchange(req *http.Request, x *exchange) (*http.Response, error) {
	observer, app := k.client.cfg.Observer, k.client.cfg.Name
	start := time.Now()
	resp, err := k.wire.RoundTrip(req)
	route := req.Method + " " + serviceRoute(req.URL)
	if err != nil {
		x.status = 0
		observer.Called(app, route, 0, time.Since(start))
		return nil, err
	}
	observer.Called(app, route, resp.StatusCode, time.Since(start))
	x.status, x.header, x.kind, x.text = resp.StatusCode, resp.Header, "", ""
	// All of it is read here: GitHub's client leaves an answer open whose call was
	// given up meanwhile.
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if resp.StatusCode < 300 {
		return resp, nil
	}
	var said struct {
		Kind    string `json:"typeName"`
		Message string `json:"message"`
	}
	if json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), &said) == nil {
		x.kind, x.text = said.Kind, said.Message
	}
	return resp, nil
}

// reply is an answer that no server gave.
func reply(req *http.Request, status int, body []byte) *http.Response {
	if req.Body != nil {
		req.Body.Close()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

var varies = regexp.MustCompile(`/(\d+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27})(/|$)`)

// serviceRoute is the template of an address of the actions service.
func serviceRoute(u *url.URL) string {
	if i := strings.Index(u.Path, "/_apis/"); i >= 0 {
		return varies.ReplaceAllString(strings.TrimSuffix(u.Path[i:], "/"), "/{id}$2")
	}
	if strings.HasSuffix(u.Path, "/actions/runner-registration") {
		return "/actions/runner-registration"
	}
	return "/scalesets/message" // queues are wherever the session says
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// scaleSetCall is one call by GitHub's client.
type scaleSetCall struct {
	what  string
	class error
	lane  Lane
	// registers is set for a call that makes a runner.
	registers bool
	// again is set when it may be made twice.
	again bool
	// alone is set when GitHub's client is to be called by nobody else meanwhile.
	alone bool
	limit time.Duration // of the whole, the client's timeout if 0
	do    func(ctx context.Context) error
}

// call makes a call and classifies what comes of it.
func (k *scaleSetClient) call(ctx context.Context, r scaleSetCall) error {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.limit, k.client.cfg.Timeout))
	defer cancel()
	who, err := k.client.as(ctx, k.scope)
	if err == nil {
		if refused := who.admit(r.lane, time.Now()); refused != nil {
			err = refused
		}
	}
	if err != nil {
		return k.client.refuse(request{what: r.what, class: r.class}, asError(err))
	}
	k.mu.Lock()
	wait := time.Until(k.paused)
	k.mu.Unlock()
	if wait > 0 {
		e := muster.Errorf(muster.CodeUnavailable, "GitHub wants no calls about the scale set for %s", wait.Round(time.Second))
		e.RetryAfter = wait
		return k.client.refuse(request{what: r.what, class: r.class}, e)
	}
	if r.alone {
		select {
		case k.turn <- struct{}{}:
			defer func() { <-k.turn }()
		case <-ctx.Done():
			return k.client.broken(caller, request{what: r.what, class: r.class}, ctx.Err())
		}
	}
	if r.registers {
		if refused := who.register(k.scope, time.Now()); refused != nil {
			return k.client.refuse(request{what: r.what, class: r.class}, refused)
		}
	}
	for try := 0; ; try++ {
		x := &exchange{}
		err := r.do(context.WithValue(ctx, exchangeKey{}, x))
		if err == nil {
			return nil
		}
		transient := x.err == nil && (x.status == 0 || x.status >= 500) && ctx.Err() == nil && retryAfter(x.header) <= 2*time.Second
		if transient && try < 2 && (r.again || !x.reached) && sleep(ctx, 250*time.Millisecond<<try) == nil {
			continue
		}
		return k.failed(caller, r, x, err)
	}
}

// failed is the error of a call.
func (k *scaleSetClient) failed(caller context.Context, r scaleSetCall, x *exchange, err error) *muster.Error {
	of := request{what: r.what, class: r.class}
	switch {
	case x.err != nil && caller.Err() == nil:
		if e, ok := errors.AsType[*muster.Error](x.err); ok {
			return k.client.refuse(of, e)
		}
		return k.client.broken(caller, of, x.err)
	case caller.Err() != nil || x.status == 0:
		return k.client.broken(caller, of, err)
	case x.status < 300:
		// It was done, and the answer cannot be read: empty, cut, or another's.
		return &muster.Error{Code: muster.CodeUnavailable, Message: r.what + ": GitHub's answer is not usable: " + k.client.clean(lastWords(err), ""), Err: classed(r.class, x.status, nil)}
	}
	return k.refusal(r.what, r.class, x)
}

// lastWords are what GitHub's client adds to a chain of its own steps.
func lastWords(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "failed("); i >= 0 {
		return text[i+len("failed"):]
	}
	return text
}

// refusal classifies what the actions service refused (github.md §5.7).
func (k *scaleSetClient) refusal(what string, class error, x *exchange) *muster.Error {
	said := cmp.Or(k.client.clean(x.text, ""), "without a message")
	e := muster.Errorf(muster.CodeInvalid, "%s: GitHub answered %d: %s", what, x.status, said)
	e.Err = classed(class, x.status, nil)
	is := func(name string) bool { return strings.Contains(x.kind, name) }
	switch s := x.status; {
	case is("AgentExistsException"):
		e.Code = muster.CodeExists
	case is("AgentNotFoundException"), is("RunnerScaleSetNotFoundException"):
		e.Code = muster.CodeNotFound
	case is("JobStillRunningException"):
		e.Code = muster.CodeBusy
	case is("SessionConflictException"):
		e.Code = muster.CodeConflict
	case is("SessionExpiredException"):
		e.Code = muster.CodeGone
	case s == http.StatusTooManyRequests || s == http.StatusForbidden && (retryAfter(x.header) > 0 || x.header.Get("X-RateLimit-Remaining") == "0"): // 4-16
		e.Code, e.RetryAfter = muster.CodeUnavailable, min(max(retryAfter(x.header), time.Second), longestPause)
		if retryAfter(x.header) == 0 {
			e.RetryAfter = time.Minute
		}
		k.mu.Lock()
		if until := time.Now().Add(e.RetryAfter); until.After(k.paused) {
			k.paused = until
		}
		k.mu.Unlock()
	case s == http.StatusUnauthorized:
		e.Code = muster.CodeUnauthenticated
	case s == http.StatusForbidden:
		e.Code = muster.CodeForbidden
	case s == http.StatusNotFound:
		e.Code = muster.CodeNotFound
	case s == http.StatusConflict:
		e.Code = muster.CodeConflict
	case s == http.StatusGone:
		e.Code = muster.CodeGone
	case s >= 500:
		e.Code, e.RetryAfter = muster.CodeUnavailable, min(retryAfter(x.header), longestPause)
	}
	return e
}

// remember keeps the set's id, 0 to forget it.
func (k *scaleSetClient) remember(id int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.id = id
}

func (k *scaleSetClient) known() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.id
}

// find looks for the set in a runner group; nil if it is not there.
func (k *scaleSetClient) find(ctx context.Context, group int64) (*scaleset.RunnerScaleSet, error) {
	var found *scaleset.RunnerScaleSet
	err := k.call(ctx, scaleSetCall{
		what: "look for scale set " + k.name + " at " + k.scope.String(), lane: Normal, again: true, alone: true,
		do: func(ctx context.Context) (err error) {
			found, err = k.set.GetRunnerScaleSet(ctx, int(group), k.name)
			return err
		},
	})
	return found, err
}

func scaleSetOf(s *scaleset.RunnerScaleSet) muster.ScaleSet {
	out := muster.ScaleSet{ID: int64(s.ID), Name: s.Name, Group: int64(s.RunnerGroupID), Statistics: statisticsOf(s.Statistics)}
	for _, l := range s.Labels {
		out.Labels = append(out.Labels, l.Name)
	}
	return out
}

// EnsureScaleSet finds the scale set of that name in a runner group (0 means 1,
// GitHub's default group), makes it if there is none, and gives it the labels.
// Without labels jobs reach it by its name. Other codes: CodeInvalid for what
// GitHub cannot accept, CodeForbidden and CodeNotFound for a missing permission or
// a group that may not be used.
func (c *Client) EnsureScaleSet(ctx context.Context, s muster.Scope, name string, group int64, labels muster.Labels) (muster.ScaleSet, error) {
	k, err := c.scaleSet(s, name)
	if err != nil {
		return muster.ScaleSet{}, err
	}
	if labels = labels.Unique(); len(labels) == 0 {
		labels = muster.Labels{name}
	}
	if err := labels.Validate(); err != nil {
		return muster.ScaleSet{}, err
	}
	group = max(group, 1)
	wish := &scaleset.RunnerScaleSet{Name: name, RunnerGroupID: int(group), RunnerSetting: scaleset.RunnerSetting{DisableUpdate: true}}
	for _, l := range labels {
		wish.Labels = append(wish.Labels, scaleset.Label{Name: l})
	}
	found, err := k.find(ctx, group)
	if err == nil && found == nil {
		err = k.call(ctx, scaleSetCall{
			what: "make scale set " + name + " at " + s.String(), lane: Normal, alone: true,
			do: func(ctx context.Context) (err error) {
				found, err = k.set.CreateRunnerScaleSet(ctx, wish)
				return err
			},
		})
		if err != nil {
			// Another control plane made it in the same moment, or the answer was lost.
			if again, err2 := k.find(ctx, group); err2 == nil && again != nil {
				found, err = again, nil
			}
		}
	}
	if err != nil {
		return muster.ScaleSet{}, err
	}
	if have := scaleSetOf(found); len(have.Labels.Missing(labels)) > 0 || len(labels.Missing(have.Labels)) > 0 {
		err = k.call(ctx, scaleSetCall{
			what: "change the labels of scale set " + name + " at " + s.String(), lane: Normal, again: true, alone: true,
			do: func(ctx context.Context) (err error) {
				found, err = k.set.UpdateRunnerScaleSet(ctx, found.ID, wish)
				return err
			},
		})
		if err != nil {
			return muster.ScaleSet{}, err
		}
	}
	if found.ID == 0 {
		return muster.ScaleSet{}, muster.Errorf(muster.CodeUnavailable, "GitHub's answer about scale set %s at %s has no id", name, s)
	}
	if !found.RunnerSetting.DisableUpdate {
		// Measured: the preview may forget it. Runners then update themselves once more.
		c.cfg.Logger.DebugContext(ctx, "scale set lets runners update themselves", "scale_set", name)
	}
	k.remember(int64(found.ID))
	return scaleSetOf(found), nil
}

// DeleteScaleSet deletes a scale set of a runner group (0 means 1); GitHub then
// has no runners for the jobs that it gave to it. One that is gone is no error.
func (c *Client) DeleteScaleSet(ctx context.Context, s muster.Scope, name string, group int64) error {
	k, err := c.scaleSet(s, name)
	if err != nil {
		return err
	}
	found, err := k.find(ctx, max(group, 1))
	if err != nil || found == nil {
		return err
	}
	err = k.call(ctx, scaleSetCall{
		what: "delete scale set " + name + " at " + s.String(), lane: Normal, again: true, alone: true,
		do: func(ctx context.Context) error { return k.set.DeleteRunnerScaleSet(ctx, found.ID) },
	})
	if muster.CodeOf(err) == muster.CodeNotFound {
		err = nil
	}
	if err == nil {
		k.remember(0)
	}
	return err
}

// GenerateScaleSetJIT registers a runner of a scale set just in time and returns
// what it needs to connect. The runner takes any job of the set (4-1).
//
// As with GenerateJIT the call is made once: CodeUnavailable leaves open whether
// the runner exists now, and a second call with the same name then gets
// CodeExists (4-11). It is CodeUnavailable, too, until EnsureScaleSet has found the
// set, and when GitHub does not know it any more.
func (c *Client) GenerateScaleSetJIT(ctx context.Context, s muster.Scope, set, runner string) (muster.JIT, error) {
	k, err := c.scaleSet(s, set)
	if err == nil && !muster.ValidRunnerName(runner) {
		err = muster.Errorf(muster.CodeInvalid, "runner name %s is not one that GitHub takes", clean(runner))
	}
	if err != nil {
		return muster.JIT{}, &muster.Error{Code: muster.CodeInvalid, Message: muster.MessageOf(err), Err: classed(ErrRegistration, 0, nil)}
	}
	what := "register runner " + runner + " with scale set " + set + " at " + s.String()
	id := k.known()
	if id == 0 {
		return muster.JIT{}, &muster.Error{Code: muster.CodeUnavailable, Message: what + ": the set was not found yet", RetryAfter: 2 * time.Second, Err: classed(ErrRegistration, 0, nil)}
	}
	var out *scaleset.RunnerScaleSetJitRunnerConfig
	err = k.call(ctx, scaleSetCall{
		what: what, class: ErrRegistration, lane: Critical, alone: true, registers: true,
		do: func(ctx context.Context) (err error) {
			out, err = k.set.GenerateJitRunnerConfig(ctx, &scaleset.RunnerScaleSetJitRunnerSetting{Name: runner, WorkFolder: "_work"}, int(id))
			return err
		},
	})
	if muster.CodeOf(err) == muster.CodeNotFound {
		k.remember(0) // the listener makes it anew
		e := asError(err)
		return muster.JIT{}, &muster.Error{Code: muster.CodeUnavailable, Message: e.Message, RetryAfter: 5 * time.Second, Err: e.Err}
	}
	if err != nil {
		return muster.JIT{}, err
	}
	if out == nil || out.Runner == nil || out.Runner.ID == 0 || out.EncodedJITConfig == "" {
		return muster.JIT{}, &muster.Error{Code: muster.CodeUnavailable, Message: what + ": GitHub's answer has no configuration", Err: classed(ErrRegistration, 0, nil)}
	}
	return muster.JIT{RunnerID: int64(out.Runner.ID), Name: out.Runner.Name, Config: muster.Secret(out.EncodedJITConfig)}, nil
}

// ScaleSetRunner looks up a runner by its name through a scale set; CodeNotFound
// if there is none. What it tells is its id and name only; Runner tells the rest.
func (c *Client) ScaleSetRunner(ctx context.Context, s muster.Scope, set, runner string) (muster.RemoteRunner, error) {
	k, err := c.scaleSet(s, set)
	if err != nil {
		return muster.RemoteRunner{}, err
	}
	if !muster.ValidRunnerName(runner) {
		return muster.RemoteRunner{}, muster.Errorf(muster.CodeInvalid, "runner name %s is not one that GitHub takes", clean(runner))
	}
	var out *scaleset.RunnerReference
	err = k.call(ctx, scaleSetCall{
		what: "look up runner " + runner + " at " + s.String(), class: ErrProvisioning, lane: Normal, again: true, alone: true,
		do: func(ctx context.Context) (err error) {
			out, err = k.set.GetRunnerByName(ctx, runner)
			return err
		},
	})
	if err != nil {
		return muster.RemoteRunner{}, err
	}
	if out == nil || out.Name != runner {
		return muster.RemoteRunner{}, muster.Errorf(muster.CodeNotFound, "no runner %s is registered at %s", runner, s)
	}
	return muster.RemoteRunner{ID: int64(out.ID), Name: out.Name, Ephemeral: true}, nil
}

// RemoveScaleSetRunner deregisters a runner of a scale set. CodeBusy means that it
// runs a job and stays (4-17), CodeNotFound that it is gone already.
func (c *Client) RemoveScaleSetRunner(ctx context.Context, s muster.Scope, set string, id int64) error {
	k, err := c.scaleSet(s, set)
	if err != nil {
		return err
	}
	return k.call(ctx, scaleSetCall{
		what: "remove a runner of scale set " + set + " at " + s.String(), class: ErrDeregistration, lane: Critical, again: true, alone: true,
		do: func(ctx context.Context) error { return k.set.RemoveRunner(ctx, id) },
	})
}

// ScaleSetSession is the one session in which GitHub tells of a scale set's jobs.
// It is used by one goroutine at a time.
type ScaleSetSession struct {
	set     *scaleSetClient
	session *scaleset.MessageSessionClient
}

// OpenScaleSetSession opens the session of a set that EnsureScaleSet found. owner
// names the control plane to whoever is refused because of it. CodeConflict means
// that another session is open: GitHub ends that of a process that died within
// about a minute. CodeNotFound means that the set is gone.
func (c *Client) OpenScaleSetSession(ctx context.Context, s muster.Scope, set, owner string) (*ScaleSetSession, error) {
	k, err := c.scaleSet(s, set)
	if err != nil {
		return nil, err
	}
	id := k.known()
	if id == 0 {
		return nil, muster.Errorf(muster.CodeNotFound, "scale set %s at %s was not found yet", set, s)
	}
	out := &ScaleSetSession{set: k}
	what := "open the session of scale set " + set + " at " + s.String()
	err = k.call(ctx, scaleSetCall{
		what: what, lane: Normal, alone: true,
		do: func(ctx context.Context) (err error) {
			out.session, err = k.set.MessageSessionClient(ctx, int(id), owner, k.option())
			return err
		},
	})
	if muster.CodeOf(err) == muster.CodeNotFound {
		k.remember(0)
	}
	if err != nil {
		return nil, err
	}
	if out.session.Session().MessageQueueURL == "" {
		// Seen in production (ARC issue 4370). The session would block the next one.
		if err := out.Close(ctx); err != nil {
			c.cfg.Logger.DebugContext(ctx, "session without a queue stays open", "scale_set", set, "error", err)
		}
		return nil, muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer has no address for messages", what)
	}
	return out, nil
}

// Statistics are those that came with the session, or with its last renewal; nil
// if none did.
func (s *ScaleSetSession) Statistics() *muster.ScaleSetStatistics {
	return statisticsOf(s.session.Session().Statistics)
}

func statisticsOf(s *scaleset.RunnerScaleSetStatistic) *muster.ScaleSetStatistics {
	if s == nil {
		return nil
	}
	return &muster.ScaleSetStatistics{
		Available: s.TotalAvailableJobs, Acquired: s.TotalAcquiredJobs, Assigned: s.TotalAssignedJobs, Running: s.TotalRunningJobs,
		Registered: s.TotalRegisteredRunners, Busy: s.TotalBusyRunners, Idle: s.TotalIdleRunners,
	}
}

// addressed is CodeGone for a session that lost the address of its messages by a
// renewal, as sessions also begin without one (ARC issue 4370).
func (s *ScaleSetSession) addressed() error {
	if s.session.Session().MessageQueueURL == "" {
		return muster.Errorf(muster.CodeGone, "the session of scale set %s has no address for messages any more", s.set.name)
	}
	return nil
}

// Message waits up to about a minute for a message; ok is false if none came.
// last is the last one that was acknowledged, 0 for none. capacity is how many
// runners the set may have in total; at 0 GitHub keeps jobs from the set for ever
// (peers.md §5.6), so it must be 1 or more. CodeGone, CodeNotFound and
// CodeUnauthenticated mean that the session is over.
func (s *ScaleSetSession) Message(ctx context.Context, last int64, capacity int) (m muster.ScaleSetMessage, ok bool, err error) {
	if capacity < 1 {
		return m, false, muster.Errorf(muster.CodeInvalid, "a scale set must announce a capacity of 1 or more")
	}
	if err := s.addressed(); err != nil {
		return m, false, err
	}
	var got *scaleset.RunnerScaleSetMessage
	err = s.set.call(ctx, scaleSetCall{
		what: "wait for a message of scale set " + s.set.name, lane: Normal, limit: messageTimeout,
		do: func(ctx context.Context) (err error) {
			got, err = s.session.GetMessage(ctx, int(last), capacity)
			return err
		},
	})
	if err != nil || got == nil {
		return m, false, err
	}
	m = muster.ScaleSetMessage{ID: int64(got.MessageID), Statistics: statisticsOf(got.Statistics)}
	for _, j := range got.JobAvailableMessages {
		m.Jobs = append(m.Jobs, jobOf(j.JobMessageBase, muster.ScaleSetJobAvailable))
	}
	for _, j := range got.JobAssignedMessages {
		m.Jobs = append(m.Jobs, jobOf(j.JobMessageBase, muster.ScaleSetJobAssigned))
	}
	for _, j := range got.JobStartedMessages {
		job := jobOf(j.JobMessageBase, muster.ScaleSetJobStarted)
		job.RunnerID, job.RunnerName = int64(j.RunnerID), j.RunnerName
		m.Jobs = append(m.Jobs, job)
	}
	for _, j := range got.JobCompletedMessages {
		job := jobOf(j.JobMessageBase, muster.ScaleSetJobCompleted)
		job.RunnerID, job.RunnerName, job.Result = int64(j.RunnerID), j.RunnerName, j.Result
		m.Jobs = append(m.Jobs, job)
	}
	return m, true, nil
}

func jobOf(b scaleset.JobMessageBase, state muster.ScaleSetJobState) muster.ScaleSetJob {
	return muster.ScaleSetJob{
		ID: b.JobID, State: state, RequestID: b.RunnerRequestID, Repository: b.OwnerName + "/" + b.RepositoryName, RunID: b.WorkflowRunID,
		Name: b.JobDisplayName, Event: b.EventName, Labels: b.RequestLabels,
		QueuedAt: b.QueueTime.UTC(), AssignedAt: b.ScaleSetAssignTime.UTC(), StartedAt: b.RunnerAssignTime.UTC(), CompletedAt: b.FinishTime.UTC(),
	}
}

// Acknowledge ends a message: it does not come again. One that is gone is no error.
func (s *ScaleSetSession) Acknowledge(ctx context.Context, message int64) error {
	if err := s.addressed(); err != nil {
		return err
	}
	err := s.set.call(ctx, scaleSetCall{
		what: "acknowledge a message of scale set " + s.set.name, lane: Critical, again: true,
		do: func(ctx context.Context) error { return s.session.DeleteMessage(ctx, int(message)) },
	})
	if muster.CodeOf(err) == muster.CodeNotFound {
		return nil
	}
	return err
}

// Acquire asks for available jobs by their RequestID and returns those that the
// set got; others may have been quicker.
func (s *ScaleSetSession) Acquire(ctx context.Context, requests []int64) (got []int64, err error) {
	err = s.set.call(ctx, scaleSetCall{
		what: "acquire jobs for scale set " + s.set.name, lane: Critical, again: true,
		do: func(ctx context.Context) (err error) {
			got, err = s.session.AcquireJobs(ctx, requests)
			return err
		},
	})
	return got, err
}

// Close ends the session, so that the next one is not refused.
func (s *ScaleSetSession) Close(ctx context.Context) error {
	err := s.set.call(ctx, scaleSetCall{
		what: "close the session of scale set " + s.set.name, lane: Critical, again: true,
		do: func(ctx context.Context) error { return s.session.Close(ctx) },
	})
	if code := muster.CodeOf(err); code == muster.CodeNotFound || code == muster.CodeGone {
		return nil
	}
	return err
}
