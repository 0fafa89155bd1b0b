package githubsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scaleSet is one runner scale set: jobs are given to the set first, and the set's
// runners take them from there.
type scaleSet struct {
	id            int64
	name          string
	scope         *scope
	group         *group
	labels        []label
	types         []string // of labels: System or User
	disableUpdate bool
	createdOn     time.Time

	// market stands for the set among the runners that jobs are offered to.
	market  *class
	runners map[int64]*runner
	jobs    map[*job]bool // given to the set and not completed
	offered map[int64]*job
	session *setSession
	// capacity is what the listener announced last.
	capacity int

	pending []json.RawMessage // not in a message yet
	queue   []*setMessage     // not acknowledged
	wake    chan struct{}
}

func (set *scaleSet) notify() {
	close(set.wake)
	set.wake = make(chan struct{})
}

// tag is the mark under which the market finds what belongs to the set. No label
// can begin with it.
func (set *scaleSet) tag() string { return "\x00set/" + encodeID(set.id) }

// exception is an error in the shape of the actions service.
type exception struct {
	status     int
	kind, text string
	retryAfter time.Duration
}

func (e *exception) Error() string { return e.text }

const (
	runtimeErrors = "GitHub.Actions.Runtime.WebApi."
	agentErrors   = "GitHub.DistributedTask.WebApi."
)

func exceptionf(status int, kind, format string, args ...any) *exception {
	space, _, _ := strings.Cut(kind, ".WebApi.")
	return &exception{status: status, kind: kind + ", " + space + ".WebApi", text: fmt.Sprintf(format, args...)}
}

func setNotFound(id string) *exception {
	return exceptionf(http.StatusNotFound, runtimeErrors+"RunnerScaleSetNotFoundException", "No runner scale set found with identifier %s.", id)
}

// serviceCall is one request to the actions service.
type serviceCall struct {
	r     *http.Request
	body  []byte
	token *registrationToken
	set   *scaleSet // that the path names
	key   jitKey    // of generatejitconfig
}

func (c *serviceCall) decode(v any) error {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		return exceptionf(http.StatusBadRequest, "GitHub.Services.Common.WebApi.VssPropertyValidationException", "The request cannot be read: %v", err)
	}
	return nil
}

// scaleSetRoutes are the part of the actions service that listeners and
// controllers of scale sets talk to, and config.sh remove.
func (s *Server) scaleSetRoutes(mux *http.ServeMux) {
	handle := func(pattern string, do func(*serviceCall) (any, error)) {
		method, path, _ := strings.Cut(pattern, " ")
		rt := &route{method: method, path: path, pattern: pattern}
		for _, owner := range []string{"/{owner}", "/{owner}/{repo}"} {
			mux.HandleFunc(method+" /_services/pipelines"+owner+path, s.serveService(rt, s.admin, do))
		}
	}
	const sets, agents = "/_apis/runtime/runnerscalesets", "/_apis/distributedtask/pools/0/agents"
	handle("GET /_apis/runtime/runnergroups", s.listSetGroups)
	handle("GET /_apis/runtime/runnergroups/{$}", s.listSetGroups)
	handle("GET "+sets, s.listSets)
	handle("POST "+sets, s.createSet)
	handle("GET "+sets+"/{set}", s.getSet)
	handle("PATCH "+sets+"/{set}", s.updateSet)
	handle("DELETE "+sets+"/{set}", s.deleteSet)
	handle("POST "+sets+"/{set}/generatejitconfig", s.generateSetJIT)
	handle("GET "+sets+"/{set}/acquirablejobs", s.listAcquirable)
	handle("POST "+sets+"/{set}/sessions", s.createSetSession)
	handle("PATCH "+sets+"/{set}/sessions/{session}", s.refreshSetSession)
	handle("DELETE "+sets+"/{set}/sessions/{session}", s.deleteSetSession)
	handle("GET "+agents, s.listAgents)
	handle("GET "+agents+"/{agent}", s.getAgent)
	handle("DELETE "+agents+"/{agent}", s.deleteAgent)
	s.setQueueRoutes(mux)
}

// serveService is the way of every request to the actions service but the long
// poll: the faults of the network, the caller, the handler with mu held.
func (s *Server) serveService(rt *route, identify func(*serviceCall) error, do func(*serviceCall) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			return
		}
		slow, broken, lost := s.faults.strike(rt)
		if slow > 0 && !s.pause(r.Context(), slow) {
			return
		}
		c := &serviceCall{r: r, body: body}
		if rt.jit() {
			c.key = s.keys.take()
		}
		out, err := s.runServiceCall(c, rt, broken, lost, identify, do)
		s.answerService(w, out, err)
	}
}

