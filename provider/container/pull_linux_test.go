package container

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// gate is a registry that wants a user and a password, in front of a real one.
type gate struct {
	Host    string
	want    atomic.Pointer[string] // user:password; "" lets everybody in
	asked   atomic.Int64           // for manifests
	blocked atomic.Value           // of chan struct{}: blobs wait for its end
	status  atomic.Int64           // if not 0, the answer to everything
}

func newGate(t *testing.T, backend string) *gate {
	t.Helper()
	g := &gate{}
	g.set("")
	close(g.block())
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend})
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // engines leave when they are told to
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := g.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		user, password, _ := r.BasicAuth()
		if want := *g.want.Load(); want != "" && user+":"+password != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			g.asked.Add(1)
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			select {
			case <-g.blocked.Load().(chan struct{}):
			case <-r.Context().Done():
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	g.Host = strings.TrimPrefix(srv.URL, "http://")
	return g
}

// block holds blobs back until what it returns is closed.
func (g *gate) block() chan struct{} {
	end := make(chan struct{})
	g.blocked.Store(end)
	return end
}

func (g *gate) set(credentials string) { g.want.Store(&credentials) }

// S4-49: private images of three kinds of registries, pulled for real; what is wrong is said, and no
// credential is in what is logged, inspected or answered.
func TestPrivateRegistries(t *testing.T) {
	g := newGate(t, enginetest.Registry(t))
	e := enginetest.Podman(t, enginetest.Options{Insecure: []string{g.Host}})
	push(t, e, g.Host+"/team/runner:1")
	t.Setenv("REGISTRY_TEST_PASSWORD", "canary-password")
	dir := t.TempDir()
	const key = `{"type":"service_account","private_key":"canary-key"}`
	writeFile(t, dir+"/key.json", key)
	ecr := helper(t, `echo '{"Username":"AWS","Secret":"canary-ecr"}'`)
	for name, tc := range map[string]struct {
		r    Registry
		want string
	}{
		"gcp":    {Registry{Kind: "gcp", KeyFile: dir + "/key.json"}, "_json_key:" + key},
		"aws":    {Registry{Kind: "aws", Helper: []string{ecr}}, "AWS:canary-ecr"},
		"custom": {Registry{Kind: "custom", Username: "ci", PasswordEnv: "REGISTRY_TEST_PASSWORD"}, "ci:canary-password"},
	} {
		t.Run(name, func(t *testing.T) {
			defer g.set("")
			g.set(tc.want)
			var written lines
			c := config(t, e)
			c.Pull, c.Image, c.Logger = PullMissing, g.Host+"/team/runner:1", slog.New(slog.NewTextHandler(&written, &slog.HandlerOptions{Level: slog.LevelDebug}))
			spec := specFor(muster.RunnerID("r-" + name))
			_, denied := open(t, c).Create(t.Context(), spec)
			if !errors.Is(denied, provider.ErrInvalid) || !strings.Contains(denied.Error(), "check the credentials in registries") {
				t.Errorf("without credentials: %v", denied)
			}
			tc.r.Host = g.Host
			c.Registries = []Registry{tc.r}
			p := open(t, c)
			inst := create(t, p, spec)
			shown := e.Tool(t, "inspect", inst.ID) + written.String() + denied.Error()
			for _, secret := range []string{"canary", base64.StdEncoding.EncodeToString([]byte(tc.want))} {
				if strings.Contains(shown, secret) {
					t.Errorf("a credential is readable")
				}
			}
			destroy(t, p, spec.Runner)
			e.Tool(t, "rmi", "-f", c.Image)
		})
	}
}

func push(t *testing.T, e *enginetest.Engine, name string) {
	t.Helper()
	e.Tool(t, "tag", enginetest.Image, name)
	e.Tool(t, "push", "--tls-verify=false", name)
	e.Tool(t, "rmi", name)
}

