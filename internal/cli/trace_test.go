package cli_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
	"github.com/muster-ci/muster/internal/trace/view"
)

// testTrace is that of job 101.
func testTrace() *v1.Trace {
	return &v1.Trace{
		Id: "r-old", Runner: "r-old", Number: 1, Workspace: "default", Pool: "linux", JobId: 101, JobAttempt: 2, JobName: "build", Repository: "octo/app", RunId: 7, RunAttempt: 2, JobKey: "build",
		Workflow: "ci", WorkflowRef: "octo/app/.github/workflows/ci.yml@refs/heads/main", Ref: "refs/heads/main", Sha: "0123456789abcdef0123456789abcdef01234567", State: "complete",
		Segments: 3, Events: 1234, Bytes: 45_678, Head: strings.Repeat("ab", 32), Egress: "enforce", Refused: 1, Findings: map[string]int32{"high": 1},
		StartedAt: ago(2 * time.Hour), EndedAt: ago(2*time.Hour - time.Minute), SealedAt: ago(2*time.Hour - time.Minute), AnalysedAt: ago(2*time.Hour - 2*time.Minute), ExpiresAt: ago(-30 * 24 * time.Hour),
	}
}

func tracesOf(job int64) []*v1.Trace {
	if job != 101 {
		return nil
	}
	return []*v1.Trace{testTrace()}
}

func testFinding() *v1.Finding {
	return &v1.Finding{
		Trace: "r-old", JobId: 101, JobAttempt: 2, Rule: "runner-memory", Severity: "high", Title: "python3 read the memory of Runner.Worker", Explanation: "The worker's memory holds the\njob's secrets.",
		Remedy: "Rotate the secrets.", Step: "Get changed files", Process: "python3 /tmp/x.py", Pid: 4242, Ancestry: []string{"bash -e run.sh", "Runner.Worker"}, Subject: "Runner.Worker", Seq: []uint64{7, 9}, Count: 2,
		At: ago(2*time.Hour - 20*time.Second), Repository: "octo/app", JobName: "build",
	}
}

// testEvents are a few events of a job, one of which tries to steer a terminal.
func testEvents() []trace.Event {
	at := func(s int) time.Time { return now.Add(-2 * time.Hour).Add(time.Duration(s) * time.Second) }
	return []trace.Event{
		{Type: trace.StepStart, Timestamp: at(1), Seq: 1, Step: 1, Name: "Get changed files", Uses: "tj-actions/changed-files@v45", StepKind: "uses"},
		{Type: trace.ProcessExec, Timestamp: at(2), Seq: 2, Step: 1, PID: 4242, Command: "python3", Path: "/usr/bin/python3", Args: []string{"python3", "/tmp/x.py", "a b", "\x1b[2J"}},
		{Type: trace.NetConnect, Timestamp: at(3), Seq: 3, Step: 1, PID: 4243, Command: "curl", Address: "192.0.2.7", Port: 443, Protocol: "tcp", Hostname: "evil.example", Verdict: trace.VerdictDenied},
		{Type: trace.DNSQuery, Timestamp: at(3), Seq: 4, Step: 1, PID: 4243, Command: "curl", Hostname: "evil.example", QueryType: "A", Addresses: []string{"192.0.2.7"}},
		{Type: trace.MemRead, Timestamp: at(4), Seq: 5, Step: 1, PID: 4242, Command: "python3", Method: "proc_mem", Target: 77, TargetCommand: "Runner.Worker", Count: 2},
		{Type: trace.FileWrite, Timestamp: at(5), Seq: 6, Step: 1, PID: 4242, Command: "python3", Path: "/tmp/out", Bytes: 1 << 20},
		{Type: trace.ProcessExit, Timestamp: at(6), Seq: 7, Step: 1, PID: 4242, Command: "python3", DurationUS: 4_000_000, CPUUS: 1500, MemoryKiB: 2048, ExitCode: 1},
		{Type: trace.Dropped, Timestamp: at(7), Seq: 8, Name: "file_open", Method: "rate_limit", Count: 12},
	}
}

func eventLine(e trace.Event) string {
	text, err := trace.AppendEvent(nil, e)
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(text))
}