func (s *Server) runServiceCall(c *serviceCall, rt *route, broken int, lost bool, identify func(*serviceCall) error, do func(*serviceCall) (any, error)) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := identify(c)
	caller := ""
	if c.token != nil {
		caller = "scaleset/" + c.token.scope.path()
	}
	s.books.call(rt, caller)
	if broken != 0 {
		s.fault("server error")
		return nil, &exception{status: broken}
	}
	if err != nil {
		return nil, err
	}
	out, err := do(c)
	if lost {
		s.fault("lost answer")
		return nil, &exception{status: http.StatusBadGateway}
	}
	return out, err
}

// answerService writes an answer: nil is 204.
func (s *Server) answerService(w http.ResponseWriter, out any, err error) {
	h := w.Header()
	h.Set("X-GitHub-Request-Id", s.requestID())
	s.mu.Lock()
	h.Set("ActivityId", s.chance.uuid("activity"))
	s.mu.Unlock()
	if err != nil {
		e, known := errors.AsType[*exception](err)
		if !known {
			e = exceptionf(http.StatusInternalServerError, runtimeErrors+"RuntimeException", "%v", err)
		}
		if e.retryAfter > 0 {
			h.Set("Retry-After", strconv.Itoa(max(1, int(e.retryAfter.Seconds()))))
		}
		if e.kind == "" {
			http.Error(w, http.StatusText(e.status), e.status)
			return
		}
		answer(w, e.status, object{"typeName": e.kind, "message": e.text})
		return
	}
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	answer(w, http.StatusOK, out)
}

// admin finds out who calls by the token of runner-registration, and the scale set
// that the path names. The caller holds mu.
func (s *Server) admin(c *serviceCall) error {
	_, secret := credentials(c.r)
	t := s.registrations[secret]
	path := c.r.PathValue("owner")
	if repo := c.r.PathValue("repo"); repo != "" {
		path += "/" + repo
	}
	if t == nil || t.purpose != "pipelines" || !s.now().Before(t.expires) || !strings.EqualFold(path, t.scope.path()) {
		return exceptionf(http.StatusUnauthorized, "GitHub.Services.Common.WebApi.VssUnauthorizedException", "The access token is not valid.")
	}
	if s.chance.hit("admin unauthorized", s.faults.now().AdminUnauthorized) {
		s.fault("admin unauthorized")
		return exceptionf(http.StatusUnauthorized, "GitHub.Services.Common.WebApi.VssUnauthorizedException", "The access token is not valid.")
	}
	c.token = t
	name := c.r.PathValue("set")
	if name == "" {
		return nil
	}
	id, err := strconv.ParseInt(name, 10, 64)
	if c.set = s.scaleSets[id]; err != nil || c.set == nil || c.set.scope != t.scope {
		return setNotFound(name)
	}
	return nil
}

func counted(all []object) object {
	return object{"count": len(all), "value": append([]object{}, all...)}
}

func (s *Server) listSetGroups(c *serviceCall) (any, error) {
	var out []object
	for _, g := range c.token.scope.groups {
		if name := c.r.URL.Query().Get("groupName"); name != "" && !strings.EqualFold(name, g.name) {
			continue
		}
		size := 0
		for _, r := range c.token.scope.runners {
			if r.group == g {
				size++
			}
		}
		out = append(out, object{"id": g.id, "name": g.name, "size": size, "isDefaultGroup": g.isDefault})
	}
	return counted(out), nil
}

// setsOf are a scope's scale sets, oldest first.
func (s *Server) setsOf(sc *scope) []*scaleSet {
	return slices.DeleteFunc(slices.Clone(s.setList), func(set *scaleSet) bool { return set.scope != sc })
}

func (s *Server) listSets(c *serviceCall) (any, error) {
	q := c.r.URL.Query()
	var out []object
	for _, set := range s.setsOf(c.token.scope) {
		if name := q.Get("name"); name != "" && !strings.EqualFold(name, set.name) {
			continue
		}
		if id := q.Get("runnerGroupId"); id != "" && id != encodeID(set.group.id) {
			continue
		}
		out = append(out, s.setView(set))
	}
	return counted(out), nil
}

