package github_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
)

// What a runner group refuses is said before anybody wonders why its idle
// runners get no job. 4-30
func TestGroupProblem(t *testing.T) {
	sim, c := simulator(t, githubsim.Config{})
	token, err := sim.CreateToken("octo-org", "repo", "admin:org")
	if err != nil {
		t.Fatal(err)
	}
	rest := func(method, path string, in, out any) {
		t.Helper()
		body, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, c.URL()+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
	var repo struct{ ID int64 }
	rest("GET", "/repos/octo-org/app", nil, &repo)
	group := func(in map[string]any) int64 {
		var g struct{ ID int64 }
		in["name"] = fmt.Sprint("group ", len(in), in["visibility"])
		rest("POST", "/orgs/octo-org/actions/runner-groups", in, &g)
		return g.ID
	}
	open := group(map[string]any{"visibility": "all", "allows_public_repositories": true})
	closed := group(map[string]any{"visibility": "all"})
	selected := group(map[string]any{"visibility": "selected", "selected_repository_ids": []int64{repo.ID}, "allows_public_repositories": true})
	flows := group(map[string]any{"visibility": "all", "allows_public_repositories": true, "restricted_to_workflows": true, "selected_workflows": []string{"octo-org/app/.github/workflows/deploy.yml@refs/heads/main"}})
	for _, tc := range []struct {
		name       string
		scope      muster.Scope
		group      int64
		repository string
		public     bool
		want       string
	}{
		{"Open", simOrg, open, "octo-org/lib", true, ""},
		{"PublicRefused", simOrg, closed, "octo-org/lib", true, "does not allow public repositories"},
		{"PrivateWelcome", simOrg, closed, "octo-org/app", false, ""},
		{"Selected", simOrg, selected, "Octo-Org/App", false, ""},
		{"NotSelected", simOrg, selected, "octo-org/lib", true, "open to selected repositories, and octo-org/lib is none of its 1"},
		{"WorkflowOfIt", simOrg, flows, "octo-org/app", false, ""},
		{"WorkflowOfOthers", simOrg, flows, "octo-org/lib", true, "restricted to 1 workflows, none of which is of octo-org/lib"},
		{"NoSuchGroup", simOrg, 999, "octo-org/app", false, "has no runner group 999"},
		{"Repository", muster.Scope{Kind: muster.ScopeRepository, Owner: "octo-org", Repo: "app"}, closed, "octo-org/app", false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := c.GroupProblem(t.Context(), tc.scope, tc.group, tc.repository, tc.public)
			if err != nil || (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
	if _, err := c.GroupProblem(t.Context(), muster.Scope{Kind: muster.ScopeOrganization, Owner: "elsewhere"}, 1, "elsewhere/app", false); muster.CodeOf(err) == "" {
		t.Error("an organization without the App is no error")
	}
}
