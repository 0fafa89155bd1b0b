package api

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type books struct{ *API }

func usageFilter(f *v1.UsageFilter, limit int) (UsageFilter, error) {
	out := UsageFilter{Since: when(f.GetSince()), Until: when(f.GetUntil()), Pool: f.GetPool(), Repository: f.GetRepository(), Limit: limit}
	if !out.Until.IsZero() && !out.Since.Before(out.Until) {
		return out, muster.Errorf(muster.CodeInvalid, "until must be later than since")
	}
	return out, nil
}

func (s books) GetSummary(ctx context.Context, req *v1.GetSummaryRequest) (*v1.GetSummaryResponse, error) {
	f, err := usageFilter(req.Filter, 0)
	if err != nil {
		return nil, err
	}
	by := cmp.Or(req.By, "workflow")
	if !slices.Contains([]string{"workflow", "repository", "pool", "day"}, by) {
		return nil, muster.Errorf(muster.CodeInvalid, "usage by %q is unknown: use workflow, repository, pool or day", by)
	}
	rows, err := s.Store.UsageSummary(ctx, workspaceOf(ctx), f, by)
	return &v1.GetSummaryResponse{Rows: each(rows, usageRowOf), By: by}, err
}

func (s books) ListReceipts(ctx context.Context, req *v1.ListReceiptsRequest) (*v1.ListReceiptsResponse, error) {
	limit, err := pageSize(req.Filter.GetLimit(), 100, 1000)
	if err != nil {
		return nil, err
	}
	f, err := usageFilter(req.Filter, limit)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Receipts(ctx, workspaceOf(ctx), f)
	return &v1.ListReceiptsResponse{Receipts: each(all, receiptOf)}, err
}

func (s books) ListWaste(ctx context.Context, req *v1.ListWasteRequest) (*v1.ListWasteResponse, error) {
	limit, err := pageSize(req.Filter.GetLimit(), 100, 1000)
	if err != nil {
		return nil, err
	}
	f, err := usageFilter(req.Filter, limit)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Wastes(ctx, workspaceOf(ctx), f)
	return &v1.ListWasteResponse{Wastes: each(all, wasteOf)}, err
}

// maxMetrics is the most receipts that metrics are computed from: the latest of
// the window.
const maxMetrics = 200_000

func (s books) GetRunnerMetrics(ctx context.Context, req *v1.GetRunnerMetricsRequest) (*v1.GetRunnerMetricsResponse, error) {
	f, err := usageFilter(req.Filter, maxMetrics)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Receipts(ctx, workspaceOf(ctx), f)
	if err != nil {
		return nil, err
	}
	byPool := map[string][]muster.Receipt{}
	for _, r := range all {
		byPool[r.Pool] = append(byPool[r.Pool], r)
	}
	resp := &v1.GetRunnerMetricsResponse{Total: metricsOf("", all)}
	for _, pool := range slices.Sorted(maps.Keys(byPool)) {
		resp.Pools = append(resp.Pools, metricsOf(pool, byPool[pool]))
	}
	return resp, nil
}

// metricsOf is S4-24. Jobs that never ran are a population of their own: they
// have no queue time to speak of and did not fail on a runner (4-49).
func metricsOf(pool string, rs []muster.Receipt) *v1.RunnerMetrics {
	m := &v1.RunnerMetrics{Pool: pool}
	var queue, boot, run []time.Duration
	for _, r := range rs {
		if r.Runner == "" && r.Run == 0 && r.Billed == 0 {
			m.NeverRan++
			continue
		}
		m.Jobs++
		switch r.Conclusion {
		case "success", "neutral", "skipped":
			m.Succeeded++
		case "cancelled":
			m.Cancelled++
		default:
			m.Failed++
		}
		queue, run = append(queue, r.Queue), append(run, r.Run)
		if r.Runner != "" { // a runner that is not ours tells nothing of how it booted
			boot = append(boot, r.Boot)
		}
	}
	if n := m.Succeeded + m.Failed; n > 0 {
		m.FailureRate = float64(m.Failed) / float64(n)
	}
	m.Queue, m.Boot, m.Run = percentiles(queue), percentiles(boot), percentiles(run)
	return m
}

// percentiles are by nearest rank: each is a value that occurred.
func percentiles(ds []time.Duration) *v1.Percentiles {
	if len(ds) == 0 {
		return &v1.Percentiles{}
	}
	slices.Sort(ds)
	at := func(percent int) time.Duration { return ds[max(0, (len(ds)*percent+99)/100-1)] }
	return &v1.Percentiles{Count: int32(len(ds)), P50: span(at(50)), P90: span(at(90))}
}
