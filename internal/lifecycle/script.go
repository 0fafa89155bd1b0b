package lifecycle

import (
	"context"
	"fmt"
	"slices"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// A machine of some providers has no agent: a script that its platform's tools wrote
// installs GitHub's runner and starts it as a service. It calls with the boot token
// that it was born with for as long as it installs. What it can learn and say with it
// is in this file, and in Boot, which gives it the credentials of one runner; the
// token is good for nothing more once that runner listens.

// script says whose script calls, whatever has become of the runner.
func (c *Client) script(ctx context.Context, token string) (muster.Runner, error) {
	claims, err := c.Tokens.VerifyBoot(token, c.Now())
	if err != nil {
		return muster.Runner{}, err
	}
	r, err := c.Store.Runner(ctx, claims.Workspace, claims.Runner)
	if muster.CodeOf(err) == muster.CodeNotFound {
		err = muster.Errorf(muster.CodeGone, "runner %s is no longer needed", claims.Runner)
	}
	return r, err
}

// installed reports whether a runner was seen to work: then its script has nothing
// more to learn.
func installed(r muster.Runner) bool { return !r.ListeningAt.IsZero() || ranJob(r) }

// ScriptRunner says whose script calls. The error is CodeUnauthenticated or
// CodeForbidden for a token that is not ours, and CodeGone for a runner that is no
// longer needed or that is installed already.
func (c *Client) ScriptRunner(ctx context.Context, token string) (muster.Runner, muster.Pool, error) {
	r, err := c.script(ctx, token)
	switch {
	case err != nil:
		return r, muster.Pool{}, err
	case r.State == muster.RunnerDraining || r.State == muster.RunnerDestroyed || r.Drain != "" || gone(r):
		return r, muster.Pool{}, muster.Errorf(muster.CodeGone, "runner %s is no longer needed: %s", r.ID, firstOf(r.Reason, r.Drain))
	case installed(r):
		return r, muster.Pool{}, muster.Errorf(muster.CodeGone, "runner %s is installed: this token has done its work", r.ID)
	}
	pool, err := c.poolOf(ctx, r)
	if err != nil {
		return r, pool, fmt.Errorf("pool of %s: %w", r.ID, err)
	}
	return r, pool, nil
}

// ScriptInstalls notes that a script is at work.
func (c *Client) ScriptInstalls(ctx context.Context, token string) error {
	r, _, err := c.ScriptRunner(ctx, token)
	if err != nil {
		return err
	}
	_, err = c.connect(ctx, muster.BootToken{Workspace: r.Workspace, Runner: r.ID})
	return err
}

// ScriptReport takes a script's word that the runner was started, or that it could
// not be. It returns whose script it is.
func (c *Client) ScriptReport(ctx context.Context, token string, rep wire.Report) (r muster.Runner, err error) {
	defer func() { c.Observer.AgentReported(string(rep.Phase), err) }()
	r, err = c.script(ctx, token)
	if err != nil {
		return r, err
	}
	// Its job may have begun before it says that it listens; but what works cannot have
	// failed to be installed.
	if rep.Phase == wire.PhaseFinished && installed(r) {
		return r, muster.Errorf(muster.CodeGone, "runner %s is installed: this token has done its work", r.ID)
	}
	_, err = c.reported(ctx, r, rep)
	return r, err
}

// ScriptDownload is the archive of GitHub's runner for a system and an architecture,
// in GitHub's spelling.
func (c *Client) ScriptDownload(ctx context.Context, token, system, arch string) (muster.RunnerDownload, error) {
	r, pool, err := c.ScriptRunner(ctx, token)
	if err != nil {
		return muster.RunnerDownload{}, err
	}
	if r.Purpose == muster.PurposeCheck { // it is of no pool: any that uses the provider knows GitHub
		pools, err := c.Store.Pools(ctx, r.Workspace)
		if err != nil {
			return muster.RunnerDownload{}, fmt.Errorf("list pools: %w", err)
		}
		if i := slices.IndexFunc(pools, func(p muster.Pool) bool { return p.Provider == r.Provider && !p.Removed }); i >= 0 {
			pool = pools[i]
		}
	}
	gh, ok := c.GitHub[pool.App]
	if !ok {
		return muster.RunnerDownload{}, fmt.Errorf("app %s is not configured", pool.App)
	}
	all, err := gh.Downloads(ctx, pool.Scope)
	if err != nil {
		return muster.RunnerDownload{}, asUnavailable(err)
	}
	for _, d := range all {
		if d.OS == system && d.Arch == arch {
			return d, nil
		}
	}
	return muster.RunnerDownload{}, muster.Errorf(muster.CodeNotFound, "GitHub offers no runner for %s/%s", system, arch)
}
