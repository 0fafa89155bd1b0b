package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// errAgain asks write to run the transaction once more: another one was quicker.
var errAgain = errors.New("transaction overtaken by another one")

// errEnough ends the reading of rows before their end.
var errEnough = errors.New("enough rows")

// maxTries bounds how often a transaction is run that loses to others.
const maxTries = 20

// tx is one transaction, or a single statement outside of one.
type tx struct {
	ctx     context.Context //nolint:containedctx // a transaction is one call, and lives as long as its context
	q       queryer
	dialect dialect
	changes []muster.Change
}

type queryer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// write runs fn in one transaction and tells subscribers of the changes that it
// noted once they are durable. fn may run more than once; what it has set outside
// must be set anew by each run.
func (s *Store) write(ctx context.Context, fn func(*tx) error) error {
	for try := 1; ; try++ {
		t, err := s.transact(ctx, s.writer, nil, fn)
		if err == nil {
			s.feed.publish(t.changes)
			return nil
		}
		if !s.dialect.again(err) || try == maxTries {
			if errors.Is(err, errAgain) {
				return unavailable("the database is busy", time.Second, err)
			}
			return s.dialect.classify(err)
		}
		if err := pause(ctx, rand.N(time.Duration(try)*2*time.Millisecond)); err != nil {
			return classify(err)
		}
	}
}

// snapshot runs fn in a transaction whose reads are all of one moment.
func (s *Store) snapshot(ctx context.Context, fn func(*tx) error) error {
	_, err := s.transact(ctx, s.reader, s.dialect.snapshot(), fn)
	return s.dialect.classify(err)
}

// read runs fn, which makes one statement, outside of a transaction.
func (s *Store) read(ctx context.Context, fn func(*tx) error) error {
	return s.dialect.classify(fn(&tx{ctx: ctx, q: s.reader, dialect: s.dialect}))
}

func (s *Store) transact(ctx context.Context, db *sql.DB, opts *sql.TxOptions, fn func(*tx) error) (*tx, error) {
	q, err := db.BeginTx(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	defer func() { _ = q.Rollback() }() // does nothing after Commit
	t := &tx{ctx: ctx, q: q, dialect: s.dialect}
	if err := fn(t); err != nil {
		return nil, err
	}
	if err := q.Commit(); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return t, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	res, err := t.q.ExecContext(t.ctx, t.dialect.rebind(query), bind(args)...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", verb(query), err)
	}
	return res.RowsAffected()
}

// row reads the first row of a query into dest; found is false if there is none.
func (t *tx) row(query string, args []any, dest ...any) (found bool, err error) {
	err = t.rows(query, args, func(scan scanner) error {
		found = true
		return cmp.Or(scan(dest...), errEnough)
	})
	return found, err
}

// scanner is (*sql.Rows).Scan.
type scanner func(dest ...any) error

// rows calls each for every row of a query.
func (t *tx) rows(query string, args []any, each func(scan scanner) error) error {
	rows, err := t.q.QueryContext(t.ctx, t.dialect.rebind(query), bind(args)...)
	if err != nil {
		return fmt.Errorf("%s: %w", verb(query), err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", verb(query), err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", verb(query), err)
	}
	return nil
}

// lock makes transactions that name the same thing take turns until their ends,
// where there is no row yet to lock.
func (t *tx) lock(what ...string) error {
	query := t.dialect.advisory()
	if query == "" {
		return nil
	}
	_, err := t.exec(query, strings.Join(what, "\x1f"))
	return err
}

// forUpdate ends a SELECT of rows that this transaction will change.
func (t *tx) forUpdate() string { return t.dialect.forUpdate() }

// changed notes a change for the subscribers.
func (t *tx) changed(kind, workspace, id string) {
	t.changes = append(t.changes, muster.Change{Kind: kind, Workspace: workspace, ID: id})
}

// verb is the beginning of a query, for error texts: it holds no values.
func verb(query string) string {
	words := strings.Fields(query)
	return strings.Join(words[:min(3, len(words))], " ")
}

// bind makes arguments that both databases take: times are microseconds,
// booleans 0 or 1, and texts have neither NULs nor broken UTF-8, which
// PostgreSQL refuses and a hostile payload may have.
func bind(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case time.Time:
			out[i] = micros(a)
		case bool:
			out[i] = int64(0)
			if a {
				out[i] = int64(1)
			}
		case string:
			out[i] = clean(a)
		case []byte, int64, int, nil:
			out[i] = a
		default:
			out[i] = a
			if v := reflect.ValueOf(a); v.Kind() == reflect.String {
				out[i] = clean(v.String())
			}
		}
	}
	return out
}

func clean(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// in is a list of n placeholders for IN.
func in(n int) string { return "(?" + strings.Repeat(",?", max(0, n-1)) + ")" }

// where gathers conditions of which each is there only if it is asked for.
type where struct {
	text strings.Builder
	args []any
}

func (w *where) and(condition string, args ...any) {
	if w.text.Len() == 0 {
		w.text.WriteString(" WHERE ")
	} else {
		w.text.WriteString(" AND ")
	}
	w.text.WriteString(condition)
	w.args = append(w.args, args...)
}

// andIn wants the column to be one of the values, if there are any.
func andIn[T any](w *where, column string, values []T) {
	if len(values) == 0 {
		return
	}
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = v
	}
	w.and(column+" IN "+in(len(args)), args...)
}

// limit appends ORDER BY and LIMIT; n of 0 or less means ceiling.
func (w *where) limit(order string, n, ceiling int) {
	if n <= 0 || n > ceiling {
		n = ceiling
	}
	w.text.WriteString(" ORDER BY " + order + " LIMIT ?")
	w.args = append(w.args, n)
}

// maxRows bounds every list.
const maxRows = 10_000
