package githubsim

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// setStatistics are the numbers that come with every message.
type setStatistics struct {
	Available  int `json:"totalAvailableJobs"`
	Acquired   int `json:"totalAcquiredJobs"`
	Assigned   int `json:"totalAssignedJobs"`
	Running    int `json:"totalRunningJobs"`
	Registered int `json:"totalRegisteredRunners"`
	Busy       int `json:"totalBusyRunners"`
	Idle       int `json:"totalIdleRunners"`
}

// statistics counts the world as a set sees it, never from messages.
func (s *Server) statistics(set *scaleSet) setStatistics {
	st := setStatistics{Assigned: len(set.jobs), Registered: len(set.runners)}
	for j := range set.jobs {
		switch {
		case j.status == inProgress:
			st.Running++
		case j.requested && j.assigned == nil:
			st.Acquired++
		}
	}
	for _, r := range set.runners {
		switch {
		case r.really():
			st.Busy++
		case r.idleAt >= 0:
			st.Idle++
		}
	}
	for tag := range set.market.labels {
		for _, d := range s.market.demandsByTag[tag] {
			if set.market.serves(d) {
				st.Available += len(d.jobs)
			}
		}
	}
	return st
}

// byArrival are the set's jobs in the order in which they were queued.
func (set *scaleSet) byArrival() []*job {
	return slices.SortedFunc(maps.Keys(set.jobs), byArrival)
}

// free is how many more jobs the set may be given.
func (s *Server) free(set *scaleSet) int {
	if !s.present(set) {
		return 0
	}
	return max(set.capacity-len(set.jobs), 0)
}

// place gives a job on the open market to a scale set that may have it, if there
// is one. The caller holds mu.
func (s *Server) place(j *job) {
	if len(s.setList) == 0 || j.demand == nil || j.set != nil {
		return
	}
	var able []*scaleSet
	for _, set := range s.setList {
		if j.trapped[set.id] || !set.market.serves(j.demand) {
			continue
		}
		if s.present(set) && set.capacity == 0 && s.chance.hit("zero capacity trap", s.faults.now().ZeroCapacityTrap) {
			s.fault("zero capacity trap")
			if j.trapped == nil {
				j.trapped = map[int64]bool{}
			}
			j.trapped[set.id] = true
			continue
		}
		if s.free(set) > 0 {
			able = append(able, set)
		}
	}
	if len(able) == 0 {
		return
	}
	// Where several sets fit, GitHub promises nothing. The closest fit is the good day.
	slices.SortStableFunc(able, func(a, b *scaleSet) int { return cmp.Compare(len(a.labels), len(b.labels)) })
	if s.mustAcquire(j) {
		for _, set := range able {
			s.offerToSet(j, set)
		}
		return
	}
	set := able[0]
	if len(able) > 1 && s.chance.hit("arbitrary set", s.faults.now().ArbitrarySets) {
		s.fault("arbitrary set")
		set = able[s.chance.stream("arbitrary set").IntN(len(able))]
	}
	s.own(j, set)
}

// mustAcquire says whether a job is offered and must be asked for, as GitHub
// Enterprise Server does, and not simply given.
func (s *Server) mustAcquire(j *job) bool {
	if !j.drawn {
		j.drawn = true
		j.requested = s.cfg.EnterpriseServer || s.chance.hit("acquire flow", s.faults.now().AcquireFlow)
	}
	return j.requested
}

func (s *Server) offerToSet(j *job, set *scaleSet) {
	if j.requestID == 0 {
		j.requestID = s.id(&s.ids.request)
	}
	if set.offered[j.requestID] != nil {
		return
	}
	set.offered[j.requestID] = j
	s.tellSet(set, s.setJobMessage(j, "JobAvailable", object{
		"acquireJobUrl": s.pipelinesURL(set.scope) + "_apis/runtime/runnerscalesets/" + encodeID(set.id) + "/acquirejobs",
	}))
}

// unoffer takes a job's offers back.
func (s *Server) unoffer(j *job) {
	if j.requestID == 0 {
		return
	}
	for _, set := range s.setList {
		delete(set.offered, j.requestID)
	}
}

