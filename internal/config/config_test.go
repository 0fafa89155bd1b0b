package config_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

var key = sync.OnceValue(func() string {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
})

// write makes a file in dir that only its owner may read.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// dirWith returns a directory with an App's key and webhook secret, and the
// configuration in it.
func dirWith(t *testing.T, yaml string) (dir, path string) {
	dir = t.TempDir()
	write(t, dir, "app.pem", key())
	write(t, dir, "hook", "planted-hook-secret\n")
	return dir, write(t, dir, "muster.yaml", yaml)
}

func env(vars ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1]
			}
		}
		return ""
	}
}

const small = `
apps:
  - {name: main, id: 1, private_key_file: app.pem, webhook_secret_file: hook}
providers:
  - {name: local, kind: process}
pools:
  - name: linux
    scope: octo
    labels: [muster]
`

func TestDefaults(t *testing.T) {
	dir, path := dirWith(t, small)
	c, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:8080" || c.PublicURL != "http://127.0.0.1:8080" {
		t.Errorf("listen %q, public %q", c.Listen, c.PublicURL)
	}
	if want := "sqlite:" + filepath.Join(dir, "muster-data", "muster.db"); c.Database.URL != want {
		t.Errorf("database %q, want %q", c.Database.URL, want)
	}
	if c.Engine.Namespace != "muster" || c.Log != (config.Log{Level: "info", Format: "text"}) || c.Times != config.DefaultTimes() {
		t.Errorf("defaults: %+v %+v %+v", c.Engine, c.Log, c.Times)
	}
	a := c.Apps[0]
	if a.APIURL != "https://api.github.com" || a.WebURL != "https://github.com" || a.WebhookSecret.Reveal() != "planted-hook-secret" || a.PrivateKey.Reveal() != strings.TrimSpace(key()) {
		t.Errorf("app %+v", a)
	}
	p := c.Pools[0]
	if p.App != "main" || p.Provider != "local" || !p.Enabled || p.Scaling != muster.OnDemandScaling() || p.MaxJobCount != 1 { // the only app, the only provider; S1-55
		t.Errorf("pool %+v", p)
	}
	// S1-107: printing a configuration shows no secret.
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "planted-hook-secret") || strings.Contains(text, "RSA PRIVATE KEY") {
		t.Error("printing the configuration reveals a secret")
	}
}

