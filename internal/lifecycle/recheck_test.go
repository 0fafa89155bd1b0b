package lifecycle

import (
	"fmt"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// 4-7 4-8 S1-113: what was lost of one job of a run is asked for together with what was lost of the others.
func TestRecheckOfARun(t *testing.T) {
	w := theWorld(t)
	p := w.pool(t, nil, func(p *muster.Pool) { p.Enabled = false })
	a := Activities{Deps: w.client.Deps, Log: w.client.log, wake: w.client}
	run, attempt := w.newJob(), 2
	event := func(id int64, action string) muster.JobEvent {
		e := w.event(p, id, action)
		e.RunID, e.Attempt = run, attempt
		return e
	}
	asked, runs, alien, mute := w.newJob(), w.newJob(), w.newJob(), w.newJob()
	siblings := []int64{w.newJob(), w.newJob(), w.newJob()}
	w.send(t, event(runs, "in_progress"))
	for _, id := range append(siblings, asked) {
		w.send(t, event(id, "queued"))
	}
	set := func(e muster.JobEvent) {
		w.github.mu.Lock()
		defer w.github.mu.Unlock()
		if e.Action == "completed" {
			e.Conclusion, e.CompletedAt = "success", time.Now()
		}
		w.github.jobs[e.ID] = e
	}
	set(event(runs, "in_progress"))
	set(event(mute, "completed")) // no event of it came
	other := event(alien, "completed")
	other.Labels = muster.Labels{"ubuntu-latest"}
	set(other)
	for _, id := range append(siblings, asked) {
		set(event(id, "completed"))
	}
	calls := func() [2]int {
		w.github.mu.Lock()
		defer w.github.mu.Unlock()
		return [2]int{w.github.calls[fmt.Sprint("jobs of run ", run)], w.github.calls["job"]}
	}
	before := calls()
	recheck := func(id int64) {
		t.Helper()
		if err := a.RecheckJob(t.Context(), JobRef{Workspace: defaultWorkspace, Key: muster.JobKey{ID: id, Attempt: attempt}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range append(siblings, asked) {
		recheck(id)
	}
	if after := calls(); after[0] != 1 || after[1] != before[1] {
		t.Errorf("the run was asked for %d times, and jobs %d times", after[0], after[1]-before[1])
	}
	for _, id := range append(siblings, asked, mute) {
		if j, err := w.store.JobByID(t.Context(), defaultWorkspace, id); err != nil || j.State != muster.JobCompleted || j.Conclusion != "success" || j.Pool != p.Name {
			t.Errorf("%+v, %v", j, err)
		}
	}
	if _, err := w.store.JobByID(t.Context(), defaultWorkspace, alien); muster.CodeOf(err) != muster.CodeNotFound {
		t.Errorf("a job that no pool wants: %v", err)
	}
	// One that is alone is asked for by itself; so is one of which the list says nothing.
	before = calls()
	set(event(runs, "completed"))
	recheck(runs)
	if after := calls(); after[0] != before[0] || after[1] != before[1]+1 {
		t.Errorf("calls %v, then %v", before, after)
	}
	attempt = 1
	first, second := w.newJob(), w.newJob()
	w.send(t, event(first, "queued"))
	w.send(t, event(second, "queued"))
	set(event(first, "completed"))
	attempt = 1
	recheck(second) // GitHub has it no more
	recheck(first)
	for _, id := range []int64{first, second} {
		if j, err := w.store.JobByID(t.Context(), defaultWorkspace, id); err != nil || j.State != muster.JobCompleted || (j.Conclusion == "cancelled") != (id == second) {
			t.Errorf("%+v, %v", j, err)
		}
	}
}
