package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// NoteScaleSet records in one transaction what a message of a pool's scale set
// said: its news of jobs, folded into what is known of each assignment, and its
// statistics, nil if it had none. It is idempotent: the same message changes
// nothing the second time, but for the time of the statistics (4-4).
func (s *Store) NoteScaleSet(ctx context.Context, workspace, pool string, news []muster.ScaleSetJob, statistics *muster.ScaleSetStatistics, at time.Time) error {
	news, at = normal(news), normal(at)
	// Two control planes lock rows in one order.
	slices.SortStableFunc(news, func(a, b muster.ScaleSetJob) int { return cmp.Compare(a.ID, b.ID) })
	return s.write(ctx, func(t *tx) error {
		changed := false
		for _, n := range news {
			old, known, err := t.lockScaleSetJob(workspace, pool, n.ID)
			if err != nil {
				return err
			}
			j, told := old.Apply(n, at)
			if !told {
				continue
			}
			if j.Over != "" && j.State != old.State {
				// It was given up as lapsed or missed, and there is news after all.
				j.Over = ""
			}
			if err := t.putScaleSetJob(workspace, pool, j, known); err != nil {
				return err
			}
			changed = true
		}
		if statistics != nil {
			r, err := t.scaleSet(workspace, pool, t.forUpdate())
			if err != nil {
				return err
			}
			changed = changed || r.Statistics != *statistics
			r.Statistics, r.At = *statistics, at
			switch waits := statistics.Assigned > statistics.Running; {
			case !waits:
				r.WaitingSince = time.Time{}
			case r.WaitingSince.IsZero():
				r.WaitingSince = at
			}
			if err := t.putScaleSet(workspace, pool, r); err != nil {
				return err
			}
		}
		if changed {
			t.changed("pool", workspace, pool)
		}
		return nil
	})
}

// ScaleSetJobs returns the assignments of a pool's scale set about which
// something is left to do, those that changed first at the beginning, with the
// states of the jobs that they are about.
func (s *Store) ScaleSetJobs(ctx context.Context, workspace, pool string) ([]muster.ScaleSetJob, error) {
	var out []muster.ScaleSetJob
	err := s.read(ctx, func(t *tx) error {
		return t.rows(`SELECT s.doc, COALESCE(j.state, '') FROM scale_set_jobs s
			LEFT JOIN jobs j ON j.workspace = s.workspace AND j.id = s.job AND j.attempt = s.attempt
			WHERE s.workspace = ? AND s.pool = ? AND s.settled = 0 ORDER BY s.changed_at, s.id LIMIT ?`, []any{workspace, pool, maxRows}, func(scan scanner) error {
			var doc string
			var state muster.JobState
			if err := scan(&doc, &state); err != nil {
				return err
			}
			j, err := decode[muster.ScaleSetJob](doc)
			j.JobState = state
			out = append(out, j)
			return err
		})
	})
	return out, err
}

// UpdateScaleSetJob changes one assignment: which job it is about, what the Sink
// was told, how it ended. change may run more than once; when it returns an
// error nothing changes. CodeNotFound if there is no such assignment.
func (s *Store) UpdateScaleSetJob(ctx context.Context, workspace, pool, id string, change func(*muster.ScaleSetJob) error) error {
	return s.write(ctx, func(t *tx) error {
		old, known, err := t.lockScaleSetJob(workspace, pool, id)
		if err != nil {
			return err
		}
		if !known {
			return muster.Errorf(muster.CodeNotFound, "the scale set of pool %q has no job %q", pool, id)
		}
		j := old
		if err := change(&j); err != nil {
			return err
		}
		if err := t.putScaleSetJob(workspace, pool, normal(j), true); err != nil {
			return err
		}
		t.changed("pool", workspace, pool)
		if j.Over == old.Over || j.Over == "" || j.Over == muster.OverCompleted {
			return nil
		}
		r, err := t.scaleSet(workspace, pool, t.forUpdate())
		if err != nil {
			return err
		}
		switch j.Over {
		case muster.OverLapsed:
			r.Lapsed++
		case muster.OverMissed:
			r.Missed++
		case muster.OverUnknown:
			r.Unknown++
		}
		return t.putScaleSet(workspace, pool, r)
	})
}

// ScaleSet returns what was last recorded of a pool's scale set; the zero value
// if nothing was.
func (s *Store) ScaleSet(ctx context.Context, workspace, pool string) (muster.ScaleSetReport, error) {
	var r muster.ScaleSetReport
	err := s.read(ctx, func(t *tx) (err error) {
		r, err = t.scaleSet(workspace, pool, "")
		return err
	})
	return r, err
}

