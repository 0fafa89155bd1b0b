package githubsim

import (
	"cmp"
	"slices"
	"sort"
	"strings"
	"time"
)

// market brings jobs and runners together. Runners that can do the same things
// form a class, jobs that ask for the same things a demand; both are indexed by
// label, so that neither 10,000 runners nor 10,000 jobs are walked for one match.
type market struct {
	demands      map[string]*demand
	demandsByTag map[string][]*demand // each under one of its labels, "" if it has none
	classes      map[string]*class
	classesByTag map[string][]*class // each under all of its labels and under ""
	arrivals     int64
	alien        bool // a thief's own job is being made
}

type demand struct {
	key      string
	tag      string
	set      *scaleSet // to which the jobs were given; nil on the open market
	repo     *repository
	workflow string // path of the workflow file, for restricted groups
	group    string
	labels   []string // lower-case
	jobs     []*job   // by arrival
}

type class struct {
	key    string
	set    *scaleSet // whose jobs alone it serves; nil for the open market
	scope  *scope
	group  *group
	labels map[string]bool // lower-case
	idle   []*runner
	size   int // runners in it, idle or not
}

func newMarket() market {
	return market{
		demands: map[string]*demand{}, demandsByTag: map[string][]*demand{}, classes: map[string]*class{}, classesByTag: map[string][]*class{},
	}
}

func lower(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ToLower(n)
	}
	sort.Strings(out)
	return slices.Compact(out)
}

// serves is the rule of GitHub: the runner has all labels of the job, and its
// group is open to the job's repository and workflow.
func (c *class) serves(d *demand) bool {
	if c.set != nil || d.set != nil {
		// Any runner of a scale set does for any job that was given to the set.
		return c.set == d.set
	}
	if d.group != "" && !strings.EqualFold(d.group, c.group.name) {
		return false
	}
	for _, l := range d.labels {
		if !c.labels[l] {
			return false
		}
	}
	return c.group.open(d.repo, d.workflow)
}

// classify puts a runner into its class. The caller holds mu.
func (s *Server) classify(r *runner) {
	m := &s.market
	names := lower(views(r.labels, func(l label) string { return l.name }))
	if r.set != nil {
		names = append(names, r.set.tag())
	}
	key := r.scope.path() + "\x00" + r.group.name + "\x00" + strings.Join(names, "\x00")
	c := m.classes[key]
	if c == nil {
		c = &class{key: key, set: r.set, scope: r.scope, group: r.group, labels: map[string]bool{}}
		m.classes[key] = c
		for _, tag := range append(names, "") {
			c.labels[tag] = true
			m.classesByTag[tag] = append(m.classesByTag[tag], c)
		}
	}
	c.size++
	r.class = c
}

func (s *Server) declassify(r *runner) {
	m, c := &s.market, r.class
	r.class = nil
	if c.size--; c.size > 0 {
		return
	}
	delete(m.classes, c.key)
	for tag := range c.labels {
		m.classesByTag[tag] = without(m.classesByTag[tag], c)
		if len(m.classesByTag[tag]) == 0 {
			delete(m.classesByTag, tag)
		}
	}
}

func without[T comparable](all []T, one T) []T {
	if i := slices.Index(all, one); i >= 0 {
		return slices.Delete(all, i, i+1)
	}
	return all
}

// regroup moves a runner to another group.
func (s *Server) regroup(r *runner, g *group) {
	idle := r.idleAt >= 0
	s.withdraw(r)
	s.declassify(r)
	r.group = g
	s.classify(r)
	if idle {
		s.offer(r)
	}
}

// rematch offers a group's idle runners again after its rules changed.
func (s *Server) rematch(g *group) {
	for _, r := range slices.Clone(g.scope.runners) {
		if r.group == g && r.idleAt >= 0 {
			s.withdraw(r)
			s.offer(r)
		}
	}
}

