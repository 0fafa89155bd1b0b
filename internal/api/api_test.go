package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
)

// S4-14: a typed RPC API, called by its generated client.
func TestPools(t *testing.T) {
	w := newWorld(t, nil)
	list, err := w.pools.ListPools(t.Context(), &v1.ListPoolsRequest{})
	if err != nil || len(list.Pools) != 1 {
		t.Fatal(list, err)
	}
	want := &v1.PoolStatus{JobsQueued: 2, JobsInProgress: 1, RunnersBusy: 1, OldestQueuedAt: timestamppb.New(t0.Add(-20 * time.Minute))}
	got := list.Pools[0].Status
	if got.LastDecision.GetReason() != "at max" {
		t.Errorf("last decision %v", got.LastDecision)
	}
	if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&v1.PoolStatus{}, "last_decision")); d != "" {
		t.Error(d)
	}
	one, err := w.pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "linux"})
	if err != nil || one.Pool.Scope != "octo" || one.Offering.Memory != "4096Mi" || one.Offering.Cpu != "2" || one.Pool.Scaling.MaxRunners != 10 {
		t.Errorf("%v %v", one, err)
	}
	w.store.offerings = nil // no longer configured
	if one, err = w.pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "linux"}); err != nil || one.Offering != nil {
		t.Errorf("%v %v", one, err)
	}
	ds, err := w.pools.ListDecisions(t.Context(), &v1.ListDecisionsRequest{Pool: "linux"})
	if err != nil || len(ds.Decisions) != 2 || ds.Decisions[1].Created[0] != "r-old" {
		t.Errorf("%v %v", ds, err)
	}
}

func TestSetPool(t *testing.T) {
	w := newWorld(t, nil)
	two, twenty, minus := int32(2), int32(20), int32(-1)
	off := false
	resp, err := w.pools.SetPool(t.Context(), &v1.SetPoolRequest{Name: "linux", MinRunners: &two, Enabled: &off})
	if err != nil || resp.Pool.Scaling.MinRunners != 2 || resp.Pool.Enabled {
		t.Errorf("%v %v", resp, err)
	}
	for _, tc := range []struct {
		situation string
		req       *v1.SetPoolRequest
		code      connect.Code
	}{
		{"Nothing", &v1.SetPoolRequest{Name: "linux"}, connect.CodeInvalidArgument},
		{"Negative", &v1.SetPoolRequest{Name: "linux", MinRunners: &minus}, connect.CodeInvalidArgument},     // S1-80
		{"MinAboveMax", &v1.SetPoolRequest{Name: "linux", MinRunners: &twenty}, connect.CodeInvalidArgument}, // S1-81
		{"UnknownPool", &v1.SetPoolRequest{Name: "nope", MinRunners: &two}, connect.CodeNotFound},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			if _, err := w.pools.SetPool(t.Context(), tc.req); codeOf(err) != tc.code {
				t.Errorf("got %v", err)
			}
		})
	}
	if d := cmp.Diff([]string{"set default/linux"}, w.commands.asked); d != "" {
		t.Error(d)
	}
}

