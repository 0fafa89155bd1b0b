package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-ci/muster/githubsim"
)

// A provider is tested end to end with one trivial job: a real machine, whose agent looks
// around and leaves; GitHub never hears of it, and nothing is left, although the control
// plane is killed in the middle of it.
func TestProviderCheck(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{})
	p := s.Serve(t)
	out, errs, code := s.CLI(t, "provider", "check", "local")
	if code != 0 || !strings.Contains(out, "provider local works") {
		t.Fatalf("status %d\n%s%s", code, out, errs)
	}
	for _, step := range []string{"machine accepted", "agent connected", "clock", "size", "disk", "runner program", "reach http", "agent left", "machine gone", "nothing left"} {
		if !strings.Contains(out, step) {
			t.Errorf("no step %q:\n%s", step, out)
		}
	}
	if n := s.Sim.Truth().Registered; n != 0 {
		t.Errorf("GitHub has registered %d runners", n)
	}
	if out, _, code := s.CLI(t, "provider", "check", "elsewhere"); code != 1 {
		t.Errorf("a provider that is not there: status %d\n%s", code, out)
	}
	list, _, code := s.CLI(t, "provider", "list")
	if code != 0 || !strings.Contains(list, "passed") || !strings.Contains(list, "small (1 CPU, 512Mi, $0.008/min)") {
		t.Errorf("status %d\n%s", code, list)
	}

	// Killed as soon as the test has begun.
	begun := make(chan string, 1)
	go func() {
		out, _, _ := s.CLI(t, "provider", "check", "local", "--timeout", "1s")
		begun <- out
	}()
	eventually(t, 10*time.Second, func() (bool, string) {
		out, _, _ := s.CLI(t, "runner", "list", "--all", "--json")
		return strings.Count(out, "provider-check-") >= 2, out
	})
	p.Kill()
	<-begun
	p = s.Serve(t)
	s.calm(t, 30*time.Second)

	// A runner program that is broken is told before any job meets it.
	run := filepath.Join(s.Dir, "actions-runner", "run.sh")
	if err := os.Chmod(run, 0o644); err != nil {
		t.Fatal(err)
	}
	out, _, code = s.CLI(t, "provider", "check", "local")
	if code != 1 || !strings.Contains(out, "is not executable") || !strings.Contains(out, "does not work: runner program") {
		t.Errorf("status %d\n%s", code, out)
	}
	list, _, _ = s.CLI(t, "provider", "list")
	if !strings.Contains(list, "is not executable") {
		t.Errorf("%s", list)
	}
	s.calm(t, 30*time.Second)
	_ = p
}

// The example of every kind's page is a configuration: with an App before it, it passes
// muster config check, once there is what its paths name.
func TestProviderExamples(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{})
	out, errs, code := s.CLI(t, "provider", "kinds", "--json")
	var all struct {
		Kinds []struct{ Kind, Example string }
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || len(all.Kinds) == 0 {
		t.Fatalf("status %d, %v: %s%s", code, err, out, errs)
	}
	_, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.MarshalPrivateKey(secret, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all.Kinds {
		t.Run(k.Kind, func(t *testing.T) {
			dir := t.TempDir()
			example, _, code := s.CLI(t, "provider", "show", k.Kind, "--example")
			if code != 0 || example != k.Example {
				t.Fatalf("status %d: %s", code, example)
			}
			for name, text := range map[string]string{
				"app.pem": s.App.PEM, "hook": "secret", "actions-runner/run.sh": "#!/bin/sh\n", // of all
				"gateway.token":           "secret",                                                   // slurm
				"garm-provider-openstack": "#!/bin/sh\n", "garm-openstack.toml": "cloud = \"mine\"\n", // garm
				"keys/builders": string(pem.EncodeToMemory(key)), // ssh
			} {
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				mode := os.FileMode(0o600)
				if strings.HasPrefix(text, "#!") {
					mode = 0o755
				}
				if err := os.WriteFile(file, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "muster.yaml")
			text := fmt.Sprintf("apps:\n  - {name: main, id: %d, private_key_file: app.pem, webhook_secret_file: hook}\n\n%s", s.App.ID, k.Example)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, errs, code := s.CLI(t, "config", "check", "--config", file); code != 0 {
				t.Errorf("status %d\n%s%s\nin\n%s", code, out, errs, text)
			}
			if page, _, code := s.CLI(t, "provider", "show", k.Kind); code != 0 || !strings.HasPrefix(page, "# Provider "+k.Kind+"\n") {
				t.Errorf("status %d: %.200s", code, page)
			}
		})
	}
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// S4-51 S4-76: what a platform cannot give is refused when the configuration is read, and
// what an offering says of GPUs, spot and price reaches whoever looks.
func TestOfferingsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Settings: quick})
	text, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(text), "    memory_mib: 512\n", "    memory_mib: 512\n    gpus: 2\n    spot: true\n", 1)
	if err := os.WriteFile(s.Config, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := s.CLI(t, "config", "check", "--config", s.Config)
	for _, want := range []string{"offering small asks for GPUs, which provider local of kind process does not give", "offering small is spot"} {
		if code != 2 || !strings.Contains(errs, want) {
			t.Errorf("status %d, no %q in\n%s", code, want, errs)
		}
	}
}

