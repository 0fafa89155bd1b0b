package github

import (
	"cmp"
	"context"
	"crypto/rsa"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

const (
	// GitHub takes a JWT whose end is at most 10 minutes ahead of its own clock,
	// and recommends a start 60 s in the past (docs.github.com, "Generating a JWT
	// for a GitHub App").
	jwtBackdate = 60 * time.Second
	jwtLife     = 9 * time.Minute
	// jwtReuse is how long one JWT is used: signing costs about a millisecond.
	jwtReuse = 4 * time.Minute
	// tokenMargin is how long before its end an installation token is renewed; it
	// lives for an hour.
	tokenMargin = 5 * time.Minute
	// tokenSpread is how long GitHub may take to make a new token known to all of
	// its servers: within that time a 401 says nothing.
	tokenSpread = 5 * time.Second
	// absentFor is how long the answer "not installed" is believed.
	absentFor = 30 * time.Second
)

// tokenText is what a credential may look like. Its length is not assumed:
// installation tokens have 40 or more than 500 characters.
var tokenText = regexp.MustCompile(`\A[A-Za-z0-9_.\-]{10,}\z`)

// identity is one way of being known to GitHub, with a rate limit of its own:
// the App, one installation of it, or a token.
type identity struct {
	budget
	installation int64
	account      string

	lock       chan struct{} // held while the credential is renewed
	mu         sync.Mutex
	credential muster.Secret
	born, ends time.Time
	proven     bool // the credential was accepted at least once
}

func (c *Client) newIdentity(installation int64, account string) *identity {
	return &identity{
		budget:       newBudget(c.cfg),
		installation: installation,
		account:      account,
		lock:         make(chan struct{}, 1),
	}
}

// current returns the credential if it is still good, "" if it has to be renewed.
func (w *identity) current(now time.Time) muster.Secret {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credential != "" && (w.ends.IsZero() || now.Before(w.ends)) {
		return w.credential
	}
	return ""
}

func (w *identity) set(credential muster.Secret, now, ends time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.credential, w.born, w.ends, w.proven = credential, now, ends, false
}

// accepted notes that GitHub knows the credential.
func (w *identity) accepted(credential muster.Secret) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credential == credential {
		w.proven = true
	}
}

// discard forgets a credential unless another one has taken its place.
func (w *identity) discard(credential muster.Secret) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credential == credential {
		w.credential = ""
	}
}

// refused forgets a credential, unless it is so new that GitHub may not know it
// everywhere yet: then it returns young.
func (w *identity) refused(credential muster.Secret, now time.Time) (young bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credential != credential {
		return false // somebody else renewed it meanwhile
	}
	if !w.proven && now.Sub(w.born) < tokenSpread {
		return true
	}
	w.credential = ""
	return false
}

