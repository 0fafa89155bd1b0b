package secretbox

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/muster-ci/muster"
)

// maxToken is the most that Verify looks at, in bytes; a boot token has under 600.
const maxToken = 4 << 10

// tokenText are the characters of a JWT.
const tokenText = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// issuer is the iss claim of every boot token.
const issuer = "muster"

// BootClaims is what a boot token says. Every field but the last two is required.
type BootClaims struct {
	// JTI is the token's own id; the store lets each be used once (4-10).
	JTI       string
	Runner    muster.RunnerID
	Workspace string
	Pool      string
	// Audience is the control plane that the token is for, by its public URL.
	Audience string
	// ExpiresAt outlives the longest time that a machine may wait to be started
	// (S2-11), to the second.
	ExpiresAt time.Time
	// IssuedAt may be zero.
	IssuedAt time.Time
	// Build is the build request that the machine is launched for: it makes the boot
	// token the launch token of Slurm's gateway, which decides by it who runs what.
	Build muster.BuildRequest
}

// Tokens mints and verifies boot tokens: JWTs signed with Ed25519 (EdDSA). The
// key is derived from the Box's, so rotating the Box's keys rotates these too:
// the first signs, all verify. The zero Tokens verifies nothing. Safe for
// concurrent use.
type Tokens struct {
	kid    string
	signer ed25519.PrivateKey
	public map[string]ed25519.PublicKey
	order  []string // the key ids, in the order of the Box's keys
	parser *jwt.Parser
}

// NewTokens derives the signing keys from the Box's keys.
func NewTokens(b *Box) (*Tokens, error) {
	t := &Tokens{
		public: make(map[string]ed25519.PublicKey, len(b.keys)),
		// Time and audience are checked by Verify, which tells them apart.
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
			jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()),
	}
	for _, k := range b.keys {
		seed, err := derive(k.root, nil, "muster boot token", ed25519.SeedSize)
		if err != nil {
			return nil, err
		}
		signer := ed25519.NewKeyFromSeed(seed)
		public := signer.Public().(ed25519.PublicKey)
		sum := sha256.Sum256(public)
		kid := base64.RawURLEncoding.EncodeToString(sum[:9])
		t.public[kid] = public
		t.order = append(t.order, kid)
		if t.signer == nil {
			t.kid, t.signer = kid, signer
		}
	}
	return t, nil
}

// claims is BootClaims as it is written in the token.
type claims struct {
	jwt.RegisteredClaims
	Workspace string `json:"ws"`
	Pool      string `json:"pool"`
	// The build request, in the words that launch tokens have always had.
	Owner         string   `json:"owner,omitempty"`
	Repository    string   `json:"repositoryName,omitempty"`
	RepositoryURL string   `json:"repositoryURL,omitempty"`
	Labels        []string `json:"labels,omitempty"`
	Job           int64    `json:"workflowId,omitempty"`
	GitHubURL     string   `json:"gitHubURL,omitempty"`
}

// Mint makes a boot token. The error is CodeInvalid when a claim is missing.
func (t *Tokens) Mint(c BootClaims) (muster.Secret, error) {
	if !c.complete() {
		return "", muster.Errorf(muster.CodeInvalid, "a boot token needs an id, a runner, a workspace, a pool, an audience and an expiry")
	}
	made := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Subject:   string(c.Runner),
			Audience:  jwt.ClaimStrings{c.Audience},
			ExpiresAt: jwt.NewNumericDate(c.ExpiresAt),
			ID:        c.JTI,
		},
		Workspace: c.Workspace,
		Pool:      c.Pool,
		Owner:     c.Build.Owner, Repository: c.Build.Repository, RepositoryURL: c.Build.RepositoryURL,
		Job: c.Build.Job, GitHubURL: c.Build.GitHubURL,
	}
	if c.Build.Labels != "" {
		made.Labels = strings.Split(c.Build.Labels, ",")
	}
	if !c.IssuedAt.IsZero() {
		made.IssuedAt = jwt.NewNumericDate(c.IssuedAt)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, made)
	token.Header["kid"] = t.kid
	signed, err := token.SignedString(t.signer)
	return muster.Secret(signed), err
}

