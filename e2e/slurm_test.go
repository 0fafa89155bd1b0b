package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

// slurmStand is a Stand whose one pool is on a real Slurm cluster: the control plane
// asks a gateway, which is a process of its own, and only that has a credential of Slurm.
type slurmStand struct {
	*Stand
	cluster *slurmtest.Cluster
	dir     string // the gateway's
	user    string // whom the repository's jobs run as
	gateway *exec.Cmd
	ended   chan error
}

// newSlurm starts a cluster, a control plane and a gateway. pool are further settings of
// the pool, partition the one that the gateway submits to.
func newSlurm(t *testing.T, pool, partition string, change ...func(config string) string) *slurmStand {
	t.Helper()
	return newSlurmOn(t, slurmtest.Options{}, pool, partition, change...)
}

func newSlurmOn(t *testing.T, o slurmtest.Options, pool, partition string, change ...func(config string) string) *slurmStand {
	t.Helper()
	o.Nodes, o.CPUs = 3, 8
	c := slurmtest.Start(t, o)
	s := &slurmStand{Stand: stand(t, Options{Settings: quick, Pool: pool}), cluster: c, user: c.Users[1]}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	onNode := nodePrograms(t, c)
	s.dir = t.TempDir()
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	secret := []byte(hex.EncodeToString(random))
	address := freeAddress(t)
	must(os.WriteFile(filepath.Join(s.dir, "gateway.token"), secret, 0o600), os.WriteFile(filepath.Join(s.Dir, "gateway.token"), secret, 0o600))
	text, err := os.ReadFile(s.Config)
	must(err)
	before, rest, ok1 := strings.Cut(string(text), "providers:\n")
	_, after, ok2 := strings.Cut(rest, "offerings:\n")
	if !ok1 || !ok2 {
		t.Fatal("the stand's configuration has another form")
	}
	config := before + fmt.Sprintf("providers:\n  - name: local\n    kind: slurm\n    config: {gateway_url: \"http://%s\", gateway_token_file: gateway.token}\nofferings:\n", address) + after
	config = strings.Replace(config, "scope: acme\n", "scope: "+Repo+"\n", 1)
	for _, f := range change {
		config = f(config)
	}
	must(os.WriteFile(s.Config, []byte(config), 0o600))
	must(os.WriteFile(filepath.Join(s.dir, "gateway.yaml"), fmt.Appendf(nil, `data_dir: data
slurm_gateway:
  listen: %s
  app_url: %s
  auth_token_file: gateway.token
  keys_file: keys.json
  repositories:
    - {github_url: %s/%s, slurm_user: %s}
  slurm:
    transport: rest
    url: %s
    user: %s
    token_file: %s
    partition: %s
    agent: %s/muster-agent
    runner_dir: %s/actions-runner
    job_root: %s/jobs
    log: %s/jobs/muster-%%j.log
    time_limit: 10m
    grace: 2s
`, address, s.setting(t, "public_url"), strings.TrimSuffix(s.setting(t, "api_url"), "/api/v3"), Repo, s.user, c.URL, c.User, c.Token(t, c.User), partition, onNode, onNode, c.Dir, c.Dir), 0o600))
	return s
}

// setting is what the control plane's configuration says.
func (s *slurmStand) setting(t *testing.T, key string) string {
	t.Helper()
	text, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), key+": ")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

