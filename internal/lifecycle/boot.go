package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// Boot trades a boot token for a JIT configuration, or for a registration token in
// pools whose runners register themselves. The agent calls it at the moment when it
// can listen, because an unused JIT registration lives for minutes only, and a
// token for an hour (4-9). The answer holds secrets that are kept nowhere: an agent
// that lost it asks again with the same nonce. It gets a new registration under a
// new name, or a token again, which nobody can have used.
func (c *Client) Boot(ctx context.Context, token string, req wire.BootRequest) (resp wire.BootResponse, err error) {
	began := c.Now()
	claims, err := c.Tokens.VerifyBoot(token, began)
	if err != nil {
		return resp, err
	}
	if req.Nonce == "" {
		return resp, muster.Errorf(muster.CodeInvalid, "boot request without a nonce")
	}
	used, _, err := c.Store.UseBootToken(ctx, claims.JTI, req.Nonce, began, c.Times.BootWindow)
	if err != nil {
		return resp, err
	}
	if used.Runner != claims.Runner {
		return resp, muster.Errorf(muster.CodeForbidden, "this boot token belongs to another runner")
	}
	r, err := c.connect(ctx, used)
	if err != nil {
		return resp, err
	}
	defer func() { c.Observer.Booted(r, err, c.Now().Sub(began)) }()
	if r.Purpose == muster.PurposeCheck {
		return c.bootCheck(ctx, r, req)
	}
	pool, err := c.Store.Pool(ctx, r.Workspace, r.Pool)
	if err != nil {
		return resp, err
	}
	gh, ok := c.GitHub[pool.App]
	if !ok {
		return resp, c.bootRefused(ctx, r, fmt.Errorf("app %s is not configured", pool.App))
	}
	var jit muster.JIT
	var own *wire.Registration
	if pool.Registration == muster.RegistrationToken {
		own, err = c.handToken(ctx, gh, pool, &r)
	} else {
		jit, err = c.register(ctx, gh, pool, &r)
	}
	if err != nil {
		return resp, err
	}
	session, hash, err := c.Tokens.NewSession()
	if err != nil {
		return resp, fmt.Errorf("make session token: %w", err)
	}
	if err := c.Store.PutSession(ctx, r.Workspace, r.ID, hash); err != nil {
		return resp, err
	}
	if own == nil {
		c.log.Info("runner registered", "runner", r.ID, "pool", r.Pool, "name", r.Name, "github_id", r.GitHubID, "trace_id", r.TraceID)
	}
	resp = wire.BootResponse{
		Runner: string(r.ID), Name: r.Name,
		SessionToken: session.Reveal(), JITConfig: jit.Config.Reveal(), Registration: own,
		NoJobSeconds:     int(pool.NoJobTimeout / time.Second),
		HeartbeatSeconds: max(1, int(c.Times.Heartbeat/time.Second)),
		MaxSeconds:       int(pool.MaxAge / time.Second),
	}
	if resp.Trace = c.traceSettings(ctx, gh, pool); resp.Trace != nil && !r.Traced {
		if _, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "", func(r *muster.Runner) error { r.Traced = true; return nil }); err != nil {
			return wire.BootResponse{}, err
		}
	}
	if r.Warm {
		resp.NoJobSeconds = 0 // C23: the floor's runners wait for work
	}
	if req.Download {
		resp.Download, err = c.download(ctx, gh, pool.Scope, req.OS, req.Arch)
	}
	return resp, err
}

// connect notes that the agent has come, and refuses one that is no longer needed.
func (c *Client) connect(ctx context.Context, t muster.BootToken) (muster.Runner, error) {
	return c.Store.UpdateRunner(ctx, t.Workspace, t.Runner, c.Now(), "agent connected", func(r *muster.Runner) error {
		if r.State != muster.RunnerProvisioning && r.State != muster.RunnerRegistered || r.Drain != "" || !r.FinishedAt.IsZero() {
			return muster.Errorf(muster.CodeGone, "runner %s is no longer needed: %s", r.ID, firstOf(r.Reason, r.Drain))
		}
		if r.ConnectedAt.IsZero() {
			r.ConnectedAt = c.Now()
		}
		// A crash may have come between the provider's answer and our note of it.
		if r.LaunchedAt.IsZero() {
			r.LaunchedAt = c.Now()
		}
		r.HeartbeatAt = c.Now()
		return nil
	})
}