func TestEverySetting(t *testing.T) {
	dir, path := dirWith(t, `
name: blue
data_dir: /var/lib/muster
listen: 0.0.0.0:8443
public_url: https://muster.example.com/
tls: {cert_file: tls.crt, key_file: tls.key}
operator_token_file: operator
database: postgres://muster@db.example.com:5432/muster?sslmode=verify-full
secret_key_file: /etc/muster/secret.key
engine:
  address: temporal.example.com:7233
  namespace: ci
  tls: {ca_file: ca.crt, cert_file: tls.crt, key_file: tls.key, server_name: temporal}
  api_key_file: apikey
log: {level: debug, format: json}
telemetry: {otlp_endpoint: "http://127.0.0.1:4318"}
apps:
  - name: ghes
    client_id: Iv1.abc
    private_key_file: app.pem
    webhook_secret_file: hook
    webhook_secret_previous_file: hook-old
    mutations_per_minute: -1
    api_url: https://github.example.com/api/v3
  - name: pat
    token_env: GITHUB_TOKEN
providers:
  - name: slurm
    kind: slurm
    config:
      partition: ci
      nested: {list: [1, two], deadline: 90s}
offerings:
  - {name: small, cpus: 0.5, memory_mib: 2048, gpus: 1, image: "ghcr.io/x/y:1", spot: true, is_autoscale: true, price_usd_per_minute: 0.008}
  - {name: large, cpus: 16, price_micro_usd_per_minute: 64000}
price_book: {rounding: second}
pools:
  - name: one
    project: core
    app: ghes
    scope: octo/app
    labels: [linux, gpu]
    runner_labels: [linux, gpu, self-hosted]
    runner_group: 7
    provider: slurm
    offering: small
    lifecycle: kept
    registration: preregistered
    scaling: {mode: fleet, min_runners: 1, max_runners: 5, jobs_per_runner: 3, scale_up_threshold: 1, scale_down_threshold: 2, cooldown: 30s}
    repositories: [octo/app]
    allow_public: true
    report_checks: true
    max_job_count: 9
    no_job_timeout: 4m
    rotation_interval: 1d12h
    max_age: 2d
    connect_timeout: 20s
    provisioning: 3
    enabled: false
  - {name: two, app: pat, scope: enterprises/acme, labels: "a, b", provider: slurm, offering: large}
times: {poll: 30s, health: 1m, sweep: 3m, sweep_grace: 0s, redelivery_scan: 1m, heartbeat: 5s, agent_lost: 1m, delivery_retention: 7d, api_timeout: 10s}
`)
	for name, text := range map[string]string{"tls.crt": "cert", "tls.key": "key", "ca.crt": "ca", "operator": "op-token\n", "apikey": "engine-key", "hook-old": "old"} {
		write(t, dir, name, text)
	}
	c, err := config.Load(path, env("GITHUB_TOKEN", "ghp_0123456789", "MUSTER_DATABASE_PASSWORD", "p@ss/word"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Database.DSN().Reveal(), "postgres://muster:p%40ss%2Fword@db.example.com:5432/muster?sslmode=verify-full"; got != want {
		t.Errorf("DSN %q, want %q", got, want)
	}
	wantOfferings := []muster.Offering{
		{Name: "small", CPUs: .5, MemoryMiB: 2048, GPUs: 1, Image: "ghcr.io/x/y:1", Spot: true, Autoscale: true, PriceMicroUSD: 8000},
		{Name: "large", CPUs: 16, PriceMicroUSD: 64000},
	}
	if d := cmp.Diff(wantOfferings, c.Offerings); d != "" {
		t.Error(d)
	}
	wantPool := muster.Pool{
		Name: "one", Workspace: "default", Project: "core", App: "ghes", Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "octo", Repo: "app"},
		Labels: muster.Labels{"linux", "gpu"}, RunnerLabels: muster.Labels{"linux", "gpu", "self-hosted"}, RunnerGroup: 7, Provider: "slurm", Offering: "small",
		Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered,
		Scaling:      muster.Scaling{MinRunners: 1, MaxRunners: 5, JobsPerRunner: 3, ScaleUpThreshold: 1, ScaleDownThreshold: 2, Cooldown: 30 * time.Second},
		Repositories: []string{"octo/app"}, AllowPublic: true, MaxJobCount: 9, ReportChecks: true, NoJobTimeout: 4 * time.Minute,
		RotationInterval: 36 * time.Hour, MaxAge: 48 * time.Hour, ConnectTimeout: 20 * time.Second, Provisioning: 3,
	}
	if d := cmp.Diff(wantPool, c.Pools[0]); d != "" {
		t.Error(d)
	}
	if p := c.Pools[1]; p.Scope.String() != "enterprises/acme" || p.Labels.String() != "a,b" {
		t.Errorf("pool two %+v", p)
	}
	if a := c.Apps[0]; a.MutationsPerMinute != -1 || a.WebURL != "https://github.example.com" || a.ClientID != "Iv1.abc" || a.WebhookSecretPrevious.Reveal() != "old" {
		t.Errorf("app %+v", a)
	}
	if a := c.Apps[1]; a.Token.Reveal() != "ghp_0123456789" || a.PrivateKey != "" { // C6
		t.Errorf("app %+v", a)
	}
	if c.PublicURL != "https://muster.example.com" || c.OperatorToken.Reveal() != "op-token" || c.Engine.APIKey.Reveal() != "engine-key" || c.PriceBook.Rounding != time.Second {
		t.Errorf("%+v", c)
	}
	if want := (config.Times{Poll: 30 * time.Second, Health: time.Minute, Sweep: 3 * time.Minute, RedeliveryScan: time.Minute, Heartbeat: 5 * time.Second, AgentLost: time.Minute, DeliveryRetention: 7 * 24 * time.Hour, APITimeout: 10 * time.Second}); c.Times != want {
		t.Errorf("times %+v", c.Times)
	}
	section, err := c.Providers[0].Config.JSON()
	if got, want := string(section), `{"nested":{"deadline":"90s","list":[1,"two"]},"partition":"ci"}`; err != nil || got != want {
		t.Errorf("section %s, %v; want %s", got, err, want)
	}
	if e := c.Providers[0].Config.Problem("use another", "partition is unknown").Error(); !strings.HasSuffix(e, "muster.yaml:31: partition is unknown; use another") {
		t.Errorf("a section's problem is %q", e)
	}
}

// mistakes has one per line that a comment names.
const mistakes = `
listen: 0.0.0.0:8080          # 2 open without TLS; no token; others cannot call it
databse: sqlite:x.db          # 3 unknown key
log:
  level: loud                 # 5 unknown word
  format: 7                   # 6 wrong type
engine:
  ui_listen: 0.0.0.0:8233     # 8 not loopback
apps:
  - name: main
    id: twelve                # 11 wrong type
    private_key_file: gone.pem # 12 no such file
    webhook_secret_file: open # 13 readable by others
    api_url: http://ghe.example.com/api/v3 # 14 not https
  - name: main                # 15 duplicate; 15 two credentials is below
    token_env: NOT_SET_TOKEN  # 16 not set
    webhook_secret: hunter2   # 17 a secret in the file
providers:
  - name: local               # 19 no kind
offerings:
  - name: small
    price_usd_per_minute: lots # 22 not a number
    cpus: -1                  # 23 negative
  - name: small               # 24 duplicate
pools:
  - name: a b                 # 26 bad name
    scope: ../x               # 27 bad scope
    labels: ["$(id)"]         # 28 bad label
    provider: locl            # 29 dangling
    offering: smal            # 30 dangling
    app: other                # 31 dangling
    lifecycle: kepd           # 32 unknown word
    repositories: ["x"]       # 33 not owner/name
    scaling:
      mode: on_demand
      min_runners: 5
      max_runners: 2          # 37 less than min
      cooldown: 5             # 38 no unit
    no_job_timeout: soon      # 39 not a duration
    enabled: maybe            # 40 not a bool
    runner_labels: [linux]    # 41 lack the labels
    name: again               # 42 set twice
  - labels: []                # 43 no name, no scope, no labels, no app
times:
  agent_lost: 1s              # 45 less than two heartbeats
  sweep: 0s                   # 46 not positive
price_book:
  rounding: hour              # 48 unknown word
`

// S1-20 S1-97 S1-98 S1-101 S1-102 S1-103 S4-66: everything that is wrong is reported at once, each with line and remedy.
func TestEveryProblemAtOnce(t *testing.T) {
	dir, path := dirWith(t, mistakes)
	open := write(t, dir, "open", "hook")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(path, env())
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		t.Fatalf("error is %T: %v", err, err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, strings.ReplaceAll(strings.TrimPrefix(p.String(), dir+"/"), dir, "DIR"))
	}
	golden(t, "mistakes.golden", strings.Join(got, "\n")+"\n")
	for _, line := range []int{2, 3, 5, 6, 8, 11, 12, 13, 14, 15, 16, 17, 19, 22, 23, 24, 26, 27, 28, 29, 30, 31, 32, 33, 37, 38, 39, 40, 41, 42, 43, 45, 46, 48} {
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Line == line }) {
			t.Errorf("nothing is reported on line %d: %s", line, strings.Split(mistakes, "\n")[line-1])
		}
	}
	if !slices.IsSortedFunc(problems, func(a, b config.Problem) int { return a.Line - b.Line }) {
		t.Error("problems are not in the order of lines")
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("a problem repeats a secret")
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (UPDATE_GOLDEN=1 rewrites it):\n%s", path, d)
	}
}

