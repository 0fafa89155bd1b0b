package githubsim

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// registrationRoutes are what config.sh talks to.
func (s *Server) registrationRoutes(mux *http.ServeMux) {
	for _, prefix := range []string{"", "/api/v3"} {
		mux.HandleFunc("POST "+prefix+"/actions/runner-registration", late(s.serveRegistration))
		mux.HandleFunc("POST "+prefix+"/actions/runners/register", late(s.serveRegister))
	}
}

// registration finds the scope of a RemoteAuth token that was made for purpose.
func (s *Server) registration(r *http.Request, purpose, target string) *registrationToken {
	scheme, secret := credentials(r)
	t := s.registrations[secret]
	if scheme != "remoteauth" || t == nil || t.purpose != purpose || !s.now().Before(t.expires) {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || !strings.EqualFold(strings.Trim(u.Path, "/"), t.scope.path()) {
		return nil
	}
	return t
}

func (s *Server) serveRegistration(w http.ResponseWriter, r *http.Request) {
	var in message.RegistrationRequest
	if !read(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	given := s.registration(r, in.Event, in.URL)
	if given == nil {
		answer(w, http.StatusNotFound, object{"message": "Not Found", "documentation_url": docs, "status": "404"})
		return
	}
	expires := s.now().Add(s.cfg.AdminTokenLifetime)
	secret := s.opaqueJWT("pipelines", expires)
	s.registrations[secret] = &registrationToken{scope: given.scope, purpose: "pipelines", expires: expires, who: given.who}
	s.after(s.cfg.AdminTokenLifetime+time.Minute, func() { delete(s.registrations, secret) })
	answer(w, http.StatusOK, message.Registration{URL: s.pipelinesURL(given.scope), Token: secret, TokenSchema: "OAuthAccessToken", UseV2Flow: true})
}

func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request) {
	var in message.RegisterRequest
	if !read(w, r, &in) {
		return
	}
	key, err := publicKey(in.PublicKey)
	if err != nil || key.N.BitLen() < 1024 {
		refuse(w, brokerSource, http.StatusBadRequest, "", "The public key cannot be read.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	given := s.registration(r, "register", in.URL)
	if given == nil {
		refuse(w, brokerSource, http.StatusNotFound, "", "Not Found")
		return
	}
	sc := given.scope
	g := sc.groupNamed(in.Group)
	if g == nil {
		refuse(w, brokerSource, http.StatusNotFound, "", "Could not find any self-hosted runner group named %q.", in.Group)
		return
	}
	if err := checkLabels(in.Labels, 0); err != nil || in.Name == "" || len(in.Name) > maxRunnerName {
		refuse(w, brokerSource, http.StatusUnprocessableEntity, "", "The name or a label is not valid.")
		return
	}
	if old := sc.names[strings.ToLower(in.Name)]; old != nil {
		if !in.Replace || old.really() {
			refuse(w, brokerSource, http.StatusConflict, "", "Already exists - A runner with the name %s already exists.", in.Name)
			return
		}
		s.removeRunner(old, "replaced")
	}
	if s.full(sc) {
		refuse(w, brokerSource, http.StatusTooManyRequests, "", "Too many runners were registered.")
		return
	}
	one := s.register(sc, in.Name, g, in.Labels)
	one.ephemeral, one.key, one.version = in.Ephemeral, key, in.Version
	s.watchAbsence(one)
	answer(w, http.StatusOK, message.RegisterAnswer{ID: one.id, Name: one.name, Authorization: message.Authorization{
		AuthorizationURL: s.authorizationURL(), ServerURL: s.brokerURL(), ClientID: one.clientID,
	}})
}
