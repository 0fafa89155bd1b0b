package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// Run runs one runner to its end and returns the agent's exit code and, unless
// that is ExitDone, why. When ctx ends, the runner is interrupted, killed after
// Config.StopGrace, and reported as told to stop.
func Run(ctx context.Context, cfg Config, version string) (int, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Output == nil {
		cfg.Output = io.Discard
	}
	if cfg.start == nil {
		cfg.start = startRunner
	}
	cfg.StopGrace = cmp.Or(cfg.StopGrace, defaultStopGrace)
	cfg.BootTimeout = cmp.Or(cfg.BootTimeout, defaultBootTimeout)
	cfg.FlushTimeout = cmp.Or(cfg.FlushTimeout, defaultFlushTimeout)
	a := &agent{cfg: cfg, log: cfg.Logger, client: newClient(cfg.URL, version, cfg.HTTP), version: version, born: time.Now()}
	code, err := a.run(ctx)
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code, err
	}
	if err != nil {
		return ExitInternal, err
	}
	return code, nil
}

type agent struct {
	cfg     Config
	log     *slog.Logger
	client  *client
	version string
	born    time.Time
}

func (a *agent) run(ctx context.Context) (int, error) {
	if err := a.prepare(); err != nil {
		return 0, err
	}
	boot, err := a.boot(ctx)
	if err != nil {
		return 0, err
	}
	a.log.Info("booted", "runner", boot.Runner, "name", boot.Name)
	w := newWatch(a, boot)
	if boot.Check != nil {
		return w.check(ctx)
	}
	if err := a.fetch(ctx, boot.Download, w.version); err != nil {
		return w.fail(ctx, ExitDownload, err)
	}
	return w.run(ctx)
}

// prepare makes sure that the runner can be started before the boot token is
// spent on it.
func (a *agent) prepare() error {
	info, err := os.Stat(filepath.Join(a.cfg.RunnerDir, "run.sh"))
	switch {
	case err == nil && !info.IsDir():
	case a.cfg.Download:
		if err := os.MkdirAll(a.cfg.RunnerDir, 0o700); err != nil {
			return exitf(ExitRunnerDir, "make runner directory: %w", err)
		}
	default:
		return exitf(ExitRunnerDir, "there is no run.sh in %s: unpack GitHub's runner there or use --download", a.cfg.RunnerDir)
	}
	if a.cfg.WorkDir == "" {
		return nil
	}
	// The runner's work folder is part of its registration; a link moves it.
	link := filepath.Join(a.cfg.RunnerDir, "_work")
	if err := os.MkdirAll(a.cfg.WorkDir, 0o755); err != nil {
		return exitf(ExitRunnerDir, "make work directory: %w", err)
	}
	if target, err := os.Readlink(link); err == nil && target == a.cfg.WorkDir {
		return nil
	}
	if err := os.Symlink(a.cfg.WorkDir, link); err != nil {
		return exitf(ExitRunnerDir, "link work directory: %w", err)
	}
	return nil
}

