package muster_test

import (
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// A run follows its jobs: the last attempt says how it stands. S4-56 S4-37
func TestRunOf(t *testing.T) {
	start := time.Date(2026, 11, 18, 9, 0, 0, 0, time.UTC)
	job := func(id int64, attempt int, state muster.JobState, conclusion string) muster.Job {
		j := muster.Job{Key: muster.JobKey{ID: id, Attempt: attempt}, RunID: 7, Repository: "octo/app", Workflow: "ci", State: state, Conclusion: conclusion, CreatedAt: start.Add(time.Duration(id) * time.Minute)}
		if state.Rank() >= muster.JobInProgress.Rank() {
			j.StartedAt = j.CreatedAt.Add(time.Second)
		}
		if state == muster.JobCompleted {
			j.CompletedAt = j.CreatedAt.Add(time.Minute)
		}
		return j
	}
	const (
		waiting, queued, running, done = muster.JobWaiting, muster.JobQueued, muster.JobInProgress, muster.JobCompleted
	)
	for _, tc := range []struct {
		name       string
		jobs       []muster.Job
		state      muster.JobState
		conclusion string
		attempts   int
		ended      time.Duration
	}{
		{"Queued", []muster.Job{job(1, 1, queued, "")}, queued, "", 1, 0},
		{"Waiting", []muster.Job{job(1, 1, waiting, ""), job(2, 1, queued, "")}, waiting, "", 1, 0},
		{"Running", []muster.Job{job(2, 1, queued, ""), job(1, 1, running, "")}, running, "", 1, 0},
		{"BetweenJobs", []muster.Job{job(1, 1, done, "success"), job(2, 1, queued, "")}, running, "", 1, 0},
		{"Succeeded", []muster.Job{job(1, 1, done, "success"), job(2, 1, done, "skipped")}, done, "success", 1, 3 * time.Minute},
		{"Failed", []muster.Job{job(1, 1, done, "failure"), job(2, 1, done, "success")}, done, "failure", 1, 3 * time.Minute},
		{"UnknownWord", []muster.Job{job(1, 1, done, "exploded"), job(2, 1, done, "failure")}, done, "exploded", 1, 3 * time.Minute},
		{"LastAttemptCounts", []muster.Job{job(1, 1, done, "failure"), job(5, 2, done, "success")}, done, "success", 2, 6 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, ok := muster.RunOf(tc.jobs)
			if !ok || r.ID != 7 || r.State != tc.state || r.Conclusion != tc.conclusion || r.Attempts != tc.attempts || r.Repository != "octo/app" {
				t.Errorf("%+v", r)
			}
			if ended := r.CompletedAt; ended.IsZero() != (tc.ended == 0) || !ended.IsZero() && !ended.Equal(start.Add(tc.ended)) {
				t.Errorf("completed at %v, want %v after %v", ended, tc.ended, start)
			}
			for i := 1; i < len(r.Jobs); i++ {
				if a, b := r.Jobs[i-1], r.Jobs[i]; a.Key.Attempt > b.Key.Attempt || a.Key.Attempt == b.Key.Attempt && a.CreatedAt.After(b.CreatedAt) {
					t.Errorf("job %s stands before %s", a.Key, b.Key)
				}
			}
		})
	}
	if _, ok := muster.RunOf(nil); ok {
		t.Error("a run of nothing")
	}
}
