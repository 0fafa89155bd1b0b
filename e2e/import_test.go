package e2e

import (
	"bytes"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/muster-ci/muster/githubsim"
)

// What `muster import` prints passes `muster config check` once the files that it
// names are there, and holds no secret.
func TestImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(Programs(t), "muster"), args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PAT_TOKEN=some-token", "GITHUB_TOKEN=some-token")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("muster %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
		}
		return out.String()
	}
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	sim := githubsim.New(githubsim.Config{})
	if err := sim.CreateOrganization("acme"); err != nil {
		t.Fatal(err)
	}
	app, err := sim.CreateApp(githubsim.AppOptions{Name: "x", Owner: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"main", "main-2", "my-app", "pat"} {
		write(name+".pem", app.PEM, 0o600)
		write(name+"-webhook-secret", "a-secret-that-is-long-enough", 0o600)
	}
	check := func(name, text string) {
		t.Helper()
		if strings.Contains(text, "canary") {
			t.Errorf("%s: a secret is printed:\n%s", name, text)
		}
		write(name, text, 0o644)
		if out := run("config", "check", "--config", name); !strings.Contains(out, "is fine") {
			t.Errorf("%s: %s\n%s", name, out, text)
		}
	}

	t.Run("GARM", func(t *testing.T) {
		db, err := sql.Open("sqlite", filepath.Join(dir, "garm.db"))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{
			"CREATE TABLE github_endpoints (name text PRIMARY KEY, api_base_url text)",
			"CREATE TABLE github_credentials (id integer PRIMARY KEY, name text, auth_type text, payload blob, endpoint_name text)",
			"CREATE TABLE repositories (id text PRIMARY KEY, credentials_id integer, owner text, name text, webhook_secret blob)",
			"CREATE TABLE organizations (id text PRIMARY KEY, credentials_id integer, name text)",
			"CREATE TABLE tags (id text, name text)",
			"CREATE TABLE pool_tags (pool_id text, tag_id text)",
			"CREATE TABLE pools (id text PRIMARY KEY, provider_name text, max_runners integer, min_idle_runners integer, runner_bootstrap_timeout integer, image text, flavor text, os_type text, os_arch text, enabled numeric, extra_specs JSON, repo_id text, org_id text)",
			"CREATE TABLE scale_sets (id integer PRIMARY KEY, name text, provider_name text, max_runners integer, os_type text, os_arch text, enabled numeric, org_id text)",
			"INSERT INTO github_endpoints VALUES ('github.com', 'https://api.github.com')",
			"INSERT INTO github_credentials VALUES (1, 'my app', 'app', 'canary', 'github.com'), (2, 'pat', 'pat', 'canary', 'github.com')",
			"INSERT INTO repositories VALUES ('r', 2, 'acme', 'web', 'canary')",
			"INSERT INTO organizations VALUES ('o', 1, 'acme')",
			"INSERT INTO tags VALUES ('1', 'self-hosted'), ('2', 'gpu')",
			"INSERT INTO pool_tags VALUES ('p', '1'), ('p', '2')",
			"INSERT INTO pools VALUES ('p', 'cloud', 4, 1, 20, 'debian:12', 'm1.small', 'linux', 'amd64', 1, '{\"network\": \"x\"}', 'r', NULL)",
			"INSERT INTO scale_sets VALUES (1, 'big', 'cloud', 9, 'linux', 'amd64', 1, 'o')",
		} {
			if _, err := db.ExecContext(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		write("garm.toml", "[[provider]]\nname = \"cloud\"\n[provider.external]\nprovider_executable = \"garm-provider-cloud\"\nconfig_file = \"cloud.toml\"\ninterface_version = \"v0.1.1\"\nenvironment_variables = [\"OS_\"]\n", 0o600)
		write("garm-provider-cloud", "#!/bin/sh\nexit 1\n", 0o755)
		write("cloud.toml", "", 0o600)
		check("from-garm.yaml", run("import", "garm", "garm.db", "--config", "garm.toml"))
		check("from-garm-alone.yaml", run("import", "garm", "garm.db"))
	})
	t.Run("ARC", func(t *testing.T) {
		write("values.yaml", `
githubConfigUrl: https://github.com/acme
githubConfigSecret: {github_token: canary}
minRunners: 1
template: {spec: {nodeSelector: {pool: ci}, tolerations: [{key: ci, operator: Exists}], containers: [{name: runner, image: "ghcr.io/acme/runner:1", resources: {limits: {cpu: 2, memory: 4Gi}}}]}}
---
githubConfigUrl: https://github.com/acme/web
githubConfigSecret: {github_app_id: "12", github_app_private_key: canary}
runnerScaleSetName: web
maxRunners: 3
`, 0o600)
		check("from-arc.yaml", run("import", "arc", "values.yaml", "--release", "linux"))
		write("older.yaml", `
apiVersion: actions.summerwind.dev/v1alpha1
kind: RunnerDeployment
metadata: {name: older}
spec: {template: {spec: {organization: acme, labels: [gpu], image: acme/runner}}}
---
apiVersion: actions.summerwind.dev/v1alpha1
kind: HorizontalRunnerAutoscaler
metadata: {name: older}
spec: {scaleTargetRef: {name: older}, minReplicas: 1, maxReplicas: 5, scaleDownDelaySecondsAfterScaleOut: 300}
`, 0o600)
		check("from-older.yaml", run("import", "arc", "older.yaml"))
	})
}
