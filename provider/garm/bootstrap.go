package garm

import (
	"encoding/json"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Where machines find the control plane, below its URL: GARM's own paths, for images
// and firewalls that know them. internal/garm serves them.
const (
	metadataPath = "/api/v1/metadata"
	callbackPath = "/api/v1/callbacks"
)

// bootstrap is what CreateInstance reads from its standard input.
type bootstrap struct {
	Name             string          `json:"name"`
	Tools            []tool          `json:"tools"`
	RepoURL          string          `json:"repo_url"`
	CallbackURL      string          `json:"callback-url"`
	MetadataURL      string          `json:"metadata-url"`
	InstanceToken    string          `json:"instance-token"`
	SSHKeys          []string        `json:"ssh-keys"`
	ExtraSpecs       json.RawMessage `json:"extra_specs"`
	RunnerGroup      string          `json:"github-runner-group"`
	CACertBundle     []byte          `json:"ca-cert-bundle"`
	Arch             string          `json:"arch"`
	OSType           string          `json:"os_type"`
	Flavor           string          `json:"flavor"`
	Image            string          `json:"image"`
	Labels           []string        `json:"labels"`
	PoolID           string          `json:"pool_id"`
	UserDataOptions  userData        `json:"user_data_options"`
	JITConfigEnabled bool            `json:"jit_config_enabled"`
	Proxy            proxy           `json:"proxy_config"`
}

// tool is one archive of GitHub's runner.
type tool struct {
	OS       string `json:"os"`
	Arch     string `json:"architecture"`
	URL      string `json:"download_url"`
	Filename string `json:"filename"`
	Token    string `json:"temp_download_token"`
	SHA256   string `json:"sha256_checksum"`
}

type userData struct {
	DisableUpdates bool     `json:"disable_updates_on_boot"`
	ExtraPackages  []string `json:"extra_packages"`
	BootDebug      bool     `json:"enable_boot_debug"`
}

type proxy struct {
	HTTP  string `json:"http_proxy"`
	HTTPS string `json:"https_proxy"`
	No    string `json:"no_proxy"`
}

// instance is what CreateInstance, GetInstance and ListInstances print.
type instance struct {
	ProviderID string `json:"provider_id"`
	Name       string `json:"name"`
	Status     string `json:"status"`
	Fault      []byte `json:"provider_fault"`
}

// bootstrap describes a machine to the executable. Labels and the runner group stay
// empty: a JIT registration has them from the pool, at the moment when the machine
// asks for it, and none of their text gets into the machine's script (4-32).
func (p *Provider) bootstrap(spec provider.Spec, name string) bootstrap {
	base := strings.TrimSuffix(spec.Boot.URL, "/")
	b := bootstrap{
		Name: name, RepoURL: p.cfg.RepoURL, CallbackURL: base + callbackPath, MetadataURL: base + metadataPath,
		InstanceToken: spec.Boot.Token.Reveal(), ExtraSpecs: p.specs, CACertBundle: p.bundle,
		Arch: p.cfg.Arch, OSType: p.cfg.OSType, Image: p.cfg.Image, Flavor: p.cfg.flavor(spec.Offering),
		Labels: []string{}, PoolID: p.pool, JITConfigEnabled: true,
		UserDataOptions: userData{p.cfg.DisableUpdatesOnBoot, p.cfg.ExtraPackages, p.cfg.BootDebug},
		Proxy:           proxy{p.cfg.HTTPProxy, p.cfg.HTTPSProxy, p.cfg.NoProxy},
	}
	if spec.Build.GitHubURL != "" {
		b.RepoURL = spec.Build.GitHubURL
	}
	if spec.Offering.Image != "" {
		b.Image = spec.Offering.Image
	}
	// Which version of the runner GitHub offers is asked when the machine downloads it:
	// the route answers with the address of the day.
	for _, sys := range []struct{ os, suffix string }{{"linux", ".tar.gz"}, {"win", ".zip"}} {
		for _, arch := range []string{"x64", "arm64", "arm"} {
			b.Tools = append(b.Tools, tool{
				OS: sys.os, Arch: arch, Token: b.InstanceToken, Filename: "actions-runner-" + sys.os + "-" + arch + sys.suffix,
				URL: b.MetadataURL + "/tools/runner/" + sys.os + "/" + arch,
			})
		}
	}
	return b
}

// flavor is the platform's name of an offering's size.
func (c Config) flavor(o muster.Offering) string {
	if f, ok := c.Flavors[o.Name]; ok {
		return f
	}
	if c.Flavor != "" || len(c.Flavors) > 0 {
		return c.Flavor
	}
	return o.Name
}