// PublicKeys are the keys that tokens are verified with, as a JSON Web Key Set (RFC
// 7517, RFC 8037), the one that signs first. They are no secret.
func (t *Tokens) PublicKeys() []byte {
	type key struct {
		Type  string `json:"kty"`
		Curve string `json:"crv"`
		Use   string `json:"use"`
		Alg   string `json:"alg"`
		ID    string `json:"kid"`
		X     string `json:"x"`
	}
	set := struct {
		Keys []key `json:"keys"`
	}{}
	for _, id := range t.order {
		set.Keys = append(set.Keys, key{"OKP", "Ed25519", "sig", jwt.SigningMethodEdDSA.Alg(), id, base64.RawURLEncoding.EncodeToString(t.public[id])})
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil // texts always marshal
	}
	return append(text, '\n')
}

// Verify returns the claims of a token that one of the keys signed, that has not
// expired at now, and that is for audience. The error is CodeUnauthenticated for
// a token that is malformed, forged or expired, and CodeForbidden for a genuine
// one that is for another audience (4-10). It never repeats the token's text.
func (t *Tokens) Verify(token, audience string, now time.Time) (BootClaims, error) {
	// base64 decoders skip line ends; a token has one spelling only.
	if len(t.public) == 0 || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return !strings.ContainsRune(tokenText, r) }) {
		return BootClaims{}, refused("it is malformed", nil)
	}
	var read claims
	_, err := t.parser.ParseWithClaims(token, &read, func(tok *jwt.Token) (any, error) {
		kid, _ := tok.Header["kid"].(string)
		if public, ok := t.public[kid]; ok {
			return public, nil
		}
		return nil, errUnknownKey
	})
	if err != nil {
		return BootClaims{}, refused("it is malformed or not signed by this control plane", err)
	}
	c := BootClaims{JTI: read.ID, Runner: muster.RunnerID(read.Subject), Workspace: read.Workspace, Pool: read.Pool}
	c.Build = muster.BuildRequest{
		Owner: read.Owner, Repository: read.Repository, RepositoryURL: read.RepositoryURL,
		GitHubURL: read.GitHubURL, Labels: strings.Join(read.Labels, ","), Job: read.Job,
	}
	if read.IssuedAt != nil {
		c.IssuedAt = read.IssuedAt.UTC()
	}
	if read.ExpiresAt != nil {
		c.ExpiresAt = read.ExpiresAt.UTC()
	}
	if len(read.Audience) == 1 {
		c.Audience = read.Audience[0]
	}
	switch {
	case read.Issuer != issuer || !c.complete():
		return BootClaims{}, refused("it lacks a claim", nil)
	case !now.Before(c.ExpiresAt):
		return BootClaims{}, refused("it has expired", nil)
	case c.Audience != audience:
		return BootClaims{}, muster.Errorf(muster.CodeForbidden, "the boot token is for another control plane")
	}
	return c, nil
}

var errUnknownKey = errors.New("unknown key id")

// refused keeps the parser's error out of the answer: only its class is told.
func refused(why string, cause error) error {
	return &muster.Error{Code: muster.CodeUnauthenticated, Message: "the boot token is refused: " + why, Err: cause}
}

func (c BootClaims) complete() bool {
	return c.JTI != "" && c.Runner != "" && c.Workspace != "" && c.Pool != "" && c.Audience != "" && !c.ExpiresAt.IsZero()
}

// NewSession makes an agent's session token from random bytes, and the hash
// under which the store keeps it. The token itself is kept by the agent only.
func NewSession(random [32]byte) (token muster.Secret, hash []byte) {
	text := "mss_" + base64.RawURLEncoding.EncodeToString(random[:])
	return muster.Secret(text), SessionHash(text)
}

// SessionHash is the hash of a session token. A token has 256 random bits, so a
// plain SHA-256 is enough and comparing hashes leaks nothing about tokens.
func SessionHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
