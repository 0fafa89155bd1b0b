package store

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// JobFilter selects jobs; the zero value selects the newest of all.
type JobFilter struct {
	States []muster.JobState
	Pool   string
	// Repository is owner/name, whatever the case.
	Repository string
	RunID      int64
	// Text is looked for, whatever the case, in the job's name, workflow, branch,
	// repository, runner name, labels, conclusion and id. Jobs are read one by one
	// until enough have it.
	Text string
	// Since leaves out jobs that Muster first heard of before it.
	Since time.Time
	// BeforeID continues a list: only jobs with a lower id.
	BeforeID int64
	// Limit is how many to return at most; 0 means 10,000.
	Limit int
}

// ApplyJobEvent folds an event into its job in one transaction: the job's state
// rises at most once per state however often and in whatever order events come,
// also with several control planes (4-4, 4-51). A job that has no pool gets the
// one that route names; route runs inside the transaction, maybe more than once,
// and must not write to the Store. If the job names a runner of ours, by any name
// that it ever registered with, both are linked: the runner's Job is set by the
// first such job, or by a later one of a kept runner, and Busy follows the job.
// The runner's State is left to whoever runs its life.
func (s *Store) ApplyJobEvent(ctx context.Context, workspace string, e muster.JobEvent, route func(muster.Job) string) (muster.Applied, error) {
	e = normal(e)
	seen, _, err := muster.Job{}.Apply(e) // the state that the event itself reports
	if err != nil {
		return muster.Applied{}, err
	}
	var a muster.Applied
	err = s.write(ctx, func(t *tx) error {
		// Locks are taken in the order name, runner, job everywhere.
		r, ours, err := t.lockRunnerByName(workspace, e.RunnerName)
		if err != nil {
			return err
		}
		old, known, err := t.lockJob(workspace, e.Key())
		if err != nil {
			return err
		}
		a = muster.Applied{Before: old.State}
		if a.Job, a.Change, err = old.Apply(e); err != nil {
			return err
		}
		j := &a.Job
		j.Workspace = workspace
		if j.Pool == "" && route != nil {
			j.Pool = route(*j)
		}
		linked := false
		if ours && e.RunnerName == j.RunnerName && j.Runner == "" {
			j.Runner, linked = r.ID, true
		}
		a.Runner = j.Runner
		if ours && j.Runner == r.ID {
			a.Stolen = r.Pool != j.Pool
			if linked || a.Change == muster.JobAdvanced {
				if err := t.giveJob(&r, *j, e.ReceivedAt); err != nil {
					return err
				}
			}
		}
		if !known || linked || a.Change != muster.JobUnchanged || j.Pool != old.Pool {
			if err := t.putJob(*j, known); err != nil {
				return err
			}
		}
		if linked || ours && j.Runner == r.ID && a.Change == muster.JobAdvanced {
			if err := t.linkTraces(r, e.ReceivedAt); err != nil {
				return err
			}
		}
		if e.Sense == "" {
			return nil
		}
		_, err = t.exec(`INSERT INTO sightings (workspace, job, attempt, sense, state, at, delivery) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, workspace, j.Key.ID, j.Key.Attempt, e.Sense, seen.State, e.ReceivedAt, e.Delivery)
		return err
	})
	if err != nil {
		return muster.Applied{}, err
	}
	return a, nil
}

// Job returns one attempt of a job.
func (s *Store) Job(ctx context.Context, workspace string, k muster.JobKey) (muster.Job, error) {
	return s.oneJob(ctx, k.String(), "SELECT doc FROM jobs WHERE workspace = ? AND id = ? AND attempt = ?", workspace, k.ID, max(1, k.Attempt))
}

// JobByID returns the latest attempt of a job.
func (s *Store) JobByID(ctx context.Context, workspace string, id int64) (muster.Job, error) {
	return s.oneJob(ctx, key(id), "SELECT doc FROM jobs WHERE workspace = ? AND id = ? ORDER BY attempt DESC LIMIT 1", workspace, id)
}

func (s *Store) oneJob(ctx context.Context, name, query string, args ...any) (muster.Job, error) {
	var j muster.Job
	err := s.read(ctx, func(t *tx) (err error) {
		var found bool
		if j, found, err = one[muster.Job](t, query, args...); err == nil && !found {
			err = muster.Errorf(muster.CodeNotFound, "there is no job %s", name)
		}
		return err
	})
	return j, err
}

// Jobs returns jobs, those with the highest ids first.
func (s *Store) Jobs(ctx context.Context, workspace string, f JobFilter) ([]muster.Job, error) {
	var w where
	w.and("workspace = ?", workspace)
	andIn(&w, "state", f.States)
	if f.Pool != "" {
		w.and("pool = ?", f.Pool)
	}
	if f.Repository != "" {
		w.and("repository = ?", fold(f.Repository))
	}
	if f.RunID != 0 {
		w.and("run_id = ?", f.RunID)
	}
	if !f.Since.IsZero() {
		w.and("seen_at >= ?", f.Since)
	}
	if f.BeforeID > 0 {
		w.and("id < ?", f.BeforeID)
	}
	limit := maxRows
	if f.Limit > 0 {
		limit = min(f.Limit, maxRows)
	}
	w.text.WriteString(" ORDER BY id DESC, attempt DESC")
	if f.Text == "" {
		w.text.WriteString(" LIMIT ?")
		w.args = append(w.args, limit)
	}
	text := strings.ToLower(f.Text)
	var out []muster.Job
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT doc FROM jobs"+w.text.String(), w.args, func(scan scanner) error {
			var doc string
			if err := scan(&doc); err != nil {
				return err
			}
			j, err := decode[muster.Job](doc)
			if err != nil || !mentions(j, text) {
				return err
			}
			if out = append(out, j); len(out) == limit {
				return errEnough
			}
			return nil
		})
	})
	return out, err
}

func mentions(j muster.Job, text string) bool {
	if text == "" {
		return true
	}
	fields := []string{j.Name, j.Workflow, j.HeadBranch, j.Repository, j.RunnerName, j.Labels.String(), j.Conclusion, key(j.Key.ID)}
	return strings.Contains(strings.ToLower(strings.Join(fields, "\n")), text)
}

// StaleJobs returns jobs of an App that are believed to be queued since before a
// time, those heard of first first (4-8).
func (s *Store) StaleJobs(ctx context.Context, workspace, app string, before time.Time, limit int) ([]muster.Job, error) {
	var out []muster.Job
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT doc FROM jobs WHERE workspace = ? AND state = ? AND queued_at < ? ORDER BY queued_at, id", []any{workspace, muster.JobQueued, before}, func(scan scanner) error {
			var doc string
			if err := scan(&doc); err != nil {
				return err
			}
			j, err := decode[muster.Job](doc)
			if err != nil || j.App != app {
				return err
			}
			if out = append(out, j); len(out) == limit {
				return errEnough
			}
			return nil
		})
	})
	return out, err
}

// Sightings returns when each sense first reported each state of a job, earliest first.
func (s *Store) Sightings(ctx context.Context, workspace string, k muster.JobKey) ([]muster.Sighting, error) {
	var out []muster.Sighting
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT sense, state, at, delivery FROM sightings WHERE workspace = ? AND job = ? AND attempt = ? ORDER BY at, sense, state",
			[]any{workspace, k.ID, max(1, k.Attempt)}, func(scan scanner) error {
				var v muster.Sighting
				var at int64
				err := scan(&v.Sense, &v.State, &at, &v.Delivery)
				v.At = instant(at)
				out = append(out, v)
				return err
			})
	})
	return out, err
}

// JobCounts returns how many jobs are in each state; states without jobs are absent.
func (s *Store) JobCounts(ctx context.Context, workspace string) (map[muster.JobState]int, error) {
	counts := make(map[muster.JobState]int)
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT state, count(*) FROM jobs WHERE workspace = ? GROUP BY state", []any{workspace}, func(scan scanner) error {
			var state muster.JobState
			var n int
			err := scan(&state, &n)
			counts[state] = n
			return err
		})
	})
	return counts, err
}

// MoveJobs hands those of the jobs that still wait in pool from to pool to, and
// returns how many they were. A job that has started meanwhile stays.
func (s *Store) MoveJobs(ctx context.Context, workspace, from, to string, ids []int64) (moved int, err error) {
	err = s.write(ctx, func(t *tx) error {
		moved = 0
		for _, id := range ids {
			var attempt int
			found, err := t.row("SELECT attempt FROM jobs WHERE workspace = ? AND id = ? AND pool = ? AND state = ? ORDER BY attempt DESC LIMIT 1",
				[]any{workspace, id, from, muster.JobQueued}, &attempt)
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			j, _, err := t.lockJob(workspace, muster.JobKey{ID: id, Attempt: attempt})
			if err != nil {
				return err
			}
			if j.State != muster.JobQueued || j.Pool != from {
				continue
			}
			j.Pool = to
			if err := t.putJob(j, true); err != nil {
				return err
			}
			// Another pool, another try.
			if _, err := t.exec("UPDATE jobs SET tries = 0, tried_at = 0 WHERE workspace = ? AND id = ? AND attempt = ?", workspace, id, attempt); err != nil {
				return err
			}
			moved++
		}
		return nil
	})
	return moved, err
}

// TriedJob counts a runner that was made for a queued job and did not get it. It
// counts for the latest attempt, and is no error for a job that does not wait.
func (s *Store) TriedJob(ctx context.Context, workspace string, id int64, at time.Time) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE jobs SET tries = tries + 1, tried_at = ? WHERE workspace = ? AND id = ? AND state = ?", at, workspace, id, muster.JobQueued)
		return err
	})
}

// Unreceipted returns jobs of pools that are completed and have no receipt, that were first heard of from one time until another.
func (s *Store) Unreceipted(ctx context.Context, workspace string, from, to time.Time, limit int) ([]muster.Job, error) {
	var out []muster.Job
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Job](t, `SELECT j.doc FROM jobs j LEFT JOIN receipts r ON r.workspace = j.workspace AND r.job = j.id AND r.attempt = j.attempt
			WHERE j.workspace = ? AND j.seen_at >= ? AND j.seen_at < ? AND j.state = ? AND j.pool <> '' AND r.job IS NULL ORDER BY j.seen_at, j.id LIMIT ?`,
			workspace, from, to, muster.JobCompleted, limit)
		return err
	})
	return out, err
}

// OldestQueued returns when the first of a pool's queued jobs was queued; ok is
// false if none is.
func (s *Store) OldestQueued(ctx context.Context, workspace, pool string) (at time.Time, ok bool, err error) {
	err = s.read(ctx, func(t *tx) error {
		var us int64
		ok, err = t.row("SELECT queued_at FROM jobs WHERE workspace = ? AND pool = ? AND state = ? ORDER BY queued_at LIMIT 1", []any{workspace, pool, muster.JobQueued}, &us)
		at = instant(us)
		return err
	})
	return at, ok, err
}

// Ahead returns how many queued jobs of a pool were queued before a time.
func (s *Store) Ahead(ctx context.Context, workspace, pool string, queuedBefore time.Time) (int, error) {
	var n int
	err := s.read(ctx, func(t *tx) error {
		_, err := t.row("SELECT count(*) FROM jobs WHERE workspace = ? AND pool = ? AND state = ? AND queued_at < ?",
			[]any{workspace, pool, muster.JobQueued, queuedBefore}, &n)
		return err
	})
	return n, err
}

// lockJob reads a job that the transaction is about to change.
func (t *tx) lockJob(workspace string, k muster.JobKey) (j muster.Job, found bool, err error) {
	return one[muster.Job](t, "SELECT doc FROM jobs WHERE workspace = ? AND id = ? AND attempt = ?"+t.forUpdate(), workspace, k.ID, k.Attempt)
}

func (t *tx) putJob(j muster.Job, known bool) error {
	text, err := encode(j)
	if err != nil {
		return err
	}
	args := []any{j.State, j.Pool, fold(j.Repository), j.RunID, j.RunnerName, cmp.Or(j.QueuedAt(), j.SeenAt), j.SeenAt, text, j.Workspace, j.Key.ID, j.Key.Attempt}
	query := `UPDATE jobs SET state = ?, pool = ?, repository = ?, run_id = ?, runner_name = ?, queued_at = ?, seen_at = ?, doc = ?
		WHERE workspace = ? AND id = ? AND attempt = ?`
	if !known {
		query = `INSERT INTO jobs (state, pool, repository, run_id, runner_name, queued_at, seen_at, doc, workspace, id, attempt)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	}
	n, err := t.exec(query, args...)
	if err == nil && n == 0 {
		err = errAgain // another control plane made the row since this one looked
	}
	t.changed("job", j.Workspace, j.Key.String())
	return err
}

// giveJob tells a runner of ours about a job that it took, which has just become
// known or has just advanced, and writes the runner if that changed it.
func (t *tx) giveJob(r *muster.Runner, j muster.Job, at time.Time) error {
	before := *r
	if r.Job != j.Key && j.State == muster.JobInProgress && r.Job.ID != 0 {
		// A kept runner goes from job to job, one at a time.
		prior, _, err := one[muster.Job](t, "SELECT doc FROM jobs WHERE workspace = ? AND id = ? AND attempt = ?", r.Workspace, r.Job.ID, r.Job.Attempt)
		if err != nil {
			return err
		}
		if prior.State == muster.JobCompleted || prior.StartedAt.Before(j.StartedAt) {
			r.Job, r.ActiveAt = muster.JobKey{}, time.Time{}
		}
	}
	r.Job = cmp.Or(r.Job, j.Key)
	r.JobHint, r.RunHint = muster.JobKey{}, muster.RunHint{} // GitHub has spoken
	if r.Job != j.Key {
		return nil
	}
	r.TraceID = cmp.Or(j.TraceID, r.TraceID) // GitHub may give it to another job than it was made for (S4-69)
	switch {
	case j.State == muster.JobInProgress && r.State != muster.RunnerDestroyed:
		r.Busy = true
		r.ActiveAt = cmp.Or(r.ActiveAt, at)
	case j.State == muster.JobCompleted:
		r.Busy = false
	}
	if *r == before {
		return nil
	}
	return t.putRunner(*r, true)
}

// linkJobs gives a runner, whose name has just become known, the jobs that were
// reported on that name before (the in_progress event can overtake everything).
func (t *tx) linkJobs(r *muster.Runner, at time.Time) error {
	var keys []muster.JobKey
	// That the name is not empty is said in the text for the partial index's sake.
	err := t.rows("SELECT id, attempt FROM jobs WHERE workspace = ? AND runner_name = ? AND runner_name <> '' ORDER BY id, attempt", []any{r.Workspace, r.Name}, func(scan scanner) error {
		var k muster.JobKey
		err := scan(&k.ID, &k.Attempt)
		keys = append(keys, k)
		return err
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		j, known, err := t.lockJob(r.Workspace, k)
		if err != nil {
			return err
		}
		if !known || j.Runner != "" {
			continue
		}
		j.Runner = r.ID
		if err := t.putJob(j, true); err != nil {
			return err
		}
		if err := t.giveJob(r, j, at); err != nil {
			return err
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return t.linkTraces(*r, at)
}
