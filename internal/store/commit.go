package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

const (
	// maxBatch is how many deliveries one transaction takes at most.
	maxBatch = 256
	// maxBatchBytes is the size of bodies after which a batch takes no more.
	maxBatchBytes = 8 << 20
	// commitTimeout bounds one batch, so that a database that hangs refuses
	// deliveries before GitHub gives up on them after 10 s (4-7).
	commitTimeout = 8 * time.Second
)

// saving is one delivery on its way into the database.
type saving struct {
	d    muster.Delivery
	doc  string
	done chan saved // of capacity 1: the committer never waits for a caller that left
}

type saved struct {
	seq   int64
	fresh bool
	err   error
}

// SaveDelivery makes a delivery durable before it returns. A delivery whose GUID
// the App has already delivered changes nothing: fresh is false and seq the
// earlier one's. Concurrent callers share a transaction; a caller alone does not
// wait for others. When ctx ends early, the delivery may have been saved or not.
func (s *Store) SaveDelivery(ctx context.Context, d muster.Delivery) (seq int64, fresh bool, err error) {
	doc, err := encode(deliveryDoc{Action: d.Action, Sense: d.Sense, TraceID: d.TraceID, Headers: d.Headers})
	if err != nil {
		return 0, false, err
	}
	job := saving{d: d, doc: doc, done: make(chan saved, 1)}
	select {
	case s.saves <- job:
	case <-ctx.Done():
		return 0, false, classify(ctx.Err())
	case <-s.closing:
		return 0, false, errClosing()
	}
	select {
	case r := <-job.done:
		return r.seq, r.fresh, r.err
	case <-ctx.Done():
		return 0, false, classify(ctx.Err())
	case <-s.committed:
		select {
		case r := <-job.done:
			return r.seq, r.fresh, r.err
		default: // queued after the committer's last look
			return 0, false, errClosing()
		}
	}
}

func errClosing() error {
	return &muster.Error{Code: muster.CodeUnavailable, Message: "the control plane is stopping", RetryAfter: time.Second}
}

// commitDeliveries is the one goroutine that writes deliveries: whatever is
// queued when the last commit has ended goes into the next one.
func (s *Store) commitDeliveries(ctx context.Context) {
	defer close(s.committed)
	batch := make([]saving, 0, maxBatch)
	for {
		batch = batch[:0]
		closing := false
		select {
		case first := <-s.saves:
			batch = append(batch, first)
		case <-s.closing:
			closing = true
		}
		for size := 0; len(batch) < maxBatch && size < maxBatchBytes; {
			select {
			case next := <-s.saves:
				batch = append(batch, next)
				size += len(next.d.Body)
				continue
			default:
			}
			break
		}
		if len(batch) > 0 {
			s.saveBatch(ctx, batch)
		} else if closing {
			return
		}
	}
}

// saveBatch commits the batch and answers its callers.
func (s *Store) saveBatch(ctx context.Context, batch []saving) {
	results, err := s.saveAll(ctx, batch)
	switch {
	case err == nil:
		for i, b := range batch {
			b.done <- results[i]
		}
	case len(batch) > 1 && muster.CodeOf(err) != muster.CodeUnavailable:
		// One of them is at fault; the others must not suffer for it.
		for i := range batch {
			s.saveBatch(ctx, batch[i:i+1])
		}
	default:
		for _, b := range batch {
			b.done <- saved{err: err}
		}
	}
	clear(batch) // lets the bodies go
}

