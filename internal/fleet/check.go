package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// checks looks at the queue at once and then every interval (S1-108), until ctx
// ends. While GitHub cannot be asked, it looks less often (S1-113).
func (f *Fleet) checks(ctx, work context.Context) {
	failed := 0
	for ctx.Err() == nil {
		err := f.check(ctx, work)
		wait := f.times.Check * time.Duration(max(1, f.stretch()))
		if err != nil {
			// 1, 2, 4, then 5 times the interval.
			wait = max(min(wait<<min(failed, 3), 5*max(wait, f.times.Check)), retryAfter(err))
			failed++
		} else {
			failed = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-f.nudged:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// stretch is the largest that any scope's budget asks for. 0, not now, is left to
// the client: its refusal makes the demand unknown, and says until when.
func (f *Fleet) stretch() (most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.scopes() {
		most = max(most, f.cfg.Queue.Stretch(s))
	}
	return most
}

// check reads the fleets file and the queues, and takes one decision about each
// pool (S1-52, S1-109). The error is about queues that could not be read; their
// pools were decided as unknown (4-27).
func (f *Fleet) check(ctx, work context.Context) error {
	if err := f.reload(); err != nil {
		f.log.Error("fleets file not read; the last good one holds", "error", err)
	}
	f.mu.Lock()
	scopes := f.scopes()
	f.mu.Unlock()
	var group sync.WaitGroup
	errs := make([]error, len(scopes))
	for i, s := range scopes {
		group.Go(func() {
			errs[i] = f.asking.Do(ctx, func() error { return f.checkScope(ctx, work, s) })
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// checkScope asks one repository for its queue, once for all pools that register
// there.
func (f *Fleet) checkScope(ctx, work context.Context, scope muster.Scope) error {
	jobs, err := f.cfg.Queue.ActiveJobs(ctx, scope.String())
	if ctx.Err() != nil {
		return nil // told to end
	}
	now := time.Now()
	f.mu.Lock()
	var pools []*pool
	for _, p := range f.pools {
		if p.Scope == scope {
			pools = append(pools, p)
		}
	}
	if err != nil {
		f.log.Warn("queue not known: nothing is scaled", "scope", scope.String(), "error", err)
		for _, p := range pools {
			p.trouble = err.Error()
		}
	} else {
		f.count(pools, jobs, now)
	}
	f.mu.Unlock()
	for _, p := range pools {
		f.decide(ctx, work, p, now)
	}
	return err
}

// count gives every job to the pool that it is for, and learns which runners have
// one. The caller holds the lock.
func (f *Fleet) count(pools []*pool, jobs []muster.JobEvent, now time.Time) {
	var candidates []muster.Pool
	byName := map[string]*pool{}
	for _, p := range pools {
		p.checked, p.trouble, p.jobs = now, "", nil
		candidates = append(candidates, p.Pool)
		byName[p.Name] = p
	}
	for _, e := range jobs {
		if e.Status != muster.JobQueued && e.Status != muster.JobInProgress {
			continue
		}
		if p, ok := muster.Route(candidates, muster.Job{Repository: e.Repository, Labels: e.Labels}); ok {
			to := byName[p.Name]
			to.jobs = append(to.jobs, muster.PlanJob{ID: e.ID, Attempt: e.Attempt, State: e.Status, QueuedAt: e.CreatedAt, Repository: e.Repository})
		}
		for _, r := range f.runners {
			if e.Status == muster.JobInProgress && e.RunnerName != "" && e.RunnerName == r.Name && r.FinishedAt.IsZero() {
				r.Job = muster.JobKey{ID: e.ID, Attempt: e.Attempt}
				r.taken = true
				f.active(r, now)
			}
		}
	}
}

// active notes that a runner has a job; the caller holds the lock.
func (f *Fleet) active(r *runner, now time.Time) {
	if r.ActiveAt.IsZero() {
		r.ActiveAt = now
		r.note(now, "took a job")
	}
	if r.State == muster.RunnerProvisioning || r.State == muster.RunnerRegistered {
		_ = r.to(muster.RunnerActive) // legal from both
		f.change()
	}
}

// decide takes one decision about a pool, records it, and sets it in motion.
func (f *Fleet) decide(ctx, work context.Context, p *pool, now time.Time) {
	f.mu.Lock()
	snap := f.snapshot(p)
	f.mu.Unlock()
	d := f.cfg.Scale(snap, now)
	d = f.holdRotation(ctx, snap, d) // asks GitHub, so not under the lock

	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.leaving {
		return
	}
	var made []muster.Runner
	for i := range d.Create + d.Warm {
		made = append(made, f.make(work, p, d, i >= d.Create, now))
	}
	for _, id := range d.Drain {
		if r := f.runners[id]; r != nil && r.Drain == "" && !r.busy() {
			r.Drain = d.Rule + ": " + d.Reason
			r.note(now, "asked to drain: %s", r.Drain)
			r.look()
		}
	}
	if d.StartsCooldown() {
		p.lastScaling = now
		f.remember()
	}
	f.record(p, snap, d, made, now)
}

// snapshot is what a decision is taken from; the caller holds the lock.
func (f *Fleet) snapshot(p *pool) muster.Snapshot {
	s := muster.Snapshot{
		Pool: p.Pool, Jobs: slices.Clone(p.jobs), LastScaling: p.lastScaling, DemandUnknown: p.trouble != "" || p.checked.IsZero(),
		ProviderHeld: p.heldUntil, ProviderError: p.heldFor,
	}
	for _, r := range f.runners {
		if r.Pool == p.Name {
			s.Runners = append(s.Runners, r.plan())
		}
	}
	slices.SortFunc(s.Runners, func(a, b muster.PlanRunner) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return s
}

// holdRotation lets a rotation end the old runner only once GitHub lists the one
// that takes its place as online (S1-73).
func (f *Fleet) holdRotation(ctx context.Context, snap muster.Snapshot, d muster.Decision) muster.Decision {
	if d.Rule != muster.RuleRotation || len(d.Drain) == 0 {
		return d
	}
	var youngest muster.PlanRunner
	for _, r := range snap.Runners {
		if r.ID != d.Drain[0] && !r.IdleSince.IsZero() && r.CreatedAt.After(youngest.CreatedAt) {
			youngest = r
		}
	}
	if f.Healthy(ctx, youngest.ID) {
		return d
	}
	d.Action, d.Target = muster.Maintain, d.Current
	d.Reason = fmt.Sprintf("runner %s stays until GitHub lists %s, which is to take its place, as online", d.Drain[0], youngest.ID)
	d.Drain = nil
	return d
}

// remember saves when pools were last scaled; the caller holds the lock.
func (f *Fleet) remember() {
	if f.cfg.Memory == nil {
		return
	}
	last := map[string]time.Time{}
	for _, p := range f.pools {
		if !p.lastScaling.IsZero() {
			last[p.Name] = p.lastScaling
		}
	}
	if err := f.cfg.Memory.Save(last); err != nil {
		f.log.Warn("a restart would forget this cooldown", "error", err)
	}
}

// record keeps a decision for those who look. Equal ones in a row are one with a
// count. The caller holds the lock.
func (f *Fleet) record(p *pool, snap muster.Snapshot, d muster.Decision, made []muster.Runner, now time.Time) {
	if n := len(p.decisions); n > 0 && len(made)+len(d.Drain) == 0 {
		last := &p.decisions[n-1]
		if last.Decision.Action == d.Action && last.Decision.Rule == d.Rule && last.Decision.Reason == d.Reason && last.Decision.Target == d.Target && len(last.Runners)+len(last.Decision.Drain) == 0 {
			last.Decision, last.Snapshot, last.LastAt = d, snap, now
			last.Count++
			return
		}
	}
	f.decisions++
	p.decisions = append(p.decisions, muster.DecisionRecord{ID: f.decisions, Workspace: workspace, Pool: p.Name, At: now, Snapshot: snap, Decision: d, Runners: made, Count: 1, LastAt: now})
	p.decisions = p.decisions[max(0, len(p.decisions)-maxDecisions):]
	f.log.Info("pool decided", "pool", p.Name, "action", d.Action, "rule", d.Rule, "runners", fmt.Sprintf("%d → %d", d.Current, d.Target), "queued", d.Metrics.QueuedJobs, "reason", d.Reason)
}
