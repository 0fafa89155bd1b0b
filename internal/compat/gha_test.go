package compat_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/compat"
	"github.com/muster-ci/muster/internal/wire"
)

type launches struct {
	token, job string
	err        error
	inside     chan struct{}
	leave      chan struct{}
}

func (l *launches) GHARunner(_ context.Context, token, job string) (wire.GHARunner, error) {
	if l.inside != nil {
		l.inside <- struct{}{}
		<-l.leave
	}
	if l.inside == nil {
		l.token, l.job = token, job
	}
	return wire.GHARunner{Token: "fresh", URL: "https://github.test/acme", Name: "hpc-1", Labels: "a,b", Ephemeral: true}, l.err
}

func ghaCall(l *launches, log *strings.Builder, method, path string, headers ...string) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	compat.NewGHA(l, []byte(`{"keys":[]}`), slog.New(slog.NewTextHandler(log, nil))).Register(mux)
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// S2-18 S2-19: POST /gha/runner with the launch token alone in Authorization answers 200 {"token": …}.
func TestGHARunner(t *testing.T) {
	for _, header := range []string{"launch-token", "Bearer launch-token"} {
		l := &launches{}
		w := ghaCall(l, &strings.Builder{}, "POST", "/gha/runner", "Authorization", header, "Slurm-Job-Id", "17")
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"token": "fresh",`) || l.token != "launch-token" || l.job != "17" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s, %+v", w.Code, w.Body, l)
		}
	}
	if w := ghaCall(&launches{}, &strings.Builder{}, "GET", "/gha/keys"); w.Code != 200 || w.Body.String() != `{"keys":[]}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ghaCall(&launches{}, &strings.Builder{}, "GET", "/gha/runner"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("%d", w.Code)
	}
}

// S2-9 4-10: each reason has its own status, and never 500, upon which a script would run
// config.sh with nothing.
func TestGHARunnerRefuses(t *testing.T) {
	for _, c := range []struct {
		err   error
		want  int
		retry string
	}{
		{muster.Errorf(muster.CodeInvalid, "x"), 400, ""}, {muster.Errorf(muster.CodeUnauthenticated, "x"), 401, ""},
		{muster.Errorf(muster.CodeForbidden, "x"), 403, ""}, {muster.Errorf(muster.CodeConflict, "x"), 409, ""}, {muster.Errorf(muster.CodeGone, "x"), 410, ""},
		{&muster.Error{Code: muster.CodeUnavailable, Message: "x", RetryAfter: 90 * time.Second}, 503, "90"},
		{errors.New("secret-of-the-database"), 503, "5"}, {fmt.Errorf("wrapped: %w", context.DeadlineExceeded), 503, "5"},
	} {
		log := &strings.Builder{}
		w := ghaCall(&launches{err: c.err}, log, "POST", "/gha/runner", "Authorization", "planted-launch-token", "Slurm-Job-Id", "1")
		if w.Code != c.want || w.Header().Get("Retry-After") != c.retry || strings.Contains(w.Body.String(), "fresh") || strings.Contains(w.Body.String(), "database") {
			t.Errorf("%v: %d, %q, %s", c.err, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if strings.Contains(log.String(), "planted") {
			t.Errorf("the log has the token: %s", log)
		}
	}
	if w := ghaCall(&launches{}, &strings.Builder{}, "POST", "/gha/runner"); w.Code != 401 {
		t.Errorf("without a token: %d", w.Code)
	}
}

// 4-10: a thousand nodes that start at once are told to come again.
func TestGHARunnerIsBounded(t *testing.T) {
	l := &launches{inside: make(chan struct{}), leave: make(chan struct{})}
	mux := http.NewServeMux()
	compat.NewGHA(l, nil, slog.New(slog.DiscardHandler)).Register(mux)
	ask := func() int {
		r := httptest.NewRequest("POST", "/gha/runner", nil)
		r.Header.Set("Authorization", "t")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code
	}
	done := make(chan int, 32)
	for range 32 {
		go func() { done <- ask() }()
	}
	for range 32 {
		<-l.inside
	}
	if got := ask(); got != http.StatusTooManyRequests {
		t.Errorf("one more: %d", got)
	}
	close(l.leave)
	for range 32 {
		if got := <-done; got != 200 {
			t.Errorf("%d", got)
		}
	}
}
