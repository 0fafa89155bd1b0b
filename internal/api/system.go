package api

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type system struct{ *API }

func (s system) GetOverview(ctx context.Context, _ *v1.GetOverviewRequest) (*v1.GetOverviewResponse, error) {
	ws := workspaceOf(ctx)
	resp := &v1.GetOverviewResponse{
		Version: s.Version, Workspace: ws, StartedAt: stamp(s.started), Now: stamp(s.Now()),
		Jobs: map[string]int32{}, Runners: map[string]int32{},
	}
	counts, err := s.Store.JobCounts(ctx, ws)
	if err != nil {
		return nil, err
	}
	for state, n := range counts {
		resp.Jobs[string(state)] = int32(n)
	}
	live, err := s.Store.Runners(ctx, ws, RunnerFilter{Live: true})
	if err != nil {
		return nil, err
	}
	for _, r := range live {
		resp.Runners[string(r.State)]++
	}
	h, err := s.Monitor.Health(ctx, ws)
	if err != nil {
		return nil, err
	}
	resp.Promises = &v1.Promises{JobsLost: int32(h.JobsLost), MachinesLeaked: int32(h.MachinesLeaked), BusyKilled: int32(h.BusyKilled), Since: stamp(h.Since)}
	resp.Problems = h.Problems
	resp.Budgets = each(h.Budgets, budgetOf)
	return resp, nil
}

func (s system) Watch(ctx context.Context, req *v1.WatchRequest, stream *connect.ServerStream[v1.WatchResponse]) error {
	ws := workspaceOf(ctx)
	changes := s.Store.Subscribe(ctx)
	// The first word says that nothing committed from now on is missed.
	if err := stream.Send(&v1.WatchResponse{At: stamp(s.Now())}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Stopping:
			return muster.Errorf(muster.CodeUnavailable, "the control plane is stopping")
		case c, ok := <-changes:
			if !ok {
				return ctx.Err()
			}
			// Deliveries belong to no workspace yet when they arrive.
			if c.Workspace != ws && c.Workspace != "" || len(req.Kinds) > 0 && !slices.Contains(req.Kinds, c.Kind) {
				continue
			}
			if err := stream.Send(&v1.WatchResponse{Kind: c.Kind, Id: c.ID, At: stamp(s.Now())}); err != nil {
				return err
			}
		}
	}
}