// The file that `muster init` writes loads as soon as its files exist, and its
// commented lines are the defaults.
func TestExample(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "muster.yaml", config.Example)
	if _, err := config.Load(path, env()); err == nil || strings.Count(err.Error(), "there is no such file") != 2 {
		t.Errorf("without its files: %v", err)
	}
	write(t, dir, "muster-app.pem", key())
	write(t, dir, "webhook-secret", "s")
	c, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	text := config.Example
	for _, block := range []string{"name: muster", "data_dir: muster-data", "listen: 127.0.0.1:8080", "database: sqlite:muster-data/muster.db", "secret_key_file: muster-data/secret.key",
		"log:", "  level: info ", "  format: text ", "price_book:", "  currency: USD", "  rounding: minute ", "times:", "  poll: 60s", "  health: 120s", "  sweep: 120s", "  sweep_grace: 5m",
		"  redelivery_scan: 2m", "  heartbeat: 15s", "  agent_lost: 90s", "  delivery_retention: 30d", "  api_timeout: 30s"} {
		if !strings.Contains(text, "\n# "+block) {
			t.Fatalf("the example has no commented line %q", block)
		}
		text = strings.Replace(text, "\n# "+block, "\n"+block, 1)
	}
	for _, block := range []string{"runner_labels: [muster, self-hosted, Linux, X64]", "runner_group: 1", "lifecycle: ephemeral ", "report_checks: false", "no_job_timeout: 2m", "rotation_interval: 24h", "max_age: 5d1h", "provisioning: 10 ", "enabled: true"} {
		if !strings.Contains(text, "    # "+block) {
			t.Fatalf("the example has no commented line %q", block)
		}
		text = strings.Replace(text, "    # "+block, "    "+block, 1)
	}
	spelled, err := config.Load(write(t, dir, "muster.yaml", text), env())
	if err != nil {
		t.Fatal(err)
	}
	c.Providers, spelled.Providers = nil, nil // sections compare by their nodes
	if d := cmp.Diff(c, spelled); d != "" {
		t.Errorf("what the example's comments call defaults are not:\n%s", d)
	}
}

func TestAppFromEnvironment(t *testing.T) {
	text := "providers: [{name: local, kind: process}]\npools: [{name: p, scope: octo, labels: [x]}]\n"
	dir := t.TempDir()
	path := write(t, dir, "muster.yaml", text)
	c, err := config.Load(path, env("MUSTER_APP_ID", "42", "MUSTER_APP_PRIVATE_KEY", strings.ReplaceAll(key(), "\n", `\n`), "MUSTER_WEBHOOK_SECRET", "s"))
	if err != nil {
		t.Fatal(err)
	}
	if a := c.Apps[0]; a.Name != "default" || a.ID != 42 || strings.TrimSpace(a.PrivateKey.Reveal()) != strings.TrimSpace(key()) || a.WebhookSecret != "s" {
		t.Errorf("app %+v", a)
	}
	_, err = config.Load(path, env()) // S0-1
	if err == nil || !strings.Contains(err.Error(), "no GitHub App is configured; add one under apps:, or set MUSTER_APP_ID") {
		t.Errorf("without an App: %v", err)
	}
}

func TestTokenApp(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "muster.yaml", "apps: [{name: pat, token_env: GITHUB_TOKEN}]\nproviders: [{name: local, kind: process}]\npools: [{name: p, scope: octo/x, labels: [x]}]\n")
	for _, tc := range []struct{ situation, token, want string }{
		{"Unset", "", "muster.yaml:1: the environment variable GITHUB_TOKEN is not set; export GITHUB_TOKEN=… before starting"},                                          // S1-97
		{"TwoWords", "planted token", "muster.yaml:1: the environment variable GITHUB_TOKEN does not hold a token; copy the token again, without spaces and line ends"},  // S1-18 S1-99 S1-107
		{"LineEnd", "planted-token\n", "muster.yaml:1: the environment variable GITHUB_TOKEN does not hold a token; copy the token again, without spaces and line ends"}, // S1-18
		{"Good", "ghp_planted_token", ""},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			_, err := config.Load(path, env("GITHUB_TOKEN", tc.token))
			got := ""
			if err != nil {
				got = strings.TrimPrefix(err.Error(), dir+"/")
			}
			if got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestOneProblem(t *testing.T) {
	for _, tc := range []struct{ situation, yaml, want string }{
		{"NotInterpolated", strings.Replace(small, "scope: octo", "scope: ${ORG}", 1), `scope "${ORG}" is not an organization`},
		{"Syntax", "apps: [\n", "correct the YAML"},
		{"Anchors", strings.Replace(small, "labels: [muster]", "labels: &l [muster]", 1), "pools[0].labels uses a YAML anchor, alias or tag"},
		{"TwoDocuments", small + "---\n" + small, "keep one document per file"},
		{"NotASection", "- a\n", "the configuration is a list; write settings, one per line"},
		{"PasswordInDatabase", small + "database: postgres://u:hunter2@h/db\n", "database holds a password; take it out and set the environment variable MUSTER_DATABASE_PASSWORD"},
		{"OtherDatabase", small + "database: mysql://u@h/db\n", "database is neither an SQLite file nor a PostgreSQL address"},
		{"OpenWithoutTLS", small + "listen: 10.1.2.3:80\noperator_token_file: hook\n", "listen 10.1.2.3:80 is open to other machines without TLS"}, // S4-66
		{"OpenWithoutToken", small + "listen: 10.1.2.3:80\ninsecure_listen: true\n", "no operator token is asked for"},
		{"PlainPublicURL", small + "public_url: http://muster.example.com\noperator_token_file: hook\n", "public_url http://muster.example.com is not https"}, // S4-66
		{"PublicWithoutToken", small + "public_url: https://muster.example.com\n", "public_url https://muster.example.com is open to other machines and no operator token is asked for"},
		{"EngineKeyWithoutAddress", small + "engine: {api_key_file: hook}\n", "engine has credentials and no address"},
		{"BothCredentials", strings.Replace(small, "id: 1,", "id: 1, token_env: GITHUB_TOKEN,", 1), `app "main" has both a token and an App's key`}, // C6
		{"NoWebhookSecret", strings.Replace(small, ", webhook_secret_file: hook", "", 1), "or set poll_only: true to do without webhooks"},
		{"NotAKey", strings.Replace(small, "app.pem", "hook", 1), `the private key of app "main" is not an RSA key in PEM`},
		{"WhichApp", strings.Replace(small, "apps:\n", "apps:\n  - {name: two, id: 2, private_key_file: app.pem, webhook_secret_file: hook}\n", 1), "set app to one of two, main"},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			_, path := dirWith(t, tc.yaml)
			_, err := config.Load(path, env())
			if problems, _ := errors.AsType[config.Problems](err); len(problems) != 1 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant one problem with %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Error("the problem repeats a password") // S1-107
			}
		})
	}
}

func TestNoFile(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "x.yaml"), env())
	if err == nil || !strings.Contains(err.Error(), "there is no such file; write one with: muster init --output ") {
		t.Errorf("got %v", err)
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:1": true, "[::1]:80": true, "localhost:80": true, "::1": true,
		"0.0.0.0:80": false, ":80": false, "[::]:80": false, "example.com:80": false, "10.0.0.1:80": false, "": false,
	} {
		if got := config.Loopback(host); got != want {
			t.Errorf("Loopback(%q) = %v", host, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "0s": 0} {
		if got, err := config.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"d", "5", "-1d", "1d-2h", "99999999d", "1dd", "soon", ""} {
		if got, err := config.ParseDuration(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// FuzzLoad: no text makes Load panic, and every error is a list of problems.
func FuzzLoad(f *testing.F) {
	f.Add(small)
	f.Add(mistakes)
	f.Add(config.Example)
	f.Add("pools: [{labels: {a: b}}]\n? [x]\n: y")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "muster.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(path, env()); err != nil {
			if _, ok := errors.AsType[config.Problems](err); !ok {
				t.Errorf("error is %T", err)
			}
		}
	})
}
