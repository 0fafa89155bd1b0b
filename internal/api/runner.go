package api

import (
	"context"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type runners struct{ *API }

func (s runners) ListRunners(ctx context.Context, req *v1.ListRunnersRequest) (*v1.ListRunnersResponse, error) {
	limit, err := pageSize(req.Limit, 200, 1000)
	if err != nil {
		return nil, err
	}
	f := RunnerFilter{Pool: req.Pool, Live: !req.All && len(req.States) == 0, Limit: limit}
	for _, state := range req.States {
		st := muster.RunnerState(state)
		switch st {
		case muster.RunnerProvisioning, muster.RunnerRegistered, muster.RunnerActive, muster.RunnerDraining, muster.RunnerDestroyed:
		default:
			return nil, muster.Errorf(muster.CodeInvalid, "state %q is unknown: use provisioning, registered, active, draining or destroyed", state)
		}
		f.States = append(f.States, st)
	}
	ws := workspaceOf(ctx)
	all, err := s.Store.Runners(ctx, ws, f)
	if err != nil {
		return nil, err
	}
	pools, offerings, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListRunnersResponse{}
	for _, r := range all {
		resp.Runners = append(resp.Runners, runnerOf(r, pools[r.Pool], offerings[r.Offering]))
	}
	return resp, nil
}

func (s runners) GetRunner(ctx context.Context, req *v1.GetRunnerRequest) (*v1.GetRunnerResponse, error) {
	r, err := s.find(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	events, err := s.Store.RunnerEvents(ctx, r.Workspace, r.ID)
	if err != nil {
		return nil, err
	}
	recorded, err := s.tracesOf(ctx, TraceFilter{Runner: r.ID, Limit: 100})
	if err != nil {
		return nil, err
	}
	out, err := s.view(ctx, r)
	var healthy *bool
	if req.CheckHealth {
		healthy = new(s.Commands.Healthy(ctx, r.Workspace, r.ID))
	}
	return &v1.GetRunnerResponse{Runner: out, Healthy: healthy, Traces: each(recorded, traceOf), Events: each(events, func(e muster.RunnerEvent) *v1.RunnerEvent {
		return &v1.RunnerEvent{At: stamp(e.At), State: string(e.State), Note: e.Note}
	})}, err
}

func (s runners) GetRunnerLog(ctx context.Context, req *v1.GetRunnerLogRequest) (*v1.GetRunnerLogResponse, error) {
	r, err := s.find(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	text, err := s.Store.RunnerLog(ctx, r.Workspace, r.ID)
	return &v1.GetRunnerLogResponse{Log: text}, err
}

func (s runners) DrainRunner(ctx context.Context, req *v1.DrainRunnerRequest) (*v1.DrainRunnerResponse, error) {
	r, err := s.find(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	if r.State == muster.RunnerDestroyed {
		return nil, muster.Errorf(muster.CodeGone, "runner %s is destroyed already: %s", r.ID, r.Reason)
	}
	reason := req.Reason
	if reason == "" {
		reason = "drained by an operator"
	}
	if err := s.Commands.DrainRunner(ctx, r.Workspace, r.ID, reason); err != nil {
		return nil, err
	}
	if r, err = s.Store.Runner(ctx, r.Workspace, r.ID); err != nil {
		return nil, err
	}
	out, err := s.view(ctx, r)
	return &v1.DrainRunnerResponse{Runner: out}, err
}

// find looks a runner up by its id or by its name on GitHub.
func (s runners) find(ctx context.Context, id string) (muster.Runner, error) {
	if id == "" {
		return muster.Runner{}, muster.Errorf(muster.CodeInvalid, "no runner is named")
	}
	r, err := s.Store.Runner(ctx, workspaceOf(ctx), muster.RunnerID(id))
	if muster.CodeOf(err) == muster.CodeNotFound {
		if r, err = s.Store.RunnerByName(ctx, workspaceOf(ctx), id); muster.CodeOf(err) == muster.CodeNotFound {
			return r, muster.Errorf(muster.CodeNotFound, "there is no runner %q: muster runner list --all shows every one", id)
		}
	}
	return r, err
}

func (s runners) view(ctx context.Context, r muster.Runner) (*v1.Runner, error) {
	pools, offerings, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	return runnerOf(r, pools[r.Pool], offerings[r.Offering]), nil
}

// catalog is every pool and offering by name, those included that are only history.
func (s runners) catalog(ctx context.Context) (map[string]muster.Pool, map[string]muster.Offering, error) {
	ps, err := s.Store.Pools(ctx, workspaceOf(ctx))
	if err != nil {
		return nil, nil, err
	}
	os, err := s.Store.Offerings(ctx, workspaceOf(ctx))
	if err != nil {
		return nil, nil, err
	}
	pools, offerings := map[string]muster.Pool{}, map[string]muster.Offering{}
	for _, p := range ps {
		pools[p.Name] = p
	}
	for _, o := range os {
		offerings[o.Name] = o
	}
	return pools, offerings, nil
}
