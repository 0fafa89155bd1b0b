package githubsim

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// installation is an App on an account.
type installation struct {
	id          int64
	app         *app
	account     *account
	all         bool
	repos       map[int64]*repository // of a selection
	permissions map[string]string
	events      []string
	createdAt   time.Time
	updatedAt   time.Time
	suspendedAt time.Time
	deleted     bool
	users       int // for the rule on rate limits
}

func (in *installation) selection() string {
	if in.all {
		return "all"
	}
	return "selected"
}

func (in *installation) covers(r *repository) bool {
	return !in.deleted && r.owner == in.account && (in.all || in.repos[r.id] != nil)
}

// repositories are those that the installation covers, oldest first.
func (in *installation) repositories() []*repository {
	return slices.DeleteFunc(slices.Clone(in.account.repos), func(r *repository) bool { return !in.covers(r) })
}

// Install puts an App on an account, for the repositories named (owner/name or
// the bare name) or for all of them. The App hears of it by a webhook.
func (s *Server) Install(appID int64, account string, repositories ...string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[appID]
	if a == nil {
		return 0, fmt.Errorf("install: App %d does not exist", appID)
	}
	acct := s.accounts[strings.ToLower(account)]
	if acct == nil {
		return 0, fmt.Errorf("install: account %q does not exist", account)
	}
	for _, in := range a.live() {
		if in.account == acct {
			return 0, fmt.Errorf("install: App %d is installed on %s already, as %d", appID, account, in.id)
		}
	}
	now := s.now()
	in := &installation{
		id: s.id(&s.ids.installation), app: a, account: acct, all: len(repositories) == 0, repos: map[int64]*repository{},
		permissions: maps.Clone(a.permissions), events: slices.Clone(a.events), createdAt: now, updatedAt: now,
	}
	for _, name := range repositories {
		r, err := s.selected(acct, name)
		if err != nil {
			return 0, err
		}
		in.repos[r.id] = r
	}
	a.installations = append(a.installations, in)
	s.installations[in.id] = in
	s.emitInstallation(in, "created")
	s.changed()
	return in.id, nil
}

func (s *Server) selected(a *account, name string) (*repository, error) {
	if !strings.Contains(name, "/") {
		name = a.login + "/" + name
	}
	r, err := s.needRepository(name)
	if err != nil {
		return nil, err
	}
	if r.owner != a {
		return nil, fmt.Errorf("repository %s does not belong to %s", name, a.login)
	}
	return r, nil
}

// Uninstall removes an installation.
func (s *Server) Uninstall(id int64) error {
	return s.changeInstallation(id, func(in *installation) { s.uninstall(in) })
}

func (s *Server) uninstall(in *installation) {
	s.emitInstallation(in, "deleted")
	in.deleted = true
}

// Suspend suspends an installation, or lifts the suspension.
func (s *Server) Suspend(id int64, suspended bool) error {
	return s.changeInstallation(id, func(in *installation) { s.suspend(in, suspended) })
}

func (s *Server) suspend(in *installation, suspended bool) {
	action := "unsuspend"
	if in.suspendedAt = (time.Time{}); suspended {
		action, in.suspendedAt = "suspend", s.now()
	}
	in.updatedAt = s.now()
	s.emitInstallation(in, action)
}

// AcceptPermissions gives an installation new permissions, as when an owner
// accepts what the App asked for.
func (s *Server) AcceptPermissions(id int64, permissions map[string]string) error {
	return s.changeInstallation(id, func(in *installation) {
		in.permissions = maps.Clone(permissions)
		in.permissions["metadata"] = "read"
		in.updatedAt = s.now()
		s.emitInstallation(in, "new_permissions_accepted")
	})
}

// SelectRepositories replaces an installation's selection; none means all.
func (s *Server) SelectRepositories(id int64, names ...string) error {
	var wrong error
	err := s.changeInstallation(id, func(in *installation) {
		repos := map[int64]*repository{}
		for _, name := range names {
			r, err := s.selected(in.account, name)
			if err != nil {
				wrong = err
				return
			}
			repos[r.id] = r
		}
		before := in.repositories()
		in.all, in.repos, in.updatedAt = len(names) == 0, repos, s.now()
		after := in.repositories()
		for _, change := range []struct {
			action    string
			from, not []*repository
		}{{"added", after, before}, {"removed", before, after}} {
			some := slices.DeleteFunc(slices.Clone(change.from), func(r *repository) bool { return slices.Contains(change.not, r) })
			if len(some) > 0 {
				s.emitInstallationRepositories(in, change.action, some)
			}
		}
	})
	if err == nil {
		err = wrong
	}
	return err
}

