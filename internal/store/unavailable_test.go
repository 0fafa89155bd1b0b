package store_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/store/storetest"
)

func big(i int) muster.Delivery {
	return muster.Delivery{GUID: fmt.Sprint("big-", i), App: "app", Body: []byte(strings.Repeat("x", 20_000)), ReceivedAt: time.Now()}
}

// A full disk refuses, loses nothing that was acknowledged, leaves nothing by
// halves, and works again once there is space.
func TestDiskFull(t *testing.T) {
	ctx := t.Context()
	url := storetest.SQLite(t)
	s := storetest.Open(t, url)
	pool := muster.Pool{Name: "a", Enabled: true}
	if err := s.SyncPools(ctx, "default", []muster.Pool{pool}, nil); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := store.Writer(s).ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	var pages int
	if err := store.Writer(s).QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit(pages + 300)
	acknowledged := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	refused := 0
	for i := range 200 { // 200 × 20 kB is more than 300 pages
		wg.Go(func() {
			_, _, err := s.SaveDelivery(ctx, big(i))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acknowledged[big(i).GUID] = true
				return
			}
			refused++
			if e, ok := errors.AsType[*muster.Error](err); !ok || e.Code != muster.CodeUnavailable || e.RetryAfter == 0 || !strings.Contains(e.Message, "full") {
				t.Errorf("error %#v, want unavailable with a time", err)
			}
		})
	}
	wg.Wait()
	if refused == 0 {
		t.Fatal("the disk was never full")
	}
	// A transaction of several tables, with inputs too big to fit, leaves none of them.
	record := muster.DecisionRecord{Workspace: "default", Pool: "a", At: time.Now(), Runners: []muster.Runner{{ID: "r-0001"}},
		Decision: muster.Decision{ScalingDecision: muster.ScalingDecision{Reason: strings.Repeat("y", 2_000_000)}, Create: 1}}
	if _, err := s.RecordDecision(ctx, record); muster.CodeOf(err) != muster.CodeUnavailable {
		t.Fatalf("decision: error %v, want unavailable", err)
	}
	check := func() {
		t.Helper()
		rows := storetest.Dump(t, storetest.Raw(t, url))
		if got := len(rows["deliveries"]); got != len(acknowledged) || got != len(rows["delivery_bodies"]) {
			t.Fatalf("%d deliveries and %d bodies for %d acknowledged", got, len(rows["delivery_bodies"]), len(acknowledged))
		}
		for _, d := range rows["deliveries"] {
			if !acknowledged[d["guid"].(string)] {
				t.Fatalf("delivery %v was refused and stored", d["guid"])
			}
		}
		if len(rows["decisions"])+len(rows["decision_inputs"])+len(rows["runners"])+len(rows["runner_events"]) != 0 {
			t.Fatal("half a decision was written")
		}
	}
	check()
	if err := s.Ping(ctx); err != nil {
		t.Fatalf("reading on a full disk: %v", err)
	}
	limit(pages + 100_000)
	for i := range 200 {
		if _, fresh, err := s.SaveDelivery(ctx, big(i)); err != nil || fresh == acknowledged[big(i).GUID] {
			t.Fatalf("with space again: fresh %v, error %v", fresh, err)
		}
		acknowledged[big(i).GUID] = true
	}
	check()
	if _, err := s.RecordDecision(ctx, record); err != nil {
		t.Fatalf("with space again: %v", err)
	}
}

