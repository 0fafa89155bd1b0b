package githubsim

import (
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// prepareJIT fetches a key, which may have to be made first.
func (s *Server) prepareJIT(c *call) error {
	c.made = s.keys.take()
	return nil
}

// maxRunnerName is the length that GitHub's own pages allow.
const maxRunnerName = 64

func (s *Server) generateJIT(c *call) (reply, error) {
	var in struct {
		Name       string    `json:"name"`
		Group      *int64    `json:"runner_group_id"`
		Labels     *[]string `json:"labels"`
		WorkFolder string    `json:"work_folder"`
	}
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	g, err := c.jitGroup(in.Name, in.Group, in.Labels != nil)
	if err != nil {
		return reply{}, err
	}
	if err := checkLabels(*in.Labels, 1); err != nil {
		return reply{}, err
	}
	if c.scope.names[strings.ToLower(in.Name)] != nil {
		return reply{}, errorf(http.StatusConflict, "Already exists - A runner with the name %s already exists.", in.Name)
	}
	if s.full(c.scope) {
		return reply{}, s.secondaryError()
	}
	key := c.made.(jitKey)
	r := s.register(c.scope, in.Name, g, *in.Labels)
	r.ephemeral, r.jit, r.key, r.jitParams = true, true, &key.key.PublicKey, key.params
	if r.workFolder = in.WorkFolder; r.workFolder == "" {
		r.workFolder = "_work"
	}
	s.watchAbsence(r)
	return created(object{"runner": s.runnerView(r), "encoded_jit_config": s.jitConfig(r)})
}

// jitGroup checks name and group in the order in which GitHub complains.
func (c *call) jitGroup(name string, id *int64, labels bool) (*group, error) {
	for _, key := range []struct {
		name    string
		present bool
	}{{"name", name != ""}, {"runner_group_id", id != nil}, {"labels", labels}} {
		if !key.present {
			return nil, errorf(http.StatusUnprocessableEntity, "Invalid input: object is missing required key: %s.", key.name)
		}
	}
	if len(name) > maxRunnerName {
		return nil, invalid("name", "invalid")
	}
	if *id == hostedGroup {
		return nil, errorf(http.StatusForbidden, "Resource not accessible by integration")
	}
	g := c.scope.group(*id)
	if g == nil {
		return nil, notFound()
	}
	return g, nil
}

// jitConfig is the blob that run.sh --jitconfig takes: base64 of a JSON object of
// file names and base64 contents.
func (s *Server) jitConfig(r *runner) string {
	settings := encode(message.Settings{
		DisableUpdate: r.set != nil && r.set.disableUpdate,
		AgentID:       r.id, AgentName: r.name, PoolID: 1, Ephemeral: true, ServerURL: s.pipelinesURL(r.scope), WorkFolder: r.workFolder,
		UseV2Flow: true, ServerURLV2: s.brokerURL(),
	})
	credentials := encode(message.Credentials{Scheme: "OAuth", Data: map[string]string{
		"clientId": r.clientID, "authorizationUrl": s.authorizationURL(), "requireFipsCryptography": "false",
	}})
	return base64.StdEncoding.EncodeToString(encode(map[string]string{
		message.FileSettings:    base64.StdEncoding.EncodeToString(settings),
		message.FileCredentials: base64.StdEncoding.EncodeToString(credentials),
		message.FileRSAParams:   r.jitParams,
	}))
}

// registrationToken is a token for config.sh.
type registrationToken struct {
	scope   *scope
	purpose string // register or remove
	expires time.Time
	who     identity // who asked for it
}

func (s *Server) createRegistrationToken(purpose string) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		t := &registrationToken{scope: c.scope, purpose: purpose, expires: c.now.Add(s.cfg.RegistrationLifetime), who: c.who}
		secret := s.chance.text("registration", 29, base32Upper)
		s.registrations[secret] = t
		s.after(s.cfg.RegistrationLifetime+time.Minute, func() { delete(s.registrations, secret) })
		// With milliseconds and an offset, unlike all other times of the API.
		return created(object{"token": secret, "expires_at": t.expires.Format("2006-01-02T15:04:05.000-07:00")})
	}
}
