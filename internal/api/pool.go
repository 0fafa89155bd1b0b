package api

import (
	"context"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type pools struct{ *API }

func (s pools) ListPools(ctx context.Context, _ *v1.ListPoolsRequest) (*v1.ListPoolsResponse, error) {
	all, err := s.Store.Pools(ctx, workspaceOf(ctx))
	if err != nil {
		return nil, err
	}
	resp := &v1.ListPoolsResponse{}
	for _, p := range all {
		out, err := s.view(ctx, p)
		if err != nil {
			return nil, err
		}
		resp.Pools = append(resp.Pools, out)
	}
	return resp, nil
}

func (s pools) GetPool(ctx context.Context, req *v1.GetPoolRequest) (*v1.GetPoolResponse, error) {
	p, err := s.Store.Pool(ctx, workspaceOf(ctx), req.Name)
	if err != nil {
		return nil, err
	}
	out, err := s.view(ctx, p)
	if err != nil {
		return nil, err
	}
	resp := &v1.GetPoolResponse{Pool: out}
	o, err := s.Store.Offering(ctx, p.Workspace, p.Offering)
	switch {
	case err == nil:
		resp.Offering = offeringOf(o)
	case muster.CodeOf(err) != muster.CodeNotFound:
		return nil, err
	}
	return resp, nil
}

// view is a pool with its status.
func (s pools) view(ctx context.Context, p muster.Pool) (*v1.Pool, error) {
	snap, err := s.Snapshot(ctx, p.Workspace, p.Name)
	if err != nil {
		return nil, err
	}
	out := poolOf(p)
	out.Status = statusFrom(snap, s.Now())
	last, ok, err := s.Store.LastDecision(ctx, p.Workspace, p.Name)
	if err != nil {
		return nil, err
	}
	if ok {
		out.Status.LastDecision = decisionOf(last)
	}
	if p.Keeps() {
		if out.Status.Machine, err = s.machine(ctx, p.Workspace, p.MachineID()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s pools) ListDecisions(ctx context.Context, req *v1.ListDecisionsRequest) (*v1.ListDecisionsResponse, error) {
	limit, err := pageSize(req.Limit, 20, 500)
	if err != nil {
		return nil, err
	}
	if _, err := s.Store.Pool(ctx, workspaceOf(ctx), req.Pool); err != nil {
		return nil, err
	}
	all, err := s.Store.Decisions(ctx, workspaceOf(ctx), req.Pool, limit)
	if err != nil {
		return nil, err
	}
	return &v1.ListDecisionsResponse{Decisions: each(all, decisionOf)}, nil
}

func (s pools) SetPool(ctx context.Context, req *v1.SetPoolRequest) (*v1.SetPoolResponse, error) {
	o := muster.PoolOverride{Enabled: req.Enabled, Suspended: req.Suspended, MinRunners: number(req.MinRunners), MaxRunners: number(req.MaxRunners)}
	if o == (muster.PoolOverride{}) {
		return nil, muster.Errorf(muster.CodeInvalid, "nothing to change: set enabled, suspended, min_runners or max_runners")
	}
	p, err := s.Store.Pool(ctx, workspaceOf(ctx), req.Name)
	if err != nil {
		return nil, err
	}
	if err := p.Override(o).Scaling.Validate(); err != nil {
		return nil, err
	}
	if err := s.Commands.SetPool(ctx, p.Workspace, p.Name, o); err != nil {
		return nil, err
	}
	if p, err = s.Store.Pool(ctx, p.Workspace, p.Name); err != nil {
		return nil, err
	}
	out, err := s.view(ctx, p)
	return &v1.SetPoolResponse{Pool: out}, err
}

func number(n *int32) *int {
	if n == nil {
		return nil
	}
	i := int(*n)
	return &i
}

// pageSize is the number of rows that a request means.
func pageSize(asked int32, otherwise, most int) (int, error) {
	switch {
	case asked < 0:
		return 0, muster.Errorf(muster.CodeInvalid, "a limit must not be negative")
	case asked == 0:
		return otherwise, nil
	}
	return min(int(asked), most), nil
}
