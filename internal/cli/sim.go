package cli

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/config"
)

// simOptions are the flags of `muster sim`.
type simOptions struct {
	listen, management string
	seed               uint64
	faults             []string
	hostile            bool
	verbose            bool
	demo               string
	dir                string
	webhook            string
	force              bool
}

func (a *app) simCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "sim", Short: "Run a simulated GitHub",
		Long: `Run a simulated GitHub: its REST API, webhooks, and a service that hands jobs to runners
which really execute them. A second address manages it: faults, people's actions, the books.

With --demo it has an organization with a repository, a workflow and an App, and writes a
directory with a configuration, so that two commands are a whole installation:

  muster sim --demo octo
  muster serve --config muster-sim/muster.yaml`,
		Example: "  muster sim --hostile --seed 7\n  muster sim --fault drop_deliveries=0.1 --fault reorder_window=2s",
	}
	var o simOptions
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:9180", "address of the simulated GitHub")
	c.Flags().StringVar(&o.management, "management", "127.0.0.1:9181", "address of its management, on loopback; empty for none")
	c.Flags().Uint64Var(&o.seed, "seed", 1, "make its choices repeatable")
	c.Flags().StringArrayVar(&o.faults, "fault", nil, "switch a fault on: NAME=VALUE, as GET /faults of the management names them; may be repeated")
	c.Flags().BoolVar(&o.hostile, "hostile", false, "switch on everything that production is known for")
	c.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "log every change")
	c.Flags().StringVar(&o.demo, "demo", "", "create an organization of this name with a repository, a workflow and an App")
	c.Flags().StringVar(&o.dir, "dir", "muster-sim", "where --demo writes its configuration")
	c.Flags().StringVar(&o.webhook, "webhook", "http://127.0.0.1:8080/github/webhook/main", "where the App of --demo sends its webhooks")
	c.Flags().BoolVar(&o.force, "force", false, "let --demo write into a directory that it did not make")
	a.local(c, func(cmd *cobra.Command, _ []string) error { return a.sim(cmd.Context(), o) })

	// What run.sh of the directory that --demo writes starts, by the name of simRunner.
	run := &cobra.Command{Use: "runner", Hidden: true, Short: "The runner program of the simulated GitHub", DisableFlagParsing: true, Args: cobra.ArbitraryArgs}
	c.AddCommand(a.local(run, func(cmd *cobra.Command, args []string) error {
		env := os.Environ()
		if code := runner.Main(cmd.Context(), runner.Program{Args: args, Env: env, Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr}); code != 0 {
			return errReported
		}
		return nil
	}))
	return c
}

// faultSettings reads --hostile and --fault.
func faultSettings(hostile bool, faults []string) (githubsim.FaultSettings, error) {
	var f githubsim.FaultSettings
	if hostile {
		f = githubsim.Hostile()
	}
	for _, fault := range faults {
		name, value, ok := strings.Cut(fault, "=")
		if !ok {
			return f, usagef("--fault %q is not NAME=VALUE", fault)
		}
		text := []byte(value)
		if !json.Valid(text) { // a duration or a route
			text, _ = json.Marshal(value) // a string always encodes
		}
		d := json.NewDecoder(bytes.NewReader(fmt.Appendf(nil, "{%q: %s}", name, text)))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			all, _ := json.Marshal(githubsim.FaultSettings{}) // plain numbers and texts
			var names []string
			for _, m := range faultName.FindAllSubmatch(all, -1) {
				names = append(names, string(m[1]))
			}
			return f, usagef("--fault %q: there is no such fault, or its value is of another kind; faults are %s", fault, strings.Join(names, ", "))
		}
	}
	return f, nil
}

var faultName = regexp.MustCompile(`"(\w+)":`)

func (a *app) sim(ctx context.Context, o simOptions) (err error) {
	faults, err := faultSettings(o.hostile, o.faults)
	if err != nil {
		return err
	}
	if o.management != "" && !config.Loopback(o.management) {
		return usagef("--management %s: it asks for no password and stays on 127.0.0.1", o.management)
	}
	cfg := githubsim.Config{Seed: o.seed}
	if o.verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(a.Stderr, nil))
	}
	s := githubsim.New(cfg)
	defer func() { err = errors.Join(err, s.Close()) }()
	url, err := s.Start(ctx, o.listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Stdout, "simulated GitHub: %s\n", url)
	if o.management != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.management)
		if err != nil {
			return err
		}
		// Anyone on this machine may manage it; a web page in its browser may not.
		srv := &http.Server{Handler: http.NewCrossOriginProtection().Handler(s.ManagementHandler()), ReadHeaderTimeout: 10 * time.Second}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		defer func() {
			if e := srv.Close(); e != nil && err == nil {
				err = e
			}
			<-served //nolint:errcheck // it was told to end
		}()
		fmt.Fprintf(a.Stdout, "management:       http://%s\n", l.Addr())
		o.management = l.Addr().String()
	}
	next := ""
	if o.demo != "" {
		if next, err = simDemo(s, url, o); err != nil {
			return err
		}
	}
	// Faults begin when all is set up, and before anybody is told to use it.
	s.Faults().Set(faults)
	fmt.Fprint(a.Stdout, next)
	<-ctx.Done()
	return nil
}

