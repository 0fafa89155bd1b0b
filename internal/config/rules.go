package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/schedule"
)

// repositories is a pattern of repositories: owner/name, with * for any run of characters.
var repositories = regexp.MustCompile(`\A[a-zA-Z0-9._/*-]+\z`)

// defaultWarnPercent is what a budget warns at that does not say when; it lowers
// and stops only where the file says so.
const defaultWarnPercent = 80

func (l *loader) patterns(at string, patterns list) {
	for _, r := range patterns {
		if !repositories.MatchString(r) || !strings.ContainsAny(r, "/*") {
			l.at(at, "write OWNER/NAME, with * for any characters", "repository %q is not owner/name", r)
		}
	}
}

func (l *loader) teams(teams map[string]list) {
	for _, name := range slices.Sorted(maps.Keys(teams)) {
		at := join("teams", name)
		if !word.MatchString(name) {
			l.at(at, "use letters, digits, '-' and '_'", "team name %q has a character that is not allowed", name)
		}
		if len(teams[name]) == 0 && l.sound(at) {
			l.at(at, "list its repositories, such as [octo/*, other/app]", "team %q has no repositories", name)
		}
		l.patterns(at, teams[name])
	}
}

// rules reads the settings of a pool that decide about jobs beyond its limits.
func (l *loader) rules(at string, f filePool, teams map[string]list, c Config, p *muster.Pool) {
	notNegative := func(path string, bad bool, remedy string) {
		if bad {
			l.at(path, remedy, "%s must not be negative", path[strings.LastIndex(path, ".")+1:])
		}
	}
	if p.ScaleSet = f.ScaleSet; f.ScaleSet != "" {
		if (muster.Labels{f.ScaleSet}).Validate() != nil {
			l.at(at+".scale_set", "use letters, digits, '.', '_' and '-'", "scale_set %q has a character that is not allowed", f.ScaleSet)
		}
		if p.Lifecycle == muster.LifecycleKept {
			l.at(at+".lifecycle", "remove it: runners of a scale set have one job each", "pool %q has a scale set and keeps its machines", f.Name)
		}
		if p.Registration != muster.RegistrationJIT {
			l.at(at+".registration", "remove it: runners of a scale set register by jit", "pool %q has a scale set and registers by %s", f.Name, p.Registration)
		}
	}
	p.JobWait = f.JobWait
	notNegative(at+".job_wait", f.JobWait < 0, "write 0s for none")
	p.InactiveMinutes = f.InactiveMinutes
	notNegative(at+".inactive_minutes", f.InactiveMinutes < 0, "remove it to get 3")
	p.Machine, p.Zone = f.Machine, f.Zone
	if p.Machine != "" && p.Lifecycle != muster.LifecycleKept {
		l.at(at+".machine", "set lifecycle: kept and registration: preregistered, or remove machine", "pool %q names a machine and does not keep it", f.Name)
	}
	if p.Machine != "" && !muster.ValidRunnerName(p.Machine) {
		l.at(at+".machine", "write the name of the machine, under which its runner is registered", "machine %q of pool %q cannot be a runner's name", p.Machine, f.Name)
	}

	for i, s := range f.Schedules {
		p.Schedules = append(p.Schedules, l.schedule(fmt.Sprintf("%s.schedules[%d]", at, i), s))
	}
	p.Overflow.Pool = f.Overflow.Pool // which pools there are is known later: overflows
	if f.Overflow.Pool != "" && f.Overflow.Pool == f.Name {
		l.at(at+".overflow.pool", "name another pool", "pool %q overflows into itself", f.Name)
	}
	switch after := f.Overflow.After; {
	case !l.written(at+".overflow") || !l.sound(at+".overflow"):
	case after == nil:
		if l.sound(at + ".overflow.after") {
			l.at(at+".overflow", "set after to how long a job waits before it goes to that pool, such as 2m", "overflow of pool %q has no after", f.Name)
		}
	default:
		p.Overflow.After = *after
		notNegative(at+".overflow.after", *after < 0, "write 0s for at once")
	}
	names := map[string]int{}
	for i, q := range f.Quotas {
		p.Quotas = append(p.Quotas, l.quota(fmt.Sprintf("%s.quotas[%d]", at, i), q, teams, names))
	}
	for i, r := range f.Priorities {
		at := fmt.Sprintf("%s.priorities[%d]", at, i)
		if r.Label == "" && r.Branch == "" && r.Repository == "" && r.Event == "" {
			l.at(at, "set label, branch, repository or event", "this priority has no condition and would move every job alike")
		}
		if r.Weight == 0 && l.sound(at+".weight") {
			l.at(at, "set weight to a whole number; jobs of a higher sum go first", "this priority has no weight and would move nothing")
		}
		if r.Repository != "" {
			l.patterns(at+".repository", list{r.Repository})
		}
		p.Priorities = append(p.Priorities, muster.Priority(r))
	}
	if l.written(at + ".canary") {
		l.canary(at+".canary", f, c)
		p.Canary = muster.Canary(f.Canary)
	}
}

