package github

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/muster-ci/muster"
)

// runnerGroup is an organization's runner group as REST shows it.
type runnerGroup struct {
	ID                int64    `json:"id"`
	Name              string   `json:"name"`
	Visibility        string   `json:"visibility"`
	AllowsPublic      bool     `json:"allows_public_repositories"`
	RestrictedToFlows bool     `json:"restricted_to_workflows"`
	SelectedFlows     []string `json:"selected_workflows"`
}

// GroupProblem says why the runners of a group (0 means 1, GitHub's default group)
// never get the jobs of a repository: it refuses public ones, is open to others
// only, or to workflows of others only (4-30). "" if nothing speaks against it.
// Only organizations have groups that can be looked at; for other scopes it is
// "", too. Of a group that is restricted to workflows only their repositories are
// compared, since a job tells its workflow's name and not its file.
func (c *Client) GroupProblem(ctx context.Context, s muster.Scope, group int64, repository string, public bool) (string, error) {
	if s.Kind != muster.ScopeOrganization {
		return "", nil
	}
	group = max(group, 1)
	var g runnerGroup
	r := request{
		what:   fmt.Sprintf("look up runner group %d of %s", group, s),
		method: http.MethodGet,
		route:  route(s, "actions/runner-groups/{runner_group_id}"),
		path:   path(s, "actions/runner-groups/%d", group),
		into:   &g,
		lane:   Normal,
	}
	who, err := c.scopedAs(ctx, s, r)
	if err != nil {
		return "", err
	}
	_, err = c.send(ctx, who, r)
	switch {
	case muster.CodeOf(err) == muster.CodeNotFound:
		return fmt.Sprintf("%s has no runner group %d that the App may see", s, group), nil
	case err != nil:
		return "", err
	case g.ID == 0:
		return "", muster.Errorf(muster.CodeUnavailable, "%s: GitHub's answer has no id", r.what)
	}
	switch {
	case public && !g.AllowsPublic:
		return fmt.Sprintf("%s is public, and the group %q does not allow public repositories", repository, g.Name), nil
	case public && g.Visibility == "private":
		return fmt.Sprintf("%s is public, and the group %q is open to private repositories only", repository, g.Name), nil
	case g.Visibility == "selected":
		at := fmt.Sprintf("actions/runner-groups/%d/repositories?per_page=100", group)
		open, err := c.repositories(ctx, who, s, route(s, "actions/runner-groups/{runner_group_id}/repositories"), path(s, "%s", at))
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(open, func(o muster.RemoteRepository) bool { return strings.EqualFold(o.Name, repository) }) {
			return fmt.Sprintf("the group %q is open to selected repositories, and %s is none of its %d", g.Name, repository, len(open)), nil
		}
	}
	if g.RestrictedToFlows && !slices.ContainsFunc(g.SelectedFlows, func(w string) bool {
		return len(w) > len(repository) && strings.EqualFold(w[:len(repository)+1], repository+"/")
	}) {
		return fmt.Sprintf("the group %q is restricted to %d workflows, none of which is of %s", g.Name, len(g.SelectedFlows), repository), nil
	}
	return "", nil
}
