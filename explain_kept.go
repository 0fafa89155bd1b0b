package muster

import (
	"fmt"
	"time"
)

// machineBoot is how long a kept machine that is up may take until its runner
// listens, where its pool does not say.
const machineBoot = 2 * time.Minute

// waitKept is why a job waits that the machine of a kept pool is to run: it has no
// runner of its own, so the machine's row answers.
func (s Situation) waitKept(p Pool, now time.Time) (causes []Cause) {
	add := func(code string, since time.Time, format string, args ...any) {
		causes = append(causes, Cause{Code: code, Text: fmt.Sprintf(format, args...), Since: since})
	}
	m, _ := s.machine(p)
	if s.Snapshot.Suspended {
		add(CauseSuspended, time.Time{}, "GitHub reports the App's installation as suspended: machine %s is not started. Unsuspend it on the installation's page on GitHub; the queue is picked up then", p.Machine)
	}
	if s.AppProblem != "" {
		add(CauseApp, time.Time{}, "%s", s.AppProblem)
	}
	if p.Suspended {
		add(CausePoolSuspended, time.Time{}, "pool %s is suspended: its machine %s is not started for it. Resume it with `muster pool resume %s`", p.Name, p.Machine, p.Name)
	}
	held := p.Suspended || s.Snapshot.Suspended
	place := ""
	if s.Ahead > 0 {
		place = fmt.Sprintf("; the job is number %d in the queue of pool %s", s.Ahead+1, p.Name)
	}
	since := m.Since()
	ago := sinceOf(since, now)
	// A job that runs proves that the machine is up, before its platform is asked again.
	isUp := m.Status == MachineRunning || m.Status.Starting() && len(s.OnMachine) > 0
	up := s.machineUp(p, m, place, now)
	switch {
	case isUp && up.Code != CauseStarting:
		causes = append(causes, up)
	case m.Status.Stopping() && !held:
		add(CauseMachineStopping, since, "machine %s is %s%s and is started for the job as soon as it has stopped%s", p.Machine, m.Status, ago, place)
	case m.Status == MachineSuspended:
		add(CauseMachineSuspended, since, "machine %s is suspended by its platform, which Muster does not undo: resume it there%s", p.Machine, place)
	}
	if m.StatusError != "" {
		add(CauseProviderRefusing, m.StatusErrorAt, "provider %s does not say how machine %s stands, and it is not touched until it does; asked again every few seconds: %s", p.Provider, p.Machine, m.StatusError)
	}
	if m.Refusals > 0 && m.Refusal != "" && m.Refusal != m.StatusError && m.Status != MachineRunning {
		add(CauseProviderRefusing, m.RefusedAt, "provider %s refused %s to start machine %s, the last time at %s (%s ago), and is asked again, at the latest 5 minutes after that: %s",
			p.Provider, times(m.Refusals), p.Machine, clock(m.RefusedAt), age(m.RefusedAt, now), m.Refusal)
	}
	if s.GitHubPaused.After(now) {
		add(CauseGitHubPaused, time.Time{}, "GitHub's rate limit holds calls back until %s (in %s)%s: jobs are looked for more slowly; nothing is lost", clock(s.GitHubPaused), s.GitHubPaused.Sub(now).Truncate(time.Second), colon(s.GitHubWords))
	}
	switch {
	case isUp && up.Code == CauseStarting:
		causes = append(causes, up)
	case m.Status.Starting() && !isUp:
		add(CauseStarting, since, "machine %s is starting (%s)%s; its runner takes the job once it listens%s", p.Machine, m.Status, ago, place)
	}
	if len(causes) > 0 {
		return causes
	}
	said := ""
	if m.Reason != "" {
		said = "; decided last: " + m.Reason
	}
	switch m.Status {
	case "":
		add(CauseDeciding, s.Job.SeenAt, "nothing is known of machine %s yet: provider %s is asked how it stands%s", p.Machine, p.Provider, said)
	case MachineTerminated:
		add(CauseDeciding, first(since, s.Job.SeenAt), "machine %s is stopped%s and is about to be started for the job%s%s", p.Machine, ago, place, said)
	default:
		add(CauseDeciding, s.Job.SeenAt, "provider %s says of machine %s %q, which is no status that can be acted upon%s", p.Provider, p.Machine, m.Status, said)
	}
	return causes
}

// machineUp is why a job waits for a machine that is up.
func (s Situation) machineUp(p Pool, m Machine, place string, now time.Time) Cause {
	cause := func(code string, since time.Time, format string, args ...any) Cause {
		return Cause{Code: code, Text: fmt.Sprintf(format, args...) + place, Since: since}
	}
	if len(s.OnMachine) > 0 {
		r := s.OnMachine[0]
		return cause(CauseMachineBusy, r.StartedAt, "machine %s is up and runs job %s (%s of %s)%s, one job at a time", p.Machine, r.Key, r.Name, r.Repository, sinceOf(r.StartedAt, now))
	}
	asked := fmt.Sprintf("asked at %s, %s ago", clock(m.WorkAt), age(m.WorkAt, now))
	switch {
	case m.Work == WorkBusy && m.WorkAt.After(m.DoneAt): // one from before is about the job that ended
		return cause(CauseMachineBusy, m.WorkAt, "machine %s is up, and GitHub says that its runner is busy (%s) with a job that Muster was not told of", p.Machine, asked)
	case m.Work == WorkMissing:
		return cause(CauseRunnerMissing, first(m.MissingAt, m.WorkAt), "machine %s is up%s, but GitHub knows no runner %s in %s (%s): register it there, with the machine's name", p.Machine, sinceOf(m.UpAt, now), p.Machine, p.Scope, asked)
	}
	if booted := m.UpAt.Add(first(p.ConnectTimeout, machineBoot)); m.DoneAt.Before(m.UpAt) && now.Before(booted) {
		return cause(CauseStarting, m.UpAt, "machine %s came up at %s (%s ago), and its runner takes the job once it listens", p.Machine, clock(m.UpAt), age(m.UpAt, now))
	}
	// GitHub could have joined the two since the last of them was there.
	both := m.UpAt
	for _, t := range []time.Time{m.DoneAt, s.Job.QueuedAt()} {
		if t.After(both) {
			both = t
		}
	}
	if now.Sub(both) < assignGrace {
		return cause(CauseStarting, both, "machine %s is up and runs no job, and GitHub normally assigns one within seconds", p.Machine)
	}
	word := "GitHub was not asked yet whether its runner is idle"
	switch m.Work {
	case WorkIdle:
		word = fmt.Sprintf("GitHub says that its runner is idle (%s)", asked)
	case WorkUnknown:
		word = fmt.Sprintf("GitHub did not say whether its runner is idle, %s in a row", times(m.Unknowns))
	}
	return cause(CauseIdleNotAssigned, both, "machine %s is up and no job runs on it, but GitHub has not assigned the job for %s; %s. Check that the runner's service runs on the machine and that its runner group may be used by %s and this workflow; else GitHub is slow (githubstatus.com)",
		p.Machine, age(both, now), word, s.Job.Repository)
}

// sinceOf is " since 12:00:00 (3m0s ago)", "" for a time that is not known.
func sinceOf(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" since %s (%s ago)", clock(t), age(t, now))
}

// times is "once", "3 times".
func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
