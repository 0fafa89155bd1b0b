package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/cli"
	"github.com/muster-ci/muster/internal/config"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

// plane is a control plane of canned answers. It notes what it is asked to do.
type plane struct {
	mu      sync.Mutex
	asked   []string
	tokens  []string
	pool    *v1.Pool
	runners []*v1.Runner
	jobs    []*v1.Job
	causes  []*v1.Cause
	// changes are told to those who watch; step runs before each.
	cut     bool // downloads are cut at their end
	changes []*v1.WatchResponse
	step    func(i int)
	// finding is what rules found, testFinding if nil.
	finding *v1.Finding
	broken  error
	url     string
}

func (p *plane) ask(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, fmt.Sprintf(format, args...))
}

func newPlane(t *testing.T) *plane {
	p := &plane{
		pool: &v1.Pool{
			Name: "linux", Workspace: "default", Project: "default", App: "main", Scope: "octo", Labels: []string{"muster"}, RunnerLabels: []string{"muster", "self-hosted", "Linux", "X64"},
			RunnerGroup: 1, Provider: "local", Offering: "small", Lifecycle: "ephemeral", Registration: "jit", Enabled: true, MaxJobCount: 1, Provisioning: 10,
			Scaling:      &v1.Scaling{MaxRunners: 4, JobsPerRunner: 1, Cooldown: durationpb.New(0)},
			NoJobTimeout: durationpb.New(2 * time.Minute), RotationInterval: durationpb.New(24 * time.Hour), MaxAge: durationpb.New(121 * time.Hour),
			Status: &v1.PoolStatus{JobsQueued: 2, JobsInProgress: 1, OldestQueuedAt: ago(20 * time.Minute), RunnersStarting: 1, RunnersBusy: 1,
				LastDecision: &v1.Decision{Id: 2, Pool: "linux", At: ago(90 * time.Second), LastAt: ago(30 * time.Second), Count: 3, Action: "maintain", CurrentRunnerCount: 2, TargetRunnerCount: 2, Rule: "limit", Reason: "2 of 2 runners live"}},
		},
		runners: []*v1.Runner{
			{Id: "r-busy", Name: "linux-busy", Namespace: "default", RunnerOfferingId: "small", Status: "active", Cpu: "2", Memory: "4096Mi", Pool: "linux", Provider: "local", Instance: "4711", GithubId: 9, Busy: true, Job: &v1.JobRef{Id: 102, Attempt: 1}, CreatedAt: ago(30 * time.Minute), HeartbeatAt: ago(5 * time.Second)},
			{Id: "r-late", Name: "linux-late", Namespace: "default", Status: "draining", Failed: true, Pool: "linux", Reason: "agent did not connect within 10s", CreatedAt: ago(26 * time.Hour)},
		},
		jobs: []*v1.Job{
			{Id: 104, Attempt: 1, Repository: "octo/app", RunId: 8, Workflow: "ci", Name: "test", Labels: []string{"muster"}, State: "queued", Pool: "linux", CreatedAt: ago(10 * time.Minute)},
			{Id: 102, Attempt: 1, Repository: "octo/app", RunId: 7, Workflow: "ci", Name: "build", Labels: []string{"muster"}, State: "in_progress", Pool: "linux", Runner: "r-busy", RunnerName: "linux-busy", CreatedAt: ago(31 * time.Minute), StartedAt: ago(30 * time.Minute), QueueTime: durationpb.New(time.Minute)},
			{Id: 101, Attempt: 2, Repository: "octo/app", RunId: 7, Workflow: "ci", Name: "build", Labels: []string{"muster"}, State: "completed", Conclusion: "failure", Pool: "linux", Runner: "r-old", RunnerName: "linux-old", Url: "https://github.com/octo/app/actions/runs/7/job/101",
				CreatedAt: ago(400 * 24 * time.Hour), StartedAt: ago(400*24*time.Hour - 10*time.Second), CompletedAt: ago(400*24*time.Hour - 70*time.Second), QueueTime: durationpb.New(10 * time.Second), RunTime: durationpb.New(time.Minute)},
		},
		causes: []*v1.Cause{
			{Code: "pool_at_max", Text: "pool linux is at its limit: 2 of 2 runners live. Raise max_runners or wait", Since: ago(9 * time.Minute)},
			{Code: "stolen", Text: "the runner that was made for this job took job 105"},
		},
	}
	mux := http.NewServeMux()
	mux.Handle(musterv1connect.NewPoolServiceHandler(poolService{p: p}))
	mux.Handle(musterv1connect.NewRunnerServiceHandler(runnerService{p: p}))
	mux.Handle(musterv1connect.NewJobServiceHandler(jobService{p: p}))
	mux.Handle(musterv1connect.NewDeliveryServiceHandler(deliveryService{p: p}))
	mux.Handle(musterv1connect.NewUsageServiceHandler(usageService{p: p}))
	mux.Handle(musterv1connect.NewInstallationServiceHandler(installationService{p: p}))
	mux.Handle(musterv1connect.NewSystemServiceHandler(systemService{p: p}))
	mux.Handle(musterv1connect.NewMachineServiceHandler(machineService{p: p}))
	mux.Handle(musterv1connect.NewProviderServiceHandler(providerService{p: p}))
	mux.Handle(musterv1connect.NewRunServiceHandler(runService{p: p}))
	mux.Handle(musterv1connect.NewSenseServiceHandler(senseService{p: p}))
	mux.Handle(musterv1connect.NewTraceServiceHandler(traceService{p: p}))
	mux.HandleFunc("GET /v1/traces/{runner}/{number}/{what}", p.download)
	mux.HandleFunc("GET /v1/traces/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, testKey) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.tokens = append(p.tokens, r.Header.Get("Authorization"))
		broken := p.broken
		p.mu.Unlock()
		if broken != nil {
			_ = connect.NewErrorWriter().Write(w, r, broken)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

func notFound(noun, name any) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no %v %q", noun, fmt.Sprint(name)))
}

type poolService struct {
	musterv1connect.UnimplementedPoolServiceHandler
	p *plane
}

func (s poolService) ListPools(context.Context, *v1.ListPoolsRequest) (*v1.ListPoolsResponse, error) {
	return &v1.ListPoolsResponse{Pools: []*v1.Pool{s.p.pool, keptPool()}}, nil
}
func (s poolService) GetPool(_ context.Context, req *v1.GetPoolRequest) (*v1.GetPoolResponse, error) {
	if req.Name == "box" {
		return &v1.GetPoolResponse{Pool: keptPool()}, nil
	}
	if req.Name != s.p.pool.Name {
		return nil, notFound("pool", req.Name)
	}
	return &v1.GetPoolResponse{Pool: s.p.pool, Offering: &v1.RunnerOffering{Id: "small", Name: "small", Cpu: "2", Memory: "4096Mi", PriceMicroUsdPerMinute: 8000}}, nil
}
func (s poolService) ListDecisions(_ context.Context, req *v1.ListDecisionsRequest) (*v1.ListDecisionsResponse, error) {
	return &v1.ListDecisionsResponse{Decisions: []*v1.Decision{s.p.pool.Status.LastDecision,
		{Id: 1, Pool: "linux", At: ago(25 * time.Hour), Action: "scale_up", CurrentRunnerCount: 0, TargetRunnerCount: 2, Rule: "formula", Reason: "2 pending jobs, 0 runners", Metrics: &v1.QueueMetrics{QueuedJobs: 2}}}}, nil
}
func (s poolService) SetPool(_ context.Context, req *v1.SetPoolRequest) (*v1.SetPoolResponse, error) {
	if req.Name != s.p.pool.Name {
		return nil, notFound("pool", req.Name)
	}
	var what []string
	if req.Enabled != nil {
		s.p.pool.Enabled = *req.Enabled
		what = append(what, fmt.Sprint("enabled=", *req.Enabled))
	}
	if req.MinRunners != nil {
		s.p.pool.Scaling.MinRunners = *req.MinRunners
		what = append(what, fmt.Sprint("min=", *req.MinRunners))
	}
	if req.MaxRunners != nil {
		s.p.pool.Scaling.MaxRunners = *req.MaxRunners
		what = append(what, fmt.Sprint("max=", *req.MaxRunners))
	}
	if req.Suspended != nil {
		s.p.pool.Suspended = *req.Suspended
		what = append(what, fmt.Sprint("suspended=", *req.Suspended))
	}
	s.p.ask("set %s %s", req.Name, strings.Join(what, " "))
	return &v1.SetPoolResponse{Pool: s.p.pool}, nil
}

func (s poolService) ReplayDecision(_ context.Context, req *v1.ReplayDecisionRequest) (*v1.ReplayDecisionResponse, error) {
	if req.Pool != s.p.pool.Name {
		return nil, notFound("pool", req.Pool)
	}
	s.p.ask("replay %s at=%s snapshot=%v", req.Pool, req.At.AsTime().Format(time.RFC3339), req.Snapshot)
	again := &v1.Decision{Pool: "linux", At: s.p.pool.Status.LastDecision.At, Action: "scale_up", CurrentRunnerCount: 2, TargetRunnerCount: 3, Create: 1, Rule: "formula", Reason: "2 pending jobs at 1 per runner"}
	resp := &v1.ReplayDecisionResponse{Recorded: s.p.pool.Status.LastDecision, Recomputed: again, Differences: []string{`action was "maintain" and is "scale_up" now`, "create was 0 and is 1 now"}, Pool: s.p.pool, LastScaling: ago(time.Hour), DemandUnknown: true}
	if req.Snapshot {
		resp.Snapshot, _ = structpb.NewStruct(map[string]any{"jobs": []any{map[string]any{"id": 51204880123, "state": "queued"}}})
	}
	return resp, nil
}
func (s poolService) DryRun(_ context.Context, req *v1.DryRunRequest) (*v1.DryRunResponse, error) {
	if req.Pool != s.p.pool.Name {
		return nil, notFound("pool", req.Pool)
	}
	s.p.ask("dry-run %s set=%v since=%s", req.Pool, req.Set, req.Since.AsTime().Format(time.RFC3339))
	result := func(jobs, runners int32, p50, p95 time.Duration, hours float64, cost int64) *v1.DryRunResult {
		return &v1.DryRunResult{Jobs: jobs, Unserved: 240 - jobs, Runners: runners, Peak: runners / 20, Wasted: 3, WaitP50: durationpb.New(p50), WaitP95: durationpb.New(p95), WaitMax: durationpb.New(2 * p95), RunnerTime: durationpb.New(time.Duration(hours * float64(time.Hour))), CostMicroUsd: cost}
	}
	return &v1.DryRunResponse{
		Measured: result(238, 251, 41*time.Second, 19*time.Minute, 31.2, 14_976_000), Before: result(240, 240, 38*time.Second, 18*time.Minute+30*time.Second, 30.4, 14_592_000), After: result(240, 240, 31*time.Second, 52*time.Second, 30.4, 14_592_000),
		Assumptions: []string{"240 jobs as queued from 2026-11-19 12:00Z to 2026-11-20 12:00Z, each running as long as it did", "the pool starts empty"}, Since: req.Since, Until: req.Until,
	}, nil
}

type runService struct {
	musterv1connect.UnimplementedRunServiceHandler
	p *plane
}

func (s runService) GetRun(_ context.Context, req *v1.GetRunRequest) (*v1.GetRunResponse, error) {
	if req.Id != 7 {
		return nil, notFound("run", req.Id)
	}
	return &v1.GetRunResponse{
		Run:  &v1.Run{Id: 7, Repository: "octo/app", Workflow: "ci", HeadBranch: "main", HeadSha: "abc", Trigger: "push", Attempts: 2, State: "completed", Conclusion: "failure", CreatedAt: ago(time.Hour), StartedAt: ago(59 * time.Minute), CompletedAt: ago(50 * time.Minute), CostMicroUsd: 8000},
		Jobs: []*v1.RunJob{{Job: s.p.jobs[1], Runner: s.p.runners[0]}, {Job: s.p.jobs[2], Receipt: &v1.Receipt{JobId: 101, Attempt: 2, Billed: durationpb.New(time.Minute), CostMicroUsd: 8000}, Trace: testTrace()}},
	}, nil
}

type senseService struct {
	musterv1connect.UnimplementedSenseServiceHandler
	p *plane
}

func (s senseService) GetSenseReport(_ context.Context, req *v1.GetSenseReportRequest) (*v1.GetSenseReportResponse, error) {
	s.p.ask("senses since=%s grace=%s", req.Since.AsTime().Format(time.DateOnly), req.Grace.AsDuration())
	monday := timestamppb.New(time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC))
	return &v1.GetSenseReportResponse{Grace: req.Grace, Weeks: []*v1.SenseWeek{
		{Week: monday, Sense: "webhook", Jobs: 1000, First: 940, Missed: 61, Events: 3000, Lost: 66, LossRate: .022, Repaired: 64, RepairP50: durationpb.New(131 * time.Second), RepairP95: durationpb.New(290 * time.Second)},
		{Week: monday, Sense: "redelivery", Jobs: 61, First: 60, Missed: 2, Events: 66, Lost: 2, LossRate: 2. / 66},
		{Week: monday, Sense: "poll"},
	}}, nil
}

type runnerService struct {
	musterv1connect.UnimplementedRunnerServiceHandler
	p *plane
}

func (s runnerService) ListRunners(_ context.Context, req *v1.ListRunnersRequest) (*v1.ListRunnersResponse, error) {
	s.p.ask("runners pool=%s states=%v all=%v", req.Pool, req.States, req.All)
	return &v1.ListRunnersResponse{Runners: s.p.runners}, nil
}
func (s runnerService) find(id string) (*v1.Runner, error) {
	i := slices.IndexFunc(s.p.runners, func(r *v1.Runner) bool { return r.Id == id || r.Name == id })
	if i < 0 {
		return nil, notFound("runner", id)
	}
	return s.p.runners[i], nil
}
func (s runnerService) GetRunner(_ context.Context, req *v1.GetRunnerRequest) (*v1.GetRunnerResponse, error) {
	r, err := s.find(req.Id)
	var healthy *bool
	if req.CheckHealth {
		healthy = new(r.GetBusy())
	}
	return &v1.GetRunnerResponse{Runner: r, Healthy: healthy, Events: []*v1.RunnerEvent{{At: ago(30 * time.Minute), State: "provisioning"}, {At: ago(29 * time.Minute), State: "active", Note: "took job 102"}}, Traces: tracesOf(r.GetJob().GetId())}, err
}
func (s runnerService) GetRunnerLog(_ context.Context, req *v1.GetRunnerLogRequest) (*v1.GetRunnerLogResponse, error) {
	_, err := s.find(req.Id)
	return &v1.GetRunnerLogResponse{Log: []byte("Listening for Jobs\n")}, err
}
func (s runnerService) DrainRunner(_ context.Context, req *v1.DrainRunnerRequest) (*v1.DrainRunnerResponse, error) {
	r, err := s.find(req.Id)
	s.p.ask("drain %s %q", req.Id, req.Reason)
	return &v1.DrainRunnerResponse{Runner: r}, err
}

type jobService struct {
	musterv1connect.UnimplementedJobServiceHandler
	p *plane
}

func (s jobService) ListJobs(_ context.Context, req *v1.ListJobsRequest) (*v1.ListJobsResponse, error) {
	resp := &v1.ListJobsResponse{}
	for _, j := range s.p.jobs {
		if (req.RunId == 0 || req.RunId == j.RunId) && (len(req.States) == 0 || slices.Contains(req.States, j.State)) {
			resp.Jobs = append(resp.Jobs, j)
		}
	}
	if req.Since != nil {
		s.p.ask("jobs since %s", req.Since.AsTime().Format(time.RFC3339))
	}
	if req.RunId == 0 && req.PageToken == "" {
		resp.NextPageToken = "101"
	}
	return resp, nil
}
func (s jobService) find(ref *v1.JobRef) (*v1.Job, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	i := slices.IndexFunc(s.p.jobs, func(j *v1.Job) bool { return j.Id == ref.Id && (ref.Attempt == 0 || ref.Attempt == j.Attempt) })
	if i < 0 {
		return nil, notFound("job", ref.Id)
	}
	return s.p.jobs[i], nil
}
func (s jobService) GetJob(_ context.Context, req *v1.GetJobRequest) (*v1.GetJobResponse, error) {
	j, err := s.find(req.Job)
	if err != nil {
		return nil, err
	}
	return &v1.GetJobResponse{Job: j,
		Timeline:  []*v1.Moment{{At: j.CreatedAt, What: "created", Text: "GitHub created the job"}, {At: j.StartedAt, What: "started", Text: "runner linux-old took the job"}, {At: j.CompletedAt, What: "completed", Text: "the job ended: failure"}},
		Sightings: []*v1.Sighting{{Sense: "webhook", State: "queued", At: j.CreatedAt, Delivery: "guid-1"}},
		Receipt:   &v1.Receipt{JobId: j.Id, Attempt: j.Attempt, Queue: durationpb.New(10 * time.Second), Boot: durationpb.New(850 * time.Millisecond), Idle: durationpb.New(0), Run: durationpb.New(time.Minute), Billed: durationpb.New(time.Minute), PriceMicroUsdPerMinute: 8000, CostMicroUsd: 8000},
		Traces:    tracesOf(j.Id), NoTrace: map[bool]string{true: "its agent has not delivered anything yet"}[len(tracesOf(j.Id)) == 0],
	}, nil
}
func (s jobService) ExplainJob(_ context.Context, req *v1.ExplainJobRequest) (*v1.ExplainJobResponse, error) {
	j, err := s.find(req.Job)
	if err != nil {
		return nil, err
	}
	resp := &v1.ExplainJobResponse{Job: j, Ahead: 1, LastDecision: s.p.pool.Status.LastDecision}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if j.State == "queued" {
		resp.Causes = s.p.causes
	} else {
		resp.Causes = []*v1.Cause{{Code: "not_waiting", Text: "the job does not wait"}}
	}
	return resp, nil
}
func (s jobService) GetJobLog(_ context.Context, req *v1.GetJobLogRequest, stream *connect.ServerStream[v1.GetJobLogResponse]) error {
	if _, err := s.find(req.Job); err != nil {
		return err
	}
	for _, line := range []string{"one\n", "two\n"} {
		if err := stream.Send(&v1.GetJobLogResponse{Data: []byte(line)}); err != nil {
			return err
		}
	}
	return nil
}

// boxes are three kept machines: one that runs a job, one that its platform does
// not start, and one that nobody looked at yet.
func boxes() []*v1.Machine {
	return []*v1.Machine{
		{Name: "gpu-box", Zone: "us-central1-a", Provider: "cloud", Status: "RUNNING", StatusAt: ago(20 * time.Second), Since: ago(42 * time.Minute), Pools: []string{"box", "box-two"}, Repositories: []string{"octo/app", "octo/ml"},
			Occupation: "busy", AskedAt: ago(50 * time.Second), JobId: 102, JobAttempt: 1, LastJobEndedAt: ago(31 * time.Minute), Reason: "job 102 of octo/app runs on it", StopAskedAt: ago(time.Minute),
			Deadline: timestamppb.New(now.Add(10 * time.Second)), DeadlineAction: "GitHub is asked whether its runner is idle, and it is stopped if so", Labels: map[string]*v1.RunnerLabels{"box": {Names: []string{"self-hosted", "gpu"}}}},
		{Name: "build-box", Zone: "us-central1-a", Provider: "cloud", Status: "TERMINATED", StatusAt: ago(2 * time.Second), Since: ago(26 * time.Hour), Pools: []string{"box-three"}, Repositories: []string{"octo/web"}, JobsQueued: 2, LastJobEndedAt: ago(27 * time.Hour),
			Reason: "the platform refused 3 times in a row", LastError: "ZONE_RESOURCE_POOL_EXHAUSTED:\nno n1 now", LastErrorAt: ago(4 * time.Second), Refusals: 3},
		{Name: "build-box", Zone: "b", Provider: "here", Pools: []string{"box-four"}, Repositories: []string{"octo"}},
	}
}

// keptPool keeps the first of the boxes.
func keptPool() *v1.Pool {
	return &v1.Pool{
		Name: "box", Workspace: "default", Project: "default", App: "main", Scope: "octo/app", Labels: []string{"self-hosted", "gpu"}, Provider: "cloud", Lifecycle: "kept", Registration: "preregistered", Enabled: true,
		Machine: "gpu-box", Zone: "us-central1-a", InactiveMinutes: 15, Scaling: &v1.Scaling{MaxRunners: 10, JobsPerRunner: 2}, RotationInterval: durationpb.New(24 * time.Hour), MaxAge: durationpb.New(121 * time.Hour),
		Status: &v1.PoolStatus{JobsInProgress: 1, Machine: boxes()[0]},
	}
}

type machineService struct {
	musterv1connect.UnimplementedMachineServiceHandler
	p *plane
}

func (s machineService) ListMachines(context.Context, *v1.ListMachinesRequest) (*v1.ListMachinesResponse, error) {
	return &v1.ListMachinesResponse{Machines: boxes()}, nil
}
func (s machineService) StartMachine(_ context.Context, req *v1.StartMachineRequest) (*v1.StartMachineResponse, error) {
	s.p.ask("start %s in %q of %q", req.Name, req.Zone, req.Provider)
	if req.Name == "gpu-box" {
		return &v1.StartMachineResponse{Status: "already_running", Machine: boxes()[0]}, nil
	}
	return &v1.StartMachineResponse{Status: "starting", Operation: "operation-17", Machine: boxes()[1]}, nil
}
func (s machineService) StopMachine(_ context.Context, req *v1.StopMachineRequest) (*v1.StopMachineResponse, error) {
	s.p.ask("stop %s in %q of %q", req.Name, req.Zone, req.Provider)
	if req.Name == "gpu-box" {
		return &v1.StopMachineResponse{Status: "busy", Message: "Job 102/1 runs on it, scheduled another stop task in 1 minute", Machine: boxes()[0]}, nil
	}
	return &v1.StopMachineResponse{Status: "already_stopped", Machine: boxes()[1]}, nil
}

type deliveryService struct {
	musterv1connect.UnimplementedDeliveryServiceHandler
	p *plane
}

func (s deliveryService) delivery() *v1.Delivery {
	return &v1.Delivery{Guid: "guid-1", App: "main", Event: "workflow_job", Action: "queued", Sense: "webhook", ReceivedAt: ago(10 * time.Minute), Seq: 1, DispatchedAt: ago(10 * time.Minute), Outcome: "job queued"}
}
func (s deliveryService) ListDeliveries(context.Context, *v1.ListDeliveriesRequest) (*v1.ListDeliveriesResponse, error) {
	return &v1.ListDeliveriesResponse{Deliveries: []*v1.Delivery{
		{Guid: "guid-3", App: "main", Event: "workflow_job", Sense: "redelivery", ReceivedAt: ago(time.Second)},
		{Guid: "guid-2", App: "main", Event: "workflow_job", Action: "completed", Sense: "webhook", ReceivedAt: ago(time.Minute), Attempts: 2, Error: "database is locked"},
		s.delivery()}}, nil
}
func (s deliveryService) GetDelivery(_ context.Context, req *v1.GetDeliveryRequest) (*v1.GetDeliveryResponse, error) {
	if req.Guid != "guid-1" {
		return nil, notFound("delivery", req.Guid)
	}
	d := s.delivery()
	d.Headers, d.Body = map[string]string{"X-Github-Event": "workflow_job", "X-Github-Delivery": "guid-1"}, []byte(`{"action": "queued"}`)
	return &v1.GetDeliveryResponse{Delivery: d}, nil
}
func (s deliveryService) RedispatchDelivery(_ context.Context, req *v1.RedispatchDeliveryRequest) (*v1.RedispatchDeliveryResponse, error) {
	s.p.ask("redispatch %s", req.Guid)
	return &v1.RedispatchDeliveryResponse{}, nil
}

type usageService struct {
	musterv1connect.UnimplementedUsageServiceHandler
	p *plane
}

func (s usageService) GetSummary(_ context.Context, req *v1.GetSummaryRequest) (*v1.GetSummaryResponse, error) {
	s.p.ask("summary by=%s since=%s", req.By, req.Filter.GetSince().AsTime().Format(time.DateOnly))
	return &v1.GetSummaryResponse{By: req.By, Rows: []*v1.UsageRow{
		{Key: "", Run: durationpb.New(0), Billed: durationpb.New(0), Wasted: 1, WasteMicroUsd: 16000},
		{Key: "ci", Jobs: 3, Succeeded: 1, Failed: 1, NeverRan: 1, QueueP50: durationpb.New(10 * time.Second), QueueP90: durationpb.New(time.Minute), Run: durationpb.New(65 * time.Minute), Billed: durationpb.New(66 * time.Minute), CostMicroUsd: 528000},
	}}, nil
}
func (s usageService) ListReceipts(context.Context, *v1.ListReceiptsRequest) (*v1.ListReceiptsResponse, error) {
	return &v1.ListReceiptsResponse{Receipts: []*v1.Receipt{{JobId: 101, Attempt: 2, Pool: "linux", Repository: "octo/app", Workflow: "ci", JobName: "build", Conclusion: "success", CompletedAt: ago(time.Hour),
		Queue: durationpb.New(10 * time.Second), Boot: durationpb.New(850 * time.Millisecond), Idle: durationpb.New(0), Run: durationpb.New(time.Minute), Billed: durationpb.New(time.Minute), CostMicroUsd: 1_234_567}}}, nil
}
func (s usageService) ListWaste(context.Context, *v1.ListWasteRequest) (*v1.ListWasteResponse, error) {
	return &v1.ListWasteResponse{}, nil
}
func (s usageService) GetRunnerMetrics(context.Context, *v1.GetRunnerMetricsRequest) (*v1.GetRunnerMetricsResponse, error) {
	m := &v1.RunnerMetrics{Pool: "linux", Jobs: 10, Failed: 3, Succeeded: 7, FailureRate: .3, Queue: &v1.Percentiles{Count: 10, P50: durationpb.New(5 * time.Second), P90: durationpb.New(9 * time.Second)}}
	return &v1.GetRunnerMetricsResponse{Pools: []*v1.RunnerMetrics{m}, Total: m}, nil
}

func (s usageService) GetLatency(_ context.Context, req *v1.GetLatencyRequest) (*v1.GetLatencyResponse, error) {
	s.p.ask("latency by=%s", req.By)
	spread := func(n int32, p50, p90, most time.Duration) *v1.Spread {
		return &v1.Spread{Count: n, P50: durationpb.New(p50), P90: durationpb.New(p90), Max: durationpb.New(most)}
	}
	row := func(key string) *v1.LatencyRow {
		return &v1.LatencyRow{Key: key, Jobs: 40, Succeeded: 30, Failed: 6, Cancelled: 4, NeverRan: 2, FailureRate: 1. / 6, Queue: spread(40, 9*time.Second, time.Minute, 20*time.Minute), Boot: spread(0, 0, 0, 0), Run: spread(40, 4*time.Minute, 9*time.Minute, time.Hour)}
	}
	return &v1.GetLatencyResponse{By: req.By, Rows: []*v1.LatencyRow{row("octo/app / ci"), row("octo/ml / train")}, Total: row(""),
		Failures: []*v1.FailureRow{{Repository: "octo/app", Workflow: "ci", Job: "test", Runs: 20, Failed: 5, Retried: 2, Conclusions: map[string]int32{"failure": 4, "timed_out": 1}, Lost: durationpb.New(31 * time.Minute), CostMicroUsd: 248000, LastJobId: 101, LastAttempt: 2, LastAt: ago(time.Hour)}},
		Waste:    []*v1.WasteReason{{Reason: "no job within 2m0s", Runners: 7, CostMicroUsd: 112000}}}, nil
}
func (s usageService) ListCostBudgets(context.Context, *v1.ListCostBudgetsRequest) (*v1.ListCostBudgetsResponse, error) {
	return &v1.ListCostBudgetsResponse{Month: timestamppb.New(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)), Budgets: []*v1.CostBudget{
		{Project: "web", MonthMicroUsd: 500_000_000, SpentMicroUsd: 431_220_000, State: "warned", WarnPercent: 80, LowerPercent: 95, StopPercent: 110, Pools: []string{"linux", "gpu"}},
		{Project: "ml", MonthMicroUsd: 90_000_000, State: "fine", StopPercent: 100}}}, nil
}