// JobsOfRun returns the jobs of a workflow run, all attempts, those with the
// highest ids first.
func (s *Store) JobsOfRun(ctx context.Context, workspace, repository string, runID int64) ([]muster.Job, error) {
	return s.Jobs(ctx, workspace, JobFilter{Repository: repository, RunID: runID})
}

// PruneScaleSetJobs deletes assignments that were settled and did not change
// since a time, and returns how many there were.
func (s *Store) PruneScaleSetJobs(ctx context.Context, before time.Time) (int, error) {
	return s.prune(ctx, `DELETE FROM scale_set_jobs WHERE settled = 1 AND changed_at < ? AND (workspace, pool, id) IN
		(SELECT workspace, pool, id FROM scale_set_jobs WHERE settled = 1 AND changed_at < ? ORDER BY changed_at LIMIT 500)`, before, before)
}

// unnamed is how many jobs wait for a runner of the pool's scale set that are
// not among jobs, which are the pool's, and since when the first of them waits.
func (t *tx) unnamed(workspace, pool string, jobs []muster.PlanJob) (n int, since time.Time, err error) {
	r, err := t.scaleSet(workspace, pool, "")
	if err != nil {
		return 0, time.Time{}, err
	}
	var count muster.ScaleSetCount
	err = t.rows(`SELECT s.state, s.changed_at, s.job, COALESCE(j.state, '') FROM scale_set_jobs s
		LEFT JOIN jobs j ON j.workspace = s.workspace AND j.id = s.job AND j.attempt = s.attempt
		WHERE s.workspace = ? AND s.pool = ? AND s.settled = 0 AND s.state IN (?, ?) ORDER BY s.changed_at, s.id`,
		[]any{workspace, pool, muster.ScaleSetJobAssigned, muster.ScaleSetJobStarted}, func(scan scanner) error {
			var state muster.ScaleSetJobState
			var changed, job int64
			var known muster.JobState
			if err := scan(&state, &changed, &job, &known); err != nil {
				return err
			}
			started := state == muster.ScaleSetJobStarted
			switch {
			case known == muster.JobCompleted && started:
				count.OverRunning++
			case known == muster.JobCompleted:
				count.OverWaiting++
			case started:
				count.Running++
			default:
				count.Waiting++
				if known == muster.JobInProgress {
					count.Ahead++
				}
				if job == 0 && since.IsZero() {
					since = instant(changed)
				}
			}
			return nil
		})
	if err != nil {
		return 0, time.Time{}, err
	}
	queued := 0
	for _, j := range jobs {
		if j.State == muster.JobQueued {
			queued++
		}
	}
	if n = r.Statistics.Unnamed(count, queued); n == 0 {
		return 0, time.Time{}, nil
	}
	if since.IsZero() {
		since = r.WaitingSince
	}
	return n, since, nil
}

func (t *tx) lockScaleSetJob(workspace, pool, id string) (j muster.ScaleSetJob, found bool, err error) {
	return one[muster.ScaleSetJob](t, "SELECT doc FROM scale_set_jobs WHERE workspace = ? AND pool = ? AND id = ?"+t.forUpdate(), workspace, pool, id)
}

func (t *tx) putScaleSetJob(workspace, pool string, j muster.ScaleSetJob, known bool) error {
	doc, err := encode(j)
	if err != nil {
		return err
	}
	query := `UPDATE scale_set_jobs SET state = ?, settled = ?, changed_at = ?, job = ?, attempt = ?, doc = ? WHERE workspace = ? AND pool = ? AND id = ?`
	if !known {
		query = `INSERT INTO scale_set_jobs (state, settled, changed_at, job, attempt, doc, workspace, pool, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`
	}
	n, err := t.exec(query, j.State, j.Over != "", j.ChangedAt, j.Job.ID, j.Job.Attempt, doc, workspace, pool, j.ID)
	if err == nil && n == 0 {
		err = errAgain // another control plane made the row since this one looked
	}
	return err
}

func (t *tx) scaleSet(workspace, pool, forUpdate string) (muster.ScaleSetReport, error) {
	r, _, err := one[muster.ScaleSetReport](t, "SELECT doc FROM scale_sets WHERE workspace = ? AND pool = ?"+forUpdate, workspace, pool)
	return r, err
}

func (t *tx) putScaleSet(workspace, pool string, r muster.ScaleSetReport) error {
	doc, err := encode(r)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO scale_sets (workspace, pool, doc) VALUES (?, ?, ?)
		ON CONFLICT (workspace, pool) DO UPDATE SET doc = excluded.doc`, workspace, pool, doc)
	return err
}
