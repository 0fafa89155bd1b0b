package container

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/muster-ci/muster/provider"
)

// Config is the provider's section of the configuration. Start from Defaults.
type Config struct {
	// Host is the engine's address: unix:///path, or tcp://host:port with TLSDir. ""
	// means DOCKER_HOST, or the first socket of Docker or Podman that this machine has.
	Host string `json:"host"`
	// TLSDir has ca.pem, cert.pem and key.pem for an engine on another machine.
	TLSDir string `json:"tls_dir"`
	// Agent is the muster-agent program. It is mounted into containers, or copied
	// into them where the engine is on another machine.
	Agent string `json:"agent"`
	// Image is for offerings that name none.
	Image string `json:"image"`
	// Pull is when an image is pulled: "always", "missing" or "never".
	Pull string `json:"pull"`
	// PullTimeout is how long a pull may take. Create waits as long as its context
	// allows; the pull goes on, and the next Create finds the image.
	PullTimeout provider.Duration `json:"pull_timeout"`
	// Registries have the credentials for private images.
	Registries []Registry `json:"registries"`
	// RunnerDir is where the runner is in the container: run.sh is there, or, with
	// RunnerFrom or Download, will be.
	RunnerDir string `json:"runner_dir"`
	// RunnerFrom is a directory of the engine's machine with GitHub's unpacked runner,
	// mounted read-only and copied to RunnerDir when a container starts; "" uses the image's.
	RunnerFrom string `json:"runner_from"`
	// Download lets the agent download the runner that GitHub names.
	Download bool `json:"download"`
	// User is whom the agent and the runner run as; "" means the image's own.
	User string `json:"user"`
	// Env is the environment of the container, beside the image's. It is not secret.
	Env map[string]string `json:"env"`
	// CPUs, MemoryMiB and PIDs limit a container. CPUs and MemoryMiB are for offerings
	// that do not say; 0 means no limit.
	CPUs      float64 `json:"cpus"`
	MemoryMiB int64   `json:"memory_mib"`
	PIDs      int64   `json:"pids"`
	// ReadOnlyRoot mounts the image read-only; /tmp, /run and RunnerDir stay
	// writable. nil means true, unless the runner comes with the image: then the engine
	// would have to copy it for every container.
	ReadOnlyRoot *bool `json:"read_only_root"`
	// Capabilities are kept; all others are dropped.
	Capabilities []string `json:"capabilities"`
	// AllowPrivilegeEscalation lets programs such as sudo gain what their caller has not.
	AllowPrivilegeEscalation bool `json:"allow_privilege_escalation"`
	// Network is "none", "bridge", "host", "workspace" (one of its own for every
	// workspace), or the name of a network of the engine.
	Network string `json:"network"`
	// Internal makes networks of "workspace" without a way out.
	Internal bool `json:"internal"`
	// Hosts are further names for addresses, "name:address"; the address
	// "host-gateway" is the engine's machine.
	Hosts []string `json:"hosts"`
	// Isolation is the class that containers must have: "runc" (also crun), "gvisor", "kata", "sysbox".
	Isolation string `json:"isolation"`
	// Runtime is the engine's own name for the runtime of that class; "" means the usual one.
	Runtime string `json:"runtime"`
	// GPUs are the devices that may be given away, each to one runner at a time: ids
	// of NVIDIA's runtime ("0", "GPU-…") or names of the container device interface
	// ("nvidia.com/gpu=0"). Podman's Docker interface takes neither, and is refused.
	GPUs []string `json:"gpus"`
	// Sidecar gives every runner an engine of its own; nil gives none.
	Sidecar *Sidecar `json:"sidecar"`
	// Max is how many instances may exist at once, those that ended and were not yet deleted included.
	Max int `json:"max"`
	// Grace is how long a container may take to end before it is killed.
	Grace provider.Duration `json:"grace"`

	// Owner is the control plane whose instances these are; required, and not a setting.
	Owner string `json:"-"`
	// Logger gets one line for every pull and every container that had to be refused
	// or killed. nil discards.
	Logger *slog.Logger `json:"-"`
}

