package store_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/store/storetest"
)

// payload is as long as a workflow_job delivery of GitHub's.
var payload = []byte(`{"action":"queued","workflow_job":{"steps":[` + strings.Repeat(`{"name":"Set up job","status":"completed","conclusion":"success","number":1},`, 120) + `]}}`)

const callers = 32

// BenchmarkSaveDelivery is what it costs to make a delivery durable with 32
// callers at once, against the least that could be done: check the HMAC, append
// to one file, fsync.
func BenchmarkSaveDelivery(b *testing.B) {
	check := func() {
		mac := hmac.New(sha256.New, []byte("secret"))
		mac.Write(payload)
		mac.Sum(nil)
	}
	b.Run("append-fsync", func(b *testing.B) {
		f, err := os.OpenFile(filepath.Join(b.TempDir(), "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		parallel(b, func(int64) error {
			check()
			if _, err := f.Write(payload); err != nil {
				return err
			}
			return f.Sync()
		})
	})
	for dialect, url := range dialects {
		b.Run(dialect, func(b *testing.B) {
			s := storetest.Open(b, url(b))
			parallel(b, func(i int64) error {
				check()
				_, _, err := s.SaveDelivery(b.Context(), muster.Delivery{GUID: guid(i), App: "app", Event: "workflow_job", Action: "queued",
					Headers: map[string]string{"X-Github-Event": "workflow_job", "X-Github-Delivery": guid(i), "Content-Type": "application/json"}, Body: payload, ReceivedAt: time.Now()})
				return err
			})
		})
	}
}

// guid is as random as GitHub's, which is what an index has to bear.
func guid(i int64) string {
	r := rand.New(rand.NewPCG(1, uint64(i)))
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", r.Uint32(), r.Uint32()>>16, r.Uint32()>>16, r.Uint32()>>16, i)
}

func parallel(b *testing.B, do func(i int64) error) {
	b.SetParallelism(callers) // times GOMAXPROCS, so use no more
	var n atomic.Int64
	slots := make(chan struct{}, callers)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			slots <- struct{}{}
			if err := do(n.Add(1)); err != nil {
				b.Error(err)
			}
			<-slots
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

// crowd fills a database with 50,000 jobs, of which some are open, and 10,000
// runners, of which some live, in pool a.
func crowd(b *testing.B, url string, openJobs, liveRunners int) *store.Store {
	b.Helper()
	s := storetest.Open(b, url)
	ctx := b.Context()
	if err := s.SyncPools(ctx, "default", []muster.Pool{{Name: "a", Enabled: true}}, nil); err != nil {
		b.Fatal(err)
	}
	tx, err := store.Writer(s).BeginTx(ctx, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer tx.Rollback()
	d := store.SQLiteDialect
	if strings.HasPrefix(url, "postgres") {
		d = store.PostgresDialect
	}
	doc := `{"Key":{"ID":1,"Attempt":1},"Pad":"` + strings.Repeat("x", 900) + `"}`
	job := store.Rebind(d, "INSERT INTO jobs (workspace, id, attempt, state, pool, repository, run_id, runner_name, queued_at, seen_at, doc) VALUES ('default', ?, 1, ?, 'a', 'o/r', ?, '', ?, ?, ?)")
	for i := range 50_000 {
		state := "completed"
		if i%(50_000/openJobs) == 0 {
			state = "queued"
		}
		if _, err := tx.ExecContext(ctx, job, i, state, i/10, i*1000, i*1000, doc); err != nil {
			b.Fatal(err)
		}
	}
	runner := store.Rebind(d, `INSERT INTO runners (workspace, id, pool, name, state, busy, warm, created_at, idle_since, destroyed_at, doc)
		VALUES ('default', ?, 'a', '', ?, 0, 0, ?, 0, 0, ?)`)
	for i := range 10_000 {
		state := "destroyed"
		if i%(10_000/liveRunners) == 0 {
			state = "registered"
		}
		if _, err := tx.ExecContext(ctx, runner, fmt.Sprintf("r-%05d", i), state, i*1000, doc); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if d == store.PostgresDialect { // which does it by itself before long; SQLite does not
		if _, err := store.Writer(s).ExecContext(ctx, "ANALYZE"); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func BenchmarkPoolSnapshot(b *testing.B) {
	for dialect, url := range dialects {
		for _, size := range []struct{ jobs, runners int }{{500, 100}, {50_000, 10_000}} {
			b.Run(fmt.Sprintf("%s/%d open jobs, %d live runners", dialect, size.jobs, size.runners), func(b *testing.B) {
				s := crowd(b, url(b), size.jobs, size.runners)
				for b.Loop() {
					snap, err := s.PoolSnapshot(b.Context(), "default", "a")
					if err != nil || len(snap.Jobs) != size.jobs || len(snap.Runners) != size.runners {
						b.Fatalf("%d jobs, %d runners: %v", len(snap.Jobs), len(snap.Runners), err)
					}
				}
			})
		}
	}
}

func BenchmarkApplyJobEvent(b *testing.B) {
	for dialect, url := range dialects {
		b.Run(dialect, func(b *testing.B) {
			s := storetest.Open(b, url(b))
			id := int64(0)
			for b.Loop() {
				id++
				if _, err := s.ApplyJobEvent(b.Context(), "default", muster.JobEvent{Action: "queued", ID: id, Repository: "o/r", Sense: muster.SenseWebhook,
					Labels: muster.Labels{"a"}, CreatedAt: time.Now()}, func(muster.Job) string { return "a" }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
