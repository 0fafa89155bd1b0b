package qemu

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
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

// Provider starts runners as virtual machines of this host. Make it with New.
type Provider struct {
	cfg        Config
	log        *slog.Logger
	dir        string // of this owner
	templates  string
	mark       string // distinguishes our instances' names from those of other owners and roots
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
	owner := "owner-" + url.PathEscape(cfg.Owner)
	problems := []error{cfg.Validate()}
	if cfg.Owner == "" || len(owner) > 255 {
		problems = append(problems, fmt.Errorf("owner: %q must have between 1 and some 80 characters", cfg.Owner))
	}
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
	p.dir = filepath.Join(cfg.Root, owner)
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	real, err := filepath.EvalSymlinks(p.dir)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	p.dir, p.templates = real, filepath.Join(filepath.Dir(real), ".templates")
	sum := sha256.Sum256([]byte(real))
	p.mark = hex.EncodeToString(sum[:6])
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is documented to be one
	p.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.log.Info("qemu provider ready", "root", p.dir, "qemu", p.version, "accel", p.accel, "why", p.accelWhy, "warm", cfg.Warm && len(cfg.Taps) == 0)
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

func (p *Provider) name(runner muster.RunnerID) string { return string(runner) + "." + p.mark }

func (p *Provider) path(runner muster.RunnerID) string { return filepath.Join(p.dir, string(runner)) }

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
	if st.Stage != preparing {
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
		return provider.Instance{}, p.classify(err)
	}
	return p.look(spec.Runner, st, true), nil
}

// admit returns the runner's directory, locked, and its state. A new directory is made
// if the runner has none and there is room; it appears under its name with the lock
// held and the state in it, so that nobody sees less.
func (p *Provider) admit(ctx context.Context, spec provider.Spec) (*os.File, state, error) {
	path := p.path(spec.Runner)
	for {
		held, err := proc.Lock(ctx, path, syscall.LOCK_EX, true)
		if errors.Is(err, fs.ErrNotExist) {
			held, st, err := p.claim(ctx, spec)
			if errors.Is(err, fs.ErrExist) {
				continue // another call was faster
			}
			if err != nil {
				return nil, st, p.classify(err)
			}
			return held, st, nil
		}
		if err != nil {
			return nil, state{}, p.classify(err)
		}
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
			if err := st.write(path); err != nil {
				held.Close()
				return nil, st, p.classify(err)
			}
		}
		return held, st, nil
	}
}

func (p *Provider) begin(spec provider.Spec) state {
	return state{
		Runner: spec.Runner, Owner: p.cfg.Owner, Workspace: spec.Workspace, Pool: spec.Pool, TraceID: spec.TraceID,
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond), MaxAge: spec.MaxAge, URL: spec.Boot.URL, Stage: preparing, Boot: proc.BootID(),
	}
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
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, st, err
	}
	n, free := 0, slices.Clone(p.cfg.Taps)
	for _, e := range entries {
		if !muster.RunnerID(e.Name()).Valid() {
			continue
		}
		n++
		if other, err := readState(filepath.Join(p.dir, e.Name())); err == nil && other.Tap != "" {
			free = slices.DeleteFunc(free, func(tap string) bool { return tap == other.Tap })
		}
	}
	if n >= p.cfg.Max {
		return nil, st, fmt.Errorf("%w: %d of %d machines exist on this host (max)", provider.ErrCapacity, n, p.cfg.Max)
	}
	if len(p.cfg.Taps) > 0 {
		if len(free) == 0 {
			return nil, st, fmt.Errorf("%w: every one of the %d network devices is in use (taps)", provider.ErrCapacity, len(p.cfg.Taps))
		}
		st.Tap = free[0]
	}
	// A name with a dot is no runner's. Left over by a crash, it is cleared here,
	// because nobody else works on one without the lock that we hold.
	tmp := filepath.Join(p.dir, ".new")
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o700), st.write(tmp)); err != nil {
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
	st.Stage = starting
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
	st.Stage, st.PID, st.Start = started, l.id.PID, l.id.Start
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
	p.attach(r.dir, st.URL, identity(*st))
	p.log.Debug("machine started", "runner", st.Runner, "pid", st.PID, "template", st.Template)
	return nil
}

// identity is what a process is known by again.
func identity(st state) proc.Process { return proc.Process{PID: st.PID, Start: st.Start} }

// cpus rounds up: a machine has whole processors.
func cpus(want float64, otherwise int) int { return cmp.Or(int(math.Ceil(want)), otherwise) }

// hostname makes a host's name of a runner's id.
func hostname(runner muster.RunnerID) string {
	s := string(runner)
	return strings.Trim(s[:min(len(s), 63)], "-.")
}

