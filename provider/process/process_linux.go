package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/recorder"
	"github.com/muster-ci/muster/provider"
)

// Provider starts runners as processes. Make it with New; it needs no closing.
type Provider struct {
	cfg  Config
	log  *slog.Logger
	set  *instancedir.Set
	cg   cgroups
	cred *syscall.Credential // nil: our own user
	uid  int                 // -1: our own user
	gid  int
	who  *user.User

	recorder recorder.Shared
}

var (
	_ provider.Provider  = (*Provider)(nil)
	_ provider.Described = (*Provider)(nil)
	_ provider.Consoler  = (*Provider)(nil)
)

// New checks the configuration against this machine and makes the owner's
// directory. It reports every problem at once.
func New(cfg Config) (*Provider, error) {
	p := &Provider{cfg: cfg, log: cfg.Logger, uid: -1, gid: -1}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	problems := []error{cfg.Validate(), instancedir.CheckOwner(cfg.Owner)}
	if cfg.User != "" {
		problems = append(problems, p.lookup(cfg.User))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o700)
	if p.uid >= 0 {
		mode = 0o711 // the runner's user must get through to what is its own
	}
	set, err := instancedir.Open(instancedir.Settings{
		Root: cfg.Root, Owner: cfg.Owner, Mode: mode, Others: true, Look: p.see,
		Stray: func(pid int) string { return fmt.Sprintf("pid %d runs and its directory is missing", pid) },
	})
	if err != nil {
		return nil, err
	}
	p.set = set
	p.cg = detectCgroups(cfg.Cgroup)
	p.log.Info("process provider ready", "root", set.Dir, "limits", p.cg.String())
	return p, nil
}

func (p *Provider) lookup(name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return fmt.Errorf("user: there is no user %q on this machine", name)
		}
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	if int(uid) == os.Getuid() {
		return nil
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("user: only root may start runners as %q; run the control plane as that user instead", name)
	}
	p.who, p.uid, p.gid = u, int(uid), int(gid)
	p.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	ids, _ := u.GroupIds() // a user without further groups is fine
	for _, id := range ids {
		if g, err := strconv.ParseUint(id, 10, 32); err == nil {
			p.cred.Groups = append(p.cred.Groups, uint32(g))
		}
	}
	return nil
}

// Describe says what this machine can enforce.
func (p *Provider) Describe() provider.Description {
	d := description()
	d.Summary = "Runners as processes of this machine, each with its own directory and session; this machine " + p.cg.String() + "."
	return d
}

func (p *Provider) name(runner muster.RunnerID) string { return p.set.Name(runner) }

func (p *Provider) path(runner muster.RunnerID) string { return p.set.Path(runner) }

// maxText is the most that a name given by others may have to be written down.
const maxText = 1024

func (p *Provider) check(spec provider.Spec) error {
	var why string
	switch {
	case !spec.Runner.Valid():
		why = fmt.Sprintf("runner id %q", spec.Runner)
	case cmp.Or(spec.Owner, p.cfg.Owner) != p.cfg.Owner:
		why = fmt.Sprintf("owner %q, and this provider makes instances of %q", spec.Owner, p.cfg.Owner)
	case spec.Boot.Token == "":
		why = "no boot token"
	case len(spec.Boot.Token) > 16<<10: // it must fit into a pipe at once
		why = "a boot token of more than 16 KiB"
	case spec.Boot.URL == "" || strings.ContainsAny(spec.Boot.URL, "\x00\n\r"):
		why = fmt.Sprintf("control plane URL %q", spec.Boot.URL)
	case spec.MaxAge < 0:
		why = fmt.Sprintf("maximum age %s", spec.MaxAge)
	case len(spec.Pool) > maxText || len(spec.Workspace) > maxText || len(spec.TraceID) > maxText:
		why = "a name of more than 1024 characters"
	case spec.Offering.GPUs > 0:
		why = "processes are not given GPUs of their own"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", provider.ErrInvalid, why)
}

// Create makes the runner's directory, starts its agent in a session of its own
// and returns; see provider.Provider.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if err := p.check(spec); err != nil {
		return provider.Instance{}, err
	}
	held, st, err := p.admit(ctx, spec)
	if err != nil {
		return provider.Instance{}, err
	}
	defer held.Close()
	if st.Stage != instancedir.Preparing {
		return p.look(spec.Runner, st, false), nil
	}
	if err := p.launch(ctx, spec, &st); err != nil {
		// Nothing was promised to anybody; what was begun is undone, also when the
		// caller has left.
		if undo := p.destroy(context.WithoutCancel(ctx), spec.Runner, st, nil); undo != nil {
			err = errors.Join(err, undo)
		}
		return provider.Instance{}, instancedir.Classify(err)
	}
	return p.look(spec.Runner, st, false), nil
}