// testViews are small views with something in every part.
func testViews() *view.Views {
	at := func(s int) time.Time { return now.Add(-2 * time.Hour).Add(time.Duration(s) * time.Second) }
	counts := view.Counts{Events: 1234, Processes: 3, Execs: 2, Connections: 1, Hosts: 1, Queries: 1, Files: 2, FileCounts: view.FileCounts{Reads: 1, Writes: 1, Bytes: 1 << 20}, Sensitive: 1, Refused: 1, CPUUS: 1_500_000, PeakMemoryKiB: 2048, Failed: 1}
	return &view.Views{
		Version: view.Version, Ended: true,
		Overview: view.Overview{
			Verdict: view.Verdict{Word: view.VerdictRefused, Text: "The egress policy refused 1 connection."}, StartedAt: at(0), EndedAt: at(60), DurationUS: 60_000_000, Counts: counts,
			TopPrograms: []view.Top{{Name: "python3", Count: 1, CPUUS: 1_500_000, WallUS: 4_000_000}}, TopHosts: []view.Top{{Name: "evil.example", Count: 1}}, TopWriters: []view.Top{{Name: "python3", Count: 1, Bytes: 1 << 20}},
			Refusals: []view.Refusal{{Verdict: trace.VerdictDenied, Host: "evil.example", Address: "192.0.2.7", Port: 443, Protocol: "tcp", Program: "curl", PID: 4243, Step: 1, Count: 1, First: at(3), Seq: 3}},
			Recorder: &trace.Recorder{Agent: "v1.2.3", Kernel: "6.1.0", Scope: "cgroup"}, Missing: map[string]string{"module_load": "the kernel has no modules"}, Lost: map[string]int64{"rate_limit": 12},
		},
		Steps: []view.Step{
			{Number: 0, DurationUS: 5_000_000, Counts: view.Counts{Processes: 1}},
			{Number: 1, Name: "Get changed files", Kind: "uses", Uses: "tj-actions/changed-files@v45", Start: at(1), End: at(50), DurationUS: 49_000_000, Result: "succeeded", Counts: counts},
		},
		Processes: []view.Process{
			{Parent: -1, PID: 77, Command: "Runner.Worker", DurationUS: 60_000_000, CPUUS: 900_000, MemoryKiB: 90_000},
			{Parent: 0, PID: 4242, Command: "python3", Step: 1, Images: []view.Image{{Path: "/usr/bin/python3", Args: []string{"python3", "/tmp/x.py"}, At: at(2), Seq: 2}}, DurationUS: 4_000_000, CPUUS: 1500, MemoryKiB: 2048, ExitCode: 1, Written: 1 << 20},
			{Parent: 1, PID: 4243, Command: "curl", Step: 1, Images: []view.Image{{Path: "/usr/bin/curl", Args: []string{"curl", "https://evil.example"}, At: at(3), Seq: 3}}, DurationUS: 90_000, Connections: 1, Refused: 1, Hidden: 2, HiddenCPUUS: 70},
			{Parent: 0, PID: 4250, Command: "git", Step: 1, DurationUS: 800, Signal: 9},
		},
		HiddenProcesses: 5,
		Network: view.Network{
			Categories: []view.CategoryTotal{{Category: view.External, Hosts: 1, Connections: 1, Refused: 1}, {Category: view.GitHub}, {Category: view.Registries}, {Category: view.Runner}},
			Hosts:      []view.Host{{Host: "evil.example", Category: view.External, Addresses: []string{"192.0.2.7"}, Ports: []int{443}, Connections: 1, Queries: 1, Refused: 1, Programs: []string{"curl"}, Steps: []int{1}, First: at(3)}},
		},
		Files: &view.Dir{Name: "/", Distinct: 3, Total: view.FileCounts{Reads: 1, Writes: 1, Bytes: 1 << 20}, Sensitive: 1, Dirs: []*view.Dir{
			{Name: "home", Distinct: 2, Sensitive: 1, Total: view.FileCounts{Reads: 1}, Dirs: []*view.Dir{{Name: "u", Distinct: 2, Sensitive: 1, Total: view.FileCounts{Reads: 1},
				Files: []view.File{{Name: ".netrc", FileCounts: view.FileCounts{Reads: 1}, Sensitive: "credentials", Step: 1}}, Folded: 1}}},
			{Name: "tmp", Distinct: 1, Total: view.FileCounts{Writes: 1, Bytes: 1 << 20}, Files: []view.File{{Name: "out", FileCounts: view.FileCounts{Writes: 1, Bytes: 1 << 20}, Step: 1}}},
		}},
		FileTops: view.FileTops{Sensitive: []view.SensitiveFile{{Path: "/home/u/.netrc", What: "credentials", Kind: "read", Program: "curl", PID: 4243, Step: 1, Count: 1, First: at(3), Seq: 3}}, Largest: []view.Top{{Name: "/tmp/out", Count: 1, Bytes: 1 << 20}}},
		Performance: view.Performance{
			Total: view.StepPerformance{WallUS: 60_000_000, CPUUS: 2_400_000, Share: 1, Parallelism: 0.04, Idle: 0.96, MaxProcesses: 4, Processes: 4},
			Steps: []view.StepPerformance{{Number: 1, Name: "Get changed files", WallUS: 49_000_000, CPUUS: 1_500_000, Share: 0.82, Parallelism: 0.03, Idle: 0.97, MaxProcesses: 3, Processes: 3, Short: 1, ShortUS: 800, ReadBytes: 4096, WrittenBytes: 1 << 20, Connections: 1,
				ByCPU: []view.Top{{Name: "python3", Count: 1, CPUUS: 1500, WallUS: 4_000_000}}, ByIO: []view.Top{{Name: "python3", Bytes: 1 << 20}}}},
		},
		Notable: []view.Notable{{Type: trace.MemRead, Text: "python3 read the memory of Runner.Worker[77]", At: at(4), Seq: 5, PID: 4242, Program: "python3", Step: 1, Process: 1}},
	}
}

// loudViews are of a job that did one thing many times, and asked for a name that its policy
// would refuse.
func loudViews() *view.Views {
	refused := view.Counts{WouldDeny: 3}
	v := &view.Views{
		Version: view.Version, Ended: true,
		Overview: view.Overview{Counts: refused, Refusals: []view.Refusal{{Verdict: trace.VerdictWouldDeny, Host: "evil.example", Port: 53, Protocol: "dns", Program: "curl", PID: 9, Step: 1, Count: 3, First: now}}},
		Steps:    []view.Step{{Number: 1, Name: "Build", Start: now, Counts: refused}},
		Network: view.Network{
			Categories: []view.CategoryTotal{{Category: view.External, Hosts: 1}},
			Hosts:      []view.Host{{Host: "evil.example", Category: view.External, Queries: 3, Programs: []string{"curl"}, Steps: []int{12, 0, 1}}},
		},
	}
	for n := range 40 {
		v.Notable = append(v.Notable, view.Notable{Type: trace.MemRead, Text: fmt.Sprintf("read the memory of bash (process %d) by proc_environ", n), At: now, PID: 7, Program: "Runner.Listener", Step: 1})
	}
	v.Notable = append(v.Notable, view.Notable{Type: trace.ModuleLoad, Text: "loaded the module x", At: now, PID: 8, Program: "insmod", Step: 1})
	return v
}

func asStruct(v any) *structpb.Struct {
	text, err := json.Marshal(v)
	out := &structpb.Struct{}
	if err == nil {
		err = protojson.Unmarshal(text, out)
	}
	if err != nil {
		panic(err)
	}
	return out
}

type traceService struct {
	musterv1connect.UnimplementedTraceServiceHandler
	p *plane
}

func (s traceService) find(ref *v1.TraceRef) (*v1.Trace, error) {
	s.p.ask("trace %q job=%d/%d", ref.GetTrace(), ref.GetJobId(), ref.GetJobAttempt())
	switch {
	case ref.GetJobId() == 101, ref.GetTrace() == "r-old", ref.GetTrace() == "linux-old":
		return testTrace(), nil
	case ref.GetJobId() == 103:
		return &v1.Trace{Id: "r-loud", Runner: "r-loud", Number: 1, JobId: 103, JobAttempt: 1, State: "complete", Egress: "audit", WouldRefuse: 3}, nil
	case ref.GetJobId() == 105:
		return &v1.Trace{Id: "r-blind", Runner: "r-blind", Number: 1, JobId: 105, JobAttempt: 1, State: "complete", Egress: "audit"}, nil
	case ref.GetJobId() != 0:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no trace of job %d: not recorded, because pool linux does not record its jobs", ref.JobId))
	}
	return nil, notFound("trace", ref.GetTrace())
}

