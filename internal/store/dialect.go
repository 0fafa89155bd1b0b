package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/muster-ci/muster"
	"github.com/pressly/goose/v3"
	moderncsqlite "modernc.org/sqlite"
)

// dialect is the whole difference between the two databases, but for the types
// in the migrations.
type dialect interface {
	// name is the folder of the migrations.
	name() string
	goose() goose.Dialect
	// rebind turns the portable text's ? into what the driver wants.
	rebind(query string) string
	// forUpdate ends a SELECT whose rows the transaction is about to change.
	forUpdate() string
	// advisory is a statement that makes transactions naming the same lock take
	// turns, "" if they do anyway.
	advisory() string
	// snapshot are the options of a transaction whose reads are all of one moment.
	snapshot() *sql.TxOptions
	// again reports whether the transaction lost to another one and should be
	// tried again at once.
	again(err error) bool
	// classify turns a driver's error that a later call may not see into CodeUnavailable.
	classify(err error) error
}

type sqlite struct{}

func (sqlite) name() string               { return "sqlite" }
func (sqlite) goose() goose.Dialect       { return goose.DialectSQLite3 }
func (sqlite) rebind(query string) string { return query }

// A SQLite writer holds the database from its BEGIN IMMEDIATE on.
func (sqlite) forUpdate() string        { return "" }
func (sqlite) advisory() string         { return "" }
func (sqlite) snapshot() *sql.TxOptions { return nil }
func (sqlite) again(err error) bool     { return errors.Is(err, errAgain) }

// SQLite's primary result codes (sqlite.org/rescode.html).
const (
	sqliteBusy      = 5
	sqliteLocked    = 6
	sqliteNoMem     = 7
	sqliteReadOnly  = 8
	sqliteInterrupt = 9
	sqliteIOErr     = 10
	sqliteFull      = 13
	sqliteCantOpen  = 14
	sqliteProtocol  = 15
)

func (sqlite) classify(err error) error {
	if e, ok := errors.AsType[*moderncsqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqliteFull:
			return unavailable("the disk of the database is full: free some space", 10*time.Second, err)
		case sqliteBusy, sqliteLocked, sqliteProtocol:
			return unavailable("the database is locked by another process", time.Second, err)
		case sqliteReadOnly, sqliteIOErr, sqliteCantOpen, sqliteNoMem:
			return unavailable("the database cannot be read or written", 10*time.Second, err)
		case sqliteInterrupt:
			return unavailable("the database call was interrupted", time.Second, err)
		}
	}
	return classify(err)
}

type postgres struct{}

func (postgres) name() string         { return "postgres" }
func (postgres) goose() goose.Dialect { return goose.DialectPostgres }

// rebind numbers the question marks. No text here has one inside a literal.
func (postgres) rebind(query string) string {
	var b strings.Builder
	b.Grow(len(query) + 16)
	for n := 1; ; n++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		query = after
	}
}

func (postgres) forUpdate() string { return " FOR UPDATE" }

func (postgres) advisory() string {
	return "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))"
}

func (postgres) snapshot() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}

func (postgres) again(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "40001" || e.Code == "40P01" // serialization failure, deadlock
	}
	return errors.Is(err, errAgain)
}

func (postgres) classify(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case e.Code == "53100":
			return unavailable("the disk of the database is full: free some space", 10*time.Second, err)
		case e.Code == "40001", e.Code == "40P01", e.Code == "55P03", e.Code == "57014":
			return unavailable("the database is busy", time.Second, err)
		// Connection exceptions, out of resources, shut down or starting, I/O
		// errors, and read_only_sql_transaction, which a fail-over shows.
		case strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "53"), strings.HasPrefix(e.Code, "57P"),
			strings.HasPrefix(e.Code, "58"), e.Code == "25006":
			return unavailable("the database is not available", time.Second, err)
		}
		return classify(err)
	}
	_, isConnect := errors.AsType[*pgconn.ConnectError](err)
	_, isNet := errors.AsType[net.Error](err)
	if isConnect || isNet || pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return unavailable("the database is not reachable", time.Second, err)
	}
	return classify(err)
}

// classify handles what database/sql itself reports.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone), isClosed(err):
		return unavailable("the connection to the database is gone", time.Second, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable("the database did not answer in time", time.Second, err)
	}
	return err
}

// isClosed recognizes the one error of database/sql that has no name.
func isClosed(err error) bool { return strings.Contains(err.Error(), "sql: database is closed") }

// unavailable keeps a more precise class that err already has.
func unavailable(message string, after time.Duration, err error) error {
	if e, ok := errors.AsType[*muster.Error](err); ok {
		return e
	}
	return &muster.Error{Code: muster.CodeUnavailable, Message: message, RetryAfter: after, Err: err}
}