// generate makes a registration in the way of the pool: by its labels, or by its
// scale set, whose runners no other job can take.
func generate(ctx context.Context, gh GitHub, p muster.Pool, name string) (muster.JIT, error) {
	if p.ScaleSet != "" {
		return gh.GenerateScaleSetJIT(ctx, p.Scope, p.ScaleSet, name)
	}
	return gh.GenerateJIT(ctx, p.Scope, name, p.RunnerGroup, p.RunnerLabels)
}

// maxNames is how many names are tried for one registration.
const maxNames = 5

// register asks GitHub for a JIT registration and notes it. A name that is taken
// is a lost answer of an earlier try: nobody can have started from it, because
// its configuration never arrived, so it is removed if GitHub lets us, and a new
// name is used in any case (4-11).
func (c *Client) register(ctx context.Context, gh GitHub, pool muster.Pool, r *muster.Runner) (muster.JIT, error) {
	if r.GitHubID != 0 {
		c.removeUnused(ctx, gh, pool.Scope, r.Name)
	}
	for range maxNames {
		name := muster.RegistrationName(pool.Name, r.ID, r.Tries)
		if err := c.noteTry(ctx, r, name); err != nil {
			return muster.JIT{}, err
		}
		jit, err := generate(ctx, gh, pool, name)
		switch muster.CodeOf(err) {
		case "":
			return jit, c.noteRegistration(ctx, gh, pool, r, jit)
		case muster.CodeExists:
			c.removeUnused(ctx, gh, pool.Scope, name)
		case muster.CodeUnavailable, muster.CodeInternal:
			return jit, asUnavailable(err)
		default: // refused for good: permissions, group, labels
			return jit, c.bootRefused(ctx, *r, err)
		}
	}
	return muster.JIT{}, c.bootRefused(ctx, *r, errors.New("every name that was tried is taken"))
}