// classify gives an error of the operating system or of QEMU its class.
func (p *Provider) classify(err error) error {
	for _, class := range []error{provider.ErrCapacity, provider.ErrInvalid, provider.ErrNotFound, provider.ErrTransient, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, class) {
			return err
		}
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE} {
		// QEMU says it with a capital letter.
		if errors.Is(err, full) || !errors.Is(full, syscall.EAGAIN) && strings.Contains(strings.ToLower(err.Error()), full.Error()) {
			return fmt.Errorf("%w: %w", provider.ErrCapacity, err)
		}
	}
	return fmt.Errorf("%w: %w", provider.ErrTransient, err)
}

// Get looks at the runner's directory and QEMU; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if !runner.Valid() {
		return provider.Instance{}, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	inst, err := p.find(ctx, runner)
	if errors.Is(err, fs.ErrNotExist) {
		strays, err := p.strays()
		if err != nil {
			return provider.Instance{}, p.classify(err)
		}
		if inst, ok := strays[runner]; ok {
			return inst, nil
		}
		return provider.Instance{}, fmt.Errorf("%w: runner %s has no directory and no QEMU", provider.ErrNotFound, runner)
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

// look compares what is recorded with what runs. busy says that a call is at work on
// the directory: then what has not begun yet may still begin.
func (p *Provider) look(runner muster.RunnerID, st state, busy bool) provider.Instance {
	inst := provider.Instance{ID: p.name(runner), Runner: runner, State: provider.InstanceEnded, CreatedAt: st.CreatedAt}
	qemu, running := p.qemu(p.name(runner), st)
	switch {
	case running && st.tooOld(time.Now(), time.Duration(p.cfg.Grace)):
		// The agent should have ended at MaxAge by itself.
		p.log.Warn("machine killed", "runner", runner, "reason", "maximum age", "max_age", st.MaxAge)
		p.killTagged(p.name(runner), []proc.Process{qemu})
		p.reap(p.path(runner), st)
		inst.Detail = fmt.Sprintf("killed at its maximum age of %s", st.MaxAge)
	case running && (st.Stage == born || busy):
		inst.State, inst.Detail = provider.InstanceRunning, fmt.Sprintf("QEMU has pid %d, %s, %s", qemu.PID, p.accel, cmp.Or(warmWord(st), "booted"))
	case running:
		inst.Detail = "its creation was interrupted: QEMU runs, and the machine never got its boot data"
	case st.Stage != born && busy:
		inst.State = provider.InstanceStarting
	case st.Stage != born:
		p.reap(p.path(runner), st)
		inst.Detail = "its creation was interrupted"
	case st.Boot != proc.BootID():
		inst.Detail = "the host was restarted"
	default:
		how := p.reap(p.path(runner), st)
		inst.Detail = cmp.Or(howEnded(p.path(runner)), how, "QEMU has ended")
		if said := complaint(p.path(runner)); said != "" {
			inst.Detail += ": " + said
		}
		if st.tooOld(time.Now(), 0) {
			inst.Detail += fmt.Sprintf(", at its maximum age of %s", st.MaxAge)
		}
	}
	return inst
}

func warmWord(st state) string {
	if st.Template == "" {
		return ""
	}
	return "from template " + st.Template
}

// qemu finds the QEMU of a machine. When the control plane died between its start and
// its record, the tag in its environment tells.
func (p *Provider) qemu(tag string, st state) (proc.Process, bool) {
	if st.Boot != proc.BootID() {
		return proc.Process{}, false
	}
	switch st.Stage {
	case started, born:
		if now, err := proc.Read(st.PID); err == nil && now.Start == st.Start && !now.Zombie {
			return now, true
		}
	case starting:
		all, _ := proc.All() // unreadable reads as "not running", and Delete looks again
		for _, a := range all {
			if !a.Zombie && a.Session == a.PID && a.HasEnv(tagVariable+"="+tag) {
				return a, true
			}
		}
	}
	return proc.Process{}, false
}

// reap collects a QEMU that ended and is our child, so that no zombie stays, and says
// how it ended: to the call that learns it and, by a file, to those after it.
func (p *Provider) reap(dir string, st state) string {
	note := filepath.Join(dir, endedFile)
	last, err := proc.Read(st.PID)
	if err != nil || last.Start != st.Start || last.PPID != os.Getpid() || !last.Zombie {
		text, _ := os.ReadFile(note)
		return cmp.Or(string(text), "QEMU was killed")
	}
	var how syscall.WaitStatus
	for range 100 {
		pid, err := syscall.Wait4(st.PID, &how, syscall.WNOHANG, nil)
		if pid == st.PID {
			break
		}
		if err != nil {
			return "" // another call was faster
		}
		time.Sleep(time.Millisecond) // its threads are still ending
	}
	text := fmt.Sprintf("QEMU ended with code %d", how.ExitStatus())
	if how.Signaled() {
		text = fmt.Sprintf("QEMU was ended by the signal %q", how.Signal())
	}
	_ = os.WriteFile(note, []byte(text), 0o600) // without it the reason is lost, and nothing else
	return text
}

// List yields the owner's instances: every directory, and every QEMU that carries our
// tag and has lost its directory; see provider.Provider.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(provider.Instance{}, err)
			return
		}
		runners, err := p.runners() // a missing directory is an error: an unmounted disk must not read as "no machines"
		for _, runner := range runners {
			if err = ctx.Err(); err != nil {
				break
			}
			inst, e := p.find(ctx, runner)
			if errors.Is(e, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err = e; err != nil {
				break
			}
			if !yield(inst, nil) {
				return
			}
		}
		var strays map[muster.RunnerID]provider.Instance
		if err == nil {
			strays, err = p.strays()
		}
		if err != nil {
			yield(provider.Instance{}, p.classify(err))
			return
		}
		for runner, inst := range strays {
			if _, err := os.Lstat(p.path(runner)); err == nil || slices.Contains(runners, runner) {
				continue // yielded, or created after the directory was read
			}
			if !yield(inst, nil) {
				return
			}
		}
	}
}

