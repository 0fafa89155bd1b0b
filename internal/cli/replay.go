package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) poolReplay() *cobra.Command {
	c := &cobra.Command{
		Use: "replay POOL", Short: "Show what a pool's planner saw at a time, and decide again from it", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools,
		Long: `Show what a pool's planner saw at a time: its settings, jobs, runners and windows, and what it decided. The decision is pure, so
it is taken again from the same and compared. A difference means that the planner has changed since, or that the control plane
held the decision back then (a provider that refused, a rotation on hold). --json prints the whole snapshot.`,
		Example: "  muster pool replay linux --at 14:05\n  muster pool replay linux --at 2026-11-20T14:05:00Z --json",
	}
	at := c.Flags().String("at", "", "when: 15:04 today, 20m (ago), a date or a time (default now)")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		when, err := a.moment("at", *at)
		if err != nil {
			return err
		}
		resp, err := api.pools.ReplayDecision(cmd.Context(), &v1.ReplayDecisionRequest{Pool: args[0], At: when, Snapshot: a.json})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printReplay(w, resp) })
	})
}

func (a *app) printReplay(w io.Writer, resp *v1.ReplayDecisionResponse) error {
	p, s, d := resp.Pool, resp.Pool.GetStatus(), resp.Recorded
	held := a.when(d.At)
	if d.Count > 1 {
		held += fmt.Sprintf(", and %s until %s", plural(int(d.Count-1), "time"), a.clock(d.LastAt))
	}
	sc := p.GetScaling()
	err := a.facts(w,
		"pool", cell{p.GetName(), bold}, "decided", held,
		"state", enabled(p),
		"limits", fmt.Sprintf("%d to %d runners, %d jobs per runner, cooldown %s, %d provisioning at once", sc.GetMinRunners(), sc.GetMaxRunners(), sc.GetJobsPerRunner(), span(sc.GetCooldown()), p.GetProvisioning()),
		"jobs", fmt.Sprintf("%d queued, %d in progress", s.GetJobsQueued(), s.GetJobsInProgress()),
		"oldest queued", a.when(s.GetOldestQueuedAt()),
		"runners", fmt.Sprintf("%d starting, %d idle, %d busy, %d draining", s.GetRunnersStarting(), s.GetRunnersIdle(), s.GetRunnersBusy(), s.GetRunnersDraining()),
		"last scaling", a.when(resp.LastScaling),
		"could not act", strings.Join(obstacles(resp), ", "),
	)
	if err != nil {
		return err
	}
	if err := a.notes(w, s.GetNotes()); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := a.table(" ", "ACTION", "RUNNERS", "CREATE", "WARM", "DRAIN", "RULE", "REASON")
	line := func(name string, d *v1.Decision) {
		t.row(name, d.Action, fmt.Sprintf("%d → %d", d.CurrentRunnerCount, d.TargetRunnerCount), d.Create, d.Warm, len(d.Drain), d.Rule, d.Reason)
	}
	line("recorded", resp.Recorded)
	line("now", resp.Recomputed)
	if err := t.print(w, ""); err != nil {
		return err
	}
	if len(resp.Differences) == 0 {
		_, err = fmt.Fprintf(w, "\n%s\n", a.paint(green, "The planner of this version decides the same."))
		return err
	}
	_, err = fmt.Fprintf(w, "\n%s\n  %s\n", a.paint(yellow, "The planner of this version decides otherwise:"), strings.Join(resp.Differences, "\n  "))
	return err
}

func obstacles(resp *v1.ReplayDecisionResponse) (out []string) {
	if resp.InstallationSuspended {
		out = append(out, "the App's installation was suspended")
	}
	if resp.DemandUnknown {
		out = append(out, "the queue could not be learned")
	}
	return out
}