// own gives a job to a scale set, and to one of its idle runners if there is one.
func (s *Server) own(j *job, set *scaleSet) {
	s.take(j, set)
	if j.assigned == nil {
		s.enqueue(j)
	}
}

// take books a job with a scale set and tells its listener.
func (s *Server) take(j *job, set *scaleSet) {
	s.dequeue(j)
	s.unoffer(j)
	j.set, j.setAssigned = set, s.now()
	set.jobs[j] = true
	j.setIDs = append(j.setIDs, s.setJobID(j))
	s.tellSet(set, s.setJobMessage(j, "JobAssigned", nil))
	if d := time.Duration(s.faults.now().LapseAssignments); d > 0 && j.lapses < mostLapses {
		j.lapse = s.after(d, func() { s.lapsed(j, set, d) })
	}
	s.changed()
}

// setJobID is the id of a job in messages: the run service's at first, a fresh one
// each time that the job is given away anew.
func (s *Server) setJobID(j *job) string {
	if len(j.setIDs) == 0 {
		return j.uuid
	}
	return s.chance.uuid("set job")
}

// disown takes a job from its scale set.
func (s *Server) disown(j *job) {
	set := j.set
	if set == nil {
		return
	}
	s.agenda.cancel(j.lapse)
	s.dequeue(j)
	delete(set.jobs, j)
	j.set, j.setAssigned, j.runnerAssigned = nil, time.Time{}, time.Time{}
}

// mostLapses is how often GitHub takes a job from a set whose runners do not come
// (README of actions/scaleset).
const mostLapses = 3

// lapsed takes a job that no runner took from its set, and gives it away anew
// under another id, later each time.
func (s *Server) lapsed(j *job, set *scaleSet, d time.Duration) {
	if j.set != set || j.status != queued || j.assigned != nil {
		return
	}
	s.fault("lapsed assignment")
	j.lapses++
	s.tellSet(set, s.setJobMessage(j, "JobCompleted", object{"result": "canceled", "runnerId": 0, "runnerName": ""}))
	s.disown(j)
	s.after(d*time.Duration(j.lapses)/2, func() {
		if j.status == queued && j.set == nil && j.assigned == nil && j.demand == nil {
			s.enqueue(j)
		}
	})
	s.fillSet(set)
	s.changed()
}

// fillSet gives a scale set the waiting jobs that it has room for.
func (s *Server) fillSet(set *scaleSet) {
	seen := map[*job]bool{}
	for s.scaleSets[set.id] == set && s.free(set) > 0 {
		j := s.pickFor(set.market, func(j *job) bool { return seen[j] || j.trapped[set.id] })
		if j == nil {
			return
		}
		seen[j] = true
		if s.mustAcquire(j) {
			if len(set.offered) >= s.free(set) {
				return
			}
			s.offerToSet(j, set)
		} else {
			s.own(j, set)
		}
	}
}

// startedInSet tells the listener that a runner took a job.
func (s *Server) startedInSet(j *job, r *runner) {
	if j.set == nil {
		return
	}
	s.agenda.cancel(j.lapse)
	s.tellLater(j.set, func() {
		s.tellTwice(j.set, s.setJobMessage(j, "JobStarted", s.runnerOf(r.id, r.name)))
	})
	if s.chance.hit("early completed", s.faults.now().EarlyCompleted) {
		s.fault("early completed")
		j.toldCompleted = true
		s.tellSet(j.set, s.setJobMessage(j, "JobCompleted", with(s.runnerOf(r.id, r.name), "result", "failed")))
	}
}

// completedInSet tells the listener of a job's end, and makes room.
func (s *Server) completedInSet(j *job) {
	s.unoffer(j)
	set := j.set
	if set == nil {
		return
	}
	s.agenda.cancel(j.lapse)
	delete(set.jobs, j)
	if !j.toldCompleted {
		result := map[string]string{
			message.Success: "succeeded", message.Cancelled: "canceled", message.Skipped: "skipped",
		}[j.conclusion]
		id, name := j.runnerID, j.runnerName
		s.tellLater(set, func() {
			s.tellTwice(set, s.setJobMessage(j, "JobCompleted", with(s.runnerOf(id, name), "result", cmp.Or(result, "failed"))))
		})
	}
	s.fillSet(set)
}

