package migrate_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	_ "modernc.org/sqlite"

	"github.com/muster-ci/muster/internal/migrate"
)

// Two versions of GARM's database, in what both have of tables and columns that
// matter here (GARM's own package is not to be had as a module, so that these are
// made from its schema). What is sealed in it is here in clear, as a canary.
var schemas = map[string][]string{
	"v0.1": {
		"CREATE TABLE github_endpoints (name varchar(64) PRIMARY KEY, created_at datetime, deleted_at datetime, description text, api_base_url text, base_url text, ca_cert_bundle longblob)",
		"CREATE TABLE repositories (id uuid PRIMARY KEY, deleted_at datetime, credentials_name text, credentials_id integer, owner text, name text, webhook_secret blob, pool_balancer_type varchar(64), endpoint_name varchar(64))",
		"CREATE TABLE organizations (id uuid PRIMARY KEY, deleted_at datetime, credentials_name text, credentials_id integer, name text, webhook_secret blob, pool_balancer_type varchar(64), endpoint_name varchar(64))",
		"CREATE TABLE pools (id uuid PRIMARY KEY, deleted_at datetime, provider_name text, runner_prefix text, max_runners integer, min_idle_runners integer, runner_bootstrap_timeout integer, image text, flavor text, os_type text, os_arch text, enabled numeric, extra_specs JSON, git_hub_runner_group text, repo_id uuid, org_id uuid, enterprise_id uuid, priority integer)",
	},
	"v0.2": {
		"CREATE TABLE github_endpoints (name varchar(64) PRIMARY KEY, created_at datetime, deleted_at datetime, endpoint_type text, description text, api_base_url text, base_url text, ca_cert_bundle longblob)",
		"CREATE TABLE repositories (id uuid PRIMARY KEY, deleted_at datetime, credentials_id integer, gitea_credentials_id integer, pool_manager_running numeric, owner text, name text, webhook_secret blob, pool_balancer_type varchar(64), agent_mode numeric, endpoint_name varchar(64))",
		"CREATE TABLE organizations (id uuid PRIMARY KEY, deleted_at datetime, credentials_id integer, gitea_credentials_id integer, name text, webhook_secret blob, pool_balancer_type varchar(64), agent_mode numeric, endpoint_name varchar(64))",
		"CREATE TABLE pools (id uuid PRIMARY KEY, deleted_at datetime, provider_name text, runner_prefix text, max_runners integer, min_idle_runners integer, runner_bootstrap_timeout integer, image text, flavor text, os_type text, os_arch text, enabled numeric, extra_specs JSON, git_hub_runner_group text, enable_shell numeric, generation integer, repo_id uuid, org_id uuid, enterprise_id uuid, template_id integer, priority integer)",
		"CREATE TABLE scale_sets (id integer PRIMARY KEY AUTOINCREMENT, deleted_at datetime, scale_set_id integer, name text, git_hub_runner_group text, provider_name text, runner_prefix text, max_runners integer, min_idle_runners integer, runner_bootstrap_timeout integer, image text, flavor text, os_type text, os_arch text, enabled numeric, extra_specs JSON, repo_id uuid, org_id uuid, enterprise_id uuid, template_id integer)",
		"INSERT INTO scale_sets (name, provider_name, max_runners, min_idle_runners, runner_bootstrap_timeout, image, flavor, os_type, os_arch, enabled, extra_specs, git_hub_runner_group, org_id) VALUES ('big-set', 'cloud', 7, 2, 25, 'debian:12', 'm1.large', 'linux', 'amd64', 1, 'null', 'big', 'o1')",
		"INSERT INTO repositories (id, gitea_credentials_id, owner, name) VALUES ('r3', 1, 'elsewhere', 'x')",
		"INSERT INTO pools (id, provider_name, max_runners, repo_id) VALUES ('p9', 'cloud', 3, 'r3')",
	},
}

