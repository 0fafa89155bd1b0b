package metrics

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/muster-ci/muster"
)

// Buckets of histograms, in seconds: answers of machines, and waits of people.
var (
	quick = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	slow  = []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200}
)

// Registry holds every metric of one process. Its methods return at once and are
// safe for concurrent use; times and durations below zero count as zero.
type Registry struct {
	all *prometheus.Registry
	set labelSet

	received       *prometheus.CounterVec
	receiveTime    *prometheus.HistogramVec
	dispatched     *prometheus.CounterVec
	dispatchDelay  prometheus.Histogram
	oldestDelivery prometheus.Gauge
	asked          *prometheus.CounterVec
	repaired       *prometheus.HistogramVec
	polls          *prometheus.CounterVec
	pollCalls      *prometheus.CounterVec
	pollTime       *prometheus.HistogramVec
	pollFound      *prometheus.HistogramVec

	transitions *prometheus.CounterVec
	ignored     *prometheus.CounterVec
	completed   *prometheus.CounterVec
	stolen      *prometheus.CounterVec
	queueTime   *prometheus.HistogramVec
	runTime     *prometheus.HistogramVec
	bootTime    *prometheus.HistogramVec

	decisions     *prometheus.CounterVec
	runnerChanges *prometheus.CounterVec
	launches      *prometheus.CounterVec
	boots         *prometheus.CounterVec
	agentReports  *prometheus.CounterVec
	cost          *prometheus.CounterVec
	waste         *prometheus.CounterVec
	wasteCost     *prometheus.CounterVec
	findings      *prometheus.CounterVec
	traces        traceMetrics

	providerCalls *prometheus.CounterVec
	providerTime  *prometheus.HistogramVec
	githubCalls   *prometheus.CounterVec
	githubTime    *prometheus.HistogramVec
	githubLeft    *prometheus.GaugeVec
	githubLimit   *prometheus.GaugeVec
	apiCalls      *prometheus.CounterVec
	apiTime       *prometheus.HistogramVec
}

// New makes a Registry with all its metrics, those of the Go runtime and of the
// process included. Version names the build in muster_build_info.
func New(version string) *Registry {
	r := &Registry{all: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "muster", Name: name, Help: help}, labels)
		r.all.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "muster", Name: name, Help: help, Buckets: buckets}, labels)
		r.all.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "muster", Name: name, Help: help}, labels)
		r.all.MustRegister(v)
		return v
	}

	r.received = counter("deliveries_total", "Webhook requests by event and what was answered.", "app", "event", "outcome")
	r.receiveTime = histogram("delivery_seconds", "Time from a webhook's first byte to its answer; GitHub gives up after 10.", quick, "outcome")
	r.dispatched = counter("dispatches_total", "Deliveries handed on from the inbox, by what became of them.", "event", "outcome")
	r.dispatchDelay = histogram("dispatch_delay_seconds", "Time from a delivery's arrival to the end of its dispatch.", quick).WithLabelValues().(prometheus.Histogram)
	r.oldestDelivery = gauge("dispatch_lag_seconds", "Age of the oldest delivery that was found waiting in the inbox.").WithLabelValues()
	r.asked = counter("redeliveries_total", "Lost deliveries that GitHub was asked to send again.", "app", "outcome")
	r.repaired = histogram("lost_delivery_repair_seconds", "Time from GitHub's first attempt to the arrival of a delivery that had been lost.", slow, "app")
	r.polls = counter("polls_total", "Looks at the repositories of one owner, by what came of them; parked for want of budget.", "app", "outcome")
	r.pollCalls = counter("poll_calls_total", "Calls of GitHub that polling made; answers that did not change are among them.", "app")
	r.pollTime = histogram("poll_seconds", "Duration of one look at the repositories of one owner.", slow, "app")
	r.pollFound = histogram("poll_found_seconds", "Time from GitHub's own time of a job's state to polling finding it, for states that no other sense told.", slow, "app", "state")

	r.transitions = counter("job_transitions_total", "Jobs that entered a state, by pool; pool is none for jobs that no pool wants.", "pool", "state")
	r.ignored = counter("job_events_ignored_total", "Events of jobs that no pool wants.", "action")
	r.completed = counter("jobs_completed_total", "Completed jobs by conclusion.", "pool", "conclusion")
	r.stolen = counter("runners_stolen_total", "Runners that took a job of another pool.", "pool")
	r.queueTime = histogram("job_queue_seconds", "Time that jobs waited for a runner, by GitHub's clock.", slow, "pool")
	r.runTime = histogram("job_run_seconds", "Time that jobs ran, by GitHub's clock.", slow, "pool")
	r.bootTime = histogram("runner_boot_seconds", "Time from the decision for a runner to its listening for jobs.", slow, "pool", "provider")

	r.decisions = counter("decisions_total", "Scaling decisions by the rule that decided.", "pool", "rule", "action")
	r.runnerChanges = counter("runner_changes_total", "Runners that entered a state.", "pool", "state")
	r.launches = counter("runner_launches_total", "Machines asked of a provider.", "provider", "outcome")
	r.boots = counter("runner_boots_total", "Agents that traded their boot token.", "pool", "outcome")
	r.agentReports = counter("agent_reports_total", "Reports of agents.", "phase", "outcome")
	r.cost = counter("cost_micro_usd_total", "Cost of jobs, in millionths of a US dollar.", "pool")
	r.waste = counter("wasted_runners_total", "Runners that never ran a job.", "pool")
	r.wasteCost = counter("waste_micro_usd_total", "Cost of runners that never ran a job, in millionths of a US dollar.", "pool")
	r.traces = newTraceMetrics(counter, histogram)
	r.findings = counter("sweep_findings_total", "What the sweep found and put right.", "kind")

	r.providerCalls = counter("provider_calls_total", "Calls of providers by class of their result.", "provider", "method", "outcome")
	r.providerTime = histogram("provider_call_seconds", "Duration of calls of providers.", quick, "provider", "method")
	r.githubCalls = counter("github_calls_total", "Requests to GitHub by route and status; status is none without an answer.", "app", "route", "status")
	r.githubTime = histogram("github_call_seconds", "Duration of requests to GitHub.", quick, "route")
	r.githubLeft = gauge("github_rate_remaining", "What the last call left of its hourly rate limit.", "app")
	r.githubLimit = gauge("github_rate_limit", "The hourly rate limit of the last call.", "app")
	r.apiCalls = counter("api_calls_total", "Calls of the API and of agents by procedure and code.", "procedure", "code")
	r.apiTime = histogram("api_call_seconds", "Duration of calls of the API and of agents; a stream's is its whole life.", quick, "procedure")

	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	gauge("build_info", "Always 1; the labels name the build.", "version", "revision", "go").WithLabelValues(version, revision, runtime.Version()).Set(1)
	r.all.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler serves the metrics for Prometheus to scrape.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.all, promhttp.HandlerOpts{Registry: r.all, EnableOpenMetrics: true})
}

