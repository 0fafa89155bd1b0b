package garm

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/muster-ci/muster/provider"
)

// The versions of the interface between host and executable.
const (
	Version010 = "v0.1.0"
	Version011 = "v0.1.1"
)

// Config is the provider's section of the configuration. Start from Defaults.
type Config struct {
	// Executable is the provider's program.
	Executable string `json:"executable"`
	// ConfigFile is the program's own configuration, which Muster does not read.
	ConfigFile string `json:"config_file"`
	// InterfaceVersion is v0.1.0 or v0.1.1, whichever the program speaks.
	InterfaceVersion string `json:"interface_version"`
	// EnvironmentVariables are prefixes of the names of variables that the program
	// gets from the control plane's environment. Names that begin with GARM never do.
	EnvironmentVariables []string `json:"environment_variables"`
	// ExtraSpecs are handed to the program as they are.
	ExtraSpecs map[string]json.RawMessage `json:"extra_specs"`
	// Image and Flavor are used where the offering says nothing.
	Image  string `json:"image"`
	Flavor string `json:"flavor"`
	// Flavors are the platform's names of sizes, by the name of the offering.
	Flavors map[string]string `json:"flavors"`
	// OSType is linux or windows; Arch is amd64, arm64 or arm.
	OSType string `json:"os_type"`
	Arch   string `json:"arch"`
	// RepoURL is shown to the program as the repository; some make tags of it.
	RepoURL string `json:"repo_url"`
	// CACertFile holds certificates in PEM that machines are to trust, besides their own.
	CACertFile string `json:"ca_cert_file"`
	// HTTPProxy, HTTPSProxy and NoProxy are the machines' way out.
	HTTPProxy  string `json:"http_proxy"`
	HTTPSProxy string `json:"https_proxy"`
	NoProxy    string `json:"no_proxy"`
	// DisableUpdatesOnBoot, ExtraPackages and BootDebug are options of the machines' cloud-init.
	DisableUpdatesOnBoot bool     `json:"disable_updates_on_boot"`
	ExtraPackages        []string `json:"extra_packages"`
	BootDebug            bool     `json:"boot_debug"`
	// CreateTimeout bounds a call that creates a machine, ExecTimeout any other.
	CreateTimeout provider.Duration `json:"create_timeout"`
	ExecTimeout   provider.Duration `json:"exec_timeout"`
	// ConnectTimeout is how long a machine may take from its creation to its first call.
	ConnectTimeout provider.Duration `json:"connect_timeout"`
	// Settle is how long after a creation whose outcome is not known the platform may
	// still come up with the machine.
	Settle provider.Duration `json:"settle"`
	// Max is how many instances may exist at once, those that ended and were not yet
	// deleted included.
	Max int `json:"max"`
	// Calls is how many executables run at once; more calls wait.
	Calls int `json:"calls"`

	// Name is the provider's in the configuration: two providers of one owner do not
	// see each other's machines.
	Name string `json:"-"`
	// Owner is the control plane whose instances these are; required.
	Owner string `json:"-"`
	// Dir is the directory of the records; required.
	Dir string `json:"-"`
	// Environ is where variables are taken from; os.Environ() if nil.
	Environ []string `json:"-"`
	// Logger may be nil.
	Logger *slog.Logger `json:"-"`
}

// maxCreate is the longest that one creation may take: the control plane's own step
// around it ends after five minutes.
const maxCreate = 4*time.Minute + 30*time.Second

// Defaults is the configuration of an empty section. Executable, ConfigFile, Owner
// and Dir are missing in it.
func Defaults() Config {
	return Config{
		InterfaceVersion: Version010, OSType: "linux", Arch: "amd64", RepoURL: "https://github.com/muster",
		CreateTimeout: provider.Duration(4 * time.Minute), ExecTimeout: provider.Duration(time.Minute),
		ConnectTimeout: provider.Duration(20 * time.Minute), Settle: provider.Duration(30 * time.Second),
		Max: 20, Calls: 10,
	}
}

