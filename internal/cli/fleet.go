package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/config"
)

// fleetCommand is the command group of the fleet tool: four verbs over a JSON
// file of fleets, which the control plane reads as pools (fleets.file), and a fifth
// that drives them without a control plane.
func (a *app) fleetCommand() *cobra.Command {
	return group("github-runner", "Fleets: pools that are kept in a JSON file of their own",
		a.fleetEnable(), a.fleetDisable(), a.fleetStatus(), a.fleetScale(), a.fleetRun())
}

// fleetFlags adds --pool, --file and the flags of remote commands.
func (a *app) fleetFlags(c *cobra.Command) (pool, file *string) {
	pool = c.Flags().String("pool", "", "name of the fleet's pool")
	file = fleetFile(c)
	a.remoteFlags(c)
	_ = c.MarkFlagRequired("pool") // the flag is there
	return pool, file
}

func fleetFile(c *cobra.Command) *string {
	return c.Flags().String("file", "fleets.json", "the fleets file; fleets.file of muster serve names it, too")
}

func (a *app) fleetEnable() *cobra.Command {
	c := &cobra.Command{
		Use: "enable", Short: "Write a fleet and let it serve jobs",
		Long: `Write a fleet to the file and let it serve jobs. A control plane, or a running
muster github-runner run, that answers at --server is told at once. What is not
given keeps its value; for a new fleet it takes the default.`,
		Example: `  muster github-runner enable --repo myorg/myrepo --pool ci-workers --labels "linux,docker"`,
	}
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
			if e.Labels, err = fleetLabels(*labels); err != nil {
				return err
			}
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
		}{{"repo_owner", e.RepoOwner}, {"repo_name", e.RepoName}, {"labels", e.Labels}, {"min_runners", e.MinRunners}, {"max_runners", e.MaxRunners}, {"enabled", true}} {
			if err := fleets.Set(*pool, kv.key, kv.value); err != nil {
				return err
			}
		}
		if err := errors.Join(fleets.Unset(*pool, config.KeepRunners), fleets.Write(*file)); err != nil {
			return err
		}
		on, off, lo, hi := true, false, int32(e.MinRunners), int32(e.MaxRunners)
		return a.applyFleet(cmd, *file, "enabled", &v1.SetPoolRequest{Name: *pool, Enabled: &on, Suspended: &off, MinRunners: &lo, MaxRunners: &hi})
	})
}

// fleetLabels reads a list of labels. Spaces around the commas are nobody's
// intention; a line end, of which regular expressions like to overlook the last, is
// refused (S1-103).
func fleetLabels(list string) ([]string, error) {
	if i := strings.IndexFunc(list, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		return nil, usagef("--labels: there is a line end or another control character in %q", list)
	}
	labels, err := muster.ParseLabels(list)
	if err != nil {
		return nil, usagef("--labels: %s", muster.MessageOf(err))
	}
	return labels, nil
}

// applyFleet tells whoever drives the fleets what the file says now, and the user
// how far it holds. What would have ended runners and was told to nobody is an
// error: they may go on (4-55).
func (a *app) applyFleet(cmd *cobra.Command, file, state string, req *v1.SetPoolRequest) error {
	done := fmt.Sprintf("fleet %s is %s in %s", req.Name, state, file)
	api, err := a.dial()
	if err != nil {
		return err
	}
	_, err = api.pools.SetPool(cmd.Context(), req)
	switch code := connect.CodeOf(err); {
	case err == nil:
		done += " and where it runs"
	case code == connect.CodeNotFound:
		done += "; what runs at " + a.address() + " has not read it yet: restart muster serve with fleets.file set to it, or muster github-runner run with --file"
	case code == connect.CodeUnavailable && state == "enabled":
		done += "; nothing answers at " + a.address() + ": it holds when muster serve or muster github-runner run starts"
	case code == connect.CodeUnavailable:
		return fmt.Errorf("%s, but nothing answers at %s, so that runners which are there were not told: name the control plane or the run by --server", done, a.address())
	default:
		return fmt.Errorf("%s, and what runs at %s refused: %s", done, a.address(), a.explain(err))
	}
	_, err = fmt.Fprintln(a.Stdout, done)
	return err
}

func (a *app) fleetDisable() *cobra.Command {
	c := &cobra.Command{
		Use: "disable", Short: "Stop a fleet: running jobs finish, its runners are drained and removed",
		Long: `Stop a fleet: no runner is made any more. Idle runners are drained and removed, busy
ones finish their job first. With --keep no runner is removed before its time: those
that wait may still take a job, and each goes when it has finished one.`,
	}
	pool, file := a.fleetFlags(c)
	keep := c.Flags().Bool("keep", false, "make no new runners, and leave those that are there")
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
		on, off := true, false
		req, state := &v1.SetPoolRequest{Name: *pool, Enabled: &off, Suspended: &off}, "disabled"
		if *keep {
			req, state = &v1.SetPoolRequest{Name: *pool, Enabled: &on, Suspended: &on}, "disabled, its runners kept,"
			err = fleets.Set(*pool, config.KeepRunners, true)
		} else {
			err = fleets.Unset(*pool, config.KeepRunners)
		}
		if err := errors.Join(err, fleets.Write(*file)); err != nil {
			return err
		}
		return a.applyFleet(cmd, *file, state, req)
	})
}

