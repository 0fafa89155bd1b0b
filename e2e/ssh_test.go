package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/ssh/sshtest"
)

// overSSH writes a provider with two hosts, which are this machine behind one sshd,
// with directories of their own below the stand's folder.
func overSSH(server *sshtest.Server, runnerDir string, slots int) func(*Stand) string {
	return func(s *Stand) string {
		hosts := ""
		for _, name := range []string{"one", "two"} {
			hosts += fmt.Sprintf("    - {name: %s, address: 127.0.0.1, host_key: %q, slots: %d, root: %s}\n", name, server.HostKey, slots, hostRoot(s.Dir, name))
		}
		return fmt.Sprintf("kind: ssh\nconfig:\n  agent: %s/muster-agent\n  user: %s\n  port: %d\n  identity_files: [%s]\n  runner_dir: %q\n  download: false\n  grace: 2s\n  hosts:\n%s",
			s.bin, server.User, server.Port, server.Identity, strings.ReplaceAll(runnerDir, "$DIR", s.Dir), hosts)
	}
}

func hostRoot(dir, name string) string { return filepath.Join(dir, "hosts", name) }

// leftOnHosts names what is there of runners, by ls and ps.
func leftOnHosts(t testing.TB, dir string) (left []string) {
	t.Helper()
	out, _ := exec.Command("sh", "-c", `ls -d "$1"/hosts/*/owner-*/*`, "sh", dir).Output() // none is an error of ls
	left = append(left, strings.Fields(string(out))...)
	out, err := exec.Command("ps", "axeww", "-o", "pid=,command=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "HOME="+dir+"/hosts/") {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return left
}

func nothingOnHosts(t testing.TB, dir string) {
	t.Helper()
	eventually(t, 20*time.Second, func() (bool, string) {
		left := leftOnHosts(t, dir)
		return len(left) == 0, fmt.Sprintf("left on the hosts: %q", left)
	})
}

// readySSH, countSSH and killSSH are the hosts for the chaos of providers.
func readySSH(t *testing.T) Options {
	return Options{Provider: overSSH(sshtest.New(t), "$DIR/actions-runner", 12), Pool: "no_job_timeout: 20s, connect_timeout: 60s"}
}

func countSSH(t *testing.T, s *Stand) []string { return leftOnHosts(t, s.Dir) }

func killSSH(t *testing.T, s *Stand, machine string) {
	for _, line := range leftOnHosts(t, s.Dir) {
		pid, _, isProcess := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(pid); err == nil && isProcess && (line == machine || strings.Contains(line, machine)) {
			_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
			return
		}
	}
}

// S1-9 S1-13 S1-63 S1-64 S1-65 S1-66 S1-67 S1-69 S1-70 S1-71 4-17 4-51: jobs run on machines that are
// reached over SSH, while every connection to them is killed and the control plane is, too.
func TestSSH(t *testing.T) {
	t.Parallel()
	server := sshtest.New(t)
	s := stand(t, Options{Sim: githubsim.Config{Seed: 81}, MaxRunners: 4, Provider: overSSH(server, "$DIR/actions-runner", 2), Pool: "no_job_timeout: 20s, connect_timeout: 60s"})
	p := s.Serve(t)
	s.Inject(t, 4, 2*time.Second)
	eventually(t, time.Minute, func() (bool, string) {
		truth := s.Sim.Truth()
		log, _ := os.ReadFile(s.LogFile())
		return truth.ByState()["in_progress"] >= 2, fmt.Sprintf("%v\n%s", truth.ByState(), tail(log, 4000))
	})
	// What was started over a connection outlives it, and the control plane.
	server.Drop(t)
	p.Kill()
	p = s.Serve(t)
	s.Inject(t, 2, 100*time.Millisecond)
	s.AwaitJobs(t, 6, time.Minute)
	truth, receipts := s.calm(t, time.Minute)
	once(t, truth, receipts, "success")
	used := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		if files, _ := filepath.Glob(filepath.Join(hostRoot(s.Dir, name), "bin", "muster-agent-*")); len(files) == 1 {
			used[name] = true
		}
	}
	if len(used) != 2 {
		t.Errorf("jobs ran on %v", used)
	}
	nothingOnHosts(t, s.Dir)
	if err := p.Stop(); err != nil {
		t.Errorf("muster serve: %v", err)
	}
	providertest.Survived(t, "ssh", "control plane killed, and every connection")
}