// helloWorkflow is what the repository of --demo holds.
const helloWorkflow = `name: hello
on: [push, workflow_dispatch]
jobs:
  hello:
    runs-on: [self-hosted, muster]
    steps:
      - run: echo "Hello from $RUNNER_NAME"
      - run: sleep 2
`

// simRunner is the name under which this program is the runner of the simulated GitHub. It is
// started as the real one is, "Runner.Listener run", so that the traces of its jobs look as
// traces do, and rules know it for the runner.
const simRunner = "Runner.Listener"

// link makes path a symbolic link to program, in place of one that is there.
func link(program, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(program, path)
}

// simMark opens the configuration that --demo writes, and tells it from others.
const simMark = "# Written by muster sim: a configuration for its simulated GitHub.\n"

// simDemo fills the simulated GitHub and writes a directory to serve it from;
// next tells people how to go on.
func simDemo(s *githubsim.Server, url string, o simOptions) (next string, err error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "muster.yaml")
	if old, err := os.ReadFile(path); err == nil && !bytes.HasPrefix(old, []byte(simMark)) && !o.force {
		return "", fmt.Errorf("%s is not a file of muster sim and is left as it is: name another directory with --dir, or --force", path)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	repo := o.demo + "/hello"
	app, err := s.CreateApp(githubsim.AppOptions{Name: "muster", WebhookURL: o.webhook, WebhookSecret: "muster-sim", Key: oldKey(filepath.Join(dir, "app.pem"))})
	if err != nil {
		return "", err
	}
	if err := s.CreateOrganization(o.demo); err != nil {
		return "", err
	}
	source := filepath.Join(dir, "hello")
	if err := os.MkdirAll(filepath.Join(source, ".github", "workflows"), 0o700); err != nil {
		return "", err
	}
	// The user's own changes to the workflow are kept from run to run.
	workflow := filepath.Join(source, ".github", "workflows", "hello.yml")
	if _, err := os.Stat(workflow); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(workflow, []byte(helloWorkflow), 0o600); err != nil {
			return "", err
		}
	}
	if err := s.CreateRepository(repo, githubsim.RepositoryOptions{Private: true, Files: os.DirFS(source)}); err != nil {
		return "", err
	}
	if _, err := s.Install(app.ID, o.demo); err != nil {
		return "", err
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	listener := filepath.Join(dir, simRunner)
	if err := link(program, listener); err != nil {
		return "", err
	}
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"app.pem":        {app.PEM, 0o600},
		"webhook-secret": {app.WebhookSecret, 0o600},
		"muster.yaml":    {simConfig(app, o.demo, url, filepath.Join(dir, "actions-runner")), 0o644},
	} {
		if err := writeNew(filepath.Join(dir, name), []byte(f.text), f.mode, true); err != nil {
			return "", err
		}
	}
	if err := runner.WriteDir(filepath.Join(dir, "actions-runner"), listener); err != nil {
		return "", err
	}
	next = fmt.Sprintf(`
%s has the workflow hello. Start a control plane for it in another terminal:

  muster serve --config %s
`, repo, path)
	if o.management != "" {
		next += fmt.Sprintf(`
and run the workflow:

  curl http://%s/trigger -d '{"repo": %q, "workflow": ".github/workflows/hello.yml", "event": "workflow_dispatch"}'
`, o.management, repo)
	}
	return next, nil
}

func simConfig(app githubsim.App, org, url, runnerDir string) string {
	return simMark + `apps:
  - name: main
    id: ` + strconv.FormatInt(app.ID, 10) + `
    private_key_file: app.pem
    webhook_secret_file: webhook-secret
    api_url: ` + url + `/api/v3
providers:
  - name: local
    kind: process
    config:
      runner_dir: ` + strconv.Quote(runnerDir) + `
offerings:
  - {name: small, cpus: 1, price_usd_per_minute: "0.008"}
pools:
  - name: demo
    scope: ` + org + `
    labels: [muster]
    provider: local
    offering: small
    scaling: {max_runners: 4}
`
}

// oldKey is the App's key of an earlier run, so that a control plane that still
// runs goes on working; nil if there is none.
func oldKey(path string) *rsa.PrivateKey {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	return key
}
