package githubsim

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// hostedGroup is the id of the group of GitHub's own runners: nobody may use it.
const hostedGroup = 2

// group is a runner group of an organization or an enterprise. A repository has
// one that no API shows.
type group struct {
	id           int64
	name         string
	scope        *scope
	isDefault    bool
	visibility   string // all, private or selected
	repos        map[int64]bool
	orgs         map[int64]bool // of an enterprise
	allowsPublic bool
	restricted   bool
	workflows    []string
}

// open reports whether a repository's workflow may use the group.
func (g *group) open(r *repository, workflow string) bool {
	switch {
	case g.scope.repo != nil:
		return g.scope.repo == r
	case g.scope.account.kind == enterprise:
		if r.owner.enterprise != g.scope.account || g.visibility == "selected" && !g.orgs[r.owner.id] {
			return false
		}
	case r.owner != g.scope.account:
		return false
	case g.visibility == "selected" && !g.repos[r.id]:
		return false
	case g.visibility == "private" && !r.private:
		return false
	}
	if !r.private && !g.allowsPublic {
		return false
	}
	return !g.restricted || slices.ContainsFunc(g.workflows, func(w string) bool {
		return w == workflow || strings.HasPrefix(w, workflow+"@")
	})
}

func (s *Server) newScope(a *account, r *repository) *scope {
	sc := &scope{account: a, repo: r, names: map[string]*runner{}}
	sc.groups = []*group{{
		id: 1, name: "Default", scope: sc, isDefault: true, visibility: "all", allowsPublic: r != nil || !s.cfg.DefaultGroupPrivate,
	}}
	return sc
}

func (sc *scope) group(id int64) *group {
	for _, g := range sc.groups {
		if g.id == id {
			return g
		}
	}
	return nil
}

func (sc *scope) groupNamed(name string) *group {
	if name == "" {
		return sc.groups[0]
	}
	for _, g := range sc.groups {
		if strings.EqualFold(g.name, name) {
			return g
		}
	}
	return nil
}

// inherited are the enterprise's groups that an organization may use.
func (sc *scope) inherited() []*group {
	if sc.account.kind != organization || sc.account.enterprise == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(sc.account.enterprise.scope.groups), func(g *group) bool {
		return g.visibility == "selected" && !g.orgs[sc.account.id]
	})
}

func (s *Server) groupRoutes() []*route {
	var all []*route
	for _, at := range []struct {
		prefix      string
		read, write []string
		scopes      []string
		who         audience
	}{
		{"/orgs/{org}", []string{"organization_self_hosted_runners=read"}, []string{"organization_self_hosted_runners=write"}, []string{"admin:org"}, tokens},
		{"/enterprises/{enterprise}", nil, nil, []string{"manage_runners:enterprise", "admin:enterprise"}, people},
	} {
		add := func(pattern string, do func(*call) (reply, error)) {
			method, rest, _ := strings.Cut(pattern, " ")
			needs := at.write
			if method == http.MethodGet {
				needs = at.read
			}
			all = append(all, &route{
				pattern: method + " " + at.prefix + "/actions/runner-groups" + rest, who: at.who, needs: needs, scopes: at.scopes, do: do,
			})
		}
		add("GET ", s.listGroups)
		add("POST ", s.createGroup)
		add("GET /{group}", s.withGroup(func(c *call, g *group) (reply, error) { return ok(s.groupView(g, c.scope)) }))
		add("PATCH /{group}", s.withGroup(s.updateGroup))
		add("DELETE /{group}", s.withGroup(s.deleteGroup))
		add("GET /{group}/runners", s.withGroup(s.listGroupRunners))
		add("PUT /{group}/runners", s.withGroup(s.setGroupRunners))
		add("PUT /{group}/runners/{runner}", s.withGroup(s.addGroupRunner))
		add("DELETE /{group}/runners/{runner}", s.withGroup(s.removeGroupRunner))
		if at.who == people {
			add("GET /{group}/organizations", s.withGroup(s.listGroupOrganizations))
			add("PUT /{group}/organizations", s.withGroup(s.setGroupMembers))
			add("PUT /{group}/organizations/{member}", s.withGroup(s.addGroupMember))
			add("DELETE /{group}/organizations/{member}", s.withGroup(s.removeGroupMember))
			continue
		}
		add("GET /{group}/repositories", s.withGroup(s.listGroupRepositories))
		add("PUT /{group}/repositories", s.withGroup(s.setGroupMembers))
		add("PUT /{group}/repositories/{member}", s.withGroup(s.addGroupMember))
		add("DELETE /{group}/repositories/{member}", s.withGroup(s.removeGroupMember))
	}
	return all
}

