package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/usage"
	"github.com/muster-ci/muster/internal/wire"
)

// Config is what an API is made of. Store, Commands, Agents, JobLogs and Monitor
// are required.
type Config struct {
	Store    Store
	Commands Commands
	Agents   Agents
	JobLogs  JobLogs
	Monitor  Monitor
	// OperatorToken is what callers of the services show as a bearer token. Empty:
	// callers on this machine need none, and others are refused.
	OperatorToken muster.Secret
	// Workspace is what operators see. Default "default".
	Workspace string
	// Access may be nil: then nothing is known of it.
	Access Access
	// Platforms may be nil: then there are no providers.
	Platforms Platforms
	// Traces may be nil: then none are kept.
	Traces Traces
	// CostBudgets are what projects may spend, in the order to show.
	CostBudgets []muster.CostBudget
	// Book prices machines in dry runs.
	Book usage.Book
	// Stopping is closed when the control plane begins to stop: streams end then,
	// which would hold up the end. Nil means never.
	Stopping <-chan struct{}
	// Version is the control plane's own.
	Version string
	// Observer may be nil.
	Observer Observer
	// Logger may be nil.
	Logger *slog.Logger
	// Now is time.Now if nil.
	Now func() time.Time
}

// API serves the Connect services and the agent's routes. It starts no goroutine
// and keeps no state but counters; its handlers are safe for concurrent use.
type API struct {
	Config
	started time.Time
	// boots bounds how many agents trade their token at once: each costs calls of
	// GitHub's API, and a burst of machines must wait rather than time out.
	boots chan struct{}
}

// maxBoots is the most boot requests in work; more are asked to come again (429).
const maxBoots = 64

// New returns an API.
func New(c Config) *API {
	if c.Workspace == "" {
		c.Workspace = "default"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	return &API{Config: c, started: c.Now(), boots: make(chan struct{}, maxBoots)}
}

// Register adds every route to mux: /muster.v1.*/ and /v1/traces/ for operators and
// /v1/agent/ for agents.
func (a *API) Register(mux *http.ServeMux) {
	opts := []connect.HandlerOption{connect.WithInterceptors(funnel{a}), connect.WithReadMaxBytes(maxBody), connect.WithRecover(a.recovered)}
	serve := func(path string, h http.Handler) { mux.Handle(path, a.guard(path, h)) }
	serve(musterv1connect.NewPoolServiceHandler(pools{a}, opts...))
	serve(musterv1connect.NewRunnerServiceHandler(runners{a}, opts...))
	serve(musterv1connect.NewMachineServiceHandler(machines{a}, opts...))
	serve(musterv1connect.NewProviderServiceHandler(providers{a}, opts...))
	serve(musterv1connect.NewJobServiceHandler(jobs{a}, opts...))
	serve(musterv1connect.NewDeliveryServiceHandler(deliveries{a}, opts...))
	serve(musterv1connect.NewUsageServiceHandler(books{a}, opts...))
	serve(musterv1connect.NewInstallationServiceHandler(installations{a}, opts...))
	serve(musterv1connect.NewSystemServiceHandler(system{a}, opts...))
	serve(musterv1connect.NewRunServiceHandler(runs{a}, opts...))
	serve(musterv1connect.NewSenseServiceHandler(senses{a}, opts...))
	serve(musterv1connect.NewTraceServiceHandler(traces{a}, opts...))
	a.registerDownloads(mux)

	mux.Handle(wire.BootPath, agentRoute(a, func(ctx context.Context, token string, req wire.BootRequest) (wire.BootResponse, error) {
		select {
		case a.boots <- struct{}{}:
			defer func() { <-a.boots }()
			return a.Agents.Boot(ctx, token, req)
		default:
			return wire.BootResponse{}, errTooMany
		}
	}))
	mux.Handle(wire.ReportPath, agentRoute(a, a.Agents.Report))
	mux.Handle(wire.LogPath, agentRoute(a, a.Agents.Log))
	a.registerTraces(mux)
}

// Handler is a mux with Register's routes.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	a.Register(mux)
	return mux
}

type nobody struct{}

func (nobody) Called(string, string, time.Duration) {}
