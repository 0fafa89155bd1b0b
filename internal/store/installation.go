package store

import (
	"cmp"
	"context"

	"github.com/muster-ci/muster"
)

// The states of an installation.
const (
	installationSuspended = "suspended"
	installationDeleted   = "deleted"
	installationActive    = "active"
)

// defaultWorkspace is where an installation belongs that names none.
const defaultWorkspace = "default"

// PutInstallation writes what is known of an installation and returns what is
// known then. Empty fields keep what they were. A deleted installation stays
// deleted whatever comes late; GitHub gives a new installation a new id (4-50).
// Apart from a deletion, news that are older than what is known change nothing.
func (s *Store) PutInstallation(ctx context.Context, in muster.Installation) (muster.Installation, error) {
	if in.ID == 0 {
		return in, muster.Errorf(muster.CodeInvalid, "an installation needs an id")
	}
	var out muster.Installation
	err := s.write(ctx, func(t *tx) error {
		if err := t.lock("installation", key(in.ID)); err != nil {
			return err
		}
		old, found, err := t.installation(in.ID)
		if err != nil {
			return err
		}
		out = old
		if found && old.State == installationDeleted {
			return nil
		}
		if found && in.State != installationDeleted && in.UpdatedAt.Before(old.UpdatedAt) {
			return nil
		}
		out = normal(in)
		out.App = cmp.Or(in.App, old.App)
		out.Workspace = cmp.Or(in.Workspace, old.Workspace, defaultWorkspace)
		out.Account = cmp.Or(in.Account, old.Account)
		out.AccountType = cmp.Or(in.AccountType, old.AccountType)
		out.State = cmp.Or(in.State, old.State, installationActive)
		doc, err := encode(out)
		if err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO installations (id, workspace, app, account, state, doc) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET workspace = excluded.workspace, app = excluded.app,
			account = excluded.account, state = excluded.state, doc = excluded.doc`,
			out.ID, out.Workspace, out.App, fold(out.Account), out.State, doc)
		t.changed("installation", out.Workspace, key(out.ID))
		return err
	})
	return out, err
}

// Installation returns an installation by GitHub's id, deleted ones too. It
// takes no workspace: it is what tells the workspace (4-40).
func (s *Store) Installation(ctx context.Context, id int64) (muster.Installation, error) {
	var in muster.Installation
	err := s.read(ctx, func(t *tx) error {
		var found bool
		var err error
		if in, found, err = t.installation(id); err == nil && !found {
			err = muster.Errorf(muster.CodeNotFound, "there is no installation %d", id)
		}
		return err
	})
	return in, err
}

// Installations returns a workspace's installations by id, deleted ones too.
func (s *Store) Installations(ctx context.Context, workspace string) ([]muster.Installation, error) {
	var out []muster.Installation
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Installation](t, "SELECT doc FROM installations WHERE workspace = ? ORDER BY id", workspace)
		return err
	})
	return out, err
}

func (t *tx) installation(id int64) (muster.Installation, bool, error) {
	return one[muster.Installation](t, "SELECT doc FROM installations WHERE id = ?", id)
}

// suspended reports whether the App that a pool acts as is installed at the
// pool's owner, but suspended or deleted everywhere there (C34).
func (t *tx) suspended(p muster.Pool) (bool, error) {
	var w where
	w.and("workspace = ? AND account = ?", p.Workspace, fold(p.Scope.Owner))
	if p.App != "" {
		w.and("app = ?", p.App)
	}
	known, active := false, false
	err := t.rows("SELECT state FROM installations"+w.text.String(), w.args, func(scan scanner) error {
		var state string
		err := scan(&state)
		known = true
		active = active || (state != installationSuspended && state != installationDeleted)
		return err
	})
	return known && !active, err
}
