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

	"github.com/muster-ci/muster/githubsim/runner"
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
	c := slurmtest.Start(t, slurmtest.Options{Nodes: 3, CPUs: 8})
	s := &slurmStand{Stand: stand(t, Options{Settings: quick, Pool: pool}), cluster: c, user: c.Users[1]}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	// What is on every node, where every user can read it.
	onNode := filepath.Join(c.Dir, "node")
	must(os.Mkdir(onNode, 0o755), runner.WriteDir(filepath.Join(onNode, "actions-runner"), filepath.Join(Programs(t), "actions-runner")))
	program, err := os.ReadFile(filepath.Join(Programs(t), "muster-agent"))
	must(err, os.WriteFile(filepath.Join(onNode, "muster-agent"), program, 0o755))
	must(filepath.WalkDir(onNode, func(path string, d os.DirEntry, err error) error {
		info, infoErr := d.Info()
		if err := errors.Join(err, infoErr); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		return os.Chmod(path, info.Mode()|0o055)
	}))
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

// S2-14 4-42: a job that is cancelled on GitHub while its Slurm job waits in the queue, for
// whatever reason Slurm gives, takes that with it: nothing starts just to end.
func TestSlurmCancelledInTheQueue(t *testing.T) {
	t.Parallel()
	s := newSlurm(t, "no_job_timeout: 5s", "closed")
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
	if err := s.Sim.CancelJob(id); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
	ended, err := os.ReadFile(filepath.Join(s.cluster.Dir, "ctld", "ended.txt"))
	if err != nil || !strings.Contains(string(ended), "JobState=CANCELLED") || strings.Contains(string(ended), "JobState=COMPLETED") {
		t.Errorf("%v: %s", err, ended)
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
