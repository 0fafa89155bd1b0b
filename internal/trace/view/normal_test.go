package view

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster/internal/trace"
)

func TestNormal(t *testing.T) {
	j := trace.Job{Workspace: "/srv/runners/r-7/_work/app/app"}
	for path, want := range map[string]string{
		"/usr/bin/git": "/usr/bin/git",
		"/srv/runners/r-7/_work/app/app/node_modules/.bin/tsc":       "$WORKSPACE/node_modules/.bin/tsc",
		"/srv/runners/r-7/_work/app/application":                     "$RUNNER/_work/app/application",
		"/srv/runners/r-7/externals/node20/bin/node":                 "$RUNNER/externals/node20/bin/node",
		"/other/_work/_temp/0b3ab8ba-1b6e-4fca-9d5c-0c4df2a1e9aa.sh": "$RUNNER/_work/_temp/*.sh",
		"/srv/runners/r-zol7zr7wmtabajbm/home/.npmrc":                "/srv/runners/*/home/.npmrc",
		"/tmp/runners/r-abcdefghijklmnop/home/.npmrc":                "/tmp/runners/*/home/.npmrc",
		"/home/ci-4711/.cargo/bin/cargo":                             "~/.cargo/bin/cargo",
		"/root/go/bin/stringer":                                      "~/go/bin/stringer",
		"/proc/4711/exe":                                             "/proc/*/exe",
		"/tmp/go-build2817263542/b001/exe/main":                      "/tmp/go-*/b*/exe/main",
		"/tmp/go-build999/b137/x.test":                               "/tmp/go-*/b*/x.test",
		"/tmp/tmp.Xa3Bc9dEf1/run":                                    "/tmp/tmp.*/run",
		"/tmp/tmpabcdefgh/run":                                       "/tmp/tmp*/run",
		"/tmp/install":                                               "/tmp/install",
		"/opt/hostedtoolcache/go/1.26.8/x64/bin/go":                  "/opt/hostedtoolcache/go/*/x64/bin/go",
		"/opt/node-v20.11.1-linux-x64/bin/node":                      "/opt/node-*-linux-x64/bin/node",
		"/usr/bin/python3.12":                                        "/usr/bin/python*",
		"/usr/bin/x86_64-linux-gnu-gcc-12":                           "/usr/bin/x86_64-linux-gnu-gcc-12",
		"/usr/bin/sha256sum":                                         "/usr/bin/sha256sum",
		"/a/pkg@v1.2.3-rc.1/bin":                                     "/a/pkg@*/bin",
		"/nix/store/3b8kz1x9a7q2wyd0-hello-2.12/bin/hello":           "/nix/store/*-hello-*/bin/hello",
		"/var/lib/docker/overlay2/4f2a9bd13c0e77aa/diff/bin/app":     "/var/lib/docker/overlay2/*/diff/bin/app",
		"":  "",
		"/": "/",
	} {
		if got := Normal(path, j); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// What is normal stays as it is.
func TestNormalTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.StringMatching(`(/(tmp|proc|home|v?[0-9]{1,3}\.[0-9]{1,2}|[a-zA-Z0-9._-]{0,14})){0,5}`).Draw(t, "path")
		once := Normal(path, trace.Job{})
		if twice := Normal(once, trace.Job{}); twice != once {
			t.Fatalf("%s, %s, %s", path, once, twice)
		}
		NormalHost(path)
	})
}

func TestNormalHost(t *testing.T) {
	for host, want := range map[string]string{
		"github.com": "github.com",
		"evil1.com":  "evil1.com",
		"productionresultssa17.blob.core.windows.net":              "productionresultssa*.blob.core.windows.net",
		"run-actions-2-azure-eastus.actions.githubusercontent.com": "run-actions-*-azure-eastus.actions.githubusercontent.com",
		"d3a8b9c2e1f4.cloudfront.net":                              "*.cloudfront.net",
		"7.1.168.192.in-addr.arpa":                                 "*.in-addr.arpa",
		"172.17.0.5":                                               "172.17.*.*",
		"192.0.2.7":                                                "192.0.2.7",
		"2001:db8::1":                                              "2001:db8::1",
		"localhost":                                                "localhost",
	} {
		if got := NormalHost(host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		host, address string
		category      Category
		service       string
	}{
		{"api.github.com", "140.82.121.6", GitHub, "GitHub API"},
		{"pipelinesghubeus3.actions.githubusercontent.com", "", GitHub, "GitHub Actions"},
		{"productionresultssa3.blob.core.windows.net", "", GitHub, "GitHub Actions results"},
		{"someone.blob.core.windows.net", "20.1.1.1", External, ""},
		{"octo.github.io", "", External, "GitHub Pages"},
		{"ghcr.io", "", Registries, "GitHub containers"},
		{"registry.npmjs.org.", "", Registries, "npm"},
		{"files.pythonhosted.org", "", Registries, "PyPI"},
		{"proxy.golang.org", "", Registries, "Go modules"},
		{"sum.golang.org", "", Registries, "Go checksums"},
		{"static.crates.io", "", Registries, "crates.io"},
		{"repo1.maven.org", "", Registries, "Maven Central"},
		{"rubygems.org", "", Registries, "RubyGems"},
		{"api.nuget.org", "", Registries, "NuGet"},
		{"registry-1.docker.io", "", Registries, "Docker Hub"},
		{"deb.debian.org", "", Registries, "Debian"},
		{"azure.archive.ubuntu.com", "", Registries, "Ubuntu"},
		{"dl-cdn.alpinelinux.org", "", Registries, "Alpine"},
		{"formulae.brew.sh", "", Registries, "Homebrew"},
		{"notgithub.com", "203.0.113.1", External, ""},
		{"github.com.evil.xyz", "203.0.113.1", External, ""},
		{"", "203.0.113.1", External, ""},
		{"", "127.0.0.1", Runner, "this machine"},
		{"", "169.254.169.254", Runner, "cloud metadata"},
		{"", "10.2.3.4", Runner, "private network"},
		{"", "::ffff:10.2.3.4", Runner, "private network"},
		{"evil.xyz", "127.0.0.1", Runner, ""}, // a name says what it likes: it stays visible in a diff
		{"db", "", Runner, ""},
	} {
		if category, service := Classify(c.host, c.address); category != c.category || service != c.service {
			t.Errorf("%s %s: %s, %q", c.host, c.address, category, service)
		}
	}
}

func TestSensitive(t *testing.T) {
	for path, want := range map[string]string{
		"/home/u/.ssh/id_ed25519": "SSH key", "/home/u/.ssh/deploy": "SSH key", "/home/u/.ssh/id_rsa.pub": "", "/home/u/.ssh/known_hosts": "",
		"/root/.aws/credentials": "AWS credentials", "/home/u/.config/gcloud/access_tokens.db": "Google Cloud credentials", "/x/.env": "environment file",
		"/x/.env.example": "", "/run/docker.sock": "container engine", "/etc/shadow": "system passwords", "/home/u/.netrc": "logins of hosts",
		"/usr/lib/x.so": "", "/opt/runner/.credentials_rsaparams": "runner's own credentials", "": "", "id_rsa": "",
	} {
		if got := Sensitive(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
