package garm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Provider is one configured executable. Safe for concurrent use; every method runs
// the executable at least once, but for what its records alone answer.
type Provider struct {
	cfg    Config
	dir    string
	bundle []byte
	// specs are the extra specs in JSON, encodedSpecs what GARM_POOL_EXTRASPECS holds.
	specs        json.RawMessage
	encodedSpecs string
	// controller and pool are how the platform's tags name us: UUIDs, as GARM's are.
	controller, pool string
	// prefix begins the names of this provider's machines.
	prefix string
	calls  chan struct{}
}

var (
	_ provider.Provider     = (*Provider)(nil)
	_ provider.StartStopper = (*Provider)(nil)
	_ provider.Described    = (*Provider)(nil)
)

// New checks the configuration and makes the directory of the records. It runs nothing.
func New(cfg Config) (*Provider, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Owner == "" || cfg.Dir == "" {
		return nil, errors.New("the garm provider needs an owner and a directory")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	bundle, err1 := cfg.bundle()
	specs, err2 := cfg.specs()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	p := &Provider{
		cfg: cfg, bundle: bundle, specs: specs, encodedSpecs: base64.StdEncoding.EncodeToString(specs), calls: make(chan struct{}, cfg.Calls),

		controller: derived("controller", cfg.Owner), pool: derived("pool", cfg.Owner, cfg.Name),
	}
	if len(cfg.ExtraSpecs) == 0 { // a pool without specs has those of null
		p.encodedSpecs = base64.StdEncoding.EncodeToString([]byte("null"))
	}
	p.prefix = "muster-" + strings.ReplaceAll(p.pool, "-", "")[:8] + "-"
	p.dir = filepath.Join(cfg.Dir, p.prefix[:len(p.prefix)-1])
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the garm provider's records: %w", err)
	}
	return p, nil
}

// derived makes a UUID (version 8, of one's own making) from texts.
func derived(texts ...string) string {
	h := sha256.New()
	for _, t := range append([]string{"muster garm"}, texts...) {
		fmt.Fprintf(h, "%d:%s", len(t), t)
	}
	b := h.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	x := hex.EncodeToString(b)
	return strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
}

// Describe implements provider.Described.
func (p *Provider) Describe() provider.Description {
	d := description()
	d.ConnectTimeout = time.Duration(p.cfg.ConnectTimeout)
	d.CreateTimeout = time.Duration(p.cfg.CreateTimeout)
	return d
}

