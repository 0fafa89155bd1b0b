package runner

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 64 << 20

// answerError is an answer that is no success.
type answerError struct {
	status int
	kind   string
	text   string
}

func (e *answerError) Error() string { return fmt.Sprintf("answer %d: %s", e.status, e.text) }

func statusOf(err error) int {
	if e, ok := errors.AsType[*answerError](err); ok {
		return e.status
	}
	return 0
}

// call sends in as JSON and reads the answer into out; both may be nil.
// authorization is the whole header, empty for none. It returns the status of a
// success; every other is an *answerError.
func (r *program) call(ctx context.Context, method, address, authorization string, in, out any) (int, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	return r.send(req, authorization, out)
}

func (r *program) send(req *http.Request, authorization string, out any) (int, error) {
	req.Header.Set("User-Agent", "GitHubActionsRunner-linux-x64/"+Version)
	req.Header.Set("Accept", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return resp.StatusCode, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode >= 300 {
		e := &answerError{status: resp.StatusCode, text: strings.TrimSpace(string(data[:min(len(data), 300)]))}
		var service message.ServiceError
		if json.Unmarshal(data, &service) == nil && service.ErrorMessage != "" {
			e.kind, e.text = service.ErrorKind, service.ErrorMessage
		}
		return resp.StatusCode, e
	}
	if out != nil && resp.StatusCode != http.StatusAccepted && len(data) > 0 {
		if err := json.Unmarshal(data, out); err != nil {
			return resp.StatusCode, fmt.Errorf("read answer of %s: %w", req.URL.Path, err)
		}
	}
	return resp.StatusCode, nil
}

// errRegistrationGone means that the server does not know this runner any more.
var errRegistrationGone = errors.New("the runner registration has been deleted")

// accessToken trades a signed assertion for an access token.
func (r *program) accessToken(ctx context.Context, c *configuration) (string, error) {
	assertion, err := sign(c, time.Now())
	if err != nil {
		return "", err
	}
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.authorizationURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("make token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer message.TokenAnswer
	_, err = r.send(req, "", &answer)
	if e, ok := errors.AsType[*answerError](err); ok && e.status == http.StatusBadRequest {
		var oauth message.OAuthError
		if json.Unmarshal([]byte(e.text), &oauth) == nil && oauth.Error == "invalid_client" {
			return "", errRegistrationGone
		}
	}
	if err != nil {
		return "", fmt.Errorf("get access token: %w", err)
	}
	if answer.AccessToken == "" {
		return "", errors.New("get access token: the answer holds none")
	}
	return answer.AccessToken, nil
}

// sign makes the RS256 assertion of a runner: issuer and subject are its client
// id, the audience is the authorization URL.
func sign(c *configuration, now time.Time) (string, error) {
	claims := map[string]any{
		"iss": c.clientID, "sub": c.clientID, "aud": c.authorizationURL, "jti": newID(),
		"iat": now.Unix(), "nbf": now.Add(-30 * time.Second).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode assertion: %w", err)
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, c.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	return text + "." + enc.EncodeToString(signature), nil
}

// newID returns a random UUID of version 4.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// apiBase is the REST base of a configuration URL: api.github.com for
// github.com, the path api/v3 of any other host.
func apiBase(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch {
	case host == "github.com" || host == "www.github.com":
		return u.Scheme + "://api.github.com"
	case host == "github.localhost" || strings.HasSuffix(host, ".ghe.com") || strings.HasSuffix(host, ".ghe.localhost"):
		return u.Scheme + "://api." + host
	}
	return u.Scheme + "://" + u.Host + "/api/v3"
}
