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
			t := a.table("APP", "ACCOUNT", "GITHUB CALLS LEFT", "OF", "RENEWED")
			for _, b := range resp.Budgets {
				t.row(b.App, b.Account, b.Remaining, b.Limit, a.when(b.ResetAt))
			}
			return t.print(w, "")
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
