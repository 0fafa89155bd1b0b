package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

// g1 is the golden example G1, byte for byte.
const g1 = `{
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

// S1-85 S1-86: read that exact JSON, write it back unchanged.
func TestFleetsRoundTrip(t *testing.T) {
	path := write(t, t.TempDir(), "fleets.json", g1)
	f, err := config.ReadFleets(path)
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := f.Fleet("ci-workers")
	if want := (config.Fleet{RepoOwner: "myorg", RepoName: "myrepo", Labels: []string{"linux", "docker"}, MaxRunners: 10, Enabled: true}); err != nil || !ok || cmp.Diff(want, e) != "" {
		t.Errorf("%+v %v %v", e, ok, err)
	}
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != g1 {
		t.Errorf("written back:\n%s", got)
	}
	// Built from nothing, by the same keys, it is the same text.
	f, _ = config.ReadFleets(filepath.Join(t.TempDir(), "none.json"))
	for _, kv := range []struct {
		key   string
		value any
	}{{"repo_owner", "myorg"}, {"repo_name", "myrepo"}, {"labels", []string{"linux", "docker"}}, {"min_runners", 0}, {"max_runners", 10}, {"enabled", true}} {
		if err := f.Set("ci-workers", kv.key, kv.value); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(g1, string(f.Bytes())); d != "" {
		t.Error(d)
	}
}

// C31: unknown keys are preserved on write, at every level.
func TestFleetsKeepUnknownKeys(t *testing.T) {
	text := `{
  "other_tool": {"a": [1,
     2]},
  "github_runner_fleets": {
    "x": {
      "note": "keep < me >",
      "enabled": true
    }
  },
  "z": null
}
`
	f, err := config.ReadFleets(write(t, t.TempDir(), "f.json", text))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Set("x", "enabled", false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Replace(text, "true", "false", 1), string(f.Bytes())); d != "" {
		t.Error(d)
	}
}

func TestFleetsBecomePools(t *testing.T) {
	dir, path := dirWith(t, small+"fleets: {file: fleets.json}\n")
	write(t, dir, "fleets.json", g1)
	c, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pools[1]
	want := muster.DefaultScaling() // S1-37…S1-42: a fleet's defaults
	want.JobsPerRunner = 1          // C14: its runners take one job each
	if p.Name != "ci-workers" || p.Scope.String() != "myorg/myrepo" || p.Scaling != want || p.Provider != "local" || p.App != "main" || !p.Enabled {
		t.Errorf("%+v", p)
	}
	for _, tc := range []struct{ situation, from, to, want string }{
		{"BadName", "ci-workers", "ci workers", `"ci workers": the name may have`},
		{"BadRepository", "myrepo", "$(id)", "is not a repository"},
		{"NegativeMin", `"min_runners": 0`, `"min_runners": -1`, "min_runners cannot be negative"},     // S1-80
		{"MaxBelowMin", `"min_runners": 0`, `"min_runners": 11`, "max_runners must be >= min_runners"}, // S1-81
		{"NameOfAPool", "ci-workers", "linux", "has the name of a pool"},
		{"NotJSON", `"enabled": true`, `"enabled": tru`, "fleets.json:9: invalid character"},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			write(t, dir, "fleets.json", strings.Replace(g1, tc.from, tc.to, 1))
			_, err := config.Load(path, env())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %q", err, tc.want)
			}
		})
	}
}

// S1-85: a file that is not changed is written as it was read, however it is laid out; its mode and a
// symbolic link stay.
func TestFleetsWriteChangesNothingElse(t *testing.T) {
	dir := t.TempDir()
	text := "{ \"github_runner_fleets\": {\n\t\"x\": {\"repo_owner\":\"o\",\"enabled\":true} } }"
	real := write(t, dir, "real.json", text)
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "fleets.json")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	f, err := config.ReadFleets(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Unset("x", "nothing"); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(link); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(real); string(got) != text {
		t.Errorf("written back:\n%s", got)
	}
	if err := f.Set("x", config.KeepRunners, true); err != nil {
		t.Fatal(err)
	}
	if e, _, _ := f.Fleet("x"); !e.KeepRunners {
		t.Error("not kept")
	}
	if err := f.Unset("x", config.KeepRunners); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(link); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone", err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Error(info.Mode(), err)
	}
	if got, _ := os.ReadFile(real); strings.Contains(string(got), "keep_runners") {
		t.Errorf("%s", got)
	}
}

// A fleet that is disabled and keeps its runners is a pool that makes none.
func TestFleetKeepsRunners(t *testing.T) {
	for _, tc := range []struct{ enabled, keep, wantEnabled, wantSuspended bool }{
		{true, false, true, false}, {true, true, true, false}, {false, false, false, false}, {false, true, true, true},
	} {
		p := config.Fleet{RepoOwner: "o", RepoName: "r", Labels: []string{"x"}, MaxRunners: 1, Enabled: tc.enabled, KeepRunners: tc.keep}.Pool("p")
		if p.Enabled != tc.wantEnabled || p.Suspended != tc.wantSuspended {
			t.Errorf("%+v: enabled %t, suspended %t", tc, p.Enabled, p.Suspended)
		}
	}
}

// C14 C31: the ratio of a fleet is one runner per job unless its file says otherwise, or its runners
// take several.
func TestFleetRatio(t *testing.T) {
	for _, tc := range []struct {
		ratio, jobs *int
		want        int
	}{{nil, nil, 1}, {nil, new(1), 1}, {nil, new(3), 2}, {new(4), nil, 4}, {new(2), new(1), 2}} {
		if p := (config.Fleet{MaxRunners: 1, JobsPerRunner: tc.ratio, MaxJobCount: tc.jobs}).Pool("p"); p.Scaling.JobsPerRunner != tc.want {
			t.Errorf("%+v: %d", tc, p.Scaling.JobsPerRunner)
		}
	}
}

// What a run without a control plane reads: every problem at once.
func TestFleetPools(t *testing.T) {
	dir := t.TempDir()
	pools, err := config.FleetPools(write(t, dir, "fleets.json", g1), "process")
	if err != nil || len(pools) != 1 || pools[0].Provider != "process" || pools[0].Scaling.JobsPerRunner != 1 || pools[0].MaxJobCount != 1 {
		t.Errorf("%+v %v", pools, err)
	}
	bad := strings.Replace(strings.Replace(g1, `"min_runners": 0`, `"min_runners": -1, "max_job_count": 3`, 1), "myrepo", "my repo", 1)
	_, err = config.FleetPools(write(t, dir, "bad.json", bad), "process")
	for _, want := range []string{"min_runners cannot be negative", "max_job_count is 3", "is not a repository", "bad.json"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %q", err, want)
		}
	}
	if _, err := config.FleetPools(write(t, dir, "worse.json", "{"), "process"); err == nil {
		t.Error("half a file is read")
	}
	if pools, err := config.FleetPools(filepath.Join(dir, "none.json"), "process"); err != nil || len(pools) != 0 {
		t.Error(pools, err)
	}
}

// S1-18 S1-19 S1-97 S1-99: the token comes from GITHUB_TOKEN, and errors do not repeat it.
func TestGitHubToken(t *testing.T) {
	for value, want := range map[string]string{"": "GITHUB_TOKEN is not set", "planted token": "GITHUB_TOKEN does not hold a token", "planted\n": "does not hold a token"} {
		_, err := config.GitHubToken(func(string) string { return value })
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%q: %v", value, err)
		}
	}
	if token, err := config.GitHubToken(func(string) string { return "ghp_0123456789abcdef" }); err != nil || token.Reveal() != "ghp_0123456789abcdef" {
		t.Error(err)
	}
}
