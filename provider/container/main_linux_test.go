package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

var built struct {
	once sync.Once
	dir  string
}

// agent is the muster-agent program.
func agent(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("MUSTER_BIN"); dir != "" {
		return filepath.Join(dir, "muster-agent")
	}
	built.once.Do(func() {
		built.dir = enginetest.Cache(t, "agent", "")
		enginetest.Build(t, built.dir, "github.com/muster-ci/muster/cmd/muster-agent")
	})
	return filepath.Join(built.dir, "muster-agent")
}

// config is a configuration for an engine.
func config(t testing.TB, e *enginetest.Engine) Config {
	c := Defaults()
	c.Host, c.Agent, c.Image, c.Pull = e.Host, agent(t), enginetest.Image, PullNever
	c.Owner, c.Network, c.Max = "muster/test", "none", 50
	c.Grace = provider.Duration(2 * time.Second)
	return c
}

func open(t providertest.T, c Config) *Provider {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func specFor(id muster.RunnerID) provider.Spec {
	return provider.Spec{Runner: id, Workspace: "default", Pool: "linux", Boot: provider.Boot{URL: "http://127.0.0.1:9/", Token: providertest.Token}}
}

func create(t testing.TB, p *Provider, spec provider.Spec) provider.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inst, err := p.Create(ctx, spec)
	if err != nil {
		t.Fatalf("create %s: %v", spec.Runner, err)
	}
	return inst
}

// destroy deletes until the runner is gone.
func destroy(t testing.TB, p *Provider, id muster.RunnerID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	until(t, fmt.Sprintf("%s is not gone", id), func() bool {
		err := p.Delete(ctx, id)
		if err != nil && !errors.Is(err, provider.ErrNotFound) && !errors.Is(err, provider.ErrTransient) {
			t.Fatalf("delete: %v", err)
		}
		return errors.Is(err, provider.ErrNotFound)
	})
}

// until polls a real engine.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-deadline:
			t.Fatal(what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// plane is what agents connect to: it notes when each token came, and tells it to come again later.
type plane struct {
	*httptest.Server
	mu    sync.Mutex
	at    map[string]time.Time
	agent map[string]string // token → user agent
	more  chan struct{}
}

func newPlane(t testing.TB, address string) *plane {
	p := &plane{at: map[string]time.Time{}, agent: map[string]string{}, more: make(chan struct{}, 1)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		p.mu.Lock()
		if _, known := p.at[token]; !known {
			p.at[token] = time.Now()
		}
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	if address != "" {
		p.Listener.Close()
		p.Listener = listen(t, address)
	}
	p.Start()
	t.Cleanup(p.Close)
	return p
}

// connected waits for the agent with this token.
func (p *plane) connected(t testing.TB, token string) time.Time {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		p.mu.Lock()
		at, ok := p.at[token]
		p.mu.Unlock()
		if ok {
			return at
		}
		select {
		case <-p.more:
		case <-deadline:
			t.Fatalf("the agent with token %s did not connect", token)
		}
	}
}