func TestRunners(t *testing.T) {
	w := newWorld(t, nil)
	live, err := w.runners.ListRunners(t.Context(), &v1.ListRunnersRequest{})
	if err != nil || len(live.Runners) != 1 {
		t.Fatal(live, err)
	}
	want := &v1.Runner{ // S4-39
		Id: "r-busy", Name: "linux-busy", Namespace: "default", RunnerOfferingId: "small", Repositories: []string{"octo/app"}, Status: "active", IsCustom: true, Cpu: "2", Memory: "4096Mi",
		Pool: "linux", Provider: "local", GithubId: 9, Busy: true, Job: &v1.JobRef{Id: 102, Attempt: 1}, CreatedAt: timestamppb.New(t0.Add(-30*time.Minute + time.Second)),
	}
	if d := cmp.Diff(want, live.Runners[0], protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if all, err := w.runners.ListRunners(t.Context(), &v1.ListRunnersRequest{All: true}); err != nil || len(all.Runners) != 2 {
		t.Error(all, err)
	}
	if _, err := w.runners.ListRunners(t.Context(), &v1.ListRunnersRequest{States: []string{"asleep"}}); codeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
	for _, id := range []string{"r-old", "linux-old"} { // by id and by name
		one, err := w.runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: id})
		if err != nil || one.Runner.Id != "r-old" || len(one.Events) != 2 || one.Events[0].Note != "asked for" {
			t.Errorf("%s: %v %v", id, one, err)
		}
		if one.Healthy != nil || len(w.commands.asked) != 0 { // GitHub is asked on demand only
			t.Errorf("%s: healthy %v, %v", id, one.Healthy, w.commands.asked)
		}
	}
	for id, want := range map[string]bool{"r-old": false, "r-busy": true} {
		one, err := w.runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: id, CheckHealth: true})
		if err != nil || one.Healthy == nil || *one.Healthy != want {
			t.Errorf("%s: %v %v", id, one, err)
		}
	}
	w.commands.asked = nil
	if log, err := w.runners.GetRunnerLog(t.Context(), &v1.GetRunnerLogRequest{Id: "r-old"}); err != nil || string(log.Log) != "Listening for Jobs\n" {
		t.Error(log, err)
	}
	drained, err := w.runners.DrainRunner(t.Context(), &v1.DrainRunnerRequest{Id: "linux-busy"})
	if err != nil || drained.Runner.Status != "draining" || w.commands.asked[0] != "drain default/r-busy: drained by an operator" {
		t.Error(drained, err, w.commands.asked)
	}
	if _, err := w.runners.DrainRunner(t.Context(), &v1.DrainRunnerRequest{Id: "r-old"}); codeOf(err) != connect.CodeFailedPrecondition || meta(err, api.CodeHeader) != "gone" {
		t.Error(err)
	}
	if _, err := w.runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: "x"}); codeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "muster runner list --all") {
		t.Error(err)
	}
}

