package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/store/storetest"
)

// garmExecutable is an external provider on GARM's own library; its cloud is this
// machine, and its machines run the user data that the library writes for every
// cloud, in namespaces of their own.
func garmExecutable(t testing.TB) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "../internal/tools/garmproviders/build.sh")
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err == nil && os.Getuid() != 0 {
		err = fmt.Errorf("machines need namespaces, and this user may make none")
	}
	if _, lookErr := exec.LookPath("curl"); err == nil {
		err = lookErr // the library's script calls it
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("GARM's providers: %v\n%s", err, errs.Bytes())
		}
		t.Skipf("GARM's providers: %v\n%s", err, errs.Bytes())
	}
	return filepath.Join(strings.TrimSpace(string(out)), "garm-provider-local")
}

// garmCloud writes the executable's configuration and the provider's section.
func garmCloud(t *testing.T, exe, version string, own map[string]any) func(s *Stand) string {
	return func(s *Stand) string {
		own["root"] = filepath.Join(s.Dir, "cloud")
		text, err := json.Marshal(own)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.Dir, "cloud.json"), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			// Machines outlive the control plane on purpose, but not the test.
			for _, name := range garmMachines(t, s) {
				t.Errorf("machine %s is left in the cloud", name)
				var m struct{ PID int }
				text, err := os.ReadFile(filepath.Join(name, "machine.json"))
				if err != nil || json.Unmarshal(text, &m) != nil || m.PID == 0 {
					continue
				}
				// Its number may be somebody else's by now: a machine names its directory.
				if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID)); err == nil && bytes.Contains(args, []byte(name)) {
					_ = syscall.Kill(m.PID, syscall.SIGKILL) // all of its processes end with the first
				}
			}
		})
		return fmt.Sprintf("kind: garm\nconfig:\n  executable: %s\n  config_file: cloud.json\n  interface_version: %s\n  disable_updates_on_boot: true\n  settle: 0s\n  max: 4\n", exe, version)
	}
}

