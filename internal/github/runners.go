package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

// The shapes that GitHub's answers have in the domain.
type (
	// JIT is muster.JIT.
	JIT = muster.JIT
	// Download is muster.RunnerDownload.
	Download = muster.RunnerDownload
)

// maxListPages bounds a list, at 100 a page: a scope has at most a few groups of
// 10,000 runners each.
const maxListPages = 500

// runner is GitHub's runner object.
type runner struct {
	ID     int64  `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Busy   *bool  `json:"busy"`
	Labels []struct {
		Name string `json:"name"`
	} `json:"labels"`
	Ephemeral bool `json:"ephemeral"`
}

// remote converts: a status that is not "online" counts as offline (S1-6), and a
// runner that is not said to be idle counts as busy (4-18).
func (r runner) remote() muster.RemoteRunner {
	out := muster.RemoteRunner{
		ID: r.ID, Name: r.Name, Online: r.Status == "online", Busy: r.Busy == nil || *r.Busy, Ephemeral: r.Ephemeral,
	}
	for _, l := range r.Labels {
		out.Labels = append(out.Labels, l.Name)
	}
	return out
}

// GenerateJIT registers a runner just in time and returns what it needs to
// connect. Group is the runner group's id; 0 means 1, GitHub's default group. Only
// the labels given are registered (4-12).
//
// The call is made once: CodeUnavailable leaves open whether the runner exists
// now, and a second call with the same name then gets CodeExists. Other codes:
// CodeInvalid for what GitHub cannot accept, CodeForbidden and CodeNotFound for a
// group that may not be used or a missing permission.
func (c *Client) GenerateJIT(ctx context.Context, s muster.Scope, name string, group int64, labels muster.Labels) (JIT, error) {
	labels = labels.Unique()
	switch err := labels.Validate(); {
	case err != nil:
		return JIT{}, &muster.Error{Code: muster.CodeInvalid, Message: muster.MessageOf(err), Err: classed(ErrRegistration, 0, nil)}
	case len(labels) == 0:
		return JIT{}, &muster.Error{Code: muster.CodeInvalid, Message: "a runner needs at least one label", Err: classed(ErrRegistration, 0, nil)}
	case !muster.ValidRunnerName(name):
		return JIT{}, &muster.Error{Code: muster.CodeInvalid, Message: "runner name " + clean(name) + " is not one that GitHub takes", Err: classed(ErrRegistration, 0, nil)}
	}
	var out struct {
		Runner runner `json:"runner"`
		Config string `json:"encoded_jit_config"`
	}
	r := request{
		what:   "register runner " + name + " at " + s.String(),
		class:  ErrRegistration,
		method: http.MethodPost,
		route:  route(s, "actions/runners/generate-jitconfig"),
		path:   path(s, "actions/runners/generate-jitconfig"),
		body: struct {
			Name   string   `json:"name"`
			Group  int64    `json:"runner_group_id"`
			Labels []string `json:"labels"`
		}{name, max(group, 1), labels},
		into:    &out,
		lane:    Critical,
		refused: map[int]muster.Code{http.StatusConflict: muster.CodeExists},

		registers: true,
		scope:     s,
	}
	if _, err := c.scoped(ctx, s, r); err != nil {
		return JIT{}, err
	}
	if out.Config == "" || out.Runner.ID == 0 {
		return JIT{}, &muster.Error{Code: muster.CodeUnavailable, Message: r.what + ": GitHub's answer has no configuration", Err: classed(ErrRegistration, 0, nil)}
	}
	return JIT{RunnerID: out.Runner.ID, Name: out.Runner.Name, Config: muster.Secret(out.Config)}, nil
}

// scoped makes a call as whoever may speak for the scope.
func (c *Client) scoped(ctx context.Context, s muster.Scope, r request) (*answer, error) {
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, who, r)
}

func (c *Client) scopedAs(ctx context.Context, s muster.Scope, r request) (*identity, error) {
	if err := s.Validate(); err != nil { // before any request (S1-20)
		return nil, &muster.Error{Code: muster.CodeInvalid, Message: r.what + ": " + muster.MessageOf(err), Err: classed(r.class, 0, nil)}
	}
	who, err := c.as(ctx, s)
	if err != nil {
		e := asError(err)
		return nil, &muster.Error{Code: e.Code, Message: r.what + ": " + e.Message, RetryAfter: e.RetryAfter, Err: classed(r.class, 0, nil)}
	}
	return who, nil
}

// RemoveRunner deregisters a runner. CodeBusy means that it runs a job and stays
// (4-17), CodeNotFound that it is gone already.
func (c *Client) RemoveRunner(ctx context.Context, s muster.Scope, id int64) error {
	_, err := c.scoped(ctx, s, request{
		what:    "remove a runner at " + s.String(),
		class:   ErrDeregistration,
		method:  http.MethodDelete,
		route:   route(s, "actions/runners/{runner_id}"),
		path:    path(s, "actions/runners/%d", id),
		lane:    Critical,
		refused: map[int]muster.Code{http.StatusUnprocessableEntity: muster.CodeBusy},
	})
	return err
}

// Runner looks up a runner by id; CodeNotFound if there is none (any more).
func (c *Client) Runner(ctx context.Context, s muster.Scope, id int64) (muster.RemoteRunner, error) {
	var out runner
	_, err := c.scoped(ctx, s, request{
		what:   "look up a runner at " + s.String(),
		class:  ErrProvisioning,
		method: http.MethodGet,
		route:  route(s, "actions/runners/{runner_id}"),
		path:   path(s, "actions/runners/%d", id),
		into:   &out,
		lane:   Normal,
	})
	if err == nil && out.ID == 0 {
		err = &muster.Error{Code: muster.CodeUnavailable, Message: fmt.Sprintf("look up a runner at %s: GitHub's answer has no id", s), Err: classed(ErrProvisioning, 0, nil)}
	}
	if err != nil {
		return muster.RemoteRunner{}, err
	}
	return out.remote(), nil
}

// RunnerByName looks up a runner by its name; CodeNotFound if there is none.
func (c *Client) RunnerByName(ctx context.Context, s muster.Scope, name string) (muster.RemoteRunner, error) {
	if !muster.ValidRunnerName(name) {
		return muster.RemoteRunner{}, muster.Errorf(muster.CodeInvalid, "runner name %q is not one that GitHub takes", clean(name))
	}
	// The filter is not trusted: old servers do not know it.
	found, err := c.list(ctx, s, "&name="+url.QueryEscape(name), func(r muster.RemoteRunner) bool { return r.Name == name })
	if err != nil {
		return muster.RemoteRunner{}, err
	}
	if len(found) == 0 {
		return muster.RemoteRunner{}, muster.Errorf(muster.CodeNotFound, "no runner %s is registered at %s", name, s)
	}
	return found[0], nil
}

// Runners lists every runner of the scope. A list that cannot be read to its end
// is an error, never a shorter list.
func (c *Client) Runners(ctx context.Context, s muster.Scope) ([]muster.RemoteRunner, error) {
	return c.list(ctx, s, "", func(muster.RemoteRunner) bool { return true })
}

func (c *Client) list(ctx context.Context, s muster.Scope, query string, want func(muster.RemoteRunner) bool) ([]muster.RemoteRunner, error) {
	var page struct {
		Runners *[]runner `json:"runners"`
	}
	r := request{
		what:   "list the runners of " + s.String(),
		method: http.MethodGet,
		route:  route(s, "actions/runners"),
		path:   path(s, "actions/runners?per_page=100%s", query),
		into:   &page,
		lane:   Normal,
	}
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return nil, err
	}
	found := []muster.RemoteRunner{}
	seen := map[int64]bool{} // a page can repeat what moved while we turned it
	complete := true
	err = c.pages(ctx, who, r, maxListPages, func() bool {
		if complete = page.Runners != nil; !complete {
			return false
		}
		for _, one := range *page.Runners {
			if remote := one.remote(); !seen[one.ID] && want(remote) {
				seen[one.ID] = true
				found = append(found, remote)
			}
		}
		page.Runners = nil
		return true
	})
	if err == nil && !complete {
		err = muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer has no list", r.what)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Downloads lists the archives of the official runner that GitHub offers.
func (c *Client) Downloads(ctx context.Context, s muster.Scope) ([]Download, error) {
	var list []struct {
		OS       string `json:"os"`
		Arch     string `json:"architecture"`
		URL      string `json:"download_url"`
		Filename string `json:"filename"`
		SHA256   string `json:"sha256_checksum"`
	}
	_, err := c.scoped(ctx, s, request{
		what:   "list the runner's downloads for " + s.String(),
		method: http.MethodGet,
		route:  route(s, "actions/runners/downloads"),
		path:   path(s, "actions/runners/downloads"),
		into:   &list,
		lane:   Normal,
	})
	if err != nil {
		return nil, err
	}
	var out []Download
	for _, d := range list {
		out = append(out, Download{OS: d.OS, Arch: d.Arch, URL: d.URL, Filename: d.Filename, SHA256: strings.ToLower(d.SHA256)})
	}
	return out, nil
}

// registrationMargin is how much life a cached registration token must have left:
// a machine has to reach config.sh with it.
const registrationMargin = 5 * time.Minute

// registrations holds registration tokens in memory until shortly before they
// end (S1-8). Nothing else ever keeps one (S1-100).
type registrations struct {
	mu     sync.Mutex
	tokens map[muster.Scope]registration
}

type registration struct {
	token   muster.Secret
	expires time.Time
}

func (r *registrations) get(s muster.Scope, now time.Time) (registration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tokens[s]
	if ok && now.Add(registrationMargin).After(t.expires) {
		delete(r.tokens, s)
		ok = false
	}
	return t, ok
}

func (r *registrations) put(s muster.Scope, t registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens[s] = t
}

// forget drops the tokens of an owner.
func (r *registrations) forget(owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.tokens {
		if ownerKey(s) == owner {
			delete(r.tokens, s)
		}
	}
}

// RegistrationToken returns a token for config.sh and when it ends. GitHub's
// tokens serve any number of runners for an hour; the same one is returned until
// five minutes before that (S1-8). It is to be used at once, for one runner: each
// call counts as a registration. It is never stored.
func (c *Client) RegistrationToken(ctx context.Context, s muster.Scope) (token muster.Secret, expires time.Time, err error) {
	if t, ok := c.registration.get(s, time.Now()); ok {
		if who := c.remembered(s); who != nil {
			if err := who.register(s, time.Now()); err != nil {
				return "", time.Time{}, c.refuse(request{what: "get a registration token for " + s.String(), class: ErrRegistrationToken}, err)
			}
		}
		return t.token, t.expires, nil
	}
	t, err := c.configToken(ctx, s, request{
		what: "get a registration token for " + s.String(), class: ErrRegistrationToken,
		route: route(s, "actions/runners/registration-token"), path: path(s, "actions/runners/registration-token"), registers: true, scope: s,
	})
	if err != nil {
		return "", time.Time{}, err
	}
	c.registration.put(s, t)
	return t.token, t.expires, nil
}

// configToken asks GitHub for a registration token.
func (c *Client) configToken(ctx context.Context, s muster.Scope, r request) (registration, error) {
	var out struct {
		Token     string       `json:"token"`
		ExpiresAt gh.Timestamp `json:"expires_at"`
	}
	r.method, r.into, r.lane = http.MethodPost, &out, Critical
	a, err := c.scoped(ctx, s, r)
	if err != nil {
		return registration{}, err
	}
	if !tokenText.MatchString(out.Token) {
		return registration{}, &muster.Error{Code: muster.CodeUnavailable, Message: r.what + ": GitHub's answer has no token", Err: classed(r.class, 0, nil)}
	}
	now := time.Now()
	return registration{token: muster.Secret(out.Token), expires: now.Add(out.ExpiresAt.Sub(dateOf(a.header, now)))}, nil
}
