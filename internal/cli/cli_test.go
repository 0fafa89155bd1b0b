package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/internal/cli"
	"github.com/muster-ci/muster/internal/config"
)

func TestMain(m *testing.M) {
	// Idle connections of the clients end with the test servers or on their own.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
}

// What every command prints for people and for programs.
func TestOutput(t *testing.T) {
	for _, args := range []string{
		"status", "pool list", "pool show linux", "pool decisions linux", "pool scale linux --min 1 --max 8", "pool disable linux", "pool enable linux", "pool suspend linux", "pool resume linux", "pool replay linux --at 11:58", "pool dry-run linux --set max_runners=20 --set job_wait=30s --last 24h",
		"pool show box", "machine list", "machine start build-box --zone us-central1-a", "machine start gpu-box", "machine stop gpu-box", "machine stop build-box --zone us-central1-a",
		"provider list", "provider check local",
		"runner list", "runner show r-busy", "runner show r-busy --check", "runner show linux-late", "runner show linux-late --check", "runner log r-busy", "runner drain r-busy --reason maintenance", "runner drain r-late",
		"job list", "job show 101/2", "job why 104", "job why 102", "job log 101",
		"delivery list", "delivery show guid-1", "delivery show guid-1 --body", "delivery redispatch guid-1",
		"usage summary", "usage receipts", "usage waste", "usage metrics", "usage latency --by workflow", "usage budgets", "budget", "sense report --since 7d", "run show 7", "installation list", "version",
	} {
		t.Run(args, func(t *testing.T) {
			name := strings.NewReplacer(" ", "_", "/", "", ":", "", "-", "", ".", "").Replace(args)
			p := newPlane(t)
			r := p.muster(t, strings.Fields(args)...)
			if r.code != 0 || r.errOut != "" {
				t.Fatalf("status %d: %s", r.code, r.errOut)
			}
			if strings.Contains(r.out, "\x1b") {
				t.Error("colours without a terminal")
			}
			golden(t, name+".txt", strings.ReplaceAll(r.out, p.url, "http://127.0.0.1:8080"))
			if strings.HasPrefix(args, "delivery show guid-1 --body") {
				return
			}
			r = newPlane(t).muster(t, append(strings.Fields(args), "--json")...)
			if r.code != 0 || !json.Valid([]byte(r.out)) && !strings.HasPrefix(args, "job log") {
				t.Fatalf("--json: status %d: %s%s", r.code, r.out, r.errOut)
			}
			golden(t, name+".json", r.out)
		})
	}
}

// A job may be named by the address of its page, or of its run's if there is one job.
func TestJobByAddress(t *testing.T) {
	p := newPlane(t)
	want := p.muster(t, "job", "why", "104").out
	for _, address := range []string{
		"https://github.com/octo/app/actions/runs/8/job/104", "https://github.com/octo/app/actions/runs/8/attempts/1/job/104#step:1:1", "https://github.com/octo/app/actions/runs/8",
		"https://ghe.example.com/octo/app/actions/runs/8/job/104?pr=3", "https://api.github.com/repos/octo/app/actions/jobs/104",
	} {
		if r := p.muster(t, "job", "why", address); r.code != 0 || r.out != want {
			t.Errorf("%s: %d %s%s", address, r.code, r.out, r.errOut)
		}
	}
}

// The address of a run asks about all of its jobs that wait.
func TestWhyOfARun(t *testing.T) {
	p := newPlane(t)
	other := proto.CloneOf(p.jobs[0])
	other.Id, other.Name, other.State = 103, "lint", "waiting"
	p.jobs = append(p.jobs[:1:1], append([]*v1.Job{other}, p.jobs[1:]...)...)
	other.RunId = 8
	r := p.muster(t, "job", "why", "https://github.com/octo/app/actions/runs/8")
	first, second := strings.Index(r.out, "job 103 (ci / lint of octo/app) is waiting"), strings.Index(r.out, "job 104 (ci / test of octo/app) is queued")
	if r.code != 0 || first < 0 || second < first {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "job", "why", "https://github.com/octo/app/actions/runs/7"); r.code != 0 || r.out != "none of the 2 jobs of run 7 waits; muster run show 7 shows them\n" {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "job", "why", "https://github.com/octo/app/actions/runs/9"); r.code != 1 || !strings.Contains(r.errOut, "there is no job of run 9 here") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
}

