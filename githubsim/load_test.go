package githubsim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
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

func jitBody(n int) map[string]any {
	return map[string]any{"name": fmt.Sprint("r", n), "runner_group_id": 1, "labels": []string{"self-hosted", "linux", fmt.Sprint("pool-", n%20)}}
}

// 10,000 runners are registered and 500 jobs queued in one second, each told to
// an App. The bounds are what the simulator promises, with room for a slow machine.
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
	began := time.Now()
	for i := range runners {
		if w := serve(s, "POST", "/orgs/acme/actions/runners/generate-jitconfig", token, jitBody(i)); w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if each := time.Since(began) / runners; each > 2*time.Millisecond {
		t.Errorf("one JIT answer takes %s", each)
	}
	began = time.Now()
	for i := range jobs {
		if _, err := s.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"self-hosted", fmt.Sprint("pool-", i%20)}}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("%d jobs took %s to queue", jobs, took)
	}
	hook.find(t, jobs, is("workflow_job", "queued"))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d jobs took %s to be told", jobs, took)
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
