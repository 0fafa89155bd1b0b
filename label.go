package muster

import (
	"regexp"
	"slices"
	"strings"
)

// Labels is a set of runner labels in the order in which they were written.
// GitHub compares labels without regard to case (4-29), and so does everything here.
type Labels []string

var labelText = regexp.MustCompile(`\A[a-zA-Z0-9._-]+\z`) // S1-103

// ParseLabels reads a comma-separated list, trims each label, drops repeats
// (4-29) and validates the rest.
func ParseLabels(s string) (Labels, error) {
	var ls Labels
	for l := range strings.SplitSeq(s, ",") {
		if l = strings.TrimSpace(l); l != "" {
			ls = append(ls, l)
		}
	}
	ls = ls.Unique()
	return ls, ls.Validate()
}

// Validate refuses labels that this product would not register. Labels of jobs
// are not ours to refuse and are never validated.
func (ls Labels) Validate() error {
	for _, l := range ls {
		if !labelText.MatchString(l) {
			return Errorf(CodeInvalid, "label %q has a character that is not allowed: use letters, digits, '.', '_' and '-'", l)
		}
	}
	if len(ls) > 100 { // GitHub takes 1 to 100 labels per runner.
		return Errorf(CodeInvalid, "%d labels are too many: GitHub takes at most 100 per runner", len(ls))
	}
	return nil
}

// Unique returns the labels without those that differ from an earlier one in case only.
func (ls Labels) Unique() Labels {
	var out Labels
	for _, l := range ls {
		if !out.Has(l) {
			out = append(out, l)
		}
	}
	return out
}

// Has reports whether label is in the set.
func (ls Labels) Has(label string) bool {
	return slices.ContainsFunc(ls, func(l string) bool { return strings.EqualFold(l, label) })
}

// SubsetOf reports whether every label of ls is in of. The empty set is a
// subset of every set.
func (ls Labels) SubsetOf(of Labels) bool { return len(ls.Missing(of)) == 0 }

// Missing returns the labels of ls that are not in from.
func (ls Labels) Missing(from Labels) Labels {
	var out Labels
	for _, l := range ls {
		if !from.Has(l) {
			out = append(out, l)
		}
	}
	return out
}

// String joins the labels by commas.
func (ls Labels) String() string { return strings.Join(ls, ",") }

// Match is how a pool's labels and a job's labels relate (C8).
type Match struct {
	// Triggered: all of the pool's labels are among the job's. Without it the
	// pool is not concerned.
	Triggered bool
	// Eligible: all of the job's labels are among those that the pool's runners
	// register with. Without it GitHub would never give the job to such a runner.
	Eligible bool
	// Missing are the pool's labels that the job lacks (not triggered) or, when
	// triggered, the job's labels that the pool's runners lack (not eligible).
	Missing Labels
}

// Serves reports whether a pool may act on the job: both rules hold (C8).
func (m Match) Serves() bool { return m.Triggered && m.Eligible }

// MatchLabels applies the trigger rule (pool ⊆ job) and the eligibility rule
// (job ⊆ runner) of C8. A job without labels triggers nothing: its runs-on named
// only a group, or it is a check run and no job at all.
func MatchLabels(pool, runner, job Labels) Match {
	if len(job) == 0 {
		return Match{Missing: pool}
	}
	if missing := pool.Missing(job); len(missing) > 0 {
		return Match{Missing: missing}
	}
	missing := job.Missing(runner)
	return Match{Triggered: true, Eligible: len(missing) == 0, Missing: missing}
}
