package muster

import (
	"fmt"
	"strings"
	"time"
)

// Note is one rule that a pool follows, in words.
type Note struct {
	// Topic is a fixed word: "suspended", "schedule", "quota", "priority",
	// "overflow", "job_wait", "canary", "budget", "scale_set", "unnamed".
	Topic string
	Text  string
}

// Notes says in words by which rules beyond its limits a pool decides, and how
// they stand at now. It is pure, as Plan is, and decides nothing.
func Notes(s Snapshot, now time.Time) (out []Note) {
	p := s.Pool
	add := func(topic, format string, args ...any) {
		out = append(out, Note{topic, fmt.Sprintf(format, args...)})
	}
	if p.Suspended {
		add("suspended", "suspended by an operator: running jobs finish, queued ones wait, no runner is made")
	}
	for _, w := range s.Windows {
		limits := windowLimits(w)
		switch {
		case now.Before(w.From):
			add("schedule", "from %s until %s: %s", clock(w.From), clock(w.Until), limits)
		case now.Before(w.Until):
			add("schedule", "now, until %s: %s", clock(w.Until), limits)
		}
	}
	if len(s.Windows) == 0 {
		for _, sc := range p.Schedules {
			add("schedule", "at %s (%s), for %s: %s", sc.Cron, first(sc.TimeZone, "UTC"), brief(sc.For), windowLimits(Window{MinRunners: sc.MinRunners, MaxRunners: sc.MaxRunners}))
		}
	}
	for _, q := range p.Quotas {
		of := "all repositories"
		if len(q.Repositories) > 0 {
			of = strings.Join(q.Repositories, ", ")
		}
		how := "together"
		if q.Each {
			how = "each"
		}
		used, most := quotaUse(q, s.Jobs)
		text := fmt.Sprintf("%s: at most %s for %s %s; %d in use", first(q.Name, "quota"), count(q.MaxRunners, "runner"), of, how, used)
		if q.Each && most != "" {
			text += " by " + most
		}
		add("quota", "%s", text)
	}
	for _, r := range p.Priorities {
		add("priority", "%s: %+d", r.words(), r.Weight)
	}
	if p.Overflow.Pool != "" {
		over := 0
		for _, j := range s.Jobs {
			if j.State == JobQueued && j.Overflows && now.Sub(j.QueuedAt) >= p.Overflow.After {
				over++
			}
		}
		add("overflow", "jobs that waited %s and find no room go to pool %s; %s so long now", brief(p.Overflow.After), p.Overflow.Pool, waits(over))
	}
	if p.JobWait > 0 {
		young := 0
		for _, j := range s.Jobs {
			if j.State == JobQueued && now.Sub(j.QueuedAt) < p.JobWait {
				young++
			}
		}
		add("job_wait", "a job waits %s before a runner is made for it; %s for that now", brief(p.JobWait), waits(young))
	}
	if c := p.Canary; c.Offering != "" {
		k := s.Canary
		text := fmt.Sprintf("%d %% of new runners try offering %s: %d of %d so far, %d failed of at most %d", c.Percent, c.Offering, k.Canaries, k.Made, k.Failed, first(c.MaxFailures, defaultCanaryFailures))
		if k.Reverted {
			text = fmt.Sprintf("offering %s was given up after %s of it failed", c.Offering, count(k.Failed, "runner"))
		}
		add("canary", "%s", text)
	}
	if sp := s.Spending; sp.MonthMicroUSD > 0 {
		add("budget", "project %s spent $%.2f of $%.2f this month%s", p.Project, float64(sp.SpentMicroUSD)/1e6, float64(sp.MonthMicroUSD)/1e6, map[SpendingState]string{
			SpendingWarned: ": near its budget", SpendingLowered: ": its jobs wait for others and no floor is kept", SpendingStopped: ": nothing new is made",
		}[sp.State])
	}
	if p.ScaleSet != "" {
		add("scale_set", "GitHub tells of jobs by the scale set %s instead of by webhooks", p.ScaleSet)
	}
	if s.Unnamed > 0 {
		add("unnamed", "%s known only by number", waits(s.Unnamed))
	}
	return out
}

// brief is a duration without the zeros at its end: "10h", "1m30s".
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// waits is a number of jobs with its verb: "1 job waits", "2 jobs wait".
func waits(n int) string {
	if n == 1 {
		return "1 job waits"
	}
	return count(n, "job") + " wait"
}

func windowLimits(w Window) string {
	var parts []string
	if w.MinRunners != nil {
		parts = append(parts, "at least "+count(*w.MinRunners, "runner"))
	}
	if w.MaxRunners != nil {
		parts = append(parts, "at most "+count(*w.MaxRunners, "runner"))
	}
	if len(parts) == 0 {
		return "the usual limits"
	}
	return strings.Join(parts, ", ")
}

// quotaUse is how many jobs that run fall under the quota; for one that counts
// each repository on its own, the most of any, and whose.
func quotaUse(q Quota, jobs []PlanJob) (used int, most string) {
	by := map[string]int{}
	for _, j := range jobs {
		if j.State != JobInProgress || !q.Covers(j.Repository) {
			continue
		}
		name := strings.ToLower(j.Repository)
		by[name]++
		switch {
		case !q.Each:
			used++
		case by[name] > used:
			used, most = by[name], j.Repository
		}
	}
	return used, most
}

// words is a rule's condition.
func (r Priority) words() string {
	var parts []string
	for _, c := range []struct{ name, value string }{{"label", r.Label}, {"branch", r.Branch}, {"repository", r.Repository}, {"event", r.Event}} {
		if c.value != "" {
			parts = append(parts, c.name+" "+c.value)
		}
	}
	if len(parts) == 0 {
		return "every job"
	}
	return strings.Join(parts, " and ")
}