// CountRunners makes muster_runners from what list returns at every scrape: from
// state, so that it is right after a crash too. List has 2 s; while it fails, the
// metric is absent rather than wrong. It is called once, before Handler serves.
func (r *Registry) CountRunners(list func(context.Context) ([]muster.Runner, error)) {
	r.all.MustRegister(&runnerCollector{
		list: list, set: &r.set,
		desc: prometheus.NewDesc("muster_runners", "Runners that are not destroyed, by state.", []string{"pool", "state"}, nil),
	})
}

type runnerCollector struct {
	list func(context.Context) ([]muster.Runner, error)
	set  *labelSet
	desc *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *runnerCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *runnerCollector) Collect(ch chan<- prometheus.Metric) {
	// A scrape has no context to inherit from.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	runners, err := c.list(ctx)
	if err != nil {
		return
	}
	counts := map[[2]string]int{}
	for _, one := range runners {
		counts[[2]string{c.set.pool.of(one.Pool), c.set.state.of(string(one.State))}]++
	}
	for key, n := range counts {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), key[0], key[1])
	}
}

// Received implements ingress.Observer.
func (r *Registry) Received(app, event, outcome string, took time.Duration) {
	outcome = r.set.outcome.of(outcome)
	// Only a verified delivery's event is GitHub's word; others are anybody's.
	if outcome != "accepted" && outcome != "duplicate" {
		event = ""
	}
	r.received.WithLabelValues(r.set.app.of(app), r.set.event.of(event), outcome).Inc()
	r.receiveTime.WithLabelValues(outcome).Observe(seconds(took))
}

// Dispatched implements ingress.Observer.
func (r *Registry) Dispatched(event, outcome string, delay time.Duration) {
	r.dispatched.WithLabelValues(r.set.event.of(event), r.set.outcome.of(outcome)).Inc()
	r.dispatchDelay.Observe(seconds(delay))
}

// Waiting implements ingress.Observer.
func (r *Registry) Waiting(oldest time.Duration) { r.oldestDelivery.Set(seconds(oldest)) }

// Asked implements ingress.Observer.
func (r *Registry) Asked(app, outcome string) {
	r.asked.WithLabelValues(r.set.app.of(app), r.set.outcome.of(outcome)).Inc()
}

// Repaired implements ingress.Observer.
func (r *Registry) Repaired(app string, after time.Duration) {
	r.repaired.WithLabelValues(r.set.app.of(app)).Observe(seconds(after))
}

// Polled implements ingress.PollObserver.
func (r *Registry) Polled(app, outcome string, calls int, took time.Duration) {
	app = r.set.app.of(app)
	r.polls.WithLabelValues(app, r.set.outcome.of(outcome)).Inc()
	r.pollCalls.WithLabelValues(app).Add(float64(max(0, calls)))
	r.pollTime.WithLabelValues(app).Observe(seconds(took))
}

// Found implements ingress.PollObserver.
func (r *Registry) Found(app, state string, after time.Duration) {
	r.pollFound.WithLabelValues(r.set.app.of(app), r.set.state.of(state)).Observe(seconds(after))
}

