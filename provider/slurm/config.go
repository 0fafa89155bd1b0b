package slurm

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/provider"
)

// The ways to a cluster.
const (
	TransportGateway  = "gateway"
	TransportREST     = "rest"
	TransportCommands = "commands"
)

// Config is the provider's section of the configuration, and the gateway's section
// "slurm". Start from Defaults.
type Config struct {
	// Transport is gateway, rest or commands.
	Transport string `json:"transport"`

	// GatewayURL is the address of the gateway, and GatewayTokenFile holds the secret
	// that it shares with the control plane.
	GatewayURL       string `json:"gateway_url"`
	GatewayTokenFile string `json:"gateway_token_file"`

	// URL is slurmrestd's address: http://host:port, https://…, or unix:/path.
	URL string `json:"url"`
	// APIVersion is the version of slurmrestd's API, such as v0.0.41; "" takes the best
	// that it serves.
	APIVersion string `json:"api_version"`
	// User is the Slurm user whom TokenFile or TokenCommand is for.
	User string `json:"user"`
	// TokenFile holds a token for slurmrestd, which the site renews.
	TokenFile string `json:"token_file"`
	// TokenCommand prints a token for slurmrestd; it is run again every TokenLifetime.
	TokenCommand  []string          `json:"token_command"`
	TokenLifetime provider.Duration `json:"token_lifetime"`

	// Commands is the directory of sbatch, squeue and scancel; "" is PATH.
	Commands string `json:"commands"`
	// SlurmConf is the path of slurm.conf for the commands; "" is Slurm's own.
	SlurmConf string `json:"slurm_conf"`

	// How jobs are submitted; "" leaves a choice to Slurm.
	Partition   string `json:"partition"`
	QOS         string `json:"qos"`
	Account     string `json:"account"`
	Constraint  string `json:"constraint"`
	Reservation string `json:"reservation"`
	Nice        int64  `json:"nice"`
	// TimeLimit is the limit of every job, or the pool's max_age if that is shorter.
	TimeLimit provider.Duration `json:"time_limit"`
	// GRES is what a GPU of an offering is asked for as: "gpu", or "gpu:a100".
	GRES string `json:"gres"`

	// What is on every node.
	// Agent is the path of muster-agent there.
	Agent string `json:"agent"`
	// RunnerDir is the path of GitHub's unpacked runner there; "" downloads it.
	RunnerDir string `json:"runner_dir"`
	// CacheDir keeps downloaded runners; "" keeps none.
	CacheDir string `json:"cache_dir"`
	// JobRoot is a directory on every node's own disk in which each job gets one.
	JobRoot string `json:"job_root"`
	// Log is the file that a job's script writes to; %j is the job's number.
	Log string `json:"log"`
	// Grace is how long a runner may take to end after it was told to. It must be
	// shorter than Slurm's KillWait.
	Grace provider.Duration `json:"grace"`
	// Max is how many jobs of this control plane there may be at once, those that wait
	// in Slurm's queue included.
	Max int `json:"max"`

	// Owner is the control plane whose jobs these are; not a setting, and not used by
	// a Cluster.
	Owner string `json:"-"`
	// StateDir keeps notes of jobs that were deleted after they had ended.
	StateDir string `json:"-"`
	// Logger gets what Slurm warns of. nil discards.
	Logger *slog.Logger `json:"-"`
	// SubmitAs lets Cluster.Create name the user; a provider's own section does not.
	SubmitAs bool `json:"-"`
}

// Defaults is the configuration of an empty section. GatewayURL and
// GatewayTokenFile are missing in it.
func Defaults() Config {
	return Config{
		Transport: TransportGateway, TokenLifetime: provider.Duration(10 * time.Minute),
		TimeLimit: provider.Duration(6 * time.Hour), GRES: "gpu",
		Agent: "/usr/local/bin/muster-agent", JobRoot: "/var/tmp", Log: "/var/tmp/muster-%j.log",
		Grace: provider.Duration(20 * time.Second), Max: 200,
	}
}

// Decode reads the section over c, strictly. The error names every problem, those
// of single keys and those of their values.
func (c *Config) Decode(section json.RawMessage) error {
	return errors.Join(provider.DecodeConfig(section, c), c.Validate())
}

