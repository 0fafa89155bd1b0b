package githubsim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

func encodeID(id int64) string { return strconv.FormatInt(id, 10) }

// ManagementHandler is the other side of the simulator, for whoever runs it: the
// books, the faults, and everything that people do on GitHub's pages. JSON in and
// out; an error is {"error": "…"} with 400.
//
//	GET  /truth                          Truth
//	GET  /acts                           []Act, what people did
//	POST /replay                         {"acts": []Act, "speed"} → when all is done
//	GET  /verdict                        Truth.Verdict, [] when all is well
//	GET  /faults      PUT /faults        FaultSettings; PATCH changes only what it names
//	POST /faults/hostile  /faults/off  /faults/expire-tokens
//	POST /faults/expire-queue-tokens  /faults/expire-admin-tokens
//	POST /apps                           AppOptions → App
//	POST /organizations                  {"login"}
//	POST /enterprises                    {"slug", "organizations"}
//	POST /repositories                   {"name": "owner/repo", "private", "gates", "files": {path: text}}
//	POST /installations                  {"app", "account", "repositories"} → {"id"}
//	POST /tokens                         {"login", "scopes"} → {"token"}
//	POST /webhook                        {"app", "url"}
//	POST /hooks                          HookOptions → {"id"}
//	POST /scale-sets/{id}/vanish
//	POST /trigger                        {"repo", "workflow", "event", "inputs"} → {"run"}
//	POST /jobs                           {"repo", "labels", "group", "name", "duration", "count", …} → {"jobs"}
//	POST /jobs/{id}/cancel
//	POST /runs/{id}/cancel  /runs/{id}/rerun  /runs/{id}/rerun-failed-jobs        {"repo"}
//	POST /runs/{id}/approve  /runs/{id}/reject                                    {"repo", "environment"}
//	GET  /jobs/{id}/log                  text
func (s *Server) ManagementHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := do(r)
			if err != nil {
				answer(w, http.StatusBadRequest, object{"error": err.Error()})
				return
			}
			answer(w, http.StatusOK, body)
		})
	}
	handle("GET /truth", func(*http.Request) (any, error) { return s.Truth(), nil })
	handle("GET /acts", func(*http.Request) (any, error) { return append([]Act{}, s.Acts()...), nil })
	handle("POST /replay", func(r *http.Request) (any, error) {
		in, err := input[struct {
			Acts  []Act
			Speed float64
		}](r)
		if err != nil {
			return nil, err
		}
		return object{}, s.Replay(r.Context(), in.Acts, in.Speed)
	})
	handle("GET /verdict", func(*http.Request) (any, error) { return append([]string{}, s.Truth().Verdict()...), nil })
	s.manageFaults(handle)
	s.manageAccounts(handle)
	s.manageRuns(handle)
	mux.HandleFunc("GET /jobs/{id}/log", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		text, err := s.JobLog(id)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(text)
	})
	return mux
}

// input reads a JSON object strictly.
func input[T any](r *http.Request) (T, error) {
	var in T
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil && err != io.EOF {
		return in, fmt.Errorf("read the request: %w", err)
	}
	return in, nil
}

type handleFunc = func(pattern string, do func(*http.Request) (any, error))

func (s *Server) manageFaults(handle handleFunc) {
	show := func() (any, error) { return s.faults.Get(), nil }
	handle("GET /faults", func(*http.Request) (any, error) { return show() })
	handle("PUT /faults", func(r *http.Request) (any, error) {
		in, err := input[FaultSettings](r)
		if err != nil {
			return nil, err
		}
		s.faults.Set(in)
		return show()
	})
	handle("PATCH /faults", func(r *http.Request) (any, error) {
		now := s.faults.Get()
		d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&now); err != nil {
			return nil, fmt.Errorf("read the request: %w", err)
		}
		s.faults.Set(now)
		return show()
	})
	handle("POST /faults/hostile", func(*http.Request) (any, error) { s.faults.Set(Hostile()); return show() })
	handle("POST /faults/off", func(*http.Request) (any, error) { s.faults.Off(); return show() })
	handle("POST /faults/expire-tokens", func(*http.Request) (any, error) { s.faults.ExpireTokens(); return show() })
	handle("POST /faults/expire-queue-tokens", func(*http.Request) (any, error) { s.faults.ExpireQueueTokens(); return show() })
	handle("POST /faults/expire-admin-tokens", func(*http.Request) (any, error) { s.faults.ExpireAdminTokens(); return show() })
	handle("POST /scale-sets/{id}/vanish", func(r *http.Request) (any, error) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		return object{}, s.VanishScaleSet(id)
	})
}

