package slurm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/slurm"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

// plane is as much of a control plane as an agent needs.
type plane struct {
	*httptest.Server
	mu       sync.Mutex
	booted   map[string]time.Time // by token
	finished []wire.Report
	noJob    int
}

func newPlane(t *testing.T, noJob int) *plane {
	p := &plane{booted: map[string]time.Time{}, noJob: noJob}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		var out any = wire.Answer{}
		switch r.URL.Path {
		case wire.BootPath:
			p.booted[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] = time.Now()
			out = wire.BootResponse{Runner: "r", Name: "r", SessionToken: "s", JITConfig: "e30=", NoJobSeconds: p.noJob, HeartbeatSeconds: 1}
		case wire.ReportPath:
			var rep wire.Report
			if err := json.NewDecoder(r.Body).Decode(&rep); err == nil && rep.Phase == wire.PhaseFinished {
				p.finished = append(p.finished, rep)
			}
		}
		_ = json.NewEncoder(w).Encode(out) // the agent may have gone
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *plane) bootedAt(token string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.booted[token]
}

// listens is a runner that waits for jobs and never gets one.
const listens = "echo 'Current runner version: 2.330.0'\necho \"$(date -u +'%Y-%m-%d %H:%M:%S')Z: Listening for Jobs\"\nexec sleep 600\n"

func spec(n int, url string) provider.Spec {
	return provider.Spec{
		Runner: muster.RunnerID(fmt.Sprintf("r-own-%d-%d", time.Now().UnixNano()%1e9, n)), Owner: "own", Workspace: "default", Pool: "hpc",
		Offering: muster.Offering{CPUs: 1, MemoryMiB: 64}, Boot: provider.Boot{URL: url, Token: muster.Secret(fmt.Sprintf("token-%d", n))},
	}
}