func TestInspectionMistakes(t *testing.T) {
	p := newPlane(t)
	for args, want := range map[string]string{
		"pool dry-run linux":                         "nothing to try; give --set KEY=VALUE",
		"pool dry-run linux --set max":               "max must be formatted as key=value",
		"pool replay linux --at yesterday":           `--at "yesterday" is not a time`,
		"sense report --grace 0s":                    "--grace must be positive",
		"run show seven":                             `"seven" is not a run; give its id or the address`,
		"run show https://github.com/octo":           "not a run",
		"job why https://github.com/octo/app/pull/1": "is not the address of a job or of a workflow run",
	} {
		if r := p.muster(t, strings.Fields(args)...); r.code != 2 || !strings.Contains(r.errOut, want) {
			t.Errorf("%s: status %d: %s%s", args, r.code, r.out, r.errOut)
		}
	}
}

func TestCommandsReachThePlane(t *testing.T) {
	p := newPlane(t)
	for _, args := range []string{"pool scale linux --max 8", "pool disable linux", "pool suspend linux", "machine start build-box --zone b --provider here", "machine stop gpu-box", "pool replay linux --at 11:58", "pool replay linux --json", "pool dry-run linux --set max=20 --last 7d", "sense report --grace 2m", "runner drain r-busy --reason x", "runner list --pool linux --state active,draining --all", "delivery redispatch guid-1", "usage summary --by day --since 7d", "job list --since 2026-11-19"} {
		if r := p.muster(t, strings.Fields(args)...); r.code != 0 {
			t.Fatalf("%s: %s", args, r.errOut)
		}
	}
	want := []string{"set linux max=8", "set linux enabled=false", "set linux suspended=true", `start build-box in "b" of "here"`, `stop gpu-box in "" of ""`, "replay linux at=2026-11-20T11:58:00Z snapshot=false", "replay linux at=1970-01-01T00:00:00Z snapshot=true", "dry-run linux set=map[max:20] since=2026-11-13T12:00:00Z", "senses since=2026-11-13 grace=2m0s", `drain r-busy "x"`, "runners pool=linux states=[active draining] all=true", "redispatch guid-1", "summary by=day since=2026-11-13", "jobs since 2026-11-19T00:00:00Z"}
	if d := cmp.Diff(want, p.asked); d != "" {
		t.Error(d)
	}
}

func TestColours(t *testing.T) {
	p := newPlane(t)
	for _, tc := range []struct {
		situation string
		terminal  bool
		vars      map[string]string
		want      bool
	}{
		{"Terminal", true, nil, true},
		{"Pipe", false, nil, false},
		{"NoColor", true, map[string]string{"NO_COLOR": "1"}, false},
		{"Dumb", true, map[string]string{"TERM": "dumb"}, false},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			vars := map[string]string{"MUSTER_SERVER": p.url}
			for k, v := range tc.vars {
				vars[k] = v
			}
			r := call{vars: vars, terminal: tc.terminal}.run(t.Context(), "runner", "list")
			if got := strings.Contains(r.out, "\x1b["); got != tc.want {
				t.Errorf("colours: %v\n%s", got, r.out)
			}
			if tc.want && !strings.Contains(r.out, "\x1b[32mactive\x1b[0m            ") {
				t.Errorf("columns are not aligned by what is seen: %q", r.out)
			}
			r = call{vars: vars, terminal: tc.terminal}.run(t.Context(), "runner", "list", "--json")
			if strings.Contains(r.out, "\x1b[") {
				t.Error("colours in JSON")
			}
		})
	}
}

