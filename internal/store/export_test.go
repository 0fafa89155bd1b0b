package store

import (
	"context"
	"database/sql"
	"io/fs"
)

// Writer is the pool of a Store that writes.
func Writer(s *Store) *sql.DB { return s.writer }

// Migrate brings an empty database to an old schema.
func Migrate(ctx context.Context, cfg Config, version int64) error {
	s := &Store{}
	if err := s.connect(cfg); err != nil {
		return err
	}
	defer s.closePools()
	return s.migrate(ctx, version)
}

// Migrations are the files of both dialects.
func Migrations() fs.FS { return migrations }

// The dialects.
var (
	SQLiteDialect   dialect = sqlite{}
	PostgresDialect dialect = postgres{}
)

// Rebind is what a dialect makes of a portable text.
func Rebind(d dialect, query string) string { return d.rebind(query) }

// Classify is what a dialect makes of a driver's error.
func Classify(d dialect, err error) error { return d.classify(err) }