// enqueue lets a queued job wait for a runner, or gives it one at once.
func (s *Server) enqueue(j *job) {
	m := &s.market
	labels := lower(j.labels)
	key := strings.Join(append([]string{j.run.repo.fullName(), j.run.workflow.path, strings.ToLower(j.group)}, labels...), "\x00")
	if j.set != nil {
		key += j.set.tag()
	}
	d := m.demands[key]
	if d == nil {
		d = &demand{key: key, repo: j.run.repo, workflow: j.run.repo.fullName() + "/" + j.run.workflow.path, group: j.group, labels: labels, set: j.set}
		if d.tag = m.rarest(labels); d.set != nil {
			d.tag = d.set.tag()
		}
		m.demands[key] = d
		m.demandsByTag[d.tag] = append(m.demandsByTag[d.tag], d)
	}
	if j.arrival == 0 {
		m.arrivals++
		j.arrival = m.arrivals
	}
	j.demand = d
	// A job that is queued again takes its old place.
	i, _ := slices.BinarySearchFunc(d.jobs, j, func(a, b *job) int { return cmp.Compare(a.arrival, b.arrival) })
	d.jobs = slices.Insert(d.jobs, i, j)
	if r := s.pickRunner(d); r != nil {
		s.assign(j, r)
		return
	}
	s.place(j)
}

// dequeue takes a job out of the market.
func (s *Server) dequeue(j *job) {
	d := j.demand
	if d == nil {
		return
	}
	j.demand = nil
	d.jobs = without(d.jobs, j)
	if len(d.jobs) > 0 {
		return
	}
	m := &s.market
	delete(m.demands, d.key)
	m.demandsByTag[d.tag] = without(m.demandsByTag[d.tag], d)
	if len(m.demandsByTag[d.tag]) == 0 {
		delete(m.demandsByTag, d.tag)
	}
}

// rarest is the label with the fewest demands under it.
func (m *market) rarest(labels []string) string {
	best := ""
	for i, l := range labels {
		if i == 0 || len(m.demandsByTag[l]) < len(m.demandsByTag[best]) {
			best = l
		}
	}
	return best
}

// pickRunner draws one of the idle runners that can serve a demand.
func (s *Server) pickRunner(d *demand) *runner {
	m := &s.market
	tag := ""
	for _, l := range d.labels {
		if tag == "" || len(m.classesByTag[l]) < len(m.classesByTag[tag]) {
			tag = l
		}
	}
	if d.set != nil {
		tag = d.set.tag()
	}
	total := 0
	var able []*class
	for _, c := range m.classesByTag[tag] {
		if len(c.idle) > 0 && c.serves(d) {
			able = append(able, c)
			total += len(c.idle)
		}
	}
	if total == 0 {
		return nil
	}
	n := s.chance.stream("runner").IntN(total)
	for _, c := range able {
		if n < len(c.idle) {
			return c.idle[n]
		}
		n -= len(c.idle)
	}
	return nil
}

// pickJob chooses one of the waiting jobs that a runner can serve.
func (s *Server) pickJob(c *class) *job { return s.pickFor(c, nil) }

// pickFor is pickJob without the jobs that skip names.
func (s *Server) pickFor(c *class, skip func(*job) bool) *job {
	var able [][]*job // of one demand each, by arrival
	for tag := range sorted(c.labels) {
		for _, d := range s.market.demandsByTag[tag] {
			if !c.serves(d) {
				continue
			}
			jobs := d.jobs
			if skip != nil {
				jobs = slices.DeleteFunc(slices.Clone(jobs), skip)
			}
			if len(jobs) > 0 {
				able = append(able, jobs)
			}
		}
	}
	if len(able) == 0 {
		return nil
	}
	order := s.cfg.Order
	if c.set != nil && s.chance.hit("crossover", s.faults.now().Crossover) {
		s.fault("crossover")
		order = NewestFirst
	}
	switch order {
	case RandomOrder:
		jobs := able[s.chance.stream("job").IntN(len(able))]
		return jobs[s.chance.stream("job").IntN(len(jobs))]
	case NewestFirst:
		return slices.MaxFunc(views(able, func(jobs []*job) *job { return jobs[len(jobs)-1] }), byArrival)
	}
	return slices.MinFunc(views(able, func(jobs []*job) *job { return jobs[0] }), byArrival)
}

