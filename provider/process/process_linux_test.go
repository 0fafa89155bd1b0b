package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestMain(m *testing.M) {
	if root := os.Getenv("PROCESS_TEST_CONTROL_PLANE"); root != "" {
		controlPlane(root)
		return
	}
	goleak.VerifyTestMain(m)
}

// stub is an agent in three lines: it reads its token like the real one, then does
// what the runner's directory says.
const stub = `#!/bin/sh
read token || exit 3
[ -n "$token" ] || exit 3
unset token
. "$MUSTER_RUNNER_DIR/run.sh"
`

const waitForEver = "exec sleep 1000\n"

// config returns the configuration of a machine whose agents run script.
func config(t providertest.T, root, script string) Config {
	t.Helper()
	c := Defaults()
	c.Agent = filepath.Join(root, "agent")
	c.RunnerDir = filepath.Join(root, "template")
	c.Root = filepath.Join(root, "runners")
	c.MachinesDir = filepath.Join(root, "machines")
	c.Owner = "muster/test"
	c.Max = 50
	c.Grace = provider.Duration(2 * time.Second)
	if _, err := os.Stat(c.Agent); err == nil {
		return c // a restart; the files may be in use
	}
	err := errors.Join(os.MkdirAll(c.RunnerDir, 0o755),
		os.WriteFile(filepath.Join(c.RunnerDir, "run.sh"), []byte(script), 0o755),
		os.WriteFile(c.Agent, []byte(stub), 0o755))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return c
}

func open(t providertest.T, c Config) *Provider {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	return p
}

func specFor(id muster.RunnerID) provider.Spec {
	return provider.Spec{Runner: id, Boot: provider.Boot{URL: "http://127.0.0.1:9/", Token: providertest.Token}}
}

func create(t *testing.T, p *Provider, spec provider.Spec) provider.Instance {
	t.Helper()
	inst, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { destroy(t, p, spec.Runner) })
	return inst
}

func destroy(t *testing.T, p *Provider, id muster.RunnerID) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	until(t, "the instance is not gone", func() bool {
		err := p.Delete(ctx, id)
		if err != nil && !errors.Is(err, provider.ErrNotFound) {
			t.Fatalf("delete: %v", err)
		}
		return err != nil
	})
}

