package cli

import (
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/config"
)

// fleetCommand is the command group of the fleet tool: the same four verbs over
// a JSON file of fleets, which the control plane reads as pools (fleets.file).
func (a *app) fleetCommand() *cobra.Command {
	return group("github-runner", "Fleets: pools that are kept in a JSON file of their own", a.fleetEnable(), a.fleetDisable(), a.fleetStatus(), a.fleetScale())
}

// fleetFlags adds --pool, --file and the flags of remote commands.
func (a *app) fleetFlags(c *cobra.Command) (pool, file *string) {
	pool = c.Flags().String("pool", "", "name of the fleet's pool")
	file = c.Flags().String("file", "fleets.json", "the file that fleets.file of the configuration names")
	a.remoteFlags(c)
	_ = c.MarkFlagRequired("pool") // the flag is there
	return pool, file
}

func (a *app) fleetEnable() *cobra.Command {
	c := &cobra.Command{Use: "enable", Short: "Write a fleet and let it serve jobs", Example: `  muster github-runner enable --repo myorg/myrepo --pool ci-workers --labels "linux,docker"`}
	pool, file := a.fleetFlags(c)
	repo := c.Flags().String("repo", "", "OWNER/NAME")
	labels := c.Flags().String("labels", "", "labels that trigger the pool, separated by commas")
	least := c.Flags().Int("min-runners", 0, "runners to keep even without jobs")
	most := c.Flags().Int("max-runners", 10, "runners at most")
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		fleets, err := config.ReadFleets(*file)
		if err != nil {
			return err
		}
		e, known, err := fleets.Fleet(*pool)
		if err != nil {
			return err
		}
		if !known && *repo == "" {
			return usagef("--repo OWNER/NAME is needed for a new fleet")
		}
		if !known {
			e.MaxRunners = *most
		}
		if *repo != "" {
			scope, err := muster.ParseScope(*repo)
			if err != nil {
				return usagef("--repo: %s", muster.MessageOf(err))
			}
			if scope.Kind != muster.ScopeRepository {
				return usagef("--repo %q is not a repository; write OWNER/NAME", *repo)
			}
			e.RepoOwner, e.RepoName = scope.Owner, scope.Repo
		}
		if cmd.Flags().Changed("labels") || !known {
			parsed, err := muster.ParseLabels(*labels)
			if err != nil {
				return usagef("--labels: %s", muster.MessageOf(err))
			}
			e.Labels = parsed
		}
		if cmd.Flags().Changed("min-runners") {
			e.MinRunners = *least
		}
		if cmd.Flags().Changed("max-runners") {
			e.MaxRunners = *most
		}
		e.Enabled = true
		p := e.Pool(*pool)
		p.Provider = "any" // which one is the configuration's affair
		if err := p.Validate(); err != nil {
			return usagef("%s", err)
		}
		for _, kv := range []struct {
			key   string
			value any
		}{{"repo_owner", e.RepoOwner}, {"repo_name", e.RepoName}, {"labels", []string(e.Labels)}, {"min_runners", e.MinRunners}, {"max_runners", e.MaxRunners}, {"enabled", true}} {
			if err := fleets.Set(*pool, kv.key, kv.value); err != nil {
				return err
			}
		}
		if err := fleets.Write(*file); err != nil {
			return err
		}
		on, lo, hi := true, int32(e.MinRunners), int32(e.MaxRunners)
		return a.applyFleet(cmd, *pool, *file, &v1.SetPoolRequest{Name: *pool, Enabled: &on, MinRunners: &lo, MaxRunners: &hi})
	})
}

// applyFleet tells a running control plane what the file says now.
func (a *app) applyFleet(cmd *cobra.Command, pool, file string, req *v1.SetPoolRequest) error {
	done := fmt.Sprintf("fleet %s is %s in %s", pool, map[bool]string{true: "enabled", false: "disabled"}[req.GetEnabled()], file)
	api, err := a.dial()
	if err != nil {
		return err
	}
	_, err = api.pools.SetPool(cmd.Context(), req)
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		done += "; the control plane has not read it yet: restart muster serve with fleets.file set to it"
	case connect.CodeUnavailable:
		done += "; no control plane answers at " + a.address() + ": it holds when muster serve starts"
	default:
		if err != nil {
			return fmt.Errorf("%s, and the control plane refused: %w", done, err)
		}
		done += " and in the control plane"
	}
	_, err = fmt.Fprintln(a.Stdout, done)
	return err
}

