package container

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/recorder"
	"github.com/muster-ci/muster/provider"
)

// Provider runs runners in containers of one engine. Make it with New; Close ends
// pulls that are under way.
type Provider struct {
	cfg    Config
	log    *slog.Logger
	engine *engine
	pulls  pulls
	// admitting is held while places are counted, so that many calls cannot take the last one.
	admitting mutex
	places    places
	// network is held for reading while a container may be without its network, and
	// for writing while networks without containers are removed.
	network sync.RWMutex
	// keeping is held while a kept machine is looked at and started or stopped.
	keeping mutex
	// recorder records jobs; containers have no right to.
	recorder recorder.Shared
}

var (
	_ provider.Provider     = (*Provider)(nil)
	_ provider.StartStopper = (*Provider)(nil)
	_ provider.Described    = (*Provider)(nil)
	_ provider.Consoler     = (*Provider)(nil)
	_ io.Closer             = (*Provider)(nil)
)

// mutex is a lock that one need not wait for longer than a context lasts.
type mutex chan struct{}

func (m mutex) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", provider.ErrTransient, ctx.Err())
	}
}

func (m mutex) unlock() { <-m }

// New checks the configuration and reports every problem at once. It does not ask
// the engine, which may come later.
func New(cfg Config) (*Provider, error) {
	problems := []error{cfg.Validate()}
	if cfg.Owner == "" || len(cfg.Owner) > 255 {
		problems = append(problems, fmt.Errorf("owner: %q must have between 1 and 255 characters", cfg.Owner))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	e, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		cfg: cfg, log: cfg.Logger, engine: e, admitting: make(mutex, 1), keeping: make(mutex, 1),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.places.promised = map[muster.RunnerID][]string{}
	p.pulls.active = map[string]*pull{}
	p.pulls.ctx, p.pulls.end = context.WithCancel(context.Background())
	return p, nil
}

// Close ends every pull and waits for it. Containers live on.
func (p *Provider) Close() error {
	p.pulls.mu.Lock()
	p.pulls.end()
	p.pulls.mu.Unlock()
	p.pulls.wait.Wait()
	p.engine.close()
	return nil
}

// Describe says what the configuration makes of the platform.
func (p *Provider) Describe() provider.Description {
	d := description()
	d.Isolation = fmt.Sprintf("That of %s: %s.", p.cfg.Isolation, classes[p.cfg.Isolation].says)
	return d
}

// mark distinguishes our names from other owners'.
func (c Config) mark() string {
	sum := sha256.Sum256([]byte(c.Owner))
	return hex.EncodeToString(sum[:6])
}

// name is the container's name and the instance's ID.
func (c Config) name(runner muster.RunnerID) string {
	return "muster-" + string(runner) + "-" + c.mark()
}

const sidecarSuffix = "-sidecar"

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
	case len(spec.Boot.Token) > 16<<10: // the agent's pipe must take it at once
		why = "a boot token of more than 16 KiB"
	case spec.Boot.URL == "" || strings.ContainsAny(spec.Boot.URL, "\x00\n\r"):
		why = fmt.Sprintf("control plane URL %q", spec.Boot.URL)
	case spec.MaxAge < 0:
		why = fmt.Sprintf("maximum age %s", spec.MaxAge)
	case len(spec.Pool) > maxText || len(spec.Workspace) > maxText || len(spec.TraceID) > maxText:
		why = "a name of more than 1024 characters"
	case spec.Offering.CPUs < 0 || spec.Offering.MemoryMiB < 0 || spec.Offering.GPUs < 0:
		why = "a size below zero"
	case spec.Offering.GPUs > len(p.cfg.GPUs):
		why = fmt.Sprintf("%d GPUs, and gpus names %d", spec.Offering.GPUs, len(p.cfg.GPUs))
	case cmp.Or(spec.Offering.Image, p.cfg.Image) == "":
		why = "no image: name one in the offering, or for all in the provider's image"
	default:
		if _, err := imageName(cmp.Or(spec.Offering.Image, p.cfg.Image)); err != nil {
			return fmt.Errorf("%w: image %q: %w", provider.ErrInvalid, cmp.Or(spec.Offering.Image, p.cfg.Image), err)
		}
		return nil
	}
	return fmt.Errorf("%w: %s", provider.ErrInvalid, why)
}