// admit returns the runner's directory, locked, and its state. A new directory is made
// if the runner has none and there is room.
func (p *Provider) admit(ctx context.Context, spec provider.Spec) (*os.File, state, error) {
	path, st := p.path(spec.Runner), p.begin(spec)
	held, made, err := p.set.Admit(ctx, spec.Runner, func(others []muster.RunnerID, dir string) error {
		if n := len(others); n >= p.cfg.Max {
			return fmt.Errorf("%w: %d of %d runners exist on this machine (max)", provider.ErrCapacity, n, p.cfg.Max)
		}
		return st.write(dir)
	})
	if err != nil {
		return nil, st, instancedir.Classify(err)
	}
	if made {
		return held, st, nil
	}
	was, err := readState(path)
	switch {
	case err != nil:
		// Half deleted, or the disk lost it. What may run there must not run twice.
		st.Stage = instancedir.Starting
	case was.Stage != instancedir.Preparing:
		st = was
	default:
		// Somebody began and died before anything was started: begin again.
		if err := errors.Join(p.cg.remove(p.name(spec.Runner)), empty(ctx, path, instancedir.StateFile), st.write(path)); err != nil {
			held.Close()
			return nil, st, instancedir.Classify(err)
		}
	}
	return held, st, nil
}

func (p *Provider) begin(spec provider.Spec) state {
	return state{
		State:     instancedir.Begin(spec, p.cfg.Owner, time.Now()),
		MemoryMiB: cmp.Or(spec.Offering.MemoryMiB, p.cfg.MemoryMiB),
	}
}

// launch fills the directory and starts the agent. The agent waits for its boot
// token, which is written last: nothing runs before it is recorded and limited.
func (p *Provider) launch(ctx context.Context, spec provider.Spec, st *state) (err error) {
	dir, name := p.path(spec.Runner), p.name(spec.Runner)
	for _, sub := range []string{"home", "tmp"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, sub), 0o700), own(filepath.Join(dir, sub), p.uid, p.gid)); err != nil {
			return err
		}
	}
	runnerDir := filepath.Join(dir, "runner")
	if p.cfg.RunnerDir != "" {
		err = farm(ctx, p.cfg.RunnerDir, runnerDir, p.uid, p.gid)
	} else {
		err = errors.Join(os.Mkdir(runnerDir, 0o700), own(runnerDir, p.uid, p.gid))
	}
	if err != nil {
		return err
	}
	if err := p.cg.create(name, limits{memory: st.MemoryMiB << 20, pids: p.cfg.PIDs, cpus: spec.Offering.CPUs}); err != nil {
		return err
	}
	group, err := p.cg.open(name)
	if err != nil {
		return err
	}
	sys := &syscall.SysProcAttr{Setsid: true, Credential: p.cred}
	if group != nil {
		defer group.Close()
		sys.UseCgroupFD, sys.CgroupFD = true, int(group.Fd())
	}
	out, err := os.OpenFile(filepath.Join(dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// The token goes through a pipe: it is never in a file, an argument or an
	// environment, and an agent whose control plane dies here reads the end and leaves.
	in, token, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	defer token.Close()

	st.Stage = instancedir.Starting
	if err := errors.Join(st.write(dir), ctx.Err()); err != nil {
		return err
	}
	env := p.environment(spec, dir, runnerDir)
	if spec.Trace {
		if socket := p.recorder.Socket(ctx, p.cfg.Agent, p.cred != nil, p.log); socket != "" {
			env = append(env, "MUSTER_TRACE_SOCKET="+socket)
		}
	}
	agent, err := p.start(name, &os.ProcAttr{
		Dir: dir, Env: env, Files: []*os.File{in, out, out}, Sys: sys,
	})
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	defer func() {
		if err == nil {
			_ = agent.Release() // never fails for a process that nobody waited for
			return
		}
		_ = agent.Kill()
		_, _ = agent.Wait() // no zombie stays that nobody has recorded
	}()
	id, err := proc.Read(agent.Pid) // it is our child and nobody waits for it, so it is there, if only as a zombie
	if err != nil {
		return err
	}
	st.Stage, st.PID, st.Start = instancedir.Started, id.PID, id.Start
	if err := st.write(dir); err != nil {
		return err
	}
	if _, err := io.WriteString(token, spec.Boot.Token.Reveal()+"\n"); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("hand over boot token: %w", err) // EPIPE: it has ended already, and look says so
	}
	p.log.Debug("runner started", "runner", spec.Runner, "pid", st.PID)
	return nil
}