func (a *app) fleetDisable() *cobra.Command {
	c := &cobra.Command{Use: "disable", Short: "Stop a fleet: running jobs finish, its runners are drained and removed"}
	pool, file := a.fleetFlags(c)
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		fleets, err := config.ReadFleets(*file)
		if err != nil {
			return err
		}
		if _, known, err := fleets.Fleet(*pool); err != nil || !known {
			return errors.Join(err, unknownFleet(fleets, *pool, *file))
		}
		if err := fleets.Set(*pool, "enabled", false); err != nil {
			return err
		}
		if err := fleets.Write(*file); err != nil {
			return err
		}
		off := false
		return a.applyFleet(cmd, *pool, *file, &v1.SetPoolRequest{Name: *pool, Enabled: &off})
	})
}

func unknownFleet(f *config.Fleets, pool, file string) error {
	if len(f.Names()) == 0 {
		return fmt.Errorf("%s has no fleets: write one with muster github-runner enable", file)
	}
	return fmt.Errorf("there is no fleet %q in %s: it has %v", pool, file, f.Names())
}

func (a *app) fleetStatus() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Show a fleet: what is wished and what is there"}
	pool, file := a.fleetFlags(c)
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		fleets, err := config.ReadFleets(*file)
		if err != nil {
			return err
		}
		e, known, err := fleets.Fleet(*pool)
		if err != nil || !known {
			return errors.Join(err, unknownFleet(fleets, *pool, *file))
		}
		wish := state("disabled")
		if e.Enabled {
			wish = state("enabled")
		}
		err = a.facts(a.Stdout, "fleet", cell{*pool, bold}, "wished in", *file, "wish", wish, "repository", e.RepoOwner+"/"+e.RepoName,
			"labels", muster.Labels(e.Labels).String(), "limits", fmt.Sprintf("%d to %d runners", e.MinRunners, e.MaxRunners))
		if err != nil {
			return err
		}
		// What is wished is not what is: without an answer this command fails (4-55).
		api, err := a.dial()
		if err != nil {
			return err
		}
		resp, err := api.pools.GetPool(cmd.Context(), &v1.GetPoolRequest{Name: *pool})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return fmt.Errorf("the control plane has no pool %s: restart muster serve with fleets.file set to %s", *pool, *file)
		}
		if err != nil {
			return err
		}
		runners, err := api.runners.ListRunners(cmd.Context(), &v1.ListRunnersRequest{Pool: *pool})
		if err != nil {
			return err
		}
		s := resp.Pool.Status
		fmt.Fprintln(a.Stdout)
		err = a.facts(a.Stdout, "now", enabled(resp.Pool), "queue", fmt.Sprintf("%d queued, %d in progress", s.GetJobsQueued(), s.GetJobsInProgress()),
			"oldest queued", a.when(s.GetOldestQueuedAt()), "last decision", a.decisionLine(s.GetLastDecision()))
		if err != nil {
			return err
		}
		fmt.Fprintln(a.Stdout)
		t := a.table("RUNNER", "STATE", "JOB", "CREATED", "REASON")
		for _, r := range runners.Runners {
			t.row(r.Id, runnerState(r), jobRef(r.Job), a.when(r.CreatedAt), r.Reason)
		}
		return t.print(a.Stdout, "No runners.")
	})
}

func (a *app) fleetScale() *cobra.Command {
	c := &cobra.Command{Use: "scale", Short: "Bring a fleet to a number of runners, within its limits"}
	pool, file := a.fleetFlags(c)
	count := c.Flags().Int("count", 0, "runners to have")
	_ = c.MarkFlagRequired("count") // the flag is there
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		fleets, err := config.ReadFleets(*file)
		if err != nil {
			return err
		}
		e, known, err := fleets.Fleet(*pool)
		if err != nil || !known {
			return errors.Join(err, unknownFleet(fleets, *pool, *file))
		}
		n := min(max(*count, e.MinRunners), e.MaxRunners)
		if n != *count {
			fmt.Fprintf(a.Stderr, "muster: --count %d is outside the limits of %s, %d to %d: scaling to %d\n", *count, *pool, e.MinRunners, e.MaxRunners, n)
		}
		api, err := a.dial()
		if err != nil {
			return err
		}
		floor := int32(n)
		if _, err := api.pools.SetPool(cmd.Context(), &v1.SetPoolRequest{Name: *pool, MinRunners: &floor}); err != nil {
			return err
		}
		_, err = io.WriteString(a.Stdout, fmt.Sprintf("fleet %s is brought to %d runners and kept there; jobs may take it to %d\n", *pool, n, e.MaxRunners))
		return err
	})
}