func byArrival(a, b *job) int { return cmp.Compare(a.arrival, b.arrival) }

// sorted goes through a set in order, so that equal seeds make equal choices.
func sorted(set map[string]bool) func(func(string) bool) {
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	sort.Strings(names)
	return slices.Values(names)
}

// offer makes a runner available, if it can take a job.
func (s *Server) offer(r *runner) {
	if r.idleAt >= 0 || r.removed || r.consumed || r.job != nil || r.session == nil || r.session.lost || !s.heard(r.session) {
		return
	}
	if j := s.theft(r); j != nil {
		s.assign(j, r)
		return
	}
	if j := s.pickJob(r.class); j != nil {
		s.assign(j, r)
		return
	}
	if r.idleSince.IsZero() {
		r.idleSince = s.now()
		s.watchIdle(r)
	}
	r.idleAt = len(r.class.idle)
	r.class.idle = append(r.class.idle, r)
	s.changed()
}

// heard reports whether a session showed a sign of life lately.
func (s *Server) heard(x *session) bool {
	return x.polling > 0 || s.cfg.OfflineAfter == 0 || s.now().Sub(x.seen) < s.cfg.OfflineAfter
}

// withdraw takes a runner out of the market.
func (s *Server) withdraw(r *runner) {
	if r.idleAt < 0 {
		return
	}
	idle := r.class.idle
	last := idle[len(idle)-1]
	idle[r.idleAt] = last
	last.idleAt = r.idleAt
	r.class.idle = idle[:len(idle)-1]
	r.idleAt = -1
}

// theft makes, by fault, a job of somebody else that takes this runner. It asks
// for one label only, so that whoever counts jobs by all labels does not expect it.
func (s *Server) theft(r *runner) *job {
	if s.market.alien || !s.chance.hit("steal", s.faults.now().StealRunners) {
		return nil
	}
	var repo *repository
	switch {
	case r.scope.repo != nil:
		repo = r.scope.repo
	default:
		for _, other := range r.scope.account.repos {
			if r.group.open(other, "") {
				repo = other
			}
		}
	}
	if repo == nil {
		return nil
	}
	s.fault("stolen runner")
	s.market.alien = true
	defer func() { s.market.alien = false }()
	opts := JobOptions{Repo: repo.fullName(), Name: "somebody else's job", Duration: time.Second}
	if len(r.labels) > 0 {
		opts.Labels = []string{r.labels[0].name}
	}
	j := s.injectJob(repo, opts, false)
	j.alien = true
	if r.set != nil {
		s.take(j, r.set)
	}
	return j
}

// assign gives a job to a runner. The job stays queued until the runner fetches it.
func (s *Server) assign(j *job, r *runner) {
	s.withdraw(r)
	s.dequeue(j)
	s.agenda.cancel(r.reaper)
	r.job, r.assignedAt, r.idleSince = j, s.now(), time.Time{}
	r.jobs++
	j.assigned, j.runnerAssigned = r, r.assignedAt
	s.unoffer(j)
	if r.ephemeral && !s.cfg.KeepAtAssignment {
		r.consumed = true
	}
	ghost := r.ephemeral && s.chance.hit("ghost", s.faults.now().GhostRunners)
	if ghost {
		s.fault("ghost runner")
	} else {
		r.session.put(s.offerMessage(j))
	}
	j.pickup = s.after(s.cfg.PickupTimeout, func() { s.missed(j, r, ghost) })
	s.changed()
}

// missed queues a job again that its runner did not fetch in time.
func (s *Server) missed(j *job, r *runner, ghost bool) {
	if j.assigned != r || j.status != queued {
		return
	}
	s.books.Requeued++
	j.assigned, r.job = nil, nil
	if r.session != nil {
		r.session.forget(j)
	}
	if r.consumed {
		if r.session != nil {
			r.session.ghost = true
		}
		s.removeRunner(r, "one-job registration consumed by an assignment that was not fetched")
	} else if r.session != nil && !ghost {
		r.session.lost = true // until it is heard of again
	}
	s.enqueue(j)
}