type installationService struct {
	musterv1connect.UnimplementedInstallationServiceHandler
	p *plane
}

func (s installationService) ListInstallations(context.Context, *v1.ListInstallationsRequest) (*v1.ListInstallationsResponse, error) {
	return &v1.ListInstallationsResponse{Installations: []*v1.RunnerInstallation{{InstallationId: 5, WorkspaceId: "default", State: "active", GithubAccountType: "Organization", IsServiceEnabled: true, Account: "octo", App: "main", UpdatedAt: ago(time.Hour)}}}, nil
}

type systemService struct {
	musterv1connect.UnimplementedSystemServiceHandler
	p *plane
}

func (s systemService) GetOverview(context.Context, *v1.GetOverviewRequest) (*v1.GetOverviewResponse, error) {
	return &v1.GetOverviewResponse{Problems: []string{"App main: permission checks: write is needed for [checks], and nothing is granted; grant it"}, Version: "v1.2.3", Workspace: "default", StartedAt: ago(50 * time.Hour), Now: timestamppb.New(now), Jobs: map[string]int32{"queued": 2, "completed": 40, "in_progress": 1}, Runners: map[string]int32{"active": 1},
		Promises: &v1.Promises{BusyKilled: 1, Since: ago(30 * 24 * time.Hour)}, Budgets: []*v1.Budget{
			{App: "main", Account: "octo", Limit: 5000, Remaining: 4321, ResetAt: timestamppb.New(now.Add(10 * time.Minute)), PerMinute: 12.34, PollStretch: 1, PointsThisMinute: 31, Registrations: 40, RegistrationLimit: 1500,
				Lanes: []*v1.BudgetLane{{Lane: "critical", Calls: 410}, {Lane: "normal", Calls: 200, Unchanged: 80}, {Lane: "background", Calls: 900, Unchanged: 700, Parked: 12, Waiting: 2}}},
			{App: "main", Account: "octo-labs", Limit: 5000, Remaining: 400, ResetAt: timestamppb.New(now.Add(40 * time.Minute)), PerMinute: 33, Forecast: timestamppb.New(now.Add(12 * time.Minute))},
			{App: "ghe", Account: "token", PollStretch: 5, PausedUntil: timestamppb.New(now.Add(time.Minute))}}}, nil
}
func (s systemService) Watch(ctx context.Context, _ *v1.WatchRequest, stream *connect.ServerStream[v1.WatchResponse]) error {
	for i, c := range append([]*v1.WatchResponse{{}}, s.p.changes...) {
		if s.p.step != nil {
			s.p.mu.Lock()
			s.p.step(i)
			s.p.mu.Unlock()
		}
		if err := stream.Send(c); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// result is what one command line did.
type result struct {
	code        int
	out, errOut string
}

// call runs one command line.
type call struct {
	vars     map[string]string
	terminal bool
	programs cli.Programs
	// stdout, when set, is written to instead of collected.
	stdout io.Writer
	stdin  string
	width  int
	// program is the name that muster was started by.
	program string
}

func (c call) run(ctx context.Context, args ...string) result {
	var out, errOut bytes.Buffer
	env := cli.Env{Program: c.program, Stdin: strings.NewReader(c.stdin), Width: c.width, Stdout: &out, Stderr: &errOut, Getenv: func(k string) string { return c.vars[k] }, IsTerminal: c.terminal, Version: "v9", Now: func() time.Time { return now }}
	if c.stdout != nil {
		env.Stdout = c.stdout
	}
	if c.programs.Serve == nil {
		c.programs.Serve = func(context.Context, config.Config) error { return errors.New("not expected") }
		c.programs.Demo = func(context.Context, cli.DemoOptions, io.Writer) error { return errors.New("not expected") }
	}
	code := cli.Main(ctx, args, env, c.programs)
	return result{code, out.String(), errOut.String()}
}

// muster runs a command line against a control plane.
func (p *plane) muster(t *testing.T, args ...string) result {
	return call{vars: map[string]string{"MUSTER_SERVER": p.url}}.run(t.Context(), args...)
}

func (p *plane) musterWide(t *testing.T, width int, args ...string) result {
	return call{vars: map[string]string{"MUSTER_SERVER": p.url}, width: width}.run(t.Context(), args...)
}

func (p *plane) musterIn(t *testing.T, stdin string, args ...string) result {
	return call{vars: map[string]string{"MUSTER_SERVER": p.url}, stdin: stdin}.run(t.Context(), args...)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (UPDATE_GOLDEN=1 rewrites it):\n%s", path, d)
	}
}

type providerService struct {
	musterv1connect.UnimplementedProviderServiceHandler
	p *plane
}

// tested is a test of a provider that is over.
func tested(name string, broken bool) *v1.ProviderCheck {
	step := func(name, detail string, ok bool, took time.Duration) *v1.ProviderCheckStep {
		return &v1.ProviderCheckStep{Name: name, Ok: ok, Took: durationpb.New(took), Detail: detail}
	}
	c := &v1.ProviderCheck{Runner: "r-check", Provider: name, Offering: "small", At: ago(time.Hour), Done: true, Passed: !broken, Steps: []*v1.ProviderCheckStep{
		step("machine accepted", "instance 4711", true, 40*time.Millisecond), step("agent connected", "90ms after the test began", true, 50*time.Millisecond),
		step("clock", "2ms from the control plane's", true, 0), step("runner program", "GitHub's runner 2.335.1", true, 300*time.Millisecond),
		step("machine gone", "the provider proves that nothing is left", true, 12*time.Millisecond), step("nothing left", "the provider finds and lists no machine of the test", true, 3*time.Millisecond),
	}}
	if broken {
		c.Steps[3] = step("runner program", "there is no run.sh,\nand the control plane names no download", false, 0)
	}
	return c
}

func (s providerService) ListProviders(context.Context, *v1.ListProvidersRequest) (*v1.ListProvidersResponse, error) {
	return &v1.ListProvidersResponse{Providers: []*v1.Provider{
		{Name: "local", Kind: "process", State: "ok", Abilities: []string{"keep"}, Instances: map[string]int32{"running": 2, "ended": 1}, AnsweredIn: durationpb.New(4 * time.Millisecond),
			Pools: []string{"linux"}, Offerings: []*v1.RunnerOffering{{Name: "small", Cpu: "2", Memory: "4096Mi"}}, LastCheck: tested("local", false)},
		{Name: "cloud", Kind: "garm", State: "refusing", Detail: "gpu: provider cloud refused: no capacity", Abilities: []string{"gpu", "spot"}, AnsweredIn: durationpb.New(800 * time.Millisecond), Zones: []string{"a", "b"},
			Pools: []string{"gpu"}, Offerings: []*v1.RunnerOffering{{Name: "gpu", Cpu: "8", Memory: "65536Mi", Gpus: 2, Spot: true, PriceMicroUsdPerMinute: 52000}},
			Breakers: []*v1.ProviderBreaker{
				{Pool: "gpu", Offering: "gpu", State: "open", Failures: 3, LastFailureAt: ago(2 * time.Second), Until: ago(-6 * time.Second), Words: "provider cloud refused: zone a: no capacity", Room: 1},
				{Pool: "gpu-night", Offering: "gpu", State: "half_open", Room: 4},
				{Zone: "a", Offering: "gpu", State: "open", Failures: 1, LastFailureAt: ago(2 * time.Second), Until: ago(0), Words: "no capacity:\nquota of region"},
			}, LastCheck: tested("cloud", true)},
		{Name: "rack", Kind: "ssh", State: "unreachable", Detail: "dial tcp: connection refused", AnsweredIn: durationpb.New(5 * time.Second)},
	}}, nil
}

func (s providerService) CheckProvider(_ context.Context, req *v1.CheckProviderRequest) (*v1.CheckProviderResponse, error) {
	s.p.ask("check %s %s", req.Provider, req.Offering)
	if req.Provider == "nowhere" {
		return nil, notFound("provider", req.Provider)
	}
	return &v1.CheckProviderResponse{Check: &v1.ProviderCheck{Runner: "r-" + req.Provider, Provider: req.Provider}}, nil
}

func (s providerService) GetProviderCheck(_ context.Context, req *v1.GetProviderCheckRequest) (*v1.GetProviderCheckResponse, error) {
	name := strings.TrimPrefix(req.Runner, "r-")
	return &v1.GetProviderCheckResponse{Check: tested(name, name == "cloud")}, nil
}
