package cli

import (
	"database/sql"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	_ "modernc.org/sqlite" // GARM's database

	"github.com/muster-ci/muster/internal/migrate"
)

// importCommand writes configurations from those of other control planes.
func (a *app) importCommand() *cobra.Command {
	return group("import", "Write the configuration that another control plane's is equivalent to", a.importGARM(), a.importARC())
}

func (a *app) importGARM() *cobra.Command {
	c := &cobra.Command{
		Use: "garm DATABASE", Short: "From the SQLite database of GARM", Args: cobra.ExactArgs(1),
		Long: `Print the configuration of Muster that is equivalent to GARM's: credentials, pools, scale sets and providers, with a comment
for everything that has no equivalent. Nothing is changed, and secrets are neither read nor printed: the text says where to
put them. GARM's database does not know the paths of its providers; --config names the file that does.`,
		Example: `  muster import garm /etc/garm/garm.db --config /etc/garm/config.toml > muster.yaml`,
	}
	file := c.Flags().String("config", "", "GARM's configuration file, config.toml, for its providers")
	return a.local(c, func(cmd *cobra.Command, args []string) error {
		var providers []migrate.GARMProvider
		if *file != "" {
			text, err := os.ReadFile(*file)
			if err != nil {
				return fmt.Errorf("read GARM's configuration: %w", err)
			}
			if providers, err = migrate.GARMProviders(string(text)); err != nil {
				return err
			}
		}
		path, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("read GARM's database: %w", err)
		}
		db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro"}).String())
		if err != nil {
			return fmt.Errorf("open GARM's database: %w", err)
		}
		defer db.Close()
		g, err := migrate.ReadGARM(cmd.Context(), db)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		_, err = io.WriteString(a.Stdout, g.Configuration(providers))
		return err
	})
}

// maxValues is the most that is read of ARC's values, in bytes.
const maxValues = 16 << 20

func (a *app) importARC() *cobra.Command {
	c := &cobra.Command{
		Use: "arc VALUES", Short: "From the values of Actions Runner Controller's chart", Args: cobra.ExactArgs(1),
		Long: `Print the configuration of Muster that is equivalent to values of the chart gha-runner-scale-set, or to RunnerDeployments,
RunnerSets and HorizontalRunnerAutoscalers of ARC's older version, with a comment for everything that has no equivalent.
VALUES is a file of one or more YAML documents; - is standard input. Secrets in it are not printed: the text says where to
put them.`,
		Example: `  helm get values -n arc-runners linux -o yaml | muster import arc - --release linux > muster.yaml
  kubectl get runnerdeployments,horizontalrunnerautoscalers -A -o yaml | muster import arc -`,
	}
	release := c.Flags().String("release", "", "the name that the chart is installed under, by which a scale set is called unless the values say otherwise")
	return a.local(c, func(_ *cobra.Command, args []string) error {
		from := a.Stdin
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read ARC's values: %w", err)
			}
			defer f.Close()
			from = f
		}
		text, err := io.ReadAll(io.LimitReader(from, maxValues))
		if err != nil {
			return fmt.Errorf("read ARC's values: %w", err)
		}
		out, err := migrate.ARC(text, *release)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		_, err = io.WriteString(a.Stdout, out)
		return err
	})
}