// credential returns what proves that a call comes from who, renewing it first
// if it is about to end. Concurrent callers share one renewal.
func (c *Client) credential(ctx context.Context, who *identity) (muster.Secret, error) {
	if credential := who.current(time.Now()); credential != "" {
		return credential, nil
	}
	select {
	case who.lock <- struct{}{}:
		defer func() { <-who.lock }()
	case <-ctx.Done():
		return "", &muster.Error{Code: muster.CodeUnavailable, Message: "GitHub did not give a token in time", Err: ctx.Err()}
	}
	now := time.Now()
	if credential := who.current(now); credential != "" {
		return credential, nil
	}
	if who == c.app {
		credential, err := c.key.sign(now)
		if err != nil {
			return "", err
		}
		who.set(credential, now, now.Add(jwtReuse))
		return credential, nil
	}
	if who == c.token {
		return "", muster.Errorf(muster.CodeUnauthenticated, "GitHub refused the token of %s: it is wrong, expired or revoked", c.name())
	}
	var t struct {
		Token     string       `json:"token"`
		ExpiresAt gh.Timestamp `json:"expires_at"`
	}
	a, err := c.send(ctx, c.app, request{
		what:   fmt.Sprintf("get a token for the installation on %s", who.account),
		method: http.MethodPost,
		route:  "app/installations/{installation_id}/access_tokens",
		path:   fmt.Sprintf("app/installations/%d/access_tokens", who.installation),
		into:   &t,
		lane:   Critical,
		nested: true,
	})
	if err != nil {
		if muster.CodeOf(err) == muster.CodeNotFound {
			c.Forget(who.account) // uninstalled, or installed anew under another id
		}
		return "", err
	}
	if !tokenText.MatchString(t.Token) {
		return "", muster.Errorf(muster.CodeUnavailable, "GitHub gave no usable token for the installation on %s", who.account)
	}
	// Its life is measured by GitHub's clock, as ours may be wrong.
	life := t.ExpiresAt.Sub(dateOf(a.header, now))
	if life <= 0 || life > 24*time.Hour {
		life = time.Hour
	}
	now = time.Now()
	who.set(muster.Secret(t.Token), now, now.Add(max(life-tokenMargin, life/2)))
	return muster.Secret(t.Token), nil
}

// What renew did about a 401.
const (
	giveUp  = iota // the call will not succeed
	waited         // the same credential may be known by now
	renewed        // the next credential is another one
)

// renew decides what to do about a 401.
func (c *Client) renew(ctx context.Context, who *identity, refused muster.Secret, header http.Header) int {
	switch who {
	case c.token:
		return giveUp
	case c.app:
		theirs := dateOf(header, time.Time{})
		if !badTimes(refused, theirs) {
			return giveUp
		}
		c.key.setClock(theirs, time.Now())
		who.discard(refused)
		return renewed
	}
	if !who.refused(refused, time.Now()) {
		return renewed
	}
	select {
	case <-time.After(time.Second):
		return waited
	case <-ctx.Done():
		return giveUp
	}
}

// dateOf returns the time of GitHub's clock, or otherwise.
func dateOf(h http.Header, otherwise time.Time) time.Time {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		return t
	}
	return otherwise
}

