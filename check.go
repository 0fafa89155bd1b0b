package muster

import (
	"fmt"
	"time"
)

// PurposeCheck is the purpose of a runner that tests its provider and has no job.
const PurposeCheck = "check"

// CheckStep is one step of the test of a provider.
type CheckStep struct {
	Name   string        `json:"name"`
	OK     bool          `json:"ok"`
	Detail string        `json:"detail,omitempty"`
	Took   time.Duration `json:"took"`
}

// ProviderCheck is one test of a provider, end to end: a real machine is made, its agent
// connects and looks around, the machine goes and is proven gone.
type ProviderCheck struct {
	Provider string    `json:"provider"`
	Offering string    `json:"offering,omitempty"`
	Runner   RunnerID  `json:"runner"`
	At       time.Time `json:"at"`
	// Inside are the steps that the agent reported.
	Inside []CheckStep `json:"inside,omitempty"`
	// After are the steps of the control plane after the machine was gone.
	After []CheckStep `json:"after,omitempty"`
}

// Steps are all steps of the test so far, from what is known of its runner; done says
// that there will be no more. It has passed if all are OK then.
func (c ProviderCheck) Steps(r Runner) (steps []CheckStep, done bool) {
	add := func(name string, ok bool, took time.Duration, format string, args ...any) {
		steps = append(steps, CheckStep{Name: name, OK: ok, Took: max(0, took), Detail: fmt.Sprintf(format, args...)})
	}
	over := r.State == RunnerDraining || r.State == RunnerDestroyed
	switch {
	case !r.LaunchedAt.IsZero():
		add("machine accepted", true, r.LaunchedAt.Sub(r.CreatedAt), "instance %s", r.Instance)
	case over:
		add("machine accepted", false, 0, "%s", r.Reason)
	default:
		return steps, false
	}
	switch {
	case !r.ConnectedAt.IsZero():
		add("agent connected", true, r.ConnectedAt.Sub(first(r.LaunchedAt, r.ConnectedAt)), "%s after the test began", r.ConnectedAt.Sub(r.CreatedAt).Round(time.Millisecond))
	case over && !r.LaunchedAt.IsZero():
		add("agent connected", false, 0, "%s", r.Reason)
	case !over:
		return steps, false
	}
	steps = append(steps, c.Inside...)
	if !r.ConnectedAt.IsZero() {
		switch {
		case !r.FinishedAt.IsZero():
			add("agent left", !r.Failed && len(c.Inside) > 0, r.FinishedAt.Sub(r.ConnectedAt), "%s", first(r.Reason, "without a word"))
		case over:
			add("agent left", false, 0, "%s", r.Reason)
		default:
			return steps, false
		}
	}
	if r.State != RunnerDestroyed {
		return steps, false
	}
	// Of what it counts from there is one at least: the row.
	from := r.CreatedAt
	for _, t := range []time.Time{r.LaunchedAt, r.FinishedAt} {
		if t.After(from) {
			from = t
		}
	}
	add("machine gone", true, r.DestroyedAt.Sub(from), "the provider proves that nothing is left")
	return append(steps, c.After...), len(c.After) > 0
}

// Passed reports whether every step is fine.
func Passed(steps []CheckStep) bool {
	for _, s := range steps {
		if !s.OK {
			return false
		}
	}
	return len(steps) > 0
}
