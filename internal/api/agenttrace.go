package api

import (
	"context"
	"net/http"

	"github.com/muster-ci/muster/internal/wire"
)

// AgentTraces takes the traces of jobs from agents.
type AgentTraces interface {
	TraceSegment(ctx context.Context, sessionToken string, s wire.TraceSegment) (wire.Answer, error)
	TraceSeal(ctx context.Context, sessionToken string, s wire.TraceSeal) (wire.Answer, error)
}

// registerTraces adds to mux the agents' routes of traces, if they are taken.
func (a *API) registerTraces(mux *http.ServeMux) {
	if taker, ok := a.Agents.(AgentTraces); ok {
		mux.Handle(wire.TracePath, agentRoute(a, taker.TraceSegment))
		mux.Handle(wire.TraceSealPath, agentRoute(a, taker.TraceSeal))
	}
}
