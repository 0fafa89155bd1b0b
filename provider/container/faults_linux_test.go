package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container/enginetest"
	"github.com/muster-ci/muster/provider/providertest"
)

// middleman stands between a provider and an engine, and spoils what passes.
type middleman struct {
	Host string
	mu   sync.Mutex
	// spoil decides about a call before the engine sees it: a status above 0 is the
	// answer; lose lets the engine act and loses its answer; hang never answers.
	spoil func(r *http.Request) (status int, lose, hang bool)
}

func (m *middleman) set(f func(r *http.Request) (status int, lose, hang bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spoil = f
}

// once spoils the first call of a method on a path with this ending.
func once(method, end string, status int, lose, hang bool) func(*http.Request) (int, bool, bool) {
	done := false
	return func(r *http.Request) (int, bool, bool) {
		if done || r.Method != method || !strings.HasSuffix(r.URL.Path, end) {
			return 0, false, false
		}
		done = true
		return status, lose, hang
	}
}

func newMiddleman(t *testing.T, e *enginetest.Engine, network string) *middleman {
	t.Helper()
	m := &middleman{spoil: func(*http.Request) (int, bool, bool) { return 0, false, false }}
	socket := strings.TrimPrefix(e.Host, "unix://")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	address := filepath.Join(e.Dir, "between")
	m.Host = "unix://" + address
	if network == "tcp" {
		address = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	if network == "tcp" {
		m.Host = "tcp://" + l.Addr().String()
	}
	end := make(chan struct{})
	srv := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		status, lose, hang := m.spoil(r)
		m.mu.Unlock()
		switch {
		case hang:
			select {
			case <-r.Context().Done():
			case <-end:
			}
			panic(http.ErrAbortHandler)
		case status > 0:
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"message": "spoiled with %d"}`, status)
		case lose:
			proxy.ServeHTTP(discard{http.Header{}}, r)
			panic(http.ErrAbortHandler)
		default:
			proxy.ServeHTTP(w, r)
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		close(end)
		_ = srv.Close()
		<-served
	})
	return m
}

// discard is an answer that nobody gets.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// 4-51 4-52: whatever goes wrong with one call, a repetition ends in one container that runs, and a
// deletion leaves none.
func TestCallsThatFail(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	m := newMiddleman(t, e, "unix")
	c := config(t, e)
	c.Host = m.Host
	for name, tc := range map[string]struct {
		spoil func(*http.Request) (int, bool, bool)
		fault string
		class error // of the first Create; nil if it must succeed
	}{
		"CreationRefused":   {once("POST", "/containers/create", 500, false, false), "creation refused by the engine with 500", provider.ErrTransient},
		"CreationBusy":      {once("POST", "/containers/create", 503, false, false), "engine unavailable", provider.ErrTransient},
		"CreationConflict":  {once("POST", "/containers/create", 409, false, false), "conflict of names without a container", provider.ErrTransient},
		"CreationInvalid":   {once("POST", "/containers/create", 400, false, false), "creation refused as invalid", provider.ErrInvalid},
		"CreationLost":      {once("POST", "/containers/create", 0, true, false), "answer to the creation lost", nil},
		"StartLost":         {once("POST", "/start", 0, true, false), "answer to the start lost", provider.ErrTransient},
		"StartRefused":      {once("POST", "/start", 500, false, false), "start refused", provider.ErrTransient},
		"NetworkGone":       {once("POST", "/start", 404, false, false), "start refused for want of a network", provider.ErrTransient},
		"AttachRefused":     {once("POST", "/attach", 500, false, false), "attachment refused", provider.ErrTransient},
		"InspectionRefused": {once("GET", "/json", 500, false, false), "list refused", provider.ErrTransient},
		"VerificationFailed": {func(r *http.Request) (int, bool, bool) {
			return map[bool]int{true: 500}[strings.Contains(r.URL.Path, "/libpod/")], false, false
		}, "question about isolation not answered", provider.ErrTransient},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, c)
			id := muster.RunnerID("r-" + strings.ToLower(name))
			m.set(tc.spoil)
			inst, err := p.Create(t.Context(), specFor(id))
			if tc.class == nil && err != nil || tc.class != nil && !errors.Is(err, tc.class) {
				t.Errorf("the spoiled call: %+v, %v", inst, err)
			}
			m.set(func(*http.Request) (int, bool, bool) { return 0, false, false })
			again := create(t, open(t, c), specFor(id)) // as after a restart
			if n := len(e.Containers(t)); n != 1 || again.State == "" {
				t.Errorf("%d containers, %+v", n, again)
			}
			m.set(once("DELETE", "", 500, false, false))
			if err := p.Delete(t.Context(), id); !errors.Is(err, provider.ErrTransient) {
				t.Errorf("a deletion that was refused: %v", err)
			}
			m.set(once("DELETE", "", 0, true, false))
			if err := p.Delete(t.Context(), id); err == nil || errors.Is(err, provider.ErrInvalid) {
				t.Errorf("a deletion without an answer: %v", err)
			}
			destroy(t, p, id)
			if left := e.Containers(t); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			providertest.Survived(t, "container", "%s", tc.fault)
		})
	}
}

// Calls end with their context, whether the engine hangs as a whole or with one answer.
func TestEngineHangs(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	m := newMiddleman(t, e, "unix")
	c := config(t, e)
	c.Host = m.Host
	p := open(t, c)
	create(t, p, specFor("r-before"))
	calls := map[string]func(context.Context) error{
		"Create":  func(ctx context.Context) error { _, err := p.Create(ctx, specFor("r-hang")); return err },
		"Get":     func(ctx context.Context) error { _, err := p.Get(ctx, "r-before"); return err },
		"Console": func(ctx context.Context) error { _, err := p.Console(ctx, "r-before", 100); return err },
		"Status":  func(ctx context.Context) error { _, err := p.Status(ctx, provider.Machine{Name: "x"}); return err },
		"List": func(ctx context.Context) (err error) {
			for _, err = range p.List(ctx) {
			}
			return err
		},
	}
	bounded := func(t *testing.T, name string, call func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		// A failed Create tries to clean up behind itself.
		if took := time.Since(began); took > undoTimeout+15*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
	e.Hang()
	for name, call := range calls {
		bounded(t, name, call)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	if err := p.Delete(ctx, "r-before"); err == nil || errors.Is(err, provider.ErrNotFound) {
		t.Errorf("a deletion that nobody answered: %v", err)
	}
	cancel()
	e.Continue()
	for _, end := range []string{"/containers/create", "/start", "/attach", "/json"} {
		method := "POST"
		if end == "/json" {
			method = "GET"
		}
		m.set(once(method, end, 0, false, true))
		bounded(t, "Create with "+end, calls["Create"])
		m.set(func(*http.Request) (int, bool, bool) { return 0, false, false })
		destroy(t, p, "r-hang")
	}
	if inst, err := p.Get(t.Context(), "r-before"); err != nil || inst.State != provider.InstanceRunning {
		t.Errorf("a runner that somebody else's calls hung beside: %+v, %v", inst, err)
	}
	destroy(t, p, "r-before")
	if left := e.Containers(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	providertest.Survived(t, "container", "engine hangs, as a whole and in single calls")
}

// 4-51: a control plane that dies anywhere between "created" and "recorded" leaves something that its
// successor finds and can remove or go on with.
func TestControlPlaneKilledBetween(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	c := config(t, e)
	t.Run("CreatedNeverStarted", func(t *testing.T) {
		half := func(id muster.RunnerID, at time.Time) {
			p := open(t, c)
			req := c.request(specFor(id), enginetest.Image, nil, true, true, at)
			if _, err := p.engine.ContainerCreate(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		half("r-half", time.Now())
		half("r-old", time.Now().Add(-time.Hour))
		p := open(t, c)
		states := map[muster.RunnerID]provider.InstanceState{}
		for inst, err := range p.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			states[inst.Runner] = inst.State
		}
		if states["r-half"] != provider.InstanceStarting || states["r-old"] != provider.InstanceEnded {
			t.Errorf("half-created containers are %v", states)
		}
		if inst := create(t, p, specFor("r-half")); inst.State != provider.InstanceRunning {
			t.Errorf("a repeated creation: %+v", inst)
		}
		until(t, "what was created is not continued", func() bool {
			inst, err := p.Get(t.Context(), "r-half")
			return err == nil && inst.State == provider.InstanceRunning
		})
		destroy(t, p, "r-half")
		destroy(t, p, "r-old")
	})
	t.Run("StartedWithoutItsToken", func(t *testing.T) {
		p := open(t, c)
		req := c.request(specFor("r-notoken"), enginetest.Image, nil, true, true, time.Now())
		if _, err := p.engine.ContainerCreate(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		conn, err := p.engine.ContainerAttach(t.Context(), req.Name, attachStdin)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.engine.ContainerStart(t.Context(), req.Name, startNow); err != nil {
			t.Fatal(err)
		}
		conn.Close() // as the kernel does for a process that was killed
		until(t, "an agent that will never get its token waits for it", func() bool {
			inst, err := p.Get(t.Context(), "r-notoken")
			return err == nil && inst.State == provider.InstanceEnded
		})
		if log, err := p.Console(t.Context(), "r-notoken", 10000); err != nil || !strings.Contains(string(log), "the boot token is empty") {
			t.Errorf("the agent's words: %s, %v", log, err)
		}
		if inst := create(t, p, specFor("r-notoken")); inst.State != provider.InstanceEnded {
			t.Errorf("it was started again: %+v", inst)
		}
		destroy(t, p, "r-notoken")
	})
	if left := e.Containers(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	providertest.Survived(t, "container", "control plane killed between creation, start and hand-over of the token")
}

// Containers outlive their engine, and are found when it is back.
func TestEngineRestarts(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	c := config(t, e)
	c.Network = "host"
	control := newPlane(t, "127.0.0.1:0")
	p := open(t, c)
	lives := specFor("r-lives")
	lives.Boot.URL = control.URL
	before := create(t, p, lives)
	// A token that is still in the engine's hands dies with it, and its agent ends for want of one.
	control.connected(t, lives.Boot.Token.Reveal())
	e.Kill()
	for name, err := range map[string]error{
		"get":    second(p.Get(t.Context(), "r-lives")),
		"create": second(p.Create(t.Context(), specFor("r-new"))),
		"delete": p.Delete(t.Context(), "r-lives"),
	} {
		if !errors.Is(err, provider.ErrTransient) || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("%s without an engine: %v", name, err)
		}
	}
	for _, err := range p.List(t.Context()) {
		if err == nil {
			t.Error("without an engine, the list is not an error")
		}
	}
	e.Start(t)
	if inst, err := p.Get(t.Context(), "r-lives"); err != nil || inst.State != provider.InstanceRunning || inst.ID != before.ID {
		t.Errorf("after the engine's restart: %+v, %v", inst, err)
	}
	create(t, p, specFor("r-new"))
	destroy(t, p, "r-lives")
	destroy(t, p, "r-new")
	providertest.Survived(t, "container", "engine killed and started again")
}

func second[T any](_ T, err error) error { return err }

// 4-52: a full disk is a lack of capacity, in the engine's words, and leaves nothing behind.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{Size: "48m"})
	p := open(t, config(t, e))
	create(t, p, specFor("r-fits"))
	hog, err := os.Create(filepath.Join(e.Dir, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	defer hog.Close()
	block := make([]byte, 1<<16)
	for err == nil {
		_, err = hog.Write(block)
	}
	for size := 4096; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = hog.Write(block[:size])
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_, err = p.Create(t.Context(), specFor("r-full"))
	if !errors.Is(err, provider.ErrCapacity) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("create on a full disk: %v", err)
	}
	if err := os.Remove(hog.Name()); err != nil {
		t.Fatal(err)
	}
	hog.Close()
	destroy(t, p, "r-full")
	create(t, p, specFor("r-full"))
	destroy(t, p, "r-full")
	destroy(t, p, "r-fits")
	if left := e.Containers(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	providertest.Survived(t, "container", "the engine's disk is full")
}

// A machine that dies before, during and after its job is seen as ended, and cleaned up.
func TestMachinesThatDie(t *testing.T) {
	t.Parallel()
	e := enginetest.Podman(t, enginetest.Options{})
	c := config(t, e)
	p := open(t, c)
	t.Run("Killed", func(t *testing.T) {
		inst := create(t, p, specFor("r-killed"))
		e.Tool(t, "kill", inst.ID)
		until(t, "it has not ended", func() bool {
			got, err := p.Get(t.Context(), "r-killed")
			return err == nil && got.State == provider.InstanceEnded && strings.Contains(got.Detail, "code 137")
		})
		destroy(t, p, "r-killed")
	})
	t.Run("RemovedByHand", func(t *testing.T) {
		inst := create(t, p, specFor("r-removed"))
		e.Tool(t, "rm", "-f", inst.ID)
		if _, err := p.Get(t.Context(), "r-removed"); !errors.Is(err, provider.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
		destroy(t, p, "r-removed")
	})
	t.Run("OutOfMemory", func(t *testing.T) {
		stubborn := filepath.Join(t.TempDir(), "agent")
		// Process 1 itself takes too much, so that the engine learns of it.
		if err := os.WriteFile(stubborn, []byte("#!/bin/sh\nread token\nexec dd if=/dev/zero of=/dev/null bs=200M\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		c := c
		c.Agent = stubborn
		p := open(t, c)
		spec := specFor("r-oom")
		spec.Offering.MemoryMiB = 40
		create(t, p, spec)
		until(t, "it lives beyond its memory", func() bool {
			got, err := p.Get(t.Context(), "r-oom")
			if err == nil && got.State == provider.InstanceEnded && !strings.Contains(got.Detail, "memory limit of 40 MiB") {
				t.Fatalf("how it ended: %s", got.Detail)
			}
			return err == nil && got.State == provider.InstanceEnded
		})
		destroy(t, p, "r-oom")
	})
	t.Run("OlderThanItMayBe", func(t *testing.T) {
		stuck := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(stuck, []byte("#!/bin/sh\ntrap '' TERM\nread token\nwhile :; do sleep 1; done\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		c := c
		c.Agent, c.Grace = stuck, provider.Duration(time.Second)
		p := open(t, c)
		spec := specFor("r-stuck")
		spec.MaxAge = time.Second
		create(t, p, spec)
		until(t, "it is older than it may be", func() bool {
			got, err := p.Get(t.Context(), "r-stuck")
			return err == nil && got.State == provider.InstanceEnded
		})
		destroy(t, p, "r-stuck")
	})
	if left := e.Containers(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for _, f := range []string{"machine killed", "machine removed by hand", "machine out of memory", "agent stuck beyond its maximum age"} {
		providertest.Survived(t, "container", "%s", f)
	}
}
