package server

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/web"
)

func (d *dashboard) Decision(ctx context.Context, id int64) (muster.DecisionRecord, error) {
	return d.store.Decision(ctx, workspace, id)
}

func (d *dashboard) Wastes(ctx context.Context, since, until time.Time, limit int) ([]muster.Waste, error) {
	return d.store.Wastes(ctx, workspace, store.UsageFilter{Since: since, Until: until, Limit: limit})
}

func (d *dashboard) Sensed(ctx context.Context, since, until time.Time) ([]muster.SensedJob, error) {
	return d.store.Sensed(ctx, workspace, since, until)
}

func (d *dashboard) Spendings(ctx context.Context) ([]web.ProjectSpending, error) {
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var out []web.ProjectSpending
	for _, b := range d.cfg.Budgets {
		spent, err := d.store.SpentSince(ctx, workspace, b.Project, month)
		if err != nil {
			return nil, err
		}
		out = append(out, web.ProjectSpending{CostBudget: b, Spending: b.Spend(spent)})
	}
	return out, nil
}

// lanes are the lanes of a budget, the most urgent first.
var lanes = []github.Lane{github.Critical, github.Normal, github.Background}

// apiBudget is a view of a budget for the API.
func apiBudget(b github.BudgetView) api.Budget {
	out := api.Budget{
		App: b.App, Account: b.Account, Limit: b.Limit, Remaining: b.Remaining, ResetAt: b.ResetAt, PerMinute: b.PerMinute, Forecast: b.Forecast,
		PausedUntil: b.PausedUntil, PollStretch: b.Stretch, PointsThisMinute: b.PointsThisMinute, RegistrationLimit: b.RegistrationLimit,
	}
	for _, n := range b.Registrations {
		out.Registrations = max(out.Registrations, n)
	}
	for _, l := range lanes {
		v := b.PerLane[l.String()]
		out.Lanes = append(out.Lanes, api.BudgetLane{Lane: l.String(), Calls: v.Calls, Unchanged: v.Unchanged, Parked: v.Parked, Waiting: v.Waiting})
	}
	return out
}

// webBudget is a view of a budget for the dashboard.
func webBudget(b github.BudgetView) web.Budget {
	out := web.Budget{
		App: b.App, Account: b.Account, Limit: b.Limit, Remaining: b.Remaining, ResetAt: b.ResetAt, PerMinute: b.PerMinute, Forecast: b.Forecast,
		PausedUntil: b.PausedUntil, PollStretch: b.Stretch,
	}
	for _, l := range lanes {
		v := b.PerLane[l.String()]
		out.Lanes = append(out.Lanes, web.BudgetLane{Lane: l.String(), Calls: v.Calls, Parked: v.Parked, Waiting: v.Waiting})
	}
	return out
}
