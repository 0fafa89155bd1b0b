package github_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/wire"
)

const (
	tokenRoute   = "POST /repos/octo-org/app/actions/runners/registration-token"
	infoRoute    = "GET /repos/octo-org/app/actions/runners/23"
	removeRoute  = "DELETE /repos/octo-org/app/actions/runners/23"
	repoJITRoute = "POST /repos/octo-org/app/actions/runners/generate-jitconfig"
)

// What a runner registers with, what came of it, and what GitHub says of a runner: the
// fields that the rows name, and no token where something is printed or encoded.
func TestShapesOfARegistration(t *testing.T) { // S1-4 S1-5 S1-6 S1-19
	// S1-4: to the machine, with the runner's name beside it.
	sent := wire.BootResponse{Name: "ci-1", Registration: &wire.Registration{
		URL: "https://github.com/octo-org/app", Token: canaryRegist, Labels: []string{"linux", "docker"}, RunnerGroup: "big ones", Ephemeral: true,
	}}
	text, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	var read wire.BootResponse
	if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read, sent) {
		t.Errorf("%+v, %v", read, err)
	}
	sent.Registration.RunnerGroup = "" // none, by default
	if text, err = json.Marshal(sent); err != nil || strings.Contains(string(text), "runner_group") {
		t.Errorf("%s, %v", text, err)
	}
	// S1-5
	registered := muster.TokenRegistration{URL: sent.Registration.URL, Token: canaryRegist, ExpiresAt: time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)}
	text, err = json.Marshal(registered)
	if err != nil || strings.Contains(string(text)+fmt.Sprintf("%v %+v %#v", registered, registered, registered), canaryRegist) {
		t.Errorf("printing or encoding shows the token: %s, %v", text, err)
	}
	if registered.Token.Reveal() != canaryRegist {
		t.Error("the token is lost")
	}
}

// The whole life of a runner that registers itself: three routes, and none besides.
func TestRegistration(t *testing.T) { // S1-3 S1-7 S1-9 S1-14 S1-15 S1-16
	s := newStub(t)
	s.on[tokenRoute] = func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+canaryPAT {
			t.Errorf("authorization %q", got)
		}
		answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`)
	}
	// The runner object of GitHub's own documentation.
	s.on[infoRoute] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"id":23,"name":"ci-1","os":"macos","status":"online","busy":true,"ephemeral":false,"runner_group_id":1,
			"labels":[{"id":5,"name":"self-hosted","type":"read-only"},{"id":7,"name":"X64","type":"read-only"},{"id":21,"name":"no-gpu","type":"custom"}]}`)
	}
	s.on[removeRoute] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
	c := newClient(t, s, withToken(canaryPAT))
	ctx := t.Context()

	registered, err := c.TokenRegistration(ctx, repo, 0)
	if err != nil || !strings.HasSuffix(registered.URL, "/octo-org/app") || registered.Token.Reveal() != canaryRegist || time.Until(registered.ExpiresAt) < 50*time.Minute {
		t.Errorf("%+v, %v", registered, err)
	}
	info, err := c.Runner(ctx, repo, 23)
	if err != nil || !info.Online || !info.Busy || info.ID != 23 || info.Name != "ci-1" || !slices.Equal(info.Labels, muster.Labels{"self-hosted", "X64", "no-gpu"}) {
		t.Errorf("%+v, %v", info, err)
	}
	if err := c.RemoveRunner(ctx, repo, 23); err != nil {
		t.Error(err)
	}
	if want := []string{tokenRoute, infoRoute, removeRoute}; !slices.Equal(s.calls, want) {
		t.Errorf("calls %v", s.calls)
	}
	for _, status := range []string{"offline", "", "sleeping"} { // S1-6: what is not online is offline
		s.on[infoRoute] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `{"id":23,"status":"`+status+`","busy":false}`)
		}
		if info, err := c.Runner(ctx, repo, 23); err != nil || info.Online || info.Busy {
			t.Errorf("%q: %+v, %v", status, info, err)
		}
	}
}