func TestJobs(t *testing.T) {
	w := newWorld(t, nil)
	var ids []int64
	token := ""
	for page := 0; ; page++ {
		list, err := w.jobs.ListJobs(t.Context(), &v1.ListJobsRequest{PageSize: 3, PageToken: token})
		if err != nil || page > 2 {
			t.Fatal(err, page)
		}
		for _, j := range list.Jobs {
			ids = append(ids, j.Id)
		}
		if token = list.NextPageToken; token == "" {
			break
		}
	}
	if d := cmp.Diff([]int64{104, 103, 102, 101}, ids); d != "" {
		t.Error(d)
	}
	if list, err := w.jobs.ListJobs(t.Context(), &v1.ListJobsRequest{States: []string{"queued"}, Pool: "linux", Repository: "OCTO/app", RunId: 7, Since: timestamppb.New(t0.Add(-15 * time.Minute))}); err != nil || len(list.Jobs) != 1 {
		t.Error(list, err)
	}
	for _, req := range []*v1.ListJobsRequest{{States: []string{"sleeping"}}, {PageToken: "x"}, {PageSize: -1}} {
		if _, err := w.jobs.ListJobs(t.Context(), req); codeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	one, err := w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 101}})
	if err != nil {
		t.Fatal(err)
	}
	if one.Receipt.GetCostMicroUsd() != 8000 || len(one.Sightings) != 2 || one.Job.QueueTime.AsDuration() != 10*time.Second || one.Job.RunTime.AsDuration() != time.Minute {
		t.Errorf("%v", one)
	}
	var what []string
	for _, m := range one.Timeline {
		what = append(what, m.What)
	}
	if got, want := strings.Join(what, " "), "created seen decided runner_created runner_launched runner_connected runner_listening started completed runner_finished runner_destroyed"; got != want {
		t.Errorf("timeline %s\nwant     %s", got, want)
	}
	// GitHub's times are whole seconds: a runner that listened in the second in
	// which it took the job listened first.
	done, old := &w.store.jobs[3], &w.store.runners[1]
	for _, t := range []*time.Time{&old.CreatedAt, &old.LaunchedAt, &old.ConnectedAt, &old.ListeningAt} {
		*t = t.Add(done.StartedAt.Sub(old.ListeningAt) + 300*time.Millisecond)
	}
	if one, err = w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 101}}); err != nil {
		t.Fatal(err)
	}
	if a, b := one.Timeline[6], one.Timeline[7]; a.What != "runner_listening" || b.What != "started" {
		t.Errorf("%s before %s", a.What, b.What)
	}
	for _, ref := range []*v1.JobRef{nil, {}, {Id: -1}} {
		if _, err := w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: ref}); codeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", ref, err)
		}
	}
	if _, err := w.jobs.GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: 101, Attempt: 2}}); codeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "job 101 has no attempt 2 here; the last is 1") {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	w := newWorld(t, func(_ *api.Config, w *world) {
		w.commands.refusal, w.commands.refusedAt = "quota exceeded", t0.Add(-time.Minute)
		// A younger job took the runner that was made after 103 was queued (4-2).
		thief := muster.Runner{ID: "r-thief", Workspace: "default", Pool: "linux", State: muster.RunnerActive, Busy: true, Job: muster.JobKey{ID: 105, Attempt: 1}, CreatedAt: t0.Add(-5 * time.Minute)}
		w.store.runners = append([]muster.Runner{thief}, w.store.runners...)
		w.store.jobs = append([]muster.Job{{Key: muster.JobKey{ID: 105, Attempt: 1}, Workspace: "default", Pool: "linux", Name: "quick", Repository: "octo/app", State: muster.JobInProgress, CreatedAt: t0.Add(-6 * time.Minute)}}, w.store.jobs...)
	})
	why, err := w.jobs.ExplainJob(t.Context(), &v1.ExplainJobRequest{Job: &v1.JobRef{Id: 104}})
	if err != nil {
		t.Fatal(err)
	}
	if why.Ahead != 1 || why.LastDecision.GetReason() != "at max" || len(why.Causes) == 0 {
		t.Errorf("%v", why)
	}
	codes := map[string]string{}
	for _, c := range why.Causes {
		codes[c.Code] = c.Text
	}
	if !strings.Contains(codes[muster.CauseProviderRefusing], "quota exceeded") {
		t.Errorf("causes %v", codes)
	}
	if !strings.Contains(codes[muster.CauseStolen], "105 (quick of octo/app)") {
		t.Errorf("causes %v", codes)
	}
	done, err := w.jobs.ExplainJob(t.Context(), &v1.ExplainJobRequest{Job: &v1.JobRef{Id: 101}})
	if err != nil || len(done.Causes) != 1 || done.Causes[0].Code != muster.CauseNotWaiting {
		t.Errorf("a completed job: %v %v", done, err)
	}
	w.store.jobs[0].Pool, w.store.jobs[0].State, w.store.jobs[0].Labels = "", muster.JobQueued, muster.Labels{"ubuntu-latest"}
	nobody, err := w.jobs.ExplainJob(t.Context(), &v1.ExplainJobRequest{Job: &v1.JobRef{Id: 105}})
	if err != nil || len(nobody.Causes) == 0 || nobody.LastDecision != nil {
		t.Errorf("a job of no pool: %v %v", nobody, err)
	}
}

func TestJobLog(t *testing.T) {
	w := newWorld(t, nil)
	read := func(id int64) (string, error) {
		stream, err := w.jobs.GetJobLog(t.Context(), &v1.GetJobLogRequest{Job: &v1.JobRef{Id: id}})
		if err != nil {
			return "", err
		}
		defer stream.Close()
		var b strings.Builder
		for stream.Receive() {
			b.Write(stream.Msg().Data)
		}
		return b.String(), stream.Err()
	}
	if text, err := read(101); err != nil || !strings.HasPrefix(text, "main:first line\n") || len(text) != len("main:first line\n")+100<<10 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if _, err := read(102); codeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "muster runner log r-busy") {
		t.Error(err)
	}
}

func TestDeliveries(t *testing.T) {
	w := newWorld(t, nil)
	list, err := w.deliveries.ListDeliveries(t.Context(), &v1.ListDeliveriesRequest{PageSize: 1})
	if err != nil || len(list.Deliveries) != 1 || list.Deliveries[0].Guid != "guid-2" {
		t.Fatal(list, err)
	}
	if list, err = w.deliveries.ListDeliveries(t.Context(), &v1.ListDeliveriesRequest{PageToken: list.NextPageToken, Outcome: "queued"}); err != nil || len(list.Deliveries) != 1 || list.NextPageToken != "" {
		t.Fatal(list, err)
	}
	// S4-8: headers and the body, byte for byte.
	one, err := w.deliveries.GetDelivery(t.Context(), &v1.GetDeliveryRequest{Guid: "guid-1"})
	if err != nil || string(one.Delivery.Body) != "{\"action\": \"queued\"}\n" || one.Delivery.Headers["X-Github-Event"] != "workflow_job" {
		t.Error(one, err)
	}
	if _, err := w.deliveries.RedispatchDelivery(t.Context(), &v1.RedispatchDeliveryRequest{Guid: "guid-1"}); err != nil || w.commands.asked[0] != "redispatch guid-1" {
		t.Error(err, w.commands.asked)
	}
	for _, guid := range []string{"", "nope"} {
		if _, err := w.deliveries.RedispatchDelivery(t.Context(), &v1.RedispatchDeliveryRequest{Guid: guid}); err == nil {
			t.Errorf("redispatch of %q succeeded", guid)
		}
	}
}

