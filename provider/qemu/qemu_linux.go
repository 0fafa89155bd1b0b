package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

// Provider starts runners as virtual machines of this host. Make it with New.
type Provider struct {
	cfg        Config
	log        *slog.Logger
	set        *instancedir.Set
	templates  string
	program    string
	imgProgram string
	version    string // of QEMU
	accel      string
	accelWhy   string
	rules      egress
	http       *http.Client

	// ctx ends with Close, and work waits for all that runs until then.
	ctx    context.Context //nolint:containedctx // the life of the relays
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	attached map[proc.Process]bool
	making   map[string]*templateMaking
}

var (
	_ provider.Provider  = (*Provider)(nil)
	_ provider.Described = (*Provider)(nil)
	_ provider.Consoler  = (*Provider)(nil)
)

// tendEvery is how often the provider looks after machines without being asked: it
// attaches to those that it did not start, and ends those that are too old.
const tendEvery = 2 * time.Second

// New checks the configuration against this host, finds out how machines run here,
// makes the owner's directory and attaches to the machines that it finds. Close ends
// what it began, and no machine.
func New(cfg Config) (*Provider, error) {
	p := &Provider{cfg: cfg, log: cfg.Logger, attached: map[proc.Process]bool{}, making: map[string]*templateMaking{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	problems := []error{cfg.Validate(), instancedir.CheckOwner(cfg.Owner)}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if err := p.tools(); err != nil {
		return nil, err
	}
	for _, text := range cfg.Egress {
		r, _ := parseEgress(text) // validated above
		p.rules = append(p.rules, r)
	}
	set, err := instancedir.Open(instancedir.Settings{
		Root: cfg.Root, Owner: cfg.Owner, Mode: 0o700, Look: p.see,
		Stray: func(pid int) string { return fmt.Sprintf("QEMU runs with pid %d and its directory is missing", pid) },
	})
	if err != nil {
		return nil, err
	}
	p.set, p.templates = set, filepath.Join(filepath.Dir(set.Dir), ".templates")
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is documented to be one
	p.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.log.Info("qemu provider ready", "root", set.Dir, "qemu", p.version, "accel", p.accel, "why", p.accelWhy, "warm", cfg.Warm && len(cfg.Taps) == 0)
	p.abandoned()
	p.tend()
	p.work.Go(func() {
		tick := time.NewTicker(tendEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.tend()
			case <-p.ctx.Done():
				return
			}
		}
	})
	return p, nil
}

// Close lets go of the machines, which go on, and waits for what this provider does
// in the background.
func (p *Provider) Close() error {
	p.cancel()
	p.work.Wait()
	p.http.CloseIdleConnections()
	return nil
}

// tools finds QEMU and how fast it runs here.
func (p *Provider) tools() error {
	path, err := exec.LookPath(p.cfg.QEMU)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	p.program = path
	if p.imgProgram, err = imgBeside(path); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("qemu: %s --version: %w", path, err)
	}
	p.version, _, _ = strings.Cut(strings.TrimPrefix(string(out), "QEMU emulator version "), "\n")
	p.accel = "tcg"
	if p.cfg.Accel == "tcg" {
		p.accelWhy = "asked for"
		return nil
	}
	why := kvmWorks(ctx, path)
	switch {
	case why == nil:
		p.accel, p.accelWhy = "kvm", "a trial machine ran at full speed"
	case p.cfg.Accel == "kvm":
		return fmt.Errorf("accel: kvm cannot be used: %w; repair it, or say auto", why)
	default:
		p.accelWhy = why.Error()
	}
	return nil
}

// Describe says how machines run on this host.
func (p *Provider) Describe() provider.Description {
	d := description()
	if p.accel == "tcg" {
		d.Summary = fmt.Sprintf("Every runner in a virtual machine of this host, by QEMU %s without KVM (%s): programs run 10 to 25 times slower than on the host.", p.version, p.accelWhy)
	} else {
		d.Summary = fmt.Sprintf("Every runner in a virtual machine of this host, by QEMU %s with KVM.", p.version)
	}
	return d
}

func (p *Provider) name(runner muster.RunnerID) string { return p.set.Name(runner) }

func (p *Provider) path(runner muster.RunnerID) string { return p.set.Path(runner) }

// maxText is the most that a name given by others may have to be written down.
const maxText = 1024

