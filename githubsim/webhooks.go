package githubsim

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// webhooks are the hooks of the repository and of its owner.
func (r *repository) webhooks() []*hook { return append(slices.Clone(r.hooks), r.owner.hooks...) }

// wants reports whether a hook of a repository or an organization gets an event.
func (h *hook) wants(event string) bool {
	return h.active && h.url != "" && (slices.Contains(h.events, event) || slices.Contains(h.events, "*"))
}

// HookOptions describe a webhook of one repository or organization, which needs no App.
type HookOptions struct {
	// Target is "owner/name" or the login of an organization.
	Target string `json:"target"`
	URL    string `json:"url"`
	Secret string `json:"secret"` // empty: deliveries are not signed
	// ContentType of deliveries is "json" (default) or "form".
	ContentType string `json:"content_type"`
	// Events are what the hook gets, "*" for all; nil is workflow_job.
	Events []string `json:"events"`
}

// CreateHook adds a webhook to a repository or an organization, which is pinged at
// once, and returns its id.
func (s *Server) CreateHook(opts HookOptions) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if opts.ContentType == "" {
		opts.ContentType = "json"
	}
	if opts.Events == nil {
		opts.Events = []string{"workflow_job"}
	}
	h := &hook{url: opts.URL, secret: opts.Secret, contentType: opts.ContentType, insecureSSL: "0", events: slices.Clone(opts.Events), active: true}
	var err error
	if strings.Contains(opts.Target, "/") {
		var r *repository
		if r, err = s.needRepository(opts.Target); err == nil {
			s.addHook(h, r, nil)
		}
	} else if a := s.accounts[strings.ToLower(opts.Target)]; a != nil && a.kind == organization {
		s.addHook(h, nil, a)
	} else {
		err = fmt.Errorf("organization %q does not exist", opts.Target)
	}
	if err != nil {
		return 0, fmt.Errorf("create webhook: %w", err)
	}
	return h.id, nil
}

// addHook gives a hook to a repository or an organization and pings it.
func (s *Server) addHook(h *hook, r *repository, a *account) {
	h.id, h.createdAt, h.updatedAt = s.id(&s.ids.hook), s.now(), s.now()
	if r != nil {
		h.target, h.kind, h.path = r.id, "repository", "/repos/"+r.fullName()
		r.hooks = append(r.hooks, h)
	} else {
		h.target, h.kind, h.path = a.id, "organization", "/orgs/"+a.login
		a.hooks = append(a.hooks, h)
	}
	s.pingHook(h, r, a)
	s.changed()
}

func (s *Server) pingHook(h *hook, r *repository, a *account) {
	e := &event{name: "ping", members: []member{{"zen", encode(zen)}, {"hook_id", encode(h.id)}, {"hook", encode(s.hookView(h))}}}
	if r != nil {
		e.repository = r.id
		e.members = append(e.members, member{"repository", s.repositoryView(r, apiVersions[0])})
		a = r.owner
	}
	if a.kind == organization {
		e.members = append(e.members, member{"organization", encode(s.organizationView(a))})
	}
	e.members = append(e.members, member{"sender", s.accountView(s.actor())})
	s.publish(h, e)
}

func (s *Server) hookRoutes() []*route {
	var all []*route
	for _, at := range []struct {
		prefix, permission string
		scopes             []string
	}{
		{"/repos/{owner}/{repo}", "repository_hooks", []string{"admin:repo_hook", "repo"}},
		{"/orgs/{org}", "organization_hooks", []string{"admin:org_hook"}},
	} {
		add := func(pattern string, do func(*call) (reply, error)) {
			method, rest, _ := strings.Cut(pattern, " ")
			need := at.permission + "=write"
			if method == http.MethodGet {
				need = at.permission + "=read"
			}
			all = append(all, &route{pattern: method + " " + at.prefix + "/hooks" + rest, who: tokens, needs: []string{need}, scopes: at.scopes, do: do})
		}
		add("GET ", func(c *call) (reply, error) { return bare(c, *c.hooks(), s.hookView) })
		add("POST ", s.postHook)
		add("GET /{hook}", s.withHook(func(_ *call, h *hook) (reply, error) { return ok(s.hookView(h)) }))
		add("PATCH /{hook}", s.withHook(s.patchHook))
		add("DELETE /{hook}", s.withHook(func(c *call, h *hook) (reply, error) {
			*c.hooks() = without(*c.hooks(), h)
			return noContent()
		}))
		add("POST /{hook}/pings", s.withHook(func(c *call, h *hook) (reply, error) {
			s.pingHook(h, c.repo, c.account)
			return noContent()
		}))
		add("GET /{hook}/deliveries", s.withHook(s.listDeliveries))
		add("GET /{hook}/deliveries/{delivery}", s.withHook(s.withDelivery(s.getDelivery)))
		add("POST /{hook}/deliveries/{delivery}/attempts", s.withHook(s.withDelivery(s.redeliver)))
	}
	return all
}

