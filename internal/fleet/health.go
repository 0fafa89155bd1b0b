package fleet

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// healthTimeout bounds one look at a runner on GitHub.
const healthTimeout = 10 * time.Second

// badLooks is after how many checks in a row an idle runner that GitHub calls
// offline is replaced: one reading is never proof.
const badLooks = 2

// sweepGrace is how old a machine must be before it can be called a stray.
const sweepGrace = 5 * time.Minute

// Healthy reports whether GitHub lists the runner as online (S1-75). Whatever
// keeps it from being known counts as no. It costs one call to GitHub.
func (f *Fleet) Healthy(ctx context.Context, id muster.RunnerID) bool {
	f.mu.Lock()
	r := f.runners[id]
	var scope muster.Scope
	var github int64
	if r != nil {
		scope, github = r.scope, r.GitHubID
	}
	f.mu.Unlock()
	if github == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	remote, err := f.cfg.GitHub.Runner(ctx, scope, github)
	return err == nil && remote.Online
}

// healths compares GitHub's and the platform's lists with ours every interval
// (S1-110), until ctx ends.
func (f *Fleet) healths(ctx context.Context) {
	tick := time.NewTicker(f.times.Health)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := f.health(ctx); err != nil && ctx.Err() == nil {
				f.log.Warn("health not known: nothing is changed by it", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// health looks at every runner once. What cannot be learned changes nothing.
func (f *Fleet) health(ctx context.Context) error {
	f.mu.Lock()
	scopes := f.scopes()
	f.mu.Unlock()
	odd := map[string]bool{}
	var errs []error
	for _, s := range scopes {
		remote, err := f.cfg.GitHub.Runners(ctx, s)
		if err != nil {
			errs = append(errs, err) // which says what was asked
			f.keepSuspects(odd, s.String()+" ")
			continue
		}
		f.compare(s, remote)
		f.sweepRegistrations(ctx, s, remote, odd)
	}
	if err := f.sweepMachines(ctx, odd); err != nil {
		errs = append(errs, fmt.Errorf("list machines: %w", err))
		f.keepSuspects(odd, machinePrefix)
	}
	f.mu.Lock()
	f.suspects = odd
	f.mu.Unlock()
	return errors.Join(errs...)
}

// keepSuspects carries over what a list that failed could not confirm.
func (f *Fleet) keepSuspects(odd map[string]bool, prefix string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.suspects {
		if strings.HasPrefix(s, prefix) {
			odd[s] = true
		}
	}
}

// compare folds GitHub's list into the runners of one scope.
func (f *Fleet) compare(s muster.Scope, remote []muster.RemoteRunner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, r := range f.runners {
		if r.scope != s || !r.FinishedAt.IsZero() || r.State == muster.RunnerDraining {
			continue
		}
		i := slices.IndexFunc(remote, func(m muster.RemoteRunner) bool {
			return r.GitHubID != 0 && m.ID == r.GitHubID || named(m.Name, r.Pool, r.ID)
		})
		var m muster.RemoteRunner
		if i >= 0 {
			m = remote[i]
			if !r.adopted.IsZero() && r.GitHubID == 0 {
				r.GitHubID, r.Name = m.ID, m.Name
			}
		}
		r.taken = m.Busy
		if m.Busy && m.Online {
			f.active(r, now)
		}
		// Offline, or not listed at all. One that listens and has no job is no use then;
		// one with a job is left to its agent.
		if m.Online || r.busy() || r.State != muster.RunnerRegistered || r.ListeningAt.IsZero() {
			r.bad = 0
			continue
		}
		if r.bad++; r.bad >= badLooks && r.Drain == "" {
			r.Drain, r.Failed = fmt.Sprintf("GitHub did not list it as online at %d checks in a row", r.bad), true
			r.note(now, "%s", r.Drain)
			r.look()
		}
	}
	f.change()
}

// runnerOf matches a registration's name: a pool's name, cut as RegistrationName
// does, an id, and perhaps a try.
var runnerOf = regexp.MustCompile(`\A[a-zA-Z0-9_-]{1,32}-([a-z2-7]{16})(-[0-9]{1,3})?\z`)

// mine returns the runner whose name a registration has, if it is one that this
// fleet gave: the id has its mark.
func (f *Fleet) mine(name string) (muster.RunnerID, bool) {
	m := runnerOf.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	id := muster.RunnerID("r-" + m[1])
	mark := f.tokens.mark()
	// 15 of the mark's 16 bits are the first three characters of the id.
	return id, string(id[:5]) == string(muster.NewRunnerID([10]byte{mark[0], mark[1]})[:5])
}

// sweepRegistrations removes registrations of ours that no runner has, at the
// second look, and never one that is online or busy.
func (f *Fleet) sweepRegistrations(ctx context.Context, s muster.Scope, remote []muster.RemoteRunner, odd map[string]bool) {
	for _, m := range remote {
		id, ours := f.mine(m.Name)
		if !ours || m.Online || m.Busy || f.has(id) {
			continue
		}
		if key := s.String() + " " + m.Name; !f.twice(key) {
			odd[key] = true
		} else if err := f.cfg.GitHub.RemoveRunner(ctx, s, m.ID); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			odd[key] = true // busy or unavailable: looked at again
		} else {
			f.log.Warn("registration removed that no runner had", "name", m.Name, "scope", s.String())
		}
	}
}

const machinePrefix = "machine "

// sweepMachines learns from the platform's list which machines have ended, and
// deletes those that no runner has, at the second look.
func (f *Fleet) sweepMachines(ctx context.Context, odd map[string]bool) error {
	young := time.Now().Add(-sweepGrace)
	for in, err := range f.cfg.VMs.List(ctx) {
		if err != nil {
			return err
		}
		f.mu.Lock()
		r := f.runners[in.Runner]
		f.mu.Unlock()
		switch key := machinePrefix + string(in.Runner); {
		case r != nil && in.State == provider.InstanceEnded:
			f.ended(r, "machine ended by itself", in.Detail)
		case r != nil || in.CreatedAt.After(young):
		case !f.twice(key):
			odd[key] = true
		default:
			if err := f.cfg.VMs.Delete(ctx, in.Runner); err != nil && !errors.Is(err, provider.ErrNotFound) {
				odd[key] = true
				continue
			}
			f.log.Warn("machine deleted that no runner had", "runner", in.Runner)
		}
	}
	return nil
}

func (f *Fleet) has(id muster.RunnerID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runners[id] != nil
}

func (f *Fleet) twice(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.suspects[key]
}