var common = []string{
	"CREATE TABLE github_credentials (id integer PRIMARY KEY AUTOINCREMENT, deleted_at datetime, name varchar(64), user_id uuid, description text, auth_type text, payload longblob, endpoint_name varchar(64))",
	"CREATE TABLE enterprises (id uuid PRIMARY KEY, deleted_at datetime, credentials_id integer, name text, webhook_secret blob, pool_balancer_type varchar(64), endpoint_name varchar(64))",
	"CREATE TABLE tags (id uuid PRIMARY KEY, deleted_at datetime, name varchar(64))",
	"CREATE TABLE pool_tags (pool_id uuid, tag_id uuid, PRIMARY KEY (pool_id, tag_id))",
	"CREATE TABLE instances (id uuid PRIMARY KEY, deleted_at datetime, name text, jit_configuration longblob)",
	"CREATE TABLE controller_infos (id uuid PRIMARY KEY, deleted_at datetime, controller_id text, minimum_job_age_backoff integer)",
	"INSERT INTO github_endpoints (name, api_base_url) VALUES ('github.com', 'https://api.github.com'), ('ghes', 'https://ghes.example.com')",
	"INSERT INTO github_credentials (name, auth_type, payload, endpoint_name) VALUES ('my app', 'app', 'canary-payload', 'github.com'), ('pat', 'pat', 'canary-payload', 'GHES'), ('unused', 'app', 'canary-payload', 'github.com')",
	"INSERT INTO repositories (id, credentials_id, owner, name, webhook_secret, pool_balancer_type) VALUES ('r1', 1, 'acme', 'web', 'canary-hook', 'roundrobin')",
	"INSERT INTO repositories (id, credentials_id, owner, name, deleted_at) VALUES ('r2', 1, 'acme', 'old', '2025-01-01')",
	"INSERT INTO organizations (id, credentials_id, name) VALUES ('o1', 1, 'acme')",
	"INSERT INTO enterprises (id, credentials_id, name) VALUES ('e1', 2, 'big')",
	"INSERT INTO tags (id, name) VALUES ('t1', 'self-hosted'), ('t2', 'linux'), ('t3', 'x64'), ('t4', 'gpu'), ('t5', 'fast')",
	"INSERT INTO pool_tags VALUES ('p1', 't1'), ('p1', 't2'), ('p1', 't3'), ('p1', 't4'), ('p2', 't1'), ('p2', 't4'), ('p2', 't5'), ('p3', 't1'), ('p3', 't2')",
	`INSERT INTO pools (id, provider_name, runner_prefix, max_runners, min_idle_runners, runner_bootstrap_timeout, image, flavor, os_type, os_arch, enabled, extra_specs, git_hub_runner_group, repo_id, priority)
		VALUES ('p1', 'cloud', 'garm', 5, 1, 20, 'debian:12', 'm1.small', 'linux', 'amd64', 1, '{"network": "private", "n": 9007199254740993}', '', 'r1', 10)`,
	`INSERT INTO pools (id, provider_name, runner_prefix, max_runners, min_idle_runners, runner_bootstrap_timeout, image, flavor, os_type, os_arch, enabled, org_id)
		VALUES ('p2', 'cloud', 'ours', 3, 0, 30, 'debian:12', 'm1.small', 'linux', 'arm64', 0, 'o1')`,
	`INSERT INTO pools (id, provider_name, max_runners, min_idle_runners, image, flavor, os_type, os_arch, enabled, enterprise_id, extra_specs)
		VALUES ('p3', 'it''s "odd": #1' || char(10) || 'evil: true', 2, 9, 'x' || char(10) || 'y', 'z', 'windows', 'amd64', 1, 'e1', '{}')`,
	"INSERT INTO pools (id, provider_name, max_runners, repo_id) VALUES ('p4', 'cloud', 3, 'r2')",
	"INSERT INTO instances (id, name, jit_configuration) VALUES ('i1', 'garm-1', 'canary-jit')",
	"INSERT INTO controller_infos (id, controller_id, minimum_job_age_backoff) VALUES ('c1', 'uuid', 30)",
}