// Create makes the runner's container, checks what isolates it, starts it and hands
// the boot token to the agent's standard input; see provider.Provider.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if err := p.check(spec); err != nil {
		return provider.Instance{}, err
	}
	there, gpus, release, err := p.admit(ctx, spec)
	if err != nil {
		return provider.Instance{}, err
	}
	defer release()
	if there != nil && state(there.State) != container.StateCreated {
		return p.look(*there), nil
	}
	if err := p.rlock(ctx); err != nil {
		return provider.Instance{}, err
	}
	defer p.network.RUnlock()
	made, err := p.make(ctx, spec, gpus, there != nil)
	if err != nil {
		return provider.Instance{}, err
	}
	if made.started {
		return p.look(made.Summary), nil
	}
	if err := p.launch(ctx, spec, made.Summary); err != nil {
		// What another call made is that call's, unless nobody may start it.
		if made.mine || errors.Is(err, provider.ErrInvalid) {
			p.undo(ctx, p.cfg.name(spec.Runner))
		}
		return provider.Instance{}, err
	}
	made.State = container.StateRunning
	made.Status = ""
	return p.look(made.Summary), nil
}

// rlock is network.RLock for as long as ctx lasts.
func (p *Provider) rlock(ctx context.Context) error { return await(ctx, p.network.TryRLock) }

// await tries until it succeeds or ctx ends.
func await(ctx context.Context, try func() bool) error {
	for !try() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", provider.ErrTransient, ctx.Err())
		}
	}
	return nil
}

// state is a container's state in Docker's words; Podman has more of them.
func state(s container.ContainerState) container.ContainerState {
	switch s {
	case "configured", "initialized":
		return container.StateCreated
	case "stopped":
		return container.StateExited
	case "stopping":
		return container.StateRunning
	}
	return s
}

// admit finds the runner's container, or a place for it. The place is the runner's
// until release is called, by when its container can be listed.
func (p *Provider) admit(ctx context.Context, spec provider.Spec) (there *container.Summary, gpus []string, release func(), err error) {
	if err := p.admitting.lock(ctx); err != nil {
		return nil, nil, nil, err
	}
	defer p.admitting.unlock()
	// In this order: a container that appears in between is counted once, and not never.
	promised := p.places.all()
	parts, err := p.parts(ctx, "")
	if err != nil {
		return nil, nil, nil, err
	}
	taken := map[muster.RunnerID]bool{}
	used := map[string]bool{}
	for i, part := range parts {
		runner := muster.RunnerID(part.Labels[labelRunner])
		taken[runner] = true
		for g := range strings.SplitSeq(part.Labels[labelGPUs], ",") {
			used[g] = true
		}
		if runner == spec.Runner && part.Labels[labelPart] == partRunner {
			return &parts[i], nil, func() {}, nil
		}
	}
	for runner, devices := range promised {
		taken[runner] = true
		for _, g := range devices {
			used[g] = true
		}
	}
	if devices, ok := promised[spec.Runner]; ok {
		return nil, devices, func() {}, nil // another call for this runner holds the place
	}
	if !taken[spec.Runner] && len(taken) >= p.cfg.Max {
		return nil, nil, nil, fmt.Errorf("%w: %d of %d runners exist on this engine (max)", provider.ErrCapacity, len(taken), p.cfg.Max)
	}
	for _, g := range p.cfg.GPUs {
		if len(gpus) < spec.Offering.GPUs && !used[g] {
			gpus = append(gpus, g)
		}
	}
	if len(gpus) < spec.Offering.GPUs {
		return nil, nil, nil, fmt.Errorf("%w: %d of %d GPUs are free, and %d are needed", provider.ErrCapacity, len(gpus), len(p.cfg.GPUs), spec.Offering.GPUs)
	}
	p.places.take(spec.Runner, gpus)
	return nil, gpus, func() { p.places.free(spec.Runner) }, nil
}

// places are promised to runners that may have no container yet, each with its GPUs.
type places struct {
	mu       sync.Mutex
	promised map[muster.RunnerID][]string
}

func (p *places) all() map[muster.RunnerID][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.promised)
}

func (p *places) take(runner muster.RunnerID, gpus []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.promised[runner] = gpus
}

