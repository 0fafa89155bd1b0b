package store_test

import (
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/store/storetest"
)

var update = flag.Bool("update", false, "write testdata/released for the newest schema; for a schema that was released, never")

var dialects = map[string]func(testing.TB) string{"sqlite": storetest.SQLite, "postgres": storetest.Postgres}

// released is a database as a released schema left it, the same for both dialects.
type released struct {
	// Migrations are the SHA-256 sums of the files up to that schema: what was
	// released is never edited.
	Migrations map[string]string
	Tables     map[string][]map[string]value
}

// value is one column of one row: exactly one is set, or none for NULL.
type value struct {
	Int   *int64  `json:"i,omitempty"`
	Text  *string `json:"t,omitempty"`
	Bytes *[]byte `json:"b,omitempty"`
}

// A database of every released schema is brought up to date with all that is in
// it, on both dialects. S4-74
func TestUpgrade(t *testing.T) {
	if *update {
		writeReleased(t)
	}
	files, err := filepath.Glob("testdata/released/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no released schemas: %v", err)
	}
	for _, file := range files {
		var version int64
		if _, err := fmt.Sscanf(filepath.Base(file), "%d.json", &version); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var old released
		if err := json.Unmarshal(data, &old); err != nil {
			t.Fatal(err)
		}
		for name, sum := range sums(t, version) {
			if old.Migrations[name] != sum {
				t.Errorf("%s is released and was edited: add a migration instead", name)
			}
		}
		for dialect, url := range dialects {
			t.Run(fmt.Sprintf("%s from %d", dialect, version), func(t *testing.T) {
				at := url(t)
				if err := store.Migrate(t.Context(), store.Config{URL: at}, version); err != nil {
					t.Fatal(err)
				}
				load(t, storetest.Raw(t, at), dialect, old)
				fresh := storetest.Open(t, url(t))
				storetest.Fill(t, fresh)
				storetest.VerifyFilled(t, storetest.Open(t, at), fresh)
			})
		}
	}
}

// Both dialects have the same tables and columns, and the newest schema has its
// database in testdata, beside those of every schema that was released.
func TestDialectsAgree(t *testing.T) {
	columns := map[string][]string{}
	for dialect, url := range dialects {
		at := url(t)
		storetest.Open(t, at)
		db := storetest.Raw(t, at)
		for _, table := range storetest.Tables(t, db) {
			rows, err := db.Query("SELECT * FROM " + table)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			names, err := rows.Columns()
			if err := errors.Join(err, rows.Err()); err != nil {
				t.Fatal(err)
			}
			columns[dialect] = append(columns[dialect], table+"("+strings.Join(names, ",")+")")
		}
	}
	if !slices.Equal(columns["sqlite"], columns["postgres"]) {
		t.Errorf("sqlite has %v\npostgres has %v", columns["sqlite"], columns["postgres"])
	}
	for _, version := range []int64{1, newest(t)} {
		if _, err := os.Stat(releasedFile(version)); err != nil {
			t.Errorf("schema %d has no database in testdata: go test -run TestUpgrade -update", version)
		}
	}
	for _, dialect := range []string{"sqlite", "postgres"} {
		for name := range sums(t, newest(t)) {
			twin := strings.Replace(name, "/sqlite/", "/"+dialect+"/", 1)
			text, err := fs.ReadFile(store.Migrations(), twin)
			if err != nil {
				t.Error(err)
			}
			if regexp.MustCompile(`(?m)^-- \+goose Down`).Match(text) {
				t.Errorf("%s goes down: migrations only go forward", twin)
			}
		}
	}
}

// A database that a newer Muster has migrated is refused, not damaged.
func TestNewerSchema(t *testing.T) {
	for dialect, url := range dialects {
		t.Run(dialect, func(t *testing.T) {
			at := url(t)
			if err := storetest.Open(t, at).Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := storetest.Raw(t, at).Exec(fmt.Sprintf("INSERT INTO goose_db_version (version_id, is_applied) VALUES (%d, true)", newest(t)+1)); err != nil {
				t.Fatal(err)
			}
			_, err := store.Open(t.Context(), store.Config{URL: at})
			if muster.CodeOf(err) != muster.CodeConflict {
				t.Fatalf("error %v, want conflict", err)
			}
		})
	}
}