// Sidecar is a container with an engine that a runner's jobs may use.
type Sidecar struct {
	// Image has the engine; its own command must listen on the socket Socket.
	Image string `json:"image"`
	// Command replaces the image's.
	Command []string `json:"command"`
	// Privileged gives it every capability and device of the engine's machine, which
	// an ordinary dockerd needs and sysbox or gVisor do not.
	Privileged bool `json:"privileged"`
	// MemoryMiB limits it with all that it runs; 0 means no limit.
	MemoryMiB int64 `json:"memory_mib"`
}

// Socket is where a sidecar's engine must listen, and where DOCKER_HOST of the
// runner points to.
const Socket = "/run/muster-docker/docker.sock"

// The values of Config.Pull.
const (
	PullAlways  = "always"
	PullMissing = "missing"
	PullNever   = "never"
)

// Defaults is the configuration of an empty section: 20 runners, the agent beside
// this program, images pulled when missing, no capabilities, the engine's bridge.
// Owner is missing in it.
func Defaults() Config {
	c := Config{
		Pull: PullMissing, PullTimeout: provider.Duration(10 * time.Minute), RunnerDir: "/home/runner", PIDs: 4096,
		Network: "bridge", Isolation: "runc", Max: 20, Grace: provider.Duration(5 * time.Second),
	}
	if exe, err := os.Executable(); err == nil {
		c.Agent = filepath.Join(filepath.Dir(exe), "muster-agent")
	}
	return c
}

// Decode reads the section over c, strictly. The error names every problem, those
// of single keys and those of their values.
func (c *Config) Decode(section json.RawMessage) error {
	return errors.Join(provider.DecodeConfig(section, c), c.Validate())
}

