package storetest

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// SQLite returns the URL of a new, empty database in a temporary file. Its name
// has every character that a URL would mistake.
func SQLite(t testing.TB) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "a b?c#d%20.db")
}

// Open opens a Store that is closed when the test ends.
func Open(t testing.TB, url string) *store.Store {
	t.Helper()
	return OpenConfig(t, store.Config{URL: url})
}

// OpenConfig is Open with settings.
func OpenConfig(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

// Run proves on a database of one kind everything that the methods of a Store
// promise. url returns the URL of a new, empty database.
func Run(t *testing.T, url func(testing.TB) string) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *store.Store)
	}{
		{"Deliveries", deliveries}, {"DeliveryHostileText", deliveryHostileText}, {"DeliveriesConcurrent", deliveriesConcurrent},
		{"DeliveryAfterClose", deliveryAfterClose}, {"PruneDeliveries", pruneDeliveries}, {"Watermark", watermark},
		{"Installations", installations},
		{"JobEvents", jobEvents}, {"JobEventsAnyOrder", jobEventsAnyOrder}, {"JobQueries", jobQueries}, {"JobRouting", jobRouting},
		{"JobTakesRunner", jobTakesRunner}, {"JobTakesRunnerOfOtherPool", jobTakesRunnerOfOtherPool},
		{"JobBeforeRunnerName", jobBeforeRunnerName}, {"JobOnFormerName", jobOnFormerName},
		{"JobOnForeignRunner", jobOnForeignRunner}, {"KeptRunnerManyJobs", keptRunnerManyJobs},
		{"Pools", pools}, {"PoolOverride", poolOverride}, {"PoolSnapshot", poolSnapshot}, {"SnapshotSuspended", snapshotSuspended}, {"JobsOverflow", jobsOverflow}, {"StaleJobs", staleJobs},
		{"OpenJobs", openJobs}, {"UnnamedRunners", unnamedRunners},
		{"Decisions", decisions}, {"DecisionIsAtomic", decisionIsAtomic}, {"DecisionAt", decisionAt},
		{"Sensed", sensed}, {"SpentSince", spentSince}, {"DemandAndSupply", demandAndSupply},
		{"Runners", runners}, {"UpdateRunner", updateRunner}, {"RunnerLog", runnerLog},
		{"Machines", machines}, {"MachineDemand", machineDemand},
		{"BootTokens", bootTokens}, {"Sessions", sessions},
		{"Receipts", receipts}, {"Wastes", wastes}, {"UsageSummary", usageSummary}, {"Findings", findings},
		{"Traces", traces}, {"TraceQueries", traceQueries}, {"TraceFindsJob", traceFindsJob}, {"Detections", detections}, {"Baselines", baselines},
		{"Subscribe", subscribe}, {"SubscribeSlowReader", subscribeSlowReader},
		{"ScaleSetJobs", scaleSetJobs}, {"ScaleSetUnnamed", scaleSetUnnamed}, {"ScaleSetAnyOrder", scaleSetAnyOrder},
		{"Isolation", isolation}, {"Canceled", canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, Open(t, url(t)))
		})
	}
	t.Run("TwoControlPlanes", func(t *testing.T) {
		at := url(t)
		twoControlPlanes(t, Open(t, at), Open(t, at))
	})
	t.Run("TwoControlPlanesName", func(t *testing.T) {
		at := url(t)
		twoControlPlanesName(t, Open(t, at), Open(t, at))
	})
	t.Run("Reopen", func(t *testing.T) { reopen(t, url(t)) })
	t.Run("NoSecrets", func(t *testing.T) { noSecrets(t, url(t)) })
	t.Run("SealedLog", func(t *testing.T) { sealedLog(t, url(t)) })
}

// ws is the workspace of most tests, other the one that must not see it.
const (
	ws    = "default"
	other = "other"
)

// base is the time that tests start at, written by a clock in another zone and
// with nanoseconds, which the store drops.
var base = time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.FixedZone("X", 3600))

func at(d time.Duration) time.Time { return base.Add(d) }