// start starts the agent inside its control groups, from a thread that enters them
// for the purpose and ends here.
func (p *Provider) start(name string, attr *os.ProcAttr) (agent *os.Process, err error) {
	done := make(chan struct{})
	var on func()
	on = func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with the goroutine
		if syscall.Gettid() == os.Getpid() {
			// The first thread stands for the whole program and cannot end. While it is
			// locked here, another goroutine gets another thread.
			defer runtime.UnlockOSThread()
			other := make(chan struct{})
			go func() {
				defer close(other)
				on()
			}()
			<-other
			return
		}
		if err = p.cg.enter(name); err == nil {
			agent, err = os.StartProcess(p.cfg.Agent, []string{p.cfg.Agent}, attr)
		}
		// The thread ends some time after this. It must not keep the group busy.
		err = errors.Join(err, p.cg.enter(""))
	}
	go func() {
		defer close(done)
		on()
	}()
	<-done
	return agent, err
}

// environment is all that the agent gets to see.
func (p *Provider) environment(spec provider.Spec, dir, runnerDir string) []string {
	vars := map[string]string{
		"PATH":   cmp.Or(os.Getenv("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
		"LANG":   cmp.Or(os.Getenv("LANG"), "C.UTF-8"),
		"HOME":   filepath.Join(dir, "home"),
		"TMPDIR": filepath.Join(dir, "tmp"),
	}
	if p.who != nil {
		vars["USER"], vars["LOGNAME"] = p.who.Username, p.who.Username
	}
	for _, name := range p.cfg.Env {
		if v, ok := os.LookupEnv(name); ok {
			vars[name] = v
		}
	}
	vars[instancedir.Tag] = p.name(spec.Runner)
	vars["MUSTER_RUNNER"] = string(spec.Runner)
	vars["MUSTER_URL"] = spec.Boot.URL
	vars["MUSTER_BOOT_TOKEN_FILE"] = "/dev/stdin"
	vars["MUSTER_RUNNER_DIR"] = runnerDir
	// The agent must be done, its last report included, before Delete turns to SIGKILL.
	vars["MUSTER_STOP_GRACE"] = (time.Duration(p.cfg.Grace) * 3 / 5).String()
	if p.cfg.RunnerDir == "" {
		vars["MUSTER_DOWNLOAD"] = "1"
		vars["MUSTER_CACHE_DIR"] = filepath.Join(dir, "home", ".cache")
	}
	if spec.MaxAge > 0 {
		vars["MUSTER_MAX_AGE"] = spec.MaxAge.String()
	}
	if spec.TraceID != "" && !strings.ContainsAny(spec.TraceID, "\x00\r\n") {
		vars["MUSTER_TRACE_ID"] = spec.TraceID
	}
	env := make([]string, 0, len(vars))
	for name, v := range vars {
		env = append(env, name+"="+v)
	}
	return env
}

// Get looks at the runner's directory and processes; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	return p.set.Get(ctx, runner)
}

// List yields the owner's instances: every directory, and every process that carries our
// tag and has lost its directory; see provider.Provider.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return p.set.List(ctx)
}

