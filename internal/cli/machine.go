package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) machineCommand() *cobra.Command {
	return group("machine", "Kept machines: those that are started and stopped for jobs", a.machineList(), a.machineStart(), a.machineStop())
}

func (a *app) machineList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List kept machines with their state, deadline and last error"}
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.machines.ListMachines(cmd.Context(), &v1.ListMachinesRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("NAME", "ZONE", "PROVIDER", "STATUS", "RUNNER", "QUEUED", "LAST JOB ENDED", "DEADLINE", "POOLS", "REPOSITORIES")
			for _, m := range resp.Machines {
				t.row(m.Name, m.Zone, m.Provider, a.machineStatus(m), occupation(m), m.JobsQueued, a.when(m.LastJobEndedAt), a.when(m.Deadline), strings.Join(m.Pools, ","), strings.Join(m.Repositories, ","))
			}
			if err := t.print(w, "No machines. A pool with lifecycle kept names one; see docs/kept.md."); err != nil {
				return err
			}
			return a.machineNotes(w, resp.Machines)
		})
	})
}

// machineNotes prints what does not fit into a row: why a machine is as it is, what
// happens at its deadline, and what its platform said last.
func (a *app) machineNotes(w io.Writer, all []*v1.Machine) error {
	t := a.table()
	for _, m := range all {
		note := func(what, text string) {
			if text != "" {
				t.row(m.Name, cell{what, dim}, text)
			}
		}
		note("because", m.Reason)
		if m.Deadline != nil {
			note("deadline", fmt.Sprintf("%s: %s", a.when(m.Deadline), m.DeadlineAction))
		}
		if m.StopAskedAt != nil {
			note("stop", "asked for, "+a.when(m.StopAskedAt)+": as soon as it is idle")
		}
		if m.LastError != "" {
			note("error", fmt.Sprintf("%s: %s", a.when(m.LastErrorAt), words(m.LastError)))
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return t.print(w, "")
}

// words is a text of somebody else on one line.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// machineStatus is the platform's word and since when it holds.
func (a *app) machineStatus(m *v1.Machine) cell {
	if m.Status == "" {
		return cell{"not looked at", dim}
	}
	text := m.Status
	if m.Since != nil {
		text += " for " + short(a.Now().Sub(m.Since.AsTime()))
	}
	return cell{text, map[string]style{"RUNNING": green, "TERMINATED": plain, "SUSPENDED": red}[m.Status]}
}

// occupation says whether a job runs on a machine, as far as anybody knows.
func occupation(m *v1.Machine) cell {
	switch {
	case m.JobId != 0:
		return cell{fmt.Sprintf("busy with job %d", m.JobId), cyan}
	case m.Occupation == "missing":
		return cell{"not known to GitHub", yellow}
	case m.Occupation == "unknown":
		return cell{"unknown", yellow}
	}
	return cell{m.Occupation, plain}
}

func (a *app) machineStart() *cobra.Command {
	c := &cobra.Command{Use: "start NAME", Short: "Start a kept machine now", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeMachines,
		Long: "Start a kept machine now. One that is stopping is started as soon as it has stopped. Without jobs it is stopped again after its inactive minutes.",
	}
	zone := c.Flags().String("zone", "", "where the machine is, if several have its name")
	provider := c.Flags().String("provider", "", "who has the machine, if several of its name are in zones of one name")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.machines.StartMachine(cmd.Context(), &v1.StartMachineRequest{Name: args[0], Zone: *zone, Provider: *provider})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.machineAnswer(w, args[0], resp.Status, resp.Operation, resp.Message) })
	})
}

func (a *app) machineStop() *cobra.Command {
	c := &cobra.Command{Use: "stop NAME", Short: "Stop a kept machine, once it is idle", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeMachines,
		Long: "Stop a kept machine if no job runs on it and none waits for it. A busy one is stopped at the first minute at which it is idle.\nThe next job starts it again; to keep it down, disable its pools.",
	}
	zone := c.Flags().String("zone", "", "where the machine is, if several have its name")
	provider := c.Flags().String("provider", "", "who has the machine, if several of its name are in zones of one name")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.machines.StopMachine(cmd.Context(), &v1.StopMachineRequest{Name: args[0], Zone: *zone, Provider: *provider})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.machineAnswer(w, args[0], resp.Status, resp.Operation, resp.Message) })
	})
}

// machineAnswer says what a wish came to.
func (a *app) machineAnswer(w io.Writer, name, status, operation, message string) error {
	line := fmt.Sprintf("machine %s: %s", name, strings.ReplaceAll(status, "_", " "))
	if operation != "" {
		line += " (" + operation + ")"
	}
	if message != "" {
		line += ": " + message
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func (a *app) completeMachines(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, api *client) (names []string, err error) {
		resp, err := api.machines.ListMachines(ctx, &v1.ListMachinesRequest{})
		for _, m := range resp.GetMachines() {
			names = append(names, m.Name+"\t"+m.Zone+" "+m.Status)
		}
		return names, err
	})
}

// printMachine prints the machine of a kept pool.
func (a *app) printMachine(w io.Writer, m *v1.Machine) error {
	where := m.Name
	if m.Zone != "" {
		where += " in " + m.Zone
	}
	deadline := ""
	if m.Deadline != nil {
		deadline = fmt.Sprintf("%s: %s", a.when(m.Deadline), m.DeadlineAction)
	}
	trouble := ""
	if m.LastError != "" {
		trouble = fmt.Sprintf("%s: %s", a.when(m.LastErrorAt), words(m.LastError))
	}
	shared := ""
	if len(m.Pools) > 1 {
		shared = strings.Join(m.Pools, ", ")
	}
	fmt.Fprintln(w)
	return a.facts(w,
		"machine", where,
		"status", a.machineStatus(m),
		"runner", occupation(m),
		"shared by", shared,
		"last job ended", a.when(m.LastJobEndedAt),
		"deadline", deadline,
		"because", m.Reason,
		"last error", cell{trouble, red},
	)
}
