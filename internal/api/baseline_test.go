package api_test

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/trace/detect"
)

// withBaselines is a world in which job 101 has a baseline, and three others have one.
func withBaselines(t *testing.T) (*world, *tracer) {
	t.Helper()
	w, p := withTraces(t, nil)
	for i := range p.all {
		p.all[i].Workflow, p.all[i].Key = "ci", "build"
	}
	by := &detect.Act{By: "operator", At: t0, Reason: "our mirror"}
	p.baselines = []api.Baseline{{Name: "octo/app/ci/build", Version: 9, Baseline: &detect.Baseline{Runs: 7, Refused: 1, UpdatedAt: t0, Forgotten: by, Hosts: map[string]detect.Seen{
		"a.example": {Runs: 7, First: t0, Last: t0, Trace: "r-1"}, "z.example": {Runs: 1, First: t0, Last: t0, Trace: "r-7", Fresh: true}, "m.example": {Runs: 2, Accepted: by},
	}, Binaries: map[string]detect.Seen{"/usr/bin/make": {Runs: 1, Fresh: true}}}}}
	for _, name := range []string{"octo/app/ci/lint", "octo/app/ci/test", "octo/web/ci/build"} {
		p.baselines = append(p.baselines, api.Baseline{Name: name, Version: 1, Baseline: &detect.Baseline{Runs: 1}})
	}
	return w, p
}

// What a job usually does is named by itself or by a job, and told with who said what of it.
func TestBaselines(t *testing.T) {
	w, _ := withBaselines(t)
	list, err := w.traces.ListBaselines(t.Context(), &v1.ListBaselinesRequest{Text: "octo/app", Limit: 2})
	if err != nil || len(list.Baselines) != 2 || list.Next != "octo/app/ci/lint" {
		t.Fatalf("%v %v", list, err)
	}
	if b := list.Baselines[0]; !b.Mature || b.Runs != 7 || b.Refused != 1 || b.MatureAfter != 5 || b.UsualAfter != 3 || b.Hosts != 3 || b.Binaries != 1 || b.Fresh != 2 || b.Version != 9 || b.Forgotten.GetBy() != "operator" || b.Facts != nil || list.Baselines[1].Mature {
		t.Errorf("%v", list)
	}
	if list, err = w.traces.ListBaselines(t.Context(), &v1.ListBaselinesRequest{Text: "octo/app", After: list.Next, Limit: 2}); err != nil || len(list.Baselines) != 1 || list.Next != "" {
		t.Errorf("%v %v", list, err)
	}
	for _, ref := range []*v1.BaselineRef{{Name: "octo/app/ci/build"}, {Trace: &v1.TraceRef{JobId: 101}}, {Trace: &v1.TraceRef{Trace: "linux-old"}}} {
		got, err := w.traces.GetBaseline(t.Context(), &v1.GetBaselineRequest{Baseline: ref})
		if err != nil {
			t.Errorf("%v: %v", ref, err)
			continue
		}
		var facts []string
		for _, f := range got.Baseline.Facts {
			facts = append(facts, f.Kind+":"+f.What)
		}
		if d := cmp.Diff([]string{"host:z.example", "binary:/usr/bin/make", "host:a.example", "host:m.example"}, facts); d != "" {
			t.Error(d)
		}
		if f := got.Baseline.Facts[3]; f.Accepted.GetReason() != "our mirror" || !f.Accepted.At.AsTime().Equal(t0) || got.Baseline.Facts[0].Trace != "r-7" || !got.Baseline.Facts[0].Fresh {
			t.Errorf("%v", got)
		}
	}
	found, err := w.traces.ListFindings(t.Context(), &v1.ListFindingsRequest{})
	if err != nil || !slices.ContainsFunc(found.Findings, func(f *v1.Finding) bool {
		return f.Fact == "host:evil.example" && f.Accepted.GetBy() == "operator"
	}) {
		t.Errorf("%v %v", found, err)
	}
}

