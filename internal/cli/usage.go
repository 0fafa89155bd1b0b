package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) usageCommand() *cobra.Command {
	return group("usage", "Usage: what jobs cost, where their time went, what was wasted", a.usageSummary(), a.usageReceipts(), a.usageWaste(), a.usageMetrics(), a.usageLatency(), a.usageBudgets())
}

// usageFlags adds the filter's flags; the returned function reads them.
func (a *app) usageFlags(c *cobra.Command, defaultSince string, withLimit bool) func() (*v1.UsageFilter, error) {
	f := &v1.UsageFilter{}
	since := c.Flags().String("since", defaultSince, "from: 24h, 30d, a date or a time; empty for everything")
	until := c.Flags().String("until", "", "to, exclusive")
	c.Flags().StringVar(&f.Pool, "pool", "", "only one pool")
	c.Flags().StringVar(&f.Repository, "repo", "", "only OWNER/NAME")
	if withLimit {
		c.Flags().Int32Var(&f.Limit, "limit", 100, "how many at most")
	}
	_ = c.RegisterFlagCompletionFunc("pool", values(a.completePools)) // the flag is there
	return func() (_ *v1.UsageFilter, err error) {
		if f.Since, err = a.since("since", *since); err != nil {
			return nil, err
		}
		f.Until, err = a.since("until", *until)
		return f, err
	}
}

func (a *app) usageSummary() *cobra.Command {
	c := &cobra.Command{Use: "summary", Short: "Add up jobs and money by workflow, repository, pool or day"}
	by := c.Flags().String("by", "workflow", "workflow, repository, pool or day")
	filter := a.usageFlags(c, "30d", false)
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		f, err := filter()
		if err != nil {
			return err
		}
		resp, err := api.usage.GetSummary(cmd.Context(), &v1.GetSummaryRequest{Filter: f, By: *by})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table(strings.ToUpper(resp.By), "JOBS", "OK", "FAILED", "CANCELLED", "NEVER RAN", "QUEUE P50", "P90", "RUN", "BILLED", "COST", "WASTED", "WASTE")
			total := &v1.UsageRow{Run: &durationpb.Duration{}, Billed: &durationpb.Duration{}}
			var run, billed time.Duration
			for _, r := range resp.Rows {
				key := r.Key
				if key == "" {
					key = "(no job)"
				}
				t.row(key, r.Jobs, r.Succeeded, r.Failed, r.Cancelled, r.NeverRan, span(r.QueueP50), span(r.QueueP90), span(r.Run), span(r.Billed), money(r.CostMicroUsd), r.Wasted, money(r.WasteMicroUsd))
				total.Jobs, total.Succeeded, total.Failed = total.Jobs+r.Jobs, total.Succeeded+r.Succeeded, total.Failed+r.Failed
				total.Cancelled, total.NeverRan, total.Wasted = total.Cancelled+r.Cancelled, total.NeverRan+r.NeverRan, total.Wasted+r.Wasted
				total.CostMicroUsd, total.WasteMicroUsd = total.CostMicroUsd+r.CostMicroUsd, total.WasteMicroUsd+r.WasteMicroUsd
				run, billed = run+r.Run.AsDuration(), billed+r.Billed.AsDuration()
			}
			if len(resp.Rows) > 1 {
				b := func(v any) cell { return cell{fmt.Sprint(v), bold} }
				t.row(b("total"), b(total.Jobs), b(total.Succeeded), b(total.Failed), b(total.Cancelled), b(total.NeverRan), "", "", b(short(run)), b(short(billed)), b(money(total.CostMicroUsd)), b(total.Wasted), b(money(total.WasteMicroUsd)))
			}
			return t.print(w, "Nothing was used in that time.")
		})
	})
}

