package store

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
)

// SyncPools writes the pools and offerings of the configuration, in their order.
// Pools that are no longer configured are disabled and kept, offerings kept, so
// that history stays readable. Operators' overrides survive.
func (s *Store) SyncPools(ctx context.Context, workspace string, pools []muster.Pool, offerings []muster.Offering) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.lock("pools", workspace); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE pools SET configured = 0 WHERE workspace = ?", workspace); err != nil {
			return err
		}
		for i, p := range pools {
			p.Workspace = workspace
			doc, err := encode(p)
			if err != nil {
				return err
			}
			if _, err := t.exec(`INSERT INTO pools (workspace, name, position, configured, doc) VALUES (?, ?, ?, 1, ?)
				ON CONFLICT (workspace, name) DO UPDATE SET position = excluded.position, configured = 1, doc = excluded.doc`,
				workspace, p.Name, i, doc); err != nil {
				return err
			}
			t.changed("pool", workspace, p.Name)
		}
		for i, o := range offerings {
			doc, err := encode(o)
			if err != nil {
				return err
			}
			if _, err := t.exec(`INSERT INTO offerings (workspace, name, position, doc) VALUES (?, ?, ?, ?)
				ON CONFLICT (workspace, name) DO UPDATE SET position = excluded.position, doc = excluded.doc`,
				workspace, o.Name, i, doc); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetPoolOverride lays an operator's wish over the configuration. Nil fields
// keep what an earlier override said. CodeInvalid if the limits that result
// make no sense, and then nothing changes.
func (s *Store) SetPoolOverride(ctx context.Context, workspace, pool string, o muster.PoolOverride) error {
	return s.write(ctx, func(t *tx) error {
		row, err := t.pool(workspace, pool, t.forUpdate())
		if err != nil {
			return err
		}
		over := row.override
		if o.Enabled != nil {
			over.Enabled = o.Enabled
		}
		if o.Suspended != nil {
			over.Suspended = o.Suspended
		}
		if o.MinRunners != nil {
			over.MinRunners = o.MinRunners
		}
		if o.MaxRunners != nil {
			over.MaxRunners = o.MaxRunners
		}
		if err := row.pool.Override(over).Scaling.Validate(); err != nil {
			return err
		}
		doc, err := encode(over)
		if err != nil {
			return err
		}
		_, err = t.exec("UPDATE pools SET override = ? WHERE workspace = ? AND name = ?", doc, workspace, pool)
		t.changed("pool", workspace, pool)
		return err
	})
}

// Pool returns a pool with its override applied; one that is no longer
// configured is disabled.
func (s *Store) Pool(ctx context.Context, workspace, name string) (muster.Pool, error) {
	var row poolRow
	err := s.read(ctx, func(t *tx) (err error) {
		row, err = t.pool(workspace, name, "")
		return err
	})
	return row.effective(), err
}

// PoolOverride returns what an operator laid over a pool's configuration.
func (s *Store) PoolOverride(ctx context.Context, workspace, name string) (muster.PoolOverride, error) {
	var row poolRow
	err := s.read(ctx, func(t *tx) (err error) {
		row, err = t.pool(workspace, name, "")
		return err
	})
	return row.override, err
}

// Pools returns a workspace's pools, as Pool does, in configured order; those
// that are no longer configured come last, by name.
func (s *Store) Pools(ctx context.Context, workspace string) ([]muster.Pool, error) {
	var out []muster.Pool
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT "+poolColumns+` FROM pools WHERE workspace = ?
			ORDER BY configured DESC, CASE configured WHEN 1 THEN position ELSE 0 END, name`, []any{workspace}, func(scan scanner) error {
			var row poolRow
			err := row.scan(scan)
			out = append(out, row.effective())
			return err
		})
	})
	return out, err
}

// Offering returns an offering, also one that is no longer configured.
func (s *Store) Offering(ctx context.Context, workspace, name string) (muster.Offering, error) {
	var o muster.Offering
	err := s.read(ctx, func(t *tx) (err error) {
		var found bool
		o, found, err = one[muster.Offering](t, "SELECT doc FROM offerings WHERE workspace = ? AND name = ?", workspace, name)
		if err == nil && !found {
			err = muster.Errorf(muster.CodeNotFound, "there is no offering %q", name)
		}
		return err
	})
	return o, err
}

// Offerings returns a workspace's offerings in configured order.
func (s *Store) Offerings(ctx context.Context, workspace string) ([]muster.Offering, error) {
	var out []muster.Offering
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Offering](t, "SELECT doc FROM offerings WHERE workspace = ? ORDER BY position, name", workspace)
		return err
	})
	return out, err
}

// PoolSnapshot returns what a decision about a pool is taken from, all of one
// moment: its jobs that are queued or in progress, each kind oldest first, its
// runners that are not destroyed, oldest first, and whether the installation at
// its owner is suspended or gone. DemandUnknown is the caller's to set.
func (s *Store) PoolSnapshot(ctx context.Context, workspace, pool string) (muster.Snapshot, error) {
	var snap muster.Snapshot
	err := s.snapshot(ctx, func(t *tx) error {
		row, err := t.pool(workspace, pool, "")
		if err != nil {
			return err
		}
		snap = muster.Snapshot{Pool: row.effective(), LastScaling: row.lastScaling}
		if snap.Suspended, err = t.suspended(snap.Pool); err != nil {
			return err
		}
		if snap.Jobs, err = t.planJobs(snap.Pool); err != nil {
			return err
		}
		if snap.Pool.ScaleSet != "" {
			if snap.Unnamed, snap.UnnamedSince, err = t.unnamed(workspace, pool, snap.Jobs); err != nil {
				return err
			}
		}
		return t.rows(`SELECT id, state, busy, warm, created_at, idle_since FROM runners
			WHERE workspace = ? AND pool = ? AND state <> 'destroyed' ORDER BY created_at, id`, []any{workspace, pool}, func(scan scanner) error {
			var r muster.PlanRunner
			var busy, warm, created, idle int64
			err := scan(&r.ID, &r.State, &busy, &warm, &created, &idle)
			r.Busy, r.Warm, r.CreatedAt, r.IdleSince = busy != 0, warm != 0, instant(created), instant(idle)
			snap.Runners = append(snap.Runners, r)
			return err
		})
	})
	return snap, err
}

// planJobs reads what a decision needs of a pool's jobs. Only rules that look at
// more than their repository cost reading the jobs themselves.
func (t *tx) planJobs(p muster.Pool) (jobs []muster.PlanJob, err error) {
	var to muster.Pool
	if p.Overflow.Pool != "" {
		row, err := t.pool(p.Workspace, p.Overflow.Pool, "")
		if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return nil, err
		}
		to = row.effective()
	}
	column := "''"
	if to.Name != "" || len(p.Priorities) > 0 {
		column = "doc"
	}
	for _, state := range []muster.JobState{muster.JobInProgress, muster.JobQueued} {
		err := t.rows("SELECT id, attempt, queued_at, repository, tries, tried_at, "+column+" FROM jobs WHERE workspace = ? AND pool = ? AND state = ? ORDER BY queued_at, id, attempt",
			[]any{p.Workspace, p.Name, state}, func(scan scanner) error {
				var at, tried int64
				var doc string
				j := muster.PlanJob{State: state}
				if err := scan(&j.ID, &j.Attempt, &at, &j.Repository, &j.Tries, &tried, &doc); err != nil {
					return err
				}
				j.QueuedAt, j.TriedAt = instant(at), instant(tried)
				if doc != "" && state == muster.JobQueued {
					whole, err := decode[muster.Job](doc)
					if err != nil {
						return err
					}
					j.Priority, j.Overflows = p.PriorityOf(whole), to.Name != "" && to.CanTake(whole)
				}
				jobs = append(jobs, j)
				return nil
			})
		if err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// poolRow is a pool as it lies in the database.
type poolRow struct {
	pool        muster.Pool
	override    muster.PoolOverride
	configured  bool
	lastScaling time.Time
}

const poolColumns = "doc, override, configured, last_scaling"

func (r *poolRow) scan(scan scanner) (err error) {
	var text, over string
	var configured, last int64
	if err := scan(&text, &over, &configured, &last); err != nil {
		return err
	}
	r.configured, r.lastScaling = configured != 0, instant(last)
	if r.pool, err = decode[muster.Pool](text); err == nil {
		r.override, err = decode[muster.PoolOverride](over)
	}
	return err
}

func (r poolRow) effective() muster.Pool {
	p := r.pool.Override(r.override)
	p.Removed = !r.configured
	p.Enabled = p.Enabled && r.configured
	return p
}

func (t *tx) pool(workspace, name, forUpdate string) (row poolRow, err error) {
	found := false
	err = t.rows("SELECT "+poolColumns+" FROM pools WHERE workspace = ? AND name = ?"+forUpdate, []any{workspace, name}, func(scan scanner) error {
		found = true
		return row.scan(scan)
	})
	if err == nil && !found {
		err = muster.Errorf(muster.CodeNotFound, "there is no pool %q; muster pool list shows every one", name)
	}
	return row, err
}
