package store

import (
	"context"
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// RunnerFilter selects runners; the zero value selects the newest of all.
type RunnerFilter struct {
	// IDs, when not empty, are the only ones wanted; unknown ones are left out.
	IDs    []muster.RunnerID
	States []muster.RunnerState
	Pool   string
	// Live leaves out destroyed runners.
	Live bool
	// Limit is how many to return at most; 0 means 10,000.
	Limit int
}

// Runner returns a runner.
func (s *Store) Runner(ctx context.Context, workspace string, id muster.RunnerID) (muster.Runner, error) {
	var r muster.Runner
	err := s.read(ctx, func(t *tx) (err error) {
		r, err = t.runner(workspace, id, "")
		return err
	})
	return r, err
}

// RunnerByName returns the runner that registered with GitHub under a name, now
// or at any time; of several, the last.
func (s *Store) RunnerByName(ctx context.Context, workspace, name string) (muster.Runner, error) {
	var r muster.Runner
	err := s.read(ctx, func(t *tx) (err error) {
		var found bool
		r, found, err = one[muster.Runner](t, `SELECT r.doc FROM runner_names n JOIN runners r ON r.workspace = n.workspace AND r.id = n.runner
			WHERE n.workspace = ? AND n.name = ?`, workspace, name)
		if err == nil && !found {
			err = muster.Errorf(muster.CodeNotFound, "there is no runner named %q", name)
		}
		return err
	})
	return r, err
}

// Runners returns runners, the newest first.
func (s *Store) Runners(ctx context.Context, workspace string, f RunnerFilter) ([]muster.Runner, error) {
	var w where
	w.and("workspace = ?", workspace)
	andIn(&w, "id", f.IDs)
	andIn(&w, "state", f.States)
	if f.Live {
		w.and("state <> 'destroyed'")
	}
	if f.Pool != "" {
		w.and("pool = ?", f.Pool)
	}
	w.limit("created_at DESC, id DESC", f.Limit, maxRows)
	return s.runners(ctx, "SELECT doc FROM runners"+w.text.String(), w.args...)
}

// NewestRunners returns the newest runners of a pool, destroyed ones included,
// newest first.
func (s *Store) NewestRunners(ctx context.Context, workspace, pool string, limit int) ([]muster.Runner, error) {
	return s.Runners(ctx, workspace, RunnerFilter{Pool: pool, Limit: limit})
}

// LiveRunners returns the runners of all workspaces that may still cost
// something, oldest first. Only the sweep may look across workspaces.
func (s *Store) LiveRunners(ctx context.Context) ([]muster.Runner, error) {
	return s.runners(ctx, "SELECT doc FROM runners WHERE state <> 'destroyed' ORDER BY created_at, workspace, id")
}

func (s *Store) runners(ctx context.Context, query string, args ...any) ([]muster.Runner, error) {
	var out []muster.Runner
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Runner](t, query, args...)
		return err
	})
	return out, err
}

// UpdateRunner reads a runner, lets change alter it, and writes it back, in one
// transaction; change may run more than once and must only alter its argument.
// The runner's id, workspace and time of creation stay. An illegal change of
// State is CodeConflict (S1-62), and an error of change ends it without a trace.
// A change of state, or a note, adds a RunnerEvent at the given time; without a
// note it tells the runner's Reason. A new Name is remembered for good and links
// the jobs that were reported on it.
func (s *Store) UpdateRunner(ctx context.Context, workspace string, id muster.RunnerID, at time.Time, note string, change func(*muster.Runner) error) (muster.Runner, error) {
	var r muster.Runner
	err := s.write(ctx, func(t *tx) error {
		old, err := t.runner(workspace, id, t.forUpdate())
		if err != nil {
			return err
		}
		r = old
		if err := change(&r); err != nil {
			return err
		}
		r = normal(r)
		r.ID, r.Workspace, r.CreatedAt = old.ID, old.Workspace, old.CreatedAt
		if _, err := old.State.To(r.State); err != nil {
			return err
		}
		said := note
		if r.State != old.State && said == "" {
			said = r.Reason
		}
		if r.Name != old.Name {
			if err := t.nameRunner(&r, at); err != nil {
				return err
			}
		}
		if r.State != old.State || said != "" {
			if err := t.addRunnerEvent(r, at, said); err != nil {
				return err
			}
		} else if r == old {
			return nil
		}
		return t.putRunner(r, true)
	})
	if err != nil {
		return muster.Runner{}, err
	}
	return r, nil
}

// RunnerEvents returns a runner's history, in the order in which it was written.
func (s *Store) RunnerEvents(ctx context.Context, workspace string, id muster.RunnerID) ([]muster.RunnerEvent, error) {
	var out []muster.RunnerEvent
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT at, state, note FROM runner_events WHERE workspace = ? AND runner = ? ORDER BY id", []any{workspace, id}, func(scan scanner) error {
			var e muster.RunnerEvent
			var at int64
			err := scan(&at, &e.State, &e.Note)
			e.At = instant(at)
			out = append(out, e)
			return err
		})
	})
	return out, err
}