var (
	envPrefix  = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	pkgName    = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9.+:=~_-]*\z`)
	systems    = []string{"linux", "windows"}
	arches     = []string{"amd64", "arm64", "arm"} // what the shared code of the executables can pick a runner for
	interfaces = []string{Version010, Version011}
)

// Validate reports every problem at once, each with the key's name and a remedy.
func (c Config) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if info, err := os.Stat(c.Executable); c.Executable == "" || err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		add("executable: %q is not a program; name the path of a GARM provider such as garm-provider-openstack", c.Executable)
	} else if !filepath.IsAbs(c.Executable) {
		add("executable: %q must be an absolute path", c.Executable)
	}
	if info, err := os.Lstat(c.ConfigFile); c.ConfigFile == "" || err != nil || info.IsDir() {
		add("config_file: %q is not a file; name the configuration that the executable's own documentation describes", c.ConfigFile)
	} else if !filepath.IsAbs(c.ConfigFile) {
		add("config_file: %q must be an absolute path", c.ConfigFile)
	}
	if !slices.Contains(interfaces, c.InterfaceVersion) {
		add("interface_version: %q is unknown; use %s or %s, whichever the executable speaks", c.InterfaceVersion, Version010, Version011)
	}
	for _, name := range c.EnvironmentVariables {
		if !envPrefix.MatchString(name) {
			add("environment_variables: %q is not the beginning of a variable's name; write AWS_ for all that begin with it", name)
		} else if hasGARM(name) {
			add("environment_variables: %q: variables of that name are the host's own and never passed on; remove it", name)
		}
	}
	if t, ok := c.ExtraSpecs["runner_install_template"]; ok {
		var text []byte
		if json.Unmarshal(t, &text) != nil || len(text) == 0 {
			add("extra_specs: runner_install_template must be a script in base64")
		}
	}
	if !slices.Contains(systems, c.OSType) {
		add("os_type: %q must be linux or windows", c.OSType)
	}
	if !slices.Contains(arches, c.Arch) {
		add("arch: %q must be amd64, arm64 or arm", c.Arch)
	}
	if u, err := url.Parse(c.RepoURL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		add("repo_url: %q must be an address such as https://github.com/your-organization", c.RepoURL)
	}
	if _, err := c.bundle(); err != nil {
		add("ca_cert_file: %w", err)
	}
	for _, p := range c.ExtraPackages {
		if !pkgName.MatchString(p) {
			add("extra_packages: %q is not the name of a package", p)
		}
	}
	bound := func(key string, d provider.Duration, least, most time.Duration) {
		if v := time.Duration(d); v < least || v > most {
			add("%s: %s must be between %s and %s", key, v, least, most)
		}
	}
	bound("create_timeout", c.CreateTimeout, time.Second, maxCreate)
	bound("exec_timeout", c.ExecTimeout, time.Second, maxCreate)
	bound("connect_timeout", c.ConnectTimeout, time.Second, 24*time.Hour)
	bound("settle", c.Settle, 0, 10*time.Minute)
	if c.Max < 1 {
		add("max: %d must be at least 1", c.Max)
	}
	if c.Calls < 1 {
		add("calls: %d must be at least 1", c.Calls)
	}
	return errors.Join(problems...)
}

// bundle reads the certificates that machines are to trust; nil without a file.
func (c Config) bundle() ([]byte, error) {
	if c.CACertFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.CACertFile)
	if err != nil {
		return nil, fmt.Errorf("%q cannot be read; name a file of certificates in PEM", c.CACertFile)
	}
	found := false
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%q holds a %s, and all of it would be given to machines; keep certificates alone in it", c.CACertFile, block.Type)
		}
		found = true
	}
	if !found {
		return nil, fmt.Errorf("there is no certificate in PEM in %q", c.CACertFile)
	}
	return text, nil
}

// specs are the extra specs as one JSON object.
func (c Config) specs() (json.RawMessage, error) {
	if len(c.ExtraSpecs) == 0 {
		return json.RawMessage("{}"), nil
	}
	return json.Marshal(c.ExtraSpecs)
}
