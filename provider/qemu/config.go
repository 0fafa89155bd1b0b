package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/muster-ci/muster/provider"
)

// Config is the provider's section of the configuration. Start from Defaults.
type Config struct {
	// QEMU is the emulator, a path or a name in PATH. qemu-img lies beside it.
	QEMU string `json:"qemu"`
	// Accel is "kvm", "tcg" (QEMU's own translation, slow) or "auto": KVM where a
	// machine of ten instructions proves that it works, tcg otherwise.
	Accel string `json:"accel"`
	// Images is the directory of images, Image the one of offerings that name none.
	Images string `json:"images"`
	Image  string `json:"image"`
	// Root is where the directories of machines and the templates are.
	Root string `json:"root"`
	// MachinesDir has the machines that are kept: ZONE/NAME/disk.qcow2, or
	// NAME/disk.qcow2 for one without a zone. "" keeps none.
	MachinesDir string `json:"machines_dir"`
	// Max is how many machines may exist at once, those that ended and were not yet deleted included.
	Max int `json:"max"`
	// CPUs and MemoryMiB are for offerings that do not say.
	CPUs      int   `json:"cpus"`
	MemoryMiB int64 `json:"memory_mib"`
	// Warm makes machines from a template, in memory and on disk, instead of booting each.
	Warm bool `json:"warm"`
	// Egress is what machines may reach through the host: HOST:PORT, *.DOMAIN:PORT, *:PORT.
	Egress []string `json:"egress"`
	// Taps are network devices, made by the operator, of which each machine gets one.
	Taps []string `json:"taps"`
	// Grace is how long a machine may take to power itself off before it is killed.
	Grace provider.Duration `json:"grace"`

	// Owner is the control plane whose instances these are; required, and not a setting.
	Owner string `json:"-"`
	// Logger gets what happened; nil discards.
	Logger *slog.Logger `json:"-"`

	// domain replaces owner and workspace where templates are told apart by trust.
	domain string
}

// Defaults is the configuration of an empty section. Images, Root and Owner are missing in it.
func Defaults() Config {
	return Config{
		QEMU: "qemu-system-x86_64", Accel: "auto", Image: "default", Max: 8, CPUs: 1, MemoryMiB: 1024, Warm: true,
		Grace: provider.Duration(5 * time.Second),
	}
}

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if path, err := exec.LookPath(c.QEMU); err != nil {
		add("qemu: there is no program %q: apt-get install qemu-system-x86 qemu-utils, or name its path", c.QEMU)
	} else if _, err := imgBeside(path); err != nil {
		add("qemu: there is no qemu-img beside %s or in PATH: apt-get install qemu-utils", path)
	}
	if !slices.Contains([]string{"auto", "kvm", "tcg"}, c.Accel) {
		add(`accel: %q must be "auto", "kvm" or "tcg"`, c.Accel)
	}
	for key, path := range map[string]string{"images": c.Images, "root": c.Root} {
		if path == "" || !filepath.IsAbs(path) {
			add("%s: %q must be an absolute path", key, path)
		}
	}
	if c.Image == "" {
		add("image: name an image of `muster image list`")
	}
	if c.MachinesDir != "" {
		if info, err := os.Stat(c.MachinesDir); err != nil || !info.IsDir() {
			add("machines_dir: %q is not a directory", c.MachinesDir)
		} else if !filepath.IsAbs(c.MachinesDir) {
			add("machines_dir: %q must be an absolute path", c.MachinesDir)
		}
	}
	if c.Max < 1 {
		add("max: %d must be at least 1", c.Max)
	}
	if c.CPUs < 1 || c.CPUs > 255 {
		add("cpus: %d must be between 1 and 255", c.CPUs)
	}
	if c.MemoryMiB < minMemoryMiB {
		add("memory_mib: %d must be at least %d: a smaller machine does not boot", c.MemoryMiB, minMemoryMiB)
	}
	if c.Grace < 0 || time.Duration(c.Grace) > 10*time.Minute {
		add("grace: %s must be between 0s and 10m", time.Duration(c.Grace))
	}
	for _, text := range c.Egress {
		if _, err := parseEgress(text); err != nil {
			problems = append(problems, err)
		}
	}
	for _, name := range c.Taps {
		if name == "" || len(name) > 15 || filepath.Base(name) != name {
			add("taps: %q is no name of a network device", name)
		}
	}
	if n := len(c.Taps); n > 0 && n < c.Max {
		add("taps: %d devices are too few for max: %d machines; name one for each", n, c.Max)
	}
	return errors.Join(problems...)
}

// minMemoryMiB is what Linux needs to unpack its first file system and to start.
const minMemoryMiB = 96

// imgBeside finds qemu-img.
func imgBeside(qemu string) (string, error) {
	path := filepath.Join(filepath.Dir(qemu), "qemu-img")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return exec.LookPath("qemu-img")
}

// Decode reads the section over c, strictly. The error names every problem, those
// of single keys and those of their values.
func (c *Config) Decode(section json.RawMessage) error {
	return errors.Join(provider.DecodeConfig(section, c), c.Validate())
}
