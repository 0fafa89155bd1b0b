package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// DeliveryFilter selects deliveries; the zero value selects the newest of all.
type DeliveryFilter struct {
	// Event is X-GitHub-Event, exactly.
	Event string
	// Outcome is a part of the outcome, whatever the case.
	Outcome string
	// Before continues a list: only deliveries with a lower Seq.
	Before int64
	// Limit is how many to return at most; 0 means 10,000.
	Limit int
}

// deliveryDoc is what no query looks at.
type deliveryDoc struct {
	Action  string            `json:"action,omitempty"`
	Sense   muster.Sense      `json:"sense,omitempty"`
	TraceID string            `json:"trace_id,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

const deliveryColumns = "d.seq, d.guid, d.app, d.event, d.received_at, d.dispatched_at, d.attempts, d.outcome, d.error, d.doc"

// Undispatched returns the oldest deliveries, with bodies, that no Sink has
// taken yet and that are not deferred beyond now. A limit of 0 or less means 100.
func (s *Store) Undispatched(ctx context.Context, now time.Time, limit int) ([]muster.Delivery, error) {
	if limit <= 0 {
		limit = 100
	}
	var out []muster.Delivery
	err := s.read(ctx, func(t *tx) error {
		return t.deliveries(&out, true, `FROM deliveries d JOIN delivery_bodies b ON b.seq = d.seq
			WHERE d.dispatched_at = 0 AND d.not_before <= ? ORDER BY d.seq LIMIT ?`, now, limit)
	})
	return out, err
}

// MarkDispatched records that a Sink took the delivery and what became of it.
// CodeNotFound if there is no such delivery.
func (s *Store) MarkDispatched(ctx context.Context, seq int64, outcome string, at time.Time) error {
	return s.write(ctx, func(t *tx) error {
		return t.changeDelivery(seq, "UPDATE deliveries SET dispatched_at = ?, outcome = ?, error = '' WHERE seq = ? RETURNING guid", at, outcome, seq)
	})
}

// DeferDelivery records a failed dispatch and when to try again. A delivery that
// was dispatched before is not dispatched again by it.
func (s *Store) DeferDelivery(ctx context.Context, seq int64, cause string, notBefore time.Time) error {
	return s.write(ctx, func(t *tx) error {
		return t.changeDelivery(seq, "UPDATE deliveries SET attempts = attempts + 1, error = ?, not_before = ? WHERE seq = ? RETURNING guid", cause, notBefore, seq)
	})
}

// ReopenDelivery has a delivery dispatched once more, whatever became of it
// before. CodeNotFound if there is none of that GUID.
func (s *Store) ReopenDelivery(ctx context.Context, guid string) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE deliveries SET dispatched_at = 0, not_before = 0, outcome = '', error = '' WHERE guid = ?", guid)
		if err == nil && n == 0 {
			err = muster.Errorf(muster.CodeNotFound, "there is no delivery %q", guid)
		}
		t.changed("delivery", "", guid)
		return err
	})
}

// Delivery returns the newest delivery with the GUID, with its body.
func (s *Store) Delivery(ctx context.Context, guid string) (muster.Delivery, error) {
	var out []muster.Delivery
	err := s.read(ctx, func(t *tx) error {
		return t.deliveries(&out, true, `FROM deliveries d JOIN delivery_bodies b ON b.seq = d.seq
			WHERE d.guid = ? ORDER BY d.seq DESC LIMIT 1`, guid)
	})
	if err == nil && len(out) == 0 {
		err = muster.Errorf(muster.CodeNotFound, "there is no delivery %q", guid)
	}
	if err != nil {
		return muster.Delivery{}, err
	}
	return out[0], nil
}

// Deliveries returns deliveries without their bodies, newest first.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) ([]muster.Delivery, error) {
	var w where
	if f.Event != "" {
		w.and("d.event = ?", f.Event)
	}
	if f.Outcome != "" {
		w.and(`lower(d.outcome) LIKE ? ESCAPE '\'`, "%"+likeEscape.Replace(strings.ToLower(f.Outcome))+"%")
	}
	if f.Before > 0 {
		w.and("d.seq < ?", f.Before)
	}
	w.limit("d.seq DESC", f.Limit, maxRows)
	var out []muster.Delivery
	err := s.read(ctx, func(t *tx) error {
		return t.deliveries(&out, false, "FROM deliveries d"+w.text.String(), w.args...)
	})
	return out, err
}

