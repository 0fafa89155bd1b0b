package githubsim

import (
	"encoding/json"
	"fmt"
	"slices"
)

// actor is the user who does everything that nobody else does.
func (s *Server) actor() *account {
	a := s.accounts["monalisa"]
	if a == nil {
		a, _ = s.createAccount("monalisa", user)
	}
	return a
}

// subscribed reports whether anyone would get an event, before it is built.
func (s *Server) subscribed(r *repository, name string) bool {
	for _, a := range s.appList {
		for _, in := range a.installations {
			if a.hook.url != "" && in.covers(r) && in.suspendedAt.IsZero() && slices.Contains(in.events, name) {
				return true
			}
		}
	}
	return slices.ContainsFunc(r.webhooks(), func(h *hook) bool { return h.wants(name) })
}

// toRepository publishes an event of a repository to every App that is installed
// there and subscribes to it, and to the hooks of the repository and its owner.
// The caller holds mu.
func (s *Server) toRepository(r *repository, name, action string, members ...member) {
	for _, a := range s.appList {
		for _, in := range a.installations {
			if in.covers(r) && in.suspendedAt.IsZero() && slices.Contains(in.events, name) {
				s.publish(&a.hook, s.repositoryEvent(in, r, name, action, members))
			}
		}
	}
	for _, h := range r.webhooks() {
		if h.wants(name) {
			s.publish(h, s.repositoryEvent(nil, r, name, action, members))
		}
	}
}

func (s *Server) repositoryEvent(in *installation, r *repository, name, action string, members []member) *event {
	e := &event{name: name, action: action, repository: r.id}
	if action != "" {
		e.members = append(e.members, member{"action", encode(action)})
	}
	e.members = append(e.members, members...)
	repo := s.repositoryView(r, apiVersions[0])
	if name == "push" {
		repo = s.pushRepository(r)
	}
	e.members = append(e.members, member{"repository", repo})
	if r.owner.kind == organization {
		e.members = append(e.members, member{"organization", encode(s.organizationView(r.owner))})
	}
	if ent := r.owner.enterprise; ent != nil {
		e.members = append(e.members, member{"enterprise", s.accountView(ent)})
	}
	e.members = append(e.members, member{"sender", s.accountView(s.actor())})
	if in != nil {
		e.installation = in.id
		e.members = append(e.members, member{"installation", encode(installationRef(in))})
	}
	return e
}

func installationRef(in *installation) object {
	return object{"id": in.id, "node_id": nodeID("MDIz", in.id)}
}

// toApp publishes an event about an installation; these reach an App whether it
// subscribes or not.
func (s *Server) toApp(in *installation, name, action string, members ...member) {
	e := &event{name: name, action: action, installation: in.id}
	e.members = append(e.members, member{"action", encode(action)}, member{"installation", encode(s.installationView(in))})
	e.members = append(e.members, members...)
	if in.account.kind == organization {
		e.members = append(e.members, member{"organization", encode(s.organizationView(in.account))})
	}
	e.members = append(e.members, member{"sender", s.accountView(s.actor())})
	s.publish(&in.app.hook, e)
}

func (s *Server) emitInstallation(in *installation, action string) {
	s.toApp(in, "installation", action, member{"repositories", encode(refs(in.repositories()))}, member{"requester", []byte("null")})
}

func (s *Server) emitInstallationRepositories(in *installation, action string, repos []*repository) {
	added, removed := refs(repos), []object{}
	if action == "removed" {
		added, removed = removed, added
	}
	s.toApp(in, "installation_repositories", action, member{"repository_selection", encode(in.selection())},
		member{"repositories_added", encode(added)}, member{"repositories_removed", encode(removed)}, member{"requester", []byte("null")})
}

func refs(repos []*repository) []object {
	out := []object{}
	for _, r := range repos {
		out = append(out, object{"id": r.id, "node_id": nodeID("R", r.id), "name": r.name, "full_name": r.fullName(), "private": r.private})
	}
	return out
}

func (s *Server) emitPing(a *app) {
	s.publish(&a.hook, &event{name: "ping", members: []member{
		{"zen", encode(zen)},
		{"hook_id", encode(a.hook.id)},
		{"hook", encode(object{
			"type": "App", "id": a.hook.id, "name": "web", "active": true, "events": a.events, "config": a.hook.config(),
			"updated_at": stamp(a.updatedAt), "created_at": stamp(a.createdAt), "app_id": a.id, "deliveries_url": s.api() + "/app/hook/deliveries",
		})},
	}})
}

