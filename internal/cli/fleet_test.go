package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/config"
)

// driver is what drives fleets, a control plane or a run, in canned answers.
type driver struct {
	musterv1connect.UnimplementedPoolServiceHandler
	pool     *v1.Pool
	runners  []*v1.Runner
	problems []string
	refuse   error
	asked    []string
	url      string
}

type driverRunners struct {
	musterv1connect.UnimplementedRunnerServiceHandler
	d *driver
}

type driverSystem struct {
	musterv1connect.UnimplementedSystemServiceHandler
	d *driver
}

func (d *driver) GetPool(_ context.Context, req *v1.GetPoolRequest) (*v1.GetPoolResponse, error) {
	if req.Name != d.pool.Name {
		return nil, notFound("pool", req.Name)
	}
	return &v1.GetPoolResponse{Pool: d.pool}, nil
}

func (d *driver) SetPool(_ context.Context, req *v1.SetPoolRequest) (*v1.SetPoolResponse, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	if req.Name != d.pool.Name {
		return nil, notFound("pool", req.Name)
	}
	text := "set " + req.Name
	for _, kv := range []struct {
		key   string
		value any
		set   bool
	}{{"enabled", req.GetEnabled(), req.Enabled != nil}, {"suspended", req.GetSuspended(), req.Suspended != nil}, {"min", req.GetMinRunners(), req.MinRunners != nil}, {"max", req.GetMaxRunners(), req.MaxRunners != nil}} {
		if kv.set {
			text += fmt.Sprintf(" %s=%v", kv.key, kv.value)
		}
	}
	d.asked = append(d.asked, text)
	return &v1.SetPoolResponse{Pool: d.pool}, nil
}

func (s driverRunners) ListRunners(_ context.Context, req *v1.ListRunnersRequest) (*v1.ListRunnersResponse, error) {
	resp := &v1.ListRunnersResponse{}
	for _, r := range s.d.runners {
		if len(req.States) == 0 && r.Status != "destroyed" || slices.Contains(req.States, r.Status) {
			resp.Runners = append(resp.Runners, r)
		}
	}
	return resp, nil
}

func (s driverSystem) GetOverview(context.Context, *v1.GetOverviewRequest) (*v1.GetOverviewResponse, error) {
	return &v1.GetOverviewResponse{Problems: s.d.problems}, nil
}

func newDriver(t *testing.T) *driver {
	d := &driver{pool: &v1.Pool{
		Name: "ci-workers", Scope: "myorg/myrepo", Labels: []string{"linux", "docker"}, Enabled: true,
		Scaling: &v1.Scaling{MaxRunners: 10, JobsPerRunner: 2, ScaleUpThreshold: 2, Cooldown: durationpb.New(5 * time.Minute)},
		Status: &v1.PoolStatus{JobsQueued: 2, JobsInProgress: 1, OldestQueuedAt: ago(20 * time.Minute), RunnersIdle: 1, RunnersBusy: 1,
			LastDecision: &v1.Decision{At: ago(90 * time.Second), LastAt: ago(30 * time.Second), Action: "maintain", CurrentRunnerCount: 2, TargetRunnerCount: 2, Rule: "formula", Reason: "2 pending jobs at 2 per runner"}},
	}, runners: []*v1.Runner{
		{Id: "r-busy", Status: "active", Busy: true, Job: &v1.JobRef{Id: 102, Attempt: 1}, CreatedAt: ago(30 * time.Minute)},
		{Id: "r-idle", Status: "registered", CreatedAt: ago(20 * time.Minute)},
	}}
	mux := http.NewServeMux()
	mux.Handle(musterv1connect.NewPoolServiceHandler(d))
	mux.Handle(musterv1connect.NewRunnerServiceHandler(driverRunners{d: d}))
	mux.Handle(musterv1connect.NewSystemServiceHandler(driverSystem{d: d}))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	d.url = srv.URL
	return d
}

// fleetG1 is the golden example G1, byte for byte.
const fleetG1 = `{
  "github_runner_fleets": {
    "ci-workers": {
      "repo_owner": "myorg",
      "repo_name": "myrepo",
      "labels": ["linux", "docker"],
      "min_runners": 0,
      "max_runners": 10,
      "enabled": true
    }
  }
}
`

