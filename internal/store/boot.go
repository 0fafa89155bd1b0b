package store

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"github.com/muster-ci/muster"
)

// SaveBootToken remembers a token that was minted for a runner. CodeNotFound if
// there is no such runner in the workspace, CodeConflict if the id was saved before.
func (s *Store) SaveBootToken(ctx context.Context, b muster.BootToken) error {
	if b.JTI == "" {
		return muster.Errorf(muster.CodeInvalid, "a boot token needs an id")
	}
	return s.write(ctx, func(t *tx) error {
		if _, err := t.runner(b.Workspace, b.Runner, ""); err != nil {
			return err
		}
		n, err := t.exec("INSERT INTO boot_tokens (jti, workspace, runner, expires_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			b.JTI, b.Workspace, b.Runner, b.ExpiresAt)
		if err == nil && n == 0 {
			err = muster.Errorf(muster.CodeConflict, "there is a boot token of that id already")
		}
		return err
	})
}

// UseBootToken spends a token (4-10). The first nonce to present it wins; the
// same nonce may present it again within window of that, because the answer may
// have been lost, which replay tells. The error is CodeForbidden for a token
// never saved, CodeUnauthenticated for one that has expired, CodeGone when its
// runner is draining or destroyed, and CodeConflict when another nonce has used
// it, or this one too long ago.
func (s *Store) UseBootToken(ctx context.Context, jti, nonce string, now time.Time, window time.Duration) (b muster.BootToken, replay bool, err error) {
	hash := sha256.Sum256([]byte(nonce))
	now = instant(micros(now))
	err = s.write(ctx, func(t *tx) error {
		b, replay = muster.BootToken{JTI: jti}, false
		var expires, used int64
		var usedBy []byte
		found, err := t.row("SELECT workspace, runner, expires_at, used_at, nonce_hash FROM boot_tokens WHERE jti = ?"+t.forUpdate(),
			[]any{jti}, &b.Workspace, &b.Runner, &expires, &used, &usedBy)
		if err != nil {
			return err
		}
		if !found {
			return muster.Errorf(muster.CodeForbidden, "the boot token is not one of this control plane")
		}
		b.ExpiresAt = instant(expires)
		if !now.Before(b.ExpiresAt) {
			return muster.Errorf(muster.CodeUnauthenticated, "the boot token has expired")
		}
		r, err := t.runner(b.Workspace, b.Runner, "")
		switch {
		case muster.CodeOf(err) == muster.CodeNotFound, err == nil && (r.State == muster.RunnerDraining || r.State == muster.RunnerDestroyed):
			return muster.Errorf(muster.CodeGone, "the runner is no longer needed")
		case err != nil:
			return err
		}
		if used != 0 {
			replay = true
			same := subtle.ConstantTimeCompare(usedBy, hash[:]) == 1
			if !same || now.Sub(instant(used)) > window {
				return muster.Errorf(muster.CodeConflict, "the boot token was used already")
			}
			return nil
		}
		_, err = t.exec("UPDATE boot_tokens SET used_at = ?, nonce_hash = ? WHERE jti = ?", now, hash[:], jti)
		return err
	})
	if err != nil {
		return muster.BootToken{}, false, err
	}
	return b, replay, nil
}

// PutSession remembers the hash of a session token of a runner. Earlier ones stay
// valid: the agent may hold the one whose answer was not lost. CodeNotFound if
// there is no such runner in the workspace.
func (s *Store) PutSession(ctx context.Context, workspace string, id muster.RunnerID, tokenHash []byte) error {
	if len(tokenHash) != sha256.Size {
		return muster.Errorf(muster.CodeInvalid, "a session is kept by the SHA-256 of its token")
	}
	return s.write(ctx, func(t *tx) error {
		if _, err := t.runner(workspace, id, ""); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO sessions (token_hash, workspace, runner) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", tokenHash, workspace, id)
		return err
	})
}

// RunnerBySession returns the runner whose session token has the hash, also when
// it is destroyed already. CodeUnauthenticated if there is none. It takes no
// workspace: the token is what tells it.
func (s *Store) RunnerBySession(ctx context.Context, tokenHash []byte) (muster.Runner, error) {
	var r muster.Runner
	err := s.read(ctx, func(t *tx) (err error) {
		var found bool
		r, found, err = one[muster.Runner](t, `SELECT r.doc FROM sessions s JOIN runners r ON r.workspace = s.workspace AND r.id = s.runner
			WHERE s.token_hash = ?`, tokenHash)
		if err == nil && !found {
			err = muster.Errorf(muster.CodeUnauthenticated, "the session token is not one of this control plane")
		}
		return err
	})
	return r, err
}
