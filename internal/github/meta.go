package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// needsFor is how long what GitHub's services need is not asked again.
const needsFor = time.Hour

// reach remembers what GitHub's services need. The zero value is ready.
type reach struct {
	mu   sync.Mutex
	at   time.Time
	last []string
}

// meta is what of GET /meta is used.
type meta struct {
	Web      []string `json:"web"`
	API      []string `json:"api"`
	Git      []string `json:"git"`
	Packages []string `json:"packages"`
	// Domains are lists of hosts and wildcards by use; some uses are objects of lists.
	Domains map[string]any `json:"domains"`
}

// needed are the uses of domains that a runner or an action has. "website" is not: it is a
// wildcard under which there are gists.
var needed = []string{"packages", "actions", "actions_inbound", "artifact_attestations"}

// always is what GitHub's documentation says that self-hosted runners reach, for when
// GET /meta tells less.
var always = []string{
	"github.com", "api.github.com", "codeload.github.com", "uploads.github.com", "ghcr.io", "*.pkg.github.com", "pkg-containers.githubusercontent.com",
	"actions.githubusercontent.com", "*.actions.githubusercontent.com", "objects.githubusercontent.com", "objects-origin.githubusercontent.com", "raw.githubusercontent.com",
	"release-assets.githubusercontent.com", "github-releases.githubusercontent.com", "github-registry-files.githubusercontent.com", "github-cloud.githubusercontent.com",
	"github-cloud.s3.amazonaws.com", "dependabot-actions.githubapp.com",
}

// Needs are the hosts, wildcards and networks that runners and actions need of the GitHub
// that this client talks to. GitHub's own list is asked for once an hour, as the App at a
// scope; a server of its own needs its own hosts. With an error comes what was known last,
// or what GitHub documents.
func (c *Client) Needs(ctx context.Context, s muster.Scope) ([]string, error) {
	if own := ownHosts(c.base); own != nil {
		return own, nil
	}
	c.reach.mu.Lock() // who comes while it is asked waits for the same answer
	defer c.reach.mu.Unlock()
	if c.reach.last == nil {
		c.reach.last = needsOf(meta{})
	}
	if time.Since(c.reach.at) < needsFor {
		return slices.Clone(c.reach.last), nil
	}
	var m meta
	_, err := c.scoped(ctx, s, request{what: "ask what GitHub's services need", method: http.MethodGet, route: "meta", path: "meta", into: &m, lane: Background})
	if err != nil {
		return slices.Clone(c.reach.last), err
	}
	c.reach.at, c.reach.last = time.Now(), needsOf(m)
	return slices.Clone(c.reach.last), nil
}

// ownHosts are the hosts of a GitHub that is not github.com, nil for github.com.
func ownHosts(base *url.URL) []string {
	host := strings.ToLower(base.Hostname())
	switch {
	case host == "api.github.com":
		return nil
	case strings.HasPrefix(host, "api.") && strings.HasSuffix(host, ".ghe.com"):
		// Data residency: a part of github.com with names of its own.
		own := strings.TrimPrefix(host, "api.")
		return append([]string{own, "*." + own}, needsOf(meta{})...)
	case strings.Trim(host, "0123456789.:") == "":
		return []string{host}
	}
	return []string{host, "*." + host} // a server that isolates its services has them below its name
}

// needsOf are the entries of an allow list that GitHub's list makes, sorted, each once.
func needsOf(m meta) []string {
	out := slices.Clone(always)
	for i := range 20 {
		out = append(out, fmt.Sprintf("productionresultssa%d.blob.core.windows.net", i)) // logs, caches and artifacts
	}
	for _, use := range needed {
		out = append(out, texts(m.Domains[use])...)
	}
	for _, networks := range [][]string{m.Web, m.API, m.Git, m.Packages} {
		out = append(out, networks...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// texts are all the texts in a value, however deep.
func texts(v any) (out []string) {
	switch v := v.(type) {
	case string:
		if v != "" && !strings.ContainsAny(v, " /@") {
			out = append(out, strings.ToLower(v))
		}
	case []any:
		for _, e := range v {
			out = append(out, texts(e)...)
		}
	case map[string]any:
		for _, e := range v {
			out = append(out, texts(e)...)
		}
	}
	return out
}

// FindCheck is the id of the check run with the name and the ExternalID of check at its
// commit, 0 if there is none.
func (c *Client) FindCheck(ctx context.Context, repository string, check Check) (int64, error) {
	s, err := repoPath(repository)
	if err != nil {
		return 0, err
	}
	var out struct {
		Runs []struct {
			ID         int64  `json:"id"`
			ExternalID string `json:"external_id"`
		} `json:"check_runs"`
	}
	_, err = c.scoped(ctx, s, request{
		what: "look for a check on " + repository, method: http.MethodGet, lane: Background, into: &out,
		route: route(s, "commits/{ref}/check-runs"), path: path(s, "commits/%s/check-runs?filter=all&per_page=100&check_name=%s", url.PathEscape(check.HeadSHA), url.QueryEscape(check.Name)),
	})
	if muster.CodeOf(err) == muster.CodeNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, r := range out.Runs {
		if r.ExternalID == check.ExternalID {
			return r.ID, nil
		}
	}
	return 0, nil
}