func (s *Store) saveAll(ctx context.Context, batch []saving) ([]saved, error) {
	ctx, cancel := s.commitContext(ctx)
	defer cancel()
	var results []saved
	err := s.write(ctx, func(t *tx) error {
		type key struct{ guid, app string }
		results = make([]saved, len(batch))
		index := make(map[key]int, len(batch))
		var unique []int // positions in batch, each key once
		for i, b := range batch {
			k := key{clean(b.d.GUID), clean(b.d.App)}
			if _, twice := index[k]; !twice {
				index[k] = i
				unique = append(unique, i)
			}
		}
		var fresh []int
		err := eachLadder(unique, func(part []int) error {
			args := make([]any, 0, len(part)*rowArgs)
			for _, i := range part {
				d := &batch[i].d
				args = append(args, d.GUID, d.App, d.Event, d.ReceivedAt, batch[i].doc)
			}
			return s.inserts.rows.query(t, len(part), args, func(scan scanner) error {
				var seq int64
				var k key
				if err := scan(&seq, &k.guid, &k.app); err != nil {
					return err
				}
				i := index[k]
				results[i] = saved{seq: seq, fresh: true}
				fresh = append(fresh, i)
				t.changed("delivery", "", k.guid)
				return nil
			})
		})
		if err != nil {
			return err
		}
		err = eachLadder(fresh, func(part []int) error {
			args := make([]any, 0, len(part)*bodyArgs)
			for _, i := range part {
				body := batch[i].d.Body
				if body == nil {
					body = []byte{}
				}
				args = append(args, results[i].seq, body)
			}
			return s.inserts.bodies.exec(t, len(part), args)
		})
		if err != nil {
			return err
		}
		for i, b := range batch {
			k := key{clean(b.d.GUID), clean(b.d.App)}
			switch first := index[k]; {
			case first != i: // twice in this batch; the first has its result by now
				results[i] = saved{seq: results[first].seq}
			case !results[i].fresh:
				if _, err := t.row("SELECT seq FROM deliveries WHERE guid = ? AND app = ?", []any{k.guid, k.app}, &results[i].seq); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return results, err
}

// commitContext bounds a batch where the network may hang. SQLite has its busy
// timeout, and a context that can end costs it a goroutine per statement.
func (s *Store) commitContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := s.dialect.(sqlite); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, commitTimeout)
}

// ladder are the numbers of rows that are inserted by one statement; each has
// its prepared statement.
var ladder = []int{32, 8, 1}

// eachLadder cuts positions into parts of the sizes of the ladder.
func eachLadder(positions []int, do func(part []int) error) error {
	for _, n := range ladder {
		for len(positions) >= n {
			if err := do(positions[:n]); err != nil {
				return err
			}
			positions = positions[n:]
		}
	}
	return nil
}

// inserts are the prepared statements of the committer.
type inserts struct{ rows, bodies multi }

const (
	rowArgs  = 5
	bodyArgs = 2
)

// multi is one INSERT, prepared for every number of rows on the ladder.
type multi map[int]*sql.Stmt

func (s *Store) prepareInserts(ctx context.Context) (err error) {
	s.inserts.rows, err = s.prepare(ctx, "INSERT INTO deliveries (guid, app, event, received_at, doc) VALUES ", rowArgs,
		" ON CONFLICT (guid, app) DO NOTHING RETURNING seq, guid, app")
	if err == nil {
		s.inserts.bodies, err = s.prepare(ctx, "INSERT INTO delivery_bodies (seq, body) VALUES ", bodyArgs, "")
	}
	return err
}

func (s *Store) prepare(ctx context.Context, head string, args int, tail string) (multi, error) {
	m := multi{}
	for _, n := range ladder {
		text := head + strings.TrimSuffix(strings.Repeat(in(args)+",", n), ",") + tail
		stmt, err := s.writer.PrepareContext(ctx, s.dialect.rebind(text)) //nolint:sqlclosecheck // it lives as long as the store
		if err != nil {
			return nil, fmt.Errorf("prepare insert: %w", err)
		}
		m[n] = stmt
	}
	return m, nil
}

func (m multi) exec(t *tx, n int, args []any) error {
	_, err := t.q.(*sql.Tx).StmtContext(t.ctx, m[n]).ExecContext(t.ctx, bind(args)...) //nolint:sqlclosecheck // closed with its transaction
	return err
}

func (m multi) query(t *tx, n int, args []any, each func(scanner) error) error {
	rows, err := t.q.(*sql.Tx).StmtContext(t.ctx, m[n]).QueryContext(t.ctx, bind(args)...) //nolint:sqlclosecheck // closed with its transaction
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