func (p *places) free(runner muster.RunnerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.promised, runner)
}

// made is a container that exists, whether somebody has started it already, and whether
// this call has created it.
type made struct {
	container.Summary
	started, mine bool
}

// make creates the runner's container, with its image and network, or finds the one that another
// call has created.
func (p *Provider) make(ctx context.Context, spec provider.Spec, gpus []string, exists bool) (made, error) {
	if exists {
		return p.taken(ctx, spec.Runner, nil)
	}
	image, err := imageName(cmp.Or(spec.Offering.Image, p.cfg.Image))
	if err != nil {
		return made{}, fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	if p.cfg.Pull == PullAlways {
		if err := p.pull(ctx, image); err != nil {
			return made{}, err
		}
	}
	if err := p.ensureNetwork(ctx, spec.Workspace); err != nil {
		return made{}, err
	}
	now := time.Now().Truncate(time.Microsecond)
	req := p.cfg.request(spec, image.String(), gpus, p.engine.local(), p.engine.podman(), now)
	if spec.Trace && p.engine.local() && p.cfg.Isolation == sharedKernel {
		withRecorder(&req, p.recorder.Socket(ctx, p.cfg.Agent, true, p.log))
	}
	id, err := p.create(ctx, req)
	if errdefs.IsNotFound(err) && noImage(err) {
		if p.cfg.Pull == PullNever {
			return made{}, fmt.Errorf("%w: the engine has no image %s, and pull is never: load it, or set pull: missing", provider.ErrInvalid, image)
		}
		if err := p.pull(ctx, image); err != nil {
			return made{}, err
		}
		id, err = p.create(ctx, req)
	}
	if err != nil {
		if found, lost := p.taken(ctx, spec.Runner, err); lost == nil {
			return found, nil
		}
		if errdefs.IsNotFound(err) {
			return made{}, fmt.Errorf("%w: create container: %w", provider.ErrTransient, err)
		}
		return made{}, p.classify("create container", err)
	}
	return made{Summary: container.Summary{ID: id, Names: []string{"/" + req.Name}, Labels: req.Config.Labels, State: container.StateCreated}, mine: true}, nil
}

// visible is how long a container may need to be what its name promises: Docker gives
// the name away first, then lists the container, and only then answers questions about it.
const visible = 3 * time.Second

// taken finds the container that another call was faster to create, or that was created by one whose
// answer was lost. refused is what the engine said to a creation, if one was tried.
func (p *Provider) taken(ctx context.Context, runner muster.RunnerID, refused error) (made, error) {
	conflict := refused == nil || errdefs.IsConflict(refused) || strings.Contains(refused.Error(), "already in use")
	for end := time.Now().Add(visible); ; {
		found, err := p.find(ctx, runner)
		if err == nil && !found.started {
			_, err = p.engine.ContainerInspect(ctx, found.ID, inspectAll)
			if errdefs.IsNotFound(err) {
				err = fmt.Errorf("%w: container %s is still being made", provider.ErrNotFound, found.ID)
			} else {
				err = p.classify("inspect container", err)
			}
		}
		if err == nil || !conflict || !errors.Is(err, provider.ErrNotFound) {
			return found, err
		}
		if time.Now().After(end) {
			return made{}, fmt.Errorf("%w: %w", provider.ErrTransient, err)
		}
		select {
		case <-ctx.Done():
			return made{}, fmt.Errorf("%w: %w: %w", provider.ErrTransient, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func noImage(err error) bool { return strings.Contains(strings.ToLower(err.Error()), "image") }

// create returns the engine's id of a new container. Docker may not know it by its
// name yet.
func (p *Provider) create(ctx context.Context, req client.ContainerCreateOptions) (string, error) {
	answer, err := p.engine.ContainerCreate(ctx, req)
	for _, w := range answer.Warnings {
		p.log.Debug("engine's warning", "instance", req.Name, "warning", w)
	}
	return answer.ID, err
}

// find returns the runner's own container.
func (p *Provider) find(ctx context.Context, runner muster.RunnerID) (made, error) {
	parts, err := p.parts(ctx, runner)
	if err != nil {
		return made{}, err
	}
	for _, part := range parts {
		if part.Labels[labelPart] == partRunner {
			return made{Summary: part, started: state(part.State) != container.StateCreated}, nil
		}
	}
	return made{}, fmt.Errorf("%w: runner %s has no container", provider.ErrNotFound, runner)
}

// launch verifies a created container, starts it and hands over the token. Two calls
// may do so at once: a start of what has started is nothing, and the agent reads
// one of two tokens.
func (p *Provider) launch(ctx context.Context, spec provider.Spec, c container.Summary) error {
	if err := p.verify(ctx, c.ID); err != nil {
		return err
	}
	if !p.engine.local() {
		if err := p.copyAgent(ctx, c.ID); err != nil {
			return err
		}
	}
	in, err := p.engine.ContainerAttach(ctx, c.ID, client.ContainerAttachOptions{Stream: true, Stdin: true})
	if err != nil {
		return p.classify("attach to container", err)
	}
	defer in.Close()
	// Writing does not know the context, and closing ends it.
	stop := context.AfterFunc(ctx, in.Close)
	defer stop()
	if _, err := p.engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		return p.startFailed("start container", err)
	}
	if p.cfg.Sidecar != nil {
		if err := p.startSidecar(ctx, spec); err != nil {
			p.kill(ctx, c.ID)
			return err
		}
	}
	if _, err := io.WriteString(in.Conn, spec.Boot.Token.Reveal()+"\n"); err != nil {
		return p.handOver(ctx, err)
	}
	if err := in.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		return p.handOver(ctx, err)
	}
	p.log.Debug("runner started", "runner", spec.Runner, "instance", p.cfg.name(spec.Runner), "trace_id", spec.TraceID, "created", c.Labels[labelCreated])
	return nil
}

func (p *Provider) handOver(ctx context.Context, err error) error {
	return fmt.Errorf("%w: hand over boot token: %w", provider.ErrTransient, errors.Join(ctx.Err(), err))
}

// startFailed classifies an error of a start: what the engine does not find then is
// a network or a device, which an operator may bring back.
func (p *Provider) startFailed(what string, err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %s: %w", provider.ErrTransient, what, err)
	}
	return p.classify(what, err)
}

// undoTimeout is how long a failed Create may take to clean up behind itself. What it
// leaves, the caller deletes.
const undoTimeout = 5 * time.Second

// undo removes a container that did not start. Without force, so that it does nothing
// to one that another call has started meanwhile.
func (p *Provider) undo(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, part := range []string{name + sidecarSuffix, name} {
		if _, err := p.engine.ContainerRemove(ctx, part, client.ContainerRemoveOptions{RemoveVolumes: true}); err != nil && !errdefs.IsNotFound(err) {
			p.log.Debug("container left for deletion", "instance", part, "error", err)
		}
	}
}

// kill ends a container that started and must not go on.
func (p *Provider) kill(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if _, err := p.engine.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: "SIGKILL"}); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		p.log.Debug("container not killed", "instance", name, "error", err)
	}
}

