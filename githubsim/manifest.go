package githubsim

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// manifestCode is the single-use code that a browser brings back.
type manifestCode struct {
	app     *app
	secret  string
	expires time.Time
}

// manifest is what an App describes itself with.
type manifest struct {
	Name        string            `json:"name"`
	URL         string            `json:"url"`
	Description string            `json:"description"`
	RedirectURL string            `json:"redirect_url"`
	SetupURL    string            `json:"setup_url"`
	Events      []string          `json:"default_events"`
	Permissions map[string]string `json:"default_permissions"`
	Hook        struct {
		URL    string `json:"url"`
		Active *bool  `json:"active"`
	} `json:"hook_attributes"`
}

func (s *Server) manifestRoutes() []*route {
	return []*route{{pattern: "POST /app-manifests/{code}/conversions", who: anyone, do: s.convertManifest}}
}

func (s *Server) webRoutes(mux *http.ServeMux) {
	for _, path := range []string{"/settings/apps/new", "/organizations/{org}/settings/apps/new", "/enterprises/{enterprise}/settings/apps/new"} {
		mux.HandleFunc("POST "+path, s.serveManifestForm)
	}
	mux.HandleFunc("POST /_pages/apps", s.serveManifestConfirmed)
	mux.HandleFunc("GET /apps/{slug}/installations/new", s.serveInstallForm)
	mux.HandleFunc("POST /apps/{slug}/installations", s.serveInstall)
	mux.HandleFunc("GET /_services/logs/{key}", s.serveLogLink)
	mux.HandleFunc("GET /actions/runner/releases/download/{version}/{file}", s.serveArchive)
}

var pages = template.Must(template.New("").Parse(`
{{define "head"}}<!doctype html><html lang="en"><meta charset="utf-8"><title>{{.Title}}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}input,button{font:inherit;padding:.4rem .8rem}</style>
<h1>{{.Title}}</h1>{{end}}
{{define "problem"}}{{template "head" .}}<p>{{.Problem}}</p>{{end}}
{{define "manifest"}}{{template "head" .}}<form method="post" action="/_pages/apps">
<input type="hidden" name="manifest" value="{{.Manifest}}"><input type="hidden" name="state" value="{{.State}}"><input type="hidden" name="owner" value="{{.Owner}}">
<p><label>GitHub App name <input name="name" value="{{.Name}}" required></label></p>
<p><button id="create">Create GitHub App</button></p></form>{{end}}
{{define "install"}}{{template "head" .}}<form method="post" action="/apps/{{.Slug}}/installations">
<input type="hidden" name="state" value="{{.State}}">
<p><label>Account <select name="account">{{range .Accounts}}<option>{{.}}</option>{{end}}</select></label></p>
<p><button id="install">Install</button></p></form>{{end}}
`))

func page200(w http.ResponseWriter, status int, name string, data object) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := pages.ExecuteTemplate(w, name, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func problem(w http.ResponseWriter, status int, text string) {
	page200(w, status, "problem", object{"Title": "This did not work", "Problem": text})
}

// serveManifestForm is where an App's set-up page sends its manifest: the user
// confirms the name.
func (s *Server) serveManifestForm(w http.ResponseWriter, r *http.Request) {
	m, text, err := readManifest(r)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	owner := r.PathValue("org") + r.PathValue("enterprise")
	page200(w, http.StatusOK, "manifest", object{
		"Title": "Create GitHub App", "Name": m.Name, "Manifest": text, "State": r.URL.Query().Get("state"), "Owner": owner,
	})
}

func readManifest(r *http.Request) (manifest, string, error) {
	var m manifest
	text := r.PostFormValue("manifest")
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return m, text, errorf(http.StatusUnprocessableEntity, "The manifest is not valid JSON.")
	}
	if m.URL == "" {
		return m, text, errorf(http.StatusUnprocessableEntity, "Error: \"url\" wasn't supplied.")
	}
	if m.Hook.URL == "" && (m.Hook.Active == nil || *m.Hook.Active) && len(m.Events) > 0 {
		return m, text, errorf(http.StatusUnprocessableEntity, "Error: hook_attributes \"url\" wasn't supplied.")
	}
	return m, text, nil
}

