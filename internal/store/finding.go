package store

import (
	"context"

	"github.com/muster-ci/muster"
)

// RecordFinding writes a finding.
func (s *Store) RecordFinding(ctx context.Context, f muster.Finding) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO findings (workspace, at, kind, subject, action) VALUES (?, ?, ?, ?, ?)", f.Workspace, f.At, f.Kind, f.Subject, f.Action)
		t.changed("finding", f.Workspace, f.Subject)
		return err
	})
}

// Findings returns a workspace's findings, the newest first. A limit of 0 or
// less means 100.
func (s *Store) Findings(ctx context.Context, workspace string, limit int) ([]muster.Finding, error) {
	if limit <= 0 {
		limit = 100
	}
	var out []muster.Finding
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT at, kind, subject, action FROM findings WHERE workspace = ? ORDER BY id DESC LIMIT ?", []any{workspace, limit}, func(scan scanner) error {
			f := muster.Finding{Workspace: workspace}
			var at int64
			err := scan(&at, &f.Kind, &f.Subject, &f.Action)
			f.At = instant(at)
			out = append(out, f)
			return err
		})
	})
	return out, err
}