var (
	envName     = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	networkName = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_.-]*\z`)
	capability  = regexp.MustCompile(`\A[A-Z][A-Z_]*\z`)
	hostEntry   = regexp.MustCompile(`\A[A-Za-z0-9.-]+:[A-Za-z0-9.:-]+\z`)
	userName    = regexp.MustCompile(`\A[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?\z`)
)

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	c.validateEngine(add)
	if info, err := os.Stat(c.Agent); c.Agent == "" || err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		add("agent: %q is not a program; build cmd/muster-agent and name its path", c.Agent)
	} else if !filepath.IsAbs(c.Agent) {
		add("agent: %q must be an absolute path", c.Agent)
	}
	if !path.IsAbs(c.RunnerDir) || path.Clean(c.RunnerDir) != c.RunnerDir || c.RunnerDir == "/" || within(c.RunnerDir, mountDir) {
		add("runner_dir: %q must be the absolute path of a directory in the container, and not below %s", c.RunnerDir, mountDir)
	}
	if c.RunnerFrom != "" && !filepath.IsAbs(c.RunnerFrom) {
		add("runner_from: %q must be an absolute path of the engine's machine", c.RunnerFrom)
	}
	if c.User != "" && !userName.MatchString(c.User) {
		add("user: %q must be a name or number, or USER:GROUP", c.User)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		switch {
		case !envName.MatchString(name):
			add("env: %q is not the name of a variable", name)
		case strings.HasPrefix(name, "MUSTER_"):
			add("env: %s is the agent's own; choose another name", name)
		case strings.ContainsAny(c.Env[name], "\x00"):
			add("env: the value of %s has a zero byte", name)
		}
	}
	c.validateLimits(add)
	for _, name := range c.Capabilities {
		if !capability.MatchString(name) || strings.HasPrefix(name, "CAP_") {
			add("capabilities: %q must be a capability's name in capitals without CAP_, such as NET_BIND_SERVICE", name)
		}
	}
	if !networkName.MatchString(c.Network) {
		add("network: %q must be none, bridge, host, workspace, or the name of one of the engine's networks", c.Network)
	}
	if c.Internal && c.Network != networkWorkspace {
		add("internal: is for networks that Muster makes; use it with network: workspace, or make your network with --internal")
	}
	for _, h := range c.Hosts {
		if !hostEntry.MatchString(h) {
			add(`hosts: %q must be "name:address"`, h)
		}
	}
	if _, ok := classes[c.Isolation]; !ok {
		add("isolation: %q must be one of %s", c.Isolation, strings.Join(slices.Sorted(maps.Keys(classes)), ", "))
	}
	if c.Runtime != "" && !networkName.MatchString(c.Runtime) {
		add("runtime: %q is not a runtime's name", c.Runtime)
	} else if other := classOf(c.Runtime); c.Runtime != "" && other != "" && other != c.Isolation {
		add("runtime: %s gives isolation %s, not %s", c.Runtime, other, c.Isolation)
	}
	if dup := slices.Sorted(slices.Values(c.GPUs)); len(slices.Compact(dup)) != len(c.GPUs) || slices.Contains(c.GPUs, "") || strings.Contains(strings.Join(c.GPUs, ""), ",") {
		add("gpus: every device must be named once, without commas")
	}
	if s := c.Sidecar; s != nil {
		if _, err := imageName(s.Image); err != nil {
			add("sidecar: image %q: %w", s.Image, err)
		}
		if s.MemoryMiB < 0 {
			add("sidecar: memory_mib: %d must not be negative", s.MemoryMiB)
		}
		if c.Network == "none" {
			add("sidecar: shares the runner's network, which is none; use network: bridge or workspace")
		}
	}
	return errors.Join(problems...)
}

func (c Config) validateEngine(add func(string, ...any)) {
	remote := false
	if c.Host != "" {
		u, err := url.Parse(c.Host)
		switch {
		case err == nil && u.Scheme == "unix" && path.IsAbs(u.Path):
		case err == nil && u.Scheme == "tcp" && u.Host != "":
			remote = true
		default:
			add(`host: %q must be "unix:///path/to/socket" or "tcp://host:port"; forward an engine behind SSH with ssh -L`, c.Host)
		}
	}
	if c.TLSDir != "" {
		for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
			if _, err := os.Stat(filepath.Join(c.TLSDir, name)); err != nil {
				add("tls_dir: there is no %s in %q", name, c.TLSDir)
			}
		}
		if !remote {
			add("tls_dir: is for an engine on another machine; set host to tcp://host:port")
		}
	}
	if remote && c.ReadOnlyRoot != nil && *c.ReadOnlyRoot {
		add("read_only_root: the agent is copied into containers of an engine on another machine, and a read-only image takes none; leave it out")
	}
	if c.Image != "" {
		if _, err := imageName(c.Image); err != nil {
			add("image: %q: %w", c.Image, err)
		}
	}
	if !slices.Contains([]string{PullAlways, PullMissing, PullNever}, c.Pull) {
		add("pull: %q must be always, missing or never", c.Pull)
	}
	if t := time.Duration(c.PullTimeout); t < time.Second || t > 2*time.Hour {
		add("pull_timeout: %s must be between 1s and 2h", t)
	}
	seen := map[string]bool{}
	for i, r := range c.Registries {
		for _, err := range r.problems() {
			add("registries: %s: %w", cmp.Or(r.Host, fmt.Sprintf("entry %d", i+1)), err)
		}
		if seen[r.Host] {
			add("registries: %s is there twice", r.Host)
		}
		seen[r.Host] = true
	}
}

func (c Config) validateLimits(add func(string, ...any)) {
	if c.CPUs < 0 {
		add("cpus: %g must not be negative", c.CPUs)
	}
	if c.MemoryMiB < 0 || c.MemoryMiB > 0 && c.MemoryMiB < 32 {
		add("memory_mib: %d must be 0, for no limit, or at least 32", c.MemoryMiB)
	}
	if c.PIDs < 0 || c.PIDs > 0 && c.PIDs < 32 {
		add("pids: %d must be 0, for no limit, or at least 32", c.PIDs)
	}
	if c.Max < 1 {
		add("max: %d must be at least 1", c.Max)
	}
	if g := time.Duration(c.Grace); g < 0 || g > time.Minute {
		add("grace: %s must be between 0s and 1m", g)
	}
}

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// imageName is an image's whole name, its registry and tag included.
func imageName(image string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, fmt.Errorf("is no name of an image: %w", err)
	}
	return reference.TagNameOnly(named), nil
}
