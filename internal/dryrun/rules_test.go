package dryrun_test

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/dryrun"
)

// A schedule is a floor for its hours, and a wait for jobs lengthens theirs.
func TestRulesShow(t *testing.T) {
	w := dryrun.Workload{Jobs: jobs(40, 5*time.Minute, time.Minute), Boots: []time.Duration{40 * time.Second}, Since: start, Until: start.Add(4 * time.Hour)}
	plain := simulate(t, onDemand(5), w)
	floor := simulate(t, change(t, onDemand(5), map[string]string{"min": "2"}), w)
	least := 2
	scheduled := onDemand(5)
	scheduled.Schedules = []muster.Schedule{{Cron: "0 9 * * *", For: time.Hour, MinRunners: &least}}
	part := simulate(t, scheduled, w)
	if part.RunnerTime <= plain.RunnerTime || part.RunnerTime >= floor.RunnerTime {
		t.Errorf("a floor for one hour of four costs %s; none %s, always %s", part.RunnerTime, plain.RunnerTime, floor.RunnerTime)
	}
	patient := simulate(t, change(t, onDemand(5), map[string]string{"job-wait": "90s"}), w)
	if patient.WaitP50 < 90*time.Second {
		t.Errorf("with a wait of 90s, jobs wait %s", patient.WaitP50)
	}
}
