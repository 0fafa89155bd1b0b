package runner_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow"
)

func output(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
	return string(out)
}

// home builds the real program and makes a runner directory with it.
func home(t testing.TB) string {
	t.Helper()
	base := t.TempDir()
	program, dir := filepath.Join(base, "actions-runner"), filepath.Join(base, "home")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "github.com/muster-ci/muster/githubsim/actions-runner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := runner.WriteDir(dir, program); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sim is a simulator with one repository, reached over the network.
type sim struct {
	*githubsim.Server
	t          testing.TB
	url, token string
}

func newSim(t testing.TB) *sim {
	t.Helper()
	s := &sim{Server: githubsim.New(githubsim.Config{Seed: 1, RecordLinger: -1, OfflineAfter: time.Second}), t: t}
	files := fstest.MapFS{
		"hello.txt":                {Data: []byte("hello from the repository\n")},
		".github/workflows/ci.yml": {Data: []byte("name: CI\non: push\njobs:\n  build:\n    runs-on: [self-hosted, linux]\n    steps:\n      - uses: actions/checkout@v4\n      - run: cat hello.txt\n")},
	}
	for _, err := range []error{s.CreateOrganization("acme"), s.CreateRepository("acme/web", githubsim.RepositoryOptions{Files: files})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.url, err = s.Start(context.Background(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	if s.token, err = s.CreateToken("acme", "admin:org"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sim) post(path string, in any) map[string]any {
	s.t.Helper()
	data, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, s.url+"/api/v3/orgs/acme/actions/runners/"+path, bytes.NewReader(data))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("User-Agent", "test")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("%s: %s %v %v", path, resp.Status, out, err)
	}
	return out
}

func (s *sim) jit(name string) string {
	s.t.Helper()
	return s.post("generate-jitconfig", map[string]any{"name": name, "runner_group_id": 1, "labels": []string{"self-hosted", "linux"}})["encoded_jit_config"].(string)
}

// logged polls until a job's log holds the text: a log is no change that Server.Wait tells.
func (s *sim) logged(id int64, text string) {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		if log, err := s.JobLog(id); err == nil && strings.Contains(string(log), text) {
			return
		}
		<-tick.C
	}
	s.t.Fatalf("the log of job %d never held %q", id, text)
}

// process is run.sh as a process of its own.
type process struct {
	cmd *exec.Cmd
	out *bufio.Scanner
	all []string
}

func launch(t testing.TB, dir, jit string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "run.sh"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GITHUBSIM_RUNNER_FLUSH=1ms"}
	if jit != "" {
		cmd.Env = append(cmd.Env, "ACTIONS_RUNNER_INPUT_JITCONFIG="+jit)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended where the test went well
		_ = cmd.Wait()
	})
	return p
}

// line reads until a line that holds the text.
func (p *process) line(t testing.TB, text string) {
	t.Helper()
	for p.out.Scan() {
		p.all = append(p.all, p.out.Text())
		if strings.Contains(p.out.Text(), text) {
			return
		}
	}
	t.Fatalf("the runner ended without %q:\n%s", text, strings.Join(p.all, "\n"))
}

func (p *process) end(t testing.TB) {
	t.Helper()
	for p.out.Scan() {
		p.all = append(p.all, p.out.Text())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("run.sh: %v\n%s", err, strings.Join(p.all, "\n"))
	}
}

// copyOf gives every runner a directory of its own, as a provider does.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	own := t.TempDir()
	for _, name := range []string{"run.sh", "config.sh"} {
		if err := os.Symlink(filepath.Join(dir, name), filepath.Join(own, name)); err != nil {
			t.Fatal(err)
		}
	}
	return own
}

// The runner has to start within milliseconds: no parser of workflow files and
// nothing of the control plane may be linked into it.
func TestProgramIsSmall(t *testing.T) {
	out := output(t, "go", "list", "-deps", "github.com/muster-ci/muster/githubsim/actions-runner")
	for pkg := range strings.Lines(out) {
		pkg = strings.TrimSpace(pkg)
		ours := strings.HasPrefix(pkg, "github.com/muster-ci/muster/githubsim/")
		if strings.Contains(strings.SplitN(pkg, "/", 2)[0], ".") && !ours && !strings.HasPrefix(pkg, "vendor/") {
			t.Errorf("the runner program links %s", pkg)
		}
	}
}