func (l *loader) schedule(at string, f fileSchedule) muster.Schedule {
	if f.Cron == "" {
		if l.sound(at + ".cron") {
			l.at(at, `set cron to minute, hour, day, month and weekday, such as "0 8 * * MON-FRI"`, "this schedule has no cron")
		}
	} else if err := schedule.Check(f.Cron, ""); err != nil {
		l.at(at+".cron", "", "%s", muster.MessageOf(err))
	}
	if err := schedule.Check("0 0 * * *", f.TimeZone); err != nil {
		l.at(at+".time_zone", "", "%s", muster.MessageOf(err))
	}
	switch {
	case f.For > 0 || !l.sound(at+".for"):
	case l.written(at + ".for"):
		l.at(at+".for", "write how long its limits hold after each firing, such as 10h", "for must be longer than 0s")
	default:
		l.at(at, "set for to how long its limits hold after each firing, such as 10h", "this schedule has no for")
	}
	for _, limit := range []struct {
		key string
		n   *int
	}{{"min_runners", f.MinRunners}, {"max_runners", f.MaxRunners}} {
		if limit.n != nil && *limit.n < 0 {
			l.at(at+"."+limit.key, "write 0 or more", "%s must not be less than 0", limit.key)
		}
	}
	switch low, high := f.MinRunners, f.MaxRunners; {
	case low == nil && high == nil:
		if l.sound(at+".min_runners") && l.sound(at+".max_runners") {
			l.at(at, "set min_runners or max_runners", "this schedule changes nothing")
		}
	case low != nil && high != nil && *low > *high && *high >= 0:
		l.at(at+".max_runners", "raise max_runners or lower min_runners", "max_runners %d is less than min_runners %d", *high, *low)
	}
	return muster.Schedule(f)
}

func (l *loader) quota(at string, f fileQuota, teams map[string]list, names map[string]int) muster.Quota {
	q := muster.Quota{Name: or(f.Name, f.Team), Repositories: f.Repositories, Each: f.Each}
	if f.Team != "" {
		q.Repositories = teams[f.Team]
		if _, ok := teams[f.Team]; !ok {
			known := slices.Sorted(maps.Keys(teams))
			remedy := "list its repositories under teams:"
			if n := nearest(f.Team, known); n != "" {
				remedy = fmt.Sprintf("did you mean %q?", n)
			}
			l.at(at+".team", remedy, "this quota names the team %q, which is not configured", f.Team)
		}
		if len(f.Repositories) > 0 {
			l.at(at+".repositories", "keep one of them", "this quota has both a team and repositories")
		}
	}
	switch first, twice := names[q.Name]; {
	case q.Name == "":
		if l.sound(at+".name") && l.sound(at+".team") {
			l.at(at, "set name to what operators call it, or team", "this quota has no name")
		}
	case twice:
		l.at(at, "give each its own name", "quota %q is configured twice, first on line %d", q.Name, first)
	default:
		names[q.Name] = l.line(at)
	}
	l.patterns(at+".repositories", f.Repositories)
	switch n := f.MaxRunners; {
	case n == nil:
		if l.sound(at + ".max_runners") {
			l.at(at, "set max_runners to the most runners that their jobs may have at once", "quota %q has no max_runners", q.Name)
		}
	case *n < 0:
		l.at(at+".max_runners", "write 0 or more", "max_runners must not be less than 0")
	default:
		q.MaxRunners = *n
	}
	return q
}

func (l *loader) canary(at string, f filePool, c Config) {
	switch f.Canary.Offering {
	case "":
		if l.sound(at) && l.sound(at+".offering") {
			l.at(at, "set offering to the one to try", "canary of pool %q names no offering", f.Name)
		}
	case f.Offering:
		l.at(at+".offering", "name another one", "canary of pool %q names the pool's own offering", f.Name)
	default:
		l.refer(at, "offering", f.Canary.Offering, f.Name, namesOf(c.Offerings, func(o muster.Offering) string { return o.Name }), false)
	}
	if n := f.Canary.Percent; (n < 1 || n > 100) && l.sound(at) && l.sound(at+".percent") {
		l.at(at+".percent", "write 1 to 100", "canary percent %d is not a share of the new runners", n)
	}
	if f.Canary.MaxFailures < 0 {
		l.at(at+".max_failures", "remove it to get 3", "max_failures must not be negative")
	}
}

