package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/wire"
)

func post(t *testing.T, w *world, method, path, token, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestAgentRoutes(t *testing.T) {
	// The operator's token is nothing to agents, and theirs nothing to operators.
	w := newWorld(t, func(c *api.Config, _ *world) { c.OperatorToken = "operator" })
	resp, body := post(t, w, "POST", wire.BootPath, "boot-token", `{"nonce":"n","agent_version":"v1","newer_member":1}`)
	var boot wire.BootResponse
	if err := json.Unmarshal([]byte(body), &boot); err != nil || resp.StatusCode != 200 || boot.Runner != "r-1" || w.agents.token != "boot-token" || w.agents.boot.Nonce != "n" {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	if resp.Header.Get("Cache-Control") != "no-store" {
		t.Error("a boot answer may be cached") // 4-14
	}
	if resp, body := post(t, w, "POST", wire.ReportPath, "session", `{"seq":1,"phase":"listening"}`); resp.StatusCode != 200 || strings.TrimSpace(body) != `{"command":"drain","reason":"listening"}` {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, _ := post(t, w, "POST", wire.LogPath, "session", `{"offset":7,"data":"aGVsbG8="}`); resp.StatusCode != 200 || w.agents.log.Offset != 7 || string(w.agents.log.Data) != "hello" {
		t.Errorf("%d %+v", resp.StatusCode, w.agents.log)
	}
}

// 4-10: the codes of the agent's protocol, and never 500 for what a caller sent.
func TestAgentStatuses(t *testing.T) {
	for _, tc := range []struct {
		situation  string
		err        error
		want       int
		code       string
		retryAfter string
	}{
		{"Invalid", muster.Errorf(muster.CodeInvalid, "why"), 400, "invalid", ""},
		{"Forged", muster.Errorf(muster.CodeUnauthenticated, "why"), 401, "unauthenticated", ""},
		{"Elsewhere", muster.Errorf(muster.CodeForbidden, "why"), 403, "forbidden", ""},
		{"NotFound", muster.Errorf(muster.CodeNotFound, "why"), 404, "not_found", ""},
		{"Used", muster.Errorf(muster.CodeConflict, "why"), 409, "conflict", ""},
		{"Exists", muster.Errorf(muster.CodeExists, "why"), 409, "exists", ""},
		{"Busy", muster.Errorf(muster.CodeBusy, "why"), 409, "busy", ""},
		{"NoLongerNeeded", muster.Errorf(muster.CodeGone, "why"), 410, "gone", ""},
		{"Later", &muster.Error{Code: muster.CodeUnavailable, Message: "why", RetryAfter: 90 * time.Second}, 503, "unavailable", "90"},
		{"LaterUnknown", muster.Errorf(muster.CodeUnavailable, "why"), 503, "unavailable", "5"},
		{"Deadline", context.DeadlineExceeded, 503, "unavailable", "5"},
		{"Internal", errors.New("planted detail"), 500, "internal", ""},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			w := newWorld(t, func(_ *api.Config, w *world) { w.agents.err = tc.err })
			for _, path := range []string{wire.BootPath, wire.ReportPath, wire.LogPath} {
				resp, body := post(t, w, "POST", path, "planted-token", "{}")
				var refusal wire.Error
				if err := json.Unmarshal([]byte(body), &refusal); err != nil || resp.StatusCode != tc.want || refusal.Code != tc.code || refusal.Message == "" || resp.Header.Get("Retry-After") != tc.retryAfter {
					t.Errorf("%s: %d %s Retry-After %q %v", path, resp.StatusCode, body, resp.Header.Get("Retry-After"), err)
				}
				if strings.Contains(body, "planted") || strings.Contains(w.log.String(), "planted-token") { // 4-37
					t.Errorf("%s: %s\n%s", path, body, w.log)
				}
			}
		})
	}
	for _, tc := range []struct {
		situation, method, token, body string
		want                           int
	}{
		{"Get", "GET", "t", "", 405},
		{"NoToken", "POST", "", "{}", 401},
		{"NotJSON", "POST", "t", "{", 400},
		{"WrongType", "POST", "t", `[1]`, 400},
		{"Empty", "POST", "t", "", 400},
		{"TooLarge", "POST", "t", `{"nonce":"` + strings.Repeat("x", 1<<20) + `","data":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
	} {
		t.Run(tc.situation, func(t *testing.T) {
			w := newWorld(t, nil)
			for _, path := range []string{wire.BootPath, wire.ReportPath, wire.LogPath} {
				resp, body := post(t, w, tc.method, path, tc.token, tc.body)
				if resp.StatusCode != tc.want || !strings.Contains(body, `"message":`) {
					t.Errorf("%s: %d %s", path, resp.StatusCode, body)
				}
			}
		})
	}
	t.Run("Panic", func(t *testing.T) {
		w := newWorld(t, func(_ *api.Config, w *world) { w.agents.panics = "planted" })
		if resp, body := post(t, w, "POST", wire.BootPath, "t", "{}"); resp.StatusCode != 500 || strings.Contains(body, "planted") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	})
}

// A burst of machines is asked to come again rather than left to time out (4-10).
func TestAgentBurst(t *testing.T) {
	w := newWorld(t, func(_ *api.Config, w *world) {
		w.agents.hold, w.agents.entered = make(chan struct{}), make(chan struct{})
	})
	const most = 64
	done := make(chan int, most)
	for range most {
		go func() {
			req, err := http.NewRequestWithContext(t.Context(), "POST", w.url+wire.BootPath, strings.NewReader("{}"))
			if err != nil {
				done <- 0
				return
			}
			req.Header.Set("Authorization", "Bearer t")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				done <- 0
				return
			}
			resp.Body.Close()
			done <- resp.StatusCode
		}()
	}
	for range most {
		<-w.agents.entered
	}
	if resp, body := post(t, w, "POST", wire.BootPath, "t", "{}"); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	close(w.agents.hold)
	for range most {
		if status := <-done; status != 200 {
			t.Errorf("status %d", status)
		}
	}
}