var likeEscape = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// HaveDeliveries reports which of the GUIDs the App has delivered already;
// absent ones are not in the map.
func (s *Store) HaveDeliveries(ctx context.Context, app string, guids []string) (map[string]bool, error) {
	have := make(map[string]bool)
	for chunk := range slices.Chunk(guids, 500) {
		args := []any{app}
		for _, g := range chunk {
			args = append(args, g)
		}
		err := s.read(ctx, func(t *tx) error {
			return t.rows("SELECT guid FROM deliveries WHERE app = ? AND guid IN "+in(len(chunk)), args, func(scan scanner) error {
				var g string
				err := scan(&g)
				have[g] = true
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return have, nil
}

// PruneDeliveries deletes dispatched deliveries received before a time and
// returns how many there were. One that no Sink took is kept whatever its age.
func (s *Store) PruneDeliveries(ctx context.Context, before time.Time) (int, error) {
	return s.prune(ctx, `DELETE FROM deliveries WHERE seq IN
		(SELECT seq FROM deliveries WHERE received_at < ? AND dispatched_at <> 0 ORDER BY received_at LIMIT 500)`, before)
}

// prune repeats a DELETE of a few rows until nothing is left to delete, so that
// no transaction holds others up for long.
func (s *Store) prune(ctx context.Context, query string, args ...any) (int, error) {
	for total := 0; ; {
		var n int64
		err := s.write(ctx, func(t *tx) (err error) {
			n, err = t.exec(query, args...)
			return err
		})
		total += int(n)
		if err != nil || n == 0 {
			return total, err
		}
	}
}

// Watermark returns a named fact, "" if there is none.
func (s *Store) Watermark(ctx context.Context, name string) (string, error) {
	var value string
	err := s.read(ctx, func(t *tx) error {
		_, err := t.row("SELECT value FROM facts WHERE name = ?", []any{name}, &value)
		return err
	})
	return value, err
}

// SetWatermark keeps a small fact under a name.
func (s *Store) SetWatermark(ctx context.Context, name, value string) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
		return err
	})
}

// DropWatermarks forgets the facts whose names begin with a prefix and sort before
// another name.
func (s *Store) DropWatermarks(ctx context.Context, prefix, before string) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM facts WHERE substr(name, 1, ?) = ? AND name < ?", len(prefix), prefix, before)
		return err
	})
}

// changeDelivery runs an UPDATE that returns the GUID of the delivery.
func (t *tx) changeDelivery(seq int64, query string, args ...any) error {
	var guid string
	found, err := t.row(query, args, &guid)
	if err == nil && !found {
		err = muster.Errorf(muster.CodeNotFound, "there is no delivery %d", seq)
	}
	t.changed("delivery", "", guid)
	return err
}

func (t *tx) deliveries(out *[]muster.Delivery, bodies bool, from string, args ...any) error {
	columns := deliveryColumns
	if bodies {
		columns += ", b.body"
	}
	return t.rows("SELECT "+columns+" "+from, args, func(scan scanner) error {
		var d muster.Delivery
		var received, dispatched int64
		var text string
		dest := []any{&d.Seq, &d.GUID, &d.App, &d.Event, &received, &dispatched, &d.Attempts, &d.Outcome, &d.Error, &text}
		if bodies {
			dest = append(dest, &d.Body)
		}
		if err := scan(dest...); err != nil {
			return err
		}
		doc, err := decode[deliveryDoc](text)
		if err != nil {
			return err
		}
		d.Action, d.Sense, d.TraceID, d.Headers = doc.Action, doc.Sense, doc.TraceID, doc.Headers
		d.ReceivedAt, d.DispatchedAt = instant(received), instant(dispatched)
		*out = append(*out, d)
		return nil
	})
}