// fleetTool runs commands of the group over one file.
type fleetTool struct {
	t    *testing.T
	file string
	vars map[string]string
}

func newFleetTool(t *testing.T, server string) fleetTool {
	return fleetTool{t, filepath.Join(t.TempDir(), "fleets.json"), map[string]string{"MUSTER_SERVER": server}}
}

func (f fleetTool) run(args ...string) result {
	return call{vars: f.vars}.run(f.t.Context(), append(append([]string{"github-runner"}, args...), "--file", f.file)...)
}

func (f fleetTool) is(want string) {
	f.t.Helper()
	if got, _ := os.ReadFile(f.file); string(got) != want {
		f.t.Errorf("the file is\n%swant\n%s", got, want)
	}
}

// S1-76: what the group and each command say of themselves.
func TestFleetHelp(t *testing.T) {
	for _, name := range []string{"", "enable", "disable", "status", "scale", "run"} {
		r := call{}.run(t.Context(), append([]string{"github-runner"}, append(strings.Fields(name), "--help")...)...)
		if r.code != 0 || r.errOut != "" {
			t.Errorf("%s: %d %s", name, r.code, r.errOut)
		}
		golden(t, strings.TrimSuffix("github-runner_help_"+name, "_")+".txt", r.out)
	}
}

// S1-77 S1-78 S1-79 S1-80 S1-81 S1-85 S1-86: enable writes G1 and tells who drives the fleet.
func TestFleetEnable(t *testing.T) {
	d := newDriver(t)
	f := newFleetTool(t, d.url)
	r := f.run("enable", "--repo", "myorg/myrepo", "--pool", "ci-workers", "--labels", " linux , docker ", "--min-runners", "0", "--max-runners", "10")
	if r.code != 0 || r.out != "fleet ci-workers is enabled in "+f.file+" and where it runs\n" {
		t.Fatalf("%d %s%s", r.code, r.out, r.errOut)
	}
	f.is(fleetG1)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--pool", "x", "--labels", "a"}, "--repo OWNER/NAME is needed"},                                    // S1-77
		{[]string{"--pool", "x", "--labels", "a", "--repo", "myorg"}, "is not a repository"},                         // S1-77
		{[]string{"--pool", "x", "--labels", "a", "--repo", "my/or/g"}, "is not a repository"},                       // S1-101
		{[]string{"--pool", "x", "--labels", "a", "--repo", "my/repo\n"}, "is not a repository"},                     // S1-101
		{[]string{"--pool", "x", "--labels", "a", "--repo", "../repo"}, "is not a repository"},                       // S1-20
		{[]string{"--repo", "a/b", "--labels", "a"}, `required flag(s) "pool" not set`},                              // S1-78
		{[]string{"--pool", "x!", "--repo", "a/b", "--labels", "a"}, "letters, digits"},                              // S1-102
		{[]string{"--pool", "x\n", "--repo", "a/b", "--labels", "a"}, "letters, digits"},                             // S1-102
		{[]string{"--pool", "x", "--repo", "a/b", "--labels", "$(id)"}, "has a character that is not allowed"},       // S1-103 S1-20
		{[]string{"--pool", "x", "--repo", "a/b", "--labels", "a,b\n"}, "there is a line end"},                       // S1-103
		{[]string{"--pool", "x", "--repo", "a/b", "--labels", "a", "--min-runners", "-1"}, "min_runners cannot be"},  // S1-80
		{[]string{"--pool", "x", "--repo", "a/b", "--labels", "a", "--min-runners", "11"}, "max_runners must be >="}, // S1-81
		{[]string{"--pool", "x", "--repo", "a/b", "--labels", "a", "--max-runners", "ten"}, "invalid argument"},
		{[]string{"--pool", "x", "--repo", "a/b"}, "no labels"},
	} {
		t.Run(strings.NewReplacer("/", "", "\n", "").Replace(strings.Join(tc.args, " ")), func(t *testing.T) {
			if r := f.run(append([]string{"enable"}, tc.args...)...); r.code != 2 || !strings.Contains(r.errOut, tc.want) {
				t.Errorf("%d %s", r.code, r.errOut)
			}
		})
	}
	f.is(fleetG1) // a refused command changes nothing

	// What is not given stays, and the defaults are those of a new fleet only.
	text := strings.Replace(fleetG1, `"max_runners": 10,`, `"max_runners": 3, "cooldown_seconds": 60,`, 1)
	if err := os.WriteFile(f.file, []byte(strings.Replace(text, "true", "false", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.run("enable", "--pool", "ci-workers", "--min-runners", "1"); r.code != 0 {
		t.Fatal(r.errOut)
	}
	f.is(strings.Replace(strings.Replace(fleetG1, `"max_runners": 10,`, "\"max_runners\": 3,\n      \"cooldown_seconds\": 60,", 1), `"min_runners": 0`, `"min_runners": 1`, 1))
	if d := cmp.Diff([]string{"set ci-workers enabled=true suspended=false min=0 max=10", "set ci-workers enabled=true suspended=false min=1 max=3"}, d.asked); d != "" {
		t.Error(d)
	}
	// A fleet that is not read yet, and nobody there: both are said, and both hold later.
	if r := f.run("enable", "--pool", "new", "--repo", "a/b", "--labels", "x"); r.code != 0 || !strings.Contains(r.out, "has not read it yet") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	f.vars["MUSTER_SERVER"] = "http://127.0.0.1:1"
	if r := f.run("enable", "--pool", "new"); r.code != 0 || !strings.Contains(r.out, "it holds when muster serve or muster github-runner run starts") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	// S1-19 S1-98: a token in the environment goes nowhere.
	f.vars["GITHUB_TOKEN"] = "ghp_plantedplantedplanted"
	f.run("enable", "--pool", "new")
	if text, _ := os.ReadFile(f.file); strings.Contains(string(text), "planted") {
		t.Error("the token is in the file")
	}
	// 4-55: what was refused is said, and the status is not 0.
	f.vars["MUSTER_SERVER"], d.refuse = d.url, connect.NewError(connect.CodePermissionDenied, errors.New("not yours"))
	if r := f.run("enable", "--pool", "ci-workers"); r.code != 1 || !strings.Contains(r.errOut, "refused: not yours") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
}

// S1-82: disable, and enable again; with --keep the runners stay.
func TestFleetDisable(t *testing.T) {
	d := newDriver(t)
	f := newFleetTool(t, d.url)
	if r := f.run("disable", "--pool", "nope"); r.code != 1 || !strings.Contains(r.errOut, "has no fleets: write one with") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if err := os.WriteFile(f.file, []byte(fleetG1), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.run("disable", "--pool", "nope"); r.code != 1 || !strings.Contains(r.errOut, `there is no fleet "nope"`) {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if r := f.run("disable", "--pool", "ci-workers"); r.code != 0 || !strings.Contains(r.out, "is disabled in") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	f.is(strings.Replace(fleetG1, "true", "false", 1))
	if r := f.run("disable", "--pool", "ci-workers", "--keep"); r.code != 0 || !strings.Contains(r.out, "is disabled, its runners kept, in") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	f.is(strings.Replace(fleetG1, `"enabled": true`, "\"enabled\": false,\n      \"keep_runners\": true", 1))
	if r := f.run("disable", "--pool", "ci-workers"); r.code != 0 {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	f.is(strings.Replace(fleetG1, "true", "false", 1))
	f.run("disable", "--pool", "ci-workers", "--keep")
	if r := f.run("enable", "--pool", "ci-workers"); r.code != 0 {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	f.is(fleetG1)
	const gone, kept = "set ci-workers enabled=false suspended=false", "set ci-workers enabled=true suspended=true"
	if d := cmp.Diff([]string{gone, kept, gone, kept, "set ci-workers enabled=true suspended=false min=0 max=10"}, d.asked); d != "" {
		t.Error(d)
	}
	// 4-55: nobody was told to drain, and it does not claim so.
	f.vars["MUSTER_SERVER"] = "http://127.0.0.1:1"
	if r := f.run("disable", "--pool", "ci-workers"); r.code != 1 || !strings.Contains(r.errOut, "were not told") {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	f.is(strings.Replace(fleetG1, "true", "false", 1))
}

// S1-83 4-55: status shows what is wished beside what is there, and fails when they differ.
func TestFleetStatus(t *testing.T) {
	d := newDriver(t)
	f := newFleetTool(t, d.url)
	if err := os.WriteFile(f.file, []byte(fleetG1), 0o600); err != nil {
		t.Fatal(err)
	}
	show := func(name string, code int) string {
		t.Helper()
		r := f.run("status", "--pool", "ci-workers")
		if r.code != code {
			t.Errorf("%s: %d %s", name, r.code, r.errOut)
		}
		golden(t, "github-runner_status"+name+".txt", strings.ReplaceAll(r.out+r.errOut, f.file, "fleets.json"))
		j := f.run("status", "--pool", "ci-workers", "--json")
		var out struct {
			OK    bool     `json:"ok"`
			Wrong []string `json:"wrong"`
			Last  *struct {
				Reason string `json:"reason"`
			} `json:"last_error"`
			Pool struct {
				Status struct {
					Queued int `json:"jobs_queued"`
				} `json:"status"`
			} `json:"pool"`
			Runners []map[string]any `json:"runners"`
		}
		if err := json.Unmarshal([]byte(j.out), &out); err != nil || j.code != code || out.OK != (code == 0) || len(out.Wrong) == 0 != out.OK || out.Pool.Status.Queued != 2 {
			t.Errorf("%s: %v %d\n%s", name, err, j.code, j.out)
		}
		return r.errOut
	}
	show("", 0)
	if text, _ := os.ReadFile(filepath.Join("testdata", "github-runner_status.txt")); !strings.Contains(string(text), "2 wanted, 2 there") {
		t.Errorf("%s", text)
	}

	// Scaled by hand is no mistake.
	d.pool.Scaling.MinRunners = 2
	show("_scaled", 0)
	d.pool.Scaling.MinRunners = 0

	// A part is there, and the last one failed; GitHub does not answer.
	d.pool.Status.LastDecision.TargetRunnerCount = 5
	d.runners = append(d.runners, &v1.Runner{Id: "r-late", Status: "destroyed", Failed: true, Reason: "agent did not connect within 10s", CreatedAt: timestamppb.New(now.Add(-time.Minute))})
	d.problems = []string{"pool ci-workers: read the queue of myorg/myrepo: rate limited"}
	d.pool.Status.LastDecision.Rule = "no_data"
	if text := show("_failing", 1); !strings.Contains(text, "2 of 5 runners are there, and the last that was made failed: agent did not connect within 10s") {
		t.Error(text)
	}
	d.runners, d.problems, d.pool.Status.LastDecision.Rule = d.runners[:2], nil, "formula"

	// It says disabled, and is not; other limits; another repository.
	d.pool.Suspended, d.pool.Scaling.MaxRunners, d.pool.Scope = true, 4, "myorg/other"
	text := show("_differs", 1)
	for _, want := range []string{"the file wishes it enabled, and it is disabled, runners kept", "the file allows 10 runners, and 4 are allowed", "they are for myorg/other"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nwant %s", text, want)
		}
	}
	// Nobody answers, or nobody knows it.
	d.pool.Name = "other"
	if r := f.run("status", "--pool", "ci-workers"); r.code != 1 || !strings.Contains(r.errOut, "has no pool ci-workers") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	f.vars["MUSTER_SERVER"] = "http://127.0.0.1:1"
	if r := f.run("status", "--pool", "ci-workers"); r.code != 1 || !strings.Contains(r.errOut, "no control plane answers") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	if r := f.run("status", "--pool", "nope"); r.code != 1 || !strings.Contains(r.errOut, `there is no fleet "nope"`) {
		t.Errorf("%d %s", r.code, r.errOut)
	}
}

// S1-84: scale clamps to the limits with a warning.
func TestFleetScale(t *testing.T) {
	d := newDriver(t)
	f := newFleetTool(t, d.url)
	if err := os.WriteFile(f.file, []byte(strings.Replace(fleetG1, `"min_runners": 0`, `"min_runners": 1`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ count, warning string }{
		{"5", ""}, {"50", "--count 50 is outside the limits of ci-workers, 1 to 10: scaling to 10"}, {"0", "scaling to 1"}, {"-3", "scaling to 1"},
	} {
		if r := f.run("scale", "--pool", "ci-workers", "--count", tc.count); r.code != 0 || !strings.Contains(r.errOut, tc.warning) || tc.warning == "" && r.errOut != "" {
			t.Errorf("%d %s", r.code, r.errOut)
		}
	}
	if d := cmp.Diff([]string{"set ci-workers min=5", "set ci-workers min=10", "set ci-workers min=1", "set ci-workers min=1"}, d.asked); d != "" {
		t.Error(d)
	}
	if r := f.run("scale", "--pool", "ci-workers"); r.code != 2 || !strings.Contains(r.errOut, `required flag(s) "count" not set`) {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	f.run("disable", "--pool", "ci-workers")
	if r := f.run("scale", "--pool", "ci-workers", "--count", "5"); r.code != 1 || !strings.Contains(r.errOut, "is disabled") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
	f.vars["MUSTER_SERVER"] = "http://127.0.0.1:1"
	f.run("enable", "--pool", "ci-workers")
	if r := f.run("scale", "--pool", "ci-workers", "--count", "5"); r.code != 1 || !strings.Contains(r.errOut, "no control plane answers") {
		t.Errorf("%d %s", r.code, r.errOut)
	}
}

// S1-97 S1-99 S1-107 S1-108: what run hands on, and what it refuses.
func TestFleetRun(t *testing.T) {
	dir := t.TempDir()
	section := filepath.Join(dir, "process.json")
	if err := os.WriteFile(section, []byte(`{"max": 3, "runner_dir": "/opt/a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var got config.FleetRun
	run := func(token string, args ...string) result {
		c := call{vars: map[string]string{"GITHUB_TOKEN": token, "MUSTER_TOKEN": "operator"}}
		c.programs.Serve = func(context.Context, config.Config) error { return errors.New("not expected") }
		c.programs.Fleet = func(_ context.Context, r config.FleetRun) error { got = r; return nil }
		return c.run(t.Context(), append([]string{"github-runner", "run"}, args...)...)
	}
	if r := run("ghp_0123456789", "--runner-dir", "/opt/b", "--provider-config", section, "--once", "--force", "--file", "f.json", "--url", "http://h:1", "--api-url", "https://ghe"); r.code != 0 {
		t.Fatal(r.errOut)
	}
	want := config.FleetRun{
		File: "f.json", DataDir: ".muster-fleet", Kind: "process", Provider: json.RawMessage(`{"max":3,"runner_dir":"/opt/b"}`), Token: "ghp_0123456789", OperatorToken: "operator",
		APIURL: "https://ghe", Listen: "127.0.0.1:8080", URL: "http://h:1", Interval: time.Minute, Once: true, Force: true,
	}
	if d := cmp.Diff(fmt.Sprintf("%#v", want), fmt.Sprintf("%#v", got)); d != "" || got.Token != want.Token {
		t.Error(d)
	}
	for _, tc := range []struct {
		token string
		args  []string
		code  int
		want  string
	}{
		{"", nil, 1, "the environment variable GITHUB_TOKEN is not set"},
		{"planted token", nil, 1, "the environment variable GITHUB_TOKEN does not hold a token"},
		{"ghp_0123456789", []string{"--interval", "0s"}, 2, "--interval must be positive"},
		{"ghp_0123456789", []string{"--listen", "8080"}, 2, "write HOST:PORT"},
		{"ghp_0123456789", []string{"--listen", "0.0.0.0:8080"}, 2, "say by --url"},
		{"ghp_0123456789", []string{"--provider", "qemu", "--runner-dir", "x"}, 2, "--runner-dir is for the provider process"},
		{"ghp_0123456789", []string{"--provider-config", filepath.Join(dir, "none")}, 2, "no such file"},
		{"ghp_0123456789", []string{"--provider-config", dir}, 2, "--provider-config"},
		{"ghp_0123456789", []string{"more"}, 2, "takes other arguments"},
	} {
		if r := run(tc.token, tc.args...); r.code != tc.code || !strings.Contains(r.errOut, tc.want) || strings.Contains(r.errOut, "planted") {
			t.Errorf("%q: %d %s", tc.args, r.code, r.errOut)
		}
	}
}
