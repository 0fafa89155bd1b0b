package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow"
	"github.com/muster-ci/muster/internal/store/storetest"
)

// hoard collects every secret that crossed a wire.
type hoard struct {
	mu      sync.Mutex
	secrets map[string]string // the secret → what it is
}

func (h *hoard) add(what, secret string) {
	// Short ones, and what stands in several, prove nothing.
	if len(secret) < 20 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.secrets[secret] == "" {
		h.secrets[secret] = what
	}
}

func (h *hoard) bearer(what string, x Exchange) {
	_, token, _ := strings.Cut(x.Header.Get("Authorization"), " ")
	h.add(what, token)
}

// github sees App JWTs, installation tokens and JIT configurations.
func (h *hoard) github(x Exchange) {
	h.bearer("a credential of GitHub's API", x)
	var answer struct {
		Token string `json:"token"`
		JIT   string `json:"encoded_jit_config"`
	}
	if json.Unmarshal(x.Answer, &answer) != nil {
		return
	}
	h.add("a token that GitHub issued", answer.Token)
	h.jit(answer.JIT)
}

// jit adds a configuration and what is inside it.
func (h *hoard) jit(config string) {
	h.add("a JIT configuration", config)
	blob, err := base64.StdEncoding.DecodeString(config)
	if err != nil {
		return
	}
	var files map[string]string
	if json.Unmarshal(blob, &files) != nil {
		return
	}
	h.add("the credentials of a JIT configuration", files[".credentials"])
	h.add("the key of a JIT configuration", files[".credentials_rsaparams"])
}

// agents sees boot and session tokens.
func (h *hoard) agents(x Exchange) {
	h.bearer("a token of an agent", x)
	var answer struct {
		SessionToken string `json:"session_token"`
	}
	if json.Unmarshal(x.Answer, &answer) == nil {
		h.add("a session token", answer.SessionToken)
	}
}

// find reports every secret in a text.
func (h *hoard) find(t *testing.T, where string, text []byte) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for secret, what := range h.secrets {
		if at := bytes.Index(text, []byte(secret)); at >= 0 {
			t.Errorf("%s holds %s: …%.60q…", where, what, text[max(0, at-30):at])
		}
	}
}

