package ssh

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Provider starts runners on hosts. Make it with New, end it with Close.
type Provider struct {
	cfg     Config
	log     *slog.Logger
	element string // the owner as one element of a path
	hosts   []*host
	// closing ends what works in the background; work are its goroutines.
	closing context.Context //nolint:containedctx // the provider's own life, not a call's
	stop    context.CancelFunc
	work    sync.WaitGroup

	mu sync.Mutex
	// where are the hosts on which a runner is or may be, as far as we know.
	where map[muster.RunnerID][]*host
	order []muster.RunnerID // of where, the oldest first
	// creating has a lock for each runner that a Create is at work on.
	creating map[muster.RunnerID]chan struct{}
	sum      agentSum
}

var (
	_ provider.Provider  = (*Provider)(nil)
	_ provider.Described = (*Provider)(nil)
	_ provider.Consoler  = (*Provider)(nil)
	_ io.Closer          = (*Provider)(nil)
)

// New checks the configuration, every problem of it at once. It connects to nothing.
func New(cfg Config) (*Provider, error) {
	problems := []error{cfg.Validate()}
	// Owners are words of the operator; escaped, they are one element of a path each.
	owner := "owner-" + strings.ReplaceAll(url.PathEscape(cfg.Owner), ".", "%2E")
	if cfg.Owner == "" || len(owner) > 200 {
		problems = append(problems, fmt.Errorf("owner: %q must have between 1 and some 60 characters", cfg.Owner))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	p := &Provider{
		cfg: cfg, log: cfg.Logger, element: owner,
		where: map[muster.RunnerID][]*host{}, creating: map[muster.RunnerID]chan struct{}{},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.closing, p.stop = context.WithCancel(context.Background())
	for _, given := range cfg.Hosts {
		h := cfg.host(given)
		// One machine may be several hosts, with different users or roots.
		sum := sha256.Sum256([]byte(cfg.Owner + "\x00" + h.User + "\x00" + h.Root))
		p.hosts = append(p.hosts, &host{
			Host: h, p: p, mark: hex.EncodeToString(sum[:6]),
			dialing: make(chan struct{}, 1), sending: make(chan struct{}, 1), sessions: make(chan struct{}, maxSessions),
		})
	}
	return p, nil
}

// Close ends the connections and waits for all that works in the background. What
// runs on the hosts goes on.
func (p *Provider) Close() error {
	p.stop()
	for _, h := range p.hosts {
		h.mu.Lock()
		conn := h.conn
		h.mu.Unlock()
		if conn != nil {
			conn.close()
		}
	}
	p.work.Wait()
	return nil
}

// Describe says what this platform is.
func (p *Provider) Describe() provider.Description { return description() }

// maxText is the most that a name given by others may have to be written down.
const maxText = 1024

func (p *Provider) check(spec provider.Spec) error {
	var why string
	switch {
	case !spec.Runner.Valid():
		why = fmt.Sprintf("runner id %q", spec.Runner)
	case cmp.Or(spec.Owner, p.cfg.Owner) != p.cfg.Owner:
		why = fmt.Sprintf("owner %q, and this provider makes instances of %q", spec.Owner, p.cfg.Owner)
	case spec.Boot.Token == "" || strings.ContainsAny(spec.Boot.Token.Reveal(), "\x00\r\n"):
		why = "no boot token"
	case len(spec.Boot.Token) > 16<<10: // it must fit into a pipe at once
		why = "a boot token of more than 16 KiB"
	case spec.Boot.URL == "" || strings.ContainsAny(spec.Boot.URL, "\x00\n\r"):
		why = fmt.Sprintf("control plane URL %q", spec.Boot.URL)
	case spec.MaxAge < 0:
		why = fmt.Sprintf("maximum age %s", spec.MaxAge)
	case len(spec.Pool) > maxText || len(spec.Workspace) > maxText || len(spec.TraceID) > maxText:
		why = "a name of more than 1024 characters"
	case !slices.ContainsFunc(p.hosts, func(h *host) bool { return h.serves(spec.Offering) }):
		why = fmt.Sprintf("no host serves the offering %q; name it under offerings of a host", spec.Offering.Name)
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", provider.ErrInvalid, why)
}

// serves reports whether runners of an offering may come here.
func (h *host) serves(o muster.Offering) bool {
	if len(h.Offerings) == 0 {
		return o.GPUs == 0 // a host with GPUs says so by the offerings that it names
	}
	return slices.Contains(h.Offerings, o.Name)
}

// Create places a runner on the host with the most free slots and starts its agent
// there; see provider.Provider.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if err := p.check(spec); err != nil {
		return provider.Instance{}, err
	}
	done, err := p.alone(ctx, spec.Runner)
	if err != nil {
		return provider.Instance{}, err
	}
	defer done()
	for range 8 {
		inst, again, err := p.place(ctx, spec)
		if !again {
			return inst, err
		}
		// Another control plane placed it at the same moment, and both stepped back.
		if err := sleep(ctx, time.Duration(10+rand.IntN(90))*time.Millisecond); err != nil {
			return provider.Instance{}, err
		}
	}
	return provider.Instance{}, fmt.Errorf("%w: another control plane keeps placing runner %s", provider.ErrTransient, spec.Runner)
}

// alone waits until no other Create of this provider works on the runner.
func (p *Provider) alone(ctx context.Context, runner muster.RunnerID) (done func(), err error) {
	for {
		p.mu.Lock()
		busy, ok := p.creating[runner]
		if !ok {
			mine := make(chan struct{})
			p.creating[runner] = mine
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				delete(p.creating, runner)
				p.mu.Unlock()
				close(mine)
			}, nil
		}
		p.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// place finds the runner's instance or makes one. again says that another control
// plane was at it, and that nothing of ours is left.
//
// A host is claimed first: the directory is made. If another host turns out to have
// the runner, too, the claim is withdrawn: whoever claims before he looks sees one
// who has claimed before him, so that of two at once one steps back at least.
func (p *Provider) place(ctx context.Context, spec provider.Spec) (inst provider.Instance, again bool, err error) {
	fail := func(err error) (provider.Instance, bool, error) { return provider.Instance{}, false, err }
	candidates, err := p.candidates(ctx, spec)
	if err != nil {
		return fail(err)
	}
	var refusals []error
	for _, h := range candidates {
		program, err := h.agentFile(ctx)
		if err == nil {
			inst, again, err = h.begin(ctx, spec, program)
		}
		switch {
		case err == nil:
			return inst, again, nil
		case ctx.Err() != nil:
			return fail(ctx.Err())
		case errors.Is(err, errFull):
		case unreachedBy(err):
		case errors.Is(err, errAgent):
		default:
			// Something may have been started there: the caller asks again, and this host
			// is asked again, too.
			return fail(err)
		}
		refusals = append(refusals, err)
	}
	return fail(refusal(refusals))
}

func unreachedBy(err error) bool {
	_, ok := errors.AsType[*unreached](err)
	return ok
}

var (
	errFull  = errors.New("full")
	errAgent = errors.New("agent")
)

// refusal joins why no host took a runner. While one is full, there is hope in waiting.
func refusal(why []error) error {
	class := provider.ErrTransient
	var words []string
	for _, err := range why {
		if errors.Is(err, errFull) || errors.Is(err, provider.ErrCapacity) {
			class = provider.ErrCapacity
		}
		text := strings.TrimPrefix(err.Error(), provider.ErrTransient.Error()+": ")
		words = append(words, strings.TrimPrefix(text, errFull.Error()+": "))
	}
	if len(words) == 0 {
		words = []string{"no host could be asked"}
	}
	return fmt.Errorf("%w: %s", class, strings.Join(words, "; "))
}

// candidates are the hosts to try, the best first: the one that has the runner, or
// may have it, and no other; else those with the most free slots.
func (p *Provider) candidates(ctx context.Context, spec provider.Spec) ([]*host, error) {
	if known := p.known(spec.Runner); len(known) > 0 {
		var unknown error
		for _, v := range p.survey(ctx, spec.Runner, known) {
			switch {
			case v.err != nil:
				unknown = errors.Join(unknown, v.err)
			case len(v.instances) > 0:
				return []*host{v.host}, nil
			}
		}
		if unknown != nil {
			return nil, fmt.Errorf("runner %s may have been started there: %w", spec.Runner, unknown)
		}
		p.forget(spec.Runner)
	}
	if len(p.hosts) == 1 {
		return p.hosts, nil // it says by itself whether it has the runner, or room
	}
	views := p.survey(ctx, spec.Runner, p.hosts)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var refusals []error
	var usable []view
	for _, v := range views {
		switch {
		case v.err == nil && len(v.instances) > 0:
			return []*host{v.host}, nil
		case !v.host.serves(spec.Offering):
		case v.err != nil:
			refusals = append(refusals, v.err)
		case v.count >= v.host.Slots:
			refusals = append(refusals, v.host.full(v.count))
		default:
			usable = append(usable, v)
		}
	}
	if len(usable) == 0 {
		return nil, refusal(refusals)
	}
	// Of equals, every control plane takes the same.
	rank := func(v view) uint64 {
		f := fnv.New64a()
		_, _ = io.WriteString(f, string(spec.Runner)+"@"+v.host.Name) // never fails
		return f.Sum64()
	}
	slices.SortFunc(usable, func(a, b view) int {
		return cmp.Or(cmp.Compare(a.count*b.host.Slots, b.count*a.host.Slots), cmp.Compare(rank(a), rank(b)))
	})
	out := make([]*host, 0, len(usable))
	for _, v := range usable {
		out = append(out, v.host)
	}
	return out, nil
}

func (h *host) full(count int) error {
	where := h.Name
	if h.Zone != "" {
		where += " in zone " + h.Zone
	}
	return fmt.Errorf("%w: host %s has %d runners in %d slots", errFull, where, count, h.Slots)
}

// view is what a host says of itself, and of one runner or of all.
type view struct {
	host      *host
	machine   string // its architecture
	count     int
	instances []provider.Instance
	err       error
}

// survey asks hosts, all at once.
func (p *Provider) survey(ctx context.Context, runner muster.RunnerID, hosts []*host) []view {
	views := make([]view, len(hosts))
	var asking sync.WaitGroup
	for i, h := range hosts {
		asking.Go(func() { views[i] = h.look(ctx, runner) })
	}
	asking.Wait()
	for _, v := range views {
		for _, inst := range v.instances {
			p.note(inst.Runner, v.host)
		}
	}
	return views
}

// look asks a host for a runner, or for all if runner is "".
func (h *host) look(ctx context.Context, runner muster.RunnerID) view {
	s, err := h.ask(ctx, "look", runner)
	if err != nil {
		return view{host: h, err: err}
	}
	v := view{host: h}
	if _, err := fmt.Sscanf(s.word, "host %s %d", &v.machine, &v.count); err != nil {
		v.err = fmt.Errorf("%w: host %s answered %q", provider.ErrTransient, h.Name, s.word)
		return v
	}
	for _, f := range s.instances {
		inst, err := h.aged(ctx, f)
		if err != nil {
			v.err = err
			return v
		}
		v.instances = append(v.instances, inst)
	}
	return v
}

// aged ends an instance that should have ended by itself.
func (h *host) aged(ctx context.Context, f found) (provider.Instance, error) {
	if f.instance.State != provider.InstanceRunning || !f.record.tooOld(time.Now(), time.Duration(h.p.cfg.Grace)) {
		if f.instance.State == provider.InstanceEnded && f.record.tooOld(time.Now(), 0) {
			f.instance.Detail += fmt.Sprintf(", at its maximum age of %s", f.record.MaxAge)
		}
		return f.instance, nil
	}
	h.p.log.Warn("runner killed", "runner", f.instance.Runner, "host", h.Name, "reason", "maximum age", "max_age", f.record.MaxAge)
	s, err := h.ask(ctx, "expire", f.instance.Runner)
	if err != nil {
		return f.instance, err
	}
	if len(s.instances) == 1 {
		f.instance.State = s.instances[0].instance.State
	}
	f.instance.Detail = fmt.Sprintf("killed at its maximum age of %s", f.record.MaxAge)
	return f.instance, nil
}

// begin claims a place for the runner on this host and starts its agent.
func (h *host) begin(ctx context.Context, spec provider.Spec, program string) (inst provider.Instance, again bool, err error) {
	text, err := json.Marshal(record{
		Runner: spec.Runner, Owner: h.p.cfg.Owner, Workspace: spec.Workspace, Pool: spec.Pool, TraceID: spec.TraceID,
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond), MaxAge: spec.MaxAge,
	})
	if err != nil {
		return inst, false, fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	h.p.note(spec.Runner, h)
	operation, args := "claim", []string{strconv.Itoa(h.Slots), string(text)}
	if len(h.p.hosts) == 1 {
		operation, args = "create", append(args, h.startArgs(spec, program)...)
	}
	s, err := h.ask(ctx, operation, spec.Runner, args...)
	switch {
	case unreachedBy(err):
		h.p.forget(spec.Runner)
		return inst, false, err
	case err != nil:
		return inst, false, err
	case strings.HasPrefix(s.word, "full"):
		h.p.forget(spec.Runner)
		count, _ := strconv.Atoi(strings.TrimPrefix(s.word, "full ")) // a wrong number is only shown
		return inst, false, h.full(count)
	case len(s.instances) != 1:
		return inst, true, nil // deleted meanwhile
	case s.word != "claimed":
		return s.instances[0].instance, false, nil // it was started before
	}
	var others []*host
	for _, o := range h.p.hosts {
		if o != h {
			others = append(others, o)
		}
	}
	for _, v := range h.p.survey(ctx, spec.Runner, others) {
		if len(v.instances) == 0 {
			continue
		}
		s, err := h.ask(ctx, "withdraw", spec.Runner)
		if err != nil {
			return inst, false, err
		}
		if len(s.instances) == 1 {
			return s.instances[0].instance, false, nil // somebody has started it here
		}
		return inst, true, nil
	}
	if err := ctx.Err(); err != nil {
		return inst, false, err
	}
	if s, err = h.ask(ctx, "start", spec.Runner, h.startArgs(spec, program)...); err != nil {
		return inst, false, err
	}
	if len(s.instances) != 1 {
		return inst, true, nil // another control plane withdrew it
	}
	h.p.log.Debug("runner started", "runner", spec.Runner, "host", h.Name, "instance", s.instances[0].instance.ID)
	return s.instances[0].instance, false, nil
}

// startArgs are the arguments of start in program.sh. The token is the last.
func (h *host) startArgs(spec provider.Spec, program string) []string {
	age, trace, download, engines := "", "", "", ""
	if h.p.cfg.OwnEngines {
		engines = "machine"
	}
	if spec.MaxAge > 0 {
		age = spec.MaxAge.String()
	}
	if !strings.ContainsAny(spec.TraceID, "\x00\r\n") {
		trace = spec.TraceID
	}
	if h.p.cfg.Download || h.RunnerDir == "" {
		download = "1"
	}
	// The agent must be done, its last report included, before Delete turns to SIGKILL.
	grace := (time.Duration(h.p.cfg.Grace) * 3 / 5).String()
	return []string{program, h.RunnerDir, grace, spec.Boot.URL, age, trace, download, strings.Join(h.p.cfg.Env, " "), engines, spec.Boot.Token.Reveal()}
}

// maxKnown is of how many runners it is remembered where they are. Of others, every
// host is asked.
const maxKnown = 20_000

// note remembers that a runner is on a host, or may be.
func (p *Provider) note(runner muster.RunnerID, h *host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have, ok := p.where[runner]
	if slices.Contains(have, h) {
		return
	}
	if !ok {
		if len(p.order) >= maxKnown {
			delete(p.where, p.order[0])
			p.order = p.order[1:]
		}
		p.order = append(p.order, runner)
	}
	p.where[runner] = append(have, h)
}

func (p *Provider) forget(runner muster.RunnerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.where, runner)
	if i := slices.Index(p.order, runner); i >= 0 {
		p.order = slices.Delete(p.order, i, i+1)
	}
}

// known are the hosts on which a runner is or may be; nil if that is not known.
func (p *Provider) known(runner muster.RunnerID) []*host {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.where[runner])
}