func (s traceService) ListTraces(_ context.Context, req *v1.ListTracesRequest) (*v1.ListTracesResponse, error) {
	s.p.ask("traces pool=%s repo=%s since=%v states=%v", req.Selection.GetPool(), req.Selection.GetRepository(), req.Selection.GetSince().AsTime().Format(time.DateOnly), req.States)
	if req.Selection.GetPool() == "mac" {
		return &v1.ListTracesResponse{}, nil
	}
	live := &v1.Trace{Id: "r-busy", Runner: "r-busy", Number: 1, JobId: 102, JobAttempt: 1, JobName: "build", Workflow: "ci", Repository: "octo/app", State: "recording", Segments: 1, Events: 10, StartedAt: ago(30 * time.Minute), WouldRefuse: 2, Egress: "learn"}
	absent := &v1.Trace{Id: "r-none.2", Runner: "r-none", Number: 2, Repository: "octo/app", State: "not_recorded", Reason: "the agent may not load programs into the kernel"}
	return &v1.ListTracesResponse{Traces: []*v1.Trace{live, testTrace(), absent}}, nil
}
func (s traceService) GetTrace(_ context.Context, req *v1.GetTraceRequest) (*v1.GetTraceResponse, error) {
	t, err := s.find(req.Trace)
	return &v1.GetTraceResponse{Trace: t}, err
}
func (s traceService) GetTraceView(_ context.Context, req *v1.GetTraceViewRequest) (*v1.GetTraceViewResponse, error) {
	t, err := s.find(req.Trace)
	if req.View == "nothing" {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("view %q is unknown", req.View))
	}
	if t.GetId() == "r-loud" {
		return &v1.GetTraceViewResponse{Trace: t, Views: asStruct(loudViews()), Findings: []*v1.Finding{
			{Severity: "info", Rule: "egress-would-refuse", Title: "curl would be refused", Step: "Build", Count: 2, Remedy: "Add the host"},
			{Severity: "high", Rule: "environ-read", Title: "curl read the environment of bash", Step: "Build", Count: 1},
		}}, err
	}
	if t.GetId() == "r-blind" {
		const why = "no cgroup hierarchy is mounted"
		return &v1.GetTraceViewResponse{Trace: t, Views: asStruct(&view.Views{Version: view.Version, Ended: true, Overview: view.Overview{Missing: map[string]string{"net_connect": why, "egress": why, "file_open": why}}})}, err
	}
	return &v1.GetTraceViewResponse{Trace: t, Findings: []*v1.Finding{testFinding()}, Views: asStruct(testViews())}, err
}
func (s traceService) QueryTraces(_ context.Context, req *v1.QueryTracesRequest, stream *connect.ServerStream[v1.QueryTracesResponse]) error {
	if strings.Contains(req.Query, "hostnam ") {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("there is no field hostnam (line 1, column 1)\n  hostnam == 1\n  ^\ndid you mean hostname?"))
	}
	if req.Selection.GetPool() == "mac" {
		return stream.Send(&v1.QueryTracesResponse{Stats: &v1.TraceStats{}})
	}
	s.p.ask("query %s job=%d since=%s limit=%d", req.Query, req.Selection.GetTrace().GetJobId(), req.Selection.GetSince().AsTime().Format(time.DateOnly), req.Limit)
	resp := &v1.QueryTracesResponse{Stats: &v1.TraceStats{Traces: 12, Skipped: map[string]int32{"deleted": 2}, Matched: 8, Affected: 1, Took: durationpb.New(120 * time.Millisecond), Limited: true}}
	for _, e := range testEvents() {
		resp.Events = append(resp.Events, &v1.TraceEvent{Trace: "r-old", JobId: 101, Repository: "octo/app", JobName: "build", Event: eventLine(e)})
	}
	if req.Query == "end" {
		resp.Events = []*v1.TraceEvent{{Trace: "r-old", JobId: 101, Event: eventLine(trace.Event{Type: trace.TraceEnd, Timestamp: now, Counts: map[string]int64{"file_open": 7, "trace_end": 1}, Lost: map[string]int64{"rate_limit": 2, "disk_full": 1}})}}
	}
	if req.Query == "broken" {
		resp.Stats.Failed, resp.Stats.Errors = 1, []string{"trace r-x: the trace was changed"}
	}
	return stream.Send(resp)
}
func (s traceService) TailTrace(_ context.Context, req *v1.TailTraceRequest, stream *connect.ServerStream[v1.TailTraceResponse]) error {
	t, err := s.find(req.Trace)
	if err != nil {
		return err
	}
	s.p.ask("tail last=%d query=%s", req.Last, req.Query)
	for _, e := range testEvents() {
		if err := stream.Send(&v1.TailTraceResponse{Events: []string{eventLine(e)}}); err != nil {
			return err
		}
	}
	return stream.Send(&v1.TailTraceResponse{Trace: t})
}
func (s traceService) DiffTraces(_ context.Context, req *v1.DiffTracesRequest) (*v1.DiffTracesResponse, error) {
	t, err := s.find(req.Trace)
	if err == nil && req.Against != nil {
		_, err = s.find(req.Against)
	}
	v := testViews()
	d := view.Diff{NewHosts: v.Network.Hosts, NewPrograms: []view.Program{{Path: "/usr/bin/python3", Count: 1}}, NewSensitive: v.FileTops.Sensitive, NewNotable: v.Notable, GoneHosts: []string{"proxy.golang.org"},
		Steps: []view.StepDiff{{Name: "Get changed files", Change: view.StepChanged, DurationUS: 49_000_000, BeforeDurationUS: 3_000_000, Why: []string{"duration"}}}, Total: view.StepDiff{Name: "all", Change: view.StepChanged, DurationUS: 60_000_000, BeforeDurationUS: 14_000_000}}
	return &v1.DiffTracesResponse{Trace: t, Against: &v1.Trace{Id: "r-earlier", JobId: 99, JobAttempt: 1, StartedAt: ago(26 * time.Hour)}, Diff: asStruct(d)}, err
}
func (s traceService) ListFindings(_ context.Context, req *v1.ListFindingsRequest) (*v1.ListFindingsResponse, error) {
	s.p.ask("findings rule=%s severity=%s job=%d", req.Rule, req.Severity, req.Selection.GetTrace().GetJobId())
	if s.p.finding != nil {
		return &v1.ListFindingsResponse{Findings: []*v1.Finding{s.p.finding}}, nil
	}
	if req.Selection.GetPool() == "mac" {
		return &v1.ListFindingsResponse{}, nil
	}
	return &v1.ListFindingsResponse{Findings: []*v1.Finding{testFinding()}}, nil
}
func (s traceService) ScanTraces(_ context.Context, req *v1.ScanTracesRequest, stream *connect.ServerStream[v1.ScanTracesResponse]) error {
	s.p.ask("scan %q", req.Indicators)
	if err := stream.Send(&v1.ScanTracesResponse{Trace: testTrace(), Hits: []*v1.ScanHit{{Indicator: "evil.example", Event: eventLine(testEvents()[2])}}}); err != nil {
		return err
	}
	return stream.Send(&v1.ScanTracesResponse{Stats: &v1.TraceStats{Traces: 12, Matched: 1, Affected: 1, Took: durationpb.New(time.Second)}})
}
func (s traceService) ProposeEgress(_ context.Context, req *v1.ProposeEgressRequest) (*v1.ProposeEgressResponse, error) {
	if req.Pool != "linux" {
		return nil, notFound("pool", req.Pool)
	}
	if now.Sub(req.Since.AsTime()) < time.Hour {
		return &v1.ProposeEgressResponse{Pool: "linux"}, nil
	}
	return &v1.ProposeEgressResponse{Pool: "linux", Mode: "learn", NoGithub: true, Jobs: 40, Unused: []string{"registry.npmjs.org"}, Notes: []string{"The list is young."}, Entries: []*v1.EgressEntry{
		{Allow: "proxy.golang.org:443", Jobs: 38, FirstAt: ago(72 * time.Hour), LastAt: ago(time.Hour), Processes: []string{"go"}, Known: true},
		{Allow: "*.cdn.example.com:443", Hosts: []string{"a.cdn.example.com", "b.cdn.example.com"}, Jobs: 12, LastAt: ago(2 * time.Hour), Processes: []string{"curl", "npm"}},
		{Allow: "169.254.169.254:80", Jobs: 1, LastAt: ago(2 * time.Hour), Processes: []string{"curl"}, Warning: "the machine's metadata service"},
	}}, nil
}