// overflows checks where pools overflow to, when all pools are known. written are
// those of the file itself, which stand first among all.
func (l *loader) overflows(written []filePool, all []muster.Pool) {
	find := func(name string) *muster.Pool {
		i := slices.IndexFunc(all, func(p muster.Pool) bool { return p.Name == name })
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	for i, f := range written {
		at := fmt.Sprintf("pools[%d].overflow", i)
		if !l.written(at) || !l.sound(at) {
			continue
		}
		from, to := all[i], find(f.Overflow.Pool)
		switch {
		case f.Overflow.Pool == "":
			if l.sound(at + ".pool") {
				l.at(at, "set pool to the one that takes the jobs", "overflow of pool %q names no pool", f.Name)
			}
		case to == nil:
			l.refer(at, "pool", f.Overflow.Pool, f.Name, namesOf(all, func(p muster.Pool) string { return p.Name }), false)
		case to.Name == from.Name: // told by rules
		case from.ScaleSet != "" || to.ScaleSet != "":
			l.at(at, "remove overflow, or scale_set from both pools", "pool %q or the pool that it overflows into has a scale set, whose jobs GitHub gives to no other runners", f.Name)
		case len(from.Labels.Missing(to.RunnerLabels)) > 0:
			l.at(at+".pool", "add them to the runner_labels of that pool if its machines offer what they stand for", "runner_labels of pool %q lack %s, so that no job of pool %q could go there", to.Name, from.Labels.Missing(to.RunnerLabels), f.Name)
		default:
			// A job that goes round for ever is served by nobody. Each circle is told once, at its first pool.
			way := []string{from.Name}
			for next := to; next != nil && !slices.Contains(way, next.Name); next = find(next.Overflow.Pool) {
				way = append(way, next.Name)
			}
			last := find(way[len(way)-1])
			if last.Overflow.Pool == from.Name && !slices.ContainsFunc(written[:i], func(w filePool) bool { return slices.Contains(way, w.Name) }) {
				l.at(at+".pool", "let one of them overflow into no other", "pools overflow in a circle: %s", strings.Join(append(way, from.Name), " → "))
			}
		}
	}
}

func (l *loader) budgets(fs []fileBudget, pools []muster.Pool) []muster.CostBudget {
	var out []muster.CostBudget
	seen := map[string]int{}
	projects := namesOf(pools, func(p muster.Pool) string { return p.Project })
	for i, f := range fs {
		at := fmt.Sprintf("budgets[%d]", i)
		b := muster.CostBudget{Project: f.Project, WarnPercent: defaultWarnPercent, LowerPercent: f.LowerPercent, StopPercent: f.StopPercent}
		if f.WarnPercent != nil {
			b.WarnPercent = *f.WarnPercent
		}
		switch first, twice := seen[f.Project]; {
		case f.Project == "":
			if l.sound(at + ".project") {
				l.at(at, "set project to one of "+strings.Join(projects, ", "), "this budget names no project")
			}
		case twice:
			l.at(at+".project", "keep one", "project %q has two budgets, the first on line %d", f.Project, first)
		case !slices.Contains(projects, f.Project):
			remedy := "projects of pools are " + strings.Join(projects, ", ")
			if n := nearest(f.Project, projects); n != "" {
				remedy = fmt.Sprintf("did you mean %q?", n)
			}
			l.at(at+".project", remedy, "no pool belongs to the project %q of this budget", f.Project)
		default:
			seen[f.Project] = l.line(at)
		}
		switch month, err := f.MonthUSD.micro(); {
		case !l.sound(at + ".month_usd"):
		case f.MonthUSD == "":
			l.at(at, `set month_usd, such as "500"`, "this budget has no month_usd")
		case err != nil:
			l.at(at+".month_usd", `write US dollars, such as "500"`, "month_usd: %s", err)
		case month <= 0:
			l.at(at+".month_usd", `write US dollars, such as "500"`, "month_usd must be more than 0")
		default:
			b.MonthMicroUSD = month
		}
		reached, above := "", 0
		for _, step := range []struct {
			key     string
			percent int
		}{{"warn_percent", b.WarnPercent}, {"lower_percent", b.LowerPercent}, {"stop_percent", b.StopPercent}} {
			switch {
			case step.percent < 0 || step.percent > 1000:
				l.at(at+"."+step.key, "write a share of month_usd in percent, or 0 for never", "%s %d is not a share", step.key, step.percent)
			case step.percent > 0 && step.percent < above && (reached != "warn_percent" || f.WarnPercent != nil):
				l.at(at+"."+step.key, "let warn_percent come first, then lower_percent, then stop_percent", "%s %d is reached before %s %d", step.key, step.percent, reached, above)
			case step.percent > 0:
				reached, above = step.key, step.percent
			}
		}
		out = append(out, b)
	}
	return out
}