// Each error is one line with a remedy; the status says whose fault it is.
func TestErrors(t *testing.T) {
	p := newPlane(t)
	dir := t.TempDir()
	page := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(page.Close)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // it complains of a client that does not trust it
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"nonsense", 2, `unknown command "nonsense" for "muster"`},
		{"poool list", 2, `did you mean "pool"?`},
		{"pool lits", 2, `unknown command "lits" for "muster pool"; did you mean "list"?`},
		{"pool show", 2, "usage: muster pool show POOL"},
		{"pool show a b", 2, "usage: muster pool show POOL"},
		{"pool list --colour", 2, "unknown flag: --colour; see muster pool list --help"},
		{"pool scale linux", 2, "nothing to change; give --min or --max"},
		{"pool show nope", 1, `there is no pool "nope"`},
		{"job why nope", 2, `"nope" is not a job; give its id or the address of its page on GitHub`},
		{"job why 1/x", 2, "write ID/ATTEMPT"},
		{"job why https://github.com/octo/app/pull/1", 2, "is not the address of a job or of a workflow run"},
		{"job show https://github.com/octo/app/actions/runs/7", 2, "run 7 has several jobs; name one of 102 (build), 101 (build)"},
		{"job why https://github.com/octo/app/actions/runs/9", 1, "there is no job of run 9 here"},
		{"job list --since yesterday", 2, "write 24h, 30d, 2006-01-02 or"},
		{"pool list --server " + closed.URL, 1, "no control plane answers at " + closed.URL + ": start it with muster serve, or name another with --server"},
		{"job watch --server " + closed.URL, 1, "no control plane answers at " + closed.URL},
		{"pool list --server " + page.URL, 1, "is not a control plane of this version"},
		{"pool list --server " + secure.URL, 1, "is not trusted by this machine"},
		{"pool list --server " + strings.Replace(page.URL, "http:", "https:", 1), 1, "does not speak TLS: write http:// in --server"},
		{"pool list --server localhost", 2, "write --server http://HOST:PORT"},
		{"pool list --server http://muster.invalid", 1, "muster.invalid"},
		{"pool list --token-file " + dir + "/none", 2, "no such file"},
		{"config check --config " + dir + "/none.yaml", 2, "there is no such file; write one with: muster init --output"},
		{"demo --runners 0", 2, "--runners must be at least 1"},
		{"demo --listen 0.0.0.0:1", 2, "name one address of this machine"},
		{"sim --management 0.0.0.0:1", 2, "stays on 127.0.0.1"},
		{"sim --fault nope=1", 2, "faults are drop_deliveries,"},
		{"sim --fault drop_deliveries", 2, "is not NAME=VALUE"},
	} {
		t.Run(strings.NewReplacer("/", "", ":", "").Replace(tc.args), func(t *testing.T) {
			r := p.muster(t, strings.Fields(tc.args)...)
			if r.code != tc.code || !strings.Contains(r.errOut, tc.want) || strings.Count(r.errOut, "\n") != 1 || r.out != "" {
				t.Errorf("status %d, want %d\nstderr: %s\nwant:   %s\nstdout: %s", r.code, tc.code, r.errOut, tc.want, r.out)
			}
		})
	}
	t.Run("Refused", func(t *testing.T) {
		p := newPlane(t)
		p.broken = connect.NewError(connect.CodeUnauthenticated, errors.New("no operator token: pass it with --token-file or MUSTER_TOKEN"))
		if r := p.muster(t, "pool", "list"); r.code != 1 || r.errOut != "muster: no operator token: pass it with --token-file or MUSTER_TOKEN\n" {
			t.Errorf("%d %s", r.code, r.errOut)
		}
	})
}

func TestToken(t *testing.T) {
	p := newPlane(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"MUSTER_SERVER": p.url, "MUSTER_TOKEN": "from-env"}
	call{vars: vars}.run(t.Context(), "pool", "list")
	call{vars: vars}.run(t.Context(), "pool", "list", "--token-file", file)
	call{vars: vars}.run(t.Context(), "job", "log", "101")
	if d := cmp.Diff([]string{"Bearer from-env", "Bearer from-file", "Bearer from-env"}, p.tokens); d != "" {
		t.Error(d)
	}
	// The token never crosses a network in clear unless that is asked for (S4-66).
	vars["MUSTER_SERVER"] = "http://muster.example.com"
	if r := (call{vars: vars}).run(t.Context(), "pool", "list"); r.code != 2 || !strings.Contains(r.errOut, "in clear") || strings.Contains(r.errOut, "from-env") { // S1-107
		t.Errorf("%d %s", r.code, r.errOut)
	}
}