func (s traceService) baseline(ref *v1.BaselineRef) (*v1.Baseline, error) {
	switch {
	case ref.GetName() == "octo/app/ci/build":
	case ref.GetName() != "":
		return nil, notFound("baseline", ref.Name)
	default:
		if _, err := s.find(ref.GetTrace()); err != nil {
			return nil, err
		}
	}
	by := &v1.OperatorAct{By: "operator", At: ago(3 * time.Hour), Reason: "our mirror"}
	return &v1.Baseline{Name: "octo/app/ci/build", Version: 9, Runs: 7, Refused: 1, Mature: true, MatureAfter: 5, UsualAfter: 3, Hosts: 3, Binaries: 1, Fresh: 1, UpdatedAt: ago(time.Hour), Forgotten: &v1.OperatorAct{By: "operator", At: ago(90 * 24 * time.Hour)}, Facts: []*v1.BaselineFact{
		{Kind: "host", What: "evil.example\x1b[2J", Runs: 1, FirstAt: ago(time.Hour), LastAt: ago(time.Hour), Trace: "r-old", Fresh: true},
		{Kind: "host", What: "mirror*.example.com", Runs: 2, FirstAt: ago(5 * time.Hour), LastAt: ago(time.Hour), Trace: "r-old", Accepted: by},
		{Kind: "host", What: "proxy.golang.org", Runs: 7, FirstAt: ago(80 * 24 * time.Hour), LastAt: ago(time.Hour), Trace: "r-first"},
		{Kind: "binary", What: "/opt/hostedtoolcache/go/*/x*/bin/go", Runs: 7, FirstAt: ago(80 * 24 * time.Hour), LastAt: ago(time.Hour), Trace: "r-first"},
	}}, nil
}
func (s traceService) ListBaselines(_ context.Context, req *v1.ListBaselinesRequest) (*v1.ListBaselinesResponse, error) {
	s.p.ask("baselines %q after %q limit=%d", req.Text, req.After, req.Limit)
	b, err := s.baseline(&v1.BaselineRef{Name: "octo/app/ci/build"})
	b.Facts = nil
	return &v1.ListBaselinesResponse{Baselines: []*v1.Baseline{b, {Name: "octo/app/ci/lint all", Version: 2, Runs: 2, MatureAfter: 5, Binaries: 4, UpdatedAt: ago(time.Minute)}, {Name: "octo/web/ci/build", Version: 2, Runs: 1, Mature: true, MatureAfter: 5, Accepted: &v1.OperatorAct{By: "operator"}}}, Next: "octo/web/ci/build"}, err
}
func (s traceService) GetBaseline(_ context.Context, req *v1.GetBaselineRequest) (*v1.GetBaselineResponse, error) {
	b, err := s.baseline(req.Baseline)
	return &v1.GetBaselineResponse{Baseline: b}, err
}
func (s traceService) AcceptBaseline(_ context.Context, req *v1.AcceptBaselineRequest) (*v1.AcceptBaselineResponse, error) {
	b, err := s.baseline(req.Baseline)
	s.p.ask("accept %s job=%d %q fresh=%t all=%t version=%d reason=%q", req.Baseline.GetName(), req.Baseline.GetTrace().GetJobId(), req.Facts, req.Fresh, req.All, req.Version, req.Reason)
	return &v1.AcceptBaselineResponse{Baseline: b, Accepted: req.Facts}, err
}
func (s traceService) ForgetBaseline(_ context.Context, req *v1.ForgetBaselineRequest) (*v1.ForgetBaselineResponse, error) {
	b, err := s.baseline(req.Baseline)
	s.p.ask("forget %s job=%d version=%d reason=%q", req.Baseline.GetName(), req.Baseline.GetTrace().GetJobId(), req.Version, req.Reason)
	return &v1.ForgetBaselineResponse{Baseline: b}, err
}