// places are the hosts to ask for a runner. One that is known to be somewhere is
// nowhere else, so that a host that is down keeps no other host's runners from
// being found and deleted.
func (p *Provider) places(runner muster.RunnerID) []*host {
	if known := p.known(runner); len(known) > 0 {
		return known
	}
	return p.hosts
}

// Get asks the runner's host, or all; see provider.Provider. While one of those that
// may have it cannot be asked, ErrNotFound is never the answer.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if !runner.Valid() {
		return provider.Instance{}, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	var failed error
	for _, v := range p.survey(ctx, runner, p.places(runner)) {
		if len(v.instances) > 0 {
			return v.instances[0], nil
		}
		failed = errors.Join(failed, v.err)
	}
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if failed != nil {
		return provider.Instance{}, failed
	}
	return provider.Instance{}, fmt.Errorf("%w: no host has runner %s", provider.ErrNotFound, runner)
}

// List asks all hosts; see provider.Provider. A host that cannot be asked is an error
// at the end: what it has is not known, and not gone.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(provider.Instance{}, err)
			return
		}
		views := p.survey(ctx, "", p.hosts)
		for _, v := range views {
			for _, inst := range v.instances {
				if !yield(inst, nil) {
					return
				}
			}
		}
		for _, v := range views {
			if v.err != nil && !yield(provider.Instance{}, v.err) {
				return
			}
		}
	}
}

