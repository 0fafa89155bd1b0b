package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/provider"
)

// A Registry is the Observer of those who declare one.
var (
	_ ingress.Observer     = (*metrics.Registry)(nil)
	_ ingress.PollObserver = (*metrics.Registry)(nil)
	_ github.Observer      = (*metrics.Registry)(nil)
)

func scrape(t *testing.T, r *metrics.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	rec := httptest.NewRecorder()
	r.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != 200 {
		t.Fatalf("answer %d %s", rec.Code, rec.Body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value returns the metric whose labels, in the order of their names, are these.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	family := families[name]
	if family == nil {
		t.Errorf("%s is missing", name)
		return 0
	}
	for _, m := range family.Metric {
		var have []string
		for _, l := range m.Label {
			have = append(have, l.GetValue())
		}
		if slices.Equal(have, labels) {
			switch {
			case m.Counter != nil:
				return m.Counter.GetValue()
			case m.Gauge != nil:
				return m.Gauge.GetValue()
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount())
			}
		}
	}
	t.Errorf("%s has no %v: %v", name, labels, family.Metric)
	return 0
}

var (
	created  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	finished = muster.Job{
		Key: muster.JobKey{ID: 1}, Pool: "ci", State: muster.JobCompleted, Conclusion: "success", RunnerName: "r",
		CreatedAt: created, StartedAt: created.Add(20 * time.Second), CompletedAt: created.Add(80 * time.Second),
	}
)

// everything calls each method of a Registry at least once.
func everything(r *metrics.Registry) {
	r.CountRunners(func(context.Context) ([]muster.Runner, error) {
		return []muster.Runner{{Pool: "ci", State: muster.RunnerActive}, {Pool: "ci", State: muster.RunnerActive}, {Pool: "ci", State: muster.RunnerProvisioning}}, nil
	})
	r.Received("main", "workflow_job", "accepted", 3*time.Millisecond)
	r.Received("", "workflow_job", "unauthorized", time.Millisecond)
	r.Dispatched("workflow_job", "done", 20*time.Millisecond)
	r.Waiting(90 * time.Second)
	r.Asked("main", "asked")
	r.Repaired("main", 2*time.Minute)
	r.Polled("main", "done", 12, 3*time.Second)
	r.Found("main", "queued", 4*time.Minute)
	r.CountBudgets(func() []metrics.Budget {
		return []metrics.Budget{
			{App: "main", Account: "octo-org", Limit: 5000, Remaining: 4321, PointsThisMinute: 77, Stretch: 1, Forecast: time.Now().Add(20 * time.Minute), Registrations: 30,
				Lanes: []metrics.BudgetLane{{Lane: "critical", Calls: 40, Parked: 2, Waiting: 3}, {Lane: "background", Calls: 900, Unchanged: 850}}},
			{App: "main", Account: "app", Stretch: 0, PausedUntil: time.Now().Add(time.Minute)},
			{App: "main", Account: "octo-org", Limit: 1},
		}
	})
	r.Called("main", "POST /orgs/{org}/actions/runners/generate-jitconfig", 201, 300*time.Millisecond)
	r.Called("main", "POST /orgs/{org}/actions/runners/generate-jitconfig", 0, 30*time.Second)
	r.Budget("main", 4321, 5000)
	running := finished
	running.State = muster.JobInProgress
	r.JobAdvanced(muster.Applied{Job: running, Change: muster.JobAdvanced, Before: muster.JobQueued, Stolen: true})
	r.JobAdvanced(muster.Applied{Job: finished, Change: muster.JobAdvanced, Before: muster.JobInProgress})
	r.JobIgnored(muster.JobEvent{Action: "queued"}, "no pool wants [ubuntu-latest]")
	r.Decided("ci", muster.Decision{ScalingDecision: muster.ScalingDecision{Action: muster.ScaleUp}, Rule: "formula"})
	r.RunnerChanged(muster.Runner{Pool: "ci", Provider: "process", State: muster.RunnerRegistered, CreatedAt: created, ListeningAt: created.Add(3 * time.Second)})
	r.Launched("process", nil, time.Second)
	r.Booted(muster.Runner{Pool: "ci"}, muster.Errorf(muster.CodeConflict, "used"), time.Second)
	r.AgentReported("listening", nil)
	r.API().Called("/muster.v1.JobService/ListJobs", "ok", 2*time.Millisecond)
	r.Receipt(muster.Receipt{Pool: "ci", CostMicroUSD: 1500})
	r.Waste(muster.Waste{Pool: "ci", CostMicroUSD: 70})
	r.TraceSegment(100, 7, nil)
	r.TraceSegment(100, 7, muster.Errorf(muster.CodeConflict, "another"))
	r.TraceEnded(muster.Trace{Pool: "ci", State: muster.TraceComplete, Lost: map[string]int64{"buffer_full": 3, "forged": 1}})
	r.TraceDamaged(muster.Trace{Pool: "ci", Damage: muster.TraceDamage{Segment: 1}})
	r.TraceAnalysed([]muster.Detection{{Rule: "reverse-shell", Severity: muster.SeverityHigh}}, time.Second)
	r.Finding(muster.Finding{Kind: "leaked_instance"})
	p := r.Provider("process", &platform{})
	p.Create(context.Background(), provider.Spec{})
}

func TestMetricNames(t *testing.T) { // S4-68 S4-55
	r := metrics.New("1.2.3")
	everything(r)
	families := scrape(t, r)
	want := []string{
		"muster_agent_reports_total", "muster_api_call_seconds", "muster_api_calls_total", "muster_build_info", "muster_cost_micro_usd_total", "muster_decisions_total",
		"muster_deliveries_total", "muster_delivery_seconds", "muster_dispatch_delay_seconds", "muster_dispatch_lag_seconds", "muster_dispatches_total",
		"muster_github_budget_forecast_seconds", "muster_github_budget_limit", "muster_github_budget_paused_seconds", "muster_github_budget_points",
		"muster_github_budget_remaining", "muster_github_budget_stretch", "muster_github_call_seconds", "muster_github_calls_total",
		"muster_github_lane_calls_total", "muster_github_lane_parked_total", "muster_github_lane_unchanged_total", "muster_github_lane_waiting",
		"muster_github_rate_limit", "muster_github_rate_remaining", "muster_github_registrations",
		"muster_job_events_ignored_total", "muster_job_queue_seconds", "muster_job_run_seconds", "muster_job_transitions_total", "muster_jobs_completed_total",
		"muster_lost_delivery_repair_seconds", "muster_poll_calls_total", "muster_poll_found_seconds", "muster_poll_seconds", "muster_polls_total", "muster_provider_call_seconds", "muster_provider_calls_total", "muster_redeliveries_total",
		"muster_runner_boot_seconds", "muster_runner_boots_total", "muster_runner_changes_total", "muster_runner_launches_total", "muster_runners",
		"muster_runners_stolen_total", "muster_sweep_findings_total",
		"muster_trace_analysis_seconds", "muster_trace_bytes_total", "muster_trace_events_lost_total", "muster_trace_events_total", "muster_trace_findings_total", "muster_trace_segments_total", "muster_traces_damaged_total", "muster_traces_total",
		"muster_waste_micro_usd_total", "muster_wasted_runners_total",
	}
	var have []string
	for name := range families {
		if strings.HasPrefix(name, "muster_") {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("the names are an interface; they are now\n%q\nand were\n%q", have, want)
	}
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total"} {
		if families[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	for name, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
}

func TestMetricValues(t *testing.T) { // S4-55 S4-68
	r := metrics.New("1.2.3")
	everything(r)
	f := scrape(t, r)
	for _, c := range []struct {
		name   string
		labels []string // by label name
		want   float64
	}{
		{"muster_deliveries_total", []string{"main", "workflow_job", "accepted"}, 1},
		{"muster_deliveries_total", []string{"none", "none", "unauthorized"}, 1}, // nobody's word
		{"muster_dispatches_total", []string{"workflow_job", "done"}, 1},
		{"muster_dispatch_lag_seconds", nil, 90},
		{"muster_github_calls_total", []string{"main", "POST /orgs/{org}/actions/runners/generate-jitconfig", "201"}, 1},
		{"muster_github_calls_total", []string{"main", "POST /orgs/{org}/actions/runners/generate-jitconfig", "none"}, 1},
		{"muster_github_rate_remaining", []string{"main"}, 4321},
		{"muster_github_budget_limit", []string{"octo-org", "main"}, 5000}, // the first of two with one name
		{"muster_github_budget_remaining", []string{"octo-org", "main"}, 4321},
		{"muster_github_budget_points", []string{"octo-org", "main"}, 77},
		{"muster_github_budget_stretch", []string{"app", "main"}, 0},
		{"muster_github_registrations", []string{"octo-org", "main"}, 30},
		{"muster_github_lane_calls_total", []string{"octo-org", "main", "background"}, 900},
		{"muster_github_lane_unchanged_total", []string{"octo-org", "main", "background"}, 850},
		{"muster_github_lane_parked_total", []string{"octo-org", "main", "critical"}, 2},
		{"muster_github_lane_waiting", []string{"octo-org", "main", "critical"}, 3},
		{"muster_polls_total", []string{"main", "done"}, 1},
		{"muster_poll_calls_total", []string{"main"}, 12},
		{"muster_poll_found_seconds", []string{"main", "queued"}, 1},
		{"muster_job_transitions_total", []string{"ci", "in_progress"}, 1},
		{"muster_jobs_completed_total", []string{"success", "ci"}, 1},
		{"muster_job_queue_seconds", []string{"ci"}, 1}, // once, though two events came after it was known
		{"muster_job_run_seconds", []string{"ci"}, 1},
		{"muster_runners", []string{"ci", "active"}, 2},
		{"muster_runners", []string{"ci", "provisioning"}, 1},
		{"muster_runner_boot_seconds", []string{"ci", "process"}, 1},
		{"muster_runner_boots_total", []string{"conflict", "ci"}, 1},
		{"muster_decisions_total", []string{"scale_up", "ci", "formula"}, 1},
		{"muster_cost_micro_usd_total", []string{"ci"}, 1500},
		{"muster_waste_micro_usd_total", []string{"ci"}, 70},
	} {
		if got := value(t, f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	// What is not known has no value: an App without a limit, one that lasts.
	for name, want := range map[string]int{"muster_github_budget_limit": 1, "muster_github_budget_forecast_seconds": 1, "muster_github_budget_paused_seconds": 2} {
		if n := len(f[name].Metric); n != want {
			t.Errorf("%s has %d values, want %d", name, n, want)
		}
	}
	if sum := f["muster_job_queue_seconds"].Metric[0].Histogram.GetSampleSum(); sum != 20 {
		t.Errorf("queue time %v s", sum)
	}
}

// Whatever is thrown at it, the number of series stays bounded.
func TestLabelsStayBounded(t *testing.T) { // S4-68
	r := metrics.New("1")
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 1000 {
				s := fmt.Sprintf("x%d-%d", worker, i)
				r.Received(s, s, "accepted", 0)
				r.Dispatched(s, s, 0)
				r.Called(s, s, i, 0)
				r.JobAdvanced(muster.Applied{Job: muster.Job{Pool: s, State: muster.JobState(s)}, Change: muster.JobAdvanced})
				r.Decided(s, muster.Decision{Rule: s})
				r.RunnerChanged(muster.Runner{Pool: s, State: muster.RunnerState(s)})
				r.Finding(muster.Finding{Kind: s})
				r.AgentReported(s, errors.New(s))
			}
		})
	}
	all.Wait()
	r.Finding(muster.Finding{Kind: "line\nbreak"})
	r.Finding(muster.Finding{Kind: strings.Repeat("long", 100)})
	for name, family := range scrape(t, r) {
		values := map[string]map[string]bool{}
		for _, m := range family.Metric {
			for _, l := range m.Label {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
				if len(l.GetValue()) > 100 || strings.ContainsAny(l.GetValue(), "\n\r") {
					t.Errorf("%s has the label %q", name, l.GetValue())
				}
			}
		}
		for label, v := range values {
			if limit := 202; len(v) > limit && label != "status" || label == "status" && len(v) > 501 {
				t.Errorf("%s has %d values of %s", name, len(v), label)
			}
		}
	}
}

func TestRunnersAreAbsentRatherThanWrong(t *testing.T) { // 4-27
	r := metrics.New("1")
	var failing error
	r.CountRunners(func(context.Context) ([]muster.Runner, error) {
		return []muster.Runner{{Pool: "ci", State: muster.RunnerActive}}, failing
	})
	if f := scrape(t, r)["muster_runners"]; f == nil {
		t.Error("muster_runners is missing")
	}
	failing = errors.New("database away")
	if f := scrape(t, r)["muster_runners"]; f != nil {
		t.Errorf("muster_runners is %v though the store failed", f)
	}
}

// platform is a provider without options; kept adds them all.
type platform struct {
	err  error
	list []error
}

func (p *platform) Create(context.Context, provider.Spec) (provider.Instance, error) {
	return provider.Instance{ID: "i-1"}, p.err
}
func (p *platform) Delete(context.Context, muster.RunnerID) error { return p.err }
func (p *platform) Get(context.Context, muster.RunnerID) (provider.Instance, error) {
	return provider.Instance{}, p.err
}
func (p *platform) List(context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		for _, err := range p.list {
			if !yield(provider.Instance{}, err) {
				return
			}
		}
	}
}

type kept struct {
	platform
	started bool
}

func (k *kept) Start(context.Context, provider.Machine) (string, error) {
	k.started = true
	return "operation-1", nil
}
func (k *kept) Stop(context.Context, provider.Machine) (string, error) {
	return "", provider.ErrQuota
}
func (k *kept) Status(context.Context, provider.Machine) (provider.MachineState, error) {
	return provider.MachineState{Status: muster.MachineRunning}, nil
}
func (k *kept) PriceMicroUSD(context.Context, muster.Offering) (int64, error) {
	return 42, nil
}
func (k *kept) Console(context.Context, muster.RunnerID, int) ([]byte, error) {
	return []byte("boot"), nil
}
func (k *kept) Describe() provider.Description { return provider.Description{Kind: "kept"} }

func TestProviderCalls(t *testing.T) { // S4-68
	r := metrics.New("1")
	ctx := t.Context()
	for outcome, err := range map[string]error{
		"ok": nil, "not_found": provider.ErrNotFound, "capacity": fmt.Errorf("zone a: %w", provider.ErrCapacity),
		"quota": provider.ErrQuota, "invalid": provider.ErrInvalid, "transient": errors.New("whatever"),
	} {
		p := r.Provider("cloud", &platform{err: err, list: []error{nil, err}})
		in, got := p.Create(ctx, provider.Spec{})
		if in.ID != "i-1" || !errors.Is(got, err) {
			t.Errorf("%s: the answer was changed: %v, %v", outcome, in, got)
		}
		p.Delete(ctx, "r-1")
		p.Get(ctx, "r-1")
		n := 0
		for range p.List(ctx) {
			n++
		}
		if n != 2 {
			t.Errorf("%s: %d instances", outcome, n)
		}
		for range p.List(ctx) {
			break
		}
		f := scrape(t, r)
		for _, method := range []string{"create", "delete", "get", "list"} {
			if got := value(t, f, "muster_provider_calls_total", method, outcome, "cloud"); got < 1 {
				t.Errorf("%s %s: %v", method, outcome, got)
			}
		}
	}
}

func TestProviderKeepsItsOptions(t *testing.T) {
	r := metrics.New("1")
	ctx := t.Context()
	inner := &kept{}
	p := r.Provider("cloud", r.Provider("again", inner)) // through any number of wrappers
	starter, ok := provider.As[provider.StartStopper](p)
	if !ok {
		t.Fatal("it cannot be started any more")
	}
	vm := provider.Machine{Name: "vm"}
	if op, err := starter.Start(ctx, vm); err != nil || op != "operation-1" || !inner.started {
		t.Errorf("%q, %v, started %v", op, err, inner.started)
	}
	if _, err := starter.Stop(ctx, vm); !errors.Is(err, provider.ErrQuota) {
		t.Error(err)
	}
	if st, err := starter.Status(ctx, vm); err != nil || st.Status != muster.MachineRunning {
		t.Errorf("%+v, %v", st, err)
	}
	f := scrape(t, r)
	if value(t, f, "muster_provider_calls_total", "start", "ok", "cloud") != 1 || value(t, f, "muster_provider_calls_total", "stop", "quota", "cloud") != 1 ||
		value(t, f, "muster_provider_calls_total", "status", "ok", "cloud") != 1 {
		t.Error("start, stop and status are not counted")
	}
	if pricer, ok := provider.As[provider.Pricer](p); !ok {
		t.Error("it has no price any more")
	} else if price, _ := pricer.PriceMicroUSD(ctx, muster.Offering{}); price != 42 {
		t.Errorf("price %d", price)
	}
	if _, ok := provider.As[provider.Consoler](p); !ok {
		t.Error("it has no console any more")
	}
	if d, ok := provider.As[provider.Described](p); !ok || d.Describe().Kind != "kept" {
		t.Error("it does not describe itself any more")
	}
	// And a provider without options does not gain any.
	plain := r.Provider("plain", &platform{})
	if _, ok := provider.As[provider.StartStopper](plain); ok {
		t.Error("a provider without Start can be started")
	}
	if _, ok := plain.(provider.StartStopper); ok {
		t.Error("a provider without Start looks as if it had one")
	}
	if _, ok := provider.As[provider.Pricer](nil); ok {
		t.Error("nothing has a price")
	}
}
