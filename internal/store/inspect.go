package store

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
)

// maxSensed bounds the senses' report, maxDemand what a dry run replays.
const (
	maxSensed = 500_000
	maxDemand = 100_000
)

// Sensed returns the jobs that were first heard of in [since, until), the last
// first, with everything that any sense saw of them; at most the last 500,000.
// A zero until means no end.
func (s *Store) Sensed(ctx context.Context, workspace string, since, until time.Time) ([]muster.SensedJob, error) {
	var w where
	w.and("workspace = ?", workspace)
	w.and("seen_at >= ?", since)
	if !until.IsZero() {
		w.and("seen_at < ?", until)
	}
	w.limit("seen_at DESC, id DESC, attempt DESC", maxSensed, maxSensed)
	var out []muster.SensedJob
	err := s.snapshot(ctx, func(t *tx) error {
		place := make(map[muster.JobKey]int)
		err := t.rows("SELECT doc FROM jobs"+w.text.String(), w.args, func(scan scanner) error {
			var text string
			if err := scan(&text); err != nil {
				return err
			}
			j, err := decode[muster.Job](text)
			place[j.Key] = len(out)
			out = append(out, muster.SensedJob{Key: j.Key, App: j.App, Pool: j.Pool, SeenAt: j.SeenAt, QueuedAt: j.QueuedAt(), StartedAt: j.StartedAt, CompletedAt: j.CompletedAt})
			return err
		})
		if err != nil {
			return err
		}
		return t.rows(`SELECT v.job, v.attempt, v.sense, v.state, v.at FROM sightings v
			JOIN (SELECT workspace, id, attempt FROM jobs`+w.text.String()+`) j ON v.workspace = j.workspace AND v.job = j.id AND v.attempt = j.attempt
			ORDER BY v.job, v.attempt, v.at, v.sense, v.state`, w.args, func(scan scanner) error {
			var k muster.JobKey
			var v muster.Sighting
			var at int64
			err := scan(&k.ID, &k.Attempt, &v.Sense, &v.State, &at)
			v.At = instant(at)
			if i, ok := place[k]; ok {
				out[i].Sightings = append(out[i].Sightings, v)
			}
			return err
		})
	})
	return out, err
}

// SpentSince returns what a project spent since a time: the receipts of jobs
// completed from then on, and the wastes of runners that ended from then on.
func (s *Store) SpentSince(ctx context.Context, workspace, project string, since time.Time) (microUSD int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		_, err := t.row(`SELECT COALESCE((SELECT CAST(sum(cost) AS BIGINT) FROM receipts WHERE workspace = ? AND project = ? AND completed_at >= ?), 0)
			+ COALESCE((SELECT CAST(sum(cost) AS BIGINT) FROM wastes WHERE workspace = ? AND project = ? AND at >= ?), 0)`,
			[]any{workspace, project, since, workspace, project, since}, &microUSD)
		return err
	})
	return microUSD, err
}

// Demand returns the jobs of a pool that began to wait in [since, until), the
// first first; at most 100,000.
func (s *Store) Demand(ctx context.Context, workspace, pool string, since, until time.Time) ([]muster.Job, error) {
	var w where
	w.and("workspace = ?", workspace)
	w.and("pool = ?", pool)
	// Every state is named so that the index of pools serves.
	andIn(&w, "state", []muster.JobState{muster.JobQueued, muster.JobInProgress, muster.JobCompleted})
	w.and("queued_at >= ?", since)
	w.and("queued_at < ?", until)
	w.limit("queued_at, id, attempt", maxDemand, maxDemand)
	var out []muster.Job
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Job](t, "SELECT doc FROM jobs"+w.text.String(), w.args...)
		return err
	})
	return out, err
}

// Supply returns the runners of a pool that lived at some time in [since,
// until), the first first; at most 100,000.
func (s *Store) Supply(ctx context.Context, workspace, pool string, since, until time.Time) ([]muster.Runner, error) {
	var w where
	w.and("workspace = ?", workspace)
	w.and("pool = ?", pool)
	w.and("created_at < ?", until)
	w.and("(destroyed_at = 0 OR destroyed_at >= ?)", since)
	w.limit("created_at, id", maxDemand, maxDemand)
	var out []muster.Runner
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Runner](t, "SELECT doc FROM runners"+w.text.String(), w.args...)
		return err
	})
	return out, err
}
