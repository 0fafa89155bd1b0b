package fleet

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// notReady is what agents hear before the runners of an earlier run were found.
func notReady() error {
	return &muster.Error{Code: muster.CodeUnavailable, Message: "the fleet is starting; ask again", RetryAfter: time.Second}
}

func notNeeded(id muster.RunnerID) error {
	return muster.Errorf(muster.CodeGone, "runner %s is no longer needed", id)
}

// known returns the runner whose token was presented. One that an earlier run
// made learns its pool from it.
func (f *Fleet) known(kind, token string) (*runner, error) {
	name, id, err := f.tokens.verify(kind, token)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ready {
		return nil, notReady()
	}
	r := f.runners[id]
	if r == nil {
		return nil, notNeeded(id)
	}
	if r.Pool == "" {
		f.belongs(r, name)
	}
	return r, nil
}

// Boot trades a boot token for a registration, at the moment at which the agent
// can listen. The configuration is kept nowhere: an agent that lost the answer
// asks again with the same nonce and gets a new registration under a new name.
func (f *Fleet) Boot(ctx context.Context, token string, req wire.BootRequest) (resp wire.BootResponse, err error) {
	if req.Nonce == "" {
		return resp, muster.Errorf(muster.CodeInvalid, "boot request without a nonce")
	}
	r, err := f.known(bootToken, token)
	if err != nil {
		return resp, err
	}
	replay := false
	err = f.update(r, "", func(r *runner) error {
		switch {
		case !r.FinishedAt.IsZero() || r.Drain != "" || r.State != muster.RunnerProvisioning && r.State != muster.RunnerRegistered:
			return notNeeded(r.ID)
		case r.nonce != "" && r.nonce != req.Nonce, r.nonce == "" && !r.adopted.IsZero() && r.GitHubID != 0:
			return muster.Errorf(muster.CodeConflict, "the boot token of runner %s was used", r.ID)
		}
		replay = r.nonce != "" && r.GitHubID != 0
		r.nonce, r.HeartbeatAt = req.Nonce, time.Now()
		if r.ConnectedAt.IsZero() {
			r.ConnectedAt = time.Now()
			r.note(time.Now(), "its agent connected")
		}
		return nil
	})
	if err != nil {
		return resp, err
	}
	row := f.read(r)
	pool, scope := f.place(r)
	if replay {
		f.removeUnused(ctx, scope, row.Name)
	}
	jit, err := f.register(ctx, r, pool, scope)
	if err != nil {
		return resp, err
	}
	resp = wire.BootResponse{
		Runner: string(row.ID), Name: jit.Name, JITConfig: jit.Config.Reveal(),
		SessionToken:     f.tokens.mint(sessionToken, row.Pool, row.ID).Reveal(),
		NoJobSeconds:     int(pool.NoJobTimeout / time.Second),
		HeartbeatSeconds: max(1, int(f.times.Heartbeat/time.Second)),
		MaxSeconds:       int(pool.MaxAge / time.Second),
	}
	if row.Warm {
		resp.NoJobSeconds = 0 // the floor's runners wait for work (C23)
	}
	if req.Download {
		resp.Download, err = f.download(ctx, scope, req.OS, req.Arch)
	}
	return resp, err
}

// maxNames is how many names are tried for one registration.
const maxNames = 5

// register asks GitHub for a registration of one job (S1-64 to S1-66). A name that
// is taken is a lost answer of an earlier try: nobody can have started from it, so
// it is removed if GitHub lets us, and another name is used (4-11).
func (f *Fleet) register(ctx context.Context, r *runner, pool muster.Pool, scope muster.Scope) (muster.JIT, error) {
	for range maxNames {
		var row muster.Runner
		err := f.update(r, "", func(r *runner) error {
			r.Name = muster.RegistrationName(r.Pool, r.ID, r.Tries)
			r.Tries++
			row = r.Runner
			return nil
		})
		if err != nil {
			return muster.JIT{}, err
		}
		jit, err := f.cfg.GitHub.GenerateJIT(ctx, scope, row.Name, pool.RunnerGroup, pool.RunnerLabels)
		switch muster.CodeOf(err) {
		case "":
			return jit, f.registered(ctx, r, scope, jit)
		case muster.CodeExists:
			f.removeUnused(ctx, scope, row.Name)
		case muster.CodeUnavailable, muster.CodeInternal:
			return jit, asUnavailable(err)
		default: // refused for good: permissions, group, labels
			return jit, f.refused(r, err)
		}
	}
	return muster.JIT{}, f.refused(r, muster.Errorf(muster.CodeConflict, "every name that was tried is taken"))
}

// registered notes that GitHub knows the runner now (S1-59).
func (f *Fleet) registered(ctx context.Context, r *runner, scope muster.Scope, jit muster.JIT) error {
	err := f.update(r, "registered at "+scope.String(), func(r *runner) error {
		if r.State != muster.RunnerProvisioning && r.State != muster.RunnerRegistered || r.Drain != "" {
			return notNeeded(r.ID)
		}
		r.GitHubID, r.Name = jit.RunnerID, jit.Name
		return r.to(muster.RunnerRegistered)
	})
	if err != nil {
		f.removeUnused(ctx, scope, jit.Name) // it was called off while GitHub answered
	}
	return err
}

// refused ends a runner that GitHub will never register, and tells the agent so.
func (f *Fleet) refused(r *runner, cause error) error {
	if err := f.giveUp(r, errors.New("GitHub refuses the registration: "+muster.MessageOf(cause))); err != nil {
		return err
	}
	return &muster.Error{Code: muster.CodeGone, Message: "GitHub refuses to register this runner", Err: cause}
}