func TestWatchOneJob(t *testing.T) {
	p := newPlane(t)
	p.changes = []*v1.WatchResponse{{Kind: "job", Id: "104"}, {Kind: "job", Id: "999"}, {Kind: "job", Id: "104"}, {Kind: "job", Id: "104"}}
	p.step = func(i int) {
		j := p.jobs[0]
		switch i {
		case 1:
			p.causes = p.causes[1:]
		case 3:
			p.jobs[0] = &v1.Job{Id: 104, Attempt: 1, Repository: j.Repository, Workflow: j.Workflow, Name: j.Name, State: "in_progress", Runner: "r-1", RunnerName: "linux-1"}
		case 4:
			p.jobs[0] = &v1.Job{Id: 104, Attempt: 1, Repository: j.Repository, Workflow: j.Workflow, Name: j.Name, State: "completed", Conclusion: "failure", Runner: "r-1", RunnerName: "linux-1", QueueTime: durationpb.New(time.Minute), RunTime: durationpb.New(time.Second)}
		}
	}
	r := p.muster(t, "job", "watch", "104", "--exit-status")
	if r.code != 1 || r.errOut != "" { // the job failed
		t.Errorf("status %d: %s", r.code, r.errOut)
	}
	// A change may be folded into a later one, but never its end.
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if last := lines[len(lines)-1]; last != "12:00:00  104  failure  ci / test of octo/app on r-1, waited 1m, ran 1s" {
		t.Errorf("%s", r.out)
	}
	if r := p.muster(t, "job", "watch", "104"); r.code != 0 { // completed already
		t.Errorf("status %d: %s", r.code, r.errOut)
	}
}

// linesTo calls done when want was written.
type linesTo struct {
	strings.Builder
	want string
	done func()
}

func (l *linesTo) Write(b []byte) (int, error) {
	n, err := l.Builder.Write(b)
	if strings.Contains(l.String(), l.want) {
		l.done()
	}
	return n, err
}

