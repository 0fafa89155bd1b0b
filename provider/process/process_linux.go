package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/recorder"
	"github.com/muster-ci/muster/provider"
)

// Provider starts runners as processes. Make it with New; it needs no closing.
type Provider struct {
	cfg  Config
	log  *slog.Logger
	dir  string // of this owner
	mark string // distinguishes our instances' names from those of other owners and roots
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

// tagVariable is in the environment of the agent and, unless it removes it, of
// everything that descends from it. Its value is the instance's ID.
const tagVariable = "MUSTER_INSTANCE"

// New checks the configuration against this machine and makes the owner's
// directory. It reports every problem at once.
func New(cfg Config) (*Provider, error) {
	p := &Provider{cfg: cfg, log: cfg.Logger, uid: -1, gid: -1}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	problems := []error{cfg.Validate()}
	// Owners are words of the operator; escaped, they are one path element each.
	owner := "owner-" + url.PathEscape(cfg.Owner)
	if cfg.Owner == "" || len(owner) > 255 {
		problems = append(problems, fmt.Errorf("owner: %q must have between 1 and some 80 characters", cfg.Owner))
	}
	if cfg.User != "" {
		problems = append(problems, p.lookup(cfg.User))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	p.dir = filepath.Join(cfg.Root, owner)
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	real, err := filepath.EvalSymlinks(p.dir)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	p.dir = real
	sum := sha256.Sum256([]byte(real))
	p.mark = hex.EncodeToString(sum[:6])
	p.cg = detectCgroups(cfg.Cgroup)
	p.log.Info("process provider ready", "root", p.dir, "limits", p.cg.String())
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

// name is the instance's ID: the runner and the mark of our directory, since two
// owners may use the same runner id on one machine.
func (p *Provider) name(runner muster.RunnerID) string { return string(runner) + "." + p.mark }

func (p *Provider) path(runner muster.RunnerID) string { return filepath.Join(p.dir, string(runner)) }

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
	if st.Stage != preparing {
		return p.look(spec.Runner, st, false), nil
	}
	if err := p.launch(ctx, spec, &st); err != nil {
		// Nothing was promised to anybody; what was begun is undone, also when the
		// caller has left.
		if undo := p.destroy(context.WithoutCancel(ctx), spec.Runner, st, nil); undo != nil {
			err = errors.Join(err, undo)
		}
		return provider.Instance{}, p.classify(err)
	}
	return p.look(spec.Runner, st, false), nil
}

// admit returns the runner's directory, locked, and its state. A new directory
// is made if the runner has none and there is room; it appears under its name
// with the lock held and the state in it, so that nobody sees less.
func (p *Provider) admit(ctx context.Context, spec provider.Spec) (*os.File, state, error) {
	fail := func(err error) (*os.File, state, error) { return nil, state{}, p.classify(err) }
	path := p.path(spec.Runner)
	for {
		held, err := proc.Lock(ctx, path, syscall.LOCK_EX, true)
		if err == nil {
			if !proc.Current(held, path) { // deleted while we waited
				held.Close()
				continue
			}
			st, err := readState(path)
			switch {
			case err != nil:
				// Half deleted, or the disk lost it. What may run there must not run twice.
				st = p.begin(spec)
				st.Stage = starting
			case st.Stage == preparing:
				// Somebody began and died before anything was started: begin again.
				st = p.begin(spec)
				if err := errors.Join(p.cg.remove(p.name(spec.Runner)), empty(ctx, path, stateFile), st.write(path)); err != nil {
					held.Close()
					return fail(err)
				}
			}
			return held, st, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
		held, st, err := p.claim(ctx, spec)
		if errors.Is(err, fs.ErrExist) {
			continue // another call was faster
		}
		if err != nil {
			return fail(err)
		}
		return held, st, nil
	}
}

func (p *Provider) begin(spec provider.Spec) state {
	st := state{
		Runner: spec.Runner, Owner: p.cfg.Owner, Workspace: spec.Workspace, Pool: spec.Pool, TraceID: spec.TraceID,
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond), MaxAge: spec.MaxAge,
		MemoryMiB: cmp.Or(spec.Offering.MemoryMiB, p.cfg.MemoryMiB), Stage: preparing, Boot: proc.BootID(),
	}
	return st
}

func (p *Provider) claim(ctx context.Context, spec provider.Spec) (*os.File, state, error) {
	st := p.begin(spec)
	all, err := proc.Lock(ctx, p.dir, syscall.LOCK_EX, true)
	if err != nil {
		return nil, st, err
	}
	defer all.Close()
	if _, err := os.Lstat(p.path(spec.Runner)); err == nil {
		return nil, st, fs.ErrExist
	}
	n, err := p.count()
	if err != nil {
		return nil, st, err
	}
	if n >= p.cfg.Max {
		return nil, st, fmt.Errorf("%w: %d of %d runners exist on this machine (max)", provider.ErrCapacity, n, p.cfg.Max)
	}
	// A name with a dot is no runner's. Left over by a crash, it is cleared here,
	// because nobody else works on one without the lock that we hold.
	tmp := filepath.Join(p.dir, ".new")
	if err := os.RemoveAll(tmp); err != nil {
		return nil, st, err
	}
	mode := fs.FileMode(0o700)
	if p.uid >= 0 {
		mode = 0o711 // the runner's user must get through to what is its own
	}
	if err := errors.Join(os.Mkdir(tmp, mode), st.write(tmp)); err != nil {
		return nil, st, err
	}
	held, err := proc.Lock(ctx, tmp, syscall.LOCK_EX, true)
	if err != nil {
		return nil, st, err
	}
	if err := os.Rename(tmp, p.path(spec.Runner)); err != nil {
		held.Close()
		return nil, st, err
	}
	return held, st, nil
}

// count is how many instances exist.
func (p *Provider) count() (int, error) {
	entries, err := os.ReadDir(p.dir)
	n := 0
	for _, e := range entries {
		if muster.RunnerID(e.Name()).Valid() {
			n++
		}
	}
	return n, err
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

	st.Stage = starting
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
	st.Stage, st.PID, st.Start = started, id.PID, id.Start
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
	vars[tagVariable] = p.name(spec.Runner)
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

// classify gives an error of the operating system its class.
func (p *Provider) classify(err error) error {
	for _, class := range []error{provider.ErrCapacity, provider.ErrInvalid, provider.ErrNotFound, provider.ErrTransient, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, class) {
			return err
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EAGAIN),
		errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: %w", provider.ErrCapacity, err)
	}
	return fmt.Errorf("%w: %w", provider.ErrTransient, err)
}

// Get looks at the runner's directory and processes; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if !runner.Valid() {
		return provider.Instance{}, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	inst, err := p.find(ctx, runner)
	if errors.Is(err, fs.ErrNotExist) {
		strays, err := p.strays(map[muster.RunnerID]bool{})
		if err != nil {
			return provider.Instance{}, p.classify(err)
		}
		if inst, ok := strays[runner]; ok {
			return inst, nil
		}
		return provider.Instance{}, fmt.Errorf("%w: runner %s has no directory and no process", provider.ErrNotFound, runner)
	}
	if err != nil {
		return provider.Instance{}, p.classify(err)
	}
	return inst, nil
}

// find returns a runner's instance from its directory; fs.ErrNotExist without one.
func (p *Provider) find(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	path := p.path(runner)
	// A call that is at work on the directory holds its lock.
	held, err := proc.Lock(ctx, path, syscall.LOCK_SH, false)
	busy := errors.Is(err, proc.ErrLocked)
	if err != nil && !busy {
		return provider.Instance{}, err
	}
	if held != nil {
		defer held.Close()
	}
	st, err := readState(path)
	if err != nil {
		info, gone := os.Stat(path)
		if gone != nil {
			return provider.Instance{}, gone
		}
		// A directory is an instance, whatever is in it: somebody has to remove it.
		st = state{Runner: runner, CreatedAt: info.ModTime().UTC(), Stage: preparing}
	}
	return p.look(runner, st, busy), nil
}

// look compares what is recorded with what runs. busy says that a call is at work
// on the directory: then what has not begun yet may still begin.
func (p *Provider) look(runner muster.RunnerID, st state, busy bool) provider.Instance {
	inst := provider.Instance{ID: p.name(runner), Runner: runner, State: provider.InstanceEnded, CreatedAt: st.CreatedAt}
	agent, running := p.agent(runner, &st)
	switch {
	case running && st.tooOld(time.Now(), time.Duration(p.cfg.Grace)):
		// The agent should have ended at MaxAge by itself.
		p.log.Warn("runner killed", "runner", runner, "reason", "maximum age", "max_age", st.MaxAge)
		p.killAll(runner, p.victims(p.name(runner), agent))
		inst.Detail = fmt.Sprintf("killed at its maximum age of %s", st.MaxAge)
	case running:
		inst.State, inst.Detail = provider.InstanceRunning, fmt.Sprintf("pid %d", agent.PID)
	case st.Stage != started && busy:
		inst.State = provider.InstanceStarting
	case st.Stage != started:
		inst.Detail = "its creation was interrupted"
	case st.Boot != proc.BootID():
		inst.Detail = "the machine was restarted"
	default:
		inst.Detail = cmp.Or(p.reap(st), "its agent has ended")
		if st.tooOld(time.Now(), 0) {
			inst.Detail += fmt.Sprintf(", at its maximum age of %s", st.MaxAge)
		}
	}
	if n := p.cg.memoryKills(p.name(runner)); n > 0 {
		inst.Detail += fmt.Sprintf("; %d processes were killed at the memory limit of %d MiB", n, st.MemoryMiB)
	}
	return inst
}

// agent finds the agent of a runner. When the control plane died between the
// start of the agent and its record, the tag in its environment tells.
func (p *Provider) agent(runner muster.RunnerID, st *state) (proc.Process, bool) {
	if st.Boot != proc.BootID() {
		return proc.Process{}, false
	}
	switch st.Stage {
	case started:
		a := proc.Process{PID: st.PID, Start: st.Start}
		if now, err := proc.Read(a.PID); err == nil && now.Start == a.Start && !now.Zombie {
			return now, true
		}
	case starting:
		all, _ := proc.All() // unreadable reads as "not running", and Delete looks again
		for _, a := range all {
			// It still waits for its token, so that nothing else carries the tag.
			if !a.Zombie && a.Session == a.PID && a.HasEnv(tagVariable+"="+p.name(runner)) {
				return a, true
			}
		}
	}
	return proc.Process{}, false
}

// reap collects an agent that ended and is our child, so that no zombie stays, and
// says how it ended. It is "" for an agent that somebody else's process started.
func (p *Provider) reap(st state) string {
	dir := p.path(st.Runner)
	if last, err := proc.Read(st.PID); err == nil && last.Start == st.Start && last.PPID == os.Getpid() {
		var how syscall.WaitStatus
		pid, err := syscall.Wait4(st.PID, &how, syscall.WNOHANG, nil)
		for tries := 0; err == nil && pid == 0 && tries < 200; tries++ {
			// Its first thread has ended, and the others take a moment.
			time.Sleep(time.Millisecond)
			pid, err = syscall.Wait4(st.PID, &how, syscall.WNOHANG, nil)
		}
		if err == nil && pid == st.PID {
			st.Ended = fmt.Sprintf("its agent ended with code %d", how.ExitStatus())
			if how.Signaled() {
				st.Ended = fmt.Sprintf("its agent was ended by %s", how.Signal())
			}
			// Only this call knows how it ended; without a place to note it, it is lost
			// and nothing else is.
			_ = os.WriteFile(filepath.Join(dir, "ended"), []byte(st.Ended), 0o600)
			return st.Ended
		}
	}
	text, _ := os.ReadFile(filepath.Join(dir, "ended"))
	return cmp.Or(string(text), st.Ended)
}

// List yields the owner's instances: every directory, and every process that
// carries our tag and has lost its directory; see provider.Provider.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		fail := func(err error) { yield(provider.Instance{}, err) }
		if err := ctx.Err(); err != nil {
			fail(err)
			return
		}
		dir, err := os.Open(p.dir)
		if err != nil { // also when it is missing: an unmounted disk must not read as "no runners"
			fail(p.classify(err))
			return
		}
		defer dir.Close()
		seen := map[muster.RunnerID]bool{}
		for {
			names, err := dir.Readdirnames(64)
			for _, name := range names {
				runner := muster.RunnerID(name)
				if !runner.Valid() {
					continue
				}
				if err := ctx.Err(); err != nil {
					fail(err)
					return
				}
				inst, err := p.find(ctx, runner)
				if errors.Is(err, fs.ErrNotExist) {
					continue // deleted meanwhile
				}
				if err != nil {
					fail(p.classify(err))
					return
				}
				seen[runner] = true
				if !yield(inst, nil) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				fail(p.classify(err))
				return
			}
		}
		strays, err := p.strays(seen)
		if err != nil {
			fail(p.classify(err))
			return
		}
		for runner, inst := range strays {
			if _, err := os.Lstat(p.path(runner)); err == nil {
				continue // created after the directory was read
			}
			if !yield(inst, nil) {
				return
			}
		}
	}
}

