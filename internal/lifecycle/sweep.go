package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

const sweepWorkflowID = "sweep"

// Suspects are what one sweep found odd. Only what the next sweep finds odd
// again is acted on: one reading of GitHub's or a platform's list is never proof
// (reference/github.md §3.4).
type Suspects struct {
	Instances     []string
	Registrations []string
	Ghosts        []muster.RunnerID
	// InstancesAt and RemoteAt are when platforms and GitHub were last looked at.
	InstancesAt time.Time
	RemoteAt    time.Time
}

// maxSuspects bounds what is carried from one sweep to the next.
const maxSuspects = 500

const sweepsPerRun = 100

// Sweeping compares providers, GitHub and store for ever. every is read anew from
// the configuration by the activity, so that a restart changes it.
func Sweeping(ctx workflow.Context, every time.Duration, before Suspects) error {
	var a *Activities
	looks := workflow.GetSignalChannel(ctx, signalLook)
	for range sweepsPerRun {
		awaitSignal(ctx, looks, workflow.Now(ctx).Add(every))
		drainSignals(looks)
		opts := workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Minute, HeartbeatTimeout: heartbeatTimeout, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}}
		var after Suspects
		if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, opts), a.Sweep, before).Get(ctx, &after); err != nil {
			continue // the next round tries again, with the suspects of the last good one
		}
		before = after
	}
	return workflow.NewContinueAsNewError(ctx, Sweeping, every, before)
}

// Sweep compares what providers and GitHub have with what the store knows, acts
// on what was already suspect, and returns what is suspect now. Only things that
// carry our own tag or name are looked at, and nothing younger than the grace.
func (a *Activities) Sweep(ctx context.Context, before Suspects) (Suspects, error) {
	live, err := a.Store.LiveRunners(ctx)
	if err != nil {
		return before, fmt.Errorf("list live runners: %w", err)
	}
	known := make(map[muster.RunnerID]muster.Runner, len(live))
	for _, r := range live {
		known[r.ID] = r
	}
	now, after := a.Now(), before
	if due(before.InstancesAt, a.Times.Sweep, now) {
		after.Instances, after.InstancesAt = nil, now
		for _, name := range slices.Sorted(maps.Keys(a.Backends)) {
			b := a.Backends[name]
			for _, z := range b.Everywhere() { // one that breaks off hides no other
				after.Instances = append(after.Instances, a.sweepInstances(ctx, b.label(z.Name), z, known, before)...)
			}
		}
	}
	if due(before.RemoteAt, a.Times.Health, now) {
		after.Registrations, after.Ghosts, after.RemoteAt = nil, nil, now
		a.sweepRegistrations(ctx, known, before, &after)
	}
	a.wakeSilent(ctx, live)
	a.closeForgotten(ctx, now)
	a.closeForgottenTraces(ctx, now)
	after.Instances = after.Instances[:min(len(after.Instances), maxSuspects)]
	after.Registrations = after.Registrations[:min(len(after.Registrations), maxSuspects)]
	after.Ghosts = after.Ghosts[:min(len(after.Ghosts), maxSuspects)]
	return after, nil
}

// forgottenFor is how far back the sweep looks for jobs without a receipt, and
// forgottenAfter how long a job's own workflow has to write it.
const (
	forgottenFor   = 24 * time.Hour
	forgottenAfter = time.Minute
)

// closeForgotten offers the completion of jobs again that have no receipt: the
// process may have died between recording what polling or a scale set told and
// waking the job's workflow, and neither tells it twice (4-51).
func (a *Activities) closeForgotten(ctx context.Context, now time.Time) {
	jobs, err := a.Store.Unreceipted(ctx, defaultWorkspace, now.Add(-forgottenFor), now.Add(-forgottenAfter), maxSuspects)
	if err != nil {
		a.logger(ctx).Warn("sweep: jobs without a receipt", "error", err)
		return
	}
	for _, j := range jobs {
		e := muster.JobEvent{
			Action: "completed", Status: muster.JobCompleted, Conclusion: j.Conclusion, ID: j.Key.ID, Attempt: j.Key.Attempt, RunID: j.RunID,
			App: j.App, InstallationID: j.Installation, Repository: j.Repository, Labels: j.Labels, RunnerName: j.RunnerName,
			CreatedAt: j.CreatedAt, StartedAt: j.StartedAt, CompletedAt: j.CompletedAt, ReceivedAt: now,
		}
		if err := a.wake.sink(ctx, e); err != nil {
			a.logger(ctx).Warn("sweep: job without a receipt", "job", j.Key.String(), "error", err)
			return
		}
	}
}

// due reports whether it is time for the next look; rounds are not punctual.
func due(last time.Time, every time.Duration, now time.Time) bool {
	return now.Sub(last) >= every-every/10
}

// sweepInstances deletes machines that no live runner owns.
func (a *Activities) sweepInstances(ctx context.Context, name string, b provider.Provider, known map[muster.RunnerID]muster.Runner, before Suspects) (suspects []string) {
	grace := a.Now().Add(-a.Times.SweepGrace)
	for in, err := range b.List(ctx) {
		if err != nil {
			a.logger(ctx).Warn("sweep: provider's list broke off", "provider", name, "error", err)
			return suspects
		}
		if _, ok := known[in.Runner]; ok || in.CreatedAt.After(grace) {
			continue
		}
		id := name + "/" + string(in.Runner)
		if !slices.Contains(before.Instances, id) {
			suspects = append(suspects, id)
			continue
		}
		if err := b.Delete(ctx, in.Runner); err != nil && !isGone(err) {
			a.logger(ctx).Warn("sweep: delete leaked instance", "provider", name, "runner", in.Runner, "error", err)
			suspects = append(suspects, id)
			continue
		}
		a.find(ctx, muster.Finding{Kind: "leaked_instance", Subject: id, Action: "deleted"})
	}
	return suspects
}

