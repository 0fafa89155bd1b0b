package demo

import (
	"context"
	crypto "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-ci/muster/githubsim"
	acme "github.com/muster-ci/muster/githubsim/demo"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/cli"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/server"
)

// ErrPromise is returned when a job was lost, a runner leaked, a busy runner
// killed, or a job ended otherwise than the script expects.
var ErrPromise = errors.New("the promise was broken")

// settleTimeout is how long runners that got no job may take to go home, and what
// was lost without a trace to be found: GitHub may want no calls for a minute.
const settleTimeout = 2 * time.Minute

// Run runs the demo; see cli.DemoOptions. It writes progress and the final table
// to stdout.
func Run(ctx context.Context, opts cli.DemoOptions, stdout io.Writer) (err error) {
	if opts.WriteImage != "" {
		return writeImage(opts.WriteImage, stdout)
	}
	on, err := stageFor(opts.Provider, lookPath)
	if err != nil {
		return err
	}
	dir := opts.DataDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "muster-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	sim := githubsim.New(simulated(opts))
	defer func() { err = errors.Join(err, sim.Close()) }()
	ctx, over := context.WithCancel(ctx)
	defer over()
	set, err := prepare(ctx, sim, on, dir, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo(ctx, set.end)) }()
	cfg, err := config.Load(set.file, os.Getenv)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "muster.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	control, err := server.Open(ctx, cfg, server.Options{Version: opts.Version, LogOutput: log})
	if err != nil {
		return err
	}
	// The control plane outlives the script, and ends with the demo.
	running, stop := context.WithCancel(ctx)
	roles, running := errgroup.WithContext(running)
	roles.Go(func() error { return control.Run(running) })
	broken := play(running, opts, set, sim, control, stdout)
	if broken == nil || errors.Is(broken, ErrPromise) {
		broken = errors.Join(broken, linger(running, opts, stdout))
	}
	stop()
	return errors.Join(broken, roles.Wait())
}

func simulated(opts cli.DemoOptions) githubsim.Config {
	// A runner that a job left stays listed for a moment on GitHub; two seconds of
	// that would only make the demo longer.
	return githubsim.Config{Seed: opts.Seed, RecordLinger: 100 * time.Millisecond}
}

// play waits for the control plane, lets the script run, and reports.
func play(ctx context.Context, opts cli.DemoOptions, set scene, sim *githubsim.Server, control *server.Server, stdout io.Writer) error {
	select {
	case <-control.Ready():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if opts.Hostile {
		sim.Faults().Set(githubsim.Hostile())
	}
	p := newProgress(stdout, opts.Live)
	p.say("dashboard: http://" + control.Addr())
	if set.token != "" {
		p.say("it asks for the operator token " + set.token)
	}
	began := time.Now()
	watch, ended := context.WithCancel(ctx)
	var side errgroup.Group
	side.Go(func() error { return p.follow(watch, sim) })
	err := acme.Script(ctx, sim, p.say)
	if err == nil {
		err = settle(ctx, sim, control)
	}
	ended()
	_ = side.Wait() // follow ends without an error
	if err != nil {
		return err
	}
	return conclude(ctx, stdout, sim, control, time.Since(began))
}

// settle waits until every runner has gone home and every receipt is written, or
// for settleTimeout: what is left then is reported as leaked.
func settle(ctx context.Context, sim *githubsim.Server, control *server.Server) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	changes := control.Store().Subscribe(ctx)
	tick := time.NewTicker(250 * time.Millisecond) // GitHub's side changes without the store
	defer tick.Stop()
	for {
		s, err := take(ctx, sim, control)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if s.settled() {
			return nil
		}
		select {
		case <-changes:
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return nil
			}
			return context.Cause(ctx)
		}
	}
}

// linger keeps the dashboard up until the demo is interrupted.
func linger(ctx context.Context, opts cli.DemoOptions, stdout io.Writer) error {
	if opts.Exit {
		return nil
	}
	fmt.Fprintf(stdout, "\nThe dashboard stays at http://%s. Interrupt (Ctrl-C) to end the demo.\n", opts.Listen)
	fmt.Fprintf(stdout, "What did a job really do? Its page shows it, and so does: MUSTER_SERVER=http://%s muster trace list\n", opts.Listen)
	<-ctx.Done()
	return nil
}

// scene is a demo that is ready to be played.
type scene struct {
	// file is the configuration, and token the operator's, where one is asked for.
	file, token string
	// end removes what was made.
	end func(context.Context) error
}