// see looks at an instance that has a directory.
func (p *Provider) see(runner muster.RunnerID, busy bool) provider.Instance {
	path := p.path(runner)
	st, err := readState(path)
	if err != nil {
		st = state{State: instancedir.Lost(runner, path)}
	}
	return p.look(runner, st, busy)
}

// look compares what is recorded with what runs. busy says that a call is at work
// on the directory: then what has not begun yet may still begin.
func (p *Provider) look(runner muster.RunnerID, st state, busy bool) provider.Instance {
	inst := provider.Instance{ID: p.name(runner), Runner: runner, State: provider.InstanceEnded, CreatedAt: st.CreatedAt}
	agent, running := st.Running(p.name(runner))
	switch {
	case running && st.TooOld(time.Now(), time.Duration(p.cfg.Grace)):
		// The agent should have ended at MaxAge by itself.
		p.log.Warn("runner killed", "runner", runner, "reason", "maximum age", "max_age", st.MaxAge)
		p.killAll(runner, p.victims(p.name(runner), agent))
		inst.Detail = fmt.Sprintf("killed at its maximum age of %s", st.MaxAge)
	case running:
		inst.State, inst.Detail = provider.InstanceRunning, fmt.Sprintf("pid %d", agent.PID)
	case st.Stage != instancedir.Started && busy:
		inst.State = provider.InstanceStarting
	case st.Stage != instancedir.Started:
		inst.Detail = "its creation was interrupted"
	case st.Boot != proc.BootID():
		inst.Detail = "the machine was restarted"
	default:
		inst.Detail = st.Detail(time.Now(), st.Reap(p.path(runner), theAgent), "its agent has ended")
	}
	if n := p.cg.memoryKills(p.name(runner)); n > 0 {
		inst.Detail += fmt.Sprintf("; %d processes were killed at the memory limit of %d MiB", n, st.MemoryMiB)
	}
	return inst
}

// theAgent is what an instance's first process is called.
const theAgent = "its agent"

// Delete ends the agent, then everything that is left, and removes the directory.
// It waits for the agent's end, at most Config.Grace since the first Delete, so
// that the call that removes the last part says ErrNotFound itself; see
// provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	if err := instancedir.Valid(ctx, runner); err != nil {
		return err
	}
	gone := fmt.Errorf("%w: nothing is left of runner %s", provider.ErrNotFound, runner)
	held, err := p.set.Lock(ctx, runner)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// No directory. A process may have lost it, and a group may be left.
		if left := p.killAll(runner, nil); left || p.cg.remove(p.name(runner)) != nil {
			return nil
		}
		return gone
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil // another Delete is at it
	case err != nil:
		return instancedir.Classify(err)
	}
	defer held.Close()
	path := p.path(runner)
	st, err := readState(path)
	if err != nil {
		st.State = instancedir.State{Runner: runner, Stage: instancedir.Starting, Boot: proc.BootID()} // look for anything
	}
	var known []proc.Process
	if agent, running := st.Running(p.name(runner)); running {
		// While the agent lives, its descendants can be told; afterwards those that
		// dropped both group and tag are nobody's.
		known = p.victims(p.name(runner), agent)
		if st.Told.IsZero() {
			st.Told = time.Now().UTC()
			if err := st.write(path); err != nil {
				// A full disk must not keep a runner alive. Without the note, a repeated
				// call would wait again.
				st.Told = st.Told.Add(-time.Hour)
			}
			p.signalGroup(agent, syscall.SIGTERM)
		}
		if instancedir.Await(ctx, agent, st.Told.Add(time.Duration(p.cfg.Grace))) != nil {
			return nil // accepted, and the next call goes on
		}
		if agent.Alive() {
			p.log.Warn("runner killed", "runner", runner, "reason", "did not end in time", "grace", time.Duration(p.cfg.Grace))
		}
	}
	if err := p.destroy(ctx, runner, st, known); err != nil {
		if ctx.Err() != nil || errors.Is(err, errAlive) {
			return nil // accepted, and the next call goes on
		}
		return instancedir.Classify(err)
	}
	return gone
}

