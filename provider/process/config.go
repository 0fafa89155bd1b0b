package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/muster-ci/muster/provider"
)

// Config is the provider's section of the configuration. Start from Defaults.
type Config struct {
	// Agent is the muster-agent program.
	Agent string `json:"agent"`
	// RunnerDir is a directory with GitHub's runner, run.sh at its top. Every runner
	// gets its own tree of it: small files at the top are copied, others are hard
	// links, "externals" is a symbolic link. "" lets the agent download the runner that
	// the control plane names.
	RunnerDir string `json:"runner_dir"`
	// Root is where the directories of runners are made.
	Root string `json:"root"`
	// MachinesDir has the machines that are kept: ZONE/NAME/run.sh, or NAME/run.sh for
	// one without a zone, each a runner that config.sh has registered under that name.
	// "" keeps none.
	MachinesDir string `json:"machines_dir"`
	// Max is how many instances may exist at once, those that ended and were not yet deleted included.
	Max int `json:"max"`
	// MemoryMiB limits the memory of a runner with all its processes, when its
	// offering does not say; 0 means no limit. The kernel kills what goes beyond.
	MemoryMiB int64 `json:"memory_mib"`
	// PIDs limits the number of processes and threads of a runner; 0 means no limit.
	PIDs int `json:"pids"`
	// User is whom runners run as, by name or number; "" means the control plane's
	// own user. Another user needs root.
	User string `json:"user"`
	// Env names variables of the control plane that runners get to see. Nothing else
	// of its environment reaches them but PATH and LANG.
	Env []string `json:"env"`
	// Grace is how long a runner may take to end after SIGTERM, before SIGKILL.
	Grace provider.Duration `json:"grace"`
	// Cgroup is the control group, below the root of each hierarchy, in which those
	// of runners are made; "none" does without. On a machine where somebody else
	// owns the root, name a group that was delegated to the control plane's user.
	Cgroup string `json:"cgroup"`

	// Owner is the control plane whose instances these are; required, and not a setting.
	Owner string `json:"-"`
	// Logger gets one line about what the machine can limit, and one for every runner
	// that had to be killed. nil discards.
	Logger *slog.Logger `json:"-"`
}

// Defaults is the configuration of an empty section: 20 runners, 5 s of grace,
// 4096 processes each, the agent beside this program, no memory limit. Root,
// RunnerDir and Owner are missing in it.
func Defaults() Config {
	c := Config{Max: 20, PIDs: 4096, Grace: provider.Duration(5 * time.Second), Cgroup: "muster"}
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
	envName    = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	cgroupPath = regexp.MustCompile(`\A[A-Za-z0-9_@.-]+(/[A-Za-z0-9_@.-]+)*\z`)
)

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if info, err := os.Stat(c.Agent); c.Agent == "" || err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		add("agent: %q is not a program; build cmd/muster-agent and name its path", c.Agent)
	} else if !filepath.IsAbs(c.Agent) {
		add("agent: %q must be an absolute path", c.Agent)
	}
	if c.RunnerDir != "" {
		if info, err := os.Stat(filepath.Join(c.RunnerDir, "run.sh")); err != nil || info.IsDir() {
			add("runner_dir: there is no run.sh in %q; unpack GitHub's runner there", c.RunnerDir)
		} else if !filepath.IsAbs(c.RunnerDir) {
			add("runner_dir: %q must be an absolute path", c.RunnerDir)
		}
	}
	if !filepath.IsAbs(c.Root) {
		add("root: %q must be the absolute path of a directory for runners", c.Root)
	}
	if c.MachinesDir != "" && !filepath.IsAbs(c.MachinesDir) {
		add("machines_dir: %q must be an absolute path", c.MachinesDir)
	}
	if c.Max < 1 {
		add("max: %d must be at least 1", c.Max)
	}
	if c.MemoryMiB < 0 || c.MemoryMiB > 0 && c.MemoryMiB < 32 {
		add("memory_mib: %d must be 0, for no limit, or at least 32", c.MemoryMiB)
	}
	if c.PIDs < 0 || c.PIDs > 0 && c.PIDs < 32 {
		add("pids: %d must be 0, for no limit, or at least 32", c.PIDs)
	}
	for _, name := range c.Env {
		if !envName.MatchString(name) {
			add("env: %q is not the name of a variable", name)
		}
	}
	if g := time.Duration(c.Grace); g < 0 || g > time.Minute {
		add("grace: %s must be between 0s and 1m", g)
	}
	if !cgroupPath.MatchString(c.Cgroup) || filepath.Clean(c.Cgroup) != c.Cgroup || c.Cgroup[0] == '.' {
		add(`cgroup: %q must be a path such as "muster", or "none"`, c.Cgroup)
	}
	return errors.Join(problems...)
}