// hooks are those of the repository or organization that the path names.
func (c *call) hooks() *[]*hook {
	if c.repo != nil {
		return &c.repo.hooks
	}
	return &c.account.hooks
}

func (s *Server) withHook(do func(*call, *hook) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		id, err := c.number("hook")
		if err != nil {
			return reply{}, err
		}
		for _, h := range *c.hooks() {
			if h.id == id {
				return do(c, h)
			}
		}
		return reply{}, notFound()
	}
}

// hookInput is what POST and PATCH of a hook take.
type hookInput struct {
	Active *bool    `json:"active"`
	Events []string `json:"events"`
	Config *struct {
		URL         *string `json:"url"`
		ContentType *string `json:"content_type"`
		Secret      *string `json:"secret"`
		InsecureSSL any     `json:"insecure_ssl"`
	} `json:"config"`
}

// edit changes what in names; it is refused as a whole.
func (h *hook) edit(in hookInput) error {
	next := *h
	if in.Active != nil {
		next.active = *in.Active
	}
	if in.Events != nil {
		next.events = in.Events
	}
	if in.Config != nil {
		for _, f := range []struct{ to, from *string }{{&next.url, in.Config.URL}, {&next.contentType, in.Config.ContentType}, {&next.secret, in.Config.Secret}} {
			if f.from != nil {
				*f.to = *f.from
			}
		}
		if in.Config.InsecureSSL != nil {
			next.insecureSSL = strings.TrimSuffix(fmt.Sprint(in.Config.InsecureSSL), ".0")
		}
	}
	if next.url == "" {
		return invalid("url", "missing_field")
	}
	if next.contentType != "json" && next.contentType != "form" {
		return invalid("content_type", "invalid")
	}
	*h = next
	return nil
}

func (s *Server) postHook(c *call) (reply, error) {
	var in hookInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	h := &hook{contentType: "form", insecureSSL: "0", events: []string{"push"}, active: true}
	if err := h.edit(in); err != nil {
		return reply{}, err
	}
	if slices.ContainsFunc(*c.hooks(), func(other *hook) bool { return other.url == h.url && slices.Equal(other.events, h.events) }) {
		return reply{}, errorf(http.StatusUnprocessableEntity, "Validation Failed: Hook already exists on this %s", strings.ToLower(hookType(c.repo != nil)))
	}
	account := c.account
	if c.repo != nil {
		account = nil
	}
	s.addHook(h, c.repo, account)
	rep, err := created(s.hookView(h))
	rep.location = s.hookURL(h)
	return rep, err
}

func (s *Server) patchHook(c *call, h *hook) (reply, error) {
	var in hookInput
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	if err := h.edit(in); err != nil {
		return reply{}, err
	}
	h.updatedAt = s.now()
	return ok(s.hookView(h))
}

func hookType(repository bool) string {
	if repository {
		return "Repository"
	}
	return "Organization"
}

func (s *Server) hookURL(h *hook) string { return fmt.Sprintf("%s%s/hooks/%d", s.api(), h.path, h.id) }

func (s *Server) hookView(h *hook) object {
	self := s.hookURL(h)
	v := object{
		"type": hookType(h.kind == "repository"), "id": h.id, "name": "web", "active": h.active, "events": append([]string{}, h.events...), "config": h.config(),
		"updated_at": stamp(h.updatedAt), "created_at": stamp(h.createdAt), "url": self, "ping_url": self + "/pings", "deliveries_url": self + "/deliveries",
	}
	if h.kind == "repository" {
		v["test_url"], v["last_response"] = self+"/tests", object{"code": nil, "status": "unused", "message": nil}
	}
	return v
}
