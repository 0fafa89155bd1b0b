package githubsim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
)

// nodeID has the shape of a GraphQL id: a prefix and something opaque.
func nodeID(prefix string, id int64) string {
	var b [9]byte
	b[0] = 0x93
	binary.BigEndian.PutUint64(b[1:], uint64(id))
	return prefix + "_kw" + base64.RawURLEncoding.EncodeToString(b[:])
}

// accountView is GitHub's "simple-user", or "enterprise". It never changes, so it
// is made once.
func (s *Server) accountView(a *account) json.RawMessage {
	if a.view == nil {
		if a.kind == enterprise {
			a.view = encode(s.enterpriseView(a))
		} else {
			a.view = encode(s.userView(a))
		}
	}
	return a.view
}

func (s *Server) userView(a *account) object {
	api, prefix := s.api()+"/users/"+a.login, "U"
	self, repos, events := api, api+"/repos", api+"/events{/privacy}"
	if a.kind == organization {
		prefix = "O"
	}
	return object{
		"login": a.login, "id": a.id, "node_id": nodeID(prefix, a.id), "avatar_url": fmt.Sprintf("%s/avatars/u/%d?v=4", s.html(), a.id), "gravatar_id": "",
		"url": self, "html_url": s.html() + "/" + a.login, "followers_url": api + "/followers", "following_url": api + "/following{/other_user}",
		"gists_url": api + "/gists{/gist_id}", "starred_url": api + "/starred{/owner}{/repo}", "subscriptions_url": api + "/subscriptions",
		"organizations_url": api + "/orgs", "repos_url": repos, "events_url": events, "received_events_url": api + "/received_events",
		"type": string(a.kind), "user_view_type": "public", "site_admin": false,
	}
}

func (s *Server) enterpriseView(a *account) object {
	return object{
		"id": a.id, "slug": a.login, "name": a.login, "node_id": nodeID("E", a.id), "avatar_url": fmt.Sprintf("%s/avatars/b/%d?v=4", s.html(), a.id),
		"description": nil, "website_url": nil, "html_url": s.html() + "/enterprises/" + a.login,
		"created_at": stamp(a.createdAt), "updated_at": stamp(a.createdAt),
	}
}

// organizationView is the member "organization" of webhooks.
func (s *Server) organizationView(a *account) object {
	api := s.api() + "/orgs/" + a.login
	return object{
		"login": a.login, "id": a.id, "node_id": nodeID("O", a.id), "url": api, "repos_url": api + "/repos", "events_url": api + "/events",
		"hooks_url": api + "/hooks", "issues_url": api + "/issues", "members_url": api + "/members{/member}",
		"public_members_url": api + "/public_members{/member}", "avatar_url": fmt.Sprintf("%s/avatars/u/%d?v=4", s.html(), a.id), "description": "",
	}
}

// repositoryLinks are the links of a repository that hang off its API URL.
var repositoryLinks = map[string]string{
	"archive_url": "/{archive_format}{/ref}", "assignees_url": "/assignees{/user}", "blobs_url": "/git/blobs{/sha}", "branches_url": "/branches{/branch}",
	"collaborators_url": "/collaborators{/collaborator}", "comments_url": "/comments{/number}", "commits_url": "/commits{/sha}",
	"compare_url": "/compare/{base}...{head}", "contents_url": "/contents/{+path}", "contributors_url": "/contributors", "deployments_url": "/deployments",
	"downloads_url": "/downloads", "events_url": "/events", "forks_url": "/forks", "git_commits_url": "/git/commits{/sha}", "git_refs_url": "/git/refs{/sha}",
	"git_tags_url": "/git/tags{/sha}", "hooks_url": "/hooks", "issue_comment_url": "/issues/comments{/number}", "issue_events_url": "/issues/events{/number}",
	"issues_url": "/issues{/number}", "keys_url": "/keys{/key_id}", "labels_url": "/labels{/name}", "languages_url": "/languages", "merges_url": "/merges",
	"milestones_url": "/milestones{/number}", "notifications_url": "/notifications{?since,all,participating}", "pulls_url": "/pulls{/number}",
	"releases_url": "/releases{/id}", "stargazers_url": "/stargazers", "statuses_url": "/statuses/{sha}", "subscribers_url": "/subscribers",
	"subscription_url": "/subscription", "tags_url": "/tags", "teams_url": "/teams", "trees_url": "/git/trees{/sha}",
}

// minimalRepositoryView is the repository inside a workflow run.
func (s *Server) minimalRepositoryView(r *repository) json.RawMessage {
	if r.small == nil {
		r.small = encode(s.repositoryBase(r))
	}
	return r.small
}

func (s *Server) repositoryBase(r *repository) object {
	api := s.api() + "/repos/" + r.fullName()
	v := object{
		"id": r.id, "node_id": nodeID("R", r.id), "name": r.name, "full_name": r.fullName(), "owner": s.accountView(r.owner), "private": r.private,
		"html_url": s.html() + "/" + r.fullName(), "description": nil, "fork": false, "url": api,
	}
	for name, rest := range repositoryLinks {
		v[name] = api + rest
	}
	return v
}

// repositoryView is the repository of webhooks and lists. It is made once per
// version of the API, because it is most of every payload.
func (s *Server) repositoryView(r *repository, version string) json.RawMessage {
	if v := r.byVersion[version]; v != nil {
		return v
	}
	if r.byVersion == nil {
		r.byVersion = map[string]json.RawMessage{}
	}
	r.byVersion[version] = encode(s.repositoryObject(r, version))
	return r.byVersion[version]
}

func (s *Server) repositoryObject(r *repository, version string) object {
	v := s.repositoryBase(r)
	html, visibility := s.html()+"/"+r.fullName(), "public"
	if r.private {
		visibility = "private"
	}
	_, host, _ := strings.Cut(s.html(), "://")
	for name, value := range (object{
		"git_url": "git://" + host + "/" + r.fullName() + ".git", "ssh_url": "git@" + host + ":" + r.fullName() + ".git", "clone_url": html + ".git", "svn_url": html,
		"homepage": nil, "mirror_url": nil, "language": nil, "license": nil, "size": 1, "stargazers_count": 0, "watchers_count": 0, "forks_count": 0,
		"open_issues_count": 0, "forks": 0, "open_issues": 0, "watchers": 0, "default_branch": "main", "is_template": false, "topics": []string{},
		"has_issues": true, "has_projects": true, "has_wiki": true, "has_pages": false, "has_discussions": false, "archived": false, "disabled": false,
		"visibility": visibility, "allow_forking": true, "web_commit_signoff_required": false, "custom_properties": object{},
		"pushed_at": stamp(r.pushedAt), "created_at": stamp(r.createdAt), "updated_at": stamp(r.createdAt),
	}) {
		v[name] = value
	}
	if version != newestVersion {
		v["has_downloads"] = true
	}
	return v
}

// fullRepositoryView is the answer of GET /repos/{owner}/{repo}.
func (s *Server) fullRepositoryView(r *repository, version string) object {
	v := s.repositoryObject(r, version)
	v["network_count"], v["subscribers_count"] = 0, 0
	v["permissions"] = object{"admin": false, "maintain": false, "push": false, "triage": false, "pull": true}
	if r.owner.kind == organization {
		v["organization"] = s.accountView(r.owner)
	}
	return v
}
