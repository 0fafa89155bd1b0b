package compat

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// Secrets are what callers prove themselves with. Shared is required; where another
// one is set, Shared is not accepted for its purpose (C13). Each Previous is
// accepted beside the current one while it is rotated (4-34).
type Secrets struct {
	Shared          muster.Secret
	SharedPrevious  muster.Secret
	Webhook         muster.Secret
	WebhookPrevious muster.Secret
	Control         muster.Secret
	ControlPrevious muster.Secret
	Task            muster.Secret
	TaskPrevious    muster.Secret
}

// The purposes for which a key is derived of the shared secret.
const (
	purposeWebhook = "webhook"
	purposeControl = "control"
	purposeTask    = "task"
)

// Derive returns the key of the shared secret for one purpose, in hex. Whoever has
// it can do what the purpose allows and learns nothing of the secret:
//
//	printf 'muster/webhook' | openssl dgst -sha256 -hmac "$RUNNER_MANAGER_SECRET"
func Derive(shared muster.Secret, purpose string) muster.Secret {
	if shared == "" {
		return ""
	}
	mac := hmac.New(sha256.New, []byte(shared.Reveal()))
	mac.Write([]byte("muster/" + purpose))
	return muster.Secret(hex.EncodeToString(mac.Sum(nil)))
}

// accepted are the secrets that prove a purpose.
func (s Secrets) accepted(purpose string, own, previous muster.Secret) []muster.Secret {
	if own != "" {
		return present(own, previous)
	}
	return present(s.Shared, s.SharedPrevious, Derive(s.Shared, purpose), Derive(s.SharedPrevious, purpose))
}

func present(all ...muster.Secret) (out []muster.Secret) {
	for _, s := range all {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// Webhooks are the secrets by which deliveries may be signed.
func (s Secrets) Webhooks() []muster.Secret {
	return s.accepted(purposeWebhook, s.Webhook, s.WebhookPrevious)
}

// controls are the values that X-Runner-Secret may have.
func (s Secrets) controls() []muster.Secret {
	return s.accepted(purposeControl, s.Control, s.ControlPrevious)
}

// tasks are the keys of tasks' tokens; the first one signs.
func (s Secrets) tasks() []muster.Secret {
	if s.Task != "" {
		return present(s.Task, s.TaskPrevious)
	}
	return present(Derive(s.Shared, purposeTask), Derive(s.SharedPrevious, purposeTask))
}

// anyOf compares in constant time, whatever the lengths, with every secret whatever
// the others gave.
func anyOf(secrets []muster.Secret, value string) bool {
	sum, found := sha256.Sum256([]byte(value)), 0
	for _, s := range secrets {
		want := sha256.Sum256([]byte(s.Reveal()))
		found |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return found == 1
}

// claims is what the token of a task allows: to have one machine looked at for one
// deadline, until it expires. Whoever reads the queue gets no more than that (4-34).
type claims struct {
	Name       string `json:"n"`
	Zone       string `json:"z"`
	Generation int64  `json:"g"`
	Expires    int64  `json:"e"`
}

const tokenPrefix = "task."

// sign makes the token of a task: task.CLAIMS.MAC.
func sign(key muster.Secret, c claims) string {
	text, err := json.Marshal(c)
	if err != nil { // of strings and numbers: it cannot fail
		panic(err)
	}
	body := tokenPrefix + base64.RawURLEncoding.EncodeToString(text)
	return body + "." + base64.RawURLEncoding.EncodeToString(macOf(key, body))
}

func macOf(key muster.Secret, body string) []byte {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte("POST /runner/stop\n" + body)) // good for nothing else
	return mac.Sum(nil)
}

// open reads a task's token if one of the keys made it and it has not expired.
func open(keys []muster.Secret, token string, now time.Time) (c claims, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if !strings.HasPrefix(token, tokenPrefix) || i < len(tokenPrefix) {
		return c, false
	}
	mac, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	if err != nil {
		return c, false
	}
	valid := false
	for _, k := range keys {
		valid = hmac.Equal(mac, macOf(k, token[:i])) || valid
	}
	if !valid {
		return c, false
	}
	text, err := base64.RawURLEncoding.DecodeString(token[len(tokenPrefix):i])
	if err != nil || json.Unmarshal(text, &c) != nil {
		return claims{}, false
	}
	return c, now.Unix() < c.Expires && c.Generation > 0
}
