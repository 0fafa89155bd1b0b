package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

const base = `
apps:
  - {name: main, id: 1, private_key_file: app.pem, webhook_secret_file: hook}
providers:
  - {name: local, kind: process}
offerings:
  - {name: small}
  - {name: next}
`

// Each rule of a pool, teams and budgets, as they are written and as they are read. 4-26
func TestRules(t *testing.T) {
	_, path := dirWith(t, base+`
teams:
  payments: [octo/pay-*, octo/bank]
  web: octo/web
pools:
  - name: linux
    scope: octo
    labels: [muster]
    offering: small
    suspended: true
    job_wait: 20s
    schedules:
      - {cron: "0 8 * * MON-FRI", time_zone: Europe/Berlin, for: 10h, min_runners: 5}
      - {cron: 0 18 * * *, for: 1d, min_runners: 0, max_runners: 2}
    overflow: {pool: big, after: 2m}
    quotas:
      - {team: payments, max_runners: 3}
      - {name: web-each, team: web, each: true, max_runners: 1}
      - {name: everyone, each: true, max_runners: 0}
      - {name: two, repositories: [octo/a, "*/b"], max_runners: 7}
    priorities:
      - {branch: main, weight: 10}
      - {label: urgent, repository: octo/*, event: push, weight: -5}
    canary: {offering: next, percent: 10, max_failures: 2}
    scaling: {mode: fleet, scale_down_cooldown: 15m, min_run_time: 3m}
  - {name: big, project: core, scope: octo, labels: [big], runner_labels: [big, muster, self-hosted], lifecycle: kept, registration: preregistered, machine: vm-1, zone: zone-a, inactive_minutes: 7}
  - {name: set, scope: octo, scale_set: octo-linux}
budgets:
  - {project: core, month_usd: "250.50", warn_percent: 50, lower_percent: 75, stop_percent: 100}
  - {project: default, month_usd: 1000, stop_percent: 120}
`)
	c, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	n := func(i int) *int { return &i }
	p := c.Pools[0]
	got := muster.Pool{Suspended: p.Suspended, JobWait: p.JobWait, Schedules: p.Schedules, Overflow: p.Overflow, Quotas: p.Quotas, Priorities: p.Priorities, Canary: p.Canary}
	got.Scaling.ScaleDownCooldown, got.Scaling.MinRunTime = p.Scaling.ScaleDownCooldown, p.Scaling.MinRunTime
	want := muster.Pool{
		Suspended: true, JobWait: 20 * time.Second,
		Schedules: []muster.Schedule{
			{Cron: "0 8 * * MON-FRI", TimeZone: "Europe/Berlin", For: 10 * time.Hour, MinRunners: n(5)},
			{Cron: "0 18 * * *", For: 24 * time.Hour, MinRunners: n(0), MaxRunners: n(2)},
		},
		Overflow: muster.Overflow{Pool: "big", After: 2 * time.Minute},
		Quotas: []muster.Quota{
			{Name: "payments", Repositories: []string{"octo/pay-*", "octo/bank"}, MaxRunners: 3},
			{Name: "web-each", Repositories: []string{"octo/web"}, Each: true, MaxRunners: 1},
			{Name: "everyone", Each: true},
			{Name: "two", Repositories: []string{"octo/a", "*/b"}, MaxRunners: 7},
		},
		Priorities: []muster.Priority{{Branch: "main", Weight: 10}, {Label: "urgent", Repository: "octo/*", Event: "push", Weight: -5}},
		Canary:     muster.Canary{Offering: "next", Percent: 10, MaxFailures: 2},
		Scaling:    muster.Scaling{ScaleDownCooldown: 15 * time.Minute, MinRunTime: 3 * time.Minute},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c.Pools[1].InactiveMinutes != 7 || c.Pools[1].MachineID() != (muster.MachineID{Provider: c.Pools[1].Provider, Zone: "zone-a", Name: "vm-1"}) || c.Pools[2].ScaleSet != "octo-linux" || c.Pools[2].Labels.String() != "octo-linux" {
		t.Errorf("pools %+v, %+v", c.Pools[1], c.Pools[2])
	}
	wantBudgets := []muster.CostBudget{
		{Project: "core", MonthMicroUSD: 250_500_000, WarnPercent: 50, LowerPercent: 75, StopPercent: 100},
		{Project: "default", MonthMicroUSD: 1_000_000_000, WarnPercent: 80, StopPercent: 120},
	}
	if d := cmp.Diff(wantBudgets, c.Budgets); d != "" {
		t.Error(d)
	}
}

// ruleMistakes has one per line that a comment names.
const ruleMistakes = base + `teams:                          # 9
  pay: [octo]                       # 10 not owner/name
  "a b": [octo/x]                   # 11 a bad name
  empty: []                         # 12 nothing in it
  pay: [octo/y]                     # 13 set twice
pools:
  - name: linux
    scope: octo
    labels: [muster]
    offering: small
    job_wait: -1s                   # 19 negative
    inactive_minutes: -3            # 20 negative
    scale_set: "a b"                # 21 a bad name
    registration: token             # 22 not with a scale set
    lifecycle: kept                 # 23 not with a scale set
    schedules:
      - cron: 0 25 * * *            # 25 no such hour
        time_zone: Europe/Berln     # 26 no such zone
        for: 0s                     # 27 not positive
        min_runners: -1             # 28 negative
      - {for: 1h}                   # 29 no cron, no limits
      - {cron: "@daily", for: 1h, max_runners: 1} # 30 a name
      - {cron: 0 8 * * *, min_runners: 3, max_runners: 2} # 31 no for, min above max
      - {cron: 0 0 31 2 *, for: 8, max_runners: 2} # 32 never fires, no unit
    overflow:                       # 33 no after
      pool: bigg                    # 34 dangling
    quotas:
      - {team: pya, max_runners: 1} # 36 dangling
      - {name: q, repositories: ["acme"], max_runners: -1} # 37 not owner/name, negative
      - {name: q, max_runners: 1}   # 38 twice
      - {max_runners: 1}            # 39 no name
      - {name: r, team: pay, repositories: [o/r]} # 40 both, no max
    priorities:
      - {weight: 3}                 # 42 no condition
      - {branch: main}              # 43 no weight
      - {repository: "o r", weight: 1} # 44 not owner/name
    canary:
      offering: nxt                 # 46 dangling
      percent: 101                  # 47 not a share
      max_failures: -1              # 48 negative
    scaling:
      scale_down_cooldown: -5m      # 50 negative
      min_run_time: -1s             # 51 negative
  - {name: big, scope: octo, labels: [big], overflow: {pool: mid, after: 1m}, runner_labels: [big, mid, low]} # 52 a circle
  - {name: mid, scope: octo, labels: [mid], overflow: {pool: low, after: 1m}, runner_labels: [big, mid, low]}
  - {name: low, scope: octo, labels: [low], overflow: {pool: big, after: 1m}, runner_labels: [big, mid, low]}
  - name: self
    scope: octo
    labels: [self]
    overflow: {pool: self, after: 1m} # 58 itself
  - name: gpu
    scope: octo
    labels: [gpu]
    offering: small
    canary: {offering: small, percent: 5} # 63 its own
    overflow: {pool: big, after: -1m} # 64 could take none, negative
  - {name: none, scope: octo, labels: [none], overflow: {after: 1m}, canary: {percent: 3}} # 65 no pool, no offering
  - {name: into, scope: octo, labels: [big], overflow: {pool: big, after: 1m}} # into a circle: told above
  - {name: by-set, scope: octo, labels: [big], scale_set: sets, overflow: {pool: big, after: 1m}} # 67 to nobody
budgets:
  - {month_usd: 10}                 # 69 no project
  - {project: defalt, month_usd: 0} # 70 dangling, not positive
  - {project: default, month_usd: lots, warn_percent: 90, lower_percent: 80, stop_percent: -1} # 71 not a number, out of order, negative
  - {project: default}              # 72 twice, no amount
`

// S4-17 4-25 4-26: each is told with its line and a remedy, all at once.
func TestEveryRuleProblemAtOnce(t *testing.T) {
	dir, path := dirWith(t, ruleMistakes)
	_, err := config.Load(path, env())
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		t.Fatalf("error is %T: %v", err, err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, strings.ReplaceAll(p.String(), dir+"/", ""))
	}
	golden(t, "rules.golden", strings.Join(got, "\n")+"\n")
	for i, line := range strings.Split(ruleMistakes, "\n") {
		_, what, marked := strings.Cut(line, " # ")
		told := slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Line == i+1 })
		if marked = marked && what != "9" && what[0] >= '1' && what[0] <= '9'; marked != told {
			t.Errorf("line %d: told %t: %s", i+1, told, line)
		}
	}
}