func (a *app) usageReceipts() *cobra.Command {
	c := &cobra.Command{Use: "receipts", Short: "List what single jobs cost, newest first"}
	filter := a.usageFlags(c, "", true)
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		f, err := filter()
		if err != nil {
			return err
		}
		resp, err := api.usage.ListReceipts(cmd.Context(), &v1.ListReceiptsRequest{Filter: f})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("JOB", "COMPLETED", "RESULT", "REPOSITORY", "WORKFLOW / JOB", "POOL", "QUEUE", "BOOT", "IDLE", "RUN", "BILLED", "COST")
			for _, r := range resp.Receipts {
				t.row(jobRef(&v1.JobRef{Id: r.JobId, Attempt: r.Attempt}), a.when(r.CompletedAt), state(r.Conclusion), r.Repository, r.Workflow+" / "+r.JobName, r.Pool,
					span(r.Queue), span(r.Boot), span(r.Idle), span(r.Run), span(r.Billed), money(r.CostMicroUsd))
			}
			return t.print(w, "No receipts. One is written when a job has completed.")
		})
	})
}

func (a *app) usageWaste() *cobra.Command {
	c := &cobra.Command{Use: "waste", Short: "List runners that cost something and never ran a job, newest first"}
	filter := a.usageFlags(c, "", true)
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		f, err := filter()
		if err != nil {
			return err
		}
		resp, err := api.usage.ListWaste(cmd.Context(), &v1.ListWasteRequest{Filter: f})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("RUNNER", "WHEN", "POOL", "LIVED", "COST", "REASON")
			for _, r := range resp.Wastes {
				t.row(r.Runner, a.when(r.At), r.Pool, span(r.Lived), money(r.CostMicroUsd), r.Reason)
			}
			return t.print(w, "Nothing was wasted.")
		})
	})
}

func (a *app) usageMetrics() *cobra.Command {
	c := &cobra.Command{Use: "metrics", Short: "Show waiting, booting and running times and failure rates by pool"}
	filter := a.usageFlags(c, "30d", false)
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		f, err := filter()
		if err != nil {
			return err
		}
		resp, err := api.usage.GetRunnerMetrics(cmd.Context(), &v1.GetRunnerMetricsRequest{Filter: f})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("POOL", "JOBS", "FAILED", "FAILURE RATE", "QUEUE P50", "P90", "BOOT P50", "P90", "RUN P50", "P90")
			line := func(name string, m *v1.RunnerMetrics) {
				t.row(name, m.Jobs, m.Failed, fmt.Sprintf("%.1f %%", 100*m.FailureRate), span(m.Queue.GetP50()), span(m.Queue.GetP90()), span(m.Boot.GetP50()), span(m.Boot.GetP90()), span(m.Run.GetP50()), span(m.Run.GetP90()))
			}
			for _, m := range resp.Pools {
				line(m.Pool, m)
			}
			if len(resp.Pools) > 1 {
				line("all", resp.Total)
			}
			return t.print(w, "No job has completed in that time.")
		})
	})
}

func (a *app) usageLatency() *cobra.Command {
	c := &cobra.Command{Use: "latency", Short: "Show how long jobs wait and run, which jobs fail, and why runners were wasted",
		Long: `Show how long jobs wait and run, which jobs fail, and why runners were wasted.

Populations are kept apart: jobs that completed without ever running have no waiting and no running time and are counted
as NEVER RAN only; cancelled jobs ran, and count for neither success nor failure; how runners boot is known of Muster's own
only. The wait for an approval or for a concurrency limit on GitHub is in no waiting time. Percentiles are by nearest rank:
each is a time that occurred. RETRIED are failures that a later attempt of the same run turned into a success.`,
		Example: "  muster usage latency --by workflow --since 30d\n  muster usage latency --by job --repo octo/app"}
	by := c.Flags().String("by", "workflow", "repository, workflow, job or pool")
	filter := a.usageFlags(c, "7d", false)
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		f, err := filter()
		if err != nil {
			return err
		}
		resp, err := api.usage.GetLatency(cmd.Context(), &v1.GetLatencyRequest{Filter: f, By: *by})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printLatency(w, resp) })
	})
}

