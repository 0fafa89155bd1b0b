package server

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/schedule"
	"github.com/muster-ci/muster/internal/store"
)

// openSenses makes a poller for each App and a listener for each pool that has a
// scale set.
func (s *Server) openSenses() {
	s.pollers, s.listeners = map[string]*ingress.Poller{}, map[string]*ingress.ScaleSetListener{}
	for _, a := range s.cfg.Apps {
		c := ingress.PollerConfig{
			App: a.Name, GitHub: s.apps[a.Name], Pools: s.pools, Sink: s.client, Books: books{s.store, a.Name},
			TrackUnmatched: s.cfg.TrackUnmatched, Every: s.cfg.Times.Poll, Inbox: s.store, Observer: s.registry, Logger: s.logger,
		}
		if hears(a) {
			// Webhooks tell within seconds and redelivery within minutes; polling repairs
			// what both lost, and need not cost two calls per repository and minute.
			c.Every, c.Grace = heardPolls*c.Every, (heardPolls-2)*c.Every
			c.Again = 2 * c.Every
		}
		s.pollers[a.Name] = ingress.NewPoller(c)
	}
	for _, p := range s.cfg.Pools {
		gh := s.apps[p.App]
		if p.ScaleSet == "" || gh == nil {
			continue
		}
		s.listeners[p.Name] = ingress.NewScaleSetListener(ingress.ScaleSetListenerConfig{
			Workspace: workspace, Pool: p.Name, Owner: s.cfg.Name, GitHub: gh, Ledger: s.store, Sink: s.client, Wake: s.client.NudgePool, Logger: s.logger,
			Settings: func(ctx context.Context) (muster.Pool, error) { return s.poolNow(ctx, p.Name) },
			Open: func(ctx context.Context, scope muster.Scope, set, owner string) (ingress.ScaleSetSession, error) {
				session, err := gh.OpenScaleSetSession(ctx, scope, set, owner)
				if err != nil {
					return nil, err // not a session that is nil
				}
				return session, nil
			},
		})
	}
}

// poolNow is a pool with the limits that its schedules set at this moment, which
// is what a scale set may announce.
func (s *Server) poolNow(ctx context.Context, name string) (muster.Pool, error) {
	p, err := s.store.Pool(ctx, workspace, name)
	if err != nil {
		return p, err
	}
	now := time.Now()
	windows, err := schedule.Windows(p.Schedules, now)
	if err != nil {
		return p, err
	}
	p.Scaling = muster.Snapshot{Windows: windows}.Limits(p.Scaling, now)
	return p, nil
}

func (s *Server) pools(ctx context.Context) ([]muster.Pool, error) {
	return s.store.Pools(ctx, workspace)
}

// hears reports whether GitHub's webhooks reach us for an App: a token has none.
func hears(a config.App) bool { return a.WebhookSecret != "" && a.Token == "" }

// heardPolls is by how much seldomer an App with a webhook is polled.
const heardPolls = 5

// staleAfter is the age at which the last look at a queue says nothing any more.
// It is longer than what the budget stretches polls to.
const staleAfter = 10 * time.Minute

// demandKnown says whether a pool's queue is known: by webhooks always, by
// polling or a scale set alone only while they work (4-27, S1-113).
func (s *Server) demandKnown(ctx context.Context, p muster.Pool, now time.Time) bool {
	for _, a := range s.cfg.Apps {
		if a.Name == p.App && hears(a) {
			return true
		}
	}
	if s.listeners[p.Name] != nil {
		// The books and not our own listener: another control plane may hold the session.
		report, err := s.store.ScaleSet(ctx, workspace, p.Name)
		return err == nil && now.Sub(report.At) < staleAfter
	}
	poller := s.pollers[p.App]
	if poller == nil {
		return true
	}
	at, _ := poller.Fresh(p.Scope) // what was wrong with the last look does not make the one before wrong
	return now.Sub(at) < max(staleAfter, 6*s.cfg.Times.Poll)
}

// books is what the Poller of one App asks of the store.
type books struct {
	store *store.Store
	app   string
}

func (b books) JobsOfRun(ctx context.Context, repository string, run int64) ([]muster.Job, error) {
	return b.store.JobsOfRun(ctx, workspace, repository, run)
}

func (b books) StaleJobs(ctx context.Context, before time.Time, limit int) ([]muster.Job, error) {
	return b.store.StaleJobs(ctx, workspace, b.app, before, limit)
}

func (b books) OpenJobs(ctx context.Context, repository string) ([]muster.Job, error) {
	return b.store.OpenJobs(ctx, workspace, b.app, repository)
}

func (b books) Unnamed(ctx context.Context, from, to time.Time) ([]muster.Runner, error) {
	return b.store.UnnamedRunners(ctx, workspace, from, to, maxUnnamed)
}

// oldestOpen says since when the job is queued that is open for longest.
func (s *Server) oldestOpen(ctx context.Context) (time.Time, error) {
	return s.store.OldestOpen(ctx, workspace)
}

// endPatience is how long a lost completed is left to agents and polls. It is longer than
// AfterRunner with a few failures.
const endPatience = 3 * time.Minute

// endsTold is how long the end of jobs may be left to agents and polls: a kept machine is
// stopped for the completed event, and one that GARM's scripts made has no agent.
func endsTold(cfg config.Config) time.Duration {
	garm := map[string]bool{}
	for _, p := range cfg.Providers {
		garm[p.Name] = p.Kind == "garm"
	}
	for _, p := range cfg.Pools {
		if p.Keeps() || garm[p.Provider] {
			return 0
		}
	}
	return endPatience
}

// busyUnnamed says since when the runner that has been busy longest runs a job that
// no event has named, zero if there is none. One whose agent said of which run its job
// is has no need of an event: the poll asks about that run.
func (s *Server) busyUnnamed(ctx context.Context) (time.Time, error) {
	now := time.Now()
	runners, err := s.store.UnnamedRunners(ctx, workspace, now.Add(-muster.DefaultMaxAge), now, maxUnnamed)
	if err != nil {
		return time.Time{}, err
	}
	for _, r := range runners { // those that took their job first first
		if r.State.Live() && r.FinishedAt.IsZero() && !r.ActiveAt.IsZero() && r.RunHint.Run == 0 {
			return r.ActiveAt, nil
		}
	}
	if len(runners) == maxUnnamed {
		return runners[maxUnnamed-1].ActiveAt, nil // there may be more
	}
	return time.Time{}, nil
}

// maxUnnamed bounds for how many runners a job is looked for at a time, of all Apps.
const maxUnnamed = 500
