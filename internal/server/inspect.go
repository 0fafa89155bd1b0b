package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
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

// access tells the API what stands on GitHub's side between a pool and a job. It
// is safe for concurrent use.
type access struct {
	store  *store.Store
	apps   map[string]*github.Client
	checks *appChecks
	// listeners are by pool.
	listeners map[string]*ingress.ScaleSetListener

	mu     sync.Mutex
	groups map[groupQuestion]groupAnswer
}

type groupQuestion struct {
	app        string
	scope      muster.Scope
	group      int64
	repository string
	public     bool
}

type groupAnswer struct {
	problem string
	until   time.Time
}

// An answer about a runner group is good for groupTTL, also that none came; GitHub
// has groupTimeout to give it.
const (
	groupTTL     = 5 * time.Minute
	groupTimeout = 3 * time.Second
)

// AppProblem is what the App's checks found, or that it is not installed any more.
func (a *access) AppProblem(ctx context.Context, app, owner string) string {
	if problems := a.checks.of(app); len(problems) > 0 {
		return strings.Join(problems, "; ")
	}
	installed, err := a.store.Installations(ctx, workspace)
	if err != nil {
		return "" // not known
	}
	gone := false
	for _, in := range installed {
		if in.App != app || !strings.EqualFold(in.Account, owner) {
			continue
		}
		if in.State != "deleted" {
			return ""
		}
		gone = true
	}
	if gone {
		return "App " + app + " is not installed at " + owner + " any more: install it there from its page on GitHub"
	}
	return ""
}

// ScaleSetProblem is what keeps the pool's listener from hearing of jobs.
func (a *access) ScaleSetProblem(p muster.Pool) string {
	l := a.listeners[p.Name]
	if l == nil {
		return ""
	}
	status := l.Status()
	since := status.Since.UTC().Format("2006-01-02 15:04:05Z")
	switch status.State {
	case muster.ScaleSetWaiting:
		return "another session of it is open since " + since + " or longer: " + status.Error + ". GitHub ends that of a process that died within about a minute; else another control plane holds it"
	case muster.ScaleSetFailing:
		return "that fails since " + since + ": " + status.Error
	}
	return ""
}

// GroupProblem asks GitHub about a runner group, at most once per groupTTL.
func (a *access) GroupProblem(ctx context.Context, p muster.Pool, j muster.Job) string {
	c, ok := a.apps[p.App]
	if !ok {
		return ""
	}
	q := groupQuestion{p.App, p.Scope, p.RunnerGroup, j.Repository, j.PublicRepo}
	now := time.Now()
	a.mu.Lock()
	known, ok := a.groups[q]
	a.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.problem
	}
	ctx, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	problem, err := c.GroupProblem(ctx, p.Scope, p.RunnerGroup, j.Repository, j.PublicRepo)
	if err != nil {
		problem = "" // not known
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for old, answer := range a.groups {
		if now.After(answer.until) {
			delete(a.groups, old)
		}
	}
	a.groups[q] = groupAnswer{problem, now.Add(groupTTL)}
	return problem
}
