package fake

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Call names a method of the provider, for faults and counts.
type Call string

// The calls that can be made to fail.
const (
	Create Call = "create"
	Delete Call = "delete"
	Get    Call = "get"
	List   Call = "list"
	Start  Call = "start"
	Stop   Call = "stop"
	Status Call = "status"
)

// Fault makes calls go wrong. The zero Fault makes every call of every kind
// return provider.ErrTransient.
type Fault struct {
	// Call is which method; "" means all.
	Call Call
	// Runner is for which runner, or the name of which kept machine; "" means all.
	Runner muster.RunnerID
	// Times is how often; 0 means until Heal.
	Times int
	// Err is what is returned, wrapped; nil means provider.ErrTransient.
	Err error
	// Hang keeps the call waiting until its context ends.
	Hang bool
	// After lets the call take effect first: the answer is what is lost.
	After bool
	// Garbage answers without an error and with nonsense: an instance that nobody asked
	// for, of no known state. For Delete, it answers nil and does nothing.
	Garbage bool
}

// Delays are how long the platform takes; zero is at once.
type Delays struct {
	// Create is how long Create takes to answer; nothing exists before.
	Create time.Duration
	// Boot is how long an instance stays InstanceStarting.
	Boot time.Duration
	// Delete is how long an instance takes to go after it was told to.
	Delete time.Duration
	// Start is how long a kept machine is PROVISIONING and then STAGING, half each;
	// Stop how long it is STOPPING.
	Start time.Duration
	Stop  time.Duration
}

// Machine is what the hook of OnBoot gets: the instance and what it was made from,
// the boot token included.
type Machine struct {
	provider.Instance
	Spec provider.Spec
}

// Cloud is a platform in memory. Make it with NewCloud; all methods are safe for
// concurrent use.
type Cloud struct {
	mu       sync.Mutex
	machines map[key]*machine
	delays   Delays
	capacity int
	faults   []*Fault
	boot     func(context.Context, Machine) string
	calls    map[Call]int
	peak     int
	created  int
	closed   bool
	running  sync.WaitGroup
	kept     map[provider.Machine]*keptMachine
	onStart  func(context.Context, provider.Machine)
	ops      int
	now      func() time.Time
}

type key struct {
	owner  string
	runner muster.RunnerID
}

type machine struct {
	inst     provider.Instance
	end      context.CancelCauseFunc // ends the hook
	deleted  chan struct{}           // closed by the first Delete
	deleting bool
}

// NewCloud returns an empty platform without limits, delays or faults. Close it.
func NewCloud() *Cloud {
	return &Cloud{machines: map[key]*machine{}, calls: map[Call]int{}, kept: map[provider.Machine]*keptMachine{}, now: time.Now}
}

// Provider returns a client of the platform for one owner. Clients keep nothing:
// two of the same owner are the same.
func (c *Cloud) Provider(owner string) *Provider { return &Provider{cloud: c, owner: owner} }

// SetDelays changes how long things take from now on.
func (c *Cloud) SetDelays(d Delays) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delays = d
}

// SetCapacity limits the number of instances, of all owners together; 0 means no limit.
func (c *Cloud) SetCapacity(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.capacity = n
}