// setInput is what POST and PATCH of a scale set take.
type setInput struct {
	Name    string `json:"name"`
	GroupID int64  `json:"runnerGroupId"`
	Labels  []struct {
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"labels"`
	Setting *struct {
		DisableUpdate bool `json:"disableUpdate"`
	} `json:"RunnerSetting"`
}

func (s *Server) createSet(c *serviceCall) (any, error) {
	var in setInput
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Name == "" {
		return nil, exceptionf(http.StatusBadRequest, runtimeErrors+"InvalidRunnerScaleSetException", "The runner scale set needs a name.")
	}
	if in.GroupID == 0 {
		in.GroupID = 1
	}
	if in.Labels == nil {
		in.Labels = append(in.Labels, struct {
			Type string `json:"type"`
			Name string `json:"name"`
		}{"System", in.Name})
	}
	set := &scaleSet{
		capacity: -1, scope: c.token.scope, createdOn: s.now(), runners: map[int64]*runner{}, jobs: map[*job]bool{}, offered: map[int64]*job{}, wake: make(chan struct{}),
	}
	if err := s.editSet(set, in); err != nil {
		return nil, err
	}
	set.id = s.id(&s.ids.scaleSet)
	s.scaleSets[set.id] = set
	s.setList = append(s.setList, set)
	s.changed()
	return s.setView(set), nil
}

// editSet changes what in names. A set that is refused is left as it was.
func (s *Server) editSet(set *scaleSet, in setInput) error {
	name, g := set.name, set.group
	if in.Name != "" {
		name = in.Name
	}
	if in.GroupID != 0 {
		if g = set.scope.group(in.GroupID); g == nil {
			return exceptionf(http.StatusNotFound, runtimeErrors+"RunnerGroupNotFoundException", "No runner group found with identifier %d.", in.GroupID)
		}
	}
	for _, other := range s.setsOf(set.scope) {
		if other != set && other.group == g && strings.EqualFold(other.name, name) {
			return exceptionf(http.StatusBadRequest, runtimeErrors+"RunnerScaleSetExistsException", "Runner scale set %s already exists in runner group %s.", name, g.name)
		}
	}
	if in.Labels != nil {
		var names, types []string
		for _, l := range in.Labels {
			if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, l.Name) }) {
				kind := l.Type
				if kind == "" {
					kind = "System"
				}
				names, types = append(names, l.Name), append(types, kind)
			}
		}
		if checkLabels(names, 1) != nil {
			return exceptionf(http.StatusBadRequest, runtimeErrors+"InvalidRunnerScaleSetException", "The labels of %s are not valid.", name)
		}
		set.labels, set.types = s.labelSet(names), types
	}
	if in.Setting != nil {
		set.disableUpdate = in.Setting.DisableUpdate && !s.chance.hit("ignore disableUpdate", s.faults.now().IgnoreDisableUpdate)
	}
	set.name, set.group = name, g
	set.market = &class{scope: set.scope, group: g, labels: map[string]bool{"": true}}
	for _, l := range set.labels {
		set.market.labels[strings.ToLower(l.name)] = true
	}
	return nil
}

func (s *Server) getSet(c *serviceCall) (any, error) { return s.setView(c.set), nil }

func (s *Server) updateSet(c *serviceCall) (any, error) {
	var in setInput
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if err := s.editSet(c.set, in); err != nil {
		return nil, err
	}
	s.fillSet(c.set)
	s.changed()
	return s.setView(c.set), nil
}

func (s *Server) deleteSet(c *serviceCall) (any, error) {
	s.removeSet(c.set, "deleted")
	return nil, nil
}

// removeSet ends a scale set: its waiting jobs are anybody's again, its runners
// that run nothing are unregistered.
func (s *Server) removeSet(set *scaleSet, why string) {
	delete(s.scaleSets, set.id)
	s.setList = without(s.setList, set)
	s.endSetSession(set)
	for _, j := range set.byArrival() {
		if j.status != inProgress {
			s.disown(j)
			if j.assigned == nil {
				s.enqueue(j)
			}
		}
	}
	for _, r := range slices.Clone(set.scope.runners) {
		if r.set == set && !r.really() {
			s.removeRunner(r, "scale set "+why)
		}
	}
	set.notify()
	s.changed()
}

// VanishScaleSet removes a scale set as GitHub did with sets whose listener was
// away for long: whoever names it gets 404 from now on.
func (s *Server) VanishScaleSet(id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.scaleSets[id]
	if set == nil {
		return fmt.Errorf("vanish: scale set %d does not exist", id)
	}
	s.fault("vanished scale set")
	s.removeSet(set, "vanished")
	return nil
}

func (s *Server) setView(set *scaleSet) object {
	labels := make([]object, len(set.labels))
	for i, l := range set.labels {
		labels[i] = object{"id": l.id, "name": l.name, "type": set.types[i]}
	}
	status := "offline"
	if s.present(set) {
		status = "online"
	}
	self := fmt.Sprintf("%s_apis/runtime/runnerscalesets/%d", s.pipelinesURL(set.scope), set.id)
	return object{
		"id": set.id, "name": set.name, "runnerGroupId": set.group.id, "runnerGroupName": set.group.name, "labels": labels,
		"RunnerSetting": object{"ephemeral": true, "isElastic": true, "disableUpdate": set.disableUpdate}, "createdOn": set.createdOn,
		"runnerJitConfigUrl": self + "/generatejitconfig", "getAcquirableJobsUrl": self + "/acquirablejobs", "acquireJobsUrl": self + "/acquirejobs",
		"statistics": s.statistics(set), "status": status, "enabled": true,
	}
}

func (s *Server) generateSetJIT(c *serviceCall) (any, error) {
	var in struct {
		Name       string `json:"name"`
		WorkFolder string `json:"workFolder"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if s.limited(c) {
		return nil, s.tooMany()
	}
	if in.Name == "" || len(in.Name) > maxRunnerName {
		return nil, exceptionf(http.StatusBadRequest, agentErrors+"InvalidTaskAgentException", "The name %q is not valid.", in.Name)
	}
	if c.set.scope.names[strings.ToLower(in.Name)] != nil {
		return nil, exceptionf(http.StatusConflict, agentErrors+"TaskAgentExistsException", "Pool 1 already contains an agent with name %s.", in.Name)
	}
	if s.full(c.set.scope) {
		return nil, s.tooMany()
	}
	r := s.registerIn(c.set.scope, in.Name, c.set.group, views(c.set.labels, func(l label) string { return l.name }), c.set)
	r.ephemeral, r.jit, r.key, r.jitParams = true, true, &c.key.key.PublicKey, c.key.params
	if r.workFolder = in.WorkFolder; r.workFolder == "" {
		r.workFolder = "_work"
	}
	s.watchAbsence(r)
	return object{"runner": s.agentView(r), "encodedJITConfig": s.jitConfig(r)}, nil
}

// limited charges a registration to whoever asked for the token behind it: the
// secondary limits know no difference between REST and the actions service.
func (s *Server) limited(c *serviceCall) bool {
	if set := s.faults.now(); set.SecondaryLimit > 0 && s.faults.bursting() && s.chance.hit("secondary", set.SecondaryLimit) {
		s.fault("secondary limit")
		return true
	}
	most := s.cfg.PointsPerMinute
	if s.cfg.NoRateLimits || most <= 0 {
		return false
	}
	points := s.limiter(c.token.who).points
	const route = "generatejitconfig"
	if points[route] == nil {
		points[route] = &window{}
	}
	return points[route].add(s.now(), time.Minute, 5) > most
}

// tooMany is what a refused request for a runner of a scale set gets.
func (s *Server) tooMany() error {
	s.books.Limited.Secondary++
	e := &exception{status: http.StatusTooManyRequests, retryAfter: s.faults.retryAfter()}
	if s.chance.hit("no retry after", s.faults.now().NoRetryAfter) {
		e.retryAfter = 0
	}
	return e
}

func (s *Server) listAgents(c *serviceCall) (any, error) {
	all := c.token.scope.runners
	if name := c.r.URL.Query().Get("agentName"); name != "" {
		all = nil
		if r := c.token.scope.names[strings.ToLower(name)]; r != nil {
			all = []*runner{r}
		}
	}
	return counted(views(all, s.agentView)), nil
}

func (s *Server) agent(c *serviceCall) (*runner, error) {
	name := c.r.PathValue("agent")
	id, _ := strconv.ParseInt(name, 10, 64)
	r := c.token.scope.runner(id)
	if r == nil {
		return nil, exceptionf(http.StatusNotFound, agentErrors+"TaskAgentNotFoundException", "Could not find an agent with id %s in pool 1.", name)
	}
	return r, nil
}

func (s *Server) getAgent(c *serviceCall) (any, error) {
	r, err := s.agent(c)
	if err != nil {
		return nil, err
	}
	return s.agentView(r), nil
}

func (s *Server) deleteAgent(c *serviceCall) (any, error) {
	r, err := s.agent(c)
	if err != nil {
		return nil, err
	}
	if r.really() {
		return nil, exceptionf(http.StatusBadRequest, agentErrors+"TaskAgentJobStillRunningException", "Agent %s is currently running a job and cannot be deleted.", r.name)
	}
	s.removeRunner(r, "deleted through the actions service")
	return nil, nil
}

func (s *Server) agentView(r *runner) object {
	status, setID := "offline", int64(0)
	if s.online(r) {
		status = "online"
	}
	disable := false
	if r.set != nil {
		setID, disable = r.set.id, r.set.disableUpdate
	}
	return object{
		"id": r.id, "name": r.name, "os": r.os, "runnerScaleSetId": setID, "createdOn": r.createdAt, "runnerGroupId": r.group.id,
		"runnerGroupName": r.group.name, "version": r.version, "enabled": true, "ephemeral": r.ephemeral, "status": status,
		"disableUpdate": disable, "provisioningState": "Provisioned", "busy": s.busy(r), "labels": views(r.labels, label.view),
	}
}
