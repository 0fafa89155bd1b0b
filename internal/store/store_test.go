package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	_, err := store.Open(t.Context(), store.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "absent", "x.db")})
	if muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("no directory: error %v, want invalid", err)
	}
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), store.Config{URL: "sqlite:" + path}); err == nil {
		t.Error("a text file is opened as a database")
	}
}

// Nobody but its owner reads the database or a backup of it. S4-60
func TestFileModes(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, "sqlite:"+filepath.Join(dir, "muster.db"))
	storetest.Fill(t, s)
	if err := s.Backup(t.Context(), filepath.Join(dir, "backup.db")); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

// A backup taken while the Store works is a whole database that Muster starts
// with. S4-75
func TestBackup(t *testing.T) {
	ctx := t.Context()
	s := storetest.Open(t, storetest.SQLite(t))
	storetest.Fill(t, s)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.SetWatermark(ctx, "busy", fmt.Sprint(i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	path := filepath.Join(t.TempDir(), "it's a backup.db")
	err := s.Backup(ctx, path)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(ctx, path); muster.CodeOf(err) != muster.CodeExists {
		t.Errorf("over an old backup: %v", err)
	}
	fresh := storetest.Open(t, storetest.SQLite(t))
	storetest.Fill(t, fresh)
	storetest.VerifyFilled(t, storetest.Open(t, "sqlite:"+path), fresh)
	if err := storetest.Open(t, storetest.Postgres(t)).Backup(ctx, path+"2"); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("PostgreSQL: %v", err)
	}
}