// as returns the identity that may speak for a scope's owner.
func (c *Client) as(ctx context.Context, s muster.Scope) (*identity, error) {
	if c.token != nil {
		return c.token, nil
	}
	key := ownerKey(s)
	if who, err := c.known(key); who != nil || err != nil {
		return who, err
	}
	select {
	case c.lookup <- struct{}{}:
		defer func() { <-c.lookup }()
	case <-ctx.Done():
		return nil, &muster.Error{Code: muster.CodeUnavailable, Message: "GitHub did not answer in time", Err: ctx.Err()}
	}
	if who, err := c.known(key); who != nil || err != nil { // found while we waited
		return who, err
	}
	id, err := c.find(ctx, s)
	if fallback := cmp.Or(c.cfg.Installations[key], c.cfg.InstallationID); muster.CodeOf(err) == muster.CodeNotFound && fallback != 0 {
		id, err = fallback, nil
	}
	if muster.CodeOf(err) == muster.CodeNotFound {
		c.mu.Lock()
		c.absent[key] = time.Now()
		c.mu.Unlock()
		return nil, c.notInstalled(key)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.installed[key] = id
	delete(c.absent, key)
	return c.installation(id, key), nil
}

func ownerKey(s muster.Scope) string {
	if s.Kind == muster.ScopeEnterprise {
		return "enterprises/" + strings.ToLower(s.Owner)
	}
	return strings.ToLower(s.Owner)
}

func (c *Client) notInstalled(owner string) error {
	return muster.Errorf(muster.CodeNotFound, "the GitHub App %s is not installed on %s: install it there", c.name(), owner)
}

// known answers from memory: nil, nil means that GitHub has to be asked.
func (c *Client) known(key string) (*identity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.installed[key]; ok {
		return c.installation(id, key), nil
	}
	if said, ok := c.absent[key]; ok && time.Since(said) < absentFor {
		return nil, c.notInstalled(key)
	}
	return nil, nil
}

// installation returns the identity of an installation. c.mu is held.
func (c *Client) installation(id int64, account string) *identity {
	who := c.installations[id]
	if who == nil {
		who = c.newIdentity(id, account)
		c.installations[id] = who
	}
	return who
}

// find asks GitHub for the installation that covers a scope.
func (c *Client) find(ctx context.Context, s muster.Scope) (int64, error) {
	var in struct {
		ID int64 `json:"id"`
	}
	ask := func(s muster.Scope, route, path string) error {
		_, err := c.send(ctx, c.app, request{
			what:   "find the App's installation on " + s.String(),
			method: http.MethodGet, route: route, path: path, into: &in, lane: Critical,
		})
		return err
	}
	err := ask(s, route(s, "installation"), s.Path()+"/installation")
	if s.Kind == muster.ScopeOrganization && muster.CodeOf(err) == muster.CodeNotFound {
		err = ask(s, "users/{username}/installation", "users/"+s.Owner+"/installation")
	}
	if err == nil && in.ID == 0 {
		err = muster.Errorf(muster.CodeUnavailable, "GitHub named no installation for %s", s)
	}
	return in.ID, err
}

// Forget drops what is known about an owner's installation: it was created,
// deleted or changed (4-15). Owner is a login, or "enterprises/" and a slug. Safe
// for concurrent use.
func (c *Client) Forget(owner string) {
	key := strings.ToLower(owner)
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.installed[key]; ok {
		delete(c.installations, id)
	}
	delete(c.installed, key)
	delete(c.absent, key)
	c.registration.forget(key)
}

// signer makes the App's JWTs.
type signer struct {
	key    *rsa.PrivateKey
	issuer string

	mu   sync.Mutex
	skew time.Duration // GitHub's clock minus ours
}

func newSigner(cfg Config) (*signer, error) {
	issuer := cfg.ClientID
	if issuer == "" && cfg.AppID != 0 {
		issuer = strconv.FormatInt(cfg.AppID, 10)
	}
	if issuer == "" {
		return nil, muster.Errorf(muster.CodeInvalid, "the GitHub App %q has neither a client id nor an App id, and no token", cfg.Name)
	}
	pem := strings.ReplaceAll(cfg.PrivateKey.Reveal(), `\n`, "\n")
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(pem))
	if err != nil {
		// The parser's own text is left out: it may quote what it read.
		return nil, muster.Errorf(muster.CodeInvalid, "the private key of the GitHub App %q is no RSA key in PEM (PKCS#1 or PKCS#8)", cfg.Name)
	}
	return &signer{key: key, issuer: issuer}, nil
}

func (s *signer) sign(now time.Time) (muster.Secret, error) {
	s.mu.Lock()
	start := now.Add(s.skew - jwtBackdate)
	s.mu.Unlock()
	text, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    s.issuer,
		IssuedAt:  jwt.NewNumericDate(start),
		ExpiresAt: jwt.NewNumericDate(start.Add(jwtLife)),
	}).SignedString(s.key)
	if err != nil {
		return "", muster.Errorf(muster.CodeInternal, "the App's JWT could not be signed")
	}
	return muster.Secret(text), nil
}

// setClock takes over GitHub's clock.
func (s *signer) setClock(theirs, ours time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = theirs.Sub(ours)
}

// badTimes reports whether a JWT of ours was to be refused for its times by
// somebody whose clock shows theirs, as GitHub's Date header tells.
func badTimes(token muster.Secret, theirs time.Time) bool {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token.Reveal(), &claims); err != nil || theirs.IsZero() {
		return false
	}
	return claims.IssuedAt.After(theirs) || !claims.ExpiresAt.After(theirs) || claims.ExpiresAt.Sub(theirs) > 10*time.Minute
}