// boot trades the token. The nonce stays the same, so that a token whose answer
// was lost can be traded again (4-10).
func (a *agent) boot(ctx context.Context) (wire.BootResponse, error) {
	host, _ := os.Hostname() // for the reader of a list; "" is fine
	req := wire.BootRequest{Nonce: rand.Text(), AgentVersion: a.version, OS: runtime.GOOS, Arch: runtime.GOARCH, Hostname: host, Download: a.cfg.Download}
	limit := a.cfg.BootTimeout
	if a.cfg.MaxAge > 0 {
		limit = min(limit, a.cfg.MaxAge)
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var tries backoff
	for {
		var boot wire.BootResponse
		err := a.client.call(asking, wire.BootPath, a.cfg.Token, req, &boot)
		if err == nil && (boot.SessionToken == "" || boot.JITConfig == "" && boot.Registration == nil && boot.Check == nil) {
			err = errors.New("the control plane's answer holds no session or no configuration") // a proxy's page, perhaps
		}
		if err == nil {
			return boot, nil
		}
		if !again(err) {
			return boot, &exitError{bootExit(err), err}
		}
		wait := tries.next(err)
		a.log.Warn("boot not answered", "error", err, "again_in", wait)
		if pause(asking, wait) != nil {
			if ctx.Err() != nil {
				return boot, exitf(ExitDone, "told to stop before the runner was started")
			}
			return boot, exitf(ExitUnreachable, "no configuration within %s: %w", limit, err)
		}
	}
}

func bootExit(err error) int {
	switch status(err) {
	case http.StatusUnauthorized:
		return ExitUnauthenticated
	case http.StatusForbidden:
		return ExitForbidden
	case http.StatusConflict:
		return ExitConflict
	case http.StatusGone:
		return ExitGone
	}
	return ExitRefused
}

// command is what to start.
type command struct {
	dir     string
	program string // in dir; "" is run.sh
	args    []string
	env     []string
	// follow is told the process's number when it is there and has not begun; nil if
	// nobody wants to know.
	follow func(pid int) error
	// place is a cgroup for its process, if that can be started there; "" is that of this program.
	place string
}

// runner is a started run.sh or config.sh.
type runner interface {
	// output is everything that it and its descendants print; it ends soon after
	// kill at the latest.
	output() io.Reader
	// exited yields once, the exit code of the script.
	exited() <-chan int
	// interrupt asks it to end, as Ctrl-C does.
	interrupt()
	// kill ends it with everything that descends from it, and returns when nothing
	// of that runs, or when it cannot be ended. What was printed can still be read.
	kill()
}

// watch is the life of the runner and what is said about it.
type watch struct {
	agent   *agent
	cfg     Config
	log     *slog.Logger
	boot    wire.BootResponse
	send    sender
	reports *outbox
	output  *shipper
	tracer  *tracer // nil if nothing is recorded
	answers chan wire.Answer
	events  chan event

	// What the loop knows.
	busy      bool   // a job runs
	job       string // the last job
	result    string // of the last job
	listened  bool
	failure   string // what the runner itself said went wrong
	outdated  bool
	stopping  string // why it was asked to end; "" if it was not
	forced    bool   // it ends even if a job runs
	killed    bool
	idle      *time.Timer
	idleAfter time.Duration
	killing   *time.Timer
}

func newWatch(a *agent, boot wire.BootResponse) *watch {
	w := &watch{
		agent: a, cfg: a.cfg, log: a.log, boot: boot,
		answers: make(chan wire.Answer, 8), events: make(chan event, 64),
		idleAfter: time.Duration(boot.NoJobSeconds) * time.Second,
	}
	send := secretSession(a.client, muster.Secret(boot.SessionToken))
	hear := func(answer wire.Answer) {
		if answer.Command == wire.CommandNone {
			return
		}
		select {
		case w.answers <- answer:
		default: // the control plane repeats what it wants
		}
	}
	w.send = send
	w.reports, w.output = newOutbox(send, a.log, hear), newShipper(send, a.log, hear)
	w.idle, w.killing = stopped(), stopped()
	return w
}

// stopped returns a timer that does not run.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// run registers the runner if it is to register itself, starts it, watches it and
// reports its end.
func (w *watch) run(ctx context.Context) (int, error) {
	finish := w.speak(ctx)
	if w.boot.Registration != nil {
		told, err := w.configure(ctx)
		if err != nil {
			finish(wire.Report{Phase: wire.PhaseFinished, ExitCode: ExitRunner, Reason: "runner failed: " + err.Error()})
			return 0, &exitError{ExitRunner, err}
		}
		if told != "" {
			finish(wire.Report{Phase: wire.PhaseFinished, Reason: told})
			return ExitDone, nil
		}
	}
	cmd := command{dir: w.cfg.RunnerDir, env: runnerEnviron(w.cfg.Environ, os.Getuid() == 0)}
	switch {
	case w.boot.JITConfig == "": // config.sh has left it in files
	case w.cfg.JITArgument:
		cmd.args = []string{"--jitconfig", w.boot.JITConfig}
	default:
		cmd.env = append(cmd.env, "ACTIONS_RUNNER_INPUT_JITCONFIG="+w.boot.JITConfig)
	}
	// What the job does is recorded from the runner's first instruction on.
	w.tracer, cmd.env = w.newTracer(ctx, cmd.env)
	if w.tracer != nil {
		cmd.place = w.tracer.place
		cmd.follow = func(pid int) error { return w.tracer.follow(ctx, pid) }
	}
	var r runner
	err := w.tracer.unenforced()
	if err == nil {
		r, err = w.cfg.start(cmd)
	}
	if err != nil {
		w.tracer.over(ctx)
		err = fmt.Errorf("start runner: %w", err)
		finish(wire.Report{Phase: wire.PhaseFinished, ExitCode: ExitRunner, Reason: "runner failed: " + err.Error()})
		return 0, &exitError{ExitRunner, err}
	}
	w.reports.add(wire.Report{Phase: wire.PhaseStarted})
	w.log.Info("runner started")

	// The reader ends when the output does, which kill makes sure of.
	var reading sync.WaitGroup
	ended := make(chan struct{})
	reading.Go(func() { w.read(r.output(), ended) })
	code := w.loop(ctx, r)
	// What run.sh left behind, a step's "sleep &" for example, ends here (4-41).
	r.kill()
	close(ended)
	reading.Wait()
	w.late(r)
	// The machine may be destroyed on the last report, so the trace is sealed before (4-45).
	w.tracer.over(ctx)

	reason, exit := w.verdict(code)
	w.log.Info("runner finished", "reason", reason, "exit_code", code, "job", w.job, "result", w.result)
	finish(wire.Report{Phase: wire.PhaseFinished, JobName: w.job, Result: w.result, ExitCode: code, Reason: reason})
	if exit != ExitDone {
		return 0, exitf(exit, "%s", reason)
	}
	return ExitDone, nil
}

// fail reports a runner that could not be started.
func (w *watch) fail(ctx context.Context, code int, err error) (int, error) {
	w.speak(ctx)(wire.Report{Phase: wire.PhaseFinished, ExitCode: code, Reason: "runner failed: " + err.Error()})
	return 0, &exitError{code, err}
}

// lastWords is how long the agent stays to deliver what it has, once it was told
// to end at once.
const lastWords = 2 * time.Second

// speak starts the deliveries. The function that it returns ends them: it ships
// the output, then delivers the last report, and gives up after a while.
func (w *watch) speak(ctx context.Context) (finish func(wire.Report)) {
	// The last words are said after ctx has ended.
	talk, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	shipped, told := make(chan struct{}), make(chan struct{})
	var ships, tells sync.WaitGroup
	ships.Go(func() { w.output.run(talk, shipped) })
	tells.Go(func() {
		w.reports.run(talk, time.Duration(cmp.Or(max(w.boot.HeartbeatSeconds, 0), 15))*time.Second, told)
	})
	return func(last wire.Report) {
		limit := w.cfg.FlushTimeout
		if ctx.Err() != nil {
			limit = min(limit, lastWords)
		}
		quit := time.AfterFunc(limit, hangUp)
		defer quit.Stop()
		// The control plane may destroy the machine on the last report, so the output
		// goes first, but must not keep the report for long.
		close(shipped)
		patience := time.NewTimer(limit / 2)
		defer patience.Stop()
		done := make(chan struct{})
		go func() {
			ships.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-patience.C:
		}
		w.reports.add(last)
		close(told)
		tells.Wait()
		hangUp()
		<-done
	}
}

// read turns the runner's output into events and ships it.
func (w *watch) read(from io.Reader, ended <-chan struct{}) {
	hide := w.redactor(func(p []byte) {
		w.output.write(p)
		_, _ = w.cfg.Output.Write(p) // a full disk must not end the job
	})
	split := lines{line: func(line string) {
		e := parse(line)
		if e.sight == nothing {
			return
		}
		select {
		case w.events <- e:
		case <-ended:
			// The loop has ended; late takes what fits.
			select {
			case w.events <- e:
			default:
			}
		}
	}}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		split.write(buf[:n])
		hide.write(buf[:n])
		if err != nil {
			split.end()
			hide.end()
			return
		}
	}
}

