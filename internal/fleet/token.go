package fleet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/muster-ci/muster"
)

// tokens makes the credentials of machines by a key that survives restarts: a
// run that takes over from a killed one knows its agents by computing, so that
// nothing of theirs is stored.
type tokens struct{ key []byte }

// The two kinds of token (package wire).
const (
	bootToken    = "boot"
	sessionToken = "session"
)

// mint makes the token of a runner: "boot.POOL.RUNNER.MAC".
func (t tokens) mint(kind, pool string, id muster.RunnerID) muster.Secret {
	body := strings.Join([]string{kind, pool, string(id)}, ".")
	return muster.Secret(body + "." + base64.RawURLEncoding.EncodeToString(t.mac(body)))
}

func (t tokens) mac(body string) []byte {
	h := hmac.New(sha256.New, t.key)
	h.Write([]byte(body))
	return h.Sum(nil)
}

// verify returns whose token it is. The error says nothing of its content.
func (t tokens) verify(kind, token string) (pool string, id muster.RunnerID, err error) {
	refused := muster.Errorf(muster.CodeUnauthenticated, "the %s token is not one of this fleet", kind)
	part := strings.Split(token, ".")
	if len(part) != 4 || part[0] != kind || !muster.RunnerID(part[2]).Valid() {
		return "", "", refused
	}
	mac, err := base64.RawURLEncoding.DecodeString(part[3])
	if err != nil || !hmac.Equal(mac, t.mac(strings.Join(part[:3], "."))) {
		return "", "", refused
	}
	return part[1], muster.RunnerID(part[2]), nil
}

// mark is the first two bytes of every runner's id of this fleet. Ids are a part
// of the names on GitHub, so that one fleet never takes the registrations of
// another with equal pool names for its own leftovers.
func (t tokens) mark() [2]byte { return [2]byte(t.mac("mark")[:2]) }
