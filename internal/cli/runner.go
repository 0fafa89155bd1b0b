package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) runnerCommand() *cobra.Command {
	return group("runner", "Runners: one registration with GitHub and the machine under it", a.runnerList(), a.runnerShow(), a.runnerLog(), a.runnerDrain())
}

func (a *app) runnerList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List runners, newest first"}
	req := &v1.ListRunnersRequest{}
	c.Flags().StringVar(&req.Pool, "pool", "", "only those of one pool")
	c.Flags().StringSliceVar(&req.States, "state", nil, "only those in these states: provisioning, registered, active, draining, destroyed")
	c.Flags().BoolVar(&req.All, "all", false, "destroyed ones too")
	c.Flags().Int32Var(&req.Limit, "limit", 0, "how many at most (default 200)")
	_ = c.RegisterFlagCompletionFunc("pool", values(a.completePools)) // the flag is there
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.runners.ListRunners(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("ID", "POOL", "STATE", "JOB", "CREATED", "NAME", "REASON")
			for _, r := range resp.Runners {
				t.row(r.Id, r.Pool, runnerState(r), jobRef(r.Job), a.when(r.CreatedAt), r.Name, r.Reason)
			}
			return t.print(w, "No runners. They are made when a job is queued; muster runner list --all shows those that were.")
		})
	})
}

func runnerState(r *v1.Runner) cell {
	c := state(r.Status)
	if r.Busy && r.Status != "active" {
		c.text += ", busy"
	}
	if r.Failed {
		c = cell{c.text + ", failed", red}
	}
	return c
}

func jobRef(j *v1.JobRef) string {
	switch {
	case j == nil:
		return ""
	case j.Attempt > 1:
		return fmt.Sprintf("%d/%d", j.Id, j.Attempt)
	}
	return fmt.Sprint(j.Id)
}

func (a *app) runnerShow() *cobra.Command {
	c := &cobra.Command{Use: "show RUNNER", Short: "Show one runner and its history, by id or name", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRunners}
	check := c.Flags().Bool("check", false, "ask GitHub whether the runner is online; costs one call of its API")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.runners.GetRunner(cmd.Context(), &v1.GetRunnerRequest{Id: args[0], CheckHealth: *check})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			r := resp.Runner
			github := ""
			if r.GithubId != 0 {
				github = fmt.Sprint(r.GithubId)
			}
			health := cell{}
			if resp.Healthy != nil {
				health = map[bool]cell{true: {"online", green}, false: {"not online", red}}[*resp.Healthy]
			}
			err := a.facts(w,
				"id", cell{r.Id, bold}, "name", r.Name, "state", runnerState(r), "reason", r.Reason, "pool", r.Pool, "provider", r.Provider, "instance", r.Instance,
				"offering", offeringOf(r), "GitHub id", github, "on GitHub", health, "job", jobRef(r.Job), "log trace_id", r.TraceId,
				"created", a.when(r.CreatedAt), "heartbeat", a.when(r.HeartbeatAt), "destroyed", a.when(r.DestroyedAt))
			if err != nil {
				return err
			}
			if len(resp.Events) > 0 {
				fmt.Fprintln(w)
				t := a.table("WHEN", "STATE", "NOTE")
				for _, e := range resp.Events {
					t.row(a.when(e.At), state(e.State), e.Note)
				}
				if err := t.print(w, ""); err != nil {
					return err
				}
			}
			if len(resp.Traces) == 0 {
				return nil
			}
			fmt.Fprintln(w)
			t := a.table("TRACE", "JOB", "RECORDED", "EVENTS", "BEGAN")
			for _, r := range resp.Traces {
				t.row(r.Id, traceJob(r), recordedShort(r), r.Events, a.when(r.StartedAt))
			}
			return t.print(w, "")
		})
	})
}

func offeringOf(r *v1.Runner) string {
	out := r.RunnerOfferingId
	if r.Cpu != "" {
		out += ", " + r.Cpu + " vCPU"
	}
	if r.Memory != "" {
		out += ", " + r.Memory
	}
	return out
}

func (a *app) runnerLog() *cobra.Command {
	c := &cobra.Command{Use: "log RUNNER", Short: "Print what the runner itself printed", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRunners}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.runners.GetRunnerLog(cmd.Context(), &v1.GetRunnerLogRequest{Id: args[0]})
		if err != nil {
			return err
		}
		if len(resp.Log) == 0 && !a.json {
			fmt.Fprintln(a.Stderr, "The runner has printed nothing yet.")
		}
		return a.show(resp, func(w io.Writer) error {
			_, err := w.Write(resp.Log)
			return err
		})
	})
}

func (a *app) runnerDrain() *cobra.Command {
	c := &cobra.Command{Use: "drain RUNNER", Short: "Send a runner home: at once if idle, after its job if busy", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRunners}
	reason := c.Flags().String("reason", "", "kept with the runner")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.runners.DrainRunner(cmd.Context(), &v1.DrainRunnerRequest{Id: args[0], Reason: *reason})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			then := "it goes now"
			if r := resp.Runner; r.Busy {
				then = "it goes when job " + jobRef(r.Job) + " has ended"
			}
			_, err := fmt.Fprintf(w, "runner %s: %s\n", resp.Runner.Id, then)
			return err
		})
	})
}
