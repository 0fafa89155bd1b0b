package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/muster-ci/muster"
	_ "modernc.org/sqlite" // the driver named "sqlite"
)

// Sealer makes bytes unreadable for whoever reads the database without the key;
// *secretbox.Box is one. Purpose binds the bytes to the place where they lie.
type Sealer interface {
	Seal(purpose string, plaintext []byte) ([]byte, error)
	Open(purpose string, sealed []byte) ([]byte, error)
}

// Config says which database to use. Only URL is required.
type Config struct {
	// URL is "sqlite:PATH" for a file that is made if absent, or a "postgres://" URL.
	URL string
	// Secrets seals the runners' logs, which may show what a job printed by
	// mistake. nil stores them readable. Once set it has to stay set.
	Secrets Sealer
	// BusyTimeout is how long a SQLite transaction waits for another process's;
	// 0 means 5 s.
	BusyTimeout time.Duration
	// MaxConns bounds the connections to PostgreSQL; 0 means 16.
	MaxConns int
}

// Store is the database. Every method is one transaction, safe for concurrent
// use, and returns *muster.Error: CodeNotFound, CodeConflict, CodeUnavailable
// when the same call may succeed later (database locked, disk full, connection
// lost); errors of other classes are internal. With PostgreSQL, several control
// planes may use one database at once.
type Store struct {
	// read and write are the same pool on PostgreSQL. On SQLite, write has one
	// connection, because the database takes one writer at a time anyway.
	reader, writer *sql.DB
	dialect        dialect
	secrets        Sealer
	feed           feed

	saves     chan saving
	inserts   inserts
	closing   chan struct{}
	committed chan struct{} // closed when the committer has ended
	closeOnce sync.Once
	closeErr  error
}

// Open connects to the database and brings its schema up to date; migrations
// only go forward. It refuses with CodeConflict a database that a newer Muster
// has migrated. ctx bounds Open only.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{
		secrets:   cfg.Secrets,
		saves:     make(chan saving, maxBatch),
		closing:   make(chan struct{}),
		committed: make(chan struct{}),
	}
	if err := s.connect(cfg); err != nil {
		return nil, err
	}
	err := s.migrate(ctx, 0)
	if err == nil {
		err = s.prepareInserts(ctx)
	}
	if err != nil {
		return nil, errors.Join(s.dialect.classify(fmt.Errorf("open store: %w", err)), s.closePools())
	}
	go s.commitDeliveries(context.WithoutCancel(ctx))
	return s, nil
}

// connect makes the pools without touching the database.
func (s *Store) connect(cfg Config) error {
	scheme, rest, _ := strings.Cut(cfg.URL, ":")
	switch scheme {
	case "sqlite":
		path := strings.TrimPrefix(rest, "//")
		if path == "" || strings.HasPrefix(path, ":memory:") {
			return muster.Errorf(muster.CodeInvalid, "database URL %q names no file: use sqlite:PATH", cfg.URL)
		}
		if err := createFile(path); err != nil {
			return err
		}
		s.dialect = sqlite{}
		busy := cfg.BusyTimeout
		if busy == 0 {
			busy = 5 * time.Second
		}
		var err error
		if s.writer, err = openSQLite(path, busy, "immediate"); err != nil {
			return err
		}
		s.writer.SetMaxOpenConns(1)
		if s.reader, err = openSQLite(path, busy, "deferred"); err != nil {
			return errors.Join(err, s.writer.Close())
		}
		readers := max(4, runtime.GOMAXPROCS(0))
		s.reader.SetMaxOpenConns(readers)
		s.reader.SetMaxIdleConns(readers)
	case "postgres", "postgresql":
		c, err := pgx.ParseConfig(cfg.URL)
		if err != nil {
			// The parser's error may repeat the URL, and the URL may hold a password.
			return muster.Errorf(muster.CodeInvalid, "the database URL is not a PostgreSQL URL")
		}
		if c.ConnectTimeout == 0 {
			c.ConnectTimeout = 10 * time.Second
		}
		if c.RuntimeParams["application_name"] == "" {
			c.RuntimeParams["application_name"] = "muster"
		}
		s.dialect = postgres{}
		s.writer = stdlib.OpenDB(*c)
		s.reader = s.writer
		conns := cfg.MaxConns
		if conns == 0 {
			conns = 16
		}
		s.writer.SetMaxOpenConns(conns)
		s.writer.SetMaxIdleConns(conns)
	default:
		return muster.Errorf(muster.CodeInvalid, "database URL of kind %q: use sqlite:PATH or postgres://…", scheme)
	}
	return nil
}

// createFile makes the database's file if it is absent, for its owner only;
// SQLite would let others read it. Its companions take over its mode.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist):
		return &muster.Error{Code: muster.CodeInvalid, Message: "there is no directory for the database file " + path + ": make it", Err: err}
	}
	return unavailable("the database file "+path+" cannot be read and written", 10*time.Second, err)
}

func openSQLite(path string, busy time.Duration, lock string) (*sql.DB, error) {
	q := url.Values{"_txlock": {lock}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"foreign_keys(1)",
		// Deliveries come in bursts; a checkpoint per 16 MiB instead of 4 halves their cost.
		"wal_autocheckpoint(4000)",
		"journal_size_limit(67108864)",
		"cache_size(-16384)",
	}}
	return sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
}

// Close ends the subscriptions, commits the deliveries that wait, and closes
// the database. It waits for both; calls that still run fail. Closing twice is
// harmless.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		<-s.committed
		s.feed.close()
		s.closeErr = s.closePools()
	})
	return s.closeErr
}

func (s *Store) closePools() error {
	err := s.writer.Close()
	if s.reader != s.writer {
		err = errors.Join(s.reader.Close(), err)
	}
	return err
}

// Backup writes a copy of the database, all of one moment, into a new file that
// only its owner may read, while the Store goes on. A copy is restored by
// starting Muster with it. CodeExists if the file is there; CodeInvalid on
// PostgreSQL, which has pg_dump.
func (s *Store) Backup(ctx context.Context, path string) error {
	if s.dialect.name() != "sqlite" {
		return muster.Errorf(muster.CodeInvalid, "back up PostgreSQL with pg_dump")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return muster.Errorf(muster.CodeExists, "there is a file %s already", path)
	}
	if err != nil {
		return fmt.Errorf("create backup: %w", err)
	}
	err = s.read(ctx, func(t *tx) error {
		_, err := t.exec("VACUUM INTO ?", path)
		return err
	})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("back up to %s: %w", path, err)
	}
	return nil
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.read(ctx, func(t *tx) error {
		_, err := t.row("SELECT 1", nil, new(int64))
		return err
	})
}
