package muster

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// patience is how long a job of low priority lets others go first. After it the
// job counts as one of the highest priority that waits, so that priorities delay
// and never starve (C15).
const patience = time.Hour

// budgetWait is how long jobs wait before runners are made for them while their
// project's budget is lowered (SpendingLowered): those that somebody cancels or
// that find an idle runner meanwhile cost nothing.
const budgetWait = 5 * time.Minute

// mostUnnamed bounds Snapshot.Unnamed: what is above is no number of jobs.
const mostUnnamed = 100_000

// freeTries is how many runners are made for a job one after the other when each
// of them listens and none gets it; stolen ones are replaced so often (4-2).
// After that GitHub evidently does not give the job to such runners, or always
// gives them another, and one is made every tryWait, then twice as long each time
// up to tryMost.
const (
	freeTries = 3
	tryWait   = 10 * time.Minute
	tryMost   = time.Hour
)

// nextTry is when a runner may be made for the job again, zero for at once.
func (j PlanJob) nextTry() time.Time {
	if j.Tries < freeTries {
		return time.Time{}
	}
	return j.TriedAt.Add(min(tryMost, tryWait<<min(j.Tries-freeTries, 8)))
}

// demand is a pool's queue as one decision sees it. Each queued job is in line or
// held.
type demand struct {
	queued, running int
	// line are the jobs that runners may be made for, the first to be served first.
	line []waiting
	// oldest is when the first of the jobs was queued whose time has come, in line
	// or not, so that one more job never makes it later. A zero time is unknown,
	// which is to say waiting since ever.
	oldest time.Time
	// held are the jobs that runners may not be made for: young is how many of them
	// wait for their time, tried for their next try, the first of either until ripe,
	// and over how many for a quota.
	held               []waiting
	young, tried, over int
	ripe               time.Time
	// next is when a runner may be made again for a job that none got; it has the
	// few jobs of which that is so.
	next map[int64]instant
	// impatient is when the order of line changes by time alone; zero for never.
	impatient time.Time
	buf       []waiting // of line and held
	repos     []repoDemand
	index     map[string]int32 // of repos, by name as written and in lower case
	quotas    []room
}

// waiting is one queued job. It is small and without pointers, since there may be
// very many.
type waiting struct {
	at        instant // queued at
	id        int64   // 0 for one that is known only by number
	priority  int32
	attempt   int32
	repo      int32
	state     uint8 // its rank
	overflows bool
}

// instant is a time in nanoseconds since 1970, and ever one that is not known.
type instant int64

const ever instant = math.MinInt64

func instantOf(t time.Time) instant {
	switch s := t.Unix(); {
	case t.IsZero() || s <= math.MinInt64/int64(time.Second): // an int64 of nanoseconds ends in 1677 …
		return ever
	case s >= math.MaxInt64/int64(time.Second): // … and in 2262
		return math.MaxInt64
	}
	return instant(t.UnixNano())
}

// add is d later; ever stays ever.
func (i instant) add(d time.Duration) instant {
	if i == ever || d <= 0 {
		return i
	}
	if i > math.MaxInt64-instant(d) {
		return math.MaxInt64
	}
	return i + instant(d)
}

// time is the zero time for ever.
func (i instant) time() time.Time {
	if i == ever {
		return time.Time{}
	}
	return time.Unix(0, int64(i)).UTC()
}

// repoDemand is what a repository has and wants.
type repoDemand struct {
	name    string
	running int
	// load is running and those that are in line so far.
	load  int
	rooms []int32
	// first and last of the jobs that are being lined up.
	first, last int32
}

// room is what a quota leaves, for all its repositories or, with Each, for one.
type room struct {
	quota Quota
	repo  string // with Each
	left  int
	held  int // jobs that found it full
}

// String says how full it is: "payments 3 of 3", with what runs and is in line.
func (r room) String() string {
	name := r.quota.Name
	if r.repo != "" {
		name += " for " + r.repo
	}
	return fmt.Sprintf("%s %d of %d", name, r.quota.MaxRunners-r.left, r.quota.MaxRunners)
}

// wait is how old a job must be before a runner is made for it, and whether that
// is so for the budget's sake.
func (s Snapshot) wait(p Pool) (d time.Duration, budget bool) {
	if s.Spending.State == SpendingLowered && p.JobWait < budgetWait {
		return budgetWait, true
	}
	return p.JobWait, false
}

