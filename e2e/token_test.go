package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/store/storetest"
)

// C4 S1-9 S1-11 S1-12 S1-13 S1-66 S1-67 S1-68 S1-100 4-14: runners register themselves with a token and config.sh. All
// jobs run once, while the control plane is killed in between; nothing is left over;
// and the tokens are in no argument, log, output, database or file.
func TestRegistrationToken(t *testing.T) {
	t.Parallel()
	h := &hoard{secrets: map[string]string{}}
	var mu sync.Mutex
	tokens, jits := 0, 0
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 41}, MaxRunners: 4, Settings: "log: {level: debug}\n" + quick,
		Pool: "registration: token, no_job_timeout: 5s",
		WatchGitHub: func(x Exchange) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case strings.HasSuffix(x.Path, "/generate-jitconfig"):
				jits++
			case strings.HasSuffix(x.Path, "/registration-token"):
				var answer struct{ Token string }
				if err := json.Unmarshal(x.Answer, &answer); err == nil {
					h.add("a registration token", answer.Token)
				}
				tokens++
			}
		},
		WatchAgents: func(x Exchange) {
			var answer struct {
				JIT string `json:"jit_config"`
			}
			if json.Unmarshal(x.Answer, &answer) == nil && answer.JIT != "" {
				t.Error("an agent was given a JIT configuration")
			}
		},
	})
	argv := arguments(t)
	p := s.Serve(t)
	s.Inject(t, 6, 500*time.Millisecond)
	// While machines start, register and work.
	for k, completed := range []int{1, 3} {
		eventually(t, time.Minute, func() (bool, string) {
			n := s.Sim.Truth().ByState()["completed"]
			return n >= completed, fmt.Sprintf("%d completed", n)
		})
		p.Kill()
		p = s.Serve(t)
		s.Inject(t, 1, time.Duration(k)*time.Second)
	}
	s.AwaitJobs(t, 8, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
	for _, r := range receipts {
		if r.Runner == "" {
			t.Errorf("receipt without a runner: %v", r)
		}
	}
	if tokens == 0 || jits != 0 || len(h.secrets) == 0 {
		t.Errorf("%d tokens, %d of them different, %d JIT configurations", tokens, len(h.secrets), jits)
	}
	list, errs, code := s.CLI(t, "runner", "list", "--all", "--json")
	var runners struct{ Runners []struct{ ID string } }
	if err := json.Unmarshal([]byte(list), &runners); code != 0 || err != nil || len(runners.Runners) < 8 {
		t.Errorf("%d runners, %v: %s", len(runners.Runners), err, errs)
	}
	for _, r := range runners.Runners {
		show, _, _ := s.CLI(t, "runner", "show", r.ID)
		log, _, _ := s.CLI(t, "runner", "log", r.ID)
		h.find(t, "runner show", []byte(show))
		h.find(t, "runner log", []byte(log))
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
				if b, ok := v.([]byte); ok {
					h.find(t, "column "+table+"."+column, b)
				}
			}
		}
	}
	files, _ := filepath.Glob(filepath.Join(s.Dir, "data", "*"))
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil {
			h.find(t, filepath.Base(name), text)
		}
	}
}

// arguments watches the arguments of all processes until the function that it
// returns is called.
func arguments(t *testing.T) func() map[string]bool {
	seen, stop := map[string]bool{}, make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, name := range all {
				if text, err := os.ReadFile(name); err == nil {
					seen[string(text)] = true
				}
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	end := sync.OnceFunc(func() { close(stop); watching.Wait() })
	t.Cleanup(end)
	return func() map[string]bool { end(); return seen }
}

// S1-10 S1-12 S1-68: a machine without the runner program downloads it before it registers; one
// whose config.sh fails after it has registered leaves no ghost.
func TestRegistrationTokenFromNothing(t *testing.T) {
	t.Parallel()
	t.Run("Download", func(t *testing.T) {
		t.Parallel()
		program := filepath.Join(Programs(t), "actions-runner")
		s := stand(t, Options{
			Sim: githubsim.Config{Seed: 42, RunnerProgram: func() (string, error) { return program, nil }}, MaxRunners: 2,
			RunnerDir: `""`, Pool: "registration: token, no_job_timeout: 5s, connect_timeout: 30s",
		})
		s.Serve(t)
		s.Inject(t, 2, 100*time.Millisecond)
		s.AwaitJobs(t, 2, time.Minute)
		truth, receipts := s.calm(t, 30*time.Second)
		once(t, truth, receipts, "success")
	})
	t.Run("NoGhost", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "runner")
		if err := runner.WriteDir(dir, filepath.Join(Programs(t), "actions-runner")); err != nil {
			t.Fatal(err)
		}
		config := filepath.Join(dir, "config.sh")
		good, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		bad := strings.Replace(string(good), "exec ", "", 1) + "\nrm -f .runner\necho 'disk full' >&2\nexit 5\n"
		if err := os.WriteFile(config, []byte(bad), 0o755); err != nil {
			t.Fatal(err)
		}
		s := stand(t, Options{Sim: githubsim.Config{Seed: 43}, MaxRunners: 1, RunnerDir: dir, Pool: "registration: token, no_job_timeout: 5s"})
		s.Serve(t)
		id := s.Inject(t, 1, 100*time.Millisecond)[0]
		eventually(t, 30*time.Second, func() (bool, string) {
			why, _, _ := s.CLI(t, "job", "why", fmt.Sprint(id))
			return strings.Contains(why, "RunnerRegistrationError") && strings.Contains(why, "config.sh ended with code 5"), why
		})
		if n := s.Sim.Truth().Registered; n == 0 {
			t.Error("nothing was registered, so that nothing is proven")
		}
		if err := os.WriteFile(config, good, 0o755); err != nil {
			t.Fatal(err)
		}
		s.AwaitJobs(t, 1, time.Minute)
		truth, receipts := s.calm(t, 30*time.Second)
		once(t, truth, receipts, "success")
	})
}
