package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/provider/providertest"
)

// backend is a platform as the chaos of providers sees it: from beside, by its own tools.
type backend struct {
	kind string
	// ready skips the test, or fails it where CI is set, if the platform is not there,
	// and returns what to change in the stand: Provider at least, unless it is the
	// default one.
	ready func(t *testing.T) Options
	// count names the machines that are there, by the platform's own tool.
	count func(t *testing.T, s *Stand) []string
	// kill ends one of them as an accident would, by the platform's own tool. It may
	// be gone meanwhile. nil if the platform has none to kill.
	kill func(t *testing.T, s *Stand, machine string)
}

// backends are the platforms that TestProvidersChaos is run on. One more is a line here.
var backends = []backend{
	{kind: "process", ready: func(*testing.T) Options { return Options{} }, count: countProcesses, kill: killProcess},
	{kind: "ssh", ready: readySSH, count: countSSH, kill: killSSH},
	{kind: "qemu", ready: readyQEMU, count: countQEMU, kill: killProcess},
	slurmBackend(),
	{kind: "garm", ready: readyGARM, count: countGARM, kill: killGARM},
}

// output runs a platform's tool and returns the lines that it prints.
func output(t *testing.T, name string, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, errs.String())
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// countProcesses asks ps for everything that lives in the stand's folder.
func countProcesses(t *testing.T, s *Stand) (out []string) {
	for _, line := range output(t, "ps", "axeww", "-o", "pid=,command=") {
		if strings.Contains(line, "HOME="+s.Dir+"/") {
			pid, _, _ := strings.Cut(line, " ")
			out = append(out, pid)
		}
	}
	return out
}

func killProcess(_ *testing.T, _ *Stand, machine string) {
	if pid, err := strconv.Atoi(machine); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
}

// S4-25 4-51 4-52 4-53 4-55: for each platform, runners are made while every fifth call to it goes
// wrong (refused, failed, answer lost, hung, nonsense), machines are killed, and the
// control plane is killed with SIGKILL again and again. In the end every job was
// answered for, and the platform's own tool counts no machine.
//
// MUSTER_PROVIDER_CHAOS_RUNNERS, _KILLS, _RATE (percent) and _SEED change the size; 100, 5
// and 20 are what bench/results holds.
func TestProvidersChaos(t *testing.T) {
	for _, b := range backends {
		t.Run(b.kind, func(t *testing.T) { chaos(t, b) })
	}
}

func chaos(t *testing.T, b backend) {
	runners, kills := number(t, "MUSTER_PROVIDER_CHAOS_RUNNERS", 12), number(t, "MUSTER_PROVIDER_CHAOS_KILLS", 2)
	rate, seed := number(t, "MUSTER_PROVIDER_CHAOS_RATE", 20), uint64(number(t, "MUSTER_PROVIDER_CHAOS_SEED", 1))
	o := b.ready(t)
	o.Sim = githubsim.Config{Seed: seed, NoRateLimits: true, RegistrationsPer5Minutes: 1 << 20, RecordLinger: 200 * time.Millisecond, JobLease: cmp.Or(o.Sim.JobLease, 5*time.Second)}
	if o.Settings == "" {
		o.Settings = `
times: {redelivery_scan: 2s, sweep: 5s, health: 5s, sweep_grace: 15s, heartbeat: 1s, agent_lost: 10s, poll: 5s}
price_book: {rounding: second}
`
	}
	if o.Pool == "" {
		o.Pool = "no_job_timeout: 20s"
	}
	o.Env = append(o.Env, fmt.Sprintf("MUSTER_FAULTS=seed=%d,rate=%.2f,hang=2s", seed, float64(rate)/100))
	s := New(t, o)
	if keep := os.Getenv("MUSTER_CHAOS_LOG"); keep != "" {
		t.Cleanup(func() {
			if err := os.Rename(s.LogFile(), keep+"-"+b.kind+".log"); err != nil {
				t.Error(err)
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 3))
	p := s.Serve(t)
	began, peak, murdered, queued := time.Now(), 0, 0, 0
	look := func() []string {
		there := b.count(t, s)
		peak = max(peak, len(there))
		return there
	}
	for k := range kills {
		for share := (k + 1) * runners / kills; queued < share; queued++ {
			if _, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: Labels, Duration: time.Duration(500+random.IntN(4000)) * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, time.Duration(500+random.IntN(2500))*time.Millisecond)
		if there := look(); b.kill != nil && len(there) > 0 {
			b.kill(t, s, there[random.IntN(len(there))])
			murdered++
		}
		p.Kill()
		t.Logf("kill %d: jobs %v, machines %d", k+1, s.Sim.Truth().ByState(), len(look()))
		p = s.Serve(t)
	}
	limit := 3*time.Minute + time.Duration(runners)*5*time.Second
	truth := s.AwaitJobs(t, runners, limit)
	db := s.Books(t)
	eventually(t, 3*time.Minute, func() (bool, string) {
		live, err := db.LiveRunners(t.Context())
		if err != nil {
			return false, err.Error()
		}
		there := look()
		if len(live) == 0 && len(there) == 0 {
			return true, ""
		}
		log, _ := os.ReadFile(s.LogFile())
		return false, fmt.Sprintf("%d live runners, machines by the platform's own tool: %v\n%s", len(live), there, tail(log, 5000))
	})
	receipts, err := db.Receipts(t.Context(), "default", store.UsageFilter{})
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, j := range truth.Jobs {
		if j.Executions > 1 || j.Completions > 1 {
			t.Errorf("job %d: executed %d times, completed %d times", j.ID, j.Executions, j.Completions)
		}
		if j.Conclusion != "success" {
			failed++
		}
	}
	// A machine that was killed in the middle of a job takes the job with it; nothing else may.
	if failed > murdered {
		t.Errorf("%d jobs failed, and %d machines were killed", failed, murdered)
	}
	all, err := db.Runners(t.Context(), "default", store.RunnerFilter{})
	if err != nil {
		t.Fatal(err)
	}
	leaked := 0
	findings, err := db.Findings(t.Context(), "default", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Logf("finding: %s %s %s", f.Kind, f.Subject, f.Action)
		if f.Kind == "leaked_instance" {
			leaked++
		}
	}
	if peak == 0 {
		t.Error("the platform's own tool never counted a machine, so that nothing is proven")
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "PROVIDERS FAIL ON PURPOSE") {
		t.Error("no fault was injected, so that nothing is proven")
	}
	t.Logf("%d jobs (%d failed with a killed machine), %d runners made, peak of %d machines, %d kills of the control plane, %d of machines, %d receipts, %d found by the sweep, %s",
		len(truth.Jobs), failed, len(all), peak, kills, murdered, len(receipts), leaked, time.Since(began).Round(time.Second))
	providertest.Figure(t, b.kind, providertest.FigureChaos, fmt.Sprintf("%d runners, %d %% faults, %d kills: 0 leaked", len(all), rate, kills))
}
