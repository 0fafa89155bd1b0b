package ssh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/ssh/sshtest"
)

// proxy stands between a provider and sshd.
type proxy struct {
	to       string
	listener net.Listener
	work     sync.WaitGroup
	silent   atomic.Bool // what the server says does not arrive
	mu       sync.Mutex
	conns    map[net.Conn]bool
	closed   bool
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to, listener: l, conns: map[net.Conn]bool{}}
	p.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cut()
		p.work.Wait()
	})
	return p
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return !p.closed
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.keep(client) || !p.keep(server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, client); server.Close() })
	both.Go(func() {
		defer client.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if p.silent.Load() {
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	both.Wait()
}

// cut ends every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
		delete(p.conns, c)
	}
}

func create(t testing.TB, p *Provider, spec provider.Spec) provider.Instance {
	t.Helper()
	inst, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return inst
}

func list(t testing.TB, p *Provider) (all []provider.Instance, failed error) {
	t.Helper()
	for inst, err := range p.List(context.WithoutCancel(t.Context())) {
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		all = append(all, inst)
	}
	return all, failed
}

// A host that is not the one that it should be is never logged in to, and the message
// says what to do; one that takes no key of ours, too.
func TestStrangers(t *testing.T) {
	s := newSite(t, waitForEver)
	other := filepath.Join(s.Dir, "other")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(other + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	unknown, wrong := filepath.Join(s.Dir, "unknown"), filepath.Join(s.Dir, "wrong")
	line := fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, public)
	if err := errors.Join(os.WriteFile(unknown, []byte("# nobody\n"), 0o644), os.WriteFile(wrong, []byte(line), 0o644)); err != nil {
		t.Fatal(err)
	}
	const elsewhere = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for name, c := range map[string]struct {
		spoil func(*Config)
		words []string
	}{
		"OtherFingerprint": {func(c *Config) { c.Hosts[0].HostKey = elsewhere }, []string{s.HostKey, elsewhere, "somebody may be in between", "change host_key"}},
		"OtherKey":         {func(c *Config) { c.Hosts[0].HostKey = string(public) }, []string{s.HostKey, "change host_key"}},
		"NoLine":           {func(c *Config) { c.Hosts[0].HostKey, c.KnownHosts = "", unknown }, []string{s.HostKey, unknown, "no line", "set host_key"}},
		"OtherLine":        {func(c *Config) { c.Hosts[0].HostKey, c.KnownHosts = "", wrong }, []string{s.HostKey, "another one", "ssh-keygen -lf"}},
		"KeyRefused":       {func(c *Config) { c.IdentityFiles = []string{other} }, []string{"takes none of our keys", "authorized_keys"}},
		"NoAgent":          {func(c *Config) { c.AgentSocket, c.IdentityFiles = filepath.Join(s.Dir, "none"), nil }, []string{"agent_socket", "running?"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config("strangers")
			c.spoil(&cfg)
			p := open(t, cfg)
			_, err := p.Create(t.Context(), specFor("r-stranger"))
			if !errors.Is(err, provider.ErrTransient) {
				t.Errorf("%v", err)
			}
			for _, word := range c.words {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%v does not say %q", err, word)
				}
			}
			if entries, _ := os.ReadDir(s.root); len(entries) > 0 {
				t.Errorf("something was written to the host: %v", entries)
			}
		})
	}
	for name, adjust := range map[string]func(*Config){
		"KnownHosts": func(c *Config) { c.Hosts[0].HostKey, c.KnownHosts = "", s.KnownHosts },
		"PublicKey": func(c *Config) {
			text, _ := os.ReadFile(s.KnownHosts)
			_, c.Hosts[0].HostKey, _ = strings.Cut(strings.TrimSpace(string(text)), " ")
		},
		// 127.0.0.1 behind itself.
		"Jump": func(c *Config) {
			c.Jump = &Jump{Address: "127.0.0.1", Port: s.Port, HostKey: s.HostKey}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config("friends")
			adjust(&cfg)
			p := open(t, cfg)
			create(t, p, specFor("r-friend"))
			destroy(t, p, "r-friend")
		})
	}
	t.Run("SSHAgent", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		agent := exec.Command("ssh-agent", "-D", "-a", socket)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
		until(t, "no ssh-agent", func() bool { _, err := os.Stat(socket); return err == nil })
		add := exec.Command("ssh-add", "-q", s.Identity)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cfg := s.config("friends")
		cfg.AgentSocket, cfg.IdentityFiles = socket, nil
		p := open(t, cfg)
		create(t, p, specFor("r-agent"))
		destroy(t, p, "r-agent")
	})
	t.Run("Certificate", func(t *testing.T) {
		authority := filepath.Join(s.Dir, "authority")
		for _, args := range [][]string{
			{"-q", "-t", "ed25519", "-N", "", "-f", authority},
			{"-q", "-s", authority, "-I", "muster", "-n", s.User, other + ".pub"},
		} {
			if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		ca, err := os.ReadFile(authority + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(s.Dir, "authorized_keys"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(f, "cert-authority %s", ca)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		cfg := s.config("friends")
		cfg.IdentityFiles = []string{other}
		p := open(t, cfg)
		create(t, p, specFor("r-certified"))
		destroy(t, p, "r-certified")
	})
	providertest.Survived(t, "ssh", "host with another key")
	providertest.Survived(t, "ssh", "login refused")
}

// 4-51: the answer of a Create is lost. What was started is found by the same
// provider, by a new one, and by Create itself, which starts nothing twice.
func TestAnswerLost(t *testing.T) {
	s := newSite(t, waitForEver)
	between := newProxy(t, s.Address())
	cfg := s.config("lost")
	cfg.Hosts[0].Port, cfg.KeepAlive, cfg.ConnectTimeout = between.port(), provider.Duration(200*time.Millisecond), provider.Duration(2*time.Second)
	p := open(t, cfg)
	if _, err := list(t, p); err != nil { // connected
		t.Fatal(err)
	}
	if _, err := p.hosts[0].agentFile(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The program waits for a lock until what it says does not arrive any more.
	if err := os.MkdirAll(s.dir(t, "lost"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(s.dir(t, "lost"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		until(t, "nothing waits for the lock", func() bool {
			return s.waits(t)
		})
		between.silent.Store(true)
		lock.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if inst, err := p.Create(ctx, specFor("r-lost")); !errors.Is(err, provider.ErrTransient) || unreachedBy(err) {
		t.Fatalf("created over a dead connection: %+v, %v", inst, err)
	}
	waiting.Wait()
	between.silent.Store(false)
	until(t, "nothing was started", func() bool { return len(s.of(t, "lost", "r-lost")) == 1 })
	until(t, "it is not listed", func() bool { all, _ := list(t, p); return len(all) == 1 && all[0].Runner == "r-lost" })
	again := create(t, p, specFor("r-lost"))
	after := open(t, cfg)
	got, err := after.Get(t.Context(), "r-lost")
	if err != nil || got.ID != again.ID || got.State != provider.InstanceRunning || !got.CreatedAt.Equal(again.CreatedAt) {
		t.Errorf("a new control plane finds %+v, %v; created was %+v", got, err, again)
	}
	if n := len(s.of(t, "lost", "r-lost")); n != 1 {
		t.Errorf("%d agents run", n)
	}
	destroy(t, after, "r-lost")
	providertest.Survived(t, "ssh", "creation lost and tried again")
	providertest.Survived(t, "ssh", "connection that hangs")
}

// 4-51: sshd is killed, or its connections are, again and again while runners are made
// and deleted. In the end everything that was begun is gone, and nothing ran twice.
func TestConnectionsKilled(t *testing.T) {
	s := newSite(t, waitForEver)
	p := open(t, s.config("killed"))
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for k := 0; ; k++ {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(400+200*(k%4)) * time.Millisecond):
			}
			if k%3 == 2 {
				s.Kill(t)
				s.Start(t)
			} else {
				s.Drop(t)
			}
		}
	})
	var ids []muster.RunnerID
	failures := 0
	for i := 0; i < 5 || failures == 0 && i < 50; i++ {
		id := muster.RunnerID(fmt.Sprintf("r-killed-%d", i))
		ids = append(ids, id)
		until(t, "it is never created", func() bool {
			_, err := p.Create(t.Context(), specFor(id))
			if err != nil && !errors.Is(err, provider.ErrTransient) {
				t.Fatalf("create: %v", err)
			}
			if err != nil {
				failures++
			}
			return err == nil
		})
		if run := s.running(t, "killed", id); len(run) != 1 {
			t.Errorf("%d agents of %s run", len(run), id)
		}
	}
	for _, id := range ids {
		destroy(t, p, id)
	}
	close(done)
	wg.Wait()
	if all, err := list(t, p); err != nil || len(all) > 0 {
		t.Errorf("left: %v, %v", all, err)
	}
	for _, id := range ids {
		if left := s.remains(t, "killed", id); len(left) > 0 {
			t.Errorf("left of %s: %v", id, left)
		}
	}
	if failures == 0 {
		t.Error("no call was hit, so that nothing is proven")
	}
	providertest.Survived(t, "ssh", "sshd killed during create and delete")
}

// two returns the configuration of a provider with two hosts, each behind a proxy.
func two(t testing.TB, s *site, owner string) (Config, [2]*proxy) {
	c := s.config(owner)
	between := [2]*proxy{newProxy(t, s.Address()), newProxy(t, s.Address())}
	c.Hosts = nil
	for i, name := range []string{"one", "two"} {
		c.Hosts = append(c.Hosts, Host{
			Name: name, Address: "127.0.0.1", Port: between[i].port(), HostKey: s.HostKey, Slots: 2,
			Root: filepath.Join(s.root, name), Zone: "zone-" + name,
		})
	}
	return c, between
}

func at(inst provider.Instance) string { _, host, _ := strings.Cut(inst.ID, "@"); return host }

// 4-52: the host with the most free slots gets the runner, a host that is down is passed over, and
// a refusal says how every host stands. A host that is down makes no machine vanish.
func TestTwoHosts(t *testing.T) {
	s := newSite(t, waitForEver)
	cfg, between := two(t, s, "two")
	cfg.RetryAfter = provider.Duration(time.Minute)
	p := open(t, cfg)
	spread := map[string]int{}
	for i := range 4 {
		spread[at(create(t, p, specFor(muster.RunnerID(fmt.Sprintf("r-two-%d", i)))))]++
	}
	if spread["one"] != 2 || spread["two"] != 2 {
		t.Errorf("spread %v", spread)
	}
	_, err := p.Create(t.Context(), specFor("r-two-many"))
	if !errors.Is(err, provider.ErrCapacity) || !strings.Contains(err.Error(), "one in zone zone-one has 2 runners in 2 slots") || !strings.Contains(err.Error(), "two in zone zone-two has 2") {
		t.Errorf("the fifth of four: %v", err)
	}
	// The second host goes down, with connections and all.
	between[1].silent.Store(true)
	between[1].cut()
	between[1].listener.Close()
	all, failed := list(t, p)
	if len(all) != 2 || !errors.Is(failed, provider.ErrTransient) || !strings.Contains(failed.Error(), "host two") {
		t.Errorf("with a host down, %d listed, %v", len(all), failed)
	}
	fresh := open(t, cfg) // knows nothing of what is where
	for i := range 4 {
		id := muster.RunnerID(fmt.Sprintf("r-two-%d", i))
		inst, err := fresh.Get(t.Context(), id)
		if err != nil && !errors.Is(err, provider.ErrTransient) || err == nil && at(inst) != "one" {
			t.Errorf("%s: %+v, %v", id, inst, err)
		}
	}
	if err := fresh.Delete(t.Context(), "r-nobody"); !errors.Is(err, provider.ErrTransient) {
		t.Errorf("a runner that may be on the host that is down: %v", err)
	}
	// What is on the first host lives and dies as ever.
	gone := all[0].Runner
	destroy(t, fresh, gone)
	if _, err := fresh.Get(t.Context(), gone); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("after its end: %v", err)
	}
	inst := create(t, p, specFor("r-two-new"))
	if at(inst) != "one" {
		t.Errorf("created on %s, which is down", at(inst))
	}
	_, err = p.Create(t.Context(), specFor("r-two-many"))
	if !errors.Is(err, provider.ErrCapacity) || !strings.Contains(err.Error(), "host two: passed over for another") {
		t.Errorf("one full, one down: %v", err)
	}
	providertest.Survived(t, "ssh", "host down, another host tried")
	providertest.Survived(t, "ssh", "hosts full")
}

// 4-52: a host that is down costs one try now and then, and is taken back.
func TestHostComesBack(t *testing.T) {
	s := newSite(t, waitForEver)
	cfg := s.config("back")
	cfg.RetryAfter = provider.Duration(4 * time.Second) // the second call comes within it
	p := open(t, cfg)
	s.Kill(t)
	_, err := p.Get(t.Context(), "r-back")
	if !errors.Is(err, provider.ErrTransient) {
		t.Fatalf("%v", err)
	}
	_, err = p.Get(t.Context(), "r-back")
	if err == nil || !strings.Contains(err.Error(), "passed over") {
		t.Errorf("at once afterwards: %v", err)
	}
	s.Start(t)
	until(t, "it does not come back", func() bool {
		_, err = p.Get(t.Context(), "r-back")
		return errors.Is(err, provider.ErrNotFound)
	})
}

// 4-51: two control planes that place one runner at once make one instance, on whichever host.
func TestPlacedAtOnce(t *testing.T) {
	s := newSite(t, waitForEver)
	cfg, _ := two(t, s, "race")
	a, b := open(t, cfg), open(t, cfg)
	for round := range 4 {
		id := muster.RunnerID(fmt.Sprintf("r-race-%d", round))
		var wg sync.WaitGroup
		ids := make([]string, 4)
		for i := range ids {
			p := a
			if i%2 == 1 {
				p = b
			}
			wg.Go(func() {
				inst, err := p.Create(t.Context(), specFor(id))
				if err != nil {
					t.Errorf("create: %v", err)
				}
				ids[i] = inst.ID
			})
		}
		wg.Wait()
		all, err := list(t, a)
		if err != nil || len(all) != 1 {
			t.Errorf("round %d: %v, %v", round, all, err)
		}
		for _, got := range ids {
			if len(all) == 1 && got != all[0].ID {
				t.Errorf("round %d: one is told of %s, and there is %s", round, got, all[0].ID)
			}
		}
		destroy(t, b, id)
	}
}

// 4-51: whatever state a crash, a full disk or a reboot leaves a directory in, it is listed
// until it is removed.
func TestHalfMade(t *testing.T) {
	s := newSite(t, waitForEver)
	p := open(t, s.config("half"))
	dir := s.dir(t, "half")
	text, err := json.Marshal(record{Runner: "r-half", CreatedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for name, files := range map[string]map[string]string{
		"Empty":       {},
		"Claimed":     {"spec": string(text) + "\n"},
		"Starting":    {"spec": string(text) + "\n", "starting": "another boot\n"},
		"Rebooted":    {"spec": string(text) + "\n", "starting": "another boot\n", "process": fmt.Sprintf("%d 1 another-boot\n", os.Getpid())},
		"HalfRemoved": {"log": "something", "process": ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := filepath.Join(dir, "r-half")
			if err := os.MkdirAll(d, 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range files {
				if err := os.WriteFile(filepath.Join(d, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chtimes(d, old, old); err != nil {
				t.Fatal(err)
			}
			all, err := list(t, p)
			if err != nil || len(all) != 1 || all[0].State != provider.InstanceEnded || all[0].Detail == "" || all[0].CreatedAt.IsZero() {
				t.Errorf("%+v, %v", all, err)
			}
			if name == "Rebooted" && !strings.Contains(all[0].Detail, "restarted") {
				t.Errorf("after a reboot: %q", all[0].Detail)
			}
			destroy(t, p, "r-half")
			if left := s.remains(t, "half", "r-half"); len(left) > 0 {
				t.Error(left)
			}
		})
	}
	providertest.Survived(t, "ssh", "half-created directory")
}

// S1-69 4-41: what a job leaves behind ends with its runner: in sessions of its own, without the tag, without
// permissions on its directories, unwilling to go.
func TestNothingStays(t *testing.T) {
	// An argument tells these processes from others of the machine, with a tag or without.
	mark := fmt.Sprintf("0.%d", os.Getpid())
	s := newSite(t, `trap '' TERM
setsid sleep 1001 `+mark+` &
setsid env -i sleep 1002 `+mark+` &
(setsid sh -c 'trap "" TERM; sleep 1003 `+mark+`' &)
mkdir -p "$HOME/a/b"; echo x >"$HOME/a/b/c"; ln -s /etc "$HOME/a/link"; chmod 000 "$HOME/a/b"
touch "$HOME/ready"
sleep 1004 `+mark+`
`)
	cfg := s.config("stays")
	cfg.Grace = provider.Duration(300 * time.Millisecond)
	p := open(t, cfg)
	create(t, p, specFor("r-stays"))
	home := filepath.Join(s.dir(t, "stays"), "r-stays", "home")
	until(t, "it does not start", func() bool { _, err := os.Stat(filepath.Join(home, "ready")); return err == nil })
	log, err := p.Console(t.Context(), "r-stays", 100)
	if err != nil || len(log) != 0 {
		t.Errorf("console: %q, %v", log, err)
	}
	destroy(t, p, "r-stays")
	if left := s.remains(t, "stays", "r-stays"); len(left) > 0 {
		t.Error(left)
	}
	out, err := exec.Command("ps", "ax", "-o", "pid=,command=").Output()
	if err != nil {
		t.Fatal(err)
	}
	if left := regexp.MustCompile(`\d+ sleep 100[1-4] `+regexp.QuoteMeta(mark)+`\n`).FindAllString(string(out), -1); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Fatal("a link was followed")
	}
}

// 4-47: what has the tag is found also in the middle of an execve, when the kernel shows
// no environment of it; or it would outlive its runner.
func TestTaggedInTheMiddleOfAnExec(t *testing.T) {
	again := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(again, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	const looks = 100
	for _, shell := range [][]string{{"dash"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			continue
		}
		t.Run(shell[0], func(t *testing.T) {
			name := fmt.Sprintf("r-exec.%d", os.Getpid())
			cmd := exec.Command(again)
			cmd.Env = []string{"HOME=/nowhere", "MUSTER_INSTANCE=" + name}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			text := program + "\n"
			if shell[0] == "busybox" {
				text += "grep() { busybox grep \"$@\"; }; awk() { busybox awk \"$@\"; }\n"
			}
			look := exec.Command(shell[0], shell[1:]...)
			look.Stdin = strings.NewReader(text + fmt.Sprintf("name=%s n=0\nwhile [ $n -lt %d ]; do tagged; n=$((n + 1)); done\n", quote(name), looks))
			out, err := look.Output()
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(out), fmt.Sprintf("%d\n", cmd.Process.Pid)); n != looks || len(strings.Fields(string(out))) != looks {
				t.Errorf("found %d times in %d looks", n, looks)
			}
		})
	}
}

// A host without root: everything runs as the user, from files that are somebody else's.
func TestAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can start a server as somebody else: run the tests as root")
		}
		t.Skip("only root can start a server as somebody else; as another user, every test is this one")
	}
	name := ordinaryUser(t)
	s := siteOf(t, sshtest.NewAs(t, name), "setsid sleep 1007 &\nid -un >\"$HOME/who\"\nexec sleep 1008\n")
	cfg := s.config("user")
	p := open(t, cfg)
	create(t, p, specFor("r-user"))
	home := filepath.Join(s.dir(t, "user"), "r-user", "home")
	until(t, "it does not start", func() bool {
		who, err := os.ReadFile(filepath.Join(home, "who"))
		return err == nil && strings.TrimSpace(string(who)) == name
	})
	if info, err := os.Stat(s.root); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if text, err := os.ReadFile(filepath.Join(s.dir(t, "user"), "r-user", "runner", "bin", "Runner.Listener")); err != nil || string(text) != "program" {
		t.Errorf("%q, %v", text, err)
	}
	destroy(t, p, "r-user")
	if left := s.remains(t, "user", "r-user"); len(left) > 0 {
		t.Error(left)
	}
}

// ordinaryUser is a user of this machine with a shell, who is not root.
func ordinaryUser(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 7 && f[2] != "0" && (f[6] == "/bin/bash" || f[6] == "/bin/sh") {
			return f[0]
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no other user of this machine has a shell: run scripts/setup.sh")
	}
	t.Skip("no other user of this machine has a shell")
	return ""
}

// 4-51: the agent was killed, and its directory lost; what has its tag is found and ended.
func TestStrays(t *testing.T) {
	s := newSite(t, "setsid sleep 1005 &\nexec sleep 1006\n")
	p := open(t, s.config("strays"))
	create(t, p, specFor("r-stray"))
	until(t, "it does not start", func() bool { return len(s.of(t, "strays", "r-stray")) >= 2 })
	if err := os.RemoveAll(filepath.Join(s.dir(t, "strays"), "r-stray")); err != nil {
		t.Fatal(err)
	}
	fresh := open(t, s.config("strays"))
	all, err := list(t, fresh)
	if err != nil || len(all) != 1 || all[0].Runner != "r-stray" || !strings.Contains(all[0].Detail, "directory was lost") {
		t.Fatalf("%+v, %v", all, err)
	}
	destroy(t, fresh, "r-stray")
	if left := s.remains(t, "strays", "r-stray"); len(left) > 0 {
		t.Error(left)
	}
}

// The agent is sent once, verified, and sent again if it was changed on the host.
func TestAgentIsSentOnce(t *testing.T) {
	s := newSite(t, waitForEver)
	p := open(t, s.config("sent"))
	create(t, p, specFor("r-sent-1"))
	_, sum, err := p.agent()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.root, "bin", "muster-agent-"+sum.sum)
	first, err := os.Stat(file)
	if err != nil || first.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", first, err)
	}
	again := open(t, s.config("sent"))
	create(t, again, specFor("r-sent-2"))
	if second, err := os.Stat(file); err != nil || !os.SameFile(first, second) {
		t.Errorf("it was sent twice: %v", err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	third := open(t, s.config("sent"))
	create(t, third, specFor("r-sent-3"))
	if text, err := os.ReadFile(file); err != nil || string(text) != stub {
		t.Errorf("a changed agent stayed: %q, %v", text, err)
	}
	for _, id := range []muster.RunnerID{"r-sent-1", "r-sent-2", "r-sent-3"} {
		destroy(t, third, id)
	}
	left, err := filepath.Glob(filepath.Join(s.root, "bin", "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// S1-11 4-14: neither the token nor anything else that users choose is in an argument
// of any process, at any moment of a Create.
func TestArguments(t *testing.T) {
	s := newSite(t, waitForEver)
	p := open(t, s.config("argv"))
	stop, seen := make(chan struct{}), map[string]bool{}
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, name := range files {
				if text, err := os.ReadFile(name); err == nil {
					seen[string(text)] = true
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	spec := specFor("r-argv")
	spec.Pool, spec.TraceID = "canary-pool-$(id)", "canary-trace"
	for i := range 3 {
		spec.Runner = muster.RunnerID(fmt.Sprintf("r-argv-%d", i))
		create(t, p, spec)
	}
	close(stop)
	watching.Wait()
	ours := false
	for line := range seen {
		ours = ours || strings.Contains(line, lastLine)
		if strings.Contains(line, providertest.Token) || strings.Contains(line, "canary-pool") {
			t.Errorf("%q", line)
		}
	}
	if !ours {
		t.Error("the program was never seen, so that nothing is proven")
	}
	for i := range 3 {
		destroy(t, p, muster.RunnerID(fmt.Sprintf("r-argv-%d", i)))
	}
}

// Calls that were given up go on, and count as sessions for sshd: later ones wait for
// a free one.
func TestSessionsRunOut(t *testing.T) {
	s := newSite(t, waitForEver)
	p := open(t, s.config("sessions"))
	h := p.hosts[0]
	if v := h.look(t.Context(), ""); v.err != nil {
		t.Fatal(v.err)
	}
	gate := filepath.Join(s.Dir, "gate")
	given, giveUp := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 2 { // sshd has ten
		for range maxSessions {
			calls.Go(func() {
				_, _ = h.exec(given, "trap '' HUP; until [ -e "+quote(gate)+" ] || ! [ -d "+quote(s.Dir)+" ]; do sleep 0.05; done", nil)
			})
		}
		until(t, "they do not run", func() bool { return len(h.sessions) == maxSessions })
		giveUp()
		calls.Wait()
		given, giveUp = context.WithCancel(t.Context())
	}
	defer giveUp()
	calls.Go(func() {
		if v := h.look(t.Context(), ""); v.err != nil {
			t.Error(v.err)
		}
	})
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
}

// What fails on the host says so in its words, and leaves nothing.
func TestHostRefuses(t *testing.T) {
	s := newSite(t, waitForEver)
	cfg := s.config("refuses")
	cfg.RunnerDir = filepath.Join(s.Dir, "nowhere")
	p := open(t, cfg)
	_, err := p.Create(t.Context(), specFor("r-refused"))
	if !errors.Is(err, provider.ErrTransient) || !strings.Contains(err.Error(), "there is no run.sh in "+cfg.RunnerDir) {
		t.Errorf("%v", err)
	}
	if all, err := list(t, p); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "authorized_keys"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	public, err := exec.Command("ssh-keygen", "-y", "-f", s.Identity).Output()
	if err != nil {
		t.Fatal(err)
	}
	for words, command := range map[string]string{"did not run the program": "echo welcome", "exit status 3: no entry": "echo no entry >&2; exit 3"} {
		line := fmt.Sprintf("command=%q %s", command, public)
		if err := os.WriteFile(filepath.Join(s.Dir, "authorized_keys"), []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, cfg).Create(t.Context(), specFor("r-refused"))
		if !errors.Is(err, provider.ErrTransient) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "host one") {
			t.Errorf("%v does not say %q", err, words)
		}
	}
	providertest.Survived(t, "ssh", "creation refused")
}

// S1-20 4-32: whatever a value is, a shell reads it as one word, in every shell that the host may have.
func TestQuote(t *testing.T) {
	values := []string{"", "plain", "two words", "$(touch x)", "`id`", "a'b", `'\''`, "a\nb", "*", "~", "!!", "-rf", "\\", "\"", "${HOME}", "ünï\u202e", "\x1b[31m", "'; exit 1; '"}
	for _, shell := range []string{"dash", "bash", "busybox"} {
		program, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		for _, v := range values {
			args := []string{}
			if shell == "busybox" {
				args = []string{"sh"}
			}
			cmd := exec.Command(program, args...)
			cmd.Stdin = strings.NewReader("printf '%s.' " + quote(v) + "\n")
			out, err := cmd.Output()
			if err != nil || string(out) != v+"." {
				t.Errorf("%s reads %q as %q, %v", shell, v, out, err)
			}
		}
	}
}

// A program that arrives cut off, wherever, is not run: not one of its words.
func TestCutOff(t *testing.T) {
	whole := call{"put", "r-cut", []string{"a", "b"}}.text("/tmp", "owner", "mark")
	tail := strings.Index(whole, "\nmain ")
	for _, n := range []int{0, 100, tail, tail + 8, strings.LastIndex(whole, "'b'"), len(whole) - len(lastLine), len(whole) - 1} {
		for _, command := range []string{commandRun, commandPut} {
			cmd := exec.Command("sh", "-c", command)
			text := whole[:n]
			if command == commandPut {
				text = fmt.Sprintf("%d\n%s", len(whole), text)
			}
			cmd.Stdin = strings.NewReader(text)
			out, err := cmd.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 70 || len(out) > 0 {
				t.Errorf("%d of %d bytes: %v, %q", n, len(whole), err, out)
			}
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("$(id)'\"\\\n")
	f.Fuzz(func(t *testing.T, v string) {
		v = strings.ReplaceAll(v, "\x00", "")
		cmd := exec.Command("sh")
		cmd.Stdin = strings.NewReader("printf '%s.' " + quote(v) + "\n")
		if out, err := cmd.Output(); err != nil || string(out) != v+"." {
			t.Errorf("%q became %q, %v", v, out, err)
		}
	})
}

// An answer that is cut off or strange is an error, and never a shorter list.
func TestRead(t *testing.T) {
	id := func(r muster.RunnerID) string { return string(r) }
	good := "host x86_64 2\ninstance r-aaaa running\n{\"runner\":\"r-aaaa\",\"created_at\":\"2026-01-02T03:04:05Z\"}\npid 7\ninstance r-bbbb ended\n\"1700000000\"\nits agent has ended: bye\n"
	s, err := read(good, id)
	if err != nil || s.word != "host x86_64 2" || len(s.instances) != 2 || s.instances[0].instance.State != provider.InstanceRunning || s.instances[1].instance.CreatedAt.Unix() != 1_700_000_000 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"host x 1\ninstance r-aaaa running\n{}\n", "host x 1\nnonsense\nmore\nyet more\n", "host x 1\ninstance r-aaaa\n\n\n"} {
		if s, err := read(bad, id); err == nil {
			t.Errorf("%q is read as %+v", bad, s)
		}
	}
	if text, err := answer("motd\nwelcome\n\nmuster answers\nyes\n"); err != nil || text != "yes\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := answer("This account is currently not available.\n"); !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), "not available") {
		t.Errorf("%v", err)
	}
}

func TestConfig(t *testing.T) {
	var c Config
	err := c.Decode([]byte(`{"hosts": [
		{"address": "a b", "user": "x;id", "slots": -1, "root": "../x", "runner_dir": "rel", "host_key": "MD5:aa"},
		{"address": "h", "user": "u", "port": 70000}, {"address": "h", "user": "u"},
		{"address": "j", "user": "u", "jump": {"address": "$(id)"}}],
		"identity_files": ["/nonexistent/id"], "env": ["A=B", "MUSTER_URL"], "grace": "2h", "agent": "/nonexistent/agent", "colour": "red"}`))
	for _, word := range []string{"address \"a b\"", "user \"x;id\"", "slots -1", "root \"../x\"", "runner_dir \"rel\"", "host_key", "port 70000", "two hosts have this name", "jump", "identity_files: open /nonexistent/id", "env: \"A=B\"", "env: \"MUSTER_URL\"", "grace: 2h", "agent: \"/nonexistent/agent\"", "colour: unknown key", "nothing says which key"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not among\n%v", word, err)
		}
	}
	if err := Defaults().Validate(); err == nil || !strings.Contains(err.Error(), "hosts: there is none") {
		t.Errorf("%v", err)
	}
}

// Offerings with GPUs go where somebody says that there are some.
func TestOfferings(t *testing.T) {
	s := newSite(t, waitForEver)
	cfg := s.config("offerings")
	p := open(t, cfg)
	spec := specFor("r-gpu")
	spec.Offering = muster.Offering{Name: "gpu", GPUs: 1}
	if _, err := p.Create(t.Context(), spec); !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "offerings of a host") {
		t.Errorf("%v", err)
	}
	cfg.Hosts[0].Offerings = []string{"gpu"}
	p = open(t, cfg)
	create(t, p, spec)
	destroy(t, p, "r-gpu")
	if _, err := p.Create(t.Context(), specFor("r-any")); !errors.Is(err, provider.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
