package bpf

import (
	"path"
	"slices"
	"strings"
)

// Sensitive reports whether a path holds what a job should not read without a reason:
// credentials of tools and clouds, keys, what the machine knows of its users, and the
// runner's own secrets.
func Sensitive(file string) bool {
	dir, name := path.Split(file)
	if slices.Contains(sensitiveNames, name) || strings.HasPrefix(name, ".credentials") || strings.HasPrefix(name, "id_") && !strings.HasSuffix(name, ".pub") {
		return true
	}
	for _, d := range sensitiveDirs {
		if strings.Contains(dir, d) {
			return true
		}
	}
	return slices.Contains(sensitiveFiles, file)
}

var sensitiveNames = []string{
	".netrc", "_netrc", ".npmrc", ".pypirc", ".git-credentials", ".pgpass", ".my.cnf", ".vault-token", ".dockercfg",
	".runner", ".env", ".htpasswd", ".yarnrc.yml", "credentials", "credentials.json", "credentials.toml", "credentials.tfrc.json",
	"application_default_credentials.json", "kubeconfig", "kubelet.conf", "admin.conf", "service-account.json", "hosts.yml",
	"shadow", "gshadow", "terraform.tfstate", "mem", "environ", "maps", "msal_token_cache.json", "accessTokens.json",
}

var sensitiveDirs = []string{
	"/.ssh/", "/.aws/", "/.azure/", "/.gnupg/", "/.kube/", "/.docker/", "/.config/gcloud/", "/.config/gh/",
	"/var/run/secrets/", "/run/secrets/", "/etc/kubernetes/", "/etc/ssl/private/", "/etc/sudoers.d/", "/.password-store/",
}

var sensitiveFiles = []string{"/etc/passwd", "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/krb5.keytab"}
