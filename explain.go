package muster

import (
	"fmt"
	"strings"
	"time"
)

// Cause is one reason why a job waits.
type Cause struct {
	// Code is a fixed word for machines, one of the Cause… constants.
	Code string `json:"code"`
	// Text says it in words, with the numbers and, where there is one, the remedy.
	Text string `json:"text"`
	// Since is when it began, if known.
	Since time.Time `json:"since,omitzero"`
}

// The codes of causes, the most decisive first.
const (
	CauseNotWaiting        = "not_waiting"
	CauseWaitingApproval   = "waiting_approval"
	CauseNoPool            = "no_pool"
	CauseNotEligible       = "not_eligible"
	CauseRefused           = "refused"
	CausePoolDisabled      = "pool_disabled"
	CauseSuspended         = "suspended"
	CauseIdleNotAssigned   = "idle_runner_not_assigned"
	CausePoolAtMax         = "pool_at_max"
	CauseProviderRefusing  = "provider_refusing"
	CauseProvisioningLimit = "provisioning_limit"
	CauseCooldown          = "cooldown"
	CauseStarting          = "starting"
	CauseStolen            = "stolen"
	CauseDeciding          = "deciding"
)

// Situation is everything that Explain looks at.
type Situation struct {
	Job   Job
	Pools []Pool
	// Snapshot and Decision are those of the job's pool; zero if it has none.
	Snapshot Snapshot
	Decision Decision
	// DecidedAt is when Decision was taken.
	DecidedAt time.Time
	// StolenBy is the job that took the runner which was made for this one, "" if none did.
	StolenBy string
	// ProviderError is the provider's last refusal, in its own words, "" if it works.
	ProviderError   string
	ProviderErrorAt time.Time
	// Ahead is how many queued jobs of the pool are older.
	Ahead int
}

// assignGrace is how long GitHub may leave a queued job and an idle runner that
// fits side by side before that is worth a word. Normally it takes seconds; in
// GitHub's incidents minutes (4-30, 4-43).
const assignGrace = time.Minute

// Explain answers why a job is still queued: every cause that holds, the most
// decisive first, and always at least one. It is pure; it looks at what the
// Situation says and at nothing else, so a cause is as fresh as its snapshot.
func Explain(s Situation, now time.Time) []Cause {
	j := s.Job
	switch j.State {
	case JobCompleted:
		return []Cause{{Code: CauseNotWaiting, Text: "the job has finished: " + first(j.Conclusion, "no conclusion given") + ranOn(j), Since: j.CompletedAt}}
	case JobInProgress:
		return []Cause{{Code: CauseNotWaiting, Text: "the job is running" + ranOn(j), Since: j.StartedAt}}
	case JobWaiting:
		return []Cause{{Code: CauseWaitingApproval, Since: j.CreatedAt,
			Text: "GitHub holds the job back for an approval of its environment or a concurrency limit of its workflow and has not queued it; it gets no runner until then. Approve the deployment on the run's page (GitHub gives it up after 30 days)"}}
	}
	pool, causes := s.pool()
	if causes != nil {
		return causes
	}
	return s.wait(pool, now)
}

func ranOn(j Job) string {
	if j.RunnerName == "" {
		return ", without a runner"
	}
	return ", on runner " + j.RunnerName
}

// pool is the pool that serves the job, or the causes why none does.
func (s Situation) pool() (Pool, []Cause) {
	j := s.Job
	var refused, unfit []Cause
	nearest, distance := "", -1
	routed, found := Pool{}, false
	pools := s.Pools
	for i, p := range pools {
		if j.Pool != "" && p.Name == j.Pool {
			pools = pools[i : i+1] // A job stays with the pool that it was given to.
			break
		}
	}
	for _, p := range pools {
		m := MatchLabels(p.Labels, p.RunnerLabels, j.Labels)
		refusal := p.Refusal(j)
		switch {
		case m.Serves() && refusal == "":
			if !found {
				routed, found = p, true
			}
		case m.Serves() && !p.Enabled:
			refused = append(refused, Cause{Code: CausePoolDisabled, Text: fmt.Sprintf("%s: enable it with `muster pool enable %s`", refusal, p.Name)})
		case m.Serves():
			refused = append(refused, Cause{Code: CauseRefused, Text: refusal})
		case m.Triggered:
			unfit = append(unfit, Cause{Code: CauseNotEligible, Text: fmt.Sprintf(
				"pool %s is asked for by its labels [%s], but its runners would register without [%s], so GitHub would never give them the job: add to runner_labels what the machines really offer, or correct runs-on",
				p.Name, p.Labels, m.Missing)})
		default:
			lacks, extra := p.Labels.Missing(j.Labels), j.Labels.Missing(p.RunnerLabels)
			if d := len(lacks) + len(extra); distance < 0 || d < distance {
				distance = d
				nearest = fmt.Sprintf("the nearest is pool %s with labels [%s]: %s", p.Name, p.Labels, difference(lacks, extra))
			}
		}
	}
	if found {
		return routed, nil
	}
	if refused != nil {
		return Pool{}, refused
	}
	if unfit != nil {
		return Pool{}, unfit
	}
	text := fmt.Sprintf("no pool serves the labels [%s]", j.Labels)
	switch {
	case len(j.Labels) == 0:
		text = "the job asks for no label (its runs-on may name only a group), so no pool can be found by labels: add one to runs-on"
	case len(s.Pools) == 0:
		text += ": no pool is configured"
	default:
		text += ": " + nearest + ". Labels of GitHub's own runners, such as ubuntu-latest, are GitHub's to serve"
	}
	return Pool{}, []Cause{{Code: CauseNoPool, Text: text}}
}