// demand puts the jobs of a snapshot into the order in which runners are made for
// them: by priority, where a job that lost its patience has the highest; then to
// the repository with the fewest jobs running and in line, which is max-min fair;
// then the oldest. A job that a quota has no room for is passed over, and so are
// all others of its repository. A job listed twice counts once, by its latest
// attempt in its highest state (4-3).
func (s Snapshot) demand(p Pool, now time.Time) (q demand) {
	unnamed := min(max(0, s.Unnamed), mostUnnamed)
	jobs := q.collect(s.Jobs, unnamed)
	for i := range q.repos {
		q.repos[i].load = q.repos[i].running
	}
	if unnamed > 0 {
		nameless := waiting{at: instantOf(s.UnnamedSince), repo: q.repo("")}
		for range unnamed {
			jobs = append(jobs, nameless)
		}
	}
	q.queued = len(jobs)
	q.admit(p.Quotas)

	// Every job ends in line, which grows from the front, or held, from the back.
	q.buf = make([]waiting, len(jobs))
	q.line, q.held = q.buf[:0], q.buf[len(jobs):]
	wait, _ := s.wait(p)
	at := instantOf(now)
	ripe, first := jobs[:0], instant(math.MaxInt64)
	for _, j := range jobs {
		from, tried := j.at.add(wait), false
		if wait <= 0 {
			from = ever
		}
		if next, ok := q.next[j.id]; ok && next > from {
			from, tried = next, true
		}
		if from > at {
			q.hold(j)
			q.ripe = earlier(q.ripe, from.time())
			if tried {
				q.tried++
			} else {
				q.young++
			}
			continue
		}
		first = min(first, j.at)
		ripe = append(ripe, j)
	}
	q.oldest = first.time()
	q.lineUp(ripe, at)
	q.over = len(q.held) - q.young - q.tried
	return q
}

// hold puts a job among those that are held.
func (q *demand) hold(j waiting) {
	i := len(q.buf) - len(q.held) - 1
	q.buf[i] = j
	q.held = q.buf[i:]
}

// collect returns the queued jobs, each once and with room for some more, and
// counts the running ones.
func (q *demand) collect(jobs []PlanJob, more int) []waiting {
	known := make(map[int64]int32, len(jobs))
	all := make([]waiting, 0, len(jobs)+more)
	for _, j := range jobs {
		if j.State.Rank() == 0 { // unknown
			continue
		}
		w := waiting{
			at: instantOf(j.QueuedAt), id: j.ID, attempt: int32(max(1, j.Attempt)), repo: q.repo(j.Repository), state: uint8(j.State.Rank()),
			priority: int32(min(max(j.Priority, math.MinInt32), math.MaxInt32)), overflows: j.Overflows,
		}
		if next := j.nextTry(); !next.IsZero() {
			if q.next == nil {
				q.next = map[int64]instant{}
			}
			q.next[j.ID] = max(q.next[j.ID], instantOf(next))
		}
		i, twice := known[j.ID]
		if !twice {
			known[j.ID] = int32(len(all))
			all = append(all, w)
			continue
		}
		switch c := cmp.Or(cmp.Compare(w.attempt, all[i].attempt), cmp.Compare(w.state, all[i].state)); {
		case c > 0:
			all[i] = w
		case c == 0: // the same again: whatever the order in which they are listed
			all[i].at = min(w.at, all[i].at)
			if q.repos[w.repo].name < q.repos[all[i].repo].name {
				all[i].repo = w.repo
			}
			all[i].priority = max(w.priority, all[i].priority)
			all[i].overflows = all[i].overflows || w.overflows
		}
	}
	queued := all[:0]
	for _, w := range all {
		switch int(w.state) {
		case JobQueued.Rank():
			queued = append(queued, w)
		case JobInProgress.Rank():
			q.running++
			q.repos[w.repo].running++
		}
	}
	return queued
}

// repo is the index of a repository, whose name GitHub compares without regard to case.
func (q *demand) repo(name string) int32 {
	if i, ok := q.index[name]; ok {
		return i
	}
	lower := strings.ToLower(name)
	i, ok := q.index[lower]
	if !ok {
		if q.index == nil {
			q.index = map[string]int32{}
		}
		i = int32(len(q.repos))
		q.repos = append(q.repos, repoDemand{name: lower})
		q.index[lower] = i
	}
	q.index[name] = i
	return i
}

// admit sets up what the quotas leave. What is not known by its repository counts
// in a quota of all repositories and in no other.
func (q *demand) admit(quotas []Quota) {
	for _, quota := range quotas {
		shared := int32(-1)
		for i := range q.repos {
			r := &q.repos[i]
			if r.name == "" && (quota.Each || len(quota.Repositories) > 0) || !quota.Covers(r.name) {
				continue
			}
			if shared < 0 || quota.Each {
				shared = int32(len(q.quotas))
				q.quotas = append(q.quotas, room{quota: quota, left: quota.MaxRunners})
				if quota.Each {
					q.quotas[shared].repo = r.name
				}
			}
			q.quotas[shared].left -= r.running
			r.rooms = append(r.rooms, shared)
		}
	}
}

// full is the first quota that has no room for a job of the repository, nil if all have.
func (q *demand) full(r *repoDemand) *room {
	for _, i := range r.rooms {
		if q.quotas[i].left <= 0 {
			return &q.quotas[i]
		}
	}
	return nil
}