func (p *Provider) check(spec provider.Spec) error {
	var why string
	base, err := url.Parse(spec.Boot.URL)
	switch {
	case !spec.Runner.Valid():
		why = fmt.Sprintf("runner id %q", spec.Runner)
	case cmp.Or(spec.Owner, p.cfg.Owner) != p.cfg.Owner:
		why = fmt.Sprintf("owner %q, and this provider makes instances of %q", spec.Owner, p.cfg.Owner)
	case spec.Boot.Token == "":
		why = "no boot token"
	case len(spec.Boot.Token) > 16<<10: // it must fit into a pipe at once
		why = "a boot token of more than 16 KiB"
	case err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		why = fmt.Sprintf("control plane URL %q", spec.Boot.URL)
	case spec.MaxAge < 0:
		why = fmt.Sprintf("maximum age %s", spec.MaxAge)
	case len(spec.Pool) > maxText || len(spec.Workspace) > maxText || len(spec.TraceID) > maxText:
		why = "a name of more than 1024 characters"
	case spec.Offering.GPUs > 0:
		why = "these machines have no GPUs"
	case spec.Offering.MemoryMiB != 0 && spec.Offering.MemoryMiB < minMemoryMiB:
		why = fmt.Sprintf("%d MiB of memory; a machine needs %d at least", spec.Offering.MemoryMiB, minMemoryMiB)
	case spec.Offering.CPUs < 0 || spec.Offering.CPUs > 255:
		why = fmt.Sprintf("%v processors", spec.Offering.CPUs)
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", provider.ErrInvalid, why)
}

// Create starts a machine from a template, or boots one, and returns as soon as it
// runs and its boot data are on their way; see provider.Provider.
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
		return p.look(spec.Runner, st, true), nil
	}
	if err := p.launch(ctx, spec, &st); err != nil {
		// Nothing was promised to anybody; what was begun is undone, also when the
		// caller has left.
		if p.killTagged(p.name(spec.Runner), nil) {
			err = errors.Join(err, errAlive)
		} else {
			err = errors.Join(err, removeDir(p.path(spec.Runner)))
		}
		return provider.Instance{}, instancedir.Classify(err)
	}
	return p.look(spec.Runner, st, true), nil
}

