package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// proxy stands before the API server and can fail in between.
type proxy struct {
	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request, pass func()) // nil passes all
	pod   func(*corev1.Pod)
	calls atomic.Int64
}

// throughProxy makes a configuration go through a proxy of its own.
func throughProxy(t *testing.T, c *Config) *proxy {
	t.Helper()
	access, err := clientcmd.BuildConfigFromFlags("", kubetest.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(access)
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(access.Host)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(to)
	forward.Transport = transport
	forward.FlushInterval = -1
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	x := &proxy{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.calls.Add(1)
		x.mu.Lock()
		fault, change := x.fault, x.pod
		x.mu.Unlock()
		if change != nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods") {
			text, err := io.ReadAll(r.Body)
			var o runtime.Object
			if err == nil {
				o, _, err = scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil) // the client chooses its encoding
			}
			pod, ok := o.(*corev1.Pod)
			if err != nil || !ok {
				http.Error(w, fmt.Sprint(err), http.StatusInternalServerError)
				return
			}
			change(pod)
			pod.APIVersion, pod.Kind = "v1", "Pod"
			text, _ = json.Marshal(pod)
			r.Header.Set("Content-Type", "application/json")
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
			r.Header.Set("Content-Length", fmt.Sprint(len(text)))
		}
		pass := func() { forward.ServeHTTP(w, r) }
		if fault == nil {
			pass()
			return
		}
		fault(w, r, pass)
	}))
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", srv.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Kubeconfig = file
	return x
}

func (x *proxy) rewrite(change func(*corev1.Pod)) { x.mu.Lock(); x.pod = change; x.mu.Unlock() }

func (x *proxy) failing(fault func(w http.ResponseWriter, r *http.Request, pass func())) {
	x.mu.Lock()
	x.fault = fault
	x.mu.Unlock()
}

// creating tells whether a request makes a pod or a Secret.
func creating(r *http.Request, what string) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/"+what)
}

// 4-51: a pod whose creation was answered to nobody is found by the next try, by another
// provider, and by List. 4-20
func TestLostAnswers(t *testing.T) {
	for _, what := range []string{"pods", "secrets"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := own(t, "lost-"+what)
			direct := c
			x := throughProxy(t, &c)
			p := open(t, c)
			warm(t, p, c)
			var lost atomic.Int64
			x.failing(func(w http.ResponseWriter, r *http.Request, pass func()) {
				if creating(r, what) && lost.Add(1) == 1 {
					// It arrives, and the answer does not.
					hijacked(w, r, pass)
					return
				}
				pass()
			})
			spec := specFor(c, "r-lost")
			inst, err := p.Create(t.Context(), spec)
			if lost.Load() == 0 {
				t.Fatal("nothing was lost")
			}
			if err != nil && !errors.Is(err, provider.ErrTransient) {
				t.Errorf("create: %+v, %v", inst, err)
			}
			// As after a crash: another process asks.
			other := open(t, direct)
			found := 0
			for in, err := range other.List(t.Context()) {
				if err != nil || in.Runner != spec.Runner {
					t.Errorf("list: %+v, %v", in, err)
				}
				found++
			}
			if found != 1 {
				t.Errorf("list found %d", found)
			}
			create(t, other, spec)
			becomes(t, other, spec.Runner, provider.InstanceRunning, time.Minute)
			destroy(t, other, spec.Runner)
			if left := remains(t, c.Owner, spec.Runner); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			providertest.Survived(t, "kubernetes", "answer lost after creating %s, control plane killed before it was recorded", what)
		})
	}
}