func TestUsage(t *testing.T) {
	w := newWorld(t, nil)
	sum, err := w.usage.GetSummary(t.Context(), &v1.GetSummaryRequest{})
	if err != nil || sum.By != "workflow" || sum.Rows[0].CostMicroUsd != 8000 {
		t.Error(sum, err)
	}
	if _, err := w.usage.GetSummary(t.Context(), &v1.GetSummaryRequest{By: "colour"}); codeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
	if _, err := w.usage.ListReceipts(t.Context(), &v1.ListReceiptsRequest{Filter: &v1.UsageFilter{Since: timestamppb.New(t0), Until: timestamppb.New(t0)}}); codeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
	if rs, err := w.usage.ListReceipts(t.Context(), &v1.ListReceiptsRequest{}); err != nil || len(rs.Receipts) != 1 || rs.Receipts[0].Run.AsDuration() != time.Minute {
		t.Error(rs, err)
	}
	if ws, err := w.usage.ListWaste(t.Context(), &v1.ListWasteRequest{}); err != nil || len(ws.Wastes) != 1 || ws.Wastes[0].Reason != "no job within 2m0s" {
		t.Error(ws, err)
	}
}

// S4-24 S4-55 S4-57 4-49: exact percentiles and failure rates of a known data set.
func TestRunnerMetrics(t *testing.T) {
	w := newWorld(t, func(_ *api.Config, w *world) {
		w.store.receipts = nil
		for i := 1; i <= 10; i++ {
			conclusion := "success"
			if i <= 3 {
				conclusion = "failure"
			}
			w.store.receipts = append(w.store.receipts, muster.Receipt{Job: muster.JobKey{ID: int64(i)}, Pool: "a", Runner: "r", Conclusion: conclusion,
				Queue: time.Duration(i) * time.Second, Boot: time.Duration(11-i) * time.Second, Run: time.Duration(i) * time.Minute})
		}
		w.store.receipts = append(w.store.receipts,
			muster.Receipt{Job: muster.JobKey{ID: 11}, Pool: "a", Conclusion: "cancelled"},                                                                 // never ran
			muster.Receipt{Job: muster.JobKey{ID: 12}, Pool: "b", Runner: "r", Conclusion: "cancelled", Queue: time.Hour, Run: time.Hour, Boot: time.Hour}, // ran
		)
	})
	m, err := w.usage.GetRunnerMetrics(t.Context(), &v1.GetRunnerMetricsRequest{})
	if err != nil || len(m.Pools) != 2 {
		t.Fatal(m, err)
	}
	p := func(n int32, p50, p90 time.Duration) *v1.Percentiles {
		return &v1.Percentiles{Count: n, P50: durationpb.New(p50), P90: durationpb.New(p90)}
	}
	want := &v1.RunnerMetrics{Pool: "a", Jobs: 10, NeverRan: 1, Succeeded: 7, Failed: 3, FailureRate: .3,
		Queue: p(10, 5*time.Second, 9*time.Second), Boot: p(10, 5*time.Second, 9*time.Second), Run: p(10, 5*time.Minute, 9*time.Minute)}
	if d := cmp.Diff(want, m.Pools[0], protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if b := m.Pools[1]; b.Cancelled != 1 || b.FailureRate != 0 || b.Queue.P90.AsDuration() != time.Hour {
		t.Errorf("%v", b)
	}
	if m.Total.Jobs != 11 || m.Total.Pool != "" || m.Total.Queue.P50.AsDuration() != 6*time.Second {
		t.Errorf("total %v", m.Total)
	}
}

func TestInstallations(t *testing.T) {
	w := newWorld(t, nil)
	list, err := w.installations.ListInstallations(t.Context(), &v1.ListInstallationsRequest{})
	if err != nil || len(list.Installations) != 2 {
		t.Fatal(list, err)
	}
	if a, b := list.Installations[0], list.Installations[1]; !a.IsServiceEnabled || a.InstallationId != 5 || b.IsServiceEnabled || b.State != "suspended" { // S4-40
		t.Error(a, b)
	}
}

func TestOverviewAndWatch(t *testing.T) {
	w := newWorld(t, nil)
	o, err := w.system.GetOverview(t.Context(), &v1.GetOverviewRequest{})
	if err != nil || o.Version != "v1.2.3" || o.Jobs["queued"] != 2 || o.Runners["active"] != 1 || o.Runners["destroyed"] != 0 || o.Promises.JobsLost != 0 || len(o.Problems) != 1 || o.Budgets[0].Remaining != 4321 {
		t.Error(o, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.system.Watch(ctx, &v1.WatchRequest{Kinds: []string{"job"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if !stream.Receive() || stream.Msg().Kind != "" {
		t.Fatal(stream.Msg(), stream.Err())
	}
	for _, c := range []muster.Change{{Kind: "job", Workspace: "other", ID: "1"}, {Kind: "runner", Workspace: "default", ID: "2"}, {Kind: "job", Workspace: "default", ID: "3"}} {
		w.store.watcher <- c
	}
	if !stream.Receive() || stream.Msg().Id != "3" { // another workspace's and other kinds are left out
		t.Fatal(stream.Msg(), stream.Err())
	}
	close(w.store.watcher) // the store is closed
	if stream.Receive() || stream.Err() != nil {
		t.Error(stream.Msg(), stream.Err())
	}
}

func TestWatchEndsWithTheControlPlane(t *testing.T) {
	stopping := make(chan struct{})
	w := newWorld(t, func(c *api.Config, _ *world) { c.Stopping = stopping })
	stream, err := w.system.Watch(t.Context(), &v1.WatchRequest{})
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	defer stream.Close()
	close(stopping)
	if stream.Receive() || codeOf(stream.Err()) != connect.CodeUnavailable {
		t.Error(stream.Err())
	}
}

func withToken(token string) connect.ClientOption {
	return connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", token)
			return next(ctx, req)
		}
	}))
}

func TestAuthentication(t *testing.T) {
	secured := func(c *api.Config, _ *world) { c.OperatorToken = "planted-operator-token" }
	for _, tc := range []struct {
		situation, header string
		want              connect.Code
	}{
		{"Right", "Bearer planted-operator-token", 0},
		{"Wrong", "Bearer planted-operator-tokeN", connect.CodeUnauthenticated},
		{"Prefix", "Bearer planted", connect.CodeUnauthenticated},
		{"Basic", "Basic planted-operator-token", connect.CodeUnauthenticated},
		{"Empty", "Bearer ", connect.CodeUnauthenticated},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			w := newWorld(t, secured, withToken(tc.header))
			_, err := w.system.GetOverview(t.Context(), &v1.GetOverviewRequest{})
			if codeOf(err) != tc.want {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "planted") || strings.Contains(w.log.String(), "planted") {
				t.Error("a token is shown") // S1-107
			}
		})
	}
	t.Run("StreamWithoutToken", func(t *testing.T) {
		w := newWorld(t, secured)
		stream, err := w.system.Watch(t.Context(), &v1.WatchRequest{})
		if err == nil {
			stream.Receive()
			err = stream.Err()
		}
		if codeOf(err) != connect.CodeUnauthenticated {
			t.Error(err)
		}
	})
}