func create(t *testing.T, p provider.Provider, s provider.Spec) provider.Instance {
	t.Helper()
	in, err := p.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func gone(t *testing.T, p provider.Provider, id muster.RunnerID) {
	t.Helper()
	within(t, 30*time.Second, string(id)+" is not gone", func() bool {
		return errors.Is(p.Delete(t.Context(), id), provider.ErrNotFound)
	})
}

// awaitDetail waits until the instance's own words hold a text.
func awaitDetail(t *testing.T, p provider.Provider, id muster.RunnerID, d time.Duration, want string) provider.Instance {
	t.Helper()
	var in provider.Instance
	var err error
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	for {
		if in, err = p.Get(t.Context(), id); err == nil && strings.Contains(in.Detail, want) {
			return in
		}
		select {
		case <-deadline.C:
			t.Fatalf("after %s no %q: %+v, %v", d, want, in, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// S2-13 4-43: a runner that listens and gets no job leaves, and its allocation is free again, without
// an error.
func TestNoJobFreesTheAllocation(t *testing.T) {
	s := newStand(t, slurm.TransportREST, slurmtest.Options{})
	s.cfg.RunnerDir = runnerDir(t, s.Cluster, listens)
	cp := newPlane(t, 1)
	p := s.open(t, "own")
	sp := spec(1, cp.URL)
	create(t, p, sp)
	in := awaitDetail(t, p, sp.Runner, 30*time.Second, "COMPLETED")
	if in.State != provider.InstanceEnded {
		t.Errorf("%+v", in)
	}
	cp.mu.Lock()
	if len(cp.finished) != 1 || !strings.HasPrefix(cp.finished[0].Reason, "no job within") {
		t.Errorf("the agent reported %+v", cp.finished)
	}
	cp.mu.Unlock()
	if left := s.Queue(t); len(left) > 0 {
		t.Errorf("%v", left)
	}
	gone(t, p, sp.Runner)
	providertest.Survived(t, "slurm", "no job came")
}

// S4-76: GPUs of an offering are asked for as gres, time, memory and CPUs too; and what can never be is told
// so at once.
func TestWhatIsAskedFor(t *testing.T) {
	s := newStand(t, slurm.TransportREST, slurmtest.Options{})
	commands := s.config(t, slurm.TransportCommands)
	for transport, cfg := range map[string]slurm.Config{slurm.TransportREST: s.cfg, slurm.TransportCommands: commands} {
		cfg.TimeLimit, cfg.Owner = provider.Duration(90*time.Minute), "own"
		p, err := slurm.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		sp := spec(1, "http://127.0.0.1:9")
		sp.Offering = muster.Offering{CPUs: 1.5, MemoryMiB: 128, GPUs: 2}
		in := create(t, p, sp)
		show := s.Must(t, "scontrol", "show", "job", in.ID)
		for _, want := range []string{"gres:gpu:2", "TimeLimit=01:30:00", "MinMemoryNode=128M", "CPUs/Task=2", "Requeue=0", "Partition=ci", `"pool":"hpc"`, `"workspace":"default"`} {
			if !strings.Contains(show, want) {
				t.Errorf("%s: no %s in\n%s", transport, want, show)
			}
		}
		for name, spoil := range map[string]func(*slurm.Config, *provider.Spec){
			"partition": func(c *slurm.Config, _ *provider.Spec) { c.Partition = "none" },
			"gpus":      func(_ *slurm.Config, s *provider.Spec) { s.Offering.GPUs = 9 },
		} {
			c, sp := cfg, spec(2, "http://127.0.0.1:9")
			spoil(&c, &sp)
			p, err := slurm.New(c)
			if err != nil {
				t.Fatal(err)
			}
			if in, err := p.Create(t.Context(), sp); !errors.Is(err, provider.ErrInvalid) {
				t.Errorf("%s, %s: %+v, %v", transport, name, in, err)
			}
		}
		gone(t, p, sp.Runner)
		large := spec(3, "http://127.0.0.1:9") // Slurm takes it, and it never starts
		large.Offering.CPUs = 1000
		create(t, p, large)
		awaitDetail(t, p, large.Runner, 10*time.Second, "PENDING (PartitionConfig): no node of the partition is large enough")
		gone(t, p, large.Runner)
	}
	providertest.Survived(t, "slurm", "creation refused")
}

// How jobs end is told apart, in Slurm's words: why they wait, FAILED with the agent's code,
// CANCELLED by others, and NODE_FAIL of a node that is killed under a runner.
func TestEndsAreToldApart(t *testing.T) {
	s := newStand(t, slurm.TransportREST, slurmtest.Options{})
	cp := newPlane(t, 0)
	s.cfg.RunnerDir = runnerDir(t, s.Cluster, listens)
	p := s.open(t, "own")

	waits := s.open(t, "own", func(c *slurm.Config) { c.Partition = "closed" })
	queued := spec(1, cp.URL)
	if in := create(t, waits, queued); in.State != provider.InstanceStarting {
		t.Errorf("%+v", in)
	}
	awaitDetail(t, p, queued.Runner, 10*time.Second, "PENDING (PartitionDown): the partition takes no jobs now")

	broken := s.open(t, "own", func(c *slurm.Config) { c.Agent = "/no/such/agent" })
	failed := spec(2, cp.URL)
	in := create(t, broken, failed)
	awaitDetail(t, p, failed.Runner, 20*time.Second, "FAILED (NonZeroExitCode)")
	awaitDetail(t, p, failed.Runner, time.Second, "exit code 20")
	if log, err := os.ReadFile(strings.ReplaceAll(s.cfg.Log, "%j", in.ID)); err != nil || !strings.Contains(string(log), "install muster-agent there") {
		t.Errorf("log %q, %v", log, err) // 4-41: each its own
	}

	cancelled, lost := spec(3, cp.URL), spec(4, cp.URL)
	in = create(t, p, cancelled)
	awaitDetail(t, p, cancelled.Runner, 20*time.Second, "RUNNING")
	s.Must(t, "scancel", in.ID)
	awaitDetail(t, p, cancelled.Runner, 20*time.Second, "CANCELLED")

	in = create(t, p, lost)
	within(t, 20*time.Second, "the agent does not connect", func() bool { return !cp.bootedAt("token-4").IsZero() })
	node := 0
	if _, err := fmt.Sscanf(strings.TrimSpace(s.Must(t, "squeue", "-h", "-j", in.ID, "-o", "%N")), "n%d", &node); err != nil {
		t.Fatal(err)
	}
	s.KillNode(t, node)
	if in := awaitDetail(t, p, lost.Runner, time.Minute, "NODE_FAIL (NodeDown) on "+slurmtest.NodeName(node)); in.State != provider.InstanceEnded {
		t.Errorf("%+v", in)
	}
	if restarted := s.Must(t, "scontrol", "show", "job", in.ID); !strings.Contains(restarted, "Restarts=0") || !strings.Contains(restarted, "Requeue=0") {
		t.Errorf("a lost job would be started again:\n%s", restarted)
	}
	for _, sp := range []provider.Spec{queued, failed, cancelled, lost} {
		gone(t, p, sp.Runner)
	}
	if left := s.Queue(t); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	providertest.Survived(t, "slurm", "node killed during the job")
	providertest.Survived(t, "slurm", "machine cancelled by somebody else")
}

// 4-42: the answers of slurmrestd are lost on the way, to submissions and to
// cancellations: nothing is submitted twice, and nothing stays.
func TestLostAnswers(t *testing.T) {
	s := newStand(t, slurm.TransportREST, slurmtest.Options{})
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	drop := map[string]int{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ModifyResponse: func(r *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		for part, n := range drop {
			if n > 0 && strings.Contains(r.Request.Method+" "+r.Request.URL.Path, part) {
				drop[part]--
				return errors.New("dropped")
			}
		}
		return nil
	}, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}}
	front := httptest.NewServer(proxy)
	defer front.Close()
	lose := func(part string, n int) {
		mu.Lock()
		defer mu.Unlock()
		drop[part] = n
	}
	p := s.open(t, "own", func(c *slurm.Config) { c.URL, c.APIVersion = front.URL, "v0.0.38" })
	sp := spec(1, "http://127.0.0.1:9")
	lose("/job/submit", 1)
	first := create(t, p, sp)
	other := spec(2, "http://127.0.0.1:9")
	lose("/job/submit", 1)
	lose("/jobs", 3) // the look after it as well
	if in, err := p.Create(t.Context(), other); !errors.Is(err, provider.ErrTransient) {
		t.Fatalf("%+v, %v", in, err)
	}
	lose("/jobs", 0)
	lose("/job/submit", 0)
	again := create(t, s.open(t, "own"), other) // after a restart
	create(t, p, other)
	if q := s.Queue(t); len(q) != 2 || first.ID == again.ID {
		t.Errorf("two runners have the jobs %v", q)
	}
	lose("DELETE", 2)
	gone2 := func(id muster.RunnerID) {
		within(t, 30*time.Second, string(id)+" is not gone", func() bool { return errors.Is(p.Delete(t.Context(), id), provider.ErrNotFound) })
	}
	gone2(sp.Runner)
	gone2(other.Runner)
	if q := s.Queue(t); len(q) != 0 {
		t.Errorf("left %v", q)
	}
	if !strings.Contains(s.log.String(), "answer of a submission was lost") {
		t.Error("nothing is said of the lost answer")
	}
	providertest.Survived(t, "slurm", "creation's answer lost")
	providertest.Survived(t, "slurm", "control plane killed between created and recorded")
}

// A slurmrestd that takes calls and never answers holds nobody longer than the caller wants.
func TestHangingCalls(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := slurm.Defaults()
	cfg.Transport, cfg.URL, cfg.User, cfg.TokenCommand, cfg.Owner = slurm.TransportREST, "http://"+l.Addr().String(), "nobody", []string{"/bin/echo", "token"}, "own"
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := slurm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Create(ctx, spec(1, "http://127.0.0.1:9")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create: %v", err)
	}
	if _, err := p.Get(ctx, "r-own-1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get: %v", err)
	}
	providertest.Survived(t, "slurm", "calls that hang")
}

// From Create to the agent's first word, and what an idle runner keeps of memory.
func TestFigures(t *testing.T) {
	const n = 20
	s := newStand(t, slurm.TransportREST, slurmtest.Options{CPUs: 64})
	s.cfg.RunnerDir = runnerDir(t, s.Cluster, listens)
	cp := newPlane(t, 0)
	p := s.open(t, "own")
	var took []time.Duration
	for i := range n {
		sp := spec(i, cp.URL)
		began := time.Now()
		create(t, p, sp)
		within(t, 20*time.Second, "the agent does not connect", func() bool { return !cp.bootedAt(string(sp.Boot.Token.Reveal())).IsZero() })
		took = append(took, cp.bootedAt(sp.Boot.Token.Reveal()).Sub(began))
		if i == n-1 {
			within(t, 20*time.Second, "the runner does not run", func() bool { return len(s.processes(t, "own", sp.Runner)) >= 3 })
			kib := 0
			for _, pr := range s.processes(t, "own", sp.Runner) {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pr.PID))
				for line := range strings.Lines(string(text)) {
					var k int
					if _, err := fmt.Sscanf(line, "Pss: %d kB", &k); err == nil {
						kib += k
					}
				}
			}
			providertest.Figure(t, "slurm", providertest.FigureMemory, fmt.Sprintf("%d MiB", (kib+1023)/1024))
		}
		gone(t, p, sp.Runner)
	}
	slices.Sort(took)
	providertest.Figure(t, "slurm", providertest.FigureConnect, fmt.Sprintf("%d ms (n=%d)", took[n/2].Milliseconds(), n))
	t.Logf("fastest %s, slowest %s", took[0].Round(time.Millisecond), took[n-1].Round(time.Millisecond))
}