var errAlive = errors.New("processes are still ending")

// destroy kills what is left of a runner, known or found, and removes its groups
// and directory.
func (p *Provider) destroy(ctx context.Context, runner muster.RunnerID, st state, known []proc.Process) error {
	if agent, running := st.Running(p.name(runner)); running {
		known = append(known, p.victims(p.name(runner), agent)...)
	}
	if p.killAll(runner, known) {
		return errAlive
	}
	if st.Stage == instancedir.Started {
		st.Reap(p.path(runner), theAgent)
	}
	if err := p.cg.remove(p.name(runner)); err != nil {
		return err
	}
	return removeTree(ctx, p.path(runner))
}

// signalGroup signals every process of the agent's process group. The agent is
// alive, so its number is still its group's.
func (p *Provider) signalGroup(agent proc.Process, sig syscall.Signal) {
	all, _ := proc.All()
	for _, m := range all {
		if m.Group == agent.PID {
			_ = m.Signal(sig) // one that has ended needs none
		}
	}
}

// killAll kills the known processes of a runner and all that it can find without
// its agent, until each is seen to have ended. It reports whether any has not.
func (p *Provider) killAll(runner muster.RunnerID, known []proc.Process) (left bool) {
	return p.killTagged(p.name(runner), known)
}

// killTagged is killAll for whatever carries a tag.
func (p *Provider) killTagged(name string, known []proc.Process) (left bool) {
	for wait := time.Millisecond; ; wait *= 2 {
		thaw := p.cg.freeze(name)
		p.cg.kill(name)
		alive := known[:0:0]
		for _, v := range append(known, p.victims(name, proc.Process{})...) {
			if v.Signal(syscall.SIGKILL) == nil { // else it has ended
				alive = append(alive, v)
			}
		}
		thaw()
		if len(alive) == 0 {
			return false
		}
		if wait > 256*time.Millisecond {
			return true
		}
		known = alive
		time.Sleep(wait) // for the kernel, which needs a moment to end them
	}
}

// victims finds the processes of a runner: members of its control groups, those
// that carry its tag, and, of an agent that lives, its session and descendants,
// which may have dropped both.
func (p *Provider) victims(name string, agent proc.Process) []proc.Process {
	seen := map[int]bool{os.Getpid(): true}
	var found []proc.Process
	add := func(ps ...proc.Process) {
		for _, v := range ps {
			if !v.Zombie && !seen[v.PID] {
				seen[v.PID] = true
				found = append(found, v)
			}
		}
	}
	add(p.cg.members(name)...)
	all, _ := proc.All()
	if agent.PID != 0 && agent.Alive() {
		add(proc.Descendants(all, agent.PID)...)
		for _, v := range all {
			if v.Session == agent.PID {
				add(v)
			}
		}
	}
	for _, v := range all {
		if !seen[v.PID] && v.HasEnv(instancedir.Tag+"="+name) {
			add(v)
		}
	}
	return found
}

// Console returns the end of what the agent and the runner printed.
func (p *Provider) Console(ctx context.Context, runner muster.RunnerID, limit int) ([]byte, error) {
	return p.set.Console(ctx, runner, logFile, limit)
}