// copyAgent puts the agent into a container of an engine that does not see this
// machine's files.
func (p *Provider) copyAgent(ctx context.Context, id string) error {
	program, err := os.ReadFile(p.cfg.Agent)
	if err != nil {
		return fmt.Errorf("%w: read agent: %w", provider.ErrTransient, err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(mountDir, "/") + "/", Mode: 0o755}),
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(agentPath, "/"), Mode: 0o755, Size: int64(len(program))}))
	if err == nil {
		_, err = w.Write(program)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("%w: pack agent: %w", provider.ErrInvalid, err)
	}
	if _, err := p.engine.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/", Content: &archive}); err != nil {
		return p.classify("copy "+path.Base(p.cfg.Agent)+" into container", err)
	}
	return nil
}

// parts lists the containers of a runner, or of all runners of the owner, whatever their state.
func (p *Provider) parts(ctx context.Context, runner muster.RunnerID) ([]container.Summary, error) {
	f := client.Filters{}.Add("label", labelOwner+"="+p.cfg.Owner)
	if runner != "" {
		f.Add("label", labelRunner+"="+string(runner))
	}
	answer, err := p.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
	if err != nil {
		return nil, p.classify("list containers", err)
	}
	// An engine that does not know the filter must not make others' containers ours.
	return slices.DeleteFunc(answer.Items, func(s container.Summary) bool {
		id := muster.RunnerID(s.Labels[labelRunner])
		return s.Labels[labelOwner] != p.cfg.Owner || !id.Valid() || runner != "" && id != runner
	}), nil
}