// hijacked passes a request on and hangs up before its answer.
func hijacked(w http.ResponseWriter, r *http.Request, _ func()) {
	access, err := clientcmd.BuildConfigFromFlags("", kubetest.Kubeconfig())
	if err == nil {
		var transport http.RoundTripper
		if transport, err = rest.TransportFor(access); err == nil {
			out := r.Clone(r.Context())
			out.RequestURI = ""
			to, _ := url.Parse(access.Host)
			out.URL.Scheme, out.URL.Host, out.Host = to.Scheme, to.Host, to.Host
			var resp *http.Response
			if resp, err = transport.RoundTrip(out); err == nil {
				_ = resp.Body.Close()
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	panic(http.ErrAbortHandler)
}

// warm makes a provider's namespace, so that faults hit what is meant.
func warm(t *testing.T, p *Provider, c Config) {
	t.Helper()
	create(t, p, specFor(c, "r-warm"))
	destroy(t, p, "r-warm")
}

// 4-21: an API server that throttles is obeyed, one that fails or hangs costs no more than the
// time that the caller has, and nothing is taken for gone.
func TestFailingAPIServer(t *testing.T) {
	c := own(t, "failing")
	c.Timeout = provider.Duration(3 * time.Second)
	x := throughProxy(t, &c)
	p := open(t, c)
	warm(t, p, c)
	spec := specFor(c, "r-failing")
	create(t, p, spec)

	t.Run("throttled", func(t *testing.T) {
		var times []time.Time
		x.failing(func(w http.ResponseWriter, r *http.Request, pass func()) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/pods/") {
				if times = append(times, time.Now()); len(times) == 1 {
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
			}
			pass()
		})
		if inst, err := p.Get(t.Context(), spec.Runner); err != nil || inst.Runner != spec.Runner {
			t.Errorf("get: %+v, %v", inst, err)
		}
		if len(times) != 2 || times[1].Sub(times[0]) < 900*time.Millisecond {
			t.Errorf("asked at %v", times)
		}
	})
	calls := map[string]func(context.Context) error{
		"create": func(ctx context.Context) error { _, err := p.Create(ctx, specFor(c, "r-other")); return err },
		"get":    func(ctx context.Context) error { _, err := p.Get(ctx, spec.Runner); return err },
		"delete": func(ctx context.Context) error { return p.Delete(ctx, spec.Runner) },
		"list": func(ctx context.Context) error {
			for _, err := range p.List(ctx) {
				return err
			}
			return nil
		},
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request){
		"500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"503":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"nothing": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a page":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>welcome</html>")) },
		"401":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
	} {
		t.Run(name, func(t *testing.T) {
			x.failing(func(w http.ResponseWriter, r *http.Request, pass func()) { fault(w, r) })
			for call, do := range calls {
				if err := do(t.Context()); !errors.Is(err, provider.ErrTransient) || errors.Is(err, provider.ErrNotFound) {
					t.Errorf("%s: %v", call, err)
				}
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		x.failing(func(_ http.ResponseWriter, r *http.Request, _ func()) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client left
			<-r.Context().Done()
		})
		for call, do := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			began := time.Now()
			err := do(ctx)
			cancel()
			if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
				t.Errorf("%s with a deadline: %v after %s", call, err, took)
			}
		}
		// Without a deadline of the caller's, the provider's own.
		began := time.Now()
		if err := calls["get"](t.Context()); !errors.Is(err, provider.ErrTransient) || time.Since(began) > 20*time.Second {
			t.Errorf("get: %v after %s", err, time.Since(began))
		}
	})
	x.failing(nil)
	if inst, err := p.Get(t.Context(), spec.Runner); err != nil || inst.State == provider.InstanceEnded {
		t.Errorf("afterwards: %+v, %v", inst, err)
	}
	if _, err := p.Get(t.Context(), "r-other"); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("a create that failed: %v", err)
	}
	providertest.Survived(t, "kubernetes", "platform throttles, fails, hangs up, hangs")
}

// 4-51, issue 4: 100 runners with a fifth of all answers lost or failed, the control plane
// killed five times: as counted by kubectl, nothing is left.
func TestChaos(t *testing.T) {
	c := own(t, "chaos")
	c.Timeout = provider.Duration(5 * time.Second)
	x := throughProxy(t, &c)
	p := open(t, c)
	warm(t, p, c)
	x.rewrite(func(pod *corev1.Pod) { pod.Spec.NodeSelector = map[string]string{"nowhere": "true"} }) // a hundred containers say nothing more
	var n, faults atomic.Int64
	x.failing(func(w http.ResponseWriter, r *http.Request, pass func()) {
		if r.URL.Query().Get("watch") != "" {
			pass()
			return
		}
		n.Add(1)
		switch luck := rand.IntN(10); luck {
		case 3:
			faults.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
		case 7:
			faults.Add(1)
			hijacked(w, r, pass)
		default:
			pass()
		}
	})
	const runners = 100
	for life := range 5 {
		q := open(t, c) // a new control plane; the old one is forgotten as it is
		var wg sync.WaitGroup
		for i := range runners / 5 {
			spec := specFor(c, muster.RunnerID(fmt.Sprintf("r-chaos-%d-%d", life, i)))
			wg.Go(func() {
				for range 20 { // as the life of a runner would
					if _, err := q.Create(t.Context(), spec); err == nil || errors.Is(err, provider.ErrCapacity) {
						return
					}
				}
			})
		}
		wg.Wait()
	}
	last := open(t, c)
	gone := map[muster.RunnerID]bool{}
	until(t, 3*time.Minute, func() (bool, string) {
		left := 0
		for inst, err := range last.List(t.Context()) {
			if err != nil {
				return false, err.Error()
			}
			left++
			if err := last.Delete(t.Context(), inst.Runner); err != nil && !errors.Is(err, provider.ErrTransient) && !errors.Is(err, provider.ErrNotFound) {
				t.Errorf("delete: %v", err)
			}
			gone[inst.Runner] = true
		}
		return left == 0, fmt.Sprintf("%d are left", left)
	})
	if faults.Load() < 20 || len(gone) < runners/2 {
		t.Errorf("%d faults, %d runners: nothing is proven", faults.Load(), len(gone))
	}
	until(t, time.Minute, func() (bool, string) {
		left := kubectl(t, "get", "pods,secrets", "-A", "-o", "name", "-l", labelOwner+"="+short(c.Owner))
		return left == "", left
	})
	providertest.Survived(t, "kubernetes", "100 creations with a fifth of all answers lost or failed, five control planes: nothing left")
	t.Logf("%d runners, %d faults in %d calls", len(gone), faults.Load(), n.Load())
}
