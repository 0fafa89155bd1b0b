package dryrun

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// settings are what may be tried, by the names of the configuration.
var settings = map[string]func(p *muster.Pool, value string) error{
	"min_runners":          number(func(p *muster.Pool) *int { return &p.Scaling.MinRunners }),
	"max_runners":          number(func(p *muster.Pool) *int { return &p.Scaling.MaxRunners }),
	"jobs_per_runner":      number(func(p *muster.Pool) *int { return &p.Scaling.JobsPerRunner }),
	"scale_up_threshold":   number(func(p *muster.Pool) *int { return &p.Scaling.ScaleUpThreshold }),
	"scale_down_threshold": number(func(p *muster.Pool) *int { return &p.Scaling.ScaleDownThreshold }),
	"cooldown":             span(func(p *muster.Pool) *time.Duration { return &p.Scaling.Cooldown }),
	"job_wait":             span(func(p *muster.Pool) *time.Duration { return &p.JobWait }),
	"no_job_timeout":       span(func(p *muster.Pool) *time.Duration { return &p.NoJobTimeout }),
	"rotation_interval":    span(func(p *muster.Pool) *time.Duration { return &p.RotationInterval }),
	"max_age":              span(func(p *muster.Pool) *time.Duration { return &p.MaxAge }),
	"provisioning":         number(func(p *muster.Pool) *int { return &p.Provisioning }),
	"max_job_count":        number(func(p *muster.Pool) *int { return &p.MaxJobCount }),
	"overflow_after":       span(func(p *muster.Pool) *time.Duration { return &p.Overflow.After }),
	"schedules":            none(func(p *muster.Pool) { p.Schedules = nil }),
	"quotas":               none(func(p *muster.Pool) { p.Quotas = nil }),
	"priorities":           none(func(p *muster.Pool) { p.Priorities = nil }),
	"overflow":             none(func(p *muster.Pool) { p.Overflow = muster.Overflow{} }),
	"enabled":              flag(func(p *muster.Pool) *bool { return &p.Enabled }),
	"suspended":            flag(func(p *muster.Pool) *bool { return &p.Suspended }),
}

// Settings are the names that Set takes.
func Settings() []string { return slices.Sorted(maps.Keys(settings)) }

// Set returns the pool with settings changed by their names in the
// configuration. min and max stand for min_runners and max_runners; lists can
// only be emptied, by "none". The error is CodeInvalid with a remedy, also for a
// pool that makes no sense as a whole.
func Set(p muster.Pool, changes map[string]string) (muster.Pool, error) {
	p = p.WithDefaults()
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		key := strings.ReplaceAll(name, "-", "_")
		if key == "min" || key == "max" {
			key += "_runners"
		}
		set := settings[key]
		if set == nil {
			return p, muster.Errorf(muster.CodeInvalid, "setting %q cannot be tried: use one of %s", name, strings.Join(Settings(), ", "))
		}
		if err := set(&p, changes[name]); err != nil {
			return p, muster.Errorf(muster.CodeInvalid, "setting %s: %s", name, muster.MessageOf(err))
		}
	}
	if err := p.Scaling.Validate(); err != nil {
		return p, err
	}
	if p.Provisioning < 1 || p.MaxJobCount < 1 {
		return p, muster.Errorf(muster.CodeInvalid, "provisioning and max_job_count must be at least 1")
	}
	return p, nil
}

func number(field func(*muster.Pool) *int) func(*muster.Pool, string) error {
	return func(p *muster.Pool, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > 100_000 {
			return muster.Errorf(muster.CodeInvalid, "%q is not a number from 0 to 100000", value)
		}
		*field(p) = n
		return nil
	}
}

func span(field func(*muster.Pool) *time.Duration) func(*muster.Pool, string) error {
	return func(p *muster.Pool, value string) error {
		d, err := time.ParseDuration(value)
		if n, whole := strconv.Atoi(value); whole == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil || d < 0 {
			return muster.Errorf(muster.CodeInvalid, "%q is not a time: write 30s, 5m or 1h30m", value)
		}
		*field(p) = d
		return nil
	}
}

func none(clear func(*muster.Pool)) func(*muster.Pool, string) error {
	return func(p *muster.Pool, value string) error {
		if value != "none" {
			return muster.Errorf(muster.CodeInvalid, "%q: only none can be tried here", value)
		}
		clear(p)
		return nil
	}
}

func flag(field func(*muster.Pool) *bool) func(*muster.Pool, string) error {
	return func(p *muster.Pool, value string) error {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return muster.Errorf(muster.CodeInvalid, "%q is neither true nor false", value)
		}
		*field(p) = on
		return nil
	}
}