// removeUnused deletes a registration that no process can be using. Whatever
// GitHub answers, the sweep comes by later.
func (f *Fleet) removeUnused(ctx context.Context, scope muster.Scope, name string) {
	remote, err := f.cfg.GitHub.RunnerByName(ctx, scope, name)
	if err != nil || remote.Online || remote.Busy {
		return
	}
	if err := f.cfg.GitHub.RemoveRunner(ctx, scope, remote.ID); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		f.log.Info("unused registration left to the sweep", "name", name, "error", err)
	}
}

// asUnavailable makes sure that the agent asks again rather than gives up.
func asUnavailable(err error) error {
	if muster.CodeOf(err) == muster.CodeUnavailable {
		return err
	}
	return &muster.Error{Code: muster.CodeUnavailable, Message: "GitHub did not answer as expected; ask again", RetryAfter: 2 * time.Second, Err: err}
}

func (f *Fleet) download(ctx context.Context, scope muster.Scope, os, arch string) (*wire.Download, error) {
	all, err := f.cfg.GitHub.Downloads(ctx, scope)
	if err != nil {
		return nil, asUnavailable(err)
	}
	// GitHub spells systems and architectures in its own way.
	os = map[string]string{"linux": "linux", "darwin": "osx", "windows": "win"}[os]
	arch = map[string]string{"amd64": "x64", "arm64": "arm64", "arm": "arm"}[arch]
	for _, d := range all {
		if d.OS == os && d.Arch == arch {
			return &wire.Download{URL: d.URL, Filename: d.Filename, SHA256: d.SHA256}, nil
		}
	}
	return nil, muster.Errorf(muster.CodeGone, "GitHub offers no runner for %s/%s", os, arch)
}

// Report takes an agent's word about its runner and answers with what is wanted of it.
func (f *Fleet) Report(_ context.Context, token string, rep wire.Report) (answer wire.Answer, err error) {
	r, err := f.known(sessionToken, token)
	if err != nil {
		return answer, err
	}
	note := ""
	switch rep.Phase {
	case wire.PhaseListening:
		note = "listening for jobs"
	case wire.PhaseRunning:
		note = "running job: " + rep.JobName
	case wire.PhaseFinished:
		note = "runner finished: " + rep.Reason
	}
	err = f.update(r, note, func(r *runner) error {
		f.hear(r, rep, time.Now())
		switch {
		case !r.FinishedAt.IsZero():
		case r.State == muster.RunnerDraining, r.Drain != "" && r.fails >= maxFails:
			// The agent refuses while a job runs, and says so (4-17).
			answer = wire.Answer{Command: wire.CommandDrain, Reason: r.Reason}
		}
		return nil
	})
	return answer, err
}

// hear folds a report into the row. Reports may be repeated and late; the caller
// holds the lock.
func (f *Fleet) hear(r *runner, rep wire.Report, now time.Time) {
	r.HeartbeatAt = now
	if r.ConnectedAt.IsZero() { // an earlier run booted it
		r.ConnectedAt = now
	}
	switch rep.Phase {
	case wire.PhaseStarted:
		if r.StartedAt.IsZero() {
			r.StartedAt = now
		}
	case wire.PhaseListening:
		if r.ListeningAt.IsZero() {
			r.ListeningAt = now
		}
		if p := f.pool(r.Pool); p != nil {
			p.failed, p.heldUntil, p.heldFor = 0, time.Time{}, ""
		}
	case wire.PhaseRunning:
		r.Busy = true
		f.active(r, now)
	case wire.PhaseFinished:
		if r.Busy && rep.Result != "" || strings.HasPrefix(rep.Reason, "job finished") && r.FinishedAt.IsZero() {
			r.jobs++
		}
		r.Busy, r.taken = false, false
		if r.FinishedAt.IsZero() {
			r.FinishedAt, r.Reason = now, rep.Reason
			r.Failed = r.Failed || strings.HasPrefix(rep.Reason, "runner failed")
		}
	case wire.PhaseHeartbeat:
		if !r.FinishedAt.IsZero() {
			return
		}
		r.Busy = rep.Busy
		if r.Busy {
			f.active(r, now)
		}
		if !r.adopted.IsZero() && r.ListeningAt.IsZero() {
			// It said so to the run before this one.
			r.ListeningAt = now
			if r.State == muster.RunnerProvisioning {
				_ = r.to(muster.RunnerRegistered) // legal
			}
		}
	}
}

// Log keeps the last of what a runner printed.
func (f *Fleet) Log(_ context.Context, token string, chunk wire.LogChunk) (wire.Answer, error) {
	r, err := f.known(sessionToken, token)
	if err != nil {
		return wire.Answer{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if end := chunk.Offset + int64(len(chunk.Data)); end > r.logEnd { // else a repetition
		fresh := chunk.Data[max(0, min(int64(len(chunk.Data)), r.logEnd-chunk.Offset)):]
		r.log = append(r.log, fresh...)
		r.log = r.log[max(0, len(r.log)-maxLog):]
		r.logEnd = end
	}
	return wire.Answer{}, nil
}

// try is what follows a runner's name when its registration had to be repeated.
var try = regexp.MustCompile(`\A(-[0-9]{1,3})?\z`)

// named reports whether a registration's name is one of a pool's runner.
func named(name, pool string, id muster.RunnerID) bool {
	rest, ok := strings.CutPrefix(name, muster.RegistrationName(pool, id, 0))
	return ok && try.MatchString(rest)
}