// abandoned is when a container that was created and not started will never be:
// whoever created it starts it in the same call.
const abandoned = 2 * time.Minute

// look says how a runner's container stands.
func (p *Provider) look(c container.Summary) provider.Instance {
	runner := muster.RunnerID(c.Labels[labelRunner])
	inst := provider.Instance{ID: p.cfg.name(runner), Runner: runner, State: provider.InstanceEnded, Detail: c.Status}
	if at, err := time.Parse(time.RFC3339Nano, c.Labels[labelCreated]); err == nil {
		inst.CreatedAt = at
	} else {
		inst.CreatedAt = time.Unix(c.Created, 0).UTC()
	}
	switch {
	case c.Labels[labelPart] != partRunner:
		inst.Detail = "its container is gone, and its sidecar is left"
	case state(c.State) == container.StateCreated && time.Since(inst.CreatedAt) < abandoned:
		inst.State, inst.Detail = provider.InstanceStarting, "created"
	case state(c.State) == container.StateCreated:
		inst.Detail = "it was created and never started"
	case state(c.State) == container.StateRunning, c.State == container.StatePaused, c.State == container.StateRestarting:
		inst.State = provider.InstanceRunning
	}
	return inst
}

// tooOld reports whether a container is beyond its maximum age and the time that its
// agent may take to end by itself.
func (p *Provider) tooOld(c container.Summary, inst provider.Instance) bool {
	limit, err := time.ParseDuration(c.Labels[labelMaxAge])
	return err == nil && limit > 0 && inst.State != provider.InstanceEnded && time.Since(inst.CreatedAt) > limit+time.Duration(p.cfg.Grace)
}

// expire ends a container that is too old.
func (p *Provider) expire(ctx context.Context, c container.Summary, inst provider.Instance) provider.Instance {
	if p.tooOld(c, inst) {
		p.log.Warn("runner killed", "runner", inst.Runner, "reason", "maximum age", "max_age", c.Labels[labelMaxAge])
		p.kill(ctx, inst.ID)
		inst.State, inst.Detail = provider.InstanceEnded, "killed at its maximum age of "+c.Labels[labelMaxAge]
	}
	return inst
}

// Get looks at the runner's container; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if !runner.Valid() {
		return provider.Instance{}, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	parts, err := p.parts(ctx, runner)
	if err != nil {
		return provider.Instance{}, err
	}
	if len(parts) == 0 {
		return provider.Instance{}, fmt.Errorf("%w: the engine has no container of runner %s", provider.ErrNotFound, runner)
	}
	main := primary(parts)
	inst := p.expire(ctx, main, p.look(main))
	if state(main.State) == container.StateExited {
		inst.Detail = p.how(ctx, inst)
	}
	return inst, nil
}

// primary is the runner's own container, or what is left of it.
func primary(parts []container.Summary) container.Summary {
	for _, part := range parts {
		if part.Labels[labelPart] == partRunner {
			return part
		}
	}
	return parts[0]
}

// how says how a container ended, in more words than a list has.
func (p *Provider) how(ctx context.Context, inst provider.Instance) string {
	in, err := p.engine.ContainerInspect(ctx, inst.ID, inspectAll)
	if err != nil || in.Container.State == nil {
		return inst.Detail
	}
	st := in.Container.State
	words := fmt.Sprintf("its agent ended with code %d", st.ExitCode)
	limit := int64(0)
	if in.Container.HostConfig != nil {
		limit = in.Container.HostConfig.Memory >> 20
	}
	switch {
	case st.OOMKilled:
		words += fmt.Sprintf("; the kernel killed it at its memory limit of %d MiB", limit)
	case st.ExitCode == 137 && limit > 0: // SIGKILL; engines do not always learn by whom
		words += fmt.Sprintf("; it was killed, perhaps by the kernel at its memory limit of %d MiB", limit)
	}
	if st.Error != "" {
		words += "; " + short(st.Error)
	}
	return words
}