func (a *app) poolDryRun() *cobra.Command {
	c := &cobra.Command{
		Use: "dry-run POOL", Short: "Run changed settings over the recorded demand of a pool", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools,
		Long: `Run changed settings over the recorded demand of a pool, in a simulation around the planner itself, and compare waits, runner
hours and cost. MEASURED is what happened, BEFORE the same simulation with the present settings, AFTER with the changed ones:
compare AFTER with BEFORE, and BEFORE with MEASURED to see how far the simulation is from the truth. Nothing is changed.

Settings are named as in the configuration: min_runners, max_runners, jobs_per_runner, scale_up_threshold, scale_down_threshold,
cooldown, job_wait, no_job_timeout, rotation_interval, max_age, provisioning, max_job_count, overflow_after, enabled, suspended;
and schedules, quotas, priorities and overflow, which can be left out with "=none". min and max are short for the first two.`,
		Example: "  muster pool dry-run linux --set max_runners=20 --set job_wait=30s --last 24h",
	}
	set := c.Flags().StringToString("set", nil, "a setting to try, KEY=VALUE; may be given several times")
	last := c.Flags().String("last", "24h", "the demand of how long: 24h, 7d, or since a date or a time")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		if len(*set) == 0 {
			return usagef("nothing to try; give --set KEY=VALUE")
		}
		since, err := a.since("last", *last)
		if err != nil {
			return err
		}
		resp, err := api.pools.DryRun(cmd.Context(), &v1.DryRunRequest{Pool: args[0], Set: *set, Since: since, Until: timestamppb.New(a.Now())})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printDryRun(w, resp) })
	})
}

func (a *app) printDryRun(w io.Writer, resp *v1.DryRunResponse) error {
	t := a.table(" ", "MEASURED", "BEFORE", "AFTER")
	row := func(name string, value func(*v1.DryRunResult) string, better func(before, after *v1.DryRunResult) int) {
		after := cell{text: value(resp.After)}
		if better != nil {
			after.style = map[int]style{1: green, -1: red}[better(resp.Before, resp.After)]
		}
		t.row(cell{name, dim}, value(resp.Measured), value(resp.Before), after)
	}
	less := func(of func(*v1.DryRunResult) int64) func(before, after *v1.DryRunResult) int {
		return func(before, after *v1.DryRunResult) int {
			switch b, a := of(before), of(after); {
			case a < b:
				return 1
			case a > b:
				return -1
			}
			return 0
		}
	}
	row("jobs served", func(r *v1.DryRunResult) string { return fmt.Sprint(r.GetJobs()) }, nil)
	row("not served", func(r *v1.DryRunResult) string { return fmt.Sprint(r.GetUnserved()) }, less(func(r *v1.DryRunResult) int64 { return int64(r.GetUnserved()) }))
	if resp.Before.GetHandedOver()+resp.After.GetHandedOver() > 0 {
		row("handed over", func(r *v1.DryRunResult) string { return fmt.Sprint(r.GetHandedOver()) }, nil)
	}
	row("wait p50", func(r *v1.DryRunResult) string { return span(r.GetWaitP50()) }, less(func(r *v1.DryRunResult) int64 { return int64(r.GetWaitP50().AsDuration()) }))
	row("wait p95", func(r *v1.DryRunResult) string { return span(r.GetWaitP95()) }, less(func(r *v1.DryRunResult) int64 { return int64(r.GetWaitP95().AsDuration()) }))
	row("longest wait", func(r *v1.DryRunResult) string { return span(r.GetWaitMax()) }, nil)
	row("runners made", func(r *v1.DryRunResult) string { return fmt.Sprint(r.GetRunners()) }, nil)
	row("at most at once", func(r *v1.DryRunResult) string { return fmt.Sprint(r.GetPeak()) }, nil)
	row("without a job", func(r *v1.DryRunResult) string { return fmt.Sprint(r.GetWasted()) }, nil)
	row("runner hours", func(r *v1.DryRunResult) string { return fmt.Sprintf("%.2f", r.GetRunnerTime().AsDuration().Hours()) }, less(func(r *v1.DryRunResult) int64 { return int64(r.GetRunnerTime().AsDuration()) }))
	row("cost", func(r *v1.DryRunResult) string { return money(r.GetCostMicroUsd()) }, less(func(r *v1.DryRunResult) int64 { return r.GetCostMicroUsd() }))
	if err := t.print(w, ""); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nThe simulation assumes:\n  - %s\n", strings.Join(resp.Assumptions, "\n  - "))
	return err
}