// OnBoot sets what runs inside every machine booted from now on, in a goroutine
// of its own. Its context ends when the machine is deleted, is ended or gets too
// old. When it returns, the machine has ended; its text becomes the instance's Detail.
func (c *Cloud) OnBoot(run func(context.Context, Machine) (detail string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot = run
}

// Fail adds a fault. Of several that fit a call, the oldest acts.
func (c *Cloud) Fail(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Heal removes all faults.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// End ends an instance as if its machine had stopped by itself. It does nothing
// when there is no such instance.
func (c *Cloud) End(owner string, runner muster.RunnerID, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[key{owner, runner}]; m != nil {
		m.end(fmt.Errorf("%s", detail))
	}
}

// Counts is what happened on a platform.
type Counts struct {
	Calls map[Call]int
	// Created is how many instances ever existed, Live how many exist, Peak how
	// many existed at once.
	Created, Live, Peak int
}

// Counts returns what happened so far.
func (c *Cloud) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counts{Calls: maps.Clone(c.calls), Created: c.created, Live: len(c.machines), Peak: c.peak}
}

// Close ends and removes every machine at once, refuses new ones, and waits for
// the hooks to return.
func (c *Cloud) Close() {
	c.mu.Lock()
	c.closed = true
	c.delays = Delays{}
	for _, m := range c.machines {
		m.remove()
	}
	for _, m := range c.kept {
		m.halt()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// remove starts the end of a machine; the caller holds the lock.
func (m *machine) remove() {
	if !m.deleting {
		m.deleting = true
		m.end(fmt.Errorf("deleted"))
		close(m.deleted)
	}
}

// live is a machine's whole life, in its own goroutine.
func (c *Cloud) live(ctx context.Context, k key, m *machine, spec provider.Spec, d Delays, run func(context.Context, Machine) string) {
	defer c.running.Done()
	var detail string
	if wait(ctx, d.Boot) == nil {
		c.mu.Lock()
		m.inst.State = provider.InstanceRunning
		inst := m.inst
		c.mu.Unlock()
		if run != nil {
			detail = run(ctx, Machine{Instance: inst, Spec: spec})
		} else {
			<-ctx.Done()
		}
	}
	if detail == "" && ctx.Err() != nil {
		detail = context.Cause(ctx).Error()
	}
	m.end(nil)
	c.mu.Lock()
	m.inst.State, m.inst.Detail = provider.InstanceEnded, detail
	c.mu.Unlock()

	<-m.deleted
	c.mu.Lock()
	d = c.delays
	c.mu.Unlock()
	_ = wait(context.WithoutCancel(ctx), d.Delete)
	c.mu.Lock()
	delete(c.machines, k)
	c.mu.Unlock()
}

// begin counts a call and decides what goes wrong with it.
func (c *Cloud) begin(call Call, runner muster.RunnerID) (*Fault, Delays) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call]++
	for i, f := range c.faults {
		if f.Call != "" && f.Call != call || f.Runner != "" && f.Runner != runner {
			continue
		}
		taken := *f
		if f.Times--; f.Times == 0 {
			c.faults = slices.Delete(slices.Clone(c.faults), i, i+1)
		} else if f.Times < 0 {
			f.Times = 0 // for ever
		}
		return &taken, c.delays
	}
	return nil, c.delays
}

// act makes the fault happen; nil faults do nothing.
func (f *Fault) act(ctx context.Context, after bool) error {
	if f == nil || f.Garbage || f.After != after {
		return nil
	}
	if f.Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fmt.Errorf("injected fault: %w", cmp.Or(f.Err, provider.ErrTransient))
}

func (f *Fault) garbage() bool { return f != nil && f.Garbage }

var garbage = provider.Instance{ID: "\x00garbage", Runner: "not-what-you-asked-for", State: "confused", Detail: "<html>502</html>"}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Provider is one owner's client of a Cloud.
type Provider struct {
	cloud *Cloud
	owner string
}

var _ provider.Provider = (*Provider)(nil)

// Describe says that this is the fake.
func (p *Provider) Describe() provider.Description {
	return provider.Description{Kind: "fake", Summary: "A platform in memory, for tests.", ConnectTimeout: 10 * time.Second}
}

// Create makes a machine; see provider.Provider.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	c := p.cloud
	f, d := c.begin(Create, spec.Runner)
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if !spec.Runner.Valid() || spec.Boot.Token == "" || spec.Boot.URL == "" || spec.MaxAge < 0 || cmp.Or(spec.Owner, p.owner) != p.owner {
		return provider.Instance{}, fmt.Errorf("%w: runner %q of owner %q", provider.ErrInvalid, spec.Runner, spec.Owner)
	}
	if err := wait(ctx, d.Create); err != nil {
		return provider.Instance{}, err
	}
	if err := f.act(ctx, false); err != nil {
		return provider.Instance{}, err
	}
	if f.garbage() {
		return garbage, nil
	}
	inst, err := c.create(ctx, key{p.owner, spec.Runner}, spec, d)
	if err != nil {
		return provider.Instance{}, err
	}
	if err := f.act(ctx, true); err != nil {
		return provider.Instance{}, err
	}
	return inst, nil
}

