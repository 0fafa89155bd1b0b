package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// repository is owner/name as S1-101 has it.
var repository = regexp.MustCompile(`\A[a-zA-Z0-9_-]+/[a-zA-Z0-9._-]+\z`)

func (l *loader) pools(file file, c Config) []muster.Pool {
	fs := file.Pools
	if len(fs) == 0 && !l.written("pools") && !l.written("fleets") {
		l.at("pools", "add one under pools: with its scope, labels and provider", "no pool is configured, so that no job would be served")
	}
	var ps []muster.Pool
	names := map[string]int{}
	for i, f := range fs {
		at := fmt.Sprintf("pools[%d]", i)
		l.name(at, "pool", f.Name, names)
		ps = append(ps, l.pool(at, f, file.Teams, c))
	}
	return ps
}

func (l *loader) pool(at string, f filePool, teams map[string]list, c Config) muster.Pool {
	before := len(l.problems)
	p := muster.Pool{
		Name: f.Name, Project: f.Project, App: f.App, Provider: f.Provider, Offering: f.Offering,
		Labels: muster.Labels(f.Labels), RunnerLabels: muster.Labels(f.RunnerLabels),
		Lifecycle: muster.Lifecycle(or(f.Lifecycle, string(muster.LifecycleEphemeral))), Registration: muster.Registration(or(f.Registration, string(muster.RegistrationJIT))),
		Repositories: f.Repositories, AllowPublic: f.AllowPublic, ReportChecks: f.ReportChecks,
		Enabled: f.Enabled == nil || *f.Enabled, Suspended: f.Suspended,
	}
	if f.Scope == "" {
		if l.sound(at + ".scope") {
			l.at(at, "set scope to ORGANIZATION, OWNER/REPOSITORY or enterprises/NAME", "pool %q has no scope", f.Name)
		}
	} else if sc, err := muster.ParseScope(f.Scope); err != nil {
		l.at(at+".scope", "", "%s", muster.MessageOf(err))
	} else {
		p.Scope = sc
	}
	if len(f.Labels) == 0 && f.ScaleSet == "" && l.sound(at+".labels") {
		l.at(at+".labels", "give it at least one that workflows name in runs-on", "pool %q has no labels and would want every job", f.Name)
	}
	l.labels(at+".labels", p.Labels)
	l.labels(at+".runner_labels", p.RunnerLabels)
	if missing := p.Labels.Missing(p.RunnerLabels); len(p.RunnerLabels) > 0 && len(missing) > 0 {
		l.at(at+".runner_labels", "add them to runner_labels", "runner_labels of pool %q lack %s, so that no job which triggers the pool could run on it", f.Name, missing)
	}
	p.App = l.refer(at, "app", f.App, f.Name, namesOf(c.Apps, func(a App) string { return a.Name }), true)
	p.Provider = l.refer(at, "provider", f.Provider, f.Name, namesOf(c.Providers, func(v Provider) string { return v.Name }), true)
	p.Offering = l.refer(at, "offering", f.Offering, f.Name, namesOf(c.Offerings, func(o muster.Offering) string { return o.Name }), false)
	l.oneOf(at+".lifecycle", string(p.Lifecycle), string(muster.LifecycleEphemeral), string(muster.LifecycleKept))
	l.oneOf(at+".registration", string(p.Registration), string(muster.RegistrationJIT), string(muster.RegistrationToken), string(muster.RegistrationPreregistered))
	for _, r := range f.Repositories {
		if !repository.MatchString(r) {
			l.at(at+".repositories", "write OWNER/NAME", "repository %q is not owner/name", r)
		}
	}
	p.Scaling = l.scaling(at+".scaling", f.Scaling)
	atLeastOne := func(key string, n *int) int {
		if n == nil {
			return 0
		}
		if *n < 1 {
			l.at(at+"."+key, "write 1 or more, or remove it", "%s of pool %q must be at least 1", key, f.Name)
		}
		return *n
	}
	p.MaxJobCount = atLeastOne("max_job_count", f.MaxJobCount)
	p.Provisioning = atLeastOne("provisioning", f.Provisioning)
	if g := f.RunnerGroup; g != nil {
		if *g < 1 {
			l.at(at+".runner_group", "write the group's id; 1 is GitHub's Default group", "runner_group of pool %q must be positive", f.Name)
		}
		p.RunnerGroup = *g
	}
	positive := func(key string, d *time.Duration) time.Duration {
		if d == nil {
			return 0
		}
		if *d <= 0 {
			l.at(at+"."+key, "write a longer time, or remove it to get the default", "%s of pool %q must be longer than 0s", key, f.Name)
		}
		return *d
	}
	p.NoJobTimeout = positive("no_job_timeout", f.NoJobTimeout)
	p.RotationInterval = positive("rotation_interval", f.RotationInterval)
	p.MaxAge = positive("max_age", f.MaxAge)
	p.ConnectTimeout = positive("connect_timeout", f.ConnectTimeout)
	l.rules(at, f, teams, c, &p)
	l.tracing(at, f, &p)
	p = p.WithDefaults()
	// The rules above give each problem its own line; the domain has the last word.
	if len(l.problems) == before && !l.anyBad(at) {
		if err := p.Validate(); err != nil {
			for _, e := range joined(err) {
				l.at(at, "", "%s", muster.MessageOf(e))
			}
		}
	}
	return p
}

