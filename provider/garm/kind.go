package garm

import (
	_ "embed"
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster/provider"
)

//go:embed guide.md
var guide string

// Kind is this platform for the configuration and the documentation.
func Kind() provider.Kind { return provider.Kind{Description: description(), Read: read} }

func description() provider.Description {
	defaults := Defaults()
	return provider.Description{
		Kind:      "garm",
		Summary:   "Machines of any cloud that there is an external provider of GARM for, by running that provider's program unchanged.",
		Isolation: "That of the cloud's machines: each runner has a machine of its own, which is deleted after its job.",
		Needs: []string{
			"The provider's executable and its own configuration file, on the control plane's machine.",
			"Machines that reach the control plane's `public_url`, with an image that runs cloud-init and has `curl`, `sudo` and systemd, or Windows.",
			"A Unix system under the control plane.",
		},
		ConnectTimeout: time.Duration(defaults.ConnectTimeout),
		CreateTimeout:  time.Duration(defaults.CreateTimeout),
		Settings: provider.Settings(defaults, map[string]string{
			"executable":              "the provider's program, such as `garm-provider-openstack`",
			"config_file":             "the program's own configuration, in its own format; Muster does not read it",
			"interface_version":       "`v0.1.0` or `v0.1.1`, whichever the program speaks",
			"environment_variables":   "prefixes of the names of variables that the program gets from the control plane's environment, `AWS_` for example; it gets no others but those of proxies",
			"extra_specs":             "keys and values that are handed to the program as they are; `runner_install_template`, `pre_install_scripts` and `extra_context` are known to most",
			"image":                   "the image of machines whose offering names none",
			"flavor":                  "the platform's name of the size, for offerings that `flavors` does not name; where both are empty, the offering's own name",
			"flavors":                 "the platform's names of sizes, by the name of the offering",
			"os_type":                 "`linux` or `windows`",
			"arch":                    "`amd64`, `arm64` or `arm`",
			"repo_url":                "shown to the program as the repository where a machine is for no particular place; some make tags of it, and nothing is fetched from it",
			"ca_cert_file":            "certificates in PEM that machines are to trust besides their own",
			"http_proxy":              "the machines' proxy",
			"https_proxy":             "the same for HTTPS",
			"no_proxy":                "what machines reach without a proxy",
			"disable_updates_on_boot": "let cloud-init neither update nor install packages",
			"extra_packages":          "packages for cloud-init to install",
			"boot_debug":              "let the machine's script print what it does, its token included, to its own console",
			"create_timeout":          "how long the program may take to create a machine, at most 4m30s",
			"exec_timeout":            "how long it may take for anything else",
			"connect_timeout":         "how long a machine may take from its creation to its first call",
			"settle":                  "how long after a creation that was cut off the platform may still come up with the machine",
			"max":                     "how many instances may exist at once, those that ended and are not yet deleted included",
			"calls":                   "how many programs run at once; more calls wait",
		}),
		Example: `providers:
  - name: openstack
    kind: garm
    config:
      executable: garm-provider-openstack
      config_file: garm-openstack.toml
      interface_version: v0.1.1
      environment_variables: [OS_]
      image: ubuntu-24.04
      flavors: {small: m1.small}
      max: 10

offerings:
  - {name: small, cpus: 2, memory_mib: 4096, price_usd_per_minute: "0.002"}

pools:
  - name: linux
    scope: your-organization
    labels: [muster]
    provider: openstack
    offering: small
    scaling: {max_runners: 10}
`,
		Guide: guide,
	}
}

func read(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	err := provider.DecodeConfig(section, &cfg)
	for _, path := range []*string{&cfg.Executable, &cfg.ConfigFile, &cfg.CACertFile} {
		*path = env.Path(*path)
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Name, cfg.Owner, cfg.Logger = env.Name, env.Owner, env.Logger
	cfg.Dir = filepath.Join(env.DataDir, "garm")
	return func() (provider.Provider, error) { return New(cfg) }, nil
}