func (s *Server) manageAccounts(handle handleFunc) {
	handle("POST /apps", func(r *http.Request) (any, error) {
		in, err := input[AppOptions](r)
		if err != nil {
			return nil, err
		}
		return s.CreateApp(in)
	})
	handle("POST /organizations", func(r *http.Request) (any, error) {
		in, err := input[struct{ Login string }](r)
		if err != nil {
			return nil, err
		}
		return object{}, s.CreateOrganization(in.Login)
	})
	handle("POST /enterprises", func(r *http.Request) (any, error) {
		in, err := input[struct {
			Slug          string
			Organizations []string
		}](r)
		if err != nil {
			return nil, err
		}
		return object{}, s.CreateEnterprise(in.Slug, in.Organizations...)
	})
	handle("POST /repositories", func(r *http.Request) (any, error) {
		in, err := input[struct {
			Name    string
			Private bool
			Gates   []string
			Files   map[string]string
		}](r)
		if err != nil {
			return nil, err
		}
		files, err := Files(in.Files)
		if err != nil {
			return nil, err
		}
		return object{}, s.CreateRepository(in.Name, RepositoryOptions{Private: in.Private, Gates: in.Gates, Files: files})
	})
	handle("POST /installations", func(r *http.Request) (any, error) {
		in, err := input[struct {
			App          int64
			Account      string
			Repositories []string
		}](r)
		if err != nil {
			return nil, err
		}
		id, err := s.Install(in.App, in.Account, in.Repositories...)
		return object{"id": id}, err
	})
	handle("POST /tokens", func(r *http.Request) (any, error) {
		in, err := input[struct {
			Login  string
			Scopes []string
		}](r)
		if err != nil {
			return nil, err
		}
		secret, err := s.CreateToken(in.Login, in.Scopes...)
		return object{"token": secret}, err
	})
	handle("POST /webhook", func(r *http.Request) (any, error) {
		in, err := input[struct {
			App int64
			URL string
		}](r)
		if err != nil {
			return nil, err
		}
		return object{}, s.SetWebhook(in.App, in.URL)
	})
	handle("POST /hooks", func(r *http.Request) (any, error) {
		in, err := input[HookOptions](r)
		if err != nil {
			return nil, err
		}
		id, err := s.CreateHook(in)
		return object{"id": id}, err
	})
}

func (s *Server) manageRuns(handle handleFunc) {
	handle("POST /trigger", func(r *http.Request) (any, error) {
		in, err := input[struct {
			Repo, Workflow, Event string
			Inputs                map[string]any
		}](r)
		if err != nil {
			return nil, err
		}
		id, err := s.Dispatch(in.Repo, in.Workflow, in.Event, in.Inputs)
		return object{"run": id}, err
	})
	handle("POST /jobs", func(r *http.Request) (any, error) {
		in, err := input[struct {
			Repo, Group, Name, Workflow, Environment string
			Labels                                   []string
			Duration, Timeout                        Duration
			Fail                                     bool
			Count                                    int
		}](r)
		if err != nil {
			return nil, err
		}
		opts := JobOptions{
			Repo: in.Repo, Labels: in.Labels, Group: in.Group, Name: in.Name, Workflow: in.Workflow, Environment: in.Environment,
			Duration: time.Duration(in.Duration), Timeout: time.Duration(in.Timeout), Fail: in.Fail,
		}
		ids := []int64{}
		for range max(in.Count, 1) {
			id, err := s.InjectJob(opts)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		return object{"jobs": ids}, nil
	})
	handle("POST /jobs/{id}/cancel", func(r *http.Request) (any, error) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		return object{}, s.CancelJob(id)
	})
	for action, do := range map[string]func(repo, environment string, id int64) error{
		"cancel":            func(repo, _ string, id int64) error { return s.CancelRun(repo, id) },
		"rerun":             func(repo, _ string, id int64) error { return s.Rerun(repo, id, false) },
		"rerun-failed-jobs": func(repo, _ string, id int64) error { return s.Rerun(repo, id, true) },
		"approve":           func(repo, environment string, id int64) error { return s.ApproveDeployment(repo, id, environment) },
		"reject":            func(repo, environment string, id int64) error { return s.RejectDeployment(repo, id, environment) },
	} {
		handle("POST /runs/{id}/"+action, func(r *http.Request) (any, error) {
			in, err := input[struct{ Repo, Environment string }](r)
			if err != nil {
				return nil, err
			}
			id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
			return object{}, do(in.Repo, in.Environment, id)
		})
	}
}
