package githubsim

import (
	"cmp"
	"crypto/rsa"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"
)

// scope is where runners are registered: a repository, an organization or an enterprise.
type scope struct {
	account *account
	repo    *repository // nil for organizations and enterprises
	groups  []*group    // Default first
	runners []*runner   // by id
	names   map[string]*runner

	registered window // for the limit on registrations
}

func (sc *scope) runner(id int64) *runner {
	i, found := slices.BinarySearchFunc(sc.runners, id, func(r *runner, id int64) int { return cmp.Compare(r.id, id) })
	if !found {
		return nil
	}
	return sc.runners[i]
}

func (sc *scope) drop(id int64) {
	i, found := slices.BinarySearchFunc(sc.runners, id, func(r *runner, id int64) int { return cmp.Compare(r.id, id) })
	if found {
		sc.runners = slices.Delete(sc.runners, i, i+1)
	}
}

// path is the scope as it follows the host in GitHub's URLs.
func (sc *scope) path() string {
	switch {
	case sc.repo != nil:
		return sc.repo.fullName()
	case sc.account.kind == enterprise:
		return "enterprises/" + sc.account.login
	}
	return sc.account.login
}

// runner is one registration.
type runner struct {
	id         int64
	name       string
	scope      *scope
	group      *group
	labels     []label
	os         string
	version    string // empty until the first connection
	ephemeral  bool
	jit        bool
	createdAt  time.Time
	clientID   string
	key        *rsa.PublicKey
	jitParams  string
	workFolder string

	session     *session
	connectedAt time.Time // first session
	idleSince   time.Time
	assignedAt  time.Time
	job         *job      // assigned or running
	jobs        int       // taken so far
	consumed    bool      // one-job registration that was given its job
	lingering   bool      // job over, record still there
	stuck       bool      // by fault: offline and busy
	set         *scaleSet // whose jobs it takes; nil for all others
	removed     bool
	removedWhy  string

	access  []string // OAuth tokens
	class   *class
	idleAt  int // in class.idle; -1 when not idle
	absence *entry
	reaper  *entry
}

type label struct {
	id   int64
	name string
	kind string // read-only or custom
}

// wellKnown are the labels that config.sh gives by itself.
var wellKnown = []string{"self-hosted", "linux", "windows", "macos", "x64", "arm", "arm64"}

func (s *Server) label(name string) label {
	key := strings.ToLower(name)
	id := s.labelIDs[key]
	if id == 0 {
		id = s.id(&s.ids.label)
		s.labelIDs[key] = id
	}
	kind := "custom"
	if slices.Contains(wellKnown, key) {
		kind = "read-only"
	}
	return label{id, name, kind}
}

// labelSet makes labels of names without doubles.
func (s *Server) labelSet(names []string) []label {
	var out []label
	for _, name := range names {
		if !slices.ContainsFunc(out, func(l label) bool { return strings.EqualFold(l.name, name) }) {
			out = append(out, s.label(name))
		}
	}
	return out
}

// online reports what GitHub believes, which lags behind the truth.
func (s *Server) online(r *runner) bool {
	if r.session == nil || r.stuck {
		return false
	}
	now := s.now()
	if lag := time.Duration(s.faults.now().StatusLag); lag > 0 && now.Sub(r.connectedAt) < lag {
		return false
	}
	return s.heard(r.session)
}

// busy reports what GitHub shows; really is what it acts upon.
func (s *Server) busy(r *runner) bool {
	if lie := time.Duration(s.faults.now().LyingBusy); lie > 0 && !r.assignedAt.IsZero() && s.now().Sub(r.assignedAt) < lie {
		return false
	}
	if r.really() && s.chance.hit("busy glitch", s.faults.now().BusyGlitches) {
		s.fault("busy glitch")
		return false
	}
	return r.really()
}

func (r *runner) really() bool { return r.job != nil || r.lingering }

// register adds a runner to a scope. The name must be free.
func (s *Server) register(sc *scope, name string, g *group, labels []string) *runner {
	return s.registerIn(sc, name, g, labels, nil)
}

// registerIn is register for a scale set, or for none.
func (s *Server) registerIn(sc *scope, name string, g *group, labels []string, set *scaleSet) *runner {
	r := &runner{set: set,
		id: s.id(&s.ids.runner), name: name, scope: sc, group: g, labels: s.labelSet(labels), os: "unknown",
		createdAt: s.now(), clientID: s.chance.uuid("client id"), idleAt: -1,
	}
	s.runners[r.id] = r
	if set != nil {
		set.runners[r.id] = r
	}
	s.clients[r.clientID] = r
	sc.runners = append(sc.runners, r)
	sc.names[strings.ToLower(name)] = r
	s.classify(r)
	s.books.registered(r)
	s.cfg.Logger.Debug("registered", "runner", name, "id", r.id, "scope", sc.path())
	s.changed()
	return r
}

// full says that no more runners may be registered in this scope just now.
func (s *Server) full(sc *scope) bool {
	limit := s.cfg.RegistrationsPer5Minutes
	return limit > 0 && sc.registered.add(s.now(), 5*time.Minute, 1) > limit
}

