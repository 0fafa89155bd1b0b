package githubsim

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// identity is who sent a request. All fields empty is nobody.
type identity struct {
	app          *app          // of an App's JWT
	installation *installation // of an installation token
	user         string        // of a personal access token
	token        *token
	secret       string // as sent; part of the ETag
}

func (i identity) name() string {
	switch {
	case i.app != nil:
		return "app/" + strconv.FormatInt(i.app.id, 10)
	case i.installation != nil:
		return "installation/" + strconv.FormatInt(i.installation.id, 10)
	case i.user != "":
		return "user/" + i.user
	}
	return "anonymous"
}

// The texts that @octokit/auth-app takes for clock skew, word for word.
const (
	expTooFar  = "'Expiration time' claim ('exp') is too far in the future"
	expInvalid = "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"
	iatInvalid = "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
	notAJWT    = "A JSON web token could not be decoded"
)

func unauthorized(message string) error { return errorf(http.StatusUnauthorized, "%s", message) }

// credentials splits the Authorization header; the scheme is lower-case.
func credentials(r *http.Request) (scheme, secret string) {
	h := r.Header.Get("Authorization")
	if user, password, ok := r.BasicAuth(); ok {
		if password == "" {
			return "token", user
		}
		return "token", password
	}
	scheme, secret, _ = strings.Cut(h, " ")
	return strings.ToLower(scheme), strings.TrimSpace(secret)
}

// identify finds out who calls. The caller holds mu.
func (c *call) identify() error {
	scheme, secret := credentials(c.r)
	c.who.secret = secret
	if secret == "" || c.route.who == anyone && scheme == "remoteauth" {
		if c.route.who != anyone {
			return unauthorized("Requires authentication")
		}
		return nil
	}
	if scheme != "bearer" && scheme != "token" {
		return unauthorized("Bad credentials")
	}
	if c.route.who == appOnly || c.route.who == anyone && looksLikeJWT(secret) {
		a, err := c.s.verifyAppJWT(secret, c.now)
		if err != nil {
			return err
		}
		c.who.app = a
		return nil
	}
	return c.identifyToken(secret)
}

func looksLikeJWT(secret string) bool {
	return strings.Count(secret, ".") == 2 && !strings.HasPrefix(secret, "ghs_")
}

func (c *call) identifyToken(secret string) error {
	t := c.s.tokens[secret]
	if t == nil || t.revoked || !t.expires.IsZero() && !c.now.Before(t.expires) || c.now.Before(t.validFrom) {
		return unauthorized("Bad credentials")
	}
	c.who.token, c.who.user, c.who.installation = t, t.user, t.installation
	if in := t.installation; in != nil {
		if in.deleted {
			return unauthorized("Bad credentials")
		}
		if !in.suspendedAt.IsZero() {
			return errorf(http.StatusForbidden, "This installation has been suspended")
		}
	}
	return nil
}

// verifyAppJWT checks an App's token as GitHub does. The caller holds mu.
func (s *Server) verifyAppJWT(token string, now time.Time) (*app, error) {
	signed, signature, claims, err := splitJWT(token)
	if err != nil {
		return nil, unauthorized(notAJWT)
	}
	iat, isInteger := seconds(claims["iat"])
	if !isInteger || iat > now.Unix() {
		return nil, unauthorized(iatInvalid)
	}
	exp, isNumber := seconds(claims["exp"])
	if !isNumber || exp <= now.Unix() {
		return nil, unauthorized(expInvalid)
	}
	if exp > now.Add(10*time.Minute).Unix() {
		return nil, unauthorized(expTooFar)
	}
	iss := fmt.Sprint(claims["iss"])
	if claims["iss"] == nil || iss == "" {
		return nil, unauthorized("'Issuer' claim ('iss') must be an Integer")
	}
	a := s.appsByClient[iss]
	if id, err := strconv.ParseInt(iss, 10, 64); err == nil {
		a = s.apps[id]
	}
	if a == nil {
		return nil, errorf(http.StatusNotFound, "Integration not found")
	}
	if !verifyRS256(&a.key.PublicKey, signed, signature) {
		return nil, unauthorized(notAJWT)
	}
	return a, nil
}

