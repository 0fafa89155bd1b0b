package attest

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Key derives the signing key from a secret of at least 32 bytes that the control plane
// keeps: the same secret, the same key.
func Key(secret []byte) (ed25519.PrivateKey, error) {
	if len(secret) < 32 {
		return nil, fmt.Errorf("derive the key of attestations: the secret has %d bytes, and 32 are needed", len(secret))
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "muster runtime-trace attestation 1", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the key of attestations: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// KeyID is the first 16 bytes of the SHA-256 of a public key in its PKIX form, as hexadecimal digits.
func KeyID(pub ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:16])
}

// EncodePublic returns a public key as PEM, for whoever checks.
func EncodePublic(pub ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublic reads what EncodePublic wrote.
func ParsePublic(text []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("read the public key: this is no PEM; it begins with -----BEGIN PUBLIC KEY-----")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	pub, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("read the public key: it is %T, and attestations are signed with Ed25519", key)
	}
	return pub, nil
}

// Sign returns the envelope of a statement as JSON.
func Sign(ctx context.Context, statement []byte, key ed25519.PrivateKey) ([]byte, error) {
	signer, err := dsse.NewEnvelopeSigner(signer{key})
	if err != nil {
		return nil, fmt.Errorf("sign attestation: %w", err)
	}
	e, err := signer.SignPayload(ctx, PayloadType, statement)
	if err != nil {
		return nil, fmt.Errorf("sign attestation: %w", err)
	}
	return json.Marshal(e)
}

type signer struct{ key ed25519.PrivateKey }

func (s signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(s.key, data), nil
}

func (s signer) KeyID() (string, error) { return KeyID(s.key.Public().(ed25519.PublicKey)), nil }

type verifier struct{ pub ed25519.PublicKey }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.pub, data, sig) {
		return errors.New("the signature does not fit")
	}
	return nil
}

func (v verifier) KeyID() (string, error)   { return KeyID(v.pub), nil }
func (v verifier) Public() crypto.PublicKey { return v.pub }
