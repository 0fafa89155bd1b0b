package api

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/dryrun"
	"github.com/muster-ci/muster/internal/usage"
)

// stamp is a time, absent if zero.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// when is the inverse of stamp.
func when(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func span(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func texts[T ~string](xs []T) []string {
	out := make([]string, len(xs))
	for i, x := range xs {
		out[i] = string(x)
	}
	return out
}

// each converts a list.
func each[T, U any](xs []T, f func(T) U) []U {
	out := make([]U, len(xs))
	for i, x := range xs {
		out[i] = f(x)
	}
	return out
}

func poolOf(p muster.Pool) *v1.Pool {
	out := &v1.Pool{
		Name: p.Name, Workspace: p.Workspace, Project: p.Project, App: p.App, Scope: p.Scope.String(),
		Labels: p.Labels, RunnerLabels: p.RunnerLabels, RunnerGroup: p.RunnerGroup,
		Provider: p.Provider, Offering: p.Offering, Lifecycle: string(p.Lifecycle), Registration: string(p.Registration),
		Scaling: &v1.Scaling{
			MinRunners: int32(p.Scaling.MinRunners), MaxRunners: int32(p.Scaling.MaxRunners), JobsPerRunner: int32(p.Scaling.JobsPerRunner),
			ScaleUpThreshold: int32(p.Scaling.ScaleUpThreshold), ScaleDownThreshold: int32(p.Scaling.ScaleDownThreshold), Cooldown: span(p.Scaling.Cooldown),
		},
		Enabled: p.Enabled, Repositories: p.Repositories, AllowPublic: p.AllowPublic, MaxJobCount: int32(p.MaxJobCount), ReportChecks: p.ReportChecks,
		NoJobTimeout: span(p.NoJobTimeout), RotationInterval: span(p.RotationInterval), MaxAge: span(p.MaxAge), Provisioning: int32(p.Provisioning),
	}
	if p.ConnectTimeout > 0 {
		out.ConnectTimeout = span(p.ConnectTimeout)
	}
	if d := p.Scaling.ScaleDownCooldown; d > 0 {
		out.Scaling.ScaleDownCooldown = span(d)
	}
	if d := p.Scaling.MinRunTime; d > 0 {
		out.Scaling.MinRunTime = span(d)
	}
	out.Machine, out.Zone = p.Machine, p.Zone
	out.Suspended, out.ScaleSet, out.InactiveMinutes = p.Suspended, p.ScaleSet, int32(p.InactiveMinutes)
	if p.JobWait > 0 {
		out.JobWait = span(p.JobWait)
	}
	out.Schedules = each(p.Schedules, func(s muster.Schedule) *v1.Schedule {
		return &v1.Schedule{Cron: s.Cron, TimeZone: s.TimeZone, For: span(s.For), MinRunners: small(s.MinRunners), MaxRunners: small(s.MaxRunners)}
	})
	if p.Overflow.Pool != "" {
		out.Overflow = &v1.Overflow{Pool: p.Overflow.Pool, After: span(p.Overflow.After)}
	}
	out.Quotas = each(p.Quotas, func(q muster.Quota) *v1.Quota {
		return &v1.Quota{Name: q.Name, Repositories: q.Repositories, Each: q.Each, MaxRunners: int32(q.MaxRunners)}
	})
	out.Priorities = each(p.Priorities, func(r muster.Priority) *v1.Priority {
		return &v1.Priority{Label: r.Label, Branch: r.Branch, Repository: r.Repository, Event: r.Event, Weight: int32(r.Weight)}
	})
	if p.Canary.Offering != "" {
		out.Canary = &v1.Canary{Offering: p.Canary.Offering, Percent: int32(p.Canary.Percent), MaxFailures: int32(p.Canary.MaxFailures)}
	}
	if p.Trace != (muster.PoolTrace{}) {
		events, size := p.Trace.Bounds()
		out.Trace = &v1.PoolTrace{Off: p.Trace.Off, MaxEvents: events, MaxBytes: size}
	}
	if e := p.Egress; e.Mode != "" {
		out.Egress = &v1.Egress{Mode: e.Mode, Allow: e.Allow, NoGithub: e.NoGitHub}
	}
	return out
}

// small is the inverse of number.
func small(n *int) *int32 {
	if n == nil {
		return nil
	}
	i := int32(*n)
	return &i
}

// statusFrom counts what a pool has led to. Each runner counts once: a runner
// that goes is draining whatever it does, and a busy one is busy whatever its state.
func statusFrom(s muster.Snapshot, now time.Time) *v1.PoolStatus {
	out := &v1.PoolStatus{JobsUnnamed: int32(s.Unnamed)}
	out.Notes = each(muster.Notes(s, now), func(n muster.Note) *v1.Note { return &v1.Note{Topic: n.Topic, Text: n.Text} })
	var oldest time.Time
	for _, j := range s.Jobs {
		switch j.State {
		case muster.JobQueued:
			out.JobsQueued++
			if oldest.IsZero() || j.QueuedAt.Before(oldest) {
				oldest = j.QueuedAt
			}
		case muster.JobInProgress:
			out.JobsInProgress++
		}
	}
	out.OldestQueuedAt = stamp(oldest)
	for _, r := range s.Runners {
		switch {
		case r.State == muster.RunnerDraining:
			out.RunnersDraining++
		case r.Busy || r.State == muster.RunnerActive:
			out.RunnersBusy++
		case r.State == muster.RunnerRegistered:
			out.RunnersIdle++
		case r.State == muster.RunnerProvisioning:
			out.RunnersStarting++
		}
	}
	return out
}

func decisionOf(d muster.DecisionRecord) *v1.Decision {
	return &v1.Decision{
		Id: d.ID, Pool: d.Pool, At: stamp(d.At), Action: string(d.Decision.Action),
		TargetRunnerCount: int32(d.Decision.Target), CurrentRunnerCount: int32(d.Decision.Current),
		Reason: d.Decision.Reason, Rule: d.Decision.Rule, Create: int32(d.Decision.Create), Warm: int32(d.Decision.Warm),
		Drain: texts(d.Decision.Drain),
		Metrics: &v1.QueueMetrics{
			PendingJobs: int32(d.Decision.Metrics.PendingJobs), InProgressJobs: int32(d.Decision.Metrics.InProgressJobs),
			QueuedJobs: int32(d.Decision.Metrics.QueuedJobs), TotalJobs: int32(d.Decision.Metrics.TotalJobs), Timestamp: stamp(d.Decision.Metrics.Timestamp),
		},
		WakeAt: stamp(d.Decision.WakeAt), Count: int32(d.Count), LastAt: stamp(d.LastAt),
		Created: each(d.Runners, func(r muster.Runner) string { return string(r.ID) }),
		ForJobs: d.Decision.For, Canary: int32(d.Decision.Canary), Overflow: d.Decision.Overflow,
	}
}

func offeringOf(o muster.Offering) *v1.RunnerOffering {
	return &v1.RunnerOffering{
		Id: o.Name, Name: o.Name, Cpu: cpuOf(o), Memory: memoryOf(o), ImageRepository: o.Image, IsAutoscale: o.Autoscale,
		Gpus: int32(o.GPUs), Spot: o.Spot, PriceMicroUsdPerMinute: o.PriceMicroUSD,
	}
}

func cpuOf(o muster.Offering) string {
	if o.CPUs == 0 {
		return ""
	}
	return strconv.FormatFloat(o.CPUs, 'f', -1, 64)
}

func memoryOf(o muster.Offering) string {
	if o.MemoryMiB == 0 {
		return ""
	}
	return strconv.FormatInt(o.MemoryMiB, 10) + "Mi"
}

// runnerOf needs the runner's pool and offering, which may be zero when they are
// no longer configured.
func runnerOf(r muster.Runner, p muster.Pool, o muster.Offering) *v1.Runner {
	out := &v1.Runner{
		Id: string(r.ID), Name: r.Name, Namespace: r.Workspace, RunnerOfferingId: r.Offering, Repositories: p.Repositories,
		Status: string(r.State), IsCustom: o.Image != "", Cpu: cpuOf(o), Memory: memoryOf(o),
		Pool: r.Pool, Provider: r.Provider, Instance: r.Instance, GithubId: r.GitHubID, Reason: r.Reason, Failed: r.Failed, Warm: r.Warm, Busy: r.Busy,
		TraceId: r.TraceID, CreatedAt: stamp(r.CreatedAt), LaunchedAt: stamp(r.LaunchedAt), ConnectedAt: stamp(r.ConnectedAt), ListeningAt: stamp(r.ListeningAt),
		ActiveAt: stamp(r.ActiveAt), FinishedAt: stamp(r.FinishedAt), DestroyedAt: stamp(r.DestroyedAt), HeartbeatAt: stamp(r.HeartbeatAt),
	}
	if len(out.Repositories) == 0 && p.Scope.Kind == muster.ScopeRepository {
		out.Repositories = []string{p.Scope.String()}
	}
	if r.Job != (muster.JobKey{}) {
		out.Job = &v1.JobRef{Id: r.Job.ID, Attempt: int32(r.Job.Attempt)}
	}
	return out
}

func jobOf(j muster.Job) *v1.Job {
	out := &v1.Job{
		Id: j.Key.ID, Attempt: int32(j.Key.Attempt), Workspace: j.Workspace, App: j.App, InstallationId: j.Installation,
		Repository: j.Repository, PublicRepository: j.PublicRepo, RunId: j.RunID, Workflow: j.Workflow, Name: j.Name,
		HeadBranch: j.HeadBranch, HeadSha: j.HeadSHA, Url: j.URL, Labels: j.Labels, State: string(j.State), Conclusion: j.Conclusion,
		Pool: j.Pool, Runner: string(j.Runner), RunnerName: j.RunnerName,
		CreatedAt: stamp(j.CreatedAt), StartedAt: stamp(j.StartedAt), CompletedAt: stamp(j.CompletedAt), SeenAt: stamp(j.SeenAt), TraceId: j.TraceID, Trigger: j.Trigger,
		Steps: each(j.Steps, func(s muster.Step) *v1.Step {
			return &v1.Step{Number: int32(s.Number), Name: s.Name, Status: s.Status, Conclusion: s.Conclusion, StartedAt: stamp(s.StartedAt), CompletedAt: stamp(s.CompletedAt)}
		}),
	}
	if d, ok := j.QueueTime(); ok {
		out.QueueTime = span(d)
	}
	if d, ok := j.RunTime(); ok {
		out.RunTime = span(d)
	}
	return out
}

func sightingOf(s muster.Sighting) *v1.Sighting {
	return &v1.Sighting{Sense: string(s.Sense), State: string(s.State), At: stamp(s.At), Delivery: s.Delivery}
}

func causeOf(c muster.Cause) *v1.Cause {
	return &v1.Cause{Code: c.Code, Text: c.Text, Since: stamp(c.Since)}
}

func receiptOf(r muster.Receipt) *v1.Receipt {
	return &v1.Receipt{
		JobId: r.Job.ID, Attempt: int32(r.Job.Attempt), Workspace: r.Workspace, Project: r.Project, Pool: r.Pool, Repository: r.Repository,
		Workflow: r.Workflow, JobName: r.JobName, Runner: string(r.Runner), Offering: r.Offering, Conclusion: r.Conclusion,
		Queue: span(r.Queue), Boot: span(r.Boot), Idle: span(r.Idle), Run: span(r.Run), Billed: span(r.Billed),
		PriceMicroUsdPerMinute: r.PriceMicroUSD, CostMicroUsd: r.CostMicroUSD, CompletedAt: stamp(r.CompletedAt), WrittenAt: stamp(r.WrittenAt),
	}
}

func wasteOf(w muster.Waste) *v1.Waste {
	return &v1.Waste{
		Runner: string(w.Runner), Workspace: w.Workspace, Project: w.Project, Pool: w.Pool, Offering: w.Offering, Reason: w.Reason,
		Lived: span(w.Lived), PriceMicroUsdPerMinute: w.PriceMicroUSD, CostMicroUsd: w.CostMicroUSD, At: stamp(w.At),
	}
}

func usageRowOf(u UsageRow) *v1.UsageRow {
	return &v1.UsageRow{
		Key: u.Key, Jobs: int32(u.Jobs), Succeeded: int32(u.Succeeded), Failed: int32(u.Failed), Cancelled: int32(u.Cancelled), NeverRan: int32(u.NeverRan),
		QueueP50: span(u.QueueP50), QueueP90: span(u.QueueP90), Run: span(u.Run), Billed: span(u.Billed),
		CostMicroUsd: u.CostMicroUSD, WasteMicroUsd: u.WasteMicroUSD, Wasted: int32(u.Wasted),
	}
}

func deliveryOf(d muster.Delivery) *v1.Delivery {
	return &v1.Delivery{
		Guid: d.GUID, App: d.App, Event: d.Event, Action: d.Action, Sense: string(d.Sense), ReceivedAt: stamp(d.ReceivedAt), Seq: d.Seq,
		DispatchedAt: stamp(d.DispatchedAt), Outcome: d.Outcome, Attempts: int32(d.Attempts), Error: d.Error, TraceId: d.TraceID,
		Headers: maps.Clone(d.Headers), Body: slices.Clone(d.Body),
	}
}

func installationOf(in muster.Installation) *v1.RunnerInstallation {
	return &v1.RunnerInstallation{
		InstallationId: in.ID, WorkspaceId: in.Workspace, State: in.State, GithubAccountType: in.AccountType,
		IsServiceEnabled: in.State == "active", Account: in.Account, App: in.App, UpdatedAt: stamp(in.UpdatedAt),
	}
}

func budgetOf(b Budget) *v1.Budget {
	return &v1.Budget{
		App: b.App, Account: b.Account, Limit: int32(b.Limit), Remaining: int32(b.Remaining), ResetAt: stamp(b.ResetAt),
		PerMinute: b.PerMinute, Forecast: stamp(b.Forecast), PausedUntil: stamp(b.PausedUntil), PollStretch: int32(b.PollStretch), PointsThisMinute: int32(b.PointsThisMinute),
		Lanes: each(b.Lanes, func(l BudgetLane) *v1.BudgetLane {
			return &v1.BudgetLane{Lane: l.Lane, Calls: l.Calls, Unchanged: l.Unchanged, Parked: l.Parked, Waiting: int32(l.Waiting)}
		}),
		Registrations: int32(b.Registrations), RegistrationLimit: int32(b.RegistrationLimit),
	}
}

func senseWeekOf(w usage.SenseWeek) *v1.SenseWeek {
	return &v1.SenseWeek{
		Week: stamp(w.Week), Sense: string(w.Sense), Jobs: int32(w.Jobs), First: int32(w.First), Missed: int32(w.Missed), Events: int32(w.Events), Lost: int32(w.Lost),
		LossRate: w.LossRate(), Repaired: int32(w.Repaired), RepairP50: span(w.RepairP50), RepairP95: span(w.RepairP95),
	}
}

func spreadOf(s usage.Spread) *v1.Spread {
	return &v1.Spread{Count: int32(s.Count), P50: span(s.P50), P90: span(s.P90), Max: span(s.Max)}
}

func latencyRowOf(r usage.LatencyRow) *v1.LatencyRow {
	return &v1.LatencyRow{
		Key: r.Key, Jobs: int32(r.Jobs), Succeeded: int32(r.Succeeded), Failed: int32(r.Failed), Cancelled: int32(r.Cancelled), NeverRan: int32(r.NeverRan),
		FailureRate: r.FailureRate(), Queue: spreadOf(r.Queue), Boot: spreadOf(r.Boot), Run: spreadOf(r.Run),
	}
}

func failureRowOf(f usage.FailureRow) *v1.FailureRow {
	out := &v1.FailureRow{
		Repository: f.Repository, Workflow: f.Workflow, Job: f.Job, Runs: int32(f.Runs), Failed: int32(f.Failed), Retried: int32(f.Retried), Conclusions: map[string]int32{},
		Lost: span(f.Lost), CostMicroUsd: f.CostMicroUSD, LastJobId: f.Last.ID, LastAttempt: int32(f.Last.Attempt), LastAt: stamp(f.LastAt),
	}
	for word, n := range f.Conclusions {
		out.Conclusions[word] = int32(n)
	}
	return out
}

func dryRunResultOf(r dryrun.Result) *v1.DryRunResult {
	return &v1.DryRunResult{
		Jobs: int32(r.Jobs), Unserved: int32(r.Unserved), HandedOver: int32(r.HandedOver), WaitP50: span(r.WaitP50), WaitP95: span(r.WaitP95), WaitMax: span(r.WaitMax),
		Runners: int32(r.Runners), Peak: int32(r.Peak), Wasted: int32(r.Wasted), RunnerTime: span(r.RunnerTime), CostMicroUsd: r.CostMicroUSD,
	}
}

func runOf(r muster.Run) *v1.Run {
	return &v1.Run{
		Id: r.ID, Workspace: r.Workspace, Repository: r.Repository, Workflow: r.Workflow, HeadBranch: r.HeadBranch, HeadSha: r.HeadSHA, Trigger: r.Trigger, Attempts: int32(r.Attempts),
		State: string(r.State), Conclusion: r.Conclusion, CreatedAt: stamp(r.CreatedAt), StartedAt: stamp(r.StartedAt), CompletedAt: stamp(r.CompletedAt),
	}
}