// splitJWT takes an RS256 token apart without verifying it.
func splitJWT(token string) (signed string, signature []byte, claims object, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", nil, nil, fmt.Errorf("a token has three parts, not %d", len(parts))
	}
	var head struct {
		Alg string `json:"alg"`
	}
	for i, into := range []any{&head, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return "", nil, nil, err
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			return "", nil, nil, err
		}
	}
	if head.Alg != "RS256" {
		return "", nil, nil, fmt.Errorf("algorithm %q is not RS256", head.Alg)
	}
	signature, err = base64.RawURLEncoding.DecodeString(parts[2])
	return parts[0] + "." + parts[1], signature, claims, err
}

func verifyRS256(key *rsa.PublicKey, signed string, signature []byte) bool {
	sum := sha256.Sum256([]byte(signed))
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
}

// seconds reads a NumericDate; fractions are cut off.
func seconds(claim any) (int64, bool) {
	n, isNumber := claim.(json.Number)
	if !isNumber {
		return 0, false
	}
	f, err := n.Float64()
	if err != nil || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// authorize finds what the path names and checks that the caller may do this with
// it. The caller holds mu.
func (c *call) authorize() error {
	switch c.route.who {
	case anyone, appOnly:
		return c.resolve()
	case people:
		if c.who.user == "" {
			return c.forbidden()
		}
	case tokenApp:
		if c.who.installation == nil {
			return errorf(http.StatusForbidden, "You must authenticate with an installation access token in order to list repositories for an installation.")
		}
		return nil
	}
	if err := c.resolve(); err != nil {
		return err
	}
	if c.who.user != "" {
		return c.authorizeUser()
	}
	if err := c.visible(); err != nil {
		return err
	}
	if !c.permitted() {
		return c.forbidden()
	}
	return nil
}

func (c *call) forbidden() error {
	return errorf(http.StatusForbidden, "Resource not accessible by integration")
}

// resolve looks up the owner, repository or enterprise that the path names.
func (c *call) resolve() error {
	s, r := c.s, c.r
	if owner := r.PathValue("owner"); owner != "" {
		repo := s.repository(owner + "/" + r.PathValue("repo"))
		if repo == nil {
			return notFound()
		}
		c.repo, c.account, c.scope = repo, repo.owner, repo.scope
	}
	if org := r.PathValue("org"); org != "" {
		a := s.accounts[strings.ToLower(org)]
		if a == nil || a.kind != organization {
			return notFound()
		}
		c.account, c.scope = a, a.scope
	}
	if slug := r.PathValue("enterprise"); slug != "" {
		a := s.enterprises[strings.ToLower(slug)]
		if a == nil {
			return notFound()
		}
		c.account, c.scope = a, a.scope
	}
	return nil
}

// visible says 404 for what the installation cannot see.
func (c *call) visible() error {
	in := c.who.installation
	switch {
	case c.account == nil:
		return nil
	case c.account.kind == enterprise:
		return c.forbidden()
	case in.account != c.account:
		return notFound()
	case c.repo != nil && !c.who.token.sees(c.repo):
		if !c.repo.private && c.r.Method == http.MethodGet {
			return c.forbidden()
		}
		return notFound()
	}
	return nil
}

// permitted checks the token's permissions against the route's alternatives.
func (c *call) permitted() bool {
	if len(c.route.needs) == 0 {
		return true
	}
	return slices.ContainsFunc(c.route.needs, func(set string) bool {
		for need := range strings.SplitSeq(set, ",") {
			name, level, _ := strings.Cut(need, "=")
			if grade(c.who.token.permissions[name]) < grade(level) {
				return false
			}
		}
		return true
	})
}

func grade(level string) int {
	return slices.Index([]string{"", "read", "write", "admin"}, level)
}

// authorizeUser checks the scopes of a personal access token. The simulator's
// users are administrators everywhere.
func (c *call) authorizeUser() error {
	if len(c.route.scopes) == 0 {
		return nil
	}
	for _, scope := range c.route.scopes {
		if slices.Contains(c.who.token.scopes, scope) {
			return nil
		}
	}
	e := errorf(http.StatusForbidden, "Must have admin rights to Repository.")
	e.header = http.Header{
		"X-Accepted-Oauth-Scopes": {strings.Join(c.route.scopes, ", ")},
		"X-Oauth-Scopes":          {strings.Join(c.who.token.scopes, ", ")},
	}
	return e
}
