package fault

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Kind is one way in which a call goes wrong.
type Kind string

// The kinds of faults.
const (
	// Refused: the call is refused before it has an effect. Create says that there is
	// no capacity, or that a quota is reached.
	Refused Kind = "refused"
	// Transient: the call fails before it has an effect, in a way that may pass.
	Transient Kind = "transient"
	// Lost: the call has its effect, and its answer is an error.
	Lost Kind = "lost"
	// Hang: the call does nothing and answers only when its context ends, or after
	// Config.Hang if that is sooner.
	Hang Kind = "hang"
	// Garbage: the call answers without an error and without sense: an instance of
	// nobody in no known state, an accepted Delete that does nothing, half a list.
	Garbage Kind = "garbage"
)

// Kinds are all kinds of faults.
var Kinds = []Kind{Refused, Transient, Lost, Hang, Garbage}

// Config says how often and how calls go wrong.
type Config struct {
	// Seed makes the choices repeatable, for calls that are made one after the other.
	Seed uint64
	// Rate is the share of calls that go wrong, from 0 to 1.
	Rate float64
	// Kinds are the faults that happen, each as often as the others; nil means all.
	Kinds []Kind
	// Hang is how long a call hangs at most; 0 means 30 s. A hanging call always
	// respects its context too.
	Hang time.Duration
}

// Parse reads "seed=1,rate=0.2,hang=5s,kinds=lost+hang". rate is required.
func Parse(text string) (Config, error) {
	c := Config{Seed: 1}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var err error
		switch key {
		case "seed":
			c.Seed, err = strconv.ParseUint(value, 10, 64)
		case "rate":
			c.Rate, err = strconv.ParseFloat(value, 64)
			if err == nil && (c.Rate <= 0 || c.Rate > 1) {
				err = fmt.Errorf("%g is no share", c.Rate)
			}
		case "hang":
			c.Hang, err = time.ParseDuration(value)
		case "kinds":
			for name := range strings.SplitSeq(value, "+") {
				if !slices.Contains(Kinds, Kind(name)) {
					err = fmt.Errorf("%q is none of %v", name, Kinds)
				}
				c.Kinds = append(c.Kinds, Kind(name))
			}
		default:
			err = fmt.Errorf("there is no such key")
		}
		if err != nil {
			return Config{}, fmt.Errorf("%s: %w; write it as seed=1,rate=0.2,hang=5s,kinds=lost+hang", part, err)
		}
	}
	if c.Rate == 0 {
		return Config{}, fmt.Errorf("%q has no rate; write it as seed=1,rate=0.2,hang=5s,kinds=lost+hang", text)
	}
	return c, nil
}

// Provider is a provider some of whose calls go wrong.
type Provider struct {
	provider.Provider
	cfg Config

	mu     sync.Mutex
	random *rand.Rand
	counts map[Kind]int
}

// New puts faults before p.
func New(p provider.Provider, cfg Config) *Provider {
	if len(cfg.Kinds) == 0 {
		cfg.Kinds = Kinds
	}
	if cfg.Hang == 0 {
		cfg.Hang = 30 * time.Second
	}
	return &Provider{Provider: p, cfg: cfg, random: rand.New(rand.NewPCG(cfg.Seed, 0)), counts: map[Kind]int{}}
}

// Unwrap implements provider.Unwrapper. Optional interfaces of the provider behind
// are found by it, and have no faults.
func (p *Provider) Unwrap() provider.Provider { return p.Provider }

// Counts are how many faults of each kind there were.
func (p *Provider) Counts() map[Kind]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[Kind]int, len(p.counts))
	for k, n := range p.counts {
		out[k] = n
	}
	return out
}

// next decides about one call: "" is none. second is a choice within the fault.
func (p *Provider) next() (k Kind, second bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.random.Float64() >= p.cfg.Rate {
		return "", false
	}
	k = p.cfg.Kinds[p.random.IntN(len(p.cfg.Kinds))]
	p.counts[k]++
	return k, p.random.IntN(2) == 1
}

// hang waits until the call's time is over.
func (p *Provider) hang(ctx context.Context) error {
	t := time.NewTimer(p.cfg.Hang)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("injected fault: the call hung: %w", ctx.Err())
	case <-t.C:
		return fmt.Errorf("%w: injected fault: the call hung for %s", provider.ErrTransient, p.cfg.Hang)
	}
}

func injected(class error, what string) error {
	return fmt.Errorf("%w: injected fault: %s", class, what)
}

// Create implements provider.Provider.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	k, second := p.next()
	switch k {
	case Refused:
		if second {
			return provider.Instance{}, injected(provider.ErrQuota, "the limit of machines is reached")
		}
		return provider.Instance{}, injected(provider.ErrCapacity, "there are no machines left")
	case Transient:
		return provider.Instance{}, injected(provider.ErrTransient, "503")
	case Hang:
		if second { // it hangs after it has done what it was asked for
			if in, err := p.Provider.Create(ctx, spec); err != nil {
				return in, err
			}
		}
		return provider.Instance{}, p.hang(ctx)
	}
	in, err := p.Provider.Create(ctx, spec)
	switch {
	case err != nil:
	case k == Lost:
		return provider.Instance{}, injected(provider.ErrTransient, "the answer was lost")
	case k == Garbage:
		return provider.Instance{ID: "", Runner: "nobody-0000", State: "dreaming"}, nil
	}
	return in, err
}

// Delete implements provider.Provider. An answer that the instance is gone is never
// invented.
func (p *Provider) Delete(ctx context.Context, runner muster.RunnerID) error {
	k, second := p.next()
	switch k {
	case Refused, Transient:
		return injected(provider.ErrTransient, "503")
	case Hang:
		if second {
			_ = p.Provider.Delete(ctx, runner) // it has its effect; the answer never comes
		}
		return p.hang(ctx)
	case Garbage:
		return nil // accepted, and nothing happens
	}
	err := p.Provider.Delete(ctx, runner)
	if k == Lost {
		return injected(provider.ErrTransient, "the answer was lost")
	}
	return err
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	switch k, _ := p.next(); k {
	case Refused, Transient, Lost:
		return provider.Instance{}, injected(provider.ErrTransient, "503")
	case Hang:
		return provider.Instance{}, p.hang(ctx)
	case Garbage:
		return provider.Instance{ID: "", Runner: "nobody-0000", State: "dreaming"}, nil
	}
	return p.Provider.Get(ctx, runner)
}

// List implements provider.Provider. Garbage is a list that breaks off, which says
// nothing about what is not in it.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		k, _ := p.next()
		switch k {
		case Refused, Transient, Lost:
			yield(provider.Instance{}, injected(provider.ErrTransient, "503"))
			return
		case Hang:
			yield(provider.Instance{}, p.hang(ctx))
			return
		}
		n := 0
		for in, err := range p.Provider.List(ctx) {
			if k == Garbage && n == 1 {
				yield(provider.Instance{}, injected(provider.ErrTransient, "the list broke off"))
				return
			}
			n++
			if !yield(in, err) {
				return
			}
		}
	}
}