func TestRegistrationTokenIsRenewedBeforeItsEnd(t *testing.T) { // S1-8
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		n := 0
		s.on[tokenRoute] = func(w http.ResponseWriter, _ *http.Request) {
			n++
			answer(w, 201, fmt.Sprintf(`{"token":"LLBF3JGZDX3P5PMEXLND6TS6FCWO%d","expires_at":%q}`, n, time.Now().Add(time.Hour).Format(time.RFC3339)))
		}
		c := newClient(t, s, withToken(canaryPAT))
		for range 4 {
			token, expires, err := c.RegistrationToken(t.Context(), repo)
			if err != nil || token.Reveal() != fmt.Sprint("LLBF3JGZDX3P5PMEXLND6TS6FCWO", n) || time.Until(expires) < 5*time.Minute {
				t.Fatalf("%s until %s, %v", token.Reveal(), expires, err)
			}
			time.Sleep(61 * time.Minute)
		}
		if n != 4 {
			t.Errorf("%d tokens were asked for in four hours", n)
		}
	})
}

func TestRegistrationErrors(t *testing.T) { // S1-22 S1-23 S1-24 S1-25 S1-107
	ctx := context.Background()
	token := func(c *github.Client) error { _, err := c.TokenRegistration(ctx, repo, 0); return err }
	register := func(c *github.Client) error {
		_, err := c.GenerateJIT(ctx, repo, "ci-1", 1, muster.Labels{"linux"})
		return err
	}
	info := func(c *github.Client) error { _, err := c.Runner(ctx, repo, 23); return err }
	remove := func(c *github.Client) error { return c.RemoveRunner(ctx, repo, 23) }
	for name, c := range map[string]struct {
		call   func(*github.Client) error
		route  string
		status int // 0: the network is down
		code   muster.Code
		class  any // a pointer to the type that errors.As finds
	}{
		"TokenForbidden":   {token, tokenRoute, 403, muster.CodeForbidden, new(*github.RegistrationTokenError)},
		"TokenNotFound":    {token, tokenRoute, 404, muster.CodeNotFound, new(*github.RegistrationTokenError)},
		"TokenServerError": {token, tokenRoute, 500, muster.CodeUnavailable, new(*github.RegistrationTokenError)},
		"TokenNetwork":     {token, tokenRoute, 0, muster.CodeUnavailable, new(*github.RegistrationTokenError)},
		"RegisterRefused":  {register, repoJITRoute, 403, muster.CodeForbidden, new(*github.RunnerRegistrationError)},
		"RegisterNoID":     {register, repoJITRoute, 201, muster.CodeUnavailable, new(*github.RunnerRegistrationError)},
		"RegisterNetwork":  {register, repoJITRoute, 0, muster.CodeUnavailable, new(*github.RunnerRegistrationError)},
		"InfoGone":         {info, infoRoute, 404, muster.CodeNotFound, new(*github.RunnerProvisioningError)},
		"InfoServerError":  {info, infoRoute, 502, muster.CodeUnavailable, new(*github.RunnerProvisioningError)},
		"RemoveGone":       {remove, removeRoute, 404, muster.CodeNotFound, new(*github.RunnerDeregistrationError)},
		"RemoveBusy":       {remove, removeRoute, 422, muster.CodeBusy, new(*github.RunnerDeregistrationError)},
		"RemoveError":      {remove, removeRoute, 500, muster.CodeUnavailable, new(*github.RunnerDeregistrationError)},
		"RemoveNetwork":    {remove, removeRoute, 0, muster.CodeUnavailable, new(*github.RunnerDeregistrationError)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t)
				s.on[c.route] = func(w http.ResponseWriter, _ *http.Request) {
					if c.status == 201 {
						answer(w, 201, `{"encoded_jit_config":"`+canaryRegist+`"}`)
						return
					}
					answer(w, c.status, `{"message":"no `+canaryPAT+` for you"}`)
				}
				var transport http.RoundTripper = s
				if c.status == 0 {
					s.on[c.route] = func(http.ResponseWriter, *http.Request) {}
					transport = &failing{stub: s, on: c.route}
				}
				err := c.call(newClient(t, transport, withToken(canaryPAT)))
				if muster.CodeOf(err) != c.code {
					t.Fatalf("%v of class %s", err, muster.CodeOf(err))
				}
				var base *github.RunnerProvisioningError
				if !errors.As(err, c.class) || !errors.As(err, &base) || !errors.Is(err, github.ErrProvisioning) {
					t.Fatalf("%v is no %T", err, c.class)
				}
				status := c.status
				if status == 201 {
					status = 0
				}
				if base.Status != status {
					t.Errorf("status %d", base.Status)
				}
				if status != 0 && (!strings.Contains(err.Error(), fmt.Sprint(status)) || !strings.Contains(err.Error(), "octo-org/app")) {
					t.Errorf("%v does not tell the status and the repository", err)
				}
				for _, other := range []any{new(*github.RegistrationTokenError), new(*github.RunnerRegistrationError), new(*github.RunnerDeregistrationError)} {
					if reflect.TypeOf(other) != reflect.TypeOf(c.class) && errors.As(err, other) {
						t.Errorf("%v is also a %T", err, other)
					}
				}
				if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, canaryPAT) || strings.Contains(text, canaryRegist) {
					t.Errorf("the error shows a token: %s", text)
				}
			})
		})
	}
}

