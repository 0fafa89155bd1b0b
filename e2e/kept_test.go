package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
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
)

// S3-61 S3-62 S3-1 S3-2 S3-25 S3-39 S3-40 S3-42 S3-43 C30: with the example environment, as its
// first lines say, and no configuration file, `muster serve` is the runner
// manager: a queued job starts the machine, its runner runs the job, and a call
// without a body stops it.
func TestExampleEnvironment(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 61}})
	address := freeAddress(t)
	base := "http://" + address
	const secret = "kept-machines-secret-4b1f9c"
	app, err := s.Sim.CreateApp(githubsim.AppOptions{Name: "manager", Owner: "acme", WebhookURL: base + "/github/webhook", WebhookSecret: secret})
	if err != nil {
		t.Fatal(err)
	}
	installation, err := s.Sim.Install(app.ID, "acme")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.Dir, "kept")
	machine := filepath.Join(dir, "machines", "asia-northeast1-a", "github-runner-a")
	if err := runner.WriteDir(machine, filepath.Join(s.bin, "actions-runner")); err != nil {
		t.Fatal(err)
	}
	s.register(t, machine, Repo, "github-runner-a", "linux")

	example, err := filepath.Abs("../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(s.Dir, "kept.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	_, port, _ := strings.Cut(address, ":")
	serve := exec.CommandContext(context.Background(), "bash", "-c", `set -a && . "$EXAMPLE" && . ./own && set +a && exec "$MUSTER" serve`)
	serve.Dir, serve.Stdout, serve.Stderr = dir, log, log
	serve.Env = append(os.Environ(), "EXAMPLE="+example, "MUSTER="+filepath.Join(s.bin, "muster"), "HOME="+s.Dir+"/kept-home")
	own := fmt.Sprintf(`PORT=%s
MUSTER_LISTEN=%s
CLOUD_RUN_SERVICE_URL=%s
RUNNER_MANAGER_SECRET=%s
GITHUB_API_URL=%s/api/v3
GITHUB_APP_ID=%d
GITHUB_APP_PRIVATE_KEY='%s'
GITHUB_APP_INSTALLATION_ID=%d
RUNNER_CONFIG='[{"repo": "%s", "labels": ["self-hosted", "linux"], "vm_instance_name": "github-runner-a", "vm_instance_zone": "asia-northeast1-a"}]'
`, port, address, base, secret, s.Sim.URL(), app.ID, app.PEM, installation, Repo)
	if err := os.WriteFile(filepath.Join(dir, "own"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- serve.Wait() }()
	t.Cleanup(func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		if err := <-exited; err != nil {
			t.Errorf("muster serve: %v", err)
		}
	})
	call := func(method, path, secret string) (status int, body string) {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if secret != "" {
			req.Header.Set("X-Runner-Secret", secret)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, strings.TrimSpace(string(b))
	}
	eventually(t, time.Minute, func() (bool, string) {
		select {
		case err := <-exited:
			exited <- err
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("muster serve ended: %v\n%s", err, text)
		default:
		}
		status, body := call("GET", "/readyz", "")
		return status == http.StatusOK, body
	})
	if status, body := call("GET", "/health", ""); status != 200 || body != `{"status":"healthy"}` && body != `{"status": "healthy"}` {
		t.Errorf("health: %d %s", status, body)
	}
	var index struct {
		Service         string           `json:"service"`
		InactiveMinutes int              `json:"inactive_minutes"`
		RunnerConfigs   []map[string]any `json:"runner_configs"`
	}
	if status, body := call("GET", "/", ""); status != 200 || json.Unmarshal([]byte(body), &index) != nil ||
		index.Service != "GitHub Runner Manager" || index.InactiveMinutes != 3 || len(index.RunnerConfigs) != 1 || strings.Contains(body, secret) {
		t.Errorf("index: %d %s", status, body)
	}
	if status, body := call("POST", "/runner/stop", "wrong"); status != 401 {
		t.Errorf("a wrong secret: %d %s", status, body)
	}

	for range 2 { // many jobs, one machine
		id := s.Inject(t, 1, 300*time.Millisecond)[0]
		eventually(t, time.Minute, func() (bool, string) {
			j, _ := s.Sim.Truth().Job(id)
			return j.Status == "completed" && j.Conclusion == "success" && j.Runner == "github-runner-a", fmt.Sprintf("%+v", j)
		})
	}
	// An operator sees the machine, may wish, and is told why a job waits for it.
	sum := hmac.New(sha256.New, []byte(secret))
	sum.Write([]byte("muster/operator"))
	cli := func(args ...string) string {
		c := exec.CommandContext(t.Context(), filepath.Join(s.bin, "muster"), args...)
		c.Env = append(os.Environ(), "MUSTER_SERVER="+base, "MUSTER_TOKEN="+hex.EncodeToString(sum.Sum(nil)))
		out, _ := c.CombinedOutput() // a refusal is an answer, too
		return string(out)
	}
	long, next := s.Inject(t, 1, 4*time.Second)[0], s.Inject(t, 1, 300*time.Millisecond)[0]
	says := func(want string, args ...string) {
		t.Helper()
		eventually(t, time.Minute, func() (bool, string) { out := cli(args...); return strings.Contains(out, want), out })
	}
	says(fmt.Sprintf("machine_busy: machine github-runner-a is up and runs job %d", long), "job", "why", fmt.Sprint(next))
	says(fmt.Sprintf("busy with job %d", long), "machine", "list")
	says("machine github-runner-a: busy: ", "machine", "stop", "github-runner-a")
	says("machine github-runner-a: already running", "machine", "start", "github-runner-a", "--zone", "asia-northeast1-a")
	says("no pool keeps a machine nobody", "machine", "stop", "nobody")
	if err := s.Sim.CancelJob(next); err != nil {
		t.Fatal(err)
	}
	stopped := false
	eventually(t, time.Minute, func() (bool, string) {
		status, body := call("POST", "/runner/stop", secret)
		stopped = stopped || strings.Contains(body, "stopping")
		return status == 200 && strings.Contains(body, "already_stopped"), fmt.Sprint(status, body)
	})
	if !stopped {
		t.Error("the machine was never told to stop")
	}
	says("TERMINATED", "machine", "list")
	says("machine github-runner-a: already stopped", "machine", "stop", "github-runner-a")
	if pids := tagged(filepath.Join(dir, "machines")); len(pids) > 0 {
		t.Errorf("processes of the stopped machine: %v", pids)
	}
}

// register registers a machine's runner by hand, as an operator does with config.sh.
func (s *Stand) register(t *testing.T, dir, repo, name, labels string) {
	t.Helper()
	token, err := s.Sim.CreateToken("admin-of-"+name, "repo")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.Sim.URL()+"/api/v3/repos/"+repo+"/actions/runners/registration-token", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.Token == "" {
		t.Fatalf("registration token: %d %v", resp.StatusCode, err)
	}
	config := exec.CommandContext(t.Context(), filepath.Join(dir, "config.sh"), "--unattended", "--url", s.Sim.URL()+"/"+repo, "--token", out.Token, "--name", name, "--labels", labels)
	config.Dir = dir
	if text, err := config.CombinedOutput(); err != nil {
		t.Fatalf("config.sh: %v\n%s", err, text)
	}
}
