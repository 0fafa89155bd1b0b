package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

const gatewayOnly = `
slurm_gateway:
  listen: 10.1.2.3:5011
  tls: {cert_file: tls.crt, key_file: tls.key}
  app_url: https://muster.example.com/
  auth_token_file: token
  auth_token_previous_file: token-old
  keys_file: keys.json
  max_cpus: 16
  max_memory_mib: 65536
  max_gpus: 2
  repositories:
    - {github_url: https://github.com/acme, slurm_user: ci}
    - {github_url: https://github.com/acme/web, slurm_user: web}
  slurm: {transport: commands}
`

// gatewayDir has every file that a gateway's section may name.
func gatewayDir(t *testing.T, yaml string) (dir, path string) {
	dir, path = dirWith(t, yaml)
	for name, text := range map[string]string{"token": "planted-token", "token-old": "planted-old", "keys.json": "{}", "tls.crt": "c", "tls.key": "k"} {
		write(t, dir, name, text)
	}
	return dir, path
}

// S2-2 S2-4: a file with nothing but the section of a gateway is enough for that role, and for
// no other; it needs no App.
func TestSlurmGateway(t *testing.T) {
	dir, path := gatewayDir(t, gatewayOnly)
	c, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	g := *c.SlurmGateway
	section, err := g.Slurm.JSON()
	if err != nil || string(section) != `{"transport":"commands"}` {
		t.Errorf("the section is %s, %v", section, err)
	}
	g.Slurm = config.Section{}
	if want := (config.SlurmGateway{
		Listen: "10.1.2.3:5011", TLS: config.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")},
		AppURL: "https://muster.example.com", AuthToken: muster.Secret("planted-token"), AuthTokenPrevious: muster.Secret("planted-old"),
		KeysFile: filepath.Join(dir, "keys.json"), MaxCPUs: 16, MaxMemoryMiB: 65536, MaxGPUs: 2,
		Repositories: []config.SlurmRepository{{"https://github.com/acme", "ci"}, {"https://github.com/acme/web", "web"}},
	}); !reflect.DeepEqual(g, want) {
		t.Errorf("%+v, want %+v", g, want)
	}
	if !c.GatewayOnly || len(c.Apps) > 0 {
		t.Errorf("%+v", c)
	}
	if c, err := config.Load(write(t, dir, "muster.yaml", strings.Replace(small+gatewayOnly, "  listen: 10.1.2.3:5011\n", "", 1)), env()); err != nil || c.GatewayOnly || c.SlurmGateway.Listen != "127.0.0.1:5011" {
		t.Errorf("with a control plane: %+v, %v", c.SlurmGateway, err)
	}
}

