package server

import (
	"context"
	"io"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/store"
)

// jobLogs fetches a job's log from GitHub through the App that the job came by.
type jobLogs struct {
	store *store.Store
	apps  map[string]*github.Client
}

func (l jobLogs) JobLog(ctx context.Context, app, repository string, id int64) (io.ReadCloser, error) {
	c, ok := l.apps[app]
	if !ok {
		return nil, muster.Errorf(muster.CodeNotFound, "app %q is not configured any more", app)
	}
	return c.JobLog(ctx, repository, id)
}

// webLogs is jobLogs for the dashboard, which does not know a job's App.
type webLogs struct{ jobLogs }

func (l webLogs) JobLog(ctx context.Context, repository string, id int64) (io.ReadCloser, error) {
	j, err := l.store.JobByID(ctx, workspace, id)
	if err != nil {
		return nil, err
	}
	return l.jobLogs.JobLog(ctx, j.App, repository, id)
}

// apiStore is the store with the API's own filters.
type apiStore struct{ *store.Store }

func (s apiStore) Runners(ctx context.Context, workspace string, f api.RunnerFilter) ([]muster.Runner, error) {
	return s.Store.Runners(ctx, workspace, store.RunnerFilter{States: f.States, Pool: f.Pool, Live: f.Live, Limit: f.Limit})
}

func (s apiStore) Jobs(ctx context.Context, workspace string, f api.JobFilter) ([]muster.Job, error) {
	return s.Store.Jobs(ctx, workspace, store.JobFilter{
		States: f.States, Pool: f.Pool, Repository: f.Repository, RunID: f.RunID, Since: f.Since, BeforeID: f.BeforeID, Limit: f.Limit,
	})
}

func (s apiStore) Receipts(ctx context.Context, workspace string, f api.UsageFilter) ([]muster.Receipt, error) {
	return s.Store.Receipts(ctx, workspace, store.UsageFilter(f))
}

func (s apiStore) Wastes(ctx context.Context, workspace string, f api.UsageFilter) ([]muster.Waste, error) {
	return s.Store.Wastes(ctx, workspace, store.UsageFilter(f))
}

func (s apiStore) UsageSummary(ctx context.Context, workspace string, f api.UsageFilter, by string) ([]api.UsageRow, error) {
	rows, err := s.Store.UsageSummary(ctx, workspace, store.UsageFilter(f), by)
	out := make([]api.UsageRow, len(rows))
	for i, r := range rows {
		out[i] = api.UsageRow(r)
	}
	return out, err
}

func (s apiStore) Deliveries(ctx context.Context, f api.DeliveryFilter) ([]muster.Delivery, error) {
	return s.Store.Deliveries(ctx, store.DeliveryFilter(f))
}

// monitor tells the API how the control plane as a whole is doing.
type monitor struct {
	store  *store.Store
	apps   map[string]*github.Client
	checks *appChecks
}

func (m monitor) Health(ctx context.Context, _ string) (h api.Health, err error) {
	if h.Since, err = countedSince(ctx, m.store, time.Now()); err != nil {
		return h, err
	}
	h.Problems = m.checks.Problems()
	h.JobsLost, h.MachinesLeaked, h.BusyKilled, err = promise(ctx, m.store, h.Since)
	for _, b := range budgets(m.apps) {
		h.Budgets = append(h.Budgets, apiBudget(b))
	}
	return h, err
}

// promise counts the three zeros since a time, from the books: jobs that GitHub
// gave up because nobody took them for a day, what the sweep had to clean up, and
// runners that were ended while they ran a job.
func promise(ctx context.Context, s *store.Store, since time.Time) (lost, leaked, killed int, err error) {
	findings, err := s.Findings(ctx, workspace, 1000)
	if err != nil {
		return 0, 0, 0, err
	}
	counted := map[[2]string]bool{} // a crash can write a finding twice
	for _, f := range findings {
		key := [2]string{f.Kind, f.Subject}
		if f.At.Before(since) || counted[key] {
			continue
		}
		counted[key] = true
		switch f.Kind {
		case "leaked_instance":
			leaked++
		case "busy_killed":
			killed++
		case "job_expired":
			lost++
		}
	}
	return lost, leaked, killed, nil
}