// lines is a log that several goroutines write to.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestPullPolicies(t *testing.T) {
	t.Parallel()
	g := newGate(t, enginetest.Registry(t))
	e := enginetest.Podman(t, enginetest.Options{Insecure: []string{g.Host}})
	image := g.Host + "/team/runner:1"
	push(t, e, image)
	c := config(t, e)
	c.Image = image
	p := func(pull string) *Provider {
		c := c
		c.Pull = pull
		return open(t, c)
	}
	fails := func(t *testing.T, p *Provider, spec provider.Spec, class error, word string) {
		t.Helper()
		_, err := p.Create(t.Context(), spec)
		if !errors.Is(err, class) || !strings.Contains(err.Error(), word) {
			t.Errorf("%v", err)
		}
		if left := e.Containers(t); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	t.Run("Never", func(t *testing.T) { fails(t, p(PullNever), specFor("r-pull"), provider.ErrInvalid, "pull is never") })
	t.Run("Missing", func(t *testing.T) {
		for range 2 {
			create(t, p(PullMissing), specFor("r-pull"))
			destroy(t, p(PullMissing), "r-pull")
		}
		if n := g.asked.Load(); n == 0 || n > 3 {
			t.Errorf("the registry was asked %d times for an image that was missing once", n)
		}
	})
	t.Run("Always", func(t *testing.T) {
		before := g.asked.Load()
		create(t, p(PullAlways), specFor("r-pull"))
		destroy(t, p(PullAlways), "r-pull")
		if g.asked.Load() == before {
			t.Error("the registry was not asked")
		}
	})
	t.Run("NoSuchImage", func(t *testing.T) {
		spec := specFor("r-pull")
		spec.Offering.Image = g.Host + "/team/nothing:7"
		fails(t, p(PullMissing), spec, provider.ErrInvalid, "check the image's name and tag")
	})
	t.Run("RegistryFails", func(t *testing.T) {
		defer g.status.Store(0)
		g.status.Store(503)
		spec := specFor("r-pull")
		spec.Offering.Image = g.Host + "/team/other:7"
		fails(t, p(PullMissing), spec, provider.ErrTransient, "pull "+g.Host)
		providertest.Survived(t, "container", "registry fails")
	})
	t.Run("SlowerThanACall", func(t *testing.T) {
		e.Tool(t, "rmi", "-f", image)
		blocked := g.block()
		slow := p(PullMissing)
		for range 2 { // the second call joins the first one's pull
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // the pull begins within it
			_, err := slow.Create(ctx, specFor("r-pull"))
			cancel()
			if !errors.Is(err, provider.ErrTransient) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "is being pulled") {
				t.Errorf("while it is pulled: %v", err)
			}
		}
		close(blocked)
		create(t, slow, specFor("r-pull"))
		destroy(t, slow, "r-pull")
		providertest.Survived(t, "container", "image slower than a call may take")
	})
	t.Run("PullTimeout", func(t *testing.T) {
		e.Tool(t, "rmi", "-f", image)
		defer close(g.block())
		c := c
		c.Pull, c.PullTimeout = PullMissing, provider.Duration(time.Second)
		fails(t, open(t, c), specFor("r-pull"), provider.ErrTransient, "longer than pull_timeout")
	})
	t.Run("ClosedWhilePulling", func(t *testing.T) {
		e.Tool(t, "rmi", "-f", "-i", image)
		defer close(g.block())
		leaving := p(PullMissing)
		failed := make(chan error, 1)
		go func() { failed <- second(leaving.Create(t.Context(), specFor("r-pull"))) }()
		until(t, "nothing is pulled", func() bool {
			leaving.pulls.mu.Lock()
			defer leaving.pulls.mu.Unlock()
			return len(leaving.pulls.active) == 1
		})
		if err := leaving.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, provider.ErrTransient) {
			t.Errorf("%v", err)
		}
		fails(t, leaving, specFor("r-pull"), provider.ErrTransient, "is closed")
	})
}
