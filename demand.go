package muster

import (
	"cmp"
	"fmt"
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
	// wait for their time, the first until ripe, and over how many for a quota.
	held        []waiting
	young, over int
	ripe        time.Time
	// impatient is when the order of line changes by time alone; zero for never.
	impatient time.Time
	repos     []repoDemand
	index     map[string]int32 // of repos, by name as written and in lower case
	rooms     []room
}

// waiting is one queued job.
type waiting struct {
	at        time.Time
	id        int64 // 0 for one that is known only by number
	attempt   int
	priority  int
	repo      int32
	state     JobState
	overflows bool
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
	jobs := q.collect(s.Jobs)
	for i := range q.repos {
		q.repos[i].load = q.repos[i].running
	}
	if n := min(max(0, s.Unnamed), mostUnnamed); n > 0 {
		repo := q.repo("")
		jobs = slices.Grow(jobs, n)
		for range n {
			jobs = append(jobs, waiting{at: s.UnnamedSince, repo: repo})
		}
	}
	q.queued = len(jobs)
	q.admit(p.Quotas)

	wait, _ := s.wait(p)
	ripe := jobs[:0]
	for _, j := range jobs {
		if from := j.at.Add(wait); wait > 0 && !j.at.IsZero() && now.Before(from) {
			q.held = append(q.held, j)
			q.ripe = earlier(q.ripe, from)
			continue
		}
		if len(ripe) == 0 || j.at.Before(q.oldest) {
			q.oldest = j.at
		}
		ripe = append(ripe, j)
	}
	q.young = len(q.held)
	q.lineUp(ripe, now)
	q.over = len(q.held) - q.young
	return q
}

// collect returns the queued jobs, each once, and counts the running ones.
func (q *demand) collect(jobs []PlanJob) []waiting {
	known := make(map[int64]int32, len(jobs))
	all := make([]waiting, 0, len(jobs))
	for _, j := range jobs {
		if j.State.Rank() == 0 {
			continue
		}
		w := waiting{at: j.QueuedAt, id: j.ID, attempt: max(1, j.Attempt), priority: j.Priority, repo: q.repo(j.Repository), state: j.State, overflows: j.Overflows}
		i, twice := known[j.ID]
		if !twice {
			known[j.ID] = int32(len(all))
			all = append(all, w)
			continue
		}
		switch c := cmp.Or(cmp.Compare(w.attempt, all[i].attempt), cmp.Compare(w.state.Rank(), all[i].state.Rank())); {
		case c > 0:
			all[i] = w
		case c == 0: // the same again: whatever the order in which they are listed
			if w.at.Before(all[i].at) {
				all[i].at = w.at
			}
			if q.repos[w.repo].name < q.repos[all[i].repo].name {
				all[i].repo = w.repo
			}
			all[i].priority = max(w.priority, all[i].priority)
			all[i].overflows = all[i].overflows || w.overflows
		}
	}
	queued := all[:0]
	for _, w := range all {
		switch w.state {
		case JobQueued:
			queued = append(queued, w)
		case JobInProgress:
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
				shared = int32(len(q.rooms))
				q.rooms = append(q.rooms, room{quota: quota, left: quota.MaxRunners})
				if quota.Each {
					q.rooms[shared].repo = r.name
				}
			}
			q.rooms[shared].left -= r.running
			r.rooms = append(r.rooms, shared)
		}
	}
}

// full is the first quota that has no room for a job of the repository, nil if all have.
func (q *demand) full(r *repoDemand) *room {
	for _, i := range r.rooms {
		if q.rooms[i].left <= 0 {
			return &q.rooms[i]
		}
	}
	return nil
}

// lineUp fills line from the jobs whose time has come, and held with those that a
// quota has no room for.
func (q *demand) lineUp(jobs []waiting, now time.Time) {
	top, alike := 0, true
	for i, j := range jobs {
		if i > 0 && j.priority != top {
			alike = false
		}
		if i == 0 || j.priority > top {
			top = j.priority
		}
	}
	if !alike {
		for i := range jobs {
			switch until := jobs[i].at.Add(patience); {
			case jobs[i].priority == top:
			case jobs[i].at.IsZero() || !now.Before(until):
				jobs[i].priority = top
			default:
				q.impatient = earlier(q.impatient, until)
			}
		}
	}
	slices.SortFunc(jobs, func(a, b waiting) int {
		if a.priority != b.priority {
			return cmp.Compare(b.priority, a.priority)
		}
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
	q.line = make([]waiting, 0, len(jobs))
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
					q.held = append(q.held, jobs[i])
					full.held++
				}
			} else {
				q.line = append(q.line, jobs[i])
				r.load++
				for _, k := range r.rooms {
					q.rooms[k].left--
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
	is := func(w waiting) bool { return w.id == k.ID && w.attempt == max(1, k.Attempt) }
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