func (s *Server) withGroup(do func(*call, *group) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		id, err := c.number("group")
		if err != nil {
			return reply{}, err
		}
		g := c.scope.group(id)
		if g == nil && c.r.Method == http.MethodGet {
			for _, inherited := range c.scope.inherited() {
				if inherited.id == id && !inherited.isDefault {
					g = inherited
				}
			}
		}
		if g == nil {
			return reply{}, notFound()
		}
		return do(c, g)
	}
}

func (s *Server) listGroups(c *call) (reply, error) {
	all := append(slices.Clone(c.scope.groups), slices.DeleteFunc(c.scope.inherited(), func(g *group) bool { return g.isDefault })...)
	if name := c.r.URL.Query().Get("visible_to_repository"); name != "" {
		r := s.repository(c.account.login + "/" + name)
		if r == nil {
			return reply{}, notFound()
		}
		all = slices.DeleteFunc(all, func(g *group) bool { return !g.open(r, "") && !g.restricted })
	}
	return list(c, "runner_groups", all, func(g *group) object { return s.groupView(g, c.scope) })
}

// groupInput is what POST and PATCH take.
type groupInput struct {
	Name         *string  `json:"name"`
	Visibility   *string  `json:"visibility"`
	Repositories []int64  `json:"selected_repository_ids"`
	Orgs         []int64  `json:"selected_organization_ids"`
	Runners      []int64  `json:"runners"`
	AllowsPublic *bool    `json:"allows_public_repositories"`
	Restricted   *bool    `json:"restricted_to_workflows"`
	Workflows    []string `json:"selected_workflows"`
}

func (s *Server) createGroup(c *call) (reply, error) {
	var in groupInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if in.Name == nil || *in.Name == "" {
		return reply{}, errorf(http.StatusUnprocessableEntity, "Invalid input: object is missing required key: name.")
	}
	g := &group{id: s.id(&s.ids.group), scope: c.scope, visibility: "all", repos: map[int64]bool{}, orgs: map[int64]bool{}}
	if err := s.editGroup(g, in); err != nil {
		return reply{}, err
	}
	c.scope.groups = append(c.scope.groups, g)
	for _, id := range in.Runners {
		if r := c.scope.runner(id); r != nil {
			s.regroup(r, g)
		}
	}
	s.changed()
	return created(s.groupView(g, c.scope))
}

func (s *Server) editGroup(g *group, in groupInput) error {
	if in.Name != nil {
		if other := g.scope.groupNamed(*in.Name); other != nil && other != g {
			return errorf(http.StatusConflict, "Already exists - A runner group with the name %s already exists.", *in.Name)
		}
		g.name = *in.Name
	}
	if in.Visibility != nil {
		if !slices.Contains([]string{"all", "selected", "private"}, *in.Visibility) {
			return invalid("visibility", "invalid")
		}
		g.visibility = *in.Visibility
	}
	for _, set := range []struct {
		to  map[int64]bool
		ids []int64
	}{{g.repos, in.Repositories}, {g.orgs, in.Orgs}} {
		for _, id := range set.ids {
			set.to[id] = true
		}
	}
	if in.AllowsPublic != nil {
		g.allowsPublic = *in.AllowsPublic
	}
	if in.Restricted != nil {
		g.restricted = *in.Restricted
	}
	if in.Workflows != nil {
		g.workflows = in.Workflows
	}
	return nil
}

func (s *Server) updateGroup(c *call, g *group) (reply, error) {
	var in groupInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if g.isDefault && in.Name != nil && *in.Name != g.name {
		return reply{}, errorf(http.StatusUnprocessableEntity, "The default runner group cannot be renamed.")
	}
	if err := s.editGroup(g, in); err != nil {
		return reply{}, err
	}
	s.rematch(g)
	s.changed()
	return ok(s.groupView(g, c.scope))
}

func (s *Server) deleteGroup(c *call, g *group) (reply, error) {
	if g.isDefault {
		return reply{}, errorf(http.StatusUnprocessableEntity, "The default runner group cannot be deleted.")
	}
	for _, r := range slices.Clone(c.scope.runners) {
		if r.group == g {
			s.regroup(r, c.scope.groups[0])
		}
	}
	c.scope.groups = slices.DeleteFunc(c.scope.groups, func(other *group) bool { return other == g })
	s.changed()
	return noContent()
}