// removeRunner ends a registration. A job that runs on it is not touched: the
// runner finds out at its next call, as with GitHub.
func (s *Server) removeRunner(r *runner, why string) {
	if r.removed {
		return
	}
	r.removed, r.removedWhy = true, why
	s.withdraw(r)
	s.declassify(r)
	delete(s.runners, r.id)
	if r.set != nil {
		delete(r.set.runners, r.id)
	}
	delete(s.clients, r.clientID)
	delete(r.scope.names, strings.ToLower(r.name))
	r.scope.drop(r.id)
	s.agenda.cancel(r.absence)
	s.agenda.cancel(r.reaper)
	x := r.session
	if x != nil {
		x.notify()
	}
	// For a while the runner still learns what became of it.
	s.after(time.Hour, func() {
		for _, secret := range r.access {
			delete(s.oauth, secret)
		}
		if x != nil {
			delete(s.sessions, x.id)
		}
	})
	if r.job != nil && r.job.status == inProgress {
		s.books.kill(r, r.job, "registration removed: "+why, s.now())
	}
	s.books.unregistered(r, why, s.now())
	s.cfg.Logger.Debug("unregistered", "runner", r.name, "id", r.id, "why", why)
	s.changed()
}

// watchAbsence removes a runner that stays away for too long.
func (s *Server) watchAbsence(r *runner) {
	s.agenda.cancel(r.absence)
	limit := s.cfg.AbsentKept
	if r.ephemeral {
		limit = s.cfg.AbsentEphemeral
	}
	r.absence = s.after(limit, func() {
		if r.job == nil {
			s.removeRunner(r, "not connected for too long")
		}
	})
}

// watchIdle removes a connected one-job runner that gets nothing to do.
func (s *Server) watchIdle(r *runner) {
	limit := s.cfg.IdleReaper
	if d := time.Duration(s.faults.now().IdleReaper); d > 0 {
		limit = d
	}
	s.agenda.cancel(r.reaper)
	if !r.ephemeral || limit <= 0 {
		return
	}
	r.reaper = s.after(limit, func() {
		if r.job == nil && !r.consumed {
			s.fault("idle runner reaped")
			s.removeRunner(r, "idle for too long")
		}
	})
}

// watchAllIdle starts the reaper's clock anew for whoever is idle now.
func (s *Server) watchAllIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.runners)) {
		if r := s.runners[id]; r.idleAt >= 0 {
			s.watchIdle(r)
		}
	}
}

// scopes are the three places where the same routes exist.
var scopes = []struct {
	prefix      string
	read, write []string
	personal    []string
	who         audience
}{
	{"/repos/{owner}/{repo}", []string{"administration=read"}, []string{"administration=write"}, []string{"repo"}, tokens},
	{"/orgs/{org}", []string{"organization_self_hosted_runners=read"}, []string{"organization_self_hosted_runners=write"}, []string{"admin:org"}, tokens},
	{"/enterprises/{enterprise}", nil, nil, []string{"manage_runners:enterprise", "admin:enterprise"}, people},
}

func (s *Server) runnerRoutes() []*route {
	var all []*route
	for _, at := range scopes {
		add := func(pattern string, do func(*call) (reply, error)) *route {
			method, rest, _ := strings.Cut(pattern, " ")
			needs := at.write
			if method == http.MethodGet {
				needs = at.read
			}
			rt := &route{pattern: method + " " + at.prefix + "/actions/runners" + rest, who: at.who, needs: needs, scopes: at.personal, do: do}
			all = append(all, rt)
			return rt
		}
		add("GET ", s.listRunners)
		add("GET /{runner}", s.withRunner(func(c *call, r *runner) (reply, error) { return ok(s.runnerView(r)) }))
		add("DELETE /{runner}", s.withRunner(s.deleteRunner))
		add("GET /downloads", s.listDownloads).prepare = s.prepareDownloads
		add("POST /registration-token", s.createRegistrationToken("register"))
		add("POST /remove-token", s.createRegistrationToken("remove"))
		add("POST /generate-jitconfig", s.generateJIT).prepare = s.prepareJIT
		add("GET /{runner}/labels", s.withRunner(func(c *call, r *runner) (reply, error) { return labelReply(r) }))
		add("POST /{runner}/labels", s.withRunner(s.addLabels))
		add("PUT /{runner}/labels", s.withRunner(s.setLabels))
		add("DELETE /{runner}/labels", s.withRunner(s.clearLabels))
		add("DELETE /{runner}/labels/{name}", s.withRunner(s.deleteLabel))
		if at.who == people {
			// The pattern is wider than the route, which would clash with the labels.
			add("GET /{runner}/{version}", s.getDeprecation)
		}
	}
	return all
}

func (c *call) runner() (*runner, error) {
	id, err := c.number("runner")
	if err != nil {
		return nil, err
	}
	r := c.scope.runner(id)
	if r == nil {
		return nil, notFound()
	}
	return r, nil
}

