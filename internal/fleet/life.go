package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// createTimeout is how long one call of Create may take.
const createTimeout = time.Minute

// createTries is how often a platform that fails for now is asked for one machine.
const createTries = 3

// make starts the life of a new runner of a pool; the caller holds the lock.
func (f *Fleet) make(work context.Context, p *pool, d muster.Decision, warm bool, now time.Time) muster.Runner {
	id := f.newID()
	r := &runner{
		Runner: muster.Runner{
			ID: id, Workspace: workspace, Pool: p.Name, Name: muster.RegistrationName(p.Name, id, 0),
			Provider: p.Provider, Offering: p.Offering, State: muster.RunnerProvisioning, Reason: d.Reason, Warm: warm, CreatedAt: now,
		},
		pool: p.Pool, scope: p.Scope, wake: make(chan struct{}, 1),
	}
	r.note(now, "%s: %s", d.Rule, d.Reason)
	f.start(work, r)
	return r.Runner
}

// start adds a runner and begins its life; the caller holds the lock.
func (f *Fleet) start(work context.Context, r *runner) {
	f.runners[r.ID] = r
	f.change()
	f.lives.Go(func() { f.live(work, r) })
}

// live is the life of one runner: a machine, an agent, a registration, a job, and
// every way out through destroy. It ends early when the work does, and the runner
// stays as it is.
func (f *Fleet) live(ctx context.Context, r *runner) {
	if f.read(r).LaunchedAt.IsZero() {
		// The place is kept until the runner is registered or given up (S1-112).
		if f.provisioning.Do(ctx, func() error { return f.provision(ctx, r) }) != nil {
			return
		}
	}
	for ctx.Err() == nil {
		switch s := f.step(r); s.Act {
		case actDone:
			return
		case actWait:
			f.await(ctx, r, s.Until)
		case actProbe:
			if !f.probe(ctx, r) {
				f.await(ctx, r, s.Until)
			}
		case actDeregister:
			f.deregister(ctx, r, s)
		case actDestroy:
			_ = f.destroy(ctx, r, s) // its only errors are those of a work that ends
		}
	}
}

// place is the pool that a runner is of and where it registers.
func (f *Fleet) place(r *runner) (muster.Pool, muster.Scope) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.pool, r.scope
}

func (f *Fleet) step(r *runner) step {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next(r, time.Now())
}

// read is the runner's row as it is now.
func (f *Fleet) read(r *runner) muster.Runner {
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.Runner
}

// update changes a runner. Unless note is empty, it becomes a line of its history.
func (f *Fleet) update(r *runner, note string, change func(*runner) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := r.State
	err := change(r)
	if err == nil && note != "" {
		r.note(time.Now(), "%s", note)
	}
	if r.State != before {
		f.log.Info("runner "+string(r.State), "runner", r.ID, "pool", r.Pool, "name", r.Name, "reason", r.Reason, "failed", r.Failed)
	}
	r.look()
	f.change()
	return err
}

// change tells those who wait for any change; the caller holds the lock.
func (f *Fleet) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// changes is closed at the next change; the caller holds the lock.
func (f *Fleet) changes() <-chan struct{} { return f.changed }