// Control planes that start together migrate once.
func TestMigrateTogether(t *testing.T) {
	at := storetest.Postgres(t)
	errs := make(chan error)
	for range 4 {
		go func() {
			s, err := store.Open(t.Context(), store.Config{URL: at})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	var all error
	for range 4 {
		all = errors.Join(all, <-errs)
	}
	if all != nil {
		t.Fatal(all)
	}
}

func releasedFile(version int64) string { return fmt.Sprintf("testdata/released/%04d.json", version) }

// sums are the checksums of both dialects' migrations up to a version.
func sums(t *testing.T, version int64) map[string]string {
	t.Helper()
	out := map[string]string{}
	names, err := fs.Glob(store.Migrations(), "migrations/*/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if versionOf(t, name) > version {
			continue
		}
		data, err := fs.ReadFile(store.Migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return out
}

func newest(t *testing.T) (version int64) {
	t.Helper()
	names, err := fs.Glob(store.Migrations(), "migrations/sqlite/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		version = max(version, versionOf(t, name))
	}
	return version
}

func versionOf(t *testing.T, name string) (version int64) {
	t.Helper()
	if _, err := fmt.Sscanf(name[strings.LastIndex(name, "/")+1:], "%d_", &version); err != nil {
		t.Fatal(err)
	}
	return version
}

// writeReleased fills a database of the newest schema and writes it down.
func writeReleased(t *testing.T) {
	t.Helper()
	at := storetest.SQLite(t)
	s := storetest.Open(t, at)
	storetest.Fill(t, s)
	version := newest(t)
	out := released{Migrations: sums(t, version), Tables: map[string][]map[string]value{}}
	for table, rows := range storetest.Dump(t, storetest.Raw(t, at)) {
		for _, row := range rows {
			values := map[string]value{}
			for column, v := range row {
				switch v := v.(type) {
				case int64:
					values[column] = value{Int: &v}
				case string:
					values[column] = value{Text: &v}
				case []byte:
					values[column] = value{Bytes: &v}
				case nil:
					values[column] = value{}
				default:
					t.Fatalf("%s.%s is a %T", table, column, v)
				}
			}
			out.Tables[table] = append(out.Tables[table], values)
		}
	}
	data, err := json.MarshalIndent(out, "", " ")
	if err == nil {
		err = errors.Join(os.MkdirAll("testdata/released", 0o755), os.WriteFile(releasedFile(version), append(data, '\n'), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// load puts the rows of an old database into one of its schema.
func load(t *testing.T, db *sql.DB, dialect string, old released) {
	t.Helper()
	var tables []string
	for table := range old.Tables {
		tables = append(tables, table)
	}
	// A table comes after those that it refers to.
	after := func(table string) int { return map[string]int{"delivery_bodies": 1, "decision_inputs": 1}[table] }
	sort.Slice(tables, func(i, j int) bool { return after(tables[i]) < after(tables[j]) })
	for _, table := range tables {
		for _, row := range old.Tables[table] {
			var columns, marks []string
			var args []any
			for column, v := range row {
				columns = append(columns, column)
				marks = append(marks, "?")
				switch {
				case v.Int != nil:
					args = append(args, *v.Int)
				case v.Text != nil:
					args = append(args, *v.Text)
				case v.Bytes != nil:
					args = append(args, *v.Bytes)
				default:
					args = append(args, nil)
				}
			}
			query := fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, strings.Join(columns, ", "), strings.Join(marks, ", "))
			if dialect == "postgres" {
				query = store.Rebind(store.PostgresDialect, query)
			}
			if _, err := db.Exec(query, args...); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		if dialect != "postgres" {
			continue
		}
		// Rows came with their numbers; new ones go on after them.
		for _, column := range []string{"seq", "id"} {
			var sequence sql.NullString
			if err := db.QueryRow("SELECT pg_get_serial_sequence($1, column_name::text) FROM information_schema.columns WHERE table_name = $1 AND column_name = $2 AND is_identity = 'YES'", table, column).Scan(&sequence); err == nil && sequence.Valid {
				if _, err := db.Exec(fmt.Sprintf("SELECT setval('%s', (SELECT max(%s) FROM %s))", sequence.String, column, table)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
