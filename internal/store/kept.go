package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/muster-ci/muster"
)

// Machine returns what is known of a kept machine; CodeNotFound before anything
// was ever written about it.
func (s *Store) Machine(ctx context.Context, workspace string, id muster.MachineID) (muster.Machine, error) {
	var m muster.Machine
	err := s.read(ctx, func(t *tx) (err error) {
		var found bool
		if m, found, err = t.machine(workspace, id, ""); err == nil && !found {
			err = muster.Errorf(muster.CodeNotFound, "there is no machine %s", id)
		}
		return err
	})
	return m, err
}

// Machines returns every kept machine that something is known of, by provider,
// zone and name; also those that no pool keeps any more.
func (s *Store) Machines(ctx context.Context, workspace string) ([]muster.Machine, error) {
	var out []muster.Machine
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Machine](t, "SELECT doc FROM machines WHERE workspace = ? ORDER BY provider, zone, name", workspace)
		return err
	})
	return out, err
}

// UpdateMachine reads a kept machine, lets change alter it, and writes it back, in
// one transaction; one that nothing is known of yet begins empty. change may run
// more than once and must only alter its argument; an error of it changes nothing.
// The machine's name and workspace stay. It returns what is known then.
func (s *Store) UpdateMachine(ctx context.Context, workspace string, id muster.MachineID, change func(*muster.Machine) error) (muster.Machine, error) {
	var m muster.Machine
	err := s.write(ctx, func(t *tx) error {
		if err := t.lock("machine", workspace, id.String()); err != nil {
			return err
		}
		old, found, err := t.machine(workspace, id, t.forUpdate())
		if err != nil {
			return err
		}
		was, err := encode(old)
		if err != nil {
			return err
		}
		m = old
		if err := change(&m); err != nil {
			return err
		}
		m.Workspace, m.ID = workspace, id
		m = normal(m)
		doc, err := encode(m)
		if err != nil || found && doc == was {
			return err
		}
		_, err = t.exec(`INSERT INTO machines (workspace, provider, zone, name, doc) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (workspace, provider, zone, name) DO UPDATE SET doc = excluded.doc`, workspace, id.Provider, id.Zone, id.Name, doc)
		t.changed("machine", workspace, id.String())
		return err
	})
	return m, err
}

// MachineDemand returns what a decision about a kept machine is taken from, all of
// one moment: the pools that keep it, their jobs that are queued, oldest first, and
// the jobs that run on it, whichever pool they were counted for.
func (s *Store) MachineDemand(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineDemand, error) {
	var d muster.MachineDemand
	err := s.snapshot(ctx, func(t *tx) error {
		d = muster.MachineDemand{}
		err := t.rows("SELECT "+poolColumns+" FROM pools WHERE workspace = ? AND configured = 1 ORDER BY position, name", []any{workspace}, func(scan scanner) error {
			var row poolRow
			err := row.scan(scan)
			if p := row.effective(); err == nil && p.Keeps() && p.MachineID() == id {
				d.Pools = append(d.Pools, p)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("read pools of %s: %w", id, err)
		}
		for _, p := range d.Pools {
			suspended, err := t.suspended(p)
			if err != nil {
				return err
			}
			if suspended || p.Suspended || !p.Enabled {
				d.Held = append(d.Held, p.Name)
			}
			queued, err := all[muster.Job](t, "SELECT doc FROM jobs WHERE workspace = ? AND pool = ? AND state = ? ORDER BY queued_at, id, attempt LIMIT ?",
				workspace, p.Name, muster.JobQueued, maxRows)
			if err != nil {
				return err
			}
			d.Queued = append(d.Queued, queued...)
		}
		if len(d.Pools) == 0 {
			return nil
		}
		running, err := all[muster.Job](t, "SELECT doc FROM jobs WHERE workspace = ? AND state = ? AND lower(runner_name) = ? ORDER BY id, attempt",
			workspace, muster.JobInProgress, strings.ToLower(id.Name))
		for _, j := range running {
			// Another repository may have a runner of the same name.
			for _, p := range d.Pools {
				if p.RunsOn(j) {
					d.Running = append(d.Running, j)
					break
				}
			}
		}
		return err
	})
	return d, err
}

func (t *tx) machine(workspace string, id muster.MachineID, forUpdate string) (muster.Machine, bool, error) {
	return one[muster.Machine](t, "SELECT doc FROM machines WHERE workspace = ? AND provider = ? AND zone = ? AND name = ?"+forUpdate,
		workspace, id.Provider, id.Zone, id.Name)
}
