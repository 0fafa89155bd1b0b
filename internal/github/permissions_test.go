package github_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/github"
)

func TestTracedProfileAsksForExactlyFour(t *testing.T) { // S0-6 S0-7 S0-8 S0-9 S0-10 C7
	m := github.NewManifest("muster", "https://muster.example", "https://muster.example/github/webhook/muster", "https://muster.example/setup", github.TracedProfile)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var sent struct {
		Permissions map[string]string `json:"default_permissions"`
		Events      []string          `json:"default_events"`
		Hook        struct {
			URL    string `json:"url"`
			Active bool   `json:"active"`
		} `json:"hook_attributes"`
		Public bool `json:"public"`
	}
	if err := json.Unmarshal(text, &sent); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"actions":                          "write",
		"checks":                           "write",
		"metadata":                         "read",
		"organization_self_hosted_runners": "write",
	}
	if !maps.Equal(sent.Permissions, want) {
		t.Errorf("permissions %v, want exactly %v", sent.Permissions, want)
	}
	if !slices.Equal(sent.Events, []string{"workflow_job"}) || !sent.Hook.Active || sent.Hook.URL != "https://muster.example/github/webhook/muster" || sent.Public {
		t.Errorf("%+v", sent)
	}
}

func TestPermissionsOfPools(t *testing.T) { // C7
	orgPool := muster.Pool{Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "o"}}
	repoPool := muster.Pool{Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "o", Repo: "r"}, ReportChecks: true}
	if got := github.Permissions(github.FeaturesOf(orgPool)); !maps.Equal(got, map[string]string{
		"actions": "read", "metadata": "read", "organization_self_hosted_runners": "write",
	}) {
		t.Errorf("organization: %v", got)
	}
	if got := github.Permissions(github.FeaturesOf(repoPool)); !maps.Equal(got, map[string]string{
		"actions": "read", "metadata": "read", "administration": "write", "checks": "write",
	}) {
		t.Errorf("repository: %v", got)
	}
	// The greater of two levels counts, whatever the order.
	for _, features := range [][]github.Feature{
		{github.FeatureBusyCheck, github.FeatureRepositoryRunners},
		{github.FeatureRepositoryRunners, github.FeatureBusyCheck},
	} {
		if got := github.Permissions(features)["administration"]; got != "write" {
			t.Errorf("%v: administration %s", features, got)
		}
	}
	if got := github.Events(github.Features()); !slices.Equal(got, []string{"push", "workflow_job", "workflow_run"}) {
		t.Errorf("events of all features: %v", got)
	}
}

func TestMissingPermissions(t *testing.T) { // C7: named at start-up, not as a 403 later
	features := []github.Feature{github.FeatureJobs, github.FeatureChecks, github.FeatureOrganizationRunners, github.FeatureManageRuns}
	if got := github.MissingPermissions(map[string]string{"actions": "admin", "checks": "write", "metadata": "read", "organization_self_hosted_runners": "write", "contents": "write"}, features); got != nil {
		t.Errorf("nothing is missing, but %q", got)
	}
	got := github.MissingPermissions(map[string]string{"actions": "read", "metadata": "read", "organization_self_hosted_runners": "read"}, features)
	if len(got) != 3 {
		t.Fatalf("%q", got)
	}
	for i, words := range [][]string{
		{"actions: write", "manage_runs", "read is granted"},
		{"checks: write", "checks", "nothing is granted"},
		{"organization_self_hosted_runners: write", "organization_runners", "read is granted"},
	} {
		for _, w := range words {
			if !strings.Contains(got[i], w) {
				t.Errorf("%q does not say %q", got[i], w)
			}
		}
	}
	if strings.Contains(got[0], "jobs ") || strings.Contains(got[0], "[jobs") {
		t.Errorf("%q blames a feature that has what it needs", got[0])
	}
	if got := github.MissingEvents([]string{"push"}, github.Features()); !slices.Equal(got, []string{"workflow_job", "workflow_run"}) {
		t.Errorf("missing events %v", got)
	}
}
