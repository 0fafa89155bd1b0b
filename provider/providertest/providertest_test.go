package providertest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// recorder is a T that notes failures instead of failing.
type recorder struct {
	ctx      context.Context //nolint:containedctx // what Context returns
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()                  {}
func (r *recorder) Logf(string, ...any)      {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// judge runs one check against a harness and returns what it complained about.
// Panics count: the runtime's, for a provider that yields after a break, is the proof.
func judge(t *testing.T, name string, h Harness) []string {
	t.Helper()
	r := &recorder{ctx: t.Context()}
	h.Patience = 2 * time.Second
	guarded := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					r.Errorf("panic: %v", p)
				}
			}()
			f()
		}()
		<-done
	}
	for _, c := range checks {
		if c.name == name {
			guarded(func() { newSuite(r, h, name).do(c) })
			for i := len(r.cleanups) - 1; i >= 0; i-- {
				guarded(r.cleanups[i])
			}
			return r.failures
		}
	}
	t.Fatalf("there is no check %q", name)
	return nil
}

// wrong is a provider that breaks one promise.
type wrong struct {
	provider.Provider
	create func(context.Context, provider.Spec) (provider.Instance, error)
	delete func(context.Context, muster.RunnerID) error
	get    func(context.Context, muster.RunnerID) (provider.Instance, error)
	list   func(context.Context) iter.Seq2[provider.Instance, error]
}

func (w wrong) Create(ctx context.Context, s provider.Spec) (provider.Instance, error) {
	if w.create != nil {
		return w.create(ctx, s)
	}
	return w.Provider.Create(ctx, s)
}

func (w wrong) Delete(ctx context.Context, id muster.RunnerID) error {
	if w.delete != nil {
		return w.delete(ctx, id)
	}
	return w.Provider.Delete(ctx, id)
}

func (w wrong) Get(ctx context.Context, id muster.RunnerID) (provider.Instance, error) {
	if w.get != nil {
		return w.get(ctx, id)
	}
	return w.Provider.Get(ctx, id)
}

func (w wrong) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	if w.list != nil {
		return w.list(ctx)
	}
	return w.Provider.List(ctx)
}

