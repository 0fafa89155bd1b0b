package container

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/registry"

	"github.com/muster-ci/muster/provider"
)

// helper writes a credential helper and returns its path.
func helper(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker-credential-test")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// S4-49: each of the three kinds becomes what its registry asks for.
func TestCredentialsOfThreeKinds(t *testing.T) {
	dir := t.TempDir()
	key, password := filepath.Join(dir, "key.json"), filepath.Join(dir, "password")
	const account = `{"type": "service_account", "private_key": "canary-key"}`
	for path, text := range map[string]string{key: account + "\n", password: "canary-password\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("REGISTRY_TEST_PASSWORD", "canary-of-the-environment")
	ecr := helper(t, `read host; [ "$1" = get ] && [ "$host" = 1.dkr.ecr.eu-west-1.amazonaws.com ] && echo '{"ServerURL":"x","Username":"AWS","Secret":"canary-ecr"}'`)
	token := helper(t, `echo '{"Username":"<token>","Secret":"canary-identity"}'`)
	for name, tc := range map[string]struct {
		r    Registry
		want registry.AuthConfig
	}{
		"GCPKey":         {Registry{Kind: "gcp", KeyFile: key}, registry.AuthConfig{Username: "_json_key", Password: account}},
		"GCPAccessToken": {Registry{Kind: "gcp", PasswordEnv: "REGISTRY_TEST_PASSWORD"}, registry.AuthConfig{Username: "oauth2accesstoken", Password: "canary-of-the-environment"}},
		"AWSHelper":      {Registry{Host: "1.dkr.ecr.eu-west-1.amazonaws.com", Kind: "aws", Helper: []string{ecr}}, registry.AuthConfig{Username: "AWS", Password: "canary-ecr"}},
		"AWSPassword":    {Registry{Kind: "aws", PasswordFile: password}, registry.AuthConfig{Username: "AWS", Password: "canary-password"}},
		"CustomFile":     {Registry{Kind: "custom", Username: "ci", PasswordFile: password}, registry.AuthConfig{Username: "ci", Password: "canary-password"}},
		"CustomToken":    {Registry{Kind: "custom", Helper: []string{token}}, registry.AuthConfig{IdentityToken: "canary-identity"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.r.Host == "" {
				tc.r.Host = "registry.example.com"
			}
			tc.want.ServerAddress = tc.r.Host
			p := &Provider{cfg: Config{Registries: []Registry{{Host: "other.example.com", Kind: "custom", Username: "no", PasswordFile: key}, tc.r}}}
			image, err := imageName(tc.r.Host + "/team/image:1")
			if err != nil {
				t.Fatal(err)
			}
			header, err := p.credentials(t.Context(), image)
			if err != nil {
				t.Fatal(err)
			}
			text, err := base64.URLEncoding.DecodeString(header)
			if err != nil {
				t.Fatal(err)
			}
			var got registry.AuthConfig
			if err := json.Unmarshal(text, &got); err != nil || got != tc.want {
				t.Errorf("got %+v, %v", got, err)
			}
			// Other registries get nothing.
			if image, err = imageName("elsewhere.example.com/team/image:1"); err != nil {
				t.Fatal(err)
			}
			if header, err := p.credentials(t.Context(), image); err != nil || header != "" {
				t.Errorf("another registry gets %q, %v", header, err)
			}
			if text := fmt.Sprintf("%+v", tc.r); strings.Contains(text, "canary") {
				t.Errorf("the configuration holds a secret: %s", text)
			}
		})
	}
}

// What goes wrong with credentials is said, without them.
func TestCredentialsThatFail(t *testing.T) {
	dir := t.TempDir()
	empty, text := filepath.Join(dir, "empty"), filepath.Join(dir, "canary.txt")
	if err := errors.Join(os.WriteFile(empty, []byte("\n"), 0o600), os.WriteFile(text, []byte("canary, not JSON"), 0o600)); err != nil {
		t.Fatal(err)
	}
	hung, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for name, tc := range map[string]struct {
		r     Registry
		class error
		word  string
	}{
		"EmptyFile":     {Registry{Kind: "custom", Username: "u", PasswordFile: empty}, provider.ErrInvalid, "is empty"},
		"NoFile":        {Registry{Kind: "custom", Username: "u", PasswordFile: filepath.Join(dir, "gone")}, provider.ErrInvalid, "no such file"},
		"NoVariable":    {Registry{Kind: "aws", PasswordEnv: "REGISTRY_TEST_UNSET"}, provider.ErrInvalid, "is empty"},
		"KeyIsNoJSON":   {Registry{Kind: "gcp", KeyFile: text}, provider.ErrInvalid, "no service account"},
		"HelperFails":   {Registry{Kind: "aws", Helper: []string{helper(t, "echo 'expired session' >&2; exit 3")}}, provider.ErrTransient, "expired session"},
		"HelperSays":    {Registry{Kind: "aws", Helper: []string{helper(t, "echo 'credentials not found in native keychain'; exit 1")}}, provider.ErrTransient, "not found in native"},
		"NoHelper":      {Registry{Kind: "aws", Helper: []string{filepath.Join(dir, "gone")}}, provider.ErrInvalid, "no such file"},
		"HelperBabbles": {Registry{Kind: "aws", Helper: []string{helper(t, "echo canary")}}, provider.ErrInvalid, "answered no"},
		"HelperHangs":   {Registry{Kind: "aws", Helper: []string{helper(t, "exec sleep 100")}}, provider.ErrTransient, "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.r.Host = "r.example.com"
			ctx := t.Context()
			if name == "HelperHangs" {
				ctx = hung
			}
			_, err := tc.r.auth(ctx)
			if !errors.Is(err, tc.class) || !strings.Contains(err.Error(), tc.word) || strings.Contains(strings.ReplaceAll(err.Error(), "canary.txt", ""), "canary") {
				t.Errorf("%v", err)
			}
		})
	}
}

// What registries and engines say of a pull that failed decides whether it is tried again.
func TestPullsThatFail(t *testing.T) {
	p := &Provider{engine: &engine{host: "unix:///x"}}
	for text, class := range map[string]error{
		"toomanyrequests: You have reached your pull rate limit":   provider.ErrTransient,
		"reading manifest 1 in r/x: manifest unknown":              provider.ErrInvalid,
		"unauthorized: authentication required":                    provider.ErrInvalid,
		"denied: requested access to the resource is denied":       provider.ErrInvalid,
		"write /var/lib/docker/tmp/x: no space left on device":     provider.ErrCapacity,
		"dial tcp: lookup r.example.com: no such host":             provider.ErrTransient,
		"received unexpected HTTP status: 503 Service Unavailable": provider.ErrTransient,
		"net/http: TLS handshake timeout":                          provider.ErrTransient,
	} {
		if err := p.pullFailed(t.Context(), "r/x:1", errors.New(text)); !errors.Is(err, class) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
