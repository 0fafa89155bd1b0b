package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sort"
	"strings"
	"testing"
)

// Raw opens the database itself, beside any Store.
func Raw(t testing.TB, at string) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", at
	if path, isFile := strings.CutPrefix(at, "sqlite:"); isFile {
		driver, dsn = "sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Tables returns the names of our tables in a database, sorted.
func Tables(t testing.TB, db *sql.DB) []string {
	t.Helper()
	names, err := column(db, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
	if err != nil {
		names, err = column(db, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
	}
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for _, n := range names {
		if !strings.HasPrefix(n, "goose_") {
			ours = append(ours, n)
		}
	}
	sort.Strings(ours)
	return ours
}

func column(db *sql.DB, query string) (out []string, err error) {
	rows, err := db.QueryContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// Row is one row of a table by column: int64, string, []byte or nil.
type Row map[string]any

// Dump returns every row of every table of ours.
func Dump(t testing.TB, db *sql.DB) map[string][]Row {
	t.Helper()
	out := map[string][]Row{}
	for _, table := range Tables(t, db) {
		rows, err := db.QueryContext(context.Background(), "SELECT * FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		out[table] = []Row{}
		for rows.Next() {
			values, dest := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				dest[i] = &values[i]
			}
			if err := rows.Scan(dest...); err != nil {
				t.Fatal(err)
			}
			row := Row{}
			for i, c := range columns {
				row[c] = values[i]
			}
			out[table] = append(out[table], row)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil { //nolint:sqlclosecheck // one per turn of the loop
			t.Fatal(err)
		}
		sort.Slice(out[table], func(i, j int) bool { return fmt.Sprint(out[table][i]) < fmt.Sprint(out[table][j]) })
	}
	return out
}
