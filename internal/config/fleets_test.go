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