func (s *Server) listGroupRunners(c *call, g *group) (reply, error) {
	var all []*runner
	for _, r := range c.scope.runners {
		if r.group == g {
			all = append(all, r)
		}
	}
	return list(c, "runners", all, s.runnerView)
}

func (s *Server) setGroupRunners(c *call, g *group) (reply, error) {
	var in struct {
		Runners []int64 `json:"runners"`
	}
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	for _, r := range c.scope.runners {
		if slices.Contains(in.Runners, r.id) {
			s.regroup(r, g)
		} else if r.group == g {
			s.regroup(r, c.scope.groups[0])
		}
	}
	return noContent()
}

func (s *Server) addGroupRunner(c *call, g *group) (reply, error) {
	r, err := c.runner()
	if err != nil {
		return reply{}, err
	}
	s.regroup(r, g)
	return noContent()
}

func (s *Server) removeGroupRunner(c *call, g *group) (reply, error) {
	r, err := c.runner()
	if err != nil {
		return reply{}, err
	}
	if r.group == g {
		s.regroup(r, c.scope.groups[0])
	}
	return noContent()
}

func (s *Server) listGroupRepositories(c *call, g *group) (reply, error) {
	var all []*repository
	for _, r := range c.account.repos {
		if g.repos[r.id] {
			all = append(all, r)
		}
	}
	return list(c, "repositories", all, s.minimalRepositoryView)
}

func (s *Server) listGroupOrganizations(c *call, g *group) (reply, error) {
	var all []*account
	for _, a := range s.accounts {
		if a.enterprise == c.account && g.orgs[a.id] {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *account) int { return int(a.id - b.id) })
	return list(c, "organizations", all, s.organizationView)
}

func (g *group) members() map[int64]bool {
	if g.scope.account.kind == enterprise {
		return g.orgs
	}
	return g.repos
}

func (s *Server) setGroupMembers(c *call, g *group) (reply, error) {
	var in groupInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if g.visibility != "selected" {
		return reply{}, errorf(http.StatusConflict, "The runner group's visibility is not selected.")
	}
	clear(g.members())
	for _, id := range append(in.Repositories, in.Orgs...) {
		g.members()[id] = true
	}
	s.rematch(g)
	return noContent()
}

func (s *Server) addGroupMember(c *call, g *group) (reply, error) {
	return s.changeMember(c, g, func(members map[int64]bool, id int64) { members[id] = true })
}

func (s *Server) removeGroupMember(c *call, g *group) (reply, error) {
	return s.changeMember(c, g, func(members map[int64]bool, id int64) { delete(members, id) })
}

func (s *Server) changeMember(c *call, g *group, change func(map[int64]bool, int64)) (reply, error) {
	id, err := c.number("member")
	if err != nil {
		return reply{}, err
	}
	if g.isDefault {
		return reply{}, errorf(http.StatusConflict, "The default runner group is visible to all.")
	}
	change(g.members(), id)
	s.rematch(g)
	return noContent()
}

func (s *Server) groupView(g *group, at *scope) object {
	base := s.api() + "/orgs/" + at.account.login
	if at.account.kind == enterprise {
		base = s.api() + "/enterprises/" + at.account.login
	}
	v := object{
		"id": g.id, "name": g.name, "visibility": g.visibility, "default": g.isDefault,
		"runners_url":                fmt.Sprintf("%s/actions/runner_groups/%d/runners", base, g.id),
		"hosted_runners_url":         fmt.Sprintf("%s/actions/runner_groups/%d/hosted-runners", base, g.id),
		"allows_public_repositories": g.allowsPublic, "restricted_to_workflows": g.restricted,
		"selected_workflows": append([]string{}, g.workflows...), "workflow_restrictions_read_only": g.scope != at,
	}
	kind := "repositories"
	if at.account.kind == enterprise {
		kind = "organizations"
	} else {
		v["inherited"] = g.scope != at
		if g.scope != at {
			v["inherited_allows_public_repositories"] = g.allowsPublic
		}
	}
	if g.visibility == "selected" {
		v["selected_"+kind+"_url"] = fmt.Sprintf("%s/actions/runner_groups/%d/%s", base, g.id, kind)
	}
	return v
}