// admit returns the runner's directory, locked, and its state. A new directory is made
// if the runner has none and there is room.
func (p *Provider) admit(ctx context.Context, spec provider.Spec) (*os.File, state, error) {
	path := p.path(spec.Runner)
	st := state{State: instancedir.Begin(spec, p.cfg.Owner, time.Now()), URL: spec.Boot.URL}
	held, made, err := p.set.Admit(ctx, spec.Runner, func(others []muster.RunnerID, dir string) (err error) {
		if n := len(others); n >= p.cfg.Max {
			return fmt.Errorf("%w: %d of %d machines exist on this host (max)", provider.ErrCapacity, n, p.cfg.Max)
		}
		if st.Tap, err = p.tap(others); err != nil {
			return err
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
		st.Tap = was.Tap
		if err := st.write(path); err != nil {
			held.Close()
			return nil, st, instancedir.Classify(err)
		}
	}
	return held, st, nil
}

// tap returns a network device that none of the others has, "" where machines have none.
func (p *Provider) tap(others []muster.RunnerID) (string, error) {
	if len(p.cfg.Taps) == 0 {
		return "", nil
	}
	free := slices.Clone(p.cfg.Taps)
	for _, other := range others {
		if st, err := readState(p.path(other)); err == nil {
			free = slices.DeleteFunc(free, func(tap string) bool { return tap == st.Tap })
		}
	}
	if len(free) == 0 {
		return "", fmt.Errorf("%w: every one of the %d network devices is in use (taps)", provider.ErrCapacity, len(p.cfg.Taps))
	}
	return free[0], nil
}

// launch starts the machine and gives it its boot data, last: nothing runs in it
// before it is recorded.
func (p *Provider) launch(ctx context.Context, spec provider.Spec, st *state) (err error) {
	img, err := readImage(p.cfg.Images, cmp.Or(spec.Offering.Image, p.cfg.Image))
	switch {
	case err != nil:
		return fmt.Errorf("%w: image: %w", provider.ErrInvalid, err)
	case img.State == ImageQueued || img.State == ImageBuilding:
		return fmt.Errorf("%w: image %s is %s", provider.ErrTransient, img.Name, img.State)
	case img.State != ImageReady:
		return fmt.Errorf("%w: image %s has failed: %s", provider.ErrInvalid, img.Name, img.Error)
	}
	r := run{
		shape: shape{CPUs: cpus(spec.Offering.CPUs, p.cfg.CPUs), MemoryMiB: cmp.Or(spec.Offering.MemoryMiB, p.cfg.MemoryMiB), Accel: p.accel, Disk: img.hasDisk()},
		dir:   p.path(spec.Runner), tag: p.name(spec.Runner), image: img, tap: st.Tap,
	}
	st.Image, st.Digest = img.Name, img.Digest
	b := guest.Boot{
		Token: spec.Boot.Token.Reveal(), Runner: string(spec.Runner), Hostname: hostname(spec.Runner),
		Listen: p.rules.listen(), Proxy: p.rules.proxy(),
		// The agent must be done, its last report included, before Delete turns to SIGKILL.
		Environ: []string{"MUSTER_STOP_GRACE=" + (time.Duration(p.cfg.Grace) * 3 / 5).String()},
	}
	if spec.MaxAge > 0 {
		b.Environ = append(b.Environ, "MUSTER_MAX_AGE="+spec.MaxAge.String())
	}
	if spec.TraceID != "" && !strings.ContainsAny(spec.TraceID, "\x00\r\n") {
		b.Environ = append(b.Environ, "MUSTER_TRACE_ID="+spec.TraceID)
	}
	if r.tap != "" {
		r.mac = newMAC()
		b.MAC = r.mac
	}
	if p.cfg.Warm && r.tap == "" {
		if dir := p.warm(ctx, img, r.shape, spec.Workspace); dir != "" {
			st.Template = filepath.Base(dir)
			r.memory, r.disk = filepath.Join(dir, memoryPart), filepath.Join(dir, diskPart)
			if r.incoming, err = os.Open(filepath.Join(dir, statePart)); err != nil {
				return err
			}
			defer r.incoming.Close()
		}
	}
	return p.start(ctx, r, st, b)
}

// warm returns the directory of a template, "" to boot. A template that takes long to
// make is for the next machine.
func (p *Provider) warm(ctx context.Context, img Image, s shape, workspace string) string {
	patience := 15 * time.Second
	if end, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(end)/2)
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := p.template(waiting, img, s, workspace)
	if err != nil {
		if waiting.Err() == nil {
			p.log.Warn("machines are booted, because there is no template", "image", img.Name, "error", err)
		}
		return ""
	}
	return dir
}

// start spawns QEMU, records it, lets it run and hands over the boot data.
func (p *Provider) start(ctx context.Context, r run, st *state, b guest.Boot) (err error) {
	st.Stage = instancedir.Starting
	if err := errors.Join(st.write(r.dir), ctx.Err()); err != nil {
		return err
	}
	l, err := p.spawn(r)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.end()
		} else {
			l.release()
		}
	}()
	st.Stage, st.PID, st.Start = instancedir.Started, l.id.PID, l.id.Start
	if err := st.write(r.dir); err != nil {
		return err
	}
	dir, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	m, err := dialMonitor(ctx, dir, l.id.Alive)
	if err != nil {
		return fmt.Errorf("%w: %s", err, complaint(r.dir))
	}
	defer m.close()
	if r.incoming != nil {
		if err := restore(ctx, m); err != nil {
			return fmt.Errorf("restore from a template: %w; QEMU says: %s", err, complaint(r.dir))
		}
		b.Now = time.Now()
	}
	line, err := bootData(b)
	if err != nil {
		return err
	}
	if err := l.boot.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return err
	}
	if _, err := l.boot.Write(line); err != nil {
		return fmt.Errorf("hand over the boot data: %w", err)
	}
	clear(line)
	if r.incoming != nil {
		if _, err := m.do(ctx, "cont", nil); err != nil {
			return err
		}
	}
	st.Stage = born
	if err := st.write(r.dir); err != nil {
		return err
	}
	p.attach(r.dir, st.URL, st.Process())
	p.log.Debug("machine started", "runner", st.Runner, "pid", st.PID, "template", st.Template)
	return nil
}

// cpus rounds up: a machine has whole processors.
func cpus(want float64, otherwise int) int { return cmp.Or(int(math.Ceil(want)), otherwise) }

// hostname makes a host's name of a runner's id.
func hostname(runner muster.RunnerID) string {
	s := string(runner)
	return strings.Trim(s[:min(len(s), 63)], "-.")
}

// Get looks at the runner's directory and QEMU; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	return p.set.Get(ctx, runner)
}

// List yields the owner's instances: every directory, and every QEMU that carries our tag
// and has lost its directory; see provider.Provider.
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

