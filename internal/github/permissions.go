package github

import (
	"fmt"
	"maps"
	"slices"

	"github.com/muster-ci/muster"
)

// Feature is something that Muster can do on GitHub and that costs permissions.
type Feature string

// The features. An App needs the permissions of those that its pools use, and no
// others (S0-6, C7).
const (
	// FeatureJobs receives the events of jobs and asks about them.
	FeatureJobs Feature = "jobs"
	// FeatureManageRuns cancels and repeats runs.
	FeatureManageRuns Feature = "manage_runs"
	// FeatureOrganizationRunners registers and removes runners of organizations.
	FeatureOrganizationRunners Feature = "organization_runners"
	// FeatureRepositoryRunners registers and removes runners of repositories.
	FeatureRepositoryRunners Feature = "repository_runners"
	// FeatureBusyCheck looks at runners of repositories that it did not register.
	FeatureBusyCheck Feature = "busy_check"
	// FeatureChecks reports on jobs by check runs.
	FeatureChecks Feature = "checks"
	// FeatureRuns follows whole runs.
	FeatureRuns Feature = "runs"
	// FeatureWorkflowFiles reads workflow files and notices changes to them.
	FeatureWorkflowFiles Feature = "workflow_files"
)

// need is what a feature costs.
type need struct {
	permissions map[string]string
	events      []string
}

// needs is the table of C7. Every App has metadata: read, which GitHub grants
// with any other permission.
var needs = map[Feature]need{
	FeatureJobs:                {map[string]string{"actions": "read", "metadata": "read"}, []string{"workflow_job"}},
	FeatureManageRuns:          {map[string]string{"actions": "write", "metadata": "read"}, nil},
	FeatureOrganizationRunners: {map[string]string{"organization_self_hosted_runners": "write", "metadata": "read"}, nil},
	FeatureRepositoryRunners:   {map[string]string{"administration": "write", "metadata": "read"}, nil},
	FeatureBusyCheck:           {map[string]string{"administration": "read", "metadata": "read"}, nil},
	FeatureChecks:              {map[string]string{"checks": "write", "metadata": "read"}, nil},
	FeatureRuns:                {map[string]string{"actions": "read", "metadata": "read"}, []string{"workflow_run"}},
	FeatureWorkflowFiles:       {map[string]string{"contents": "read", "metadata": "read"}, []string{"push"}},
}

// TracedProfile is the profile of a traced JIT runner service: exactly Actions
// and Checks read & write, Metadata read, and the organization's self-hosted
// runners read & write (S0-7…S0-10).
var TracedProfile = []Feature{FeatureJobs, FeatureManageRuns, FeatureChecks, FeatureOrganizationRunners}

// Features are all features, in a fixed order.
func Features() []Feature { return slices.Sorted(maps.Keys(needs)) }

// FeaturesOf returns what a pool needs.
func FeaturesOf(p muster.Pool) []Feature {
	features := []Feature{FeatureJobs}
	switch p.Scope.Kind {
	case muster.ScopeOrganization:
		features = append(features, FeatureOrganizationRunners)
	case muster.ScopeRepository:
		features = append(features, FeatureRepositoryRunners)
	}
	if p.ReportChecks {
		features = append(features, FeatureChecks)
	}
	return features
}

var levels = map[string]int{"read": 1, "write": 2, "admin": 3}

// Permissions returns the least permissions that the features need, by GitHub's names.
func Permissions(features []Feature) map[string]string {
	out := map[string]string{}
	for _, f := range features {
		for name, level := range needs[f].permissions {
			if levels[level] > levels[out[name]] {
				out[name] = level
			}
		}
	}
	return out
}

// Events returns the webhook events that the features need, sorted. Events about
// installations reach every App without being asked for.
func Events(features []Feature) []string {
	var out []string
	for _, f := range features {
		out = append(out, needs[f].events...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// MissingPermissions compares what an App or an installation has with what the
// features need, and returns a sentence for each permission that is missing or
// too small; nil if nothing is.
func MissingPermissions(have map[string]string, features []Feature) []string {
	var out []string
	wanted := Permissions(features)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		level := wanted[name]
		if levels[have[name]] >= levels[level] {
			continue
		}
		granted := have[name]
		if granted == "" {
			granted = "nothing"
		}
		var uses []Feature
		for _, f := range features {
			if levels[needs[f].permissions[name]] > levels[have[name]] {
				uses = append(uses, f)
			}
		}
		slices.Sort(uses)
		out = append(out, fmt.Sprintf("permission %s: %s is needed for %v, and %s is granted", name, level, slices.Compact(uses), granted))
	}
	return out
}

// MissingEvents returns the events that the features need and have lacks, sorted.
func MissingEvents(have []string, features []Feature) []string {
	return slices.DeleteFunc(Events(features), func(e string) bool { return slices.Contains(have, e) })
}

// Manifest is what GitHub makes an App from (docs.github.com, "Registering a
// GitHub App from a manifest"); its JSON is the form field "manifest".
type Manifest struct {
	Name           string            `json:"name"`
	URL            string            `json:"url"`
	Hook           ManifestHook      `json:"hook_attributes"`
	RedirectURL    string            `json:"redirect_url,omitempty"`
	CallbackURLs   []string          `json:"callback_urls,omitempty"`
	SetupURL       string            `json:"setup_url,omitempty"`
	Description    string            `json:"description,omitempty"`
	Public         bool              `json:"public"`
	DefaultEvents  []string          `json:"default_events"`
	DefaultPermits map[string]string `json:"default_permissions"`
}

// ManifestHook is where the App's webhooks go.
type ManifestHook struct {
	URL    string `json:"url"`
	Active bool   `json:"active"`
}

// NewManifest describes an App with just what the features need. Home is a page
// about the App, webhook where GitHub delivers, redirect where it sends the
// browser with the code to be converted.
func NewManifest(name, home, webhook, redirect string, features []Feature) Manifest {
	return Manifest{
		Name:           name,
		URL:            home,
		Hook:           ManifestHook{URL: webhook, Active: webhook != ""},
		RedirectURL:    redirect,
		Description:    "Gathers runners for GitHub Actions on demand",
		DefaultEvents:  Events(features),
		DefaultPermits: Permissions(features),
	}
}