// S1-107 4-14 4-37: secrets are planted and collected while jobs run well and badly, and then
// nothing that is kept or shown holds one of them: logs, both databases, arguments
// of processes, the command line's output, the dashboard, the metrics.
func TestCanary(t *testing.T) {
	t.Parallel()
	h := &hoard{secrets: map[string]string{}}
	const hook = "canary-webhook-secret-5b0e7d91"
	broken := 3
	var mu sync.Mutex
	s := stand(t, Options{
		Sim:      githubsim.Config{Seed: 31},
		App:      githubsim.AppOptions{WebhookSecret: hook},
		Settings: "track_unmatched: true\nlog: {level: debug}\n" + quick,
		GitHub: func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if !strings.HasSuffix(r.URL.Path, "/generate-jitconfig") || broken == 0 {
				return false
			}
			broken--
			// An answer that quotes the credential, as a proxy's error page may.
			w.WriteHeader([]int{http.StatusForbidden, http.StatusBadGateway, http.StatusUnprocessableEntity}[broken])
			fmt.Fprintf(w, `{"message": "refused: %s"}`, r.Header.Get("Authorization"))
			return true
		},
		WatchGitHub: h.github, WatchAgents: h.agents,
	})
	h.add("the webhook secret", hook)
	lines := strings.Split(s.App.PEM, "\n")
	h.add("a line of the App's key", lines[5])
	h.add("the App's client secret", s.App.ClientSecret)
	key, _ := os.ReadFile(filepath.Join(s.Dir, "data", "secret.key")) // made at the first start
	s.Serve(t)
	if len(key) == 0 {
		key, _ = os.ReadFile(filepath.Join(s.Dir, "data", "secret.key"))
	}
	h.add("the key of the database", strings.TrimSpace(string(key)))

	// Arguments of all processes of the stand, for as long as it runs.
	watch, stop := context.WithCancel(t.Context())
	argv := map[string]bool{}
	var watching sync.WaitGroup
	watching.Go(func() {
		for watch.Err() == nil {
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, name := range all {
				if text, err := os.ReadFile(name); err == nil {
					argv[string(text)] = true
				}
			}
			select {
			case <-watch.Done():
			case <-time.After(30 * time.Millisecond):
			}
		}
	})
	s.Inject(t, 3, 500*time.Millisecond)
	if _, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: Labels, Steps: []workflow.Step{
		{Name: "Print what it finds", Run: "env; cat .runner .credentials 2>/dev/null || true; exit 1"},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: []string{"windows"}}); err != nil {
		t.Fatal(err)
	}
	s.AwaitJobs(t, 4, time.Minute)
	s.Sim.Faults().ExpireTokens()
	s.Inject(t, 2, 100*time.Millisecond)
	truth := s.AwaitJobs(t, 6, time.Minute)
	s.knock(t, h)
	eventually(t, 30*time.Second, func() (bool, string) {
		return len(s.Machines(t)) == 0, fmt.Sprint(s.Machines(t))
	})
	stop()
	watching.Wait()

	kinds := map[string]int{}
	for _, what := range h.secrets {
		kinds[what]++
	}
	for _, want := range []string{"the webhook secret", "a line of the App's key", "a credential of GitHub's API", "a JIT configuration", "the key of a JIT configuration", "a token of an agent", "a session token", "the key of the database"} {
		if kinds[want] == 0 {
			t.Errorf("nothing was collected of: %s", want)
		}
	}
	t.Logf("collected: %v; %d command lines", kinds, len(argv))

	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	h.find(t, "the log", log)
	for line := range argv {
		h.find(t, "the arguments of a process", []byte(line))
	}
	for table, rows := range storetest.Dump(t, storetest.Raw(t, "sqlite:"+filepath.Join(s.Dir, "data", "muster.db"))) {
		for _, row := range rows {
			for column, v := range row {
				h.find(t, "column "+table+"."+column, fmt.Append(nil, v))
				if b, ok := v.([]byte); ok {
					h.find(t, "column "+table+"."+column, b)
				}
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(s.Dir, "data", "*"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil || filepath.Base(name) == "secret.key" {
			continue // a directory, or the place of the secret
		}
		seen++
		h.find(t, filepath.Base(name), text)
	}
	if seen < 2 {
		t.Errorf("only %d files of databases in %v", seen, files)
	}
	s.searchOutputs(t, h, truth)
}

// knock presents old and wrong tokens and demands that answers quote none.
func (s *Stand) knock(t *testing.T, h *hoard) {
	t.Helper()
	h.mu.Lock()
	tokens := append(slices.Collect(maps.Keys(h.secrets)), "a-token-that-never-was-one")
	h.mu.Unlock()
	for _, path := range []string{"/v1/agent/boot", "/v1/agent/report", "/github/webhook/main"} {
		for _, token := range tokens {
			if strings.ContainsAny(token, "\r\n") {
				continue
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader(`{"nonce": "1", "phase": "heartbeat"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("X-Hub-Signature-256", token)
			req.Header.Set("X-GitHub-Event", token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(resp.Body) // what was read of it is searched
			resp.Body.Close()
			if resp.StatusCode >= 500 {
				t.Errorf("%s: %s %s", path, resp.Status, answer)
			}
			h.find(t, "an answer to a stranger", answer)
		}
	}
}

// searchOutputs looks into everything that is shown.
func (s *Stand) searchOutputs(t *testing.T, h *hoard, truth githubsim.Truth) {
	t.Helper()
	runners := map[string]bool{}
	commands := []string{"status", "pool list", "pool show linux", "pool decisions linux", "runner list --all", "job list", "delivery list", "usage receipts", "usage waste", "usage summary", "installation list"}
	pages := []string{"/", "/jobs", "/runners", "/pools", "/pools/linux", "/deliveries", "/usage", "/findings", "/about", "/metrics"}
	for _, j := range truth.Jobs {
		commands = append(commands, fmt.Sprintf("job show %d", j.ID), fmt.Sprintf("job why %d", j.ID))
		pages = append(pages, fmt.Sprintf("/jobs/%d/%d", j.ID, j.Attempt))
		if j.Status == "completed" {
			commands = append(commands, fmt.Sprintf("job log %d", j.ID))
		}
		if j.Runner != "" {
			runners[j.Runner] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(runners)) {
		commands = append(commands, "runner show "+name, "runner log "+name)
	}
	out, _, _ := s.CLI(t, "delivery", "list", "--json")
	var list struct {
		Deliveries []struct{ GUID string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Deliveries) == 0 {
		t.Fatalf("deliveries: %v %s", err, out)
	}
	commands = append(commands, "delivery show "+list.Deliveries[0].GUID)
	pages = append(pages, "/deliveries/"+list.Deliveries[0].GUID)
	for _, c := range commands {
		out, errs, code := s.CLI(t, strings.Fields(c)...)
		if code != 0 {
			t.Errorf("muster %s: %s", c, errs)
		}
		h.find(t, "muster "+c, []byte(out+errs))
	}
	for _, p := range pages {
		status, body := get(t.Context(), s.URL+p)
		if status != http.StatusOK {
			t.Errorf("page %s: %d %s", p, status, body)
		}
		h.find(t, "page "+p, []byte(body))
	}
}