// start runs the control plane, and then the gateway with its public keys.
func (s *slurmStand) start(t *testing.T) *Process {
	t.Helper()
	p := s.Serve(t)
	status, keys := get(t.Context(), s.URL+"/gha/keys")
	if status != http.StatusOK {
		t.Fatalf("/gha/keys answers %d: %s", status, keys)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "keys.json"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	s.startGateway(t)
	return p
}

func (s *slurmStand) startGateway(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "gateway.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.gateway = exec.CommandContext(context.Background(), filepath.Join(Programs(t), "muster"), "serve", "--role", "slurm-gateway", "--config", filepath.Join(s.dir, "gateway.yaml"))
	s.gateway.Stdout, s.gateway.Stderr = log, log
	if err := s.gateway.Start(); err != nil {
		t.Fatal(err)
	}
	s.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan error) { ended <- cmd.Wait() }(s.gateway, s.ended)
	eventually(t, 20*time.Second, func() (bool, string) {
		text, _ := os.ReadFile(log.Name())
		return strings.Contains(string(text), "Slurm gateway is ready"), string(text)
	})
	cmd, ended := s.gateway, s.ended
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := <-ended; err != nil && !t.Failed() {
			text, _ := os.ReadFile(filepath.Join(s.dir, "gateway.log"))
			t.Errorf("the gateway ended: %v\n%s", err, tail(text, 2000))
		}
		ended <- nil
	})
}

// empty waits until squeue shows nothing, and GitHub and the books are calm.
func (s *slurmStand) empty(t *testing.T) {
	t.Helper()
	s.calm(t, 30*time.Second)
	eventually(t, 20*time.Second, func() (bool, string) {
		q := s.cluster.Queue(t)
		return len(q) == 0, fmt.Sprintf("squeue still shows %v", q)
	})
	// 4-41: a directory and a log for each job, and none of them stays.
	eventually(t, 10*time.Second, func() (bool, string) {
		left, _ := filepath.Glob(filepath.Join(s.cluster.Dir, "jobs", "*", "*"))
		logs, _ := filepath.Glob(filepath.Join(s.cluster.Dir, "jobs", "*.log"))
		return len(left)+len(logs) == 0, fmt.Sprintf("on the nodes there remain %v %v", left, logs)
	})
}

// launched lists the Slurm jobs of the control plane, in the order of their numbers, and the
// runner of each.
func (s *slurmStand) launched(t *testing.T) (jobs, runners []string) {
	t.Helper()
	for line := range strings.Lines(s.cluster.Must(t, "squeue", "-h", "-t", "all", "-S", "i", "-o", "%i %k")) {
		id, comment, _ := strings.Cut(strings.TrimSpace(line), " ")
		var tag struct{ Runner string }
		if err := json.Unmarshal([]byte(comment), &tag); err == nil {
			jobs, runners = append(jobs, id), append(runners, tag.Runner)
		}
	}
	return jobs, runners
}

// S2-1 S2-2 S2-3 S2-4 S2-7 S2-8 S2-12 S2-15 S2-16 S2-17 S2-20 S2-22: webhooks become Slurm jobs, by a control plane without any
// credential of Slurm and a gateway without any of GitHub; all finish once, as the user that
// the gateway's map names, and nothing stays.
func TestSlurm(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 5s", "ci")
	s.start(t)
	s.Inject(t, 6, 500*time.Millisecond)
	s.AwaitJobs(t, 6, time.Minute)
	jobs, _ := s.launched(t)
	if len(jobs) < 6 || len(jobs) > 12 {
		t.Errorf("%d Slurm jobs for 6 jobs", len(jobs))
	}
	for line := range strings.Lines(s.cluster.Must(t, "squeue", "-h", "-t", "all", "-o", "%u %a %l %P %o")) {
		if fields := strings.Fields(line); fields[0] != s.user || fields[2] != "10:00" { // 4-44: the limit is said
			t.Errorf("a job is %s", line)
		}
	}
	s.empty(t)
}

