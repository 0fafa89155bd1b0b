package store

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
)

// decisionDoc is what no query looks at. Snapshot is set in rows that were
// written before snapshots were packed.
type decisionDoc struct {
	Snapshot *muster.Snapshot `json:"snapshot,omitempty"`
	Decision muster.Decision  `json:"decision"`
}

// RecordDecision writes a decision, its inputs and the runners that it makes, in
// one transaction. A decision that changes nothing and repeats the rule and the
// reason of the pool's last one is only counted there. A decision that starts a cooldown sets
// the pool's LastScaling. CodeNotFound if the pool is unknown, CodeConflict if a
// runner's id is taken; then nothing is written.
func (s *Store) RecordDecision(ctx context.Context, d muster.DecisionRecord) (id int64, err error) {
	d = normal(d)
	text, err := encode(decisionDoc{Decision: d.Decision})
	if err != nil {
		return 0, err
	}
	var packed []byte // made once, and only if the record is not folded
	quiet := d.Decision.Action == muster.Maintain && d.Decision.Create == 0 && d.Decision.Warm == 0 && len(d.Decision.Drain)+len(d.Decision.Overflow) == 0 && len(d.Runners) == 0
	err = s.write(ctx, func(t *tx) error {
		if _, err := t.pool(d.Workspace, d.Pool, t.forUpdate()); err != nil {
			return err
		}
		t.changed("decision", d.Workspace, d.Pool)
		if quiet {
			var rule, reason string
			var wasQuiet int64
			found, err := t.row("SELECT id, rule, reason, quiet FROM decisions WHERE workspace = ? AND pool = ? ORDER BY id DESC LIMIT 1",
				[]any{d.Workspace, d.Pool}, &id, &rule, &reason, &wasQuiet)
			if err != nil {
				return err
			}
			if found && wasQuiet != 0 && rule == clean(d.Decision.Rule) && reason == clean(d.Decision.Reason) {
				_, err := t.exec("UPDATE decisions SET count = count + 1, last_at = ? WHERE id = ?", d.At, id)
				return err
			}
		}
		if _, err := t.row(`INSERT INTO decisions (workspace, pool, at, last_at, count, rule, reason, quiet)
			VALUES (?, ?, ?, ?, 1, ?, ?, ?) RETURNING id`,
			[]any{d.Workspace, d.Pool, d.At, d.At, d.Decision.Rule, d.Decision.Reason, quiet}, &id); err != nil {
			return err
		}
		if packed == nil {
			if packed, err = pack(d.Snapshot); err != nil {
				return err
			}
		}
		if _, err := t.exec("INSERT INTO decision_inputs (decision, doc, packed) VALUES (?, ?, ?)", id, text, packed); err != nil {
			return err
		}
		for _, r := range d.Runners {
			r.Workspace, r.Pool = d.Workspace, d.Pool
			if r.State == "" {
				r.State = muster.RunnerProvisioning
			}
			if r.CreatedAt.IsZero() {
				r.CreatedAt = d.At
			}
			if err := t.addRunner(r); err != nil {
				return err
			}
		}
		if d.Decision.StartsCooldown() {
			_, err := t.exec("UPDATE pools SET last_scaling = ? WHERE workspace = ? AND name = ?", d.At, d.Workspace, d.Pool)
			return err
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// Decisions returns a pool's decisions, or those of all the workspace's pools
// for "", the newest first, without the runners that they made and without their
// snapshots, which are large: DecisionAt has the whole. A limit of 0 or less
// means 100.
func (s *Store) Decisions(ctx context.Context, workspace, pool string, limit int) ([]muster.DecisionRecord, error) {
	if limit <= 0 {
		limit = 100
	}
	var out []muster.DecisionRecord
	var w where
	w.and("d.workspace = ?", workspace)
	if pool != "" {
		w.and("d.pool = ?", pool)
	}
	w.limit("d.id DESC", limit, maxRows)
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT d.id, d.pool, d.at, d.last_at, d.count, i.doc FROM decisions d JOIN decision_inputs i ON i.decision = d.id"+w.text.String(), w.args, func(scan scanner) error {
			r := muster.DecisionRecord{Workspace: workspace}
			var at, last int64
			var text string
			if err := scan(&r.ID, &r.Pool, &at, &last, &r.Count, &text); err != nil {
				return err
			}
			r.At, r.LastAt = instant(at), instant(last)
			doc, err := decode[decisionDoc](text)
			r.Decision = doc.Decision
			out = append(out, r)
			return err
		})
	})
	return out, err
}

// DecisionAt returns the decision of a pool that held at a time, the last one
// taken until then, with its snapshot; of a record that was folded it is the
// first decision's. The runners that it made are left out. CodeNotFound if none
// was taken until then, or if it was pruned.
func (s *Store) DecisionAt(ctx context.Context, workspace, pool string, at time.Time) (muster.DecisionRecord, error) {
	return s.decision(ctx, muster.Errorf(muster.CodeNotFound, "no decision of pool %q of that time or before is kept", pool),
		"d.workspace = ? AND d.pool = ? AND d.at <= ? ORDER BY d.at DESC, d.id DESC LIMIT 1", workspace, pool, at)
}

// Decision returns one decision as DecisionAt does.
func (s *Store) Decision(ctx context.Context, workspace string, id int64) (muster.DecisionRecord, error) {
	return s.decision(ctx, muster.Errorf(muster.CodeNotFound, "there is no decision %d", id), "d.workspace = ? AND d.id = ?", workspace, id)
}

func (s *Store) decision(ctx context.Context, none error, condition string, args ...any) (r muster.DecisionRecord, err error) {
	found := false
	err = s.read(ctx, func(t *tx) error {
		var at, last int64
		var text string
		var packed []byte
		found, err = t.row("SELECT d.id, d.workspace, d.pool, d.at, d.last_at, d.count, i.doc, i.packed FROM decisions d JOIN decision_inputs i ON i.decision = d.id WHERE "+condition,
			args, &r.ID, &r.Workspace, &r.Pool, &at, &last, &r.Count, &text, &packed)
		if err != nil || !found {
			return err
		}
		r.At, r.LastAt = instant(at), instant(last)
		doc, err := decode[decisionDoc](text)
		r.Decision = doc.Decision
		switch {
		case err != nil:
		case packed != nil:
			r.Snapshot, err = unpack[muster.Snapshot](packed)
		case doc.Snapshot != nil:
			r.Snapshot = *doc.Snapshot
		}
		return err
	})
	if err == nil && !found {
		err = none
	}
	return r, err
}

// LastDecision returns a pool's newest decision without its snapshot; ok is
// false if there is none.
func (s *Store) LastDecision(ctx context.Context, workspace, pool string) (d muster.DecisionRecord, ok bool, err error) {
	list, err := s.Decisions(ctx, workspace, pool, 1)
	if err != nil || len(list) == 0 {
		return d, false, err
	}
	return list[0], true, nil
}

// PruneDecisions deletes the decisions last taken before a time and returns how
// many there were.
func (s *Store) PruneDecisions(ctx context.Context, before time.Time) (int, error) {
	return s.prune(ctx, "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE last_at < ? ORDER BY last_at LIMIT 500)", before)
}
