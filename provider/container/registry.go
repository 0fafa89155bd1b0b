package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Registry is the way into one registry of images. What it holds are references:
// the secrets themselves are read when an image is pulled, so that they may change,
// and are never kept.
type Registry struct {
	// Host is the registry's name as it stands in images, with its port.
	Host string `json:"host"`
	// Kind is "gcp" (Artifact Registry), "aws" (ECR) or "custom".
	Kind string `json:"kind"`
	// KeyFile is a service account's key in JSON, for gcp.
	KeyFile string `json:"key_file"`
	// Username is for custom.
	Username string `json:"username"`
	// PasswordFile and PasswordEnv say where the password is.
	PasswordFile string `json:"password_file"`
	PasswordEnv  string `json:"password_env"`
	// Helper is a program that speaks the protocol of Docker's credential helpers, such
	// as docker-credential-ecr-login; "get" is added to its arguments.
	Helper []string `json:"helper"`
}

// The kinds of registries.
const (
	registryGCP    = "gcp"
	registryAWS    = "aws"
	registryCustom = "custom"
)

// helperTimeout is how long a credential helper may take: it may have to ask a cloud.
const helperTimeout = 30 * time.Second

var registryHost = regexp.MustCompile(`\A[A-Za-z0-9.-]+(:[0-9]+)?\z|\A\[[0-9a-fA-F:]+\](:[0-9]+)?\z`)

// problems names everything that is wrong with r.
func (r Registry) problems() (problems []error) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !registryHost.MatchString(r.Host) {
		add("host must be the registry's name as in images, without a scheme: europe-docker.pkg.dev, registry.example.com:5000")
	}
	ways := 0
	for _, given := range []bool{r.KeyFile != "", r.PasswordFile != "" || r.PasswordEnv != "", len(r.Helper) > 0} {
		if given {
			ways++
		}
	}
	if r.PasswordFile != "" && r.PasswordEnv != "" {
		add("password_file and password_env are both set; keep one")
	}
	if ways > 1 {
		add("key_file, a password and helper exclude each other; keep one")
	}
	for _, f := range []struct{ key, path string }{{"key_file", r.KeyFile}, {"password_file", r.PasswordFile}} {
		if f.path == "" {
			continue
		}
		if !filepath.IsAbs(f.path) {
			add("%s: %q must be an absolute path", f.key, f.path)
		} else if _, err := os.Stat(f.path); err != nil {
			add("%s: %w", f.key, err)
		}
	}
	if r.PasswordEnv != "" && !envName.MatchString(r.PasswordEnv) {
		add("password_env: %q is not the name of a variable", r.PasswordEnv)
	}
	if len(r.Helper) > 0 && r.Helper[0] == "" {
		add("helper: the first element must be a program")
	}
	secret := r.PasswordFile != "" || r.PasswordEnv != ""
	switch r.Kind {
	case registryGCP:
		if r.KeyFile == "" && len(r.Helper) == 0 && !secret {
			add("gcp needs key_file, or helper: [docker-credential-gcloud], or an access token in password_file or password_env")
		}
		if r.Username != "" {
			add("username: gcp has its own; leave it out")
		}
	case registryAWS:
		if len(r.Helper) == 0 && !secret {
			add("aws needs helper: [docker-credential-ecr-login], or what `aws ecr get-login-password` prints in password_file or password_env")
		}
		if r.KeyFile != "" {
			add("key_file: is for gcp")
		}
		if r.Username != "" && r.Username != "AWS" {
			add("username: aws knows only AWS; leave it out")
		}
	case registryCustom:
		if len(r.Helper) == 0 && (r.Username == "" || !secret) {
			add("custom needs username with password_file or password_env, or helper")
		}
		if r.KeyFile != "" {
			add("key_file: is for gcp")
		}
	default:
		add("kind: %q must be gcp, aws or custom", r.Kind)
	}
	return problems
}

// auth is what the engine has to say to the registry.
func (r Registry) auth(ctx context.Context) (registry.AuthConfig, error) {
	a := registry.AuthConfig{ServerAddress: r.Host}
	if len(r.Helper) > 0 {
		return r.ask(ctx, a)
	}
	secret, err := r.secret()
	if err != nil {
		return a, err
	}
	a.Password = secret.Reveal()
	switch r.Kind {
	case registryGCP:
		// A key is told from an access token by its user.
		a.Username = "oauth2accesstoken"
		if r.KeyFile != "" {
			a.Username = "_json_key"
		}
	case registryAWS:
		a.Username = "AWS"
	default:
		a.Username = r.Username
	}
	return a, nil
}

func (r Registry) secret() (muster.Secret, error) {
	if r.PasswordEnv != "" {
		if v := os.Getenv(r.PasswordEnv); v != "" {
			return muster.Secret(v), nil
		}
		return "", fmt.Errorf("%w: registry %s: the variable %s is empty", provider.ErrInvalid, r.Host, r.PasswordEnv)
	}
	path := r.PasswordFile + r.KeyFile // one of them is set
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%w: registry %s: %w", provider.ErrInvalid, r.Host, err)
	}
	if r.KeyFile != "" && !json.Valid(text) {
		return "", fmt.Errorf("%w: registry %s: key_file %s is no service account's key in JSON", provider.ErrInvalid, r.Host, path)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return "", fmt.Errorf("%w: registry %s: %s is empty", provider.ErrInvalid, r.Host, path)
	}
	return muster.Secret(text), nil
}

// ask runs the helper. Its answer is secret; its standard error is for operators.
func (r Registry) ask(ctx context.Context, a registry.AuthConfig) (registry.AuthConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Helper[0], append(slices.Clone(r.Helper[1:]), "get")...)
	cmd.Stdin = strings.NewReader(r.Host + "\n")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return a, fmt.Errorf("%w: registry %s: helper %s: %w", provider.ErrTransient, r.Host, r.Helper[0], ctx.Err())
	}
	if err != nil {
		said := errs.String()
		if said == "" {
			said = string(out) // by the protocol, what went wrong is said there
		}
		class := provider.ErrTransient
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			class = provider.ErrInvalid
		}
		return a, fmt.Errorf("%w: registry %s: helper %s: %w: %s", class, r.Host, r.Helper[0], err, short(said))
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out, &answer); err != nil || answer.Secret == "" {
		return a, fmt.Errorf("%w: registry %s: helper %s answered no Username and Secret", provider.ErrInvalid, r.Host, r.Helper[0])
	}
	if answer.Username == "<token>" { // the protocol's word for an identity token
		a.IdentityToken = answer.Secret
	} else {
		a.Username, a.Password = answer.Username, answer.Secret
	}
	return a, nil
}

// short is the first line of a text, made fit for an error.
func short(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return fmt.Sprintf("%.200s", line)
}

// credentials are the header for pulling an image: "" if no registry is configured for it.
func (p *Provider) credentials(ctx context.Context, image reference.Named) (string, error) {
	host := reference.Domain(image)
	i := slices.IndexFunc(p.cfg.Registries, func(r Registry) bool { return r.Host == host })
	if i < 0 {
		return "", nil
	}
	a, err := p.cfg.Registries[i].auth(ctx)
	if err != nil {
		return "", err
	}
	header, err := authconfig.Encode(a)
	if err != nil {
		return "", fmt.Errorf("%w: registry %s: encode credentials", provider.ErrInvalid, host)
	}
	return header, nil
}