// C4 S1-9 S1-10 S1-11 S1-12 S1-13 S1-66 4-12 4-14 4-32: on a host that has no runner, the first one downloads it
// and later ones do not; each registers itself with config.sh and a token that no
// argument, and no file of the host, ever shows.
func TestSSHRegistrationToken(t *testing.T) {
	t.Parallel()
	server := sshtest.New(t)
	program := filepath.Join(Programs(t), "actions-runner")
	h := &hoard{secrets: map[string]string{}}
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 82, RunnerProgram: func() (string, error) { return program, nil }}, MaxRunners: 2,
		Provider: func(s *Stand) string {
			return fmt.Sprintf("kind: ssh\nconfig:\n  agent: %s/muster-agent\n  user: %s\n  identity_files: [%s]\n  known_hosts: %s\n  slots: 2\n  hosts:\n    - {address: 127.0.0.1, port: %d, root: %s}\n",
				s.bin, server.User, server.Identity, server.KnownHosts, server.Port, hostRoot(s.Dir, "one"))
		},
		Pool: "registration: token, no_job_timeout: 20s, connect_timeout: 60s",
		WatchGitHub: func(x Exchange) {
			var answer struct{ Token string }
			if strings.HasSuffix(x.Path, "/registration-token") && json.Unmarshal(x.Answer, &answer) == nil {
				h.add("a registration token", answer.Token)
			}
		},
	})
	argv := arguments(t)
	s.Serve(t)
	s.Inject(t, 2, 500*time.Millisecond)
	s.AwaitJobs(t, 2, time.Minute)
	cache := filepath.Join(hostRoot(s.Dir, "one"), "cache")
	files, err := filepath.Glob(filepath.Join(cache, "*.tar.gz"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the cache has %v, %v", files, err)
	}
	first, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	s.Inject(t, 1, 100*time.Millisecond)
	s.AwaitJobs(t, 3, time.Minute)
	if second, err := os.Stat(files[0]); err != nil || !os.SameFile(first, second) || !first.ModTime().Equal(second.ModTime()) {
		t.Errorf("it was downloaded again: %v", err)
	}
	truth, receipts := s.calm(t, time.Minute)
	once(t, truth, receipts, "success")
	nothingOnHosts(t, s.Dir)
	if len(h.secrets) == 0 {
		t.Error("no token was seen, so that nothing is proven")
	}
	for line := range argv() {
		h.find(t, "the arguments of a process", []byte(line))
	}
	_ = filepath.WalkDir(hostRoot(s.Dir, "one"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if text, err := os.ReadFile(path); err == nil {
				h.find(t, path, text)
			}
		}
		return nil
	})
}

// S1-1 S1-63 S1-65 S1-68 S1-70 S1-71 S1-82: S1 as it was meant: a fleet without a control plane, on machines reached
// over SSH. One of two goes down, and further jobs run on the other.
func TestSSHFleet(t *testing.T) {
	t.Parallel()
	server, other := sshtest.New(t), sshtest.New(t)
	dir := t.TempDir()
	t.Cleanup(func() { killTagged(dir) })
	sim := githubsim.New(githubsim.Config{Seed: 83, RecordLinger: 100 * time.Millisecond})
	if _, err := sim.Start(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := oneRepository(sim); err != nil {
		t.Fatal(err)
	}
	token, err := sim.CreateToken("octocat", "repo", "admin:org")
	if err != nil {
		t.Fatal(err)
	}
	runnerDir := filepath.Join(dir, "runner")
	if err := runner.WriteDir(runnerDir, filepath.Join(Programs(t), "actions-runner")); err != nil {
		t.Fatal(err)
	}
	section := fmt.Sprintf(`{"agent": %q, "user": %q, "identity_files": [%q, %q], "runner_dir": %q, "download": false, "slots": 1, "retry_after": "200ms", "hosts": [
		{"name": "one", "address": "127.0.0.1", "port": %d, "host_key": %q, "root": %q}, {"name": "two", "address": "127.0.0.1", "port": %d, "host_key": %q, "root": %q}]}`,
		filepath.Join(Programs(t), "muster-agent"), server.User, server.Identity, other.Identity, runnerDir,
		server.Port, server.HostKey, hostRoot(dir, "one"), other.Port, other.HostKey, hostRoot(dir, "two"))
	fleets := `{"github_runner_fleets": {"ci": {"cooldown_seconds": 1, "scale_up_threshold": 0, "min_run_time_seconds": 1}}}`
	for name, text := range map[string]string{"provider.json": section, "fleets.json": fleets} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	muster := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(Programs(t), "muster"), args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GITHUB_TOKEN="+token)
		return cmd
	}
	if out, err := muster("github-runner", "enable", "--repo", Repo, "--pool", "ci", "--labels", "linux", "--max-runners", "2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log, err := os.Create(filepath.Join(dir, "run.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	run := muster("github-runner", "run", "--provider", "ssh", "--provider-config", "provider.json", "--interval", "1s", "--api-url", sim.URL()+"/api/v3", "--listen", freeAddress(t))
	run.Stdout, run.Stderr = log, log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		text, _ := os.ReadFile(log.Name())
		return string(tail(text, 4000))
	}
	inject := func(n, want int) {
		t.Helper()
		for range n {
			if _, err := sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: Labels, Duration: 300 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, time.Minute, func() (bool, string) {
			return sim.Truth().ByState()["completed"] == want, fmt.Sprintf("%v\n%s", sim.Truth().ByState(), said())
		})
	}
	inject(2, 2)
	nothingOnHosts(t, dir)
	other.Kill(t)
	inject(2, 4)
	other.Start(t) // it may have a machine whose end it did not confirm any more
	for _, j := range sim.Truth().Jobs {
		if j.Conclusion != "success" || j.Executions != 1 {
			t.Errorf("job %d: %s, executed %d times", j.ID, j.Conclusion, j.Executions)
		}
	}
	if err := run.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := run.Wait(); err != nil {
		t.Errorf("muster github-runner run: %v\n%s", err, said())
	}
	// What was on the host that is up is gone with its registration.
	nothingOnHosts(t, dir)
	if left := sim.Truth().Runners; len(left) > 0 {
		t.Errorf("registrations are left: %+v", left)
	}
}