func (s *Server) changeInstallation(id int64, change func(*installation)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.installations[id]
	if in == nil || in.deleted {
		return fmt.Errorf("installation %d does not exist", id)
	}
	change(in)
	s.changed()
	return nil
}

func (s *Server) installationRoutes() []*route {
	return []*route{
		{pattern: "GET /app/installations", who: appOnly, do: s.listInstallations},
		{pattern: "GET /app/installations/{installation}", who: appOnly, do: s.withInstallation(func(c *call, in *installation) (reply, error) {
			return ok(s.installationView(in))
		})},
		{pattern: "DELETE /app/installations/{installation}", who: appOnly, do: s.withInstallation(s.deleteInstallation)},
		{pattern: "PUT /app/installations/{installation}/suspended", who: appOnly, do: s.withInstallation(func(c *call, in *installation) (reply, error) {
			s.suspend(in, true)
			return noContent()
		})},
		{pattern: "DELETE /app/installations/{installation}/suspended", who: appOnly, do: s.withInstallation(func(c *call, in *installation) (reply, error) {
			s.suspend(in, false)
			return noContent()
		})},
		{pattern: "POST /app/installations/{installation}/access_tokens", who: appOnly, do: s.withInstallation(s.createToken)},
		{pattern: "GET /orgs/{org}/installation", who: appOnly, do: s.findInstallation},
		{pattern: "GET /repos/{owner}/{repo}/installation", who: appOnly, do: s.findInstallation},
		{pattern: "GET /users/{user}/installation", who: appOnly, do: s.findInstallation},
		{pattern: "GET /installation/repositories", who: tokenApp, do: s.installationRepositories},
		{pattern: "DELETE /installation/token", who: tokenApp, do: s.revokeToken},
	}
}

func (s *Server) listInstallations(c *call) (reply, error) {
	return bare(c, c.who.app.live(), s.installationView)
}

// withInstallation finds the installation of the path among the App's own.
func (s *Server) withInstallation(do func(*call, *installation) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		id, err := c.number("installation")
		if err != nil {
			return reply{}, err
		}
		in := s.installations[id]
		if in == nil || in.deleted || in.app != c.who.app {
			return reply{}, notFound()
		}
		return do(c, in)
	}
}

func (s *Server) deleteInstallation(c *call, in *installation) (reply, error) {
	s.uninstall(in)
	s.changed()
	if c.version == newestVersion {
		return reply{status: http.StatusAccepted, body: object{}}, nil
	}
	return noContent()
}

func (s *Server) findInstallation(c *call) (reply, error) {
	a := c.account
	if login := c.r.PathValue("user"); login != "" {
		a = s.accounts[strings.ToLower(login)]
	}
	for _, in := range c.who.app.live() {
		if in.account == a && (c.repo == nil || in.covers(c.repo)) {
			return ok(s.installationView(in))
		}
	}
	return reply{}, notFound()
}

func (s *Server) installationView(in *installation) object {
	html := fmt.Sprintf("%s/settings/installations/%d", s.html(), in.id)
	if in.account.kind == organization {
		html = fmt.Sprintf("%s/organizations/%s/settings/installations/%d", s.html(), in.account.login, in.id)
	}
	var by any
	if !in.suspendedAt.IsZero() {
		by = s.accountView(in.account)
	}
	return object{
		"id": in.id, "client_id": in.app.clientID, "account": s.accountView(in.account), "repository_selection": in.selection(),
		"access_tokens_url": fmt.Sprintf("%s/app/installations/%d/access_tokens", s.api(), in.id),
		"repositories_url":  s.api() + "/installation/repositories", "html_url": html,
		"app_id": in.app.id, "app_slug": in.app.slug, "target_id": in.account.id, "target_type": string(in.account.kind),
		"permissions": in.permissions, "events": in.events, "created_at": stamp(in.createdAt), "updated_at": stamp(in.updatedAt),
		"single_file_name": nil, "has_multiple_single_files": false, "single_file_paths": []string{},
		"suspended_by": by, "suspended_at": maybe(in.suspendedAt),
	}
}
