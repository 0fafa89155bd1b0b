package config

import (
	"fmt"
	"net"
	"strings"

	"github.com/muster-ci/muster"
)

// SlurmGateway is the role slurm-gateway: the part that Slurm trusts. It has no
// credential of GitHub, and the control plane none of Slurm.
type SlurmGateway struct {
	// Listen is host:port. Default 127.0.0.1:5011.
	Listen string
	TLS    TLS
	// AppURL is the public_url of the control plane.
	AppURL string
	// AuthToken is the secret that the control plane shows; AuthTokenPrevious is taken
	// as well while it is changed.
	AuthToken         muster.Secret
	AuthTokenPrevious muster.Secret
	// KeysFile has what the control plane's /gha/keys answers.
	KeysFile string
	// Repositories say whose runners run as which Slurm user.
	Repositories []SlurmRepository
	// MaxCPUs, MaxMemoryMiB and MaxGPUs bound one job; 0 means no bound.
	MaxCPUs      float64
	MaxMemoryMiB int64
	MaxGPUs      int
	// Slurm is how jobs are submitted; package provider/slurm decodes it.
	Slurm Section
}

// SlurmRepository maps the page of a repository or an organization to a Slurm user.
type SlurmRepository struct {
	GitHubURL string `yaml:"github_url"`
	SlurmUser string `yaml:"slurm_user"`
}

type fileGateway struct {
	Listen                string            `yaml:"listen"`
	InsecureListen        bool              `yaml:"insecure_listen"`
	TLS                   fileTLS           `yaml:"tls"`
	AppURL                string            `yaml:"app_url"`
	AuthTokenFile         string            `yaml:"auth_token_file"`
	AuthTokenPreviousFile string            `yaml:"auth_token_previous_file"`
	KeysFile              string            `yaml:"keys_file"`
	Repositories          []SlurmRepository `yaml:"repositories"`
	MaxCPUs               float64           `yaml:"max_cpus"`
	MaxMemoryMiB          int64             `yaml:"max_memory_mib"`
	MaxGPUs               int               `yaml:"max_gpus"`
	Slurm                 Section           `yaml:"slurm"`
}

// The roles of a process.
const (
	// RoleApp is the control plane.
	RoleApp = "app"
	// RoleSlurmGateway is the part that Slurm trusts.
	RoleSlurmGateway = "slurm-gateway"
)

// As is c for a process of one role; "" is every role that the file configures. The
// other role's secrets are not in it.
func (c Config) As(role string) (Config, error) {
	problem := func(what, remedy string) (Config, error) {
		return Config{}, Problems{{File: c.File, What: what, Remedy: remedy}}
	}
	switch role {
	case "":
	case RoleApp:
		if c.GatewayOnly {
			return problem("the file configures no control plane", "add apps, providers and pools, or use --role "+RoleSlurmGateway)
		}
		c.SlurmGateway = nil
	case RoleSlurmGateway:
		if c.SlurmGateway == nil {
			return problem("the file configures no Slurm gateway", "add slurm_gateway:")
		}
		c = Config{File: c.File, Name: c.Name, DataDir: c.DataDir, Log: c.Log, SlurmGateway: c.SlurmGateway, GatewayOnly: true}
	default:
		return problem(fmt.Sprintf("role %q is unknown", role), "use "+RoleApp+" or "+RoleSlurmGateway)
	}
	return c, nil
}

// gatewayOnly reports whether the file is that of a gateway and of nothing else.
func (l *loader) gatewayOnly() bool {
	return l.written("slurm_gateway") && !l.written("apps") && !l.written("providers") && !l.written("pools")
}

func (l *loader) gateway(f fileGateway) *SlurmGateway {
	if !l.written("slurm_gateway") {
		return nil
	}
	const at = "slurm_gateway"
	g := &SlurmGateway{
		Listen: or(f.Listen, "127.0.0.1:5011"), AppURL: strings.TrimRight(f.AppURL, "/"), KeysFile: l.path(f.KeysFile), Repositories: f.Repositories,
		MaxCPUs: f.MaxCPUs, MaxMemoryMiB: f.MaxMemoryMiB, MaxGPUs: f.MaxGPUs, Slurm: f.Slurm,
		TLS: TLS{CertFile: l.path(f.TLS.CertFile), KeyFile: l.path(f.TLS.KeyFile)},
	}
	if g.Slurm.node == nil {
		g.Slurm = Section{file: l.file, line: l.line(at)}
	}
	if _, _, err := net.SplitHostPort(g.Listen); err != nil {
		l.at(at+".listen", "write host:port, for example 127.0.0.1:5011", "listen %q is not an address", g.Listen)
	} else if !Loopback(g.Listen) && !g.TLS.Enabled() && !f.InsecureListen {
		l.at(at+".listen", "set tls, listen on 127.0.0.1, or set insecure_listen: true behind a proxy that terminates TLS", "the gateway's listen %s is open to other machines without TLS", g.Listen) // 4-35
	}
	if (g.TLS.CertFile == "") != (g.TLS.KeyFile == "") {
		l.at(at+".tls", "set both cert_file and key_file", "tls names only one half of a certificate")
	} else if g.TLS.Enabled() {
		l.exists(at+".tls.cert_file", g.TLS.CertFile)
		l.private(at+".tls.key_file", g.TLS.KeyFile)
	}
	if g.AppURL == "" {
		l.at(at, "write the control plane's public_url", "the gateway has no app_url, so that no launch token is for it")
	} else {
		l.url(at+".app_url", g.AppURL)
	}
	if f.AuthTokenFile == "" {
		l.at(at, "put a long random text in a file, here and at the provider of the control plane", "the gateway has no auth_token_file")
	}
	g.AuthToken = l.secret(at+".auth_token_file", f.AuthTokenFile, "")
	g.AuthTokenPrevious = l.secret(at+".auth_token_previous_file", f.AuthTokenPreviousFile, "")
	if f.KeysFile == "" {
		l.at(at, "fetch the control plane's /gha/keys into a file", "the gateway has no keys_file to verify launch tokens with")
	} else {
		l.exists(at+".keys_file", g.KeysFile)
	}
	if len(g.Repositories) == 0 {
		l.at(at, "add {github_url: https://github.com/OWNER/NAME, slurm_user: USER}", "the gateway maps no repository to a Slurm user")
	}
	for i, r := range g.Repositories {
		if r.GitHubURL == "" || r.SlurmUser == "" || r.SlurmUser == "root" {
			l.at(fmt.Sprintf("%s.repositories[%d]", at, i), "write github_url and slurm_user", "repository %q is mapped to no user that may run jobs", r.GitHubURL)
		} else {
			l.url(fmt.Sprintf("%s.repositories[%d].github_url", at, i), r.GitHubURL)
		}
	}
	return g
}
