package githubsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow"
)

// workflowFile is a workflow of a repository, with the numbers of its runs.
type workflowFile struct {
	id        int64
	path      string
	name      string
	parsed    *workflow.Workflow // nil for injected jobs and for files that GitHub refuses
	problem   error
	createdAt time.Time
	runs      int
}

// environment is a deployment environment of a repository.
type environment struct {
	id    int64
	name  string
	gated bool
}

// deployment is what an environment's gate decides upon.
type deployment struct {
	id                   int64
	repo                 *repository
	environment          *environment
	head                 string
	createdAt, updatedAt time.Time
}

func (s *Server) environment(r *repository, name string) *environment {
	key := strings.ToLower(name)
	if r.gates[key] == nil {
		r.gates[key] = &environment{id: s.id(&s.ids.environment), name: name}
	}
	return r.gates[key]
}

// workflowFile finds a repository's workflow by path, or remembers a new one.
func (s *Server) workflowFile(r *repository, file, name string) *workflowFile {
	for _, w := range r.workflows {
		if w.path == file {
			return w
		}
	}
	w := &workflowFile{id: s.id(&s.ids.workflow), path: file, name: name, createdAt: s.now()}
	r.workflows = append(r.workflows, w)
	return w
}

const workflowFolder = ".github/workflows"

// Trigger lets an event happen in a repository and starts the workflow at
// workflowPath for it: "push" makes a new commit first. With an empty path every
// workflow that listens to the event starts, and the last run's id is returned.
// A file that GitHub would refuse gives a run that failed at start-up.
func (s *Server) Trigger(repo, workflowPath, event string) (int64, error) {
	return s.Dispatch(repo, workflowPath, event, nil)
}

