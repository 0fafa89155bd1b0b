package api

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/trace/detect"
)

// maxFacts is how many facts one call may accept, and maxReason the most bytes of its reason.
const (
	maxFacts  = 1000
	maxReason = 1000
)

func (s traces) ListBaselines(ctx context.Context, req *v1.ListBaselinesRequest) (*v1.ListBaselinesResponse, error) {
	port, err := s.kept()
	if err != nil {
		return nil, err
	}
	limit, err := pageSize(req.Limit, 50, 500)
	if err != nil {
		return nil, err
	}
	all, err := port.Baselines(ctx, workspaceOf(ctx), req.Text, req.After, limit+1)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListBaselinesResponse{}
	if len(all) > limit {
		all = all[:limit]
		resp.Next = all[limit-1].Name
	}
	resp.Baselines = each(all, baselineOf)
	return resp, nil
}

func (s traces) GetBaseline(ctx context.Context, req *v1.GetBaselineRequest) (*v1.GetBaselineResponse, error) {
	name, _, err := s.baseline(ctx, req.Baseline)
	if err != nil {
		return nil, err
	}
	b, err := s.Traces.BaselineOf(ctx, workspaceOf(ctx), name)
	if err != nil {
		return nil, err
	}
	return &v1.GetBaselineResponse{Baseline: wholeBaseline(b)}, nil
}

func (s traces) AcceptBaseline(ctx context.Context, req *v1.AcceptBaselineRequest) (*v1.AcceptBaselineResponse, error) {
	name, of, err := s.baseline(ctx, req.Baseline)
	if err != nil {
		return nil, err
	}
	switch {
	case len(req.Facts) == 0 && !req.Fresh && !req.All:
		return nil, muster.Errorf(muster.CodeInvalid, "nothing is named that is to be accepted: name facts, what is fresh, or all")
	case len(req.Facts) > maxFacts:
		return nil, muster.Errorf(muster.CodeInvalid, "%d facts are to be accepted, and %d are the most at once", len(req.Facts), maxFacts)
	case req.Version < 0:
		return nil, muster.Errorf(muster.CodeInvalid, "a version must not be negative")
	}
	a := Acceptance{Fresh: req.Fresh && of == nil, All: req.All, Version: req.Version}
	facts := req.Facts
	if req.Fresh && of != nil {
		found, err := s.Traces.TraceFindings(ctx, of.Workspace, FindingFilter{Trace: of.ID})
		if err != nil {
			return nil, err
		}
		facts = slices.Clone(facts)
		for _, f := range found {
			if f.Fact != "" {
				facts = append(facts, f.Fact)
			}
		}
	}
	for _, text := range facts {
		f, err := detect.ParseFact(text)
		if err != nil {
			return nil, err
		}
		a.Facts = append(a.Facts, f)
	}
	by, err := s.act(ctx, req.Reason)
	if err != nil {
		return nil, err
	}
	b, accepted, err := s.Traces.AcceptBaseline(ctx, workspaceOf(ctx), name, a, by)
	if err != nil {
		return nil, err
	}
	return &v1.AcceptBaselineResponse{Baseline: wholeBaseline(b), Accepted: each(accepted, detect.Fact.String)}, nil
}

func (s traces) ForgetBaseline(ctx context.Context, req *v1.ForgetBaselineRequest) (*v1.ForgetBaselineResponse, error) {
	name, _, err := s.baseline(ctx, req.Baseline)
	if err != nil {
		return nil, err
	}
	if req.Version < 0 {
		return nil, muster.Errorf(muster.CodeInvalid, "a version must not be negative")
	}
	by, err := s.act(ctx, req.Reason)
	if err != nil {
		return nil, err
	}
	b, err := s.Traces.ForgetBaseline(ctx, workspaceOf(ctx), name, req.Version, by)
	if err != nil {
		return nil, err
	}
	return &v1.ForgetBaselineResponse{Baseline: wholeBaseline(b)}, nil
}

// baseline finds the name that a request means, and the trace that it named it by, if it did.
func (s traces) baseline(ctx context.Context, ref *v1.BaselineRef) (string, *muster.Trace, error) {
	if _, err := s.kept(); err != nil {
		return "", nil, err
	}
	switch {
	case ref.GetName() != "" && ref.GetTrace() != nil:
		return "", nil, muster.Errorf(muster.CodeInvalid, "a baseline is named by itself or by a trace, not by both")
	case ref.GetName() != "":
		return ref.Name, nil, nil
	case ref.GetTrace() == nil:
		return "", nil, muster.Errorf(muster.CodeInvalid, "no baseline is named: give its name or a job of it")
	}
	t, err := s.named(ctx, ref.Trace)
	if err != nil {
		return "", nil, err
	}
	if t.Baseline() == "" {
		return "", nil, muster.Errorf(muster.CodeNotFound, "trace %s has no baseline: the runner did not tell which job of which workflow it is of", t.ID)
	}
	return t.Baseline(), &t, nil
}

// act is what the caller does now.
func (s traces) act(ctx context.Context, reason string) (detect.Act, error) {
	who, _ := ctx.Value(callerKey{}).(caller)
	reason = strings.TrimSpace(reason)
	if len(reason) > maxReason {
		return detect.Act{}, muster.Errorf(muster.CodeInvalid, "the reason has %d bytes, and %d are the most", len(reason), maxReason)
	}
	return detect.Act{By: who.name, At: s.Now(), Reason: reason}, nil
}

func actOf(a *detect.Act) *v1.OperatorAct {
	if a == nil {
		return nil
	}
	return &v1.OperatorAct{By: a.By, At: stamp(a.At), Reason: a.Reason}
}

// baselineOf converts a baseline without its facts.
func baselineOf(b Baseline) *v1.Baseline {
	return &v1.Baseline{
		Name: b.Name, Version: b.Version, Runs: int32(b.Runs), Refused: int32(b.Refused), Mature: b.Mature(), MatureAfter: int32(b.Needs()), UsualAfter: detect.UsualAfter,
		Accepted: actOf(b.Accepted), Forgotten: actOf(b.Forgotten), Hosts: int32(len(b.Hosts)), Binaries: int32(len(b.Binaries)), Sensitive: int32(len(b.Sensitive)),
		Fresh: int32(len(b.Fresh())), UpdatedAt: stamp(b.UpdatedAt),
	}
}

// wholeBaseline converts a baseline with its facts, the fresh ones first.
func wholeBaseline(b Baseline) *v1.Baseline {
	out := baselineOf(b)
	for _, f := range b.Facts() {
		s, _ := b.Seen(f)
		out.Facts = append(out.Facts, &v1.BaselineFact{Kind: f.Kind, What: f.What, Runs: int32(s.Runs), FirstAt: stamp(s.First), LastAt: stamp(s.Last), Trace: s.Trace, Fresh: s.Fresh, Accepted: actOf(s.Accepted)})
	}
	rank := func(f *v1.BaselineFact) int {
		if f.Fresh {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out.Facts, func(x, y *v1.BaselineFact) int { return cmp.Compare(rank(x), rank(y)) })
	return out
}