// redactor hides what this runner's output must not show.
func (w *watch) redactor(pass func([]byte)) *redactor {
	return newRedactor(pass, w.secrets()...)
}

// secrets are those that this agent knows.
func (w *watch) secrets() []string {
	secrets := append(jitSecrets(w.boot.JITConfig), w.boot.SessionToken, w.cfg.Token.Reveal())
	if w.boot.Registration != nil {
		secrets = append(append(secrets, w.boot.Registration.Token), writtenSecrets(w.cfg.RunnerDir)...)
	}
	return secrets
}

// learnt reports what has become known of the job that runs.
func (w *watch) learnt(job trace.Job) {
	w.reports.know(&job)
	w.reports.add(wire.Report{Phase: wire.PhaseHeartbeat, JobName: job.Name, Busy: true})
}

// loop runs until run.sh has ended and returns its exit code.
func (w *watch) loop(ctx context.Context, r runner) int {
	age := stopped()
	if limit := w.maxAge(); limit > 0 {
		age.Reset(time.Until(w.agent.born.Add(limit)))
	}
	defer age.Stop()
	defer w.idle.Stop()
	defer w.killing.Stop()
	stop := ctx.Done()
	for {
		// What the runner has already said comes before any decision to end it.
		select {
		case e := <-w.events:
			w.saw(e, r)
			continue
		default:
		}
		select {
		case e := <-w.events:
			w.saw(e, r)
		case code := <-r.exited():
			return code
		case answer := <-w.answers:
			w.obey(answer, r)
		case <-w.idle.C:
			if !w.busy {
				w.stop(r, fmt.Sprintf("no job within %s", w.idleAfter), false)
			}
		case <-age.C:
			w.stop(r, "maximum age", true)
		case <-stop:
			stop = nil
			w.stop(r, "told to stop", true)
		case <-w.killing.C:
			if w.busy && !w.forced {
				continue // a job began while it was asked to end; that job is not ours to kill
			}
			if w.killed {
				w.log.Error("runner cannot be killed")
				return 128 + int(syscall.SIGKILL)
			}
			w.log.Warn("runner killed", "reason", w.stopping, "grace", w.cfg.StopGrace)
			r.kill()
			w.killed = true
			w.killing.Reset(killWait)
		}
	}
}