// Dispatch is Trigger with the inputs of a workflow_dispatch.
func (s *Server) Dispatch(repo, workflowPath, event string, inputs map[string]any) (int64, error) {
	files, names, err := s.readWorkflows(repo, workflowPath)
	if err != nil {
		return 0, fmt.Errorf("trigger %s in %s: %w", event, repo, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.needRepository(repo)
	if err != nil {
		return 0, fmt.Errorf("trigger %s: %w", event, err)
	}
	if event == "push" {
		s.push(r)
	}
	s.act(Act{Dispatch: &DispatchAct{Repo: repo, Workflow: workflowPath, Event: event, Inputs: inputs}})
	var last int64
	for _, name := range names {
		w := s.workflowFile(r, name, name)
		w.parsed, w.problem = workflow.Parse(name, files[name])
		if w.problem == nil {
			w.name = w.parsed.Name
			if !w.parsed.TriggeredBy(workflow.Event{Name: event, Ref: "refs/heads/main"}) {
				continue
			}
		}
		last = s.newRun(r, w, event, inputs).id
	}
	if last == 0 {
		return 0, fmt.Errorf("trigger %s in %s: no workflow listens to it", event, repo)
	}
	return last, nil
}

// readWorkflows reads one workflow file or all of them, without the lock.
func (s *Server) readWorkflows(repo, file string) (files map[string][]byte, names []string, err error) {
	s.mu.Lock()
	r, err := s.needRepository(repo)
	s.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if r.files == nil {
		return nil, nil, errors.New("the repository has no files")
	}
	if file == "" {
		for _, pattern := range []string{"*.yml", "*.yaml"} {
			found, err := fs.Glob(r.files, path.Join(workflowFolder, pattern))
			if err != nil {
				return nil, nil, err
			}
			names = append(names, found...)
		}
		slices.Sort(names)
	} else if names = []string{file}; !strings.Contains(file, "/") {
		names[0] = path.Join(workflowFolder, file)
	}
	files = map[string][]byte{}
	for _, name := range names {
		if files[name], err = fs.ReadFile(r.files, name); err != nil {
			return nil, nil, err
		}
	}
	return files, names, nil
}

func (s *Server) push(r *repository) {
	before := r.head
	r.head, r.pushedAt = s.chance.text("commit", 40, hexDigits), s.now()
	r.pushes++
	r.byVersion = nil
	s.emitPush(r, before)
}

// payload is the event that a workflow sees as github.event.
func (s *Server) payload(r *repository, event string, inputs map[string]any) object {
	p := object{"repository": json.RawMessage(s.repositoryView(r, apiVersions[0])), "sender": json.RawMessage(s.accountView(s.actor()))}
	switch event {
	case "push":
		p["ref"], p["after"], p["head_commit"] = "refs/heads/main", r.head, object{"id": r.head, "message": commitMessage(r.pushes)}
	case "workflow_dispatch":
		p["ref"], p["inputs"] = "refs/heads/main", inputs
	}
	// Expressions walk through it, so it has to be plain maps.
	var plain object
	if err := json.Unmarshal(encode(p), &plain); err != nil {
		panic("githubsim: payload: " + err.Error())
	}
	return plain
}

func (s *Server) workflowView(r *repository, w *workflowFile) object {
	return object{
		"id": w.id, "node_id": nodeID("W", w.id), "name": w.name, "path": w.path, "state": "active",
		"created_at": stamp(w.createdAt), "updated_at": stamp(w.createdAt), "url": fmt.Sprintf("%s/repos/%s/actions/workflows/%d", s.api(), r.fullName(), w.id),
		"html_url":  fmt.Sprintf("%s/%s/blob/main/%s", s.html(), r.fullName(), w.path),
		"badge_url": fmt.Sprintf("%s/%s/workflows/%s/badge.svg", s.html(), r.fullName(), path.Base(w.path)),
	}
}

func (c *call) workflow() (*workflowFile, error) {
	want := c.r.PathValue("workflow")
	for _, w := range c.repo.workflows {
		if strconv.FormatInt(w.id, 10) == want || path.Base(w.path) == want {
			return w, nil
		}
	}
	return nil, notFound()
}

func (s *Server) listWorkflows(c *call) (reply, error) {
	return list(c, "workflows", c.repo.workflows, func(w *workflowFile) object { return s.workflowView(c.repo, w) })
}

// prepareWorkflows makes the repository's files known before a route looks for
// one by name.
func (s *Server) prepareWorkflows(c *call) error {
	files, names, err := s.readWorkflows(c.repo.fullName(), "")
	if err != nil {
		return nil // an empty repository has no workflows
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		w := s.workflowFile(c.repo, name, name)
		if w.parsed, w.problem = workflow.Parse(name, files[name]); w.problem == nil {
			w.name = w.parsed.Name
		}
	}
	return nil
}

// dispatchWorkflow starts a run by REST.
func (s *Server) dispatchWorkflow(c *call) (reply, error) {
	var in struct {
		Ref     string         `json:"ref"`
		Inputs  map[string]any `json:"inputs"`
		Details bool           `json:"return_run_details"`
	}
	if err := c.decode(&in); err != nil {
		return reply{}, err
	}
	w, err := c.workflow()
	switch {
	case err != nil:
		return reply{}, err
	case in.Ref == "":
		return reply{}, errorf(http.StatusUnprocessableEntity, "Invalid input: object is missing required key: ref.")
	case strings.TrimPrefix(in.Ref, "refs/heads/") != "main":
		return reply{}, errorf(http.StatusUnprocessableEntity, "No ref found for: %s", in.Ref)
	case w.parsed == nil || !w.parsed.TriggeredBy(workflow.Event{Name: "workflow_dispatch", Ref: "refs/heads/main"}):
		return reply{}, errorf(http.StatusUnprocessableEntity, "Workflow does not have 'workflow_dispatch' trigger")
	}
	r := s.newRun(c.repo, w, "workflow_dispatch", in.Inputs)
	if !in.Details && c.version != newestVersion {
		return noContent()
	}
	return ok(object{"workflow_run_id": r.id, "run_url": s.runURL(r), "html_url": s.runPage(r)})
}
