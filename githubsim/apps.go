package githubsim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// app is a GitHub App.
type app struct {
	id            int64
	clientID      string
	clientSecret  string
	slug, name    string
	description   string
	externalURL   string
	owner         *account
	key           *rsa.PrivateKey
	permissions   map[string]string
	events        []string
	createdAt     time.Time
	updatedAt     time.Time
	hook          hook
	setupURL      string
	installations []*installation
}

// AppOptions describe a new App.
type AppOptions struct {
	Name string `json:"name"` // empty: a name is made up
	// Owner is the account that owns the App; empty is "octo-apps".
	Owner         string `json:"owner"`
	WebhookURL    string `json:"webhook_url"`    // empty: no deliveries until SetWebhook
	WebhookSecret string `json:"webhook_secret"` // empty: deliveries are not signed
	// ContentType of deliveries is "json" (default) or "form".
	ContentType string `json:"content_type"`
	// Permissions are name → read, write or admin. nil is what a control plane for
	// runners needs; metadata=read is always added.
	Permissions map[string]string `json:"permissions"`
	// Events are what the App subscribes to. nil is workflow_job.
	Events []string `json:"events"`
	// SetupURL is where a browser is sent after an installation.
	SetupURL string `json:"setup_url"`
	// Key is the App's private key; nil makes one of 2048 bits.
	Key *rsa.PrivateKey `json:"-"`
}

// App is what its owner learns when an App is created.
type App struct {
	ID            int64  `json:"id"`
	ClientID      string `json:"client_id"`
	ClientSecret  string `json:"client_secret"`
	Slug          string `json:"slug"`
	PEM           string `json:"pem"` // PKCS #1
	WebhookSecret string `json:"webhook_secret"`
}

// CreateApp registers an App. With a webhook URL it is pinged at once.
func (s *Server) CreateApp(opts AppOptions) (App, error) {
	key := opts.Key
	if key == nil {
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return App{}, fmt.Errorf("make the App's key: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.addApp(opts, key)
	if err != nil {
		return App{}, err
	}
	s.changed()
	return a.credentials(), nil
}

func (a *app) credentials() App {
	return App{
		ID: a.id, ClientID: a.clientID, ClientSecret: a.clientSecret, Slug: a.slug, PEM: a.pem(), WebhookSecret: a.hook.secret,
	}
}

func (a *app) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(a.key)}))
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

func (s *Server) addApp(opts AppOptions, key *rsa.PrivateKey) (*app, error) {
	if opts.Owner == "" {
		opts.Owner = "octo-apps"
	}
	owner, err := s.owner(opts.Owner)
	if err != nil {
		return nil, err
	}
	id := s.id(&s.ids.app)
	if opts.Name == "" {
		opts.Name = fmt.Sprintf("app-%d", id)
	}
	slug := strings.Trim(notSlug.ReplaceAllString(strings.ToLower(opts.Name), "-"), "-")
	for _, other := range s.apps {
		if other.slug == slug {
			return nil, fmt.Errorf("create App %q: the name is taken", opts.Name)
		}
	}
	if opts.Permissions == nil {
		opts.Permissions = map[string]string{
			"organization_self_hosted_runners": "write", "administration": "write", "actions": "write", "checks": "write", "contents": "read",
		}
	}
	if opts.Events == nil {
		opts.Events = []string{"workflow_job"}
	}
	if opts.ContentType == "" {
		opts.ContentType = "json"
	}
	now := s.now()
	a := &app{
		id: id, clientID: "Iv23li" + s.chance.text("client", 14, alphaNumeric), clientSecret: s.chance.text("client", 40, hexDigits),
		slug: slug, name: opts.Name, owner: owner, key: key, permissions: maps.Clone(opts.Permissions), events: slices.Clone(opts.Events),
		createdAt: now, updatedAt: now, setupURL: opts.SetupURL,
	}
	a.permissions["metadata"] = "read"
	a.hook = hook{id: s.id(&s.ids.hook), target: id, kind: "integration", url: opts.WebhookURL, secret: opts.WebhookSecret, contentType: opts.ContentType, insecureSSL: "0"}
	s.apps[a.id] = a
	s.appList = append(s.appList, a)
	s.appsByClient[a.clientID] = a
	if a.hook.url != "" {
		s.emitPing(a)
	}
	return a, nil
}

// SetWebhook changes where an App's deliveries go; empty stops them.
func (s *Server) SetWebhook(appID int64, url string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[appID]
	if a == nil {
		return fmt.Errorf("set webhook: App %d does not exist", appID)
	}
	ping := a.hook.url == "" && url != ""
	a.hook.url = url
	if ping {
		s.emitPing(a)
	}
	return nil
}

func (s *Server) appRoutes() []*route {
	return []*route{
		{pattern: "GET /app", who: appOnly, do: s.getApp},
		{pattern: "GET /app/hook/config", who: appOnly, do: s.getHookConfig},
		{pattern: "PATCH /app/hook/config", who: appOnly, do: s.updateHookConfig},
		{pattern: "GET /app/installation-requests", who: appOnly, do: func(*call) (reply, error) { return ok([]object{}) }},
	}
}

