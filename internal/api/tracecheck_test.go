package api_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
)

// CheckTraces tells how far it is ten times a second, and finds one problem.
func (p *tracer) CheckTraces(_ context.Context, ws string, id muster.TraceID, f api.TraceFilter, yield func(*api.TraceProblem, api.TraceTally) bool) (api.TraceTally, error) {
	if err := p.in(ws, "check %q pool=%s", id.Runner, f.Pool); err != nil {
		return api.TraceTally{}, err
	}
	tally := api.TraceTally{Total: 50, Skipped: map[string]int{"lost": 1}}
	for n := range 49 {
		tally.Traces, tally.Took = n+1, time.Duration(n+1)*time.Second/10
		var problem *api.TraceProblem
		if n == 24 {
			tally.Problems = map[string]int{"damaged": 1}
			problem = &api.TraceProblem{Trace: p.all[0], Kind: "damaged", Text: "segment 2 of 3 is missing"}
		}
		if !yield(problem, tally) {
			break
		}
	}
	return tally, p.broken
}

// 4-45: problems come at once, progress once a second, and the sum last.
func TestCheckTraces(t *testing.T) {
	w, p := withTraces(t, nil)
	stream, err := w.traces.CheckTraces(t.Context(), &v1.CheckTracesRequest{Selection: &v1.TraceSelection{Pool: "linux"}})
	if err != nil {
		t.Fatal(err)
	}
	var problems []*v1.TraceProblem
	messages, done := 0, false
	for stream.Receive() {
		m := stream.Msg()
		if done || m.Stats.GetTotal() != 50 {
			t.Errorf("%v", m)
		}
		messages++
		problems, done = append(problems, m.Problems...), m.Done
		if done && (m.Stats.Traces != 49 || m.Stats.Problems["damaged"] != 1 || m.Stats.Skipped["lost"] != 1) {
			t.Errorf("%v", m)
		}
	}
	if stream.Err() != nil || !done || messages != 6 || len(problems) != 1 || problems[0].Kind != "damaged" || problems[0].Trace.GetId() != "r-old.2" {
		t.Errorf("%d messages, done %v, %v, %v", messages, done, problems, stream.Err())
	}
	if p.asked[len(p.asked)-1] != `check "" pool=linux` {
		t.Errorf("%q", p.asked)
	}
	p.broken = muster.Errorf(muster.CodeUnavailable, "the store is away")
	if stream, err = w.traces.CheckTraces(t.Context(), &v1.CheckTracesRequest{}); err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		if stream.Msg().Done {
			t.Error("a check that broke off is done")
		}
	}
	if codeOf(stream.Err()) != connect.CodeUnavailable {
		t.Error(stream.Err())
	}
}