func (a *app) printLatency(w io.Writer, resp *v1.GetLatencyResponse) error {
	t := a.table(strings.ToUpper(resp.By), "JOBS", "OK", "FAILED", "RATE", "CANCELLED", "NEVER RAN", "QUEUE P50", "P90", "MAX", "BOOT P50", "P90", "RUN P50", "P90", "MAX")
	line := func(name cell, r *v1.LatencyRow) {
		spread := func(s *v1.Spread, d *durationpb.Duration) string {
			if s.GetCount() == 0 {
				return ""
			}
			return span(d)
		}
		t.row(name, r.Jobs, r.Succeeded, r.Failed, rate(r.FailureRate), r.Cancelled, r.NeverRan, spread(r.Queue, r.Queue.GetP50()), spread(r.Queue, r.Queue.GetP90()), spread(r.Queue, r.Queue.GetMax()),
			spread(r.Boot, r.Boot.GetP50()), spread(r.Boot, r.Boot.GetP90()), spread(r.Run, r.Run.GetP50()), spread(r.Run, r.Run.GetP90()), spread(r.Run, r.Run.GetMax()))
	}
	for _, r := range resp.Rows {
		line(cell{text: r.Key}, r)
	}
	if len(resp.Rows) > 1 {
		line(cell{"all", bold}, resp.Total)
	}
	if err := t.print(w, "No job has completed in that time."); err != nil {
		return err
	}
	if len(resp.Failures) > 0 {
		fmt.Fprintln(w)
		t := a.table("FAILED JOB", "FAILED", "OF", "RATE", "RETRIED", "AS", "RUN TIME LOST", "COST", "LAST", "JOB")
		for _, f := range resp.Failures {
			t.row(f.Repository+" / "+f.Workflow+" / "+f.Job, f.Failed, f.Runs, rate(float64(f.Failed)/float64(max(1, f.Runs))), f.Retried, counts(f.Conclusions, "failure", "timed_out"),
				span(f.Lost), money(f.CostMicroUsd), a.when(f.LastAt), jobRef(&v1.JobRef{Id: f.LastJobId, Attempt: f.LastAttempt}))
		}
		if err := t.print(w, ""); err != nil {
			return err
		}
	}
	if len(resp.Waste) > 0 {
		fmt.Fprintln(w)
		t := a.table("RUNNERS WITHOUT A JOB", "RUNNERS", "COST")
		for _, r := range resp.Waste {
			t.row(r.Reason, r.Runners, money(r.CostMicroUsd))
		}
		return t.print(w, "")
	}
	return nil
}

// rate is a share as a percentage.
func rate(r float64) string { return fmt.Sprintf("%.1f %%", 100*r) }

func (a *app) usageBudgets() *cobra.Command {
	c := &cobra.Command{Use: "budgets", Short: "Show what projects have spent of what they may this month",
		Long: `Show what projects have spent of what they may in the present month (UTC): receipts of jobs and the cost of runners that
never ran one. A project is warned, then lowered (no floor is kept and its jobs let others go first), then stopped (nothing
new is made), at the shares of the budget that the configuration names under budgets:.`}
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.usage.ListCostBudgets(cmd.Context(), &v1.ListCostBudgetsRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("PROJECT", "STATE", "SPENT", "OF", "USED", "WARNED AT", "LOWERED AT", "STOPPED AT", "POOLS")
			percent := func(n int32) string {
				if n == 0 {
					return ""
				}
				return fmt.Sprintf("%d %%", n)
			}
			for _, b := range resp.Budgets {
				used := ""
				if b.MonthMicroUsd > 0 {
					used = rate(float64(b.SpentMicroUsd) / float64(b.MonthMicroUsd))
				}
				t.row(b.Project, cell{b.State, map[string]style{"fine": green, "warned": yellow, "lowered": yellow, "stopped": red}[b.State]}, money(b.SpentMicroUsd), money(b.MonthMicroUsd), used,
					percent(b.WarnPercent), percent(b.LowerPercent), percent(b.StopPercent), strings.Join(b.Pools, ", "))
			}
			return t.print(w, "No budgets. They are configured under budgets: in muster.yaml.")
		})
	})
}
