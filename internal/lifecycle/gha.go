package lifecycle

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// GHARunner trades a launch token for a registration token, for a node whose own
// script registers its runner: message 4 of the start workflow of Slurm's runners.
// The token of GitHub is asked for here and not before, because the job may have
// waited in a queue for longer than one lasts (S2-10, S2-11). slurmJob binds the launch
// token: the first job to show it may show it again for a while, because the answer may
// have been lost; to any other it is used.
//
// The error is CodeUnauthenticated for a token that is malformed, forged or expired,
// CodeForbidden for a genuine one of another place or job, CodeConflict for one that
// was used, CodeGone when the runner is no longer needed, and CodeUnavailable when the
// script should ask again (4-10).
func (c *Client) GHARunner(ctx context.Context, token, slurmJob string) (out wire.GHARunner, err error) {
	began := c.Now()
	claims, err := c.Tokens.VerifyBoot(token, began)
	if err != nil {
		return out, err
	}
	if slurmJob == "" {
		return out, muster.Errorf(muster.CodeInvalid, "the header %s must name the Slurm job", wire.SlurmJobHeader)
	}
	before, err := c.Store.Runner(ctx, claims.Workspace, claims.Runner)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return out, muster.Errorf(muster.CodeGone, "runner %s is no longer needed", claims.Runner)
	}
	if err != nil {
		return out, err
	}
	pool, err := c.Store.Pool(ctx, before.Workspace, before.Pool)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return out, muster.Errorf(muster.CodeGone, "pool %s is gone", before.Pool)
	}
	if err != nil {
		return out, err
	}
	// The pool may have been pointed elsewhere while the job waited in its queue.
	if place := strings.TrimRight(c.WebURL[pool.App], "/") + "/" + pool.Scope.String(); !strings.EqualFold(place, claims.Build.GitHubURL) {
		return out, muster.Errorf(muster.CodeForbidden, "the launch token is for %s, and pool %s serves %s now", claims.Build.GitHubURL, pool.Name, place)
	}
	if before.Instance != "" && before.Instance != slurmJob {
		return out, muster.Errorf(muster.CodeForbidden, "this launch token belongs to another Slurm job")
	}
	if pool.Registration != muster.RegistrationToken {
		return out, muster.Errorf(muster.CodeInvalid, "pool %s registers its runners by itself: set registration: token for runners that config.sh registers", pool.Name)
	}
	used, _, err := c.Store.UseBootToken(ctx, claims.JTI, "slurm-job/"+slurmJob, began, c.Times.BootWindow)
	if err != nil {
		return out, err
	}
	if used.Runner != claims.Runner {
		return out, muster.Errorf(muster.CodeForbidden, "this launch token belongs to another runner")
	}
	r, err := c.connect(ctx, used)
	if err != nil {
		return out, err
	}
	defer func() { c.Observer.Booted(r, err, c.Now().Sub(began)) }()
	gh, ok := c.GitHub[pool.App]
	if !ok {
		return out, c.bootRefused(ctx, r, fmt.Errorf("app %s is not configured", pool.App))
	}
	given, err := c.handToken(ctx, gh, pool, &r)
	if err != nil {
		return out, err
	}
	return wire.GHARunner{
		Token: given.Token, URL: given.URL, Name: r.Name, Labels: strings.Join(given.Labels, ","), Group: given.RunnerGroup,
		Ephemeral: true, NoJobSeconds: int(pool.NoJobTimeout / time.Second),
	}, nil
}