// S0-18 S0-21 S2-12: real processes, started as a provider starts them, against
// the simulator over the network.
func TestRealProcess(t *testing.T) {
	dir := home(t)
	s := newSim(t)

	t.Run("OneJob", func(t *testing.T) {
		own := copyOf(t, dir)
		run, err := s.Trigger("acme/web", ".github/workflows/ci.yml", "push")
		if err != nil {
			t.Fatal(err)
		}
		p := launch(t, own, s.jit("one"))
		p.line(t, ": Listening for Jobs")
		p.line(t, ": Running job: build")
		p.line(t, ": Job build completed with result: Succeeded")
		p.end(t)
		truth := s.Truth()
		i := slices.IndexFunc(truth.Jobs, func(j githubsim.JobTruth) bool { return j.RunID == run })
		job := truth.Jobs[i]
		log, err := s.JobLog(job.ID)
		if job.Conclusion != "success" || job.Runner != "one" || err != nil || !strings.Contains(string(log), "hello from the repository") {
			t.Errorf("job %+v, log %v:\n%s", job, err, log)
		}
		if len(truth.Verdict()) > 0 || exists(own, ".runner") {
			t.Errorf("verdict %v", truth.Verdict())
		}
	})

	t.Run("Terminated", func(t *testing.T) {
		id, err := s.InjectJob(githubsim.JobOptions{Repo: "acme/web", Labels: []string{"linux"}, Steps: []workflow.Step{{Run: "echo begun; sleep 60"}}})
		if err != nil {
			t.Fatal(err)
		}
		p := launch(t, copyOf(t, dir), s.jit("two"))
		p.line(t, ": Running job:")
		s.logged(id, "Z begun")
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.line(t, "completed with result: Canceled")
		p.end(t)
		truth := s.Truth()
		if job, _ := truth.Job(id); job.Conclusion != "cancelled" || len(truth.BusyKills) != 1 {
			t.Errorf("job %+v, kills %v", job, truth.BusyKills)
		}
	})

	// reference/github.md 9.2: inputs come from ACTIONS_RUNNER_INPUT_*, too; a runner of one job forgets itself.
	t.Run("ConfiguredForOneJob", func(t *testing.T) {
		own := copyOf(t, dir)
		token := fmt.Sprint(s.post("registration-token", nil)["token"])
		cmd := exec.Command(filepath.Join(own, "config.sh"), "--unattended", "--url", s.url+"/acme", "--name", "once", "--labels", "mine", "--no-default-labels", "--ephemeral", "--disableupdate")
		cmd.Env = append(os.Environ(), "ACTIONS_RUNNER_INPUT_TOKEN="+token)
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), token) {
			t.Fatalf("config.sh: %v\n%s", err, out)
		}
		truth := s.Truth()
		i := slices.IndexFunc(truth.Runners, func(r githubsim.RunnerTruth) bool { return r.Name == "once" })
		if i < 0 || !slices.Equal(truth.Runners[i].Labels, []string{"mine"}) || !truth.Runners[i].Ephemeral {
			t.Fatalf("runners %+v", truth.Runners)
		}
		p := launch(t, own, "")
		p.line(t, ": Listening for Jobs")
		if _, err := s.InjectJob(githubsim.JobOptions{Repo: "acme/web", Labels: []string{"mine"}, Duration: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		p.line(t, "completed with result: Succeeded")
		p.end(t)
		if left := s.Truth().Runners; len(left) > 0 || exists(own, ".runner") || exists(own, ".credentials") {
			t.Errorf("still registered: %+v", left)
		}
	})

	t.Run("Configured", func(t *testing.T) {
		own := copyOf(t, dir)
		config := func(args ...string) string {
			cmd := exec.Command(filepath.Join(own, "config.sh"), args...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("config.sh %v: %v\n%s", args, err, out)
			}
			return string(out)
		}
		token := fmt.Sprint(s.post("registration-token", nil)["token"])
		config("--url", s.url+"/acme", "--token", token, "--name", "kept", "--labels", "extra", "--unattended")
		p := launch(t, own, "")
		p.line(t, ": Listening for Jobs")
		for _, name := range []string{"first", "second"} { // a kept runner does more than one job
			if _, err := s.InjectJob(githubsim.JobOptions{Repo: "acme/web", Name: name, Labels: []string{"self-hosted", "Linux", "X64", "extra"}, Duration: time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			p.line(t, ": Job "+name+" completed with result: Succeeded")
		}
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		p.end(t)
		if out := config("remove", "--token", fmt.Sprint(s.post("remove-token", nil)["token"])); !strings.Contains(out, "Runner removed successfully") {
			t.Error(out)
		}
		if left := s.Truth().Runners; len(left) > 0 {
			t.Errorf("still registered: %+v", left)
		}
	})
}

// BenchmarkStart measures a process from its start until it listens for jobs.
func BenchmarkStart(b *testing.B) {
	dir := home(b)
	s := newSim(b)
	for i := range b.N {
		b.StopTimer()
		own, jit := copyOf(b, dir), s.jit(fmt.Sprintf("bench-%d", i))
		b.StartTimer()
		p := launch(b, own, jit)
		p.line(b, ": Listening for Jobs")
		b.StopTimer()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		p.end(b)
		b.StartTimer()
	}
}