// difference says which labels are missing on either side (C8).
func difference(lacks, extra Labels) string {
	var parts []string
	if len(lacks) > 0 {
		parts = append(parts, fmt.Sprintf("the job would also have to ask for [%s]", lacks))
	}
	if len(extra) > 0 {
		parts = append(parts, fmt.Sprintf("its runners lack [%s]", extra))
	}
	return strings.Join(parts, " and ")
}

// wait is why a job that its pool serves has no runner yet.
func (s Situation) wait(p Pool, now time.Time) (causes []Cause) {
	add := func(code string, since time.Time, format string, args ...any) {
		causes = append(causes, Cause{Code: code, Text: fmt.Sprintf(format, args...), Since: since})
	}
	p = p.WithDefaults()
	j, f, q := s.Job, countRunners(s.Snapshot.Runners), s.Snapshot.demand(p, now)
	// In demand that is counted per pool, this job is served when all before it are.
	position := s.Ahead + 1
	covered := f.idle+f.starting >= position

	if s.Snapshot.Suspended {
		add(CauseSuspended, time.Time{}, "GitHub reports the App's installation as suspended: running jobs finish, nothing is started. Unsuspend it on the installation's page on GitHub; the queue is picked up then")
	}
	if idle := f.ready; len(idle) > 0 && f.idle >= position {
		// GitHub could have joined the two since the later of them was there.
		both := idle[0].IdleSince
		if from := j.QueuedAt(); from.After(both) {
			both = from
		}
		if now.Sub(both) >= assignGrace {
			public := ""
			if j.PublicRepo {
				public = "; the repository is public, which a runner group refuses unless \"Allow public repositories\" is set on it"
			}
			add(CauseIdleNotAssigned, both, "%s, online and idle in pool %s, but GitHub has not assigned the job for %s. Check that runner group %d may be used by %s and its workflow%s; else GitHub is slow (githubstatus.com)",
				was(f.idle, "runner"), p.Name, age(both, now), p.RunnerGroup, j.Repository, public)
		}
	}
	if limit := p.Scaling.MaxRunners; f.live() >= limit && !covered {
		add(CausePoolAtMax, time.Time{}, "pool %s is at its limit: %d of %d runners live (%d busy, %d idle, %d starting, %d draining); the job is number %d of %d in its queue. Raise max_runners or wait for a runner to finish",
			p.Name, f.live(), limit, f.busy, f.idle, f.starting, f.draining, position, max(position, q.queued))
	}
	if s.ProviderError != "" {
		add(CauseProviderRefusing, s.ProviderErrorAt, "pool %s gets no runner from provider %s: %s", p.Name, p.Provider, s.ProviderError)
	}
	if s.Decision.Rule == RuleProvisioningLimit && !covered {
		add(CauseProvisioningLimit, s.DecidedAt, "%d runners of pool %s are starting and at most %d may start at once; the job is number %d in its queue. Raise provisioning if the provider can take more", f.starting, p.Name, p.Provisioning, position)
	}
	if until := p.Scaling.coolUntil(s.Snapshot.LastScaling); now.Before(until) && !covered {
		add(CauseCooldown, s.Snapshot.LastScaling, "pool %s was last scaled at %s and rests until %s (in %s). Shorten cooldown if that is too long",
			p.Name, clock(s.Snapshot.LastScaling), clock(until), until.Sub(now).Truncate(time.Second))
	}
	// One that is registered and does not listen yet is still on its way.
	if coming := f.starting + f.idle - len(f.ready); coming > 0 && len(f.ready) < position {
		since := time.Time{}
		for _, r := range s.Snapshot.Runners {
			if r.State == RunnerProvisioning || r.State == RunnerRegistered && !r.Busy && r.IdleSince.IsZero() {
				since = earlier(since, r.CreatedAt)
			}
		}
		add(CauseStarting, since, "%s starting in pool %s, the first since %s (%s ago); the job is number %d in its queue", was(coming, "runner"), p.Name, clock(since), age(since, now), position)
	}
	if s.StolenBy != "" {
		add(CauseStolen, time.Time{}, "the runner that was made for this job took job %s instead, since GitHub gives a job to any runner that fits; the job counts as waiting again and gets another", s.StolenBy)
	}
	if len(causes) > 0 {
		return causes
	}
	text := fmt.Sprintf("pool %s has not decided about the job yet", p.Name)
	if !s.DecidedAt.IsZero() {
		text = fmt.Sprintf("pool %s decided %s at %s (%s ago): %s", p.Name, first(s.Decision.Action, Maintain), clock(s.DecidedAt), age(s.DecidedAt, now), first(s.Decision.Reason, "no reason recorded"))
	}
	if len(f.ready) >= position {
		text += fmt.Sprintf("; %s idle, and GitHub normally assigns a job within seconds", was(f.idle, "runner"))
	}
	if s.Snapshot.DemandUnknown {
		text += "; its queue could not be read from GitHub, so nothing is changed until it can"
	}
	if w := s.Decision.WakeAt; w.After(now) {
		text += fmt.Sprintf("; it decides again at the latest in %s", w.Sub(now).Truncate(time.Second))
	}
	return []Cause{{Code: CauseDeciding, Text: text, Since: first(s.DecidedAt, j.SeenAt)}}
}

// was is a number with its noun and verb: "1 runner is", "2 runners are".
func was(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " is"
	}
	return count(n, noun) + " are"
}