// A process of one role has the other's secrets not even in memory.
func TestRoles(t *testing.T) {
	_, path := gatewayDir(t, small+gatewayOnly)
	both, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	_, path = gatewayDir(t, gatewayOnly)
	alone, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	_, path = dirWith(t, small)
	plain, err := config.Load(path, env())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		c             config.Config
		role          string
		apps, gateway bool
		problem       string
	}{
		"both, every role":       {both, "", true, true, ""},
		"both, control plane":    {both, "app", true, false, ""},
		"both, gateway":          {both, "slurm-gateway", false, true, ""},
		"gateway, every role":    {alone, "", false, true, ""},
		"gateway, gateway":       {alone, "slurm-gateway", false, true, ""},
		"gateway, control plane": {alone, "app", false, false, "the file configures no control plane; add apps, providers and pools, or use --role slurm-gateway"},
		"plain, every role":      {plain, "", true, false, ""},
		"plain, gateway":         {plain, "slurm-gateway", false, false, "the file configures no Slurm gateway; add slurm_gateway:"},
		"unknown":                {both, "slurm", false, false, `role "slurm" is unknown; use app or slurm-gateway`},
	} {
		got, err := tc.c.As(tc.role)
		if (err != nil) != (tc.problem != "") || err != nil && !strings.Contains(err.Error(), tc.problem) {
			t.Errorf("%s: %v", name, err)
		}
		if (len(got.Apps) > 0) != tc.apps || (got.SlurmGateway != nil) != tc.gateway {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Everything that is wrong with the section is told at once, each with its line and what to
// do, and without a secret.
func TestSlurmGatewayProblems(t *testing.T) {
	const at = "slurm_gateway:\n"
	for name, tc := range map[string]struct {
		yaml string
		want []string // line: what; remedy
	}{
		"Empty": {at + "  listen: 127.0.0.1:5011\n", []string{
			"1: the gateway has no app_url, so that no launch token is for it; write the control plane's public_url",
			"1: the gateway has no auth_token_file; put a long random text in a file, here and at the provider of the control plane",
			"1: the gateway has no keys_file to verify launch tokens with; fetch the control plane's /gha/keys into a file",
			"1: the gateway maps no repository to a Slurm user; add {github_url: https://github.com/OWNER/NAME, slurm_user: USER}",
		}},
		"Everything": {at + `  listen: everywhere
  tls: {cert_file: tls.crt}
  app_url: muster.example.com
  auth_token_file: none
  auth_token_previous_file: open
  keys_file: missing.json
  repositories:
    - {github_url: acme/web, slurm_user: ci}
    - {github_url: https://github.com/acme}
    - {github_url: https://github.com/acme/root, slurm_user: root}
    - {slurm_user: ci}
`, []string{
			`2: listen "everywhere" is not an address; write host:port, for example 127.0.0.1:5011`,
			"3: tls names only one half of a certificate; set both cert_file and key_file",
			"4: slurm_gateway.app_url is not a web address; write it as https://HOST",
			"5: ", "there is no such file",
			"6: ", "chmod 600",
			"7: ", "missing.json",
			"9: slurm_gateway.repositories[0].github_url is not a web address; write it as https://HOST",
			`10: repository "https://github.com/acme" is mapped to no user that may run jobs; write github_url and slurm_user`,
			`11: repository "https://github.com/acme/root" is mapped to no user that may run jobs; write github_url and slurm_user`,
			`12: repository "" is mapped to no user that may run jobs; write github_url and slurm_user`,
		}},
		"OpenWithoutTLS": {strings.Replace(gatewayOnly, "  tls: {cert_file: tls.crt, key_file: tls.key}\n", "", 1), []string{
			"3: the gateway's listen 10.1.2.3:5011 is open to other machines without TLS; set tls, listen on 127.0.0.1, or set insecure_listen: true behind a proxy that terminates TLS"}},
		"OpenKey":    {strings.Replace(gatewayOnly, "key_file: tls.key", "key_file: open", 1), []string{"4: ", "chmod 600"}},
		"UnknownKey": {gatewayOnly + "  slurm_user: ci\n", []string{"16: ", "slurm_user"}},
		// The gateway's mistakes are told with those of the control plane in the same file.
		"WithAControlPlane": {strings.Replace(small, "id: 1,", "", 1) + strings.Replace(gatewayOnly, "keys.json", "other.json", 1), []string{`app "main"`, "other.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, path := gatewayDir(t, tc.yaml)
			if err := os.Chmod(write(t, dir, "open", "planted-open"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := config.Load(path, env())
			problems, ok := errors.AsType[config.Problems](err)
			if !ok {
				t.Fatalf("error is %T: %v", err, err)
			}
			var told []string
			for _, p := range problems {
				if p.Remedy == "" || p.Line == 0 {
					t.Errorf("%q has no line or no remedy", p.What)
				}
				told = append(told, strings.TrimPrefix(p.String(), path+":"))
			}
			text := strings.Join(told, "\n")
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("nothing of %q in\n%s", want, text)
				}
			}
			if strings.Contains(text, "planted") {
				t.Error("a problem repeats a secret")
			}
			if !slices.IsSortedFunc(problems, func(a, b config.Problem) int { return a.Line - b.Line }) {
				t.Error("problems are not in the order of lines")
			}
		})
	}
}

// The commented section of the example is one that loads.
func TestExampleGateway(t *testing.T) {
	_, rest, ok := strings.Cut(config.Example, "\n# slurm_gateway:\n")
	section, _, _ := strings.Cut(rest, "\n\n")
	if !ok {
		t.Fatal("the example has no section of a gateway")
	}
	yaml := "slurm_gateway:\n"
	for line := range strings.Lines(section) {
		line = strings.TrimPrefix(line, "# ")
		yaml += "  " + strings.TrimPrefix(strings.TrimPrefix(line, "  "), "# ")
	}
	dir, path := dirWith(t, yaml)
	write(t, dir, "gateway.token", "s")
	write(t, dir, "gateway-old.token", "s")
	write(t, dir, "keys.json", "{}")
	c, err := config.Load(path, env())
	if err != nil || c.SlurmGateway.MaxCPUs != 16 || len(c.SlurmGateway.Repositories) != 1 {
		t.Errorf("%+v, %v, of\n%s", c.SlurmGateway, err, yaml)
	}
}
