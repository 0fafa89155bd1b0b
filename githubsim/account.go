package githubsim

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"time"
)

type accountKind string

const (
	organization accountKind = "Organization"
	user         accountKind = "User"
	enterprise   accountKind = "Enterprise"
)

// account is an organization, a user or an enterprise.
type account struct {
	id         int64
	kind       accountKind
	login      string
	createdAt  time.Time
	scope      *scope // where runners are registered; nil for users
	enterprise *account
	repos      []*repository
	hooks      []*hook         // oldest first
	view       json.RawMessage // as "simple-user" or "enterprise"
}

// repository is one repository with its files.
type repository struct {
	id        int64
	owner     *account
	name      string
	private   bool
	files     fs.FS
	createdAt time.Time
	pushedAt  time.Time
	head      string // commit SHA of the default branch
	pushes    int
	scope     *scope
	hooks     []*hook // oldest first
	workflows []*workflowFile
	gates     map[string]*environment // by lower-case name
	byVersion map[string]json.RawMessage
	small     json.RawMessage
}

func (r *repository) fullName() string { return r.owner.login + "/" + r.name }

// RepositoryOptions describe a new repository. The zero value is a public
// repository without files.
type RepositoryOptions struct {
	Private bool
	// Files are the repository's content, workflow files under
	// .github/workflows among them; nil is an empty repository.
	Files fs.FS
	// Gates names the environments that need an approval before a job that uses
	// them may be queued.
	Gates []string
}

var (
	loginPattern = regexp.MustCompile(`\A[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,38})\z`)
	namePattern  = regexp.MustCompile(`\A[a-zA-Z0-9._-]{1,100}\z`)
)

// CreateOrganization adds an organization.
func (s *Server) CreateOrganization(login string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.createAccount(login, organization)
	return err
}

// CreateUser adds a user account.
func (s *Server) CreateUser(login string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.createAccount(login, user)
	return err
}

// CreateEnterprise adds an enterprise that owns the organizations named; they are
// created if need be.
func (s *Server) CreateEnterprise(slug string, organizations ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ent, err := s.createAccount(slug, enterprise)
	if err != nil {
		return err
	}
	for _, login := range organizations {
		org, err := s.owner(login)
		if err != nil {
			return err
		}
		org.enterprise = ent
	}
	return nil
}

func (s *Server) createAccount(login string, kind accountKind) (*account, error) {
	if !loginPattern.MatchString(login) {
		return nil, fmt.Errorf("create account %q: letters, digits and '-', at most 39", login)
	}
	known, key := s.accounts, strings.ToLower(login)
	if kind == enterprise {
		known = s.enterprises
	}
	if known[key] != nil {
		return nil, fmt.Errorf("create account %q: it exists", login)
	}
	a := &account{id: s.id(&s.ids.account), kind: kind, login: login, createdAt: s.now()}
	if kind != user {
		a.scope = s.newScope(a, nil)
	}
	known[key] = a
	s.changed()
	return a, nil
}

// owner finds an account by login, or creates an organization.
func (s *Server) owner(login string) (*account, error) {
	if a := s.accounts[strings.ToLower(login)]; a != nil {
		return a, nil
	}
	return s.createAccount(login, organization)
}

// CreateRepository adds owner/name; an unknown owner becomes an organization.
func (s *Server) CreateRepository(fullName string, opts RepositoryOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	login, name, ok := strings.Cut(fullName, "/")
	if !ok || !namePattern.MatchString(name) {
		return fmt.Errorf("create repository %q: want owner/name", fullName)
	}
	if s.repository(fullName) != nil {
		return fmt.Errorf("create repository %q: it exists", fullName)
	}
	a, err := s.owner(login)
	if err != nil {
		return err
	}
	now := s.now()
	r := &repository{
		id: s.id(&s.ids.repository), owner: a, name: name, private: opts.Private, files: opts.Files,
		createdAt: now, pushedAt: now, head: s.chance.text("commit", 40, hexDigits), gates: map[string]*environment{},
	}
	r.scope = s.newScope(a, r)
	for _, gate := range opts.Gates {
		s.environment(r, gate).gated = true
	}
	a.repos = append(a.repos, r)
	s.repositories[strings.ToLower(fullName)] = r
	s.repositoryIDs[r.id] = r
	for _, in := range s.installations {
		if in.account == a && in.all && !in.deleted {
			s.emitInstallationRepositories(in, "added", []*repository{r})
		}
	}
	s.changed()
	return nil
}

func (s *Server) repository(fullName string) *repository {
	return s.repositories[strings.ToLower(fullName)]
}

func (s *Server) needRepository(fullName string) (*repository, error) {
	r := s.repository(fullName)
	if r == nil {
		return nil, fmt.Errorf("repository %q does not exist", fullName)
	}
	return r, nil
}

func (s *Server) repositoryRoutes() []*route {
	return []*route{
		{pattern: "GET /repos/{owner}/{repo}", who: tokens, needs: []string{"metadata=read"}, scopes: []string{"repo"}, do: s.getRepository},
		{pattern: "GET /repos/{owner}/{repo}/contents/{path...}", who: tokens, needs: []string{"contents=read"}, scopes: []string{"repo"},
			prepare: s.readContents, do: s.getContents},
	}
}

func (s *Server) getRepository(c *call) (reply, error) {
	return ok(s.fullRepositoryView(c.repo, c.version))
}

func (s *Server) installationRepositories(c *call) (reply, error) {
	in := c.who.installation
	var all []*repository
	for _, r := range in.account.repos {
		if c.who.token.sees(r) {
			all = append(all, r)
		}
	}
	some, p := cut(c, all)
	return reply{status: http.StatusOK, links: p, body: object{
		"total_count":          len(all),
		"repository_selection": in.selection(),
		"repositories":         views(some, func(r *repository) json.RawMessage { return s.repositoryView(r, c.version) }),
	}}, nil
}
