package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/inspect"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/web"
)

// workspace is the only one until tenants come.
const workspace = "default"

// promiseSpan is how far back the dashboard counts its three zeros.
const promiseSpan = 7 * 24 * time.Hour

// firstStart names the fact in the store that holds when it was first opened.
const firstStart = "first_start"

// noteFirstStart keeps when this installation began, once.
func noteFirstStart(ctx context.Context, st *store.Store, now time.Time) error {
	text, err := st.Watermark(ctx, firstStart)
	if err != nil || text != "" {
		return err
	}
	return st.SetWatermark(ctx, firstStart, now.UTC().Format(time.RFC3339))
}

// countedSince is promiseSpan ago, or when this installation began if that is later.
func countedSince(ctx context.Context, st *store.Store, now time.Time) (time.Time, error) {
	text, err := st.Watermark(ctx, firstStart)
	if err != nil {
		return time.Time{}, err
	}
	since := now.Add(-promiseSpan)
	if first, err := time.Parse(time.RFC3339, text); err == nil && first.After(since) {
		since = first
	}
	return since, nil
}

// dashboard answers the dashboard's questions from the store.
type dashboard struct {
	store     *store.Store
	client    *lifecycle.Client
	apps      map[string]*github.Client
	checks    *appChecks
	platforms platforms
	cfg       config.Config
	// situation gathers what muster.Explain looks at; routes sets it.
	situation func(context.Context, muster.Job) (muster.Situation, muster.DecisionRecord, error)
	// snapshot is what the next decision of a pool would be taken from; routes sets it.
	snapshot func(ctx context.Context, workspace, pool string) (muster.Snapshot, error)

	mu        sync.Mutex
	providers []muster.ProviderStatus // as the last probe found them

	counting sync.Mutex // held while the books are counted, so that one reader does it for all
	counted  web.Health
	countAt  time.Time
}

func (d *dashboard) JobCounts(ctx context.Context) (map[muster.JobState]int, error) {
	return d.store.JobCounts(ctx, workspace)
}

func (d *dashboard) Jobs(ctx context.Context, q web.JobQuery) ([]muster.Job, error) {
	return d.store.Jobs(ctx, workspace, store.JobFilter{
		States: q.States, Pool: q.Pool, Repository: q.Repository, RunID: q.RunID, Text: q.Text, BeforeID: q.Before, Limit: q.Limit,
	})
}

func (d *dashboard) Job(ctx context.Context, key muster.JobKey) (muster.Job, error) {
	if key.Attempt == 0 {
		return d.store.JobByID(ctx, workspace, key.ID)
	}
	return d.store.Job(ctx, workspace, key)
}

func (d *dashboard) Sightings(ctx context.Context, key muster.JobKey) ([]muster.Sighting, error) {
	return d.store.Sightings(ctx, workspace, key)
}

func (d *dashboard) Explain(ctx context.Context, key muster.JobKey) ([]muster.Cause, error) {
	j, err := d.store.Job(ctx, workspace, key)
	if err != nil {
		return nil, err
	}
	// What the API looks at, so that CLI and dashboard give one answer.
	sit, _, err := d.situation(ctx, j)
	if err != nil {
		return nil, err
	}
	return muster.Explain(sit, time.Now()), nil
}

func (d *dashboard) Runners(ctx context.Context, q web.RunnerQuery) ([]muster.Runner, error) {
	return d.store.Runners(ctx, workspace, store.RunnerFilter{IDs: q.IDs, States: q.States, Pool: q.Pool, Live: q.Live, Limit: q.Limit})
}

func (d *dashboard) Runner(ctx context.Context, id muster.RunnerID) (muster.Runner, error) {
	return d.store.Runner(ctx, workspace, id)
}

func (d *dashboard) RunnerEvents(ctx context.Context, id muster.RunnerID) ([]muster.RunnerEvent, error) {
	return d.store.RunnerEvents(ctx, workspace, id)
}