// List yields every runner of the owner of which the engine has a container; see
// provider.Provider.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(provider.Instance{}, err)
			return
		}
		parts, err := p.parts(ctx, "")
		if err != nil {
			yield(provider.Instance{}, err)
			return
		}
		of := map[muster.RunnerID][]container.Summary{}
		var order []muster.RunnerID
		for _, part := range parts {
			runner := muster.RunnerID(part.Labels[labelRunner])
			if of[runner] == nil {
				order = append(order, runner)
			}
			of[runner] = append(of[runner], part)
		}
		for _, runner := range order {
			main := primary(of[runner])
			if !yield(p.expire(ctx, main, p.look(main)), nil) {
				return
			}
		}
	}
}

// Delete ends the runner's containers, gives the agent Config.Grace to do so itself,
// and removes them with their volumes; see provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !runner.Valid() {
		return fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	parts, err := p.parts(ctx, runner)
	if err != nil {
		return err
	}
	// The sidecar goes first: the runner's container carries the volumes of both.
	slices.SortStableFunc(parts, func(a, b container.Summary) int {
		return cmp.Compare(b.Labels[labelPart], a.Labels[labelPart])
	})
	main := len(parts) > 0 && primary(parts).Labels[labelPart] == partRunner
	if main && len(parts) > 1 && state(primary(parts).State) == container.StateRunning {
		// The agent first says what it has to say, while its engine is still there.
		if err := p.stop(ctx, primary(parts)); err != nil {
			return p.accepted(ctx, err)
		}
	}
	for _, part := range parts {
		if state(part.State) == container.StateRunning {
			if err := p.stop(ctx, part); err != nil {
				return p.accepted(ctx, err)
			}
		}
		_, err := p.engine.ContainerRemove(ctx, part.ID, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
		if err != nil && !gone(err) {
			return p.accepted(ctx, err)
		}
	}
	if len(parts) > 0 {
		// The engine may say "done" or "at it" before it is; only its list proves anything.
		if parts, err = p.parts(ctx, runner); err != nil {
			return p.accepted(ctx, err)
		}
		if len(parts) > 0 {
			return nil
		}
		p.removeNetworks(ctx)
	}
	return fmt.Errorf("%w: nothing is left of runner %s", provider.ErrNotFound, runner)
}

// gone reports whether an error of a removal says that there is nothing to remove, or
// that somebody else is removing it.
func gone(err error) bool {
	return errdefs.IsNotFound(err) || strings.Contains(err.Error(), "already in progress") || strings.Contains(err.Error(), "no such container")
}

// accepted turns an error of a deletion that has begun into an answer: time that has run
// out is "go on in the next call".
func (p *Provider) accepted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return p.classify("remove container", err)
}

func (p *Provider) stop(ctx context.Context, c container.Summary) error {
	seconds := int((time.Duration(p.cfg.Grace) + time.Second - 1) / time.Second)
	if c.Labels[labelPart] == partSidecar {
		seconds = 0 // an engine has nothing to save
	}
	_, err := p.engine.ContainerStop(ctx, c.ID, client.ContainerStopOptions{Timeout: &seconds})
	if err == nil || gone(err) || errdefs.IsConflict(err) {
		return nil
	}
	if ctx.Err() == nil && !client.IsErrConnectionFailed(err) {
		return nil // the removal that follows is not so polite
	}
	return err
}

// Console returns the end of what the agent and the runner printed.
func (p *Provider) Console(ctx context.Context, runner muster.RunnerID, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !runner.Valid() || limit < 0 {
		return nil, fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	if _, err := p.find(ctx, runner); err != nil {
		return nil, err
	}
	// Lines of a runner have some 100 bytes; more than enough of them are asked for.
	lines := fmt.Sprint(max(100, limit/20))
	logs, err := p.engine.ContainerLogs(ctx, p.cfg.name(runner), client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: lines})
	if err != nil {
		return nil, p.classify("read the container's log", err)
	}
	defer logs.Close()
	end := &tail{limit: limit}
	if _, err := stdcopy.StdCopy(end, end, logs); err != nil {
		return nil, p.classify("read the container's log", err)
	}
	return end.text, nil
}

// tail keeps the last bytes of what is written to it.
type tail struct {
	text  []byte
	limit int
}

func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	if over := len(t.text) - t.limit; over > 0 {
		t.text = slices.Delete(t.text, 0, over)
	}
	return len(b), nil
}