// download serves the events of the test, or a bundle.
func (p *plane) download(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("runner") != "r-old" || r.PathValue("number") != "1" {
		_ = connect.NewErrorWriter().Write(w, r, notFound("trace", r.PathValue("runner")))
		return
	}
	if r.PathValue("what") == "bundle" {
		_, _ = w.Write(testBundle)
		return
	}
	var lines []byte
	for _, e := range testEvents() {
		lines = append(lines, eventLine(e)+"\n"...)
	}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "zstd") {
		packer, err := trace.NewPacker()
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Encoding", "zstd")
		half := len(eventLine(testEvents()[0])) + 1
		lines = append(packer.Pack(lines[:half]), packer.Pack(lines[half:])...) // two frames
	}
	if p.cut {
		_, _ = w.Write(lines)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(lines)
}

// testSigner signs the bundle of the test.
var testSigner = func() ed25519.PrivateKey {
	k, err := attest.Key(bytes.Repeat([]byte{5}, 32))
	if err != nil {
		panic(err)
	}
	return k
}()

var testKey = func() string {
	text, err := attest.EncodePublic(testSigner.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	return string(text)
}()

var testBundle = func() []byte {
	packer, err := trace.NewPacker()
	if err != nil {
		panic(err)
	}
	seal := trace.Seal{StartedAt: now.Add(-2 * time.Hour), EndedAt: now.Add(-time.Hour)}
	var all []trace.Segment
	for _, e := range testEvents() {
		s := trace.Segment{Seq: seal.Segments + 1, Events: 1, Data: packer.Pack([]byte(eventLine(e) + "\n"))}
		s.Link = seal.Head.Next(s.Seq, s.Data)
		seal.Segments, seal.Head, seal.Events = s.Seq, s.Link, seal.Events+1
		all = append(all, s)
	}
	statement, err := attest.Statement(attest.Facts{Trace: "r-old", State: "complete", Seal: seal, Job: trace.Job{Repository: "octo/app", RunID: 7, Attempt: 2}, JobID: 101})
	if err != nil {
		panic(err)
	}
	envelope, err := attest.Sign(context.Background(), statement, testSigner)
	if err != nil {
		panic(err)
	}
	var b bytes.Buffer
	err = attest.WriteBundle(&b, envelope, func(yield func(trace.Segment, error) bool) {
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
	})
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}()

// A bundle is checked with a key and nothing else; whatever is wrong is told.
func TestTraceVerify(t *testing.T) {
	p := newPlane(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	other, err := attest.Key(bytes.Repeat([]byte{6}, 32))
	if err != nil {
		t.Fatal(err)
	}
	otherText, err := attest.EncodePublic(other.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	key, otherKey, both := write("key.pem", []byte(testKey)), write("other.pem", otherText), write("both.pem", append(otherText, testKey...))
	bundle := write("job.bundle", testBundle)
	lines := bytes.SplitAfter(testBundle, []byte("\n"))
	short := write("short.bundle", bytes.Join(lines[:3], nil))
	torn, events := write("torn.bundle", bytes.Join(lines[:5], nil)[:len(bytes.Join(lines[:5], nil))-40]), write("events.jsonl", []byte(eventLine(testEvents()[0])+"\n"))
	for _, args := range [][]string{{bundle, "--key", key}, {bundle, "--key", both}, {"101"}, {"101", "--key", key}} {
		r := call{vars: map[string]string{"MUSTER_SERVER": p.url}}.run(t.Context(), append([]string{"trace", "verify"}, args...)...)
		if r.code != 0 || !strings.HasPrefix(r.out, "verified: trace r-old of https://github.com/octo/app/actions/runs/7/job/101: 8 events in 8 segments") {
			t.Errorf("%v: status %d: %s%s", args, r.code, r.out, r.errOut)
		}
	}
	offline := call{vars: map[string]string{"MUSTER_SERVER": "http://127.0.0.1:1"}}
	if r := offline.run(t.Context(), "trace", "verify", bundle, "--key", key, "--json"); r.code != 0 || !strings.Contains(r.out, `"ok": true`) {
		t.Errorf("status %d: %s%s", r.code, r.out, r.errOut)
	}
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{bundle, "--key", otherKey}, 1, "the trace does not hold: the signature is not this key's"},
		{[]string{short, "--key", key}, 1, "the trace does not hold: the trace was changed"},
		{[]string{torn, "--key", key}, 1, "the trace does not hold: read the segments: the trace was changed: line 5 of the bundle is damaged, or the file breaks off there"},
		{[]string{events, "--key", key}, 2, "events.jsonl: it is no bundle; muster trace get JOB --bundle makes one"},
		{[]string{write("empty", nil), "--key", key}, 2, "it is no bundle"},
		{[]string{bundle}, 2, "name it with --key (muster trace key prints it)"},
		{[]string{bundle, "--key", bundle}, 2, "there is no public key in it"},
		{[]string{filepath.Join(dir, "none.bundle"), "--key", key}, 2, "no such file"},
	} {
		if r := offline.run(t.Context(), append([]string{"trace", "verify"}, c.args...)...); r.code != c.code || !strings.Contains(r.errOut, c.text) {
			t.Errorf("%v: status %d: %s%s", c.args, r.code, r.out, r.errOut)
		}
	}
	if r := offline.run(t.Context(), "trace", "verify", short, "--key", key, "--json"); r.code != 1 || !strings.Contains(r.out, `"ok": false`) || r.errOut != "" {
		t.Errorf("status %d: %s%s", r.code, r.out, r.errOut)
	}
}

// S4-56: a job's trace is shown, searched and compared by the job's own name.
func TestTraceOutput(t *testing.T) {
	for _, args := range []string{
		"trace list", "trace show 101", "trace show 101 --view timeline", "trace show 101 --view execution", "trace show 101 --view network", "trace show 101 --view files", "trace show 101 --view performance",
		"trace query true", "trace tail 101", "trace diff 101", "trace findings", "trace allowlist linux",
		"trace baseline list octo", "trace baseline show 101", "trace baseline reset 101",
	} {
		t.Run(args, func(t *testing.T) {
			name := strings.NewReplacer(" ", "_", "-", "").Replace(args)
			r := newPlane(t).muster(t, strings.Fields(args)...)
			if r.code != 0 || r.errOut != "" {
				t.Fatalf("status %d: %s", r.code, r.errOut)
			}
			if strings.Contains(r.out, "\x1b") {
				t.Error("a job steers the terminal")
			}
			golden(t, name+".txt", r.out)
			r = newPlane(t).muster(t, append(strings.Fields(args), "--json")...)
			if r.code != 0 || r.out == "" {
				t.Fatalf("--json: status %d: %s%s", r.code, r.out, r.errOut)
			}
			for dec := json.NewDecoder(strings.NewReader(r.out)); dec.More(); {
				var v any
				if err := dec.Decode(&v); err != nil {
					t.Fatalf("--json: %s: %s", err, r.out)
				}
			}
		})
	}
}

// S0-24: the download is the events as they were recorded, whatever they travelled as.
func TestTraceGet(t *testing.T) {
	p := newPlane(t)
	var want strings.Builder
	for _, e := range testEvents() {
		want.WriteString(eventLine(e) + "\n")
	}
	for _, job := range []string{"101", "101/2", "r-old", "linux-old", "https://github.com/octo/app/actions/runs/7/job/101"} {
		if r := p.muster(t, "trace", "get", job); r.code != 0 || r.out != want.String() {
			t.Errorf("%s: status %d: %s%s", job, r.code, r.out, r.errOut)
		}
	}
	file := filepath.Join(t.TempDir(), "job.jsonl")
	if r := p.muster(t, "trace", "get", "101", "-o", file); r.code != 0 || r.out != "" {
		t.Fatal(r.out, r.errOut)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != want.String() {
		t.Errorf("%s %v", got, err)
	}
	if r := p.muster(t, "trace", "get", "101", "--bundle"); r.code != 0 || r.out != string(testBundle) {
		t.Errorf("status %d: %q %s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "trace", "key"); r.code != 0 || r.out != testKey {
		t.Errorf("status %d: %q %s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "trace", "get", "104"); r.code != 1 || !strings.Contains(r.errOut, "there is no trace of job 104: not recorded, because pool linux does not record its jobs") {
		t.Errorf("status %d: %q %s", r.code, r.out, r.errOut)
	}
}

// The end of a trace says how much there was.
func TestTraceQueryEnd(t *testing.T) {
	if r := newPlane(t).muster(t, "trace", "query", "end"); r.code != 0 || !strings.Contains(r.out, "trace_end  8 events, 3 lost\n") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
}

// Events come one per line, each an object with the event as it is in the trace.
func TestTraceQueryJSON(t *testing.T) {
	r := newPlane(t).muster(t, "trace", "query", "true", "--json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if r.code != 0 || len(lines) != len(testEvents())+1 {
		t.Fatalf("%d %s%s", r.code, r.out, r.errOut)
	}
	var first struct {
		Trace string      `json:"trace"`
		JobID int64       `json:"job_id"`
		Event trace.Event `json:"event"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Trace != "r-old" || first.JobID != 101 {
		t.Errorf("%v %v", first, err)
	}
	if d := cmp.Diff(testEvents()[0], first.Event); d != "" {
		t.Error(d)
	}
	var last struct{ Stats map[string]any }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Stats["traces"] != 12.0 {
		t.Errorf("%v %v", last, err)
	}
}

func TestTraceScan(t *testing.T) {
	p := newPlane(t)
	file := filepath.Join(t.TempDir(), "ioc.txt")
	if err := os.WriteFile(file, []byte("# from the advisory\nevil.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := p.muster(t, "trace", "scan", "--ioc", file)
	if r.code != 0 || !strings.Contains(r.out, "101/2  octo/app  ci / build") || !strings.Contains(r.out, "evil.example:443 (192.0.2.7) tcp, refused") || !strings.Contains(r.out, "1 event in 1 of 12 traces") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "trace", "scan", "--ioc", file, "--exit-status"); r.code != 1 || r.errOut != "" {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if d := cmp.Diff(`scan "# from the advisory\nevil.example\n"`, p.asked[0]); d != "" {
		t.Error(d)
	}
}

// What is printed for the configuration can be pasted back: it is what was needed, in the mode
// and with the settings that the policy has; what is not to be allowed unseen is a comment.
func TestAllowlistForTheConfiguration(t *testing.T) {
	p := newPlane(t)
	r := p.muster(t, "trace", "allowlist", "linux", "--yaml")
	want := `# The list is young.
egress:
  mode: learn
  no_github: true
  allow:
    - "*.cdn.example.com:443"
    # - "169.254.169.254:80"  # the machine's metadata service
    - "proxy.golang.org:443"
    # - "registry.npmjs.org"  # nobody needed it
`
	if d := cmp.Diff(want, r.out); d != "" || r.code != 0 {
		t.Errorf("status %d: %s%s", r.code, r.errOut, d)
	}
	r = p.muster(t, "trace", "allowlist", "linux", "--yaml", "--since", "10m")
	if d := cmp.Diff("egress:\n  mode: learn\n  allow: []\n", r.out); d != "" {
		t.Error(d)
	}
	for text, allow := range map[string]int{want: 2, r.out: 0} {
		var back struct{ Egress muster.Egress }
		if err := yaml.UnmarshalWithOptions([]byte(text), &back, yaml.Strict()); err != nil || back.Egress.Mode != "learn" || len(back.Egress.Allow) != allow {
			t.Errorf("%+v %v", back, err)
		}
	}
}

// A view that is empty because the machine could not record says so, and not that a job did
// nothing: neither that a policy refused nothing, nor that nothing has to be allowed.
func TestWhatWasNotRecordedProvesNothing(t *testing.T) {
	p := newPlane(t)
	for args, want := range map[string]string{
		"trace show 105":                    "egress     audit: not watched, because no cgroup hierarchy is mounted\n",
		"trace show 105 --view network":     "Connections were not recorded, because: no cgroup hierarchy is mounted\n",
		"trace show 105 --view files":       "Files were not recorded, because: no cgroup hierarchy is mounted\n",
		"trace allowlist linux --since 10m": "What jobs reached is not known.\n",
	} {
		if r := p.muster(t, strings.Fields(args)...); r.code != 0 || !strings.Contains(strings.Join(strings.Fields(r.out), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%s: status %d: %s%s", args, r.code, r.out, r.errOut)
		}
	}
}

// A selection that nothing is in says so, and not that nothing was found.
func TestNothingIsSelected(t *testing.T) {
	p := newPlane(t)
	for args, want := range map[string]string{
		"trace list --pool mac --since 2h":       "No trace is selected by --pool mac --since 2h; muster trace list shows every one.",
		"trace list --pool mac":                  "No trace is selected by --pool mac;",
		"trace query true --pool mac":            "No trace is selected by --pool mac;",
		"trace findings --pool mac --severity x": "No findings with --pool mac --severity x.",
	} {
		if r := p.muster(t, strings.Fields(args)...); r.code != 0 || !strings.HasPrefix(r.out, want) {
			t.Errorf("%s: status %d: %s%s", args, r.code, r.out, r.errOut)
		}
	}
}

// A long list of alike events of one process does not bury the others, and a finding that is
// only news takes one line.
func TestOverviewAndTimelineAreShort(t *testing.T) {
	p := newPlane(t)
	r := p.muster(t, "trace", "show", "103", "--view", "timeline")
	if n := strings.Count(r.out, "read the memory of bash"); r.code != 0 || n != 5 || !strings.Contains(r.out, "… and 35 more: mem read by Runner.Listener[7]\n") || !strings.Contains(r.out, "loaded the module x") {
		t.Errorf("status %d, %d lines: %s%s", r.code, n, r.out, r.errOut)
	}
	r = p.muster(t, "trace", "show", "103")
	if !strings.Contains(r.out, "info  egress-would-refuse  curl would be refused  2 times  Build\n") || strings.Contains(r.out, "Add the host") {
		t.Error(r.out)
	}
	if !strings.Contains(r.out, "would be refused  evil.example  dns") || !regexp.MustCompile(`(?m)^1 +Build .* \(3\)$`).MatchString(r.out) {
		t.Error(r.out)
	}
	if r := p.muster(t, "trace", "show", "103", "--view", "network"); !regexp.MustCompile(`(?m)^evil.example +- +0 +\(3\) +curl +1,12 `).MatchString(r.out) {
		t.Error(r.out)
	}
}

// A list that ends at its limit says so.
func TestFullLists(t *testing.T) {
	p := newPlane(t)
	for args, want := range map[string]string{
		"trace list --limit 3":     "There may be more: raise --limit or narrow the search.\n",
		"trace findings --limit 1": "There may be more: raise --limit or narrow the search.\n",
		"trace list --limit 4":     "",
		"trace list":               "",
	} {
		r := p.muster(t, strings.Fields(args)...)
		if r.code != 0 || want != "" && !strings.HasSuffix(r.out, want) || want == "" && strings.Contains(r.out, "There may be more") {
			t.Errorf("%s: %d %s%s", args, r.code, r.out, r.errOut)
		}
	}
}

func TestTraceMistakes(t *testing.T) {
	p := newPlane(t)
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"trace scan":                                       {2, "no indicators; name a file with --ioc"},
		"trace scan --ioc testdata/none":                   {2, "--ioc: open testdata/none"},
		"trace show":                                       {2, "trace show takes other arguments"},
		"trace show 104":                                   {1, "there is no trace of job 104: not recorded, because"},
		"trace show nothing":                               {1, `there is no trace "nothing"`},
		"trace query x --since soon":                       {2, `--since "soon" is not a time`},
		"trace show 101 --view nothing":                    {2, `view "nothing" is unknown`},
		"trace findings 101 --job 102":                     {2, "two jobs are named, 101 and --job 102"},
		"trace get 101 -o testdata/none/x":                 {2, "--output: write to testdata/none/x: no such file or directory"},
		"trace get 101 -o testdata":                        {2, "--output: testdata is a directory"},
		"trace query broken":                               {1, "trace r-x: the trace was changed"},
		"trace get r-unknown":                              {1, `there is no trace "r-unknown"`},
		"trace baseline accept 101":                        {2, "nothing is named that is to be accepted; name facts such as host:mirror.example.com, or use --new or --all"},
		"trace baseline accept 101 host:a --new":           {2, "use facts, --new or --all, and not two of them"},
		"trace baseline accept":                            {2, "trace baseline accept takes other arguments"},
		"trace baseline show octo/app/ci/none":             {1, `there is no baseline "octo/app/ci/none"`},
		"trace baseline show 104":                          {1, "there is no trace of job 104: not recorded, because"},
		"trace baseline show 101 --kind port":              {2, `--kind "port" is unknown; use host, binary or sensitive`},
		"trace baseline reset https://github.com/octo/app": {2, "is not the address of a job or of a workflow run"},
		"trace baseline remove octo/app/ci/build":          {2, `unknown command "remove"`},
		"trace allowlist mac":                              {1, `there is no pool "mac"`},
		"rules show nothing":                               {1, `there is no rule "nothing"; muster rules list`},
		"rules test testdata/none":                         {2, "muster: stat testdata/none: no such file or directory"},
		"rules list --dir testdata/none":                   {2, "--dir: stat testdata/none"},
		"trace show https://github.com/octo/app":           {2, "is not the address of a job or of a workflow run"},
	} {
		if r := p.muster(t, strings.Fields(args)...); r.code != want.code || !strings.Contains(r.errOut, want.text) {
			t.Errorf("%s: status %d: %s", args, r.code, r.errOut)
		}
	}
}

func TestTraceCommandsReachThePlane(t *testing.T) {
	p := newPlane(t)
	for _, args := range []string{"trace list --pool linux --repo octo/app --since 2d --state complete,lost", "trace query port==22 --job 101 --limit 5", "trace query port==22 --since 30d", "trace tail linux-old port==22 --last 0", "trace diff 101/2 r-old", "trace findings 101 --rule x --severity high"} {
		if r := p.muster(t, strings.Fields(args)...); r.code != 0 {
			t.Fatalf("%s: %s", args, r.errOut)
		}
	}
	want := []string{"traces pool=linux repo=octo/app since=2026-11-18 states=[complete lost]", "query port==22 job=101 since=1970-01-01 limit=5", "query port==22 job=0 since=2026-10-21 limit=1000",
		`trace "linux-old" job=0/0`, "tail last=0 query=port==22", `trace "" job=101/2`, `trace "r-old" job=0/0`, "findings rule=x severity=high job=101"}
	if d := cmp.Diff(want, p.asked); d != "" {
		t.Error(d)
	}
}

// A baseline is named by its job as a trace is, or by itself.
func TestBaselineCommands(t *testing.T) {
	p := newPlane(t)
	for _, args := range [][]string{
		{"list", "octo/app", "--after", "octo/app/a b", "--limit", "2"}, {"accept", "101/2", "--new"}, {"accept", "octo/app/ci/build", "--all", "--version", "9"},
		{"accept", "octo/app/ci/build", "binary:/opt/a b", "host:x", "--reason", "the new one"}, {"reset", "linux-old"}, {"forget", "octo/app/ci/build", "--version", "3", "--reason", "moved"},
	} {
		if r := p.muster(t, append([]string{"trace", "baseline"}, args...)...); r.code != 0 {
			t.Fatalf("%v: %s", args, r.errOut)
		}
	}
	want := []string{`baselines "octo/app" after "octo/app/a b" limit=2`, `trace "" job=101/2`, `accept  job=101 [] fresh=true all=false version=0 reason=""`, `accept octo/app/ci/build job=0 [] fresh=false all=true version=9 reason=""`,
		`accept octo/app/ci/build job=0 ["binary:/opt/a b" "host:x"] fresh=false all=false version=0 reason="the new one"`, `trace "linux-old" job=0/0`, `forget  job=0 version=0 reason=""`, `forget octo/app/ci/build job=0 version=3 reason="moved"`}
	if d := cmp.Diff(want, p.asked); d != "" {
		t.Error(d)
	}
	if r := p.muster(t, "trace", "baseline", "accept", "101", "host:a.example", "host:b.example"); r.code != 0 || !strings.HasPrefix(r.out, "accepted host:a.example\naccepted host:b.example\nbaseline ") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	r := p.muster(t, "trace", "baseline", "show", "octo/app/ci/build", "--new")
	if r.code != 0 || !strings.Contains(r.out, "host:evil.example") || strings.Contains(r.out, "proxy.golang.org") || strings.Contains(r.out, "\x1b") {
		t.Errorf("%d %q%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "trace", "baseline", "show", "octo/app/ci/build", "--kind", "binary", "--json"); r.code != 0 || !strings.Contains(r.out, `"kind": "binary"`) || strings.Contains(r.out, `"kind": "host"`) {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
}

// What a job chose is quoted where it is to be pasted, or not there.
func TestFindingsSayHowToAccept(t *testing.T) {
	p := newPlane(t)
	for fact, want := range map[string]string{
		"host:evil.example": "muster trace baseline accept 101/2 host:evil.example\n", "binary:/tmp/$(id)'x": `muster trace baseline accept 101/2 'binary:/tmp/$(id)'\''x'` + "\n",
		"binary:/opt/*/bin": "muster trace baseline accept 101/2 'binary:/opt/*/bin'\n", "binary:/a\x1b[2Jb": "muster trace baseline accept 101/2 --new\n",
	} {
		p.finding = &v1.Finding{JobId: 101, JobAttempt: 2, Rule: "new-host", Severity: "medium", Title: "x", Fact: fact}
		if r := p.muster(t, "trace", "findings", "--explain"); r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%q: %d %s%s", fact, r.code, r.out, r.errOut)
		}
	}
	p.finding.Accepted = &v1.OperatorAct{By: "operator", At: ago(time.Hour), Reason: "ours"}
	if r := p.muster(t, "trace", "findings", "--explain"); !strings.Contains(r.out, "accepted  ") || !strings.Contains(r.out, "operator 1h ago") || strings.Contains(r.out, "baseline accept") {
		t.Error(r.out)
	}
	if r := p.muster(t, "trace", "findings"); !strings.Contains(r.out, "medium, accepted") {
		t.Error(r.out)
	}
}

// A narrow terminal cuts the column of long texts, and not those behind it.
func TestTraceTablesAreNarrow(t *testing.T) {
	p := newPlane(t)
	r := p.musterWide(t, 80, "trace", "show", "101", "--view", "execution")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if !regexp.MustCompile(`^PROCESS +TOOK +CPU +MEMORY +STEP +EXIT +DID$`).MatchString(lines[0]) || !strings.Contains(r.out, "…") {
		t.Error(r.out)
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// What is wrong with an expression is told with the place.
func TestTraceQueryMistake(t *testing.T) {
	r := newPlane(t).muster(t, "trace", "query", "hostnam == 1")
	if r.code != 2 || r.errOut != "muster: there is no field hostnam (line 1, column 1)\n  hostnam == 1\n  ^\ndid you mean hostname?\n" {
		t.Errorf("%d %q", r.code, r.errOut)
	}
}

// Lines fit the terminal, whatever the job's programs are called.
func TestTraceWidth(t *testing.T) {
	r := newPlane(t).musterWide(t, 60, "trace", "show", "101", "--view", "execution")
	for line := range strings.Lines(r.out) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 60 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestRules(t *testing.T) {
	p := newPlane(t)
	if r := p.muster(t, "rules", "list", "--json"); r.code != 0 || !json.Valid([]byte(r.out)) {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "rules", "docs"); r.code != 0 || r.errOut != "" {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "rules", "test"); r.code != 0 || !strings.Contains(r.out, "passed") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "own.yaml"), []byte(ownRule), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := p.muster(t, "rules", "show", "talks-to-evil", "--dir", dir); r.code != 0 || !strings.Contains(r.out, "hostname == ") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "rules", "test", dir); r.code != 1 || !strings.Contains(r.out, "rule talks-to-evil: it needs a test that fires and one that does not") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	var lines strings.Builder
	for _, e := range testEvents() {
		lines.WriteString(eventLine(e) + "\n")
	}
	r := p.musterIn(t, lines.String(), "rules", "test", dir, "--trace", "-")
	if r.code != 0 || !strings.Contains(r.out, "low  talks-to-evil  curl talked to evil.example") || !strings.Contains(r.out, "in 8 events") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
}

const ownRule = `
rules:
  - name: talks-to-evil
    title: "{command} talked to {hostname}"
    severity: low
    on: [net_connect]
    when: hostname == "evil.example"
    explanation: It is a test.
    remedy: Do nothing.
`
