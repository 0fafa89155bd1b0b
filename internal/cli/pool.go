package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) poolCommand() *cobra.Command {
	return group("pool", "Pools: which jobs are served, on what, within which limits",
		a.poolList(), a.poolShow(), a.poolDecisions(), a.poolReplay(), a.poolDryRun(), a.poolScale(), a.poolEnable(true), a.poolEnable(false), a.poolSuspend(true), a.poolSuspend(false))
}

func (a *app) poolList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List pools with their queue and runners"}
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.pools.ListPools(cmd.Context(), &v1.ListPoolsRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("NAME", "STATE", "SCOPE", "LABELS", "QUEUED", "RUNNING", "IDLE", "STARTING", "LIMITS", "LAST DECISION")
			for _, p := range resp.Pools {
				s := p.Status
				queued := fmt.Sprint(s.GetJobsQueued())
				if s.GetOldestQueuedAt() != nil {
					queued += " (" + short(a.Now().Sub(s.OldestQueuedAt.AsTime())) + ")"
				}
				t.row(p.Name, enabled(p), p.Scope, strings.Join(p.Labels, ","), queued, s.GetJobsInProgress(), s.GetRunnersIdle(), s.GetRunnersStarting(),
					limits(p), a.decisionLine(s.GetLastDecision()))
			}
			return t.print(w, "No pools. They are configured under pools: in muster.yaml.")
		})
	})
}

// limits are how many runners a pool may have, or the machine that it keeps.
func limits(p *v1.Pool) string {
	if m := p.Status.GetMachine(); m != nil {
		return strings.TrimSpace(m.Name + " " + m.Status)
	}
	return fmt.Sprintf("%d–%d", p.Scaling.GetMinRunners(), p.Scaling.GetMaxRunners())
}

func enabled(p *v1.Pool) cell {
	switch {
	case !p.Enabled:
		return state("disabled")
	case p.Suspended:
		return state("suspended")
	}
	return state("enabled")
}

// decisionLine is a decision in a few words.
func (a *app) decisionLine(d *v1.Decision) string {
	if d == nil {
		return ""
	}
	at := d.At
	if d.LastAt != nil {
		at = d.LastAt
	}
	return fmt.Sprintf("%s %s: %s", a.when(at), d.Action, d.Reason)
}

func (a *app) poolShow() *cobra.Command {
	c := &cobra.Command{Use: "show POOL", Short: "Show one pool", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.pools.GetPool(cmd.Context(), &v1.GetPoolRequest{Name: args[0]})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printPool(w, resp.Pool, resp.Offering) })
	})
}

func (a *app) printPool(w io.Writer, p *v1.Pool, o *v1.RunnerOffering) error {
	s := p.Status
	size := p.Offering
	if o != nil {
		size = fmt.Sprintf("%s (%s)", o.Name, offering(o))
	}
	facts := slices.Concat([]any{
		"name", cell{p.Name, bold},
		"state", enabled(p),
		"scope", p.Scope,
		"labels", strings.Join(p.Labels, ", "),
		"runner labels", strings.Join(p.RunnerLabels, ", "),
		"repositories", strings.Join(p.Repositories, ", "),
		"app", p.App,
		"provider", p.Provider,
		"offering", size,
		"lifecycle", fmt.Sprintf("%s, registered by %s", p.Lifecycle, registrar(p)),
	}, sizeFacts(p), []any{
		"traces", recording(p.Trace),
		"egress", reachable(p.Egress),
		"jobs", fmt.Sprintf("%d queued, %d in progress", s.GetJobsQueued(), s.GetJobsInProgress()),
		"oldest queued", a.when(s.GetOldestQueuedAt()),
	})
	if s.GetMachine() == nil {
		facts = append(facts, "runners now", fmt.Sprintf("%d starting, %d idle, %d busy, %d draining", s.GetRunnersStarting(), s.GetRunnersIdle(), s.GetRunnersBusy(), s.GetRunnersDraining()))
	}
	err := a.facts(w, append(facts, "last decision", a.decisionLine(s.GetLastDecision()))...)
	if err != nil {
		return err
	}
	if m := s.GetMachine(); m != nil {
		if err := a.printMachine(w, m); err != nil {
			return err
		}
	}
	return a.notes(w, s.GetNotes())
}

// recording says what is recorded of a pool's jobs.
func recording(t *v1.PoolTrace) string {
	switch {
	case t.GetOff():
		return "off"
	case t == nil:
		return "recorded"
	}
	var bounds []string
	if t.MaxEvents > 0 {
		bounds = append(bounds, plural(int(t.MaxEvents), "event"))
	}
	if t.MaxBytes > 0 {
		bounds = append(bounds, size(t.MaxBytes))
	}
	return strings.TrimSuffix("recorded, at most "+strings.Join(bounds, " and "), ", at most ")
}

// reachable says what a pool's jobs may reach.
func reachable(e *v1.Egress) string {
	if e.GetMode() == "" {
		return "everything, without a policy"
	}
	text := fmt.Sprintf("%s: allows %s", e.Mode, plural(len(e.Allow), "destination"))
	if e.NoGithub {
		return text + ", without GitHub's own"
	}
	return text + ", and what GitHub needs"
}

// registrar says how a pool's runners get to GitHub.
func registrar(p *v1.Pool) string {
	if p.Registration == "preregistered" {
		return "hand"
	}
	return p.Registration
}