// until polls real processes.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-deadline:
			t.Fatal(what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// tagged returns everything that runs and is part of the runner, found without the provider.
func tagged(t providertest.T, id muster.RunnerID) []proc.Process {
	all, err := proc.All()
	if err != nil {
		t.Fatalf("%v", err)
	}
	var found []proc.Process
	for _, a := range all {
		if !a.Zombie && a.Env("MUSTER_RUNNER") == string(id) {
			found = append(found, a)
		}
	}
	return found
}

func TestConformance(t *testing.T) {
	for _, cgroup := range []string{"muster-test", "none"} {
		t.Run(cgroup, func(t *testing.T) {
			root := t.TempDir()
			cfg := func(t providertest.T, owner string) Config {
				c := config(t, root, waitForEver)
				c.Owner, c.Cgroup = owner, cgroup
				return c
			}
			providertest.Run(t, providertest.Harness{
				Open: func(t providertest.T, owner string) provider.Provider { return open(t, cfg(t, owner)) },
				Machine: func(t providertest.T, owner string) provider.Machine {
					return keptDir(t, cfg(t, owner), "zone-a", waitForEver)
				},
				OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
					c := cfg(t, owner)
					c.Max = max
					return open(t, c)
				},
				End: func(t providertest.T, owner string, id muster.RunnerID) {
					for _, p := range tagged(t, id) {
						_ = p.Signal(syscall.SIGTERM)
					}
				},
				Remains: func(t providertest.T, owner string, id muster.RunnerID) (left []string) {
					p := open(t, cfg(t, owner))
					if _, err := os.Lstat(p.path(id)); err == nil {
						left = append(left, p.path(id))
					}
					for _, a := range tagged(t, id) {
						if a.Env(instancedir.Tag) == p.name(id) {
							left = append(left, fmt.Sprintf("pid %d", a.PID))
						}
					}
					groups, _ := filepath.Glob("/sys/fs/cgroup/*/muster-test/" + p.name(id))
					return append(left, groups...)
				},
				Exposed: func(t providertest.T, owner string, id muster.RunnerID) map[string]string {
					places := map[string]string{}
					for _, p := range tagged(t, id) {
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
					_ = filepath.WalkDir(open(t, cfg(t, owner)).path(id), func(path string, d fs.DirEntry, err error) error {
						if err == nil && d.Type().IsRegular() {
							text, _ := os.ReadFile(path)
							places[path] = string(text)
						}
						return nil
					})
					return places
				},
			})
		})
	}
}

func TestSurvivesTheControlPlane(t *testing.T) { // 4-51
	root := t.TempDir()
	c := config(t, root, waitForEver)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plane := exec.Command(exe)
	plane.Env = append(os.Environ(), "PROCESS_TEST_CONTROL_PLANE="+root)
	plane.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := plane.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.Start(); err != nil {
		t.Fatal(err)
	}
	var made provider.Instance
	if err := json.NewDecoder(out).Decode(&made); err != nil {
		t.Fatalf("the control plane created nothing: %v", err)
	}
	// The whole group, as a terminal or a careless supervisor would.
	if err := syscall.Kill(-plane.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = plane.Wait()

	p := open(t, c)
	defer destroy(t, p, "r-survivor")
	got, err := p.Get(t.Context(), "r-survivor")
	if err != nil || got.State != provider.InstanceRunning || got.ID != made.ID || !got.CreatedAt.Equal(made.CreatedAt) {
		t.Fatalf("after kill -9 of the control plane: %+v, %v; was %+v", got, err, made)
	}
	destroy(t, p, "r-survivor")
	if left := tagged(t, "r-survivor"); len(left) > 0 {
		t.Errorf("left over: %+v", left)
	}
	providertest.Survived(t, "process", "control plane killed while machines run")
}

// controlPlane is the program of TestSurvivesTheControlPlane.
func controlPlane(root string) {
	c := Defaults()
	c.Agent, c.RunnerDir, c.Root, c.Owner = filepath.Join(root, "agent"), filepath.Join(root, "template"), filepath.Join(root, "runners"), "muster/test"
	p, err := New(c)
	if err != nil {
		panic(err)
	}
	inst, err := p.Create(context.Background(), specFor("r-survivor"))
	if err != nil {
		panic(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode(inst)
	select {}
}

// TestCrashDuringCreate puts the directory into every stage in which a control
// plane may have died, and expects the next one to know what is there.
func TestCrashDuringCreate(t *testing.T) { // 4-51
	t.Run("BeforeAnythingWasStarted", func(t *testing.T) {
		p := open(t, config(t, t.TempDir(), waitForEver))
		st := p.begin(specFor("r-crash"))
		if err := errors.Join(os.Mkdir(p.path("r-crash"), 0o700), st.write(p.path("r-crash"))); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Get(t.Context(), "r-crash"); err != nil || got.State != provider.InstanceEnded {
			t.Errorf("get: %+v, %v", got, err)
		}
		// The retry finishes what was begun.
		if inst := create(t, p, specFor("r-crash")); inst.State != provider.InstanceRunning {
			t.Errorf("create: %+v", inst)
		}
	})
	t.Run("DirectoryWithoutState", func(t *testing.T) {
		p := open(t, config(t, t.TempDir(), waitForEver))
		if err := os.Mkdir(p.path("r-bare"), 0o700); err != nil {
			t.Fatal(err)
		}
		n := 0
		for inst, err := range p.List(t.Context()) {
			if n++; err != nil || inst.Runner != "r-bare" || inst.State != provider.InstanceEnded {
				t.Errorf("list: %+v, %v", inst, err)
			}
		}
		if n != 1 {
			t.Errorf("list yielded %d", n)
		}
		// What may have run there is not run again.
		if inst, err := p.Create(t.Context(), specFor("r-bare")); err != nil || inst.State != provider.InstanceEnded {
			t.Errorf("create: %+v, %v", inst, err)
		}
		destroy(t, p, "r-bare")
	})
	t.Run("StartedAndNotRecorded", func(t *testing.T) {
		p := open(t, config(t, t.TempDir(), waitForEver))
		inst := create(t, p, specFor("r-norec"))
		st, err := readState(p.path("r-norec"))
		if err != nil {
			t.Fatal(err)
		}
		pid := st.PID
		st.Stage, st.PID, st.Start = instancedir.Starting, 0, 0
		if err := st.write(p.path("r-norec")); err != nil {
			t.Fatal(err)
		}
		until(t, "the tag does not show", func() bool { return len(tagged(t, "r-norec")) == 1 })
		if got, err := p.Get(t.Context(), "r-norec"); err != nil || got.State != provider.InstanceRunning || got.ID != inst.ID {
			t.Errorf("get: %+v, %v", got, err)
		}
		if again, err := p.Create(t.Context(), specFor("r-norec")); err != nil || again.ID != inst.ID || len(tagged(t, "r-norec")) != 1 {
			t.Errorf("create: %+v, %v", again, err)
		}
		destroy(t, p, "r-norec")
		until(t, "the process lives", func() bool { a, err := proc.Read(pid); return err != nil || a.Zombie })
	})
	t.Run("DirectoryLost", func(t *testing.T) {
		p := open(t, config(t, t.TempDir(), waitForEver))
		create(t, p, specFor("r-nodir"))
		// Around an exec, the kernel shows no environment for a moment.
		until(t, "it does not sleep", func() bool {
			found := tagged(t, "r-nodir")
			if len(found) != 1 {
				return false
			}
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", found[0].PID))
			return string(name) == "sleep\n" && len(tagged(t, "r-nodir")) == 1
		})
		if err := os.RemoveAll(p.path("r-nodir")); err != nil {
			t.Fatal(err)
		}
		found := false
		for inst, err := range p.List(t.Context()) {
			found = found || err == nil && inst.Runner == "r-nodir" && inst.State == provider.InstanceRunning
		}
		if !found {
			t.Error("a process without its directory is not listed")
		}
		destroy(t, p, "r-nodir")
		if left := tagged(t, "r-nodir"); len(left) > 0 {
			t.Errorf("left over: %+v", left)
		}
	})
	t.Run("RootUnmounted", func(t *testing.T) {
		p := open(t, config(t, t.TempDir(), waitForEver))
		if err := os.RemoveAll(p.set.Dir); err != nil {
			t.Fatal(err)
		}
		for _, err := range p.List(t.Context()) {
			if !errors.Is(err, provider.ErrTransient) {
				t.Errorf("list: %v", err)
			}
			return
		}
		t.Error("a missing root reads as no instances")
	})
	providertest.Survived(t, "process", "control plane killed at every point of a creation")
}

func TestCreateFails(t *testing.T) {
	for name, spoil := range map[string]func(*Config) error{
		"AgentIsNoProgram": func(c *Config) error { return os.WriteFile(c.Agent, []byte("\x7fELF nonsense"), 0o755) },
		"TemplateVanished": func(c *Config) error { return os.RemoveAll(c.RunnerDir) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, t.TempDir(), waitForEver)
			p := open(t, c)
			if err := spoil(&c); err != nil {
				t.Fatal(err)
			}
			if inst, err := p.Create(t.Context(), specFor("r-fails")); !errors.Is(err, provider.ErrTransient) || strings.Contains(err.Error(), providertest.Token) {
				t.Errorf("create: %+v, %v", inst, err)
			}
			if _, err := p.Get(t.Context(), "r-fails"); !errors.Is(err, provider.ErrNotFound) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
	providertest.Survived(t, "process", "creation that fails half-way")
}

func TestPidOfAnother(t *testing.T) { // 4-47
	p := open(t, config(t, t.TempDir(), waitForEver))
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	create(t, p, specFor("r-reuse"))
	st, err := readState(p.path("r-reuse"))
	if err != nil {
		t.Fatal(err)
	}
	mine := proc.Process{PID: st.PID, Start: st.Start}
	if err := mine.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "it lives", func() bool { return !mine.Alive() })
	for name, change := range map[string]func(*state){
		"same number, other start": func(st *state) { st.PID, st.Start = other.Process.Pid, st.Start+1e6 },
		"an earlier boot": func(st *state) {
			a, _ := proc.Read(other.Process.Pid)
			st.PID, st.Start, st.Boot = a.PID, a.Start, "another-boot"
		},
	} {
		st := st
		change(&st)
		if err := st.write(p.path("r-reuse")); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Get(t.Context(), "r-reuse"); err != nil || got.State != provider.InstanceEnded {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	destroy(t, p, "r-reuse")
	if a, err := proc.Read(other.Process.Pid); err != nil || !a.Alive() {
		t.Fatal("delete killed a stranger")
	}
	providertest.Survived(t, "process", "process id taken over by another process")
}

// TestNothingEscapes deletes runners whose jobs try to stay.
func TestNothingEscapes(t *testing.T) { // 4-41
	for name, script := range map[string]string{
		"IgnoresTerm":    "trap '' TERM INT HUP; touch \"$TMPDIR/ready\"; while :; do sleep 1000; done\n",
		"OwnSession":     "setsid sleep 1001 & touch \"$TMPDIR/ready\"; exec sleep 1000\n",
		"EmptyEnv":       "env -i setsid sleep 1002 & sleep 0.05; touch \"$TMPDIR/ready\"; exec sleep 1000\n",
		"DoubleFork":     "(setsid sh -c 'sleep 1003 & exit' &); touch \"$TMPDIR/ready\"; exec sleep 1000\n",
		"StopsItself":    "touch \"$TMPDIR/ready\"; kill -STOP $$\n",
		"LockedTree":     "mkdir -p \"$TMPDIR/a/b\"; chmod 000 \"$TMPDIR/a\"; touch \"$TMPDIR/ready\"; exec sleep 1000\n",
		"LeftByTheAgent": "setsid sleep 1004 & touch \"$TMPDIR/ready\"; exit 0\n",
	} {
		for _, cgroup := range []string{"muster-test", "none"} {
			t.Run(name+"/"+cgroup, func(t *testing.T) {
				t.Parallel()
				c := config(t, t.TempDir(), script)
				c.Cgroup, c.Grace = cgroup, provider.Duration(100*time.Millisecond)
				p := open(t, c)
				id := muster.RunnerID("r-escape-" + strings.ToLower(name))
				create(t, p, specFor(id))
				until(t, "it is not ready", func() bool {
					_, err := os.Stat(filepath.Join(p.path(id), "tmp", "ready"))
					return err == nil
				})
				before := map[int]proc.Process{}
				for _, v := range p.victims(p.name(id), firstAgent(t, p, id)) {
					before[v.PID] = v
				}
				destroy(t, p, id)
				for _, v := range before {
					if v.Alive() {
						t.Errorf("pid %d lives on", v.PID)
					}
				}
				if _, err := os.Stat(p.path(id)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the directory is there: %v", err)
				}
			})
		}
	}
	providertest.Survived(t, "process", "processes that leave their group and session")
}

func firstAgent(t *testing.T, p *Provider, id muster.RunnerID) proc.Process {
	t.Helper()
	st, err := readState(p.path(id))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := st.Running(p.name(id))
	return a
}

func TestDeleteTakesNoLongerThanTheRunner(t *testing.T) {
	c := config(t, t.TempDir(), waitForEver)
	c.Grace = provider.Duration(30 * time.Second)
	p := open(t, c)
	create(t, p, specFor("r-quick"))
	began := time.Now()
	if err := p.Delete(t.Context(), "r-quick"); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("delete of a willing runner took %s", d)
	}
}

func TestDeleteGoesOnWhereTheLastOneLeft(t *testing.T) {
	c := config(t, t.TempDir(), "trap '' TERM; touch \"$TMPDIR/ready\"; while :; do sleep 1000; done\n")
	c.Grace = provider.Duration(3 * time.Second) // not over when the first call returns
	p := open(t, c)
	create(t, p, specFor("r-stubborn"))
	until(t, "it is not ready", func() bool {
		_, err := os.Stat(filepath.Join(p.path("r-stubborn"), "tmp", "ready"))
		return err == nil
	})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Delete(short, "r-stubborn"); err != nil {
		t.Errorf("a delete that ran out of time: %v", err)
	}
	if got, err := p.Get(t.Context(), "r-stubborn"); err != nil || got.State != provider.InstanceRunning {
		t.Errorf("while it goes: %+v, %v", got, err)
	}
	// Another control plane takes over; the grace is not given twice.
	if err := open(t, c).Delete(t.Context(), "r-stubborn"); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("the next delete: %v", err)
	}
	providertest.Survived(t, "process", "deletion that was interrupted")
}

func TestLimits(t *testing.T) {
	hog := "x=$(head -c 300000000 /dev/zero | tail -c 300000000 | tr '\\0' 'x'); sleep 1000\n"
	c := config(t, t.TempDir(), hog)
	c.Cgroup = "muster-test"
	p := open(t, c)
	if !p.cg.has("memory") || !p.cg.has("pids") {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this machine %s", p.cg)
		}
		t.Skipf("needs cgroups with memory and pids: this machine %s", p.cg)
	}
	spec := specFor("r-hog")
	spec.Offering.MemoryMiB = 64
	create(t, p, spec)
	until(t, "nothing was killed at the memory limit", func() bool {
		inst, err := p.Get(t.Context(), "r-hog")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(inst.Detail, "at the memory limit of 64 MiB")
	})

	c = config(t, t.TempDir(), "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait\n")
	c.Cgroup, c.PIDs = "muster-test", 32
	p = open(t, c)
	create(t, p, specFor("r-forks"))
	until(t, "it did not fork", func() bool { return len(p.cg.members(p.name("r-forks"))) >= 20 })
	if n := len(p.cg.members(p.name("r-forks"))); n > 32 {
		t.Errorf("%d processes with a limit of 32", n)
	}
	destroy(t, p, "r-forks")
}

func TestSaysHowItEnded(t *testing.T) {
	for script, want := range map[string]string{
		"exit 7\n":        "its agent ended with code 7",
		"kill -KILL $$\n": `its agent was ended by the signal "killed"`,
	} {
		c := config(t, t.TempDir(), "echo hello from the runner; "+script)
		p := open(t, c)
		create(t, p, specFor("r-ends"))
		until(t, "it does not end", func() bool {
			inst, err := p.Get(t.Context(), "r-ends")
			return err == nil && inst.State == provider.InstanceEnded
		})
		for _, p := range []*Provider{p, open(t, c)} { // the second did not wait for it and knows all the same
			if inst, err := p.Get(t.Context(), "r-ends"); err != nil || inst.Detail != want {
				t.Errorf("%q: %+v, %v", script, inst, err)
			}
		}
		st, err := readState(p.path("r-ends"))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := proc.Read(st.PID); err == nil && a.Start == st.Start {
			t.Errorf("a zombie is left: %+v", a)
		}
		text, err := p.Console(t.Context(), "r-ends", 7)
		if err != nil || string(text) != "runner\n" {
			t.Errorf("console: %q, %v", text, err)
		}
		destroy(t, p, "r-ends")
	}
	if _, err := open(t, config(t, t.TempDir(), "")).Console(t.Context(), "r-none", 10); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("console of nothing: %v", err)
	}
}

func TestEnvironmentIsOurs(t *testing.T) {
	t.Setenv("GITHUB_APP_PRIVATE_KEY", "canary-app-key")
	t.Setenv("PASSED_ON", "yes")
	c := config(t, t.TempDir(), "env > \"$TMPDIR/env.new\"; mv \"$TMPDIR/env.new\" \"$TMPDIR/env\"; exec sleep 1000\n")
	c.Env = []string{"PASSED_ON", "NOT_SET"}
	p := open(t, c)
	spec := specFor("r-env")
	spec.MaxAge, spec.TraceID = time.Hour, "4bf92f35"
	create(t, p, spec)
	var env string
	until(t, "no environment", func() bool {
		text, err := os.ReadFile(filepath.Join(p.path("r-env"), "tmp", "env"))
		env = "\n" + string(text)
		return err == nil
	})
	for _, want := range []string{
		"PASSED_ON=yes", "MUSTER_URL=http://127.0.0.1:9/", "MUSTER_RUNNER=r-env", "MUSTER_MAX_AGE=1h0m0s", "MUSTER_TRACE_ID=4bf92f35",
		"MUSTER_RUNNER_DIR=" + filepath.Join(p.path("r-env"), "runner"), "HOME=" + filepath.Join(p.path("r-env"), "home"),
	} {
		if !strings.Contains(env, "\n"+want+"\n") {
			t.Errorf("no %s in:%s", want, env)
		}
	}
	for _, never := range []string{"canary", "NOT_SET"} {
		if strings.Contains(env, never) {
			t.Errorf("%s in:%s", never, env)
		}
	}
}

func TestRunsAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to start a runner as another user")
		}
		t.Skip("needs root to start a runner as another user")
	}
	c := config(t, t.TempDir(), "id -u > \"$TMPDIR/id\"; touch \"$MUSTER_RUNNER_DIR/.credentials\"; cat ../state.json > \"$TMPDIR/stolen\"; touch \"$TMPDIR/ready\"; exec sleep 1000\n")
	c.User = "nobody"
	for dir := c.Root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // t.TempDir may not let others through
	}
	p := open(t, c)
	create(t, p, specFor("r-user"))
	dir := p.path("r-user")
	until(t, "it is not ready", func() bool { _, err := os.Stat(filepath.Join(dir, "tmp", "ready")); return err == nil })
	id, _ := os.ReadFile(filepath.Join(dir, "tmp", "id"))
	if got := strings.TrimSpace(string(id)); got != strconv.Itoa(p.uid) || p.uid == 0 {
		t.Errorf("runs as %q", got)
	}
	if stolen, _ := os.ReadFile(filepath.Join(dir, "tmp", "stolen")); len(stolen) > 0 {
		t.Error("the runner's user can read the control plane's state")
	}
	destroy(t, p, "r-user")
}