// runnerID is what a machine's name may end with: every platform takes it.
var runnerID = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?\z`)

func (p *Provider) name(id muster.RunnerID) (string, bool) {
	return p.prefix + string(id), runnerID.MatchString(string(id))
}

// runner is the id in a machine's name; ok is false for a machine that is not ours.
func (p *Provider) runner(name string) (muster.RunnerID, bool) {
	id, ours := strings.CutPrefix(name, p.prefix)
	return muster.RunnerID(id), ours && runnerID.MatchString(id)
}

// Create implements provider.Provider. A creation that ended without an answer, or
// whose record is another control plane's, is looked up by name before a new one is
// asked for; what the platform doubles in spite of that is one instance to List and
// gone with Delete.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	name, ok := p.name(spec.Runner)
	switch {
	case !ok:
		return provider.Instance{}, fmt.Errorf("%w: runner id %.60q cannot be a machine's name", provider.ErrInvalid, spec.Runner)
	case spec.Owner != p.cfg.Owner:
		return provider.Instance{}, fmt.Errorf("%w: owner %.60q is not this provider's", provider.ErrInvalid, spec.Owner)
	case spec.Boot.Token == "" || spec.Boot.URL == "":
		return provider.Instance{}, fmt.Errorf("%w: a machine needs a boot token and the control plane's URL", provider.ErrInvalid)
	case spec.MaxAge < 0:
		return provider.Instance{}, fmt.Errorf("%w: maximum age %s", provider.ErrInvalid, spec.MaxAge)
	}
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	held, err := lock(ctx, p.lockPath(name))
	if err != nil {
		return provider.Instance{}, unlessEnded(ctx, err)
	}
	defer p.release(held, name)
	r, known, err := p.load(name)
	if err != nil {
		return provider.Instance{}, classed(err)
	}
	if known && (r.Stage == made || r.Stage == found) {
		return p.again(ctx, r)
	}
	if !known {
		if r, err = p.reserve(ctx, spec, name); err != nil {
			return provider.Instance{}, err
		}
	}
	// The platform may have it: from a try that this program did not live to see the
	// end of, or from another control plane of this owner.
	in, err := p.look(ctx, r)
	switch {
	case err == nil:
		r.ProviderID, r.Stage = in.ProviderID, made
		if err := p.save(r); err != nil {
			return provider.Instance{}, classed(err)
		}
		return p.instance(r, in), nil
	case !errors.Is(err, provider.ErrNotFound):
		if !known {
			err = errors.Join(err, p.forget(name))
		}
		return provider.Instance{}, err
	}
	if known { // parts of the failed try would be in the way of the next (a name, an address)
		if err := p.end(ctx, name); err != nil {
			return provider.Instance{}, err
		}
	}
	return p.make(ctx, spec, r)
}

// again answers for a machine that was made before.
func (p *Provider) again(ctx context.Context, r record) (provider.Instance, error) {
	in, err := p.look(ctx, r)
	if errors.Is(err, provider.ErrNotFound) {
		return p.absent(r, false), nil
	}
	if err != nil {
		return provider.Instance{}, err
	}
	return p.instance(r, in), nil
}

// reserve writes the record of a new machine, if there is room.
func (p *Provider) reserve(ctx context.Context, spec provider.Spec, name string) (record, error) {
	held, err := lock(ctx, filepath.Join(p.dir, "room"))
	if err != nil {
		return record{}, unlessEnded(ctx, err)
	}
	defer held.Close()
	names, err := p.records()
	if err != nil {
		return record{}, classed(err)
	}
	if len(names) >= p.cfg.Max {
		return record{}, fmt.Errorf("%w: max is %d and there are as many machines", provider.ErrCapacity, p.cfg.Max)
	}
	r := record{
		Runner: spec.Runner, Name: name, Workspace: clip(spec.Workspace), Pool: clip(spec.Pool), TraceID: clip(spec.TraceID),
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond), Stage: asked,
	}
	if err := p.save(r); err != nil {
		return record{}, classed(fmt.Errorf("write record of %s: %w", name, err))
	}
	return r, nil
}

func clip(s string) string { return s[:min(len(s), 200)] }

// make runs CreateInstance.
func (p *Provider) make(ctx context.Context, spec provider.Spec, r record) (provider.Instance, error) {
	r.Stage, r.AskedAt, r.Words = asked, time.Now().UTC(), ""
	stdin, err := json.Marshal(p.bootstrap(spec, r.Name))
	if err == nil {
		err = p.save(r)
	}
	if err != nil {
		return provider.Instance{}, classed(err)
	}
	token := spec.Boot.Token.Reveal()
	out, err := p.call(ctx, time.Duration(p.cfg.CreateTimeout), cmdCreate, "", stdin, token)
	if err == nil {
		var in instance
		if err = p.decode(out, &in, token); err == nil {
			err = p.accepted(in, r.Name, token)
		}
		if err == nil {
			r.ProviderID, r.Stage = in.ProviderID, made
			if err := p.save(r); err != nil {
				return provider.Instance{}, classed(err)
			}
			return p.instance(r, in), nil
		}
		r.ProviderID = in.ProviderID
	}
	words := ""
	if f, ok := errors.AsType[*failure](err); ok {
		words = f.words
	}
	switch {
	case ctx.Err() != nil:
		return provider.Instance{}, fmt.Errorf("create %s: %w", r.Name, err) // asked: it may still come
	case exited(err) == exitDuplicate:
		// Somebody made it in the meantime, or the platform shows late what it had.
		in, lookErr := p.look(ctx, r)
		if lookErr != nil {
			return provider.Instance{}, fmt.Errorf("%w: create %s: %w; and it is not to be found: %w", provider.ErrTransient, r.Name, err, lookErr)
		}
		r.ProviderID, r.Stage = in.ProviderID, made
		if err := p.save(r); err != nil {
			return provider.Instance{}, classed(err)
		}
		return p.instance(r, in), nil
	case exited(err) > 0:
		r.Stage, r.Words = refused, words
		if exited(err) == exitNotFound { // what the machine is made of: an image, a network
			err = fmt.Errorf("%w: something that it is made of does not exist: %w", provider.ErrInvalid, err)
		} else {
			err = fmt.Errorf("%w: %w", class(words), err)
		}
		if saveErr := p.save(r); saveErr != nil {
			err = errors.Join(err, saveErr)
		}
	default:
		err = classed(err)
		if saveErr := p.save(r); saveErr != nil { // with the id of a machine that is in error
			err = errors.Join(err, saveErr)
		}
	}
	return provider.Instance{}, fmt.Errorf("create %s: %w", r.Name, err)
}

// accepted says what is wrong with an answer of CreateInstance.
func (p *Provider) accepted(in instance, name, secret string) error {
	switch {
	case in.Status == "error":
		words := speak(in.Fault, secret)
		return fmt.Errorf("%w: the platform made it in error: %s", class(words), cmp.Or(words, "it does not say why"))
	case in.ProviderID == "" || in.Name == "":
		return fmt.Errorf("%w: the executable answered without provider_id or name", provider.ErrTransient)
	case in.Name != name:
		return fmt.Errorf("%w: the executable answered with machine %.60q", provider.ErrTransient, in.Name)
	}
	return nil
}

// decode reads an executable's answer, which has to be JSON and nothing else.
func (p *Provider) decode(out []byte, into any, secret string) error {
	d := json.NewDecoder(bytes.NewReader(out))
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("there is more than one value")
	}
	if err != nil {
		return fmt.Errorf("%w: the executable's answer is not the JSON of the interface (%w): %.200q", provider.ErrTransient, err, speak(out[:min(len(out), 300)], secret))
	}
	return nil
}

// Delete implements provider.Provider. Gone is what the platform no longer lists
// after the executable has accepted to delete it.
func (p *Provider) Delete(ctx context.Context, id muster.RunnerID) error {
	name, ok := p.name(id)
	if !ok {
		return provider.ErrNotFound
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	held, err := lock(ctx, p.lockPath(name))
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer p.release(held, name)
	r, known, err := p.load(name)
	if err != nil {
		return classed(err)
	}
	if err := p.end(ctx, cmp.Or(r.ProviderID, name)); err != nil {
		return err
	}
	all, err := p.list(ctx)
	if err != nil {
		return err
	}
	left := false
	for _, in := range all {
		if in.Name != name {
			continue
		}
		left = true
		if in.ProviderID != r.ProviderID {
			// One that was made twice: each goes by its own id.
			if err := p.end(ctx, in.ProviderID); err != nil {
				return err
			}
		}
	}
	if left || known && r.open(time.Now(), time.Duration(p.cfg.Settle)) {
		return nil
	}
	if err := p.forget(name); err != nil {
		return classed(err)
	}
	return provider.ErrNotFound
}

// end runs DeleteInstance; that there is no such machine is success.
func (p *Provider) end(ctx context.Context, instance string) error {
	_, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdDelete, instance, nil, "")
	if err == nil || exited(err) == exitNotFound {
		return nil
	}
	return classed(err)
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, id muster.RunnerID) (provider.Instance, error) {
	name, ok := p.name(id)
	if !ok {
		return provider.Instance{}, provider.ErrNotFound
	}
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	r, known, err := p.load(name)
	if err != nil {
		return provider.Instance{}, classed(err)
	}
	if !known {
		r = record{Runner: id, Name: name}
	}
	in, err := p.look(ctx, r)
	switch {
	case errors.Is(err, provider.ErrNotFound) && known:
		return p.absent(r, p.underway(name)), nil
	case err != nil:
		return provider.Instance{}, err
	case !known:
		r = p.adopt(id, in)
	}
	return p.instance(r, in), nil
}

// look asks the platform for a machine. Executables do not agree on how they say
// that there is none, so anything but a clear answer is checked against the list.
func (p *Provider) look(ctx context.Context, r record) (instance, error) {
	out, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdGet, cmp.Or(r.ProviderID, r.Name), nil, "")
	if err == nil {
		var in instance
		if err = p.decode(out, &in, ""); err == nil && in.Name == r.Name && in.ProviderID != "" {
			return in, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return instance{}, err
	case exited(err) == exitNotFound:
		return instance{}, fmt.Errorf("%w: %w", provider.ErrNotFound, err)
	}
	all, listErr := p.list(ctx)
	if listErr != nil {
		return instance{}, classed(errors.Join(err, listErr))
	}
	if i := slices.IndexFunc(all, func(in instance) bool { return in.Name == r.Name }); i >= 0 {
		return all[i], nil
	}
	return instance{}, provider.ErrNotFound
}

// list is what the platform lists of this pool; machines that are not named as ours
// are left out, whatever the platform thinks of tags.
func (p *Provider) list(ctx context.Context) ([]instance, error) {
	out, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdList, "", nil, "")
	if err != nil {
		return nil, classed(err)
	}
	var all []instance
	if err := p.decode(out, &all, ""); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(in instance) bool {
		_, ours := p.runner(in.Name)
		return !ours || in.ProviderID == ""
	}), nil
}

// List implements provider.Provider.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(provider.Instance{}, err)
			return
		}
		// Records first: a machine that is made in between is then in the list.
		names, err := p.records()
		if err != nil {
			yield(provider.Instance{}, classed(err))
			return
		}
		all, err := p.list(ctx)
		if err != nil {
			yield(provider.Instance{}, err)
			return
		}
		seen := map[string]bool{}
		for _, in := range all {
			if seen[in.Name] {
				continue
			}
			seen[in.Name] = true
			id, _ := p.runner(in.Name)
			r, known, err := p.load(in.Name)
			if err == nil && !known {
				r = p.adopt(id, in)
			}
			if err == nil {
				err = ctx.Err()
			}
			if !yield(p.instance(r, in), err) || err != nil {
				return
			}
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			r, known, err := p.load(name)
			if err != nil {
				yield(provider.Instance{}, classed(err))
				return
			}
			// What was deleted while the platform was asked has no record any more.
			if known && !yield(p.absent(r, p.underway(name)), nil) {
				return
			}
		}
	}
}

// adopt writes a record for a machine that has none: its time of creation is not
// known, so it is from now on that the sweep counts its age.
func (p *Provider) adopt(id muster.RunnerID, in instance) record {
	r := record{Runner: id, Name: in.Name, ProviderID: in.ProviderID, CreatedAt: time.Now().UTC().Truncate(time.Microsecond), Stage: found}
	held, err := tryLock(p.lockPath(in.Name))
	if err != nil {
		return r // a call is busy with it, and writes what it knows
	}
	defer held.Close()
	if was, known, err := p.load(in.Name); err == nil && known {
		return was
	}
	if err := p.save(r); err != nil {
		p.cfg.Logger.Warn("record of a machine not written", "machine", in.Name, "error", err)
	}
	return r
}

// underway reports whether a call is busy with a machine.
func (p *Provider) underway(name string) bool {
	if _, err := os.Stat(p.lockPath(name)); err != nil {
		return false
	}
	held, err := tryLock(p.lockPath(name))
	if err == nil {
		held.Close()
	}
	return errors.Is(err, errLocked)
}

// absent describes a machine that there is a record of and that the platform does
// not list.
func (p *Provider) absent(r record, underway bool) provider.Instance {
	in := provider.Instance{ID: cmp.Or(r.ProviderID, r.Name), Runner: r.Runner, State: provider.InstanceEnded, CreatedAt: r.CreatedAt}
	now := time.Now()
	switch {
	case underway && r.Stage == asked, r.open(now, time.Duration(p.cfg.Settle)):
		in.State, in.Detail = provider.InstanceStarting, "the executable was asked for it"
	case r.Stage == made && now.Before(r.AskedAt.Add(time.Duration(p.cfg.Settle))):
		in.State, in.Detail = provider.InstanceStarting, "made, and not listed yet"
	case r.Stage == refused:
		in.Detail = "it could not be made: " + cmp.Or(r.Words, "the executable did not say why")
	default:
		in.Detail = "the platform lists no such machine"
	}
	return in
}

func (p *Provider) instance(r record, in instance) provider.Instance {
	out := provider.Instance{ID: in.ProviderID, Runner: r.Runner, CreatedAt: r.CreatedAt}
	out.State, out.Detail = state(in)
	return out
}

func state(in instance) (provider.InstanceState, string) {
	words := speak(in.Fault, "")
	switch in.Status {
	case "running":
		return provider.InstanceRunning, words
	case "stopped", "error", "deleting", "deleted", "pending_delete", "pending_force_delete":
		return provider.InstanceEnded, strings.TrimSuffix("the platform says "+in.Status+": "+words, ": ")
	case "creating", "pending_create":
		return provider.InstanceStarting, words
	}
	// What is not known to have ended counts as running.
	return provider.InstanceRunning, fmt.Sprintf("the platform says %.40q", in.Status)
}

// unlessEnded prefers the context's own error.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return classed(err)
}

// Version is what the executable says of itself.
func (p *Provider) Version(ctx context.Context) (string, error) {
	out, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdVersion, "", nil, "")
	return speak(out, ""), classed(err)
}

// InterfaceVersions are those that an executable of v0.1.1 says it speaks.
func (p *Provider) InterfaceVersions(ctx context.Context) ([]string, error) {
	out, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdVersions, "", nil, "")
	if err != nil {
		return nil, classed(err)
	}
	var all []string
	return all, p.decode(out, &all, "")
}

// Schemas are the JSON schemas of the executable's configuration file and of its
// extra specs, which an executable of v0.1.1 can tell.
func (p *Provider) Schemas(ctx context.Context) (config, extraSpecs json.RawMessage, err error) {
	for command, into := range map[string]*json.RawMessage{cmdConfig: &config, cmdSpecsSchema: &extraSpecs} {
		out, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), command, "", nil, "")
		if err != nil {
			return nil, nil, classed(err)
		}
		if len(bytes.TrimSpace(out)) == 0 {
			continue // an executable without one
		}
		if err := p.decode(out, into, ""); err != nil {
			return nil, nil, err
		}
	}
	return config, extraSpecs, nil
}

// Check asks an executable of v0.1.1 whether it can work with its configuration and
// the extra specs. Image and flavor it does not see: the interface's shared code
// fills them for CreateInstance only.
func (p *Provider) Check(ctx context.Context) error {
	if p.cfg.InterfaceVersion != Version011 {
		_, err := p.list(ctx)
		return err
	}
	_, err := p.call(ctx, time.Duration(p.cfg.ExecTimeout), cmdValidate, "", nil, "")
	return classed(err)
}

// RemoveAll asks the executable to delete every machine of this owner, those of its
// other providers on the same cloud included: the last step of an uninstall.
func (p *Provider) RemoveAll(ctx context.Context) error {
	_, err := p.call(ctx, maxCreate, cmdRemoveAll, "", nil, "")
	return classed(err)
}