func (c *Cloud) create(ctx context.Context, k key, spec provider.Spec, d Delays) (provider.Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[k]; m != nil {
		return m.inst, nil
	}
	if c.closed || c.capacity > 0 && len(c.machines) >= c.capacity {
		return provider.Instance{}, fmt.Errorf("%w: %d of %d instances are in use", provider.ErrCapacity, len(c.machines), c.capacity)
	}
	c.created++
	now := time.Now().UTC()
	// The machine lives on when the caller has gone.
	mctx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	m := &machine{end: end, deleted: make(chan struct{}), inst: provider.Instance{
		ID: fmt.Sprintf("fake-%d", c.created), Runner: spec.Runner, State: provider.InstanceStarting, CreatedAt: now,
	}}
	if spec.MaxAge > 0 {
		var stop context.CancelFunc
		mctx, stop = context.WithDeadlineCause(mctx, now.Add(spec.MaxAge), fmt.Errorf("maximum age of %s reached", spec.MaxAge))
		context.AfterFunc(mctx, stop)
	}
	c.machines[k] = m
	c.peak = max(c.peak, len(c.machines))
	c.running.Add(1)
	go c.live(mctx, k, m, spec, d, c.boot)
	return m.inst, nil
}

// Delete ends a machine; see provider.Provider.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	c := p.cloud
	f, _ := c.begin(Delete, runner)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.act(ctx, false); err != nil {
		return err
	}
	if f.garbage() {
		return nil
	}
	c.mu.Lock()
	m := c.machines[key{p.owner, runner}]
	if m != nil {
		m.remove()
	}
	c.mu.Unlock()
	if err := f.act(ctx, true); err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: runner %q", provider.ErrNotFound, runner)
	}
	return nil
}

// Get finds a machine; see provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	c := p.cloud
	f, _ := c.begin(Get, runner)
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if err := cmp.Or(f.act(ctx, false), f.act(ctx, true)); err != nil {
		return provider.Instance{}, err
	}
	if f.garbage() {
		return garbage, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.machines[key{p.owner, runner}]
	if m == nil {
		return provider.Instance{}, fmt.Errorf("%w: runner %q", provider.ErrNotFound, runner)
	}
	return m.inst, nil
}

// List yields the owner's machines, oldest first; see provider.Provider. A fault
// with After set acts once the first machine was yielded, as when a later page fails.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		c := p.cloud
		f, _ := c.begin(List, "")
		if err := cmp.Or(ctx.Err(), f.act(ctx, false)); err != nil {
			yield(provider.Instance{}, err)
			return
		}
		if f.garbage() && !yield(garbage, nil) {
			return
		}
		c.mu.Lock()
		var found []provider.Instance
		for k, m := range c.machines {
			if k.owner == p.owner {
				found = append(found, m.inst)
			}
		}
		c.mu.Unlock()
		slices.SortFunc(found, func(a, b provider.Instance) int {
			return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		})
		for i, inst := range found {
			if i == 1 {
				if err := f.act(ctx, true); err != nil {
					yield(provider.Instance{}, err)
					return
				}
			}
			if err := ctx.Err(); err != nil {
				yield(provider.Instance{}, err)
				return
			}
			if !yield(inst, nil) {
				return
			}
		}
	}
}
