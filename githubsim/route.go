package githubsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// route is one REST route: its pattern, who may call it, and what it does.
type route struct {
	pattern string // with its method, as in http.ServeMux
	method  string
	path    string // without {…} names resolved; the key of limits and books
	who     audience
	// needs are alternative sets of permissions for installation tokens, each
	// "administration=write"; several in one set are joined by commas.
	needs []string
	// scopes are the alternatives for personal access tokens.
	scopes []string
	// content counts against the limit on creating content.
	content bool
	// prepare runs before do without the lock, for what takes long.
	prepare func(*call) error
	// do runs with Server.mu held and must not block.
	do func(*call) (reply, error)
}

// audience says which credentials a route takes.
type audience int

const (
	anyone   audience = iota
	appOnly           // App JWT
	tokens            // installation token or personal access token
	people            // personal access token only
	tokenApp          // installation token only
)

// apiVersions are the values of X-GitHub-Api-Version that are known.
var apiVersions = []string{"2022-11-28", "2026-03-10"}

const newestVersion = "2026-03-10"

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	var all []*route
	for _, noun := range [][]*route{
		s.appRoutes(), s.installationRoutes(), s.metaRoutes(), s.deliveryRoutes(), s.hookRoutes(), s.manifestRoutes(),
		s.repositoryRoutes(), s.runnerRoutes(), s.groupRoutes(), s.runRoutes(), s.jobRoutes(), s.checkRoutes(),
	} {
		all = append(all, noun...)
	}
	for _, rt := range all {
		rt.method, rt.path, _ = strings.Cut(rt.pattern, " ")
		h := s.serveREST(rt)
		mux.HandleFunc(rt.pattern, h)
		mux.HandleFunc(rt.method+" /api/v3"+rt.path, h)
	}
	// Anything else, and any other method, is not found, as with GitHub.
	unknown := s.serveREST(&route{path: "/{unknown...}", do: func(*call) (reply, error) { return reply{}, notFound() }})
	mux.HandleFunc("/{unknown...}", unknown)
	s.brokerRoutes(mux)
	s.webRoutes(mux)
	return mux
}

// serveREST is the way of every REST request: the faults of the network, the
// caller's identity, limits, permissions, the handler, and the headers that
// every answer carries.
func (s *Server) serveREST(rt *route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			return
		}
		c := &call{s: s, w: w, r: r, route: rt, body: body, version: apiVersions[0]}
		if rt.method == "" {
			c.route = &route{method: r.Method, path: rt.path, do: rt.do}
		}
		slow, broken, lost := s.faults.strike(c.route)
		if broken != 0 {
			s.mu.Lock()
			s.books.call(c.route, "")
			s.fault("server error")
			s.mu.Unlock()
			c.fail(errorf(broken, "Server Error"))
			return
		}
		rep, err := c.run(slow)
		if lost {
			// The work is done and the answer is not: what a client sees when the
			// connection breaks after the commit.
			s.mu.Lock()
			s.fault("lost answer")
			s.mu.Unlock()
			c.fail(errorf(http.StatusBadGateway, "Server Error"))
			return
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.send(rep)
	}
}

// pause waits unless the client or the server leaves first.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.stopping.Done():
	}
	return false
}

func (c *call) run(slow time.Duration) (reply, error) {
	s := c.s
	if c.r.UserAgent() == "" {
		return reply{}, errorf(http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header (https://docs.github.com/en/rest/overview/resources-in-the-rest-api#user-agent-required).")
	}
	if v := c.r.Header.Get("X-GitHub-Api-Version"); v != "" {
		if !slices.Contains(apiVersions, v) {
			return reply{}, errorf(http.StatusBadRequest, "%q is not a supported version of the API. Supported versions: %s", v, strings.Join(apiVersions, ", "))
		}
		c.version = v
	}
	if err := c.enter(); err != nil {
		return reply{}, err
	}
	defer c.leave()
	if slow > 0 && !s.pause(c.r.Context(), slow) {
		return reply{}, errorf(http.StatusBadGateway, "Server Error")
	}
	if c.route.prepare != nil {
		if err := c.route.prepare(c); err != nil {
			return reply{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.now = s.now()
	return c.route.do(c)
}

// enter finds out who calls and whether they may, and books the call.
func (c *call) enter() error {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base == "" {
		// Mounted without a word about where: the first request tells.
		s.setBase("http://" + c.r.Host)
	}
	c.now = s.now()
	err := c.identify()
	s.books.call(c.route, c.who.name())
	if err != nil {
		return err
	}
	if err := c.take(); err != nil {
		return err
	}
	if err := c.authorize(); err != nil {
		c.release()
		return err
	}
	return nil
}

func (c *call) leave() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.release()
}

// send writes the answer of a handler.
func (c *call) send(rep reply) {
	h := c.header()
	if rep.links != nil {
		if l := rep.links.link(c.s.URL(), c.r.URL); l != "" {
			h.Set("Link", l)
		}
	}
	if rep.location != "" {
		h.Set("Location", rep.location)
	}
	if rep.body == nil {
		c.limitHeaders()
		c.w.WriteHeader(rep.status)
		return
	}
	body := encode(rep.body)
	if c.r.Method == http.MethodGet && rep.status == http.StatusOK {
		tag := etag(c.who.secret, body)
		h.Set("ETag", tag)
		if matches(c.r.Header.Get("If-None-Match"), tag) {
			c.refund()
			c.limitHeaders()
			c.w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	c.limitHeaders()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if c.s.faults.emptyBody(c.route, rep.status) {
		c.w.WriteHeader(rep.status)
		return
	}
	c.w.WriteHeader(rep.status)
	_, _ = c.w.Write(body)
}

func matches(header, tag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == tag || part == "*" || "W/"+part == tag {
			return true
		}
	}
	return false
}

// fail writes an error in GitHub's shape.
func (c *call) fail(err error) {
	e, isAPI := errors.AsType[*apiError](err)
	if !isAPI {
		e = errorf(http.StatusInternalServerError, "Server Error")
	}
	h := c.header()
	for k, v := range e.header {
		h[k] = v
	}
	c.limitHeaders()
	h.Set("Content-Type", "application/json; charset=utf-8")
	body := object{"message": e.message, "documentation_url": e.doc, "status": fmt.Sprint(e.status)}
	if e.details != nil {
		body["errors"] = e.details
	}
	c.w.WriteHeader(e.status)
	_, _ = c.w.Write(encode(body))
}

// header sets what every answer carries.
func (c *call) header() http.Header {
	h := c.w.Header()
	h.Set("Date", c.s.now().Format(http.TimeFormat))
	h.Set("X-GitHub-Request-Id", c.s.requestID())
	h.Set("X-GitHub-Media-Type", "github.v3; format=json")
	h.Set("X-GitHub-Api-Version-Selected", c.version)
	if len(c.route.needs) > 0 {
		h.Set("X-Accepted-GitHub-Permissions", strings.Join(c.route.needs, "; "))
	}
	if c.s.cfg.EnterpriseServer {
		h.Set("X-GitHub-Enterprise-Version", enterpriseVersion)
	}
	return h
}

// enterpriseVersion is the release that GHES mode imitates.
const enterpriseVersion = "3.19.0"

// requestID has the shape of X-GitHub-Request-Id; it means nothing.
func (s *Server) requestID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ToUpper(s.chance.text("request", 4, hexDigits) + ":" + s.chance.text("request", 6, hexDigits) + ":" +
		s.chance.text("request", 7, hexDigits) + ":" + s.chance.text("request", 7, hexDigits) + ":" + s.chance.text("request", 8, hexDigits))
}