// Delete ends the runner where it is, and removes its directory. It waits for the end,
// at most Config.Grace, so that the call that removes the last part says
// ErrNotFound itself; see provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !runner.Valid() {
		return fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	hosts := p.places(runner)
	said := make([]string, len(hosts))
	errs := make([]error, len(hosts))
	var asking sync.WaitGroup
	for i, h := range hosts {
		asking.Go(func() {
			s, err := h.destroy(ctx, runner)
			said[i], errs[i] = s, err
			if err == nil && s != "absent" {
				p.note(runner, h) // also when it is gone: no other host has it
			}
		})
	}
	asking.Wait()
	if slices.Contains(said, "ending") {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := errors.Join(errs...); err != nil && (!slices.Contains(said, "gone") || !allUnreached(errs)) {
		return err
	}
	return fmt.Errorf("%w: nothing is left of runner %s", provider.ErrNotFound, runner)
}

func allUnreached(errs []error) bool {
	return !slices.ContainsFunc(errs, func(err error) bool { return err != nil && !unreachedBy(err) })
}

// destroy answers "gone", "absent" or "ending".
func (h *host) destroy(ctx context.Context, runner muster.RunnerID) (string, error) {
	grace := time.Duration(h.p.cfg.Grace)
	patience := min(grace, time.Duration(h.p.cfg.CallTimeout)/2)
	if due, ok := ctx.Deadline(); ok {
		patience = max(0, min(patience, time.Until(due)/2))
	}
	s, err := h.ask(ctx, "destroy", runner, strconv.Itoa(int((grace+time.Second-1)/time.Second)), strconv.Itoa(int(patience/(100*time.Millisecond))))
	if err != nil {
		return "", err
	}
	switch s.word {
	case "gone", "absent", "ending":
		return s.word, nil
	}
	return "", fmt.Errorf("%w: host %s answered %q", provider.ErrTransient, h.Name, s.word)
}

