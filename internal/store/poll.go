package store

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
)

// OpenJobs returns the jobs of a repository that an App told of and that are
// believed to be queued or in progress, those heard of first first.
func (s *Store) OpenJobs(ctx context.Context, workspace, app, repository string) ([]muster.Job, error) {
	var out []muster.Job
	err := s.read(ctx, func(t *tx) error {
		// That they are not completed is said in the text for the partial index's sake.
		return t.rows(`SELECT doc FROM jobs WHERE workspace = ? AND repository = ? AND state <> 'completed' AND state IN (?, ?) ORDER BY seen_at, id, attempt`,
			[]any{workspace, fold(repository), muster.JobQueued, muster.JobInProgress}, func(scan scanner) error {
				var doc string
				if err := scan(&doc); err != nil {
					return err
				}
				j, err := decode[muster.Job](doc)
				if err == nil && j.App == app {
					out = append(out, j)
				}
				return err
			})
	})
	return out, err
}

// OldestOpen returns when the first of the jobs was queued that are not completed,
// zero if there is none.
func (s *Store) OldestOpen(ctx context.Context, workspace string) (at time.Time, err error) {
	err = s.read(ctx, func(t *tx) error {
		var first int64
		_, err := t.row("SELECT COALESCE(MIN(queued_at), 0) FROM jobs WHERE workspace = ? AND state <> 'completed'", []any{workspace}, &first)
		at = instant(first)
		return err
	})
	return at, err
}

// UnnamedRunners returns the runners, destroyed ones too, that are known to have
// taken a job, since some moment between from and to, and of which nobody has said
// which job; those that took it first first.
func (s *Store) UnnamedRunners(ctx context.Context, workspace string, from, to time.Time, limit int) ([]muster.Runner, error) {
	return s.runners(ctx, `SELECT doc FROM runners WHERE workspace = ? AND unnamed_since <> 0 AND unnamed_since BETWEEN ? AND ?
		ORDER BY unnamed_since, id LIMIT ?`, workspace, from, to, limit)
}

// unnamedSince is since when the runner is known to have a job that nobody has
// named, zero if it is not: its agent said that a job runs, or it was registered
// and died before its agent could say anything.
func unnamedSince(r muster.Runner) time.Time {
	switch {
	case r.Job.ID != 0 || r.JobHint.ID != 0:
		return time.Time{} // GitHub is asked about the one job, when the runner has ended
	case r.ActiveAt.IsZero() && r.Failed && r.GitHubID != 0:
		return r.FinishedAt
	}
	return r.ActiveAt
}
