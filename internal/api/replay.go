package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/dryrun"
	"github.com/muster-ci/muster/internal/schedule"
)

// ReplayDecision decides again from what was kept: the decision is pure, so that
// a difference means that the planner has changed since.
func (s pools) ReplayDecision(ctx context.Context, req *v1.ReplayDecisionRequest) (*v1.ReplayDecisionResponse, error) {
	ws := workspaceOf(ctx)
	p, err := s.Store.Pool(ctx, ws, req.Pool)
	if err != nil {
		return nil, err
	}
	if p.Keeps() {
		return nil, unplanned(p)
	}
	d, err := s.Store.DecisionAt(ctx, ws, req.Pool, cmp.Or(when(req.At), s.Now()))
	if err != nil {
		return nil, err
	}
	again := muster.DecisionRecord{Pool: d.Pool, At: d.At, LastAt: d.At, Count: 1, Decision: muster.Plan(d.Snapshot, d.At)}
	resp := &v1.ReplayDecisionResponse{
		Recorded: decisionOf(d), Recomputed: decisionOf(again), Pool: poolOf(d.Snapshot.Pool), LastScaling: stamp(d.Snapshot.LastScaling),
		DemandUnknown: d.Snapshot.DemandUnknown, InstallationSuspended: d.Snapshot.Suspended,
	}
	resp.Pool.Status = statusFrom(d.Snapshot, d.At)
	if resp.Differences, err = differences(d.Decision, again.Decision); err != nil {
		return nil, err
	}
	if req.Snapshot {
		resp.Snapshot = &structpb.Struct{}
		text, err := json.Marshal(d.Snapshot)
		if err == nil {
			err = resp.Snapshot.UnmarshalJSON(text)
		}
		if err != nil {
			return nil, fmt.Errorf("encode snapshot of decision %d: %w", d.ID, err)
		}
	}
	return resp, nil
}

// differences names every field in which two decisions part, with both values.
func differences(recorded, again muster.Decision) ([]string, error) {
	a, err := fieldsOf(recorded)
	if err != nil {
		return nil, err
	}
	b, err := fieldsOf(again)
	if err != nil {
		return nil, err
	}
	var out []string
	names := slices.Sorted(maps.Keys(a))
	for name := range b {
		if _, known := a[name]; !known {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if x, y := a[name], b[name]; x != y {
			out = append(out, fmt.Sprintf("%s was %s and is %s now", name, cmp.Or(x, "not there"), cmp.Or(y, "not there")))
		}
	}
	return out, nil
}

// fieldsOf is a decision as it is kept: field by field, as text. Times are cut to
// what the store keeps of them.
func fieldsOf(d muster.Decision) (map[string]string, error) {
	d.WakeAt, d.Metrics.Timestamp = d.WakeAt.UTC().Truncate(time.Microsecond), time.Time{}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode decision: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("decode decision: %w", err)
	}
	out := make(map[string]string, len(fields))
	for name, value := range fields {
		out[name] = string(value)
	}
	return out, nil
}

// dryRunSpan is how far back a dry run looks unless it is told, maxDryRun how far
// it may, and dryRunTimeout how long it may reckon.
const (
	dryRunSpan    = 24 * time.Hour
	maxDryRun     = 31 * 24 * time.Hour
	dryRunTimeout = 25 * time.Second
)

// unplanned says that a pool is not the planner's.
func unplanned(p muster.Pool) error {
	return muster.Errorf(muster.CodeInvalid, "pool %s keeps a machine, which is started and stopped by rules of its own and not by the planner: muster pool decisions %s and muster machine list say what was done and why", p.Name, p.Name)
}

func (s pools) DryRun(ctx context.Context, req *v1.DryRunRequest) (*v1.DryRunResponse, error) {
	ws := workspaceOf(ctx)
	p, err := s.Store.Pool(ctx, ws, req.Pool)
	if err != nil {
		return nil, err
	}
	if p.Keeps() {
		return nil, unplanned(p)
	}
	changed, err := dryrun.Set(p, req.Set)
	if err != nil {
		return nil, err
	}
	until := cmp.Or(when(req.Until), s.Now())
	since := cmp.Or(when(req.Since), until.Add(-dryRunSpan))
	if !since.Before(until) {
		return nil, muster.Errorf(muster.CodeInvalid, "until must be later than since")
	}
	if until.Sub(since) > maxDryRun {
		return nil, muster.Errorf(muster.CodeInvalid, "a dry run covers at most 31 days")
	}
	demand, err := s.Store.Demand(ctx, ws, p.Name, since, until)
	if err != nil {
		return nil, err
	}
	if len(demand) == 0 {
		return nil, muster.Errorf(muster.CodeNotFound, "no job of pool %s was queued from %s to %s: there is nothing to run the settings over", p.Name, since.UTC().Format(time.RFC3339), until.UTC().Format(time.RFC3339))
	}
	supply, err := s.Store.Supply(ctx, ws, p.Name, since, until)
	if err != nil {
		return nil, err
	}
	terms := dryrun.Terms{Book: s.Book, Windows: schedule.Windows}
	if terms.Offering, err = s.Store.Offering(ctx, ws, p.Offering); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return nil, err
	}
	var to muster.Pool
	if p.Overflow.Pool != "" {
		if to, err = s.Store.Pool(ctx, ws, p.Overflow.Pool); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return nil, err
		}
	}
	w, measured, assumed := dryrun.Recorded(p, to, demand, supply, since, until, terms)
	ctx, cancel := context.WithTimeout(ctx, dryRunTimeout)
	defer cancel()
	resp := &v1.DryRunResponse{Measured: dryRunResultOf(measured), Assumptions: assumed, Since: stamp(since), Until: stamp(until)}
	for _, run := range []struct {
		pool muster.Pool
		into **v1.DryRunResult
	}{{p, &resp.Before}, {changed, &resp.After}} {
		r, err := dryrun.Simulate(ctx, run.pool, w, terms)
		if ctx.Err() != nil {
			return nil, muster.Errorf(muster.CodeInvalid, "the demand of that time takes longer than %s to simulate: choose a shorter time", dryRunTimeout)
		}
		if err != nil {
			return nil, err
		}
		*run.into = dryRunResultOf(r)
	}
	return resp, nil
}
