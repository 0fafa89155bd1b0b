package muster

import (
	"fmt"
	"regexp"
	"strings"
)

// ScopeKind is where on GitHub a runner is registered.
type ScopeKind string

// The three kinds of scope. A kind is a value: no code path is copied per kind.
const (
	ScopeRepository   ScopeKind = "repository"
	ScopeOrganization ScopeKind = "organization"
	ScopeEnterprise   ScopeKind = "enterprise"
)

// Scope says where a pool's runners are registered. Owner is the organization,
// the repository's owner, or the enterprise's slug; Repo is set for
// ScopeRepository only. The zero Scope is invalid.
type Scope struct {
	Kind  ScopeKind `json:"kind" yaml:"kind"`
	Owner string    `json:"owner" yaml:"owner"`
	Repo  string    `json:"repo,omitempty" yaml:"repo,omitempty"`
}

var (
	repoFullName = regexp.MustCompile(`\A[a-zA-Z0-9_-]+/[a-zA-Z0-9._-]+\z`) // S1-101
	ownerName    = regexp.MustCompile(`\A[a-zA-Z0-9_-]+\z`)
)

// enterprises is the word that GitHub's URLs put before an enterprise's slug; no
// account can have it as its name.
const enterprises = "enterprises"

// validRepository reports whether s is owner/name (S1-101) and, beyond the
// pattern, neither a step in a path ("o/..") nor an enterprise.
func validRepository(s string) bool {
	owner, name, _ := strings.Cut(s, "/")
	return repoFullName.MatchString(s) && name != "." && name != ".." && owner != enterprises
}

// ParseScope reads "owner/repo", "org" or "enterprises/slug", the same words
// that follow the host in GitHub's own URLs.
func ParseScope(s string) (Scope, error) {
	owner, rest, slash := strings.Cut(s, "/")
	sc := Scope{Kind: ScopeOrganization, Owner: owner}
	if slash {
		sc = Scope{Kind: ScopeRepository, Owner: owner, Repo: rest}
	}
	if slash && owner == enterprises {
		sc = Scope{Kind: ScopeEnterprise, Owner: rest}
	}
	return sc, sc.Validate()
}

// Validate returns a CodeInvalid error with a remedy, or nil.
func (s Scope) Validate() error {
	switch s.Kind {
	case ScopeRepository:
		if !validRepository(s.Owner + "/" + s.Repo) {
			return Errorf(CodeInvalid, "scope %q is not a repository: write owner/repo with letters, digits, '-', '_' and, in the repository, '.'", s.Owner+"/"+s.Repo)
		}
	case ScopeOrganization, ScopeEnterprise:
		if !ownerName.MatchString(s.Owner) || s.Repo != "" {
			return Errorf(CodeInvalid, "scope %q is not an %s: write its name with letters, digits, '-' and '_'", s.Owner, s.Kind)
		}
	default:
		return Errorf(CodeInvalid, "scope kind %q is unknown: use repository, organization or enterprise", s.Kind)
	}
	return nil
}

// String is the inverse of ParseScope.
func (s Scope) String() string {
	switch s.Kind {
	case ScopeRepository:
		return s.Owner + "/" + s.Repo
	case ScopeEnterprise:
		return enterprises + "/" + s.Owner
	}
	return s.Owner
}

// Path is the prefix of GitHub's REST routes for the scope, without a leading
// slash: "repos/o/r", "orgs/o" or "enterprises/e".
func (s Scope) Path() string {
	switch s.Kind {
	case ScopeRepository:
		return fmt.Sprintf("repos/%s/%s", s.Owner, s.Repo)
	case ScopeEnterprise:
		return enterprises + "/" + s.Owner
	}
	return "orgs/" + s.Owner
}

// Covers reports whether a runner of this scope may be given a job of the
// repository owner/name, as far as names tell: an enterprise's runners are
// taken to cover every organization, since no name says which belong to it.
// Comparison ignores case, as GitHub does.
func (s Scope) Covers(repository string) bool {
	owner, name, _ := strings.Cut(repository, "/")
	switch s.Kind {
	case ScopeRepository:
		return strings.EqualFold(owner, s.Owner) && strings.EqualFold(name, s.Repo)
	case ScopeOrganization:
		return strings.EqualFold(owner, s.Owner)
	}
	return s.Kind == ScopeEnterprise
}