// lineUp fills line from the jobs whose time has come, and held with those that a
// quota has no room for.
func (q *demand) lineUp(jobs []waiting, now instant) {
	jobs = q.sorted(jobs, now)
	next := make([]int32, len(jobs)) // of the same repository and priority; -1 for none
	h := repoHeap{q: q, jobs: jobs, repos: make([]int32, 0, len(q.repos))}
	for from := 0; from < len(jobs); {
		to := from
		for ; to < len(jobs) && jobs[to].priority == jobs[from].priority; to++ {
			r := &q.repos[jobs[to].repo]
			next[to] = -1
			if r.last == 0 { // positions are kept plus one, so that zero is none
				r.first = int32(to + 1)
				h.repos = append(h.repos, jobs[to].repo)
			} else {
				next[r.last-1] = int32(to)
			}
			r.last = int32(to + 1)
		}
		for i := len(h.repos)/2 - 1; i >= 0; i-- {
			h.down(i)
		}
		for len(h.repos) > 0 {
			r := &q.repos[h.repos[0]]
			i := r.first - 1
			if full := q.full(r); full != nil {
				for ; i >= 0; i = next[i] {
					q.hold(jobs[i])
					full.held++
				}
			} else {
				q.line = append(q.line, jobs[i])
				r.load++
				for _, k := range r.rooms {
					q.quotas[k].left--
				}
				i = next[i]
			}
			if i < 0 {
				r.first, r.last = 0, 0
				n := len(h.repos) - 1
				h.repos[0] = h.repos[n]
				h.repos = h.repos[:n]
			} else {
				r.first = i + 1
			}
			h.down(0)
		}
		from = to
	}
}

// sorted returns jobs by priority and, within one, by age. Those that lost their
// patience get the highest priority that there is.
func (q *demand) sorted(jobs []waiting, now instant) []waiting {
	type key struct { // smaller than a job, and enough to sort by
		at       instant
		i, class int32
	}
	keys := make([]key, len(jobs))
	var priorities []int32
	classes := map[int32]int32{}
	for i, j := range jobs {
		class, ok := classes[j.priority]
		if !ok {
			class = int32(len(priorities))
			classes[j.priority] = class
			priorities = append(priorities, j.priority)
		}
		keys[i] = key{j.at, int32(i), class}
	}
	slices.SortFunc(keys, func(a, b key) int {
		if a.at != b.at {
			return cmp.Compare(a.at, b.at)
		}
		return cmp.Compare(jobs[a.i].id, jobs[b.i].id)
	})
	slices.SortFunc(priorities, func(a, b int32) int { return cmp.Compare(b, a) })
	if len(priorities) > 1 {
		top := priorities[0]
		for i, k := range keys {
			if until := k.at.add(patience); until <= now {
				keys[i].class, jobs[k.i].priority = classes[top], top
			} else if jobs[k.i].priority != top {
				q.impatient = until.time() // the oldest come first
				break
			}
		}
	}
	places := make([]int, len(priorities)) // of the next of each class: first their numbers
	for _, k := range keys {
		places[k.class]++
	}
	from := 0
	for _, priority := range priorities {
		class := classes[priority]
		from, places[class] = from+places[class], from
	}
	out := make([]waiting, len(jobs))
	for _, k := range keys {
		out[places[k.class]] = jobs[k.i]
		places[k.class]++
	}
	return out
}

// repoHeap has the repository that is to be served next on top.
type repoHeap struct {
	q     *demand
	jobs  []waiting
	repos []int32
}

func (h *repoHeap) less(a, b int) bool {
	x, y := &h.q.repos[h.repos[a]], &h.q.repos[h.repos[b]]
	if x.load != y.load {
		return x.load < y.load
	}
	// Jobs lie sorted, and two repositories never share one.
	return x.first < y.first
}

func (h *repoHeap) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h.repos); c++ {
			if h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.repos[i], h.repos[least] = h.repos[least], h.repos[i]
		i = least
	}
}

// place finds a job: in is 0 or more for its place in line, and -1 for one that is
// held; ok is false for one that does not wait here.
func (q *demand) place(k JobKey) (w waiting, in int, ok bool) {
	is := func(w waiting) bool { return w.id == k.ID && int(w.attempt) == max(1, k.Attempt) }
	if i := slices.IndexFunc(q.line, is); i >= 0 {
		return q.line[i], i, true
	}
	if i := slices.IndexFunc(q.held, is); i >= 0 {
		return q.held[i], -1, true
	}
	return waiting{}, -1, false
}

// served is how many of n jobs in line so many runners serve at first.
func (s Scaling) served(runners, n int) int {
	if runners > n/max(1, s.JobsPerRunner) { // the product may be above all numbers
		return n
	}
	return runners * s.JobsPerRunner
}