func (f *Fleet) await(ctx context.Context, r *runner, until time.Time) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-r.wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// provision brings a runner from nothing to its registration: the machine first
// (S1-63), and when its agent asks, which is when it can listen, the registration
// (boot.go; S1-64 to S1-66), with which the agent starts the runner's service
// (S1-67). It returns when the runner has registered, or when next knows that it
// never will: then destroy undoes what was done (S1-68).
func (f *Fleet) provision(ctx context.Context, r *runner) error {
	if s := f.step(r); s.Act != actWait {
		return nil // it was called off while it waited for a place
	}
	in, err := f.create(ctx, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return f.giveUp(r, fmt.Errorf("provider refused: %w", err))
	}
	err = f.update(r, "machine "+in.ID+" accepted", func(r *runner) error {
		r.Instance, r.LaunchedAt = in.ID, time.Now()
		return nil
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil && f.read(r).State == muster.RunnerProvisioning {
		s := f.step(r)
		if s.Act == actProbe && f.probe(ctx, r) || s.Act != actWait && s.Act != actProbe {
			return nil
		}
		f.await(ctx, r, s.Until)
	}
	return ctx.Err()
}

// create asks the platform for the machine. The boot token is made here and kept
// nowhere.
func (f *Fleet) create(ctx context.Context, r *runner) (in provider.Instance, err error) {
	row := f.read(r)
	pool, _ := f.place(r)
	for try := range createTries {
		if try > 0 && pause(ctx, time.Second<<try) != nil {
			return in, ctx.Err()
		}
		call, cancel := context.WithTimeout(ctx, createTimeout)
		in, err = f.cfg.VMs.Create(call, provider.Spec{
			Runner: row.ID, Workspace: workspace, Pool: row.Pool, Owner: f.cfg.Owner, Offering: f.cfg.Offering,
			Boot:   provider.Boot{URL: f.cfg.URL, Token: f.tokens.mint(bootToken, row.Pool, row.ID)},
			MaxAge: pool.WithDefaults().MaxAge,
		})
		cancel()
		if err == nil && (in.Runner != row.ID || in.ID == "") {
			err = fmt.Errorf("%w: it answered with instance %q of runner %q", provider.ErrTransient, in.ID, in.Runner)
		}
		if err == nil || errors.Is(err, provider.ErrInvalid) || errors.Is(err, provider.ErrQuota) || errors.Is(err, provider.ErrCapacity) {
			return in, err
		}
	}
	return in, err
}

// giveUp sends a runner on its way out because something went wrong.
func (f *Fleet) giveUp(r *runner, cause error) error {
	return f.update(r, "given up: "+cause.Error(), func(r *runner) error {
		r.Failed, r.Reason = true, cause.Error()
		return r.to(muster.RunnerDraining)
	})
}

// probe asks the platform about the machine of a silent agent. Only "gone" and
// "ended" are answers; anything else is unknown, and unknown is busy (4-18).
func (f *Fleet) probe(ctx context.Context, r *runner) (ended bool) {
	in, err := f.cfg.VMs.Get(ctx, f.read(r).ID)
	switch {
	case errors.Is(err, provider.ErrNotFound):
		f.ended(r, "machine vanished", "")
	case err == nil && in.State == provider.InstanceEnded:
		f.ended(r, "machine ended by itself", in.Detail)
	default:
		return false
	}
	return true
}

// ended notes that the platform has nothing running of the runner any more.
func (f *Fleet) ended(r *runner, why, detail string) {
	if detail != "" {
		why += ": " + detail
	}
	_ = f.update(r, why, func(r *runner) error { // never refuses
		if r.FinishedAt.IsZero() {
			r.FinishedAt, r.Busy, r.taken = time.Now(), false, false
			// One that had a job and is gone has most likely done it while nobody looked.
			r.Reason, r.Failed = why, r.ActiveAt.IsZero() && r.Drain == ""
		}
		return nil
	})
}

// deregister is the first half of the end of an idle runner (C21): GitHub refuses
// while a job runs, and then the runner stays (4-17).
func (f *Fleet) deregister(ctx context.Context, r *runner, s step) {
	row := f.read(r)
	_, scope := f.place(r)
	id, err := row.GitHubID, error(nil)
	if id == 0 {
		id, err = f.registration(ctx, row, scope)
	}
	if err == nil {
		err = f.cfg.GitHub.RemoveRunner(ctx, scope, id)
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	switch code := muster.CodeOf(err); code {
	case "", muster.CodeNotFound:
		_ = f.update(r, "deregistered: "+s.Reason, func(r *runner) error {
			// Draining makes a boot that is under way give its registration up.
			r.DeregisteredAt, r.vanished = now, code != ""
			r.Reason, r.Failed = s.Reason, r.Failed || s.Failed
			return r.to(muster.RunnerDraining)
		})
	case muster.CodeBusy:
		_ = f.update(r, "GitHub says that it has a job: it stays", func(r *runner) error {
			r.taken, r.again = true, now.Add(deregisterAgain)
			if !f.leaving {
				r.Drain = "" // the next decision may choose it again
			}
			return nil
		})
	default:
		f.log.Warn("deregistration failed", "runner", row.ID, "name", row.Name, "error", err)
		_ = f.update(r, "not deregistered: "+muster.MessageOf(err), func(r *runner) error {
			r.again = now.Add(max(deregisterAgain, retryAfter(err)))
			if r.Drain == "" {
				r.Drain = s.Reason
			}
			// GitHub cannot say whether it is idle. The agent can: it ends the runner
			// only if no job runs (S1-71).
			r.fails++
			return nil
		})
	}
}

// registration looks up the registration of a runner that was found without one.
func (f *Fleet) registration(ctx context.Context, r muster.Runner, scope muster.Scope) (int64, error) {
	if scope.Kind == "" {
		return 0, muster.Errorf(muster.CodeNotFound, "runner %s registered nowhere", r.ID)
	}
	all, err := f.cfg.GitHub.Runners(ctx, scope)
	if err != nil {
		return 0, err
	}
	for _, remote := range all {
		if named(remote.Name, r.Pool, r.ID) {
			return remote.ID, nil
		}
	}
	return 0, muster.Errorf(muster.CodeNotFound, "no registration of runner %s", r.ID)
}

// destroy ends a runner that has finished, was deregistered, never registered, or
// may not live any longer: off GitHub, unless a job has consumed the registration
// (S1-70), and then the machine, whatever GitHub said, until it is proven gone
// (S1-71). The service has ended already, or ends with the machine (S1-69).
func (f *Fleet) destroy(ctx context.Context, r *runner, s step) error {
	err := f.update(r, "", func(r *runner) error {
		r.Reason, r.Failed = s.Reason, r.Failed || s.Failed
		return r.to(muster.RunnerDraining)
	})
	if err != nil {
		return err
	}
	row := f.read(r)
	_, scope := f.place(r)
	if row.GitHubID != 0 && row.DeregisteredAt.IsZero() && row.ActiveAt.IsZero() {
		err := f.cfg.GitHub.RemoveRunner(ctx, scope, row.GitHubID)
		if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			f.log.Info("registration left to the sweep", "runner", row.ID, "name", row.Name, "error", err)
		}
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Minute) {
		err := f.ending.Do(ctx, func() error { return f.cfg.VMs.Delete(ctx, row.ID) })
		if errors.Is(err, provider.ErrNotFound) {
			break
		}
		if err != nil && ctx.Err() == nil {
			f.log.Warn("machine not deleted yet", "runner", row.ID, "error", err, "again_in", wait)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	return f.update(r, "machine gone", func(r *runner) error {
		if err := r.to(muster.RunnerDestroyed); err != nil {
			return err
		}
		r.DestroyedAt, r.Busy, r.taken = time.Now(), false, false
		if p := f.pool(r.Pool); p != nil && r.Failed && r.ListeningAt.IsZero() {
			p.hold(r.Reason, r.DestroyedAt)
		}
		delete(f.runners, r.ID)
		f.past = append(f.past, r.Runner)
		f.past = f.past[max(0, len(f.past)-maxPast):]
		return nil
	})
}
