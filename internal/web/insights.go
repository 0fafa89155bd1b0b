package web

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

// insightGroupings are what the insights page offers.
var insightGroupings = []choice{{"workflow", "Workflow"}, {"repository", "Repository"}, {"job", "Job"}, {"pool", "Pool"}}

const (
	// maxInsights bounds the receipts and wastes that percentiles are made of.
	maxInsights = 200_000
	// maxInsightRows is how many lines the table of latencies has, maxInsightSide
	// those beside it.
	maxInsightRows = 50
	maxInsightSide = 12
	// insightsTTL bounds how often a period is reckoned anew: it reads all of it.
	insightsTTL = 15 * time.Second
)

type insightsView struct {
	Period, By string
	Periods    []choice
	Groupings  []choice
	insights
	Rows     []insightRow
	MoreRows int
	Grace    time.Duration
}

// insights are the numbers of one period, whatever they are grouped by.
type insights struct {
	rows     map[string][]usage.LatencyRow // by grouping, the first of them
	more     map[string]int                // by grouping, how many there are besides
	Total    usage.LatencyRow
	Failures []usage.FailureRow
	Waste    []usage.Share
	Senses   []usage.SenseWeek
}

// insightRow is a line with its link.
type insightRow struct {
	usage.LatencyRow
	Link string
}

// PeriodLink is the address of the same page over another period.
func (v insightsView) PeriodLink(period string) string { return v.link(period, v.By) }

// ByLink is the address of the same period in another grouping.
func (v insightsView) ByLink(by string) string { return v.link(v.Period, by) }

func (v insightsView) link(period, by string) string {
	return address("/insights", url.Values{"period": {period}, "by": {by}})
}

func (s *site) insights(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := insightsView{Period: cmp.Or(q.Get("period"), "7d"), By: cmp.Or(q.Get("by"), "workflow"), Periods: periods, Groupings: insightGroupings, Grace: usage.DefaultSenseGrace}
	days, ok := periodDays[v.Period]
	if !ok {
		return muster.Errorf(muster.CodeInvalid, "there is no period %q: use 1d, 7d, 30d or 90d", v.Period)
	}
	if !slices.Contains(usage.Groupings, v.By) {
		return muster.Errorf(muster.CodeInvalid, "insights cannot be grouped by %q: use workflow, repository, job or pool", v.By)
	}
	now := s.Now()
	var err error
	v.insights, err = s.insight[v.Period].get(now, insightsTTL, func() (insights, error) {
		since := now.Add(-time.Duration(days) * 24 * time.Hour)
		receipts, err := s.Reads.Receipts(r.Context(), since, now, maxInsights)
		if err != nil {
			return insights{}, err
		}
		wastes, err := s.Reads.Wastes(r.Context(), since, now, maxInsights)
		if err != nil {
			return insights{}, err
		}
		sensed, err := s.Reads.Sensed(r.Context(), since, now)
		if err != nil {
			return insights{}, err
		}
		failures, waste := usage.Failures(receipts), usage.WasteReasons(wastes)
		in := insights{
			rows: map[string][]usage.LatencyRow{}, more: map[string]int{},
			Failures: failures[:min(len(failures), maxInsightSide)], Waste: waste[:min(len(waste), maxInsightSide)], Senses: usage.Senses(sensed, 0, now),
		}
		for _, by := range usage.Groupings {
			rows, total, err := usage.Latency(receipts, by)
			if err != nil {
				return in, err
			}
			in.Total = total
			in.rows[by], in.more[by] = rows[:min(len(rows), maxInsightRows)], max(0, len(rows)-maxInsightRows)
		}
		return in, nil
	})
	if err != nil {
		return err
	}
	v.MoreRows = v.more[v.By]
	for _, row := range v.rows[v.By] {
		v.Rows = append(v.Rows, insightRow{row, insightLink(v.By, row.Key)})
	}
	return s.show(w, r, "insights", page{Title: "Insights", Section: "insights", Body: v})
}

// insightLink is where the jobs behind a line are.
func insightLink(by, key string) string {
	switch by {
	case "pool":
		return "/pools/" + url.PathEscape(key)
	case "repository":
		return address("/jobs", url.Values{"repository": {key}})
	}
	parts := strings.SplitN(key, " / ", 3)
	q := url.Values{"repository": {parts[0]}}
	if last := parts[len(parts)-1]; last != parts[0] {
		q.Set("q", last)
	}
	return address("/jobs", q)
}