// S2-21 4-1: GitHub gives the first job to the runner that was launched for the second.
// Both finish, and each is accounted to the runner that had it.
func TestSlurmSwappedAssignments(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 20s", "ci")
	s.start(t)
	s.cluster.Must(t, "scontrol", "update", "partitionname=ci", "state=down")
	first := s.Inject(t, 1, 100*time.Millisecond)[0]
	launches := func(n int) (jobs, runners []string) {
		eventually(t, 30*time.Second, func() (bool, string) {
			jobs, runners = s.launched(t)
			return len(jobs) == n, fmt.Sprintf("%d of %d Slurm jobs", len(jobs), n)
		})
		return jobs, runners
	}
	jobs, _ := launches(1)
	s.cluster.Must(t, "scontrol", "hold", jobs[0])
	second := s.Inject(t, 1, 100*time.Millisecond)[0]
	jobs, runners := launches(2)
	s.cluster.Must(t, "scontrol", "update", "partitionname=ci", "state=up")
	s.AwaitJobs(t, 1, 30*time.Second)
	s.cluster.Must(t, "scontrol", "release", jobs[0])
	s.AwaitJobs(t, 2, 30*time.Second)
	s.empty(t)
	receipts, err := s.receipts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	had := map[int64]string{}
	for _, r := range receipts {
		had[r.JobId] = r.Runner
	}
	if had[first] != runners[1] || had[second] != runners[0] {
		t.Errorf("the jobs were had by %v; launched were %v", had, runners)
	}
}

// replaced is a change of a stand's configuration.
func replaced(old, now string) func(string) string {
	return func(config string) string { return strings.Replace(config, old, now, 1) }
}

// S2-14 4-42: a job that is cancelled on GitHub while its Slurm job waits in the queue, for
// whatever reason Slurm gives, takes that with it: nothing starts just to end. Until then
// `job why` tells that reason, long before an agent counts as lost.
func TestSlurmCancelledInTheQueue(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 5s", "closed", replaced("agent_lost: 3s", "agent_lost: 90s"))
	s.start(t)
	id := s.Inject(t, 1, time.Second)[0]
	var runner string
	eventually(t, 30*time.Second, func() (bool, string) {
		jobs, runners := s.launched(t)
		if len(jobs) == 1 {
			runner = runners[0]
		}
		return len(jobs) == 1, "no Slurm job"
	})
	eventually(t, 30*time.Second, func() (bool, string) {
		show, _, _ := s.CLI(t, "runner", "show", runner)
		return strings.Contains(show, "PENDING (PartitionDown)") && strings.Contains(show, "takes no jobs now"), show
	})
	s.why(t, id, "made runner "+runner+" for this job that waits in the platform's queue", "PENDING (PartitionDown)", "takes no jobs now", "since ")
	if err := s.Sim.CancelJob(id); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
	ended, err := os.ReadFile(filepath.Join(s.cluster.Dir, "ctld", "ended.txt"))
	if err != nil || !strings.Contains(string(ended), "JobState=CANCELLED") || strings.Contains(string(ended), "JobState=COMPLETED") {
		t.Errorf("%v: %s", err, ended)
	}
}

// why waits until `job why` says all of the words.
func (s *slurmStand) why(t *testing.T, job int64, words ...string) {
	t.Helper()
	eventually(t, 20*time.Second, func() (bool, string) {
		out, errs, _ := s.CLI(t, "job", "why", fmt.Sprint(job))
		for _, w := range words {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), w) {
				return false, fmt.Sprintf("nothing of %q in %s%s", w, out, errs)
			}
		}
		return true, ""
	})
}