func (p *Provider) runners() (all []muster.RunnerID, err error) {
	entries, err := os.ReadDir(p.dir)
	for _, e := range entries {
		if runner := muster.RunnerID(e.Name()); runner.Valid() {
			all = append(all, runner)
		}
	}
	return all, err
}

// strays finds QEMUs with our tag, whether they have a directory or not.
func (p *Provider) strays() (map[muster.RunnerID]provider.Instance, error) {
	all, err := proc.All()
	found := map[muster.RunnerID]provider.Instance{}
	for _, a := range all {
		name, ours := strings.CutSuffix(a.Env(tagVariable), "."+p.mark)
		runner := muster.RunnerID(name)
		if ours && !a.Zombie && runner.Valid() && !strings.HasPrefix(name, "template-") && !strings.HasPrefix(name, "kept.") {
			found[runner] = provider.Instance{
				ID: p.name(runner), Runner: runner, State: provider.InstanceRunning,
				Detail: fmt.Sprintf("QEMU runs with pid %d and its directory is missing", a.PID),
			}
		}
	}
	return found, err
}

// tend looks after every machine that runs.
func (p *Provider) tend() {
	runners, err := p.runners()
	if err != nil {
		return // List says so
	}
	machines, _ := filepath.Glob(filepath.Join(p.dir, ".machines", "*"))
	for _, path := range machines {
		if st, err := readState(path); err == nil && st.Stage == born {
			if _, running := p.qemu("", st); running {
				trimConsole(path)
				p.attach(path, "", identity(st))
			}
		}
	}
	for _, runner := range runners {
		path := p.path(runner)
		st, err := readState(path)
		if err != nil || st.Stage != born {
			continue
		}
		if _, running := p.qemu("", st); !running {
			continue
		}
		trimConsole(path)
		if st.tooOld(time.Now(), time.Duration(p.cfg.Grace)) {
			_, _ = p.find(p.ctx, runner) // ends it; who asks learns it again
			continue
		}
		p.attach(path, st.URL, identity(st))
	}
}

// errAlive says that what was killed has not ended yet.
var errAlive = errors.New("QEMU is still ending")

// Delete asks the machine to power itself off, kills QEMU when that takes longer than
// Config.Grace since the first Delete, and removes the directory; see provider.Provider.
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
			if p.killTagged(p.name(runner), nil) { // one that has lost its directory
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
	if qemu, running := p.qemu(p.name(runner), st); running {
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
			for wait := time.Millisecond; qemu.Alive() && time.Since(st.Told) < time.Duration(p.cfg.Grace); wait = min(2*wait, 20*time.Millisecond) {
				if sleep(ctx, wait) != nil {
					return nil // accepted, and the next call goes on
				}
			}
			if qemu.Alive() {
				p.log.Warn("machine killed", "runner", runner, "reason", "did not power itself off in time", "grace", time.Duration(p.cfg.Grace))
			}
		}
	}
	if p.killTagged(p.name(runner), known) {
		return nil // accepted, and the next call goes on
	}
	p.reap(p.path(runner), st)
	if err := removeDir(path); err != nil {
		return p.classify(err)
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !runner.Valid() || limit < 0 {
		return nil, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	f, err := os.Open(filepath.Join(p.path(runner), consoleFile))
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
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-int64(limit)), int64(limit)))
	if err != nil {
		return nil, p.classify(err)
	}
	return text, nil
}
