package gateway

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/muster-ci/muster"
)

// maxToken is the most that is looked at of a launch token, in bytes.
const maxToken = 8 << 10

// launch is what a launch token says.
type launch struct {
	ID        string
	Runner    muster.RunnerID
	Workspace string
	Pool      string
	ExpiresAt time.Time
	Build     muster.BuildRequest
}

// claims are a launch token's, as they are written.
type claims struct {
	jwt.RegisteredClaims
	Workspace     string   `json:"ws"`
	Pool          string   `json:"pool"`
	Owner         string   `json:"owner"`
	Repository    string   `json:"repositoryName"`
	RepositoryURL string   `json:"repositoryURL"`
	Labels        []string `json:"labels"`
	Job           int64    `json:"workflowId"`
	GitHubURL     string   `json:"gitHubURL"`
}

// issuer is the iss claim of every token of a control plane.
const issuer = "muster"

// keyring are the control plane's public keys, from a file that may change while the
// gateway runs.
type keyring struct {
	path string

	mu   sync.Mutex
	read time.Time // the file's time when it was read
	keys map[string]ed25519.PublicKey
}

// load reads the file if it has changed since. A file that cannot be read leaves the
// keys that were read before.
func (k *keyring) load() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	info, err := os.Stat(k.path)
	if err != nil {
		return fmt.Errorf("launch keys: %w", err)
	}
	if k.keys != nil && info.ModTime().Equal(k.read) {
		return nil
	}
	text, err := os.ReadFile(k.path)
	if err != nil {
		return fmt.Errorf("launch keys: %w", err)
	}
	keys, err := parseKeys(text)
	if err != nil {
		return fmt.Errorf("launch keys %s: %w", k.path, err)
	}
	k.keys, k.read = keys, info.ModTime()
	return nil
}

// parseKeys reads a JSON Web Key Set.
func parseKeys(text []byte) (map[string]ed25519.PublicKey, error) {
	var set struct {
		Keys []struct {
			Type  string `json:"kty"`
			Curve string `json:"crv"`
			ID    string `json:"kid"`
			X     string `json:"x"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not what the control plane's /gha/keys answers: %w", err)
	}
	out := map[string]ed25519.PublicKey{}
	for _, key := range set.Keys {
		x, err := base64.RawURLEncoding.DecodeString(key.X)
		if err != nil || key.Type != "OKP" || key.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize || key.ID == "" {
			return nil, fmt.Errorf("key %q is not an Ed25519 key with an id", key.ID)
		}
		out[key.ID] = x
	}
	if len(out) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return out, nil
}

// key finds a key by its id, in a file that has changed as well.
func (k *keyring) key(id string) (ed25519.PublicKey, bool) {
	if err := k.load(); err != nil && k.count() == 0 {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.keys[id]
	return key, ok
}

func (k *keyring) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys)
}

var errUnknownKey = errors.New("unknown key id")

// verify checks a launch token: signature, kind of signature, key id, issuer,
// audience, end, and that it has every claim. The error never repeats its text.
func (k *keyring) verify(token, audience string, now time.Time) (launch, error) {
	refuse := func(why string) error {
		return muster.Errorf(muster.CodeUnauthenticated, "the launch token is refused: %s", why)
	}
	if len(token) > maxToken || token == "" {
		return launch{}, refuse("it is malformed")
	}
	var read claims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(token, &read, func(tok *jwt.Token) (any, error) {
		id, _ := tok.Header["kid"].(string)
		if key, ok := k.key(id); ok {
			return key, nil
		}
		return nil, errUnknownKey
	})
	switch {
	case errors.Is(err, errUnknownKey):
		return launch{}, refuse("it is signed with a key that is not in keys_file")
	case err != nil:
		return launch{}, refuse("it is malformed or forged")
	case read.Issuer != issuer || read.ID == "" || read.Subject == "" || read.ExpiresAt == nil || read.Workspace == "" || read.Pool == "" || len(read.Audience) != 1:
		return launch{}, refuse("it lacks a claim")
	case !now.Before(read.ExpiresAt.Time):
		return launch{}, refuse("it has expired")
	case strings.TrimRight(read.Audience[0], "/") != audience:
		return launch{}, muster.Errorf(muster.CodeForbidden, "the launch token is for another control plane")
	case read.GitHubURL == "" || read.Owner == "":
		return launch{}, muster.Errorf(muster.CodeForbidden, "the token is no launch token: it names no place where the runner registers")
	}
	return launch{
		ID: read.ID, Runner: muster.RunnerID(read.Subject), Workspace: read.Workspace, Pool: read.Pool, ExpiresAt: read.ExpiresAt.Time,
		Build: muster.BuildRequest{
			Owner: read.Owner, Repository: read.Repository, RepositoryURL: read.RepositoryURL,
			GitHubURL: read.GitHubURL, Labels: strings.Join(read.Labels, ","), Job: read.Job,
		},
	}, nil
}
