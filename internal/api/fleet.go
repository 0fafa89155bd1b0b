package api

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/wire"
)

// RegisterFleet adds to mux what a fleet's run can answer, which keeps no books of
// jobs: pools, runners, the overview, and the agents' routes. Of Store it calls
// nothing but what these need.
func (a *API) RegisterFleet(mux *http.ServeMux) {
	opts := []connect.HandlerOption{connect.WithInterceptors(funnel{a}), connect.WithReadMaxBytes(maxBody), connect.WithRecover(a.recovered)}
	serve := func(path string, h http.Handler) { mux.Handle(path, a.guard(path, h)) }
	serve(musterv1connect.NewPoolServiceHandler(pools{a}, opts...))
	serve(musterv1connect.NewRunnerServiceHandler(runners{a}, opts...))
	serve(musterv1connect.NewSystemServiceHandler(system{a}, opts...))

	mux.Handle(wire.BootPath, agentRoute(a, func(ctx context.Context, token string, req wire.BootRequest) (wire.BootResponse, error) {
		return a.Agents.Boot(ctx, token, req)
	}))
	mux.Handle(wire.ReportPath, agentRoute(a, a.Agents.Report))
	mux.Handle(wire.LogPath, agentRoute(a, a.Agents.Log))
}