// What is accepted is what was named: facts, what one job had new, what is fresh, or all.
func TestAcceptAndForgetBaselines(t *testing.T) {
	w, p := withBaselines(t)
	named, job := &v1.BaselineRef{Name: "octo/app/ci/build"}, &v1.BaselineRef{Trace: &v1.TraceRef{JobId: 101}}
	for _, c := range []struct {
		req  *v1.AcceptBaselineRequest
		want string
	}{
		{&v1.AcceptBaselineRequest{Baseline: named, Facts: []string{"host:mirror7.example.com"}, Version: 9, Reason: " moved "}, `[host:mirror*.example.com] fresh=false all=false version=9 by operator at 0s because "moved"`},
		{&v1.AcceptBaselineRequest{Baseline: named, Fresh: true}, `[] fresh=true all=false version=0 by operator at 0s because ""`},
		{&v1.AcceptBaselineRequest{Baseline: job, Fresh: true}, `[host:evil.example] fresh=false all=false version=0 by operator at 0s because ""`},
		{&v1.AcceptBaselineRequest{Baseline: job, All: true}, `[] fresh=false all=true version=0 by operator at 0s because ""`},
	} {
		resp, err := w.traces.AcceptBaseline(t.Context(), c.req)
		if err != nil || len(resp.Baseline.Facts) != 4 {
			t.Errorf("%v: %v %v", c.req, resp, err)
			continue
		}
		if got := p.asked[len(p.asked)-1]; got != "accept octo/app/ci/build "+c.want {
			t.Errorf("%v asks %s", c.req, got)
		}
	}
	if _, err := w.traces.ForgetBaseline(t.Context(), &v1.ForgetBaselineRequest{Baseline: job, Version: 9, Reason: "renamed"}); err != nil || p.asked[len(p.asked)-1] != `forget octo/app/ci/build version=9 by operator because "renamed"` {
		t.Error(err, p.asked)
	}
}

func TestBaselineMistakes(t *testing.T) {
	w, p := withBaselines(t)
	named := &v1.BaselineRef{Name: "octo/app/ci/build"}
	for name, c := range map[string]struct {
		req  *v1.AcceptBaselineRequest
		code connect.Code
		says string
	}{
		"none":        {&v1.AcceptBaselineRequest{All: true}, connect.CodeInvalidArgument, "no baseline is named"},
		"both":        {&v1.AcceptBaselineRequest{Baseline: &v1.BaselineRef{Name: "x", Trace: &v1.TraceRef{JobId: 101}}, All: true}, connect.CodeInvalidArgument, "not by both"},
		"nothing":     {&v1.AcceptBaselineRequest{Baseline: named}, connect.CodeInvalidArgument, "nothing is named that is to be accepted"},
		"no fact":     {&v1.AcceptBaselineRequest{Baseline: named, Facts: []string{"evil.example"}}, connect.CodeInvalidArgument, "write host:NAME"},
		"too many":    {&v1.AcceptBaselineRequest{Baseline: named, Facts: slices.Repeat([]string{"host:a"}, 1001)}, connect.CodeInvalidArgument, "1000 are the most"},
		"long reason": {&v1.AcceptBaselineRequest{Baseline: named, All: true, Reason: strings.Repeat("x", 1001)}, connect.CodeInvalidArgument, "the reason has"},
		"version":     {&v1.AcceptBaselineRequest{Baseline: named, All: true, Version: -1}, connect.CodeInvalidArgument, "negative"},
		"no trace":    {&v1.AcceptBaselineRequest{Baseline: &v1.BaselineRef{Trace: &v1.TraceRef{JobId: 103}}, All: true}, connect.CodeNotFound, "it has not started"},
	} {
		if _, err := w.traces.AcceptBaseline(t.Context(), c.req); codeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.traces.GetBaseline(t.Context(), &v1.GetBaselineRequest{Baseline: &v1.BaselineRef{Name: "octo/app/ci/none"}}); codeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}
	p.all[0].Repository = ""
	if _, err := w.traces.GetBaseline(t.Context(), &v1.GetBaselineRequest{Baseline: &v1.BaselineRef{Trace: &v1.TraceRef{JobId: 101}}}); codeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "did not tell which job") {
		t.Error(err)
	}
	p.refused = muster.Errorf(muster.CodeConflict, "the baseline of octo/app/ci/build has version 10 and not 9 any more")
	if _, err := w.traces.ForgetBaseline(t.Context(), &v1.ForgetBaselineRequest{Baseline: named, Version: 9}); codeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "version 10") {
		t.Error(err)
	}
	if _, err := w.traces.ForgetBaseline(t.Context(), &v1.ForgetBaselineRequest{Baseline: named, Version: -1}); codeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
}
