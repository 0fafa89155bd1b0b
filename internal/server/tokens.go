package server

import (
	"crypto/rand"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/secretbox"
)

// tokens gives the lifecycle its credentials from the secret box.
type tokens struct {
	boot *secretbox.Tokens
	// audience is this control plane, so that a token of another one is refused.
	audience string
}

func (t tokens) MintBoot(b muster.BootToken, pool string) (muster.Secret, error) {
	return t.boot.Mint(secretbox.BootClaims{
		JTI: b.JTI, Runner: b.Runner, Workspace: b.Workspace, Pool: pool, Audience: t.audience, ExpiresAt: b.ExpiresAt,
		IssuedAt: time.Now(), Build: b.Build,
	})
}

func (t tokens) VerifyBoot(token string, now time.Time) (muster.BootToken, error) {
	c, err := t.boot.Verify(token, t.audience, now)
	if err != nil {
		return muster.BootToken{}, err
	}
	return muster.BootToken{JTI: c.JTI, Runner: c.Runner, Workspace: c.Workspace, ExpiresAt: c.ExpiresAt, Build: c.Build}, nil
}

func (t tokens) NewSession() (muster.Secret, []byte, error) {
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", nil, err
	}
	token, hash := secretbox.NewSession(random)
	return token, hash, nil
}

func (t tokens) HashSession(token string) []byte { return secretbox.SessionHash(token) }