// handToken gives a runner what it registers itself with. Whether it did is learnt
// from GitHub, by its name, when the agent says that the runner has started.
func (c *Client) handToken(ctx context.Context, gh GitHub, pool muster.Pool, r *muster.Runner) (*wire.Registration, error) {
	given, err := gh.TokenRegistration(ctx, pool.Scope, pool.RunnerGroup)
	switch muster.CodeOf(err) {
	case "":
	case muster.CodeUnavailable, muster.CodeInternal:
		return nil, asUnavailable(err)
	default: // refused for good: permissions, group
		return nil, c.bootRefused(ctx, *r, err)
	}
	// Written before the agent has the token: from then on there may be a
	// registration of this name, whatever becomes of this process.
	updated, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "given a registration token of "+pool.Scope.String(), func(r *muster.Runner) error {
		if r.State != muster.RunnerProvisioning && r.State != muster.RunnerRegistered || r.Drain != "" {
			return muster.Errorf(muster.CodeGone, "runner %s is no longer needed", r.ID)
		}
		r.Tries = max(r.Tries, 1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	*r = updated
	c.log.Info("registration token given", "runner", r.ID, "pool", r.Pool, "name", r.Name, "trace_id", r.TraceID)
	return &wire.Registration{URL: given.URL, Token: given.Token.Reveal(), Labels: pool.RunnerLabels, RunnerGroup: given.Group, Ephemeral: true}, nil
}

// learnTimeout bounds what an agent's report waits for GitHub. What is not learnt
// with this one is with the next, a heartbeat at the latest.
const learnTimeout = 3 * time.Second

// learn finds the id of a runner that registered itself (S1-12). A runner that
// listens and that GitHub does not list for as long as an agent may be silent can
// never be told busy from idle, and goes.
func (c *Client) learn(ctx context.Context, r muster.Runner) (muster.Runner, error) {
	pool, err := c.Store.Pool(ctx, r.Workspace, r.Pool)
	if err != nil {
		return r, err
	}
	gh, ok := c.GitHub[pool.App]
	if !ok {
		return r, fmt.Errorf("app %s is not configured", pool.App)
	}
	asking, cancel := context.WithTimeout(ctx, learnTimeout)
	remote, err := gh.RunnerByName(asking, pool.Scope, r.Name)
	cancel()
	if err != nil {
		if muster.CodeOf(err) == muster.CodeNotFound && !r.Busy && !r.ListeningAt.IsZero() && c.Now().Sub(r.ListeningAt) >= c.Times.AgentLost {
			return c.unlisted(ctx, r, pool.Scope)
		}
		return r, err
	}
	learnt, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "registered at "+pool.Scope.String(), func(r *muster.Runner) (err error) {
		r.GitHubID = remote.ID
		if r.State == muster.RunnerProvisioning {
			r.State, err = r.State.To(muster.RunnerRegistered)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	c.log.Info("runner registered", "runner", r.ID, "pool", r.Pool, "name", r.Name, "github_id", learnt.GitHubID, "trace_id", r.TraceID)
	return learnt, nil
}

// unlisted asks a runner to go that GitHub does not list.
func (c *Client) unlisted(ctx context.Context, r muster.Runner, scope muster.Scope) (muster.Runner, error) {
	reason := fmt.Sprintf("RunnerRegistrationError: it listens, but %s lists no runner %s", scope, r.Name)
	asked, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "asked to drain: "+reason, func(r *muster.Runner) error {
		if r.Drain == "" {
			r.Drain, r.Failed = reason, true
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	return asked, c.runner(ctx, RunnerRef{r.Workspace, r.ID})
}

// noteTry writes the name before GitHub is asked, so that the sweep knows whose
// registration it is if this process dies in between.
func (c *Client) noteTry(ctx context.Context, r *muster.Runner, name string) error {
	first := r.Tries == 0 && r.Name == name
	r.Tries++
	if first {
		return nil // the row was made with this name; its count is written with the registration
	}
	tries := r.Tries
	updated, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "", func(r *muster.Runner) error {
		r.Name, r.Tries = name, tries
		return nil
	})
	if err == nil {
		*r = updated
	}
	return err
}

func (c *Client) noteRegistration(ctx context.Context, gh GitHub, pool muster.Pool, r *muster.Runner, jit muster.JIT) error {
	tries := r.Tries
	updated, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "registered at "+pool.Scope.String(), func(r *muster.Runner) (err error) {
		if r.State != muster.RunnerProvisioning && r.State != muster.RunnerRegistered || r.Drain != "" {
			return muster.Errorf(muster.CodeGone, "runner %s is no longer needed", r.ID)
		}
		r.GitHubID, r.Name, r.Tries = jit.RunnerID, jit.Name, tries
		r.State, err = r.State.To(muster.RunnerRegistered)
		return err
	})
	if err != nil {
		// It was drained while GitHub answered. The registration was never used.
		c.removeUnused(ctx, gh, pool.Scope, jit.Name)
		return err
	}
	*r = updated
	c.Observer.RunnerChanged(updated)
	return nil
}

// removeUnused deletes a registration that no process can be using. Whatever
// GitHub answers, the sweep comes by later.
func (c *Client) removeUnused(ctx context.Context, gh GitHub, scope muster.Scope, name string) {
	remote, err := gh.RunnerByName(ctx, scope, name)
	if err != nil || remote.Online || remote.Busy {
		return
	}
	if err := gh.RemoveRunner(ctx, scope, remote.ID); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		c.log.Info("unused registration left to the sweep", "name", name, "error", err)
	}
}

// bootRefused ends a runner that GitHub will never register, and tells the agent so.
func (c *Client) bootRefused(ctx context.Context, r muster.Runner, cause error) error {
	reason := "GitHub refuses the registration: " + cause.Error()
	c.log.Warn("runner refused", "runner", r.ID, "pool", r.Pool, "cause", cause, "trace_id", r.TraceID)
	_, err := c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "", func(r *muster.Runner) (err error) {
		r.State, err = r.State.To(muster.RunnerDraining)
		r.Failed, r.Reason = true, reason
		return err
	})
	if err == nil {
		err = c.runner(ctx, RunnerRef{r.Workspace, r.ID})
	}
	if err != nil {
		c.log.Error("end a refused runner", "runner", r.ID, "error", err, "trace_id", r.TraceID)
	}
	a := Activities{Deps: c.Deps, Log: c.log}
	ref := PoolRef{r.Workspace, r.Pool}
	a.noteRefusal(ctx, ref, refusal{Text: reason, Later: true})
	return &muster.Error{Code: muster.CodeGone, Message: "GitHub refuses to register this runner", Err: cause}
}

// asUnavailable makes sure that the agent asks again rather than gives up.
func asUnavailable(err error) error {
	if muster.CodeOf(err) == muster.CodeUnavailable {
		return err
	}
	return &muster.Error{Code: muster.CodeUnavailable, Message: "GitHub did not answer as expected; ask again", RetryAfter: 2 * time.Second, Err: err}
}

func (c *Client) download(ctx context.Context, gh GitHub, scope muster.Scope, os, arch string) (*wire.Download, error) {
	all, err := gh.Downloads(ctx, scope)
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
func (c *Client) Report(ctx context.Context, sessionToken string, rep wire.Report) (_ wire.Answer, err error) {
	phase := "" // what a stranger calls it is not counted
	defer func() { c.Observer.AgentReported(phase, err) }()
	r, err := c.Store.RunnerBySession(ctx, c.Tokens.HashSession(sessionToken))
	if err != nil {
		return wire.Answer{}, sessionError(err)
	}
	phase = string(rep.Phase)
	return c.reported(ctx, r, rep)
}

// reported takes the word of a machine that has proven which runner it is.
func (c *Client) reported(ctx context.Context, r muster.Runner, rep wire.Report) (_ wire.Answer, err error) {
	before := r.State
	if r.Purpose == muster.PurposeCheck && rep.Phase == wire.PhaseFinished {
		if err := c.noteCheck(ctx, r, rep); err != nil {
			return wire.Answer{}, err
		}
	}
	r, err = c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), note(rep), func(r *muster.Runner) error { return c.apply(r, rep) })
	if err != nil {
		return wire.Answer{}, err
	}
	if rep.Job != nil && r.Job.ID == 0 && r.JobHint.ID == 0 {
		if err := c.hint(ctx, r, *rep.Job); err != nil {
			c.log.Info("what a runner says of its job is not noted", "runner", r.ID, "error", err, "trace_id", r.TraceID)
		}
	}
	if c.unknown(r) {
		var err error
		if r, err = c.learn(ctx, r); err != nil {
			c.log.Info("id of a runner not learnt yet", "runner", r.ID, "name", r.Name, "error", err, "trace_id", r.TraceID)
		}
	}
	if r.State != before {
		c.Observer.RunnerChanged(r)
	}
	if rep.Phase == wire.PhaseListening {
		a := Activities{Deps: c.Deps, Log: c.log}
		if ref := (PoolRef{r.Workspace, r.Pool}); a.refusal(ctx, ref).Later {
			a.setRefusal(ctx, ref, refusal{})
			if err := c.pool(ctx, ref); err != nil {
				c.log.Warn("wake pool", "pool", r.Pool, "error", err) // it decides by itself soon
			}
		}
	}
	if rep.Phase == wire.PhaseFinished {
		c.log.Info("runner finished", "runner", r.ID, "pool", r.Pool, "reason", rep.Reason, "result", rep.Result, "exit", rep.ExitCode, "trace_id", r.TraceID)
		if err := c.runner(ctx, RunnerRef{r.Workspace, r.ID}); err != nil {
			return wire.Answer{}, fmt.Errorf("wake runner %s: %w", r.ID, err)
		}
	}
	switch {
	case r.State == muster.RunnerDestroyed || r.State == muster.RunnerDraining && r.FinishedAt.IsZero():
		return wire.Answer{Command: wire.CommandStop, Reason: r.Reason}, nil
	case r.Drain != "":
		return wire.Answer{Command: wire.CommandDrain, Reason: r.Drain}, nil
	}
	return wire.Answer{}, nil
}

// unknown reports whether the runner has registered itself, under an id that is not
// known yet. A job consumes the registration, and then there is nothing to learn.
func (c *Client) unknown(r muster.Runner) bool {
	return r.GitHubID == 0 && r.Tries > 0 && r.Drain == "" && !ranJob(r) && !gone(r) &&
		(r.State == muster.RunnerProvisioning || r.State == muster.RunnerRegistered) && !latest(r.StartedAt, r.ListeningAt).IsZero()
}

// apply folds a report into the runner's row. Reports may be repeated and late.
func (c *Client) apply(r *muster.Runner, rep wire.Report) (err error) {
	now := c.Now()
	r.HeartbeatAt = now
	switch rep.Phase {
	case wire.PhaseStarted:
		if r.StartedAt.IsZero() {
			r.StartedAt = now
		}
	case wire.PhaseListening:
		if r.ListeningAt.IsZero() {
			r.ListeningAt = now
		}
		if r.State == muster.RunnerProvisioning {
			// It registered itself; which id it has may be learnt later.
			r.State, err = r.State.To(muster.RunnerRegistered)
		}
	case wire.PhaseRunning:
		r.Busy = true
		if r.ActiveAt.IsZero() {
			r.ActiveAt = now
		}
		if r.State == muster.RunnerProvisioning || r.State == muster.RunnerRegistered {
			r.State, err = r.State.To(muster.RunnerActive)
		}
	case wire.PhaseFinished:
		r.Busy = false
		if r.FinishedAt.IsZero() {
			r.FinishedAt = now
			r.Reason = rep.Reason
			for _, s := range rep.Check {
				r.Failed = r.Failed || !s.OK
			}
		}
	case wire.PhaseHeartbeat:
		// The agent sees the runner's own words; a job that it sees is a job.
		if r.FinishedAt.IsZero() {
			r.Busy = rep.Busy
		}
	}
	return err
}

// note is the line in the runner's history; heartbeats leave none.
func note(rep wire.Report) string {
	switch rep.Phase {
	case wire.PhaseStarted:
		return "runner process started"
	case wire.PhaseListening:
		return "listening for jobs"
	case wire.PhaseRunning:
		return "running job: " + rep.JobName
	case wire.PhaseFinished:
		return "runner finished: " + rep.Reason
	}
	return ""
}

// Log stores a piece of the runner's output.
func (c *Client) Log(ctx context.Context, sessionToken string, chunk wire.LogChunk) (wire.Answer, error) {
	r, err := c.Store.RunnerBySession(ctx, c.Tokens.HashSession(sessionToken))
	if err != nil {
		return wire.Answer{}, sessionError(err)
	}
	if err := c.Store.AppendRunnerLog(ctx, r.Workspace, r.ID, chunk.Offset, chunk.Data); err != nil {
		return wire.Answer{}, err
	}
	return wire.Answer{}, nil
}

// sessionError turns "no such session" into "not authenticated", and passes on
// what may pass.
func sessionError(err error) error {
	if muster.CodeOf(err) == muster.CodeNotFound {
		return muster.Errorf(muster.CodeUnauthenticated, "unknown session token")
	}
	return err
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