func with(o object, name string, value any) object {
	o[name] = value
	return o
}

// runnerOf names a runner, unless a fault leaves the name out.
func (s *Server) runnerOf(id int64, name string) object {
	if s.chance.hit("nameless message", s.faults.now().NamelessMessages) {
		s.fault("nameless message")
		id, name = 0, ""
	}
	return object{"runnerId": id, "runnerName": name}
}

// tellLater says something about a running job at once, or when the fault of late
// messages lets it, or never.
func (s *Server) tellLater(set *scaleSet, say func()) {
	now := s.faults.now()
	if s.chance.hit("lose message", now.LoseMessages) {
		s.fault("lost message")
		return
	}
	delay := s.chance.upTo("late message", time.Duration(now.LateMessages))
	if delay <= 0 {
		say()
		return
	}
	s.fault("late message")
	s.after(delay, func() {
		if s.scaleSets[set.id] == set {
			say()
		}
	})
}

func (s *Server) tellTwice(set *scaleSet, m []byte) {
	s.tellSet(set, m)
	if s.chance.hit("duplicate message", s.faults.now().DuplicateMessages) {
		s.fault("duplicate message")
		s.tellSet(set, m)
	}
}

func (s *Server) tellSet(set *scaleSet, m []byte) {
	set.pending = append(set.pending, m)
	set.notify()
	s.changed()
}

// setJobMessage is one message about a job, without the number that REST and
// webhooks give it.
func (s *Server) setJobMessage(j *job, kind string, more object) []byte {
	owner, repo, _ := strings.Cut(j.run.repo.fullName(), "/")
	id := j.uuid
	if n := len(j.setIDs); n > 0 {
		id = j.setIDs[n-1]
	}
	m := object{
		"messageType": kind, "runnerRequestId": j.requestID, "repositoryName": repo, "ownerName": owner, "jobId": id,
		"jobWorkflowRef": j.run.repo.fullName() + "/" + j.run.workflow.path + "@refs/heads/main", "jobDisplayName": j.name, "workflowRunId": j.run.id,
		"eventName": j.run.event, "requestLabels": append([]string{}, j.labels...), "queueTime": j.queuedAt, "scaleSetAssignTime": j.setAssigned,
		"runnerAssignTime": j.runnerAssigned, "finishTime": j.completedAt,
	}
	maps.Copy(m, more)
	return encode(m)
}

// ScaleSetTruth is one runner scale set.
type ScaleSetTruth struct {
	ID     int64    `json:"id"`
	Name   string   `json:"name"`
	Scope  string   `json:"scope"`
	Group  string   `json:"group"`
	Labels []string `json:"labels"`
	// Owner is whose session listens, empty if none does.
	Owner string `json:"owner"`
	// Capacity is what the listener announced last: -1 is nothing yet, and the
	// largest of 32 bits a client without the header.
	Capacity int `json:"capacity"`
	// Assigned are the jobs that were given to the set and are not completed.
	Assigned []int64 `json:"assigned"`
	// Unacknowledged counts messages that were handed out and not deleted, Untold
	// what is not in a message yet.
	Unacknowledged int `json:"unacknowledged"`
	Untold         int `json:"untold"`
}

func (s *Server) setTruth(set *scaleSet) ScaleSetTruth {
	t := ScaleSetTruth{
		ID: set.id, Name: set.name, Scope: set.scope.path(), Group: set.group.name, Labels: views(set.labels, func(l label) string { return l.name }),
		Capacity: set.capacity, Assigned: views(set.byArrival(), func(j *job) int64 { return j.id }), Unacknowledged: len(set.queue), Untold: len(set.pending),
	}
	if set.session != nil {
		t.Owner = set.session.owner
	}
	return t
}