var (
	apiVersion = regexp.MustCompile(`\Av0\.0\.[0-9]{2}\z`)
	slurmWord  = regexp.MustCompile(`\A[A-Za-z0-9_.,+@:|&*()\[\]-]*\z`)
	userName   = regexp.MustCompile(`\A[a-z_][a-z0-9_.-]{0,31}\$?\z`)
	logFile    = regexp.MustCompile(`\A/[A-Za-z0-9_.@/+-]*%j[A-Za-z0-9_.@/+-]*\z`)
)

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	set := func(keys map[string]string, where string) {
		for _, key := range sortedKeys(keys) {
			if keys[key] != "" {
				add("%s: is for transport: %s, and this one is %s; remove it, or change transport", key, where, c.Transport)
			}
		}
	}
	gateway := map[string]string{"gateway_url": c.GatewayURL, "gateway_token_file": c.GatewayTokenFile}
	restful := map[string]string{"url": c.URL, "api_version": c.APIVersion, "token_file": c.TokenFile, "token_command": strings.Join(c.TokenCommand, " ")}
	commanded := map[string]string{"commands": c.Commands, "slurm_conf": c.SlurmConf}
	switch c.Transport {
	case TransportGateway:
		set(restful, TransportREST)
		set(commanded, TransportCommands)
		if u, err := url.Parse(c.GatewayURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			add("gateway_url: %q must be the address of the gateway, such as https://slurm-login:5011; set transport to rest or commands to do without one", c.GatewayURL)
		} else if u.Scheme == "http" && !loopback(u.Hostname()) {
			add("gateway_url: %s would send launch tokens in clear; use https", c.GatewayURL)
		}
		c.readable(add, "gateway_token_file", c.GatewayTokenFile, "the secret that the gateway has in its auth_token_file")
	case TransportREST:
		set(gateway, TransportGateway)
		set(commanded, TransportCommands)
		c.validateREST(add)
	case TransportCommands:
		set(gateway, TransportGateway)
		set(restful, TransportREST)
		for _, dir := range []struct{ key, path string }{{"commands", c.Commands}, {"slurm_conf", c.SlurmConf}} {
			if _, err := os.Stat(dir.path); dir.path != "" && (err != nil || !filepath.IsAbs(dir.path)) {
				add("%s: %q must be an absolute path that exists", dir.key, dir.path)
			}
		}
	default:
		add("transport: %q is unknown; use gateway, rest or commands", c.Transport)
	}
	for _, w := range []struct{ key, value string }{{"partition", c.Partition}, {"qos", c.QOS}, {"account", c.Account}, {"constraint", c.Constraint}, {"reservation", c.Reservation}, {"gres", c.GRES}} {
		if !slurmWord.MatchString(w.value) || strings.HasPrefix(w.value, "-") {
			add("%s: %q has a character that Slurm's names do not have", w.key, w.value)
		}
	}
	if c.GRES == "" {
		add(`gres: must say what a GPU is asked for as, such as "gpu"`)
	}
	if c.User != "" && !userName.MatchString(c.User) {
		add("user: %q is not the name of a user", c.User)
	}
	if d := time.Duration(c.TimeLimit); d < time.Minute || d > 30*24*time.Hour {
		add("time_limit: %s must be between 1m and 720h; GitHub ends a job after 120h", d)
	}
	for _, p := range []struct {
		key, path string
		required  bool
	}{{"agent", c.Agent, true}, {"runner_dir", c.RunnerDir, false}, {"cache_dir", c.CacheDir, false}, {"job_root", c.JobRoot, true}} {
		if p.path == "" && !p.required {
			continue
		}
		if !filepath.IsAbs(p.path) || filepath.Clean(p.path) != p.path || strings.ContainsAny(p.path, "\n\x00") {
			add("%s: %q must be an absolute path on the nodes", p.key, p.path)
		}
	}
	if c.Log != os.DevNull && !logFile.MatchString(c.Log) {
		add("log: %q must be an absolute path with %%j for the job's number, so that no two jobs share one, or /dev/null", c.Log)
	}
	if g := time.Duration(c.Grace); g < 0 || g > 10*time.Minute {
		add("grace: %s must be between 0s and 10m", g)
	}
	if c.Max < 1 {
		add("max: %d must be at least 1", c.Max)
	}
	return errors.Join(problems...)
}

func (c Config) validateREST(add func(string, ...any)) {
	if path, ok := strings.CutPrefix(c.URL, "unix:"); ok {
		if !filepath.IsAbs(path) {
			add("url: %q must be unix: and an absolute path", c.URL)
		}
	} else if u, err := url.Parse(c.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		add("url: %q must be slurmrestd's address, such as http://127.0.0.1:6820 or unix:/run/slurmrestd.sock", c.URL)
	} else if u.Scheme == "http" && !loopback(u.Hostname()) {
		add("url: %s would send Slurm's token in clear; use https, or a slurmrestd on this machine", c.URL)
	}
	if c.APIVersion != "" && !apiVersion.MatchString(c.APIVersion) {
		add("api_version: %q must be a version such as v0.0.41, or empty", c.APIVersion)
	} else if c.APIVersion == "v0.0.39" {
		add("api_version: v0.0.39 is spoken by nobody else; use v0.0.38 or one from v0.0.40 on")
	}
	if c.User == "" {
		add("user: name the Slurm user whom the token is for")
	}
	switch {
	case c.TokenFile != "" && len(c.TokenCommand) > 0:
		add("token_file: is set beside token_command; keep one")
	case len(c.TokenCommand) > 0:
		if !filepath.IsAbs(c.TokenCommand[0]) {
			add("token_command: %q must be an absolute path, with its arguments as further items", c.TokenCommand[0])
		}
		if d := time.Duration(c.TokenLifetime); d < time.Second {
			add("token_lifetime: %s must be at least 1s", d)
		}
	default:
		c.readable(add, "token_file", c.TokenFile, "a token for slurmrestd (scontrol token username=USER), or set token_command")
	}
}

// readable reports a file with a secret that is not there, or that others may read.
func (c Config) readable(add func(string, ...any), key, path, what string) {
	info, err := os.Stat(path)
	switch {
	case path == "" || err != nil || !info.Mode().IsRegular():
		add("%s: %q must be a file with %s", key, path, what)
	case info.Mode().Perm()&0o077 != 0:
		add("%s: %s can be read by others (mode %04o); chmod 600 it", key, path, info.Mode().Perm())
	}
}

func loopback(host string) bool {
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