// serveManifestConfirmed makes the App and sends the browser back with a code.
func (s *Server) serveManifestConfirmed(w http.ResponseWriter, r *http.Request) {
	m, _, err := readManifest(r)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		problem(w, http.StatusInternalServerError, "No key could be made.")
		return
	}
	if name := r.PostFormValue("name"); name != "" {
		m.Name = name
	}
	opts := AppOptions{
		Name: m.Name, Owner: r.PostFormValue("owner"), Permissions: m.Permissions, Events: m.Events, SetupURL: m.SetupURL, WebhookSecret: rand.Text(), Key: key,
	}
	if opts.Permissions == nil {
		opts.Permissions = map[string]string{}
	}
	if m.Hook.Active == nil || *m.Hook.Active {
		opts.WebhookURL = m.Hook.URL
	}
	if opts.Events == nil {
		opts.Events = []string{}
	}
	s.mu.Lock()
	code, err := s.addManifestApp(opts, m)
	s.mu.Unlock()
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	back, err := url.Parse(m.RedirectURL)
	if err != nil || m.RedirectURL == "" {
		page200(w, http.StatusOK, "problem", object{"Title": "App created", "Problem": "The code is " + code})
		return
	}
	q := back.Query()
	q.Set("code", code)
	if state := r.PostFormValue("state"); state != "" {
		q.Set("state", state)
	}
	back.RawQuery = q.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (s *Server) addManifestApp(opts AppOptions, m manifest) (string, error) {
	a, err := s.addApp(opts, opts.Key)
	if err != nil {
		return "", err
	}
	a.description, a.externalURL = m.Description, m.URL
	code := s.chance.text("manifest", 40, hexDigits)
	s.manifests[code] = &manifestCode{app: a, secret: opts.WebhookSecret, expires: s.now().Add(s.cfg.ManifestLifetime)}
	s.changed()
	return code, nil
}

// convertManifest trades the code for the App's credentials, once.
func (s *Server) convertManifest(c *call) (reply, error) {
	code := c.r.PathValue("code")
	m := s.manifests[code]
	delete(s.manifests, code)
	if m == nil || !c.now.Before(m.expires) {
		return reply{}, notFound()
	}
	view := s.appView(m.app)
	view["client_secret"], view["webhook_secret"], view["pem"] = m.app.clientSecret, orNull(m.secret), m.app.pem()
	return created(view)
}

func (s *Server) appBySlug(slug string) *app {
	for _, a := range s.appList {
		if a.slug == slug {
			return a
		}
	}
	return nil
}

func (s *Server) serveInstallForm(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	a := s.appBySlug(r.PathValue("slug"))
	var logins []string
	for login := range sortedAccounts(s.accounts) {
		logins = append(logins, login)
	}
	s.mu.Unlock()
	if a == nil {
		problem(w, http.StatusNotFound, "There is no such App.")
		return
	}
	page200(w, http.StatusOK, "install", object{"Title": "Install " + a.name, "Slug": a.slug, "Accounts": logins, "State": r.URL.Query().Get("state")})
}

func sortedAccounts(all map[string]*account) func(func(string) bool) {
	names := map[string]bool{}
	for _, a := range all {
		names[a.login] = true
	}
	return sorted(names)
}

func (s *Server) serveInstall(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	a := s.appBySlug(r.PathValue("slug"))
	s.mu.Unlock()
	if a == nil {
		problem(w, http.StatusNotFound, "There is no such App.")
		return
	}
	id, err := s.Install(a.id, r.PostFormValue("account"), strings.Fields(r.PostFormValue("repositories"))...)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	back, err := url.Parse(a.setupURL)
	if err != nil || a.setupURL == "" {
		page200(w, http.StatusOK, "problem", object{"Title": "Installed", "Problem": "The App " + a.name + " is installed."})
		return
	}
	q := back.Query()
	q.Set("installation_id", encodeID(id))
	q.Set("setup_action", "install")
	if state := r.PostFormValue("state"); state != "" {
		q.Set("state", state)
	}
	back.RawQuery = q.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}