func unknownFleet(f *config.Fleets, pool, file string) error {
	if len(f.Names()) == 0 {
		return fmt.Errorf("%s has no fleets: write one with muster github-runner enable", file)
	}
	return fmt.Errorf("there is no fleet %q in %s: it has %v", pool, file, f.Names())
}

func (a *app) fleetScale() *cobra.Command {
	c := &cobra.Command{
		Use: "scale", Short: "Bring a fleet to a number of runners, within its limits",
		Long: `Bring a fleet to a number of runners and keep it there, within its limits; jobs may
take it higher. It holds until the next scale or enable, or until the fleet's entry in
the file changes. Fewer runners are there once those too many are idle and the
cooldown since the last scaling is over.`,
	}
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
		if !e.Enabled {
			return fmt.Errorf("fleet %s is disabled: muster github-runner enable --pool %s lets it have runners", *pool, *pool)
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

func (a *app) fleetRun() *cobra.Command {
	c := &cobra.Command{
		Use: "run", Short: "Drive the fleets of the file here, without a control plane",
		Long: `Drive the fleets of the file here, without a control plane: look at the queue of
their repositories every minute, make runners, and remove them when they have done
their job. GitHub is asked with the token in GITHUB_TOKEN, which is kept nowhere.

The other commands of this group talk to the run as they do to a control plane. The
file is read before every look, so that it may be edited at any time.

Interrupted (Ctrl-C), it removes idle runners and leaves busy ones to finish their job;
with --force it ends these, too. Interrupted again, it ends at once. What is left, also
after a crash, is found again by the next run with the same --data-dir.`,
		Example: `  export GITHUB_TOKEN=…
  muster github-runner enable --repo myorg/myrepo --pool ci-workers --labels "linux,docker"
  muster github-runner run`,
	}
	run := config.FleetRun{}
	file := fleetFile(c)
	f := c.Flags()
	f.StringVar(&run.Kind, "provider", "process", "what runners run on")
	settings := f.String("provider-config", "", "JSON file with the provider's settings")
	runnerDir := f.String("runner-dir", "", "directory with GitHub's runner, for the provider process (default: every runner downloads its own)")
	f.StringVar(&run.DataDir, "data-dir", ".muster-fleet", "where the run keeps its key and its runners")
	f.StringVar(&run.Listen, "listen", "127.0.0.1:8080", "address for runners and for the other commands")
	f.StringVar(&run.URL, "url", "", "how runners reach the run (default: http:// and --listen)")
	f.StringVar(&run.APIURL, "api-url", "", "GitHub, if it is not github.com: https://HOST")
	f.DurationVar(&run.Interval, "interval", defaultFleetInterval, "how often to look at the queue")
	f.BoolVar(&run.Once, "once", false, "look once, and end when the runners that were made have registered")
	f.BoolVar(&run.Force, "force", false, "end busy runners, too, when the run is interrupted: their jobs fail")
	return a.local(c, func(cmd *cobra.Command, _ []string) (err error) {
		run.File = *file
		if run.Token, err = config.GitHubToken(a.Getenv); err != nil {
			return err
		}
		switch {
		case run.Interval <= 0:
			return usagef("--interval must be positive, such as 60s")
		case *runnerDir != "" && run.Kind != "process":
			return usagef("--runner-dir is for the provider process; write the settings of %s to a file and name it by --provider-config", run.Kind)
		}
		if host, _, err := net.SplitHostPort(run.Listen); err != nil {
			return usagef("--listen %q is not an address; write HOST:PORT", run.Listen)
		} else if ip := net.ParseIP(host); run.URL == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
			return usagef("--listen %s is no address that runners can call; say by --url how they reach it", run.Listen)
		}
		if run.Provider, err = fleetProvider(*settings, *runnerDir); err != nil {
			return err
		}
		run.OperatorToken = muster.Secret(a.Getenv("MUSTER_TOKEN"))
		return a.programs.Fleet(cmd.Context(), run)
	})
}

// fleetProvider is the provider's section: the file, and --runner-dir over it.
func fleetProvider(file, runnerDir string) (json.RawMessage, error) {
	section := map[string]json.RawMessage{}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("--provider-config: %s", err)
		}
		if err := json.Unmarshal(text, &section); err != nil {
			return nil, usagef("--provider-config: %s is not a JSON object: %s", file, err)
		}
	}
	if runnerDir != "" {
		dir, err := json.Marshal(runnerDir)
		if err != nil {
			return nil, err
		}
		section["runner_dir"] = dir
	}
	return json.Marshal(section)
}