// Called implements github.Observer.
func (r *Registry) Called(app, route string, status int, took time.Duration) {
	text := "none"
	if status >= 100 && status < 600 {
		text = strconv.Itoa(status)
	}
	route = r.set.route.of(route)
	r.githubCalls.WithLabelValues(r.set.app.of(app), route, text).Inc()
	r.githubTime.WithLabelValues(route).Observe(seconds(took))
}

// Budget implements github.Observer.
func (r *Registry) Budget(app string, remaining, limit int) {
	app = r.set.app.of(app)
	r.githubLeft.WithLabelValues(app).Set(float64(remaining))
	r.githubLimit.WithLabelValues(app).Set(float64(limit))
}

// API implements api.Observer for the Registry, whose own Called is GitHub's.
type API struct{ r *Registry }

// API returns the Registry as an observer of the API.
func (r *Registry) API() API { return API{r} }

// Called implements api.Observer.
func (a API) Called(procedure, code string, took time.Duration) {
	procedure = a.r.set.procedure.of(procedure)
	a.r.apiCalls.WithLabelValues(procedure, a.r.set.code.of(code)).Inc()
	a.r.apiTime.WithLabelValues(procedure).Observe(seconds(took))
}

// JobAdvanced counts a job that entered a state, and takes its times when they
// become known.
func (r *Registry) JobAdvanced(a muster.Applied) {
	if a.Change != muster.JobAdvanced {
		return
	}
	pool := r.set.pool.of(a.Job.Pool)
	r.transitions.WithLabelValues(pool, r.set.state.of(string(a.Job.State))).Inc()
	if a.Stolen {
		r.stolen.WithLabelValues(pool).Inc()
	}
	if a.Before.Rank() < muster.JobInProgress.Rank() {
		if d, ok := a.Job.QueueTime(); ok {
			r.queueTime.WithLabelValues(pool).Observe(seconds(d))
		}
	}
	if a.Job.State == muster.JobCompleted {
		r.completed.WithLabelValues(pool, r.set.conclusion.of(a.Job.Conclusion)).Inc()
		if d, ok := a.Job.RunTime(); ok {
			r.runTime.WithLabelValues(pool).Observe(seconds(d))
		}
	}
}

// JobIgnored counts an event of a job that no pool wants; the reason is for logs.
func (r *Registry) JobIgnored(e muster.JobEvent, _ string) {
	r.ignored.WithLabelValues(r.set.state.of(e.Action)).Inc()
}

// Decided counts a scaling decision.
func (r *Registry) Decided(pool string, d muster.Decision) {
	r.decisions.WithLabelValues(r.set.pool.of(pool), r.set.rule.of(d.Rule), r.set.rule.of(string(d.Action))).Inc()
}

// RunnerChanged counts a runner that entered a state, and takes its boot time
// when it begins to listen.
func (r *Registry) RunnerChanged(runner muster.Runner) {
	pool := r.set.pool.of(runner.Pool)
	r.runnerChanges.WithLabelValues(pool, r.set.state.of(string(runner.State))).Inc()
	if runner.State == muster.RunnerRegistered && !runner.ListeningAt.IsZero() && !runner.CreatedAt.IsZero() {
		r.bootTime.WithLabelValues(pool, r.set.provider.of(runner.Provider)).Observe(seconds(runner.ListeningAt.Sub(runner.CreatedAt)))
	}
}

// Launched counts a machine that was asked of a provider.
func (r *Registry) Launched(provider string, err error, _ time.Duration) {
	r.launches.WithLabelValues(r.set.provider.of(provider), outcomeOf(err)).Inc()
}

// Booted counts an agent that traded its boot token, or could not.
func (r *Registry) Booted(runner muster.Runner, err error, _ time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = string(muster.CodeOf(err))
	}
	r.boots.WithLabelValues(r.set.pool.of(runner.Pool), r.set.outcome.of(outcome)).Inc()
}

// AgentReported counts a report of an agent: phase as in the wire protocol, err
// what it was answered.
func (r *Registry) AgentReported(phase string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = string(muster.CodeOf(err))
	}
	r.agentReports.WithLabelValues(r.set.phase.of(phase), r.set.outcome.of(outcome)).Inc()
}

// Receipt adds up what jobs cost.
func (r *Registry) Receipt(receipt muster.Receipt) {
	r.cost.WithLabelValues(r.set.pool.of(receipt.Pool)).Add(float64(max(0, receipt.CostMicroUSD)))
}

// Waste counts a runner that never ran a job and adds up what such runners cost.
func (r *Registry) Waste(w muster.Waste) {
	pool := r.set.pool.of(w.Pool)
	r.waste.WithLabelValues(pool).Inc()
	r.wasteCost.WithLabelValues(pool).Add(float64(max(0, w.CostMicroUSD)))
}

// Finding counts what the sweep found.
func (r *Registry) Finding(f muster.Finding) {
	r.findings.WithLabelValues(r.set.kind.of(f.Kind)).Inc()
}

func seconds(d time.Duration) float64 { return max(0, d).Seconds() }