func TestFarm(t *testing.T) {
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "runner")
	write := func(name string, size int) {
		path := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	write("run.sh", 10)
	write("bin/Runner.Listener", 10)
	write("large", smallFile+1)
	write("externals/node20/bin/node", 10)
	write("_work/repo/file", 1)
	write(".credentials", 1)
	write(".env", 1)
	if err := os.Symlink("run.sh", filepath.Join(src, "link.sh")); err != nil {
		t.Fatal(err)
	}
	if err := farm(t.Context(), src, dst, -1, -1); err != nil {
		t.Fatal(err)
	}
	same := func(name string) bool {
		a, err1 := os.Stat(filepath.Join(src, name))
		b, err2 := os.Stat(filepath.Join(dst, name))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return os.SameFile(a, b)
	}
	if same("run.sh") || same("bin") || same(".env") {
		t.Error("what the runner writes to is shared between runners")
	}
	if !same("bin/Runner.Listener") || !same("large") || !same("externals/node20/bin/node") {
		t.Error("what the runner only reads was copied")
	}
	for _, never := range []string{"_work", ".credentials"} {
		if _, err := os.Lstat(filepath.Join(dst, never)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s came along", never)
		}
	}
	if target, err := os.Readlink(filepath.Join(dst, "link.sh")); err != nil || target != "run.sh" {
		t.Errorf("link.sh → %q, %v", target, err)
	}
}

