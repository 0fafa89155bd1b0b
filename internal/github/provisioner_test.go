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
)

const (
	tokenRoute  = "POST /repos/octo-org/app/actions/runners/registration-token"
	infoRoute   = "GET /repos/octo-org/app/actions/runners/23"
	removeRoute = "DELETE /repos/octo-org/app/actions/runners/23"
)

var runnerConfig = github.RunnerConfig{RepoOwner: "octo-org", RepoName: "app", RunnerName: "ci-1", Labels: muster.Labels{"linux", "docker"}}

func TestProvisionerTypes(t *testing.T) { // S1-4 S1-5 S1-6 S1-19
	roundTrip := func(in, out any, want string) {
		t.Helper()
		text, err := json.Marshal(in)
		if err != nil || string(text) != want {
			t.Fatalf("%s, %v; want %s", text, err, want)
		}
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatal(err)
		}
	}
	var config github.RunnerConfig
	roundTrip(runnerConfig, &config, `{"repo_owner":"octo-org","repo_name":"app","runner_name":"ci-1","labels":["linux","docker"]}`)
	if !reflect.DeepEqual(config, runnerConfig) || config.RunnerGroup != "" {
		t.Errorf("%+v", config)
	}
	grouped := runnerConfig
	grouped.RunnerGroup = "big ones"
	roundTrip(grouped, &config, `{"repo_owner":"octo-org","repo_name":"app","runner_name":"ci-1","labels":["linux","docker"],"runner_group":"big ones"}`)
	if !reflect.DeepEqual(config, grouped) {
		t.Errorf("%+v", config)
	}

	registered := github.RunnerRegistration{RunnerID: 23, RunnerName: "ci-1", RegistrationToken: canaryRegist, TokenExpiresAt: time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)}
	var read github.RunnerRegistration
	roundTrip(registered, &read, `{"runner_id":23,"runner_name":"ci-1","registration_token":"***","token_expires_at":"2026-01-01T01:00:00Z"}`)
	if read.RunnerID != 23 || read.RunnerName != "ci-1" || !read.TokenExpiresAt.Equal(registered.TokenExpiresAt) {
		t.Errorf("%+v", read)
	}
	if text := fmt.Sprintf("%v %+v %#v", registered, registered, registered); strings.Contains(text, canaryRegist) {
		t.Errorf("printing shows the token: %s", text)
	}
	// What the fleet was given by others reads whole.
	if err := json.Unmarshal([]byte(`{"registration_token":"`+canaryRegist+`"}`), &read); err != nil || read.RegistrationToken.Reveal() != canaryRegist {
		t.Errorf("%v", err)
	}

	var info github.RunnerInfo
	want := github.RunnerInfo{RunnerID: 23, RunnerName: "ci-1", Status: "online", Busy: true, Labels: muster.Labels{"self-hosted", "linux"}}
	roundTrip(want, &info, `{"runner_id":23,"runner_name":"ci-1","status":"online","busy":true,"labels":["self-hosted","linux"]}`)
	if !reflect.DeepEqual(info, want) {
		t.Errorf("%+v", info)
	}
}

