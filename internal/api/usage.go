package api

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/usage"
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
	_, l, _ := usage.Latency(rs, "pool") // a grouping that there is
	return &v1.RunnerMetrics{
		Pool: pool, Jobs: int32(l.Jobs), NeverRan: int32(l.NeverRan), Succeeded: int32(l.Succeeded), Failed: int32(l.Failed), Cancelled: int32(l.Cancelled),
		FailureRate: l.FailureRate(), Queue: percentiles(l.Queue), Boot: percentiles(l.Boot), Run: percentiles(l.Run),
	}
}

func percentiles(s usage.Spread) *v1.Percentiles {
	if s.Count == 0 {
		return &v1.Percentiles{}
	}
	return &v1.Percentiles{Count: int32(s.Count), P50: span(s.P50), P90: span(s.P90)}
}

// maxFailures is how many failing jobs are told.
const maxFailures = 50

func (s books) GetLatency(ctx context.Context, req *v1.GetLatencyRequest) (*v1.GetLatencyResponse, error) {
	f, err := usageFilter(req.Filter, maxMetrics)
	if err != nil {
		return nil, err
	}
	by := cmp.Or(req.By, "workflow")
	if !slices.Contains(usage.Groupings, by) {
		return nil, muster.Errorf(muster.CodeInvalid, "latency by %q is unknown: use repository, workflow, job or pool", by)
	}
	receipts, err := s.Store.Receipts(ctx, workspaceOf(ctx), f)
	if err != nil {
		return nil, err
	}
	wastes, err := s.Store.Wastes(ctx, workspaceOf(ctx), f)
	if err != nil {
		return nil, err
	}
	rows, total, err := usage.Latency(receipts, by)
	if err != nil {
		return nil, err
	}
	failures := usage.Failures(receipts)
	return &v1.GetLatencyResponse{
		By: by, Rows: each(rows, latencyRowOf), Total: latencyRowOf(total), Failures: each(failures[:min(len(failures), maxFailures)], failureRowOf),
		Waste: each(usage.WasteReasons(wastes), func(w usage.Share) *v1.WasteReason {
			return &v1.WasteReason{Reason: w.Key, Runners: int32(w.Count), CostMicroUsd: w.CostMicroUSD}
		}),
	}, nil
}

func (s books) ListCostBudgets(ctx context.Context, _ *v1.ListCostBudgetsRequest) (*v1.ListCostBudgetsResponse, error) {
	month := monthOf(s.Now())
	resp := &v1.ListCostBudgetsResponse{Month: stamp(month)}
	pools, err := s.Store.Pools(ctx, workspaceOf(ctx))
	if err != nil {
		return nil, err
	}
	for _, b := range s.CostBudgets {
		spent, err := s.Store.SpentSince(ctx, workspaceOf(ctx), b.Project, month)
		if err != nil {
			return nil, err
		}
		out := &v1.CostBudget{
			Project: b.Project, MonthMicroUsd: b.MonthMicroUSD, SpentMicroUsd: spent, State: cmp.Or(string(b.Spend(spent).State), "fine"),
			WarnPercent: int32(b.WarnPercent), LowerPercent: int32(b.LowerPercent), StopPercent: int32(b.StopPercent),
		}
		for _, p := range pools {
			if p.Project == b.Project {
				out.Pools = append(out.Pools, p.Name)
			}
		}
		resp.Budgets = append(resp.Budgets, out)
	}
	return resp, nil
}