func database(t *testing.T, version string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "garm.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var tables, rows []string
	for _, s := range append(append([]string{}, schemas[version]...), common...) {
		if strings.HasPrefix(s, "CREATE") {
			tables = append(tables, s)
		} else {
			rows = append(rows, s)
		}
	}
	for _, s := range append(tables, rows...) {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return db
}

// config is what a test looks at in a configuration.
type config struct {
	Apps []struct {
		Name     string `yaml:"name"`
		TokenEnv string `yaml:"token_env"`
		APIURL   string `yaml:"api_url"`
	} `yaml:"apps"`
	Providers []struct {
		Name   string         `yaml:"name"`
		Kind   string         `yaml:"kind"`
		Config map[string]any `yaml:"config"`
	} `yaml:"providers"`
	Offerings []map[string]any `yaml:"offerings"`
	Pools     []struct {
		Name         string         `yaml:"name"`
		App          string         `yaml:"app"`
		Scope        string         `yaml:"scope"`
		Labels       []string       `yaml:"labels"`
		RunnerLabels []string       `yaml:"runner_labels"`
		ScaleSet     string         `yaml:"scale_set"`
		Provider     string         `yaml:"provider"`
		Offering     string         `yaml:"offering"`
		Enabled      *bool          `yaml:"enabled"`
		JobWait      string         `yaml:"job_wait"`
		Scaling      map[string]any `yaml:"scaling"`
	} `yaml:"pools"`
}

func parse(t *testing.T, text string) config {
	t.Helper()
	var c config
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

// 4-14 4-32: every pool is there with its scope, labels, limits and provider; nothing
// that was deleted or sealed is; and names from the database stay values.
func TestGARM(t *testing.T) {
	for version := range schemas {
		t.Run(version, func(t *testing.T) {
			g, err := migrate.ReadGARM(t.Context(), database(t, version))
			if err != nil {
				t.Fatal(err)
			}
			text := g.Configuration(nil)
			t.Log("\n" + text)
			if strings.Contains(text, "canary") {
				t.Error("a secret is printed")
			}
			c := parse(t, text)
			pools := map[string]int{}
			for i, p := range c.Pools {
				pools[p.Name] = i
			}
			web, ok := pools["web-m1-small"]
			if !ok {
				t.Fatalf("pools %v", pools)
			}
			p := c.Pools[web]
			if p.Scope != "acme/web" || strings.Join(p.Labels, " ") != "gpu" || strings.Join(p.RunnerLabels, " ") != "gpu linux self-hosted x64" ||
				p.Scaling["min_runners"] != uint64(1) || p.Scaling["max_runners"] != uint64(5) || p.JobWait != "30s" || p.App != "my-app" || p.Enabled != nil {
				t.Errorf("%+v", p)
			}
			org := c.Pools[pools["acme-m1-small"]]
			if org.Scope != "acme" || strings.Join(org.Labels, " ") != "self-hosted" || strings.Join(org.RunnerLabels, " ") != "fast gpu self-hosted" || org.Enabled == nil || *org.Enabled || org.Provider == p.Provider {
				t.Errorf("%+v", org)
			}
			big := c.Pools[pools["big-z"]]
			if big.Scope != "enterprises/big" || big.App != "pat" || big.Scaling["min_runners"] != uint64(2) {
				t.Errorf("%+v", big)
			}
			if _, ok := pools["big-set"]; ok != (version == "v0.2") {
				t.Errorf("the scale set: %v", pools)
			}
			if version == "v0.2" && (c.Pools[pools["big-set"]].ScaleSet != "big-set" || len(c.Pools[pools["big-set"]].Labels) != 0) {
				t.Errorf("%+v", c.Pools[pools["big-set"]])
			}
			if want := map[string]int{"v0.1": 3, "v0.2": 4}[version]; len(c.Pools) != want || len(c.Apps) != 2 {
				t.Errorf("%d pools, %d apps", len(c.Pools), len(c.Apps))
			}
			for _, a := range c.Apps {
				if a.Name == "pat" && (a.TokenEnv != "PAT_TOKEN" || a.APIURL != "https://ghes.example.com/api/v3") {
					t.Errorf("%+v", a)
				}
			}
			for _, p := range c.Providers {
				if p.Kind != "garm" || p.Config["evil"] != nil {
					t.Errorf("%+v", p)
				}
				if p.Name == c.Pools[web].Provider {
					specs, _ := p.Config["extra_specs"].(map[string]any)
					if specs["network"] != "private" || !strings.Contains(text, "9007199254740993") || p.Config["connect_timeout"] != "20m" {
						t.Errorf("%+v", p)
					}
				}
			}
		})
	}
}

func TestGARMRefuses(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "empty.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := migrate.ReadGARM(t.Context(), db); err == nil || !strings.Contains(err.Error(), "no database of GARM") {
		t.Error(err)
	}
}

func TestGARMProviders(t *testing.T) {
	got, err := migrate.GARMProviders(`
[default]
callback_url = "https://x" # a comment
[[provider]]
  name = "cloud"   # the "one"
  provider_type = "external"
  disable_jit_config = false
  [provider.external]
    interface_version = "v0.1.1"
    config_file = '/etc/garm/cloud.toml'
    provider_executable = "/opt/garm/garm-provider-\"cloud\"#1"
    environment_variables = [
      "OS_",  # of OpenStack
      "AWS_",
    ]
[database]
  passphrase = "canary"
[[provider]]
  name = "second"
  [provider.external]
    provider_dir = "/opt/second/"
    config_file = "/etc/second"
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "cloud" || got[0].InterfaceVersion != "v0.1.1" || got[0].ConfigFile != "/etc/garm/cloud.toml" ||
		got[0].Executable != `/opt/garm/garm-provider-"cloud"#1` || strings.Join(got[0].Environment, " ") != "OS_ AWS_" || got[1].Executable != "/opt/second/garm-external-provider" {
		t.Errorf("%+v", got)
	}
	if _, err := migrate.GARMProviders("[[provider]]\nname = 7\n"); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Error(err)
	}
}
