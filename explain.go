package muster

import (
	"fmt"
	"slices"
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

// The codes of causes, the most decisive first. Seen by polling only is no reason
// to wait; it says why Muster heard of the job late.
const (
	CauseNotWaiting        = "not_waiting"
	CauseExpired           = "expired"
	CauseRunnerLost        = "runner_lost"
	CauseWaitingApproval   = "waiting_approval"
	CauseNoPool            = "no_pool"
	CauseNotEligible       = "not_eligible"
	CauseRefused           = "refused"
	CausePoolDisabled      = "pool_disabled"
	CauseSuspended         = "suspended"
	CauseApp               = "app_problem"
	CausePoolSuspended     = "pool_suspended"
	CauseRunnerGroup       = "runner_group"
	CauseIdleNotAssigned   = "idle_runner_not_assigned"
	CauseBudget            = "budget"
	CauseQuota             = "quota"
	CauseJobWait           = "job_wait"
	CauseNoTaker           = "no_taker"
	CauseScaleSet          = "scale_set"
	CauseMachineBusy       = "machine_busy"
	CauseMachineStopping   = "machine_stopping"
	CauseMachineSuspended  = "machine_suspended"
	CauseRunnerMissing     = "runner_missing"
	CauseSchedule          = "schedule"
	CausePoolAtMax         = "pool_at_max"
	CauseProviderRefusing  = "provider_refusing"
	CauseGitHubPaused      = "github_paused"
	CauseProvisioningLimit = "provisioning_limit"
	CauseCooldown          = "cooldown"
	CausePriority          = "priority"
	CauseFairShare         = "fair_share"
	CausePlatformQueue     = "platform_queue"
	CauseStarting          = "starting"
	CauseRunnerSays        = "runner_says"
	CauseOverflow          = "overflow"
	CauseStolen            = "stolen"
	CauseDeciding          = "deciding"
	CauseSeenByPollingOnly = "seen_by_polling_only"
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
	// Queued are the runners of the job's pool that wait in their platform's own queue.
	Queued []QueuedRunner
	// StolenBy is the job that took the runner which was made for this one, "" if none did.
	StolenBy string
	// ProviderError is the provider's last refusal, in its own words, "" if it works.
	ProviderError   string
	ProviderErrorAt time.Time
	// Ahead is how many queued jobs of the pool are older.
	Ahead int
	// GitHubPaused is until when calls to GitHub wait for its rate limit, zero if
	// they do not, and GitHubWords why, such as "4,998 of 5,000 points used".
	GitHubPaused time.Time
	GitHubWords  string
	// AppProblem is what the App lacks to serve the job, with the remedy: not
	// installed at the owner, a permission missing; "" if nothing is known to.
	AppProblem string
	// GroupProblem is why the pool's runner group does not let the job's repository
	// or workflow use its runners; "" if it does or if that is not known.
	GroupProblem string
	// ScaleSetProblem is why the pool's scale set tells of no jobs, "" if it does or
	// if the pool has none.
	ScaleSetProblem string
	// RunnerLost is what became of the runner that the job was given to; "" if it is
	// there.
	RunnerLost string
	// Machines are the kept machines of Pools of which something is known.
	Machines []Machine
	// OnMachine are the jobs that run on the machine of the job's pool.
	OnMachine []Job
	// SeenOnlyByPoll is set when no webhook and no scale set told of the job.
	SeenOnlyByPoll bool
}

// QueuedRunner is a runner whose machine waits its turn in its platform's own queue.
type QueuedRunner struct {
	ID  RunnerID
	For int64 // the job that it was made for, 0 if that is not known
	// Provider is the platform, Words why the machine waits, as the platform says it.
	Provider, Words string
	// Since is when the platform took it.
	Since time.Time
}

// assignGrace is how long GitHub may leave a queued job and an idle runner that
// fits side by side before that is worth a word. Normally it takes seconds; in
// GitHub's incidents minutes (4-30, 4-43).
const assignGrace = time.Minute

// giveUp is how long GitHub lets a job wait for a self-hosted runner before it
// fails it (docs.github.com, "Self-hosted runners reference"), less what its own
// timer is early.
const giveUp = 24*time.Hour - time.Minute

// Explain answers why a job is still queued: every cause that holds, the most
// decisive first, and always at least one. It is pure; it looks at what the
// Situation says and at nothing else, so a cause is as fresh as its snapshot.
func Explain(s Situation, now time.Time) []Cause {
	j := s.Job
	switch j.State {
	case JobCompleted:
		over := "the job has finished: " + first(j.Conclusion, "no conclusion given") + ranOn(j)
		if waited := j.CompletedAt.Sub(j.QueuedAt()); !j.RanOnRunner() && !j.QueuedAt().IsZero() && waited >= giveUp && j.Conclusion != "skipped" {
			return []Cause{{Code: CauseExpired, Since: j.CompletedAt,
				Text: fmt.Sprintf("%s: GitHub gave it up after %s in the queue. Run it again; the pool's decisions of that time say why it got no runner", over, waited.Truncate(time.Minute))}}
		}
		return []Cause{{Code: CauseNotWaiting, Text: over, Since: j.CompletedAt}}
	case JobInProgress:
		if s.RunnerLost != "" {
			return []Cause{{Code: CauseRunnerLost, Since: j.StartedAt,
				Text: fmt.Sprintf("the job was given to runner %s, which is lost: %s. GitHub fails the job when it misses the runner; run it again then", first(j.RunnerName, "of another name"), s.RunnerLost)}}
		}
		return []Cause{{Code: CauseNotWaiting, Text: "the job is running" + ranOn(j), Since: j.StartedAt}}
	case JobWaiting:
		return []Cause{{Code: CauseWaitingApproval, Since: j.CreatedAt,
			Text: "GitHub holds the job back for an approval of its environment or a concurrency limit of its workflow and has not queued it; it gets no runner until then. Approve the deployment on the run's page (GitHub gives it up after 30 days)"}}
	}
	pool, causes := s.pool()
	said := s.tries().Said
	switch {
	case causes != nil:
	case said != "":
		causes = []Cause{{Code: CauseRunnerSays, Text: fmt.Sprintf("runner %s says that it runs the job, and GitHub has not told so yet: no other runner is made for it for up to two minutes. If GitHub does not confirm it by then, it is decided for anew", said)}}
	case pool.Keeps():
		causes = s.waitKept(pool, now)
	default:
		causes = s.wait(pool, now)
	}
	if since := j.QueuedAt(); !since.IsZero() && now.Sub(since) >= giveUp {
		causes = append([]Cause{{Code: CauseExpired, Since: since, Text: fmt.Sprintf(
			"the job is queued for %s, and GitHub gives a job up after a day: it is probably over, and Muster asks GitHub about it. What held it is below", age(since, now))}}, causes...)
	}
	if s.SeenOnlyByPoll {
		text := "only polling told of the job, not a webhook: look at the App's recent deliveries on GitHub and at `muster delivery list`; polling alone makes jobs wait up to its interval longer"
		if d := j.SeenAt.Sub(j.QueuedAt()); !j.QueuedAt().IsZero() && d > 0 {
			text += fmt.Sprintf(" (this one %s)", d.Truncate(time.Second))
		}
		causes = append(causes, Cause{Code: CauseSeenByPollingOnly, Text: text, Since: j.SeenAt})
	}
	return causes
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
	var refused, unfit, unfitToo []Cause // unfitToo would also refuse the job
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
		runnerLabels, registered := s.runnerLabels(p)
		m := MatchLabels(p.Labels, runnerLabels, j.Labels)
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
		case m.Triggered && refusal == "":
			unfit = append(unfit, notEligible(p, m, registered))
		case m.Triggered:
			unfitToo = append(unfitToo, notEligible(p, m, registered))
		default:
			lacks, extra := p.Labels.Missing(j.Labels), j.Labels.Missing(runnerLabels)
			if d := len(lacks) + len(extra); distance < 0 || d < distance {
				distance = d
				nearest = fmt.Sprintf("the nearest is pool %s with labels [%s]: %s", p.Name, p.Labels, difference(lacks, extra))
			}
		}
	}
	if found {
		return routed, nil
	}
	// A pool that would take the job but for its labels says more than those of
	// other repositories, which refuse it.
	for _, causes := range [][]Cause{unfit, refused, unfitToo} {
		if causes != nil {
			return Pool{}, causes
		}
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

// notEligible says which labels a pool's runners lack. Those of a kept machine's
// runner are given to it at GitHub.
func notEligible(p Pool, m Match, registered Labels) Cause {
	text := fmt.Sprintf("pool %s is asked for by its labels [%s], but its runners would register without [%s], so GitHub would never give them the job: add to runner_labels what the machines really offer, or correct runs-on",
		p.Name, p.Labels, m.Missing)
	if p.Keeps() {
		text = fmt.Sprintf("pool %s is asked for by its labels [%s], but the runner of its machine %s is registered at GitHub without [%s], with [%s] only, so GitHub would never give it the job and the machine is not started: give the runner the label in the settings of %s, or correct runs-on",
			p.Name, p.Labels, p.Machine, m.Missing, registered, p.Scope)
	}
	return Cause{Code: CauseNotEligible, Text: text}
}

// runnerLabels are the labels of a pool's runners. Those of a kept machine's runner
// are the registered ones; until GitHub told them, they are taken to be what the job
// asks for, as routing takes them.
func (s Situation) runnerLabels(p Pool) (effective, registered Labels) {
	if !p.Keeps() {
		return p.RunnerLabels, nil
	}
	m, _ := s.machine(p)
	if known, ok := m.Labels[p.Name]; ok {
		return known, known
	}
	return slices.Concat(p.RunnerLabels, s.Job.Labels), nil
}

// machine is what is known of the machine that a pool keeps.
func (s Situation) machine(p Pool) (Machine, bool) {
	for _, m := range s.Machines {
		if p.Keeps() && m.ID == p.MachineID() {
			return m, true
		}
	}
	return Machine{}, false
}

// tries is what the snapshot says of runners that were made for the job.
func (s Situation) tries() (p PlanJob) {
	for _, j := range s.Snapshot.Jobs {
		if j.ID == s.Job.Key.ID && max(1, j.Attempt) == max(1, s.Job.Key.Attempt) {
			return j
		}
	}
	return p
}

// wait is why a job that its pool serves has no runner yet.
func (s Situation) wait(p Pool, now time.Time) (causes []Cause) {
	add := func(code string, since time.Time, format string, args ...any) {
		causes = append(causes, Cause{Code: code, Text: fmt.Sprintf(format, args...), Since: since})
	}
	p = p.WithDefaults()
	snap := s.Snapshot
	window := snap.window(p.Scaling, now)
	p.Scaling = window.Scaling
	j, f, q := s.Job, countRunners(snap.Runners), snap.demand(p, now)
	supply := f.idle + f.starting
	// In demand that is counted per pool, a job in line is served when all before it
	// are; one that is held may take what those in line leave.
	position := s.Ahead + 1
	w, place, known := q.place(j.Key)
	held := known && place < 0
	switch {
	case known && !held:
		position = place + 1
	case held:
		position = len(q.line) + 1
	}
	covered := p.Scaling.served(supply, position) >= position && !held
	stopped := snap.Spending.State == SpendingStopped
	budgetSpent := fmt.Sprintf("project %s has spent %s of its month's %s", p.Project, usd(snap.Spending.SpentMicroUSD), usd(snap.Spending.MonthMicroUSD))

	if snap.Suspended {
		add(CauseSuspended, time.Time{}, "GitHub reports the App's installation as suspended: running jobs finish, nothing is started. Unsuspend it on the installation's page on GitHub; the queue is picked up then")
	}
	if s.AppProblem != "" {
		add(CauseApp, time.Time{}, "%s", s.AppProblem)
	}
	if s.ScaleSetProblem != "" {
		add(CauseScaleSet, time.Time{}, "pool %s hears of its jobs by scale set %s, and %s", p.Name, p.ScaleSet, s.ScaleSetProblem)
	}
	if p.Suspended {
		add(CausePoolSuspended, time.Time{}, "pool %s is suspended: running jobs finish, nothing is started, and %s. Resume it with `muster pool resume %s`", p.Name, waits(q.queued), p.Name)
	}
	if s.GroupProblem != "" {
		add(CauseRunnerGroup, time.Time{}, "runner group %d, in which pool %s registers, does not serve the job: %s. Change the group's access on GitHub or the pool's runner_group", p.RunnerGroup, p.Name, s.GroupProblem)
	}
	// GitHub knows neither priorities nor quotas: an idle runner is for any job that fits.
	if idle := f.ready; len(idle) > 0 && f.idle >= min(position, s.Ahead+1) && s.GroupProblem == "" {
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
	wait, budget := snap.wait(p)
	ripe := w.at.add(wait)
	young := held && ripe > instantOf(now)
	switch {
	case stopped && !covered:
		add(CauseBudget, time.Time{}, "%s, so that nothing new is made (stop_percent); running jobs finish. Raise month_usd or wait for the next month (UTC)", budgetSpent)
	case young && budget:
		add(CauseBudget, w.at.time(), "%s, so that a job gets a runner only %s after it was queued (lower_percent), this one at %s, unless one idles before. Raise month_usd if that is too long", budgetSpent, wait, clock(ripe.time()))
	}
	tries := s.tries()
	if again := tries.nextTry(); held && again.After(now) {
		add(CauseNoTaker, tries.TriedAt, "%d runners were made for this job, listened, and did not get it: other jobs took them, or GitHub does not give it to such runners. The next is made at %s (in %s), unless one idles before. Check that runner group %d may be used by %s and this workflow",
			tries.Tries, clock(again), again.Sub(now).Truncate(time.Second), p.RunnerGroup, j.Repository)
	} else if held && !young {
		r := q.full(&q.repos[w.repo])
		if r == nil { // it held when the queue was lined up
			r = &room{}
		}
		add(CauseQuota, time.Time{}, "its quota is full (%s, with jobs that run and jobs before this one), so that no runner is made for %s until one of those ends; one that idles may take it before. Raise max_runners of the quota if that is too few", r, j.Repository)
	}
	if young && !budget {
		add(CauseJobWait, w.at.time(), "pool %s makes a runner for a job that has waited for %s (job_wait), for this one at %s (in %s); one that idles may take it before", p.Name, wait, clock(ripe.time()), ripe.time().Sub(now).Truncate(time.Second))
	}
	if limit := p.Scaling.MaxRunners; f.live() >= limit && !covered && !held {
		if !window.maxUntil.IsZero() {
			add(CauseSchedule, time.Time{}, "a schedule of pool %s sets its limit to %s until %s (in %s)", p.Name, count(limit, "runner"), clock(window.maxUntil), window.maxUntil.Sub(now).Truncate(time.Second))
		}
		add(CausePoolAtMax, time.Time{}, "pool %s is at its limit: %d of %d runners live (%d busy, %d idle, %d starting, %d draining); the job is number %d of %d in its queue. Raise max_runners or wait for a runner to finish",
			p.Name, f.live(), limit, f.busy, f.idle, f.starting, f.draining, position, max(position, q.queued))
	}
	if s.ProviderError != "" {
		add(CauseProviderRefusing, s.ProviderErrorAt, "pool %s gets no runner from provider %s: %s", p.Name, p.Provider, s.ProviderError)
	}
	if s.GitHubPaused.After(now) {
		add(CauseGitHubPaused, time.Time{}, "GitHub's rate limit holds calls back until %s (in %s)%s: runners register and jobs are looked for more slowly; nothing is lost", clock(s.GitHubPaused), s.GitHubPaused.Sub(now).Truncate(time.Second), colon(s.GitHubWords))
	}
	if s.Decision.Rule == RuleProvisioningLimit && !covered {
		add(CauseProvisioningLimit, s.DecidedAt, "%d runners of pool %s are starting and at most %d may start at once; the job is number %d in its queue. Raise provisioning if the provider can take more", f.starting, p.Name, p.Provisioning, position)
	}
	if until := p.Scaling.coolUntil(snap.LastScaling); now.Before(until) && !covered {
		add(CauseCooldown, snap.LastScaling, "pool %s was last scaled at %s and rests until %s (in %s). Shorten cooldown if that is too long",
			p.Name, clock(snap.LastScaling), clock(until), until.Sub(now).Truncate(time.Second))
	}
	blocked := len(causes) > 0
	if blocked && known && !held && !covered {
		s.order(p, &q, w, place, add)
	}
	inQueue := s.platformQueue(p, now, add)
	// One that is registered and does not listen yet is still on its way.
	if coming := f.starting + f.idle - len(f.ready) - len(inQueue); coming > 0 && len(f.ready) < position {
		since := time.Time{}
		for _, r := range snap.Runners {
			if !inQueue[r.ID] && (r.State == RunnerProvisioning || r.State == RunnerRegistered && !r.Busy && r.IdleSince.IsZero()) {
				since = earlier(since, r.CreatedAt)
			}
		}
		add(CauseStarting, since, "%s starting in pool %s, the first since %s (%s ago); the job is number %d in its queue", was(coming, "runner"), p.Name, clock(since), age(since, now), position)
	}
	blocked = len(causes) > 0
	if o := p.Overflow; known && !covered && o.Pool != "" && w.overflows {
		if at := w.at.add(o.After).time(); at.After(now) {
			add(CauseOverflow, time.Time{}, "if it still waits then, the job goes to pool %s at %s (in %s)", o.Pool, clock(at), at.Sub(now).Truncate(time.Second))
		} else {
			add(CauseOverflow, at, "the job has waited for %s and goes to pool %s with the next decision", age(w.at.time(), now), o.Pool)
		}
	}
	if s.StolenBy != "" {
		add(CauseStolen, time.Time{}, "the runner that was made for this job took job %s instead, since GitHub gives a job to any runner that fits; the job counts as waiting again and gets another", s.StolenBy)
	}
	if blocked || s.StolenBy != "" {
		return causes
	}
	text := fmt.Sprintf("pool %s has not decided about the job yet", p.Name)
	if !s.DecidedAt.IsZero() {
		text = fmt.Sprintf("pool %s decided %s at %s (%s ago): %s", p.Name, first(s.Decision.Action, Maintain), clock(s.DecidedAt), age(s.DecidedAt, now), first(s.Decision.Reason, "no reason recorded"))
	}
	if len(f.ready) >= position {
		text += fmt.Sprintf("; %s idle, and GitHub normally assigns a job within seconds", was(f.idle, "runner"))
	}
	if snap.DemandUnknown {
		text += "; its queue could not be read from GitHub, so nothing is changed until it can"
	}
	if w := s.Decision.WakeAt; w.After(now) {
		text += fmt.Sprintf("; it decides again at the latest in %s", w.Sub(now).Truncate(time.Second))
	}
	add(CauseDeciding, first(s.DecidedAt, j.SeenAt), "%s", text)
	return causes
}

// platformQueue says what platforms say of the pool's runners that wait in their own
// queues: of the one that was made for this job, else of the one that waits longest. It
// returns those that wait.
func (s Situation) platformQueue(p Pool, now time.Time, add func(string, time.Time, string, ...any)) map[RunnerID]bool {
	waits := map[RunnerID]bool{}
	var told QueuedRunner
	for _, r := range s.Queued {
		if !slices.ContainsFunc(s.Snapshot.Runners, func(o PlanRunner) bool { return o.ID == r.ID && o.State == RunnerProvisioning }) {
			continue // it has moved on since
		}
		waits[r.ID] = true
		mine, its := r.For == s.Job.Key.ID, told.For == s.Job.Key.ID
		if told.ID == "" || mine && !its || mine == its && r.Since.Before(told.Since) {
			told = r
		}
	}
	if told.ID == "" {
		return nil
	}
	which, others := "a runner", ""
	if told.For == s.Job.Key.ID {
		which = "runner " + string(told.ID) + " for this job"
	}
	if n := len(waits) - 1; n > 0 {
		others = fmt.Sprintf("; %s in it too", was(n, "other runner"))
	}
	add(CausePlatformQueue, told.Since, "pool %s made %s that waits in the platform's queue, of provider %s: %s, since %s (%s ago)%s",
		p.Name, which, told.Provider, told.Words, clock(told.Since), age(told.Since, now), others)
	return waits
}

// order says why jobs that came later are served before this one.
func (s Situation) order(p Pool, q *demand, w waiting, place int, add func(string, time.Time, string, ...any)) {
	higher, shares := 0, 0
	for _, o := range q.line[:place] {
		switch {
		case o.at <= w.at:
		case o.priority > w.priority:
			higher++
		default:
			shares++
		}
	}
	where := fmt.Sprintf("the job is number %d of %d in line and would be number %d by age", place+1, len(q.line), place+1-higher-shares)
	if higher > 0 {
		add(CausePriority, time.Time{}, "%s: %s higher priority in pool %s (its own is %d). After %s in the queue it counts as one of the highest", where, haveA(higher, "younger job"), p.Name, w.priority, patience)
	}
	if shares > 0 {
		r := q.repos[w.repo]
		add(CauseFairShare, time.Time{}, "%s: %s other repositories, which have fewer jobs running and in line than %s with its %d and %d. Shares are equal while the pool has fewer runners than jobs", where, comes(shares, "younger job"), s.Job.Repository, r.running, r.load-r.running)
	}
}

// usd is an amount of money: "$12.50".
func usd(micro int64) string {
	return fmt.Sprintf("$%d.%02d", micro/1e6, max(micro, -micro)%1e6/1e4)
}

// colon puts words behind a colon; "" stays "".
func colon(words string) string {
	if words == "" {
		return ""
	}
	return ": " + words
}

// haveA is "1 younger job has a", "2 younger jobs have a".
func haveA(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " has a"
	}
	return count(n, noun) + " have a"
}

// comes is "1 younger job comes before it from", "2 younger jobs come before it from".
func comes(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " comes before it from"
	}
	return count(n, noun) + " come before it from"
}

// was is a number with its noun and verb: "1 runner is", "2 runners are".
func was(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " is"
	}
	return count(n, noun) + " are"
}
