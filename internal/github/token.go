package github

import (
	"context"
	"fmt"
	"net/http"

	"github.com/muster-ci/muster"
)

// TokenRegistration returns what a runner of the scope registers itself with by
// config.sh: the address, a token, and the group's name if it is not GitHub's
// default group, of which only the id (0 and 1 mean that one) is known here.
// Repositories have no groups. Like RegistrationToken, it counts as a registration.
func (c *Client) TokenRegistration(ctx context.Context, s muster.Scope, group int64) (muster.TokenRegistration, error) {
	var name string
	if group > 1 && s.Kind != muster.ScopeRepository {
		var g runnerGroup
		what := fmt.Sprintf("look up runner group %d of %s", group, s)
		_, err := c.scoped(ctx, s, request{
			what: what, method: http.MethodGet, class: ErrRegistration,
			route: route(s, "actions/runner-groups/{runner_group_id}"), path: path(s, "actions/runner-groups/%d", group),
			into: &g, lane: Critical,
		})
		if err != nil {
			return muster.TokenRegistration{}, err
		}
		if name = g.Name; name == "" {
			return muster.TokenRegistration{}, &muster.Error{Code: muster.CodeUnavailable, Message: what + ": GitHub's answer has no name", Err: classed(ErrRegistration, 0, nil)}
		}
	}
	token, expires, err := c.RegistrationToken(ctx, s)
	if err != nil {
		return muster.TokenRegistration{}, err
	}
	return muster.TokenRegistration{URL: webURL(c.base, s), Token: token, ExpiresAt: expires, Group: name}, nil
}