// 4-52 S4-71: a zone without room is left for the next, jobs run there, and the provider's
// list says why.
func TestProviderZones(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{MaxRunners: 3, Provider: func(s *Stand) string {
		return fmt.Sprintf("kind: process\nconfig:\n  agent: %s/muster-agent\n  runner_dir: %s\n  grace: 1s\nzones:\n  - {name: small, config: {max: 1}}\n  - {name: large, config: {max: 2}}\n",
			s.Bin(), filepath.Join(s.Dir, "actions-runner"))
	}})
	s.Serve(t)
	s.Inject(t, 3, 3*time.Second)
	eventually(t, 20*time.Second, func() (bool, string) {
		n := s.Sim.Truth().ByState()["in_progress"]
		list, _, _ := s.CLI(t, "provider", "list")
		return n == 3 && strings.Contains(list, "zone small, small") && strings.Contains(list, "no capacity"), fmt.Sprintf("%d run\n%s", n, list)
	})
	s.AwaitJobs(t, 3, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	for _, zone := range []string{"local.small", "local.large"} {
		left, err := filepath.Glob(filepath.Join(s.Dir, "data", "runners", zone, "*", "[^.]*"))
		if err != nil || len(left) > 0 {
			t.Errorf("zone %s: %v, %v", zone, left, err)
		}
		if !isDir(filepath.Join(s.Dir, "data", "runners", zone)) {
			t.Errorf("zone %s was never used", zone)
		}
	}
}

// S4-47 S4-62: an idle runner of one project, limited to one repository, is not given to a job of
// another project's repository that asks for the very same labels; that job waits for its
// own pool.
func TestRunnersOfOneRepositoryAndProject(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{MaxRunners: 2, Pool: "project: web, no_job_timeout: 1m", World: func(sim *githubsim.Server) error {
		return errors.Join(oneRepository(sim), sim.CreateRepository("acme/other", githubsim.RepositoryOptions{Private: true}))
	}})
	text, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	ours := strings.NewReplacer("    scope: acme\n", "    scope: acme/web\n    repositories: [acme/web]\n", "max_runners: 2}", "max_runners: 2, min_runners: 1}").Replace(string(text))
	pools := strings.Index(ours, "pools:\n") + len("pools:\n")
	ours = ours[:pools] + "  - {name: other, project: other, scope: acme/other, labels: [self-hosted, linux], provider: local, offering: small, enabled: false, no_job_timeout: 5s}\n" + ours[pools:]
	if err := os.WriteFile(s.Config, []byte(ours), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Serve(t)
	eventually(t, 20*time.Second, func() (bool, string) {
		out, _, _ := s.CLI(t, "pool", "list")
		truth := s.Sim.Truth()
		return len(truth.Runners) == 1 && truth.Runners[0].Connected, fmt.Sprintf("%s%+v", out, truth.Runners)
	})
	stranger, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: "acme/other", Labels: Labels, Duration: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	own := s.Inject(t, 2, 100*time.Millisecond) // served meanwhile, one after the other
	s.AwaitJobs(t, 2, time.Minute)
	for _, id := range own {
		if j, _ := s.Sim.Truth().Job(id); j.Conclusion != "success" {
			t.Errorf("job %d of the repository: %s", id, j.Conclusion)
		}
	}
	if j, _ := s.Sim.Truth().Job(stranger); j.Status != "queued" {
		t.Fatalf("a job of another project and repository is %s", j.Status)
	}
	why, _, _ := s.CLI(t, "job", "why", fmt.Sprint(stranger))
	if !strings.Contains(why, "pool other is disabled") {
		t.Errorf("why: %s", why)
	}
	if _, errs, code := s.CLI(t, "pool", "enable", "other"); code != 0 {
		t.Fatal(errs)
	}
	s.AwaitJobs(t, 3, time.Minute)
	eventually(t, 10*time.Second, func() (bool, string) {
		receipts, err := s.receipts(t.Context())
		for _, r := range receipts {
			if r.JobId == stranger {
				return r.Pool == "other" && r.Project == "other", r.String()
			}
		}
		return false, fmt.Sprint(receipts, err)
	})
}