func (s *Server) getApp(c *call) (reply, error) {
	view := s.appView(c.who.app)
	view["installations_count"] = len(c.who.app.live())
	return ok(view)
}

// live are the installations that were not removed, oldest first.
func (a *app) live() []*installation {
	return slices.DeleteFunc(slices.Clone(a.installations), func(in *installation) bool { return in.deleted })
}

func (s *Server) getHookConfig(c *call) (reply, error) { return ok(c.who.app.hook.config()) }

func (s *Server) updateHookConfig(c *call) (reply, error) {
	var in struct {
		URL         *string `json:"url"`
		ContentType *string `json:"content_type"`
		Secret      *string `json:"secret"`
		InsecureSSL any     `json:"insecure_ssl"`
	}
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	h := &c.who.app.hook
	if in.ContentType != nil && *in.ContentType != "json" && *in.ContentType != "form" {
		return reply{}, invalid("content_type", "invalid")
	}
	for _, f := range []struct{ to, from *string }{{&h.url, in.URL}, {&h.contentType, in.ContentType}, {&h.secret, in.Secret}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if in.InsecureSSL != nil {
		h.insecureSSL = strings.TrimSuffix(fmt.Sprint(in.InsecureSSL), ".0")
	}
	return ok(h.config())
}

func (s *Server) appView(a *app) object {
	external := a.externalURL
	if external == "" {
		external = s.html() + "/apps/" + a.slug
	}
	return object{
		"id": a.id, "slug": a.slug, "client_id": a.clientID, "node_id": nodeID("A", a.id), "owner": s.accountView(a.owner),
		"name": a.name, "description": a.description, "external_url": external, "html_url": s.html() + "/apps/" + a.slug,
		"created_at": stamp(a.createdAt), "updated_at": stamp(a.updatedAt), "permissions": a.permissions, "events": a.events,
	}
}

func (s *Server) metaRoutes() []*route {
	return []*route{
		{pattern: "GET /meta", who: anyone, do: s.getMeta},
		{pattern: "GET /rate_limit", who: anyone, do: s.getRateLimit},
		{pattern: "GET /{$}", who: anyone, do: s.getRoot},
		{pattern: "GET /zen", who: anyone, do: func(*call) (reply, error) { return ok(zen) }},
	}
}

const zen = "Keep it logically awesome."

// rootLinks are what the API's root lists, as path templates below the API's base.
var rootLinks = map[string]string{
	"code_search_url": "/search/code?q={query}{&page,per_page,sort,order}", "commit_search_url": "/search/commits?q={query}{&page,per_page,sort,order}",
	"current_user_repositories_url": "/user/repos{?type,page,per_page,sort}", "current_user_url": "/user", "emails_url": "/user/emails", "emojis_url": "/emojis",
	"events_url": "/events", "feeds_url": "/feeds", "followers_url": "/user/followers", "following_url": "/user/following{/target}", "gists_url": "/gists{/gist_id}",
	"issue_search_url": "/search/issues?q={query}{&page,per_page,sort,order}", "issues_url": "/issues", "keys_url": "/user/keys",
	"label_search_url": "/search/labels?q={query}&repository_id={repository_id}{&page,per_page}", "notifications_url": "/notifications",
	"organization_repositories_url": "/orgs/{org}/repos{?type,page,per_page,sort}", "organization_teams_url": "/orgs/{org}/teams", "organization_url": "/orgs/{org}",
	"public_gists_url": "/gists/public", "rate_limit_url": "/rate_limit", "repository_search_url": "/search/repositories?q={query}{&page,per_page,sort,order}",
	"repository_url": "/repos/{owner}/{repo}", "starred_gists_url": "/gists/starred", "starred_url": "/user/starred{/owner}{/repo}",
	"topic_search_url": "/search/topics?q={query}{&page,per_page}", "user_organizations_url": "/user/orgs",
	"user_repositories_url": "/users/{user}/repos{?type,page,per_page,sort}", "user_search_url": "/search/users?q={query}{&page,per_page,sort,order}", "user_url": "/users/{user}",
}

func (s *Server) getRoot(c *call) (reply, error) {
	root := object{"current_user_authorizations_html_url": s.html() + "/settings/connections/applications{/client_id}"}
	for name, path := range rootLinks {
		root[name] = s.api() + path
	}
	if c.version != newestVersion {
		root["hub_url"], root["authorizations_url"] = s.api()+"/hub", s.api()+"/authorizations"
	}
	return ok(root)
}

func (s *Server) getMeta(*call) (reply, error) {
	local := []string{"127.0.0.0/8", "::1/128"}
	meta := object{"verifiable_password_authentication": false, "domains": object{}}
	for _, use := range []string{"hooks", "web", "api", "git", "packages", "pages", "importer", "actions", "dependabot"} {
		meta[use] = local
	}
	if s.cfg.EnterpriseServer {
		meta["installed_version"] = enterpriseVersion
	}
	return ok(meta)
}

// scrub removes what is secret from headers before they are shown again.
func scrub(h http.Header) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		out[k] = strings.Join(v, ", ")
	}
	return out
}
