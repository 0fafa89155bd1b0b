package ssh

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/muster-ci/muster/provider"
)

// Config is the provider's section of the configuration. Start from Defaults.
type Config struct {
	// Hosts are the machines.
	Hosts []Host `json:"hosts"`
	// User, Port, Slots, Root, RunnerDir and Jump are for hosts that do not say.
	User  string `json:"user"`
	Port  int    `json:"port"`
	Slots int    `json:"slots"`
	// Root is where a host keeps the directories of runners: a path, which starts at
	// the user's home if it is relative.
	Root string `json:"root"`
	// RunnerDir is a directory of the host with GitHub's runner unpacked, run.sh at its
	// top. "" unpacks the version that GitHub offers for every runner, from an archive
	// that is downloaded once per host and version.
	RunnerDir string `json:"runner_dir"`
	// Download lets a runner fetch the version that GitHub offers where RunnerDir has
	// another one.
	Download bool `json:"download"`
	// Jump is the host through which the others are reached.
	Jump *Jump `json:"jump"`

	// IdentityFiles are private keys in OpenSSH's or PEM format. A certificate beside
	// one, in FILE-cert.pub, is used with it.
	IdentityFiles []string `json:"identity_files"`
	// AgentSocket is the socket of an ssh-agent; "" uses none.
	AgentSocket string `json:"agent_socket"`
	// KnownHosts is a file as OpenSSH's. It is asked for hosts without HostKey.
	KnownHosts string `json:"known_hosts"`

	// Agent is the muster-agent program, for the hosts' architecture.
	Agent string `json:"agent"`
	// OwnEngines says that the container engines of the hosts work for runners alone, one at a
	// time: containers are then recorded as the job's that runs, and held to its policy.
	OwnEngines bool `json:"own_engines"`
	// Env names variables of the host's session that runners get to see.
	Env []string `json:"env"`
	// Grace is how long a runner may take to end after SIGTERM, before SIGKILL.
	Grace provider.Duration `json:"grace"`
	// ConnectTimeout is how long a host may take to let us in.
	ConnectTimeout provider.Duration `json:"connect_timeout"`
	// CallTimeout is how long a host may take to answer one call.
	CallTimeout provider.Duration `json:"call_timeout"`
	// RetryAfter is for how long a host is passed over that could not be reached; every
	// further failure doubles it, up to 5 minutes.
	RetryAfter provider.Duration `json:"retry_after"`
	// KeepAlive is how often an idle connection is tried.
	KeepAlive provider.Duration `json:"keep_alive"`

	// Owner is the control plane whose instances these are; required, and not a setting.
	Owner string `json:"-"`
	// Logger gets one line when a host is lost or found again. nil discards.
	Logger *slog.Logger `json:"-"`
}

// Host is one machine.
type Host struct {
	// Name is what the host is called in messages and instances; "" takes Address.
	Name    string `json:"name"`
	Address string `json:"address"`
	Port    int    `json:"port"`
	User    string `json:"user"`
	// HostKey is the host's own key: "SHA256:…" or "ssh-ed25519 AAAA…". "" asks KnownHosts.
	HostKey string `json:"host_key"`
	// Zone is for the operator's eyes: it is said where the host is.
	Zone string `json:"zone"`
	// Slots is how many runners the host takes at once.
	Slots int `json:"slots"`
	// Offerings are the names of those that the host serves; none means all without GPUs.
	Offerings []string `json:"offerings"`
	Root      string   `json:"root"`
	RunnerDir string   `json:"runner_dir"`
	Jump      *Jump    `json:"jump"`
}

// Jump is a host on the way to another.
type Jump struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
	User    string `json:"user"`
	HostKey string `json:"host_key"`
}