func (t *tx) runner(workspace string, id muster.RunnerID, forUpdate string) (muster.Runner, error) {
	r, found, err := one[muster.Runner](t, "SELECT doc FROM runners WHERE workspace = ? AND id = ?"+forUpdate, workspace, id)
	if err == nil && !found {
		err = muster.Errorf(muster.CodeNotFound, "there is no runner %q", id)
	}
	return r, err
}

// lockRunnerByName reads the runner that a job names, to be changed. Until the
// transaction ends, no runner takes the name. No name is nobody's (4-5).
func (t *tx) lockRunnerByName(workspace, name string) (r muster.Runner, found bool, err error) {
	if name == "" {
		return r, false, nil
	}
	if err := t.lock("runner name", workspace, name); err != nil {
		return r, false, err
	}
	var id muster.RunnerID
	found, err = t.row("SELECT runner FROM runner_names WHERE workspace = ? AND name = ?", []any{workspace, name}, &id)
	if err != nil || !found {
		return r, false, err
	}
	r, err = t.runner(workspace, id, t.forUpdate())
	return r, err == nil, err
}

// nameRunner remembers that the runner registers under its name and links the
// jobs that were reported on it before. What that changes of r is written.
func (t *tx) nameRunner(r *muster.Runner, at time.Time) error {
	if r.Name == "" {
		return nil
	}
	if err := t.lock("runner name", r.Workspace, r.Name); err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO runner_names (workspace, name, runner) VALUES (?, ?, ?)
		ON CONFLICT (workspace, name) DO UPDATE SET runner = excluded.runner`, r.Workspace, r.Name, r.ID); err != nil {
		return err
	}
	return t.linkJobs(r, at)
}

// AddRunner writes a runner that no decision asked for: the one that tests a provider.
// CodeConflict if the id is taken.
func (s *Store) AddRunner(ctx context.Context, r muster.Runner) error {
	return s.write(ctx, func(t *tx) error { return t.addRunner(normal(r)) })
}

// addRunner writes a new runner. CodeConflict if the id is taken.
func (t *tx) addRunner(r muster.Runner) error {
	if err := t.putRunner(r, false); err != nil {
		return err
	}
	if err := t.addRunnerEvent(r, r.CreatedAt, r.Reason); err != nil {
		return err
	}
	return t.nameRunner(&r, r.CreatedAt)
}

func (t *tx) addRunnerEvent(r muster.Runner, at time.Time, note string) error {
	_, err := t.exec("INSERT INTO runner_events (workspace, runner, at, state, note) VALUES (?, ?, ?, ?, ?)", r.Workspace, r.ID, at, r.State, note)
	return err
}

func (t *tx) putRunner(r muster.Runner, exists bool) error {
	text, err := encode(r)
	if err != nil {
		return err
	}
	args := []any{r.Pool, r.Name, r.State, r.Busy, r.Warm, r.CreatedAt, idleSince(r), r.DestroyedAt, unnamedSince(r), text, r.Workspace, r.ID}
	query := `UPDATE runners SET pool = ?, name = ?, state = ?, busy = ?, warm = ?, created_at = ?, idle_since = ?, destroyed_at = ?, unnamed_since = ?, doc = ?
		WHERE workspace = ? AND id = ?`
	if !exists {
		query = `INSERT INTO runners (pool, name, state, busy, warm, created_at, idle_since, destroyed_at, unnamed_since, doc, workspace, id)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	}
	n, err := t.exec(query, args...)
	if err == nil && n == 0 {
		err = muster.Errorf(muster.CodeConflict, "there is a runner %q already", r.ID)
	}
	t.changed("runner", r.Workspace, string(r.ID))
	return err
}

// idleSince is when the runner was last ready without a job, zero if it is not
// idle: it listens, or it has ended a job and listens again.
func idleSince(r muster.Runner) time.Time {
	if r.State != muster.RunnerRegistered || r.Busy || r.ListeningAt.IsZero() {
		return time.Time{}
	}
	return slices.MaxFunc([]time.Time{r.ListeningAt, r.FinishedAt}, time.Time.Compare)
}

// destroyedBefore is a condition on runners r for what may be forgotten.
const destroyedBefore = "r.state = 'destroyed' AND r.destroyed_at < ?"

// PruneRunnerLogs deletes the logs, boot tokens and sessions of the runners
// destroyed before a time and returns how many rows there were. The runners and
// their histories stay.
func (s *Store) PruneRunnerLogs(ctx context.Context, before time.Time) (int, error) {
	total := 0
	for _, table := range []string{"runner_logs", "boot_tokens", "sessions"} {
		n, err := s.prune(ctx, "DELETE FROM "+table+` AS l WHERE EXISTS
			(SELECT 1 FROM runners r WHERE r.workspace = l.workspace AND r.id = l.runner AND `+destroyedBefore+")", before)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
