package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver named "sqlite"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/store/storetest"
)

// S4-25: the control plane is stopped in order while jobs run, and started again. The
// jobs do not notice: the same machines are adopted and finish them.
func TestRestartInOrder(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 16}})
	p := s.Serve(t)
	ids := s.Inject(t, 3, 5*time.Second)
	eventually(t, 20*time.Second, func() (bool, string) {
		by := s.Sim.Truth().ByState()
		return by["in_progress"] == 3, fmt.Sprint(by)
	})
	machines := s.Machines(t)
	began := time.Now()
	if err := p.Stop(); err != nil {
		log, _ := os.ReadFile(s.LogFile())
		t.Fatalf("SIGTERM: %v\n%s", err, tail(log, 3000))
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the end in order took %s", took)
	}
	if now := s.Machines(t); !slices.Equal(machines, now) {
		t.Errorf("machines %v became %v when the control plane stopped", machines, now)
	}
	queued := s.Inject(t, 1, 100*time.Millisecond) // comes by redelivery
	s.Serve(t)
	s.AwaitJobs(t, len(ids)+len(queued), time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	if truth.Registered != 4 {
		t.Errorf("%d runners were registered for 4 jobs", truth.Registered)
	}
}

// The main job on PostgreSQL.
func TestPostgres(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(storetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	s := stand(t, Options{Database: u.String(), Env: []string{"MUSTER_DATABASE_PASSWORD=" + password}, Sim: githubsim.Config{Seed: 17}})
	s.Serve(t)
	s.Inject(t, 10, 200*time.Millisecond)
	s.AwaitJobs(t, 10, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	if _, err := os.Stat(filepath.Join(s.Dir, "data", "muster.db")); !os.IsNotExist(err) {
		t.Errorf("there is an SQLite database beside PostgreSQL: %v", err)
	}
}

var engineAddress = regexp.MustCompile(`control plane is ready.* engine=(\S+)`)

// A control plane whose engine is elsewhere: the embedded one of another control
// plane stands for the cluster.
func TestExternalEngine(t *testing.T) {
	t.Parallel()
	first := stand(t, Options{Sim: githubsim.Config{Seed: 18}})
	first.Serve(t)
	log, err := os.ReadFile(first.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	found := engineAddress.FindSubmatch(log)
	if found == nil {
		t.Fatalf("the log names no engine:\n%s", tail(log, 2000))
	}
	second := stand(t, Options{Sim: githubsim.Config{Seed: 19}, Settings: quick + fmt.Sprintf("engine: {address: %q, namespace: second}\n", found[1])})
	second.Serve(t)
	for _, s := range []*Stand{first, second} {
		s.Inject(t, 2, 100*time.Millisecond)
	}
	for _, s := range []*Stand{first, second} {
		s.AwaitJobs(t, 2, time.Minute)
		truth, receipts := s.calm(t, 30*time.Second)
		once(t, truth, receipts, "success")
	}
	if _, err := os.Stat(filepath.Join(second.Dir, "data", "engine.db")); !os.IsNotExist(err) {
		t.Errorf("there is an embedded engine's database beside the external one: %v", err)
	}
}

// 4-4: another process holds the database while webhooks arrive. GitHub is
// told 503 or made to wait, and gets its deliveries in by redelivery: none is lost.
func TestDatabaseLocked(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 20, HookTimeout: 4 * time.Second}})
	s.Serve(t)
	s.Inject(t, 1, 0)
	s.AwaitJobs(t, 1, 20*time.Second)

	db, err := sql.Open("sqlite", filepath.Join(s.Dir, "data", "muster.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	holder, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if _, err := holder.ExecContext(t.Context(), "PRAGMA busy_timeout = 5000; BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	before := s.Sim.Truth().Deliveries
	s.Inject(t, 5, 100*time.Millisecond)
	eventually(t, 40*time.Second, func() (bool, string) {
		d := s.Sim.Truth().Deliveries
		return d.Failed > before.Failed, fmt.Sprintf("no delivery was refused while the database is held: %+v", d)
	})
	if _, err := holder.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	s.AwaitJobs(t, 6, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	if truth.Deliveries.Redelivered == 0 {
		t.Errorf("no delivery was asked for again: %+v", truth.Deliveries)
	}
}

// S0-2: a flood of forged webhooks is answered 401 and leaves nothing, while
// GitHub's own come through.
func TestForgedFlood(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 21}})
	s.Serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const floods = 4
	var refused [floods]int
	var wg sync.WaitGroup
	for i := range floods {
		wg.Go(func() {
			for ctx.Err() == nil && refused[i] < 500 {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/github/webhook/main", bytes.NewReader(forged))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("X-GitHub-Event", "workflow_job")
				req.Header.Set("X-GitHub-Delivery", fmt.Sprintf("forged-%d-%d", i, refused[i]))
				req.Header.Set("X-Hub-Signature-256", fmt.Sprintf("sha256=%064x", refused[i]))
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("a forged webhook was answered %s", resp.Status)
					return
				}
				refused[i]++
			}
		})
	}
	s.Inject(t, 10, 200*time.Millisecond)
	s.AwaitJobs(t, 10, time.Minute)
	cancel()
	wg.Wait()
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	out, _, _ := s.CLI(t, "delivery", "list", "--limit", "500", "--json")
	if bytes.Contains([]byte(out), []byte("forged")) {
		t.Error("a forged delivery was kept")
	}
	t.Logf("refused %v", refused)
}

var forged = []byte(`{"action":"queued","workflow_job":{"id":1,"run_id":1,"run_attempt":1,"status":"queued","labels":["self-hosted","linux"],"name":"evil"},"repository":{"full_name":"acme/web"},"installation":{"id":1}}`)