// Defaults is the configuration of an empty section: port 22, one slot per host, the
// directory .muster in the user's home, downloads allowed, the agent beside this
// program, the keys and known hosts in ~/.ssh of the control plane's user. Hosts and
// Owner are missing in it.
func Defaults() Config {
	c := Config{
		Port: 22, Slots: 1, Root: ".muster", Download: true, Grace: provider.Duration(5 * time.Second),
		ConnectTimeout: provider.Duration(10 * time.Second), CallTimeout: provider.Duration(30 * time.Second),
		RetryAfter: provider.Duration(5 * time.Second), KeepAlive: provider.Duration(15 * time.Second),
	}
	if exe, err := os.Executable(); err == nil {
		c.Agent = filepath.Join(filepath.Dir(exe), "muster-agent")
	}
	return c
}

// fromHome fills in what ssh(1) would take from the home directory.
func (c *Config) fromHome() {
	home, err := os.UserHomeDir()
	if err != nil {
		return
	}
	if c.KnownHosts == "" {
		if file := filepath.Join(home, ".ssh", "known_hosts"); exists(file) {
			c.KnownHosts = file
		}
	}
	if len(c.IdentityFiles) == 0 && c.AgentSocket == "" {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if file := filepath.Join(home, ".ssh", name); exists(file) {
				c.IdentityFiles = append(c.IdentityFiles, file)
			}
		}
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// Decode reads the section over c, strictly. The error names every problem, those
// of single keys and those of their values.
func (c *Config) Decode(section json.RawMessage) error {
	return errors.Join(provider.DecodeConfig(section, c), c.Validate())
}

// host is a Host with what it takes from the section.
func (c Config) host(h Host) Host {
	h.Name = cmp.Or(h.Name, h.Address)
	h.Port, h.User, h.Slots = cmp.Or(h.Port, c.Port), cmp.Or(h.User, c.User), cmp.Or(h.Slots, c.Slots)
	h.Root, h.RunnerDir = cmp.Or(h.Root, c.Root), cmp.Or(h.RunnerDir, c.RunnerDir)
	jump := h.Jump
	if jump == nil {
		jump = c.Jump
	}
	if jump != nil {
		j := *jump
		j.Port, j.User = cmp.Or(j.Port, 22), cmp.Or(j.User, h.User)
		h.Jump = &j
	}
	return h
}

var (
	envName     = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	userName    = regexp.MustCompile(`\A[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}\z`)
	hostName    = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\z`)
	hostAddress = regexp.MustCompile(`\A[A-Za-z0-9:][A-Za-z0-9_.:%-]{0,252}\z`)
	remotePath  = regexp.MustCompile(`\A/?[A-Za-z0-9._@+-]+(/[A-Za-z0-9._@+-]+)*\z`)
)

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if len(c.Hosts) == 0 {
		add("hosts: there is none; name at least one, such as {address: build1.example.com, user: ci}")
	}
	names, places := map[string]bool{}, map[string]string{}
	for i, given := range c.Hosts {
		h := c.host(given)
		at := "hosts: " + cmp.Or(h.Name, strconv.Itoa(i+1))
		if !hostAddress.MatchString(h.Address) || strings.HasSuffix(h.Address, ":"+strconv.Itoa(h.Port)) && net.ParseIP(h.Address) == nil {
			add("%s: address %q must be a name or an IP address; the port is a key of its own", at, h.Address)
		}
		if given.Name != "" && !hostName.MatchString(given.Name) {
			add("%s: name %q must be letters, digits, '-', '_' and '.'", at, given.Name)
		}
		if names[h.Name] {
			add("%s: two hosts have this name; give each its own", at)
		}
		names[h.Name] = true
		place := fmt.Sprintf("%s@%s:%d %s", h.User, h.Address, h.Port, h.Root)
		if other := places[place]; other != "" && other != h.Name {
			add("%s: is host %s again; leave one out and raise the slots of the other", at, other)
		}
		places[place] = h.Name
		if !userName.MatchString(h.User) {
			add("%s: user %q is not a user's name; say whom to log in as", at, h.User)
		}
		if h.Port < 1 || h.Port > 65535 {
			add("%s: port %d must be between 1 and 65535", at, h.Port)
		}
		if h.Slots < 1 || h.Slots > 1000 {
			add("%s: slots %d must be between 1 and 1000", at, h.Slots)
		} else if c.OwnEngines && h.Slots > 1 {
			add("%s: own_engines: the engines of a host with %d slots work for several jobs at once; give it one slot, or leave own_engines out", at, h.Slots)
		}
		if !remotePath.MatchString(h.Root) || slices.Contains(strings.Split(h.Root, "/"), "..") {
			add("%s: root %q must be a plain path on the host, such as .muster or /var/lib/muster", at, h.Root)
		}
		if h.RunnerDir != "" && (!strings.HasPrefix(h.RunnerDir, "/") || strings.ContainsAny(h.RunnerDir, "\x00\r\n")) {
			add("%s: runner_dir %q must be an absolute path on the host", at, h.RunnerDir)
		}
		if h.RunnerDir == "" && !c.Download {
			add("%s: there is no runner: name a runner_dir, or allow download", at)
		}
		problems = append(problems, c.validateKey(at, h.HostKey))
		if j := h.Jump; j != nil {
			if !hostAddress.MatchString(j.Address) || !userName.MatchString(j.User) || j.Port < 1 || j.Port > 65535 {
				add("%s: jump: %s@%s:%d must have a user, a name or IP address, and a port", at, j.User, j.Address, j.Port)
			}
			problems = append(problems, c.validateKey(at+": jump", j.HostKey))
		}
	}
	if len(c.IdentityFiles) == 0 && c.AgentSocket == "" {
		add("identity_files: there is no key to log in with; make one with ssh-keygen, add it to the hosts' authorized_keys, and name it, or name the agent_socket of an ssh-agent")
	}
	for _, file := range c.IdentityFiles {
		if _, err := readIdentity(file); err != nil {
			add("identity_files: %w", err)
		}
	}
	if info, err := os.Stat(c.Agent); c.Agent == "" || err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		add("agent: %q is not a program; build cmd/muster-agent for the hosts and name its path", c.Agent)
	}
	for _, name := range c.Env {
		if !envName.MatchString(name) || strings.HasPrefix(name, "MUSTER_") {
			add("env: %q is not the name of a variable that runners may get", name)
		}
	}
	within := func(key string, d provider.Duration, least, most time.Duration) {
		if v := time.Duration(d); v < least || v > most {
			add("%s: %s must be between %s and %s", key, v, least, most)
		}
	}
	within("grace", c.Grace, 0, time.Minute)
	within("connect_timeout", c.ConnectTimeout, 100*time.Millisecond, 5*time.Minute)
	within("call_timeout", c.CallTimeout, time.Second, 5*time.Minute)
	within("retry_after", c.RetryAfter, time.Millisecond, 5*time.Minute)
	within("keep_alive", c.KeepAlive, 100*time.Millisecond, 5*time.Minute)
	return errors.Join(problems...)
}

func (c Config) validateKey(at, key string) error {
	if key == "" {
		if c.KnownHosts == "" {
			return fmt.Errorf("%s: nothing says which key the host has: set host_key to its fingerprint (ssh-keygen -lf of the host's public key), or known_hosts to a file", at)
		}
		if _, err := readKnownHosts(c.KnownHosts); err != nil {
			return fmt.Errorf("known_hosts: %w", err)
		}
		return nil
	}
	if _, err := parsePin(key); err != nil {
		return fmt.Errorf("%s: host_key: %w", at, err)
	}
	return nil
}

// pin is a host's key that the configuration names.
type pin struct {
	fingerprint string
	key         gossh.PublicKey // nil if only the fingerprint is known
}

func parsePin(text string) (pin, error) {
	if strings.HasPrefix(text, "SHA256:") {
		if len(text) != len("SHA256:")+43 || strings.ContainsAny(text, " \t\r\n") {
			return pin{}, fmt.Errorf("%q is no fingerprint: SHA256: and 43 characters", text)
		}
		return pin{fingerprint: text}, nil
	}
	key, _, _, rest, err := gossh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(strings.TrimSpace(string(rest))) > 0 {
		return pin{}, fmt.Errorf("%q must be a fingerprint, SHA256:…, or a public key, ssh-ed25519 AAAA…", text[:min(len(text), 80)])
	}
	return pin{gossh.FingerprintSHA256(key), key}, nil
}
