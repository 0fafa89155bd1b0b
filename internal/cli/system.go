package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Show the control plane as a whole"}
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.system.GetOverview(cmd.Context(), &v1.GetOverviewRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			p := resp.Promises
			zero := func(n int32) cell {
				if n == 0 {
					return cell{"0", green}
				}
				return cell{fmt.Sprint(n), red}
			}
			err := a.facts(w, "control plane", cell{a.address() + ", version " + resp.Version, bold}, "started", a.when(resp.StartedAt),
				"jobs", counts(resp.Jobs, "waiting", "queued", "in_progress", "completed"),
				"runners", counts(resp.Runners, "provisioning", "registered", "active", "draining"),
				"counting since", a.when(p.GetSince()), "jobs lost", zero(p.GetJobsLost()), "machines leaked", zero(p.GetMachinesLeaked()), "busy runners killed", zero(p.GetBusyKilled()))
			if err != nil {
				return err
			}
			if len(resp.Problems) > 0 {
				fmt.Fprintf(w, "\n! %s\n", strings.Join(resp.Problems, "\n! "))
			}
			if len(resp.Budgets) == 0 {
				return nil
			}
			fmt.Fprintln(w)
			return a.printBudgets(w, resp.Budgets)
		})
	})
}

// printBudgets is a line per App's account: what is left of GitHub's limit, and
// whether it lasts.
func (a *app) printBudgets(w io.Writer, budgets []*v1.Budget) error {
	t := a.table("APP", "ACCOUNT", "GITHUB CALLS LEFT", "OF", "RENEWED", "A MINUTE", "LASTS", "POLLS")
	for _, b := range budgets {
		if b.Limit == 0 {
			t.row(b.App, b.Account, "no limit named", "", "", fmt.Sprintf("%.1f", b.PerMinute), a.lasts(b), stretch(b))
			continue
		}
		t.row(b.App, b.Account, b.Remaining, b.Limit, a.when(b.ResetAt), fmt.Sprintf("%.1f", b.PerMinute), a.lasts(b), stretch(b))
	}
	return t.print(w, "GitHub has not been asked anything yet.")
}

// lasts says whether what is left of a budget lasts.
func (a *app) lasts(b *v1.Budget) cell {
	switch {
	case b.PausedUntil != nil:
		return cell{"GitHub wants no calls until " + a.clock(b.PausedUntil), red}
	case b.Limit > 0 && b.Remaining == 0:
		return cell{"used up", red}
	case b.Forecast != nil:
		return cell{"until " + a.clock(b.Forecast), yellow}
	}
	return cell{"yes", green}
}

// stretch says how polls are spaced out.
func stretch(b *v1.Budget) cell {
	switch b.PollStretch {
	case 0:
		return cell{"off", yellow}
	case 1:
		return cell{"as usual", plain}
	}
	return cell{fmt.Sprintf("%d times rarer", b.PollStretch), yellow}
}

func (a *app) budgetCommand() *cobra.Command {
	c := &cobra.Command{Use: "budget", Short: "Show what may still be asked of GitHub, and who asks",
		Long: `Show what may still be asked of GitHub, per App and account: what is left of the hourly limit, the pace of the last ten minutes,
whether the rest lasts at it until the limit is renewed, and how polls are spaced out for its sake (5 times rarer under 50 %,
off under 10 %).

Calls stand in three lanes. Critical ones, for which a job or a machine waits, are always made; normal ones (sweeps, operators)
are parked under 2 % of the limit, background ones (polls, redelivery, reports) under 10 %. What is parked is done later.`}
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.system.GetOverview(cmd.Context(), &v1.GetOverviewRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			if err := a.printBudgets(w, resp.Budgets); err != nil || len(resp.Budgets) == 0 {
				return err
			}
			fmt.Fprintln(w)
			t := a.table("APP", "ACCOUNT", "LANE", "CALLS", "UNCHANGED", "PARKED", "WAITING")
			for _, b := range resp.Budgets {
				for _, l := range b.Lanes {
					t.row(b.App, b.Account, l.Lane, l.Calls, l.Unchanged, l.Parked, l.Waiting)
				}
			}
			if err := t.print(w, "No calls were made."); err != nil {
				return err
			}
			for _, b := range resp.Budgets {
				if b.PointsThisMinute > 0 || b.Registrations > 0 {
					fmt.Fprintf(w, "\n%s %s: %d points in the last minute", b.App, b.Account, b.PointsThisMinute)
					if b.RegistrationLimit > 0 {
						fmt.Fprintf(w, ", %d of %d registrations in the last 5 minutes", b.Registrations, b.RegistrationLimit)
					}
					fmt.Fprintln(w)
				}
			}
			return nil
		})
	})
}

// counts lists numbers by state, known states first and in their order.
func counts(n map[string]int32, order ...string) string {
	out := ""
	add := func(state string) {
		if n[state] > 0 {
			if out != "" {
				out += ", "
			}
			out += fmt.Sprintf("%d %s", n[state], state)
		}
	}
	for _, state := range order {
		add(state)
	}
	for _, state := range slices.Sorted(maps.Keys(n)) {
		if !slices.Contains(order, state) {
			add(state)
		}
	}
	if out == "" {
		return "none"
	}
	return out
}

func (a *app) installationCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List installations of the GitHub Apps"}
	return group("installation", "Installations of the GitHub Apps", a.remote(list, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.installations.ListInstallations(cmd.Context(), &v1.ListInstallationsRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("ID", "APP", "ACCOUNT", "TYPE", "STATE", "UPDATED")
			for _, in := range resp.Installations {
				t.row(in.InstallationId, in.App, in.Account, in.GithubAccountType, state(in.State), a.when(in.UpdatedAt))
			}
			return t.print(w, "No installations. Install the App on an organization from its page on GitHub.")
		})
	}))
}