// garmMachines are what is left in the cloud, machines and their directories.
func garmMachines(t testing.TB, s *Stand) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.Dir, "cloud", "machines", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// 4-9 4-14: jobs run on machines that a GARM provider makes and that install their
// runners with the script of GARM's own library, unchanged. Their image has no runner,
// so they download it. Each job runs once, nothing is left, and no credential is
// written anywhere in clear.
func TestGARM(t *testing.T) {
	t.Parallel()
	exe := garmExecutable(t)
	program := filepath.Join(Programs(t), "actions-runner")
	var mu sync.Mutex
	asked := map[string]int{}
	h := &hoard{secrets: map[string]string{}}
	s := stand(t, Options{
		Sim:        githubsim.Config{Seed: 61, RunnerProgram: func() (string, error) { return program, nil }},
		MaxRunners: 4, Pool: "no_job_timeout: 20s", Settings: "log: {level: debug}\n" + quick,
		Provider: garmCloud(t, exe, "v0.1.0", map[string]any{"user_data": true}),
		WatchAgents: func(x Exchange) {
			path, _, _ := strings.Cut(x.Path, "?")
			mu.Lock()
			asked[fmt.Sprint(path, " ", x.Status)]++
			mu.Unlock()
			if x.Status == 200 && strings.HasSuffix(path, "/credentials/credentials_rsaparams") {
				var key struct{ D string }
				if err := json.Unmarshal(bytes.TrimPrefix(x.Answer, []byte("\xef\xbb\xbf")), &key); err != nil || key.D == "" {
					t.Errorf("not the parameters of a key: %v", err)
				}
				h.add("a runner's private key", key.D)
			}
		},
	})
	argv := arguments(t)
	p := s.Serve(t)
	const jobs = 5
	s.Inject(t, jobs, 300*time.Millisecond)
	s.AwaitJobs(t, jobs, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	noGARM(t, s)
	// A provider without agents can be tested, too: as far as its machine's script comes.
	if out, errs, code := s.CLI(t, "provider", "check", "local"); code != 0 || !strings.Contains(out, "machine's script") {
		t.Errorf("provider check: %d\n%s%s", code, out, errs)
	}
	noGARM(t, s)
	mu.Lock()
	t.Logf("what machines asked for: %v", asked)
	for _, call := range []string{
		"/metadata/tools/runner/linux/x64 302", "/metadata/credentials/runner 200", "/metadata/credentials/credentials 200",
		"/metadata/credentials/credentials_rsaparams 200", "/metadata/system/service-name 200", "/metadata/systemd/unit-file 200", "/callbacks/system-info/ 200",
	} {
		if asked["/api/v1"+call] < jobs {
			t.Errorf("%d machines asked for %s", asked["/api/v1"+call], call)
		}
	}
	mu.Unlock()
	if len(h.secrets) == 0 {
		t.Error("no key was given to a machine")
	}
	// The service's end is told at once: nobody waits for a deadline.
	for _, r := range s.allRunners(t) {
		if took := r.DestroyedAt.AsTime().Sub(r.CreatedAt.AsTime()); took > 30*time.Second {
			t.Errorf("runner %s lived for %s: %s", r.Id, took, r.Reason)
		}
	}
	if err := p.Stop(); err != nil {
		t.Errorf("muster serve: %v", err)
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	h.find(t, "the log", log)
	for line := range argv() {
		h.find(t, "the arguments of a process", []byte(line))
	}
	for table, rows := range storetest.Dump(t, storetest.Raw(t, "sqlite:"+filepath.Join(s.Dir, "data", "muster.db"))) {
		for _, row := range rows {
			for column, v := range row {
				h.find(t, "column "+table+"."+column, fmt.Append(nil, v))
			}
			if name := fmt.Sprint(row["name"]); table == "facts" && strings.HasPrefix(name, "garm/") {
				t.Errorf("what a machine was given is kept although its runner listened: %s", name)
			}
		}
	}
}

// 4-51: the control plane is killed while machines are made, and again while they
// install. They are found again, their scripts go on, and each job runs once.
func TestGARMControlPlaneKilled(t *testing.T) {
	t.Parallel()
	exe := garmExecutable(t)
	own := map[string]any{"user_data": true}
	s := New(t, Options{
		Sim:        githubsim.Config{Seed: 62, RecordLinger: 100 * time.Millisecond},
		MaxRunners: 4, Pool: "no_job_timeout: 20s", Settings: quick,
		Provider: func(s *Stand) string {
			own["runner"] = filepath.Join(s.Dir, "actions-runner") // the image has it
			return garmCloud(t, exe, "v0.1.1", own)(s)
		},
	})
	p := s.Serve(t)
	const jobs = 5
	s.Inject(t, jobs, 300*time.Millisecond)
	eventually(t, 30*time.Second, func() (bool, string) { return len(garmMachines(t, s)) > 0, "no machine is made" })
	p.Kill()
	p = s.Serve(t)
	eventually(t, 30*time.Second, func() (bool, string) {
		consoles, _ := filepath.Glob(filepath.Join(s.Dir, "cloud", "machines", "*", "console.log"))
		for _, name := range consoles {
			if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, []byte("service: ")) {
				return true, ""
			}
		}
		return s.Sim.Truth().ByState()["completed"] > 0, "no machine starts its runner"
	})
	p.Kill()
	p = s.Serve(t)
	s.AwaitJobs(t, jobs, 90*time.Second)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	noGARM(t, s)
	if err := p.Stop(); err != nil {
		t.Errorf("muster serve: %v", err)
	}
}

// noGARM demands that the cloud and the provider's records are empty.
func noGARM(t *testing.T, s *Stand) {
	t.Helper()
	eventually(t, 20*time.Second, func() (bool, string) {
		left := garmMachines(t, s)
		records, _ := filepath.Glob(filepath.Join(s.Dir, "data", "garm", "*", "muster-*"))
		return len(left)+len(records) == 0, fmt.Sprintf("left: %v, %v", left, records)
	})
}

func (s *Stand) allRunners(t *testing.T) []*v1.Runner {
	t.Helper()
	all, err := s.runners().ListRunners(t.Context(), &v1.ListRunnersRequest{All: true})
	if err != nil {
		t.Fatal(err)
	}
	return all.Runners
}

// For the chaos of providers: machines that are there already have their runner in the image.
func readyGARM(t *testing.T) Options {
	exe := garmExecutable(t)
	return Options{Pool: "no_job_timeout: 20s", Provider: func(s *Stand) string {
		section := garmCloud(t, exe, "v0.1.1", map[string]any{"user_data": true, "runner": filepath.Join(s.Dir, "actions-runner")})(s)
		return strings.Replace(section, "max: 4", "max: 12", 1)
	}}
}

// countGARM counts the directories of the cloud, one for each machine.
func countGARM(t *testing.T, s *Stand) []string { return garmMachines(t, s) }

func killGARM(_ *testing.T, _ *Stand, machine string) {
	var m struct{ PID int }
	text, err := os.ReadFile(filepath.Join(machine, "machine.json"))
	if err != nil || json.Unmarshal(text, &m) != nil || m.PID == 0 {
		return // it has ended
	}
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID)); err == nil && bytes.Contains(args, []byte(machine)) {
		_ = syscall.Kill(m.PID, syscall.SIGKILL) // all of its processes end with the first
	}
}
