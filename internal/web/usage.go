package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// periods that the usage page offers, in days.
var periods = []choice{{"1d", "24 hours"}, {"7d", "7 days"}, {"30d", "30 days"}, {"90d", "90 days"}}

var periodDays = map[string]int{"1d": 1, "7d": 7, "30d": 30, "90d": 90}

// groupings that the usage page offers.
var groupings = []choice{{"workflow", "Workflow"}, {"repository", "Repository"}, {"pool", "Pool"}, {"day", "Day"}}

type choice struct{ Value, Label string }

type usageView struct {
	Period, By   string
	Pool, Repo   string
	Periods      []choice
	Groupings    []choice
	Pools        []PoolView
	Since, Until time.Time
	Rows         []usageRow
	Total        UsageRow
	Chart        chart
	Budgets      []budgetRow
}

// budgetRow is a project's budget as a bar.
type budgetRow struct {
	ProjectSpending
	// Percent is the share that is spent; Max the end of the bar, in percent.
	Percent, Max int
	Marks        []bar
	Fill         bar
}

// Word is how the project stands.
func (b budgetRow) Word() string { return cmp.Or(string(b.Spending.State), "fine") }

// Title says the bar in words.
func (b budgetRow) Title() string {
	return fmt.Sprintf("%s of %s spent, %d %%", formatMoney(b.Spending.SpentMicroUSD), formatMoney(b.MonthMicroUSD), b.Percent)
}

func budgetRows(all []ProjectSpending) []budgetRow {
	var out []budgetRow
	for _, p := range all {
		r := budgetRow{ProjectSpending: p, Max: max(100, p.WarnPercent, p.LowerPercent, p.StopPercent)}
		if p.MonthMicroUSD > 0 {
			r.Percent = int(float64(p.Spending.SpentMicroUSD) / float64(p.MonthMicroUSD) * 100)
		}
		r.Max = max(r.Max, min(r.Percent, 200))
		class := "c-done"
		switch p.Spending.State {
		case muster.SpendingWarned, muster.SpendingLowered:
			class = "c-waste"
		case muster.SpendingStopped:
			class = "c-failed"
		}
		r.Fill = bar{Class: class, W: barWidth * min(r.Percent, r.Max) / r.Max}
		for _, percent := range []int{p.WarnPercent, p.LowerPercent, p.StopPercent} {
			if percent > 0 && percent <= r.Max {
				r.Marks = append(r.Marks, bar{X: min(barWidth*percent/r.Max, barWidth-3)})
			}
		}
		out = append(out, r)
	}
	return out
}

// usageRow is a row with a bar of its outcomes and its part in the whole cost.
type usageRow struct {
	UsageRow
	Bars []bar
	Link string
	Part string
}

// PeriodLink is the address of the same table over another period.
func (v usageView) PeriodLink(period string) string { return v.link(period, v.By) }

// ByLink is the address of the same period in another grouping.
func (v usageView) ByLink(by string) string { return v.link(v.Period, by) }

func (v usageView) link(period, by string) string {
	q := url.Values{"period": {period}, "by": {by}}
	if v.Pool != "" {
		q.Set("pool", v.Pool)
	}
	if v.Repo != "" {
		q.Set("repository", v.Repo)
	}
	return address("/usage", q)
}

func (s *site) usage(w http.ResponseWriter, r *http.Request) error {
	ctx, q := r.Context(), r.URL.Query()
	v := usageView{
		Period: cmp.Or(q.Get("period"), "7d"), By: cmp.Or(q.Get("by"), "workflow"), Pool: text(q, "pool"), Repo: text(q, "repository"),
		Periods: periods, Groupings: groupings, Until: s.Now(),
	}
	days, ok := periodDays[v.Period]
	if !ok {
		return muster.Errorf(muster.CodeInvalid, "there is no period %q: use 1d, 7d, 30d or 90d", v.Period)
	}
	if !slices.ContainsFunc(groupings, func(c choice) bool { return c.Value == v.By }) {
		return muster.Errorf(muster.CodeInvalid, "usage cannot be grouped by %q: use workflow, repository, pool or day", v.By)
	}
	v.Since = v.Until.Add(-time.Duration(days) * 24 * time.Hour)
	if days > 1 { // whole days, so that bars can be compared
		v.Since = v.Until.UTC().Truncate(24*time.Hour).AddDate(0, 0, 1-days)
	}
	var err error
	if v.Pools, err = s.Reads.Pools(ctx); err != nil {
		return err
	}
	query := UsageQuery{Since: v.Since, Until: v.Until, Pool: v.Pool, Repository: v.Repo}
	byDay, err := s.Reads.Usage(ctx, query, "day")
	if err != nil {
		return err
	}
	v.Chart = costChart(byDay, v.Since, v.Until)
	rows := byDay
	if v.By != "day" {
		if rows, err = s.Reads.Usage(ctx, query, v.By); err != nil {
			return err
		}
	}
	spendings, err := s.Reads.Spendings(ctx)
	if err != nil {
		return err
	}
	v.Budgets = budgetRows(spendings)
	v.Total = totalOf(rows)
	v.Rows = usageRows(rows, v.By, v.Total)
	return s.show(w, r, "usage", page{Title: "Usage", Section: "usage", Body: v})
}

// totalOf sums what can be summed; percentiles cannot.
func totalOf(rows []UsageRow) UsageRow {
	var t UsageRow
	for _, r := range rows {
		t.Jobs += r.Jobs
		t.Succeeded += r.Succeeded
		t.Failed += r.Failed
		t.Cancelled += r.Cancelled
		t.NeverRan += r.NeverRan
		t.Run += r.Run
		t.Billed += r.Billed
		t.CostMicroUSD += r.CostMicroUSD
		t.WasteMicroUSD += r.WasteMicroUSD
		t.Wasted += r.Wasted
	}
	return t
}

// usageRows orders rows: days from the latest, anything else by cost.
func usageRows(rows []UsageRow, by string, total UsageRow) []usageRow {
	slices.SortStableFunc(rows, func(a, b UsageRow) int {
		if by == "day" {
			return cmp.Compare(b.Key, a.Key)
		}
		return cmp.Or(cmp.Compare(b.CostMicroUSD+b.WasteMicroUSD, a.CostMicroUSD+a.WasteMicroUSD), cmp.Compare(b.Jobs, a.Jobs), cmp.Compare(a.Key, b.Key))
	})
	out := make([]usageRow, len(rows))
	for i, r := range rows {
		out[i] = usageRow{UsageRow: r, Bars: outcomeBars(r), Part: formatPercent(float64(r.CostMicroUSD+r.WasteMicroUSD), float64(total.CostMicroUSD+total.WasteMicroUSD))}
		switch by {
		case "pool":
			out[i].Link = "/pools/" + url.PathEscape(r.Key)
		case "repository":
			out[i].Link = address("/jobs", url.Values{"repository": {r.Key}})
		case "workflow":
			out[i].Link = address("/jobs", url.Values{"q": {r.Key}})
		}
	}
	return out
}

func outcomeBars(r UsageRow) []bar {
	var out []bar
	x := 0
	for _, p := range []struct {
		class string
		n     int
	}{{"o-ok", r.Succeeded}, {"o-bad", r.Failed}, {"o-cancelled", r.Cancelled}, {"o-never", r.NeverRan}} {
		if p.n == 0 || r.Jobs == 0 {
			continue
		}
		w := max(8, barWidth*p.n/r.Jobs)
		out = append(out, bar{Class: p.class, X: x, W: w})
		x += w
	}
	return out
}
