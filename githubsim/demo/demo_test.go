package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/demo"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFilesAreSupported(t *testing.T) {
	for _, repo := range demo.Repositories() {
		files, err := fs.Glob(demo.Files(repo), ".github/workflows/*.yml")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", repo, files, err)
		}
		for _, name := range files {
			src, err := fs.ReadFile(demo.Files(repo), name)
			if err != nil {
				t.Fatal(err)
			}
			w, err := workflow.Parse(name, src)
			if err != nil {
				t.Error(err)
			} else if len(w.Unsupported) > 0 {
				t.Errorf("%s/%s: %v", repo, name, w.Unsupported)
			}
		}
	}
}

func TestExpectedHas40Jobs(t *testing.T) {
	if n := len(demo.Expected()); n != demo.Jobs {
		t.Errorf("%d jobs", n)
	}
	if len(demo.Verify(githubsim.Truth{})) != demo.Jobs {
		t.Error("an empty truth is accepted")
	}
}

// S0-18 S0-21 S2-12: the runner program registers by a JIT configuration, gets
// jobs from the simulator, executes them and reports them, 40 times.
func TestScript(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := githubsim.New(githubsim.Config{Seed: 1, RecordLinger: -1})
	if err := demo.Setup(s); err != nil {
		t.Fatal(err)
	}
	url, err := s.Start(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.CreateToken(demo.Organization, "admin:org")
	if err != nil {
		t.Fatal(err)
	}

	working, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { work(working, t, url, token, i) })
	}
	begun := time.Now()
	err = demo.Script(ctx, s, func(what string) { t.Log(what) })
	took := time.Since(begun)
	truth := s.Truth()
	stop()
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range append(demo.Verify(truth), truth.Verdict()...) {
		t.Error(wrong)
	}
	if len(truth.Jobs) != demo.Jobs {
		t.Errorf("%d jobs", len(truth.Jobs))
	}
	if took > time.Minute {
		t.Errorf("the demo took %s", took)
	}
	t.Logf("took %s", took)
	if t.Failed() {
		for _, j := range truth.Jobs {
			if j.Conclusion == "failure" {
				log, _ := s.JobLog(j.ID)
				t.Logf("%s / %s:\n%s", j.Repo, j.Name, log)
			}
		}
	}
}

// work runs one-job runners, one after the other, until ctx is over.
func work(ctx context.Context, t *testing.T, url, token string, slot int) {
	base := t.TempDir()
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("demo-%d-%d", slot, n)
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Error(err)
			return
		}
		blob, err := jit(ctx, url, token, name)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		var out bytes.Buffer
		env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "ACTIONS_RUNNER_INPUT_JITCONFIG=" + blob}
		code := runner.Main(ctx, runner.Program{Args: []string{"run"}, Env: env, Dir: dir, Stdout: &out, Stderr: &out})
		if code != 0 || ctx.Err() == nil && !strings.Contains(out.String(), "completed with result") {
			t.Errorf("runner %s ended with %d:\n%s", name, code, &out)
			return
		}
	}
}

func jit(ctx context.Context, url, token, name string) (string, error) {
	body, err := json.Marshal(map[string]any{"name": name, "runner_group_id": 1, "labels": slices.Clone(demo.Labels())})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v3/orgs/"+demo.Organization+"/actions/runners/generate-jitconfig", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("User-Agent", "demo-test")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Config  string `json:"encoded_jit_config"`
		Message string `json:"message"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", err
	}
	if answer.Config == "" {
		return "", fmt.Errorf("generate-jitconfig for %s: %s: %s", name, resp.Status, answer.Message)
	}
	return answer.Config, nil
}
