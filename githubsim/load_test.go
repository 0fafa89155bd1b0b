package githubsim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
)

// serve sends one request to the handler, without a network.
func serve(s *githubsim.Server, method, path, secret string, body any) *httptest.ResponseRecorder {
	var in bytes.Buffer
	if body != nil {
		json.NewEncoder(&in).Encode(body)
	}
	r := httptest.NewRequest(method, path, &in)
	r.Header.Set("User-Agent", "load")
	r.Header.Set("Authorization", "Bearer "+secret)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func loadWorld(t testing.TB, cfg githubsim.Config) (s *githubsim.Server, token string) {
	cfg.RunnerKey, cfg.BaseURL, cfg.NoRateLimits, cfg.RegistrationsPer5Minutes = key(), "http://sim.test", true, -1
	s = githubsim.New(cfg)
	t.Cleanup(func() { s.Close() })
	err := s.CreateRepository(repo, githubsim.RepositoryOptions{Private: true})
	if err == nil {
		token, err = s.CreateToken("admin", "repo", "admin:org")
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, token
}

// processorTime is what this process has used so far.
func processorTime(t *testing.T) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func jitBody(n int) map[string]any {
	return map[string]any{"name": fmt.Sprint("r", n), "runner_group_id": 1, "labels": []string{"self-hosted", "linux", fmt.Sprint("pool-", n%20)}}
}

// 10,000 runners are registered and 500 jobs queued in one second, each told to
// an App. What is bounded is processor time, so that other work on the machine
// does not matter.
func TestLoad(t *testing.T) {
	const runners, jobs = 10_000, 500
	hook := newReceiver(t)
	s, token := loadWorld(t, githubsim.Config{})
	app, err := s.CreateApp(githubsim.AppOptions{WebhookURL: hook.url, Key: key()})
	if err == nil {
		_, err = s.Install(app.ID, org)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := processorTime(t)
	for i := range runners {
		if w := serve(s, "POST", "/orgs/acme/actions/runners/generate-jitconfig", token, jitBody(i)); w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if each := (processorTime(t) - began) / runners; each > 2*time.Millisecond && !raced {
		t.Errorf("one JIT answer takes %s", each)
	}
	began = processorTime(t)
	for i := range jobs {
		if _, err := s.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"self-hosted", fmt.Sprint("pool-", i%20)}}); err != nil {
			t.Fatal(err)
		}
	}
	hook.find(t, jobs, is("workflow_job", "queued"))
	if took := processorTime(t) - began; took > time.Second && !raced {
		t.Errorf("%d jobs took %s to queue and to tell", jobs, took)
	}
	var page struct {
		Count int `json:"total_count"`
	}
	if err := json.Unmarshal(serve(s, "GET", "/orgs/acme/actions/runners?per_page=100&page=100", token, nil).Body.Bytes(), &page); err != nil || page.Count != runners {
		t.Errorf("%d runners, %v", page.Count, err)
	}
}

func BenchmarkJIT(b *testing.B) {
	s, token := loadWorld(b, githubsim.Config{})
	n := 0
	for b.Loop() {
		n++
		if w := serve(s, "POST", "/orgs/acme/actions/runners/generate-jitconfig", token, jitBody(n)); w.Code != http.StatusCreated {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}

// BenchmarkInjectJob queues jobs that nobody serves, next to all those before.
func BenchmarkInjectJob(b *testing.B) {
	s, _ := loadWorld(b, githubsim.Config{})
	for b.Loop() {
		if _, err := s.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"self-hosted", "gpu"}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkListRunners reads one page of 10,000.
func BenchmarkListRunners(b *testing.B) {
	s, token := loadWorld(b, githubsim.Config{})
	for i := range 10_000 {
		serve(s, "POST", "/orgs/acme/actions/runners/generate-jitconfig", token, jitBody(i))
	}
	for b.Loop() {
		serve(s, "GET", "/orgs/acme/actions/runners?per_page=100&page=42", token, nil)
	}
}
