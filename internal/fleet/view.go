package fleet

import (
	"cmp"
	"errors"
	"slices"

	"github.com/muster-ci/muster"
)

// The read side: what a status shows. Every method returns copies.

// Pools are the pools as they are in force, in the file's order.
func (f *Fleet) Pools() []muster.Pool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []muster.Pool
	for _, p := range f.pools {
		out = append(out, p.Pool)
	}
	return out
}

func noPool(name string) error {
	return muster.Errorf(muster.CodeNotFound, "there is no pool %q in the fleets file", name)
}

// Snapshot is what the next decision about a pool would be taken from.
func (f *Fleet) Snapshot(name string) (muster.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pool(name)
	if p == nil {
		return muster.Snapshot{}, noPool(name)
	}
	return f.snapshot(p), nil
}

// Decisions are a pool's last decisions, newest first.
func (f *Fleet) Decisions(name string, limit int) ([]muster.DecisionRecord, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pool(name)
	if p == nil {
		return nil, noPool(name)
	}
	out := slices.Clone(p.decisions)
	slices.Reverse(out)
	return out[:min(len(out), limit)], nil
}

// Runners are all runners that live, and the last of those that are destroyed,
// newest first.
func (f *Fleet) Runners() []muster.Runner {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.past)
	for _, r := range f.runners {
		row := r.Runner
		row.Busy = r.busy()
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b muster.Runner) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// History is the history and the last output of a runner that lives.
func (f *Fleet) History(id muster.RunnerID) (events []muster.RunnerEvent, log []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.runners[id]; r != nil {
		return slices.Clone(r.notes), slices.Clone(r.log)
	}
	return nil, nil
}

// Problems are what an operator has to put right, one sentence each.
func (f *Fleet) Problems() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem != "" {
		out = append(out, f.problem)
	}
	for _, p := range f.pools {
		if p.trouble != "" {
			out = append(out, "pool "+p.Name+": "+p.trouble)
		}
	}
	return out
}

// SetPool changes a pool until it is changed again or its entry in the file is,
// and decides anew at once.
func (f *Fleet) SetPool(name string, o muster.PoolOverride) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pool(name)
	if p == nil || p.Removed {
		return noPool(name)
	}
	merged := p.override
	set(&merged.Enabled, o.Enabled)
	set(&merged.Suspended, o.Suspended)
	set(&merged.MinRunners, o.MinRunners)
	set(&merged.MaxRunners, o.MaxRunners)
	if err := p.file.Override(merged).Scaling.Validate(); err != nil {
		return err
	}
	p.override = merged
	p.Pool = p.file.Override(merged)
	f.Nudge()
	return nil
}

func set[T any](old **T, now *T) {
	if now != nil {
		*old = now
	}
}

// DrainRunner asks a runner to go as soon as it is idle.
func (f *Fleet) DrainRunner(id muster.RunnerID, reason string) error {
	f.mu.Lock()
	r := f.runners[id]
	f.mu.Unlock()
	if r == nil {
		return muster.Errorf(muster.CodeNotFound, "there is no runner %q", id)
	}
	if reason == "" {
		return errors.New("a drain needs a reason")
	}
	return f.update(r, "asked to drain: "+reason, func(r *runner) error {
		r.Drain = cmp.Or(r.Drain, reason)
		return nil
	})
}
