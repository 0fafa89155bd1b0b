package lifecycle

import (
	"context"
	"fmt"
	"time"

	"github.com/muster-ci/muster"
)

// healthTimeout bounds one look at a runner on GitHub.
const healthTimeout = 10 * time.Second

// Healthy reports whether GitHub lists the runner as online (S1-75). Whatever
// keeps it from being known counts as no: a runner that is not registered, a
// registration that is gone, GitHub out of reach. It costs one call to GitHub.
func (c *Client) Healthy(ctx context.Context, workspace string, id muster.RunnerID) bool {
	return c.online(ctx, workspace, id)
}

func (d *Deps) online(ctx context.Context, workspace string, id muster.RunnerID) bool {
	r, err := d.Store.Runner(ctx, workspace, id)
	if err != nil || r.GitHubID == 0 || !r.State.Live() {
		return false
	}
	pool, err := d.Store.Pool(ctx, workspace, r.Pool)
	if err != nil {
		return false
	}
	gh, ok := d.GitHub[pool.App]
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	remote, err := gh.Runner(ctx, pool.Scope, r.GitHubID)
	return err == nil && remote.Online
}

// rotationRetry is when a rotation is decided anew that waits for GitHub.
const rotationRetry = 15 * time.Second

// holdRotation lets a rotation end the old runner only when GitHub lists the
// youngest of those that stay, which is the one that was made in its place, as
// online (S1-73). Until then the old one is kept; its maximum age bounds that.
func (a *Activities) holdRotation(ctx context.Context, snap muster.Snapshot, d muster.Decision, now time.Time) muster.Decision {
	if d.Rule != muster.RuleRotation || len(d.Drain) == 0 {
		return d
	}
	var youngest muster.PlanRunner
	for _, r := range snap.Runners {
		if r.ID != d.Drain[0] && !r.IdleSince.IsZero() && r.CreatedAt.After(youngest.CreatedAt) {
			youngest = r
		}
	}
	if a.online(ctx, snap.Pool.Workspace, youngest.ID) {
		return d
	}
	d.Action, d.Target = muster.Maintain, d.Current
	d.Reason = fmt.Sprintf("runner %s stays until GitHub lists %s, which is to take its place, as online", d.Drain[0], youngest.ID)
	d.Drain = nil
	if retry := now.Add(rotationRetry); d.WakeAt.IsZero() || retry.Before(d.WakeAt) {
		d.WakeAt = retry
	}
	return d
}