// killWait is how long a killed runner may take to be gone. One that waits for a
// dead disk takes for ever; the agent leaves it to the provider.
const killWait = 10 * time.Second

func (w *watch) maxAge() time.Duration {
	a, b := w.cfg.MaxAge, time.Duration(w.boot.MaxSeconds)*time.Second
	if a <= 0 || b <= 0 {
		return max(a, b, 0)
	}
	return min(a, b)
}

// saw acts on a marker in the output.
func (w *watch) saw(e event, r runner) {
	switch e.sight {
	case sawListening:
		if w.listened {
			return // it says so again after every lost connection
		}
		w.listened = true
		w.reports.add(wire.Report{Phase: wire.PhaseListening})
		w.await()
	case sawRunning:
		w.busy, w.job, w.result, w.listened = true, e.job, "", true
		w.idle.Stop()
		if !w.forced {
			w.killing.Stop()
		}
		w.reports.know(nil)
		w.reports.add(wire.Report{Phase: wire.PhaseRunning, JobName: e.job, Busy: true})
		w.tracer.began(e.job)
	case sawCompleted:
		if !w.busy || e.job != w.job {
			return
		}
		w.busy, w.result = false, e.result
		// A heartbeat at once, which carries the result.
		w.reports.add(wire.Report{Phase: wire.PhaseHeartbeat, JobName: w.job, Result: e.result})
		w.tracer.ended()
		w.await()
	case sawDeleted:
		w.failure = "its registration has been deleted"
		if !w.busy {
			// run.sh may start the listener again for ever (reference/github.md §9.1).
			w.stop(r, "runner failed: "+w.failure, false)
		}
	case sawDeprecated:
		w.failure, w.outdated = "GitHub refuses its version as deprecated", true
	}
}

// await starts the time without a job: from listening, not from the start (4-43),
// and for a runner that is kept, or that does not end after its job, from there.
func (w *watch) await() {
	if w.stopping != "" {
		w.killing.Reset(w.cfg.StopGrace)
	} else if w.idleAfter > 0 {
		w.idle.Reset(w.idleAfter)
	}
}

// obey acts on a command.
func (w *watch) obey(a wire.Answer, r runner) {
	switch a.Command {
	case wire.CommandDrain:
		if w.busy {
			// Refused, and said at once (4-17). The control plane asks again later.
			w.reports.add(wire.Report{Phase: wire.PhaseHeartbeat, JobName: w.job, Busy: true})
			return
		}
		w.stop(r, "told to drain", false)
	case wire.CommandStop:
		w.stop(r, "told to stop", true)
	}
}

// stop interrupts the runner and sees to its end. Unless forced, a job that begins
// meanwhile goes on.
func (w *watch) stop(r runner, reason string, force bool) {
	if w.stopping != "" && (!force || w.forced) {
		return // it is being ended already
	}
	w.stopping, w.forced = reason, force
	w.idle.Stop()
	w.log.Info("runner interrupted", "reason", reason, "busy", w.busy)
	r.interrupt()
	w.killing.Reset(w.cfg.StopGrace)
}

// late takes what the runner said last, after the loop.
func (w *watch) late(r runner) {
	for {
		select {
		case e := <-w.events:
			w.saw(e, r)
		default:
			return
		}
	}
}

// verdict says in words why the runner ended, and the agent's exit code.
func (w *watch) verdict(code int) (reason string, exit int) {
	switch {
	case w.forced:
		return w.stopping, ExitDone
	case w.outdated || code == ExitDeprecated:
		return "runner failed: GitHub refuses its version as deprecated", ExitDeprecated
	case w.result != "":
		return "job finished", ExitDone
	case w.busy:
		return fmt.Sprintf("runner failed: it ended with code %d while it ran %q", code, w.job), ExitRunner
	case w.failure != "":
		return "runner failed: " + w.failure, ExitRunner
	case w.stopping != "":
		return w.stopping, ExitDone
	case w.listened:
		return "runner ended without a job", ExitDone
	}
	return fmt.Sprintf("runner failed: it ended with code %d before it listened for jobs", code), ExitRunner
}