// strays finds processes with our tag whose runner is not in known.
func (p *Provider) strays(known map[muster.RunnerID]bool) (map[muster.RunnerID]provider.Instance, error) {
	all, err := proc.All()
	found := map[muster.RunnerID]provider.Instance{}
	for _, a := range all {
		name, ours := strings.CutSuffix(a.Env(tagVariable), "."+p.mark)
		runner := muster.RunnerID(name)
		if ours && !a.Zombie && runner.Valid() && !known[runner] {
			found[runner] = provider.Instance{
				ID: p.name(runner), Runner: runner, State: provider.InstanceRunning,
				Detail: fmt.Sprintf("pid %d runs and its directory is missing", a.PID),
			}
		}
	}
	return found, err
}

// Delete ends the agent, then everything that is left, and removes the directory.
// It waits for the agent's end, at most Config.Grace since the first Delete, so
// that the call that removes the last part says ErrNotFound itself; see
// provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !runner.Valid() {
		return fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	gone := fmt.Errorf("%w: nothing is left of runner %s", provider.ErrNotFound, runner)
	path := p.path(runner)
	for {
		held, err := proc.Lock(ctx, path, syscall.LOCK_EX, true)
		if errors.Is(err, fs.ErrNotExist) {
			// No directory. A process may have lost it, and a group may be left.
			if left := p.killAll(runner, nil); left || p.cg.remove(p.name(runner)) != nil {
				return nil
			}
			return gone
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return nil // another Delete is at it
		}
		if err != nil {
			return p.classify(err)
		}
		if !proc.Current(held, path) {
			held.Close()
			continue
		}
		defer held.Close()
		break
	}
	st, err := readState(path)
	if err != nil {
		st = state{Runner: runner, Stage: starting, Boot: proc.BootID()} // look for anything
	}
	var known []proc.Process
	if agent, running := p.agent(runner, &st); running {
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
		for wait := time.Millisecond; agent.Alive() && time.Since(st.Told) < time.Duration(p.cfg.Grace); wait = min(2*wait, 20*time.Millisecond) {
			if sleep(ctx, wait) != nil {
				return nil // accepted, and the next call goes on
			}
		}
		if agent.Alive() {
			p.log.Warn("runner killed", "runner", runner, "reason", "did not end in time", "grace", time.Duration(p.cfg.Grace))
		}
	}
	if err := p.destroy(ctx, runner, st, known); err != nil {
		if ctx.Err() != nil || errors.Is(err, errAlive) {
			return nil // accepted, and the next call goes on
		}
		return p.classify(err)
	}
	return gone
}

var errAlive = errors.New("processes are still ending")

// destroy kills what is left of a runner, known or found, and removes its groups
// and directory.
func (p *Provider) destroy(ctx context.Context, runner muster.RunnerID, st state, known []proc.Process) error {
	if agent, running := p.agent(runner, &st); running {
		known = append(known, p.victims(p.name(runner), agent)...)
	}
	if p.killAll(runner, known) {
		return errAlive
	}
	if st.Stage == started {
		p.reap(st)
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
		if !seen[v.PID] && v.HasEnv(tagVariable+"="+name) {
			add(v)
		}
	}
	return found
}

// Console returns the end of what the agent and the runner printed.
func (p *Provider) Console(ctx context.Context, runner muster.RunnerID, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !runner.Valid() || limit < 0 {
		return nil, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	f, err := os.Open(filepath.Join(p.path(runner), logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: runner %s printed nothing", provider.ErrNotFound, runner)
	}
	if err != nil {
		return nil, p.classify(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, p.classify(err)
	}
	from := max(0, info.Size()-int64(limit))
	text, err := io.ReadAll(io.NewSectionReader(f, from, int64(limit)))
	if err != nil {
		return nil, p.classify(err)
	}
	return text, nil
}