// sizeFacts are the rules of a pool's size. A kept pool has a machine instead.
func sizeFacts(p *v1.Pool) []any {
	if p.Status.GetMachine() != nil {
		return []any{"times", fmt.Sprintf("stopped %dm after its last job, rotation %s, maximum age %s", cmp.Or(p.InactiveMinutes, 3), span(p.RotationInterval), span(p.MaxAge))}
	}
	sc := p.Scaling
	scaling := fmt.Sprintf("%d jobs per runner, up above %d, down above %d, cooldown %s", sc.GetJobsPerRunner(), sc.GetScaleUpThreshold(), sc.GetScaleDownThreshold(), span(sc.GetCooldown()))
	if sc.GetScaleDownCooldown() != nil {
		scaling += fmt.Sprintf(", %s before going down", span(sc.ScaleDownCooldown))
	}
	if sc.GetMinRunTime() != nil {
		scaling += ", a runner lives at least " + span(sc.MinRunTime)
	}
	return []any{
		"runners", fmt.Sprintf("%d to %d, %d provisioning at once", sc.GetMinRunners(), sc.GetMaxRunners(), p.Provisioning),
		"scaling", scaling,
		"times", fmt.Sprintf("no job %s, rotation %s, maximum age %s", span(p.NoJobTimeout), span(p.RotationInterval), span(p.MaxAge)),
	}
}

// notes prints a pool's rules beyond its limits.
func (a *app) notes(w io.Writer, notes []*v1.Note) error {
	if len(notes) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := a.table()
	for _, n := range notes {
		t.row(cell{strings.ReplaceAll(n.Topic, "_", " "), dim}, n.Text)
	}
	return t.print(w, "")
}

func offering(o *v1.RunnerOffering) string {
	var parts []string
	add := func(ok bool, format string, args ...any) {
		if ok {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(o.Cpu != "", "%s vCPU", o.Cpu)
	add(o.Memory != "", "%s", o.Memory)
	add(o.Gpus > 0, "%d GPU", o.Gpus)
	add(o.Spot, "spot")
	add(o.ImageRepository != "", "%s", o.ImageRepository)
	add(true, "%s a minute", money(o.PriceMicroUsdPerMinute))
	return strings.Join(parts, ", ")
}

func (a *app) poolDecisions() *cobra.Command {
	c := &cobra.Command{Use: "decisions POOL", Short: "Show what was decided about a pool's size, and why", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools}
	limit := c.Flags().Int32("limit", 20, "how many, newest first")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.pools.ListDecisions(cmd.Context(), &v1.ListDecisionsRequest{Pool: args[0], Limit: *limit})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("WHEN", "TIMES", "ACTION", "RUNNERS", "QUEUED", "RULE", "REASON")
			for _, d := range resp.Decisions {
				at := d.At
				if d.LastAt != nil {
					at = d.LastAt
				}
				action := cell{d.Action, map[string]style{"scale_up": green, "scale_down": yellow}[d.Action]}
				t.row(a.when(at), max(1, d.Count), action, fmt.Sprintf("%d → %d", d.CurrentRunnerCount, d.TargetRunnerCount), d.Metrics.GetQueuedJobs(), d.Rule, d.Reason)
			}
			return t.print(w, "Nothing was decided yet.")
		})
	})
}

func (a *app) poolScale() *cobra.Command {
	c := &cobra.Command{
		Use: "scale POOL", Short: "Change how many runners a pool may and must have", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools,
		Long:    "Change how many runners a pool may and must have. What is set here holds over the configuration until it is set again.",
		Example: "  muster pool scale linux --max 20\n  muster pool scale linux --min 2",
	}
	least := c.Flags().Int32("min", 0, "runners to keep even without jobs")
	most := c.Flags().Int32("max", 0, "runners at most")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		req := &v1.SetPoolRequest{Name: args[0]}
		if cmd.Flags().Changed("min") {
			req.MinRunners = least
		}
		if cmd.Flags().Changed("max") {
			req.MaxRunners = most
		}
		if req.MinRunners == nil && req.MaxRunners == nil {
			return usagef("nothing to change; give --min or --max")
		}
		return a.setPool(cmd, api, req)
	})
}

func (a *app) poolEnable(on bool) *cobra.Command {
	c := &cobra.Command{Use: "enable POOL", Short: "Let a pool serve jobs again", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools}
	if !on {
		c.Use, c.Short = "disable POOL", "Stop serving new jobs; running jobs finish, idle runners go"
	}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		return a.setPool(cmd, api, &v1.SetPoolRequest{Name: args[0], Enabled: &on})
	})
}

func (a *app) poolSuspend(on bool) *cobra.Command {
	c := &cobra.Command{Use: "suspend POOL", Short: "Make no new runners; queued jobs wait, running jobs finish, idle runners stay", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools,
		Long: "Make no new runners until the pool is resumed. Queued jobs wait and are shown as waiting for it, running jobs finish, and idle runners stay\nand may take jobs; \"muster pool disable\" sends those home too."}
	if !on {
		c.Use, c.Short, c.Long = "resume POOL", "Let a suspended pool make runners again", ""
	}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		return a.setPool(cmd, api, &v1.SetPoolRequest{Name: args[0], Suspended: &on})
	})
}

func (a *app) setPool(cmd *cobra.Command, api *client, req *v1.SetPoolRequest) error {
	resp, err := api.pools.SetPool(cmd.Context(), req)
	if err != nil {
		return err
	}
	return a.show(resp, func(w io.Writer) error {
		p := resp.Pool
		_, err := fmt.Fprintf(w, "pool %s: %s, %d to %d runners\n", p.Name, a.paint(enabled(p).style, enabled(p).text), p.Scaling.GetMinRunners(), p.Scaling.GetMaxRunners())
		return err
	})
}
