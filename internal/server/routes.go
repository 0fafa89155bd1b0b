package server

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/compat"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/web"
)

// routes puts every handler on the one listener. Webhooks and agents bring their
// own proofs; operators' routes ask for the operator's token where one is set.
func (s *Server) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	s.mux = mux
	if apps := webhookApps(s.cfg); len(apps) > 0 {
		hook, err := ingress.NewWebhook(ingress.WebhookConfig{
			Apps: apps, Inbox: s.store, Nudge: s.dispatcher.Nudge, Asked: s.asked, Observer: s.registry, Logger: s.logger,
		})
		if err != nil {
			return nil, err
		}
		if m := s.cfg.RunnerManager; m == nil {
			mux.Handle(ingress.WebhookPath, hook)
		} else if err := s.runnerManager(mux, *m, hook); err != nil {
			return nil, err
		}
		mux.Handle(ingress.WebhookPath+"/", hook)
	}
	do := commands{Client: s.client, store: s.store, dispatcher: s.dispatcher}
	logs := jobLogs{s.store, s.apps}
	var apiPort api.Traces
	var webPort web.Traces
	if s.inspector != nil {
		apiPort, webPort = apiTraces{s.inspector, s.store.TraceCounts}, webTraces{s.inspector}
	}
	operators := api.New(api.Config{
		Store: apiStore{s.store}, Traces: apiPort, Commands: do, Agents: s.client, JobLogs: logs, Monitor: monitor{s.store, s.apps, s.checks},
		OperatorToken: s.cfg.OperatorToken, Workspace: workspace, Stopping: s.stopping, Version: s.opts.Version, Observer: s.registry.API(), Logger: s.logger,
		Book: book(s.cfg.PriceBook), CostBudgets: s.cfg.Budgets, Platforms: s.dashboard.platforms,
		Access: &access{store: s.store, apps: s.apps, checks: s.checks, listeners: s.listeners, groups: map[groupQuestion]groupAnswer{}},
	})
	operators.Register(mux)
	s.dashboard.situation, s.dashboard.snapshot = operators.Situation, operators.Snapshot
	if err := s.garmRoutes(mux); err != nil {
		return nil, err
	}
	mux.Handle("GET /metrics", s.registry.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	guard := localOnly
	if s.cfg.OperatorToken != "" {
		guard = nil // the token is the proof
	}
	mux.Handle("/", web.New(web.Config{
		Guard: guard,
		Reads: s.dashboard, Commands: webCommands{do, s.inspector}, JobLogs: webLogs{logs},
		Traces: webPort, Subscribe: s.store.Subscribe, Stopping: s.stopping, Token: s.cfg.OperatorToken,
		About: s.about(), Logger: s.logger,
	}))
	return mux, nil
}

// runnerManager serves the runner manager's own endpoints, the webhook's path
// without a name among them.
func (s *Server) runnerManager(mux *http.ServeMux, m config.RunnerManager, hook http.Handler) error {
	entries := make([]compat.Entry, len(m.Entries))
	for i, e := range m.Entries {
		entries[i] = compat.Entry{Repo: e.Repo, Labels: e.Labels, Name: e.Name, Zone: e.Zone}
	}
	manager, err := compat.NewManager(compat.Config{
		Entries: entries, InactiveMinutes: m.InactiveMinutes, Provider: m.Provider, Workspace: workspace, Secrets: compat.Secrets(m.Secrets),
		Machines: s.client, Webhook: hook, HideIndex: m.HideIndex, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	for _, w := range m.Warnings {
		s.logger.Warn(w)
	}
	manager.Register(mux)
	return nil
}

// asked tells the webhook whether a delivery comes because Muster asked for it.
func (s *Server) asked(app, guid string) (time.Time, bool) {
	if r, ok := s.redeliverers[app]; ok {
		return r.Asked(guid)
	}
	return time.Time{}, false
}

// readyz answers 200 once work is taken and the database answers, else 503.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.readyFlag:
	default:
		answer(w, http.StatusServiceUnavailable, "starting\n")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := s.store.Ping(ctx); err != nil {
		answer(w, http.StatusServiceUnavailable, "database does not answer\n")
		return
	}
	answer(w, http.StatusOK, "ready\n")
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the reader went away: nobody to tell
}

func (s *Server) about() web.About {
	a := web.About{Version: s.opts.Version, Workspace: workspace, StartedAt: time.Now(), Engine: "embedded, SQLite, at " + s.engine.Address(), Store: "SQLite"}
	if !s.engine.Embedded() {
		a.Engine = s.engine.Address() + ", namespace " + s.cfg.Engine.Namespace
	}
	if strings.HasPrefix(s.cfg.Database.URL, "postgres") {
		a.Store = "PostgreSQL"
	}
	for _, app := range s.cfg.Apps {
		a.Apps = append(a.Apps, web.AppInfo{Name: app.Name, WebhookURL: s.cfg.PublicURL + ingress.WebhookPath + "/" + app.Name})
	}
	a.Links = append(a.Links, web.Link{Label: "Metrics", URL: "/metrics", Hint: "Prometheus"})
	if ui := s.cfg.Engine.UIListen; ui != "" {
		a.Links = append(a.Links, web.Link{Label: "Temporal", URL: "http://" + ui, Hint: "every workflow with its history; payloads are encrypted"})
	}
	return a
}

// budgets lists what every App may still ask of GitHub.
func budgets(apps map[string]*github.Client) (out []github.BudgetView) {
	for _, c := range apps {
		out = append(out, c.Budget()...)
	}
	slices.SortFunc(out, func(a, b github.BudgetView) int { return strings.Compare(a.App+a.Account, b.App+b.Account) })
	return out
}
