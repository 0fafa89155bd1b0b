package config_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

// g2 is the documented RUNNER_CONFIG.
const g2 = `[
  {"repo": "owner/repo-a", "labels": ["self-hosted"], "vm_instance_name": "github-runner-a", "vm_instance_zone": "asia-northeast1-a"},
  {"repo": "owner/repo-b", "labels": ["self-hosted", "gpu"], "vm_instance_name": "github-runner-b", "vm_instance_zone": "us-central1-a"},
  {"repo": "owner/repo-c", "labels": ["self-hosted"], "vm_instance_name": "github-runner-c", "vm_instance_zone": "europe-west1-a"}
]`

// managerEnv is a whole environment with some variables set otherwise; "" unsets.
func managerEnv(change ...string) func(string) string {
	vars := map[string]string{
		"GCP_PROJECT_ID": "my-project", "CLOUD_TASK_LOCATION": "asia-northeast1", "CLOUD_TASK_QUEUE_NAME": "runner-manager",
		"CLOUD_RUN_SERVICE_URL": "https://service-xxx.run.app/", "RUNNER_MANAGER_SECRET": "0123456789abcdef0123456789abcdef",
		"GITHUB_APP_ID": "123456", "GITHUB_APP_PRIVATE_KEY": key(), "GITHUB_APP_INSTALLATION_ID": "12345678", "RUNNER_CONFIG": g2,
	}
	for i := 0; i < len(change); i += 2 {
		vars[change[i]] = change[i+1]
	}
	return func(name string) string { return vars[name] }
}

// S3-9 S3-10 S3-44 S3-45 S3-46 S3-47 S3-48 S3-49 S3-50 S3-51 S3-52 S3-53 S3-54 S3-55 S3-56 S3-57 S3-62 C1 C5
func TestRunnerConfig(t *testing.T) {
	c, err := config.LoadRunnerConfig(managerEnv())
	if err != nil {
		t.Fatal(err)
	}
	m := c.RunnerManager
	if m.Project != "my-project" || m.TaskLocation != "asia-northeast1" || m.TaskQueue != "runner-manager" || m.InactiveMinutes != 3 || m.HideIndex {
		t.Errorf("%+v", m)
	}
	if m.ServiceURL != "https://service-xxx.run.app" || c.PublicURL != m.ServiceURL || c.Listen != ":8080" {
		t.Errorf("%s, %s, %s", m.ServiceURL, c.PublicURL, c.Listen)
	}
	if a := c.Apps[0]; len(c.Apps) != 1 || a.ID != 123456 || a.InstallationID != 12345678 || a.PrivateKey == "" || a.WebhookSecret != m.Secrets.Shared || a.APIURL != "https://api.github.com" {
		t.Errorf("%+v", c.Apps)
	}
	if p := c.Providers[0]; p.Kind != "gce" || p.Name != m.Provider {
		t.Errorf("%+v", p)
	} else if section, err := p.Config.JSON(); err != nil || string(section) != `{"project":"my-project"}` {
		t.Errorf("%s, %v", section, err)
	}
	if len(c.Pools) != 3 || len(m.Entries) != 3 {
		t.Fatalf("%d pools of %d entries", len(c.Pools), len(m.Entries))
	}
	for i, want := range []muster.Pool{
		{Name: "github-runner-a-owner-repo-a", Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "owner", Repo: "repo-a"}, Labels: muster.Labels{"self-hosted"}, Machine: "github-runner-a", Zone: "asia-northeast1-a"},
		{Name: "github-runner-b-owner-repo-b", Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "owner", Repo: "repo-b"}, Labels: muster.Labels{"self-hosted", "gpu"}, Machine: "github-runner-b", Zone: "us-central1-a"},
		{Name: "github-runner-c-owner-repo-c", Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "owner", Repo: "repo-c"}, Labels: muster.Labels{"self-hosted"}, Machine: "github-runner-c", Zone: "europe-west1-a"},
	} {
		want.App, want.Provider, want.Enabled, want.InactiveMinutes = "default", m.Provider, true, 3
		want.Lifecycle, want.Registration = muster.LifecycleKept, muster.RegistrationPreregistered
		if d := cmp.Diff(want.WithDefaults(), c.Pools[i]); d != "" {
			t.Error(d)
		}
		if err := c.Pools[i].Validate(); err != nil {
			t.Error(err)
		}
	}
	// S4-66: API and dashboard are never open.
	if c.OperatorToken == "" || strings.Contains(c.OperatorToken.Reveal(), m.Secrets.Shared.Reveal()) {
		t.Error("there is no operator token of its own")
	}
	if s := fmt.Sprintf("%+v %#v", c, m); strings.Contains(s, m.Secrets.Shared.Reveal()) || strings.Contains(s, "PRIVATE KEY") {
		t.Error("printing it shows a secret")
	}
}

func TestRunnerConfigSettings(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for name, x := range map[string]struct {
		env  []string
		good func(config.Config) bool
	}{
		"PKCS8":        {[]string{"GITHUB_APP_PRIVATE_KEY", pkcs8}, func(c config.Config) bool { return c.Apps[0].PrivateKey != "" }},                                                            // S3-51
		"LiteralLines": {[]string{"GITHUB_APP_PRIVATE_KEY", strings.ReplaceAll(key(), "\n", `\n`)}, func(c config.Config) bool { return strings.Contains(c.Apps[0].PrivateKey.Reveal(), "\n") }}, // S3-51
		"Minutes": {[]string{"VM_INACTIVE_MINUTES", "15"}, func(c config.Config) bool {
			return c.RunnerManager.InactiveMinutes == 15 && c.Pools[2].InactiveMinutes == 15
		}}, // S3-49 C1
		"Port":        {[]string{"PORT", "9090"}, func(c config.Config) bool { return c.Listen == ":9090" }},                         // S3-62
		"CloudRun":    {[]string{"K_SERVICE", "runner-manager"}, func(c config.Config) bool { return c.Log.Format == "cloud" }},      // S3-59
		"Local":       {nil, func(c config.Config) bool { return c.Log.Format == "text" }},                                           // S3-60
		"HiddenIndex": {[]string{"RUNNER_MANAGER_INDEX", "secret"}, func(c config.Config) bool { return c.RunnerManager.HideIndex }}, // 4-38
		"Separate": {[]string{"RUNNER_MANAGER_WEBHOOK_SECRET", "hook", "RUNNER_MANAGER_CONTROL_SECRET", "control"}, func(c config.Config) bool { // C13
			return c.Apps[0].WebhookSecret == "hook" && c.RunnerManager.Secrets.Control == "control"
		}},
		"Process": {[]string{"RUNNER_MANAGER_PROVIDER", "process", "RUNNER_MANAGER_PROVIDER_CONFIG", `{"machines_dir": "m"}`}, func(c config.Config) bool {
			section, err := c.Providers[0].Config.JSON()
			return err == nil && c.Providers[0].Kind == "process" && string(section) == `{"machines_dir":"m"}`
		}},
		"Extras": {[]string{"RUNNER_CONFIG", `[{"repo":"Acme/a","labels":["x"],"vm_instance_name":"vm","vm_instance_zone":"z","installation_id":9,"scope":"org","inactive_minutes":20,"allow_public":true},
			{"repo":"acme/b","labels":["x"],"vm_instance_name":"vm","vm_instance_zone":"z"},{"repo":"acme/b","labels":["y"],"vm_instance_name":"vm","vm_instance_zone":"z"}]`}, func(c config.Config) bool { // C5 S3-15
			p := c.Pools[0]
			return c.Apps[0].Installations["acme"] == 9 && p.Scope.Kind == muster.ScopeOrganization && p.Repositories[0] == "Acme/a" && p.InactiveMinutes == 20 && p.AllowPublic &&
				c.Pools[1].InactiveMinutes == 3 && p.MachineID() == c.Pools[1].MachineID() && c.Pools[1].Name != c.Pools[2].Name
		}},
	} {
		c, err := config.LoadRunnerConfig(managerEnv(x.env...))
		if err != nil || !x.good(c) {
			t.Errorf("%s: %v\n%+v", name, err, c.RunnerManager)
		}
	}
}

// S3-58 C30: everything that is missing is named at once, and only if the manager
// is asked for.
func TestRunnerConfigMissing(t *testing.T) {
	_, err := config.LoadRunnerConfig(managerEnv("CLOUD_TASK_LOCATION", "", "RUNNER_MANAGER_SECRET", " ", "GITHUB_APP_ID", ""))
	if want := "Missing required environment variables: CLOUD_TASK_LOCATION, RUNNER_MANAGER_SECRET, GITHUB_APP_ID"; err == nil || err.Error() != want || muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("%v, want %s", err, want)
	}
	all := "GCP_PROJECT_ID, CLOUD_TASK_LOCATION, CLOUD_TASK_QUEUE_NAME, CLOUD_RUN_SERVICE_URL, RUNNER_MANAGER_SECRET, GITHUB_APP_ID, GITHUB_APP_PRIVATE_KEY, GITHUB_APP_INSTALLATION_ID, RUNNER_CONFIG"
	if _, err := config.LoadRunnerConfig(env()); err == nil || err.Error() != "Missing required environment variables: "+all {
		t.Errorf("%v", err)
	}
	for name := range strings.SplitSeq(all, ", ") {
		if _, err := config.LoadRunnerConfig(managerEnv(name, "")); err == nil || err.Error() != "Missing required environment variables: "+name {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if config.RunnerConfigured(env("GCP_PROJECT_ID", "p")) || !config.RunnerConfigured(managerEnv()) || !config.RunnerConfigured(env("RUNNER_MANAGER_SECRET", "s")) {
		t.Error("it is asked for by RUNNER_CONFIG or RUNNER_MANAGER_SECRET, and by nothing else")
	}
}

func TestRunnerConfigProblems(t *testing.T) {
	entry := func(change string) string {
		fields := map[string]string{"repo": `"o/r"`, "labels": `["x"]`, "vm_instance_name": `"vm"`, "vm_instance_zone": `"z"`}
		name, value, _ := strings.Cut(change, "=")
		if fields[name] = value; value == "" {
			delete(fields, name)
		}
		var parts []string
		for _, n := range slices.Sorted(maps.Keys(fields)) {
			parts = append(parts, fmt.Sprintf("%q:%s", n, fields[n]))
		}
		return "[{" + strings.Join(parts, ",") + "}]"
	}
	for name, x := range map[string]struct{ variable, value, want string }{
		"Comma":        {"RUNNER_CONFIG", "[\n  {\"repo\": \"o/r\",}\n]", "Invalid RUNNER_CONFIG JSON: line 2 column 18: invalid character '}'"}, // S3-53
		"Broken":       {"RUNNER_CONFIG", "[{", "Invalid RUNNER_CONFIG JSON: line 1 column 2: unexpected end"},
		"NotAList":     {"RUNNER_CONFIG", `{"repo":"o/r"}`, "Invalid RUNNER_CONFIG JSON: line 1 column 1: a list of objects is wanted"},
		"ListOfTexts":  {"RUNNER_CONFIG", `["o/r"]`, "a list of objects is wanted, and this is a string"},
		"Trailing":     {"RUNNER_CONFIG", "[] []", "Invalid RUNNER_CONFIG JSON: line 1 column 3: something follows"},
		"Empty":        {"RUNNER_CONFIG", "[]", "it has no entry"},
		"NoRepo":       {"RUNNER_CONFIG", entry("repo="), "RUNNER_CONFIG[0]: repo is missing"},                         // S3-54
		"BadRepo":      {"RUNNER_CONFIG", entry(`repo="only"`), `RUNNER_CONFIG[0]: repo "only" is not owner/repo`},     // S3-54
		"HostileRepo":  {"RUNNER_CONFIG", entry(`repo="o/../x"`), `is not owner/repo`},                                 // 4-32
		"RepoNumber":   {"RUNNER_CONFIG", entry("repo=5"), "RUNNER_CONFIG[0]: repo must be a text"},                    // S3-54
		"NoLabels":     {"RUNNER_CONFIG", entry("labels="), "RUNNER_CONFIG[0]: labels is missing"},                     // S3-55
		"NullLabels":   {"RUNNER_CONFIG", entry("labels=null"), "RUNNER_CONFIG[0]: labels is missing"},                 // S3-55
		"LabelsText":   {"RUNNER_CONFIG", entry(`labels="x"`), "RUNNER_CONFIG[0]: labels must be a list of texts"},     // S3-55
		"EmptyLabel":   {"RUNNER_CONFIG", entry(`labels=[" "]`), "RUNNER_CONFIG[0]: labels has an empty text"},         // S3-55
		"NoName":       {"RUNNER_CONFIG", entry("vm_instance_name="), "RUNNER_CONFIG[0]: vm_instance_name is missing"}, // S3-56
		"BadName":      {"RUNNER_CONFIG", entry(`vm_instance_name="../vm"`), `vm_instance_name "../vm" must be`},       // S3-56
		"EmptyName":    {"RUNNER_CONFIG", entry(`vm_instance_name=""`), `vm_instance_name "" must be`},                 // S3-56
		"NoZone":       {"RUNNER_CONFIG", entry("vm_instance_zone="), "RUNNER_CONFIG[0]: vm_instance_zone is missing"}, // S3-57
		"EmptyZone":    {"RUNNER_CONFIG", entry(`vm_instance_zone=""`), "is not the name of a zone"},                   // S3-57
		"BadScope":     {"RUNNER_CONFIG", entry(`scope="galaxy"`), `scope "galaxy" is unknown`},
		"Minutes":      {"VM_INACTIVE_MINUTES", "three", `VM_INACTIVE_MINUTES "three" is not a whole number`}, // S3-49
		"NoMinutes":    {"VM_INACTIVE_MINUTES", "0", "VM_INACTIVE_MINUTES"},
		"HalfMinutes":  {"VM_INACTIVE_MINUTES", "2.5", "VM_INACTIVE_MINUTES"},
		"AppID":        {"GITHUB_APP_ID", "my-app", `GITHUB_APP_ID "my-app" is not a positive number`},
		"Installation": {"GITHUB_APP_INSTALLATION_ID", "-3", "GITHUB_APP_INSTALLATION_ID"},
		"Key":          {"GITHUB_APP_PRIVATE_KEY", "nonsense", "GITHUB_APP_PRIVATE_KEY is not an RSA key in PEM"},
		"URL":          {"CLOUD_RUN_SERVICE_URL", "service.run.app", "CLOUD_RUN_SERVICE_URL is not a web address"},
		"Port":         {"PORT", "http", "PORT"},
		"Index":        {"RUNNER_MANAGER_INDEX", "maybe", "use open or secret"},
		"Section":      {"RUNNER_MANAGER_PROVIDER_CONFIG", "{", "Invalid RUNNER_MANAGER_PROVIDER_CONFIG JSON"},
		"Database":     {"MUSTER_DATABASE", "mysql://x", "database is neither"},
	} {
		_, err := config.LoadRunnerConfig(managerEnv(x.variable, x.value))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", name, err, x.want)
		}
		if err != nil && strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
	// Several at once.
	_, err := config.LoadRunnerConfig(managerEnv("GCP_PROJECT_ID", "", "VM_INACTIVE_MINUTES", "x", "RUNNER_CONFIG", `[{"repo":"x"}]`))
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != 6 || !strings.HasPrefix(fmt.Sprint(err), "Missing required environment variables: GCP_PROJECT_ID\n") {
		t.Errorf("%d lines: %v", n, err)
	}
}

// S3-55 C13: what is allowed and probably not meant is said.
func TestRunnerConfigWarnings(t *testing.T) {
	for name, x := range map[string]struct {
		env  []string
		want string
	}{
		"EmptyLabels": {[]string{"RUNNER_CONFIG", `[{"repo":"o/r","labels":[],"vm_instance_name":"vm","vm_instance_zone":"z"}]`}, "RUNNER_CONFIG[0]: labels is empty"},
		//nolint:misspell // the typo that is told
		"Typo":   {[]string{"RUNNER_CONFIG", `[{"repo":"o/r","labels":["x"],"vm_instance_name":"vm","vm_instance_zone":"z","instalation_id":3}]`}, `did you mean "installation_id"?`},
		"Shared": {nil, "whoever can send webhooks can also stop machines"},
		"Short":  {[]string{"RUNNER_MANAGER_SECRET", "short"}, "can be guessed"},
		"HTTP":   {[]string{"CLOUD_RUN_SERVICE_URL", "http://example.com"}, "is not https"},
	} {
		c, err := config.LoadRunnerConfig(managerEnv(x.env...))
		if err != nil || !strings.Contains(strings.Join(c.RunnerManager.Warnings, "\n"), x.want) {
			t.Errorf("%s: %v, %+v", name, err, c.RunnerManager)
		}
	}
	c, err := config.LoadRunnerConfig(managerEnv("RUNNER_MANAGER_WEBHOOK_SECRET", strings.Repeat("w", 32), "RUNNER_MANAGER_CONTROL_SECRET", strings.Repeat("c", 32)))
	if err != nil || len(c.RunnerManager.Warnings) != 0 {
		t.Errorf("%v, %v", err, c.RunnerManager.Warnings)
	}
}

// S3-61: the example works once the key is filled in, in a shell as it says.
func TestExampleEnvironment(t *testing.T) {
	cmd := exec.Command("sh", "-c", `set -a && . ../../.env.example && exec env -0`)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{}
	for line := range strings.SplitSeq(string(out), "\x00") {
		name, value, _ := strings.Cut(line, "=")
		vars[name] = value
	}
	if _, err := config.LoadRunnerConfig(func(name string) string { return vars[name] }); err == nil || !strings.Contains(err.Error(), "GITHUB_APP_PRIVATE_KEY") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a key: %v", err)
	}
	vars["GITHUB_APP_PRIVATE_KEY"] = key()
	c, err := config.LoadRunnerConfig(func(name string) string { return vars[name] })
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Pools) != 3 || c.Listen != ":8080" || c.PublicURL != "http://localhost:8080" || c.RunnerManager.InactiveMinutes != 3 || c.Providers[0].Kind != "process" { // S3-62
		t.Errorf("%+v", c)
	}
}

// S3-63 S3-64 S3-65: the manual names every variable that is read, how to check the
// code, the image and what the queue is for.
func TestRunnerManagerManual(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	manual := read("docs/kept.md")
	asked := map[string]bool{}
	get := managerEnv("RUNNER_MANAGER_PROVIDER", "process")
	if _, err := config.LoadRunnerConfig(func(name string) string { asked[name] = true; return get(name) }); err != nil {
		t.Fatal(err)
	}
	for name := range asked {
		purpose := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(name, "_PREVIOUS"), "RUNNER_MANAGER"), "_SECRET")
		if !strings.Contains(manual, "`"+name+"`") && (!strings.HasSuffix(name, "_PREVIOUS") || !strings.Contains(manual, "_PREVIOUS")) && !strings.Contains(manual, "`…"+purpose+"_SECRET`") {
			t.Errorf("docs/kept.md does not name %s", name)
		}
	}
	for _, want := range []string{"make lint", "gofmt -w", "docker build -t muster .", "-p 8080:8080", "delayed-task queue"} {
		if !strings.Contains(strings.Join(strings.Fields(manual), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("docs/kept.md lacks %q", want)
		}
	}
	image := read("Dockerfile")
	for _, want := range []string{"./cmd/muster ./cmd/muster-agent", "EXPOSE 8080", `CMD ["serve"]`} {
		if !strings.Contains(image, want) {
			t.Errorf("the Dockerfile lacks %q", want)
		}
	}
}
