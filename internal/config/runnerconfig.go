package config

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/parser"

	"github.com/muster-ci/muster"
)

// RunnerManager is what the environment of the runner manager (RUNNER_CONFIG) says
// beyond the rest of a Config: the words that its endpoints show, its secrets, and
// the queue that may wake it.
type RunnerManager struct {
	// Project, TaskLocation and TaskQueue name the queue of delayed tasks.
	Project      string
	TaskLocation string
	TaskQueue    string
	// ServiceURL is the manager's public address, without a slash at the end.
	ServiceURL string
	// Provider is the name of the one provider, which has all machines.
	Provider        string
	InactiveMinutes int
	Secrets         RunnerSecrets
	// Entries are in the order in which they match (S3-13).
	Entries []RunnerEntry
	// HideIndex shows the entries on GET / only to those with the secret (4-38).
	HideIndex bool
	// Warnings are for the log at start: what is allowed and probably not meant.
	Warnings []string
}

// RunnerSecrets are the shared secret and those that may stand in for it, each
// with the one that it replaces while it is rotated (C13, 4-34).
type RunnerSecrets struct {
	Shared          muster.Secret
	SharedPrevious  muster.Secret
	Webhook         muster.Secret
	WebhookPrevious muster.Secret
	Control         muster.Secret
	ControlPrevious muster.Secret
	Task            muster.Secret
	TaskPrevious    muster.Secret
}

// RunnerEntry is one entry of RUNNER_CONFIG. The first four are required.
type RunnerEntry struct {
	Repo   string   `json:"repo"`
	Labels []string `json:"labels"`
	Name   string   `json:"vm_instance_name"`
	Zone   string   `json:"vm_instance_zone"`

	// InstallationID is used for the repository's owner where GitHub finds no
	// installation of the App; 0 is GITHUB_APP_INSTALLATION_ID (C5).
	InstallationID int64 `json:"installation_id"`
	// Scope is "repo", where the runner is registered, or "org".
	Scope string `json:"scope"`
	// InactiveMinutes overrides VM_INACTIVE_MINUTES; 0 does not (C1).
	InactiveMinutes int `json:"inactive_minutes"`
	// AllowPublic lets a public repository use the machine (4-31).
	AllowPublic bool `json:"allow_public"`
}

// required are the variables without which the manager does not start, in the order
// in which they are documented (S3-44…S3-53).
var required = []string{
	"GCP_PROJECT_ID", "CLOUD_TASK_LOCATION", "CLOUD_TASK_QUEUE_NAME", "CLOUD_RUN_SERVICE_URL", "RUNNER_MANAGER_SECRET",
	"GITHUB_APP_ID", "GITHUB_APP_PRIVATE_KEY", "GITHUB_APP_INSTALLATION_ID", "RUNNER_CONFIG",
}

const (
	defaultInactiveMinutes = 3        // C1
	maxInactiveMinutes     = 7 * 1440 // a week: what is meant for longer is not inactivity
)

// RunnerConfigured reports whether the environment asks for the runner manager:
// RUNNER_CONFIG is there, or RUNNER_MANAGER_SECRET, which nothing else uses. Its
// other variables are then required too, and in no other case (C30).
func RunnerConfigured(getenv func(string) string) bool {
	return getenv("RUNNER_CONFIG") != "" || getenv("RUNNER_MANAGER_SECRET") != ""
}

// LoadRunnerConfig makes a whole Config of the environment of the runner manager:
// one App, one provider, and a kept pool per entry of RUNNER_CONFIG. The error is of
// CodeInvalid and names everything that is wrong, the missing variables first and
// all at once (S3-58).
func LoadRunnerConfig(getenv func(string) string) (Config, error) {
	env := environment{getenv: func(name string) string { return strings.TrimSpace(getenv(name)) }}
	c := env.load()
	if len(env.problems) > 0 {
		return Config{}, &muster.Error{Code: muster.CodeInvalid, Message: strings.Join(env.problems, "\n")}
	}
	return c, nil
}