// pushRepository is the repository of a push, whose times are numbers.
func (s *Server) pushRepository(r *repository) json.RawMessage {
	v := s.repositoryObject(r, apiVersions[0])
	v["created_at"], v["pushed_at"] = r.createdAt.Unix(), r.pushedAt.Unix()
	v["stargazers"], v["master_branch"] = 0, "main"
	return encode(v)
}

func (s *Server) emitPush(r *repository, before string) {
	u := s.actor()
	person := object{"name": u.login, "email": u.login + "@example.com", "username": u.login}
	commit := object{
		"id": r.head, "tree_id": s.treeOf(r.head), "distinct": true, "message": commitMessage(r.pushes), "timestamp": stamp(r.pushedAt),
		"url": fmt.Sprintf("%s/%s/commit/%s", s.html(), r.fullName(), r.head), "author": person, "committer": person,
		"added": []string{}, "removed": []string{}, "modified": []string{"README.md"},
	}
	s.toRepository(r, "push", "",
		member{"ref", encode("refs/heads/main")}, member{"before", encode(before)}, member{"after", encode(r.head)},
		member{"created", encode(false)}, member{"deleted", encode(false)}, member{"forced", encode(false)}, member{"base_ref", []byte("null")},
		member{"compare", encode(fmt.Sprintf("%s/%s/compare/%s...%s", s.html(), r.fullName(), before[:12], r.head[:12]))},
		member{"commits", encode([]object{commit})}, member{"head_commit", encode(commit)},
		member{"pusher", encode(object{"name": u.login, "email": u.login + "@example.com"})})
}

func commitMessage(n int) string { return fmt.Sprintf("Change number %d", n) }

// treeOf is the tree of a commit: only its shape matters.
func (s *Server) treeOf(commit string) string { return blobSHA([]byte("tree of " + commit)) }

// emitJob publishes one event of a job's life.
func (s *Server) emitJob(j *job, action string) {
	j.emitted = append(j.emitted, action)
	s.emitCheckRun(j, action)
	if !s.subscribed(j.run.repo, "workflow_job") {
		return
	}
	members := []member{{"workflow_job", encode(s.jobView(j))}}
	if j.deployment != nil {
		members = append(members, member{"deployment", encode(s.deploymentView(j.deployment))})
	}
	s.toRepository(j.run.repo, "workflow_job", action, members...)
	if action == "completed" && s.chance.hit("check run noise", s.faults.now().CheckRunNoise) {
		s.emitNoise(j)
	}
}

// emitNoise publishes the completed event of a check run that a step made: it
// looks like a job that ran nowhere and asked for nothing.
func (s *Server) emitNoise(j *job) {
	s.fault("check run noise")
	view := s.jobView(j)
	id := s.id(&s.ids.job)
	view["id"], view["name"] = id, "lint report"
	view["node_id"], view["labels"], view["steps"] = nodeID("CR", id), []string{}, []object{}
	view["conclusion"], view["status"] = "success", "completed"
	view["url"], view["check_run_url"] = s.jobURL(j.run.repo, id), s.checkURL(j.run.repo, id)
	for _, name := range []string{"runner_id", "runner_name", "runner_group_id", "runner_group_name"} {
		view[name] = nil
	}
	s.toRepository(j.run.repo, "workflow_job", "completed", member{"workflow_job", encode(view)})
}

// emitRun publishes requested, in_progress or completed of a run.
func (s *Server) emitRun(r *run, action string) {
	if !s.subscribed(r.repo, "workflow_run") {
		return
	}
	s.toRepository(r.repo, "workflow_run", action,
		member{"workflow_run", encode(s.runView(r, r.latest()))}, member{"workflow", encode(s.workflowView(r.repo, r.workflow))})
}

// emitCheckRun publishes the check run behind a job.
func (s *Server) emitCheckRun(j *job, action string) {
	switch action {
	case "queued", "waiting":
		action = "created"
	case "completed":
	default:
		return
	}
	if s.subscribed(j.run.repo, "check_run") {
		s.toRepository(j.run.repo, "check_run", action, member{"check_run", encode(s.checkView(s.checkOfJob(j)))})
	}
}