// utc is a time as the store returns it.
func utc(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must returns the value of a call that may not fail.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func wantCode(t *testing.T, err error, code muster.Code) {
	t.Helper()
	if muster.CodeOf(err) != code {
		t.Fatalf("error %v has code %q, want %q", err, muster.CodeOf(err), code)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func wantLen[T any](t *testing.T, what string, got []T, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%s: %d, want %d: %v", what, len(got), n, got)
	}
}

// pool is a pool of one-job runners for a label of its name.
func pool(name string) muster.Pool {
	return muster.Pool{Name: name, App: "app", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "Octo"},
		Labels: muster.Labels{name}, Provider: "fake", Offering: "small", Enabled: true, Workspace: ws}.WithDefaults()
}

// withPools configures pools named a and b.
func withPools(t *testing.T, s *store.Store) {
	t.Helper()
	ok(t, s.SyncPools(t.Context(), ws, []muster.Pool{pool("a"), pool("b")}, []muster.Offering{{Name: "small", CPUs: 2}}))
}

// addRunner has a decision make a runner of a pool.
func addRunner(t *testing.T, s *store.Store, id muster.RunnerID, of, name string) muster.Runner {
	t.Helper()
	r := muster.Runner{ID: id, Pool: of, Name: name, Provider: "fake", Offering: "small", CreatedAt: base}
	_, err := s.RecordDecision(t.Context(), muster.DecisionRecord{Workspace: ws, Pool: of, At: base, Runners: []muster.Runner{r},
		Decision: muster.Decision{ScalingDecision: muster.ScalingDecision{Action: muster.ScaleUp, Reason: "test"}, Rule: muster.RuleFormula, Create: 1}})
	ok(t, err)
	return must(s.Runner(t.Context(), ws, id))(t)
}

// update changes a runner's row.
func update(t *testing.T, s *store.Store, id muster.RunnerID, change func(*muster.Runner)) muster.Runner {
	t.Helper()
	r, err := s.UpdateRunner(t.Context(), ws, id, at(time.Minute), "", func(r *muster.Runner) error {
		change(r)
		return nil
	})
	ok(t, err)
	return r
}

// moveTo takes a runner along the legal way to a state.
func moveTo(t *testing.T, s *store.Store, id muster.RunnerID, states ...muster.RunnerState) {
	t.Helper()
	for _, state := range states {
		update(t, s, id, func(r *muster.Runner) { r.State = state })
	}
}

// event is what a webhook says of a job; fields are filled as GitHub does.
func event(id int64, action, runner string) muster.JobEvent {
	e := muster.JobEvent{Action: action, Delivery: action + "-guid", App: "app", Sense: muster.SenseWebhook, ReceivedAt: at(time.Second),
		TraceID: "trace", InstallationID: 7, Repository: "Octo/Repo", ID: id, RunID: id / 10, Workflow: "ci", Name: "build",
		HeadBranch: "main", Status: muster.JobState(action), Labels: muster.Labels{"a"}, CreatedAt: base}
	switch action {
	case "in_progress":
		e.RunnerName, e.StartedAt = runner, at(10*time.Second)
	case "completed":
		e.RunnerName, e.StartedAt, e.CompletedAt, e.Conclusion = runner, at(10*time.Second), at(70*time.Second), "success"
		e.Steps = []muster.Step{{Number: 1, Name: "run", Status: "completed", StartedAt: at(11 * time.Second), CompletedAt: at(60 * time.Second)}}
	}
	return e
}

func apply(t *testing.T, s *store.Store, e muster.JobEvent) muster.Applied {
	t.Helper()
	a, err := s.ApplyJobEvent(t.Context(), ws, e, toA)
	ok(t, err)
	return a
}

// toA routes every job to pool a.
func toA(muster.Job) string { return "a" }

func delivery(guid string) muster.Delivery {
	return muster.Delivery{GUID: guid, App: "app", Event: "workflow_job", Action: "queued", Headers: map[string]string{"X-Github-Event": "workflow_job"},
		Body: []byte(`{"n":"` + guid + `"}`), Sense: muster.SenseWebhook, ReceivedAt: base, TraceID: "trace-" + guid}
}

func save(t *testing.T, s *store.Store, d muster.Delivery) int64 {
	t.Helper()
	seq, fresh, err := s.SaveDelivery(t.Context(), d)
	ok(t, err)
	if !fresh {
		t.Fatalf("delivery %s is not fresh", d.GUID)
	}
	return seq
}

// within fails the test if done is not closed soon.
func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatalf("%s takes too long", what)
	}
}

// long is a text of n bytes.
func long(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }
