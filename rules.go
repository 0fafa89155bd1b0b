package muster

import (
	"fmt"
	"strings"
	"time"
)

// A Schedule raises or lowers a pool's limits for a while each time that its
// cron expression fires: a warm floor for working hours, none at night.
type Schedule struct {
	// Cron is five fields (minute hour day month weekday); TimeZone is an IANA
	// name, UTC if empty. The expression is checked where it is read
	// (internal/schedule), since the domain has no cron of its own.
	Cron     string `json:"cron"`
	TimeZone string `json:"time_zone,omitempty"`
	// For is how long the limits hold after each firing.
	For time.Duration `json:"for"`
	// MinRunners and MaxRunners replace the pool's; nil leaves it.
	MinRunners *int `json:"min_runners,omitempty"`
	MaxRunners *int `json:"max_runners,omitempty"`
}

// Window is one firing of a Schedule: limits that hold from From until before Until.
type Window struct {
	From       time.Time `json:"from"`
	Until      time.Time `json:"until"`
	MinRunners *int      `json:"min_runners,omitempty"`
	MaxRunners *int      `json:"max_runners,omitempty"`
}

// Overflow hands jobs that waited for After in a pool that cannot take them to
// another pool. The zero value is none.
type Overflow struct {
	Pool  string        `json:"pool,omitempty"`
	After time.Duration `json:"after,omitempty"`
}

// Quota bounds how many of a pool's runners the jobs of some repositories may
// have at once, running and being made for them together.
type Quota struct {
	// Name is what operators call it, such as a team's name.
	Name string `json:"name"`
	// Repositories are owner/name with * for any run of characters, case ignored;
	// empty means every repository.
	Repositories []string `json:"repositories,omitempty"`
	// Each makes the limit hold for every matching repository on its own instead
	// of for all of them together.
	Each       bool `json:"each,omitempty"`
	MaxRunners int  `json:"max_runners"`
}

// Priority moves matching jobs before others when a pool cannot serve all. All
// conditions that are set must hold; the weights of all matching rules add up.
type Priority struct {
	// Label is one that the job asks for.
	Label string `json:"label,omitempty"`
	// Branch and Repository may hold * for any run of characters.
	Branch     string `json:"branch,omitempty"`
	Repository string `json:"repository,omitempty"`
	// Event is what triggered the run ("push", "pull_request", "schedule").
	// Webhooks do not tell it; polling and scale sets do.
	Event string `json:"event,omitempty"`
	// Weight is added to the job's priority; higher goes first.
	Weight int `json:"weight"`
}

// Canary gives a share of a pool's new runners another offering (a new image)
// and takes it back when they fail. The zero value is none.
type Canary struct {
	Offering string `json:"offering,omitempty"`
	// Percent of new runners, 1 to 100.
	Percent int `json:"percent,omitempty"`
	// MaxFailures of canary runners, counted since the offering was named, revert it.
	MaxFailures int `json:"max_failures,omitempty"`
}

// CanaryCount is what has become of a pool's runners since its canary began.
type CanaryCount struct {
	Made     int  `json:"made,omitempty"`     // runners made since, of either offering
	Canaries int  `json:"canaries,omitempty"` // of them with the canary's offering
	Failed   int  `json:"failed,omitempty"`   // canaries that failed before they finished a job
	Reverted bool `json:"reverted,omitempty"` // the canary was given up
}

// SpendingState says how a project stands with its cost budget.
type SpendingState string

// The states of a budget, each including what the one before does: a warning; no
// floor and a wait before jobs get runners, so that others come first; nothing new.
const (
	SpendingFine    SpendingState = ""
	SpendingWarned  SpendingState = "warned"
	SpendingLowered SpendingState = "lowered"
	SpendingStopped SpendingState = "stopped"
)

// CostBudget is what a project may spend in a calendar month (UTC).
type CostBudget struct {
	Project string `json:"project"`
	// MonthMicroUSD is the budget in millionths of a US dollar.
	MonthMicroUSD int64 `json:"month_micro_usd"`
	// WarnPercent, LowerPercent and StopPercent are the shares of the budget at
	// which each state begins; 0 is never.
	WarnPercent  int `json:"warn_percent,omitempty"`
	LowerPercent int `json:"lower_percent,omitempty"`
	StopPercent  int `json:"stop_percent,omitempty"`
}

// Spending is how a project stands with its budget. The zero value is a project
// without one.
type Spending struct {
	State         SpendingState `json:"state,omitempty"`
	SpentMicroUSD int64         `json:"spent_micro_usd,omitempty"`
	MonthMicroUSD int64         `json:"month_micro_usd,omitempty"`
}

// String says what the state means, with the share that is spent in whole percent,
// so that it changes seldom; "" for SpendingFine.
func (s Spending) String() string {
	share := "all"
	if s.MonthMicroUSD > 0 {
		share = fmt.Sprintf("%d %%", s.SpentMicroUSD*100/s.MonthMicroUSD)
	}
	share += " of the month's budget is spent"
	switch s.State {
	case SpendingWarned:
		return share
	case SpendingLowered:
		return fmt.Sprintf("%s, so that there is no floor and jobs wait %s", share, budgetWait)
	case SpendingStopped:
		return share + ", so that nothing new is made"
	}
	return ""
}

// Spend is how a project that spent so much in this month stands with its budget.
func (b CostBudget) Spend(spentMicroUSD int64) Spending {
	s := Spending{SpentMicroUSD: spentMicroUSD, MonthMicroUSD: b.MonthMicroUSD}
	reached := func(percent int) bool {
		return percent > 0 && spentMicroUSD >= b.MonthMicroUSD/100*int64(percent)+b.MonthMicroUSD%100*int64(percent)/100
	}
	switch {
	case reached(b.StopPercent):
		s.State = SpendingStopped
	case reached(b.LowerPercent):
		s.State = SpendingLowered
	case reached(b.WarnPercent):
		s.State = SpendingWarned
	}
	return s
}

// defaultCanaryFailures is Canary.MaxFailures where it is not set.
const defaultCanaryFailures = 3

// CanaryFailing reports whether so many canaries have failed that the canary is to
// be given up. It is for the caller to do and to remember (CanaryCount.Reverted).
func CanaryFailing(c Canary, n CanaryCount) bool {
	return c.Offering != "" && n.Failed >= first(c.MaxFailures, defaultCanaryFailures)
}

// share is how many of so many new runners are canaries: what brings their share
// since the canary began up to Percent, rounded up, so that the first runner is one.
func (c Canary) share(n CanaryCount, made int) int {
	if c.Offering == "" || n.Reverted || CanaryFailing(c, n) {
		return 0
	}
	due := ((n.Made+made)*c.Percent + 99) / 100
	return min(made, max(0, due-n.Canaries))
}

// PriorityOf is the sum of the weights of the pool's rules that match the job.
func (p Pool) PriorityOf(j Job) (weight int) {
	for _, r := range p.Priorities {
		switch {
		case r.Label != "" && !j.Labels.Has(r.Label):
		case r.Branch != "" && !glob(r.Branch, j.HeadBranch):
		case r.Repository != "" && !glob(strings.ToLower(r.Repository), strings.ToLower(j.Repository)):
		case r.Event != "" && r.Event != j.Trigger:
		default:
			weight += r.Weight
		}
	}
	return weight
}

// CanTake reports whether the pool could serve a job that overflows into it: it
// does not refuse the job, and its runners would register with every label that
// the job asks for. Its own labels, which trigger it, are not asked for.
func (p Pool) CanTake(j Job) bool {
	return !p.Removed && !p.Suspended && len(j.Labels) > 0 && len(j.Labels.Missing(p.RunnerLabels)) == 0 && p.Refusal(j) == ""
}

// Covers reports whether the quota counts jobs of a repository (owner/name).
func (q Quota) Covers(repository string) bool {
	if len(q.Repositories) == 0 {
		return true
	}
	for _, pattern := range q.Repositories {
		if glob(strings.ToLower(pattern), strings.ToLower(repository)) {
			return true
		}
	}
	return false
}

// glob reports whether s is pattern, where * stands for any run of characters,
// also an empty one and one with slashes.
func glob(pattern, s string) bool {
	head, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return s == pattern
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}
