package cli

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

// moment reads a time: a clock of today, a time before now, a date or a time.
// Absent if s is empty.
func (a *app) moment(flag, s string) (*timestamppb.Timestamp, error) {
	now := a.Now()
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return timestamppb.New(time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())), nil
		}
	}
	return a.since(flag, s)
}

func (a *app) senseCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "report", Short: "Show what each way of hearing of jobs told first, and what it missed",
		Long: `Show, per week and per sense (webhook, redelivery, poll, scale set), how many jobs it told of first and what it missed. The LOSS of
the webhook is the measured rate of lost webhooks.

The unit is the event: that an attempt of a job was queued, started or completed. A sense should have told an event if in this
report it has told anything at all for the job's App (webhook) or pool (poll, scale set). Polls only owe states that lasted
longer than the grace, and no completions; redelivery owes what the webhook missed. An event is LOST to a sense that did not
tell it within the grace of --grace, and REPAIRED when another sense brought it: REPAIR P50 and P95 are how long after the event
the first of the others did. MISSED are the jobs with a lost event. What no sense told is not known and counts nowhere; an
event younger than the grace is not judged yet. Weeks begin on Monday, UTC, and a job belongs to the one in which it was
first heard of.`,
		Example: "  muster sense report --since 30d",
	}
	since := c.Flags().String("since", "7d", "from: 7d, 30d, a date or a time")
	grace := c.Flags().Duration("grace", 5*time.Minute, "how late a sense may tell")
	return group("sense", "Senses: how Muster hears of jobs, and what each way missed", a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		from, err := a.since("since", *since)
		if err != nil {
			return err
		}
		if *grace <= 0 {
			return usagef("--grace must be positive")
		}
		resp, err := api.senses.GetSenseReport(cmd.Context(), &v1.GetSenseReportRequest{Since: from, Grace: durationpb.New(*grace)})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("WEEK OF", "SENSE", "JOBS", "FIRST", "MISSED", "EVENTS", "LOST", "LOSS", "REPAIRED", "REPAIR P50", "P95")
			for _, s := range resp.Weeks {
				loss, p50, p95 := cell{"", plain}, "", ""
				if s.Events > 0 {
					loss = cell{fmt.Sprintf("%.2f %%", 100*s.LossRate), map[bool]style{true: yellow}[s.Lost > 0]}
				}
				if s.Repaired > 0 {
					p50, p95 = span(s.RepairP50), span(s.RepairP95)
				}
				t.row(s.Week.AsTime().Format(time.DateOnly), s.Sense, s.Jobs, s.First, s.Missed, s.Events, s.Lost, loss, s.Repaired, p50, p95)
			}
			return t.print(w, "No job was heard of in that time.")
		})
	}))
}

func (a *app) runCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show RUN", Short: "Show a workflow run: its jobs, the runners that took them, what they cost", Args: cobra.ExactArgs(1),
		Long:    "Show a workflow run: its jobs, the runners that took them, and what they cost. The run is named by its id or by the address of its page\non GitHub. Jobs that no pool wants are not known and not in it.",
		Example: "  muster run show 15800000123\n  muster run show https://github.com/octo/app/actions/runs/15800000123",
	}
	return group("run", "Workflow runs: from a run to its jobs, runners and receipts", a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if strings.Contains(args[0], "://") {
			id, _, err = addressed(args[0])
		}
		if err != nil || id <= 0 {
			return usagef("%q is not a run; give its id or the address of its page on GitHub", args[0])
		}
		resp, err := api.runs.GetRun(cmd.Context(), &v1.GetRunRequest{Id: id})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printRun(w, resp) })
	}))
}

func (a *app) printRun(w io.Writer, resp *v1.GetRunResponse) error {
	r := resp.Run
	took := ""
	if r.CompletedAt != nil && r.CreatedAt != nil {
		took = short(r.CompletedAt.AsTime().Sub(r.CreatedAt.AsTime()))
	}
	err := a.facts(w, "run", cell{strconv.FormatInt(r.Id, 10), bold}, "state", state(cmp.Or(r.Conclusion, r.State)), "repository", r.Repository, "workflow", r.Workflow,
		"branch", strings.TrimSpace(r.HeadBranch+" "+r.HeadSha), "trigger", r.Trigger, "attempts", fmt.Sprint(r.Attempts), "created", a.when(r.CreatedAt), "took", took, "cost", money(r.CostMicroUsd))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := a.table("JOB", "NAME", "STATE", "POOL", "WAIT", "RUN", "RUNNER", "MACHINE", "BILLED", "COST", "RECORDED", "LOG TRACE_ID")
	for _, j := range resp.Jobs {
		runner, machine, billed, cost := cmp.Or(j.Job.Runner, j.Job.RunnerName), "", "", ""
		if j.Runner != nil {
			machine = strings.TrimSpace(j.Runner.Provider + " " + j.Runner.Instance)
		}
		if j.Receipt != nil {
			billed, cost = span(j.Receipt.Billed), money(j.Receipt.CostMicroUsd)
		}
		t.row(jobRef(&v1.JobRef{Id: j.Job.Id, Attempt: j.Job.Attempt}), j.Job.Name, jobState(j.Job), j.Job.Pool, a.wait(j.Job), a.ran(j.Job), runner, machine, billed, cost, recordedShort(j.Trace), j.Job.TraceId)
	}
	return t.print(w, "")
}

// recordedShort is the state of a trace and what was found in it.
func recordedShort(t *v1.Trace) cell {
	if t == nil {
		return cell{}
	}
	c := traceState(t)
	if found := severities(t.Findings); found.text != "" {
		c = cell{c.text + ", " + found.text, found.style}
	}
	if t.Refused > 0 {
		c = cell{fmt.Sprintf("%s, %d refused", c.text, t.Refused), red}
	}
	return c
}