// foreign runs a one-job runner that no part of Muster knows, and returns when it has run
// a job of the repository.
func (s *slurmStand) foreign(t *testing.T, name string) {
	t.Helper()
	token, err := s.Sim.CreateToken("somebody", "repo")
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"name": name, "runner_group_id": 1, "labels": Labels})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Sim.URL()+"/api/v3/repos/"+Repo+"/actions/runners/generate-jitconfig", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		JIT string `json:"encoded_jit_config"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.JIT == "" {
		t.Fatalf("a JIT configuration: %d %v", resp.StatusCode, err)
	}
	dir := filepath.Join(t.TempDir(), "runner")
	if err := runner.WriteDir(dir, filepath.Join(Programs(t), "actions-runner")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	run := exec.CommandContext(ctx, filepath.Join(dir, "run.sh"), "--jitconfig", out.JIT)
	run.Dir = dir
	if text, err := run.CombinedOutput(); err != nil {
		t.Fatalf("a runner of somebody else: %v\n%s", err, text)
	}
}

// ranOn demands that a job succeeded on a runner of that name.
func (s *slurmStand) ranOn(t *testing.T, job int64, name string) {
	t.Helper()
	if j, ok := s.Sim.Truth().Job(job); !ok || j.Runner != name || j.Conclusion != "success" {
		t.Errorf("job %d: %+v", job, j)
	}
}

// S2-14: a runner outside Muster's control takes the job while the Slurm job waits for free
// nodes, and another while it starts. Either way the allocation is given back, and nothing
// is left on GitHub or in Slurm.
func TestSlurmForeignRunner(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 2s", "ci")
	s.start(t)
	others := strings.TrimSpace(s.cluster.Must(t, "sbatch", "--parsable", "-p", "ci", "-N", "3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"))
	eventually(t, 20*time.Second, func() (bool, string) {
		return strings.TrimSpace(s.cluster.Must(t, "squeue", "-h", "-j", others, "-o", "%T")) == "RUNNING", "the nodes are not taken"
	})
	waits := s.Inject(t, 1, 100*time.Millisecond)[0]
	s.why(t, waits, "waits in the platform's queue", "PENDING (Resources)", "no node has enough free")
	s.foreign(t, "foreign-1")
	s.ranOn(t, waits, "foreign-1")
	eventually(t, 30*time.Second, func() (bool, string) {
		q := s.cluster.Queue(t)
		return len(q) == 1 && strings.HasPrefix(q[0], others+" "), fmt.Sprintf("besides job %s there are %v", others, q)
	})

	// The node starts what comes before the agent, and is held there.
	onNode := filepath.Join(s.cluster.Dir, "node")
	gate := filepath.Join(onNode, "gate")
	held := fmt.Sprintf("#!/bin/sh\nuntil [ -e %s ]; do sleep 0.1; done\nexec %s/agent \"$@\"\n", gate, onNode)
	if err := errors.Join(os.Rename(filepath.Join(onNode, "muster-agent"), filepath.Join(onNode, "agent")), os.WriteFile(filepath.Join(onNode, "muster-agent"), []byte(held), 0o755)); err != nil {
		t.Fatal(err)
	}
	s.cluster.Must(t, "scancel", others)
	starts := s.Inject(t, 1, 100*time.Millisecond)[0]
	eventually(t, 30*time.Second, func() (bool, string) {
		q := s.cluster.Queue(t)
		return len(q) == 1 && strings.Contains(q[0], "RUNNING"), fmt.Sprintf("it does not start: %v", q)
	})
	s.foreign(t, "foreign-2")
	s.ranOn(t, starts, "foreign-2")
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

// S2-5: the labels of a job decide before a launch is asked for: what no pool serves is no
// request to the gateway and no Slurm job, and what comes after it is served.
func TestSlurmUnmatchedLabels(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 5s", "ci")
	s.start(t)
	for _, labels := range [][]string{{"self-hosted", "windows"}, {"self-hosted", "linux", "arm64"}, {"ubuntu-latest"}} {
		id, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: labels, Duration: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		want := "no pool wants [" + strings.Join(labels, ",") + "]"
		eventually(t, 20*time.Second, func() (bool, string) {
			out, errs, _ := s.CLI(t, "delivery", "list")
			return strings.Contains(out, want), fmt.Sprintf("job %d: nothing of %q in %s%s", id, want, out, errs)
		})
	}
	served := s.Inject(t, 1, 100*time.Millisecond)[0]
	s.AwaitJobs(t, 1, 30*time.Second)
	log, err := os.ReadFile(filepath.Join(s.dir, "gateway.log"))
	asked := strings.Count(string(log), "job of a runner")
	if jobs, _ := s.launched(t); err != nil || asked == 0 || asked != len(jobs) || asked != strings.Count(string(log), fmt.Sprintf("github_job=%d ", served)) {
		t.Errorf("%v; Slurm jobs %v, and the gateway was asked for runners of other jobs than %d:\n%s", err, jobs, served, log)
	}
}

// Slurm ends jobs for three reasons of its own, and each is told apart in what is shown of
// the runner (4-44): too much memory, a job of higher priority, the time limit. The receipt
// of each job names the runner of which that is told.
func TestSlurmEndings(t *testing.T) {
	t.Parallel()
	unbound := slurmtest.CanBoundMemory()
	s := newSlurmOn(t, slurmtest.Options{BoundMemory: unbound == "", Lines: []string{
		"PreemptType=preempt/partition_prio", "PreemptMode=CANCEL", "PartitionName=urgent Nodes=n[1-3] PriorityTier=10 DefMemPerCPU=256 State=UP",
	}}, "no_job_timeout: 2m", "ci", replaced("memory_mib: 512", "memory_mib: 128"))
	s.start(t)
	s.cluster.Must(t, "scontrol", "update", "partitionname=ci", "oversubscribe=EXCLUSIVE") // a node each
	steps := []workflow.Step{{Run: "head -c 400000000 /dev/zero | tail; sleep 600"}}
	if unbound != "" {
		t.Logf("OUT_OF_MEMORY is not produced: %s", unbound)
		steps = []workflow.Step{{Run: "sleep 600"}}
	}
	var ids []int64
	var jobs, runners []string
	for i, o := range []githubsim.JobOptions{{Duration: 10 * time.Minute}, {Duration: 10 * time.Minute}, {Steps: steps}} {
		o.Repo, o.Labels = Repo, Labels
		id, err := s.Sim.InjectJob(o)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		eventually(t, 30*time.Second, func() (bool, string) {
			jobs, runners = s.launched(t)
			j, _ := s.Sim.Truth().Job(id)
			return len(runners) == i+1 && j.Status == "in_progress" && strings.Contains(j.Runner, strings.TrimPrefix(runners[i], "r-")), fmt.Sprintf("%+v of %v", j, runners)
		})
		if i == 0 {
			s.cluster.Must(t, "scontrol", "update", "jobid="+jobs[0], "timelimit=1")
		}
	}
	node := strings.TrimSpace(s.cluster.Must(t, "squeue", "-h", "-j", jobs[1], "-o", "%N"))
	urgent := strings.TrimSpace(s.cluster.Must(t, "sbatch", "--parsable", "-p", "urgent", "-w", node, "-n", "8", "--output=/dev/null", "--wrap=sleep 600"))
	defer s.cluster.Must(t, "scancel", urgent)
	// Preempted and timed out, the runner has time to tell GitHub that its job is over; out
	// of memory, GitHub waits for it until somebody cancels.
	for i, words := range [][]string{
		{"TIMEOUT", "Slurm's time limit of 1 minutes was reached"},
		{"PREEMPTED", "another job of higher priority took the node"},
		{"OUT_OF_MEMORY", "it used more memory than it was given"},
	} {
		if i == 2 && unbound != "" {
			continue
		}
		eventually(t, 2*time.Minute, func() (bool, string) {
			show, _, _ := s.CLI(t, "runner", "show", runners[i])
			return strings.Contains(show, words[0]) && strings.Contains(show, words[1]), show + s.cluster.Must(t, "squeue", "-t", "all")
		})
		if err := s.Sim.CancelJob(ids[i]); err != nil {
			t.Logf("job %d: %v", ids[i], err) // it is over already
		}
		eventually(t, 20*time.Second, func() (bool, string) {
			receipts, err := s.receipts(t.Context())
			for _, r := range receipts {
				if r.JobId == ids[i] {
					return r.Runner == runners[i] && r.Conclusion != "success", fmt.Sprintf("receipt %v", r)
				}
			}
			return false, fmt.Sprintf("no receipt: %v", err)
		})
	}
}

// S2-14: a job that is cancelled while its runner starts gives the allocation back.
func TestSlurmCancelledWhileItStarts(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 2s", "ci")
	s.start(t)
	s.cluster.Must(t, "scontrol", "update", "partitionname=ci", "state=down")
	id := s.Inject(t, 1, time.Second)[0]
	eventually(t, 30*time.Second, func() (bool, string) {
		jobs, _ := s.launched(t)
		return len(jobs) == 1, "no Slurm job"
	})
	s.cluster.Must(t, "scontrol", "update", "partitionname=ci", "state=up")
	eventually(t, 30*time.Second, func() (bool, string) {
		return strings.Contains(s.cluster.Must(t, "squeue", "-h", "-t", "all", "-o", "%T"), "RUNNING"), "it does not start"
	})
	if err := s.Sim.CancelJob(id); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

// A node is killed in the middle of a job: the runner's end says so, in Slurm's word, and a new
// one serves the next job.
func TestSlurmNodeKilled(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 5s", "ci")
	s.start(t)
	id := s.Inject(t, 1, time.Minute)[0]
	var node int
	var runner string
	eventually(t, 30*time.Second, func() (bool, string) {
		states := s.Sim.Truth().ByState()
		_, runners := s.launched(t)
		_, _ = fmt.Sscanf(strings.TrimSpace(s.cluster.Must(t, "squeue", "-h", "-t", "R", "-o", "%N")), "n%d", &node)
		if len(runners) == 1 {
			runner = runners[0]
		}
		return states["in_progress"] == 1 && node > 0, fmt.Sprint(states)
	})
	s.cluster.KillNode(t, node)
	eventually(t, time.Minute, func() (bool, string) {
		show, _, _ := s.CLI(t, "runner", "show", runner)
		return strings.Contains(show, "NODE_FAIL") && strings.Contains(show, "the node was lost") && strings.Contains(show, slurmtest.NodeName(node)), show
	})
	if err := s.Sim.CancelJob(id); err != nil {
		t.Logf("cancel: %v", err) // GitHub may have given it up
	}
	next := s.Inject(t, 1, 100*time.Millisecond)[0]
	eventually(t, 30*time.Second, func() (bool, string) {
		for _, j := range s.Sim.Truth().Jobs {
			if j.ID == next {
				return j.Conclusion == "success", j.Conclusion
			}
		}
		return false, "no such job"
	})
	// The simulated GitHub goes on waiting for the runner that was lost; Slurm has nothing left.
	eventually(t, 30*time.Second, func() (bool, string) {
		q := s.cluster.Queue(t)
		return len(q) == 0, fmt.Sprintf("squeue still shows %v", q)
	})
}

// site is a script of a site's own in the place of the agent: it trades the launch token
// and lets GitHub's own config.sh register the runner.
const site = `#!/bin/sh
set -eu
token=$(cat "$MUSTER_BOOT_TOKEN_FILE")
rm "$MUSTER_BOOT_TOKEN_FILE"
answer=$(printf 'Authorization: %s\nSlurm-Job-Id: %s\n' "$token" "$SLURM_JOB_ID" |
	curl --silent --show-error --write-out '\n%{http_code}' --request POST --header @- "$MUSTER_URL/gha/runner")
status=$(printf '%s\n' "$answer" | tail -n 1)
case $status in
200) ;;
409 | 410) exit 0 ;;
*) echo "refused: $status" >&2; exit 1 ;;
esac
value() { printf '%s\n' "$answer" | sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
cd "$MUSTER_RUNNER_DIR"
./config.sh --unattended --ephemeral --disableupdate --replace --url "$(value url)" --token "$(value token)" --name "$(value name)" --labels "$(value labels)"
exec ./run.sh
`

// S2-8 S2-10 S2-18 S2-19 S2-20: nodes without muster-agent trade the launch token at POST /gha/runner, and register
// an ephemeral runner with the token that they get.
func TestSlurmOwnScript(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "registration: token, no_job_timeout: 5s", "ci")
	s.start(t)
	if err := os.WriteFile(filepath.Join(s.cluster.Dir, "node", "muster-agent"), []byte(site), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Inject(t, 2, 200*time.Millisecond)
	s.AwaitJobs(t, 2, time.Minute)
	s.empty(t)
}