// Console returns the end of what the agent and the runner printed.
func (p *Provider) Console(ctx context.Context, runner muster.RunnerID, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !runner.Valid() || limit < 0 {
		return nil, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	var failed error
	for _, h := range p.places(runner) {
		text, err := h.run(ctx, call{"console", runner, []string{strconv.Itoa(min(limit, maxAnswer/2))}})
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if log, ok := strings.CutPrefix(text, "log\n"); ok {
			return []byte(log), nil
		}
	}
	if failed != nil {
		return nil, failed
	}
	return nil, fmt.Errorf("%w: runner %s printed nothing", provider.ErrNotFound, runner)
}

// agentSum is the checksum of the agent program, and of which file it is.
type agentSum struct {
	sum     string
	size    int64
	changed time.Time
	machine string // the architecture that it is for; "" for a script
}

// agent opens the agent program and returns its checksum.
func (p *Provider) agent() (*os.File, agentSum, error) {
	f, err := os.Open(p.cfg.Agent)
	if err != nil {
		return nil, agentSum{}, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, agentSum{}, err
	}
	p.mu.Lock()
	known := p.sum
	p.mu.Unlock()
	if known.sum != "" && known.size == info.Size() && known.changed.Equal(info.ModTime()) {
		return f, known, nil
	}
	digest := sha256.New()
	if _, err = io.Copy(digest, f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, agentSum{}, err
	}
	known = agentSum{hex.EncodeToString(digest.Sum(nil)), info.Size(), info.ModTime(), machineOf(f)}
	p.mu.Lock()
	p.sum = known
	p.mu.Unlock()
	return f, known, nil
}

// machineOf is what uname -m says on the machines that a program runs on.
func machineOf(f io.ReaderAt) string {
	program, err := elf.NewFile(f)
	if err != nil {
		return "" // a script, which runs everywhere
	}
	switch program.Machine {
	case elf.EM_X86_64:
		return "x86_64"
	case elf.EM_AARCH64:
		return "aarch64"
	}
	return ""
}

// agentFile returns the path of the agent on the host. It is sent if the host has none
// with this checksum; that is verified once for each connection.
func (h *host) agentFile(ctx context.Context) (string, error) {
	program, want, err := h.p.agent()
	if err != nil {
		return "", fmt.Errorf("%w: agent: %w", provider.ErrTransient, err)
	}
	defer program.Close()
	conn, err := h.connect(ctx)
	if err != nil {
		return "", h.classify(ctx, err)
	}
	if file := conn.agentFile(want.sum); file != "" {
		return file, nil
	}
	select {
	case h.sending <- struct{}{}:
		defer func() { <-h.sending }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if file := conn.agentFile(want.sum); file != "" {
		return file, nil // another call has sent it
	}
	name := "bin/muster-agent-" + want.sum
	s, err := h.ask(ctx, "has", "", name, want.sum)
	if err != nil {
		return "", err
	}
	there, machine, _ := strings.Cut(s.word, " ")
	if want.machine != "" && machine != want.machine {
		return "", fmt.Errorf("%w: %w: host %s is a %s machine, and %s is a program for %s: build cmd/muster-agent with the right GOARCH, and make a provider of its own for such hosts", provider.ErrTransient, errAgent, h.Name, machine, h.p.cfg.Agent, want.machine)
	}
	file := s.rest
	if there != "yes" {
		put := call{"put", "", []string{name, want.sum}}.text(h.Root, h.p.element, h.mark)
		start := time.Now()
		said, err := h.exec(ctx, commandPut, io.MultiReader(strings.NewReader(strconv.Itoa(len(put))+"\n"+put), program))
		if err != nil {
			if !unreachedBy(err) && ctx.Err() == nil {
				err = fmt.Errorf("%w: send the agent: %w", errAgent, err)
			}
			return "", err
		}
		text, err := answer(said)
		if err == nil {
			s, err = read(text, h.id)
		}
		if err != nil || !strings.HasPrefix(s.word, "yes ") {
			return "", fmt.Errorf("%w: %w: host %s did not take the agent: %q", provider.ErrTransient, errAgent, h.Name, said)
		}
		file = s.rest
		h.p.log.Info("agent sent", "host", h.Name, "sha256", want.sum, "bytes", want.size, "took", time.Since(start).Round(time.Millisecond))
	}
	conn.mu.Lock()
	conn.agent[want.sum] = file
	conn.mu.Unlock()
	return file, nil
}

func (c *connection) agentFile(sum string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.agent[sum]
}
