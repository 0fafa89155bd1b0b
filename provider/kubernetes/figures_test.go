package kubernetes

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// plane is a control plane as far as an agent's first word goes.
type plane struct {
	url  string
	mu   sync.Mutex
	came map[string]chan struct{} // by boot token
}

func listen(t *testing.T) *plane {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(kubetest.Host(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{url: "http://" + l.Addr().String(), came: map[string]chan struct{}{}}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		if c, ok := p.came[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]; ok {
			delete(p.came, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			close(c)
		}
		p.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable) // it stays and asks again
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-ended
	})
	return p
}

func (p *plane) expect(token string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan struct{})
	p.came[token] = c
	return c
}

// How long it takes from Create until a real agent in a real pod speaks, and what one that
// waits costs. S4-35
func TestFigures(t *testing.T) {
	c := own(t, "figures")
	p, plane := open(t, c), listen(t)
	warm(t, p, c)
	const n = 20
	var took []time.Duration
	var kib int
	for i := range n {
		spec := specFor(c, muster.RunnerID(fmt.Sprintf("r-figure-%d", i)))
		spec.Boot.URL, spec.Boot.Token = plane.url, muster.Secret(fmt.Sprintf("%s-%d", providertest.Token, i))
		came, began := plane.expect(string(spec.Boot.Token)), time.Now()
		create(t, p, spec)
		select {
		case <-came:
			took = append(took, time.Since(began))
		case <-time.After(time.Minute):
			inst, err := p.Get(t.Context(), spec.Runner)
			t.Fatalf("no agent came: %+v, %v", inst, err)
		}
		if i == n-1 {
			for pid := range processes(c.Owner, spec.Runner) {
				kib += resident(t, pid)
			}
		}
	}
	var ending sync.WaitGroup
	for i := range n { // the clean-up would take them one by one
		ending.Go(func() { _ = p.Delete(t.Context(), muster.RunnerID(fmt.Sprintf("r-figure-%d", i))) })
	}
	ending.Wait()
	slices.Sort(took)
	providertest.Figure(t, "kubernetes", providertest.FigureConnect, fmt.Sprintf("%d ms (n=%d)", took[n/2].Milliseconds(), n))
	providertest.Figure(t, "kubernetes", providertest.FigureMemory, fmt.Sprintf("%d MiB", (kib+1023)/1024))
	t.Logf("create to connect: least %s, median %s, most %s", took[0], took[n/2], took[n-1])
}

// resident is a process's memory in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // ended meanwhile
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Error(err)
			}
			return n
		}
	}
	return 0
}

// 2,000 pods on a real API server, made, found, counted by a second provider, and removed.
// They wait for a node that does not exist: what is measured is everything but a kubelet.
func TestTwoThousandPods(t *testing.T) {
	c := own(t, "scale")
	t.Parallel() // beside TestNodeLost: no pod here needs the node
	const n = 2000
	c.NodeSelector = map[string]string{"nowhere": "true"}
	c.CapacityAfter, c.StartTimeout = provider.Duration(time.Hour), provider.Duration(time.Hour)
	p := open(t, c)
	id := func(i int) muster.RunnerID { return muster.RunnerID(fmt.Sprintf("r-scale-%d", i)) }
	each := func(do func(i int)) time.Duration {
		began, next := time.Now(), make(chan int)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for i := range next {
					do(i)
				}
			})
		}
		for i := range n {
			next <- i
		}
		close(next)
		wg.Wait()
		return time.Since(began)
	}
	made := each(func(i int) {
		if _, err := p.Create(t.Context(), specFor(c, id(i))); err != nil {
			t.Errorf("create: %v", err)
		}
	})
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := memory()
	after := open(t, c) // a control plane that was started again
	list := func() (count int, took time.Duration) {
		began := time.Now()
		for inst, err := range after.List(t.Context()) {
			if err != nil || inst.State != provider.InstanceStarting {
				t.Fatalf("list: %+v, %v", inst, err)
			}
			count++
		}
		return count, time.Since(began)
	}
	count, first := list()
	if count != n {
		t.Errorf("%d of %d are listed", count, n)
	}
	w := after.watch("scale-default")
	until(t, 2*time.Minute, func() (bool, string) {
		k := len(w.pods.GetStore().ListKeys())
		return k == n && w.events.HasSynced(), fmt.Sprintf("the watch has %d", k)
	})
	_, again := list()
	watching := int64(memory()) - int64(before)
	var gets []time.Duration
	for i := range 200 {
		began := time.Now()
		inst, err := after.Get(t.Context(), id(i*10))
		if gets = append(gets, time.Since(began)); err != nil || inst.Runner != id(i*10) {
			t.Fatalf("get: %+v, %v", inst, err)
		}
	}
	slices.Sort(gets)
	removed := each(func(i int) {
		for {
			if err := after.Delete(t.Context(), id(i)); errors.Is(err, provider.ErrNotFound) {
				return
			} else if err != nil && !errors.Is(err, provider.ErrTransient) {
				t.Errorf("delete: %v", err)
				return
			}
		}
	})
	if count, _ := list(); count != 0 {
		t.Errorf("%d are left", count)
	}
	if left := kubectl(t, "get", "pods,secrets", "-n", "scale-default", "-o", "name"); left != "" {
		t.Errorf("kubectl finds %.200s", left)
	}
	t.Logf("%d pods: made in %s, first list %s, list beside a full watch %s, get p50 %s p99 %s, watch of pods and warnings %.1f MiB (%.1f KiB a pod), removed until proven gone in %s",
		n, made.Round(time.Millisecond), first.Round(time.Millisecond), again.Round(time.Millisecond), gets[len(gets)/2], gets[len(gets)*99/100],
		float64(watching)/(1<<20), float64(watching)/1024/n, removed.Round(time.Millisecond))
}