func TestRegistrationRefusesBadInput(t *testing.T) { // S1-17 S1-18 S1-20
	s := newStub(t)
	c := newClient(t, s, withToken(canaryPAT))
	scoped := func(owner, name string) muster.Scope {
		return muster.Scope{Kind: muster.ScopeRepository, Owner: owner, Repo: name}
	}
	for _, bad := range []string{"a b", "../x", "$(id)", "a\nb", "", "..", "a/b", "a;b", "a\x00"} {
		_, _, token := c.RegistrationToken(t.Context(), scoped(bad, "app"))
		_, whole := c.TokenRegistration(t.Context(), scoped(bad, "app"), 0)
		_, lookup := c.Runner(t.Context(), scoped("octo-org", bad), 1)
		for _, err := range []error{token, whole, lookup, c.RemoveRunner(t.Context(), scoped(bad, "app"), 1)} {
			if muster.CodeOf(err) != muster.CodeInvalid || !errors.Is(err, github.ErrProvisioning) {
				t.Errorf("repository %q: %v", bad, err)
			}
		}
		if bad == ".." {
			continue // as a name or a label it is just odd
		}
		_, name := c.GenerateJIT(t.Context(), repo, bad, 1, muster.Labels{"linux"})
		_, label := c.GenerateJIT(t.Context(), repo, "n", 1, muster.Labels{"linux", bad})
		for _, err := range []error{name, label} {
			if muster.CodeOf(err) != muster.CodeInvalid || !errors.Is(err, github.ErrRegistration) {
				t.Errorf("name or label %q: %v", bad, err)
			}
		}
	}
	if len(s.calls) != 0 {
		t.Errorf("requests were made: %v", s.calls)
	}
	for _, token := range []muster.Secret{"short", "two words and more", "line\nend-of-a-token"} {
		if _, err := github.New(github.Config{Token: token}); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("token %q: %v", token.Reveal(), err)
		}
	}
	if _, err := github.New(github.Config{}); muster.CodeOf(err) != muster.CodeInvalid || !strings.Contains(err.Error(), "token") {
		t.Errorf("no token: %v", err)
	}
	if _, err := github.New(github.Config{Token: canaryPAT, URL: "http://ghes.example"}); muster.CodeOf(err) != muster.CodeInvalid || !strings.Contains(err.Error(), "https") {
		t.Errorf("plain http: %v", err)
	}
}

// A Client and what it has got are in memory only: the package has no way to
// write a file, and what it answers encodes without the token.
func TestNothingIsStored(t *testing.T) { // S1-19 S1-100
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{`"os"`, `"io/ioutil"`, `"database/sql"`, `"syscall"`} {
			if strings.Contains(string(text), "\n\t"+word) {
				t.Errorf("%s imports %s", name, word)
			}
		}
	}
	s := newStub(t)
	s.on[tokenRoute] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"2100-01-01T00:00:00Z"}`)
	}
	c := newClient(t, s, withToken(canaryPAT))
	if _, _, err := c.RegistrationToken(t.Context(), repo); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c.Budget())
	if err != nil || strings.Contains(string(text), canaryPAT) || strings.Contains(string(text), canaryRegist) {
		t.Errorf("%s, %v", text, err)
	}
}
