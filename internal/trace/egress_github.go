package trace

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
)

// githubRunner is what a runner needs of github.com by GitHub's page on how self-hosted
// runners communicate, for the time when /meta cannot be asked. Names of storage that
// anybody can rent (*.blob.core.windows.net) are not among it: /meta lists GitHub's own.
var githubRunner = []string{
	"github.com", "api.github.com", "codeload.github.com", "uploads.github.com",
	"*.actions.githubusercontent.com", "actions.githubusercontent.com",
	"objects.githubusercontent.com", "objects-origin.githubusercontent.com",
	"raw.githubusercontent.com", "release-assets.githubusercontent.com",
	"github-releases.githubusercontent.com", "github-registry-files.githubusercontent.com",
	"github-cloud.githubusercontent.com", "github-cloud.s3.amazonaws.com",
	"ghcr.io", "*.pkg.github.com", "pkg-containers.githubusercontent.com",
}

// GitHubMeta returns what Egress.GitHub is to hold for a pool that is registered at
// server, a URL: the names that GET /meta lists for Actions and packages, and the networks
// of its API, git and packages. It returns a list that is of use with an error too: meta
// may be nil, or that of a GitHub Enterprise Server, which has no names in it.
func GitHubMeta(server string, meta []byte) ([]string, error) {
	var out []string
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return githubRunner, fmt.Errorf("read the address of GitHub: %q has no host", server)
	}
	host := u.Hostname()
	if host == "github.com" || host == "api.github.com" || host == "www.github.com" {
		out = slices.Clone(githubRunner)
	} else {
		out = append(out, host)
		if d, err := ParseDestination("*." + host); err == nil { // subdomain isolation, and the data residency of ghe.com
			out = append(out, d.String())
		}
	}
	if len(meta) == 0 {
		return out, nil
	}
	listed, err := readMeta(meta)
	return tidy(append(out, listed...)), err
}

// readMeta reads the answer of GET /meta. Of its networks `actions` is where hosted runners
// come from, and `hooks` where deliveries do: no job needs to reach those.
func readMeta(meta []byte) ([]string, error) {
	var m struct {
		Web      []string `json:"web"`
		API      []string `json:"api"`
		Git      []string `json:"git"`
		Packages []string `json:"packages"`
		Domains  struct {
			Packages       []string `json:"packages"`
			Actions        []string `json:"actions"`
			ActionsInbound struct {
				Full     []string `json:"full_domains"`
				Wildcard []string `json:"wildcard_domains"`
			} `json:"actions_inbound"`
			Attestations struct {
				Services []string `json:"services"`
			} `json:"artifact_attestations"`
		} `json:"domains"`
	}
	if err := json.Unmarshal(meta, &m); err != nil {
		return nil, fmt.Errorf("read GitHub's /meta: %w", err)
	}
	d := m.Domains
	return slices.Concat(m.Web, m.API, m.Git, m.Packages, d.Packages, d.Actions,
		d.ActionsInbound.Full, d.ActionsInbound.Wildcard, d.Attestations.Services), nil
}

// tidy returns the entries that can be read, in their own writing, once each and in order.
// What cannot be read, and whole shared domains such as *.blob.core.windows.net, on which
// anybody can rent a name, is left out: one new kind of line must not stop every job.
func tidy(entries []string) []string {
	var out []string
	for _, text := range entries {
		d, err := ParseDestination(text)
		if err != nil || d.Below && shared(d.Name) {
			continue
		}
		out = append(out, d.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}