// environment reads variables and collects what is wrong with them.
type environment struct {
	getenv   func(string) string
	problems []string
	warnings []string
}

func (e *environment) bad(format string, args ...any) {
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
}

func (e *environment) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

func (e *environment) load() Config {
	var missing []string
	for _, name := range required {
		if e.getenv(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		e.bad("Missing required environment variables: %s", strings.Join(missing, ", "))
	}
	m := &RunnerManager{
		Project: e.getenv("GCP_PROJECT_ID"), TaskLocation: e.getenv("CLOUD_TASK_LOCATION"), TaskQueue: e.getenv("CLOUD_TASK_QUEUE_NAME"),
		ServiceURL: strings.TrimRight(e.getenv("CLOUD_RUN_SERVICE_URL"), "/"), Provider: "machines",
		InactiveMinutes: e.number("VM_INACTIVE_MINUTES", defaultInactiveMinutes, maxInactiveMinutes),
		Secrets:         e.secrets(),
	}
	switch v := e.getenv("RUNNER_MANAGER_INDEX"); v {
	case "", "open":
	case "secret":
		m.HideIndex = true
	default:
		e.bad("RUNNER_MANAGER_INDEX %q is unknown: use open or secret", v)
	}
	m.Entries = e.entries()
	c := e.rest(m)
	c.Apps = []App{e.app(m)}
	c.Providers = []Provider{e.provider(m)}
	c.Pools = e.pools(m)
	m.Warnings = e.warnings
	c.RunnerManager = m
	return c
}

// number reads a whole number from 1 to most; 0 where it cannot be read.
func (e *environment) number(name string, otherwise, most int64) int {
	text := e.getenv(name)
	if text == "" {
		return int(otherwise)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > most {
		e.bad("%s %q is not a whole number from 1 to %d", name, text, most)
		return 0
	}
	return int(n)
}

func (e *environment) secrets() RunnerSecrets {
	get := func(name string) muster.Secret { return muster.Secret(e.getenv(name)) }
	s := RunnerSecrets{
		Shared: get("RUNNER_MANAGER_SECRET"), SharedPrevious: get("RUNNER_MANAGER_SECRET_PREVIOUS"),
		Webhook: get("RUNNER_MANAGER_WEBHOOK_SECRET"), WebhookPrevious: get("RUNNER_MANAGER_WEBHOOK_SECRET_PREVIOUS"),
		Control: get("RUNNER_MANAGER_CONTROL_SECRET"), ControlPrevious: get("RUNNER_MANAGER_CONTROL_SECRET_PREVIOUS"),
		Task: get("RUNNER_MANAGER_TASK_SECRET"), TaskPrevious: get("RUNNER_MANAGER_TASK_SECRET_PREVIOUS"),
	}
	for _, one := range []muster.Secret{s.Shared, s.Webhook, s.Control, s.Task} {
		if n := len(one); n > 0 && n < 16 {
			e.warn("a secret of the runner manager has %d characters, which can be guessed: use 32 random ones", n)
			break
		}
	}
	if s.Shared != "" && s.Webhook == "" && s.Control == "" {
		e.warn("whoever can send webhooks can also stop machines, because RUNNER_MANAGER_SECRET is for both: set RUNNER_MANAGER_WEBHOOK_SECRET and RUNNER_MANAGER_CONTROL_SECRET to part them")
	}
	return s
}

// entries reads RUNNER_CONFIG.
func (e *environment) entries() []RunnerEntry {
	text := e.getenv("RUNNER_CONFIG")
	if text == "" {
		return nil // reported as missing
	}
	var raw []map[string]json.RawMessage
	if at, err := decodeJSON(text, &raw); err != nil {
		e.bad("Invalid RUNNER_CONFIG JSON: %s: %s", position(text, at), err)
		return nil
	}
	if len(raw) == 0 {
		e.bad("Invalid RUNNER_CONFIG: it has no entry: add one with repo, labels, vm_instance_name and vm_instance_zone")
	}
	var out []RunnerEntry
	for i, fields := range raw {
		out = append(out, e.entry(fmt.Sprintf("RUNNER_CONFIG[%d]", i), fields))
	}
	return out
}

var machineName = regexp.MustCompile(`\A[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\z`)

// entry reads one entry; at names it in problems.
func (e *environment) entry(at string, fields map[string]json.RawMessage) RunnerEntry {
	var x RunnerEntry
	into := map[string]any{
		"repo": &x.Repo, "labels": &x.Labels, "vm_instance_name": &x.Name, "vm_instance_zone": &x.Zone,
		"installation_id": &x.InstallationID, "scope": &x.Scope, "inactive_minutes": &x.InactiveMinutes, "allow_public": &x.AllowPublic,
	}
	known := []string{"repo", "labels", "vm_instance_name", "vm_instance_zone", "installation_id", "scope", "inactive_minutes", "allow_public"}
	wants := map[string]string{"labels": "a list of texts", "installation_id": "a number", "inactive_minutes": "a number", "allow_public": "true or false"}
	sound := map[string]bool{}
	for i, name := range known {
		value, there := fields[name]
		switch {
		case !there || string(value) == "null":
			if i < 4 {
				e.bad("%s: %s is missing", at, name)
			}
		case json.Unmarshal(value, into[name]) != nil:
			e.bad("%s: %s must be %s", at, name, or(wants[name], "a text"))
		default:
			sound[name] = true
		}
	}
	var others []string
	for name := range fields {
		if into[name] == nil {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	for _, name := range others {
		hint := ""
		if n := nearest(name, known); n != "" {
			hint = fmt.Sprintf("; did you mean %q?", n)
		}
		e.warn("%s: %q is not a key that is known, and has no effect%s", at, name, hint)
	}
	if sc, err := muster.ParseScope(x.Repo); sound["repo"] && (err != nil || sc.Kind != muster.ScopeRepository) {
		e.bad("%s: repo %q is not owner/repo", at, x.Repo)
	}
	if sound["labels"] && slices.ContainsFunc(x.Labels, func(l string) bool { return strings.TrimSpace(l) == "" }) {
		e.bad("%s: labels has an empty text", at)
	}
	if sound["labels"] && len(x.Labels) == 0 {
		e.warn("%s: labels is empty, so that every job of %s starts %s, also those for GitHub's own runners", at, x.Repo, x.Name) // S3-55
	}
	if sound["vm_instance_name"] && !machineName.MatchString(x.Name) {
		e.bad("%s: vm_instance_name %q must be 1 to 63 letters, digits, '.', '_' or '-'", at, x.Name)
	}
	if sound["vm_instance_zone"] && !machineName.MatchString(x.Zone) {
		e.bad("%s: vm_instance_zone %q is not the name of a zone", at, x.Zone)
	}
	if x.Scope != "" && x.Scope != "repo" && x.Scope != "org" {
		e.bad("%s: scope %q is unknown: use repo or org, where the machine's runner is registered", at, x.Scope)
	}
	if x.InactiveMinutes < 0 || x.InactiveMinutes > maxInactiveMinutes {
		e.bad("%s: inactive_minutes %d is not from 1 to %d", at, x.InactiveMinutes, maxInactiveMinutes)
	}
	if x.InstallationID < 0 {
		e.bad("%s: installation_id %d is not positive", at, x.InstallationID)
	}
	return x
}

// decodeJSON decodes one value and nothing behind it; at is where it went wrong.
func decodeJSON(text string, into any) (at int64, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	err = d.Decode(into)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return syntax.Offset, err
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return kind.Offset, fmt.Errorf("a list of objects is wanted, and this is a %s", kind.Value)
	}
	if err != nil { // the end came too soon
		return int64(len(text)), errors.New("unexpected end")
	}
	if rest := bytes.TrimSpace([]byte(text[d.InputOffset():])); len(rest) > 0 {
		return d.InputOffset() + 1, errors.New("something follows the list")
	}
	return 0, nil
}

// position is where a byte of a text stands, counted from 1 (S3-53).
func position(text string, at int64) string {
	before := text[:min(max(0, at-1), int64(len(text)))]
	line := strings.Count(before, "\n") + 1
	column := len(before) - strings.LastIndexByte(before, '\n')
	return fmt.Sprintf("line %d column %d", line, column)
}

// rest is what the manager has in common with any control plane.
func (e *environment) rest(m *RunnerManager) Config {
	l := loader{decoder: newDecoder("environment"), getenv: e.getenv, dir: "."}
	if abs, err := filepath.Abs("."); err == nil {
		l.dir = abs
	}
	c := Config{
		File: "environment", Name: or(e.getenv("MUSTER_NAME"), "muster"), Times: DefaultTimes(),
		DataDir:   l.path(or(e.getenv("MUSTER_DATA_DIR"), "muster-data")),
		PublicURL: m.ServiceURL, InsecureListen: true, // a proxy, or the container's own network, is before it
		Log: Log{Level: or(e.getenv("MUSTER_LOG_LEVEL"), "info"), Format: "text"}, PriceBook: PriceBook{Currency: "USD", Rounding: time.Minute},
	}
	l.oneOf("MUSTER_LOG_LEVEL", c.Log.Level, "debug", "info", "warn", "error")
	if e.getenv("K_SERVICE") != "" { // S3-59: set by Cloud Run
		c.Log.Format = "cloud"
	}
	port := e.number("PORT", 8080, 65535) // S3-62
	c.Listen = or(e.getenv("MUSTER_LISTEN"), fmt.Sprintf(":%d", port))
	if !word.MatchString(c.Name) {
		e.bad("MUSTER_NAME %q: use letters, digits, '-' and '_'", c.Name)
	}
	if m.ServiceURL != "" {
		if u := l.url("CLOUD_RUN_SERVICE_URL", m.ServiceURL); u != nil && u.Scheme != "https" && !Loopback(u.Host) {
			e.warn("CLOUD_RUN_SERVICE_URL %s is not https: webhooks and secrets cross the network in clear", m.ServiceURL)
		}
	}
	c.Database = l.database(e.getenv("MUSTER_DATABASE"), c.DataDir)
	c.SecretKeyFile = l.path(or(e.getenv("MUSTER_SECRET_KEY_FILE"), filepath.Join(c.DataDir, "secret.key")))
	c.Engine = l.engine(fileEngine{Address: e.getenv("MUSTER_ENGINE_ADDRESS"), Namespace: e.getenv("MUSTER_ENGINE_NAMESPACE")})
	// API and dashboard are never open: whoever runs the manager can tell the token.
	c.OperatorToken = muster.Secret(e.getenv("MUSTER_OPERATOR_TOKEN"))
	if c.OperatorToken == "" && m.Secrets.Shared != "" {
		mac := hmac.New(sha256.New, []byte(cmp.Or(m.Secrets.Control, m.Secrets.Shared).Reveal()))
		mac.Write([]byte("muster/operator"))
		c.OperatorToken = muster.Secret(hex.EncodeToString(mac.Sum(nil)))
	}
	for _, p := range l.problems {
		what := p.What
		if p.Remedy != "" {
			what += "; " + p.Remedy
		}
		e.bad("%s", what)
	}
	return c
}

func (e *environment) app(m *RunnerManager) App {
	a := App{
		Name: "default", WebhookSecret: cmp.Or(m.Secrets.Webhook, m.Secrets.Shared),
		PrivateKey: muster.Secret(strings.ReplaceAll(e.getenv("GITHUB_APP_PRIVATE_KEY"), `\n`, "\n")), // S3-51
		APIURL:     strings.TrimRight(or(e.getenv("GITHUB_API_URL"), "https://api.github.com"), "/"),
	}
	a.WebURL = webURL(a.APIURL)
	a.ID = e.id("GITHUB_APP_ID")
	a.InstallationID = e.id("GITHUB_APP_INSTALLATION_ID")
	if a.PrivateKey != "" && !rsaKey(a.PrivateKey) {
		e.bad("GITHUB_APP_PRIVATE_KEY is not an RSA key in PEM: download one from the App's page")
	}
	for _, x := range m.Entries {
		if x.InstallationID > 0 {
			if a.Installations == nil {
				a.Installations = map[string]int64{}
			}
			owner, _, _ := strings.Cut(strings.ToLower(x.Repo), "/")
			if was := a.Installations[owner]; was != 0 && was != x.InstallationID {
				e.bad("RUNNER_CONFIG: entries of %s name the installations %d and %d, and an App has one per owner", owner, was, x.InstallationID)
			}
			a.Installations[owner] = x.InstallationID
		}
	}
	return a
}

func (e *environment) id(name string) int64 {
	text := e.getenv(name)
	if text == "" {
		return 0 // reported as missing
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		e.bad("%s %q is not a positive number", name, text)
	}
	return n
}

// provider is the platform that has the machines: Compute Engine, or what
// RUNNER_MANAGER_PROVIDER says, with a section in RUNNER_MANAGER_PROVIDER_CONFIG.
func (e *environment) provider(m *RunnerManager) Provider {
	p := Provider{Name: m.Provider, Kind: or(e.getenv("RUNNER_MANAGER_PROVIDER"), "gce")}
	section := map[string]any{}
	if text := e.getenv("RUNNER_MANAGER_PROVIDER_CONFIG"); text != "" {
		if at, err := decodeJSON(text, &section); err != nil {
			e.bad("Invalid RUNNER_MANAGER_PROVIDER_CONFIG JSON: %s: %s", position(text, at), err)
			return p
		}
	}
	if _, set := section["project"]; p.Kind == "gce" && !set {
		section["project"] = m.Project
	}
	text, err := json.Marshal(section)
	if err == nil {
		file, bad := parser.ParseBytes(text, 0) // JSON is YAML
		if err = bad; err == nil && len(file.Docs) == 1 {
			p.Config = Section{file: "RUNNER_MANAGER_PROVIDER_CONFIG", node: file.Docs[0].Body}
		}
	}
	if err != nil {
		e.bad("RUNNER_MANAGER_PROVIDER_CONFIG cannot be read: %s", err)
	}
	return p
}

var notWord = regexp.MustCompile(`[^a-zA-Z0-9_-]+`)

// pools makes a kept pool of every entry, in their order.
func (e *environment) pools(m *RunnerManager) (out []muster.Pool) {
	names := map[string]int{}
	for _, x := range m.Entries {
		sc, err := muster.ParseScope(x.Repo)
		if err != nil {
			continue // reported
		}
		name := notWord.ReplaceAllString(x.Name+"-"+strings.ReplaceAll(x.Repo, "/", "-"), "-")
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("%s-%d", name, names[name])
		}
		p := muster.Pool{
			Name: name, App: "default", Scope: sc, Labels: muster.Labels(x.Labels), Provider: m.Provider, Machine: x.Name, Zone: x.Zone,
			Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered, Enabled: true, AllowPublic: x.AllowPublic,
			InactiveMinutes: cmp.Or(x.InactiveMinutes, m.InactiveMinutes),
		}
		if x.Scope == "org" {
			p.Scope = muster.Scope{Kind: muster.ScopeOrganization, Owner: sc.Owner}
			p.Repositories = []string{x.Repo}
		}
		out = append(out, p.WithDefaults())
	}
	return out
}