// Without a token, only programs of this machine may call: not a web page that
// the operator looks at, and nobody through a proxy.
func TestWithoutTokenOnlyThisMachine(t *testing.T) {
	for _, tc := range []struct {
		situation string
		header    [2]string
		host      string
		want      int
	}{
		{"Plain", [2]string{}, "", http.StatusOK},
		{"OtherOrigin", [2]string{"Origin", "https://evil.example"}, "", http.StatusForbidden},
		{"CrossSite", [2]string{"Sec-Fetch-Site", "cross-site"}, "", http.StatusForbidden},
		{"ReboundName", [2]string{}, "evil.example:8080", http.StatusForbidden},
		{"ThroughProxy", [2]string{"X-Forwarded-For", "203.0.113.9"}, "", http.StatusForbidden},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			w := newWorld(t, nil)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/muster.v1.SystemService/GetOverview", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if tc.header[0] != "" {
				req.Header.Set(tc.header[0], tc.header[1])
			}
			req.Host = tc.host
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.want {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.want)
			}
		})
	}
}

// Every class of errors has one answer, internal texts stay inside, panics are
// internal errors, and every call is counted.
func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		situation string
		err       error
		want      connect.Code
		text      string
	}{
		{"Invalid", muster.Errorf(muster.CodeInvalid, "why"), connect.CodeInvalidArgument, "why"},
		{"Unauthenticated", muster.Errorf(muster.CodeUnauthenticated, "why"), connect.CodeUnauthenticated, "why"},
		{"Forbidden", muster.Errorf(muster.CodeForbidden, "why"), connect.CodePermissionDenied, "why"},
		{"NotFound", muster.Errorf(muster.CodeNotFound, "why"), connect.CodeNotFound, "why"},
		{"Conflict", muster.Errorf(muster.CodeConflict, "why"), connect.CodeFailedPrecondition, "why"},
		{"Gone", muster.Errorf(muster.CodeGone, "why"), connect.CodeFailedPrecondition, "why"},
		{"Exists", muster.Errorf(muster.CodeExists, "why"), connect.CodeAlreadyExists, "why"},
		{"Busy", muster.Errorf(muster.CodeBusy, "why"), connect.CodeFailedPrecondition, "why"},
		{"Unavailable", &muster.Error{Code: muster.CodeUnavailable, Message: "why", RetryAfter: 1500 * time.Millisecond}, connect.CodeUnavailable, "why"},
		{"CauseIsHidden", &muster.Error{Code: muster.CodeUnavailable, Message: "why", Err: errors.New("planted detail")}, connect.CodeUnavailable, "why"},
		{"Internal", errors.New("planted detail"), connect.CodeInternal, "internal error; the log of the control plane has the details under trace id "},
		{"InternalWithText", muster.Errorf(muster.CodeInternal, "planted detail"), connect.CodeInternal, "internal error; "},
		{"UnknownCode", muster.Errorf("new", "planted detail"), connect.CodeInternal, "internal error; "},
		{"Deadline", context.DeadlineExceeded, connect.CodeDeadlineExceeded, "the call took longer than its deadline"},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			w := newWorld(t, func(_ *api.Config, w *world) { w.store.broken = tc.err })
			_, err := w.pools.ListPools(t.Context(), &v1.ListPoolsRequest{})
			if codeOf(err) != tc.want || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "planted") { // S1-107 4-37
				t.Errorf("got %v", err)
			}
			trace := meta(err, api.TraceHeader)
			if len(trace) != 16 {
				t.Errorf("trace id %q", trace)
			}
			if tc.want == connect.CodeInternal && (!strings.Contains(w.log.String(), "planted detail") || !strings.Contains(w.log.String(), trace) || !strings.Contains(err.Error(), trace)) {
				t.Errorf("the log lacks the cause under the trace id (S4-69): %s", w.log)
			}
			if tc.situation == "Unavailable" && meta(err, "Retry-After") != "2" {
				t.Errorf("Retry-After %q", meta(err, "Retry-After"))
			}
			if d := cmp.Diff([]string{"/muster.v1.PoolService/ListPools " + tc.want.String()}, w.counter.calls); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("Panic", func(t *testing.T) {
		w := newWorld(t, func(_ *api.Config, w *world) { w.store.panics = "planted detail" })
		if _, err := w.pools.ListPools(t.Context(), &v1.ListPoolsRequest{}); codeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "planted") {
			t.Errorf("got %v", err)
		}
		if !strings.Contains(w.log.String(), "panic: planted detail") {
			t.Errorf("log: %s", w.log)
		}
		stream, err := w.jobs.GetJobLog(t.Context(), &v1.GetJobLogRequest{Job: &v1.JobRef{Id: 101}})
		if err == nil {
			stream.Receive()
			err = stream.Err()
		}
		if codeOf(err) != connect.CodeInternal {
			t.Errorf("stream: %v", err)
		}
	})
}
