package ssh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/ssh/sshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub is an agent in three lines: it reads its token like the real one, then does
// what the runner's directory says.
const stub = `#!/bin/sh
read token || exit 3
[ -n "$token" ] || exit 3
unset token
. "$MUSTER_RUNNER_DIR/run.sh"
`

const waitForEver = "exec sleep 1000\n"

// site is a directory of a test with what hosts and providers need.
type site struct {
	*sshtest.Server
	root     string // of runners, on the host
	template string // a runner's directory, on the host
	agent    string
}

func newSite(t testing.TB, script string) *site {
	t.Helper()
	return siteOf(t, sshtest.New(t), script)
}

func siteOf(t testing.TB, server *sshtest.Server, script string) *site {
	t.Helper()
	s := &site{Server: server}
	s.root, s.template, s.agent = filepath.Join(s.Dir, "runners"), filepath.Join(s.Dir, "template"), filepath.Join(s.Dir, "agent")
	err := errors.Join(
		os.MkdirAll(filepath.Join(s.template, "bin"), 0o755), os.MkdirAll(filepath.Join(s.template, "externals", "node20"), 0o755),
		os.WriteFile(filepath.Join(s.template, "run.sh"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(s.template, ".runner"), []byte("of another registration"), 0o644),
		os.WriteFile(filepath.Join(s.template, "bin", "Runner.Listener"), []byte("program"), 0o755),
		os.WriteFile(s.agent, []byte(stub), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	// What a failed test leaves, found beside the provider.
	t.Cleanup(func() {
		for _, p := range s.processes(t) {
			_ = p.Signal(syscall.SIGKILL)
		}
	})
	return s
}

// config is the configuration of a provider with this site as its one host.
func (s *site) config(owner string) Config {
	c := Defaults()
	c.Hosts = []Host{{Name: "one", Address: "127.0.0.1", Port: s.Port, HostKey: s.HostKey}}
	c.User, c.Slots, c.Root, c.RunnerDir, c.IdentityFiles = s.User, 50, s.root, s.template, []string{s.Identity}
	c.Agent, c.Owner = s.agent, owner
	c.Grace, c.RetryAfter = provider.Duration(2*time.Second), provider.Duration(50*time.Millisecond)
	return c
}

// processes is everything that runs in the site's directory, by the HOME that it was given.
func (s *site) processes(t providertest.T) (found []proc.Process) {
	all, err := proc.All()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, p := range all {
		if !p.Zombie && strings.HasPrefix(p.Env("HOME"), s.root+"/") {
			found = append(found, p)
		}
	}
	return found
}

// of is what runs of one runner.
func (s *site) of(t providertest.T, owner string, id muster.RunnerID) (found []proc.Process) {
	for _, p := range s.processes(t) {
		if p.Env("MUSTER_RUNNER") == string(id) && strings.HasPrefix(p.Env("HOME"), s.dir(t, owner)) {
			found = append(found, p)
		}
	}
	return found
}

// running is of, waited for: what Create has started becomes the agent in its own time.
func (s *site) running(t providertest.T, owner string, id muster.RunnerID) (found []proc.Process) {
	for range 4000 {
		if found = s.of(t, owner, id); len(found) > 0 {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	return found
}

// waits reports whether a program of the host waits for a lock: it sleeps, over a
// connection to this site's server.
func (s *site) waits(t providertest.T) bool {
	all, err := proc.All()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return slices.ContainsFunc(all, func(p proc.Process) bool {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		return string(line) == "sleep\x000.05\x00" && strings.HasSuffix(p.Env("SSH_CONNECTION"), " "+strconv.Itoa(s.Port))
	})
}

func (s *site) dir(t providertest.T, owner string) string {
	p, err := New(s.config(owner))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return filepath.Join(s.root, p.element) + "/"
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
	return provider.Spec{Runner: id, Boot: provider.Boot{URL: "http://127.0.0.1:9/", Token: providertest.Token}}
}

func destroy(t testing.TB, p *Provider, id muster.RunnerID) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	until(t, "the instance is not gone", func() bool {
		err := p.Delete(ctx, id)
		if err != nil && !errors.Is(err, provider.ErrNotFound) && !errors.Is(err, provider.ErrTransient) {
			t.Fatalf("delete: %v", err)
		}
		return errors.Is(err, provider.ErrNotFound)
	})
}

// until polls real processes.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-deadline:
			t.Fatal(what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestKind(t *testing.T) { providertest.Describe(t, Kind()) }

// S1-9 S1-63 4-14 4-32 4-51: the contract, over a real sshd.
func TestConformance(t *testing.T) {
	s := newSite(t, waitForEver)
	providertest.Run(t, providertest.Harness{
		Patience: 30 * time.Second,
		Open:     func(t providertest.T, owner string) provider.Provider { return open(t, s.config(owner)) },
		OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
			c := s.config(owner)
			c.Slots = max
			return open(t, c)
		},
		End: func(t providertest.T, owner string, id muster.RunnerID) {
			for _, p := range s.running(t, owner, id) {
				_ = p.Signal(syscall.SIGTERM)
			}
		},
		Remains: func(t providertest.T, owner string, id muster.RunnerID) []string { return s.remains(t, owner, id) },
		Exposed: func(t providertest.T, owner string, id muster.RunnerID) map[string]string {
			places := map[string]string{}
			for _, p := range s.running(t, owner, id) {
				for _, file := range []string{"cmdline", "environ"} {
					path := filepath.Join("/proc", strconv.Itoa(p.PID), file)
					text, _ := os.ReadFile(path)
					places[path] = string(text)
				}
			}
			ps, err := exec.Command("ps", "auxwwe").Output()
			if err != nil {
				t.Fatalf("ps: %v", err)
			}
			places["ps"] = string(ps)
			_ = filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					text, _ := os.ReadFile(path)
					places[path] = string(text)
				}
				return nil
			})
			return places
		},
	})
	// 4-32: nothing that the suite called things by was run by a shell.
	if _, err := os.Stat("/tmp/muster-owned"); err == nil {
		t.Error("a name was run by a shell")
	}
}

// remains names what is left of a runner, by ls and ps.
func (s *site) remains(t providertest.T, owner string, id muster.RunnerID) (left []string) {
	dir := filepath.Join(s.dir(t, owner), string(id))
	if out, err := exec.Command("ls", "-d", dir).Output(); err == nil {
		left = append(left, string(out))
	}
	out, err := exec.Command("ps", "axeww", "-o", "pid=,command=").Output()
	if err != nil {
		t.Fatalf("ps: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "HOME="+dir+"/") {
			left = append(left, fmt.Sprintf("process %.80s", line))
		}
	}
	return left
}

// A host whose engines work for one runner at a time says so to its agent; one with more slots
// cannot.
func TestOwnEngines(t *testing.T) {
	s := newSite(t, waitForEver)
	for own, want := range map[bool]string{false: "", true: "machine"} {
		c := s.config(fmt.Sprint("own-", own))
		c.Slots, c.OwnEngines = 1, own
		p := open(t, c)
		spec := provider.Spec{Runner: muster.RunnerID(fmt.Sprint("r-", own)), Owner: c.Owner, Boot: provider.Boot{URL: "http://127.0.0.1:1", Token: "t"}}
		if _, err := p.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for p.Delete(context.Background(), spec.Runner) == nil {
			}
		})
		agent := s.running(t, c.Owner, spec.Runner)
		if len(agent) == 0 {
			t.Fatal("no agent was started")
		}
		said := agent[0].Env("MUSTER_ENGINES")
		if said != want {
			t.Errorf("own_engines %v: the agent is told %q", own, said)
		}
		for p.Delete(t.Context(), spec.Runner) == nil {
		}
	}
	c := s.config("own")
	c.Slots, c.OwnEngines = 2, true
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "own_engines") {
		t.Errorf("two slots: %v", err)
	}
}
