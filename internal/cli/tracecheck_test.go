package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

// CheckTraces finds problems, except in the pool linux.
func (s traceService) CheckTraces(_ context.Context, req *v1.CheckTracesRequest, stream *connect.ServerStream[v1.CheckTracesResponse]) error {
	s.p.ask("check pool=%s trace=%s job=%d", req.Selection.GetPool(), req.Selection.GetTrace().GetTrace(), req.Selection.GetTrace().GetJobId())
	stats := func(traces int32, took time.Duration, problems map[string]int32) *v1.TraceCheckStats {
		return &v1.TraceCheckStats{Traces: traces, Total: 10_000, Whole: traces, Mended: 1, Unsigned: 2, Problems: problems, Skipped: map[string]int32{"recording": 3}, Bytes: 5 << 20, Took: durationpb.New(took)}
	}
	if req.Selection.GetPool() == "linux" {
		return stream.Send(&v1.CheckTracesResponse{Stats: &v1.TraceCheckStats{Traces: 1, Whole: 1}, Done: true})
	}
	damaged := testTrace()
	damaged.State, damaged.Reason = "truncated", "segment 2 of 3 is missing"
	found := map[string]int32{"damaged": 1, "orphan": 1}
	for _, m := range []*v1.CheckTracesResponse{
		{Stats: stats(200, time.Second, nil)},
		{Stats: stats(1500, 6*time.Second, nil)},
		{Stats: stats(1501, 7*time.Second, found), Problems: []*v1.TraceProblem{{Trace: damaged, Kind: "damaged", Text: "segment 2 of 3 is missing\x1b[2J"}, {Trace: &v1.Trace{Id: "r-nobody"}, Kind: "orphan", Text: "the store does not know it"}}},
		{Stats: stats(9997, 40*time.Second, found), Done: true},
	} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	if req.Selection.GetPool() == "away" {
		return connect.NewError(connect.CodeUnavailable, errors.New("the store is away"))
	}
	return nil
}

// A download that is cut between two frames is not taken for whole. 4-45
func TestTraceGetThatIsCut(t *testing.T) {
	p := newPlane(t)
	p.cut = true
	if r := p.muster(t, "trace", "get", "101"); r.code != 1 || !strings.Contains(r.out, "{") || !strings.Contains(r.errOut, "the download broke off") {
		t.Errorf("status %d: %d bytes, %s", r.code, len(r.out), r.errOut)
	}
}

// A check prints problems as they come, how far it is beside them, and ends with status 1 if
// there are any.
func TestTraceCheck(t *testing.T) {
	p := newPlane(t)
	r := p.muster(t, "trace", "check")
	if r.code != 1 || strings.Contains(r.out, "\x1b") || !strings.Contains(r.out, "damaged      r-old (job 101/2)  segment 2 of 3 is missing") || !strings.Contains(r.out, "orphan       r-nobody  the store does not know it") ||
		!strings.Contains(r.out, "9997 traces checked, 5.0 MiB, 40s; 1 that were damaged are whole again, 2 without an attestation, 3 not checked: recording; problems: 1 damaged, 1 orphan") {
		t.Errorf("status %d: %s", r.code, r.out)
	}
	if want := "1503 of 10000 traces looked at, 5.0 MiB read, 0 problems, 6s\n"; r.errOut != want {
		t.Errorf("progress %q, want %q", r.errOut, want)
	}
	if r := p.muster(t, "trace", "check", "--pool", "linux"); r.code != 0 || !strings.Contains(r.out, "1 trace checked") || !strings.Contains(r.out, "no problems") {
		t.Errorf("status %d: %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "trace", "check", "--pool", "away"); r.code != 1 || !strings.Contains(r.errOut, "the store is away") {
		t.Errorf("status %d: %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "trace", "check", "101", "--job", "102"); r.code != 2 {
		t.Errorf("status %d: %s", r.code, r.errOut)
	}
	p.asked = nil
	if r := p.muster(t, "trace", "check", "r-old"); r.code != 1 || p.asked[len(p.asked)-1] != "check pool= trace=r-old job=0" {
		t.Errorf("status %d: %q", r.code, p.asked)
	}
	r = p.muster(t, "trace", "check", "--json")
	var problems, stats int
	for dec := json.NewDecoder(strings.NewReader(r.out)); dec.More(); {
		var v struct {
			Problem *struct {
				Kind  string
				Trace struct{ ID, State string }
			}
			Stats *struct{ Problems map[string]int }
		}
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err, r.out)
		}
		if v.Problem != nil && v.Problem.Trace.ID != "" {
			problems++
		}
		if v.Stats != nil && v.Stats.Problems["damaged"] == 1 {
			stats++
		}
	}
	if r.code != 1 || problems != 2 || stats != 1 {
		t.Errorf("status %d: %d problems, %d stats: %s", r.code, problems, stats, r.out)
	}
}
