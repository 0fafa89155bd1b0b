package store_test

import (
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/store/storetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	storetest.Main(m, func() error { return goleak.Find() })
}

// S4-42
func TestSQLite(t *testing.T) {
	storetest.Run(t, storetest.SQLite)
}

// S4-42 C26
func TestPostgres(t *testing.T) {
	storetest.Run(t, storetest.Postgres)
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{"", "sqlite:", "sqlite::memory:", "mysql://x", "postgres://user:canary@host:nonsense/db"} {
		_, err := store.Open(t.Context(), store.Config{URL: url})
		if muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%q: error %v, want invalid", url, err)
		}
	}
	_, err := store.Open(t.Context(), store.Config{URL: "sqlite:/nonexistent/directory/x.db"})
	if muster.CodeOf(err) != muster.CodeUnavailable {
		t.Errorf("no directory: error %v, want unavailable", err)
	}
}
