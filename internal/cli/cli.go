package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/provider"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // the command was understood and failed
	exitUsage = 2 // the command line or the configuration is wrong
)

// Env is what the command line takes from its process.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	// Program is the name that this one was started by.
	Program string
	// IsTerminal says that Stdout is one: colours are used then. Width is how many columns
	// it has; long lines are cut to it, unless it is 0.
	IsTerminal bool
	Width      int
	// Version is what `muster version` prints.
	Version string
	// Now is time.Now if nil. Times are shown in its location.
	Now func() time.Time
}

// OSEnv is the Env of this process.
func OSEnv(version string) Env {
	e := Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Program: os.Args[0], Version: version, Now: time.Now}
	if info, err := os.Stdout.Stat(); err == nil {
		e.IsTerminal = info.Mode()&os.ModeCharDevice != 0
		e.Width = columns(os.Stdout)
	}
	return e
}

// Programs are the commands whose bodies live elsewhere. They return when ctx
// ends or when they cannot go on.
type Programs struct {
	// Serve runs the control plane.
	Serve func(ctx context.Context, cfg config.Config) error
	// Fleet drives a fleets file without a control plane.
	Fleet func(ctx context.Context, run config.FleetRun) error
	// Check reports what is wrong with a configuration beyond what config.Load
	// sees. May be nil.
	Check func(cfg config.Config) error
	// Kinds describes the platforms that the program knows. May be nil.
	Kinds func() []provider.Description
	// Image makes images of virtual machines.
	Image ImagePrograms
	// Demo runs the whole of Muster against a simulated GitHub.
	Demo func(ctx context.Context, opts DemoOptions, stdout io.Writer) error
}

// Main runs one command line, args without the program's name, and returns the
// exit status. When ctx ends, so does the command, in order.
func Main(ctx context.Context, args []string, env Env, p Programs) int {
	if env.Now == nil {
		env.Now = time.Now
	}
	if env.Getenv == nil {
		env.Getenv = func(string) string { return "" }
	}
	a := &app{Env: env, programs: p}
	if filepath.Base(env.Program) == simRunner {
		args = append([]string{"sim", "runner"}, args...)
	}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errReported) {
		return exitError
	}
	if errors.Is(err, errMistake) {
		return exitUsage
	}
	problems, isConfig := errors.AsType[config.Problems](err)
	_, isUsage := errors.AsType[usageError](err)
	switch {
	case isConfig:
		fmt.Fprintln(env.Stderr, problems)
		return exitUsage
	case isUsage || !a.began: // cobra's own complaints come before any command runs
		fmt.Fprintf(env.Stderr, "muster: %s\n", oneLine(err.Error()))
		return exitUsage
	}
	fmt.Fprintf(env.Stderr, "muster: %s\n", a.explain(err))
	if connect.CodeOf(err) == connect.CodeInvalidArgument { // what only the control plane can tell to be a mistake
		return exitUsage
	}
	return exitError
}

// errReported ends a command with status 1 after it said itself what is wrong.
var errReported = errors.New("reported")

// errMistake ends a command with status 2 after it said itself what is wrong in the command line.
var errMistake = errors.New("mistake")

// usageError is a mistake in the command line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// oneLine keeps the first line and cobra's suggestions out of it.
func oneLine(s string) string {
	first, rest, _ := strings.Cut(s, "\n")
	if i := strings.Index(rest, "\t"); i >= 0 { // "Did you mean this?\n\tpool\n"
		name, _, _ := strings.Cut(rest[i+1:], "\n")
		first += fmt.Sprintf("; did you mean %q?", name)
	}
	return first
}

// app is one run of the command line.
type app struct {
	Env
	programs Programs
	// began is set when a command runs: errors before are mistakes in the command line.
	began bool

	// Flags of every command that talks to a control plane.
	server    string
	tokenFile string
	insecure  bool
	json      bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "muster",
		Short: "Runners for GitHub Actions, on demand, on what you own",
		Long: `Muster gathers GitHub Actions runners on demand, watches what each job really does,
and sends them home.

Commands talk to the control plane at --server (MUSTER_SERVER). Start one with
"muster serve", or look around first with "muster demo".`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s; see %s --help", err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run it:"}, &cobra.Group{ID: "look", Title: "Look and steer:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", a.initCommand(), a.configCommand(), a.importCommand(), a.serveCommand(), a.demoCommand(), a.simCommand())
	add("look", a.statusCommand(), a.poolCommand(), a.machineCommand(), a.providerCommand(), a.runnerCommand(), a.jobCommand(), a.runCommand(), a.traceCommand(), a.rulesCommand(), a.deliveryCommand(), a.senseCommand(), a.usageCommand(), a.budgetCommand(), a.installationCommand())
	add("run", a.imageCommand())
	root.AddCommand(a.fleetCommand(), a.versionCommand())
	return root
}

// group is a noun: it has commands and does nothing itself.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
			cmd.SuggestionsMinimumDistance = 2
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				text += fmt.Sprintf("; did you mean %q?", s[0])
			}
			return usageError{text}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(cmds...)
	return c
}

// local makes a command that needs no control plane.
func (a *app) local(c *cobra.Command, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	args := c.Args
	if args == nil {
		args = cobra.NoArgs
	}
	c.Args = func(cmd *cobra.Command, got []string) error {
		if err := args(cmd, got); err != nil {
			return usagef("%s takes other arguments than %q; usage: %s %s", cmd.CommandPath(), strings.Join(got, " "), cmd.Parent().CommandPath(), cmd.Use)
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, got []string) error {
		a.began = true
		return run(cmd, got)
	}
	return c
}

// remote makes a command that calls a control plane.
func (a *app) remote(c *cobra.Command, run func(cmd *cobra.Command, args []string, api *client) error) *cobra.Command {
	a.local(c, func(cmd *cobra.Command, args []string) error {
		api, err := a.dial()
		if err != nil {
			return err
		}
		return run(cmd, args, api)
	})
	a.remoteFlags(c)
	c.Flags().BoolVar(&a.json, "json", false, "print the API's answer as JSON; fields are those of proto/muster/v1 and do not change")
	return c
}

func (a *app) remoteFlags(c *cobra.Command) {
	c.Flags().StringVar(&a.server, "server", "", "address of the control plane (default $MUSTER_SERVER or "+defaultServer+")")
	c.Flags().StringVar(&a.tokenFile, "token-file", "", "file with the operator token (default: the token in $MUSTER_TOKEN)")
	c.Flags().BoolVar(&a.insecure, "insecure", false, "send the operator token without TLS to another machine")
}

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version"}
	asJSON := c.Flags().Bool("json", false, `print {"version": …}`)
	return a.local(c, func(*cobra.Command, []string) error {
		if *asJSON {
			return a.printJSON(map[string]string{"version": a.Version})
		}
		_, err := fmt.Fprintf(a.Stdout, "muster %s\n", a.Version)
		return err
	})
}