func TestWatchAllJobs(t *testing.T) {
	p := newPlane(t)
	p.changes = []*v1.WatchResponse{{Kind: "job", Id: "102"}, {Kind: "job", Id: "102"}, {Kind: "job", Id: "101/2"}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &linesTo{want: `"101"`, done: cancel}
	r := call{vars: map[string]string{"MUSTER_SERVER": p.url}, stdout: out}.run(ctx, "job", "watch", "--json")
	if r.code != 0 || r.errOut != "" { // an interrupt is the way to end it
		t.Errorf("status %d: %s", r.code, r.errOut)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !json.Valid([]byte(lines[0])) || !strings.Contains(lines[0], `"id":"102"`) {
		t.Errorf("%q", lines)
	}
}

func TestCompletion(t *testing.T) {
	p := newPlane(t)
	for _, tc := range []struct{ args, want string }{
		{"pool show ", "linux\tocto"},
		{"runner log ", "r-busy\tlinux active"},
		{"runner list --pool ", "linux\tocto"},
		{"job why ", "104\tqueued octo/app test"},
		{"trace query true --pool ", "linux\tocto"},
		{"trace list --state ", "recording"},
		{"trace findings 101 --severity ", "critical"},
		{"trace findings 101 --rule ", "action-changed\thigh\nai-assistant-in-install\tcritical"},
	} {
		r := p.muster(t, append([]string{"__complete"}, strings.Split(tc.args, " ")...)...)
		if r.code != 0 || !strings.HasPrefix(r.out, tc.want+"\n") {
			t.Errorf("%s: %d %q", tc.args, r.code, r.out)
		}
	}
	if r := p.muster(t, "completion", "bash"); r.code != 0 || !strings.Contains(r.out, "__start_muster") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
}

func TestInitCheckServe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "muster.yaml")
	var served config.Config
	c := call{vars: map[string]string{}, programs: cli.Programs{
		Serve: func(_ context.Context, cfg config.Config) error { served = cfg; return nil },
		Demo:  func(context.Context, cli.DemoOptions, io.Writer) error { return nil },
	}}
	r := c.run(t.Context(), "init", "--output", path)
	if r.code != 0 || !strings.Contains(r.out, "muster config check --config "+path) {
		t.Fatalf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := c.run(t.Context(), "init", "--output", path); r.code != 1 || !strings.Contains(r.errOut, "is left as it is; --force overwrites it") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := c.run(t.Context(), "init", "--force", "--output", path); r.code != 0 {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if got, _ := os.ReadFile(path); string(got) != config.Example {
		t.Error("init wrote something else than the example")
	}
	// Every problem is shown, and the status is 2.
	for _, args := range [][]string{{"config", "check", "--config", path}, {"serve", "--config", path}} {
		if r := c.run(t.Context(), args...); r.code != 2 || strings.Count(r.errOut, "there is no such file") != 2 {
			t.Errorf("%v: %d %s", args, r.code, r.errOut)
		}
	}
	// A token from the environment is enough for a single repository (C6).
	token := "apps: [{name: pat, token_env: GITHUB_TOKEN}]\nproviders: [{name: local, kind: process}]\npools: [{name: p, scope: octo/x, labels: [x]}]\n"
	if err := os.WriteFile(path, []byte(token), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := c.run(t.Context(), "serve", "--config", path); r.code != 2 || !strings.Contains(r.errOut, "the environment variable GITHUB_TOKEN is not set") { // S1-97
		t.Errorf("%d %s", r.code, r.errOut)
	}
	c.vars["GITHUB_TOKEN"], c.vars["MUSTER_CONFIG"] = "ghp_planted_token", path
	if r := c.run(t.Context(), "config", "check"); r.code != 0 || !strings.Contains(r.out, "is fine: 1 App, 1 provider, 0 offerings, 1 pool; listens on 127.0.0.1:8080") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	seen := c // what only the programs see is a mistake in the file too
	seen.programs.Check = func(config.Config) error { return errors.New("traces.rules: nowhere is no folder") }
	if r := seen.run(t.Context(), "config", "check"); r.code != 2 || r.errOut != "muster: "+path+": traces.rules: nowhere is no folder\n" {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if r := c.run(t.Context(), "serve"); r.code != 0 || served.Apps[0].Token.Reveal() != "ghp_planted_token" {
		t.Errorf("%d %s %+v", r.code, r.errOut, served)
	}
	if r := c.run(t.Context(), "demo"); r.code != 0 {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	failing := call{vars: c.vars, programs: cli.Programs{Serve: func(context.Context, config.Config) error {
		return errors.New("listen on 127.0.0.1:8080: address in use")
	}}}
	if r := failing.run(t.Context(), "serve"); r.code != 1 || r.errOut != "muster: listen on 127.0.0.1:8080: address in use\n" {
		t.Errorf("%d %q", r.code, r.errOut)
	}
}

// muster sim --demo writes a configuration that loads, of a GitHub that answers.
func TestSim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan result, 1)
	go func() {
		defer w.Close()
		ended <- call{stdout: w}.run(ctx, "sim", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--demo", "octo", "--dir", dir, "--webhook", "http://127.0.0.1:1/", "--fault", "drop_deliveries=0.5", "--fault", "slow_for=2s")
	}()
	var url, management, text string
	buf := make([]byte, 4096)
	for !strings.Contains(text, "/trigger") {
		n, err := r.Read(buf)
		text += string(buf[:n])
		if err != nil {
			t.Fatalf("it ended: %s %v", text, <-ended)
		}
	}
	go io.Copy(io.Discard, r) // until it ends
	if _, err := fmt.Sscanf(text, "simulated GitHub: %s\nmanagement:       %s\n", &url, &management); err != nil {
		t.Fatal(text, err)
	}
	cfg, err := config.Load(filepath.Join(dir, "muster.yaml"), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Apps[0].APIURL != url+"/api/v3" || cfg.Pools[0].Scope.String() != "octo" {
		t.Errorf("%+v", cfg)
	}
	resp, err := http.Get(management + "/faults")
	if err != nil {
		t.Fatal(err)
	}
	faults, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(faults), `"drop_deliveries":0.5`) || !strings.Contains(string(faults), `"slow_for":"2s"`) {
		t.Errorf("%s %v", faults, err)
	}
	resp, err = http.Post(management+"/trigger", "application/json", strings.NewReader(`{"repo": "octo/hello", "workflow": ".github/workflows/hello.yml", "event": "workflow_dispatch"}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("trigger: %d %s", resp.StatusCode, answer)
	}
	cancel()
	if r := <-ended; r.code != 0 || r.errOut != "" {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	// Its runner is started as the real one is, by which rules know it: under its name, with "run" first.
	listener := filepath.Join(dir, "Runner.Listener")
	if script, err := os.ReadFile(filepath.Join(dir, "actions-runner", "run.sh")); err != nil || !strings.Contains(string(script), "exec '"+listener+"' run ") {
		t.Errorf("%s %v", script, err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(listener); err != nil || to != program {
		t.Errorf("the listener is %s, %v", to, err)
	}
	if r := (call{program: listener}).run(t.Context(), "run", "--version"); r.code != 0 || r.out != runner.Version+"\n" {
		t.Errorf("the runner says of its version %+v", r)
	}
	// A configuration of somebody else's is left alone.
	if err := os.WriteFile(filepath.Join(dir, "muster.yaml"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := (call{}).run(t.Context(), "sim", "--listen", "127.0.0.1:0", "--management", "", "--demo", "octo", "--dir", dir); r.code != 1 || !strings.Contains(r.errOut, "is left as it is") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
}