// The provisioner's whole life: three routes, and none besides.
func TestProvisioner(t *testing.T) { // S1-3 S1-7 S1-9 S1-14 S1-15 S1-16
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
	p := github.NewProvisioner(newClient(t, s, withToken(canaryPAT)))
	ctx := t.Context()

	registered, err := p.Register(ctx, runnerConfig, func(_ context.Context, c github.RunnerConfig, token muster.Secret) (int64, error) {
		if c.RunnerName != "ci-1" || token.Reveal() != canaryRegist {
			t.Errorf("%+v with %s", c, token.Reveal())
		}
		return 23, nil
	})
	if err != nil || registered.RunnerID != 23 || registered.RunnerName != "ci-1" || registered.RegistrationToken.Reveal() != canaryRegist || time.Until(registered.TokenExpiresAt) < 50*time.Minute {
		t.Errorf("%+v, %v", registered, err)
	}
	info, err := p.RunnerInfo(ctx, "octo-org", "app", 23)
	if err != nil || info.Status != "online" || !info.Busy || info.RunnerID != 23 || !slices.Equal(info.Labels, muster.Labels{"self-hosted", "X64", "no-gpu"}) {
		t.Errorf("%+v, %v", info, err)
	}
	if err := p.Deregister(ctx, "octo-org", "app", 23); err != nil {
		t.Error(err)
	}
	if want := []string{tokenRoute, infoRoute, removeRoute}; !slices.Equal(s.calls, want) {
		t.Errorf("calls %v", s.calls)
	}
	for _, status := range []string{"offline", "", "sleeping"} { // S1-6: what is not online is offline
		s.on[infoRoute] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, `{"id":23,"status":"`+status+`","busy":false}`)
		}
		if info, err := p.RunnerInfo(ctx, "octo-org", "app", 23); err != nil || info.Status != "offline" || info.Busy {
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
		p := github.NewProvisioner(newClient(t, s, withToken(canaryPAT)))
		for range 4 {
			token, expires, err := p.RegistrationToken(t.Context(), "octo-org", "app")
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

func TestRemoveToken(t *testing.T) {
	s := newStub(t)
	route := "POST /repos/octo-org/app/actions/runners/remove-token"
	s.on[route] = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`)
	}
	c := newClient(t, s, withToken(canaryPAT))
	token, expires, err := c.RemoveToken(t.Context(), repo)
	if err != nil || token.Reveal() != canaryRegist || time.Until(expires) < 50*time.Minute {
		t.Errorf("%s until %s, %v", token, expires, err)
	}
	delete(s.on, route)
	if _, _, err := c.RemoveToken(t.Context(), repo); !errors.Is(err, github.ErrDeregistration) || muster.CodeOf(err) != muster.CodeNotFound {
		t.Error(err)
	}
}

func TestProvisionerErrors(t *testing.T) { // S1-22 S1-23 S1-24 S1-25 S1-107
	ctx := context.Background()
	token := func(p *github.Provisioner) error {
		_, _, err := p.RegistrationToken(ctx, "octo-org", "app")
		return err
	}
	register := func(id int64, err error) func(p *github.Provisioner) error {
		return func(p *github.Provisioner) error {
			_, e := p.Register(ctx, runnerConfig, func(context.Context, github.RunnerConfig, muster.Secret) (int64, error) { return id, err })
			return e
		}
	}
	info := func(p *github.Provisioner) error { _, err := p.RunnerInfo(ctx, "octo-org", "app", 23); return err }
	remove := func(p *github.Provisioner) error { return p.Deregister(ctx, "octo-org", "app", 23) }
	for name, c := range map[string]struct {
		call   func(*github.Provisioner) error
		route  string
		status int // 0: the network is down
		code   muster.Code
		class  any // a pointer to the type that errors.As finds
	}{
		"TokenForbidden":   {token, tokenRoute, 403, muster.CodeForbidden, new(*github.RegistrationTokenError)},
		"TokenNotFound":    {token, tokenRoute, 404, muster.CodeNotFound, new(*github.RegistrationTokenError)},
		"TokenServerError": {token, tokenRoute, 500, muster.CodeUnavailable, new(*github.RegistrationTokenError)},
		"TokenNetwork":     {token, tokenRoute, 0, muster.CodeUnavailable, new(*github.RegistrationTokenError)},
		"RegisterNoToken":  {register(23, nil), tokenRoute, 404, muster.CodeNotFound, new(*github.RegistrationTokenError)},
		"RegisterSSH":      {register(0, errors.New("ssh: handshake failed; config.sh --token "+canaryRegist)), tokenRoute, 201, muster.CodeUnavailable, new(*github.RunnerRegistrationError)},
		"RegisterConfig":   {register(0, muster.Errorf(muster.CodeInvalid, "config.sh ended with 1")), tokenRoute, 201, muster.CodeInvalid, new(*github.RunnerRegistrationError)},
		"RegisterNoID":     {register(0, nil), tokenRoute, 201, muster.CodeUnavailable, new(*github.RunnerRegistrationError)},
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
						answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"2100-01-01T00:00:00Z"}`)
						return
					}
					answer(w, c.status, `{"message":"no `+canaryPAT+` for you"}`)
				}
				var transport http.RoundTripper = s
				if c.status == 0 {
					s.on[c.route] = func(http.ResponseWriter, *http.Request) {}
					transport = &failing{stub: s, on: c.route}
				}
				err := c.call(github.NewProvisioner(newClient(t, transport, withToken(canaryPAT))))
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

func TestProvisionerRefusesBadInput(t *testing.T) { // S1-17 S1-18 S1-20
	s := newStub(t)
	p := github.NewProvisioner(newClient(t, s, withToken(canaryPAT)))
	never := func(context.Context, github.RunnerConfig, muster.Secret) (int64, error) {
		t.Error("a runner was registered")
		return 1, nil
	}
	for _, bad := range []string{"a b", "../x", "$(id)", "a\nb", "", "..", "a/b", "a;b", "a\x00"} {
		_, _, token := p.RegistrationToken(t.Context(), bad, "app")
		_, lookup := p.RunnerInfo(t.Context(), "octo-org", bad, 1)
		for _, err := range []error{token, lookup, p.Deregister(t.Context(), bad, "app", 1)} {
			if muster.CodeOf(err) != muster.CodeInvalid || !errors.Is(err, github.ErrProvisioning) {
				t.Errorf("repository %q: %v", bad, err)
			}
		}
		for field, c := range map[string]github.RunnerConfig{
			"repository": {RepoOwner: "o", RepoName: bad, RunnerName: "n", Labels: muster.Labels{"linux"}},
			"name":       {RepoOwner: "o", RepoName: "r", RunnerName: bad, Labels: muster.Labels{"linux"}},
			"label":      {RepoOwner: "o", RepoName: "r", RunnerName: "n", Labels: muster.Labels{"linux", bad}},
		} {
			if field != "repository" && bad == ".." {
				continue // as a name or a label it is just odd
			}
			if _, err := p.Register(t.Context(), c, never); muster.CodeOf(err) != muster.CodeInvalid {
				t.Errorf("%s %q: %v", field, bad, err)
			}
		}
	}
	for _, group := range []string{"--url", "a\nb"} {
		c := runnerConfig
		c.RunnerGroup = group
		if err := c.Validate(); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("group %q: %v", group, err)
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
	if _, _, err := github.NewProvisioner(c).RegistrationToken(t.Context(), "octo-org", "app"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c.Budget())
	if err != nil || strings.Contains(string(text), canaryPAT) || strings.Contains(string(text), canaryRegist) {
		t.Errorf("%s, %v", text, err)
	}
}
