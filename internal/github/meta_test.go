package github

import (
	"net/url"
	"slices"
	"testing"
)

func TestNeeds(t *testing.T) {
	m := meta{Web: []string{"192.30.252.0/22"}, Git: []string{"192.30.252.0/22", "2606:50c0::/32"}, Domains: map[string]any{
		"website":         []any{"*.github.com", "*.GitHubAssets.com"},
		"codespaces":      []any{"*.codespaces.github.com"},
		"actions_inbound": map[string]any{"full_domains": []any{"run-actions-1-azure-eastus.actions.githubusercontent.com"}, "wildcard_domains": []any{"*.Actions.githubusercontent.com", 7.0, "not a host"}},
	}}
	got := needsOf(m)
	for _, want := range []string{"192.30.252.0/22", "2606:50c0::/32", "run-actions-1-azure-eastus.actions.githubusercontent.com", "github.com", "productionresultssa19.blob.core.windows.net"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, not := range []string{"*.githubassets.com", "*.github.com", "*.codespaces.github.com", "not a host", "*.blob.core.windows.net"} {
		if slices.Contains(got, not) {
			t.Errorf("%s is nothing that a runner needs", not)
		}
	}
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Error("not sorted, or with some twice")
	}
	for base, want := range map[string][]string{
		"https://api.github.com/": nil, "https://ghes.example.com/api/v3/": {"ghes.example.com", "*.ghes.example.com"}, "http://127.0.0.1:8080/": {"127.0.0.1"}, "http://[::1]:80/": nil,
	} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		if got := ownHosts(u); want != nil && !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", base, got, want)
		}
	}
	u, _ := url.Parse("https://api.octo.ghe.com/")
	if got := ownHosts(u); !slices.Contains(got, "*.octo.ghe.com") || !slices.Contains(got, "github.com") {
		t.Errorf("data residency: %v", got)
	}
}
