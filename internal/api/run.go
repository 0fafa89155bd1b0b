package api

import (
	"context"
	"slices"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type runs struct{ *API }

// maxRunJobs is the most jobs of one run that are read: GitHub allows 256 in a
// matrix, and a run has few of them.
const maxRunJobs = 5000

func (s runs) GetRun(ctx context.Context, req *v1.GetRunRequest) (*v1.GetRunResponse, error) {
	if req.Id <= 0 {
		return nil, muster.Errorf(muster.CodeInvalid, "no run is named: give its id")
	}
	ws := workspaceOf(ctx)
	all, err := s.Store.Jobs(ctx, ws, JobFilter{RunID: req.Id, Limit: maxRunJobs})
	if err != nil {
		return nil, err
	}
	run, ok := muster.RunOf(all)
	if !ok {
		return nil, muster.Errorf(muster.CodeNotFound, "no job of run %d is known here: either their labels match no pool (such jobs are counted, not kept), or GitHub has not told of them", req.Id)
	}
	pools, offerings, err := runners(s).catalog(ctx)
	if err != nil {
		return nil, err
	}
	recorded, err := s.tracesOf(ctx, TraceFilter{RunID: req.Id})
	if err != nil {
		return nil, err
	}
	traceBy := map[muster.JobKey]muster.Trace{}
	for _, t := range slices.Backward(recorded) { // the latest is the one to show
		traceBy[t.Job] = t
	}
	resp := &v1.GetRunResponse{Run: runOf(run)}
	for _, j := range run.Jobs {
		out := &v1.RunJob{Job: jobOf(j)}
		if t, ok := traceBy[j.Key]; ok {
			out.Trace = traceOf(t)
		}
		if j.Runner != "" {
			r, err := s.Store.Runner(ctx, ws, j.Runner)
			switch {
			case err == nil:
				out.Runner = runnerOf(r, pools[r.Pool], offerings[r.Offering])
			case muster.CodeOf(err) != muster.CodeNotFound:
				return nil, err
			}
		}
		receipt, err := s.Store.Receipt(ctx, ws, j.Key)
		switch {
		case err == nil:
			out.Receipt = receiptOf(receipt)
			resp.Run.CostMicroUsd += receipt.CostMicroUSD
		case muster.CodeOf(err) != muster.CodeNotFound:
			return nil, err
		}
		resp.Jobs = append(resp.Jobs, out)
	}
	return resp, nil
}
