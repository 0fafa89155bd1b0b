package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-ci/muster/internal/config"
)

// configFlag adds --config and returns its value after parsing.
func (a *app) configFlag(c *cobra.Command) func() string {
	path := c.Flags().StringP("config", "c", "", "configuration file (default $MUSTER_CONFIG or muster.yaml)")
	return func() string {
		for _, p := range []string{*path, a.Getenv("MUSTER_CONFIG")} {
			if p != "" {
				return p
			}
		}
		return standardFile
	}
}

// standardFile is the configuration where none is named.
const standardFile = "muster.yaml"

// load reads the configuration file; where none is named and none is there, the
// environment of the runner manager, if that is set (docs/kept.md).
func (a *app) load(path string) (config.Config, error) {
	if path == standardFile && config.RunnerConfigured(a.Getenv) {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return config.LoadRunnerConfig(a.Getenv)
		}
	}
	return config.Load(path, a.Getenv)
}

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{Use: "serve", Short: "Run the control plane",
		Long: "Run the control plane. Without a configuration file, and with RUNNER_CONFIG in the environment, it is the runner manager: see docs/kept.md."}
	path := a.configFlag(c)
	role := c.Flags().String("role", "", "run one role of the file only: app or slurm-gateway (default: every role that it configures)")
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.load(path())
		if err == nil {
			cfg, err = cfg.As(*role)
		}
		if err != nil {
			return err
		}
		return a.programs.Serve(cmd.Context(), cfg)
	})
}

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check", Short: "Report everything that is wrong with the configuration",
		Long: "Report everything that is wrong with the configuration, each with its line and what to do about it. Exit status 2 if there is anything.",
	}
	path := a.configFlag(check)
	return group("config", "The configuration file", a.local(check, func(*cobra.Command, []string) error {
		cfg, err := a.load(path())
		if err != nil {
			return err
		}
		if a.programs.Check != nil {
			if err := a.programs.Check(cfg); err != nil {
				if _, ok := errors.AsType[config.Problems](err); ok {
					return err
				}
				return usagef("%s: %s", cfg.File, err)
			}
		}
		_, err = fmt.Fprintf(a.Stdout, "%s is fine: %s, %s, %s, %s; listens on %s\n", cfg.File,
			plural(len(cfg.Apps), "App"), plural(len(cfg.Providers), "provider"), plural(len(cfg.Offerings), "offering"), plural(len(cfg.Pools), "pool"), cfg.Listen)
		return err
	}))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "s") {
		noun += "e" // processes
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (a *app) initCommand() *cobra.Command {
	c := &cobra.Command{Use: "init", Short: "Write a configuration with a word about every setting"}
	output := c.Flags().StringP("output", "o", "muster.yaml", "file to write")
	force := c.Flags().Bool("force", false, "overwrite the file")
	return a.local(c, func(*cobra.Command, []string) error {
		if err := writeNew(*output, []byte(config.Example), 0o644, *force); err != nil {
			return err
		}
		_, err := fmt.Fprintf(a.Stdout, `%s is written. Next:
  1. Fill in the App's id, its private_key_file and webhook_secret_file (chmod 600 both).
  2. Name your organization in pools, and what runs-on says in labels.
  3. muster config check --config %[1]s
  4. muster serve --config %[1]s
`, *output)
		return err
	})
}

// writeNew writes a file that must not be there, unless forced.
func writeNew(path string, data []byte, mode os.FileMode, force bool) error {
	how := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if force {
		how = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	}
	f, err := os.OpenFile(path, how, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already and is left as it is; --force overwrites it", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// DemoOptions are the flags of `muster demo`.
type DemoOptions struct {
	// Listen is host:port of the control plane and its dashboard.
	Listen string
	// DataDir keeps everything that the demo writes; empty: a temporary directory
	// that is removed at the end.
	DataDir string
	// Provider is the kind of provider that the runners run on.
	Provider string
	// ProviderConfig is a file with settings of the provider, laid over the demo's own.
	ProviderConfig string
	// WriteImage is a file that gets the runners' container image, instead of a demo.
	WriteImage string
	// Runners is the most runners at once.
	Runners int
	// Hostile lets the simulated GitHub lose, repeat, delay and refuse.
	Hostile bool
	// Seed makes the simulated GitHub's choices repeatable.
	Seed uint64
	// Exit ends the demo when all jobs have completed; otherwise the dashboard stays
	// up until the demo is interrupted.
	Exit bool
	// Live repaints a line of progress, as a terminal can.
	Live bool
	// Version is the program's own.
	Version string
}

func (a *app) demoCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "demo", Short: "Run the main job here, end to end: simulated GitHub, control plane, 40 jobs, dashboard",
		Long: `Run a simulated GitHub with an organization of three repositories, a control plane
as that organization's App, and runners on this machine; let 40 jobs of real workflow
files flow; print what each workflow took and cost, and whether the promise held.

On a terminal the dashboard then stays up until interrupted; without one, or with
DEMO=once in the environment or --once, the demo ends by itself. The exit status is 0
only if no job was lost, no runner leaked and no busy runner killed. Nothing outside
this machine is touched.

With --provider runners are machines of a platform that you have, and everything that
is made there is removed at the end:

* container: the Docker or Podman of this machine; the runners' image is made of this
  machine's shell and tools.
* qemu: virtual machines of this host.
* slurm: the cluster that sbatch submits to, as you. Nodes have to see the programs and
  --data-dir, and to reach --listen.
* kubernetes: the cluster of KUBECONFIG. Pods have to reach --listen, and nodes need
  the image that --write-image writes.

With --listen on an address that others reach, dashboard and API ask for a token that
the demo prints, and everything crosses that network in clear.`,
		Example: `  muster demo --provider container
  muster demo --write-image runners.tar && kind load image-archive runners.tar
  muster demo --provider kubernetes --listen 192.0.2.7:8080`,
	}
	opts := DemoOptions{Version: a.Version, Live: a.IsTerminal}
	c.Flags().StringVar(&opts.Listen, "listen", "127.0.0.1:8080", "address of the control plane and its dashboard")
	c.Flags().StringVar(&opts.DataDir, "data-dir", "", "keep what the demo writes in this directory (default: a temporary one)")
	c.Flags().StringVar(&opts.Provider, "provider", "process", "kind of provider that the runners run on; it has to be present on this machine")
	c.Flags().StringVar(&opts.ProviderConfig, "provider-config", "", "YAML file with settings of the provider, laid over the demo's own; paths in it are absolute")
	c.Flags().StringVar(&opts.WriteImage, "write-image", "", "write the runners' container image to this file, as docker save does, and end")
	c.Flags().IntVar(&opts.Runners, "runners", 8, "runners at once at most")
	c.Flags().BoolVar(&opts.Hostile, "hostile", false, "let the simulated GitHub lose, repeat, delay and refuse")
	c.Flags().Uint64Var(&opts.Seed, "seed", 1, "make the simulated GitHub's choices repeatable")
	c.Flags().BoolVar(&opts.Exit, "once", false, "end when all jobs have completed")
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		switch {
		case opts.Runners < 1:
			return usagef("--runners must be at least 1")
		case !config.Loopback(opts.Listen) && !namesAddress(opts.Listen):
			return usagef("--listen %s: name one address of this machine, by which others reach it", opts.Listen)
		case strings.HasSuffix(opts.Listen, ":0"):
			return usagef("--listen %s: name a port, because the simulated GitHub has to know where webhooks go", opts.Listen)
		}
		opts.Exit = opts.Exit || !a.IsTerminal || a.Getenv("DEMO") == "once"
		err := a.programs.Demo(cmd.Context(), opts, a.Stdout)
		if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
			return nil
		}
		return err
	})
}

// namesAddress reports whether host:port is one address, and not every interface.
func namesAddress(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && !ip.IsUnspecified()
}