// look compares what is recorded with what runs. busy says that a call is at work on
// the directory: then what has not begun yet may still begin.
func (p *Provider) look(runner muster.RunnerID, st state, busy bool) provider.Instance {
	inst := provider.Instance{ID: p.name(runner), Runner: runner, State: provider.InstanceEnded, CreatedAt: st.CreatedAt}
	qemu, running := st.Running(p.name(runner))
	switch {
	case running && st.TooOld(time.Now(), time.Duration(p.cfg.Grace)):
		// The agent should have ended at MaxAge by itself.
		p.log.Warn("machine killed", "runner", runner, "reason", "maximum age", "max_age", st.MaxAge)
		p.killTagged(p.name(runner), []proc.Process{qemu})
		st.Reap(p.path(runner), "QEMU")
		inst.Detail = fmt.Sprintf("killed at its maximum age of %s", st.MaxAge)
	case running && (st.Stage == born || busy):
		inst.State, inst.Detail = provider.InstanceRunning, fmt.Sprintf("QEMU has pid %d, %s, %s", qemu.PID, p.accel, cmp.Or(warmWord(st), "booted"))
	case running:
		inst.Detail = "its creation was interrupted: QEMU runs, and the machine never got its boot data"
	case st.Stage != born && busy:
		inst.State = provider.InstanceStarting
	case st.Stage != born:
		st.Reap(p.path(runner), "QEMU")
		inst.Detail = "its creation was interrupted"
	case st.Boot != proc.BootID():
		inst.Detail = "the host was restarted"
	default:
		how := st.Reap(p.path(runner), "QEMU")
		why := cmp.Or(howEnded(p.path(runner)), how, "QEMU was killed")
		if said := complaint(p.path(runner)); said != "" {
			why += ": " + said
		}
		inst.Detail = st.Detail(time.Now(), why)
	}
	return inst
}

func warmWord(st state) string {
	if st.Template == "" {
		return ""
	}
	return "from template " + st.Template
}

// tend looks after every machine that runs.
func (p *Provider) tend() {
	runners, err := p.set.Runners()
	if err != nil {
		return // List says so
	}
	machines, _ := filepath.Glob(filepath.Join(p.set.Dir, ".machines", "*"))
	for _, path := range machines {
		if st, err := readState(path); err == nil && st.Stage == born {
			if _, running := st.Running(""); running {
				trimConsole(path)
				p.attach(path, "", st.Process())
			}
		}
	}
	for _, runner := range runners {
		path := p.path(runner)
		st, err := readState(path)
		if err != nil || st.Stage != born {
			continue
		}
		if _, running := st.Running(""); !running {
			continue
		}
		trimConsole(path)
		if st.TooOld(time.Now(), time.Duration(p.cfg.Grace)) {
			_, _ = p.set.Get(p.ctx, runner) // ends it; who asks learns it again
			continue
		}
		p.attach(path, st.URL, st.Process())
	}
}

// errAlive says that what was killed has not ended yet.
var errAlive = errors.New("QEMU is still ending")

// Delete asks the machine to power itself off, kills QEMU when that takes longer than
// Config.Grace since the first Delete, and removes the directory; see provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	if err := instancedir.Valid(ctx, runner); err != nil {
		return err
	}
	gone := fmt.Errorf("%w: nothing is left of runner %s", provider.ErrNotFound, runner)
	held, err := p.set.Lock(ctx, runner)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if p.killTagged(p.name(runner), nil) { // one that has lost its directory
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
	if qemu, running := st.Running(p.name(runner)); running {
		known = append(known, qemu)
		if st.Stage == born && p.cfg.Grace > 0 && agentUp(path) {
			if st.Told.IsZero() {
				st.Told = time.Now().UTC()
				if err := st.write(path); err != nil {
					// A full disk must not keep a machine alive. Without the note, a repeated
					// call would wait again.
					st.Told = st.Told.Add(-time.Hour)
				}
				p.press(ctx, path, qemu)
			}
			if instancedir.Await(ctx, qemu, st.Told.Add(time.Duration(p.cfg.Grace))) != nil {
				return nil // accepted, and the next call goes on
			}
			if qemu.Alive() {
				p.log.Warn("machine killed", "runner", runner, "reason", "did not power itself off in time", "grace", time.Duration(p.cfg.Grace))
			}
		}
	}
	if p.killTagged(p.name(runner), known) {
		return nil // accepted, and the next call goes on
	}
	st.Reap(p.path(runner), "QEMU")
	if err := removeDir(path); err != nil {
		return instancedir.Classify(err)
	}
	return gone
}

// press presses the machine's power button. One whose QEMU does not answer is killed
// after its grace.
func (p *Provider) press(ctx context.Context, path string, qemu proc.Process) {
	ctx, cancel := context.WithTimeout(ctx, min(2*time.Second, time.Duration(p.cfg.Grace)))
	defer cancel()
	dir, err := os.Open(path)
	if err != nil {
		return
	}
	defer dir.Close()
	m, err := dialMonitor(ctx, dir, qemu.Alive)
	if err != nil {
		return
	}
	defer m.close()
	_, _ = m.do(ctx, "system_powerdown", nil)
}

// Console returns the end of what the machine printed.
func (p *Provider) Console(ctx context.Context, runner muster.RunnerID, limit int) ([]byte, error) {
	return p.set.Console(ctx, runner, consoleFile, limit)
}