// TestEveryCheckCanFail breaks each promise and expects its check to say so.
func TestEveryCheckCanFail(t *testing.T) {
	nothing := func(context.Context) iter.Seq2[provider.Instance, error] {
		return func(func(provider.Instance, error) bool) {}
	}
	for name, spoil := range map[string]func(*wrong, *Harness, *fake.Cloud){
		"CreateShowsTheInstance/NotListed": func(w *wrong, h *Harness, c *fake.Cloud) { w.list = nothing },
		"CreateShowsTheInstance/NeverRuns": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.get = func(ctx context.Context, id muster.RunnerID) (provider.Instance, error) {
				inst, err := w.Provider.Get(ctx, id)
				inst.State = provider.InstanceStarting
				return inst, err
			}
		},
		"CreateTwiceIsOneInstance/Replaced":    replaces,
		"CreateAtOnceIsOneInstance/SeesDouble": numbers,
		"RestartForgetsNothing/Memory": func(w *wrong, h *Harness, c *fake.Cloud) {
			h.Open = func(t T, owner string) provider.Provider {
				own := fake.NewCloud() // what it made is known to this object only
				t.Cleanup(own.Close)
				return own.Provider(owner)
			}
		},
		"DeleteUntilGone/SaysGoneTooEarly": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.delete = func(context.Context, muster.RunnerID) error { return provider.ErrNotFound }
		},
		"DeleteUntilGone/LeavesADisk": func(w *wrong, h *Harness, c *fake.Cloud) {
			h.Remains = func(T, string, muster.RunnerID) []string { return []string{"disk"} }
		},
		"DeleteUntilGone/NeverGone": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.delete = func(context.Context, muster.RunnerID) error { return nil }
		},
		"DeleteUnknown/Nil": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.delete = func(context.Context, muster.RunnerID) error { return nil }
		},
		"DeleteAtOnce/Conflict": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.delete = func(context.Context, muster.RunnerID) error { return errors.New("409: operation in progress") }
		},
		"CreateAgainAfterDelete/Refused": func(w *wrong, h *Harness, c *fake.Cloud) {
			seen := map[muster.RunnerID]bool{}
			w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
				if seen[s.Runner] {
					return provider.Instance{}, provider.ErrInvalid
				}
				seen[s.Runner] = true
				return w.Provider.Create(ctx, s)
			}
		},
		"ListOnlyTheOwners/Everybodys": func(w *wrong, h *Harness, c *fake.Cloud) {
			h.Open = func(t T, owner string) provider.Provider { return lenient{c.Provider("one for all")} }
		},
		"ListStopsEarly/YieldsOn": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.list = func(ctx context.Context) iter.Seq2[provider.Instance, error] {
				return func(yield func(provider.Instance, error) bool) {
					for inst, err := range w.Provider.List(ctx) {
						yield(inst, err)
					}
				}
			}
		},
		"EndedContext/Ignored": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.list = func(ctx context.Context) iter.Seq2[provider.Instance, error] {
				if ctx.Err() != nil {
					return nothing(ctx)
				}
				return w.Provider.List(ctx)
			}
		},
		"Capacity/None": func(w *wrong, h *Harness, c *fake.Cloud) {
			h.OpenWith = func(t T, owner string, max int) provider.Provider { return c.Provider(owner) }
		},
		"Capacity/OtherClass": func(w *wrong, h *Harness, c *fake.Cloud) {
			c.SetCapacity(2)
			h.OpenWith = func(t T, owner string, max int) provider.Provider {
				p := c.Provider(owner)
				return wrong{Provider: p, create: func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
					inst, err := p.Create(ctx, s)
					if err != nil {
						err = errors.New("429 slow down")
					}
					return inst, err
				}}
			}
		},
		"Invalid/Transient": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
				inst, err := w.Provider.Create(ctx, s)
				if err != nil {
					err = provider.ErrTransient
				}
				return inst, err
			}
		},
		"HostileNames/Shell": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
				if strings.ContainsAny(s.Pool, "$`\n") {
					return provider.Instance{}, errors.New("sh: syntax error")
				}
				return w.Provider.Create(ctx, s)
			}
		},
		"HostileNames/PathOfAnother": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.get = func(ctx context.Context, id muster.RunnerID) (provider.Instance, error) {
				return w.Provider.Get(ctx, muster.RunnerID(strings.Trim(string(id), "./\x00")))
			}
		},
		"NoSecrets/InMetadata": func(w *wrong, h *Harness, c *fake.Cloud) {
			h.Exposed = func(T, string, muster.RunnerID) map[string]string {
				return map[string]string{"user-data": "export TOKEN=" + Token}
			}
		},
		"NoSecrets/InErrors": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
				inst, err := w.Provider.Create(ctx, s)
				if err != nil {
					err = fmt.Errorf("%w: --token=%s", err, s.Boot.Token.Reveal())
				}
				return inst, err
			}
		},
		"EndsByItself/Vanishes": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.get = func(ctx context.Context, id muster.RunnerID) (provider.Instance, error) {
				inst, err := w.Provider.Get(ctx, id)
				if inst.State == provider.InstanceEnded {
					return provider.Instance{}, provider.ErrNotFound
				}
				return inst, err
			}
		},
		"MaxAge/Ignored": func(w *wrong, h *Harness, c *fake.Cloud) {
			w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
				s.MaxAge = max(0, min(s.MaxAge, 0))
				return w.Provider.Create(ctx, s)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cloud := fake.NewCloud()
			defer cloud.Close()
			h := honest(cloud)
			h.Open = func(t T, owner string) provider.Provider {
				w := &wrong{Provider: cloud.Provider(owner)}
				spoil(w, &Harness{}, cloud)
				return w
			}
			spoil(&wrong{}, &h, cloud)
			check, _, _ := strings.Cut(name, "/")
			if failures := judge(t, check, h); len(failures) == 0 {
				t.Error("the check is content")
			}
		})
	}
}

// honest is the harness of a provider that keeps every promise.
func honest(cloud *fake.Cloud) Harness {
	return Harness{
		Open: func(t T, owner string) provider.Provider { return cloud.Provider(owner) },
		OpenWith: func(t T, owner string, max int) provider.Provider {
			cloud.SetCapacity(max)
			return cloud.Provider(owner)
		},
		End:     func(t T, owner string, id muster.RunnerID) { cloud.End(owner, id, "job finished") },
		Exposed: func(T, string, muster.RunnerID) map[string]string { return map[string]string{"nowhere": ""} },
	}
}

// replaces makes a new instance for a runner that has one.
func replaces(w *wrong, _ *Harness, _ *fake.Cloud) {
	w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
		for w.Provider.Delete(ctx, s.Runner) == nil {
			runtime.Gosched()
		}
		return w.Provider.Create(ctx, s)
	}
}

// numbers gives every answer another id.
func numbers(w *wrong, _ *Harness, _ *fake.Cloud) {
	var mu sync.Mutex
	n := 0
	w.create = func(ctx context.Context, s provider.Spec) (provider.Instance, error) {
		inst, err := w.Provider.Create(ctx, s)
		mu.Lock()
		defer mu.Unlock()
		n++
		inst.ID = fmt.Sprint(inst.ID, "-", n)
		return inst, err
	}
}

// lenient forgets whose an instance is.
type lenient struct{ *fake.Provider }

func (l lenient) Create(ctx context.Context, s provider.Spec) (provider.Instance, error) {
	s.Owner = ""
	return l.Provider.Create(ctx, s)
}

// TestHonestProviderPassesTheJudge makes sure that the complaints above are about
// the broken promise.
func TestHonestProviderPassesTheJudge(t *testing.T) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cloud := fake.NewCloud()
			defer cloud.Close()
			if failures := judge(t, c.name, honest(cloud)); len(failures) > 0 {
				t.Errorf("complaints about an honest provider: %q", failures)
			}
		})
	}
}