// sweepRegistrations removes registrations of ours that no live runner owns, and
// finds runners that listen without being registered: GitHub consumed their
// registration and gave the job to nobody (actions/runner 4617).
func (a *Activities) sweepRegistrations(ctx context.Context, known map[muster.RunnerID]muster.Runner, before Suspects, after *Suspects) {
	names := map[string]muster.Runner{}
	for _, r := range known {
		names[r.Name] = r
	}
	pools, err := a.Store.Pools(ctx, defaultWorkspace)
	if err != nil {
		a.logger(ctx).Warn("sweep: list pools", "error", err)
		return
	}
	seen := map[string]bool{}
	for _, p := range pools {
		key := p.App + " " + p.Scope.String()
		gh, ok := a.GitHub[p.App]
		if !ok || seen[key] {
			continue
		}
		seen[key] = true
		remote, err := gh.Runners(ctx, p.Scope)
		if err != nil {
			// Rate limits and outages: this scope is looked at next time.
			a.logger(ctx).Warn("sweep: list registrations", "scope", p.Scope.String(), "error", err)
			continue
		}
		a.compareRegistrations(ctx, gh, p, pools, remote, names, before, after)
	}
}

func (a *Activities) compareRegistrations(ctx context.Context, gh GitHub, at muster.Pool, pools []muster.Pool, remote []muster.RemoteRunner, names map[string]muster.Runner, before Suspects, after *Suspects) {
	now := a.Now()
	listed := map[string]bool{}
	for _, r := range remote {
		listed[r.Name] = true
		if _, ours := names[r.Name]; ours || r.Busy || r.Online || !a.namedByUs(ctx, pools, r.Name) {
			continue
		}
		id := at.Scope.String() + "/" + r.Name
		if !slices.Contains(before.Registrations, id) {
			after.Registrations = append(after.Registrations, id)
			continue
		}
		if err := gh.RemoveRunner(ctx, at.Scope, r.ID); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			after.Registrations = append(after.Registrations, id) // busy or unavailable: look again
			continue
		}
		a.find(ctx, muster.Finding{Kind: "ghost_registration", Subject: id, Action: "removed"})
	}
	for name, r := range names {
		p, ok := poolNamed(pools, r.Pool)
		if !ok || p.App != at.App || p.Scope != at.Scope || listed[name] || r.State != muster.RunnerRegistered || r.Busy {
			continue
		}
		if r.ListeningAt.IsZero() || now.Sub(r.ListeningAt) < a.Times.SweepGrace {
			continue
		}
		if !slices.Contains(before.Ghosts, r.ID) {
			after.Ghosts = append(after.Ghosts, r.ID)
			continue
		}
		if err := a.askToDrain(ctx, r.Workspace, r.ID, "GitHub no longer knows this runner"); err == nil {
			a.find(ctx, muster.Finding{Workspace: r.Workspace, Kind: "lost_runner", Subject: string(r.ID), Action: "drained"})
		}
	}
}

// namedByUs reports whether a registration's name is one that this control plane
// gave: it begins with a pool's name, and the store has it in its book of names.
func (a *Activities) namedByUs(ctx context.Context, pools []muster.Pool, name string) bool {
	if !slices.ContainsFunc(pools, func(p muster.Pool) bool {
		return strings.HasPrefix(name, p.Name[:min(32, len(p.Name))]+"-")
	}) {
		return false
	}
	_, err := a.Store.RunnerByName(ctx, defaultWorkspace, name)
	return err == nil
}

// wakeSilent makes sure that every live runner has a workflow that looks after
// it. Workflows outlive crashes, so this finds something only after a reset.
func (a *Activities) wakeSilent(ctx context.Context, live []muster.Runner) {
	quiet := a.Now().Add(-a.Times.AgentLost)
	for _, r := range live {
		if latest(r.CreatedAt, r.LaunchedAt, r.HeartbeatAt, r.FinishedAt).After(quiet) {
			continue
		}
		if err := a.wake.runner(ctx, RunnerRef{r.Workspace, r.ID}); err != nil {
			a.logger(ctx).Warn("sweep: wake runner", "runner", r.ID, "error", err)
		}
	}
}

func (a *Activities) find(ctx context.Context, f muster.Finding) {
	f.At = a.Now()
	if f.Workspace == "" {
		f.Workspace = defaultWorkspace
	}
	if err := a.Store.RecordFinding(ctx, f); err != nil {
		a.logger(ctx).Error("record finding", "kind", f.Kind, "subject", f.Subject, "error", err)
	}
	a.logger(ctx).Warn("finding", "kind", f.Kind, "subject", f.Subject, "action", f.Action)
	a.Observer.Finding(f)
}

func (a *Activities) logger(ctx context.Context) *slog.Logger {
	if activity.IsActivity(ctx) {
		return a.Log.With("workflow", activity.GetInfo(ctx).WorkflowExecution.ID)
	}
	return a.Log
}

func isGone(err error) bool {
	return muster.CodeOf(err) == muster.CodeNotFound || errors.Is(err, provider.ErrNotFound)
}

func poolNamed(pools []muster.Pool, name string) (muster.Pool, bool) {
	i := slices.IndexFunc(pools, func(p muster.Pool) bool { return p.Name == name })
	if i < 0 {
		return muster.Pool{}, false
	}
	return pools[i], true
}