// Another process that holds the database makes writers unavailable, not
// readers, and only for as long.
func TestDatabaseLocked(t *testing.T) {
	ctx := t.Context()
	url := storetest.SQLite(t)
	s := storetest.OpenConfig(t, store.Config{URL: url, BusyTimeout: 20 * time.Millisecond})
	holder, err := storetest.Raw(t, url).Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	hold := func(statement string) {
		t.Helper()
		if _, err := holder.ExecContext(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	hold("BEGIN IMMEDIATE")
	for name, try := range map[string]func() error{
		"SaveDelivery": func() error { _, _, err := s.SaveDelivery(ctx, big(1)); return err },
		"SetWatermark": func() error { return s.SetWatermark(ctx, "a", "b") },
		"ApplyJobEvent": func() error {
			_, err := s.ApplyJobEvent(ctx, "default", muster.JobEvent{ID: 1, Action: "queued"}, nil)
			return err
		},
	} {
		e, ok := errors.AsType[*muster.Error](try())
		if !ok || e.Code != muster.CodeUnavailable || e.RetryAfter == 0 || !strings.Contains(e.Message, "locked") {
			t.Errorf("%s: error %#v, want unavailable with a time", name, e)
		}
	}
	if v, err := s.Watermark(ctx, "a"); err != nil || v != "" {
		t.Errorf("reading beside a writer: %q, %v", v, err)
	}
	hold("ROLLBACK")
	if _, fresh, err := s.SaveDelivery(ctx, big(1)); err != nil || !fresh {
		t.Errorf("unlocked: fresh %v, error %v", fresh, err)
	}
	if _, err := s.ApplyJobEvent(ctx, "default", muster.JobEvent{ID: 1, Action: "queued"}, nil); err != nil {
		t.Errorf("unlocked: %v", err)
	}
}

// A server that cuts the connections is unavailable for the calls it cut, and
// the next ones go through.
func TestConnectionLost(t *testing.T) {
	ctx := t.Context()
	url := storetest.Postgres(t)
	s := storetest.Open(t, url)
	admin := storetest.Raw(t, url)
	cut := func() {
		t.Helper()
		if _, err := admin.ExecContext(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	stopAll := sync.OnceFunc(func() { close(stop) })
	defer stopAll()
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				d := big(w*1_000_000 + i)
				_, _, err := s.SaveDelivery(ctx, d)
				if err == nil {
					mu.Lock()
					acknowledged[d.GUID] = true
					mu.Unlock()
				} else if muster.CodeOf(err) != muster.CodeUnavailable {
					t.Errorf("error %v, want unavailable", err)
					return
				}
				if err := s.SetWatermark(ctx, "a", fmt.Sprint(i)); err != nil && muster.CodeOf(err) != muster.CodeUnavailable {
					t.Errorf("error %v, want unavailable", err)
					return
				}
			}
		})
	}
	changes := s.Subscribe(ctx)
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for range 10 {
		for range 5 { // some commits between two cuts
			select {
			case <-changes:
			case <-timeout.C:
				t.Fatal("no delivery is committed any more")
			}
		}
		cut()
	}
	stopAll()
	wg.Wait()
	cut()
	// A pool's idle connections may all be dead; each call rids it of some.
	for try := 0; ; try++ {
		_, _, err := s.SaveDelivery(ctx, big(-1))
		if err == nil {
			break
		}
		if muster.CodeOf(err) != muster.CodeUnavailable || try > 20 {
			t.Fatalf("after the cuts: %v", err)
		}
	}
	rows := storetest.Dump(t, admin)
	stored := map[string]bool{}
	for _, d := range rows["deliveries"] {
		stored[d["guid"].(string)] = true
	}
	for guid := range acknowledged {
		if !stored[guid] {
			t.Fatalf("delivery %s was acknowledged and is lost", guid)
		}
	}
	if len(rows["deliveries"]) != len(rows["delivery_bodies"]) {
		t.Fatal("a delivery lost its body")
	}
}

// A lock that somebody else holds on a row ends with unavailable when the
// database's own timeout says so.
func TestPostgresRowLocked(t *testing.T) {
	ctx := t.Context()
	url := storetest.Postgres(t)
	s := storetest.Open(t, url+"&statement_timeout=100")
	if err := s.SetWatermark(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	holder, err := storetest.Raw(t, url).BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.ExecContext(ctx, "UPDATE facts SET value = '2'"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetWatermark(ctx, "a", "3"); muster.CodeOf(err) != muster.CodeUnavailable {
		t.Fatalf("error %v, want unavailable", err)
	}
	if err := holder.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetWatermark(ctx, "a", "3"); err != nil {
		t.Fatal(err)
	}
}

// A server that is not there is unavailable, not a mistake in the configuration.
func TestPostgresAbsent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = store.Open(t.Context(), store.Config{URL: "postgres://user:canary@" + addr + "/db?sslmode=disable"})
	if muster.CodeOf(err) != muster.CodeUnavailable {
		t.Fatalf("error %v, want unavailable", err)
	}
	if strings.Contains(err.Error(), "canary") {
		t.Fatalf("the error shows the password: %v", err)
	}
}

func TestClassify(t *testing.T) {
	precise := muster.Errorf(muster.CodeConflict, "precise")
	for _, c := range []struct {
		err  error
		code muster.Code
	}{
		{nil, ""},
		{errors.New("syntax"), muster.CodeInternal},
		{&pgconn.PgError{Code: "42601"}, muster.CodeInternal},
		{&pgconn.PgError{Code: "53100"}, muster.CodeUnavailable},
		{&pgconn.PgError{Code: "40001"}, muster.CodeUnavailable},
		{&pgconn.PgError{Code: "57P01"}, muster.CodeUnavailable},
		{&pgconn.PgError{Code: "25006"}, muster.CodeUnavailable},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), muster.CodeUnavailable},
		{fmt.Errorf("wrapped: %w", driver.ErrBadConn), muster.CodeUnavailable},
		{sql.ErrConnDone, muster.CodeUnavailable},
		{context.DeadlineExceeded, muster.CodeUnavailable},
		{fmt.Errorf("wrapped: %w", precise), muster.CodeConflict},
	} {
		if got := muster.CodeOf(store.Classify(store.PostgresDialect, c.err)); got != c.code {
			t.Errorf("%v is %q, want %q", c.err, got, c.code)
		}
	}
	err := store.Classify(store.PostgresDialect, context.Canceled)
	if !errors.Is(err, context.Canceled) {
		t.Error("the cause is lost")
	}
}

func TestRebind(t *testing.T) {
	for text, want := range map[string]string{"SELECT 1": "SELECT 1", "a = ? AND b IN (?,?)": "a = $1 AND b IN ($2,$3)"} {
		if got := store.Rebind(store.PostgresDialect, text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
		if got := store.Rebind(store.SQLiteDialect, text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}