func (d *dashboard) RunnerLog(ctx context.Context, id muster.RunnerID) ([]byte, error) {
	return d.store.RunnerLog(ctx, workspace, id)
}

func (d *dashboard) Pools(ctx context.Context) ([]web.PoolView, error) {
	pools, err := d.store.Pools(ctx, workspace)
	if err != nil {
		return nil, err
	}
	offers, err := d.store.Offerings(ctx, workspace)
	if err != nil {
		return nil, err
	}
	views := make([]web.PoolView, 0, len(pools))
	for _, p := range pools {
		v := web.PoolView{Pool: p, Overridden: d.overridden(p)}
		if i := slices.IndexFunc(offers, func(o muster.Offering) bool { return o.Name == p.Offering }); i >= 0 {
			v.Offer = offers[i]
		}
		views = append(views, v)
	}
	return views, nil
}

// overridden reports whether an operator changed the pool over its configuration.
func (d *dashboard) overridden(p muster.Pool) bool {
	i := slices.IndexFunc(d.cfg.Pools, func(c muster.Pool) bool { return c.Name == p.Name })
	return i >= 0 && (d.cfg.Pools[i].Enabled != p.Enabled || d.cfg.Pools[i].Scaling != p.Scaling)
}

func (d *dashboard) PoolSnapshot(ctx context.Context, pool string) (muster.Snapshot, error) {
	return d.snapshot(ctx, workspace, pool)
}

func (d *dashboard) Machine(ctx context.Context, id muster.MachineID) (v web.MachineView, err error) {
	if v.Machine, err = d.store.Machine(ctx, workspace, id); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return v, err
	}
	v.ID = id
	v.Demand, err = d.store.MachineDemand(ctx, workspace, id)
	return v, err
}

func (d *dashboard) Decisions(ctx context.Context, pool string, limit int) ([]muster.DecisionRecord, error) {
	return d.store.Decisions(ctx, workspace, pool, limit)
}

func (d *dashboard) Deliveries(ctx context.Context, q web.DeliveryQuery) ([]muster.Delivery, error) {
	return d.store.Deliveries(ctx, store.DeliveryFilter{Event: q.Event, Outcome: q.Outcome, Before: q.Before, Limit: q.Limit})
}

func (d *dashboard) Delivery(ctx context.Context, guid string) (muster.Delivery, error) {
	return d.store.Delivery(ctx, guid)
}

func (d *dashboard) Receipt(ctx context.Context, key muster.JobKey) (muster.Receipt, error) {
	return d.store.Receipt(ctx, workspace, key)
}

func (d *dashboard) Receipts(ctx context.Context, since, until time.Time, limit int) ([]muster.Receipt, error) {
	return d.store.Receipts(ctx, workspace, store.UsageFilter{Since: since, Until: until, Limit: limit})
}

func (d *dashboard) Usage(ctx context.Context, q web.UsageQuery, by string) ([]web.UsageRow, error) {
	rows, err := d.store.UsageSummary(ctx, workspace, store.UsageFilter{Since: q.Since, Until: q.Until, Pool: q.Pool, Repository: q.Repository}, by)
	out := make([]web.UsageRow, len(rows))
	for i, r := range rows {
		out[i] = web.UsageRow(r)
	}
	return out, err
}

func (d *dashboard) Findings(ctx context.Context, limit int) ([]muster.Finding, error) {
	return d.store.Findings(ctx, workspace, limit)
}

