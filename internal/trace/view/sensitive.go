package view

import "strings"

// secretEnds are files by the end of their paths.
var secretEnds = map[string]string{
	"/.aws/credentials": "AWS credentials", "/.aws/config": "AWS configuration", "/.kube/config": "Kubernetes credentials",
	"/.docker/config.json": "registry credentials", "/containers/auth.json": "registry credentials",
	"/.netrc": "logins of hosts", "/_netrc": "logins of hosts", "/.git-credentials": "Git credentials", "/git/credentials": "Git credentials",
	"/gh/hosts.yml": "GitHub CLI token", "/.npmrc": "npm token", "/.pypirc": "PyPI token", "/.gem/credentials": "RubyGems token",
	"/.cargo/credentials": "crates.io token", "/.cargo/credentials.toml": "crates.io token", "/.m2/settings.xml": "Maven credentials",
	"/.m2/settings-security.xml": "Maven credentials", "/.gradle/gradle.properties": "Gradle credentials", "/composer/auth.json": "Composer credentials",
	"/.composer/auth.json": "Composer credentials", "/.vault-token": "Vault token", "/.terraform.d/credentials.tfrc.json": "Terraform token",
	"/.terraformrc": "Terraform token", "/.pgpass": "PostgreSQL passwords", "/.my.cnf": "MySQL password", "/.s3cfg": "S3 credentials",
	"/.boto": "cloud credentials", "/rclone/rclone.conf": "storage credentials", "/.bash_history": "shell history", "/.zsh_history": "shell history",
	"/.config/solana/id.json": "wallet", "/wallet.dat": "wallet", "/etc/shadow": "system passwords", "/etc/gshadow": "system passwords",
	"/etc/sudoers": "sudo rules", "/etc/kubernetes/admin.conf": "Kubernetes credentials", "/.credentials_rsaparams": "runner's own credentials",
	"/.credentials": "runner's own credentials", "/.env": "environment file", "/docker.sock": "container engine", "/containerd.sock": "container engine",
	"/podman.sock": "container engine", "/crio.sock": "container engine",
	"/.azure/accesstokens.json": "Azure credentials", "/.config/hub": "GitHub token", "/.databrickscfg": "Databricks token", "/.oci/config": "Oracle Cloud credentials",
}

// secretDirs are directories, everything below which counts.
var secretDirs = []struct{ dir, what string }{
	{"/.ssh/", "SSH key"}, {"/.gnupg/", "GnuPG keys"}, {"/.config/gcloud/", "Google Cloud credentials"}, {"/.azure/", "Azure credentials"},
	{"/.aws/sso/cache/", "AWS credentials"}, {"/run/secrets/", "mounted secret"}, {"/etc/ssl/private/", "TLS key"}, {"/etc/sudoers.d/", "sudo rules"},
	{"/.ethereum/keystore/", "wallet"}, {"/.electrum/", "wallet"}, {"/.config/google-chrome/", "browser profile"}, {"/.mozilla/firefox/", "browser profile"},
	{"/.password-store/", "passwords"}, {"/.config/op/", "1Password"}, {"/.config/sops/", "SOPS keys"},
}

// harmless are files in those directories that hold no secret.
var harmless = []string{"/known_hosts", "/known_hosts.old", "/.ssh/config", "/config_default", "/active_config", "/gpg.conf", "/pubring.kbx", "/trustdb.gpg", ".pub", ".lock"}

// keys are names of private keys, wherever they are.
var keys = map[string]bool{"id_rsa": true, "id_ed25519": true, "id_ecdsa": true, "id_dsa": true}

// Sensitive says what secrets a file holds by its path: "SSH key", "AWS credentials"; "" if it
// is not known to hold any. It knows what programs keep where by custom, and nothing of contents.
func Sensitive(path string) string {
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return ""
	}
	name := path[slash+1:]
	if keys[name] {
		return "SSH key"
	}
	if strings.HasPrefix(name, ".env.") && name != ".env.example" && name != ".env.sample" || strings.HasPrefix(name, "git-credentials-") {
		return "environment file or token"
	}
	if what, ok := byEnd(path, slash); ok {
		return what
	}
	for _, d := range secretDirs {
		if strings.Contains(path, d.dir) {
			return unlessHarmless(path, d.what)
		}
	}
	return ""
}

// byEnd looks for the last one, two and three parts of a path.
func byEnd(path string, slash int) (string, bool) {
	for range 3 {
		if what, ok := secretEnds[path[slash:]]; ok {
			return what, true
		}
		slash = strings.LastIndexByte(path[:slash], '/')
		if slash < 0 {
			break
		}
	}
	return "", false
}

func unlessHarmless(path, what string) string {
	for _, h := range harmless {
		if strings.HasSuffix(path, h) {
			return ""
		}
	}
	return what
}
