package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Budget is what is known of one rate limit of GitHub, that of an installation,
// an App or a token.
type Budget struct {
	App     string
	Account string
	// Limit is 0 when GitHub named none.
	Limit, Remaining int
	// PointsThisMinute count against the secondary limit.
	PointsThisMinute int
	// Stretch is the factor by which polls are spaced out, 0 when they are off.
	Stretch int
	// Forecast is when the limit will be used up; zero when it lasts.
	Forecast time.Time
	// PausedUntil is set while GitHub wants no calls.
	PausedUntil time.Time
	Lanes       []BudgetLane
	// Registrations are those of the last five minutes at the busiest scope.
	Registrations int
}

// BudgetLane is what became of the calls of one urgency.
type BudgetLane struct {
	Lane                     string
	Calls, Unchanged, Parked int64
	Waiting                  int
}

// CountBudgets makes the metrics of GitHub's rate limits from what list returns at
// every scrape. It is called once, before Handler serves.
func (r *Registry) CountBudgets(list func() []Budget) {
	c := &budgetCollector{list: list, set: &r.set}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc("muster_github_"+name, help, append([]string{"account", "app"}, labels...), nil)
		c.all = append(c.all, d)
		return d
	}
	c.limit = desc("budget_limit", "GitHub's hourly rate limit of an installation; absent while GitHub has named none.")
	c.remaining = desc("budget_remaining", "What is left of the hourly rate limit.")
	c.points = desc("budget_points", "Points of the last minute against the secondary limit, over all routes.")
	c.stretch = desc("budget_stretch", "The factor by which polls are spaced out; 0 when they are off.")
	c.forecast = desc("budget_forecast_seconds", "Time until the rate limit is used up at the pace of the last ten minutes; absent when it lasts until the reset.")
	c.paused = desc("budget_paused_seconds", "For how long GitHub wants no calls.")
	c.registrations = desc("registrations", "Runners registered in the last five minutes at the busiest scope, of 1,500.")
	c.calls = desc("lane_calls_total", "Requests to GitHub by urgency.", "lane")
	c.unchanged = desc("lane_unchanged_total", "Requests that GitHub answered with not modified and did not count.", "lane")
	c.parked = desc("lane_parked_total", "Requests that were not made, to leave room for urgent ones or because GitHub wanted none.", "lane")
	c.waiting = desc("lane_waiting", "Requests that wait for their turn.", "lane")
	r.all.MustRegister(c)
}

type budgetCollector struct {
	list func() []Budget
	set  *labelSet
	all  []*prometheus.Desc

	limit, remaining, points, stretch, forecast, paused, registrations *prometheus.Desc
	calls, unchanged, parked, waiting                                  *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *budgetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *budgetCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	seen := map[[2]string]bool{}
	for _, b := range c.list() {
		key := [2]string{c.set.account.of(b.Account), c.set.app.of(b.App)}
		if seen[key] {
			continue // too many accounts for a label; Prometheus refuses the same one twice
		}
		seen[key] = true
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, kind, value, append(key[:], labels...)...)
		}
		if b.Limit > 0 {
			send(c.limit, prometheus.GaugeValue, float64(b.Limit))
			send(c.remaining, prometheus.GaugeValue, float64(b.Remaining))
		}
		send(c.points, prometheus.GaugeValue, float64(b.PointsThisMinute))
		send(c.stretch, prometheus.GaugeValue, float64(b.Stretch))
		if !b.Forecast.IsZero() {
			send(c.forecast, prometheus.GaugeValue, seconds(b.Forecast.Sub(now)))
		}
		paused := time.Duration(0)
		if !b.PausedUntil.IsZero() {
			paused = b.PausedUntil.Sub(now)
		}
		send(c.paused, prometheus.GaugeValue, seconds(paused))
		send(c.registrations, prometheus.GaugeValue, float64(b.Registrations))
		for _, l := range b.Lanes {
			lane := c.set.lane.of(l.Lane)
			send(c.calls, prometheus.CounterValue, float64(l.Calls), lane)
			send(c.unchanged, prometheus.CounterValue, float64(l.Unchanged), lane)
			send(c.parked, prometheus.CounterValue, float64(l.Parked), lane)
			send(c.waiting, prometheus.GaugeValue, float64(l.Waiting), lane)
		}
	}
}
