package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/server"
)

// Labels are what the stand's one pool serves.
var Labels = []string{"self-hosted", "linux"}

// Repo is the stand's repository.
const Repo = "acme/web"

// Options change a stand. Zero values take the defaults.
type Options struct {
	Sim githubsim.Config
	// MaxRunners is the pool's limit; 12 by default.
	MaxRunners int
	// Host is where GitHub and the control plane listen, for machines that do not see
	// this one's loopback interface; 127.0.0.1 by default.
	Host string
	// Machines is the provider's limit; MaxRunners by default.
	Machines int
	// Provider, if set, writes the kind and config of the stand's one provider, named
	// local, as lines of YAML: "kind: container\nconfig:\n  image: …\n". By default it
	// is the process provider.
	Provider func(s *Stand) string
	// AppSettings are further settings of the App, as "key: value, key: value".
	AppSettings string
	// Settings are further lines of the configuration file.
	Settings string
	// Pool are further settings of the pool: "no_job_timeout: 5s, report_checks: true".
	Pool string
	// World fills the simulated GitHub, instead of one repository; its organization is acme.
	World func(*githubsim.Server) error
	// NoWebhook leaves the App without a webhook, on both sides.
	NoWebhook bool
	// App are the options of the GitHub App; the stand names it and its webhook.
	App githubsim.AppOptions
	// RunnerDir is the runner's directory, instead of the simulator's own.
	RunnerDir string
	// GitHub, if set, is asked about every call of GitHub's REST API before the
	// simulator is; true says that it has answered.
	GitHub func(w http.ResponseWriter, r *http.Request) bool
	// Env are further variables of the control plane's environment.
	Env []string
	// WatchGitHub and WatchAgents, if set, see every exchange with GitHub's REST API
	// and with agents. They are called from several goroutines.
	WatchGitHub func(Exchange)
	WatchAgents func(Exchange)
	// Database is the store's URL; SQLite in the stand's folder by default.
	Database string
}