// prepare fills the simulated GitHub, makes a runner directory and the stage, and
// writes the configuration that a user of this organization would write.
func prepare(ctx context.Context, sim *githubsim.Server, on stage, dir string, opts cli.DemoOptions) (set scene, err error) {
	agent, program, err := programs()
	if err != nil {
		return set, err
	}
	own, err := ownKeys(opts.ProviderConfig)
	if err != nil {
		return set, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return set, err
	}
	host, _, err := net.SplitHostPort(opts.Listen)
	if err != nil {
		return set, fmt.Errorf("--listen %s: %w", opts.Listen, err)
	}
	url, err := sim.Start(ctx, net.JoinHostPort(host, "0"))
	if err != nil {
		return set, fmt.Errorf("start the simulated GitHub: %w", err)
	}
	if err := acme.Setup(sim); err != nil {
		return set, err
	}
	app, err := sim.CreateApp(githubsim.AppOptions{
		Name: "muster-demo", Owner: acme.Organization, WebhookSecret: "only for the demo, and only on this machine",
		WebhookURL: "http://" + opts.Listen + "/github/webhook/demo",
	})
	if err != nil {
		return set, err
	}
	if _, err := sim.Install(app.ID, acme.Organization); err != nil {
		return set, err
	}
	runnerDir := filepath.Join(dir, "actions-runner")
	if err := runner.WriteDir(runnerDir, program); err != nil {
		return set, err
	}
	// Platforms know it by this, and those that several people use have several.
	name := fmt.Sprintf("muster-demo-%06x", rand.Uint32()&0xffffff)
	ready, err := on.make(ctx, props{
		name: name, dir: dir, agent: agent, runner: program, runnerDir: runnerDir, control: opts.Listen, github: strings.TrimPrefix(url, "http://"),
		runners: opts.Runners, own: own, look: lookPath,
	})
	if err != nil {
		return set, fmt.Errorf("set up the demo on %s: %w", opts.Provider, err)
	}
	set.file, set.end = filepath.Join(dir, "muster.yaml"), ready.end
	open := ""
	if !config.Loopback(opts.Listen) {
		// Others reach it: it asks for a token, and speaks in clear to GitHub on this machine only.
		if url, err = here(ctx, sim); err != nil {
			return set, errors.Join(err, undo(ctx, set.end))
		}
		set.token, open = crypto.Text(), "insecure_listen: true           # the demo has no certificate\noperator_token_file: operator\n"
	}
	for name, text := range map[string]string{
		"app.pem":     app.PEM,
		"webhook":     app.WebhookSecret,
		"operator":    set.token,
		"muster.yaml": configuration(opts, name, open, app.ID, url, ready.section, on.pool),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return set, errors.Join(err, undo(ctx, set.end))
		}
	}
	return set, nil
}

// here serves the simulated GitHub on the loopback interface as well, until ctx ends.
func here(ctx context.Context, sim *githubsim.Server) (url string, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("start the simulated GitHub: %w", err)
	}
	srv := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() { _ = srv.Close() }) // nobody listens any more
	go func() { _ = srv.Serve(l) }()                   // ends with srv
	return "http://" + l.Addr().String(), nil
}

// programs finds the agent and the simulator's runner beside this program.
func programs() (agent, runnerProgram string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", err
	}
	for name, path := range map[string]*string{"muster-agent": &agent, "actions-runner": &runnerProgram} {
		*path = filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(*path); err != nil {
			return "", "", fmt.Errorf("%s is missing beside %s: build everything with make build", name, self)
		}
	}
	return agent, runnerProgram, nil
}

func configuration(opts cli.DemoOptions, name, open string, appID int64, api, section, pool string) string {
	if pool != "" {
		pool = "    " + strings.ReplaceAll(strings.TrimSpace(pool), "\n", "\n    ") + "\n"
	}
	return fmt.Sprintf(`# The configuration of the demo: one App, one provider, one pool.
name: %s
data_dir: data
listen: %s
%sapps:
  - name: demo
    id: %d
    private_key_file: app.pem
    webhook_secret_file: webhook
    api_url: %s/api/v3
providers:
  - name: local
    kind: %s
    config:
%s
offerings:
  - name: small
    cpus: 1
    memory_mib: 512
    price_usd_per_minute: "0.008"
price_book:
  rounding: second
pools:
  - name: linux
    scope: %s
    labels: [%s]
    provider: local
    offering: small
    no_job_timeout: 8s            # 2m by default; nobody wants to wait for that here
    scaling: {mode: on_demand, max_runners: %[10]d}
%[11]strack_unmatched: true             # so that the job nobody serves can be explained
times:
  sweep: 10s
  health: 10s
  sweep_grace: 20s
  redelivery_scan: 5s
  poll: 2s
  heartbeat: 2s
`, name, opts.Listen, open, appID, api, opts.Provider, indented(section), acme.Organization, strings.Join(acme.Labels(), ", "), opts.Runners, pool)
}