func (l *loader) scaling(at string, f fileScaling) muster.Scaling {
	s := muster.OnDemandScaling()
	if f.Mode != "" {
		l.oneOf(at+".mode", f.Mode, "on_demand", "fleet")
	}
	if f.Mode == "fleet" {
		s = muster.DefaultScaling()
	}
	number := func(key string, n *int, least int, into *int) {
		if n == nil {
			return
		}
		if *n < least {
			l.at(at+"."+key, fmt.Sprintf("write %d or more", least), "%s must not be less than %d", key, least)
		}
		*into = *n
	}
	number("min_runners", f.MinRunners, 0, &s.MinRunners)
	number("max_runners", f.MaxRunners, 0, &s.MaxRunners)
	number("jobs_per_runner", f.JobsPerRunner, 1, &s.JobsPerRunner)
	number("scale_up_threshold", f.ScaleUpThreshold, 0, &s.ScaleUpThreshold)
	number("scale_down_threshold", f.ScaleDownThreshold, 0, &s.ScaleDownThreshold)
	if f.Cooldown != nil {
		if *f.Cooldown < 0 {
			l.at(at+".cooldown", "write 0s for none", "cooldown must not be negative")
		}
		s.Cooldown = *f.Cooldown
	}
	for _, t := range []struct {
		key  string
		d    time.Duration
		into *time.Duration
	}{{"scale_down_cooldown", f.ScaleDownCooldown, &s.ScaleDownCooldown}, {"min_run_time", f.MinRunTime, &s.MinRunTime}} {
		if t.d < 0 {
			l.at(at+"."+t.key, "remove it to get the default", "%s must not be negative", t.key)
		}
		*t.into = t.d
	}
	if s.MaxRunners >= 0 && s.MinRunners > s.MaxRunners {
		key := at + ".max_runners"
		if f.MaxRunners == nil {
			key = at + ".min_runners"
		}
		l.at(key, "raise max_runners or lower min_runners", "max_runners %d is less than min_runners %d", s.MaxRunners, s.MinRunners)
	}
	return s
}

func (l *loader) labels(at string, labels muster.Labels) {
	for _, label := range labels {
		if err := (muster.Labels{label}).Validate(); err != nil {
			l.at(at, "", "%s", muster.MessageOf(err))
		}
	}
}

// anyBad reports whether something in a section could not be read.
func (l *loader) anyBad(at string) bool {
	for path := range l.bad {
		if strings.HasPrefix(path, at) {
			return true
		}
	}
	return false
}

// refer resolves a reference by name. An absent one that is needed means the
// only candidate, if there is only one.
func (l *loader) refer(at, noun, name, pool string, known []string, needed bool) string {
	switch {
	case name != "" && !slices.Contains(known, name):
		remedy := "configure it under " + noun + "s:"
		if n := nearest(name, known); n != "" {
			remedy = fmt.Sprintf("did you mean %q?", n)
		} else if len(known) > 0 {
			remedy = "configured are " + strings.Join(known, ", ")
		}
		l.at(at+"."+noun, remedy, "pool %q names the %s %q, which is not configured", pool, noun, name)
	case name == "" && needed && len(known) == 1:
		return known[0]
	case name == "" && needed && len(known) > 1 && l.sound(at+"."+noun):
		l.at(at, "set "+noun+" to one of "+strings.Join(known, ", "), "pool %q names no %s", pool, noun)
	}
	return name
}

func namesOf[T any](xs []T, name func(T) string) []string {
	var out []string
	for _, x := range xs {
		if n := name(x); n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// joined are the errors that errors.Join put together.
func joined(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}