// Stand is a simulated GitHub, a configuration and the programs.
type Stand struct {
	Sim          *githubsim.Server
	App          githubsim.App
	Installation int64
	Dir          string
	Config       string // path of muster.yaml
	URL          string // of the control plane
	bin          string
	env          []string
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Programs returns the folder of the built programs: MUSTER_BIN if set, as make
// test does, or a fresh build.
func Programs(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv("MUSTER_BIN"); dir != "" {
		return dir
	}
	built.once.Do(func() {
		built.dir = filepath.Join(os.TempDir(), fmt.Sprintf("muster-bin-%d", os.Getuid()))
		cmd := exec.CommandContext(context.Background(), "go", "build", "-ldflags", "-s -w", "-o", built.dir+"/",
			"github.com/muster-ci/muster/cmd/muster", "github.com/muster-ci/muster/cmd/muster-agent", "github.com/muster-ci/muster/githubsim/actions-runner")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build programs: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return built.dir
}

// New sets a stand up. Everything ends with the test.
func New(tb testing.TB, o Options) *Stand {
	tb.Helper()
	s := &Stand{Dir: tb.TempDir(), bin: Programs(tb), env: o.Env}
	// Agents outlive the control plane on purpose, but not the test.
	tb.Cleanup(func() { killTagged(s.Dir) })
	s.Config = filepath.Join(s.Dir, "muster.yaml")
	s.Sim = githubsim.New(o.Sim)
	host := cmp.Or(o.Host, "127.0.0.1")
	api, err := s.Sim.Start(context.WithoutCancel(tb.Context()), host+":0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Sim.Close(); err != nil {
			tb.Error(err)
		}
	})
	_, port, _ := net.SplitHostPort(freeAddress(tb))
	addr := net.JoinHostPort(host, port)
	s.URL = "http://" + addr
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	if o.World == nil {
		o.World = oneRepository
	}
	must(o.World(s.Sim))
	app := o.App
	app.Name, app.Owner, app.WebhookURL = "muster", "acme", s.URL+"/github/webhook/main"
	app.WebhookSecret = cmp.Or(app.WebhookSecret, "stand-webhook-secret-9c1f")
	secret := "    webhook_secret_file: hook\n"
	if o.NoWebhook {
		app.WebhookURL, secret = "", "    poll_only: true\n"
	}
	s.App, err = s.Sim.CreateApp(app)
	must(err)
	s.Installation, err = s.Sim.Install(s.App.ID, "acme")
	must(err)
	if o.GitHub != nil || o.WatchGitHub != nil {
		api = watched(tb, s.Sim.Handler(), o.GitHub, o.WatchGitHub)
	}
	public := s.URL
	if o.WatchAgents != nil {
		public = watched(tb, forward(s.URL), nil, o.WatchAgents)
	}
	must(os.WriteFile(filepath.Join(s.Dir, "app.pem"), []byte(s.App.PEM), 0o600))
	must(os.WriteFile(filepath.Join(s.Dir, "hook"), []byte(s.App.WebhookSecret), 0o600))
	if o.RunnerDir == "" {
		o.RunnerDir = filepath.Join(s.Dir, "actions-runner")
		must(runner.WriteDir(o.RunnerDir, filepath.Join(s.bin, "actions-runner")))
	}
	if o.MaxRunners == 0 {
		o.MaxRunners = 12
	}
	if o.Machines == 0 {
		o.Machines = o.MaxRunners
	}
	if o.Provider == nil {
		o.Provider = func(s *Stand) string {
			return fmt.Sprintf("kind: process\nconfig:\n  agent: %s/muster-agent\n  runner_dir: %s\n  max: %d\n  grace: 1s\n", s.bin, o.RunnerDir, o.Machines)
		}
	}
	if o.Database == "" {
		o.Database = "sqlite:" + filepath.Join(s.Dir, "data", "muster.db")
	}
	must(os.WriteFile(s.Config, fmt.Appendf(nil, `data_dir: data
listen: %[1]s
public_url: %[8]s
database: %[6]s
apps:
  - name: main
    id: %[2]d
    private_key_file: app.pem
%[11]s    api_url: %[3]s/api/v3
%[10]sproviders:
  - name: local
%[4]sofferings:
  - name: small
    cpus: 1
    memory_mib: 512
    price_usd_per_minute: "0.008"
pools:
  - name: linux
    scope: acme
    labels: [self-hosted, linux]
    provider: local
    offering: small
    scaling: {mode: on_demand, max_runners: %[5]d}
%[9]s
%[7]s
`, addr, s.App.ID, api, indent(o.Provider(s)), o.MaxRunners, o.Database, o.Settings, public, poolLines(o.Pool), poolLines(o.AppSettings), secret), 0o600))
	return s
}

func oneRepository(sim *githubsim.Server) error {
	return errors.Join(sim.CreateOrganization("acme"), sim.CreateRepository(Repo, githubsim.RepositoryOptions{Private: true}))
}

// poolLines writes settings of a pool as lines of its section.
func poolLines(settings string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(settings, ", ") {
		if line != "" {
			b.WriteString("    " + line + "\n")
		}
	}
	return b.String()
}

// indent moves lines of YAML into an entry of a list.
func indent(lines string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n    ") + "\n"
}

// Bin is the folder of the built programs.
func (s *Stand) Bin() string { return s.bin }

// RunnersRoot is where the process provider keeps its machines.
func (s *Stand) RunnersRoot() string { return filepath.Join(s.Dir, "data", "runners", "local") }

// Processes are the ids of the processes that live in the stand's folder: agents,
// runners and steps, by the HOME that the provider gave them.
func (s *Stand) Processes() []int { return tagged(s.Dir) }

func tagged(dir string) (pids []int) {
	all, _ := proc.All() // this is Linux, which has them
	for _, p := range all {
		if bytes.Contains(proc.Environ(p.PID), []byte("HOME="+dir+"/")) {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

func killTagged(dir string) {
	for range 100 { // one that forks while it is looked for leaves a child
		pids := tagged(dir)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		<-time.After(10 * time.Millisecond)
	}
}

// freeAddress finds a loopback address that is free now, for a control plane that
// is killed and started again on the same one. Its port lies below those that
// systems hand out by themselves, so that no other listener of this test takes it.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	var err error
	for range 100 {
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	tb.Fatalf("no free port: %v", err)
	return ""
}

// Process is a running `muster serve`.
type Process struct {
	cmd    *exec.Cmd
	exited chan error
	log    *os.File
}

// Serve starts the control plane as its own process and waits until it is ready.
// Its log goes to muster.log in the stand's folder.
func (s *Stand) Serve(tb testing.TB) *Process {
	tb.Helper()
	p := s.Spawn(tb)
	s.AwaitReady(tb, p)
	return p
}

// Spawn is Serve without waiting.
func (s *Stand) Spawn(tb testing.TB) *Process {
	tb.Helper()
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	p := &Process{cmd: exec.CommandContext(context.Background(), filepath.Join(s.bin, "muster"), "serve", "--config", s.Config), exited: make(chan error, 1), log: log}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), s.env...)
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	tb.Cleanup(func() { p.Kill() })
	return p
}

// LogFile is where Serve's process logs.
func (s *Stand) LogFile() string { return filepath.Join(s.Dir, "muster.log") }

// AwaitReady waits until the control plane answers /readyz.
func (s *Stand) AwaitReady(tb testing.TB, p *Process) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	for {
		if status, _ := get(ctx, s.URL+"/readyz"); status == http.StatusOK {
			return
		}
		select {
		case err := <-p.exited:
			p.exited <- err
			log, _ := os.ReadFile(s.LogFile())
			tb.Fatalf("muster serve ended: %v\n%s", err, tail(log, 4000))
		case <-ctx.Done():
			log, _ := os.ReadFile(s.LogFile())
			tb.Fatalf("muster serve is not ready after a minute\n%s", tail(log, 4000))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func get(ctx context.Context, url string) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// Kill ends the process with SIGKILL, as a crash would.
func (p *Process) Kill() { _ = p.end(syscall.SIGKILL) }

// Stop ends the process in order, and returns its error.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Process) end(sig syscall.Signal) error {
	if p.log == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended
	err := <-p.exited
	_ = p.log.Close()
	p.log = nil
	return err
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Open runs the control plane in this process until the test ends.
func (s *Stand) Open(tb testing.TB, o server.Options) *server.Server {
	tb.Helper()
	cfg, err := config.Load(s.Config, func(string) string { return "" })
	if err != nil {
		tb.Fatal(err)
	}
	if o.LogOutput == nil {
		log, err := os.Create(s.LogFile())
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { log.Close() })
		o.LogOutput = log
	}
	srv, err := server.Open(tb.Context(), cfg, o)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	select {
	case <-srv.Ready():
	case err := <-ended:
		ended <- err
		tb.Fatalf("control plane ended: %v", err)
	}
	return srv
}

// CLI runs the command line against the stand's control plane and returns what it
// printed.
func (s *Stand) CLI(tb testing.TB, args ...string) (stdout, stderr string, code int) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), filepath.Join(s.bin, "muster"), args...)
	cmd.Env = append(os.Environ(), "MUSTER_SERVER="+s.URL)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		tb.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Inject queues n jobs that sleep for d, and returns their ids.
func (s *Stand) Inject(tb testing.TB, n int, d time.Duration) (ids []int64) {
	tb.Helper()
	for range n {
		id, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: Labels, Duration: d})
		if err != nil {
			tb.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// AwaitJobs waits until GitHub has n completed jobs.
func (s *Stand) AwaitJobs(tb testing.TB, n int, within time.Duration) githubsim.Truth {
	tb.Helper()
	within *= patience
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	if err := s.Sim.Wait(ctx, func(t githubsim.Truth) bool { return t.ByState()["completed"] >= n }); err != nil {
		log, _ := os.ReadFile(s.LogFile())
		tb.Fatalf("after %s: jobs %v\n%s", within, s.Sim.Truth().ByState(), tail(log, 6000))
	}
	return s.Sim.Truth()
}

// Machines are the directories of the process provider's machines.
func (s *Stand) Machines(tb testing.TB) (out []string) {
	tb.Helper()
	dirs, err := filepath.Glob(filepath.Join(s.RunnersRoot(), "*", "*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range dirs {
		if !strings.HasPrefix(filepath.Base(d), ".") {
			out = append(out, d)
		}
	}
	return out
}
