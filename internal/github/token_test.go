package github_test

import (
	"net/http"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
)

// C4 S1-9: address, token and the group's name for every kind of scope, from a GitHub that then takes them.
func TestTokenRegistration(t *testing.T) {
	sim, c := simulator(t, githubsim.Config{})
	base := sim.URL()
	for _, tc := range []struct {
		scope muster.Scope
		group int64
		url   string
		code  muster.Code
	}{
		{muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo-org"}, 1, base + "/octo-org", ""},
		{muster.Scope{Kind: muster.ScopeRepository, Owner: "octo-org", Repo: "app"}, 7, base + "/octo-org/app", ""}, // repositories have no groups
		{muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo-org"}, 99999, "", muster.CodeNotFound},
		{muster.Scope{Kind: muster.ScopeOrganization, Owner: "nobody"}, 1, "", muster.CodeNotFound},
	} {
		got, err := c.TokenRegistration(t.Context(), tc.scope, tc.group)
		if muster.CodeOf(err) != tc.code || tc.code == "" && (got.URL != tc.url || got.Token == "" || got.Group != "" || got.ExpiresAt.IsZero()) {
			t.Errorf("%s, group %d: %+v, %v", tc.scope, tc.group, got, err)
		}
	}
}

// C4: a group that is not the default one is named, since config.sh takes no ids.
func TestTokenRegistrationNamesTheGroup(t *testing.T) {
	s := newStub(t)
	s.on["GET /orgs/Octo-Org/actions/runner-groups/7"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"id":7,"name":"big machines"}`)
	}
	s.on["POST /orgs/Octo-Org/actions/runners/registration-token"] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"2036-01-01T00:00:00Z"}`)
	}
	org := muster.Scope{Kind: muster.ScopeOrganization, Owner: "Octo-Org"}
	got, err := newClient(t, s, withToken(canaryPAT)).TokenRegistration(t.Context(), org, 7)
	if err != nil || got.Group != "big machines" || got.Token.Reveal() != canaryRegist {
		t.Errorf("%+v, %v", got, err)
	}
}