func (d *dashboard) Health(ctx context.Context) (web.Health, error) {
	h, err := d.promised(ctx, time.Now())
	if err != nil {
		return h, err
	}
	h.Problems = d.checks.Problems()
	for _, b := range budgets(d.apps) {
		h.Budgets = append(h.Budgets, webBudget(b))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.providers {
		v := web.ProviderHealth{Name: p.Name, Kind: p.Kind, OK: p.State == muster.ProviderOK, Detail: p.Detail, CheckedAt: p.LookedAt}
		for _, n := range p.Instances {
			v.Instances += n
		}
		h.Providers = append(h.Providers, v)
	}
	return h, nil
}

// healthTTL is how long the counted books are shown before they are counted anew:
// the overview of every open browser asks for them at every change.
const healthTTL = 2 * time.Second

// promised counts the promise's numbers, at most once per healthTTL.
func (d *dashboard) promised(ctx context.Context, now time.Time) (web.Health, error) {
	d.counting.Lock()
	defer d.counting.Unlock()
	if !d.countAt.IsZero() && now.Sub(d.countAt) < healthTTL {
		return d.counted, nil
	}
	since, err := countedSince(ctx, d.store, now)
	h := web.Health{Since: since}
	if err != nil {
		return h, err
	}
	if h.JobsLost, h.RunnersLeaked, h.BusyKilled, err = promise(ctx, d.store, h.Since); err != nil {
		return h, err
	}
	rows, err := d.store.UsageSummary(ctx, workspace, store.UsageFilter{Since: h.Since}, "pool")
	if err != nil {
		return h, err
	}
	for _, r := range rows {
		h.Jobs += r.Jobs
	}
	d.counted, d.countAt = h, now
	return h, nil
}

// probeEvery is how often providers are asked how they are, for the dashboard.
const probeEvery = 15 * time.Second

// probe keeps the providers' health fresh until ctx ends, so that no page has to
// wait for a platform.
func (d *dashboard) probe(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		var all []muster.ProviderStatus
		for _, p := range d.cfg.Providers {
			one, err := d.platforms.one(ctx, workspace, p, probeEvery)
			if err != nil { // the books cannot be read
				one.State, one.Detail = muster.ProviderUnreachable, shown(err)
			}
			all = append(all, one)
		}
		d.mu.Lock()
		d.providers = all
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Providers are the providers as the last probe found them.
func (d *dashboard) Providers(context.Context) ([]muster.ProviderStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.providers), nil
}

// maxShown is the longest text of a provider that is shown, in characters.
const maxShown = 300

// shown is what may be shown of a provider's error: the message of ours, else the
// platform's own words as one short line without control characters.
func shown(err error) string {
	if e, ok := errors.AsType[*muster.Error](err); ok {
		return e.Message
	}
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if runes := []rune(text); len(runes) > maxShown {
		text = string(runes[:maxShown]) + "…"
	}
	return text
}

// commands is what operators may ask for through API and dashboard.
type commands struct {
	*lifecycle.Client
	store      *store.Store
	dispatcher *ingress.Dispatcher
}

// RedispatchDelivery has a stored delivery offered to the Sink once more.
func (c commands) RedispatchDelivery(ctx context.Context, guid string) error {
	if err := c.store.ReopenDelivery(ctx, guid); err != nil {
		return err
	}
	c.dispatcher.Nudge()
	return nil
}

// webCommands binds commands to the dashboard's workspace.
type webCommands struct {
	commands
	inspector *inspect.Inspector // nil where no traces are kept
}

func (c webCommands) DrainRunner(ctx context.Context, id muster.RunnerID, reason string) error {
	return c.Client.DrainRunner(ctx, workspace, id, reason)
}

func (c webCommands) SetPool(ctx context.Context, pool string, o muster.PoolOverride) error {
	return c.Client.SetPool(ctx, workspace, pool, o)
}

func (c webCommands) StartMachine(ctx context.Context, id muster.MachineID) (muster.MachineAnswer, error) {
	return c.Client.StartMachine(ctx, workspace, id)
}

func (c webCommands) StopMachine(ctx context.Context, id muster.MachineID) (muster.MachineAnswer, error) {
	return c.Client.StopMachine(ctx, workspace, id, 0)
}

func (c webCommands) NudgePool(ctx context.Context, pool string) error {
	return c.Client.NudgePool(ctx, workspace, pool)
}

func (c webCommands) CheckProvider(ctx context.Context, name string) error {
	_, _, err := c.Client.CheckProvider(ctx, workspace, name, "")
	return err
}
