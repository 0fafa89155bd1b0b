package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// recoverOnce finds the runners of earlier runs: the platform's list says which
// machines are there, GitHub's which of them are registered and busy. Until both
// were read, nothing is decided and agents are asked to wait.
func (f *Fleet) recoverOnce(ctx, work context.Context) error {
	f.mu.Lock()
	scopes := f.scopes()
	f.mu.Unlock()
	remote := map[muster.Scope][]muster.RemoteRunner{}
	for _, s := range scopes {
		list, err := f.cfg.GitHub.Runners(ctx, s)
		if err != nil {
			return err // which says what was asked
		}
		remote[s] = list
	}
	var machines []provider.Instance
	for in, err := range f.cfg.VMs.List(ctx) {
		if err != nil {
			return fmt.Errorf("list machines: %w", err)
		}
		machines = append(machines, in)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, in := range machines {
		if f.runners[in.Runner] == nil {
			f.start(work, f.adopt(in, remote, now))
		}
	}
	f.ready, f.problem = true, ""
	return nil
}

// adopt makes a runner of a machine that an earlier run has left. The caller holds
// the lock.
func (f *Fleet) adopt(in provider.Instance, remote map[muster.Scope][]muster.RemoteRunner, now time.Time) *runner {
	r := &runner{
		Runner: muster.Runner{
			ID: in.Runner, Workspace: workspace, Instance: in.ID, State: muster.RunnerProvisioning,
			Reason: "found again", CreatedAt: in.CreatedAt, LaunchedAt: in.CreatedAt,
		},
		adopted: now, wake: make(chan struct{}, 1),
	}
	for _, p := range f.pools {
		for _, m := range remote[p.Scope] {
			if !named(m.Name, p.Name, in.Runner) {
				continue
			}
			f.belongs(r, p.Name)
			r.Name, r.GitHubID, r.ConnectedAt, r.State, r.taken = m.Name, m.ID, now, muster.RunnerRegistered, m.Busy
			if m.Busy {
				r.State, r.ActiveAt = muster.RunnerActive, now
			} else if m.Online {
				r.ListeningAt = now
			}
		}
	}
	r.note(now, "found again at the start: machine %s, registration %q", in.State, r.Name)
	f.log.Info("runner found again", "runner", r.ID, "pool", r.Pool, "state", r.State, "machine", in.State, "busy", r.taken)
	if in.State == provider.InstanceEnded {
		r.FinishedAt, r.taken = now, false
		r.Reason = "it ended while no run looked"
	}
	return r
}

// belongs notes whose runner it is; the caller holds the lock.
func (f *Fleet) belongs(r *runner, name string) {
	r.Pool = name
	if r.Name == "" {
		r.Name = muster.RegistrationName(name, r.ID, 0)
	}
	if p := f.pool(name); p != nil {
		r.pool, r.scope, r.Provider, r.Offering = p.Pool, p.Scope, p.Provider, p.Offering
	}
}
