package githubsim

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// token is an installation token or a personal access token.
type token struct {
	installation *installation
	permissions  map[string]string
	repos        map[int64]bool // nil: all of the installation's
	user         string
	scopes       []string
	validFrom    time.Time
	expires      time.Time // zero: never
	revoked      bool
}

func (t *token) sees(r *repository) bool {
	return t.installation.covers(r) && (t.repos == nil || t.repos[r.id])
}

// maxNarrowing is the most repositories that one token can be narrowed to.
const maxNarrowing = 500

func (s *Server) createToken(c *call, in *installation) (reply, error) {
	var want struct {
		Repositories  []string          `json:"repositories"`
		RepositoryIDs []int64           `json:"repository_ids"`
		Permissions   map[string]string `json:"permissions"`
	}
	if err := c.decode(&want); err != nil {
		return reply{}, err
	}
	if !in.suspendedAt.IsZero() {
		return reply{}, errorf(http.StatusForbidden, "This installation has been suspended")
	}
	t := &token{installation: in, permissions: maps.Clone(in.permissions)}
	if want.Permissions != nil {
		t.permissions = map[string]string{"metadata": "read"}
	}
	for name, level := range want.Permissions {
		if grade(level) < 1 || grade(level) > grade(in.permissions[name]) {
			return reply{}, errorf(http.StatusUnprocessableEntity, "The permissions requested are not granted to this installation.")
		}
		t.permissions[name] = level
	}
	if len(want.Repositories)+len(want.RepositoryIDs) > maxNarrowing {
		return reply{}, errorf(http.StatusUnprocessableEntity, "There are too many repositories: at most %d.", maxNarrowing)
	}
	narrowed, err := s.narrow(t, in, want.Repositories, want.RepositoryIDs)
	if err != nil {
		return reply{}, err
	}
	t.expires = c.now.Add(s.cfg.TokenLifetime)
	t.validFrom = c.now.Add(max(s.cfg.TokenReplication, s.faults.tokenDelay()))
	secret := s.newInstallationToken(in, c.r.Header.Get("X-GitHub-Stateless-S2S-Token"), t.expires)
	s.tokens[secret] = t
	s.after(t.expires.Sub(c.now)+time.Minute, func() { delete(s.tokens, secret) })

	body := object{"token": secret, "expires_at": stamp(t.expires), "permissions": t.permissions, "repository_selection": in.selection()}
	if narrowed != nil {
		body["repository_selection"] = "selected"
		body["repositories"] = views(narrowed, func(r *repository) any { return s.repositoryView(r, c.version) })
	}
	return created(body)
}

func (s *Server) narrow(t *token, in *installation, names []string, ids []int64) ([]*repository, error) {
	if names == nil && ids == nil {
		return nil, nil
	}
	var out []*repository
	for _, name := range names {
		out = append(out, s.repository(in.account.login+"/"+name))
	}
	for _, id := range ids {
		out = append(out, s.repositoryIDs[id])
	}
	t.repos = map[int64]bool{}
	for _, r := range out {
		if r == nil || !in.covers(r) {
			return nil, errorf(http.StatusUnprocessableEntity, "There is at least one repository that does not exist or is not accessible to the parent installation.")
		}
		t.repos[r.id] = true
	}
	slices.SortFunc(out, func(a, b *repository) int { return int(a.id - b.id) })
	return slices.Compact(out), nil
}

// newInstallationToken makes a token in one of the two shapes that are in use:
// 40 characters, or ghs_<App>_<JWT> of about 520 with two dots.
func (s *Server) newInstallationToken(in *installation, format string, expires time.Time) string {
	classic := s.cfg.ClassicTokens
	switch {
	case s.cfg.EnterpriseServer:
	case format == "enabled":
		classic = false
	case format == "disabled":
		classic = true
	}
	if classic {
		return "ghs_" + s.chance.text("token", 36, alphaNumeric)
	}
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString(encode(v)) }
	head := part(object{"alg": "ES256", "typ": "JWT", "kid": s.chance.text("token", 8, hexDigits)})
	claims := part(object{
		"iss": "https://api.github.com", "sub": fmt.Sprint(in.id), "exp": expires.Unix(), "jti": s.chance.uuid("token"),
		"pad": s.chance.text("token", 96, alphaNumeric),
	})
	used := len(head) + len(claims) + len(fmt.Sprintf("ghs_%d_..", in.app.id))
	return fmt.Sprintf("ghs_%d_%s.%s.%s", in.app.id, head, claims, s.chance.text("token", max(520-used, 86), alphaNumeric))
}

func (s *Server) revokeToken(c *call) (reply, error) {
	c.who.token.revoked = true
	return noContent()
}

// CreateToken makes a personal access token for a user, who is created if need be,
// with classic scopes such as "repo", "admin:org" or "manage_runners:enterprise".
func (s *Server) CreateToken(login string, scopes ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts[strings.ToLower(login)] == nil {
		if _, err := s.createAccount(login, user); err != nil {
			return "", err
		}
	}
	secret := "ghp_" + s.chance.text("token", 36, alphaNumeric)
	s.tokens[secret] = &token{user: login, scopes: scopes}
	return secret, nil
}

// expireTokens makes every installation token that exists expire now.
func (s *Server) expireTokens() {
	now := s.now()
	for _, t := range s.tokens {
		if t.installation != nil {
			t.expires = now
		}
	}
}
