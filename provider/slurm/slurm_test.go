package slurm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/slurm"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

var built struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// agent builds muster-agent once, where every user can run it.
func agent(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		dir, err := os.MkdirTemp("", "muster-agent-")
		if err != nil {
			built.err = err
			return
		}
		built.path = filepath.Join(dir, "muster-agent")
		cmd := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", built.path, "github.com/muster-ci/muster/cmd/muster-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the agent: %w\n%s", err, out)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			built.err = errors.Join(built.err, err)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// runnerDir is a directory on the nodes with a runner that sleeps.
func runnerDir(t testing.TB, c *slurmtest.Cluster, script string) string {
	t.Helper()
	dir, err := os.MkdirTemp(c.Dir, "runner-")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\n"+script), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// logs collects what a provider logs.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// stand is a cluster and a configuration for it.
type stand struct {
	*slurmtest.Cluster
	cfg slurm.Config
	log *logs
}

func newStand(t *testing.T, transport string, o slurmtest.Options) *stand {
	t.Helper()
	s := &stand{Cluster: slurmtest.Start(t, o), log: &logs{}}
	s.cfg = s.config(t, transport)
	return s
}

func (s *stand) config(t *testing.T, transport string) slurm.Config {
	cfg := slurm.Defaults()
	cfg.Transport, cfg.Partition = transport, "ci"
	cfg.Agent, cfg.RunnerDir = agent(t), runnerDir(t, s.Cluster, "exec sleep 600\n")
	cfg.JobRoot, cfg.Log = filepath.Join(s.Dir, "jobs"), filepath.Join(s.Dir, "jobs", "muster-%j.log")
	cfg.Grace = provider.Duration(2 * time.Second)
	cfg.StateDir = t.TempDir()
	cfg.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	switch transport {
	case slurm.TransportREST:
		cfg.URL, cfg.User, cfg.TokenFile = s.URL, s.Users[0], s.Token(t, s.Users[0])
	case slurm.TransportCommands:
		cfg.SlurmConf = s.Conf
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func (s *stand) open(t providertest.T, owner string, change ...func(*slurm.Config)) *slurm.Provider {
	cfg := s.cfg
	cfg.Owner = owner
	for _, c := range change {
		c(&cfg)
	}
	p, err := slurm.New(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return p
}

// processes are those of a runner's job on any node.
func (s *stand) processes(t providertest.T, owner string, runner muster.RunnerID) (out []proc.Process) {
	all, err := proc.All()
	if err != nil {
		t.Fatalf("list processes: %v", err)
	}
	for _, p := range all {
		if !p.Zombie && p.HasEnv("SLURM_JOB_NAME="+slurm.JobName(owner, runner)) && p.HasEnv("SLURM_CONF="+s.Conf) {
			out = append(out, p)
		}
	}
	return out
}

// jobID is the number of a runner's job, from squeue.
func (s *stand) jobID(t testing.TB, owner string, runner muster.RunnerID) string {
	for line := range strings.Lines(s.Must(t, "squeue", "-h", "-t", "all", "-o", "%i %j")) {
		if id, name, _ := strings.Cut(strings.TrimSpace(line), " "); name == slurm.JobName(owner, runner) {
			return id
		}
	}
	return ""
}

func (s *stand) harness(t *testing.T, open func(t providertest.T, owner string, max int) provider.Provider) providertest.Harness {
	return providertest.Harness{
		Open:     func(t providertest.T, owner string) provider.Provider { return open(t, owner, 0) },
		OpenWith: open,
		Offering: muster.Offering{CPUs: 1, MemoryMiB: 64},
		Patience: 30 * time.Second,
		End: func(u providertest.T, owner string, runner muster.RunnerID) {
			within(t, 20*time.Second, "the agent does not run", func() bool {
				for _, p := range s.processes(u, owner, runner) {
					if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID)); strings.TrimSpace(string(name)) == "muster-agent" {
						return syscall.Kill(p.PID, syscall.SIGTERM) == nil
					}
				}
				return false
			})
		},
		Remains: func(u providertest.T, owner string, runner muster.RunnerID) (left []string) {
			for _, p := range s.processes(u, owner, runner) {
				left = append(left, fmt.Sprintf("process %d", p.PID))
			}
			for _, line := range s.Queue(t) {
				if strings.Contains(line, fmt.Sprintf(`"muster":%q,"runner":%q`, owner, runner)) {
					left = append(left, "job "+line)
				}
			}
			return left
		},
		Exposed: func(u providertest.T, owner string, runner muster.RunnerID) map[string]string {
			within(t, 20*time.Second, "the agent does not run", func() bool { return len(s.processes(u, owner, runner)) >= 2 })
			id := s.jobID(t, owner, runner)
			places := map[string]string{
				"scontrol show job": s.Must(t, "scontrol", "show", "job", "-dd", id),
				"squeue":            s.Must(t, "squeue", "--json"),
				// Root may see it, and the token is not even there.
				"the job's script": s.Must(t, "scontrol", "write", "batch_script", id, "-"),
				"the log":          s.log.String(),
			}
			for _, p := range s.processes(u, owner, runner) {
				for _, file := range []string{"cmdline", "environ"} {
					text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID, file))
					places[fmt.Sprintf("%s of process %d", file, p.PID)] = string(text)
				}
			}
			// What other users of the node could read.
			_ = filepath.WalkDir(filepath.Join(s.Dir, "jobs"), func(path string, d os.DirEntry, err error) error {
				if info, infoErr := os.Stat(path); err == nil && infoErr == nil && info.Mode().IsRegular() && info.Mode()&0o077 != 0 {
					text, _ := os.ReadFile(path)
					places[path] = string(text)
				}
				return nil
			})
			return places
		},
		Cannot: noMachines(),
	}
}

func noMachines() map[string]string {
	out := map[string]string{}
	for _, name := range providertest.Checks() {
		if strings.HasPrefix(name, "Machine") {
			out[name] = "a Slurm job has one life and cannot be stopped and started again"
		}
	}
	return out
}

// within polls what changes by itself.
func within(t testing.TB, d time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("after %s: %s", d, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// S2-1 S2-17 4-41 4-42 4-44: every promise of the contract, on a real cluster, by slurmrestd.
func TestConformanceREST(t *testing.T) { conformance(t, slurm.TransportREST) }

// The same by sbatch, squeue and scancel.
func TestConformanceCommands(t *testing.T) { conformance(t, slurm.TransportCommands) }

func conformance(t *testing.T, transport string) {
	s := newStand(t, transport, slurmtest.Options{CPUs: 64})
	providertest.Run(t, s.harness(t, func(u providertest.T, owner string, max int) provider.Provider {
		return s.open(u, owner, func(c *slurm.Config) {
			if max > 0 {
				c.Max = max
			}
		})
	}))
	if left := s.Queue(t); len(left) > 0 {
		t.Errorf("left in the queue: %v", left)
	}
}

// ownerOf is the name of the user that a process runs as.
func ownerOf(t testing.TB, pid int) string {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return "" // it has ended
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	u, err := user.LookupId(fmt.Sprint(stat.Uid))
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}