func (s *Server) withRunner(do func(*call, *runner) (reply, error)) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		r, err := c.runner()
		if err != nil {
			return reply{}, err
		}
		return do(c, r)
	}
}

func (s *Server) listRunners(c *call) (reply, error) {
	all := c.scope.runners
	if name := c.r.URL.Query().Get("name"); name != "" {
		all = nil
		if r := c.scope.names[strings.ToLower(name)]; r != nil {
			all = []*runner{r}
		}
	}
	if rate := s.faults.now().UnlistedRunners; rate > 0 {
		all = slices.DeleteFunc(slices.Clone(all), func(*runner) bool {
			hidden := s.chance.hit("unlisted runner", rate)
			if hidden {
				s.fault("unlisted runner")
			}
			return hidden
		})
	}
	return list(c, "runners", all, s.runnerView)
}

func (s *Server) deleteRunner(c *call, r *runner) (reply, error) {
	if r.really() {
		return reply{}, errorf(http.StatusUnprocessableEntity, "Runner %q is currently running a job and cannot be deleted.", r.name)
	}
	s.removeRunner(r, "deleted by "+c.who.name())
	return noContent()
}

func (s *Server) runnerView(r *runner) object {
	status := "offline"
	if s.online(r) {
		status = "online"
	}
	return object{
		"id": r.id, "name": r.name, "runner_group_id": r.group.id, "os": r.os, "status": status, "busy": s.busy(r),
		"labels": views(r.labels, label.view), "ephemeral": r.ephemeral, "version": orNull(r.version),
	}
}

func (l label) view() object { return object{"id": l.id, "name": l.name, "type": l.kind} }

func labelReply(r *runner) (reply, error) {
	return ok(object{"total_count": len(r.labels), "labels": views(r.labels, label.view)})
}

func (c *call) labelNames(least int) ([]string, error) {
	var in struct {
		Labels *[]string `json:"labels"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Labels == nil {
		return nil, errorf(http.StatusUnprocessableEntity, "Invalid input: object is missing required key: labels.")
	}
	return *in.Labels, checkLabels(*in.Labels, least)
}

// checkLabels holds names to GitHub's limits: 100 of at most 256 characters.
func checkLabels(names []string, least int) error {
	if len(names) < least || len(names) > 100 {
		return errorf(http.StatusUnprocessableEntity, "Invalid input: expected %d to 100 labels, got %d.", least, len(names))
	}
	for _, name := range names {
		if strings.TrimSpace(name) == "" || len(name) > 256 {
			return invalid("labels", "invalid")
		}
	}
	return nil
}

func readOnly(l label) bool { return l.kind == "read-only" }

func (s *Server) relabel(r *runner, labels []label) (reply, error) {
	idle := r.idleAt >= 0
	s.withdraw(r)
	s.declassify(r)
	r.labels = labels
	s.classify(r)
	if idle {
		s.offer(r)
	}
	s.changed()
	return labelReply(r)
}

func (s *Server) addLabels(c *call, r *runner) (reply, error) {
	names, err := c.labelNames(1)
	if err != nil {
		return reply{}, err
	}
	all := views(r.labels, func(l label) string { return l.name })
	return s.relabel(r, s.labelSet(append(all, names...)))
}

func (s *Server) setLabels(c *call, r *runner) (reply, error) {
	names, err := c.labelNames(0)
	if err != nil {
		return reply{}, err
	}
	var all []string
	for _, l := range r.labels {
		if readOnly(l) {
			all = append(all, l.name)
		}
	}
	return s.relabel(r, s.labelSet(append(all, names...)))
}

func (s *Server) clearLabels(c *call, r *runner) (reply, error) {
	return s.relabel(r, slices.DeleteFunc(slices.Clone(r.labels), func(l label) bool { return !readOnly(l) }))
}

func (s *Server) deleteLabel(c *call, r *runner) (reply, error) {
	i := slices.IndexFunc(r.labels, func(l label) bool { return strings.EqualFold(l.name, c.r.PathValue("name")) })
	if i < 0 {
		return reply{}, notFound()
	}
	if readOnly(r.labels[i]) {
		return reply{}, errorf(http.StatusUnprocessableEntity, "Label %q is read-only and cannot be removed.", r.labels[i].name)
	}
	return s.relabel(r, slices.Delete(slices.Clone(r.labels), i, i+1))
}

func (s *Server) getDeprecation(c *call) (reply, error) {
	if c.r.PathValue("runner") != "deprecations" {
		return reply{}, notFound()
	}
	return ok(object{"runner_version": c.r.PathValue("version"), "registration_deprecates_at": nil, "runtime_deprecates_at": nil})
}

// osOf guesses GitHub's word for a runner's operating system.
func osOf(description string) string {
	d := strings.ToLower(description)
	switch {
	case strings.Contains(d, "windows"):
		return "windows"
	case strings.Contains(d, "darwin"), strings.Contains(d, "mac"):
		return "macos"
	case strings.Contains(d, "linux"), d == "" && runtime.GOOS == "linux":
		return "linux"
	}
	return "unknown"
}