func TestConfig(t *testing.T) {
	good := config(t, t.TempDir(), waitForEver)
	var c Config
	section := fmt.Sprintf(`{"agent":%q,"runner_dir":%q,"root":%q,"memory_mib":512,"grace":"3s","env":["PATH"]}`, good.Agent, good.RunnerDir, good.Root)
	c = Defaults()
	if err := c.Decode(json.RawMessage(section)); err != nil {
		t.Fatal(err)
	}
	if c.Max != 20 || c.MemoryMiB != 512 || time.Duration(c.Grace) != 3*time.Second {
		t.Errorf("got %+v", c)
	}
	c = Defaults()
	err := c.Decode(json.RawMessage(`{"agent":"/nowhere","runner_dir":"/nowhere","root":"relative","max":0,"memory_mib":-1,"pids":1,"env":["A=B"],"grace":"2h","cgroup":"../x","usr":"me"}`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, key := range []string{"agent:", "runner_dir:", "root:", "max:", "memory_mib:", "pids:", "env:", "grace:", "cgroup:", "usr: unknown key"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("no word of %s in:\n%v", key, err)
		}
	}
	bad := good
	bad.Owner, bad.User = "", "no-such-user-here"
	if _, err := New(bad); err == nil || !strings.Contains(err.Error(), "owner:") || !strings.Contains(err.Error(), "user:") {
		t.Errorf("new: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	c := config(t, t.TempDir(), waitForEver)
	c.Cgroup = "none"
	d := open(t, c).Describe()
	if d.Kind != "process" || d.ConnectTimeout != 10*time.Second || !strings.Contains(d.Summary, "does not enforce memory, pids, cpu") {
		t.Errorf("%+v", d)
	}
}

func TestFindCgroupsWithoutAny(t *testing.T) {
	c := findCgroups("22 1 0:21 / /proc rw - proc proc rw\nnonsense\n30 1 0:5 / /nowhere rw - cgroup cgroup rw,memory\n", "muster-test")
	if len(c.trees) != 0 || len(c.cannot) != 3 {
		t.Errorf("%+v", c)
	}
	if err := errors.Join(c.create("x", limits{memory: 1}), c.enter("x"), c.remove("x")); err != nil {
		t.Error(err)
	}
}

// TestCreateIsFast: from Create to the agent's own first instruction.
func TestCreateIsFast(t *testing.T) {
	c := config(t, t.TempDir(), waitForEver)
	for i := range 8 { // about what is at the top of GitHub's runner
		if err := os.WriteFile(filepath.Join(c.RunnerDir, fmt.Sprintf("file%d", i)), make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, c)
	// One in time is the proof. A machine that is too busy to show it is measured by
	// how long a program takes that does nothing.
	best, nothing := time.Hour, time.Hour
	for i := range 40 {
		began := time.Now()
		if err := exec.Command("true").Run(); err != nil {
			t.Fatal(err)
		}
		nothing = min(nothing, time.Since(began))
		began = time.Now()
		create(t, p, specFor(muster.RunnerID(fmt.Sprintf("r-fast-%d", i))))
		best = min(best, time.Since(began))
		if best < 10*time.Millisecond {
			break
		}
	}
	t.Logf("create takes %s, a program that does nothing %s", best, nothing)
	if best > 10*time.Millisecond && best > 10*nothing {
		t.Errorf("create takes %s, a program that does nothing %s", best, nothing)
	}
}

func BenchmarkCreate(b *testing.B) {
	c := config(b, b.TempDir(), waitForEver)
	c.Max = 1 << 20
	p := open(b, c)
	for i := 0; b.Loop(); i++ {
		id := muster.RunnerID(fmt.Sprintf("r-bench-%d", i))
		if _, err := p.Create(b.Context(), specFor(id)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for !errors.Is(p.Delete(b.Context(), id), provider.ErrNotFound) {
		}
		b.StartTimer()
	}
}

func TestDescription(t *testing.T) { providertest.Describe(t, Kind()) }
